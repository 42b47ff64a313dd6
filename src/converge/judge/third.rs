//! The records of a peer, as long as some other peer may not have seen them.

use std::collections::VecDeque;

use crate::command::{Catalog, Effects, for_each_in};
use crate::converge::recent::Write;
use crate::converge::table::Table;
use crate::model::{Cursor, Record};

/// The most bytes of records of one peer that are kept: those of a round trip, or of some minutes while
/// a site is away. Beyond, a flush or a swap that had not seen what is forgotten has the sites merged.
const MAX_BYTES: usize = 32 << 20;

/// What of a peer is remembered for the sake of third sites.
#[derive(Debug, Default)]
pub(super) struct Third {
    /// The records themselves, by place: a write of whole databases asks which keys they have written.
    records: VecDeque<Kept>,
    bytes: usize,
    /// Up to where they are forgotten, or were never known.
    forgotten: Cursor,
    /// Up to where they are not known yet: they come once more.
    unknown: Option<Unknown>,
}

/// Records of which it is not known yet what they were.
#[derive(Debug)]
struct Unknown {
    upto: Cursor,
    /// Up to where any key may have been written, apart from them.
    before: Cursor,
}

/// A record that is remembered.
#[derive(Debug)]
struct Kept {
    /// Where it ends in its origin's history.
    at: Cursor,
    /// Where it has come back.
    here: Cursor,
    record: Record,
}

impl Third {
    /// A record of the peer has come back `here`, and ends at this place in its history.
    pub(super) fn note(
        &mut self,
        table: &Table,
        catalog: &Catalog,
        effects: &mut Effects,
        (record, at): (&Record, Cursor),
        here: Cursor,
    ) {
        effects.clear();
        let scanned = for_each_in(&record.commands, record.db, |command, db| {
            effects.add(catalog, command, db, |_, _| true);
        });
        debug_assert!(scanned.is_ok(), "the applier has read it");
        let hlc = record.hlc;
        let write = |touch| Write { touch, at, hlc };
        table.note(effects.touches.drain(..).map(write));
        for whole in effects.wholes.drain(..) {
            table.note_whole(whole, at, hlc);
        }
        for made in effects.made.drain(..) {
            table.note_made(&made, at);
        }
        self.bytes += record.commands.len();
        let record = record.clone();
        self.records.push_back(Kept { at, here, record });
        while self.bytes > MAX_BYTES {
            self.forget_first();
        }
    }

    /// What the peer has written up to here is not known.
    pub(super) fn skip(&mut self, table: &Table, upto: Cursor) {
        table.note_all_written(upto);
        self.forgotten = self.forgotten.max(upto);
    }

    /// What the peer has written up to here is not known yet.
    pub(super) fn wait(&mut self, table: &Table, upto: Cursor) {
        let before = match self.unknown.take() {
            Some(known) => known.before,
            None => table.all_written(),
        };
        table.note_all_written(upto);
        self.unknown = Some(Unknown { upto, before });
    }

    /// All records up to here have been noted.
    pub(super) fn known(&mut self, table: &Table, upto: Cursor) {
        if let Some(known) = self.unknown.take_if(|unknown| unknown.upto <= upto) {
            table.update(|all| {
                if all.written == known.upto {
                    all.written = known.before;
                }
            });
        }
    }

    /// Every other peer has seen everything up to here.
    pub(super) fn forget(&mut self, table: &Table, upto: Cursor) {
        table.forget(upto);
        while self.records.front().is_some_and(|kept| kept.at <= upto) {
            self.forget_first();
        }
    }

    /// Those that a site had not seen; none when some are not known: they are forgotten, or have not come
    /// once more yet, or a copy has brought what they did.
    pub(super) fn since(
        &self,
        table: &Table,
        seen: Cursor,
    ) -> Option<impl Iterator<Item = &Record>> {
        let unseen = self.records.iter().filter(move |kept| kept.at > seen);
        let unknown = self.forgotten.max(table.all_written());
        (seen >= unknown).then_some(unseen.map(|kept| &kept.record))
    }

    /// Where the oldest that is remembered has come back.
    pub(super) fn oldest(&self) -> Option<Cursor> {
        self.records.front().map(|kept| kept.here)
    }

    fn forget_first(&mut self) {
        if let Some(kept) = self.records.pop_front() {
            self.bytes = self.bytes.saturating_sub(kept.record.commands.len());
            self.forgotten = self.forgotten.max(kept.at);
        }
    }
}

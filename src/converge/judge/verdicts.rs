//! What the judge has found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{Act, Catalog, Whole, for_each_in};
use crate::model::{
    Conflict, ConflictKind, Cursor, Hlc, Judgement, Key, Record, Seen, SiteId, Winner, is_reserved,
};

/// What becomes of the records that were judged.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// For the journal.
    pub notes: Vec<Judgement>,
    /// Records of peers that have come back, by place in the peer's history: for the journal, where there
    /// are third sites.
    pub foreign: Vec<(SiteId, Cursor, Record)>,
    /// Writes of whole databases that met writes of ours.
    pub overruns: Vec<Overrun>,
    /// Conflicts that were found, counted.
    pub found: BTreeMap<(SiteId, ConflictKind, Winner), u64>,
    /// The first of them, some thousand at most.
    pub told: Vec<(SiteId, Conflict)>,
    /// Keys that have their right value again: the later stamp of the writes that had met.
    pub mended: Vec<(SiteId, Hlc)>,
}

/// The most conflicts of one turn that are told in full: more than a person reads, or a log takes.
const MAX_TOLD: usize = 1000;

impl Verdicts {
    /// Adds what was found later.
    pub fn append(&mut self, mut later: Self) {
        self.notes.append(&mut later.notes);
        self.foreign.append(&mut later.foreign);
        self.overruns.append(&mut later.overruns);
        for (what, count) in later.found {
            *self.found.entry(what).or_default() += count;
        }
        self.told.append(&mut later.told);
        self.mended.append(&mut later.mended);
    }

    pub(super) fn find(&mut self, site: &SiteId, conflict: Conflict) {
        let count = (site.clone(), conflict.kind, conflict.winner);
        *self.found.entry(count).or_default() += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push((site.clone(), conflict));
        }
    }
}

/// A write of whole databases that had not seen writes of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Whose it is.
    pub origin: SiteId,
    /// What it was.
    pub whole: Whole,
    /// What it had seen.
    pub seen: Arc<Seen>,
    /// When it was done.
    pub hlc: Hlc,
    /// What third sites had written here that it had not seen.
    pub third: Vec<(SiteId, Record)>,
    /// Whether the arbiter is asked, whatever the right order is.
    pub any_order: bool,
}

impl Overrun {
    /// Whether a write of a site that it had not seen is now in the wrong order with it.
    #[must_use]
    pub fn is_wrong(&self, site: &SiteId, hlc: Hlc) -> bool {
        match self.whole {
            _ if self.any_order => true,
            // It comes before every other write.
            Whole::Flush(_) | Whole::Unknown => true,
            Whole::Swap(..) => (hlc, site) > (self.hlc, &self.origin),
        }
    }

    /// The keys that such a write has made wrong.
    pub fn add_keys(&self, catalog: &Catalog, record: &Record, keys: &mut BTreeSet<Key>) {
        let scanned = for_each_in(&record.commands, record.db, |command, db| {
            // What was made of keys that are flushed or swapped is wrong in whichever database.
            let mut is_derived = false;
            if catalog.derives(command) {
                let look = |db, _: &[u8], _| is_derived |= self.whole.has(db);
                catalog.for_each_key(command, db, look);
            }
            catalog.for_each_key(command, db, |db, name, act| {
                let counts = act != Act::Read && act != Act::Delete && !is_reserved(name);
                if counts && (is_derived || self.whole.has(db)) {
                    let name = Bytes::copy_from_slice(name);
                    keys.extend(self.whole.partner(db).map(|db| (db, name.clone())));
                    keys.insert((db, name));
                }
            });
        });
        debug_assert!(scanned.is_ok(), "it was read before");
    }
}

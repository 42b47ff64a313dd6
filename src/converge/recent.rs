//! The writing side of the table: the writes of one history, until every peer has seen them.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::log::{Did, Log};
use super::table::{All, DidAll, Table};
use crate::command::{self, Act, Kind, Touch, Whole};
use crate::model::{Cursor, Hlc, Key};

/// Of all that may be remembered, so many parts of [`PARTS`] are left when there are too many: most of what
/// is forgotten at once would be forgotten soon, and what comes next has room.
const LEFT_PARTS: usize = 3;
/// See [`LEFT_PARTS`].
const PARTS: usize = 4;
/// The most flushes and swaps remembered: more databases are not in use where these are in conflict.
pub(super) const MAX_WHOLES: usize = 64;

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any 64 bits of the hash will do"
        )]
        let low = hash as u64;
        self.0 = low;
    }
}

/// How the maps of hashes are hashed.
pub(super) type Hashed = BuildHasherDefault<PassThrough>;

/// The writes of one history, as far as they are remembered.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// What holds for every key.
    pub all: All,
    /// What was done to keys and elements.
    pub log: Log,
    /// What was made of keys.
    pub made: MadeOf,
    /// Up to where everything is forgotten.
    forgotten: Cursor,
}

/// What was made of keys, or with them, by commands that write other keys.
#[derive(Debug, Default)]
pub(super) struct MadeOf {
    by_hash: HashMap<u128, VecDeque<Made>, Hashed>,
    /// Each once for each, the earliest first.
    order: VecDeque<(Cursor, u128)>,
}

/// Keys that a command has written from others.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub at: Cursor,
    /// Whether a later command of the same record has renewed or moved the key.
    pub is_renewed: bool,
    pub keys: Arc<[Key]>,
}

impl MadeOf {
    /// What was made of a key, the earliest first.
    pub(super) fn of(&self, hash: u128) -> impl Iterator<Item = &Made> {
        self.by_hash.get(&hash).into_iter().flatten()
    }

    fn note(&mut self, hash: u128, made: Made) {
        self.order.push_back((made.at, hash));
        self.by_hash.entry(hash).or_default().push_back(made);
    }

    fn first(&self) -> Option<Cursor> {
        self.order.front().map(|(at, _)| *at)
    }

    fn forget_first(&mut self) {
        if let Some((_, hash)) = self.order.pop_front()
            && let Some(made) = self.by_hash.get_mut(&hash)
        {
            made.pop_front();
            if made.is_empty() {
                self.by_hash.remove(&hash);
            }
        }
    }
}

impl Writes {
    /// How many keys and elements are remembered, once for each kind of act.
    pub(super) fn len(&self) -> usize {
        self.log.len() + self.made.order.len()
    }

    /// Where the last one ends.
    pub(super) fn last(&self) -> Option<Cursor> {
        let made = self.made.order.back().map(|(at, _)| *at);
        self.log.newest().max(made)
    }

    /// Forgets all that ends up to here.
    fn forget(&mut self, upto: Cursor) {
        self.log.forget(upto);
        while self.made.first().is_some_and(|at| at <= upto) {
            self.made.forget_first();
        }
    }

    /// Makes sure that there is room for one more: if not, forgets a part, the oldest first. Whoever has not
    /// seen that must take it that any key was written.
    fn make_room(&mut self, most: usize) {
        if self.len() < most {
            return;
        }
        let left = most / PARTS * LEFT_PARTS;
        let written = self.log.keep(left.saturating_sub(self.made.order.len()));
        let excess = self.made.order.len().checked_sub(left);
        let made = excess.and_then(|excess| self.made.order.get(excess));
        let upto = written.max(made.map(|(at, _)| *at));
        if let Some(upto) = upto {
            self.all.written = self.all.written.max(upto);
            self.forget(upto);
        }
    }
}

/// One of our writes, as the table remembers it: a touch, and where and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    /// What is done, and to what.
    pub touch: Touch,
    /// Where the record ends.
    pub at: Cursor,
    /// When it was read.
    pub hlc: Hlc,
}

/// The writing side: only the intake's.
impl Table {
    /// Keys and elements were written, the earliest first.
    pub(super) fn note(&self, written: impl IntoIterator<Item = Write>) {
        let mut writes = self.writes();
        for Write { touch, at, hlc } in written {
            let Touch { act, kind, .. } = touch;
            let did = Did { act, kind, at, hlc };
            for hash in std::iter::once(touch.key).chain(touch.element) {
                writes.make_room(self.most);
                writes.log.note(hash, did);
            }
        }
    }

    /// A command has written keys from others.
    pub(super) fn note_made(&self, made: &command::Made, at: Cursor) {
        let mut writes = self.writes();
        for hash in &made.from {
            writes.make_room(self.most);
            let made = Made {
                at,
                is_renewed: made.renewed.contains(hash),
                keys: Arc::clone(&made.keys),
            };
            writes.made.note(*hash, made);
        }
    }

    /// Any key may have been written.
    pub(super) fn note_everything(&self, at: Cursor) {
        self.note_all_written(at);
        self.forget(at);
    }

    /// Keys were written that were not named.
    pub(super) fn note_whole(&self, what: Whole, at: Cursor, hlc: Hlc) {
        let act = match what {
            Whole::Unknown => return self.note_everything(at),
            Whole::Flush(_) => Act::Delete,
            Whole::Swap(..) => Act::Write,
        };
        let kind = Kind::Other;
        let did = Did { act, kind, at, hlc };
        let are_many = {
            let wholes = &mut self.writes().all.wholes;
            wholes.retain(|known| known.what != what);
            wholes.push(DidAll { what, did });
            wholes.len() > MAX_WHOLES
        };
        if are_many {
            self.note_everything(at);
        }
    }

    /// Every peer has seen everything up to `upto`.
    pub(super) fn forget(&self, upto: Cursor) {
        let mut writes = self.writes();
        if upto <= writes.forgotten {
            return;
        }
        writes.forgotten = upto;
        writes.all.wholes.retain(|whole| whole.did.at > upto);
        writes.forget(upto);
    }
}

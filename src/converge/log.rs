//! The writes of one history, found by the hash of what they wrote.
//!
//! A ring of entries in the order of the history, and per kind of hash the last entry of it; each
//! entry names the one of its kind before it. To note a write is to append an entry and to name it,
//! to forget the first writes is to move the ring's begin, and neither depends on how many there
//! are. What is asked for and was not written costs one look at the last of its kind.

use std::collections::VecDeque;

use crate::command::{Act, Kind};
use crate::model::{Cursor, Hlc};

/// The fewest kinds of hashes that are told apart; in memory that a processor has at hand.
const MIN_KINDS: usize = 1 << 14;
/// Kinds for each entry, at least: few kinds that were not asked for are looked at.
const KINDS_EACH: usize = 2;
/// The fewest entries for which memory is kept; that of more is needed in unusual moments only.
const MIN_KEPT: usize = 1 << 12;
/// Memory is given back when no more than this part of it is used.
const LEAST_USED: usize = 8;

/// The last time that something was done to a key or an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Did {
    pub act: Act,
    pub kind: Kind,
    pub at: Cursor,
    pub hlc: Hlc,
}

/// Of each key and element, and of each act on it, the last.
#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// The number of the first entry. Numbers begin anew behind the last one.
    first: u32,
    /// Of each kind of hash, the number of the last entry; of one that is forgotten, any.
    last: Box<[u32]>,
}

#[derive(Debug)]
struct Entry {
    hash: u128,
    did: Did,
    /// The number of the one of the same kind before it, which may be forgotten.
    before: u32,
    /// The same was done to the same later: this one is in no chain.
    is_past: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 0,
            last: vec![0; MIN_KINDS].into(),
        }
    }
}

impl Log {
    /// How many entries there are; also those of what was done again.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where the first entry ends.
    pub(super) fn first(&self) -> Option<Cursor> {
        self.entries.front().map(|entry| entry.did.at)
    }

    /// Where the last entry ends.
    pub(super) fn last(&self) -> Option<Cursor> {
        self.entries.back().map(|entry| entry.did.at)
    }

    /// What was done to a key or an element: of each act, the last.
    pub(super) fn of(&self, hash: u128) -> impl Iterator<Item = &Did> {
        let mut next = self.last_of(hash);
        let chain = std::iter::from_fn(move || {
            let entry = self.entries.get(next?)?;
            next = self.place(entry.before);
            Some(entry)
        });
        chain.filter(move |e| e.hash == hash).map(|e| &e.did)
    }

    /// Something was done to a key or an element, the last of what was done.
    pub(super) fn note(&mut self, hash: u128, did: Did) {
        if self.entries.len() * KINDS_EACH >= self.last.len() {
            self.link(self.last.len() * 2);
        }
        self.supersede(hash, did);
        let before = self.number(self.last_of(hash));
        let number = self.number(Some(self.entries.len()));
        let is_past = false;
        self.entries.push_back(Entry {
            hash,
            did,
            before,
            is_past,
        });
        self.set_last(hash, number);
    }

    /// Forgets the first entry.
    pub(super) fn forget_first(&mut self) {
        if self.entries.pop_front().is_some() {
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Gives back memory that is hardly used.
    pub(super) fn shrink(&mut self) {
        let kept = (self.entries.capacity() / 2).max(MIN_KEPT);
        if self.entries.capacity() > MIN_KEPT && self.entries.len() <= kept * 2 / LEAST_USED {
            self.entries.shrink_to(kept);
            self.link((kept * KINDS_EACH).next_power_of_two().max(MIN_KINDS));
        }
    }

    /// Forgets what was done again later.
    pub(super) fn compact(&mut self) {
        self.entries.retain(|entry| !entry.is_past);
        self.link(self.last.len());
    }

    /// Takes the entry of the same act on the same out of its chain.
    fn supersede(&mut self, hash: u128, did: Did) {
        let mut behind = None;
        let mut next = self.last_of(hash);
        while let Some(place) = next
            && let Some(entry) = self.entries.get(place)
        {
            next = self.place(entry.before);
            let same = (entry.did.act, entry.did.kind) == (did.act, did.kind);
            if !same || entry.hash != hash {
                behind = Some(place);
                continue;
            }
            let before = self.number(next);
            if let Some(entry) = self.entries.get_mut(place) {
                entry.is_past = true;
            }
            match behind.and_then(|place| self.entries.get_mut(place)) {
                Some(behind) => behind.before = before,
                None => self.set_last(hash, before),
            }
            return;
        }
    }

    /// Tells so many kinds apart from now on.
    fn link(&mut self, kinds: usize) {
        self.last = vec![self.number(None); kinds].into();
        for place in 0..self.entries.len() {
            let Some(entry) = self.entries.get(place).filter(|entry| !entry.is_past) else {
                continue;
            };
            let hash = entry.hash;
            let before = self.number(self.last_of(hash));
            if let Some(entry) = self.entries.get_mut(place) {
                entry.before = before;
            }
            self.set_last(hash, self.number(Some(place)));
        }
    }

    /// Where the last entry of a hash's kind is.
    fn last_of(&self, hash: u128) -> Option<usize> {
        let number = self.last.get(kind(hash, self.last.len()))?;
        self.place(*number)
    }

    fn set_last(&mut self, hash: u128, number: u32) {
        let kind = kind(hash, self.last.len());
        if let Some(last) = self.last.get_mut(kind) {
            *last = number;
        }
    }

    /// Where the entry with a number is, if it is not forgotten.
    fn place(&self, number: u32) -> Option<usize> {
        let place = number.wrapping_sub(self.first) as usize;
        (place < self.entries.len()).then_some(place)
    }

    /// The number of the entry at a place; without one, that of the last one that is forgotten.
    fn number(&self, place: Option<usize>) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "there are fewer than 2^32 entries"
        )]
        let behind = place.map_or(0, |place| place as u32 + 1);
        self.first.wrapping_add(behind).wrapping_sub(1)
    }
}

/// The kind of a hash, of so many: a power of two.
const fn kind(hash: u128, kinds: usize) -> usize {
    let low = hash as usize;
    low & (kinds - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Epoch, Offset};

    fn did(act: Act, at: u64) -> Did {
        let (epoch, offset) = (Epoch(1), Offset(at));
        Did {
            act,
            kind: Kind::Other,
            at: Cursor { epoch, offset },
            hlc: Hlc(at),
        }
    }

    /// What is done to a log.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Note(u128, Act),
        Forget(usize),
        Compact,
        Link(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let act = prop_oneof![Just(Act::Write), Just(Act::Delete), Just(Act::Expiry)];
        prop_oneof![
            20 => (0_u128..12, act).prop_map(|(hash, act)| Step::Note(hash, act)),
            3 => (0_usize..6).prop_map(Step::Forget),
            1 => Just(Step::Compact),
            1 => (0_u32..4).prop_map(|bits| Step::Link(1 << bits)),
        ]
    }

    proptest! {
        #[test]
        fn a_log_finds_what_a_list_finds(
            steps in proptest::collection::vec(step(), 1..200),
            first in prop_oneof![Just(0_u32), (u32::MAX - 50)..u32::MAX],
        ) {
            let (mut log, mut list) = (Log { first, ..Log::default() }, Vec::new());
            log.link(1);
            let mut at = 0;
            for step in steps {
                match step {
                    Step::Note(hash, act) => {
                        at += 1;
                        log.note(hash, did(act, at));
                        list.push((hash, did(act, at)));
                    }
                    Step::Forget(count) => {
                        (0..count).for_each(|_| log.forget_first());
                        let first = log.first();
                        list.retain(|(_, did)| first.is_some_and(|first| did.at >= first));
                    }
                    Step::Compact => log.compact(),
                    Step::Link(kinds) => log.link(kinds),
                }
                for hash in 0..12 {
                    let of = list.iter().rev().filter(|(known, _)| *known == hash);
                    let mut last: Vec<Did> = Vec::new();
                    for (_, did) in of {
                        if !last.iter().any(|later| later.act == did.act) {
                            last.push(*did);
                        }
                    }
                    let found: Vec<Did> = log.of(hash).copied().collect();
                    prop_assert_eq!(found, last, "{} after {:?}", hash, step);
                }
            }
        }
    }

    #[test]
    fn what_is_written_again_and_again_is_one_entry_when_room_is_needed() {
        let mut log = Log::default();
        for at in 0..100_000 {
            log.note(u128::from(at % 10), did(Act::Sum, at));
        }
        log.compact();
        assert_eq!(log.len(), 10);
        assert_eq!(log.first(), Some(did(Act::Sum, 99_990).at));
        assert_eq!(log.of(3).collect::<Vec<_>>(), [&did(Act::Sum, 99_993)]);
    }

    #[test]
    fn memory_of_many_is_given_back() {
        let mut log = Log::default();
        for at in 0..200_000 {
            log.note(u128::from(at), did(Act::Write, at));
        }
        let most = log.entries.capacity();
        while log.len() > 100 {
            log.forget_first();
            log.shrink();
        }
        assert!(log.entries.capacity() <= MIN_KEPT && most > MIN_KEPT);
        assert_eq!(log.last.len(), MIN_KINDS);
        assert_eq!(
            log.of(199_950).collect::<Vec<_>>(),
            [&did(Act::Write, 199_950)]
        );
        assert_eq!(log.of(5).count(), 0);
    }
}

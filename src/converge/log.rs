//! The writes of one history, found by the hash of what they wrote.
//!
//! A ring of entries, and per kind of hash the last entry of it; each entry names the one of its kind
//! before it. To note a write is to append an entry and to name it, or to renew the one that there is;
//! to forget the first writes is to move the ring's begin, where one that was renewed since goes to the
//! end: once for all that was done meanwhile. None of it depends on how many there are. What is asked for
//! and was not written costs one look at the last of its kind.

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
    /// Where the last write ends that was noted.
    newest: Cursor,
}

#[derive(Debug)]
struct Entry {
    hash: u128,
    /// The last time.
    did: Did,
    /// Where it was done that time for which the entry stands here in the ring.
    since: Cursor,
    /// The number of the one of the same kind before it, which may be forgotten.
    before: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 0,
            last: vec![0; MIN_KINDS].into(),
            newest: Cursor::ZERO,
        }
    }
}

impl Log {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where the last write ends that is remembered.
    pub(super) fn newest(&self) -> Option<Cursor> {
        (!self.entries.is_empty()).then_some(self.newest)
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
        self.newest = self.newest.max(did.at);
        let mut next = self.last_of(hash);
        while let Some(place) = next
            && let Some(entry) = self.entries.get_mut(place)
        {
            let same = (entry.did.act, entry.did.kind) == (did.act, did.kind);
            if same && entry.hash == hash {
                entry.did = did;
                return;
            }
            let before = entry.before;
            next = self.place(before);
        }
        self.append(hash, did);
    }

    /// Forgets what was not done again behind `upto`.
    pub(super) fn forget(&mut self, upto: Cursor) {
        let is_old = |entry: &mut Entry| entry.since <= upto;
        while let Some(Entry { hash, did, .. }) = self.entries.pop_front_if(is_old) {
            self.first = self.first.wrapping_add(1);
            if did.at > upto {
                self.append(hash, did);
            }
        }
        self.shrink();
    }

    /// Forgets the oldest, so that no more than so many are left; up to where they were done. It looks at
    /// each: for whoever needs much room, and seldom.
    pub(super) fn keep(&mut self, most: usize) -> Option<Cursor> {
        let excess = self.entries.len().checked_sub(most + 1)?;
        let mut places: Vec<Cursor> = self.entries.iter().map(|entry| entry.did.at).collect();
        let upto = *places.select_nth_unstable(excess).1;
        self.entries.retain(|entry| entry.did.at > upto);
        self.link(self.last.len());
        Some(upto)
    }

    fn append(&mut self, hash: u128, did: Did) {
        if self.entries.len() * KINDS_EACH >= self.last.len() {
            self.link(self.last.len() * 2);
        }
        let before = self.number(self.last_of(hash));
        let number = self.number(Some(self.entries.len()));
        let since = did.at;
        self.entries.push_back(Entry {
            hash,
            did,
            since,
            before,
        });
        self.set_last(hash, number);
    }

    /// Gives back memory that is hardly used.
    fn shrink(&mut self) {
        let kept = (self.entries.capacity() / 2).max(MIN_KEPT);
        if self.entries.capacity() > MIN_KEPT && self.entries.len() <= kept * 2 / LEAST_USED {
            self.entries.shrink_to(kept);
            self.link((kept * KINDS_EACH).next_power_of_two().max(MIN_KINDS));
        }
    }

    /// Tells so many kinds apart from now on.
    fn link(&mut self, kinds: usize) {
        self.last = vec![self.number(None); kinds].into();
        for place in 0..self.entries.len() {
            let Some(hash) = self.entries.get(place).map(|entry| entry.hash) else {
                continue;
            };
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
        Forget(u64),
        Keep(usize),
        Link(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let act = prop_oneof![Just(Act::Write), Just(Act::Delete), Just(Act::Expiry)];
        prop_oneof![
            20 => (0_u128..12, act).prop_map(|(hash, act)| Step::Note(hash, act)),
            3 => (0_u64..20).prop_map(Step::Forget),
            1 => (0_usize..8).prop_map(Step::Keep),
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
            let (mut at, mut forgotten) = (0, 0);
            for step in steps {
                match step {
                    Step::Note(hash, act) => {
                        at += 1;
                        log.note(hash, did(act, at));
                        list.retain(|(known, did): &(u128, Did)| *known != hash || did.act != act);
                        list.push((hash, did(act, at)));
                    }
                    Step::Forget(count) => {
                        forgotten = at.min(forgotten + count);
                        log.forget(did(Act::Write, forgotten).at);
                    }
                    Step::Keep(most) => {
                        let upto = log.keep(most);
                        prop_assert!(log.len() <= most);
                        list.retain(|(_, did)| upto.is_none_or(|upto| did.at > upto));
                    }
                    Step::Link(kinds) => log.link(kinds),
                }
                list.retain(|(_, did)| did.hlc > Hlc(forgotten));
                for hash in 0..12 {
                    let of = list.iter().filter(|(known, _)| *known == hash);
                    let mut wanted: Vec<Did> = of.map(|(_, did)| *did).collect();
                    let mut found: Vec<Did> = log.of(hash).copied().collect();
                    // What was renewed may have been forgotten a little later.
                    found.retain(|did| did.hlc > Hlc(forgotten));
                    wanted.sort_by_key(|did| did.at);
                    found.sort_by_key(|did| did.at);
                    prop_assert_eq!(found, wanted, "{} after {:?}", hash, step);
                }
                let mut all: Vec<_> = log.entries.iter().map(|e| (e.hash, e.did.act)).collect();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), log.len(), "each once");
            }
            log.forget(did(Act::Write, at).at);
            prop_assert_eq!(log.len(), 0);
        }
    }

    #[test]
    fn what_is_written_again_and_again_is_one_entry() {
        let mut log = Log::default();
        for at in 1..100_000 {
            log.note(u128::from(at % 10), did(Act::Sum, at));
            log.forget(did(Act::Sum, at.saturating_sub(50)).at);
            assert!(log.len() <= 10);
        }
        assert_eq!(log.of(3).collect::<Vec<_>>(), [&did(Act::Sum, 99_993)]);
        log.forget(did(Act::Sum, 99_995).at);
        assert_eq!(log.len(), 4);
    }

    #[test]
    fn memory_of_many_is_given_back() {
        let mut log = Log::default();
        for at in 0..200_000 {
            log.note(u128::from(at), did(Act::Write, at));
        }
        let most = log.entries.capacity();
        for at in 0..199_900 {
            log.forget(did(Act::Write, at).at);
        }
        assert!(log.entries.capacity() <= MIN_KEPT && most > MIN_KEPT);
        assert_eq!(log.last.len(), MIN_KINDS);
        let found: Vec<_> = log.of(199_950).collect();
        assert_eq!(found, [&did(Act::Write, 199_950)]);
        assert_eq!(log.of(5).count(), 0);
    }
}

//! What this site has written lately that some peer has not seen.
//!
//! A peer's state of a key may be taken only if that peer had seen every write that is here. The
//! table knows, per key, the last local write; it holds only writes that some peer has not yet
//! seen, so its size follows the round trip and the write rate, never the size of the data. Beyond
//! a ceiling the oldest are forgotten and remembered as one line: before here, anything may have
//! been written. A false alarm costs one more state; a miss would cost equality.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Clash;
use super::log::Did;
use super::recent::{Hashed, Made, Writes};
use crate::command::{Act, Kind, Touch, Whole, key_hash};
use crate::model::{Cursor, Epoch, Hlc, Key, Offset};

/// The place of a read that is under way: later than anything that a peer can have seen.
const READING: Cursor = Cursor {
    epoch: Epoch(u64::MAX),
    offset: Offset(u64::MAX),
};

/// Shared: the intake writes, the appliers ask.
#[derive(Debug)]
pub struct Table {
    /// The most writes that are remembered.
    pub(super) most: usize,
    /// The local writes. One lock, for those of a whole frame are noted at once, and few ask.
    writes: Mutex<Writes>,
    /// Key hash → where its state was read to be sent. A peer's state that has not seen ours must
    /// not replace what we sent: the two would swap.
    pub(super) reads: DashMap<u128, Read, Hashed>,
    /// Between asking about a peer's state and taking it, nobody may begin to send that key: who
    /// takes holds one permit, who enters a read waits for all of them.
    pub(super) taking: Turns,
}

/// Something that was done to whole databases.
#[derive(Clone, Copy, Debug)]
pub(super) struct DidAll {
    pub what: Whole,
    pub did: Did,
}

impl All {
    /// Where any key may have been written last.
    fn written(&self) -> Cursor {
        let wholes = self.wholes.iter().map(|whole| whole.did.at);
        wholes.fold(self.written, Cursor::max)
    }
}

/// The permits of [`Table::taking`]; more than there are peers.
pub(super) const TAKERS: u32 = 1024;

#[derive(Debug)]
pub(super) struct Turns(pub(super) Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TAKERS as usize)))
    }
}

/// What holds for every key.
#[derive(Clone, Debug, Default)]
pub(super) struct All {
    /// What was done to whole databases: the last of each kind.
    pub wholes: Vec<DidAll>,
    /// It may have been written up to here.
    pub written: Cursor,
    /// Its state was read here, by a snapshot, to be sent.
    pub copied: Read,
}

/// Where a state was read to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Read {
    /// The last time.
    last: Cursor,
    /// How many reads are under way.
    under_way: u32,
}

impl Read {
    pub(super) const fn at(&self) -> Cursor {
        if self.under_way > 0 {
            READING
        } else {
            self.last
        }
    }

    pub(super) const fn begin(&mut self) {
        self.under_way += 1;
    }

    /// It was read here; none when it was not, or will not be sent.
    pub(super) fn end(&mut self, at: Option<Cursor>) {
        self.under_way = self.under_way.saturating_sub(1);
        self.last = self.last.max(at.unwrap_or_default());
    }
}

impl Table {
    /// One that remembers so many writes at most, each in 60 to 120 bytes. What it has
    /// forgotten may have been any write of any key: what meets it costs a state more.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            writes: Mutex::default(),
            reads: DashMap::default(),
            taking: Turns::default(),
        }
    }

    /// While this lives, no read of ours is entered: what is asked here about a state still holds
    /// when the state is taken. (The semaphore is never closed: it is always a permit.)
    pub async fn taking(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.taking.0).acquire_owned().await.ok()
    }

    /// The same, if nobody waits to enter a read.
    #[must_use]
    pub fn try_taking(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.taking.0).try_acquire_owned().ok()
    }

    /// Whether a peer that had seen our history up to `seen` has seen every write and every read of
    /// every key. False says nothing: some may still be remembered that it has seen.
    #[must_use]
    pub fn is_all_seen(&self, seen: Cursor) -> bool {
        if !self.reads.is_empty() {
            return false;
        }
        // Asked last: what leaves the reads is entered here before.
        let writes = self.writes();
        writes.len() == 0 && writes.all.written().max(writes.all.copied.at()) <= seen
    }

    /// Where the key was last written, or read to be sent, if a peer that had seen our history up
    /// to `seen` had not seen that.
    #[must_use]
    pub fn unseen(&self, hash: u128, seen: Cursor) -> Option<Cursor> {
        let written = self.writes().log.of(hash).map(|did| did.at).max();
        let last = written.unwrap_or(Cursor::ZERO).max(self.sent(hash));
        (last > seen).then_some(last)
    }

    /// Whether the key may have been written, by whatever, since our history had come up to `seen`.
    #[must_use]
    pub fn is_written(&self, hash: u128, seen: Cursor) -> bool {
        let writes = self.writes();
        writes.all.written() > seen || writes.log.of(hash).any(|did| did.at > seen)
    }

    /// Whether a write of just this key is remembered.
    #[must_use]
    pub fn remembers(&self, hash: u128) -> bool {
        self.writes().log.of(hash).next().is_some()
    }

    /// Those of our writes that a record had not seen, of which we know that it had seen our history
    /// up to `seen`, and with which this touch of it does not commute.
    #[must_use]
    pub fn clash(&self, touch: Touch, seen: Cursor) -> Clash {
        let mut clash = Clash::default();
        let writes = &*self.writes();
        let unseen = |hash| writes.log.of(hash).filter(|did| did.at > seen);
        for did in unseen(touch.key) {
            // Whether it is the same element, the element's own entry says.
            let both = touch.element.is_some() && did.act.is_of_element();
            let is_apart = both && touch.kind.is_apart(touch.act, did.kind, did.act);
            let ends = touch.kind.ends_empty() && did.act.removes();
            clash.doubts |= is_apart && ends && touch.act.adds();
            if !is_apart && !touch.act.commutes(did.act) {
                clash.add(*did);
            }
        }
        for did in touch.element.into_iter().flat_map(unseen) {
            if !touch.act.commutes(did.act) {
                clash.add(*did);
            }
        }
        clash.is_unknown |= writes.all.written > seen;
        let unseen = writes.all.wholes.iter().filter(|w| w.did.at > seen);
        for whole in unseen.filter(|w| w.what.has(touch.db) && !touch.act.commutes(w.did.act)) {
            clash.add_whole(whole.did);
        }
        clash
    }

    /// Whether a delete that had seen our history up to `seen` had not seen a write of this key.
    #[must_use]
    pub fn spares(&self, (db, key): (u32, &[u8]), seen: Cursor) -> bool {
        let touch = Touch {
            db,
            key: key_hash(db, key),
            element: None,
            act: Act::Delete,
            kind: Kind::Other,
        };
        self.clash(touch, seen).spares()
    }

    /// The keys that we have written from this one, by commands that had not been seen at `seen`.
    pub(super) fn made_of(&self, hash: u128, seen: Cursor, out: &mut Vec<Key>) {
        self.made_between(hash, (seen, READING), out);
    }

    /// The same, by commands before the last renewal or move of the key in the record that ends at `end`.
    pub(super) fn made_between(
        &self,
        hash: u128,
        (seen, end): (Cursor, Cursor),
        out: &mut Vec<Key>,
    ) {
        let writes = self.writes();
        let made = writes.made.of(hash).filter(|made| made.at > seen);
        let is_before = |made: &&Made| made.at < end || (made.at == end && made.is_renewed);
        for made in made.filter(is_before) {
            out.extend(made.keys.iter().cloned());
        }
    }

    /// Where our last write ends that is remembered.
    #[must_use]
    pub fn newest(&self) -> Cursor {
        let writes = self.writes();
        let last = writes.last().unwrap_or(Cursor::ZERO);
        last.max(writes.all.written())
    }

    /// Whether more than writes of this very key is unseen: its state was sent, or any key may
    /// have been written.
    #[must_use]
    pub fn sent_unseen(&self, hash: u128, seen: Cursor) -> bool {
        self.sent(hash) > seen
    }

    /// Where its state was last sent, or any key may have been written.
    fn sent(&self, hash: u128) -> Cursor {
        let read = self.reads.get(&hash).map_or(Cursor::ZERO, |e| e.at());
        let all = &self.writes().all;
        read.max(all.written()).max(all.copied.at())
    }

    /// Any key may have been written up to here, as far as is remembered: a peer that had seen more has
    /// lost it, and what it had seen may be forgotten.
    pub fn note_all_written(&self, at: Cursor) {
        self.update(|all| all.written = all.written.max(at));
    }

    /// Up to where any key may have been written, as far as is remembered.
    pub(super) fn all_written(&self) -> Cursor {
        self.writes().all.written
    }

    /// Any key may have been read here to be sent: what is conservative when single reads are too
    /// many to be remembered.
    pub fn note_all_read(&self, at: Cursor) {
        self.update(|all| all.copied.last = all.copied.last.max(at));
    }

    /// Every peer that was sent this state has seen it.
    pub fn forget_read(&self, hash: u128, at: Cursor) {
        self.reads.remove_if(&hash, |_, read| read.at() == at);
    }

    /// How many keys and elements are remembered, once for each kind of act.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The latest stamp of ours of writes of whole databases that a peer's had not seen, and that come
    /// to something else in the other order. Of what was written, that leaves nothing to go by.
    pub(super) fn tears(&self, theirs: Whole, seen: Cursor) -> Option<Hlc> {
        let wholes = &self.writes().all.wholes;
        let unseen = wholes.iter().filter(|w| w.did.at > seen);
        let tears = unseen.filter(|ours| match (theirs, ours.what) {
            (Whole::Flush(_), Whole::Flush(_)) => false,
            (one, other) => one.meets(other),
        });
        tears.map(|whole| whole.did.hlc).max()
    }

    /// The other databases in which a key of this one may be after what changed places since `seen`.
    pub(super) fn partners(&self, db: u32, seen: Cursor) -> Vec<u32> {
        let wholes = &self.writes().all.wholes;
        let unseen = || wholes.iter().filter(|w| w.did.at > seen);
        let mut found = vec![db];
        let mut next = 0;
        while let Some(&from) = found.get(next) {
            let partners = unseen().filter_map(|whole| whole.what.partner(from));
            let new: Vec<u32> = partners.filter(|db| !found.contains(db)).collect();
            found.extend(new);
            next += 1;
        }
        found.split_off(1)
    }

    pub(super) fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut All)) {
        change(&mut self.writes().all);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reading;
    use super::super::recent::Write;
    use super::*;
    use crate::model::Hlc;

    /// How many writes are remembered.
    const MOST: usize = 1 << 19;

    fn at(offset: u64) -> Cursor {
        Cursor {
            epoch: Epoch(7),
            offset: Offset(offset),
        }
    }

    fn writes(written: &[(u128, Cursor)]) -> Vec<Write> {
        written.iter().map(|&(key, at)| write(key, at)).collect()
    }

    fn write(key: u128, at: Cursor) -> Write {
        let touch = Touch {
            db: 0,
            key,
            element: None,
            act: Act::Write,
            kind: Kind::Other,
        };
        let hlc = Hlc(at.offset.0);
        Write { touch, at, hlc }
    }

    #[test]
    fn a_write_is_unseen_until_it_has_been_seen() {
        let table = Table::new(MOST);
        table.note(writes(&[(1, at(10)), (2, at(15)), (1, at(20))]));
        assert_eq!(table.unseen(1, at(19)), Some(at(20)));
        assert_eq!(table.unseen(1, at(20)), None);
        assert_eq!(table.unseen(2, at(10)), Some(at(15)));
        assert_eq!(table.unseen(3, Cursor::ZERO), None);
        let later = Cursor {
            epoch: Epoch(8),
            offset: Offset(1),
        };
        assert_eq!(table.unseen(1, later), None);
        table.note([write(1, later)]);
        assert_eq!(
            table.unseen(1, at(1 << 50)),
            Some(later),
            "an epoch later is later"
        );
        table.forget(at(15));
        assert_eq!(table.len(), 1, "only what everybody has seen is forgotten");
        assert_eq!(table.unseen(1, at(14)), Some(later));
        table.forget(later);
        assert!(table.is_empty() && table.is_all_seen(Cursor::ZERO));
    }

    #[test]
    fn the_last_write_of_a_key_counts_however_often_it_was_written() {
        const KEYS: usize = 1500;
        const STEP: usize = 1000;
        let table = Table::new(MOST);
        let mut seen = 1;
        for from in (1_u64..100_000).step_by(STEP) {
            let next = from + STEP as u64;
            let written = (from..next).map(|i| write(u128::from(i % KEYS as u64), at(i)));
            table.note(written);
            // Each time the half of what was written before has been seen.
            seen = seen.max(from / 2);
            table.forget(at(seen));
            for last in (seen + 1..next).rev().take(KEYS) {
                let hash = u128::from(last % KEYS as u64);
                assert_eq!(table.unseen(hash, at(last - 1)), Some(at(last)));
                assert_eq!(table.unseen(hash, at(last)), None);
            }
            assert!(table.len() <= KEYS);
        }
        table.forget(at(1 << 40));
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_forgotten_or_touches_everything_is_never_missed() {
        for most in [1 << 10, MOST] {
            let table = Table::new(most);
            table.note_everything(at(30));
            assert_eq!(table.unseen(9, at(29)), Some(at(30)));
            // Twice each: what was done again is forgotten first.
            let many =
                |from: u64, most: u64| (0..most).map(move |i| write(u128::from(i), at(from + i)));
            let (few, most) = (most as u64 / 4, most as u64);
            table.note(many(100, few).chain(many(100 + few, few)));
            table.note((few..most).map(|i| write(u128::from(i), at(100 + few + i))));
            assert_eq!(table.unseen(9, at(50)), Some(at(100 + few + 9)));
            assert_eq!(table.unseen(u128::from(most) + 1, at(50)), None);
            table.note([write(u128::from(most), at(100 + few + most))]);
            assert_eq!(table.len() as u64, most / 4 * 3 + 1);
            let forgotten = at(100 + few + most / 4 - 1);
            let left = u128::from(most / 4);
            assert_eq!(
                table.unseen(left, forgotten),
                Some(at(100 + few + most / 4))
            );
            assert_eq!(table.unseen(5, at(99)), Some(forgotten));
            assert_eq!(table.unseen(5, forgotten), None);
        }
    }

    #[tokio::test]
    async fn what_is_read_to_be_sent_counts_as_written() {
        let table = Arc::new(Table::new(MOST));
        let reading = Reading::keys(&table, vec![77]).await;
        assert_eq!(table.unseen(77, at(1 << 40)), Some(READING));
        let keys = reading.finish(at(1 << 41));
        assert_eq!(table.unseen(77, at(1 << 40)), Some(at(1 << 41)));
        drop(Reading::keys(&table, vec![77]).await);
        assert_eq!(
            table.unseen(77, at(1 << 40)),
            Some(at(1 << 41)),
            "what was sent before a read that was given up is not forgotten"
        );
        table.forget_read(keys[0], at(1 << 41));
        drop(Reading::keys(&table, vec![77]).await);
        assert_eq!(table.unseen(77, at(1 << 40)), None);
        assert!(table.reads.is_empty());
        drop(Reading::snapshot(&table).await);
        assert_eq!(table.unseen(1, at(5)), None);
        Reading::snapshot(&table).await.finish(at(6));
        drop(Reading::snapshot(&table).await);
        assert_eq!(table.unseen(1, at(5)), Some(at(6)));
    }

    #[tokio::test]
    async fn nobody_begins_to_send_what_is_being_taken() {
        let table = Arc::new(Table::new(MOST));
        let taking = table.taking().await;
        let reading = Reading::keys(&table, vec![1]);
        tokio::pin!(reading);
        assert!(futures_are_pending(reading.as_mut()).await);
        assert_eq!(table.unseen(1, at(5)), None);
        drop(taking);
        let reading = reading.await;
        assert_eq!(table.unseen(1, at(5)), Some(READING));
        drop(reading);
    }

    /// Whether a future is not ready when it is polled once.
    async fn futures_are_pending<F: Future + Unpin>(future: F) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }
}

//! What this site has written lately that some peer has not seen.
//!
//! A peer's state of a key may be taken only if that peer had seen every write that is here. The
//! table knows, per key, the last local write; it holds only writes that some peer has not yet
//! seen, so its size follows the round trip and the write rate, never the size of the data. Beyond
//! a ceiling the oldest are forgotten and remembered as one line: before here, anything may have
//! been written. A false alarm costs one more state; a miss would cost equality.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::{Cursor, Epoch, Offset};

/// The most writes remembered: about 70 MB. At 50,000 a second and a round trip of 200 ms there are
/// 10,000.
const MAX_WRITES: usize = 1 << 20;
/// The most keys of one [`Span`]: a sixteenth of all is forgotten at once when there are too many.
const MAX_SPAN: usize = 1 << 16;
/// A span of fewer keys goes on: many small ones would cost whoever asks more than they save.
const MIN_SPAN: usize = 1 << 10;
/// The most spans that are begun before the last one is full: whoever asks looks into each.
const MAX_SPANS: usize = 64;

/// The place of a read that is under way: later than anything that a peer can have seen.
const READING: Cursor = Cursor {
    epoch: Epoch(u64::MAX),
    offset: Offset(u64::MAX),
};

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassThrough(u64);

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

/// Shared: the intake writes, the appliers ask.
#[derive(Debug, Default)]
pub struct Table {
    /// The local writes. One lock, for those of a whole frame are noted at once, and few ask.
    writes: Mutex<VecDeque<Span>>,
    /// Key hash → where its state was read to be sent. A peer's state that has not seen ours must
    /// not replace what we sent: the two would swap.
    reads: DashMap<u128, Read, BuildHasherDefault<PassThrough>>,
    /// What holds for every key.
    all: RwLock<All>,
    /// Between asking about a peer's state and taking it, nobody may begin to send that key: who
    /// takes holds one permit, who enters a read waits for all of them.
    taking: Turns,
}

/// The writes of a span of our history. They are forgotten together: to remove each key by itself
/// would cost as much as to note it.
#[derive(Debug, Default)]
struct Span {
    /// The last of them.
    last: Cursor,
    /// Key hash → its last write in the span.
    keys: HashMap<u128, Cursor, BuildHasherDefault<PassThrough>>,
}

/// The permits of [`Table::taking`]; more than there are peers.
const TAKERS: u32 = 1024;

#[derive(Debug)]
struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TAKERS as usize)))
    }
}

/// What holds for every key.
#[derive(Clone, Copy, Debug, Default)]
struct All {
    /// It may have been written up to here.
    written: Cursor,
    /// Its state was read here, by a snapshot, to be sent.
    copied: Read,
}

/// Where a state was read to be sent.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    /// The last time.
    last: Cursor,
    /// How many reads are under way.
    under_way: u32,
}

impl Read {
    const fn at(&self) -> Cursor {
        if self.under_way > 0 {
            READING
        } else {
            self.last
        }
    }

    const fn begin(&mut self) {
        self.under_way += 1;
    }

    /// It was read here; none when it was not, or will not be sent.
    fn end(&mut self, at: Option<Cursor>) {
        self.under_way = self.under_way.saturating_sub(1);
        self.last = self.last.max(at.unwrap_or_default());
    }
}

/// The writing side, owned by the intake.
#[derive(Debug, Default)]
pub struct Recent {
    /// How many keys there are in all spans.
    count: usize,
    /// Whether the next write begins a span.
    is_closed: bool,
    /// Up to where everything is forgotten.
    forgotten: Cursor,
    /// A span that was forgotten, for its memory.
    spare: Span,
}

/// Keys whose state is being read. What is not finished is forgotten: it was not sent.
#[derive(Debug)]
pub struct Reading {
    table: Arc<Table>,
    keys: Vec<u128>,
    all: bool,
}

impl Reading {
    /// These keys are being read.
    pub async fn keys(table: &Arc<Table>, keys: Vec<u128>) -> Self {
        let _nobody_takes = table.taking.0.acquire_many(TAKERS).await;
        for hash in &keys {
            table.reads.entry(*hash).or_default().begin();
        }
        Self {
            table: Arc::clone(table),
            keys,
            all: false,
        }
    }

    /// A snapshot is being taken.
    pub async fn snapshot(table: &Arc<Table>) -> Self {
        let _nobody_takes = table.taking.0.acquire_many(TAKERS).await;
        table.update(|all| all.copied.begin());
        Self {
            table: Arc::clone(table),
            keys: Vec::new(),
            all: true,
        }
    }

    /// They were read here, and will be sent.
    pub fn finish(mut self, at: Cursor) -> Vec<u128> {
        self.end(Some(at))
    }

    fn end(&mut self, at: Option<Cursor>) -> Vec<u128> {
        if std::mem::take(&mut self.all) {
            self.table.update(|all| all.copied.end(at));
        }
        let keys = std::mem::take(&mut self.keys);
        for hash in &keys {
            if let Some(mut read) = self.table.reads.get_mut(hash) {
                read.end(at);
            }
            self.table
                .reads
                .remove_if(hash, |_, r| r.at() == Cursor::ZERO);
        }
        keys
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl Table {
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
        if !self.writes().is_empty() || !self.reads.is_empty() {
            return false;
        }
        // Asked last: what leaves the others is entered here before.
        let all = *self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.written.max(all.copied.at()) <= seen
    }

    /// Where the key was last written, or read to be sent, if a peer that had seen our history up
    /// to `seen` had not seen that.
    #[must_use]
    pub fn unseen(&self, hash: u128, seen: Cursor) -> Option<Cursor> {
        let find = |span: &Span| span.keys.get(&hash).copied();
        let written = self.writes().iter().rev().find_map(find);
        let written = written.unwrap_or(Cursor::ZERO);
        let last = written.max(self.sent(hash));
        (last > seen).then_some(last)
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
        let all = *self.all.read().unwrap_or_else(PoisonError::into_inner);
        read.max(all.written).max(all.copied.at())
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

    /// How many keys are remembered; one that was written in several spans counts in each.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes().iter().map(|span| span.keys.len()).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes().is_empty()
    }

    fn writes(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut All)) {
        change(&mut self.all.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Recent {
    /// Keys were written, at these places, the earliest first.
    pub fn note(&mut self, table: &Table, written: impl IntoIterator<Item = (u128, Cursor)>) {
        let mut spans = table.writes();
        for (hash, at) in written {
            let is_full = |span: &Span| span.keys.len() >= MAX_SPAN;
            if std::mem::take(&mut self.is_closed) || spans.back().is_none_or(is_full) {
                self.make_room(table, &mut spans);
                spans.push_back(std::mem::take(&mut self.spare));
            }
            if let Some(span) = spans.back_mut() {
                span.last = span.last.max(at);
                self.count += usize::from(span.keys.insert(hash, at).is_none());
            }
        }
    }

    /// Any key may have been written.
    pub fn note_everything(&mut self, table: &Table, at: Cursor) {
        table.update(|all| all.written = all.written.max(at));
        self.forget(table, at);
    }

    /// Every peer has seen everything up to `upto`.
    pub fn forget(&mut self, table: &Table, upto: Cursor) {
        if upto <= self.forgotten {
            return;
        }
        self.forgotten = upto;
        let mut spans = table.writes();
        while spans.front().is_some_and(|span| span.last <= upto) {
            self.remove_first(&mut spans);
        }
        // What follows will be seen later: it is forgotten apart from what there is.
        let is_large = |span: &Span| span.keys.len() >= MIN_SPAN;
        self.is_closed = spans.len() < MAX_SPANS && spans.back().is_some_and(is_large);
    }

    /// Forgets the oldest, so that a whole span more is not too many.
    fn make_room(&mut self, table: &Table, spans: &mut VecDeque<Span>) {
        while self.count + MAX_SPAN > MAX_WRITES
            && let Some(oldest) = spans.front()
        {
            // Before they are removed: nobody may find a write in neither.
            table.update(|all| all.written = all.written.max(oldest.last));
            self.remove_first(spans);
        }
    }

    fn remove_first(&mut self, spans: &mut VecDeque<Span>) {
        if let Some(Span { mut keys, .. }) = spans.pop_front() {
            self.count -= keys.len();
            keys.clear();
            // The memory of a large one is needed in unusual moments only.
            keys.shrink_to(4 * MIN_SPAN);
            self.spare.keys = keys;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Cursor {
        Cursor {
            epoch: Epoch(7),
            offset: Offset(offset),
        }
    }

    #[test]
    fn a_write_is_unseen_until_it_has_been_seen() {
        let (table, mut recent) = (Table::default(), Recent::default());
        recent.note(&table, [(1, at(10)), (2, at(15)), (1, at(20))]);
        assert_eq!(table.unseen(1, at(19)), Some(at(20)));
        assert_eq!(table.unseen(1, at(20)), None);
        assert_eq!(table.unseen(2, at(10)), Some(at(15)));
        assert_eq!(table.unseen(3, Cursor::ZERO), None);
        let later = Cursor {
            epoch: Epoch(8),
            offset: Offset(1),
        };
        assert_eq!(table.unseen(1, later), None);
        recent.note(&table, [(1, later)]);
        assert_eq!(
            table.unseen(1, at(1 << 50)),
            Some(later),
            "an epoch later is later"
        );
        recent.forget(&table, at(1 << 50));
        assert_eq!(
            table.len(),
            2,
            "what is written together is forgotten together"
        );
        assert_eq!(table.unseen(2, at(14)), Some(at(15)));
        recent.forget(&table, later);
        assert!(table.is_empty() && table.is_all_seen(Cursor::ZERO));
    }

    #[test]
    fn the_last_write_of_a_key_counts_in_whichever_span_it_is() {
        const KEYS: usize = 1500;
        let (table, mut recent) = (Table::default(), Recent::default());
        let mut seen = 1;
        for from in (1_u64..100_000).step_by(MIN_SPAN) {
            let next = from + MIN_SPAN as u64;
            recent.note(
                &table,
                (from..next).map(|i| (u128::from(i % KEYS as u64), at(i))),
            );
            // Each time the half of what was written before has been seen.
            seen = seen.max(from / 2);
            recent.forget(&table, at(seen));
            for last in (seen + 1..next).rev().take(KEYS) {
                let hash = u128::from(last % KEYS as u64);
                assert_eq!(table.unseen(hash, at(last - 1)), Some(at(last)));
                assert_eq!(table.unseen(hash, at(last)), None);
            }
            assert!(table.len() as u64 <= next - seen + 2 * MIN_SPAN as u64);
        }
        assert!(table.writes().len() > 10);
        recent.forget(&table, at(1 << 40));
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_forgotten_or_touches_everything_is_never_missed() {
        let (table, mut recent) = (Table::default(), Recent::default());
        recent.note_everything(&table, at(30));
        assert_eq!(table.unseen(9, at(29)), Some(at(30)));
        let many = 0..=MAX_WRITES as u64;
        recent.note(&table, many.map(|i| (u128::from(i), at(100 + i))));
        assert_eq!(table.len(), MAX_WRITES - MAX_SPAN + 1);
        let forgotten = MAX_SPAN as u64 - 1;
        assert_eq!(table.unseen(70_000, at(99)), Some(at(100 + 70_000)));
        assert_eq!(table.unseen(12_345, at(99)), Some(at(100 + forgotten)));
        assert_eq!(table.unseen(12_345, at(100 + forgotten)), None);
    }

    #[tokio::test]
    async fn what_is_read_to_be_sent_counts_as_written() {
        let table = Arc::new(Table::default());
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
        let table = Arc::new(Table::default());
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

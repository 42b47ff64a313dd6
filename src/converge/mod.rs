//! What this site has written lately that some peer has not seen.
//!
//! A peer's state of a key may be taken only if that peer had seen every write that is here. The
//! table knows, per key, the last local write; it holds only writes that some peer has not yet
//! seen, so its size follows the round trip and the write rate, never the size of the data. Beyond
//! a ceiling the oldest are forgotten and remembered as one line: before here, anything may have
//! been written. A false alarm costs one more state; a miss would cost equality.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::{Cursor, Epoch, Offset};

/// The most keys remembered: about 60 MB. At 50,000 writes per second and a round trip of 200 ms
/// there are 10,000.
const MAX_KEYS: usize = 1 << 20;

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
    /// Key hash → the last local write of the key.
    writes: DashMap<u128, Cursor, BuildHasherDefault<PassThrough>>,
    /// Key hash → where its state was read to be sent. A peer's state that has not seen ours must
    /// not replace what we sent: the two would swap.
    reads: DashMap<u128, Read, BuildHasherDefault<PassThrough>>,
    /// What holds for every key.
    all: RwLock<All>,
    /// Between asking about a peer's state and taking it, nobody may begin to send that key: who
    /// takes holds one permit, who enters a read waits for all of them.
    taking: Turns,
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

/// The writing side, owned by the intake: the order in which entries may be forgotten.
#[derive(Debug, Default)]
pub struct Recent {
    order: VecDeque<(Cursor, u128)>,
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
        let all = *self.all.read().unwrap_or_else(PoisonError::into_inner);
        self.writes.is_empty() && self.reads.is_empty() && all.written.max(all.copied.at()) <= seen
    }

    /// Where the key was last written, or read to be sent, if a peer that had seen our history up
    /// to `seen` had not seen that.
    #[must_use]
    pub fn unseen(&self, hash: u128, seen: Cursor) -> Option<Cursor> {
        let written = self.writes.get(&hash).map_or(Cursor::ZERO, |e| *e.value());
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

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn update(&self, change: impl FnOnce(&mut All)) {
        change(&mut self.all.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Recent {
    /// A key was written.
    pub fn note(&mut self, table: &Table, hash: u128, at: Cursor) {
        table.writes.insert(hash, at);
        self.order.push_back((at, hash));
        if self.order.len() > MAX_KEYS
            && let Some((oldest, hash)) = self.order.pop_front()
        {
            table.update(|all| all.written = all.written.max(oldest));
            table.writes.remove_if(&hash, |_, last| *last <= oldest);
        }
    }

    /// Any key may have been written.
    pub fn note_everything(&mut self, table: &Table, at: Cursor) {
        table.update(|all| all.written = all.written.max(at));
        self.forget(table, at);
    }

    /// Every peer has seen everything up to `upto`.
    pub fn forget(&mut self, table: &Table, upto: Cursor) {
        while let Some(&(at, hash)) = self.order.front()
            && at <= upto
        {
            self.order.pop_front();
            table.writes.remove_if(&hash, |_, last| *last <= at);
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
        recent.note(&table, 1, at(10));
        recent.note(&table, 2, at(15));
        recent.note(&table, 1, at(20));
        assert_eq!(table.unseen(1, at(19)), Some(at(20)));
        assert_eq!(table.unseen(1, at(20)), None);
        assert_eq!(table.unseen(2, at(10)), Some(at(15)));
        assert_eq!(table.unseen(3, Cursor::ZERO), None);
        let later = Cursor {
            epoch: Epoch(8),
            offset: Offset(1),
        };
        assert_eq!(table.unseen(1, later), None);
        recent.note(&table, 1, later);
        assert_eq!(
            table.unseen(1, at(1 << 50)),
            Some(later),
            "an epoch later is later"
        );
        recent.forget(&table, at(20));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn what_is_forgotten_or_touches_everything_is_never_missed() {
        let (table, mut recent) = (Table::default(), Recent::default());
        recent.note_everything(&table, at(30));
        assert_eq!(table.unseen(9, at(29)), Some(at(30)));
        for i in 0..=MAX_KEYS as u64 {
            recent.note(&table, u128::from(i), at(100 + i));
        }
        assert_eq!(table.len(), MAX_KEYS);
        assert_eq!(table.unseen(12345, at(99)), Some(at(100 + 12345)));
        assert_eq!(table.unseen(0, at(99)), Some(at(100)));
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

//! What this site has written lately that some peer has not seen.
//!
//! A peer's state of a key may be taken only if that peer had seen every write that is here. The
//! table knows, per key, the last local write; it holds only writes that some peer has not yet
//! seen, so its size follows the round trip and the write rate, never the size of the data. Beyond
//! a ceiling the oldest are forgotten and remembered as one line: before here, anything may have
//! been written. A false alarm costs one more state; a miss would cost equality.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use crate::model::{Cursor, Epoch, Offset};

/// The most keys remembered: about 60 MB. At 50,000 writes per second and a round trip of 200 ms
/// there are 10,000.
const MAX_KEYS: usize = 1 << 20;

/// The place of a read that is under way.
const READING: Offset = Offset(u64::MAX);

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
#[derive(Debug)]
pub struct Table {
    /// Key hash → the last local write of the key, in the current epoch.
    writes: DashMap<u128, Offset, BuildHasherDefault<PassThrough>>,
    /// Key hash → where its state was last read to be sent; [`READING`] while it is being read.
    /// A peer's state that has not seen ours must not replace what we sent: the two would swap.
    reads: DashMap<u128, Offset, BuildHasherDefault<PassThrough>>,
    /// The same for all keys: where the last snapshot was taken to be sent.
    copied: AtomicU64,
    /// Every key may have been written up to here.
    floor: AtomicU64,
    /// The current epoch.
    epoch: AtomicU64,
}

/// The writing side, owned by the intake: the order in which entries may be forgotten.
#[derive(Debug)]
pub struct Recent {
    order: VecDeque<(Offset, u128)>,
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
    #[must_use]
    pub fn keys(table: &Arc<Table>, keys: Vec<u128>) -> Self {
        for hash in &keys {
            table.reads.insert(*hash, READING);
        }
        Self {
            table: Arc::clone(table),
            keys,
            all: false,
        }
    }

    /// A snapshot is being taken.
    #[must_use]
    pub fn snapshot(table: &Arc<Table>) -> Self {
        table.copied.store(READING.0, Ordering::Release);
        Self {
            table: Arc::clone(table),
            keys: Vec::new(),
            all: true,
        }
    }

    /// They were read here, and will be sent.
    pub fn finish(mut self, at: Offset) -> Vec<u128> {
        if std::mem::take(&mut self.all) {
            self.table.copied.store(at.0, Ordering::Release);
        }
        let keys = std::mem::take(&mut self.keys);
        for hash in &keys {
            self.table.reads.insert(*hash, at);
        }
        keys
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        for hash in &self.keys {
            self.table.forget_read(*hash, READING);
        }
        if self.all {
            self.table.copied.store(0, Ordering::Release);
        }
    }
}

/// What the table says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Everything written here had been seen.
    Seen,
    /// Something was written here at this place that had not been seen.
    Unseen(Offset),
    /// What was seen belongs to an earlier epoch: what was written in between is not known.
    Gap,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            writes: DashMap::default(),
            reads: DashMap::default(),
            copied: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
        }
    }
}

impl Table {
    /// What has been written of a key that a peer had not seen, when it had seen our history up to
    /// `seen`.
    #[must_use]
    pub fn knowledge(&self, hash: u128, seen: Cursor) -> Knowledge {
        if seen.epoch != Epoch(self.epoch.load(Ordering::Acquire)) {
            return Knowledge::Gap;
        }
        let written = self
            .writes
            .get(&hash)
            .map_or(Offset(0), |entry| *entry.value());
        let read = self
            .reads
            .get(&hash)
            .map_or(Offset(0), |entry| *entry.value());
        let copied = Offset(self.copied.load(Ordering::Acquire));
        let last = written
            .max(read)
            .max(copied)
            .max(Offset(self.floor.load(Ordering::Acquire)));
        if last > seen.offset {
            Knowledge::Unseen(last)
        } else {
            Knowledge::Seen
        }
    }

    /// Every peer that was sent this state has seen it.
    pub fn forget_read(&self, hash: u128, at: Offset) {
        self.reads.remove_if(&hash, |_, last| *last == at);
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
}

impl Recent {
    /// A table that begins in `epoch`, knowing nothing of what was written up to `floor`.
    pub fn begin(table: &Table, epoch: Epoch, floor: Offset) -> Self {
        table.writes.clear();
        table.reads.clear();
        table.copied.store(0, Ordering::Release);
        table.floor.store(floor.0, Ordering::Release);
        table.epoch.store(epoch.0, Ordering::Release);
        Self {
            order: VecDeque::new(),
        }
    }

    /// A key was written.
    pub fn note(&mut self, table: &Table, hash: u128, at: Offset) {
        table.writes.insert(hash, at);
        self.order.push_back((at, hash));
        if self.order.len() > MAX_KEYS
            && let Some((oldest, hash)) = self.order.pop_front()
        {
            table.floor.fetch_max(oldest.0, Ordering::AcqRel);
            table.writes.remove_if(&hash, |_, last| *last <= oldest);
        }
    }

    /// Any key may have been written.
    pub fn note_everything(&mut self, table: &Table, at: Offset) {
        table.floor.fetch_max(at.0, Ordering::AcqRel);
        self.forget(table, at);
    }

    /// Every peer has seen everything up to `upto`.
    pub fn forget(&mut self, table: &Table, upto: Offset) {
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
        let table = Table::default();
        let mut recent = Recent::begin(&table, Epoch(7), Offset(0));
        recent.note(&table, 1, Offset(10));
        recent.note(&table, 2, Offset(15));
        recent.note(&table, 1, Offset(20));
        assert_eq!(table.knowledge(1, at(19)), Knowledge::Unseen(Offset(20)));
        assert_eq!(table.knowledge(1, at(20)), Knowledge::Seen);
        assert_eq!(table.knowledge(2, at(10)), Knowledge::Unseen(Offset(15)));
        assert_eq!(table.knowledge(3, at(0)), Knowledge::Seen);
        recent.forget(&table, Offset(15));
        assert_eq!(table.len(), 1);
        assert_eq!(table.knowledge(1, at(19)), Knowledge::Unseen(Offset(20)));
    }

    #[test]
    fn what_is_forgotten_or_touches_everything_is_never_missed() {
        let table = Table::default();
        let mut recent = Recent::begin(&table, Epoch(7), Offset(5));
        assert_eq!(table.knowledge(9, at(4)), Knowledge::Unseen(Offset(5)));
        recent.note_everything(&table, Offset(30));
        assert_eq!(table.knowledge(9, at(29)), Knowledge::Unseen(Offset(30)));
        for i in 0..=MAX_KEYS as u64 {
            recent.note(&table, u128::from(i), Offset(100 + i));
        }
        assert_eq!(table.len(), MAX_KEYS);
        assert_eq!(
            table.knowledge(12345, at(99)),
            Knowledge::Unseen(Offset(100 + 12345))
        );
        assert_eq!(table.knowledge(0, at(99)), Knowledge::Unseen(Offset(100)));
        let before = Cursor {
            epoch: Epoch(6),
            offset: Offset(u64::MAX),
        };
        assert_eq!(table.knowledge(1, before), Knowledge::Gap);
    }

    #[test]
    fn what_is_read_to_be_sent_counts_as_written() {
        let table = Arc::new(Table::default());
        let _recent = Recent::begin(&table, Epoch(7), Offset(0));
        let reading = Reading::keys(&table, vec![77]);
        assert_eq!(table.knowledge(77, at(1 << 40)), Knowledge::Unseen(READING));
        let keys = reading.finish(Offset(1 << 41));
        assert_eq!(
            table.knowledge(77, at(1 << 40)),
            Knowledge::Unseen(Offset(1 << 41))
        );
        table.forget_read(keys[0], Offset(1 << 41));
        drop(Reading::keys(&table, vec![77]));
        assert_eq!(table.knowledge(77, at(1 << 40)), Knowledge::Seen);
        drop(Reading::snapshot(&table));
        assert_eq!(table.knowledge(1, at(5)), Knowledge::Seen);
        Reading::snapshot(&table).finish(Offset(6));
        assert_eq!(table.knowledge(1, at(5)), Knowledge::Unseen(Offset(6)));
    }
}

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

use crate::model::{Cursor, Epoch, Offset};

/// The most keys remembered: about 60 MB. At 50,000 writes per second and a round trip of 200 ms
/// there are 10,000.
const MAX_KEYS: usize = 1 << 20;

/// The place of a read that is under way.
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
    /// Key hash → where its state was last read to be sent; [`READING`] while it is being read.
    /// A peer's state that has not seen ours must not replace what we sent: the two would swap.
    reads: DashMap<u128, Cursor, BuildHasherDefault<PassThrough>>,
    /// What holds for every key.
    all: RwLock<All>,
}

/// What holds for every key.
#[derive(Clone, Copy, Debug, Default)]
struct All {
    /// It may have been written up to here.
    written: Cursor,
    /// Its state was last read here, by a snapshot, to be sent.
    copied: Cursor,
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
        table.update(|all| all.copied = READING);
        Self {
            table: Arc::clone(table),
            keys: Vec::new(),
            all: true,
        }
    }

    /// They were read here, and will be sent.
    pub fn finish(mut self, at: Cursor) -> Vec<u128> {
        if std::mem::take(&mut self.all) {
            self.table.update(|all| all.copied = at);
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
            self.table.update(|all| all.copied = Cursor::ZERO);
        }
    }
}

impl Table {
    /// Where the key was last written, or read to be sent, if a peer that had seen our history up
    /// to `seen` had not seen that.
    #[must_use]
    pub fn unseen(&self, hash: u128, seen: Cursor) -> Option<Cursor> {
        let of =
            |map: &DashMap<u128, Cursor, _>| map.get(&hash).map_or(Cursor::ZERO, |e| *e.value());
        let all = *self.all.read().unwrap_or_else(PoisonError::into_inner);
        let last = of(&self.writes)
            .max(of(&self.reads))
            .max(all.written)
            .max(all.copied);
        (last > seen).then_some(last)
    }

    /// Whether more than writes of this very key is unseen: its state was sent, or any key may
    /// have been written.
    #[must_use]
    pub fn sent_unseen(&self, hash: u128, seen: Cursor) -> bool {
        let read = self.reads.get(&hash).map_or(Cursor::ZERO, |e| *e.value());
        let all = *self.all.read().unwrap_or_else(PoisonError::into_inner);
        read.max(all.written).max(all.copied) > seen
    }

    /// Every peer that was sent this state has seen it.
    pub fn forget_read(&self, hash: u128, at: Cursor) {
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

    #[test]
    fn what_is_read_to_be_sent_counts_as_written() {
        let table = Arc::new(Table::default());
        let reading = Reading::keys(&table, vec![77]);
        assert_eq!(table.unseen(77, at(1 << 40)), Some(READING));
        let keys = reading.finish(at(1 << 41));
        assert_eq!(table.unseen(77, at(1 << 40)), Some(at(1 << 41)));
        table.forget_read(keys[0], at(1 << 41));
        drop(Reading::keys(&table, vec![77]));
        assert_eq!(table.unseen(77, at(1 << 40)), None);
        drop(Reading::snapshot(&table));
        assert_eq!(table.unseen(1, at(5)), None);
        Reading::snapshot(&table).finish(at(6));
        assert_eq!(table.unseen(1, at(5)), Some(at(6)));
    }
}

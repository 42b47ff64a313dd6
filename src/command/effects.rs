//! What one or several commands do: to keys, to what they make of keys, and to whole databases.

use std::sync::Arc;

use bytes::Bytes;

use super::catalog::Catalog;
use super::keys::number;
use super::scanner::Command;
use super::touch::{Act, Touch};
use crate::model::{Key, is_reserved};

/// Keys that a command writes from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Hashes of all keys that it touches.
    pub from: Vec<u128>,
    /// The keys that it writes.
    pub keys: Arc<[Key]>,
    /// Those of `from` whose time to live is changed, or which are moved, by a later command of the record.
    pub renewed: Vec<u128>,
}

/// Keys that a command touches without naming them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// All of a database, or of every database, are removed.
    Flush(Option<u32>),
    /// Those of two databases change places.
    Swap(u32, u32),
    /// Any key may be written.
    Unknown,
}

impl Whole {
    /// What a command of which not all keys are named touches.
    fn of(command: &Command<'_>, db: u32) -> Self {
        if command.is(b"FLUSHALL") {
            return Self::Flush(None);
        }
        if command.is(b"FLUSHDB") {
            return Self::Flush(Some(db));
        }
        let swapped = (number(command.arg(1)), number(command.arg(2)));
        match swapped {
            (Some(one), Some(other)) if command.is(b"SWAPDB") => Self::Swap(one, other),
            _ => Self::Unknown,
        }
    }

    /// Whether keys of a database are among them.
    #[must_use]
    pub const fn has(self, db: u32) -> bool {
        match self {
            Self::Flush(Some(of)) => of == db,
            Self::Swap(one, other) => one == db || other == db,
            Self::Flush(None) | Self::Unknown => true,
        }
    }

    /// Whether both write some database.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        match (self, other) {
            (Self::Flush(Some(db)), other) | (other, Self::Flush(Some(db))) => other.has(db),
            (Self::Swap(one, two), other) => other.has(one) || other.has(two),
            _ => true,
        }
    }

    /// The database with which this one has changed places.
    #[must_use]
    pub const fn partner(self, db: u32) -> Option<u32> {
        match self {
            Self::Swap(one, other) if one == db => Some(other),
            Self::Swap(one, other) if other == db => Some(one),
            _ => None,
        }
    }
}

/// What one or several commands do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// To keys and elements.
    pub touches: Vec<Touch>,
    /// What they make of keys.
    pub made: Vec<Made>,
    /// To keys that they do not name.
    pub wholes: Vec<Whole>,
}

impl Effects {
    /// Forgets all, and keeps the memory.
    pub fn clear(&mut self) {
        self.touches.clear();
        // Nearly always there is none, and to look costs less than to remove none.
        if !self.made.is_empty() {
            self.made.clear();
        }
        self.wholes.clear();
    }

    /// Adds those of others.
    pub fn append(&mut self, other: &mut Self) {
        let begin = self.touches.len();
        self.touches.append(&mut other.touches);
        self.note_renewed(begin);
        self.made.append(&mut other.made);
        self.wholes.append(&mut other.wholes);
    }

    /// Adds what a command does to the keys for which `wants` says so.
    #[inline]
    pub fn add(
        &mut self,
        catalog: &Catalog,
        command: &Command<'_>,
        db: u32,
        wants: impl FnMut(u32, &[u8]) -> bool,
    ) {
        let begin = self.touches.len();
        if !catalog.touches(command, db, &mut self.touches, wants) {
            self.wholes.push(Whole::of(command, db));
        }
        self.note_renewed(begin);
        let touches = self.touches.get(begin..).unwrap_or_default();
        if touches.len() > 1 && catalog.derives(command) {
            let from = touches.iter().map(|t| t.key).collect();
            let mut keys: Vec<Key> = Vec::new();
            catalog.for_each_key(command, db, |db, name, act| {
                if act != Act::Read && !is_reserved(name) {
                    keys.push((db, Bytes::copy_from_slice(name)));
                }
            });
            let keys = keys.into();
            let renewed = Vec::new();
            self.made.push(Made {
                from,
                keys,
                renewed,
            });
        }
    }

    /// What was made so far was made before these touches.
    fn note_renewed(&mut self, begin: usize) {
        let touches = self.touches.get(begin..).unwrap_or_default();
        for made in &mut self.made {
            let renews = |touch: &&Touch| matches!(touch.act, Act::Expiry | Act::Move);
            let keys = touches.iter().filter(renews).map(|touch| touch.key);
            made.renewed
                .extend(keys.filter(|key| made.from.contains(key)));
        }
    }
}

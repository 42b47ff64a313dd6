//! Commands that are not in the table: what the local server says of them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::table::row;

/// The most commands that are learned: a server with all its modules has a few hundred.
const MAX_LEARNED: usize = 10_000;

/// Where a command's keys are, as COMMAND says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The first key's number; 0: the server cannot say, or there are none.
    pub first: usize,
    /// The last key's number; negative: counted from the end.
    pub last: i64,
    /// From one to the next.
    pub step: usize,
}

/// The table, and what was learned of a server. Shared: the intake teaches, everybody asks.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    learned: Arc<RwLock<HashMap<Vec<u8>, Learned>>>,
}

impl Catalog {
    /// Takes note of commands of the local server; those in the table are known better.
    pub fn learn(&self, commands: impl IntoIterator<Item = (Vec<u8>, Learned)>) {
        let mut known = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        let unknown = commands.into_iter().filter(|(name, _)| row(name).is_none());
        for (name, learned) in unknown {
            if known.len() < MAX_LEARNED {
                known.insert(name.to_ascii_uppercase(), learned);
            }
        }
    }

    /// What was learned of a command.
    pub(super) fn learned(&self, name: &[u8]) -> Option<Learned> {
        let learned = self.learned.read().unwrap_or_else(PoisonError::into_inner);
        learned.get(&name.to_ascii_uppercase()).copied()
    }

    /// Whether anything is known of a command: if not, it counts as a write of every key.
    #[must_use]
    pub fn knows(&self, name: &[u8]) -> bool {
        row(name).is_some() || self.learned(name).is_some_and(|l| l.first > 0)
    }
}

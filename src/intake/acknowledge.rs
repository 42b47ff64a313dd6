//! How much of the stream Redis is told to be safe: what a client's `WAIT` waits for.

use std::sync::Arc;

use super::{Config, Shared};
use crate::journal::Journal;
use crate::model::{Cursor, Offset};
use crate::progress::Deliveries;

/// What is acknowledged.
#[derive(Debug)]
pub(super) struct Acknowledging {
    /// What is journaled, or what every peer has applied.
    waits_for_peers: bool,
    journal: Journal,
    deliveries: Arc<Deliveries>,
    /// Up to where the server has asked, as far as that was not acknowledged.
    asked: Option<Offset>,
}

impl Acknowledging {
    pub(super) fn new(config: &Config, shared: &Shared) -> Self {
        Self {
            waits_for_peers: config.waits_for_peers,
            journal: shared.journal.clone(),
            deliveries: Arc::clone(&shared.deliveries),
            asked: None,
        }
    }

    /// What is acknowledged now that everything up to `read` is journaled. The server ignores what is
    /// less than it has heard before.
    pub(super) fn offset(&mut self, read: Cursor) -> Offset {
        let offset = self.safe(read);
        if self.asked.is_some_and(|asked| offset >= asked) {
            self.asked = None;
        }
        offset
    }

    fn safe(&self, read: Cursor) -> Offset {
        if !self.waits_for_peers {
            return read.offset;
        }
        // Noted first: a record that is journaled meanwhile is not taken for one that was applied.
        let last = self.journal.last_record();
        let applied = self.deliveries.by_all().applied;
        match applied {
            // What follows the last record is nothing that travels.
            applied if applied >= last => read.offset,
            applied if applied.epoch == read.epoch => applied.offset,
            _ => Offset(0),
        }
    }

    /// The server asks how far we are, and has a client wait for the answer.
    pub(super) const fn ask(&mut self, read: Cursor) {
        self.asked = Some(read.offset);
    }

    /// Waits until the answer may be another. Cancel safe.
    pub(super) async fn news(&self) {
        match self.asked {
            Some(_) => self.deliveries.news().await,
            None => std::future::pending().await,
        }
    }
}

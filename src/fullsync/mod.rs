//! States that leave this site: snapshots for a copy, and single keys that a peer asks for.
//!
//! Both go into the stream of records at the exact place where they were read: every record up to
//! there before them, every later one behind. And both count as a write of their keys in the table
//! ([`crate::converge`]): a peer's state that has not seen ours must not replace what we sent, or
//! two sites would swap their values.

mod answer;
mod snapshot;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::link::{CopyBegin, CopyStates, OwedStates};
use crate::model::{Cursor, Seen, SiteId};
use crate::progress::Progress;

pub use self::answer::{Answerer, Request};
pub use self::snapshot::{Copier, Copying, Error};

/// Something that goes into the stream of records at one place.
#[derive(Debug)]
pub enum Insert {
    /// A copy: its parts follow.
    Copy(Copying),
    /// States that the peer asked for.
    Owed(OwedStates, Hold),
}

impl Insert {
    /// The place: behind every record up to there.
    #[must_use]
    pub const fn at(&self) -> Cursor {
        match self {
            Self::Copy(copying) => copying.begin.at,
            Self::Owed(owed, _) => owed.at,
        }
    }
}

/// A part of a copy.
#[derive(Debug)]
pub enum Part {
    /// It begins.
    Begin(CopyBegin),
    /// Entries.
    States(CopyStates),
    /// It is complete; the number of entries.
    End(u64),
}

/// The parts of a copy, as they are read.
pub type Parts = mpsc::Receiver<Result<Part, Error>>;

/// What of a peer we tell it that we have seen, held back while states are under way that had seen
/// less: the peer must remember its writes until those states have arrived.
#[derive(Clone, Debug)]
pub struct SeenGate {
    peer: SiteId,
    holds: Arc<Mutex<Vec<Cursor>>>,
}

impl SeenGate {
    /// A gate for a peer.
    #[must_use]
    pub fn new(peer: SiteId) -> Self {
        Self {
            peer,
            holds: Arc::default(),
        }
    }

    /// What may be told now.
    #[must_use]
    pub fn open(&self, progress: &Progress) -> Cursor {
        let seen = progress.seen.of(&self.peer);
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.iter().copied().fold(seen, Cursor::min)
    }

    /// Holds it back at what has been seen by now; that is what a state read from now on may
    /// claim.
    #[must_use]
    pub fn hold(&self, progress: &Progress) -> (Hold, Seen) {
        let seen = Seen::clone(&progress.seen);
        let at = seen.of(&self.peer);
        self.holds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(at);
        (
            Hold {
                at,
                holds: Arc::clone(&self.holds),
            },
            seen,
        )
    }
}

/// Keeps the gate where it is until it is dropped.
#[derive(Debug)]
pub struct Hold {
    at: Cursor,
    holds: Arc<Mutex<Vec<Cursor>>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = holds.iter().position(|h| *h == self.at) {
            holds.swap_remove(mine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Offset};

    fn progress(offset: u64) -> Progress {
        let mut seen = Seen::default();
        let at = Cursor {
            epoch: Epoch(1),
            offset: Offset(offset),
        };
        seen.advance(&SiteId::try_new("b").unwrap(), at);
        Progress {
            seen: Arc::new(seen),
            ..Progress::default()
        }
    }

    #[test]
    fn the_gate_stays_where_the_oldest_state_under_way_holds_it() {
        let gate = SeenGate::new(SiteId::try_new("b").unwrap());
        let (first, _) = gate.hold(&progress(5));
        let (second, _) = gate.hold(&progress(7));
        assert_eq!(gate.open(&progress(9)).offset, Offset(5));
        drop(first);
        assert_eq!(gate.open(&progress(9)).offset, Offset(7));
        drop(second);
        assert_eq!(gate.open(&progress(9)).offset, Offset(9));
    }
}

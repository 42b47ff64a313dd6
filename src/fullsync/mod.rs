//! States that leave this site: snapshots for a copy, and single keys that a peer asks for.
//!
//! Both go into the stream of records at the exact place where they were read: every record up to
//! there before them, every later one behind. And both count as a write of their keys in the table
//! ([`crate::converge`]): a peer's state that has not seen ours must not replace what we sent, or
//! two sites would swap their values.

mod answer;
mod asked;
mod large;
mod lost;
mod snapshot;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::link::{Bundle, CopyBegin, OwedStates};
use crate::model::{Cursor, Seen};
use crate::progress::Progress;

pub use self::answer::Answerer;
pub use self::asked::Asked;
pub use self::large::{Large, Spooled};
pub use self::snapshot::{Copier, Copying, Error, Prepared};

/// Something that goes into the stream of records at one place.
#[derive(Debug)]
pub enum Insert {
    /// A copy: its parts follow.
    Copy(Copying),
    /// States that the peer asked for.
    Owed(OwedStates, Hold),
    /// A large state that the peer asked for: its parts follow.
    Large(Large),
}

impl Insert {
    /// The place: behind every record up to there.
    #[must_use]
    pub const fn at(&self) -> Cursor {
        match self {
            Self::Copy(copying) => copying.begin.at,
            Self::Owed(owed, _) => owed.at,
            Self::Large(large) => large.at,
        }
    }
}

/// A part of a copy, or of a large state.
#[derive(Debug)]
pub enum Part {
    /// It begins.
    Begin(CopyBegin),
    /// Entries.
    States(Bundle),
    /// It is complete; the number of entries.
    End(u64),
    /// A part of a large state.
    Owed {
        /// It alone.
        states: OwedStates,
        /// Whether it is the last.
        is_last: bool,
    },
}

/// The parts of a copy or a large state, as they are read.
pub type Parts = mpsc::Receiver<Result<Part, Error>>;

/// Closed while states are being read or wait to be sent.
///
/// No record passes a closed gate: one that was written after a state was read must not arrive
/// before it, and the place of a state is known only when it has come back. And what we tell the
/// peer that we have seen stays as it was: the peer must remember its writes until states that have
/// not seen them have arrived.
#[derive(Clone, Debug)]
pub struct Gate {
    holds: Arc<Mutex<Vec<Seen>>>,
    turn: Arc<Semaphore>,
}

impl Default for Gate {
    /// An open gate.
    fn default() -> Self {
        Self {
            holds: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Gate {
    /// The right to read states, kept until they are in the queue to the writer. Were two reads
    /// under way at once, the later state could be queued first, with all records up to its place:
    /// the earlier one would then come behind records that it does not hold, and undo them. (The
    /// semaphore is never closed: it is always a permit.)
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// Whether records must wait.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self
            .holds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// What we may say now that we have seen.
    #[must_use]
    pub fn seen(&self, progress: &Progress) -> Seen {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Seen::clone(&progress.seen);
        holds.iter().fold(seen, |seen, hold| seen.common(hold))
    }

    /// Closes it: what we say we have seen stays at `seen`, or before.
    #[must_use]
    pub fn close(&self, seen: Seen) -> Hold {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.push(seen.clone());
        Hold {
            seen,
            holds: Arc::clone(&self.holds),
        }
    }
}

/// Keeps the gate closed until it is dropped.
#[derive(Debug)]
pub struct Hold {
    seen: Seen,
    holds: Arc<Mutex<Vec<Seen>>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = holds.iter().position(|h| *h == self.seen) {
            holds.swap_remove(mine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Offset, SiteId};

    fn seen(offset: u64) -> Seen {
        let (epoch, offset) = (Epoch(1), Offset(offset));
        let mut seen = Seen::default();
        seen.advance(&SiteId::try_new("b").unwrap(), Cursor { epoch, offset });
        seen
    }

    fn progress(offset: u64) -> Progress {
        Progress {
            seen: Arc::new(seen(offset)),
            ..Progress::default()
        }
    }

    #[test]
    fn a_gate_opens_when_the_last_state_under_way_has_passed() {
        let gate = Gate::default();
        let (first, second) = (gate.close(seen(5)), gate.close(seen(7)));
        assert_eq!(gate.seen(&progress(9)), seen(5));
        drop(first);
        assert_eq!(gate.seen(&progress(9)), seen(7));
        assert!(gate.is_closed());
        drop(second);
        assert!(!gate.is_closed());
        assert_eq!(gate.seen(&progress(9)), seen(9));
    }
}

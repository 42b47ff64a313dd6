//! The last snapshot of the local Redis, kept for whoever needs one.
//!
//! A server makes one whenever we attach to it for the first time, asked or not. It is good for the
//! first copy to a peer as well, which then costs the server no second fork.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{Replica, Snapshot, SnapshotError, snapshot};
use crate::model::{Cursor, Seen, SiteId};

/// How long a snapshot is kept that no copy was made of: a peer that comes later would get it with
/// ever more records behind it, and it takes room on the disk.
const KEPT: Duration = Duration::from_secs(600);

/// Whether the disk had room for the last snapshot.
#[derive(Clone, Debug)]
pub struct Room(Arc<AtomicBool>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Room {
    /// False: a copy should begin only when all of its snapshot is there, or it breaks off again
    /// and again.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// A snapshot was taken, or could not be.
    pub fn told<T>(&self, taken: &Result<T, SnapshotError>) {
        match taken {
            Ok(_) => self.0.store(true, Ordering::Relaxed),
            Err(SnapshotError::Disk { .. }) => self.0.store(false, Ordering::Relaxed),
            Err(_) => {}
        }
    }
}

/// Shared by those who take snapshots and those who need them.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Whether the disk has room.
    pub room: Room,
    kept: Mutex<Option<Kept>>,
    /// Snapshots that are being taken.
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Kept {
    snapshot: Snapshot,
    /// What of others it holds, at least.
    seen: Seen,
    since: Instant,
    /// Whether no copy was made of it.
    is_free: bool,
}

/// Who needs a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// The peer to which it is to be copied.
    pub peer: &'a SiteId,
    /// What of the peer has come back by now. The peer may have been told so, and no longer knows
    /// which of its writes an earlier snapshot lacks.
    pub seen: Cursor,
    /// What of the peer counts as seen in any case, because its records begin there.
    pub from: Cursor,
    /// From where the journal, and what was agreed, can send what follows the snapshot, in the
    /// present epoch.
    pub since: Cursor,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the snapshot that follows a full resync into a file in `dir`, and does not wait for the
    /// end of it.
    ///
    /// # Errors
    /// The disk is full.
    pub async fn spool(
        &self,
        replica: Replica,
        at: Cursor,
        dir: &Path,
    ) -> Result<Snapshot, SnapshotError> {
        let room = self.room.clone();
        let (snapshot, spooling) = snapshot::spool_behind(replica, at, dir, room).await?;
        let spooling = self.stop.clone().run_until_cancelled_owned(spooling);
        self.tasks.spawn(spooling);
        Ok(snapshot)
    }

    /// Breaks off what is being taken. Cancel safe.
    pub async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Keeps a snapshot in place of the one before. `is_free`: nobody has begun to copy it.
    ///
    /// # Errors
    /// What it holds of others cannot be written beside it.
    pub fn put(&self, snapshot: Snapshot, seen: Seen, is_free: bool) -> io::Result<()> {
        std::fs::write(snapshot.seen_path(), seen.to_string())?;
        let kept = Kept {
            snapshot,
            seen,
            since: Instant::now(),
            is_free,
        };
        if let Some(old) = self.lock().replace(kept) {
            old.let_go();
        }
        Ok(())
    }

    /// The place of the snapshot from which a first copy could be made.
    #[must_use]
    pub fn offer(&self, need: Need<'_>) -> Option<Cursor> {
        let kept = self.lock();
        kept.as_ref()
            .filter(|k| k.serves(need))
            .map(|k| k.snapshot.at)
    }

    /// That snapshot, and what of others it holds. Nobody else gets it.
    ///
    /// # Errors
    /// What it holds of others cannot be written beside it.
    pub fn take(&self, need: Need<'_>) -> io::Result<Option<(Snapshot, Seen)>> {
        let mut kept = self.lock();
        let Some(kept) = kept.as_mut().filter(|k| k.serves(need)) else {
            return Ok(None);
        };
        kept.is_free = false;
        kept.seen.advance(need.peer, need.from);
        std::fs::write(kept.snapshot.seen_path(), kept.seen.to_string())?;
        Ok(Some((kept.snapshot.clone(), kept.seen.clone())))
    }

    /// The snapshot of this place, of which a copy had been begun; here or in `dir`.
    #[must_use]
    pub fn find(&self, at: Cursor, dir: &Path) -> Option<(Snapshot, Seen)> {
        if let Some(kept) = self.lock().as_ref()
            && kept.snapshot.at == at
            && !kept.snapshot.has_failed()
        {
            return Some((kept.snapshot.clone(), kept.seen.clone()));
        }
        let found = Snapshot::find(dir).ok()?;
        let snapshot = found.into_iter().find(|s| s.at == at)?;
        let seen = std::fs::read_to_string(snapshot.seen_path()).ok()?;
        Some((snapshot, seen.parse().ok()?))
    }

    /// Lets go of a snapshot that nobody has needed for long, and of one that ended in the hands of
    /// another.
    pub fn tidy(&self) {
        let mut kept = self.lock();
        let is_over = |k: &mut Kept| match k.is_free {
            true => k.since.elapsed() > KEPT,
            // It is found in its directory, as long as it is there.
            false => k.snapshot.size().is_some() || k.snapshot.has_failed(),
        };
        if let Some(old) = kept.take_if(is_over) {
            old.let_go();
        }
    }
}

impl Kept {
    fn serves(&self, need: Need<'_>) -> bool {
        let at = self.snapshot.at;
        self.is_free
            && !self.snapshot.has_failed()
            && at.epoch == need.since.epoch
            && at >= need.since
            && self.seen.of(need.peer) == need.seen
    }

    /// What a copy is made of, that copy removes.
    fn let_go(self) {
        if self.is_free {
            debug!(at = %self.snapshot.at, "a snapshot was not needed");
            self.snapshot.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Offset};

    fn at(epoch: u64, offset: u64) -> Cursor {
        Cursor {
            epoch: Epoch(epoch),
            offset: Offset(offset),
        }
    }

    #[test]
    fn a_snapshot_serves_one_first_copy_and_can_be_found_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("snapshot-7-100.rdb"), "x").unwrap();
        let snapshot = Snapshot::find(dir.path()).unwrap().remove(0);
        let peer = SiteId::try_new("b").unwrap();
        let mut seen = Seen::default();
        seen.advance(&peer, at(3, 30));
        let shelf = Shelf::default();
        shelf.put(snapshot, seen, true).unwrap();
        let need = Need {
            peer: &peer,
            seen: at(3, 30),
            from: at(3, 40),
            since: at(7, 90),
        };
        // The peer may have been told of more; records since then cannot be sent; another history.
        for (seen, since) in [
            (at(3, 31), at(7, 90)),
            (at(3, 30), at(7, 101)),
            (at(3, 30), at(6, 90)),
        ] {
            assert_eq!(
                shelf.offer(Need {
                    seen,
                    since,
                    ..need
                }),
                None
            );
        }
        assert_eq!(shelf.offer(need), Some(at(7, 100)));
        let (snapshot, holds) = shelf.take(need).unwrap().unwrap();
        assert_eq!((snapshot.at, holds.of(&peer)), (at(7, 100), at(3, 40)));
        assert!(shelf.take(need).unwrap().is_none(), "it is taken");
        assert_eq!(shelf.offer(need), None);
        let (_, holds) = shelf.find(at(7, 100), dir.path()).unwrap();
        assert_eq!(holds.of(&peer), at(3, 40));

        // Also when it is only on the disk any more, and after a restart.
        shelf.tidy();
        for shelf in [shelf, Shelf::default()] {
            let (_, holds) = shelf.find(at(7, 100), dir.path()).unwrap();
            assert_eq!(holds.of(&peer), at(3, 40));
            assert!(shelf.find(at(7, 99), dir.path()).is_none());
        }
    }
}

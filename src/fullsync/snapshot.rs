//! Copying everything: a snapshot of the local Redis, read entry by entry.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, sleep};
use tracing::{info, warn};

use super::{Gate, Hold, Part, Parts};
use crate::apply::Debts;
use crate::converge::Reading;
use crate::intake::filter::Filter;
use crate::intake::{Shared, connection_name};
use crate::link::{Copy, CopyBegin, CopyStates, State, Value};
use crate::model::{CopyProgress, Cursor, Epoch, Seen, SiteId, is_reserved};
use crate::progress::Progress;
use crate::rdb;
use crate::redis::Settings;
use crate::replica::{self, PsyncReply, Replica, Snapshot, SnapshotError};

/// The most keys in one part: the receiver watches them all at once.
const PART_KEYS: usize = 128;
/// The most bytes in one part, but for a single larger value.
const PART_BYTES: usize = 1 << 20;
/// Parts read ahead.
const PARTS_AHEAD: usize = 2;
/// How long to wait before trying again to take a snapshot that had no room: each attempt costs
/// Redis a fork.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(10);
/// How long the main stream may take to reach the place of a snapshot.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Why a copy cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Attaching.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// The file.
    #[error("cannot use the snapshot {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The snapshot's bytes.
    #[error("the snapshot cannot be read: {0}")]
    Rdb(#[from] rdb::Error),
    /// Redis began a new history meanwhile.
    #[error("Redis has begun a new history; starting over")]
    History,
    /// The interrupted copy cannot be resumed, and must not be begun again.
    #[error(
        "the copy with existing = \"keep\" was interrupted and its snapshot is gone, so the \
         receiver's own keys cannot be told from those already copied; set existing = \
         \"overwrite\" at both sites, or empty the receiver"
    )]
    KeepInterrupted,
}

/// A copy that is under way to the peer.
#[derive(Debug)]
pub struct Copying {
    /// Its first message.
    pub begin: CopyBegin,
    /// What follows.
    pub parts: Parts,
    /// Holds back what we say we have seen.
    pub hold: Hold,
    /// The file, removed when the peer has all of it.
    pub snapshot: Snapshot,
}

/// Makes copies of the local Redis for a peer.
#[derive(Clone, Debug)]
pub struct Copier {
    /// This site.
    pub site: SiteId,
    /// How to reach the local Redis.
    pub redis: Settings,
    /// Where snapshots are.
    pub dir: PathBuf,
    /// What travels.
    pub filter: Filter,
    /// Journal, table.
    pub shared: Shared,
    /// What has been read.
    pub progress: watch::Receiver<Progress>,
    /// What we tell the peer that we have seen.
    pub gate: Gate,
    /// What of the peer's history counts as seen in any case: where its records begin.
    pub receives_from: (SiteId, Cursor),
    /// Keys whose state we want of the peer: ours is not the one to be sent.
    pub debts: Debts,
}

/// A copy that is going to be made. The gate is closed.
#[derive(Debug)]
pub struct Prepared {
    copy: Copy,
    hold: Hold,
    /// What the copy holds of others, at least.
    seen: Seen,
    /// The snapshot of an interrupted copy that goes on.
    resumed: Option<(Snapshot, u64)>,
    /// A new snapshot must not be from before this place: records up to here may have been sent.
    since: Cursor,
}

impl Copier {
    /// Closes the gate for a copy, and looks whether an interrupted one can go on. Where the session
    /// begins with a copy, call it before the peer hears what we have seen: hearing it, the peer
    /// forgets which of its writes a resumed snapshot does not hold.
    #[must_use]
    pub fn prepare(&self, copy: Copy, start: Cursor) -> Prepared {
        let progress = self.progress.borrow().clone();
        let (peer, from) = &self.receives_from;
        let (resumed, seen) = match copy.resume.and_then(|c| Some((c, self.find(c, start)?))) {
            Some((progress, (snapshot, seen))) => (Some((snapshot, progress.next)), seen),
            None => {
                let mut seen = Seen::clone(&progress.seen);
                seen.advance(peer, *from);
                (None, seen)
            }
        };
        let hold = self.gate.close(seen.of(peer).min(progress.seen.of(peer)));
        Prepared {
            copy,
            hold,
            seen,
            resumed,
            since: self.progress.borrow().read,
        }
    }

    /// Makes the copy.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin(&mut self, prepared: Prepared) -> Result<Copying, Error> {
        let Prepared {
            copy,
            hold,
            seen,
            resumed,
            since,
        } = prepared;
        let reading = Reading::snapshot(&self.shared.table).await;
        let interrupted = copy.resume.is_some_and(|c| c.keep && c.next > 0);
        let (snapshot, first) = match resumed {
            Some(resumed) => resumed,
            None if interrupted => return Err(Error::KeepInterrupted),
            None => (self.take_since(since, &seen).await?, 0),
        };
        self.reach(snapshot.at).await?;
        reading.finish(snapshot.at);
        let begin = CopyBegin {
            at: snapshot.at,
            seen,
            first,
            keep: copy.keep,
            bytes: snapshot.bytes,
        };
        info!(bytes = snapshot.bytes, from = first, at = %snapshot.at, "sending a copy");
        let parts = self.read(&snapshot, first)?;
        Ok(Copying {
            begin,
            parts,
            hold,
            snapshot,
        })
    }

    /// A snapshot from `since` or later. The server may hand us one that it had begun for another
    /// replica before; the next attempt then begins a new one. While the disk has no room for it we
    /// wait, so that what comes from the peer goes on.
    async fn take_since(&self, since: Cursor, seen: &Seen) -> Result<Snapshot, Error> {
        loop {
            let snapshot = match self.take(since.epoch, seen).await {
                Err(Error::Snapshot(error @ SnapshotError::Disk { .. })) => {
                    self.show(Some(error.to_string()));
                    sleep(WAIT_FOR_ROOM).await;
                    continue;
                }
                taken => taken?,
            };
            self.show(None);
            if snapshot.at >= since {
                return Ok(snapshot);
            }
            info!(at = %snapshot.at, %since, "the snapshot was begun before for another replica; taking a new one");
            snapshot.remove();
        }
    }

    /// Shows why the copy waits, or that it no longer does; logs it once.
    fn show(&self, error: Option<String>) {
        let Some(board) = self.shared.board.peer(&self.receives_from.0) else {
            return;
        };
        let mut board = board.lock();
        if let Some(error) = &error
            && board.error.as_ref() != Some(error)
        {
            warn!(peer = %board.site, error, "the copy waits");
        }
        board.error = error;
    }

    /// The snapshot of an interrupted copy, and what it had seen.
    fn find(&self, copy: CopyProgress, start: Cursor) -> Option<(Snapshot, Seen)> {
        let usable = copy.snapshot >= start && self.shared.journal.first() <= copy.snapshot;
        let found = Snapshot::find(&self.dir).ok()?;
        let snapshot = found
            .into_iter()
            .find(|s| s.at == copy.snapshot && usable)?;
        let seen = std::fs::read_to_string(snapshot.seen_path()).ok()?;
        Some((snapshot, seen.parse().ok()?))
    }

    /// Takes a new one, over a replica connection of its own.
    async fn take(&self, epoch: Epoch, seen: &Seen) -> Result<Snapshot, Error> {
        let name = connection_name(&self.site, "snapshot");
        let (mut replica, reply) = Replica::attach(&self.redis, &name, None).await?;
        let PsyncReply::FullResync(replid, offset) = reply else {
            return Err(Error::History);
        };
        let current = self
            .progress
            .borrow()
            .state
            .as_ref()
            .map(|s| (s.epoch, s.replid));
        if current != Some((epoch, replid)) {
            return Err(Error::History);
        }
        for old in Snapshot::find(&self.dir).unwrap_or_default() {
            old.remove();
        }
        let at = Cursor { epoch, offset };
        let snapshot = replica::spool(&mut replica, at, &self.dir).await?;
        let path = snapshot.seen_path();
        std::fs::write(&path, seen.to_string()).map_err(|source| Error::File {
            path: path.display().to_string(),
            source,
        })?;
        Ok(snapshot)
    }

    /// Waits until the main stream has been read up to the snapshot.
    async fn reach(&mut self, at: Cursor) -> Result<(), Error> {
        let reached = self.progress.wait_for(|p| p.read >= at);
        tokio::select! {
            reached = reached => match reached {
                Ok(progress) if progress.read.epoch == at.epoch => Ok(()),
                Ok(_) | Err(_) => Err(Error::History),
            },
            () = sleep(CATCH_UP) => Err(Error::History),
        }
    }

    /// Reads the snapshot in a thread of its own: it is large, and the disk may be slow.
    fn read(&self, snapshot: &Snapshot, first: u64) -> Result<Parts, Error> {
        let path = snapshot.path.clone();
        let file = File::open(&path).map_err(|source| Error::File {
            path: path.display().to_string(),
            source,
        })?;
        let (send, parts) = mpsc::channel(PARTS_AHEAD);
        let (filter, debts) = (self.filter.clone(), self.debts.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_parts(file, first, (&filter, &debts), &send) {
                // Nobody listens any more when the session is over.
                drop(send.blocking_send(Err(error)));
            }
        });
        Ok(parts)
    }
}

fn read_parts(
    file: File,
    skip: u64,
    (filter, debts): (&Filter, &Debts),
    send: &mpsc::Sender<Result<Part, Error>>,
) -> Result<(), Error> {
    let mut reader = rdb::Reader::try_new(file)?;
    let (mut number, mut bytes, mut states) = (0_u64, 0, Vec::new());
    while let Some(entry) = reader.next_entry()? {
        let state = match entry {
            rdb::Entry::Value(value)
                if is_reserved(&value.key) || !filter.has(value.db, &value.key) =>
            {
                continue;
            }
            rdb::Entry::Value(value) => {
                let wanted = debts.wants(&(value.db, value.key.clone()));
                State {
                    db: value.db,
                    key: value.key,
                    expire_at_ms: value.expire_at_ms.unwrap_or(0),
                    value: if wanted {
                        Value::Unsaid
                    } else {
                        Value::Dump(value.payload)
                    },
                }
            }
            rdb::Entry::Function(source) => {
                let value = Value::Function(source.into());
                State {
                    db: 0,
                    key: bytes::Bytes::new(),
                    expire_at_ms: 0,
                    value,
                }
            }
            rdb::Entry::Aux { .. } | rdb::Entry::SizeHint { .. } => continue,
        };
        number += 1;
        if number <= skip {
            continue;
        }
        if let Value::Dump(payload) = &state.value {
            bytes += payload.len();
        }
        states.push(state);
        if states.len() >= PART_KEYS || bytes >= PART_BYTES {
            bytes = 0;
            if !send_states(&mut states, number, reader.bytes_read(), send) {
                return Ok(());
            }
        }
    }
    if !states.is_empty() && !send_states(&mut states, number, reader.bytes_read(), send) {
        return Ok(());
    }
    drop(send.blocking_send(Ok(Part::End(number))));
    Ok(())
}

/// False when nobody listens any more.
fn send_states(
    states: &mut Vec<State>,
    number: u64,
    bytes_done: u64,
    send: &mpsc::Sender<Result<Part, Error>>,
) -> bool {
    let states = std::mem::take(states);
    let first = number - states.len() as u64;
    send.blocking_send(Ok(Part::States(CopyStates {
        first,
        bytes_done,
        states,
    })))
    .is_ok()
}

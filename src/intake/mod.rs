//! From bytes of the replication stream to tagged records in the journal.
//!
//! One task owns the replica connection, the decoder, the clock and the journal's writer. What it
//! has read is in the journal before anybody hears of it, and is acknowledged to Redis only then.

mod acknowledge;
mod ahead;
mod conflicts;
pub mod decoder;
pub mod event;
mod evictions;
mod facts;
pub mod filter;
pub mod history;
mod lost;
mod overrun;
mod refused;
mod resume;
mod stream;
mod unknown;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub use self::conflicts::ConflictLog;
use self::conflicts::Conflicts;
pub use self::evictions::Listener;
use self::filter::Filter;
use self::stream::Stream;
use crate::command::Catalog;
use crate::converge::{Claims, Docket, Foreign, Judge, Table};
use crate::journal::{Journal, Recovered, Writer};
use crate::model::{InstanceId, SiteId};
use crate::progress::{Deliveries, Progress, Reached, Reserve, SeenAt, Sources};
use crate::redis::{self, Lease, Settings};
use crate::replica::{self, Shelf, SnapshotError};
use crate::status::Board;

/// The first wait before connecting again; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait before connecting again: a Redis that is back must not wait for us long, and
/// one that is away must not be bothered.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait when the journal is full: to look again costs nothing, and a peer that makes room may
/// be waiting.
const WAIT_FOR_PEERS: Duration = Duration::from_millis(250);
/// The longest wait when there is no room for a snapshot: each attempt costs Redis a fork.
const LONGEST_WAIT_FOR_ROOM: Duration = Duration::from_secs(10);
/// A connection that lived this long counts as a success: the waits begin anew.
const SUCCESS: Duration = Duration::from_secs(5);

/// What the intake needs.
#[derive(Debug)]
pub struct Config {
    /// This site.
    pub site: SiteId,
    /// This life.
    pub instance: InstanceId,
    /// The peers whose marks are to be expected.
    pub peers: Vec<SiteId>,
    /// How to reach Redis.
    pub redis: Settings,
    /// How to reach the replica of it from which the stream comes; none: from Redis itself.
    pub replica: Option<Settings>,
    /// What travels.
    pub filter: Filter,
    /// Where snapshots are spooled.
    pub dir: PathBuf,
    /// What is written to the conflict log.
    pub conflicts: ConflictLog,
    /// Whether the journal is forced to the disk before anybody hears of a write.
    pub forces: bool,
    /// Whether Redis is told that a write is safe only when every peer has applied it.
    pub waits_for_peers: bool,
    /// Whether what Redis evicts stays here, and does not travel as a delete.
    pub keeps_evictions: bool,
}

impl Config {
    /// How to reach the server from which the stream comes.
    pub(super) fn reading(&self) -> &Settings {
        self.replica.as_ref().unwrap_or(&self.redis)
    }
}

/// What the intake shares with the other parts.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The reading side of the journal.
    pub journal: Journal,
    /// Recent local writes.
    pub table: Arc<Table>,
    /// Recent writes of third sites.
    pub foreign: Arc<Foreign>,
    /// What this site wants and was asked for.
    pub claims: Arc<Claims>,
    /// What is known of commands.
    pub catalog: Catalog,
    /// What had come back at recent places; kept only where there are third sites.
    pub seen_at: Arc<SeenAt>,
    /// Whoever has it gets the first copy of an empty site, where there are several peers.
    pub joining: Arc<Semaphore>,
    /// Up to where peers' records have been applied.
    pub reached: Arc<Reached>,
    /// What peers have.
    pub deliveries: Arc<Deliveries>,
    /// Which of them give back what the local Redis has lost.
    pub sources: Arc<Sources>,
    /// The last snapshot.
    pub shelf: Arc<Shelf>,
    /// Per peer, its records that wait to be judged.
    pub dockets: Arc<BTreeMap<SiteId, Docket>>,
    /// Where everybody says how it is.
    pub board: Arc<Board>,
    /// Who writes into the local Redis needs it.
    pub lease: Lease,
    /// What of a full journal is kept for the beginning of sessions.
    pub reserve: Arc<Reserve>,
}

/// Why reading had to stop for a moment, or for good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Attaching to Redis, or the stream.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// A connection besides the stream.
    #[error(transparent)]
    Redis(#[from] redis::Error),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The bytes of the stream.
    #[error(
        "the replication stream of Redis is not understood at offset {offset}: {source}; reading it again from the last good place"
    )]
    Stream {
        /// Where the command begins.
        offset: u64,
        /// Why.
        source: event::DecodeError,
    },
    /// The snapshot's bytes.
    #[error("the snapshot that Redis sent cannot be read: {0}")]
    Rdb(#[from] crate::rdb::Error),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::Error),
    /// What the journal holds was not written by this version.
    #[error("the journal's own state is not understood: {0}; move the journal's directory away")]
    Saved(String),
    /// No thread for the conflict log.
    #[error("cannot start a thread: {0}; the machine, or the container, has no room for it")]
    Thread(std::io::Error),
    /// The server is too old, or a cluster.
    #[error("{0}")]
    Unsupported(String),
    /// The replica from which the stream comes is behind what has been read elsewhere, or does not follow
    /// our primary.
    #[error(
        "the replica at {address} does not have what has been read already, or follows another \
         primary; waiting for it, or for another replica"
    )]
    Behind {
        /// Which.
        address: String,
    },
    /// Sentinels name another server.
    #[error("the Sentinels name the server at {to} now, not the one at {from}; going there")]
    Moved {
        /// Which was read.
        from: String,
        /// Which is to be read.
        to: String,
    },
    /// The sidecar is about to end.
    #[error("looking into the snapshot was broken off; trying again")]
    Interrupted,
}

impl Error {
    /// The longest wait before the next attempt.
    const fn longest_wait(&self) -> Duration {
        match self {
            Self::Journal(crate::journal::Error::Full { .. }) => WAIT_FOR_PEERS,
            Self::Snapshot(SnapshotError::Disk { .. }) | Self::Journal(_) => LONGEST_WAIT_FOR_ROOM,
            _ => LONGEST_WAIT,
        }
    }
}

/// Reads the local Redis for ever.
#[derive(Debug)]
pub struct Intake {
    config: Config,
    shared: Shared,
    stream: Stream,
    /// What was last logged; empty when it is over.
    trouble: String,
}

impl Intake {
    /// Picks up where the journal ends. The receiver shows what has been read.
    ///
    /// # Errors
    /// The journal's content cannot be read.
    pub fn open(
        config: Config,
        shared: Shared,
        writer: Writer,
        recovered: &Recovered,
    ) -> Result<(Self, watch::Receiver<Progress>), Error> {
        let (journal, catalog) = (&shared.journal, &shared.catalog);
        let tables = (Arc::clone(&shared.table), Arc::clone(&shared.foreign));
        let asking = (&*shared.dockets, Arc::clone(&shared.claims));
        let mut judge = Judge::new(config.site.clone(), tables, catalog.clone(), asking);
        let resume = resume::Resume::from_journal(journal, recovered, catalog, &mut judge)?;
        let board = Arc::clone(&shared.board);
        let log = config.conflicts.clone();
        let conflicts = Conflicts::new(config.site.clone(), board, log).map_err(Error::Thread)?;
        let judging = (judge, conflicts);
        let (stream, progress) = Stream::new(&config, shared.clone(), writer, resume, judging);
        Ok((
            Self {
                config,
                shared,
                stream,
                trouble: String::new(),
            },
            progress,
        ))
    }

    /// What has to run in a task of its own beside this, if evictions are to stay here.
    pub const fn take_listener(&mut self) -> Option<Listener> {
        self.stream.take_listener()
    }

    /// Follows Redis until `stop`, through every loss of the connection.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut wait = FIRST_WAIT;
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let result = self.follow(&stop).await;
            self.shared.board.redis().connected = false;
            let Err(error) = result else { break };
            self.report(&error);
            if begun.elapsed() > SUCCESS {
                wait = FIRST_WAIT;
            }
            let longest = error.longest_wait();
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(wait.min(longest)) => {}
            }
            wait = (wait * 2).min(longest);
        }
        if let Err(error) = self.stream.sync() {
            error!(%error, "the journal could not be synced at the end");
        }
    }

    /// One connection, from attaching to its end; Ok when told to stop.
    async fn follow(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        self.stream.room()?;
        let attached = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            attached = resume::attach(&self.config, &self.shared, &mut self.stream) => attached?,
        };
        self.trouble.clear();
        let from = attached.address().clone();
        {
            let mut redis = self.shared.board.redis();
            redis.address = from.to_string();
            redis.connected = true;
            redis.error = None;
        }
        let leaving = stop.child_token();
        let following = self.stream.follow(attached, &leaving);
        tokio::pin!(following);
        let moved = self.config.reading().moved(&from);
        let to = tokio::select! {
            ended = &mut following => return ended,
            to = moved => to.to_string(),
        };
        // What has been read is journaled before.
        leaving.cancel();
        following.await?;
        let from = from.to_string();
        Err(Error::Moved { from, to })
    }

    fn report(&mut self, error: &Error) {
        let mut redis = self.shared.board.redis();
        let message = error.to_string();
        // One line per kind of trouble, not one per attempt.
        if self.trouble != message {
            warn!(%error, "not reading the local Redis");
            self.trouble.clone_from(&message);
        }
        redis.error = Some(message);
        // Known to be usable again as soon as it answers; of our own disk it knows nothing.
        redis.usable &= matches!(error, Error::Journal(_));
    }
}

/// The wall clock in milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

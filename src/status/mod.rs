//! What `/status` says: one board that every part writes its own section of.
//!
//! The fields are the public interface of `GET /status` and of `tandem status --json`; adding one
//! is a feature, renaming one breaks users.

mod conflicts;
mod ration;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::conflicts::{ByWinner, Conflicts, Times};
pub use self::ration::Ration;
use crate::model::{Cursor, InstanceId, SiteId};

/// The whole status of one sidecar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The name of this site.
    pub site: String,
    /// The life of this process.
    pub instance: String,
    /// The version of this program.
    pub version: String,
    /// Seconds since this process started.
    pub uptime_seconds: f64,
    /// True when all that was read is journaled, and every peer is settled.
    pub settled: bool,
    /// The sidecar of this site that works while this one stands by: its instance, and where it comes
    /// from. None when this one works.
    #[serde(default)]
    pub standby_for: Option<String>,
    /// The local Redis.
    pub redis: RedisStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// The peers, in the order of the configuration.
    pub peers: Vec<PeerStatus>,
}

/// The local Redis as the sidecar sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RedisStatus {
    /// Where it is, without the password.
    pub address: String,
    /// Whether the replication stream is being read.
    pub connected: bool,
    /// Whether it can be used: reachable, authenticated, loaded. `/readyz` says this.
    pub usable: bool,
    /// `redis_version` of INFO (Valkey: `valkey_version`).
    pub version: String,
    /// `master` or `slave`, in the words of INFO.
    pub role: String,
    /// The id of the history being read.
    pub replid: String,
    /// Our number for that history.
    pub epoch: u64,
    /// How much of the replication stream has been read and, where it matters, journaled.
    pub offset: u64,
    /// Full and partial resyncs since the start.
    pub resyncs_full: u64,
    /// Partial resyncs since the start.
    pub resyncs_partial: u64,
    /// What was told of evictions; none unless they are kept local.
    #[serde(default)]
    pub evictions: Option<EvictionStatus>,
    /// Writes that touched selected keys and others, could not be divided, and did not travel.
    #[serde(default)]
    pub writes_not_selected: u64,
    /// What is wrong and what to do, when something is.
    pub error: Option<String>,
}

/// Evictions of the local Redis that are to stay here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictionStatus {
    /// Whether they are told from clients' deletes now.
    pub told: bool,
    /// Evictions that stayed here, since the start.
    pub kept: u64,
    /// Deletes that could not be told from evictions and travelled, since the start: clients' are among
    /// them.
    pub in_doubt: u64,
    /// What is wrong and what to do, when something is.
    pub error: Option<String>,
}

/// The journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// The first place from which a peer could go on.
    pub first: String,
    /// The last place.
    pub end: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// The configured limit, in bytes.
    pub max_bytes: u64,
    /// What is wrong and what to do, when something is (a full disk, for example).
    pub error: Option<String>,
    /// Why it cannot be forced to the disk, when it cannot.
    #[serde(default)]
    pub sync_error: Option<String>,
    /// That it is nearly full, for whom, and what follows.
    #[serde(default)]
    pub warning: Option<String>,
    /// When it will be full, if it grows on as in the last minute.
    #[serde(default)]
    pub seconds_left: Option<f64>,
    /// How often its oldest part was dropped although a peer had not got it.
    #[serde(default)]
    pub overflows: u64,
}

/// In which state the link with a peer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// No session; retried for ever.
    #[default]
    Connecting,
    /// A session; a copy is under way, in one direction or both.
    FullSync,
    /// A session; both directions are incremental.
    Synchronizing,
    /// Stopped by name; a person must act.
    Stopped,
}

/// Why a peer is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The name of the state: lower case, words joined by `_`.
    pub reason: String,
    /// What happened.
    pub detail: String,
    /// What a person can do.
    pub remedy: String,
}

/// How far a copy has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// `sending` or `receiving`.
    pub direction: String,
    /// Snapshot entries done.
    pub keys_done: u64,
    /// Bytes of the snapshot done.
    pub bytes_done: u64,
    /// About how many keys there are.
    #[serde(default)]
    pub keys_total: u64,
    /// Bytes of the snapshot; 0 while they are not known, because it is being taken.
    pub bytes_total: u64,
    /// 0 to 100; by keys while the bytes are not known.
    pub percent: f64,
    /// Bytes of the snapshot a second, since the copy began or went on.
    #[serde(default)]
    pub bytes_per_second: f64,
    /// How long it will still take at this rate; none before that can be said.
    #[serde(default)]
    pub seconds_left: Option<f64>,
    /// When it began or went on.
    #[serde(skip)]
    pub clock: CopyClock,
}

/// What the progress of a copy is reckoned from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CopyClock {
    began: Option<Instant>,
    /// Bytes and percent that were done when it began: those of an earlier session.
    skipped: Option<(u64, f64)>,
    told: Option<Instant>,
}

/// How often the progress of a copy is logged.
const TELL_PERIOD: Duration = Duration::from_secs(10);

impl CopyStatus {
    /// A copy begins, or goes on.
    #[must_use]
    pub fn begin(direction: &str, keys_done: u64, keys_total: u64) -> Self {
        let now = Instant::now();
        Self {
            direction: direction.to_owned(),
            keys_done,
            keys_total,
            clock: CopyClock {
                began: Some(now),
                skipped: None,
                told: Some(now),
            },
            ..Self::default()
        }
    }

    /// Takes note of how far it has come, by keys, by bytes, and of how many bytes as far as that is
    /// known; whether it is time to say so in the log.
    pub fn advance(
        &mut self,
        keys_done: u64,
        (bytes_done, total): (u64, u64),
        now: Instant,
    ) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs few digits")]
        let float = |n: u64| n as f64;
        self.keys_done = keys_done;
        self.bytes_done = bytes_done;
        self.bytes_total = total;
        let (done, all) = match total {
            0 => (keys_done, self.keys_total),
            total => (bytes_done, total),
        };
        self.percent = (100.0 * float(done) / float(all.max(1))).min(100.0);
        let (Some(began), Some(told)) = (self.clock.began, self.clock.told) else {
            return false;
        };
        // What an earlier session did comes at once with the first part.
        let skipped = *self.clock.skipped.get_or_insert((bytes_done, self.percent));
        let seconds = now.duration_since(began).as_secs_f64();
        if seconds > 0.1 {
            self.bytes_per_second = float(bytes_done.saturating_sub(skipped.0)) / seconds;
        }
        let gained = self.percent - skipped.1;
        self.seconds_left = (gained > 0.0).then(|| (100.0 - self.percent) * seconds / gained);
        let due = now.duration_since(told) >= TELL_PERIOD;
        if due {
            self.clock.told = Some(now);
        }
        due
    }
}

impl fmt::Display for CopyStatus {
    /// `25 %: 5 keys, 1.0 MiB of 4.0 MiB, 2.0 MiB/s, 2 s left`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = Mebibytes(self.bytes_done);
        write!(f, "{:.0} %: {} keys, {done}", self.percent, self.keys_done)?;
        if self.bytes_total > 0 {
            write!(f, " of {}", Mebibytes(self.bytes_total))?;
        }
        if self.bytes_per_second > 0.0 {
            write!(f, ", {:.1} MiB/s", self.bytes_per_second / MEBIBYTE)?;
        }
        if let Some(seconds) = self.seconds_left {
            write!(f, ", {seconds:.0} s left")?;
        }
        Ok(())
    }
}

const MEBIBYTE: f64 = 1_048_576.0;

struct Mebibytes(u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
        let size = self.0 as f64 / MEBIBYTE;
        write!(f, "{size:.1} MiB")
    }
}

/// What a copy did, from the site that received it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCounts {
    /// Keys that were not here and are now.
    pub created: u64,
    /// Keys that were here and were replaced.
    pub overwritten: u64,
    /// Keys that were here and stayed.
    pub kept: u64,
    /// States that came too late, because the key was written here meanwhile, and were asked for
    /// again.
    pub refused: u64,
    /// Those created by a copy after a time in which clients wrote here and nobody read: keys that they
    /// have deleted then are among them.
    #[serde(default)]
    pub returned: u64,
    /// Keys that were not taken, because it is proved that clients have deleted them here while nobody
    /// read: they are deleted at the peer.
    #[serde(default)]
    pub deleted: u64,
}

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub site: String,
    /// Its address, when we dial.
    pub address: Option<String>,
    /// The state of the link.
    pub state: PeerState,
    /// Why it is stopped, when it is.
    pub stop: Option<Stop>,
    /// The last error of the link; kept until the next session.
    pub error: Option<String>,
    /// A copy under way from here to there.
    pub sending: Option<CopyStatus>,
    /// A copy under way from there to here.
    pub receiving: Option<CopyStatus>,
    /// What the last copies received did.
    pub copied: CopyCounts,
    /// The last offset of ours sent to it.
    pub sent_offset: u64,
    /// The last offset of ours that it has received.
    pub acknowledged_offset: u64,
    /// The last offset of ours that it has applied.
    pub applied_offset: u64,
    /// The last record of ours, which it must reach.
    pub last_record_offset: u64,
    /// The last offset of its history that we have received.
    pub received_offset: u64,
    /// The last offset of its history that we have applied.
    pub committed_offset: u64,
    /// Journal bytes that it has not yet applied.
    pub lag_bytes: u64,
    /// The age of the oldest record that it has not yet applied; 0 when there is none.
    pub lag_seconds: f64,
    /// Round trip of the link, when known.
    pub round_trip_seconds: Option<f64>,
    /// Records sent to it since the start.
    pub records_sent: u64,
    /// Bytes of messages sent to it since the start.
    #[serde(default)]
    pub message_bytes: u64,
    /// Bytes that these were on the link: fewer where they are compressed.
    #[serde(default)]
    pub link_bytes: u64,
    /// Records of it applied here since the start.
    pub records_applied: u64,
    /// States that it still owes us: keys refused by the guard or commands that failed here.
    pub states_owed: u64,
    /// Sessions since the start.
    pub sessions: u64,
    /// Commands of it that failed here since the start; the state of their keys was asked for.
    pub failed_commands: u64,
    /// Writes of both sites that had not seen each other, and what became of them.
    #[serde(default)]
    pub conflicts: Conflicts,
    /// Commands of it, and values, that the Redis here has nothing to hold; left out.
    #[serde(default)]
    pub unheld: u64,
    /// Why applying waits, when it does (`OOM`, `LOADING`, …).
    pub waiting: Option<String>,
    /// How far the stamps of its writes are ahead of the clock here, when that is more than a minute.
    #[serde(default)]
    pub clock_ahead_seconds: Option<f64>,
    /// True when all that this site has read is applied there and nothing is under way.
    pub settled: bool,
    /// The last place of our history applied there.
    #[serde(skip)]
    pub applied: Cursor,
    /// The epoch of ours in which the session began: what it says holds for that epoch only.
    #[serde(skip)]
    pub epoch: u64,
    /// Whether nothing is under way: no copy, no debt, nothing received and not yet applied.
    #[serde(skip)]
    pub quiet: bool,
}

/// Shared by all parts: each writes its own section, admin reads all.
#[derive(Debug)]
pub struct Board {
    site: SiteId,
    instance: InstanceId,
    started: Instant,
    standby_for: Mutex<Option<String>>,
    redis: Mutex<RedisStatus>,
    journal: Mutex<JournalStatus>,
    /// The last record of this site: what every peer must reach.
    last_record: Mutex<Cursor>,
    peers: Vec<(SiteId, Mutex<PeerStatus>)>,
}

/// The section of one peer on the board.
#[derive(Clone, Debug)]
pub struct PeerBoard {
    board: Arc<Board>,
    index: usize,
}

impl Board {
    /// An empty board for a site with these peers.
    #[must_use]
    pub fn new(site: SiteId, instance: InstanceId, peers: &[SiteId]) -> Arc<Self> {
        let section = |peer: &SiteId| {
            let status = PeerStatus {
                site: peer.to_string(),
                ..PeerStatus::default()
            };
            (peer.clone(), Mutex::new(status))
        };
        Arc::new(Self {
            site,
            instance,
            started: Instant::now(),
            standby_for: Mutex::default(),
            redis: Mutex::default(),
            journal: Mutex::default(),
            last_record: Mutex::default(),
            peers: peers.iter().map(section).collect(),
        })
    }

    /// The section of the local Redis. Hold it for a few assignments only.
    pub fn redis(&self) -> MutexGuard<'_, RedisStatus> {
        self.redis.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says for whom this sidecar stands by, if it does.
    pub fn set_standby(&self, holder: Option<String>) {
        let standby = self.standby_for.lock();
        *standby.unwrap_or_else(PoisonError::into_inner) = holder;
    }

    /// For whom it stands by.
    #[must_use]
    pub fn standby(&self) -> Option<String> {
        let standby = self.standby_for.lock();
        standby.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The section of the journal. Hold it for a few assignments only.
    pub fn journal(&self) -> MutexGuard<'_, JournalStatus> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record was journaled; says so before its offset is shown, so that nobody sees an offset
    /// with a `settled` from before it.
    pub fn set_last_record(&self, at: Cursor) {
        *self
            .last_record
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// The peers.
    #[must_use]
    pub fn sites(&self) -> Vec<SiteId> {
        self.peers.iter().map(|(site, _)| site.clone()).collect()
    }

    /// The section of a peer, if it is configured.
    #[must_use]
    pub fn peer(self: &Arc<Self>, site: &SiteId) -> Option<PeerBoard> {
        let index = self.peers.iter().position(|(s, _)| s == site)?;
        Some(PeerBoard {
            board: Arc::clone(self),
            index,
        })
    }

    /// The whole status, as of now.
    #[must_use]
    pub fn status(&self) -> Status {
        let redis = self.redis().clone();
        let last = *self
            .last_record
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let peer = |section: &Mutex<PeerStatus>| {
            let mut peer = section
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if peer.epoch != redis.epoch && peer.state == PeerState::Synchronizing {
                peer.state = PeerState::Connecting;
            }
            let linked = peer.state == PeerState::Synchronizing;
            peer.last_record_offset = last.offset.0;
            peer.settled = linked && peer.quiet && peer.applied >= last;
            peer
        };
        let peers: Vec<PeerStatus> = self.peers.iter().map(|(_, p)| peer(p)).collect();
        let journal = self.journal().clone();
        // While the journal refuses, what was read is nowhere yet.
        let reads = redis.connected && journal.error.is_none();
        Status {
            site: self.site.to_string(),
            instance: self.instance.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            standby_for: self.standby(),
            settled: reads && peers.iter().all(|p| p.settled),
            redis,
            journal,
            peers,
        }
    }
}

impl PeerBoard {
    /// The section. Hold it for a few assignments only.
    ///
    /// # Panics
    /// Never: the index was found in the same board.
    pub fn lock(&self) -> MutexGuard<'_, PeerStatus> {
        let (_, section) = &self.board.peers[self.index];
        section.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_measured_by_keys_until_its_size_is_known() {
        let mut copy = CopyStatus::begin("receiving", 0, 400);
        let now = Instant::now() + Duration::from_secs(1);
        assert!(!copy.advance(100, (1 << 20, 0), now));
        assert!((copy.percent - 25.0).abs() < 0.1);
        assert!(
            copy.seconds_left.is_none(),
            "nothing was gained since the first look"
        );
        assert!(!copy.advance(200, (2 << 20, 0), now + Duration::from_secs(1)));
        assert!((copy.percent - 50.0).abs() < 0.1);
        assert!(
            copy.seconds_left.is_some_and(|s| (3.5..4.5).contains(&s)),
            "{copy:?}"
        );
        assert!(
            copy.to_string()
                .starts_with("50 %: 200 keys, 2.0 MiB, 0.5 MiB/s"),
            "{copy}"
        );
        assert!(copy.advance(300, (3 << 20, 4 << 20), now + TELL_PERIOD));
        assert!(
            copy.to_string()
                .starts_with("75 %: 300 keys, 3.0 MiB of 4.0 MiB"),
            "{copy}"
        );
    }
}

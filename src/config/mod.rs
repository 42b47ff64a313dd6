//! The configuration: a TOML file and the environment, checked as a whole.
//!
//! A key of the file can be set by a variable instead: `TANDEM__REDIS__PASSWORD` stands for
//! `password` in `[redis]`, and `TANDEM__SITE` for `site`. The variable wins; an empty one counts
//! as not set, because that is what compose files make of a variable that they do not find. Peers
//! are set in the file only. Unknown keys are refused, and all mistakes are reported at once.

mod check;
mod choice;
mod mistake;
mod show;
mod size;
mod source;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

pub use self::mistake::Errors;
use self::mistake::{Mistake, Place};
pub use self::size::Size;
use self::source::Source;
use crate::model::{Pattern, ShownKeys, SiteId};
use crate::redis;

/// A whole configuration, checked. Its `Display` is the file that would give it, secrets masked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this site.
    pub site: SiteId,
    /// The local Redis: its primary, where it is written to.
    pub redis: redis::Settings,
    /// Where its replication stream and snapshots come from: the same, or one of its replicas.
    pub read_from: ReadFrom,
    /// How peers reach us.
    pub link: Link,
    /// The other sites, at least one; no two have the same name.
    pub peers: Vec<Peer>,
    /// What is synced, and how it begins.
    pub sync: Sync,
    /// The journal.
    pub journal: JournalConfig,
    /// What is written down about conflicts.
    pub conflicts: Conflicts,
    /// The HTTP interface for operators.
    pub admin: Admin,
}

impl Config {
    /// How to reach the server from which the local Redis is read.
    #[must_use]
    pub fn reading(&self) -> &redis::Settings {
        self.read_from.replica().unwrap_or(&self.redis)
    }
}

/// Where the replication stream of the local Redis comes from.
#[derive(Clone, Debug)]
pub enum ReadFrom {
    /// The primary itself.
    Primary,
    /// The replica that its Sentinels name, or the primary while there is none.
    Replica(redis::Settings),
    /// A replica whose URL is given.
    Server(redis::Settings),
}

impl ReadFrom {
    /// How to reach the replica; none when it is the primary that is read.
    #[must_use]
    pub const fn replica(&self) -> Option<&redis::Settings> {
        match self {
            Self::Primary => None,
            Self::Replica(settings) | Self::Server(settings) => Some(settings),
        }
    }
}

/// How peers reach us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where we wait to be dialled; with none (`"off"` in the file), we only dial.
    pub listen: Option<SocketAddr>,
    /// How what goes from here to the peers is compressed.
    pub compression: Compression,
}

/// How what is sent to the peers is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With zstd, each session as one stream.
    Zstd,
}

/// Another site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub site: SiteId,
    /// Where its sidecar listens, `host:port`; with none, we wait to be dialled.
    pub address: Option<String>,
}

/// What is synced, and how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Who copies its data to whom when two sites meet for the first time.
    pub initial: Initial,
    /// What to do when both hold data then.
    pub existing: Existing,
    /// Which databases.
    pub databases: Databases,
    /// Which keys.
    pub keys: Keys,
    /// What is done here with FLUSHALL and FLUSHDB of a peer.
    pub flush: Flush,
    /// What is done here with PUBLISH of a peer.
    pub publish: Publish,
    /// What becomes of a key that the local Redis evicts.
    pub evictions: Evictions,
    /// When Redis is told that a write is safe.
    pub acknowledge: Acknowledge,
    /// The most bytes a second that a copy from here may send; none: as fast as the peer takes it.
    pub max_rate: Option<u64>,
    /// How large a value may be that a copy from here sends whole, in bytes; larger ones travel in
    /// parts of about that size.
    pub big_value: u64,
}

/// Which keys are synced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Those that match one of these; empty: every one.
    pub include: Vec<Pattern>,
    /// But not those that match one of these.
    pub exclude: Vec<Pattern>,
}

/// What is done with FLUSHALL and FLUSHDB of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// Done here too.
    #[default]
    Forward,
    /// Left out; the sites then differ until the keys are written again.
    Ignore,
    /// Nothing more is taken from that peer until a person has decided.
    Stop,
}

/// What is done with PUBLISH of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Publish {
    /// Published here too.
    #[default]
    Forward,
    /// Left out.
    Ignore,
}

/// What becomes of a key that the local Redis evicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Evictions {
    /// It is deleted at the other sites too.
    #[default]
    Forward,
    /// The other sites keep it. Redis must publish what it evicts.
    KeepLocal,
}

/// When Redis is told that a write is safe: what a client's `WAIT` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// When it is in the journal.
    #[default]
    Journal,
    /// When every peer has applied it.
    Peers,
}

/// Who copies its data to whom when two sites meet for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// The site that holds data to the one that is empty.
    #[default]
    Auto,
    /// This site to the peer.
    Send,
    /// The peer to this site.
    Receive,
    /// Nobody: only what is written from then on is synced.
    None,
}

/// What to do when two sites that meet for the first time both hold data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Existing {
    /// Stop and say so.
    #[default]
    Refuse,
    /// The sender's value of a key that both have replaces the receiver's.
    Overwrite,
    /// The receiver's value of a key that both have stays.
    Keep,
}

/// Which databases are synced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Databases {
    /// Every one.
    #[default]
    All,
    /// These; not empty.
    Only(BTreeSet<u32>),
}

/// Where the journal is and how large it may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// Its directory, for this sidecar alone.
    pub dir: PathBuf,
    /// Bytes on disk, [`MIN_JOURNAL`] or more.
    pub max_size: u64,
    /// When it is forced to the disk.
    pub fsync: Fsync,
    /// What is done at that size.
    pub when_full: WhenFull,
}

/// When the journal is forced to the disk. Whenever a process dies alone, nothing is lost; this is about
/// the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Before anybody hears of a write: Redis, and so a client's `WAIT`, or a peer.
    Always,
    /// Once a second.
    #[default]
    Everysec,
    /// When the system thinks fit.
    No,
}

/// What is done when the journal is full of what a peer has not got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest is dropped; the peer gets a copy when it is back.
    #[default]
    FullSync,
    /// Reading waits until the peer is back. What Redis cannot keep in its backlog so long makes a copy
    /// necessary, but the peer gets first what is in the journal.
    StopReading,
}

/// How conflicts are found and what is written down about them: two writes of one key, at two sites,
/// that had not seen each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflicts {
    /// How many writes are remembered until every peer has seen them: 1024 to 16 million.
    pub remember: usize,
    /// The file, JSON lines; none: they are only counted.
    pub log: Option<PathBuf>,
    /// How keys stand in it.
    pub keys: ShownKeys,
    /// The most lines a second.
    pub max_rate: u32,
}

/// The HTTP interface for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether it takes orders to repair keys although others than this machine can reach it.
    pub allow_repair: bool,
}

impl Admin {
    /// Whether orders to repair keys are taken: nothing asks who the caller is, so only from this
    /// machine, unless that is wanted otherwise.
    #[must_use]
    pub const fn takes_repairs(&self) -> bool {
        self.allow_repair || self.listen.ip().is_loopback()
    }
}

/// How many writes are remembered if nothing else is said: 30 MB. At 50,000 a second and a round trip of
/// 200 ms there are 20,000, one for each key and one for each element.
pub const DEFAULT_REMEMBERED: usize = 1 << 19;

/// How many writes can be remembered: fewer than these are forgotten before anybody has seen them, and
/// more than 16 million are 1 GB.
const REMEMBERED: RangeInclusive<u64> = 1 << 10..=1 << 24;

/// Where peers dial us: every interface, because a peer is on another machine by nature.
pub const DEFAULT_LINK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7480);

/// Where operators ask: this machine only, because nothing asks who they are.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9480);

/// How large the journal may grow: about an hour of 3 MB/s, which is a long cut of the link for a
/// busy Redis, on a disk that most machines have.
pub const DEFAULT_JOURNAL: u64 = 10 << 30;

/// The smallest journal: below this a burst of large values or one short cut would end in a full
/// sync.
pub const MIN_JOURNAL: u64 = 16 << 20;

/// The slowest copy: a slower one would not end before the journal is full.
const MIN_RATE: u64 = 64 << 10;

/// How large a value may be that travels whole, unless configured: several of them are in memory
/// at once on the way.
pub const DEFAULT_BIG_VALUE: u64 = 4 << 20;

/// What may be configured for that: smaller parts cost more round trips than they save memory, and
/// larger ones defeat their purpose.
const BIG_VALUES: RangeInclusive<u64> = 16 << 10..=256 << 20;

/// The most lines a second of the conflict log, unless configured: enough to see which keys it is, and
/// 2 GB a day at worst.
pub const DEFAULT_CONFLICT_RATE: u32 = 100;

/// The most that may be configured: beyond this the log would cost more than the sync.
const MAX_CONFLICT_RATE: u64 = 10_000;

/// The most patterns of keys: each costs time with every key that is written.
const MAX_PATTERNS: usize = 100;

/// The largest configuration file, in bytes: whatever is larger was named by mistake.
const MAX_FILE: u64 = 1 << 20;

/// Reads the file, adds the environment of this process, checks the whole.
///
/// # Errors
/// All mistakes of both.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let refused = |message: String| Errors::new(path, vec![Mistake::new(Place::File, "", message)]);
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
        .map_err(|e| refused(format!("cannot read it: {e}; name the file with --config")))?;
    if text.len() as u64 > MAX_FILE {
        let message = "too large for a configuration; name the file with --config";
        return Err(refused(message.to_owned()));
    }
    let env: Vec<_> = std::env::vars_os().collect();
    parse(&text, path, &env)
}

/// Checks a configuration given as text and as variables; `path` is for the errors.
///
/// # Errors
/// All mistakes of both.
pub fn parse(text: &str, path: &Path, env: &[(OsString, OsString)]) -> Result<Config, Errors> {
    let mut mistakes = Vec::new();
    let config = Source::read(text, env, &mut mistakes)
        .and_then(|source| check::config(&source, &mut mistakes));
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(Errors::new(path, mistakes)),
    }
}

#[cfg(test)]
mod tests;

//! The journal: the sidecar's file of everything that it has read from its local Redis.
//!
//! The link sends from it, and a restart resumes from it. It stores frames: a header, which it
//! understands, and a body, which it does not. One [`Writer`] appends; any number of [`Reader`]s
//! follow, from memory while they keep up and from the files when they do not.
//!
//! ```text
//!              00…05.seg        00…06.seg        00…07.seg
//!  trimmed ┊ header │ frames ┊ header │ frames ┊ header │ frames ─► append
//!          ▲ first                                     └─ tail ─┘▲ end
//! ```
//!
//! What holds at all times:
//!
//! - `first ≤ durable ≤ end`, and `trimmed ≤ first`: only whole segments go, and never the last.
//! - A frame that [`Writer::append`] accepted is in the page cache: it survives the process. It
//!   survives the machine when [`Syncer::sync`] returned a cursor that includes it.
//! - No frame with a wrong checksum is ever returned, and none is left out.
//! - The files never take more than [`Config::max_size`], but for one frame that is larger.

mod frame;
mod header;
mod segment;
mod cases;
mod recovery;
mod index;
mod shared;
mod writer;
mod reader;

use std::io;
use std::path::{Path, PathBuf};

use crate::model::Cursor;

pub use self::frame::{Frame, FrameHeader, FrameKind};
pub use self::index::EpochRange;
pub use self::reader::Reader;
pub use self::recovery::Recovered;
pub use self::shared::{Journal, Syncer};
pub use self::writer::Writer;

/// Where the journal is and how large it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its directory; made if it is not there.
    pub dir: PathBuf,
    /// The most bytes that its files may take: [`MIN_MAX_SIZE`] or more.
    pub max_size: u64,
    /// Whether the oldest segment is dropped when that is reached, needed or not. Else nothing more is
    /// appended from three quarters of it on, until it has been trimmed: the last quarter is a reserve
    /// ([`Writer::use_reserve`]).
    pub drops_oldest: bool,
}

/// The smallest [`Config::max_size`]: one segment to write and one to read.
pub const MIN_MAX_SIZE: u64 = 2 * MIN_SEGMENT;
/// Segments are so large: trimming frees this much, and a rotation syncs what is left of this much.
const MAX_SEGMENT: u64 = 64 << 20;
/// The size of segments when `max_size` is small.
const MIN_SEGMENT: u64 = 1 << 20;
/// Segments are this part of `max_size`, so that dropping one loses little of the history.
const SEGMENTS: u64 = 8;
/// How much is kept in memory for readers that keep up: some 30 frames of the usual size, more
/// than a link has in flight.
const TAIL_BYTES: usize = 8 << 20;

/// Of a journal that drops nothing, one part of so many is kept in reserve.
const RESERVE: u64 = 4;

/// How many bytes of so many a journal that drops nothing keeps in reserve ([`Writer::use_reserve`]).
#[must_use]
pub const fn reserve(max_size: u64) -> u64 {
    max_size / RESERVE
}

/// What limits the parts; tests make them small.
#[derive(Clone, Copy, Debug)]
struct Limits {
    segment: u64,
    tail: usize,
    total: u64,
    drops_oldest: bool,
}

impl Limits {
    /// How much the files may take without the reserve.
    const fn usual(&self) -> u64 {
        match self.drops_oldest {
            true => self.total,
            false => self.total - reserve(self.total),
        }
    }

    fn of(config: &Config) -> Result<Self, Error> {
        let Config {
            dir,
            max_size,
            drops_oldest,
        } = config;
        if *max_size < MIN_MAX_SIZE {
            return Err(Error::TooSmall {
                path: dir.clone(),
                max_size: *max_size,
            });
        }
        Ok(Self {
            segment: (max_size / SEGMENTS).clamp(MIN_SEGMENT, MAX_SEGMENT),
            tail: TAIL_BYTES,
            total: *max_size,
            drops_oldest: *drops_oldest,
        })
    }
}

/// Why the journal cannot do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the lock.
    #[error(
        "the journal {} is in use by another process: a second tandem with this directory? give \
         each its own", path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It holds as much as is configured, and a peer still needs all of it.
    #[error(
        "the journal {} is full (max_size is {max_size} bytes, of which a quarter is a reserve), and a \
         peer has not got it yet; bring that peer back, or raise [journal] max_size and restart",
        path.display()
    )]
    Full {
        /// The directory.
        path: PathBuf,
        /// What is configured.
        max_size: u64,
    },
    /// No space, or no quota, left. What failed can be tried again.
    #[error(
        "disk full: cannot {doing} {}; free some space, or lower the maximal size of the journal",
        path.display()
    )]
    DiskFull {
        /// A verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {source}; check the disk and the permissions", path.display())]
    Io {
        /// A verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error(
        "the journal is damaged: {what} in {} at byte {offset}; check the disk, then move the \
         journal's directory away: a new one is begun, and the peers are synced in full",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The byte from which on it is not good.
        offset: u64,
        /// What is there.
        what: &'static str,
    },
    /// A segment in the middle is not there.
    #[error(
        "the journal has a gap: {} is missing; put it back, or move the journal's directory away: \
         a new one is begun, and the peers are synced in full",
        path.display()
    )]
    Missing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// A file has the name of a segment and is none.
    #[error("{} is not a segment of a journal; move it out of the directory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of this program.
    #[error(
        "{} has version {found} of the journal's format, which this program does not read; run \
         the version that wrote it, or move the journal's directory away", path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The configured size is too small.
    #[error(
        "a maximal size of {max_size} bytes is too small for the journal {}; give it \
         {MIN_MAX_SIZE} or more", path.display()
    )]
    TooSmall {
        /// The directory.
        path: PathBuf,
        /// What is configured.
        max_size: u64,
    },
    /// What a reader asks for is not there any more.
    #[error("the journal no longer holds what follows {after}; it begins at {first}")]
    Trimmed {
        /// What was asked for.
        after: Cursor,
        /// What could be.
        first: Cursor,
    },
    /// The writer is gone: this process is shutting down.
    #[error("the journal is closed")]
    Closed,
    /// Our own bug: what was to be written makes no sense.
    #[error("{what} cannot be written to the journal {}; this is a bug", path.display())]
    Misuse {
        /// What was wrong.
        what: &'static str,
        /// The directory.
        path: PathBuf,
    },
}

impl Error {
    /// Whether the same call may succeed when a person has made room.
    #[must_use]
    pub const fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { doing, path }
            }
            _ => Self::Io {
                doing,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests;

//! Two sites' writes that had not seen each other, and do not commute.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::{Hlc, Key};

/// What met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Two writes of a value, or of an element.
    Write,
    /// A delete or an expiry, and anything else.
    Delete,
    /// A change of the time to live, and a write.
    Expiry,
    /// The key was renamed, or moved, and written.
    Move,
    /// Another key was made of this one, and it was written.
    Derived,
    /// FLUSHDB, FLUSHALL or SWAPDB, and writes of the database.
    Database,
    /// What was written here is remembered no longer.
    Unknown,
}

impl ConflictKind {
    /// The word for it in metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Expiry => "expiry",
            Self::Move => "move",
            Self::Derived => "derived",
            Self::Database => "database",
            Self::Unknown => "unknown",
        }
    }
}

/// Whose write prevails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Winner {
    /// That of this site.
    Here,
    /// That of the other.
    Peer,
}

impl Winner {
    /// The word for it in metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Peer => "peer",
        }
    }
}

/// A conflict, of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: Key,
    /// What met.
    pub kind: ConflictKind,
    /// Whose write prevails.
    pub winner: Winner,
    /// When the last of our writes was read; none for deletes, and when it is not known.
    pub ours: Option<Hlc>,
    /// When the peer's write was read there.
    pub theirs: Hlc,
    /// The peer's command.
    pub command: Bytes,
}

/// How keys are shown to people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShownKeys {
    /// As they are.
    Full,
    /// As a hash: the same key is the same hash, at every site.
    #[default]
    Hash,
    /// Not at all.
    None,
}

impl ShownKeys {
    /// How a key is shown; none when it is not.
    #[must_use]
    pub fn show(self, key: &[u8]) -> Option<String> {
        match self {
            Self::Full => Some(key.escape_ascii().to_string()),
            Self::Hash => Some(format!("{:032x}", xxh3_128(key))),
            Self::None => None,
        }
    }
}

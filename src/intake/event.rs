//! What a replication stream means: the events that the [decoder](super::decoder) finds in it.

use crate::command::{Effects, ScanError};
use crate::model::{InstanceId, Key, MAX_FRAME, Mark, Offset, SelfMark, SiteId};

/// A client's write: one command, or one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Where it ends in the stream.
    pub offset: Offset,
    /// The database selected when it begins.
    pub db: u32,
    /// How many commands it has, SELECTs included.
    pub count: u32,
    /// The commands in canonical form.
    pub commands: Vec<u8>,
    /// What they do.
    pub effects: Effects,
}

/// What a piece of the stream means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client wrote. Give the memory [back](super::decoder::Decoder::reuse) when it is read.
    Write(Box<Write>),
    /// A peer's writes, come back.
    Echo {
        /// Whose they are.
        origin: SiteId,
        /// Their mark.
        mark: Box<Mark>,
        /// Keys that are deleted in them. A delete that the peer has not done is this Redis, in which
        /// the key had expired, as the write of the peer came.
        deleted: Vec<Key>,
        /// Where they end in the stream.
        offset: Offset,
    },
    /// A self mark, come back.
    SelfMark {
        /// The mark.
        mark: SelfMark,
        /// Where it ends.
        offset: Offset,
    },
    /// A fence: somebody of ours waits to see it here.
    Fence {
        /// Whose fence: what follows the prefix in its key.
        name: String,
        /// The life of the sidecar that set it.
        instance: InstanceId,
        /// Its number.
        number: u64,
        /// Where it ends.
        offset: Offset,
    },
    /// A client removed marks, or may have: they must be written again.
    MarksRemoved {
        /// The database into which SWAPDB has carried them.
        strays: Option<u32>,
    },
    /// A client wrote to a reserved key; the write does not travel.
    Trespass(Vec<u8>),
    /// The server has evicted a key, which does not travel.
    Evicted(Key),
    /// A command cannot travel under the configured selection.
    NotSelected(Vec<u8>),
    /// A command of which nothing is known: it travels, as a write of every key.
    Unknown(Vec<u8>),
    /// The server wants to know at once how far we are.
    AckWanted,
}

/// Why the stream cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no commands.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A transaction that is larger than a frame may be.
    #[error("a transaction of more than {MAX_FRAME} bytes")]
    TooLarge,
    /// MULTI in MULTI.
    #[error("{0}")]
    Framing(&'static str),
}

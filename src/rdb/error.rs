//! Why a snapshot could not be read.

use std::io;

use super::Version;

/// How many bytes of a key an error shows: enough to find it, not enough to flood a log.
const KEY_SHOWN: usize = 64;

/// Why a snapshot could not be read, by what follows from it.
///
/// A truncated, damaged or malformed snapshot is worth another transfer. An unsupported version,
/// type or opcode is not: the server is newer than this program, or saved data that only its own
/// module can read. An I/O error is of the local disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source of the bytes failed.
    #[error("read the snapshot: {0}")]
    Io(#[from] io::Error),
    /// The bytes end before the snapshot does.
    #[error("snapshot ends early, at offset {offset}")]
    Truncated {
        /// How many bytes there were.
        offset: u64,
    },
    /// The first bytes are not those of a snapshot.
    #[error("not an RDB snapshot: it begins with {0:?}")]
    Magic(String),
    /// A snapshot of a format that this program does not know.
    #[error("snapshot of unsupported version {0}")]
    Version(Version),
    /// A value of a type that cannot be walked over, so neither it nor what follows can be read.
    #[error("value of unknown type {type_byte} of key {key:?} at offset {offset}")]
    UnknownType {
        /// The type, as the snapshot numbers it.
        type_byte: u8,
        /// The beginning of the key, as text.
        key: String,
        /// Where the type byte is.
        offset: u64,
    },
    /// An opcode between values that this program does not know.
    #[error("unknown opcode {opcode} at offset {offset}")]
    UnknownOpcode {
        /// The opcode.
        opcode: u8,
        /// Where it is.
        offset: u64,
    },
    /// The bytes say something that no server writes.
    #[error("malformed snapshot: {what} before offset {offset}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where it was noticed.
        offset: u64,
    },
    /// The bytes are not the ones that the server wrote.
    #[error("snapshot has checksum {computed:016x} but says {stored:016x}")]
    Checksum {
        /// What the last eight bytes say.
        stored: u64,
        /// What the bytes before them give.
        computed: u64,
    },
    /// The caller went on after an error; where the next entry begins is not known then.
    #[error("the snapshot could not be read further after an earlier error")]
    AfterError,
}

/// The beginning of a key as text, for an error.
pub(super) fn shown(key: &[u8]) -> String {
    let (head, cut) = match key.get(..KEY_SHOWN) {
        Some(head) if key.len() > KEY_SHOWN => (head, "..."),
        _ => (key, ""),
    };
    let mut text = String::from_utf8_lossy(head).into_owned();
    text.push_str(cut);
    text
}

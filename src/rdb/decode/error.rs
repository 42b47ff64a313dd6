//! Why a value cannot be decoded.

/// Why a value cannot be decoded, by what follows from it.
///
/// A malformed value is damaged, or made by somebody who means harm. A value of a module or of an
/// unknown type is sound, but only RESTORE can bring it to another server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes say something that no server writes.
    #[error("malformed value of type {type_byte}: {what} before offset {offset}")]
    Malformed {
        /// The type; 255 where the bytes end before it.
        type_byte: u8,
        /// What is wrong.
        what: &'static str,
        /// Where it was noticed: a place in the payload. Of what is wrong inside of a packed
        /// structure, the end of that structure.
        offset: usize,
    },
    /// The bytes are not the ones that the server gave.
    #[error("value has checksum {computed:016x} but says {stored:016x}")]
    Checksum {
        /// What the last eight bytes say.
        stored: u64,
        /// What the bytes before them give.
        computed: u64,
    },
    /// Only the module that saved the value can read it.
    #[error("value of the module type {0:?}, which only that module can read")]
    Module(String),
    /// A type that this program cannot decode.
    #[error("value of type {type_byte}, RDB version {version}, which cannot be decoded")]
    Type {
        /// The type.
        type_byte: u8,
        /// The version that the value is stamped with: the same number may mean different things.
        version: u16,
    },
}

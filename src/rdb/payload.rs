//! The form in which RESTORE takes a value: what DUMP gives.
//!
//! `type byte, body, RDB version (2 bytes), CRC64 of all before it (8 bytes)`, little end first.
//! Type byte and body are the same bytes as in a snapshot. A server refuses a version later than
//! its own and otherwise does not look at it, so the earliest version that knows the type makes
//! the payload loadable on the widest range of servers.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

use super::Flavour;

/// The size of what follows the body.
pub(super) const FOOTER_SIZE: usize = 10;

/// The first RDB version of Valkey's own; below, the numbers are those of Redis.
pub(super) const VALKEY_FIRST: u16 = 80;
/// Values of modules, in the old and the new form.
const MODULE_TYPES: [u8; 2] = [6, 7];
/// The version of the oldest servers that we speak to; older types are stamped with it too.
const VERSION_MIN: u16 = 9;
/// The version since which a payload may begin with metadata that modules keep with a key.
pub(super) const VERSION_KEY_META: u16 = 13;

/// The earliest RDB version that knows a type; nothing when we do not.
///
/// Type 22 is a hash with field expiry in Valkey and was an unreleased format in Redis.
#[must_use]
pub fn lowest_version(type_byte: u8, flavour: Flavour) -> Option<u16> {
    match (type_byte, flavour) {
        (0..=5 | 7 | 9..=15, _) => Some(VERSION_MIN),
        (16..=19, _) => Some(10),
        (20 | 21, _) => Some(11),
        (22, Flavour::Valkey) => Some(80),
        (24 | 25, Flavour::Redis) => Some(12),
        (26, Flavour::Redis) => Some(13),
        (27 | 28, Flavour::Redis) => Some(14),
        _ => None,
    }
}

/// Makes a payload of a type and a body, stamped with a version.
#[must_use]
pub fn payload(type_byte: u8, body: &[u8], version: u16) -> Bytes {
    let size = body.len().saturating_add(1).saturating_add(FOOTER_SIZE);
    let mut bytes = Vec::with_capacity(size);
    bytes.push(type_byte);
    bytes.extend_from_slice(body);
    seal(bytes, version)
}

/// What a target can do with a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// RESTORE takes it as it is.
    AsItIs,
    /// RESTORE takes it with this footer: DUMP stamps every value with the version of the server,
    /// also one whose type is older.
    Stamped(Bytes),
    /// It does not know the type.
    Not,
}

/// Whether a target that takes these RDB versions takes a payload.
#[must_use]
pub fn fit(payload: &[u8], takes: impl Fn(u16) -> bool) -> Fit {
    let Some((body, version)) = unseal(payload) else {
        return Fit::Not;
    };
    if takes(version) {
        return Fit::AsItIs;
    }
    let flavour = Flavour::of(version);
    let lowest = body.first().and_then(|t| lowest_version(*t, flavour));
    match lowest.filter(|lowest| takes(*lowest)) {
        Some(lowest) => Fit::Stamped(seal(body.to_vec(), lowest)),
        None => Fit::Not,
    }
}

/// Whether a payload is of a module's type, or has metadata of modules.
#[must_use]
pub fn is_of_module(payload: &[u8]) -> bool {
    let first = payload.first();
    first.is_some_and(|t| MODULE_TYPES.contains(t) || *t == super::opcode::KEY_META_OR_SLOT_IMPORT)
}

/// Type and body, and the version of the footer.
fn unseal(payload: &[u8]) -> Option<(&[u8], u16)> {
    let (body, footer) = payload.split_at_checked(payload.len().checked_sub(FOOTER_SIZE)?)?;
    let version = footer.first_chunk().copied().map(u16::from_le_bytes)?;
    Some((body, version))
}

/// The checksum that ends a footer, over all that comes before it.
pub(super) fn sum(bytes: &[u8]) -> [u8; 8] {
    checksum(CrcAlgorithm::Crc64Redis, bytes).to_le_bytes()
}

/// Appends the footer to type byte and body.
pub(super) fn seal(mut bytes: Vec<u8>, version: u16) -> Bytes {
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&sum(&bytes));
    // The room that a large value left over while it grew is not kept for as long as the value.
    if bytes.capacity().saturating_sub(bytes.len()) > bytes.len() / 8 {
        bytes.shrink_to_fit();
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_stamped_as_old_as_its_type_is() {
        let new = payload(0, b"\x01a", 13);
        assert_eq!(fit(&new, |v| v <= 13), Fit::AsItIs);
        assert_eq!(fit(&new, |v| v <= 9), Fit::Stamped(payload(0, b"\x01a", 9)));
        let listpack = payload(16, b"\x01a", 80);
        assert_eq!(fit(&listpack, |v| v <= 9), Fit::Not);
        assert_eq!(
            fit(&listpack, |v| v <= 10),
            Fit::Stamped(payload(16, b"\x01a", 10))
        );
        assert_eq!(fit(b"short", |_| true), Fit::Not);
        assert!(is_of_module(&payload(7, b"x", 9)) && !is_of_module(&new));
    }
}

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

/// Appends the footer to type byte and body.
pub(super) fn seal(mut bytes: Vec<u8>, version: u16) -> Bytes {
    bytes.extend_from_slice(&version.to_le_bytes());
    let crc = checksum(CrcAlgorithm::Crc64Redis, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    // The room that a large value left over while it grew is not kept for as long as the value.
    if bytes.capacity().saturating_sub(bytes.len()) > bytes.len() / 8 {
        bytes.shrink_to_fit();
    }
    bytes.into()
}

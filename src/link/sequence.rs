//! The numbers of frames.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::message::{HEADER, crc32c};

/// Counts the frames of one direction of a connection. The number is part of the checksum: a frame that is
/// missing, or comes twice, is found as one with a flipped bit is. TCP does not lose what is in the middle
/// of a stream, but what stands between two sites may; and so might we.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    next: u32,
    salt: u32,
}

impl Sequence {
    pub(super) const fn next(&mut self) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        number ^ self.salt
    }

    /// From now on numbers are those of this connection, on which these two nonces were said.
    pub(super) fn begin(&mut self, nonces: (u64, u64)) {
        let (low, high) = (nonces.0.min(nonces.1), nonces.0.max(nonces.1));
        self.salt = crc32c(&[low.to_le_bytes(), high.to_le_bytes()].concat());
    }

    /// Numbers frames that are sent, in their order.
    pub(super) fn number(&mut self, mut frames: &mut [u8]) {
        while let Some((header, rest)) = frames.split_at_mut_checked(HEADER) {
            let (length, crc) = header.split_at_mut(4);
            let field = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
            let numbered = field(crc) ^ self.next();
            crc.copy_from_slice(&numbered.to_le_bytes());
            let length = usize::try_from(field(length)).unwrap_or(usize::MAX);
            frames = rest.get_mut(length..).unwrap_or_default();
        }
    }
}

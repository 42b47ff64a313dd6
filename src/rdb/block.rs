//! Room for small keys and payloads: many of them share one allocation.

use bytes::{Bytes, BytesMut};

use super::payload::{FOOTER_SIZE, sum};

/// How much is allocated at once. One key that is kept keeps all of it.
const BLOCK_SIZE: usize = 32 << 10;
/// What is larger has an allocation of its own.
pub(super) const SMALL: usize = 2 << 10;

const _: () = assert!(SMALL + 1 + FOOTER_SIZE <= BLOCK_SIZE / 8, "many are small");

/// The room that is left in the last allocation.
#[derive(Default)]
pub(super) struct Block(BytesMut);

impl Block {
    /// These bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Bytes {
        self.make_room(bytes.len());
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }

    /// A payload of a type and a body, stamped with a version.
    pub(super) fn payload(&mut self, type_byte: u8, body: &[u8], version: u16) -> Bytes {
        self.make_room(body.len().saturating_add(1).saturating_add(FOOTER_SIZE));
        self.0.extend_from_slice(&[type_byte]);
        self.0.extend_from_slice(body);
        self.0.extend_from_slice(&version.to_le_bytes());
        let sum = sum(&self.0);
        self.0.extend_from_slice(&sum);
        self.0.split().freeze()
    }

    /// Where everything that was in the block is gone, the next one is the same memory.
    fn make_room(&mut self, size: usize) {
        if self.0.capacity() < size {
            self.0.reserve(BLOCK_SIZE.max(size));
        }
    }
}

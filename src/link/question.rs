//! What a site asks the other for.

use bytes::Bytes;

use super::message::{MessageError, put_cursor, take_cursor};
use super::state::{take_count, take_db};
use crate::model::{Cursor, Key, Need, put_bytes, put_varint, take_bytes, take_u8};

/// Please send the states of these keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// How much of the asking site's history must have been seen when they are read.
    pub after: Cursor,
    /// How badly they are needed.
    pub need: Need,
    /// The keys.
    pub keys: Vec<Key>,
}

impl Question {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_cursor(out, self.after);
        out.push(self.need as u8);
        put_varint(out, self.keys.len() as u64);
        for (db, key) in &self.keys {
            put_varint(out, u64::from(*db));
            put_bytes(out, key);
        }
    }

    pub(super) fn take(input: &mut Bytes) -> Result<Self, MessageError> {
        let after = take_cursor(input)?;
        let need = take_u8(input)?;
        let need = Need::of(need).ok_or(MessageError::Need(need))?;
        let mut keys = Vec::new();
        for _ in 0..take_count(input)? {
            keys.push((take_db(input)?, take_bytes(input)?));
        }
        Ok(Self { after, need, keys })
    }
}

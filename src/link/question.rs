//! What a site asks the other for.

use bytes::Bytes;

use super::message::{MessageError, put_cursor, take_cursor};
use super::state::{take_count, take_db};
use crate::model::{
    Cursor, Key, Need, RecordError, Seen, put_bytes, put_varint, take_bytes, take_u8,
};

/// Please send the states of these keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// How much of the asking site's history must have been seen when they are read.
    pub after: Cursor,
    /// The same of third sites' histories.
    pub seen: Seen,
    /// How badly they are needed.
    pub need: Need,
    /// The keys.
    pub keys: Vec<Key>,
}

impl Question {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_cursor(out, self.after);
        self.seen.encode(out);
        out.push(self.need as u8);
        put_keys(out, &self.keys);
    }

    pub(super) fn take(input: &mut Bytes) -> Result<Self, MessageError> {
        let after = take_cursor(input)?;
        let seen = Seen::decode(input)?;
        let need = take_u8(input)?;
        let need = Need::of(need).ok_or(MessageError::Need(need))?;
        let keys = take_keys(input)?;
        Ok(Self {
            after,
            seen,
            need,
            keys,
        })
    }
}

pub(super) fn put_keys(out: &mut Vec<u8>, keys: &[Key]) {
    put_varint(out, keys.len() as u64);
    for (db, key) in keys {
        put_varint(out, u64::from(*db));
        put_bytes(out, key);
    }
}

pub(super) fn take_keys(input: &mut Bytes) -> Result<Vec<Key>, RecordError> {
    let mut keys = Vec::new();
    for _ in 0..take_count(input)? {
        keys.push((take_db(input)?, take_bytes(input)?));
    }
    Ok(keys)
}

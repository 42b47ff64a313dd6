//! What a site asks the other for.

use bytes::Bytes;

use super::message::{MessageError, put_cursor, take_count, take_cursor, take_db};
use crate::model::{Cursor, Key, put_bytes, put_varint, take_bytes, take_u8};

/// Please send the states of these keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// How much of the asking site's history must have been seen when they are read.
    pub after: Cursor,
    /// Whether the asking site lacks something of them; else all is there, and only wrong.
    pub lacks: bool,
    /// Whether it needs only those that have a time to live at the other site.
    pub doubts: bool,
    /// The keys.
    pub keys: Vec<Key>,
}

impl Question {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_cursor(out, self.after);
        out.push(u8::from(self.lacks));
        out.push(u8::from(self.doubts));
        put_varint(out, self.keys.len() as u64);
        for (db, key) in &self.keys {
            put_varint(out, u64::from(*db));
            put_bytes(out, key);
        }
    }

    pub(super) fn take(input: &mut Bytes) -> Result<Self, MessageError> {
        let after = take_cursor(input)?;
        let (lacks, doubts) = (take_u8(input)? == 1, take_u8(input)? == 1);
        let mut keys = Vec::new();
        for _ in 0..take_count(input)? {
            keys.push((take_db(input)?, take_bytes(input)?));
        }
        Ok(Self {
            after,
            lacks,
            doubts,
            keys,
        })
    }
}

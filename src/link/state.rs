//! The states of keys, and how they travel.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::Bytes;

use super::message::{MAX_KEYS, put_copy_states, put_frame};
use crate::model::{RecordError, put_bytes, put_varint, take_bytes, take_u8, take_varint};
use crate::rdb::Place;

/// The value of one key, whole, or that it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its database.
    pub db: u32,
    /// The key; of a function library, its name is in the value.
    pub key: Bytes,
    /// When it expires, in milliseconds since 1970; 0 for never.
    pub expire_at_ms: u64,
    /// What it is.
    pub value: Value,
    /// What the sender knows of the receiver's.
    pub standing: Standing,
}

/// What the sender of a copy that answers one knows of a key at the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    #[default]
    Unknown,
    /// It is certain that the receiver has had it, and the sender has not written it since: if it is not
    /// there any more, it was deleted there.
    Old,
    /// It was in the receiver's own copy, which had not seen the sender's writes: the sender has asked for
    /// a later state of it, and what the receiver has is right.
    Asked,
}

impl State {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.db));
        put_bytes(out, &self.key);
        put_varint(out, self.expire_at_ms);
        let standing = match self.standing {
            Standing::Unknown => 0,
            Standing::Old => OLD,
            Standing::Asked => ASKED,
        };
        let (kind, bytes) = match &self.value {
            Value::Absent => (ABSENT, None),
            Value::Unsaid => (UNSAID, None),
            Value::Dump(payload) => (DUMP, Some(payload)),
            Value::Part(Place::First, payload) => (FIRST_PART, Some(payload)),
            Value::Part(Place::Middle, payload) => (MIDDLE_PART, Some(payload)),
            Value::Part(Place::Last, payload) => (LAST_PART, Some(payload)),
            Value::Function(source) => (FUNCTION, Some(source)),
        };
        out.push(kind | standing);
        if let Some(bytes) = bytes {
            put_bytes(out, bytes);
        }
    }

    /// Whether the key has expired by now.
    #[must_use]
    pub const fn is_expired(&self, now_ms: u64) -> bool {
        self.expire_at_ms != 0 && self.expire_at_ms <= now_ms
    }
}

/// What a [`State`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// There is no such key.
    Absent,
    /// As DUMP gives it and RESTORE takes it.
    Dump(Bytes),
    /// A part of a large value, as DUMP gives values. Its parts come one after the other, each
    /// alone in its message: see [`Reader::dividing`](crate::rdb::Reader::dividing).
    Part(Place, Bytes),
    /// The source of a function library.
    Function(Bytes),
    /// Nothing is said of it: the sender waits for the receiver's state of it.
    Unsaid,
}

impl Value {
    /// How many bytes of it travel.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Dump(bytes) | Self::Part(_, bytes) | Self::Function(bytes) => bytes.len(),
            Self::Absent | Self::Unsaid => 0,
        }
    }
}

/// Entries of a snapshot in the form in which they travel: whole messages, each with as many of them
/// as the receiver writes at once ([`CopyStates`](super::CopyStates)). Whoever reads a snapshot puts
/// each entry in here as it comes: there are too many of them to keep each in memory of its own.
#[derive(Debug, Default)]
pub struct Bundle {
    /// The number of the entry behind these.
    pub end: u64,
    /// Bytes of the snapshot read when the last was.
    pub bytes_done: u64,
    /// The size of the snapshot in bytes; 0 while it is not known.
    pub bytes_total: u64,
    /// Messages.
    frames: Vec<u8>,
    /// The states of the message that is not complete, and how many they are.
    open: Vec<u8>,
    count: u64,
}

impl Bundle {
    /// Adds the entry of this number.
    pub fn push(&mut self, number: u64, state: &State) {
        self.end = number.saturating_add(1);
        self.count = self.count.saturating_add(1);
        state.put(&mut self.open);
        if self.count >= MESSAGE_KEYS || self.open.len() >= MESSAGE_BYTES {
            self.complete();
        }
    }

    /// Completes the message: what follows goes into the next.
    pub fn complete(&mut self) {
        if self.count == 0 {
            return;
        }
        let first = self.end.saturating_sub(self.count);
        put_frame(&mut self.frames, |out| {
            put_copy_states(out, first, (self.bytes_done, self.bytes_total));
            put_varint(out, self.count);
            out.append(&mut self.open);
        });
        self.count = 0;
    }

    /// How many bytes are complete messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.count == 0
    }

    /// Its messages.
    #[must_use]
    pub fn messages(&self) -> &[u8] {
        &self.frames
    }
}

/// The most keys in one message of a copy: the receiver writes, or watches, them all at once.
const MESSAGE_KEYS: u64 = 256;
/// The most bytes in one message of a copy, but for a single larger value.
const MESSAGE_BYTES: usize = 1 << 20;

const ABSENT: u8 = 0;
const DUMP: u8 = 1;
const FUNCTION: u8 = 2;
const UNSAID: u8 = 3;
const FIRST_PART: u8 = 4;
const MIDDLE_PART: u8 = 5;
const LAST_PART: u8 = 6;
/// These stand beside any of them.
const OLD: u8 = 0x80;
const ASKED: u8 = 0x40;

pub(super) fn take_db(input: &mut Bytes) -> Result<u32, RecordError> {
    u32::try_from(take_varint(input)?).map_err(|_| RecordError::Malformed("database number"))
}

pub(super) fn take_count(input: &mut Bytes) -> Result<usize, RecordError> {
    usize::try_from(take_varint(input)?)
        .ok()
        .filter(|n| *n <= MAX_KEYS)
        .ok_or(RecordError::Malformed("too many keys"))
}

pub(super) fn put_states(out: &mut Vec<u8>, states: &[State]) {
    put_varint(out, states.len() as u64);
    for state in states {
        state.put(out);
    }
}

pub(super) fn take_states(input: &mut Bytes) -> Result<Vec<State>, RecordError> {
    let mut states = Vec::new();
    for _ in 0..take_count(input)? {
        let (db, key) = (take_db(input)?, take_bytes(input)?);
        let expire_at_ms = take_varint(input)?;
        let kind = take_u8(input)?;
        let standing = match kind & (OLD | ASKED) {
            0 => Standing::Unknown,
            OLD => Standing::Old,
            ASKED => Standing::Asked,
            _ => {
                return Err(RecordError::Malformed(
                    "a key that is both old and asked for",
                ));
            }
        };
        let value = match kind & !(OLD | ASKED) {
            ABSENT => Value::Absent,
            UNSAID => Value::Unsaid,
            DUMP => Value::Dump(take_bytes(input)?),
            FUNCTION => Value::Function(take_bytes(input)?),
            FIRST_PART => Value::Part(Place::First, take_bytes(input)?),
            MIDDLE_PART => Value::Part(Place::Middle, take_bytes(input)?),
            LAST_PART => Value::Part(Place::Last, take_bytes(input)?),
            _ => return Err(RecordError::Malformed("unknown kind of value")),
        };
        states.push(State {
            db,
            key,
            expire_at_ms,
            value,
            standing,
        });
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::link::sequence::Sequence;
    use crate::link::{CopyStates, Message};

    #[test]
    fn a_bundle_is_messages_of_states() {
        let state = |number: u64| State {
            db: 1,
            key: Bytes::from(number.to_string()),
            expire_at_ms: number,
            value: Value::Dump(Bytes::from_static(b"dump")),
            standing: match number % 3 {
                0 => Standing::Unknown,
                1 => Standing::Old,
                _ => Standing::Asked,
            },
        };
        let mut bundle = Bundle {
            bytes_done: 8,
            bytes_total: 9,
            ..Bundle::default()
        };
        for number in 7..307 {
            bundle.push(number, &state(number));
        }
        bundle.complete();
        bundle.complete();
        bundle.push(307, &state(307));
        bundle.complete();
        assert_eq!(bundle.end, 308);
        let mut bytes = bundle.messages().to_vec();
        Sequence::default().number(&mut bytes);
        let mut bytes = BytesMut::from(&bytes[..]);
        let mut sequence = Sequence::default();
        for numbers in [7..263, 263..307, 307..308] {
            let expected = Message::CopyStates(CopyStates {
                first: numbers.start,
                bytes_done: 8,
                bytes_total: 9,
                states: numbers.map(state).collect(),
            });
            let taken = Message::take(&mut bytes, 1 << 20, &mut sequence);
            assert_eq!(taken, Ok(Some(expected)));
        }
        assert!(bytes.is_empty());
    }
}

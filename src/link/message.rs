//! What two sidecars say to each other: pure encoding and decoding.
//!
//! A connection begins with a greeting ([`GREETING`]) from each side, then frames: `length: u32`,
//! `crc: u32`, payload; little endian. The crc is the crc32c of the payload, combined with the number of
//! the frame ([`Sequence`]). The payload's first byte is its kind.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::{Buf, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};

use super::hello::Hello;
use super::question::{Question, put_keys, take_keys};
use super::sequence::Sequence;
use super::state::{State, put_states, take_count, take_states};
use crate::model::{
    Cursor, Epoch, Key, MAX_FRAME, Offset, RecordError, Seen, SiteId, put_bytes, put_varint,
    take_bytes, take_site, take_u8, take_varint,
};

/// The first bytes of a connection: a name that no other protocol begins with, then the versions
/// spoken, lowest and highest.
pub(super) const GREETING: [u8; 10] = *b"TANDEM\r\n\x01\x01";
/// Version 1: records, copies, states, debts, acknowledgements.
pub(super) const VERSION: u8 = 1;
/// What precedes a payload.
pub(super) const HEADER: usize = 8;
/// The largest payload before the peer is known.
pub(super) const MAX_HELLO: usize = 64 << 10;
/// The largest payload: a journal frame and its header.
pub(super) const MAX_PAYLOAD: usize = MAX_FRAME + (1 << 20);
/// The most keys in one message.
pub const MAX_KEYS: usize = 4096;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A frame whose length is beyond the limit.
    #[error("a frame of {0} bytes, beyond the limit")]
    TooLong(usize),
    /// The checksum does not match.
    #[error("a frame with a wrong checksum, or out of its place")]
    Checksum,
    /// What is compressed cannot be read.
    #[error("compressed data that cannot be read ({0})")]
    Packed(String),
    /// A kind that this version does not know.
    #[error("a message of unknown kind {0}")]
    Kind(u8),
    /// The payload makes no sense.
    #[error("a malformed message: {0}")]
    Malformed(#[from] RecordError),
    /// A question whose need this version does not know.
    #[error("a question of unknown need {0}")]
    Need(u8),
    /// The hello makes no sense.
    #[error("a malformed hello: {0}")]
    Hello(String),
}

/// Records of the sender's clients: a frame of its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The history.
    pub epoch: Epoch,
    /// The place after which the frame begins.
    pub start: Offset,
    /// Where it ends.
    pub end: Offset,
    /// When it was read, in milliseconds since 1970, by the sender's clock.
    pub stamp_ms: u64,
    /// The entries.
    pub body: Bytes,
}

/// A copy begins: what follows are the entries of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyBegin {
    /// Where in the sender's history the snapshot was taken; names it.
    pub at: Cursor,
    /// What the sender had seen when it was taken, at least.
    pub seen: Seen,
    /// The last records in it, exactly, where there are third sites.
    pub holds: Seen,
    /// The marks of third sites in it, as texts: an empty receiver goes on from there with them.
    pub marks: Vec<(SiteId, Bytes)>,
    /// The number of the first entry that follows.
    pub first: u64,
    /// About how many keys the sender has.
    pub keys: u64,
    /// Whether keys that the receiver has stay as they are.
    pub keep: bool,
}

/// Entries of a snapshot, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStates {
    /// The number of the first.
    pub first: u64,
    /// Bytes of the snapshot read when the last was.
    pub bytes_done: u64,
    /// The size of the snapshot in bytes; 0 while it is not known, because it is being taken.
    pub bytes_total: u64,
    /// The entries.
    pub states: Vec<State>,
}

impl CopyStates {
    /// The number of the entry behind these.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.states.len() as u64)
    }
}

/// States asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedStates {
    /// Where in the sender's history they were read; they hold every write up to there.
    pub at: Cursor,
    /// What the sender had seen when it read them, at least.
    pub seen: Seen,
    /// The last records of that: what must have been applied before them.
    pub causes: Seen,
    /// The states.
    pub states: Vec<State>,
}

/// How far the sender of this message is with the other's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Received.
    pub received: Cursor,
    /// Applied.
    pub applied: Cursor,
    /// Of each site, what has come back in its own stream: its records from now on have seen it.
    pub seen: Seen,
    /// All of its own records up to here have been sent.
    pub sent: Cursor,
    /// How many states it still wants.
    pub owed: u64,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first.
    Hello(Box<Hello>),
    /// Instead of a hello, or after it: why there will be no session.
    Refuse(String),
    /// Records.
    Records(Records),
    /// A copy begins.
    CopyBegin(CopyBegin),
    /// A part of it.
    CopyStates(CopyStates),
    /// A copy is complete: how many entries it had.
    CopyEnd(u64),
    /// States asked for.
    OwedStates(OwedStates),
    /// Please send states.
    Owe(Question),
    /// The copy from you is complete here.
    Copied,
    /// How far we are.
    Ack(Ack),
    /// Answer with the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// What the sender has answered of these keys is not right any more: ask again. With a number, which
    /// grows.
    Stale(u64, Vec<Key>),
    /// All that was said to be stale up to this number is noted.
    Heard(u64),
    /// The sender waits itself for these keys, for which it was asked: nobody is to wait for what it would bring.
    Waits(Vec<Key>),
    /// The first word behind the hellos: its number shows that both were said on this connection.
    Confirm,
}

const HELLO: u8 = 1;
const REFUSE: u8 = 2;
const RECORDS: u8 = 3;
const COPY_BEGIN: u8 = 4;
const COPY_STATES: u8 = 5;
const COPY_END: u8 = 6;
const OWED_STATES: u8 = 7;
const OWE: u8 = 8;
const COPIED: u8 = 9;
const ACK: u8 = 10;
const PING: u8 = 11;
const PONG: u8 = 12;
const CONFIRM: u8 = 13;
const STALE: u8 = 14;
const HEARD: u8 = 15;
const WAITS: u8 = 16;

impl Message {
    /// Appends the message as a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_frame(out, |out| self.put(out));
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                out.push(HELLO);
                out.extend_from_slice(&hello.encode());
            }
            Self::Refuse(why) => {
                out.push(REFUSE);
                out.extend_from_slice(why.as_bytes());
            }
            Self::Records(records) => {
                out.push(RECORDS);
                put_varint(out, records.epoch.0);
                put_varint(out, records.start.0);
                put_varint(out, records.end.0);
                put_varint(out, records.stamp_ms);
                out.extend_from_slice(&records.body);
            }
            Self::CopyBegin(begin) => {
                out.push(COPY_BEGIN);
                put_cursor(out, begin.at);
                begin.seen.encode(out);
                begin.holds.encode(out);
                put_marks(out, &begin.marks);
                put_varint(out, begin.first);
                put_varint(out, begin.keys);
                out.push(u8::from(begin.keep));
            }
            Self::CopyStates(copy) => {
                put_copy_states(out, copy.first, (copy.bytes_done, copy.bytes_total));
                put_states(out, &copy.states);
            }
            Self::CopyEnd(entries) => put_number(out, COPY_END, *entries),
            Self::OwedStates(owed) => {
                out.push(OWED_STATES);
                put_cursor(out, owed.at);
                owed.seen.encode(out);
                owed.causes.encode(out);
                put_states(out, &owed.states);
            }
            Self::Owe(question) => {
                out.push(OWE);
                question.put(out);
            }
            Self::Copied => out.push(COPIED),
            Self::Ack(ack) => {
                out.push(ACK);
                put_cursor(out, ack.received);
                put_cursor(out, ack.applied);
                ack.seen.encode(out);
                put_cursor(out, ack.sent);
                put_varint(out, ack.owed);
            }
            Self::Ping(number) => put_number(out, PING, *number),
            Self::Pong(number) => put_number(out, PONG, *number),
            Self::Heard(number) => put_number(out, HEARD, *number),
            Self::Stale(number, keys) => {
                out.push(STALE);
                put_varint(out, *number);
                put_keys(out, keys);
            }
            Self::Waits(keys) => {
                out.push(WAITS);
                put_keys(out, keys);
            }
            Self::Confirm => out.push(CONFIRM),
        }
    }

    /// Takes one message from the front of the buffer; none when it is not all there.
    ///
    /// # Errors
    /// The bytes are no message; the connection cannot be used further.
    pub(super) fn take(
        buffer: &mut BytesMut,
        limit: usize,
        sequence: &mut Sequence,
    ) -> Result<Option<Self>, MessageError> {
        let Some((mut header, _)) = buffer.split_at_checked(HEADER) else {
            return Ok(None);
        };
        let length = usize::try_from(header.get_u32_le()).unwrap_or(usize::MAX);
        let crc = header.get_u32_le();
        if length > limit {
            return Err(MessageError::TooLong(length));
        }
        if buffer.len() < HEADER.saturating_add(length) {
            return Ok(None);
        }
        buffer.advance(HEADER);
        let payload = buffer.split_to(length).freeze();
        if crc32c(&payload) ^ sequence.next() != crc {
            return Err(MessageError::Checksum);
        }
        Self::parse(payload).map(Some)
    }

    fn parse(mut input: Bytes) -> Result<Self, MessageError> {
        let input = &mut input;
        let message = match take_u8(input)? {
            HELLO => return Hello::decode(input).map(Box::new).map(Self::Hello),
            REFUSE => Self::Refuse(String::from_utf8_lossy(input).chars().take(400).collect()),
            RECORDS => Self::Records(Records {
                epoch: Epoch(take_varint(input)?),
                start: Offset(take_varint(input)?),
                end: Offset(take_varint(input)?),
                stamp_ms: take_varint(input)?,
                body: std::mem::take(input),
            }),
            COPY_BEGIN => Self::CopyBegin(CopyBegin {
                at: take_cursor(input)?,
                seen: Seen::decode(input)?,
                holds: Seen::decode(input)?,
                marks: take_marks(input)?,
                first: take_varint(input)?,
                keys: take_varint(input)?,
                keep: take_u8(input)? != 0,
            }),
            COPY_STATES => Self::CopyStates(CopyStates {
                first: take_varint(input)?,
                bytes_done: take_varint(input)?,
                bytes_total: take_varint(input)?,
                states: take_states(input)?,
            }),
            COPY_END => Self::CopyEnd(take_varint(input)?),
            OWED_STATES => Self::OwedStates(OwedStates {
                at: take_cursor(input)?,
                seen: Seen::decode(input)?,
                causes: Seen::decode(input)?,
                states: take_states(input)?,
            }),
            OWE => Self::Owe(Question::take(input)?),
            COPIED => Self::Copied,
            ACK => Self::Ack(Ack {
                received: take_cursor(input)?,
                applied: take_cursor(input)?,
                seen: Seen::decode(input)?,
                sent: take_cursor(input)?,
                owed: take_varint(input)?,
            }),
            PING => Self::Ping(take_varint(input)?),
            PONG => Self::Pong(take_varint(input)?),
            STALE => Self::Stale(take_varint(input)?, take_keys(input)?),
            HEARD => Self::Heard(take_varint(input)?),
            WAITS => Self::Waits(take_keys(input)?),
            CONFIRM => Self::Confirm,
            kind => return Err(MessageError::Kind(kind)),
        };
        Ok(message)
    }
}

/// Appends a frame.
pub(super) fn put_frame(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    put(out);
    let payload = out.get(start.saturating_add(HEADER)..).unwrap_or_default();
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let crc = crc32c(payload).to_le_bytes();
    if let Some(header) = out.get_mut(start..start.saturating_add(HEADER)) {
        let (a, b) = header.split_at_mut(4);
        a.copy_from_slice(&length);
        b.copy_from_slice(&crc);
    }
}

/// A message that is one number.
fn put_number(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.push(kind);
    put_varint(out, number);
}

fn put_marks(out: &mut Vec<u8>, marks: &[(SiteId, Bytes)]) {
    put_varint(out, marks.len() as u64);
    for (site, text) in marks {
        put_bytes(out, site.as_str().as_bytes());
        put_bytes(out, text);
    }
}

fn take_marks(input: &mut Bytes) -> Result<Vec<(SiteId, Bytes)>, RecordError> {
    let mut marks = Vec::new();
    for _ in 0..take_count(input)? {
        marks.push((take_site(input)?, take_bytes(input)?));
    }
    Ok(marks)
}

/// What stands before the states in [`CopyStates`].
pub(super) fn put_copy_states(out: &mut Vec<u8>, first: u64, (done, total): (u64, u64)) {
    out.push(COPY_STATES);
    put_varint(out, first);
    put_varint(out, done);
    put_varint(out, total);
}

/// The checksum of frames.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

pub(super) fn put_cursor(out: &mut Vec<u8>, at: Cursor) {
    put_varint(out, at.epoch.0);
    put_varint(out, at.offset.0);
}

pub(super) fn take_cursor(input: &mut Bytes) -> Result<Cursor, RecordError> {
    let epoch = Epoch(take_varint(input)?);
    Ok(Cursor {
        epoch,
        offset: Offset(take_varint(input)?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::Value;
    use crate::model::Need;
    use crate::rdb::Place;

    fn states() -> Vec<State> {
        let state = |value| State {
            db: 2,
            key: Bytes::from_static(b"k\0"),
            expire_at_ms: 9,
            value,
            standing: crate::link::Standing::Old,
        };
        vec![
            state(Value::Absent),
            state(Value::Unsaid),
            state(Value::Dump(Bytes::from_static(b"dump"))),
            state(Value::Function(Bytes::from_static(b"#!lua"))),
            state(Value::Part(Place::First, Bytes::from_static(b"a"))),
            state(Value::Part(Place::Middle, Bytes::from_static(b"b"))),
            state(Value::Part(Place::Last, Bytes::from_static(b"c"))),
        ]
    }

    fn samples() -> Vec<Message> {
        let at = Cursor {
            epoch: Epoch(3),
            offset: Offset(400),
        };
        let mut seen = Seen::default();
        seen.advance(&SiteId::try_new("b").unwrap(), at);
        let states = states();
        vec![
            Message::Hello(Box::new(crate::link::hello::tests::hello("a"))),
            Message::Refuse("no".to_owned()),
            Message::Records(Records {
                epoch: Epoch(1),
                start: Offset(2),
                end: Offset(3),
                stamp_ms: 4,
                body: Bytes::from_static(b"body"),
            }),
            Message::CopyBegin(CopyBegin {
                at,
                seen: seen.clone(),
                holds: seen.clone(),
                marks: vec![(SiteId::try_new("c").unwrap(), Bytes::from_static(b"mark"))],
                first: 1,
                keep: true,
                keys: 2,
            }),
            Message::CopyStates(CopyStates {
                first: 7,
                bytes_done: 8,
                bytes_total: 9,
                states: states.clone(),
            }),
            Message::CopyEnd(9),
            Message::OwedStates(OwedStates {
                at,
                seen: seen.clone(),
                causes: seen.clone(),
                states,
            }),
            Message::Owe(Question {
                after: at,
                seen: seen.clone(),
                need: Need::Lacks,
                keys: vec![(1, Bytes::from_static(b"a")), (2, Bytes::new())],
            }),
            Message::Copied,
            Message::Ack(Ack {
                received: at,
                applied: at,
                seen,
                sent: Cursor::ZERO,
                owed: 3,
            }),
            Message::Ping(5),
            Message::Pong(6),
            Message::Heard(7),
            Message::Stale(8, vec![(3, Bytes::from_static(b"k"))]),
            Message::Waits(vec![(4, Bytes::from_static(b"w"))]),
            Message::Confirm,
        ]
    }

    #[test]
    fn messages_survive_the_bytes() {
        let mut bytes = Vec::new();
        let (mut sent, mut received) = (Sequence::default(), Sequence::default());
        for two in samples().chunks(2) {
            let begin = bytes.len();
            two.iter().for_each(|message| message.encode(&mut bytes));
            sent.number(&mut bytes[begin..]);
        }
        let mut buffer = BytesMut::new();
        let mut taken = Vec::new();
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            taken.extend(Message::take(&mut buffer, MAX_PAYLOAD, &mut received).unwrap());
        }
        assert_eq!(taken, samples());
    }

    #[test]
    fn a_frame_that_is_missing_or_comes_twice_is_noticed() {
        let frames: Vec<Vec<u8>> = {
            let mut sequence = Sequence::default();
            let numbered = |message: Message| {
                let mut frame = Vec::new();
                message.encode(&mut frame);
                sequence.number(&mut frame);
                frame
            };
            samples().into_iter().map(numbered).collect()
        };
        let read = |order: &[usize]| {
            let bytes: Vec<u8> = order.iter().flat_map(|i| frames[*i].clone()).collect();
            let (mut buffer, mut sequence) = (BytesMut::from(&bytes[..]), Sequence::default());
            let take = |_: &usize| Message::take(&mut buffer, MAX_PAYLOAD, &mut sequence);
            order.iter().map(take).collect::<Result<Vec<_>, _>>()
        };
        assert!(read(&[0, 1, 2, 3]).is_ok());
        for order in [&[0, 1, 3][..], &[0, 1, 1], &[0, 2, 1], &[1, 0]] {
            assert_eq!(read(order), Err(MessageError::Checksum), "{order:?}");
        }
    }

    #[test]
    fn what_was_said_on_another_connection_is_noticed() {
        let begun = |nonces| {
            let mut sequence = Sequence::default();
            sequence.begin(nonces);
            sequence
        };
        let read = |sent: (u64, u64), heard: (u64, u64)| {
            let mut frame = Vec::new();
            Message::Confirm.encode(&mut frame);
            begun(sent).number(&mut frame);
            let mut buffer = BytesMut::from(&frame[..]);
            Message::take(&mut buffer, MAX_HELLO, &mut begun(heard))
        };
        // Each side knows its own first.
        assert_eq!(read((1, 2), (2, 1)), Ok(Some(Message::Confirm)));
        assert_eq!(read((1, 2), (1, 3)), Err(MessageError::Checksum));
        assert_eq!(read((1, 2), (3, 2)), Err(MessageError::Checksum));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        for message in samples() {
            let mut good = Vec::new();
            message.encode(&mut good);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let mut bad = BytesMut::from(&bad[..]);
                let taken = Message::take(&mut bad, MAX_HELLO, &mut Sequence::default());
                assert!(!matches!(taken, Ok(Some(_))), "bit {bit} of {message:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_payload_is_read_without_panic(payload: Vec<u8>) {
            drop(Message::parse(payload.into()));
        }
    }
}

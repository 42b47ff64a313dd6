//! Rebuilds a value with commands, in pieces: for a target that cannot RESTORE it, because it is
//! older than the type, or because the value is too large for one command.
//!
//! ```text
//!   payload ── decode ──► elements ── Rebuild ──► Piece, Piece, …
//!                                        │          SET APPEND…  RPUSH…  SADD…  ZADD…
//!                                        │          HSET HPEXPIREAT…
//!                                        │          XADD… XGROUP… XCLAIM… XTRIM XADD… XSETID
//!                                        └──► Losses: what this target cannot hold
//! ```
//!
//! The caller sends the pieces in order to one server, where the key must not exist when the first
//! is executed; all pieces in one transaction, or under a name of its own that is renamed when the
//! last is there. What it must do itself: have the key expire, and delete what it built when a
//! later piece cannot be had. No pieces at all, or none left of the key when the last is executed,
//! means that the key does not exist: a collection without elements, or a hash whose fields have
//! all expired meanwhile.
//!
//! # Streams
//!
//! An entry that is pending and was deleted cannot be claimed (measured: Redis 5.0.14 to 8.6, Redict
//! 7.3, Valkey 8.0 to 9.1), and a stream takes entries in ascending order only. So the groups come
//! first: under every pending id stands an entry for as long as it takes to claim it; then all are
//! trimmed, the last id is set back to 0-0, and the stream gets its own entries. Of a divided stream
//! the groups are in the first parts. What servers count is set in the end. Instants of delivery and
//! numbers of deliveries are kept.

mod stream;
mod target;
#[cfg(test)]
mod tests;
mod writer;

use std::borrow::Cow;

use self::stream::StreamCommands;
pub use self::target::{Abilities, Limits, Losses, PART_MIN};
use self::writer::Writer;
use super::Place;
use super::decode::{Error, Fields, Items, Scores, Value, decode};

/// Commands in the form of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The commands, one after the other.
    pub bytes: Vec<u8>,
    /// How many they are; at least one.
    pub commands: usize,
}

/// A value on its way into commands: gives the pieces, in their order. Ends after an error.
pub struct Rebuild<'a> {
    work: Work<'a>,
    writer: Writer<'a>,
    target: Abilities,
    losses: Losses,
}

/// What is left to write.
enum Work<'a> {
    String {
        bytes: Cow<'a, [u8]>,
        /// How many of the bytes are written; none when not even the key is.
        written: Option<usize>,
    },
    List(Items<'a>),
    Set(Items<'a>),
    SortedSet(Scores<'a>),
    Hash(Fields<'a>),
    Stream(Box<StreamCommands<'a>>),
    Nothing,
}

impl<'a> Rebuild<'a> {
    /// Begins to rebuild what DUMP gave of a value under a key of a target.
    ///
    /// # Errors
    /// The value is malformed, or not decodable. It may also turn out to be malformed later.
    pub fn try_new(
        payload: &'a [u8],
        key: &'a [u8],
        target: Abilities,
        limits: Limits,
    ) -> Result<Self, Error> {
        let decoded = decode(payload)?;
        let work = match decoded.value {
            Value::String(text) => Work::String {
                bytes: text.into_bytes(),
                written: None,
            },
            Value::List(items) => Work::List(items),
            Value::Set(items) => Work::Set(items),
            Value::SortedSet(scores) => Work::SortedSet(scores),
            Value::Hash(fields) => Work::Hash(fields),
            Value::Stream(stream) => Work::Stream(Box::new(StreamCommands::new(*stream)?)),
        };
        Ok(Self {
            work,
            writer: Writer::new(key, limits),
            target,
            losses: Losses {
                key_metadata: decoded.key_metadata,
                ..Losses::default()
            },
        })
    }

    /// The value is a part of one that was divided ([`Place`]): parts of one value go to one key,
    /// one after the other. What is lost is what is lost of this part.
    #[must_use]
    pub fn of_part(mut self, place: Place) -> Self {
        match &mut self.work {
            Work::String { written, .. } if place != Place::First => *written = Some(0),
            Work::Stream(stream) => stream.part(place),
            _ => {}
        }
        self
    }

    /// What the target cannot be given; complete after the last piece.
    pub const fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Fills a piece.
    fn fill(&mut self) -> Result<(), Error> {
        while !self.writer.full() {
            if !self.step()? {
                self.work = Work::Nothing;
                break;
            }
        }
        Ok(())
    }

    /// Writes an element, or a few commands at most; whether there may be more.
    fn step(&mut self) -> Result<bool, Error> {
        let writer = &mut self.writer;
        let digits = &mut itoa::Buffer::new();
        match &mut self.work {
            Work::String { bytes, written } => return Ok(string_part(bytes, written, writer)),
            Work::List(items) => match items.next_item()? {
                Some(item) => writer.element("RPUSH", &[item.bytes(digits)]),
                None => return Ok(false),
            },
            Work::Set(items) => match items.next_item()? {
                Some(item) => writer.element("SADD", &[item.bytes(digits)]),
                None => return Ok(false),
            },
            Work::SortedSet(scores) => match scores.next_member()? {
                Some((member, score)) => {
                    let score = shown(score);
                    writer.element("ZADD", &[score.as_bytes(), member.bytes(digits)]);
                }
                None => return Ok(false),
            },
            Work::Hash(fields) => {
                let Some(field) = fields.next_field()? else {
                    return Ok(false);
                };
                let name = field.name.bytes(digits);
                writer.element("HSET", &[name, field.value.bytes(&mut itoa::Buffer::new())]);
                let until = self.target.field_expiry_until_ms;
                match field.expire_at_ms {
                    Some(at) if until.is_some_and(|until| at <= until) => writer.expire(name, at),
                    Some(_) => {
                        let lost = &mut self.losses.field_expiries;
                        *lost = lost.saturating_add(1);
                    }
                    None => {}
                }
            }
            Work::Stream(stream) => return stream.step(writer, self.target, &mut self.losses),
            Work::Nothing => return Ok(false),
        }
        Ok(true)
    }
}

impl Iterator for Rebuild<'_> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            self.work = Work::Nothing;
            self.writer.take();
            return Some(Err(error));
        }
        self.writer.take().map(Ok)
    }
}

/// What a command needs beside the key and a part of a string.
const STRING_OVERHEAD: usize = 64;

/// Writes the next part of a string; whether there are more.
fn string_part(bytes: &[u8], written: &mut Option<usize>, writer: &mut Writer<'_>) -> bool {
    let overhead = writer.key().len().saturating_add(STRING_OVERHEAD);
    let size = writer.bytes_max().saturating_sub(overhead).max(PART_MIN);
    let rest = bytes.get(written.unwrap_or(0)..).unwrap_or_default();
    let part = rest.get(..size).unwrap_or(rest);
    let name: &[u8] = match written {
        None => b"SET",
        Some(_) => b"APPEND",
    };
    writer.command(&[name, writer.key(), part]);
    // Two parts would be too much: each is as large as a piece may be.
    writer.end();
    *written = Some(written.unwrap_or(0).saturating_add(part.len()));
    part.len() < rest.len()
}

/// A score in digits that give exactly this score back, in no more of them than needed.
fn shown(score: f64) -> String {
    let size = score.abs();
    // The usual form of a number between has many zeros and says no more.
    if size != 0.0 && !(1e-5..1e17).contains(&size) {
        return format!("{score:e}");
    }
    score.to_string()
}

//! Decodes a value: what DUMP gives and [`rdb::Value`](crate::rdb::Value) carries, to its elements.
//!
//! ```text
//!   payload: [metadata of modules,] type byte, body, RDB version, CRC64
//!      └─ Cursor: lengths, strings
//!           ├─ Packed: listpack, ziplist, zipmap, intset
//!           ├─ Items, Scores, Fields: elements, whatever they are packed in
//!           └─ Stream: entries, groups, consumers
//! ```
//!
//! Elements are handed out one after the other and borrow from the payload; what is compressed is
//! unpacked a structure at a time. So a value is in memory once, however large, except that one
//! compressed string is there twice, packed and unpacked. Nothing recurses, and no length or count
//! is believed further than the bytes that are left.

mod cursor;
mod edge;
mod error;
mod items;
mod libraries;
mod packed;
mod stream;
#[cfg(test)]
pub(super) mod tests;
mod text;

use crc_fast::{CrcAlgorithm, checksum};

use self::cursor::Cursor;
pub use self::edge::has_disputed_entry;
pub use self::error::Error;
pub use self::items::{Field, Fields, Items, Scores};
use self::items::{FieldForm, ScoreForm};
pub use self::libraries::libraries;
use self::packed::Form;
pub use self::stream::{Consumer, Entry, Group, Id, Pending, Producers, Stream};
pub use self::text::Text;
use super::payload::{FOOTER_SIZE, VALKEY_FIRST};
use super::{KEY_META_CLASS, opcode};

/// A value, ready to give its elements.
#[derive(Clone, Debug)]
pub struct Decoded<'a> {
    /// Whether metadata that modules keep with the key was passed over.
    pub key_metadata: bool,
    /// The value.
    pub value: Value<'a>,
}

/// A value by its kind.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// A string.
    String(Text<'a>),
    /// A list, from left to right.
    List(Items<'a>),
    /// A set.
    Set(Items<'a>),
    /// A sorted set.
    SortedSet(Scores<'a>),
    /// A hash.
    Hash(Fields<'a>),
    /// A stream.
    Stream(Box<Stream<'a>>),
}

/// What stands for the type where there is none.
const NO_TYPE: u8 = 255;

/// Begins to decode what DUMP gave. A checksum of zero is none, as to the servers that know that.
///
/// # Errors
/// The payload is malformed, or of a type that is not decodable. Of streams, what is not entries
/// has been looked at when this returns; of all else, errors inside show when they are reached.
pub fn decode(payload: &[u8]) -> Result<Decoded<'_>, Error> {
    let (cursor, version, key_metadata) = body(payload)?;
    let value = value(cursor, version)?;
    Ok(Decoded {
        key_metadata,
        value,
    })
}

/// Appends the plain bytes of a payload that is a string; false when it is something else, or would
/// grow by more than so many bytes if it were unpacked.
///
/// # Errors
/// The payload is malformed; nothing is appended.
pub fn put_text(payload: &[u8], most: u64, out: &mut Vec<u8>) -> Result<bool, Error> {
    let (mut cursor, _, key_metadata) = body(payload)?;
    if cursor.type_byte() != 0 || key_metadata || cursor.gain()? > most {
        return Ok(false);
    }
    let start = out.len();
    cursor.put_string(out)?;
    cursor.end().inspect_err(|_| out.truncate(start))?;
    Ok(true)
}

/// Where the body begins, of which version the payload is, and whether metadata of modules was
/// passed over.
fn body(payload: &[u8]) -> Result<(Cursor<'_>, u16, bool), Error> {
    let (version, body) = open(payload)?;
    let mut cursor = Cursor::new(body, 0, NO_TYPE);
    let mut type_byte = cursor.byte()?;
    let key_metadata = type_byte == opcode::KEY_META_OR_SLOT_IMPORT && version < VALKEY_FIRST;
    if key_metadata {
        for _ in 0..cursor.length()? {
            cursor.take(KEY_META_CLASS)?;
            cursor.skip_module_data()?;
        }
        type_byte = cursor.byte()?;
    }
    cursor.set_type(type_byte);
    Ok((cursor, version, key_metadata))
}

/// Checks the footer: the version, and the bytes before it.
fn open(payload: &[u8]) -> Result<(u16, &[u8]), Error> {
    let short = || Cursor::new(payload, payload.len(), NO_TYPE).malformed("no room for a footer");
    let (rest, crc) = payload.split_last_chunk().ok_or_else(short)?;
    let (body, version) = rest.split_last_chunk().ok_or_else(short)?;
    debug_assert_eq!(payload.len().saturating_sub(body.len()), FOOTER_SIZE);
    let stored = u64::from_le_bytes(*crc);
    let computed = checksum(CrcAlgorithm::Crc64Redis, rest);
    if stored != 0 && stored != computed {
        return Err(Error::Checksum { stored, computed });
    }
    Ok((u16::from_le_bytes(*version), body))
}

fn value(mut cursor: Cursor<'_>, version: u16) -> Result<Value<'_>, Error> {
    let type_byte = cursor.type_byte();
    let valkey = version >= VALKEY_FIRST;
    let scores = |items, form| Value::SortedSet(Scores::new(items, form));
    let fields = |items, form| Value::Hash(Fields::new(items, form));
    Ok(match type_byte {
        0 => {
            let string = cursor.string()?;
            cursor.end()?;
            Value::String(string)
        }
        1 => Value::List(Items::plain(cursor, 1)?),
        10 => Value::List(Items::packed(cursor, Form::Ziplist)?),
        14 => Value::List(Items::ziplists(cursor)?),
        18 => Value::List(Items::said(cursor)?),
        2 => Value::Set(Items::plain(cursor, 1)?),
        11 => Value::Set(Items::packed(cursor, Form::Intset)?),
        20 => Value::Set(Items::packed(cursor, Form::Listpack)?),
        3 => scores(Items::plain(cursor, 2)?, ScoreForm::Digits),
        5 => scores(Items::plain(cursor, 9)?, ScoreForm::Binary),
        12 => scores(Items::packed(cursor, Form::Ziplist)?, ScoreForm::Packed),
        17 => scores(Items::packed(cursor, Form::Listpack)?, ScoreForm::Packed),
        4 => fields(Items::plain(cursor, 2)?, FieldForm::Pairs),
        9 => fields(Items::packed(cursor, Form::Zipmap)?, FieldForm::Pairs),
        13 => fields(Items::packed(cursor, Form::Ziplist)?, FieldForm::Pairs),
        16 => fields(Items::packed(cursor, Form::Listpack)?, FieldForm::Pairs),
        22 if valkey => fields(Items::plain(cursor, 10)?, FieldForm::Instants),
        24 if !valkey => {
            let earliest = u64::from_le_bytes(cursor.array()?);
            let form = FieldForm::Relative { earliest };
            fields(Items::plain(cursor, 3)?, form)
        }
        25 if !valkey => {
            // The earliest instant, which the fields tell too.
            cursor.take(8)?;
            fields(Items::packed(cursor, Form::Listpack)?, FieldForm::Triples)
        }
        15 | 19 | 21 => Value::Stream(Box::new(Stream::new(cursor)?)),
        26 | 27 if !valkey => Value::Stream(Box::new(Stream::new(cursor)?)),
        6 | 7 => return Err(Error::Module(module_name(cursor.length()?))),
        _ => return Err(Error::Type { type_byte, version }),
    })
}

/// The name that is packed into a module's number: nine characters of six bits, then ten bits of
/// version.
fn module_name(number: u64) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |at: u32| {
        let bits = number >> at.saturating_mul(6).saturating_add(10) & 0x3f;
        let letter = usize::try_from(bits)
            .ok()
            .and_then(|bits| LETTERS.get(bits));
        char::from(*letter.unwrap_or(&b'?'))
    };
    (0..9).rev().map(letter).collect()
}

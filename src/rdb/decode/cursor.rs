//! A place in a payload: lengths and strings, borrowed from the bytes where they stand plain.
//!
//! The forms are those of a snapshot, where they are read as the bytes arrive. Here all bytes are
//! at hand, so a length is held against what is left before anything is done with it.

use std::borrow::Cow;

use super::error::Error;
use super::text::Text;
use crate::rdb::string::{lzf_append, lzf_decompress};

/// Bytes and a place in them; a copy remembers the place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    /// The next byte. At most the number of bytes.
    at: usize,
    /// The type of the value, for errors.
    type_byte: u8,
}

/// What stands where a length may stand.
enum Length {
    Plain(u64),
    Packed(u8),
}

impl<'a> Cursor<'a> {
    /// The body of a value of a type, from a place in a payload on.
    pub(super) const fn new(bytes: &'a [u8], at: usize, type_byte: u8) -> Self {
        Self {
            bytes,
            at,
            type_byte,
        }
    }

    /// Names what is wrong with the bytes just consumed.
    pub(super) const fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed {
            type_byte: self.type_byte,
            what,
            offset: self.at,
        }
    }

    /// The type of the value.
    pub(super) const fn type_byte(&self) -> u8 {
        self.type_byte
    }

    /// The type of the value, which what came before it had not told.
    pub(super) const fn set_type(&mut self, type_byte: u8) {
        self.type_byte = type_byte;
    }

    /// How many bytes are left.
    pub(super) const fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// Fails unless everything is consumed.
    pub(super) const fn end(&self) -> Result<(), Error> {
        match self.left() {
            0 => Ok(()),
            _ => Err(self.malformed("bytes after the end of the value")),
        }
    }

    /// Consumes so many bytes.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Error> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| rest.get(..count))
            .ok_or_else(|| self.malformed("more is announced than there is"))?;
        self.at = self.at.saturating_add(taken.len());
        Ok(taken)
    }

    /// Consumes a few bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let array = rest
            .first_chunk()
            .ok_or_else(|| self.malformed("the value ends early"))?;
        self.at = self.at.saturating_add(N);
        Ok(*array)
    }

    /// Consumes one byte.
    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        self.array().map(|[byte]| byte)
    }

    /// Consumes a length, or any other number in that form.
    pub(super) fn length(&mut self) -> Result<u64, Error> {
        match self.length_or_packed()? {
            Length::Plain(length) => Ok(length),
            Length::Packed(_) => Err(self.malformed("packed string in place of a length")),
        }
    }

    /// Consumes a number of things, each of which takes at least so many bytes.
    pub(super) fn count(&mut self, least: usize) -> Result<u64, Error> {
        let count = self.length()?;
        let room = self.left().checked_div(least).unwrap_or(usize::MAX);
        if count > room as u64 {
            return Err(self.malformed("a count that the bytes left cannot hold"));
        }
        Ok(count)
    }

    /// Consumes a string.
    pub(super) fn string(&mut self) -> Result<Text<'a>, Error> {
        match self.length_or_packed()? {
            Length::Plain(length) => self.take(length).map(Text::from),
            Length::Packed(0) => Ok(Text::Number(i8::from_le_bytes(self.array()?).into())),
            Length::Packed(1) => Ok(Text::Number(i16::from_le_bytes(self.array()?).into())),
            Length::Packed(2) => Ok(Text::Number(i32::from_le_bytes(self.array()?).into())),
            Length::Packed(3) => {
                let packed = self.length()?;
                let length = self.length()?;
                let packed = self.take(packed)?;
                usize::try_from(length)
                    .ok()
                    .and_then(|length| lzf_decompress(packed, length))
                    .map(|bytes| Text::Bytes(Cow::Owned(bytes)))
                    .ok_or_else(|| self.malformed("compressed string that cannot be unpacked"))
            }
            Length::Packed(_) => Err(self.malformed("unknown form of a string")),
        }
    }

    /// Consumes a string and appends its plain bytes.
    pub(super) fn put_string(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut ahead = *self;
        if let Length::Packed(3) = ahead.length_or_packed()? {
            let (packed, length) = (ahead.length()?, ahead.length()?);
            let packed = ahead.take(packed)?;
            *self = ahead;
            return usize::try_from(length)
                .is_ok_and(|length| lzf_append(packed, length, out))
                .then_some(())
                .ok_or_else(|| self.malformed("compressed string that cannot be unpacked"));
        }
        let text = self.string()?;
        out.extend_from_slice(text.bytes(&mut itoa::Buffer::new()));
        Ok(())
    }

    /// How many bytes more than now the string here would be, unpacked.
    pub(super) fn gain(mut self) -> Result<u64, Error> {
        match self.length_or_packed()? {
            Length::Packed(3) => {
                let packed = self.length()?;
                Ok(self.length()?.saturating_sub(packed))
            }
            Length::Plain(_) | Length::Packed(_) => Ok(0),
        }
    }

    /// Consumes a string unseen; nothing is unpacked.
    pub(super) fn skip_string(&mut self) -> Result<(), Error> {
        let length = match self.length_or_packed()? {
            Length::Plain(length) => length,
            Length::Packed(width @ 0..=2) => 1 << width,
            Length::Packed(3) => {
                let packed = self.length()?;
                self.length()?;
                packed
            }
            Length::Packed(_) => return Err(self.malformed("unknown form of a string")),
        };
        self.take(length).map(drop)
    }

    /// Consumes a structure packed into a string.
    pub(super) fn blob(&mut self) -> Result<Cow<'a, [u8]>, Error> {
        match self.string()? {
            Text::Bytes(bytes) => Ok(bytes),
            Text::Number(_) => Err(self.malformed("a number in place of a packed structure")),
        }
    }

    /// Consumes what a module saved: numbers and strings, each with its kind, until an end.
    pub(super) fn skip_module_data(&mut self) -> Result<(), Error> {
        loop {
            match self.length()? {
                0 => return Ok(()),
                1 | 2 => self.length().map(drop)?,
                3 => self.take(4).map(drop)?,
                4 => self.take(8).map(drop)?,
                5 => self.skip_string()?,
                _ => return Err(self.malformed("unknown kind of module data")),
            }
        }
    }

    fn length_or_packed(&mut self) -> Result<Length, Error> {
        let first = self.byte()?;
        let low = first & 0x3f;
        Ok(match first >> 6 {
            0 => Length::Plain(u64::from(low)),
            1 => Length::Plain(u64::from(u16::from_be_bytes([low, self.byte()?]))),
            2 => Length::Plain(match first {
                0x80 => u64::from(u32::from_be_bytes(self.array()?)),
                0x81 => u64::from_be_bytes(self.array()?),
                _ => return Err(self.malformed("unknown form of a length")),
            }),
            _ => Length::Packed(low),
        })
    }
}

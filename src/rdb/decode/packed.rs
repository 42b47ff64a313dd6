//! Structures packed into one string: what the servers keep small values in.
//!
//! ```text
//! listpack  size u32, count u16, entries (encoding and data, length backwards), 0xff
//! ziplist   size u32, last u32, count u16, entries (previous length, encoding, data), 0xff
//! zipmap    count u8, pairs (length, key, length, unused u8, value, unused bytes), 0xff
//! intset    width u32, count u32, numbers
//! ```
//!
//! All little end first, but for the lengths in a ziplist. Sizes and counts in front are held
//! against the bytes where they decide anything, and not believed otherwise.

use std::borrow::Cow;

use super::text::Text;

/// What is wrong with a packed structure.
pub(super) type Wrong = &'static str;

/// How a structure is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Listpack,
    Ziplist,
    Zipmap,
    Intset,
}

/// A packed structure and a place in it.
#[derive(Clone, Debug)]
pub(super) struct Packed<'a> {
    form: Form,
    blob: Cow<'a, [u8]>,
    /// The next entry.
    at: usize,
    /// Whether the next entry of a zipmap is a value.
    value_next: bool,
}

/// The end of all but an intset.
const END: u8 = 0xff;
const SHORT: Wrong = "a packed structure ends early";
const SIZE: Wrong = "a packed structure is not as large as it says";

impl<'a> Packed<'a> {
    /// Begins to read.
    pub(super) fn open(form: Form, blob: Cow<'a, [u8]>) -> Result<Self, Wrong> {
        let (head, _) = blob.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let size = usize::try_from(u32::from_le_bytes(*head)).map_err(|_| SIZE)?;
        let at = match form {
            Form::Listpack if size == blob.len() => 6,
            Form::Ziplist if size == blob.len() => 10,
            Form::Zipmap => 1,
            Form::Intset => return Self::open_intset(size, blob),
            Form::Listpack | Form::Ziplist => return Err(SIZE),
        };
        Ok(Self {
            form,
            blob,
            at,
            value_next: false,
        })
    }

    fn open_intset(width: usize, blob: Cow<'a, [u8]>) -> Result<Self, Wrong> {
        let (count, numbers) = blob
            .get(4..)
            .and_then(<[u8]>::split_first_chunk)
            .ok_or(SHORT)?;
        let count = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| SIZE)?;
        if !matches!(width, 2 | 4 | 8) || count.checked_mul(width) != Some(numbers.len()) {
            return Err(SIZE);
        }
        Ok(Self {
            form: Form::Intset,
            blob,
            at: 8,
            value_next: false,
        })
    }

    /// Whether there are no more entries.
    pub(super) fn ended(&self) -> bool {
        match self.form {
            Form::Intset => self.at >= self.blob.len(),
            _ => self.blob.get(self.at) == Some(&END) && !self.value_next,
        }
    }

    /// Fails unless the end is where it must be.
    pub(super) fn end(&self) -> Result<(), Wrong> {
        match self.form {
            Form::Intset => Ok(()),
            _ if self.at.saturating_add(1) == self.blob.len() => Ok(()),
            _ => Err("bytes after the end of a packed structure"),
        }
    }

    /// The next entry, of which there must be one.
    pub(super) fn next(&mut self) -> Result<Text<'_>, Wrong> {
        self.next_of().map(|[text]| text)
    }

    /// As many entries, all of which there must be.
    pub(super) fn next_of<const N: usize>(&mut self) -> Result<[Text<'_>; N], Wrong> {
        let (mut at, mut value_next) = (self.at, self.value_next);
        let blob: &[u8] = &self.blob;
        let mut texts = [const { Text::Number(0) }; N];
        for text in &mut texts {
            let rest = blob.get(at..).ok_or(SHORT)?;
            let (entry, size) = match self.form {
                Form::Listpack => listpack_entry(rest)?,
                Form::Ziplist => ziplist_entry(rest)?,
                Form::Zipmap => zipmap_entry(rest, value_next)?,
                Form::Intset => intset_entry(blob, rest)?,
            };
            *text = entry;
            at = at.saturating_add(size);
            value_next = self.form == Form::Zipmap && !value_next;
        }
        (self.at, self.value_next) = (at, value_next);
        Ok(texts)
    }

    /// The next entry, which must be a number.
    pub(super) fn number(&mut self) -> Result<i64, Wrong> {
        self.next()?.number().ok_or("no number where one must be")
    }

    /// The place of the next entry, to come back to.
    pub(super) const fn place(&self) -> usize {
        self.at
    }

    /// An entry at a place that was the next one, and the next entry: a listpack's.
    pub(super) fn with_next(&mut self, place: &mut usize) -> Result<(Text<'_>, Text<'_>), Wrong> {
        let blob: &[u8] = &self.blob;
        let (there, size) = listpack_entry(blob.get(*place..).ok_or(SHORT)?)?;
        *place = place.saturating_add(size);
        let (here, size) = listpack_entry(blob.get(self.at..).ok_or(SHORT)?)?;
        self.at = self.at.saturating_add(size);
        Ok((there, here))
    }
}

fn first<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Wrong> {
    bytes.first_chunk().copied().ok_or(SHORT)
}

/// Bytes from a place on, and where they end.
fn text(bytes: &[u8], from: usize, length: usize) -> Result<(Text<'_>, usize), Wrong> {
    let end = from.checked_add(length).ok_or(SHORT)?;
    let text = bytes.get(from..end).ok_or(SHORT)?;
    Ok((text.into(), end))
}

/// An integer of three bytes.
fn int24([low, middle, high]: [u8; 3]) -> i64 {
    i64::from(i32::from_le_bytes([0, low, middle, high]) >> 8)
}

fn size(length: u32) -> Result<usize, Wrong> {
    usize::try_from(length).map_err(|_| SHORT)
}

/// The entry that the bytes begin with, and its size.
fn listpack_entry(bytes: &[u8]) -> Result<(Text<'_>, usize), Wrong> {
    let [head] = first(bytes)?;
    let tail = bytes.get(1..).unwrap_or_default();
    let low = |mask: u8| usize::from(head & mask);
    let (text, end) = match head {
        0x00..=0x7f => (Text::Number(head.into()), 1),
        0x80..=0xbf => text(bytes, 1, low(0x3f))?,
        0xc0..=0xdf => {
            let number = u16::from_be_bytes([head & 0x1f, first::<1>(tail)?[0]]);
            // Thirteen bits, the highest of which is the sign.
            let number = i64::from(number);
            let sign = if number >= 1 << 12 { 1 << 13 } else { 0 };
            (Text::Number(number.wrapping_sub(sign)), 2)
        }
        0xe0..=0xef => {
            let [next] = first(tail)?;
            text(
                bytes,
                2,
                usize::from(u16::from_be_bytes([head & 0x0f, next])),
            )?
        }
        0xf0 => text(bytes, 5, size(u32::from_le_bytes(first(tail)?))?)?,
        0xf1 => (Text::Number(i16::from_le_bytes(first(tail)?).into()), 3),
        0xf2 => (Text::Number(int24(first(tail)?)), 4),
        0xf3 => (Text::Number(i32::from_le_bytes(first(tail)?).into()), 5),
        0xf4 => (Text::Number(i64::from_le_bytes(first(tail)?)), 9),
        END => return Err("a listpack ends in the middle of an element"),
        _ => return Err("unknown form of an entry of a listpack"),
    };
    // The size once more, for those who read backwards: seven bits a byte, the highest first. Most
    // servers give the greatest number that fits so many bytes one more, which is zero; Valkey 9.1
    // does not.
    let one_more = || bytes.get(end) == Some(&0);
    let back = match end {
        0..=127 => 1,
        16_383 if !one_more() => 2,
        2_097_151 if !one_more() => 3,
        268_435_455 if !one_more() => 4,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    };
    Ok((text, end.saturating_add(back)))
}

/// The entry that the bytes begin with, and its size.
fn ziplist_entry(bytes: &[u8]) -> Result<(Text<'_>, usize), Wrong> {
    let before = match first(bytes)? {
        [END] => return Err("a ziplist ends in the middle of an element"),
        [0xfe] => 5,
        [_] => 1,
    };
    let bytes = bytes.get(before..).ok_or(SHORT)?;
    let [head] = first(bytes)?;
    let tail = bytes.get(1..).unwrap_or_default();
    let (text, end) = match head {
        0x00..=0x3f => text(bytes, 1, usize::from(head))?,
        0x40..=0x7f => {
            let [next] = first(tail)?;
            text(
                bytes,
                2,
                usize::from(u16::from_be_bytes([head & 0x3f, next])),
            )?
        }
        0x80..=0xbf => text(bytes, 5, size(u32::from_be_bytes(first(tail)?))?)?,
        0xc0 => (Text::Number(i16::from_le_bytes(first(tail)?).into()), 3),
        0xd0 => (Text::Number(i32::from_le_bytes(first(tail)?).into()), 5),
        0xe0 => (Text::Number(i64::from_le_bytes(first(tail)?)), 9),
        0xf0 => (Text::Number(int24(first(tail)?)), 4),
        0xf1..=0xfd => (Text::Number(i64::from(head & 0x0f).wrapping_sub(1)), 1),
        0xfe => (Text::Number(i8::from_le_bytes(first(tail)?).into()), 2),
        _ => return Err("unknown form of an entry of a ziplist"),
    };
    Ok((text, before.saturating_add(end)))
}

/// The key or value that the bytes begin with, and its size.
fn zipmap_entry(bytes: &[u8], value: bool) -> Result<(Text<'_>, usize), Wrong> {
    let (length, mut from) = match first(bytes)? {
        [END] => return Err("a zipmap ends in the middle of a pair"),
        [0xfe] => {
            let tail = bytes.get(1..).unwrap_or_default();
            (size(u32::from_le_bytes(first(tail)?))?, 5_usize)
        }
        [length] => (usize::from(length), 1),
    };
    let mut unused = 0;
    if value {
        unused = usize::from(*bytes.get(from).ok_or(SHORT)?);
        from = from.saturating_add(1);
    }
    let (text, end) = text(bytes, from, length)?;
    Ok((text, end.saturating_add(unused)))
}

/// The number that the bytes begin with, and its size, which the structure's first bytes say.
fn intset_entry<'a>(blob: &[u8], bytes: &'a [u8]) -> Result<(Text<'a>, usize), Wrong> {
    Ok(match first(blob)? {
        [2] => (Text::Number(i16::from_le_bytes(first(bytes)?).into()), 2),
        [4] => (Text::Number(i32::from_le_bytes(first(bytes)?).into()), 4),
        _ => (Text::Number(i64::from_le_bytes(first(bytes)?)), 8),
    })
}

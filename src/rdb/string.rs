//! Lengths and strings, the two things that all else in a snapshot is made of.
//!
//! The two highest bits of the first byte say what a length is:
//!
//! | bits | rest |
//! |---|---|
//! | `00` | the length, 6 bits |
//! | `01` | the length, 14 bits with the next byte, big end first |
//! | `10` | `0x80`: the next 4 bytes are the length, `0x81`: the next 8, big end first |
//! | `11` | no length but a packed string: 0, 1, 2 an integer of 1, 2, 4 bytes, 3 compressed |

use std::io::Read;

use bytes::Bytes;

use super::block::{Block, SMALL};
use super::error::Error;
use super::input::Input;

/// What stands where a length may stand.
enum Length {
    Plain(u64),
    Packed(u8),
}

const PACKED_INT8: u8 = 0;
const PACKED_INT16: u8 = 1;
const PACKED_INT32: u8 = 2;
const PACKED_LZF: u8 = 3;
/// The most that comes before the bytes of a string: two lengths of eight bytes, each with its form,
/// behind the form of the string.
const HEAD_MAX: usize = 1 + 2 * 9;

impl<R: Read> Input<R> {
    #[inline]
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

    /// Consumes a length, a count, or any other number in that form.
    #[inline]
    pub(super) fn length(&mut self) -> Result<u64, Error> {
        match self.length_or_packed()? {
            Length::Plain(length) => Ok(length),
            Length::Packed(_) => Err(self.malformed("packed string in place of a length")),
        }
    }

    /// Consumes as many lengths, unseen.
    pub(super) fn skip_lengths(&mut self, count: u64) -> Result<(), Error> {
        for _ in 0..count {
            self.length()?;
        }
        Ok(())
    }

    /// Consumes a string unseen.
    #[inline]
    pub(super) fn skip_string(&mut self) -> Result<(), Error> {
        let (length, _) = self.string_head()?;
        self.skip(length)
    }

    /// Consumes what comes before the bytes of a string: how many they are; and what they make,
    /// when they are compressed.
    #[inline]
    pub(super) fn string_head(&mut self) -> Result<(u64, Option<u64>), Error> {
        Ok(match self.length_or_packed()? {
            Length::Plain(length) => (length, None),
            Length::Packed(PACKED_INT8) => (1, None),
            Length::Packed(PACKED_INT16) => (2, None),
            Length::Packed(PACKED_INT32) => (4, None),
            Length::Packed(PACKED_LZF) => (self.length()?, Some(self.length()?)),
            Length::Packed(_) => return Err(self.malformed("unknown form of a string")),
        })
    }

    /// Consumes as many strings, unseen.
    pub(super) fn skip_strings(&mut self, count: u64) -> Result<(), Error> {
        for _ in 0..count {
            self.skip_string()?;
        }
        Ok(())
    }

    /// Consumes a string with what stands before its bytes, if all of it is in the buffer and these
    /// are no more than so many.
    pub(super) fn string_here(&mut self, most: usize) -> Option<&[u8]> {
        if self.unread().len() < HEAD_MAX {
            return None;
        }
        self.all_here(|input| {
            let (length, _) = input.string_head().ok()?;
            let length = usize::try_from(length).ok().filter(|l| *l <= most)?;
            input.take_here(length).map(drop)
        })
    }

    /// Consumes a string and gives its plain bytes.
    pub(super) fn string_into(&mut self, block: &mut Block) -> Result<Bytes, Error> {
        match self.length_or_packed()? {
            Length::Plain(length) if length <= SMALL as u64 => {
                let here = usize::try_from(length).ok().and_then(|n| self.take_here(n));
                match here {
                    Some(bytes) => Ok(block.bytes(bytes)),
                    None => self.bytes(length).map(Bytes::from),
                }
            }
            other => self.string_of(other).map(Bytes::from),
        }
    }

    /// Consumes a string and gives its plain bytes.
    pub(super) fn string(&mut self) -> Result<Vec<u8>, Error> {
        let head = self.length_or_packed()?;
        self.string_of(head)
    }

    fn string_of(&mut self, head: Length) -> Result<Vec<u8>, Error> {
        match head {
            Length::Plain(length) => self.bytes(length),
            Length::Packed(PACKED_INT8) => Ok(digits(i8::from_le_bytes(self.array()?))),
            Length::Packed(PACKED_INT16) => Ok(digits(i16::from_le_bytes(self.array()?))),
            Length::Packed(PACKED_INT32) => Ok(digits(i32::from_le_bytes(self.array()?))),
            Length::Packed(PACKED_LZF) => {
                let packed = self.length()?;
                let plain = self.length()?;
                let bytes = self.bytes(packed)?;
                usize::try_from(plain)
                    .ok()
                    .and_then(|plain| lzf_decompress(&bytes, plain))
                    .ok_or_else(|| self.malformed("compressed string that cannot be unpacked"))
            }
            Length::Packed(_) => Err(self.malformed("unknown form of a string")),
        }
    }
}

fn digits(number: impl itoa::Integer) -> Vec<u8> {
    itoa::Buffer::new().format(number).as_bytes().to_vec()
}

/// Unpacks LZF; nothing when the input is malformed or does not give `length` bytes.
///
/// The output grows as it is made, so that a false length costs no memory.
///
/// ```text
/// 000LLLLL                     L+1 bytes follow as they are
/// LLLooooo oooooooo            L+2 bytes from o+1 back, L in 1..=6
/// 111ooooo LLLLLLLL oooooooo   L+9 bytes from o+1 back
/// ```
#[must_use]
pub fn lzf_decompress(input: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut output = Vec::with_capacity(length.min(input.len().saturating_mul(2)));
    lzf_append(input, length, &mut output).then_some(output)
}

/// As [`lzf_decompress`], behind what is in `output`; false, and nothing is appended, when the input
/// is malformed or does not give `length` bytes.
pub(super) fn lzf_append(input: &[u8], length: usize, output: &mut Vec<u8>) -> bool {
    let start = output.len();
    let end = start.saturating_add(length);
    let unpacked = unpack(input, (start, end), output);
    if unpacked.is_none() {
        output.truncate(start);
    }
    unpacked.is_some()
}

fn unpack(mut input: &[u8], (start, end): (usize, usize), output: &mut Vec<u8>) -> Option<()> {
    while let Some((&control, rest)) = input.split_first() {
        if control < 0x20 {
            let (literal, rest) = rest.split_at_checked(usize::from(control).saturating_add(1))?;
            output.extend_from_slice(literal);
            input = rest;
        } else {
            let (more, rest) = match control >> 5 {
                7 => rest.split_first()?,
                _ => (&0, rest),
            };
            let (&low, rest) = rest.split_first()?;
            let back = usize::from(u16::from_be_bytes([control & 0x1f, low])).saturating_add(1);
            let count = usize::from(control >> 5)
                .saturating_add(usize::from(*more))
                .saturating_add(2);
            let from = output
                .len()
                .checked_sub(back)
                .filter(|from| *from >= start)?;
            // A reference may reach into what it makes: what is there then repeats itself, and there
            // is more of it each time.
            let mut left = count;
            while left > 0 {
                let step = left.min(output.len().saturating_sub(from));
                output.extend_from_within(from..from.saturating_add(step));
                left = left.saturating_sub(step);
            }
            input = rest;
        }
        if output.len() > end {
            return None;
        }
    }
    (output.len() == end).then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(bytes: &[u8]) -> Input<&[u8]> {
        Input::new(bytes, 8)
    }

    #[test]
    fn lengths_of_every_form_are_read() {
        for (bytes, length) in [
            (b"\x00".as_slice(), 0),
            (b"\x3f", 63),
            (b"\x40\x00", 0),
            (b"\x7f\xff", 0x3fff),
            (b"\x80\xff\xff\xff\xff", 0xffff_ffff),
            (b"\x81\xff\xff\xff\xff\xff\xff\xff\xfe", u64::MAX - 1),
        ] {
            let mut input = input(bytes);
            assert_eq!(input.length().unwrap(), length);
            assert_eq!(input.offset(), bytes.len() as u64);
        }
        for bad in [b"\x82", b"\xbf", b"\xc0", b"\xff"] {
            let read = input(bad).length();
            assert!(matches!(read, Err(Error::Malformed { offset: 1, .. })));
        }
    }

    #[test]
    fn strings_of_every_form_are_read_and_skipped() {
        let long = [b"\x40\x64".as_slice(), &[b'x'; 100]].concat();
        for (bytes, string) in [
            (b"\x00".as_slice(), ""),
            (b"\x03abc", "abc"),
            (&long, &"x".repeat(100)),
            (b"\xc0\x80", "-128"),
            (b"\xc1\xff\x7f", "32767"),
            (b"\xc2\x00\x00\x00\x80", "-2147483648"),
            (b"\xc3\x04\x06\x00a\x60\x00", "aaaaaa"),
        ] {
            let mut read = input(bytes);
            assert_eq!(read.string().unwrap(), string.as_bytes());
            assert_eq!(read.offset(), bytes.len() as u64);
            let mut skipped = input(bytes);
            skipped.skip_string().unwrap();
            assert_eq!(skipped.offset(), bytes.len() as u64);
        }
        for bad in [b"\xc4".as_slice(), b"\xff", b"\xc3\xc0", b"\xc3\x01\xc0"] {
            assert!(matches!(
                input(bad).skip_string(),
                Err(Error::Malformed { .. })
            ));
            assert!(matches!(input(bad).string(), Err(Error::Malformed { .. })));
        }
    }

    #[test]
    fn compressed_bytes_are_unpacked_or_refused() {
        let unpack = |bytes: &[u8], length| lzf_decompress(bytes, length);
        assert_eq!(unpack(b"", 0).unwrap(), b"");
        assert_eq!(unpack(b"\x02abc\x20\x02", 6).unwrap(), b"abcabc");
        assert_eq!(unpack(b"\x00a\xe0\xff\x00", 265).unwrap(), [b'a'; 265]);
        for (bytes, length) in [
            (b"\x02ab".as_slice(), 3),      // fewer bytes than announced
            (b"\x02abc", 2),                // longer than announced
            (b"\x02abc", 4),                // shorter than announced
            (b"\x20\x00", 3),               // refers to before the beginning
            (b"\x00a\x20\x01", 4),          // the same, by one
            (b"\x00a\x20", 4),              // the reference is cut
            (b"\x00a\xe0", 4),              // the same, before its length
            (b"\x00a\xe0\x01", 4),          // the same, after its length
            (b"\x00a\x20\x00", usize::MAX), // the length is a lie
        ] {
            assert!(unpack(bytes, length).is_none(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_without_panic(bytes: Vec<u8>, length in 0..4096_usize) {
            if let Some(output) = lzf_decompress(&bytes, length) {
                prop_assert_eq!(output.len(), length);
            }
        }
    }
}

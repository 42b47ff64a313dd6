//! Numbers, bytes and names as they stand in frames and messages.

use bytes::{Buf, Bytes};

use super::site::SiteId;

/// Why bytes are not entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end within an entry.
    #[error("record cut short")]
    Short,
    /// The bytes make no sense.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
}

/// Appends a number, seven bits a byte, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low seven bits are meant"
        )]
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 0x80 here")]
    out.push(number as u8);
}

/// How many bytes [`put_varint`] appends.
pub(super) const fn varint_len(number: u64) -> usize {
    // Zero takes as much as one.
    (number | 1).ilog2() as usize / 7 + 1
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes one byte from the front.
pub(crate) fn take_u8(input: &mut impl Buf) -> Result<u8, RecordError> {
    input.try_get_u8().map_err(|_| RecordError::Short)
}

/// Takes a number from the front of what is in one piece.
#[inline]
pub(crate) fn take_varint(input: &mut impl Buf) -> Result<u64, RecordError> {
    // Nearly all numbers are small.
    if let Some(&byte @ 0..0x80) = input.chunk().first() {
        input.advance(1);
        return Ok(u64::from(byte));
    }
    take_long_varint(input)
}

/// The same of one that is not.
#[inline(never)]
fn take_long_varint(input: &mut impl Buf) -> Result<u64, RecordError> {
    let mut number = 0_u64;
    for (length, byte) in (1..).zip(input.chunk()) {
        let (shift, bits) = (7 * (length - 1), u64::from(byte & 0x7f));
        if shift > 63 || (shift == 63 && bits > 1) {
            return Err(RecordError::Malformed("number too long"));
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            input.advance(length);
            return Ok(number);
        }
    }
    Err(RecordError::Short)
}

/// Takes a length and that many bytes from the front.
pub(crate) fn take_bytes(input: &mut Bytes) -> Result<Bytes, RecordError> {
    let length = usize::try_from(take_varint(input)?).map_err(|_| RecordError::Short)?;
    if length > input.len() {
        return Err(RecordError::Short);
    }
    Ok(input.split_to(length))
}

/// Takes the name of a site from the front.
pub(crate) fn take_site(input: &mut Bytes) -> Result<SiteId, RecordError> {
    let name = take_bytes(input)?;
    std::str::from_utf8(&name)
        .ok()
        .and_then(|n| SiteId::try_new(n).ok())
        .ok_or(RecordError::Malformed("site name"))
}

/// A number that is no larger than it may be.
pub(super) fn narrow(number: u64) -> Result<u32, RecordError> {
    u32::try_from(number).map_err(|_| RecordError::Malformed("number too large"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_survive(number: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            prop_assert_eq!(out.len(), varint_len(number));
            let mut input = Bytes::from(out);
            prop_assert_eq!(take_varint(&mut input).unwrap(), number);
            prop_assert!(input.is_empty());
        }
    }
}

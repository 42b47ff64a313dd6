//! The header of a segment: what was before it, so that a restart needs the whole of the last
//! segment only and of the others the header. Bytes in, a header out; no I/O.
//!
//! Numbers are little-endian.
//!
//! | size | what |
//! |---|---|
//! | 8 | magic |
//! | 4 | version |
//! | 4 | length of this header |
//! | 8 | number of the segment |
//! | 8 | length of the segment before it; 0 when there was none |
//! | 4 + 48 | whether there was a frame before it, and its header |
//! | 16 | epoch and offset where the last record before it ends |
//! | 4 + 24 each | the epochs in the journal: number, first offset, last offset |
//! | 4 + 4 + n | whether there is a preamble, its length, and it |
//! | 4 | CRC-32C of all that |

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::{Buf, BufMut};
use crc_fast::crc32_iscsi;

use super::frame::FrameHeader;
use super::index::EpochRange;
use crate::model::{Cursor, Epoch, Offset};

/// The most epochs that the journal remembers. A peer whose cursor is in an older one is synced in
/// full; so many losses of history within one journal mean that something else is wrong.
pub(super) const MAX_EPOCHS: usize = 1024;
/// The largest preamble: the state of an epoch is some hundred bytes.
pub(super) const MAX_PREAMBLE: usize = 1 << 20;
const MAGIC: &[u8; 8] = b"TANDEM\r\n";
/// Magic, version and length.
const PREFIX_LEN: usize = 16;
const EPOCH_LEN: usize = 24;
const PREVIOUS_LEN: usize = 48;
/// Everything else in a header that has no preamble and no epochs.
const FIXED_LEN: usize = PREFIX_LEN + 16 + 4 + PREVIOUS_LEN + 16 + 4 + 8 + 4;
/// The largest header.
pub(super) const MAX_HEADER: usize = FIXED_LEN + MAX_EPOCHS * EPOCH_LEN + MAX_PREAMBLE;

/// The versions of the format, and what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// The first.
    V1 = 1,
}

/// What a segment says about what was before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The number of the segment.
    pub(super) seq: u64,
    /// How long the segment before it is; 0 when this is the first.
    pub(super) previous_len: u64,
    /// The last frame before it.
    pub(super) previous: Option<FrameHeader>,
    /// Where the last record before it ends.
    pub(super) last_record: Cursor,
    /// The epochs in the journal when it was begun.
    pub(super) epochs: Vec<EpochRange>,
    /// What the caller wants to find first after a restart.
    pub(super) preamble: Option<Vec<u8>>,
}

/// What the front of a file is, if not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// The file ends within it.
    Short,
    /// Something else.
    Foreign,
    /// Of a version that this program does not read.
    Version(u32),
    /// Damaged.
    Damaged,
}

impl Header {
    /// The cursor where the segment begins; [`Cursor::ZERO`] when nothing was before it.
    pub(super) fn base(&self) -> Cursor {
        self.previous.map_or(Cursor::ZERO, |p| p.cursor())
    }

    /// The bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_LEN);
        out.extend_from_slice(MAGIC);
        out.put_u32_le(Version::V1 as u32);
        let preamble = self.preamble.as_deref().unwrap_or_default();
        let length = self
            .epochs
            .len()
            .saturating_mul(EPOCH_LEN)
            .saturating_add(FIXED_LEN)
            .saturating_add(preamble.len());
        out.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
        out.put_u64_le(self.seq);
        out.put_u64_le(self.previous_len);
        out.put_u32_le(u32::from(self.previous.is_some()));
        match &self.previous {
            Some(previous) => previous.put(&mut out),
            None => out.put_bytes(0, PREVIOUS_LEN),
        }
        out.put_u64_le(self.last_record.epoch.0);
        out.put_u64_le(self.last_record.offset.0);
        out.put_u32_le(u32::try_from(self.epochs.len()).unwrap_or(u32::MAX));
        for range in &self.epochs {
            out.put_u64_le(range.epoch.0);
            out.put_u64_le(range.first.0);
            out.put_u64_le(range.end.0);
        }
        out.put_u32_le(u32::from(self.preamble.is_some()));
        out.put_u32_le(u32::try_from(preamble.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(preamble);
        out.put_u32_le(crc32_iscsi(&out));
        out
    }

    /// Reads the header at the front of `bytes`: all of the file, or at least [`MAX_HEADER`].
    /// Also says how long it is.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u64), BadHeader> {
        let magic = bytes.get(..MAGIC.len()).ok_or(BadHeader::Short)?;
        if magic != MAGIC {
            return Err(BadHeader::Foreign);
        }
        let mut prefix = bytes.get(MAGIC.len()..).unwrap_or_default();
        let version = prefix.try_get_u32_le().map_err(|_| BadHeader::Short)?;
        if version != Version::V1 as u32 {
            return Err(BadHeader::Version(version));
        }
        let length = prefix.try_get_u32_le().map_err(|_| BadHeader::Short)?;
        let size = usize::try_from(length).map_err(|_| BadHeader::Damaged)?;
        if !(FIXED_LEN..=MAX_HEADER).contains(&size) {
            return Err(BadHeader::Damaged);
        }
        let whole = bytes.get(..size).ok_or(BadHeader::Short)?;
        let (covered, mut crc) = whole
            .split_at_checked(size.saturating_sub(4))
            .ok_or(BadHeader::Damaged)?;
        if crc.get_u32_le() != crc32_iscsi(covered) {
            return Err(BadHeader::Damaged);
        }
        let fields = covered.get(PREFIX_LEN..).unwrap_or_default();
        let header = Self::fields(fields).ok_or(BadHeader::Damaged)?;
        Ok((header, u64::from(length)))
    }

    fn fields(mut input: &[u8]) -> Option<Self> {
        let seq = input.try_get_u64_le().ok()?;
        let previous_len = input.try_get_u64_le().ok()?;
        let has_previous = input.try_get_u32_le().ok()? != 0;
        let (mut previous, mut rest) = input.split_at_checked(PREVIOUS_LEN)?;
        let previous = match has_previous {
            true => Some(FrameHeader::take(&mut previous)?),
            false => None,
        };
        let last_record = Cursor {
            epoch: Epoch(rest.try_get_u64_le().ok()?),
            offset: Offset(rest.try_get_u64_le().ok()?),
        };
        let count = rest.try_get_u32_le().ok()?;
        let mut epochs = Vec::new();
        for _ in 0..count {
            epochs.push(EpochRange {
                epoch: Epoch(rest.try_get_u64_le().ok()?),
                first: Offset(rest.try_get_u64_le().ok()?),
                end: Offset(rest.try_get_u64_le().ok()?),
            });
        }
        let has_preamble = rest.try_get_u32_le().ok()? != 0;
        let length = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
        (rest.len() == length).then(|| Self {
            seq,
            previous_len,
            previous,
            last_record,
            epochs,
            preamble: has_preamble.then(|| rest.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::FrameKind;

    fn header() -> Header {
        let range = |epoch, first, end| EpochRange {
            epoch: Epoch(epoch),
            first: Offset(first),
            end: Offset(end),
        };
        let previous = FrameHeader {
            kind: FrameKind::Notes,
            epoch: Epoch(4),
            start: Offset(10),
            end: Offset(30),
            db: 1,
            last_record: Offset(0),
            stamp_ms: 77,
        };
        Header {
            seq: 9,
            previous_len: 5_000,
            previous: Some(previous),
            last_record: Cursor {
                epoch: Epoch(3),
                offset: Offset(600),
            },
            epochs: vec![range(3, 100, 700), range(4, 5, 30)],
            preamble: Some(b"state".to_vec()),
        }
    }

    #[test]
    fn a_header_survives_the_bytes() {
        let first = Header {
            previous: None,
            preamble: None,
            epochs: Vec::new(),
            ..header()
        };
        for header in [header(), first] {
            let mut bytes = header.encode();
            let length = bytes.len() as u64;
            assert_eq!(Header::decode(&bytes), Ok((header.clone(), length)));
            bytes.extend_from_slice(b"frames");
            assert_eq!(Header::decode(&bytes), Ok((header, length)));
        }
    }

    #[test]
    fn what_is_wrong_with_a_header_is_named() {
        let good = header().encode();
        for cut in 0..good.len() {
            assert_eq!(Header::decode(&good[..cut]), Err(BadHeader::Short));
        }
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 4;
            let error = Header::decode(&bad).unwrap_err();
            match byte {
                0..8 => assert_eq!(error, BadHeader::Foreign),
                8..12 => assert!(matches!(error, BadHeader::Version(_))),
                // A wrong length.
                12..16 => assert!(matches!(error, BadHeader::Short | BadHeader::Damaged)),
                _ => assert_eq!(error, BadHeader::Damaged),
            }
        }
    }

    proptest! {
        #[test]
        fn any_fields_are_read_without_panic(bytes: Vec<u8>) {
            let _: (Option<Header>, bool) = (Header::fields(&bytes), Header::decode(&bytes).is_ok());
        }
    }
}

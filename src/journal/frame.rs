//! Frames: what the journal is made of. Bytes in, frames out; no I/O.
//!
//! A frame is a header of fixed size and an opaque body, each with its own CRC-32C, so that a torn
//! body is told from a torn header. All numbers are little-endian.
//!
//! | at | size | what |
//! |---|---|---|
//! | 0 | 4 | magic |
//! | 4 | 1 | kind, then 3 bytes of zero |
//! | 8 | 4 | db |
//! | 12 | 8 | epoch |
//! | 20 | 8 | start |
//! | 28 | 8 | end |
//! | 36 | 8 | end of the last record |
//! | 44 | 8 | stamp |
//! | 52 | 8 | how much of the segment had been synced when the frame was written |
//! | 60 | 4 | length of the body |
//! | 64 | 4 | CRC of the body |
//! | 68 | 4 | CRC of bytes 0 to 67, and of the frame's place |
//!
//! The place (segment and byte) is part of the header's checksum: a client's value that looks like
//! a frame, or a block that the disk wrote elsewhere, is never taken for one.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::{Buf, BufMut, Bytes};
use crc_fast::crc32_iscsi;

use crate::model::{Cursor, Epoch, MAX_FRAME, Offset};

/// The size of a frame's header.
pub(super) const HEADER_LEN: usize = 72;
/// How much of the header its checksum covers.
const COVERED_LEN: usize = HEADER_LEN - 4;
/// The first bytes of every frame.
pub(super) const MAGIC: [u8; 4] = *b"TdFr";

const _: () = assert!(MAX_FRAME <= u32::MAX as usize, "lengths are 32 bits");

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// A new epoch begins; the body says why and how.
    Epoch = 1,
    /// At least one client's record, and what was read between them.
    Records = 2,
    /// Only echoes and self marks: needed to rebuild the table, never sent.
    Notes = 3,
    /// The replid of the epoch changed; the history goes on.
    Continue = 4,
}

impl FrameKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Epoch),
            2 => Some(Self::Records),
            3 => Some(Self::Notes),
            4 => Some(Self::Continue),
            _ => None,
        }
    }
}

/// What the journal knows of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it holds.
    pub kind: FrameKind,
    /// The history that its offsets belong to.
    pub epoch: Epoch,
    /// The place after which it begins.
    pub start: Offset,
    /// The place where it ends.
    pub end: Offset,
    /// The database selected at its end.
    pub db: u32,
    /// Where its last record ends; 0 when it has none.
    pub last_record: Offset,
    /// The wall clock when it was read, in milliseconds since 1970; for lag in seconds.
    pub stamp_ms: u64,
}

impl FrameHeader {
    /// Where the frame ends in the history of the site.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            offset: self.end,
        }
    }

    /// Where its last record ends, if it has one.
    pub(super) fn last_record(&self) -> Option<Cursor> {
        (self.last_record != Offset(0)).then_some(Cursor {
            epoch: self.epoch,
            offset: self.last_record,
        })
    }

    /// Whether the places within the frame, and after the frame that it follows, make sense.
    pub(super) fn follows(&self, previous: Option<&Self>) -> bool {
        let record = self.last_record;
        let inside = self.start <= self.end
            && (record == Offset(0) || (self.start <= record && record <= self.end));
        let after = previous
            .is_none_or(|p| p.epoch < self.epoch || (p.epoch == self.epoch && p.end <= self.start));
        inside && after
    }

    /// Appends the fields.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.kind as u32);
        out.put_u32_le(self.db);
        out.put_u64_le(self.epoch.0);
        out.put_u64_le(self.start.0);
        out.put_u64_le(self.end.0);
        out.put_u64_le(self.last_record.0);
        out.put_u64_le(self.stamp_ms);
    }

    /// Takes the fields from the front of `input`.
    pub(super) fn take(input: &mut &[u8]) -> Option<Self> {
        let kind = u8::try_from(input.try_get_u32_le().ok()?).ok()?;
        Some(Self {
            kind: FrameKind::from_byte(kind)?,
            db: input.try_get_u32_le().ok()?,
            epoch: Epoch(input.try_get_u64_le().ok()?),
            start: Offset(input.try_get_u64_le().ok()?),
            end: Offset(input.try_get_u64_le().ok()?),
            last_record: Offset(input.try_get_u64_le().ok()?),
            stamp_ms: input.try_get_u64_le().ok()?,
        })
    }
}

/// A header and its body. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the journal knows of it.
    pub header: FrameHeader,
    /// What it holds; opaque to the journal.
    pub body: Bytes,
}

/// A byte of the journal: a segment, and a byte of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The number of the segment.
    pub(super) seq: u64,
    /// The byte of its file.
    pub(super) pos: u64,
}

/// A frame and where it is.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// The frame.
    pub(super) frame: Frame,
    /// Where it begins.
    pub(super) at: Place,
    /// The byte after it, in the same segment.
    pub(super) next: u64,
}

/// What the front of some bytes is.
#[derive(Debug)]
pub(super) enum Parsed {
    /// A whole frame of this length, header included.
    Frame(Frame, usize),
    /// The header is not all there.
    ShortHeader,
    /// The header is good, the body is not all there; so much is needed for the whole frame.
    ShortBody(usize),
    /// Where the header should be are only zeros.
    Zeros,
    /// The header is not one, or is damaged.
    BadHeader,
    /// The header is good, the body is damaged.
    BadBody,
}

/// Appends the header of a frame that will be written at `at`, when `synced` bytes of its segment
/// had been synced.
pub(super) fn put_header(
    out: &mut Vec<u8>,
    header: &FrameHeader,
    body: &[u8],
    synced: u64,
    at: Place,
) {
    let begin = out.len();
    out.extend_from_slice(&MAGIC);
    header.put(out);
    out.put_u64_le(synced);
    // MAX_FRAME is checked before.
    out.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.put_u32_le(crc32_iscsi(body));
    let crc = header_crc(out.get(begin..).unwrap_or_default(), at);
    out.put_u32_le(crc);
}

/// Reads the frame that should be at the front of `input`, which was read from `at`.
pub(super) fn parse(input: &Bytes, at: Place) -> Parsed {
    let Some(head) = input.get(..HEADER_LEN) else {
        return Parsed::ShortHeader;
    };
    let Some(raw) = RawHeader::decode(head, at) else {
        let zeros = head.iter().all(|b| *b == 0);
        return if zeros {
            Parsed::Zeros
        } else {
            Parsed::BadHeader
        };
    };
    let length = HEADER_LEN.saturating_add(raw.body_len);
    if input.len() < length {
        return Parsed::ShortBody(length);
    }
    let body = input.slice(HEADER_LEN..length);
    if crc32_iscsi(&body) != raw.body_crc {
        return Parsed::BadBody;
    }
    let header = raw.header;
    Parsed::Frame(Frame { header, body }, length)
}

/// Looks for a good header anywhere in `input`, which was read from `at`; says, of those that
/// there are, the greatest number of bytes that had been synced.
pub(super) fn search(input: &[u8], at: Place) -> Option<u64> {
    let windows = input.windows(HEADER_LEN).zip(at.pos..);
    windows
        .filter(|(head, _)| head.starts_with(&MAGIC))
        .filter_map(|(head, pos)| RawHeader::decode(head, Place { seq: at.seq, pos }))
        .map(|raw| raw.synced)
        .max()
}

/// A header whose checksum is good.
struct RawHeader {
    header: FrameHeader,
    body_len: usize,
    body_crc: u32,
    synced: u64,
}

impl RawHeader {
    fn decode(head: &[u8], at: Place) -> Option<Self> {
        let covered = head.get(..COVERED_LEN)?;
        let mut input = covered.strip_prefix(&MAGIC)?;
        let mut crc = head.get(COVERED_LEN..HEADER_LEN)?;
        if crc.try_get_u32_le().ok()? != header_crc(covered, at) {
            return None;
        }
        let header = FrameHeader::take(&mut input)?;
        let synced = input.try_get_u64_le().ok()?;
        let body_len = usize::try_from(input.try_get_u32_le().ok()?).ok()?;
        let body_crc = input.try_get_u32_le().ok()?;
        (body_len <= MAX_FRAME && header.follows(None)).then_some(Self {
            header,
            body_len,
            body_crc,
            synced,
        })
    }
}

fn header_crc(covered: &[u8], at: Place) -> u32 {
    let mut place = [0; 16];
    place
        .as_mut_slice()
        .put_u128_le((u128::from(at.seq) << 64) | u128::from(at.pos));
    crc32_iscsi(covered) ^ crc32_iscsi(&place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Place = Place { seq: 3, pos: 500 };

    fn header() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Records,
            epoch: Epoch(7),
            start: Offset(100),
            end: Offset(180),
            db: 9,
            last_record: Offset(170),
            stamp_ms: 1_700_000_000_123,
        }
    }

    fn encoded(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_header(&mut out, &header(), body, 480, AT);
        assert_eq!(out.len(), HEADER_LEN);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn a_frame_survives_the_bytes() {
        let bytes = Bytes::from(encoded(b"hello"));
        let Parsed::Frame(frame, length) = parse(&bytes, AT) else {
            panic!("not read back");
        };
        assert_eq!(
            (frame.header, &frame.body[..], length),
            (header(), &b"hello"[..], 77)
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encoded(b"hello");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse(&bad.into(), AT);
            assert!(
                matches!(parsed, Parsed::BadHeader | Parsed::BadBody),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_cut_frame_asks_for_the_rest() {
        let good = Bytes::from(encoded(b"hello"));
        for cut in 0..good.len() {
            match parse(&good.slice(..cut), AT) {
                Parsed::ShortHeader => assert!(cut < HEADER_LEN),
                Parsed::ShortBody(needed) => assert_eq!(needed, good.len()),
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_frame_of_another_place_is_none() {
        let good = Bytes::from(encoded(b"hello"));
        for (seq, pos) in [(3, 501), (4, 500), (500, 3)] {
            assert!(matches!(
                parse(&good, Place { seq, pos }),
                Parsed::BadHeader
            ));
        }
        assert_eq!(search(&good, AT), Some(480));
        assert_eq!(search(&good, Place { seq: 3, pos: 499 }), None);
        let mut shifted = vec![1; 5];
        shifted.extend_from_slice(&good);
        assert_eq!(search(&shifted, Place { seq: 3, pos: 495 }), Some(480));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, seq: u64, pos: u64) {
            let at = Place { seq, pos };
            prop_assert!(!matches!(parse(&bytes.clone().into(), at), Parsed::Frame(..)));
            prop_assert_eq!(search(&bytes, at), None);
        }
    }
}

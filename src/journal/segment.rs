//! Segments: the files of the journal.
//!
//! `<seq:020>.seg` begins with a header that says what was before it, so that a restart needs the
//! whole of the last segment only and of the others the header. Numbers are little-endian.
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
//!
//! A new segment is written under another name, synced, and renamed: a torn header cannot be.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::crc32_iscsi;

use super::Error;
use super::frame::{FrameHeader, Parsed, Place, Placed, parse, search};
use super::index::EpochRange;
use crate::model::{Cursor, Epoch, Offset};

/// The most epochs that the journal remembers. A peer whose cursor is in an older one is synced in
/// full; so many losses of history within one journal mean that something else is wrong.
pub(super) const MAX_EPOCHS: usize = 1024;
/// The largest preamble: the state of an epoch is some hundred bytes.
pub(super) const MAX_PREAMBLE: usize = 1 << 20;
/// How much is read at once: large enough to run at the speed of the disk.
const READ_SIZE: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"TANDEM\r\n";
/// Magic, version and length.
const PREFIX_LEN: usize = 16;
const EPOCH_LEN: usize = 24;
const PREVIOUS_LEN: usize = 48;
/// Everything else in a header that has no preamble and no epochs.
const FIXED_LEN: usize = PREFIX_LEN + 16 + 4 + PREVIOUS_LEN + 16 + 4 + 8 + 4;
const MAX_HEADER: usize = FIXED_LEN + MAX_EPOCHS * EPOCH_LEN + MAX_PREAMBLE;

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

    fn encode(&self) -> Vec<u8> {
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
    fn decode(bytes: &[u8]) -> Result<(Self, u64), BadHeader> {
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

/// Why frames stop where they stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The file ends there.
    End,
    /// The file ends within a header.
    ShortHeader,
    /// From there on are zeros, for the length of a header at least.
    Zeros,
    /// Something that is not the header of a frame.
    BadHeader,
    /// The file ends within a body.
    ShortBody,
    /// A body that does not match its header.
    BadBody,
}

/// Frames read in one go.
#[derive(Debug)]
pub(super) struct Batch {
    /// The frames.
    pub(super) frames: Vec<Placed>,
    /// The byte after the last of them.
    pub(super) next: u64,
    /// Why there are no more; `None`: there may be.
    pub(super) ending: Option<Ending>,
}

/// The file of a segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) seq: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl Segment {
    /// The path of a segment.
    pub(super) fn path(dir: &Path, seq: u64) -> PathBuf {
        dir.join(format!("{seq:020}.seg"))
    }

    /// The number of the segment that a file name names.
    pub(super) fn seq_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".seg")?;
        let named = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| named)
    }

    /// Writes a new segment that has a header only; says how long that is. When this fails there
    /// is no such segment.
    pub(super) fn create(dir: &Path, header: &Header) -> Result<(Self, u64), Error> {
        let path = Self::path(dir, header.seq);
        let partial = path.with_extension("tmp");
        let bytes = header.encode();
        let create = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&partial)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(dir)?.sync_all()?;
            Ok(file)
        };
        match create() {
            Ok(file) => {
                let seq = header.seq;
                Ok((Self { seq, path, file }, bytes.len() as u64))
            }
            Err(source) => {
                // What cannot be removed is removed, or replaced, at the next attempt.
                let _: (Result<_, _>, Result<_, _>) =
                    (fs::remove_file(&partial), fs::remove_file(&path));
                Err(Error::io("create", &path, source))
            }
        }
    }

    /// Opens a segment, to append to it too when `write` is set.
    pub(super) fn open(dir: &Path, seq: u64, write: bool) -> Result<Self, Error> {
        let path = Self::path(dir, seq);
        match OpenOptions::new().read(true).write(write).open(&path) {
            Ok(file) => Ok(Self { seq, path, file }),
            Err(source) => Err(Error::io("open", &path, source)),
        }
    }

    /// How long the file is.
    pub(super) fn len(&self) -> Result<u64, Error> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|e| Error::io("read", &self.path, e))?;
        Ok(metadata.len())
    }

    /// Reads the header, of a file of `len` bytes; says how long it is.
    pub(super) fn header(&self, len: u64) -> Result<Result<(Header, u64), BadHeader>, Error> {
        // Nearly always the first piece holds it; the length in it is not yet to be believed.
        let first = self.read(0, len, 4096)?;
        let decoded = Header::decode(&first);
        if decoded != Err(BadHeader::Short) || first.len() as u64 == len {
            return Ok(decoded);
        }
        Ok(Header::decode(&self.read(0, len, MAX_HEADER)?))
    }

    /// Reads frames from byte `pos` on, of the `end` bytes that the segment has: about
    /// [`READ_SIZE`] bytes, or one frame if that is larger.
    pub(super) fn read_frames(&self, pos: u64, end: u64) -> Result<Batch, Error> {
        let batch = self.parse(self.read(pos, end, READ_SIZE)?, pos, end);
        match batch {
            Err(needed) => {
                let bytes = self.read(pos, end, needed)?;
                // The file was cut between the two reads.
                let cut = |_| self.corrupt(pos, "the file became shorter");
                self.parse(bytes, pos, end).map_err(cut)
            }
            Ok(batch) => Ok(batch),
        }
    }

    /// The frames in `bytes`, read from `pos`. If the first needs more bytes, and the file has
    /// them, says how many.
    fn parse(&self, mut bytes: Bytes, pos: u64, end: u64) -> Result<Batch, usize> {
        let mut frames = Vec::new();
        let mut next = pos;
        let ending = loop {
            let seq = self.seq;
            let at = Place { seq, pos: next };
            let left = end.saturating_sub(next);
            let needed = match parse(&bytes, at) {
                _ if left == 0 => break Some(Ending::End),
                Parsed::Frame(frame, length) => {
                    bytes.advance(length);
                    next = next.saturating_add(length as u64);
                    frames.push(Placed { frame, at, next });
                    continue;
                }
                Parsed::Zeros => break Some(Ending::Zeros),
                Parsed::BadHeader => break Some(Ending::BadHeader),
                Parsed::BadBody => break Some(Ending::BadBody),
                Parsed::ShortHeader if bytes.len() as u64 == left => {
                    break Some(Ending::ShortHeader);
                }
                Parsed::ShortHeader => super::frame::HEADER_LEN,
                Parsed::ShortBody(needed) if needed as u64 > left => {
                    break Some(Ending::ShortBody);
                }
                Parsed::ShortBody(needed) => needed,
            };
            if frames.is_empty() {
                return Err(needed);
            }
            break None;
        };
        Ok(Batch {
            frames,
            next,
            ending,
        })
    }

    /// Looks for good headers of frames after byte `pos`; says, of those that there are, the
    /// greatest number of bytes that had been synced.
    pub(super) fn search(&self, pos: u64, end: u64) -> Result<Option<u64>, Error> {
        let mut synced = None;
        let mut pos = pos.saturating_add(1);
        while pos < end {
            let bytes = self.read(pos, end, READ_SIZE)?;
            let at = Place { seq: self.seq, pos };
            synced = synced.max(search(&bytes, at));
            // A header may lie across the border of two pieces.
            let overlap = super::frame::HEADER_LEN.saturating_sub(1);
            let step = bytes.len().saturating_sub(overlap).max(1);
            if pos.saturating_add(bytes.len() as u64) >= end {
                break;
            }
            pos = pos.saturating_add(step as u64);
        }
        Ok(synced)
    }

    /// The error that names a byte of this file.
    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Error::Corrupt {
            path: self.path.clone(),
            offset,
            what,
        }
    }

    /// Up to `limit` bytes from `pos`, of the `end` bytes that the segment has.
    fn read(&self, pos: u64, end: u64, limit: usize) -> Result<Bytes, Error> {
        let left = usize::try_from(end.saturating_sub(pos)).unwrap_or(limit);
        let mut bytes = BytesMut::zeroed(left.min(limit));
        match self.file.read_exact_at(&mut bytes, pos) {
            Ok(()) => Ok(bytes.freeze()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(pos, "the file became shorter"))
            }
            Err(e) => Err(Error::io("read", &self.path, e)),
        }
    }
}

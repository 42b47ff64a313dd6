//! Segments: the files of the journal.
//!
//! `<seq:020>.seg` is a [header](super::header) and frames.
//! A new segment is written under another name, synced, and renamed: a torn header cannot be.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};

use super::Error;
use super::frame::{HEADER_LEN, Parsed, Place, Placed, parse, search};
use super::header::{BadHeader, Header, MAX_HEADER};

/// How much is read at once: large enough to run at the speed of the disk.
const READ_SIZE: usize = 1 << 20;

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
                drop(fs::remove_file(&partial));
                drop(fs::remove_file(&path));
                Err(Error::io("create", &path, source))
            }
        }
    }

    /// Opens a segment, to append to it too when `write` is set.
    pub(super) fn open(dir: &Path, seq: u64, write: bool) -> Result<Self, Error> {
        let path = Self::path(dir, seq);
        match OpenOptions::new().read(true).write(write).open(&path) {
            Ok(file) => Ok(Self { seq, path, file }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::Missing { path }),
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
                Parsed::ShortHeader => HEADER_LEN,
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
            let overlap = HEADER_LEN.saturating_sub(1);
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
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(pos, "the file became shorter"))
            }
            Err(e) => Err(Error::io("read", &self.path, e)),
        }
    }
}

//! The one writer of the journal.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::watch;

use super::frame::{self, FrameHeader, FrameKind, HEADER_LEN, Place};
use super::header::{Header, MAX_PREAMBLE};
use super::recovery::{Found, Recovered, recover};
use super::segment::Segment;
use super::shared::{Journal, Shared, Syncer};
use super::{Config, Error, Limits};
use crate::model::{Cursor, MAX_FRAME, TARGET_FRAME};

/// The file whose lock says that the journal is in use.
const LOCK: &str = "LOCK";

/// The owner of a journal: appends to it, and holds its lock until dropped.
///
/// After [`Writer::open`], and after appending a frame of kind [`FrameKind::Epoch`] or
/// [`FrameKind::Continue`], the state of the epoch must be given with [`Writer::set_preamble`]
/// before more is appended: the next segment begins with it, and a restart reads no other.
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    ends: watch::Sender<Cursor>,
    last: Arc<Segment>,
    /// Where the next frame goes.
    place: Place,
    /// The length of the header of the last segment.
    first: u64,
    previous: Option<FrameHeader>,
    preamble: Option<Vec<u8>>,
    /// Whether the state of the epoch has changed since the preamble was given.
    preamble_stale: bool,
    /// Whether a write failed and what it wrote is still in the file.
    torn: bool,
    /// How much of the last segment was on the disk when last looked.
    synced: u64,
    limits: Limits,
    uses_reserve: bool,
    _lock: File,
    #[cfg(test)]
    pub(super) quota: Option<u64>,
}

impl Writer {
    /// Opens the journal, or begins one.
    ///
    /// # Errors
    /// Another process uses it; it is damaged, in a way that no crash explains; the disk refused.
    pub fn open(config: Config) -> Result<(Self, Journal, Recovered), Error> {
        let limits = Limits::of(&config)?;
        Self::open_with(&config.dir, limits)
    }

    pub(super) fn open_with(
        dir: &Path,
        limits: Limits,
    ) -> Result<(Self, Journal, Recovered), Error> {
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let lock = lock(dir)?;
        let Found {
            index,
            last,
            recovered,
        } = recover(dir, limits.tail)?;
        let last = Arc::new(last);
        let (end, place) = index.written();
        let (ends, subscribed) = watch::channel(end);
        let (_, synced) = index.durable();
        let first = index.last_first();
        let shared = Shared::new(dir.to_owned(), limits, index, Arc::clone(&last));
        let journal = Journal {
            shared: Arc::new(shared),
            ends: subscribed,
        };
        let writer = Self {
            journal: journal.clone(),
            ends,
            last,
            place,
            first,
            previous: recovered.end,
            preamble: recovered.preamble.clone(),
            preamble_stale: !recovered.frames.is_empty(),
            torn: false,
            synced,
            limits,
            uses_reserve: false,
            _lock: lock,
            #[cfg(test)]
            quota: None,
        };
        Ok((writer, journal, recovered))
    }

    /// Appends a frame; when this returns it is in the page cache, and readers see it. Now and
    /// then a segment is finished, which waits for the disk.
    ///
    /// # Errors
    /// The disk refused, for example because it is full: nothing was appended, and the same call
    /// may be tried again. The frame is too large or does not follow the last: our bug.
    pub fn append(&mut self, header: &FrameHeader, body: &[u8]) -> Result<(), Error> {
        if body.len() > MAX_FRAME {
            return Err(self.misuse("a frame larger than MAX_FRAME"));
        }
        if !header.follows(self.previous.as_ref()) {
            return Err(self.misuse("a frame that does not follow the last"));
        }
        self.mend()?;
        let length = (HEADER_LEN + body.len()) as u64;
        let limits = self.journal.shared.limits;
        if self.place.pos > self.first && self.place.pos + length > limits.segment {
            self.rotate()?;
        }
        self.make_room(length)?;
        let kept = self.write(header, body)?;
        let at = self.place;
        self.place.pos += length;
        self.previous = Some(*header);
        self.preamble_stale |= matches!(header.kind, FrameKind::Epoch | FrameKind::Continue);
        let next = self.place.pos;
        {
            let mut state = self.journal.shared.state();
            state.index.add_frame(*header, at, next, kept);
            self.synced = state.index.durable().1;
        }
        self.ends.send_replace(header.cursor());
        Ok(())
    }

    /// Gives the state of the epoch, which the next segments begin with; see [`Writer`].
    pub fn set_preamble(&mut self, preamble: Vec<u8>) {
        self.preamble = Some(preamble);
        self.preamble_stale = false;
    }

    /// What syncs the journal; for a task of its own, about once a second.
    #[must_use]
    pub fn sync_handle(&self) -> Syncer {
        self.journal.syncer()
    }

    /// Writes a frame at its place; returns the body if it is worth keeping in memory.
    fn write(&mut self, header: &FrameHeader, body: &[u8]) -> Result<Option<Bytes>, Error> {
        let keep = body.len() <= self.journal.shared.limits.tail;
        let mut bytes = Vec::with_capacity(HEADER_LEN + if keep { body.len() } else { 0 });
        frame::put_header(&mut bytes, header, body, self.synced, self.place);
        let pos = self.place.pos;
        let written = if keep {
            bytes.extend_from_slice(body);
            self.write_at(&bytes, pos)
        } else {
            // Too large to copy for the sake of one system call.
            self.write_at(&bytes, pos)
                .and_then(|()| self.write_at(body, pos + HEADER_LEN as u64))
        };
        match written {
            Ok(()) => Ok(keep.then(|| Bytes::from(bytes).slice(HEADER_LEN..))),
            Err(e) => {
                self.torn = true;
                // If this fails too, the next append tries again, and a restart finds a torn tail.
                drop(self.mend());
                Err(Error::io("append to", &self.last.path, e))
            }
        }
    }

    /// Removes what a failed write has left.
    fn mend(&mut self) -> Result<(), Error> {
        if self.torn {
            let cut = self.last.file.set_len(self.place.pos);
            cut.map_err(|e| Error::io("truncate", &self.last.path, e))?;
            self.torn = false;
        }
        Ok(())
    }

    /// Finishes the last segment and begins a new one.
    fn rotate(&mut self) -> Result<(), Error> {
        if self.preamble_stale {
            return Err(self.misuse("a segment without the state of its epoch"));
        }
        if self
            .preamble
            .as_ref()
            .is_some_and(|p| p.len() > MAX_PREAMBLE)
        {
            return Err(self.misuse("a preamble of more than a megabyte"));
        }
        self.sync_handle().sync()?;
        let shared = &self.journal.shared;
        let header = {
            let state = shared.state();
            Header {
                seq: self.place.seq + 1,
                previous_len: self.place.pos,
                previous: self.previous,
                last_record: state.index.last_record(),
                epochs: state.index.epochs(),
                preamble: self.preamble.clone(),
            }
        };
        let (segment, first) = Segment::create(&shared.dir, &header)?;
        self.last = Arc::new(segment);
        self.place = Place {
            seq: header.seq,
            pos: first,
        };
        self.first = first;
        self.synced = first;
        let mut state = shared.state();
        state.index.add_segment(&header, first, first);
        state.last = Arc::clone(&self.last);
        Ok(())
    }

    /// Whether a frame of the usual size can be appended, as far as the configured size goes.
    ///
    /// # Errors
    /// It cannot, and nothing may be dropped ([`Config::drops_oldest`]): [`Error::Full`].
    pub fn room(&self) -> Result<(), Error> {
        match self.drops_oldest() {
            true => Ok(()),
            false => self.refuse_beyond(TARGET_FRAME as u64),
        }
    }

    /// Whether the last part of the configured size may be used, which is kept for what must be read
    /// all the same ([`Config::drops_oldest`]).
    pub const fn use_reserve(&mut self, is_used: bool) {
        self.uses_reserve = is_used;
    }

    const fn drops_oldest(&self) -> bool {
        self.uses_reserve || self.limits.drops_oldest
    }

    /// Drops the oldest segments until `length` more bytes are within the configured size, or refuses.
    fn make_room(&self, length: u64) -> Result<(), Error> {
        let shared = &self.journal.shared;
        if !self.drops_oldest() {
            return self.refuse_beyond(length);
        }
        while shared.state().index.bytes() + length > shared.limits.total
            && shared.drop_oldest(None)?
        {
            shared.overflowed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The last segment always takes what comes: there is nothing to wait for.
    fn refuse_beyond(&self, length: u64) -> Result<(), Error> {
        let shared = &self.journal.shared;
        let state = shared.state();
        let is_beyond = state.index.bytes() + length > shared.limits.usual();
        match is_beyond && state.index.droppable(None).is_some() {
            true => Err(Error::Full {
                path: shared.dir.clone(),
                max_size: shared.limits.total,
            }),
            false => Ok(()),
        }
    }

    #[cfg(not(test))]
    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<()> {
        self.last.file.write_all_at(bytes, pos)
    }

    /// Fails like a full disk does: after having written a part.
    #[cfg(test)]
    fn write_at(&mut self, bytes: &[u8], pos: u64) -> io::Result<()> {
        let quota = self.quota.unwrap_or(u64::MAX);
        let fits = usize::try_from(quota).map_or(bytes.len(), |q| q.min(bytes.len()));
        self.last.file.write_all_at(&bytes[..fits], pos)?;
        self.quota = self.quota.map(|q| q - fits as u64);
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn misuse(&self, what: &'static str) -> Error {
        Error::Misuse {
            what,
            path: self.journal.shared.dir.clone(),
        }
    }
}

/// Takes the lock of a directory; the system releases it when the file is closed, also by a kill.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| Error::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: dir.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
    }
}

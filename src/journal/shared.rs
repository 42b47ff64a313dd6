//! What the writer and the readers share, and the side of it that everyone may use.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::index::{EpochRange, Index};
use super::reader::Reader;
use super::segment::Segment;
use super::{Error, Limits};
use crate::model::Cursor;

/// The side of the journal that reads and trims. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Journal {
    pub(super) shared: Arc<Shared>,
    pub(super) ends: watch::Receiver<Cursor>,
}

impl Journal {
    /// Where the last frame ends; [`Cursor::ZERO`] when there is none.
    #[must_use]
    pub fn end(&self) -> Cursor {
        self.shared.state().index.end()
    }

    /// The first cursor that a reader can start from.
    #[must_use]
    pub fn first(&self) -> Cursor {
        self.shared.state().index.first()
    }

    /// Where the last record ends; [`Cursor::ZERO`] when there was none.
    #[must_use]
    pub fn last_record(&self) -> Cursor {
        self.shared.state().index.last_record()
    }

    /// Up to where everything is on the disk, and survives a power failure.
    #[must_use]
    pub fn durable(&self) -> Cursor {
        self.shared.state().index.durable().0
    }

    /// How many bytes the files take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.state().index.bytes()
    }

    /// The most bytes that the files may take.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.shared.limits.total
    }

    /// The most bytes that they may take before the oldest is dropped, or nothing more is appended.
    #[must_use]
    pub fn usual_bytes(&self) -> u64 {
        self.shared.limits.usual()
    }

    /// How many segments were dropped since the start because the journal was full, whether they
    /// were needed or not. When it grows, a peer may have to be synced in full.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.shared.overflowed.load(Ordering::Relaxed)
    }

    /// The epochs that the journal holds, or parts of which it holds, oldest first.
    #[must_use]
    pub fn epochs(&self) -> Vec<EpochRange> {
        self.shared.state().index.epochs()
    }

    /// Whether a cursor is in one of the [`epochs`](Self::epochs), so that a peer that has
    /// everything up to it misses nothing by going on here.
    #[must_use]
    pub fn contains(&self, cursor: Cursor) -> bool {
        self.shared.state().index.contains(cursor)
    }

    /// About how many bytes follow a cursor: exact while that is recent, then to a fraction of a
    /// megabyte, and rough in what was there before this process started. Reads no file.
    #[must_use]
    pub fn pending_bytes(&self, after: Cursor) -> u64 {
        self.shared.state().index.pending_bytes(after)
    }

    /// The end, whenever it changes. It is also a change when a frame of no length is appended.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Cursor> {
        self.ends.clone()
    }

    /// A reader of the frames that end after a cursor. [`Cursor::ZERO`] asks for all that was ever
    /// written.
    ///
    /// # Errors
    /// Some of them are gone.
    pub fn reader(&self, after: Cursor) -> Result<Reader, Error> {
        let place = {
            let state = self.shared.state();
            let first = state.index.first();
            let trimmed = Error::Trimmed { after, first };
            state.index.find(after).ok_or(trimmed)?
        };
        Ok(Reader::new(self.clone(), place, after))
    }

    /// Removes the segments that end at or before a cursor, but never the last. Readers that are
    /// still in them get [`Error::Trimmed`]. Blocks while it does.
    ///
    /// # Errors
    /// A file cannot be removed. It and those after it stay in the journal.
    pub fn trim(&self, upto: Cursor) -> Result<(), Error> {
        while self.shared.drop_oldest(Some(upto))? {}
        Ok(())
    }

    /// What syncs the journal; for a task of its own, about once a second.
    #[must_use]
    pub fn syncer(&self) -> Syncer {
        Syncer {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Brings what was appended to the disk, off the path of the writer. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Syncer {
    shared: Arc<Shared>,
}

impl Syncer {
    /// Brings everything appended so far to the disk and says up to where that is. Blocks, for
    /// seconds if the disk is slow: call it in [`tokio::task::spawn_blocking`]. Does nothing when
    /// there is nothing to do.
    ///
    /// # Errors
    /// The disk refused. The system may have forgotten the bytes, so that the next call succeeds
    /// without them: stop, or begin a new journal.
    pub fn sync(&self) -> Result<Cursor, Error> {
        let (segment, (cursor, place)) = {
            let state = self.shared.state();
            let written = state.index.written();
            if written.1.pos == state.index.durable().1 {
                return Ok(written.0);
            }
            (Arc::clone(&state.last), written)
        };
        let sync = segment.file.sync_data();
        sync.map_err(|e| Error::io("sync", &segment.path, e))?;
        self.shared.state().index.set_durable(cursor, place);
        Ok(cursor)
    }
}

/// What the writer and the readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) limits: Limits,
    state: Mutex<State>,
    /// Held while files are removed: the oldest first, so that no crash leaves a gap.
    trimming: Mutex<()>,
    pub(super) overflowed: AtomicU64,
}

/// What is where, and the segment that is appended to.
#[derive(Debug)]
pub(super) struct State {
    pub(super) index: Index,
    pub(super) last: Arc<Segment>,
}

impl Shared {
    pub(super) fn new(dir: PathBuf, limits: Limits, index: Index, last: Arc<Segment>) -> Self {
        Self {
            dir,
            limits,
            state: Mutex::new(State { index, last }),
            trimming: Mutex::new(()),
            overflowed: AtomicU64::new(0),
        }
    }

    /// Held for moments only, and never while a file is touched.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a segment to read it. When it is being removed just now, waits for that, so that the
    /// index knows.
    pub(super) fn open(&self, seq: u64) -> Result<Segment, Error> {
        let open = Segment::open(&self.dir, seq, false);
        if open.is_err() {
            drop(self.trimming.lock());
        }
        open
    }

    /// Removes the oldest segment, if it is not the last, and ends at or before `upto`. Says
    /// whether it did.
    pub(super) fn drop_oldest(&self, upto: Option<Cursor>) -> Result<bool, Error> {
        let _trimming = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seq) = self.state().index.droppable(upto) else {
            return Ok(false);
        };
        let path = Segment::path(&self.dir, seq);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("remove", &path, e)),
        }
        self.state().index.drop_oldest();
        // Not before the next: what is removed first must be gone first.
        let sync = File::open(&self.dir).and_then(|d| d.sync_all());
        sync.map_err(|e| Error::io("sync", &self.dir, e))?;
        Ok(true)
    }
}

//! Readers: they follow the journal frame by frame.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Error;
use super::frame::{Frame, Place, Placed};
use super::index::Look;
use super::segment::{Batch, Segment};
use super::shared::Journal;
use crate::model::Cursor;

/// Follows the journal from a cursor on. Holds at most about a megabyte, or one frame.
#[derive(Debug)]
pub struct Reader {
    journal: Journal,
    ends: watch::Receiver<Cursor>,
    /// The byte of the journal that is read next.
    place: Place,
    /// Frames that end at or before this are passed over; `None` once one was returned.
    after: Option<Cursor>,
    /// Where the last frame returned ends.
    position: Cursor,
    /// The file that was read last.
    segment: Option<Arc<Segment>>,
    /// What was read of it.
    ready: VecDeque<Placed>,
    /// A piece of a file that is being read; kept when [`Reader::next`] is cancelled, or a piece
    /// that takes longer than its caller waits would never be read.
    reading: Option<JoinHandle<Done>>,
}

/// What is to be done for the next frame.
enum Step {
    Return(Frame),
    Wait,
    Read(Job),
}

/// What was read of a file, and the file.
type Done = Result<(Arc<Segment>, Batch), Error>;

/// A piece of a file that is to be read.
struct Job {
    journal: Journal,
    segment: Option<Arc<Segment>>,
    place: Place,
    end: u64,
}

impl Reader {
    pub(super) fn new(journal: Journal, place: Place, after: Cursor) -> Self {
        Self {
            ends: journal.subscribe(),
            journal,
            place,
            after: Some(after),
            position: after,
            segment: None,
            ready: VecDeque::new(),
            reading: None,
        }
    }

    /// Where the last frame returned ends; at first the cursor that it was made with.
    #[must_use]
    pub const fn position(&self) -> Cursor {
        self.position
    }

    /// The next frame, if there is one. Reads files, thus may block, when it is far behind.
    ///
    /// # Errors
    /// The frame was trimmed, or cannot be read, or is damaged. The reader stays where it is.
    pub fn try_next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            match self.step()? {
                Step::Return(frame) => return Ok(Some(frame)),
                Step::Wait => return Ok(None),
                Step::Read(job) => {
                    let done = job.run();
                    self.take(done)?;
                }
            }
        }
    }

    /// The next frame; waits for it.
    ///
    /// Cancel-safe: the place moves on only when a frame is returned, and a piece of a file that is
    /// being read is taken by the next call.
    ///
    /// # Errors
    /// As [`Reader::try_next`]; and the journal is closed, and everything in it was read.
    pub async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            // Before looking, so that no change after it is missed.
            self.ends.mark_unchanged();
            match self.step()? {
                Step::Return(frame) => return Ok(frame),
                Step::Wait => self.ends.changed().await.map_err(|_| Error::Closed)?,
                Step::Read(job) => {
                    let reading = self
                        .reading
                        .get_or_insert_with(|| spawn_blocking(|| job.run()));
                    let read = reading.await;
                    self.reading = None;
                    // The runtime is going down.
                    let done = read.map_err(|_| Error::Closed)?;
                    self.take(done)?;
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step, Error> {
        loop {
            let placed = match self.look() {
                Look::End => return Ok(Step::Wait),
                Look::Trimmed => return Err(self.trimmed()),
                Look::Frame(placed) => {
                    self.segment = None;
                    self.ready.clear();
                    placed
                }
                Look::File(end) => match self.ready.pop_front_if(|p| p.at == self.place) {
                    Some(placed) => placed,
                    None => return Ok(Step::Read(self.job(end))),
                },
            };
            self.place.pos = placed.next;
            let cursor = placed.frame.header.cursor();
            if self.after.is_none_or(|after| after < cursor) {
                self.after = None;
                self.position = cursor;
                return Ok(Step::Return(placed.frame));
            }
        }
    }

    fn look(&mut self) -> Look {
        self.journal.shared.state().index.look(&mut self.place)
    }

    fn job(&self, end: u64) -> Job {
        let open = self.segment.as_ref();
        Job {
            journal: self.journal.clone(),
            segment: open.filter(|s| s.seq == self.place.seq).cloned(),
            place: self.place,
            end,
        }
    }

    fn take(&mut self, done: Done) -> Result<(), Error> {
        let (segment, batch) = match done {
            // Trimmed between the look and the read, or removed by someone else.
            Err(error @ Error::Missing { .. }) => match self.look() {
                Look::Trimmed => return Err(self.trimmed()),
                _ => return Err(error),
            },
            done => done?,
        };
        self.segment = Some(segment);
        self.ready = batch.frames.into();
        Ok(())
    }

    fn trimmed(&self) -> Error {
        Error::Trimmed {
            after: self.position,
            first: self.journal.first(),
        }
    }
}

impl Job {
    /// Blocks while it reads.
    fn run(self) -> Done {
        let Place { seq, pos } = self.place;
        let segment = match self.segment {
            Some(segment) => segment,
            None => Arc::new(self.journal.shared.open(seq)?),
        };
        let batch = segment.read_frames(pos, self.end)?;
        if batch.frames.is_empty() {
            return Err(segment.corrupt(pos, "a damaged frame"));
        }
        Ok((segment, batch))
    }
}

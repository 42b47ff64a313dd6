//! What is where: segments, epochs, and the newest frames. In memory only; no I/O.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;

use super::frame::{FrameHeader, Place, Placed};
use super::segment::{Header, MAX_EPOCHS};
use crate::model::{Cursor, Epoch, Offset};

/// How far apart the known frames of a segment are: what a reader must skip at most to find its
/// place, and how coarse [`super::Journal::pending_bytes`] is behind the tail.
const MARK_EVERY: u64 = 256 << 10;

/// The part of an epoch that the journal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRange {
    /// The epoch.
    pub epoch: Epoch,
    /// A reader can go on from here.
    pub first: Offset,
    /// Where its last frame ends.
    pub end: Offset,
}

/// What is at a reader's place.
#[derive(Debug)]
pub(super) enum Look {
    /// This frame.
    Frame(Placed),
    /// Nothing yet.
    End,
    /// Something to be read from the file, which has so many bytes.
    File(u64),
    /// Nothing any more.
    Trimmed,
}

/// A segment in the index.
#[derive(Debug)]
struct Entry {
    seq: u64,
    /// The cursor where it begins.
    base: Cursor,
    /// Where its first frame begins.
    first: u64,
    /// The length of its file, of which readers may read all.
    len: u64,
    /// Bytes of frames in all segments before it, also in those that are gone.
    before: u64,
    /// Some of its frames: before which cursor they begin, and where.
    marks: Vec<(Cursor, u64)>,
}

/// The index of a journal. It has at least one segment.
#[derive(Debug)]
pub(super) struct Index {
    segments: VecDeque<Entry>,
    /// The newest frames, without a gap, so that a reader that keeps up reads no file.
    tail: VecDeque<Placed>,
    tail_bytes: usize,
    tail_limit: usize,
    epochs: VecDeque<EpochRange>,
    end: Cursor,
    last_record: Cursor,
    /// The cursor and the byte of the last segment up to which everything is on the disk.
    durable: (Cursor, u64),
    /// The sizes of the files.
    bytes: u64,
    /// The end of the segment that was dropped last.
    dropped: Option<Place>,
}

impl Index {
    /// An index without segments, to which those that there are must be added first.
    pub(super) const fn new(tail_limit: usize) -> Self {
        Self {
            segments: VecDeque::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_limit,
            epochs: VecDeque::new(),
            end: Cursor::ZERO,
            last_record: Cursor::ZERO,
            durable: (Cursor::ZERO, 0),
            bytes: 0,
            dropped: None,
        }
    }

    /// Adds a segment after the others, whose header has `first` bytes, and whose file `len`.
    pub(super) fn add_segment(&mut self, header: &Header, first: u64, len: u64) {
        let last = self.segments.back();
        let before = last.map_or(0, |l| {
            l.before.saturating_add(l.len.saturating_sub(l.first))
        });
        self.segments.push_back(Entry {
            seq: header.seq,
            base: header.base(),
            first,
            len,
            before,
            marks: Vec::new(),
        });
        self.bytes = self.bytes.saturating_add(len);
        self.end = header.base();
        self.last_record = header.last_record;
        self.durable = (self.end, len);
        self.epochs = header.epochs.iter().copied().collect();
        self.forget_epochs();
    }

    /// Forgets the length of the last segment, so that its frames can be added; says where they
    /// begin.
    pub(super) fn restart_last(&mut self) -> u64 {
        let Some(last) = self.segments.back_mut() else {
            return 0;
        };
        self.bytes = self
            .bytes
            .saturating_sub(last.len.saturating_sub(last.first));
        last.len = last.first;
        self.durable = (self.end, last.first);
        last.first
    }

    /// Adds a frame after the others, that ends at byte `next` of the last segment.
    pub(super) fn add_frame(&mut self, header: &FrameHeader, at: Place, next: u64) {
        if let Some(last) = self.segments.back_mut() {
            let marked = last.marks.last().map_or(last.first, |(_, pos)| *pos);
            if at.pos >= marked.saturating_add(MARK_EVERY) {
                last.marks.push((self.end, at.pos));
            }
            self.bytes = self.bytes.saturating_add(next.saturating_sub(last.len));
            last.len = next;
        }
        self.end = header.cursor();
        if let Some(record) = header.last_record() {
            self.last_record = record;
        }
        match self.epochs.back_mut() {
            Some(range) if range.epoch == header.epoch => range.end = header.end,
            _ => self.epochs.push_back(EpochRange {
                epoch: header.epoch,
                first: header.start,
                end: header.end,
            }),
        }
        self.forget_epochs();
    }

    /// Keeps the frame that was added last for readers that keep up. Without it the tail begins
    /// anew.
    pub(super) fn keep(&mut self, frame: Option<Placed>) {
        let size = |p: &Placed| p.frame.body.len().saturating_add(size_of::<Placed>());
        let Some(frame) = frame.filter(|f| size(f) <= self.tail_limit) else {
            self.tail.clear();
            self.tail_bytes = 0;
            return;
        };
        self.tail_bytes = self.tail_bytes.saturating_add(size(&frame));
        self.tail.push_back(frame);
        while self.tail_bytes > self.tail_limit
            && let Some(old) = self.tail.pop_front()
        {
            self.tail_bytes = self.tail_bytes.saturating_sub(size(&old));
        }
    }

    /// The oldest segment, if it is not the last, and ends at or before `upto`.
    pub(super) fn droppable(&self, upto: Option<Cursor>) -> Option<u64> {
        let (oldest, next) = (self.segments.front()?, self.segments.get(1)?);
        upto.is_none_or(|u| next.base <= u).then_some(oldest.seq)
    }

    /// Forgets the oldest segment, whose file is gone.
    pub(super) fn drop_oldest(&mut self) {
        let Some(oldest) = self.segments.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(oldest.len);
        let gone = |p: &Placed| p.at.seq <= oldest.seq;
        while let Some(old) = self.tail.pop_front_if(|p| gone(p)) {
            let size = old.frame.body.len().saturating_add(size_of::<Placed>());
            self.tail_bytes = self.tail_bytes.saturating_sub(size);
        }
        self.dropped = Some(Place {
            seq: oldest.seq,
            pos: oldest.len,
        });
        self.forget_epochs();
    }

    /// What is at a place, which is moved on to the next segment at the end of one.
    pub(super) fn look(&self, place: &mut Place) -> Look {
        loop {
            let (Some(oldest), Some(last)) = (self.segments.front(), self.segments.back()) else {
                return Look::End;
            };
            if Some(*place) == self.dropped {
                *place = oldest.begin();
            }
            let index = place.seq.checked_sub(oldest.seq);
            let index = index.and_then(|i| usize::try_from(i).ok());
            let Some(entry) = index.and_then(|i| self.segments.get(i)) else {
                return Look::Trimmed;
            };
            if place.pos < entry.len {
                let tail = self.tail.partition_point(|p| p.at < *place);
                return match self.tail.get(tail) {
                    Some(p) if p.at == *place => Look::Frame(p.clone()),
                    _ => Look::File(entry.len),
                };
            }
            if entry.seq == last.seq {
                return Look::End;
            }
            let next = self.segments.iter().find(|s| s.seq > entry.seq);
            *place = next.unwrap_or(last).begin();
        }
    }

    /// A place at or before the first frame that ends after a cursor; `None` if that may be gone.
    pub(super) fn find(&self, after: Cursor) -> Option<Place> {
        let oldest = self.segments.front()?;
        let whole = oldest.base == Cursor::ZERO;
        if after < self.first() && !(whole && after == Cursor::ZERO) {
            return None;
        }
        if after >= self.end {
            return Some(self.end_place());
        }
        let in_tail = self
            .tail
            .partition_point(|p| p.frame.header.cursor() <= after);
        if in_tail > 0 {
            return self.tail.get(in_tail).map(|p| p.at);
        }
        let entry = self.entry(after).unwrap_or(oldest);
        let mark = entry.marks.partition_point(|(c, _)| *c <= after);
        let mark = mark.checked_sub(1).and_then(|m| entry.marks.get(m));
        Some(Place {
            seq: entry.seq,
            pos: mark.map_or(entry.first, |(_, pos)| *pos),
        })
    }

    /// About how many bytes of frames end after a cursor; exact in the tail.
    pub(super) fn pending_bytes(&self, after: Cursor) -> u64 {
        let oldest = self.segments.front().map_or(0, |s| s.before);
        let place = self.find(after);
        let address = place.map_or(oldest, |p| self.address(p, after));
        self.address(self.end_place(), self.end)
            .saturating_sub(address)
    }

    /// Counts the bytes of all frames before a place. In a segment that was there when the journal
    /// was opened only its beginning is known, and the cursor tells roughly how far it is.
    fn address(&self, place: Place, after: Cursor) -> u64 {
        let index = self.segments.partition_point(|s| s.seq < place.seq);
        let Some(entry) = self.segments.get(index) else {
            return 0;
        };
        let mut pos = place.pos;
        if let Some(next) = self.segments.get(index.saturating_add(1))
            && entry.marks.is_empty()
            && pos == entry.first
            && entry.base.epoch == after.epoch
            && next.base.epoch == after.epoch
        {
            let done = u128::from(after.offset.0.saturating_sub(entry.base.offset.0));
            let span = u128::from(next.base.offset.0.saturating_sub(entry.base.offset.0));
            let bytes = u128::from(entry.len.saturating_sub(entry.first));
            let part = bytes.saturating_mul(done).checked_div(span).unwrap_or(0);
            pos = pos.saturating_add(u64::try_from(part.min(bytes)).unwrap_or(0));
        }
        entry.before.saturating_add(pos.saturating_sub(entry.first))
    }

    /// The last segment that begins at or before a cursor.
    fn entry(&self, after: Cursor) -> Option<&Entry> {
        let index = self.segments.partition_point(|s| s.base <= after);
        self.segments.get(index.checked_sub(1)?)
    }

    fn end_place(&self) -> Place {
        let last = self.segments.back();
        last.map_or(Place { seq: 0, pos: 0 }, |l| Place {
            seq: l.seq,
            pos: l.len,
        })
    }

    /// Where the first frame of the last segment begins.
    pub(super) fn last_first(&self) -> u64 {
        self.segments.back().map_or(0, |l| l.first)
    }

    /// Forgets epochs, and parts of one, that are in no segment any more.
    fn forget_epochs(&mut self) {
        let base = self.segments.front().map_or(Cursor::ZERO, |s| s.base);
        while self.epochs.len() > MAX_EPOCHS
            || self.epochs.front().is_some_and(|r| r.epoch < base.epoch)
        {
            self.epochs.pop_front();
        }
        if let Some(range) = self.epochs.front_mut()
            && range.epoch == base.epoch
        {
            range.first = range.first.max(base.offset);
        }
    }

    /// The first cursor that a reader can start from.
    pub(super) fn first(&self) -> Cursor {
        self.epochs.front().map_or(Cursor::ZERO, |r| Cursor {
            epoch: r.epoch,
            offset: r.first,
        })
    }

    /// Whether a cursor is in an epoch of the journal, and in the part that it holds.
    pub(super) fn contains(&self, cursor: Cursor) -> bool {
        let index = self.epochs.partition_point(|r| r.epoch < cursor.epoch);
        self.epochs.get(index).is_some_and(|r| {
            r.epoch == cursor.epoch && r.first <= cursor.offset && cursor.offset <= r.end
        })
    }

    /// The epochs in the journal, oldest first.
    pub(super) fn epochs(&self) -> Vec<EpochRange> {
        self.epochs.iter().copied().collect()
    }

    /// Where the last frame ends.
    pub(super) const fn end(&self) -> Cursor {
        self.end
    }

    /// Where the last record ends.
    pub(super) const fn last_record(&self) -> Cursor {
        self.last_record
    }

    /// The sizes of the files.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The end of the last segment, and the cursor there.
    pub(super) fn written(&self) -> (Cursor, Place) {
        (self.end, self.end_place())
    }

    /// Up to which cursor, and which byte of the last segment, everything is on the disk.
    pub(super) const fn durable(&self) -> (Cursor, u64) {
        self.durable
    }

    /// Takes note that everything up to a place, which [`Index::written`] named, is on the disk.
    pub(super) fn set_durable(&mut self, cursor: Cursor, place: Place) {
        let last = self.segments.back();
        let current = last.is_some_and(|l| l.seq == place.seq);
        if current && self.durable.1 < place.pos {
            self.durable = (cursor, place.pos);
        }
    }
}

impl Entry {
    const fn begin(&self) -> Place {
        Place {
            seq: self.seq,
            pos: self.first,
        }
    }
}

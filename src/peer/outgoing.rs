//! What goes to the peer, in the one order that is right: records in the order of the journal, and
//! states at the exact place where they were read.

use std::collections::VecDeque;

use tokio::time::{Duration, Instant, sleep_until};

use crate::fullsync::{Gate, Hold, Insert, Part, Parts, Spooled};
use crate::intake::wall_ms;
use crate::journal::{self, Frame, FrameKind, Journal};
use crate::link::{Message, Plan, Records, Writer};
use crate::model::{BatchReader, Cursor, FrameBuilder, Offset, RecordError};
use crate::replica::Snapshot;

/// Sent at once: what a fast network takes in a few milliseconds, and what we hold in memory.
const FLUSH_BYTES: usize = 1 << 20;

/// What goes next.
#[derive(Debug)]
pub(super) enum Next {
    /// A frame of the journal.
    Frame(Frame),
    /// A part of a copy.
    Part(Part),
}

/// The stream of records to one peer.
#[derive(Debug)]
pub(super) struct Outgoing {
    reader: journal::Reader,
    /// A frame that was read and must wait, or the rest of one that was cut.
    held: Option<Frame>,
    /// Frames sent and not yet applied there: where they end, and when they were read here.
    unapplied: VecDeque<(Cursor, u64)>,
    /// Where the last record sent ends.
    pub sent: Cursor,
    pub records_sent: u64,
    /// A copy comes that the peer does not have yet.
    pub copy_ahead: bool,
    /// How many copies it has got.
    pub copied: u64,
    /// Whether what is before a copy is left out: the peer has lost everything, and what those records had seen
    /// of third sites it gets with the copy only.
    skips: bool,
    /// The same of an interrupted one that goes on: what it has brought holds what was before it already.
    resumed: Option<Cursor>,
    /// Where the last of those ends that were left out: they count as sent when the copy is.
    skipped: Option<Cursor>,
    /// A copy or a large state that is being sent.
    copying: Option<(Parts, Hold)>,
    /// The most bytes of copies a second.
    max_rate: Option<u64>,
    /// When the next part may go.
    not_before: Instant,
    /// The snapshot of the copy that was sent, until the peer has it.
    pub snapshot: Option<Snapshot>,
    /// The large state that is being sent.
    spooled: Option<Spooled>,
}

impl Outgoing {
    /// Records after `start`.
    ///
    /// # Errors
    /// They are no longer in the journal.
    pub(super) fn new(
        journal: &Journal,
        start: Cursor,
        max_rate: Option<u64>,
    ) -> Result<Self, journal::Error> {
        Ok(Self {
            reader: journal.reader(start)?,
            held: None,
            unapplied: VecDeque::new(),
            sent: start,
            records_sent: 0,
            copy_ahead: false,
            copied: 0,
            skips: false,
            resumed: None,
            skipped: None,
            copying: None,
            max_rate,
            not_before: Instant::now(),
            snapshot: None,
            spooled: None,
        })
    }

    /// What is planned: whether a copy comes; whether to a site that has lost everything, or which one goes on.
    pub(super) const fn begin_copies(&mut self, plan: &Plan, refill: (bool, Option<Cursor>)) {
        self.copy_ahead = plan.send.copy.is_some();
        (self.skips, self.resumed) = refill;
    }

    /// Whether what is before this copy is left out: of the first one only.
    pub(super) fn skips_before(&mut self, copy: Cursor) -> bool {
        let goes_on = self.resumed.take() == Some(copy);
        std::mem::take(&mut self.skips) || goes_on
    }

    /// Up to where the peer has been sent all of our records: when there are no others up to the `last`,
    /// up to where we had `read` before. What a copy brings is not among them: were others to wait for it,
    /// two copies could wait for each other.
    pub(super) fn complete(&self, read: Cursor, last: Cursor) -> Cursor {
        match self.sent >= last {
            true => read.max(self.sent),
            false => self.sent,
        }
    }

    /// Whether a copy or a large state is being sent: records wait.
    pub(super) const fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// Waits for what goes next: the next part of a copy while one is being sent, else the next
    /// frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Next, super::Error> {
        if let Some((parts, _)) = &mut self.copying {
            sleep_until(self.not_before).await;
            return match parts.recv().await {
                Some(part) => Ok(Next::Part(part?)),
                None => Err(super::Error::NewHistory),
            };
        }
        match self.held.take() {
            Some(frame) => Ok(Next::Frame(frame)),
            None => Ok(Next::Frame(self.reader.next().await?)),
        }
    }

    /// Pushes a frame, and what follows it in the journal, up to a good size.
    ///
    /// A frame that holds what was written after a state was read comes from the journal after the
    /// gate was closed: so the gate is looked at with each frame in hand.
    pub(super) fn push_frames(
        &mut self,
        first: Frame,
        gate: &Gate,
        writer: &mut Writer,
    ) -> Result<(), journal::Error> {
        let mut next = Some(first);
        while let Some(frame) = next {
            if gate.is_closed() {
                self.held = Some(frame);
                return Ok(());
            }
            self.push(frame, writer);
            next = if writer.pending() < FLUSH_BYTES {
                self.try_next()?
            } else {
                None
            };
        }
        Ok(())
    }

    fn try_next(&mut self) -> Result<Option<Frame>, journal::Error> {
        match self.held.take() {
            Some(frame) => Ok(Some(frame)),
            None => self.reader.try_next(),
        }
    }

    fn push(&mut self, frame: Frame, writer: &mut Writer) {
        let header = frame.header;
        if header.kind != FrameKind::Records {
            return;
        }
        let end = Cursor {
            epoch: header.epoch,
            offset: header.last_record,
        };
        self.unapplied.push_back((end, header.stamp_ms));
        self.sent = end;
        self.records_sent += 1;
        writer.push(&Message::Records(Records {
            epoch: header.epoch,
            start: header.start,
            end: header.end,
            stamp_ms: header.stamp_ms,
            body: frame.body,
        }));
    }

    /// Pushes records up to the place of an insert; true when all of them are pushed, false when
    /// the writer should be flushed first.
    pub(super) fn push_up_to(
        &mut self,
        at: Cursor,
        writer: &mut Writer,
    ) -> Result<bool, super::Error> {
        while writer.pending() < FLUSH_BYTES {
            let Some(frame) = self.try_next()? else {
                return Ok(true);
            };
            let start = Cursor {
                epoch: frame.header.epoch,
                offset: frame.header.start,
            };
            if frame.header.cursor() <= at {
                self.push(frame, writer);
            } else if start >= at || frame.header.kind != FrameKind::Records {
                self.held = Some(frame);
                return Ok(true);
            } else {
                let (before, after) = split(&frame, at.offset)?;
                self.push(before, writer);
                self.held = Some(after);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves out records up to the place of a copy, which holds what they did.
    pub(super) fn skip_up_to(&mut self, at: Cursor) -> Result<(), super::Error> {
        while let Some(frame) = self.try_next()? {
            let header = frame.header;
            let place = |offset| Cursor {
                epoch: header.epoch,
                offset,
            };
            if header.kind != FrameKind::Records {
                continue;
            }
            if place(header.start) >= at {
                self.held = Some(frame);
                return Ok(());
            }
            if header.cursor() <= at {
                self.skipped = Some(place(header.last_record));
                continue;
            }
            let (before, after) = split(&frame, at.offset)?;
            self.skipped = Some(place(before.header.last_record));
            self.held = Some(after);
            return Ok(());
        }
        Ok(())
    }

    /// Pushes an insert whose place has come.
    pub(super) fn insert(&mut self, insert: Insert, writer: &mut Writer) {
        match insert {
            // The hold ends here: what follows on the wire comes behind these states.
            Insert::Owed(owed, _hold) => writer.push(&Message::OwedStates(owed)),
            Insert::Copy(copying) => {
                writer.push(&Message::CopyBegin(copying.begin));
                self.copying = Some((copying.parts, copying.hold));
                self.snapshot = Some(copying.snapshot);
            }
            Insert::Large(large) => {
                self.copying = Some((large.parts, large.hold));
                self.spooled = Some(large.file);
            }
        }
    }

    /// Pushes a part of the copy being sent.
    pub(super) fn push_part(&mut self, part: Part, writer: &mut Writer) {
        self.pace(&part);
        let message = match part {
            Part::Begin(begin) => Message::CopyBegin(begin),
            Part::States(states) => return writer.push_bundle(&states),
            Part::End(entries) => {
                self.copying = None;
                let skipped = self.skipped.take();
                self.sent = skipped.map_or(self.sent, |at| at.max(self.sent));
                Message::CopyEnd(entries)
            }
            Part::Owed { states, is_last } => {
                if is_last {
                    (self.copying, self.spooled) = (None, None);
                }
                Message::OwedStates(states)
            }
        };
        writer.push(&message);
    }

    /// Makes the next part wait for as long as this one may take.
    fn pace(&mut self, part: &Part) {
        let (Some(rate), Part::States(states)) = (self.max_rate, part) else {
            return;
        };
        let micros = (states.len() as u64).saturating_mul(1_000_000) / rate.max(1);
        self.not_before = self.not_before.max(Instant::now()) + Duration::from_micros(micros);
    }

    /// The peer has applied everything up to here.
    pub(super) fn applied(&mut self, at: Cursor) {
        while self.unapplied.front().is_some_and(|(end, _)| *end <= at) {
            self.unapplied.pop_front();
        }
    }

    /// How old the oldest record is that was sent and is not yet applied there, in seconds.
    pub(super) fn lag_seconds(&self) -> f64 {
        let Some((_, stamp_ms)) = self.unapplied.front() else {
            return 0.0;
        };
        let millis = u32::try_from(wall_ms().saturating_sub(*stamp_ms)).unwrap_or(u32::MAX);
        f64::from(millis) / 1000.0
    }
}

/// Cuts a frame in two: records up to `at`, and the rest.
fn split(frame: &Frame, at: Offset) -> Result<(Frame, Frame), RecordError> {
    let header = frame.header;
    let (mut before, mut after) = (FrameBuilder::new(header.start), FrameBuilder::new(at));
    let mut records = BatchReader::new(header.start, frame.body.clone());
    while let Some(record) = records.next_record()? {
        let part = if record.offset <= at {
            &mut before
        } else {
            &mut after
        };
        part.push_record(record);
    }
    let finish = |part: FrameBuilder, end| {
        let last_record = part.last_record().unwrap_or_else(|| part.start());
        let start = part.start();
        let header = journal::FrameHeader {
            start,
            end,
            last_record,
            ..header
        };
        Frame {
            header,
            body: part.finish().into(),
        }
    };
    Ok((finish(before, at), finish(after, header.end)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Entry, Epoch, Hlc, Record};

    #[test]
    fn a_frame_is_cut_between_its_records() {
        let mut builder = FrameBuilder::new(Offset(100));
        let record = |offset| Record {
            offset: Offset(offset),
            hlc: Hlc(1),
            db: 0,
            seen: Arc::default(),
            causes: Arc::default(),
            count: 1,
            commands: bytes::Bytes::from_static(b"x"),
        };
        for offset in [110, 120, 130] {
            builder.push_record(record(offset).borrowed());
        }
        let header = journal::FrameHeader {
            kind: FrameKind::Records,
            epoch: Epoch(1),
            start: Offset(100),
            end: Offset(140),
            db: 0,
            last_record: Offset(130),
            stamp_ms: 0,
        };
        let frame = Frame {
            header,
            body: builder.finish().into(),
        };
        let offsets = |frame: &Frame| -> Vec<u64> {
            BatchReader::new(frame.header.start, frame.body.clone())
                .map(|e| match e.unwrap() {
                    Entry::Record(r) => r.offset.0,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let (before, after) = split(&frame, Offset(120)).unwrap();
        assert_eq!(
            (offsets(&before), offsets(&after)),
            (vec![110, 120], vec![130])
        );
        assert_eq!(before.header.last_record, Offset(120));
        let (before, after) = split(&frame, Offset(105)).unwrap();
        assert_eq!(
            (offsets(&before), offsets(&after)),
            (vec![], vec![110, 120, 130])
        );
    }
}

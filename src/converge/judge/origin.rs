//! What the judge knows of one peer's records.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::third::Third;
use crate::converge::docket::{Docket, Filed};
use crate::model::{
    BatchReader, Cursor, Epoch, Hlc, InstanceId, Key, Offset, Record, RecordRef, Seen,
};

/// What is known of a peer's records.
#[derive(Debug)]
pub(super) struct Origin {
    pub docket: Docket,
    /// Its records have come back up to here.
    pub echoed: Cursor,
    /// And are judged up to here.
    pub judged: Cursor,
    /// What the last of these had seen.
    pub seen: Arc<Seen>,
    /// The frame that is being judged.
    pub reading: Option<Box<Frame>>,
    /// Keys that were deleted in what came back and is not judged.
    pub deleted: HashMap<u128, Key>,
    /// Keys whose value here is wrong, from the wish until our stream shows the right one.
    pub wrong: HashMap<u128, Wrong>,
    /// Where writes of whole databases met that do not commute, until the mark says that a copy is
    /// needed.
    pub torn: Option<Cursor>,
    /// The last transaction of this life with its records or states that has come back, and where.
    pub marked: Option<(InstanceId, u64, Cursor)>,
    /// What third sites may not have seen of it; not used when there are none.
    pub third: Third,
}

/// A frame of a peer's records, at one of them.
#[derive(Debug)]
pub(super) struct Frame {
    epoch: Epoch,
    records: BatchReader,
    /// Where the record ends at which it is.
    offset: Offset,
}

/// A key whose value here is wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The key.
    pub key: Key,
    /// The place of the wish.
    pub at: Cursor,
    /// The stamp of the write that made it wrong; none when it is not known.
    pub since: Option<Hlc>,
    /// Whether the peer was asked, or rests until the arbiter is out of reach.
    pub asked: bool,
    /// What was made of it behind this is asked for too; none when that is not known any more.
    pub made_since: Option<Seen>,
}

impl Origin {
    /// Whether what is made here of this key is perhaps not what the peer has made of it.
    pub(super) fn is_other(&self, hash: &u128) -> bool {
        self.wrong.contains_key(hash) || self.deleted.contains_key(hash)
    }

    /// Whether records are applied, or about to be, that are not judged.
    pub(super) fn waits(&self) -> bool {
        self.reading.is_some() || !self.docket.is_empty()
    }

    /// The frame that is being judged, at the next record that has come back and is not judged. Give it
    /// back when it is.
    pub(super) fn take_next(&mut self) -> Option<Box<Frame>> {
        loop {
            let Some(mut frame) = self.reading.take() else {
                match self.docket.take_first()? {
                    Filed::Nothing(upto) => self.judged = self.judged.max(upto),
                    Filed::Records { epoch, start, body } => {
                        self.reading = Frame::begin(epoch, start, body);
                    }
                }
                continue;
            };
            loop {
                if frame.place() > self.echoed {
                    self.reading = Some(frame);
                    return None;
                }
                if frame.place() > self.judged {
                    return Some(frame);
                }
                if !frame.step() {
                    break;
                }
            }
        }
    }
}

impl Frame {
    /// A frame at its first record; none when it has none.
    fn begin(epoch: Epoch, start: Offset, body: Bytes) -> Option<Box<Self>> {
        let mut frame = Box::new(Self {
            epoch,
            records: BatchReader::new(start, body),
            offset: start,
        });
        frame.step().then_some(frame)
    }

    /// Goes on to the next record; false when there is none. (What cannot be read the applier has refused.)
    fn step(&mut self) -> bool {
        match self.records.next_record() {
            Ok(Some(record)) => {
                self.offset = record.offset;
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// Where the record ends at which it is.
    pub(super) const fn place(&self) -> Cursor {
        let (epoch, offset) = (self.epoch, self.offset);
        Cursor { epoch, offset }
    }

    /// The record at which it is.
    pub(super) fn record(&self) -> Option<RecordRef<'_>> {
        self.records.record()
    }

    /// The same, as a value of its own.
    pub(super) fn to_record(&self) -> Option<Record> {
        self.records.to_record()
    }
}

//! What the judge knows of one peer's records.

use std::collections::HashMap;
use std::sync::Arc;

use super::third::Third;
use crate::converge::docket::{Docket, Filed};
use crate::model::{BatchReader, Cursor, Entry, Epoch, Hlc, InstanceId, Key, Record, Seen};

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
    pub reading: Option<Frame>,
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

/// A frame of a peer's records.
#[derive(Debug)]
pub(super) struct Frame {
    epoch: Epoch,
    records: BatchReader,
    /// The first that has not come back.
    next: Option<Record>,
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

    /// The next record that has come back and is not judged.
    pub(super) fn next(&mut self) -> Option<(Record, Cursor)> {
        loop {
            let Some(frame) = &mut self.reading else {
                match self.docket.take_first()? {
                    Filed::Nothing(upto) => self.judged = self.judged.max(upto),
                    Filed::Records { epoch, start, body } => {
                        let records = BatchReader::new(start, body);
                        let next = None;
                        self.reading = Some(Frame {
                            epoch,
                            records,
                            next,
                        });
                    }
                }
                continue;
            };
            while let Some(record) = frame.take_next() {
                let place = Cursor {
                    epoch: frame.epoch,
                    offset: record.offset,
                };
                if place > self.echoed {
                    frame.next = Some(record);
                    return None;
                }
                if place > self.judged {
                    return Some((record, place));
                }
            }
            self.reading = None;
        }
    }
}

impl Frame {
    fn take_next(&mut self) -> Option<Record> {
        // What cannot be read the applier has refused.
        let record = |entry| match entry {
            Ok(Entry::Record(record)) => Some(record),
            _ => None,
        };
        self.next.take().or_else(|| self.records.find_map(record))
    }
}

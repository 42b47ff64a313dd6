//! What the judge knows of one peer's records.

use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::Arc;

use super::third::Third;
use crate::converge::docket::{Docket, Filed};
use crate::model::{BatchReader, Cursor, Entry, Epoch, Hlc, Key, Record, Seen};

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
    pub reading: Option<(Epoch, Peekable<BatchReader>)>,
    /// Keys that were deleted in what came back and is not judged.
    pub deleted: HashMap<u128, Key>,
    /// Keys whose value here is wrong, from the wish until our stream shows the right one.
    pub wrong: HashMap<u128, Wrong>,
    /// Where writes of whole databases met that do not commute, until the mark says that a copy is
    /// needed.
    pub torn: Option<Cursor>,
    /// What third sites may not have seen of it; not used when there are none.
    pub third: Third,
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
            let Some((epoch, records)) = &mut self.reading else {
                match self.docket.take_first()? {
                    Filed::Nothing(upto) => self.judged = self.judged.max(upto),
                    Filed::Records { epoch, start, body } => {
                        let records = BatchReader::new(start, body).peekable();
                        self.reading = Some((epoch, records));
                    }
                }
                continue;
            };
            let epoch = *epoch;
            let place = |offset| Cursor { epoch, offset };
            let is_due = |entry: &Result<Entry, _>| match entry {
                Ok(Entry::Record(record)) => place(record.offset) <= self.echoed,
                _ => true,
            };
            match records.next_if(is_due) {
                Some(Ok(Entry::Record(record))) => {
                    let place = place(record.offset);
                    if place > self.judged {
                        return Some((record, place));
                    }
                }
                // What cannot be read the applier has refused.
                Some(_) => {}
                None if records.peek().is_some() => return None,
                None => self.reading = None,
            }
        }
    }
}

//! What was written here in a branch of the history that the local Redis has left.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Error, Shared};
use crate::command::{Act, Effects, for_each_in};
use crate::model::{BatchReader, Cursor, Entry, Judgement, Key, Record, is_reserved};

/// The most keys that are fetched one by one; a replica that was promoted with more of them missing was
/// behind for minutes, and merging the sites is the better way.
const MOST: usize = 100_000;

/// The keys that our records behind a place have written, at the end of the journal, and those that were
/// mended there; none when a write of whole databases is among them, or when they are too many. (What
/// peers have written there they send again, for the marks are lost with it.)
pub(super) fn written_after(shared: &Shared, place: Cursor) -> Result<Option<Vec<Key>>, Error> {
    let mut keys = BTreeSet::new();
    let mut reader = shared.journal.reader(place)?;
    while let Some(frame) = reader.try_next()? {
        let epoch = frame.header.epoch;
        for entry in BatchReader::new(frame.header.start, frame.body) {
            match entry {
                Ok(Entry::Record(record)) => {
                    let offset = record.offset;
                    let is_lost = Cursor { epoch, offset } > place;
                    if is_lost && !add(shared, &record, &mut keys) {
                        return Ok(None);
                    }
                }
                // Where in the frame is not known.
                Ok(Entry::Judgement(Judgement::Paid(_, key))) => {
                    keys.insert(key);
                }
                _ => {}
            }
        }
    }
    Ok(Some(keys.into_iter().collect()))
}

/// False when that cannot be told key by key.
fn add(shared: &Shared, record: &Record, keys: &mut BTreeSet<Key>) -> bool {
    let mut effects = Effects::default();
    let scanned = for_each_in(&record.commands, record.db, |command, db| {
        effects.add(&shared.catalog, command, db, |_, _| true);
        shared.catalog.for_each_key(command, db, |db, name, act| {
            if act != Act::Read && !is_reserved(name) {
                keys.insert((db, Bytes::copy_from_slice(name)));
            }
        });
    });
    scanned.is_ok() && effects.wholes.is_empty() && keys.len() <= MOST
}

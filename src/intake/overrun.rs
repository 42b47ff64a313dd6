//! What was written here in databases that a peer has flushed or swapped without having seen it.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Error, Shared};
use crate::command::{Act, Whole, for_each_in};
use crate::converge::Overrun;
use crate::model::{
    BatchReader, Cursor, Entry, Epoch, FrameBuilder, Key, Record, SiteId, is_reserved,
};

/// The keys that are wrong here after a write of whole databases: those of ours that are in the journal,
/// and of the frame that will be, and those that third sites had written. What the journal has no
/// longer, every peer had seen.
pub(super) fn written_since(
    shared: &Shared,
    site: &SiteId,
    overrun: &Overrun,
    (epoch, frame): (Epoch, &FrameBuilder),
) -> Result<Vec<Key>, Error> {
    let seen = overrun.seen.of(site);
    let mut keys = BTreeSet::new();
    for (third, record) in &overrun.third {
        if overrun.is_wrong(third, record.hlc) {
            add_record(shared, record, overrun.whole, &mut keys);
        }
    }
    let mut add = |records: BatchReader, epoch| {
        for entry in records {
            let Ok(Entry::Record(record)) = entry else {
                continue;
            };
            let offset = record.offset;
            let is_unseen = Cursor { epoch, offset } > seen;
            if is_unseen && overrun.is_wrong(site, record.hlc) {
                add_record(shared, &record, overrun.whole, &mut keys);
            }
        }
    };
    let from = seen.max(shared.journal.first());
    let mut reader = shared.journal.reader(from)?;
    while let Some(read) = reader.try_next()? {
        let header = read.header;
        add(BatchReader::new(header.start, read.body), header.epoch);
    }
    let body = Bytes::copy_from_slice(frame.body());
    add(BatchReader::new(frame.start(), body), epoch);
    Ok(keys.into_iter().collect())
}

fn add_record(shared: &Shared, record: &Record, whole: Whole, keys: &mut BTreeSet<Key>) {
    let scanned = for_each_in(&record.commands, record.db, |command, db| {
        // What was made of keys that are flushed or swapped is wrong in whichever database.
        let mut is_derived = false;
        if shared.catalog.derives(command) {
            let mut look = |db, _: &[u8], _| is_derived |= whole.has(db);
            shared.catalog.for_each_key(command, db, &mut look);
        }
        shared.catalog.for_each_key(command, db, |db, name, act| {
            let counts = act != Act::Read && act != Act::Delete && !is_reserved(name);
            if counts && (is_derived || whole.has(db)) {
                let name = Bytes::copy_from_slice(name);
                keys.extend(whole.partner(db).map(|db| (db, name.clone())));
                keys.insert((db, name));
            }
        });
    });
    debug_assert!(scanned.is_ok(), "our own records can be read");
}

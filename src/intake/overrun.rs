//! What was written here in databases that a peer has flushed or swapped without having seen it.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Error, Shared};
use crate::converge::Overrun;
use crate::model::{BatchReader, Cursor, Entry, Epoch, FrameBuilder, Key, SiteId};

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
            overrun.add_keys(&shared.catalog, record, &mut keys);
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
                overrun.add_keys(&shared.catalog, &record, &mut keys);
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

//! Taking a state of a key that has been written here since the peer last looked.
//!
//! A key that clients write all the time would never be quiet long enough for a state that has
//! seen everything. So what the state has not seen is written again on top of it: our journal has
//! the commands, and the peer applies the same ones on top of the same state when they arrive.
//! Only where a command touches other keys too, or is carried out there only if it comes in time, is
//! a newer state asked for instead.

use std::collections::HashMap;

use crate::command::{Act, Catalog, Command, Touched, for_each_in, moment};
use crate::journal::{self, Journal};
use crate::model::{BatchReader, Cursor, Entry, Record};

use super::debts::Key;

/// How much of the journal is searched at most: what a slow link leaves unseen for a second.
const MAX_SEARCH: u64 = 64 << 20;

/// Commands to be written again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    /// In the protocol's form.
    pub bytes: Vec<u8>,
    /// How many.
    pub count: usize,
    /// Whether one of them changes the time to live: it does nothing to a key that is not there, and by the
    /// time when it reaches the peer one may be.
    pub renews: bool,
    /// The first moment that they give the key, in milliseconds since 1970: once it has passed they delete
    /// what at the peer they may have prolonged in time.
    pub moment: Option<u64>,
}

impl Replay {
    /// Whether it does the same on top of a state here as at the peer, where it comes earlier or later:
    /// `soon` is the moment from which on what expires counts as expired, in milliseconds since 1970.
    pub(super) fn fits(&self, on_absent: bool, soon: u64) -> bool {
        let is_in_time = self.moment.is_none_or(|moment| moment > soon);
        is_in_time && (!self.renews || !on_absent)
    }
}

/// What has been written here of each of these keys after `since` and up to `upto`, in the epoch of
/// `upto`; none where that cannot be written again.
///
/// # Errors
/// The journal cannot be read.
pub(super) fn replays(
    (journal, catalog): (&Journal, &Catalog),
    keys: impl Iterator<Item = Key>,
    since: Cursor,
    upto: Cursor,
) -> Result<HashMap<Key, Option<Replay>>, journal::Error> {
    let mut found: HashMap<Key, Option<Replay>> =
        keys.map(|k| (k, Some(Replay::default()))).collect();
    if found.is_empty() {
        return Ok(found);
    }
    if !journal.contains(since) || journal.pending_bytes(since) > MAX_SEARCH {
        found.values_mut().for_each(|replay| *replay = None);
        return Ok(found);
    }
    let mut reader = journal.reader(since)?;
    while let Some(frame) = reader.try_next()? {
        let epoch = frame.header.epoch;
        for entry in BatchReader::new(frame.header.start, frame.body) {
            let Ok(Entry::Record(record)) = entry else {
                continue;
            };
            let at = Cursor {
                epoch,
                offset: record.offset,
            };
            if at > since && at <= upto {
                add(&mut found, &record, catalog);
            }
        }
        if epoch > upto.epoch || (epoch == upto.epoch && frame.header.end >= upto.offset) {
            break;
        }
    }
    Ok(found)
}

fn add(found: &mut HashMap<Key, Option<Replay>>, record: &Record, catalog: &Catalog) {
    let scanned = for_each_in(&record.commands, record.db, |command, db| {
        match catalog.touched(command, db) {
            Touched::Keys(keys) => {
                let mut renews = false;
                catalog.for_each_key(command, db, |_, _, act| renews |= act == Act::Expiry);
                let alone = keys.len() == 1;
                for key in keys {
                    let Some(replay) = found.get_mut(&(key.db, key.name.into())) else {
                        continue;
                    };
                    match replay {
                        Some(replay) if alone && !is_conditional(command) => {
                            replay.bytes.extend_from_slice(command.raw());
                            replay.count += 1;
                            replay.renews |= renews;
                            let moments = [replay.moment, moment(command)];
                            replay.moment = moments.into_iter().flatten().min();
                        }
                        _ => *replay = None,
                    }
                }
            }
            Touched::Database(which) => {
                found
                    .iter_mut()
                    .filter(|((db, _), _)| *db == which)
                    .for_each(|(_, r)| *r = None);
            }
            Touched::Everything => found.values_mut().for_each(|replay| *replay = None),
        }
    });
    if scanned.is_err() {
        found.values_mut().for_each(|replay| *replay = None);
    }
}

/// Whether what the peer makes of a command depends on what it has written: an entry may come behind
/// later ones, and a key is not deleted that the delete has not seen.
fn is_conditional(command: &Command<'_>) -> bool {
    command.is(b"XADD") || command.is(b"DEL") || command.is(b"UNLINK")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::model::{Hlc, Offset};
    use crate::redis::put_command;

    #[test]
    fn only_what_touches_the_key_alone_can_be_written_again() {
        let key = |name: &'static str| (0, Bytes::from_static(name.as_bytes()));
        let mut found: HashMap<Key, Option<Replay>> = ["a", "b", "c", "e"]
            .into_iter()
            .map(|k| (key(k), Some(Replay::default())))
            .collect();
        let mut commands = Vec::new();
        for line in [
            "INCR a",
            "SELECT 1",
            "INCR a",
            "SELECT 0",
            "INCR a",
            "RENAME b x",
            "SET d 1",
            "DEL e",
            "PERSIST c",
            "PEXPIREAT c 70",
            "SET c 1 PXAT 50",
        ] {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            put_command(&mut commands, &args);
        }
        let record = Record {
            offset: Offset(1),
            hlc: Hlc(1),
            db: 0,
            seen: Arc::default(),
            causes: Arc::default(),
            count: 11,
            commands: commands.into(),
        };
        add(&mut found, &record, &Catalog::default());
        let of = |name| found[&key(name)].as_ref().map(|r| (r.count, r.renews));
        assert_eq!(of("a"), Some((2, false)));
        assert_eq!(of("c"), Some((3, true)));
        let moment = |name| found[&key(name)].as_ref().and_then(|r| r.moment);
        assert_eq!((moment("a"), moment("c")), (None, Some(50)));
        assert_eq!(found[&key("b")], None);
        // The peer may have written the key, and spare it.
        assert_eq!(found[&key("e")], None);
    }

    #[test]
    fn what_would_delete_or_find_nothing_is_not_written_again() {
        let replay = |renews, moment| Replay {
            renews,
            moment,
            ..Replay::default()
        };
        // Absent, soon: whether it fits.
        for (replay, on_absent, soon, fits) in [
            (replay(false, None), true, 100, true),
            (replay(true, None), false, 100, true),
            (replay(true, None), true, 100, false),
            (replay(true, Some(101)), false, 100, true),
            (replay(true, Some(100)), false, 100, false),
            (replay(false, Some(99)), true, 100, false),
        ] {
            assert_eq!(replay.fits(on_absent, soon), fits, "{replay:?}");
        }
    }
}

//! What the judge knows of one peer's records.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::third::Third;
use crate::command::{for_each_in, key_hash, moment};
use crate::converge::docket::{Docket, Filed};
use crate::model::{
    BatchReader, Cursor, Epoch, Hlc, InstanceId, Key, Offset, Record, RecordRef, Seen,
};

/// How far the clock of the server may be ahead of ours. Where it is not, a key that the peer has deleted and then
/// let expire soon costs a question more.
const CLOCK_SLACK_MS: u64 = 1000;

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
    pub deleted: HashMap<u128, Deleted>,
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

/// A key that was deleted in what came back.
#[derive(Debug)]
pub(super) struct Deleted {
    pub key: Key,
    /// A moment before that may have been over when it was given to the key.
    until_ms: u64,
    /// Whether a record has deleted it, and has not let it expire since: else this server has.
    pub by_peer: bool,
}

impl Deleted {
    pub(super) const fn new(key: Key, now_ms: u64) -> Self {
        Self {
            key,
            until_ms: now_ms.saturating_add(CLOCK_SLACK_MS),
            by_peer: false,
        }
    }
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
        let deleted = self.deleted.get(hash);
        self.wrong.contains_key(hash) || deleted.is_some_and(|deleted| !deleted.by_peer)
    }

    /// A record is about to be judged: keys that expired here as soon as it wrote them were not deleted by the
    /// peer.
    pub(super) fn note_moments(&mut self, record: RecordRef<'_>) {
        self.look_at_deleted(record, false);
    }

    /// A record is judged that may have deleted keys itself.
    pub(super) fn note_deletes(&mut self, record: RecordRef<'_>) {
        self.look_at_deleted(record, true);
    }

    fn look_at_deleted(&mut self, record: RecordRef<'_>, with_deletes: bool) {
        if self.deleted.is_empty() {
            return;
        }
        let deleted = &mut self.deleted;
        let scanned = for_each_in(record.commands, record.db, |command, db| {
            if command.is(b"DEL") || command.is(b"UNLINK") {
                for key in command.args(1).filter(|_| with_deletes) {
                    let deleted = deleted.get_mut(&key_hash(db, key));
                    deleted.into_iter().for_each(|d| d.by_peer = true);
                }
            } else if let Some(moment) = moment(command)
                && let Some(deleted) = deleted.get_mut(&key_hash(db, command.arg(1)))
            {
                deleted.by_peer &= moment > deleted.until_ms;
            }
        });
        debug_assert!(scanned.is_ok(), "the applier has read it");
    }

    /// Passes over what has come back behind the record that was judged last and has the same tags, for
    /// nothing is to be found out of it: its writer had seen as much.
    pub(super) fn pass_alike(&mut self) {
        let Some(frame) = &mut self.reading else {
            return;
        };
        let seen = &self.seen;
        let is_alike = |frame: &Frame| frame.record().is_some_and(|r| Arc::ptr_eq(r.seen, seen));
        while frame.step() && frame.place() <= self.echoed && is_alike(frame) {
            self.judged = frame.place();
        }
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

#[cfg(test)]
mod tests {
    use super::super::tests::{Site, at, frame, key, site};
    use super::super::*;

    /// Records of one frame behind one that had seen all that was written here, up to 10.
    async fn site_with(records: &[((u64, u64, u64), &str)]) -> Site {
        let mut a = Site::new();
        a.writes(10, 9, "SET k 1");
        let first = ((20, 1, 10), "SET other 1");
        a.applies_together(&[&[first][..], records].concat()).await;
        a
    }

    #[tokio::test]
    async fn what_has_other_tags_in_the_same_frame_is_judged() {
        let records = [((21, 1, 10), "SET k 2"), ((22, 1, 5), "SET k 3")];
        let mut a = site_with(&records[..1]).await;
        a.reads(22, 1, &[]);
        assert_eq!(a.wishes(), "");
        let mut a = site_with(&records).await;
        a.reads(22, 1, &[]);
        assert_eq!(a.wishes(), "k");
    }

    #[tokio::test]
    async fn what_has_not_seen_all_is_judged_in_each() {
        let mut a = Site::new();
        a.writes(10, 9, "SET k 1");
        let records = [((20, 1, 5), "SET other 1"), ((21, 1, 5), "SET k 2")];
        a.applies_together(&records).await;
        a.reads(21, 1, &[]);
        assert_eq!(a.wishes(), "k");
    }

    #[tokio::test]
    async fn what_has_not_come_back_of_the_same_frame_waits() {
        let mut a = site_with(&[((21, 1, 10), "SET x 2"), ((22, 1, 10), "SET k 3")]).await;
        a.reads(21, 1, &[]);
        assert_eq!(a.judge.take().notes, [Judgement::Judged(site("b"), at(21))]);
        a.writes(30, 9, "SET k 4");
        a.reads(22, 2, &[]);
        assert_eq!(a.wishes(), "k");
    }

    #[tokio::test]
    async fn what_is_wrong_evicted_or_deleted_here_is_looked_for_in_each() {
        let mut a = site_with(&[((21, 1, 10), "COPY k copy")]).await;
        a.judge.on_lost(&[key("k")], at(15));
        a.reads(21, 1, &[]);
        assert_eq!(a.wishes(), "copy k");
        let mut a = site_with(&[((21, 1, 10), "INCR k")]).await;
        a.judge.on_evicted(&key("k"));
        a.reads(21, 1, &[]);
        assert_eq!(a.wishes(), "k");
        let mut a = site_with(&[((21, 1, 10), "DEL k")]).await;
        a.reads(21, 1, &[key("k")]);
        assert_eq!(a.wishes(), "", "it was the peer");
    }

    #[tokio::test]
    async fn third_sites_hear_of_each() {
        let peers = ["b", "c"].map(site);
        let dockets: BTreeMap<SiteId, Docket> =
            peers.clone().map(|peer| (peer, Docket::default())).into();
        let claims = Claims::new(&site("a"), &peers);
        let foreign = Arc::new(Foreign::new(&peers, 1 << 10));
        let tables = (Arc::new(Table::new(1 << 10)), foreign);
        let mut judge = Judge::new(site("a"), tables, Catalog::default(), (&dockets, claims));
        let records = [20, 21, 22].map(|offset| ((offset, 1, 10), "SET k 1"));
        dockets[&site("b")].file(frame(&records)).await;
        let mark = Mark::first(InstanceId::new(7), at(22));
        let life = (InstanceId::new(7), 0);
        judge.on_echo(&site("b"), &mark, Vec::new(), life, at(30));
        assert_eq!(judge.take().foreign.len(), records.len());
    }
}

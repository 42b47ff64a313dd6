//! Records and the frames that carry them: encoded once, for the journal and for the link.
//!
//! A frame body is a row of entries in stream order: `kind: u8`, `length: varint`, body. Numbers
//! are LEB128 varints. Offsets are relative to the start of the frame, which its header names; a record's
//! offset and stamp are relative to those of the record before it, which takes ten bytes less.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::encoding::{
    RecordError, narrow, put_bytes, put_varint, take_bytes, take_site, take_u8, take_varint,
    varint_len,
};
use super::hlc::Hlc;
use super::judgement::Judgement;
use super::position::{Cursor, Epoch, Offset};
use super::seen::Seen;
use super::site::SiteId;

/// The largest frame. One transaction must fit into one frame; Redis itself refuses a client whose
/// query buffer passes 1 GiB (`client-query-buffer-limit`), so no honest record is larger.
pub const MAX_FRAME: usize = 1 << 30;
/// Frames are closed at this size: large enough that headers and system calls cost nothing, small
/// enough that a peer waits little for the first record.
pub const TARGET_FRAME: usize = 256 << 10;

const KIND_RECORD: u8 = 1;
const KIND_ECHO: u8 = 2;
const KIND_SELF_MARK: u8 = 3;
const KIND_MARK: u8 = 7;
const KIND_FOREIGN: u8 = 12;
const FLAG_SEEN: u8 = 1;
const FLAG_CAUSES: u8 = 2;

/// One command or one MULTI…EXEC of a client, in canonical form, with its tags. Its origin and
/// epoch are those of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it ends in its origin's stream.
    pub offset: Offset,
    /// When it was read there.
    pub hlc: Hlc,
    /// The database selected when it begins.
    pub db: u32,
    /// What its origin had echoed before it.
    pub seen: Arc<Seen>,
    /// Of that, the last records: what must have been applied before it. Marks may say more, where no
    /// record ends.
    pub causes: Arc<Seen>,
    /// How many commands it has, SELECTs included.
    pub count: u32,
    /// The commands, in the protocol's form, one after the other, without MULTI and EXEC.
    pub commands: Bytes,
}

/// What a [`Record`] says of itself besides its commands.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a> {
    /// Where it ends in its origin's stream.
    pub offset: Offset,
    /// When it was read there.
    pub hlc: Hlc,
    /// The database selected when it begins.
    pub db: u32,
    /// What its origin had echoed before it.
    pub seen: &'a Arc<Seen>,
    /// Of that, the last records; the same where there are no third sites.
    pub causes: &'a Arc<Seen>,
    /// How many commands it has, SELECTs included.
    pub count: u32,
}

/// What a frame holds, in stream order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A client's write.
    Record(Record),
    /// A peer's write, come back in our own stream.
    Echo {
        /// Whose write it was.
        origin: SiteId,
        /// The last of that origin's records in the transaction.
        at: Cursor,
        /// Their highest stamp.
        hlc: Hlc,
        /// Where the transaction ends in our stream.
        offset: Offset,
    },
    /// A self mark, come back in our own stream.
    SelfMark {
        /// Its number.
        number: u64,
        /// Where it ends in our stream.
        offset: Offset,
    },
    /// A peer's record, come back in our own stream: kept for the sake of third sites.
    Foreign {
        /// Whose it was.
        origin: SiteId,
        /// Where it ends in the origin's history.
        at: Cursor,
        /// The record; what its origin had seen is not kept.
        record: Record,
    },
    /// How far the conflicts with an origin are judged.
    Judgement(Judgement),
    /// The mark of an origin says something new besides its position.
    Mark {
        /// Whose.
        origin: SiteId,
        /// Its text.
        text: Bytes,
    },
}

/// Builds the body of a frame.
#[derive(Debug)]
pub struct FrameBuilder {
    start: Offset,
    body: Vec<u8>,
    last_seen: Option<Arc<Seen>>,
    last_causes: Option<Arc<Seen>>,
    last_hlc: Hlc,
    records: u32,
    entries: u32,
    last_record: Option<Offset>,
}

impl FrameBuilder {
    /// An empty frame that begins after `start`.
    #[must_use]
    pub fn new(start: Offset) -> Self {
        Self {
            start,
            body: Vec::new(),
            last_seen: None,
            last_causes: None,
            last_hlc: Hlc(0),
            records: 0,
            entries: 0,
            last_record: None,
        }
    }

    /// Begins the next frame after `start`, in the memory of the one before unless that is large.
    pub fn begin(&mut self, start: Offset) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        body.shrink_to(2 * TARGET_FRAME);
        *self = Self {
            body,
            ..Self::new(start)
        };
    }

    /// Appends a record.
    pub fn push_record(&mut self, record: &Record) {
        let tags = Tags {
            offset: record.offset,
            hlc: record.hlc,
            db: record.db,
            seen: &record.seen,
            causes: &record.causes,
            count: record.count,
        };
        self.push(tags, &record.commands);
    }

    /// Appends a record with these tags and commands.
    pub fn push(&mut self, tags: Tags<'_>, commands: &[u8]) {
        let before = self.last_record.unwrap_or(self.start);
        let numbers = [
            tags.offset.0.saturating_sub(before.0),
            // It grows from record to record; if it ever does not, this is long and still right.
            tags.hlc.0.wrapping_sub(self.last_hlc.0),
            u64::from(tags.db),
            u64::from(tags.count),
        ];
        self.last_hlc = tags.hlc;
        let is = |last: &Option<Arc<Seen>>, new| {
            let last = last.as_ref();
            last.is_some_and(|last| Arc::ptr_eq(last, new) || last == new)
        };
        // Where there are no third sites the two are one.
        let is_one = Arc::ptr_eq(tags.seen, tags.causes);
        let (mut flags, mut seen) = (0, Vec::new());
        if !is(&self.last_seen, tags.seen) {
            flags |= FLAG_SEEN;
            tags.seen.encode(&mut seen);
            self.last_seen = Some(Arc::clone(tags.seen));
        }
        if !is_one && !is(&self.last_causes, tags.causes) {
            flags |= FLAG_CAUSES;
            tags.causes.encode(&mut seen);
            self.last_causes = Some(Arc::clone(tags.causes));
        }
        let head: usize = numbers.into_iter().map(varint_len).sum();
        let length = head + 1 + seen.len() + commands.len();
        self.body.push(KIND_RECORD);
        put_varint(&mut self.body, length as u64);
        for number in numbers {
            put_varint(&mut self.body, number);
        }
        self.body.push(flags);
        self.body.extend_from_slice(&seen);
        self.body.extend_from_slice(commands);
        self.records += 1;
        self.entries += 1;
        self.last_record = Some(tags.offset);
    }

    /// Appends the note of an echo.
    pub fn push_echo(&mut self, origin: &SiteId, at: Cursor, hlc: Hlc, offset: Offset) {
        let mut entry = Vec::with_capacity(64);
        put_bytes(&mut entry, origin.as_str().as_bytes());
        put_varint(&mut entry, at.epoch.0);
        put_varint(&mut entry, at.offset.0);
        put_varint(&mut entry, hlc.0);
        put_varint(&mut entry, offset.0.saturating_sub(self.start.0));
        self.push_entry(KIND_ECHO, &entry);
    }

    /// Appends the note of a self mark.
    pub fn push_self_mark(&mut self, number: u64, offset: Offset) {
        let mut entry = Vec::with_capacity(24);
        put_varint(&mut entry, number);
        put_varint(&mut entry, offset.0.saturating_sub(self.start.0));
        self.push_entry(KIND_SELF_MARK, &entry);
    }

    /// Appends the note of a mark.
    pub fn push_mark(&mut self, origin: &SiteId, text: &[u8]) {
        let mut entry = Vec::with_capacity(text.len() + 64);
        put_bytes(&mut entry, origin.as_str().as_bytes());
        put_bytes(&mut entry, text);
        self.push_entry(KIND_MARK, &entry);
    }

    /// Appends a peer's record.
    pub fn push_foreign(&mut self, origin: &SiteId, at: Cursor, record: &Record) {
        let mut entry = Vec::with_capacity(record.commands.len() + 64);
        put_bytes(&mut entry, origin.as_str().as_bytes());
        put_varint(&mut entry, at.epoch.0);
        put_varint(&mut entry, at.offset.0);
        put_varint(&mut entry, record.hlc.0);
        put_varint(&mut entry, u64::from(record.db));
        put_varint(&mut entry, u64::from(record.count));
        entry.extend_from_slice(&record.commands);
        self.push_entry(KIND_FOREIGN, &entry);
    }

    /// Appends the note of a judgement.
    pub fn push_judgement(&mut self, judgement: &Judgement) {
        let (kind, entry) = judgement.encode();
        self.push_entry(kind, &entry);
    }

    fn push_entry(&mut self, kind: u8, entry: &[u8]) {
        self.body.push(kind);
        put_bytes(&mut self.body, entry);
        self.entries += 1;
    }

    /// The place after which the frame begins.
    #[must_use]
    pub const fn start(&self) -> Offset {
        self.start
    }

    /// How many records it has.
    #[must_use]
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// Where its last record ends.
    #[must_use]
    pub const fn last_record(&self) -> Option<Offset> {
        self.last_record
    }

    /// Whether it has no entry at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Its size so far, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// The body so far.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.body
    }
}

/// The offset that is so far behind another one.
fn behind(before: Offset, body: &mut impl Buf) -> Result<Offset, RecordError> {
    let offset = before.0.checked_add(take_varint(body)?).map(Offset);
    offset.ok_or(RecordError::Malformed("offset"))
}

/// Reads the entries of a frame body. Zero copy: records hold slices of the body.
#[derive(Debug)]
pub struct BatchReader {
    start: Offset,
    rest: Bytes,
    /// Of the last record.
    offset: Offset,
    hlc: Hlc,
    seen: Option<Arc<Seen>>,
    causes: Option<Arc<Seen>>,
}

impl BatchReader {
    /// A reader of a frame that begins after `start`.
    #[must_use]
    pub const fn new(start: Offset, body: Bytes) -> Self {
        Self {
            start,
            rest: body,
            offset: start,
            hlc: Hlc(0),
            seen: None,
            causes: None,
        }
    }

    fn entry(&mut self) -> Result<Entry, RecordError> {
        let mut head = &self.rest[..];
        let kind = take_u8(&mut head)?;
        let length = usize::try_from(take_varint(&mut head)?).map_err(|_| RecordError::Short)?;
        if length > head.len() {
            return Err(RecordError::Short);
        }
        self.rest.advance(self.rest.len() - head.len());
        let mut body = self.rest.split_to(length);
        match kind {
            KIND_RECORD => self.record(body).map(Entry::Record),
            KIND_ECHO => {
                let origin = take_site(&mut body)?;
                let epoch = Epoch(take_varint(&mut body)?);
                let at = Cursor {
                    epoch,
                    offset: Offset(take_varint(&mut body)?),
                };
                let hlc = Hlc(take_varint(&mut body)?);
                Ok(Entry::Echo {
                    origin,
                    at,
                    hlc,
                    offset: behind(self.start, &mut body)?,
                })
            }
            KIND_SELF_MARK => {
                let number = take_varint(&mut body)?;
                Ok(Entry::SelfMark {
                    number,
                    offset: behind(self.start, &mut body)?,
                })
            }
            KIND_FOREIGN => {
                let origin = take_site(&mut body)?;
                let epoch = Epoch(take_varint(&mut body)?);
                let offset = Offset(take_varint(&mut body)?);
                let record = Record {
                    offset,
                    hlc: Hlc(take_varint(&mut body)?),
                    db: narrow(take_varint(&mut body)?)?,
                    seen: Arc::default(),
                    causes: Arc::default(),
                    count: narrow(take_varint(&mut body)?)?,
                    commands: body,
                };
                let at = Cursor { epoch, offset };
                Ok(Entry::Foreign { origin, at, record })
            }
            KIND_MARK => Ok(Entry::Mark {
                origin: take_site(&mut body)?,
                text: take_bytes(&mut body)?,
            }),
            kind => match Judgement::take(kind, &mut body)? {
                Some(judgement) => Ok(Entry::Judgement(judgement)),
                None => Err(RecordError::Malformed("unknown kind of entry")),
            },
        }
    }

    fn record(&mut self, mut body: Bytes) -> Result<Record, RecordError> {
        let mut head = &body[..];
        let offset = behind(self.offset, &mut head)?;
        let hlc = Hlc(self.hlc.0.wrapping_add(take_varint(&mut head)?));
        (self.offset, self.hlc) = (offset, hlc);
        let db = narrow(take_varint(&mut head)?)?;
        let count = narrow(take_varint(&mut head)?)?;
        let flags = take_u8(&mut head)?;
        body.advance(body.len() - head.len());
        if flags & FLAG_SEEN != 0 {
            self.seen = Some(Arc::new(Seen::decode(&mut body)?));
        }
        if flags & FLAG_CAUSES != 0 {
            self.causes = Some(Arc::new(Seen::decode(&mut body)?));
        }
        let seen = self
            .seen
            .clone()
            .ok_or(RecordError::Malformed("first record without tags"))?;
        Ok(Record {
            offset,
            hlc,
            db,
            causes: Arc::clone(self.causes.as_ref().unwrap_or(&seen)),
            seen,
            count,
            commands: body,
        })
    }
}

impl Iterator for BatchReader {
    type Item = Result<Entry, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.rest.clear();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(offset: u64, seen: &Arc<Seen>, commands: &'static [u8]) -> Record {
        Record {
            offset: Offset(offset),
            hlc: Hlc(offset << 16),
            db: 3,
            seen: Arc::clone(seen),
            causes: Arc::clone(seen),
            count: 1,
            commands: Bytes::from_static(commands),
        }
    }

    fn frame() -> (Vec<Entry>, Vec<u8>) {
        let site = SiteId::try_new("b").unwrap();
        let at = Cursor {
            epoch: Epoch(5),
            offset: Offset(900),
        };
        let first = Arc::new(Seen::default());
        let mut later = Seen::default();
        later.advance(&site, at);
        let later = Arc::new(later);
        let mut entries = vec![
            Entry::Record(record(120, &first, b"*1\r\n$1\r\na\r\n")),
            Entry::Record(record(130, &first, b"")),
            Entry::Echo {
                origin: site,
                at,
                hlc: Hlc(8),
                offset: Offset(140),
            },
            Entry::Record(Record {
                causes: Arc::new(Seen::default()),
                ..record(1 << 50, &later, b"x")
            }),
            Entry::SelfMark {
                number: 4,
                offset: Offset(1 << 51),
            },
        ];
        let key = (7, Bytes::from_static(b"k"));
        let judgements = [
            Judgement::Judged(SiteId::try_new("b").unwrap(), at),
            Judgement::Wished(SiteId::try_new("b").unwrap(), key.clone()),
            Judgement::Paid(SiteId::try_new("b").unwrap(), key.clone()),
            Judgement::Stale(SiteId::try_new("b").unwrap(), key.clone()),
            Judgement::Told(SiteId::try_new("b").unwrap(), key),
            Judgement::Torn(SiteId::try_new("b").unwrap()),
            Judgement::Merging(SiteId::try_new("b").unwrap()),
        ];
        entries.extend(judgements.map(Entry::Judgement));
        entries.push(Entry::Mark {
            origin: SiteId::try_new("b").unwrap(),
            text: Bytes::from_static(b"1 i=7"),
        });
        entries.push(Entry::Foreign {
            origin: SiteId::try_new("b").unwrap(),
            at: Cursor {
                epoch: Epoch(5),
                offset: Offset(990),
            },
            record: record(990, &Arc::default(), b"y"),
        });
        let mut builder = FrameBuilder::new(Offset(100));
        for entry in &entries {
            match entry {
                Entry::Record(r) => builder.push_record(r),
                Entry::Echo {
                    origin,
                    at,
                    hlc,
                    offset,
                } => builder.push_echo(origin, *at, *hlc, *offset),
                Entry::SelfMark { number, offset } => builder.push_self_mark(*number, *offset),
                Entry::Judgement(judgement) => builder.push_judgement(judgement),
                Entry::Mark { origin, text } => builder.push_mark(origin, text),
                Entry::Foreign { origin, at, record } => builder.push_foreign(origin, *at, record),
            }
        }
        assert_eq!(builder.last_record(), Some(Offset(1 << 50)));
        (entries, builder.finish())
    }

    #[test]
    fn frames_survive_the_bytes() {
        let (entries, body) = frame();
        let read: Result<Vec<_>, _> = BatchReader::new(Offset(100), body.into()).collect();
        assert_eq!(read.unwrap(), entries);
    }

    #[test]
    fn a_cut_frame_is_refused_not_misread() {
        let (entries, body) = frame();
        for cut in 0..body.len() {
            let cut_body = Bytes::copy_from_slice(&body[..cut]);
            let read: Vec<_> = BatchReader::new(Offset(100), cut_body).collect();
            for (i, entry) in read.iter().enumerate() {
                assert!(
                    entry
                        .as_ref()
                        .map_or(i + 1 == read.len(), |e| *e == entries[i]),
                    "cut at {cut}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(body: Vec<u8>, start: u64) {
            assert!(BatchReader::new(Offset(start), body.into()).count() < usize::MAX);
        }
    }
}

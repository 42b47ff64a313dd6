//! Records and the frames that carry them: encoded once, for the journal and for the link.
//!
//! A frame body is a row of entries in stream order: `kind: u8`, `length: varint`, body. Numbers
//! are LEB128 varints. Offsets are relative to the start of the frame, which its header names; a record's
//! offset and stamp are relative to those of the record before it, which takes ten bytes less.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::encoding::{put_bytes, put_varint, varint_len};
use super::hlc::Hlc;
use super::judgement::Judgement;
use super::position::{Cursor, Offset};
use super::seen::Seen;
use super::site::SiteId;

/// The largest frame. One transaction must fit into one frame; Redis itself refuses a client whose
/// query buffer passes 1 GiB (`client-query-buffer-limit`), so no honest record is larger.
pub const MAX_FRAME: usize = 1 << 30;
/// Frames are closed at this size: large enough that headers and system calls cost nothing, small
/// enough that a peer waits little for the first record.
pub const TARGET_FRAME: usize = 256 << 10;

pub(super) const KIND_RECORD: u8 = 1;
pub(super) const KIND_ECHO: u8 = 2;
pub(super) const KIND_SELF_MARK: u8 = 3;
pub(super) const KIND_MARK: u8 = 7;
pub(super) const KIND_FOREIGN: u8 = 12;
pub(super) const FLAG_SEEN: u8 = 1;
pub(super) const FLAG_CAUSES: u8 = 2;

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
    /// What its origin had echoed before it; of three sites and more only of those whose history it held.
    pub seen: Arc<Seen>,
    /// Of that, the last records: what must have been applied before it. Marks may say more, where no
    /// record ends.
    pub causes: Arc<Seen>,
    /// How many commands it has, SELECTs included.
    pub count: u32,
    /// The commands, in the protocol's form, one after the other, without MULTI and EXEC.
    pub commands: Bytes,
}

impl Record {
    /// The same, as one where it stands.
    #[must_use]
    pub fn borrowed(&self) -> RecordRef<'_> {
        let tags = Tags {
            offset: self.offset,
            hlc: self.hlc,
            db: self.db,
            seen: &self.seen,
            causes: &self.causes,
            count: self.count,
        };
        let commands = &self.commands;
        RecordRef { tags, commands }
    }
}

/// A [`Record`] where it stands in its frame.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// What it says of itself.
    pub tags: Tags<'a>,
    /// The commands, in the protocol's form.
    pub commands: &'a [u8],
}

impl<'a> Deref for RecordRef<'a> {
    type Target = Tags<'a>;

    fn deref(&self) -> &Tags<'a> {
        &self.tags
    }
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
    /// What its origin had echoed before it; of three sites and more only of those whose history it held.
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
    pub fn push_record(&mut self, record: RecordRef<'_>) {
        self.push(record.tags, record.commands);
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

//! Records and the frames that carry them: encoded once, for the journal and for the link.
//!
//! A frame body is a row of entries in stream order: `kind: u8`, `length: varint`, body. Numbers
//! are LEB128 varints. Offsets are relative to the start of the frame, which its header names; a record's
//! offset and stamp are relative to those of the record before it, which takes ten bytes less.

use std::sync::Arc;

use bytes::{Buf, Bytes};

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
const FLAG_SEEN: u8 = 1;

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

/// Why bytes are not entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end within an entry.
    #[error("record cut short")]
    Short,
    /// The bytes make no sense.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
}

/// Builds the body of a frame.
#[derive(Debug)]
pub struct FrameBuilder {
    start: Offset,
    body: Vec<u8>,
    last_seen: Option<Arc<Seen>>,
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
        let same = self
            .last_seen
            .as_ref()
            .is_some_and(|s| Arc::ptr_eq(s, tags.seen) || s == tags.seen);
        let mut seen = Vec::new();
        if !same {
            tags.seen.encode(&mut seen);
            self.last_seen = Some(Arc::clone(tags.seen));
        }
        let head: usize = numbers.into_iter().map(varint_len).sum();
        let length = head + 1 + seen.len() + commands.len();
        self.body.push(KIND_RECORD);
        put_varint(&mut self.body, length as u64);
        for number in numbers {
            put_varint(&mut self.body, number);
        }
        self.body.push(if same { 0 } else { FLAG_SEEN });
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

pub(super) fn narrow(number: u64) -> Result<u32, RecordError> {
    u32::try_from(number).map_err(|_| RecordError::Malformed("number too large"))
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
        let seen = self
            .seen
            .clone()
            .ok_or(RecordError::Malformed("first record without tags"))?;
        Ok(Record {
            offset,
            hlc,
            db,
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

/// Appends a number, seven bits a byte, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low seven bits are meant"
        )]
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 0x80 here")]
    out.push(number as u8);
}

/// How many bytes [`put_varint`] appends.
const fn varint_len(number: u64) -> usize {
    // Zero takes as much as one.
    (number | 1).ilog2() as usize / 7 + 1
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes one byte from the front.
pub(crate) fn take_u8(input: &mut impl Buf) -> Result<u8, RecordError> {
    input.try_get_u8().map_err(|_| RecordError::Short)
}

/// Takes a number from the front of what is in one piece.
pub(crate) fn take_varint(input: &mut impl Buf) -> Result<u64, RecordError> {
    // Nearly all numbers are small.
    if let Some(&byte @ 0..0x80) = input.chunk().first() {
        input.advance(1);
        return Ok(u64::from(byte));
    }
    let mut number = 0_u64;
    for (length, byte) in (1..).zip(input.chunk()) {
        let (shift, bits) = (7 * (length - 1), u64::from(byte & 0x7f));
        if shift > 63 || (shift == 63 && bits > 1) {
            return Err(RecordError::Malformed("number too long"));
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            input.advance(length);
            return Ok(number);
        }
    }
    Err(RecordError::Short)
}

/// Takes a length and that many bytes from the front.
pub(crate) fn take_bytes(input: &mut Bytes) -> Result<Bytes, RecordError> {
    let length = usize::try_from(take_varint(input)?).map_err(|_| RecordError::Short)?;
    if length > input.len() {
        return Err(RecordError::Short);
    }
    Ok(input.split_to(length))
}

/// Takes the name of a site from the front.
pub(crate) fn take_site(input: &mut Bytes) -> Result<SiteId, RecordError> {
    let name = take_bytes(input)?;
    std::str::from_utf8(&name)
        .ok()
        .and_then(|n| SiteId::try_new(n).ok())
        .ok_or(RecordError::Malformed("site name"))
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
            Entry::Record(record(1 << 50, &later, b"x")),
            Entry::SelfMark {
                number: 4,
                offset: Offset(1 << 51),
            },
        ];
        let key = (7, Bytes::from_static(b"k"));
        let judgements = [
            Judgement::Judged(SiteId::try_new("b").unwrap(), at),
            Judgement::Wished(SiteId::try_new("b").unwrap(), key.clone()),
            Judgement::Paid(SiteId::try_new("b").unwrap(), key),
            Judgement::Torn(SiteId::try_new("b").unwrap()),
            Judgement::Merging(SiteId::try_new("b").unwrap()),
        ];
        entries.extend(judgements.map(Entry::Judgement));
        entries.push(Entry::Mark {
            origin: SiteId::try_new("b").unwrap(),
            text: Bytes::from_static(b"1 i=7"),
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

        #[test]
        fn numbers_survive(number: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            prop_assert_eq!(out.len(), varint_len(number));
            let mut input = Bytes::from(out);
            prop_assert_eq!(take_varint(&mut input).unwrap(), number);
            prop_assert!(input.is_empty());
        }
    }
}

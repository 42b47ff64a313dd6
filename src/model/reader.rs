//! Reads the frames that a [`FrameBuilder`](super::FrameBuilder) has built.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::encoding::{RecordError, narrow, take_bytes, take_site, take_u8, take_varint};
use super::hlc::Hlc;
use super::judgement::Judgement;
use super::position::{Cursor, Epoch, Offset};
use super::record::{
    Entry, FLAG_CAUSES, FLAG_SEEN, KIND_ECHO, KIND_FOREIGN, KIND_MARK, KIND_RECORD, KIND_SELF_MARK,
    Record, RecordRef, Tags,
};
use super::seen::Seen;

/// The offset that is so far behind another one.
fn behind(before: Offset, body: &mut impl Buf) -> Result<Offset, RecordError> {
    let offset = before.0.checked_add(take_varint(body)?).map(Offset);
    offset.ok_or(RecordError::Malformed("offset"))
}

/// Reads the entries of a frame body, without a copy: one after the other, as values of their own, or
/// only the records, [where they stand](Self::next_record).
#[derive(Debug)]
pub struct BatchReader {
    start: Offset,
    body: Bytes,
    /// Where the next entry begins in it.
    at: usize,
    /// The last record.
    last: Head,
    seen: Option<Arc<Seen>>,
    causes: Option<Arc<Seen>>,
}

/// What is known of a record besides its tags.
#[derive(Clone, Debug)]
struct Head {
    offset: Offset,
    hlc: Hlc,
    db: u32,
    count: u32,
    /// Where its commands are in the body.
    commands: Range<usize>,
}

impl BatchReader {
    /// A reader of a frame that begins after `start`.
    #[must_use]
    pub const fn new(start: Offset, body: Bytes) -> Self {
        let last = Head {
            offset: start,
            hlc: Hlc(0),
            db: 0,
            count: 0,
            commands: 0..0,
        };
        Self {
            start,
            body,
            at: 0,
            last,
            seen: None,
            causes: None,
        }
    }

    /// Goes on to the next record; none when there is no more.
    ///
    /// # Errors
    /// The bytes are not those of a frame. There is no more then.
    pub fn next_record(&mut self) -> Result<Option<RecordRef<'_>>, RecordError> {
        loop {
            if self.at >= self.body.len() {
                return Ok(None);
            }
            let found = self.step().and_then(|(kind, body)| {
                let is_record = kind == KIND_RECORD;
                if is_record {
                    self.read_record(body)?;
                }
                Ok(is_record)
            });
            match found {
                Ok(true) => return Ok(self.record()),
                Ok(false) => {}
                Err(error) => {
                    self.at = self.body.len();
                    return Err(error);
                }
            }
        }
    }

    /// The record that was read last, where it stands.
    #[must_use]
    pub fn record(&self) -> Option<RecordRef<'_>> {
        let Head {
            offset,
            hlc,
            db,
            count,
            ref commands,
        } = self.last;
        let seen = self.seen.as_ref()?;
        let causes = self.causes.as_ref().unwrap_or(seen);
        let tags = Tags {
            offset,
            hlc,
            db,
            seen,
            causes,
            count,
        };
        let commands = self.body.get(commands.clone())?;
        Some(RecordRef { tags, commands })
    }

    /// The record that was read last, as a value of its own.
    #[must_use]
    pub fn to_record(&self) -> Option<Record> {
        let record = self.record()?;
        Some(Record {
            offset: record.offset,
            hlc: record.hlc,
            db: record.db,
            seen: Arc::clone(record.seen),
            causes: Arc::clone(record.causes),
            count: record.count,
            commands: self.body.slice(self.last.commands.clone()),
        })
    }

    /// The kind of the next entry, and where its body is.
    fn step(&mut self) -> Result<(u8, Range<usize>), RecordError> {
        let mut head = self.body.get(self.at..).unwrap_or_default();
        let kind = take_u8(&mut head)?;
        let length = usize::try_from(take_varint(&mut head)?).map_err(|_| RecordError::Short)?;
        if length > head.len() {
            return Err(RecordError::Short);
        }
        let begin = self.body.len() - head.len();
        self.at = begin + length;
        Ok((kind, begin..self.at))
    }

    fn read_record(&mut self, body: Range<usize>) -> Result<(), RecordError> {
        let mut head = self.body.get(body.clone()).unwrap_or_default();
        let offset = behind(self.last.offset, &mut head)?;
        let hlc = Hlc(self.last.hlc.0.wrapping_add(take_varint(&mut head)?));
        let db = narrow(take_varint(&mut head)?)?;
        let count = narrow(take_varint(&mut head)?)?;
        let flags = take_u8(&mut head)?;
        if flags != 0 {
            let mut tags = self.body.slice_ref(head);
            if flags & FLAG_SEEN != 0 {
                self.seen = Some(Arc::new(Seen::decode(&mut tags)?));
            }
            if flags & FLAG_CAUSES != 0 {
                self.causes = Some(Arc::new(Seen::decode(&mut tags)?));
            }
            head = head.get(head.len() - tags.len()..).unwrap_or_default();
        }
        if self.seen.is_none() {
            return Err(RecordError::Malformed("first record without tags"));
        }
        self.last = Head {
            offset,
            hlc,
            db,
            count,
            commands: body.end - head.len()..body.end,
        };
        Ok(())
    }

    fn entry(&mut self) -> Result<Entry, RecordError> {
        let (kind, range) = self.step()?;
        if kind == KIND_RECORD {
            self.read_record(range)?;
            let record = self.to_record().map(Entry::Record);
            return record.ok_or(RecordError::Malformed("record without tags"));
        }
        let mut body = self.body.slice(range);
        match kind {
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
}

impl Iterator for BatchReader {
    type Item = Result<Entry, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.body.len() {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.at = self.body.len();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{FrameBuilder, SiteId};

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
                Entry::Record(r) => builder.push_record(r.borrowed()),
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
    fn records_are_the_same_where_they_stand() {
        let (entries, body) = frame();
        let mut reader = BatchReader::new(Offset(100), body.into());
        for entry in &entries {
            let Entry::Record(record) = entry else {
                continue;
            };
            let found = reader.next_record().unwrap().unwrap();
            assert_eq!(found.commands, &record.commands[..]);
            assert_eq!(reader.to_record().as_ref(), Some(record));
        }
        assert!(reader.next_record().unwrap().is_none());
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
            let body = Bytes::from(body);
            let mut records = BatchReader::new(Offset(start), body.clone());
            while let Ok(Some(_)) = records.next_record() {}
            assert!(BatchReader::new(Offset(start), body).count() < usize::MAX);
        }
    }
}

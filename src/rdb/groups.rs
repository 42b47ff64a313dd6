//! The groups of a divided stream, which travel before its entries.
//!
//! An entry that is pending and was deleted can be claimed only while an entry with its id is there
//! (measured: Redis 5.0.14 to 8.6, Redict 7.3, Valkey 8.0 to 9.1), and a stream takes entries in
//! ascending order only. Behind the entries, where a snapshot has them, the groups come too late to
//! be rebuilt. So the reader looks ahead for them, over a second source of the same bytes, and gives
//! them in parts before the first with entries:
//!
//! ```text
//!   nodes … | nodes not read yet … | length, ids, counts | group group … | producers
//!           offset                                         at
//!   group: name, last id, read | pending, pending, … | consumer: ids, consumer: ids, …
//! ```
//!
//! The first part has all groups, with nothing pending. A stream can have millions of entries
//! pending, so what a group has is divided too: a part has a run of its pending entries, and of each
//! consumer the ids of these. For each of these parts the consumers of the group are read again,
//! which costs time where memory would have no bound.

use std::io::{Read, Seek};
use std::mem;

use super::error::Error;
use super::input::Input;
use super::parts::put_length;
use super::value::{STREAM_4, STREAM_5, STREAM_ID};

/// The same bytes once more, to look ahead in them: a file opened twice.
pub trait Again: Read + Seek {}

impl<T: Read + Seek> Again for T {}

/// Where the reader looks ahead.
pub(super) type Ahead = Input<Box<dyn Again>>;

/// What an entry pending takes in a part: id, instant and a short count; the id, of its consumer.
const PENDING_SIZE: usize = 41;
/// What a group has behind its head that has nothing: pending, consumers; since the newest type,
/// what was given back.
const NOTHING: &[u8] = &[0, 0, 0];
/// No producers: for how long and how many, none, and how many there ever were.
const NO_PRODUCERS: &[u8] = &[0, 0, 0, 0, 0];

/// The id of an entry. Its bytes are in such an order that ids compare as they do.
type IdBytes = [u8; STREAM_ID];

/// The groups of a stream that have not been given yet.
pub(super) struct Groups {
    type_byte: u8,
    /// What stands before the number of groups.
    numbers: Vec<u8>,
    /// Whether they were given without what is pending.
    are_named: bool,
    /// Groups of which not everything pending was given.
    left: u64,
    /// Where the first of these is that was not begun.
    at: u64,
    begun: Option<Begun>,
}

/// A group of which not everything pending was given.
struct Begun {
    /// Name, last id, how many were read.
    head: Vec<u8>,
    /// How many pending entries are left.
    left: u64,
    /// Where the first of them is.
    at: u64,
    /// Where the consumers are.
    consumers_at: u64,
    /// The last that was given; none before the first.
    given: Option<IdBytes>,
}

/// Some of a group's pending entries: those after one id, up to another one.
struct Run {
    count: u64,
    bytes: Vec<u8>,
    after: Option<IdBytes>,
    /// None: all that are left.
    upto: Option<IdBytes>,
}

impl Run {
    fn has(&self, id: IdBytes) -> bool {
        self.after.is_none_or(|after| id > after) && self.upto.is_none_or(|upto| id <= upto)
    }
}

impl Groups {
    /// Looks for the groups of a stream of which so many nodes are left from an offset on.
    pub(super) fn find(
        ahead: &mut Ahead,
        type_byte: u8,
        offset: u64,
        nodes: u64,
    ) -> Result<Self, Error> {
        ahead.go_to(offset)?;
        for _ in 0..nodes {
            ahead.skip_element(type_byte)?;
        }
        ahead.start_capture(Vec::new());
        ahead.skip_stream_numbers(type_byte)?;
        let numbers = ahead.end_capture(0);
        Ok(Self {
            type_byte,
            numbers,
            are_named: false,
            left: ahead.length()?,
            at: ahead.offset(),
            begun: None,
        })
    }

    /// Type and body of the next part, of about so many bytes: a stream without entries. None after
    /// the last.
    pub(super) fn next_part(
        &mut self,
        ahead: &mut Ahead,
        size: usize,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (mut groups, mut count) = (Vec::new(), 0_u64);
        if mem::replace(&mut self.are_named, true) {
            while self.left > 0 && groups.len() < size {
                self.put_group(ahead, size, &mut groups)?;
                count = count.saturating_add(1);
            }
        } else {
            count = self.left;
            self.put_names(ahead, &mut groups)?;
        }
        if count == 0 {
            return Ok(None);
        }
        let mut body = vec![self.type_byte, 0];
        body.extend_from_slice(&self.numbers);
        put_length(&mut body, count);
        body.append(&mut groups);
        if self.type_byte >= STREAM_4 {
            body.extend_from_slice(NO_PRODUCERS);
        }
        Ok(Some(body))
    }

    /// Gives all groups, each with nothing pending and without consumers.
    fn put_names(&self, ahead: &mut Ahead, out: &mut Vec<u8>) -> Result<(), Error> {
        ahead.go_to(self.at)?;
        for _ in 0..self.left {
            ahead.start_capture(Vec::new());
            ahead.skip_stream_group_head(self.type_byte)?;
            out.extend_from_slice(&ahead.end_capture(0));
            ahead.skip_stream_group_rest(self.type_byte)?;
            let nothing = match self.type_byte >= STREAM_5 {
                true => NOTHING,
                false => NOTHING.get(1..).unwrap_or_default(),
            };
            out.extend_from_slice(nothing);
        }
        Ok(())
    }

    /// Gives a group, with as much of what is pending as there is room for.
    fn put_group(
        &mut self,
        ahead: &mut Ahead,
        size: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut group = match self.begun.take() {
            Some(group) => group,
            None => Begun::read(ahead, self.type_byte, self.at)?,
        };
        let room = size.saturating_sub(out.len()).div_ceil(PENDING_SIZE);
        let run = group.run(ahead, room as u64)?;
        out.extend_from_slice(&group.head);
        put_length(out, run.count);
        out.extend_from_slice(&run.bytes);
        ahead.go_to(group.consumers_at)?;
        put_consumers(ahead, self.type_byte, &run, out)?;
        if group.left > 0 {
            self.begun = Some(group);
        } else {
            self.left = self.left.saturating_sub(1);
            self.at = ahead.offset();
        }
        Ok(())
    }
}

impl Begun {
    fn read(ahead: &mut Ahead, type_byte: u8, at: u64) -> Result<Self, Error> {
        ahead.go_to(at)?;
        ahead.start_capture(Vec::new());
        ahead.skip_stream_group_head(type_byte)?;
        let head = ahead.end_capture(0);
        let left = ahead.length()?;
        let at = ahead.offset();
        for _ in 0..left {
            ahead.stream_pending_id()?;
        }
        Ok(Self {
            head,
            left,
            at,
            consumers_at: ahead.offset(),
            given: None,
        })
    }

    /// Takes so many of the pending entries that are left, or all of them.
    fn run(&mut self, ahead: &mut Ahead, most: u64) -> Result<Run, Error> {
        let count = self.left.min(most);
        ahead.go_to(self.at)?;
        ahead.start_capture(Vec::new());
        let mut last = None;
        for _ in 0..count {
            last = Some(ahead.stream_pending_id()?);
        }
        self.at = ahead.offset();
        self.left = self.left.saturating_sub(count);
        Ok(Run {
            count,
            bytes: ahead.end_capture(0),
            after: mem::replace(&mut self.given, last),
            upto: last.filter(|_| self.left > 0),
        })
    }
}

/// Gives the consumers of a group, each with what it has of a run.
fn put_consumers(
    ahead: &mut Ahead,
    type_byte: u8,
    run: &Run,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let (mut consumers, mut count) = (Vec::new(), 0_u64);
    for number in 0..ahead.length()? {
        ahead.start_capture(Vec::new());
        ahead.skip_stream_consumer_head(type_byte)?;
        let head = ahead.end_capture(0);
        let (ids, bytes) = ids_of(ahead, run)?;
        // Once each must be named, even if it has nothing. The first always is: it gets what others
        // gave back.
        if run.after.is_none() || number == 0 || ids > 0 {
            count = count.saturating_add(1);
            consumers.extend_from_slice(&head);
            put_length(&mut consumers, ids);
            consumers.extend_from_slice(&bytes);
        }
    }
    put_length(out, count);
    out.append(&mut consumers);
    if type_byte >= STREAM_5 {
        let (ids, bytes) = ids_of(ahead, run)?;
        put_length(out, ids);
        out.extend_from_slice(&bytes);
    }
    Ok(())
}

/// Those of the ids that come next which are in a run.
fn ids_of(ahead: &mut Ahead, run: &Run) -> Result<(u64, Vec<u8>), Error> {
    let (mut count, mut bytes) = (0_u64, Vec::new());
    for _ in 0..ahead.length()? {
        let id: IdBytes = ahead.array()?;
        if run.has(id) {
            count = count.saturating_add(1);
            bytes.extend_from_slice(&id);
        }
    }
    Ok((count, bytes))
}

//! Streams: entries, groups, consumers, and what they have not acknowledged.
//!
//! ```text
//! nodes:     first id (16 bytes), listpack of entries
//!            length, last id
//!            since 7.0: first id, greatest deleted id, entries ever added
//! groups:    name, last delivered id; since 7.0: entries read
//!   pending: id, when delivered (8 bytes), how often
//!   consumers: name, when seen (8 bytes); since 7.2: when active (8 bytes); ids of its pending
//!   since 8.8: ids of entries given back
//! since 8.6: what is remembered of producers
//! ```

use std::borrow::Cow;
use std::{fmt, mem};

use super::cursor::Cursor;
use super::error::Error;
use super::packed::{Form, Packed, Wrong};
use super::text::Text;

// What a stream has more of, by the type that brought it.
const STREAM_2: u8 = 19;
const STREAM_3: u8 = 21;
const STREAM_4: u8 = 26;
const STREAM_5: u8 = 27;

/// An id is two numbers of eight bytes.
const ID_SIZE: usize = 16;
/// What an entry pending takes at least: id, instant, count.
const PENDING_SIZE: usize = 25;

/// An entry that was deleted and is only marked as that.
const FLAG_DELETED: i64 = 1;
/// An entry with the same fields as the first of its node.
const FLAG_SAME_FIELDS: i64 = 2;

/// The id of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Milliseconds, as a rule.
    pub ms: u64,
    /// Which one within that millisecond.
    pub seq: u64,
}

impl Id {
    /// Smaller than the id of any entry.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };

    fn from_bytes(bytes: [u8; ID_SIZE]) -> Self {
        let both = u128::from_be_bytes(bytes);
        let [ms, seq] = [both >> 64, both & u128::from(u64::MAX)];
        // Neither is more than 64 bits by now.
        let part = |part: u128| u64::try_from(part).unwrap_or(u64::MAX);
        Self {
            ms: part(ms),
            seq: part(seq),
        }
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        Ok(Self {
            ms: cursor.length()?,
            seq: cursor.length()?,
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// A stream.
///
/// What is asked for comes in this order: all entries, each with its fields; then all groups, each
/// with its consumers. What was not asked for may be left out.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    /// How many entries it says it has.
    pub length: u64,
    /// The id of the last entry that was ever added.
    pub last_id: Id,
    /// The greatest id that was ever deleted; none where that is not kept (before 7.0).
    pub max_deleted_id: Option<Id>,
    /// How many entries were ever added; none where that is not kept (before 7.0).
    pub entries_added: Option<u64>,
    /// What is remembered of producers (since 8.6).
    pub producers: Option<Producers>,
    entries: Cursor<'a>,
    nodes_left: u64,
    node: Option<Node<'a>>,
    previous: Option<Id>,
    groups: Cursor<'a>,
    groups_left: u64,
    consumers_left: u64,
}

/// What a stream remembers of its producers, to refuse what they add twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producers {
    /// For how many seconds a token is remembered.
    pub duration_s: u64,
    /// How many tokens are remembered of each producer.
    pub tokens_max: u64,
    /// How many tokens are remembered.
    pub tokens: u64,
}

/// A listpack of entries.
#[derive(Clone, Debug)]
struct Node<'a> {
    first: Id,
    packed: Packed<'a>,
    /// Where the names of the fields of the first entry are, and how many they are.
    names: usize,
    names_count: u64,
    /// Fields of the entry that have not been asked for.
    fields_left: u64,
    /// Where the name of the next field is, when the names are those of the first entry.
    name: Option<usize>,
    /// Whether an entry was begun whose end was not read.
    in_entry: bool,
}

/// The head of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id; greater than that of the entry before.
    pub id: Id,
    /// How many fields it has; at least one.
    pub fields: u64,
}

/// A group of consumers.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Its name.
    pub name: Text<'a>,
    /// The last entry that was delivered.
    pub last_id: Id,
    /// How many entries were read; none where that is not known.
    pub entries_read: Option<u64>,
    /// What was delivered and not acknowledged, by ascending id.
    pub pending: Vec<Pending>,
    /// How many consumers it has.
    pub consumers: u64,
}

/// An entry that was delivered and not acknowledged. It may have been deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The entry.
    pub id: Id,
    /// When it was delivered last, in milliseconds since 1970.
    pub delivered_at_ms: u64,
    /// How often it was delivered.
    pub deliveries: u64,
}

/// A consumer.
#[derive(Clone, Debug)]
pub struct Consumer<'a> {
    /// Its name.
    pub name: Text<'a>,
    ids: &'a [u8],
}

impl Consumer<'_> {
    /// What was delivered to it and not acknowledged.
    pub fn pending(&self) -> impl Iterator<Item = Id> + use<'_> {
        let (ids, _) = self.ids.as_chunks();
        ids.iter().map(|id| Id::from_bytes(*id))
    }
}

impl<'a> Stream<'a> {
    /// Reads all that is not entries, and finds out where the entries end.
    pub(super) fn new(mut cursor: Cursor<'a>) -> Result<Self, Error> {
        let type_byte = cursor.type_byte();
        let nodes_left = cursor.count(2)?;
        let entries = cursor;
        for _ in 0..nodes_left {
            cursor.skip_string()?;
            cursor.skip_string()?;
        }
        let (length, last_id) = (cursor.length()?, Id::read(&mut cursor)?);
        let (mut max_deleted_id, mut entries_added) = (None, None);
        if type_byte >= STREAM_2 {
            // The first id, which the entries tell too.
            Id::read(&mut cursor)?;
            max_deleted_id = Some(Id::read(&mut cursor)?);
            entries_added = Some(cursor.length()?);
        }
        let groups_left = cursor.count(5)?;
        let mut stream = Self {
            length,
            last_id,
            max_deleted_id,
            entries_added,
            producers: None,
            entries,
            nodes_left,
            node: None,
            previous: None,
            groups: cursor,
            groups_left,
            consumers_left: 0,
        };
        let mut walk = stream.clone();
        while walk.next_group()?.is_some() {}
        if type_byte >= STREAM_4 {
            stream.producers = Some(read_producers(&mut walk.groups)?);
        }
        walk.groups.end()?;
        Ok(stream)
    }

    /// Whether there are groups that were not asked for.
    #[must_use]
    pub const fn has_groups(&self) -> bool {
        self.groups_left > 0
    }

    /// The ids of all entries that are pending in any group, ascending, each once.
    ///
    /// # Errors
    /// The payload is malformed.
    pub fn all_pending(&self) -> Result<Vec<Id>, Error> {
        let mut walk = self.clone();
        let mut ids = Vec::new();
        while let Some(group) = walk.next_group()? {
            ids.extend(group.pending.iter().map(|pending| pending.id));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Names what is wrong with the groups and consumers just read.
    pub(crate) fn malformed(&self, what: &'static str) -> Error {
        self.groups.malformed(what)
    }

    /// The head of the next entry; nothing after the last. Fields of the one before that were not
    /// asked for are passed over.
    ///
    /// # Errors
    /// The payload is malformed.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            while self.next_field()?.is_some() {}
            if self.node.is_none() && !self.next_node()? {
                return Ok(None);
            }
            let Some(node) = &mut self.node else {
                return Ok(None);
            };
            let ended = node.end_entry();
            ended.map_err(|wrong| self.entries.malformed(wrong))?;
            if node.packed.ended() {
                let end = node.packed.end();
                end.map_err(|wrong| self.entries.malformed(wrong))?;
                self.node = None;
                continue;
            }
            let head = node.head();
            let (entry, deleted) = head.map_err(|wrong| self.entries.malformed(wrong))?;
            if deleted {
                continue;
            }
            if self.previous.is_some_and(|previous| previous >= entry.id) || entry.id == Id::ZERO {
                return Err(self.entries.malformed("entries out of order"));
            }
            self.previous = Some(entry.id);
            return Ok(Some(entry));
        }
    }

    /// The next field of the entry: name and value; nothing after the last.
    ///
    /// # Errors
    /// The payload is malformed.
    pub fn next_field(&mut self) -> Result<Option<(Text<'_>, Text<'_>)>, Error> {
        let cursor = self.entries;
        match &mut self.node {
            Some(node) if node.fields_left > 0 => {
                let field = node.field();
                field.map(Some).map_err(|wrong| cursor.malformed(wrong))
            }
            _ => Ok(None),
        }
    }

    fn next_node(&mut self) -> Result<bool, Error> {
        let Some(left) = self.nodes_left.checked_sub(1) else {
            return Ok(false);
        };
        self.nodes_left = left;
        let id = self.entries.blob()?;
        let id = id.as_ref().try_into();
        let first = Id::from_bytes(id.map_err(|_| self.entries.malformed("no id of a node"))?);
        let blob = self.entries.blob()?;
        let node = Node::open(first, blob);
        self.node = Some(node.map_err(|wrong| self.entries.malformed(wrong))?);
        Ok(true)
    }

    /// The next group; nothing after the last. Consumers of the one before that were not asked for
    /// are passed over.
    ///
    /// # Errors
    /// The payload is malformed.
    pub fn next_group(&mut self) -> Result<Option<Group<'a>>, Error> {
        while self.next_consumer()?.is_some() {}
        let Some(left) = self.groups_left.checked_sub(1) else {
            return Ok(None);
        };
        self.groups_left = left;
        let cursor = &mut self.groups;
        let name = cursor.string()?;
        let last_id = Id::read(cursor)?;
        let mut entries_read = None;
        if cursor.type_byte() >= STREAM_2 {
            // All bits set says that it is not known.
            entries_read = Some(cursor.length()?).filter(|read| i64::try_from(*read).is_ok());
        }
        let mut pending = Vec::new();
        for _ in 0..cursor.count(PENDING_SIZE)? {
            pending.push(Pending {
                id: Id::from_bytes(cursor.array()?),
                delivered_at_ms: u64::from_le_bytes(cursor.array()?),
                deliveries: cursor.length()?,
            });
        }
        if !pending.is_sorted_by(|a, b| a.id < b.id) {
            return Err(cursor.malformed("entries pending out of order"));
        }
        let consumers = cursor.count(10)?;
        self.consumers_left = consumers;
        if consumers == 0 {
            self.end_group()?;
        }
        Ok(Some(Group {
            name,
            last_id,
            entries_read,
            pending,
            consumers,
        }))
    }

    /// The next consumer of the group; nothing after the last.
    ///
    /// # Errors
    /// The payload is malformed.
    pub fn next_consumer(&mut self) -> Result<Option<Consumer<'a>>, Error> {
        let Some(left) = self.consumers_left.checked_sub(1) else {
            return Ok(None);
        };
        self.consumers_left = left;
        let cursor = &mut self.groups;
        let name = cursor.string()?;
        // When it was seen, and when it last got something: no command can say that.
        cursor.take(if cursor.type_byte() >= STREAM_3 {
            16
        } else {
            8
        })?;
        let ids = read_ids(cursor)?;
        if left == 0 {
            self.end_group()?;
        }
        Ok(Some(Consumer { name, ids }))
    }

    /// What follows the consumers of a group: the ids of entries that they gave back, which are
    /// pending and of no consumer.
    fn end_group(&mut self) -> Result<(), Error> {
        if self.groups.type_byte() >= STREAM_5 {
            read_ids(&mut self.groups)?;
        }
        Ok(())
    }
}

fn read_ids<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Error> {
    let count = cursor.count(ID_SIZE)?;
    cursor.take(count.saturating_mul(ID_SIZE as u64))
}

fn read_producers(cursor: &mut Cursor<'_>) -> Result<Producers, Error> {
    let (duration_s, tokens_max) = (cursor.length()?, cursor.length()?);
    let mut tokens = 0_u64;
    for _ in 0..cursor.count(2)? {
        cursor.skip_string()?;
        for _ in 0..cursor.count(3)? {
            cursor.skip_string()?;
            Id::read(cursor)?;
            tokens = tokens.saturating_add(1);
        }
    }
    // How many tokens there ever were, and how many of them came again.
    cursor.length()?;
    cursor.length()?;
    Ok(Producers {
        duration_s,
        tokens_max,
        tokens,
    })
}

impl<'a> Node<'a> {
    /// Reads what stands before the entries: how many there are and how many were deleted, the
    /// names of the fields of the first, and a zero.
    fn open(first: Id, blob: Cow<'a, [u8]>) -> Result<Self, Wrong> {
        let mut packed = Packed::open(Form::Listpack, blob)?;
        packed.number()?;
        packed.number()?;
        let names_count = u64::try_from(packed.number()?).map_err(|_| "a negative count")?;
        let names = packed.place();
        for _ in 0..names_count {
            packed.next()?;
        }
        packed.number()?;
        Ok(Self {
            first,
            packed,
            names,
            names_count,
            fields_left: 0,
            name: None,
            in_entry: false,
        })
    }

    /// Reads the head of an entry, and all of one that was deleted; whether it was.
    fn head(&mut self) -> Result<(Entry, bool), Wrong> {
        let flags = self.packed.number()?;
        // The differences are counted modulo 2^64: the bits are those of unsigned numbers.
        let [ms, seq] = [self.packed.number()?, self.packed.number()?].map(i64::cast_unsigned);
        let id = Id {
            ms: self.first.ms.wrapping_add(ms),
            seq: self.first.seq.wrapping_add(seq),
        };
        let same = flags & FLAG_SAME_FIELDS != 0;
        let fields = if same {
            self.names_count
        } else {
            u64::try_from(self.packed.number()?).map_err(|_| "a negative count")?
        };
        if fields == 0 {
            return Err("an entry without fields");
        }
        self.name = same.then_some(self.names);
        self.fields_left = fields;
        self.in_entry = true;
        let deleted = flags & FLAG_DELETED != 0;
        if deleted {
            while self.fields_left > 0 {
                self.field()?;
            }
        }
        Ok((Entry { id, fields }, deleted))
    }

    /// Reads a field of the entry.
    fn field(&mut self) -> Result<(Text<'_>, Text<'_>), Wrong> {
        self.fields_left = self.fields_left.saturating_sub(1);
        match &mut self.name {
            Some(place) => self.packed.with_next(place),
            None => self.packed.next_of().map(|[name, value]| (name, value)),
        }
    }

    /// Reads what ends an entry, if one was read: of how many parts it is.
    fn end_entry(&mut self) -> Result<(), Wrong> {
        if mem::take(&mut self.in_entry) {
            self.packed.number()?;
        }
        Ok(())
    }
}

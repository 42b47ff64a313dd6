//! Reads a snapshot: an RDB file as a stream of entries, each value in the form that RESTORE takes.
//!
//! The reader does not decode values. Their bodies are the same bytes in a snapshot and in the
//! answer to DUMP, so it only finds out where each one ends. It holds one value at a time and
//! allocates as bytes arrive, never because a length says so.
//!
//! ```text
//!   source ── Input: buffer, offset, CRC64, capture
//!                └─ string: lengths, strings, LZF
//!                     └─ value: where a body ends, by type
//!                          └─ Reader: opcodes ──► Entry
//! ```
//!
//! What a target cannot RESTORE is taken apart ([`decode`]) and rebuilt there ([`commands`]).
//!
//! Redis and Valkey use the same numbers for different things since they parted (type 22, opcode
//! 243), so everything depends on the flavour that the first bytes name.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::Read;
use std::mem;

use bytes::Bytes;

mod block;
pub mod commands;
pub mod decode;
mod error;
mod groups;
mod input;
mod parts;
mod payload;
mod string;
#[cfg(test)]
mod tests;
mod value;
mod version;

use self::block::Block;
pub use self::error::Error;
pub use self::groups::Again;
use self::input::{BUFFER_SIZE, Input};
pub use self::parts::Place;
use self::parts::{Body, Dividing, Rest};
pub use self::payload::{Fit, fit, is_of_module, lowest_version, payload};
use self::payload::{VERSION_KEY_META, seal};
pub use self::string::lzf_decompress;
pub use self::version::{Flavour, Version};

/// Reads the entries of a snapshot, one after the other.
pub struct Reader<R> {
    input: Input<R>,
    version: Version,
    state: State,
    /// The database that the next value belongs to.
    db: u32,
    /// What has been said of the next value.
    attributes: Attributes,
    /// How values are divided, if they are.
    dividing: Option<Dividing>,
    /// A value of which a part was given, and not the last.
    rest: Option<Rest>,
    /// Where small keys and values are put.
    block: Block,
}

/// What a snapshot holds, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A key and its value.
    Value(Value),
    /// A part of a large value: parts come one after the other, and only where they are asked for
    /// ([`Reader::dividing`]).
    Part(Value, Place),
    /// The source of a library of functions, for `FUNCTION LOAD REPLACE`.
    Function(Vec<u8>),
    /// A fact about the snapshot: `repl-id`, `repl-offset`, `repl-stream-db`, `redis-ver`, …
    Aux {
        /// Its name.
        key: Bytes,
        /// Its value, numbers as decimal text.
        value: Bytes,
    },
    /// What the server said of a database before its values; at best an estimate.
    SizeHint {
        /// The database.
        db: u32,
        /// How many keys it has.
        keys: u64,
        /// How many of them expire.
        expires: u64,
    },
}

/// A key and its value, ready for `RESTORE key ttl payload`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// The database.
    pub db: u32,
    /// The key, as clients know it.
    pub key: Bytes,
    /// When the key expires, in milliseconds since 1970. Never 0, which RESTORE would take for
    /// "never": what should have expired even before that is said to expire at 1.
    pub expire_at_ms: Option<u64>,
    /// What DUMP would give, stamped with [`min_rdb_version`](Self::min_rdb_version).
    pub payload: Bytes,
    /// The earliest RDB version that knows the type; a target must know it too.
    pub min_rdb_version: u16,
    /// Whether the payload has data of a module. A target without the module cannot take it, and
    /// servers before 6.2 exit when they are asked to.
    pub module: bool,
    /// For how long nobody had used the key, when the server evicts by that.
    pub idle_seconds: Option<u64>,
    /// How often the key is used, on a logarithmic scale, when the server evicts by that.
    pub frequency: Option<u8>,
}

impl<R: Read> Reader<R> {
    /// Begins to read; may read beyond the end of the snapshot, as far as one buffer reaches.
    ///
    /// # Errors
    /// The first bytes are not those of a snapshot, or are of an unsupported version.
    pub fn try_new(input: R) -> Result<Self, Error> {
        Self::with_buffer(input, BUFFER_SIZE)
    }

    fn with_buffer(input: R, buffer_size: usize) -> Result<Self, Error> {
        let mut input = Input::new(input, buffer_size);
        let version = Version::parse(&input.array()?)?;
        Ok(Self {
            input,
            version,
            state: State::Entries,
            db: 0,
            attributes: Attributes::default(),
            dividing: None,
            rest: None,
            block: Block::default(),
        })
    }

    /// Gives values of more bytes than this in parts of about so many; see [`Entry::Part`]. A part
    /// is larger by no more than one element. `again` is the same snapshot once more, from its
    /// beginning: of a stream, what comes last goes first.
    #[must_use]
    pub fn dividing(self, size: usize, again: impl Again + 'static) -> Self {
        Self {
            dividing: Some(Dividing::new(size, again)),
            ..self
        }
    }

    /// Divides one value as DUMP gave it, into [`Entry::Part`]s with an empty key, or gives it whole
    /// as an [`Entry::Value`]. None: it is of a kind that is not divided. `again` is the same value
    /// once more.
    ///
    /// # Errors
    /// There is nothing to read.
    pub fn of_dump(
        input: R,
        again: impl Again + 'static,
        flavour: Flavour,
        part_size: usize,
    ) -> Result<Option<Self>, Error> {
        let mut input = Input::new(input, BUFFER_SIZE);
        let type_byte = input.byte()?;
        let version = Version { flavour, number: 0 };
        let reader = Self {
            input,
            version,
            state: State::Dump(Some(type_byte)),
            db: 0,
            attributes: Attributes::default(),
            dividing: Some(Dividing::new(part_size, again)),
            rest: None,
            block: Block::default(),
        };
        Ok(parts::is_divisible(type_byte).then_some(reader))
    }

    /// The format of the snapshot.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many bytes of the snapshot have been read.
    pub fn bytes_read(&self) -> u64 {
        self.input.offset()
    }

    /// The next entry; nothing once the snapshot is complete and its checksum was found right (or
    /// absent: a server may be configured not to write one).
    ///
    /// Entries come before the checksum that proves them: only the end says that they were right.
    ///
    /// # Errors
    /// The snapshot cannot be read any further. Neither can it be later.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        match self.state {
            State::Entries | State::Dump(_) => {}
            State::Complete => return Ok(None),
            State::Failed => return Err(Error::AfterError),
        }
        let entry = self.read_entry();
        match entry {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Complete,
            Err(_) => self.state = State::Failed,
        }
        entry
    }

    fn read_entry(&mut self) -> Result<Option<Entry>, Error> {
        if let Some(rest) = self.rest.take() {
            let (value, place, rest) = self.read_part(rest)?;
            self.rest = rest;
            return Ok(Some(Entry::Part(value, place)));
        }
        if let State::Dump(type_byte) = &mut self.state {
            let type_byte = type_byte.take();
            return type_byte.map(|t| self.read_value(t, 0, true)).transpose();
        }
        loop {
            let offset = self.input.offset();
            let opcode = self.input.byte()?;
            match opcode {
                opcode::EOF => return self.check_end().map(|()| None),
                opcode::SELECT_DB => self.db = self.read_db()?,
                opcode::EXPIRE_S => {
                    let seconds = i64::from(i32::from_le_bytes(self.input.array()?));
                    self.attributes.expire_at_ms = instant(seconds.saturating_mul(1000));
                }
                opcode::EXPIRE_MS => {
                    let milliseconds = i64::from_le_bytes(self.input.array()?);
                    self.attributes.expire_at_ms = instant(milliseconds);
                }
                opcode::IDLE => self.attributes.idle_seconds = Some(self.input.length()?),
                opcode::FREQUENCY => self.attributes.frequency = Some(self.input.byte()?),
                opcode::RESIZE_DB => {
                    let (db, keys) = (self.db, self.input.length()?);
                    let expires = self.input.length()?;
                    return Ok(Some(Entry::SizeHint { db, keys, expires }));
                }
                opcode::AUX => {
                    let key = self.input.string()?.into();
                    let value = self.input.string()?.into();
                    return Ok(Some(Entry::Aux { key, value }));
                }
                opcode::FUNCTION => return Ok(Some(Entry::Function(self.input.string()?))),
                opcode::MODULE_AUX => {
                    // Module, when to load, and data that only that module understands.
                    self.input.skip_lengths(3)?;
                    self.input.skip_module_data()?;
                }
                opcode::SLOT_INFO => self.input.skip_lengths(3)?,
                opcode::KEY_META_OR_SLOT_IMPORT => match self.version.flavour {
                    Flavour::Redis => self.read_key_meta()?,
                    Flavour::Valkey => self.skip_slot_import()?,
                },
                opcode::FUNCTION_PRE_GA => return Err(Error::UnknownOpcode { opcode, offset }),
                type_byte => return self.read_value(type_byte, offset, false).map(Some),
            }
        }
    }

    fn read_db(&mut self) -> Result<u32, Error> {
        let db = self.input.length()?;
        u32::try_from(db).map_err(|_| self.input.malformed("database number too large"))
    }

    /// Reads a key and its value, or only a value.
    fn read_value(&mut self, type_byte: u8, offset: u64, alone: bool) -> Result<Entry, Error> {
        let Some(lowest) = lowest_version(type_byte, self.version.flavour) else {
            // The type alone decides; whether the key can be read only makes the text better.
            let key = self.input.string().unwrap_or_else(|_| b"?".to_vec());
            return Err(Error::UnknownType {
                type_byte,
                key: error::shown(&key),
                offset,
            });
        };
        let attributes = mem::take(&mut self.attributes);
        let key = match alone {
            true => Bytes::new(),
            false => self.input.string_into(&mut self.block)?,
        };
        let has_meta = !attributes.meta.is_empty();
        let min_rdb_version = if has_meta {
            lowest.max(VERSION_KEY_META)
        } else {
            lowest
        };
        let db = self.db;
        let value = |payload| Value {
            db,
            key,
            expire_at_ms: attributes.expire_at_ms,
            payload,
            min_rdb_version,
            module: type_byte == MODULE_TYPE || has_meta,
            idle_seconds: attributes.idle_seconds,
            frequency: attributes.frequency,
        };
        if !has_meta && let Some(payload) = self.small_payload(type_byte, min_rdb_version) {
            return Ok(Entry::Value(value(payload)));
        }
        let mut lead = attributes.meta;
        lead.push(type_byte);
        Ok(match self.read_body(type_byte, lead)? {
            Body::Whole(body) => Entry::Value(value(seal(body, min_rdb_version))),
            Body::First(body, rest) => {
                let value = value(Bytes::new());
                self.rest = Some(rest.of(value.clone()));
                let payload = self.sealed(body);
                Entry::Part(Value { payload, ..value }, Place::First)
            }
        })
    }

    /// Keeps metadata of modules about the next key: in a payload it stands before the type.
    fn read_key_meta(&mut self) -> Result<(), Error> {
        self.input
            .start_capture(vec![opcode::KEY_META_OR_SLOT_IMPORT]);
        for _ in 0..self.input.length()? {
            self.input.skip(KEY_META_CLASS)?;
            self.input.skip_module_data()?;
        }
        self.attributes.meta = self.input.end_capture(1);
        Ok(())
    }

    /// Passes over a slot migration under way: name, ranges of slots.
    fn skip_slot_import(&mut self) -> Result<(), Error> {
        self.input.skip_string()?;
        for _ in 0..self.input.length()? {
            self.input.skip_lengths(2)?;
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<(), Error> {
        if self.version.number < FIRST_WITH_CHECKSUM {
            return Ok(());
        }
        let computed = self.input.checksum();
        let stored = u64::from_le_bytes(self.input.array()?);
        if stored != 0 && stored != computed {
            return Err(Error::Checksum { stored, computed });
        }
        Ok(())
    }
}

/// What a reader waits for.
enum State {
    Entries,
    /// One value alone; its type, while it was not begun.
    Dump(Option<u8>),
    Complete,
    Failed,
}

/// What comes before a value and belongs to it.
#[derive(Default)]
struct Attributes {
    expire_at_ms: Option<u64>,
    idle_seconds: Option<u64>,
    frequency: Option<u8>,
    /// Metadata of modules, with its opcode; empty when there is none.
    meta: Vec<u8>,
}

/// An instant of expiry as the servers read it: -1 is none, all else before 1970 is long past.
fn instant(milliseconds: i64) -> Option<u64> {
    (milliseconds != -1).then(|| u64::try_from(milliseconds).map_or(1, |at| at.max(1)))
}

/// A value that a module saved.
const MODULE_TYPE: u8 = 7;
/// The size of the id of a class of metadata.
const KEY_META_CLASS: u64 = 4;
/// The version since which a snapshot ends with a checksum.
const FIRST_WITH_CHECKSUM: u16 = 5;

/// What stands in place of a type when no value follows: all from 243 on, and none below.
mod opcode {
    /// Redis: metadata about the next key. Valkey: a slot migration under way.
    pub(super) const KEY_META_OR_SLOT_IMPORT: u8 = 243;
    pub(super) const SLOT_INFO: u8 = 244;
    pub(super) const FUNCTION: u8 = 245;
    /// Functions as release candidates of Redis 7.0 saved them; no release reads it.
    pub(super) const FUNCTION_PRE_GA: u8 = 246;
    pub(super) const MODULE_AUX: u8 = 247;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQUENCY: u8 = 249;
    pub(super) const AUX: u8 = 250;
    pub(super) const RESIZE_DB: u8 = 251;
    pub(super) const EXPIRE_MS: u8 = 252;
    pub(super) const EXPIRE_S: u8 = 253;
    pub(super) const SELECT_DB: u8 = 254;
    pub(super) const EOF: u8 = 255;
}

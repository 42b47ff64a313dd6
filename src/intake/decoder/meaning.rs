//! What each command of a replication stream means: whose write is it, where does it end, what travels.
//!
//! A mark may stand anywhere in a transaction, or alone: Redis from 7.0 drops MULTI and EXEC when
//! only the mark had an effect; 7.2 and Valkey put SELECT after MULTI; a key that expires under a
//! queued read, or a module, writes before it. So MULTI…EXEC is buffered and the mark looked for
//! everywhere in it. What stands before the mark, SELECT aside, is this site's own; what follows
//! it is the echo. Being in a transaction proves nothing; the mark does.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;

use bytes::Bytes;

use crate::command::{
    Catalog, Command, Effects, Whole, canonical, for_each_in, removes_marks, scanner,
};
use crate::intake::event::{DecodeError, Event, Write};
use crate::intake::filter::{Commands, Filter, Travel};
use crate::model::{
    FENCE_PREFIX, GONE_KEY, InstanceId, Key, MARK_PREFIX, MAX_FRAME, Mark, Offset, SELF_KEY,
    SelfMark, SiteId, is_reserved, take_bytes,
};
use crate::redis::put_command;

/// The most memory that is kept for the next write: most are smaller.
const MAX_ROOM: usize = 16 << 10;
/// The same, for what it touches.
const MAX_TOUCHES: usize = 64;

/// A transaction being collected.
#[derive(Debug, Default)]
struct Transaction {
    /// The database selected when its first write begins.
    db: u32,
    count: u32,
    /// Writes that are not the echo.
    commands: Vec<u8>,
    /// Where the last of them ends.
    last: Offset,
    /// The mark, once it was seen: the rest is the echo.
    mark: Option<(SiteId, Box<Mark>)>,
    /// What its writes do.
    effects: Effects,
    /// Keys that are deleted behind the mark.
    deleted: Vec<Key>,
}

/// Takes one command after the other, and makes events of them.
#[derive(Debug)]
pub(super) struct Meaning {
    catalog: Catalog,
    filter: Filter,
    /// Where the last command ends.
    pub offset: Offset,
    /// The database that is selected.
    pub db: u32,
    transaction: Option<Transaction>,
    pub events: VecDeque<Event>,
    /// What the command does that is being read.
    effects: Effects,
    /// Memory for the next write.
    room: Option<Box<Write>>,
    /// Where commands end that are evictions.
    pub evictions: VecDeque<Offset>,
}

impl Meaning {
    pub(super) fn new(offset: Offset, db: u32, catalog: Catalog, filter: Filter) -> Self {
        Self {
            catalog,
            filter,
            offset,
            db,
            transaction: None,
            events: VecDeque::new(),
            effects: Effects::default(),
            room: None,
            evictions: VecDeque::new(),
        }
    }

    /// Whether the last command is the end of a complete unit.
    pub(super) const fn is_at_boundary(&self) -> bool {
        self.transaction.is_none()
    }

    /// See [`Decoder::reuse`](super::Decoder::reuse).
    pub(super) fn reuse(&mut self, mut room: Box<Write>) {
        if room.commands.capacity() <= MAX_ROOM && room.effects.touches.capacity() <= MAX_TOUCHES {
            room.commands.clear();
            room.effects.clear();
            self.room = Some(room);
        }
    }

    /// The next command, which ends at `offset`.
    pub(super) fn on_command(
        &mut self,
        command: &Command<'_>,
        now_ms: u64,
    ) -> Result<(), DecodeError> {
        match command.name().first().map(u8::to_ascii_uppercase) {
            Some(b'P') if command.is(b"PING") => return Ok(()),
            Some(b'R') if command.is(b"REPLCONF") => {
                if command.arg(1).eq_ignore_ascii_case(b"GETACK") {
                    self.events.push_back(Event::AckWanted);
                }
                return Ok(());
            }
            Some(b'S') if command.is(b"SELECT") => {
                self.on_select(command);
                return Ok(());
            }
            Some(b'M') if command.is(b"MULTI") => {
                if self.transaction.is_some() {
                    return Err(DecodeError::Framing("MULTI within a transaction"));
                }
                self.transaction = Some(Transaction {
                    db: self.db,
                    ..Transaction::default()
                });
                return Ok(());
            }
            Some(b'E') if command.is(b"EXEC") => {
                // Alone it ends nothing: Redis before 6.2 sends no MULTI for a transaction of reads,
                // but EXEC when one of them, PFCOUNT, has written. Measured on 6.0.16.
                if let Some(transaction) = self.transaction.take() {
                    self.on_exec(transaction);
                }
                return Ok(());
            }
            _ => {}
        }
        if let Some(transaction) = &self.transaction {
            if transaction.mark.is_some() {
                self.on_echoed(command);
                return Ok(());
            }
            if transaction.commands.len() > MAX_FRAME {
                return Err(DecodeError::TooLarge);
            }
        }
        if !self.evictions.is_empty() && self.is_eviction(command) {
            self.on_eviction(command.arg(1));
            return Ok(());
        }
        if !self.on_reserved(command, now_ms) {
            self.on_write(command, now_ms);
        }
        Ok(())
    }

    fn is_eviction(&mut self, command: &Command<'_>) -> bool {
        let offset = self.offset;
        while self.evictions.pop_front_if(|end| *end < offset).is_some() {}
        let is_here = self.evictions.pop_front_if(|end| *end == offset).is_some();
        is_here && (command.is(b"DEL") || command.is(b"UNLINK"))
    }

    /// The server has evicted a key, which may be one of ours.
    fn on_eviction(&mut self, name: &[u8]) {
        if is_reserved(name) {
            if self.db == 0 {
                self.events.push_back(Event::MarksRemoved { strays: None });
            }
        } else if self.filter.has(self.db, name) {
            let key = (self.db, Bytes::copy_from_slice(name));
            self.events.push_back(Event::Evicted(key));
        }
    }

    /// A command behind a mark.
    fn on_echoed(&mut self, command: &Command<'_>) {
        if command.arg(1) == GONE_KEY.as_bytes() && command.is(b"SET") {
            return self.on_gone(command.arg(2).to_vec().into());
        }
        let (db, Some(transaction)) = (self.db, &mut self.transaction) else {
            return;
        };
        if command.is(b"DEL") || command.is(b"UNLINK") {
            let keys = command.args(1).filter(|key| !is_reserved(key));
            let keys = keys.map(|key| (db, Bytes::copy_from_slice(key)));
            transaction.deleted.extend(keys);
        }
    }

    /// Keys of which our applier says that clients had deleted them here, while nobody read: from here on
    /// that is a write of theirs.
    fn on_gone(&mut self, mut names: Bytes) {
        let mut raw = Vec::new();
        while let Ok(name) = take_bytes(&mut names) {
            raw.clear();
            put_command(&mut raw, &[b"DEL", &name]);
            let made = scanner::for_each(&raw, |command| {
                self.effects.clear();
                self.effects
                    .add(&self.catalog, &command, self.db, |_, name| {
                        !is_reserved(name)
                    });
                if !is_reserved(&name) {
                    self.push(|out| canonical(&command, 0, out));
                }
            });
            debug_assert!(
                made.is_ok(),
                "a command that we have just written can be read"
            );
        }
    }

    fn on_select(&mut self, command: &Command<'_>) {
        let db = std::str::from_utf8(command.arg(1))
            .ok()
            .and_then(|t| t.parse().ok());
        self.db = db.unwrap_or(self.db);
        if let Some(transaction) = &mut self.transaction {
            if transaction.count == 0 {
                transaction.db = self.db;
            } else {
                transaction.commands.extend_from_slice(command.raw());
                transaction.count = transaction.count.saturating_add(1);
            }
        }
    }

    fn on_exec(&mut self, transaction: Transaction) {
        let Transaction {
            db,
            count,
            commands,
            last,
            mark,
            effects,
            deleted,
        } = transaction;
        // Trailing SELECTs alone are no write.
        if last > Offset(0) {
            let offset = if mark.is_some() { last } else { self.offset };
            self.events.push_back(Event::Write(Box::new(Write {
                offset,
                db,
                count,
                commands,
                effects,
            })));
        }
        if let Some((origin, mark)) = mark {
            self.events.push_back(Event::Echo {
                origin,
                mark,
                deleted,
                offset: self.offset,
            });
        }
    }

    /// Deals with a command on our own keys; false when it is none.
    fn on_reserved(&mut self, command: &Command<'_>, now_ms: u64) -> bool {
        if is_reserved(command.arg(1)) && command.is(b"SET") && self.on_bookkeeping(command) {
            return true;
        }
        let mut reserved = false;
        self.effects.clear();
        self.effects
            .add(&self.catalog, command, self.db, |_, name| {
                let is_ours = is_reserved(name);
                reserved |= is_ours;
                !is_ours
            });
        if !reserved {
            return false;
        }
        let deletes = command.is(b"DEL") || command.is(b"UNLINK");
        if !self.is_own_bookkeeping(command) {
            self.events
                .push_back(Event::Trespass(command.arg(0).to_vec()));
            self.events.push_back(Event::MarksRemoved { strays: None });
        }
        if !self.effects.touches.is_empty()
            && (deletes || command.is(b"MSET") || command.is(b"MSETNX"))
        {
            self.on_write_without_reserved(command, now_ms);
        }
        true
    }

    /// Whether this is a write of ours that is neither mark, self mark nor fence: the set of owed
    /// states, or the removal of strays.
    fn is_own_bookkeeping(&self, command: &Command<'_>) -> bool {
        let owed = command
            .arg(1)
            .starts_with(crate::model::OWED_PREFIX.as_bytes());
        (owed && (command.is(b"SADD") || command.is(b"SREM")))
            || (self.db != 0 && (command.is(b"DEL") || command.is(b"UNLINK")))
    }

    /// `SET` of a mark, a self mark or a fence; false when the value is none.
    fn on_bookkeeping(&mut self, command: &Command<'_>) -> bool {
        let (key, value) = (command.arg(1), command.arg(2));
        if let Some(origin) = key.strip_prefix(MARK_PREFIX.as_bytes()) {
            let origin = std::str::from_utf8(origin)
                .ok()
                .and_then(|o| SiteId::try_new(o).ok());
            let (Some(origin), Ok(mark)) = (origin, Mark::parse(value)) else {
                return false;
            };
            let mark = Box::new(mark);
            match &mut self.transaction {
                Some(transaction) => transaction.mark = Some((origin, mark)),
                None => self.events.push_back(Event::Echo {
                    origin,
                    mark,
                    deleted: Vec::new(),
                    offset: self.offset,
                }),
            }
            return true;
        }
        let offset = self.offset;
        if let Some(name) = key.strip_prefix(FENCE_PREFIX.as_bytes()) {
            let name = String::from_utf8_lossy(name).into_owned();
            let Some((instance, number)) = fence(value) else {
                return false;
            };
            self.events.push_back(Event::Fence {
                name,
                instance,
                number,
                offset,
            });
            return true;
        }
        if key == SELF_KEY.as_bytes() {
            let Ok(mark) = SelfMark::parse(value) else {
                return false;
            };
            self.events.push_back(Event::SelfMark { mark, offset });
            return true;
        }
        false
    }

    fn on_write(&mut self, command: &Command<'_>, now_ms: u64) {
        if let Some(strays) = removes_marks(command, self.db) {
            self.events.push_back(Event::MarksRemoved { strays });
        }
        // Of what is not known, the keys are not known either.
        if self.effects.wholes == [Whole::Unknown] && !self.catalog.knows(command.arg(0)) {
            self.events
                .push_back(Event::Unknown(command.arg(0).to_vec()));
        }
        match self.filter.travel(&self.catalog, command, self.db) {
            Travel::Whole => self.push(|out| canonical(command, now_ms, out)),
            Travel::Projected(commands) => {
                self.touch_only(&commands);
                self.push(|out| {
                    let mut count = 0;
                    let made = scanner::for_each(&commands.bytes, |command| {
                        count = u32::saturating_add(count, canonical(&command, now_ms, out));
                    });
                    debug_assert!(made.is_ok(), "commands of our own can be read");
                    count
                });
            }
            Travel::Not => {}
            Travel::Crosses => self
                .events
                .push_back(Event::NotSelected(command.arg(0).to_vec())),
        }
    }

    /// Not what the command does is done, but what these do, which travel in its place.
    fn touch_only(&mut self, commands: &Commands) {
        let (effects, catalog) = (&mut self.effects, &self.catalog);
        effects.clear();
        let made = for_each_in(&commands.bytes, self.db, |command, db| {
            effects.add(catalog, command, db, |_, _| true);
        });
        debug_assert!(made.is_ok(), "commands of our own can be read");
    }

    /// A DEL or MSET of reserved and other keys: only the others travel.
    fn on_write_without_reserved(&mut self, command: &Command<'_>, now_ms: u64) {
        let step = if command.is(b"DEL") || command.is(b"UNLINK") {
            1
        } else {
            2
        };
        let rest: Vec<&[u8]> = command.args(1).collect();
        let mut args = vec![command.arg(0)];
        args.extend(
            rest.chunks(step)
                .filter(|c| c.first().is_some_and(|k| !is_reserved(k)))
                .flatten(),
        );
        let mut raw = Vec::new();
        put_command(&mut raw, &args);
        let projected = scanner::for_each(&raw, |command| self.on_write(&command, now_ms));
        debug_assert!(
            projected.is_ok(),
            "a command that we have just written can be read"
        );
    }

    /// Appends to the transaction, or makes an event of its own.
    ///
    /// The canonical form of a command does the same to the same keys as the command itself.
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>) -> u32) {
        let (offset, db) = (self.offset, self.db);
        if let Some(transaction) = &mut self.transaction {
            let count = write(&mut transaction.commands);
            if count == 0 {
                return;
            }
            transaction.count = transaction.count.saturating_add(count);
            transaction.last = offset;
            transaction.effects.append(&mut self.effects);
        } else {
            let mut room = self.room.take().unwrap_or_default();
            let count = write(&mut room.commands);
            if count == 0 {
                self.room = Some(room);
                return;
            }
            // Those of the room were cleared.
            std::mem::swap(&mut room.effects, &mut self.effects);
            (room.offset, room.db, room.count) = (offset, db, count);
            self.events.push_back(Event::Write(room));
        }
    }
}

/// The value of a fence: `<instance> <number>`.
pub(in crate::intake) fn fence(value: &[u8]) -> Option<(InstanceId, u64)> {
    let (instance, number) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let instance = u64::from_str_radix(instance, 16).ok()?;
    Some((InstanceId::new(instance), number.parse().ok()?))
}

//! From commands to what they mean: whose write is it, where does it end, what travels.
//!
//! A mark may stand anywhere in a transaction, or alone: Redis from 7.0 drops MULTI and EXEC when
//! only the mark had an effect; 7.2 and Valkey put SELECT after MULTI; a key that expires under a
//! queued read, or a module, writes before it. So MULTI…EXEC is buffered and the mark looked for
//! everywhere in it. What stands before the mark, SELECT aside, is this site's own; what follows
//! it is the echo. Being in a transaction proves nothing; the mark does.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use super::filter::{Filter, Travel};
use crate::command::scanner::{self, Scanner};
use crate::command::{Catalog, Command, ScanError, canonical, removes_marks};
use crate::model::{
    FENCE_PREFIX, InstanceId, MARK_PREFIX, MAX_FRAME, Mark, Offset, SELF_KEY, SelfMark, SiteId,
    is_reserved,
};

/// A client's write: one command, or one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where it ends in the stream.
    pub offset: Offset,
    /// The database selected when it begins.
    pub db: u32,
    /// How many commands it has, SELECTs included.
    pub count: u32,
    /// The commands in canonical form.
    pub commands: Vec<u8>,
}

/// What a piece of the stream means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client wrote.
    Write(Write),
    /// A peer's writes, come back.
    Echo {
        /// Whose they are.
        origin: SiteId,
        /// Their mark.
        mark: Box<Mark>,
        /// Where they end in the stream.
        offset: Offset,
    },
    /// A self mark, come back.
    SelfMark {
        /// The mark.
        mark: SelfMark,
        /// Where it ends.
        offset: Offset,
    },
    /// A fence: somebody of ours waits to see it here.
    Fence {
        /// Whose fence: what follows the prefix in its key.
        name: String,
        /// The life of the sidecar that set it.
        instance: InstanceId,
        /// Its number.
        number: u64,
        /// Where it ends.
        offset: Offset,
    },
    /// A client removed marks, or may have: they must be written again.
    MarksRemoved {
        /// The database into which SWAPDB has carried them.
        strays: Option<u32>,
    },
    /// A client wrote to a reserved key; the write does not travel.
    Trespass(Vec<u8>),
    /// A command cannot travel under the configured selection.
    NotSelected(Vec<u8>),
    /// A command of which nothing is known: it travels, as a write of every key.
    Unknown(Vec<u8>),
    /// The server wants to know at once how far we are.
    AckWanted,
}

/// Why the stream cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no commands.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A transaction that is larger than a frame may be.
    #[error("a transaction of more than {MAX_FRAME} bytes")]
    TooLarge,
    /// MULTI in MULTI.
    #[error("{0}")]
    Framing(&'static str),
}

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
}

/// Follows a replication stream.
#[derive(Debug)]
pub struct Decoder {
    scanner: Scanner,
    catalog: Catalog,
    filter: Filter,
    offset: Offset,
    db: u32,
    boundary: (Offset, u32),
    transaction: Option<Transaction>,
    events: VecDeque<Event>,
}

impl Decoder {
    /// A decoder of what comes after `offset`, with database `db` selected there.
    #[must_use]
    pub fn new(offset: Offset, db: u32, catalog: Catalog, filter: Filter) -> Self {
        Self {
            scanner: Scanner::default(),
            catalog,
            filter,
            offset,
            db,
            boundary: (offset, db),
            transaction: None,
            events: VecDeque::new(),
        }
    }

    /// The end of the last complete unit, and the database selected there: the only kind of place
    /// from which the stream may be resumed.
    #[must_use]
    pub const fn boundary(&self) -> (Offset, u32) {
        self.boundary
    }

    /// Where the next command begins; for error messages.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// Whether events of what has been read are still to be taken.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next event in the buffer; none when more bytes are needed.
    ///
    /// # Errors
    /// The bytes are not a replication stream.
    pub fn next(
        &mut self,
        buffer: &mut BytesMut,
        now_ms: u64,
    ) -> Result<Option<Event>, DecodeError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.scanner_is_idle(buffer) {
                // A chained replica gets bare newlines while its upstream is away; they do not
                // count in the offset.
                while buffer.first() == Some(&b'\n') {
                    buffer.advance(1);
                }
            }
            let Some(length) = self.scanner.scan(buffer)? else {
                return if buffer.len() > MAX_FRAME {
                    Err(DecodeError::TooLarge)
                } else {
                    Ok(None)
                };
            };
            self.offset.0 = self.offset.0.saturating_add(length as u64);
            // The scanner is moved out while the command borrows it.
            let scanner = std::mem::take(&mut self.scanner);
            let result = self.on_command(&scanner.command(buffer), now_ms);
            self.scanner = scanner;
            self.scanner.advance(buffer);
            result?;
            if self.transaction.is_none() {
                self.boundary = (self.offset, self.db);
            }
        }
    }

    fn scanner_is_idle(&self, buffer: &BytesMut) -> bool {
        self.scanner.is_at_start() && buffer.first() == Some(&b'\n')
    }

    fn on_command(&mut self, command: &Command<'_>, now_ms: u64) -> Result<(), DecodeError> {
        match command.arg(0).first().map(u8::to_ascii_uppercase) {
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
                return Ok(());
            }
            if transaction.commands.len() > MAX_FRAME {
                return Err(DecodeError::TooLarge);
            }
        }
        if !self.on_reserved(command, now_ms) {
            self.on_write(command, now_ms);
        }
        Ok(())
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
        } = transaction;
        // Trailing SELECTs alone are no write.
        if last > Offset(0) {
            let offset = if mark.is_some() { last } else { self.offset };
            self.events.push_back(Event::Write(Write {
                offset,
                db,
                count,
                commands,
            }));
        }
        if let Some((origin, mark)) = mark {
            self.events.push_back(Event::Echo {
                origin,
                mark,
                offset: self.offset,
            });
        }
    }

    /// Deals with a command on our own keys; false when it is none.
    fn on_reserved(&mut self, command: &Command<'_>, now_ms: u64) -> bool {
        if is_reserved(command.arg(1)) && command.is(b"SET") && self.on_bookkeeping(command) {
            return true;
        }
        let (mut reserved, mut other) = (0_usize, 0_usize);
        self.catalog.for_each_key(command, self.db, |_, key, _| {
            let count = if is_reserved(key) {
                &mut reserved
            } else {
                &mut other
            };
            *count = count.saturating_add(1);
        });
        if reserved == 0 {
            return false;
        }
        let deletes = command.is(b"DEL") || command.is(b"UNLINK");
        if !self.is_own_bookkeeping(command) {
            self.events
                .push_back(Event::Trespass(command.arg(0).to_vec()));
            self.events.push_back(Event::MarksRemoved { strays: None });
        }
        if other > 0 && (deletes || command.is(b"MSET") || command.is(b"MSETNX")) {
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
        if !self.catalog.knows(command.arg(0)) {
            self.events
                .push_back(Event::Unknown(command.arg(0).to_vec()));
        }
        match self.filter.travel(&self.catalog, command, self.db) {
            Travel::Whole => self.push(|out| canonical(command, now_ms, out)),
            Travel::Projected(commands) => self.push(|out| {
                let mut count = 0;
                let made = scanner::for_each(&commands.bytes, |command| {
                    count = u32::saturating_add(count, canonical(&command, now_ms, out));
                });
                debug_assert!(made.is_ok(), "commands of our own can be read");
                count
            }),
            Travel::Not => {}
            Travel::Crosses => self
                .events
                .push_back(Event::NotSelected(command.arg(0).to_vec())),
        }
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
        crate::redis::put_command(&mut raw, &args);
        let projected = scanner::for_each(&raw, |command| self.on_write(&command, now_ms));
        debug_assert!(
            projected.is_ok(),
            "a command that we have just written can be read"
        );
    }

    /// Appends to the transaction, or makes an event of its own.
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>) -> u32) {
        let (offset, db) = (self.offset, self.db);
        if let Some(transaction) = &mut self.transaction {
            let count = write(&mut transaction.commands);
            if count == 0 {
                return;
            }
            transaction.count = transaction.count.saturating_add(count);
            transaction.last = offset;
        } else {
            let mut commands = Vec::new();
            let count = write(&mut commands);
            if count == 0 {
                return;
            }
            self.events.push_back(Event::Write(Write {
                offset,
                db,
                count,
                commands,
            }));
        }
    }
}

/// The value of a fence: `<instance> <number>`.
fn fence(value: &[u8]) -> Option<(InstanceId, u64)> {
    let (instance, number) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let instance = u64::from_str_radix(instance, 16).ok()?;
    Some((InstanceId::new(instance), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cursor, Epoch, Hlc, Owes, Seen};
    use crate::redis::put_command;

    /// The events of a stream that arrives byte by byte, and the decoder behind it.
    fn events(lines: &[&str]) -> (Vec<Event>, Decoder) {
        let mut stream = Vec::new();
        for line in lines {
            // The value of a mark has spaces: it stands behind a bar.
            let (words, value) = line.split_once('|').unwrap_or((line, ""));
            let words = words.split_whitespace().map(str::as_bytes);
            let value = Some(value.as_bytes()).filter(|v| !v.is_empty());
            put_command(&mut stream, &words.chain(value).collect::<Vec<_>>());
        }
        let mut decoder = Decoder::new(Offset(0), 0, Catalog::default(), Filter::default());
        let (mut buffer, mut events) = (BytesMut::new(), Vec::new());
        for byte in stream {
            buffer.extend_from_slice(&[byte]);
            while let Some(event) = decoder.next(&mut buffer, 0).unwrap() {
                events.push(event);
            }
        }
        (events, decoder)
    }

    /// What travels, a transaction a line.
    fn writes(lines: &[&str]) -> Vec<String> {
        let (events, _) = events(lines);
        let writes = events.into_iter().filter_map(|event| match event {
            Event::Write(write) => {
                let mut words = vec![write.db.to_string()];
                crate::command::for_each_in(&write.commands, write.db, |command, _| {
                    words.extend(command.args(0).map(|a| String::from_utf8_lossy(a).into()));
                })
                .unwrap();
                Some(words.join(" "))
            }
            _ => None,
        });
        writes.collect()
    }

    fn mark() -> String {
        let mark = Mark {
            instance: InstanceId::new(7),
            batch: 1,
            at: Cursor {
                epoch: Epoch(1),
                offset: Offset(9),
            },
            hlc: Hlc(0),
            low: Cursor::ZERO,
            base: Epoch(1),
            home: Epoch(1),
            owes: Owes::Nothing,
            copy: None,
            part: None,
            seen: Seen::default(),
        };
        format!("SET tandem:from:b |{mark}")
    }

    #[test]
    fn a_transaction_is_one_write_in_the_database_where_it_begins() {
        let lines = [
            "SELECT 3", "MULTI", "SET a 1", "SELECT 0", "SET b 2", "EXEC",
        ];
        assert_eq!(writes(&lines), ["3 SET a 1 SELECT 0 SET b 2"]);
        assert_eq!(writes(&["MULTI", "EXEC", "SET a 1"]), ["0 SET a 1"]);
    }

    #[test]
    fn an_exec_of_its_own_ends_nothing() {
        let lines = ["PFCOUNT p", "EXEC", "SET a 1", "MULTI", "SET b 2", "EXEC"];
        assert_eq!(writes(&lines), ["0 PFCOUNT p", "0 SET a 1", "0 SET b 2"]);
        let (_, decoder) = events(&lines);
        assert_eq!(decoder.boundary().0, decoder.offset());
    }

    #[test]
    fn what_stands_behind_a_mark_is_an_echo_and_what_stands_before_it_is_not() {
        let mark = mark();
        let lines = [
            "MULTI",
            "SET own 1",
            &mark,
            "SET theirs 2",
            "EXEC",
            "SET c 3",
        ];
        assert_eq!(writes(&lines), ["0 SET own 1", "0 SET c 3"]);
        // Redis from 7.0 drops MULTI and EXEC when nothing else had an effect.
        assert_eq!(writes(&[&mark, "SET c 3"]), ["0 SET c 3"]);
        let (events, _) = events(&[&mark]);
        assert!(matches!(&events[..], [Event::Echo { origin, .. }] if origin.as_str() == "b"));
    }

    #[test]
    fn a_place_within_a_transaction_is_not_one_to_resume_from() {
        let (_, decoder) = events(&["SET a 1", "MULTI", "SET b 2"]);
        let (_, before) = events(&["SET a 1"]);
        assert_eq!(decoder.boundary(), before.boundary());
        assert!(decoder.offset() > decoder.boundary().0);
    }
}

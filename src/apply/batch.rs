//! Records gathered into one marked transaction: pure.
//!
//! `MULTI; SET tandem:from:<origin> <mark>; <commands of whole records>; EXEC`. One MULTI per 16 to
//! 256 commands costs the server no more CPU than the plain commands would.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::debts::{Debts, Key, member};
use super::sealed::Sealed;
use crate::command::{
    Access, Catalog, Command, Dialect, Put, ScanError, Touched, for_each_in, removes_marks,
    scanner::{self, Scanner},
};
use crate::config::{Flush, Publish};
use crate::model::{Hlc, Offset, Record};
use crate::rdb::decode::has_disputed_entry;
use crate::redis::put_command;

/// A batch is closed at this many commands: at 1 to 2 µs each it keeps the target's other clients
/// waiting for less than half a millisecond, and only when records come faster than they are applied.
/// With half as many, each record would cost this side a sixth more: sending, waking up twice.
pub(super) const MAX_COMMANDS: u32 = 256;
/// The longest word of an unknown command that is taken for a key; longer ones are values.
const MAX_GUESSED: usize = 4096;
/// Room for the end of a transaction.
const EXEC_ROOM: usize = 64;
/// A batch is closed at this size.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// How records are told to the local server.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// What it knows.
    pub dialect: Dialect,
    /// What is known of commands.
    pub catalog: Catalog,
    /// What is done with FLUSHALL and FLUSHDB.
    pub flush: Flush,
    /// What is done with PUBLISH.
    pub publish: Publish,
    /// What is owed already.
    pub debts: Debts,
    /// Whether some values must not be RESTOREd as they are.
    pub disputes: bool,
}

/// Whole records, ready to be sent.
#[derive(Debug)]
pub(super) struct Batch {
    target: Target,
    /// Keys whose state is needed, because the target has no words for what was done to them.
    owed: Vec<Key>,
    /// Commands left out because the target has nothing that could hold what they wrote.
    unheld: u32,
    scanner: Scanner,
    body: Vec<u8>,
    commands: u32,
    /// The database selected at the end of the body; it begins in database 0.
    db: u32,
    records: u32,
    last: Offset,
    hlc: Hlc,
    /// A command in it removes marks: they are written again behind it. With the database into
    /// which it may have carried them.
    removes_marks: Option<Option<u32>>,
}

impl Batch {
    /// An empty batch for a target.
    #[must_use]
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            owed: Vec::new(),
            unheld: 0,
            scanner: Scanner::default(),
            body: Vec::new(),
            commands: 0,
            db: 0,
            records: 0,
            last: Offset(0),
            hlc: Hlc(0),
            removes_marks: None,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Its commands cannot be read; the batch is then unusable.
    pub(super) fn push(&mut self, record: &Record) -> Result<(), ScanError> {
        if self.db != record.db {
            self.select(record.db);
        }
        let Self {
            target,
            owed,
            unheld,
            scanner,
            body,
            commands,
            removes_marks: removing,
            ..
        } = self;
        let db = scanner.for_each_in(&record.commands, record.db, |command, db| {
            if target.ignores(command) {
                return;
            }
            let put = if target.is_disputed(command) {
                Put::State
            } else {
                target.dialect.put(command, body)
            };
            match put {
                Put::Commands(count) => *commands += count,
                Put::Nothing => *unheld += 1,
                Put::State => owed.extend(target.written(command, db)),
            }
            target.spread(command, db, owed);
            if let Some(strays) = removes_marks(command, db) {
                *removing = Some(strays);
            }
        })?;
        self.db = db;
        self.records += 1;
        self.last = record.offset;
        self.hlc = self.hlc.max(record.hlc);
        Ok(())
    }

    fn select(&mut self, db: u32) {
        put_command(&mut self.body, &[b"SELECT", db.to_string().as_bytes()]);
        self.commands += 1;
        self.db = db;
    }

    /// Whether no further record should be added.
    #[must_use]
    pub(super) const fn is_full(&self) -> bool {
        self.commands >= MAX_COMMANDS
            || self.body.len() >= MAX_BYTES
            || self.removes_marks.is_some()
    }

    /// Whether a record may not be applied before a person has decided.
    #[must_use]
    pub(super) fn stops_at(&self, record: &Record) -> bool {
        self.target.stops_at(record)
    }

    /// Keys whose state is needed.
    #[must_use]
    pub(super) fn owed(&self) -> &[Key] {
        &self.owed
    }

    /// How many commands were left out because the target has nothing to hold what they wrote.
    #[must_use]
    pub(super) const fn unheld(&self) -> u32 {
        self.unheld
    }

    /// Whether it has no record.
    #[must_use]
    pub(super) const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many records it has.
    #[must_use]
    pub(super) const fn records(&self) -> u32 {
        self.records
    }

    /// Where its last record ends in the origin's history.
    #[must_use]
    pub(super) const fn last(&self) -> Offset {
        self.last
    }

    /// The highest stamp of its records.
    #[must_use]
    pub(super) const fn hlc(&self) -> Hlc {
        self.hlc
    }

    /// The transaction, with the mark first, and how many commands are between MULTI and EXEC.
    #[must_use]
    pub(super) fn seal(
        &self,
        connection_db: u32,
        (key, owed): (&str, &str),
        mark: &str,
        reserved: &[String],
    ) -> Sealed {
        let mut sealed = Sealed::begin(connection_db, key, mark);
        sealed.bytes.reserve(self.body.len() + EXEC_ROOM);
        sealed.append(&self.body, self.commands, self.db);
        if !self.owed.is_empty() {
            let members: Vec<Vec<u8>> = self.owed.iter().map(member).collect();
            let args = [&b"SADD"[..], owed.as_bytes()].into_iter();
            sealed.select(0);
            sealed.command(
                &args
                    .chain(members.iter().map(|m| &m[..]))
                    .collect::<Vec<_>>(),
            );
        }
        if let Some(strays) = self.removes_marks {
            if let Some(db) = strays {
                sealed.select(db);
                let keys = reserved.iter().map(String::as_bytes);
                let args: Vec<&[u8]> = [&b"DEL"[..]].into_iter().chain(keys).collect();
                sealed.command(&args);
            }
            sealed.select(0);
            sealed.command(&[b"SET", key.as_bytes(), mark.as_bytes()]);
        }
        sealed.end();
        sealed
    }

    /// What the command of this number touches; commands are counted from the begin of the body.
    #[must_use]
    pub(super) fn touched(&self, number: usize) -> Option<(Touched, Bytes)> {
        let (mut at, mut found) = (0, None);
        let scanned = for_each_in(&self.body, 0, |command, db| {
            if at == number {
                let name = Bytes::copy_from_slice(command.arg(0));
                found = Some((self.target.touched(command, db), name));
            }
            at += 1;
        });
        scanned.ok().and(found)
    }

    /// The keys to be owed when these commands of the body, by number, have failed: what they write,
    /// and what later ones make of that.
    #[must_use]
    pub(super) fn owed_after(&self, failed: &BTreeSet<usize>) -> Vec<Key> {
        let (mut at, mut owed) = (0, Vec::new());
        let scanned = for_each_in(&self.body, 0, |command, db| {
            if failed.contains(&at) {
                owed.extend(self.target.written(command, db));
            }
            self.target.spread(command, db, &mut owed);
            at += 1;
        });
        debug_assert!(scanned.is_ok(), "the body was read when it was built");
        owed
    }

    /// The same batch without the command of this number: the state of what it writes is owed.
    #[must_use]
    pub(super) fn without(mut self, number: usize) -> Self {
        let owed = self.owed_after(&[number].into());
        self.owed.extend(owed);
        let (mut at, mut body) = (0, Vec::with_capacity(self.body.len()));
        let scanned = scanner::for_each(&self.body, |command| {
            if at != number {
                body.extend_from_slice(command.raw());
            }
            at += 1;
        });
        debug_assert!(scanned.is_ok(), "the body was read when it was built");
        Self {
            body,
            commands: self.commands.saturating_sub(1),
            ..self
        }
    }

    /// How many commands the body has.
    #[must_use]
    pub(super) const fn commands(&self) -> u32 {
        self.commands
    }
}

impl Target {
    /// Whether a command is left out by configuration.
    fn ignores(&self, command: &Command<'_>) -> bool {
        match command.arg(0).first().map(u8::to_ascii_uppercase) {
            Some(b'F') => self.flush == Flush::Ignore && is_flush(command),
            Some(b'P') => self.publish == Publish::Ignore && command.is(b"PUBLISH"),
            Some(b'S') => self.publish == Publish::Ignore && command.is(b"SPUBLISH"),
            _ => false,
        }
    }

    /// Whether a command restores a value that this server would misread.
    fn is_disputed(&self, command: &Command<'_>) -> bool {
        self.disputes
            && command.is(b"RESTORE")
            && has_disputed_entry(command.arg(3)).unwrap_or(true)
    }

    /// Whether a record may not be applied before a person has decided.
    fn stops_at(&self, record: &Record) -> bool {
        let mut stops = false;
        if self.flush == Flush::Stop {
            let scanned = scanner::for_each(&record.commands, |c| stops |= is_flush(&c));
            // What cannot be read is refused when it is pushed.
            stops &= scanned.is_ok();
        }
        stops
    }

    /// Adds the keys that a command makes of keys that are owed: what it reads here is not what it
    /// read there.
    fn spread(&self, command: &Command<'_>, db: u32, owed: &mut Vec<Key>) {
        if owed.is_empty() && self.debts.is_empty() {
            return;
        }
        let Touched::Keys(keys) = self.catalog.touched(command, db) else {
            return;
        };
        let keys: Vec<(Key, Access)> = keys
            .into_iter()
            .map(|k| ((k.db, k.name.into()), k.access))
            .collect();
        let is_owed = |key: &Key| owed.contains(key) || self.debts.wants(key.0, &key.1);
        if keys.len() < 2 || !keys.iter().any(|(key, _)| is_owed(key)) {
            return;
        }
        let written = keys.into_iter().filter(|(_, a)| *a == Access::Write);
        let new: Vec<Key> = written
            .map(|(key, _)| key)
            .filter(|key| !owed.contains(key))
            .collect();
        owed.extend(new);
    }

    /// What a command touches; of one that nobody here knows, perhaps.
    fn touched(&self, command: &Command<'_>, db: u32) -> Touched {
        match self.catalog.touched(command, db) {
            Touched::Everything if !self.catalog.knows(command.arg(0)) => words(command, db),
            touched => touched,
        }
    }

    /// The keys that a command writes.
    fn written(&self, command: &Command<'_>, db: u32) -> Vec<Key> {
        let Touched::Keys(keys) = self.touched(command, db) else {
            return Vec::new();
        };
        let written = keys.into_iter().filter(|k| k.access == Access::Write);
        written.map(|k| (k.db, k.name.into())).collect()
    }
}

fn is_flush(command: &Command<'_>) -> bool {
    command.is(b"FLUSHALL") || command.is(b"FLUSHDB")
}

/// What a command may touch that nobody here knows, such as one of a module that only the peer has:
/// any of its words may be a key. To ask for the state of what is none does no harm.
fn words(command: &Command<'_>, db: u32) -> Touched {
    let words = command.args(1).filter(|word| word.len() <= MAX_GUESSED);
    let key = |word: &[u8]| crate::command::Key {
        db,
        name: word.to_vec(),
        access: Access::Write,
    };
    Touched::Keys(words.map(key).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::SiteId;
    use crate::redis::Info;

    fn target(version: &str) -> Target {
        Target {
            dialect: Dialect::of(&Info::parse(&format!("redis_version:{version}\r\n"))),
            catalog: Catalog::default(),
            flush: Flush::Forward,
            publish: Publish::Forward,
            debts: Debts::new(
                &SiteId::try_new("a").unwrap(),
                &SiteId::try_new("b").unwrap(),
            ),
            disputes: false,
        }
    }

    fn record(offset: u64, db: u32, lines: &[&str]) -> Record {
        let mut commands = Vec::new();
        for line in lines {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            put_command(&mut commands, &args);
        }
        let count = u32::try_from(lines.len()).unwrap();
        let offset = Offset(offset);
        Record {
            offset,
            hlc: Hlc(offset.0),
            db,
            seen: Arc::default(),
            count,
            commands: commands.into(),
        }
    }

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        scanner::for_each(bytes, |c| {
            lines.push(
                c.args(0)
                    .map(String::from_utf8_lossy)
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        })
        .unwrap();
        lines
    }

    #[test]
    fn any_word_of_a_command_that_nobody_knows_may_be_a_key() {
        let mut batch = Batch::new(target("8.6.3"));
        let long = format!("module.write a {}", "x".repeat(MAX_GUESSED + 1));
        batch.push(&record(10, 2, &[&long, "FLUSHALL"])).unwrap();
        let key = crate::command::Key {
            db: 2,
            name: b"a".to_vec(),
            access: Access::Write,
        };
        // The first command is the SELECT.
        assert_eq!(batch.touched(1).unwrap().0, Touched::Keys(vec![key]));
        assert_eq!(batch.touched(2).unwrap().0, Touched::Everything);
    }

    #[test]
    fn the_mark_comes_first_and_records_stay_whole() {
        let mut batch = Batch::new(target("8.6.3"));
        batch.push(&record(10, 0, &["SET a 1"])).unwrap();
        batch
            .push(&record(20, 3, &["INCR x", "SELECT 5", "INCR y"]))
            .unwrap();
        batch.push(&record(30, 5, &["INCR z"])).unwrap();
        let sealed = batch.seal(2, ("m", "owed"), "v", &[]);
        let expected = [
            "MULTI", "SELECT 0", "SET m v", "SET a 1", "SELECT 3", "INCR x", "SELECT 5", "INCR y",
            "INCR z", "EXEC",
        ];
        assert_eq!(lines(&sealed.bytes), expected);
        assert_eq!((sealed.count, sealed.head, sealed.db), (8, 2, 5));
        assert_eq!(
            (batch.last(), batch.hlc(), batch.records()),
            (Offset(30), Hlc(30), 3)
        );
        let (touched, name) = batch.touched(4).unwrap();
        let key = crate::command::Key {
            db: 5,
            name: b"y".to_vec(),
            access: Access::Write,
        };
        assert_eq!(touched, Touched::Keys(vec![key]));
        assert_eq!(&name[..], b"INCR");
        let commands = batch.commands();
        let less = batch.without(4);
        let sealed = less.seal(0, ("m", "owed"), "v", &[]);
        assert!(!lines(&sealed.bytes).contains(&"INCR y".to_owned()));
        assert_eq!(less.commands(), commands - 1);
    }

    #[test]
    fn marks_are_written_again_behind_what_removes_them() {
        let mut batch = Batch::new(target("8.6.3"));
        batch.push(&record(10, 4, &["FLUSHALL"])).unwrap();
        assert!(batch.is_full());
        let expected = [
            "MULTI", "SET m v", "SELECT 4", "FLUSHALL", "SELECT 0", "SET m v", "EXEC",
        ];
        assert_eq!(
            lines(&batch.seal(0, ("m", "owed"), "v", &[]).bytes),
            expected
        );

        let mut batch = Batch::new(target("8.6.3"));
        batch.push(&record(10, 0, &["SWAPDB 0 7"])).unwrap();
        let sealed = batch.seal(0, ("m", "owed"), "v", &["m".to_owned(), "s".to_owned()]);
        let expected = [
            "MULTI",
            "SET m v",
            "SWAPDB 0 7",
            "SELECT 7",
            "DEL m s",
            "SELECT 0",
            "SET m v",
            "EXEC",
        ];
        assert_eq!(lines(&sealed.bytes), expected);
    }

    #[test]
    fn what_an_old_target_lacks_is_said_in_its_words() {
        let mut batch = Batch::new(target("5.0.6"));
        batch
            .push(&record(
                10,
                0,
                &[
                    "SET k v PXAT 99",
                    "COPY a b",
                    "FUNCTION DELETE f",
                    "SET k v",
                ],
            ))
            .unwrap();
        let expected = [
            "MULTI",
            "SET m v",
            "SET k v",
            "PEXPIREAT k 99",
            "SET k v",
            "SADD owed 0:b",
            "EXEC",
        ];
        let sealed = batch.seal(0, ("m", "owed"), "v", &[]);
        assert_eq!(lines(&sealed.bytes), expected);
        assert_eq!(sealed.count, 5);
        assert_eq!((batch.owed().len(), batch.unheld()), (1, 1));
    }

    #[test]
    fn what_is_made_of_an_owed_key_is_owed_too() {
        let target = target("6.0.16");
        target
            .debts
            .add((0, "old".into()), crate::model::Cursor::ZERO);
        let mut batch = Batch::new(target);
        let lines = [
            "COPY 1 2",
            "SUNIONSTORE 3 2",
            "RENAME 2 4",
            "SADD 3 x",
            "SUNIONSTORE 5 old",
            "SUNIONSTORE 6 1",
        ];
        batch.push(&record(10, 0, &lines)).unwrap();
        let owed: Vec<_> = batch.owed().iter().map(|k| k.1.clone()).collect();
        assert_eq!(owed, ["2", "3", "4", "5"]);
    }

    #[test]
    fn flushes_and_messages_are_dealt_with_as_configured() {
        let line = &["FLUSHDB", "PUBLISH c m", "SET k v"][..];
        let mut batch = Batch::new(Target {
            flush: Flush::Ignore,
            publish: Publish::Ignore,
            ..target("7.0.0")
        });
        batch.push(&record(10, 0, line)).unwrap();
        let sealed = batch.seal(0, ("m", "owed"), "v", &[]);
        assert_eq!(
            lines(&sealed.bytes),
            ["MULTI", "SET m v", "SET k v", "EXEC"]
        );
        let stopping = Target {
            flush: Flush::Stop,
            ..target("7.0.0")
        };
        assert!(stopping.stops_at(&record(10, 0, line)));
        assert!(!stopping.stops_at(&record(10, 0, &["SET FLUSHALL v"])));
        assert!(!target("7.0.0").stops_at(&record(10, 0, line)));
    }
}

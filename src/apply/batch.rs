//! Records gathered into one marked transaction: pure.
//!
//! `MULTI; SET tandem:from:<origin> <mark>; <commands of whole records>; EXEC`. One MULTI per 16 to
//! 128 commands costs the server no more CPU than the plain commands would.

use bytes::Bytes;

use crate::intake::commands::{self, Touched};
use crate::intake::scanner::{self, Command, ScanError};
use crate::model::{Hlc, Offset, Record};
use crate::redis::{Info, put_command};

/// A batch is closed at this many commands: at some 2 µs each it keeps the target's other clients
/// waiting for a quarter of a millisecond.
pub(super) const MAX_COMMANDS: u32 = 128;
/// A batch is closed at this size.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// What the target cannot do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Before 6.2: no `SET … PXAT`.
    pub without_pxat: bool,
    /// Before 7.0: no options of PEXPIREAT.
    pub without_expire_options: bool,
}

impl Target {
    /// What the server of this INFO cannot do.
    #[must_use]
    pub(super) const fn of(info: &Info) -> Self {
        Self {
            without_pxat: !info.version.at_least(6, 2),
            without_expire_options: !info.version.at_least(7, 0),
        }
    }
}

/// Whole records, ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Batch {
    target: Target,
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
            ..Self::default()
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
        let target = self.target;
        let Self {
            body,
            commands,
            removes_marks,
            ..
        } = self;
        let db = commands::for_each_in(&record.commands, record.db, |command, db| {
            if let Some(strays) = commands::removes_marks(command, db) {
                *removes_marks = Some(strays);
            }
            *commands += put_for(target, command, body);
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
        key: &str,
        mark: &str,
        reserved: &[String],
    ) -> Sealed {
        let mut sealed = Sealed::begin(connection_db, key, mark);
        sealed.append(&self.body, self.commands, self.db);
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
        let scanned = commands::for_each_in(&self.body, 0, |command, db| {
            if at == number {
                let name = Bytes::copy_from_slice(command.arg(0));
                found = Some((commands::touched(command, db), name));
            }
            at += 1;
        });
        scanned.ok().and(found)
    }

    /// The same batch without the command of this number.
    #[must_use]
    pub(super) fn without(&self, number: usize) -> Self {
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
            ..*self
        }
    }

    /// How many commands the body has.
    #[must_use]
    pub(super) const fn commands(&self) -> u32 {
        self.commands
    }
}

/// A transaction as it is sent.
#[derive(Debug)]
pub(super) struct Sealed {
    /// The bytes, MULTI to EXEC.
    pub bytes: Vec<u8>,
    /// How many commands are between MULTI and EXEC.
    pub count: usize,
    /// How many of them come before the body.
    pub head: usize,
    /// The database selected at the end.
    pub db: u32,
}

impl Sealed {
    /// MULTI and the mark.
    #[must_use]
    pub(super) fn begin(connection_db: u32, key: &str, mark: &str) -> Self {
        let mut sealed = Self {
            bytes: Vec::new(),
            count: 0,
            head: 0,
            db: connection_db,
        };
        put_command(&mut sealed.bytes, &[b"MULTI"]);
        sealed.select(0);
        sealed.command(&[b"SET", key.as_bytes(), mark.as_bytes()]);
        sealed.head = sealed.count;
        sealed
    }

    /// Selects a database, if another one is.
    pub(super) fn select(&mut self, db: u32) {
        if self.db != db {
            self.command(&[b"SELECT", db.to_string().as_bytes()]);
            self.db = db;
        }
    }

    /// Appends a command.
    pub(super) fn command(&mut self, args: &[&[u8]]) {
        put_command(&mut self.bytes, args);
        self.count += 1;
    }

    fn append(&mut self, commands: &[u8], count: u32, db: u32) {
        self.raw(commands, count as usize);
        self.db = db;
    }

    /// Appends commands that are in the protocol's form already.
    pub(super) fn raw(&mut self, commands: &[u8], count: usize) {
        self.bytes.extend_from_slice(commands);
        self.count += count;
    }

    /// EXEC.
    pub(super) fn end(&mut self) {
        put_command(&mut self.bytes, &[b"EXEC"]);
    }
}

/// Writes a command in a form that the target knows; how many commands that took.
fn put_for(target: Target, command: &Command<'_>, out: &mut Vec<u8>) -> u32 {
    if target.without_pxat && command.is(b"SET") && command.len() > 4 {
        let at = (3..command.len()).find(|&i| command.arg(i).eq_ignore_ascii_case(b"PXAT"));
        if let Some(at) = at {
            put_command(out, &[b"SET", command.arg(1), command.arg(2)]);
            put_command(out, &[b"PEXPIREAT", command.arg(1), command.arg(at + 1)]);
            return 2;
        }
    }
    if target.without_expire_options && command.is(b"PEXPIREAT") && command.len() > 3 {
        put_command(out, &[b"PEXPIREAT", command.arg(1), command.arg(2)]);
        return 1;
    }
    out.extend_from_slice(command.raw());
    1
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

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
    fn the_mark_comes_first_and_records_stay_whole() {
        let mut batch = Batch::new(Target::default());
        batch.push(&record(10, 0, &["SET a 1"])).unwrap();
        batch
            .push(&record(20, 3, &["INCR x", "SELECT 5", "INCR y"]))
            .unwrap();
        batch.push(&record(30, 5, &["INCR z"])).unwrap();
        let sealed = batch.seal(2, "m", "v", &[]);
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
        assert_eq!(touched, Touched::Keys(vec![(5, b"y".to_vec())]));
        assert_eq!(&name[..], b"INCR");
        let less = batch.without(4);
        assert!(!lines(&less.seal(0, "m", "v", &[]).bytes).contains(&"INCR y".to_owned()));
        assert_eq!(less.commands(), batch.commands() - 1);
    }

    #[test]
    fn marks_are_written_again_behind_what_removes_them() {
        let mut batch = Batch::new(Target::default());
        batch.push(&record(10, 4, &["FLUSHALL"])).unwrap();
        assert!(batch.is_full());
        let expected = [
            "MULTI", "SET m v", "SELECT 4", "FLUSHALL", "SELECT 0", "SET m v", "EXEC",
        ];
        assert_eq!(lines(&batch.seal(0, "m", "v", &[]).bytes), expected);

        let mut batch = Batch::new(Target::default());
        batch.push(&record(10, 0, &["SWAPDB 0 7"])).unwrap();
        let sealed = batch.seal(0, "m", "v", &["m".to_owned(), "s".to_owned()]);
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
        let old = Target {
            without_pxat: true,
            without_expire_options: true,
        };
        let mut batch = Batch::new(old);
        batch
            .push(&record(
                10,
                0,
                &["SET k v PXAT 99", "PEXPIREAT k 7 GT", "SET k v"],
            ))
            .unwrap();
        let expected = [
            "MULTI",
            "SET m v",
            "SET k v",
            "PEXPIREAT k 99",
            "PEXPIREAT k 7",
            "SET k v",
            "EXEC",
        ];
        let sealed = batch.seal(0, "m", "v", &[]);
        assert_eq!(lines(&sealed.bytes), expected);
        assert_eq!(sealed.count, 5);
    }
}

//! Records gathered into one marked transaction: pure.
//!
//! `MULTI; SET tandem:from:<origin> <mark>; <commands of whole records>; EXEC`. One MULTI per 16 to
//! 256 commands costs the server no more CPU than the plain commands would.

mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use self::run::Run;
use super::debts::{Key, member};
use super::entries::Late;
use super::policy::Target;
use super::sealed::Sealed;
use crate::command::{
    Command, Put, ScanError, Touched, for_each_in, removes_marks,
    scanner::{self, Scanner},
};
use crate::model::{Hlc, Need, Offset, RecordRef, Seen};
use crate::redis::put_command;

/// A batch is closed at this many commands: at 1 to 2 µs each it keeps the target's other clients
/// waiting for less than half a millisecond, and only when records come faster than they are applied.
/// With half as many, each record would cost this side a sixth more: sending, waking up twice. SETs that have joined
/// others count too: twice as many of those gained nothing.
pub(super) const MAX_COMMANDS: u32 = 256;
/// The first words of errors that say something of a value, or of one's type.
const OF_THE_VALUE: [&str; 4] = ["ERR", "WRONGTYPE", "BUSYGROUP", "NOGROUP"];
/// What every version says of an entry that comes behind later ones (5.0.14 to 9.1).
const TOO_LATE: &str = "ID specified in XADD is equal or smaller";
/// Room for the end of a transaction.
const EXEC_ROOM: usize = 64;
/// A batch is closed at this size.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// What is written with the commands of a batch.
#[derive(Clone, Debug)]
pub(super) struct Bookkeeping {
    /// The key of the mark, and its text.
    pub mark_key: String,
    pub mark: String,
    /// The key of the set of what is owed.
    pub owed_key: String,
    /// All keys of ours, for when a command carries them into another database.
    pub reserved: Arc<[String]>,
}

/// Whole records, ready to be sent.
#[derive(Debug)]
pub struct Batch {
    target: Target,
    /// Keys whose state is needed, because the target has no words for what was done to them.
    owed: Vec<Key>,
    /// Commands left out because the target has nothing that could hold what they wrote.
    unheld: u32,
    scanner: Scanner,
    body: Vec<u8>,
    commands: u32,
    /// The last of them, if that is a plain SET.
    run: Run,
    /// How many SETs have joined others.
    joined: u32,
    /// What the records had seen, each with the number of its first command.
    seen: Vec<(u32, Arc<Seen>)>,
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
    pub fn new(target: Target) -> Self {
        Self {
            target,
            owed: Vec::new(),
            unheld: 0,
            scanner: Scanner::default(),
            body: Vec::new(),
            commands: 0,
            run: Run::default(),
            joined: 0,
            seen: Vec::new(),
            db: 0,
            records: 0,
            last: Offset(0),
            hlc: Hlc(0),
            removes_marks: None,
        }
    }

    /// Makes room for the records of a frame of so many bytes: at once, not in steps.
    pub fn reserve(&mut self, bytes: usize) {
        self.body.reserve(bytes.min(MAX_BYTES));
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Its commands cannot be read; the batch is then unusable.
    pub fn push(&mut self, record: RecordRef<'_>) -> Result<(), ScanError> {
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
            run,
            joined,
            seen: known,
            removes_marks: removing,
            ..
        } = self;
        if known.last().is_none_or(|(_, last)| last != record.seen) {
            known.push((*commands, Arc::clone(record.seen)));
        }
        let db = scanner.for_each_in(record.commands, record.db, |command, db| {
            if target.ignores(command) {
                return;
            }
            if let Some(count) = run.put(command, body) {
                *commands += count;
                *joined += 1 - count;
                return;
            }
            run.end();
            if let Some(count) = target.put_spared(command, (db, record.seen), body) {
                *commands += count;
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
        self.run.end();
        self.commands += 1;
        self.db = db;
    }

    /// Whether no further record should be added.
    #[must_use]
    pub(super) const fn is_full(&self) -> bool {
        self.commands + self.joined >= MAX_COMMANDS
            || self.body.len() >= MAX_BYTES
            || self.removes_marks.is_some()
    }

    /// Whether a record may not be applied before a person has decided.
    #[must_use]
    pub(super) fn stops_at(&self, record: RecordRef<'_>) -> bool {
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
    pub const fn records(&self) -> u32 {
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
    pub(super) fn seal(&self, connection_db: u32, bookkeeping: &Bookkeeping) -> Sealed {
        let Bookkeeping {
            mark_key: key,
            owed_key: owed,
            mark,
            reserved,
        } = bookkeeping;
        let mut sealed = Sealed::begin(connection_db, key, mark);
        sealed.bytes.reserve(self.body.len() + EXEC_ROOM);
        sealed.append(&self.body, self.commands, self.db);
        if !self.owed.is_empty() {
            let members: Vec<Vec<u8>> = self
                .owed
                .iter()
                .map(|key| member(key, Need::Lacks))
                .collect();
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

    /// What the command of this number touches, and its name.
    #[must_use]
    pub(super) fn touched(&self, number: usize) -> Option<(Touched, Bytes)> {
        self.command(number, |command, db| {
            let name = Bytes::copy_from_slice(command.arg(0));
            (self.target.touched(command, db), name)
        })
    }

    /// Whether the error of the command of this number follows from writes of ours, or of third sites, that
    /// its record had not seen: then they are judged together, and nothing is lacking.
    #[must_use]
    pub(super) fn explains(&self, number: usize, error: &str) -> bool {
        // What the server says of the value, not of itself.
        let code = error.split(' ').next().unwrap_or_default();
        let before = |(first, _): &&(u32, Arc<Seen>)| *first as usize <= number;
        let seen = self.seen.iter().rev().find(before);
        let (true, Some((_, seen))) = (OF_THE_VALUE.contains(&code), seen) else {
            return false;
        };
        let found = self.command(number, |command, db| self.target.clashes(command, db, seen));
        found.unwrap_or(false)
    }

    /// The entry that the command of this number could not add to a stream, because later ones are
    /// there.
    #[must_use]
    pub(super) fn late(&self, number: usize, error: &str) -> Option<(Key, Late)> {
        let late = |command: &Command<'_>, db| match command.is(b"XADD") {
            true => Late::of(command, db),
            false => None,
        };
        match error.contains(TOO_LATE) {
            true => self.command(number, late).flatten(),
            false => None,
        }
    }

    /// What is to be said of the command of this number; commands are counted from the begin of the
    /// body.
    fn command<T>(&self, number: usize, of: impl FnOnce(&Command<'_>, u32) -> T) -> Option<T> {
        let (mut at, mut of, mut found) = (0, Some(of), None);
        let scanned = for_each_in(&self.body, 0, |command, db| {
            if at == number {
                found = of.take().map(|of| of(command, db));
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
        if failed.is_empty() && self.target.debts.is_empty() {
            return owed;
        }
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
            run: Run::default(),
            ..self
        }
    }

    /// How many commands the body has.
    #[must_use]
    pub(super) const fn commands(&self) -> u32 {
        self.commands
    }
}

//! A transaction in the protocol's form: MULTI, the mark, commands, EXEC.

use crate::redis::{put_arg, put_command, put_head};

/// A transaction as it is sent.
#[derive(Debug, Default)]
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

    /// Begins a command of so many arguments, its name included, which follow one by one.
    pub(super) fn command_of(&mut self, args: usize) {
        put_head(&mut self.bytes, args);
        self.count += 1;
    }

    /// Appends an argument of the command that was begun.
    pub(super) fn arg(&mut self, arg: &[u8]) {
        put_arg(&mut self.bytes, arg);
    }

    pub(super) fn append(&mut self, commands: &[u8], count: u32, db: u32) {
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

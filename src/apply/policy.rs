//! What is done here with a command of the peer: pure.

use std::sync::Arc;

use super::debts::{Debts, Key};
use crate::command::{Access, Catalog, Command, Dialect, Touched, scanner};
use crate::config::{Flush, Publish};
use crate::converge::{Foreign, Table};
use crate::model::{RecordRef, Seen, SiteId};
use crate::rdb::decode::has_disputed_entry;
use crate::redis::put_command;

/// The longest word of an unknown command that is taken for a key; longer ones are values.
pub(super) const MAX_GUESSED: usize = 4096;

/// How records are told to the local server.
#[derive(Clone, Debug)]
pub struct Target {
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
    /// This site.
    pub site: SiteId,
    /// Its recent writes.
    pub table: Arc<Table>,
    /// Whose records they are.
    pub peer: SiteId,
    /// The recent writes of all peers.
    pub foreign: Arc<Foreign>,
}

impl Target {
    /// Whether a command is left out by configuration.
    pub(super) fn ignores(&self, command: &Command<'_>) -> bool {
        match command.name().first().map(u8::to_ascii_uppercase) {
            Some(b'F') => self.flush == Flush::Ignore && is_flush(command),
            Some(b'P') => self.publish == Publish::Ignore && command.is(b"PUBLISH"),
            Some(b'S') => self.publish == Publish::Ignore && command.is(b"SPUBLISH"),
            _ => false,
        }
    }

    /// Whether a command does not commute with writes of ours, or of third sites, that its record had not
    /// seen.
    pub(super) fn clashes(&self, command: &Command<'_>, db: u32, seen: &Seen) -> bool {
        let mut touches = Vec::new();
        self.catalog.touches(command, db, &mut touches, |_, _| true);
        let of_us = seen.of(&self.site);
        touches.into_iter().any(|touch| {
            self.table.clash(touch, of_us).is_known()
                || self.foreign.is_clash(touch, &self.peer, seen)
        })
    }

    /// Puts a delete that had not seen writes of ours, without the keys that were written: it would
    /// undo them, and comes before them wherever it was done. Which site then mends the key is
    /// judged when this has come back. None when it is to be carried out as it is.
    pub(super) fn put_spared(
        &self,
        command: &Command<'_>,
        (db, seen): (u32, &Seen),
        body: &mut Vec<u8>,
    ) -> Option<u32> {
        if !(command.is(b"DEL") || command.is(b"UNLINK")) {
            return None;
        }
        let seen = seen.of(&self.site);
        if self.table.newest() <= seen {
            return None;
        }
        let is_spared = |key: &&[u8]| self.table.spares((db, key), seen);
        if !command.args(1).any(|key| is_spared(&key)) {
            return None;
        }
        let rest = command.args(1).filter(|key| !is_spared(key));
        let args: Vec<&[u8]> = [command.arg(0)].into_iter().chain(rest).collect();
        if args.len() == 1 {
            return Some(0);
        }
        put_command(body, &args);
        Some(1)
    }

    /// Whether a command restores a value that this server would misread.
    pub(super) fn is_disputed(&self, command: &Command<'_>) -> bool {
        self.disputes
            && command.is(b"RESTORE")
            && has_disputed_entry(command.arg(3)).unwrap_or(true)
    }

    /// Whether a record may not be applied before a person has decided.
    pub(super) fn stops_at(&self, record: RecordRef<'_>) -> bool {
        let mut stops = false;
        if self.flush == Flush::Stop {
            let scanned = scanner::for_each(record.commands, |c| stops |= is_flush(&c));
            // What cannot be read is refused when it is pushed.
            stops &= scanned.is_ok();
        }
        stops
    }

    /// Adds the keys that a command makes of keys that are owed: what it reads here is not what it
    /// read there.
    pub(super) fn spread(&self, command: &Command<'_>, db: u32, owed: &mut Vec<Key>) {
        if owed.is_empty() && self.debts.is_empty() {
            return;
        }
        // It has several keys and reads none.
        if command.is(b"MSET") {
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
    pub(super) fn touched(&self, command: &Command<'_>, db: u32) -> Touched {
        match self.catalog.touched(command, db) {
            Touched::Everything if !self.catalog.knows(command.arg(0)) => words(command, db),
            touched => touched,
        }
    }

    /// The keys that a command writes.
    pub(super) fn written(&self, command: &Command<'_>, db: u32) -> Vec<Key> {
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::command::{Effects, for_each_in};
    use crate::converge::{Claims, Judge};
    use crate::model::{Cursor, Epoch, Hlc, Offset};
    use crate::redis::Info;

    fn at(offset: u64) -> Cursor {
        Cursor {
            epoch: Epoch(1),
            offset: Offset(offset),
        }
    }

    fn raw(line: &str) -> Vec<u8> {
        let mut raw = Vec::new();
        put_command(
            &mut raw,
            &line.split(' ').map(str::as_bytes).collect::<Vec<_>>(),
        );
        raw
    }

    /// Site a, which has written `k` at 10.
    fn target() -> Target {
        let [site, peer] = ["a", "b"].map(|name| SiteId::try_new(name).unwrap());
        let (table, catalog) = (Arc::new(Table::new(1 << 10)), Catalog::default());
        let claims = Claims::new(&site, std::slice::from_ref(&peer));
        let tables = (Arc::clone(&table), Arc::default());
        let parts = (&BTreeMap::new(), Arc::clone(&claims));
        let mut judge = Judge::new(site.clone(), tables, catalog.clone(), parts);
        let mut effects = Effects::default();
        for_each_in(&raw("SET k 1"), 0, |command, db| {
            effects.add(&catalog, command, db, |_, _| true);
        })
        .unwrap();
        judge.on_own(&mut effects, at(10), Hlc(1));
        judge.note();
        Target {
            dialect: Dialect::of(&Info::parse("redis_version:8.6.3\r\n")),
            catalog,
            flush: Flush::Forward,
            publish: Publish::Forward,
            debts: Debts::new(&peer, &claims),
            disputes: false,
            site,
            table,
            peer,
            foreign: Arc::default(),
        }
    }

    #[test]
    fn a_delete_spares_what_was_written_here_and_it_had_not_seen() {
        let (target, rest) = (target(), raw("DEL x"));
        for (line, seen, expected, put) in [
            ("DEL k", 9, Some(0), &b""[..]),
            ("DEL k x", 9, Some(1), &rest),
            ("DEL k", 10, None, b""),
            ("DEL x", 9, None, b""),
            ("SET k 2", 9, None, b""),
        ] {
            let (mut body, mut found) = (Vec::new(), None);
            // What it had seen of its own site says nothing of this one.
            let tags = [("a", seen), ("b", 99)].map(|(n, o)| (SiteId::try_new(n).unwrap(), at(o)));
            let tags = Seen::from_iter(tags);
            scanner::for_each(&raw(line), |command| {
                found = target.put_spared(&command, (0, &tags), &mut body);
            })
            .unwrap();
            assert_eq!((found, &body[..]), (expected, put), "{line} {seen}");
        }
    }
}

//! What travels (`[sync] databases` and `keys`). Applied after marks have been recognised.
//!
//! A command that touches selected keys and others is cut down to its exact effect on the selected
//! ones where that can be said in commands; else it does not travel, and is counted.

use std::collections::BTreeSet;

use super::evictions::CHANNEL;
use crate::command::{Access, Catalog, Command, Key, Touched};
use crate::model::Pattern;
use crate::redis::put_command;

/// Where Sentinels tell each other, by PUBLISH into the servers that they watch over, which of them is
/// the primary. Those of another site would believe it of theirs, if they know it by the same name, and
/// make it a replica of ours (measured: 7.0.15).
const SENTINELS: &[u8] = b"__sentinel__:hello";

/// What travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The databases; none: all of them.
    pub databases: Option<BTreeSet<u32>>,
    /// Keys that match one of these; empty: all of them.
    pub include: Vec<Pattern>,
    /// But not those that match one of these.
    pub exclude: Vec<Pattern>,
}

/// Commands made in place of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// The commands, in the protocol's form.
    pub bytes: Vec<u8>,
    /// How many.
    pub count: u32,
}

impl Commands {
    fn put(&mut self, args: &[&[u8]]) {
        put_command(&mut self.bytes, args);
        self.count += 1;
    }

    fn one(args: &[&[u8]]) -> Travel {
        let mut commands = Self::default();
        commands.put(args);
        Travel::Projected(commands)
    }
}

/// How a command travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Travel {
    /// As it is.
    Whole,
    /// These in its place: the exact effect on what is selected.
    Projected(Commands),
    /// Not: it changes nothing that is selected.
    Not,
    /// It changes what is selected and depends on what is not, or cannot be cut in two.
    Crosses,
}

impl Filter {
    /// Whether nothing is left out.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.databases.is_none() && self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether everything travels.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.databases.is_none() && self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether anything of a database travels.
    #[must_use]
    pub fn has_database(&self, db: u32) -> bool {
        self.databases.as_ref().is_none_or(|dbs| dbs.contains(&db))
    }

    /// Whether a key travels.
    #[must_use]
    pub fn has(&self, db: u32, key: &[u8]) -> bool {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(key));
        self.has_database(db)
            && (self.include.is_empty() || matches(&self.include))
            && !matches(&self.exclude)
    }

    /// Whether whole databases travel, or none of their keys: no pattern divides them.
    const fn is_by_database(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// How a command travels that was given with database `db` selected.
    #[must_use]
    #[inline]
    pub fn travel(&self, catalog: &Catalog, command: &Command<'_>, db: u32) -> Travel {
        if command.is(b"PUBLISH") && [SENTINELS, CHANNEL.as_bytes()].contains(&command.arg(1)) {
            return Travel::Not;
        }
        if self.is_open() {
            return Travel::Whole;
        }
        self.travel_selected(catalog, command, db)
    }

    /// The same where not everything travels.
    fn travel_selected(&self, catalog: &Catalog, command: &Command<'_>, db: u32) -> Travel {
        match catalog.touched(command, db) {
            Touched::Keys(keys) => self.travel_keys(command, &keys),
            Touched::Database(_) | Touched::Everything if !self.is_by_database() => Travel::Crosses,
            Touched::Database(_) if self.has_database(db) => Travel::Whole,
            Touched::Database(_) => Travel::Not,
            Touched::Everything => self.travel_everything(command, db),
        }
    }

    fn travel_everything(&self, command: &Command<'_>, db: u32) -> Travel {
        if command.is(b"FLUSHALL") {
            return Travel::Projected(self.flush_each(db));
        }
        if command.is(b"SWAPDB") {
            let number = |i| std::str::from_utf8(command.arg(i)).ok()?.parse().ok();
            let both = [number(1), number(2)];
            let inside = both.iter().flatten().filter(|n| self.has_database(**n));
            return match inside.count() {
                0 => Travel::Not,
                1 => Travel::Crosses,
                _ => Travel::Whole,
            };
        }
        if self.has_database(db) {
            Travel::Whole
        } else {
            Travel::Not
        }
    }

    fn travel_keys(&self, command: &Command<'_>, keys: &[Key]) -> Travel {
        let is_in = |key: &&Key| self.has(key.db, &key.name);
        let writes = keys.iter().filter(|k| k.access == Access::Write);
        if keys.iter().all(|k| is_in(&k)) {
            Travel::Whole
        } else if writes.filter(is_in).count() == 0 {
            Travel::Not
        } else {
            self.project(command, keys).unwrap_or(Travel::Crosses)
        }
    }

    /// The exact effect on what is selected, of a command that writes something selected and
    /// touches something that is not.
    fn project(&self, command: &Command<'_>, keys: &[Key]) -> Option<Travel> {
        let first = keys.first().is_some_and(|k| self.has(k.db, &k.name));
        let is = |names: &[&[u8]]| names.iter().any(|name| command.is(name));
        if is(&[b"DEL", b"UNLINK", b"PFCOUNT"]) {
            return Some(self.keep(command, keys, 1));
        }
        if is(&[b"MSET", b"MSETNX"]) {
            return Some(self.keep(command, keys, 2));
        }
        let (from, member) = (command.arg(1), command.arg(3));
        if first && is(&[b"RENAME", b"RENAMENX", b"MOVE"]) {
            // It goes where nobody looks.
            return Some(Commands::one(&[b"DEL", from]));
        }
        if is(&[b"SMOVE"]) {
            return Some(if first {
                Commands::one(&[b"SREM", from, member])
            } else {
                Commands::one(&[b"SADD", command.arg(2), member])
            });
        }
        if first && is(&[b"RPOPLPUSH", b"BRPOPLPUSH"]) {
            return Some(Commands::one(&[b"RPOP", from]));
        }
        if first && is(&[b"LMOVE", b"BLMOVE"]) {
            let left = command.arg(3).eq_ignore_ascii_case(b"LEFT");
            let pop: &[u8] = if left { b"LPOP" } else { b"RPOP" };
            return Some(Commands::one(&[pop, from]));
        }
        None
    }

    /// The command with the keys that are selected, each with what belongs to it: `step` arguments.
    fn keep(&self, command: &Command<'_>, keys: &[Key], step: usize) -> Travel {
        let mut args = vec![command.arg(0)];
        for (i, key) in keys.iter().enumerate() {
            if self.has(key.db, &key.name) {
                args.extend((0..step).map(|j| command.arg(1 + i * step + j)));
            }
        }
        Commands::one(&args)
    }

    /// FLUSHALL, for the selected databases; the database selected afterwards is the one before.
    fn flush_each(&self, db: u32) -> Commands {
        let mut commands = Commands::default();
        for each in self.databases.iter().flatten() {
            commands.put(&[b"SELECT", each.to_string().as_bytes()]);
            commands.put(&[b"FLUSHDB"]);
        }
        commands.put(&[b"SELECT", db.to_string().as_bytes()]);
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::scanner::for_each;

    fn travel(filter: &Filter, line: &str, db: u32) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut raw, mut found) = (Vec::new(), None);
        put_command(&mut raw, &args);
        let catalog = Catalog::default();
        for_each(&raw, |command| {
            found = Some(filter.travel(&catalog, &command, db));
        })
        .unwrap();
        let Some(Travel::Projected(commands)) = found else {
            return format!("{:?}", found.unwrap());
        };
        let mut lines = Vec::new();
        for_each(&commands.bytes, |c| {
            let words: Vec<_> = c.args(0).map(String::from_utf8_lossy).collect();
            lines.push(words.join(" "));
        })
        .unwrap();
        assert_eq!(lines.len(), commands.count as usize);
        lines.join("; ")
    }

    #[test]
    fn only_selected_databases_travel() {
        let only = Filter {
            databases: Some([0, 3].into()),
            ..Filter::default()
        };
        for (line, db, expected) in [
            ("SET a b", 0, "Whole"),
            ("SET a b", 1, "Not"),
            ("MOVE a 1", 0, "DEL a"),
            ("MOVE a 0", 1, "Crosses"),
            ("MOVE a 3", 0, "Whole"),
            ("COPY a b DB 1", 0, "Not"),
            ("SWAPDB 0 3", 9, "Whole"),
            ("SWAPDB 1 3", 9, "Crosses"),
            ("SWAPDB 1 2", 9, "Not"),
            ("FLUSHDB", 3, "Whole"),
            ("FLUSHDB", 1, "Not"),
            ("PUBLISH c m", 1, "Whole"),
            (
                "FLUSHALL",
                1,
                "SELECT 0; FLUSHDB; SELECT 3; FLUSHDB; SELECT 1",
            ),
        ] {
            assert_eq!(travel(&only, line, db), expected, "{line}");
        }
    }

    #[test]
    fn only_selected_keys_travel() {
        let pattern = |text: &str| Pattern::parse(text).unwrap();
        let some = Filter {
            include: vec![pattern("in:*")],
            exclude: vec![pattern("in:not:*")],
            ..Filter::default()
        };
        for (line, expected) in [
            ("SET in:a 1", "Whole"),
            ("SET in:not:a 1", "Not"),
            ("SET a 1", "Not"),
            ("PUBLISH c m", "Whole"),
            ("DEL in:a b in:c", "DEL in:a in:c"),
            ("MSET a 1 in:b 2", "MSET in:b 2"),
            ("RENAME in:a in:b", "Whole"),
            ("RENAME in:a b", "DEL in:a"),
            ("RENAME a in:b", "Crosses"),
            ("RENAME a b", "Not"),
            ("SMOVE in:a b m", "SREM in:a m"),
            ("SMOVE a in:b m", "SADD in:b m"),
            ("RPOPLPUSH in:a b", "RPOP in:a"),
            ("LMOVE in:a b LEFT LEFT", "LPOP in:a"),
            ("LMOVE a in:b LEFT LEFT", "Crosses"),
            ("SUNIONSTORE in:d a in:b", "Crosses"),
            ("SUNIONSTORE d in:a", "Not"),
            ("COPY in:a b", "Not"),
            ("COPY a in:b", "Crosses"),
            ("FLUSHALL", "Crosses"),
            ("FLUSHDB", "Crosses"),
            ("SWAPDB 0 1", "Crosses"),
        ] {
            assert_eq!(travel(&some, line, 0), expected, "{line}");
        }
        assert_eq!(travel(&Filter::default(), "FLUSHALL", 0), "Whole");
        let hello = "PUBLISH __sentinel__:hello 127.0.0.1,26379";
        assert_eq!(travel(&Filter::default(), hello, 0), "Not");
        assert_eq!(travel(&some, hello, 0), "Not");
        let fence = format!("PUBLISH {CHANNEL} 7");
        assert_eq!(travel(&Filter::default(), &fence, 0), "Not");
    }
}

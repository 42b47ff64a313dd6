//! Which databases travel (`[sync] databases`). Applied after marks have been recognised.

use std::collections::BTreeSet;

use super::commands::{self, Touched};
use super::scanner::Command;
use crate::redis::put_command;

/// The databases that travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// These.
    Only(BTreeSet<u32>),
}

/// Commands made in place of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// The commands, in the protocol's form.
    pub bytes: Vec<u8>,
    /// How many.
    pub count: u32,
}

/// How a command travels under a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Travel {
    /// As it is.
    Whole,
    /// These in its place: the exact effect on the selected databases.
    Projected(Commands),
    /// Not: it touches none of them.
    Not,
    /// It touches selected databases and others, and its effect cannot be cut in two.
    Crosses,
}

impl Selection {
    /// Whether a database travels.
    #[must_use]
    pub fn has(&self, db: u32) -> bool {
        match self {
            Self::All => true,
            Self::Only(dbs) => dbs.contains(&db),
        }
    }

    /// How a command travels that was given with database `db` selected.
    #[must_use]
    pub fn travel(&self, command: &Command<'_>, db: u32) -> Travel {
        let Self::Only(dbs) = self else {
            return Travel::Whole;
        };
        if command.is(b"FLUSHALL") {
            return Travel::Projected(flush_each(dbs, db));
        }
        if command.is(b"SWAPDB") {
            let number = |i| {
                std::str::from_utf8(command.arg(i))
                    .ok()
                    .and_then(|t| t.parse().ok())
            };
            let inside = [number(1), number(2)]
                .iter()
                .flatten()
                .filter(|n| dbs.contains(n))
                .count();
            return [Travel::Not, Travel::Crosses, Travel::Whole][inside.min(2)].clone();
        }
        match commands::touched(command, db) {
            Touched::Keys(keys) if keys.is_empty() => Travel::Whole,
            Touched::Keys(keys) => {
                let inside = keys.iter().filter(|(db, _)| dbs.contains(db)).count();
                match inside {
                    0 => Travel::Not,
                    n if n == keys.len() => Travel::Whole,
                    _ => Travel::Crosses,
                }
            }
            Touched::Database(_) | Touched::Everything if dbs.contains(&db) => Travel::Whole,
            Touched::Database(_) | Touched::Everything => Travel::Not,
        }
    }
}

/// FLUSHALL, for some databases only; the database selected afterwards is the one before.
fn flush_each(dbs: &BTreeSet<u32>, db: u32) -> Commands {
    let (mut bytes, mut count) = (Vec::new(), 1);
    for each in dbs {
        put_command(&mut bytes, &[b"SELECT", each.to_string().as_bytes()]);
        put_command(&mut bytes, &[b"FLUSHDB"]);
        count += 2;
    }
    put_command(&mut bytes, &[b"SELECT", db.to_string().as_bytes()]);
    Commands { bytes, count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::scanner::for_each;

    fn travel(line: &str, db: u32) -> Travel {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut raw, mut found) = (Vec::new(), None);
        put_command(&mut raw, &args);
        let only = Selection::Only([0, 3].into());
        for_each(&raw, |command| found = Some(only.travel(&command, db))).unwrap();
        found.unwrap()
    }

    #[test]
    fn only_selected_databases_travel() {
        assert_eq!(travel("SET a b", 0), Travel::Whole);
        assert_eq!(travel("SET a b", 1), Travel::Not);
        assert_eq!(travel("MOVE a 1", 0), Travel::Crosses);
        assert_eq!(travel("MOVE a 3", 0), Travel::Whole);
        assert_eq!(travel("SWAPDB 0 3", 9), Travel::Whole);
        assert_eq!(travel("SWAPDB 1 3", 9), Travel::Crosses);
        assert_eq!(travel("SWAPDB 1 2", 9), Travel::Not);
        assert_eq!(travel("FLUSHDB", 3), Travel::Whole);
        assert_eq!(travel("FLUSHDB", 1), Travel::Not);
        assert_eq!(travel("PUBLISH c m", 1), Travel::Whole);
        let Travel::Projected(commands) = travel("FLUSHALL", 1) else {
            panic!()
        };
        let mut names = Vec::new();
        for_each(&commands.bytes, |c| {
            names.push(String::from_utf8_lossy(c.raw()).replace("\r\n", " "));
        })
        .unwrap();
        assert_eq!(names.len(), commands.count as usize);
        assert_eq!(names.concat().matches("FLUSHDB").count(), 2);
    }
}

//! What a command touches.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::catalog::{Catalog, Learned};
use super::scanner::{Command, ScanError, Scanner};
use super::table::Keys;
use super::touch::Act;

/// What a command does to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its result depends on it.
    Read,
    /// It may change it.
    Write,
}

/// A key that a command touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its database.
    pub db: u32,
    /// Its name.
    pub name: Vec<u8>,
    /// How it is touched.
    pub access: Access,
}

/// What a command touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// These keys.
    Keys(Vec<Key>),
    /// Every key of one database.
    Database(u32),
    /// Every key.
    Everything,
}

/// The hash by which a key is known: wide enough that a collision never decides anything.
#[must_use]
pub fn key_hash(db: u32, key: &[u8]) -> u128 {
    xxh3_128_with_seed(key, u64::from(db))
}

pub(super) fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The argument after the last of these words, which are options with one value.
fn after<'a>(command: &Command<'a>, words: &[&[u8]]) -> Option<&'a [u8]> {
    let at = (2..command.len())
        .rev()
        .find(|&i| words.iter().any(|w| command.arg(i).eq_ignore_ascii_case(w)))?;
    (at + 1 < command.len()).then(|| command.arg(at + 1))
}

impl Catalog {
    /// Calls `key` with the database and the name of each key that the command touches, and what is
    /// done to it;
    /// false when it touches more than keys that can be named.
    pub fn for_each_key(
        &self,
        command: &Command<'_>,
        db: u32,
        mut key: impl FnMut(u32, &[u8], Act),
    ) -> bool {
        use Act::Read;
        let Some(row) = command.row() else {
            let learned = self.learned(command.arg(0));
            let mut write = |k: &[u8]| key(db, k, Act::Write);
            return learned.is_some_and(|l| for_each_learned(l, command, &mut write));
        };
        let counted = |at: usize| number(command.arg(at)).unwrap_or(0) as usize;
        let written = row.act(command, 0);
        match row.keys {
            Keys::None => {}
            Keys::First => key(db, command.arg(1), written),
            Keys::Second => key(db, command.arg(2), written),
            Keys::FirstTwo => {
                key(db, command.arg(1), written);
                key(db, command.arg(2), row.act(command, 1));
            }
            Keys::ToFrom => {
                key(db, command.arg(1), written);
                key(db, command.arg(2), Read);
            }
            Keys::ToFromAll => {
                key(db, command.arg(1), written);
                command.args(2).for_each(|k| key(db, k, Read));
            }
            Keys::All => command.args(1).for_each(|k| key(db, k, written)),
            Keys::SecondFromAll => {
                key(db, command.arg(2), written);
                command.args(3).for_each(|k| key(db, k, Read));
            }
            Keys::Pairs => command.args(1).step_by(2).for_each(|k| key(db, k, written)),
            Keys::ToFromCounted => {
                key(db, command.arg(1), written);
                command
                    .args(3)
                    .take(counted(2))
                    .for_each(|k| key(db, k, Read));
            }
            Keys::CountedPairs => {
                let pairs = command.args(2).step_by(2).take(counted(1));
                pairs.for_each(|k| key(db, k, written));
            }
            Keys::FromStore => {
                key(db, command.arg(1), Read);
                if let Some(to) = after(command, &[b"STORE", b"STOREDIST"]) {
                    key(db, to, written);
                }
            }
            Keys::Move => {
                let to = number(command.arg(2)).unwrap_or(db);
                key(db, command.arg(1), written);
                key(to, command.arg(1), row.act(command, 1));
            }
            Keys::Copy => {
                key(db, command.arg(1), Read);
                let to = after(command, &[b"DB"]).and_then(number).unwrap_or(db);
                key(to, command.arg(2), written);
            }
            Keys::Database | Keys::Everything => return false,
        }
        true
    }

    /// What a command touches, collected.
    #[must_use]
    pub fn touched(&self, command: &Command<'_>, db: u32) -> Touched {
        let mut keys = Vec::new();
        let mut add = |db, name: &[u8], act: Act| {
            keys.push(Key {
                db,
                name: name.to_vec(),
                access: act.access(),
            });
        };
        if self.for_each_key(command, db, &mut add) {
            return Touched::Keys(keys);
        }
        match command.row().map(|row| row.keys) {
            Some(Keys::Database) => Touched::Database(db),
            _ => Touched::Everything,
        }
    }
}

/// The keys of a command that only the server knows; false when they cannot be told.
fn for_each_learned(learned: Learned, command: &Command<'_>, mut key: impl FnMut(&[u8])) -> bool {
    let Learned { first, last, step } = learned;
    if first == 0 {
        // Without keys, or it finds them itself: that cannot be told apart.
        return false;
    }
    let end = match usize::try_from(last) {
        Ok(last) => last,
        Err(_) => {
            let from_end = usize::try_from(last.unsigned_abs()).unwrap_or(usize::MAX);
            command.len().saturating_sub(from_end)
        }
    };
    let keys = (first..=end.min(command.len().saturating_sub(1))).step_by(step.max(1));
    keys.for_each(|at| key(command.arg(at)));
    true
}

/// Calls `each` with every command and the database that is selected for it, beginning with `db`;
/// the database selected at the end.
///
/// # Errors
/// The bytes are no commands.
pub fn for_each_in(
    commands: &[u8],
    db: u32,
    each: impl FnMut(&Command<'_>, u32),
) -> Result<u32, ScanError> {
    Scanner::default().for_each_in(commands, db, each)
}

impl Scanner {
    /// As [`for_each_in`], in memory of its own for whoever does so often.
    ///
    /// # Errors
    /// The bytes are no commands.
    pub fn for_each_in(
        &mut self,
        commands: &[u8],
        mut db: u32,
        mut each: impl FnMut(&Command<'_>, u32),
    ) -> Result<u32, ScanError> {
        self.for_each(commands, |command| {
            if command.is(b"SELECT") {
                db = number(command.arg(1)).unwrap_or(db);
            }
            each(&command, db);
        })?;
        Ok(db)
    }
}

/// Whether the command can remove our marks from database 0, seen from database `db`. With the
/// database into which SWAPDB would carry them.
#[must_use]
#[inline]
pub fn removes_marks(command: &Command<'_>, db: u32) -> Option<Option<u32>> {
    // Asked of every command: the length of its name is nearly always answer enough.
    if command.is(b"FLUSHALL") || (command.is(b"FLUSHDB") && db == 0) {
        return Some(None);
    }
    if command.is(b"SWAPDB") {
        return match (number(command.arg(1))?, number(command.arg(2))?) {
            (0, 0) => None,
            (0, other) | (other, 0) => Some(Some(other)),
            _ => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::scanner;
    use crate::redis::put_command;

    fn touched(catalog: &Catalog, line: &str) -> Touched {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut raw, mut found) = (Vec::new(), None);
        put_command(&mut raw, &args);
        scanner::for_each(&raw, |command| found = Some(catalog.touched(&command, 4))).unwrap();
        found.unwrap()
    }

    #[test]
    fn what_can_remove_marks_is_known_by_its_name() {
        let removes = |line: &str, db| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let (mut raw, mut found) = (Vec::new(), None);
            put_command(&mut raw, &args);
            scanner::for_each(&raw, |command| found = removes_marks(&command, db)).unwrap();
            found
        };
        assert_eq!(removes("flushall", 3), Some(None));
        assert_eq!(removes("FLUSHDB ASYNC", 0), Some(None));
        assert_eq!(removes("FLUSHDB", 3), None);
        assert_eq!(removes("SwapDB 0 5", 3), Some(Some(5)));
        assert_eq!(removes("SWAPDB 5 0", 3), Some(Some(5)));
        assert_eq!(removes("SWAPDB 5 6", 0), None);
        assert_eq!(removes("SET k v", 0), None);
    }

    fn keys(catalog: &Catalog, line: &str) -> String {
        let Touched::Keys(found) = touched(catalog, line) else {
            panic!("{line}")
        };
        let text = |k: &Key| {
            let mark = if k.access == Access::Read { "<" } else { "" };
            format!("{mark}{}{}", k.db, String::from_utf8_lossy(&k.name))
        };
        found.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn keys_are_found_in_every_form() {
        let catalog = Catalog::default();
        for (line, expected) in [
            ("set a b", "4a"),
            ("PING", ""),
            ("XGROUP CREATE x g $", "4x"),
            ("RENAME a b", "4a 4b"),
            ("DEL a b c", "4a 4b 4c"),
            ("BITOP AND d a b", "4d <4a <4b"),
            ("MSET a 1 b 2", "4a 4b"),
            ("SUNIONSTORE d a b", "4d <4a <4b"),
            ("ZRANGESTORE d a 0 -1", "4d <4a"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "4d <4a <4b"),
            ("MSETEX 2 a 1 b 2 PXAT 9", "4a 4b"),
            ("SORT a BY nosort STORE d", "<4a 4d"),
            ("GEORADIUS a 1 2 3 km store d", "<4a 4d"),
            ("MOVE a 9", "4a 9a"),
            ("COPY a b", "<4a 4b"),
            ("COPY a b DB 7 REPLACE", "<4a 7b"),
        ] {
            assert_eq!(keys(&catalog, line), expected, "{line}");
        }
        assert_eq!(touched(&catalog, "FLUSHDB"), Touched::Database(4));
        assert_eq!(touched(&catalog, "SWAPDB 0 1"), Touched::Everything);
        assert_eq!(touched(&catalog, "SOMETHING.NEW a"), Touched::Everything);
    }

    #[test]
    fn what_the_server_says_of_its_commands_is_believed() {
        let catalog = Catalog::default();
        let learned = |first, last, step| Learned { first, last, step };
        catalog.learn([
            (b"BF.ADD".to_vec(), learned(1, 1, 1)),
            (b"TS.MADD".to_vec(), learned(1, -1, 3)),
            (b"ALL.BUT".to_vec(), learned(1, -2, 1)),
            (b"NO.KEYS".to_vec(), learned(0, 0, 0)),
        ]);
        assert_eq!(keys(&catalog, "bf.add a x"), "4a");
        assert_eq!(keys(&catalog, "TS.MADD a 1 2 b 1 2"), "4a 4b");
        assert_eq!(keys(&catalog, "ALL.BUT a b 9"), "4a 4b");
        assert_eq!(touched(&catalog, "NO.KEYS a b 9"), Touched::Everything);
    }
}

//! The command table: which keys a command touches, and what else must be known of it.
//!
//! Names are those that appear in replication streams (Redis 5.0 to 8.6, Valkey 7.2 to 9.1). A
//! command that is not here touches, as far as we know, everything.

use std::collections::HashMap;
use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::scanner::{self, Command, ScanError};

/// The longest name in the table, in bytes.
const MAX_NAME: usize = 24;

/// Where the keys are among the arguments; the name is number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// Touches no key.
    None,
    /// The first argument.
    First,
    /// The second argument (`XGROUP CREATE key …`).
    Second,
    /// The first two arguments.
    FirstTwo,
    /// All from the first.
    All,
    /// All from the second (`BITOP AND dest src…`).
    AllFromSecond,
    /// Every second from the first (`MSET k v k v`).
    Pairs,
    /// The first, then a count, then as many (`ZUNIONSTORE dest 2 a b …`).
    FirstAndCounted,
    /// A count, then pairs (`MSETEX 2 k v k v …`).
    CountedPairs,
    /// The first, and one after STORE or STOREDIST (`SORT k … STORE dest`, `GEORADIUS`).
    FirstAndStore,
    /// The first, in this database and in that of the argument (`MOVE k db`).
    Move,
    /// The first two, the second perhaps in the database after DB (`COPY a b DB 3`).
    Copy,
    /// The database selected.
    Database,
    /// Everything.
    Everything,
}

/// What a command touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// These keys, each with its database.
    Keys(Vec<(u32, Vec<u8>)>),
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

static TABLE: LazyLock<HashMap<&'static [u8], Keys>> = LazyLock::new(|| {
    let mut table = HashMap::new();
    for (keys, names) in [
        (
            Keys::None,
            "PING SELECT MULTI EXEC REPLCONF PUBLISH SPUBLISH SCRIPT FUNCTION",
        ),
        (
            Keys::First,
            "SET SETEX PSETEX SETNX APPEND SETRANGE SETBIT BITFIELD INCR DECR INCRBY DECRBY \
             INCRBYFLOAT INCREX GETSET GETDEL GETEX DELEX DELIFEQ EXPIRE PEXPIRE EXPIREAT \
             PEXPIREAT PERSIST RESTORE RESTORE-ASKING LPUSH RPUSH LPUSHX RPUSHX LINSERT LREM LSET \
             LTRIM LPOP RPOP SADD SREM SPOP ZADD ZINCRBY ZREM ZREMRANGEBYSCORE ZREMRANGEBYRANK \
             ZREMRANGEBYLEX ZPOPMIN ZPOPMAX BZPOPMIN BZPOPMAX BLPOP BRPOP GEOADD HSET HMSET HSETNX \
             HDEL HINCRBY HINCRBYFLOAT HEXPIRE HPEXPIRE HEXPIREAT HPEXPIREAT HPERSIST HGETEX \
             HGETDEL HSETEX XADD XTRIM XDEL XDELEX XACK XACKDEL XNACK XSETID XCLAIM XAUTOCLAIM \
             XCFGSET XIDMPRECORD PFADD VADD VREM VSETATTR ARSET ARMSET ARDEL ARDELRANGE ARINSERT \
             ARRING ARSEEK",
        ),
        (Keys::Second, "XGROUP PFDEBUG"),
        (
            Keys::FirstTwo,
            "RENAME RENAMENX RPOPLPUSH BRPOPLPUSH LMOVE BLMOVE SMOVE ZRANGESTORE GEOSEARCHSTORE",
        ),
        (
            Keys::All,
            "DEL UNLINK PFCOUNT PFMERGE SDIFFSTORE SINTERSTORE SUNIONSTORE",
        ),
        (Keys::AllFromSecond, "BITOP"),
        (Keys::Pairs, "MSET MSETNX"),
        (Keys::FirstAndCounted, "ZUNIONSTORE ZINTERSTORE ZDIFFSTORE"),
        (Keys::CountedPairs, "MSETEX"),
        (Keys::FirstAndStore, "SORT GEORADIUS GEORADIUSBYMEMBER"),
        (Keys::Move, "MOVE"),
        (Keys::Copy, "COPY"),
        (Keys::Database, "FLUSHDB"),
        (Keys::Everything, "FLUSHALL SWAPDB EVAL EVALSHA FCALL"),
    ] {
        table.extend(names.split_whitespace().map(|name| (name.as_bytes(), keys)));
    }
    table
});

fn keys_of(name: &[u8]) -> Option<Keys> {
    let mut upper = [0; MAX_NAME];
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    TABLE.get(&*upper).copied()
}

/// Whether the table knows a command.
#[must_use]
pub fn is_known(name: &[u8]) -> bool {
    keys_of(name).is_some()
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The argument after the last of these words, which are options with one value.
fn after<'a>(command: &Command<'a>, words: &[&[u8]]) -> Option<&'a [u8]> {
    let at = (2..command.len())
        .rev()
        .find(|&i| words.iter().any(|w| command.arg(i).eq_ignore_ascii_case(w)))?;
    (at + 1 < command.len()).then(|| command.arg(at + 1))
}

/// Calls `key` with each key that the command touches and its database; false when it touches more
/// than keys that can be named.
pub fn for_each_key(command: &Command<'_>, db: u32, mut key: impl FnMut(u32, &[u8])) -> bool {
    let Some(keys) = keys_of(command.arg(0)) else {
        return false;
    };
    match keys {
        Keys::None => {}
        Keys::First => key(db, command.arg(1)),
        Keys::Second => key(db, command.arg(2)),
        Keys::FirstTwo => command.args(1).take(2).for_each(|k| key(db, k)),
        Keys::All => command.args(1).for_each(|k| key(db, k)),
        Keys::AllFromSecond => command.args(2).for_each(|k| key(db, k)),
        Keys::Pairs => command.args(1).step_by(2).for_each(|k| key(db, k)),
        Keys::FirstAndCounted => {
            key(db, command.arg(1));
            let count = number(command.arg(2)).unwrap_or(0) as usize;
            command.args(3).take(count).for_each(|k| key(db, k));
        }
        Keys::CountedPairs => {
            let count = number(command.arg(1)).unwrap_or(0) as usize;
            command
                .args(2)
                .step_by(2)
                .take(count)
                .for_each(|k| key(db, k));
        }
        Keys::FirstAndStore => {
            key(db, command.arg(1));
            if let Some(destination) = after(command, &[b"STORE", b"STOREDIST"]) {
                key(db, destination);
            }
        }
        Keys::Move => {
            key(db, command.arg(1));
            key(number(command.arg(2)).unwrap_or(db), command.arg(1));
        }
        Keys::Copy => {
            key(db, command.arg(1));
            let other = after(command, &[b"DB"]).and_then(number).unwrap_or(db);
            key(other, command.arg(2));
        }
        Keys::Database | Keys::Everything => return false,
    }
    true
}

/// What a command touches, collected.
#[must_use]
pub fn touched(command: &Command<'_>, db: u32) -> Touched {
    let mut keys = Vec::new();
    if for_each_key(command, db, |db, key| keys.push((db, key.to_vec()))) {
        return Touched::Keys(keys);
    }
    match keys_of(command.arg(0)) {
        Some(Keys::Database) => Touched::Database(db),
        _ => Touched::Everything,
    }
}

/// Calls `each` with every command and the database that is selected for it, beginning with `db`;
/// the database selected at the end.
///
/// # Errors
/// The bytes are no commands.
pub fn for_each_in(
    commands: &[u8],
    mut db: u32,
    mut each: impl FnMut(&Command<'_>, u32),
) -> Result<u32, ScanError> {
    scanner::for_each(commands, |command| {
        if command.is(b"SELECT") {
            db = number(command.arg(1)).unwrap_or(db);
        }
        each(&command, db);
    })?;
    Ok(db)
}

/// Whether the command can remove our marks from database 0, seen from database `db`. With the
/// database into which SWAPDB would carry them.
#[must_use]
pub fn removes_marks(command: &Command<'_>, db: u32) -> Option<Option<u32>> {
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
    use crate::intake::scanner::for_each;
    use crate::redis::put_command;

    fn keys(line: &str) -> Touched {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut raw, mut found) = (Vec::new(), None);
        put_command(&mut raw, &args);
        for_each(&raw, |command| found = Some(touched(&command, 4))).unwrap();
        found.unwrap()
    }

    #[test]
    fn keys_are_found_in_every_form() {
        for (line, expected) in [
            ("set a b", "4a"),
            ("PING", ""),
            ("XGROUP CREATE x g $", "4x"),
            ("RENAME a b", "4a 4b"),
            ("DEL a b c", "4a 4b 4c"),
            ("BITOP AND d a b", "4d 4a 4b"),
            ("MSET a 1 b 2", "4a 4b"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "4d 4a 4b"),
            ("MSETEX 2 a 1 b 2 PXAT 9", "4a 4b"),
            ("SORT a BY nosort STORE d", "4a 4d"),
            ("GEORADIUS a 1 2 3 km store d", "4a 4d"),
            ("MOVE a 9", "4a 9a"),
            ("COPY a b", "4a 4b"),
            ("COPY a b DB 7 REPLACE", "4a 7b"),
        ] {
            let Touched::Keys(found) = keys(line) else {
                panic!("{line}")
            };
            let found: Vec<String> = found
                .iter()
                .map(|(db, k)| format!("{db}{}", String::from_utf8_lossy(k)))
                .collect();
            assert_eq!(found.join(" "), expected, "{line}");
        }
        assert_eq!(keys("FLUSHDB"), Touched::Database(4));
        assert_eq!(keys("SWAPDB 0 1"), Touched::Everything);
        assert_eq!(keys("SOMETHING.NEW a"), Touched::Everything);
        assert_eq!(
            keys("AVERYLONGCOMMANDNAMETHATNOBODYKNOWS a"),
            Touched::Everything
        );
    }
}

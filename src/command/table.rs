//! The command table: which keys a command touches, which writes commute with it, and in which form
//! it travels.
//!
//! Names are those that appear in replication streams (Redis 5.0 to 8.6, Valkey 7.2 to 9.1).

use std::sync::LazyLock;

/// Where the keys are among the arguments; the name is number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// Touches no key.
    None,
    /// Writes the first argument.
    First,
    /// Writes the second argument (`XGROUP CREATE key …`).
    Second,
    /// Writes the first two arguments (`RENAME a b`).
    FirstTwo,
    /// Writes the first, reads the second (`ZRANGESTORE to from …`).
    ToFrom,
    /// Writes the first, reads all others (`SUNIONSTORE to a b`).
    ToFromAll,
    /// Writes all from the first.
    All,
    /// Writes the second, reads all from the third (`BITOP AND to a b`).
    SecondFromAll,
    /// Writes every second from the first (`MSET k v k v`).
    Pairs,
    /// Writes the first, then a count, then reads as many (`ZUNIONSTORE to 2 a b …`).
    ToFromCounted,
    /// A count, then pairs, which are written (`MSETEX 2 k v k v …`).
    CountedPairs,
    /// Reads the first, writes the one after STORE or STOREDIST (`SORT k … STORE to`).
    FromStore,
    /// Writes the first, in this database and in that of the second argument (`MOVE k db`).
    Move,
    /// Reads the first, writes the second, perhaps in the database after DB (`COPY a b DB 3`).
    Copy,
    /// Writes the database selected.
    Database,
    /// Writes everything.
    Everything,
}

/// How a write gets on with another one of the same key that had not seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Touches no key.
    Nothing,
    /// The order decides: commutes with nothing.
    Ordered,
    /// Removes keys: commutes with other removals.
    Delete,
    /// Adds an integer: commutes with other sums.
    Sum,
    /// Adds to what is only there or not: commutes with other additions.
    Union,
    /// Writes fields or members that it names: commutes with writes of others.
    Elements(Layout, Effect),
    /// Takes the first key away, to put it where the second is.
    Move,
    /// Changes when the key expires.
    Expiry,
}

/// Where the elements are among the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// This one only.
    Only(usize),
    /// Each from the second on.
    Each,
    /// Every second from the second on (`HSET k f v f v`).
    Pairs,
    /// Behind options, scores and members (`ZADD k NX s m s m`).
    Scored,
    /// Behind options, longitudes, latitudes and members.
    Located,
    /// The id of an entry, if nothing but it is written (`XADD x 5-1 f v`).
    Entry,
    /// The group, unless it is made: `$` is another place at each site.
    Group,
    /// Behind FIELDS and a count, so many arguments each (`HEXPIRE k s FIELDS n f f`).
    Fields(usize),
}

/// What is done to an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It gets a value: the order decides.
    Set,
    /// It is added, or was there: commutes with itself.
    Add,
    /// A number is added to its own: commutes with itself, if it is an integer.
    Raise,
    /// It is removed, or was not there: commutes with itself.
    Remove,
    /// It is put elsewhere: commutes with nothing on that element.
    Take,
}

/// The form in which a command travels: what it says must not depend on when it is read, nor on
/// conditions that held when it was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it came.
    Plain,
    /// `SET k v [PXAT ms | KEEPTTL]`.
    Set,
    /// `SETEX k s v`, `PSETEX k ms v` → SET, with the milliseconds of the unit.
    SetEx(u16),
    /// Another name for the same: the condition held.
    Named(&'static str),
    /// `MSETEX n k v … [options]` → SET of each.
    SetEach,
    /// `EXPIRE`, `PEXPIRE` → PEXPIREAT, with the milliseconds of the unit.
    Expire(u16),
    /// `EXPIREAT`, `PEXPIREAT` → PEXPIREAT, with the milliseconds of the unit.
    ExpireAt(u16),
    /// `RESTORE` with an absolute time to live.
    Restore,
    /// `DELEX k …`, `DELIFEQ k v` → DEL.
    Delete,
    /// `ZADD k … INCR s m` → ZINCRBY.
    ZAdd,
    /// `HGETDEL k FIELDS n f …` → HDEL.
    HashTake,
    /// `HSETEX` without conditions, with an absolute time.
    HashSet,
    /// `HEXPIRE`, `HPEXPIRE` → HPEXPIREAT, with the milliseconds of the unit. The conditions stay:
    /// they hold for each field by itself.
    HashExpire(u16),
    /// `HEXPIREAT`, `HPEXPIREAT` → HPEXPIREAT, with the milliseconds of the unit.
    HashExpireAt(u16),
    /// `XADD` without what recognises duplicates, and without LIMIT.
    XAdd,
    /// `XTRIM` without LIMIT.
    XTrim,
    /// `FUNCTION LOAD` and `RESTORE` with REPLACE.
    Function,
}

/// What the table says of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub keys: Keys,
    pub family: Family,
    pub form: Form,
}

/// One line of the table.
type Line = (Keys, Family, Form, &'static str);

const fn plain(keys: Keys, family: Family, names: &'static str) -> Line {
    (keys, family, Form::Plain, names)
}

/// The table. `PFCOUNT` writes: it caches the count in the value. `MOVE`, `RENAME` and their like
/// are ordered with everything else on both of their keys.
const TABLE: &[Line] = &[
    // No keys.
    plain(
        Keys::None,
        Family::Nothing,
        "PING SELECT MULTI EXEC REPLCONF PUBLISH SPUBLISH SCRIPT",
    ),
    (Keys::None, Family::Nothing, Form::Function, "FUNCTION"),
    // Strings.
    (Keys::First, Family::Ordered, Form::Set, "SET"),
    (Keys::First, Family::Ordered, Form::SetEx(1000), "SETEX"),
    (Keys::First, Family::Ordered, Form::SetEx(1), "PSETEX"),
    (Keys::First, Family::Ordered, Form::Named("SET"), "GETSET"),
    // Of two that had not seen each other the earlier holds, as in one Redis.
    plain(Keys::First, Family::Ordered, "SETNX"),
    (Keys::Pairs, Family::Ordered, Form::Plain, "MSET"),
    (Keys::Pairs, Family::Ordered, Form::Named("MSET"), "MSETNX"),
    (Keys::CountedPairs, Family::Ordered, Form::SetEach, "MSETEX"),
    plain(Keys::First, Family::Sum, "INCR DECR INCRBY DECRBY"),
    plain(
        Keys::First,
        Family::Ordered,
        "APPEND SETRANGE SETBIT BITFIELD INCRBYFLOAT INCREX GETEX",
    ),
    plain(Keys::SecondFromAll, Family::Ordered, "BITOP"),
    // Any type.
    plain(Keys::All, Family::Delete, "DEL UNLINK"),
    (
        Keys::First,
        Family::Delete,
        Form::Delete,
        "DELEX DELIFEQ GETDEL",
    ),
    (Keys::First, Family::Expiry, Form::Expire(1000), "EXPIRE"),
    (Keys::First, Family::Expiry, Form::Expire(1), "PEXPIRE"),
    (
        Keys::First,
        Family::Expiry,
        Form::ExpireAt(1000),
        "EXPIREAT",
    ),
    (Keys::First, Family::Expiry, Form::ExpireAt(1), "PEXPIREAT"),
    plain(Keys::First, Family::Expiry, "PERSIST"),
    (Keys::First, Family::Ordered, Form::Restore, "RESTORE"),
    (
        Keys::First,
        Family::Ordered,
        Form::Restore,
        "RESTORE-ASKING",
    ),
    plain(Keys::FirstTwo, Family::Move, "RENAME"),
    (
        Keys::FirstTwo,
        Family::Move,
        Form::Named("RENAME"),
        "RENAMENX",
    ),
    plain(Keys::Move, Family::Move, "MOVE"),
    plain(Keys::Copy, Family::Ordered, "COPY"),
    plain(
        Keys::FromStore,
        Family::Ordered,
        "SORT GEORADIUS GEORADIUSBYMEMBER",
    ),
    // Lists.
    plain(
        Keys::First,
        Family::Ordered,
        "LPUSH RPUSH LPUSHX RPUSHX LINSERT LREM LSET LTRIM LPOP RPOP BLPOP BRPOP",
    ),
    plain(
        Keys::FirstTwo,
        Family::Ordered,
        "RPOPLPUSH BRPOPLPUSH LMOVE BLMOVE",
    ),
    // Sets.
    plain(
        Keys::First,
        Family::Elements(Layout::Each, Effect::Add),
        "SADD",
    ),
    plain(
        Keys::First,
        Family::Elements(Layout::Each, Effect::Remove),
        "SREM HDEL ZREM",
    ),
    plain(Keys::First, Family::Ordered, "SPOP"),
    plain(
        Keys::FirstTwo,
        Family::Elements(Layout::Only(3), Effect::Take),
        "SMOVE",
    ),
    plain(
        Keys::ToFromAll,
        Family::Ordered,
        "SDIFFSTORE SINTERSTORE SUNIONSTORE",
    ),
    // Sorted sets, geo.
    (
        Keys::First,
        Family::Elements(Layout::Scored, Effect::Set),
        Form::ZAdd,
        "ZADD",
    ),
    plain(
        Keys::First,
        Family::Elements(Layout::Located, Effect::Set),
        "GEOADD",
    ),
    plain(
        Keys::First,
        Family::Elements(Layout::Only(3), Effect::Raise),
        "ZINCRBY",
    ),
    plain(
        Keys::First,
        Family::Ordered,
        "ZREMRANGEBYSCORE ZREMRANGEBYRANK ZREMRANGEBYLEX ZPOPMIN ZPOPMAX BZPOPMIN BZPOPMAX",
    ),
    plain(Keys::ToFrom, Family::Ordered, "ZRANGESTORE GEOSEARCHSTORE"),
    plain(
        Keys::ToFromCounted,
        Family::Ordered,
        "ZUNIONSTORE ZINTERSTORE ZDIFFSTORE",
    ),
    // Hashes.
    plain(
        Keys::First,
        Family::Elements(Layout::Pairs, Effect::Set),
        "HSET",
    ),
    plain(
        Keys::First,
        Family::Elements(Layout::Only(2), Effect::Raise),
        "HINCRBY",
    ),
    plain(
        Keys::First,
        Family::Elements(Layout::Only(2), Effect::Set),
        "HINCRBYFLOAT",
    ),
    plain(
        Keys::First,
        Family::Elements(Layout::Fields(1), Effect::Set),
        "HPERSIST HGETEX",
    ),
    (
        Keys::First,
        Family::Elements(Layout::Pairs, Effect::Set),
        Form::Named("HSET"),
        "HMSET HSETNX",
    ),
    (
        Keys::First,
        Family::Elements(Layout::Fields(2), Effect::Set),
        Form::HashSet,
        "HSETEX",
    ),
    (
        Keys::First,
        Family::Elements(Layout::Fields(1), Effect::Remove),
        Form::HashTake,
        "HGETDEL",
    ),
    (
        Keys::First,
        Family::Elements(Layout::Fields(1), Effect::Set),
        Form::HashExpire(1000),
        "HEXPIRE",
    ),
    (
        Keys::First,
        Family::Elements(Layout::Fields(1), Effect::Set),
        Form::HashExpire(1),
        "HPEXPIRE",
    ),
    (
        Keys::First,
        Family::Elements(Layout::Fields(1), Effect::Set),
        Form::HashExpireAt(1000),
        "HEXPIREAT",
    ),
    (
        Keys::First,
        Family::Elements(Layout::Fields(1), Effect::Set),
        Form::HashExpireAt(1),
        "HPEXPIREAT",
    ),
    // Streams.
    (
        Keys::First,
        Family::Elements(Layout::Entry, Effect::Set),
        Form::XAdd,
        "XADD",
    ),
    plain(
        Keys::First,
        Family::Elements(Layout::Each, Effect::Remove),
        "XDEL",
    ),
    (Keys::First, Family::Ordered, Form::XTrim, "XTRIM"),
    plain(
        Keys::First,
        Family::Ordered,
        "XDELEX XACKDEL XSETID XCFGSET XIDMPRECORD",
    ),
    plain(
        Keys::First,
        Family::Elements(Layout::Only(2), Effect::Set),
        "XACK XNACK XCLAIM XAUTOCLAIM",
    ),
    plain(
        Keys::Second,
        Family::Elements(Layout::Group, Effect::Set),
        "XGROUP",
    ),
    // HyperLogLog.
    plain(Keys::First, Family::Union, "PFADD"),
    plain(Keys::All, Family::Union, "PFCOUNT"),
    plain(Keys::ToFromAll, Family::Union, "PFMERGE"),
    plain(Keys::Second, Family::Ordered, "PFDEBUG"),
    // Vector sets and arrays of Redis 8.
    plain(
        Keys::First,
        Family::Ordered,
        "VADD VREM VSETATTR ARSET ARMSET ARDEL ARDELRANGE ARINSERT ARRING ARSEEK",
    ),
    // Databases, and what may touch anything.
    plain(Keys::Database, Family::Ordered, "FLUSHDB"),
    plain(
        Keys::Everything,
        Family::Ordered,
        "FLUSHALL SWAPDB EVAL EVALSHA FCALL",
    ),
];

/// The rows by length and first letter of their name: few names share both, so that a look-up, of
/// which every command costs some, is one or two comparisons.
static ROWS: LazyLock<Vec<Vec<Named>>> = LazyLock::new(|| {
    let mut rows = vec![Vec::new(); PLACES];
    for &(keys, family, form, names) in TABLE {
        let row = Row { keys, family, form };
        for name in names.split_whitespace().map(str::as_bytes) {
            let short = short(name);
            if let Some(same) = rows.get_mut(place(name)) {
                same.push(Named { short, name, row });
            }
        }
    }
    rows
});

/// A name, and what the table says of it.
#[derive(Clone, Debug)]
struct Named {
    /// See [`short`].
    short: u64,
    name: &'static [u8],
    row: Row,
}

/// How many lengths and letters [`place`] tells apart.
const PLACES: usize = 32 * 32;

/// Where a name is in [`ROWS`]. The low five bits of a letter are the same in both cases; a name
/// that is longer than all in the table meets none that is equal.
fn place(name: &[u8]) -> usize {
    let first = name.first().map_or(0, |letter| usize::from(letter & 31));
    (name.len() & 31) * 32 + first
}

/// A name of up to eight bytes as one number, which is compared at once: the same in both cases, for of
/// what is no letter nothing becomes one. Of names of one length only those are equal that are the same;
/// 0 for one that is longer.
fn short(name: &[u8]) -> u64 {
    if name.len() > 8 {
        return 0;
    }
    name.iter()
        .fold(0, |number, byte| number << 8 | u64::from(byte & !0x20))
}

/// The row of a command of this name, however it is spelt.
pub(super) fn row(name: &[u8]) -> Option<&'static Row> {
    let (same, short) = (ROWS.get(place(name))?, short(name));
    let is_it = |named: &&Named| match short {
        0 => named.name.eq_ignore_ascii_case(name),
        short => named.short == short,
    };
    same.iter().find(is_it).map(|named| &named.row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_there_twice() {
        let names = TABLE.iter().flat_map(|line| line.3.split_whitespace());
        for name in names.clone() {
            assert_eq!(names.clone().filter(|n| *n == name).count(), 1, "{name}");
            assert!(row(name.to_lowercase().as_bytes()).is_some(), "{name}");
        }
        assert!(ROWS.iter().all(|same| same.len() < 10));
        let named = || ROWS.iter().flatten();
        assert!(
            named().all(|n| n.name.len() < 32),
            "no length is there twice"
        );
        let mut short = named().filter(|n| n.name.len() <= 8);
        assert!(short.all(|n| n.name.iter().all(u8::is_ascii_uppercase)));
        assert_eq!(row(b""), None);
        let fields = Family::Elements(Layout::Pairs, Effect::Set);
        assert_eq!(row(b"hset").unwrap().family, fields);
        assert_eq!(row(b"AVERYLONGCOMMANDNAMETHATNOBODYKNOWS"), None);
        for other in [
            &b"S5T"[..],
            b"SE\xd4",
            b"\x13ET",
            b"SET\0",
            b"\0SET",
            b" SET",
            b"   ",
        ] {
            assert_eq!(row(other), None, "{other:?}");
        }
    }
}

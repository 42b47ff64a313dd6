//! Every row of the promise, with the value that both sites end with: when the first of the pair is
//! the earlier write, and when it is the later one.

use crate::conflicts::case::{Case, Expected, row, write};
use crate::conformance::case::{R60, R62};

type Lines = &'static [&'static str];

const fn each(first_is_earlier: Lines, first_is_later: Lines, why: &'static str) -> Expected {
    Expected::These([first_is_earlier, first_is_later], why)
}

const fn both(lines: Lines, why: &'static str) -> Expected {
    Expected::These([lines, lines], why)
}

const EQUAL: Expected = Expected::Equal("equal keys everywhere");

const LATER: &str = "the later write";
const RANK: &str = "the later write, applied after the earlier";
const THE_SET: &str = "a write beats a delete";
const SUM: &str = "the sum";

pub(super) const STRINGS: &[Case] = &[
    row(
        &[],
        [write(&["SET @k one"]), write(&["SET @k two"])],
        each(&["SET @k two"], &["SET @k one"], LATER),
    ),
    row(
        &["SET @k old"],
        [write(&["GETSET @k one"]), write(&["SET @k two"])],
        each(&["SET @k two"], &["SET @k one"], LATER),
    ),
    row(
        &["SET @k abcdef"],
        [write(&["SET @k 123456"]), write(&["SETRANGE @k 2 XY"])],
        each(&["SET @k 12XY56"], &["SET @k 123456"], RANK),
    ),
    row(
        &["SET @k abcdef"],
        [write(&["SETRANGE @k 0 12"]), write(&["SETRANGE @k 1 XY"])],
        each(&["SET @k 1XYdef"], &["SET @k 12Ydef"], RANK),
    ),
    row(
        &[],
        [write(&["SET @k A"]), write(&["SETBIT @k 6 1"])],
        each(&["SET @k C"], &["SET @k A"], RANK),
    ),
    row(
        &["SET @k aa"],
        [
            write(&["BITFIELD @k SET u8 0 98"]),
            write(&["SETBIT @k 4 1"]),
        ],
        each(&["SET @k ja"], &["SET @k ba"], RANK),
    ),
    row(
        &["SET @k old"],
        [write(&["SET @k new"]), write(&["DEL @k"])],
        both(&["SET @k new"], THE_SET),
    ),
    row(
        &["SET @k old"],
        [write(&["SET @k new"]), write(&["UNLINK @k"])],
        both(&["SET @k new"], THE_SET),
    ),
    row(
        &["SET @k old"],
        [write(&["SETEX @k 1000 new"]), write(&["DEL @k"])],
        both(&["SETEX @k 1000 new"], THE_SET),
    ),
    row(
        &["SET @k old"],
        [write(&["DEL @k"]), write(&["DEL @k"])],
        both(&[], "both deleted it"),
    ),
    row(
        &[],
        [write(&["SETNX @k one"]), write(&["SETNX @k two"])],
        each(&["SET @k one"], &["SET @k two"], "the earlier"),
    ),
    row(
        &[],
        [
            write(&["SET @k one NX EX 1000"]),
            write(&["SET @k two NX EX 2000"]),
        ],
        each(&["SETEX @k 2000 two"], &["SETEX @k 1000 one"], LATER),
    ),
    row(
        &["SET @k 10"],
        [write(&["INCR @k"]), write(&["INCRBY @k 5"])],
        both(&["SET @k 16"], SUM),
    ),
    row(
        &[],
        [write(&["DECR @k", "DECRBY @k 2"]), write(&["INCR @k"])],
        both(&["SET @k -2"], SUM),
    ),
    row(
        &["SET @k 10"],
        [write(&["INCRBYFLOAT @k 0.5"]), write(&["INCRBYFLOAT @k 2"])],
        each(&["SET @k 12"], &["SET @k 10.5"], "the later result"),
    ),
    row(
        &["SET @k 10"],
        [write(&["SET @k 100"]), write(&["INCR @k"])],
        each(&["SET @k 101"], &["SET @k 100"], "SET, then INCR if later"),
    ),
    row(
        &["SET @k 10"],
        [write(&["DEL @k"]), write(&["INCRBY @k 4"])],
        both(&["SET @k 4"], "the amount of the INCR"),
    ),
    row(
        &["SET @k 10"],
        [write(&["GETDEL @k"]).since(R62), write(&["INCRBY @k 4"])],
        both(&["SET @k 4"], "the amount of the INCR"),
    ),
    row(
        &["SET @k -"],
        [write(&["APPEND @k one"]), write(&["APPEND @k two"])],
        each(&["SET @k -onetwo"], &["SET @k -twoone"], "both"),
    ),
    row(
        &["SET @k v"],
        [write(&["EXPIRE @k 1000"]), write(&["EXPIRE @k 2000"])],
        each(&["SETEX @k 2000 v"], &["SETEX @k 1000 v"], LATER),
    ),
    row(
        &["SETEX @k 5000 v"],
        [write(&["EXPIRE @k 1000"]), write(&["PERSIST @k"])],
        each(&["SET @k v"], &["SETEX @k 1000 v"], LATER),
    ),
    row(
        &["SET @k v"],
        [write(&["EXPIRE @k 1000"]), write(&["DEL @k"])],
        both(&["SETEX @k 1000 v"], "the key, with the new TTL"),
    ),
    row(
        &["SETEX @k 5000 v"],
        [write(&["PERSIST @k"]), write(&["DEL @k"])],
        both(&["SET @k v"], "the key, with the new TTL"),
    ),
    row(
        &["SETEX @k 5000 v"],
        [
            write(&["SET @k new KEEPTTL"]).since(R60),
            write(&["EXPIRE @k 1000"]),
        ],
        both(&["SETEX @k 1000 new"], "both in rank order"),
    ),
    row(
        &["PFADD @k s"],
        [write(&["PFADD @k a b"]), write(&["PFADD @k c"])],
        both(&["PFADD @k s", "PFADD @k a b", "PFADD @k c"], "the union"),
    ),
];

pub(super) const COLLECTIONS: &[Case] = &[
    row(
        &["RPUSH @l m"],
        [write(&["LPUSH @l one"]), write(&["LPUSH @l two"])],
        each(&["RPUSH @l two one m"], &["RPUSH @l one two m"], "both"),
    ),
    row(
        &["RPUSH @l m"],
        [write(&["RPUSH @l one"]), write(&["RPUSH @l two"])],
        each(&["RPUSH @l m one two"], &["RPUSH @l m two one"], "both"),
    ),
    row(
        &["RPUSH @l m n"],
        [
            write(&["LINSERT @l AFTER m one"]),
            write(&["LINSERT @l AFTER m two"]),
        ],
        each(&["RPUSH @l m two one n"], &["RPUSH @l m one two n"], "both"),
    ),
    row(
        &["RPUSH @l 1 2 3 4"],
        [write(&["LPOP @l"]), write(&["LPOP @l"])],
        both(&["RPUSH @l 3 4"], "two elements gone"),
    ),
    row(
        &["RPUSH @l 1 2 3 4"],
        [write(&["LPOP @l"]), write(&["BLPOP @l 1"])],
        both(&["RPUSH @l 3 4"], "two elements gone"),
    ),
    row(
        &["ZADD @z 1 a 2 b 3 c"],
        [write(&["ZPOPMIN @z"]), write(&["ZPOPMIN @z"])],
        both(&["ZADD @z 3 c"], "two elements gone"),
    ),
    row(
        &["HSET @h f old"],
        [write(&["HSET @h f one"]), write(&["HSET @h f two"])],
        each(&["HSET @h f two"], &["HSET @h f one"], LATER),
    ),
    row(
        &["HSET @h f 1 g 2 n 3"],
        [
            write(&["HSET @h f one"]),
            write(&["HDEL @h g", "HINCRBY @h n 4"]),
        ],
        both(&["HSET @h f one n 7"], "both: they commute"),
    ),
    row(
        &["HSET @h f old g 1"],
        [write(&["HSET @h f one"]), write(&["HDEL @h f"])],
        each(&["HSET @h g 1"], &["HSET @h f one g 1"], LATER),
    ),
    row(
        &["HSET @h n 10"],
        [write(&["HINCRBY @h n 1"]), write(&["HINCRBY @h n 5"])],
        both(&["HSET @h n 16"], SUM),
    ),
    row(
        &["HSET @h n 10"],
        [
            write(&["HINCRBYFLOAT @h n 0.5"]),
            write(&["HINCRBYFLOAT @h n 2"]),
        ],
        each(&["HSET @h n 12"], &["HSET @h n 10.5"], "the later result"),
    ),
    row(
        &["SADD @s m"],
        [write(&["SADD @s one"]), write(&["SADD @s two"])],
        both(&["SADD @s m one two"], "the union"),
    ),
    row(
        &["SADD @s m n"],
        [write(&["SREM @s m", "SADD @s m"]), write(&["SREM @s m"])],
        each(&["SADD @s n"], &["SADD @s m n"], LATER),
    ),
    row(
        &["SADD @s m n"],
        [write(&["SADD @s m"]), write(&["SREM @s m"])],
        both(&["SADD @s n"], "what had no effect is not in the stream"),
    ),
    row(
        &["HSET @h old 1"],
        [write(&["DEL @h"]), write(&["HSET @h new 1"])],
        both(&["HSET @h new 1"], "only what was added"),
    ),
    row(
        &["SADD @s old"],
        [write(&["DEL @s"]), write(&["SADD @s new"])],
        both(&["SADD @s new"], "only what was added"),
    ),
    row(
        &["ZADD @z 1 old"],
        [write(&["DEL @z"]), write(&["ZADD @z 2 new"])],
        both(&["ZADD @z 2 new"], "only what was added"),
    ),
    row(
        &["RPUSH @l old"],
        [write(&["DEL @l"]), write(&["LPUSH @l new"])],
        both(&["RPUSH @l new"], "only what was added"),
    ),
    row(
        &["HSET @h last 1", "EXPIRE @h 1000"],
        [write(&["HDEL @h last"]), write(&["HSET @h new 1"])],
        both(
            &["HSET @h new 1", "EXPIRE @h 1000"],
            "the addition, with the TTL",
        ),
    ),
    row(
        &["SADD @s last", "EXPIRE @s 1000"],
        [write(&["SREM @s last"]), write(&["SADD @s new"])],
        both(
            &["SADD @s new", "EXPIRE @s 1000"],
            "the addition, with the TTL",
        ),
    ),
    row(
        &["ZADD @z 1 last", "EXPIRE @z 1000"],
        [write(&["ZREM @z last"]), write(&["ZADD @z 2 new"])],
        both(
            &["ZADD @z 2 new", "EXPIRE @z 1000"],
            "the addition, with the TTL",
        ),
    ),
    row(
        &["RPUSH @l last", "EXPIRE @l 1000"],
        [write(&["LPOP @l"]), write(&["RPUSH @l new"])],
        EQUAL,
    ),
    row(
        &["ZADD @z 1 m"],
        [write(&["ZADD @z 5 m"]), write(&["ZADD @z 7 m"])],
        each(&["ZADD @z 7 m"], &["ZADD @z 5 m"], "the later score"),
    ),
    row(
        &["ZADD @z 1 m"],
        [
            write(&["ZADD @z GT 5 m"]).since(R62),
            write(&["ZADD @z GT 7 m"]).since(R62),
        ],
        both(&["ZADD @z 7 m"], "GT is evaluated again"),
    ),
    row(
        &["ZADD @z 1 m"],
        [write(&["ZINCRBY @z 2 m"]), write(&["ZINCRBY @z 3 m"])],
        both(&["ZADD @z 6 m"], SUM),
    ),
    row(
        &["ZADD @z 0.1 m"],
        [write(&["ZINCRBY @z 0.2 m"]), write(&["ZINCRBY @z 0.3 m"])],
        EQUAL,
    ),
    row(
        &["ZADD @z 1 m 1 n"],
        [write(&["ZREM @z m"]), write(&["ZADD @z 3 m"])],
        each(&["ZADD @z 1 n 3 m"], &["ZADD @z 1 n"], LATER),
    ),
];

pub(super) const STREAMS: &[Case] = &[
    row(
        &[],
        [write(&["XADD @x 5-1 f one"]), write(&["XADD @x 6-1 f two"])],
        both(
            &["XADD @x 5-1 f one", "XADD @x 6-1 f two"],
            "both entries, by id",
        ),
    ),
    row(
        &["XADD @x 1-1 f old"],
        [
            write(&["XADD @x 2-1 f a", "XADD @x 4-1 f c", "XADD @x 6-1 f e"]),
            write(&["XADD @x 3-1 f b", "XADD @x 5-1 f d"]),
        ],
        both(
            &[
                "XADD @x 1-1 f old",
                "XADD @x 2-1 f a",
                "XADD @x 3-1 f b",
                "XADD @x 4-1 f c",
                "XADD @x 5-1 f d",
                "XADD @x 6-1 f e",
            ],
            "both entries, by id",
        ),
    ),
    row(
        &[],
        [write(&["XADD @x 5-1 f one"]), write(&["XADD @x 5-1 f two"])],
        each(
            &["XADD @x 5-1 f one", "XADD @x 5-2 f two"],
            &["XADD @x 5-1 f two", "XADD @x 5-2 f one"],
            "the same id: both, the later with the next",
        ),
    ),
    row(
        &["XADD @x 1-1 f old"],
        [write(&["DEL @x"]), write(&["XADD @x 5-1 f new"])],
        both(&["XADD @x 5-1 f new"], "only what was added"),
    ),
    row(
        &["XADD @x 1-1 f old", "XGROUP CREATE @x g 0"],
        [
            write(&["XREADGROUP GROUP g one STREAMS @x >"]),
            write(&["XREADGROUP GROUP g two STREAMS @x >"]),
        ],
        EQUAL,
    ),
    row(
        &["XADD @x 1-1 f old"],
        [
            write(&["XGROUP CREATE @x g 0"]),
            write(&["XADD @x 2-1 f new"]),
        ],
        both(
            &[
                "XADD @x 1-1 f old",
                "XGROUP CREATE @x g 0",
                "XADD @x 2-1 f new",
            ],
            "both",
        ),
    ),
];

pub(super) const SEVERAL_KEYS: &[Case] = &[
    row(
        &["SET @k 5"],
        [write(&["RENAME @k @d"]), write(&["INCR @k"])],
        each(&["SET @d 5", "SET @k 1"], &["SET @d 6"], "in rank order"),
    ),
    row(
        &["SET @k 5", "SET @d 9"],
        [write(&["RENAME @k @d"]), write(&["SET @d new"])],
        each(&["SET @d new"], &["SET @d 5"], "in rank order"),
    ),
    row(
        &["SET @k 5"],
        [write(&["RENAME @k @d"]), write(&["DEL @k"])],
        both(&["SET @d 5"], "the renamed key"),
    ),
    row(
        &["SET @k 5", "EXPIRE @k 5000"],
        [write(&["RENAME @k @d"]), write(&["GETDEL @k"]).since(R62)],
        both(&["SETEX @d 5000 5"], "the renamed key"),
    ),
    row(
        &["SET @k 5"],
        [write(&["COPY @k @d"]).since(R62), write(&["INCR @k"])],
        each(
            &["SET @k 6", "SET @d 5"],
            &["SET @k 6", "SET @d 6"],
            "in rank order",
        ),
    ),
    row(
        &["SET @k 5"],
        [write(&["MOVE @k {db}"]), write(&["INCR @k"])],
        each(
            &["SELECT {db}", "SET @k 5", "SELECT 0", "SET @k 1"],
            &["SELECT {db}", "SET @k 6", "SELECT 0"],
            "in rank order",
        ),
    ),
    row(
        &["SADD @s a", "SADD @t b"],
        [write(&["SUNIONSTORE @u @s @t"]), write(&["SADD @s c"])],
        each(
            &["SADD @s a c", "SADD @t b", "SADD @u a b"],
            &["SADD @s a c", "SADD @t b", "SADD @u a b c"],
            "in rank order",
        ),
    ),
    row(
        &["RPUSH @l 3 1 2"],
        [write(&["SORT @l STORE @d"]), write(&["RPUSH @l 0"])],
        each(
            &["RPUSH @l 3 1 2 0", "RPUSH @d 1 2 3"],
            &["RPUSH @l 3 1 2 0", "RPUSH @d 0 1 2 3"],
            "in rank order",
        ),
    ),
    row(
        &["SET @k A"],
        [write(&["BITOP NOT @d @k"]), write(&["SET @k B"])],
        each(
            &["SET @k B", "SET @d \\xbe"],
            &["SET @k B", "SET @d \\xbd"],
            "in rank order",
        ),
    ),
    row(
        &["PFADD @p a", "PFADD @q b"],
        [write(&["PFMERGE @to @p @q"]), write(&["PFADD @p c"])],
        EQUAL,
    ),
    row(
        &["SELECT {db}", "SET @k 1", "SET @other 1"],
        [
            write(&["SELECT {db}", "FLUSHDB"]),
            write(&["SELECT {db}", "SET @k 2"]),
        ],
        both(&["SELECT {db}", "SET @k 2"], "the write survives"),
    ),
    row(
        &["SELECT {db}", "SET @k 1", "SET @other 1"],
        [
            write(&["SELECT {db}", "INCR @k"]),
            write(&["SELECT {db}", "FLUSHDB"]),
        ],
        both(&["SELECT {db}", "SET @k 1"], "the write survives"),
    ),
    row(
        &["SELECT {db}", "SET @k 1", "SET @other 1"],
        [
            write(&["SELECT {db}", "FLUSHDB"]),
            write(&["SELECT {db}", "FLUSHDB"]),
        ],
        both(&[], "both deleted it"),
    ),
    row(
        &[
            "SELECT {db}",
            "SET @k 1",
            "SELECT {db2}",
            "SET @k 2",
            "SET @j 3",
        ],
        [
            write(&["SWAPDB {db} {db2}"]),
            write(&["SELECT {db}", "SET @k new"]),
        ],
        EQUAL,
    ),
    row(
        &[
            "SELECT {db}",
            "SET @k 1",
            "SELECT {db2}",
            "SET @k 2",
            "SET @j 3",
        ],
        [
            write(&["SWAPDB {db} {db2}"]),
            write(&["SELECT {db2}", "INCR @j", "SELECT {db}", "INCR @k"]),
        ],
        EQUAL,
    ),
    row(
        &["SET @k 1"],
        [
            write(&["MULTI", "SET @k 50", "INCR @n", "EXEC"]),
            write(&["SET @k 7"]),
        ],
        each(
            &["SET @k 7", "SET @n 1"],
            &["SET @k 50", "SET @n 1"],
            "the unit whole, each key by itself",
        ),
    ),
    row(
        &["SET @k 1"],
        [
            write(&["EVAL 'redis.call(\"INCR\",KEYS[1]) redis.call(\"INCR\",KEYS[2])' 2 @k @n"]),
            write(&["SET @k 7"]),
        ],
        each(
            &["SET @k 7", "SET @n 1"],
            &["SET @k 8", "SET @n 1"],
            "the unit whole, each key by itself",
        ),
    ),
    row(
        &[],
        [write(&["SET @k v"]), write(&["LPUSH @k x"])],
        each(
            &["SET @k v"],
            &["SET @k v"],
            "a SET replaces, a push fails on it",
        ),
    ),
    row(
        &[],
        [write(&["SADD @k m"]), write(&["LPUSH @k x"])],
        each(
            &["SADD @k m"],
            &["LPUSH @k x"],
            "the later fails on the type",
        ),
    ),
    row(
        &["SET @k 1"],
        [
            write(&["DEL @k", "HSET @k f v"]),
            write(&["DEL @k", "ZADD @k 1 m"]),
        ],
        EQUAL,
    ),
];

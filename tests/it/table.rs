//! One table of every data type and kind of write, run by the tests that need all of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::Client;

/// Writes that leave something behind: a name, the version of Redis that knows them, commands.
///
/// `@` stands for the site, so that every row runs at both; `{s+100}` and `{ms+100}` are the
/// time in 100 seconds, in seconds and in milliseconds.
const ROWS: &[(&str, (u32, u32), &[&str])] = &[
    (
        "strings",
        (5, 0),
        &[
            "SET @s:1 hello",
            "APPEND @s:1 -world",
            "SETRANGE @s:2 5 x",
            "SET @s:3 1 NX",
            "SET @s:3 2 XX",
            "SETNX @s:4 v",
            "GETSET @s:4 w",
            "MSET @s:5 1 @s:6 2",
            "MSETNX @s:7 1 @s:8 2",
            "SET @s:empty \"\"",
            "SET @s:binary \\x00\\x01\\xfe\\xff\\r\\n",
        ],
    ),
    (
        "counters",
        (5, 0),
        &[
            "INCR @n:1",
            "INCRBY @n:1 41",
            "DECR @n:2",
            "DECRBY @n:2 9",
            "INCRBYFLOAT @n:3 0.1",
            "INCRBYFLOAT @n:3 0.2",
            "SET @n:max 9223372036854775806",
            "INCR @n:max",
        ],
    ),
    (
        "string options",
        (6, 2),
        &[
            "SET @so:1 a EX 100",
            "SET @so:1 b KEEPTTL",
            "SET @so:2 a GET",
            "SET @so:3 a EXAT {s+100}",
            "SET @so:4 a PXAT {ms+100}",
            "SET @so:5 a",
            "GETDEL @so:5",
        ],
    ),
    (
        "bitmaps",
        (5, 0),
        &[
            "SETBIT @bit:1 77 1",
            "BITFIELD @bit:2 SET u8 0 200 INCRBY u8 8 100 OVERFLOW SAT INCRBY i4 20 9",
            "SETBIT @bit:3 3 1",
            "BITOP OR @bit:4 @bit:1 @bit:3",
            "BITOP NOT @bit:5 @bit:1",
        ],
    ),
    (
        "hyperloglogs",
        (5, 0),
        &[
            "PFADD @hll:1 a b c",
            "PFADD @hll:2 c d",
            "PFMERGE @hll:3 @hll:1 @hll:2",
            "PFCOUNT @hll:3",
        ],
    ),
    (
        "lists",
        (5, 0),
        &[
            "RPUSH @l:1 a b c d e f a",
            "LPUSH @l:1 z",
            "LPUSHX @l:1 y",
            "RPUSHX @l:none y",
            "LINSERT @l:1 BEFORE c bc",
            "LSET @l:1 0 first",
            "LREM @l:1 -1 a",
            "LTRIM @l:1 0 6",
            "LPOP @l:1",
            "RPOP @l:1",
            "RPOPLPUSH @l:1 @l:2",
            "RPUSH @l:3 gone",
            "LPOP @l:3",
        ],
    ),
    (
        "lists, later commands",
        (6, 2),
        &[
            "RPUSH @ll:1 a b c d",
            "LMOVE @ll:1 @ll:2 LEFT RIGHT",
            "LPOP @ll:1 2",
        ],
    ),
    (
        "lists, still later commands",
        (7, 0),
        &["RPUSH @lm:1 a b c d", "LMPOP 2 @lm:0 @lm:1 RIGHT COUNT 2"],
    ),
    (
        "sets",
        (5, 0),
        &[
            "SADD @set:1 a b c 1 2 3",
            "SADD @set:2 b c d",
            "SREM @set:1 a",
            "SMOVE @set:1 @set:3 1",
            "SPOP @set:1",
            "SPOP @set:1 2",
            "SADD @set:4 1 2 3 4",
            "SINTERSTORE @set:5 @set:1 @set:2",
            "SUNIONSTORE @set:6 @set:1 @set:2",
            "SDIFFSTORE @set:7 @set:4 @set:1",
        ],
    ),
    (
        "sorted sets",
        (5, 0),
        &[
            "ZADD @z:1 1 a 2 b 3 c 4 d 5 e 6 f -inf g +inf h",
            "ZADD @z:1 XX CH 2.5 b",
            "ZADD @z:1 INCR 0.1 c",
            "ZINCRBY @z:1 10 d",
            "ZREM @z:1 e",
            "ZPOPMIN @z:1",
            "ZPOPMAX @z:1 1",
            "ZADD @z:2 1 a 2 b 3 c 4 d 5 e",
            "ZREMRANGEBYRANK @z:2 0 0",
            "ZREMRANGEBYSCORE @z:2 5 +inf",
            "ZADD @z:3 0 a 0 b 0 c",
            "ZREMRANGEBYLEX @z:3 [a (b",
            "ZUNIONSTORE @z:4 2 @z:1 @z:2 WEIGHTS 2 3",
            "ZINTERSTORE @z:5 2 @z:1 @z:2 AGGREGATE MAX",
        ],
    ),
    (
        "sorted sets, later commands",
        (6, 2),
        &[
            "ZADD @zz:1 1 a 2 b 3 c",
            "ZADD @zz:1 GT 5 a",
            "ZRANGESTORE @zz:2 @zz:1 0 1",
            "ZDIFFSTORE @zz:3 2 @zz:1 @zz:2",
        ],
    ),
    (
        "geo",
        (5, 0),
        &[
            "GEOADD @geo:1 13.361389 38.115556 Palermo 15.087269 37.502669 Catania",
            "GEORADIUS @geo:1 15 37 200 km STORE @geo:2",
            "GEORADIUS @geo:1 15 37 200 km STOREDIST @geo:3",
        ],
    ),
    (
        "geo, later commands",
        (6, 2),
        &[
            "GEOADD @gs:1 13.361389 38.115556 Palermo 15.087269 37.502669 Catania",
            "GEOSEARCHSTORE @gs:2 @gs:1 FROMLONLAT 15 37 BYRADIUS 200 km",
        ],
    ),
    (
        "hashes",
        (5, 0),
        &[
            "HSET @h:1 f 1 g 2 h 3",
            "HMSET @h:1 i 4 j 5",
            "HSETNX @h:1 k 6",
            "HINCRBY @h:1 f 41",
            "HINCRBYFLOAT @h:1 g 0.5",
            "HDEL @h:1 h",
            "HSET @h:2 f 1",
            "HDEL @h:2 f",
        ],
    ),
    (
        "streams",
        (5, 0),
        &[
            "XADD @x:1 * f 1 g 2",
            "XADD @x:1 MAXLEN ~ 1000 * f 2",
            "XADD @x:2 5-1 f 1",
            "XADD @x:2 5-2 f 2",
            "XADD @x:2 6-0 f 3",
            "XADD @x:2 7-0 f 4",
            "XDEL @x:2 5-2",
            "XGROUP CREATE @x:2 g 0",
            "XREADGROUP GROUP g c1 COUNT 2 STREAMS @x:2 >",
            "XACK @x:2 g 5-1",
            "XCLAIM @x:2 g c2 0 6-0",
            "XGROUP CREATE @x:3 g $ MKSTREAM",
            "XADD @x:4 1-1 f 1",
            "XADD @x:4 1-2 f 1",
            "XADD @x:4 1-3 f 1",
            "XTRIM @x:4 MAXLEN 1",
            "XSETID @x:4 9-9",
            "XGROUP CREATE @x:4 gone 0",
            "XGROUP DESTROY @x:4 gone",
            "XGROUP SETID @x:2 g 7-0",
        ],
    ),
    (
        "streams, later commands",
        (6, 2),
        &[
            "XADD @xx:1 1-1 f 1",
            "XADD @xx:1 2-1 f 1",
            "XADD @xx:1 NOMKSTREAM MINID 2 3-1 f 1",
            "XGROUP CREATE @xx:1 g 0",
            "XGROUP CREATECONSUMER @xx:1 g idle",
            "XREADGROUP GROUP g c NOACK COUNT 1 STREAMS @xx:1 >",
            "XREADGROUP GROUP g c COUNT 1 STREAMS @xx:1 >",
            "XAUTOCLAIM @xx:1 g d 0 0",
        ],
    ),
    (
        "expiries",
        (5, 0),
        &[
            "SET @e:1 v EX 100",
            "SET @e:2 v PX 100000",
            "SETEX @e:3 100 v",
            "PSETEX @e:4 100000 v",
            "SET @e:5 v",
            "EXPIRE @e:5 100",
            "SET @e:6 v",
            "PEXPIRE @e:6 100000",
            "SET @e:7 v",
            "EXPIREAT @e:7 {s+100}",
            "SET @e:8 v",
            "PEXPIREAT @e:8 {ms+100}",
            "SET @e:9 v EX 100",
            "PERSIST @e:9",
            "SET @e:10 v EX 100",
            "SET @e:10 w",
            "SET @e:11 v",
            "EXPIRE @e:11 -1",
            "RPUSH @e:12 a",
            "EXPIRE @e:12 100",
            "RPUSH @e:12 b",
        ],
    ),
    (
        "expiries, later commands",
        (6, 2),
        &[
            "SET @ge:1 v",
            "GETEX @ge:1 EX 100",
            "SET @ge:2 v EX 100",
            "GETEX @ge:2 PERSIST",
            "SET @ge:3 v",
            "GETEX @ge:3 PXAT {ms+100}",
        ],
    ),
    (
        "expiries with conditions",
        (7, 0),
        &[
            "SET @ec:1 v EX 100",
            "EXPIRE @ec:1 200 GT",
            "EXPIRE @ec:1 50 GT",
            "SET @ec:2 v",
            "EXPIRE @ec:2 100 NX",
            "EXPIRE @ec:2 200 NX",
            "EXPIRE @ec:2 150 XX",
        ],
    ),
    (
        "whole keys",
        (5, 0),
        &[
            "SET @k:1 v EX 100",
            "RENAME @k:1 @k:2",
            "SET @k:3 v",
            "RENAMENX @k:3 @k:4",
            "SET @k:5 v",
            "DEL @k:5",
            "RPUSH @k:6 1 2 3",
            "UNLINK @k:6",
            "RPUSH @k:7 3 1 2",
            "SORT @k:7 STORE @k:8",
            "SORT @k:7 BY nosort LIMIT 0 2 STORE @k:9",
            "SET @k:10 v",
            "MOVE @k:10 5",
        ],
    ),
    (
        "copies",
        (6, 2),
        &[
            "RPUSH @c:1 a b",
            "EXPIRE @c:1 100",
            "COPY @c:1 @c:2",
            "SET @c:3 v",
            "COPY @c:1 @c:3 REPLACE",
            "COPY @c:1 @c:1 DB 6",
        ],
    ),
    (
        "scripts and transactions",
        (5, 0),
        &[
            "EVAL 'redis.call(\"SET\",KEYS[1],ARGV[1]) redis.call(\"INCR\",KEYS[2]) return 1' 2 @t:1 @t:2 v",
            "EVAL 'return redis.call(\"INCR\",KEYS[1])' 1 @t:3",
            "EVAL 'for i=1,100 do redis.call(\"RPUSH\",KEYS[1],i) end' 1 @t:4",
            "MULTI",
            "SET @t:5 1",
            "INCR @t:5",
            "SELECT 3",
            "SET @t:6 other",
            "SELECT 0",
            "EXEC",
            "MULTI",
            "SET @t:7 discarded",
            "DISCARD",
        ],
    ),
];

/// Runs every row that this server knows.
pub(crate) fn fill(client: &mut Client, site: &str) {
    let version = client.version();
    fill_as(client, site, version);
}

/// Runs every row that a server of this version knows.
pub(crate) fn fill_as(client: &mut Client, site: &str, version: (u32, u32)) {
    for (name, since, lines) in ROWS {
        if version < *since {
            println!("not known to {version:?}: {name}");
            continue;
        }
        for line in *lines {
            client.run(&filled(line, site));
        }
    }
}

/// A line of the table, for one site and for now.
fn filled(line: &str, site: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let later = now + Duration::from_secs(100);
    line.replace('@', &format!("{site}:"))
        .replace("{s+100}", &later.as_secs().to_string())
        .replace("{ms+100}", &later.as_millis().to_string())
}

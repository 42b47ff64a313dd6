//! Whole keys, expiry, and names and values of any bytes.

use crate::conformance::case::{Case, R50, R62, R70, case};

pub(super) const KEYS: &[Case] = &[
    case(
        "DEL",
        R50,
        &["SET @1 v", "RPUSH @2 a", "DEL @1 @2 @3", "DEL @3"],
    )
    .answers(&[("EXISTS @1 @2", "0")]),
    case(
        "UNLINK",
        R50,
        &["SET @1 v", "RPUSH @2 a", "UNLINK @1 @2 @3", "UNLINK @3"],
    )
    .answers(&[("EXISTS @1 @2", "0")]),
    case(
        "RENAME",
        R50,
        &[
            "SET @1 v EX 100",
            "RENAME @1 @2",
            "SET @3 v",
            "SET @4 w EX 100",
            "RENAME @3 @4",
            "RENAME @4 @4",
            "!RENAME @5 @6",
        ],
    )
    .answers(&[("EXISTS @1 @2", "1")]),
    case(
        "RENAMENX",
        R50,
        &["SET @1 v", "RENAMENX @1 @2", "SET @3 v", "RENAMENX @3 @2"],
    )
    .answers(&[("EXISTS @1 @2 @3", "2")]),
    case(
        "RENAME of every type",
        R50,
        &[
            "RPUSH @l a b",
            "RENAME @l @l2",
            "SADD @s a b",
            "RENAME @s @s2",
            "ZADD @z 1 a",
            "RENAME @z @z2",
            "HSET @h f 1",
            "RENAME @h @h2",
            "XADD @x 1-1 f 1",
            "RENAME @x @x2",
        ],
    ),
    case(
        "COPY",
        R62,
        &[
            "RPUSH @1 a b",
            "EXPIRE @1 100",
            "COPY @1 @2",
            "COPY @1 @2",
            "SET @3 v",
            "COPY @1 @3 REPLACE",
            "COPY @9 @8",
        ],
    ),
    case(
        "COPY of every type",
        R62,
        &[
            "SET @k v",
            "COPY @k @k2",
            "SADD @s a b",
            "COPY @s @s2",
            "ZADD @z 1 a",
            "COPY @z @z2",
            "HSET @h f 1",
            "COPY @h @h2",
            "XADD @x 1-1 f 1",
            "XGROUP CREATE @x g 0",
            "COPY @x @x2",
        ],
    ),
    case(
        "SORT STORE",
        R50,
        &[
            "RPUSH @1 3 1 2",
            "SORT @1 STORE @2",
            "SORT @1 DESC LIMIT 0 2 STORE @3",
            "SADD @4 b a c",
            "SORT @4 ALPHA STORE @5",
            "SORT @9 STORE @2",
        ],
    ),
    case(
        "SORT BY GET STORE",
        R50,
        &[
            "RPUSH @1 1 2",
            "MSET @w1 9 @w2 3 @d1 one @d2 two",
            "SORT @1 BY @w* GET @d* GET # STORE @2",
            "SORT @1 BY nosort GET @d* STORE @3",
        ],
    ),
    case("SORT that only reads", R50, &["RPUSH @1 3 1 2", "SORT @1"]),
    case(
        "RESTORE",
        R50,
        &[
            "RPUSH @1 a b c",
            "DUMP @1",
            "RESTORE @2 0 {reply}",
            "SET @3 v",
            "DUMP @1",
            "RESTORE @3 0 {reply} REPLACE",
        ],
    ),
    case(
        "RESTORE with a TTL",
        R50,
        &[
            "SADD @1 a b c",
            "DUMP @1",
            "RESTORE @2 100000 {reply}",
            "DUMP @1",
            "RESTORE @3 {ms+100} {reply} ABSTTL",
        ],
    ),
    case(
        "RESTORE of every type",
        R50,
        &[
            "SET @k v",
            "DUMP @k",
            "RESTORE @k2 0 {reply}",
            "ZADD @z 1 a 2 b",
            "DUMP @z",
            "RESTORE @z2 0 {reply}",
            "HSET @h f 1 g 2",
            "DUMP @h",
            "RESTORE @h2 0 {reply}",
            "XADD @x 1-1 f 1",
            "XGROUP CREATE @x g 0",
            "XREADGROUP GROUP g c STREAMS @x >",
            "DUMP @x",
            "RESTORE @x2 0 {reply}",
            "SADD @s 1 2 3",
            "DUMP @s",
            "RESTORE @s2 0 {reply}",
        ],
    ),
    case(
        "RESTORE IDLETIME FREQ",
        R50,
        &[
            "SET @1 v",
            "DUMP @1",
            "RESTORE @2 0 {reply} IDLETIME 100",
            "DUMP @1",
            "RESTORE @3 0 {reply} FREQ 5",
        ],
    ),
    case(
        "RESTORE in the past",
        R50,
        &[
            "SET @1 v",
            "SET @2 w",
            "DUMP @1",
            "RESTORE @2 {ms-100} {reply} ABSTTL REPLACE",
        ],
    )
    .answers(&[("EXISTS @2", "0")]),
    case(
        "RESTORE-ASKING",
        R50,
        &["SET @1 v", "DUMP @1", "RESTORE-ASKING @2 0 {reply}"],
    ),
    case(
        "MIGRATE",
        R50,
        &[
            "SET @1 v",
            "RPUSH @2 a",
            "MIGRATE 127.0.0.1 {port} @1 0 5000",
            "MIGRATE 127.0.0.1 {port} \"\" 0 5000 COPY KEYS @2",
        ],
    )
    .answers(&[("EXISTS @1 @2", "1")]),
];

pub(super) const EXPIRY: &[Case] = &[
    case(
        "EXPIRE",
        R50,
        &[
            "SET @1 v",
            "EXPIRE @1 100",
            "EXPIRE @1 200",
            "EXPIRE @2 100",
        ],
    ),
    case(
        "PEXPIRE",
        R50,
        &["SET @1 v", "PEXPIRE @1 100000", "pexpire @1 90000"],
    ),
    case("EXPIREAT", R50, &["SET @1 v", "EXPIREAT @1 {s+100}"]),
    case("PEXPIREAT", R50, &["SET @1 v", "PEXPIREAT @1 {ms+100}"]),
    case(
        "PERSIST",
        R50,
        &["SET @1 v EX 100", "PERSIST @1", "PERSIST @1", "PERSIST @2"],
    )
    .answers(&[("PTTL @1", "-1")]),
    case(
        "EXPIRE NX XX GT LT",
        R70,
        &[
            "SET @1 v",
            "EXPIRE @1 100 NX",
            "EXPIRE @1 90 NX",
            "SET @2 v EX 100",
            "EXPIRE @2 200 XX",
            "SET @3 v EX 100",
            "EXPIRE @3 200 GT",
            "EXPIRE @3 50 GT",
            "SET @4 v EX 100",
            "EXPIRE @4 50 LT",
            "EXPIRE @4 70 LT",
            "SET @5 v",
            "EXPIRE @5 100 LT",
            "PEXPIRE @5 200000 GT",
            "EXPIREAT @5 {s+100} XX LT",
            "PEXPIREAT @5 {ms+100} XX",
        ],
    ),
    case(
        "EXPIRE of every type",
        R50,
        &[
            "RPUSH @l a",
            "EXPIRE @l 100",
            "SADD @s a",
            "EXPIRE @s 100",
            "ZADD @z 1 a",
            "EXPIRE @z 100",
            "HSET @h f 1",
            "EXPIRE @h 100",
            "XADD @x 1-1 f 1",
            "EXPIRE @x 100",
        ],
    ),
    case(
        "EXPIRE in the past",
        R50,
        &[
            "SET @1 v",
            "EXPIRE @1 -1",
            "SET @2 v",
            "PEXPIREAT @2 {ms-100}",
            "RPUSH @3 a",
            "EXPIREAT @3 1",
            "SET @4 v",
            "EXPIRE @4 0",
        ],
    )
    .answers(&[("EXISTS @1 @2 @3 @4", "0")]),
    case(
        "a far expiry",
        R50,
        &[
            "SET @1 v",
            "EXPIRE @1 4000000000",
            "SET @2 v PX 3000000000000",
        ],
    ),
    case(
        "a key that expires",
        R50,
        &[
            "SET @1 v PX 60",
            "RPUSH @2 a",
            "PEXPIRE @2 60",
            "~250",
            "EXISTS @1 @2",
        ],
    )
    .answers(&[("EXISTS @1 @2", "0")]),
    case(
        "a key that expires and is written again",
        R50,
        &[
            "SET @1 5 PX 60",
            "RPUSH @2 a",
            "PEXPIRE @2 60",
            "SET @3 v PX 60",
            "~700",
            "INCR @1",
            "RPUSH @2 b",
            "SET @3 w",
        ],
    )
    .answers(&[("GET @1", "1"), ("LLEN @2", "1"), ("PTTL @3", "-1")]),
    case(
        "a key that is renewed before it expires",
        R50,
        &[
            "SET @1 v PX 5000",
            "PEXPIRE @1 100000",
            "SET @2 v PX 5000",
            "PERSIST @2",
        ],
    )
    .answers(&[("EXISTS @1 @2", "2")]),
    case(
        "TTLs over RENAME and DEL",
        R50,
        &[
            "SET @1 v EX 100",
            "SET @2 w",
            "RENAME @2 @1",
            "SET @3 v EX 100",
            "DEL @3",
            "SET @3 w",
        ],
    )
    .answers(&[("PTTL @1", "-1"), ("PTTL @3", "-1")]),
    case(
        "GETEX and RENAME in a script",
        R62,
        &[
            "SET @1 v",
            "EVAL 'redis.call(\"GETEX\",KEYS[1],\"EX\",100) redis.call(\"RENAME\",KEYS[1],KEYS[2])' 2 @1 @2",
        ],
    ),
];

pub(super) const BINARY: &[Case] = &[
    case(
        "keys and values of any bytes",
        R50,
        &[
            "SET @\\x00 \\x00",
            "SET @\\r\\n \\r\\n",
            "SET @\\xff\\xfe \\xff\\xfe",
            "SET '@a b' '*1\\r\\n$4\\r\\nPING\\r\\n'",
            "SET @ v",
            "SET @\\\\ \\\\",
            "RPUSH @l\\x00 \\x00 \\r\\n \\xff \"\"",
            "SADD @s\\xff \\x00 \\r\\n \"\"",
            "ZADD @z\\r 1 \\x00 2 \\r\\n",
            "HSET @h\\n \\x00 \\xff \\r\\n \\x80",
        ],
    ),
    case(
        "any bytes in streams",
        R50,
        &[
            "XADD @x\\x00 1-1 \\x00 \\xff \\r\\n \"\"",
            "XGROUP CREATE @x\\x00 g\\xff 0",
            "XREADGROUP GROUP g\\xff c\\x00 STREAMS @x\\x00 >",
        ],
    ),
    case(
        "any bytes in scripts",
        R50,
        &["EVAL 'redis.call(\"SET\",KEYS[1],ARGV[1])' 1 @\\x00\\xff \\r\\n\\x00"],
    ),
    case(
        "the empty key",
        R50,
        &[
            "SELECT {db}",
            "SET \"\" v",
            "APPEND \"\" w",
            "EXPIRE \"\" 100",
        ],
    ),
    case(
        "the empty key of another type",
        R50,
        &[
            "SELECT {db}",
            "HSET \"\" \"\" \"\"",
            "SELECT {db2}",
            "RPUSH \"\" \"\" \"\"",
        ],
    ),
    case(
        "keys that look like marks",
        R50,
        &["SET @tandem:from:x 1", "SET @\\x00tandem: 1"],
    ),
    case(
        "names in any case",
        R50,
        &[
            "sEt @1 v eX 100",
            "rpush @2 a",
            "Lpop @2",
            "hSet @3 f 1",
            "hincrbyfloat @3 f 1.5",
            "incrbyfloat @4 1.5",
            "geoadd @5 13.36 38.11 a",
        ],
    ),
    case(
        "a command of many arguments",
        R50,
        &[
            "EVAL 'local t={} for i=1,5000 do t[i]=\"m\"..i end redis.call(\"SADD\",KEYS[1],unpack(t))' 1 @1",
            "EVAL 'redis.call(\"SET\",KEYS[1],string.rep(\"0123456789\",50000))' 1 @2",
        ],
    ),
];

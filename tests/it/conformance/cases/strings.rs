//! Strings, bitmaps and HyperLogLogs.

use crate::conformance::case::{Case, R50, R60, R62, R70, R82, R84, R84_V81, R84_V91, V90, case};

pub(super) const STRINGS: &[Case] = &[
    case(
        "SET",
        R50,
        &[
            "SET @1 v",
            "SET @2 \"\"",
            "SET @1 w",
            "SET @3 v",
            "SET @3 v",
        ],
    )
    .answers(&[("GET @1", "w"), ("STRLEN @2", "0")]),
    case(
        "SET over another type",
        R50,
        &["RPUSH @1 a", "SET @1 v", "HSET @2 f 1", "SET @2 v EX 100"],
    ),
    case("SET NX", R50, &["SET @1 a NX", "SET @1 b NX"]).answers(&[("GET @1", "a")]),
    case("SET XX", R50, &["SET @1 a", "SET @1 b XX", "SET @2 c XX"])
        .answers(&[("GET @1", "b"), ("EXISTS @2", "0")]),
    case("SET EX", R50, &["SET @1 v EX 100"]),
    case(
        "SET PX",
        R50,
        &["SET @1 v PX 100000", "SET @2 v", "SET @2 w px 90000"],
    ),
    case(
        "SET NX EX",
        R50,
        &[
            "SET @1 v NX EX 100",
            "SET @1 w NX EX 200",
            "SET @2 v EX 100 NX",
        ],
    ),
    case(
        "SET XX PX",
        R50,
        &["SET @1 v", "SET @1 w XX PX 100000", "SET @1 x PX 90000 XX"],
    ),
    case(
        "SET that drops the TTL",
        R50,
        &["SET @1 v EX 100", "SET @1 w"],
    )
    .answers(&[("PTTL @1", "-1")]),
    case(
        "SET KEEPTTL",
        R60,
        &["SET @1 v EX 100", "SET @1 w KEEPTTL", "SET @2 v KEEPTTL"],
    ),
    case(
        "SET XX KEEPTTL",
        R60,
        &["SET @1 v EX 100", "SET @1 w XX KEEPTTL"],
    ),
    case(
        "SET EXAT",
        R62,
        &["SET @1 v EXAT {s+100}", "SET @2 v NX EXAT {s+100}"],
    ),
    case(
        "SET PXAT",
        R62,
        &[
            "SET @1 v PXAT {ms+100}",
            "SET @2 v",
            "SET @2 w XX PXAT {ms+100}",
        ],
    ),
    case(
        "SET EXAT in the past",
        R62,
        &[
            "SET @1 v",
            "SET @1 w EXAT {s-100}",
            "SET @2 w PXAT {ms-100}",
        ],
    )
    .answers(&[("EXISTS @1 @2", "0")]),
    case(
        "SET GET",
        R62,
        &["SET @1 v GET", "SET @1 w GET", "SET @1 x XX GET EX 100"],
    ),
    case("SET NX GET", R70, &["SET @1 v NX GET", "SET @1 w NX GET"]),
    case(
        "SET KEEPTTL GET",
        R62,
        &["SET @1 v EX 100", "SET @1 w KEEPTTL GET"],
    ),
    case(
        "SET IFEQ",
        R84_V81,
        &["SET @1 v", "SET @1 w IFEQ v", "SET @1 x IFEQ v"],
    )
    .answers(&[("GET @1", "w")]),
    case(
        "SET IFEQ EX",
        R84_V81,
        &[
            "SET @1 v",
            "SET @1 w IFEQ v EX 100",
            "SET @2 v EX 100",
            "SET @2 w IFEQ v KEEPTTL",
        ],
    ),
    case(
        "SET IFEQ GET",
        R84_V81,
        &["SET @1 v", "SET @1 w IFEQ v GET"],
    ),
    case(
        "SET IFNE",
        R84,
        &[
            "SET @1 v",
            "SET @1 w IFNE x",
            "SET @1 y IFNE w",
            "SET @2 z IFNE w",
        ],
    ),
    case(
        "SET names of options as values",
        R50,
        &["SET @1 EX", "SET @2 PX NX", "SET @3 KEEPTTL", "SET @4 GET"],
    ),
    case(
        "SETEX",
        R50,
        &["SETEX @1 100 v", "SET @2 v", "setex @2 100 w"],
    ),
    case("PSETEX", R50, &["PSETEX @1 100000 v"]),
    case("SETNX", R50, &["SETNX @1 v", "SETNX @1 w"]).answers(&[("GET @1", "v")]),
    case(
        "GETSET",
        R50,
        &[
            "GETSET @1 v",
            "GETSET @1 w",
            "SET @2 v EX 100",
            "GETSET @2 w",
        ],
    ),
    case("GETDEL", R62, &["SET @1 v", "GETDEL @1", "GETDEL @2"]).answers(&[("EXISTS @1", "0")]),
    case(
        "GETEX EX",
        R62,
        &[
            "SET @1 v",
            "GETEX @1 EX 100",
            "SET @2 v",
            "GETEX @2 PX 100000",
        ],
    ),
    case(
        "GETEX EXAT",
        R62,
        &[
            "SET @1 v",
            "GETEX @1 EXAT {s+100}",
            "SET @2 v",
            "GETEX @2 PXAT {ms+100}",
        ],
    ),
    case(
        "GETEX PERSIST",
        R62,
        &[
            "SET @1 v EX 100",
            "GETEX @1 PERSIST",
            "GETEX @1 PERSIST",
            "GETEX @1",
        ],
    ),
    case(
        "GETEX in the past",
        R62,
        &[
            "SET @1 v",
            "GETEX @1 EXAT {s-100}",
            "SET @2 v",
            "GETEX @2 PXAT {ms-100}",
        ],
    )
    .answers(&[("EXISTS @1 @2", "0")]),
    case(
        "MSET",
        R50,
        &[
            "MSET @1 a @2 b @3 \"\"",
            "SET @4 v EX 100",
            "MSET @4 w @1 c",
        ],
    ),
    case("MSETNX", R50, &["MSETNX @1 a @2 b", "MSETNX @2 c @3 d"])
        .answers(&[("EXISTS @1 @2 @3", "2")]),
    case(
        "MSETEX",
        R84_V91,
        &[
            "MSETEX 2 @1 a @2 b EX 100",
            "MSETEX 1 @3 a PX 100000",
            "MSETEX 2 @4 a @5 b",
        ],
    ),
    case(
        "MSETEX EXAT",
        R84_V91,
        &[
            "MSETEX 2 @1 a @2 b EXAT {s+100}",
            "MSETEX 1 @3 a PXAT {ms+100}",
        ],
    ),
    case(
        "MSETEX NX XX",
        R84_V91,
        &[
            "MSETEX 2 @1 a @2 b NX",
            "MSETEX 2 @1 c @3 d NX",
            "MSETEX 2 @1 e @2 f XX EX 100",
        ],
    ),
    case(
        "MSETEX KEEPTTL",
        R84_V91,
        &["SET @1 a EX 100", "MSETEX 2 @1 b @2 c KEEPTTL"],
    ),
    case(
        "DELIFEQ",
        V90,
        &["SET @1 a", "DELIFEQ @1 b", "SET @2 a", "DELIFEQ @2 a"],
    )
    .answers(&[("EXISTS @1 @2", "1")]),
    case(
        "DELEX",
        R84,
        &["SET @1 a", "DELEX @1", "RPUSH @2 a", "DELEX @2"],
    )
    .answers(&[("EXISTS @1 @2", "0")]),
    case(
        "DELEX IFEQ",
        R84,
        &[
            "SET @1 a",
            "DELEX @1 IFEQ b",
            "SET @2 a",
            "DELEX @2 IFEQ a",
            "SET @3 a",
            "DELEX @3 IFNE b",
        ],
    )
    .answers(&[("EXISTS @1 @2 @3", "1")]),
    case(
        "APPEND",
        R50,
        &[
            "APPEND @1 a",
            "APPEND @1 b",
            "APPEND @1 \"\"",
            "SET @2 x EX 100",
            "APPEND @2 y",
        ],
    )
    .answers(&[("GET @1", "ab"), ("GET @2", "xy")]),
    case(
        "SETRANGE",
        R50,
        &["SETRANGE @1 5 x", "SETRANGE @1 0 ab", "SETRANGE @2 0 \"\""],
    ),
    case("INCR", R50, &["INCR @1", "INCR @1", "INCR @1"]).answers(&[("GET @1", "3")]),
    case(
        "INCRBY",
        R50,
        &["INCRBY @1 40", "INCRBY @1 2", "INCRBY @1 0", "INCRBY @1 -1"],
    )
    .answers(&[("GET @1", "41")]),
    case("DECR", R50, &["DECR @1", "DECR @1"]).answers(&[("GET @1", "-2")]),
    case("DECRBY", R50, &["DECRBY @1 40", "DECRBY @1 -2"]).answers(&[("GET @1", "-38")]),
    case(
        "INCR at the limits",
        R50,
        &[
            "SET @1 9223372036854775806",
            "INCR @1",
            "!INCR @1",
            "SET @2 -9223372036854775807",
            "DECR @2",
            "!DECR @2",
        ],
    ),
    case(
        "INCR with a TTL",
        R50,
        &["SET @1 5 EX 100", "INCR @1", "DECRBY @1 2"],
    ),
    case(
        "INCR of no number",
        R50,
        &["SET @1 v", "!INCR @1", "RPUSH @2 a", "!INCR @2"],
    ),
    case(
        "INCRBYFLOAT",
        R50,
        &[
            "INCRBYFLOAT @1 0.1",
            "INCRBYFLOAT @1 0.2",
            "INCRBYFLOAT @1 3.0e3",
            "INCRBYFLOAT @1 0",
            "INCRBYFLOAT @2 -1.5",
        ],
    ),
    case(
        "INCRBYFLOAT with a TTL",
        R50,
        &["SET @1 1.5 EX 100", "INCRBYFLOAT @1 1"],
    )
    .unsaid("that INCRBYFLOAT keeps the TTL", Some(R60)),
];

pub(super) const BITMAPS: &[Case] = &[
    case(
        "SETBIT",
        R50,
        &[
            "SETBIT @1 7 1",
            "SETBIT @1 7 1",
            "SETBIT @1 100 1",
            "SETBIT @1 7 0",
            "SETBIT @2 5 0",
        ],
    ),
    case(
        "BITFIELD",
        R50,
        &[
            "BITFIELD @1 SET u8 0 200 INCRBY u8 8 100 GET u4 0",
            "BITFIELD @1 OVERFLOW SAT INCRBY i4 20 9 OVERFLOW FAIL INCRBY u2 30 9 OVERFLOW WRAP INCRBY u2 30 9",
            "BITFIELD @1 SET i16 #3 -300",
        ],
    ),
    case("BITFIELD GET", R50, &["SET @1 abc", "BITFIELD @1 GET u8 0"]),
    case(
        "BITOP",
        R50,
        &[
            "SET @1 abc",
            "SET @2 bcdef",
            "BITOP AND @3 @1 @2",
            "BITOP OR @4 @1 @2",
            "BITOP XOR @5 @1 @2",
            "BITOP NOT @6 @1",
        ],
    ),
    case(
        "BITOP without a result",
        R50,
        &["SET @1 v", "BITOP AND @1 @2 @3", "BITOP OR @4 @2 @3"],
    )
    .answers(&[("EXISTS @1 @4", "0")]),
    case(
        "BITOP DIFF",
        R82,
        &[
            "SET @1 abc",
            "SET @2 bcd",
            "SET @3 cde",
            "BITOP DIFF @4 @1 @2 @3",
            "BITOP DIFF1 @5 @1 @2 @3",
            "BITOP ANDOR @6 @1 @2 @3",
            "BITOP ONE @7 @1 @2 @3",
        ],
    ),
];

pub(super) const HYPERLOGLOGS: &[Case] = &[
    case(
        "PFADD",
        R50,
        &["PFADD @1 a b c", "PFADD @1 a", "PFADD @1 d", "PFADD @2"],
    )
    .answers(&[("PFCOUNT @1", "4")]),
    case(
        "PFMERGE",
        R50,
        &[
            "PFADD @1 a b c",
            "PFADD @2 c d",
            "PFMERGE @3 @1 @2",
            "PFMERGE @1 @2",
            "PFMERGE @4",
        ],
    ),
    case(
        "PFCOUNT",
        R50,
        &[
            "PFADD @1 a b c",
            "PFCOUNT @1",
            "PFADD @1 d",
            "PFCOUNT @1",
            "PFADD @2 e",
            "PFCOUNT @1 @2",
        ],
    ),
    case(
        "PFCOUNT in a transaction of reads",
        R50,
        &[
            "PFADD @1 a b c",
            "MULTI",
            "PFCOUNT @1",
            "GET @2",
            "EXEC",
            "SET @2 v",
        ],
    ),
    case(
        "PFADD dense",
        R50,
        &[
            "EVAL 'for i=1,3000 do redis.call(\"PFADD\",KEYS[1],i) end' 1 @1",
            "PFCOUNT @1",
        ],
    ),
    case(
        "PFDEBUG TODENSE",
        R50,
        &["PFADD @1 a b c", "PFDEBUG TODENSE @1", "PFADD @1 d"],
    ),
];

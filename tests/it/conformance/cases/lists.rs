//! Lists, and clients that wait for an element.

use crate::conformance::case::{Case, R50, R60, R62, R70, case};

pub(super) const LISTS: &[Case] = &[
    case("RPUSH", R50, &["RPUSH @1 a b c", "RPUSH @1 \"\" a"]).answers(&[("LLEN @1", "5")]),
    case("LPUSH", R50, &["LPUSH @1 a b c", "LPUSH @1 d"]).answers(&[("LLEN @1", "4")]),
    case(
        "LPUSHX",
        R50,
        &["LPUSHX @1 a", "RPUSH @2 a", "LPUSHX @2 b c"],
    )
    .answers(&[("EXISTS @1", "0"), ("LLEN @2", "3")]),
    case(
        "RPUSHX",
        R50,
        &["RPUSHX @1 a", "RPUSH @2 a", "RPUSHX @2 b c"],
    )
    .answers(&[("EXISTS @1", "0"), ("LLEN @2", "3")]),
    case(
        "LINSERT",
        R50,
        &[
            "RPUSH @1 a c",
            "LINSERT @1 BEFORE c b",
            "LINSERT @1 AFTER c d",
            "LINSERT @1 AFTER no e",
            "LINSERT @2 BEFORE a b",
        ],
    ),
    case(
        "LSET",
        R50,
        &[
            "RPUSH @1 a b c",
            "LSET @1 0 x",
            "LSET @1 -1 z",
            "!LSET @1 9 y",
            "!LSET @2 0 y",
        ],
    ),
    case(
        "LREM",
        R50,
        &[
            "RPUSH @1 a b a c a",
            "LREM @1 1 a",
            "LREM @1 -1 a",
            "LREM @1 0 no",
            "RPUSH @2 a a",
            "LREM @2 0 a",
        ],
    ),
    case(
        "LTRIM",
        R50,
        &[
            "RPUSH @1 a b c d",
            "LTRIM @1 1 2",
            "LTRIM @1 0 -1",
            "RPUSH @2 a",
            "LTRIM @2 5 9",
        ],
    )
    .answers(&[("EXISTS @2", "0")]),
    case(
        "LPOP",
        R50,
        &[
            "RPUSH @1 a b",
            "LPOP @1",
            "RPUSH @2 a",
            "LPOP @2",
            "LPOP @2",
        ],
    ),
    case(
        "RPOP",
        R50,
        &[
            "RPUSH @1 a b",
            "RPOP @1",
            "RPUSH @2 a",
            "RPOP @2",
            "RPOP @2",
        ],
    ),
    case(
        "LPOP count",
        R62,
        &[
            "RPUSH @1 a b c d",
            "LPOP @1 2",
            "LPOP @1 0",
            "RPUSH @2 a b",
            "LPOP @2 9",
        ],
    ),
    case(
        "RPOP count",
        R62,
        &["RPUSH @1 a b c d", "RPOP @1 2", "RPUSH @2 a b", "RPOP @2 2"],
    ),
    case(
        "RPOPLPUSH",
        R50,
        &[
            "RPUSH @1 a b c",
            "RPOPLPUSH @1 @2",
            "RPOPLPUSH @1 @1",
            "RPOPLPUSH @3 @1",
            "RPUSH @4 a",
            "RPOPLPUSH @4 @2",
        ],
    ),
    case(
        "LMOVE",
        R62,
        &[
            "RPUSH @1 a b c d",
            "LMOVE @1 @2 LEFT RIGHT",
            "LMOVE @1 @2 RIGHT LEFT",
            "LMOVE @1 @1 LEFT RIGHT",
            "lmove @2 @1 left left",
        ],
    ),
    case(
        "LMPOP",
        R70,
        &[
            "RPUSH @1 a b c d",
            "LMPOP 2 @0 @1 LEFT",
            "LMPOP 2 @0 @1 RIGHT COUNT 2",
            "LMPOP 1 @1 LEFT COUNT 9",
        ],
    ),
    case(
        "a long list",
        R50,
        &[
            "EVAL 'for i=1,2000 do redis.call(\"RPUSH\",KEYS[1],\"element \"..i) end' 1 @1",
            "LTRIM @1 10 -10",
            "LREM @1 0 'element 1000'",
        ],
    ),
    case(
        "a list with a TTL",
        R50,
        &["RPUSH @1 a", "EXPIRE @1 100", "RPUSH @1 b", "LPOP @1"],
    ),
    case(
        "a list command on another type",
        R50,
        &[
            "SET @1 v",
            "!LPUSH @1 a",
            "!LPOP @1",
            "HSET @2 f v",
            "!RPOPLPUSH @2 @1",
        ],
    ),
];

pub(super) const BLOCKING: &[Case] = &[
    case("BLPOP", R50, &["RPUSH @1 a b", "BLPOP @0 @1 1"]),
    case(
        "BLPOP served later",
        R50,
        &["&BLPOP @0 @1 20", "RPUSH @1 a b"],
    )
    .answers(&[("LLEN @1", "1")]),
    case("BRPOP", R50, &["RPUSH @1 a b", "BRPOP @0 @1 1"]),
    case(
        "BRPOP served later",
        R50,
        &["&BRPOP @0 @1 20", "LPUSH @1 a b"],
    )
    .answers(&[("LLEN @1", "1")]),
    case("BRPOPLPUSH", R50, &["RPUSH @1 a b", "BRPOPLPUSH @1 @2 1"]),
    case(
        "BRPOPLPUSH served later",
        R50,
        &["&BRPOPLPUSH @1 @2 20", "RPUSH @1 a b"],
    )
    .answers(&[("LLEN @2", "1")]),
    case(
        "BLMOVE",
        R62,
        &["RPUSH @1 a b", "BLMOVE @1 @2 LEFT RIGHT 1"],
    ),
    case(
        "BLMOVE served later",
        R62,
        &["&BLMOVE @1 @2 left right 20", "RPUSH @1 a b"],
    )
    .answers(&[("LLEN @2", "1")]),
    case(
        "BLMPOP",
        R70,
        &["RPUSH @1 a b c", "BLMPOP 1 2 @0 @1 LEFT COUNT 2"],
    ),
    case(
        "BLMPOP served later",
        R70,
        &["&BLMPOP 20 2 @0 @1 RIGHT COUNT 2", "RPUSH @1 a b c"],
    )
    .answers(&[("LLEN @1", "1")]),
    case("BZPOPMIN", R50, &["ZADD @1 1 a 2 b", "BZPOPMIN @0 @1 1"]),
    case(
        "BZPOPMIN served later",
        R50,
        &["&BZPOPMIN @0 @1 20", "ZADD @1 1 a 2 b"],
    )
    .answers(&[("ZCARD @1", "1")]),
    case("BZPOPMAX", R50, &["ZADD @1 1 a 2 b", "BZPOPMAX @0 @1 1"]),
    case(
        "BZPOPMAX served later",
        R50,
        &["&BZPOPMAX @0 @1 20", "ZADD @1 1 a 2 b"],
    )
    .answers(&[("ZCARD @1", "1")]),
    case(
        "BZMPOP",
        R70,
        &["ZADD @1 1 a 2 b 3 c", "BZMPOP 1 2 @0 @1 MIN COUNT 2"],
    ),
    case(
        "BZMPOP served later",
        R70,
        &["&BZMPOP 20 2 @0 @1 MAX COUNT 2", "ZADD @1 1 a 2 b 3 c"],
    )
    .answers(&[("ZCARD @1", "1")]),
    case("a pop that nobody serves", R50, &["BLPOP @1 1"]),
    case(
        "BLPOP served by a script",
        R50,
        &[
            "&BLPOP @1 20",
            "EVAL 'redis.call(\"RPUSH\",KEYS[1],1,2) redis.call(\"SET\",KEYS[2],1)' 2 @1 @2",
        ],
    ),
    case(
        "BLPOP served by a transaction",
        R50,
        &["&BLPOP @1 20", "MULTI", "RPUSH @1 a b", "SET @2 v", "EXEC"],
    ),
    case(
        "BLPOP in MULTI",
        R50,
        &["RPUSH @1 a b", "MULTI", "BLPOP @1 1", "BLPOP @2 1", "EXEC"],
    ),
    case(
        "BRPOPLPUSH in MULTI",
        R60,
        &[
            "RPUSH @1 a b",
            "MULTI",
            "BRPOPLPUSH @1 @2 1",
            "SET @3 v",
            "EXEC",
        ],
    ),
];

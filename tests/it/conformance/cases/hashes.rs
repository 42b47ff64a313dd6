//! Hashes, and fields that expire.

use crate::conformance::case::{
    Case, FIELD_TTL, FIELD_TTLS as NEEDED, R50, R80_V90, R80_V91, R82_V90, case,
};

pub(super) const HASHES: &[Case] = &[
    case(
        "HSET",
        R50,
        &[
            "HSET @1 f 1 g 2",
            "HSET @1 f 3",
            "HSET @1 f 3",
            "HSET @2 \"\" \"\"",
        ],
    )
    .answers(&[("HGET @1 f", "3"), ("HLEN @1", "2")]),
    case("HMSET", R50, &["HMSET @1 f 1 g 2", "HMSET @1 g 3"]),
    case("HSETNX", R50, &["HSETNX @1 f 1", "HSETNX @1 f 2"]).answers(&[("HGET @1 f", "1")]),
    case(
        "HINCRBY",
        R50,
        &["HINCRBY @1 f 5", "HINCRBY @1 f -2", "HINCRBY @1 f 0"],
    )
    .answers(&[("HGET @1 f", "3")]),
    case(
        "HINCRBY of no number",
        R50,
        &["HSET @1 f v", "!HINCRBY @1 f 1", "!HINCRBYFLOAT @1 f 1"],
    ),
    case(
        "HINCRBYFLOAT",
        R50,
        &[
            "HINCRBYFLOAT @1 f 0.1",
            "HINCRBYFLOAT @1 f 0.2",
            "HSET @1 g 5.0e3",
            "HINCRBYFLOAT @1 g 2.0e2",
        ],
    ),
    case(
        "HDEL",
        R50,
        &[
            "HSET @1 f 1 g 2",
            "HDEL @1 f no",
            "HDEL @1 no",
            "HSET @2 f 1",
            "HDEL @2 f",
        ],
    )
    .answers(&[("EXISTS @2", "0")]),
    case(
        "HGETDEL",
        R80_V91,
        &[
            "HSET @1 f 1 g 2 h 3",
            "HGETDEL @1 FIELDS 2 f no",
            "HGETDEL @1 FIELDS 1 no",
            "HSET @2 f 1",
            "HGETDEL @2 FIELDS 1 f",
        ],
    ),
    case(
        "HSETEX without a TTL",
        R80_V90,
        &[
            "HSETEX @1 FIELDS 2 f 1 g 2",
            "HSETEX @1 FNX FIELDS 1 f 3",
            "HSETEX @1 FXX FIELDS 1 g 4",
        ],
    ),
    case(
        "HGETEX without a TTL",
        R80_V90,
        &[
            "HSET @1 f 1",
            "HGETEX @1 FIELDS 1 f",
            "HGETEX @1 PERSIST FIELDS 1 f",
        ],
    ),
    case(
        "a large hash",
        R50,
        &[
            "EVAL 'for i=1,1000 do redis.call(\"HSET\",KEYS[1],\"field\"..i,i) end' 1 @1",
            "HDEL @1 field5",
        ],
    ),
    case(
        "a hash with a long value",
        R50,
        &[
            "EVAL 'redis.call(\"HSET\",KEYS[1],\"f\",string.rep(\"x\",5000))' 1 @1",
            "HSET @1 g 1",
        ],
    ),
    case(
        "a hash with a TTL",
        R50,
        &[
            "HSET @1 f 1",
            "EXPIRE @1 100",
            "HSET @1 g 1",
            "HDEL @1 f",
            "HINCRBY @1 g 1",
        ],
    ),
];

pub(super) const FIELD_TTLS: &[Case] = &[
    case(
        "HEXPIRE",
        FIELD_TTL,
        &[
            "HSET @1 f 1 g 2 h 3",
            "HEXPIRE @1 100 FIELDS 2 f g",
            "HEXPIRE @1 100 FIELDS 1 no",
        ],
    )
    .needs(NEEDED),
    case(
        "HPEXPIRE",
        FIELD_TTL,
        &[
            "HSET @1 f 1 g 2",
            "HPEXPIRE @1 100000 FIELDS 1 f",
            "HPEXPIRE @1 90000 FIELDS 1 f",
        ],
    )
    .needs(NEEDED),
    case(
        "HEXPIREAT",
        FIELD_TTL,
        &["HSET @1 f 1 g 2", "HEXPIREAT @1 {s+100} FIELDS 1 f"],
    )
    .needs(NEEDED),
    case(
        "HPEXPIREAT",
        FIELD_TTL,
        &["HSET @1 f 1 g 2", "HPEXPIREAT @1 {ms+100} FIELDS 2 f no"],
    )
    .needs(NEEDED),
    case(
        "HEXPIRE NX XX GT LT",
        FIELD_TTL,
        &[
            "HSET @1 f 1 g 2",
            "HEXPIRE @1 100 NX FIELDS 1 f",
            "HEXPIRE @1 90 NX FIELDS 2 f g",
            "HEXPIRE @1 200 XX FIELDS 1 f",
            "HEXPIRE @1 300 GT FIELDS 1 f",
            "HEXPIRE @1 100 GT FIELDS 1 f",
            "HEXPIRE @1 50 LT FIELDS 2 f g",
        ],
    )
    .needs(NEEDED),
    case(
        "HEXPIRE in the past",
        FIELD_TTL,
        &[
            "HSET @1 f 1 g 2 h 3",
            "HEXPIREAT @1 {s-100} FIELDS 2 f g",
            "HSET @2 f 1",
            "HPEXPIREAT @2 {ms-100} FIELDS 1 f",
        ],
    )
    .answers(&[("HLEN @1", "1"), ("EXISTS @2", "0")]),
    case(
        "HPERSIST",
        FIELD_TTL,
        &[
            "HSET @1 f 1 g 2",
            "HEXPIRE @1 100 FIELDS 2 f g",
            "HPERSIST @1 FIELDS 1 f",
            "HPERSIST @1 FIELDS 1 no",
        ],
    )
    .needs(NEEDED),
    case(
        "HSETEX EX",
        R80_V90,
        &[
            "HSETEX @1 EX 100 FIELDS 2 f 1 g 2",
            "HSETEX @2 PX 100000 FIELDS 1 f 1",
            "HSETEX @2 FNX EX 100 FIELDS 1 g 1",
        ],
    )
    .needs(NEEDED),
    case(
        "HSETEX EXAT",
        R80_V90,
        &[
            "HSETEX @1 EXAT {s+100} FIELDS 1 f 1",
            "HSETEX @1 PXAT {ms+100} FIELDS 1 g 1",
        ],
    )
    .needs(NEEDED),
    case(
        "HSETEX KEEPTTL",
        R80_V90,
        &[
            "HSETEX @1 EX 100 FIELDS 1 f 1",
            "HSETEX @1 KEEPTTL FIELDS 2 f 2 g 1",
        ],
    )
    .needs(NEEDED),
    case(
        "HSETEX in the past",
        R80_V90,
        &["HSET @1 f 1 g 2", "HSETEX @1 PXAT {ms-100} FIELDS 1 f 3"],
    ),
    case(
        "HGETEX EX",
        R80_V90,
        &[
            "HSET @1 f 1 g 2",
            "HGETEX @1 EX 100 FIELDS 1 f",
            "HGETEX @1 PXAT {ms+100} FIELDS 1 g",
        ],
    )
    .needs(NEEDED),
    case(
        "HGETEX PERSIST",
        R80_V90,
        &[
            "HSETEX @1 EX 100 FIELDS 2 f 1 g 1",
            "HGETEX @1 PERSIST FIELDS 1 f",
        ],
    )
    .needs(NEEDED),
    case(
        "HSET over a field with a TTL",
        FIELD_TTL,
        &[
            "HSET @1 f 1 g 2",
            "HEXPIRE @1 100 FIELDS 2 f g",
            "HSET @1 f 2",
        ],
    )
    .needs(NEEDED),
    case(
        "HINCRBY of a field with a TTL",
        FIELD_TTL,
        &["HSET @1 f 1", "HEXPIRE @1 100 FIELDS 1 f", "HINCRBY @1 f 1"],
    )
    .needs(NEEDED),
    case(
        "HINCRBYFLOAT of a field with a TTL",
        FIELD_TTL,
        &[
            "HSET @1 f 1",
            "HEXPIRE @1 100 FIELDS 1 f",
            "HINCRBYFLOAT @1 f 1.5",
        ],
    )
    .needs(NEEDED)
    .unsaid(
        "that HINCRBYFLOAT keeps the TTL of the field",
        Some(R82_V90),
    ),
    case(
        "a field that expires",
        FIELD_TTL,
        &[
            "HSET @1 f 1 g 2",
            "HPEXPIRE @1 60 FIELDS 1 f",
            "~250",
            "HLEN @1",
            "HSET @1 h 1",
        ],
    )
    .needs(NEEDED),
    case(
        "RENAME of a hash with field TTLs",
        FIELD_TTL,
        &[
            "HSET @1 f 1 g 2",
            "HEXPIRE @1 100 FIELDS 1 f",
            "RENAME @1 @2",
            "COPY @2 @3",
        ],
    )
    .needs(NEEDED),
];

//! Sets and vector sets.

use crate::conformance::case::{Case, R50, R80, VECTOR_SETS as NEEDED, case};

pub(super) const SETS: &[Case] = &[
    case(
        "SADD",
        R50,
        &[
            "SADD @1 a b c",
            "SADD @1 a",
            "SADD @2 1 2 3",
            "SADD @2 x",
            "SADD @3 \"\"",
        ],
    )
    .answers(&[("SCARD @1", "3")]),
    case(
        "SADD of integers of all widths",
        R50,
        &[
            "SADD @1 1 -1",
            "SADD @1 70000",
            "SADD @1 9223372036854775807 -9223372036854775808",
        ],
    ),
    case(
        "SREM",
        R50,
        &[
            "SADD @1 a b c",
            "SREM @1 a b",
            "SREM @1 no",
            "SADD @2 a",
            "SREM @2 a",
        ],
    ),
    case(
        "SMOVE",
        R50,
        &[
            "SADD @1 a b",
            "SMOVE @1 @2 a",
            "SMOVE @1 @2 no",
            "SADD @2 b",
            "SMOVE @1 @2 b",
            "SMOVE @2 @2 a",
        ],
    ),
    case(
        "SPOP",
        R50,
        &[
            "SADD @1 a b c d e",
            "SPOP @1",
            "SPOP @1",
            "SADD @2 1",
            "SPOP @2",
            "SPOP @2",
        ],
    )
    .answers(&[("SCARD @1", "3")]),
    case(
        "SPOP count",
        R50,
        &[
            "SADD @1 1 2 3 4 5 6 7 8",
            "SPOP @1 3",
            "SPOP @1 0",
            "SADD @2 a b",
            "SPOP @2 1",
        ],
    )
    .answers(&[("SCARD @1", "5")]),
    case(
        "SPOP count of most",
        R50,
        &[
            "EVAL 'for i=1,300 do redis.call(\"SADD\",KEYS[1],\"m\"..i) end' 1 @1",
            "SPOP @1 290",
            "SPOP @1 4",
        ],
    )
    .answers(&[("SCARD @1", "6")]),
    case(
        "SPOP count of all",
        R50,
        &["SADD @1 a b c", "SPOP @1 3", "SADD @2 a b", "SPOP @2 9"],
    )
    .answers(&[("EXISTS @1 @2", "0")]),
    case(
        "SINTERSTORE",
        R50,
        &[
            "SADD @1 a b c",
            "SADD @2 b c d",
            "SINTERSTORE @3 @1 @2",
            "SET @4 v",
            "SINTERSTORE @4 @1 @2",
            "SINTERSTORE @3 @1 @5",
        ],
    ),
    case(
        "SUNIONSTORE",
        R50,
        &[
            "SADD @1 a b c",
            "SADD @2 b c d",
            "SUNIONSTORE @3 @1 @2",
            "SUNIONSTORE @1 @1 @2",
            "SUNIONSTORE @3 @5 @6",
        ],
    ),
    case(
        "SDIFFSTORE",
        R50,
        &[
            "SADD @1 a b c",
            "SADD @2 b c d",
            "SDIFFSTORE @3 @1 @2",
            "SDIFFSTORE @2 @2 @1",
            "SDIFFSTORE @3 @1 @1",
        ],
    ),
    case(
        "SUNIONSTORE over a key with a TTL",
        R50,
        &["SADD @1 a", "SET @2 v EX 100", "SUNIONSTORE @2 @1"],
    )
    .answers(&[("PTTL @2", "-1")]),
    case(
        "a large set",
        R50,
        &["EVAL 'for i=1,2000 do redis.call(\"SADD\",KEYS[1],i,\"m\"..i) end' 1 @1"],
    ),
    case(
        "a set with a TTL",
        R50,
        &["SADD @1 a", "EXPIRE @1 100", "SADD @1 b", "SREM @1 a"],
    ),
];

pub(super) const VECTOR_SETS: &[Case] = &[
    case(
        "VADD",
        R80,
        &[
            "VADD @1 VALUES 2 1 2 e",
            "VADD @1 VALUES 2 2 1 f",
            "VADD @1 VALUES 2 1 2 e",
        ],
    )
    .needs(NEEDED),
    case(
        "VADD options",
        R80,
        &[
            "VADD @1 REDUCE 2 VALUES 3 1 2 3 e NOQUANT EF 100 M 8",
            "VADD @2 VALUES 2 1 2 e Q8 SETATTR '{\"a\":1}'",
            "VADD @3 VALUES 2 1 0 e BIN CAS",
        ],
    )
    .needs(NEEDED),
    case(
        "VREM",
        R80,
        &[
            "VADD @1 VALUES 2 1 2 e",
            "VADD @1 VALUES 2 2 1 f",
            "VREM @1 e",
            "VREM @1 no",
            "VADD @2 VALUES 2 1 2 e",
            "VREM @2 e",
        ],
    )
    .needs(NEEDED),
    case(
        "VSETATTR",
        R80,
        &[
            "VADD @1 VALUES 2 1 2 e",
            "VSETATTR @1 e '{\"a\":1}'",
            "VSETATTR @1 no '{\"a\":1}'",
        ],
    )
    .needs(NEEDED),
];

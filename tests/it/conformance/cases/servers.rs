//! What is not about one key: messages, databases, the whole server.

use crate::conformance::case::{Case, R50, R62, R70, SHARD_CHANNELS, case};

pub(super) const MESSAGES: &[Case] = &[
    case(
        "PUBLISH",
        R50,
        &[
            "PUBLISH @1 m1",
            "PUBLISH @1 m2",
            "PUBLISH @2 \"\"",
            "PUBLISH @1 m3",
        ],
    ),
    case(
        "PUBLISH of any bytes",
        R50,
        &["PUBLISH @\\x00\\r\\n \\x00\\r\\n\\xff"],
    ),
    case(
        "PUBLISH in MULTI",
        R50,
        &[
            "MULTI",
            "PUBLISH @1 m1",
            "SET @1 v",
            "PUBLISH @1 m2",
            "EXEC",
            "MULTI",
            "PUBLISH @1 m3",
            "EXEC",
        ],
    ),
    case(
        "PUBLISH in another database",
        R50,
        &["SELECT {db}", "PUBLISH @1 m1", "SET @1 v"],
    ),
    case("SPUBLISH", R70, &["SPUBLISH @1 m1", "SPUBLISH @1 m2"]).needs(SHARD_CHANNELS),
];

pub(super) const DATABASES: &[Case] = &[
    case(
        "SELECT",
        R50,
        &[
            "SELECT {db}",
            "SET @1 a",
            "SELECT {db2}",
            "SET @1 b",
            "SELECT 0",
            "SET @1 c",
        ],
    ),
    case(
        "MOVE",
        R50,
        &[
            "SET @1 v EX 100",
            "MOVE @1 {db}",
            "SET @1 w",
            "MOVE @1 {db}",
            "MOVE @9 {db}",
            "SELECT {db}",
            "HSET @2 f 1",
            "MOVE @2 {db2}",
        ],
    ),
    case(
        "COPY DB",
        R62,
        &[
            "RPUSH @1 a b",
            "EXPIRE @1 100",
            "COPY @1 @1 DB {db}",
            "COPY @1 @2 DB {db}",
            "SELECT {db}",
            "SET @3 v",
            "SELECT 0",
            "COPY @1 @3 DB {db} REPLACE",
        ],
    ),
    case(
        "SWAPDB",
        R50,
        &[
            "SELECT {db}",
            "SET @1 a",
            "SELECT {db2}",
            "SET @2 b",
            "SWAPDB {db} {db2}",
            "SET @3 c",
            "SELECT 0",
            "SWAPDB {db2} {db}",
            "SWAPDB {db} {db}",
        ],
    ),
    case(
        "FLUSHDB",
        R50,
        &[
            "SELECT {db}",
            "SET @1 a",
            "RPUSH @2 a",
            "FLUSHDB",
            "SET @3 b",
            "SELECT {db2}",
            "SET @1 a",
            "FLUSHDB",
            "FLUSHDB",
        ],
    ),
    case(
        "FLUSHDB ASYNC",
        R50,
        &["SELECT {db}", "SET @1 a", "FLUSHDB ASYNC", "SET @3 b"],
    ),
    case(
        "FLUSHDB SYNC",
        R62,
        &["SELECT {db}", "SET @1 a", "FLUSHDB SYNC", "SET @3 b"],
    ),
    case(
        "SORT and RENAME in another database",
        R50,
        &[
            "SELECT {db}",
            "RPUSH @1 2 1",
            "SORT @1 STORE @2",
            "RENAME @2 @3",
            "EXPIRE @3 100",
        ],
    ),
];

pub(super) const SERVER: &[Case] = &[
    case(
        "FLUSHALL",
        R50,
        &[
            "SET @1 v",
            "SELECT {db}",
            "SET @1 v",
            "FLUSHALL",
            "SET @2 v",
        ],
    )
    .alone(),
    case(
        "FLUSHALL ASYNC",
        R50,
        &["SET @1 v", "FLUSHALL ASYNC", "SET @2 v"],
    )
    .alone(),
    case(
        "FLUSHALL SYNC",
        R62,
        &["SET @1 v", "FLUSHALL SYNC", "SET @2 v"],
    )
    .alone(),
    case(
        "FLUSHALL in MULTI",
        R50,
        &[
            "SET @1 v", "MULTI", "SET @2 v", "FLUSHALL", "SET @3 v", "EXEC",
        ],
    )
    .alone(),
    case(
        "FLUSHDB of database 0",
        R50,
        &[
            "SET @1 v",
            "SELECT {db}",
            "SET @1 v",
            "SELECT 0",
            "FLUSHDB",
            "SET @2 v",
        ],
    )
    .alone(),
    case(
        "SWAPDB of database 0",
        R50,
        &[
            "SET @1 v",
            "SELECT {db}",
            "SET @2 w",
            "SWAPDB 0 {db}",
            "SET @3 x",
            "SELECT 0",
            "SET @4 y",
        ],
    )
    .alone(),
];

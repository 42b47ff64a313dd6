//! Sorted sets and geo.

use crate::conformance::case::{Case, R50, R62, R70, V90, case};

pub(super) const SORTED_SETS: &[Case] = &[
    case(
        "ZADD",
        R50,
        &[
            "ZADD @1 1 a 2 b 2.5 c -inf d +inf e",
            "ZADD @1 3 a",
            "ZADD @1 3 a",
            "ZADD @2 1 \"\"",
        ],
    ),
    case(
        "ZADD of awkward scores",
        R50,
        &["ZADD @1 0.1 a 0.30000000000000004 b 1e300 c -1e-300 d 123456789012345678 e -0 f 3.3 g"],
    ),
    case(
        "ZADD NX XX CH",
        R50,
        &[
            "ZADD @1 NX 1 a",
            "ZADD @1 NX 2 a 3 b",
            "ZADD @1 XX 5 a 6 c",
            "ZADD @1 XX CH 7 a",
            "ZADD @1 CH 8 d",
        ],
    ),
    case(
        "ZADD GT LT",
        R62,
        &[
            "ZADD @1 5 a 5 b",
            "ZADD @1 GT 6 a 4 b",
            "ZADD @1 LT 7 a 3 b",
            "ZADD @1 GT CH 9 a",
            "ZADD @1 XX LT 1 a 1 c",
        ],
    ),
    case(
        "ZADD INCR",
        R50,
        &[
            "ZADD @1 INCR 1 a",
            "ZADD @1 INCR 0.1 a",
            "ZADD @1 NX INCR 5 a",
            "ZADD @1 XX INCR 5 no",
        ],
    ),
    case(
        "ZADD GT INCR",
        R62,
        &[
            "ZADD @1 5 a",
            "ZADD @1 GT INCR 2 a",
            "ZADD @1 GT INCR -2 a",
            "ZADD @1 LT INCR -3 a",
        ],
    ),
    case(
        "ZINCRBY",
        R50,
        &[
            "ZINCRBY @1 1 a",
            "ZINCRBY @1 2 a",
            "ZINCRBY @1 0 a",
            "ZINCRBY @1 -0.5 b",
        ],
    )
    .answers(&[("ZSCORE @1 a", "3")]),
    case(
        "ZINCRBY of fractions",
        R50,
        &["ZINCRBY @1 0.1 a", "ZINCRBY @1 0.2 a", "ZINCRBY @1 1e17 a"],
    ),
    case(
        "ZREM",
        R50,
        &[
            "ZADD @1 1 a 2 b 3 c",
            "ZREM @1 a no",
            "ZREM @1 no",
            "ZADD @2 1 a",
            "ZREM @2 a",
        ],
    ),
    case(
        "ZPOPMIN",
        R50,
        &[
            "ZADD @1 1 a 2 b 3 c 4 d",
            "ZPOPMIN @1",
            "ZPOPMIN @1 2",
            "ZADD @2 1 a",
            "ZPOPMIN @2 5",
            "ZPOPMIN @2",
        ],
    ),
    case(
        "ZPOPMAX",
        R50,
        &[
            "ZADD @1 1 a 2 b 3 c 4 d",
            "ZPOPMAX @1",
            "ZPOPMAX @1 2",
            "ZADD @2 1 a",
            "ZPOPMAX @2 5",
        ],
    ),
    case(
        "ZMPOP",
        R70,
        &[
            "ZADD @1 1 a 2 b 3 c 4 d",
            "ZMPOP 2 @0 @1 MIN",
            "ZMPOP 2 @0 @1 MAX COUNT 2",
            "ZMPOP 1 @1 MIN COUNT 5",
        ],
    ),
    case(
        "ZREMRANGEBYRANK",
        R50,
        &[
            "ZADD @1 1 a 2 b 3 c 4 d",
            "ZREMRANGEBYRANK @1 0 1",
            "ZREMRANGEBYRANK @1 9 10",
            "ZREMRANGEBYRANK @1 0 -1",
        ],
    ),
    case(
        "ZREMRANGEBYSCORE",
        R50,
        &[
            "ZADD @1 1 a 2 b 3 c 4 d",
            "ZREMRANGEBYSCORE @1 (1 2",
            "ZREMRANGEBYSCORE @1 4 +inf",
            "ZREMRANGEBYSCORE @1 9 10",
        ],
    ),
    case(
        "ZREMRANGEBYLEX",
        R50,
        &[
            "ZADD @1 0 a 0 b 0 c 0 d",
            "ZREMRANGEBYLEX @1 [a (c",
            "ZREMRANGEBYLEX @1 (c +",
            "ZREMRANGEBYLEX @1 - [a",
        ],
    ),
    case(
        "ZUNIONSTORE",
        R50,
        &[
            "ZADD @1 1 a 2 b",
            "ZADD @2 3 b 4 c",
            "SADD @3 a d",
            "ZUNIONSTORE @4 2 @1 @2",
            "ZUNIONSTORE @5 3 @1 @2 @3",
        ],
    ),
    case(
        "ZUNIONSTORE WEIGHTS AGGREGATE",
        R50,
        &[
            "ZADD @1 1 a 2 b",
            "ZADD @2 3 b 4 c",
            "ZUNIONSTORE @3 2 @1 @2 WEIGHTS 2 0.1",
            "ZUNIONSTORE @4 2 @1 @2 AGGREGATE MAX",
            "ZUNIONSTORE @5 2 @1 @2 WEIGHTS 1 2 AGGREGATE MIN",
            "ZUNIONSTORE @1 2 @1 @2",
        ],
    ),
    case(
        "ZINTERSTORE",
        R50,
        &[
            "ZADD @1 1 a 2 b",
            "ZADD @2 3 b 4 c",
            "ZINTERSTORE @3 2 @1 @2",
            "ZINTERSTORE @4 2 @1 @2 WEIGHTS 2 3 AGGREGATE MAX",
            "SET @5 v EX 100",
            "ZINTERSTORE @5 2 @1 @2",
            "ZINTERSTORE @3 2 @1 @6",
        ],
    ),
    case(
        "ZDIFFSTORE",
        R62,
        &[
            "ZADD @1 1 a 2 b",
            "ZADD @2 3 b 4 c",
            "ZDIFFSTORE @3 2 @1 @2",
            "ZDIFFSTORE @3 2 @1 @1",
        ],
    ),
    case(
        "ZRANGESTORE",
        R62,
        &[
            "ZADD @1 1 a 2 b 3 c 4 d",
            "ZRANGESTORE @2 @1 0 1",
            "ZRANGESTORE @3 @1 0 1 REV",
        ],
    ),
    case(
        "ZRANGESTORE BYSCORE LIMIT",
        R62,
        &[
            "ZADD @1 1 a 2 b 3 c 4 d",
            "ZRANGESTORE @2 @1 2 +inf BYSCORE",
            "ZRANGESTORE @3 @1 (1 4 BYSCORE LIMIT 1 2",
            "ZRANGESTORE @4 @1 4 1 BYSCORE REV LIMIT 0 1",
            "ZRANGESTORE @2 @1 8 9 BYSCORE",
        ],
    ),
    case(
        "ZRANGESTORE BYLEX",
        R62,
        &[
            "ZADD @1 0 a 0 b 0 c",
            "ZRANGESTORE @2 @1 [a (c BYLEX",
            "ZRANGESTORE @3 @1 + - BYLEX REV LIMIT 0 2",
        ],
    ),
    case(
        "a large sorted set",
        R50,
        &[
            "EVAL 'for i=1,2000 do redis.call(\"ZADD\",KEYS[1],i/7,\"m\"..i) end' 1 @1",
            "ZREMRANGEBYRANK @1 3 9",
        ],
    ),
    case(
        "a sorted set with a TTL",
        R50,
        &["ZADD @1 1 a", "EXPIRE @1 100", "ZADD @1 2 b", "ZREM @1 a"],
    ),
];

pub(super) const GEO: &[Case] = &[
    case(
        "GEOADD",
        R50,
        &[
            "GEOADD @1 13.361389 38.115556 Palermo 15.087269 37.502669 Catania",
            "GEOADD @1 13.5 38 Palermo",
        ],
    ),
    case(
        "GEOADD NX XX CH",
        R62,
        &[
            "GEOADD @1 NX 13.361389 38.115556 a",
            "GEOADD @1 NX 14 38 a",
            "GEOADD @1 XX CH 15 38 a",
            "GEOADD @1 XX 15 38 b",
        ],
    ),
    case(
        "GEORADIUS STORE",
        R50,
        &[
            "GEOADD @1 13.361389 38.115556 a 15.087269 37.502669 b",
            "GEORADIUS @1 15 37 200 km STORE @2",
            "GEORADIUS @1 15 37 100 km COUNT 1 ASC STORE @3",
            "GEORADIUS @1 0 0 1 km STORE @2",
            "SET @4 x",
            "GEORADIUS @5 15 37 100 km STORE @4",
        ],
    ),
    case(
        "GEORADIUS STOREDIST",
        R50,
        &[
            "GEOADD @1 13.361389 38.115556 a 15.087269 37.502669 b",
            "GEORADIUS @1 15 37 200 km STOREDIST @2",
        ],
    ),
    case(
        "GEORADIUS that only reads",
        R50,
        &[
            "GEOADD @1 13.361389 38.115556 a",
            "GEORADIUS @1 15 37 200 km WITHDIST",
        ],
    ),
    case(
        "GEORADIUSBYMEMBER STORE",
        R50,
        &[
            "GEOADD @1 13.361389 38.115556 a 15.087269 37.502669 b",
            "GEORADIUSBYMEMBER @1 a 200 km STORE @2",
            "GEORADIUSBYMEMBER @1 a 200 km STOREDIST @3",
        ],
    ),
    case(
        "GEOSEARCHSTORE",
        R62,
        &[
            "GEOADD @1 13.361389 38.115556 a 15.087269 37.502669 b",
            "GEOSEARCHSTORE @2 @1 FROMLONLAT 15 37 BYRADIUS 200 km",
            "GEOSEARCHSTORE @3 @1 FROMMEMBER a BYBOX 400 400 km ASC COUNT 1",
            "GEOSEARCHSTORE @3 @1 FROMLONLAT 0 0 BYRADIUS 1 m",
        ],
    ),
    case(
        "GEOSEARCHSTORE STOREDIST",
        R62,
        &[
            "GEOADD @1 13.361389 38.115556 a 15.087269 37.502669 b",
            "GEOSEARCHSTORE @2 @1 FROMLONLAT 15 37 BYRADIUS 200 km STOREDIST",
        ],
    ),
    case(
        "GEOSEARCHSTORE BYPOLYGON",
        V90,
        &[
            "GEOADD @1 13.361389 38.115556 a 15.087269 37.502669 b",
            "GEOSEARCHSTORE @2 @1 BYPOLYGON 4 12 37 16 37 16 39 12 39",
        ],
    ),
];

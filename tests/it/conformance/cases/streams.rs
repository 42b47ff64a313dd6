//! Streams and their groups.

use crate::conformance::case::{Case, R50, R62, R70, R82, R84, R86, case};

pub(super) const STREAMS: &[Case] = &[
    case(
        "XADD",
        R50,
        &[
            "XADD @1 * f 1 g 2",
            "XADD @1 * f \"\"",
            "XADD @2 5-1 f 1",
            "XADD @2 6 f 1",
            "!XADD @2 1-1 f 1",
        ],
    ),
    case(
        "XADD of a part of an id",
        R70,
        &["XADD @1 5-* f 1", "XADD @1 5-* f 2"],
    ),
    case(
        "XADD MAXLEN",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XADD @1 MAXLEN 2 3-1 f 1",
            "XADD @1 MAXLEN = 1 4-1 f 1",
        ],
    )
    .answers(&[("XLEN @1", "1")]),
    case(
        "XADD MAXLEN ~",
        R50,
        &[
            "EVAL 'for i=1,250 do redis.call(\"XADD\",KEYS[1],i,\"f\",i) end' 1 @1",
            "XADD @1 MAXLEN ~ 120 * f 1",
            "XADD @1 MAXLEN ~ 0 * f 1",
        ],
    ),
    case(
        "XADD MAXLEN ~ LIMIT",
        R62,
        &[
            "EVAL 'for i=1,250 do redis.call(\"XADD\",KEYS[1],i,\"f\",i) end' 1 @1",
            "XADD @1 MAXLEN ~ 50 LIMIT 100 * f 1",
        ],
    ),
    case(
        "XADD MINID",
        R62,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XADD @1 MINID 2 3-1 f 1",
            "XADD @1 MINID ~ 3 4-1 f 1",
        ],
    ),
    case(
        "XADD NOMKSTREAM",
        R62,
        &[
            "XADD @1 NOMKSTREAM * f 1",
            "XADD @2 1-1 f 1",
            "XADD @2 NOMKSTREAM 2-1 f 1",
        ],
    )
    .answers(&[("EXISTS @1", "0")]),
    case(
        "XADD KEEPREF",
        R82,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XADD @1 KEEPREF MAXLEN 2 3-1 f 1",
            "XADD @1 DELREF MAXLEN 2 4-1 f 1",
            "XADD @1 ACKED MAXLEN 1 5-1 f 1",
        ],
    ),
    case(
        "XADD IDMP",
        R86,
        &[
            "XADD @1 IDMP p i1 * f 1",
            "XADD @1 IDMP p i1 * f 1",
            "XADD @1 IDMPAUTO p * f 2",
            "XADD @1 IDMPAUTO p * f 2",
        ],
    ),
    case(
        "XCFGSET",
        R86,
        &[
            "XADD @1 1-1 f 1",
            "XCFGSET @1 IDMP-DURATION 10 IDMP-MAXSIZE 5",
        ],
    ),
    case(
        "XTRIM",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XADD @1 3-1 f 1",
            "XTRIM @1 MAXLEN 2",
            "XTRIM @1 MAXLEN 9",
            "XADD @2 1-1 f 1",
            "XTRIM @2 MAXLEN 0",
        ],
    ),
    case(
        "XTRIM ~",
        R50,
        &[
            "EVAL 'for i=1,250 do redis.call(\"XADD\",KEYS[1],i,\"f\",i) end' 1 @1",
            "XTRIM @1 MAXLEN ~ 120",
            "XTRIM @1 MAXLEN ~ 1",
        ],
    ),
    case(
        "XTRIM MINID",
        R62,
        &[
            "EVAL 'for i=1,250 do redis.call(\"XADD\",KEYS[1],i,\"f\",i) end' 1 @1",
            "XTRIM @1 MINID ~ 120 LIMIT 100",
            "XTRIM @1 MINID 200",
        ],
    ),
    case(
        "XTRIM DELREF",
        R82,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XTRIM @1 MAXLEN 1 DELREF",
            "XTRIM @1 MAXLEN 0 ACKED",
        ],
    ),
    case(
        "XDEL",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XDEL @1 1-1 9-9",
            "XDEL @1 9-9",
            "XADD @2 1-1 f 1",
            "XDEL @2 1-1",
        ],
    )
    .answers(&[("XLEN @2", "0")]),
    case(
        "XDELEX",
        R82,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XADD @1 3-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XDELEX @1 KEEPREF IDS 1 1-1",
            "XDELEX @1 DELREF IDS 1 2-1",
            "XDELEX @1 ACKED IDS 1 3-1",
        ],
    ),
    case(
        "XSETID",
        R50,
        &["XADD @1 1-1 f 1", "XSETID @1 9-9", "XADD @1 10-1 f 1"],
    ),
    case(
        "XSETID ENTRIESADDED",
        R70,
        &[
            "XADD @1 1-1 f 1",
            "XSETID @1 9-9 ENTRIESADDED 7 MAXDELETEDID 5-5",
        ],
    ),
    case(
        "a large stream",
        R50,
        &[
            "EVAL 'for i=1,1500 do redis.call(\"XADD\",KEYS[1],i,\"f\",i,\"g\",i) end' 1 @1",
            "XDEL @1 700",
        ],
    ),
    case(
        "a stream with a TTL",
        R50,
        &["XADD @1 1-1 f 1", "EXPIRE @1 100", "XADD @1 2-1 f 1"],
    ),
];

pub(super) const GROUPS: &[Case] = &[
    case(
        "XGROUP CREATE",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XGROUP CREATE @1 h $",
            "XGROUP CREATE @1 i 1-1",
            "!XGROUP CREATE @1 g 0",
        ],
    ),
    case(
        "XGROUP CREATE MKSTREAM",
        R50,
        &["XGROUP CREATE @1 g $ MKSTREAM", "!XGROUP CREATE @2 g $"],
    ),
    case(
        "XGROUP CREATE ENTRIESREAD",
        R70,
        &["XADD @1 1-1 f 1", "XGROUP CREATE @1 g 0 ENTRIESREAD 1"],
    ),
    case(
        "XGROUP SETID",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XGROUP SETID @1 g 1-1",
            "XGROUP SETID @1 g 0",
            "XGROUP SETID @1 g $",
        ],
    ),
    case(
        "XGROUP SETID ENTRIESREAD",
        R70,
        &[
            "XADD @1 1-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XGROUP SETID @1 g 1-1 ENTRIESREAD 1",
        ],
    ),
    case(
        "XGROUP DESTROY",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XGROUP DESTROY @1 g",
            "XGROUP DESTROY @1 no",
        ],
    ),
    case(
        "XGROUP CREATECONSUMER",
        R62,
        &[
            "XGROUP CREATE @1 g 0 MKSTREAM",
            "XGROUP CREATECONSUMER @1 g c",
            "XGROUP CREATECONSUMER @1 g c",
        ],
    ),
    case(
        "XGROUP DELCONSUMER",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XGROUP DELCONSUMER @1 g c",
            "XGROUP DELCONSUMER @1 g no",
        ],
    ),
    case(
        "XREADGROUP",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XADD @1 3-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c COUNT 1 STREAMS @1 >",
            "XREADGROUP GROUP g d STREAMS @1 >",
            "XREADGROUP GROUP g c STREAMS @1 >",
        ],
    ),
    case(
        "XREADGROUP of two streams",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @2 1-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XGROUP CREATE @2 g 0",
            "XREADGROUP GROUP g c STREAMS @1 @2 > >",
        ],
    ),
    case(
        "XREADGROUP of entries read before",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XREADGROUP GROUP g c STREAMS @1 0",
        ],
    )
    .unsaid("the count of deliveries that reading again raises", None),
    case(
        "XREADGROUP NOACK",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c NOACK COUNT 1 STREAMS @1 >",
        ],
    ),
    case(
        "XREADGROUP of a new consumer without entries",
        R50,
        &[
            "XGROUP CREATE @1 g 0 MKSTREAM",
            "XREADGROUP GROUP g c STREAMS @1 >",
        ],
    ),
    case(
        "XREADGROUP BLOCK served later",
        R50,
        &[
            "XGROUP CREATE @1 g 0 MKSTREAM",
            "&XREADGROUP GROUP g c BLOCK 20000 STREAMS @1 >",
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
        ],
    ),
    case(
        "XREADGROUP CLAIM",
        R84,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c COUNT 1 STREAMS @1 >",
            "XREADGROUP GROUP g d CLAIM 0 STREAMS @1 >",
        ],
    ),
    case(
        "XACK",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XACK @1 g 1-1",
            "XACK @1 g 9-9",
        ],
    ),
    case(
        "XACKDEL",
        R82,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XADD @1 3-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XACKDEL @1 g IDS 1 1-1",
            "XACKDEL @1 g DELREF IDS 1 2-1",
            "XACKDEL @1 g KEEPREF IDS 1 9-9",
        ],
    ),
    case(
        "XCLAIM",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XCLAIM @1 g d 0 1-1",
            "XCLAIM @1 g d 0 9-9",
        ],
    ),
    case(
        "XCLAIM JUSTID RETRYCOUNT FORCE",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c COUNT 1 STREAMS @1 >",
            "XCLAIM @1 g d 0 1-1 JUSTID",
            "XCLAIM @1 g e 0 1-1 IDLE 1000 RETRYCOUNT 7",
            "XCLAIM @1 g e 0 2-1 FORCE",
            "XCLAIM @1 g f 0 1-1 TIME {ms-100} LASTID 2-1",
        ],
    ),
    case(
        "XCLAIM of a deleted entry",
        R50,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XDEL @1 1-1",
            "XCLAIM @1 g d 0 1-1 2-1",
        ],
    )
    .unsaid(
        "what becomes of a pending entry that was deleted: from 7.0 on a claim forgets it",
        None,
    ),
    case(
        "XAUTOCLAIM",
        R62,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XAUTOCLAIM @1 g d 0 0 COUNT 1",
            "XAUTOCLAIM @1 g e 0 0 JUSTID",
        ],
    ),
    case(
        "XAUTOCLAIM of a deleted entry",
        R62,
        &[
            "XADD @1 1-1 f 1",
            "XADD @1 2-1 f 1",
            "XGROUP CREATE @1 g 0",
            "XREADGROUP GROUP g c STREAMS @1 >",
            "XDEL @1 1-1",
            "XAUTOCLAIM @1 g d 0 0",
        ],
    )
    .unsaid(
        "what becomes of a pending entry that was deleted: from 7.0 on a claim forgets it",
        None,
    ),
];

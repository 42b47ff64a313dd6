//! Transactions, scripts and functions: what they write travels, not how.

use crate::conformance::case::{Case, FUNCTIONS as NEEDED, R50, R62, R70, case};

pub(super) const TRANSACTIONS: &[Case] = &[
    case(
        "MULTI EXEC",
        R50,
        &["MULTI", "SET @1 1", "INCR @1", "RPUSH @2 a", "EXEC"],
    )
    .answers(&[("GET @1", "2")]),
    case(
        "MULTI EXEC with one write",
        R50,
        &[
            "MULTI", "INCR @1", "EXEC", "MULTI", "GET @1", "INCR @1", "DEL @9", "EXEC",
        ],
    )
    .answers(&[("GET @1", "2")]),
    case(
        "MULTI EXEC without a write",
        R50,
        &[
            "MULTI", "GET @1", "EXEC", "MULTI", "DEL @1", "EXEC", "MULTI", "EXEC",
        ],
    ),
    case(
        "DISCARD",
        R50,
        &["MULTI", "SET @1 v", "DISCARD", "SET @2 v"],
    )
    .answers(&[("EXISTS @1 @2", "1")]),
    case(
        "WATCH",
        R50,
        &[
            "WATCH @1", "SET @1 a", "MULTI", "SET @1 b", "EXEC", "WATCH @1", "MULTI", "SET @2 b",
            "EXEC",
        ],
    )
    .answers(&[("GET @1", "a"), ("GET @2", "b")]),
    case(
        "a command that fails in EXEC",
        R50,
        &[
            "SET @1 v", "MULTI", "SET @2 a", "INCR @1", "SET @3 b", "?EXEC",
        ],
    )
    .answers(&[("EXISTS @1 @2 @3", "3")]),
    case(
        "a command that is refused in MULTI",
        R50,
        &["MULTI", "SET @1 a", "!NOSUCHCOMMAND", "!EXEC", "SET @2 v"],
    )
    .answers(&[("EXISTS @1 @2", "1")]),
    case(
        "SELECT in MULTI",
        R50,
        &[
            "MULTI",
            "SET @1 a",
            "SELECT {db}",
            "SET @1 b",
            "SELECT {db2}",
            "SET @1 c",
            "EXEC",
            "SET @2 d",
        ],
    ),
    case(
        "MULTI in another database",
        R50,
        &[
            "SELECT {db}",
            "MULTI",
            "SET @1 a",
            "INCR @2",
            "EXEC",
            "INCR @2",
        ],
    ),
    case(
        "expiries in MULTI",
        R50,
        &[
            "MULTI",
            "SET @1 v EX 100",
            "SET @2 v",
            "EXPIRE @2 100",
            "SETEX @3 100 v",
            "EXEC",
        ],
    ),
    case(
        "a long transaction",
        R50,
        &["EVAL 'for i=1,1000 do redis.call(\"SET\",KEYS[1]..i,i) end' 1 @1"],
    ),
    case(
        "EVAL in MULTI",
        R50,
        &[
            "MULTI",
            "EVAL 'redis.call(\"INCR\",KEYS[1]) redis.call(\"INCR\",KEYS[1])' 1 @1",
            "INCR @1",
            "EXEC",
        ],
    )
    .answers(&[("GET @1", "3")]),
    case(
        "pops and conditions in MULTI",
        R50,
        &[
            "RPUSH @1 a b",
            "SADD @2 a b c",
            "MULTI",
            "LPOP @1",
            "SPOP @2",
            "SET @3 v NX",
            "SET @3 w NX",
            "INCRBYFLOAT @4 0.5",
            "EXEC",
        ],
    ),
    case(
        "FLUSHDB in MULTI",
        R50,
        &[
            "SELECT {db}",
            "SET @1 v",
            "MULTI",
            "SET @2 v",
            "FLUSHDB",
            "SET @3 v",
            "EXEC",
        ],
    )
    .answers(&[]),
    case(
        "a key made of one that an older server must be sent",
        R62,
        &[
            "SADD @1 a b",
            "MULTI",
            "COPY @1 @2",
            "SUNIONSTORE @3 @2",
            "SUNIONSTORE @5 @2",
            "RENAME @2 @4",
            "EXEC",
        ],
    )
    .answers(&[("SCARD @3", "2"), ("SCARD @4", "2"), ("SCARD @5", "2")]),
    case(
        "COPY and GETDEL in MULTI",
        R62,
        &[
            "SET @1 v",
            "MULTI",
            "COPY @1 @2",
            "GETDEL @1",
            "COPY @2 @3 DB {db}",
            "EXEC",
        ],
    ),
];

pub(super) const SCRIPTS: &[Case] = &[
    case(
        "EVAL with one effect",
        R50,
        &["EVAL 'return redis.call(\"INCR\",KEYS[1])' 1 @1"],
    )
    .answers(&[("GET @1", "1")]),
    case(
        "EVAL with several effects",
        R50,
        &[
            "EVAL 'redis.call(\"SET\",KEYS[1],ARGV[1]) redis.call(\"INCR\",KEYS[2]) return 1' 2 @1 @2 v",
        ],
    ),
    case(
        "EVAL without an effect",
        R50,
        &[
            "SET @1 v",
            "EVAL 'return redis.call(\"GET\",KEYS[1])' 1 @1",
            "EVAL 'return redis.call(\"DEL\",KEYS[1])' 1 @2",
        ],
    ),
    case(
        "EVAL that fails after a write",
        R50,
        &[
            "SET @2 v",
            "!EVAL 'redis.call(\"INCR\",KEYS[1]) redis.call(\"INCR\",KEYS[2])' 2 @1 @2",
        ],
    )
    .answers(&[("GET @1", "1")]),
    case(
        "EVAL of time and chance",
        R50,
        &[
            "EVAL 'redis.replicate_commands() redis.call(\"SET\",KEYS[1],redis.call(\"TIME\")[2])' 1 @1",
            "SADD @2 a b c d e f",
            "EVAL 'redis.replicate_commands() redis.call(\"SADD\",KEYS[2],redis.call(\"SPOP\",KEYS[1]))' 2 @2 @3",
            "EVAL 'redis.call(\"SET\",KEYS[1],math.random())' 1 @4",
        ],
    ),
    case(
        "EVAL with expiries",
        R50,
        &[
            "EVAL 'redis.call(\"SETEX\",KEYS[1],100,1) redis.call(\"SET\",KEYS[2],1) redis.call(\"EXPIRE\",KEYS[2],100)' 2 @1 @2",
        ],
    ),
    case(
        "EVAL in another database",
        R50,
        &[
            "EVAL 'redis.call(\"SELECT\",ARGV[1]) redis.call(\"SET\",KEYS[1],1)' 1 @1 {db}",
            "SET @2 v",
            "SELECT {db2}",
            "EVAL 'redis.call(\"SET\",KEYS[1],1)' 1 @1",
        ],
    ),
    case(
        "EVALSHA",
        R50,
        &[
            "SCRIPT LOAD 'return redis.call(\"INCR\",KEYS[1])'",
            "EVALSHA {reply} 1 @1",
        ],
    )
    .answers(&[("GET @1", "1")]),
    case("SCRIPT LOAD", R50, &["SCRIPT LOAD 'return 1'", "SET @1 v"]),
    case(
        "EVAL with a shebang",
        R70,
        &[
            "EVAL '#!lua flags=allow-oom\\nredis.call(\"SET\",KEYS[1],1) redis.call(\"INCR\",KEYS[1])' 1 @1",
        ],
    ),
    case(
        "EVAL that publishes",
        R50,
        &[
            "EVAL 'redis.call(\"PUBLISH\",KEYS[1],ARGV[1]) redis.call(\"SET\",KEYS[1],1)' 1 @1 m1",
            "EVAL 'redis.call(\"PUBLISH\",KEYS[1],ARGV[1])' 1 @2 m2",
        ],
    ),
    case(
        "a script of many commands",
        R50,
        &[
            "EVAL 'for i=1,500 do redis.call(\"RPUSH\",KEYS[1],i) redis.call(\"HSET\",KEYS[2],i,i) redis.call(\"SADD\",KEYS[3],i) end' 3 @1 @2 @3",
        ],
    ),
];

pub(super) const FUNCTIONS: &[Case] = &[
    case("FUNCTION LOAD", R70, &["FUNCTION LOAD '#!lua name={site}l1\\nredis.register_function(\"{site}f1\", function(keys, args) return redis.call(\"INCR\", keys[1]) end)'"]).needs(NEEDED).alone(),
    case("FUNCTION LOAD REPLACE", R70, &[
        "FUNCTION LOAD '#!lua name={site}l2\\nredis.register_function(\"{site}f2\", function(keys, args) return 1 end)'",
        "FUNCTION LOAD REPLACE '#!lua name={site}l2\\nredis.register_function(\"{site}f2\", function(keys, args) return redis.call(\"SET\", keys[1], args[1]) end)'",
    ]).needs(NEEDED).alone(),
    case("FUNCTION DELETE", R70, &["FUNCTION LOAD '#!lua name={site}l3\\nredis.register_function(\"{site}f3\", function(keys, args) return 1 end)'", "FUNCTION DELETE {site}l3"]).needs(NEEDED).alone(),
    case("FUNCTION RESTORE", R70, &[
        "FUNCTION LOAD '#!lua name={site}l4\\nredis.register_function(\"{site}f4\", function(keys, args) return 1 end)'", "FUNCTION DUMP", "FUNCTION RESTORE {reply} REPLACE",
        "FUNCTION DUMP", "FUNCTION FLUSH", "FUNCTION RESTORE {reply} APPEND", "FUNCTION DUMP", "FUNCTION RESTORE {reply} FLUSH",
    ]).needs(NEEDED).alone(),
    case("FUNCTION FLUSH", R70, &["FUNCTION LOAD '#!lua name={site}l5\\nredis.register_function(\"{site}f5\", function(keys, args) return 1 end)'", "FUNCTION FLUSH"]).needs(NEEDED).alone(),
    case("FCALL", R70, &[
        "FUNCTION LOAD '#!lua name={site}l6\\nredis.register_function(\"{site}f6\", function(keys, args) redis.call(\"INCR\", keys[1]) return redis.call(\"INCR\", keys[1]) end)'",
        "FCALL {site}f6 1 @1", "MULTI", "FCALL {site}f6 1 @1", "INCR @1", "EXEC", "FUNCTION DELETE {site}l6",
    ]).needs(NEEDED).alone().answers(&[("GET @1", "5")]),
];

//! Every write command of a server is in the table, or here with a reason.

use std::collections::BTreeSet;

use redis::Value;

use super::cases;
use crate::harness::Client;

/// Write commands that no case can have.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "CLUSTER|FLUSHSLOT",
        "only in a cluster, which Tandem does not support",
    ),
    (
        "TRIMSLOTS",
        "only in a cluster, which Tandem does not support",
    ),
    (
        "XIDMPRECORD",
        "written by servers only, when they rewrite their append-only file",
    ),
];

/// What travels and is no write command.
const ALSO: &[&str] = &[
    "PUBLISH",
    "SPUBLISH",
    "PFCOUNT",
    "SELECT",
    "MULTI",
    "EXEC",
    "EVAL",
    "EVALSHA",
    "FCALL",
    "SCRIPT|LOAD",
];

/// The operations that a product of this kind names in its description.
pub(crate) const OPERATIONS: &str = "\
    APPEND BITOP BLPOP BRPOP BRPOPLPUSH DECR DECRBY DEL EVAL EVALSHA EXEC EXPIRE EXPIREAT GEOADD \
    GETSET HDEL HINCRBY HINCRBYFLOAT HMSET HSET HSETNX INCR INCRBY INCRBYFLOAT LINSERT LPOP LPUSH \
    LPUSHX LREM LSET LTRIM MOVE MSET MSETNX MULTI PERSIST PEXPIRE PEXPIREAT PFADD PFMERGE PSETEX \
    PUBLISH RENAME RENAMENX RPOP RPOPLPUSH RPUSH RPUSHX SADD SDIFFSTORE SELECT SET SETBIT SETEX \
    SETNX SETRANGE SINTERSTORE SMOVE SPOP SREM SUNIONSTORE ZADD ZINCRBY ZINTERSTORE ZREM \
    ZREMRANGEBYLEX ZUNIONSTORE ZREMRANGEBYRANK ZREMRANGEBYSCORE SWAPDB";

/// The commands of this server that should be in the table and are not.
pub(crate) fn missing(client: &mut Client) -> Vec<String> {
    let covered: BTreeSet<String> = cases::all().flat_map(|(_, c)| c.commands()).collect();
    let excepted = |name: &String| EXCEPTIONS.iter().any(|(n, _)| n == name);
    let mut wanted = write_commands(&client.run("COMMAND"));
    wanted.extend(ALSO.iter().map(|&name| name.to_owned()));
    wanted.extend(OPERATIONS.split_whitespace().map(str::to_owned));
    wanted.retain(|name| !covered.contains(name) && !excepted(name));
    wanted.into_iter().collect()
}

/// The names with the flag `write` in a reply to COMMAND, subcommands as `XGROUP|CREATE`.
fn write_commands(reply: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Value::Array(commands) = reply else {
        return names;
    };
    for command in commands {
        let Value::Array(fields) = command else {
            continue;
        };
        let name: String = redis::from_redis_value_ref(&fields[0]).expect("a name");
        let flags: Vec<String> = redis::from_redis_value_ref(&fields[2]).expect("flags");
        if flags.iter().any(|flag| flag == "write") {
            names.insert(name.to_uppercase());
        }
        if let Some(subcommands) = fields.get(9) {
            names.extend(write_commands(subcommands));
        }
    }
    names
}

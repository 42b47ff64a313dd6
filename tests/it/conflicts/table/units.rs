//! Transactions and scripts.

use crate::conflicts::case::{Case, Form, Kind, every_pair, form, write};

const UNITS: &[Form] = &[
    write(&["MULTI", "INCR @k", "RPUSH @l b", "EXEC"]),
    write(&["MULTI", "SET @k 50", "SADD @s x", "EXEC"]),
    write(&["MULTI", "HSET @h f 1", "LPUSH @l c", "SREM @s m", "EXEC"]),
    write(&["EVAL 'redis.call(\"INCRBY\",KEYS[1],3) redis.call(\"LPUSH\",KEYS[2],\"e\")' 2 @k @l"])
        .streamed(&["INCRBY @k 3", "LPUSH @l e"]),
    write(&["EVAL 'redis.call(\"SET\",KEYS[1],redis.call(\"LLEN\",KEYS[2]))' 2 @k @l"])
        .streamed(&["SET @k 1"]),
    form(&["MULTI", "DEL @k", "RPUSH @l d", "EXEC"], Kind::Loose),
    form(&["MULTI", "DEL @l", "RPUSH @l new", "EXEC"], Kind::Loose),
    form(
        &["MULTI", "RENAME @l @other", "INCR @k", "EXEC"],
        Kind::Loose,
    ),
    write(&["SET @k 7"]),
    write(&["INCR @k"]),
    write(&["RPUSH @l z"]),
    write(&["HSET @h f 2"]),
    form(&["DEL @k"], Kind::Delete("@k")),
    form(&["DEL @l"], Kind::Delete("@l")),
    form(&["EXPIRE @k 1000"], Kind::Keep("@k")),
];

pub(super) fn pairs() -> Vec<Case> {
    every_pair("units", &["SET @k 1", "RPUSH @l a", "SADD @s m"], UNITS)
}

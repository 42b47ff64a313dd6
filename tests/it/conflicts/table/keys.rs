//! Writes of several keys, and of keys of several types.

use crate::conflicts::case::{Case, Form, Kind, every_pair, form, write};
use crate::conformance::case::R62;

const KEY: &str = "@k";

const SEVERAL: &[Form] = &[
    form(&["RENAME @k @d"], Kind::Keep(KEY)),
    form(&["RENAME @k @e"], Kind::Keep(KEY)),
    form(&["RENAMENX @k @g"], Kind::Keep(KEY)),
    form(&["MOVE @k {db}"], Kind::Keep(KEY)),
    write(&["COPY @k @d REPLACE"]).since(R62),
    write(&["COPY @k @c"]).since(R62),
    write(&["SET @k 6"]),
    write(&["SET @d 7"]),
    write(&["INCR @k"]),
    write(&["INCR @d"]),
    write(&["MSET @k 1 @d 2"]),
    write(&["MSETNX @m 1 @n 2"]),
    write(&["BITOP OR @d @k @d"]),
    write(&["BITOP NOT @f @k"]),
    write(&["SORT @l STORE @d"]),
    write(&["LPUSH @l 4"]),
    form(&["EXPIRE @k 1000"], Kind::Keep(KEY)),
    form(&["EXPIRE @d 1000"], Kind::Keep("@d")),
    form(&["DEL @k"], Kind::Delete(KEY)),
    form(&["DEL @d"], Kind::Delete("@d")),
];

/// A key that nobody had.
const TYPES: &[Form] = &[
    write(&["SET @k v"]),
    write(&["INCR @k"]),
    write(&["APPEND @k v"]),
    write(&["SETBIT @k 3 1"]),
    write(&["LPUSH @k x"]),
    write(&["SADD @k m"]),
    write(&["HSET @k f v"]),
    write(&["ZADD @k 1 m"]),
    write(&["XADD @k 1-1 f v"]),
    write(&["XGROUP CREATE @k g 0 MKSTREAM"]),
    write(&["PFADD @k h"]),
    write(&["SUNIONSTORE @k @set"]),
    write(&["SORT @set ALPHA STORE @k"]),
];

pub(super) fn pairs() -> Vec<Case> {
    let setup = &["SET @k 5", "EXPIRE @k 7000", "SET @d 9", "RPUSH @l 3 1 2"];
    let mut pairs = every_pair("several keys", setup, SEVERAL);
    pairs.extend(every_pair("types", &["SADD @set x y"], TYPES));
    pairs
}

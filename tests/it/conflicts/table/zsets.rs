//! Sorted sets: scores, sums, ranks, and what is stored of them.

use crate::conflicts::case::{Case, Form, Kind, every_pair, form, write};
use crate::conformance::case::R62;

const KEY: &str = "@z";

const ZSETS: &[Form] = &[
    write(&["ZADD @z 10 a"]),
    write(&["ZADD @z 20 a"]),
    write(&["ZADD @z 5 x"]),
    write(&["ZADD @z GT 7 a"]).since(R62),
    write(&["ZADD @z GT 9 a"]).since(R62),
    write(&["ZADD @z LT 0.5 b"]).since(R62),
    write(&["ZINCRBY @z 2 a"]),
    write(&["ZINCRBY @z 0.25 a"]),
    write(&["ZINCRBY @z 3 b"]),
    write(&["ZREM @z a"]),
    write(&["ZREM @z d"]),
    write(&["ZPOPMIN @z"]),
    write(&["ZPOPMAX @z"]),
    write(&["ZREMRANGEBYSCORE @z 0 1"]),
    write(&["ZREMRANGEBYRANK @z 0 1"]),
    write(&["ZUNIONSTORE @z 1 @z WEIGHTS 2"]),
    write(&["ZUNIONSTORE @y 1 @z"]),
    form(&["EXPIRE @z 1000"], Kind::Keep(KEY)),
    form(&["DEL @z"], Kind::Delete(KEY)),
];

pub(super) fn pairs() -> Vec<Case> {
    every_pair("sorted sets", &["ZADD @z 1 a 2 b 3 c 4 d"], ZSETS)
}

//! Hashes: the same field, different fields, numbers.

use crate::conflicts::case::{Case, Form, Kind, every_pair, form, write};

const KEY: &str = "@h";

const HASHES: &[Form] = &[
    write(&["HSET @h f x"]),
    write(&["HSET @h g y"]),
    write(&["HSET @h f z q w"]),
    write(&["HMSET @h f u g v"]),
    write(&["HSETNX @h new x"]),
    write(&["HSET @h n 50"]),
    write(&["HDEL @h f"]),
    write(&["HDEL @h g"]),
    write(&["HDEL @h n"]),
    write(&["HDEL @h f g"]),
    write(&["HINCRBY @h n 3"]),
    write(&["HINCRBY @h n 4"]),
    write(&["HINCRBY @h m 1"]),
    write(&["HINCRBYFLOAT @h n 0.5"]).streamed(&["HSET @h n 5.5"]),
    write(&["HINCRBYFLOAT @h m 1.5"]).streamed(&["HSET @h m 1.5"]),
    form(&["EXPIRE @h 1000"], Kind::Keep(KEY)),
    form(&["DEL @h"], Kind::Delete(KEY)),
];

pub(super) fn pairs() -> Vec<Case> {
    every_pair("hashes", &["HSET @h f 1 g 2 n 5"], HASHES)
}

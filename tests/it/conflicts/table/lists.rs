//! Lists: both ends, the middle, and from one list to another.

use crate::conflicts::case::{Case, Form, Kind, every_pair, form, write};

const KEY: &str = "@l";

const LISTS: &[Form] = &[
    write(&["LPUSH @l x"]),
    write(&["LPUSH @l y"]),
    write(&["RPUSH @l z"]),
    write(&["RPUSH @l w v"]),
    write(&["LPOP @l"]),
    write(&["RPOP @l"]),
    write(&["LINSERT @l BEFORE c m"]),
    write(&["LINSERT @l AFTER c p"]),
    write(&["LSET @l 1 S"]),
    write(&["LSET @l -1 E"]),
    write(&["LREM @l 0 b"]),
    write(&["LREM @l 1 c"]),
    write(&["LTRIM @l 1 -2"]),
    write(&["RPOPLPUSH @l @to"]),
    write(&["RPOPLPUSH @l @l"]),
    write(&["RPUSH @to q"]),
    form(&["EXPIRE @l 1000"], Kind::Keep(KEY)),
    form(&["DEL @l"], Kind::Delete(KEY)),
];

pub(super) fn pairs() -> Vec<Case> {
    every_pair("lists", &["RPUSH @l a b c d e b", "RPUSH @to o"], LISTS)
}

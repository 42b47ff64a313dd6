//! Sets: members that come, go and move.

use crate::conflicts::case::{Case, Form, Kind, every_pair, form, write};

const KEY: &str = "@s";

const SETS: &[Form] = &[
    write(&["SADD @s x"]),
    write(&["SADD @s y z"]),
    write(&["SADD @t a"]),
    write(&["SREM @s a"]),
    write(&["SREM @s b"]),
    write(&["SREM @s a", "SADD @s a"]),
    write(&["SREM @t e"]),
    write(&["SPOP @s"]).streamed(&["SREM @s {reply}"]),
    write(&["SMOVE @s @t a"]),
    write(&["SMOVE @s @t c"]),
    write(&["SUNIONSTORE @u @s @t"]),
    write(&["SUNIONSTORE @s @s @t"]),
    write(&["SINTERSTORE @u @s @t"]),
    write(&["SDIFFSTORE @s @s @t"]),
    form(&["EXPIRE @s 1000"], Kind::Keep(KEY)),
    form(&["DEL @s"], Kind::Delete(KEY)),
];

pub(super) fn pairs() -> Vec<Case> {
    every_pair("sets", &["SADD @s a b c d", "SADD @t c e"], SETS)
}

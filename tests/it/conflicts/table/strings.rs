//! Strings, bits and counters, each pair of writes of one key that holds `10` and will expire; and
//! HyperLogLogs.

use crate::conflicts::case::{Case, Form, Kind, every_pair, form, write};
use crate::conformance::case::{R60, R62};

const KEY: &str = "@k";

const STRINGS: &[Form] = &[
    write(&["SET @k 20"]),
    write(&["SET @k 30 KEEPTTL"]).since(R60),
    write(&["SETEX @k 1000 22"]),
    write(&["GETSET @k 21"]),
    write(&["SETRANGE @k 1 7"]),
    write(&["APPEND @k 5"]),
    write(&["SETBIT @k 15 1"]),
    write(&["BITFIELD @k SET u8 0 50"]),
    write(&["INCR @k"]),
    write(&["INCRBY @k 4"]),
    write(&["DECRBY @k 3"]),
    write(&["INCRBYFLOAT @k 0.5"])
        .streamed(&["SET @k 10.5 KEEPTTL"])
        .since(R60),
    form(&["EXPIRE @k 2000"], Kind::Keep(KEY)),
    form(&["EXPIRE @k 3000"], Kind::Keep(KEY)),
    form(&["GETEX @k EX 4000"], Kind::Keep(KEY)).since(R62),
    form(&["PERSIST @k"], Kind::Keep(KEY)),
    form(&["DEL @k"], Kind::Delete(KEY)),
    form(&["UNLINK @k"], Kind::Delete(KEY)),
    form(&["GETDEL @k"], Kind::Delete(KEY)).since(R62),
    form(&["PEXPIREAT @k 1"], Kind::Delete(KEY)),
];

const HYPERLOGLOGS: &[Form] = &[
    write(&["PFADD @k x"]),
    write(&["PFADD @k y z"]),
    write(&["PFMERGE @k @from"]),
    write(&["PFMERGE @to @k @from"]),
    form(&["EXPIRE @k 1000"], Kind::Keep(KEY)),
    form(&["DEL @k"], Kind::Delete(KEY)),
];

pub(super) fn pairs() -> Vec<Case> {
    let mut pairs = every_pair("strings", &["SET @k 10", "EXPIRE @k 7000"], STRINGS);
    let setup = &["PFADD @k s", "PFADD @from t u"];
    pairs.extend(every_pair("hyperloglogs", setup, HYPERLOGLOGS));
    pairs
}

//! Streams and their groups.

use crate::conflicts::case::{Case, Form, Kind, every_pair, form, write};

const KEY: &str = "@x";

const STREAMS: &[Form] = &[
    form(&["XADD @x 10-1 f d"], Kind::Entry(1)),
    form(&["XADD @x 11-1 f e"], Kind::Entry(2)),
    form(&["XADD @x 9-1 f e", "XADD @x 12-1 f e"], Kind::Loose),
    write(&["XTRIM @x MAXLEN 1"]),
    write(&["XDEL @x 2-1"]),
    write(&["XDEL @x 3-1"]),
    form(&["XACK @x g 1-1"], Kind::Group),
    form(&["XACK @x g 2-1"], Kind::Group),
    form(&["XCLAIM @x g other 0 1-1"], Kind::Group),
    form(&["XREADGROUP GROUP g more STREAMS @x >"], Kind::Loose),
    form(&["XGROUP SETID @x g 1-1"], Kind::Group),
    form(&["XGROUP DESTROY @x g"], Kind::Group),
    write(&["XGROUP CREATE @x new 2-1"]),
    form(&["EXPIRE @x 1000"], Kind::Keep(KEY)),
    form(&["DEL @x"], Kind::Delete(KEY)),
];

pub(super) fn pairs() -> Vec<Case> {
    let setup = &[
        "XADD @x 1-1 f a",
        "XADD @x 2-1 f b",
        "XADD @x 3-1 f c",
        "XGROUP CREATE @x g 0",
        "XREADGROUP GROUP g one COUNT 2 STREAMS @x >",
    ];
    every_pair("streams", setup, STREAMS)
}

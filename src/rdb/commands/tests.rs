//! Values rebuilt by a server of a few lines: whatever the limits, the value is the same.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an overflow in a test is a failed test"
)]

use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::rdb::decode::tests::{Whole, intset, listpack, string, whole, ziplist};
use crate::rdb::{Entry, Flavour, Reader, payload};

const KEY: &[u8] = b"the key";
const ALL: Limits = Limits {
    bytes: 1 << 20,
    commands: 1000,
};

fn newest() -> Abilities {
    Abilities {
        stream_producers: true,
        ..Abilities::of_redis(8, 0)
    }
}

type Line = Vec<Vec<u8>>;

/// The commands of a piece.
fn commands(piece: &Piece) -> Vec<Line> {
    let mut rest = &piece.bytes[..];
    let mut number = |kind: u8| {
        let end = rest.iter().position(|b| *b == b'\r').unwrap();
        assert_eq!(rest[0], kind);
        let number = std::str::from_utf8(&rest[1..end]).unwrap();
        assert_eq!(&rest[end..end + 2], b"\r\n");
        rest = &rest[end + 2..];
        let number: usize = number.parse().unwrap();
        let mut bytes = Vec::new();
        if kind == b'$' {
            bytes = rest[..number].to_vec();
            assert_eq!(&rest[number..number + 2], b"\r\n");
            rest = &rest[number + 2..];
        }
        (number, bytes, rest.is_empty())
    };
    let mut all = Vec::new();
    loop {
        let (args, _, _) = number(b'*');
        let mut line = Vec::new();
        let mut last = false;
        for _ in 0..args {
            let (_, arg, end) = number(b'$');
            line.push(arg);
            last = end;
        }
        all.push(line);
        if last {
            assert_eq!(all.len(), piece.commands);
            return all;
        }
    }
}

fn pieces(payload: &[u8], target: Abilities, limits: Limits) -> (Vec<Piece>, Losses) {
    let mut rebuild = Rebuild::try_new(payload, KEY, target, limits).unwrap();
    let pieces = rebuild.by_ref().map(Result::unwrap).collect();
    assert!(rebuild.next().is_none());
    (pieces, *rebuild.losses())
}

fn lines(payload: &[u8], target: Abilities) -> Vec<String> {
    shown_lines(pieces(payload, target, ALL).0.into_iter())
}

fn shown_lines(pieces: impl Iterator<Item = Piece>) -> Vec<String> {
    let shown = |line: Line| {
        let words = line.iter().map(|arg| match arg.is_empty() {
            true => "''".to_owned(),
            false => arg.escape_ascii().to_string(),
        });
        words.collect::<Vec<_>>().join(" ").replace("the key", "K")
    };
    pieces
        .flat_map(|piece| commands(&piece))
        .map(shown)
        .collect()
}

/// Executes commands on a key that is not there.
fn executed(pieces: &[Piece]) -> Option<Whole> {
    let mut key: Option<Whole> = None;
    for line in pieces.iter().flat_map(commands) {
        assert_eq!(line[1], KEY);
        let args = &line[2..];
        assert!(!args.is_empty());
        match (&line[0][..], &mut key) {
            (b"SET", None) => key = Some(Whole::String(args[0].clone())),
            (b"APPEND", Some(Whole::String(all))) => all.extend(&args[0]),
            (b"RPUSH", None) => key = Some(Whole::List(args.to_vec())),
            (b"RPUSH", Some(Whole::List(all))) => all.extend(args.to_vec()),
            (b"SADD", None) => key = Some(Whole::Set(args.to_vec())),
            (b"SADD", Some(Whole::Set(all))) => all.extend(args.to_vec()),
            (b"ZADD", key) => {
                if let Whole::SortedSet(all) = key.get_or_insert(Whole::SortedSet(BTreeMap::new()))
                {
                    for pair in args.chunks(2) {
                        let score: f64 = std::str::from_utf8(&pair[0]).unwrap().parse().unwrap();
                        all.insert(pair[1].clone(), score.to_bits());
                    }
                }
            }
            (b"HSET", key) => {
                if let Whole::Hash(all) = key.get_or_insert(Whole::Hash(BTreeMap::new())) {
                    let pairs = args.chunks(2).map(|p| (p[0].clone(), (p[1].clone(), None)));
                    all.extend(pairs);
                }
            }
            (b"HPEXPIREAT", Some(Whole::Hash(all))) => {
                let at = std::str::from_utf8(&args[0]).unwrap().parse().unwrap();
                assert_eq!(args[1], b"FIELDS");
                assert_eq!(args[2], (args.len() - 3).to_string().as_bytes());
                for field in &args[3..] {
                    all.get_mut(field).unwrap().1 = Some(at);
                }
            }
            (name, key) => panic!("{} on {key:?}", name.escape_ascii()),
        }
    }
    if let Some(Whole::Set(all)) = &mut key {
        all.sort();
    }
    key
}

#[test]
fn each_kind_has_its_commands() {
    let flat = ["a", "1", "b", "2"];
    for (type_byte, body, expected) in [
        (0, string(b"abc"), "SET K abc"),
        (0, b"\xc0\x07".to_vec(), "SET K 7"),
        (0, b"\x00".to_vec(), "SET K ''"),
        (10, string(&ziplist(&flat)), "RPUSH K a 1 b 2"),
        (11, string(&intset(2, &[-5, 7])), "SADD K -5 7"),
        (12, string(&ziplist(&flat)), "ZADD K 1 a 2 b"),
        (
            17,
            string(&listpack(&[
                "a", "-inf", "b", "3e300", "c", "0.5", "d", "1e-7",
            ])),
            "ZADD K -inf a 3e300 b 0.5 c 1e-7 d",
        ),
        (13, string(&ziplist(&flat)), "HSET K a 1 b 2"),
    ] {
        assert_eq!(lines(&payload(type_byte, &body, 9), newest()), [expected]);
    }
    for (type_byte, empty) in [(1, b"\x00".to_vec()), (16, string(&listpack::<&str>(&[])))] {
        assert!(lines(&payload(type_byte, &empty, 9), newest()).is_empty());
    }
}

#[test]
fn fields_expire_where_they_can() {
    let earliest = 500_u64.to_le_bytes();
    let late = (1_u64 << 46).to_string();
    let items = [
        "a", "1", "900", "b", "2", "0", "c", "3", "500", "d", "4", "900", "e", "5", &late,
    ];
    let body = [&earliest[..], &string(&listpack(&items))].concat();
    let dump = payload(25, &body, 12);
    let set = "HSET K a 1 b 2 c 3 d 4 e 5";
    let [first, second] = [
        "HPEXPIREAT K 500 FIELDS 1 c",
        "HPEXPIREAT K 900 FIELDS 2 a d",
    ];
    assert_eq!(lines(&dump, newest()), [set, first, second]);
    assert_eq!(lines(&dump, Abilities::of_redis(7, 2)), [set]);
    let valkey = lines(&dump, Abilities::of_valkey(9, 0));
    assert_eq!(valkey[3], format!("HPEXPIREAT K {late} FIELDS 1 e"));
    for (target, lost, shown) in [
        (Abilities::of_valkey(9, 0), 0, ""),
        (
            Abilities::of_redis(7, 4),
            1,
            "1 fields that will not expire",
        ),
        (
            Abilities::of_valkey(8, 1),
            4,
            "4 fields that will not expire",
        ),
    ] {
        let (_, losses) = pieces(&dump, target, ALL);
        assert_eq!(losses.field_expiries, lost);
        assert_eq!(losses.to_string(), shown);
        assert_eq!(losses.is_none(), lost == 0);
    }
}

#[test]
fn a_long_string_goes_in_parts_that_fit() {
    let long: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let dump = payload(0, &string(&long), 9);
    for bytes in [0, 1, 2000, 65_536, 399_999, 400_000, 1 << 20] {
        let limits = Limits { bytes, commands: 1 };
        let (pieces, _) = pieces(&dump, newest(), limits);
        let most = bytes.max(PART_MIN + 100);
        assert!(
            pieces.iter().all(|piece| piece.bytes.len() <= most),
            "{bytes}"
        );
        assert!(pieces.len() <= 1 + long.len() / bytes.saturating_sub(100).max(PART_MIN));
        assert_eq!(executed(&pieces).unwrap(), Whole::String(long.clone()));
    }
}

#[test]
fn a_command_has_no_more_than_so_many_elements() {
    let items: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
    let dump = payload(20, &string(&listpack(&items)), 11);
    let (pieces, _) = pieces(&dump, newest(), ALL);
    let lengths: Vec<usize> = pieces
        .iter()
        .flat_map(commands)
        .map(|line| line.len())
        .collect();
    assert_eq!(lengths, [1026, 1026, 1026, 1026, 906]);
    assert_eq!(executed(&pieces), Some(whole(&dump).unwrap()));
}

#[test]
fn an_error_ends_the_pieces() {
    let bad = [&[3, 1][..], b"a", &string(b"b"), b"\xc4"].concat();
    let dump = payload(1, &bad, 9);
    let limits = Limits {
        bytes: 1,
        commands: 5,
    };
    let mut rebuild = Rebuild::try_new(&dump, KEY, newest(), limits).unwrap();
    assert!(rebuild.next().unwrap().is_ok());
    assert!(rebuild.next().unwrap().is_ok());
    assert!(rebuild.next().unwrap().is_err());
    assert!(rebuild.next().is_none());
}

#[test]
fn scores_are_written_so_that_they_are_read_back() {
    for (score, text) in [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (0.1, "0.1"),
        (1e16, "10000000000000000"),
        (1e17, "1e17"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e308"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        assert_eq!(shown(score), text);
    }
}

mod stream {
    use super::*;

    fn id(ms: u64) -> Vec<u8> {
        [ms.to_be_bytes(), 1_u64.to_be_bytes()].concat()
    }

    /// Entries `5-1` and `8-1`; pending are 3, 5 and 6, the first two of `c` and the last as the
    /// type says: of `d`, or given back.
    fn dump(type_byte: u8, last: u8) -> bytes::Bytes {
        let since = |first: u8, bytes: &'static [u8]| if type_byte >= first { bytes } else { b"" };
        let mut body = vec![2];
        for (ms, value) in [(5, "v"), (8, "w")] {
            body.extend(string(&id(ms)));
            let items = ["1", "0", "1", "f", "0", "2", "0", "0", value, "4"];
            body.extend(string(&listpack(&items)));
        }
        body.extend([2, last, 1]);
        body.extend(since(19, b"\x05\x01\x06\x01\x09"));
        body.extend(b"\x01\x01g\x08\x01");
        body.extend(since(19, b"\x04"));
        body.push(3);
        for (ms, at, times) in [(3, 100_u64, 1), (5, 100, 1), (6, 90, 2)] {
            body.extend(id(ms));
            body.extend(at.to_le_bytes());
            body.push(times);
        }
        let seen = if type_byte >= 21 { 16 } else { 8 };
        body.extend(b"\x02\x01c");
        body.extend(vec![0; seen]);
        body.push(2);
        body.extend([id(3), id(5)].concat());
        body.extend(b"\x01d");
        body.extend(vec![0; seen]);
        match type_byte {
            27 => {
                body.push(0);
                body.push(1);
            }
            _ => body.push(1),
        }
        body.extend(id(6));
        body.extend(since(
            26,
            b"\x40\x64\x40\x64\x01\x01p\x01\x01t\x05\x01\x01\x00",
        ));
        payload(type_byte, &body, 14)
    }

    const STAND_INS: [&str; 3] = ["XADD K 3-1 '' ''", "XADD K 5-1 '' ''", "XADD K 6-1 '' ''"];
    const ENTRIES: [&str; 4] = [
        "XTRIM K MAXLEN 0",
        "XSETID K 0-0",
        "XADD K 5-1 f v",
        "XADD K 8-1 f w",
    ];

    #[test]
    fn entries_are_there_under_pending_ids_while_they_are_claimed() {
        let old = lines(&dump(15, 9), Abilities::of_redis(5, 0));
        let groups = [
            "XGROUP CREATE K g 8-1",
            "XCLAIM K g c 0 3-1 5-1 TIME 100 RETRYCOUNT 1 FORCE JUSTID",
            "XCLAIM K g d 0 6-1 TIME 90 RETRYCOUNT 2 FORCE JUSTID",
        ];
        let all = [&STAND_INS[..], &groups, &ENTRIES, &["XSETID K 9-1"]];
        assert_eq!(old, all.concat());

        let groups = [
            "XSETID K 9-1 ENTRIESADDED 9",
            "XGROUP CREATE K g 8-1 ENTRIESREAD 4",
            "XGROUP CREATECONSUMER K g c",
            "XCLAIM K g c 0 3-1 5-1 TIME 100 RETRYCOUNT 1 FORCE JUSTID",
            "XGROUP CREATECONSUMER K g d",
            "XCLAIM K g d 0 6-1 TIME 90 RETRYCOUNT 2 FORCE JUSTID",
        ];
        let numbers = ["XSETID K 9-1 ENTRIESADDED 9 MAXDELETEDID 6-1"];
        for type_byte in [19, 21] {
            let new = lines(&dump(type_byte, 9), Abilities::of_redis(7, 0));
            let all = [&STAND_INS[..], &groups, &ENTRIES, &numbers];
            assert_eq!(new, all.concat(), "type {type_byte}");
        }
        let (_, losses) = pieces(&dump(21, 9), Abilities::of_redis(7, 0), ALL);
        assert!(losses.is_none());
    }

    #[test]
    fn the_groups_of_a_divided_stream_come_first() {
        let dump = dump(21, 9);
        let again = Cursor::new(dump.clone());
        let reader = Reader::of_dump(&dump[..], again, Flavour::Redis, 1).unwrap();
        let mut reader = reader.unwrap();
        let mut parts = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let Entry::Part(value, place) = entry else {
                panic!("{entry:?}");
            };
            let target = Abilities::of_redis(7, 0);
            let rebuild = Rebuild::try_new(&value.payload, KEY, target, ALL).unwrap();
            parts.push(shown_lines(rebuild.of_part(place).map(Result::unwrap)));
        }
        let [c, d] = ["c", "d"].map(|name| format!("XGROUP CREATECONSUMER K g {name}"));
        let claimed = |consumer, id, at, times| {
            format!("XCLAIM K g {consumer} 0 {id} TIME {at} RETRYCOUNT {times} FORCE JUSTID")
        };
        let claims = [
            claimed("c", "3-1", 100, 1),
            claimed("c", "5-1", 100, 1),
            claimed("d", "6-1", 90, 2),
        ];
        let [trim, back, first, last] = ENTRIES;
        let expected: [&[&str]; 6] = [
            &[
                "XGROUP CREATE K tandem 0-0 MKSTREAM",
                "XGROUP DESTROY K tandem",
                "XSETID K 9-1 ENTRIESADDED 9",
                "XGROUP CREATE K g 8-1 ENTRIESREAD 4",
                back,
            ],
            &[STAND_INS[0], &c, &claims[0], &d, trim, back],
            &[STAND_INS[1], &c, &claims[1], trim, back],
            &[STAND_INS[2], &c, &d, &claims[2], trim, back],
            &[first],
            &[last, "XSETID K 9-1 ENTRIESADDED 9 MAXDELETEDID 6-1"],
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn what_was_given_back_is_a_consumers_again() {
        let new = lines(&dump(27, 9), newest());
        assert_eq!(new[7], "XGROUP CREATECONSUMER K g d");
        assert_eq!(
            new[8],
            "XCLAIM K g c 0 6-1 TIME 90 RETRYCOUNT 2 FORCE JUSTID"
        );
        assert_eq!(
            new.last().unwrap(),
            "XCFGSET K IDMP-DURATION 100 IDMP-MAXSIZE 100"
        );
        let old = lines(&dump(27, 9), Abilities::of_redis(6, 0));
        assert_eq!(old[5], "XREADGROUP GROUP g d COUNT 1 STREAMS K 0");
        let (_, losses) = pieces(&dump(27, 9), Abilities::of_redis(8, 0), ALL);
        let words = "1 pending entries given back, now of a consumer, 1 tokens of producers";
        assert_eq!(losses.to_string(), words);
    }

    #[test]
    fn a_stream_without_entries_is_created_by_a_group() {
        let empty = payload(15, b"\x00\x00\x05\x01\x00", 9);
        let created = [
            "XGROUP CREATE K tandem 0-0 MKSTREAM",
            "XGROUP DESTROY K tandem",
        ];
        let old = lines(&empty, Abilities::of_redis(5, 0));
        assert_eq!(old, [&created[..], &["XSETID K 5-1"]].concat());
        let empty = payload(19, b"\x00\x00\x05\x01\x00\x00\x04\x02\x07\x00", 10);
        let new = lines(&empty, Abilities::of_redis(7, 0));
        let number = "XSETID K 5-1 ENTRIESADDED 7 MAXDELETEDID 4-2";
        assert_eq!(new, [&created[..], &[number]].concat());
    }

    #[test]
    fn what_is_pending_beyond_the_last_id_is_kept() {
        // Pending at 3 only: the stream has no entries, and its last id was set back to 2.
        let dump = |id: &[u8]| {
            let mut body = b"\x00\x00\x02\x00\x01\x01g\x00\x00\x01".to_vec();
            body.extend(id);
            body.extend(b"\0\0\0\0\0\0\0\0\x01\x01\x01c\0\0\0\0\0\0\0\0\x01");
            body.extend(id);
            body
        };
        let target = Abilities::of_redis(6, 2);
        let mut body = dump(&id(3));
        let kept = [
            "XADD K 3-1 '' ''",
            "XGROUP CREATE K g 0-0",
            "XGROUP CREATECONSUMER K g c",
            "XCLAIM K g c 0 3-1 TIME 0 RETRYCOUNT 1 FORCE JUSTID",
            "XTRIM K MAXLEN 0",
            "XSETID K 0-0",
            "XSETID K 2-0",
        ];
        assert_eq!(lines(&payload(15, &body, 9), target), kept);
        // No entry can have this id.
        let (_, losses) = pieces(&payload(15, &dump(&[0; 16]), 9), target, ALL);
        assert_eq!(losses.to_string(), "1 pending entries with the id 0-0");
        // A consumer cannot have what is not pending.
        body.pop();
        body.push(9);
        let dump = payload(15, &body, 9);
        let rebuild = Rebuild::try_new(&dump, KEY, newest(), ALL).unwrap();
        let last = rebuild.last();
        assert!(matches!(last, Some(Err(Error::Malformed { .. }))));
    }

    #[test]
    fn pieces_of_any_size_are_the_same_commands() {
        for type_byte in [15, 19, 21, 26, 27] {
            let dump = dump(type_byte, 9);
            let (whole, _) = pieces(&dump, newest(), ALL);
            assert_eq!(whole.len(), 1);
            for bytes in [1, 100, 200] {
                let limits = Limits { bytes, commands: 3 };
                let (parts, _) = pieces(&dump, newest(), limits);
                assert!(parts.len() > 2 && parts.iter().all(|p| p.commands <= 3));
                let all: Vec<u8> = parts.into_iter().flat_map(|part| part.bytes).collect();
                assert_eq!(all, whole[0].bytes, "type {type_byte}");
            }
        }
    }
}

/// Values of every kind, in one of their encodings.
fn values() -> impl Strategy<Value = bytes::Bytes> {
    let texts = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..60);
    let scores = prop::collection::vec(any::<f64>(), 0..60);
    (0..6_usize, texts, scores).prop_map(|(kind, texts, scores)| match kind {
        0 => payload(0, &string(&texts.concat()), 9),
        1 => payload(10, &string(&ziplist(&texts)), 9),
        2 => payload(20, &string(&listpack(&texts)), 11),
        3 => {
            let finite = scores.iter().filter(|s| !s.is_nan());
            let pairs = finite
                .zip(&texts)
                .map(|(s, t)| [&string(t), &s.to_le_bytes()[..]].concat());
            let pairs: Vec<Vec<u8>> = pairs.collect();
            let count = u8::try_from(pairs.len()).unwrap();
            payload(5, &[&[count], &pairs.concat()[..]].concat(), 9)
        }
        4 => payload(16, &string(&listpack(&texts[texts.len() % 2..])), 10),
        _ => {
            let fields = texts.iter().enumerate().flat_map(|(i, text)| {
                let at = if i % 3 == 0 {
                    -1
                } else {
                    1000 + i64::try_from(i / 5).unwrap()
                };
                [
                    &string(&i.to_be_bytes()),
                    &string(text),
                    &at.to_le_bytes()[..],
                ]
                .concat()
            });
            let fields: Vec<u8> = fields.collect();
            let count = u8::try_from(texts.len()).unwrap();
            payload(22, &[&[count], &fields[..]].concat(), 80)
        }
    })
}

proptest! {
    #[test]
    fn pieces_make_the_value_whatever_the_limits(
        dump in values(),
        bytes in 1..5000_usize,
        commands in 2..20_usize,
    ) {
        let limits = Limits { bytes, commands };
        let (pieces, losses) = pieces(&dump, newest(), limits);
        prop_assert!(losses.is_none());
        for piece in &pieces {
            prop_assert!(piece.commands <= commands);
            // One element beyond the limit, and the beginnings of two commands.
            prop_assert!(piece.bytes.len() <= bytes.max(PART_MIN) + 80 * 3 + 200);
        }
        let rebuilt = executed(&pieces);
        let mut expected = whole(&dump).unwrap();
        if let Whole::Set(all) = &mut expected {
            all.sort();
        }
        let empty = match &expected {
            Whole::List(all) | Whole::Set(all) => all.is_empty(),
            Whole::SortedSet(all) => all.is_empty(),
            Whole::Hash(all) => all.is_empty(),
            _ => false,
        };
        prop_assert_eq!(rebuilt, (!empty).then_some(expected));
    }
}

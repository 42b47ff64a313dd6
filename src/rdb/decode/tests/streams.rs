//! Streams made by hand.

use super::*;

/// An id as a snapshot has it in front of a node and among entries pending.
fn id(ms: u64, seq: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&ms.to_be_bytes());
    bytes[8..].copy_from_slice(&seq.to_be_bytes());
    bytes
}

/// A node: the first id, and its listpack.
fn node(first: (u64, u64), items: &[&str]) -> Vec<u8> {
    [string(&id(first.0, first.1)), string(&listpack(items))].concat()
}

fn with(type_byte: u8, nodes: &[Vec<u8>], tail: &[u8]) -> Result<Whole, Error> {
    let count = u8::try_from(nodes.len()).unwrap();
    whole(&payload(
        type_byte,
        &[&[count], &nodes.concat()[..], tail].concat(),
        11,
    ))
}

fn wrong(nodes: &[Vec<u8>], tail: &[u8]) -> &'static str {
    match with(15, nodes, tail) {
        Err(Error::Malformed { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

fn texts(pairs: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let own = |text: &str| text.as_bytes().to_vec();
    pairs
        .iter()
        .map(|(name, value)| (own(name), own(value)))
        .collect()
}

/// No groups.
const BARE: &[u8] = b"\x00\x00\x00\x00";

#[test]
fn entries_are_decoded() {
    let first = node(
        (5, 1),
        &[
            "3", "1", "2", "a", "b", "0", // count, deleted, two names
            "2", "0", "0", "1", "x", "5", // as the first
            "0", "1", "-1", "1", "c", "",
            "6", // with a field of its own; the sequence goes back
            "3", "2", "0", "y", "z", "5", // deleted, as the first
            "1", "2", "1", "1", "d", "e", "6", // deleted, with a field of its own
            "2", "3", "7", "2", "3", "5",
        ],
    );
    let second = node((9, 0), &["1", "0", "1", "f", "0", "2", "0", "0", "v", "4"]);
    let tail = b"\x04\x09\x00\x00";
    let expected = Whole::Stream(
        vec![
            (Id { ms: 5, seq: 1 }, texts(&[("a", "1"), ("b", "x")])),
            (Id { ms: 6, seq: 0 }, texts(&[("c", "")])),
            (Id { ms: 8, seq: 8 }, texts(&[("a", "2"), ("b", "3")])),
            (Id { ms: 9, seq: 0 }, texts(&[("f", "v")])),
        ],
        vec![],
    );
    assert_eq!(with(15, &[first.clone(), second], tail).unwrap(), expected);
    // Fields that nobody asks for are passed over.
    let body = [&[1], &first[..], BARE].concat();
    let payload = payload(15, &body, 9);
    let Value::Stream(mut stream) = decode(&payload).unwrap().value else {
        panic!("no stream");
    };
    let mut ids = Vec::new();
    while let Some(entry) = stream.next_entry().unwrap() {
        ids.push(entry.id.to_string());
    }
    assert_eq!(ids, ["5-1", "6-0", "8-8"]);
}

/// Two groups, the first with two entries pending and two consumers, as a type has them.
fn groups_of(type_byte: u8) -> Vec<u8> {
    let pending = [&id(3, 0)[..], &7_u64.to_le_bytes(), b"\x02"].concat();
    let more = [&id(4, 0)[..], &8_u64.to_le_bytes(), b"\x01"].concat();
    let since = |first: u8, bytes: &'static [u8]| if type_byte >= first { bytes } else { b"" };
    [
        b"\x00\x09\x01",
        since(19, b"\x00\x00\x05\x02\x0a"),
        b"\x02\x01g\x04\x00",
        since(19, b"\x81\xff\xff\xff\xff\xff\xff\xff\xff"),
        b"\x02",
        &pending,
        &more,
        b"\x02\x01c",
        &[1; 8],
        since(21, &[2; 8]),
        b"\x01",
        &id(3, 0),
        b"\x01d",
        &[1; 8],
        since(21, &[2; 8]),
        b"\x00",
        since(27, b"\x01\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\0"),
        b"\x01h\x00\x00",
        since(19, b"\x05"),
        b"\x00\x00",
        since(27, b"\x00"),
        since(
            26,
            b"\x40\x64\x07\x01\x01p\x02\x01t\x01\x00\x01u\x02\x00\x02\x00",
        ),
    ]
    .concat()
}

#[test]
fn groups_and_producers_are_decoded() {
    for type_byte in [15, 19, 21, 26, 27] {
        let tail = groups_of(type_byte);
        let given = |ms, delivered_at_ms, deliveries| Pending {
            id: Id { ms, seq: 0 },
            delivered_at_ms,
            deliveries,
        };
        let four = Id { ms: 4, seq: 0 };
        let consumers = vec![
            (b"c".to_vec(), vec![Id { ms: 3, seq: 0 }]),
            (b"d".to_vec(), vec![]),
        ];
        let read = (type_byte >= 19).then_some(5);
        let groups = vec![
            (
                b"g".to_vec(),
                four,
                None,
                vec![given(3, 7, 2), given(4, 8, 1)],
                consumers,
            ),
            (b"h".to_vec(), Id::ZERO, read, vec![], vec![]),
        ];
        let found = with(type_byte, &[], &tail).unwrap();
        assert_eq!(found, Whole::Stream(vec![], groups), "type {type_byte}");

        let payload = payload(type_byte, &[&[0], &tail[..]].concat(), 14);
        let Value::Stream(stream) = decode(&payload).unwrap().value else {
            panic!("no stream");
        };
        let counted = type_byte >= 19;
        assert_eq!(
            stream.max_deleted_id,
            counted.then_some(Id { ms: 5, seq: 2 })
        );
        assert_eq!(stream.entries_added, counted.then_some(10));
        let producers = Producers {
            duration_s: 100,
            tokens_max: 7,
            tokens: 2,
        };
        assert_eq!(stream.producers, (type_byte >= 26).then_some(producers));
        assert_eq!(stream.all_pending().unwrap(), [Id { ms: 3, seq: 0 }, four]);
    }
}

#[test]
fn malformed_streams_are_refused() {
    let entry = ["0", "0", "1", "a", "0", "2", "0", "0", "v", "4"];
    let good = || node((5, 0), &entry);
    assert!(with(15, &[good()], BARE).is_ok());
    assert_eq!(wrong(&[good(), good()], BARE), "entries out of order");
    assert_eq!(wrong(&[node((0, 0), &entry)], BARE), "entries out of order");
    assert_eq!(
        wrong(&[good()], b"\x00\x00\x00\x00\x00"),
        "bytes after the end of the value"
    );
    let short = [string(b"eight..."), string(&listpack(&entry))].concat();
    assert_eq!(wrong(&[short], BARE), "no id of a node");
    for (items, what) in [
        (&["0", "0", "x"][..], "no number where one must be"),
        (&["0", "0", "-1"], "a negative count"),
        (
            &["0", "0", "9", "a"],
            "a listpack ends in the middle of an element",
        ),
        (
            &["0", "0", "0", "0", "2", "0", "0", "1"],
            "an entry without fields",
        ),
        (
            &["0", "0", "0", "0", "0", "0", "0", "0"],
            "an entry without fields",
        ),
        (
            &["0", "0", "0", "0", "0", "0", "0", "-4"],
            "a negative count",
        ),
        (&entry[..9], "a listpack ends in the middle of an element"),
        (&entry[..8], "a listpack ends in the middle of an element"),
    ] {
        assert_eq!(wrong(&[node((5, 0), items)], BARE), what, "{items:?}");
    }
    let at = [0; 9];
    let [three, four] = [id(3, 0), id(4, 0)];
    let unsorted = [
        b"\x00\x00\x00\x01\x01g\x00\x00\x02",
        &four[..],
        &at,
        &three,
        &at,
        b"\x00",
    ];
    assert_eq!(
        wrong(&[], &unsorted.concat()),
        "entries pending out of order"
    );
}

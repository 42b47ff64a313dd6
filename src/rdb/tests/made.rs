//! Snapshots made by hand: every type, opcode and failure.

use super::*;

#[test]
fn checksums_are_those_of_redis() {
    assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    // What DUMP of Redis 7.0 gives for the value "hello".
    let dumped = b"\x00\x05hello\x0a\x00\x63\x72\xdf\x76\x65\x34\x20\x0a";
    assert_eq!(payload(0, b"\x05hello", 10), &dumped[..]);
}

#[test]
fn every_type_is_walked_and_stamped_with_its_version() {
    for flavour in [Flavour::Redis, Flavour::Valkey] {
        let values = values_of(&everything(flavour));
        let bodies = bodies(flavour);
        assert_eq!(values.len(), bodies.len());
        for (i, (value, (type_byte, body))) in values.iter().zip(&bodies).enumerate() {
            let lowest = lowest_version(*type_byte, flavour).unwrap();
            assert_eq!(value.db, 2);
            assert_eq!(value.key[..], [b'A' + u8::try_from(i).unwrap()]);
            assert_eq!(value.min_rdb_version, lowest);
            assert_eq!(
                value.payload,
                payload(*type_byte, body, lowest),
                "type {type_byte}"
            );
            assert_eq!(value.module, *type_byte == 7);
            let expire_at_ms = (i % 4 == 0).then_some(0x0001_c10e_8115);
            assert_eq!(value.expire_at_ms, expire_at_ms);
            assert_eq!(value.frequency, (i % 4 == 1).then_some(9));
            assert_eq!(value.idle_seconds, (i % 4 == 2).then_some(256));
        }
    }
}

#[test]
fn entries_that_are_no_values_are_given_in_order() {
    let entries = read_all(&everything(Flavour::Redis)).unwrap();
    let aux = |key: &'static str, value: &'static str| Entry::Aux {
        key: key.into(),
        value: value.into(),
    };
    let hint = Entry::SizeHint {
        db: 2,
        keys: 255,
        expires: 3,
    };
    let expected = [
        aux("repl-id", "abc"),
        aux("repl-offset", "10000"),
        Entry::Function(b"#!lua".to_vec()),
        hint,
    ];
    assert_eq!(entries[..4], expected);
}

#[test]
fn lengths_that_lie_cost_no_memory() {
    let huge: &[u8] = b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff";
    let packed = [b"\xc3\x02".as_slice(), huge, b"\x00a"].concat();
    for lie in [
        [b"\x00".as_slice(), huge].concat(),
        [b"\x00\x01k".as_slice(), huge].concat(),
        [b"\x02\x01k".as_slice(), huge].concat(),
        [b"\xf5".as_slice(), huge].concat(),
        [b"\xf5\xc3".as_slice(), huge, b"\x01"].concat(),
    ] {
        let read = read_all(&[b"REDIS0011".as_slice(), &lie].concat());
        assert!(matches!(read, Err(Error::Truncated { .. })), "{read:?}");
    }
    let read = read_all(&snapshot("REDIS0011", &[b"\xf5", &packed]));
    assert!(matches!(read, Err(Error::Malformed { .. })), "{read:?}");
}

#[test]
fn unknown_types_are_named() {
    let cases = [
        ("REDIS0009", 6),
        ("REDIS0012", 8),
        ("REDIS0012", 22),
        ("REDIS0012", 23),
        ("REDIS0014", 29),
        ("VALKEY080", 24),
        ("VALKEY080", 242),
    ];
    for (magic, number) in cases {
        let long = "k".repeat(60) + "\u{1F600}\n" + &"k".repeat(60);
        let value = [&[number, 0x40, 126], long.as_bytes(), b"\x01v"].concat();
        match read_all(&snapshot(magic, &[b"\xfe\x00", &value])) {
            Err(Error::UnknownType {
                type_byte,
                key,
                offset,
            }) => {
                assert_eq!((type_byte, offset), (number, 11));
                assert!(key.starts_with("kkk") && key.len() < 80, "{key}");
            }
            other => panic!("type {number}: {other:?}"),
        }
    }
    let read = read_all(&snapshot("REDIS0010", &[b"\xf6\x01a"]));
    assert!(matches!(
        read,
        Err(Error::UnknownOpcode {
            opcode: 246,
            offset: 9
        })
    ));
}

#[test]
fn metadata_of_a_key_goes_before_its_type() {
    let meta = b"\xf3\x02abcd\x01\x05\x00efgh\x05\x02hi\x00";
    let file = snapshot("REDIS0013", &[meta, b"\x00\x01k\x01v", b"\x00\x01l\x01w"]);
    let values = values_of(&file);
    let body = [&meta[1..], b"\x00\x01v"].concat();
    assert_eq!(values[0].payload, payload(0xf3, &body, 13));
    assert_eq!((values[0].min_rdb_version, values[0].module), (13, true));
    assert_eq!(values[1].payload, payload(0, b"\x01w", 9));
    assert_eq!((values[1].min_rdb_version, values[1].module), (9, false));
}

#[test]
fn expiry_is_never_zero() {
    for (opcodes, expected) in [
        (b"\xfc\0\0\0\0\0\0\0\0".as_slice(), Some(1)),
        (b"\xfc\xfe\xff\xff\xff\xff\xff\xff\xff", Some(1)),
        (b"\xfc\xff\xff\xff\xff\xff\xff\xff\xff", None),
        (b"\xfd\x02\0\0\0", Some(2000)),
        (b"\xfd\x9c\xff\xff\xff", Some(1)),
        (b"", None),
    ] {
        let file = snapshot(
            "REDIS0009",
            &[opcodes, b"\x00\x01k\x01v", b"\x00\x01l\x01w"],
        );
        let values = values_of(&file);
        assert_eq!(values[0].expire_at_ms, expected);
        assert_eq!(values[1].expire_at_ms, None);
    }
}

#[test]
fn a_wrong_checksum_is_told_at_the_end_and_none_is_accepted() {
    let file = snapshot("REDIS0011", &[b"\x00\x01k\x01v"]);
    for at in 9..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x20;
        assert!(read_all(&damaged).is_err(), "byte {at}");
    }
    let mut damaged = file.clone();
    damaged[13] ^= 1;
    let mut reader = Reader::try_new(&damaged[..]).unwrap();
    assert!(matches!(reader.next_entry(), Ok(Some(Entry::Value(_)))));
    assert!(matches!(reader.next_entry(), Err(Error::Checksum { .. })));
    assert!(matches!(reader.next_entry(), Err(Error::AfterError)));
    let footer = damaged.len() - 8;
    damaged[footer..].fill(0);
    assert_eq!(read_all(&damaged).unwrap().len(), 1);
    // Before version 5 there was none at all.
    let mut old = file[..footer].to_vec();
    old[..9].copy_from_slice(b"REDIS0004");
    let mut reader = Reader::try_new(&old[..]).unwrap();
    assert!(reader.next_entry().unwrap().is_some());
    for _ in 0..2 {
        assert!(reader.next_entry().unwrap().is_none());
    }
    assert_eq!(reader.bytes_read(), old.len() as u64);
}

#[test]
fn versions_are_told_by_their_first_bytes() {
    for good in ["REDIS0002", "REDIS0014", "VALKEY080"] {
        let reader = Reader::try_new(good.as_bytes()).unwrap();
        assert_eq!(reader.version().to_string(), good);
    }
    for newer in [
        "REDIS0001",
        "REDIS0015",
        "REDIS0080",
        "VALKEY079",
        "VALKEY081",
    ] {
        let version = Reader::try_new(newer.as_bytes()).map(|_| ()).unwrap_err();
        assert!(matches!(version, Error::Version(v) if v.to_string() == newer));
    }
    for other in [
        "REDIS00x1",
        "REDIS+011",
        "VALKEY 80",
        "-ERR nope",
        "\0\0\0\0\0\0\0\0\0",
    ] {
        let read = read_all(other.as_bytes());
        assert!(matches!(read, Err(Error::Magic(_))), "{other}");
    }
}

#[test]
fn a_value_larger_than_the_buffer_is_given_whole() {
    let element = vec![b'x'; 3 * BUFFER_SIZE + 5];
    let length = u32::try_from(element.len()).unwrap().to_be_bytes();
    let body = [
        b"\x02\x80".as_slice(),
        &length,
        &element,
        b"\x80",
        &length,
        &element,
    ]
    .concat();
    let long_key = [b"\x80".as_slice(), &length, &element].concat();
    let file = snapshot("REDIS0011", &[b"\x01", &long_key, &body]);
    let values = values_of(&file);
    assert_eq!(values[0].key, element);
    assert_eq!(values[0].payload, payload(1, &body, 9));
}

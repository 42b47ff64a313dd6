//! Values made by hand: every encoding, and what is wrong with each.

use proptest::prelude::*;

use super::*;

/// Decodes a body of a type.
fn of(type_byte: u8, body: &[u8]) -> Result<Whole, Error> {
    whole(&payload(type_byte, body, 10))
}

fn wrong(type_byte: u8, body: &[u8]) -> &'static str {
    match of(type_byte, body) {
        Err(Error::Malformed { what, offset, .. }) => {
            assert!(offset <= body.len() + 1);
            what
        }
        other => panic!("type {type_byte}: {other:?}"),
    }
}

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Numbers at the edges of every width, and strings at those of every length.
fn edges() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for bits in [0_u32, 3, 4, 6, 7, 8, 11, 12, 13, 15, 16, 23, 24, 31, 32, 62] {
        for near in -2..=2 {
            for sign in [1, -1] {
                all.push((sign * ((1_i64 << bits) + near)).to_string().into_bytes());
            }
        }
    }
    all.push(i64::MIN.to_string().into_bytes());
    all.push(i64::MAX.to_string().into_bytes());
    for length in [
        0, 1, 63, 64, 253, 254, 4095, 4096, 16_376, 16_377, 16_378, 16_379, 16_383,
    ] {
        all.push(vec![b'x'; length]);
    }
    all.push(vec![b'y'; 70_000]);
    all.push(vec![b'z'; 2_097_145]);
    all.push(vec![b'z'; 2_097_146]);
    all.extend(bytes(&["007", "+7", "-0", "1.5", "9223372036854775808"]));
    all
}

#[test]
fn strings_are_decoded() {
    for (body, expected) in [
        (b"\x00".as_slice(), ""),
        (b"\x03abc", "abc"),
        (b"\xc0\x80", "-128"),
        (b"\xc1\xff\x7f", "32767"),
        (b"\xc2\x00\x00\x00\x80", "-2147483648"),
        (b"\xc3\x04\x06\x00a\x60\x00", "aaaaaa"),
    ] {
        assert_eq!(of(0, body).unwrap(), Whole::String(expected.into()));
    }
    assert_eq!(wrong(0, b"\x03ab"), "more is announced than there is");
    assert_eq!(wrong(0, b"\x03abcd"), "bytes after the end of the value");
    assert_eq!(wrong(0, b"\xc2\x00"), "the value ends early");
    assert_eq!(wrong(0, b"\xc4"), "unknown form of a string");
    assert_eq!(wrong(0, b"\x82"), "unknown form of a length");
    let cut = b"\xc3\x04\x07\x00a\x60\x00";
    assert_eq!(wrong(0, cut), "compressed string that cannot be unpacked");
}

#[test]
fn a_string_is_unpacked_where_that_costs_little() {
    let of = |type_byte, body: &[u8], most| {
        let payload = payload(type_byte, body, 9);
        let mut out = b"before".to_vec();
        let is_text = put_text(&payload, most, &mut out);
        let appended = out.strip_prefix(b"before").unwrap().to_vec();
        assert!(appended.is_empty() || matches!(is_text, Ok(true)));
        let text = is_text.map(|is_text| is_text.then_some(appended));
        text.map_err(|error| error.to_string())
    };
    assert_eq!(of(0, b"\x03abc", 0), Ok(Some(b"abc".to_vec())));
    assert_eq!(of(0, b"\xc0\x80", 0), Ok(Some(b"-128".to_vec())));
    let packed = b"\xc3\x04\x06\x00a\x60\x00";
    assert_eq!(of(0, packed, 2), Ok(Some(b"aaaaaa".to_vec())));
    assert_eq!(of(0, packed, 1), Ok(None));
    assert_eq!(of(2, b"\x01\x01a", 9), Ok(None));
    assert!(of(0, b"\x03ab", 9).is_err());
    assert!(of(0, b"\x03abcd", 9).is_err());
}

#[test]
fn lists_of_every_encoding_are_decoded() {
    let items = edges();
    let expected = Whole::List(items.clone());
    let plain: Vec<u8> = items.iter().flat_map(|item| string(item)).collect();
    let count = u8::try_from(items.len() - 64).unwrap();
    let plain = [&[0x40, count + 64][..], &plain].concat();
    assert_eq!(of(1, &plain).unwrap(), expected);
    assert_eq!(of(10, &string(&ziplist(&items))).unwrap(), expected);
    let (first, rest) = items.split_at(10);
    let (second, third) = rest.split_at(1);
    let ziplists: Vec<u8> = [first, second, third]
        .iter()
        .flat_map(|part| string(&ziplist(part)))
        .collect();
    let ziplists = [&[3], &ziplists[..]].concat();
    assert_eq!(of(14, &ziplists).unwrap(), expected);
    let nodes = [
        &[4, 2][..],
        &string(&listpack(first)),
        &[1],
        &string(&second[0]),
        &[2],
        &string(&listpack::<Vec<u8>>(&[])),
        &[2],
        &string(&listpack(third)),
    ];
    assert_eq!(of(18, &nodes.concat()).unwrap(), expected);
    assert_eq!(wrong(18, b"\x01\x03\x01a"), "unknown kind of a node");
    assert_eq!(
        wrong(14, b"\x01\xc0\x01"),
        "a number in place of a packed structure"
    );
}

#[test]
fn sets_of_every_encoding_are_decoded() {
    let mut items = edges();
    items.sort();
    items.dedup();
    assert_eq!(
        of(20, &string(&listpack(&items))).unwrap(),
        Whole::Set(items)
    );
    let expected = Whole::Set(bytes(&["-5", "0", "7"]));
    assert_eq!(of(2, b"\x03\xc0\xfb\x010\xc0\x07").unwrap(), expected);
    for width in [2, 4, 8] {
        let set = intset(width, &[-5, 0, 7]);
        assert_eq!(of(11, &string(&set)).unwrap(), expected);
    }
    for (width, count, left) in [(2_u8, 4_u8, 6), (3, 2, 6), (2, 2, 6), (8, 1, 7), (0, 0, 0)] {
        let head = [width, 0, 0, 0, count, 0, 0, 0];
        let set = [&head[..], &vec![0; left]].concat();
        let what = wrong(11, &string(&set));
        assert_eq!(what, "a packed structure is not as large as it says");
    }
    assert_eq!(
        wrong(11, &string(b"\x02\0\0\0\x01")),
        "a packed structure ends early"
    );
}

#[test]
fn sorted_sets_of_every_encoding_are_decoded() {
    let scores = [
        0.0,
        -0.0,
        1.5,
        -2.5e-300,
        3e300,
        f64::INFINITY,
        f64::NEG_INFINITY,
        9e15,
    ];
    let names: Vec<String> = (0..scores.len()).map(|i| format!("m{i}")).collect();
    let pairs = || names.iter().zip(scores);
    let expected = pairs().map(|(name, score)| (name.clone().into_bytes(), score.to_bits()));
    let expected = Whole::SortedSet(expected.collect());
    let count = [u8::try_from(scores.len()).unwrap()];

    let binary = pairs().flat_map(|(m, s)| [&string(m.as_bytes()), &s.to_le_bytes()[..]].concat());
    let binary: Vec<u8> = count.into_iter().chain(binary).collect();
    assert_eq!(of(5, &binary).unwrap(), expected);

    let digits = pairs().flat_map(|(m, s)| {
        let score = match s {
            f64::INFINITY => vec![254],
            f64::NEG_INFINITY => vec![255],
            _ => [
                &[u8::try_from(format!("{s:e}").len()).unwrap()],
                format!("{s:e}").as_bytes(),
            ]
            .concat(),
        };
        [string(m.as_bytes()), score].concat()
    });
    let digits: Vec<u8> = count.into_iter().chain(digits).collect();
    assert_eq!(of(3, &digits).unwrap(), expected);

    let flat: Vec<String> = pairs()
        .flat_map(|(m, s)| [m.clone(), s.to_string()])
        .collect();
    assert_eq!(of(12, &string(&ziplist(&flat))).unwrap(), expected);
    assert_eq!(of(17, &string(&listpack(&flat))).unwrap(), expected);

    for bad in ["nan", "NaN", "", "one", "1.5x"] {
        let packed = string(&listpack(&["m", bad]));
        assert_eq!(wrong(17, &packed), "a score that is no number");
    }
    assert_eq!(wrong(3, b"\x01\x01m\xfd"), "a score that is no number");
    let nan = [&b"\x01\x01m"[..], &f64::NAN.to_le_bytes()].concat();
    assert_eq!(wrong(5, &nan), "a score that is no number");
    let odd = string(&listpack(&["m", "1", "n"]));
    assert_eq!(
        wrong(17, &odd),
        "a listpack ends in the middle of an element"
    );
    let odd = string(&ziplist(&["m", "1", "n"]));
    assert_eq!(
        wrong(12, &odd),
        "a ziplist ends in the middle of an element"
    );
}

#[test]
fn hashes_of_every_encoding_are_decoded() {
    let mut names = edges();
    names.sort();
    names.dedup();
    let values = names.iter().rev().cloned();
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = names.iter().cloned().zip(values).collect();
    let map = pairs.iter().map(|(n, v)| (n.clone(), (v.clone(), None)));
    let expected = Whole::Hash(map.collect());
    let flat: Vec<&Vec<u8>> = pairs.iter().flat_map(|(n, v)| [n, v]).collect();
    let strings: Vec<u8> = flat.iter().flat_map(|text| string(text)).collect();
    let count = [0x40, u8::try_from(pairs.len()).unwrap()];
    assert_eq!(of(4, &[&count[..], &strings].concat()).unwrap(), expected);
    assert_eq!(of(13, &string(&ziplist(&flat))).unwrap(), expected);
    assert_eq!(of(16, &string(&listpack(&flat))).unwrap(), expected);
    for unused in [0, 1, 4] {
        assert_eq!(of(9, &string(&zipmap(&pairs, unused))).unwrap(), expected);
    }
    assert_eq!(
        wrong(9, &string(b"\x01\x01a\xff")),
        "a zipmap ends in the middle of a pair"
    );
    assert_eq!(
        wrong(9, &string(b"\x01\x01a\x01\x00b")),
        "a packed structure ends early"
    );
    assert_eq!(wrong(9, &string(b"\x00")), "a packed structure ends early");
}

#[test]
fn expiries_of_fields_are_decoded() {
    let field = |value: &str, at| (value.as_bytes().to_vec(), at);
    let expected: BTreeMap<_, _> = [
        (b"a".to_vec(), field("1", Some(1000))),
        (b"b".to_vec(), field("2", None)),
        (b"c".to_vec(), field("3", Some(1_000_000))),
    ]
    .into();
    let expected = Whole::Hash(expected);
    let earliest = 1000_u64.to_le_bytes();
    let fields = b"\x03\x01\x01a\x011\x00\x01b\xc0\x02\x80\x00\x0f\x3e\x59\x01c\x013";
    let relative = [&earliest[..], fields].concat();
    assert_eq!(whole(&payload(24, &relative, 12)).unwrap(), expected);
    let triples = listpack(&["a", "1", "1000", "b", "2", "0", "c", "3", "1000000"]);
    let triples = [&earliest[..], &string(&triples)].concat();
    assert_eq!(whole(&payload(25, &triples, 12)).unwrap(), expected);
    let at = |ms: i64| ms.to_le_bytes();
    let instants = [
        &b"\x03\x01a\x011"[..],
        &at(1000),
        b"\x01b\xc0\x02",
        &at(-1),
        b"\x01c\x013",
        &at(1_000_000),
    ];
    let instants = instants.concat();
    assert_eq!(whole(&payload(22, &instants, 80)).unwrap(), expected);
    // The same numbers, where they mean something else.
    for (type_byte, body, version) in [(22, &instants, 12), (24, &relative, 80), (25, &triples, 80)]
    {
        let refused = whole(&payload(type_byte, body, version)).unwrap_err();
        assert_eq!(refused, Error::Type { type_byte, version });
    }
    let bad = [&earliest[..], &string(&listpack(&["a", "1", "-5"]))].concat();
    assert_eq!(wrong(25, &bad), "no instant of expiry");
}

#[test]
fn what_cannot_be_decoded_is_named() {
    // The number under which Redis 8 saves a set of vectors.
    let vectors = b"\x81\xbd\xeb\x71\xb2\x8b\x5b\x1d\x00\x00";
    let refused = of(7, vectors).unwrap_err();
    assert!(
        matches!(&refused, Error::Module(name) if name.len() == 9),
        "{refused:?}"
    );
    for type_byte in [8, 23, 28, 29, 242, 255] {
        let refused = of(type_byte, b"\x00\x00").unwrap_err();
        let version = 10;
        assert_eq!(refused, Error::Type { type_byte, version });
    }
    let mut damaged = payload(0, b"\x01a", 9).to_vec();
    damaged[2] ^= 1;
    assert!(matches!(whole(&damaged), Err(Error::Checksum { .. })));
    let footer = damaged.len() - 8;
    damaged[footer..].fill(0);
    assert_eq!(whole(&damaged).unwrap(), Whole::String(b"`".to_vec()));
    for short in 0..10 {
        assert!(whole(&damaged[..short]).is_err());
    }
}

#[test]
fn metadata_of_a_key_is_passed_over() {
    let meta = b"\x01abcd\x05\x02hi\x02\x07\x00\x00\x01v";
    let payload = payload(0xf3, meta, 13);
    let decoded = decode(&payload).unwrap();
    assert!(decoded.key_metadata);
    assert_eq!(whole(&payload).unwrap(), Whole::String(b"v".to_vec()));
}

#[test]
fn counts_that_lie_are_refused_at_once() {
    let huge = b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff";
    for type_byte in [1, 2, 3, 4, 5, 14, 15, 18, 19, 21, 26, 27] {
        let what = wrong(type_byte, huge);
        assert_eq!(
            what, "a count that the bytes left cannot hold",
            "type {type_byte}"
        );
    }
    let lie = [&b"\xc3\x02"[..], huge, b"\x00a"].concat();
    assert_eq!(wrong(0, &lie), "compressed string that cannot be unpacked");
    let mut packed = listpack(&["abc"]);
    packed[6] = 0xf0;
    assert_eq!(wrong(20, &string(&packed)), "a packed structure ends early");
    packed.truncate(8);
    assert_eq!(
        wrong(20, &string(&packed)),
        "a packed structure is not as large as it says"
    );
}

#[test]
fn entries_of_the_greatest_size_end_where_each_server_says() {
    // Of 16,383 bytes with what stands before the text: as most servers end it, and as Valkey 9.1.
    let text = vec![b'x'; 16_378];
    let head = [&[0xf0], &16_378_u32.to_le_bytes()[..]].concat();
    for back in [&[0x00, 0xff, 0xff][..], &[0x7f, 0xff]] {
        let body = [&head[..], &text, back, &[0x07, 0x01, 0xff]].concat();
        let size = u32::try_from(body.len() + 6).unwrap().to_le_bytes();
        let packed = [&size[..], &[2, 0], &body].concat();
        let expected = Whole::Set(vec![b"7".to_vec(), text.clone()]);
        assert_eq!(of(20, &string(&packed)).unwrap(), expected);
        let packed = string(&packed);
        let node = [&[1, 2], &packed[..]].concat();
        let expiring = [&[0; 8], &packed[..]].concat();
        let stream = [&[1, 0], &packed[..]].concat();
        for (type_byte, body) in [(16, &packed), (18, &node), (25, &expiring), (21, &stream)] {
            assert!(has_disputed_entry(&payload(type_byte, body, 12)).unwrap());
        }
    }
    for length in [16_377, 16_379] {
        let packed = string(&listpack(&[vec![b'x'; length]]));
        assert!(!has_disputed_entry(&payload(20, &packed, 12)).unwrap());
        let plain = [&[1, 1], &string(&vec![b'x'; length])[..]].concat();
        assert!(!has_disputed_entry(&payload(18, &plain, 12)).unwrap());
    }
    assert!(!has_disputed_entry(&payload(0, b"\x01a", 12)).unwrap());
}

fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let text = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        any::<i16>().prop_map(|n| n.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    prop::collection::vec(text, 0..40)
}

proptest! {
    #[test]
    fn what_was_packed_is_unpacked(texts in texts()) {
        let list = Whole::List(texts.clone());
        prop_assert_eq!(&of(10, &string(&ziplist(&texts))).unwrap(), &list);
        let node = [&[1, 2][..], &string(&listpack(&texts))].concat();
        prop_assert_eq!(&of(18, &node).unwrap(), &list);
        let mut sorted = texts;
        sorted.sort();
        prop_assert_eq!(of(20, &string(&listpack(&sorted))).unwrap(), Whole::Set(sorted));
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(
        type_byte in 0..30_u8,
        body: Vec<u8>,
        version in prop::sample::select(&[9_u16, 14, 80]),
    ) {
        drop(whole(&payload(type_byte, &body, version)));
        drop(whole(&payload(type_byte, &string(&body), version)));
        drop(whole(&body));
    }

    #[test]
    fn damaged_structures_are_decoded_without_panic(
        texts in texts(),
        form in 0..4_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = texts.iter().map(|t| (t.clone(), t.clone())).collect();
        let (type_byte, mut blob) = match form {
            0 => (16, listpack(&texts)),
            1 => (13, ziplist(&texts)),
            2 => (9, zipmap(&pairs, 2)),
            _ => (11, intset(4, &[1, 2, 3])),
        };
        for (at, byte) in damage {
            let at = at.index(blob.len());
            blob[at] = byte;
        }
        drop(of(type_byte, &string(&blob)));
    }
}

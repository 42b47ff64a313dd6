//! Values divided and put together again.

use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::rdb::decode::tests::{Whole, WholeGroup, listpack, string, whole};

/// A value by database and key, with all that is known of it but its payload.
type Parts = BTreeMap<(u32, Vec<u8>), (Value, Vec<Bytes>)>;

fn divided(file: &[u8], size: usize) -> Reader<&[u8]> {
    let again = Cursor::new(file.to_vec());
    Reader::try_new(file).unwrap().dividing(size, again)
}

/// The values of a snapshot, those that are divided in their parts.
fn parts(file: &[u8], size: usize) -> Parts {
    let reader = divided(file, size);
    let mut all = Parts::new();
    let mut open = None;
    for entry in entries_of(reader).unwrap() {
        let (mut value, place) = match entry {
            Entry::Value(value) => (value, None),
            Entry::Part(value, place) => (value, Some(place)),
            _ => continue,
        };
        let name = (value.db, value.key.to_vec());
        match place {
            None | Some(Place::First) => assert_eq!(open, None),
            Some(_) => assert_eq!(open.as_ref(), Some(&name)),
        }
        open = matches!(place, Some(Place::First | Place::Middle)).then(|| name.clone());
        let payload = mem::take(&mut value.payload);
        let (known, payloads) = all
            .entry(name)
            .or_insert_with(|| (value.clone(), Vec::new()));
        assert_eq!(*known, value);
        payloads.push(payload);
    }
    assert_eq!(open, None);
    all
}

/// What the parts hold together.
fn together(parts: &[Bytes]) -> Whole {
    let mut all = whole(&parts[0]).unwrap();
    for part in &parts[1..] {
        match (&mut all, whole(part).unwrap()) {
            (Whole::String(all), Whole::String(more)) => all.extend(more),
            (Whole::List(all), Whole::List(more)) => all.extend(more),
            (Whole::Set(all), Whole::Set(more)) => {
                all.extend(more);
                all.sort();
            }
            (Whole::SortedSet(all), Whole::SortedSet(more)) => all.extend(more),
            (Whole::Hash(all), Whole::Hash(more)) => all.extend(more),
            (Whole::Stream(all, groups), Whole::Stream(more, its)) => {
                assert!(all.is_empty() || its.is_empty(), "groups come first");
                all.extend(more);
                its.into_iter().for_each(|group| add_group(groups, group));
            }
            (all, more) => panic!("{all:?} and {more:?}"),
        }
    }
    all
}

/// Adds a group, or more of what is pending in it.
fn add_group(groups: &mut Vec<WholeGroup>, group: WholeGroup) {
    let (name, last_id, read, pending, consumers) = group;
    match groups.iter_mut().find(|(known, ..)| *known == name) {
        Some((_, its_id, its_read, all, known)) => {
            assert_eq!((*its_id, *its_read), (last_id, read));
            all.extend(pending);
            for (name, ids) in consumers {
                match known.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, all)) => all.extend(ids),
                    None => known.push((name, ids)),
                }
            }
        }
        None => groups.push((name, last_id, read, pending, consumers)),
    }
}

#[test]
fn parts_hold_together_what_the_whole_holds() {
    let mut divided = BTreeMap::new();
    for server in SERVERS {
        let file = fixture(server, "rdb");
        let values = values_of(&file);
        for size in [1, 50, 3000, 100_000] {
            let mut parts = parts(&file, size);
            for value in &values {
                let (known, parts) = parts.remove(&(value.db, value.key.to_vec())).unwrap();
                assert_eq!(
                    (known.expire_at_ms, known.idle_seconds),
                    (value.expire_at_ms, value.idle_seconds)
                );
                if parts.len() == 1 {
                    assert_eq!(parts[0], value.payload);
                } else {
                    assert_eq!(
                        together(&parts),
                        whole(&value.payload).unwrap(),
                        "{server}: {:?}",
                        value.key
                    );
                    *divided.entry(value.payload[0]).or_insert(0) += 1;
                }
            }
            assert!(parts.is_empty());
        }
    }
    let types: Vec<u8> = divided.keys().copied().collect();
    assert_eq!(types, [0, 2, 4, 5, 14, 15, 18, 19, 21, 22, 26]);
}

/// A stream of three nodes of a type, with two groups: so many entries are pending in the first, of
/// two consumers in turn, but every fifth of none.
fn stream(type_byte: u8, pending: u64) -> Vec<u8> {
    let since = |first: u8, bytes: &'static [u8]| if type_byte >= first { bytes } else { b"" };
    let id = |number: u64| [number.to_be_bytes(), 7_u64.to_be_bytes()].concat();
    let count = |all: usize| {
        let all = u32::try_from(all).unwrap();
        [&[0x80][..], &all.to_be_bytes()].concat()
    };
    let mut body = vec![3];
    for node in [1, 500, 900] {
        body.extend(string(&id(node)));
        let items = ["1", "0", "1", "f", "0", "2", "0", "0", "v", "4"];
        body.extend(string(&listpack(&items)));
    }
    body.extend(b"\x03\x43\xe8\x00");
    body.extend(since(19, b"\x01\x00\x00\x00\x05"));
    body.extend(b"\x02\x01g\x43\xe8\x00");
    body.extend(since(19, b"\x03"));
    body.extend(count(pending.try_into().unwrap()));
    for number in 1..=pending {
        body.extend(id(number));
        body.extend(number.to_le_bytes());
        body.push(1);
    }
    let owners = [1, 2, 0].map(|owner| {
        let its = (1..=pending).filter(|n| match n % 5 {
            0 => owner == 0,
            rest => owner == 1 + rest % 2,
        });
        its.map(id).collect::<Vec<_>>()
    });
    body.push(3);
    for (name, ids) in [b"c", b"d", b"e"]
        .iter()
        .zip([&owners[0], &owners[1], &vec![]])
    {
        body.extend(string(*name));
        body.extend([9; 8]);
        body.extend(since(21, &[8; 8]));
        body.extend(count(ids.len()));
        body.extend(ids.concat());
    }
    if type_byte >= 27 {
        body.extend(count(owners[2].len()));
        body.extend(owners[2].concat());
    }
    body.extend(b"\x01h\x00\x00");
    body.extend(since(19, b"\x00"));
    body.extend(b"\x00\x00");
    body.extend(since(27, b"\x00"));
    body.extend(since(26, b"\x40\x64\x07\x00\x00\x00"));
    body
}

#[test]
fn the_groups_of_a_stream_come_first_and_in_parts() {
    for type_byte in [15, 19, 21, 26, 27] {
        for (pending, size) in [
            (0, 1),
            (1, 1),
            (10, 1),
            (300, 100),
            (300, 1000),
            // More than is read at once.
            (20_000, 100_000),
        ] {
            let body = stream(type_byte, pending);
            // So that there is something behind it.
            let file = snapshot(
                "REDIS0014",
                &[&[type_byte], b"\x01k", &body, b"\x00\x01l\x01x"],
            );
            let payload = &values_of(&file)[0].payload;
            let mut all = parts(&file, size);
            let (_, its) = all.remove(&(0, b"k".to_vec())).unwrap();
            assert_eq!(all.len(), 1);
            assert_eq!(
                together(&its),
                whole(payload).unwrap(),
                "{type_byte} {size}"
            );
            for part in &its {
                assert!(part.len() < size + 250, "{} of {size}", part.len());
            }
        }
    }
}

#[test]
fn the_instants_of_fields_are_relative_to_the_same_one_in_every_part() {
    let earliest = 500_u64.to_le_bytes();
    let fields = b"\x03\x01\x01a\x01A\x00\x01b\x01B\x40\x64\x01c\x01C";
    let file = snapshot("REDIS0012", &[b"\x18\x01k", &earliest, fields]);
    let payload = &values_of(&file)[0].payload;
    let (_, parts) = parts(&file, 1).remove(&(0, b"k".to_vec())).unwrap();
    assert_eq!(parts.len(), 3);
    assert_eq!(together(&parts), whole(payload).unwrap());
}

#[test]
fn a_part_is_as_large_as_asked_and_one_element_more() {
    let items = 10_000_u32;
    let mut body = vec![0x80];
    body.extend(items.to_be_bytes());
    for item in 0..items {
        body.extend(string(format!("{item:095}").as_bytes()));
    }
    let file = snapshot("REDIS0009", &[b"\x01\x01k", &body]);
    let mut parts = parts(&file, 5000);
    let (_, parts) = parts.remove(&(0, b"k".to_vec())).unwrap();
    assert_eq!(parts.len(), 10_000_usize.div_ceil(50));
    assert!(parts.iter().all(|p| p.len() < 5000 + 100 + 32));
}

#[test]
fn a_divided_value_of_a_damaged_snapshot_is_an_error() {
    let long = [b'x'; 300];
    let file = snapshot("REDIS0009", &[b"\x00\x01k", &string(&long)]);
    for cut in 9..file.len() {
        let end = entries_of(divided(&file[..cut], 100));
        assert!(
            matches!(end, Err(Error::Truncated { .. })),
            "{cut}: {end:?}"
        );
    }
}

/// Compresses a little: what has been before is referred to, however far back it is.
fn compressed(text: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let reach = at.min(1 << 13);
        let found = (1..=reach).rev().step_by(61).find(|back| {
            let from = at - back;
            text.len() - at >= 3 && text[from..from + 3] == text[at..at + 3]
        });
        match found {
            Some(back) => {
                let same = |n: &usize| text[at - back + n] == text[at + n];
                let count = (0..(text.len() - at).min(264)).take_while(same).count();
                let [high, low] = u16::try_from(back - 1).unwrap().to_be_bytes();
                match u8::try_from(count - 2).unwrap_or(u8::MAX) {
                    short @ 0..7 => out.extend([short << 5 | high, low]),
                    long => out.extend([7 << 5 | high, long - 7, low]),
                }
                at += match u8::try_from(count - 2) {
                    Ok(length) => usize::from(length) + 2,
                    Err(_) => 257,
                };
            }
            None => {
                out.extend([0, text[at]]);
                at += 1;
            }
        }
    }
    out
}

proptest! {
    // Each of them compresses.
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn compressed_strings_are_unpacked_part_by_part(
        pieces in proptest::collection::vec((0..4_u8, 1..400_usize), 1..60),
        size in 1..5000_usize,
    ) {
        let text: Vec<u8> = pieces
            .iter()
            .flat_map(|(kind, length)| (0..*length).map(move |i| match kind {
                0 => b'a',
                1 => u8::try_from(i % 7).unwrap(),
                2 => u8::try_from(i * i % 251).unwrap(),
                _ => u8::try_from(i % 256).unwrap(),
            }))
            .collect();
        let packed = compressed(&text);
        prop_assert_eq!(lzf_decompress(&packed, text.len()).unwrap(), &text[..]);
        let mut body = vec![0xc3, 0x80];
        body.extend(u32::try_from(packed.len()).unwrap().to_be_bytes());
        body.push(0x80);
        body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        body.extend(packed);
        let file = snapshot("REDIS0009", &[b"\x00\x01k", &body]);
        let (_, parts) = parts(&file, size).remove(&(0, b"k".to_vec())).unwrap();
        prop_assert_eq!(together(&parts), Whole::String(text));
        for part in &parts {
            prop_assert!(parts.len() == 1 || part.len() <= size + 300);
        }
    }
}

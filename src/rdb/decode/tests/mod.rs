//! What the tests share: whole values, and structures packed by hand.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an overflow in a test is a failed test"
)]

use std::collections::BTreeMap;

use super::*;
use crate::rdb::payload;

mod made;
mod real;
mod streams;

/// A value, all of it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::rdb) enum Whole {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    /// Without its order, which is the server's.
    Set(Vec<Vec<u8>>),
    SortedSet(BTreeMap<Vec<u8>, u64>),
    Hash(BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>),
    Stream(Vec<WholeEntry>, Vec<WholeGroup>),
}

pub(in crate::rdb) type WholeEntry = (Id, Vec<(Vec<u8>, Vec<u8>)>);
/// Name, last id, entries read, pending, consumers and what they have.
pub(in crate::rdb) type WholeGroup = (
    Vec<u8>,
    Id,
    Option<u64>,
    Vec<Pending>,
    Vec<(Vec<u8>, Vec<Id>)>,
);

/// Decodes all of a payload.
pub(in crate::rdb) fn whole(payload: &[u8]) -> Result<Whole, Error> {
    let own = |text: Text<'_>| text.into_bytes().into_owned();
    Ok(match decode(payload)?.value {
        Value::String(text) => Whole::String(own(text)),
        Value::List(mut items) => {
            let mut all = Vec::new();
            while let Some(item) = items.next_item()? {
                all.push(own(item));
            }
            Whole::List(all)
        }
        Value::Set(mut items) => {
            let mut all = Vec::new();
            while let Some(item) = items.next_item()? {
                all.push(own(item));
            }
            all.sort();
            Whole::Set(all)
        }
        Value::SortedSet(mut scores) => {
            let mut all = BTreeMap::new();
            while let Some((member, score)) = scores.next_member()? {
                all.insert(own(member), score.to_bits());
            }
            Whole::SortedSet(all)
        }
        Value::Hash(mut fields) => {
            let mut all = BTreeMap::new();
            while let Some(field) = fields.next_field()? {
                all.insert(own(field.name), (own(field.value), field.expire_at_ms));
            }
            Whole::Hash(all)
        }
        Value::Stream(stream) => whole_stream(*stream)?,
    })
}

fn whole_stream(mut stream: Stream<'_>) -> Result<Whole, Error> {
    let own = |text: Text<'_>| text.into_bytes().into_owned();
    let (mut entries, mut groups) = (Vec::new(), Vec::new());
    while let Some(entry) = stream.next_entry()? {
        let mut fields = Vec::new();
        while let Some((name, value)) = stream.next_field()? {
            fields.push((own(name), own(value)));
        }
        assert_eq!(fields.len() as u64, entry.fields);
        entries.push((entry.id, fields));
    }
    while let Some(group) = stream.next_group()? {
        let mut consumers = Vec::new();
        while let Some(consumer) = stream.next_consumer()? {
            consumers.push((own(consumer.name.clone()), consumer.pending().collect()));
        }
        assert_eq!(consumers.len() as u64, group.consumers);
        let name = own(group.name);
        let (last, read) = (group.last_id, group.entries_read);
        groups.push((name, last, read, group.pending, consumers));
    }
    Ok(Whole::Stream(entries, groups))
}

/// A string as a snapshot has it, plain.
pub(in crate::rdb) fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&[0x80], &length.to_be_bytes()[..], bytes].concat()
}

/// The number that a listpack or a ziplist has in place of its digits, when it has.
fn as_number(bytes: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == bytes).then_some(number)
}

pub(in crate::rdb) fn listpack<T: AsRef<[u8]>>(items: &[T]) -> Vec<u8> {
    let mut body = Vec::new();
    for item in items {
        let item = item.as_ref();
        let entry = match as_number(item) {
            Some(n @ 0..=127) => vec![u8::try_from(n).unwrap()],
            Some(n @ -4096..=4095) => {
                let bits = u16::try_from(n & 0x1fff).unwrap() | 0xc000;
                bits.to_be_bytes().to_vec()
            }
            Some(n) if i16::try_from(n).is_ok() => [&[0xf1], &n.to_le_bytes()[..2]].concat(),
            Some(n @ -0x80_0000..=0x7f_ffff) => [&[0xf2], &n.to_le_bytes()[..3]].concat(),
            Some(n) if i32::try_from(n).is_ok() => [&[0xf3], &n.to_le_bytes()[..4]].concat(),
            Some(n) => [&[0xf4], &n.to_le_bytes()[..]].concat(),
            None => {
                let size = u32::try_from(item.len()).unwrap();
                let head = match size {
                    0..64 => vec![0x80 | u8::try_from(size).unwrap()],
                    64..4096 => (u16::try_from(size).unwrap() | 0xe000)
                        .to_be_bytes()
                        .to_vec(),
                    _ => [&[0xf0], &size.to_le_bytes()[..]].concat(),
                };
                [&head, item].concat()
            }
        };
        let back = match entry.len() {
            0..=127 => 1,
            128..16_383 => 2,
            16_383..2_097_151 => 3,
            _ => 4,
        };
        let size = entry.len();
        body.extend(entry);
        let shifts = (0..back).rev().map(|at| size >> (7 * at) & 0x7f);
        let bytes = shifts.map(|bits| u8::try_from(bits).unwrap() | 0x80);
        body.extend(bytes);
        let first = body.len() - back;
        body[first] &= 0x7f;
    }
    let size = u32::try_from(body.len() + 7).unwrap().to_le_bytes();
    let count = u16::try_from(items.len()).unwrap_or(u16::MAX).to_le_bytes();
    [&size[..], &count, &body, &[0xff]].concat()
}

pub(in crate::rdb) fn ziplist<T: AsRef<[u8]>>(items: &[T]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut before = 0_usize;
    for item in items {
        let item = item.as_ref();
        let start = body.len();
        match before {
            0..254 => body.push(u8::try_from(before).unwrap()),
            _ => {
                body.push(0xfe);
                body.extend(u32::try_from(before).unwrap().to_le_bytes());
            }
        }
        match as_number(item) {
            Some(n @ 0..=12) => body.push(0xf1 + u8::try_from(n).unwrap()),
            Some(n) if i8::try_from(n).is_ok() => {
                body.extend([&[0xfe], &n.to_le_bytes()[..1]].concat());
            }
            Some(n) if i16::try_from(n).is_ok() => {
                body.extend([&[0xc0], &n.to_le_bytes()[..2]].concat());
            }
            Some(n @ -0x80_0000..=0x7f_ffff) => {
                body.extend([&[0xf0], &n.to_le_bytes()[..3]].concat());
            }
            Some(n) if i32::try_from(n).is_ok() => {
                body.extend([&[0xd0], &n.to_le_bytes()[..4]].concat());
            }
            Some(n) => body.extend([&[0xe0], &n.to_le_bytes()[..]].concat()),
            None => {
                let size = u32::try_from(item.len()).unwrap();
                match size {
                    0..64 => body.push(u8::try_from(size).unwrap()),
                    64..16_384 => {
                        body.extend((u16::try_from(size).unwrap() | 0x4000).to_be_bytes());
                    }
                    _ => body.extend([&[0x80], &size.to_be_bytes()[..]].concat()),
                }
                body.extend(item);
            }
        }
        before = body.len() - start;
    }
    let size = u32::try_from(body.len() + 11).unwrap().to_le_bytes();
    let last = u32::try_from(10 + body.len() - before)
        .unwrap()
        .to_le_bytes();
    let count = u16::try_from(items.len()).unwrap_or(u16::MAX).to_le_bytes();
    [&size[..], &last, &count, &body, &[0xff]].concat()
}

/// With so many unused bytes after each value.
fn zipmap<T: AsRef<[u8]>>(pairs: &[(T, T)], unused: u8) -> Vec<u8> {
    let mut map = vec![u8::try_from(pairs.len()).unwrap_or(254)];
    let put_length = |map: &mut Vec<u8>, length: usize| match length {
        0..254 => map.push(u8::try_from(length).unwrap()),
        _ => {
            map.push(0xfe);
            map.extend(u32::try_from(length).unwrap().to_le_bytes());
        }
    };
    for (key, value) in pairs {
        let (key, value) = (key.as_ref(), value.as_ref());
        put_length(&mut map, key.len());
        map.extend(key);
        put_length(&mut map, value.len());
        map.push(unused);
        map.extend(value);
        map.extend(vec![b'#'; usize::from(unused)]);
    }
    map.push(0xff);
    map
}

pub(in crate::rdb) fn intset(width: u32, numbers: &[i64]) -> Vec<u8> {
    let mut set = width.to_le_bytes().to_vec();
    set.extend(u32::try_from(numbers.len()).unwrap().to_le_bytes());
    for number in numbers {
        set.extend(&number.to_le_bytes()[..usize::try_from(width).unwrap()]);
    }
    set
}

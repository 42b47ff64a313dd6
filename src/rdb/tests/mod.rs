//! What the tests share: snapshots made by hand, and those of real servers in `tests/data/rdb`.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an overflow in a test is a failed test"
)]

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use crc_fast::{CrcAlgorithm, checksum};

use super::*;

mod made;
mod parts;
mod real;

const SERVERS: [&str; 10] = [
    "redict-7.3",
    "redis-5.0",
    "redis-6.0",
    "redis-6.2",
    "redis-7.0",
    "redis-8.0",
    "redis-8.6",
    "valkey-8.0",
    "valkey-8.1",
    "valkey-9.1",
];

fn crc64(bytes: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Redis, bytes)
}

/// A snapshot of a magic and all between it and the end.
fn snapshot(magic: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut file = magic.as_bytes().to_vec();
    file.extend(parts.concat());
    file.push(opcode::EOF);
    let crc = crc64(&file);
    file.extend(crc.to_le_bytes());
    file
}

fn entries_of(mut reader: Reader<impl Read>) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn read_all(file: &[u8]) -> Result<Vec<Entry>, Error> {
    entries_of(Reader::try_new(file)?)
}

fn values_of(file: &[u8]) -> Vec<Value> {
    let entries = read_all(file).unwrap().into_iter();
    entries
        .filter_map(|entry| match entry {
            Entry::Value(value) => Some(value),
            _ => None,
        })
        .collect()
}

const EIGHT: &[u8] = &[0xee; 8];
const STREAM_ID: &[u8] = &[0xdd; 16];

/// Type and body, for every type that a flavour has; the strings are `a`, `b`, and so on.
fn bodies(flavour: Flavour) -> Vec<(u8, Vec<u8>)> {
    let module = b"\x81\0\0\0\0\0\0\0\x01\x01\x09\x02\x40\x50\x03ffff\x04dddddddd\x05\x02hi\x00";
    let array = b"\x03\x01\x09\x00\x00\x01a\x02\x03\x01b\x01\x01";
    let mut all = vec![
        (0, b"\x01a".to_vec()),
        (0, b"\xc0\x07".to_vec()),
        (0, b"\xc1\x07\x07".to_vec()),
        (0, b"\xc2\x07\x07\x07\x07".to_vec()),
        (0, b"\xc3\x02\x03\x00a".to_vec()),
        (1, b"\x02\x01a\xc0\x02".to_vec()),
        (2, b"\x00".to_vec()),
        (3, b"\x04\x01a\x031.5\x01b\xfd\x01c\xfe\x01d\xff".to_vec()),
        (4, b"\x01\x01a\x01b".to_vec()),
        (5, [b"\x01\x01a", EIGHT].concat()),
        (7, module.to_vec()),
        (14, b"\x02\x01a\x01b".to_vec()),
        (18, b"\x02\x01\x01a\x02\x01b".to_vec()),
    ];
    all.extend([9, 10, 11, 12, 13, 16, 17, 20].map(|packed| (packed, b"\x03abc".to_vec())));
    all.extend([15, 19, 21].map(|number| (number, stream(number))));
    match flavour {
        Flavour::Redis => all.extend([
            (24, [EIGHT, b"\x02\x00\x01a\x01b\x05\x01c\x01d"].concat()),
            (25, [EIGHT, b"\x03abc"].concat()),
            (26, stream(26)),
            (27, stream(27)),
            (28, [array, EIGHT].concat()),
            (28, b"\x00\x00".to_vec()),
        ]),
        Flavour::Valkey => all.push((22, [b"\x01\x01a\x01b", EIGHT].concat())),
    }
    all
}

/// The body of a stream of a type: one node, one group, one entry pending, one consumer.
fn stream(type_byte: u8) -> Vec<u8> {
    let since = |first: u8, bytes: &'static [u8]| if type_byte >= first { bytes } else { b"" };
    let pending = [b"\x01", STREAM_ID, EIGHT, b"\x05"].concat();
    let active = since(21, EIGHT);
    let consumer = [b"\x01\x01c", EIGHT, active, b"\x01", STREAM_ID].concat();
    let given_back = [since(27, b"\x01"), since(27, STREAM_ID)].concat();
    [
        b"\x01\x01a\x01b\x01\x02\x03",
        since(19, b"\x01\x02\x03\x04\x05"),
        b"\x01\x01g\x01\x02",
        since(19, b"\x07"),
        &pending,
        &consumer,
        &given_back,
        since(26, b"\x01\x02\x01\x01p\x01\x01t\x06\x07\x08\x09"),
    ]
    .concat()
}

/// A snapshot with every type and every opcode of a flavour.
fn everything(flavour: Flavour) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = vec![
        b"\xfa\x07repl-id\x03abc\xfa\x0brepl-offset\xc1\x10\x27".to_vec(),
        b"\xf7\x81\0\0\0\0\0\0\0\x09\x02\x02\x05\x02hi\x00".to_vec(),
        b"\xf5\x05#!lua\xfe\x02\xfb\x40\xff\x03\xf4\x01\x02\x03".to_vec(),
    ];
    if flavour == Flavour::Valkey {
        parts.push(b"\xf3\x03job\x02\x00\x09\x20\x2a".to_vec());
    }
    for (i, (type_byte, body)) in bodies(flavour).into_iter().enumerate() {
        parts.push(match i % 4 {
            0 => b"\xfc\x15\x81\x0e\xc1\x01\0\0\0".to_vec(),
            1 => b"\xf9\x09".to_vec(),
            2 => b"\xf8\x41\x00".to_vec(),
            _ => Vec::new(),
        });
        let number = u8::try_from(i).unwrap();
        parts.push([&[type_byte, 1, b'A' + number], body.as_slice()].concat());
    }
    let magic = match flavour {
        Flavour::Redis => "REDIS0014",
        Flavour::Valkey => "VALKEY080",
    };
    snapshot(magic, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn fixture(server: &str, ending: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    fs::read(root.join(format!("tests/data/rdb/{server}.{ending}"))).unwrap()
}

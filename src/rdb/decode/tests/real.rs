//! Values of real servers: the same values, however each server packs them.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::rdb::{Entry as SnapshotEntry, Reader};

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

/// Keys, and the payloads of their values.
pub(in crate::rdb) fn payloads(server: &str) -> BTreeMap<(u32, Vec<u8>), bytes::Bytes> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let file = fs::read(root.join(format!("tests/data/rdb/{server}.rdb"))).unwrap();
    let mut reader = Reader::try_new(&file[..]).unwrap();
    let mut found = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        if let SnapshotEntry::Value(value) = entry {
            found.insert((value.db, value.key.to_vec()), value.payload);
        }
    }
    found
}

/// What `make.py` wrote is the same on all servers, down to its noise; only ids of the clock and
/// what a server does not know are not.
#[test]
fn every_server_has_the_same_values() {
    let oldest = payloads("redis-5.0");
    for server in SERVERS {
        let mut types = std::collections::BTreeSet::new();
        let mut same = 0;
        for ((db, key), payload) in payloads(server) {
            let name = format!("{server} {}", key.escape_ascii());
            types.insert(payload[0]);
            if matches!(&key[..], b"vectors" | b"array") {
                assert!(
                    matches!(whole(&payload), Err(Error::Module(m)) if m == "vectorset"),
                    "{name}"
                );
                continue;
            }
            let mut found = whole(&payload).unwrap_or_else(|e| panic!("{name}: {e}"));
            let Some(expected) = oldest.get(&(db, key.clone())) else {
                assert_eq!(key, b"stream:idmp", "{name}");
                continue;
            };
            let mut expected = whole(expected).unwrap();
            check_expiries(&name, &mut found);
            forget_clock(&mut found);
            forget_clock(&mut expected);
            assert_eq!(found, expected, "{name}");
            same += 1;
        }
        assert!(same > 70, "{server}");
        println!("{server}: {same} values of types {types:?}");
    }
}

/// The fields that `make.py` had expire do, where the server lets them.
fn check_expiries(name: &str, found: &mut Whole) {
    const FAR: u64 = 4_102_444_800_123;
    let Whole::Hash(fields) = found else {
        return;
    };
    let knows = ["redis-8", "valkey-9"].iter().any(|s| name.starts_with(s));
    for (field, (_, at)) in fields.iter_mut() {
        let field = String::from_utf8_lossy(field).into_owned();
        let number: u64 = field.trim_start_matches("field ").parse().unwrap_or(0);
        let small = name.ends_with(":small") && number > 6;
        let expires = knows && name.contains("hash:ttl:") && number.is_multiple_of(2) && !small;
        assert_eq!(at.take(), expires.then_some(FAR + number), "{name} {field}");
    }
}

/// Instants of delivery are those of the run that made the snapshot, and servers before 7.0 do not
/// count what was read. Consumers without entries cannot be created before 6.2.
fn forget_clock(value: &mut Whole) {
    if let Whole::Stream(_, groups) = value {
        for (_, _, read, pending, consumers) in groups {
            *read = None;
            for entry in pending {
                assert!(entry.delivered_at_ms > 1_600_000_000_000);
                entry.delivered_at_ms = 0;
            }
            consumers.retain(|(name, _)| name != b"nobody");
        }
    }
}

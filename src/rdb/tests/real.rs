//! Snapshots of real servers: whole, in pieces, cut and damaged.

use std::io::{self, ErrorKind};

use proptest::prelude::*;

use super::*;

#[test]
fn a_snapshot_cut_anywhere_is_truncated() {
    for flavour in [Flavour::Redis, Flavour::Valkey] {
        let file = everything(flavour);
        for cut in 0..file.len() {
            match read_all(&file[..cut]) {
                Err(Error::Truncated { offset }) => assert_eq!(offset, cut as u64),
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
    }
    for server in SERVERS {
        let file = fixture(server, "rdb");
        for cut in (0..file.len()).step_by(997) {
            let read = read_all(&file[..cut]);
            assert!(matches!(read, Err(Error::Truncated { offset }) if offset == cut as u64));
        }
    }
}

/// Gives a few bytes at a time, with interruptions, and fails in the end if it is told to.
struct Drip<'a> {
    bytes: &'a [u8],
    turn: usize,
    failure: Option<ErrorKind>,
}

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(5) {
            return Err(ErrorKind::Interrupted.into());
        }
        match self.failure {
            Some(kind) if self.bytes.is_empty() => return Err(kind.into()),
            _ => {}
        }
        let room = buffer.len().min(1 + self.turn % 300);
        self.bytes.read(&mut buffer[..room])
    }
}

#[test]
fn what_is_read_does_not_depend_on_how_it_arrives() {
    let mut files: Vec<Vec<u8>> = SERVERS.iter().map(|s| fixture(s, "rdb")).collect();
    files.push(everything(Flavour::Redis));
    files.push(everything(Flavour::Valkey));
    for file in &files {
        let whole = read_all(file).unwrap();
        for buffer_size in [1, 2, 7, 64, 4096] {
            let drip = Drip {
                bytes: file,
                turn: 0,
                failure: None,
            };
            let reader = Reader::with_buffer(drip, buffer_size).unwrap();
            assert!(
                entries_of(reader).unwrap() == whole,
                "buffer of {buffer_size}"
            );
        }
        let drip = Drip {
            bytes: &file[..file.len() - 1],
            turn: 0,
            failure: Some(ErrorKind::PermissionDenied),
        };
        let failed = entries_of(Reader::try_new(drip).unwrap()).unwrap_err();
        assert!(matches!(failed, Error::Io(e) if e.kind() == ErrorKind::PermissionDenied));
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim_matches('-').as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}

/// What `make.py` wrote down of one key, and the same of what was read.
type Fact = (u32, Vec<u8>, Option<u64>, u8, usize, u64);

fn facts(words: &[&str]) -> Fact {
    (
        words[0].parse().unwrap(),
        unhex(words[1]),
        words[2].parse().ok(),
        words[3].parse().unwrap(),
        words[4].parse().unwrap(),
        u64::from_str_radix(words[5], 16).unwrap(),
    )
}

#[test]
fn snapshots_of_real_servers_hold_what_dump_gives() {
    for server in SERVERS {
        let text = String::from_utf8(fixture(server, "txt")).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split(' ').collect()).collect();
        let policy = lines[0][1];
        let said: Vec<_> = lines.iter().filter(|l| l[0] == "function").collect();
        let mut expected: Vec<Fact> = lines[1 + said.len()..].iter().map(|l| facts(l)).collect();
        let (mut functions, mut found) = (0, Vec::new());
        for entry in read_all(&fixture(server, "rdb")).unwrap() {
            let value = match entry {
                Entry::Value(value) => value,
                Entry::Function(source) => {
                    functions += 1;
                    let crc = format!("{:016x}", crc64(&source));
                    let length = source.len().to_string();
                    assert!(said.iter().any(|l| l[1..] == [&length, &crc]), "{server}");
                    continue;
                }
                Entry::Part(..) | Entry::Aux { .. } | Entry::SizeHint { .. } => continue,
            };
            let (rest, crc) = value.payload.split_at(value.payload.len() - 8);
            let (dumped, version) = rest.split_at(rest.len() - 2);
            assert_eq!(crc, crc64(rest).to_le_bytes());
            assert_eq!(version, value.min_rdb_version.to_le_bytes());
            assert_eq!(value.idle_seconds.is_some(), policy == "allkeys-lru");
            assert_eq!(value.frequency.is_some(), policy == "allkeys-lfu");
            let (length, crc) = (dumped.len(), crc64(dumped));
            let key = value.key.to_vec();
            found.push((value.db, key, value.expire_at_ms, dumped[0], length, crc));
        }
        assert_eq!(functions, said.len(), "{server}");
        expected.sort();
        found.sort();
        assert!(found.len() > 70, "{server}");
        assert_eq!(found, expected, "{server}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(body: Vec<u8>, valkey: bool, buffer_size in 1..40_usize) {
        let magic: &[u8] = if valkey { b"VALKEY080" } else { b"REDIS0014" };
        let file = [magic, &body].concat();
        let read = entries_of(Reader::with_buffer(&file[..], buffer_size).unwrap());
        prop_assert!(read.is_err() || file.contains(&opcode::EOF));
    }

    #[test]
    fn damaged_snapshots_are_read_without_panic(
        server in 0..SERVERS.len() + 2,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = match server.checked_sub(SERVERS.len()) {
            None => fixture(SERVERS[server], "rdb"),
            Some(0) => everything(Flavour::Redis),
            Some(_) => everything(Flavour::Valkey),
        };
        let sound = file.clone();
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        // A file that says it has no checksum is believed, whatever else it says.
        let unchecked = file.ends_with(&[0; 8]);
        prop_assert!(read_all(&file).is_err() || file == sound || unchecked);
    }
}

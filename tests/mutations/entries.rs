//! Where bytes of strangers come in: what must not panic, nor believe a length, whatever they are.

use std::io::Cursor;

use tandem::command::scanner::{self, Scanner};
use tandem::rdb::commands::{Abilities, Limits, Rebuild};
use tandem::rdb::{Entry, Reader};

/// Most values of the corpus are divided.
const PART_SIZE: usize = 64;

/// A snapshot: all of it is read, and every value in it rebuilt; once more in parts.
pub(crate) fn snapshot(bytes: &[u8]) {
    let Ok(mut reader) = Reader::try_new(bytes) else {
        return;
    };
    while let Ok(Some(entry)) = reader.next_entry() {
        if let Entry::Value(entry) = entry {
            rebuild(&entry.payload);
        }
    }
    let again = Cursor::new(bytes.to_vec());
    let reader = Reader::try_new(bytes).map(|r| r.dividing(PART_SIZE, again));
    let Ok(mut reader) = reader else {
        return;
    };
    while let Ok(Some(entry)) = reader.next_entry() {
        if let Entry::Value(entry) | Entry::Part(entry, _) = entry {
            rebuild(&entry.payload);
        }
    }
}

/// What DUMP gives, without its last eight bytes: a checksum would stop all that is damaged.
pub(crate) fn value(bytes: &[u8]) {
    rebuild(&[bytes, &[0; 8]].concat());
}

/// Rebuilds a value for an old and a new target: the same pieces are complete commands, however
/// small they are.
fn rebuild(payload: &[u8]) {
    for target in [Abilities::of_redis(5, 0), Abilities::of_redis(8, 6)] {
        let count = |bytes, commands| {
            let limits = Limits { bytes, commands };
            let mut rebuild = Rebuild::try_new(payload, b"key", target, limits).ok()?;
            let mut counted = 0;
            for piece in rebuild.by_ref() {
                let piece = piece.ok()?;
                let mut commands = 0;
                let scanned = scanner::for_each(&piece.bytes, |command| {
                    assert!(command.len() > 2);
                    commands += 1;
                });
                assert_eq!((scanned, commands), (Ok(()), piece.commands));
                counted += 1;
            }
            Some((counted, *rebuild.losses()))
        };
        let (large, small) = (count(1 << 20, 1000), count(100, 2));
        // Sound or not does not depend on the limits, nor does what is lost.
        assert_eq!(large.map(|l| l.1), small.map(|s| s.1));
        assert!(large.map(|l| l.0) <= small.map(|s| s.0));
    }
}

/// A replication stream: the same commands whether it comes at once or byte by byte.
pub(crate) fn stream(bytes: &[u8]) {
    let mut whole = Vec::new();
    let end = scanner::for_each(bytes, |command| whole.push(command.raw().to_vec()));
    let mut scanner = Scanner::default();
    let mut buffer = bytes::BytesMut::new();
    let mut found = 0;
    for byte in bytes {
        buffer.extend_from_slice(&[*byte]);
        match scanner.scan(&buffer) {
            Ok(None) => {}
            Ok(Some(length)) => {
                assert_eq!(whole.get(found).map(Vec::as_slice), buffer.get(..length));
                found += 1;
                scanner.advance(&mut buffer);
            }
            Err(_) => {
                assert!(end.is_err());
                break;
            }
        }
    }
    assert_eq!(found, whole.len());
    assert!(end.is_err() || buffer.is_empty());
}

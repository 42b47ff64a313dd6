//! Tests of the whole journal, on real files.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::frame::HEADER_LEN;
use super::{
    Config, Error, Frame, FrameHeader, FrameKind, Journal, Limits, MIN_MAX_SIZE, Reader, Recovered,
    Writer,
};
use crate::model::{Cursor, Epoch, Offset};

mod damage;
mod model;

const SMALL: Limits = Limits {
    segment: 2_000,
    tail: 1_500,
    total: 1 << 40,
    drops_oldest: true,
};

fn at(epoch: u64, offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch(epoch),
        offset: Offset(offset),
    }
}

fn records(epoch: u64, start: u64, end: u64) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Records,
        epoch: Epoch(epoch),
        start: Offset(start),
        end: Offset(end),
        db: 2,
        last_record: Offset(end),
        stamp_ms: 1_000 + end,
    }
}

fn other(kind: FrameKind, epoch: u64, offset: u64) -> FrameHeader {
    FrameHeader {
        kind,
        last_record: Offset(0),
        ..records(epoch, offset, offset)
    }
}

fn body(header: &FrameHeader, len: usize) -> Vec<u8> {
    let seed = header.end.0 as u8 ^ header.kind as u8;
    (0..len).map(|i| seed.wrapping_add(i as u8)).collect()
}

fn open(dir: &Path, limits: Limits) -> (Writer, Journal, Recovered) {
    Writer::open_with(dir, limits).unwrap()
}

fn refused(dir: &Path) -> Error {
    Writer::open_with(dir, SMALL).map(|_| ()).unwrap_err()
}

fn append(writer: &mut Writer, header: FrameHeader, len: usize) -> Frame {
    let body = body(&header, len);
    writer.append(&header, &body).unwrap();
    if matches!(header.kind, FrameKind::Epoch | FrameKind::Continue) {
        writer.set_preamble(format!("state {}", header.epoch).into_bytes());
    }
    let body = body.into();
    Frame { header, body }
}

/// An epoch that begins at 100, and `count` frames of 10 bytes of stream and 300 of body.
fn fill(writer: &mut Writer, count: u64) -> Vec<Frame> {
    let mut frames = vec![append(writer, other(FrameKind::Epoch, 1, 100), 20)];
    for i in 0..count {
        let start = 100 + 10 * i;
        frames.push(append(writer, records(1, start, start + 10), 300));
    }
    frames
}

fn rest(reader: &mut Reader) -> Vec<Frame> {
    std::iter::from_fn(|| reader.try_next().unwrap()).collect()
}

fn all(journal: &Journal) -> Vec<Frame> {
    rest(&mut journal.reader(Cursor::ZERO).unwrap())
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut paths: Vec<_> = entries
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    paths.sort();
    paths
}

fn flip(path: &Path, byte: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.unwrap();
    let mut old = [0];
    file.read_exact_at(&mut old, byte).unwrap();
    file.write_all_at(&[old[0] ^ 0x10], byte).unwrap();
}

fn cut(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn what_is_appended_is_read_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, journal, recovered) = open(dir.path(), SMALL);
    assert_eq!(recovered.end, None);
    assert_eq!(
        (journal.first(), journal.end()),
        (Cursor::ZERO, Cursor::ZERO)
    );
    assert!(!journal.contains(Cursor::ZERO));
    let mut early = journal.reader(Cursor::ZERO).unwrap();
    let mut frames = fill(&mut writer, 30);
    frames.push(append(&mut writer, other(FrameKind::Continue, 1, 400), 8));
    frames.push(append(&mut writer, other(FrameKind::Epoch, 2, 90), 8));
    frames.push(append(&mut writer, other(FrameKind::Notes, 2, 95), 8));
    assert!(segments(dir.path()).len() > 4);
    assert_eq!(rest(&mut early), frames);
    assert_eq!(early.position(), at(2, 95));
    assert_eq!(journal.last_record(), at(1, 400));
    drop((writer, early));

    let (_writer, journal, recovered) = open(dir.path(), SMALL);
    assert_eq!(all(&journal), frames);
    assert_eq!(recovered.end, Some(frames.last().unwrap().header));
    assert_eq!(recovered.truncated_bytes, 0);
    assert_eq!(recovered.preamble.unwrap(), b"state 1");
    let kinds: Vec<_> = recovered.frames.iter().map(|f| f.header.kind).collect();
    assert_eq!(kinds, [FrameKind::Continue, FrameKind::Epoch]);
    assert_eq!(journal.first(), at(1, 100));
    assert_eq!(journal.end(), at(2, 95));
    assert_eq!(journal.last_record(), at(1, 400));
    for (cursor, is_in) in [
        (at(0, 100), false),
        (at(1, 99), false),
        (at(1, 100), true),
        (at(1, 400), true),
        (at(1, 401), false),
        (at(2, 89), false),
        (at(2, 95), true),
        (at(2, 96), false),
    ] {
        assert_eq!(journal.contains(cursor), is_in, "{cursor}");
    }
}

#[test]
fn a_reader_starts_after_its_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(dir.path(), SMALL);
    let frames = fill(&mut writer, 30);
    drop(writer);
    let (mut writer, journal, _) = open(dir.path(), SMALL);
    for offset in 100..400 {
        let mut reader = journal.reader(at(1, offset)).unwrap();
        let expected = frames.iter().filter(|f| f.header.end > Offset(offset));
        assert!(rest(&mut reader).iter().eq(expected), "{offset}");
        // A reader that was at the end goes on from there.
        assert!(reader.try_next().unwrap().is_none());
    }
    let mut waiting = journal.reader(at(1, 400)).unwrap();
    let next = append(&mut writer, records(1, 420, 430), 10);
    assert_eq!(rest(&mut waiting), [next]);
    assert!(matches!(
        journal.reader(at(1, 99)),
        Err(Error::Trimmed { .. })
    ));
}

#[test]
fn trimming_removes_whole_segments_and_never_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, journal, _) = open(dir.path(), SMALL);
    let frames = fill(&mut writer, 30);
    let count = segments(dir.path()).len();
    let mut slow = journal.reader(Cursor::ZERO).unwrap();
    let mut quick = journal.reader(Cursor::ZERO).unwrap();
    slow.try_next().unwrap();
    let end_of_first = loop {
        let frame = quick.try_next().unwrap().unwrap();
        if frame.header.end >= Offset(140) {
            break frame.header.cursor();
        }
    };
    journal.trim(at(1, 139)).unwrap();
    assert_eq!(segments(dir.path()).len(), count);
    journal.trim(end_of_first).unwrap();
    assert_eq!(segments(dir.path()).len(), count - 1);
    assert_eq!(journal.first(), end_of_first);
    // At the end of the segment that went: nothing is missed.
    let expected: Vec<_> = frames[5..].to_vec();
    assert_eq!(rest(&mut quick), expected);
    assert_eq!(rest(&mut journal.reader(end_of_first).unwrap()), expected);
    assert!(matches!(slow.try_next(), Err(Error::Trimmed { .. })));
    assert!(journal.reader(Cursor::ZERO).is_err());
    journal.trim(at(9, 0)).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    assert_eq!(journal.bytes(), len(&segments(dir.path())[0]));
    drop(writer);
    let (_writer, journal, recovered) = open(dir.path(), SMALL);
    assert_eq!(recovered.end, Some(frames[30].header));
    assert_eq!(journal.end(), at(1, 400));
    assert!(journal.first() > at(1, 300));
    assert!(journal.contains(journal.first()));
}

#[test]
fn a_full_journal_drops_its_oldest_segments() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        total: 8_000,
        ..SMALL
    };
    let (mut writer, journal, _) = open(dir.path(), limits);
    let frames = fill(&mut writer, 100);
    assert!(journal.overflowed() > 10);
    assert!(journal.bytes() <= 8_000, "{}", journal.bytes());
    let on_disk: u64 = segments(dir.path()).iter().map(|p| len(p)).sum();
    assert_eq!(journal.bytes(), on_disk);
    let read = rest(&mut journal.reader(journal.first()).unwrap());
    assert!(frames.ends_with(&read) && read.len() >= 15);
    // A frame larger than everything is taken, alone.
    let large = append(&mut writer, records(1, 1_100, 1_200), 9_000);
    assert_eq!(segments(dir.path()).len(), 1);
    let after = append(&mut writer, records(1, 1_200, 1_210), 10);
    assert_eq!(rest(&mut journal.reader(at(1, 1_200)).unwrap()), [after]);
    drop(large);
}

#[test]
fn a_full_journal_that_may_drop_nothing_refuses_until_it_is_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        total: 8_000,
        drops_oldest: false,
        ..SMALL
    };
    let (mut writer, journal, _) = open(dir.path(), limits);
    let mut frame = 0;
    let mut next = |writer: &mut Writer| {
        let header = records(1, frame * 10, frame * 10 + 10);
        let appended = writer.append(&header, &body(&header, 300));
        frame += u64::from(appended.is_ok());
        appended
    };
    append(&mut writer, other(FrameKind::Epoch, 1, 0), 10);
    while next(&mut writer).is_ok() {}
    let refused = next(&mut writer).unwrap_err();
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(
        (5_000..=6_000).contains(&journal.bytes()),
        "{}",
        journal.bytes()
    );
    // What is in reserve is for what cannot wait; beyond it the oldest goes.
    writer.use_reserve(true);
    while journal.overflowed() == 0 {
        next(&mut writer).unwrap();
        assert!(journal.bytes() <= 8_000, "{}", journal.bytes());
    }
    writer.use_reserve(false);
    assert!(next(&mut writer).is_err());
    journal.trim(journal.end()).unwrap();
    next(&mut writer).unwrap();
    assert_eq!(journal.overflowed(), 1);
}

#[test]
fn one_process_at_a_time_and_a_size_that_makes_sense() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("a/b");
    let config = Config {
        dir: inner.clone(),
        max_size: MIN_MAX_SIZE,
        drops_oldest: true,
    };
    let (writer, _, _) = Writer::open(config.clone()).unwrap();
    let second = Writer::open(config.clone()).map(|_| ()).unwrap_err();
    assert!(matches!(second, Error::InUse { .. }), "{second}");
    drop(writer);
    assert!(Writer::open(config).is_ok());
    let config = Config {
        dir: inner,
        max_size: MIN_MAX_SIZE - 1,
        drops_oldest: true,
    };
    let small = Writer::open(config).map(|_| ()).unwrap_err();
    assert!(matches!(small, Error::TooSmall { .. }), "{small}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, journal, _) = open(dir.path(), SMALL);
    let frames = fill(&mut writer, 3);
    let no_record = FrameHeader {
        last_record: Offset(129),
        ..records(1, 130, 140)
    };
    for header in [
        records(1, 129, 140),
        records(1, 140, 130),
        records(0, 500, 510),
        no_record,
    ] {
        let error = writer.append(&header, b"").unwrap_err();
        assert!(matches!(error, Error::Misuse { .. }), "{error}");
    }
    assert_eq!(all(&journal), frames);
    // A segment must not begin without the state of its epoch.
    let header = other(FrameKind::Continue, 1, 130);
    writer.append(&header, b"").unwrap();
    let error = writer.append(&records(1, 130, 140), &[0; 2_000]);
    assert!(matches!(error, Err(Error::Misuse { .. })));
    writer.set_preamble(b"state".to_vec());
    append(&mut writer, records(1, 130, 140), 2_000);
}

#[test]
fn pending_bytes_are_exact_in_the_tail_and_near_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        segment: 3 << 20,
        tail: 1 << 20,
        ..SMALL
    };
    let (mut writer, journal, _) = open(dir.path(), limits);
    append(&mut writer, other(FrameKind::Epoch, 1, 0), 20);
    let frame = (HEADER_LEN + 10_000) as u64;
    for i in 0..1_000 {
        append(&mut writer, records(1, 100 * i, 100 * i + 100), 10_000);
    }
    let check = |journal: &Journal, near: u64| {
        for i in 0..=1_000 {
            let pending = journal.pending_bytes(at(1, 100 * i));
            let exact = (1_000 - i) * frame;
            let allowed = if i >= 920 && near < 1 << 20 { 0 } else { near };
            assert!(
                pending.abs_diff(exact) <= allowed,
                "{i}: {pending}, {exact}"
            );
        }
        assert_eq!(journal.pending_bytes(at(2, 0)), 0);
        assert!(journal.pending_bytes(Cursor::ZERO) >= 1_000 * frame);
    };
    check(&journal, 300 << 10);
    journal.trim(at(1, 60_000)).unwrap();
    assert!(journal.pending_bytes(Cursor::ZERO) < 700 * frame);
    drop(writer);
    let (mut writer, journal, _) = open(dir.path(), limits);
    assert_eq!(journal.pending_bytes(at(1, 100_000)), 0);
    for i in 700..1_000 {
        let pending = journal.pending_bytes(at(1, 100 * i));
        assert!(pending.abs_diff((1_000 - i) * frame) <= 300 << 10, "{i}");
    }
    append(&mut writer, records(1, 100_000, 100_010), 10);
    assert_eq!(journal.pending_bytes(at(1, 100_000)), 82);
}

#[test]
fn syncing_says_up_to_where() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, journal, _) = open(dir.path(), SMALL);
    let syncer = writer.sync_handle();
    assert_eq!(syncer.sync().unwrap(), Cursor::ZERO);
    fill(&mut writer, 2);
    assert!(journal.durable() < journal.end());
    assert_eq!(syncer.sync().unwrap(), at(1, 120));
    assert_eq!(journal.durable(), at(1, 120));
    append(&mut writer, records(1, 120, 130), 1_900);
    assert_eq!(journal.durable(), at(1, 120));
    drop(writer);
    let (_writer, journal, _) = open(dir.path(), SMALL);
    assert_eq!(journal.durable(), at(1, 130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_follow_a_writer_over_rotations_and_trimming() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        segment: 20_000,
        tail: 4_000,
        ..SMALL
    };
    let (mut writer, journal, _) = open(dir.path(), limits);
    let frames = 3_000_u64;
    let mut tasks = tokio::task::JoinSet::new();
    for pause in [0, 1, 7] {
        let mut reader = journal.reader(Cursor::ZERO).unwrap();
        let journal = journal.clone();
        tasks.spawn(async move {
            let mut seen = 0;
            while seen < frames {
                // Cancelled now and then, also while a file is read.
                let next = tokio::time::timeout(Duration::from_micros(300), reader.next());
                let Ok(frame) = next.await else { continue };
                let frame = frame.unwrap();
                assert_eq!(frame.header.start, Offset(seen * 10));
                assert_eq!(frame.body, body(&frame.header, (seen % 900) as usize));
                seen += 1;
                if pause > 0 && seen % 100 == 0 {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                // The slowest trims.
                if pause == 7 && seen % 50 == 0 {
                    journal.trim(reader.position()).unwrap();
                }
            }
            reader
        });
    }
    for i in 0..frames {
        append(
            &mut writer,
            records(1, i * 10, i * 10 + 10),
            (i % 900) as usize,
        );
        if i % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut readers = tasks.join_all().await;
    assert!(journal.first() > at(1, 0));
    drop(writer);
    let closed = readers[0].next().await;
    assert!(matches!(closed, Err(Error::Closed)));
}

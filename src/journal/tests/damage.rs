//! What crashes, disks and hands do to the files.

use proptest::prelude::*;

use super::*;

#[test]
fn a_torn_tail_is_removed_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(dir.path(), SMALL);
    let frames = fill(&mut writer, 8);
    writer.sync_handle().sync().unwrap();
    drop(writer);
    let last = segments(dir.path()).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let frame = (HEADER_LEN + 300) as u64;
    let first = whole.len() as u64 - 3 * frame;
    for cut_at in (first..whole.len() as u64).rev() {
        for zeros in [0, 1, 71, 72, 73, 5_000] {
            fs::write(&last, &whole).unwrap();
            cut(&last, cut_at);
            cut(&last, cut_at + zeros);
            let (_writer, journal, recovered) = open(dir.path(), SMALL);
            // What was cut may itself have been zeros.
            let kept = (cut_at - first) / frame;
            let read = all(&journal);
            assert_eq!(read, frames[..6 + kept as usize], "{cut_at} {zeros}");
            assert_eq!(
                recovered.truncated_bytes,
                cut_at + zeros - first - kept * frame,
                "{cut_at} {zeros}"
            );
            assert_eq!(recovered.end, Some(read.last().unwrap().header));
            assert_eq!(len(&last), first + kept * frame);
        }
    }
}

#[test]
fn damage_in_what_was_synced_is_refused_and_holes_after_it_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(dir.path(), SMALL);
    let mut frames = fill(&mut writer, 6);
    writer.sync_handle().sync().unwrap();
    // The first frame after a sync does not know of it yet.
    frames.push(append(&mut writer, records(1, 160, 170), 300));
    frames.push(append(&mut writer, records(1, 170, 180), 300));
    drop(writer);
    let last = segments(dir.path()).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let frame = HEADER_LEN + 300;
    let first = whole.len() - 3 * frame;
    for byte in first..whole.len() {
        fs::write(&last, &whole).unwrap();
        flip(&last, byte as u64);
        let number = (byte - first) / frame;
        match Writer::open_with(dir.path(), SMALL) {
            Ok((_, journal, recovered)) => {
                assert!(number >= 1, "byte {byte}");
                assert_eq!(all(&journal), frames[..6 + number]);
                assert_eq!(recovered.truncated_bytes, ((3 - number) * frame) as u64);
            }
            Err(Error::Corrupt { path, offset, what }) => {
                assert_eq!((number, path, offset), (0, last.clone(), first as u64));
                assert_eq!(what, "damage in what had been synced");
            }
            Err(other) => panic!("byte {byte}: {other}"),
        }
    }
}

#[test]
fn damage_in_an_earlier_segment_is_found_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(dir.path(), SMALL);
    let frames = fill(&mut writer, 30);
    drop(writer);
    let second = segments(dir.path())[1].clone();
    let whole = fs::read(&second).unwrap();
    let first = whole.len() - 4 * (HEADER_LEN + 300);
    flip(&second, first as u64 + 800);
    let (writer, journal, _) = open(dir.path(), SMALL);
    let mut reader = journal.reader(Cursor::ZERO).unwrap();
    let mut read = Vec::new();
    let error = loop {
        match reader.try_next() {
            Ok(frame) => read.push(frame.unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!(read, frames[..read.len()]);
    let Error::Corrupt { path, offset, .. } = &error else {
        panic!("{error}");
    };
    let expected = (first + 2 * (HEADER_LEN + 300)) as u64;
    assert_eq!((path, *offset), (&second, expected));
    assert!(error.to_string().contains(second.to_str().unwrap()));
    assert!(reader.try_next().is_err());
    drop((writer, reader, journal));
    // Frames lost from its end are noticed at once.
    fs::write(&second, &whole[..whole.len() - HEADER_LEN - 300]).unwrap();
    assert!(matches!(refused(dir.path()), Error::Corrupt { .. }));
    // As is anything in the header.
    for byte in 0..first {
        fs::write(&second, &whole).unwrap();
        flip(&second, byte as u64);
        let error = refused(dir.path());
        match byte {
            0..8 => assert!(matches!(error, Error::Foreign { .. }), "{byte}: {error}"),
            8..12 => assert!(matches!(error, Error::Version { .. }), "{byte}: {error}"),
            _ => assert!(matches!(error, Error::Corrupt { .. }), "{byte}: {error}"),
        }
    }
    for length in 0..first {
        fs::write(&second, &whole[..length]).unwrap();
        assert!(matches!(refused(dir.path()), Error::Corrupt { .. }));
    }
}

#[test]
fn segments_that_are_missing_or_foreign_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(dir.path(), SMALL);
    fill(&mut writer, 30);
    drop(writer);
    let paths = segments(dir.path());
    let hidden = dir.path().join("hidden");
    fs::rename(&paths[2], &hidden).unwrap();
    match refused(dir.path()) {
        Error::Missing { path } => assert_eq!(path, paths[2]),
        other => panic!("{other}"),
    }
    fs::rename(&hidden, &paths[2]).unwrap();
    // A rotation that was never finished, and files of others.
    fs::write(paths[5].with_file_name("00000000000000000099.tmp"), "x").unwrap();
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    let (writer, _, _) = open(dir.path(), SMALL);
    assert!(!dir.path().join("00000000000000000099.tmp").exists());
    drop(writer);
    // A segment under another's name.
    fs::copy(&paths[1], &paths[2]).unwrap();
    assert!(matches!(refused(dir.path()), Error::Corrupt { .. }));
}

#[test]
fn a_full_disk_loses_nothing_and_the_append_can_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, journal, _) = open(dir.path(), SMALL);
    let mut frames = fill(&mut writer, 3);
    for (step, quota) in [0, 1, 71, 72, 100, 371, 372 + 2_072 - 1]
        .into_iter()
        .enumerate()
    {
        let start = 130 + 100 * step as u64;
        // Kept in memory, written in one call; and too large for that.
        for (header, size) in [
            (records(1, start, start + 10), 300),
            (records(1, start + 10, start + 20), 2_000),
        ] {
            let body = body(&header, size);
            writer.quota = Some(quota);
            if let Err(error) = writer.append(&header, &body) {
                assert!(error.is_disk_full(), "{error}");
                assert!(error.to_string().starts_with("disk full: "), "{error}");
                assert_eq!(journal.end(), frames.last().unwrap().header.cursor());
                assert_eq!(all(&journal), frames);
                writer.quota = None;
                writer.append(&header, &body).unwrap();
            }
            let body = body.into();
            frames.push(Frame { header, body });
        }
    }
    writer.quota = None;
    assert_eq!(all(&journal), frames);
    drop(writer);
    let (_writer, journal, recovered) = open(dir.path(), SMALL);
    assert_eq!((all(&journal), recovered.truncated_bytes), (frames, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_opened_without_panic(
        keep in 0..700_usize,
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _, _) = open(dir.path(), SMALL);
        let frames = fill(&mut writer, 1);
        drop(writer);
        let path = segments(dir.path()).pop().unwrap();
        let mut content = fs::read(&path).unwrap();
        content.truncate(keep);
        content.extend_from_slice(&bytes);
        fs::write(&path, content).unwrap();
        if let Ok((_writer, journal, _)) = Writer::open_with(dir.path(), SMALL) {
            prop_assert!(frames.starts_with(&all(&journal)));
        }
    }
}

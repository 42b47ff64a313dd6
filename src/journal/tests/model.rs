//! Random sequences of what a journal goes through, against a list of frames.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Append: kind, offsets skipped, offsets in it, length of the body.
    Append(u8, u64, u64, usize),
    /// Trim at the place of a frame, by its number modulo how many there are.
    Trim(usize),
    /// Sync.
    Sync,
    /// Read from the place of a frame.
    Read(usize),
    /// Kill and start again.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..20_u8, 0..3_u64, 0..50_u64, 0..900_usize)
            .prop_map(|(k, s, l, b)| Step::Append(k, s, l, b)),
        1 => any::<usize>().prop_map(Step::Trim),
        1 => Just(Step::Sync),
        2 => any::<usize>().prop_map(Step::Read),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..80)
}

/// A journal, and what should be in it.
struct World {
    dir: tempfile::TempDir,
    limits: Limits,
    writer: Option<Writer>,
    journal: Journal,
    frames: Vec<Frame>,
}

impl World {
    fn new(total: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { total, ..SMALL };
        let (writer, journal, _) = open(dir.path(), limits);
        let (writer, frames) = (Some(writer), Vec::new());
        Self {
            dir,
            limits,
            writer,
            journal,
            frames,
        }
    }

    fn end(&self) -> Cursor {
        self.frames
            .last()
            .map_or(Cursor::ZERO, |f| f.header.cursor())
    }

    fn apply(&mut self, step: Step) {
        let pick = |frames: &[Frame], n: usize| {
            let n = n.checked_rem(frames.len());
            n.map_or(Cursor::ZERO, |n| frames[n].header.cursor())
        };
        match step {
            Step::Append(kind, skip, length, size) => self.append(kind, skip, length, size),
            Step::Trim(n) => {
                let upto = pick(&self.frames, n);
                self.journal.trim(upto).unwrap();
                assert!(self.journal.first() <= upto.max(self.journal.first()));
            }
            Step::Sync => {
                let synced = self.journal.syncer().sync().unwrap();
                assert_eq!(synced, self.end());
            }
            Step::Read(n) => self.read(pick(&self.frames, n)),
            Step::Reopen => {
                // Dropped before, for the lock; nothing is written at that.
                self.writer = None;
                let (writer, journal, recovered) = open(self.dir.path(), self.limits);
                assert_eq!(recovered.truncated_bytes, 0);
                self.recovered(writer, journal, &recovered);
            }
        }
        self.check();
    }

    fn append(&mut self, kind: u8, skip: u64, length: u64, size: usize) {
        let end = self.end();
        let start = end.offset.0 + skip;
        let epoch = end.epoch.0.max(1);
        let mut header = match kind {
            0 => other(FrameKind::Epoch, epoch + 1, start / 2),
            1 => other(FrameKind::Continue, epoch, start),
            2 | 3 => FrameHeader {
                kind: FrameKind::Notes,
                last_record: Offset(0),
                ..records(epoch, start, start + length)
            },
            _ => records(epoch, start, start + length),
        };
        // No two headers are equal.
        header.stamp_ms = self.frames.len() as u64;
        let frame = append(self.writer.as_mut().unwrap(), header, size);
        self.frames.push(frame);
    }

    /// What a reader from a cursor must return, or must not be able to.
    fn read(&self, after: Cursor) {
        let expected = self.frames.iter().filter(|f| after < f.header.cursor());
        match self.journal.reader(after) {
            Ok(mut reader) => {
                let read = rest(&mut reader);
                assert!(read.iter().eq(expected), "after {after}");
            }
            Err(Error::Trimmed { first, .. }) => assert!(after < first),
            Err(error) => panic!("{error}"),
        }
    }

    fn recovered(&mut self, writer: Writer, journal: Journal, recovered: &Recovered) {
        assert_eq!(recovered.end, self.frames.last().map(|f| f.header));
        // The state of the epoch: the preamble, or a frame after it.
        let changed = |f: &&Frame| matches!(f.header.kind, FrameKind::Epoch | FrameKind::Continue);
        let last = self.frames.iter().rev().find(changed);
        match (recovered.frames.last(), &recovered.preamble) {
            (Some(frame), _) => assert_eq!(Some(frame), last),
            (None, preamble) => assert_eq!(
                preamble.as_deref(),
                last.map(|f| format!("state {}", f.header.epoch).into_bytes())
                    .as_deref()
            ),
        }
        let mut writer = writer;
        if let Some(last) = last {
            writer.set_preamble(format!("state {}", last.header.epoch).into_bytes());
        }
        self.writer = Some(writer);
        self.journal = journal;
    }

    fn check(&self) {
        let journal = &self.journal;
        assert_eq!(journal.end(), self.end());
        assert_eq!(*journal.subscribe().borrow(), self.end());
        let sizes: u64 = segments(self.dir.path()).iter().map(|p| len(p)).sum();
        assert_eq!(journal.bytes(), sizes);
        let records = self
            .frames
            .iter()
            .rev()
            .find_map(|f| f.header.last_record());
        assert_eq!(journal.last_record(), records.unwrap_or(Cursor::ZERO));
        assert!(journal.first() <= journal.end());
        assert!(journal.durable() <= journal.end());
        assert_eq!(journal.pending_bytes(self.end()), 0);
        if !self.frames.is_empty() {
            assert!(journal.contains(journal.first()) && journal.contains(journal.end()));
        }
        self.read(journal.first());
    }
}

/// Few cases, as every rotation waits for the disk; `TMPDIR=/dev/shm PROPTEST_CASES=5000` for many.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 40;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_journal_is_a_list_of_frames(steps in steps(), full: bool) {
        let mut world = World::new(if full { 12_000 } else { 1 << 40 });
        for step in steps {
            world.apply(step);
        }
    }

    #[test]
    fn a_cut_loses_the_tail_only(steps in steps(), byte: u64) {
        let mut world = World::new(1 << 40);
        for step in steps {
            world.apply(step);
        }
        world.writer = None;
        let last = segments(world.dir.path()).pop().unwrap();
        let header = fs::read(&last).unwrap();
        let header = u64::from(u32::from_le_bytes(header[12..16].try_into().unwrap()));
        cut(&last, header + byte % (len(&last) - header + 1));
        let (writer, journal, recovered) = open(world.dir.path(), SMALL);
        let kept = world.frames.iter().position(|f| Some(f.header) == recovered.end);
        world.frames.truncate(kept.map_or(0, |k| k + 1));
        world.recovered(writer, journal, &recovered);
        world.check();
    }

    #[test]
    fn flipped_bits_are_never_returned(steps in steps(), flips in prop::collection::vec(any::<(usize, u64)>(), 1..4)) {
        let mut world = World::new(1 << 40);
        for step in steps {
            world.apply(step);
        }
        world.writer = None;
        let paths = segments(world.dir.path());
        for (file, byte) in flips {
            let path = &paths[file % paths.len()];
            flip(path, byte % len(path));
        }
        match Writer::open_with(world.dir.path(), SMALL) {
            Err(Error::Corrupt { .. } | Error::Foreign { .. } | Error::Version { .. }) => {}
            Err(error) => panic!("{error}"),
            Ok((_, journal, _)) => {
                let first = journal.first();
                let mut expected = world.frames.iter().filter(|f| first < f.header.cursor());
                let mut reader = journal.reader(first).unwrap();
                loop {
                    match reader.try_next() {
                        Ok(Some(frame)) => prop_assert_eq!(Some(&frame), expected.next()),
                        Ok(None) => break,
                        Err(Error::Corrupt { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }
}

//! Telling people of conflicts: on the board, and in a log of JSON lines.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde_json::json;
use tracing::warn;

use crate::converge::Verdicts;
use crate::model::{Conflict, Hlc, ShownKeys, SiteId};
use crate::status::Board;

/// Lines that wait for the disk. More are left out: the stream is not held up for a log.
const WAITING: usize = 4096;

/// What is written to the conflict log.
#[derive(Clone, Debug, Default)]
pub struct ConflictLog {
    /// The file; none: nothing is written.
    pub path: Option<PathBuf>,
    /// How keys stand in it.
    pub keys: ShownKeys,
    /// The most lines a second; the others are counted.
    pub max_rate: u32,
}

/// Tells what the judge has found.
#[derive(Debug)]
pub(super) struct Conflicts {
    site: SiteId,
    board: Arc<Board>,
    settings: ConflictLog,
    /// To the thread that writes; none without a log.
    lines: Option<SyncSender<String>>,
    /// The second in which lines were last written, and how many.
    second: (u64, u32),
}

impl Conflicts {
    /// Begins to write the log, if there is to be one.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn new(site: SiteId, board: Arc<Board>, settings: ConflictLog) -> io::Result<Self> {
        let lines = settings.path.clone().map(begin).transpose()?;
        Ok(Self {
            site,
            board,
            settings,
            lines,
            second: (0, 0),
        })
    }

    /// Tells of what was found; `now_ms` is the wall clock.
    pub(super) fn tell(&mut self, verdicts: &Verdicts, now_ms: u64) {
        for ((site, kind, winner), count) in &verdicts.found {
            self.count(site, |conflicts| conflicts.add(*kind, *winner, *count));
        }
        for (site, since) in &verdicts.mended {
            let took = now_ms.saturating_sub(since.millis());
            let seconds = f64::from(u32::try_from(took).unwrap_or(u32::MAX)) / 1000.0;
            self.count(site, |conflicts| conflicts.mended_seconds.observe(seconds));
        }
        for (peer, conflict) in &verdicts.told {
            if !self.log(peer, conflict, now_ms) {
                self.count(peer, |conflicts| conflicts.unlogged += 1);
            }
        }
    }

    fn count(&self, site: &SiteId, how: impl FnOnce(&mut crate::status::Conflicts)) {
        if let Some(peer) = self.board.peer(site) {
            how(&mut peer.lock().conflicts);
        }
    }

    /// Whether the line is on its way, or none is wanted.
    fn log(&mut self, peer: &SiteId, conflict: &Conflict, now_ms: u64) -> bool {
        let Some(lines) = &self.lines else {
            return true;
        };
        let second = now_ms / 1000;
        if self.second.0 != second {
            self.second = (second, 0);
        }
        if self.second.1 >= self.settings.max_rate {
            return false;
        }
        self.second.1 += 1;
        let line = line((&self.site, peer), conflict, self.settings.keys, now_ms);
        lines.try_send(line).is_ok()
    }
}

/// One line of the log.
fn line(
    (site, peer): (&SiteId, &SiteId),
    conflict: &Conflict,
    keys: ShownKeys,
    now_ms: u64,
) -> String {
    let (db, name) = &conflict.key;
    let mut line = json!({
        "time_ms": now_ms,
        "site": site.to_string(),
        "peer": peer.to_string(),
        "db": db,
        "key": keys.show(name),
        "kind": conflict.kind.word(),
        "winner": conflict.winner.word(),
        "ours_ms": conflict.ours.map(Hlc::millis),
        "theirs_ms": conflict.theirs.millis(),
        "command": conflict.command.escape_ascii().to_string(),
    })
    .to_string();
    line.push('\n');
    line
}

fn begin(path: PathBuf) -> io::Result<SyncSender<String>> {
    let (lines, waiting) = sync_channel(WAITING);
    thread::Builder::new()
        .name("conflict-log".to_owned())
        .spawn(move || write(&path, &waiting))?;
    Ok(lines)
}

/// Appends what comes, until nobody can send any more. The file is opened for each turn: whoever
/// rotates it need tell nobody.
fn write(path: &Path, waiting: &Receiver<String>) {
    let mut trouble = String::new();
    while let Ok(first) = waiting.recv() {
        let mut text = first;
        text.extend(waiting.try_iter().take(WAITING));
        let file = OpenOptions::new().create(true).append(true).open(path);
        match file.and_then(|mut file| file.write_all(text.as_bytes())) {
            Ok(()) => trouble.clear(),
            Err(error) if error.to_string() == trouble => {}
            Err(error) => {
                trouble = error.to_string();
                warn!(path = %path.display(), %error, "the conflict log cannot be written; conflicts are mended all the same");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use bytes::Bytes;

    use super::*;
    use crate::model::{ConflictKind, InstanceId, Winner};

    fn site(name: &str) -> SiteId {
        SiteId::try_new(name).unwrap()
    }

    fn conflict() -> Conflict {
        Conflict {
            key: (3, Bytes::from_static(b"user:\x01")),
            kind: ConflictKind::Write,
            winner: Winner::Here,
            ours: Some(Hlc::from_millis(12)),
            theirs: Hlc::from_millis(11),
            command: Bytes::from_static(b"SET"),
        }
    }

    #[test]
    fn a_line_shows_as_much_of_the_key_as_it_may() {
        let key = |keys| {
            let text = line((&site("a"), &site("b")), &conflict(), keys, 15);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&value["kind"], &value["db"]), (&json!("write"), &json!(3)));
            value["key"].clone()
        };
        assert_eq!(key(ShownKeys::Full), json!("user:\\x01"));
        let hash = key(ShownKeys::Hash);
        assert_eq!(hash.as_str().map(str::len), Some(32));
        assert_eq!(key(ShownKeys::None), json!(null));
    }

    #[test]
    fn conflicts_are_counted_all_and_logged_at_the_rate_that_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conflicts.jsonl");
        let board = Board::new(site("a"), InstanceId::new(1), &[site("b")]);
        let settings = ConflictLog {
            path: Some(path.clone()),
            keys: ShownKeys::Full,
            max_rate: 2,
        };
        let mut conflicts = Conflicts::new(site("a"), Arc::clone(&board), settings).unwrap();
        let verdicts = Verdicts {
            found: [((site("b"), ConflictKind::Write, Winner::Here), 3)].into(),
            told: vec![(site("b"), conflict()); 3],
            mended: vec![(site("b"), Hlc::from_millis(500))],
            ..Verdicts::default()
        };
        conflicts.tell(&verdicts, 1000);
        let told = board.peer(&site("b")).unwrap().lock().conflicts.clone();
        assert_eq!((told.total(), told.unlogged), (3, 1));
        assert_eq!(told.mended_seconds.sum, 0.5);
        let begun = Instant::now();
        let lines = || fs::read_to_string(&path).map_or(0, |text| text.lines().count());
        while lines() < 2 {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "nothing is written"
            );
            thread::yield_now();
        }
        assert_eq!(lines(), 2);
    }
}

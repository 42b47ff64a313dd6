//! A snapshot of the local Redis, spooled to disk.
//!
//! The server keeps for us what is written while it sends (`client-output-buffer-limit replica`,
//! 256 MB by default) and drops us beyond; so the snapshot is taken at wire speed into a file and
//! read from there at the speed of the peer, also while it still grows. The file makes a copy
//! resumable: an entry has the same number each time it is read.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Buf;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::shelf::Room;
use super::{Error, RdbBody, Replica};
use crate::model::{Cursor, Epoch, Offset};

/// A snapshot on disk, complete or still coming. While it comes, it does so as long as anybody has
/// one of these.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where in our history it was taken; it holds every write up to there.
    pub at: Cursor,
    /// The file, once it is complete.
    path: PathBuf,
    growth: watch::Receiver<Growth>,
    /// It was removed, perhaps before it was complete.
    is_removed: Arc<AtomicBool>,
}

/// How far a snapshot has come.
#[derive(Clone, Debug, Default)]
struct Growth {
    bytes: u64,
    /// How it ended, once it has.
    end: Option<Result<(), Arc<SnapshotError>>>,
}

/// The bytes of a snapshot, in order. At the end of a file that still grows, a read waits: it is for
/// threads that may block.
#[derive(Debug)]
pub struct SnapshotReader {
    file: std::fs::File,
    growth: watch::Receiver<Growth>,
    runtime: Handle,
}

/// Why a snapshot cannot be spooled.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The server.
    #[error(transparent)]
    Replica(#[from] Error),
    /// The disk.
    #[error("cannot keep a snapshot in {path}: {source}; make room there or repair the disk")]
    Disk {
        /// The directory, so that every attempt says the same.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl Snapshot {
    fn file_name(at: Cursor) -> String {
        format!("snapshot-{}-{}.rdb", at.epoch, at.offset)
    }

    fn complete(at: Cursor, path: PathBuf, bytes: u64) -> Self {
        let end = Some(Ok(()));
        let (_, growth) = watch::channel(Growth { bytes, end });
        let is_removed = Arc::default();
        Self {
            at,
            path,
            growth,
            is_removed,
        }
    }

    /// The complete snapshots in a directory, oldest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn find(dir: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(at) = name.to_str().and_then(parse_file_name) else {
                continue;
            };
            found.push(Self::complete(at, entry.path(), entry.metadata()?.len()));
        }
        found.sort_by_key(|s| s.at);
        Ok(found)
    }

    /// Its size in bytes, once all of it is here.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        let growth = self.growth.borrow();
        matches!(growth.end, Some(Ok(()))).then_some(growth.bytes)
    }

    /// Whether the rest of it will not come.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.growth.borrow().end, Some(Err(_)))
    }

    /// Waits until it has ended, one way or the other. Cancel safe.
    pub async fn ended(&mut self) {
        // Whoever wrote it and is gone has told before how it ended.
        drop(self.growth.wait_for(|growth| growth.end.is_some()).await);
    }

    /// Begins to read it. Within a runtime.
    ///
    /// # Errors
    /// The file is gone.
    pub fn open(&self) -> io::Result<SnapshotReader> {
        let file = std::fs::File::open(self.path.with_extension(PARTIAL));
        let file = file.or_else(|_| std::fs::File::open(&self.path))?;
        Ok(SnapshotReader {
            file,
            growth: self.growth.clone(),
            runtime: Handle::current(),
        })
    }

    /// The file beside it that says what of others it holds.
    #[must_use]
    pub fn seen_path(&self) -> PathBuf {
        self.path.with_extension(SEEN)
    }

    /// Removes the files, also while it is being taken; it is only a copy.
    pub fn remove(&self) {
        // Said first: whoever completes it after this removes it.
        self.is_removed.store(true, Ordering::SeqCst);
        remove(&self.seen_path());
        remove(&self.path);
    }

    /// Removes what a killed process has left of snapshots that it was taking. Only before any is
    /// taken.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn remove_partial(dir: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let complete = path.with_extension("rdb");
            let name = complete.file_name().and_then(|n| n.to_str());
            let is_partial = path.extension().is_some_and(|e| e == PARTIAL);
            let is_alone = path.extension().is_some_and(|e| e == SEEN) && !complete.exists();
            if (is_partial || is_alone) && name.and_then(parse_file_name).is_some() {
                remove(&path);
            }
        }
        Ok(())
    }
}

/// The extension of a snapshot that is being taken.
const PARTIAL: &str = "part";
/// The extension of the file beside it.
const SEEN: &str = "seen";

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a used snapshot");
        }
        _ => {}
    }
}

fn parse_file_name(name: &str) -> Option<Cursor> {
    let words = name.strip_prefix("snapshot-")?.strip_suffix(".rdb")?;
    let (epoch, offset) = words.split_once('-')?;
    Some(Cursor {
        epoch: Epoch(epoch.parse().ok()?),
        offset: Offset(offset.parse().ok()?),
    })
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Looked at before the read: what was written before the end is then read.
            let end = self.growth.borrow_and_update().end.clone();
            let read = self.file.read(buffer)?;
            match end {
                _ if read > 0 => return Ok(read),
                Some(Ok(())) => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(error.to_string())),
                None => {
                    let changed = self.runtime.block_on(self.growth.changed());
                    changed
                        .map_err(|_| io::Error::other("the snapshot is not taken any further"))?;
                }
            }
        }
    }
}

impl Seek for SnapshotReader {
    /// Beyond what has come, the next read waits for it.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Takes the snapshot that follows a full resync into a file in `dir`, and comes back when all of it
/// is there. Cancel safe: what is not complete is removed.
///
/// # Errors
/// The connection broke, the server could not make it, or the disk is full.
pub async fn spool(
    replica: &mut Replica,
    at: Cursor,
    dir: &Path,
) -> Result<Snapshot, SnapshotError> {
    let (part, mut file) = Partial::create(at, dir).await?;
    let bytes = part.receive(replica, &mut file, |_| {}).await?;
    part.complete().await?;
    Ok(Snapshot::complete(at, part.path.clone(), bytes))
}

/// Begins to take the snapshot that follows a full resync into a file in `dir`: it is complete, or
/// has failed, when the future has ended. Whoever lets go of the last snapshot ends it, too.
///
/// # Errors
/// The disk is full.
pub(super) async fn spool_behind(
    mut replica: Replica,
    at: Cursor,
    dir: &Path,
    room: Room,
) -> Result<(Snapshot, impl Future<Output = ()> + use<>), SnapshotError> {
    let (part, mut file) = Partial::create(at, dir).await?;
    let (growing, growth) = watch::channel(Growth::default());
    let path = part.path.clone();
    let is_removed = Arc::new(AtomicBool::new(false));
    let removed = Arc::clone(&is_removed);
    let spooling = async move {
        let grow = |bytes| growing.send_modify(|growth| growth.bytes = bytes);
        let received = tokio::select! {
            received = part.receive(&mut replica, &mut file, grow) => received,
            () = growing.closed() => {
                debug!(%at, "nobody needs the snapshot any more");
                return;
            }
        };
        let received = match received {
            Ok(bytes) => part.complete().await.map(|()| grow(bytes)),
            Err(error) => Err(error),
        };
        if removed.load(Ordering::SeqCst) || growing.is_closed() {
            debug!(%at, "nobody has needed the snapshot");
            remove(&part.path);
            return;
        }
        room.told(&received);
        if let Err(error) = &received {
            warn!(%error, "the snapshot that was being taken is lost");
        }
        let end = Some(received.map_err(Arc::new));
        growing.send_modify(|growth| growth.end = end);
    };
    let snapshot = Snapshot {
        at,
        path,
        growth,
        is_removed,
    };
    Ok((snapshot, spooling))
}

/// A snapshot that is being taken; renamed when it is complete, else removed.
struct Partial {
    /// Where it will be.
    path: PathBuf,
    dir: PathBuf,
}

impl Drop for Partial {
    fn drop(&mut self) {
        remove(&self.path.with_extension(PARTIAL));
    }
}

impl Partial {
    async fn create(at: Cursor, dir: &Path) -> Result<(Self, File), SnapshotError> {
        let part = Self {
            path: dir.join(Snapshot::file_name(at)),
            dir: dir.to_owned(),
        };
        let file = File::create(part.path.with_extension(PARTIAL)).await;
        let file = file.map_err(|e| part.disk(e))?;
        Ok((part, file))
    }

    fn disk(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Disk {
            path: self.dir.display().to_string(),
            source,
        }
    }

    /// Receives all of it, and tells with each piece how many bytes there are; how many there are
    /// in the end.
    async fn receive(
        &self,
        replica: &mut Replica,
        file: &mut File,
        tell: impl Fn(u64),
    ) -> Result<u64, SnapshotError> {
        let mut body = RdbBody::new(replica.snapshot_form().await?);
        let mut bytes = 0;
        loop {
            let taken = body.take(replica.input());
            replica.input().advance(taken.used);
            file.write_all(&taken.bytes)
                .await
                .map_err(|e| self.disk(e))?;
            bytes += taken.bytes.len() as u64;
            if taken.complete {
                break;
            }
            tell(bytes);
            replica.more_snapshot().await?;
        }
        file.flush().await.map_err(|e| self.disk(e))?;
        Ok(bytes)
    }

    /// All of it is here.
    async fn complete(&self) -> Result<(), SnapshotError> {
        let part = self.path.with_extension(PARTIAL);
        let renamed = tokio::fs::rename(&part, &self.path).await;
        renamed.map_err(|e| self.disk(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_name_the_place() {
        let at = Cursor {
            epoch: Epoch(12),
            offset: Offset(34),
        };
        assert_eq!(parse_file_name(&Snapshot::file_name(at)), Some(at));
        assert_eq!(parse_file_name("snapshot-12-34.part"), None);
        assert_eq!(parse_file_name("x.rdb"), None);
    }

    fn at() -> Cursor {
        Cursor {
            epoch: Epoch(1),
            offset: Offset(2),
        }
    }

    /// Reads all of a snapshot in a thread, while it grows.
    fn read(snapshot: &Snapshot) -> tokio::task::JoinHandle<io::Result<Vec<u8>>> {
        let mut reader = snapshot.open().unwrap();
        tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        })
    }

    #[tokio::test]
    async fn a_snapshot_is_read_while_it_grows_and_never_taken_for_whole() {
        let dir = tempfile::tempdir().unwrap();
        for end in [Ok(()), Err("the server went away")] {
            let (part, mut file) = Partial::create(at(), dir.path()).await.unwrap();
            let (growing, growth) = watch::channel(Growth::default());
            let path = part.path.clone();
            let mut snapshot = Snapshot {
                at: at(),
                path,
                growth,
                is_removed: Arc::default(),
            };
            let reading = read(&snapshot);
            for piece in ["one", "two"] {
                file.write_all(piece.as_bytes()).await.unwrap();
                file.flush().await.unwrap();
                growing.send_modify(|g| g.bytes += 3);
                tokio::task::yield_now().await;
            }
            assert_eq!(snapshot.size(), None);
            let is_whole = end.is_ok();
            let lost = |why: &str| Arc::new(part.disk(io::Error::other(why)));
            growing.send_modify(|g| g.end = Some(end.map_err(lost)));
            snapshot.ended().await;
            let read = reading.await.unwrap();
            assert_eq!(read.ok(), is_whole.then(|| b"onetwo".to_vec()));
            assert_eq!(snapshot.size(), is_whole.then_some(6));
            assert_eq!(snapshot.has_failed(), !is_whole);
        }
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    #[tokio::test]
    async fn a_snapshot_that_nobody_takes_any_further_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (part, _file) = Partial::create(at(), dir.path()).await.unwrap();
        let (growing, growth) = watch::channel(Growth::default());
        let snapshot = Snapshot {
            at: at(),
            path: part.path.clone(),
            growth,
            is_removed: Arc::default(),
        };
        let reading = read(&snapshot);
        drop(growing);
        assert!(reading.await.unwrap().is_err());
    }
}

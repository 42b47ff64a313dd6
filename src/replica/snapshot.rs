//! A snapshot of the local Redis, spooled to disk.
//!
//! The server keeps for us what is written while it sends (`client-output-buffer-limit replica`,
//! 256 MB by default) and drops us beyond; so the snapshot is taken at wire speed into a file and
//! read from there at the speed of the peer. The file also makes a copy resumable: an entry has
//! the same number each time it is read.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Buf;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use super::{Error, RdbBody, Replica};
use crate::model::{Cursor, Epoch, Offset};

/// A complete snapshot on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where in our history it was taken; it holds every write up to there.
    pub at: Cursor,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
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
            found.push(Self {
                at,
                path: entry.path(),
                bytes: entry.metadata()?.len(),
            });
        }
        found.sort_by_key(|s| s.at);
        Ok(found)
    }

    /// The file beside it that says what of others it holds.
    #[must_use]
    pub fn seen_path(&self) -> PathBuf {
        self.path.with_extension("seen")
    }

    /// Removes the files; it is only a copy.
    pub fn remove(&self) {
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
            if path.extension().is_some_and(|e| e == PARTIAL)
                && name.and_then(parse_file_name).is_some()
            {
                remove(&path);
            }
        }
        Ok(())
    }
}

/// The extension of a snapshot that is being taken.
const PARTIAL: &str = "part";

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

/// Takes the snapshot that follows a full resync into a file in `dir`. Cancel safe: what is not
/// complete is removed.
///
/// # Errors
/// The connection broke, the server could not make it, or the disk is full.
pub async fn spool(
    replica: &mut Replica,
    at: Cursor,
    dir: &Path,
) -> Result<Snapshot, SnapshotError> {
    let path = dir.join(Snapshot::file_name(at));
    let part = Partial(path.with_extension(PARTIAL));
    let disk = |source| SnapshotError::Disk {
        path: dir.display().to_string(),
        source,
    };
    let mut file = File::create(&part.0).await.map_err(disk)?;
    let bytes = receive(replica, &mut file, &disk).await?;
    file.flush().await.map_err(disk)?;
    fs::rename(&part.0, &path).await.map_err(disk)?;
    Ok(Snapshot { at, path, bytes })
}

/// A snapshot that is being taken; renamed when it is complete.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

async fn receive(
    replica: &mut Replica,
    file: &mut File,
    disk: &impl Fn(io::Error) -> SnapshotError,
) -> Result<u64, SnapshotError> {
    let mut body = RdbBody::new(replica.snapshot_form().await?);
    let mut bytes = 0;
    loop {
        let taken = body.take(replica.input());
        replica.input().advance(taken.used);
        file.write_all(&taken.bytes).await.map_err(disk)?;
        bytes += taken.bytes.len() as u64;
        if taken.complete {
            return Ok(bytes);
        }
        replica.more_snapshot().await?;
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
}

//! This machine: the journal's directory and the addresses to listen on.

use std::fs::{File, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::facts::size;
use super::report::Line;
use crate::config::JournalConfig;

/// Whether a sidecar with this configuration runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InUse {
    /// It has the journal's lock.
    Yes,
    /// Nobody has.
    No,
}

/// The file whose lock says that a journal is in use.
const LOCK: &str = "LOCK";

/// The journal's directory: there or to be made, writable, free, with room.
pub(super) fn journal(config: &JournalConfig) -> (Line, InUse) {
    let shown = config.dir.display();
    match is_locked(&config.dir) {
        Ok(true) => {
            let found = format!("{shown} is in use: a tandem runs with it already");
            let line = Line::warn("journal", found, "stop that one before you start another");
            return (line, InUse::Yes);
        }
        Ok(false) => {}
        Err(error) => {
            let found = format!("cannot lock {shown}: {error}");
            let remedy = "give tandem's user the directory and what is in it";
            return (Line::fail("journal", found, remedy), InUse::No);
        }
    }
    (directory(config), InUse::No)
}

fn directory(config: &JournalConfig) -> Line {
    let shown = config.dir.display();
    // What is not there is made at the start, below the first directory that is.
    let path = std::path::absolute(&config.dir).unwrap_or_else(|_| config.dir.clone());
    let there = path.ancestors().find(|d| d.exists());
    let there = there.unwrap_or_else(|| Path::new("/"));
    if !there.is_dir() {
        let found = format!("{} is not a directory", there.display());
        return Line::fail("journal", found, "correct [journal] dir");
    }
    // Without a name, so that nothing is left whatever happens.
    if let Err(error) = tempfile::tempfile_in(there) {
        let found = format!("cannot write into {}: {error}", there.display());
        let remedy = format!("make {shown} and give it to tandem's user, or correct [journal] dir");
        return Line::fail("journal", found, remedy);
    }
    let state = if there == path {
        format!("{shown} is writable")
    } else {
        format!("{shown} is not there yet and can be made")
    };
    match rustix::fs::statvfs(there) {
        Ok(disk) => room(
            &state,
            disk.f_bavail.saturating_mul(disk.f_frsize),
            used(&config.dir),
            config.max_size,
        ),
        Err(_) => Line::pass("journal", state),
    }
}

/// Whether the journal may grow to its limit.
fn room(state: &str, free: u64, used: u64, max: u64) -> Line {
    let (free_text, max_text) = (size(free), size(max));
    if free.saturating_add(used) < max {
        let found = format!("{state}, but {free_text} are free and it may grow to {max_text}");
        let remedy = "make room, or lower [journal] max_size: a full disk stops the sync";
        return Line::warn("journal", found, remedy);
    }
    let found = format!("{state}; {free_text} are free, it may grow to {max_text}");
    Line::pass("journal", found)
}

/// Bytes of the files in a directory; none when it is not there.
fn used(dir: &Path) -> u64 {
    let files = dir.read_dir().into_iter().flatten().flatten();
    let sizes = files.filter_map(|file| Some(file.metadata().ok()?.len()));
    sizes.fold(0, u64::saturating_add)
}

/// Whether another process has the lock of the journal.
fn is_locked(dir: &Path) -> io::Result<bool> {
    let file = match File::options().write(true).open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) => {
            let is_absent = matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            );
            return if is_absent { Ok(false) } else { Err(error) };
        }
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether an address can be listened on; with a sidecar running, it cannot and need not be.
pub(super) fn listener(name: &str, address: SocketAddr, in_use: InUse) -> Line {
    if in_use == InUse::Yes {
        return Line::skip(name, "a tandem runs already");
    }
    match TcpListener::bind(address) {
        Ok(_) => Line::pass(name, format!("{address} is free")),
        Err(error) => {
            let remedy = "end what uses it, or choose another address";
            Line::fail(name, format!("cannot listen on {address}: {error}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;
    use crate::config::{Fsync, WhenFull};

    fn config(dir: &Path) -> JournalConfig {
        JournalConfig {
            fsync: Fsync::default(),
            when_full: WhenFull::default(),
            dir: dir.to_owned(),
            max_size: 1,
        }
    }

    #[test]
    fn a_journal_is_looked_at_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (line, in_use) = journal(&config(dir.path()));
        assert_eq!((line.level(), in_use), (Level::Pass, InUse::No), "{line}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);

        let below = dir.path().join("a/b");
        let (line, _) = journal(&config(&below));
        assert!(line.to_string().contains("can be made"), "{line}");
        assert!(!dir.path().join("a").exists());

        let file = dir.path().join("file");
        File::create(&file).unwrap();
        for path in [file.join("journal"), file] {
            let (line, _) = journal(&config(&path));
            assert_eq!(line.level(), Level::Fail, "{line}");
        }
    }

    #[test]
    fn a_running_tandem_is_seen_by_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = File::create(dir.path().join(LOCK)).unwrap();
        assert_eq!(journal(&config(dir.path())).1, InUse::No);
        lock.lock().unwrap();
        let (line, in_use) = journal(&config(dir.path()));
        assert_eq!((line.level(), in_use), (Level::Warn, InUse::Yes), "{line}");
    }

    #[test]
    fn a_small_disk_is_told() {
        assert_eq!(room("x", 5, 5, 10).level(), Level::Pass);
        assert_eq!(room("x", 4, 5, 10).level(), Level::Warn);
    }

    #[test]
    fn an_address_in_use_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let line = listener("link.listen", address, InUse::No);
        assert_eq!(line.level(), Level::Fail, "{line}");
        let line = listener("link.listen", address, InUse::Yes);
        assert_eq!(line.level(), Level::Skip, "{line}");
    }
}

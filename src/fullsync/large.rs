//! The state of one large key: spooled from the local Redis to disk, and read from there in parts.
//!
//! DUMP answers with the whole value at once. To hold it in memory for as long as the link takes
//! would cost what the value has; so it goes where snapshots go.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until};
use tracing::warn;

use super::snapshot::Error;
use super::{Hold, Part, Parts};
use crate::link::{OwedStates, Standing, State, Value};
use crate::model::{Cursor, SiteId};
use crate::rdb::{self, Place};
use crate::redis::Connection;

/// Parts read ahead.
const PARTS_AHEAD: usize = 2;
/// How much of a value is taken from the connection at once.
const CHUNK: usize = 256 << 10;

/// How long the next large value waits at most after one that took long: what takes longer than this is
/// held up by something else.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// When a large value may be read for a peer: one at a time, so that many of them cost one's room on the
/// disk, and for no more than half of the time. A value that is written all the time at both sites is
/// asked for again as soon as it has come; records wait while it is on its way, and so does the server
/// while it reads it.
#[derive(Debug)]
pub(super) struct Pace(watch::Sender<Option<Instant>>);

impl Default for Pace {
    fn default() -> Self {
        Self(watch::Sender::new(Some(Instant::now())))
    }
}

impl Pace {
    /// Whether one may be read now.
    pub(super) fn is_free(&self) -> bool {
        self.0.borrow().is_some_and(|from| from <= Instant::now())
    }

    /// The right to read one now; none when it is not time yet.
    pub(super) fn take(&self) -> Option<Turn> {
        let is_free = self.is_free();
        is_free.then(|| {
            self.0.send_replace(None);
            let (begun, pace) = (Instant::now(), self.0.clone());
            Turn { begun, pace }
        })
    }

    /// Waits until one may be read. Cancel safe.
    pub(super) async fn free(&self) {
        let mut from = self.0.subscribe();
        loop {
            let known = *from.borrow_and_update();
            match known {
                Some(from) => return sleep_until(from).await,
                // It ends with us.
                None => drop(from.changed().await),
            }
        }
    }
}

/// The right to send a large value. Given back when it is sent; the next waits for as long as that took.
#[derive(Debug)]
pub(super) struct Turn {
    begun: Instant,
    pace: watch::Sender<Option<Instant>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let rest = self.begun.elapsed().min(LONGEST_REST);
        self.pace.send_replace(Some(Instant::now() + rest));
    }
}

/// A large state that is under way to the peer.
#[derive(Debug)]
pub struct Large {
    /// Where it was read.
    pub at: Cursor,
    /// Its parts.
    pub parts: Parts,
    /// Holds back what we say we have seen.
    pub hold: Hold,
    /// The file, removed when the peer has all of it.
    pub file: Spooled,
}

/// Where the value is of which parts are sent to a peer.
fn path(dir: &Path, peer: &SiteId) -> PathBuf {
    dir.join(format!("state-{peer}.dump"))
}

/// Removes what a killed process has left. Only before any value is spooled.
pub(super) fn remove_leftover(dir: &Path, peer: &SiteId) {
    remove(&path(dir, peer));
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "cannot remove a value that was sent");
        }
        _ => {}
    }
}

/// A value on disk; removed when it is dropped.
#[derive(Debug)]
pub struct Spooled {
    path: PathBuf,
    _turn: Turn,
}

impl Drop for Spooled {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// The replies to DUMP and PTTL in the answer to EXEC, behind so many others; the value goes to a
/// file. None: there is no such key.
///
/// # Errors
/// The connection broke, the server refused, or the disk is full; the connection cannot be used
/// further.
pub(super) async fn spool(
    connection: &mut Connection,
    before: usize,
    (dir, peer): (&Path, &SiteId),
    turn: Turn,
) -> Result<(Option<Spooled>, i64), Error> {
    let path = path(dir, peer);
    let failed = |source| Error::File {
        path: path.display().to_string(),
        source,
    };
    connection.line(b'*').await?;
    for _ in 0..before {
        connection.line(b'+').await?;
    }
    let length = connection.line(b'$').await?;
    let Ok(mut left) = usize::try_from(length) else {
        return Ok((None, connection.line(b':').await?));
    };
    let spooled = Spooled {
        path: path.clone(),
        _turn: turn,
    };
    let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
    while left > 0 {
        let chunk = connection.some(left.min(CHUNK)).await?;
        left = left.saturating_sub(chunk.len());
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    // The end of the value's line.
    connection.end_of_line().await?;
    Ok((Some(spooled), connection.line(b':').await?))
}

/// Reads the parts of a spooled value in a thread of its own; `state` says what all of them have in
/// common.
pub(super) fn read(
    file: &Spooled,
    flavour: rdb::Flavour,
    part_size: usize,
    state: OwedState,
) -> Result<Parts, Error> {
    let path = file.path.clone();
    let failed = |path: &Path, source| Error::File {
        path: path.display().to_string(),
        source,
    };
    let open = || File::open(&path).map_err(|e| failed(&path, e));
    let [source, again] = [open()?, open()?];
    let (send, parts) = mpsc::channel(PARTS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let result = match rdb::Reader::of_dump(source, again, flavour, part_size) {
            Ok(Some(reader)) => read_parts(reader, &state, &send),
            Ok(None) => match fs::read(&path) {
                Ok(whole) => {
                    state.send(Value::Dump(whole.into()), true, &send);
                    Ok(())
                }
                Err(error) => Err(failed(&path, error)),
            },
            Err(error) => Err(error.into()),
        };
        if let Err(error) = result {
            // Nobody listens any more when the session is over.
            drop(send.blocking_send(Err(error)));
        }
    });
    Ok(parts)
}

fn read_parts<R: Read>(
    mut reader: rdb::Reader<R>,
    state: &OwedState,
    send: &mpsc::Sender<Result<Part, Error>>,
) -> Result<(), Error> {
    while let Some(entry) = reader.next_entry()? {
        let is_listened_to = match entry {
            rdb::Entry::Value(value) => state.send(Value::Dump(value.payload), true, send),
            rdb::Entry::Part(value, place) => {
                let is_last = place == Place::Last;
                state.send(Value::Part(place, value.payload), is_last, send)
            }
            _ => true,
        };
        if !is_listened_to {
            break;
        }
    }
    Ok(())
}

/// What the parts of a state have in common.
pub(super) struct OwedState {
    /// All but the states.
    pub owed: OwedStates,
    /// The database and the key.
    pub key: (u32, Bytes),
    /// When it expires.
    pub expire_at_ms: u64,
}

impl OwedState {
    /// False when nobody listens any more.
    fn send(&self, value: Value, is_last: bool, send: &mpsc::Sender<Result<Part, Error>>) -> bool {
        let (db, key) = self.key.clone();
        let state = State {
            db,
            key,
            expire_at_ms: self.expire_at_ms,
            value,
            standing: Standing::Unknown,
        };
        let states = OwedStates {
            states: vec![state],
            ..self.owed.clone()
        };
        send.blocking_send(Ok(Part::Owed { states, is_last }))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was begun so long ago is sent: how long the next must wait.
    fn rest(pace: &Pace, took: Duration) -> Duration {
        pace.0.send_replace(Some(Instant::now()));
        let mut turn = pace.take().unwrap();
        assert!(pace.take().is_none(), "one at a time");
        turn.begun -= took;
        drop(turn);
        let from = pace.0.borrow().unwrap();
        from.duration_since(Instant::now())
    }

    #[tokio::test]
    async fn large_values_are_sent_for_half_of_the_time_at_most() {
        let (pace, long) = (Pace::default(), Duration::from_secs(40));
        let waits = rest(&pace, long);
        assert!(long / 2 < waits && waits < 2 * long, "{waits:?}");
        assert!(!pace.is_free() && pace.take().is_none());
        assert!(rest(&pace, 100 * LONGEST_REST) <= LONGEST_REST);
        rest(&pace, Duration::ZERO);
        pace.free().await;
        let turn = pace.take();
        tokio::join!(pace.free(), async { drop(turn) });
    }
}

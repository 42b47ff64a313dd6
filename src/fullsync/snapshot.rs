//! Copying everything: a snapshot of the local Redis, read entry by entry.

use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, sleep};
use tracing::{info, warn};

use super::{Gate, Hold, Part, Parts};
use crate::apply::Debts;
use crate::command::key_hash;
use crate::converge::{Reading, Table};
use crate::intake::Shared;
use crate::intake::filter::Filter;
use crate::link::{Bundle, Copy, CopyBegin, Standing, State, Value};
use crate::model::{Cursor, Epoch, Mark, Owes, Seen, SiteId, is_reserved, mark_key};
use crate::progress::Progress;
use crate::rdb::{self, Place};
use crate::redis::{self, Connection, Info, Settings, connection_name};
use crate::replica::{self, Need, PsyncReply, Replica, Snapshot, SnapshotError, SnapshotReader};

/// How much goes from the reading thread to the link at once: enough that handing it over costs
/// nothing beside reading it.
const PART_BYTES: usize = 64 << 10;
/// Parts read ahead.
const PARTS_AHEAD: usize = 2;
/// How long to wait before trying again to take a snapshot that had no room: each attempt costs
/// Redis a fork.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(10);
/// How long to wait before another one is taken, when the server's was from before.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the main stream may take to reach the place of a snapshot.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Why a copy cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Reading a state.
    #[error(transparent)]
    Redis(#[from] redis::Error),
    /// Attaching.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// The file.
    #[error("cannot use {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The snapshot's bytes.
    #[error("the snapshot cannot be read: {0}")]
    Rdb(#[from] rdb::Error),
    /// Redis began a new history meanwhile.
    #[error("Redis has begun a new history; starting over")]
    History,
    /// The interrupted copy cannot be resumed, and must not be begun again.
    #[error(
        "the copy with existing = \"keep\" was interrupted and its snapshot is gone or too old, so \
         the receiver's own keys cannot be told from those already copied"
    )]
    KeepInterrupted,
}

/// A copy that is under way to the peer.
#[derive(Debug)]
pub struct Copying {
    /// Its first message.
    pub begin: CopyBegin,
    /// What follows.
    pub parts: Parts,
    /// Holds back what we say we have seen.
    pub hold: Hold,
    /// The file, removed when the peer has all of it.
    pub snapshot: Snapshot,
}

/// Makes copies of the local Redis for a peer.
#[derive(Clone, Debug)]
pub struct Copier {
    /// This site.
    pub site: SiteId,
    /// How to reach the local Redis, or the replica of it that is read.
    pub redis: Settings,
    /// Where snapshots are.
    pub dir: PathBuf,
    /// What travels.
    pub filter: Filter,
    /// How large a value may be that travels whole, in bytes.
    pub part_size: usize,
    /// Journal, table.
    pub shared: Shared,
    /// What has been read.
    pub progress: watch::Receiver<Progress>,
    /// What we tell the peer that we have seen.
    pub gate: Gate,
    /// What of the peer's history counts as seen in any case: where its records begin.
    pub receives_from: (SiteId, Cursor),
    /// Keys whose state we want of the peer: ours is not the one to be sent.
    pub debts: Debts,
    /// What we owe the peer of a copy.
    pub owes: Owes,
    /// From where on the peer gets our records: what we wrote before, it has.
    pub sends_from: Cursor,
    /// Whether it is certain that the peer has had every key that we had there.
    pub had_all: bool,
    /// Up to where the peer's history must be in a snapshot: what its records there wrote may be in its data no
    /// more.
    pub lost: Cursor,
    /// What of our history the peer had seen when it made the copy that is to be answered: what was written
    /// since may have met keys that it lacks.
    pub known: Cursor,
    /// Whether the peer has nothing yet, and what our records had seen of third sites it gets with the copy
    /// only: they wait for that.
    pub joined: bool,
}

/// A copy that is going to be made. The gate is closed.
#[derive(Debug)]
pub struct Prepared {
    pub(super) copy: Copy,
    pub(super) hold: Hold,
    /// What the copy holds of others, at least.
    seen: Seen,
    /// The snapshot to be used, and how many of its entries the peer has: that of an interrupted
    /// copy, or one of which none was made. None: a new one is taken.
    pub(super) found: Option<(Snapshot, u64)>,
    /// A new snapshot must not be from before this place: records up to here may have been sent.
    since: Cursor,
}

impl Copier {
    /// Closes the gate for a copy. Where the session begins with one, `start` says after which place
    /// records will be sent, and a snapshot from before the session may do. Call it before the peer
    /// hears what we have seen: hearing it, the peer forgets which of its writes such a snapshot does
    /// not hold.
    #[must_use]
    pub fn prepare(&self, copy: Copy, start: Option<Cursor>) -> Prepared {
        let progress = self.progress.borrow().clone();
        let (peer, from) = &self.receives_from;
        self.shared.claims.begin_copy(peer);
        let (found, seen) = match start.and_then(|start| self.find(copy, start)) {
            Some((snapshot, next, seen)) => (Some((snapshot, next)), seen),
            None => {
                let mut seen = Seen::clone(&progress.seen);
                seen.advance(peer, *from);
                (None, self.settled(&seen))
            }
        };
        let hold = self.gate.close(seen.common(&progress.seen));
        Prepared {
            copy,
            hold,
            seen,
            found,
            since: progress.read,
        }
    }

    /// Of what we have seen, that of which it is known how it went: the rest a snapshot of now does
    /// not hold entirely. All records of third sites up to what was reached are in it.
    fn settled(&self, seen: &Seen) -> Seen {
        let (mut settled, reached) = (Seen::default(), self.shared.reached.now());
        for (site, at) in seen.iter() {
            let at = match *site == self.receives_from.0 {
                true => *at,
                false => reached.held(site, *at),
            };
            let docket = self.shared.dockets.get(site);
            settled.advance(site, docket.map_or(at, |docket| docket.settled(at)));
        }
        settled
    }

    /// Makes the copy.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin(&mut self, prepared: Prepared) -> Result<Copying, Error> {
        let Prepared {
            copy,
            hold,
            seen,
            found,
            since,
        } = prepared;
        let reading = Reading::snapshot(&self.shared.table).await;
        let is_new = found.is_none();
        let (mut snapshot, first) = match found {
            Some(found) => found,
            None if cannot_begin_again(copy) => return Err(Error::KeepInterrupted),
            None => (self.take_since(since, &seen).await?, 0),
        };
        if keeps_others(copy) {
            // Once begun, it cannot be begun again: all of the snapshot must be there.
            snapshot.ended().await;
        }
        self.reach(snapshot.at).await?;
        reading.finish(snapshot.at);
        // The stream has been read beyond it, and so what has been seen by now is more than it holds: two
        // copies that hold each other's present would wait for each other.
        let holds = self.shared.seen_at.find(snapshot.at);
        let holds = holds.map_or_else(|| seen.clone(), |seen| Seen::clone(&seen));
        let (keys, marks) = self.facts(&holds).await?;
        let last = self.shared.journal.last_record();
        let may_differ = last > self.known || self.owes > Owes::Missing;
        let may_differ = is_new && !copy.back && may_differ;
        let begin = CopyBegin {
            at: snapshot.at,
            seen,
            marks,
            holds,
            first,
            keep: copy.keep && !may_differ,
            keys,
        };
        let peer = &self.receives_from.0;
        info!(%peer, keys = begin.keys, from = first, at = %snapshot.at, "sending a copy");
        let parts = self.read(&snapshot, first, !copy.back)?;
        Ok(Copying {
            begin,
            parts,
            hold,
            snapshot,
        })
    }

    /// How many keys the server has: about as many as a snapshot of now has. And the marks of third sites,
    /// where the snapshot `holds` so much of them.
    async fn facts(&self, holds: &Seen) -> Result<(u64, Vec<(SiteId, Bytes)>), Error> {
        let name = connection_name(&self.site, "facts");
        let mut connection = Connection::open(&self.redis, &name).await?;
        let keys = Info::fetch(&mut connection).await?.keys;
        let mut marks = Vec::new();
        for site in self.shared.foreign.third(&self.receives_from.0) {
            let found = connection
                .ask(&[b"GET", mark_key(&site).as_bytes()])
                .await?;
            let mark = found.bytes().and_then(|text| Mark::parse(text).ok());
            let whole = mark.filter(|mark| mark.base > Epoch::UNDONE && mark.copy.is_none());
            if let Some(mark) = whole {
                let at = holds.of(&site);
                marks.push((site, Mark { at, ..mark }.to_string().into()));
            }
        }
        Ok((keys, marks))
    }

    /// A snapshot from `since` or later. The server may hand us one that it had begun for another
    /// replica before; the next attempt then begins a new one. While the disk has no room for it we
    /// wait, so that what comes from the peer goes on.
    async fn take_since(&self, since: Cursor, seen: &Seen) -> Result<Snapshot, Error> {
        loop {
            let snapshot = match self.take(since, seen).await {
                Err(Error::Snapshot(error @ SnapshotError::Disk { .. })) => {
                    let error = error.to_string();
                    if self.show(Some(&error)) {
                        warn!(peer = %self.receives_from.0, error, "the copy waits");
                    }
                    sleep(WAIT_FOR_ROOM).await;
                    continue;
                }
                taken => taken?,
            };
            self.show(None);
            if let Some(snapshot) = snapshot {
                return Ok(snapshot);
            }
            info!(%since, "the snapshot was begun before for another replica; taking a new one");
            sleep(AGAIN).await;
        }
    }

    /// Shows why the copy waits, or that it no longer does; whether that is new.
    pub(super) fn show(&self, why: Option<&str>) -> bool {
        let Some(board) = self.shared.board.peer(&self.receives_from.0) else {
            return false;
        };
        let mut board = board.lock();
        let is_new = board.error.as_deref() != why;
        board.error = why.map(str::to_owned);
        is_new
    }

    /// The snapshot of an interrupted copy, or one that has been kept for a first one; how many of
    /// its entries the peer has, and what of others it holds.
    fn find(&self, copy: Copy, start: Cursor) -> Option<(Snapshot, u64, Seen)> {
        let progress = self.progress.borrow();
        // What was written between the last record of an epoch and the next epoch is in no journal:
        // only a snapshot from after it holds that.
        let state = progress.state.as_ref()?;
        let began = Cursor {
            epoch: state.epoch,
            offset: state.began,
        };
        let (shelf, first) = (&self.shared.shelf, self.shared.journal.first());
        let usable = |at: Cursor| at >= start && at >= first && at.epoch == state.epoch;
        // With the other policy it begins again.
        let begun = copy
            .resume
            .filter(|c| c.keep == copy.keep && usable(c.snapshot));
        if let Some(begun) = begun
            && let Some((snapshot, seen)) = shelf.find(begun.snapshot, &self.dir)
        {
            return Some((snapshot, begun.next, seen));
        }
        if cannot_begin_again(copy) || self.lacks(&progress).is_some() {
            return None;
        }
        let (peer, from) = &self.receives_from;
        let need = Need {
            peer,
            seen: progress.seen.of(peer),
            from: *from,
            since: start.max(first).max(began),
        };
        let kept = shelf.take(need).unwrap_or_else(|error| {
            warn!(%error, "the snapshot that was kept cannot be used; taking a new one");
            None
        });
        kept.map(|(snapshot, seen)| (snapshot, 0, seen))
    }

    /// Takes a new one, over a replica connection of its own; none when the server hands us one from
    /// before `since`.
    async fn take(&self, since: Cursor, seen: &Seen) -> Result<Option<Snapshot>, Error> {
        let name = connection_name(&self.site, "snapshot");
        let (mut replica, reply) = Replica::attach(&self.redis, &name, None).await?;
        let PsyncReply::FullResync(replid, offset) = reply else {
            return Err(Error::History);
        };
        let (epoch, progress) = (since.epoch, self.progress.borrow().clone());
        let current = progress.state.as_ref().map(|s| (s.epoch, s.replid));
        if current != Some((epoch, replid)) {
            return Err(Error::History);
        }
        let at = Cursor { epoch, offset };
        if at < since {
            return Ok(None);
        }
        for old in Snapshot::find(&self.dir).unwrap_or_default() {
            old.remove();
        }
        let shelf = &self.shared.shelf;
        let snapshot = if shelf.room.is_there() {
            shelf.spool(replica, at, &self.dir).await?
        } else {
            let spooled = replica::spool(&mut replica, at, &self.dir).await;
            shelf.room.told(&spooled);
            spooled?
        };
        let kept = shelf.put(snapshot.clone(), seen.clone(), false);
        kept.map_err(|source| Error::File {
            path: snapshot.seen_path().display().to_string(),
            source,
        })?;
        Ok(Some(snapshot))
    }

    /// Waits until the main stream has been read up to the snapshot.
    async fn reach(&mut self, at: Cursor) -> Result<(), Error> {
        let reached = self.progress.wait_for(|p| p.read >= at);
        tokio::select! {
            reached = reached => match reached {
                Ok(progress) if progress.read.epoch == at.epoch => Ok(()),
                Ok(_) | Err(_) => Err(Error::History),
            },
            () = sleep(CATCH_UP) => Err(Error::History),
        }
    }

    /// Reads the snapshot in a thread of its own: it is large, and the disk may be slow.
    /// One that answers a copy also says how keys stand.
    fn read(&self, snapshot: &Snapshot, first: u64, answers: bool) -> Result<Parts, Error> {
        let open = || {
            snapshot.open().map_err(|source| Error::File {
                path: self.dir.display().to_string(),
                source,
            })
        };
        let files = [open()?, open()?];
        let size = snapshot.clone();
        let (send, parts) = mpsc::channel(PARTS_AHEAD);
        let what = What {
            filter: self.filter.clone(),
            debts: self.debts.clone(),
            answer: answers.then(|| Answer {
                table: Arc::clone(&self.shared.table),
                sends_from: self.sends_from,
                had_all: self.had_all,
                spares_asked: self.owes == Owes::Written,
            }),
        };
        let part_size = self.part_size;
        tokio::task::spawn_blocking(move || {
            let size = || size.size();
            if let Err(error) = read_parts((files, size), first, part_size, &what, &send) {
                // Nobody listens any more when the session is over.
                drop(send.blocking_send(Err(error)));
            }
        });
        Ok(parts)
    }
}

/// Whether a copy leaves the receiver's own values as they are. Not so one that answers another: what
/// both have is equal by then.
const fn keeps_others(copy: Copy) -> bool {
    copy.keep && copy.back
}

/// Whether a copy has come so far that it can only go on with its own snapshot.
fn cannot_begin_again(copy: Copy) -> bool {
    keeps_others(copy) && copy.resume.is_some_and(|c| c.keep && c.next > 0)
}

/// What of a snapshot travels, and what is said of it.
struct What {
    filter: Filter,
    debts: Debts,
    /// Where it answers a copy.
    answer: Option<Answer>,
}

/// What is known of the keys of a site that has sent a copy.
struct Answer {
    table: Arc<Table>,
    /// See [`Copier::sends_from`].
    sends_from: Cursor,
    /// See [`Copier::had_all`].
    had_all: bool,
    /// Whether what was refused of the copy is right there: we owe [`Owes::Written`].
    spares_asked: bool,
}

impl What {
    fn has(&self, value: &rdb::Value) -> bool {
        !is_reserved(&value.key) && self.filter.has(value.db, &value.key)
    }

    fn state(&self, value: rdb::Value, say: impl FnOnce(Bytes) -> Value) -> State {
        State {
            db: value.db,
            standing: self.standing(value.db, &value.key),
            key: value.key,
            expire_at_ms: value.expire_at_ms.unwrap_or(0),
            value: say(value.payload),
        }
    }

    fn standing(&self, db: u32, key: &Bytes) -> Standing {
        let Some(answer) = &self.answer else {
            return Standing::Unknown;
        };
        let is_written = || {
            answer
                .table
                .is_written(key_hash(db, key), answer.sends_from)
        };
        if answer.spares_asked && self.debts.was_copied(&(db, key.clone())) {
            Standing::Asked
        } else if answer.had_all && !is_written() {
            Standing::Old
        } else {
            Standing::Unknown
        }
    }
}

/// Reads a snapshot, opened twice, into parts of a copy, until it ends or nobody listens any more.
fn read_parts(
    ([file, again], size): ([SnapshotReader; 2], impl Fn() -> Option<u64>),
    skip: u64,
    part_size: usize,
    what: &What,
    send: &mpsc::Sender<Result<Part, Error>>,
) -> Result<(), Error> {
    let mut reader = rdb::Reader::try_new(file)?.dividing(part_size, again);
    let mut gathered = Gathered {
        skip,
        ..Gathered::default()
    };
    // Whether the large value that is being read is left out.
    let mut is_left_out = false;
    while let Some(entry) = reader.next_entry()? {
        gathered.bundle.bytes_done = reader.bytes_read();
        match entry {
            rdb::Entry::Value(value) | rdb::Entry::Part(value, _) if !what.has(&value) => {}
            rdb::Entry::Value(value) if what.debts.lacks(value.db, &value.key) => {
                gathered.push(&what.state(value, |_| Value::Unsaid));
            }
            rdb::Entry::Value(value) => gathered.push(&what.state(value, Value::Dump)),
            rdb::Entry::Part(value, Place::First) => {
                is_left_out = what.debts.lacks(value.db, &value.key);
                if is_left_out {
                    gathered.push(&what.state(value, |_| Value::Unsaid));
                } else {
                    gathered.number += 1;
                    gathered.alone(&what.state(value, |p| Value::Part(Place::First, p)));
                }
            }
            rdb::Entry::Part(_, _) if is_left_out => {}
            rdb::Entry::Part(value, place) => {
                gathered.alone(&what.state(value, |p| Value::Part(place, p)));
            }
            rdb::Entry::Function(source) => gathered.push(&State {
                db: 0,
                key: Bytes::new(),
                expire_at_ms: 0,
                value: Value::Function(source.into()),
                standing: Standing::Unknown,
            }),
            rdb::Entry::Aux { .. } | rdb::Entry::SizeHint { .. } => {}
        }
        if gathered.bundle.len() >= PART_BYTES {
            let part = Part::States(mem::take(&mut gathered.bundle));
            if send.blocking_send(Ok(part)).is_err() {
                // Nobody listens any more.
                return Ok(());
            }
            gathered.bundle.bytes_total = size().unwrap_or(0);
        }
    }
    gathered.bundle.complete();
    let rest = (!gathered.bundle.is_empty()).then_some(Part::States(gathered.bundle));
    for part in rest.into_iter().chain([Part::End(gathered.number)]) {
        if send.blocking_send(Ok(part)).is_err() {
            break;
        }
    }
    Ok(())
}

/// States on their way into messages.
#[derive(Default)]
struct Gathered {
    /// Entries that the peer has.
    skip: u64,
    /// Entries so far, those that the peer has included.
    number: u64,
    bundle: Bundle,
}

impl Gathered {
    /// Adds the next entry.
    fn push(&mut self, state: &State) {
        self.number += 1;
        if self.number > self.skip {
            self.bundle.push(self.number - 1, state);
        }
    }

    /// Adds a part of the last entry: it travels alone.
    fn alone(&mut self, part: &State) {
        if self.number > self.skip {
            self.bundle.complete();
            self.bundle.push(self.number - 1, part);
            self.bundle.complete();
        }
    }
}

//! Answering a peer that asks for the states of keys.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Duration, timeout};
use tracing::info;

use super::large::{self, Large, OwedState, Pace, Turn};
use super::snapshot::Error;
use super::{Asked, Gate, Insert};
use crate::apply::{Applied, Debts, Key};
use crate::command::key_hash;
use crate::converge::Reading;
use crate::intake::{Shared, wall_ms};
use crate::link::{OwedStates, Question, Standing, State, Value};
use crate::model::{Cursor, FENCE_PREFIX, InstanceId, Need, Seen, SiteId, is_reserved};
use crate::progress::{FenceSeen, Progress, ReachedThen};
use crate::rdb::Flavour;
use crate::redis::{Connection, Info, Reply, ServerClock, Settings, connection_name, put_command};

/// Keys read in one transaction: their values are in memory together.
const KEYS_AT_ONCE: usize = 16;
/// How long our own fence may take to come back. Records wait as long: when it takes longer, our stream is not
/// read, and what they bring elsewhere may be needed before it is.
const FENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys remembered as read; beyond, every key counts as read where the oldest one was.
const READS: usize = 1 << 16;

/// How a state travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// With others.
    Small,
    /// Alone, and from disk.
    Large,
    /// Not at all: the peer's is right.
    Unneeded,
}

/// While this lives, nothing is applied.
type Quiet = Vec<OwnedSemaphorePermit>;

/// Reads states for one peer.
#[derive(Debug)]
pub struct Answerer {
    site: SiteId,
    instance: InstanceId,
    peer: SiteId,
    redis: Settings,
    shared: Shared,
    progress: watch::Receiver<Progress>,
    gate: Gate,
    debts: Debts,
    /// Where large values are spooled.
    dir: PathBuf,
    /// How large a value may be that travels whole, in bytes.
    part_size: u64,
    flavour: Flavour,
    /// How the local Redis tells when a key expires.
    expiries: Expiries,
    clock: ServerClock,
    /// When a large value may be read.
    pace: Pace,
    number: u64,
    /// Keys noted as read in the table, to be forgotten when the peer has seen them.
    reads: VecDeque<(u128, Cursor)>,
}

impl Answerer {
    /// One for a peer.
    #[must_use]
    pub fn new(
        (site, instance): (SiteId, InstanceId),
        peer: SiteId,
        redis: Settings,
        shared: Shared,
        progress: watch::Receiver<Progress>,
        debts: Debts,
        (dir, part_size): (PathBuf, u64),
    ) -> Self {
        let gate = Gate::default();
        let (number, reads) = (0, VecDeque::new());
        Self {
            site,
            instance,
            peer,
            redis,
            shared,
            progress,
            gate,
            debts,
            dir,
            part_size,
            flavour: Flavour::Redis,
            expiries: Expiries::Left,
            clock: ServerClock::default(),
            pace: Pace::default(),
            number,
            reads,
        }
    }

    /// What we tell the peer that we have seen.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Answers requests until the session ends. Cancel safe: a read that is given up is forgotten.
    ///
    /// # Errors
    /// The local Redis cannot be read.
    pub async fn run(
        &mut self,
        asked: &Asked,
        inserts: &mpsc::Sender<Insert>,
        mut applied: watch::Receiver<Applied>,
    ) -> Result<(), Error> {
        large::remove_leftover(&self.dir, &self.peer);
        let mut connection = None;
        let debts = self.debts.clone();
        let mut parts = self.shared.reached.watch_parts();
        // Large values whose turn has not come.
        let mut later = Vec::new();
        loop {
            if self.pace.is_free() {
                later.drain(..).for_each(|due| asked.put(due));
            }
            parts.mark_unchanged();
            let least = self.least(applied.borrow_and_update().whole, &asked.seen());
            while let Some(due) = debts.take_due() {
                asked.put(due);
            }
            let Some(request) = asked.take(least) else {
                tokio::select! {
                    () = asked.news() => {}
                    due = debts.due() => asked.put(due),
                    () = self.pace.free(), if !later.is_empty() => {}
                    _ = parts.changed() => {}
                    changed = applied.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                    }
                }
                continue;
            };
            // What was asked for must have seen what the peer has seen.
            if self.reach(&request).await.is_none() {
                return Ok(());
            }
            let connection = match &mut connection {
                Some(connection) => connection,
                none => {
                    let name = connection_name(&self.site, &format!("read:{}", self.peer));
                    // The place of a state is shown by a mark, which is a write.
                    let opened = self.shared.lease.open(&self.redis, &name).await?;
                    let connection = none.insert(opened);
                    let info = Info::fetch(connection).await?;
                    self.flavour = Flavour::of(info.rdb_version());
                    self.expiries = Expiries::of(&info);
                    connection
                }
            };
            let Some(put_off) = self.answer(connection, &request, inserts).await? else {
                return Ok(());
            };
            later.extend(put_off);
            self.forget();
        }
    }

    /// What is answered now. While a copy is on its way to us, what is here says nothing about what is right. But
    /// what the peer lacks it gets: the copy may wait for that. The same of a third site's copy, where the peer has
    /// `seen` what that brings.
    fn least(&self, is_whole: bool, seen: &Seen) -> Need {
        let third = self.shared.foreign.third(&self.peer);
        let is_held =
            |site: &SiteId| self.shared.reached.held(site, seen.of(site)) == seen.of(site);
        match is_whole && third.iter().all(is_held) {
            true => Need::Doubts,
            false => Need::Lacks,
        }
    }

    /// Reads what was asked for; gives back what must be put off. None when the session ends.
    async fn answer(
        &mut self,
        connection: &mut Connection,
        request: &Question,
        inserts: &mpsc::Sender<Insert>,
    ) -> Result<Option<Vec<Question>>, Error> {
        let mut put_off = Vec::new();
        for keys in request.keys.chunks(KEYS_AT_ONCE) {
            for (keys, size) in self.sort(connection, keys, request.need).await? {
                // Before the turn to read, which others need.
                let large = match size {
                    Size::Large => self.pace.take(),
                    Size::Small | Size::Unneeded => None,
                };
                if size == Size::Large && large.is_none() {
                    put_off.push(Question {
                        keys,
                        ..request.clone()
                    });
                    continue;
                }
                // Where our stream is not read no place is known; and what is sent until then makes room.
                self.shared.reserve.room().await;
                // Until the state is in the queue: states are sent in the order of their places.
                let turn = self.gate.turn().await;
                let quiet = self.quiet().await;
                let mut keys = self.debts.answerable(keys, request.need);
                keys.retain(|(_, key)| !is_reserved(key));
                if keys.is_empty() {
                    continue;
                }
                let insert = match large {
                    Some(large) => self.read_large(connection, &keys, (large, quiet)).await?,
                    None => self.read(connection, &keys, size, quiet).await?,
                };
                if let Some(insert) = insert {
                    if inserts.send(insert).await.is_err() {
                        return Ok(None);
                    }
                    continue;
                }
                drop(turn);
                put_off.push(Question {
                    keys,
                    ..request.clone()
                });
                if self.returned().await.is_none() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(put_off))
    }

    /// The time at the server, by which its keys expire, in milliseconds since 1970.
    fn now_ms(&self) -> u64 {
        self.clock.millis(Instant::now()).unwrap_or_else(wall_ms)
    }

    fn count_sent(&self, count: u64) {
        if let Some(peer) = self.shared.board.peer(&self.peer) {
            peer.lock().conflicts.sent += count;
        }
    }

    /// Waits until we have seen what the peer had when it asked; none when nothing comes any more.
    async fn reach(&mut self, request: &Question) -> Option<()> {
        let Self {
            shared, progress, ..
        } = self;
        let (peer, third) = (&self.peer, shared.foreign.third(&self.peer));
        let mut reached = shared.reached.watch();
        loop {
            let has_all = |p: &Progress| {
                p.seen.of(peer) >= request.after && shared.reached.has(&third, &request.seen, p)
            };
            if has_all(&progress.borrow_and_update()) {
                return Some(());
            }
            tokio::select! {
                changed = progress.changed() => changed.ok()?,
                changed = reached.changed() => changed.ok()?,
            }
        }
    }

    /// Until what the peer has written, and what follows from that, is here, and nothing of others is
    /// under way.
    async fn quiet(&self) -> Quiet {
        let Some(own) = self.shared.dockets.get(&self.peer) else {
            return Vec::new();
        };
        loop {
            let quiet = own.quiet().await;
            if self.shared.dockets.len() == 1 {
                return quiet.into_iter().collect();
            }
            drop(quiet);
            // Always in the same order: of several that answer, none waits for one that waits for it.
            let mut turns = Vec::new();
            for docket in self.shared.dockets.values() {
                turns.extend(docket.applying().await);
            }
            if own.is_settled() {
                return turns;
            }
        }
    }

    /// Reads states at one place of our stream; none when that is not read.
    async fn read(
        &mut self,
        connection: &mut Connection,
        keys: &[Key],
        size: Size,
        quiet: Quiet,
    ) -> Result<Option<Insert>, Error> {
        let hold = self.gate.close(self.gate.seen(&self.progress.borrow()));
        let hashes = keys.iter().map(|(db, key)| key_hash(*db, key)).collect();
        let reading = Reading::keys(&self.shared.table, hashes).await;
        self.number += 1;
        let reached = self.shared.reached.now();
        let replies = self.ask(connection, keys, size).await?;
        drop(quiet);
        let Some((at, seen, causes)) = self.fence(&reached).await else {
            return Ok(None);
        };
        let now = self.now_ms();
        let mut pairs = replies.chunks(2);
        if size != Size::Unneeded {
            self.count_sent(keys.len() as u64);
        }
        let states = keys.iter().cloned().map(|(db, key)| match size {
            Size::Unneeded => unneeded(db, key),
            Size::Small | Size::Large => self.state(db, key, pairs.next().unwrap_or_default(), now),
        });
        let states = states.collect();
        let read = reading.finish(at);
        self.reads.extend(read.into_iter().map(|hash| (hash, at)));
        let owed = OwedStates {
            at,
            seen,
            causes,
            states,
        };
        Ok(Some(Insert::Owed(owed, hold)))
    }

    /// Reads one large state, which goes to disk; none when our stream is not read.
    async fn read_large(
        &mut self,
        connection: &mut Connection,
        keys: &[Key],
        (turn, quiet): (Turn, Quiet),
    ) -> Result<Option<Insert>, Error> {
        let Some((db, key)) = keys.first().cloned() else {
            return Ok(None);
        };
        let hold = self.gate.close(self.gate.seen(&self.progress.borrow()));
        let hashes = vec![key_hash(db, &key)];
        let reading = Reading::keys(&self.shared.table, hashes).await;
        self.number += 1;
        let reached = self.shared.reached.now();
        let places = self.queue(connection, keys, Size::Large).await?;
        let before = places.first().copied().unwrap_or_default();
        let (file, ttl) = large::spool(connection, before, (&self.dir, &self.peer), turn).await?;
        drop(quiet);
        let Some((at, seen, causes)) = self.fence(&reached).await else {
            return Ok(None);
        };
        let read = reading.finish(at);
        self.reads.extend(read.into_iter().map(|hash| (hash, at)));
        let mut owed = OwedStates {
            at,
            seen,
            causes,
            states: Vec::new(),
        };
        let Some(file) = file else {
            let pair = [Reply::Nil, Reply::Integer(ttl)];
            owed.states.push(self.state(db, key, &pair, self.now_ms()));
            return Ok(Some(Insert::Owed(owed, hold)));
        };
        info!(peer = %self.peer, db, key = %key.escape_ascii(), "sending a large value");
        let what = OwedState {
            owed,
            key: (db, key),
            expire_at_ms: self.expiries.at(ttl, self.now_ms()),
        };
        let size = usize::try_from(self.part_size).unwrap_or(usize::MAX);
        self.count_sent(1);
        let parts = large::read(&file, self.flavour, size, what)?;
        Ok(Some(Insert::Large(Large {
            at,
            parts,
            hold,
            file,
        })))
    }

    /// Parts large values from others, which come first, and, where the peer only doubts its time to live, keys
    /// without one. A server that does not tell the size of values has no large ones.
    async fn sort(
        &mut self,
        connection: &mut Connection,
        keys: &[Key],
        need: Need,
    ) -> Result<Vec<(Vec<Key>, Size)>, Error> {
        let mut out = Vec::new();
        for (db, key) in keys {
            put_command(&mut out, &[b"SELECT", db.to_string().as_bytes()]);
            put_command(&mut out, &[b"MEMORY", b"USAGE", key]);
            put_command(&mut out, &[b"PTTL", key]);
        }
        put_command(&mut out, &[b"TIME"]);
        connection.send(&out).await?;
        let (mut large, mut small, mut unneeded) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            let selected = connection.reply().await?;
            connection.accepted("SELECT", selected)?;
            let size = connection.reply().await?.integer().unwrap_or(0);
            let left = connection.reply().await?.integer().unwrap_or(0);
            if need == Need::Doubts && left < 0 {
                unneeded.push(key.clone());
            } else if size.unsigned_abs() > self.part_size {
                large.push((vec![key.clone()], Size::Large));
            } else {
                small.push(key.clone());
            }
        }
        self.clock.set(&connection.reply().await?, Instant::now());
        let mut sorted = vec![(small, Size::Small), (unneeded, Size::Unneeded)];
        sorted.append(&mut large);
        Ok(sorted)
    }

    /// One transaction: the fence that marks the place, then each key's value and time to live.
    async fn ask(
        &self,
        connection: &mut Connection,
        keys: &[Key],
        size: Size,
    ) -> Result<Vec<Reply>, Error> {
        let places = self.queue(connection, keys, size).await?;
        let exec = connection.reply().await?;
        let replies = connection.accepted("EXEC", exec)?.array();
        Ok(places
            .into_iter()
            .map(|p| replies.get(p).cloned().unwrap_or(Reply::Nil))
            .collect())
    }

    /// Sends that transaction; gives where in the answer to EXEC, which is to be read, the values
    /// and times to live are.
    async fn queue(
        &self,
        connection: &mut Connection,
        keys: &[Key],
        size: Size,
    ) -> Result<Vec<usize>, Error> {
        let (mut out, mut count) = (Vec::new(), 0);
        let mut put = |args: &[&[u8]]| {
            put_command(&mut out, args);
            count += 1;
        };
        put(&[b"MULTI"]);
        put(&[b"SELECT", b"0"]);
        let fence = format!("{FENCE_PREFIX}{}", self.fence_name());
        let value = format!("{} {}", self.instance, self.number);
        put(&[b"SET", fence.as_bytes(), value.as_bytes()]);
        let mut places = Vec::with_capacity(2 * keys.len());
        let mut selected = 0;
        let mut place = 2;
        for (db, key) in keys {
            if selected != *db {
                put(&[b"SELECT", db.to_string().as_bytes()]);
                selected = *db;
                place += 1;
            }
            if size == Size::Unneeded {
                continue;
            }
            put(&[b"DUMP", key]);
            put(&[self.expiries.command(), key]);
            places.extend([place, place + 1]);
            place += 2;
        }
        put(&[b"EXEC"]);
        connection.send(&out).await?;
        for _ in 1..count {
            let queued = connection.reply().await?;
            connection.accepted("a read", queued)?;
        }
        Ok(places)
    }

    fn fence_name(&self) -> String {
        format!("read:{}", self.peer)
    }

    fn state(&self, db: u32, key: Bytes, pair: &[Reply], now_ms: u64) -> State {
        let (dump, said) = (pair.first(), pair.get(1).and_then(Reply::integer));
        let value = dump
            .and_then(Reply::bytes)
            .map_or(Value::Absent, |b| Value::Dump(b.clone()));
        State {
            db,
            key,
            expire_at_ms: self.expiries.at(said.unwrap_or(-1), now_ms),
            value,
            standing: Standing::Unknown,
        }
    }

    /// Where the read took place, and what had come back before; none when our stream is not read. All records of
    /// third sites up to what was `reached` before the read are in it; but what a copy was still to bring then is
    /// not, even if it has come since.
    async fn fence(&mut self, reached: &ReachedThen) -> Option<(Cursor, Seen, Seen)> {
        // Exactly what the states hold: the peer writes again on top of them what they lack.
        let fence = timeout(FENCE_TIMEOUT, self.fenced()).await.ok()??;
        // Of third sites, something that it is not known how it went may be missing in them.
        let held = &self.shared.reached;
        let settled = |(site, at): (&SiteId, &Cursor)| {
            let at = match *site == self.peer {
                true => *at,
                false => held.held(site, reached.held(site, *at)),
            };
            let docket = self.shared.dockets.get(site);
            let at = docket.map_or(at, |docket| docket.settled(at));
            (site.clone(), at)
        };
        let seen = fence.seen.iter().map(settled).collect();
        Some((fence.at, seen, Seen::clone(&fence.causes)))
    }

    /// Waits until the last fence has come back; none when nothing comes any more.
    async fn fenced(&mut self) -> Option<FenceSeen> {
        let (name, number) = (self.fence_name(), self.number);
        let ours = |p: &Progress| p.fences.get(&name).filter(|f| f.number == number).cloned();
        let progress = self.progress.wait_for(|p| ours(p).is_some());
        progress.await.ok().and_then(|p| ours(&p))
    }

    /// Waits, without a hold, until our stream is read again: up to the fence that was late. None when the session
    /// ends.
    async fn returned(&mut self) -> Option<()> {
        info!(peer = %self.peer, "an answer waits: the stream of the local Redis is not read");
        self.fenced().await.map(drop)
    }

    /// Forgets reads that every peer has seen.
    fn forget(&mut self) {
        let seen = self.shared.deliveries.by_all().seen;
        while let Some(&(hash, at)) = self.reads.front()
            && (at <= seen || self.reads.len() > READS)
        {
            if at > seen {
                self.shared.table.note_all_read(at);
            }
            self.shared.table.forget_read(hash, at);
            self.reads.pop_front();
        }
    }
}

/// Nothing is said of a key.
const fn unneeded(db: u32, key: Bytes) -> State {
    State {
        db,
        key,
        expire_at_ms: 0,
        value: Value::Unsaid,
        standing: Standing::Unknown,
    }
}

/// How a server tells when a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiries {
    /// How long it has left: some milliseconds less when the answer arrives than when it was read.
    Left,
    /// When: since Redis 7.0.
    At,
}

impl Expiries {
    const fn of(info: &Info) -> Self {
        match info.version.at_least(7, 0) {
            true => Self::At,
            false => Self::Left,
        }
    }

    const fn command(self) -> &'static [u8] {
        match self {
            Self::Left => b"PTTL",
            Self::At => b"PEXPIRETIME",
        }
    }

    /// When a key expires, in milliseconds since 1970, of which the server says this; 0: never.
    fn at(self, said: i64, now_ms: u64) -> u64 {
        let said = u64::try_from(said).ok();
        said.map_or(0, |said| match self {
            Self::Left => now_ms + said,
            Self::At => said,
        })
    }
}

//! Answering a peer that asks for the states of keys.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, timeout};

use super::{Gate, Insert};
use crate::apply::{Debts, Key};
use crate::command::key_hash;
use crate::converge::Reading;
use crate::intake::{Shared, connection_name, wall_ms};
use crate::link::{OwedStates, State, Value};
use crate::model::{Cursor, FENCE_PREFIX, InstanceId, Seen, SiteId, is_reserved};
use crate::progress::Progress;
use crate::redis::{Connection, Error, Reply, Settings, put_command};

/// Keys read in one transaction: their values are in memory together.
const KEYS_AT_ONCE: usize = 16;
/// How long our own fence may take to come back.
const FENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys remembered as read; beyond, every key counts as read where the oldest one was.
const READS: usize = 1 << 16;

/// What a peer asks for.
#[derive(Debug)]
pub struct Request {
    /// Read them when this much of the peer's history has come back here.
    pub after: Cursor,
    /// The keys.
    pub keys: Vec<Key>,
}

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
    ) -> Self {
        let gate = Gate::new(peer.clone());
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
        requests: &mut mpsc::Receiver<Request>,
        inserts: &mpsc::Sender<Insert>,
    ) -> Result<(), Error> {
        let mut connection = None;
        while let Some(request) = requests.recv().await {
            // What was asked for must have seen what the peer has seen.
            let (peer, after) = (self.peer.clone(), request.after);
            if self
                .progress
                .wait_for(|p| p.seen.of(&peer) >= after)
                .await
                .is_err()
            {
                return Ok(());
            }
            let connection = match &mut connection {
                Some(connection) => connection,
                none => {
                    let name = connection_name(&self.site, &format!("read:{}", self.peer));
                    none.insert(Connection::open(&self.redis, &name).await?)
                }
            };
            for keys in request.keys.chunks(KEYS_AT_ONCE) {
                let keys = self.debts.answerable(keys.to_vec());
                // Until the state is in the queue: states are sent in the order of their places.
                let _turn = self.gate.turn().await;
                let Some(insert) = self.read(connection, keys).await? else {
                    continue;
                };
                if inserts.send(insert).await.is_err() {
                    return Ok(());
                }
            }
            self.forget();
        }
        Ok(())
    }

    /// Reads states at one place of our stream.
    async fn read(
        &mut self,
        connection: &mut Connection,
        mut keys: Vec<Key>,
    ) -> Result<Option<Insert>, Error> {
        keys.retain(|(_, key)| !is_reserved(key));
        if keys.is_empty() {
            return Ok(None);
        }
        let hold = self.gate.close(self.gate.seen(&self.progress.borrow()));
        let hashes = keys.iter().map(|(db, key)| key_hash(*db, key)).collect();
        let reading = Reading::keys(&self.shared.table, hashes).await;
        self.number += 1;
        let replies = self.ask(connection, &keys).await?;
        let Some((at, seen)) = self.fence().await else {
            return Ok(None);
        };
        let now = wall_ms();
        let mut states = Vec::with_capacity(keys.len());
        for ((db, key), pair) in keys.into_iter().zip(replies.chunks(2)) {
            states.push(state(db, key, pair, now));
        }
        let read = reading.finish(at);
        self.reads.extend(read.into_iter().map(|hash| (hash, at)));
        Ok(Some(Insert::Owed(OwedStates { at, seen, states }, hold)))
    }

    /// One transaction: the fence that marks the place, then each key's value and time to live.
    async fn ask(&self, connection: &mut Connection, keys: &[Key]) -> Result<Vec<Reply>, Error> {
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
            put(&[b"DUMP", key]);
            put(&[b"PTTL", key]);
            places.extend([place, place + 1]);
            place += 2;
        }
        put(&[b"EXEC"]);
        connection.send(&out).await?;
        for _ in 1..count {
            let queued = connection.reply().await?;
            connection.accepted("a read", queued)?;
        }
        let exec = connection.reply().await?;
        let replies = connection.accepted("EXEC", exec)?.array();
        Ok(places
            .into_iter()
            .map(|p| replies.get(p).cloned().unwrap_or(Reply::Nil))
            .collect())
    }

    fn fence_name(&self) -> String {
        format!("read:{}", self.peer)
    }

    /// Where the read took place, and what had come back before; none when our stream is away: the peer asks again.
    async fn fence(&mut self) -> Option<(Cursor, Seen)> {
        let (name, number) = (self.fence_name(), self.number);
        let ours = |p: &Progress| p.fences.get(&name).filter(|f| f.number == number).cloned();
        let seen = timeout(FENCE_TIMEOUT, self.progress.wait_for(|p| ours(p).is_some()));
        let progress = seen.await.ok()?.ok()?;
        // Exactly what the states hold: the peer writes again on top of them what they lack.
        ours(&progress).map(|fence| (fence.at, Seen::clone(&fence.seen)))
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

fn state(db: u32, key: Bytes, pair: &[Reply], now_ms: u64) -> State {
    let (dump, ttl) = (
        pair.first(),
        pair.get(1).and_then(Reply::integer).unwrap_or(-1),
    );
    let left = u64::try_from(ttl).ok();
    let value = dump
        .and_then(Reply::bytes)
        .map_or(Value::Absent, |b| Value::Dump(b.clone()));
    State {
        db,
        key,
        expire_at_ms: left.map_or(0, |left| now_ms + left),
        value,
    }
}

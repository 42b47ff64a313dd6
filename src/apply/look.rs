//! What this site has of the keys of states: asked behind WATCH and before the fence.
//!
//! A value is read only to find out that a state says the same. That is never worth more than the
//! state itself: a value here that is much larger is not read, and of what turns out to be longer
//! nothing is kept.

use std::time::Instant;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::commit::{LONGEST_WAIT, pause, unexpected_refusal};
use super::reply::{Class, classify};
use super::target::{Questions, Writing, await_fence};
use super::{Applier, Error};
use crate::link::{State, Value};
use crate::model::{Cursor, part_key};
use crate::redis::Reply;

/// How many times as much memory as a state has bytes a value may take that is compared with it.
/// DUMP costs the server time and memory by the size of the value, so here by the size of the state.
/// Equal values that take more, because they compress very well, are written again: no harm.
const COMPARED_FACTOR: u64 = 16;
/// A value that takes no more memory than this is always compared: a stream of two entries takes
/// 9 KB (measured, Redis 6.2 to 8.0).
const COMPARED_MIN: u64 = 64 << 10;
/// What follows a value in a dump: two bytes of version and eight of checksum.
const DUMP_FOOTER: usize = 10;
/// How far two readings of one time to live may lie apart.
const TTL_SLACK_MS: u64 = 20;

/// What this site has of a key.
pub(super) struct Here {
    exists: bool,
    /// As DUMP gives it; none where it cannot be what the state says.
    dump: Option<Bytes>,
    /// As a state says it.
    expire_at_ms: u64,
}

impl Here {
    /// From the replies to DUMP, or EXISTS, and PTTL.
    fn of(reply: &Reply, ttl: &Reply, now_ms: u64) -> Self {
        let dump = reply.bytes().cloned();
        let left = ttl.integer().and_then(|t| u64::try_from(t).ok());
        Self {
            exists: dump.is_some() || matches!(reply, Reply::Long(_) | Reply::Integer(1)),
            dump,
            expire_at_ms: left.map_or(0, |l| now_ms + l),
        }
    }

    /// Whether the key is here.
    pub(super) const fn exists(&self) -> bool {
        self.exists
    }

    /// Whether the state says what is here already.
    pub(super) fn is(&self, state: &State) -> bool {
        let (Value::Dump(payload), Some(dump)) = (&state.value, &self.dump) else {
            return false;
        };
        let same_ttl = match (self.expire_at_ms, state.expire_at_ms) {
            (0, 0) => true,
            (0, _) | (_, 0) => false,
            (a, b) => a.abs_diff(b) <= TTL_SLACK_MS,
        };
        same_ttl && without_footer(dump) == without_footer(payload)
    }
}

fn without_footer(dump: &[u8]) -> &[u8] {
    dump.get(..dump.len().saturating_sub(DUMP_FOOTER))
        .unwrap_or_default()
}

impl Applier {
    /// WATCH each key, look at it, and set a fence that then comes back: what is here, and the place
    /// of the fence. None when the connection had to be opened anew.
    pub(super) async fn look(
        &mut self,
        states: &[&State],
        stop: &CancellationToken,
    ) -> Result<Option<(Vec<Here>, Cursor)>, Error> {
        let Some(compared) = self.watch(states, stop).await? else {
            return Ok(None);
        };
        self.fence += 1;
        let fence_of = (self.fence, self.progress.borrow().attached);
        let mut questions = Questions::default();
        let mut db = self.writing.as_ref().ok_or(Error::NoStream)?.db;
        let mut part_there = None;
        let mut places = Vec::with_capacity(states.len());
        for (state, compared) in states.iter().zip(compared) {
            questions.select(&mut db, state.db);
            let look = match &state.value {
                // Another length is another value.
                Value::Dump(payload) if compared => {
                    questions.put_up_to(payload.len(), &[b"DUMP", &state.key])
                }
                _ => questions.put(&[b"EXISTS", &state.key]),
            };
            places.push((look, questions.put(&[b"PTTL", &state.key])));
            if matches!(state.value, Value::Part(..)) {
                let part = part_key(&self.config.peer);
                part_there = Some(questions.put(&[b"EXISTS", part.as_bytes()]));
            }
        }
        let time = questions.put_if_told(&[b"TIME"]);
        questions.select(&mut db, 0);
        questions.put_fence(&self.config, self.fence);
        let Some(replies) = self.ask_all(&questions, stop).await? else {
            return Ok(None);
        };
        let told = Instant::now();
        if let Some(writing) = &mut self.writing {
            writing.db = db;
            let said = replies.get(time).unwrap_or(&Reply::Nil);
            writing.clock.set(said, told);
        }
        let now = self.writing.as_ref().map_or(0, Writing::now_ms);
        let Ok(fence) = await_fence(&self.config, &mut self.progress, fence_of).await else {
            self.reopen(stop).await?;
            return Ok(None);
        };
        if let (Some(parts), Some(at)) = (&mut self.parts, part_there) {
            parts.found(replies.get(at).and_then(Reply::integer) == Some(1));
        }
        let reply = |at| replies.get(at).unwrap_or(&Reply::Nil);
        let here = places.into_iter();
        let here = here.map(|(look, ttl)| Here::of(reply(look), reply(ttl), now));
        Ok(Some((here.collect(), fence.at)))
    }

    /// WATCH each key; whether what is here may be what its state says. None when the connection
    /// had to be opened anew.
    async fn watch(
        &mut self,
        states: &[&State],
        stop: &CancellationToken,
    ) -> Result<Option<Vec<bool>>, Error> {
        let mut questions = Questions::default();
        let mut db = self.writing.as_ref().ok_or(Error::NoStream)?.db;
        let part = part_key(&self.config.peer);
        questions.put(&[b"UNWATCH"]);
        let mut sizes = Vec::with_capacity(states.len());
        for state in states {
            questions.select(&mut db, state.db);
            match &state.value {
                Value::Part(..) => questions.put(&[b"WATCH", &state.key, part.as_bytes()]),
                _ => questions.put(&[b"WATCH", &state.key]),
            };
            // What is here is compared with a value that has come whole, and with no other.
            sizes.push(match &state.value {
                Value::Dump(payload) => {
                    let size = questions.put_if_told(&[b"MEMORY", b"USAGE", &state.key]);
                    Some((size, payload.len() as u64))
                }
                _ => None,
            });
        }
        let Some(replies) = self.ask_all(&questions, stop).await? else {
            return Ok(None);
        };
        if let Some(writing) = &mut self.writing {
            writing.db = db;
        }
        let is_compared = |(at, payload): (usize, u64)| {
            let size = replies.get(at).and_then(Reply::integer).unwrap_or(0);
            size.unsigned_abs() <= payload.saturating_mul(COMPARED_FACTOR).max(COMPARED_MIN)
        };
        let compared = sizes.into_iter().map(|s| s.is_some_and(is_compared));
        Ok(Some(compared.collect()))
    }

    /// Asks questions. None when they could not be asked: the connection was opened anew.
    pub(super) async fn ask_all(
        &mut self,
        questions: &Questions,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<Reply>>, Error> {
        let writing = self.writing.as_mut().ok_or(Error::NoStream)?;
        let replies = tokio::select! {
            replies = writing.ask(questions) => replies,
            () = stop.cancelled() => {
                self.writing = None;
                return Err(Error::Stopped);
            }
        };
        let replies = match replies {
            Ok(replies) => replies,
            Err(error) => {
                warn!(peer = %self.config.peer, %error, "lost the connection while writing");
                self.reopen(stop).await?;
                return Ok(None);
            }
        };
        if let Some(message) = replies.iter().find_map(|r| r.error()) {
            self.on_refused_look(message, stop).await?;
            return Ok(None);
        }
        Ok(Some(replies))
    }

    async fn on_refused_look(
        &mut self,
        message: &str,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        match classify(message) {
            Class::Stop(why) => return Err(Error::Stop(why)),
            Class::Wait => self.board.lock().waiting = Some(message.to_owned()),
            Class::Failed => return Err(unexpected_refusal(message)),
        }
        let mut wait = LONGEST_WAIT;
        pause(&mut wait, stop).await?;
        self.reopen(stop).await
    }
}

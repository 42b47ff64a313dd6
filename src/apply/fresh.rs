//! States of a copy for keys that are not here: nearly all of a first copy.
//!
//! The guard looks before it writes, and each look is a round trip through our own stream. Here the
//! looking comes afterwards. A transaction does nothing to a key that is here (`MSETNX`, `RESTORE`
//! without `REPLACE`), and several are on their way at once. When one has come back in our stream,
//! the table says whether a client had removed one of its keys just before, of which the state
//! knows nothing. What was not clean, the guard settles, as it would have at first.
//!
//! The mark says how far the copy was *found clean*, which is behind what was written. After a crash
//! the rest is sent again, and the guard finds what is here. Should that copy never go on, because
//! its snapshot is gone, the peer gets one back after the new one: a key that a client had removed
//! and we had written again is then at both sites.

use std::collections::VecDeque;
use std::ops::Range;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::reply::Outcome;
use super::sealed::Sealed;
use super::target::{await_fence, put_fence};
use super::value::{Form, put_restore};
use super::{Applier, Error};
use crate::command::key_hash;
use crate::link::{CopyStates, State, Value};
use crate::model::{CopyProgress, Lacking, Mark, is_reserved, mark_key};
use crate::rdb::decode;
use crate::redis::Reply;

/// The most messages on their way: enough that the server always has the next one, and little
/// enough that what must be sent again after a crash is nothing beside the copy.
const MAX_FLYING: usize = 8;
/// The most bytes of them, but for a single larger one.
const MAX_FLYING_BYTES: usize = 4 << 20;
/// How many messages go to the guard at once after one of which most keys were here: those of the
/// next will be here, too.
const GROUNDED: u32 = 16;

/// What a state takes in a command beside its key and its value, about.
const STATE_ROOM: usize = 64;

/// How much larger a packed string may become when it is unpacked here. Others are RESTOREd as they
/// are: the server unpacks them just as well, and they come back in the stream as small as they are.
const MAX_GAIN: u64 = 1 << 10;

/// Messages whose states have been written and not yet looked at.
#[derive(Debug, Default)]
pub(super) struct Flying {
    flights: VecDeque<Flight>,
    bytes: usize,
    /// The connection broke: what became of them is not known.
    is_broken: bool,
}

/// One of them.
#[derive(Debug)]
struct Flight {
    states: CopyStates,
    bytes: usize,
    /// Which commands write which states.
    lots: Vec<Lot>,
    mark: Mark,
    /// How many commands are between MULTI and EXEC.
    commands: usize,
    /// The fence behind it, and the attachment to the stream when it was set.
    fence: (u64, u64),
    /// No state is read here to be sent before it is known what those of the peer have met.
    _taking: Option<OwnedSemaphorePermit>,
}

/// States written by one command.
#[derive(Debug)]
struct Lot {
    /// Its number between MULTI and EXEC.
    command: usize,
    states: Range<usize>,
}

impl Flying {
    /// Whether one must land before the next starts.
    pub(super) fn is_full(&self) -> bool {
        self.is_broken || self.flights.len() >= MAX_FLYING || self.bytes >= MAX_FLYING_BYTES
    }

    /// The number of the entry that must come next, where anything flies.
    pub(super) fn next(&self) -> Option<u64> {
        self.flights.back().map(|flight| flight.states.end())
    }

    fn pop(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.bytes = self.bytes.saturating_sub(flight.bytes);
        Some(flight)
    }
}

impl Flight {
    fn all(&self) -> Vec<usize> {
        (0..self.states.states.len()).collect()
    }

    /// The states that were written and that `is_unseen` says nothing against are clean; these are
    /// the others.
    fn not_clean(&self, replies: &[Reply], is_unseen: impl Fn(&State) -> bool) -> Vec<usize> {
        let written = |lot: &&Lot| match replies.get(lot.command) {
            // MSETNX did nothing at all if one of the keys is here.
            Some(Reply::Integer(done)) => *done == 1,
            Some(reply) => reply.error().is_none(),
            None => false,
        };
        let mut is_clean = vec![false; self.states.states.len()];
        for index in self
            .lots
            .iter()
            .filter(written)
            .flat_map(|lot| lot.states.clone())
        {
            if let (Some(is_clean), Some(state)) =
                (is_clean.get_mut(index), self.states.states.get(index))
            {
                *is_clean = !is_unseen(state);
            }
        }
        let others = is_clean
            .iter()
            .enumerate()
            .filter(|(_, is_clean)| !**is_clean);
        others.map(|(index, _)| index).collect()
    }
}

impl Applier {
    /// Whether the states of a message may be written before anything is looked at.
    pub(super) fn may_fly(&mut self, states: &CopyStates) -> bool {
        let was_grounded = self.grounded > 0;
        self.grounded = self.grounded.saturating_sub(1);
        // The parts of a large value are put together first.
        let is_part = |state: &State| matches!(state.value, Value::Part(..));
        // What is missing may have been deleted: the guard says so.
        let copy = self.mark.as_ref().and_then(|mark| mark.copy);
        let is_sure = copy.is_some_and(|copy| copy.lacking == Lacking::New);
        // Of what does not come with a first copy third sites must hear: the guard says what it took.
        let is_told = !self.third.is_empty() && !self.joins;
        is_sure && !is_told && !was_grounded && !states.states.iter().any(is_part)
    }

    /// Writes the states of a message to the keys that are not here.
    pub(super) async fn launch(
        &mut self,
        states: CopyStates,
        flying: &mut Flying,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let taking = match self.table.try_taking() {
            Some(taking) => Some(taking),
            None => {
                // Somebody is about to read states, and waits for what flies.
                self.land_all(flying, stop).await?;
                self.table.taking().await
            }
        };
        self.fence += 1;
        let fence = (self.fence, self.progress.borrow().attached);
        let marked = self.marked()?;
        let mark = Mark {
            instance: self.config.instance,
            batch: marked.batch + 1 + flying.flights.len() as u64,
            ..marked
        };
        let sent = tokio::select! {
            sent = self.send_fresh(&states.states, &mark) => sent,
            () = stop.cancelled() => {
                self.writing = None;
                return Err(Error::Stopped);
            }
        };
        let (sealed, lots) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                warn!(peer = %self.config.peer, %error, "lost the connection while writing");
                flying.is_broken = true;
                (Sealed::default(), Vec::new())
            }
        };
        flying.bytes += sealed.bytes.len();
        flying.flights.push_back(Flight {
            states,
            bytes: sealed.bytes.len(),
            lots,
            mark,
            commands: sealed.count,
            fence,
            _taking: taking,
        });
        Ok(())
    }

    /// Sends the transaction of a message, and a fence behind it.
    async fn send_fresh(
        &mut self,
        states: &[State],
        mark: &Mark,
    ) -> Result<(Sealed, Vec<Lot>), Error> {
        self.writing
            .as_mut()
            .ok_or(Error::NoStream)?
            .select(0)
            .await?;
        let (sealed, lots) = self.seal_fresh(states, mark)?;
        let writing = self.writing.as_mut().ok_or(Error::NoStream)?;
        writing.connection.send(&sealed.bytes).await?;
        Ok((sealed, lots))
    }

    /// The transaction, and which of its commands write which states. It begins and ends in
    /// database 0: the next one is right whether this one is executed or not. States that the guard
    /// must judge are left out.
    fn seal_fresh(&self, states: &[State], mark: &Mark) -> Result<(Sealed, Vec<Lot>), Error> {
        let writing = self.writing.as_ref().ok_or(Error::NoStream)?;
        let (now, is_unseen) = (writing.now_ms(), self.is_unseen());
        let is_for_guard = |s: &State| is_reserved(&s.key) || is_unseen(s);
        let mut sealed = Sealed::begin(0, &mark_key(&self.config.peer), &mark.to_string());
        let size = |s: &State| STATE_ROOM + s.key.len() + s.value.size();
        sealed.bytes.reserve(states.iter().map(size).sum());
        let (mut lots, mut begin, mut texts) = (Vec::new(), 0, Texts::default());
        while let Some((first, rest)) = states.get(begin..).and_then(<[State]>::split_first) {
            let begins = begin;
            begin += 1;
            if is_for_guard(first) {
                continue;
            }
            if texts.put(first) {
                let more = rest
                    .iter()
                    .take_while(|s| s.db == first.db && !is_for_guard(s) && texts.put(s));
                begin += more.count();
                sealed.select(first.db);
                texts.seal(states.get(begins..begin).unwrap_or_default(), &mut sealed);
            } else if let Value::Dump(own) = &first.value
                && let Form::Restore(stamped) = Form::of(first, writing, self.disputes)
            {
                sealed.select(first.db);
                let payload = stamped.as_ref().unwrap_or(own);
                put_restore(&mut sealed, first, payload, false, now);
            } else {
                continue;
            }
            lots.push(Lot {
                command: sealed.count - 1,
                states: begins..begin,
            });
        }
        sealed.select(0);
        sealed.end();
        put_fence(&mut sealed.bytes, &self.config, self.fence);
        Ok((sealed, lots))
    }

    /// Says of a state whether there is a write of its key here that it has not seen.
    fn is_unseen(&self) -> impl Fn(&State) -> bool {
        let (peer, seen) = (&self.config.peer, &self.copy_seen);
        let of_us = seen.of(&self.config.site);
        let may_be = !self.table.is_all_seen(of_us) || !self.foreign.is_all_seen(peer, seen);
        move |state| {
            may_be && {
                let hash = key_hash(state.db, &state.key);
                self.table.unseen(hash, of_us).is_some() || self.foreign.is_unseen(hash, peer, seen)
            }
        }
    }

    /// Waits for everything that flies.
    pub(super) async fn land_all(
        &mut self,
        flying: &mut Flying,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        while !flying.flights.is_empty() {
            self.land(flying, stop).await?;
        }
        Ok(())
    }

    /// Waits for the first that flies. If it was not clean, for the others too: the guard needs the
    /// connection for itself.
    pub(super) async fn land(
        &mut self,
        flying: &mut Flying,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut landed = Vec::new();
        while let Some(flight) = flying.pop() {
            let left = match flying.is_broken {
                true => None,
                false => self.look_behind(&flight, stop).await?,
            };
            flying.is_broken = left.is_none();
            let left = left.unwrap_or_else(|| flight.all());
            let is_clean = left.is_empty() && landed.is_empty();
            landed.push((flight.states, left));
            if is_clean {
                break;
            }
        }
        if std::mem::take(&mut flying.is_broken) {
            self.reopen(stop).await?;
        }
        for (states, left) in landed {
            self.settle_landed(&states, &left, stop).await?;
        }
        Ok(())
    }

    /// Reads what became of a message, when it has come back in our stream: these of its states are
    /// for the guard. None when the connection broke.
    async fn look_behind(
        &mut self,
        flight: &Flight,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<usize>>, Error> {
        let writing = self.writing.as_mut().ok_or(Error::NoStream)?;
        let replies = async {
            let outcome = writing.outcome(flight.commands).await?;
            let fence = writing.connection.reply().await?;
            writing.connection.accepted("SET", fence)?;
            await_fence(&self.config, &mut self.progress, flight.fence).await?;
            Ok::<_, Error>(outcome)
        };
        let outcome = tokio::select! {
            outcome = replies => outcome,
            () = stop.cancelled() => {
                self.writing = None;
                return Err(Error::Stopped);
            }
        };
        match outcome {
            Ok(Outcome::Done(replies)) => {
                if let Some(mark) = &mut self.mark {
                    mark.batch = flight.mark.batch;
                }
                Ok(Some(flight.not_clean(&replies, self.is_unseen())))
            }
            // The guard meets the same refusal, and waits until it passes.
            Ok(Outcome::Changed | Outcome::Aborted { .. }) => Ok(Some(flight.all())),
            Err(error) => {
                warn!(peer = %self.config.peer, %error, "lost the connection while writing");
                Ok(None)
            }
        }
    }

    /// Counts what was clean, and hands the rest to the guard.
    async fn settle_landed(
        &mut self,
        states: &CopyStates,
        left: &[usize],
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let all = states.states.len();
        self.board.lock().copied.created += (all - left.len()) as u64;
        if left.is_empty() {
            let mut mark = self.marked()?;
            mark.copy = mark.copy.map(|copy| CopyProgress {
                next: states.end(),
                ..copy
            });
            self.mark = Some(mark);
        } else {
            if left.len() * 2 > all {
                self.grounded = GROUNDED;
            }
            let left = left.iter().filter_map(|i| states.states.get(*i).cloned());
            let left: Vec<State> = left.collect();
            self.guard_copied(&left, states.end(), stop).await?;
        }
        self.show_progress(states.end(), states);
        Ok(())
    }
}

/// The plain bytes of strings, one after the other: too many for each to have memory of its own.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    /// Where each one ends.
    ends: Vec<usize>,
}

impl Texts {
    /// Adds the value of a state that is a plain string and never expires; false when it is none.
    fn put(&mut self, state: &State) -> bool {
        let Value::Dump(payload) = &state.value else {
            return false;
        };
        let is_text = state.expire_at_ms == 0
            && payload.first() == Some(&0)
            && matches!(
                decode::put_text(payload, MAX_GAIN, &mut self.bytes),
                Ok(true)
            );
        if is_text {
            self.ends.push(self.bytes.len());
        }
        is_text
    }

    /// Writes these values of states of one database, unless one of the keys is here, and forgets
    /// them.
    fn seal(&mut self, states: &[State], sealed: &mut Sealed) {
        sealed.command_of(1 + 2 * self.ends.len());
        sealed.arg(b"MSETNX");
        let mut begin = 0;
        for (state, end) in states.iter().zip(self.ends.drain(..)) {
            sealed.arg(&state.key);
            sealed.arg(self.bytes.get(begin..end).unwrap_or_default());
            begin = end;
        }
        self.bytes.clear();
    }
}

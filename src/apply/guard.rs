//! The guard: a state is taken only if it has seen every write that is here.
//!
//! `WATCH` the keys, set a fence, wait until it comes back in our own stream: then the table knows
//! every local write before it. Those keys whose writes the state had all seen are restored in one
//! marked transaction; had one changed since WATCH, EXEC does nothing and we ask again. So a state
//! never destroys a write that it has not seen.

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::commit::{Executed, LONGEST_WAIT, pause, unexpected_refusal};
use super::debts::{Key, member};
use super::parts::{Parts, put_removal};
use super::rebase::{Replay, replays};
use super::reply::{Class, classify};
use super::sealed::Sealed;
use super::target::{await_fence, put_fence};
use super::value::Form;
use super::{Applier, Error};
use crate::command::key_hash;
use crate::intake::wall_ms;
use crate::link::{State, Value};
use crate::model::{Cursor, Mark, is_reserved, owed_key, part_key};
use crate::redis::{Reply, put_command};

/// How often a transaction is tried whose keys keep changing, before its keys count as refused.
const ATTEMPTS: u32 = 8;

/// What is decided about a state.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It replaces what is here, or nothing.
    Take {
        /// Whether the key was here.
        existed: bool,
    },
    /// It replaces what is here, and what it has not seen is written again on top of it.
    Rebase(Replay),
    /// What is here stays, by configuration or because the state says the same.
    Leave {
        /// Whether by configuration.
        kept: bool,
    },
    /// It has not seen a write that is here: a newer one is asked for.
    Refuse,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Take { .. } => f.write_str("taken"),
            Self::Rebase(replay) => write!(f, "taken, and {} commands on top", replay.count),
            Self::Leave { .. } => f.write_str("left alone"),
            Self::Refuse => f.write_str("refused"),
        }
    }
}

impl Verdict {
    /// Whether it holds whatever is written meanwhile: nothing will be replaced.
    const fn is_final(&self) -> bool {
        matches!(self, Self::Leave { .. } | Self::Refuse)
    }
}

/// What this site has of a key.
struct Here<'a> {
    exists: bool,
    /// As DUMP gives it, without version and checksum; none where it was not asked for.
    value: Option<&'a [u8]>,
    /// As a state says it.
    expire_at_ms: u64,
}

/// What follows a value in a dump: two bytes of version and eight of checksum.
const DUMP_FOOTER: usize = 10;
/// How far two readings of one time to live may lie apart.
const TTL_SLACK_MS: u64 = 20;

impl<'a> Here<'a> {
    /// From the replies to DUMP, or EXISTS, and PTTL.
    fn of([reply, ttl]: &'a [Reply; 2], now_ms: u64) -> Self {
        let dump = reply.bytes();
        let left = ttl.integer().and_then(|t| u64::try_from(t).ok());
        Self {
            exists: dump.is_some() || reply.integer() == Some(1),
            value: dump.map(|d| without_footer(d)),
            expire_at_ms: left.map_or(0, |l| now_ms + l),
        }
    }

    /// Whether the state says what is here already.
    fn is(&self, state: &State) -> bool {
        let Value::Dump(payload) = &state.value else {
            return false;
        };
        let same_ttl = match (self.expire_at_ms, state.expire_at_ms) {
            (0, 0) => true,
            (0, _) | (_, 0) => false,
            (a, b) => a.abs_diff(b) <= TTL_SLACK_MS,
        };
        same_ttl && self.value == Some(without_footer(payload))
    }
}

fn without_footer(dump: &[u8]) -> &[u8] {
    dump.get(..dump.len().saturating_sub(DUMP_FOOTER))
        .unwrap_or_default()
}

/// How states are to be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// What the states had seen of our history.
    pub seen: Cursor,
    /// Whether keys that are here stay.
    pub keep: bool,
    /// Whether what the states have not seen is written again on top of them.
    pub rebase: bool,
}

impl Applier {
    /// Takes or refuses states; `mark` is committed with them.
    pub(super) async fn take_states(
        &mut self,
        states: &[State],
        rules: Rules,
        mark: &Mark,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let table = Arc::clone(&self.table);
        let mut verdicts: Vec<Option<Verdict>> = vec![None; states.len()];
        for attempt in 1.. {
            // What the table says must hold until EXEC.
            let _taking = table.taking().await;
            // A key that keeps changing: a newer state will be asked for.
            if attempt > ATTEMPTS {
                verdicts
                    .iter_mut()
                    .for_each(|v| *v = v.take().or(Some(Verdict::Refuse)));
            }
            self.judge(states, &mut verdicts, rules, stop).await?;
            let Some(decided) = verdicts.iter().cloned().collect::<Option<Vec<_>>>() else {
                continue;
            };
            let marked = Mark {
                instance: self.config.instance,
                batch: mark.batch + 1,
                ..mark.clone()
            };
            match self.carry_out(states, &decided, &marked, stop).await? {
                Executed::Done { replies, head } => {
                    self.mark = Some(marked);
                    self.settle(states, &decided);
                    // A command written again may fail here as it will there.
                    let errors = replies.iter().skip(head).filter_map(|r| r.error());
                    let refused =
                        |m: &&String| m.contains("DUMP payload") || m.contains("Bad data");
                    for message in errors.filter(refused) {
                        self.on_unheld_value(message);
                    }
                    return Ok(());
                }
                Executed::Lost if self.mark.as_ref().is_some_and(|m| m.batch >= marked.batch) => {
                    self.settle(states, &decided);
                    return Ok(());
                }
                // Nothing was executed, and no key is watched any more.
                Executed::Changed | Executed::Lost => {
                    verdicts
                        .iter_mut()
                        .for_each(|v| *v = v.take().filter(Verdict::is_final));
                }
                Executed::Refused { message, .. } => return Err(unexpected_refusal(&message)),
            }
        }
        Ok(())
    }

    /// WATCH, fence, look, decide: about the states of which nothing is decided yet. They stay
    /// undecided when the connection had to be opened anew.
    async fn judge(
        &mut self,
        states: &[State],
        verdicts: &mut [Option<Verdict>],
        rules: Rules,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let open: Vec<usize> = (0..states.len())
            .filter(|&i| verdicts.get(i).is_some_and(Option::is_none))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let looking: Vec<&State> = open.iter().filter_map(|&i| states.get(i)).collect();
        let Some((looks, fence)) = self.look(&looking, stop).await? else {
            return Ok(());
        };
        let now = wall_ms();
        let here = looks.iter().map(|replies| Here::of(replies, now));
        let mut found: Vec<Verdict> = looking
            .iter()
            .zip(here)
            .map(|(state, here)| self.verdict(state, &here, rules))
            .collect();
        if rules.rebase {
            self.rebase(&looking, &mut found, rules.seen, fence)?;
        }
        for (i, verdict) in open.into_iter().zip(found) {
            if let Some(place) = verdicts.get_mut(i) {
                *place = Some(verdict);
            }
        }
        Ok(())
    }

    /// WATCH, DUMP and PTTL of each (EXISTS, of a large one), and a fence that has come back: the two replies of each, and
    /// the place of the fence. None when the connection had to be opened anew.
    async fn look(
        &mut self,
        states: &[&State],
        stop: &CancellationToken,
    ) -> Result<Option<(Vec<[Reply; 2]>, Cursor)>, Error> {
        self.fence += 1;
        let fence_of = (self.fence, self.progress.borrow().attached);
        let (mut out, mut count) = (Vec::new(), 0);
        let writing = self.writing.as_mut().ok_or(Error::NoStream)?;
        let mut put = |args: &[&[u8]]| {
            put_command(&mut out, args);
            count += 1;
            count
        };
        put(&[b"UNWATCH"]);
        let (mut db, part) = (writing.db, part_key(&self.config.peer));
        let mut part_there = None;
        let mut places = Vec::with_capacity(states.len());
        for state in states {
            if db != state.db {
                put(&[b"SELECT", state.db.to_string().as_bytes()]);
                db = state.db;
            }
            if matches!(state.value, Value::Part(..)) {
                put(&[b"WATCH", &state.key, part.as_bytes()]);
                part_there = Some(put(&[b"EXISTS", part.as_bytes()]) - 1);
            } else {
                put(&[b"WATCH", &state.key]);
            }
            // What is here is compared with a value that has come whole, and with no other.
            let look: &[u8] = match state.value {
                Value::Dump(_) => b"DUMP",
                _ => b"EXISTS",
            };
            places.push(put(&[look, &state.key]) - 1);
            put(&[b"PTTL", &state.key]);
        }
        if db != 0 {
            put(&[b"SELECT", b"0"]);
        }
        put_fence(&mut out, &self.config, self.fence);
        count += 1;
        let Some(mut replies) = self.ask_all(&out, count, stop).await? else {
            return Ok(None);
        };
        if let Some(writing) = &mut self.writing {
            writing.db = 0;
        }
        let Ok(fence) = await_fence(&self.config, &mut self.progress, fence_of).await else {
            self.reopen(stop).await?;
            return Ok(None);
        };
        if let (Some(parts), Some(at)) = (&mut self.parts, part_there) {
            parts.found(replies.get(at).and_then(Reply::integer) == Some(1));
        }
        let mut take = |i: usize| {
            let reply = replies.get_mut(i);
            reply.map_or(Reply::Nil, |r| std::mem::replace(r, Reply::Nil))
        };
        let looks = places.into_iter().map(|i| [take(i), take(i + 1)]).collect();
        Ok(Some((looks, fence.at)))
    }

    /// Sends commands that change nothing and reads their replies. None when they could not be
    /// carried out: the connection was opened anew.
    pub(super) async fn ask_all(
        &mut self,
        commands: &[u8],
        count: usize,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<Reply>>, Error> {
        let writing = self.writing.as_mut().ok_or(Error::NoStream)?;
        let replies = tokio::select! {
            replies = writing.pipeline(commands, count) => replies,
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

    /// Turns refusals into rebases where only writes of the very key are unseen.
    fn rebase(
        &self,
        states: &[&State],
        verdicts: &mut [Verdict],
        seen: Cursor,
        upto: Cursor,
    ) -> Result<(), Error> {
        let may = |state: &State| {
            let hash = key_hash(state.db, &state.key);
            (!self.gap || theirs_wins(&self.config)) && !self.table.sent_unseen(hash, seen)
        };
        let refused = states
            .iter()
            .zip(verdicts.iter())
            .filter(|(s, v)| **v == Verdict::Refuse && may(s));
        let keys = refused.map(|(state, _)| (state.db, state.key.clone()));
        let mut found = replays((&self.journal, &self.catalog), keys, seen, upto)?;
        for (state, verdict) in states.iter().zip(verdicts) {
            if let Some(Some(replay)) = found.remove(&(state.db, state.key.clone())) {
                *verdict = Verdict::Rebase(replay);
            }
        }
        Ok(())
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

    fn verdict(&self, state: &State, here: &Here<'_>, rules: Rules) -> Verdict {
        let exists = here.exists;
        if is_reserved(&state.key) || matches!(state.value, Value::Unsaid) {
            return Verdict::Leave { kept: false };
        }
        if matches!(state.value, Value::Function(_)) {
            return Verdict::Take { existed: false };
        }
        if self.parts.as_ref().is_some_and(Parts::is_gone) {
            return Verdict::Refuse;
        }
        if rules.keep && here.is(state) {
            return Verdict::Leave { kept: false };
        }
        if rules.keep && exists {
            return Verdict::Leave { kept: true };
        }
        let unseen = self
            .table
            .unseen(key_hash(state.db, &state.key), rules.seen);
        let seen_all = unseen.is_none() && (!self.gap || theirs_wins(&self.config) || !exists);
        match (seen_all, exists || !is_absent(state)) {
            (false, _) => Verdict::Refuse,
            (true, true) if here.is(state) => Verdict::Leave { kept: false },
            (true, true) => Verdict::Take { existed: exists },
            (true, false) => Verdict::Leave { kept: false },
        }
    }

    async fn carry_out(
        &mut self,
        states: &[State],
        verdicts: &[Verdict],
        mark: &Mark,
        stop: &CancellationToken,
    ) -> Result<Executed, Error> {
        let key = crate::model::mark_key(&self.config.peer);
        let (text, set) = (mark.to_string(), owed_key(&self.config.peer));
        let part = part_key(&self.config.peer);
        let forms = self.forms(states, verdicts)?;
        let dropped = self.debts.dropped();
        let debts = self.debts.clone();
        let seal = |db: u32| {
            let mut sealed = Sealed::begin(db, &key, &text);
            let mut paid: Vec<Vec<u8>> = dropped.iter().map(member).collect();
            let mut owed = Vec::new();
            for ((state, verdict), form) in states.iter().zip(verdicts).zip(&forms) {
                let name: Key = (state.db, state.key.clone());
                match verdict {
                    Verdict::Refuse => owed.push(member(&name)),
                    // What is here stays, and nothing is written on top of it.
                    Verdict::Take { .. } | Verdict::Rebase(_) if form.is_unheld() => {}
                    Verdict::Take { .. } => form.put(&mut sealed, state, &part),
                    Verdict::Rebase(replay) => {
                        form.put(&mut sealed, state, &part);
                        sealed.raw(&replay.bytes, replay.count);
                    }
                    Verdict::Leave { .. } => {}
                }
                if matches!(state.value, Value::Part(..)) {
                    put_removal(&mut sealed, state.db, &part);
                }
                if *verdict != Verdict::Refuse && debts.wants(&name) {
                    paid.push(member(&name));
                }
            }
            for (command, members) in [(&b"SREM"[..], paid), (&b"SADD"[..], owed)] {
                if !members.is_empty() {
                    sealed.select(0);
                    let args = [command, set.as_bytes()].into_iter();
                    sealed.command(
                        &args
                            .chain(members.iter().map(|m| &m[..]))
                            .collect::<Vec<_>>(),
                    );
                }
            }
            sealed.end();
            sealed
        };
        let executed = self.execute_once(stop, seal).await?;
        if matches!(executed, Executed::Done { .. }) {
            self.debts.forget_dropped(&dropped);
        }
        Ok(executed)
    }

    /// In which form each of the states that are taken is written; what the server cannot hold is
    /// told.
    fn forms(&self, states: &[State], verdicts: &[Verdict]) -> Result<Vec<Form>, Error> {
        let writing = self.writing.as_ref().ok_or(Error::NoStream)?;
        let now = wall_ms();
        let form = |(state, verdict): (&State, &Verdict)| {
            if verdict.is_final() {
                return Form::Delete;
            }
            let form = match (&state.value, &self.parts) {
                (Value::Part(..), Some(parts)) if !state.is_expired(now) => parts.form(),
                _ => Form::of(state, writing, self.disputes, now),
            };
            if let Form::Unheld(why) | Form::Rebuild(_, why) | Form::Rename(why) = &form
                && !why.is_empty()
            {
                let key = state.key.escape_ascii();
                self.on_unheld_value(&format!("{why}, in the key {key} of database {}", state.db));
            }
            form
        };
        Ok(states.iter().zip(verdicts).map(form).collect())
    }

    /// A value that the server here cannot hold, or not all of it.
    fn on_unheld_value(&self, why: &str) {
        let mut board = self.board.lock();
        board.unheld += 1;
        if board.unheld.is_power_of_two() {
            let (peer, count) = (&self.config.peer, board.unheld);
            warn!(%peer, count, why, "the Redis here cannot hold a value of the peer; left out");
        }
    }

    /// The counts and the debts after states were taken or refused.
    fn settle(&self, states: &[State], verdicts: &[Verdict]) {
        let read = self.progress.borrow().read;
        let mut counts = self.board.lock().copied.clone();
        for (state, verdict) in states.iter().zip(verdicts) {
            let name: Key = (state.db, state.key.clone());
            debug!(peer = %self.config.peer, db = state.db, key = %state.key.escape_ascii(), %verdict, "a state");
            match verdict {
                Verdict::Refuse => {
                    counts.refused += 1;
                    self.debts.add(name, read);
                    continue;
                }
                Verdict::Take { existed: true } | Verdict::Rebase(_) => counts.overwritten += 1,
                Verdict::Take { existed: false } => counts.created += 1,
                Verdict::Leave { kept: true } => counts.kept += 1,
                Verdict::Leave { kept: false } => {}
            }
            self.debts.remove(&name);
        }
        self.board.lock().copied = counts;
    }
}

/// While the peer lacks what our data holds beyond our journal (its data rests on an older base of
/// ours), its states have not seen that either. Then it lacks a copy of ours and we one of its, or
/// it would have got ours first: the names decide.
fn theirs_wins(config: &super::Config) -> bool {
    config.peer < config.site
}

fn is_absent(state: &State) -> bool {
    matches!(state.value, Value::Absent)
}

//! The guard: a state is taken only if it has seen every write that is here.
//!
//! `WATCH` the keys, set a fence, wait until it comes back in our own stream: then the table knows
//! every local write before it. Those keys whose writes the state had all seen are restored in one
//! marked transaction; had one changed since WATCH, EXEC does nothing and we ask again. So a state
//! never destroys a write that it has not seen.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::commit::{Executed, unexpected_refusal};
use super::debts::{Key, member};
use super::look::Here;
use super::parts::{Parts, put_removal};
use super::rebase::{Replay, replays};
use super::sealed::Sealed;
use super::target::Writing;
use super::value::Form;
use super::{Applier, Error};
use crate::command::key_hash;
use crate::converge::{Settled, Why};
use crate::link::{Standing, State, Value};
use crate::model::{
    Cursor, GONE_KEY, Lacking, Mark, Need, Seen, is_reserved, owed_key, part_key, put_bytes,
};
use crate::status::{Conflicts, CopyCounts};

/// How often a transaction is tried whose keys keep changing, before they are taken one by one.
const ATTEMPTS_TOGETHER: u32 = 3;
/// How often one is tried then, before its keys count as refused.
const ATTEMPTS: u32 = 8;

/// How long before its moment a state counts as expired, when commands are to be written on top of it:
/// longer than it takes until Redis has executed them.
const EXPIRES_SOON_MS: u64 = 1000;

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
    /// What is here stays: the peer has asked for it. What is wrong with it here is another matter.
    Asked,
    /// It was deleted here while nobody read: the peer hears that in our history.
    Deleted,
    /// It has not seen a write that is here: a newer one is asked for.
    Refuse,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Take { .. } => f.write_str("taken"),
            Self::Rebase(replay) => write!(f, "taken, and {} commands on top", replay.count),
            Self::Leave { .. } => f.write_str("left alone"),
            Self::Asked => f.write_str("left alone: the peer asks for it"),
            Self::Deleted => f.write_str("not taken: it was deleted here"),
            Self::Refuse => f.write_str("refused"),
        }
    }
}

impl Verdict {
    /// Whether the state that was wanted is here now. A value that stays because a copy leaves what is
    /// here as it is may be the wrong one.
    const fn pays(&self) -> bool {
        !matches!(
            self,
            Self::Refuse | Self::Asked | Self::Leave { kept: true }
        )
    }

    /// Whether it holds whatever is written meanwhile: nothing will be replaced.
    const fn is_final(&self) -> bool {
        matches!(self, Self::Leave { .. } | Self::Asked | Self::Refuse)
    }
}

/// How states are to be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    /// What the states had seen.
    pub seen: &'a Seen,
    /// Whether keys that are here stay.
    pub keep: bool,
    /// Whether what the states have not seen is written again on top of them.
    pub rebase: bool,
    /// What is known of keys that are not here.
    pub lacking: Lacking,
}

impl Applier {
    /// Takes or refuses states; `mark` is committed with them.
    ///
    /// Each of some keys that keep changing changes less often than all of them: so these are taken one by one
    /// in the end, and the mark is committed behind them. Where that is interrupted, they come once more.
    pub(super) async fn take_states(
        &mut self,
        states: &[State],
        rules: Rules<'_>,
        mark: &Mark,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut verdicts = vec![None; states.len()];
        for _ in 0..ATTEMPTS_TOGETHER {
            let what = (states, &mut verdicts[..]);
            if self.take_together(what, rules, mark, stop).await? {
                return Ok(());
            }
        }
        let (mut others, mut decided) = (Vec::new(), Vec::new());
        for (state, verdict) in states.iter().zip(verdicts) {
            match verdict {
                None if states.len() > 1 => self.take_alone(state, rules, stop).await?,
                verdict => {
                    others.push(state.clone());
                    decided.push(verdict);
                }
            }
        }
        let batch = self.marked()?.batch;
        let mark = Mark {
            batch,
            ..mark.clone()
        };
        self.take_in_the_end((&others, decided), rules, &mark, stop)
            .await
    }

    /// Takes or refuses a state whose key keeps changing.
    async fn take_alone(
        &mut self,
        state: &State,
        rules: Rules<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mark = self.marked()?;
        let state = (std::slice::from_ref(state), vec![None]);
        self.take_in_the_end(state, rules, &mark, stop).await
    }

    /// Takes states, or refuses those that keep changing: newer ones will be asked for.
    async fn take_in_the_end(
        &mut self,
        (states, mut verdicts): (&[State], Vec<Option<Verdict>>),
        rules: Rules<'_>,
        mark: &Mark,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        for attempt in 1.. {
            if attempt > ATTEMPTS {
                let open = verdicts.iter_mut().filter(|verdict| verdict.is_none());
                open.for_each(|verdict| *verdict = Some(Verdict::Refuse));
            }
            let what = (states, &mut verdicts[..]);
            if self.take_together(what, rules, mark, stop).await? {
                break;
            }
        }
        Ok(())
    }

    /// Decides about states as far as that is open, and carries all of it out in one transaction. Whether it has
    /// been: when a key has changed meanwhile, what may be another matter now is open again.
    async fn take_together(
        &mut self,
        (states, verdicts): (&[State], &mut [Option<Verdict>]),
        rules: Rules<'_>,
        mark: &Mark,
        stop: &CancellationToken,
    ) -> Result<bool, Error> {
        let table = Arc::clone(&self.table);
        // What the table says must hold until EXEC.
        let _taking = table.taking().await;
        let upto = self.judge(states, verdicts, rules, stop).await?;
        let Some(decided) = verdicts.iter().cloned().collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        let forms = self.forms(states, &decided)?;
        let mut marked = Mark {
            instance: self.config.instance,
            batch: mark.batch + 1,
            entire: mark.entire && !forms.iter().any(Form::is_unheld),
            ..mark.clone()
        };
        let what = (states, &decided[..], &forms[..]);
        match self.carry_out(what, rules, &marked, stop).await? {
            Executed::Done { replies, head } => {
                self.mark = Some(marked.clone());
                self.settle(states, &decided, rules, upto);
                // A command written again may fail here as it will there.
                let errors = replies.iter().skip(head).filter_map(|r| r.error());
                let refused = |m: &&String| m.contains("DUMP payload") || m.contains("Bad data");
                let entire = marked.entire;
                for message in errors.filter(refused) {
                    self.on_unheld_value(message);
                    marked.entire = false;
                }
                if marked.entire != entire {
                    self.commit(|_| {}, marked, stop).await?;
                }
                Ok(true)
            }
            Executed::Lost if self.mark.as_ref().is_some_and(|m| m.batch >= marked.batch) => {
                self.settle(states, &decided, rules, upto);
                Ok(true)
            }
            // Nothing was executed, and no key is watched any more.
            Executed::Changed | Executed::Lost => {
                verdicts
                    .iter_mut()
                    .for_each(|v| *v = v.take().filter(Verdict::is_final));
                Ok(false)
            }
            Executed::Refused { message, .. } => Err(unexpected_refusal(&message)),
        }
    }

    /// WATCH, fence, look, decide: about the states of which nothing is decided yet. They stay
    /// undecided when the connection had to be opened anew. Up to where our own history was known then.
    async fn judge(
        &mut self,
        states: &[State],
        verdicts: &mut [Option<Verdict>],
        rules: Rules<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<Cursor>, Error> {
        let open: Vec<usize> = (0..states.len())
            .filter(|&i| verdicts.get(i).is_some_and(Option::is_none))
            .collect();
        if open.is_empty() {
            return Ok(None);
        }
        let looking: Vec<&State> = open.iter().filter_map(|&i| states.get(i)).collect();
        let Some((here, fence)) = self.look(&looking, stop).await? else {
            return Ok(None);
        };
        let mut found: Vec<Verdict> = looking
            .iter()
            .zip(&here)
            .map(|(state, here)| self.verdict(state, here, rules))
            .collect();
        if rules.rebase {
            self.rebase(&looking, &mut found, rules.seen, fence)?;
        }
        for (i, verdict) in open.into_iter().zip(found) {
            if let Some(place) = verdicts.get_mut(i) {
                *place = Some(verdict);
            }
        }
        Ok(Some(fence))
    }

    /// Turns refusals into rebases where only writes of the very key are unseen. Not of a state that
    /// has expired on its way: at the peer a command that we write again may have come in time, to
    /// prolong its life, and here it would find nothing. Until the peer says how it went there, it is
    /// asked again.
    fn rebase(
        &self,
        states: &[&State],
        verdicts: &mut [Verdict],
        seen: &Seen,
        upto: Cursor,
    ) -> Result<(), Error> {
        let writing = self.writing.as_ref().ok_or(Error::NoStream)?;
        let soon = writing.now_ms() + EXPIRES_SOON_MS;
        let of_us = seen.of(&self.config.site);
        let may = |state: &State| {
            let hash = key_hash(state.db, &state.key);
            !state.is_expired(soon)
                && !self.foreign.is_unseen(hash, &self.config.peer, seen)
                && !self.gap
                && !self.table.sent_unseen(hash, of_us)
        };
        let refused = states
            .iter()
            .zip(verdicts.iter())
            .filter(|(s, v)| **v == Verdict::Refuse && may(s));
        let keys = refused.map(|(state, _)| (state.db, state.key.clone()));
        let mut found = replays((&self.journal, &self.catalog), keys, of_us, upto)?;
        for (state, verdict) in states.iter().zip(verdicts) {
            let replay = found.remove(&(state.db, state.key.clone())).flatten();
            let replay = replay.filter(|replay| replay.fits(is_absent(state), soon));
            if let Some(replay) = replay {
                *verdict = Verdict::Rebase(replay);
            }
        }
        Ok(())
    }

    fn verdict(&self, state: &State, here: &Here, rules: Rules<'_>) -> Verdict {
        let exists = here.exists();
        if is_reserved(&state.key) || matches!(state.value, Value::Unsaid) {
            return Verdict::Leave { kept: false };
        }
        if matches!(state.value, Value::Function(_)) {
            return Verdict::Take { existed: false };
        }
        if self.parts.as_ref().is_some_and(Parts::is_gone) {
            return Verdict::Refuse;
        }
        let (hash, seen) = (key_hash(state.db, &state.key), rules.seen);
        let unseen = self.table.unseen(hash, seen.of(&self.config.site));
        let seen_writes =
            unseen.is_none() && !self.foreign.is_unseen(hash, &self.config.peer, seen);
        let (is_asked, is_here) = (state.standing == Standing::Asked, here.is(state));
        // Of more than two sites, all that counts is what was written here: that a copy was read for another, or
        // what third sites have written, the peer may not have seen for long.
        let is_known = match self.foreign.is_empty() {
            true => seen_writes,
            false => !self.table.is_written(hash, seen.of(&self.config.site)),
        };
        if rules.keep && exists && !is_asked && !self.keeps_own && !is_known {
            // What a copy that answers one has not seen was written here to a key that was not: the peer
            // does the same to what it has, even if that looks the same.
            return Verdict::Refuse;
        }
        let seen_all = seen_writes && (!self.gap || !exists);
        // What a copy that answers one brings was not here when that was made. Where it is now, third sites have
        // written it: a sender that has all of that has more.
        let has_more = seen_all && !self.owes_back && !self.foreign.is_empty();
        if exists && (rules.keep && !has_more || is_asked) {
            return match is_asked {
                // What has not seen all is the same by chance: it is not what was asked for.
                _ if seen_all && is_here => Verdict::Leave { kept: false },
                true => Verdict::Asked,
                false => Verdict::Leave { kept: true },
            };
        }
        let is_deleted = rules.lacking == Lacking::Deleted
            && state.standing == Standing::Old
            && !exists
            && !self.debts.wants(state.db, &state.key);
        match (seen_all, exists || !is_absent(state)) {
            (false, _) => Verdict::Refuse,
            (true, _) if is_deleted => Verdict::Deleted,
            (true, true) if is_here => Verdict::Leave { kept: false },
            (true, true) => Verdict::Take { existed: exists },
            (true, false) => Verdict::Leave { kept: false },
        }
    }

    async fn carry_out(
        &mut self,
        (states, verdicts, forms): (&[State], &[Verdict], &[Form]),
        rules: Rules<'_>,
        mark: &Mark,
        stop: &CancellationToken,
    ) -> Result<Executed, Error> {
        let key = crate::model::mark_key(&self.config.peer);
        let (text, set) = (mark.to_string(), owed_key(&self.config.peer));
        let part = part_key(&self.config.peer);
        let now = self.writing.as_ref().map_or(0, Writing::now_ms);
        let debts = self.debts.clone();
        let seal = |db: u32| {
            let mut sealed = Sealed::begin(db, &key, &text);
            let (mut paid, mut owed) = (Vec::new(), Vec::new());
            for ((state, verdict), form) in states.iter().zip(verdicts).zip(forms) {
                let name: Key = (state.db, state.key.clone());
                match verdict {
                    // Of a copy, what is refused may be in no journal; what is only wrong is in ours.
                    Verdict::Refuse => match debts.need(&name) {
                        _ if !rules.rebase => owed.push(member(&name, Need::Lacks)),
                        Some(Need::Wrong | Need::Doubts) => {}
                        known => owed.push(member(&name, known.unwrap_or(Need::Lacks))),
                    },
                    // What is here stays, and nothing is written on top of it.
                    Verdict::Take { .. } | Verdict::Rebase(_) if form.is_unheld() => {}
                    Verdict::Take { .. } => form.put(&mut sealed, state, &part, now),
                    Verdict::Rebase(replay) => {
                        form.put(&mut sealed, state, &part, now);
                        sealed.raw(&replay.bytes, replay.count);
                    }
                    Verdict::Leave { .. } | Verdict::Asked | Verdict::Deleted => {}
                }
                if matches!(state.value, Value::Part(..)) {
                    put_removal(&mut sealed, state.db, &part);
                }
                if verdict.pays() && debts.is_paid(&name, is_said(state)) {
                    paid.extend([Need::Lacks, Need::Unsure].map(|need| member(&name, need)));
                }
            }
            let is_deleted = |(_, verdict): &(_, &Verdict)| **verdict == Verdict::Deleted;
            let deleted = states.iter().zip(verdicts).filter(is_deleted);
            put_deleted(&mut sealed, deleted.map(|(state, _)| state));
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
        self.execute_once(stop, seal).await
    }

    /// In which form each of the states that are taken is written; what the server cannot hold is
    /// told.
    fn forms(&self, states: &[State], verdicts: &[Verdict]) -> Result<Vec<Form>, Error> {
        let writing = self.writing.as_ref().ok_or(Error::NoStream)?;
        let form = |(state, verdict): (&State, &Verdict)| {
            if verdict.is_final() {
                return Form::Delete;
            }
            let form = match (&state.value, &self.parts) {
                (Value::Part(..), Some(parts)) => parts.form(),
                _ => Form::of(state, writing, self.disputes),
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

    /// The counts and the debts after states were taken or refused, of which our own history was known
    /// up to `upto`.
    fn settle(
        &self,
        states: &[State],
        verdicts: &[Verdict],
        rules: Rules<'_>,
        upto: Option<Cursor>,
    ) {
        let is_copy = !rules.rebase;
        let read = self.progress.borrow().read;
        let (mut paid, seen) = (Vec::new(), Arc::new(rules.seen.clone()));
        // Of what is refused of a copy, something may be in no journal: what is made of it here is wrong.
        let refused = states.iter().zip(verdicts);
        let refused = refused.filter(|(_, verdict)| is_copy && **verdict == Verdict::Refuse);
        self.docket
            .owed(refused.map(|(state, _)| (state.db, state.key.clone())));
        for (state, verdict) in states.iter().zip(verdicts) {
            let name: Key = (state.db, state.key.clone());
            debug!(peer = %self.config.peer, db = state.db, key = %state.key.escape_ascii(), %verdict, "a state");
            if is_copy {
                count_copied(verdict, rules.lacking, &mut self.board.lock().copied);
            } else {
                count_repair(verdict, &mut self.board.lock().conflicts);
            }
            if *verdict == Verdict::Refuse {
                match is_copy {
                    true if self.owes_back => {
                        self.tell_of_own(&name, true);
                        self.debts.add_copied(name, read);
                    }
                    true => self.debts.add_answered(name, read),
                    false => self.debts.add_again(name, read),
                }
                continue;
            }
            let is_paid = verdict.pays() && self.debts.is_paid(&name, is_said(state));
            let stale = is_paid.then(|| self.debts.remove(&name)).flatten();
            if is_copy && self.owes_back && verdict.pays() {
                self.tell_of_own(&name, false);
            }
            let givers = self.claims.take_givers(&name, &self.config.peer);
            if matches!(verdict, Verdict::Take { .. } | Verdict::Rebase(_)) {
                self.docket
                    .outdated(givers.into_iter().map(|site| (site, name.clone())));
            }
            let upto = upto.filter(|_| !verdict.is_final());
            let why = match stale {
                Some(stale) => Why::Asked(stale),
                // What replaces nothing, nobody need look at again.
                None if upto.is_none() => continue,
                None if self.joins => Why::Joined,
                None if self.owes_back => Why::Copied,
                None => Why::Answered,
            };
            paid.push(Settled {
                key: name,
                seen: Arc::clone(&seen),
                upto,
                why,
            });
        }
        if let Some(mark) = &self.mark {
            self.docket.paid(mark.instance, mark.batch, paid);
        }
    }
}

impl Applier {
    /// The arbiter's value takes the place of one that was written here, or is asked for: third sites may have
    /// that write, and the arbiter never gets it where the journal has dropped it. They must hear so, now or when
    /// the value `comes`.
    fn tell_of_own(&self, key: &Key, comes: bool) {
        let peer = &self.config.peer;
        let is_own = self.table.remembers(key_hash(key.0, &key.1));
        if !is_own || self.claims.arbiter() != Some(peer) {
            return;
        }
        if comes {
            return self.claims.tell_when_paid(peer, key);
        }
        let third = self.third.iter().map(|site| (site.clone(), key.clone()));
        self.docket.outdated(third);
    }
}

fn count_copied(verdict: &Verdict, lacking: Lacking, counts: &mut CopyCounts) {
    match verdict {
        Verdict::Refuse => counts.refused += 1,
        Verdict::Take { existed: true } | Verdict::Rebase(_) => counts.overwritten += 1,
        Verdict::Take { existed: false } => {
            counts.created += 1;
            counts.returned += u64::from(lacking != Lacking::New);
        }
        Verdict::Deleted => counts.deleted += 1,
        Verdict::Leave { kept: true } => counts.kept += 1,
        Verdict::Leave { kept: false } | Verdict::Asked => {}
    }
}

const fn count_repair(verdict: &Verdict, counts: &mut Conflicts) {
    match verdict {
        Verdict::Refuse => counts.refused += 1,
        Verdict::Take { .. } | Verdict::Rebase(_) => counts.taken += 1,
        Verdict::Leave { .. } | Verdict::Asked | Verdict::Deleted => counts.equal += 1,
    }
}

/// Says in our own history that these keys were deleted here: a DEL of a missing key would not enter it.
fn put_deleted<'a>(sealed: &mut Sealed, states: impl Iterator<Item = &'a State>) {
    let mut names: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for state in states {
        put_bytes(names.entry(state.db).or_default(), &state.key);
    }
    for (db, names) in names {
        sealed.select(db);
        sealed.command(&[b"SET", GONE_KEY.as_bytes(), &names]);
        sealed.command(&[b"DEL", GONE_KEY.as_bytes()]);
    }
}

const fn is_said(state: &State) -> bool {
    !matches!(state.value, Value::Unsaid)
}

fn is_absent(state: &State) -> bool {
    matches!(state.value, Value::Absent)
}

//! Taking states: only one that has seen everything that is here, or else what it has not seen is written
//! again on top of it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use tandem::command::{Touched, for_each_in, key_hash, moment};
use tandem::converge::{Filed, Settled, Why};
use tandem::link::Standing;
use tandem::model::{Cursor, Key, Lacking, Mark, Need, Seen};

use crate::copied::on_its_way;
use crate::link::{OwedStates, State};
use crate::redis::{Entry, Event, put_delete, shown};
use crate::site::{Site, place};

/// How often a transaction is tried whose keys keep changing.
const ATTEMPTS: u32 = 8;

/// How long before its moment a state counts as expired, when commands are to be written on top of it.
const SOON: i64 = 10;

/// Whether a state has expired at a moment.
fn is_over(said: Option<&Entry>, now: i64) -> bool {
    said.is_some_and(|said| said.expires.is_some_and(|at| at <= now))
}

/// Whether what is to be written again gives its key a moment that has passed.
fn is_late(raw: &Bytes, now: i64) -> bool {
    let mut is_late = false;
    for_each_in(raw, 0, |command, _| {
        is_late |= moment(command).is_some_and(|at| at <= now.unsigned_abs());
    })
    .unwrap();
    is_late
}

/// States that are being taken.
#[derive(Debug)]
pub(crate) struct Guard {
    states: Vec<State>,
    /// What they had seen.
    seen: Seen,
    rules: Rules,
    /// Committed with them.
    mark: Mark,
    verdicts: Vec<Option<Verdict>>,
    attempt: u32,
    stage: Stage,
}

/// How states are to be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Whether keys that are here stay.
    pub keep: bool,
    /// Whether what the states have not seen is written again on top of them.
    pub rebase: bool,
    /// What is known of keys that are not here.
    pub lacking: Lacking,
}

#[derive(Debug)]
enum Stage {
    /// Keys are to be watched.
    Begin,
    /// They are, as they are here; the fence of this number has not come back.
    Watching(Watch, u64),
    /// It is decided; EXEC follows.
    Decided(Watch),
    /// It is done, and the answer is on its way.
    Taken(Watch),
}

/// What is watched. While it lives nobody begins to read states.
#[derive(Debug)]
struct Watch {
    _taking: OwnedSemaphorePermit,
    /// Up to where our own history is known.
    upto: Option<Cursor>,
    /// By the number of the state: the version of the key, and what is there.
    keys: Vec<(usize, u64, Option<Entry>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Take,
    Rebase(Vec<Bytes>),
    /// What is here stays; by configuration, or because the state says the same.
    Leave {
        kept: bool,
    },
    /// What is here stays: the peer has asked for it.
    Asked,
    /// It was deleted here while nobody read.
    Deleted,
    Refuse,
}

impl Verdict {
    const fn pays(&self) -> bool {
        !matches!(
            self,
            Self::Refuse | Self::Asked | Self::Leave { kept: true }
        )
    }

    const fn is_final(&self) -> bool {
        matches!(self, Self::Leave { .. } | Self::Asked | Self::Refuse)
    }
}

/// Whether a command changes a time to live.
fn renews(raw: &Bytes) -> bool {
    ["PEXPIREAT", "PERSIST"]
        .iter()
        .any(|name| shown(raw).starts_with(name))
}

impl Guard {
    /// Whether keys are watched.
    pub(crate) const fn takes(&self) -> bool {
        !matches!(self.stage, Stage::Begin)
    }
}

impl Site {
    /// Begins to take states that were asked for.
    pub(crate) fn begin_guard_of_owed(&mut self, number: usize, owed: OwedStates) {
        let peer = self.peer(number);
        let mark = peer.applying.mark();
        assert!(owed.at >= mark.at, "states out of place");
        let mark = Mark {
            at: owed.at,
            ..mark
        };
        crate::now(peer.docket.file(Filed::Nothing(owed.at)));
        let rules = Rules {
            keep: false,
            rebase: true,
            lacking: Lacking::New,
        };
        self.begin_guard(number, (owed.states, owed.seen), rules, mark);
    }

    /// Begins to take states; the mark is committed with them.
    pub(crate) fn begin_guard(
        &mut self,
        number: usize,
        (states, seen): (Vec<State>, Seen),
        rules: Rules,
        mark: Mark,
    ) {
        self.peer(number).applying.guard = Some(Guard {
            verdicts: vec![None; states.len()],
            states,
            seen,
            rules,
            mark,
            attempt: 1,
            stage: Stage::Begin,
        });
    }

    /// A step; whether anything was done.
    pub(crate) fn guard(&mut self, number: usize, mut guard: Guard) -> bool {
        let stage = std::mem::replace(&mut guard.stage, Stage::Begin);
        guard.stage = match stage {
            Stage::Begin => match self.watch(number, &mut guard) {
                Some(stage) => stage,
                None => {
                    self.peer(number).applying.guard = Some(guard);
                    return false;
                }
            },
            Stage::Watching(mut watch, fence) => {
                let name = format!("apply:{}", self.peer(number).name);
                let found = self.sidecar.progress.fences.get(&name);
                let Some(at) = found.filter(|f| f.number == fence).map(|f| f.at) else {
                    guard.stage = Stage::Watching(watch, fence);
                    self.peer(number).applying.guard = Some(guard);
                    return false;
                };
                for (i, _, here) in &watch.keys {
                    let state = &guard.states[*i];
                    let verdict = self.verdict(number, (&guard, state), here.as_ref(), at);
                    guard.verdicts[*i] = Some(verdict);
                }
                watch.upto = Some(at);
                Stage::Decided(watch)
            }
            Stage::Decided(watch) => {
                let states = &guard.states;
                let is_changed = |(i, version, _): &(usize, u64, _)| {
                    let State { key, said, .. } = &states[*i];
                    // What would expire before it is written on top of is decided about once more: that it
                    // takes no longer the program takes for granted.
                    let now = self.redis.now;
                    let is_late = match &guard.verdicts[*i] {
                        Some(Verdict::Rebase(replay)) => {
                            is_over(said.as_ref().and_then(Option::as_ref), now)
                                || replay.iter().any(|raw| is_late(raw, now))
                        }
                        _ => false,
                    };
                    self.redis.version(key) != *version || self.redis.is_expired(key) || is_late
                };
                if watch.keys.iter().any(is_changed) {
                    for verdict in &mut guard.verdicts {
                        *verdict = verdict.take().filter(Verdict::is_final);
                    }
                    guard.attempt += 1;
                    Stage::Begin
                } else {
                    self.take(number, &guard);
                    Stage::Taken(watch)
                }
            }
            Stage::Taken(watch) => {
                self.settle_states(number, guard, watch.upto);
                return true;
            }
        };
        self.peer(number).applying.guard = Some(guard);
        true
    }

    /// WATCH, look, and set a fence. None when somebody is about to read states.
    fn watch(&mut self, number: usize, guard: &mut Guard) -> Option<Stage> {
        let taking = self.sidecar.table.try_taking()?;
        if guard.attempt > ATTEMPTS {
            let open = guard.verdicts.iter_mut().filter(|v| v.is_none());
            open.for_each(|verdict| *verdict = Some(Verdict::Refuse));
        }
        let verdicts = guard.verdicts.iter().enumerate();
        let open = verdicts.filter(|(_, verdict)| verdict.is_none());
        let keys = open.map(|(i, _)| {
            let key = &guard.states[i].key;
            self.redis.expire(key);
            let here = self.redis.data.get(key).cloned();
            (i, self.redis.version(key), here)
        });
        let keys: Vec<_> = keys.collect();
        let watch = Watch {
            _taking: taking,
            upto: None,
            keys,
        };
        if watch.keys.is_empty() {
            return Some(Stage::Decided(watch));
        }
        let life = self.sidecar.life;
        let peer = self.peer(number);
        peer.applying.fence += 1;
        let (name, fence) = (format!("apply:{}", peer.name), peer.applying.fence);
        self.redis.stream.push(Event::Fence(name, life, fence));
        Some(Stage::Watching(watch, fence))
    }

    fn verdict(
        &self,
        number: usize,
        (guard, state): (&Guard, &State),
        here: Option<&Entry>,
        upto: Cursor,
    ) -> Verdict {
        let Some(said) = &state.said else {
            return Verdict::Leave { kept: false };
        };
        let (sidecar, key, rules) = (&self.sidecar, &state.key, guard.rules);
        let peer = &sidecar.peers[&number];
        let is_same = said.is_some() && here == said.as_ref();
        let (hash, seen) = (key_hash(key.0, &key.1), &guard.seen);
        let of_us = seen.of(&self.name);
        let is_foreign = sidecar.foreign.is_unseen(hash, &peer.name, seen);
        let has_seen_writes = sidecar.table.unseen(hash, of_us).is_none() && !is_foreign;
        let is_asked = state.standing == Standing::Asked;
        let is_known = match sidecar.foreign.is_empty() {
            true => has_seen_writes,
            false => !sidecar.table.is_written(hash, of_us),
        };
        if rules.keep && here.is_some() && !is_asked && !peer.applying.keeps_own && !is_known {
            return Verdict::Refuse;
        }
        let has_seen_all = has_seen_writes && (!peer.applying.gap || here.is_none());
        let has_more = has_seen_all && !peer.applying.owes_back && !sidecar.foreign.is_empty();
        if here.is_some() && (rules.keep && !has_more || is_asked) {
            return match is_asked {
                _ if has_seen_all && is_same => Verdict::Leave { kept: false },
                true => Verdict::Asked,
                false => Verdict::Leave { kept: true },
            };
        }
        let is_deleted = rules.lacking == Lacking::Deleted
            && state.standing == Standing::Old
            && here.is_none()
            && !peer.debts.wants(key.0, &key.1);
        match (has_seen_all, here.is_some() || said.is_some()) {
            (false, _) => {}
            (true, _) if is_deleted => return Verdict::Deleted,
            (true, true) if !is_same => return Verdict::Take,
            (true, _) => return Verdict::Leave { kept: false },
        }
        let may_rebase = rules.rebase
            && !is_over(said.as_ref(), self.redis.now + SOON)
            && !is_foreign
            && !peer.applying.gap
            && !sidecar.table.sent_unseen(hash, of_us)
            && of_us >= self.journal.first();
        match may_rebase {
            false => Verdict::Refuse,
            true => match self.replay(key, of_us, upto) {
                Verdict::Rebase(replay)
                    if said.is_none() && replay.iter().any(renews)
                        || replay.iter().any(|raw| is_late(raw, self.redis.now + SOON)) =>
                {
                    Verdict::Refuse
                }
                verdict => verdict,
            },
        }
    }

    /// What was written of a key after `since`: to be written again, if that can be.
    fn replay(&self, key: &Key, since: Cursor, upto: Cursor) -> Verdict {
        let (mut replay, mut may) = (Vec::new(), true);
        for record in &self.journal.records {
            let at = place(record.offset);
            if at <= since || at > upto {
                continue;
            }
            for_each_in(&record.commands, record.db, |command, db| {
                match self.catalog.touched(command, db) {
                    Touched::Keys(keys) => {
                        let is_meant = |k: &tandem::command::Key| k.db == key.0 && k.name == key.1;
                        if keys.iter().any(is_meant) {
                            may &= keys.len() == 1 && !command.is(b"DEL");
                            replay.push(Bytes::copy_from_slice(command.raw()));
                        }
                    }
                    Touched::Database(which) => may &= which != key.0,
                    Touched::Everything => may = false,
                }
            })
            .unwrap();
        }
        match may {
            true => Verdict::Rebase(replay),
            false => Verdict::Refuse,
        }
    }

    /// EXEC: what was decided is done, and the mark says so.
    fn take(&mut self, number: usize, guard: &Guard) {
        let (rules, verdicts) = (guard.rules, &guard.verdicts);
        let verdicts: Vec<&Verdict> = verdicts.iter().flatten().collect();
        let (debts, name) = {
            let peer = self.peer(number);
            (peer.debts.clone(), peer.name.clone())
        };
        let (mut deleted, mut kept) = (Vec::new(), Vec::new());
        for (state, verdict) in guard.states.iter().zip(&verdicts) {
            let key = &state.key;
            if let (Some(said), Verdict::Take | Verdict::Rebase(_)) = (&state.said, verdict) {
                // What has expired on its way expires here.
                let said = said.clone().map(|said| on_its_way(said, self.redis.now));
                if said.is_none() && self.redis.data.contains_key(key) {
                    deleted.push(key.clone());
                }
                self.redis.put(key, said);
            }
            if let Verdict::Rebase(replay) = verdict {
                for raw in replay {
                    for_each_in(raw, key.0, |command, db| {
                        self.redis.execute_applied(command, db, &mut deleted);
                    })
                    .unwrap();
                }
            }
            match verdict {
                Verdict::Refuse => match debts.need(key) {
                    _ if !rules.rebase => kept.push((key.clone(), Need::Lacks)),
                    Some(Need::Wrong | Need::Doubts) => {}
                    known => kept.push((key.clone(), known.unwrap_or(Need::Lacks))),
                },
                _ if verdict.pays() && debts.is_paid(key, state.said.is_some()) => {
                    let owed = self.redis.owed.entry(name.clone()).or_default();
                    owed.remove(key);
                }
                _ => {}
            }
            self.say(|| {
                let (key, here) = (key.1.escape_ascii(), self.redis.data.get(key));
                let top: Vec<String> = match verdict {
                    Verdict::Rebase(replay) => replay.iter().map(|raw| shown(raw)).collect(),
                    _ => Vec::new(),
                };
                let (said, seen) = (&state.said, &guard.seen);
                format!(
                    "a state of {name}: {key} {said:?} seen {seen}: {verdict:?} {top:?} = {here:?}"
                )
            });
        }
        for (key, need) in kept {
            self.keep_owed(number, &[key], need);
        }
        self.push_gone(guard);
        let marked = Mark {
            instance: self.sidecar.life,
            batch: guard.mark.batch + 1,
            ..guard.mark.clone()
        };
        self.redis.mark(&name, &marked, deleted);
        self.peer(number).applying.set_mark(marked);
        self.note_part(number);
    }

    /// Keys that were deleted here while nobody read: that is a write of this site.
    fn push_gone(&mut self, guard: &Guard) {
        let states = guard.states.iter().zip(&guard.verdicts);
        for (state, _) in states.filter(|(_, verdict)| **verdict == Some(Verdict::Deleted)) {
            let ((db, name), mut commands) = (&state.key, Vec::new());
            put_delete(name, &mut commands);
            self.redis.stream.push(Event::Write {
                db: *db,
                commands: commands.into(),
                count: 1,
            });
        }
    }

    /// Third sites may have a write of this site in whose place the arbiter's value comes.
    fn tell_of_own(&self, number: usize, key: &Key, comes: bool) {
        let (sidecar, peer) = (&self.sidecar, &self.sidecar.peers[&number]);
        let is_own = sidecar.table.remembers(key_hash(key.0, &key.1));
        if !is_own || sidecar.claims.arbiter() != Some(&peer.name) {
            return;
        }
        if comes {
            return sidecar.claims.tell_when_paid(&peer.name, key);
        }
        let third = sidecar.foreign.third(&peer.name);
        let outdated = third.iter().map(|site| (site.clone(), key.clone()));
        peer.docket.outdated(outdated);
    }

    /// The debts after states were taken or refused: when the answer comes, and the echo perhaps has come.
    fn settle_states(&mut self, number: usize, guard: Guard, upto: Option<Cursor>) {
        let (rules, verdicts) = (guard.rules, guard.verdicts);
        let applying = &self.peer(number).applying;
        let (joins, owes_back) = (applying.joins, applying.owes_back);
        let debts = self.peer(number).debts.clone();
        let read = self.sidecar.progress.read;
        let (mut paid, seen) = (Vec::new(), Arc::new(guard.seen));
        let verdicts = verdicts.into_iter().flatten();
        for (state, verdict) in guard.states.into_iter().zip(verdicts) {
            let key = state.key;
            if verdict == Verdict::Refuse {
                match rules.rebase {
                    false => {
                        self.peer(number).docket.owed([key.clone()]);
                        match owes_back {
                            true => {
                                self.tell_of_own(number, &key, true);
                                debts.add_copied(key, read);
                            }
                            false => debts.add_answered(key, read),
                        }
                    }
                    true => debts.add_again(key, read),
                }
                continue;
            }
            let is_paid = verdict.pays() && debts.is_paid(&key, state.said.is_some());
            let stale = is_paid.then(|| debts.remove(&key)).flatten();
            let name = self.peer(number).name.clone();
            if !rules.rebase && owes_back && verdict.pays() {
                self.tell_of_own(number, &key, false);
            }
            let givers = self.sidecar.claims.take_givers(&key, &name);
            if matches!(verdict, Verdict::Take | Verdict::Rebase(_)) {
                let outdated = givers.into_iter().map(|site| (site, key.clone()));
                self.peer(number).docket.outdated(outdated);
            }
            let upto = upto.filter(|_| !verdict.is_final());
            let why = match stale {
                Some(stale) => Why::Asked(stale),
                None if upto.is_none() => continue,
                None if joins => Why::Joined,
                None if owes_back => Why::Copied,
                None => Why::Answered,
            };
            paid.push(Settled {
                key,
                seen: Arc::clone(&seen),
                upto,
                why,
            });
        }
        let peer = self.peer(number);
        let mark = peer.applying.mark();
        peer.docket.paid(mark.instance, mark.batch, paid);
    }
}

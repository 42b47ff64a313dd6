//! Making copies for a peer: a snapshot, and what is said of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use bytes::Bytes;
use tandem::apply::Debts;
use tandem::command::key_hash;
use tandem::converge::{Reading, Table};
use tandem::fullsync::Hold;
use tandem::link::{Copy, CopyBegin, Standing};
use tandem::model::{Cursor, Epoch, Key, Mark, Owes, Seen, SiteId};

use crate::link::{CopyPart, Insert, Message, State};
use crate::redis::Entry;
use crate::site::{Site, place};

/// How often a copy that is owed is put off while conflicts are to be mended.
const LATE: usize = 40;
/// A message has one, two or three entries.
const ENTRIES: u64 = 3;

/// A snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    at: Cursor,
    entries: Arc<Vec<(Key, Entry)>>,
    /// What of others it holds, at least.
    seen: Seen,
    /// Nobody has begun to copy it.
    is_free: bool,
}

/// Snapshots on the disk.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Vec<Snapshot>);

impl Shelf {
    /// The sidecar has died: what was kept for a first copy nobody takes any more.
    pub(crate) fn forget(&mut self) {
        self.0.iter_mut().for_each(|kept| kept.is_free = false);
    }

    /// Keeps a snapshot that an epoch begins with.
    pub(crate) fn keep(&mut self, at: Cursor, data: &BTreeMap<Key, Entry>, seen: Seen) {
        self.0.retain(|kept| !kept.is_free);
        self.put(at, data, seen, true);
    }

    fn put(&mut self, at: Cursor, data: &BTreeMap<Key, Entry>, seen: Seen, is_free: bool) {
        let entries = data.iter().map(|(key, entry)| (key.clone(), entry.clone()));
        self.0.push(Snapshot {
            at,
            entries: Arc::new(entries.collect()),
            seen,
            is_free,
        });
    }

    fn serving(&self, (peer, seen): (&SiteId, Cursor), since: Cursor) -> Option<usize> {
        let serves = |kept: &Snapshot| {
            let is_here = kept.at.epoch == since.epoch && kept.at >= since;
            kept.is_free && is_here && kept.seen.of(peer) == seen
        };
        self.0.iter().position(serves)
    }

    /// The place of a snapshot from which a first copy could be made.
    pub(crate) fn offer(&self, need: (&SiteId, Cursor), since: Cursor) -> Option<Cursor> {
        self.serving(need, since).map(|kept| self.0[kept].at)
    }

    /// That snapshot; nobody else gets it.
    fn take(&mut self, need: (&SiteId, Cursor), from: Cursor, since: Cursor) -> Option<Snapshot> {
        let kept = self.serving(need, since)?;
        let kept = &mut self.0[kept];
        kept.is_free = false;
        kept.seen.advance(need.0, from);
        Some(kept.clone())
    }

    fn find(&self, at: Cursor) -> Option<Snapshot> {
        self.0.iter().find(|kept| kept.at == at).cloned()
    }

    fn remove(&mut self, at: Cursor) {
        self.0.retain(|kept| kept.at != at);
    }
}

/// Who makes copies, in one session.
#[derive(Debug, Default)]
pub(crate) struct Copier {
    pub owes: Owes,
    pub sends_from: Cursor,
    pub had_all: bool,
    pub receives_from: Cursor,
    pub back_keeps: bool,
    /// Whether the peer has nothing yet.
    pub joined: bool,
    /// Up to where the peer's history must be in a snapshot.
    pub lost: Cursor,
    /// How many copies the peer has got.
    pub copied: u64,
    /// What of our history the peer had seen when it made the copy that is to be answered.
    pub known: Cursor,
    pub stage: Stage,
}

#[derive(Debug)]
pub(crate) enum Stage {
    Prepared(Prepared),
    /// What has been lost is to come first.
    Lost {
        copy: Copy,
        _hold: Option<Hold>,
    },
    /// The stream is to be read up to the snapshot.
    Taken {
        _turn: Option<OwnedSemaphorePermit>,
        reading: Reading,
        prepared: Prepared,
        snapshot: Snapshot,
        first: u64,
    },
    /// The peer has so many copies, and is to get another one.
    Sent(u64, Cursor),
    /// It is to be noted that nothing is owed.
    Received,
    /// Until a copy is owed and can be made; since how many turns it is.
    Waits(usize),
}

impl Default for Stage {
    fn default() -> Self {
        Self::Waits(0)
    }
}

#[derive(Debug)]
pub(crate) struct Prepared {
    copy: Copy,
    hold: Hold,
    seen: Seen,
    found: Option<(Snapshot, u64)>,
}

/// A copy that is being sent.
#[derive(Debug)]
pub(crate) struct Sending {
    entries: Arc<Vec<(Key, Entry)>>,
    /// The number of the entry that is sent next.
    next: u64,
    answer: Option<Answer>,
    debts: Debts,
    _hold: Hold,
}

/// What is known of the keys of a site that has sent a copy.
#[derive(Debug)]
struct Answer {
    table: Arc<Table>,
    sends_from: Cursor,
    had_all: bool,
    spares_asked: bool,
}

impl Answer {
    fn standing(&self, debts: &Debts, key: &Key) -> Standing {
        let hash = key_hash(key.0, &key.1);
        if self.spares_asked && debts.was_copied(key) {
            Standing::Asked
        } else if self.had_all && !self.table.is_written(hash, self.sends_from) {
            Standing::Old
        } else {
            Standing::Unknown
        }
    }
}

impl Sending {
    /// The next message, and whether it is the last.
    pub(crate) fn next(&mut self) -> (Message, bool) {
        let count = self.entries.len() as u64;
        if self.next >= count {
            return (Message::CopyEnd(count.max(self.next)), true);
        }
        let first = self.next;
        self.next = count.min(first + 1 + first % ENTRIES);
        let entries = &self.entries[usize::try_from(first).unwrap()..];
        let states = entries
            .iter()
            .take(usize::try_from(self.next - first).unwrap());
        let states = states.map(|(key, entry)| State {
            key: key.clone(),
            said: (!self.debts.lacks(key.0, &key.1)).then(|| Some(entry.clone())),
            standing: match &self.answer {
                Some(answer) => answer.standing(&self.debts, key),
                None => Standing::Unknown,
            },
        });
        let states = states.collect();
        (Message::CopyStates(CopyPart { first, states }), false)
    }
}

const fn keeps_others(copy: Copy) -> bool {
    copy.keep && copy.back
}

fn cannot_begin_again(copy: Copy) -> bool {
    keeps_others(copy)
        && copy
            .resume
            .is_some_and(|begun| begun.keep && begun.next > 0)
}

impl Copier {
    /// Closes the gate for a copy.
    pub(crate) fn prepare(
        &mut self,
        site: &mut Site,
        with: usize,
        (copy, start): (Copy, Option<Cursor>),
    ) {
        let sidecar = &site.sidecar;
        let peer = &sidecar.peers[&with];
        sidecar.claims.begin_copy(&peer.name);
        let found = start.and_then(|start| self.find(site, with, copy, start));
        let sidecar = &site.sidecar;
        let peer = &sidecar.peers[&with];
        let progress_seen = Seen::clone(&sidecar.progress.seen);
        let (found, seen) = match found {
            Some((snapshot, next)) => {
                let seen = snapshot.seen.clone();
                (Some((snapshot, next)), seen)
            }
            None => {
                let mut seen = progress_seen.clone();
                seen.advance(&peer.name, self.receives_from);
                (None, site.settled(with, &seen))
            }
        };
        let hold = peer.answering.gate.close(seen.common(&progress_seen));
        self.stage = Stage::Prepared(Prepared {
            copy,
            hold,
            seen,
            found,
        });
    }

    fn find(
        &self,
        site: &mut Site,
        with: usize,
        copy: Copy,
        start: Cursor,
    ) -> Option<(Snapshot, u64)> {
        let sidecar = &site.sidecar;
        let name = &sidecar.peers[&with].name;
        let (state, first) = (&sidecar.state, site.journal.first());
        let usable = |at: Cursor| at >= start && at >= first && at.epoch == state.epoch;
        let begun = copy
            .resume
            .filter(|c| c.keep == copy.keep && usable(c.snapshot));
        if let Some(begun) = begun
            && let Some(snapshot) = site.shelf.find(begun.snapshot)
        {
            return Some((snapshot, begun.next));
        }
        if cannot_begin_again(copy) || self.lacks(site, with) {
            return None;
        }
        let since = start.max(first).max(place(state.began));
        let need = (name, sidecar.progress.seen.of(name));
        let kept = site.shelf.take(need, self.receives_from, since);
        kept.map(|snapshot| (snapshot, 0))
    }

    /// Whether a copy that is made now would lack what the peer has lost, or what has been lost here.
    fn lacks(&self, site: &Site, with: usize) -> bool {
        let sidecar = &site.sidecar;
        let (progress, peer) = (&sidecar.progress, &sidecar.peers[&with].name);
        let holds = progress.seen.of(peer).max(self.receives_from);
        holds < self.lost || !progress.restorers(&sidecar.sources, peer).is_empty()
    }
}

impl Site {
    /// Of what was seen, that of which it is known how it went.
    fn settled(&self, with: usize, seen: &Seen) -> Seen {
        let sidecar = &self.sidecar;
        let from = &sidecar.peers[&with].name;
        let (mut settled, reached) = (Seen::default(), sidecar.reached.now());
        for (site, at) in seen.iter() {
            let at = match site == from {
                true => *at,
                false => reached.held(site, *at),
            };
            let docket = sidecar.peers.values().find(|peer| peer.name == *site);
            settled.advance(site, docket.map_or(at, |peer| peer.docket.settled(at)));
        }
        settled
    }

    /// A step of who makes copies for a peer; whether anything was done.
    pub(crate) fn copy(&mut self, number: usize) -> bool {
        let Some(mut copier) = self.peer(number).copier.take() else {
            return false;
        };
        let stage = std::mem::take(&mut copier.stage);
        let (stage, is_busy) = match stage {
            Stage::Prepared(prepared) => match self.await_lost(number, &copier, prepared) {
                Ok(prepared) => self.begin_copy(number, prepared),
                Err(prepared) => {
                    let Prepared { copy, hold, .. } = *prepared;
                    let _hold = copier.joined.then_some(hold);
                    (Stage::Lost { copy, _hold }, true)
                }
            },
            Stage::Lost { copy, .. } => match copier.lacks(self, number) {
                true => (stage, false),
                false => {
                    copier.prepare(self, number, (copy, None));
                    (Stage::default(), true)
                }
            },
            Stage::Taken { ref snapshot, .. } if self.sidecar.progress.read < snapshot.at => {
                (stage, false)
            }
            Stage::Taken {
                reading,
                prepared,
                snapshot,
                first,
                ..
            } => {
                reading.finish(snapshot.at);
                let before = copier.copied;
                let at = snapshot.at;
                self.send_copy(number, &copier, (prepared, snapshot, first));
                (Stage::Sent(before, at), true)
            }
            Stage::Sent(before, at) if copier.copied > before => {
                self.shelf.remove(at);
                (Stage::Received, true)
            }
            Stage::Received if !self.owes(number).any() => (Stage::Waits(0), true),
            Stage::Waits(turns) => self.wait_for_owed(number, &mut copier, turns),
            waits => (waits, false),
        };
        if !matches!(copier.stage, Stage::Prepared(_)) {
            copier.stage = stage;
        }
        self.peer(number).copier = Some(copier);
        is_busy
    }

    /// What has been lost must be here; none when a copy waits for that.
    fn await_lost(
        &self,
        number: usize,
        copier: &Copier,
        prepared: Prepared,
    ) -> Result<Prepared, Box<Prepared>> {
        match prepared.found.is_none() && copier.lacks(self, number) {
            true => Err(Box::new(prepared)),
            false => Ok(prepared),
        }
    }

    fn owes(&self, number: usize) -> Owes {
        let mark = self.sidecar.peers[&number].applying.known_mark();
        mark.map_or(Owes::Nothing, |mark| mark.owes)
    }

    fn wait_for_owed(&mut self, number: usize, copier: &mut Copier, turns: usize) -> (Stage, bool) {
        let peer = &self.sidecar.peers[&number];
        let mark = peer.applying.known_mark();
        let is_begun = mark.is_some_and(|mark| mark.copy.is_some());
        let is_copying = is_begun || peer.applying.owes_back;
        let owes = self.owes(number);
        if !owes.any() || is_copying {
            // The time since it was owed first goes on.
            return (Stage::Waits(turns), false);
        }
        let may_lack = !self.sidecar.foreign.is_empty();
        let is_late = turns > LATE && (may_lack || !peer.debts.lack_any());
        if !peer.debts.is_empty() && !is_late {
            return (Stage::Waits(turns + 1), turns <= LATE);
        }
        let copy = Copy {
            keep: copier.back_keeps && owes == Owes::Missing,
            back: false,
            resume: None,
        };
        copier.owes = owes;
        let mark = peer.applying.mark();
        copier.known = mark.seen.of(&self.name);
        copier.prepare(self, number, (copy, None));
        (Stage::Waits(0), true)
    }

    fn begin_copy(&mut self, number: usize, prepared: Prepared) -> (Stage, bool) {
        let peer = &self.sidecar.peers[&number];
        let turn = crate::soon(peer.answering.gate.turn());
        let Some(_turn) = turn else {
            return (Stage::Prepared(prepared), false);
        };
        let Some(reading) = crate::soon(Reading::snapshot(&self.sidecar.table)) else {
            return (Stage::Prepared(prepared), false);
        };
        let (snapshot, first) = match prepared.found.clone() {
            Some(found) => found,
            None if cannot_begin_again(prepared.copy) => {
                self.say(|| "a copy with keep was interrupted and cannot go on".to_owned());
                self.sidecar.broken.insert(number);
                return (Stage::Prepared(prepared), false);
            }
            None => {
                let read = self.redis.stream.len() as u64;
                let at = Cursor {
                    offset: tandem::model::Offset(self.sidecar.state.began.0 + read),
                    ..place(self.sidecar.state.began)
                };
                self.shelf.0.clear();
                self.shelf
                    .put(at, &self.redis.data, prepared.seen.clone(), false);
                (self.shelf.find(at).unwrap(), 0)
            }
        };
        self.say(|| {
            format!(
                "makes a copy for {} at {}: {:?}",
                self.sidecar.peers[&number].name, snapshot.at, snapshot.entries
            )
        });
        let stage = Stage::Taken {
            _turn,
            reading,
            prepared,
            snapshot,
            first,
        };
        (stage, true)
    }

    /// The stream has been read up to the snapshot: the copy goes where records go.
    fn send_copy(
        &mut self,
        number: usize,
        copier: &Copier,
        (prepared, snapshot, first): (Prepared, Snapshot, u64),
    ) {
        let Prepared {
            copy,
            hold,
            seen,
            found,
        } = prepared;
        let last = self.journal.last_record();
        let may_differ = last > copier.known || copier.owes > Owes::Missing;
        let may_differ = found.is_none() && !copy.back && may_differ;
        let sidecar = &self.sidecar;
        let holds = sidecar.seen_at.find(snapshot.at);
        let holds = holds.map_or_else(|| seen.clone(), |seen| Seen::clone(&seen));
        let peer = &sidecar.peers[&number];
        let third = sidecar.foreign.third(&peer.name);
        let whole = |site: &SiteId| -> Option<(SiteId, Bytes)> {
            let mark = self.redis.marks.get(site)?;
            let is_whole = mark.base > Epoch::UNDONE && mark.copy.is_none();
            let at = holds.of(site);
            let mark = Mark { at, ..mark.clone() };
            is_whole.then(|| (site.clone(), mark.to_string().into()))
        };
        let marks = third.iter().filter_map(whole).collect();
        let begin = CopyBegin {
            at: snapshot.at,
            seen,
            marks,
            holds,
            first,
            keys: self.redis.data.len() as u64,
            keep: copy.keep && !may_differ,
        };
        let answer = Answer {
            table: Arc::clone(&sidecar.table),
            sends_from: copier.sends_from,
            had_all: copier.had_all,
            spares_asked: copier.owes == Owes::Written,
        };
        let sending = Sending {
            entries: snapshot.entries,
            next: first,
            answer: (!copy.back).then_some(answer),
            debts: peer.debts.clone(),
            _hold: hold,
        };
        let outgoing = self.peer(number).outgoing.as_mut().unwrap();
        outgoing
            .inserts
            .push_back(Insert::Copy(Box::new(begin), sending));
    }
}

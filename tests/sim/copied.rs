//! A copy that comes from a peer: what flies, and what goes to the guard.

use std::collections::VecDeque;
use std::ops::Range;

use tokio::sync::OwnedSemaphorePermit;

use tandem::command::key_hash;
use tandem::converge::Filed;
use tandem::link::CopyBegin;
use tandem::model::{CopyProgress, Cursor, Epoch, Key, Lacking, Mark, Owes, Seen, SiteId};

use crate::apply::Waiting;
use crate::guard::Rules;
use crate::link::{CopyPart, Message, State};
use crate::redis::{Entry, Event, Value};
use crate::site::Site;

/// The most messages on their way.
const MAX_FLYING: usize = 3;
/// How many messages go to the guard at once after one of which most keys were here.
const GROUNDED: u32 = 2;

/// Messages whose states have been written and not yet looked at.
#[derive(Debug, Default)]
pub(crate) struct Flying {
    flights: VecDeque<Flight>,
    /// Those that have landed, and what of them is for the guard.
    landed: VecDeque<(CopyPart, Vec<usize>)>,
    /// All are to land before the next starts.
    must_land: bool,
    grounded: u32,
}

/// One of them.
#[derive(Debug)]
struct Flight {
    part: CopyPart,
    lots: Vec<Range<usize>>,
    /// Which lots were written; none before it is executed.
    done: Option<Vec<bool>>,
    mark: Mark,
    fence: u64,
    _taking: OwnedSemaphorePermit,
}

impl Flying {
    /// Whether any is on its way.
    pub(crate) fn is_any(&self) -> bool {
        !self.flights.is_empty()
    }
}

fn is_text(state: &State) -> bool {
    let said = state.said.as_ref().and_then(Option::as_ref);
    said.is_some_and(|said| matches!(said.value, Value::Text(_)) && said.expires.is_none())
}

impl Site {
    /// What the peer has sent is out of place: the session ends.
    fn unexpected(&mut self, number: usize, what: &str) {
        self.say(|| format!("{what} out of place"));
        self.sidecar.broken.insert(number);
    }

    pub(crate) fn on_copy_begin(&mut self, number: usize, begin: Box<CopyBegin>) {
        let state = std::sync::Arc::clone(&self.sidecar.state);
        let peer = self.peer(number);
        let mut mark = peer.applying.mark();
        let snapshot = begin.at;
        let is_it = |c: &CopyProgress| c.snapshot == snapshot && c.next == begin.first;
        let known = mark.copy.filter(is_it);
        let lacking = state.lacking(&mark);
        let (copy, home) = match (known, begin.first) {
            (Some(copy), _) => (CopyProgress { lacking, ..copy }, mark.home),
            (None, 0) => {
                if mark.copy.is_some() {
                    peer.applying.owes_back = true;
                    mark.owes = mark.owes.max(Owes::Missing);
                }
                peer.debts.begin_copy();
                mark.entire = peer.applying.entire;
                let copy = CopyProgress {
                    snapshot,
                    next: 0,
                    keep: begin.keep,
                    lacking,
                };
                (copy, state.epoch)
            }
            (None, _) => return self.unexpected(number, "the middle of a copy"),
        };
        if snapshot < mark.at {
            return self.unexpected(number, "a copy");
        }
        peer.applying.copy_seen = begin.seen.clone();
        let peer = &self.sidecar.peers[&number];
        if peer.applying.owes_back {
            self.sidecar.claims.begin_copy(&peer.name);
        }
        if peer.applying.joins && !self.adopt(&begin) {
            return self.unexpected(number, "a copy that lacks what a third site has");
        }
        let copy = Some(copy);
        let mark = Mark { copy, home, ..mark };
        self.wait_for_causes(number, Waiting::Copy(begin, mark));
    }

    /// An empty site goes on with third sites where the peer stands with them. False: the peer has less of
    /// them than is here.
    fn adopt(&mut self, begin: &CopyBegin) -> bool {
        let progress = &self.sidecar.progress;
        let has_nothing_of = |site: &SiteId| {
            let mark = progress.marks.get(site);
            progress.seen.of(site) == Cursor::ZERO
                || mark.is_some_and(|mark| mark.base == Epoch::NEVER)
        };
        let lacks = |(site, at): (&SiteId, &Cursor)| {
            let is_told = begin.marks.iter().any(|(told, _)| told == site);
            let is_third = *site != self.name;
            !is_told && is_third && has_nothing_of(site) && progress.seen.of(site) < *at
        };
        if begin.holds.iter().any(lacks) {
            return false;
        }
        for (site, text) in &begin.marks {
            let sidecar = &self.sidecar;
            let (seen, known) = (sidecar.progress.seen.of(site), &sidecar.progress.marks);
            let is_begun = |mark: &Mark| mark.base == Epoch::NEVER;
            if seen != Cursor::ZERO && !known.get(site).is_some_and(is_begun) {
                continue;
            }
            let found = Mark::parse(text).unwrap();
            if seen > found.at.max(begin.seen.of(site)) {
                return false;
            }
            let mark = Mark {
                instance: sidecar.life,
                batch: 0,
                at: found.at.max(seen),
                low: Cursor::ZERO,
                home: sidecar.state.epoch,
                owes: Owes::Nothing,
                entire: false,
                part: None,
                ..found
            };
            sidecar.foreign.note_all_written(site, mark.at);
            self.redis.mark(site, &mark, Vec::new());
        }
        true
    }

    /// States of a copy.
    pub(crate) fn on_copy_states(&mut self, number: usize, part: CopyPart, splits: bool) {
        let peer = self.peer(number);
        let applying = &mut peer.applying;
        let mark = applying.mark();
        let flying = &mut applying.flying;
        let next = flying.flights.back().map(|flight| flight.part.end());
        let Some(copy) = mark.copy.filter(|c| next.unwrap_or(c.next) == part.first) else {
            return self.unexpected(number, "a part of a copy");
        };
        let (is_told, is_grounded) = (!applying.joins, flying.grounded > 0);
        let is_sure = copy.lacking == Lacking::New;
        let is_told = !self.sidecar.foreign.is_empty() && is_told;
        let may_fly = is_sure && !is_told && !is_grounded;
        let flying = &mut self.peer(number).applying.flying;
        let taking = match may_fly {
            true => self.sidecar.table.try_taking(),
            false if flying.flights.is_empty() => {
                flying.grounded = flying.grounded.saturating_sub(1);
                let next = part.end();
                return self.guard_copied(number, part.states, next);
            }
            false => None,
        };
        match taking {
            Some(taking) => self.launch(number, part, taking, splits),
            // When all that flies has landed.
            None => {
                let applying = &mut self.peer(number).applying;
                applying.flying.must_land = true;
                applying.work.push_front(Message::CopyStates(part));
            }
        }
    }

    fn launch(
        &mut self,
        number: usize,
        part: CopyPart,
        taking: OwnedSemaphorePermit,
        splits: bool,
    ) {
        let life = self.sidecar.life;
        let is_for_guard = |state: &State| {
            matches!(state.said, None | Some(None)) || self.is_unseen(number, state)
        };
        let (mut lots, mut begin) = (Vec::new(), 0);
        let states = &part.states;
        while begin < states.len() {
            let (first, begins) = (&states[begin], begin);
            begin += 1;
            if is_for_guard(first) {
                continue;
            }
            if is_text(first) {
                let more = states[begin..].iter();
                let more =
                    more.take_while(|s| s.key.0 == first.key.0 && !is_for_guard(s) && is_text(s));
                begin += more.count();
            }
            lots.push(begins..begin);
        }
        let applying = &mut self.peer(number).applying;
        applying.fence += 1;
        let (marked, fence) = (applying.mark(), applying.fence);
        let mark = Mark {
            instance: life,
            batch: marked.batch + 1 + applying.flying.flights.len() as u64,
            ..marked
        };
        applying.flying.flights.push_back(Flight {
            part,
            lots,
            done: None,
            mark,
            fence,
            _taking: taking,
        });
        if !splits {
            self.execute_flights(number);
        }
    }

    /// The server executes what was sent. Whether there was anything.
    fn execute_flights(&mut self, number: usize) -> bool {
        let life = self.sidecar.life;
        let peer = self.sidecar.peers.get_mut(&number).unwrap();
        let mut is_busy = false;
        for flight in &mut peer.applying.flying.flights {
            if flight.done.is_some() {
                continue;
            }
            is_busy = true;
            let (mut done, mut deleted): (Vec<bool>, Vec<Key>) = (Vec::new(), Vec::new());
            for lot in &flight.lots {
                let states = &flight.part.states[lot.clone()];
                for state in states {
                    if self.redis.is_expired(&state.key) {
                        self.redis.put(&state.key, None);
                        deleted.push(state.key.clone());
                    }
                }
                let is_new = states.iter().all(|s| !self.redis.data.contains_key(&s.key));
                if is_new {
                    for state in states {
                        let said = state.said.clone().flatten();
                        let said = said.map(|said| on_its_way(said, self.redis.now));
                        self.redis.put(&state.key, said);
                    }
                }
                done.push(is_new);
            }
            flight.done = Some(done);
            self.redis.mark(&peer.name, &flight.mark, deleted);
            let name = format!("apply:{}", peer.name);
            self.redis
                .stream
                .push(Event::Fence(name, life, flight.fence));
        }
        is_busy
    }

    /// Whether there is a write of a key here that its state has not seen.
    fn is_unseen(&self, number: usize, state: &State) -> bool {
        let sidecar = &self.sidecar;
        let peer = &sidecar.peers[&number];
        let seen = &peer.applying.copy_seen;
        let of_us = seen.of(&self.name);
        let may_be =
            !sidecar.table.is_all_seen(of_us) || !sidecar.foreign.is_all_seen(&peer.name, seen);
        let hash = key_hash(state.key.0, &state.key.1);
        may_be
            && (sidecar.table.unseen(hash, of_us).is_some()
                || sidecar.foreign.is_unseen(hash, &peer.name, seen))
    }

    /// A step of what flies; whether anything was done. None: nothing has to land now.
    pub(crate) fn land(&mut self, number: usize, splits: bool) -> Option<bool> {
        if !splits && self.execute_flights(number) {
            return Some(true);
        }
        let peer = &self.sidecar.peers[&number];
        let (applying, flying) = (&peer.applying, &peer.applying.flying);
        if flying.flights.is_empty() && flying.landed.is_empty() {
            self.peer(number).applying.flying.must_land = false;
            return None;
        }
        let comes = matches!(applying.work.front(), Some(Message::CopyStates(_)));
        let is_full = flying.flights.len() >= MAX_FLYING;
        if comes && !is_full && !flying.must_land && flying.landed.is_empty() {
            return None;
        }
        if flying.flights.is_empty() {
            let (part, left) = self.peer(number).applying.flying.landed.pop_front()?;
            self.settle_landed(number, part, &left);
            return Some(true);
        }
        let flight = flying.flights.front()?;
        let fence = self
            .sidecar
            .progress
            .fences
            .get(&format!("apply:{}", peer.name));
        let has_come = |flight: &Flight| fence.is_some_and(|f| f.number >= flight.fence);
        if flight.done.is_none() || !has_come(flight) {
            return Some(self.execute_flights(number));
        }
        let left = self.not_clean(number, flight);
        let flying = &mut self.peer(number).applying.flying;
        let flight = flying.flights.pop_front()?;
        let is_clean = left.is_empty() && flying.landed.is_empty();
        let batch = flight.mark.batch;
        let applying = &mut self.peer(number).applying;
        let mark = applying.mark();
        applying.set_mark(Mark { batch, ..mark });
        match is_clean {
            true => self.settle_landed(number, flight.part, &left),
            false => applying.flying.landed.push_back((flight.part, left)),
        }
        Some(true)
    }

    fn not_clean(&self, number: usize, flight: &Flight) -> Vec<usize> {
        let done = flight.done.as_deref().unwrap_or_default();
        let is_written = |i: usize| {
            let mut lots = flight.lots.iter().zip(done);
            lots.any(|(lot, done)| *done && lot.contains(&i))
        };
        let states = flight.part.states.iter().enumerate();
        let left = states.filter(|(i, state)| !is_written(*i) || self.is_unseen(number, state));
        left.map(|(i, _)| i).collect()
    }

    fn settle_landed(&mut self, number: usize, part: CopyPart, left: &[usize]) {
        let applying = &mut self.peer(number).applying;
        let next = part.end();
        if left.is_empty() {
            let mut mark = applying.mark();
            mark.copy = mark.copy.map(|copy| CopyProgress { next, ..copy });
            applying.set_mark(mark);
            return;
        }
        if left.len() * 2 > part.states.len() {
            applying.flying.grounded = GROUNDED;
        }
        let left = left.iter().map(|i| part.states[*i].clone()).collect();
        self.guard_copied(number, left, next);
    }

    /// The guard takes or refuses these; with that, the copy has come up to `next`.
    fn guard_copied(&mut self, number: usize, states: Vec<State>, next: u64) {
        let applying = &self.peer(number).applying;
        let mark = applying.mark();
        let seen: Seen = applying.copy_seen.clone();
        let Some(copy) = mark.copy else {
            return self.unexpected(number, "a part of a copy");
        };
        let rules = Rules {
            keep: copy.keep,
            rebase: false,
            lacking: copy.lacking,
        };
        let copy = Some(CopyProgress { next, ..copy });
        self.begin_guard(number, (states, seen), rules, Mark { copy, ..mark });
    }

    pub(crate) fn on_copy_end(&mut self, number: usize, entries: u64) {
        let last = self.journal.last_record();
        let (state, site) = (
            std::sync::Arc::clone(&self.sidecar.state),
            self.name.clone(),
        );
        let applying = &mut self.peer(number).applying;
        let mark = applying.mark();
        let Some(copy) = mark.copy.filter(|c| c.next == entries) else {
            return self.unexpected(number, "the end of a copy");
        };
        let is_new = last > applying.copy_seen.of(&site);
        let owes = match std::mem::take(&mut applying.owes_back) {
            true => state.owes(&mark, is_new),
            false => Owes::Nothing,
        };
        let mark = Mark {
            at: mark.at.max(copy.snapshot),
            base: applying.base,
            home: state.epoch,
            owes,
            copy: None,
            seen: applying.copy_seen.clone(),
            ..mark
        };
        let name = self.sidecar.peers[&number].name.clone();
        self.sidecar.foreign.note_all_written(&name, copy.snapshot);
        let at = mark.at;
        self.commit_mark(number, mark);
        let peer = self.peer(number);
        crate::now(peer.docket.file(Filed::Nothing(at)));
        (peer.applying.joins, peer.applying.answered) = (false, None);
        self.note_part(number);
        self.sidecar.joining.take_if(|joining| *joining == number);
        let peer = self.peer(number);
        peer.outgoing.as_mut().unwrap().copied += 1;
        if owes == Owes::All {
            self.sidecar.broken.insert(number);
        }
        self.say(|| format!("has all of a copy of {name}, and owes {owes:?}"));
    }
}

/// What has expired on its way expires at once.
pub(crate) fn on_its_way(mut said: Entry, now: i64) -> Entry {
    said.expires = said.expires.map(|at| now.max(at - 1) + 1);
    said
}

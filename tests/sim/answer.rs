//! Answering a peer that asks for the states of keys.

use std::collections::VecDeque;

use tandem::command::key_hash;
use tandem::converge::Reading;
use tokio::sync::OwnedSemaphorePermit;

use tandem::fullsync::{Asked, Gate, Hold};
use tandem::link::{Question, Standing};
use tandem::model::{Cursor, Key, Need, Seen, SiteId};
use tandem::progress::ReachedThen;

use crate::link::{Insert, OwedStates, State};
use crate::redis::Event;
use crate::site::Site;

/// How many keys are read at once.
const KEYS_AT_ONCE: usize = 16;

/// Who answers a peer.
#[derive(Debug)]
pub(crate) struct Answering {
    pub gate: Gate,
    pub asked: Asked,
    /// What is being answered.
    current: Option<Question>,
    /// What of that is to be read: keys, and whether the peer needs only hear that it was right.
    parts: VecDeque<(Vec<Key>, bool)>,
    need: Need,
    reading: Option<UnderWay>,
    number: u64,
    /// Keys that were read, to be forgotten when all have seen that.
    reads: VecDeque<(u128, Cursor)>,
}

/// States that were read; the place is not known yet.
#[derive(Debug)]
struct UnderWay {
    states: Vec<State>,
    reading: Reading,
    hold: Hold,
    /// No other state is read before these are in the queue.
    _turn: OwnedSemaphorePermit,
    /// What had been applied of each peer.
    reached: ReachedThen,
}

impl Default for Answering {
    fn default() -> Self {
        Self {
            gate: Gate::default(),
            asked: Asked::default(),
            current: None,
            parts: VecDeque::new(),
            need: Need::Wrong,
            reading: None,
            number: 0,
            reads: VecDeque::new(),
        }
    }
}

impl Answering {
    /// A session is over.
    pub(crate) fn end(&mut self) {
        self.asked = Asked::default();
        self.parts.clear();
        (self.current, self.reading) = (None, None);
    }
}

impl Site {
    /// A step of who answers a peer; whether anything was done.
    pub(crate) fn answer(&mut self, number: usize) -> bool {
        let peer = self.peer(number);
        if peer.outgoing.is_none() {
            return false;
        }
        if let Some(reading) = peer.answering.reading.take() {
            return self.finish(number, reading);
        }
        if let Some((keys, is_right)) = peer.answering.parts.pop_front() {
            return self.begin_reading(number, keys, is_right);
        }
        let Some(request) = peer.answering.current.take() else {
            return self.next_request(number);
        };
        let sidecar = &self.sidecar;
        let third = sidecar.foreign.third(&sidecar.peers[&number].name);
        let progress = &sidecar.progress;
        let has_all = progress.seen.of(&sidecar.peers[&number].name) >= request.after
            && sidecar.reached.has(&third, &request.seen, progress);
        if !has_all {
            self.peer(number).answering.current = Some(request);
            return false;
        }
        let mut parts = VecDeque::new();
        for keys in request.keys.chunks(KEYS_AT_ONCE) {
            let lives = |key: &&Key| {
                let here = self.redis.data.get(key);
                here.is_some_and(|entry| entry.expires.is_some())
            };
            let is_right = |key: &&Key| request.need == Need::Doubts && !lives(key);
            let (right, sent): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(is_right);
            parts.push_back((sent.into_iter().cloned().collect(), false));
            parts.push_back((right.into_iter().cloned().collect(), true));
        }
        let answering = &mut self.peer(number).answering;
        (answering.parts, answering.need) = (parts, request.need);
        self.forget_reads(number);
        true
    }

    fn next_request(&mut self, number: usize) -> bool {
        let sidecar = &self.sidecar;
        let peer = &sidecar.peers[&number];
        let (third, seen) = (
            sidecar.foreign.third(&peer.name),
            peer.answering.asked.seen(),
        );
        let is_held = |site: &SiteId| sidecar.reached.held(site, seen.of(site)) == seen.of(site);
        // While a copy is on its way to us, what is here says nothing about what is right.
        let least = match peer.applying.is_whole() && third.iter().all(is_held) {
            true => Need::Doubts,
            false => Need::Lacks,
        };
        let peer = self.peer(number);
        while let Some(due) = peer.debts.take_due() {
            peer.answering.asked.put(due);
        }
        let Some(request) = peer.answering.asked.take(least) else {
            return false;
        };
        peer.answering.current = Some(request);
        true
    }

    /// One transaction: a fence that marks the place, and the values.
    fn begin_reading(&mut self, number: usize, keys: Vec<Key>, is_right: bool) -> bool {
        // Nothing is half done, and nobody takes states between a fence and EXEC.
        let peers = &self.sidecar.peers;
        let is_settled = peers[&number].docket.is_settled();
        let waits = |applying: &crate::apply::Applying| {
            applying.is_settling()
                || applying.flying.is_any()
                || applying
                    .guard
                    .as_ref()
                    .is_some_and(crate::guard::Guard::takes)
        };
        if !is_settled || peers.values().any(|peer| waits(&peer.applying)) {
            let parts = &mut self.peer(number).answering.parts;
            parts.push_front((keys, is_right));
            return false;
        }
        let life = self.sidecar.life;
        let peer = self.sidecar.peers.get_mut(&number).unwrap();
        let Some(Some(turn)) = crate::soon(peer.answering.gate.turn()) else {
            peer.answering.parts.push_front((keys, is_right));
            return false;
        };
        let keys = peer.debts.answerable(keys, peer.answering.need);
        if keys.is_empty() {
            return true;
        }
        keys.iter().for_each(|key| self.redis.expire(key));
        let gate = &peer.answering.gate;
        let hold = gate.close(gate.seen(&self.sidecar.progress));
        let hashes = keys.iter().map(|(db, key)| key_hash(*db, key)).collect();
        let reading = crate::now(Reading::keys(&self.sidecar.table, hashes));
        let reached = self.sidecar.reached.now();
        let states = keys.into_iter().map(|key| State {
            said: (!is_right).then(|| self.redis.data.get(&key).cloned()),
            standing: Standing::Unknown,
            key,
        });
        peer.answering.number += 1;
        peer.answering.reading = Some(UnderWay {
            states: states.collect(),
            reading,
            hold,
            _turn: turn,
            reached,
        });
        let name = format!("read:{}", peer.name);
        let fence = Event::Fence(name, life, peer.answering.number);
        self.redis.stream.push(fence);
        true
    }

    /// The fence has come back, or not yet.
    fn finish(&mut self, number: usize, under_way: UnderWay) -> bool {
        let sidecar = &self.sidecar;
        let peer = &sidecar.peers[&number];
        let fence = sidecar.progress.fences.get(&format!("read:{}", peer.name));
        let fence = fence.filter(|fence| fence.number == peer.answering.number);
        let Some(fence) = fence.cloned() else {
            self.peer(number).answering.reading = Some(under_way);
            return false;
        };
        let UnderWay {
            states,
            reading,
            hold,
            reached,
            _turn,
        } = under_way;
        let settled = |(site, at): (&SiteId, &Cursor)| {
            let at = match *site == peer.name {
                true => *at,
                false => sidecar.reached.held(site, reached.held(site, *at)),
            };
            let of = sidecar.peers.values().find(|other| other.name == *site);
            let at = of.map_or(at, |other| other.docket.settled(at));
            (site.clone(), at)
        };
        let seen: Seen = fence.seen.iter().map(settled).collect();
        let said = states.iter().filter(|state| state.said.is_some()).count();
        self.say(|| format!("sends {} {states:?} @{}", peer.name, fence.at.offset));
        self.states += said;
        let read = reading.finish(fence.at);
        let peer = self.peer(number);
        let read = read.into_iter().map(|hash| (hash, fence.at));
        peer.answering.reads.extend(read);
        let owed = OwedStates {
            at: fence.at,
            seen,
            causes: Seen::clone(&fence.causes),
            states,
        };
        let outgoing = peer.outgoing.as_mut().unwrap();
        outgoing.inserts.push_back(Insert::Owed(owed, hold));
        true
    }

    /// Forgets reads that every peer has seen.
    fn forget_reads(&mut self, number: usize) {
        let seen = self.sidecar.deliveries.by_all().seen;
        let peer = self.sidecar.peers.get_mut(&number).unwrap();
        let reads = &mut peer.answering.reads;
        while let Some((hash, at)) = reads.pop_front_if(|(_, at)| *at <= seen) {
            self.sidecar.table.forget_read(hash, at);
        }
    }
}

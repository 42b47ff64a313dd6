//! What goes from one site to another during a session, in one order.

use std::collections::VecDeque;

use bytes::Bytes;

use tandem::converge::Docket;
use tandem::fullsync::Hold;
use tandem::link::{Ack, Question};
use tandem::model::{BatchReader, Cursor, Entry as Item, FrameBuilder, Key, Offset, Seen, SiteId};
use tandem::progress::Telling;

use crate::redis::Entry;
use crate::site::{Frame, Journal, Site, place};

/// A message.
#[derive(Debug)]
pub(crate) enum Message {
    Records(Records),
    States(OwedStates),
    Owe(Question),
    /// With the number by which they are told.
    Stale(u64, Vec<Key>),
    /// What was said to be stale up to there was heard, and the journal says so.
    Heard(u64),
    Ack(Ack),
}

/// A frame of records.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    pub start: Offset,
    pub end: Offset,
    pub body: Bytes,
}

/// States, read where the sender's history had come up to `at`.
#[derive(Debug)]
pub(crate) struct OwedStates {
    pub at: Cursor,
    pub seen: Seen,
    pub causes: Seen,
    pub states: Vec<State>,
}

/// What is said of a key.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub key: Key,
    /// None: the asker's value is right, for there is no time to live here.
    pub said: Option<Option<Entry>>,
}

/// What is sent to one peer in a session.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The number of the next frame of the journal.
    next: usize,
    held: Option<Frame>,
    /// The last record that was sent.
    sent: Cursor,
    telling: Telling,
    /// The number of what it was told last to be stale.
    told: u64,
    /// Up to which number it was told that what it says is noted.
    heard: u64,
    last: Option<Ack>,
    pub questions: Vec<Question>,
    pub inserts: VecDeque<(OwedStates, Hold)>,
}

impl Outgoing {
    /// Sends what comes after a place.
    pub(crate) fn after(journal: &Journal, start: Cursor) -> Self {
        let is_sent = |frame: &&Frame| place(frame.end) <= start;
        Self {
            next: journal.frames.iter().take_while(is_sent).count(),
            held: None,
            sent: start,
            telling: Telling::default(),
            told: 0,
            heard: 0,
            last: None,
            questions: Vec::new(),
            inserts: VecDeque::new(),
        }
    }

    fn next(&mut self, journal: &Journal) -> Option<Frame> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        loop {
            let frame = journal.frames.get(self.next)?;
            self.next += 1;
            if frame.last_record.is_some() {
                return Some(frame.clone());
            }
        }
    }

    fn push(&mut self, frame: Frame, wire: &mut VecDeque<Message>) {
        self.sent = place(frame.last_record.unwrap());
        wire.push_back(Message::Records(Records {
            start: frame.start,
            end: frame.end,
            body: frame.body,
        }));
    }

    /// Sends all records up to a place.
    fn push_up_to(&mut self, journal: &Journal, at: Cursor, wire: &mut VecDeque<Message>) {
        while let Some(frame) = self.next(journal) {
            if place(frame.end) <= at {
                self.push(frame, wire);
                continue;
            }
            if place(frame.start) >= at {
                self.held = Some(frame);
                return;
            }
            let (before, after) = split(&frame, at.offset);
            before.into_iter().for_each(|frame| self.push(frame, wire));
            self.held = after;
            return;
        }
    }

    /// What may be told of what we have seen; nothing new before the peer knows what is stale.
    fn tell(&mut self, seen: Seen, last: Cursor, stale_waits: bool) -> Seen {
        match stale_waits {
            true => self.telling.told().clone(),
            false => self.telling.tell(seen, last, self.sent),
        }
    }
}

/// A frame in two: up to a place, and after it. A part without records is none.
fn split(frame: &Frame, at: Offset) -> (Option<Frame>, Option<Frame>) {
    let part = |start: Offset, end: Offset| {
        let mut builder = FrameBuilder::new(start);
        for entry in BatchReader::new(frame.start, frame.body.clone()) {
            if let Ok(Item::Record(record)) = entry
                && record.offset > start
                && record.offset <= end
            {
                builder.push_record(record.borrowed());
            }
        }
        let last_record = builder.last_record();
        last_record.map(|_| Frame {
            start,
            end,
            last_record,
            body: builder.finish().into(),
        })
    };
    (part(frame.start, at), part(at, frame.end))
}

impl Site {
    /// Sends what is due to a peer: records unless `only_states`. Whether there was anything.
    pub(crate) fn send(
        &mut self,
        to: usize,
        wire: &mut VecDeque<Message>,
        (only_states, most): (bool, usize),
    ) -> bool {
        let before = wire.len();
        let Self {
            journal, sidecar, ..
        } = self;
        let dockets = sidecar.peers.values();
        let dockets = dockets.map(|peer| (peer.name.clone(), peer.docket.clone()));
        let dockets: Vec<(SiteId, Docket)> = dockets.collect();
        let peer = sidecar.peers.get_mut(&to).unwrap();
        let gate = &peer.answering.gate;
        let Some(outgoing) = &mut peer.outgoing else {
            return false;
        };
        for _ in 0..most {
            if only_states || gate.is_closed() {
                break;
            }
            if let Some(frame) = outgoing.next(journal) {
                outgoing.push(frame, wire);
            }
        }
        if let Some((states, _hold)) = outgoing.inserts.pop_front() {
            outgoing.push_up_to(journal, states.at, wire);
            wire.push_back(Message::States(states));
        }
        if !gate.is_closed() {
            let stale = sidecar.claims.stale(&peer.name, outgoing.told);
            if let Some((number, _)) = stale.last() {
                outgoing.told = *number;
                let keys = stale.into_iter().map(|(_, key)| key).collect();
                wire.push_back(Message::Stale(outgoing.told, keys));
            }
        }
        let (seen, read) = (gate.seen(&sidecar.progress), sidecar.progress.read);
        let last = journal.last_record();
        let waits = sidecar.claims.has_stale(&peer.name, outgoing.told);
        let told = outgoing.tell(seen, last, waits);
        let settled = |(site, at): (&SiteId, &Cursor)| {
            let docket = dockets.iter().find(|(of, _)| of == site);
            let at = docket.map_or(*at, |(_, docket)| docket.settled(*at));
            (site.clone(), at)
        };
        let seen: Seen = told.iter().map(settled).collect();
        let sent = match outgoing.sent >= last {
            true => read.max(outgoing.sent),
            false => outgoing.sent,
        };
        let ack = Ack {
            received: Cursor::ZERO,
            applied: peer.applying.mark_at(),
            seen,
            sent,
            owed: 0,
        };
        if outgoing.last.as_ref() != Some(&ack) {
            outgoing.last = Some(ack.clone());
            wire.push_back(Message::Ack(ack));
        }
        while !gate.is_closed()
            && let Some(question) = outgoing.questions.pop()
        {
            outgoing.push_up_to(journal, question.after, wire);
            wire.push_back(Message::Owe(question));
        }
        let heard = peer.docket.heard();
        if heard > outgoing.heard {
            outgoing.heard = heard;
            wire.push_back(Message::Heard(heard));
        }
        wire.len() > before
    }

    /// A message has come from a peer: it goes to who deals with it.
    pub(crate) fn receive(&mut self, from: usize, message: Message) {
        let sidecar = &mut self.sidecar;
        let peer = sidecar.peers.get_mut(&from).unwrap();
        let message = match message {
            Message::Ack(ack) => {
                sidecar.deliveries.applied(&peer.name, ack.applied);
                Message::Ack(ack)
            }
            // The question goes to the one who answers, its place to the applier, in order.
            Message::Owe(mut question) => {
                peer.answering.asked.push_back(question.clone());
                question.keys.clear();
                Message::Owe(question)
            }
            Message::Heard(upto) => {
                let told = sidecar.claims.heard(&peer.name, upto);
                peer.docket.told(told);
                return;
            }
            other => other,
        };
        peer.applying.work.push_back(message);
    }

    /// A session with a peer begins, whose Redis holds our history up to `theirs`, of which `judged` is
    /// judged.
    pub(crate) fn begin_sending(
        &mut self,
        to: usize,
        (theirs, judged): (Cursor, Cursor),
    ) -> Cursor {
        let is_known = judged != Cursor::ZERO && self.journal.last_record() > judged;
        let start = match is_known {
            true => judged.min(theirs),
            false => theirs,
        };
        let outgoing = Outgoing::after(&self.journal, start);
        let peer = self.sidecar.peers.get_mut(&to).unwrap();
        peer.outgoing = Some(outgoing);
        start
    }

    /// A session is over.
    pub(crate) fn end_session(&mut self, with: usize) {
        let peer = self.sidecar.peers.get_mut(&with).unwrap();
        peer.outgoing = None;
        peer.applying.end();
        peer.answering.end();
        self.sidecar.claims.set_linked(&peer.name, false);
    }
}

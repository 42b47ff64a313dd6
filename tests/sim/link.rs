//! What goes from one site to another during a session, in one order.

use std::collections::VecDeque;

use bytes::Bytes;

use tandem::converge::Docket;
use tandem::fullsync::{Gate, Hold};
use tandem::link::{Ack, CopyBegin, Question, Standing};
use tandem::model::{BatchReader, Cursor, Entry as Item, FrameBuilder, Key, Offset, Seen, SiteId};
use tandem::progress::Telling;

use crate::copier::Sending;
use crate::redis::Entry;
use crate::site::{Frame, Journal, Site, place};

/// A message.
#[derive(Debug)]
pub(crate) enum Message {
    Records(Records),
    States(OwedStates),
    CopyBegin(Box<CopyBegin>),
    CopyStates(CopyPart),
    CopyEnd(u64),
    Copied,
    Owe(Question),
    /// The sender waits for these itself.
    Waits(Vec<Key>),
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
    /// What the sender of a copy knows of the receiver's.
    pub standing: Standing,
}

/// Entries of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct CopyPart {
    /// The number of the first.
    pub first: u64,
    pub states: Vec<State>,
}

impl CopyPart {
    /// The number of the entry behind these.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.states.len() as u64
    }
}

/// Something that goes into the stream of records at one place.
#[derive(Debug)]
pub(crate) enum Insert {
    Owed(OwedStates, Hold),
    Copy(Box<CopyBegin>, Sending),
}

impl Insert {
    fn at(&self) -> Cursor {
        match self {
            Self::Owed(owed, _) => owed.at,
            Self::Copy(begin, _) => begin.at,
        }
    }
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
    pub inserts: VecDeque<Insert>,
    /// The copy that is being sent: records wait.
    copying: Option<Sending>,
    /// Whether what is before a copy is left out.
    pub skips: bool,
    /// The same of one that goes on.
    pub resumed: Option<Cursor>,
    /// Where the last of those ends that were left out.
    skipped: Option<Cursor>,
    /// Of how many copies the peer is to hear that they are here.
    pub copied: usize,
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
            copying: None,
            skips: false,
            resumed: None,
            skipped: None,
            copied: 0,
        }
    }

    /// Whether what is to be sent next is among so many that were dropped.
    pub(crate) fn lacks(&self, dropped: usize) -> bool {
        self.next < dropped
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

    /// Sends what comes next: of a copy, or of the journal.
    fn send_next(
        &mut self,
        (journal, gate): (&Journal, &Gate),
        most: usize,
        wire: &mut VecDeque<Message>,
    ) {
        for _ in 0..most {
            if let Some(sending) = &mut self.copying {
                let (message, is_last) = sending.next();
                wire.push_back(message);
                if is_last {
                    self.copying = None;
                    self.sent = self.skipped.take().unwrap_or(self.sent);
                }
            } else if gate.is_closed() {
                return;
            } else if let Some(frame) = self.next(journal) {
                self.push(frame, wire);
            }
        }
    }

    /// Sends states whose place has come.
    fn send_insert(&mut self, journal: &Journal, wire: &mut VecDeque<Message>) {
        if self.copying.is_some() {
            return;
        }
        let Some(insert) = self.inserts.pop_front() else {
            return;
        };
        let is_copy = matches!(insert, Insert::Copy(..));
        let goes_on = is_copy && self.resumed.take() == Some(insert.at());
        if is_copy && std::mem::take(&mut self.skips) || goes_on {
            let before = self.sent;
            self.push_up_to(journal, insert.at(), &mut VecDeque::new());
            self.skipped = Some(std::mem::replace(&mut self.sent, before));
        }
        self.push_up_to(journal, insert.at(), wire);
        match insert {
            Insert::Owed(states, _hold) => wire.push_back(Message::States(states)),
            Insert::Copy(begin, sending) => {
                wire.push_back(Message::CopyBegin(begin));
                self.copying = Some(sending);
            }
        }
    }

    /// Says what is stale, up to the last number.
    fn stale(&mut self, stale: Vec<(u64, Key)>) -> Option<Message> {
        let (number, _) = stale.last()?;
        self.told = *number;
        let keys = stale.into_iter().map(|(_, key)| key).collect();
        Some(Message::Stale(self.told, keys))
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
            saved: None,
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
        if !only_states {
            outgoing.send_next((journal, gate), most, wire);
        }
        outgoing.send_insert(journal, wire);
        if !gate.is_closed() && outgoing.copying.is_none() {
            let stale = sidecar.claims.stale(&peer.name, outgoing.told);
            wire.extend(outgoing.stale(stale));
        }
        let (seen, read) = (gate.seen(&sidecar.progress), sidecar.progress.read);
        let last = journal.last_record();
        let waits = sidecar.claims.has_stale(&peer.name, outgoing.told);
        let told = outgoing.tell(seen, last, waits);
        let settled = |(site, at): (&SiteId, &Cursor)| {
            let at = match *site == peer.name {
                true => *at,
                false => sidecar.reached.held(site, *at),
            };
            let docket = dockets.iter().find(|(of, _)| of == site);
            let at = docket.map_or(at, |(_, docket)| docket.settled(at));
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
        for _ in 0..std::mem::take(&mut outgoing.copied) {
            wire.push_back(Message::Copied);
        }
        while !gate.is_closed()
            && outgoing.copying.is_none()
            && let Some(question) = outgoing.questions.pop()
        {
            outgoing.push_up_to(journal, question.after, wire);
            wire.push_back(Message::Owe(question));
        }
        let waits = sidecar.claims.take_waits(&peer.name, usize::MAX);
        wire.extend((!waits.is_empty()).then_some(Message::Waits(waits)));
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
                peer.answering.asked.put(question.clone());
                question.keys.clear();
                Message::Owe(question)
            }
            Message::Heard(upto) => {
                let told = sidecar.claims.heard(&peer.name, upto);
                peer.docket.told(told);
                return;
            }
            Message::Waits(keys) => {
                sidecar.claims.peer_waits(&peer.name, &keys);
                return;
            }
            Message::Copied => {
                if let Some(copier) = &mut peer.copier {
                    copier.copied += 1;
                }
                Message::Copied
            }
            other => other,
        };
        peer.applying.work.push_back(message);
    }

    /// A session is over.
    pub(crate) fn end_session(&mut self, with: usize) {
        let peer = self.sidecar.peers.get_mut(&with).unwrap();
        (peer.outgoing, peer.copier) = (None, None);
        peer.applying.end();
        peer.answering.end();
        self.sidecar.claims.set_linked(&peer.name, false);
        self.sidecar.joining.take_if(|joining| *joining == with);
    }
}

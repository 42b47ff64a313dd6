//! When the peer is told how far we are, and what of it.

use tokio::time::{Duration, Instant};

use super::outgoing::Outgoing;
use super::session::Session;
use crate::link::{Ack, MAX_KEYS, Message, Writer};

/// How long an acknowledgement may wait for the next: at high rates each transaction would cost both
/// sides a message. What waits for it is room in the journal, and a person who looks at the status.
const ACK_GATHER: Duration = Duration::from_millis(5);

/// When the peer is told how far we are.
pub(super) struct Acks {
    last: Option<Ack>,
    /// Something may be new.
    pub is_due: bool,
    pub not_before: Instant,
}

impl Default for Acks {
    fn default() -> Self {
        Self {
            last: None,
            is_due: false,
            not_before: Instant::now(),
        }
    }
}

impl Acks {
    /// What is to be told now, if it is anything new.
    pub(super) fn take(&mut self, now: impl FnOnce() -> Ack) -> Option<Ack> {
        if !self.is_due || Instant::now() < self.not_before {
            return None;
        }
        self.is_due = false;
        let ack = Some(now()).filter(|ack| self.last.as_ref() != Some(ack))?;
        self.last = Some(ack.clone());
        self.not_before = Instant::now() + ACK_GATHER;
        Some(ack)
    }
}

/// Tells the peer what is stale of what it was sent.
pub(super) struct Stale {
    /// The number of what it was told last, in this session.
    told: u64,
    /// There may be more.
    pub is_due: bool,
}

impl Default for Stale {
    fn default() -> Self {
        let (told, is_due) = (0, true);
        Self { told, is_due }
    }
}

impl Stale {
    /// Whether there is more of which the peer was not told.
    pub(super) fn waits(&self, session: &Session) -> bool {
        session.shared.claims.has_stale(&session.peer, self.told)
    }

    /// Behind the states that it means: those are on their way as long as the gate is closed.
    pub(super) fn push(&mut self, session: &Session, outgoing: &Outgoing, writer: &mut Writer) {
        if !self.is_due || outgoing.is_copying() || session.gate.is_closed() {
            return;
        }
        self.is_due = false;
        let stale = session.shared.claims.stale(&session.peer, self.told);
        for keys in stale.chunks(MAX_KEYS) {
            let Some((number, _)) = keys.last() else {
                continue;
            };
            self.told = *number;
            let keys = keys.iter().map(|(_, key)| key.clone()).collect();
            writer.push(&Message::Stale(*number, keys));
        }
    }
}

/// Tells the peer what of that for which it has asked this site waits for itself.
pub(super) fn push_waits(session: &Session, writer: &mut Writer) {
    let waits = || session.shared.claims.take_waits(&session.peer, MAX_KEYS);
    let parts = std::iter::repeat_with(waits).take_while(|keys| !keys.is_empty());
    parts.for_each(|keys| writer.push(&Message::Waits(keys)));
}

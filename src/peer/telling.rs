//! When the peer is told how far we are, and what of it.

use tokio::time::{Duration, Instant};

use super::outgoing::Outgoing;
use super::session::Session;
use crate::link::{Ack, MAX_KEYS, Message, Writer};
use crate::model::{Cursor, Seen};

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

/// What the peer is told that we have seen. It counts for all records that come behind it: so nothing is
/// told before every record that had seen less has been sent.
#[derive(Debug, Default)]
pub(super) struct Telling {
    told: Seen,
    /// What is told when the records up to there have been sent.
    next: Option<(Seen, Cursor)>,
}

impl Telling {
    /// What may be told now, when `now` is what we have seen, `last` the end of the last record that was
    /// made before we had, and records are sent up to `sent`.
    pub(super) fn tell(&mut self, now: Seen, last: Cursor, sent: Cursor) -> Seen {
        if let Some((seen, _)) = self.next.take_if(|(_, upto)| sent >= *upto) {
            self.told = seen;
        }
        if sent >= last {
            (self.told, self.next) = (now, None);
        } else if self.next.is_none() {
            self.next = Some((now, last));
        }
        self.told.clone()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Offset, SiteId};

    fn at(offset: u64) -> Cursor {
        Cursor {
            epoch: Epoch(1),
            offset: Offset(offset),
        }
    }

    fn seen(offset: u64) -> Seen {
        let mut seen = Seen::default();
        seen.advance(&SiteId::try_new("b").unwrap(), at(offset));
        seen
    }

    #[test]
    fn what_was_seen_is_told_when_what_had_not_seen_it_has_been_sent() {
        let mut telling = Telling::default();
        assert_eq!(telling.tell(seen(5), at(100), at(100)), seen(5));
        // Records up to 200 had not seen more, and are not all sent.
        assert_eq!(telling.tell(seen(9), at(200), at(150)), seen(5));
        assert_eq!(telling.tell(seen(30), at(300), at(199)), seen(5));
        assert_eq!(telling.tell(seen(40), at(400), at(250)), seen(9));
        assert_eq!(telling.tell(seen(50), at(500), at(410)), seen(40));
        assert_eq!(telling.tell(seen(60), at(510), at(510)), seen(60));
    }
}

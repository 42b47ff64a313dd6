//! Evictions told from clients' deletes, so that they need not travel.
//!
//! A server that evicts a key streams a DEL or UNLINK of it, which looks like a client's, and publishes
//! that it has done so, if it is told to (`notify-keyspace-events Ee`). The two come on two connections.
//! What joins them is a *fence*, a PUBLISH of ours, which stands in the stream and comes as a message:
//!
//! ```text
//!            stream   …  DEL a  SET b  DEL c   PUBLISH fence 7   …
//!          messages   …         evicted a              fence 7   …
//!                                 ▲ between the same fences: `a` was evicted, `c` a client has deleted
//! ```
//!
//! Each message belongs to a delete, in the same order; where a client has deleted the same key too, what
//! else was evicted nearly always tells which is which.
//!
//! So a delete is held back, and with it whatever stands behind it, until a fence that was published
//! after it was read has come on both sides: for a round trip to the server. Nothing else is ever held.
//! When it cannot be told, the delete travels: an eviction that travels costs a value that is
//! loaded again, a delete that does not leaves a value at the other site that nobody wants.
//!
//! An eviction stands alone in the stream and never in a transaction, it is always one key, and always
//! in upper case (measured: Redis 5.0 to 8.4, Valkey 7.2 to 9.0). Whatever looks otherwise is a client's.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod listener;
mod matching;

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

pub use self::listener::Listener;
pub(super) use self::listener::{Line, Said};
use self::matching::{Delete, Matching};
use super::decoder::fence;
use crate::command::scanner::Scanner;
use crate::command::{Command, key_hash};
use crate::model::{InstanceId, Offset};
use crate::status::EvictionStatus;

/// The channel of the fences. What is published there does not travel.
pub(super) const CHANNEL: &str = "tandem:evictions";

/// The longest that a delete is held back while nothing else comes. A fence takes a round trip to the
/// server, and longer only if that, or a replica that is read in its place, is busy.
const LONGEST_HOLD: Duration = Duration::from_secs(2);

/// The most of the stream that is held back, in bytes: what comes in a moment, also when a long
/// absence is made up for.
const MOST_HELD: usize = 64 << 20;

/// Holds the stream back where a delete may be an eviction, until that is known.
#[derive(Debug)]
pub(super) struct Evictions {
    instance: InstanceId,
    matching: Matching,
    scanner: Scanner,
    /// The stream has been looked at up to here; a database and perhaps a transaction is open there.
    seen: Offset,
    db: u32,
    in_transaction: bool,
    /// What has been looked at and is held back.
    held: BytesMut,
    /// What may be taken.
    ready: BytesMut,
    /// The first delete that is held back, and since when.
    waiting: Option<(Delete, Instant)>,
}

impl Evictions {
    /// Of a sidecar's life; the stream begins here.
    pub(super) fn new(instance: InstanceId, (at, db): (Offset, u32)) -> Self {
        Self {
            instance,
            matching: Matching::default(),
            scanner: Scanner::default(),
            seen: at,
            db,
            in_transaction: false,
            held: BytesMut::new(),
            ready: BytesMut::new(),
            waiting: None,
        }
    }

    /// What may be taken of the stream.
    pub(super) const fn ready(&mut self) -> &mut BytesMut {
        &mut self.ready
    }

    /// Where evictions end, in the order in which they will be taken.
    pub(super) fn take_found(&mut self) -> Vec<Offset> {
        self.matching.take_found()
    }

    /// The number of the fence that is to be published, if that has not been done.
    pub(super) const fn wanted(&self) -> Option<u64> {
        self.matching.awaited()
    }

    /// Until when what is held back may be.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let since = self.waiting.as_ref().map(|(_, since)| *since);
        since.and_then(|since| since.checked_add(LONGEST_HOLD))
    }

    /// What there is to tell of it.
    pub(super) fn status(&self, status: &mut EvictionStatus) {
        let counts = self.matching.counts();
        status.told = self.matching.is_aligned();
        (status.kept, status.in_doubt) = (counts.kept, counts.in_doubt);
    }

    /// Takes what has come of the stream, and gives what may be taken of it.
    pub(super) fn read(&mut self, input: &mut BytesMut, now: Instant) {
        loop {
            if self.scanner.is_at_start() {
                // They do not count in the offset, and come between commands only.
                while input.first() == Some(&b'\n') {
                    input.advance(1);
                }
            }
            let length = match self.scanner.scan(input) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(_) => {
                    // Who takes it says what is wrong with it.
                    self.give_up(now);
                    self.ready.unsplit(input.split());
                    return;
                }
            };
            let begin = self.seen;
            self.seen.0 = begin.0.saturating_add(length as u64);
            // The scanner is moved out while the command borrows it.
            let scanner = std::mem::take(&mut self.scanner);
            let command = scanner.command(input);
            self.on_command(&command, begin);
            self.held.extend_from_slice(command.raw());
            self.scanner = scanner;
            self.scanner.advance(input);
            if self.held.len() > MOST_HELD {
                self.release(now);
            }
            if self.held.len() > MOST_HELD {
                self.give_up(now);
            }
        }
        self.release(now);
    }

    /// Somebody has listened, and says what there was.
    pub(super) fn on_said(&mut self, said: &[Said], now: Instant) {
        for said in said {
            match said {
                Said::Listening => self.matching.on_listening(),
                Said::Deaf => self.matching.on_deaf(),
                Said::Evicted(key) => self.matching.on_heard(*key),
                Said::Fence(number) => self.matching.on_heard_fence(*number),
            }
        }
        self.release(now);
    }

    /// What is held back has waited too long.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.matching.give_up();
        self.release(now);
    }

    /// The stream is read again from here on, in the same history.
    pub(super) fn rewind(&mut self, (at, db): (Offset, u32)) {
        // What was given and not taken has had its verdict, and would have none.
        match self.ready.is_empty() && self.given() == at {
            true => self.matching.on_rewind(at),
            false => self.matching.give_up(),
        }
        self.restart((at, db));
    }

    /// Another history begins.
    pub(super) fn begin(&mut self, (at, db): (Offset, u32)) {
        self.matching.give_up();
        self.restart((at, db));
    }

    fn restart(&mut self, (at, db): (Offset, u32)) {
        (self.seen, self.db, self.in_transaction) = (at, db, false);
        // Places of what was not taken; in another history they would be those of something else.
        drop(self.matching.take_found());
        self.scanner = Scanner::default();
        self.held.clear();
        self.ready.clear();
        self.waiting = None;
    }

    /// Up to where the stream was given.
    fn given(&self) -> Offset {
        Offset(self.seen.0.saturating_sub(self.held.len() as u64))
    }

    fn on_command(&mut self, command: &Command<'_>, begin: Offset) {
        let end = self.seen;
        match command.arg(0) {
            b"DEL" | b"UNLINK" if !self.in_transaction && command.len() == 2 => {
                let key = key_hash(self.db, command.arg(1));
                self.matching.on_delete(Delete { begin, end, key });
            }
            name if name.eq_ignore_ascii_case(b"MULTI") => self.in_transaction = true,
            name if name.eq_ignore_ascii_case(b"EXEC") => self.in_transaction = false,
            name if name.eq_ignore_ascii_case(b"SELECT") => {
                let db = std::str::from_utf8(command.arg(1)).ok();
                self.db = db.and_then(|db| db.parse().ok()).unwrap_or(self.db);
            }
            name if name.eq_ignore_ascii_case(b"PUBLISH") => {
                if command.arg(1) == CHANNEL.as_bytes()
                    && let Some(number) = fence_number(command.arg(2), self.instance)
                {
                    self.matching.on_fence(number, end);
                }
            }
            _ => {}
        }
    }

    /// Gives what is not held back any more.
    fn release(&mut self, now: Instant) {
        let first = self.matching.first_held();
        let upto = first.map_or(self.seen, |delete| delete.begin);
        let length = usize::try_from(upto.0.saturating_sub(self.given().0)).unwrap_or(usize::MAX);
        let free = self.held.split_to(length.min(self.held.len()));
        if self.ready.is_empty() {
            self.ready = free;
        } else {
            self.ready.unsplit(free);
        }
        let known = self.waiting.take();
        self.waiting = first.map(|delete| match known {
            Some((known, since)) if known == delete => (delete, since),
            _ => (delete, now),
        });
    }
}

/// What a fence says: whose it is, and its number.
fn fence_text(instance: InstanceId, number: u64) -> String {
    format!("{instance} {number}")
}

/// The number of a fence, if it is one of this life.
fn fence_number(text: &[u8], instance: InstanceId) -> Option<u64> {
    let (whose, number) = fence(text)?;
    (whose == instance).then_some(number)
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers of tests are small"
)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::redis::put_command;

    const LIFE: InstanceId = InstanceId::new(7);

    fn stream(lines: &[&str]) -> BytesMut {
        let mut raw = Vec::new();
        for line in lines {
            let (words, text) = line.split_once('|').unwrap_or((line, ""));
            let words = words.split_whitespace().map(str::as_bytes);
            let text = Some(text.as_bytes()).filter(|text| !text.is_empty());
            put_command(&mut raw, &words.chain(text).collect::<Vec<_>>());
        }
        BytesMut::from(&raw[..])
    }

    fn publish(number: u64) -> String {
        format!("PUBLISH {CHANNEL}|{}", fence_text(LIFE, number))
    }

    fn evicted(name: &str) -> Said {
        Said::Evicted(key_hash(0, name.as_bytes()))
    }

    /// One that listens and has seen the first fence.
    fn aligned(now: Instant) -> Evictions {
        let mut evictions = Evictions::new(LIFE, (Offset(0), 0));
        evictions.on_said(&[Said::Listening, Said::Fence(1)], now);
        evictions.read(&mut stream(&[&publish(1)]), now);
        assert!(evictions.matching.is_aligned());
        evictions.ready().clear();
        evictions
    }

    #[tokio::test]
    async fn a_delete_holds_back_what_stands_behind_it() {
        let now = Instant::now();
        let mut evictions = aligned(now);
        let (free, held) = (["SET a 1", "del x"], ["DEL a", "SET b 1", "UNLINK c"]);
        // However it arrives.
        let mut input = BytesMut::new();
        for byte in stream(&[&free[..], &held].concat()) {
            input.extend_from_slice(&[byte]);
            evictions.read(&mut input, now);
        }
        assert!(input.is_empty());
        assert_eq!(evictions.ready, stream(&free));
        assert_eq!(evictions.wanted(), Some(2));
        assert_eq!(evictions.deadline(), Some(now + LONGEST_HOLD));
        evictions.on_said(&[evicted("a"), Said::Fence(2)], now);
        assert_eq!(evictions.ready, stream(&free));
        let behind = stream(&["DEL d"]);
        let mut rest = stream(&[&publish(2)]);
        rest.unsplit(behind.clone());
        evictions.read(&mut rest, now);
        let fence = publish(2);
        let taken = [&free[..], &held, &[&fence]].concat();
        assert_eq!(evictions.ready, stream(&taken));
        let begun = stream(&[&publish(1)]).len() + stream(&free).len();
        let found = begun + stream(&["DEL a"]).len();
        assert_eq!(evictions.take_found(), [Offset(found as u64)]);
        assert_eq!(evictions.held, behind);
        assert_eq!(evictions.wanted(), Some(3));
    }

    #[tokio::test]
    async fn what_cannot_be_an_eviction_is_not_held_back() {
        let now = Instant::now();
        let mut evictions = aligned(now);
        let lines = [
            "DEL a b", "Del a", "MULTI", "DEL a", "EXEC", "GETDEL a", "SELECT 3",
        ];
        evictions.read(&mut stream(&lines), now);
        assert_eq!(evictions.ready, stream(&lines));
        assert_eq!((evictions.wanted(), evictions.deadline()), (None, None));
        // The database belongs to the key.
        evictions.read(&mut stream(&["DEL a", &publish(2)]), now);
        evictions.on_said(&[evicted("a"), Said::Fence(2)], now);
        assert!(evictions.take_found().is_empty());
        // Another life's fence is nothing to us.
        let other = fence_text(InstanceId::new(8), 3);
        assert_eq!(fence_number(other.as_bytes(), LIFE), None);
    }

    #[tokio::test]
    async fn nothing_is_held_back_for_ever() {
        let now = Instant::now();
        let mut evictions = aligned(now);
        evictions.read(&mut stream(&["DEL a", "SET b 1"]), now);
        assert!(evictions.ready.is_empty());
        evictions.give_up(now);
        assert_eq!(evictions.ready, stream(&["DEL a", "SET b 1"]));
        assert_eq!(evictions.deadline(), None);
        assert!(evictions.take_found().is_empty());

        let mut evictions = aligned(now);
        let large = format!("SET b {}", "x".repeat(1 << 20));
        evictions.read(&mut stream(&["DEL a"]), now);
        for _ in 0..=MOST_HELD >> 20 {
            evictions.read(&mut stream(&[&large]), now);
        }
        assert!(evictions.held.is_empty() && !evictions.ready.is_empty());
        let mut status = EvictionStatus::default();
        evictions.status(&mut status);
        assert_eq!((status.told, status.in_doubt), (false, 1));
    }

    #[tokio::test]
    async fn what_is_read_again_is_matched_again() {
        let now = Instant::now();
        let mut evictions = aligned(now);
        let place = evictions.given();
        evictions.read(&mut stream(&["DEL a", &publish(2), "DEL b"]), now);
        evictions.on_said(&[evicted("a")], now);
        evictions.rewind((place, 0));
        evictions.read(&mut stream(&["DEL a", &publish(2), "DEL b"]), now);
        evictions.on_said(&[Said::Fence(2), evicted("b"), Said::Fence(3)], now);
        evictions.read(&mut stream(&[&publish(3)]), now);
        assert_eq!(evictions.take_found().len(), 2);
        // What was given and not taken has had its verdict.
        evictions.rewind((place, 0));
        assert!(!evictions.matching.is_aligned());
    }

    /// What comes, or is heard.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Line(&'static str),
        Heard(Said),
        GiveUp,
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let lines = [
            "SET a 1", "DEL a", "UNLINK b", "DEL a b", "MULTI", "EXEC", "SELECT 1",
        ];
        prop_oneof![
            8 => proptest::sample::select(lines.to_vec()).prop_map(Step::Line),
            3 => (0_u64..9).prop_map(|n| Step::Heard(Said::Fence(n))),
            3 => prop_oneof![Just("a"), Just("b")].prop_map(|name| Step::Heard(evicted(name))),
            1 => Just(Step::Heard(Said::Listening)),
            1 => Just(Step::Heard(Said::Deaf)),
            1 => Just(Step::GiveUp),
            2 => Just(Step::Take),
        ]
    }

    proptest! {
        /// However it is cut and whatever is heard, the stream is given whole and in its order.
        #[test]
        fn the_stream_is_given_as_it_came(steps in vec(step(), 0..60), size in 1_usize..40) {
            let now = Instant::now();
            let mut evictions = Evictions::new(LIFE, (Offset(0), 0));
            let (mut all, mut input, mut given) = (Vec::new(), BytesMut::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Line(line) => {
                        for part in stream(&[line]).chunks(size) {
                            input.extend_from_slice(part);
                            evictions.read(&mut input, now);
                        }
                        all.extend_from_slice(&stream(&[line]));
                        if let Some(number) = evictions.wanted() {
                            let fence = stream(&[&publish(number)]);
                            all.extend_from_slice(&fence);
                            evictions.read(&mut fence.clone(), now);
                        }
                    }
                    Step::Heard(said) => evictions.on_said(&[said], now),
                    Step::GiveUp => evictions.give_up(now),
                    Step::Take => given.extend_from_slice(&evictions.ready().split()),
                }
                prop_assert_eq!(evictions.deadline().is_some(), !evictions.held.is_empty());
                let taken = given.len() + evictions.ready.len();
                prop_assert_eq!(evictions.given(), Offset(taken as u64));
            }
            evictions.on_said(&[Said::Deaf], now);
            given.extend_from_slice(&evictions.ready().split());
            prop_assert_eq!(given, all);
        }
    }
}

//! Debts: states that the peer owes us. They are kept in a set in Redis, written in the same
//! transactions as the mark, so that a crash forgets none; this is that set in memory, shared with
//! the part that answers the peer's own requests.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::converge::Wish;
use crate::link::Question;
pub use crate::model::Key;
use crate::model::{Cursor, SiteId};

/// The most debts. There is one per key that clients write here while the peer's copy of it
/// arrives, and one per key of a command that failed here: beyond this something else is wrong.
pub(super) const MAX_DEBTS: usize = 200_000;

/// Shared between the applier and the answering side.
#[derive(Clone, Debug)]
pub struct Debts {
    /// Whether our value wins when both sites ask each other for the same key: the name that sorts
    /// first does. Without a rule, the two would swap values.
    ours_wins: bool,
    inner: Arc<Mutex<Inner>>,
    /// Something is due.
    is_due: Arc<Notify>,
}

/// A debt.
#[derive(Clone, Copy, Debug)]
struct Want {
    /// How far the peer must have seen our history when it reads the state.
    after: Cursor,
    /// Whether something of the key is not here at all: a state was refused, or a command failed.
    /// Else all is here, and only took effect in the wrong order.
    lacks: bool,
    /// Whether it is wrong only if the key has a time to live there.
    doubts: bool,
}

#[derive(Debug, Default)]
struct Inner {
    wanted: HashMap<Key, Want>,
    /// Those not yet asked for.
    unasked: Vec<Key>,
    /// Those given up in favour of ours, still in the set in Redis.
    dropped: Vec<Key>,
    /// The same, of which nobody has been told.
    yielded: Vec<Key>,
    /// Those that the peer has asked for and gets when they have come from it; whether it doubts.
    deferred: HashMap<Key, bool>,
    /// Those of them that have come.
    due: Vec<(Key, bool)>,
}

impl Debts {
    /// No debts yet between these two.
    #[must_use]
    pub fn new(site: &SiteId, peer: &SiteId) -> Self {
        Self {
            ours_wins: site < peer,
            inner: Arc::default(),
            is_due: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().wanted.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this key is owed.
    #[must_use]
    pub fn wants(&self, key: &Key) -> bool {
        self.lock().wanted.contains_key(key)
    }

    /// Whether the peer's answer pays the debt of a key: that nothing is to be said of it does not,
    /// if more than doubts have come up since.
    #[must_use]
    pub fn is_paid(&self, key: &Key, is_said: bool) -> bool {
        let inner = self.lock();
        let want = inner.wanted.get(key);
        want.is_some_and(|want| is_said || want.doubts)
    }

    /// A key is owed of which something is not here; the peer must have seen our history up to
    /// `after` when it reads it.
    pub fn add(&self, key: Key, after: Cursor) {
        let (lacks, doubts) = (true, false);
        self.want(
            key,
            Want {
                after,
                lacks,
                doubts,
            },
        );
    }

    /// A state was refused: a later one is owed.
    pub fn add_again(&self, key: Key, after: Cursor) {
        let known = self.lock().wanted.get(&key).copied();
        let (lacks, doubts) = known.map_or((true, false), |w| (w.lacks, w.doubts));
        self.want(
            key,
            Want {
                after,
                lacks,
                doubts,
            },
        );
    }

    /// A key is owed that is only wrong here. If it is owed already, the state that is on its way
    /// will do: what the peer did last has come before it.
    /// Whether it is a new debt.
    pub fn add_wrong(&self, key: Key, Wish { after, doubts }: Wish) -> bool {
        let known = self.lock().wanted.get(&key).copied();
        // What is only doubted may not be sent.
        let is_new = known.is_none_or(|known| known.doubts && !doubts);
        if is_new {
            let lacks = false;
            self.want(
                key,
                Want {
                    after,
                    lacks,
                    doubts,
                },
            );
        }
        is_new
    }

    fn want(&self, key: Key, want: Want) {
        let mut inner = self.lock();
        inner.dropped.retain(|k| *k != key);
        inner.wanted.insert(key.clone(), want);
        inner.unasked.push(key);
    }

    /// The debt is paid; false when there was none.
    pub fn remove(&self, key: &Key) -> bool {
        let mut inner = self.lock();
        if let Some(doubts) = inner.deferred.remove(key) {
            inner.due.push((key.clone(), doubts));
            self.is_due.notify_one();
        }
        inner.wanted.remove(key).is_some()
    }

    /// Waits for keys that the peer has asked for while we waited for them ourselves: it may have
    /// got, and used, our answer to an earlier question meanwhile. With whether it doubts. Cancel
    /// safe.
    pub async fn due(&self) -> (Vec<Key>, bool) {
        loop {
            let due = {
                let due = &mut self.lock().due;
                let doubts = due.first().map(|(_, doubts)| *doubts);
                let of_a_kind = due.extract_if(.., |(_, d)| Some(*d) == doubts);
                doubts.map(|doubts| (of_a_kind.map(|(key, _)| key).collect(), doubts))
            };
            match due {
                Some(due) => return due,
                None => self.is_due.notified().await,
            }
        }
    }

    /// Forgets what was asked in an earlier session: everything is asked for again, and must have
    /// seen what is here now. The local Redis may have begun a new history since, with writes that
    /// an earlier place says nothing of.
    pub fn begin(&self, stored: impl IntoIterator<Item = Key>, after: Cursor) {
        let mut inner = self.lock();
        inner
            .wanted
            .values_mut()
            .for_each(|want| want.after = after);
        for key in stored {
            if !inner.dropped.contains(&key) {
                let (lacks, doubts) = (true, false);
                inner.wanted.insert(
                    key,
                    Want {
                        after,
                        lacks,
                        doubts,
                    },
                );
            }
        }
        inner.unasked = inner.wanted.keys().cloned().collect();
        // The peer asks anew too.
        inner.deferred.clear();
        inner.due.clear();
    }

    /// What to ask for now: at most `most` keys, all for the same reason, and the place that satisfies
    /// all of them.
    #[must_use]
    pub fn ask(&self, most: usize) -> Option<Question> {
        let inner = &mut *self.lock();
        let wanted = &inner.wanted;
        inner.unasked.retain(|key| wanted.contains_key(key));
        let why = |key: &Key| wanted.get(key).map(|want| (want.lacks, want.doubts));
        let (lacks, doubts) = why(inner.unasked.last()?)?;
        let mut keys: Vec<Key> = Vec::new();
        while keys.len() < most
            && let Some(key) = inner
                .unasked
                .pop_if(|key| why(key) == Some((lacks, doubts)))
        {
            keys.push(key);
        }
        keys.sort();
        keys.dedup();
        let places = keys.iter().filter_map(|key| wanted.get(key));
        let after = places.map(|want| want.after).max()?;
        Some(Question {
            after,
            lacks,
            doubts,
            keys,
        })
    }

    /// The peer asks for these. Of those that we want ourselves, the value wins that is nearer to the
    /// right one; else the names decide: ours wins and we give up our debt, or theirs wins and we answer only
    /// when it has come.
    #[must_use]
    pub fn answerable(&self, mut asked: Vec<Key>, (lacks, doubts): (bool, bool)) -> Vec<Key> {
        let inner = &mut *self.lock();
        asked.retain(|key| {
            let Some(want) = inner.wanted.get(key) else {
                return true;
            };
            let theirs = need(lacks, doubts);
            let ours_wins = match theirs.cmp(&need(want.lacks, want.doubts)) {
                Ordering::Greater => true,
                Ordering::Less => false,
                Ordering::Equal => self.ours_wins,
            };
            if ours_wins {
                inner.wanted.remove(key);
                inner.dropped.push(key.clone());
                inner.yielded.push(key.clone());
            } else {
                inner.deferred.insert(key.clone(), doubts);
            }
            ours_wins
        });
        asked
    }

    /// Takes what was given up since the last time: our value is the right one.
    #[must_use]
    pub fn take_yielded(&self) -> Vec<Key> {
        std::mem::take(&mut self.lock().yielded)
    }

    /// Debts given up and still in the set in Redis.
    #[must_use]
    pub fn dropped(&self) -> Vec<Key> {
        self.lock().dropped.clone()
    }

    /// These are no longer in the set in Redis.
    pub fn forget_dropped(&self, keys: &[Key]) {
        self.lock().dropped.retain(|k| !keys.contains(k));
    }
}

/// How far a site is from the right value: it lacks something, or has all in the wrong order, or
/// perhaps not even that.
fn need(lacks: bool, doubts: bool) -> u8 {
    match (lacks, doubts) {
        (true, _) => 2,
        (false, false) => 1,
        (false, true) => 0,
    }
}

/// A debt as a member of the set in Redis: `<db>:<key>`.
#[must_use]
pub(super) fn member((db, key): &Key) -> Vec<u8> {
    let mut member = format!("{db}:").into_bytes();
    member.extend_from_slice(key);
    member
}

/// Reads a member of the set.
#[must_use]
pub(super) fn parse_member(member: &Bytes) -> Option<Key> {
    let colon = member.iter().position(|b| *b == b':')?;
    let db = std::str::from_utf8(member.get(..colon)?)
        .ok()?
        .parse()
        .ok()?;
    Some((db, member.slice(colon + 1..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Offset};

    fn at(offset: u64) -> Cursor {
        Cursor {
            epoch: Epoch(1),
            offset: Offset(offset),
        }
    }

    fn key(name: &'static str) -> Key {
        (0, Bytes::from_static(name.as_bytes()))
    }

    fn wish(offset: u64) -> Wish {
        let (after, doubts) = (at(offset), false);
        Wish { after, doubts }
    }

    fn debts(site: &str, peer: &str) -> Debts {
        Debts::new(
            &SiteId::try_new(site).unwrap(),
            &SiteId::try_new(peer).unwrap(),
        )
    }

    #[test]
    fn what_is_refused_again_is_asked_for_again() {
        let debts = debts("a", "b");
        debts.add(key("x"), at(5));
        debts.add(key("y"), at(9));
        let asked = |after, lacks, keys: &[&'static str]| {
            let keys = keys.iter().map(|k| key(k)).collect();
            let doubts = false;
            Some(Question {
                after,
                lacks,
                doubts,
                keys,
            })
        };
        assert_eq!(debts.ask(10), asked(at(9), true, &["x", "y"]));
        assert_eq!(debts.ask(10), None);
        debts.add(key("x"), at(20));
        assert_eq!(debts.ask(10), asked(at(20), true, &["x"]));
        debts.remove(&key("x"));
        assert!(debts.wants(&key("y")) && !debts.wants(&key("x")));
        debts.begin([key("z")], at(30));
        assert_eq!(debts.ask(10), asked(at(30), true, &["y", "z"]));
        debts.add_wrong(key("y"), wish(31));
        debts.add_wrong(key("w"), wish(32));
        assert_eq!(debts.ask(10), asked(at(32), false, &["w"]));
        debts.add_again(key("w"), at(33));
        assert_eq!(debts.ask(10), asked(at(33), false, &["w"]));
        debts.add(key("w"), at(34));
        assert_eq!(debts.ask(10), asked(at(34), true, &["w"]));
    }

    #[test]
    fn when_both_ask_for_a_key_one_value_wins() {
        let (a, b) = (debts("a", "b"), debts("b", "a"));
        a.add(key("x"), at(1));
        b.add(key("x"), at(1));
        assert_eq!(
            a.answerable(vec![key("x"), key("y")], (true, false)),
            vec![key("x"), key("y")]
        );
        assert!(a.is_empty());
        assert_eq!(a.dropped(), vec![key("x")]);
        a.begin([key("x"), key("z")], at(3));
        assert!(!a.wants(&key("x")) && a.wants(&key("z")));
        a.forget_dropped(&[key("x")]);
        assert!(a.dropped().is_empty());
        assert_eq!(
            b.answerable(vec![key("x"), key("y")], (true, false)),
            vec![key("y")]
        );
        assert!(b.wants(&key("x")));
    }

    #[test]
    fn whose_value_lacks_nothing_answers() {
        let (a, b) = (debts("a", "b"), debts("b", "a"));
        a.add(key("x"), at(1));
        b.add_wrong(key("x"), wish(1));
        assert_eq!(a.answerable(vec![key("x")], (false, false)), []);
        assert_eq!(b.answerable(vec![key("x")], (true, false)), [key("x")]);
        assert!(b.is_empty() && a.wants(&key("x")));
    }

    #[tokio::test]
    async fn what_was_asked_while_it_was_awaited_is_answered_when_it_has_come() {
        let b = debts("b", "a");
        b.add_wrong(key("x"), wish(1));
        assert_eq!(b.answerable(vec![key("x")], (false, false)), []);
        b.remove(&key("x"));
        assert_eq!(b.due().await, (vec![key("x")], false));
    }

    #[test]
    fn members_survive() {
        for key in [
            key("a"),
            (3, Bytes::from_static(b"x:y\0")),
            (0, Bytes::new()),
        ] {
            assert_eq!(parse_member(&member(&key).into()), Some(key));
        }
        assert_eq!(parse_member(&Bytes::from_static(b"x")), None);
    }
}

//! Debts: states that the peer owes us. They are kept in a set in Redis, written in the same
//! transactions as the mark, so that a crash forgets none; this is that set in memory, shared with
//! the part that answers the peer's own requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::model::{Cursor, SiteId};

/// The most debts. There is one per key that clients write here while the peer's copy of it
/// arrives, and one per key of a command that failed here: beyond this something else is wrong.
pub(super) const MAX_DEBTS: usize = 200_000;

/// A key and its database.
pub type Key = (u32, Bytes);

/// Shared between the applier and the answering side.
#[derive(Clone, Debug)]
pub struct Debts {
    /// Whether our value wins when both sites ask each other for the same key: the name that sorts
    /// first does. Without a rule, the two would swap values.
    ours_wins: bool,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The key → how far the peer must have seen our history when it reads the state.
    wanted: HashMap<Key, Cursor>,
    /// Those not yet asked for.
    unasked: Vec<Key>,
    /// Those given up in favour of ours, still in the set in Redis.
    dropped: Vec<Key>,
}

impl Debts {
    /// No debts yet between these two.
    #[must_use]
    pub fn new(site: &SiteId, peer: &SiteId) -> Self {
        Self {
            ours_wins: site < peer,
            inner: Arc::default(),
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
    pub fn wants(&self, db: u32, key: &Bytes) -> bool {
        let inner = self.lock();
        // A copy asks for each of its keys, and nearly always none is owed.
        !inner.wanted.is_empty() && inner.wanted.contains_key(&(db, key.clone()))
    }

    /// A key is owed; the peer must have seen our history up to `after` when it reads it.
    pub fn add(&self, key: Key, after: Cursor) {
        let mut inner = self.lock();
        inner.dropped.retain(|k| *k != key);
        inner.wanted.insert(key.clone(), after);
        inner.unasked.push(key);
    }

    /// The debt is paid.
    pub fn remove(&self, key: &Key) {
        self.lock().wanted.remove(key);
    }

    /// Forgets what was asked in an earlier session: everything is asked for again, and must have
    /// seen what is here now. The local Redis may have begun a new history since, with writes that
    /// an earlier place says nothing of.
    pub fn begin(&self, stored: impl IntoIterator<Item = Key>, after: Cursor) {
        let mut inner = self.lock();
        inner.wanted.values_mut().for_each(|a| *a = after);
        for key in stored {
            if !inner.dropped.contains(&key) {
                inner.wanted.insert(key, after);
            }
        }
        inner.unasked = inner.wanted.keys().cloned().collect();
    }

    /// What to ask for now: at most `most` keys, and the place that satisfies all of them.
    #[must_use]
    pub fn ask(&self, most: usize) -> Option<(Cursor, Vec<Key>)> {
        let mut inner = self.lock();
        let from = inner.unasked.len().saturating_sub(most);
        let mut keys = inner.unasked.split_off(from);
        keys.sort();
        keys.dedup();
        keys.retain(|key| inner.wanted.contains_key(key));
        let after = keys
            .iter()
            .filter_map(|key| inner.wanted.get(key))
            .max()
            .copied()?;
        Some((after, keys))
    }

    /// The peer asks for these. Those that we want ourselves are settled by the names: ours wins
    /// and we give up our debt, or theirs wins and we do not answer.
    #[must_use]
    pub fn answerable(&self, mut asked: Vec<Key>) -> Vec<Key> {
        let mut inner = self.lock();
        let ours_wins = self.ours_wins;
        asked.retain(|key| {
            if !inner.wanted.contains_key(key) {
                return true;
            }
            if ours_wins {
                inner.wanted.remove(key);
                inner.dropped.push(key.clone());
            }
            ours_wins
        });
        asked
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

    fn debts(site: &str, peer: &str) -> Debts {
        Debts::new(
            &SiteId::try_new(site).unwrap(),
            &SiteId::try_new(peer).unwrap(),
        )
    }

    fn wants(debts: &Debts, name: &'static str) -> bool {
        let (db, key) = key(name);
        debts.wants(db, &key)
    }

    #[test]
    fn what_is_refused_again_is_asked_for_again() {
        let debts = debts("a", "b");
        debts.add(key("x"), at(5));
        debts.add(key("y"), at(9));
        assert_eq!(debts.ask(10), Some((at(9), vec![key("x"), key("y")])));
        assert_eq!(debts.ask(10), None);
        debts.add(key("x"), at(20));
        assert_eq!(debts.ask(10), Some((at(20), vec![key("x")])));
        debts.remove(&key("x"));
        assert!(wants(&debts, "y") && !wants(&debts, "x"));
        debts.begin([key("z")], at(30));
        assert_eq!(debts.ask(10), Some((at(30), vec![key("y"), key("z")])));
    }

    #[test]
    fn when_both_ask_for_a_key_one_value_wins() {
        let (a, b) = (debts("a", "b"), debts("b", "a"));
        a.add(key("x"), at(1));
        b.add(key("x"), at(1));
        assert_eq!(
            a.answerable(vec![key("x"), key("y")]),
            vec![key("x"), key("y")]
        );
        assert!(a.is_empty());
        assert_eq!(a.dropped(), vec![key("x")]);
        a.begin([key("x"), key("z")], at(3));
        assert!(!wants(&a, "x") && wants(&a, "z"));
        a.forget_dropped(&[key("x")]);
        assert!(a.dropped().is_empty());
        assert_eq!(b.answerable(vec![key("x"), key("y")]), vec![key("y")]);
        assert!(wants(&b, "x"));
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

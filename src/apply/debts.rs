//! Debts: states that the peer owes us. They are kept in a set in Redis, written in the same
//! transactions as the mark, so that a crash forgets none; this is that set in memory. What it holds
//! counts among the [claims](Claims) of this site, by which the peer's own requests are answered.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::converge::{Claims, Wish};
use crate::link::Question;
pub use crate::model::Key;
use crate::model::{Cursor, Need, Seen, SiteId};

/// The most debts. There is one per key that clients write here while the peer's copy of it
/// arrives, and one per key of a command that failed here: beyond this something else is wrong.
pub(super) const MAX_DEBTS: usize = 200_000;

/// Shared between the applier and the answering side.
#[derive(Clone, Debug)]
pub struct Debts {
    peer: SiteId,
    claims: Arc<Claims>,
    inner: Arc<Mutex<Inner>>,
    /// How many there are: set under the lock, and read without it, for every command that is applied asks
    /// whether there is one.
    count: Arc<AtomicUsize>,
}

/// A debt.
#[derive(Clone, Copy, Debug)]
struct Want {
    /// How far the peer must have seen our history when it reads the state.
    after: Cursor,
    need: Need,
}

#[derive(Debug, Default)]
struct Inner {
    wanted: HashMap<Key, Want>,
    /// Those not yet asked for.
    unasked: Vec<Key>,
    /// Those whose state in the last copy was refused; none when that is not known.
    refused: Option<HashSet<Key>>,
}

impl Debts {
    /// No debts of this peer yet.
    #[must_use]
    pub fn new(peer: &SiteId, claims: &Arc<Claims>) -> Self {
        Self {
            peer: peer.clone(),
            claims: Arc::clone(claims),
            inner: Arc::default(),
            count: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes which keys are owed.
    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let changed = change(&mut inner);
        self.count.store(inner.wanted.len(), Ordering::Release);
        changed
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this key is owed.
    #[must_use]
    pub fn wants(&self, db: u32, key: &Bytes) -> bool {
        // A copy asks for each of its keys, and nearly always none is owed.
        !self.is_empty() && self.lock().wanted.contains_key(&(db, key.clone()))
    }

    /// Whether something of this key is known not to be here: a copy to the peer does not tell of it. See
    /// [`Claims::lacks`].
    #[must_use]
    pub fn lacks(&self, db: u32, key: &Bytes) -> bool {
        self.claims.lacks(&self.peer, db, key)
    }

    /// Whether something is known not to be here.
    #[must_use]
    pub fn lack_any(&self) -> bool {
        let inner = self.lock();
        inner.wanted.values().any(|want| want.need == Need::Lacks)
    }

    /// Why a key is owed.
    #[must_use]
    pub fn need(&self, key: &Key) -> Option<Need> {
        self.lock().wanted.get(key).map(|want| want.need)
    }

    /// Whether the peer's answer pays the debt of a key: that nothing is to be said of it does not,
    /// if more than doubts have come up since.
    #[must_use]
    pub fn is_paid(&self, key: &Key, is_said: bool) -> bool {
        let inner = self.lock();
        let want = inner.wanted.get(key);
        want.is_some_and(|want| is_said || want.need == Need::Doubts)
    }

    /// A key is owed; the peer must have seen our history up to `after` when it reads it.
    pub fn add(&self, key: Key, after: Cursor, need: Need) {
        self.change(|inner| {
            let known = inner.wanted.get(&key).map_or(need, |want| want.need);
            let need = need.max(known);
            self.claims.want(&self.peer, &key, need);
            inner.wanted.insert(key.clone(), Want { after, need });
            inner.unasked.push(key);
        });
    }

    /// A state of a copy was refused: a later one is owed.
    pub fn add_copied(&self, key: Key, after: Cursor) {
        if let Some(refused) = &mut self.lock().refused {
            refused.insert(key.clone());
        }
        self.add(key, after, Need::Lacks);
    }

    /// The same of a copy that answers one from here.
    pub fn add_answered(&self, key: Key, after: Cursor) {
        self.claims.tell_when_paid(&self.peer, &key);
        self.add_copied(key, after);
    }

    /// A copy begins: from now on, what is refused of it is remembered.
    pub fn begin_copy(&self) {
        self.lock().refused = Some(HashSet::new());
    }

    /// Whether this key was in the last copy, and its state was refused. What a former life of the sidecar
    /// had refused is not known.
    #[must_use]
    pub fn was_copied(&self, key: &Key) -> bool {
        let inner = self.lock();
        inner
            .refused
            .as_ref()
            .is_some_and(|keys| keys.contains(key))
    }

    /// A state was refused: a later one is owed, for the same reason.
    pub fn add_again(&self, key: Key, after: Cursor) {
        let known = self.lock().wanted.get(&key).map(|want| want.need);
        self.add(key, after, known.unwrap_or(Need::Lacks));
    }

    /// A key is owed whose value is, or may be, wrong here. If it is owed already, the state that is
    /// on its way will do: what the peer did last has come before it. Whether it is a new debt.
    pub fn add_wrong(&self, key: Key, Wish { after, need }: Wish) -> bool {
        let known = self.lock().wanted.get(&key).map(|want| want.need);
        // What is only doubted may not be sent.
        let is_new = known.is_none_or(|known| known == Need::Doubts && need > known);
        if is_new {
            self.add(key, after, need);
        }
        is_new
    }

    /// The debt is paid: the sites that must hear so. None when there was no debt.
    pub fn remove(&self, key: &Key) -> Option<Vec<SiteId>> {
        let was_owed = self.change(|inner| inner.wanted.remove(key).is_some());
        let stale = self.claims.paid(&self.peer, key);
        was_owed.then_some(stale)
    }

    /// Waits for keys that the peer has asked for while we waited for them ourselves, and gives the
    /// question again. Cancel safe.
    pub async fn due(&self) -> Question {
        loop {
            if let Some(due) = self.take_due() {
                return due;
            }
            self.claims.news(&self.peer).await;
        }
    }

    /// The same, if there are any.
    #[must_use]
    pub fn take_due(&self) -> Option<Question> {
        let (need, keys) = self.claims.take_due(&self.peer)?;
        // All of it had been seen when the question came.
        let (after, seen) = (Cursor::ZERO, Seen::default());
        Some(Question {
            after,
            seen,
            need,
            keys,
        })
    }

    /// Forgets what the peer has asked for.
    pub fn forget_asked(&self) {
        self.claims.forget_asked(&self.peer);
    }

    /// Forgets what was asked: everything is asked for again, and must have seen what is here now. The
    /// local Redis may have begun a new history since, with writes that an earlier place says nothing
    /// of.
    pub fn begin(&self, stored: impl IntoIterator<Item = (Key, Need)>, after: Cursor) {
        self.change(|inner| {
            for (key, need) in stored {
                self.claims.want(&self.peer, &key, need);
                let want = inner.wanted.entry(key).or_insert(Want { after, need });
                // It may be there for two reasons.
                want.need = need.max(want.need);
            }
            let wants = inner.wanted.values_mut();
            wants.for_each(|want| want.after = after);
            inner.unasked = inner.wanted.keys().cloned().collect();
        });
    }

    /// What to ask for now: at most `most` keys, all for the same reason, and the place that satisfies
    /// all of them; `seen` is what of third sites is here now.
    #[must_use]
    pub fn ask(&self, most: usize, seen: impl FnOnce() -> Seen) -> Option<Question> {
        let inner = &mut *self.lock();
        let wanted = &inner.wanted;
        inner.unasked.retain(|key| wanted.contains_key(key));
        let why = |key: &Key| wanted.get(key).map(|want| want.need);
        let need = why(inner.unasked.last()?)?;
        let mut keys: Vec<Key> = Vec::new();
        while keys.len() < most
            && let Some(key) = inner.unasked.pop_if(|key| why(key) == Some(need))
        {
            keys.push(key);
        }
        keys.sort();
        keys.dedup();
        let places = keys.iter().filter_map(|key| wanted.get(key));
        let after = places.map(|want| want.after).max()?;
        let seen = seen();
        Some(Question {
            after,
            seen,
            need,
            keys,
        })
    }

    /// The peer asks for these: those of them that it gets now. See [`Claims::answerable`].
    #[must_use]
    pub fn answerable(&self, asked: Vec<Key>, need: Need) -> Vec<Key> {
        self.claims.answerable(&self.peer, asked, need)
    }
}

/// A debt as a member of the set in Redis: `<db>:<key>`, or `?<db>:<key>` when it is not sure that
/// anything is lacking. What is only wrong stands in the journal.
#[must_use]
pub(super) fn member((db, key): &Key, need: Need) -> Vec<u8> {
    let sign = if need == Need::Lacks { "" } else { "?" };
    let mut member = format!("{sign}{db}:").into_bytes();
    member.extend_from_slice(key);
    member
}

/// Reads a member of the set.
#[must_use]
pub(super) fn parse_member(member: &Bytes) -> Option<(Key, Need)> {
    let (member, need) = match member.first() {
        Some(b'?') => (member.slice(1..), Need::Unsure),
        _ => (member.clone(), Need::Lacks),
    };
    let colon = member.iter().position(|b| *b == b':')?;
    let db = std::str::from_utf8(member.get(..colon)?)
        .ok()?
        .parse()
        .ok()?;
    Some(((db, member.slice(colon + 1..)), need))
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
        let (after, need) = (at(offset), Need::Wrong);
        Wish { after, need }
    }

    fn debts(site: &str, peer: &str) -> Debts {
        let [site, peer] = [site, peer].map(|name| SiteId::try_new(name).unwrap());
        let claims = Claims::new(&site, std::slice::from_ref(&peer));
        Debts::new(&peer, &claims)
    }

    fn wants(debts: &Debts, name: &'static str) -> bool {
        let (db, key) = key(name);
        debts.wants(db, &key)
    }

    #[test]
    fn what_is_refused_again_is_asked_for_again() {
        let debts = debts("a", "b");
        debts.add(key("x"), at(5), Need::Lacks);
        debts.add(key("y"), at(9), Need::Lacks);
        let asked = |after, need, keys: &[&'static str]| {
            let (keys, seen) = (keys.iter().map(|k| key(k)).collect(), Seen::default());
            Some(Question {
                after,
                seen,
                need,
                keys,
            })
        };
        assert_eq!(
            debts.ask(10, Seen::default),
            asked(at(9), Need::Lacks, &["x", "y"])
        );
        assert_eq!(debts.ask(10, Seen::default), None);
        debts.add_again(key("x"), at(20));
        assert_eq!(
            debts.ask(10, Seen::default),
            asked(at(20), Need::Lacks, &["x"])
        );
        debts.remove(&key("x"));
        assert!(wants(&debts, "y") && !wants(&debts, "x"));
        debts.begin([(key("z"), Need::Lacks)], at(30));
        assert_eq!(
            debts.ask(10, Seen::default),
            asked(at(30), Need::Lacks, &["y", "z"])
        );
        assert!(!debts.add_wrong(key("y"), wish(31)));
        assert!(debts.add_wrong(key("w"), wish(32)));
        assert_eq!(
            debts.ask(10, Seen::default),
            asked(at(32), Need::Wrong, &["w"])
        );
        debts.add_again(key("w"), at(33));
        assert_eq!(
            debts.ask(10, Seen::default),
            asked(at(33), Need::Wrong, &["w"])
        );
        debts.add(key("w"), at(34), Need::Lacks);
        assert_eq!(
            debts.ask(10, Seen::default),
            asked(at(34), Need::Lacks, &["w"])
        );
        debts.add(key("w"), at(35), Need::Unsure);
        assert_eq!(
            debts.ask(10, Seen::default),
            asked(at(35), Need::Lacks, &["w"])
        );
    }

    #[tokio::test]
    async fn when_both_ask_for_a_key_both_are_answered_one_after_the_other() {
        let (a, b) = (debts("a", "b"), debts("b", "a"));
        a.add_wrong(key("x"), wish(1));
        b.add_wrong(key("x"), wish(1));
        let both = vec![key("x"), key("y")];
        assert_eq!(a.answerable(both.clone(), Need::Wrong), both);
        assert_eq!(b.answerable(both, Need::Wrong), [key("y")]);
        assert!(wants(&a, "x") && wants(&b, "x"));
        // The connection to Redis is opened anew: A still waits.
        b.begin([], at(2));
        // A's value has come.
        b.remove(&key("x"));
        let due = b.due().await;
        assert_eq!((due.need, &due.keys[..]), (Need::Wrong, &[key("x")][..]));
        assert_eq!(b.answerable(due.keys, due.need), [key("x")]);
    }

    #[test]
    fn whose_value_lacks_less_answers_first() {
        let (a, b) = (debts("a", "b"), debts("b", "a"));
        a.add(key("x"), at(1), Need::Lacks);
        b.add_wrong(key("x"), wish(1));
        assert_eq!(a.answerable(vec![key("x")], Need::Wrong), []);
        assert_eq!(b.answerable(vec![key("x")], Need::Lacks), [key("x")]);
        assert!(wants(&a, "x") && wants(&b, "x"));
    }

    #[test]
    fn who_waits_for_the_other_is_decided_anew_when_a_need_has_grown() {
        let (a, b) = (debts("a", "b"), debts("b", "a"));
        for site in [&a, &b] {
            // It was only wrong when it asked first.
            site.add(key("x"), at(1), Need::Lacks);
            assert_eq!(site.answerable(vec![key("x")], Need::Wrong), []);
        }
        assert_eq!(b.answerable(vec![key("x")], Need::Lacks), []);
        assert_eq!(a.answerable(vec![key("x")], Need::Lacks), [key("x")]);
    }

    #[test]
    fn members_survive() {
        for key in [
            key("a"),
            (3, Bytes::from_static(b"x:y\0")),
            (0, Bytes::new()),
        ] {
            for need in [Need::Lacks, Need::Unsure] {
                let read = parse_member(&member(&key, need).into());
                assert_eq!(read, Some((key.clone(), need)));
            }
        }
        assert_eq!(parse_member(&Bytes::from_static(b"x")), None);
    }
}

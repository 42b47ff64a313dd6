//! Sites that ask each other for the same key: who answers first, and who must ask again.
//!
//! A site that wants a key's state itself, because its own value is wrong, has nothing good to say of it.
//! Yet if all waited for each other, all would wait for ever. So there is an order: by how badly the
//! state is needed, then by the name of the site. Who comes before the asker in it answers at once, and
//! remembers that the asker is *misled*; who comes behind answers when its own value is right. Waiting
//! goes from lower to higher only, so it ends. When what was wanted has come, the misled are told that
//! what they got is *stale*, and ask again: that goes from lower to higher too.
//!
//! Of two sites the one that was misled need not be told when it was itself that answered last: then its
//! value is the one that is here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::{Key, Need, SiteId};

/// What this site wants and was asked for, of all peers. Shared by their tasks and the intake.
#[derive(Debug)]
pub struct Claims {
    site: SiteId,
    inner: Mutex<Inner>,
    news: BTreeMap<SiteId, News>,
}

/// Of one peer.
#[derive(Debug, Default)]
struct News {
    /// Something is due to it.
    is_due: Notify,
    /// Something is stale there.
    is_stale: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Keys whose states this site wants, and of whom.
    wanted: HashMap<Key, BTreeMap<SiteId, Need>>,
    /// Those that a peer has asked for, and gets when they have come; how it needs them.
    deferred: HashMap<Key, BTreeMap<SiteId, Need>>,
    /// Those of them that have come.
    due: HashMap<SiteId, Vec<(Key, Need)>>,
    /// Those of which a peer was sent a value that was wrong here.
    misled: HashMap<Key, BTreeSet<SiteId>>,
    /// Those of which a peer must be told so, until it has asked again; numbered.
    stale: HashMap<SiteId, BTreeMap<Key, u64>>,
    /// The last number.
    number: u64,
}

impl Claims {
    /// No claims yet between this site and these.
    #[must_use]
    pub fn new(site: &SiteId, peers: &[SiteId]) -> Arc<Self> {
        let news = peers.iter().map(|peer| (peer.clone(), News::default()));
        Arc::new(Self {
            site: site.clone(),
            inner: Mutex::default(),
            news: news.collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This site wants the state of a key from a peer.
    pub fn want(&self, peer: &SiteId, key: &Key, need: Need) {
        let inner = &mut *self.lock();
        let of = inner.wanted.entry(key.clone()).or_default();
        let known = of.entry(peer.clone()).or_insert(need);
        *known = need.max(*known);
    }

    /// A wish from before this process began: whoever has asked for the key since it came up may have
    /// been misled.
    pub fn suspect(&self, peer: &SiteId, key: &Key) {
        let others = self.news.keys().filter(|site| *site != peer).cloned();
        let mut others = others.peekable();
        if others.peek().is_some() {
            let inner = &mut *self.lock();
            inner.misled.entry(key.clone()).or_default().extend(others);
        }
    }

    /// What this site wanted of a peer has come, or is not wanted any more. Those that must be told when
    /// nothing else is wanted of the key: they were misled.
    pub fn paid(&self, peer: &SiteId, key: &Key) -> Vec<SiteId> {
        let inner = &mut *self.lock();
        if let Some(of) = inner.wanted.get_mut(key) {
            of.remove(peer);
            if !of.is_empty() {
                return Vec::new();
            }
            inner.wanted.remove(key);
        }
        for (asker, need) in inner.deferred.remove(key).into_iter().flatten() {
            let due = inner.due.entry(asker.clone()).or_default();
            due.push((key.clone(), need));
            if let Some(news) = self.news.get(&asker) {
                news.is_due.notify_one();
            }
        }
        let mut misled = inner.misled.remove(key).unwrap_or_default();
        misled.remove(peer);
        misled.into_iter().collect()
    }

    /// A peer asks for these keys: those of them that it gets now.
    ///
    /// Each new need is asked for anew. So when all that was asked has come, both sites agree on who is
    /// first; and while they do not, both may wait, or a state is refused that has not seen the other:
    /// never do the two swap values.
    #[must_use]
    pub fn answerable(&self, asker: &SiteId, mut asked: Vec<Key>, need: Need) -> Vec<Key> {
        let Inner {
            wanted, deferred, ..
        } = &mut *self.lock();
        asked.retain(|key| {
            let ours = wanted.get(key).and_then(|of| of.values().max());
            let is_first = ours.is_none_or(|ours| (*ours, &self.site) < (need, asker));
            let of = deferred.entry(key.clone()).or_default();
            if !is_first {
                let known = of.entry(asker.clone()).or_insert(need);
                *known = need.max(*known);
            } else if of.get(asker).is_some_and(|known| *known <= need) {
                of.remove(asker);
            }
            if of.is_empty() {
                deferred.remove(key);
            }
            is_first
        });
        asked
    }

    /// A peer is sent the state of a key, read just now: it is misled if that is wanted here, or known to
    /// be wrong for another reason.
    pub fn answered(&self, asker: &SiteId, key: &Key, is_wrong: bool) {
        let inner = &mut *self.lock();
        let is_wanted = inner.wanted.get(key).is_some_and(|of| !of.is_empty());
        if is_wanted || is_wrong {
            let misled = inner.misled.entry(key.clone()).or_default();
            misled.insert(asker.clone());
        }
    }

    /// Keys that a peer has asked for while they were wanted here, and that have come: all for the same
    /// reason. None when there are none.
    #[must_use]
    pub fn take_due(&self, asker: &SiteId) -> Option<(Need, Vec<Key>)> {
        let inner = &mut *self.lock();
        let due = inner.due.get_mut(asker)?;
        let need = due.first().map(|(_, need)| *need)?;
        let of_a_kind = due.extract_if(.., |(_, n)| *n == need);
        Some((need, of_a_kind.map(|(key, _)| key).collect()))
    }

    /// Waits until something may be due to a peer. Cancel safe. For one who waits.
    pub async fn news(&self, peer: &SiteId) {
        match self.news.get(peer) {
            Some(news) => news.is_due.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Forgets what a peer has asked for: it asks anew.
    pub fn forget_asked(&self, asker: &SiteId) {
        let inner = &mut *self.lock();
        inner.due.remove(asker);
        inner.deferred.retain(|_, of| {
            of.remove(asker);
            !of.is_empty()
        });
    }

    /// A peer must be told that what it was sent of this key is not right.
    pub fn add_stale(&self, peer: &SiteId, key: Key) {
        let inner = &mut *self.lock();
        inner.number += 1;
        let stale = inner.stale.entry(peer.clone()).or_default();
        stale.insert(key, inner.number);
        if let Some(news) = self.news.get(peer) {
            news.is_stale.notify_one();
        }
    }

    /// Waits until something may have become stale at a peer. Cancel safe. For one who waits.
    pub async fn stale_news(&self, peer: &SiteId) {
        match self.news.get(peer) {
            Some(news) => news.is_stale.notified().await,
            None => std::future::pending().await,
        }
    }

    /// What a peer must be told to be stale, has not asked for since, and was not told when the last
    /// number was `told`; and the last number now.
    #[must_use]
    pub fn stale(&self, peer: &SiteId, told: u64) -> (Vec<Key>, u64) {
        let inner = self.lock();
        let stale = inner.stale.get(peer).into_iter().flatten();
        let new = stale.filter(|(_, number)| **number > told);
        (new.map(|(key, _)| key.clone()).collect(), inner.number)
    }

    /// A peer asks for these keys: those of them of which it knows now that they were stale.
    #[must_use]
    pub fn told(&self, peer: &SiteId, asked: &[Key]) -> Vec<Key> {
        let inner = &mut *self.lock();
        let Some(stale) = inner.stale.get_mut(peer) else {
            return Vec::new();
        };
        let told = asked.iter().filter(|key| stale.remove(*key).is_some());
        told.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn site(name: &str) -> SiteId {
        SiteId::try_new(name).unwrap()
    }

    fn claims(name: &str) -> Arc<Claims> {
        let names = ["a", "b", "c"].into_iter().filter(|peer| *peer != name);
        let peers: Vec<SiteId> = names.map(site).collect();
        Claims::new(&site(name), &peers)
    }

    fn key(name: &'static str) -> Key {
        (0, Bytes::from_static(name.as_bytes()))
    }

    fn answers(claims: &Claims, asker: &str, need: Need) -> bool {
        let asker = site(asker);
        let keys = claims.answerable(&asker, vec![key("k")], need);
        keys.iter()
            .for_each(|key| claims.answered(&asker, key, false));
        !keys.is_empty()
    }

    #[test]
    fn who_comes_first_answers_while_it_wants_the_key_itself_and_tells_later_that_it_was_wrong() {
        let a = claims("a");
        a.want(&site("b"), &key("k"), Need::Wrong);
        assert!(answers(&a, "c", Need::Wrong));
        assert_eq!(a.paid(&site("b"), &key("k")), [site("c")]);
        assert!(answers(&a, "c", Need::Wrong));
        a.want(&site("b"), &key("k"), Need::Wrong);
        assert_eq!(a.paid(&site("b"), &key("k")), [], "it was right then");
    }

    #[test]
    fn who_comes_behind_waits_until_its_own_value_is_right() {
        let b = claims("b");
        b.want(&site("a"), &key("k"), Need::Wrong);
        b.want(&site("c"), &key("k"), Need::Wrong);
        assert!(!answers(&b, "a", Need::Wrong));
        assert_eq!(b.paid(&site("a"), &key("k")), []);
        assert_eq!(b.take_due(&site("a")), None, "c owes it still");
        assert_eq!(b.paid(&site("c"), &key("k")), []);
        let due = Some((Need::Wrong, vec![key("k")]));
        assert_eq!(b.take_due(&site("a")), due);
        assert_eq!(b.take_due(&site("a")), None);
    }

    #[test]
    fn the_greater_need_is_answered_first() {
        let (a, c) = (claims("a"), claims("c"));
        a.want(&site("c"), &key("k"), Need::Lacks);
        c.want(&site("a"), &key("k"), Need::Wrong);
        assert!(!answers(&a, "c", Need::Wrong));
        assert!(answers(&c, "a", Need::Lacks));
        assert_eq!(c.paid(&site("a"), &key("k")), [], "its value is a's");
    }

    #[test]
    fn what_is_stale_is_told_until_it_is_asked_for() {
        let a = claims("a");
        a.add_stale(&site("c"), key("k"));
        assert_eq!(a.stale(&site("c"), 0), (vec![key("k")], 1));
        assert_eq!(a.stale(&site("c"), 1), (Vec::new(), 1));
        assert_eq!(a.stale(&site("b"), 0), (Vec::new(), 1));
        assert_eq!(a.told(&site("c"), &[key("other"), key("k")]), [key("k")]);
        assert_eq!(a.stale(&site("c"), 0), (Vec::new(), 1));
        // Nobody knows who was answered before a restart.
        a.suspect(&site("b"), &key("k"));
        a.want(&site("b"), &key("k"), Need::Wrong);
        assert_eq!(a.paid(&site("b"), &key("k")), [site("c")]);
    }
}

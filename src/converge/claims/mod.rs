//! Sites that ask each other for the same key: who answers first, and who has the last word.
//!
//! A site that wants a key's state itself, because its own value is wrong, has nothing good to say of it.
//! Yet if all waited for each other, all would wait for ever. So there is an order: by how badly the
//! state is needed, then by rank. Who comes before the asker in it answers at once; who comes behind
//! answers when its own value is right. Of two sites both then have the same.
//!
//! Of three and more that would not be enough: a third one has executed the writes of both in some order
//! of its own. There the site whose name sorts first is the *arbiter*: its value is the one that all end
//! with. Whoever meets a conflict asks it, whatever the order was in which the two took effect there; and
//! when it has found its own order to be wrong, and has taken another site's value, it tells all others
//! that what they have of the key is *stale*, and they ask again. While it is out of reach, the others ask
//! each other as two sites do.
//!
//! Whose value lacks what another site still has to bring does not give it away before: all could end with it.
//! Here an order is no help, and sites could wait for each other in a circle. So who is asked for a key for
//! which it waits itself says so to the asker, and for that one nobody waits ([`Waits`]).

mod waits;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use self::waits::Waits;
use crate::model::{Key, Need, SiteId};

/// What this site wants and was asked for, of all peers. Shared by their tasks and the intake.
#[derive(Debug)]
pub struct Claims {
    site: SiteId,
    /// The site that has the last word; none of two.
    arbiter: Option<SiteId>,
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
    /// It has asked for what this site waits for itself.
    is_waited: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Keys whose states this site wants, and of whom.
    wanted: HashMap<Key, BTreeMap<SiteId, Need>>,
    /// Those that a peer has asked for, and gets when they have come; how it needs them.
    deferred: HashMap<Key, BTreeMap<SiteId, Need>>,
    /// Those of them that have come.
    due: HashMap<SiteId, Vec<(Key, Need)>>,
    /// Those of which a peer must be told so, until it has taken note of it; numbered.
    stale: HashMap<SiteId, BTreeMap<Key, u64>>,
    /// The last number.
    number: u64,
    /// The peers with which there is a session.
    linked: BTreeSet<SiteId>,
    /// Who waits for what of it itself.
    waits: Waits,
    /// Keys that have come with an answer to a copy, and by whom: the arbiter is asked whether they are right.
    given: HashMap<Key, BTreeSet<SiteId>>,
    /// Peers that get a copy from here, or have got one with what was wrong here.
    copies: BTreeMap<SiteId, Copied>,
}

/// Which keys a peer has from a copy as they were here when they were wrong.
#[derive(Debug)]
enum Copied {
    /// The copy is under way: it may be any, but for these, of which the peer has heard. Once is enough: else
    /// two sites that hear of each other's would go on for ever.
    AllBut(HashSet<Key>),
    /// It is complete: these are still wrong here.
    Left(HashSet<Key>),
}

impl Copied {
    /// A key is right here now: whether the peer must hear so.
    fn take(&mut self, key: &Key) -> bool {
        match self {
            Self::AllBut(told) => told.insert(key.clone()),
            Self::Left(left) => left.remove(key),
        }
    }
}

impl Claims {
    /// No claims yet between this site and these.
    #[must_use]
    pub fn new(site: &SiteId, peers: &[SiteId]) -> Arc<Self> {
        let news = peers.iter().map(|peer| (peer.clone(), News::default()));
        let first = peers.iter().chain([site]).min();
        Arc::new(Self {
            site: site.clone(),
            arbiter: first.filter(|_| peers.len() > 1).cloned(),
            inner: Mutex::default(),
            news: news.collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer that has the last word; none when it is this site, and of two sites.
    #[must_use]
    pub fn arbiter(&self) -> Option<&SiteId> {
        self.arbiter
            .as_ref()
            .filter(|arbiter| **arbiter != self.site)
    }

    /// Whether this site has the last word among three or more.
    #[must_use]
    pub fn is_arbiter(&self) -> bool {
        self.arbiter.as_ref() == Some(&self.site)
    }

    /// Whether there is a session with a peer.
    #[must_use]
    pub fn is_linked(&self, peer: &SiteId) -> bool {
        self.lock().linked.contains(peer)
    }

    /// Whether there is one with each peer.
    #[must_use]
    pub fn are_all_linked(&self) -> bool {
        self.lock().linked.len() == self.news.len()
    }

    /// A session with a peer begins, or is over.
    pub fn set_linked(&self, peer: &SiteId, is_linked: bool) {
        let inner = &mut *self.lock();
        match is_linked {
            true => inner.linked.insert(peer.clone()),
            false => inner.linked.remove(peer),
        };
        inner.waits.forget(peer);
        // Who could not be answered before something had come of that peer does not wait for it.
        let waiting: Vec<Key> = inner.deferred.keys().cloned().collect();
        waiting.iter().for_each(|key| self.release(inner, key));
    }

    /// This site wants the state of a key from a peer.
    pub fn want(&self, peer: &SiteId, key: &Key, need: Need) {
        let inner = &mut *self.lock();
        let of = inner.wanted.entry(key.clone()).or_default();
        let known = of.entry(peer.clone()).or_insert(need);
        *known = need.max(*known);
        // It is asked anew.
        inner.waits.remove(peer, key);
    }

    /// What this site wanted of a peer has come, or is not wanted any more. The peers that must hear so.
    pub fn paid(&self, peer: &SiteId, key: &Key) -> Vec<SiteId> {
        let inner = &mut *self.lock();
        let mut was_wanted = false;
        if let Some(of) = inner.wanted.get_mut(key) {
            was_wanted = of.remove(peer).is_some();
            if of.is_empty() {
                inner.wanted.remove(key);
            }
        }
        inner.waits.remove(peer, key);
        self.release(inner, key);
        // Also where the value that has come is the one that was here: who was answered in between, or
        // before this process began, may have another.
        if self.is_arbiter() {
            return self.news.keys().cloned().collect();
        }
        if !was_wanted || inner.wanted.contains_key(key) {
            return Vec::new();
        }
        // Whose value it is has it.
        let copies = inner.copies.iter_mut().filter(|(other, _)| *other != peer);
        let told = copies.filter_map(|(other, copied)| copied.take(key).then(|| other.clone()));
        let told = told.collect();
        let is_over = |copied: &Copied| matches!(copied, Copied::Left(left) if left.is_empty());
        inner.copies.retain(|_, copied| !is_over(copied));
        told
    }

    /// A key has come from a peer, with an answer to a copy, and the arbiter is asked for it.
    pub fn note_given(&self, by: &SiteId, key: &Key) {
        let inner = &mut *self.lock();
        let givers = inner.given.entry(key.clone()).or_default();
        givers.insert(by.clone());
    }

    /// The arbiter's value of a key is here: who has given another one must hear so.
    pub fn take_givers(&self, key: &Key, said_by: &SiteId) -> BTreeSet<SiteId> {
        match self.arbiter() == Some(said_by) {
            true => self.lock().given.remove(key).unwrap_or_default(),
            false => BTreeSet::new(),
        }
    }

    /// A copy to a peer begins, before its snapshot is taken. Of three sites and more the peer must hear
    /// what was wrong in it: it has not met what made it wrong.
    pub fn begin_copy(&self, peer: &SiteId) {
        if self.arbiter.is_some() {
            let all = Copied::AllBut(HashSet::new());
            self.lock().copies.insert(peer.clone(), all);
        }
    }

    /// The peer has all of the copy, or gets none.
    pub fn end_copy(&self, peer: &SiteId) {
        let inner = &mut *self.lock();
        if inner.copies.remove(peer).is_some() && !inner.wanted.is_empty() {
            let left = Copied::Left(inner.wanted.keys().cloned().collect());
            inner.copies.insert(peer.clone(), left);
        }
    }

    /// A copy has brought a key that was refused, and is asked for: third sites must hear when it has come, as of
    /// what was taken of it.
    ///
    /// What the arbiter holds third sites have, unless they were refilled from here, without what only this
    /// answer brings, or have a write of this site that it never gets. What others hold the arbiter is asked for,
    /// and they must hear what that says.
    pub fn tell_when_paid(&self, answered_by: &SiteId, key: &Key) {
        if self.arbiter() != Some(answered_by) {
            return self.note_given(answered_by, key);
        }
        let copies = &mut self.lock().copies;
        for third in self.news.keys().filter(|peer| *peer != answered_by) {
            let copied = copies.entry(third.clone());
            match copied.or_insert_with(|| Copied::Left(HashSet::new())) {
                Copied::AllBut(told) => told.remove(key),
                Copied::Left(left) => left.insert(key.clone()),
            };
        }
    }

    /// Answers those who have asked for a key and need not wait any longer.
    fn release(&self, inner: &mut Inner, key: &Key) {
        let Some(mut of) = inner.deferred.remove(key) else {
            return;
        };
        let is_first = |asker: &SiteId, need: &mut Need| self.is_first(inner, key, asker, *need);
        let now: Vec<(SiteId, Need)> = of.extract_if(.., is_first).collect();
        if !of.is_empty() {
            inner.deferred.insert(key.clone(), of);
        }
        for (asker, need) in now {
            if let Some(news) = self.news.get(&asker) {
                news.is_due.notify_one();
            }
            let due = inner.due.entry(asker).or_default();
            due.push((key.clone(), need));
        }
    }

    /// Whether this site answers a peer before it has got what it wants of the key itself.
    fn is_first(&self, inner: &Inner, key: &Key, asker: &SiteId, need: Need) -> bool {
        let leads = self.is_arbiter();
        // The last word is said when nothing is wrong any more, as far as others are there to mend it.
        // Elsewhere a value in the wrong order does not keep others from asking for it; that something is
        // not there does.
        let counts = |(of, need): &(&SiteId, &Need)| match leads {
            true => inner.linked.contains(*of),
            false => *of == asker || **need >= Need::Unsure,
        };
        let ours = inner.wanted.get(key).into_iter().flatten().filter(counts);
        // Its doubts count as much as what others know to be wrong: they will have what it has.
        let weight = |site, need: Need| match self.arbiter.as_ref() == Some(site) {
            true => (need.max(Need::Wrong), true, site),
            false => (need, false, site),
        };
        let ours = ours.map(|(_, need)| *need).max();
        ours.is_none_or(|ours| weight(&self.site, ours) < weight(asker, need))
            && !self.lacks_of_another(inner, key, asker)
    }

    /// Whether a key must not come to a peer before another site has brought what is not here: one that does
    /// not wait itself.
    fn lacks_of_another(&self, inner: &Inner, key: &Key, asker: &SiteId) -> bool {
        let mut ours = inner.wanted.get(key).into_iter().flatten();
        let comes = |of: &SiteId| inner.linked.contains(of) && !inner.waits.says(of, key);
        ours.any(|(of, need)| of != asker && *need >= Need::Lacks && comes(of))
    }

    /// Whether something of a key is known not to be here that this peer is to bring, or another one. What is
    /// only wrong, or perhaps not all here, may still hold writes that are in no journal.
    #[must_use]
    pub fn lacks(&self, peer: &SiteId, db: u32, key: &Bytes) -> bool {
        let inner = &*self.lock();
        // A copy asks for each of its keys, and nearly always none is wanted.
        if inner.wanted.is_empty() {
            return false;
        }
        let key = (db, key.clone());
        let of_peer = || inner.wanted.get(&key).and_then(|of| of.get(peer));
        of_peer() == Some(&Need::Lacks) || self.lacks_of_another(inner, &key, peer)
    }

    /// Whether a key that this site gives away may lack something that another one is to bring.
    fn may_lack(wanted: &HashMap<Key, BTreeMap<SiteId, Need>>, key: &Key, asker: &SiteId) -> bool {
        let mut ours = wanted.get(key).into_iter().flatten();
        ours.any(|(of, need)| of != asker && *need >= Need::Unsure)
    }

    /// A peer asks for these keys: those of them that it gets now.
    ///
    /// Each new need is asked for anew. So when all that was asked has come, both sites agree on who is
    /// first; and while they do not, both may wait, or a state is refused that has not seen the other:
    /// never do the two swap values.
    #[must_use]
    pub fn answerable(&self, asker: &SiteId, mut asked: Vec<Key>, need: Need) -> Vec<Key> {
        let inner = &mut *self.lock();
        let (has_third, mut has_news) = (self.arbiter.is_some(), false);
        asked.retain(|key| {
            let is_first = self.is_first(inner, key, asker, need);
            let deferred = &mut inner.deferred;
            let of = deferred.entry(key.clone()).or_default();
            let waits = has_third && (!is_first || Self::may_lack(&inner.wanted, key, asker));
            has_news |= inner.waits.tell(asker, key, waits);
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
        if let Some(news) = self.news.get(asker).filter(|_| has_news) {
            news.is_waited.notify_one();
        }
        asked
    }

    /// Keys for which a peer has asked and for which this site waits itself, of which it has not been told: at
    /// most so many.
    #[must_use]
    pub fn take_waits(&self, asker: &SiteId, most: usize) -> Vec<Key> {
        self.lock().waits.take_untold(asker, most)
    }

    /// Waits until there may be some. Cancel safe. For one who waits.
    pub async fn waits_news(&self, asker: &SiteId) {
        match self.news.get(asker) {
            Some(news) => news.is_waited.notified().await,
            None => std::future::pending().await,
        }
    }

    /// A peer that was asked for these keys waits for them itself: others do not wait for what it would bring.
    pub fn peer_waits(&self, peer: &SiteId, keys: &[Key]) {
        let inner = &mut *self.lock();
        for key in keys {
            let is_wanted = inner
                .wanted
                .get(key)
                .is_some_and(|of| of.contains_key(peer));
            if is_wanted {
                inner.waits.add(peer, key);
                self.release(inner, key);
            }
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

    /// What a peer must be told to be stale, by number, from behind `told`.
    #[must_use]
    pub fn stale(&self, peer: &SiteId, told: u64) -> Vec<(u64, Key)> {
        let inner = self.lock();
        let stale = inner.stale.get(peer).into_iter().flatten();
        let new = stale.filter(|(_, number)| **number > told);
        let mut new: Vec<_> = new.map(|(key, number)| (*number, key.clone())).collect();
        new.sort_unstable();
        new
    }

    /// Whether a peer must be told more to be stale than what it was `told`.
    #[must_use]
    pub fn has_stale(&self, peer: &SiteId, told: u64) -> bool {
        let inner = self.lock();
        let mut stale = inner.stale.get(peer).into_iter().flat_map(BTreeMap::values);
        stale.any(|number| *number > told)
    }

    /// A peer has taken note of all that it was told up to this number: these keys. What has become stale
    /// once more since then has a later number.
    #[must_use]
    pub fn heard(&self, peer: &SiteId, upto: u64) -> Vec<Key> {
        let inner = &mut *self.lock();
        let Some(stale) = inner.stale.get_mut(peer) else {
            return Vec::new();
        };
        let heard = stale.extract_if(.., |_, number| *number <= upto);
        heard.map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests;

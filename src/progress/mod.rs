//! Positions that the parts tell each other. A position needs no queue, only its newest value.

mod reached;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

pub use self::reached::{Reached, ReachedThen, Records, seen_without_parts};
use crate::model::{Cursor, Epoch, InstanceId, Lacking, Mark, Offset, Owes, ReplId, Seen, SiteId};

/// How the current epoch began, and what peers must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochState {
    /// The epoch.
    pub epoch: Epoch,
    /// The id that Redis gives to the history now.
    pub replid: ReplId,
    /// Where the epoch began.
    pub began: Offset,
    /// The last epoch that began with data which the records before it do not explain: a peer
    /// whose data rests on an earlier one needs a copy. Zero when none did.
    pub base: Epoch,
    /// The last epoch in which this Redis came back older than its journal: until it has got a
    /// copy from each peer since then, it lacks writes. Zero when none.
    pub older: Epoch,
    /// The last epoch with whose beginning this Redis may have forgotten something, whatever the
    /// other two say: it was not the same process in the same history, only further on.
    pub doubt: Epoch,
    /// Whether there was no data when the first epoch began.
    pub empty: bool,
}

impl EpochState {
    /// What a copy that begins now knows of keys that are not here; the mark is that of the site that sends it.
    ///
    /// The mark says when the two were made equal. Since then clients may have written here while nobody
    /// read. That those deleted what is missing is certain only where everything has travelled, and where
    /// the Redis is the process that it was, in the same history: it cannot have forgotten anything.
    #[must_use]
    pub fn lacking(&self, mark: &Mark) -> Lacking {
        let is_certain = mark.entire && mark.home >= self.doubt;
        let is_gap = match mark.copy {
            // It has begun before, and the mark says since when.
            Some(begun) => begun.lacking != Lacking::New,
            None => mark.base > Epoch::UNDONE && mark.home < self.base && self.older < self.base,
        };
        let was_doubtful = mark.copy.is_some_and(|c| c.lacking == Lacking::Doubtful);
        match is_gap {
            true if is_certain && !was_doubtful => Lacking::Deleted,
            true => Lacking::Doubtful,
            false => Lacking::New,
        }
    }

    /// What a site owes that has got a copy which is to be answered; `is_new`: whether it has written what the
    /// copy had not seen.
    #[must_use]
    pub fn owes(&self, mark: &Mark, is_new: bool) -> Owes {
        match is_new {
            _ if mark.home < self.base.max(self.older) => Owes::All,
            true => Owes::Written,
            false => Owes::Missing,
        }
    }
}

/// The newest fence of one name that has come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceSeen {
    /// The life of the sidecar that set it.
    pub instance: InstanceId,
    /// Its number.
    pub number: u64,
    /// Where it ends in our stream.
    pub at: Cursor,
    /// What of each peer had come back before it: exactly what a state read there holds.
    pub seen: Arc<Seen>,
    /// The last records of that.
    pub causes: Arc<Seen>,
}

/// What the intake has read.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The current epoch; none before the first attach.
    pub state: Option<Arc<EpochState>>,
    /// The life of the server process, of the primary: what is written to another is not read.
    pub server: Arc<str>,
    /// Which attachment to the stream this is, counted from 1; 0 while there is none. What is
    /// written while there is none need not come back.
    pub attached: u64,
    /// Everything up to here has been read and journaled.
    pub read: Cursor,
    /// Per site, what of its history had come back here.
    pub seen: Arc<Seen>,
    /// The last records of that; the same where there are no third sites.
    pub causes: Arc<Seen>,
    /// Of that, what had been judged: whether what came back took effect in the right order.
    pub judged: Arc<Seen>,
    /// The marks, as they last said something new besides positions.
    pub marks: Arc<BTreeMap<SiteId, Mark>>,
    /// Per name, the newest fence that has come back.
    pub fences: Arc<BTreeMap<String, FenceSeen>>,
    /// Counts how often marks may have been removed by a client.
    pub marks_removed: u64,
    /// Databases into which marks have been carried by SWAPDB.
    pub strays: Option<u32>,
    /// A mark that another sidecar has written while we serve this site.
    pub foreign: Option<(SiteId, InstanceId)>,
    /// The number of the last self mark that has come back.
    pub self_mark: u64,
}

impl Progress {
    /// The peers that may give back what the local Redis has lost, but for one that asks; none where it is here
    /// again. A copy from here that lacks it would pass for one with all that this site has ever written.
    ///
    /// One that gives back is enough: it waits for all that our journal holds before it makes its copy. No two
    /// sites wait for each other: who gives back gets no copy from here, so that it has got back what it had lost.
    #[must_use]
    pub fn restorers(&self, sources: &Sources, asks: &SiteId) -> Vec<SiteId> {
        let state = self
            .state
            .as_deref()
            .filter(|state| state.older > Epoch::NEVER);
        let Some(state) = state else {
            return Vec::new();
        };
        let is_back = |mark: &Mark| {
            mark.home >= state.older && mark.base >= Epoch::UNDONE && mark.copy.is_none()
        };
        if self.marks.values().any(is_back) {
            return Vec::new();
        }
        let others = self.marks.keys().filter(|site| *site != asks);
        let may = others.filter(|site| sources.may_restore(site, state.epoch));
        may.cloned().collect()
    }
}

/// Which peers give back what the local Redis has lost.
#[derive(Debug, Default)]
pub struct Sources(watch::Sender<BTreeMap<SiteId, (Epoch, bool)>>);

impl Sources {
    /// It has been agreed with a peer, in this epoch of ours, whether a copy comes from it and none goes there.
    pub fn note(&self, peer: &SiteId, epoch: Epoch, restores: bool) {
        self.0.send_if_modified(|known| {
            known.insert(peer.clone(), (epoch, restores)) != Some((epoch, restores))
        });
    }

    /// Whether it does, or nothing has been agreed yet in this epoch.
    fn may_restore(&self, peer: &SiteId, epoch: Epoch) -> bool {
        let known = self.0.borrow().get(peer).copied();
        known.is_none_or(|(since, restores)| since != epoch || restores)
    }

    /// Shows when there is something new.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<SiteId, (Epoch, bool)>> {
        self.0.subscribe()
    }
}

/// What one peer has of our history, as it told us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Applied there.
    pub applied: Cursor,
    /// Come back there in its own stream: its records from now on have seen it.
    pub seen: Cursor,
}

/// What each peer has of our history, and of the others'.
#[derive(Debug)]
pub struct Deliveries {
    site: SiteId,
    peers: HashMap<SiteId, Mutex<Told>>,
    /// A peer has applied more.
    news: Notify,
}

/// What one peer has told.
#[derive(Clone, Debug, Default)]
struct Told {
    applied: Cursor,
    /// Of each site.
    seen: Seen,
}

impl Deliveries {
    /// Nothing delivered yet from this site to any of these.
    #[must_use]
    pub fn new(site: &SiteId, peers: &[SiteId]) -> Arc<Self> {
        let peers = peers.iter().map(|p| (p.clone(), Mutex::default()));
        Arc::new(Self {
            site: site.clone(),
            peers: peers.collect(),
            news: Notify::new(),
        })
    }

    fn told(&self, peer: &SiteId) -> Option<MutexGuard<'_, Told>> {
        let told = self.peers.get(peer)?.lock();
        Some(told.unwrap_or_else(PoisonError::into_inner))
    }

    /// A peer has applied our history up to here.
    pub fn applied(&self, peer: &SiteId, applied: Cursor) {
        if let Some(mut told) = self.told(peer)
            && applied > told.applied
        {
            told.applied = applied;
            self.news.notify_one();
        }
    }

    /// So much of each site's history has come back at a peer: its records from now on have seen it.
    pub fn seen(&self, peer: &SiteId, seen: &Seen) {
        if let Some(mut told) = self.told(peer) {
            for (site, at) in seen.iter() {
                told.seen.advance(site, *at);
            }
        }
    }

    /// A peer's data holds so much of ours and of the others' histories, and no more. Where we had known
    /// of more, its Redis has lost that, and up to where it had held each is given: what it writes now
    /// may not have seen what it had.
    #[must_use]
    pub fn rewind(&self, peer: &SiteId, at: Cursor, seen: &Seen) -> Seen {
        let mut lost = Seen::default();
        let Some(mut told) = self.told(peer) else {
            return lost;
        };
        let known = told.applied.max(told.seen.of(&self.site));
        if known > at {
            lost.advance(&self.site, known);
        }
        for (site, known) in told.seen.iter() {
            if *site != self.site && *known > seen.of(site) {
                lost.advance(site, *known);
            }
        }
        let mut now = seen.clone();
        now.advance(&self.site, at);
        (told.applied, told.seen) = (told.applied.min(at), told.seen.common(&now));
        lost
    }

    /// Waits until a peer has applied more than when this was last waited for. For one who waits.
    /// Cancel safe.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// What this peer has.
    #[must_use]
    pub fn of(&self, peer: &SiteId) -> Delivered {
        let told = self.told(peer);
        told.map_or_else(Delivered::default, |told| self.delivered(&told))
    }

    fn delivered(&self, told: &Told) -> Delivered {
        Delivered {
            applied: told.applied,
            seen: told.seen.of(&self.site),
        }
    }

    /// What every peer has: the least of all.
    #[must_use]
    pub fn by_all(&self) -> Delivered {
        let each = self.peers.keys().map(|peer| self.of(peer));
        each.reduce(|a, b| Delivered {
            applied: a.applied.min(b.applied),
            seen: a.seen.min(b.seen),
        })
        .unwrap_or_default()
    }

    /// What every other peer has seen of a peer's history.
    #[must_use]
    pub fn of_third(&self, origin: &SiteId) -> Cursor {
        let others = self.peers.keys().filter(|peer| *peer != origin);
        let seen = others.filter_map(|peer| Some(self.told(peer)?.seen.of(origin)));
        seen.min().unwrap_or_default()
    }
}

/// What records of each peer had come back at recent places of our stream.
#[derive(Debug, Default)]
pub struct SeenAt(Mutex<VecDeque<(Cursor, Arc<Seen>)>>);

/// The most places that are remembered: those of some seconds. Whoever asks does so at once.
const MAX_PLACES: usize = 1 << 16;

impl SeenAt {
    /// From this place on, this has been seen.
    pub fn note(&self, at: Cursor, seen: &Arc<Seen>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MAX_PLACES {
            places.pop_front();
        }
        places.push_back((at, Arc::clone(seen)));
    }

    /// What had been seen at a place; none when that is not remembered.
    #[must_use]
    pub fn find(&self, at: Cursor) -> Option<Arc<Seen>> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = places.partition_point(|(place, _)| *place <= at);
        let (_, seen) = places.get(behind.checked_sub(1)?)?;
        Some(Arc::clone(seen))
    }
}

/// The part of a full journal that is kept for what cannot wait. A session begins with reading our own
/// stream up to a fence, and only a session makes room: without a reserve, each would wait for the other.
#[derive(Debug, Default)]
pub struct Reserve {
    claims: AtomicUsize,
    is_full: watch::Sender<bool>,
}

/// While this lives, reading may use the reserve.
#[derive(Debug)]
pub struct Claim(Arc<Reserve>);

impl Reserve {
    /// Lets reading go on into the reserve.
    #[must_use]
    pub fn claim(self: &Arc<Self>) -> Claim {
        self.claims.fetch_add(1, Ordering::AcqRel);
        Claim(Arc::clone(self))
    }

    /// Whether somebody has a claim.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.claims.load(Ordering::Acquire) > 0
    }

    /// Says whether reading waits for room in the journal.
    pub fn set_full(&self, is_full: bool) {
        let is_new = |known: &mut bool| std::mem::replace(known, is_full) != is_full;
        self.is_full.send_if_modified(is_new);
    }

    /// Waits until reading waits for room. Cancel safe.
    pub async fn full(&self) {
        let mut is_full = self.is_full.subscribe();
        // It ends with its sender, which is here.
        is_full.wait_for(|is_full| *is_full).await.ok();
    }

    /// Waits until reading does not wait for room. Cancel safe.
    pub async fn room(&self) {
        let mut is_full = self.is_full.subscribe();
        is_full.wait_for(|is_full| !*is_full).await.ok();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.claims.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the peer is told that we have seen. It counts for all records that come behind it: so nothing is
/// told before every record that had seen less has been sent.
#[derive(Debug, Default)]
pub struct Telling {
    told: Seen,
    /// What is told when the records up to there have been sent.
    next: Option<(Seen, Cursor)>,
}

impl Telling {
    /// What may be told now, when `now` is what we have seen, `last` the end of the last record that was
    /// made before we had, and records are sent up to `sent`.
    #[must_use]
    pub fn tell(&mut self, now: Seen, last: Cursor, sent: Cursor) -> Seen {
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

    /// What was told last.
    #[must_use]
    pub const fn told(&self) -> &Seen {
        &self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CopyProgress;

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
    fn what_is_owed_is_all_where_something_was_not_read_since_the_copy_began() {
        let state = |base, older| EpochState {
            epoch: Epoch(9),
            replid: "0".repeat(40).parse().unwrap(),
            began: Offset(0),
            base: Epoch(base),
            older: Epoch(older),
            doubt: Epoch(9),
            empty: false,
        };
        let mark = Mark {
            home: Epoch(7),
            ..Mark::first(InstanceId::new(1), at(1))
        };
        let owes = |base, older, is_new| state(base, older).owes(&mark, is_new);
        assert_eq!(owes(7, 5, false), Owes::Missing);
        assert_eq!(owes(7, 5, true), Owes::Written);
        assert_eq!(owes(8, 5, false), Owes::All);
        assert_eq!(owes(7, 8, true), Owes::All);
    }

    #[test]
    fn what_a_redis_has_lost_is_here_again_with_one_copy_or_never() {
        let site = |name| SiteId::try_new(name).unwrap();
        let (b, c) = (site("b"), site("c"));
        let state = EpochState {
            epoch: Epoch(9),
            replid: "0".repeat(40).parse().unwrap(),
            began: Offset(0),
            base: Epoch(5),
            older: Epoch(9),
            doubt: Epoch(9),
            empty: false,
        };
        let lost = || Mark::nowhere(InstanceId::new(1));
        let progress = |c_has: Mark| Progress {
            state: Some(Arc::new(state.clone())),
            marks: Arc::new([(b.clone(), lost()), (c.clone(), c_has)].into()),
            ..Progress::default()
        };
        let sources = Sources::default();
        let is_restored = |c_has| progress(c_has).restorers(&sources, &b).is_empty();
        assert!(!is_restored(lost()), "nothing has been agreed with c");
        sources.note(&c, Epoch(8), false);
        assert!(!is_restored(lost()), "that was before the loss");
        sources.note(&c, Epoch(9), true);
        sources.note(&b, Epoch(9), true);
        assert!(!is_restored(lost()), "its copy is to come");
        let (base, home) = (Epoch(3), Epoch(9));
        let begun = Mark {
            copy: Some(CopyProgress {
                snapshot: at(1),
                next: 0,
                keep: false,
                lacking: Lacking::New,
            }),
            home,
            ..lost()
        };
        assert!(!is_restored(begun), "it has not come whole");
        let come = Mark {
            base,
            home,
            ..lost()
        };
        assert!(is_restored(come));
        let older = Mark {
            base,
            home: Epoch(8),
            ..lost()
        };
        assert!(!is_restored(older), "that copy is lost too");
        sources.note(&c, Epoch(9), false);
        assert!(is_restored(lost()), "nobody can give it back");
        let never = EpochState {
            older: Epoch::NEVER,
            ..state.clone()
        };
        let never = Progress {
            state: Some(Arc::new(never)),
            ..progress(lost())
        };
        assert!(never.restorers(&Sources::default(), &b).is_empty());
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

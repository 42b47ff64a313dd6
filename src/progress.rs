//! Positions that the parts tell each other. A position needs no queue, only its newest value.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::model::{Cursor, Epoch, InstanceId, Mark, Offset, ReplId, Seen, SiteId};

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

/// What one peer has of our history, as it told us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Applied there.
    pub applied: Cursor,
    /// Come back there in its own stream: its records from now on have seen it.
    pub seen: Cursor,
}

/// What each peer has of our history.
#[derive(Debug)]
pub struct Deliveries {
    peers: HashMap<SiteId, Mutex<Delivered>>,
    /// A peer has applied more.
    news: Notify,
}

impl Deliveries {
    /// Nothing delivered yet to any of these.
    #[must_use]
    pub fn new(peers: &[SiteId]) -> Arc<Self> {
        let peers = peers.iter().map(|p| (p.clone(), Mutex::default()));
        Arc::new(Self {
            peers: peers.collect(),
            news: Notify::new(),
        })
    }

    /// Takes note of what a peer has.
    pub fn advance(&self, peer: &SiteId, applied: Cursor, seen: Cursor) {
        if let Some(delivered) = self.peers.get(peer) {
            let mut delivered = delivered.lock().unwrap_or_else(PoisonError::into_inner);
            delivered.seen = delivered.seen.max(seen);
            if applied > delivered.applied {
                delivered.applied = applied;
                self.news.notify_one();
            }
        }
    }

    /// A peer's data holds our history only up to here. When we had known of more, its Redis has lost
    /// that, and up to where it had held it is given: what it writes now may not have seen what it had.
    pub fn rewind(&self, peer: &SiteId, at: Cursor) -> Option<Cursor> {
        let delivered = self.peers.get(peer)?;
        let mut delivered = delivered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = delivered.applied.max(delivered.seen);
        delivered.applied = delivered.applied.min(at);
        delivered.seen = delivered.seen.min(at);
        (known > at).then_some(known)
    }

    /// Waits until a peer has applied more than when this was last waited for. For one who waits.
    /// Cancel safe.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// What this peer has.
    #[must_use]
    pub fn of(&self, peer: &SiteId) -> Delivered {
        let delivered = self.peers.get(peer).map(Mutex::lock);
        delivered.map_or_else(Delivered::default, |delivered| {
            *delivered.unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// What every peer has: the least of all.
    #[must_use]
    pub fn by_all(&self) -> Delivered {
        let each = self
            .peers
            .values()
            .map(|d| *d.lock().unwrap_or_else(PoisonError::into_inner));
        each.reduce(|a, b| Delivered {
            applied: a.applied.min(b.applied),
            seen: a.seen.min(b.seen),
        })
        .unwrap_or_default()
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
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.claims.fetch_sub(1, Ordering::AcqRel);
    }
}

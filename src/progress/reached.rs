//! How far the histories of peers have come here, and what third sites may be told of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::Progress;
use crate::model::{Cursor, Epoch, Mark, Seen, SiteId};

/// Per peer, what of its history is here.
#[derive(Debug, Default)]
pub struct Reached {
    /// Up to where all of its records have been applied: further than the last of them, where the peer
    /// says that there is none behind it.
    records: watch::Sender<Records>,
    /// Where what is here does not rest on all that the peer's data rests on, because a copy is still to
    /// come: no third site may take it for more than this, whatever records have been applied on top.
    parts: watch::Sender<BTreeMap<SiteId, Cursor>>,
}

/// What has been applied in an epoch of this site's own.
#[derive(Debug, Default)]
pub struct Records {
    home: Epoch,
    seen: Seen,
}

/// How far peers' histories had been applied at a moment.
#[derive(Clone, Debug)]
pub struct ReachedThen {
    records: Seen,
    parts: BTreeMap<SiteId, Cursor>,
}

impl ReachedThen {
    /// Of a peer's history up to `at`, or further, where all of its records have been applied: what a third site
    /// may be told to be in what was read here later.
    #[must_use]
    pub fn held(&self, peer: &SiteId, at: Cursor) -> Cursor {
        let at = self.records.of(peer).max(at);
        self.parts.get(peer).map_or(at, |part| at.min(*part))
    }
}

impl Reached {
    /// How far all is now.
    #[must_use]
    pub fn now(&self) -> ReachedThen {
        // In this order: what has come with a copy by then counts only if the copy was complete before.
        let parts = self.parts.borrow().clone();
        let records = self.records.borrow().seen.clone();
        ReachedThen { records, parts }
    }

    /// An epoch of our own begins: what was applied before it the Redis here may have lost.
    pub fn begin(&self, home: Epoch) {
        let seen = Seen::default();
        self.records.send_replace(Records { home, seen });
    }

    /// All records of a peer up to here have been applied, in this epoch of our own.
    pub fn advance(&self, home: Epoch, peer: &SiteId, at: Cursor) {
        self.records.send_if_modified(|records| {
            let is_new = records.home == home && records.seen.of(peer) < at;
            if is_new {
                records.seen.advance(peer, at);
            }
            is_new
        });
    }

    /// Up to where those of a peer have been.
    #[must_use]
    pub fn of(&self, peer: &SiteId) -> Cursor {
        self.records.borrow().seen.of(peer)
    }

    /// A copy from a peer is to come, and without it no more than this of its history is here; or it has
    /// come.
    pub fn set_part(&self, peer: &SiteId, part: Option<Cursor>) {
        self.parts.send_if_modified(|parts| {
            let before = match part {
                Some(part) => parts.insert(peer.clone(), part),
                None => parts.remove(peer),
            };
            before != part
        });
    }

    /// Of a peer's history up to `at`, what a third site may be told to be here.
    #[must_use]
    pub fn held(&self, peer: &SiteId, at: Cursor) -> Cursor {
        self.parts
            .borrow()
            .get(peer)
            .map_or(at, |part| at.min(*part))
    }

    /// Shows when [`held`](Self::held) is another.
    #[must_use]
    pub fn watch_parts(&self) -> watch::Receiver<BTreeMap<SiteId, Cursor>> {
        self.parts.subscribe()
    }

    /// Shows when it is further.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Records> {
        self.records.subscribe()
    }

    /// Whether everything that `seen` says of `sites` has been applied, or has come back.
    #[must_use]
    pub fn has<'a>(
        &self,
        sites: impl IntoIterator<Item = &'a SiteId>,
        seen: &Seen,
        progress: &Progress,
    ) -> bool {
        let mut sites = sites.into_iter();
        let reached = self.records.borrow();
        sites.all(|site| progress.seen.of(site).max(reached.seen.of(site)) >= seen.of(site))
    }
}

/// What records of this site's say that it had seen, where there are third sites: nothing of a peer whose history
/// is here in part only, as the mark says, because the rest is to come with a copy. Else a write here would pass
/// for the successor of one that has not come. None when it is all of `seen`.
#[must_use]
pub fn seen_without_parts(seen: &Seen, marks: &BTreeMap<SiteId, Mark>) -> Option<Arc<Seen>> {
    let is_part = |mark: &Mark| mark.base <= Epoch::LOST;
    if !marks.values().any(is_part) {
        return None;
    }
    let is_whole = |site: &SiteId| marks.get(site).is_none_or(|mark| !is_part(mark));
    let whole = seen.iter().filter(|(site, _)| is_whole(site));
    let told = whole.map(|(site, at)| (site.clone(), *at)).collect();
    Some(Arc::new(told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Offset};

    #[test]
    fn what_is_here_in_part_was_not_seen() {
        let [b, c] = ["b", "c"].map(|name| SiteId::try_new(name).unwrap());
        let at = |offset| Cursor {
            epoch: Epoch(5),
            offset: Offset(offset),
        };
        let seen: Seen = [(b.clone(), at(7)), (c.clone(), at(9))]
            .into_iter()
            .collect();
        let lost = Mark::nowhere(InstanceId::new(1));
        let whole = Mark {
            base: Epoch(5),
            ..lost.clone()
        };
        let undone = Mark {
            base: Epoch::UNDONE,
            ..lost.clone()
        };
        let told = |of_b: &Mark| {
            let marks = [(b.clone(), of_b.clone()), (c.clone(), whole.clone())].into();
            seen_without_parts(&seen, &marks)
        };
        assert_eq!(told(&whole), None);
        assert_eq!(told(&undone), None, "all is here, in another order");
        let without_b = [(c.clone(), at(9))].into_iter().collect();
        assert_eq!(told(&lost), Some(Arc::new(without_b)));
    }

    #[test]
    fn what_waits_for_a_copy_is_not_told_to_third_sites() {
        let (reached, b) = (Reached::default(), SiteId::try_new("b").unwrap());
        let at = |epoch, offset| Cursor {
            epoch: Epoch(epoch),
            offset: Offset(offset),
        };
        reached.set_part(&b, Some(at(5, 0)));
        assert_eq!(reached.held(&b, at(4, 9)), at(4, 9));
        assert_eq!(reached.held(&b, at(7, 3)), at(5, 0));
        let then = reached.now();
        let mut news = reached.watch_parts();
        reached.set_part(&b, None);
        assert!(news.has_changed().unwrap());
        assert_eq!(*news.borrow_and_update(), BTreeMap::new());
        assert_eq!(reached.held(&b, at(7, 3)), at(7, 3));
        // What was read before the copy was complete lacks what it has brought.
        assert_eq!(then.held(&b, at(7, 3)), at(5, 0));
        reached.begin(Epoch(2));
        reached.advance(Epoch(2), &b, at(7, 9));
        assert_eq!(reached.now().held(&b, at(7, 3)), at(7, 9));
        // The Redis here has come back as it was.
        reached.begin(Epoch(3));
        reached.advance(Epoch(2), &b, at(7, 9));
        assert_eq!(reached.now().held(&b, at(7, 3)), at(7, 3));
    }
}

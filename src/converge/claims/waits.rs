//! Which sites wait for a key's state themselves: nobody waits for them, or all would wait in a circle.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::{Key, SiteId};

/// Of the questions between this site and its peers. What is kept is bounded by what is asked for.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Keys that a peer was asked for, and for which it has said that it waits itself.
    said: HashMap<SiteId, HashSet<Key>>,
    /// Keys for which a peer has asked, and which this site waits for itself: the peer has not been told.
    untold: HashMap<SiteId, BTreeSet<Key>>,
}

impl Waits {
    /// A peer that was asked for a key waits for it itself.
    pub(super) fn add(&mut self, peer: &SiteId, key: &Key) {
        let said = self.said.entry(peer.clone()).or_default();
        said.insert(key.clone());
    }

    /// Whether a peer has said so.
    pub(super) fn says(&self, peer: &SiteId, key: &Key) -> bool {
        self.said.get(peer).is_some_and(|keys| keys.contains(key))
    }

    /// It has answered, or is asked anew.
    pub(super) fn remove(&mut self, peer: &SiteId, key: &Key) {
        if let Some(said) = self.said.get_mut(peer) {
            said.remove(key);
        }
    }

    /// A session with a peer begins, or is over: what was asked in another one is asked anew.
    pub(super) fn forget(&mut self, peer: &SiteId) {
        self.said.remove(peer);
        self.untold.remove(peer);
    }

    /// Whether a peer that has asked for a key is to be told that this site waits for it. Whether that is new.
    pub(super) fn tell(&mut self, asker: &SiteId, key: &Key, waits: bool) -> bool {
        match waits {
            true => {
                let untold = self.untold.entry(asker.clone()).or_default();
                untold.insert(key.clone())
            }
            false => {
                if let Some(untold) = self.untold.get_mut(asker) {
                    untold.remove(key);
                }
                false
            }
        }
    }

    /// Hands over keys of which a peer is to be told, at most so many.
    pub(super) fn take_untold(&mut self, asker: &SiteId, most: usize) -> Vec<Key> {
        let Some(untold) = self.untold.get_mut(asker) else {
            return Vec::new();
        };
        let keys = std::iter::from_fn(|| untold.pop_first());
        keys.take(most).collect()
    }
}

//! What third sites have written lately, in the order in which it took effect here.
//!
//! Two sites find out about each other's writes by themselves: whoever has executed the two in the wrong
//! order asks the other. A third site, which has written nothing, executes them in some order too. So it
//! must remember the writes of each peer until every other peer has seen them, and judge each record
//! against those of all sites. With two sites there is nothing to remember here.

use std::collections::BTreeMap;

use super::table::Table;
use crate::command::Touch;
use crate::model::{Cursor, Seen, SiteId};

/// Per peer, its writes that some third site may not have seen; empty with one peer. Shared: the intake
/// writes, the appliers ask.
#[derive(Debug, Default)]
pub struct Foreign(BTreeMap<SiteId, Table>);

impl Foreign {
    /// For these peers; of each so many writes are remembered at most.
    #[must_use]
    pub fn new(peers: &[SiteId], most: usize) -> Self {
        let peers = if peers.len() > 1 { peers } else { &[] };
        let tables = peers.iter().map(|peer| (peer.clone(), Table::new(most)));
        Self(tables.collect())
    }

    /// Whether there are no third sites.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a peer has written.
    pub(super) fn of(&self, peer: &SiteId) -> Option<&Table> {
        self.0.get(peer)
    }

    /// What the peers have written.
    pub(super) fn all(&self) -> impl Iterator<Item = (&SiteId, &Table)> {
        self.0.iter()
    }

    /// The peers but one, when there are several.
    #[must_use]
    pub fn third(&self, origin: &SiteId) -> Vec<SiteId> {
        self.but(origin).map(|(site, _)| site.clone()).collect()
    }

    /// What all but one of the peers have written.
    pub fn but(&self, origin: &SiteId) -> impl Iterator<Item = (&SiteId, &Table)> {
        self.all().filter(move |(site, _)| *site != origin)
    }

    /// Whether something is here that a third site has done to a key, and that a state of a peer had not
    /// seen: taking it would undo that.
    #[must_use]
    pub fn is_unseen(&self, hash: u128, origin: &SiteId, seen: &Seen) -> bool {
        let mut others = self.but(origin);
        others.any(|(site, table)| table.unseen(hash, seen.of(site)).is_some())
    }

    /// Whether a touch of a peer's record does not commute with writes of a third site that the record
    /// had not seen, as far as they are known.
    #[must_use]
    pub fn is_clash(&self, touch: Touch, origin: &SiteId, seen: &Seen) -> bool {
        self.but(origin)
            .any(|(site, table)| table.clash(touch, seen.of(site)).is_known())
    }

    /// Whether a state of a peer had seen everything of every third site. False says nothing.
    #[must_use]
    pub fn is_all_seen(&self, origin: &SiteId, seen: &Seen) -> bool {
        let mut others = self.but(origin);
        others.all(|(site, table)| table.is_all_seen(seen.of(site)))
    }

    /// Any key may have been written by a peer up to here, as far as is remembered.
    pub fn note_all_written(&self, peer: &SiteId, at: Cursor) {
        if let Some(table) = self.of(peer) {
            table.note_all_written(at);
        }
    }
}

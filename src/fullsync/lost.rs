//! What a copy waits for: what one of the two sites has lost, as far as it comes back.

use tokio::sync::watch;
use tracing::info;

use super::Prepared;
use super::snapshot::{Copier, Error};
use crate::model::SiteId;
use crate::progress::Progress;

impl Copier {
    /// Waits until what has been lost is here, and prepares the copy anew. What the peer has lost, and its
    /// journal sends, it gets back with what the snapshot holds, and nothing else brings it. And what has been
    /// lost here the peer will count as held from the copy on. Meanwhile the gate is open, for the peer may
    /// wait in the same way; but not to one that has nothing yet.
    ///
    /// # Errors
    /// Nothing comes any more.
    pub async fn await_lost(&mut self, prepared: Prepared) -> Result<Prepared, Error> {
        let mut progress = self.progress.clone();
        if prepared.found.is_some() || self.lacks(&progress.borrow()).is_none() {
            return Ok(prepared);
        }
        let Prepared { copy, hold, .. } = prepared;
        let hold = self.joined.then_some(hold);
        let mut sources = self.shared.sources.watch();
        loop {
            sources.mark_unchanged();
            let lacks = self.lacks(&progress.borrow_and_update());
            if self.show(lacks.as_deref())
                && let Some(lacks) = &lacks
            {
                info!(peer = %self.receives_from.0, "a copy {lacks}");
            }
            if lacks.is_none() {
                break;
            }
            either(&mut progress, &mut sources).await?;
        }
        let prepared = self.prepare(copy, None);
        drop(hold);
        Ok(prepared)
    }

    /// What a copy that is made now would lack, and waits for.
    pub(super) fn lacks(&self, progress: &Progress) -> Option<String> {
        let (peer, from) = &self.receives_from;
        if progress.seen.of(peer).max(*from) < self.lost {
            return Some(format!(
                "waits for what the Redis of {peer} has lost: its journal sends it, up to {}",
                self.lost
            ));
        }
        let restorers = progress.restorers(&self.shared.sources, peer);
        let names: Vec<&str> = restorers.iter().map(SiteId::as_str).collect();
        (!names.is_empty()).then(|| {
            format!(
                "waits for what the Redis here has lost: {} gives it back, once there is a session",
                names.join(" or ")
            )
        })
    }
}

/// Waits until one of the two has changed.
async fn either<A, B>(
    one: &mut watch::Receiver<A>,
    other: &mut watch::Receiver<B>,
) -> Result<(), Error> {
    tokio::select! {
        changed = one.changed() => changed,
        changed = other.changed() => changed,
    }
    .map_err(|_| Error::History)
}

//! Causes before effects: what a peer had seen of third sites is applied here before what it then wrote.
//!
//! The links to two peers do not keep step. Without this, an answer could arrive before the question; and
//! an entry of the table that a record had seen could come behind it, and be taken for concurrent. And what
//! third sites may take to be here.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Applier, Error};
use crate::model::{Cursor, Epoch, Mark, Offset, RecordRef, Seen, SiteId};

impl Applier {
    /// Whether everything of third sites that was seen is here.
    pub(super) fn has_causes(&self, seen: &Seen) -> bool {
        self.foreign.is_empty() || self.lacks(seen).is_none()
    }

    /// Whether a record must wait for what others have written. Most have the tags of the one before.
    pub(super) fn must_wait(&self, record: RecordRef<'_>, known: &Arc<Seen>) -> bool {
        !Arc::ptr_eq(record.causes, known) && !self.has_causes(record.causes)
    }

    /// A third site of which more was seen than is here.
    fn lacks(&self, seen: &Seen) -> Option<SiteId> {
        let here = self.progress.borrow();
        let is_here = |site: &&SiteId| self.reached.has([*site], seen, &here);
        self.third.iter().find(|site| !is_here(site)).cloned()
    }

    /// Third sites must not take what is here for what it becomes with a copy. What the epochs behind the
    /// base rest on is not known here. Not where a copy only brings into order what is all here.
    pub(super) fn note_part(&self) {
        let base = self.mark.as_ref().map_or(Epoch::NEVER, |mark| mark.base);
        let part = Cursor {
            epoch: Epoch(base.0 + 1),
            offset: Offset(0),
        };
        let lacks = !self.is_whole() && base != Epoch::UNDONE;
        let part = lacks.then_some(part).or(self.answered);
        self.reached.set_part(&self.config.peer, part);
    }

    /// Waits until everything of third sites is here that was `seen` where what comes next was written.
    /// All records before that have been applied, up to `before`: what waits at the head of another queue
    /// may wait for just that. While the link to a third site is away, and the peer's to it is not, it can
    /// be long: the status says so.
    pub(super) async fn await_causes(
        &mut self,
        (seen, before): (&Seen, Cursor),
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        if self.foreign.is_empty() {
            return Ok(());
        }
        self.reached.advance(self.home, &self.config.peer, before);
        let lacks = |this: &Self| {
            let site = this.lacks(seen)?;
            let peer = &this.config.peer;
            Some(format!("what {site} has written, and {peer} had seen"))
        };
        self.await_while(lacks, stop).await
    }

    /// Waits until a copy of a third site is complete by which this site has begun to get all that it has. The
    /// table does not know what that one has brought: an older value that another copy brings would take its
    /// place.
    pub(super) async fn await_joined(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let joins = |this: &Self| {
            let here = this.progress.borrow();
            let is_begun = |mark: &Mark| mark.base == Epoch::NEVER && mark.copy.is_some();
            let mark_of = |site: &SiteId| here.marks.get(site);
            let mut third = this.third.iter();
            let site = third.find(|site| mark_of(site).is_some_and(is_begun))?;
            Some(format!(
                "the rest of the copy that {site} has begun to send"
            ))
        };
        match self.joins {
            true => Ok(()),
            false => self.await_while(joins, stop).await,
        }
    }

    /// Waits while something is lacking that others are to bring; the status says what.
    async fn await_while(
        &mut self,
        lacking: impl Fn(&Self) -> Option<String>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut reached = self.reached.watch();
        while let Some(waiting) = lacking(self) {
            self.board.lock().waiting = Some(waiting);
            tokio::select! {
                () = stop.cancelled() => return Err(Error::Stopped),
                changed = self.progress.changed() => changed.map_err(|_| Error::Stopped)?,
                changed = reached.changed() => changed.map_err(|_| Error::Stopped)?,
            }
        }
        self.board.lock().waiting = None;
        Ok(())
    }
}

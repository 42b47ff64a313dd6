//! What the peer is asked for: keys whose value here is wrong, and everything when nobody knows any more.

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Applier, Error, Outlet};
use crate::converge::Wish;
use crate::link::{MAX_KEYS, Message, Question};
use crate::model::{Epoch, Mark, Need, SiteId};

impl Applier {
    /// Keys that an operator has asked for become debts. The peer must have seen all that is here now,
    /// so that its state replaces that, and what is written here from now on comes on top of it.
    pub(super) fn take_asked(&self) -> Result<(), Error> {
        let asked = self.docket.take_asked();
        if asked.is_empty() {
            return Ok(());
        }
        self.room_for_debts(asked.len())?;
        info!(peer = %self.config.peer, keys = asked.len(), "an operator has asked for states");
        let (after, need) = (self.progress.borrow().read, Need::Wrong);
        // What is made of these keys here is wrong too, until their states have come.
        self.docket.owed(asked.iter().cloned());
        for key in asked {
            self.debts.add_wrong(key, Wish { after, need });
        }
        Ok(())
    }

    /// Keys whose value was found to be wrong here become debts.
    pub(super) fn take_wishes(&self) -> Result<(), Error> {
        self.room_for_debts(self.docket.wishes())?;
        let mut conflicts = 0;
        self.docket.take_wishes(|key, wish| {
            let is_new = self.debts.add_wrong(key, wish);
            conflicts += u64::from(is_new && wish.need > Need::Doubts);
        });
        if conflicts > 0 {
            self.board.lock().conflicts.asked += conflicts;
        }
        Ok(())
    }

    /// Writes of whole databases met that come to something else in the other order: of what is here,
    /// nobody knows any more what is right. The mark says from now on that a copy is needed, as when a
    /// Redis has lost its history, and the next session merges the two sites, key by key. Not before the
    /// peer has seen what was written here until then: what the peer's write has removed here is in its
    /// copy only if it has come there.
    pub(super) async fn tear(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        if !self.docket.is_torn() {
            return Ok(());
        }
        let last = || self.journal.last_record();
        let after = *self.torn_after.get_or_insert_with(last);
        if self.deliveries.of(&self.config.peer).seen < after {
            return Ok(());
        }
        self.torn_after = None;
        let mark = self.marked()?;
        let base = match mark.base {
            Epoch::LOST => Epoch::LOST,
            _ => Epoch::UNDONE,
        };
        self.commit(|_| {}, Mark { base, ..mark }, stop).await?;
        self.docket.set_torn(false);
        Err(Error::Torn)
    }

    /// What the peer is to be asked for and was not. It must have seen what is here of third sites. While a copy
    /// comes with all that this site will have, nothing: an answer before it would wait for what third sites
    /// have written, which is in the copy.
    pub(super) fn questions(&self) -> Vec<Question> {
        if self.joins {
            return Vec::new();
        }
        let third = || {
            let progress = self.progress.borrow();
            let causes = |site: &SiteId| (site.clone(), progress.causes.of(site));
            self.third.iter().map(causes).collect()
        };
        let questions = std::iter::from_fn(|| self.debts.ask(MAX_KEYS, third));
        questions.collect()
    }
}

/// Asks the peer.
pub(super) async fn ask(questions: Vec<Question>, outlet: &Outlet) -> Result<(), Error> {
    for question in questions {
        let message = Message::Owe(question);
        let sent = outlet.messages.send(message).await;
        sent.map_err(|_| Error::Stopped)?;
    }
    Ok(())
}

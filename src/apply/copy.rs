//! Copies and states from the peer.

use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::commit::or_stopped;
use super::fresh::Flying;
use super::guard::Rules;
use super::sealed::Sealed;
use super::{Applier, Error, Outlet};
use crate::converge::Filed;
use crate::link::{self, CopyBegin, CopyStates, Message, OwedStates, State, Value};
use crate::model::{CopyProgress, Cursor, Epoch, Lacking, Mark, Owes, SiteId, mark_key};
use crate::status::CopyStatus;

impl Applier {
    /// Everything but records and the states of a copy.
    pub(super) async fn on_message(
        &mut self,
        message: Message,
        outlet: &Outlet,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        match message {
            Message::CopyBegin(begin) => self.on_copy_begin(&begin, stop).await,
            Message::CopyEnd(entries) => self.on_copy_end(entries, outlet, stop).await,
            Message::OwedStates(owed) => self.on_owed_states(owed, stop).await,
            // The peer has got all of our copy: nothing is owed any more.
            Message::Copied => {
                self.gap = false;
                self.claims.end_copy(&self.config.peer);
                let mark = Mark {
                    owes: Owes::Nothing,
                    ..self.marked()?
                };
                self.commit(|_| {}, mark, stop).await.map(drop)
            }
            _ => Err(Error::Unexpected("a message that is not for the applier")),
        }
    }

    /// The turn of a site that has nothing yet: no other session begins with a copy until this one has brought it.
    pub fn set_turn(&mut self, turn: Option<OwnedSemaphorePermit>) {
        self.turn = turn;
    }

    pub(super) fn marked(&self) -> Result<Mark, Error> {
        self.mark
            .clone()
            .ok_or(Error::Unexpected("states before the session began"))
    }

    async fn on_copy_begin(
        &mut self,
        begin: &CopyBegin,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut mark = self.marked()?;
        let snapshot = begin.at;
        let known = mark
            .copy
            .filter(|c| c.snapshot == snapshot && c.next == begin.first);
        let state = self.state().ok_or(Error::NoStream)?;
        let lacking = state.lacking(&mark);
        let (copy, home) = match (known, begin.first) {
            (Some(copy), _) => (CopyProgress { lacking, ..copy }, mark.home),
            (None, 0) => {
                // Another one was not completed: see `fresh`.
                if mark.copy.is_some() {
                    self.owes_back = true;
                    mark.owes = mark.owes.max(Owes::Missing);
                }
                self.debts.begin_copy();
                // What was left out before, this one brings.
                mark.entire = self.entire;
                let copy = CopyProgress {
                    snapshot,
                    next: 0,
                    keep: begin.keep,
                    lacking,
                };
                (copy, state.epoch)
            }
            (None, _) => return Err(Error::Unexpected("the middle of a copy")),
        };
        // Behind records that it does not hold, it would undo them.
        if snapshot < mark.at {
            return Err(Error::Unexpected("a copy"));
        }
        self.copy_seen = begin.seen.clone();
        if self.owes_back {
            // What is found to be wrong here from now on the peer has too, and what is owed leaves it alone.
            self.claims.begin_copy(&self.config.peer);
        }
        if self.joins {
            self.adopt(begin, stop).await?;
        }
        self.await_causes((&begin.holds, begin.at), stop).await?;
        self.await_joined(stop).await?;
        {
            let mut board = self.board.lock();
            board.receiving = Some(CopyStatus::begin("receiving", copy.next, begin.keys));
            if copy.next == 0 {
                board.copied = crate::status::CopyCounts::default();
            }
        }
        info!(peer = %self.config.peer, keys = begin.keys, from = copy.next, "receiving a copy");
        self.commit(
            |_| {},
            Mark {
                copy: Some(copy),
                home,
                ..mark
            },
            stop,
        )
        .await
        .map(drop)
    }

    /// An empty site gets all that the peer holds, of third sites too: it goes on with those where the
    /// peer stands with them. So their marks are written before anything that they count.
    async fn adopt(&mut self, begin: &CopyBegin, stop: &CancellationToken) -> Result<(), Error> {
        let home = self.state().ok_or(Error::NoStream)?.epoch;
        let lacks = |site: &SiteId| {
            let is_told = begin.marks.iter().any(|(told, _)| told == site);
            !is_told && self.has_nothing_of(site) && self.seen_of(site) < begin.holds.of(site)
        };
        if self.third.iter().any(lacks) {
            // The two are being merged: what the peer has of that site it cannot say yet.
            return Err(Error::Unexpected(
                "a copy with what it does not tell of a third site",
            ));
        }
        for (site, text) in &begin.marks {
            let Some(found) = Mark::parse(text).ok().filter(|_| self.has_nothing_of(site)) else {
                continue;
            };
            // Where no record is, the last that came back does not tell.
            let here = self.seen_of(site);
            if here > found.at.max(begin.seen.of(site)) {
                // A copy of its own, which did not come, was to begin there. The peer soon has more.
                return Err(Error::Unexpected("a copy that lacks what a third site has"));
            }
            let mark = Mark {
                instance: self.config.instance,
                batch: 0,
                at: found.at.max(here),
                low: Cursor::ZERO,
                home,
                owes: Owes::Nothing,
                entire: false,
                part: None,
                ..found
            };
            // Which keys those writes have touched is not known here.
            self.foreign.note_all_written(site, mark.at);
            let (key, text) = (mark_key(site), mark.to_string());
            let sealed = |db| {
                let mut sealed = Sealed::begin(db, &key, &text);
                sealed.end();
                sealed
            };
            self.execute(stop, sealed).await?;
            info!(%site, at = %mark.at, "going on with a third site where {} stands", self.config.peer);
        }
        Ok(())
    }

    /// Whether this site has no copy of a third one, though it may have begun to get one.
    fn has_nothing_of(&self, site: &SiteId) -> bool {
        let progress = self.progress.borrow();
        let mark = progress.marks.get(site);
        progress.seen.of(site) == Cursor::ZERO || mark.is_some_and(|mark| mark.base == Epoch::NEVER)
    }

    /// What of a site's history has come back here.
    fn seen_of(&self, site: &SiteId) -> Cursor {
        self.progress.borrow().seen.of(site)
    }

    /// Takes the states of a copy, and those that wait behind them. What comes then that is something
    /// else is handed back; `held` counts the messages.
    pub(super) async fn on_copy_states(
        &mut self,
        first: CopyStates,
        work: &mut link::Receiver,
        held: &mut usize,
        stop: &CancellationToken,
    ) -> Result<Option<link::Waiting>, Error> {
        let (mut states, mut flying) = (first, Flying::default());
        loop {
            let copy = self.marked()?.copy.map(|c| flying.next().unwrap_or(c.next));
            if copy != Some(states.first) {
                return Err(Error::Unexpected("a part of a copy"));
            }
            if self.may_fly(&states) {
                self.launch(states, &mut flying, stop).await?;
            } else {
                self.land_all(&mut flying, stop).await?;
                self.on_grounded(&states, stop).await?;
            }
            if flying.is_full() {
                self.land(&mut flying, stop).await?;
            }
            states = match work.try_recv() {
                Ok(link::Waiting {
                    message: Message::CopyStates(next),
                    ..
                }) => {
                    *held += 1;
                    next
                }
                other => {
                    self.land_all(&mut flying, stop).await?;
                    return Ok(other.ok());
                }
            };
        }
    }

    /// States that the guard takes at once, or a part of a large value.
    async fn on_grounded(
        &mut self,
        states: &CopyStates,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut next = states.first;
        if self.take_parts(&states.states, stop).await? {
            next = states.end();
            self.guard_copied(&states.states, next, stop).await?;
        }
        self.show_progress(next, states);
        Ok(())
    }

    /// The guard takes or refuses these; with that, the copy has come up to `next`.
    pub(super) async fn guard_copied(
        &mut self,
        states: &[State],
        next: u64,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mark = self.marked()?;
        let copy = mark.copy.ok_or(Error::Unexpected("a part of a copy"))?;
        let rules = Rules {
            seen: &self.copy_seen.clone(),
            keep: copy.keep,
            rebase: false,
            lacking: copy.lacking,
        };
        let mark = Mark {
            copy: Some(CopyProgress { next, ..copy }),
            part: None,
            ..mark
        };
        self.take_states(states, rules, &mark, stop).await
    }

    pub(super) fn show_progress(&self, entries: u64, states: &CopyStates) {
        let bytes = (states.bytes_done, states.bytes_total);
        let mut board = self.board.lock();
        if let Some(receiving) = &mut board.receiving
            && receiving.advance(entries, bytes, Instant::now())
        {
            info!(peer = %self.config.peer, "receiving a copy: {receiving}");
        }
    }

    async fn on_copy_end(
        &mut self,
        entries: u64,
        outlet: &Outlet,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mark = self.marked()?;
        let copy = mark.copy.filter(|c| c.next == entries);
        let copy = copy.ok_or(Error::Unexpected("the end of a copy"))?;
        let state = self.state().ok_or(Error::NoStream)?;
        // The one that answers it is not answered: what it owes is owed once.
        let is_new = self.journal.last_record() > self.copy_seen.of(&self.config.site);
        let owes = match std::mem::take(&mut self.owes_back) {
            true => state.owes(&mark, is_new),
            false => Owes::Nothing,
        };
        let mark = Mark {
            at: mark.at.max(copy.snapshot),
            base: self.base,
            home: state.epoch,
            owes,
            copy: None,
            seen: self.copy_seen.clone(),
            ..mark
        };
        // Which keys its writes up to there have touched is not known here.
        self.foreign
            .note_all_written(&self.config.peer, copy.snapshot);
        let at = mark.at;
        self.commit(|_| {}, mark, stop).await?;
        // Not before: were it to come to nothing, records might come instead, to be judged.
        let filing = self.docket.file(Filed::Nothing(at));
        or_stopped(filing, stop).await.ok_or(Error::Stopped)?;
        (self.joins, self.answered) = (false, None);
        // Others may have to send one, too: what this one had not got of them, it did not bring.
        self.turn = None;
        let counts = {
            let mut board = self.board.lock();
            board.receiving = None;
            board.copied.clone()
        };
        if counts.deleted > 0 {
            warn!(
                peer = %self.config.peer, keys = counts.deleted,
                "keys that were deleted here while nobody read are deleted at the peer too"
            );
        }
        if counts.returned > 0 {
            warn!(
                peer = %self.config.peer, keys = counts.returned,
                "keys that were not here have come back from the peer: what clients had deleted here \
                 while nobody read is among them, and must be deleted once more"
            );
        }
        info!(
            peer = %self.config.peer, entries, created = counts.created,
            overwritten = counts.overwritten, kept = counts.kept, refused = counts.refused,
            "the copy is complete"
        );
        outlet
            .messages
            .send(Message::Copied)
            .await
            .map_err(|_| Error::Stopped)?;
        // What clients have deleted in the unread part may have come before it: the copy back is to be answered.
        match owes {
            Owes::All => Err(Error::Unread),
            _ => Ok(()),
        }
    }

    async fn on_owed_states(
        &mut self,
        mut owed: OwedStates,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        // A debt may have been paid since it was asked for; or doubts were groundless.
        owed.states.retain(|state| {
            let key = (state.db, state.key.clone());
            let is_unsaid = matches!(state.value, Value::Unsaid);
            if is_unsaid && self.debts.is_paid(&key, false) {
                // Who was not in doubt may have another value.
                let stale = self.debts.remove(&key).unwrap_or_default();
                self.docket
                    .outdated(stale.into_iter().map(|site| (site, key.clone())));
            }
            !is_unsaid && self.debts.wants(state.db, &state.key)
        });
        if owed.states.is_empty() {
            return Ok(());
        }
        let rules = Rules {
            seen: &owed.seen,
            keep: false,
            rebase: true,
            lacking: Lacking::New,
        };
        let mark = self.marked()?;
        self.await_causes((&owed.causes, owed.at), stop).await?;
        // Behind records that they do not hold, they would undo them.
        if owed.at < mark.at {
            return Err(Error::Unexpected("states"));
        }
        if !self.take_parts(&owed.states, stop).await? {
            return Ok(());
        }
        // Every record up to there has come before them.
        let mark = Mark {
            at: owed.at,
            part: None,
            ..self.marked()?
        };
        let filing = self.docket.file(Filed::Nothing(owed.at));
        or_stopped(filing, stop).await.ok_or(Error::Stopped)?;
        self.take_states(&owed.states, rules, &mark, stop).await
    }
}

//! The records of a peer are gathered into batches: while one is executed, the next is put together.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::commit::or_stopped;
use super::policy::Target;
use super::underway::Underway;
use super::{Applier, Error, Outlet};
use crate::converge::Filed;
use crate::link::{self, Message, Records};
use crate::model::{BatchReader, Cursor, Epoch, Mark, Need, Offset, Seen, SiteId};
use crate::status::Stop;

/// Records that have come.
struct Gathered<'a> {
    /// Who hears how far we are.
    outlet: &'a Outlet,
    /// Their epoch: a batch is of one.
    epoch: Epoch,
    /// Those that are not yet sent.
    batch: Batch,
    /// What the last of them had seen, and what must be here before it.
    tags: Arc<Seen>,
    causes: Arc<Seen>,
    /// The batch before, which is being executed.
    underway: Option<Underway>,
}

impl Applier {
    /// Applies a frame of records, and those that wait behind it; gives back what comes next and is none.
    pub(super) async fn on_records(
        &mut self,
        mut records: Records,
        (work, held): (&mut link::Receiver, &mut usize),
        outlet: &Outlet,
        stop: &CancellationToken,
    ) -> Result<Option<link::Waiting>, Error> {
        let mut gathered = Gathered {
            outlet,
            epoch: records.epoch,
            batch: self.batch()?,
            tags: Arc::default(),
            causes: Arc::default(),
            underway: None,
        };
        loop {
            self.gather(records, &mut gathered, stop).await?;
            records = loop {
                match work.try_recv() {
                    Ok(link::Waiting {
                        message: Message::Records(more),
                        ..
                    }) if more.epoch == gathered.epoch => {
                        *held += 1;
                        break more;
                    }
                    // What comes until it is executed joins the batch behind it.
                    Err(_) if gathered.underway.is_some() => {
                        self.await_underway(&mut gathered, stop).await?;
                    }
                    next => {
                        self.apply_all(&mut gathered, stop).await?;
                        return Ok(next.ok());
                    }
                }
            };
        }
    }

    /// Adds the records of a frame, and sends each batch that is full.
    async fn gather(
        &mut self,
        records: Records,
        gathered: &mut Gathered<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let epoch = records.epoch;
        let filed = Filed::Records {
            epoch,
            start: records.start,
            body: records.body.clone(),
        };
        // There may be no room before what is underway has come back.
        if !self.docket.has_room(&filed) {
            self.await_underway(gathered, stop).await?;
        }
        let filing = self.docket.file(filed);
        or_stopped(filing, stop).await.ok_or(Error::Stopped)?;
        // Something is underway only when all that may have been applied before has passed.
        if gathered.underway.is_none() {
            self.settle_again(&records, stop).await?;
        }
        gathered.batch.reserve(records.body.len());
        let mut reader = BatchReader::new(records.start, records.body);
        while let Some(record) = reader.next_record()? {
            // Exactly once: the mark says what has been applied.
            let offset = record.offset;
            if self.has_applied(Cursor { epoch, offset }) {
                continue;
            }
            if gathered.batch.stops_at(record) {
                self.apply_all(gathered, stop).await?;
                return Err(Error::Stop(flushed(&self.config.peer)));
            }
            if self.must_wait(record, &gathered.causes) {
                self.apply_all(gathered, stop).await?;
                let offset = Offset(record.offset.0.saturating_sub(1));
                let needed = (&**record.causes, Cursor { epoch, offset });
                self.await_causes(needed, stop).await?;
            }
            gathered.batch.push(record)?;
            let Gathered { tags, causes, .. } = gathered;
            if !Arc::ptr_eq(tags, record.seen) || !Arc::ptr_eq(causes, record.causes) {
                (*tags, *causes) = (Arc::clone(record.seen), Arc::clone(record.causes));
            }
            if gathered.batch.is_full() {
                self.send_gathered(gathered, stop).await?;
            }
        }
        Ok(())
    }

    /// Sends what was gathered, when the batch before is settled: one transaction is in flight at a time.
    async fn send_gathered(
        &mut self,
        gathered: &mut Gathered<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        self.await_underway(gathered, stop).await?;
        if !gathered.batch.is_empty() {
            let batch = std::mem::replace(&mut gathered.batch, self.batch()?);
            let (epoch, seen) = (gathered.epoch, &gathered.tags);
            gathered.underway = Some(self.send_batch(batch, epoch, seen, stop).await?);
        }
        Ok(())
    }

    /// Waits until what is underway is settled, and says so: while records come all the time, there may be
    /// no other moment.
    async fn await_underway(
        &mut self,
        gathered: &mut Gathered<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        if let Some(underway) = gathered.underway.take() {
            self.settle_batch(underway, stop).await?;
            self.report(gathered.outlet);
        }
        Ok(())
    }

    /// Applies all that was gathered.
    async fn apply_all(
        &mut self,
        gathered: &mut Gathered<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        self.send_gathered(gathered, stop).await?;
        self.await_underway(gathered, stop).await
    }

    fn has_applied(&self, at: Cursor) -> bool {
        self.mark.as_ref().is_some_and(|m| at <= m.at)
    }

    /// Records that were applied before, and we were stopped before we knew how that went: each of
    /// their commands may have failed.
    async fn settle_again(
        &mut self,
        records: &Records,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let Some(unsettled) = self.unsettled else {
            return Ok(());
        };
        let place = |offset| Cursor {
            epoch: records.epoch,
            offset,
        };
        let mut batch = self.batch()?;
        let mut reader = BatchReader::new(records.start, records.body.clone());
        while let Some(record) = reader.next_record()? {
            let at = place(record.offset);
            if at > unsettled && self.has_applied(at) {
                batch.push(record)?;
            }
        }
        let all = (0..batch.commands() as usize).collect();
        let mut owed = batch.owed_after(&all);
        owed.extend_from_slice(batch.owed());
        self.owe(owed, Need::Unsure, stop).await?;
        let is_last = self
            .mark
            .as_ref()
            .is_none_or(|m| place(records.end) >= m.at);
        if is_last {
            self.set_unsettled(None);
            self.docket.hurry();
        }
        Ok(())
    }

    /// The peer has sent all of its records up to here, once more where that was needed. The mark may
    /// stand behind the last of them, where states were read.
    pub(super) fn settle_sent(&mut self, sent: Cursor) {
        let is_all = |mark: &Mark| sent >= mark.at;
        if self.unsettled.is_some() && self.mark.as_ref().is_some_and(is_all) {
            self.set_unsettled(None);
            self.docket.hurry();
        }
    }

    fn batch(&self) -> Result<Batch, Error> {
        let writing = self.writing.as_ref().ok_or(Error::NoStream)?;
        Ok(Batch::new(Target {
            dialect: writing.dialect,
            catalog: self.catalog.clone(),
            flush: self.config.flush,
            publish: self.config.publish,
            debts: self.debts.clone(),
            disputes: self.disputes,
            site: self.config.site.clone(),
            table: Arc::clone(&self.table),
            peer: self.config.peer.clone(),
            foreign: Arc::clone(&self.foreign),
        }))
    }

    /// The peer asks for states read when we have seen its history up to `after`, and has sent all
    /// records up to there. If none of them says so, a mark must.
    pub(super) async fn reach(
        &mut self,
        after: Cursor,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mark = self
            .mark
            .clone()
            .ok_or(Error::Unexpected("a question before the session began"))?;
        if mark.at >= after {
            return Ok(());
        }
        let filing = self.docket.file(Filed::Nothing(after));
        or_stopped(filing, stop).await.ok_or(Error::Stopped)?;
        self.commit(|_| {}, Mark { at: after, ..mark }, stop)
            .await
            .map(drop)
    }
}

/// The named stop for a peer that has flushed, where `[sync] flush` is `stop`.
fn flushed(peer: &SiteId) -> Stop {
    Stop {
        reason: "peer_flushed".to_owned(),
        detail: format!("{peer} has executed FLUSHALL or FLUSHDB; nothing after it is taken here"),
        remedy: "set [sync] flush to forward, to flush here too, or to ignore, and restart"
            .to_owned(),
    }
}

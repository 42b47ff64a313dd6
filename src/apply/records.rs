//! Records become batches, batches become transactions, and what fails in them becomes debts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::batch::Batch;
use super::commit::{Executed, unexpected_refusal};
use super::debts::{self, Key};
use super::entries::Late;
use super::policy::Target;
use super::sealed::Sealed;
use super::{Applier, Error};
use crate::command::Touched;
use crate::converge::Filed;
use crate::link::{self, Message, Records};
use crate::model::{
    BatchReader, Cursor, Epoch, Mark, Need, Offset, Seen, SiteId, mark_key, owed_key,
};
use crate::redis::Reply;
use crate::status::Stop;

impl Applier {
    /// Applies a frame of records, and those that wait behind it while the batch has room.
    pub(super) async fn on_records(
        &mut self,
        records: Records,
        work: &mut link::Receiver,
        held: &mut usize,
        stop: &CancellationToken,
    ) -> Result<Option<link::Waiting>, Error> {
        let mut batch = self.batch()?;
        let (mut tags, mut causes) = (Arc::<Seen>::default(), Arc::default());
        let mut records = records;
        loop {
            let epoch = records.epoch;
            let filed = Filed::Records {
                epoch,
                start: records.start,
                body: records.body.clone(),
            };
            tokio::select! {
                () = stop.cancelled() => return Err(Error::Stopped),
                () = self.docket.file(filed) => {}
            }
            self.settle_again(&records, stop).await?;
            batch.reserve(records.body.len());
            let mut reader = BatchReader::new(records.start, records.body);
            while let Some(record) = reader.next_record()? {
                // Exactly once: the mark says what has been applied.
                let offset = record.offset;
                if self.has_applied(Cursor { epoch, offset }) {
                    continue;
                }
                if batch.stops_at(record) {
                    self.apply(batch, epoch, &tags, stop).await?;
                    return Err(Error::Stop(flushed(&self.config.peer)));
                }
                if self.must_wait(record, &causes) {
                    let whole = std::mem::replace(&mut batch, self.batch()?);
                    self.apply(whole, epoch, &tags, stop).await?;
                    let offset = Offset(record.offset.0.saturating_sub(1));
                    let needed = (&**record.causes, Cursor { epoch, offset });
                    self.await_causes(needed, stop).await?;
                }
                batch.push(record)?;
                if !Arc::ptr_eq(&tags, record.seen) || !Arc::ptr_eq(&causes, record.causes) {
                    (tags, causes) = (Arc::clone(record.seen), Arc::clone(record.causes));
                }
                if batch.is_full() {
                    let full = std::mem::replace(&mut batch, self.batch()?);
                    self.apply(full, epoch, &tags, stop).await?;
                }
            }
            // Whatever has come meanwhile joins this batch; a batch is of one epoch.
            let Ok(next) = work.try_recv() else {
                break self.apply(batch, epoch, &tags, stop).await.map(|()| None);
            };
            match next.message {
                Message::Records(more) if more.epoch == epoch => {
                    *held += 1;
                    records = more;
                }
                _ => {
                    break self
                        .apply(batch, epoch, &tags, stop)
                        .await
                        .map(|()| Some(next));
                }
            }
        }
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

    /// Applies a batch, whatever it takes, and deals with what failed in it.
    async fn apply(
        &mut self,
        mut batch: Batch,
        epoch: Epoch,
        seen: &Arc<Seen>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let _nobody_reads = self.docket.applying().await;
        let old = self
            .mark
            .clone()
            .ok_or(Error::Unexpected("records before the session began"))?;
        let mark = Mark {
            instance: self.config.instance,
            batch: old.batch + 1,
            at: Cursor {
                epoch,
                offset: batch.last(),
            },
            hlc: old.hlc.max(batch.hlc()),
            low: seen.of(&self.config.site),
            seen: Seen::clone(seen),
            ..old
        };
        self.room_for_debts(batch.owed().len())?;
        self.set_unsettled(self.unsettled.or(Some(old.at)));
        let (key, owed) = (mark_key(&self.config.peer), owed_key(&self.config.peer));
        let text = mark.to_string();
        let (mut failed, mut late) = (BTreeSet::new(), Vec::new());
        loop {
            let reserved = self.config.reserved.clone();
            let result = self
                .execute(stop, |db| batch.seal(db, (&key, &owed), &text, &reserved))
                .await?;
            match result {
                Executed::Done { replies, head } => {
                    let replies = replies.get(head..).unwrap_or_default();
                    self.on_replies(&batch, replies, &mut failed, &mut late);
                    break;
                }
                Executed::Refused {
                    body_command: Some(number),
                    message,
                } => {
                    self.tell_failed(batch.touched(number), &message);
                    batch = batch.without(number);
                }
                Executed::Refused { message, .. } => return Err(unexpected_refusal(&message)),
                // Only a transaction that watches can end so.
                Executed::Changed => return Err(unexpected_refusal("EXEC without effect")),
                Executed::Lost if self.mark.as_ref().is_some_and(|m| m.at >= mark.at) => {
                    // It was executed, but how its commands went nobody has read.
                    failed.extend(0..batch.commands() as usize);
                    break;
                }
                Executed::Lost => {}
            }
        }
        self.mark = Some(mark);
        self.board.lock().records_applied += u64::from(batch.records());
        let read = self.progress.borrow().read;
        self.docket.owed(batch.owed().iter().cloned());
        for key in batch.owed() {
            self.debts.add(key.clone(), read, Need::Lacks);
        }
        self.on_unheld(batch.unheld());
        // The peer's state mends what commands that failed, or may have, should have written.
        let mut owed = batch.owed_after(&failed);
        owed.extend(self.add_late(late, stop).await?);
        self.owe(owed, Need::Lacks, stop).await?;
        self.set_unsettled(None);
        Ok(())
    }

    /// Sorts out what failed: entries that came too late, and commands of whose keys something is
    /// lacking now.
    fn on_replies(
        &self,
        batch: &Batch,
        replies: &[Reply],
        failed: &mut BTreeSet<usize>,
        late: &mut Vec<(Key, Late)>,
    ) {
        let body = replies.iter().take(batch.commands() as usize);
        for (number, error) in body.enumerate().filter_map(|(n, r)| Some((n, r.error()?))) {
            if let Some(entry) = batch.late(number, error) {
                late.push(entry);
                continue;
            }
            self.tell_failed(batch.touched(number), error);
            if !batch.explains(number, error) {
                failed.insert(number);
            }
        }
    }

    /// A command of the peer failed here.
    fn tell_failed(&self, what: Option<(Touched, Bytes)>, error: &str) {
        self.board.lock().failed_commands += 1;
        let (Some((touched, name)), Some(left_out)) = (what, self.told.take(Instant::now())) else {
            return;
        };
        let (peer, command) = (&self.config.peer, String::from_utf8_lossy(&name));
        if matches!(touched, Touched::Keys(_)) {
            warn!(%peer, %command, error, left_out, "a command of the peer failed here; asking for the state of its keys");
        } else {
            warn!(%peer, %command, error, left_out, "a command of the peer failed here, and what it touches cannot be named: compare the sites");
        }
    }

    /// Commands that were left out because the server here has nothing that could hold what they
    /// wrote, such as functions before 7.0.
    fn on_unheld(&self, commands: u32) {
        if commands == 0 {
            return;
        }
        let mut board = self.board.lock();
        let before = board.unheld;
        board.unheld += u64::from(commands);
        if before.checked_ilog2() != board.unheld.checked_ilog2() {
            let (peer, count) = (&self.config.peer, board.unheld);
            warn!(%peer, count, "the Redis here is too old to hold some of what the peer writes (functions, expiries of hash fields, sharded messages): left out");
        }
    }

    pub(super) fn room_for_debts(&self, more: usize) -> Result<(), Error> {
        if self.debts.len() + more <= debts::MAX_DEBTS {
            return Ok(());
        }
        Err(Error::Stop(Stop {
            reason: "too_many_debts".to_owned(),
            detail: format!("more than {} keys wait for their state", debts::MAX_DEBTS),
            remedy: "let clients write less here until the sites are synced".to_owned(),
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
        self.commit(|_| {}, Mark { at: after, ..mark }, stop)
            .await
            .map(drop)
    }

    /// Takes note, here and in Redis, that the peer owes us the states of these keys.
    async fn owe(
        &mut self,
        keys: Vec<Key>,
        need: Need,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        self.room_for_debts(keys.len())?;
        let after = self.progress.borrow().read;
        let mark = self
            .mark
            .clone()
            .ok_or(Error::Unexpected("states before the session began"))?;
        let set = owed_key(&self.config.peer);
        let add = |sealed: &mut Sealed| {
            let members: Vec<Vec<u8>> = keys.iter().map(|key| debts::member(key, need)).collect();
            let args = [&b"SADD"[..], set.as_bytes()]
                .into_iter()
                .chain(members.iter().map(|m| &m[..]));
            sealed.command(&args.collect::<Vec<_>>());
        };
        self.commit(add, mark, stop).await?;
        self.docket.owed(keys.iter().cloned());
        for key in keys {
            self.debts.add(key, after, need);
        }
        Ok(())
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

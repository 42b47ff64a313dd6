//! One batch on its way: sent, executed, and what failed in it becomes debts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::batch::{Batch, Bookkeeping};
use super::commit::{Executed, Sent, unexpected_refusal};
use super::debts::{self, Key};
use super::entries::Late;
use super::sealed::Sealed;
use super::{Applier, Error};
use crate::command::Touched;
use crate::model::{Cursor, Epoch, Mark, Need, Seen, mark_key, owed_key};
use crate::redis::Reply;
use crate::status::Stop;

/// A batch that was sent, and of which it is not known how it went.
pub(super) struct Underway {
    batch: Batch,
    mark: Mark,
    bookkeeping: Bookkeeping,
    sent: Sent,
    /// No state is read meanwhile.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Applier {
    /// Sends a batch. Nothing else may be written before it is [settled](Self::settle_batch).
    pub(super) async fn send_batch(
        &mut self,
        batch: Batch,
        epoch: Epoch,
        seen: &Arc<Seen>,
        stop: &CancellationToken,
    ) -> Result<Underway, Error> {
        let turn = self.docket.applying().await;
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
            owes: old.owes.after_records(),
            ..old
        };
        self.room_for_debts(batch.owed().len())?;
        self.set_unsettled(self.unsettled.or(Some(old.at)));
        let bookkeeping = Bookkeeping {
            mark_key: mark_key(&self.config.peer),
            owed_key: owed_key(&self.config.peer),
            mark: mark.to_string(),
            reserved: Arc::clone(&self.config.reserved),
        };
        let sent = self.send(stop, &|db| batch.seal(db, &bookkeeping)).await?;
        Ok(Underway {
            batch,
            mark,
            bookkeeping,
            sent,
            _turn: turn,
        })
    }

    /// Sees a batch through, whatever it takes, and deals with what failed in it.
    pub(super) async fn settle_batch(
        &mut self,
        underway: Underway,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let Underway {
            mut batch,
            mark,
            bookkeeping,
            sent,
            _turn,
        } = underway;
        let (mut failed, mut late) = (BTreeSet::new(), Vec::new());
        let seal = |batch: &Batch, db| batch.seal(db, &bookkeeping);
        let mut result = self.finish(sent, stop, |db| seal(&batch, db)).await?;
        loop {
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
            result = self.execute(stop, |db| seal(&batch, db)).await?;
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

    /// Takes note, here and in Redis, that the peer owes us the states of these keys.
    pub(super) async fn owe(
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

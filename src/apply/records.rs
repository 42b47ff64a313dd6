//! Records become batches, batches become transactions, and what fails in them becomes debts.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::batch::{Batch, Sealed, Target};
use super::commit::{Executed, unexpected_refusal};
use super::debts::{self, Key};
use super::{Applier, Error};
use crate::command::{Access, Touched};
use crate::link::{self, Message, Records};
use crate::model::{BatchReader, Cursor, Entry, Epoch, Mark, Seen, SiteId, mark_key, owed_key};
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
        let mut tags = Arc::<Seen>::default();
        let mut records = records;
        loop {
            let epoch = records.epoch;
            for entry in BatchReader::new(records.start, records.body) {
                let Entry::Record(record) = entry? else {
                    continue;
                };
                let at = Cursor {
                    epoch,
                    offset: record.offset,
                };
                // Exactly once: the mark says what has been applied.
                if self.mark.as_ref().is_some_and(|m| at <= m.at) {
                    continue;
                }
                if batch.stops_at(&record) {
                    self.apply(batch, epoch, &tags, stop).await?;
                    return Err(Error::Stop(flushed(&self.config.peer)));
                }
                tags = Arc::clone(&record.seen);
                batch.push(&record)?;
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

    fn batch(&self) -> Result<Batch, Error> {
        let writing = self.writing.as_ref().ok_or(Error::NoStream)?;
        Ok(Batch::new(Target {
            dialect: writing.dialect,
            catalog: self.catalog.clone(),
            flush: self.config.flush,
            publish: self.config.publish,
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
        let (key, owed) = (mark_key(&self.config.peer), owed_key(&self.config.peer));
        let text = mark.to_string();
        let mut failed = Vec::new();
        loop {
            let reserved = self.config.reserved.clone();
            let result = self
                .execute(stop, |db| batch.seal(db, (&key, &owed), &text, &reserved))
                .await?;
            match result {
                Executed::Done { replies, head } => {
                    let body = replies.iter().skip(head).take(batch.commands() as usize);
                    let errors = body.enumerate().filter_map(|(n, r)| Some((n, r.error()?)));
                    failed.extend(errors.map(|(n, error)| (batch.touched(n), error.clone())));
                    break;
                }
                Executed::Refused {
                    body_command: Some(number),
                    message,
                } => {
                    failed.push((batch.touched(number), message));
                    batch = batch.without(number);
                }
                Executed::Refused { message, .. } => return Err(unexpected_refusal(&message)),
                // Only a transaction that watches can end so.
                Executed::Changed => return Err(unexpected_refusal("EXEC without effect")),
                Executed::Lost => {
                    let done = self.mark.as_ref().is_some_and(|m| m.at >= mark.at);
                    if done {
                        // It was executed, but how its commands went nobody has read.
                        let numbers = 0..batch.commands() as usize;
                        failed.extend(numbers.map(|n| (batch.touched(n), String::new())));
                        break;
                    }
                }
            }
        }
        self.mark = Some(mark);
        self.board.lock().records_applied += u64::from(batch.records());
        let read = self.progress.borrow().read;
        for key in batch.owed() {
            self.debts.add(key.clone(), read);
        }
        self.on_unheld(batch.unheld());
        self.on_failed(failed, stop).await
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

    fn room_for_debts(&self, more: usize) -> Result<(), Error> {
        if self.debts.len() + more <= debts::MAX_DEBTS {
            return Ok(());
        }
        Err(Error::Stop(Stop {
            reason: "too_many_debts".to_owned(),
            detail: format!("more than {} keys wait for their state", debts::MAX_DEBTS),
            remedy: "let clients write less here until the sites are synced".to_owned(),
        }))
    }

    /// Commands that failed here, or may have: the peer's state of their keys mends them.
    async fn on_failed(
        &mut self,
        failed: Vec<Failed>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        if failed.is_empty() {
            return Ok(());
        }
        let mut keys = Vec::new();
        for (what, message) in failed {
            let Some((touched, name)) = what else {
                continue;
            };
            if !message.is_empty() {
                self.board.lock().failed_commands += 1;
                let command = String::from_utf8_lossy(&name).into_owned();
                warn!(peer = %self.config.peer, command, error = message, "a command of the peer failed here; asking for the state of its keys");
            }
            match touched {
                Touched::Keys(found) => {
                    let written = found.into_iter().filter(|k| k.access == Access::Write);
                    keys.extend(written.map(|k| (k.db, k.name.into())));
                }
                Touched::Database(_) | Touched::Everything if message.is_empty() => {}
                Touched::Database(_) | Touched::Everything => {
                    warn!(peer = %self.config.peer, "what it touches cannot be named: compare the sites");
                }
            }
        }
        self.owe(keys, stop).await
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
    async fn owe(&mut self, keys: Vec<Key>, stop: &CancellationToken) -> Result<(), Error> {
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
            let members: Vec<Vec<u8>> = keys.iter().map(debts::member).collect();
            let args = [&b"SADD"[..], set.as_bytes()]
                .into_iter()
                .chain(members.iter().map(|m| &m[..]));
            sealed.command(&args.collect::<Vec<_>>());
        };
        self.commit(add, mark, stop).await?;
        for key in keys {
            self.debts.add(key, after);
        }
        Ok(())
    }
}

/// A command that failed: what it touches and its name, when it can be found; the server's words,
/// or none when it only may have failed.
type Failed = (Option<(Touched, bytes::Bytes)>, String);

/// The named stop for a peer that has flushed, where `[sync] flush` is `stop`.
fn flushed(peer: &SiteId) -> Stop {
    Stop {
        reason: "peer_flushed".to_owned(),
        detail: format!("{peer} has executed FLUSHALL or FLUSHDB; nothing after it is taken here"),
        remedy: "set [sync] flush to forward, to flush here too, or to ignore, and restart"
            .to_owned(),
    }
}

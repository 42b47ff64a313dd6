//! Writing what a peer sent into the local Redis, exactly once.
//!
//! One transaction is in flight at a time. If two were, the first could be refused (out of memory,
//! say) and the second executed a moment later: its mark would say that the first was applied too.
//! Batches grow while one is in flight, so the round trip to the local Redis costs little.

mod batch;
mod copy;
mod debts;
mod guard;
mod rebase;
mod reply;
mod self_mark;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::batch::{Batch, Sealed};
pub(crate) use self::copy::percent;
pub use self::debts::{Debts, Key};
use self::reply::{Class, Outcome, classify};
pub use self::self_mark::keep_self_mark;
use self::target::{Writing, await_fence, put_fence};
use crate::converge::Table;
use crate::intake::Shared;
use crate::intake::commands::Touched;
use crate::journal::{self, Journal};
use crate::link::{self, Flow, MAX_KEYS, Message, Records};
use crate::model::{
    BatchReader, Cursor, Entry, Epoch, Hlc, InstanceId, Mark, MarkError, RecordError, Seen, SiteId,
    owed_key,
};
use crate::progress::{Deliveries, EpochState, Progress};
use crate::redis::{self, Info, Settings};
use crate::status::{PeerBoard, Stop};

/// The waits between attempts while the local Redis refuses or is away.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The longest of them.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What the applier of one peer needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// This site.
    pub site: SiteId,
    /// This life.
    pub instance: InstanceId,
    /// Whose records are applied.
    pub peer: SiteId,
    /// How to reach the local Redis.
    pub redis: Settings,
    /// All keys of ours that SWAPDB may carry into another database.
    pub reserved: Vec<String>,
}

/// Why applying ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A person must act.
    #[error("{}: {}; {}", .0.reason, .0.detail, .0.remedy)]
    Stop(Stop),
    /// Told to stop, or the session is over.
    #[error("stopped")]
    Stopped,
    /// The local Redis.
    #[error(transparent)]
    Redis(#[from] redis::Error),
    /// The stream of the local Redis is not being read.
    #[error(
        "what we write does not come back in the replication stream of the local Redis; is it being read?"
    )]
    NoStream,
    /// The mark is none.
    #[error(
        "the key {key} in the local Redis is not what Tandem has written: {source}; do not edit it; delete it to be synced anew"
    )]
    BadMark {
        /// Its key.
        key: String,
        /// Why.
        source: MarkError,
    },
    /// Our own journal.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// What the peer sent makes no sense.
    #[error("the peer sent a {0}")]
    Record(#[from] RecordError),
    /// Its commands make no sense.
    #[error("the peer sent commands that cannot be read: {0}")]
    Commands(#[from] crate::intake::scanner::ScanError),
    /// What the peer sent is out of place.
    #[error("the peer sent {0} out of place")]
    Unexpected(&'static str),
}

/// What the rest of the session learns from the applier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last record applied.
    pub at: Cursor,
    /// Whether a copy from the peer is under way.
    pub copying: bool,
    /// Whether the peer is owed a copy.
    pub owes: bool,
    /// Whether the data here rests on all that the peer's data rests on.
    pub whole: bool,
}

/// Where the applier says what it has done and what it wants.
#[derive(Debug)]
pub struct Outlet {
    /// The newest position.
    pub applied: watch::Sender<Applied>,
    /// Messages to the peer: debts, the end of a copy.
    pub messages: mpsc::Sender<Message>,
    /// Messages received and not yet applied.
    pub pending: Arc<AtomicUsize>,
}

/// How a session begins for the applier.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// What the peer sends.
    pub flow: Flow,
    /// The epoch on which its data rests.
    pub base: Epoch,
    /// Whether it has data of ours, but not what began our present base.
    pub gap: bool,
}

/// Applies the records of one peer. Lives as long as the process; sessions come and go.
#[derive(Debug)]
pub struct Applier {
    config: Config,
    progress: watch::Receiver<Progress>,
    journal: Journal,
    table: Arc<Table>,
    deliveries: Arc<Deliveries>,
    board: PeerBoard,
    debts: Debts,
    writing: Option<Writing>,
    mark: Option<Mark>,
    fence: u64,
    /// The count of removed marks up to which ours has been written again.
    marks_removed: u64,
    /// The epoch on which the peer's data rests.
    base: Epoch,
    /// Whether the peer lacks writes that are here and not in our journal.
    gap: bool,
    /// Whether keys that are here stay, in the copy that the plan foresees.
    keep: bool,
    /// Whether that copy is answered by one from here.
    owes_back: bool,
    /// What the snapshot being copied had seen of us.
    copy_seen: Cursor,
}

impl Applier {
    /// An applier that has not yet looked into Redis.
    #[must_use]
    pub fn new(
        config: Config,
        progress: watch::Receiver<Progress>,
        shared: &Shared,
        board: PeerBoard,
        debts: Debts,
    ) -> Self {
        Self {
            config,
            progress,
            journal: shared.journal.clone(),
            table: Arc::clone(&shared.table),
            deliveries: Arc::clone(&shared.deliveries),
            board,
            debts,
            writing: None,
            mark: None,
            fence: 0,
            marks_removed: 0,
            base: Epoch(0),
            gap: false,
            keep: false,
            owes_back: false,
            copy_seen: Cursor::ZERO,
        }
    }

    /// Opens the connection anew and reads where we stand. Call it before each session.
    ///
    /// # Errors
    /// The local Redis cannot be reached or used.
    pub async fn open(&mut self) -> Result<(Option<Mark>, Info), Error> {
        self.writing = None;
        let mut writing = Writing::open(&self.config).await?;
        self.fence += 1;
        let fence_of = (self.fence, self.progress.borrow().attached);
        let mut fence = Vec::new();
        put_fence(&mut fence, &self.config, self.fence);
        let reply = writing.pipeline(&fence, 1).await?.remove(0);
        writing.connection.accepted("SET", reply)?;
        await_fence(&self.config, &mut self.progress, fence_of).await?;
        let kept = writing.kept(&self.config.peer).await?;
        self.mark = self.reconcile(kept.mark);
        let read = self.progress.borrow().read;
        self.debts.begin(kept.debts, read);
        let info = writing.info.clone();
        self.writing = Some(writing);
        Ok((self.mark.clone(), info))
    }

    /// The mark in Redis is the position. Where it was removed while its history went on, what we
    /// remember, and the echoes in the stream, say where it stood.
    fn reconcile(&self, found: Option<Mark>) -> Option<Mark> {
        let seen = self.progress.borrow().seen.of(&self.config.peer);
        let remembered = self.mark.clone().filter(|m| m.at <= seen);
        let mut mark = found.or(remembered)?;
        mark.at = mark.at.max(seen);
        Some(mark)
    }

    /// Applies what comes until the queue ends, a person must act, or `stop`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(
        &mut self,
        begin: Begin,
        work: &mut link::Receiver,
        outlet: &Outlet,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        self.begin(begin, stop).await?;
        self.report(outlet);
        loop {
            self.ask_for_debts(outlet).await?;
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Error::Stopped),
                waiting = work.recv() => waiting,
                changed = self.progress.changed() => {
                    changed.map_err(|_| Error::Stopped)?;
                    self.on_progress(stop).await?;
                    continue;
                }
            };
            let Some(mut waiting) = next else {
                return Ok(());
            };
            loop {
                let mut held = 1;
                let more = match waiting.message {
                    Message::Records(records) => {
                        self.on_records(records, work, &mut held, stop).await?
                    }
                    Message::Owe { after, .. } => {
                        held = 0;
                        self.reach(after, stop).await?;
                        None
                    }
                    Message::Ack(ack) => {
                        // In the order of the stream: what follows has seen this too.
                        held = 0;
                        self.deliveries
                            .advance(&self.config.peer, Cursor::ZERO, ack.seen);
                        None
                    }
                    message => {
                        self.on_message(message, outlet, stop).await?;
                        None
                    }
                };
                self.report(outlet);
                outlet.pending.fetch_sub(held, Ordering::AcqRel);
                let Some(next) = more else { break };
                waiting = next;
            }
            self.report(outlet);
        }
    }

    async fn begin(&mut self, begin: Begin, stop: &CancellationToken) -> Result<(), Error> {
        let Begin { flow, base, gap } = begin;
        let home = self
            .progress
            .borrow()
            .state
            .as_ref()
            .map_or(Epoch(0), |s| s.epoch);
        let before = self.mark.clone();
        let mut mark = before.clone().unwrap_or_else(|| Mark {
            instance: self.config.instance,
            batch: 0,
            at: flow.start,
            hlc: Hlc(0),
            low: Cursor::ZERO,
            base: Epoch(0),
            home: Epoch(0),
            owes: false,
            copy: None,
            seen: Seen::default(),
        });
        mark.at = flow.start;
        (self.base, self.gap) = (base, gap);
        self.keep = flow.copy.is_some_and(|c| c.keep);
        self.owes_back = flow.copy.is_some_and(|c| c.back);
        if flow.whole {
            (mark.base, mark.home) = (base, home);
        }
        if before.as_ref() == Some(&mark) {
            return Ok(());
        }
        self.mark = Some(mark.clone());
        self.commit(|_| {}, mark, stop).await.map(drop)
    }

    /// Marks may have been removed by a client, or another sidecar may be at work.
    async fn on_progress(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let (removed, strays, foreign) = {
            let progress = self.progress.borrow_and_update();
            (
                progress.marks_removed,
                progress.strays,
                progress.foreign.clone(),
            )
        };
        if let Some((_, instance)) = foreign {
            return Err(Error::Stop(Stop {
                reason: "second_sidecar".to_owned(),
                detail: format!(
                    "another sidecar ({instance}) writes into this Redis for this site"
                ),
                remedy: "stop one of the two, then restart the other".to_owned(),
            }));
        }
        if removed == self.marks_removed {
            return Ok(());
        }
        self.marks_removed = removed;
        let Some(mark) = self.mark.clone() else {
            return Ok(());
        };
        let reserved = self.config.reserved.clone();
        let clean = |sealed: &mut Sealed| {
            if let Some(db) = strays {
                sealed.select(db);
                let keys = reserved.iter().map(String::as_bytes);
                let args: Vec<&[u8]> = [&b"DEL"[..]].into_iter().chain(keys).collect();
                sealed.command(&args);
            }
        };
        self.commit(clean, mark, stop).await?;
        info!(peer = %self.config.peer, "a client removed our bookkeeping; written again");
        Ok(())
    }

    /// Applies a frame of records, and those that wait behind it while the batch has room.
    async fn on_records(
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
                tags = Arc::clone(&record.seen);
                batch.push(&record)?;
                if batch.is_full() {
                    let full = std::mem::replace(&mut batch, self.batch()?);
                    self.apply(full, epoch, &tags, stop).await?;
                }
            }
            // Whatever has come meanwhile joins this batch; a batch is of one epoch.
            let next = match work.try_recv() {
                Ok(next) => next,
                Err(_) => break self.apply(batch, epoch, &tags, stop).await.map(|()| None),
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
        Ok(Batch::new(writing.target))
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
        let key = crate::model::mark_key(&self.config.peer);
        let text = mark.to_string();
        let mut failed = Vec::new();
        loop {
            let reserved = self.config.reserved.clone();
            let result = self
                .execute(stop, |db| batch.seal(db, &key, &text, &reserved))
                .await?;
            match result {
                Executed::Done { replies, head } => {
                    let body = replies.iter().skip(head).take(batch.commands() as usize);
                    for (number, reply) in body.enumerate() {
                        if let Some(message) = reply.error() {
                            failed.push((batch.touched(number), message.clone()));
                        }
                    }
                    break;
                }
                Executed::Refused {
                    body_command: Some(number),
                    message,
                } => {
                    failed.push((batch.touched(number), message));
                    batch = batch.without(number);
                }
                Executed::Refused {
                    body_command: None,
                    message,
                } => {
                    return Err(unexpected_refusal(&message));
                }
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
        self.on_failed(failed, stop).await
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
                    keys.extend(found.into_iter().map(|(db, k)| (db, k.into())))
                }
                Touched::Database(_) | Touched::Everything if message.is_empty() => {}
                Touched::Database(_) | Touched::Everything => {
                    warn!(peer = %self.config.peer, "what it touches cannot be named: compare the sites");
                }
            }
        }
        self.owe(keys, stop).await
    }

    /// Takes note, here and in Redis, that the peer owes us the states of these keys.
    async fn owe(&mut self, keys: Vec<Key>, stop: &CancellationToken) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        if self.debts.len() + keys.len() > debts::MAX_DEBTS {
            return Err(Error::Stop(Stop {
                reason: "too_many_debts".to_owned(),
                detail: format!("more than {} keys wait for their state", debts::MAX_DEBTS),
                remedy: "let clients write less here until the sites are synced".to_owned(),
            }));
        }
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

    /// The peer asks for states read when we have seen its history up to `after`, and has sent all
    /// records up to there. If none of them says so, a mark must.
    async fn reach(&mut self, after: Cursor, stop: &CancellationToken) -> Result<(), Error> {
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

    async fn ask_for_debts(&mut self, outlet: &Outlet) -> Result<(), Error> {
        while let Some((after, keys)) = self.debts.ask(MAX_KEYS) {
            let message = Message::Owe { after, keys };
            outlet
                .messages
                .send(message)
                .await
                .map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }

    /// Writes the mark and what `more` adds, until that is done.
    async fn commit(
        &mut self,
        more: impl Fn(&mut Sealed),
        mark: Mark,
        stop: &CancellationToken,
    ) -> Result<Vec<redis::Reply>, Error> {
        let mark = Mark {
            instance: self.config.instance,
            batch: mark.batch + 1,
            ..mark
        };
        let key = crate::model::mark_key(&self.config.peer);
        let text = mark.to_string();
        loop {
            let sealed = |db| {
                let mut sealed = Sealed::begin(db, &key, &text);
                more(&mut sealed);
                sealed.end();
                sealed
            };
            match self.execute(stop, sealed).await? {
                Executed::Done { replies, head } => {
                    self.mark = Some(mark);
                    return Ok(replies.into_iter().skip(head).collect());
                }
                Executed::Refused { message, .. } => return Err(unexpected_refusal(&message)),
                Executed::Changed => return Err(unexpected_refusal("EXEC without effect")),
                // Bookkeeping may be written twice.
                Executed::Lost => {}
            }
        }
    }

    /// One transaction, through refusals that pass.
    async fn execute(
        &mut self,
        stop: &CancellationToken,
        seal: impl Fn(u32) -> Sealed,
    ) -> Result<Executed, Error> {
        let mut wait = FIRST_WAIT;
        loop {
            let writing = self.writing.as_mut().ok_or(Error::NoStream)?;
            let sealed = seal(writing.db);
            let result = tokio::select! {
                result = writing.execute(&sealed) => result,
                () = stop.cancelled() => {
                    // What becomes of it, the mark will say.
                    self.writing = None;
                    return Err(Error::Stopped);
                }
            };
            match result {
                Ok(Outcome::Done(replies)) => {
                    self.board.lock().waiting = None;
                    return Ok(Executed::Done {
                        replies,
                        head: sealed.head,
                    });
                }
                Ok(Outcome::Changed) => return Ok(Executed::Changed),
                Ok(Outcome::Aborted { command, message }) => match classify(&message) {
                    Class::Stop(why) => return Err(Error::Stop(why)),
                    Class::Wait => self.board.lock().waiting = Some(message),
                    Class::Failed => {
                        let body_command = command.checked_sub(sealed.head);
                        return Ok(Executed::Refused {
                            body_command,
                            message,
                        });
                    }
                },
                Err(error) => {
                    warn!(peer = %self.config.peer, %error, "lost the connection while writing");
                    self.reopen(stop).await?;
                    return Ok(Executed::Lost);
                }
            }
            pause(&mut wait, stop).await?;
        }
    }

    /// Opens the connection again, however long it takes.
    async fn reopen(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let epoch = self.epoch();
        let mut wait = FIRST_WAIT;
        loop {
            let opened = tokio::select! {
                opened = self.open() => opened,
                () = stop.cancelled() => return Err(Error::Stopped),
            };
            match opened {
                // A new history: what was planned with the peer no longer holds.
                Ok(_) if self.epoch() != epoch => return Err(Error::Stopped),
                Ok(_) => {
                    self.board.lock().waiting = None;
                    return Ok(());
                }
                Err(error @ (Error::Stop(_) | Error::BadMark { .. })) => return Err(error),
                Err(error) => self.board.lock().waiting = Some(error.to_string()),
            }
            pause(&mut wait, stop).await?;
        }
    }

    fn epoch(&self) -> Epoch {
        self.state().map_or(Epoch(0), |s| s.epoch)
    }

    fn state(&self) -> Option<Arc<EpochState>> {
        self.progress.borrow().state.clone()
    }

    fn report(&self, outlet: &Outlet) {
        let Some(mark) = &self.mark else { return };
        let applied = Applied {
            at: mark.at,
            copying: mark.copy.is_some(),
            owes: mark.owes,
            whole: mark.copy.is_none() && mark.base == self.base,
        };
        outlet.applied.send_replace(applied);
        let mut board = self.board.lock();
        board.committed_offset = mark.at.offset.0;
        board.states_owed = self.debts.len() as u64;
    }
}

/// A command that failed: what it touches and its name, when it can be found; the server's words,
/// or none when it only may have failed.
type Failed = (Option<(Touched, bytes::Bytes)>, String);

/// What became of a transaction, once passing refusals have passed.
#[derive(Debug)]
enum Executed {
    Done {
        replies: Vec<redis::Reply>,
        head: usize,
    },
    /// The server does not accept this command, counted from behind the mark.
    Refused {
        body_command: Option<usize>,
        message: String,
    },
    /// A watched key had changed.
    Changed,
    /// The connection broke; it was opened again, and the mark read.
    Lost,
}

fn unexpected_refusal(message: &str) -> Error {
    Error::Stop(Stop {
        reason: "redis_refuses".to_owned(),
        detail: format!("the local Redis refused our bookkeeping: {message}"),
        remedy: "see the error, and the permissions that the README lists".to_owned(),
    })
}

async fn pause(wait: &mut Duration, stop: &CancellationToken) -> Result<(), Error> {
    tokio::select! {
        () = sleep(*wait) => {}
        () = stop.cancelled() => return Err(Error::Stopped),
    }
    *wait = (*wait * 2).min(LONGEST_WAIT);
    Ok(())
}

//! Writing what a peer sent into the local Redis, exactly once.
//!
//! One transaction is in flight at a time. If two were, the first could be refused (out of memory,
//! say) and the second executed a moment later: its mark would say that the first was applied too.
//! The next batch is put together while one is in flight, so the round trip to the local Redis costs
//! little.

mod asking;
mod batch;
mod causes;
mod commit;
mod copy;
mod debts;
mod entries;
mod fresh;
mod guard;
mod look;
mod parts;
mod policy;
mod rebase;
mod records;
mod reply;
mod sealed;
mod self_mark;
mod target;
mod underway;
mod value;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::asking::ask;
pub use self::batch::Batch;
use self::commit::or_stopped;
pub use self::debts::{Debts, Key};
use self::parts::{Parts, put_removal};
pub use self::policy::Target;
use self::sealed::Sealed;
pub use self::self_mark::keep_self_mark;
use self::target::{FENCE_TIMEOUT, Writing, await_fence, put_fence};
use crate::command::{Catalog, ScanError};
use crate::config::{Flush, Publish};
use crate::converge::{Claims, Docket, Filed, Foreign, Table};
use crate::intake::Shared;
use crate::intake::history::Saved;
use crate::journal::{self, Journal};
use crate::link::{self, Flow, Message};
use crate::model::{
    Cursor, Epoch, InstanceId, Mark, MarkError, Owes, RecordError, Seen, SiteId, mark_key, part_key,
};
use crate::progress::{Deliveries, EpochState, Progress, Reached};
use crate::redis::{self, Info, Lease, Settings};
use crate::status::{PeerBoard, Ration, Stop};

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
    pub reserved: Arc<[String]>,
    /// What is done with FLUSHALL and FLUSHDB.
    pub flush: Flush,
    /// What is done with PUBLISH.
    pub publish: Publish,
}

/// Why applying ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A person must act.
    #[error("{}: {}; {}", .0.reason, .0.detail, .0.remedy)]
    Stop(Stop),
    /// The sites must be merged.
    #[error(
        "SWAPDB at one site met SWAPDB, FLUSHDB or FLUSHALL of the same databases at the other: a copy in each direction makes them equal"
    )]
    Torn,
    /// A copy came to data of which a part was not read since it had begun.
    #[error(
        "a part of the history of the local Redis was never read while a copy came to it: a copy in each direction makes the sites equal"
    )]
    Unread,
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
    Commands(#[from] ScanError),
    /// What the peer sent is out of place.
    #[error("the peer sent {0} out of place")]
    Unexpected(&'static str),
}

/// What the rest of the session learns from the applier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last record applied.
    pub at: Cursor,
    /// Whether a copy from the peer is under way, or is to come before one from here that answers it.
    pub copying: bool,
    /// What of a copy the peer is owed.
    pub owes: Owes,
    /// What of our history the peer had seen when it made what was applied last.
    pub seen: Cursor,
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
    /// After which place it sends records.
    pub sent_after: Cursor,
    /// The epoch on which its data rests.
    pub base: Epoch,
    /// Whether everything travels: see [`Mark::entire`].
    pub entire: bool,
    /// Whether it has data of ours, but not what began our present base, and gets that first: its states have
    /// not seen it. (Where its copy comes first, of each key in question its value is the one that stays.)
    pub gap: bool,
    /// See [`Plan::answered`](crate::link::Plan::answered).
    pub answered: Option<Cursor>,
    /// Whether this site has nothing yet, and gets all that it will have from this peer: of third sites, too.
    pub joins: bool,
    /// Whether values that are here stay, by configuration, where a first copy has others.
    pub keeps_own: bool,
    /// Whether one of the two servers is a Valkey of 9.1 or later and the other is not.
    pub disputes: bool,
}

/// Applies the records of one peer. Lives as long as the process; sessions come and go.
#[derive(Debug)]
pub struct Applier {
    config: Config,
    progress: watch::Receiver<Progress>,
    journal: Journal,
    table: Arc<Table>,
    foreign: Arc<Foreign>,
    /// The sites that are neither this nor the peer.
    third: Vec<SiteId>,
    reached: Arc<Reached>,
    docket: Docket,
    catalog: Catalog,
    deliveries: Arc<Deliveries>,
    board: PeerBoard,
    debts: Debts,
    claims: Arc<Claims>,
    /// What is told of single commands and keys.
    told: Ration,
    lease: Lease,
    writing: Option<Writing>,
    mark: Option<Mark>,
    /// A large value that is being put together.
    parts: Option<Parts>,
    /// How many messages of a copy the guard takes at once: see [`fresh`].
    grounded: u32,
    fence: u64,
    /// The count of removed marks up to which ours has been written again.
    marks_removed: u64,
    /// The epoch on which the peer's data rests.
    base: Epoch,
    /// Our own, since the session began.
    home: Epoch,
    /// Whether states of the peer are to be refused that lack writes which are here and not in our journal.
    gap: bool,
    /// See [`Begin::answered`]; none once that copy has come.
    answered: Option<Cursor>,
    /// Whether some values of the peer's server must not be RESTOREd here as they are: see
    /// [`crate::rdb::decode::has_disputed_entry`].
    disputes: bool,
    /// See [`Begin::joins`].
    joins: bool,
    /// Held as long as it does.
    turn: Option<OwnedSemaphorePermit>,
    /// See [`Begin::keeps_own`].
    keeps_own: bool,
    /// Whether the copy that the plan foresees is answered by one from here.
    owes_back: bool,
    /// Whether everything travels between the two sites: see [`Mark::entire`].
    entire: bool,
    /// What the snapshot being copied had seen.
    copy_seen: Seen,
    /// How much of our history the peer must have seen before the two sites are merged.
    torn_after: Option<Cursor>,
    /// How the commands of records behind this went is not known: they are being applied, or we were
    /// stopped before we had read the answers. None when it is known of all.
    unsettled: Option<Cursor>,
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
        let docket = shared.dockets.get(&config.peer);
        let third = shared.foreign.third(&config.peer);
        let docket = docket.cloned().unwrap_or_default();
        Self {
            config,
            progress,
            journal: shared.journal.clone(),
            table: Arc::clone(&shared.table),
            third,
            foreign: Arc::clone(&shared.foreign),
            reached: Arc::clone(&shared.reached),
            docket,
            catalog: shared.catalog.clone(),
            deliveries: Arc::clone(&shared.deliveries),
            board,
            debts,
            claims: Arc::clone(&shared.claims),
            told: Ration::default(),
            lease: shared.lease.clone(),
            writing: None,
            mark: None,
            parts: None,
            grounded: 0,
            fence: 0,
            marks_removed: 0,
            base: Epoch(0),
            home: Epoch(0),
            gap: false,
            answered: None,
            disputes: false,
            joins: false,
            turn: None,
            keeps_own: false,
            owes_back: false,
            entire: false,
            copy_seen: Seen::default(),
            torn_after: None,
            unsettled: Some(Cursor::ZERO),
        }
    }

    /// Opens the connection anew and reads where we stand. Call it before each session.
    ///
    /// # Errors
    /// The local Redis cannot be reached or used.
    pub async fn open(&mut self) -> Result<(Option<Mark>, Info), Error> {
        // The peer asks anew too.
        self.debts.forget_asked();
        self.connect().await
    }

    /// The same within a session: what the peer has asked for it still waits for.
    async fn connect(&mut self) -> Result<(Option<Mark>, Info), Error> {
        self.writing = None;
        let mut writing = Writing::open(&self.config, &self.lease).await?;
        self.fence += 1;
        let fence_of = (self.fence, self.progress.borrow().attached);
        let mut fence = Vec::new();
        put_fence(&mut fence, &self.config, self.fence);
        let reply = writing.pipeline(&fence, 1).await?.remove(0);
        writing.connection.accepted("SET", reply)?;
        await_fence(&self.config, &mut self.progress, fence_of).await?;
        let kept = writing.kept(&self.config.peer).await?;
        if let Some(found) = &kept.mark {
            self.see(&mut writing, found).await?;
        }
        self.mark = self.reconcile(kept.mark);
        if self.mark.as_ref().is_some_and(|mark| mark.copy.is_some()) {
            self.note_part();
        }
        let read = self.progress.borrow().read;
        let keys = kept.debts.iter().map(|(key, _)| key.clone());
        self.docket.owed(keys);
        self.debts.begin(kept.debts, read);
        let info = writing.info.clone();
        self.writing = Some(writing);
        Ok((self.mark.clone(), info))
    }

    /// The life of the server process into which we write, as [`Progress::server`] names it.
    #[must_use]
    pub fn server(&self) -> String {
        let known = self
            .writing
            .as_ref()
            .map(|writing| writing.info.run_id.as_str());
        Saved::run_id(known.unwrap_or_default())
    }

    /// Whether that server may write on its own what no client has written.
    #[must_use]
    pub fn server_writes_alone(&self) -> bool {
        self.writing
            .as_ref()
            .is_none_or(|writing| writing.info.writes_alone)
    }

    /// The stream has been read up to the fence, and so the mark should have come back. It has not
    /// when it was written while nobody read, before a new history began. Then it is written again:
    /// what we say we have seen must be exactly what the data holds, for a peer writes what we
    /// have not seen on top of our states.
    async fn see(&mut self, writing: &mut Writing, found: &Mark) -> Result<(), Error> {
        let peer = self.config.peer.clone();
        let has_come = |p: &Progress| p.seen.of(&peer) >= found.at;
        if has_come(&self.progress.borrow()) {
            return Ok(());
        }
        let mark = Mark {
            instance: self.config.instance,
            ..found.clone()
        };
        let (key, text) = (mark_key(&peer), mark.to_string());
        let set = [&b"SET"[..], key.as_bytes(), text.as_bytes()];
        writing.connection.ask(&set).await?;
        match timeout(FENCE_TIMEOUT, self.progress.wait_for(has_come)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::NoStream),
        }
    }

    /// The mark in Redis is the position. Where it was removed while its history went on, what we
    /// or the journal remember, and the echoes in the stream, say where it stood.
    fn reconcile(&self, found: Option<Mark>) -> Option<Mark> {
        let progress = self.progress.borrow();
        let seen = progress.seen.of(&self.config.peer);
        let remembered = self.mark.clone().filter(|m| m.at <= seen);
        let journaled = || progress.marks.get(&self.config.peer).cloned();
        let mut mark = found.or(remembered).or_else(journaled)?;
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
            self.take_asked()?;
            self.take_wishes()?;
            self.tear(stop).await?;
            ask(self.questions(), outlet).await?;
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Error::Stopped),
                waiting = work.recv() => waiting,
                () = self.docket.asked() => continue,
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
                        self.on_records(records, (work, &mut held), outlet, stop)
                            .await?
                    }
                    Message::CopyStates(states) => {
                        self.on_copy_states(states, work, &mut held, stop).await?
                    }
                    Message::Owe(question) => {
                        held = 0;
                        self.reach(question.after, stop).await?;
                        None
                    }
                    Message::Stale(number, keys) => {
                        held = 0;
                        self.docket.stale(number, keys);
                        None
                    }
                    Message::Ack(ack) => {
                        // In the order of the stream: what follows has seen this too.
                        held = 0;
                        self.deliveries.seen(&self.config.peer, &ack.seen);
                        self.reached.advance(self.home, &self.config.peer, ack.sent);
                        self.settle_sent(ack.sent);
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
        let Begin {
            flow,
            sent_after,
            base,
            entire,
            gap,
            answered,
            joins,
            keeps_own,
            disputes,
        } = begin;
        (self.joins, self.keeps_own, self.answered) = (joins, keeps_own, answered);
        self.disputes = disputes;
        let home = self
            .progress
            .borrow()
            .state
            .as_ref()
            .map_or(Epoch(0), |s| s.epoch);
        let before = self.mark.clone();
        let instance = self.config.instance;
        let mut mark = before
            .clone()
            .unwrap_or_else(|| Mark::first(instance, flow.start));
        let leaps = flow.leaps(&mark, base);
        mark.at = flow.start;
        self.parts = None;
        self.docket.begin();
        if before.as_ref().is_none_or(|b| b.at < flow.start) {
            let filing = self.docket.file(Filed::Nothing(flow.start));
            or_stopped(filing, stop).await.ok_or(Error::Stopped)?;
        }
        // What does not come again is not to be found out any more.
        let unsettled = self.unsettled.map(|from| from.max(sent_after));
        self.set_unsettled(unsettled.filter(|from| *from < flow.start));
        self.docket.hurry();
        let half_done = mark.part.take();
        (self.base, self.home, self.gap, self.entire) = (base, home, gap, entire);
        self.owes_back = flow.copy.is_some_and(|c| c.back);
        if flow.whole {
            (mark.base, mark.home) = (base, home);
        } else if leaps {
            mark.base = Epoch::LOST;
        }
        mark.entire = entire && (mark.entire || flow.whole);
        self.mark = Some(mark.clone());
        self.note_part();
        if before.as_ref() == Some(&mark) {
            return Ok(());
        }
        let key = part_key(&self.config.peer);
        let clear = |sealed: &mut Sealed| {
            if let Some(db) = half_done {
                put_removal(sealed, db, &key);
            }
        };
        self.commit(clear, mark, stop).await.map(drop)
    }

    fn set_unsettled(&mut self, from: Option<Cursor>) {
        self.unsettled = from;
        self.docket.set_unsettled(from);
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
            return Err(Error::Stop(second_sidecar(instance)));
        }
        if removed == self.marks_removed {
            return Ok(());
        }
        self.marks_removed = removed;
        let Some(mark) = self.mark.clone() else {
            return Ok(());
        };
        let reserved = Arc::clone(&self.config.reserved);
        let clean = |sealed: &mut Sealed| {
            if let Some(db) = strays {
                sealed.select(db);
                let keys = reserved.iter().map(String::as_bytes);
                let args: Vec<&[u8]> = [&b"DEL"[..]].into_iter().chain(keys).collect();
                sealed.command(&args);
            }
        };
        self.commit(clean, mark, stop).await?;
        info!(peer = %self.config.peer, "our bookkeeping was removed from Redis; written again");
        Ok(())
    }

    fn epoch(&self) -> Epoch {
        self.state().map_or(Epoch(0), |s| s.epoch)
    }

    fn state(&self) -> Option<Arc<EpochState>> {
        self.progress.borrow().state.clone()
    }

    /// Whether the data here rests on all that the peer's data rests on, and has lost nothing since.
    fn is_whole(&self) -> bool {
        let older = self.state().map_or(Epoch::NEVER, |state| state.older);
        let has_all = |mark: &Mark| mark.copy.is_none() && mark.base == self.base;
        let mark = self.mark.as_ref();
        mark.is_some_and(|mark| has_all(mark) && mark.home >= older)
    }

    fn report(&self, outlet: &Outlet) {
        let Some(mark) = &self.mark else { return };
        self.note_part();
        let applied = Applied {
            at: mark.at,
            copying: mark.copy.is_some() || self.owes_back,
            owes: mark.owes,
            seen: mark.seen.of(&self.config.site),
            whole: self.is_whole(),
        };
        // Whoever waits for it is woken by what is new, and by nothing else.
        outlet
            .applied
            .send_if_modified(|known| std::mem::replace(known, applied) != applied);
        let mut board = self.board.lock();
        board.committed_offset = mark.at.offset.0;
        board.states_owed = self.debts.len() as u64;
    }
}

/// The named stop for a site that two sidecars serve.
#[must_use]
pub fn second_sidecar(instance: InstanceId) -> Stop {
    Stop {
        reason: "second_sidecar".to_owned(),
        detail: format!("another sidecar ({instance}) writes into this Redis for this site"),
        remedy: "stop one of the two, then restart the other".to_owned(),
    }
}

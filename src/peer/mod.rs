//! One peer, for the life of the process: find each other, agree, run sessions.

mod inbound;
mod outgoing;
mod race;
mod session;
mod standing;
mod telling;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::apply::{self, Applier, Debts};
use crate::config::{Compression, Databases, Sync};
use crate::fullsync::{self, Answerer};
use crate::intake::filter::Filter;
use crate::intake::{Shared, wall_ms};
use crate::link::{self, Hello, Plan, Wire, plan};
use crate::model::{Cursor, Epoch, InstanceId, Mark, SiteId};
use crate::progress::Progress;
use crate::redis::{self, Info, Settings};
use crate::replica::Need;
use crate::status::{PeerBoard, PeerState, Stop};

/// The first wait before trying again; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait before dialling again: how long a peer that is back waits at most.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long a peer that is there waits for us to read our own Redis, where that had to wait for room.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after a named stop: something must change first, but nobody should have to restart us.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// A session that lived this long counts as a success: the waits begin anew.
const SUCCESS: Duration = Duration::from_secs(5);

/// A connection on which a peer has greeted.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub wire: Wire,
    /// What it said.
    pub hello: Hello,
}

/// What a peer's task needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// This site.
    pub site: SiteId,
    /// This life.
    pub instance: InstanceId,
    /// The peer.
    pub peer: SiteId,
    /// All sites, this one among them, by name.
    pub sites: Vec<SiteId>,
    /// Where to dial it; none: wait to be dialled.
    pub address: Option<String>,
    /// How what is sent to it is compressed.
    pub compression: Compression,
    /// The local Redis.
    pub redis: Settings,
    /// Where snapshots of it come from: itself, or one of its replicas.
    pub read_from: Settings,
    /// What is synced and how it begins.
    pub sync: Sync,
    /// Where snapshots are.
    pub dir: PathBuf,
}

/// Why there is no session, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The link.
    #[error(transparent)]
    Link(#[from] link::Error),
    /// Writing here.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::Error),
    /// What the journal holds.
    #[error("the journal holds a {0}")]
    Record(#[from] crate::model::RecordError),
    /// A copy.
    #[error(transparent)]
    Copy(#[from] fullsync::Error),
    /// The local Redis.
    #[error(transparent)]
    Redis(#[from] redis::Error),
    /// A person must act.
    #[error("{}: {}; {}", .0.reason, .0.detail, .0.remedy)]
    Stop(Stop),
    /// This site has no data yet, and gets it from another peer.
    #[error("this site is getting its first copy from another peer; going on with this one then")]
    Joining,
    /// This site has no data yet, and gets it from who gives back what the peer has lost.
    #[error(
        "the peer waits for what another one gives back; this site gets its first copy from that one"
    )]
    PeerWaits,
    /// The local Redis has begun a new history: the two must agree anew.
    #[error("the local Redis has begun a new history; agreeing anew")]
    NewHistory,
    /// The peer has come by another connection.
    #[error("the peer has connected anew")]
    Replaced,
    /// Told to stop.
    #[error("stopping")]
    Stopping,
}

impl Error {
    /// The named stop, if it is one.
    fn stop(&self) -> Option<Stop> {
        match self {
            Self::Stop(stop) | Self::Apply(apply::Error::Stop(stop)) => Some(stop.clone()),
            Self::Apply(apply::Error::BadMark { .. }) => Some(Stop {
                reason: "bad_mark".to_owned(),
                detail: self.to_string(),
                remedy: "delete that key; the two sites are then synced anew".to_owned(),
            }),
            Self::Copy(fullsync::Error::KeepInterrupted) => Some(Stop {
                reason: "copy_impossible".to_owned(),
                detail: self.to_string(),
                remedy: "set [sync] existing to overwrite at both sites and restart both; or stop \
                         the receiver's sidecar, empty its Redis, delete its journal directory \
                         and start it"
                    .to_owned(),
            }),
            Self::Redis(error) | Self::Apply(apply::Error::Redis(error)) => refusal(error),
            Self::Link(link::Error::Version { .. }) => Some(Stop {
                reason: "protocol_version".to_owned(),
                detail: self.to_string(),
                remedy: "run the same release of Tandem at both sites".to_owned(),
            }),
            _ => None,
        }
    }
}

/// The named stop for a local Redis that refuses us; none for what passes by itself.
fn refusal(error: &redis::Error) -> Option<Stop> {
    let (reason, remedy) = match error.code() {
        "NOPERM" => (
            "redis_permission",
            "give the user of [redis] the permissions that the README lists",
        ),
        "NOAUTH" | "WRONGPASS" => (
            "redis_login",
            "correct the username and password in [redis]",
        ),
        _ => return None,
    };
    Some(Stop {
        reason: reason.to_owned(),
        detail: error.to_string(),
        remedy: remedy.to_owned(),
    })
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    config: Config,
    shared: Shared,
    progress: watch::Receiver<Progress>,
    board: PeerBoard,
    applier: Applier,
    answerer: Answerer,
    debts: Debts,
    incoming: mpsc::Receiver<Incoming>,
    /// A connection that has replaced the last one.
    next: Option<Incoming>,
}

impl Peer {
    /// A peer; connections on which it has greeted come by `incoming`.
    #[must_use]
    pub fn new(
        config: Config,
        shared: Shared,
        progress: watch::Receiver<Progress>,
        board: PeerBoard,
        reserved: Arc<[String]>,
        incoming: mpsc::Receiver<Incoming>,
    ) -> Self {
        let debts = Debts::new(&config.peer, &shared.claims);
        let applying = apply::Config {
            site: config.site.clone(),
            instance: config.instance,
            peer: config.peer.clone(),
            redis: config.redis.clone(),
            reserved,
            flush: config.sync.flush,
            publish: config.sync.publish,
        };
        let applier = Applier::new(
            applying,
            progress.clone(),
            &shared,
            board.clone(),
            debts.clone(),
        );
        let answerer = Answerer::new(
            (config.site.clone(), config.instance),
            config.peer.clone(),
            config.redis.clone(),
            shared.clone(),
            progress.clone(),
            debts.clone(),
            (config.dir.clone(), config.sync.big_value),
        );
        board.lock().address.clone_from(&config.address);
        Self {
            config,
            shared,
            progress,
            board,
            applier,
            answerer,
            debts,
            incoming,
            next: None,
        }
    }

    /// Runs sessions until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut wait = FIRST_WAIT;
        let mut last_error = String::new();
        while !stop.is_cancelled() {
            let begun = tokio::time::Instant::now();
            let result = self.session(&stop).await;
            if begun.elapsed() > SUCCESS {
                wait = FIRST_WAIT;
            }
            let pause = match result {
                Ok(()) | Err(Error::Stopping) => break,
                Err(Error::Replaced) => Duration::ZERO,
                Err(error) => {
                    self.report(&error, &mut last_error);
                    if error.stop().is_some() {
                        STOP_WAIT
                    } else {
                        jittered(wait)
                    }
                }
            };
            wait = (wait * 2).min(LONGEST_WAIT);
            if self.next.is_some() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                incoming = self.incoming.recv() => self.next = incoming,
                () = sleep(pause) => {}
            }
        }
    }

    fn report(&self, error: &Error, last: &mut String) {
        let (text, stop) = (error.to_string(), error.stop());
        // One line per kind of trouble, not one per attempt.
        if *last != text {
            warn!(peer = %self.config.peer, %error, "no session with the peer");
            last.clone_from(&text);
        }
        let mut board = self.board.lock();
        board.state = if stop.is_some() {
            PeerState::Stopped
        } else {
            PeerState::Connecting
        };
        board.stop = stop;
        board.error = Some(text);
        (board.sending, board.receiving) = (None, None);
    }

    /// One session, from finding each other to its end.
    async fn session(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let agreed = tokio::select! {
            () = stop.cancelled() => return Err(Error::Stopping),
            agreed = self.agree() => agreed?,
        };
        // All that an empty site gets comes from one peer, that of third sites too.
        let turn = match standing::joins(self, &agreed.ours, agreed.plan.receive) {
            true if standing::joins_another(self, &agreed.theirs) => return Err(Error::PeerWaits),
            true => Some(Arc::clone(&self.shared.joining).try_acquire_owned()),
            false => None,
        };
        let turn = turn.transpose().map_err(|_| Error::Joining)?;
        self.applier.set_turn(turn);
        info!(peer = %self.config.peer, plan = ?agreed.plan, "session with the peer");
        {
            let mut board = self.board.lock();
            board.error = None;
            board.stop = None;
            board.state = PeerState::Connecting;
            board.sessions += 1;
        }
        let (claims, peer) = (Arc::clone(&self.shared.claims), self.config.peer.clone());
        if agreed.plan.send.copy.is_none() {
            claims.end_copy(&peer);
        }
        claims.set_linked(&peer, true);
        let result = Box::pin(session::run(self, agreed, stop)).await;
        claims.set_linked(&peer, false);
        self.applier.set_turn(None);
        self.board.lock().quiet = false;
        result
    }

    /// Connects or waits to be connected to; exchanges hellos; plans.
    async fn agree(&mut self) -> Result<Agreed, Error> {
        tokio::select! {
            attached = self.progress.wait_for(|p| p.attached > 0) => {
                attached.map(drop).map_err(|_| Error::Stopping)?;
            }
            () = self.shared.reserve.full() => {}
        }
        if let Some((_, instance)) = self.progress.borrow().foreign.clone() {
            return Err(Error::Stop(apply::second_sidecar(instance)));
        }
        while let Ok(newer) = self.incoming.try_recv() {
            self.next = Some(newer);
        }
        let (mut wire, theirs) = match self.next.take() {
            Some(Incoming { wire, hello }) => (wire, Some(hello)),
            None => self.connect().await?,
        };
        // The peer is there, and will make room in a journal that is full.
        let _claim = self.shared.reserve.claim();
        let attached = self.progress.wait_for(|p| p.attached > 0);
        match timeout(ATTACH_TIMEOUT, attached).await {
            Ok(attached) => attached.map(drop).map_err(|_| Error::Stopping)?,
            Err(_) => return Err(Error::Apply(apply::Error::NoStream)),
        }
        let (mark, info) = self.applier.open().await?;
        let ours = self.hello(mark.as_ref(), &info);
        wire.greet(ours.clone()).await?;
        let dialled = theirs.is_none();
        let theirs = match theirs {
            Some(hello) => hello,
            None => {
                self.greeted(&mut wire, peer_is_preferred(&self.config))
                    .await?
            }
        };
        wire.confirm((ours.nonce, theirs.nonce)).await?;
        debug!(peer = %self.config.peer, ours = ?ours.mark, theirs = ?theirs.mark, "greeted");
        let plan = plan(&ours, &theirs);
        let restores = plan.is_ok() && link::restores(&ours, &theirs);
        let (epoch, sources) = (Epoch(ours.epoch), &self.shared.sources);
        sources.note(&self.config.peer, epoch, restores);
        match plan {
            Ok(plan) => Ok(Agreed {
                wire,
                ours,
                theirs,
                plan,
                dialled,
            }),
            Err(stop) => {
                wire.refuse_greeted(format!("{}: {}", stop.reason, stop.detail))
                    .await;
                Err(Error::Stop(stop))
            }
        }
    }

    /// Dials, unless the peer comes first.
    async fn connect(&mut self) -> Result<(Wire, Option<Hello>), Error> {
        let Some(address) = &self.config.address else {
            let incoming = self.incoming.recv().await.ok_or(Error::Stopping)?;
            return Ok((incoming.wire, Some(incoming.hello)));
        };
        tokio::select! {
            incoming = self.incoming.recv() => {
                let incoming = incoming.ok_or(Error::Stopping)?;
                Ok((incoming.wire, Some(incoming.hello)))
            }
            wire = Wire::dial(address) => Ok((wire?, None)),
        }
    }

    /// Waits for the answer to our hello. When both dial at once, the connection of the site whose
    /// name sorts first is the one that stays.
    async fn greeted(&mut self, wire: &mut Wire, theirs_wins: bool) -> Result<Hello, Error> {
        loop {
            tokio::select! {
                hello = wire.greeted() => {
                    let hello = hello?;
                    if hello.site != self.config.peer.as_str() {
                        return Err(Error::Stop(Stop {
                            reason: "wrong_site".to_owned(),
                            detail: format!(
                                "{} answers at {}, where {} was expected",
                                hello.site,
                                self.config.address.as_deref().unwrap_or("?"),
                                self.config.peer
                            ),
                            remedy: "correct the addresses under [[peer]]".to_owned(),
                        }));
                    }
                    return Ok(hello);
                }
                incoming = self.incoming.recv() => {
                    let mut incoming = incoming.ok_or(Error::Stopping)?;
                    if theirs_wins {
                        self.next = Some(incoming);
                        return Err(Error::Replaced);
                    }
                    incoming.wire.refuse("we are dialling you; that connection stays".to_owned()).await;
                }
            }
        }
    }

    fn hello(&self, mark: Option<&Mark>, info: &Info) -> Hello {
        let progress = self.progress.borrow();
        let state = progress.state.as_deref();
        let first = self.shared.journal.first();
        let began = state.map_or(Cursor::ZERO, |s| Cursor {
            epoch: s.epoch,
            offset: s.began,
        });
        let snapshot = self.shared.shelf.offer(Need {
            peer: &self.config.peer,
            seen: progress.seen.of(&self.config.peer),
            from: Cursor::ZERO,
            since: first.max(began),
        });
        let scratch = state
            .filter(|s| s.empty && s.epoch == s.base)
            .map(|_| began);
        let (sources, peer) = (&self.shared.sources, &self.config.peer);
        let waits_for = progress.restorers(sources, peer);
        Hello {
            site: self.config.site.to_string(),
            peer: self.config.peer.to_string(),
            sites: self.config.sites.iter().map(ToString::to_string).collect(),
            instance: self.config.instance.as_u64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            redis: info.product.clone(),
            replid: state.map_or_else(String::new, |s| s.replid.to_string()),
            epoch: state.map_or(0, |s| s.epoch.0),
            base: state.map_or(0, |s| s.base.0),
            older: state.map_or(0, |s| s.older.0),
            first: first.to_string(),
            // What was read since then were no records, and the peer may have been told of a place in it.
            end: self.shared.journal.end().max(progress.read).to_string(),
            last_record: self.shared.journal.last_record().to_string(),
            from_scratch: scratch.filter(|at| first <= *at).map(|at| at.to_string()),
            snapshot: snapshot.map(|at| at.to_string()),
            mark: mark.map(ToString::to_string),
            seen: progress.seen.to_string(),
            judged: progress.judged.of(&self.config.peer).to_string(),
            nonce: rand::random(),
            packs: self.config.compression == Compression::Zstd,
            waits_for: waits_for.iter().map(ToString::to_string).collect(),
            initial: self.config.sync.initial,
            existing: self.config.sync.existing,
            selection: selection(&self.config.sync),
        }
    }
}

/// Two sites that agree on how to go on.
#[derive(Debug)]
struct Agreed {
    wire: Wire,
    ours: Hello,
    theirs: Hello,
    plan: Plan,
    /// Whether we dialled.
    dialled: bool,
}

/// Whether the peer's connection wins over ours when both dial.
fn peer_is_preferred(config: &Config) -> bool {
    config.peer < config.site
}

/// What is selected, as text, equal where it means the same.
fn selection(sync: &Sync) -> String {
    let mut text = match &sync.databases {
        Databases::All => "all".to_owned(),
        Databases::Only(set) => format!("{set:?}"),
    };
    for (word, patterns) in [
        ("keys", &sync.keys.include),
        ("without", &sync.keys.exclude),
    ] {
        if !patterns.is_empty() {
            let sorted: BTreeSet<String> = patterns.iter().map(ToString::to_string).collect();
            text.push_str(&format!(", {word} {sorted:?}"));
        }
    }
    text
}

/// What travels.
#[must_use]
pub fn filter(sync: &Sync) -> Filter {
    Filter {
        databases: match &sync.databases {
            Databases::All => None,
            Databases::Only(set) => Some(set.clone()),
        },
        include: sync.keys.include.clone(),
        exclude: sync.keys.exclude.clone(),
    }
}

/// A wait, spread so that two sites do not dial in step.
fn jittered(wait: Duration) -> Duration {
    let percent = 75 + u32::try_from(wall_ms() % 50).unwrap_or(0);
    wait * percent / 100
}

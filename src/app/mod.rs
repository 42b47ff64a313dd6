//! Builds the parts, joins them, watches over them, and ends them in order.

mod disk;
mod door;
mod parts;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::disk::{Policy, keep_synced};
use self::door::accept;
use self::parts::{Dockets, Parts, dockets};
use crate::admin;
use crate::apply::keep_self_mark;
use crate::config::Config;
use crate::intake;
use crate::journal;
use crate::model::{InstanceId, SiteId};
use crate::redis::{LEASE, LOOK, LeaseKeeper, Standing};
use crate::replica::Shelf;
use crate::status::{Board, PeerState, PeerStatus};

/// How long a graceful stop waits for the peers to have applied what was read. With what follows
/// it stays below ten seconds, after which orchestrators kill.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the tasks may take to end after that.
const END: Duration = Duration::from_secs(3);

/// Why the sidecar cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// What the journal holds.
    #[error(transparent)]
    Intake(#[from] intake::Error),
    /// The admin interface.
    #[error(transparent)]
    Admin(#[from] admin::Error),
    /// The link's address.
    #[error("cannot listen on {address} for peers: {source}; set [link] listen to a free address")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The lease has gone to another sidecar of this site while this one was away from Redis.
    #[error(
        "another sidecar of this site, {holder}, has taken over while this one was out of reach of \
         Redis; start this one again, and it stands by"
    )]
    Superseded {
        /// Its instance, and where it comes from.
        holder: String,
    },
    /// A task ended that never should.
    #[error("{0} ended unasked; this is a bug")]
    Task(&'static str),
}

/// A sidecar that can be looked at, and does not work yet.
#[derive(Debug)]
pub struct App {
    config: Config,
    instance: InstanceId,
    board: Arc<Board>,
    dockets: Dockets,
    admin: admin::Bound,
}

impl App {
    /// Binds the address for operators; starts nothing.
    ///
    /// # Errors
    /// The address is taken.
    pub fn build(config: Config) -> Result<Self, Error> {
        let instance = InstanceId::random();
        let admin = admin::bind(config.admin.listen)?;
        let names: Vec<SiteId> = config.peers.iter().map(|p| p.site.clone()).collect();
        let board = Board::new(config.site.clone(), instance, &names);
        board.redis().address = config.redis.address.to_string();
        Ok(Self {
            dockets: dockets(&names),
            config,
            instance,
            board,
            admin,
        })
    }

    /// Stands by while another sidecar of this site works; then works until `stop`, drains and ends.
    ///
    /// # Errors
    /// The journal cannot be used, an address is taken, another sidecar has taken over, or a part ended
    /// that should not.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self {
            config,
            instance,
            board,
            dockets,
            admin,
        } = self;
        let repairs = match config.admin.takes_repairs() {
            true => admin::Repairs::taken_by(Arc::clone(&dockets)),
            false => admin::Repairs::default(),
        };
        let admin = admin.spawn(Arc::clone(&board), repairs);
        info!(site = %config.site, admin = %admin.local_addr(), "tandem runs");
        let (mut keeper, lease) =
            LeaseKeeper::new(config.redis.clone(), config.site.clone(), instance);
        let result = match stand_by(&mut keeper, &board, &stop).await {
            Ready::Stopped => Ok(()),
            Ready::ToWork => {
                let parts = Parts::open(config, instance, Arc::clone(&board), dockets, lease).await;
                match parts {
                    Ok(parts) => work(parts, keeper, &board, &stop).await,
                    Err(error) => Err(error),
                }
            }
        };
        tokio::task::spawn_blocking(move || admin.stop()).await.ok();
        info!("tandem ends");
        result
    }
}

/// What the lease says of this process.
enum Ready {
    /// It is the one that works.
    ToWork,
    /// It was told to stop while it stood by.
    Stopped,
}

/// Waits while another sidecar of this site has the lease. Without an answer of the server there is
/// nothing to wait for: what is wrong with it the intake says, and nobody writes without the lease.
async fn stand_by(keeper: &mut LeaseKeeper, board: &Board, stop: &CancellationToken) -> Ready {
    let mut holder: Option<String> = None;
    loop {
        let standing = tokio::select! {
            () = stop.cancelled() => return Ready::Stopped,
            standing = keeper.take() => standing,
        };
        let wait = match standing {
            Ok(Standing::Held) => break,
            Err(_) if holder.is_none() => break,
            // The one that works comes first when the server is back.
            Err(error) => {
                board.redis().error = Some(error.to_string());
                LEASE
            }
            Ok(Standing::Other(other)) => {
                board.redis().error = None;
                if holder.as_ref() != Some(&other) {
                    info!(holder = %other, "another sidecar of this site works; standing by");
                    board.set_standby(Some(other.clone()));
                    holder = Some(other);
                }
                LOOK
            }
        };
        // Two that stand by look at different times.
        let apart = LOOK.mul_f64(rand::random_range(0.0..0.25));
        tokio::select! {
            () = stop.cancelled() => return Ready::Stopped,
            () = sleep(wait + apart) => {}
        }
    }
    if let Some(holder) = holder {
        warn!(%holder, "the sidecar that worked for this site is gone: taking over");
        board.set_standby(None);
    }
    Ready::ToWork
}

/// Starts everything, watches over it until `stop`, and ends it in order.
async fn work(
    mut parts: Parts,
    keeper: LeaseKeeper,
    board: &Arc<Board>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let tasks = TaskTracker::new();
    let (working, reading) = (CancellationToken::new(), CancellationToken::new());
    let (ended, mut failed) = mpsc::channel(1);
    let spawn = |name: &'static str, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let ended = ended.clone();
        tasks.spawn(async move {
            task.await;
            // Somebody has said it already when the channel is full.
            ended.try_send(name).ok();
        });
    };
    // A tracker of its own: the lease is kept until everything else has ended.
    let leasing = CancellationToken::new();
    let mut lease = TaskTracker::new().spawn(keeper.keep(leasing.clone()));
    if let Some(listener) = parts.intake.take_listener() {
        let listening = listener.run(working.clone());
        spawn("the listener for evictions", Box::pin(listening));
    }
    spawn("the intake", Box::pin(parts.intake.run(reading.clone())));
    for peer in parts.peers {
        spawn("a peer's task", Box::pin(peer.run(working.clone())));
    }
    let shelf = Arc::clone(&parts.shared.shelf);
    let policy = Policy {
        fsync: parts.config.journal.fsync,
        when_full: parts.config.journal.when_full,
    };
    let journal = parts.shared.journal.clone();
    let syncing = keep_synced(journal, Arc::clone(board), policy, working.clone());
    spawn("the journal's syncing", Box::pin(syncing));
    let keeping = keep_self_mark(
        parts.config.site,
        parts.instance,
        parts.config.redis,
        parts.shared,
        parts.progress,
        working.clone(),
    );
    spawn("the self mark's keeper", Box::pin(keeping));
    if let Some(listener) = parts.listener {
        let accepting = accept(listener, parts.doors, tasks.clone(), working.clone());
        spawn("the listener", Box::pin(accepting));
    }
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        name = failed.recv() => Err(Error::Task(name.unwrap_or("everything"))),
        other = &mut lease => Err(match other {
            Ok(Some(holder)) => Error::Superseded { holder },
            Ok(None) | Err(_) => Error::Task("the lease's keeper"),
        }),
    };
    if result.is_ok() {
        drain(board).await;
    }
    // A transaction that is under way is given up: the mark will say what became of it. The
    // intake's last act is to tell Redis of everything that was read.
    working.cancel();
    reading.cancel();
    end(&tasks, &shelf).await;
    // Last: who stands by takes over now.
    leasing.cancel();
    if !lease.is_finished() {
        lease.await.ok();
    }
    result
}

/// Waits until all tasks have ended, which were told to.
async fn end(tasks: &TaskTracker, shelf: &Shelf) {
    tasks.close();
    let all = async { tokio::join!(tasks.wait(), shelf.end()) };
    if timeout(END, all).await.is_err() {
        warn!("some tasks did not end in time; the journal and the marks say where to go on");
    }
}

/// Waits until the peers that are there have what was read.
async fn drain(board: &Board) {
    let deadline = Instant::now() + DRAIN;
    while Instant::now() < deadline {
        let status = board.status();
        let linked = |p: &&PeerStatus| p.state == PeerState::Synchronizing;
        if status.peers.iter().filter(linked).all(|p| p.settled) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    warn!("not everything that was read has reached the peers; the journal keeps it for them");
}

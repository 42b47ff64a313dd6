//! Builds the parts, joins them, watches over them, and ends them in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin;
use crate::apply::keep_self_mark;
use crate::command::Catalog;
use crate::config::{Acknowledge, Config};
use crate::converge::{Docket, Table};
use crate::intake::{self, ConflictLog, Intake, Shared};
use crate::journal::{self, Journal, Writer};
use crate::link::Wire;
use crate::model::{InstanceId, SELF_KEY, SiteId, fence_key, mark_key, owed_key, part_key};
use crate::peer::{self, Incoming, Peer, filter};
use crate::progress::{Deliveries, Progress};
use crate::replica::{Shelf, Snapshot};
use crate::status::{Board, PeerState, PeerStatus};

/// How long a graceful stop waits for the peers to have applied what was read. With what follows
/// it stays below ten seconds, after which orchestrators kill.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the tasks may take to end after that.
const END: Duration = Duration::from_secs(3);
/// How often the journal is forced to the disk: what a machine that loses power may lose.
const SYNC_PERIOD: Duration = Duration::from_secs(1);
/// Connections that may be greeting at once; a stranger must not use up descriptors.
const MAX_GREETING: usize = 32;
/// Connections of one peer that may wait to be looked at.
const MAX_INCOMING: usize = 4;

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
    /// A task ended that never should.
    #[error("{0} ended unasked; this is a bug")]
    Task(&'static str),
}

/// A sidecar, built and bound but not yet running.
#[derive(Debug)]
pub struct App {
    board: Arc<Board>,
    admin: admin::Bound,
    listener: Option<TcpListener>,
    intake: Intake,
    peers: Vec<Peer>,
    doors: HashMap<SiteId, mpsc::Sender<Incoming>>,
    journal: Journal,
    keeper: Keeper,
}

/// What the self mark's keeper needs.
#[derive(Debug)]
struct Keeper {
    config: Config,
    instance: InstanceId,
    shared: Shared,
    progress: watch::Receiver<Progress>,
}

impl App {
    /// Opens the journal, binds the addresses, builds the parts; starts nothing.
    ///
    /// # Errors
    /// An address is taken, or the journal cannot be used.
    pub async fn build(config: Config) -> Result<Self, Error> {
        let instance = InstanceId::random();
        let admin = admin::bind(config.admin.listen)?;
        let listener = match config.link.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let names: Vec<SiteId> = config.peers.iter().map(|p| p.site.clone()).collect();
        let board = Board::new(config.site.clone(), instance, &names);
        board.redis().address = config.redis.address.to_string();
        let dir = config.journal.dir.clone();
        let settings = journal::Config {
            dir: dir.clone(),
            max_size: config.journal.max_size,
        };
        let (writer, journal, recovered) = Writer::open(settings)?;
        say_torn(recovered.truncated_bytes);
        if let Err(error) = Snapshot::remove_partial(&dir) {
            warn!(%error, "cannot look for what is left of snapshots");
        }
        let shared = Shared {
            journal: journal.clone(),
            table: Arc::new(Table::new(config.conflicts.remember)),
            catalog: Catalog::default(),
            deliveries: Deliveries::new(&names),
            shelf: Arc::default(),
            dockets: dockets(&names),
            board: Arc::clone(&board),
        };
        let reading = reading(&config, instance, names.clone());
        let (intake, progress) = Intake::open(reading, shared.clone(), writer, &recovered)?;
        let mut peers = Vec::new();
        let mut doors = HashMap::new();
        for each in &config.peers {
            let (door, incoming) = mpsc::channel(MAX_INCOMING);
            let section = board.peer(&each.site).ok_or(Error::Task("the board"))?;
            peers.push(Peer::new(
                peer_config(&config, each, instance),
                shared.clone(),
                progress.clone(),
                section,
                reserved(&names),
                incoming,
            ));
            doors.insert(each.site.clone(), door);
        }
        let keeper = Keeper {
            config,
            instance,
            shared,
            progress,
        };
        Ok(Self {
            board,
            admin,
            listener,
            intake,
            peers,
            doors,
            journal,
            keeper,
        })
    }

    /// Runs until `stop`, then drains and ends.
    ///
    /// # Errors
    /// A part ended that should not.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self {
            board,
            admin,
            listener,
            intake,
            peers,
            doors,
            journal,
            keeper,
        } = self;
        let admin = admin.spawn(Arc::clone(&board), repairs(&keeper));
        info!(site = %keeper.config.site, admin = %admin.local_addr(), "tandem runs");
        let tasks = TaskTracker::new();
        let (work, reading) = (CancellationToken::new(), CancellationToken::new());
        let (ended, mut failed) = mpsc::channel(1);
        let spawn = |name: &'static str,
                     task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let ended = ended.clone();
            tasks.spawn(async move {
                task.await;
                // Somebody has said it already when the channel is full.
                ended.try_send(name).ok();
            });
        };
        spawn("the intake", Box::pin(intake.run(reading.clone())));
        for peer in peers {
            spawn("a peer's task", Box::pin(peer.run(work.clone())));
        }
        let Keeper {
            config,
            instance,
            shared,
            progress,
        } = keeper;
        let shelf = Arc::clone(&shared.shelf);
        let keeping = keep_self_mark(
            config.site,
            instance,
            config.redis,
            shared,
            progress,
            work.clone(),
        );
        spawn("the self mark's keeper", Box::pin(keeping));
        spawn(
            "the journal's syncing",
            Box::pin(keep_synced(journal, Arc::clone(&board), work.clone())),
        );
        if let Some(listener) = listener {
            spawn(
                "the listener",
                Box::pin(accept(listener, doors, tasks.clone(), work.clone())),
            );
        }
        let result = tokio::select! {
            () = stop.cancelled() => Ok(()),
            name = failed.recv() => Err(Error::Task(name.unwrap_or("everything"))),
        };
        if result.is_ok() {
            drain(&board).await;
        }
        // A transaction that is under way is given up: the mark will say what became of it. The
        // intake's last act is to tell Redis of everything that was read.
        work.cancel();
        reading.cancel();
        end(&tasks, &shelf).await;
        tokio::task::spawn_blocking(move || admin.stop()).await.ok();
        info!("tandem ends");
        result
    }
}

/// Who takes orders to repair keys.
fn repairs(keeper: &Keeper) -> admin::Repairs {
    match keeper.config.admin.takes_repairs() {
        true => admin::Repairs::taken_by(Arc::clone(&keeper.shared.dockets)),
        false => admin::Repairs::default(),
    }
}

/// Waits until all tasks have ended, which were told to.
async fn end(tasks: &TaskTracker, shelf: &Shelf) {
    tasks.close();
    let all = async { tokio::join!(tasks.wait(), shelf.end()) };
    if timeout(END, all).await.is_err() {
        warn!("some tasks did not end in time; the journal and the marks say where to go on");
    }
}

fn say_torn(bytes: u64) {
    if bytes > 0 {
        warn!(
            bytes,
            "the journal's end was torn by a crash and is read from Redis again"
        );
    }
}

fn peer_config(config: &Config, peer: &crate::config::Peer, instance: InstanceId) -> peer::Config {
    peer::Config {
        site: config.site.clone(),
        instance,
        peer: peer.site.clone(),
        address: peer.address.clone(),
        redis: config.redis.clone(),
        read_from: config.reading().clone(),
        sync: config.sync.clone(),
        dir: config.journal.dir.clone(),
    }
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            address: address.to_string(),
            source,
        })
}

/// What the intake needs to know.
fn reading(config: &Config, instance: InstanceId, peers: Vec<SiteId>) -> intake::Config {
    let conflicts = ConflictLog {
        path: config.conflicts.log.clone(),
        keys: config.conflicts.keys,
        max_rate: config.conflicts.max_rate,
    };
    intake::Config {
        site: config.site.clone(),
        instance,
        peers,
        redis: config.redis.clone(),
        replica: config.read_from.replica().cloned(),
        filter: filter(&config.sync),
        dir: config.journal.dir.clone(),
        conflicts,
        waits_for_peers: config.sync.acknowledge == Acknowledge::Peers,
    }
}

/// Every key of ours that SWAPDB could carry into another database.
fn reserved(peers: &[SiteId]) -> Vec<String> {
    let mut keys = vec![SELF_KEY.to_owned()];
    for peer in peers {
        keys.extend([
            mark_key(peer),
            owed_key(peer),
            fence_key(peer),
            part_key(peer),
        ]);
        keys.push(fence_key(peer).replacen("fence:", "fence:apply:", 1));
        keys.push(fence_key(peer).replacen("fence:", "fence:read:", 1));
    }
    keys
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

/// Forces the journal to the disk, and shows how it is.
async fn keep_synced(journal: Journal, board: Arc<Board>, stop: CancellationToken) {
    let mut tick = interval(SYNC_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut overflowed = 0;
    let mut behind = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let syncer = journal.syncer();
        match tokio::task::spawn_blocking(move || syncer.sync()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => error!(%error, "the journal could not be forced to the disk"),
            Err(error) => error!(%error, "the journal's syncing failed"),
        }
        if journal.overflowed() > overflowed {
            overflowed = journal.overflowed();
            error!(
                segments = overflowed,
                "the journal has reached [journal] max_size and drops what a peer has not got yet: \
                 that peer will need a copy"
            );
        }
        show_lag_of_absent(&journal, &board, &mut behind);
        let mut section = board.journal();
        section.first = journal.first().to_string();
        section.end = journal.end().to_string();
        section.bytes = journal.bytes();
        section.max_bytes = journal.max_bytes();
    }
}

/// The lag of peers without a session, which nobody else shows. `behind`: since when each is.
fn show_lag_of_absent(
    journal: &Journal,
    board: &Arc<Board>,
    behind: &mut HashMap<SiteId, Instant>,
) {
    for site in board.sites() {
        let Some(section) = board.peer(&site) else {
            continue;
        };
        let mut peer = section.lock();
        if peer.applied >= journal.last_record() {
            behind.remove(&site);
            continue;
        }
        let since = *behind.entry(site).or_insert_with(Instant::now);
        if matches!(peer.state, PeerState::Connecting | PeerState::Stopped) {
            peer.lag_bytes = journal.pending_bytes(peer.applied);
            peer.lag_seconds = since.elapsed().as_secs_f64();
        }
    }
}

/// Lets peers in.
async fn accept(
    listener: TcpListener,
    doors: HashMap<SiteId, mpsc::Sender<Incoming>>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let doors = Arc::new(doors);
    let greeting = Arc::new(Semaphore::new(MAX_GREETING));
    loop {
        let Ok(permit) = Arc::clone(&greeting).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a peer's connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (doors, stop) = (Arc::clone(&doors), stop.clone());
        tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = stop.cancelled() => {}
                () = let_in(stream, from.to_string(), &doors) => {}
            }
        });
    }
}

async fn let_in(stream: TcpStream, from: String, doors: &HashMap<SiteId, mpsc::Sender<Incoming>>) {
    let mut wire = match Wire::new(stream, from.clone()) {
        Ok(wire) => wire,
        Err(error) => return warn!(%from, %error, "cannot use a peer's connection"),
    };
    let hello = match wire.greeted().await {
        Ok(hello) => hello,
        Err(error) => {
            wire.refuse(error.to_string()).await;
            return warn!(%from, %error, "a connection to the link's port is no peer's");
        }
    };
    let door = SiteId::try_new(&hello.site)
        .ok()
        .and_then(|site| doors.get(&site));
    let Some(door) = door else {
        warn!(%from, site = hello.site, "a site that is not configured wants to connect");
        return wire
            .refuse(format!(
                "there is no [[peer]] with site = {:?} here",
                hello.site
            ))
            .await;
    };
    if let Err(refused) = door.try_send(Incoming { wire, hello }) {
        let mpsc::error::TrySendError::Full(mut incoming) = refused else {
            return;
        };
        incoming
            .wire
            .refuse("too many connections of this site wait already".to_owned())
            .await;
    }
}

/// One for each peer.
fn dockets(peers: &[SiteId]) -> Arc<BTreeMap<SiteId, Docket>> {
    let news = Arc::default();
    let docket = |peer: &SiteId| (peer.clone(), Docket::new(&news));
    Arc::new(peers.iter().map(docket).collect())
}

//! The parts of a working sidecar, joined.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::warn;

use super::Error;
use super::door::listen;
use crate::command::Catalog;
use crate::config::{Acknowledge, Config, Evictions, Fsync, WhenFull};
use crate::converge::{Claims, Docket, Foreign, Table};
use crate::intake::{self, ConflictLog, Intake, Shared};
use crate::journal::{self, Writer};
use crate::model::{InstanceId, SELF_KEY, SiteId, fence_key, mark_key, owed_key, part_key};
use crate::peer::{self, Incoming, Peer, filter};
use crate::progress::{Deliveries, Progress};
use crate::redis::Lease;
use crate::replica::Snapshot;
use crate::status::Board;

/// Connections of one peer that may wait to be looked at.
const MAX_INCOMING: usize = 4;

/// Per peer, its records that wait to be judged.
pub(super) type Dockets = Arc<BTreeMap<SiteId, Docket>>;

/// What works, built and not yet running.
pub(super) struct Parts {
    pub config: Config,
    pub instance: InstanceId,
    pub listener: Option<TcpListener>,
    pub intake: Intake,
    pub peers: Vec<Peer>,
    pub doors: HashMap<SiteId, mpsc::Sender<Incoming>>,
    pub shared: Shared,
    pub progress: watch::Receiver<Progress>,
}

impl Parts {
    /// Opens the journal, takes the address of the link, builds the parts; starts nothing.
    ///
    /// # Errors
    /// The address is taken, or the journal cannot be used.
    pub(super) async fn open(
        config: Config,
        instance: InstanceId,
        board: Arc<Board>,
        dockets: Dockets,
        lease: Lease,
    ) -> Result<Self, Error> {
        let listener = match config.link.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let dir = config.journal.dir.clone();
        let settings = journal::Config {
            dir: dir.clone(),
            max_size: config.journal.max_size,
            drops_oldest: config.journal.when_full == WhenFull::FullSync,
        };
        let (writer, journal, recovered) = Writer::open(settings)?;
        say_torn(recovered.truncated_bytes);
        if let Err(error) = Snapshot::remove_partial(&dir) {
            warn!(%error, "cannot look for what is left of snapshots");
        }
        let names: Vec<SiteId> = config.peers.iter().map(|p| p.site.clone()).collect();
        let shared = Shared {
            journal,
            table: Arc::new(Table::new(config.conflicts.remember)),
            foreign: Arc::new(Foreign::new(&names, config.conflicts.remember)),
            claims: Claims::new(&config.site, &names),
            seen_at: Arc::default(),
            joining: Arc::new(Semaphore::new(1)),
            reached: Arc::default(),
            catalog: Catalog::default(),
            deliveries: Deliveries::new(&config.site, &names),
            sources: Arc::default(),
            shelf: Arc::default(),
            dockets,
            board: Arc::clone(&board),
            lease,
            reserve: Arc::default(),
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
        Ok(Self {
            config,
            instance,
            listener,
            intake,
            peers,
            doors,
            shared,
            progress,
        })
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
        sites: sites(config),
        address: peer.address.clone(),
        compression: config.link.compression,
        redis: config.redis.clone(),
        read_from: config.reading().clone(),
        sync: config.sync.clone(),
        dir: config.journal.dir.clone(),
    }
}

/// This site and its peers, by name.
fn sites(config: &Config) -> Vec<SiteId> {
    let peers = config.peers.iter().map(|peer| peer.site.clone());
    let mut sites: Vec<SiteId> = peers.chain([config.site.clone()]).collect();
    sites.sort();
    sites
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
        forces: config.journal.fsync == Fsync::Always,
        waits_for_peers: config.sync.acknowledge == Acknowledge::Peers,
        keeps_evictions: config.sync.evictions == Evictions::KeepLocal,
    }
}

/// Every key of ours that SWAPDB could carry into another database.
fn reserved(peers: &[SiteId]) -> Arc<[String]> {
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
    keys.into()
}

/// One for each peer.
pub(super) fn dockets(peers: &[SiteId]) -> Dockets {
    let news = Arc::default();
    let docket = |peer: &SiteId| (peer.clone(), Docket::new(&news));
    Arc::new(peers.iter().map(docket).collect())
}

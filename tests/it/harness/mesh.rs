//! Two to five sites, each linked with each through a fault proxy.

use std::collections::BTreeMap;

use tandem::status::PeerState;

use super::client::Client;
use super::compare::differences_in_value;
use super::fault::FaultProxy;
use super::pair::{Options, Site, try_settle};
use super::wait::{patience, wait_until};

/// The names of sites, as many as there are.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Differences shown.
const SHOWN: usize = 20;

/// Some sites, of which each is linked with each.
pub(crate) struct Mesh {
    pub(crate) sites: Vec<Site>,
    /// The wire between two, by their numbers, the lower one first, which dials.
    wires: BTreeMap<(usize, usize), FaultProxy>,
}

impl Mesh {
    /// So many empty sites whose sidecars are synchronizing.
    pub(crate) fn start(count: usize, options: &Options) -> Self {
        let mut mesh = Self::prepare(count, options);
        mesh.start_all();
        mesh.wait_synchronizing();
        mesh
    }

    /// So many sites whose sidecars are not started yet.
    pub(crate) fn prepare(count: usize, options: &Options) -> Self {
        let names = NAMES.into_iter().take(count);
        let sites: Vec<Site> = names.map(|name| Site::new(name, "", options)).collect();
        let mut mesh = Self {
            sites,
            wires: BTreeMap::new(),
        };
        mesh.join();
        mesh
    }

    /// One site more, which is not started; the others are stopped, and know it when they are started
    /// again.
    pub(crate) fn add(&mut self, options: &Options) {
        let name = NAMES[self.sites.len()];
        self.sites.push(Site::new(name, "", options));
        for site in &mut self.sites {
            site.sidecar.kill();
        }
        self.join();
    }

    /// Starts every sidecar.
    pub(crate) fn start_all(&mut self) {
        self.sites.iter_mut().for_each(|site| site.sidecar.start());
    }

    /// Has the sidecars know each other.
    fn join(&mut self) {
        let count = self.sites.len();
        for i in 0..count {
            let mut peers = Vec::new();
            for j in (0..count).filter(|j| *j != i) {
                let port = self.sites[j].sidecar.config.link_port;
                let pair = (i.min(j), i.max(j));
                let dials = (i < j).then(|| {
                    let wire = self.wires.entry(pair);
                    wire.or_insert_with(|| FaultProxy::to(port)).port()
                });
                peers.push((NAMES[j].to_owned(), dials));
            }
            self.sites[i].sidecar.config.peers = peers;
        }
    }

    /// The wire between two sites, by their numbers, the lower one first.
    pub(crate) fn wire(&self, one: usize, other: usize) -> &FaultProxy {
        &self.wires[&(one, other)]
    }

    /// Cuts a site off from all others.
    pub(crate) fn cut_off(&self, number: usize) {
        let of_site = |(i, j): &(usize, usize)| *i == number || *j == number;
        let wires = self.wires.iter().filter(|(pair, _)| of_site(pair));
        wires.for_each(|(_, wire)| wire.cut());
    }

    /// Lets everything pass again.
    pub(crate) fn mend(&self) {
        self.wires.values().for_each(FaultProxy::mend);
    }

    /// A client of each server.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.sites.iter().map(Site::client).collect()
    }

    /// Waits until each site says of each other that it is synchronizing, and that it owes nothing.
    pub(crate) fn wait_synchronizing(&self) {
        wait_until("all sites to be synchronizing", patience(60), || {
            for site in &self.sites {
                let status = site.sidecar.status()?;
                let replid = site.client().info("replication", "master_replid");
                if !status.redis.connected || replid.as_deref() != Some(&status.redis.replid) {
                    return Err(format!("{} says {:#?}", site.name, status.redis));
                }
                for peer in &status.peers {
                    if peer.state != PeerState::Synchronizing || peer.states_owed > 0 {
                        return Err(format!("{} says {peer:#?}", site.name));
                    }
                }
            }
            Ok(())
        });
    }

    /// Waits until everything written anywhere has been applied everywhere.
    pub(crate) fn settle(&self) {
        let deadline = patience(60);
        if let Err(reason) = try_settle(&self.all(), deadline) {
            panic!("waited {deadline:?} for all sites to settle; at the end: {reason}");
        }
    }

    /// All sites.
    pub(crate) fn all(&self) -> Vec<&Site> {
        self.sites.iter().collect()
    }

    /// The sites, and the wires between them.
    pub(crate) fn parts(&mut self) -> (&mut [Site], Vec<&FaultProxy>) {
        (&mut self.sites, self.wires.values().collect())
    }

    /// What is not the same at all of these sites.
    pub(crate) fn differences(&self, numbers: &[usize]) -> Vec<String> {
        let mut found = Vec::new();
        for pair in numbers.windows(2) {
            let (one, other) = (&self.sites[pair[0]], &self.sites[pair[1]]);
            let (_, differing) = differences_in_value(&mut one.client(), &mut other.client());
            let between = format!("{} and {}", one.name, other.name);
            found.extend(differing.iter().map(|d| format!("{between}: {d}")));
        }
        found
    }

    /// Fails unless all sites hold the same.
    pub(crate) fn compare(&self) {
        let numbers: Vec<usize> = (0..self.sites.len()).collect();
        let found = self.differences(&numbers);
        let shown = found.iter().take(SHOWN).cloned().collect::<Vec<_>>();
        let count = found.len();
        assert!(
            found.is_empty(),
            "{count} differences:\n{}",
            shown.join("\n")
        );
    }

    /// How many states were sent by all of them to mend conflicts.
    pub(crate) fn states_sent(&self) -> u64 {
        let statuses = self
            .sites
            .iter()
            .map(|s| s.sidecar.status().expect("a status"));
        let peers = statuses.flat_map(|status| status.peers);
        peers.map(|peer| peer.conflicts.sent).sum()
    }
}

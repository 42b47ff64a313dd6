//! Two sites in two-way sync, and the question whether they have come to rest.

use std::time::{Duration, Instant};

use tandem::status::{PeerState, Status, Stop};

use super::client::Client;
use super::fault::FaultProxy;
use super::server::Server;
use super::sidecar::{Config, Sidecar};
use super::wait::{let_pass, patience, wait_until};

/// Which side dials the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dial {
    A,
    B,
    Both,
}

/// How a pair differs from the usual one. Pairs of values are for site a and site b.
pub(crate) struct Options {
    pub(crate) initial: [&'static str; 2],
    pub(crate) existing: &'static str,
    pub(crate) databases: &'static str,
    pub(crate) dial: Dial,
    /// Options of both servers.
    pub(crate) servers: &'static [&'static str],
    /// Their versions; the empty one is the server under test.
    pub(crate) versions: [String; 2],
    /// Whether the sidecars reach their servers through fault proxies, too.
    pub(crate) redis_proxies: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            initial: ["auto"; 2],
            existing: "refuse",
            databases: "\"all\"",
            dial: Dial::A,
            servers: &[],
            versions: [String::new(), String::new()],
            redis_proxies: false,
        }
    }
}

/// One Redis and its sidecar.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    // Dropped in this order: the sidecar is asked for its status while its server lives.
    pub(crate) sidecar: Sidecar,
    pub(crate) server: Server,
    pub(crate) redis_proxy: Option<FaultProxy>,
    /// Whether a Sentinel watches over its Redis.
    pub(crate) is_watched: bool,
}

impl Site {
    /// A site whose sidecar is not started and has no peers.
    pub(super) fn new(name: &'static str, version: &str, options: &Options) -> Self {
        let server = if version.is_empty() {
            Server::start(options.servers)
        } else {
            Server::version(version, options.servers)
        };
        let redis_proxy = options.redis_proxies.then(|| FaultProxy::to(server.port()));
        let port = redis_proxy
            .as_ref()
            .map_or_else(|| server.port(), FaultProxy::port);
        Self {
            name,
            sidecar: Sidecar::new(Config::new(name, port)),
            server,
            redis_proxy,
            is_watched: false,
        }
    }

    /// Waits until its sidecar has said one of these.
    pub(crate) fn wait_for_log(&self, texts: &[&str]) {
        wait_until("a line of the log", patience(30), || {
            let log = self.sidecar.log();
            let is_said = texts.iter().any(|text| log.contains(text));
            is_said
                .then_some(())
                .ok_or_else(|| format!("{} has not said any of {texts:?}", self.name))
        });
    }

    /// Waits until its sidecar has read, and so stamped, all that its server has executed.
    pub(crate) fn wait_read(&self) {
        let offset = self.client().offset();
        wait_until("the sidecar to have read all", patience(20), || {
            let read = self.sidecar.status()?.redis.offset;
            let is_all = read >= offset;
            is_all
                .then_some(())
                .ok_or_else(|| format!("{} has read {read} of {offset}", self.name))
        });
    }

    /// A client of its Redis.
    pub(crate) fn client(&self) -> Client {
        self.server.client()
    }

    /// Whether its sidecar is in this state with the only peer.
    pub(crate) fn peer_state(&self) -> Result<PeerState, String> {
        let status = self.sidecar.status()?;
        let peer = status.peers.first().ok_or("no peer in /status")?;
        Ok(peer.state)
    }
}

/// Two sites, with the link running through fault proxies.
pub(crate) struct Pair {
    pub(crate) a: Site,
    pub(crate) b: Site,
    /// The wire on which a dials b.
    pub(crate) wire_a: FaultProxy,
    /// The wire on which b dials a.
    pub(crate) wire_b: FaultProxy,
}

impl Pair {
    /// Two empty sites whose sidecars are synchronizing.
    pub(crate) fn start(options: &Options) -> Self {
        let mut pair = Self::prepare(options);
        pair.start_sidecars();
        pair.wait_synchronizing();
        pair
    }

    /// Two sites whose sidecars are not started yet.
    pub(crate) fn prepare(options: &Options) -> Self {
        let mut a = Site::new("a", &options.versions[0], options);
        let mut b = Site::new("b", &options.versions[1], options);
        let wire_a = FaultProxy::to(b.sidecar.config.link_port);
        let wire_b = FaultProxy::to(a.sidecar.config.link_port);
        let wires = [&wire_a, &wire_b];
        for (index, site) in [&mut a, &mut b].into_iter().enumerate() {
            let config = &mut site.sidecar.config;
            let other = ["b", "a"][index];
            let dials = options.dial == Dial::Both || options.dial == [Dial::A, Dial::B][index];
            let port = dials.then(|| wires[index].port());
            config.peers = vec![(other.to_owned(), port)];
            config.initial = options.initial[index].to_owned();
            config.existing = options.existing.to_owned();
            config.databases = options.databases.to_owned();
        }
        Self {
            a,
            b,
            wire_a,
            wire_b,
        }
    }

    /// Starts both sidecars.
    pub(crate) fn start_sidecars(&mut self) {
        self.a.sidecar.start();
        self.b.sidecar.start();
    }

    /// Waits until both sides say `synchronizing` with the servers as they are now, and neither
    /// owes the other a state: then nothing is known at one site only.
    pub(crate) fn wait_synchronizing(&self) {
        let mut calm = 0;
        wait_until("both sites to be synchronizing", patience(60), || {
            // Twice in a row: the two are not asked at the same moment.
            calm += 1;
            for site in self.sites() {
                let status = site.sidecar.status()?;
                let replid = site.client().info("replication", "master_replid");
                if !status.redis.connected || replid.as_deref() != Some(&status.redis.replid) {
                    calm = 0;
                    return Err(format!("{} says {:#?}", site.name, status.redis));
                }
                let peer = status.peers.first().ok_or("no peer in /status")?;
                if peer.state != PeerState::Synchronizing || peer.states_owed > 0 {
                    calm = 0;
                    return Err(format!("{} says {peer:#?}", site.name));
                }
            }
            if calm >= 2 {
                Ok(())
            } else {
                Err("once is not enough".to_owned())
            }
        });
    }

    /// Both sites.
    pub(crate) fn sites(&self) -> [&Site; 2] {
        [&self.a, &self.b]
    }

    /// A client of each Redis.
    pub(crate) fn clients(&self) -> (Client, Client) {
        (self.a.client(), self.b.client())
    }

    /// Cuts the link and keeps it cut.
    pub(crate) fn cut_link(&self) {
        self.wire_a.cut();
        self.wire_b.cut();
    }

    /// Lets the link be dialled again.
    pub(crate) fn mend_link(&self) {
        self.wire_a.mend();
        self.wire_b.mend();
    }

    /// Waits until everything written anywhere has been applied everywhere: each sidecar has read
    /// all of its server's stream and says `settled`, both in one pass, twice in a row.
    pub(crate) fn settle(&self) {
        let deadline = patience(60);
        if let Err(reason) = self.try_settle(deadline) {
            panic!("waited {deadline:?} for both sites to settle; at the end: {reason}");
        }
    }

    /// Like [`Self::settle`], but says why it does not come to that. A link that is stopped does
    /// not settle.
    pub(crate) fn try_settle(&self, deadline: Duration) -> Result<(), String> {
        try_settle(&self.sites(), deadline)
    }

    /// Why the link is stopped, from the site that says so.
    pub(crate) fn stopped(&self) -> Option<(&'static str, Stop)> {
        stopped(&self.sites())
    }

    /// After all is quiet, nothing goes round in circles: for a while only PINGs and a few marks
    /// enter the streams, and no command but reads and bookkeeping is executed.
    pub(crate) fn no_echo(&self) {
        self.settle();
        let echoes = self.echoes();
        assert!(echoes.is_empty(), "{}", echoes.join("\n"));
    }

    /// What happens by itself for a while at two sites at rest, and should not.
    pub(crate) fn echoes(&self) -> Vec<String> {
        echoes(&self.sites())
    }
}

/// Waits until everything written at any of these sites has been applied at all; why it does not come
/// to that, if it does not.
pub(crate) fn try_settle(sites: &[&Site], deadline: Duration) -> Result<(), String> {
    let mut last: Vec<String> = Vec::new();
    let mut calm = 0;
    let start = Instant::now();
    while start.elapsed() < deadline {
        let offsets: Vec<u64> = sites.iter().map(|s| s.client().offset()).collect();
        last.clear();
        for (site, offset) in sites.iter().zip(offsets) {
            let status = site.sidecar.status();
            if let Some(reason) = unrest(site.name, offset, status) {
                last.push(reason);
            }
        }
        calm = if last.is_empty() { calm + 1 } else { 0 };
        if calm >= 2 {
            return Ok(());
        }
        let_pass(POLL);
    }
    Err(format!("calm {calm} times; {}", last.join("; ")))
}

/// Why a link of these sites is stopped, from the site that says so.
pub(crate) fn stopped(sites: &[&Site]) -> Option<(&'static str, Stop)> {
    sites.iter().find_map(|site| {
        let peers = site.sidecar.status().ok()?.peers;
        let stop = peers.into_iter().find_map(|peer| peer.stop)?;
        Some((site.name, stop))
    })
}

/// What happens by itself for a while at these sites, which are at rest, and should not.
pub(crate) fn echoes(sites: &[&Site]) -> Vec<String> {
    let mut found = Vec::new();
    let activities = || sites.iter().map(|site| Activity::of(site)).collect();
    let before: Vec<Activity> = activities();
    let_pass(WATCH);
    let after: Vec<Activity> = activities();
    // What expires meanwhile at one site is deleted at the others.
    let expired = |of: &[Activity]| of.iter().map(|activity| activity.expired).sum::<u64>();
    let expired = expired(&after) - expired(&before);
    for ((site, before), after) in sites.iter().zip(before).zip(after) {
        let grown = after.offset - before.offset;
        if grown > QUIET_BYTES {
            found.push(format!(
                "{}: the stream grew by {grown} bytes while nobody wrote",
                site.name
            ));
        }
        for (name, calls) in &after.calls {
            let old = before.calls.iter().find(|(n, _)| n == name);
            let new = calls - old.map_or(0, |(_, calls)| *calls);
            let bound = match name.as_str() {
                name if BOOKKEEPING.contains(&name) => QUIET_MARKS,
                name if READS.contains(&name) => u64::MAX,
                // A Sentinel tells others of itself; what it says travels no further.
                "publish" | "subscribe" if site.is_watched => u64::MAX,
                "del" | "unlink" => expired,
                _ => 0,
            };
            if new > bound {
                found.push(format!(
                    "{}: {name} was called {new} times while nobody wrote",
                    site.name
                ));
            }
        }
    }
    found
}

/// Between two looks at the sites.
const POLL: Duration = Duration::from_millis(20);
/// How long the watch for echoes lasts.
const WATCH: Duration = Duration::from_millis(1500);
/// Room for a PING and a mark or two.
const QUIET_BYTES: u64 = 1000;
/// Marks that may be written during the watch.
const QUIET_MARKS: u64 = 4;
/// Commands that write bookkeeping.
const BOOKKEEPING: &[&str] = &["set", "multi", "exec"];
/// Commands that tests and sidecars run to look.
const READS: &[&str] = &[
    "info",
    "ping",
    "get",
    "mget",
    "exists",
    "type",
    "pttl",
    "ttl",
    "select",
    "replconf",
    "role",
    "hello",
    "client",
    "client|setinfo",
    "client|setname",
    "client|id",
    "client|list",
    "config|get",
    "command",
    "command|info",
    "command|docs",
    "psync",
    "auth",
    "scan",
    "dbsize",
    "time",
    "watch",
    "unwatch",
    "smembers",
    "scard",
    "memory|usage",
    "acl|whoami",
    "echo",
];

/// What a server has done so far.
struct Activity {
    offset: u64,
    calls: Vec<(String, u64)>,
    /// Keys that have expired.
    expired: u64,
}

impl Activity {
    fn of(site: &Site) -> Self {
        let mut client = site.client();
        Self {
            offset: client.offset(),
            calls: client.all_calls(),
            expired: client.expired(),
        }
    }
}

/// Why a site is not at rest, if it is not.
fn unrest(name: &str, offset: u64, status: Result<Status, String>) -> Option<String> {
    match status {
        Err(error) => Some(format!("{name}: {error}")),
        Ok(status) if status.redis.offset < offset => Some(format!(
            "{name} has read {} of {offset} bytes",
            status.redis.offset
        )),
        Ok(status) if !status.settled => Some(format!("{name} is not settled")),
        Ok(_) => None,
    }
}

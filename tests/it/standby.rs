//! Several sidecars for one site: one works, the others stand by.

use std::mem;
use std::time::{Duration, Instant};

use tandem::status::PeerState;

use crate::harness::load::Load;
use crate::harness::ports::free_port;
use crate::harness::{Options, Pair, Sidecar, patience, wait_for, wait_until};
use crate::resume::judged;

/// Between two writes of a client.
const PAUSE: Duration = Duration::from_micros(500);

/// How long a holder of the lease may be silent, as the program says.
const LEASE: Duration = Duration::from_secs(10);

/// Two sites; the first has a second sidecar, which stands by.
struct Sites {
    pair: Pair,
    second: Sidecar,
}

impl Sites {
    /// The second one has a journal of its own, or shares that of the first.
    fn start(shares: bool) -> Self {
        Self::with(shares, &Options::default())
    }

    fn with(shares: bool, options: &Options) -> Self {
        let pair = Pair::start(options);
        pair.a.client().run("SET before 1");
        pair.settle();
        let mut config = pair.a.sidecar.config.clone();
        config.admin_port = free_port();
        config.link_port = free_port();
        config.journal = shares.then(|| pair.a.sidecar.dir().join("journal"));
        let mut second = Sidecar::new(config);
        second.start();
        wait_standing_by(&second);
        Self { pair, second }
    }

    fn start_load(&self, seed: u64) -> Load {
        let sites = self.pair.sites().map(|s| (s.name, s.server.port()));
        Load::start(&sites, PAUSE, seed)
    }

    /// Waits until the second one works; from then on it is the first.
    fn wait_taken_over(&mut self) {
        wait_until("the second to take over", patience(60), || {
            let status = self.second.status()?;
            match (&status.standby_for, status.redis.connected) {
                (None, true) => Ok(()),
                _ => Err(format!("{status:#?}")),
            }
        });
        mem::swap(&mut self.pair.a.sidecar, &mut self.second);
    }

    fn check(&self, load: Load) {
        judged(&self.pair, load, false);
    }
}

fn wait_standing_by(sidecar: &Sidecar) {
    wait_until("it to stand by", patience(30), || {
        let status = sidecar.status()?;
        status
            .standby_for
            .clone()
            .map(drop)
            .ok_or_else(|| format!("{status:#?}"))
    });
}

/// Lets the clients write so much more, as site b sees it.
fn write_more(sites: &Sites, writes: u64) {
    let mut client = sites.pair.b.client();
    let mut sum = || client.ask::<Option<u64>>("GET n:by").unwrap_or_default() / 7;
    let goal = sum() + writes;
    wait_for("the clients to write", patience(60), || sum() >= goal);
}

#[test]
fn a_standby_takes_over_within_twice_the_lease() {
    let mut sites = Sites::start(false);
    let (code, text) = sites.second.http("/readyz").expect("an answer");
    assert!(code == 503 && text.contains("standing by"), "{code} {text}");
    assert_eq!(sites.second.http("/livez").expect("an answer").0, 200);
    let load = sites.start_load(1);
    write_more(&sites, 20);
    sites.pair.a.sidecar.kill();
    let killed = Instant::now();
    sites.wait_taken_over();
    assert!(killed.elapsed() < 2 * LEASE, "{:?}", killed.elapsed());
    write_more(&sites, 20);
    sites.pair.wait_synchronizing();

    // The first comes back, with a journal in which all this is missing, and stands by in its turn.
    sites.second.start();
    wait_standing_by(&sites.second);
    write_more(&sites, 20);
    sites.pair.a.sidecar.kill();
    sites.wait_taken_over();
    write_more(&sites, 20);
    sites.check(load);
}

#[test]
fn with_the_same_journal_a_standby_goes_on_where_the_first_was() {
    let mut sites = Sites::start(true);
    let load = sites.start_load(2);
    for _ in 0..3 {
        write_more(&sites, 20);
        sites.pair.a.sidecar.kill();
        sites.wait_taken_over();
        write_more(&sites, 20);
        let status = sites.pair.a.sidecar.status().expect("a status");
        assert_eq!(status.redis.resyncs_full, 0, "{status:#?}");
        sites.second.start();
        wait_standing_by(&sites.second);
    }
    sites.check(load);
}

#[test]
fn a_sidecar_in_good_order_hands_over_at_once() {
    let mut sites = Sites::start(true);
    let load = sites.start_load(3);
    write_more(&sites, 20);
    let (status, _) = sites.pair.a.sidecar.terminate();
    assert!(status.success(), "{status}");
    let ended = Instant::now();
    sites.wait_taken_over();
    assert!(ended.elapsed() < LEASE, "{:?}", ended.elapsed());
    write_more(&sites, 20);
    sites.check(load);
    // One that stands by ends as well as one that works.
    sites.second.start();
    wait_standing_by(&sites.second);
    let (status, _) = sites.second.terminate();
    assert!(status.success(), "{status}");
}

#[test]
fn a_sidecar_that_slept_through_its_lease_writes_nothing_more() {
    let mut sites = Sites::start(false);
    // What it reads when it is awake tells it so, or the lease does.
    sites.pair.a.sidecar.expect_errors("has taken over");
    let marks = "another sidecar writes marks";
    sites.pair.a.sidecar.expect_errors(marks);
    let load = sites.start_load(4);
    write_more(&sites, 20);
    sites.pair.a.sidecar.signal("STOP");
    let stopped = Instant::now();
    sites.wait_taken_over();
    assert!(stopped.elapsed() < 2 * LEASE, "{:?}", stopped.elapsed());
    write_more(&sites, 20);
    // What it had under way it tries to end: both are awake, and both would write.
    sites.second.signal("CONT");
    let status = sites.second.wait_exit(patience(30));
    assert_eq!(status.code(), Some(1));
    write_more(&sites, 20);
    sites.check(load);
    let status = sites.pair.a.sidecar.status().expect("a status");
    assert_eq!(status.peers[0].state, PeerState::Synchronizing);
}

#[test]
fn the_one_that_works_stays_when_its_server_restarts() {
    let durable = Options {
        servers: &["appendonly yes", "appendfsync always"],
        ..Options::default()
    };
    let mut sites = Sites::with(false, &durable);
    let instance = sites.pair.a.sidecar.status().expect("a status").instance;
    let load = sites.start_load(5);
    write_more(&sites, 20);
    sites.pair.a.server.restart();
    write_more(&sites, 50);
    sites.check(load);
    let status = sites.pair.a.sidecar.status().expect("a status");
    assert_eq!(status.instance, instance);
    let holder = sites.second.status().expect("a status").standby_for;
    assert!(holder.is_some_and(|holder| holder.starts_with(&instance)));
}

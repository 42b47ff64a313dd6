//! Sites whose Redis is a primary with a replica, and fails over.

use std::time::Duration;

use tandem::status::Status;

use crate::harness::load::Load;
use crate::harness::sentinel::says;
use crate::harness::{FaultProxy, Group, Options, Pair, Server, patience, wait_for, wait_until};
use crate::resume::judged;

/// Between two writes of a client.
const PAUSE: Duration = Duration::from_micros(200);

/// Two sites, of which these have a replica and a Sentinel.
pub(crate) struct Sites {
    pub(crate) pair: Pair,
    pub(crate) groups: Vec<Group>,
}

impl Sites {
    fn start(groups: usize, configure: impl Fn(&mut Pair, &[Group])) -> Self {
        Self::start_with(groups, &Options::default(), configure)
    }

    pub(crate) fn start_with(
        groups: usize,
        options: &Options,
        configure: impl Fn(&mut Pair, &[Group]),
    ) -> Self {
        let mut pair = Pair::prepare(options);
        let groups: Vec<Group> = pair
            .sites()
            .into_iter()
            .take(groups)
            .map(|site| Group::around(&site.server, options.servers))
            .collect();
        for (site, group) in [&mut pair.a, &mut pair.b].into_iter().zip(&groups) {
            site.sidecar.config.redis_url = Some(group.url());
            site.is_watched = true;
        }
        configure(&mut pair, &groups);
        pair.start_sidecars();
        pair.wait_synchronizing();
        Self { pair, groups }
    }

    /// The primary and the group of a site.
    fn site(&mut self, index: usize) -> (&mut Server, &mut Group) {
        let site = match index {
            0 => &mut self.pair.a,
            _ => &mut self.pair.b,
        };
        (&mut site.server, &mut self.groups[index])
    }

    fn status(&self, index: usize) -> Status {
        self.pair.sites()[index].sidecar.status().expect("a status")
    }

    /// Waits until the sidecar has read all that its server has sent: nothing is written there.
    pub(crate) fn wait_read(&self, index: usize) {
        let site = self.pair.sites()[index];
        let end = site.client().offset();
        wait_until("everything to be read", patience(30), || {
            let read = site.sidecar.status()?.redis.offset;
            if read >= end {
                Ok(())
            } else {
                Err(format!("{read} of {end}"))
            }
        });
    }

    /// Waits until the first site reads its replica, which the Sentinels say is in sync.
    fn wait_reading_the_replica(&self) {
        let replica = self.groups[0].other.port().to_string();
        wait_until("the replica to be read", patience(60), || {
            let address = self.pair.a.sidecar.status()?.redis.address;
            if address.ends_with(&replica) {
                Ok(())
            } else {
                Err(address)
            }
        });
    }

    /// The primary of a site dies; its replica takes its place, and the client of the site goes there.
    pub(crate) fn kill_primary(&mut self, index: usize, load: &Load) {
        let (primary, group) = self.site(index);
        primary.kill();
        group.fail_over(primary);
        load.redirect(index, primary.port());
    }

    /// The old primary comes back as a replica, and takes over the next time.
    pub(crate) fn come_back(&mut self, index: usize) {
        let (primary, group) = self.site(index);
        group.wire = FaultProxy::to(primary.port());
        group.other.restart();
        group.follow();
        group.wait_following(primary);
    }

    fn start_load(&self, seed: u64) -> Load {
        let sites = self.pair.sites().map(|s| (s.name, s.server.port()));
        Load::start(&sites, PAUSE, seed)
    }

    fn check(&self, load: Load) {
        judged(&self.pair, load, false);
    }
}

/// Lets the clients write so much more, as site b sees it.
fn write_more(sites: &Sites, writes: u64) {
    write_more_at(&sites.pair.b.server, writes);
}

fn write_more_at(server: &Server, writes: u64) {
    let mut client = server.client();
    let mut sum = || client.ask::<Option<u64>>("GET n:by").unwrap_or_default() / 7;
    let goal = sum() + writes;
    wait_for("the clients to write", patience(60), || sum() >= goal);
}

#[test]
fn a_replica_that_has_everything_takes_over_and_the_stream_goes_on() {
    let mut sites = Sites::start(1, |_, _| {});
    let load = sites.start_load(1);
    write_more(&sites, 20);
    load.pause();
    sites.wait_read(0);
    let before = sites.status(0).redis;
    let end = sites.pair.a.client().offset();
    wait_for("the replica to have everything", patience(30), || {
        sites.groups[0].other.client().offset() >= end
    });
    sites.kill_primary(0, &load);
    load.resume();
    write_more(&sites, 20);
    sites.check(load);
    let after = sites.status(0).redis;
    assert_eq!(after.resyncs_full, before.resyncs_full, "a full resync");
}

#[test]
fn what_a_new_primary_lacks_comes_back_from_the_peer() {
    let mut sites = Sites::start(1, |_, _| {});
    let load = sites.start_load(2);
    write_more(&sites, 20);
    let before = sites.status(0);
    sites.groups[0].wire.cut();
    write_more(&sites, 20);
    load.pause();
    sites.wait_read(0);
    // What the peer has written meanwhile is lost at this site, too, with the marks that told of it.
    sites.kill_primary(0, &load);
    load.resume();
    write_more(&sites, 20);
    sites.check(load);
    let after = sites.status(0);
    assert_eq!(
        after.redis.resyncs_full, before.redis.resyncs_full,
        "a full resync"
    );
    assert!(
        after.redis.epoch > before.redis.epoch,
        "the histories have parted"
    );
    let log = sites.pair.a.sidecar.log();
    assert!(log.contains("without the latest writes"), "{log}");
    assert!(!log.contains("copying"), "{log}");
}

#[test]
fn both_sites_fail_over_under_load_and_nothing_is_lost() {
    let mut sites = Sites::start(2, |_, _| {});
    let load = sites.start_load(3);
    for index in [0, 1, 0] {
        write_more(&sites, 20);
        sites.groups[index].wire.cut();
        write_more(&sites, 20);
        load.pause();
        sites.wait_read(index);
        sites.kill_primary(index, &load);
        load.resume();
        write_more(&sites, 20);
        sites.come_back(index);
        // What it had lost is there before anything else is.
        load.pause();
        sites.pair.wait_synchronizing();
        sites.pair.settle();
        load.resume();
    }
    sites.check(load);
}

#[test]
fn both_primaries_die_at_once() {
    let mut sites = Sites::start(2, |_, _| {});
    let load = sites.start_load(5);
    write_more(&sites, 20);
    load.pause();
    for index in 0..2 {
        sites.wait_read(index);
        let (primary, group) = sites.site(index);
        let end = primary.client().offset();
        wait_for("the replica to have everything", patience(30), || {
            group.other.client().offset() >= end
        });
        primary.kill();
    }
    load.resume();
    for index in 0..2 {
        let (primary, group) = sites.site(index);
        group.fail_over(primary);
        load.redirect(index, primary.port());
    }
    write_more(&sites, 20);
    sites.check(load);
}

#[test]
fn a_primary_that_hangs_is_left_for_the_new_one() {
    let mut sites = Sites::start(1, |_, _| {});
    let load = sites.start_load(4);
    write_more(&sites, 20);
    load.pause();
    sites.wait_read(0);
    let (primary, group) = sites.site(0);
    primary.signal("STOP");
    group.fail_over(primary);
    load.redirect(0, sites.pair.a.server.port());
    load.resume();
    write_more(&sites, 20);
    // What hung comes to itself as a primary, until the Sentinel tells it otherwise.
    sites.groups[0].other.signal("CONT");
    wait_for("the old primary to be a replica", patience(60), || {
        says(&sites.groups[0].other, "role", "slave")
    });
    write_more(&sites, 20);
    sites.check(load);
}

#[test]
fn the_stream_of_a_replica_does_as_well() {
    let mut sites = Sites::start(1, |pair, _| {
        pair.a.sidecar.config.redis_extra = "read_from = \"replica\"".to_owned();
    });
    sites.wait_reading_the_replica();
    let load = sites.start_load(6);
    write_more(&sites, 50);
    // Slow, and gone: what is not in the replica yet is read from the primary.
    sites.groups[0]
        .wire
        .down()
        .delay(Duration::from_millis(300));
    write_more(&sites, 50);
    sites.groups[0].other.kill();
    write_more(&sites, 50);
    sites.groups[0].other.restart();
    sites.groups[0].follow();
    sites.wait_reading_the_replica();
    write_more(&sites, 50);
    sites.check(load);
}

#[test]
fn a_replica_by_its_url_is_waited_for() {
    let mut sites = Sites::start(1, |pair, groups| {
        let port = groups[0].other.port();
        let config = &mut pair.a.sidecar.config;
        config.redis_url = None;
        config.redis_extra = format!("read_from = \"redis://127.0.0.1:{port}\"");
    });
    let load = sites.start_load(7);
    write_more(&sites, 50);
    sites.groups[0].other.kill();
    write_more_at(&sites.pair.a.server, 50);
    sites.groups[0].other.restart();
    sites.groups[0].follow();
    write_more(&sites, 50);
    sites.check(load);
}

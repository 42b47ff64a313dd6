//! Two sites meet for the first time: who gets what, and what happens when it is interrupted.

use std::time::Duration;

use tandem::status::{CopyCounts, PeerState};

use crate::harness::compare::all_keys;
use crate::harness::load::{self, Load};
use crate::harness::{Client, Options, Pair, Site, compare, patience, wait_until};
use crate::table;

/// Keys of the copies that are interrupted: a hundred bytes each, so about ten megabytes.
const KEYS: u64 = 60_000;
/// Bytes a second of the link while a copy is to be caught in the middle.
const SLOW: u64 = 1_500_000;

/// Fills a server with `key:0` to `key:<keys - 1>`, quickly.
fn populate(client: &mut Client, keys: u64) {
    client.run(&format!("DEBUG POPULATE {keys} key 100"));
}

/// A pair of which a holds data, the link is slow, and the sidecars run.
fn slow_copy() -> Pair {
    let mut pair = Pair::prepare(&Options::default());
    populate(&mut pair.a.client(), KEYS);
    pair.wire_a.up().throttle(SLOW);
    pair.start_sidecars();
    pair
}

/// Waits until b has received this part of the keys.
fn wait_received(pair: &Pair, percent: u64) {
    wait_until("the copy to be under way", patience(60), || {
        let peer = pair.b.sidecar.peer("a")?;
        match &peer.receiving {
            Some(copy) if copy.keys_done * 100 >= KEYS * percent => Ok(()),
            other => Err(format!("{:?} {other:?}", peer.state)),
        }
    });
}

/// Waits until the sidecar of a site reads its server's stream.
pub(crate) fn reads(site: &Site) {
    wait_until("the stream to be read", patience(30), || {
        match site.sidecar.status()?.redis {
            redis if redis.connected => Ok(()),
            redis => Err(format!("{redis:?}")),
        }
    });
}

/// The link is whole again, the copy ends, and both are equal and have so many keys.
fn ends_well_with(pair: &Pair, keys: u64) {
    pair.wire_a.mend();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(pair) as u64, keys);
}

#[test]
fn an_empty_site_gets_everything() {
    let mut pair = Pair::prepare(&Options::default());
    let mut a = pair.a.client();
    table::fill(&mut a, "a");
    for db in 0..16 {
        a.run(&format!("SELECT {db}"));
        a.run("SET in-every-database 1 EX 1000");
    }
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.settle();
    let keys = compare(&pair);
    let copied = pair.b.sidecar.peer("a").unwrap().copied;
    let expected = CopyCounts {
        created: keys as u64,
        ..CopyCounts::default()
    };
    assert_eq!(copied, expected);
    let back = pair.a.sidecar.peer("b").unwrap().copied;
    assert_eq!(back, CopyCounts::default(), "nothing comes back");
    pair.no_echo();
}

#[test]
fn the_site_with_data_sends_whatever_its_name() {
    let mut pair = Pair::prepare(&Options::default());
    populate(&mut pair.b.client(), 1000);
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair), 1000);
    assert_eq!(pair.a.sidecar.peer("b").unwrap().copied.created, 1000);
}

#[test]
fn writes_at_both_sites_during_the_copy_are_kept() {
    let mut pair = Pair::prepare(&Options::default());
    let (mut a, mut b) = pair.clients();
    populate(&mut a, KEYS);
    for n in 0..200 {
        a.run(&format!("SET old:{n} 1000"));
        a.run(&format!("RPUSH old:list:{n} first"));
    }
    pair.wire_a.up().throttle(SLOW);
    pair.start_sidecars();
    wait_received(&pair, 1);
    let sites = [("a", pair.a.server.port()), ("b", pair.b.server.port())];
    let load = Load::start(&sites, Duration::from_millis(2), 7);
    for n in 0..200 {
        // Some of these have been copied, and some have not.
        a.run(&format!("INCR old:{n}"));
        b.run(&format!("INCR old:{n}"));
        let (name, client) = if n % 3 == 0 {
            ("a", &mut a)
        } else {
            ("b", &mut b)
        };
        client.run(&format!("RPUSH old:list:{n} {name}"));
        a.run(&format!("SET new:a:{n} v"));
        b.run(&format!("SET new:b:{n} v"));
        if n % 2 == 0 {
            a.run(&format!("DEL key:{n}"));
        }
    }
    let copying = pair.b.sidecar.peer("a").unwrap().receiving;
    assert!(copying.is_some(), "the copy ended before the writes did");
    pair.wire_a.mend();
    pair.wait_synchronizing();
    let tallies = load.finish();
    pair.settle();
    compare(&pair);
    load::check(&tallies, &mut a);
    for n in 0..200 {
        assert_eq!(b.ask::<u64>(&format!("GET old:{n}")), 1002, "old:{n}");
        assert_eq!(
            b.ask::<u64>(&format!("LLEN old:list:{n}")),
            2,
            "old:list:{n}"
        );
    }
    assert_eq!(b.ask::<u64>("EXISTS key:0 key:2 key:198"), 0);
    assert_eq!(b.ask::<u64>("EXISTS key:1 key:3 key:199"), 3);
    pair.no_echo();
}

#[test]
fn two_sites_with_data_are_left_as_they_are() {
    let mut pair = Pair::prepare(&Options::default());
    let (mut a, mut b) = pair.clients();
    a.run("SET common a");
    a.run("SET own:a 1");
    b.run("SET common b");
    b.run("SET own:b 1");
    for site in pair.sites() {
        // A person has to act.
        site.sidecar.expect_errors("");
    }
    pair.start_sidecars();
    wait_until("both sites to stop", patience(30), || {
        for site in pair.sites() {
            let status = site.sidecar.status()?;
            let peer = &status.peers[0];
            let Some(stop) = &peer.stop else {
                return Err(format!("{}: {peer:#?}", site.name));
            };
            assert_eq!(peer.state, PeerState::Stopped);
            assert!(
                !stop.reason.is_empty() && !stop.detail.is_empty(),
                "{stop:?}"
            );
            assert!(stop.remedy.contains("existing"), "{stop:?}");
            assert!(!status.settled);
        }
        Ok(())
    });
    assert_eq!(a.ask::<String>("GET common"), "a");
    assert_eq!(b.ask::<String>("GET common"), "b");
    assert_eq!(a.ask::<u64>("EXISTS own:b"), 0);
    assert_eq!(b.ask::<u64>("EXISTS own:a"), 0);
}

/// Two sites with 100 keys in common and 50 of their own meet; says what each copied.
fn merged(options: &Options) -> (Pair, [CopyCounts; 2]) {
    let mut pair = Pair::prepare(options);
    let (mut a, mut b) = pair.clients();
    for n in 0..100 {
        a.run(&format!("RPUSH common:{n} a a"));
        b.run(&format!("SET common:{n} b"));
    }
    for n in 0..50 {
        a.run(&format!("SET own:a:{n} 1"));
        b.run(&format!("SET own:b:{n} 1"));
    }
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair), 200);
    let counts = pair
        .sites()
        .map(|s| s.sidecar.status().unwrap().peers[0].copied.clone());
    pair.no_echo();
    (pair, counts)
}

/// Whose value the common keys have; the same at both, as has been compared.
fn winner(site: &Site) -> &'static str {
    let mut client = site.client();
    let kinds: Vec<String> = (0..100)
        .map(|n| client.ask(&format!("TYPE common:{n}")))
        .collect();
    assert!(kinds.iter().all(|k| *k == kinds[0]), "{kinds:?}");
    if kinds[0] == "list" { "a" } else { "b" }
}

#[test]
fn overwrite_takes_the_values_of_the_name_that_sorts_first() {
    let (pair, [at_a, at_b]) = merged(&Options {
        existing: "overwrite",
        ..Options::default()
    });
    assert_eq!(winner(&pair.b), "a");
    assert_eq!((at_b.created, at_b.overwritten, at_b.kept), (50, 100, 0));
    assert_eq!((at_a.created, at_a.overwritten), (50, 0));
}

#[test]
fn overwrite_takes_the_values_of_the_site_that_sends() {
    let (pair, [at_a, at_b]) = merged(&Options {
        existing: "overwrite",
        initial: ["receive", "send"],
        ..Options::default()
    });
    assert_eq!(winner(&pair.a), "b");
    assert_eq!((at_a.created, at_a.overwritten, at_a.kept), (50, 100, 0));
    assert_eq!((at_b.created, at_b.overwritten), (50, 0));
}

#[test]
fn keep_takes_the_values_of_the_receiver() {
    let (pair, [at_a, at_b]) = merged(&Options {
        existing: "keep",
        ..Options::default()
    });
    assert_eq!(winner(&pair.a), "b", "a sends, and what b has stays");
    assert_eq!((at_b.created, at_b.overwritten, at_b.kept), (50, 0, 100));
    assert_eq!((at_a.created, at_a.overwritten), (50, 100));
}

#[test]
fn keep_takes_the_values_of_the_receiver_when_b_sends() {
    let (pair, _) = merged(&Options {
        existing: "keep",
        initial: ["auto", "send"],
        ..Options::default()
    });
    assert_eq!(winner(&pair.b), "a");
}

#[test]
fn without_an_initial_copy_only_new_writes_travel() {
    let mut pair = Pair::prepare(&Options {
        initial: ["none"; 2],
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    a.run("SET old:a 1");
    b.run("SET old:b 1");
    pair.start_sidecars();
    pair.wait_synchronizing();
    a.run("SET new:a 1");
    b.run("SET new:b 1");
    pair.settle();
    assert_eq!(b.ask::<u64>("EXISTS old:a"), 0);
    assert_eq!(b.ask::<u64>("EXISTS new:a new:b"), 2);
    assert_eq!(a.ask::<u64>("EXISTS old:b"), 0);
    assert_eq!(a.ask::<u64>("EXISTS new:a new:b"), 2);
}

/// No copy has been made since the sidecars started.
fn nothing_copied(pair: &Pair) {
    for site in pair.sites() {
        let copied = site.sidecar.status().unwrap().peers[0].copied.clone();
        assert_eq!(copied, CopyCounts::default(), "{}", site.name);
    }
}

#[test]
fn none_at_either_site_leaves_both_as_they_are() {
    for initial in [["none", "none"], ["none", "auto"], ["send", "none"]] {
        println!("{initial:?}");
        let mut pair = Pair::prepare(&Options {
            initial,
            ..Options::default()
        });
        let (mut a, mut b) = pair.clients();
        for (client, site, n) in [(&mut a, "a", 10), (&mut b, "b", 20)] {
            client.run(&format!("SET common {site}"));
            client.run(&format!("SET own:{site} 1"));
            client.run(&format!("SET n {n}"));
            client.run("RPUSH list first");
        }
        pair.start_sidecars();
        pair.wait_synchronizing();
        a.run("INCR n");
        b.run("RPUSH list b");
        pair.settle();
        // A restart is no second meeting.
        pair.a.sidecar.kill();
        pair.b.sidecar.kill();
        a.run("RPUSH list a");
        b.run("INCR n");
        b.run("SET new 1");
        pair.start_sidecars();
        pair.wait_synchronizing();
        pair.settle();
        nothing_copied(&pair);
        for (client, site, n) in [(&mut a, "a", 12), (&mut b, "b", 22)] {
            assert_eq!(client.ask::<String>("GET common"), site);
            assert_eq!(client.ask::<u64>("EXISTS own:a own:b"), 1, "{site}");
            assert_eq!(client.ask::<u64>("GET n"), n, "what was done travels");
            assert_eq!(client.ask::<u64>("LLEN list"), 3, "{site}");
            assert_eq!(client.ask::<u64>("EXISTS new"), 1, "{site}");
        }
        pair.no_echo();
    }
}

#[test]
fn none_keeps_an_empty_site_empty_until_something_is_written() {
    for initial in [["none", "auto"], ["auto", "none"]] {
        println!("{initial:?}");
        let mut pair = Pair::prepare(&Options {
            initial,
            ..Options::default()
        });
        let (mut a, mut b) = pair.clients();
        populate(&mut a, 1000);
        a.run("SET n 5");
        pair.start_sidecars();
        pair.wait_synchronizing();
        pair.settle();
        assert_eq!(all_keys(&mut b, 0).len(), 0);
        a.run("INCR n");
        a.run("DEL key:0");
        b.run("SET key:1 b");
        pair.settle();
        nothing_copied(&pair);
        assert_eq!(b.ask::<u64>("GET n"), 1, "what was done travels");
        assert_eq!(all_keys(&mut b, 0).len(), 2);
        assert_eq!(a.ask::<String>("GET key:1"), "b");
        assert_eq!(all_keys(&mut a, 0).len(), 1000);
    }
}

#[test]
fn none_means_nothing_to_two_empty_sites() {
    let mut pair = Pair::prepare(&Options {
        initial: ["none"; 2],
        ..Options::default()
    });
    pair.cut_link();
    pair.start_sidecars();
    for site in pair.sites() {
        reads(site);
    }
    let (mut a, mut b) = pair.clients();
    for n in 0..50 {
        a.run("INCR n");
        b.run(&format!("RPUSH list:{n} b"));
    }
    pair.mend_link();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair), 51);
    nothing_copied(&pair);
}

#[test]
fn a_copy_after_an_outage_brings_what_none_has_left_out() {
    let mut pair = Pair::prepare(&Options {
        initial: ["none"; 2],
        servers: &["appendonly yes", "appendfsync always"],
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    a.run("SET own:a 1");
    b.run("SET own:b 1");
    pair.start_sidecars();
    pair.wait_synchronizing();
    a.run("INCR n");
    pair.settle();
    pair.a.server.kill();
    pair.a.server.restart();
    pair.wait_synchronizing();
    b.run("INCR n");
    pair.settle();
    assert_eq!(compare(&pair), 3);
    assert_eq!(pair.a.client().ask::<u64>("GET n"), 2);
}

#[test]
fn two_empty_sites_keep_what_is_written_before_they_meet() {
    let mut pair = Pair::prepare(&Options::default());
    pair.cut_link();
    pair.start_sidecars();
    for site in pair.sites() {
        reads(site);
    }
    let (mut a, mut b) = pair.clients();
    for n in 0..100 {
        a.run("INCR n");
        b.run("INCR n");
        a.run(&format!("SET a:{n} v"));
        b.run(&format!("SET b:{n} v"));
        a.run("LPUSH list:a a");
        b.run("LPUSH list:b b");
    }
    pair.mend_link();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair), 203);
    assert_eq!(a.ask::<u64>("GET n"), 200);
    assert_eq!(a.ask::<u64>("LLEN list:b"), 100);
    pair.no_echo();
}

#[test]
fn a_copy_survives_a_killed_receiver() {
    let mut pair = slow_copy();
    wait_received(&pair, 50);
    pair.b.sidecar.kill();
    pair.b.client().run("INCR meanwhile");
    pair.b.sidecar.start();
    ends_well_with(&pair, KEYS + 1);
    assert_eq!(pair.a.client().ask::<u64>("GET meanwhile"), 1);
}

#[test]
fn a_copy_survives_a_killed_sender() {
    let mut pair = slow_copy();
    wait_received(&pair, 50);
    pair.a.sidecar.kill();
    let (mut a, mut b) = pair.clients();
    a.run("INCR meanwhile");
    b.run("INCR meanwhile");
    a.run("DEL key:7");
    pair.a.sidecar.start();
    ends_well_with(&pair, KEYS);
    assert_eq!(b.ask::<u64>("GET meanwhile"), 2);
    assert_eq!(
        b.ask::<u64>("EXISTS key:7"),
        0,
        "deleted while the sender was dead"
    );
}

#[test]
fn a_copy_survives_a_link_cut_three_times() {
    let pair = slow_copy();
    for percent in [10, 50, 90] {
        wait_received(&pair, percent);
        pair.wire_a.cut_once();
    }
    pair.a.client().run("SET after 1");
    ends_well_with(&pair, KEYS + 1);
}

#[test]
fn a_copy_survives_a_receiving_redis_that_is_killed() {
    let mut pair = Pair::prepare(&Options {
        servers: &["appendonly yes", "appendfsync always"],
        ..Options::default()
    });
    populate(&mut pair.a.client(), KEYS);
    pair.wire_a.up().throttle(SLOW);
    pair.start_sidecars();
    wait_received(&pair, 50);
    pair.b.server.kill();
    pair.b.server.restart();
    ends_well_with(&pair, KEYS);
}

#[test]
fn a_truncated_snapshot_is_never_taken_for_whole() {
    let mut pair = Pair::prepare(&Options {
        redis_proxies: true,
        ..Options::default()
    });
    populate(&mut pair.a.client(), KEYS);
    let proxy = pair.a.redis_proxy.as_ref().unwrap();
    // The first snapshot that is read ends early.
    proxy.down().truncate_after(1_000_000);
    pair.wire_a.up().throttle(SLOW);
    pair.start_sidecars();
    // And so does the one that is being copied.
    wait_received(&pair, 30);
    pair.a.redis_proxy.as_ref().unwrap().cut_once();
    ends_well_with(&pair, KEYS);
    let status = pair.a.sidecar.status().unwrap();
    assert!(status.redis.usable && status.redis.connected, "{status:#?}");
}

/// A write of what only the receiver has reaches the sender before the value does.
#[test]
fn what_only_the_receiver_has_and_writes_during_the_copy_is_whole_at_both() {
    let mut pair = Pair::prepare(&Options {
        existing: "overwrite",
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    populate(&mut a, KEYS);
    for n in 0..200 {
        b.run(&format!("RPUSH only:list:{n} first"));
        b.run(&format!("SET only:n:{n} 1000"));
    }
    pair.wire_a.up().throttle(SLOW);
    pair.start_sidecars();
    wait_received(&pair, 1);
    for n in 0..200 {
        b.run(&format!("RPUSH only:list:{n} second"));
        b.run(&format!("INCR only:n:{n}"));
    }
    let copying = pair.b.sidecar.peer("a").unwrap().receiving;
    assert!(copying.is_some(), "the copy ended before the writes did");
    pair.wire_a.mend();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    for n in 0..200 {
        assert_eq!(a.ask::<u64>(&format!("GET only:n:{n}")), 1001, "{n}");
        assert_eq!(a.ask::<u64>(&format!("LLEN only:list:{n}")), 2, "{n}");
    }
}

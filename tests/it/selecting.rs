//! What travels, by configuration: keys by pattern, flushes, messages; and commands under other names.

use tandem::status::PeerState;

use crate::harness::{Options, Pair, patience, wait_until};

/// Two sites with these lines of `[sync]`, not started yet.
fn with_sync(a: &str, b: &str) -> Pair {
    let mut pair = Pair::prepare(&Options::default());
    pair.a.sidecar.config.sync_extra = a.to_owned();
    pair.b.sidecar.config.sync_extra = b.to_owned();
    pair
}

const ONLY_IN: &str = "keys = [\"in:*\"]\nexclude_keys = [\"in:not:*\"]";

#[test]
fn only_the_chosen_keys_travel() {
    let mut pair = with_sync(ONLY_IN, ONLY_IN);
    let mut a = pair.a.client();
    a.run("SET in:early 1");
    a.run("SET early 1");
    a.run("SET in:not:early 1");
    pair.start_sidecars();
    pair.wait_synchronizing();
    for line in [
        "SET in:a 1",
        "SET out 1",
        "SET in:not:a 1",
        "MSET in:b 1 out:b 1",
        "MSETNX in:c 1 out:c 1",
        "SADD in:set x y z",
        "SMOVE in:set out:set x",
        "SET in:gone 1",
        "RENAME in:gone out:gone",
        "RPUSH in:list 1 2 3",
        "RPOPLPUSH in:list out:list",
        "DEL in:a out",
    ] {
        a.run(line);
    }
    pair.settle();
    let mut b = pair.b.client();
    let mut keys: Vec<String> = b.ask("KEYS in:*");
    keys.sort();
    assert_eq!(keys, ["in:b", "in:c", "in:early", "in:list", "in:set"]);
    assert_eq!(
        b.ask::<u64>("EXISTS early out out:b out:c out:set out:gone out:list"),
        0
    );
    assert_eq!(b.ask::<u64>("SCARD in:set"), 2);
    assert_eq!(b.ask::<u64>("LLEN in:list"), 2);
    assert_eq!(
        pair.a.sidecar.status().unwrap().redis.writes_not_selected,
        0
    );

    // What cannot be divided does not travel, and is counted.
    a.run("SADD other q");
    a.run("SUNIONSTORE in:union in:set other");
    pair.settle();
    assert_eq!(b.ask::<u64>("EXISTS in:union"), 0);
    assert_eq!(
        pair.a.sidecar.status().unwrap().redis.writes_not_selected,
        1
    );
    pair.no_echo();
}

#[test]
fn sites_that_choose_different_keys_are_refused() {
    let mut pair = with_sync(ONLY_IN, "keys = [\"other:*\"]");
    pair.start_sidecars();
    wait_until("the difference to be told", patience(20), || {
        let stop = pair.a.sidecar.peer("b")?.stop.ok_or("no stop yet")?;
        if stop.reason == "configuration_differs" {
            Ok(())
        } else {
            Err(format!("{stop:?}"))
        }
    });
}

#[test]
fn a_flush_stops_where_it_shall_and_a_person_decides() {
    let mut pair = with_sync("", "flush = \"stop\"");
    pair.start_sidecars();
    pair.wait_synchronizing();
    let (mut a, mut b) = pair.clients();
    a.run("SET k 1");
    pair.settle();
    a.run("SET before 1");
    a.run("FLUSHALL");
    a.run("SET after 1");
    wait_until("b to stop", patience(20), || {
        let peer = pair.b.sidecar.peer("a")?;
        let reason = peer.stop.as_ref().map(|s| s.reason.as_str());
        if peer.state == PeerState::Stopped && reason == Some("peer_flushed") {
            Ok(())
        } else {
            Err(format!("{peer:#?}"))
        }
    });
    assert_eq!(
        b.ask::<u64>("EXISTS k before"),
        2,
        "what came before is here"
    );
    assert_eq!(b.ask::<u64>("EXISTS after"), 0);
    pair.b.sidecar.terminate();
    pair.b.sidecar.config.sync_extra = "flush = \"ignore\"".to_owned();
    pair.b.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(b.ask::<u64>("EXISTS k before after"), 3);
    assert_eq!(a.ask::<u64>("EXISTS k before after"), 1);
}

#[test]
fn messages_are_left_out_where_they_shall_be() {
    let mut pair = with_sync("", "publish = \"ignore\"");
    pair.start_sidecars();
    pair.wait_synchronizing();
    let (mut a, mut b) = pair.clients();
    a.run("PUBLISH channel here");
    b.run("PUBLISH channel there");
    a.run("INCR n");
    b.run("INCR n");
    pair.settle();
    assert_eq!(a.calls("publish"), 2, "its own and that of b");
    assert_eq!(b.calls("publish"), 1, "its own");
    assert_eq!(b.ask::<u64>("GET n"), 2);
}

#[test]
fn a_renamed_command_is_learned_from_the_server() {
    let pair = Pair::start(&Options {
        servers: &["rename-command INCRBY ADDUP"],
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    for round in 0..10 {
        a.run("ADDUP n 3");
        b.run("ADDUP n 4");
        if round == 0 {
            // Those that are read together with the first one are not known either.
            pair.settle();
        }
    }
    pair.settle();
    assert_eq!(a.ask::<u64>("GET n"), 70);
    assert_eq!(b.ask::<u64>("GET n"), 70);
    for site in pair.sites() {
        // The first one is not known yet; then the server is asked.
        let log = site.sidecar.log();
        let told = log.matches("nothing is known of this command").count();
        assert_eq!(told, 1, "{log}");
    }
}

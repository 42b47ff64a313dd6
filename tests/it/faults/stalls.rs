//! Servers that answer nobody for a while, or drop whoever lags behind.

use std::thread;

use super::{number, write_more};
use crate::harness::{FaultProxy, Options, Pair, Server, compare, patience, wait_for};
use crate::resume::{judged, load_on};

/// Keys that a site is asked for at once: many more than it reads in one transaction.
const ASKED: usize = 1000;
/// Bytes of a stream, in which there is what the peer had seen when it asked, and where some of these were read, of
/// a hundred bytes each: but not where all were.
const SOME_PLACES: u64 = 3000;

/// Longer than any answer is waited for, the lease among them.
fn seconds() -> u64 {
    number("TANDEM_SLEEP", 12)
}

/// Nothing was read anew or copied since the sidecars were started, and the link has not been made
/// again and again.
fn nothing_begun_anew(pair: &Pair, sessions: u64) {
    for site in pair.sites() {
        let status = site.sidecar.status().expect("a status");
        let peer = &status.peers[0];
        assert_eq!(status.redis.resyncs_full, 1, "{status:#?}");
        let copied = peer.copied.created + peer.copied.overwritten;
        assert_eq!((copied, peer.failed_commands), (0, 0), "{status:#?}");
        assert!(peer.sessions <= sessions, "{status:#?}");
    }
}

/// Has a server answer nobody for a while: that is the fault, and nothing is waited for by it.
fn hang(pair: &Pair, index: usize) -> thread::JoinHandle<()> {
    let mut client = pair.sites()[index].client();
    thread::spawn(move || drop(client.run(&format!("DEBUG SLEEP {}", seconds()))))
}

#[test]
fn a_server_that_answers_nobody_for_long_doubles_nothing() {
    let pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    write_more(&pair, 10);
    hang(&pair, 1).join().expect("it slept");
    write_more(&pair, 10);
    judged(&pair, load, true);
    nothing_begun_anew(&pair, 5);
}

#[test]
fn both_servers_that_answer_nobody_for_long_double_nothing() {
    let pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    write_more(&pair, 10);
    let sleepers = [0, 1].map(|index| hang(&pair, index));
    for sleeper in sleepers {
        sleeper.join().expect("it slept");
    }
    write_more(&pair, 10);
    judged(&pair, load, true);
    nothing_begun_anew(&pair, 8);
}

/// A write that is larger than what a server keeps for a replica has it drop us. That must not go on
/// for ever, and nothing is counted twice by what is read anew.
#[test]
fn a_server_that_drops_who_lags_does_not_drop_us_for_ever() {
    let pair = Pair::start(&Options {
        servers: &[
            "client-output-buffer-limit replica 64kb 64kb 0",
            "repl-backlog-size 64kb",
        ],
        ..Options::default()
    });
    let load = load_on(&pair, 1);
    let mut a = pair.a.client();
    let value = "x".repeat(300_000);
    for n in 0..30 {
        a.run(&format!("SET large:{} {value}", n % 3));
        a.run("INCR large:n");
    }
    write_more(&pair, 10);
    judged(&pair, load, true);
    assert_eq!(pair.b.client().ask::<u64>("GET large:n"), 30);
    let lines = pair.a.sidecar.log().lines().count();
    println!(
        "{lines} lines of log, {:?}",
        pair.a.sidecar.status().map(|s| s.redis)
    );
    assert!(lines < 2000, "{lines} lines of log");
}

/// As long as the server's backlog has it, who was dropped goes on where it was.
#[test]
fn who_was_dropped_goes_on_from_the_backlog() {
    let pair = Pair::start(&Options {
        servers: &[
            "client-output-buffer-limit replica 1mb 1mb 0",
            "repl-backlog-size 64mb",
        ],
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    a.run("INCR n");
    pair.settle();
    pair.a.sidecar.signal("STOP");
    let value = "x".repeat(500_000);
    for n in 0..40 {
        a.run(&format!("SET large:{n} {value}"));
        a.run("INCR n");
    }
    let dropped = a.info_number("replication", "connected_slaves") == 0;
    println!("dropped: {dropped}");
    pair.a.sidecar.signal("CONT");
    wait_for("all to arrive", patience(60), || {
        b.ask::<u64>("GET n") == 41
    });
    pair.settle();
    compare(&pair);
    nothing_begun_anew(&pair, 5);
}

/// States are read, and where in our stream that was is not known for longer than they wait for it: the stream is
/// read again, and then they are sent after all.
#[test]
fn states_whose_place_is_not_known_for_long_are_sent_later() {
    let mut pair = Pair::prepare(&Options::default());
    let replica = Server::start(&[]);
    replica.follow(&pair.a.server);
    let reading = FaultProxy::to(replica.port());
    let config = &mut pair.a.sidecar.config;
    config.redis_extra = format!("read_from = \"redis://127.0.0.1:{}\"", reading.port());
    pair.start_sidecars();
    pair.wait_synchronizing();
    let (mut a, mut b) = pair.clients();
    let (there, back) = (pair.wire_a.up(), pair.wire_a.down());

    // Site a writes before b, and b hears of it last: b must ask.
    there.stall();
    back.stall();
    for key in 0..ASKED {
        a.run(&format!("SET {key} a"));
    }
    pair.a.wait_read();
    for key in 0..ASKED {
        b.run(&format!("SET {key} b"));
    }
    back.pass();
    wait_for("b's writes to be at a", patience(30), || {
        a.ask::<String>(&format!("GET {}", ASKED - 1)) == "b"
    });
    pair.a.wait_read();
    reading.down().grant(SOME_PLACES);
    there.pass();
    pair.a
        .wait_for_log(&["an answer waits: the stream of the local Redis is not read"]);
    assert!(reading.down().is_used_up());
    reading.down().pass();
    pair.settle();
    compare(&pair);
    for key in 0..ASKED {
        assert_eq!(b.ask::<String>(&format!("GET {key}")), "b", "{key}");
    }
    nothing_begun_anew(&pair, 5);
}

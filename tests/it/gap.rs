//! A part of a site's history that nobody read: its sidecar was away for longer than the backlog reaches.
//! What was written there is copied; what was deleted there is deleted elsewhere where that is certain,
//! and comes back, counted, where it is not.

use tandem::status::CopyCounts;

use crate::harness::{Dial, Options, Pair, Site, compare, patience, wait_for};
use crate::interrupted::has_read;

/// Servers whose backlog is soon too short.
pub(crate) const SHORT: &[&str] = &["repl-backlog-size 16kb"];
/// The same, which have on disk what they acknowledged.
const SHORT_AND_DURABLE: &[&str] = &[
    "repl-backlog-size 16kb",
    "appendonly yes",
    "appendfsync always",
];

/// Two sites with 50 keys in each of two databases, `old:<n>`, and a sidecar of a that is away now.
pub(crate) fn away(options: &Options) -> Pair {
    let mut pair = Pair::start(options);
    let mut a = pair.a.client();
    for db in [0, 3] {
        a.run(&format!("SELECT {db}"));
        (0..50).for_each(|n| drop(a.run(&format!("SET old:{n} v"))));
    }
    pair.settle();
    pair.a.sidecar.kill();
    pair
}

/// Clients of a delete the first twenty of each database, and write more than the backlog holds.
pub(crate) fn delete(pair: &Pair) {
    let mut a = pair.a.client();
    for db in [0, 3] {
        a.run(&format!("SELECT {db}"));
        (0..20).for_each(|n| drop(a.run(&format!("DEL old:{n}"))));
    }
    fill(pair);
}

fn fill(pair: &Pair) {
    fill_at(&pair.a);
}

fn fill_at(site: &Site) {
    let mut client = site.client();
    for n in 0..200 {
        client.run(&format!("SET filler:{n} {}", "x".repeat(200)));
    }
}

/// The sidecar of a comes back, and the sites end equal. What the copies did at a.
fn come_back(pair: &mut Pair) -> CopyCounts {
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(pair);
    pair.no_echo();
    let redis = pair.a.sidecar.status().unwrap().redis;
    assert!(redis.resyncs_full >= 1, "it is counted: {redis:#?}");
    pair.a.sidecar.peer("b").unwrap().copied
}

/// How many of the keys `old:<n>` site b has in both databases.
fn old_keys(pair: &Pair) -> usize {
    let mut b = pair.b.client();
    let databases = [0, 3].map(|db| {
        b.run(&format!("SELECT {db}"));
        b.ask::<Vec<String>>("KEYS old:*").len()
    });
    databases.iter().sum()
}

pub(crate) fn short(servers: &'static [&'static str]) -> Options {
    Options {
        servers,
        ..Options::default()
    }
}

/// What was deleted has come back, and that was told.
pub(crate) fn returned(pair: &mut Pair) {
    let copied = come_back(pair);
    assert_eq!(old_keys(pair), 100);
    assert_eq!((copied.deleted, copied.returned), (0, 40), "{copied:?}");
    let log = pair.a.sidecar.log();
    assert!(log.contains("have come back from the peer"));
}

#[test]
fn what_was_deleted_is_deleted_at_the_peer() {
    let mut pair = away(&short(SHORT));
    delete(&pair);
    let mut b = pair.b.client();
    (0..20).for_each(|n| drop(b.run(&format!("SET new:{n} v"))));
    // Nobody at b knew that these two were gone.
    b.run("MSET old:0 again old:49 again");
    b.run("APPEND old:1 more");
    let copied = come_back(&mut pair);
    assert_eq!((copied.deleted, copied.returned), (38, 0), "{copied:?}");
    assert_eq!(old_keys(&pair), 62);
    let mut a = pair.a.client();
    assert_eq!(a.ask::<u64>("EXISTS old:0 old:49 new:0 new:19"), 4);
    assert_eq!(a.ask::<String>("GET old:49"), "again");
    let log = pair.a.sidecar.log();
    assert!(log.contains("are deleted at the peer too"), "{log}");
    // Once more, from what the first time has left.
    pair.a.sidecar.kill();
    a.run("SELECT 3");
    a.run("DEL old:20 old:21");
    fill(&pair);
    let copied = come_back(&mut pair);
    assert_eq!((copied.deleted, copied.returned), (2, 0), "{copied:?}");
}

#[test]
fn what_was_deleted_is_deleted_at_the_peer_whoever_dies_meanwhile() {
    let mut pair = away(&short(SHORT));
    delete(&pair);
    for round in 0..4 {
        pair.a.sidecar.start();
        let enough = 10 * round;
        wait_for("a part of the copy", patience(30), || {
            old_keys(&pair) <= 100 - enough
                || pair.a.peer_state() == Ok(tandem::status::PeerState::Synchronizing)
        });
        match round % 2 {
            0 => pair.a.sidecar.kill(),
            _ => {
                pair.b.sidecar.kill();
                pair.b.sidecar.start();
                pair.a.sidecar.kill();
            }
        }
    }
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(old_keys(&pair), 60);
    pair.no_echo();
}

/// After a restart what is missing may have been lost.
#[test]
fn what_was_deleted_before_a_restart_comes_back_and_is_counted() {
    let mut pair = away(&short(SHORT_AND_DURABLE));
    delete(&pair);
    pair.a.server.kill();
    pair.a.server.restart();
    returned(&mut pair);
}

/// An hour without a reader, and a server forgets the name of its history; so it does when it has been a
/// replica of another server, whose data it then has.
#[test]
fn what_is_missing_from_another_history_comes_back_and_is_counted() {
    let mut pair = away(&short(SHORT));
    delete(&pair);
    let other = crate::harness::Server::start(&[]);
    let mut a = pair.a.client();
    a.run(&format!("REPLICAOF 127.0.0.1 {}", other.port()));
    wait_for("the replica", patience(30), || {
        a.info("replication", "master_link_status").as_deref() == Some("up")
    });
    assert_eq!(a.ask::<u64>("DBSIZE"), 0);
    a.run("REPLICAOF NO ONE");
    fill(&pair);
    come_back(&mut pair);
    assert_eq!(old_keys(&pair), 100);
}

/// What never travelled is not missing.
#[test]
fn what_was_never_copied_is_not_deleted() {
    for (what, initial, sync) in [
        ("no first copy", ["none"; 2], ""),
        ("flushes ignored", ["auto"; 2], "flush = \"ignore\""),
    ] {
        println!("{what}");
        let mut pair = Pair::prepare(&Options {
            initial,
            ..short(SHORT)
        });
        let (mut a, mut b) = pair.clients();
        if initial == ["none"; 2] {
            (0..20).for_each(|n| drop(b.run(&format!("SET only:{n} v"))));
        }
        pair.b.sidecar.config.sync_extra = sync.to_owned();
        pair.start_sidecars();
        pair.wait_synchronizing();
        if initial != ["none"; 2] {
            a.run("SELECT 1");
            (0..20).for_each(|n| drop(a.run(&format!("SET only:{n} v"))));
            pair.settle();
            a.run("FLUSHDB");
            a.run("SELECT 0");
            b.run("SELECT 1");
        }
        a.run("SET both v");
        pair.settle();
        pair.a.sidecar.kill();
        fill(&pair);
        pair.a.sidecar.start();
        pair.wait_synchronizing();
        pair.settle();
        assert_eq!(b.ask::<u64>("EXISTS only:0 only:19"), 2, "{what}");
        let copied = pair.a.sidecar.peer("b").unwrap().copied;
        assert_eq!(copied.deleted, 0, "{what}: {copied:?}");
    }
}

#[test]
fn a_sidecar_away_for_longer_than_the_backlog_loses_nothing() {
    let mut pair = Pair::start(&Options {
        servers: &["repl-backlog-size 64kb"],
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    for n in 0..200 {
        a.run(&format!("SET old:{n} v"));
    }
    a.run("INCR n");
    b.run("INCR n");
    pair.settle();
    pair.a.sidecar.kill();
    for n in 0..2000 {
        a.run(&format!("SET filler:{n} {}", "x".repeat(200)));
        if n % 10 == 0 {
            a.run("INCR n");
            b.run("INCR n");
            a.run("RPUSH list a");
            b.run("RPUSH list b");
        }
    }
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n"), 402);
    assert_eq!(a.ask::<u64>("LLEN list"), 400);
    assert_eq!(b.ask::<u64>("EXISTS filler:0 filler:1999 old:0"), 3);
    let redis = pair.a.sidecar.status().unwrap().redis;
    assert!(redis.resyncs_full >= 1, "it is counted: {redis:#?}");
    let copied = pair.a.sidecar.peer("b").unwrap().copied;
    assert_eq!(copied.returned, 0, "{copied:?}");
    pair.no_echo();
}

#[test]
fn a_flush_that_nobody_reads_doubles_nothing_elsewhere() {
    let mut pair = Pair::start(&Options {
        servers: &["repl-backlog-size 16kb"],
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    for client in [&mut a, &mut b] {
        client.run("SET flushed 1");
        client.run("SELECT 1");
        (0..5).for_each(|_| drop(client.run("INCR n")));
    }
    pair.settle();
    pair.b.sidecar.kill();
    // The mark is gone with its database, and the place in the stream with the backlog.
    b.run("SELECT 0");
    b.run("FLUSHDB");
    b.run(&format!("SET filler {}", "x".repeat(40_000)));
    a.run("INCR n");
    pair.b.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    b.run("SELECT 1");
    assert_eq!((a.ask::<u64>("GET n"), b.ask::<u64>("GET n")), (11, 11));
}

/// What is deleted at one site while nobody reads, and written at the other meanwhile.
#[test]
fn what_is_deleted_while_nobody_reads_and_written_elsewhere_ends_equal() {
    let mut pair = Pair::start(&Options {
        servers: &["repl-backlog-size 64kb"],
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    for n in 0..20 {
        a.run(&format!("HSET hash:{n} f 1"));
        a.run(&format!("RPUSH list:{n} 1"));
        a.run(&format!("SADD set:{n} 1"));
        a.run(&format!("INCRBY n:{n} 10"));
        a.run(&format!("ZADD zset:{n} 1 a"));
    }
    pair.settle();
    pair.a.sidecar.kill();
    for n in 0..20 {
        a.run(&format!("DEL hash:{n} list:{n} set:{n} n:{n} zset:{n}"));
        b.run(&format!("HSET hash:{n} g 2"));
        b.run(&format!("RPUSH list:{n} 2"));
        b.run(&format!("SADD set:{n} 2"));
        b.run(&format!("INCR n:{n}"));
        b.run(&format!("ZADD zset:{n} 2 b"));
    }
    for n in 0..1000 {
        a.run(&format!("SET filler:{n} {}", "x".repeat(200)));
    }
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
}

/// What a peer's records bring while its data has it no more: the copy to it must have it, too.
#[test]
fn what_was_journaled_before_a_flush_that_nobody_read_ends_equal() {
    let mut pair = Pair::start(&short(SHORT));
    let (mut a, mut b) = pair.clients();
    a.run("SET k v");
    pair.settle();
    pair.cut_link();
    let lines = |n: u64| format!("SET journaled:{n} {}", "x".repeat(500));
    (0..20_000).for_each(|n| drop(b.run(&lines(n))));
    has_read(&pair.b);
    pair.b.sidecar.kill();
    b.run("FLUSHDB");
    b.run(&format!("SET filler {}", "x".repeat(40_000)));
    pair.mend_link();
    pair.b.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<u64>("EXISTS k journaled:0 journaled:19999"), 3);
}

/// What nobody has read of a key, and what the peer has made of the key without it, or where it has put it.
#[test]
fn what_a_peer_moves_while_a_copy_of_it_is_to_come_ends_equal() {
    for line in ["SWAPDB 0 1", "RENAME k new", "COPY k new", "MOVE k 1"] {
        println!("{line}");
        let mut pair = Pair::start(&short(SHORT));
        let (mut a, mut b) = pair.clients();
        b.run("SET k v");
        pair.settle();
        pair.b.sidecar.kill();
        b.run("APPEND k more");
        b.run("SET unread v");
        fill_at(&pair.b);
        a.run(line);
        pair.b.sidecar.start();
        pair.wait_synchronizing();
        pair.settle();
        compare(&pair);
    }
}

/// The marks are read with the data, and removed before there was a session that would have remembered them.
#[test]
fn a_flush_right_behind_a_part_that_nobody_read_does_not_make_strangers() {
    // Where a dials it looks at its marks at once.
    let mut pair = Pair::prepare(&Options {
        dial: Dial::B,
        ..short(SHORT)
    });
    let (mut a, mut b) = pair.clients();
    // What is not in its journal b cannot send from the beginning.
    b.run("SET before v");
    pair.start_sidecars();
    pair.wait_synchronizing();
    a.run("SELECT 1");
    a.run("INCR n");
    b.run("SELECT 1");
    b.run("INCR n");
    pair.settle();
    pair.cut_link();
    pair.a.sidecar.kill();
    fill(&pair);
    pair.a.sidecar.start();
    has_read(&pair.a);
    a.run("SELECT 0");
    a.run("FLUSHDB");
    a.run("SET after v");
    has_read(&pair.a);
    pair.mend_link();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n"), 2);
}

//! No write comes back: each trap that defeats naive markers, as a test of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::wait::let_pass;
use crate::harness::{Options, Pair, Tap, compare, patience, wait_for, wait_until};

/// A pair with a tap on each stream.
fn tapped() -> (Pair, Tap, Tap) {
    let pair = Pair::start(&Options::default());
    let taps = pair.sites().map(|site| Tap::on(site.server.port()));
    let [a, b] = taps;
    (pair, a, b)
}

/// Every write so far is everywhere, both taps have seen it, and then nothing happens.
fn at_rest(pair: &Pair, taps: [&Tap; 2]) {
    pair.a.client().run("SET last:a 1");
    pair.b.client().run("SET last:b 1");
    pair.settle();
    for tap in taps {
        wait_for("the taps to see the last writes", patience(20), || {
            tap.count("SET last:a") == 1 && tap.count("SET last:b") == 1
        });
    }
    compare(pair);
    pair.no_echo();
}

#[test]
fn a_write_is_in_each_stream_once() {
    let (pair, tap_a, tap_b) = tapped();
    pair.a.client().run("INCR n");
    pair.b.client().run("LPUSH list x");
    at_rest(&pair, [&tap_a, &tap_b]);
    for tap in [&tap_a, &tap_b] {
        assert_eq!(tap.count("INCR n"), 1, "{:#?}", tap.commands());
        assert_eq!(tap.count("LPUSH list x"), 1, "{:#?}", tap.commands());
    }
    let (mut a, mut b) = pair.clients();
    assert_eq!(a.calls("incr"), 1);
    assert_eq!(b.calls("incr"), 1);
    assert_eq!(b.ask::<u64>("GET n"), 1);
}

#[test]
fn a_mark_left_alone_by_its_server_hides_nothing_after_it() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    for n in 0..20 {
        a.run(&format!("SET k:{n} v"));
    }
    pair.settle();
    // Both sites delete the same keys: at the other, each DEL has no effect and only its mark is
    // propagated, without MULTI.
    pair.cut_link();
    for n in 0..20 {
        a.run(&format!("DEL k:{n}"));
        b.run(&format!("DEL k:{n}"));
    }
    pair.mend_link();
    for n in 0..20 {
        a.run(&format!("INCR a:{n}"));
        b.run(&format!("INCR b:{n}"));
        b.run("INCR n");
    }
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(a.ask::<u64>("GET n"), 20);
    assert_eq!(a.ask::<u64>("DBSIZE") - reserved(&mut a), 40 + 1 + 2);
}

#[test]
fn keys_that_expire_at_both_sites_hide_nothing_after_them() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    for n in 0..20 {
        a.run(&format!("SET k:{n} v PX 300"));
    }
    // DBSIZE counts what has expired until the server has looked, and told its replicas.
    wait_for("the keys to be deleted at both", patience(20), || {
        a.ask::<u64>("DBSIZE") < 20 && b.ask::<u64>("DBSIZE") < 20
    });
    for _ in 0..20 {
        a.run("INCR n");
        b.run("INCR n");
    }
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(b.ask::<u64>("GET n"), 40);
}

#[test]
fn a_mark_after_a_select_is_found() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    for n in 0..30 {
        a.run(&format!("SELECT {}", n % 5));
        a.run("INCR n");
        b.run(&format!("SELECT {}", n % 3));
        b.run("INCR m");
    }
    a.run("MULTI");
    a.run("SELECT 7");
    a.run("INCR n");
    a.run("SELECT 8");
    a.run("INCR n");
    a.run("EXEC");
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(tap_b.count("INCR n"), 32);
    assert_eq!(tap_a.count("INCR m"), 30);
    b.run("SELECT 4");
    assert_eq!(b.ask::<u64>("GET n"), 6);
}

#[test]
fn a_key_that_expires_under_our_write_is_not_deleted() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    for client in [&mut a, &mut b] {
        client.run("DEBUG SET-ACTIVE-EXPIRE 0");
    }
    for n in 0..10 {
        a.run(&format!("SET set:{n} old PX 300"));
        a.run(&format!("SET incr:{n} 100 PX 300"));
        a.run(&format!("RPUSH push:{n} old"));
        a.run(&format!("PEXPIRE push:{n} 300"));
    }
    pair.settle();
    let_pass(Duration::from_millis(400));
    // The server deletes each key first: a plain command appears as a transaction of DEL and the
    // write, at both sites.
    for n in 0..10 {
        a.run(&format!("SET set:{n} new"));
        a.run(&format!("INCR incr:{n}"));
        b.run(&format!("RPUSH push:{n} new"));
    }
    at_rest(&pair, [&tap_a, &tap_b]);
    for client in [&mut a, &mut b] {
        assert_eq!(client.ask::<String>("GET set:9"), "new");
        assert_eq!(client.ask::<String>("GET incr:9"), "1");
        assert_eq!(client.ask::<Vec<String>>("LRANGE push:9 0 -1"), ["new"]);
    }
}

#[test]
fn a_deleted_mark_is_written_again_and_sync_goes_on() {
    let (mut pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    a.run("INCR n");
    b.run("INCR n");
    pair.settle();
    let full = pair.b.sidecar.status().unwrap().redis.resyncs_full;
    assert_eq!(b.ask::<u64>("DEL tandem:from:a"), 1);
    assert_eq!(a.ask::<u64>("UNLINK tandem:from:b"), 1);
    a.run("INCR n");
    b.run("INCR n");
    for (client, mark) in [(&mut b, "tandem:from:a"), (&mut a, "tandem:from:b")] {
        wait_for("the mark to be back", patience(20), || {
            client.ask::<u64>(&format!("EXISTS {mark}")) == 1
        });
    }
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(a.ask::<u64>("GET n"), 4);

    // And it is good enough to start from.
    pair.b.sidecar.kill();
    a.run("INCR n");
    pair.b.sidecar.start();
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n"), 5);
    let status = pair.b.sidecar.status().unwrap();
    assert_eq!(
        status.peers[0].copied.created, 0,
        "no full sync: {status:#?}"
    );
    assert!(status.redis.resyncs_full <= full, "{status:#?}");
}

#[test]
fn flushall_is_applied_once_and_the_marks_come_back() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    for n in 0..50 {
        a.run(&format!("SET a:{n} v"));
        b.run(&format!("SET b:{n} v"));
    }
    pair.settle();
    a.run("FLUSHALL");
    pair.settle();
    for (client, mark) in [(&mut b, "tandem:from:a"), (&mut a, "tandem:from:b")] {
        wait_for("the mark to be back", patience(20), || {
            client.ask::<u64>(&format!("EXISTS {mark}")) == 1
        });
        assert_eq!(client.ask::<u64>("EXISTS a:0 b:0"), 0);
        assert_eq!(client.calls("flushall"), 1);
    }
    at_rest(&pair, [&tap_a, &tap_b]);
}

#[test]
fn swapdb_swaps_once_and_leaves_no_marks_behind() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    a.run("SET zero 1");
    b.run("SELECT 1");
    b.run("SET one 1");
    pair.settle();
    a.run("SWAPDB 0 1");
    pair.settle();
    at_rest(&pair, [&tap_a, &tap_b]);
    b.run("SELECT 0");
    for client in [&mut a, &mut b] {
        assert_eq!(client.calls("swapdb"), 1);
        assert_eq!(client.ask::<u64>("EXISTS one"), 1, "in database 0");
        wait_for("marks to be in database 0 only", patience(20), || {
            client.run("SELECT 1");
            let strays = reserved(client);
            client.run("SELECT 0");
            strays == 0 && reserved(client) > 0
        });
    }
}

#[test]
fn reserved_keys_do_not_travel_and_what_stands_beside_them_does() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    a.run("SET tandem:x 1");
    a.run("MSET tandem:y 1 normal 2");
    a.run("MULTI");
    a.run("SET tandem:z 1");
    a.run("INCR n");
    a.run("EXEC");
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(b.ask::<u64>("EXISTS tandem:x tandem:y tandem:z"), 0);
    assert_eq!(b.ask::<String>("GET normal"), "2");
    assert_eq!(b.ask::<u64>("GET n"), 1);
    assert_eq!(
        a.ask::<u64>("EXISTS tandem:x"),
        1,
        "it is the client's own key here"
    );
}

#[test]
fn commands_are_known_in_any_case() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    a.run("set k 1");
    a.run("iNcR k");
    a.run("multi");
    a.run("lpush list x");
    a.run("sEt k2 v pX 100000");
    a.run("exec");
    b.run("select 3");
    b.run("set k 3");
    b.run("del nothing");
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(tap_b.count("incr k"), 1);
    assert_eq!(b.ask::<u64>("GET k"), 3);
    b.run("SELECT 0");
    assert_eq!(b.ask::<u64>("GET k"), 2);
}

#[test]
fn effects_of_scripts_travel_once() {
    let (pair, tap_a, tap_b) = tapped();
    let mut a = pair.a.client();
    for n in 0..10 {
        a.run(&format!(
            "EVAL 'redis.call(\"INCR\",KEYS[1]) redis.call(\"RPUSH\",KEYS[2],redis.call(\"TIME\")[2])' 2 n list:{n}"
        ));
        a.run("EVAL 'return redis.call(\"INCR\",KEYS[1])' 1 single");
        a.run("EVAL 'return redis.call(\"GET\",KEYS[1])' 1 single");
    }
    // A script that fails after its first write has written.
    let failed =
        a.try_run("EVAL 'redis.call(\"INCR\",KEYS[1]) redis.call(\"HGET\",KEYS[1],1)' 1 n");
    assert!(failed.is_err());
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(tap_b.count("INCR n"), 11);
    assert_eq!(tap_b.count("INCR single"), 10);
    assert_eq!(tap_a.count("INCR n"), 11);
}

#[test]
fn a_client_served_by_a_push_of_the_peer_pops_at_both_sites() {
    let (pair, tap_a, tap_b) = tapped();
    let mut a = pair.a.client();
    let mut waiting = pair.b.client();
    let served = thread::spawn(move || waiting.ask::<(String, String)>("BLPOP queue 30"));
    let mut b = pair.b.client();
    wait_for("a client to block", patience(20), || {
        b.info_number("clients", "blocked_clients") == 1
    });
    a.run("RPUSH queue x y z");
    assert_eq!(served.join().unwrap().1, "x");
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(a.ask::<Vec<String>>("LRANGE queue 0 -1"), ["y", "z"]);
    assert_eq!(tap_a.count("LPOP queue"), 1);
    assert_eq!(tap_b.count("LPOP queue"), 1);
}

#[test]
fn a_ttl_is_not_longer_after_a_slow_link() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    pair.wire_a.up().stall();
    a.run("SETEX k1 100 v");
    a.run("SET k2 v");
    a.run("EXPIRE k2 100");
    a.run("PSETEX k3 100000 v");
    let_pass(Duration::from_secs(3));
    pair.wire_a.mend();
    at_rest(&pair, [&tap_a, &tap_b]);
    let left: i64 = b.ask("PTTL k1");
    assert!(left < 97_500, "{left} ms are left, after 3 s on the way");
}

#[test]
fn a_transaction_is_never_seen_in_part() {
    let (pair, tap_a, tap_b) = tapped();
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    let mut reader = pair.b.client();
    let reads = thread::spawn(move || {
        let mut reads = 0;
        while !flag.load(Ordering::SeqCst) {
            let (x, y): (Option<u64>, Option<u64>) = reader.ask("MGET x y");
            assert_eq!(x, y, "a transaction was seen in part");
            reads += 1;
        }
        reads
    });
    let mut a = pair.a.client();
    for n in 0..500 {
        a.run("MULTI");
        a.run("INCR x");
        a.run(&format!("SET filler:{n} v"));
        a.run("INCR y");
        a.run("EXEC");
    }
    pair.settle();
    ended.store(true, Ordering::SeqCst);
    assert!(reads.join().unwrap() > 100, "few reads");
    at_rest(&pair, [&tap_a, &tap_b]);
    assert_eq!(pair.b.client().ask::<u64>("GET y"), 500);
}

#[test]
fn two_sites_at_rest_write_only_what_a_server_writes_alone() {
    let (pair, _tap_a, _tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    for n in 0..100 {
        a.run(&format!("SET a:{n} v"));
        b.run(&format!("INCR n:{}", n % 5));
    }
    pair.settle();
    let before = [a.offset(), b.offset()];
    // Longer than a server's period of PINGs, so that one of them is inside.
    let_pass(Duration::from_secs(12));
    for (client, before) in [&mut a, &mut b].into_iter().zip(before) {
        let grown = client.offset() - before;
        assert!(grown <= 1500, "{grown} bytes in 12 s");
    }
    pair.no_echo();
}

#[test]
fn writes_that_commute_end_equal_and_quiet_on_shared_keys() {
    let (pair, tap_a, tap_b) = tapped();
    let (mut a, mut b) = pair.clients();
    for n in 0..300 {
        let key = n % 7;
        a.run(&format!("INCR n:{key}"));
        b.run(&format!("INCRBY n:{key} 2"));
        a.run(&format!("SADD s:{key} a{n}"));
        b.run(&format!("SADD s:{key} b{n}"));
        a.run(&format!("HSET h:{key} a {n}"));
        b.run(&format!("HSET h:{key} b {n}"));
        b.run(&format!("HINCRBY h:{key} n 1"));
        a.run(&format!("HINCRBY h:{key} n 1"));
    }
    at_rest(&pair, [&tap_a, &tap_b]);
    let mut total = |question: &str| -> u64 {
        (0..7)
            .map(|key| a.ask::<u64>(&format!("{question}{key}")))
            .sum()
    };
    assert_eq!(total("GET n:"), 900);
    assert_eq!(total("SCARD s:"), 600);
}

#[test]
fn both_sites_may_dial() {
    let pair = Pair::start(&Options {
        dial: crate::harness::Dial::Both,
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    for _ in 0..50 {
        a.run("INCR n");
        b.run("INCR n");
    }
    pair.settle();
    compare(&pair);
    assert_eq!(a.ask::<u64>("GET n"), 100);
    // One session stays; they do not take it from each other.
    let sessions = || {
        let peers = pair.sites().map(|s| s.sidecar.status().unwrap());
        peers.map(|s| s.peers[0].sessions)
    };
    let before = sessions();
    let_pass(Duration::from_secs(3));
    assert_eq!(sessions(), before, "sessions go on replacing each other");
    wait_until("the link to be in use", patience(10), || {
        pair.a.peer_state().map(|_| ())
    });
}

/// How many keys of the selected database are bookkeeping.
fn reserved(client: &mut crate::harness::Client) -> u64 {
    let keys: Vec<String> = client.ask("KEYS tandem:*");
    keys.len().try_into().expect("a few")
}

//! Large values travel in parts, and no client sees half of one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use redis::Value;

use crate::harness::{Client, Options, Pair, compare, patience, wait_until};

/// Parts of this size: a value of a megabyte has fifty.
const SMALL_PARTS: &str = "big_value = \"20KB\"";
/// Bytes a second of the link while a value is to be caught in the middle.
const SLOW: u64 = 1_500_000;
/// Where a puts a value of b together, and b one of a.
const PARTS: [&str; 2] = ["tandem:part:b", "tandem:part:a"];

/// Values of every kind, each of about a megabyte, and how long each of them is.
const VALUES: [(&str, &str, u64); 7] = [
    ("text", "STRLEN", 1_500_000),
    ("noise", "STRLEN", 1_200_000),
    ("list", "LLEN", 20_000),
    ("set", "SCARD", 20_000),
    ("zset", "ZCARD", 20_000),
    ("hash", "HLEN", 20_000),
    ("stream", "XLEN", 20_000),
];

/// How many entries of the stream were deleted.
const DELETED: u64 = 6;
/// What is pending in its groups.
const PENDING: [u64; 2] = [300, 400];

/// Fills a server with them.
fn fill(client: &mut Client, prefix: &str) {
    for (kind, body) in [
        // Compresses well, but not to nothing.
        (
            "text",
            "local t={} for i=1,250000 do t[i]=string.format('%06d',i%9973) end redis.call('SET',k,table.concat(t))",
        ),
        // Does not compress.
        (
            "noise",
            "local t={} for i=1,60000 do t[i]=redis.sha1hex(i):sub(1,20) end redis.call('SET',k,table.concat(t))",
        ),
        (
            "list",
            "for i=1,20000 do redis.call('RPUSH',k,i..redis.sha1hex(i)) end",
        ),
        (
            "set",
            "for i=1,20000 do redis.call('SADD',k,i..redis.sha1hex(i)) end",
        ),
        (
            "zset",
            "for i=1,20000 do redis.call('ZADD',k,i/3,i..redis.sha1hex(i)) end",
        ),
        (
            "hash",
            "for i=1,20000 do redis.call('HSET',k,i,redis.sha1hex(i)) end",
        ),
        (
            "stream",
            "for i=1,20000 do redis.call('XADD',k,i..'-0','f',redis.sha1hex(i)) end",
        ),
    ] {
        let script = format!("local k=KEYS[1] {body}");
        client.send(&["EVAL", &script, "1", &format!("{prefix}{kind}")]);
    }
    for line in [
        "XGROUP CREATE {}stream g 0",
        "XREADGROUP GROUP g c COUNT 300 STREAMS {}stream >",
        "XGROUP CREATE {}stream h 15000",
        "XREADGROUP GROUP h d COUNT 200 STREAMS {}stream >",
        "XREADGROUP GROUP h e COUNT 200 STREAMS {}stream >",
        "XDEL {}stream 20000-0 10000-0",
        // Pending, and deleted from the first part, and from the middle.
        "XDEL {}stream 1-0 150-0 15002-0 15399-0",
        "PEXPIREAT {}hash 4000000000000",
    ] {
        client.run(&line.replace("{}", prefix));
    }
}

/// Two sites of which a has the values, with small parts and a link as slow as said.
fn prepare(options: &Options, speed: Option<u64>) -> Pair {
    let mut pair = Pair::prepare(options);
    for site in [&mut pair.a, &mut pair.b] {
        site.sidecar.config.sync_extra = SMALL_PARTS.to_owned();
    }
    if let Some(speed) = speed {
        pair.wire_a.up().throttle(speed);
    }
    fill(&mut pair.a.client(), "");
    pair
}

/// Waits until the site b has put something together.
fn wait_for_parts(pair: &Pair) {
    let mut b = pair.b.client();
    wait_until("a part", patience(60), || {
        match b.ask::<u64>(&format!("EXISTS {}", PARTS[1])) {
            1 => Ok(()),
            _ => Err(format!("{:?}", pair.b.sidecar.status())),
        }
    });
}

/// Both sites are equal, and nothing of ours is left but bookkeeping.
fn ends_well(pair: &Pair) {
    pair.wire_a.mend();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(pair), VALUES.len());
    for client in [&mut pair.a.client(), &mut pair.b.client()] {
        for key in PARTS {
            assert_eq!(client.ask::<u64>(&format!("EXISTS {key}")), 0, "{key}");
        }
        for (key, length, expected) in VALUES {
            let there: u64 = client.ask(&format!("{length} {key}"));
            assert!(expected - there <= DELETED, "{key}: {there}");
        }
        let pending = ["g", "h"].map(|group| {
            let (pending, ..): (u64, String, String, Value) =
                client.ask(&format!("XPENDING stream {group}"));
            pending
        });
        assert_eq!(pending, PENDING, "whether the entries are there or not");
    }
    pair.no_echo();
}

#[test]
fn no_client_sees_half_a_value() {
    let mut pair = prepare(&Options::default(), Some(4 * SLOW));
    let done = AtomicBool::new(false);
    let mut b = pair.b.client();
    let parts_seen = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let (mut parts_seen, mut done_before) = (0, false);
            while !done_before {
                done_before = done.load(Ordering::Acquire);
                for (key, length, whole) in VALUES {
                    let there: u64 = b.ask(&format!("{length} {key}"));
                    assert!(there == 0 || whole - there <= DELETED, "{key}: {there}");
                }
                parts_seen += b.ask::<u64>(&format!("EXISTS {}", PARTS[1]));
            }
            parts_seen
        });
        pair.start_sidecars();
        pair.wait_synchronizing();
        pair.settle();
        done.store(true, Ordering::Release);
        watching.join().expect("a watcher")
    });
    assert!(parts_seen > 0, "nothing was divided");
    ends_well(&pair);
}

#[test]
fn a_value_replaces_the_one_that_is_there() {
    let mut pair = prepare(
        &Options {
            existing: "overwrite",
            initial: ["send", "receive"],
            ..Options::default()
        },
        None,
    );
    let mut b = pair.b.client();
    fill(&mut b, "");
    b.run("DEL zset");
    b.run("SET zset other");
    b.run("RPUSH list more");
    b.run("EXPIRE set 1000");
    pair.start_sidecars();
    ends_well(&pair);
    assert_eq!(b.ask::<i64>("TTL set"), -1);
    assert_eq!(
        b.ask::<i64>("PEXPIRETIME hash").max(4_000_000_000_000),
        4_000_000_000_000
    );
}

#[test]
fn a_value_is_put_together_anew_after_each_failure() {
    for failure in ["link", "receiver", "sender", "redis"] {
        println!("{failure}");
        let options = Options {
            servers: &["appendonly yes", "appendfsync always"],
            ..Options::default()
        };
        let mut pair = prepare(&options, Some(SLOW));
        pair.start_sidecars();
        wait_for_parts(&pair);
        match failure {
            "link" => pair.wire_a.cut_once(),
            "receiver" => {
                pair.b.sidecar.kill();
                pair.b.sidecar.start();
            }
            "sender" => {
                pair.a.sidecar.kill();
                pair.a.sidecar.start();
            }
            _ => {
                pair.b.server.kill();
                pair.b.server.restart();
            }
        }
        ends_well(&pair);
    }
}

#[test]
fn what_is_written_meanwhile_is_kept() {
    let mut pair = prepare(&Options::default(), Some(SLOW));
    pair.start_sidecars();
    wait_for_parts(&pair);
    let (mut a, mut b) = pair.clients();
    for (name, client) in [("a", &mut a), ("b", &mut b)] {
        for n in 0..20 {
            client.run(&format!("RPUSH list {name}{n}"));
            client.run(&format!("HSET hash {name}{n} {n}"));
            client.run(&format!("SADD set {name}{n}"));
            client.run(&format!("ZADD zset {n} {name}{n}"));
        }
    }
    pair.wire_a.mend();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    for client in [&mut a, &mut b] {
        assert_eq!(client.ask::<u64>("LLEN list"), 20_040);
        assert_eq!(client.ask::<u64>("HLEN hash"), 20_040);
        assert_eq!(client.ask::<u64>("SCARD set"), 20_040);
        assert_eq!(client.ask::<u64>("ZCARD zset"), 20_040);
    }
}

#[test]
fn a_value_whose_parts_are_removed_is_asked_for_again() {
    let mut pair = prepare(&Options::default(), Some(SLOW));
    pair.start_sidecars();
    let mut b = pair.b.client();
    for _ in 0..3 {
        wait_for_parts(&pair);
        // As an eviction would.
        b.run(&format!("DEL {}", PARTS[1]));
    }
    ends_well(&pair);
    // One of them at least was caught in the middle.
    assert!(pair.b.sidecar.peer("a").unwrap().copied.refused > 0);
}

#[test]
fn what_a_session_leaves_half_done_is_removed() {
    let mut pair = prepare(&Options::default(), Some(SLOW));
    pair.start_sidecars();
    wait_for_parts(&pair);
    pair.cut_link();
    // The sender has nothing to go on with: what it had is gone when it comes back.
    pair.a.sidecar.kill();
    let (mut a, mut b) = pair.clients();
    a.run("FLUSHALL");
    a.run("SET only 1");
    pair.a.sidecar.start();
    pair.mend_link();
    pair.wire_a.up().pass();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<u64>(&format!("EXISTS {}", PARTS[1])), 0);
    assert_eq!(b.ask::<u64>("EXISTS only"), 1);
}

/// What a sidecar may use while a value of 200 MB is replaced.
const MEMORY_KIB: u64 = 80 * 1024;

/// Has a's value of a key replace b's, which is of 200 MB; how often b was asked for a value. The
/// key is in database 1, behind one in database 0 that both have.
fn replace_a_huge_value(fill: &str) -> u64 {
    let mut pair = Pair::prepare(&Options {
        existing: "overwrite",
        initial: ["send", "receive"],
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    for (client, size) in [(&mut a, 4), (&mut b, 200_000_000)] {
        // What is large is to be large in a dump, too.
        client.run("CONFIG SET rdbcompression no");
        client.run("SET equal 1");
        client.run("SELECT 1");
        client.send(&["EVAL", fill, "1", "key", &size.to_string()]);
    }
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair), 2);
    assert_eq!(pair.b.sidecar.peer("a").unwrap().copied.overwritten, 1);
    let peak = pair.b.sidecar.peak_memory_kib();
    println!("{} MiB at the peak", peak / 1024);
    assert!(peak < MEMORY_KIB, "{peak} KiB");
    b.calls("dump")
}

#[test]
fn a_huge_value_is_replaced_without_being_read() {
    let fill = "redis.call('SETRANGE',KEYS[1],ARGV[1],'x')";
    assert_eq!(replace_a_huge_value(fill), 1, "the other key is compared");
}

#[test]
fn a_huge_value_that_looks_small_costs_no_memory() {
    // Most servers tell its size by a few elements, and the first are small; Redis 8.6 knows.
    let fill = "for i=1,500 do redis.call('RPUSH',KEYS[1],string.rep('.',4000)) end \
                redis.call('RPUSH',KEYS[1],string.rep('.',ARGV[1]))";
    assert!((1..=2).contains(&replace_a_huge_value(fill)));
}

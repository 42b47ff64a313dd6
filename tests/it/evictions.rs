//! What a server evicts stays at its site with `evictions = "keep_local"`, and what its clients delete
//! travels, whatever breaks.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::StdRng;
use tandem::status::EvictionStatus;

use crate::harness::{
    Client, Options, Pair, Server, Site, compare, patience, rng_from_seed, wait_for, wait_until,
};

/// Servers that say what they evict, and evict nothing yet.
const TELLING: &[&str] = &[
    "notify-keyspace-events Ee",
    "maxmemory-policy allkeys-lru",
    "repl-backlog-size 4mb",
];
/// The same, where only keys with a time to live are evicted.
const VOLATILE: &[&str] = &["notify-keyspace-events Ee", "maxmemory-policy volatile-lru"];

/// Room for some of the keys that the loads write.
const ROOM: i64 = 500_000;

/// Two sites that keep their evictions, and tell them from deletes.
fn keeping(servers: &'static [&'static str]) -> Pair {
    let mut pair = Pair::prepare(&Options {
        servers,
        ..Options::default()
    });
    for site in [&mut pair.a, &mut pair.b] {
        site.sidecar.config.sync_extra = "evictions = \"keep_local\"".to_owned();
    }
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.sites().into_iter().for_each(told);
    pair
}

fn status(site: &Site) -> EvictionStatus {
    let redis = site.sidecar.status().expect("a status").redis;
    redis.evictions.expect("evictions are kept local")
}

/// Waits until evictions are told from deletes.
fn told(site: &Site) {
    wait_until("evictions to be told", patience(30), || {
        let status = status(site);
        if status.told {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    });
}

fn evicted(client: &mut Client) -> u64 {
    client.info_number("stats", "evicted_keys")
}

/// Has a server hold no more than it does now and so many bytes; it may have to evict for that.
fn limit(client: &mut Client, more: i64) {
    let used = i64::try_from(client.info_number("memory", "used_memory")).expect("a size");
    client.run(&format!("CONFIG SET maxmemory {}", used + more));
}

/// Fills the backlogs, which count as memory that is used.
fn fill_backlogs(pair: &Pair) {
    let mut a = pair.a.client();
    for _ in 0..50 {
        a.run(&format!("SET filler {}", "x".repeat(100_000)));
    }
    a.run("DEL filler");
    pair.settle();
}

/// Has a server evict all that has a time to live.
fn evict_volatile(site: &Site, key: &str) {
    let mut client = site.client();
    client.run("CONFIG SET maxmemory 1");
    wait_for("an eviction", patience(20), || {
        // What is read is looked at when a command comes.
        client.ask::<u64>(&format!("EXISTS {key}")) == 0
    });
    client.run("CONFIG SET maxmemory 0");
}

/// Deletes that came from the other site: those that were executed here, without those of clients here.
fn applied(client: &mut Client) -> u64 {
    client.calls("del") + client.calls("unlink")
}

#[test]
fn an_eviction_stays_and_a_delete_travels() {
    let pair = keeping(TELLING);
    let (mut a, mut b) = pair.clients();
    for n in 0..2000 {
        a.run(&format!("SET k:{n} {}", "x".repeat(500)));
    }
    pair.settle();
    limit(&mut a, -300_000);
    let mut deleted = BTreeSet::new();
    for n in 0..1000 {
        let key = format!("k:{}", n * 2);
        let words = ["DEL", "UNLINK", "del"][n % 3];
        if a.ask::<u64>(&format!("{words} {key}")) == 1 {
            deleted.insert(key);
        }
    }
    wait_for("evictions to end", patience(20), || evicted(&mut a) > 100);
    pair.settle();
    let there: BTreeSet<String> = b.ask::<Vec<String>>("KEYS k:*").into_iter().collect();
    let expected: BTreeSet<String> = (0..2000).map(|n| format!("k:{n}")).collect();
    let expected: BTreeSet<String> = expected.difference(&deleted).cloned().collect();
    assert_eq!(there, expected);
    let status = status(&pair.a);
    assert_eq!((status.kept, status.in_doubt), (evicted(&mut a), 0));
    assert!(a.ask::<u64>("DBSIZE") < b.ask::<u64>("DBSIZE"));
    assert_eq!(applied(&mut b), deleted.len() as u64);
    a.run("CONFIG SET maxmemory 0");
    pair.no_echo();
}

#[test]
fn who_writes_to_what_it_has_evicted_gets_the_whole() {
    let pair = keeping(VOLATILE);
    let (mut a, mut b) = pair.clients();
    a.run("INCRBY n 10");
    a.run("HSET h f 1 g 2");
    a.run("RPUSH l 1 2 3");
    let keys = ["n", "h", "l"];
    for key in keys {
        a.run(&format!("EXPIRE {key} 10000"));
    }
    pair.settle();
    for key in keys {
        evict_volatile(&pair.a, key);
    }
    pair.settle();
    assert_eq!(b.ask::<u64>("EXISTS n h l"), 3);
    // The other site writes.
    b.run("INCR n");
    b.run("HSET h f 3");
    b.run("RPUSH l 4");
    b.run("EXPIRE n 20000");
    pair.settle();
    compare(&pair);
    assert_eq!(a.ask::<u64>("GET n"), 11);
    assert_eq!(a.ask::<Vec<String>>("LRANGE l 0 -1"), ["1", "2", "3", "4"]);
    // This site writes.
    for key in keys {
        evict_volatile(&pair.a, key);
    }
    a.run("INCR n");
    a.run("HSET h new 1");
    a.run("LPUSH l 0");
    pair.settle();
    compare(&pair);
    assert_eq!((a.ask::<u64>("GET n"), b.ask::<u64>("GET n")), (12, 12));
    assert_eq!(b.ask::<u64>("HLEN h"), 3);
    // Nothing is left of what was there: nothing is asked for.
    evict_volatile(&pair.a, "n");
    let asked = || pair.a.sidecar.peer("b").expect("b").conflicts.asked;
    let before = asked();
    a.run("SET n 1");
    pair.settle();
    assert_eq!((a.ask::<u64>("GET n"), b.ask::<u64>("GET n")), (1, 1));
    assert_eq!(asked(), before);
    let told = pair.sites().map(status);
    assert!(told.iter().all(|s| s.in_doubt == 0), "{told:?}");
}

/// What the clients of one site have left of its keys; none: deleted.
type Left = BTreeMap<String, Option<String>>;

/// Clients of one site write and delete keys of its own, and count how many of their deletes have deleted.
fn write(client: &mut Client, site: &str, rng: &mut StdRng, left: &mut Left) -> u64 {
    let key = format!("{site}:{}", rng.random_range(0..400));
    if rng.random_bool(0.8) {
        let value = format!(
            "{}{}",
            rng.random::<u32>(),
            "x".repeat(rng.random_range(0..4000))
        );
        client.run(&format!("SET {key} {value}"));
        left.insert(key, Some(value));
        return 0;
    }
    let word = ["DEL", "UNLINK", "del", "GETDEL"][rng.random_range(0..4)];
    let done = match word {
        "GETDEL" => client
            .try_run(&format!("GETDEL {key}"))
            .is_ok_and(|v| v != redis::Value::Nil),
        word => client.ask::<u64>(&format!("{word} {key}")) == 1,
    };
    // Of what was evicted here, nothing is deleted here, and so nothing there.
    if done {
        left.insert(key, None);
    }
    u64::from(done)
}

/// Each key is at a site what the clients left, or was evicted there.
fn as_left(client: &mut Client, left: &Left) {
    for (key, value) in left {
        let found: Option<String> = client.ask(&format!("GET {key}"));
        match value {
            None => assert_eq!(found, None, "{key}"),
            Some(value) => assert!(found.is_none_or(|found| found == *value), "{key}"),
        }
    }
}

#[test]
fn both_sites_evict_under_load() {
    let mut rng = rng_from_seed("evictions");
    let pair = keeping(TELLING);
    let (mut a, mut b) = pair.clients();
    fill_backlogs(&pair);
    limit(&mut a, ROOM);
    limit(&mut b, ROOM + 200_000);
    let (mut of_a, mut of_b) = (Left::new(), Left::new());
    let mut deleted = [0, 0];
    for _ in 0..4000 {
        deleted[0] += write(&mut a, "a", &mut rng, &mut of_a);
        deleted[1] += write(&mut b, "b", &mut rng, &mut of_b);
    }
    pair.settle();
    let told = pair.sites().map(status);
    let evicted = [evicted(&mut a), evicted(&mut b)];
    println!("{evicted:?} evicted, {told:?}, {deleted:?} deleted");
    for client in [&mut a, &mut b] {
        as_left(client, &of_a);
        as_left(client, &of_b);
    }
    for (status, evicted) in told.iter().zip(evicted) {
        assert!(status.kept <= evicted && status.kept + status.in_doubt >= evicted);
        assert!(status.kept > 100);
    }
    [a, b]
        .iter_mut()
        .for_each(|c| drop(c.run("CONFIG SET maxmemory 0")));
    pair.no_echo();
}

/// Clients of a write and delete while a may not hold much, and after each round something happens to it.
fn rounds(test: &str, mut happens: impl FnMut(&Site, &mut Client)) -> (Pair, Left) {
    let mut rng = rng_from_seed(test);
    let pair = keeping(TELLING);
    let mut a = pair.a.client();
    fill_backlogs(&pair);
    limit(&mut a, ROOM);
    let mut left = Left::new();
    for _ in 0..8 {
        for _ in 0..300 {
            write(&mut a, "a", &mut rng, &mut left);
        }
        happens(&pair.a, &mut a);
    }
    pair.settle();
    told(&pair.a);
    println!("{} evicted, {:?}", evicted(&mut a), status(&pair.a));
    let redis = pair.a.sidecar.status().expect("a status").redis;
    assert_eq!(redis.resyncs_full, 1, "everything was read");
    (pair, left)
}

#[test]
fn no_delete_is_lost_when_nobody_listens() {
    let mut n = 0;
    let (pair, left) = rounds("deaf", |site, a| {
        n += 1;
        // In every other round somebody listens from the beginning on.
        match n % 2 {
            0 => drop(a.run("CLIENT KILL TYPE pubsub")),
            _ => told(site),
        }
    });
    let mut b = pair.b.client();
    for (key, value) in &left {
        let found: Option<String> = b.ask(&format!("GET {key}"));
        // What was evicted while nobody listened has been deleted.
        assert!(
            found == *value || found.is_none(),
            "{key}: {found:?}, not {value:?}"
        );
    }
    assert!(status(&pair.a).kept > 100);
}

#[test]
fn a_stream_that_breaks_is_matched_where_it_goes_on() {
    let (pair, left) = rounds("broken", |_, a| drop(a.run("CLIENT KILL TYPE replica")));
    let (mut a, mut b) = pair.clients();
    let status = status(&pair.a);
    let mut travelled = 0;
    for (key, value) in &left {
        let found: Option<String> = b.ask(&format!("GET {key}"));
        travelled += u64::from(found.is_none() && value.is_some());
        assert!(found.is_none() || found == *value, "{key}");
    }
    // A client may have deleted a key in the moment in which it was evicted.
    assert!(travelled <= status.in_doubt && status.in_doubt <= 10);
    assert!(status.kept + status.in_doubt >= evicted(&mut a));
}

#[test]
fn a_server_that_says_nothing_is_told() {
    let mut pair = Pair::prepare(&Options {
        servers: &["maxmemory-policy volatile-lru"],
        ..Options::default()
    });
    pair.a.sidecar.config.sync_extra = "evictions = \"keep_local\"".to_owned();
    let checked = pair.a.sidecar.command(&["check"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        said.contains("fail  notifications") && said.contains("set notify-keyspace-events Ee"),
        "{said}"
    );
    pair.start_sidecars();
    pair.wait_synchronizing();
    wait_for("the status to say so", patience(20), || {
        status(&pair.a)
            .error
            .is_some_and(|e| e.contains("notify-keyspace-events"))
    });
    let (mut a, mut b) = pair.clients();
    a.run("SET k v EX 10000");
    pair.settle();
    evict_volatile(&pair.a, "k");
    pair.settle();
    assert_eq!(b.ask::<u64>("EXISTS k"), 0, "in doubt, a delete travels");
    assert_eq!(status(&pair.a).in_doubt, 1);
    a.run("CONFIG SET notify-keyspace-events KEA");
    told(&pair.a);
    assert_eq!(status(&pair.a).error, None);
    a.run("SET k v EX 10000");
    pair.settle();
    evict_volatile(&pair.a, "k");
    pair.settle();
    assert_eq!(b.ask::<u64>("EXISTS k"), 1);
    let checked = pair.a.sidecar.command(&["check"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        said.contains("pass  notifications") && said.contains("pass  subscriptions"),
        "{said}"
    );
    // Where they are not kept local, nobody listens and nothing is published.
    assert_eq!(b.ask::<u64>("PUBSUB NUMPAT") + b.calls("publish"), 0);
    assert!(
        pair.b
            .sidecar
            .status()
            .expect("a status")
            .redis
            .evictions
            .is_none()
    );
}

#[test]
fn a_replica_is_read_and_its_primary_heard() {
    let mut pair = Pair::prepare(&Options {
        servers: VOLATILE,
        ..Options::default()
    });
    let replica = Server::start(&[]);
    replica.follow(&pair.a.server);
    let config = &mut pair.a.sidecar.config;
    config.sync_extra = "evictions = \"keep_local\"".to_owned();
    config.redis_extra = format!("read_from = \"redis://127.0.0.1:{}\"", replica.port());
    pair.start_sidecars();
    pair.wait_synchronizing();
    told(&pair.a);
    let (mut a, mut b) = pair.clients();
    a.run("SET evicted v EX 10000");
    a.run("SET deleted v");
    pair.settle();
    evict_volatile(&pair.a, "evicted");
    a.run("DEL deleted");
    pair.settle();
    assert_eq!(b.ask::<Vec<String>>("KEYS *ed"), ["evicted"]);
    let status = status(&pair.a);
    assert_eq!((status.kept, status.in_doubt), (1, 0));
}

#[test]
fn what_was_evicted_while_nobody_read_comes_back() {
    let mut pair = keeping(&[
        "notify-keyspace-events Ee",
        "maxmemory-policy volatile-lru",
        "repl-backlog-size 16kb",
    ]);
    let (mut a, mut b) = pair.clients();
    for n in 0..20 {
        a.run(&format!("SET k:{n} v EX 10000"));
    }
    pair.settle();
    pair.a.sidecar.kill();
    for n in 0..20 {
        evict_volatile(&pair.a, &format!("k:{n}"));
    }
    for n in 0..200 {
        a.run(&format!("SET filler:{n} {}", "x".repeat(200)));
    }
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<Vec<String>>("KEYS k:*").len(), 20);
}

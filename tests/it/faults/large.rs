//! Elements that are as large as they come: transactions, names, hashes. Memory stays bounded, and what
//! others write does not wait long.

use std::time::{Duration, Instant};

use super::number;
use crate::harness::{Client, Options, Pair, compare, patience, wait_for, wait_until};

/// What a sidecar may use at its peak, besides the largest element.
const MEMORY_KIB: u64 = 200 * 1024;

fn bounded(pair: &Pair, element_bytes: u64) {
    for site in pair.sites() {
        let peak = site.sidecar.peak_memory_kib();
        println!("{}: {} MiB at the peak", site.name, peak / 1024);
        let most = MEMORY_KIB + element_bytes / 1024;
        assert!(peak < most, "{}: {peak} KiB", site.name);
    }
}

/// How long a small write of another client takes to the other site.
fn lag(pair: &Pair, round: u64) -> Duration {
    let (mut a, mut b) = pair.clients();
    let at = Instant::now();
    a.run(&format!("SET small {round}"));
    wait_for("a small write to arrive", patience(60), || {
        b.ask::<Option<u64>>("GET small") == Some(round)
    });
    at.elapsed()
}

/// One transaction of so many commands, its first and last the same increment.
fn transaction(client: &mut Client, site: &str, commands: u64) {
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("INCR").arg("whole:x");
    for n in 0..commands {
        pipe.cmd("SET").arg(format!("{site}:{}", n % 5000)).arg(n);
    }
    pipe.cmd("INCR").arg("whole:y");
    pipe.exec(client.connection()).expect("a transaction");
}

#[test]
fn a_transaction_of_many_commands_arrives_whole() {
    let commands = number("TANDEM_TRANSACTION", 20_000);
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    transaction(&mut a, "a", commands);
    wait_until("it to arrive", patience(60 + commands / 1000), || {
        let (x, y): (Option<u64>, Option<u64>) = b.ask("MGET whole:x whole:y");
        assert_eq!(x, y, "it was taken in part");
        x.map(drop).ok_or_else(|| "nothing".to_owned())
    });
    // Both at once, with small writes between.
    transaction(&mut a, "both", commands);
    transaction(&mut b, "both", commands);
    let lag = lag(&pair, 1);
    println!("a small write took {lag:?}");
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    for client in [&mut a, &mut b] {
        assert_eq!(client.ask::<(u64, u64)>("MGET whole:x whole:y"), (3, 3));
    }
    bounded(&pair, commands * 200);
    pair.no_echo();
}

#[test]
fn names_of_64_kilobytes_are_as_good_as_others() {
    const NAMES: usize = 40;
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    let name = |n: usize| format!("{n}:{}", "k".repeat(64 << 10));
    let write = |client: &mut Client, site: &str| {
        for n in 0..NAMES {
            let (key, other, moved) = (name(n), name(n + NAMES), name(n + 2 * NAMES));
            let lines: [&[&str]; 7] = [
                &["SET", &key, site],
                &["APPEND", &key, site],
                &["EXPIRE", &key, "3600"],
                &["RPUSH", &other, site],
                &["HSET", "hash", &key, site],
                &["RENAME", &key, &moved],
                &["SADD", &key, &other],
            ];
            for line in lines {
                client.send(line);
            }
        }
    };
    write(&mut a, "a");
    pair.settle();
    assert_eq!(compare(&pair), 3 * NAMES + 1);
    // And when both sites write them, so that their names are among what the sites owe each other.
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.stall();
    }
    write(&mut a, "c");
    write(&mut b, "d");
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.pass();
    }
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    // All of them may be in flight at once.
    bounded(&pair, 0);
    pair.no_echo();
}

#[test]
fn a_hash_of_many_fields_is_mended_while_small_writes_pass() {
    let fields = number("TANDEM_FIELDS", 200_000);
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    for first in (0..fields).step_by(1000) {
        let mut line = vec!["HSET".to_owned(), "hash".to_owned()];
        for n in first..(first + 1000).min(fields) {
            line.extend([format!("field:{n}"), format!("value:{n}")]);
        }
        a.send(&line);
    }
    let deadline = patience(60 + fields / 10_000);
    wait_for("the hash to arrive", deadline, || {
        b.ask::<u64>("HLEN hash") == fields
    });
    // Both write one field: its value has to be the same, and so the hash is sent.
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.stall();
    }
    a.run("HSET hash field:1 a");
    b.run("HSET hash field:1 b");
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.pass();
    }
    let lags: Vec<Duration> = (2..8).map(|round| lag(&pair, round)).collect();
    println!("small writes took {lags:?}");
    if let Err(reason) = pair.try_settle(deadline) {
        panic!("{reason}");
    }
    compare(&pair);
    bounded(&pair, 0);
    pair.no_echo();
}

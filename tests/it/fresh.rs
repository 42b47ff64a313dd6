//! A first copy to an empty site, whose clients write and remove the very keys that arrive. Whatever
//! dies meanwhile, both sites end equal, and no increment is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::wait::{let_pass, rng_from_seed};
use crate::harness::{Client, Options, Pair, compare, patience, wait_for, wait_until};

/// Keys of each kind.
const KEYS: u64 = 10_000;
/// Bytes a second: the copy takes a second or two.
const RATE: u64 = 1_000_000;
/// Bytes a second: the copy takes some ten seconds.
const SLOW: u64 = 300_000;
/// How long a session lives that is not used, in milliseconds: less than the copy takes.
const LIFE_MS: u64 = 4000;

/// Fills a site with values that go by each of the ways: plain strings, packed ones, numbers,
/// strings that expire, and what is no string.
fn fill(client: &mut Client) {
    let script = "for i=1,ARGV[1] do \
         redis.call('SET','plain:'..i,'value '..i) \
         redis.call('SET','packed:'..i,string.rep('x',40)..i) \
         redis.call('SET','number:'..i,i) \
         redis.call('SET','dies:'..i,i,'EX',100000) \
         redis.call('HSET','hash:'..i,'a',i,'b',2) end";
    client.send(&["EVAL", script, "0", &KEYS.to_string()]);
}

const KINDS: [&str; 5] = ["plain", "packed", "number", "dies", "hash"];

/// A client that writes and removes keys at random until it is told to stop; the sum of its
/// increments. The clients of the two sites leave each other's keys alone, and no key expires: what
/// is tried is the copy against clients, not these against each other.
fn meddle(port: u16, parity: u64, mut rng: StdRng, stop: &AtomicBool) -> u64 {
    let mut client = Client::connect(port);
    let mut sum = 0;
    while !stop.load(Ordering::Relaxed) {
        let kind = KINDS[rng.random_range(0..KINDS.len())];
        let key = format!("{kind}:{}", 2 * rng.random_range(0..KEYS / 2) + parity);
        match rng.random_range(0..6) {
            0 => drop(client.run(&format!("DEL {key}"))),
            1 => drop(client.run(&format!("SET {key} {port}"))),
            2 => drop(client.run(&format!("SET {key} {port} EX 1000"))),
            // Where there is no such key, this is an error.
            3 => drop(client.try_run(&format!("RENAME {key} {key}:of:{port}:{sum}"))),
            _ => {
                client.run(&format!("SET {key} {port}"));
                client.run(&format!("DEL {key}"));
            }
        }
        client.run("INCR sum");
        sum += 1;
    }
    sum
}

fn meddled(test: &str, victim: impl Fn(&mut Pair)) {
    let mut rng = rng_from_seed(test);
    let mut pair = Pair::prepare(&Options::default());
    fill(&mut pair.a.client());
    pair.wire_a.up().throttle(RATE);
    pair.start_sidecars();
    wait_until("the copy to begin", patience(20), || {
        let receiving = pair.b.sidecar.peer("a")?.receiving;
        receiving.map(|_| ()).ok_or_else(|| "not yet".to_owned())
    });
    let stop = Arc::new(AtomicBool::new(false));
    let sites = pair.sites().map(|site| site.server.port());
    let meddlers = [0, 1].map(|parity| {
        let (stop, port) = (Arc::clone(&stop), sites[usize::from(parity == 1)]);
        let rng = StdRng::seed_from_u64(rng.random());
        thread::spawn(move || meddle(port, parity, rng, &stop))
    });
    victim(&mut pair);
    wait_until("the copy to be complete", patience(60), || {
        let log = pair.b.sidecar.log();
        let done = log.contains("the copy is complete");
        done.then_some(()).ok_or(log)
    });
    stop.store(true, Ordering::Relaxed);
    let sums = meddlers.map(|meddler| meddler.join().expect("a meddler"));
    pair.wire_a.mend();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    let sum: u64 = pair.a.client().ask("GET sum");
    assert_eq!(sum, sums.iter().sum::<u64>());
    let counts = pair.b.sidecar.peer("a").unwrap().copied;
    println!("{counts:?}");
    pair.no_echo();
}

#[test]
fn clients_remove_what_is_being_copied() {
    meddled("fresh", |_| {});
}

#[test]
fn clients_remove_what_is_being_copied_while_the_receiver_dies() {
    meddled("fresh", |pair| {
        for _ in 0..3 {
            let_pass(Duration::from_millis(200));
            pair.b.sidecar.kill();
            pair.b.sidecar.start();
        }
    });
}

#[test]
fn clients_remove_what_is_being_copied_while_the_sender_dies() {
    meddled("fresh", |pair| {
        for _ in 0..2 {
            let_pass(Duration::from_millis(300));
            pair.a.sidecar.kill();
            pair.a.sidecar.start();
        }
    });
}

/// Sessions live for a while after each use. A copy takes longer than that: their states have expired before
/// they come, and they have been used since.
#[test]
fn what_is_prolonged_while_its_state_is_on_its_way_lives_at_both_sites() {
    const SESSIONS: usize = 300;
    let mut pair = Pair::prepare(&Options::default());
    let mut a = pair.a.client();
    // Does not compress.
    let filler = "local t={} for i=1,250 do t[i]=redis.sha1hex(KEYS[1]..i) end \
                  redis.call('SET',KEYS[1],table.concat(t))";
    for n in 0..SESSIONS {
        a.send(&["EVAL", filler, "1", &format!("filler:{n}")]);
        a.run(&format!("SET session:{n} {n} PX {LIFE_MS}"));
        a.run(&format!("SET counter:{n} 10 PX {LIFE_MS}"));
        // It is not used again.
        a.run(&format!("SET idle:{n} {n} PX {LIFE_MS}"));
    }
    pair.wire_a.up().throttle(SLOW);
    pair.start_sidecars();
    let mut b = pair.b.client();
    wait_for("the copy to begin", patience(30), || {
        b.ask::<u64>("DBSIZE") > 20
    });
    for n in 0..SESSIONS {
        a.run(&format!("PEXPIRE session:{n} 1000000"));
        a.run(&format!("INCR counter:{n}"));
        a.run(&format!("PERSIST counter:{n}"));
    }
    let used = a.ask::<Vec<String>>("KEYS session:*").len();
    println!("{used} sessions in use");
    pair.wire_a.mend();
    pair.wait_synchronizing();
    // A key is deleted when it is asked for, if it has not been before: later nothing must be written.
    for n in 0..SESSIONS {
        for client in [&mut a, &mut b] {
            wait_for("what is idle to expire", patience(30), || {
                client
                    .ask::<Option<String>>(&format!("GET idle:{n}"))
                    .is_none()
            });
        }
    }
    pair.settle();
    compare(&pair);
    pair.no_echo();
}

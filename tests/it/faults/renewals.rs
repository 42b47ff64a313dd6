//! Keys that are renewed at one site about when they expire, while the other hears of it a second later.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;

use super::number;
use crate::harness::wait::let_pass;
use crate::harness::{Client, Options, Pair, compare, rng_from_seed};

/// How far from its moment of expiry a key is renewed, at most.
const NEAR_MS: i64 = 200;
/// Between the moments of two keys.
const APART_MS: i64 = 4;

fn now_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    i64::try_from(now.as_millis()).expect("a time")
}

/// Renews keys at their times; those whose renewal was acknowledged.
fn renew(client: &mut Client, mut due: Vec<(i64, String)>) -> Vec<String> {
    due.sort();
    let mut renewed = Vec::new();
    for (at, key) in due {
        let_pass(Duration::from_millis(
            u64::try_from(at - now_ms()).unwrap_or(0),
        ));
        if client.ask::<u64>(&format!("PEXPIRE {key} 600000")) == 1 {
            renewed.push(key);
        }
    }
    renewed
}

/// Has the keys expire one after the other, and gives the moment of the first, which is still ahead when
/// both sites know of it.
fn expire_soon(pair: &Pair, client: &mut Client, keys: i64) -> i64 {
    for seconds in [3, 10, 30, 100] {
        let first = now_ms() + seconds * 1000;
        let expire = |n: i64| {
            let at = (first + n * APART_MS).to_string();
            vec!["PEXPIREAT".to_owned(), format!("k:{n}"), at]
        };
        let lines: Vec<_> = (0..keys).map(expire).collect();
        client.pipeline(&lines);
        pair.settle();
        if now_ms() < first - NEAR_MS {
            return first;
        }
        // It took longer: the keys are there as long as nobody says otherwise in time.
        assert_eq!(
            client.ask::<u64>("EXISTS k:0"),
            1,
            "expired before all knew"
        );
    }
    panic!("settling takes longer than a minute and a half");
}

#[test]
fn a_key_renewed_as_it_expires_is_at_both_sites_or_at_none() {
    let mut rng = rng_from_seed("renewals");
    let keys = i64::try_from(number("TANDEM_RENEWALS", 600)).expect("a small number");
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    let (mut plan, mut lines) = (Vec::new(), Vec::new());
    for n in 0..keys {
        let write = ["SET", "RPUSH", "SADD", "PFADD"][rng.random_range(0..4)];
        lines.push(vec![write.to_owned(), format!("k:{n}"), "v".to_owned()]);
        let near = rng.random_range(-NEAR_MS..=NEAR_MS);
        plan.push((rng.random_range(0..2_usize), n * APART_MS, near));
    }
    a.pipeline(&lines);
    pair.settle();
    let first = expire_soon(&pair, &mut a, keys);
    let mut due = [Vec::new(), Vec::new()];
    for (n, (site, after, near)) in plan.into_iter().enumerate() {
        due[site].push((first + after + near, format!("k:{n}")));
    }
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.delay(Duration::from_secs(1));
    }
    let [due_a, due_b] = due;
    let (renewed_a, renewed_b) = thread::scope(|scope| {
        let at_a = scope.spawn(|| renew(&mut a, due_a));
        let at_b = scope.spawn(|| renew(&mut b, due_b));
        (at_a.join().expect("a"), at_b.join().expect("b"))
    });
    let renewed: Vec<String> = renewed_a.into_iter().chain(renewed_b).collect();
    println!("{} of {keys} renewed in time", renewed.len());
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    for client in [&mut a, &mut b] {
        for key in &renewed {
            let left = client.ask::<i64>(&format!("PTTL {key}"));
            assert!(
                left > 300_000,
                "{key}, which was renewed, has {left} ms left"
            );
        }
        let count = u64::try_from(renewed.len()).expect("a count");
        assert_eq!(
            client.ask::<u64>("EVAL 'return #redis.call(\"KEYS\", \"k:*\")' 0"),
            count
        );
    }
    pair.no_echo();
}

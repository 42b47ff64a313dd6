//! Clocks that are wrong, step, or run too fast. The sites end equal, and it is told.

use super::{steps, write_more};
use crate::harness::clock_fault::ClockFault;
use crate::harness::{Options, Pair, compare, patience, wait_for, wait_until};
use crate::resume::{judged, load_on};

const MINUTES: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTES;

/// A pair whose sidecar at a has such a clock, not started yet.
fn prepare(options: &Options) -> (Pair, ClockFault) {
    let clock = ClockFault::build();
    let mut pair = Pair::prepare(options);
    pair.a.sidecar.config.variables = clock.variables();
    (pair, clock)
}

/// What b says of how far a's clock is ahead.
fn ahead(pair: &Pair) -> Result<Option<f64>, String> {
    Ok(pair.b.sidecar.peer("a")?.clock_ahead_seconds)
}

fn told_ahead(pair: &Pair, seconds: i64) {
    let expected = seconds as f64;
    wait_until("the clock to be told", patience(30), || {
        match ahead(pair)? {
            Some(ahead) if (ahead - expected).abs() < 60.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Both sites write the same keys, with the clock at a wrong by so many seconds, and again when it has
/// stepped to be wrong by others.
fn wrong_by(first: i64, then: i64) -> Pair {
    let (mut pair, clock) = prepare(&Options::default());
    clock.set(first, 0);
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    conflicts(&pair, "first");
    write_more(&pair, 5);
    clock.set(then, 0);
    write_more(&pair, 10);
    conflicts(&pair, "then");
    let sessions = |pair: &Pair| pair.b.sidecar.peer("a").expect("a peer").sessions;
    assert_eq!(sessions(&pair), 1, "a timer went by the wall clock");
    judged(&pair, load, true);
    pair
}

/// Writes that meet, and keys that have their time to live from either site.
fn conflicts(pair: &Pair, name: &str) {
    let (mut a, mut b) = pair.clients();
    for n in 0..50 {
        a.run(&format!("SET {name}:{n} a"));
        b.run(&format!("SET {name}:{n} b"));
        a.run(&format!("SET {name}:ttl:{n} a EX 3600"));
        b.run(&format!("SET {name}:ttl:{n} b EX 3600"));
        b.run(&format!("APPEND {name}:ttl:{n} c"));
        a.run(&format!("APPEND {name}:ttl:{n} d"));
    }
    let mark = format!("SET {name}:last 1");
    a.run(&mark);
    wait_for("the conflicts to be mended", patience(30), || {
        owes_nothing(pair) && b.ask::<u64>(&format!("EXISTS {name}:last")) == 1
    });
    for client in [&mut a, &mut b] {
        for n in 0..50 {
            let left: i64 = client.ask(&format!("TTL {name}:ttl:{n}"));
            assert!((3000..=3600).contains(&left), "{name}:ttl:{n}: {left}");
        }
    }
}

#[test]
fn a_clock_ten_minutes_ahead_is_told_and_ends_equal() {
    let pair = wrong_by(10 * MINUTES, 10 * MINUTES);
    told_ahead(&pair, 10 * MINUTES);
    let log = pair.b.sidecar.log();
    assert_eq!(log.matches("the clock of a peer is ahead").count(), 1);
}

#[test]
fn a_clock_ten_minutes_behind_ends_equal() {
    wrong_by(-10 * MINUTES, -10 * MINUTES);
}

#[test]
fn a_clock_that_steps_a_day_ahead_and_one_that_steps_back_end_equal() {
    let pair = wrong_by(0, DAY);
    told_ahead(&pair, DAY);
    wrong_by(0, -DAY);
}

#[test]
fn a_clock_that_runs_too_fast_ends_equal() {
    let (mut pair, clock) = prepare(&Options::default());
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    // A minute in a tenth of a second: what a bad clock gains in a month.
    clock.set(0, 600_000);
    write_more(&pair, 10);
    wait_until("the clock to be told", patience(30), || {
        ahead(&pair)?
            .map(drop)
            .ok_or_else(|| "it is not".to_owned())
    });
    judged(&pair, load, true);
}

/// Whether a key has expired its server says, not the sidecar.
#[test]
fn a_copy_into_a_site_whose_sidecar_is_a_day_ahead_brings_keys_that_will_expire() {
    let (mut pair, clock) = prepare(&Options::default());
    clock.set(DAY, 0);
    let mut b = pair.b.client();
    for n in 0..300 {
        b.run(&format!("SET k:{n} v EX 3600"));
        b.run(&format!("HSET h:{n} f v"));
        b.run(&format!("EXPIRE h:{n} 3600"));
    }
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair), 600);
    wait_for("all keys to be at a", patience(10), || {
        pair.a.client().ask::<u64>("DBSIZE") >= 600
    });
}

/// A clock that was ahead and is right again: the writes of that site are stamped on from where they
/// were, and nothing waits for the time to come.
#[test]
fn a_clock_that_is_set_right_delays_nothing() {
    let (mut pair, clock) = prepare(&Options::default());
    clock.set(DAY, 0);
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    write_more(&pair, 5);
    told_ahead(&pair, DAY);
    clock.set(0, 0);
    pair.a.sidecar.kill();
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    let mut b = pair.b.client();
    let goal = steps(&mut b) + 10;
    wait_for("writes to arrive", patience(30), || steps(&mut b) >= goal);
    judged(&pair, load, true);
    let lag = pair.a.sidecar.peer("b").expect("a peer").lag_seconds;
    assert!(lag < 60.0, "{lag}");
}
fn owes_nothing(pair: &Pair) -> bool {
    pair.sites().iter().all(|site| {
        let status = site.sidecar.status().expect("a status");
        status.peers[0].states_owed == 0
    })
}

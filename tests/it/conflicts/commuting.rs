//! Writes that commute need no mending: no value is read to be sent, and none is taken.

use std::thread;
use std::time::Duration;

use crate::harness::{Client, Options, Pair, compare};

/// Writes of each site.
const WRITES: u64 = 2000;
/// Keys that both sites write.
const KEYS: u64 = 5;
/// How far the sites are from each other: what is written meanwhile is concurrent.
const DELAY: Duration = Duration::from_millis(20);

/// Both sites write these lines again and again, `{k}` being one of a few keys, `{site}` the site
/// and `{n}` another number each time. Not one state is sent.
fn mends_nothing(lines: &[&str]) -> Pair {
    let pair = Pair::start(&Options::default());
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.delay(DELAY);
    }
    thread::scope(|scope| {
        for site in pair.sites() {
            scope.spawn(move || {
                let mut client = site.client();
                for n in 0..WRITES {
                    let line = lines[usize::try_from(n).expect("a small number") % lines.len()];
                    let key = n % KEYS;
                    client.run(
                        &line
                            .replace("{k}", &key.to_string())
                            .replace("{site}", site.name)
                            .replace("{n}", &n.to_string()),
                    );
                }
            });
        }
    });
    pair.settle();
    for site in pair.sites() {
        let mut client = site.client();
        // Nobody else reads or writes whole values.
        let states = ["dump", "restore"].map(|name| client.calls(name));
        assert_eq!(states, [0, 0], "{}: values read and written", site.name);
        let peer = &site.sidecar.status().expect("a status").peers[0];
        assert_eq!((peer.states_owed, peer.copied.refused), (0, 0), "{peer:#?}");
        assert_eq!(peer.failed_commands, 0, "{peer:#?}");
    }
    compare(&pair);
    pair
}

fn total(client: &mut Client, question: &str) -> i64 {
    let keys = 0..KEYS;
    keys.map(|key| client.ask::<i64>(&question.replace("{k}", &key.to_string())))
        .sum()
}

#[test]
fn counters_send_no_states() {
    let lines = ["INCR n{k}", "INCRBY n{k} 5", "DECR n{k}", "DECRBY n{k} 2"];
    let pair = mends_nothing(&lines);
    let (mut a, mut b) = pair.clients();
    let expected = i64::try_from(2 * WRITES / 4).expect("a small number") * (1 + 5 - 1 - 2);
    assert_eq!(total(&mut a, "GET n{k}"), expected);
    assert_eq!(total(&mut b, "GET n{k}"), expected);
}

#[test]
fn additions_and_different_fields_send_no_states() {
    let pair = mends_nothing(&[
        "SADD s{k} {site}{n}",
        "HINCRBY h{k} sum 3",
        "HSET h{k} {site} {n}",
        "HSET h{k} {site}{n} {n}",
        "HDEL h{k} {site}",
        "ZADD z{k} {n} {site}{n}",
        "PFADD p{k} {site}{n}",
    ]);
    let (mut a, mut b) = pair.clients();
    // Seven lines, five keys: every line meets every key.
    let rounds = WRITES / 7;
    let sums = [
        total(&mut a, "HGET h{k} sum"),
        total(&mut b, "HGET h{k} sum"),
    ];
    assert_eq!(sums[0], sums[1]);
    let least = i64::try_from(2 * rounds * 3).expect("a small number");
    assert!((least..=least + 6).contains(&sums[0]), "{sums:?}");
}

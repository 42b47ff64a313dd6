//! One key that both sites write as fast as they can.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::wait::let_pass;
use crate::harness::{Client, Options, Pair, Site, compare, patience, wait_until};

/// From one site to the other.
const DELAY: Duration = Duration::from_millis(50);
/// How long both write.
const SPAN: Duration = Duration::from_secs(3);
/// The most lines of each site: a load without end would hide a failure.
const MOST: u64 = 30_000;
/// Keys that must get through meanwhile, one after the other, in each direction.
const OTHERS: u64 = 5;
/// After the last write, to be equal: a few round trips on an ordinary machine.
const SOON_SECONDS: u64 = 4;

#[test]
fn a_key_that_both_sites_set_all_the_time_ends_equal() {
    let pair = Pair::start(&Options::default());
    let lasts = heat(&pair, |site, n| format!("SET hot {site}:{n}"));
    let held: Vec<String> = pair.sites().map(|s| s.client().ask("GET hot")).to_vec();
    // Whatever the clocks say, the highest of all stamps is that of one site's last write.
    let lasts = lasts.map(|(site, n)| format!("{site}:{n}"));
    assert!(lasts.contains(&held[0]), "{held:?}, not one of {lasts:?}");
}

#[test]
fn a_list_that_both_sites_push_to_all_the_time_loses_nothing() {
    let pair = Pair::start(&Options::default());
    loses_nothing(&pair, |site, n| format!("RPUSH hot {site}:{n}"));
}

/// Its state goes to disk, and travels in parts; what others write waits for that.
#[test]
fn a_large_list_that_both_sites_push_to_all_the_time_lets_others_pass() {
    let mut pair = Pair::prepare(&Options::default());
    for site in [&mut pair.a, &mut pair.b] {
        site.sidecar.config.sync_extra = "big_value = \"20KB\"".to_owned();
    }
    let script = "for i=1,20000 do redis.call('RPUSH','hot',i..redis.sha1hex(i)) end";
    pair.a.client().send(&["EVAL", script, "0"]);
    pair.start_sidecars();
    pair.wait_synchronizing();
    loses_nothing(&pair, |site, n| format!("RPUSH hot {site}:{n}"));
    let log = pair.a.sidecar.log() + &pair.b.sidecar.log();
    assert!(log.contains("sending a large value"), "none was sent");
}

fn loses_nothing(pair: &Pair, line: fn(&str, u64) -> String) {
    let lasts = heat(pair, line);
    let held: Vec<String> = pair.a.client().ask("LRANGE hot 0 -1");
    for (site, last) in lasts {
        let own = held.iter().filter_map(|element| {
            let (of, number) = element.split_once(':')?;
            (of == site).then(|| number.parse::<u64>().expect("a number"))
        });
        let own: Vec<u64> = own.collect();
        let expected: Vec<u64> = (1..=last).collect();
        let wrong = own
            .iter()
            .zip(&expected)
            .find(|(held, pushed)| held != pushed);
        assert_eq!(own.len(), expected.len(), "of {site}; first: {wrong:?}");
        assert_eq!(wrong, None, "of {site}");
    }
}

/// Both sites write such lines for a while; other keys go through meanwhile, and soon after the end
/// both are equal. The number of the last line of each site.
fn heat(pair: &Pair, line: fn(&str, u64) -> String) -> [(&'static str, u64); 2] {
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.delay(DELAY);
    }
    let stopping = AtomicBool::new(false);
    let mut lasts = [("a", 0), ("b", 0)];
    let mut slowest = Duration::ZERO;
    thread::scope(|scope| {
        let writers = pair.sites().map(|site| {
            let mut client = site.client();
            let stopping = &stopping;
            scope.spawn(move || {
                let mut n = 0;
                while n < MOST && !stopping.load(Ordering::SeqCst) {
                    n += 1;
                    client.run(&line(site.name, n));
                }
                n
            })
        });
        let start = Instant::now();
        for n in 0..OTHERS {
            for [from, to] in [[&pair.a, &pair.b], [&pair.b, &pair.a]] {
                slowest = slowest.max(arrives(from, to, n));
            }
        }
        let_pass(SPAN.saturating_sub(start.elapsed()));
        stopping.store(true, Ordering::SeqCst);
        for (writer, last) in writers.into_iter().zip(&mut lasts) {
            last.1 = writer.join().expect("a writer");
        }
    });
    let start = Instant::now();
    let soon = patience(SOON_SECONDS);
    if let Err(reason) = pair.try_settle(soon) {
        panic!("{soon:?} after the last write: {reason}");
    }
    let calls = |client: &mut Client| ["dump", "restore"].map(|name| client.calls(name));
    println!(
        "{lasts:?}; another key took {slowest:.1?}; at rest after {:.1?}; DUMP, RESTORE: {:?}",
        start.elapsed(),
        pair.sites().map(|site| calls(&mut site.client()))
    );
    compare(pair);
    lasts
}

/// Writes another key and waits until the other site has it; how long that took.
fn arrives(from: &Site, to: &Site, n: u64) -> Duration {
    let key = format!("{}:{n}", from.name);
    from.client().run(&format!("SET {key} v"));
    let start = Instant::now();
    let mut client = to.client();
    wait_until("another key to arrive", patience(5), || {
        match client.ask::<u64>(&format!("EXISTS {key}")) {
            0 => Err(format!("{} has no {key}", to.name)),
            _ => Ok(()),
        }
    });
    start.elapsed()
}

//! Commands that fail at the other site, again and again: their keys are mended, and the log stays short.

use super::number;
use crate::harness::{Options, Pair, compare};

/// How much a sidecar may log, whatever fails how often.
const LOG: usize = 64 << 10;

fn logged_little(pair: &Pair) {
    for site in pair.sites() {
        let bytes = site.sidecar.log().len();
        println!("{}: {bytes} bytes of log", site.name);
        assert!(bytes < LOG, "{}: {bytes} bytes of log", site.name);
    }
}

/// Each key is of another type at the other site: whatever comes from there fails.
#[test]
fn writes_that_fail_at_the_other_site_are_mended_and_told_briefly() {
    let keys = number("TANDEM_FAILING", 1000);
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.stall();
    }
    let (mut lists, mut sets) = (Vec::new(), Vec::new());
    for n in 0..keys {
        let key = format!("k:{n}");
        for value in ["x", "y", "z"] {
            lists.push(["RPUSH", &key, value].map(str::to_owned).to_vec());
            sets.push(["SADD", &key, value].map(str::to_owned).to_vec());
        }
    }
    a.pipeline(&lists);
    b.pipeline(&sets);
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.pass();
    }
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair) as u64, keys);
    logged_little(&pair);
    pair.no_echo();
}

/// A server that refuses commands by name, which its operator has renamed: one that clients write, and the one as
/// which plain SETs are executed.
#[test]
fn a_command_that_the_other_server_does_not_have_is_told_briefly() {
    let writes = number("TANDEM_FAILING", 1000);
    let mut pair = Pair::prepare(&Options::default());
    let renamed = ["rename-command HSET \"\"", "rename-command MSET \"\""];
    pair.b.server = crate::harness::Server::start(&renamed);
    pair.b.sidecar.config.redis_port = pair.b.server.port();
    pair.start_sidecars();
    pair.wait_synchronizing();
    let mut a = pair.a.client();
    let hset = |n: u64| ["HSET", &format!("h:{}", n % 100), &n.to_string(), "v"].map(str::to_owned);
    let set = |n: u64| ["SET", &format!("s:{}", n % 100), &n.to_string()].map(str::to_owned);
    let hsets = (0..writes).map(|n| hset(n).to_vec());
    let lines: Vec<Vec<String>> = hsets.chain((0..writes).map(|n| set(n).to_vec())).collect();
    for some in lines.chunks(200) {
        a.pipeline(some);
    }
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair) as u64, 2 * writes.min(100));
    let peer = pair.b.sidecar.peer("a").expect("a peer");
    println!("{} commands failed", peer.failed_commands);
    logged_little(&pair);
    pair.no_echo();
}

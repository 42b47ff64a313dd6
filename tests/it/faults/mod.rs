//! Faults at every place where one can be: what dies, what refuses, what stalls, what lies. Under load,
//! and nothing acknowledged is lost, nothing is applied twice.
//!
//! More rounds: `TANDEM_KILLS` for what is killed, `TANDEM_LOST` replies that are lost,
//! `TANDEM_FLAPS` cuts of a link, `TANDEM_RENEWALS` keys that are renewed, `TANDEM_SLEEP` seconds that a
//! server answers nobody, `TANDEM_TRANSACTION` commands of a large transaction, `TANDEM_FIELDS` fields
//! of a large hash, `TANDEM_FAILING` commands that fail.

mod bookkeeping;
mod clocks;
mod crashes;
mod failures;
mod journals;
mod large;
mod points;
mod refusals;
mod renewals;
mod replays;
mod secrets;
mod stalls;
mod wires;

use std::env;
use std::time::Instant;

use crate::harness::{Client, Pair, patience, wait_for};

/// A number from this variable of the environment.
fn number(name: &str, default: u64) -> u64 {
    let parse = |text: String| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    };
    env::var(name).map_or(default, parse)
}

/// How many of the load's steps of a certain kind a site has.
fn steps(client: &mut Client) -> u64 {
    client.ask::<Option<u64>>("GET n:by").unwrap_or_default() / 7
}

/// Lets the clients of a load write, and waits until both sites have got so many more steps.
fn write_more(pair: &Pair, more: u64) {
    for site in pair.sites() {
        let mut client = site.client();
        let goal = steps(&mut client) + more;
        wait_for("the clients to write", patience(60), || {
            steps(&mut client) >= goal
        });
    }
}

/// Both sidecars have gone on where they were since they were started: nothing was read anew, nothing
/// was copied.
fn nothing_copied(pair: &Pair, index: usize) {
    let site = pair.sites()[index];
    let redis = site.sidecar.status().expect("a status").redis;
    assert_eq!(redis.resyncs_full, 0, "{}: {redis:#?}", site.name);
    for site in pair.sites() {
        let status = site.sidecar.status().expect("a status");
        let copied = &status.peers[0].copied;
        let keys = copied.created + copied.overwritten;
        assert_eq!(keys, 0, "a copy was made: {status:#?}");
    }
}

/// Waits until the sites synchronize, and says how long that took.
fn soon_synchronizing(pair: &Pair, started: Instant) {
    pair.wait_synchronizing();
    println!("synchronizing after {:?}", started.elapsed());
}

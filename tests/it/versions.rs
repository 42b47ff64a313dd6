//! Sites of different versions, in `TANDEM_SERVERS`: without it, there is nothing to try.

use std::time::Duration;

use crate::harness::load::{self, Load};
use crate::harness::server::versions;
use crate::harness::wait::let_pass;
use crate::harness::{Options, Pair, compare};
use crate::table;

/// Everything that both versions know, copied and live, with a load and killed sidecars.
fn syncs(versions: [String; 2]) {
    println!("{versions:?}");
    let mut pair = Pair::prepare(&Options {
        versions,
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    let common = a.version().min(b.version());
    table::fill_as(&mut a, "old", common);
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);

    table::fill_as(&mut a, "a", common);
    table::fill_as(&mut b, "b", common);
    let sites = pair.sites().map(|s| (s.name, s.server.port()));
    let load = Load::start(&sites, Duration::from_millis(1), 3);
    for _ in 0..2 {
        let_pass(Duration::from_millis(500));
        pair.a.sidecar.kill();
        pair.a.sidecar.start();
        let_pass(Duration::from_millis(500));
        pair.b.sidecar.kill();
        pair.b.sidecar.start();
    }
    let tallies = load.finish();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    load::check(&tallies, &mut a);
    pair.no_echo();
}

#[test]
fn every_version_syncs_with_itself() {
    for name in versions() {
        syncs([name.clone(), name]);
    }
}

#[test]
fn every_version_syncs_with_the_one_under_test() {
    for name in versions() {
        syncs([name.clone(), String::new()]);
        syncs([String::new(), name]);
    }
}

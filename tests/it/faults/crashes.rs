//! Everything dies at once: both servers and both sidecars.

use std::time::Instant;

use super::{number, write_more};
use crate::harness::load::{self, Load};
use crate::harness::{Options, Pair, Site, compare};
use crate::resume::{judged, load_on};

/// Servers that force their files to the disk each second: what a kill leaves is in the page cache.
fn everysec() -> Options {
    Options {
        servers: &["appendonly yes", "appendfsync everysec"],
        ..Options::default()
    }
}

/// Kills all four processes as nearly at once as can be, and starts them again, each site first in turn.
fn kill_all(pair: &mut Pair, round: u64) {
    let at = Instant::now();
    for site in [&mut pair.a, &mut pair.b] {
        site.server.kill();
        site.sidecar.kill();
    }
    println!("round {round}: killed within {:?}", at.elapsed());
    let mut sites = [&mut pair.a, &mut pair.b];
    if round % 2 == 1 {
        sites.reverse();
    }
    let restart = |site: &mut Site| {
        site.server.restart();
        site.sidecar.start();
    };
    sites.into_iter().for_each(restart);
    pair.wait_synchronizing();
}

fn rounds() -> u64 {
    number("TANDEM_KILLS", 3)
}

#[test]
fn all_processes_killed_at_rest_lose_nothing() {
    let mut pair = Pair::start(&everysec());
    let load = load_on(&pair, 1);
    for round in 0..rounds() {
        write_more(&pair, 5);
        load.pause();
        pair.settle();
        kill_all(&mut pair, round);
        load.resume();
    }
    write_more(&pair, 5);
    judged(&pair, load, false);
}

/// Of keys that were being written when both servers died, each site may have writes that nobody else
/// had read. One site's value of such a key stays; that it is the same at both, and that nothing is there
/// twice, holds all the same.
#[test]
fn all_processes_killed_under_load_end_equal_and_double_nothing() {
    let mut pair = Pair::start(&everysec());
    let load: Load = load_on(&pair, 1);
    for round in 0..rounds() {
        write_more(&pair, 5);
        kill_all(&mut pair, round);
    }
    write_more(&pair, 5);
    let tallies = load.finish();
    pair.settle();
    compare(&pair);
    let lost = load::lost(&tallies, &mut pair.a.client());
    println!("lost: {lost:#?}");
    pair.no_echo();
}

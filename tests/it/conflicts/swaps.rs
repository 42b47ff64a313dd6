//! SWAPDB at one site, and SWAPDB, FLUSHDB or FLUSHALL at the other, before they have heard of each
//! other: in the one order of it nothing is where it is in the other.

use crate::harness::{Options, Pair, compare};

/// What each site does, to databases 0 to 3 of which each has keys of its own.
const SWAPS: &[[&[&str]; 2]] = &[
    [&["SWAPDB 0 1"], &["SWAPDB 0 1"]],
    [&["SWAPDB 0 1"], &["SWAPDB 1 2"]],
    [&["SWAPDB 0 1"], &["FLUSHDB"]],
    [&["SWAPDB 0 1"], &["FLUSHALL", "SET after 1"]],
    [&["SWAPDB 1 2", "SWAPDB 2 3"], &["SWAPDB 3 1", "SET x b"]],
    [
        &["SET x a", "SWAPDB 0 1", "SET x aa"],
        &["SELECT 1", "SET x b", "FLUSHDB", "SET y b"],
    ],
];

#[test]
fn databases_that_both_sites_swap_end_equal() {
    let pair = Pair::start(&Options::default());
    for (number, writes) in SWAPS.iter().enumerate() {
        for turned in [false, true] {
            fill(&pair, number);
            pair.cut_link();
            let mut sites = pair.sites();
            if turned {
                sites.reverse();
            }
            for (site, lines) in sites.iter().zip(writes) {
                let mut client = site.client();
                for line in *lines {
                    client.run(line);
                }
            }
            pair.mend_link();
            pair.wait_synchronizing();
            pair.settle();
            println!("{writes:?}, turned: {turned}: {} keys", compare(&pair));
        }
    }
}

#[test]
fn a_merge_is_not_forgotten_by_a_sidecar_that_dies() {
    let mut pair = Pair::start(&Options::default());
    for round in 0..4 {
        fill(&pair, round);
        pair.cut_link();
        for site in pair.sites() {
            site.client().run("SWAPDB 0 1");
        }
        pair.mend_link();
        let site = if round % 2 == 0 {
            &mut pair.a
        } else {
            &mut pair.b
        };
        site.sidecar.kill();
        site.sidecar.start();
        pair.wait_synchronizing();
        pair.settle();
        compare(&pair);
    }
}

/// Each database has a key of its own, and one that others have too.
fn fill(pair: &Pair, number: usize) {
    let mut a = pair.a.client();
    for db in 0..4 {
        a.run(&format!("SELECT {db}"));
        a.run(&format!("SET own:{db} {number}"));
        a.run(&format!("SET x {db}"));
    }
    pair.settle();
}

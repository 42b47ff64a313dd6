//! Two sites write one key, neither knowing of the other: both end equal, with the value that was
//! promised.
//!
//! `TANDEM_CASE=text` runs only the pairs whose line has the text: `TANDEM_CASE='INCR @k | then b: DEL'`
//! is one pair in one order; sites and moments are part of the line. The module `random` has variables
//! of its own.
//!
//! What is promised stands in `table::promises`, value by value. Of all other pairs a server on its
//! own is told both writes, as they are streamed, in the order of their ranks; the sites must hold
//! what it holds.

mod case;
mod commuting;
mod entries;
mod exact;
mod hot;
mod judge;
mod random;
mod run;
mod swaps;
mod table;
mod whole;

use std::collections::BTreeMap;
use std::env;
use std::time::Instant;

use self::judge::Model;
use self::run::{Batch, Hold};
use crate::harness::{Options, Pair, Server};

/// Enough that each case that needs some has its own.
const SERVER_OPTIONS: &[&str] = &["databases 1024"];

#[test]
fn every_pair_of_writes_ends_equal_and_as_promised() {
    let pair = Pair::start(&Options {
        servers: SERVER_OPTIONS,
        ..Options::default()
    });
    let model = Model::start(SERVER_OPTIONS);
    let (mut failures, mut count, mut database) = (Vec::new(), 0, 1);
    let batches = [
        ("cut", table::promises(), Hold::Cut),
        ("stall", table::all(), Hold::Stall),
    ];
    for (name, cases, hold) in batches {
        let batch = Batch::new(&mut pair.a.client(), (name, database), cases, &chosen());
        let start = Instant::now();
        let replies = batch.run(&pair, hold);
        println!("{} pairs, {hold:?}: {:.1?}", batch.len(), start.elapsed());
        failures.extend(model.judge(&pair, &batch, &replies, hold));
        count += batch.len();
        database = batch.next_database(database);
    }
    if chosen().is_empty() {
        // The list of what is wrong is the last that a person sees; of a few pairs, the logs.
        drop(pair);
    }
    assert!(count > 0, "no pair has {}", chosen());
    assert!(
        failures.is_empty(),
        "{} of {count} pairs did not end as promised:\n{}\n{}",
        failures.len(),
        failures.join("\n"),
        by_group(&failures)
    );
}

/// A write without effect is not in the stream: it would be in conflict with nothing.
#[test]
fn every_write_of_the_table_changes_something() {
    let server = Server::start(SERVER_OPTIONS);
    let idle = run::without_effect(&mut server.client(), table::all());
    // Adds what is there.
    let meant = ["SADD @s m"];
    let idle: Vec<&String> = idle
        .iter()
        .filter(|i| !meant.contains(&i.as_str()))
        .collect();
    assert!(idle.is_empty(), "{idle:#?}");
}

fn chosen() -> String {
    env::var("TANDEM_CASE").unwrap_or_default()
}

/// How many pairs of each group are among these.
fn by_group(failures: &[String]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for failure in failures {
        let group = failure.split(':').next().unwrap_or_default();
        *counts.entry(group).or_default() += 1;
    }
    let counts = counts
        .iter()
        .map(|(group, count)| format!("{group}: {count}"));
    counts.collect::<Vec<_>>().join(", ")
}

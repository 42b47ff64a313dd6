//! Keys that go by themselves while they are written elsewhere, and all keys at once.

use std::cell::Cell;
use std::time::Instant;

use super::case::{Case, Expected, row, write};
use super::chosen;
use super::judge::Model;
use super::run::{Batch, Hold, Instance};
use crate::conformance::case::R62;
use crate::harness::{Options, Pair, patience, wait_for};

type Lines = &'static [&'static str];

/// What a site does to a key that it only watches until it has expired there. It is the last to look:
/// that alone makes the server delete it, if it has not yet.
const WATCHED: Lines = &["EXISTS @k"];
/// How long keys live: an ordinary machine writes everything before; and again, when it was slow.
const TTL_SECONDS: [u64; 2] = [2, 10];

const fn both(lines: Lines, why: &'static str) -> Expected {
    Expected::These([lines, lines], why)
}

const RENEWED: &str = "the key, with the new TTL";
const ADDED: &str = "only what was added";

/// The first of each pair comes before the key expires, the second after.
const EXPIRING: &[Case] = &[
    row(
        &["SET @k old PX {ttl}"],
        [write(&["SET @k new"]), write(WATCHED)],
        both(&["SET @k new"], "a write beats a delete"),
    ),
    row(
        &["SET @k old PX {ttl}"],
        [write(&["SETEX @k 1000 new"]), write(WATCHED)],
        both(&["SETEX @k 1000 new"], "a write beats a delete"),
    ),
    row(
        &["SET @k old PX {ttl}"],
        [write(&["PERSIST @k"]), write(WATCHED)],
        both(&["SET @k old"], RENEWED),
    ),
    row(
        &["SET @k old PX {ttl}"],
        [write(&["EXPIRE @k 1000"]), write(WATCHED)],
        both(&["SETEX @k 1000 old"], RENEWED),
    ),
    row(
        &["SET @k old PX {ttl}"],
        [write(&["GETEX @k EX 1000"]).since(R62), write(WATCHED)],
        both(&["SETEX @k 1000 old"], RENEWED),
    ),
    row(
        &["SET @k 5 PX {ttl}"],
        [write(&["INCR @k", "PERSIST @k"]), write(WATCHED)],
        both(&["SET @k 6"], RENEWED),
    ),
    row(
        &["HSET @k f 1", "PEXPIRE @k {ttl}"],
        [write(&["HSET @k g 2", "PERSIST @k"]), write(WATCHED)],
        both(&["HSET @k f 1 g 2"], RENEWED),
    ),
    row(
        &["RPUSH @k 1 2", "PEXPIRE @k {ttl}"],
        [write(&["EXPIRE @k 1000", "LPOP @k"]), write(WATCHED)],
        both(&["RPUSH @k 2", "EXPIRE @k 1000"], RENEWED),
    ),
    row(
        &["SET @k old PX {ttl}"],
        [
            write(&["MULTI", "RENAME @k @to", "PERSIST @to", "EXEC"]),
            write(WATCHED),
        ],
        both(&["SET @to old"], "the renamed key"),
    ),
    row(
        &["SET @k 5 PX {ttl}"],
        [write(WATCHED), write(&["INCR @k"])],
        both(&["SET @k 1"], "the amount of the INCR"),
    ),
    row(
        &["HSET @k f 1", "PEXPIRE @k {ttl}"],
        [write(WATCHED), write(&["HSET @k g 2"])],
        both(&["HSET @k g 2"], ADDED),
    ),
    row(
        &["RPUSH @k 1", "PEXPIRE @k {ttl}"],
        [write(WATCHED), write(&["RPUSH @k 2"])],
        both(&["RPUSH @k 2"], ADDED),
    ),
    row(
        &["SET @k 5 PX {ttl}"],
        [write(WATCHED), write(WATCHED)],
        both(&[], "it has expired at both"),
    ),
];

const FLUSHED: &[Case] = &[
    row(
        &["SET @k 1", "SET @other 1"],
        [write(&["FLUSHALL"]), write(&["SET @k 2"])],
        both(&["SET @k 2"], "the write survives"),
    ),
    row(
        &["SET @k 1", "RPUSH @l old", "SET @other 1"],
        [write(&["FLUSHALL"]), write(&["INCR @k", "RPUSH @l new"])],
        both(&["SET @k 1", "RPUSH @l new"], "the write survives"),
    ),
    row(
        &["SELECT {db}", "SADD @s old"],
        [
            write(&["FLUSHALL"]),
            write(&["SELECT {db}", "SADD @s new", "EXPIRE @s 1000"]),
        ],
        Expected::Equal("equal keys everywhere"),
    ),
    row(
        &["SET @k 1"],
        [write(&["FLUSHALL"]), write(&["FLUSHALL"])],
        both(&[], "both deleted it"),
    ),
    row(
        &["SET @k 1", "SET @other 1"],
        [
            write(&["FLUSHDB"]),
            write(&["COPY @k @to DB {db}", "SELECT {db}", "COPY @to @more"]).since(R62),
        ],
        Expected::Equal("equal keys everywhere"),
    ),
    row(
        &["SET @k 1"],
        [
            write(&["FLUSHDB"]),
            write(&["MOVE @k {db}", "SELECT {db}", "RENAME @k @to"]),
        ],
        Expected::Equal("equal keys everywhere"),
    ),
    row(
        &["SET @k 1", "SELECT {db}", "SET @k 2"],
        [write(&["FLUSHALL"]), write(&["SWAPDB 0 {db}"])],
        Expected::Equal("equal databases"),
    ),
];

#[test]
fn keys_that_expire_at_one_site_and_are_written_at_the_other() {
    let pair = Pair::start(&Options::default());
    let model = Model::start(&[]);
    for (attempt, seconds) in TTL_SECONDS.into_iter().enumerate() {
        let ttl = patience(seconds);
        let name = (["slow", "slower"][attempt], 1);
        let all = Batch::new(&mut pair.a.client(), name, EXPIRING.to_vec(), &chosen());
        let batch = all.only(|instance| instance.order.is_first_earlier(), ttl);
        let start = Instant::now();
        let in_time = Cell::new(false);
        let replies = batch.run_with(&pair, Hold::Stall, || {
            in_time.set(start.elapsed() < ttl);
            batch.instances.iter().for_each(|i| wait_expired(&pair, i));
        });
        if in_time.get() {
            let failures = model.judge(&pair, &batch, &replies, Hold::Stall);
            assert!(failures.is_empty(), "\n{}", failures.join("\n"));
            return;
        }
        println!("everything took longer than {ttl:?}");
    }
    panic!("this machine is too slow: TANDEM_PATIENCE=3");
}

/// Waits until a key that is watched is gone where it is watched.
fn wait_expired(pair: &Pair, instance: &Instance) {
    for (form, written) in instance.case.pair.iter().enumerate() {
        if written.lines == WATCHED {
            let mut client = pair.sites()[instance.order.site_of(form)].client();
            wait_for("a key to expire", patience(30), || {
                client.ask::<u64>(&instance.fill(WATCHED[0])) == 0
            });
        }
    }
}

#[test]
fn what_is_written_while_the_other_site_deletes_everything_survives() {
    let pair = Pair::start(&Options::default());
    let model = Model::start(&[]);
    let mut failures = Vec::new();
    let mut client = pair.a.client();
    for (number, case) in FLUSHED.iter().enumerate() {
        let name = format!("flush{number}-");
        let all = Batch::new(&mut client, (&name, 1), vec![*case], &chosen());
        for batch in all.one_by_one() {
            for hold in [Hold::Stall, Hold::Cut] {
                let replies = batch.run(&pair, hold);
                failures.extend(model.judge(&pair, &batch, &replies, hold));
                model.forget();
                // For the next one both begin empty.
                for site in pair.sites() {
                    site.client().run("FLUSHALL");
                }
                pair.settle();
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

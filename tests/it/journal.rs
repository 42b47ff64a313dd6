//! A journal that fills, and one whose disk fails: told in time, and nothing is lost.

use std::time::Duration;

use tandem::status::JournalStatus;

use crate::harness::load::Load;
use crate::harness::{
    Client, DiskFault, Fault, Options, Pair, compare, patience, wait_for, wait_until,
};
use crate::resume::{judged, load_on};

/// A write of 64 KiB.
const CHUNK: usize = 64 << 10;

fn wait_journal(pair: &Pair, what: &str, holds: impl Fn(&JournalStatus) -> bool) -> JournalStatus {
    wait_until(what, patience(20), || {
        let journal = pair.a.sidecar.status()?.journal;
        match holds(&journal) {
            true => Ok(journal),
            false => Err(format!("{journal:#?}")),
        }
    })
}

/// Writes so many mebibytes at a, to ten keys in turn, and an increment with each.
fn write(client: &mut Client, mebibytes: usize) -> u64 {
    let value = "x".repeat(CHUNK);
    let writes = mebibytes * ((1 << 20) / CHUNK);
    for n in 0..writes {
        client.run(&format!("SET big:{} {value}", n % 10));
        client.run("INCR n");
    }
    writes as u64
}

#[test]
fn a_full_journal_is_announced_and_a_copy_follows() {
    let mut pair = Pair::prepare(&Options::default());
    pair.a.sidecar.config.journal_size = "16MiB".to_owned();
    let overflow = "the journal has reached [journal] max_size";
    pair.a.sidecar.expect_errors(overflow);
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.b.sidecar.kill();
    let mut a = pair.a.client();
    let mut written = write(&mut a, 14);
    let journal = wait_journal(&pair, "it to be announced", |j| j.warning.is_some());
    assert_eq!(journal.overflows, 0, "announced before");
    let warning = journal.warning.expect("a warning");
    assert!(warning.contains("what b has not got"), "{warning}");
    assert!(warning.contains("needs a copy"), "{warning}");
    assert!(pair.a.sidecar.log().contains("of what b has not got"));
    let (_, metrics) = pair.a.sidecar.http("/metrics").expect("metrics");
    assert!(
        metrics.contains("tandem_journal_nearly_full 1"),
        "{metrics}"
    );

    written += write(&mut a, 6);
    wait_journal(&pair, "the oldest to be dropped", |j| j.overflows > 0);
    pair.b.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(pair.b.client().ask::<u64>("GET n"), written);
    wait_journal(&pair, "the warning to be over", |j| j.warning.is_none());
}

#[test]
fn a_full_journal_that_may_drop_nothing_stops_reading_and_loses_nothing() {
    let mut pair = Pair::prepare(&Options {
        servers: &[
            "repl-backlog-size 64mb",
            "client-output-buffer-limit replica 64mb 64mb 0",
        ],
        ..Options::default()
    });
    pair.a.sidecar.config.journal_size = "48MiB".to_owned();
    pair.a.sidecar.config.journal_extra = "when_full = \"stop_reading\"".to_owned();
    pair.a.sidecar.expect_errors("the journal refuses writes");
    // All that is written here fits; all that the server may keep does not.
    let checked = pair.a.sidecar.command(&["check"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let (room, kept) = (
        "reserve of a full journal is 12 MiB",
        "keeps 64 MiB at most",
    );
    assert!(
        said.contains("warn  reserve") && said.contains(room) && said.contains(kept),
        "{said}"
    );
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.b.sidecar.kill();
    let mut a = pair.a.client();
    let mut written = write(&mut a, 32);
    let journal = wait_journal(&pair, "it to be announced", |j| j.warning.is_some());
    assert!(journal.error.is_none(), "announced before: {journal:?}");
    written += write(&mut a, 6);
    let is_full = |j: &JournalStatus| j.error.as_ref().is_some_and(|e| e.contains("max_size"));
    let journal = wait_journal(&pair, "reading to stop", is_full);
    assert_eq!(journal.overflows, 0, "nothing is dropped");
    assert!(journal.bytes <= journal.max_bytes, "{journal:?}");
    // A new connection is not even asked for: it could cost a snapshot, for which there is no use.
    a.run("CLIENT KILL TYPE replica");
    let asked = |pair: &Pair| pair.a.sidecar.status().map(|s| s.redis);
    wait_until(
        "the lost connection to be noticed",
        patience(20),
        || match asked(&pair)? {
            redis if !redis.connected => Ok(()),
            redis => Err(format!("{redis:#?}")),
        },
    );
    written += write(&mut a, 1);

    pair.b.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(pair.b.client().ask::<u64>("GET n"), written);
    let redis = asked(&pair).expect("a status");
    assert_eq!(redis.resyncs_full, 1, "{redis:#?}");
    let copied = pair.b.sidecar.peer("a").expect("a peer").copied;
    assert_eq!(copied.created, 0, "{copied:?}");
}

/// A pair whose site a has a disk that fails on demand, and a load on both.
fn failing(journal: &str) -> (Pair, DiskFault, Load) {
    let fault = DiskFault::build();
    fault.mend();
    let mut pair = Pair::prepare(&Options::default());
    pair.a.sidecar.config.journal_extra = journal.to_owned();
    pair.a.sidecar.config.variables = fault.variables();
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    (pair, fault, load)
}

/// Lets the clients write, and waits until both sites have it.
fn writes(pair: &Pair, writes: u64) {
    for site in pair.sites() {
        let mut client = site.client();
        let mut sum = || client.ask::<Option<u64>>("GET n:by").unwrap_or_default() / 7;
        let goal = sum() + writes;
        wait_for("the clients to write", patience(60), || sum() >= goal);
    }
}

/// Writes at a, and waits until b has it.
fn arrives(pair: &Pair, key: &str) {
    pair.a.client().run(&format!("SET {key} 1"));
    let mut b = pair.b.client();
    wait_until("a write to arrive", patience(10), || {
        match b.ask::<u64>(&format!("EXISTS {key}")) {
            1 => Ok(()),
            _ => Err(format!("there is no {key}")),
        }
    });
}

#[test]
fn a_disk_that_cannot_be_forced_is_told_and_delays_nothing() {
    let (pair, fault, load) = failing("fsync = \"everysec\"");
    pair.a.sidecar.expect_errors("cannot be forced to the disk");
    fault.set(Fault::Sync);
    wait_journal(&pair, "it to be told", |j| j.sync_error.is_some());
    let (_, metrics) = pair.a.sidecar.http("/metrics").expect("metrics");
    assert!(metrics.contains("tandem_journal_failed 1"), "{metrics}");
    arrives(&pair, "meanwhile");
    fault.mend();
    wait_journal(&pair, "it to be over", |j| j.sync_error.is_none());
    judged(&pair, load, true);
    let log = pair.a.sidecar.log();
    assert_eq!(
        log.matches("cannot be forced to the disk").count(),
        1,
        "{log}"
    );
}

#[test]
fn with_fsync_always_nobody_hears_of_what_is_not_on_the_disk() {
    let (pair, fault, load) = failing("fsync = \"always\"");
    pair.a.sidecar.expect_errors("the journal refuses writes");
    pair.a.sidecar.expect_errors("cannot be forced to the disk");
    arrives(&pair, "before");
    let mut a = pair.a.client();
    assert_eq!(a.ask::<u64>("WAIT 1 5000"), 1);
    fault.set(Fault::Sync);
    wait_journal(&pair, "it to be told", |j| j.error.is_some());
    a.run("SET during 1");
    assert_eq!(
        a.ask::<u64>("WAIT 1 300"),
        0,
        "a client would believe that it is safe"
    );
    assert_eq!(pair.b.client().ask::<u64>("EXISTS during"), 0);
    // The other direction goes on, and so does the client of this Redis.
    pair.b.client().run("SET from:b 1");
    wait_until("the other direction to go on", patience(10), || {
        match a.ask::<u64>("EXISTS from:b") {
            1 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    fault.mend();
    wait_journal(&pair, "it to be over", |j| j.error.is_none());
    arrives(&pair, "after");
    judged(&pair, load, true);
}

#[test]
fn a_disk_that_is_slow_only_delays() {
    for journal in [
        "fsync = \"always\"",
        "fsync = \"everysec\"",
        "fsync = \"no\"",
    ] {
        let (pair, fault, load) = failing(journal);
        fault.set(Fault::Slow);
        for n in 0..3 {
            arrives(&pair, &format!("slow:{n}"));
        }
        fault.mend();
        writes(&pair, 50);
        judged(&pair, load, true);
        let status = pair.a.sidecar.status().expect("a status");
        assert_eq!(status.redis.resyncs_full, 1, "{journal}: {status:#?}");
        assert_eq!(status.redis.resyncs_partial, 0, "{journal}: {status:#?}");
    }
}

#[test]
fn a_disk_that_has_become_read_only_delays_and_loses_nothing() {
    let (pair, fault, load) = failing("");
    pair.a.sidecar.expect_errors("the journal refuses writes");
    fault.set(Fault::ReadOnly);
    let journal = wait_journal(&pair, "it to be told", |j| j.error.is_some());
    let error = journal.error.expect("an error");
    assert!(error.contains("Read-only"), "{error}");
    let mut a = pair.a.client();
    let begun = std::time::Instant::now();
    a.run("SET during 1");
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "clients notice nothing"
    );
    fault.mend();
    writes(&pair, 50);
    judged(&pair, load, true);
    let status = pair.a.sidecar.status().expect("a status");
    assert_eq!(status.redis.resyncs_full, 1, "{status:#?}");
}

//! A disk that is full while the sidecar runs: reading waits, nothing is lost, and it goes on by
//! itself when there is room again.

use std::fs;
use std::time::Duration;

use crate::harness::wait::let_pass;
use crate::harness::{Client, Options, Pair, Sidecar, compare, patience, wait_until};
use crate::initial::reads;
use crate::resume::{durable, judged, load_on};

/// How large a file may grow before the disk counts as full: the journal's first segment gets there
/// soon, the log does not.
const LIMIT: u64 = 256 * 1024;
/// A limit that nothing reaches.
const ROOM: u64 = 1 << 40;
/// Keys of a copy: a hundred bytes each, so that a snapshot is larger than [`LIMIT`].
const KEYS: u64 = 10_000;

/// A pair whose site a soon has a full disk.
fn small_disk(options: &Options) -> Pair {
    let mut pair = Pair::prepare(options);
    pair.a.sidecar.config.file_limit = Some(LIMIT);
    pair.a.sidecar.expect_errors("the journal refuses writes");
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair
}

/// Fills the disk of a: writes more than its journal can take, and waits until the sidecar says so.
/// From then on not even the smallest frame has room.
fn fill(pair: &Pair) {
    let mut a = pair.a.client();
    let filler = "x".repeat(usize::try_from(LIMIT / 2).expect("a length"));
    a.run(&format!("SET filler {filler}"));
    arrives(&mut pair.b.client(), "filler");
    a.run(&format!("SET filler {filler}{filler}"));
    is_told_full(&pair.a.sidecar);
    let segment = wait_until(
        "what a failed write has left to be removed",
        patience(3),
        || match largest_file(&pair.a.sidecar) {
            size if size < LIMIT => Ok(size),
            size => Err(format!("{size} bytes")),
        },
    );
    pair.a.sidecar.limit_files(Some(segment));
}

/// Waits until a sidecar says that its journal refuses writes.
fn is_told_full(sidecar: &Sidecar) {
    wait_until("the full disk to be told", patience(3), || {
        match sidecar.status()?.journal.error {
            Some(error) if error.contains("append") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// The size of the largest file of a journal's directory.
fn largest_file(sidecar: &Sidecar) -> u64 {
    let files = files(sidecar).into_iter();
    files.map(|(_, size)| size).max().expect("a segment")
}

/// The files of a journal's directory, with their sizes; they may come and go.
fn files(sidecar: &Sidecar) -> Vec<(String, u64)> {
    let files = fs::read_dir(sidecar.dir().join("journal")).into_iter();
    files
        .flatten()
        .filter_map(|file| {
            let file = file.ok()?;
            let size = file.metadata().ok()?.len();
            Some((file.file_name().to_string_lossy().into_owned(), size))
        })
        .collect()
}

/// Nothing is left of snapshots.
fn no_snapshots(pair: &Pair) {
    for site in pair.sites() {
        let mut files = files(&site.sidecar);
        files.retain(|(name, _)| name.contains("snapshot"));
        assert!(files.is_empty(), "{}: {files:?}", site.name);
    }
}

/// Lifts the limit and waits until the journal takes writes again.
fn make_room(pair: &Pair) {
    pair.a.sidecar.limit_files(None);
    wait_until("the journal to take writes", patience(10), || {
        match pair.a.sidecar.status()?.journal.error {
            None => Ok(()),
            Some(error) => Err(error),
        }
    });
}

/// Waits until a key is there.
fn arrives(client: &mut Client, key: &str) {
    wait_until("a write to arrive", patience(10), || {
        match client.ask::<u64>(&format!("EXISTS {key}")) {
            1 => Ok(()),
            _ => Err(format!("there is no {key}")),
        }
    });
}

#[test]
fn a_full_disk_delays_and_loses_nothing() {
    let pair = small_disk(&Options::default());
    let load = load_on(&pair, 1);
    fill(&pair);
    let sidecar = &pair.a.sidecar;
    let (_, metrics) = sidecar.http("/metrics").unwrap();
    assert!(metrics.contains("tandem_journal_failed 1"), "{metrics}");
    assert!(sidecar.log().contains("the journal refuses writes"));
    assert!(!sidecar.status().unwrap().settled, "something is left");
    assert_eq!(sidecar.http("/livez").unwrap().0, 200);

    // The other direction goes on.
    let (mut a, mut b) = pair.clients();
    b.run("SET from:b 1");
    arrives(&mut a, "from:b");
    // What waits, waits in Redis.
    let before = sidecar.peak_memory_kib();
    for n in 0..100 {
        a.run(&format!("SET waiting:{n} {}", "x".repeat(300_000)));
    }
    b.run("SET later:b 1");
    arrives(&mut a, "later:b");
    // The kernel's counts are not exact to the page.
    let grown = sidecar.peak_memory_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "it grew by {grown} KiB");
    assert_eq!(b.ask::<u64>("EXISTS waiting:0 waiting:99"), 0);

    make_room(&pair);
    judged(&pair, load, true);
    for site in pair.sites() {
        let status = site.sidecar.status().unwrap();
        assert_eq!(status.redis.resyncs_full, 1, "{status:#?}");
        assert_eq!(status.peers[0].copied.created, 0, "{status:#?}");
    }
    let log = pair.a.sidecar.log();
    assert!(log.contains("the journal takes writes again"), "{log}");
    assert_eq!(log.matches("the journal refuses writes").count(), 1);
}

#[test]
fn a_connection_that_breaks_while_the_disk_is_full_loses_nothing() {
    let pair = small_disk(&Options {
        servers: &["repl-backlog-size 64mb"],
        ..Options::default()
    });
    let load = load_on(&pair, 1);
    fill(&pair);
    for round in 1..=2 {
        pair.a.client().run("CLIENT KILL TYPE replica");
        wait_until(
            "the stream to be asked for anew",
            patience(20),
            || match pair.a.sidecar.status()?.redis {
                redis if redis.resyncs_partial == round => Ok(()),
                redis => Err(format!("{redis:?}")),
            },
        );
    }
    make_room(&pair);
    judged(&pair, load, true);
}

#[test]
fn a_sidecar_killed_while_its_disk_is_full_loses_nothing() {
    // Within the backlog it goes on; beyond it a full resync follows, and copies of what differs.
    const BACKLOGS: [(&[&str], u64); 2] = [
        (&["repl-backlog-size 64mb"], 0),
        (&["repl-backlog-size 64kb"], 1),
    ];
    for (servers, full) in BACKLOGS {
        let mut pair = small_disk(&Options {
            servers,
            ..Options::default()
        });
        let load = load_on(&pair, 1);
        fill(&pair);
        let_pass(Duration::from_millis(300));
        pair.a.client().run("INCR while-full");
        pair.a.sidecar.kill();
        pair.a.sidecar.config.file_limit = None;
        pair.a.sidecar.start();
        judged(&pair, load, true);
        assert_eq!(pair.b.client().ask::<u64>("GET while-full"), 1);
        let redis = pair.a.sidecar.status().unwrap().redis;
        assert_eq!(redis.resyncs_full, full, "{redis:#?}");
    }
}

#[test]
fn a_sidecar_whose_disk_is_full_ends_in_good_order() {
    let mut pair = small_disk(&Options::default());
    let load = load_on(&pair, 1);
    fill(&pair);
    let_pass(Duration::from_millis(300));
    let (status, time) = pair.a.sidecar.terminate();
    assert_eq!(status.code(), Some(0), "{}", pair.a.sidecar.log_tail());
    assert!(time < patience(10), "{time:?}");
    pair.a.sidecar.config.file_limit = None;
    pair.a.sidecar.start();
    judged(&pair, load, true);
}

#[test]
fn a_server_that_restarts_while_the_disk_is_full_loses_nothing() {
    let mut pair = small_disk(&durable());
    let load = load_on(&pair, 1);
    fill(&pair);
    pair.a.server.kill();
    pair.a.server.restart();
    wait_until("the new history to be refused", patience(20), || {
        let redis = pair.a.sidecar.status()?.redis;
        match redis.error {
            Some(error) if redis.resyncs_full > 1 && error.contains("append") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    pair.a.sidecar.limit_files(None);
    pair.wait_synchronizing();

    // The journal knows the new history: a restart goes on in it.
    pair.a.sidecar.kill();
    pair.a.client().run("INCR unread");
    pair.a.sidecar.start();
    judged(&pair, load, false);
    let redis = pair.a.sidecar.status().unwrap().redis;
    assert_eq!(redis.resyncs_full, 0, "{redis:#?}");
}

/// Waits until somebody says that there is no room for a snapshot.
fn no_room(told: impl Fn() -> Result<Option<String>, String>) {
    wait_until(
        "the lack of room to be told",
        patience(20),
        || match told()? {
            Some(error) if error.contains("cannot keep a snapshot") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

#[test]
fn a_first_snapshot_without_room_holds_nothing_up() {
    let mut pair = Pair::prepare(&Options::default());
    let mut a = pair.a.client();
    a.run(&format!("DEBUG POPULATE {KEYS} key 100"));
    pair.a.sidecar.config.file_limit = Some(LIMIT);
    pair.start_sidecars();
    no_room(|| Ok(pair.a.sidecar.peer("b")?.error));
    a.run("SET while-full 1");
    pair.a.sidecar.limit_files(None);
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair) as u64, KEYS + 1);
}

#[test]
fn a_copy_without_room_is_told_and_made_again() {
    let mut pair = Pair::prepare(&Options::default());
    let (mut a, mut b) = pair.clients();
    a.run(&format!("DEBUG POPULATE {KEYS} key 100"));
    pair.a.sidecar.config.file_limit = Some(LIMIT);
    pair.cut_link();
    pair.start_sidecars();
    reads(&pair.a);
    // The one that was taken at the beginning was given up.
    wait_until("the snapshot to fail", patience(20), || {
        let log = pair.a.sidecar.log();
        let told = log.contains("the snapshot that was being taken is lost");
        told.then_some(()).ok_or(log)
    });
    pair.mend_link();
    no_room(|| Ok(pair.a.sidecar.peer("b")?.error));
    // The other direction goes on.
    a.run("INCR n");
    b.run("INCR n");
    b.run("SET from:b 1");
    arrives(&mut a, "from:b");
    assert_eq!(pair.a.sidecar.peer("b").unwrap().sessions, 1);
    pair.a.sidecar.limit_files(None);
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair) as u64, KEYS + 2);
    assert_eq!(a.ask::<u64>("GET n"), 2);
    assert_eq!(pair.a.sidecar.peer("b").unwrap().error, None);
    no_snapshots(&pair);
}

#[test]
fn a_receiver_whose_disk_is_full_goes_on_with_the_copy() {
    let mut pair = Pair::prepare(&Options::default());
    pair.a
        .client()
        .run(&format!("DEBUG POPULATE {KEYS} key 100"));
    pair.b.sidecar.config.file_limit = Some(ROOM);
    pair.b.sidecar.expect_errors("the journal refuses writes");
    pair.wire_a.up().throttle(500_000);
    pair.start_sidecars();
    wait_until("the copy to be under way", patience(20), || {
        match pair.b.sidecar.peer("a")?.receiving {
            Some(copy) if copy.keys_done > KEYS / 10 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    pair.b
        .sidecar
        .limit_files(Some(largest_file(&pair.b.sidecar)));
    is_told_full(&pair.b.sidecar);
    pair.b.client().run("INCR n");
    pair.b.sidecar.limit_files(None);
    pair.wire_a.mend();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair) as u64, KEYS + 1);
    no_snapshots(&pair);
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let mut pair = Pair::prepare(&Options::default());
    pair.a.sidecar.config.file_limit = Some(ROOM);
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    let_pass(Duration::from_millis(300));
    // Neither the journal nor the log can grow.
    pair.a.sidecar.limit_files(Some(0));
    is_told_full(&pair.a.sidecar);
    pair.wire_a.cut_once();
    let_pass(Duration::from_secs(2));
    make_room(&pair);
    assert!(pair.a.sidecar.is_alive());
    judged(&pair, load, true);
}

/// Waits until a is taking a snapshot that has not this name; says its name.
fn partial(pair: &Pair, but: &str) -> String {
    wait_until("a snapshot to be taken", patience(20), || {
        let mut names = files(&pair.a.sidecar).into_iter().map(|(name, _)| name);
        let found = names.find(|name| name.ends_with(".part") && name != but);
        found.ok_or_else(|| "there is none".to_owned())
    })
}

/// Whether the journal of a has a file of this name beside it.
fn exists(pair: &Pair, name: &str) -> bool {
    let mut files = files(&pair.a.sidecar).into_iter();
    files.any(|(each, _)| each == name)
}

#[test]
fn a_snapshot_outlives_the_link_but_not_its_sidecar() {
    let mut pair = Pair::prepare(&Options {
        redis_proxies: true,
        ..Options::default()
    });
    let populate = format!("DEBUG POPULATE {KEYS} key 100");
    pair.a.client().run(&populate);
    pair.cut_link();
    let slowly = |pair: &Pair| {
        let proxy = pair.a.redis_proxy.as_ref().unwrap();
        proxy.down().throttle(100_000);
    };
    slowly(&pair);
    pair.start_sidecars();
    let first = partial(&pair, "");
    pair.a.sidecar.kill();
    assert_eq!(partial(&pair, ""), first, "nobody could remove it");
    // However far the first life has come, the second cannot go on in the stream.
    pair.a.client().run("DEBUG CHANGE-REPL-ID");
    pair.a.sidecar.start();
    partial(&pair, &first);
    assert!(!exists(&pair, &first));

    // A copy is made of it while it is still coming; when the link breaks it goes on, and so does
    // the copy of it.
    reads(&pair.a);
    pair.mend_link();
    wait_until("the copy to be under way", patience(20), || {
        match pair.b.sidecar.peer("a")?.receiving {
            Some(copy) if copy.keys_done > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    pair.cut_link();
    pair.a.redis_proxy.as_ref().unwrap().mend();
    pair.mend_link();
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair) as u64, KEYS);
    let made = pair.a.client().ask::<String>("INFO stats");
    // One for each life of the sidecar.
    assert!(made.contains("sync_full:2\r\n"), "{made}");
    no_snapshots(&pair);
}

//! A server that refuses for a while what it is told: nothing is passed over, and everything follows when
//! it takes writes again.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::{nothing_copied, steps, write_more};
use crate::harness::ports::free_port;
use crate::harness::{Client, Interposer, Options, Pair, Verdict, patience, wait_for, wait_until};
use crate::resume::{judged, load_on};

/// The server of b is brought to refuse, under a load at both sites; the link is cut and the sidecar
/// of b is killed and started meanwhile. Then it is brought back.
fn refused<T>(
    words: &[&str],
    begin: impl FnOnce(&mut Client) -> T,
    end: impl FnOnce(&mut Client, T),
) -> Pair {
    let mut pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    write_more(&pair, 5);
    let (mut a, mut b) = pair.clients();
    let state = begin(&mut b);
    told(&pair, words);
    a.run("SET probe 1");
    let probe = a.offset();
    let goal = steps(&mut a) + 5;
    wait_for("the clients of a to write", patience(60), || {
        steps(&mut a) >= goal
    });
    not_passed(&pair, probe);
    pair.wire_a.cut_once();
    pair.b.sidecar.kill();
    pair.b.sidecar.start();
    told(&pair, words);
    not_passed(&pair, probe);
    end(&mut b, state);
    write_more(&pair, 15);
    judged(&pair, load, true);
    assert_eq!(b.ask::<String>("GET probe"), "1");
    for site in pair.sites() {
        let peer = &site.sidecar.status().expect("a status").peers[0];
        assert_eq!((&peer.waiting, peer.failed_commands), (&None, 0));
    }
    pair
}

/// Waits until the status of b says one of these words.
fn told(pair: &Pair, words: &[&str]) {
    wait_until("the reason to be told", patience(30), || {
        let status = pair.b.sidecar.status()?;
        let peer = &status.peers[0];
        let said = [&peer.waiting, &peer.error, &status.redis.error];
        let said: Vec<&String> = said.into_iter().flatten().collect();
        match said.iter().any(|s| words.iter().any(|w| s.contains(w))) {
            true => Ok(()),
            false => Err(format!("{said:?}; {status:#?}")),
        }
    });
}

/// The position of b stands before this place of a's stream.
fn not_passed(pair: &Pair, offset: u64) {
    let committed = pair.b.sidecar.peer("a").expect("a peer").committed_offset;
    assert!(committed < offset, "{committed} has passed {offset}");
}

/// As [`refused`], where nothing has to be read anew afterwards.
fn refused_in_between(
    words: &[&str],
    begin: impl FnOnce(&mut Client),
    end: impl FnOnce(&mut Client),
) {
    let pair = refused(words, begin, |b, ()| end(b));
    nothing_copied(&pair, 1);
}

#[test]
fn a_server_without_its_replicas_is_waited_for() {
    let begin = |b: &mut Client| drop(b.run("CONFIG SET min-replicas-to-write 9"));
    let end = |b: &mut Client| drop(b.run("CONFIG SET min-replicas-to-write 0"));
    refused_in_between(&["NOREPLICAS"], begin, end);
}

#[test]
fn a_server_without_memory_is_waited_for() {
    let begin = |b: &mut Client| drop(b.run("CONFIG SET maxmemory 1mb"));
    let end = |b: &mut Client| drop(b.run("CONFIG SET maxmemory 0"));
    refused_in_between(&["OOM"], begin, end);
}

/// Where the snapshot of a server would be.
fn snapshot(client: &mut Client) -> PathBuf {
    let dir: Vec<String> = client.ask("CONFIG GET dir");
    PathBuf::from(&dir[1]).join("dump.rdb")
}

/// Has a server take a snapshot, and waits for how that ends.
fn save(client: &mut Client, outcome: &str) {
    wait_until("a snapshot to end", patience(30), || {
        // Another child of the server may be at work.
        client.try_run("BGSAVE").ok();
        let status = client.info("persistence", "rdb_last_bgsave_status");
        match status.as_deref() == Some(outcome) {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    });
}

#[test]
fn a_server_that_cannot_save_is_waited_for() {
    let begin = |b: &mut Client| {
        // No snapshot can take the place of a directory.
        fs::create_dir(snapshot(b)).expect("a directory");
        b.run("CONFIG SET save '3600 1'");
        save(b, "err");
    };
    let end = |b: &mut Client| {
        fs::remove_dir(snapshot(b)).expect("to remove it");
        save(b, "ok");
    };
    refused_in_between(&["MISCONF"], begin, end);
}

/// A script that runs until it is killed.
fn endless(port: u16) -> JoinHandle<()> {
    let mut client = Client::connect(port);
    client.run("CONFIG SET lua-time-limit 50");
    thread::spawn(move || {
        let ended = client.try_run("EVAL 'while true do end' 0");
        let error = ended.expect_err("it was killed").to_string();
        assert!(
            error.contains("SCRIPT KILL") || error.contains("killed"),
            "{error}"
        );
    })
}

fn port_of(client: &mut Client) -> u16 {
    let port = client.info_number("server", "tcp_port");
    port.try_into().expect("a port")
}

/// Ends it, when it has run long enough to be killed.
fn kill_script(client: &mut Client, script: JoinHandle<()>) {
    wait_until("the script to be killed", patience(20), || {
        let killed = client.try_run("SCRIPT KILL");
        killed.map(drop).map_err(|e| e.to_string())
    });
    script.join().expect("the script");
}

#[test]
fn a_server_busy_with_a_script_is_waited_for() {
    let begin = |b: &mut Client| endless(port_of(b));
    let pair = refused(&["BUSY"], begin, kill_script);
    nothing_copied(&pair, 1);
}

#[test]
fn a_server_that_becomes_a_replica_for_a_while_is_waited_for() {
    let begin = |b: &mut Client| {
        let nobody = free_port();
        b.run(&format!("REPLICAOF 127.0.0.1 {nobody}"));
    };
    let words = ["READONLY", "NOMASTERLINK", "replica"];
    refused(&words, begin, |b, ()| drop(b.run("REPLICAOF NO ONE")));
}

/// The server accepts the commands of a transaction and refuses its EXEC: its state has changed in
/// between.
#[test]
fn a_server_that_refuses_only_exec_is_waited_for() {
    let mut pair = Pair::prepare(&Options::default());
    let (port, left, refusing) = (
        pair.b.server.port(),
        AtomicU64::new(20),
        AtomicBool::new(false),
    );
    let refusing = Arc::new(refusing);
    let flag = Arc::clone(&refusing);
    let man = Interposer::to(port, move |args| {
        let due = |n: u64| n.checked_sub(1);
        let order = Ordering::SeqCst;
        if args[0] == b"EXEC" && left.fetch_update(order, order, due) == Ok(1) {
            Client::connect(port).run("CONFIG SET min-replicas-to-write 9");
            flag.store(true, order);
        }
        Verdict::Forward
    });
    pair.b.sidecar.config.redis_port = man.port();
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    wait_for("EXEC to be refused", patience(60), || {
        refusing.load(Ordering::SeqCst)
    });
    told(&pair, &["NOREPLICAS"]);
    let mut b = pair.b.client();
    b.run("CONFIG SET min-replicas-to-write 0");
    write_more(&pair, 15);
    judged(&pair, load, true);
    let status = pair.b.sidecar.status().expect("a status");
    let peer = &status.peers[0];
    assert_eq!((peer.failed_commands, peer.sessions), (0, 1), "{peer:#?}");
}

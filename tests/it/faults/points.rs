//! A sidecar that dies at a certain point, not just at some moment, and answers that never come.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use rand::Rng;

use super::{nothing_copied, number, soon_synchronizing, write_more};
use crate::harness::{
    DiskFault, Interposer, Options, Pair, Point, Verdict, patience, rng_from_seed, wait_for,
};
use crate::resume::{judged, load_on};

/// How often each point is died at.
fn rounds() -> u64 {
    number("TANDEM_KILLS", 3)
}

/// The sidecar of a dies at this point of its journal, after at most so many calls.
fn dies_at(name: &str, point: Point, most: u32, fsync: &str) {
    let mut rng = rng_from_seed(name);
    let fault = DiskFault::build();
    fault.mend();
    let mut pair = Pair::prepare(&Options::default());
    pair.a.sidecar.config.journal_extra = format!("fsync = \"{fsync}\"");
    pair.a.sidecar.config.variables = fault.variables();
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    for round in 0..rounds() {
        write_more(&pair, 5);
        let calls = rng.random_range(1..=most);
        println!("round {round}: {point:?}, call {calls}");
        fault.kill_at(point, calls);
        let status = pair.a.sidecar.wait_exit(patience(30));
        assert_eq!(status.code(), None, "not by a signal: {status}");
        fault.mend();
        let started = Instant::now();
        pair.a.sidecar.start();
        soon_synchronizing(&pair, started);
        nothing_copied(&pair, 0);
    }
    judged(&pair, load, true);
}

#[test]
fn a_sidecar_dies_before_it_writes_its_journal() {
    dies_at("before a write", Point::BeforeWrite, 50, "everysec");
}

#[test]
fn a_sidecar_dies_with_half_a_frame_in_its_journal() {
    dies_at("within a write", Point::WithinWrite, 50, "everysec");
}

#[test]
fn a_sidecar_dies_after_it_has_written_its_journal() {
    dies_at("after a write", Point::AfterWrite, 50, "everysec");
}

#[test]
fn a_sidecar_dies_before_its_journal_is_forced_to_the_disk() {
    dies_at("before a sync", Point::BeforeSync, 1, "everysec");
    dies_at(
        "before a sync of each write",
        Point::BeforeSync,
        50,
        "always",
    );
}

#[test]
fn a_sidecar_dies_after_its_journal_was_forced_to_the_disk() {
    dies_at("after a sync", Point::AfterSync, 1, "everysec");
    dies_at("after a sync of each write", Point::AfterSync, 50, "always");
}

/// What EXEC has come to when the sidecar that says it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exec {
    /// The server has not seen it.
    Unsent,
    /// It is executed, and the answer finds nobody.
    Executed,
    /// The answer has been read; nothing was said after it.
    Answered,
}

/// No death is due.
const NEVER: u64 = u64::MAX;

/// The sidecar of b dies when it applies what comes from a.
fn dies_at_exec(point: Exec) {
    let mut rng = rng_from_seed("at EXEC");
    let mut pair = Pair::prepare(&Options::default());
    let victim = Arc::new(AtomicU32::new(0));
    // How many EXECs are left until the one that matters.
    let left = Arc::new(AtomicU64::new(NEVER));
    let (pid, due) = (Arc::clone(&victim), Arc::clone(&left));
    let man = Interposer::to(pair.b.server.port(), move |args| {
        let is_point = match point {
            Exec::Unsent | Exec::Executed => args[0] == b"EXEC",
            // An answer has been read when the next transaction begins.
            Exec::Answered => args[0] == b"MULTI",
        };
        let count = |n: u64| (n != NEVER).then(|| n.checked_sub(1).unwrap_or(NEVER));
        if !is_point || due.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) != Ok(0) {
            return Verdict::Forward;
        }
        kill(pid.load(Ordering::SeqCst));
        match point {
            Exec::Executed => Verdict::LoseReply,
            Exec::Unsent | Exec::Answered => Verdict::ReplyAndClose(Vec::new()),
        }
    });
    pair.b.sidecar.config.redis_port = man.port();
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    for round in 0..rounds() {
        write_more(&pair, 5);
        let calls = rng.random_range(0..30);
        println!("round {round}: {point:?}, call {calls}");
        victim.store(pair.b.sidecar.pid(), Ordering::SeqCst);
        left.store(calls, Ordering::SeqCst);
        pair.b.sidecar.wait_exit(patience(30));
        let started = Instant::now();
        pair.b.sidecar.start();
        soon_synchronizing(&pair, started);
        nothing_copied(&pair, 1);
    }
    judged(&pair, load, true);
}

/// SIGKILL, from whatever thread.
fn kill(pid: u32) {
    let line = format!("kill -s KILL {pid}");
    let status = Command::new("sh").args(["-c", &line]).status();
    assert!(status.expect("a shell runs").success(), "{line}");
}

#[test]
fn a_sidecar_dies_before_the_server_sees_its_transaction() {
    dies_at_exec(Exec::Unsent);
}

#[test]
fn a_sidecar_dies_before_it_hears_of_its_transaction() {
    dies_at_exec(Exec::Executed);
}

#[test]
fn a_sidecar_dies_after_it_has_heard_of_its_transaction() {
    dies_at_exec(Exec::Answered);
}

/// The sidecar of a site dies when so many bytes of a have left for b, and nothing after them.
fn dies_after_sending(victim: usize) {
    let mut rng = rng_from_seed("after sending");
    let mut pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for round in 0..rounds() {
        write_more(&pair, 5);
        let bytes = rng.random_range(1..3000);
        println!("round {round}: {bytes} bytes");
        pair.wire_a.up().grant(bytes);
        wait_for("them to be sent", patience(30), || {
            pair.wire_a.up().is_used_up()
        });
        let site = [&mut pair.a, &mut pair.b].into_iter().nth(victim);
        let sidecar = &mut site.expect("a site").sidecar;
        sidecar.kill();
        let started = Instant::now();
        sidecar.start();
        pair.wire_a.mend();
        soon_synchronizing(&pair, started);
        nothing_copied(&pair, victim);
    }
    judged(&pair, load, true);
}

#[test]
fn a_sidecar_dies_after_it_has_sent_a_part() {
    dies_after_sending(0);
}

#[test]
fn a_sidecar_dies_after_it_has_received_a_part() {
    dies_after_sending(1);
}

#[test]
fn replies_of_exec_that_are_lost_again_and_again_are_looked_up() {
    let losses = number("TANDEM_LOST", 30);
    let mut pair = Pair::prepare(&Options::default());
    let lost = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let mut men = Vec::new();
    for (site, lost) in [&mut pair.a, &mut pair.b].into_iter().zip(&lost) {
        let (lost, seen) = (Arc::clone(lost), AtomicU64::new(0));
        let man = Interposer::to(site.server.port(), move |args| {
            // Some transactions are answered: they are what the losses could double.
            let is_chosen = args[0] == b"EXEC" && seen.fetch_add(1, Ordering::SeqCst) % 4 == 3;
            if is_chosen && lost.load(Ordering::SeqCst) < losses {
                lost.fetch_add(1, Ordering::SeqCst);
                return Verdict::LoseReply;
            }
            Verdict::Forward
        });
        site.sidecar.config.redis_port = man.port();
        men.push(man);
    }
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    wait_for("the replies to be lost", patience(60 + losses), || {
        lost.iter().all(|n| n.load(Ordering::SeqCst) == losses)
    });
    write_more(&pair, 5);
    judged(&pair, load, true);
}

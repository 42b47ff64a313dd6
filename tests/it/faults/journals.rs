//! Journals that are not the ones that were there: restored from a backup, lost, or damaged.

use std::fs;
use std::path::{Path, PathBuf};

use super::{number, write_more};
use crate::harness::{Options, Pair, Sidecar, patience, rng_from_seed, wait_for};
use crate::resume::{judged, load_on};
use rand::Rng;

fn journal(sidecar: &Sidecar) -> PathBuf {
    sidecar.dir().join("journal")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the journal");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// The journal as it is now, elsewhere.
fn backup(sidecar: &Sidecar) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for file in files(&journal(sidecar)) {
        let name = file.file_name().expect("a name");
        fs::copy(&file, dir.path().join(name)).expect("copy it");
    }
    dir
}

/// Puts a backup in its place.
fn restore(sidecar: &Sidecar, backup: &Path) {
    let dir = journal(sidecar);
    for file in files(&dir) {
        fs::remove_file(file).expect("remove it");
    }
    for file in files(backup) {
        let name = file.file_name().expect("a name");
        fs::copy(&file, dir.join(name)).expect("copy it back");
    }
}

/// The sidecar of b goes on with the journal that it had some time ago.
fn restored(backlog: &'static [&'static str], filler: u64) {
    let mut pair = Pair::start(&Options {
        servers: backlog,
        ..Options::default()
    });
    let load = load_on(&pair, 1);
    write_more(&pair, 5);
    pair.b.sidecar.kill();
    let old = backup(&pair.b.sidecar);
    pair.b.sidecar.start();
    pair.wait_synchronizing();
    let mut b = pair.b.client();
    for n in 0..filler {
        b.run(&format!("SET filler:{n} {}", "x".repeat(10_000)));
    }
    write_more(&pair, 10);
    pair.b.sidecar.kill();
    restore(&pair.b.sidecar, old.path());
    write_more(&pair, 5);
    pair.b.sidecar.start();
    pair.wait_synchronizing();
    write_more(&pair, 5);
    judged(&pair, load, true);
}

#[test]
fn a_journal_restored_from_an_older_backup_goes_on() {
    restored(&["repl-backlog-size 64mb"], 0);
}

#[test]
fn a_journal_restored_from_a_backup_older_than_the_backlog_goes_on() {
    restored(&["repl-backlog-size 64kb"], 50);
}

#[test]
fn a_journal_that_is_lost_under_load_loses_nothing() {
    let mut pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for index in [1, 0] {
        write_more(&pair, 5);
        let sites = [&mut pair.a, &mut pair.b];
        let sidecar = &mut sites.into_iter().nth(index).expect("a site").sidecar;
        sidecar.kill();
        fs::remove_dir_all(journal(sidecar)).expect("remove it");
        sidecar.start();
        pair.wait_synchronizing();
    }
    write_more(&pair, 5);
    judged(&pair, load, true);
}

/// What was not on the disk when the machine failed: the end is missing, or is none of ours.
#[test]
fn a_torn_journal_is_cut_where_it_is_torn() {
    let mut rng = rng_from_seed("a torn journal");
    let mut pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for round in 0..number("TANDEM_KILLS", 3) {
        write_more(&pair, 5);
        pair.b.sidecar.kill();
        let file = files(&journal(&pair.b.sidecar))
            .into_iter()
            .rfind(|path| path.extension().is_some_and(|e| e == "seg"))
            .expect("a segment");
        let mut bytes = fs::read(&file).expect("read it");
        let torn = rng.random_range(1..2000).min(bytes.len() / 2);
        let from = bytes.len() - torn;
        match round % 3 {
            0 => bytes.truncate(from),
            1 => bytes[from..].fill(0),
            _ => rng.fill(&mut bytes[from..]),
        }
        println!("round {round}: {torn} bytes of {}", file.display());
        fs::write(&file, bytes).expect("write it");
        pair.b.sidecar.start();
        pair.wait_synchronizing();
    }
    write_more(&pair, 5);
    judged(&pair, load, true);
}

/// A byte in the middle of what was on the disk: that is said, and nothing of it is applied.
#[test]
fn a_flipped_byte_in_a_journal_is_named() {
    let mut pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    write_more(&pair, 20);
    pair.b.sidecar.kill();
    pair.b.sidecar.expect_errors("");
    let dir = journal(&pair.b.sidecar);
    let file = files(&dir)
        .into_iter()
        .rfind(|path| path.extension().is_some_and(|e| e == "seg"))
        .expect("a segment");
    let mut bytes = fs::read(&file).expect("read it");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    fs::write(&file, bytes).expect("write it");
    pair.b.sidecar.start();
    let named = || {
        let log = pair.b.sidecar.log();
        log.lines().any(|line| {
            line.contains("journal") && (line.contains("ERROR") || line.contains("WARN"))
        })
    };
    wait_for("the damage to be named", patience(30), named);
    println!("{}", pair.b.sidecar.log_tail());
    if !pair.b.sidecar.is_alive() {
        // As its message says.
        pair.b.sidecar.kill();
        fs::remove_dir_all(dir).expect("remove it");
        pair.b.sidecar.start();
    }
    pair.wait_synchronizing();
    write_more(&pair, 5);
    judged(&pair, load, true);
}

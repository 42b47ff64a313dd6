//! Passwords and permissions that change while everything runs.

use std::fs;
use std::path::PathBuf;

use tandem::status::PeerState;
use tempfile::TempDir;

use super::write_more;
use crate::harness::{Client, Options, Pair, patience, wait_until};
use crate::resume::{judged, load_on};

/// What the README gives to the user of a sidecar, on Redis 6.2 or later.
const GRANTED: &str = "~* &* +@all -@admin -@dangerous +psync +replconf +info +client|id \
                       +client|setname +client|list +client|kill +config|get +restore +sort \
                       +flushall +flushdb +swapdb";

/// Two sites; the sidecar of b logs in as a user of its own, with a password in a file. None on servers
/// that do not have users like these.
fn with_user() -> Option<(Pair, TempDir, PathBuf)> {
    let mut pair = Pair::prepare(&Options::default());
    let mut b = pair.b.client();
    if b.version() < (6, 2) {
        return None;
    }
    b.run(&format!("ACL SETUSER tandem on >Pw-one {GRANTED}"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("password");
    fs::write(&file, "Pw-one\n").expect("write the password");
    pair.b.sidecar.config.redis_extra = format!(
        "username = \"tandem\"\npassword_file = \"{}\"",
        file.display()
    );
    pair.start_sidecars();
    pair.wait_synchronizing();
    Some((pair, dir, file))
}

/// Ends all connections of the user: what logs in from now on needs what is right now.
fn disconnect(b: &mut Client) {
    b.run("CLIENT KILL USER tandem SKIPME yes");
}

/// Waits until b says that it is stopped for this reason, in the link or in what it says of Redis.
fn told(pair: &Pair, reason: &str, words: &str) {
    wait_until("the reason to be told", patience(30), || {
        let status = pair.b.sidecar.status()?;
        let peer = &status.peers[0];
        let stop = peer.stop.as_ref().map(|stop| stop.reason.as_str());
        let error = status.redis.error.as_deref().unwrap_or_default();
        let is_told = stop == Some(reason) && peer.state == PeerState::Stopped;
        match is_told || error.contains(words) {
            true => Ok(()),
            false => Err(format!("{status:#?}")),
        }
    });
}

/// No secret is in what a sidecar says.
fn nothing_shown(pair: &Pair) {
    let said = [
        pair.b.sidecar.log(),
        pair.b.sidecar.http("/status").expect("a status").1,
    ];
    for text in said {
        assert!(!text.contains("Pw-"), "{text}");
    }
}

#[test]
fn a_rotated_password_is_read_without_a_restart() {
    let Some((pair, _dir, file)) = with_user() else {
        return;
    };
    let load = load_on(&pair, 1);
    write_more(&pair, 5);
    let mut b = pair.b.client();
    // In good order: both passwords hold for a while.
    b.run("ACL SETUSER tandem >Pw-two");
    fs::write(&file, "Pw-two\n").expect("write the password");
    b.run("ACL SETUSER tandem <Pw-one");
    disconnect(&mut b);
    write_more(&pair, 10);
    pair.wait_synchronizing();
    // In bad order: the server knows the new one before the file has it.
    b.run("ACL SETUSER tandem <Pw-two >Pw-three");
    disconnect(&mut b);
    told(&pair, "redis_login", "WRONGPASS");
    write_more(&pair, 5);
    fs::write(&file, "Pw-three\n").expect("write the password");
    pair.wait_synchronizing();
    judged(&pair, load, true);
    nothing_shown(&pair);
}

/// A user that may write fewer keys, or run fewer commands, than the other site's clients use: the link
/// stops by name, and goes on when the user may again.
#[test]
fn a_permission_that_is_taken_away_for_a_while_loses_nothing() {
    for (narrowed, widened) in [
        ("resetkeys ~tandem:* ~n:*", "~*"),
        ("-rpush -sadd", "+rpush +sadd"),
        ("-psync", "+psync"),
    ] {
        let Some((pair, _dir, _file)) = with_user() else {
            return;
        };
        println!("{narrowed}");
        let load = load_on(&pair, 1);
        write_more(&pair, 5);
        let mut b = pair.b.client();
        b.run(&format!("ACL SETUSER tandem {narrowed}"));
        if narrowed == "-psync" {
            disconnect(&mut b);
        }
        told(&pair, "redis_permission", "NOPERM");
        write_more(&pair, 5);
        b.run(&format!("ACL SETUSER tandem {widened}"));
        pair.wait_synchronizing();
        judged(&pair, load, true);
    }
}

/// The user is removed, and comes back.
#[test]
fn a_user_that_is_gone_for_a_while_loses_nothing() {
    let Some((pair, _dir, _file)) = with_user() else {
        return;
    };
    let load = load_on(&pair, 1);
    write_more(&pair, 5);
    let mut b = pair.b.client();
    b.run("ACL DELUSER tandem");
    told(&pair, "redis_login", "WRONGPASS");
    write_more(&pair, 5);
    b.run(&format!("ACL SETUSER tandem on >Pw-one {GRANTED}"));
    pair.wait_synchronizing();
    judged(&pair, load, true);
}

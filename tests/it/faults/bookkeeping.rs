//! Bookkeeping that a client edits: garbage, a position that is too low or too high. Nothing is applied
//! twice, nothing is passed over silently.

use tandem::status::PeerState;

use crate::harness::{Client, Options, Pair, compare, patience, wait_until};

const MARK: &str = "tandem:from:a";

/// Two sites that have exchanged increments, and the mark at b as it was in the middle of them.
fn with_old_mark() -> (Pair, String) {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    increment(&pair, 50);
    pair.settle();
    let old: String = b.ask(&format!("GET {MARK}"));
    increment(&pair, 50);
    pair.settle();
    assert_eq!(a.ask::<u64>("GET n"), 200);
    (pair, old)
}

fn increment(pair: &Pair, times: u64) {
    let (mut a, mut b) = pair.clients();
    for _ in 0..times {
        a.run("INCR n");
        b.run("INCR n");
        a.run("RPUSH list x");
    }
}

/// Both sites have got each of so many increments once, and go on.
fn exact(pair: &Pair, increments: u64) {
    pair.wait_synchronizing();
    increment(pair, 5);
    pair.settle();
    compare(pair);
    let (mut a, mut b) = pair.clients();
    for client in [&mut a, &mut b] {
        assert_eq!(client.ask::<u64>("GET n"), increments + 10);
        assert_eq!(client.ask::<u64>("LLEN list"), increments / 2 + 5);
    }
    pair.no_echo();
}

fn set(client: &mut Client, key: &str, value: &str) {
    client.send(&[b"SET".as_slice(), key.as_bytes(), value.as_bytes()]);
}

/// The mark with another position.
fn moved(mark: &str, offset: u64) -> String {
    let at = mark.split(' ').find(|word| word.starts_with("at="));
    let at = at.expect("a position");
    let (epoch, _) = at.split_once('/').expect("an offset");
    mark.replace(at, &format!("{epoch}/{offset}"))
}

#[test]
fn a_mark_that_is_overwritten_while_it_is_in_use_is_written_again() {
    let (pair, old) = with_old_mark();
    let mut b = pair.b.client();
    for value in ["garbage", "", "1 i=0", &old] {
        set(&mut b, MARK, value);
    }
    exact(&pair, 200);
    pair.b.client().run(&format!("GET {MARK}"));
    let mut pair = pair;
    pair.b.sidecar.kill();
    pair.b.sidecar.start();
    exact(&pair, 210);
}

#[test]
fn a_mark_set_back_while_nobody_looks_doubles_nothing() {
    let (mut pair, old) = with_old_mark();
    pair.b.sidecar.kill();
    set(&mut pair.b.client(), MARK, &old);
    increment(&pair, 50);
    pair.b.sidecar.start();
    exact(&pair, 300);
}

#[test]
fn a_mark_that_is_none_is_named_and_may_be_deleted() {
    let (mut pair, _) = with_old_mark();
    pair.b.sidecar.kill();
    let mut b = pair.b.client();
    set(&mut b, MARK, "garbage");
    increment(&pair, 50);
    pair.b.sidecar.start();
    wait_until("it to be named", patience(30), || {
        let peer = pair.b.sidecar.peer("a")?;
        match &peer.stop {
            Some(stop) if stop.reason == "bad_mark" && peer.state == PeerState::Stopped => Ok(()),
            _ => Err(format!("{peer:#?}")),
        }
    });
    b.run(&format!("DEL {MARK}"));
    exact(&pair, 300);
}

/// A position that was never reached. Its records are not applied, for they count as applied; but how they
/// went nobody has read, so the values of their keys are asked for.
#[test]
fn a_mark_moved_ahead_while_nobody_looks_loses_nothing() {
    let (mut pair, _) = with_old_mark();
    pair.b.sidecar.kill();
    let mut b = pair.b.client();
    let mark: String = b.ask(&format!("GET {MARK}"));
    increment(&pair, 25);
    let ahead = pair.a.client().offset();
    increment(&pair, 25);
    set(&mut b, MARK, &moved(&mark, ahead));
    pair.b.sidecar.start();
    exact(&pair, 300);
}

/// What stands in the self mark says which of the peer's writes were there when it was written.
#[test]
fn a_self_mark_that_is_edited_loses_nothing() {
    let (mut pair, _) = with_old_mark();
    let mut b = pair.b.client();
    let old: String = b.ask("GET tandem:self");
    for value in ["garbage", "", &old] {
        set(&mut b, "tandem:self", value);
    }
    exact(&pair, 200);
    pair.b.sidecar.kill();
    set(&mut b, "tandem:self", "garbage");
    increment(&pair, 50);
    pair.b.sidecar.start();
    exact(&pair, 310);
}

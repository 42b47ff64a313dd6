//! `[sync] acknowledge`: what a client's WAIT waits for.

use std::time::Duration;

use crate::harness::{Options, Pair};

/// A pair whose site a acknowledges to its Redis what this says.
fn with(acknowledge: &str) -> Pair {
    let mut pair = Pair::prepare(&Options::default());
    pair.a.sidecar.config.sync_extra = format!("acknowledge = \"{acknowledge}\"");
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair
}

#[test]
fn wait_ends_when_the_peer_has_applied_the_write() {
    let pair = with("peers");
    let (mut a, mut b) = pair.clients();
    for wire in [&pair.wire_a, &pair.wire_b] {
        wire.up().delay(Duration::from_millis(20));
        wire.down().delay(Duration::from_millis(20));
    }
    for round in 0..20 {
        a.run(&format!("SET k {round}"));
        assert_eq!(a.ask::<u64>("WAIT 1 20000"), 1);
        assert_eq!(b.ask::<u64>("GET k"), round);
    }
    a.run("MULTI");
    a.run("INCR n");
    a.run("SADD s 1 2 3");
    a.run("EXEC");
    assert_eq!(a.ask::<u64>("WAIT 1 20000"), 1);
    assert_eq!(b.ask::<u64>("SCARD s"), 3);

    // What has come from the peer is not waited for, nor is what does not travel.
    b.run("SET other 1");
    pair.settle();
    a.run("SET tandem:x 1");
    assert_eq!(a.ask::<u64>("WAIT 1 20000"), 1);

    pair.cut_link();
    a.run("SET k cut");
    assert_eq!(a.ask::<u64>("WAIT 1 300"), 0, "the peer cannot have it");
    pair.mend_link();
    assert_eq!(a.ask::<u64>("WAIT 1 20000"), 1);
    assert_eq!(b.ask::<String>("GET k"), "cut");
}

#[test]
fn wait_ends_when_a_write_is_in_the_journal() {
    let pair = with("journal");
    pair.cut_link();
    let mut a = pair.a.client();
    a.run("SET k 1");
    assert_eq!(a.ask::<u64>("WAIT 1 20000"), 1);
}

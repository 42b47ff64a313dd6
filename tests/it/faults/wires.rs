//! Links that come and go, work in one direction only, or carry little.

use std::time::Duration;

use super::{number, write_more};
use crate::harness::wait::let_pass;
use crate::harness::{Options, Pair, patience, wait_until};
use crate::resume::{judged, load_on};
use tandem::status::PeerState;

/// No copy was made because of the link, and it was not told line by line.
fn resumed_quietly(pair: &Pair, lines: usize) {
    for site in pair.sites() {
        let status = site.sidecar.status().expect("a status");
        let copied = &status.peers[0].copied;
        assert_eq!(copied.created + copied.overwritten, 0, "{status:#?}");
        assert_eq!(status.redis.resyncs_full, 1, "{status:#?}");
        let logged = site.sidecar.log().lines().count();
        assert!(logged < lines, "{logged} lines of log");
    }
}

/// How often a link comes and goes.
fn flaps() -> u64 {
    number("TANDEM_FLAPS", 20)
}

#[test]
fn a_flapping_link_is_resumed_each_time() {
    let pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for _ in 0..flaps() {
        pair.cut_link();
        let_pass(Duration::from_millis(150));
        pair.mend_link();
        let_pass(Duration::from_millis(150));
    }
    write_more(&pair, 10);
    judged(&pair, load, true);
    let lines = usize::try_from(flaps()).expect("a small number") * 8 + 40;
    resumed_quietly(&pair, lines);
}

/// What one direction loses both ends notice, and go on where they were.
fn one_direction(is_up: bool) {
    let pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    write_more(&pair, 5);
    let lane = if is_up {
        pair.wire_a.up()
    } else {
        pair.wire_a.down()
    };
    let sessions = |pair: &Pair| {
        let of = |index: usize| {
            pair.sites()[index]
                .sidecar
                .status()
                .map(|s| s.peers[0].sessions)
        };
        Ok::<_, String>((of(0)?, of(1)?))
    };
    let before = sessions(&pair).expect("a status");
    lane.swallow();
    for site in pair.sites() {
        wait_until("the link to be given up", patience(30), || {
            match site.peer_state()? {
                PeerState::Synchronizing => Err("it seems well".to_owned()),
                _ => Ok(()),
            }
        });
    }
    lane.pass();
    pair.wait_synchronizing();
    let after = sessions(&pair).expect("a status");
    assert!(after > before, "{before:?}, {after:?}");
    write_more(&pair, 5);
    judged(&pair, load, true);
    resumed_quietly(&pair, 100);
}

#[test]
fn a_link_that_loses_what_the_dialling_side_says_is_given_up() {
    one_direction(true);
}

#[test]
fn a_link_that_loses_what_the_other_side_says_is_given_up() {
    one_direction(false);
}

/// A direction that stands still is no reason to double anything when it moves again.
#[test]
fn a_link_that_stands_still_in_one_direction_only_delays() {
    let pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        for _ in 0..3 {
            lane.stall();
            let_pass(Duration::from_millis(800));
            lane.pass();
            write_more(&pair, 3);
        }
    }
    judged(&pair, load, true);
    resumed_quietly(&pair, 100);
}

#[test]
fn a_narrow_link_only_delays() {
    let pair = Pair::start(&Options::default());
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.throttle(30_000);
    }
    let load = load_on(&pair, 1);
    write_more(&pair, 40);
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.throttle(0);
    }
    judged(&pair, load, true);
    resumed_quietly(&pair, 100);
    let sessions = pair.a.sidecar.peer("b").expect("a peer").sessions;
    assert_eq!(sessions, 1, "a slow answer was taken for none");
}

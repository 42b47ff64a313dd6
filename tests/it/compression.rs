//! What travels compressed is what was sent, whatever happens to it on the way, and it is less.

use std::time::Duration;

use crate::harness::wait::let_pass;
use crate::harness::{Options, Pair, compare, patience};
use crate::resume::{judged, load_on};

/// Two sites, of which these compress what they send.
fn compressed(sites: [bool; 2]) -> Pair {
    let mut pair = Pair::prepare(&Options::default());
    for (site, compresses) in [&mut pair.a, &mut pair.b].into_iter().zip(sites) {
        if compresses {
            site.sidecar.config.link_extra = "compression = \"zstd\"".to_owned();
        }
    }
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair
}

/// The bytes of messages and those on the link that a site has sent.
fn sent(pair: &Pair) -> [(u64, u64); 2] {
    let [a, b] = pair.sites();
    [(a, "b"), (b, "a")].map(|(site, peer)| {
        let peer = site.sidecar.peer(peer).expect("a peer");
        (peer.message_bytes, peer.link_bytes)
    })
}

#[test]
fn a_load_with_cuts_and_kills_is_exact() {
    for sites in [[true, true], [true, false], [false, true]] {
        println!("{sites:?}");
        let mut pair = compressed(sites);
        let load = load_on(&pair, 1);
        for round in 0..4 {
            let_pass(Duration::from_millis(200));
            match round % 2 {
                0 => {
                    pair.cut_link();
                    let_pass(Duration::from_millis(100));
                    pair.mend_link();
                }
                _ => {
                    pair.b.sidecar.kill();
                    pair.b.sidecar.start();
                }
            }
        }
        judged(&pair, load, true);
    }
}

#[test]
fn documents_take_less_than_two_fifths() {
    let pair = compressed([true, false]);
    let (mut a, mut b) = pair.clients();
    for n in 0..2000 {
        let document = format!(
            "{{\"id\":{n},\"name\":\"user {n}\",\"mail\":\"user{n}@example.com\",\"visits\":{},\
             \"tags\":[\"reader\",\"group-{}\"],\"about\":\"{}\"}}",
            n * 7919 % 1000,
            n % 17,
            format!("{:x}", n * 2_654_435_761_u64).repeat(20)
        );
        for client in [&mut a, &mut b] {
            client.send(&["SET", &format!("user:{n}"), &document]);
        }
        // Not in one piece: what is compressed is what has gathered for a moment.
        if n % 20 == 0 {
            let_pass(Duration::from_millis(1));
        }
    }
    pair.settle();
    compare(&pair);
    let [(plain, packed), (other, raw)] = sent(&pair);
    println!("{packed} of {plain} bytes; {raw} of {other}");
    assert!(packed * 5 < plain * 2, "{packed} of {plain} bytes");
    assert_eq!(raw, other, "b sends as it is");
}

#[test]
fn flipped_bytes_are_never_applied() {
    let pair = compressed([true, true]);
    let (mut a, mut b) = pair.clients();
    for round in 0..10 {
        match round % 2 {
            0 => pair.wire_a.up().flip_a_byte(),
            _ => pair.wire_a.down().flip_a_byte(),
        }
        for _ in 0..10 {
            a.run("INCR n");
            b.run("INCR n");
            a.run("APPEND text 0123456789");
        }
        // A block whose size is wrong is noticed after a minute.
        pair.try_settle(patience(150)).expect("settled");
    }
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n"), 200);
    assert_eq!(b.ask::<String>("GET text"), "0123456789".repeat(100));
}

//! Where records go on: from what a Redis really has of others, when it comes back as it was some time ago, and from
//! places at which no record is.

use crate::harness::{Options, Pair, Site, compare, patience, wait_for};

/// The server is killed, and has what it had saved.
fn come_back(site: &mut Site) {
    site.server.restart();
    // What its file says of its history a server takes up, from 7.0 on.
    let texts = [
        "Redis has begun a new history",
        "Redis lacks writes",
        "another server",
    ];
    site.wait_for_log(&texts);
}

/// What is its own is all on the disk, and it knows so.
fn save(site: &Site) {
    let mut client = site.client();
    wait_for("the self mark", patience(10), || {
        client.ask::<bool>("EXISTS tandem:self")
    });
    client.run("SAVE");
}

#[test]
fn what_a_redis_has_lost_of_others_comes_again_also_where_its_sidecar_is_killed() {
    let mut pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    b.run("SET own v");
    pair.settle();
    save(&pair.b);
    (0..5).for_each(|_| drop(a.run("INCR n")));
    pair.settle();
    pair.cut_link();
    come_back(&mut pair.b);
    assert!(!pair.b.client().ask::<bool>("EXISTS n"));
    pair.b.sidecar.kill();
    pair.b.sidecar.start();
    pair.mend_link();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(a.ask::<u64>("GET n"), 5);
}

/// No full resync after a pause: also where what was said last was no record.
#[test]
fn a_link_that_is_cut_behind_a_conflict_goes_on_where_it_was() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    for round in 0..5 {
        pair.cut_link();
        a.run(&format!("SET k a{round}"));
        b.run(&format!("SET k b{round}"));
        pair.mend_link();
        pair.wait_synchronizing();
        pair.settle();
    }
    pair.cut_link();
    pair.mend_link();
    pair.wait_synchronizing();
    compare(&pair);
    for site in pair.sites() {
        assert!(
            !site.sidecar.log().contains("sending a copy"),
            "{}",
            site.name
        );
    }
}

//! Three sites of which one has lost everything: what it gets from one of the others while the copy of the other is
//! on its way.

use crate::gap::{SHORT, short};
use crate::harness::{Client, Mesh, Options, patience, wait_for, wait_until};
use crate::sites::{noise, wait_for_equal};

/// So many that a copy of them takes its time.
const LISTS: usize = 800;

/// Each of 20 lists gets the name of a site, there.
fn push_to_lists(clients: &mut [Client], number: usize) {
    let name = ["a", "b", "c"][number];
    for key in 0..20 {
        clients[number].run(&format!("RPUSH list:{key} {name}"));
    }
}

/// One site is refilled by the arbiter, and the copy of the other is on its way for long: what that one wrote
/// meanwhile the first two have, and the refilled one does not.
fn a_copy_that_is_late(lost: usize, other: usize) {
    let mut mesh = Mesh::start(3, &short(SHORT));
    let mut clients = mesh.clients();
    for key in 0..40 {
        clients[other].run(&format!("SET old:{key} {}", noise()));
    }
    mesh.settle();
    let (one, two) = (lost.min(other), lost.max(other));
    mesh.wire(one, two).cut();
    mesh.sites[lost].sidecar.kill();
    clients[lost].run("FLUSHDB");
    clients[lost].run(&format!("SET filler {}", noise().repeat(4)));
    mesh.sites[lost].sidecar.start();
    wait_for("a copy from the first site", patience(30), || {
        mesh.sites[0].sidecar.log().contains("sending a copy")
    });
    push_to_lists(&mut clients, other);
    wait_for_equal(&mesh, [0, other]);
    // The session with the second begins behind that, and its copy is on its way for long.
    let slow = mesh.wire(one, two);
    slow.mend();
    let from_other = if other < lost { slow.up() } else { slow.down() };
    from_other.throttle(10_000);
    wait_for("that copy", patience(30), || {
        let log = mesh.sites[lost].sidecar.log();
        log.contains("the copy is complete peer=a")
    });
    let (wire, written) = (mesh.wire(0, lost), ["a", "b", "c"][lost]);
    wire.up().stall();
    wire.down().stall();
    push_to_lists(&mut clients, lost);
    push_to_lists(&mut clients, 0);
    wire.mend();
    wait_for("what it has written", patience(10), || {
        let has = |key| {
            let list: Vec<String> = clients[0].ask(&format!("LRANGE list:{key} 0 -1"));
            list.iter().any(|name| name == written)
        };
        (0..20).all(has)
    });
    mesh.mend();
    mesh.wait_synchronizing();
    mesh.settle();
    mesh.compare();
    let lengths = (0..20).map(|key| clients[0].ask::<usize>(&format!("LLEN list:{key}")));
    assert_eq!(lengths.collect::<Vec<_>>(), [3; 20]);
}

#[test]
fn a_site_that_has_lost_its_marks_claims_nothing_before_its_copies() {
    a_copy_that_is_late(2, 1);
}

#[test]
fn a_site_in_the_middle_that_has_lost_its_marks_claims_nothing_before_its_copies() {
    a_copy_that_is_late(1, 2);
}

/// The second has lost everything, and begins to get it from the third; the link to that is cut. The copy of the
/// first waits: an older value would take the place of what has come, and of what that is nothing is known yet.
fn refilled_in_part() -> Mesh {
    let mut mesh = Mesh::start(3, &Options::default());
    let mut clients = mesh.clients();
    let mut push = |key, value: &str| drop(clients[2].run(&format!("RPUSH list:{key} {value}")));
    (0..LISTS).for_each(|key| push(key, &noise()));
    mesh.settle();
    mesh.cut_off(0);
    mesh.wire(1, 2).cut();
    // Of these the first site does not know.
    (0..LISTS).for_each(|key| push(key, "late"));
    mesh.sites[1].server.restart();
    mesh.wire(1, 2).mend();
    mesh.wire(1, 2).down().throttle(1_000_000);
    let mut second = mesh.sites[1].client();
    wait_for("a part of the copy", patience(30), || {
        second.ask::<usize>("DBSIZE") > LISTS / 2
    });
    mesh.wire(1, 2).cut();
    mesh.wire(0, 1).mend();
    wait_until("the copy of the first to wait", patience(30), || {
        let waiting = mesh.sites[1].sidecar.peer("a")?.waiting;
        let waits = waiting
            .as_ref()
            .is_some_and(|why| why.contains("the rest of the copy"));
        waits.then_some(()).ok_or_else(|| format!("{waiting:?}"))
    });
    mesh
}

#[test]
fn a_site_that_is_refilled_takes_no_other_copy_before_the_first_is_complete() {
    let mesh = refilled_in_part();
    mesh.mend();
    mesh.settle();
    mesh.compare();
    let mut first = mesh.sites[0].client();
    let lengths = (0..LISTS).map(|key| first.ask::<usize>(&format!("LLEN list:{key}")));
    assert_eq!(lengths.collect::<Vec<_>>(), [2; LISTS]);
}

#[test]
fn a_site_that_is_refilled_goes_on_without_one_that_is_removed() {
    let mut mesh = refilled_in_part();
    mesh.sites[2].sidecar.kill();
    for site in &mut mesh.sites[..2] {
        site.sidecar.kill();
        site.sidecar.config.peers.retain(|(name, _)| name != "c");
        site.sidecar.start();
    }
    wait_for_equal(&mesh, [0, 1]);
    let mut second = mesh.sites[1].client();
    assert!(second.ask::<usize>("DBSIZE") > LISTS);
}

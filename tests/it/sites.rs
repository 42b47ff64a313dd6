//! Three sites, each linked with each: what one writes all have, and one that is away holds up nobody.

use std::time::{Duration, Instant};

use crate::harness::{Mesh, Options, patience, wait_until};

/// How long one site is away, with clients writing at all.
const AWAY: Duration = Duration::from_secs(4);
/// More memory than a sidecar may need meanwhile, in KiB.
const MAX_MEMORY_KIB: u64 = 120 << 10;

#[test]
fn two_sites_go_on_while_the_third_is_away() {
    let mesh = Mesh::start(3, &Options::default());
    let mut clients = mesh.clients();
    clients[0].run("SET n 0");
    mesh.settle();
    mesh.cut_off(2);
    let (begun, mut written) = (Instant::now(), 0_u64);
    while begun.elapsed() < AWAY {
        for (number, client) in clients.iter_mut().enumerate() {
            client.run("INCR n");
            client.run(&format!("SET hot{number}:{} {written}", written % 7));
            client.run(&format!("RPUSH list{number} {written}"));
        }
        written += 1;
    }
    // What is written at one of the two is at the other long before the third is back.
    clients[0].run("SET last here");
    wait_until("the second site to have it", patience(5), || {
        let is: Option<String> = clients[1].ask("GET last");
        is.map(drop).ok_or_else(|| "not yet".to_owned())
    });
    wait_until("the two to be equal", patience(20), || {
        let found = mesh.differences(&[0, 1]);
        found
            .is_empty()
            .then_some(())
            .ok_or_else(|| found.join("\n"))
    });
    for site in &mesh.sites {
        let peak = site.sidecar.peak_memory_kib();
        assert!(peak < MAX_MEMORY_KIB, "{}: {peak} KiB", site.name);
    }
    mesh.mend();
    mesh.settle();
    mesh.compare();
    let sum: u64 = clients[2].ask("GET n");
    assert_eq!(sum, 3 * written, "increments");
    for site in &mesh.sites {
        let log = site.sidecar.log();
        assert!(
            !log.contains("receiving a copy"),
            "{} got a copy",
            site.name
        );
    }
}

#[test]
fn writes_of_every_type_travel_to_all() {
    let mesh = Mesh::start(3, &Options::default());
    for (number, client) in mesh.clients().iter_mut().enumerate() {
        for line in [
            "SET s{} v",
            "SET t{} v PX 5000000",
            "INCRBY n{} 5",
            "APPEND a{} x",
            "HSET h{} f 1 g 2",
            "HINCRBY h{} n 3",
            "RPUSH l{} a b c",
            "LPOP l{}",
            "SADD m{} a b",
            "ZADD z{} 1 a 2 b",
            "XADD x{} 1-1 f v",
            "PFADD p{} a b",
            "RENAME s{} r{}",
            "COPY r{} c{}",
            "DEL a{}",
            "SUNIONSTORE u{} m{}",
        ] {
            client.run(&line.replace("{}", &number.to_string()));
        }
    }
    mesh.settle();
    mesh.compare();
    let keys: u64 = mesh.sites[2].client().ask("DBSIZE");
    assert!(keys >= 33, "{keys} keys");
}

#[test]
fn increments_at_all_sites_add_up_and_no_state_is_sent() {
    const ROUNDS: u64 = 300;
    let mesh = Mesh::start(3, &Options::default());
    let mut clients = mesh.clients();
    for _ in 0..ROUNDS {
        for client in &mut clients {
            client.run("INCR n");
            client.run("HINCRBY h f 2");
            client.run("SADD s same");
        }
    }
    mesh.settle();
    mesh.compare();
    let count: u64 = mesh.sites[0].client().ask("GET n");
    assert_eq!(count, 3 * ROUNDS);
    assert_eq!(mesh.states_sent(), 0, "what commutes needs no mending");
}

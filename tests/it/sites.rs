//! Three sites, each linked with each: what one writes all have, and one that is away holds up nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::gap::{SHORT, short};
use crate::harness::pair::stopped;
use crate::harness::wait::let_pass;
use crate::harness::{Client, Mesh, Options, patience, wait_for, wait_until};
use crate::interrupted::has_read;

/// How long one site is away, with clients writing at all.
const AWAY: Duration = Duration::from_secs(4);
/// More memory than a sidecar may need meanwhile, in KiB.
const MAX_MEMORY_KIB: u64 = 120 << 10;

/// Waits until two of the sites are equal, while another is away.
pub(crate) fn wait_for_equal(mesh: &Mesh, two: [usize; 2]) {
    wait_until("the two to be equal", patience(30), || {
        match mesh.differences(&two) {
            found if found.is_empty() => Ok(()),
            found => Err(found.join("\n")),
        }
    });
}

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
    wait_for_equal(&mesh, [0, 1]);
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

/// Counts up at this server until told to stop; how often.
fn count(mut client: Client, stopping: &AtomicBool) -> u64 {
    let mut written = 0;
    while !stopping.load(Ordering::SeqCst) {
        client.run("INCR n");
        client.run(&format!("INCR n:{}", written % 50));
        written += 1;
        let_pass(Duration::from_millis(1));
    }
    written
}

/// Says that it is time to stop, also when a test has failed: those who are to stop are waited for.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_third_site_joins_two_that_are_written_to() {
    let mut mesh = Mesh::prepare(2, &Options::default());
    mesh.sites[0].client().run("DEBUG POPULATE 20000 old 100");
    mesh.start_all();
    mesh.wait_synchronizing();
    mesh.settle();
    let stopping = AtomicBool::new(false);
    let clients = mesh.clients();
    let written: u64 = thread::scope(|scope| {
        let _stop = Stop(&stopping);
        let clients = clients.into_iter();
        let counting = clients.map(|client| scope.spawn(|| count(client, &stopping)));
        let counting: Vec<_> = counting.collect();
        mesh.add(&Options::default());
        mesh.start_all();
        // A key that two sites write without a pause the third one has when they pause.
        wait_for("the copy to be complete", patience(60), || {
            mesh.sites[2].sidecar.log().contains("the copy is complete")
        });
        stopping.store(true, Ordering::SeqCst);
        let written = counting.into_iter().map(|c| c.join().expect("a client"));
        written.sum()
    });
    mesh.settle();
    mesh.compare();
    let mut joined = mesh.sites[2].client();
    assert_eq!(joined.ask::<u64>("GET n"), written, "increments");
    assert!(joined.ask::<u64>("DBSIZE") > 20_000);
    let copies = mesh.sites[2]
        .sidecar
        .log()
        .matches("receiving a copy")
        .count();
    assert_eq!(copies, 1, "from one of the two");
    // What it writes itself the others get, and what they do.
    for (number, client) in mesh.clients().iter_mut().enumerate() {
        client.run(&format!("SET by:{number} v"));
        client.run("INCR n");
    }
    mesh.settle();
    mesh.compare();
    assert_eq!(mesh.sites[1].client().ask::<u64>("GET n"), written + 3);
}

#[test]
fn a_site_that_comes_back_empty_gets_everything_again() {
    let mut mesh = Mesh::start(3, &Options::default());
    for (number, client) in mesh.clients().iter_mut().enumerate() {
        client.run("INCRBY n 5");
        client.run(&format!("RPUSH l{number} a b c"));
    }
    mesh.settle();
    mesh.sites[2].server.restart();
    mesh.wait_synchronizing();
    for client in &mut mesh.clients() {
        client.run("INCR n");
    }
    mesh.settle();
    mesh.compare();
    assert_eq!(mesh.sites[2].client().ask::<u64>("GET n"), 18);
}

/// What a sidecar says whose copy waits for what is to come back first.
const WAITS: &str = "a copy waits for what the Redis here has lost";

/// All three come to rest with the forty keys, and with so many others.
fn all_have_all(mesh: &Mesh, exist: &str, count: u64) {
    mesh.mend();
    mesh.wait_synchronizing();
    mesh.settle();
    mesh.compare();
    let mut clients = mesh.clients();
    assert_eq!(clients[2].ask::<Vec<String>>("KEYS key:*").len(), 40);
    assert_eq!(clients[0].ask::<u64>(exist), count);
}

#[test]
fn two_sites_that_come_back_empty_together_get_everything_again() {
    let mut mesh = Mesh::start(3, &Options::default());
    let mut clients = mesh.clients();
    clients[0].run("SET old v");
    mesh.settle();
    // What the second writes now the third has, and the first has not yet.
    mesh.cut_off(0);
    (0..40).for_each(|key| drop(clients[1].run(&format!("SET key:{key} v"))));
    wait_for_equal(&mesh, [1, 2]);
    for site in &mut mesh.sites[1..] {
        site.sidecar.kill();
        site.server.restart();
        site.client().run(&format!("SET new:{} v", site.name));
        site.sidecar.start();
    }
    mesh.sites[1].wait_for_log(&[WAITS, "sending a copy peer=c"]);
    // The first has a copy for the third before it has that of the second.
    mesh.wire(0, 2).mend();
    mesh.sites[2].wait_for_log(&["the copy is complete peer=a"]);
    all_have_all(&mesh, "EXISTS new:b new:c old", 3);
}

#[test]
fn a_site_that_comes_back_empty_while_a_copy_of_it_waits_sends_what_it_gets_back() {
    let mut mesh = Mesh::start(3, &Options::default());
    let mut clients = mesh.clients();
    clients[0].run("SET old v");
    mesh.settle();
    mesh.cut_off(0);
    // The copy to the third will wait for what only its journal has.
    mesh.wire(1, 2).down().stall();
    (0..10).for_each(|n| drop(clients[2].run(&format!("SET filler:{n} {}", noise()))));
    has_read(&mesh.sites[2]);
    mesh.sites[2].sidecar.kill();
    // What is on its way is lost, too.
    mesh.wire(1, 2).cut();
    mesh.sites[2].server.restart();
    mesh.sites[2].client().run("SET new v");
    // What that copy is to bring, and neither of the others has.
    (0..40).for_each(|key| drop(clients[1].run(&format!("SET key:{key} v"))));
    mesh.wire(1, 2).mend();
    mesh.wire(1, 2).down().throttle(20_000);
    mesh.sites[2].sidecar.start();
    mesh.sites[1].wait_for_log(&["a copy waits for what the Redis of c has lost"]);
    mesh.sites[1].server.restart();
    mesh.sites[1].client().run("SET newer v");
    mesh.wire(1, 2).mend();
    mesh.sites[1].wait_for_log(&[WAITS, "sending a copy peer=c"]);
    // The first has a copy for the third before it has all that the second has written.
    mesh.wire(0, 2).mend();
    mesh.sites[2].wait_for_log(&["the copy is complete peer=a"]);
    all_have_all(&mesh, "EXISTS old new newer filler:9", 4);
}

#[test]
fn a_site_with_data_of_its_own_is_not_merged_into_three() {
    let options = Options {
        existing: "overwrite",
        ..Options::default()
    };
    let mut mesh = Mesh::prepare(3, &options);
    for site in &mesh.sites {
        site.client().run(&format!("SET {} v", site.name));
    }
    mesh.start_all();
    wait_for("a stop", patience(30), || {
        let stop = stopped(&mesh.all());
        stop.is_some_and(|(_, stop)| stop.reason == "both_have_data")
    });
}

#[test]
fn while_the_first_site_is_away_the_others_end_equal_and_all_do_when_it_is_back() {
    let mesh = Mesh::start(3, &Options::default());
    let mut clients = mesh.clients();
    mesh.cut_off(0);
    wait_until("the first to be missed", patience(30), || {
        let missed = |number: usize| {
            let status = mesh.sites[number].sidecar.status()?;
            let peer = status.peers.iter().find(|peer| peer.site.as_str() == "a");
            Ok::<_, String>(peer.is_some_and(|peer| peer.error.is_some()))
        };
        match missed(1)? && missed(2)? {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });
    for round in 0..100 {
        for (number, client) in clients.iter_mut().enumerate() {
            for key in 0..20 {
                client.run(&format!("SET k:{key} {number}:{round}"));
                client.run(&format!("RPUSH l:{key} {number}:{round}"));
            }
        }
    }
    wait_for_equal(&mesh, [1, 2]);
    mesh.mend();
    mesh.settle();
    mesh.compare();
    let pushed: usize = clients[0].ask("LLEN l:0");
    assert_eq!(pushed, 300);
}

/// Sidecars of these sites are away for longer than the backlog of their servers reaches, while clients write
/// the same keys and others at all sites.
fn a_part_that_nobody_reads(away: &[usize]) {
    let mut mesh = Mesh::start(3, &short(SHORT));
    let mut clients = mesh.clients();
    for key in 0..40 {
        clients[0].run(&format!("SET old:{key} v"));
        clients[1].run(&format!("RPUSH list:{key} v"));
    }
    mesh.settle();
    for number in away {
        mesh.sites[*number].sidecar.kill();
    }
    for (number, client) in clients.iter_mut().enumerate() {
        for key in 0..40 {
            match (key + number) % 4 {
                0 => client.run(&format!("SET old:{key} {number}")),
                1 => client.run(&format!("RPUSH list:{key} {number}")),
                2 => client.run(&format!("SET new:{key} {number}")),
                _ => client.run(&format!("DEL old:{key} list:{}", key / 2)),
            };
            client.run(&format!("SET only:{number}:{key} v"));
        }
        for n in 0..200 {
            client.run(&format!("SET filler:{n} {}", "x".repeat(200)));
        }
    }
    let others: Vec<usize> = (0..3).filter(|number| !away.contains(number)).collect();
    wait_for_equal(&mesh, [others[0], *others.last().unwrap()]);
    for number in away {
        mesh.sites[*number].sidecar.start();
    }
    mesh.wait_synchronizing();
    mesh.settle();
    mesh.compare();
    let copied = mesh.sites.iter().map(|site| site.sidecar.log());
    let copied = copied
        .filter(|log| log.contains("receiving a copy"))
        .count();
    assert!(copied >= 2, "{copied} sites got copies");
    assert_eq!(clients[0].ask::<Vec<String>>("KEYS only:*").len(), 120);
}

#[test]
fn what_nobody_reads_at_one_site_reaches_all_others() {
    (0..3).for_each(|number| a_part_that_nobody_reads(&[number]));
}

/// Nobody reads that a client of site `lost` removes the marks and writes on. What it has comes to site `late`
/// by a copy, before a flush that it had seen does.
fn a_flush_that_comes_behind_a_copy([lost, flushes, late]: [usize; 3]) {
    let mut mesh = Mesh::start(3, &short(SHORT));
    let mut clients = mesh.clients();
    clients[0].run("SET old v");
    mesh.settle();
    let wire = mesh.wire(flushes.min(late), flushes.max(late));
    wire.up().stall();
    wire.down().stall();
    clients[flushes].run("FLUSHDB");
    wait_for("the flush", patience(10), || {
        clients[lost].ask::<u64>("EXISTS old") == 0
    });
    mesh.sites[lost].sidecar.kill();
    clients[lost].run("FLUSHDB");
    (0..40).for_each(|key| drop(clients[lost].run(&format!("SET key:{key} v"))));
    clients[lost].run(&format!("SET filler {}", "x".repeat(40_000)));
    mesh.sites[lost].sidecar.start();
    wait_for("the copy", patience(30), || {
        clients[late].ask::<u64>("EXISTS key:39") == 1
    });
    mesh.mend();
    mesh.wait_synchronizing();
    mesh.settle();
    mesh.compare();
    assert_eq!(clients[0].ask::<Vec<String>>("KEYS key:*").len(), 40);
}

#[test]
fn what_nobody_reads_and_a_late_flush_end_equal() {
    for sites in [[0, 2, 1], [1, 2, 0], [1, 0, 2]] {
        a_flush_that_comes_behind_a_copy(sites);
    }
}

/// Half random, so that it takes its time on a slow link.
pub(crate) fn noise() -> String {
    let numbers = (0..600).map(|_| rand::random::<u64>());
    numbers.map(|number| format!("{number:016x}")).collect()
}

#[test]
fn what_nobody_reads_at_two_sites_reaches_all() {
    for away in [[0, 1], [0, 2], [1, 2]] {
        a_part_that_nobody_reads(&away);
    }
}

/// A Redis that clients have emptied while nobody read holds no mark, and nothing that would say why.
#[test]
fn a_flush_of_everything_that_nobody_reads_does_not_make_strangers() {
    for (count, writes) in [(2, false), (3, false), (2, true), (3, true)] {
        println!("{count} sites, {writes}");
        let mut mesh = Mesh::prepare(count, &short(SHORT));
        let mut clients = mesh.clients();
        // What is not in its journal a site cannot send from the beginning.
        clients[1].run("SET before v");
        mesh.start_all();
        mesh.wait_synchronizing();
        clients
            .iter_mut()
            .for_each(|client| drop(client.run("INCR n")));
        mesh.settle();
        mesh.sites[0].sidecar.kill();
        clients[0].run(&format!("SET filler {}", "x".repeat(40_000)));
        clients[0].run("FLUSHALL");
        clients[1].run("INCR n");
        if writes {
            clients[0].run("SET after v");
        }
        mesh.sites[0].sidecar.start();
        mesh.wait_synchronizing();
        mesh.settle();
        mesh.compare();
        assert_eq!(clients[0].ask::<usize>("GET n"), count + 1);
        assert!(clients[1].ask::<bool>("EXISTS before"));
        assert_eq!(clients[1].ask::<bool>("EXISTS after"), writes);
    }
}

#[test]
fn five_sites_that_write_the_same_keys_end_equal() {
    const ROUNDS: usize = 60;
    let mesh = Mesh::start(5, &Options::default());
    let mut clients = mesh.clients();
    for round in 0..ROUNDS {
        for (number, client) in clients.iter_mut().enumerate() {
            let value = format!("{number}:{round}");
            client.run(&format!("SET s:{} {value}", round % 7));
            client.run(&format!("HSET h f{} {value}", round % 5));
            client.run(&format!("RPUSH l:{} {value}", round % 3));
            client.run(&format!("SADD t {value}"));
            client.run(&format!("SET short:{} {value} PX 500000", round % 3));
            client.run(&format!("COPY s:{} copy REPLACE", round % 7));
            client.run(&format!("DEL d:{} short:{}", round % 3, round % 4));
            client.run(&format!("ZADD z {round} m{}", round % 9));
            client.run("INCR n");
        }
    }
    mesh.settle();
    mesh.compare();
    assert_eq!(clients[4].ask::<usize>("GET n"), 5 * ROUNDS);
    assert_eq!(clients[3].ask::<usize>("SCARD t"), 5 * ROUNDS);
    let pushed = (0..3).map(|key| clients[2].ask::<usize>(&format!("LLEN l:{key}")));
    assert_eq!(pushed.sum::<usize>(), 5 * ROUNDS);
}

#[test]
fn an_effect_never_arrives_before_its_cause() {
    const ROUNDS: u64 = 25;
    let mesh = Mesh::start(3, &Options::default());
    let slow = mesh.wire(0, 2);
    for lane in [slow.up(), slow.down()] {
        lane.delay(Duration::from_millis(150));
    }
    let stopping = AtomicBool::new(false);
    let mut watching = mesh.sites[2].client();
    let seen = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Vec::new();
            while !stopping.load(Ordering::SeqCst) {
                let (effect, cause): (Option<u64>, Option<u64>) = watching.ask("MGET effect cause");
                seen.push((effect.unwrap_or(0), cause.unwrap_or(0)));
            }
            seen
        });
        let [mut a, mut b, mut c] = mesh.clients().try_into().ok().expect("three clients");
        for round in 1..=ROUNDS {
            a.run(&format!("SET cause {round}"));
            wait_for("the cause", patience(10), || {
                b.ask::<Option<u64>>("GET cause") == Some(round)
            });
            b.run(&format!("SET effect {round}"));
        }
        wait_for("the last effect", patience(20), || {
            c.ask::<Option<u64>>("GET effect") == Some(ROUNDS)
        });
        stopping.store(true, Ordering::SeqCst);
        watcher.join().expect("the watcher")
    });
    let early = seen.iter().find(|(effect, cause)| effect > cause);
    assert_eq!(early, None, "of {} looks", seen.len());
    mesh.settle();
    mesh.compare();
}

//! Whatever dies, and whenever: nothing acknowledged is lost, nothing is applied twice.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use tandem::status::PeerState;

use crate::harness::load::{self, Load};
use crate::harness::wait::let_pass;
use crate::harness::{
    Interposer, Options, Pair, Verdict, compare, patience, rng_from_seed, wait_for, wait_until,
};

/// Servers that have on disk what they acknowledged.
const DURABLE: &[&str] = &["appendonly yes", "appendfsync always"];

pub(crate) fn durable() -> Options {
    Options {
        servers: DURABLE,
        ..Options::default()
    }
}

/// A client at each site, writing about so often.
pub(crate) fn load_on(pair: &Pair, pause_ms: u64) -> Load {
    let sites = pair.sites().map(|s| (s.name, s.server.port()));
    Load::start(&sites, Duration::from_millis(pause_ms), 1)
}

/// Ends the load, lets everything settle, and judges. Exact says that no answer can be missing.
pub(crate) fn judged(pair: &Pair, load: Load, is_exact: bool) {
    let tallies = load.finish();
    pair.wait_synchronizing();
    pair.settle();
    compare(pair);
    for site in pair.sites() {
        load::check(&tallies, &mut site.client());
    }
    for tally in &tallies {
        let (sure, unsure) = (tally.acknowledged(), tally.unknown());
        println!("{sure} writes acknowledged, {unsure} without an answer");
        assert!(sure > 100, "hardly any load");
        assert!(!is_exact || unsure == 0);
    }
    pair.no_echo();
}

#[test]
fn killed_sidecars_lose_and_double_nothing() {
    let mut pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for round in 0..6 {
        let_pass(Duration::from_millis(300));
        let site = if round % 2 == 0 {
            &mut pair.a
        } else {
            &mut pair.b
        };
        site.sidecar.kill();
        let_pass(Duration::from_millis(100));
        site.sidecar.start();
        pair.wait_synchronizing();
        for site in pair.sites() {
            let status = site.sidecar.status().unwrap();
            let copied = &status.peers[0].copied;
            assert_eq!(
                copied.created + copied.overwritten,
                0,
                "no full sync: {status:#?}"
            );
        }
    }
    judged(&pair, load, true);
    for site in pair.sites() {
        let redis = site.sidecar.status().unwrap().redis;
        assert_eq!(
            redis.resyncs_full, 0,
            "a restart needs no full resync: {redis:#?}"
        );
        assert!(redis.resyncs_partial >= 1, "{redis:#?}");
    }
}

#[test]
fn both_sidecars_killed_at_once_lose_and_double_nothing() {
    let mut pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for _ in 0..3 {
        let_pass(Duration::from_millis(400));
        pair.a.sidecar.kill();
        pair.b.sidecar.kill();
        let_pass(Duration::from_millis(200));
        pair.start_sidecars();
        pair.wait_synchronizing();
    }
    judged(&pair, load, true);
}

#[test]
fn killed_servers_lose_and_double_nothing() {
    let mut pair = Pair::start(&durable());
    let load = load_on(&pair, 1);
    for round in 0..4 {
        let_pass(Duration::from_millis(400));
        let site = if round % 2 == 0 {
            &mut pair.a
        } else {
            &mut pair.b
        };
        site.server.kill();
        let_pass(Duration::from_millis(200));
        site.server.restart();
        pair.wait_synchronizing();
    }
    judged(&pair, load, false);
}

#[test]
fn kills() {
    let rounds: u32 =
        env::var("TANDEM_KILLS").map_or(8, |text| text.parse().expect("TANDEM_KILLS is a number"));
    let mut rng = rng_from_seed("kills");
    let mut pair = Pair::start(&durable());
    let load = load_on(&pair, 1);
    for round in 0..rounds {
        let_pass(Duration::from_millis(rng.random_range(20..900)));
        let victim = rng.random_range(0..4);
        let pause = Duration::from_millis(rng.random_range(0..500));
        println!("round {round}: victim {victim}, dead for {pause:?}");
        let site = if victim % 2 == 0 {
            &mut pair.a
        } else {
            &mut pair.b
        };
        if victim < 2 {
            site.sidecar.kill();
            let_pass(pause);
            site.sidecar.start();
        } else {
            site.server.kill();
            let_pass(pause);
            site.server.restart();
        }
        // Sometimes the next one dies before all is well again; but not after a server: what both
        // servers executed while nobody read them cannot be told apart.
        if victim >= 2 || rng.random_bool(0.7) {
            pair.wait_synchronizing();
        }
    }
    judged(&pair, load, false);
}

/// What a Redis says of itself while it loads an append-only file: that it has none.
const LOADING: &str = "redis_version:7.0.15\r\nrole:master\r\nloading:1\r\naof_enabled:0\r\n";

#[test]
fn a_server_is_not_judged_by_what_it_says_while_it_loads() {
    let mut pair = Pair::prepare(&durable());
    let answers = Arc::new(AtomicU64::new(0));
    let left = Arc::clone(&answers);
    let man = Interposer::to(pair.a.server.port(), move |args| {
        let is_loading = |n: u64| n.checked_sub(1);
        let asks = args[0] == b"INFO";
        if asks
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_loading)
                .is_ok()
        {
            Verdict::Reply(format!("${}\r\n{LOADING}\r\n", LOADING.len()).into())
        } else {
            Verdict::Forward
        }
    });
    pair.a.sidecar.config.redis_port = man.port();
    pair.start_sidecars();
    pair.wait_synchronizing();
    let (mut a, mut b) = pair.clients();
    a.run("INCR n");
    b.run("INCR n");
    pair.settle();
    // Acknowledged to the client and on the disk, but nobody has read it.
    pair.a.sidecar.signal("STOP");
    for _ in 0..50 {
        a.run("INCR n");
    }
    pair.a.server.kill();
    answers.store(6, Ordering::SeqCst);
    pair.a.sidecar.signal("CONT");
    pair.a.server.restart();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n"), 52);
}

#[test]
fn a_cut_link_loses_and_doubles_nothing() {
    let pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    let wire = &pair.wire_a;
    for round in 0..6 {
        let_pass(Duration::from_millis(300));
        match round % 3 {
            0 => wire.cut_once(),
            1 => wire.up().truncate_after(777),
            _ => wire.down().truncate_after(555),
        }
        let_pass(Duration::from_millis(300));
        wire.mend();
    }
    wire.cut();
    let_pass(Duration::from_secs(2));
    wire.mend();
    judged(&pair, load, true);
    for site in pair.sites() {
        let peer = &site.sidecar.status().unwrap().peers[0];
        assert!(peer.sessions >= 3, "{peer:#?}");
        assert_eq!(peer.copied.created, 0, "no full sync: {peer:#?}");
    }
}

#[test]
fn a_half_open_link_is_noticed() {
    let pair = Pair::start(&Options::default());
    pair.a.client().run("INCR n");
    pair.settle();
    let wire = &pair.wire_a;
    wire.up().swallow();
    wire.down().swallow();
    for site in pair.sites() {
        wait_until("the dead link to be noticed", patience(20), || {
            match site.peer_state()? {
                PeerState::Synchronizing => Err("it seems well".to_owned()),
                _ => Ok(()),
            }
        });
    }
    pair.a.client().run("INCR n");
    pair.b.client().run("INCR n");
    wire.cut_once();
    wire.mend();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(pair.a.client().ask::<u64>("GET n"), 3);
}

/// TCP does not do that, but what stands between two sites may: whole portions are missing, and what
/// follows is as good as ever.
#[test]
fn what_is_missing_in_the_middle_of_a_link_is_noticed() {
    let pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        for _ in 0..5 {
            lane.swallow();
            let_pass(Duration::from_millis(100));
            lane.pass();
            pair.wait_synchronizing();
        }
    }
    judged(&pair, load, true);
    assert!(pair.a.sidecar.peer("b").unwrap().sessions > 1);
}

#[test]
fn a_slow_link_only_delays() {
    let pair = Pair::start(&Options::default());
    for lane in [pair.wire_a.up(), pair.wire_a.down()] {
        lane.delay(Duration::from_millis(100));
    }
    let load = load_on(&pair, 1);
    let_pass(Duration::from_secs(3));
    judged(&pair, load, true);
    let round_trip = pair.a.sidecar.peer("b").unwrap().round_trip_seconds;
    assert!(round_trip.is_some_and(|s| s >= 0.2), "{round_trip:?}");
}

#[test]
fn cut_connections_to_redis_lose_and_double_nothing() {
    let pair = Pair::start(&Options {
        redis_proxies: true,
        ..Options::default()
    });
    let load = load_on(&pair, 1);
    for round in 0..8 {
        let_pass(Duration::from_millis(250));
        let site = pair.sites()[round % 2];
        let proxy = site.redis_proxy.as_ref().unwrap();
        match round / 2 % 3 {
            0 => proxy.cut_once(),
            1 => proxy.down().truncate_after(300),
            _ => proxy.up().truncate_after(300),
        }
        let_pass(Duration::from_millis(250));
        proxy.mend();
    }
    judged(&pair, load, true);
}

#[test]
fn a_lost_reply_of_exec_is_looked_up_and_not_guessed() {
    let mut pair = Pair::prepare(&Options::default());
    let executed = AtomicU64::new(0);
    let man = Interposer::to(pair.b.server.port(), move |args| {
        let is_exec = args[0].eq_ignore_ascii_case(b"EXEC");
        if is_exec && executed.fetch_add(1, Ordering::SeqCst) % 15 == 14 {
            Verdict::LoseReply
        } else {
            Verdict::Forward
        }
    });
    pair.b.sidecar.config.redis_port = man.port();
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    let_pass(Duration::from_secs(4));
    judged(&pair, load, true);
}

#[test]
fn what_was_written_while_a_sidecar_was_away_arrives() {
    let mut pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    a.run("SET deleted 1");
    pair.settle();
    pair.a.sidecar.kill();
    for n in 0..500 {
        a.run("INCR n");
        b.run("INCR n");
        a.run(&format!("RPUSH list {n}"));
        b.run(&format!("HSET hash {n} 1"));
    }
    a.run("DEL deleted");
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(a.ask::<u64>("GET n"), 1000);
    assert_eq!(b.ask::<u64>("LLEN list"), 500);
    assert_eq!(b.ask::<u64>("EXISTS deleted"), 0);
}

#[test]
fn what_was_applied_while_the_stream_was_away_is_not_applied_again() {
    let mut pair = Pair::prepare(&Options {
        servers: &["repl-backlog-size 16kb"],
        ..Options::default()
    });
    let is_away = Arc::new(AtomicBool::new(false));
    let refuses = Arc::clone(&is_away);
    let man = Interposer::to(pair.a.server.port(), move |args| {
        if args[0] == b"PSYNC" && refuses.load(Ordering::SeqCst) {
            Verdict::ReplyAndClose(b"-ERR not now\r\n".to_vec())
        } else {
            Verdict::Forward
        }
    });
    pair.a.sidecar.config.redis_port = man.port();
    pair.start_sidecars();
    pair.wait_synchronizing();
    let load = load_on(&pair, 1);
    for _ in 0..3 {
        let_pass(Duration::from_millis(300));
        is_away.store(true, Ordering::SeqCst);
        pair.a.client().run("CLIENT KILL TYPE replica");
        // The applier goes on; the stream grows beyond the backlog.
        let_pass(Duration::from_millis(300));
        pair.a
            .client()
            .run(&format!("SET filler {}", "x".repeat(40_000)));
        is_away.store(false, Ordering::SeqCst);
        pair.wait_synchronizing();
    }
    judged(&pair, load, true);
    let redis = pair.a.sidecar.status().unwrap().redis;
    assert!(redis.resyncs_full >= 3, "{redis:#?}");
}

#[test]
fn sigterm_ends_a_sidecar_in_good_order() {
    let mut pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    let_pass(Duration::from_millis(500));
    for round in 0..4 {
        let site = if round % 2 == 0 {
            &mut pair.a
        } else {
            &mut pair.b
        };
        let (status, time) = site.sidecar.terminate();
        assert_eq!(status.code(), Some(0), "{}", site.sidecar.log_tail());
        assert!(time < patience(10), "{time:?}");
        site.sidecar.start();
        pair.wait_synchronizing();
    }
    judged(&pair, load, true);
}

#[test]
fn sigterm_ends_a_sidecar_that_has_nobody_to_talk_to() {
    let mut pair = Pair::start(&Options::default());
    pair.cut_link();
    pair.b.server.kill();
    pair.a.client().run("INCR n");
    for site in [&mut pair.a, &mut pair.b] {
        let (status, time) = site.sidecar.terminate();
        assert_eq!(status.code(), Some(0), "{}", site.sidecar.log_tail());
        assert!(time < patience(10), "{time:?}");
    }
}

#[test]
fn a_sidecar_that_was_stopped_for_a_while_doubles_nothing() {
    let pair = Pair::start(&Options::default());
    let load = load_on(&pair, 1);
    for site in pair.sites() {
        let_pass(Duration::from_millis(300));
        site.sidecar.signal("STOP");
        let_pass(Duration::from_secs(2));
        site.sidecar.signal("CONT");
    }
    judged(&pair, load, true);
}

#[test]
fn a_server_shuts_down_without_waiting_for_its_sidecar() {
    let mut pair = Pair::start(&Options::default());
    for n in 0..200 {
        pair.a.client().run(&format!("SET k:{n} v"));
    }
    let time = pair.a.server.shutdown("NOSAVE");
    assert!(time < Duration::from_secs(3), "it took {time:?}");

    // Not even when the peer is away and nothing can be applied there.
    pair.cut_link();
    for n in 0..200 {
        pair.b.client().run(&format!("SET k:{n} v"));
    }
    let time = pair.b.server.shutdown("NOSAVE");
    assert!(time < Duration::from_secs(3), "it took {time:?}");
}

#[test]
fn an_empty_server_is_refilled_from_its_peer() {
    let mut pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    for n in 0..500 {
        a.run(&format!("SET a:{n} v"));
        b.run(&format!("SET b:{n} v"));
    }
    pair.settle();
    // It has no persistence: it comes back with nothing.
    pair.a.server.kill();
    b.run("SET meanwhile 1");
    pair.a.server.restart();
    wait_until("the keys to be back", patience(60), || {
        let keys: u64 = pair.a.client().ask("DBSIZE");
        if keys >= 1001 {
            Ok(())
        } else {
            Err(format!("{keys} keys; {:#?}", pair.a.sidecar.status()))
        }
    });
    pair.wait_synchronizing();
    pair.a.client().run("SET after 1");
    pair.settle();
    assert_eq!(compare(&pair), 1002);
    pair.no_echo();
}

#[test]
fn a_server_that_lost_its_last_writes_gets_them_back() {
    let mut pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    a.run("SET early 1");
    // A snapshot for the sidecar may be under way.
    wait_until("SAVE", patience(10), || {
        let saved = a.try_run("SAVE");
        saved.map(drop).map_err(|e| e.to_string())
    });
    for n in 0..100 {
        a.run(&format!("SET late:{n} v"));
        a.run("INCR n");
        b.run("INCR n");
    }
    pair.settle();
    pair.a.server.kill();
    pair.a.server.restart();
    wait_until("the lost writes to be back", patience(60), || {
        let value: Option<u64> = pair.a.client().ask("GET n");
        if value == Some(200) {
            Ok(())
        } else {
            Err(format!("n is {value:?}; {:#?}", pair.a.sidecar.status()))
        }
    });
    pair.wait_synchronizing();
    pair.a.client().run("INCR n");
    pair.b.client().run("INCR n");
    pair.settle();
    compare(&pair);
    assert_eq!(pair.b.client().ask::<u64>("GET n"), 202);
    assert_eq!(pair.b.client().ask::<u64>("EXISTS early late:0 late:99"), 3);
}

#[test]
fn a_server_restarted_from_its_snapshot_goes_on() {
    let mut pair = Pair::start(&durable());
    let (mut a, mut b) = pair.clients();
    for _ in 0..100 {
        a.run("INCR n");
        b.run("INCR n");
    }
    pair.settle();
    let time = pair.a.server.shutdown("SAVE");
    assert!(time < Duration::from_secs(5), "{time:?}");
    for _ in 0..100 {
        b.run("INCR n");
    }
    pair.a.server.restart();
    pair.wait_synchronizing();
    pair.a.client().run("INCR n");
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n"), 301);
    pair.no_echo();
}

#[test]
fn a_peer_without_memory_is_waited_for() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    a.run("SET k v");
    pair.settle();
    b.run("CONFIG SET maxmemory 1mb");
    for n in 0..100 {
        a.run("INCR n");
        a.run(&format!("SET filler:{n} {}", "x".repeat(1000)));
        a.run("DEL k");
    }
    wait_until("the reason to be told", patience(20), || {
        let peer = pair.b.sidecar.peer("a")?;
        match &peer.waiting {
            Some(reason) if reason.contains("OOM") => Ok(()),
            _ => Err(format!("{peer:#?}")),
        }
    });
    assert!(b.ask::<Option<u64>>("GET n").unwrap_or(0) < 100);
    b.run("CONFIG SET maxmemory 0");
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n"), 100);
    let peer = pair.b.sidecar.peer("a").unwrap();
    assert_eq!((peer.waiting, peer.failed_commands), (None, 0));
}

#[test]
fn a_lag_is_told_and_ends() {
    let pair = Pair::start(&Options::default());
    pair.cut_link();
    let mut a = pair.a.client();
    for n in 0..100 {
        a.run(&format!("SET k:{n} v"));
    }
    wait_until("the lag to be told", patience(20), || {
        let status = pair.a.sidecar.status()?;
        let peer = &status.peers[0];
        let told = peer.lag_bytes > 1000 && peer.lag_seconds > 0.5 && !status.settled;
        if told {
            Ok(())
        } else {
            Err(format!("{peer:#?}"))
        }
    });
    pair.mend_link();
    pair.settle();
    let peer = pair.a.sidecar.peer("b").unwrap();
    assert_eq!(peer.lag_bytes, 0, "{peer:#?}");
    assert!(peer.lag_seconds < 0.1, "{peer:#?}");
    wait_for("b to have everything", patience(5), || {
        pair.b.client().ask::<u64>("EXISTS k:0 k:99") == 2
    });
}

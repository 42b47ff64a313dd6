//! The harness judged: a judge that cannot say no proves nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::compare::differences;
use crate::harness::load::{self, Load};
use crate::harness::{
    FaultProxy, Interposer, Server, Tap, Verdict, patience, wait_for, wait_until,
};

#[test]
fn the_compare_sees_every_kind_of_difference() {
    let (left, right) = (Server::start(&[]), Server::start(&[]));
    let (mut a, mut b) = (left.client(), right.client());
    let differing: &[(&str, &str)] = &[
        ("SET string 1", "SET string 2"),
        ("SET missing 1", "PING"),
        ("SET type 1", "RPUSH type 1"),
        ("SET ttl 1 EX 100", "SET ttl 1 EX 110"),
        ("SET persistent 1 EX 100", "SET persistent 1"),
        ("RPUSH list 1 2", "RPUSH list 2 1"),
        ("SADD set 1 2", "SADD set 1 3"),
        ("ZADD zset 1 m", "ZADD zset 1.5 m"),
        ("HSET hash f 1", "HSET hash g 1"),
        ("XADD stream 1-1 f 1", "XADD stream 1-2 f 1"),
        ("PFADD hll 1 2", "PFADD hll 1 3"),
    ];
    let equal: &[&str] = &[
        "SADD equal:set c b a",
        "HSET equal:hash f 1 g 2",
        "SET equal:ttl 1 EX 100",
        "ZADD equal:zset 1 m 2 n",
        "XADD equal:stream 1-1 f 1",
        "XGROUP CREATE equal:stream g 0",
        "XREADGROUP GROUP g c STREAMS equal:stream >",
        "SET \\x00\\xff\\r\\n binary",
    ];
    for (here, there) in differing {
        a.run(here);
        b.run(there);
    }
    for line in equal {
        a.run(line);
        b.run(line);
    }
    b.run("SET tandem:self bookkeeping");
    a.run("SELECT 7");
    a.run("SET elsewhere 1");
    let (keys, found) = differences(&mut a, &mut b);
    assert_eq!(found.len(), differing.len() + 1, "{found:#?}");
    assert_eq!(keys, differing.len() + 6 + 1);
    for name in [
        "string",
        "missing",
        "type",
        "ttl",
        "persistent",
        "elsewhere",
    ] {
        assert!(
            found.iter().any(|d| d.to_string().contains(name)),
            "{name}: {found:#?}"
        );
    }
}

#[test]
fn a_proxy_passes_cuts_delays_and_swallows() {
    let server = Server::start(&[]);
    let proxy = FaultProxy::to(server.port());
    let ask = |stream: &mut TcpStream| -> Option<Duration> {
        let start = Instant::now();
        stream.write_all(b"PING\r\n").ok()?;
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).ok()?;
        assert_eq!(&reply, b"+PONG\r\n");
        Some(start.elapsed())
    };
    let dial = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        let timeout = Some(Duration::from_millis(700));
        stream.set_read_timeout(timeout).unwrap();
        stream
    };

    let mut first = dial();
    assert!(ask(&mut first).is_some());
    proxy.cut_once();
    assert!(ask(&mut first).is_none());
    let mut second = dial();
    assert!(ask(&mut second).is_some());
    proxy.down().delay(Duration::from_millis(300));
    assert!(ask(&mut second).unwrap() >= Duration::from_millis(300));
    proxy.down().pass();
    proxy.down().swallow();
    assert!(ask(&mut second).is_none());
    proxy.mend();
    let mut third = dial();
    proxy.down().truncate_after(3);
    assert!(ask(&mut third).is_none());
    let mut fourth = dial();
    assert!(ask(&mut fourth).is_some());
    proxy.up().flip_a_byte();
    fourth.write_all(b"PING\r\n").unwrap();
    let mut reply = [0; 4];
    fourth.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"-ERR");
    fourth = dial();
    proxy.up().stall();
    assert!(ask(&mut fourth).is_none());
    proxy.mend();
    proxy.cut();
    assert!(ask(&mut dial()).is_none());
    assert_eq!(proxy.accepted(), 5);
}

#[test]
fn an_interposer_answers_and_loses_replies() {
    let server = Server::start(&[]);
    let man = Interposer::to(server.port(), |args| match args[0].as_slice() {
        b"INFO" => Verdict::Reply(b"+nothing\r\n".to_vec()),
        b"INCR" => Verdict::LoseReply,
        _ => Verdict::Forward,
    });
    let mut through = crate::harness::Client::connect(man.port());
    assert_eq!(through.ask::<String>("INFO"), "nothing");
    through.run("SET n 1");
    assert!(through.try_run("incr n").is_err());
    assert_eq!(server.client().ask::<u64>("GET n"), 2);
}

#[test]
fn a_tap_reads_what_enters_the_stream() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.run("SET before 1");
    let tap = Tap::on(server.port());
    client.run("incr n");
    client.run("SET tandem:from:x 1");
    client.run("DEL nothing");
    client.run("SET after 1");
    wait_for("the stream", patience(10), || tap.count("SET after") == 1);
    assert_eq!(tap.content(), ["incr n", "SET after 1"]);
}

#[test]
fn a_server_keeps_its_promise_to_the_load_when_it_is_killed() {
    let mut server = Server::start(&["appendonly yes", "appendfsync always"]);
    let load = Load::start(&[("a", server.port())], Duration::from_millis(1), 1);
    for round in 1..=2 {
        let mut client = server.client();
        wait_for("some writes", patience(20), || {
            client.info_number("stats", "total_commands_processed") > 100 * round
        });
        server.kill();
        server.restart();
    }
    let tallies = load.finish();
    assert!(
        tallies[0].acknowledged() > 50,
        "{}",
        tallies[0].acknowledged()
    );
    load::check(&tallies, &mut server.client());

    // And the judge notices a loss.
    server.client().run("RPOP list:a");
    let judged = std::panic::catch_unwind(|| load::check(&tallies, &mut server.client()));
    assert!(judged.is_err());
}

#[test]
fn a_server_that_dies_is_named_at_once_with_the_end_of_its_log() {
    let server = Server::start(&[]);
    let mut client = server.client();
    drop(client.try_run("DEBUG SEGFAULT"));
    let said = wait_until("the death to be noticed", patience(30), || {
        let looked = std::panic::catch_unwind(|| server.expect_alive());
        let death = looked.err().ok_or("it is alive")?;
        Ok(*death.downcast::<String>().expect("a text"))
    });
    assert!(said.contains("has ended"), "{said}");
    assert!(said.contains("crashed by signal"), "{said}");
    assert!(said.contains(&server.port().to_string()), "{said}");
}

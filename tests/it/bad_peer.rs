//! Wrong peers, strangers, and two sidecars where one should be: each is named, and nothing breaks.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tandem::status::PeerState;

use crate::harness::fault::listen;
use crate::harness::ports::free_port;
use crate::harness::wait::let_pass;
use crate::harness::{Options, Pair, Server, Sidecar, compare, patience, wait_until};

#[test]
fn a_journal_serves_one_process() {
    let mut pair = Pair::start(&Options::default());
    let mut config = pair.a.sidecar.config.clone();
    config.journal = Some(pair.a.sidecar.dir().join("journal"));
    config.admin_port = free_port();
    config.link_port = free_port();
    // At its own Redis nobody else works for the site, so it would.
    let other = Server::start(&[]);
    config.redis_port = other.port();
    let mut second = Sidecar::new(config);
    second.expect_errors("");
    second.start();
    let status = second.wait_exit(patience(20));
    assert_eq!(status.code(), Some(1), "{}", second.log());
    assert!(second.log().contains("journal"), "{}", second.log());
    pair.a.client().run("INCR n");
    pair.settle();
    assert!(pair.a.sidecar.is_alive());
    assert_eq!(pair.b.client().ask::<u64>("GET n"), 1);
}

/// The lease keeps a second sidecar of a site from writing; should one write all the same, it is noticed.
#[test]
fn marks_of_another_sidecar_stop_by_name() {
    let pair = Pair::start(&Options::default());
    pair.a.sidecar.expect_errors("another sidecar");
    pair.b.client().run("INCR n");
    pair.settle();
    let mut client = pair.a.client();
    let mark: String = client.ask("GET tandem:from:b");
    let instance = pair.a.sidecar.status().expect("a status").instance;
    let foreign = mark.replace(&instance, "00000000000000ab");
    assert_ne!(mark, foreign, "the mark names who wrote it");
    let mut pipe = redis::pipe();
    pipe.atomic();
    pipe.cmd("SET").arg("tandem:from:b").arg(foreign);
    pipe.cmd("SET").arg("k").arg("v");
    pipe.exec(client.connection()).expect("a transaction");
    wait_until("it to stop by name", patience(30), || {
        let peer = pair.a.sidecar.peer("b")?;
        match &peer.stop {
            Some(stop) if stop.reason == "second_sidecar" => Ok(()),
            _ => Err(format!("{peer:#?}")),
        }
    });
}

#[test]
fn two_sites_on_one_redis_are_refused() {
    let mut pair = Pair::prepare(&Options::default());
    for site in pair.sites() {
        site.sidecar.expect_errors("");
    }
    pair.b.sidecar.config.redis_port = pair.a.server.port();
    pair.start_sidecars();
    let mut a = pair.a.client();
    wait_until("it to be named", patience(30), || {
        let mut seen = Vec::new();
        for site in [&mut pair.a, &mut pair.b] {
            if !site.sidecar.is_alive() {
                return Ok(());
            }
            let status = site.sidecar.status()?;
            let stops = status.peers.iter().any(|p| p.state == PeerState::Stopped);
            if stops || status.redis.error.is_some() {
                return Ok(());
            }
            seen.push(format!("{status:#?}"));
        }
        Err(seen.join("\n"))
    });
    a.run("INCR n");
    let_pass(Duration::from_secs(2));
    assert_eq!(
        a.ask::<u64>("GET n"),
        1,
        "an increment goes round in circles"
    );
}

/// A listener that says something of its own to whoever dials.
struct Stranger {
    port: u16,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stranger {
    fn saying(words: Vec<u8>) -> Self {
        let (listener, port) = listen();
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::SeqCst) {
                let (mut stream, _) = listener.accept().expect("a connection");
                drop(stream.set_read_timeout(Some(Duration::from_millis(200))));
                drop(stream.read(&mut [0; 4096]));
                drop(stream.write_all(&words));
            }
        });
        Self {
            port,
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // It waits for a connection.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let thread = self.thread.take().expect("a thread");
        thread.join().expect("the stranger");
    }
}

/// How a link begins: its name, and the lowest and the highest version spoken.
const GREETING: &[u8] = b"TANDEM\r\n\x01\x01";

/// Things that are not the protocol of a link.
fn noise() -> Vec<Vec<u8>> {
    vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
        vec![0; 1000],
        vec![0xff; 1000],
        (0..5000_u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect(),
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
        // The right greeting, and then nothing right.
        [GREETING, &[0xff; 100]].concat(),
        [GREETING, &[0; 100]].concat(),
        [GREETING, b"\x05\x00\x00\x00\x01\x02\x03\x04hello"].concat(),
        Vec::new(),
    ]
}

#[test]
fn strangers_on_the_port_of_the_link_change_nothing() {
    let mut pair = Pair::start(&Options::default());
    for port in [
        pair.a.sidecar.config.link_port,
        pair.b.sidecar.config.link_port,
    ] {
        for words in noise() {
            let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            drop(stranger.write_all(&words));
            drop(stranger.shutdown(Shutdown::Write));
            stranger
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            drop(stranger.read(&mut [0; 4096]));
        }
    }
    // Some who say nothing, and stay.
    let _silent: Vec<TcpStream> = (0..20)
        .map(|_| {
            let port = pair.b.sidecar.config.link_port;
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()
        })
        .collect();
    pair.a.client().run("INCR n");
    pair.b.client().run("INCR n");
    pair.settle();
    assert_eq!(compare(&pair), 1);
    pair.wire_a.cut_once();
    pair.wait_synchronizing();
    for site in [&mut pair.a, &mut pair.b] {
        assert!(site.sidecar.is_alive());
    }
}

#[test]
fn a_peer_that_speaks_something_else_is_named() {
    for words in noise() {
        let server = Server::start(&[]);
        let stranger = Stranger::saying(words);
        let mut sidecar = Sidecar::alone(server.port(), "");
        sidecar.config.peers = vec![("b".to_owned(), Some(stranger.port))];
        sidecar.expect_errors("");
        sidecar.start();
        wait_until("the peer to be named", patience(30), || {
            let peer = sidecar.peer("b")?;
            let is_named = peer.error.is_some() || peer.stop.is_some();
            if is_named && peer.state != PeerState::Synchronizing {
                Ok(())
            } else {
                Err(format!("{peer:#?}"))
            }
        });
        assert!(sidecar.is_alive());
        assert!(sidecar.log().len() < 200_000, "the log has no bound");
    }
}

#[test]
fn a_peer_of_another_protocol_version_is_named() {
    let server = Server::start(&[]);
    let stranger = Stranger::saying(b"TANDEM\r\n\xc8\xc9".to_vec());
    let mut sidecar = Sidecar::alone(server.port(), "");
    sidecar.config.peers = vec![("b".to_owned(), Some(stranger.port))];
    sidecar.expect_errors("");
    sidecar.start();
    wait_until("the versions to be named", patience(30), || {
        let error = sidecar.peer("b")?.error.unwrap_or_default();
        if error.contains("200") && error.contains("201") {
            Ok(())
        } else {
            Err(error)
        }
    });
}

#[test]
fn flipped_bytes_on_the_link_are_never_applied() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    for round in 0..20 {
        let lane = if round % 2 == 0 {
            pair.wire_a.up()
        } else {
            pair.wire_a.down()
        };
        lane.flip_a_byte();
        for _ in 0..10 {
            a.run("INCR n");
            b.run("INCR n");
            a.run("APPEND text 0123456789");
        }
        pair.settle();
    }
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n"), 400);
    assert_eq!(b.ask::<String>("GET text"), "0123456789".repeat(200));
}

#[test]
fn different_databases_at_the_two_ends_are_refused() {
    let mut pair = Pair::prepare(&Options::default());
    pair.a.sidecar.config.databases = "[0, 1]".to_owned();
    for site in pair.sites() {
        site.sidecar.expect_errors("");
    }
    pair.a.client().run("SET k v");
    pair.start_sidecars();
    wait_until("both sites to stop", patience(30), || {
        for site in pair.sites() {
            let status = site.sidecar.status()?;
            let peer = &status.peers[0];
            let remedy = peer.stop.as_ref().map(|s| s.remedy.as_str());
            if !remedy.is_some_and(|r| r.contains("databases")) {
                return Err(format!("{}: {peer:#?}", site.name));
            }
        }
        Ok(())
    });
    assert_eq!(
        pair.b.client().ask::<u64>("EXISTS k"),
        0,
        "nothing is applied"
    );
}

#[test]
fn the_wrong_site_at_the_other_end_is_refused() {
    let mut pair = Pair::prepare(&Options::default());
    pair.a.sidecar.config.peers[0].0 = "c".to_owned();
    for site in pair.sites() {
        site.sidecar.expect_errors("");
    }
    pair.a.client().run("SET k v");
    pair.start_sidecars();
    wait_until("it to be named", patience(30), || {
        let peer = pair.a.sidecar.peer("c")?;
        let words = peer.error.clone().unwrap_or_default()
            + &peer
                .stop
                .as_ref()
                .map_or(String::new(), |s| s.detail.clone());
        let is_named = words.contains('b') && peer.state != PeerState::Synchronizing;
        if is_named && !words.is_empty() {
            Ok(())
        } else {
            Err(format!("{peer:#?}"))
        }
    });
    assert_eq!(
        pair.b.client().ask::<u64>("EXISTS k"),
        0,
        "nothing is applied"
    );
}

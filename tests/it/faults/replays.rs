//! What was said on a link is said again by somebody else.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::fault::{is_timeout, listen};
use crate::harness::{Options, Pair, compare, patience};

/// Before a port; keeps what the dialling side says, of each connection.
struct Recorder {
    port: u16,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    fn to(target: u16) -> Self {
        let (listener, port) = listen();
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&said);
        thread::spawn(move || accept(&listener, target, &kept));
        Self { port, said }
    }

    /// All that was said, connection by connection.
    fn said(&self) -> Vec<Vec<u8>> {
        self.said.lock().expect("what was said").clone()
    }
}

fn accept(listener: &TcpListener, target: u16, said: &Arc<Mutex<Vec<Vec<u8>>>>) {
    for dialler in listener.incoming() {
        let Ok(dialler) = dialler else { return };
        let Ok(target) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else {
            continue;
        };
        let mut all = said.lock().expect("what was said");
        let index = all.len();
        all.push(Vec::new());
        drop(all);
        let second = |s: &TcpStream| s.try_clone().expect("a second handle");
        let (mut from, mut to) = (second(&target), second(&dialler));
        thread::spawn(move || {
            drop(std::io::copy(&mut from, &mut to));
            drop(to.shutdown(std::net::Shutdown::Both));
        });
        let said = Arc::clone(said);
        thread::spawn(move || record(dialler, target, &said, index));
    }
}

fn record(mut dialler: TcpStream, mut target: TcpStream, said: &Mutex<Vec<Vec<u8>>>, index: usize) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(count @ 1..) = dialler.read(&mut chunk) {
        said.lock().expect("what was said")[index].extend_from_slice(&chunk[..count]);
        if target.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    drop(target.shutdown(std::net::Shutdown::Both));
}

/// Says it again, and listens until the other side has had enough, or has been silent for a moment.
fn replay(port: u16, words: &[u8]) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
    let look = Some(Duration::from_millis(200));
    stream.set_read_timeout(look).expect("a timeout");
    // It may hang up in the middle.
    drop(stream.write_all(words));
    let (begun, mut chunk) = (Instant::now(), [0; 4096]);
    while begun.elapsed() < Duration::from_secs(3) {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn a_session_that_is_replayed_applies_nothing() {
    let mut pair = Pair::prepare(&Options::default());
    let port = pair.b.sidecar.config.link_port;
    let recorder = Recorder::to(port);
    pair.a.sidecar.config.peers = vec![("b".to_owned(), Some(recorder.port))];
    pair.start_sidecars();
    pair.wait_synchronizing();
    let (mut a, mut b) = pair.clients();
    let increment = |a: &mut crate::harness::Client, b: &mut crate::harness::Client| {
        for _ in 0..50 {
            a.run("INCR n");
            b.run("INCR n");
            a.run("RPUSH list x");
        }
    };
    increment(&mut a, &mut b);
    pair.settle();
    let said = recorder.said();
    assert!(
        said.iter().any(|words| words.len() > 1000),
        "nothing was recorded"
    );
    let say_again = |b: &mut crate::harness::Client| {
        for words in &said {
            replay(port, words);
            let (bytes, n) = (words.len(), b.ask::<u64>("GET n"));
            println!("{bytes} bytes said again: n is {n}");
        }
    };
    // While the real one is there, and behind it when it is gone.
    say_again(&mut b);
    pair.wait_synchronizing();
    increment(&mut a, &mut b);
    pair.settle();
    pair.a.sidecar.kill();
    increment(&mut a, &mut b);
    say_again(&mut b);
    assert_eq!(b.ask::<u64>("GET n"), 250);
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    if let Err(reason) = pair.try_settle(patience(60)) {
        panic!("{reason}");
    }
    compare(&pair);
    assert_eq!(
        (a.ask::<u64>("GET n"), b.ask::<u64>("LLEN list")),
        (300, 150)
    );
    let log = pair.b.sidecar.log();
    assert!(log.contains("said on another connection"), "{log}");
    for site in pair.sites() {
        let status = site.sidecar.status().expect("a status");
        let copied = &status.peers[0].copied;
        assert_eq!(copied.created + copied.overwritten, 0, "{status:#?}");
    }
    pair.no_echo();
}

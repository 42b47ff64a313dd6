//! Wrong configuration, wrong servers, wrong peers: each is named, and nothing breaks.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tandem::status::PeerState;

use crate::harness::fault::listen;
use crate::harness::ports::free_port;
use crate::harness::sidecar::TANDEM;
use crate::harness::wait::let_pass;
use crate::harness::{
    Config, Interposer, Options, Pair, Server, Sidecar, Verdict, compare, patience, wait_until,
};

/// Output and errors of a command, together.
fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// A sidecar of site a, with a peer that does not exist, for this Redis.
fn alone(redis_port: u16, redis_extra: &str) -> Sidecar {
    let mut config = Config::new("a", redis_port);
    config.peers = vec![("b".to_owned(), Some(free_port()))];
    config.redis_extra = redis_extra.to_owned();
    Sidecar::new(config)
}

/// Runs it until its status names what is wrong with its Redis, by one of these words.
fn runs_and_names(sidecar: &mut Sidecar, words: &[&str]) {
    // A person has to act; or the server is only away, which is no error.
    sidecar.expect_errors("");
    sidecar.start();
    wait_until("the status to name the trouble", patience(30), || {
        let redis = sidecar.status()?.redis;
        let error = redis.error.clone().unwrap_or_default().to_lowercase();
        let is_named = words.iter().any(|w| error.contains(&w.to_lowercase()));
        if is_named && !redis.connected {
            Ok(())
        } else {
            Err(format!("{redis:#?}"))
        }
    });
    assert_eq!(sidecar.http("/readyz").unwrap().0, 503);
    assert_eq!(sidecar.http("/livez").unwrap().0, 200);
    assert!(sidecar.is_alive());
}

/// `tandem check` fails and says one of these words.
fn check_fails(sidecar: &Sidecar, words: &[&str]) {
    let output = sidecar.command(&["check"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let lower = text.to_lowercase();
    let is_named = words.iter().any(|w| lower.contains(&w.to_lowercase()));
    assert!(is_named, "{words:?} in {text}");
}

#[test]
fn check_accepts_what_is_right() {
    let server = Server::start(&[]);
    let sidecar = alone(server.port(), "");
    let before = server.client().offset();
    let output = sidecar.command(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!output.stdout.is_empty());
    assert_eq!(server.client().offset(), before, "it changes nothing");
    let keys: u64 = server.client().ask("DBSIZE");
    assert_eq!(keys, 0);
}

#[test]
fn a_redis_that_does_not_answer_is_named() {
    let mut sidecar = alone(free_port(), "");
    check_fails(&sidecar, &["refused"]);
    runs_and_names(&mut sidecar, &["refused"]);
}

#[test]
fn a_redis_that_comes_later_is_used() {
    let mut server = Server::start(&[]);
    let mut sidecar = alone(server.port(), "");
    server.kill();
    runs_and_names(&mut sidecar, &["refused"]);
    server.restart();
    wait_until("the sidecar to be ready", patience(30), || {
        match sidecar.http("/readyz")? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(sidecar.status().unwrap().redis.error, None);
}

#[test]
fn a_missing_or_wrong_password_is_named_and_never_shown() {
    let server = Server::start(&["requirepass right-one"]);
    let mut sidecar = alone(server.port(), "");
    check_fails(&sidecar, &["NOAUTH", "password"]);
    runs_and_names(&mut sidecar, &["NOAUTH", "password"]);
    drop(sidecar);

    let mut sidecar = alone(server.port(), "password = \"wrong-one\"");
    check_fails(&sidecar, &["WRONGPASS", "password"]);
    runs_and_names(&mut sidecar, &["WRONGPASS", "password"]);
    let shown = sidecar.log() + &sidecar.http("/status").unwrap().1;
    assert!(!shown.contains("wrong-one"), "the password is shown");
    drop(sidecar);

    let sidecar = alone(server.port(), "password = \"right-one\"");
    let output = sidecar.command(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!said(&output).contains("right-one"));
}

#[test]
fn a_user_without_permission_is_named() {
    let server =
        Server::start(&["user limited on >secret ~* +ping +psync +replconf +info +client"]);
    let login = "username = \"limited\"\npassword = \"secret\"";
    let mut sidecar = alone(server.port(), login);
    check_fails(&sidecar, &["NOPERM", "permission", "ACL"]);
    runs_and_names(&mut sidecar, &["NOPERM", "permission", "ACL"]);
}

#[test]
fn a_password_in_a_file_is_read() {
    let server = Server::start(&["requirepass from-the-file"]);
    let mut sidecar = alone(server.port(), "");
    let file = sidecar.dir().join("password");
    fs::write(&file, "from-the-file\n").unwrap();
    sidecar.config.redis_extra = format!("password_file = \"{}\"", file.display());
    let output = sidecar.command(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn a_server_too_old_is_refused_by_its_version() {
    let server = Server::start(&[]);
    let man = Interposer::to(server.port(), |args| match args[0].as_slice() {
        b"INFO" => {
            let text =
                "# Server\r\nredis_version:4.0.9\r\nredis_mode:standalone\r\nrole:master\r\n";
            Verdict::Reply(format!("${}\r\n{text}\r\n", text.len()).into_bytes())
        }
        b"HELLO" => Verdict::Reply(b"-ERR unknown command 'HELLO'\r\n".to_vec()),
        _ => Verdict::Forward,
    });
    let mut sidecar = alone(man.port(), "");
    check_fails(&sidecar, &["4.0.9"]);
    runs_and_names(&mut sidecar, &["4.0.9"]);
}

#[test]
fn every_mistake_of_a_configuration_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tandem.toml");
    let text = "site = \"Not A Name\"\n[redis]\nurl = \"http://x\"\n[[peer]]\nsite = \"b\"\n\
                address = \"127.0.0.1:1\"\n[sync]\ninitial = \"perhaps\"\n[journal]\ndir = \"/tmp/x\"\n";
    fs::write(&file, text).unwrap();
    for command in ["run", "check"] {
        let output = Command::new(TANDEM)
            .args([command, "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(78), "{text}");
        let lines = text.lines().filter(|l| l.contains("tandem.toml:"));
        assert_eq!(lines.count(), 3, "{text}");
        for key in ["site", "redis.url", "sync.initial"] {
            assert!(text.contains(key), "{key} in {text}");
        }
    }
}

#[test]
fn a_wrong_command_line_has_its_own_exit_code() {
    for args in [
        &["frobnicate"] as &[&str],
        &["run", "--frobnicate"],
        &["run"],
        &[],
    ] {
        let output = Command::new(TANDEM).args(args).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(64),
            "{args:?}: {}",
            said(&output)
        );
    }
    let output = Command::new(TANDEM).arg("--version").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let missing = ["check", "--config", "/nonexistent/tandem.toml"];
    let output = Command::new(TANDEM).args(missing).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
}

#[test]
fn the_status_command_prints_the_status() {
    let mut pair = Pair::start(&Options::default());
    pair.a.client().run("SET k v");
    pair.settle();
    let output = pair.a.sidecar.command(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let status: tandem::status::Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status.site, "a");
    assert_eq!(status.peers[0].state, PeerState::Synchronizing);
    let output = pair.a.sidecar.command(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("synchronizing"), "{}", said(&output));
    assert_eq!(pair.a.sidecar.http("/readyz").unwrap().0, 200);
    let (code, metrics) = pair.a.sidecar.http("/metrics").unwrap();
    assert_eq!(code, 200);
    assert!(metrics.contains("# HELP tandem_"), "{metrics:.500}");
    pair.a.sidecar.kill();
    let output = pair.a.sidecar.command(&["status"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}

#[test]
fn a_journal_serves_one_process() {
    let mut pair = Pair::start(&Options::default());
    let mut config = pair.a.sidecar.config.clone();
    config.journal = Some(pair.a.sidecar.dir().join("journal"));
    config.admin_port = free_port();
    config.link_port = free_port();
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

#[test]
fn a_second_sidecar_of_one_site_is_stopped_by_name() {
    let mut pair = Pair::start(&Options::default());
    for site in pair.sites() {
        site.sidecar.expect_errors("");
    }
    pair.a.client().run("INCR n");
    pair.settle();
    let mut config = pair.a.sidecar.config.clone();
    config.admin_port = free_port();
    config.link_port = free_port();
    let mut second = Sidecar::new(config);
    second.expect_errors("");
    second.start();
    let mut a = pair.a.client();
    let mut b = pair.b.client();
    let mut count: u64 = 1;
    wait_until("one of the two to stop by name", patience(30), || {
        a.run("INCR n");
        b.run("INCR n");
        count += 2;
        let mut seen = Vec::new();
        for sidecar in [&mut pair.a.sidecar, &mut second] {
            if !sidecar.is_alive() {
                return Ok(());
            }
            let status = sidecar.status()?;
            let stops = status.peers.iter().any(|p| p.state == PeerState::Stopped);
            if stops || status.redis.error.is_some() {
                return Ok(());
            }
            seen.push(format!("{status:#?}"));
        }
        Err(seen.join("\n"))
    });
    second.kill();
    pair.a.sidecar.kill();
    pair.a.sidecar.start();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(
        b.ask::<u64>("GET n"),
        count,
        "nothing lost, nothing doubled"
    );
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
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                drop(stream.set_nonblocking(false));
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
        let mut sidecar = alone(server.port(), "");
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
    let mut sidecar = alone(server.port(), "");
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

/// The smallest snapshot, and `+FULLRESYNC` before it.
fn empty_snapshot() -> Vec<u8> {
    let mut rdb = b"REDIS0009\xff".to_vec();
    rdb.extend_from_slice(&[0; 8]);
    let head = format!("+FULLRESYNC {} 1000\r\n${}\r\n", "ab".repeat(20), rdb.len());
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&rdb);
    bytes
}

/// A sidecar whose Redis answers PSYNC with these bytes, and closes or does not.
fn with_stream(bytes: Vec<u8>, closes: bool) -> (Server, Interposer, Sidecar) {
    let server = Server::start(&[]);
    let man = Interposer::to(server.port(), move |args| match args[0].as_slice() {
        b"PSYNC" if closes => Verdict::ReplyAndClose(bytes.clone()),
        b"PSYNC" => Verdict::Reply(bytes.clone()),
        _ => Verdict::Forward,
    });
    let mut sidecar = alone(man.port(), "");
    sidecar.expect_errors("");
    sidecar.start();
    (server, man, sidecar)
}

#[test]
fn a_malformed_stream_is_named_by_its_offset() {
    let garbage: &[&[u8]] = &[
        b"*3\r\n$3\r\nSET\r\n$-7\r\nk\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nkk\r\n$1\r\nv\r\n",
        b"+OK\r\n",
        b"*1000000000\r\n$3\r\nSET\r\n",
        b"*2\r\n$99999999999\r\n",
        b"\x00\x01\x02\xff\xfe\r\n",
    ];
    for bytes in garbage {
        let mut stream = empty_snapshot();
        stream.extend_from_slice(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n");
        stream.extend_from_slice(bytes);
        let (_server, _man, mut sidecar) = with_stream(stream, false);
        wait_until("the offset to be named", patience(30), || {
            let error = sidecar.status()?.redis.error.unwrap_or_default();
            if error.contains("offset") {
                Ok(())
            } else {
                Err(format!("{:?}: {error:?}", bytes.escape_ascii().to_string()))
            }
        });
        assert!(sidecar.is_alive());
        assert!(
            sidecar.peak_memory_kib() < 200 * 1024,
            "it believed a length"
        );
    }
}

#[test]
fn a_snapshot_that_ends_early_is_named() {
    let head = format!(
        "+FULLRESYNC {} 1000\r\n$1000000\r\nREDIS0009",
        "ab".repeat(20)
    );
    let (_server, _man, mut sidecar) = with_stream(head.into_bytes(), true);
    wait_until("it to be named", patience(30), || {
        let redis = sidecar.status()?.redis;
        if redis.error.is_some() && !redis.connected {
            Ok(())
        } else {
            Err(format!("{redis:#?}"))
        }
    });
    assert!(sidecar.is_alive());
}

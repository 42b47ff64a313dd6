//! Wrong configuration and wrong servers: each is named, and nothing breaks.

use std::fs;
use std::process::{Command, Output};

use tandem::status::PeerState;

use crate::harness::ports::free_port;
use crate::harness::sidecar::TANDEM;
use crate::harness::{Interposer, Options, Pair, Server, Sidecar, Verdict, patience, wait_until};

/// Output and errors of a command, together.
fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
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
    let sidecar = Sidecar::alone(server.port(), "");
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
    let mut sidecar = Sidecar::alone(free_port(), "");
    check_fails(&sidecar, &["refused"]);
    runs_and_names(&mut sidecar, &["refused"]);
}

#[test]
fn a_redis_that_comes_later_is_used() {
    let mut server = Server::start(&[]);
    let mut sidecar = Sidecar::alone(server.port(), "");
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
    let mut sidecar = Sidecar::alone(server.port(), "");
    check_fails(&sidecar, &["NOAUTH", "password"]);
    runs_and_names(&mut sidecar, &["NOAUTH", "password"]);
    drop(sidecar);

    let mut sidecar = Sidecar::alone(server.port(), "password = \"wrong-one\"");
    check_fails(&sidecar, &["WRONGPASS", "password"]);
    runs_and_names(&mut sidecar, &["WRONGPASS", "password"]);
    let shown = sidecar.log() + &sidecar.http("/status").unwrap().1;
    assert!(!shown.contains("wrong-one"), "the password is shown");
    drop(sidecar);

    let sidecar = Sidecar::alone(server.port(), "password = \"right-one\"");
    let output = sidecar.command(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!said(&output).contains("right-one"));
}

#[test]
fn a_user_without_permission_is_named() {
    let server =
        Server::start(&["user limited on >secret ~* +ping +psync +replconf +info +client"]);
    let login = "username = \"limited\"\npassword = \"secret\"";
    let mut sidecar = Sidecar::alone(server.port(), login);
    check_fails(&sidecar, &["NOPERM", "permission", "ACL"]);
    runs_and_names(&mut sidecar, &["NOPERM", "permission", "ACL"]);
}

#[test]
fn a_password_in_a_file_is_read() {
    let server = Server::start(&["requirepass from-the-file"]);
    let mut sidecar = Sidecar::alone(server.port(), "");
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
    let mut sidecar = Sidecar::alone(man.port(), "");
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
    let mut sidecar = Sidecar::alone(man.port(), "");
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

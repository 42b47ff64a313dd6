//! `tandem verify`: what is equal is found equal while it is written to, every difference is found,
//! large values are read in pieces, and what differs is mended.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::load::Load;
use crate::harness::server::versions;
use crate::harness::sidecar::TANDEM;
use crate::harness::wait::let_pass;
use crate::harness::{Client, Mesh, Options, Pair, Server};

/// Runs `tandem verify` with these arguments; its exit code and its JSON.
fn verify(args: &[&str]) -> (i32, Value) {
    let output = run(args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = output.status.code().expect("it was not killed");
    let json = serde_json::from_str(&text).unwrap_or_else(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("{error} in {text:?}, exit code {code}, {stderr}")
    });
    (code, json)
}

fn run(args: &[&str]) -> Output {
    Command::new(TANDEM)
        .args(["verify", "--json", "--rate", "0"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("tandem runs")
}

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port())
}

/// Compares two servers that have no sidecars.
fn verify_servers(a: &Server, b: &Server, more: &[&str]) -> (i32, Value) {
    let (a, b) = (url(a), url(b));
    let args = ["--redis", &a, "--redis", &b];
    verify(&[&args, more].concat())
}

/// Compares two sites by their configuration.
fn verify_pair(pair: &Pair, more: &[&str]) -> (i32, Value) {
    let files = pair.sites().map(|site| config_file(site.sidecar.dir()));
    let args = ["--config", &files[0], "--config", &files[1]];
    verify(&[&args, more].concat())
}

fn config_file(dir: &std::path::Path) -> String {
    let path: PathBuf = dir.join("tandem.toml");
    path.display().to_string()
}

/// What it says of each key that differs: database, name, kind.
fn kinds(report: &Value) -> Vec<(u64, String, String)> {
    let differences = report["differences"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut all: Vec<_> = differences
        .iter()
        .map(|d| {
            (
                d["db"].as_u64().expect("a number"),
                text(&d["key"]),
                text(&d["kind"]),
            )
        })
        .collect();
    all.sort();
    all
}

/// A value of each type.
const EACH_TYPE: &[&str] = &[
    "SET string hello",
    "SETRANGE bitmap 5000 x",
    "RPUSH list a b c 17",
    "SADD set x y z",
    "SADD numbers 3 1 2",
    "ZADD zset 1.5 a -2 b inf c 3 d",
    "HSET hash f v g w",
    "XADD stream 1-1 a b",
    "XADD stream 2-1 a b c d",
    "XADD stream 3-1 x y",
    "XDEL stream 2-1",
    "XGROUP CREATE stream group 0",
    "XREADGROUP GROUP group one COUNT 1 STREAMS stream >",
    "XREADGROUP GROUP group two COUNT 1 STREAMS stream >",
    "PFADD hll a b c",
];

fn fill(client: &mut Client, lines: &[&str]) {
    for line in lines {
        client.run(line);
    }
}

#[test]
fn equal_sites_are_equal_also_while_they_are_written_to() {
    let pair = Pair::start(&Options::default());
    fill(&mut pair.a.client(), EACH_TYPE);
    let mut b = pair.b.client();
    b.run("SELECT 3");
    for n in 0..500 {
        b.run(&format!("SET key:{n} {n} EX 1000"));
    }
    pair.settle();
    let (code, report) = verify_pair(&pair, &[]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["keys_equal"], 509, "{report:#}");
    assert_eq!(report["sites"][1]["site"], "b");
    assert_eq!(report["sites"][1]["keys"], 509);

    let ports = pair.sites().map(|site| (site.name, site.server.port()));
    let load = Load::start(&ports, Duration::from_millis(1), 7);
    for _ in 0..3 {
        let (code, report) = verify_pair(&pair, &["--patience", "20"]);
        // A machine that is slow enough never sees a key at rest that is written a hundred times a second.
        let left = report["differences"].as_array().expect("a list");
        let all_move = left.iter().all(|found| found["being_written"] == true);
        assert!(all_move && (code == 0) == left.is_empty(), "{report:#}");
        let_pass(Duration::from_millis(300));
    }
    load.finish();
    pair.settle();
    let (code, report) = verify_pair(&pair, &["--sample", "1/4"]);
    let (all, part) = (
        pair.a.client().ask::<u64>("DBSIZE"),
        &report["keys_compared"],
    );
    let part = part.as_u64().expect("a number");
    assert!(code == 0 && part > 0 && part < all + 500, "{report:#}");
}

#[test]
fn every_kind_of_difference_is_found() {
    let (a, b) = (Server::start(&[]), Server::start(&[]));
    for server in [&a, &b] {
        let mut client = server.client();
        fill(&mut client, EACH_TYPE);
        client.run("SET dying x EX 1000");
        client.run("SET tandem:self whatever");
        client.run("SELECT 5");
        client.run("SET other 1");
    }
    // What is cached in a HyperLogLog is no difference, nor what is reserved.
    a.client().run("PFCOUNT hll");
    a.client().run("SET tandem:from:b 1");
    assert_eq!(verify_servers(&a, &b, &["--patience", "1"]).0, 0);

    let changes: &[(&str, &str, &str)] = &[
        ("SET string hellO", "string", "value"),
        ("SETBIT bitmap 777 1", "bitmap", "value"),
        ("LSET list 1 x", "list", "value"),
        ("SADD set w", "set", "value"),
        ("SREM numbers 2", "numbers", "value"),
        ("ZADD zset 1.25 a", "zset", "value"),
        ("HSET hash f w", "hash", "value"),
        ("XACK stream group 1-1", "stream", "value"),
        ("PFADD hll d", "hll", "value"),
        ("PERSIST dying", "dying", "time_to_live"),
    ];
    let mut client = b.client();
    for (line, key, kind) in changes {
        let dump: redis::Value = client.send(&[&b"DUMP"[..], key.as_bytes()]);
        let redis::Value::BulkString(dump) = dump else {
            panic!("{key}: {dump:?}");
        };
        client.run(line);
        let (code, report) = verify_servers(&a, &b, &["--patience", "0"]);
        let expected = vec![(0, (*key).to_owned(), (*kind).to_owned())];
        assert_eq!((code, kinds(&report)), (1, expected), "{line}");
        let ttl: &[u8] = if *key == "dying" { b"990000" } else { b"0" };
        client.send(&[b"RESTORE", key.as_bytes(), ttl, &dump, b"REPLACE"]);
    }
    a.client().run("EXPIRE dying 900");
    client.run("EXPIRE dying 990");
    fill(&mut client, &["DEL list", "SET set string"]);
    client.send(&[&b"SET"[..], b"odd\n", b"1"]);
    client.run("SELECT 5");
    client.run("SET other 2");
    let (code, report) = verify_servers(&a, &b, &["--patience", "1"]);
    let expected = [
        (0, "dying", "time_to_live"),
        (0, "list", "missing"),
        (0, "odd\\n", "missing"),
        (0, "set", "type"),
        (5, "other", "value"),
    ];
    let expected = expected.map(|(db, key, kind)| (db, key.to_owned(), kind.to_owned()));
    assert_eq!((code, kinds(&report)), (1, expected.to_vec()));
    assert_eq!(report["keys_different"], 5);
    let of_list = report["differences"].as_array().expect("a list").iter();
    let of_list = of_list.filter(|d| d["key"] == "list").map(|d| &d["detail"]);
    assert_eq!(
        of_list.collect::<Vec<_>>(),
        [&Value::from(format!("only at {}", url(&a)))]
    );
}

/// What one server packs densely, and dumps, the other packs so that it is large, and is read in
/// pieces: both have one digest.
#[test]
fn values_in_pieces_are_equal_to_whole_ones() {
    let dense = &[
        "hash-max-ziplist-entries 100000",
        "zset-max-ziplist-entries 100000",
        "set-max-intset-entries 100000",
    ];
    let wide = &[
        "hash-max-ziplist-entries 1",
        "zset-max-ziplist-entries 1",
        "set-max-intset-entries 1",
        "list-max-ziplist-size 1",
        "stream-node-max-entries 1",
    ];
    let (a, b) = (Server::start(dense), Server::start(wide));
    let scripts = [
        "for i=1,20000 do redis.call('HSET','hash','f'..i,i*3) end",
        "for i=1,15000 do redis.call('ZADD','zset',i/3,'m'..i) end",
        "for i=1,25000 do redis.call('SADD','set',i) end",
        "for i=1,25000 do redis.call('RPUSH','list','e'..i) end",
        "for i=1,4000 do redis.call('XADD','stream',i..'-1','f',i,'g','x') end",
        "for i=1,4000 do redis.call('XADD','busy',i..'-1','f',i,'g','x') end",
    ];
    for server in [&a, &b] {
        let mut client = server.client();
        for script in scripts {
            client.send(&[&b"EVAL"[..], script.as_bytes(), b"0"]);
        }
        client.run("XGROUP CREATE stream group 0");
        client.run("XREADGROUP GROUP group one COUNT 300 STREAMS stream >");
        client.run("XREADGROUP GROUP group two COUNT 10 STREAMS stream >");
        client.run("XGROUP CREATE busy group 0");
        client.run("XREADGROUP GROUP group one COUNT 3500 STREAMS busy >");
    }
    for key in ["hash", "zset", "set", "list", "stream"] {
        let memory = |client: &mut Client| client.ask::<u64>(&format!("MEMORY USAGE {key}"));
        let (small, large) = (memory(&mut a.client()), memory(&mut b.client()));
        assert!(small < 1 << 20 && large > 1 << 20, "{key}: {small} {large}");
    }
    let (code, report) = verify_servers(&a, &b, &["--patience", "1"]);
    assert!(code == 0 && report["keys_equal"] == 6, "{report:#}");
    b.client().run("XACK busy group 3402-1");
    b.client().run("HSET hash f19999 0");
    let (code, report) = verify_servers(&a, &b, &["--patience", "1"]);
    assert!(code == 1 && report["keys_different"] == 2, "{report:#}");
}

/// The server under test beside every version that there is.
#[test]
fn versions_that_pack_values_differently_are_equal() {
    let here = Server::start(&[]);
    let large = "for i=1,30000 do redis.call('HSET','large','f'..i,i) end";
    let fill_all = |client: &mut Client| {
        fill(client, EACH_TYPE);
        client.send(&[&b"EVAL"[..], large.as_bytes(), b"0"]);
    };
    fill_all(&mut here.client());
    for version in versions() {
        let there = Server::version(&version, &[]);
        fill_all(&mut there.client());
        let (code, report) = verify_servers(&here, &there, &["--patience", "0"]);
        assert!(
            code == 0 && report["keys_equal"] == 10,
            "{version}: {report:#}"
        );
    }
}

#[test]
fn large_values_and_many_keys_need_little_memory() {
    let (a, b) = (Server::start(&[]), Server::start(&[]));
    let scripts = [
        "for i=1,200000 do redis.call('RPUSH','list',string.rep('x',100)..i) end",
        "for i=1,200000 do redis.call('HSET','hash','f'..i,string.rep('x',100)) end",
        "redis.call('SETRANGE','string',20000000,'x')",
        "for i=1,200000 do redis.call('SET','key:'..i,i) end",
    ];
    for server in [&a, &b] {
        for script in scripts {
            server
                .client()
                .send(&[&b"EVAL"[..], script.as_bytes(), b"0"]);
        }
    }
    let (a_url, b_url) = (url(&a), url(&b));
    // What the process may have of memory, code included, is a quarter of what a site's data takes.
    let limited = Command::new("sh")
        .args(["-c", "ulimit -d 60000; exec \"$0\" \"$@\"", TANDEM])
        .args([
            "verify", "--json", "--rate", "0", "--redis", &a_url, "--redis", &b_url,
        ])
        .output()
        .expect("a shell runs");
    let text = String::from_utf8_lossy(&limited.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&limited.stderr);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    assert_eq!(limited.status.code(), Some(0), "{report:#}");
    assert_eq!(report["keys_equal"], 200_003);
    let used = a.client().info_number("memory", "used_memory");
    assert!(used > 60 << 20, "{used}");
}

#[test]
fn what_differs_is_mended_from_the_site_that_is_right() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    fill(&mut a, EACH_TYPE);
    pair.settle();
    let lines = [
        "SET string wrong",
        "DEL list",
        "SADD set wrong",
        "SET extra 1",
        "EXPIRE hash 900",
    ];
    write_untold(&mut b, "a", &lines);
    pair.settle();
    let wrong = ["extra", "hash", "list", "set", "string"];
    let names = |report: &Value| {
        kinds(report)
            .into_iter()
            .map(|(_, key, _)| key)
            .collect::<Vec<_>>()
    };
    let (code, report) = verify_pair(&pair, &["--patience", "1"]);
    assert_eq!(
        (code, names(&report)),
        (1, wrong.map(str::to_owned).to_vec())
    );

    let (code, report) = verify_pair(&pair, &["--patience", "1", "--repair", "a"]);
    assert_eq!(
        (code, &report["keys_mended"]),
        (0, &Value::from(5)),
        "{report:#}"
    );
    assert_eq!(b.ask::<String>("GET string"), "hello");
    assert_eq!(b.ask::<u64>("EXISTS extra"), 0);
    pair.settle();
    let (code, report) = verify_pair(&pair, &[]);
    assert!(code == 0 && report["keys_equal"] == 9, "{report:#}");
    pair.no_echo();
}

/// What comes behind a mark the sidecar takes for its own: so it does not travel.
fn write_untold(client: &mut Client, peer: &str, lines: &[&str]) {
    let key = format!("tandem:from:{peer}");
    let mark: Vec<u8> = client.ask(&format!("GET {key}"));
    client.run("MULTI");
    client.send(&[&b"SET"[..], key.as_bytes(), &mark]);
    fill(client, lines);
    client.run("EXEC");
}

#[test]
fn three_sites_are_mended_from_any_of_them() {
    let mesh = Mesh::start(3, &Options::default());
    let mut clients = mesh.clients();
    fill(&mut clients[1], EACH_TYPE);
    mesh.settle();
    // Also at the site that has the last word in conflicts.
    write_untold(&mut clients[0], "b", &["SET string wrong", "DEL list"]);
    write_untold(
        &mut clients[2],
        "b",
        &["SET string worse", "SADD set wrong"],
    );
    mesh.settle();
    let files = mesh
        .sites
        .iter()
        .map(|site| config_file(site.sidecar.dir()));
    let files: Vec<String> = files.collect();
    let configs = files.iter().flat_map(|file| ["--config", file]);
    let args: Vec<&str> = configs.collect();
    let (code, report) = verify(&[&args[..], &["--patience", "1"]].concat());
    assert_eq!(code, 1, "{report:#}");
    let (code, report) = verify(&[&args[..], &["--patience", "1", "--repair", "b"]].concat());
    assert_eq!(code, 0, "{report:#}");
    mesh.settle();
    mesh.compare();
    assert_eq!(clients[0].ask::<String>("GET string"), "hello");
}

#[test]
fn what_cannot_be_done_has_its_exit_code() {
    let server = Server::start(&[]);
    let url = url(&server);
    let code = |args: &[&str]| run(args).status.code();
    assert_eq!(code(&["--redis", &url]), Some(64), "nothing to compare");
    assert_eq!(
        code(&["--redis", &url, "--redis", &url]),
        Some(64),
        "itself"
    );
    assert_eq!(
        code(&["--config", "/no/such.toml", "--redis", &url]),
        Some(78)
    );
    assert_eq!(
        code(&["--redis", &url, "--redis", "redis://127.0.0.1:1"]),
        Some(69)
    );
    let other = Server::start(&["requirepass secret"]);
    let without = self::url(&other);
    assert_eq!(code(&["--redis", &url, "--redis", &without]), Some(69));
    let with = without.replace("redis://", "redis://:secret@");
    assert_eq!(code(&["--redis", &url, "--redis", &with]), Some(0));
    let args = ["--redis", &url, "--redis", &with, "--repair", &url];
    let output = run(&args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        stderr.contains("--config") && !stderr.contains("secret"),
        "{stderr}"
    );
}

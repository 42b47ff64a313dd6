//! Snapshots of servers that cannot be run here, from Redis 2.2 to 8.6 (RDB 2 to 13): what the crate
//! `rdb`, a parser that others wrote, finds in its own test files must be what we find; and what a
//! real server finds, where it can still read them, and when it is given our payloads.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use rdb::{RdbDecoder, RdbValue, filter::Simple};
use redis::FromRedisValue;
use tandem::rdb::decode::{self, Value, decode};
use tandem::rdb::{Entry, Reader};

use crate::harness::{Client, Server};

/// Moments of expiry that two clocks say.
const TTL_TOLERANCE_MS: u64 = 10_000;
/// The databases of the tests' servers.
const DATABASES: u32 = 16;
/// How many files the crate has had; fewer would mean that they are not found.
const FILES: usize = 31;

/// A value, whatever it was packed in.
#[derive(Clone, Debug, PartialEq)]
enum Plain {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    /// Scores as bits.
    SortedSet(BTreeMap<Vec<u8>, u64>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// How many entries it has.
    Stream(usize),
}

/// By database and key: when it expires, and the value.
type Found = BTreeMap<(u32, Vec<u8>), (Option<u64>, Plain)>;

/// What we find in a file.
struct Ours {
    version: u16,
    found: Found,
    /// What of it has not expired.
    live: Found,
    /// What RESTORE takes.
    payloads: BTreeMap<(u32, Vec<u8>), Vec<u8>>,
    /// Whether modules have values in it.
    modules: bool,
}

#[test]
fn the_files_of_the_rdb_crate_are_read_as_it_reads_them() {
    let server = Server::start(&[]);
    let mut client = server.client();
    let known = rdb_version(&mut client);
    let is_redict = client.info("server", "redict_version").is_some();
    let files = files();
    assert!(files.len() >= FILES, "{files:?}");
    let mut versions = BTreeSet::new();
    for file in files {
        let name = file.file_name().expect("a name").to_string_lossy();
        let ours = read(&file);
        versions.insert(ours.version);
        let theirs = read_by_crate(&file);
        // It passes over streams and modules.
        let mut common = ours.found.clone();
        common.retain(|_, (_, value)| !matches!(value, Plain::Stream(_)));
        assert_eq!(common, theirs, "{name}");
        println!("{name}: RDB {}, {} keys", ours.version, ours.found.len());
        // Of Redis after they parted, Valkey 9 reads nothing, and Redict, whose 12 is another one,
        // not all.
        let is_foreign = (known >= 80 || is_redict) && ours.version > 11;
        if ours.version <= known && !is_foreign && !ours.modules {
            let found = load(&file, &ours.found);
            assert_eq!(found, ours.live, "{name}, read by a server");
        }
        if !ours.modules {
            restore(&mut client, &ours, &name);
        }
    }
    assert!(versions.range(2..=7).count() >= 6, "{versions:?}");
    assert!(
        versions.contains(&12) && versions.contains(&13),
        "{versions:?}"
    );
}

/// The platform this is built on and for, as `rustc` names it.
fn host() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().expect("rustc runs");
    let said = String::from_utf8(output.stdout).expect("text");
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("the host").to_owned()
}

/// The snapshots that the package of the crate has for its own tests: they are not in this
/// repository.
fn files() -> Vec<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Of all platforms the packages need not be on this machine.
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &host()])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {said}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|p| p["name"] == "rdb");
    let manifest = package.and_then(|p| p["manifest_path"].as_str());
    let manifest = Path::new(manifest.expect("the crate rdb"));
    let entries = fs::read_dir(manifest.with_file_name("tests").join("dumps"));
    let paths = entries
        .expect("its test files")
        .map(|e| e.expect("a file").path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "rdb"))
        .collect();
    files.sort();
    files
}

fn read(file: &Path) -> Ours {
    let mut reader = Reader::try_new(File::open(file).expect("a file")).expect("a snapshot");
    let mut ours = Ours {
        version: reader.version().number,
        found: Found::new(),
        live: Found::new(),
        payloads: BTreeMap::new(),
        modules: false,
    };
    while let Some(entry) = reader.next_entry().expect("an entry") {
        let Entry::Value(value) = entry else {
            continue;
        };
        if value.module {
            ours.modules = true;
            continue;
        }
        let name = (value.db, value.key.to_vec());
        let at = value.expire_at_ms;
        let plain = |since| {
            let decoded = decode(&value.payload).expect("a payload").value;
            (at, plain(decoded, since).expect("a value"))
        };
        assert_eq!(ours.found.insert(name.clone(), plain(0)), None);
        let live = plain(now_ms());
        let has_expired = |at| at <= now_ms();
        if !at.is_some_and(has_expired) && live.1 != Plain::Hash(BTreeMap::new()) {
            ours.live.insert(name.clone(), live);
        }
        ours.payloads.insert(name, value.payload.to_vec());
    }
    ours
}

/// A value, without fields that have expired before that moment.
fn plain(value: Value<'_>, since: u64) -> Result<Plain, decode::Error> {
    let items = |mut items: decode::Items<'_>| {
        let mut all = Vec::new();
        while let Some(item) = items.next_item()? {
            all.push(item.into_bytes().into_owned());
        }
        Ok::<_, decode::Error>(all)
    };
    Ok(match value {
        Value::String(text) => Plain::String(text.into_bytes().into_owned()),
        Value::List(list) => Plain::List(items(list)?),
        Value::Set(set) => Plain::Set(items(set)?.into_iter().collect()),
        Value::SortedSet(mut scores) => {
            let mut all = BTreeMap::new();
            while let Some((member, score)) = scores.next_member()? {
                all.insert(member.into_bytes().into_owned(), score.to_bits());
            }
            Plain::SortedSet(all)
        }
        Value::Hash(mut fields) => {
            let mut all = BTreeMap::new();
            while let Some(field) = fields.next_field()? {
                if field.expire_at_ms.is_some_and(|at| at <= since) {
                    continue;
                }
                let name = field.name.into_bytes().into_owned();
                all.insert(name, field.value.into_bytes().into_owned());
            }
            Plain::Hash(all)
        }
        Value::Stream(mut stream) => {
            let mut count = 0;
            while stream.next_entry()?.is_some() {
                count += 1;
            }
            Plain::Stream(count)
        }
    })
}

fn read_by_crate(file: &Path) -> Found {
    let input = BufReader::new(File::open(file).expect("a file"));
    let items = RdbDecoder::new(input, Simple::new()).expect("a snapshot");
    let mut found = Found::new();
    let mut db = 0;
    for item in items {
        let (key, expiry, plain) = match item.expect("an item") {
            RdbValue::SelectDb(number) => {
                db = number;
                continue;
            }
            RdbValue::String { key, value, expiry } => (key, expiry, Plain::String(value)),
            RdbValue::List {
                key,
                values,
                expiry,
            } => (key, expiry, Plain::List(values)),
            RdbValue::Set {
                key,
                members,
                expiry,
            } => (key, expiry, Plain::Set(members.into_iter().collect())),
            RdbValue::SortedSet {
                key,
                values,
                expiry,
            } => {
                let scores = values.into_iter().map(|(s, member)| (member, s.to_bits()));
                (key, expiry, Plain::SortedSet(scores.collect()))
            }
            RdbValue::Hash {
                key,
                values,
                expiry,
            } => (key, expiry, Plain::Hash(values.into_iter().collect())),
            RdbValue::ResizeDb { .. } | RdbValue::AuxField { .. } | RdbValue::Checksum(_) => {
                continue;
            }
        };
        found.insert((db, key), (expiry, plain));
    }
    found
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.expect("a clock").as_millis()).expect("a moment")
}

/// What a server finds that starts with the file.
fn load(file: &Path, names: &Found) -> Found {
    let dir = tempfile::tempdir().expect("a directory");
    fs::copy(file, dir.path().join("dump.rdb")).expect("a copy");
    // The option that comes later wins.
    let option = format!("dir {}", dir.path().display());
    let server = Server::start(&[&option]);
    let mut client = server.client();
    let mut found = Found::new();
    for db in 0..DATABASES {
        client.run(&format!("SELECT {db}"));
        for key in client.ask::<Vec<Vec<u8>>>("KEYS *") {
            assert!(names.contains_key(&(db, key.clone())), "{db} {key:?}");
            let left = client.send(&[b"PTTL", &key[..]]);
            let left = u64::try_from(i64::from_redis_value(left).expect("a span")).ok();
            let at = left.map(|left| now_ms() + left);
            let expected = names[&(db, key.clone())].0;
            // The server's clock was read a moment before ours.
            let near = |(a, b): (u64, u64)| a.abs_diff(b) < TTL_TOLERANCE_MS;
            let at = if at.zip(expected).is_some_and(near) {
                expected
            } else {
                at
            };
            let value = ask(&mut client, &key);
            found.insert((db, key), (at, value));
        }
    }
    found
}

/// The values that a server has when it is given our payloads. What it is too old for, it refuses.
fn restore(client: &mut Client, ours: &Ours, file: &str) {
    for ((db, key), payload) in &ours.payloads {
        client.run("FLUSHALL");
        client.run(&format!("SELECT {}", db % DATABASES));
        let mut restore = redis::cmd("RESTORE");
        restore.arg(key).arg(0).arg(&payload[..]);
        match restore.query::<redis::Value>(client.connection()) {
            Ok(_) => {
                let value = ours.live.get(&(*db, key.clone()));
                let shown = key.escape_ascii();
                let restored = value.map(|_| ask(client, key));
                assert_eq!(
                    restored.as_ref(),
                    value.map(|(_, v)| v),
                    "{shown} of {file}"
                );
            }
            Err(error) => {
                let refused = ["Bad data format", "DUMP payload version"];
                let told = refused.iter().any(|r| error.to_string().contains(r));
                assert!(told, "{error}");
            }
        }
    }
}

/// A value as a client reads it.
fn ask(client: &mut Client, key: &[u8]) -> Plain {
    let kind = client.send(&[b"TYPE", key]);
    let kind = String::from_redis_value(kind).expect("a type");
    let args: Vec<&[u8]> = match kind.as_str() {
        "string" => vec![b"GET", key],
        "list" => vec![b"LRANGE", key, b"0", b"-1"],
        "set" => vec![b"SMEMBERS", key],
        "zset" => vec![b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        "hash" => vec![b"HGETALL", key],
        "stream" => vec![b"XLEN", key],
        other => panic!("a {other}"),
    };
    let reply = client.send(&args);
    if kind == "stream" {
        return Plain::Stream(usize::from_redis_value(reply).expect("a length"));
    }
    if kind == "string" {
        return Plain::String(Vec::from_redis_value(reply).expect("a string"));
    }
    let all = Vec::<Vec<u8>>::from_redis_value(reply).expect("strings");
    let pairs = all.chunks(2);
    match kind.as_str() {
        "list" => Plain::List(all),
        "set" => Plain::Set(all.into_iter().collect()),
        "hash" => Plain::Hash(pairs.map(|p| (p[0].clone(), p[1].clone())).collect()),
        _ => {
            let score = |text: &[u8]| {
                let text = std::str::from_utf8(text).expect("a number");
                text.parse::<f64>().expect("a number").to_bits()
            };
            Plain::SortedSet(pairs.map(|p| (p[0].clone(), score(&p[1]))).collect())
        }
    }
}

/// The RDB version of a server: what DUMP says.
fn rdb_version(client: &mut Client) -> u16 {
    client.run("SET version 1");
    let dump: Vec<u8> = client.ask("DUMP version");
    client.run("DEL version");
    let footer = &dump[dump.len() - 10..];
    u16::from_le_bytes([footer[0], footer[1]])
}

//! Values that one server dumps, rebuilt with commands on every other, older ones too: what
//! RESTORE cannot bring there, and what is too large to travel whole. Without `TANDEM_SERVERS`, on the one server under test.

use std::collections::BTreeMap;
use std::io::Cursor;

use rand::RngCore;
use redis::{FromRedisValue, Value};
use tandem::command::scanner;
use tandem::rdb::commands::{Abilities, Limits, Losses, Rebuild};
use tandem::rdb::decode::has_disputed_entry;
use tandem::rdb::{Entry, Flavour, Place, Reader};
use tandem::redis::Info;

use crate::harness::server::versions;
use crate::harness::{Client, Server, rng_from_seed};

/// So small that most values need several pieces.
const LIMITS: Limits = Limits {
    bytes: 4096,
    commands: 50,
};
/// So small that a group's pending entries are divided, and most nodes of a stream are parts.
const PART_SIZE: usize = 500;
/// What pieces are built under.
const BUILT: &[u8] = b"being built";
/// 2100, so that nothing expires meanwhile.
const FAR: u64 = 4_102_444_800_123;

/// A payload, and its place if it is not the whole.
type Part = (Vec<u8>, Option<Place>);

#[test]
fn every_value_is_rebuilt_on_every_version() {
    let mut names = versions();
    if names.is_empty() {
        names.push(String::new());
    }
    let start = |name: &String| match name.as_str() {
        "" => Server::start(&[]),
        name => Server::version(name, &[]),
    };
    let targets: Vec<Server> = names.iter().map(start).collect();
    for name in &names {
        let source = start(name);
        let mut from = source.client();
        fill(&mut from);
        let keys: Vec<Vec<u8>> = from.ask("KEYS *");
        let mut values: Vec<(&[u8], Vec<Part>)> = Vec::new();
        for key in &keys {
            let dump = dump(&mut from, key);
            values.extend(parts_of(&dump).map(|parts| (&key[..], parts)));
            values.push((key, vec![(dump, None)]));
        }
        for (target, target_name) in targets.iter().zip(&names) {
            let mut to = target.client();
            to.run("FLUSHALL");
            let mut lost = Vec::new();
            for (key, parts) in &values {
                let losses = rebuild(parts, &mut to, key);
                let known = Known::by_both(&mut from, &mut to);
                let [here, there] = [&mut from, &mut to].map(|c| read(c, key, known));
                let shown = key.escape_ascii();
                assert_eq!(
                    here,
                    there,
                    "{shown}, of {name} on {target_name}, {} parts",
                    parts.len()
                );
                if !losses.is_none() {
                    lost.push(format!("{shown}: {losses}"));
                }
                check_losses(&losses, key, [name, target_name]);
            }
            println!(
                "{name} on {target_name}: {} values; {}",
                values.len(),
                lost.join("; ")
            );
        }
    }
}

/// Only what the target has no place for is lost.
fn check_losses(losses: &Losses, key: &[u8], [from, to]: [&str; 2]) {
    let expiring = |name: &str| name.starts_with("redis-8") || name == "valkey-9.1";
    if !from.is_empty() {
        let lost = key.starts_with(b"hash:ttl") && expiring(from) && !expiring(to);
        assert_eq!(losses.field_expiries > 0, lost, "{from} on {to}");
    }
    assert_eq!(
        losses.tokens > 0,
        key == b"stream:producers" && from == "redis-8.6"
    );
    assert_eq!((losses.pending, losses.given_back), (0, 0));
    assert!(!losses.key_metadata);
}

fn abilities(client: &mut Client) -> Abilities {
    let info = Info::parse(&client.ask::<String>("INFO"));
    match info.product.strip_prefix("Valkey ") {
        Some(own) => {
            let own = tandem::redis::Version::parse(own);
            Abilities::of_valkey(own.major, own.minor)
        }
        None => Abilities::of_redis(info.version.major, info.version.minor),
    }
}

fn dump(client: &mut Client, key: &[u8]) -> Vec<u8> {
    let dump = Vec::<u8>::from_redis_value(client.send(&[b"DUMP", key])).expect("a payload");
    if key == b"stream:edges" {
        assert!(has_disputed_entry(&dump).expect("a sound value"));
    }
    dump
}

/// Has a server execute the pieces of another's value: of the whole, or of its parts.
fn rebuild(parts: &[Part], to: &mut Client, key: &[u8]) -> Losses {
    let mut losses = Losses::default();
    for (payload, place) in parts {
        let rebuild = Rebuild::try_new(payload, BUILT, abilities(to), LIMITS);
        let mut pieces = rebuild.expect("decodable");
        if let Some(place) = place {
            pieces = pieces.of_part(*place);
        }
        for piece in pieces.by_ref() {
            let piece = piece.expect("a sound value");
            let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
            scanner::for_each(&piece.bytes, |command| {
                let args = (0..command.len()).map(|at| command.arg(at).to_vec());
                commands.push(args.collect());
            })
            .expect("commands");
            assert_eq!(commands.len(), piece.commands);
            assert!(piece.commands <= LIMITS.commands);
            to.pipeline(&commands);
        }
        losses.add(pieces.losses());
    }
    to.send(&[b"RENAME", BUILT, key]);
    losses
}

/// The parts of a value; none if it is not divided.
fn parts_of(dump: &[u8]) -> Option<Vec<Part>> {
    let version = u16::from_le_bytes([dump[dump.len() - 10], dump[dump.len() - 9]]);
    let again = Cursor::new(dump.to_vec());
    let reader = Reader::of_dump(dump, again, Flavour::of(version), PART_SIZE);
    let mut reader = reader.expect("a sound value")?;
    let mut parts = Vec::new();
    while let Some(entry) = reader.next_entry().expect("a sound value") {
        let Entry::Part(value, place) = entry else {
            return None;
        };
        parts.push((value.payload.to_vec(), Some(place)));
    }
    Some(parts)
}

/// Every type, small and large, as far as the server knows what is asked of it.
fn fill(client: &mut Client) {
    let mut rng = rng_from_seed("rebuild");
    let mut noise = |length: usize| {
        let mut bytes = vec![0; length];
        rng.fill_bytes(&mut bytes);
        bytes
    };
    for text in [
        "",
        "7",
        "-128",
        "32768",
        "2147483648",
        "9223372036854775807",
        "007",
        "1.5",
    ] {
        client.send(&[b"SET", format!("string:{text}").as_bytes(), text.as_bytes()]);
    }
    client.send(&[
        &b"SET"[..],
        b"string:lzf",
        "the same again ".repeat(9000).as_bytes(),
    ]);
    client.send(&[&b"SET"[..], b"string:noise", &noise(100_000)]);
    client.run("PFADD hll a b c d");
    client.run("SETBIT bitmap 200000 1");

    client
        .run("RPUSH list:small a b 3 -4 500 -4096 4095 70000 5000000000 \"\" -9223372036854775808");
    // Around the sizes at which the forms of lengths change.
    let edges = [
        63, 64, 253, 254, 4090, 4095, 4096, 8185, 16_375, 16_376, 16_377, 16_378, 16_379, 40_000,
    ];
    for length in edges {
        let long = vec![b'x'; length];
        client.send(&[&b"RPUSH"[..], b"list:edges", &long, &noise(length)]);
        client.send(&[
            &b"XADD"[..],
            b"stream:edges",
            b"*",
            b"f",
            &long,
            &noise(length),
            b"1",
        ]);
        client.send(&[&b"HSET"[..], b"hash:edges", &noise(length), &long]);
    }
    fill_collections(client);
    fill_streams(client);
}

fn fill_collections(client: &mut Client) {
    let many = |f: &dyn Fn(i64) -> Vec<String>| (0..700).flat_map(f).collect::<Vec<_>>();
    let mut all = |name: &str, args: Vec<String>| {
        let mut line: Vec<&[u8]> = name.split(' ').map(str::as_bytes).collect();
        line.extend(args.iter().map(String::as_bytes));
        client.send(&line);
    };
    all("RPUSH list:large", many(&|i| vec![format!("element {i}")]));
    all("SADD set:int16", (-5..20).map(|i| i.to_string()).collect());
    all(
        "SADD set:int32",
        (-5..20).map(|i| (i * 100_000).to_string()).collect(),
    );
    all(
        "SADD set:int64",
        (-5..20_i64).map(|i| (i << 40).to_string()).collect(),
    );
    all("SADD set:ints", many(&|i| vec![(i * 7).to_string()]));
    all(
        "SADD set:small",
        ["a", "b", "1", "200000"].map(String::from).to_vec(),
    );
    all("SADD set:large", many(&|i| vec![format!("member {i}")]));
    all(
        "ZADD zset:small",
        "1 a -2.5 b inf c -inf d 1e-300 e 0.1 f -0 g 3e300 h"
            .split(' ')
            .map(String::from)
            .collect(),
    );
    all(
        "ZADD zset:large",
        many(&|i| vec![(i as f64 / 7.0).to_string(), format!("member {i}")]),
    );
    all(
        "HSET hash:small",
        "field value number 12 other -70000"
            .split(' ')
            .map(String::from)
            .collect(),
    );
    all(
        "HSET hash:large",
        many(&|i| vec![format!("field {i}"), (i * i).to_string()]),
    );
    all(
        "HSET hash:ttl:small",
        "a 1 b 2 c 3 d 4".split(' ').map(String::from).collect(),
    );
    all(
        "HSET hash:ttl:large",
        many(&|i| vec![format!("field {i}"), format!("{i}")]),
    );
    let expiring = ["a", "b"].map(|f| ("hash:ttl:small", f.to_owned(), 0));
    let more = (0..600).map(|i| ("hash:ttl:large", format!("field {i}"), i % 90));
    for (key, field, after) in expiring.into_iter().chain(more) {
        let at = (FAR + after).to_string();
        drop(client.try_run(&format!("HPEXPIREAT {key} {at} FIELDS 1 '{field}'")));
    }
}

fn fill_streams(client: &mut Client) {
    for i in 1..=300 {
        client.run(&format!(
            "XADD stream:large {i}-1 sensor {} value 'reading {i}'",
            i % 7
        ));
        client.run(&format!("XADD stream:deleted {i}-5 a {i} b{i} {i}"));
    }
    for line in [
        "XDEL stream:large 5-1 6-1 299-1",
        "XGROUP CREATE stream:large first 0",
        "XGROUP CREATE stream:large idle $",
        "XGROUP CREATE stream:large 12345 100-1",
        "XREADGROUP GROUP first alice COUNT 20 STREAMS stream:large >",
        "XREADGROUP GROUP first bob COUNT 5 STREAMS stream:large >",
        "XREADGROUP GROUP first 7 COUNT 1 STREAMS stream:large >",
        "XACK stream:large first 1-1 2-1",
        "XCLAIM stream:large first carol 0 3-1 4-1",
        "XREADGROUP GROUP idle nobody STREAMS stream:large >",
        // Pending, then trimmed from the front, and deleted between and behind.
        "XGROUP CREATE stream:deleted g 0",
        "XGROUP CREATE stream:deleted h 50-5",
        "XREADGROUP GROUP g alice COUNT 150 STREAMS stream:deleted >",
        "XREADGROUP GROUP g bob COUNT 150 STREAMS stream:deleted >",
        "XREADGROUP GROUP h bob COUNT 3 STREAMS stream:deleted >",
        "XDEL stream:deleted 51-5 52-5 200-5 299-5 300-5",
        "XTRIM stream:deleted MAXLEN 200",
        "XADD stream:gone 7-7 a b",
        "XGROUP CREATE stream:gone g 0",
        "XREADGROUP GROUP g c STREAMS stream:gone >",
        "XDEL stream:gone 7-7",
        "XADD stream:trimmed 7-7 a b",
        "XGROUP CREATE stream:trimmed g 0",
        "XREADGROUP GROUP g c STREAMS stream:trimmed >",
        "XTRIM stream:trimmed MAXLEN 0",
        "XADD stream:empty 18446744073709551615-18446744073709551614 a b",
        "XDEL stream:empty 18446744073709551615-18446744073709551614",
        "XGROUP CREATE stream:never g 0 MKSTREAM",
        "XADD stream:beyond 1-1 a b",
        "XSETID stream:beyond 99-9",
        "XADD stream:wraps 5-18446744073709551615 a b",
        "XADD stream:wraps 6-0 a b",
        "XADD stream:wraps 18446744073709551615-1 a b",
    ] {
        client.run(line);
    }
    for line in [
        "XADD stream:producers IDMP producer token * a b",
        "XADD stream:producers IDMP producer other * a b",
        "XADD stream:configured 1-1 a b",
        "XCFGSET stream:configured IDMP-DURATION 77 IDMP-MAXSIZE 7",
        "XSETID stream:beyond 99-9 ENTRIESADDED 50 MAXDELETEDID 40-4",
    ] {
        drop(client.try_run(line));
    }
}

/// What both servers can say of a value.
#[derive(Clone, Copy)]
struct Known {
    /// Whether fields expire.
    expiries: bool,
    /// `XINFO STREAM FULL`.
    full: bool,
    /// What streams since 7.0 count.
    counters: bool,
    /// What streams since 8.6 remember of producers.
    producers: bool,
}

impl Known {
    fn by_both(a: &mut Client, b: &mut Client) -> Self {
        let [a_can, b_can] = [abilities(a), abilities(b)];
        let both = |can: fn(&Abilities) -> bool| can(&a_can) && can(&b_can);
        Self {
            expiries: both(|can| can.field_expiry_until_ms.is_some()),
            full: a.version().min(b.version()) >= (6, 0),
            counters: both(|can| can.stream_counters),
            producers: both(|can| can.stream_producers),
        }
    }
}

/// A value as text: its type, and everything that both servers can say of it.
fn read(client: &mut Client, key: &[u8], known: Known) -> Vec<String> {
    let kind = String::from_redis_value(client.send(&[b"TYPE", key])).expect("a type");
    let mut ask = |line: &[&[u8]]| texts(&client.send(line));
    let mut all = match kind.as_str() {
        "string" => ask(&[b"GET", key]),
        "list" => ask(&[b"LRANGE", key, b"0", b"-1"]),
        "set" => ask(&[b"SMEMBERS", key]),
        "zset" => {
            let flat = ask(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]);
            // Servers since 7.0 keep a small set's -0 as 0.
            let score = |text: &str| (text.parse::<f64>().expect("a score") + 0.0).to_bits();
            flat.chunks(2)
                .map(|pair| format!("{} {:x}", pair[0], score(&pair[1])))
                .collect()
        }
        "hash" => {
            let flat = ask(&[b"HGETALL", key]);
            let mut pairs: Vec<String> = flat.chunks(2).map(|pair| pair.join(" ")).collect();
            if known.expiries {
                for field in client_fields(client, key) {
                    let line: [&[u8]; 5] = [b"HPEXPIRETIME", key, b"FIELDS", b"1", &field];
                    pairs.push(format!("{} {:?}", field.escape_ascii(), client.send(&line)));
                }
            }
            pairs
        }
        "stream" => return read_stream(client, key, known),
        other => panic!("{other}"),
    };
    if kind == "set" || kind == "hash" {
        all.sort();
    }
    all.insert(0, kind);
    all
}

fn client_fields(client: &mut Client, key: &[u8]) -> Vec<Vec<u8>> {
    Vec::from_redis_value(client.send(&[b"HKEYS", key])).expect("fields")
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(texts).collect(),
        Value::BulkString(bytes) => vec![bytes.escape_ascii().to_string()],
        other => vec![format!("{other:?}")],
    }
}

fn read_stream(client: &mut Client, key: &[u8], known: Known) -> Vec<String> {
    let mut all = texts(&client.send(&[b"XRANGE", key, b"-", b"+"]));
    let mut names = vec![
        "length",
        "last-generated-id",
        "name",
        "pending",
        "last-delivered-id",
        "consumers",
    ];
    if known.counters {
        names.extend([
            "max-deleted-entry-id",
            "entries-added",
            "entries-read",
            "recorded-first-entry-id",
        ]);
    }
    if known.producers {
        names.extend(["idmp-duration", "idmp-maxsize"]);
    }
    all.push(named(
        &client.send(&[&b"XINFO"[..], b"STREAM", key]),
        &names,
    ));
    let Value::Array(groups) = client.send(&[&b"XINFO"[..], b"GROUPS", key]) else {
        panic!("no groups");
    };
    for group in groups {
        all.push(named(&group, &names));
        let name = field(&group, "name").expect("a name");
        let name = Vec::<u8>::from_redis_value(name).expect("bytes");
        let Value::Array(consumers) = client.send(&[&b"XINFO"[..], b"CONSUMERS", key, &name])
        else {
            panic!("no consumers");
        };
        all.extend(consumers.iter().map(|consumer| named(consumer, &names)));
        let rows = client.send(&[b"XPENDING", key, &name, b"-", b"+", b"10000"]);
        let Value::Array(rows) = rows else {
            panic!("no rows");
        };
        for row in rows {
            let mut row = texts(&row);
            // For how long nothing was heard of it.
            row.remove(2);
            all.push(row.join(" "));
        }
    }
    if known.full {
        let full = client.send(&[&b"XINFO"[..], b"STREAM", key, b"FULL", b"COUNT", b"0"]);
        names.extend(["pel-count", "pel", "groups"]);
        all.push(named(&full, &names));
    }
    all
}

fn field(map: &Value, name: &str) -> Option<Value> {
    let Value::Array(flat) = map else {
        return None;
    };
    let mut pairs = flat.chunks(2);
    pairs.find_map(|pair| (texts(&pair[0]) == [name]).then(|| pair[1].clone()))
}

/// The fields of a map that have these names, and so in the maps within.
fn named(value: &Value, names: &[&str]) -> String {
    let Value::Array(flat) = value else {
        return texts(value).join(" ");
    };
    let is_name = |value: &Value| matches!(value, Value::BulkString(_) | Value::SimpleString(_));
    let map = flat.len().is_multiple_of(2) && flat.chunks(2).all(|pair| is_name(&pair[0]));
    if !map || flat.is_empty() {
        let rows: Vec<String> = flat.iter().map(|row| named(row, names)).collect();
        return format!("[{}]", rows.join(", "));
    }
    let found: BTreeMap<&str, String> = names
        .iter()
        .filter_map(|name| Some((*name, named(&field(value, name)?, names))))
        .collect();
    match found.is_empty() {
        // An entry pending is a list that begins with two names.
        true => texts(value).join(" "),
        false => format!("{found:?}"),
    }
}

//! The full compare: every database, every key, its type, its value and its TTL.

use std::collections::BTreeSet;
use std::fmt;
use std::iter;

use redis::{FromRedisValue, Value};

use super::client::Client;
use super::pair::Pair;

/// Moments of expiry may differ by so much: servers before 7.0 stream spans of time.
const TTL_TOLERANCE_MS: i64 = 1500;
/// Keys read in one pipeline.
const CHUNK: usize = 256;
/// Differences shown.
const SHOWN: usize = 20;
/// Keys of the sidecars.
const RESERVED: &[u8] = b"tandem:";

/// Fails unless both sites are equal; says how many keys they have.
pub(crate) fn compare(pair: &Pair) -> usize {
    let (mut a, mut b) = pair.clients();
    let (keys, differences) = differences(&mut a, &mut b);
    let shown = differences.iter().take(SHOWN);
    let shown: Vec<String> = shown.map(ToString::to_string).collect();
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        shown.join("\n")
    );
    keys
}

/// A key that is not the same at both.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) db: usize,
    pub(crate) key: Vec<u8>,
    pub(crate) kind: Kind,
    /// Both values, or what else differs.
    pub(crate) detail: String,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only the second has the key.
    NotAtFirst,
    /// Only the first has it.
    NotAtSecond,
    Type,
    Value,
    /// Only the second has a TTL.
    NoTtlAtFirst,
    /// Only the first has one.
    NoTtlAtSecond,
    Ttl,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "db {} {}: {}", self.db, show(&self.key), self.detail)
    }
}

/// How many keys there are, and every difference.
pub(crate) fn differences(a: &mut Client, b: &mut Client) -> (usize, Vec<Difference>) {
    let depth = Depth::of(a, b);
    differences_to(a, b, &depth)
}

/// As [`differences`], apart from what streams count: entries that came late were added twice.
pub(crate) fn differences_in_value(a: &mut Client, b: &mut Client) -> (usize, Vec<Difference>) {
    let mut depth = Depth::of(a, b);
    depth.stream = &STREAM_FIELDS[..ESSENTIAL_STREAM_FIELDS];
    differences_to(a, b, &depth)
}

/// Every difference between a site and a server that was told the same later on its own, apart
/// from what streams count: that tells how a value came about.
pub(crate) fn differences_from_model(site: &mut Client, model: &mut Client) -> Vec<Difference> {
    let mut depth = Depth::of(site, model);
    depth.stream = &STREAM_FIELDS[..ESSENTIAL_STREAM_FIELDS];
    depth.ttl_tolerance_ms = 60_000;
    differences_to(site, model, &depth).1
}

/// A key at one server in words: its type, its value and its TTL.
pub(crate) fn describe(client: &mut Client, db: usize, key: &[u8]) -> String {
    let depth = Depth {
        stream: &STREAM_FIELDS[..ESSENTIAL_STREAM_FIELDS],
        field_ttls: knows_field_ttls(client),
        ttl_tolerance_ms: 0,
    };
    client.run(&format!("SELECT {db}"));
    let entries = read(client, &[key], &depth);
    client.run("SELECT 0");
    match entries.first() {
        Some(entry) if entry.kind != "none" => {
            let ttl = match entry.ttl {
                -1 => String::new(),
                ms => format!(" for {} s", ms / 1000),
            };
            format!("{} {}{ttl}", entry.kind, plainly(&entry.value))
        }
        _ => "nothing".to_owned(),
    }
}

/// A value as a person would write it.
fn plainly(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => bytes.escape_ascii().to_string(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(plainly).collect();
            format!("[{}]", values.join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn differences_to(a: &mut Client, b: &mut Client, depth: &Depth) -> (usize, Vec<Difference>) {
    let databases: BTreeSet<usize> = [&mut *a, &mut *b].into_iter().flat_map(databases).collect();
    let mut found = Vec::new();
    let mut keys = 0;
    for db in databases {
        let (here, there) = (all_keys(a, db), all_keys(b, db));
        keys += here.union(&there).count();
        let both: Vec<&[u8]> = here.union(&there).map(Vec::as_slice).collect();
        for chunk in both.chunks(CHUNK) {
            let (left, right) = (read(a, chunk, depth), read(b, chunk, depth));
            for ((key, left), right) in chunk.iter().zip(left).zip(right) {
                if let Some((kind, detail)) =
                    Entry::difference(&left, &right, depth.ttl_tolerance_ms)
                {
                    let key = key.to_vec();
                    found.push(Difference {
                        db,
                        key,
                        kind,
                        detail,
                    });
                }
            }
        }
        a.run("SELECT 0");
        b.run("SELECT 0");
    }
    (keys, found)
}

/// The databases that have keys.
fn databases(client: &mut Client) -> Vec<usize> {
    let text: String = client.ask("INFO keyspace");
    let numbers = text.lines().filter_map(|line| {
        let (number, _) = line.strip_prefix("db")?.split_once(':')?;
        number.parse().ok()
    });
    numbers.collect()
}

/// All keys of a database but the reserved ones; leaves the database selected.
pub(crate) fn all_keys(client: &mut Client, db: usize) -> BTreeSet<Vec<u8>> {
    client.run(&format!("SELECT {db}"));
    let mut keys = BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let (next, page): (String, Vec<Vec<u8>>) = client.ask(&format!("SCAN {cursor} COUNT 2000"));
        keys.extend(page.into_iter().filter(|k| !k.starts_with(RESERVED)));
        if next == "0" {
            return keys;
        }
        cursor = next;
    }
}

/// What both servers can tell of a value.
struct Depth {
    /// The names of what XINFO tells.
    stream: &'static [&'static str],
    /// Whether fields have moments of expiry.
    field_ttls: bool,
    /// Moments of expiry that are no further apart are the same.
    ttl_tolerance_ms: i64,
}

impl Depth {
    /// All that both can tell.
    fn of(a: &mut Client, b: &mut Client) -> Self {
        Self {
            stream: stream_fields(a.version().min(b.version())),
            field_ttls: knows_field_ttls(a) && knows_field_ttls(b),
            ttl_tolerance_ms: TTL_TOLERANCE_MS,
        }
    }
}

fn knows_field_ttls(client: &mut Client) -> bool {
    let known: Vec<Value> = client.ask("COMMAND INFO HPEXPIRETIME");
    known.iter().any(|command| !matches!(command, Value::Nil))
}

/// One key at one site.
#[derive(Debug, PartialEq)]
struct Entry {
    kind: String,
    /// Milliseconds; -1 without, -2 without key.
    ttl: i64,
    /// The server's clock when the TTL was read: the two sites are not read at the same moment.
    read_at: i64,
    value: Value,
}

impl Entry {
    fn difference(left: &Self, right: &Self, tolerance_ms: i64) -> Option<(Kind, String)> {
        let end = |e: &Self| e.read_at + e.ttl;
        let far = left.ttl >= 0 && (end(left) - end(right)).abs() > tolerance_ms;
        let volatile = |ttl: i64| ttl >= 0;
        // Between the two reads a key may have expired.
        let latest = left.read_at.max(right.read_at);
        let dying =
            |e: &Self| e.kind == "none" || volatile(e.ttl) && end(e) <= latest + TTL_TOLERANCE_MS;
        if dying(left) && dying(right) {
            return None;
        }
        let kind = match (volatile(left.ttl), volatile(right.ttl)) {
            _ if left.kind == "none" && right.kind != "none" => Kind::NotAtFirst,
            _ if right.kind == "none" && left.kind != "none" => Kind::NotAtSecond,
            _ if left.kind != right.kind => Kind::Type,
            (false, true) => Kind::NoTtlAtFirst,
            (true, false) => Kind::NoTtlAtSecond,
            _ if far => Kind::Ttl,
            _ if left.value != right.value => Kind::Value,
            _ => return None,
        };
        let detail = match kind {
            Kind::NoTtlAtFirst | Kind::NoTtlAtSecond | Kind::Ttl => {
                format!("TTL {} ms / {} ms", left.ttl, right.ttl)
            }
            _ => format!("{} / {}", left.brief(), right.brief()),
        };
        Some((kind, detail))
    }

    fn brief(&self) -> String {
        let value = format!("{:?}", self.value);
        let end = value.char_indices().nth(1500).map_or(value.len(), |c| c.0);
        let (start, _) = value.split_at(end);
        format!("{} {start} (TTL {})", self.kind, self.ttl)
    }
}

fn read(client: &mut Client, keys: &[&[u8]], depth: &Depth) -> Vec<Entry> {
    let heads = keys
        .iter()
        .flat_map(|key| [vec![b"TYPE" as &[u8], key], vec![b"PTTL", key]]);
    let commands: Vec<Vec<&[u8]>> = iter::once(vec![b"TIME" as &[u8]]).chain(heads).collect();
    let replies = client.pipeline(&commands);
    let clock: Vec<i64> = FromRedisValue::from_redis_value_ref(&replies[0]).expect("a time");
    let read_at = clock[0] * 1000 + clock[1] / 1000;
    let heads: Vec<(String, i64)> = replies[1..]
        .chunks(2)
        .map(|pair| (text(&pair[0]), number(&pair[1])))
        .collect();
    let commands: Vec<Vec<&[u8]>> = keys
        .iter()
        .zip(&heads)
        .map(|(key, (kind, _))| value_command(kind, key))
        .collect();
    let values = client.pipeline(&commands);
    keys.iter()
        .zip(heads)
        .zip(values)
        .map(|((key, (kind, ttl)), value)| {
            let value = match kind.as_str() {
                "stream" => Value::Array(vec![value, stream_details(client, key, depth.stream)]),
                "set" => sorted(value, 1),
                "vectorset" => vectors(client, key, sorted(value, 1)),
                "zset" => with_numbers(value),
                "hash" if depth.field_ttls => field_ttls(client, key, sorted(value, 2)),
                "hash" => sorted(value, 2),
                "string" => without_cached_count(value),
                _ => value,
            };
            Entry {
                kind,
                ttl,
                read_at,
                value,
            }
        })
        .collect()
}

/// A HyperLogLog keeps the last answer to PFCOUNT in its head, where it is no part of the value.
fn without_cached_count(mut value: Value) -> Value {
    if let Value::BulkString(bytes) = &mut value
        && bytes.starts_with(b"HYLL")
        && let Some(count) = bytes.get_mut(8..16)
    {
        count.fill(0);
    }
    value
}

fn value_command<'a>(kind: &str, key: &'a [u8]) -> Vec<&'a [u8]> {
    match kind {
        "none" => vec![b"EXISTS", key],
        "string" => vec![b"GET", key],
        "list" => vec![b"LRANGE", key, b"0", b"-1"],
        "set" => vec![b"SMEMBERS", key],
        "zset" => vec![b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        "hash" => vec![b"HGETALL", key],
        "stream" => vec![b"XRANGE", key, b"-", b"+"],
        // Its dump has a graph that chance has made.
        "vectorset" => vec![b"VRANDMEMBER", key, b"1000000"],
        _ => vec![b"DUMP", key],
    }
}

/// What both servers tell of a stream and its groups.
fn stream_fields(version: (u32, u32)) -> &'static [&'static str] {
    let known = if version < (7, 0) {
        ESSENTIAL_STREAM_FIELDS
    } else {
        STREAM_FIELDS.len()
    };
    &STREAM_FIELDS[..known]
}

const STREAM_FIELDS: &[&str] = &[
    "length",
    "last-generated-id",
    "name",
    "pending",
    "last-delivered-id",
    // Since 7.0.
    "max-deleted-entry-id",
    "entries-added",
];
/// How many of them every version knows.
const ESSENTIAL_STREAM_FIELDS: usize = 5;

/// What of a stream is not in its entries: the last id, groups, who owes which entry.
fn stream_details(client: &mut Client, key: &[u8], compared: &[&str]) -> Value {
    let mut details = fields(&client.send(&[b"XINFO" as &[u8], b"STREAM", key]), compared);
    let groups = client.send(&[b"XINFO" as &[u8], b"GROUPS", key]);
    let Value::Array(groups) = groups else {
        return Value::Array(details);
    };
    for group in groups {
        let described = fields(&group, compared);
        let name = fields(&group, &["name"]);
        details.push(Value::Array(described));
        if let Some(Value::BulkString(name)) = name.get(1) {
            let args: [&[u8]; 6] = [b"XPENDING", key, name, b"-", b"+", b"10000"];
            details.push(without_idle_times(client.send(&args)));
        }
    }
    Value::Array(details)
}

/// Names and values of these fields of a flat map.
fn fields(map: &Value, names: &[&str]) -> Vec<Value> {
    let Value::Array(flat) = map else {
        return vec![map.clone()];
    };
    let known = |name: &Value| names.contains(&text(name).as_str());
    flat.chunks(2)
        .filter(|pair| known(&pair[0]))
        .flat_map(<[Value]>::to_vec)
        .collect()
}

/// XPENDING rows are id, consumer, idle milliseconds, deliveries.
fn without_idle_times(rows: Value) -> Value {
    let Value::Array(rows) = rows else {
        return rows;
    };
    let strip = |row: Value| match row {
        Value::Array(mut row) if row.len() == 4 => {
            row.remove(2);
            Value::Array(row)
        }
        other => other,
    };
    Value::Array(rows.into_iter().map(strip).collect())
}

/// Fields and values, and when each field expires.
fn field_ttls(client: &mut Client, key: &[u8], hash: Value) -> Value {
    let Value::Array(flat) = &hash else {
        return hash;
    };
    let fields: Vec<Vec<u8>> = flat.iter().step_by(2).map(bytes).collect();
    let count = fields.len().to_string();
    let mut command = vec![b"HPEXPIRETIME" as &[u8], key, b"FIELDS", count.as_bytes()];
    command.extend(fields.iter().map(Vec::as_slice));
    let moments = client.send(&command);
    Value::Array(vec![hash, moments])
}

/// Elements with their vectors and attributes.
fn vectors(client: &mut Client, key: &[u8], elements: Value) -> Value {
    let Value::Array(elements) = elements else {
        return elements;
    };
    let described = elements.into_iter().map(|element| {
        let name = bytes(&element);
        let vector = client.send(&[b"VEMB" as &[u8], key, &name]);
        let attribute = client.send(&[b"VGETATTR" as &[u8], key, &name]);
        Value::Array(vec![element, vector, attribute])
    });
    Value::Array(described.collect())
}

/// Members with their scores as numbers: versions write the same number in different ways.
fn with_numbers(value: Value) -> Value {
    let Value::Array(mut flat) = value else {
        return value;
    };
    for score in flat.iter_mut().skip(1).step_by(2) {
        if let Ok(number) = text(score).parse() {
            *score = Value::Double(number);
        }
    }
    Value::Array(flat)
}

/// Rows of so many values, in the order of their bytes.
fn sorted(value: Value, width: usize) -> Value {
    let Value::Array(flat) = value else {
        return value;
    };
    let mut rows: Vec<Vec<Vec<u8>>> = flat
        .chunks(width)
        .map(|row| row.iter().map(bytes).collect())
        .collect();
    rows.sort();
    let values = rows.into_iter().flatten().map(Value::BulkString);
    Value::Array(values.collect())
}

fn bytes(value: &Value) -> Vec<u8> {
    Vec::from_redis_value_ref(value).expect("a string")
}

fn text(value: &Value) -> String {
    String::from_redis_value_ref(value).unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    i64::from_redis_value_ref(value).expect("a number")
}

fn show(key: &[u8]) -> String {
    let start = &key[..key.len().min(60)];
    start.escape_ascii().to_string()
}

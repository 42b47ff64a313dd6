//! The judgement: have the sites settled, are their databases equal, are the counters exact.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use redis_protocol::resp2::types::BytesFrame;
use tokio::time::{Instant, sleep};

use super::client::{self, Client, Command, bytes, command, number, parts, text};
use super::load::Tally;
use super::servers::{Site, Stage, describe};

/// Keys that belong to the sidecar and never travel.
const RESERVED: &[u8] = b"tandem:";
/// How far apart two TTLs of one key may be, in milliseconds: they are read one after the other.
const TTL_TOLERANCE: u64 = 1_500;
/// How many keys are read at once.
const CHUNK: usize = 200;
/// How often the sites are asked whether they have settled.
const ASK: Duration = Duration::from_millis(50);
/// Between the first look at a key that differs and the second. A key that expires between the
/// reads of two sites seems to differ, and does not after this.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// What comparing all keys of both sites found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Keys compared.
    pub(super) keys: u64,
    /// How many there are of each type.
    pub(super) by_type: BTreeMap<String, u64>,
    /// The keys that differ, and how.
    pub(super) differences: Vec<String>,
}

impl Comparison {
    /// Whether nothing differs, of which there was something.
    pub(super) fn is_equal(&self) -> bool {
        self.keys > 0 && self.differences.is_empty()
    }
}

/// What checking the counters found.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Counters checked, at both sites.
    pub(super) checked: usize,
    /// Acknowledged increments and decrements of them.
    pub(super) increments: u64,
    /// Those whose value is not the sum, and what it is.
    pub(super) wrong: Vec<String>,
}

impl Counters {
    /// Whether all are the sum of what was acknowledged, and there were some.
    pub(super) fn is_exact(&self) -> bool {
        self.checked > 0 && self.wrong.is_empty()
    }
}

/// Waits until each sidecar has read all that its Redis has written and has nothing left to
/// send, both in the same pass, twice in a row: what the first pass finds at rest may have been
/// set in motion by the other site between the two looks.
pub(super) async fn wait_until_settled(stage: &mut Stage, within: Duration) -> Result<Duration> {
    let started = Instant::now();
    let mut clients = open(&stage.sites).await?;
    let mut passes = 0;
    loop {
        stage.check()?;
        let mut seen = Vec::new();
        let mut all = true;
        for (site, client) in stage.sites.iter().zip(&mut clients) {
            let written = client.info("replication", "master_repl_offset").await?;
            let written: u64 = written.trim().parse().context("read master_repl_offset")?;
            let status = site.status().await?;
            all &= status.settled && status.redis.offset >= written;
            seen.push(format!("{} (its Redis: {written})", describe(&status)));
        }
        passes = if all { passes + 1 } else { 0 };
        if passes == 2 {
            return Ok(started.elapsed());
        }
        if started.elapsed() > within {
            let seconds = within.as_secs();
            bail!("not settled after {seconds} s: {}", seen.join(" | "));
        }
        sleep(ASK).await;
    }
}

/// Compares every key of every database of both sites: type, value and TTL.
pub(super) async fn databases(sites: &[Site; 2]) -> Result<Comparison> {
    let mut clients = open(sites).await?;
    let mut comparison = Comparison::default();
    let mut in_use = BTreeSet::new();
    for client in &mut clients {
        in_use.extend(databases_of(client).await?);
    }
    for db in in_use {
        let mut keys = BTreeSet::new();
        for client in &mut clients {
            client.call(&["SELECT", &db.to_string()]).await?;
            keys.extend(scan(client).await?);
        }
        let keys: Vec<Bytes> = keys.into_iter().collect();
        let suspects = differing(&mut clients, &keys, &mut comparison.by_type).await?;
        if suspects.is_empty() {
            continue;
        }
        sleep(SECOND_LOOK).await;
        let suspects: Vec<Bytes> = suspects.into_iter().map(|(key, _)| key).collect();
        for (key, how) in differing(&mut clients, &suspects, &mut BTreeMap::new()).await? {
            let key = String::from_utf8_lossy(&key).into_owned();
            let [here, there] = sites.each_ref().map(|site| site.name);
            let difference = format!("database {db}, {key}: {how} (here {here}, there {there})");
            comparison.differences.push(difference);
        }
    }
    comparison.keys = comparison.by_type.values().sum();
    Ok(comparison)
}

/// Checks every counter at both sites against the increments that Redis acknowledged.
pub(super) async fn counters(sites: &[Site; 2], tally: &Tally) -> Result<Counters> {
    let mut found = Counters::default();
    for (site, mut client) in sites.iter().zip(open(sites).await?) {
        for (counter, (sum, count)) in &tally.counters {
            let db = counter.db.to_string();
            client.call(&["SELECT", &db]).await?;
            let reply = match &counter.field {
                Some(field) => client.call(&["HGET", &counter.key, field]).await?,
                None => client.call(&["GET", &counter.key]).await?,
            };
            found.checked += 1;
            found.increments += count;
            let value = number(&reply);
            if value != *sum {
                let field = counter.field.as_deref().unwrap_or_default();
                let (name, key) = (site.name, &counter.key);
                let wrong = format!("{name}, database {db}, {key} {field}: {value}, not {sum}");
                found.wrong.push(wrong);
            }
        }
    }
    // Each increment was looked for at both sites.
    found.increments /= 2;
    found.checked /= 2;
    Ok(found)
}

async fn open(sites: &[Site; 2]) -> Result<[Client; 2]> {
    let [first, second] = sites;
    Ok([
        Client::open(first.redis).await?,
        Client::open(second.redis).await?,
    ])
}

async fn databases_of(client: &mut Client) -> Result<Vec<u32>> {
    let reply = client.call(&["INFO", "keyspace"]).await?;
    let number = |line: &str| line.strip_prefix("db")?.split_once(':')?.0.parse().ok();
    Ok(text(&reply).lines().filter_map(number).collect())
}

/// All keys of the chosen database but the reserved ones.
async fn scan(client: &mut Client) -> Result<Vec<Bytes>> {
    let mut keys = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.call(&["SCAN", &cursor, "COUNT", "1000"]).await?;
        let mut halves = parts(reply).into_iter();
        let next = halves.next().context("read a cursor of SCAN")?;
        let found = halves.next().context("read the keys of SCAN")?;
        let found = parts(found);
        keys.extend(found.iter().map(bytes).filter(|k| !k.starts_with(RESERVED)));
        cursor = text(&next);
        if cursor == "0" {
            return Ok(keys);
        }
    }
}

/// A key as one site has it.
#[derive(Debug, PartialEq)]
struct Entry {
    kind: String,
    /// The value as sorted or ordered parts, whatever the type.
    value: Vec<Bytes>,
    /// As PTTL says it: -1 without a TTL, -2 without a key.
    ttl: i64,
}

impl Entry {
    /// How this differs from what another site has.
    fn difference(&self, other: &Self) -> Option<String> {
        let (mine, theirs) = (&self.kind, &other.kind);
        if mine != theirs {
            return Some(format!("{mine} here, {theirs} there"));
        }
        if self.value != other.value {
            let pairs = self.value.iter().zip(&other.value);
            let same = pairs.take_while(|(a, b)| a == b).count();
            let (mine, theirs) = (self.value.len(), other.value.len());
            return Some(format!(
                "{kind} of {mine} parts here and {theirs} there, different from part {same} on",
                kind = self.kind,
            ));
        }
        let comparable = self.ttl >= 0 && other.ttl >= 0;
        let close = self.ttl.abs_diff(other.ttl) <= TTL_TOLERANCE;
        let equal = self.ttl == other.ttl || (comparable && close);
        (!equal).then(|| format!("TTL {} ms here, {} ms there", self.ttl, other.ttl))
    }
}

/// The keys that differ, and how.
async fn differing(
    clients: &mut [Client; 2],
    keys: &[Bytes],
    by_type: &mut BTreeMap<String, u64>,
) -> Result<Vec<(Bytes, String)>> {
    let mut differences = Vec::new();
    let [first, second] = clients;
    for chunk in keys.chunks(CHUNK) {
        let here = read(first, chunk).await?;
        let there = read(second, chunk).await?;
        for ((key, here), there) in chunk.iter().zip(here).zip(there) {
            if let Some(how) = here.difference(&there) {
                differences.push((key.clone(), how));
            }
            // A key that has expired since SCAN is none at both.
            if here.kind != "none" {
                *by_type.entry(here.kind).or_default() += 1;
            }
        }
    }
    Ok(differences)
}

/// Reads keys of the chosen database: first their types, then their values.
async fn read(client: &mut Client, keys: &[Bytes]) -> Result<Vec<Entry>> {
    let ask = |key: &Bytes| with_key("TYPE", key, &[]);
    let kinds = client.pipeline(keys.iter().map(ask).collect()).await?;
    let kinds: Vec<String> = kinds.iter().map(text).collect();
    let mut commands = Vec::with_capacity(2 * keys.len());
    for (key, kind) in keys.iter().zip(&kinds) {
        commands.push(value_command(kind, key));
        commands.push(with_key("PTTL", key, &[]));
    }
    let mut replies = client.pipeline(commands).await?.into_iter();
    let mut entries = Vec::with_capacity(keys.len());
    for kind in kinds {
        let value = replies.next().context("read a value")?;
        let ttl = replies.next().context("read a TTL")?;
        entries.push(Entry {
            value: flatten(&kind, client::checked(value)?),
            ttl: number(&client::checked(ttl)?),
            kind,
        });
    }
    Ok(entries)
}

fn with_key(name: &str, key: &Bytes, more: &[&str]) -> Command {
    let mut words = command(&[name]);
    words.push(key.clone());
    words.extend(command(more));
    words
}

/// The command that reads a value of this type.
fn value_command(kind: &str, key: &Bytes) -> Command {
    match kind {
        "string" => with_key("GET", key, &[]),
        "list" => with_key("LRANGE", key, &["0", "-1"]),
        "hash" => with_key("HGETALL", key, &[]),
        "set" => with_key("SMEMBERS", key, &[]),
        "zset" => with_key("ZRANGE", key, &["0", "-1", "WITHSCORES"]),
        "stream" => with_key("XRANGE", key, &["-", "+"]),
        // "none", for a key that the other site has; and types that the demo does not write.
        _ => with_key("DUMP", key, &[]),
    }
}

/// A value as parts that are equal exactly if the values are. Sets and hashes have no order.
fn flatten(kind: &str, value: BytesFrame) -> Vec<Bytes> {
    match kind {
        "set" => {
            let mut members: Vec<Bytes> = parts(value).iter().map(bytes).collect();
            members.sort_unstable();
            members
        }
        "hash" => {
            let flat: Vec<Bytes> = parts(value).iter().map(bytes).collect();
            let mut pairs: Vec<&[Bytes]> = flat.chunks(2).collect();
            pairs.sort_unstable();
            pairs.concat()
        }
        _ => {
            let mut flat = Vec::new();
            push_parts(value, &mut flat);
            flat
        }
    }
}

fn push_parts(value: BytesFrame, flat: &mut Vec<Bytes>) {
    match value {
        BytesFrame::Array(parts) => {
            // The length keeps the fields of one stream entry from being those of the next.
            flat.push(Bytes::from(parts.len().to_string()));
            for part in parts {
                push_parts(part, flat);
            }
        }
        single => flat.push(bytes(&single)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(words: &[&str]) -> BytesFrame {
        let word = |w: &&str| BytesFrame::BulkString(Bytes::copy_from_slice(w.as_bytes()));
        BytesFrame::Array(words.iter().map(word).collect())
    }

    fn entry(kind: &str, words: &[&str], ttl: i64) -> Entry {
        Entry {
            kind: kind.to_owned(),
            value: flatten(kind, array(words)),
            ttl,
        }
    }

    #[test]
    fn order_matters_where_there_is_one() {
        let differs = |kind, a: &[&str], b: &[&str]| {
            let there = entry(kind, b, -1);
            entry(kind, a, -1).difference(&there).is_some()
        };
        assert!(!differs("set", &["a", "b"], &["b", "a"]));
        assert!(differs("set", &["a", "b"], &["a", "c"]));
        assert!(!differs(
            "hash",
            &["f", "1", "g", "2"],
            &["g", "2", "f", "1"]
        ));
        assert!(differs(
            "hash",
            &["f", "1", "g", "2"],
            &["f", "2", "g", "1"]
        ));
        assert!(differs("list", &["a", "b"], &["b", "a"]));
        assert!(differs("zset", &["a", "1"], &["a", "2"]));
    }

    #[test]
    fn entries_of_a_stream_are_told_apart() {
        let nested = |inner: Vec<BytesFrame>| flatten("stream", BytesFrame::Array(inner));
        let one = nested(vec![array(&["1-1", "a"]), array(&["b"])]);
        let other = nested(vec![array(&["1-1"]), array(&["a", "b"])]);
        assert_ne!(one, other);
    }

    #[test]
    fn ttls_may_differ_by_a_little() {
        let differs = |a, b| {
            let there = entry("list", &["x"], b);
            entry("list", &["x"], a).difference(&there).is_some()
        };
        assert!(!differs(-1, -1));
        assert!(!differs(5_000, 6_400));
        assert!(differs(5_000, 6_600));
        assert!(differs(-1, 500), "a TTL against none");
        let gone = entry("none", &[], -2);
        assert!(gone.difference(&entry("list", &["x"], 10)).is_some());
    }
}

//! Reading a large value in pieces, to the digest that it would have as a whole: the server does not
//! stand still while it packs it, and no memory of its size is needed.
//!
//! What is written meanwhile may be seen in part. Then the key looks different, and is looked at
//! again.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::digest::{BLOCK, Digest, Opaque, Tally};
use super::site::{Error, SILENCE, Site};
use crate::rdb::decode::Id;
use crate::redis::Reply;

/// About how many bytes a piece has: a server gives it in about a millisecond.
const PIECE: u64 = 1 << 20;

/// The most elements of a piece: however small they are, each costs the server some work.
const MOST_ELEMENTS: u64 = 1000;

/// How long a value that comes in one reply may take: gigabytes over a slow line.
const OPAQUE: Duration = Duration::from_secs(600);

/// A vector set with more elements than this is compared by their number alone: there is no command
/// that gives its elements in pieces on all servers that know it.
const MOST_VECTORS: i64 = 100_000;

impl Site {
    /// The digest of a value that takes about so much memory; none when it is gone, or was written
    /// so that it cannot be read on.
    pub(super) async fn in_pieces(
        &mut self,
        key: &Bytes,
        kind: &[u8],
        memory: u64,
    ) -> Result<Option<Digest>, Error> {
        let mut tally = Tally::default();
        let is_read = match kind {
            b"string" => self.string(key, &mut tally).await?,
            b"list" => self.list(key, memory, &mut tally).await?,
            b"set" => self.set(key, memory, &mut tally).await?,
            b"hash" => self.hash(key, memory, &mut tally).await?,
            b"zset" => self.sorted_set(key, memory, &mut tally).await?,
            b"stream" => self.stream(key, memory, &mut tally).await?,
            b"vectorset" => self.vector_set(key, &mut tally).await?,
            _ => return self.opaque(key).await,
        };
        Ok(is_read.then(|| tally.digest()))
    }

    async fn string(&mut self, key: &Bytes, tally: &mut Tally) -> Result<bool, Error> {
        for from in (0..).step_by(BLOCK) {
            let (start, end) = (from.to_string(), (from + BLOCK - 1).to_string());
            let range = [&b"GETRANGE"[..], key, start.as_bytes(), end.as_bytes()];
            let Reply::Bulk(block) = self.ask(&range).await? else {
                return Ok(false);
            };
            if block.is_empty() {
                break;
            }
            tally.block(&block);
            if block.len() < BLOCK {
                break;
            }
        }
        Ok(true)
    }

    async fn list(&mut self, key: &Bytes, memory: u64, tally: &mut Tally) -> Result<bool, Error> {
        let Some(step) = self.step(b"LLEN", key, memory).await? else {
            return Ok(false);
        };
        for from in (0..).step_by(step) {
            let (start, end) = (from.to_string(), (from + step - 1).to_string());
            let range = [&b"LRANGE"[..], key, start.as_bytes(), end.as_bytes()];
            let Reply::Array(items) = self.ask(&range).await? else {
                return Ok(false);
            };
            for item in items.iter().filter_map(Reply::bytes) {
                tally.put(item);
                tally.in_order();
            }
            if items.len() < step {
                break;
            }
        }
        Ok(true)
    }

    async fn sorted_set(
        &mut self,
        key: &Bytes,
        memory: u64,
        tally: &mut Tally,
    ) -> Result<bool, Error> {
        let Some(step) = self.step(b"ZCARD", key, memory).await? else {
            return Ok(false);
        };
        for from in (0..).step_by(step) {
            let (start, end) = (from.to_string(), (from + step - 1).to_string());
            let range = [&b"ZRANGE"[..], key, start.as_bytes(), end.as_bytes()];
            let range = [&range[..], &[&b"WITHSCORES"[..]]].concat();
            let Reply::Array(items) = self.ask(&range).await? else {
                return Ok(false);
            };
            let (pairs, _) = items.as_chunks();
            for [member, score] in pairs {
                let (Some(member), Ok(score)) = (member.bytes(), score.text().parse()) else {
                    return Ok(false);
                };
                tally.scored(member, score);
            }
            if pairs.len() < step {
                break;
            }
        }
        Ok(true)
    }

    async fn set(&mut self, key: &Bytes, memory: u64, tally: &mut Tally) -> Result<bool, Error> {
        let Some(step) = self.step(b"SCARD", key, memory).await? else {
            return Ok(false);
        };
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let Some((next, members)) = self.turn(b"SSCAN", key, &cursor, step).await? else {
                return Ok(false);
            };
            for member in members.iter().filter_map(Reply::bytes) {
                tally.put(member);
                tally.in_any_order();
            }
            if next == "0" {
                return Ok(true);
            }
            cursor = next;
        }
    }

    async fn hash(&mut self, key: &Bytes, memory: u64, tally: &mut Tally) -> Result<bool, Error> {
        let Some(step) = self.step(b"HLEN", key, memory).await? else {
            return Ok(false);
        };
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let Some((next, flat)) = self.turn(b"HSCAN", key, &cursor, step).await? else {
                return Ok(false);
            };
            let flat: Vec<&Bytes> = flat.iter().filter_map(Reply::bytes).collect();
            let (fields, _) = flat.as_chunks();
            let lives = self.field_lives(key, fields).await?;
            let lives = lives.into_iter().chain(std::iter::repeat(None));
            for ([name, value], life) in fields.iter().zip(lives) {
                tally.field(name, value, life);
            }
            if next == "0" {
                return Ok(true);
            }
            cursor = next;
        }
    }

    /// When fields expire, in milliseconds since 1970; nothing from a server that does not know that.
    async fn field_lives(
        &mut self,
        key: &Bytes,
        fields: &[[&Bytes; 2]],
    ) -> Result<Vec<Option<u64>>, Error> {
        if !self.has_field_lives || fields.is_empty() {
            return Ok(Vec::new());
        }
        let count = fields.len().to_string();
        let mut args = vec![&b"HPEXPIRETIME"[..], key, b"FIELDS", count.as_bytes()];
        args.extend(fields.iter().map(|[name, _]| &name[..]));
        let done = timeout(SILENCE, self.connection.call(&args)).await;
        match self.checked(done)? {
            Reply::Error(message) if message.contains("unknown command") => {
                self.has_field_lives = false;
                Ok(Vec::new())
            }
            lives => {
                let until = |r: Reply| r.integer().and_then(|at| u64::try_from(at).ok());
                Ok(lives.array().into_iter().map(until).collect())
            }
        }
    }

    async fn stream(&mut self, key: &Bytes, memory: u64, tally: &mut Tally) -> Result<bool, Error> {
        let Some(step) = self.step(b"XLEN", key, memory).await? else {
            return Ok(false);
        };
        let count = step.to_string();
        let mut from = Id::ZERO;
        loop {
            let start = from.to_string();
            let range = [b"XRANGE", &key[..], start.as_bytes(), b"+", b"COUNT"];
            let range = [&range[..], &[count.as_bytes()]].concat();
            let Reply::Array(entries) = self.ask(&range).await? else {
                return Ok(false);
            };
            let is_last = entries.len() < step;
            for entry in entries {
                let Some((id, fields)) = entry_of(entry) else {
                    return Ok(false);
                };
                tally.id(id);
                let parts = fields.iter().filter_map(Reply::bytes);
                parts.for_each(|part| tally.put(part));
                tally.in_order();
                from = after(id);
            }
            if is_last {
                break;
            }
        }
        let facts = self.ask(&[b"XINFO", b"STREAM", key]).await?.array();
        let Some(last) = fact(&facts, "last-generated-id").and_then(id_of) else {
            return Ok(false);
        };
        tally.last_id(last);
        for group in self.ask(&[b"XINFO", b"GROUPS", key]).await?.array() {
            let facts = group.array();
            let last = fact(&facts, "last-delivered-id").and_then(id_of);
            let (Some(Reply::Bulk(name)), Some(last)) = (fact(&facts, "name"), last) else {
                return Ok(false);
            };
            let mut pending = Tally::default();
            self.pending(key, name, &mut pending).await?;
            tally.group(name, last, &pending);
        }
        Ok(true)
    }

    async fn pending(&mut self, key: &Bytes, group: &[u8], tally: &mut Tally) -> Result<(), Error> {
        let step = usize::try_from(MOST_ELEMENTS).unwrap_or(usize::MAX);
        let count = step.to_string();
        let mut from = Id::ZERO;
        loop {
            let start = from.to_string();
            let range = [b"XPENDING", &key[..], group, start.as_bytes(), b"+"];
            let range = [&range[..], &[count.as_bytes()]].concat();
            let rows = self.ask(&range).await?.array();
            let is_last = rows.len() < step;
            for row in rows {
                let row = row.array();
                let Some(id) = row.first().and_then(id_of) else {
                    continue;
                };
                from = after(id);
                let consumer = row.get(1).and_then(Reply::bytes);
                // What was given back is of no consumer, and a dump does not say more of it either.
                if let Some(consumer) = consumer.filter(|name| !name.is_empty()) {
                    let deliveries = row.get(3).and_then(Reply::integer).unwrap_or(0);
                    tally.pending(id, consumer, u64::try_from(deliveries).unwrap_or(0));
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Elements with their vectors and attributes, in no order.
    async fn vector_set(&mut self, key: &Bytes, tally: &mut Tally) -> Result<bool, Error> {
        let Some(count) = self.ask(&[b"VCARD", key]).await?.integer() else {
            return Ok(false);
        };
        tally.put(&count.to_le_bytes());
        tally.in_any_order();
        if count > MOST_VECTORS {
            return Ok(true);
        }
        let count = count.to_string();
        let all = [&b"VRANDMEMBER"[..], key, count.as_bytes()];
        for name in self.ask(&all).await?.array() {
            let Some(name) = name.bytes() else { continue };
            tally.put(name);
            for number in self.ask(&[b"VEMB", key, name]).await?.array() {
                tally.put(number.text().as_bytes());
            }
            let attribute = self.ask(&[b"VGETATTR", key, name]).await?;
            tally.put(attribute.text().as_bytes());
            tally.in_any_order();
        }
        Ok(true)
    }

    /// What only its module can read comes in one reply, and is not kept.
    async fn opaque(&mut self, key: &Bytes) -> Result<Option<Digest>, Error> {
        let mut dump = Vec::new();
        crate::redis::put_command(&mut dump, &[b"DUMP", key]);
        let mut opaque = Opaque::default();
        let connection = &mut self.connection;
        let reading = async {
            connection.send(&dump).await?;
            let Ok(mut left) = usize::try_from(connection.line(b'$').await?) else {
                return Ok(None);
            };
            while left > 0 {
                let piece = connection.some(left).await?;
                opaque.take(&piece);
                left -= piece.len();
            }
            connection.end_of_line().await?;
            Ok(Some(opaque.digest()))
        };
        let done = timeout(OPAQUE, reading).await;
        self.checked(done)
    }

    /// How many elements a piece has; none when the key is not of that type any more.
    async fn step(
        &mut self,
        length: &[u8],
        key: &Bytes,
        memory: u64,
    ) -> Result<Option<usize>, Error> {
        let length = self.ask(&[length, key]).await?.integer();
        let length = length.and_then(|l| u64::try_from(l).ok());
        Ok(length.map(|length| {
            let elements = PIECE * length.min(u64::MAX / PIECE) / memory.max(1);
            usize::try_from(elements.clamp(1, MOST_ELEMENTS)).unwrap_or(1)
        }))
    }

    /// One turn of a scan over elements: the next cursor, and what it gave.
    async fn turn(
        &mut self,
        scan: &[u8],
        key: &Bytes,
        cursor: &Bytes,
        step: usize,
    ) -> Result<Option<(Bytes, Vec<Reply>)>, Error> {
        let count = step.to_string();
        let reply = self
            .ask(&[scan, key, cursor, b"COUNT", count.as_bytes()])
            .await?;
        let mut halves = reply.array().into_iter();
        match (halves.next(), halves.next()) {
            (Some(Reply::Bulk(next)), Some(Reply::Array(items))) => Ok(Some((next, items))),
            _ => Ok(None),
        }
    }
}

fn entry_of(entry: Reply) -> Option<(Id, Vec<Reply>)> {
    let mut parts = entry.array().into_iter();
    let id = id_of(&parts.next()?)?;
    Some((id, parts.next()?.array()))
}

fn id_of(reply: &Reply) -> Option<Id> {
    let text = reply.text();
    let (ms, seq) = text.split_once('-')?;
    Some(Id {
        ms: ms.parse().ok()?,
        seq: seq.parse().ok()?,
    })
}

/// The least id after this one.
const fn after(id: Id) -> Id {
    match id.seq.checked_add(1) {
        Some(seq) => Id { ms: id.ms, seq },
        None => Id {
            ms: id.ms.saturating_add(1),
            seq: 0,
        },
    }
}

/// What a flat list of names and values says of a name.
fn fact<'a>(facts: &'a [Reply], name: &str) -> Option<&'a Reply> {
    let (pairs, _) = facts.as_chunks();
    let found = pairs.iter().find(|[n, _]| n.text() == name);
    found.map(|[_, value]| value)
}

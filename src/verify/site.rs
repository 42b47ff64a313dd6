//! One server: finding its keys and reading what they hold, many at a time.
//!
//! Of a batch of keys, first the heads are asked for: type, time to live, size. Then what is small is
//! dumped, a bounded number of bytes at a time, and what is large is read in pieces ([`super::pieces`]).
//! A reply is turned into a digest as it comes; no two values are in memory at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::digest::of_dump;
use super::entry::{Entry, Life};
use crate::redis::{self, Connection, Reply, Settings, put_command};

/// How many keys SCAN is asked for, and about as many are read at once: enough that the way to the
/// server and back costs little, and few enough that the server is soon free for others.
const SCAN_COUNT: &[u8] = b"1000";

/// The most keys of one round of reading: SCAN may give some more than it was asked for.
pub(super) const BATCH: usize = 1000;

/// The most bytes that may take the way from a server at once: its output buffer must not grow.
const FLIGHT: u64 = 4 << 20;

/// A value that takes more memory than this is read in pieces.
pub(super) const LARGE: u64 = 1 << 20;

/// How long a server may take for one round of reading, before it counts as gone.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// What this connection is called in CLIENT LIST.
const CONNECTION_NAME: &str = "tandem:verify";

/// A server that is being compared.
#[derive(Debug)]
pub struct Site {
    /// How it is called in what we say.
    pub name: String,
    pub(super) connection: Connection,
    /// The selected database.
    db: u32,
    /// Whether fields of hashes have times to live there; until the server says that they have not.
    pub(super) has_field_lives: bool,
}

/// Why a site cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its Redis.
    #[error("cannot read site {site}: {source}")]
    Redis {
        /// Its name.
        site: String,
        /// Why.
        source: redis::Error,
    },
    /// It does not answer.
    #[error(
        "cannot read site {site}: no answer in {} seconds; is its Redis stuck, or the network down?",
        SILENCE.as_secs()
    )]
    Silent {
        /// Its name.
        site: String,
    },
    /// It answers with something else.
    #[error("cannot read site {site}: its answer to {command} makes no sense; is it a Redis?")]
    Strange {
        /// Its name.
        site: String,
        /// What was asked.
        command: &'static str,
    },
}

/// What is known of a key before its value.
struct Head {
    kind: Bytes,
    life: Option<Life>,
    memory: u64,
}

impl Site {
    /// Connects.
    ///
    /// # Errors
    /// The server cannot be reached or refuses us.
    pub async fn open(name: String, settings: &Settings) -> Result<Self, Error> {
        let opened = Connection::open(settings, CONNECTION_NAME).await;
        let mut connection = opened.map_err(|source| Error::Redis {
            site: name.clone(),
            source,
        })?;
        // Looking at a key must not keep it from being evicted. Servers before 7.2 do not know this,
        // and nothing depends on it.
        let no_touch = [&b"CLIENT"[..], b"NO-TOUCH", b"on"];
        connection.call(&no_touch).await.map(drop).ok();
        Ok(Self {
            name,
            connection,
            db: 0,
            has_field_lives: true,
        })
    }

    /// How many keys each database has that has any.
    ///
    /// # Errors
    /// The server cannot be read.
    pub async fn sizes(&mut self) -> Result<BTreeMap<u32, u64>, Error> {
        let reply = self.ask(&[b"INFO", b"keyspace"]).await?.text();
        let size = |line: &str| {
            let (db, facts) = line.strip_prefix("db")?.split_once(":keys=")?;
            let keys = facts.split(',').next()?;
            Some((db.parse().ok()?, keys.parse().ok()?))
        };
        Ok(reply.lines().filter_map(size).collect())
    }

    /// Goes on with a SCAN: the next cursor, and keys.
    ///
    /// # Errors
    /// The server cannot be read.
    pub async fn scan(&mut self, db: u32, cursor: &Bytes) -> Result<(Bytes, Vec<Bytes>), Error> {
        self.select(db).await?;
        let reply = self.ask(&[b"SCAN", cursor, b"COUNT", SCAN_COUNT]).await?;
        let mut halves = reply.array().into_iter();
        let (Some(Reply::Bulk(next)), Some(Reply::Array(keys))) = (halves.next(), halves.next())
        else {
            return Err(self.strange("SCAN"));
        };
        Ok((
            next,
            keys.iter().filter_map(Reply::bytes).cloned().collect(),
        ))
    }

    /// Whether each of these keys is there.
    ///
    /// # Errors
    /// The server cannot be read.
    pub async fn has(&mut self, db: u32, keys: &[Bytes]) -> Result<Vec<bool>, Error> {
        self.select(db).await?;
        let mut out = Vec::new();
        for key in keys {
            put_command(&mut out, &[b"EXISTS", key]);
        }
        let replies = self.pipeline(&out, keys.len(), "EXISTS").await?;
        Ok(replies.iter().map(|r| r.integer() == Some(1)).collect())
    }

    /// Reads keys, in their order; none for those that are not there.
    ///
    /// # Errors
    /// The server cannot be read.
    pub async fn read(&mut self, db: u32, keys: &[Bytes]) -> Result<Vec<Option<Entry>>, Error> {
        self.select(db).await?;
        let heads = self.heads(keys).await?;
        let mut digests = vec![None; keys.len()];
        let is_small = |head: &Head| head.memory <= LARGE && !is_taken_apart(&head.kind);
        let mut flight = Vec::new();
        let mut bytes = 0;
        let mut large = Vec::new();
        for (index, (key, head)) in keys.iter().zip(&heads).enumerate() {
            let Some(head) = head else { continue };
            if !is_small(head) {
                large.push(index);
                continue;
            }
            if bytes + head.memory > FLIGHT {
                self.dump(&std::mem::take(&mut flight), &mut digests, &mut large)
                    .await?;
                bytes = 0;
            }
            bytes += head.memory;
            flight.push((index, key));
        }
        self.dump(&flight, &mut digests, &mut large).await?;
        for index in large {
            if let (Some(key), Some(Some(head)), Some(digest)) =
                (keys.get(index), heads.get(index), digests.get_mut(index))
            {
                *digest = self.in_pieces(key, &head.kind, head.memory).await?;
            }
        }
        let entry = |(head, digest): (Option<Head>, Option<u128>)| {
            let (Head { kind, life, .. }, digest) = (head?, digest?);
            Some(Entry { kind, digest, life })
        };
        Ok(heads.into_iter().zip(digests).map(entry).collect())
    }

    async fn heads(&mut self, keys: &[Bytes]) -> Result<Vec<Option<Head>>, Error> {
        let mut out = Vec::new();
        put_command(&mut out, &[b"TIME"]);
        for key in keys {
            put_command(&mut out, &[b"TYPE", key]);
            put_command(&mut out, &[b"PTTL", key]);
            put_command(&mut out, &[b"MEMORY", b"USAGE", key]);
        }
        let count = 1 + 3 * keys.len();
        let mut replies = self.pipeline(&out, count, "TYPE").await?.into_iter();
        let time: Vec<i64> = replies
            .next()
            .map(Reply::array)
            .unwrap_or_default()
            .iter()
            .filter_map(|part| part.text().parse().ok())
            .collect();
        let [seconds, micros] = time[..] else {
            return Err(self.strange("TIME"));
        };
        let now = seconds * 1000 + micros / 1000;
        let mut heads = Vec::with_capacity(keys.len());
        while let (Some(kind), Some(left), Some(memory)) =
            (replies.next(), replies.next(), replies.next())
        {
            let kind = kind.bytes().cloned().unwrap_or_default();
            let left = left.integer().unwrap_or(-2);
            let life = (left >= 0).then(|| Life {
                left_ms: left,
                until_ms: now + left,
            });
            // It may go between two of these commands.
            let memory = memory.integer().and_then(|m| u64::try_from(m).ok());
            let head = memory.filter(|_| left != -2 && kind != "none");
            heads.push(head.map(|memory| Head { kind, life, memory }));
        }
        Ok(heads)
    }

    /// Dumps keys. What turns out to be larger than it was said to be is to be read in pieces.
    async fn dump(
        &mut self,
        flight: &[(usize, &Bytes)],
        digests: &mut [Option<u128>],
        large: &mut Vec<usize>,
    ) -> Result<(), Error> {
        let mut out = Vec::new();
        for (_, key) in flight {
            put_command(&mut out, &[b"DUMP", key]);
        }
        let connection = &mut self.connection;
        let reading = async {
            connection.send(&out).await?;
            for (index, _) in flight {
                // MEMORY USAGE looks at some elements and guesses the rest.
                let most = usize::try_from(4 * LARGE).unwrap_or(usize::MAX);
                let reply = connection.reply_within(most).await?;
                match connection.accepted("DUMP", reply)? {
                    Reply::Bulk(payload) => {
                        if let Some(digest) = digests.get_mut(*index) {
                            *digest = Some(of_dump(&payload));
                        }
                    }
                    Reply::Long(_) => large.push(*index),
                    // It has gone since.
                    _ => {}
                }
            }
            Ok::<(), redis::Error>(())
        };
        let done = timeout(SILENCE, reading).await;
        self.checked(done)
    }

    async fn select(&mut self, db: u32) -> Result<(), Error> {
        if self.db != db {
            self.ask(&[b"SELECT", db.to_string().as_bytes()]).await?;
            self.db = db;
        }
        Ok(())
    }

    async fn pipeline(
        &mut self,
        commands: &[u8],
        count: usize,
        name: &'static str,
    ) -> Result<Vec<Reply>, Error> {
        let connection = &mut self.connection;
        let reading = async {
            connection.send(commands).await?;
            let mut replies = Vec::with_capacity(count);
            for _ in 0..count {
                let reply = connection.reply().await?;
                replies.push(connection.accepted(name, reply)?);
            }
            Ok::<_, redis::Error>(replies)
        };
        let done = timeout(SILENCE, reading).await;
        self.checked(done)
    }

    /// One command. That a key is not there any more, or of another type, is no error: it was
    /// written meanwhile.
    pub(super) async fn ask(&mut self, args: &[&[u8]]) -> Result<Reply, Error> {
        let done = timeout(SILENCE, self.connection.call(args)).await;
        let reply = self.checked(done)?;
        let is_gone = |m: &String| {
            ["WRONGTYPE", "NOGROUP", "ERR no such key"]
                .iter()
                .any(|gone| m.starts_with(gone))
        };
        if reply.error().is_some_and(is_gone) {
            return Ok(Reply::Nil);
        }
        let name = args.first().map(|name| String::from_utf8_lossy(name));
        let accepted = self.connection.accepted(&name.unwrap_or_default(), reply);
        self.checked(Ok(accepted))
    }

    /// Says which site it was.
    pub(super) fn checked<T>(
        &self,
        done: Result<Result<T, redis::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, Error> {
        let site = || self.name.clone();
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(Error::Redis {
                site: site(),
                source,
            }),
            Err(_) => Err(Error::Silent { site: site() }),
        }
    }

    fn strange(&self, command: &'static str) -> Error {
        Error::Strange {
            site: self.name.clone(),
            command,
        }
    }
}

/// Whether a value is read by its elements however small it is: the dump of a vector set holds a
/// graph that chance has made.
fn is_taken_apart(kind: &[u8]) -> bool {
    kind == b"vectorset"
}

//! The connection on which we write: alone, known, and sure of where it stands.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::debts::{Key, parse_member};
use super::reply::{Outcome, outcome};
use super::{Config, Error};
use crate::command::Dialect;
use crate::intake::wall_ms;
use crate::model::{Mark, Need, SiteId, fence_key, mark_key, owed_key};
use crate::progress::{FenceSeen, Progress};
use crate::redis::{Connection, Info, Lease, Reply, ServerClock, connection_name, put_command};

/// How long our own write may take to come back in our own stream. It takes a millisecond when all
/// is well; when the stream is away the intake says why, and we try again.
pub(super) const FENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is the only one of its name.
#[derive(Debug)]
pub(super) struct Writing {
    pub connection: Connection,
    /// The database selected on it.
    pub db: u32,
    pub info: Info,
    pub dialect: Dialect,
    /// By what clock keys expire there.
    pub clock: ServerClock,
}

/// What is kept in Redis about the peer.
#[derive(Debug)]
pub(super) struct Kept {
    pub mark: Option<Mark>,
    pub debts: Vec<(Key, Need)>,
}

impl Writing {
    /// Connects, and makes sure that nothing of an earlier connection is executed any more: it is
    /// killed by its name. What then is in the mark is what has been applied.
    ///
    /// # Errors
    /// Redis cannot be reached or does not let us.
    pub(super) async fn open(config: &Config, lease: &Lease) -> Result<Self, Error> {
        let name = connection_name(&config.site, &format!("apply:{}", config.peer));
        let mut connection = lease.open(&config.redis, &name).await?;
        kill_predecessor(&mut connection, &name).await?;
        let info = Info::fetch(&mut connection).await?;
        // Were MULTI refused, what follows it would run unmarked: find out before.
        connection.ask(&[b"MULTI"]).await?;
        connection.ask(&[b"EXEC"]).await?;
        let dialect = Dialect::of(&info);
        let mut clock = ServerClock::default();
        clock.set(&connection.call(&[b"TIME"]).await?, Instant::now());
        Ok(Self {
            connection,
            db: 0,
            info,
            dialect,
            clock,
        })
    }

    /// The time at the server, in milliseconds since 1970: what has expired there has expired. Where it
    /// does not tell, ours is as good as any.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.millis(Instant::now()).unwrap_or_else(wall_ms)
    }

    /// Reads the mark and the debts.
    ///
    /// # Errors
    /// The connection broke, or the mark is none.
    pub(super) async fn kept(&mut self, peer: &SiteId) -> Result<Kept, Error> {
        self.select(0).await?;
        let key = mark_key(peer);
        let value = self.connection.ask(&[b"GET", key.as_bytes()]).await?;
        let mark = value.bytes().map(|v| Mark::parse(v)).transpose();
        let mark = mark.map_err(|source| Error::BadMark { key, source })?;
        let members = self
            .connection
            .ask(&[b"SMEMBERS", owed_key(peer).as_bytes()])
            .await?
            .array();
        let debts = members
            .iter()
            .filter_map(|m| parse_member(m.bytes()?))
            .collect();
        Ok(Kept { mark, debts })
    }

    pub(super) async fn select(&mut self, db: u32) -> Result<(), Error> {
        if self.db != db {
            self.connection
                .ask(&[b"SELECT", db.to_string().as_bytes()])
                .await?;
            self.db = db;
        }
        Ok(())
    }

    /// Reads what became of a transaction of so many commands. Not cancel safe: when it is
    /// dropped, the connection must be dropped too.
    ///
    /// # Errors
    /// The connection broke; whether the transaction was executed is not known.
    pub(super) async fn outcome(&mut self, commands: usize) -> Result<Outcome, Error> {
        let multi = self.connection.reply().await?;
        let refused = self.connection.queued(commands).await?;
        let exec = self.connection.reply().await?;
        Ok(outcome(&multi, &refused, exec))
    }

    /// Sends questions and reads the replies.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn ask(&mut self, questions: &Questions) -> Result<Vec<Reply>, Error> {
        self.connection.send(&questions.bytes).await?;
        let mut replies = Vec::with_capacity(questions.wanted.len());
        for wanted in &questions.wanted {
            let reply = match wanted {
                Wanted::Reply => self.connection.reply().await?,
                Wanted::UpTo(most) => self.connection.reply_within(*most).await?,
                Wanted::IfTold => match self.connection.reply().await? {
                    Reply::Error(_) => Reply::Nil,
                    reply => reply,
                },
            };
            replies.push(reply);
        }
        Ok(replies)
    }

    /// Sends commands and reads their replies.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn pipeline(
        &mut self,
        commands: &[u8],
        count: usize,
    ) -> Result<Vec<Reply>, Error> {
        self.connection.send(commands).await?;
        let mut replies = Vec::with_capacity(count);
        for _ in 0..count {
            replies.push(self.connection.reply().await?);
        }
        Ok(replies)
    }
}

/// Commands that change no key of a client, and what is wanted of the reply to each.
#[derive(Debug, Default)]
pub(super) struct Questions {
    bytes: Vec<u8>,
    wanted: Vec<Wanted>,
}

#[derive(Debug)]
enum Wanted {
    /// All of it.
    Reply,
    /// A string only if it has no more than so many bytes.
    UpTo(usize),
    /// Nothing if it is an error: the server does not tell.
    IfTold,
}

impl Questions {
    /// Adds one; gives the place of its reply.
    pub(super) fn put(&mut self, args: &[&[u8]]) -> usize {
        self.add(args, Wanted::Reply)
    }

    /// As [`put`](Self::put); a string that is longer is passed over.
    pub(super) fn put_up_to(&mut self, most: usize, args: &[&[u8]]) -> usize {
        self.add(args, Wanted::UpTo(most))
    }

    /// As [`put`](Self::put), but the server need not answer it.
    pub(super) fn put_if_told(&mut self, args: &[&[u8]]) -> usize {
        self.add(args, Wanted::IfTold)
    }

    /// Selects a database, if it is not this one.
    pub(super) fn select(&mut self, selected: &mut u32, db: u32) {
        if *selected != db {
            self.put(&[b"SELECT", db.to_string().as_bytes()]);
            *selected = db;
        }
    }

    /// Sets a fence.
    pub(super) fn put_fence(&mut self, config: &Config, number: u64) {
        put_fence(&mut self.bytes, config, number);
        self.wanted.push(Wanted::Reply);
    }

    fn add(&mut self, args: &[&[u8]], wanted: Wanted) -> usize {
        put_command(&mut self.bytes, args);
        self.wanted.push(wanted);
        self.wanted.len() - 1
    }
}

async fn kill_predecessor(connection: &mut Connection, name: &str) -> Result<(), Error> {
    let own = connection
        .ask(&[b"CLIENT", b"ID"])
        .await?
        .integer()
        .unwrap_or(0)
        .to_string();
    let list = connection.ask(&[b"CLIENT", b"LIST"]).await?.text();
    for line in list.lines() {
        let field = |key: &str| {
            line.split(' ')
                .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
        };
        let (Some(id), Some(other)) = (field("id"), field("name")) else {
            continue;
        };
        if other == name && id != own {
            // An error means that it is gone already.
            let _: Reply = connection
                .call(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()])
                .await?;
        }
    }
    Ok(())
}

/// Appends the command that sets a fence.
pub(super) fn put_fence(out: &mut Vec<u8>, config: &Config, number: u64) {
    let value = format!("{} {number}", config.instance);
    put_command(
        out,
        &[b"SET", fence_name(config).1.as_bytes(), value.as_bytes()],
    );
}

/// The name and the key of the applier's fence.
fn fence_name(config: &Config) -> (String, String) {
    let key = fence_key(&config.peer).replacen("fence:", "fence:apply:", 1);
    (format!("apply:{}", config.peer), key)
}

/// Waits until our fence has come back in our own stream: then everything before it has been read.
/// `attached` is the attachment to the stream at the time when it was set.
///
/// # Errors
/// It does not come back.
pub(super) async fn await_fence(
    config: &Config,
    progress: &mut watch::Receiver<Progress>,
    (number, attached): (u64, u64),
) -> Result<FenceSeen, Error> {
    let (name, _) = fence_name(config);
    let ours = |p: &Progress| p.fences.get(&name).filter(|f| f.number >= number).cloned();
    let gone = |p: &Progress| attached == 0 || p.attached != attached;
    let seen = timeout(
        FENCE_TIMEOUT,
        progress.wait_for(|p| ours(p).is_some() || gone(p)),
    )
    .await;
    match seen {
        Ok(Ok(progress)) => ours(&progress).ok_or(Error::NoStream),
        Ok(Err(_)) | Err(_) => Err(Error::NoStream),
    }
}

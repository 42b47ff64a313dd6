//! What the server lets us do: each thing is tried, and nothing is changed.

use super::facts::Facts;
use super::redis::{ask, ask_all, call, open, refused, remedy, within};
use super::report::Line;
use crate::model::RESERVED_PREFIX;
use crate::redis::{Connection, Error, Reply, Settings, put_command};

/// How many of the commands that were refused are named: they have the reason in common.
const NAMED: usize = 5;

/// Commands of each kind that the other site's writes and our bookkeeping are made of, and the
/// version that brought them. Some have arguments that would be refused if they were executed: a
/// queue that is never executed should be harmless even if it were.
const WRITES: [(&[&str], (u32, u32)); 24] = [
    (&["SET", KEY, "1"], (0, 0)),
    (&["DEL", KEY], (0, 0)),
    (&["UNLINK", KEY], (0, 0)),
    (&["INCR", KEY], (0, 0)),
    (&["PEXPIREAT", KEY, "1"], (0, 0)),
    (&["SETBIT", KEY, "0", "1"], (0, 0)),
    (&["PFADD", KEY, "1"], (0, 0)),
    (&["RPUSH", KEY, "1"], (0, 0)),
    (&["SADD", KEY, "1"], (0, 0)),
    (&["SREM", KEY, "1"], (0, 0)),
    (&["ZADD", KEY, "1", "1"], (0, 0)),
    (&["HSET", KEY, "1", "1"], (0, 0)),
    (&["XADD", KEY, "*", "1", "1"], (0, 0)),
    (&["GEOADD", KEY, "0", "0", "1"], (0, 0)),
    (&["SORT", KEY, "STORE", KEY], (0, 0)),
    (&["RENAME", KEY, KEY], (0, 0)),
    (&["MOVE", KEY, "none"], (0, 0)),
    (&["COPY", KEY, KEY], (6, 2)),
    (&["RESTORE", KEY, "0", "none", "REPLACE"], (0, 0)),
    (&["PUBLISH", KEY, "1"], (0, 0)),
    (&["FUNCTION", "LOAD", "none"], (7, 0)),
    (&["SWAPDB", "none", "none"], (0, 0)),
    (&["FLUSHDB", "none"], (0, 0)),
    (&["FLUSHALL", "none"], (0, 0)),
];

/// A key of clients, as far as the server can tell.
const KEY: &str = "check:tandem";

/// A client that does not exist: ids count up from one.
const NOBODY: &str = "9223372036854775807";

/// Whether we may be its replica, without becoming one.
///
/// A PSYNC that succeeds costs the server a snapshot, or at least makes it count one replica more.
/// But no server takes one from a client that has an answer still to get (measured: Redis 5.0 to
/// 8.6, Valkey 8.0 to 9.1), and each looks at permissions first. So PING and PSYNC go out in one
/// packet, and the refusal shows that only the answer to PING stood in the way. Should something
/// between us and the server take them apart, PSYNC asks for what comes next, which is cheap where
/// there is a backlog; the connection is closed at once in any case.
pub(super) async fn replicate(settings: &Settings, facts: &Facts) -> Line {
    const NAME: &str = "replicate";
    match try_psync(settings, facts).await {
        Ok(()) => Line::pass(NAME, "tandem may attach as a replica"),
        Err(error) => refused(NAME, &error),
    }
}

async fn try_psync(settings: &Settings, facts: &Facts) -> Result<(), Error> {
    let mut connection = open(settings).await?;
    ask(
        &mut connection,
        &["REPLCONF", "capa", "eof", "capa", "psync2"],
    )
    .await?;
    let (replid, next) = facts.psync_args();
    let mut out = Vec::new();
    put_command(&mut out, &[b"PING"]);
    put_command(&mut out, &[b"PSYNC", replid.as_bytes(), next.as_bytes()]);
    connection.send(&out).await?;
    for command in ["PING", "PSYNC"] {
        let reply = within(&mut connection, Connection::reply).await?;
        let is_permitted = reply.error().is_some_and(|m| m.contains("pending output"));
        if !is_permitted {
            connection.accepted(command, reply)?;
        }
    }
    Ok(())
}

/// Whether marks can be kept: transactions, watched keys, reading and dumping.
pub(super) async fn transactions(settings: &Settings) -> Line {
    match try_transaction(settings).await {
        Ok(()) => Line::pass("transactions", "MULTI, EXEC, WATCH and DUMP are permitted"),
        Err(error) => refused("transactions", &error),
    }
}

/// On a connection of its own: it could be left within a transaction.
async fn try_transaction(settings: &Settings) -> Result<(), Error> {
    let mut connection = open(settings).await?;
    let key = format!("{RESERVED_PREFIX}check");
    let commands: [&[&str]; 10] = [
        &["SELECT", "0"],
        &["WATCH", &key],
        &["EXISTS", &key],
        &["GET", &key],
        &["PTTL", &key],
        &["DUMP", &key],
        &["SMEMBERS", &key],
        &["UNWATCH"],
        &["MULTI"],
        &["EXEC"],
    ];
    ask_all(&mut connection, &commands).await
}

/// Whether the server would take the other site's writes. They are queued and never executed, on a
/// connection that is then closed: permissions, memory, and whatever else keeps a server from
/// taking writes are looked at when a command is queued.
pub(super) async fn writes(settings: &Settings, facts: &Facts) -> Line {
    const NAME: &str = "writes";
    if !facts.is_primary() {
        return Line::skip(NAME, "the server is no primary");
    }
    match queue(settings, facts).await {
        Ok(refusals) => match refusals.first() {
            None => Line::pass(
                NAME,
                "the server would take marks and the other site's writes",
            ),
            Some((_, message)) => {
                let names = refusals.iter().map(|(name, _)| *name);
                let mut names: Vec<&str> = names.take(NAMED).collect();
                if refusals.len() > NAMED {
                    names.push("…");
                }
                let found = format!(
                    "refused {}: {}",
                    names.join(", "),
                    message.trim_end_matches('.')
                );
                Line::fail(NAME, found, remedy(message))
            }
        },
        Err(error) => refused(NAME, &error),
    }
}

/// Queues each command; those that were refused, with what the server said.
async fn queue(settings: &Settings, facts: &Facts) -> Result<Vec<(&'static str, String)>, Error> {
    let mut connection = open(settings).await?;
    // Awaited before anything else is sent: without it, what follows would be executed.
    ask(&mut connection, &["MULTI"]).await?;
    let mark = format!("{RESERVED_PREFIX}check");
    let mut refusals = Vec::new();
    let known = WRITES
        .iter()
        .filter(|(_, (major, minor))| facts.at_least(*major, *minor));
    let ours: [(&str, &[&str]); 1] = [("SET of a mark", &["SET", &mark, "1"])];
    let theirs = known.map(|(args, _)| (args[0], *args));
    for (name, args) in ours.into_iter().chain(theirs) {
        let reply = call(&mut connection, args).await?;
        match reply {
            Reply::Error(message) => refusals.push((name, message)),
            reply if reply.text() == "QUEUED" => {}
            _ => refusals.push((name, "it was not queued".to_owned())),
        }
    }
    Ok(refusals)
}

/// Whether we may hear what the server says of evictions.
pub(super) async fn subscriptions(settings: &Settings) -> Line {
    const NAME: &str = "subscriptions";
    match try_subscribing(settings).await {
        Ok(()) => Line::pass(NAME, "tandem may hear what the server evicts"),
        Err(error) => refused(NAME, &error),
    }
}

/// On a connection of its own, which takes no other commands then.
async fn try_subscribing(settings: &Settings) -> Result<(), Error> {
    let mut connection = open(settings).await?;
    let commands: [&[&str]; 2] = [
        &["PSUBSCRIBE", "__keyevent@*__:evicted"],
        &["SUBSCRIBE", "tandem:evictions"],
    ];
    ask_all(&mut connection, &commands).await
}

/// Whether a connection that an earlier sidecar left behind can be found and ended.
pub(super) async fn clients(connection: &mut Connection) -> Line {
    let commands: [&[&str]; 4] = [
        &["CLIENT", "SETNAME", "tandem:check"],
        &["CLIENT", "ID"],
        &["CLIENT", "LIST"],
        &["CLIENT", "KILL", "ID", NOBODY],
    ];
    match ask_all(connection, &commands).await {
        Ok(()) => Line::pass("clients", "tandem may end its own old connections"),
        Err(error) => refused("clients", &error),
    }
}

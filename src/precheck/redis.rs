//! The local Redis: asked on connections of our own, and left as it was.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::facts::{Facts, data, notifications, output_buffer};
use super::permissions::{clients, replicate, subscriptions, transactions, writes};
use super::report::{Line, Report};
use crate::config::{Config, Evictions, WhenFull};
use crate::journal;
use crate::model::{Mark, MarkError, SELF_KEY, SiteId, fence_key, mark_key, owed_key};
use crate::redis::{Address, Connection, Error, Reply, Settings};

/// How long the server may take for one answer. It is not asked for anything that takes time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connecting and logging in may take: a little more than the client's own limits, which
/// say more precisely what took so long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Adds a line for each thing that is needed of the server.
pub(super) async fn check(config: &Config, report: &mut Report) {
    let Some(mut connection) = login(&config.redis, report).await else {
        return report.add(Line::skip("the server", "it cannot be asked"));
    };
    let facts = match ask(&mut connection, &["INFO"]).await {
        Ok(info) => Facts::new(info.text()),
        Err(error) => {
            report.add(refused("version", &error));
            return report.add(Line::skip("the server", "it says nothing of itself"));
        }
    };
    for line in [facts.version(), facts.cluster(), facts.role()] {
        report.add(line);
    }
    if facts.is_unfit() {
        return report.add(Line::skip("the server", "Tandem cannot use it as it is"));
    }
    report.add(transactions(&config.redis).await);
    report.add(writes(&config.redis, &facts).await);
    report.add(clients(&mut connection).await);
    let evictions = config.sync.evictions;
    for line in [facts.eviction(evictions), facts.memory()] {
        report.add(line);
    }
    if evictions == Evictions::KeepLocal {
        let flags = setting(&mut connection, "notify-keyspace-events").await;
        report.add(notifications(flags.as_deref()));
        report.add(subscriptions(&config.redis).await);
    }
    let save = setting(&mut connection, "save").await;
    report.add(facts.persistence(save.as_deref()));
    match config.read_from.replica() {
        None => stream(config, &config.redis, (&mut connection, &facts), report).await,
        Some(settings) => replica(config, settings, &facts, report).await,
    }
    report.add(held(&mut connection, &facts, config).await);
}

/// Adds what is needed of the server whose replication stream is read.
async fn stream(
    config: &Config,
    settings: &Settings,
    (connection, facts): (&mut Connection, &Facts),
    report: &mut Report,
) {
    report.add(replicate(settings, facts).await);
    report.add(facts.backlog());
    let limits = setting(connection, "client-output-buffer-limit").await;
    report.add(output_buffer(limits.as_deref()));
    if config.journal.when_full == WhenFull::StopReading {
        let reserve = journal::reserve(config.journal.max_size);
        report.add(facts.reserve(reserve, limits.as_deref()));
    }
}

/// Adds the same, where a replica is read instead of the primary.
async fn replica(config: &Config, settings: &Settings, primary: &Facts, report: &mut Report) {
    let asked = async {
        let mut connection = open(settings).await?;
        let info = ask(&mut connection, &["INFO"]).await?;
        Ok((connection, Facts::new(info.text())))
    };
    match asked.await {
        Err(error) => {
            report.add(refused("read_from", &error));
            report.add(Line::skip("replicate", "the replica cannot be asked"));
        }
        Ok((mut connection, facts)) => {
            let address = connection.address().to_string();
            report.add(facts.follows(primary, &address));
            stream(config, settings, (&mut connection, &facts), report).await;
        }
    }
}

/// Connects. A server that hangs still lets the system accept connections for it.
pub(super) async fn open(settings: &Settings) -> Result<Connection, Error> {
    let opened = timeout(OPEN_TIMEOUT, Connection::open(settings, "tandem:check")).await;
    opened.unwrap_or_else(|_| Err(silent(settings.address.to_string())))
}

/// Connects and logs in; what went wrong is said.
async fn login(settings: &Settings, report: &mut Report) -> Option<Connection> {
    let address = &settings.address;
    let mut connection = match open(settings).await {
        Ok(connection) => connection,
        Err(error @ Error::Refused { .. }) => {
            report.add(Line::pass("redis", format!("reachable at {address}")));
            report.add(refused("login", &error));
            return None;
        }
        Err(error) => {
            report.add(refused("redis", &error));
            return None;
        }
    };
    let pinged = ask(&mut connection, &["PING"]).await;
    if let Err(error @ Error::Broken { .. } | error @ Error::Malformed { .. }) = &pinged {
        report.add(refused("redis", error));
        return None;
    }
    let found = match address {
        Address::Sentinel(_) => format!("reachable at {}, {address}", connection.address()),
        address => format!("reachable at {address}"),
    };
    report.add(Line::pass("redis", found));
    let user = settings.username.as_deref().unwrap_or("default");
    report.add(match &pinged {
        Ok(_) => Line::pass("login", format!("as user {user}")),
        Err(error) => refused("login", error),
    });
    pinged.is_ok().then_some(connection)
}

/// What CONFIG GET says of a setting; none when that is not permitted.
async fn setting(connection: &mut Connection, name: &str) -> Option<String> {
    let reply = ask(connection, &["CONFIG", "GET", name]).await.ok()?;
    reply.array().get(1).map(Reply::text)
}

/// What the server holds, and which peers it has met.
async fn held(connection: &mut Connection, facts: &Facts, config: &Config) -> Line {
    let mut new = Vec::new();
    for peer in &config.peers {
        match mark(connection, &peer.site).await {
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => {
                let found = format!("{} holds a {error}", mark_key(&peer.site));
                let remedy = "delete that key; the two sites are then synced anew";
                return Line::fail("data", found, remedy);
            }
            Ok(None) => new.push(peer.site.as_str()),
            Err(error) => return refused("data", &error),
        }
    }
    match bookkeeping_keys(connection, config).await {
        Ok(ours) => data(facts.keys().saturating_sub(ours), &new, &config.sync),
        Err(error) => refused("data", &error),
    }
}

async fn mark(
    connection: &mut Connection,
    site: &SiteId,
) -> Result<Option<Result<Mark, MarkError>>, Error> {
    let value = ask(connection, &["GET", &mark_key(site)]).await?;
    Ok(value.bytes().map(|bytes| Mark::parse(bytes)))
}

/// How many of the keys are our own.
async fn bookkeeping_keys(connection: &mut Connection, config: &Config) -> Result<u64, Error> {
    let mut keys = vec!["EXISTS".to_owned(), SELF_KEY.to_owned()];
    for peer in &config.peers {
        let site = &peer.site;
        keys.extend([mark_key(site), owed_key(site), fence_key(site)]);
        for role in ["apply", "read"] {
            keys.push(fence_key(site).replacen("fence:", &format!("fence:{role}:"), 1));
        }
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let count = ask(connection, &keys).await?.integer();
    Ok(count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
}

pub(super) async fn ask_all(
    connection: &mut Connection,
    commands: &[&[&str]],
) -> Result<(), Error> {
    for command in commands {
        ask(connection, command).await?;
    }
    Ok(())
}

pub(super) async fn ask(connection: &mut Connection, args: &[&str]) -> Result<Reply, Error> {
    let reply = call(connection, args).await?;
    // `CLIENT KILL` tells more than `CLIENT`; of other commands the second word is an argument.
    let words = if matches!(args[0], "CLIENT" | "CONFIG") {
        2
    } else {
        1
    };
    connection.accepted(&args[..words].join(" "), reply)
}

pub(super) async fn call(connection: &mut Connection, args: &[&str]) -> Result<Reply, Error> {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    within(connection, async |c| c.call(&args).await).await
}

/// Waits for an answer, but not for ever.
pub(super) async fn within(
    connection: &mut Connection,
    answer: impl AsyncFnOnce(&mut Connection) -> Result<Reply, Error>,
) -> Result<Reply, Error> {
    let answered = timeout(ANSWER_TIMEOUT, answer(connection)).await;
    answered.unwrap_or_else(|_| Err(silent(connection.address().to_string())))
}

fn silent(address: String) -> Error {
    let source = io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
    Error::Broken { address, source }
}

/// A failure in the client's words, which name their remedy where they know one.
pub(super) fn refused(name: &str, error: &Error) -> Line {
    let text = error.to_string();
    match error {
        Error::Refused { message, .. } if !text.contains("; ") => {
            Line::fail(name, text.trim_end_matches('.'), remedy(message))
        }
        Error::Broken { .. } => Line::fail(
            name,
            text,
            "check that [redis] url leads to a Redis, and see its log",
        ),
        _ => Line::fail(name, text, ""),
    }
}

/// What an operator can do about a refusal.
pub(super) fn remedy(message: &str) -> &'static str {
    match message.split(' ').next().unwrap_or_default() {
        "NOPERM" => "give the user of [redis] the permissions that the README lists",
        "OOM" => "give the server memory: until then the other site's writes wait",
        "MISCONF" => "mend the server's snapshots: until then the other site's writes wait",
        "NOREPLICAS" => "start the server's replicas, or lower min-replicas-to-write",
        "READONLY" => "point [redis] url at the primary",
        _ if message.contains("unknown command") => {
            "take it out of the server's rename-command settings"
        }
        _ => "see the log of the server",
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    #[test]
    fn each_refusal_names_one_remedy() {
        for (message, remedy) in [
            ("NOPERM this user has no permissions", "the README lists"),
            ("NOAUTH Authentication required.", "set a password"),
            ("OOM command not allowed", "memory"),
            ("ERR unknown command `CLIENT`", "rename-command"),
        ] {
            let error = Error::Refused {
                address: "h:1".to_owned(),
                command: "SET".to_owned(),
                message: message.to_owned(),
            };
            let line = refused("x", &error);
            let text = line.to_string();
            assert_eq!(line.level(), Level::Fail);
            assert!(text.contains(message.trim_end_matches('.')), "{text}");
            assert!(text.contains(remedy), "{text}");
            assert_eq!(text.matches("; ").count(), 1, "{text}");
        }
    }
}

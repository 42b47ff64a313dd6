//! The independent client: the `redis` crate, with commands written as one writes them in a shell.

use std::time::Duration;

use redis::{Cmd, Connection, ErrorKind, FromRedisValue, RedisError, RedisResult, Value};

use super::server::numbers;
use super::wait::{patience, wait_until};

/// How long one reply may take.
const REPLY: Duration = Duration::from_secs(60);

/// A connection to one server.
pub(crate) struct Client {
    connection: Connection,
}

impl Client {
    /// Connects, waiting while the server starts or loads.
    pub(crate) fn connect(port: u16) -> Self {
        Self::connect_while(port, || {})
    }

    /// Connects, waiting while the server starts or loads; looks before each attempt.
    pub(crate) fn connect_while(port: u16, look: impl Fn()) -> Self {
        wait_until("a Redis to answer", patience(20), || {
            look();
            let mut client = Self::try_connect(port).map_err(|e| e.to_string())?;
            client.try_run("PING").map_err(|e| e.to_string())?;
            Ok(client)
        })
    }

    /// Connects now or not at all.
    pub(crate) fn try_connect(port: u16) -> RedisResult<Self> {
        Self::try_connect_as(port, "")
    }

    /// Connects with `user:password@` (or nothing).
    pub(crate) fn try_connect_as(port: u16, login: &str) -> RedisResult<Self> {
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{port}"))?;
        let connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(REPLY))?;
        connection.set_write_timeout(Some(REPLY))?;
        Ok(Self { connection })
    }

    /// Runs a command that must succeed.
    pub(crate) fn run(&mut self, line: &str) -> Value {
        self.try_run(line)
            .unwrap_or_else(|error| panic!("{line:.200}: {error}"))
    }

    /// Runs a command that may be refused.
    pub(crate) fn try_run(&mut self, line: &str) -> RedisResult<Value> {
        command(&words(line)).query(&mut self.connection)
    }

    /// Runs a command and takes the reply as this type.
    pub(crate) fn ask<T: FromRedisValue>(&mut self, line: &str) -> T {
        let value = self.run(line);
        T::from_redis_value(value).unwrap_or_else(|error| panic!("{line:.200}: {error}"))
    }

    /// Runs a command of arbitrary bytes that must succeed.
    pub(crate) fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        let name = String::from_utf8_lossy(args[0].as_ref()).into_owned();
        command(args)
            .query(&mut self.connection)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs commands in one pipeline; all must succeed.
    pub(crate) fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Vec<Value> {
        let mut pipe = redis::Pipeline::with_capacity(commands.len());
        for args in commands {
            pipe.add_command(command(args));
        }
        pipe.query(&mut self.connection)
            .unwrap_or_else(|error| panic!("a pipeline of {}: {error}", commands.len()))
    }

    /// The crate's own connection.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// One number of `INFO section`.
    pub(crate) fn info_number(&mut self, section: &str, field: &str) -> u64 {
        self.info(section, field)
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("INFO {section} has a number {field}"))
    }

    /// One field of `INFO section`.
    pub(crate) fn info(&mut self, section: &str, field: &str) -> Option<String> {
        let text: String = self.ask(&format!("INFO {section}"));
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(value.to_owned())
    }

    /// How often a command has been called here, by anybody, inside MULTI too.
    pub(crate) fn calls(&mut self, name: &str) -> u64 {
        let field = format!("cmdstat_{}", name.to_lowercase());
        self.info("commandstats", &field)
            .map_or(0, |stats| calls_of(&stats))
    }

    /// Calls of every command.
    pub(crate) fn all_calls(&mut self) -> Vec<(String, u64)> {
        let text: String = self.ask("INFO commandstats");
        text.lines()
            .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'))
            .map(|(name, stats)| (name.to_owned(), calls_of(stats)))
            .collect()
    }

    /// Keys that have expired so far.
    pub(crate) fn expired(&mut self) -> u64 {
        self.info_number("stats", "expired_keys")
    }

    /// The version of its server; Valkey counts as the Redis that it says it is.
    pub(crate) fn version(&mut self) -> (u32, u32) {
        let version = self.info("server", "redis_version");
        numbers(&version.unwrap_or_default())
    }

    /// Bytes of its replication stream so far.
    pub(crate) fn offset(&mut self) -> u64 {
        self.info_number("replication", "master_repl_offset")
    }
}

fn calls_of(stats: &str) -> u64 {
    stats
        .split(',')
        .find_map(|field| field.strip_prefix("calls="))
        .and_then(|n| n.parse().ok())
        .expect("calls= in commandstats")
}

/// Whether a failed command was certainly not executed: the server itself refused it.
pub(crate) fn was_refused(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed
    ) || error.is_connection_refusal()
}

fn command<A: AsRef<[u8]>>(args: &[A]) -> Cmd {
    let mut cmd = Cmd::new();
    for arg in args {
        cmd.arg(arg.as_ref());
    }
    cmd
}

/// Splits a line at blanks; `""` is empty, `'a b'` keeps its blanks, `\xHH \r \n \s` are bytes.
pub(crate) fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, tail) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').expect("a closing quote"),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(if word == "\"\"" {
            Vec::new()
        } else {
            unescape(word)
        });
        rest = tail.trim_start();
    }
    words
}

fn unescape(word: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut chars = word.bytes();
    while let Some(byte) = chars.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match chars.next().expect("a letter after a backslash") {
            b'r' => b'\r',
            b'n' => b'\n',
            b's' => b' ',
            b'x' => {
                let digits = [chars.next(), chars.next()].map(|d| d.expect("two digits"));
                let digits = std::str::from_utf8(&digits).expect("hexadecimal");
                u8::from_str_radix(digits, 16).expect("hexadecimal")
            }
            other => other,
        });
    }
    bytes
}

//! A client that carries out cases, line by line.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};

use super::case::{Case, Names};
use crate::harness::client::{was_refused, words};
use crate::harness::wait::let_pass;
use crate::harness::{Client, Site, patience, wait_for};

/// Carries out a case at a site; what went otherwise than the table says, if anything did.
pub(crate) fn perform(site: &Site, client: &mut Client, case: &Case, names: &Names) -> Vec<String> {
    let mut performer = Performer {
        site,
        reply: Vec::new(),
        waiting: Vec::new(),
        wrong: Vec::new(),
    };
    for line in case.lines {
        performer.line(client, line, names);
    }
    performer.end(client)
}

/// The answer of a server in words: bytes as text, `nil` for nothing.
pub(crate) fn ask(client: &mut Client, question: &str) -> String {
    match client.try_run(question) {
        Ok(Value::Nil) => "nil".to_owned(),
        Ok(value) => redis::from_redis_value(value).unwrap_or_else(|error| error.to_string()),
        Err(error) => error.to_string(),
    }
}

struct Performer<'a> {
    site: &'a Site,
    /// The reply to the line before, when it was a string.
    reply: Vec<u8>,
    waiting: Vec<(String, JoinHandle<RedisResult<Value>>)>,
    wrong: Vec<String>,
}

impl Performer<'_> {
    fn line(&mut self, client: &mut Client, line: &str, names: &Names) {
        let (sign, line) = match line.as_bytes().first() {
            Some(b'!' | b'?' | b'&' | b'~') => line.split_at(1),
            _ => ("", line),
        };
        if sign == "~" {
            let span = line.parse().expect("milliseconds");
            let_pass(Duration::from_millis(span));
            return;
        }
        let line = names.fill(line);
        if sign == "&" {
            self.wait_for(line);
            return;
        }
        let result = command(&line, &self.reply).query(client.connection());
        if result.as_ref().is_err_and(|error| !was_refused(error)) {
            self.site.server.expect_alive();
        }
        match (result, sign) {
            (Ok(value), "!") => self.wrong.push(format!("{line}: answered {value:?}")),
            (Ok(Value::BulkString(bytes)), _) => self.reply = bytes,
            (Ok(_), _) | (Err(_), "!" | "?") => {}
            (Err(error), _) => self.wrong.push(format!("{line:.200}: {error}")),
        }
    }

    /// Starts a client that sends this, and lets it be kept waiting.
    fn wait_for(&mut self, line: String) {
        let mut looking = self.site.client();
        let before = looking.info_number("clients", "blocked_clients");
        let mut client = self.site.client();
        let sent = line.clone();
        let waiting = thread::spawn(move || command(&sent, &[]).query(client.connection()));
        wait_for("a client to be kept waiting", patience(20), || {
            looking.info_number("clients", "blocked_clients") > before
        });
        self.waiting.push((line, waiting));
    }

    fn end(mut self, client: &mut Client) -> Vec<String> {
        for (line, waiting) in self.waiting {
            match waiting.join().expect("a client ends") {
                Ok(Value::Nil) => self.wrong.push(format!("{line}: was not served")),
                Ok(_) => {}
                Err(error) => self.wrong.push(format!("{line}: {error}")),
            }
        }
        client.run("SELECT 0");
        self.wrong
    }
}

/// The command of a line, with the last reply where it asks for it.
fn command(line: &str, reply: &[u8]) -> Cmd {
    let mut command = Cmd::new();
    for word in words(line) {
        if word == b"{reply}" {
            command.arg(reply);
        } else {
            command.arg(word);
        }
    }
    command
}

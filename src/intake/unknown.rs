//! Commands that were met in the stream and are neither in the table nor in the server's list: a
//! renamed one is listed under its old name, and a module may have been loaded meanwhile. The server
//! is asked for each once; until it has answered, the command counts as a write of every key.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, warn};

use super::Config;
use super::facts::learned;
use crate::command::Catalog;
use crate::redis::{Connection, Error, Settings, connection_name};

/// How long the server may take to say what a command is: nothing is read meanwhile.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// The most names that are asked for.
const MAX_ASKED: usize = 1000;

/// What is remembered of them.
#[derive(Debug)]
pub(super) struct Unknown {
    redis: Settings,
    /// The name of the connection on which the server is asked.
    connection: String,
    count: u64,
    asked: BTreeSet<Vec<u8>>,
    to_ask: Vec<Vec<u8>>,
}

impl Unknown {
    /// None met yet.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            redis: config.redis.clone(),
            connection: connection_name(&config.site, "facts"),
            count: 0,
            asked: BTreeSet::new(),
            to_ask: Vec::new(),
        }
    }

    /// One was met.
    pub(super) fn met(&mut self, command: &[u8]) {
        self.count += 1;
        if self.asked.len() < MAX_ASKED && self.asked.insert(command.to_vec()) {
            self.to_ask.push(command.to_vec());
        }
        if self.count.is_power_of_two() {
            let command = String::from_utf8_lossy(command).into_owned();
            warn!(
                command,
                count = self.count,
                "nothing is known of this command yet: it travels, and counts as a write of every key"
            );
        }
    }

    /// Asks the server for those met for the first time since the last call. Without an answer they
    /// stay unknown.
    pub(super) async fn ask(&mut self, catalog: &Catalog) {
        if self.to_ask.is_empty() {
            return;
        }
        let names = std::mem::take(&mut self.to_ask);
        match timeout(ASK_TIMEOUT, self.ask_for(&names, catalog)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the server does not say what a command is"),
            Err(_) => debug!("the server does not say in time what a command is"),
        }
    }

    async fn ask_for(&self, names: &[Vec<u8>], catalog: &Catalog) -> Result<(), Error> {
        let mut connection = Connection::open(&self.redis, &self.connection).await?;
        let mut args: Vec<&[u8]> = vec![b"COMMAND", b"INFO"];
        args.extend(names.iter().map(Vec::as_slice));
        let infos = connection.ask(&args).await?.array();
        let found = names.iter().zip(infos);
        catalog.learn(found.filter_map(|(name, info)| Some((name.clone(), learned(info)?.1))));
        Ok(())
    }
}

//! The load: writers at both sites, and a tally of every increment that Redis acknowledged.
//!
//! What both sites write at the same time commutes: increments, additions to a set, fields of a
//! hash that differ. Every other key belongs to one site.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::client::{self, Client, Command};
use super::operations::{self, Operation};
use super::servers::Site;

/// The database of each writer of a site: some writes go to another than 0.
const WRITERS: [u32; 2] = [0, 3];
/// How many operations a writer sends at once.
const PIPELINE: usize = 20;
/// How often it does: with the above, about 4,000 writes a second and site.
const EVERY: Duration = Duration::from_millis(10);

/// A counter: a key, or a field of a hash, in a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Counter {
    /// The database.
    pub(super) db: u32,
    /// The key.
    pub(super) key: String,
    /// The field, when the key is a hash.
    pub(super) field: Option<String>,
}

/// What Redis acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Writes, those inside transactions counted one by one.
    pub(super) writes: u64,
    /// For each counter the sum of its increments and decrements, and how many they were.
    pub(super) counters: BTreeMap<Counter, (i64, u64)>,
}

/// What a site's writers have done so far, for the view.
#[derive(Debug, Default)]
pub(super) struct Progress {
    writes: AtomicU64,
    shared: AtomicU64,
}

/// The writers at work.
#[derive(Debug)]
pub(super) struct Load {
    writers: JoinSet<Result<Tally>>,
    stop: CancellationToken,
    progress: [Arc<Progress>; 2],
}

impl Load {
    /// Starts the writers of both sites.
    pub(super) async fn start(sites: &[Site; 2]) -> Result<Self> {
        let mut load = Self {
            writers: JoinSet::new(),
            stop: CancellationToken::new(),
            progress: Default::default(),
        };
        for (site, progress) in sites.iter().zip(&load.progress) {
            for (seed, db) in (1..).zip(WRITERS) {
                let mut client = Client::open(site.redis).await?;
                client.call(&["SELECT", &db.to_string()]).await?;
                let writer = Writer {
                    site: site.name,
                    db,
                    client,
                    random: StdRng::seed_from_u64(seed),
                    sequence: 0,
                    tally: Tally::default(),
                    progress: Arc::clone(progress),
                };
                load.writers.spawn(writer.run(load.stop.clone()));
            }
        }
        Ok(load)
    }

    /// How a writer ended that was not told to, if one did.
    pub(super) fn ended_early(&mut self) -> Option<Result<()>> {
        let ended = self.writers.try_join_next()?;
        Some(flatten(ended).map(|_| ()))
    }

    /// Writes acknowledged at this site, and increments of the shared counter.
    pub(super) fn progress(&self, site: usize) -> (u64, u64) {
        let progress = &self.progress[site];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&progress.writes), read(&progress.shared))
    }

    /// Lets the writers finish what they have sent, and adds up.
    pub(super) async fn stop(mut self) -> Result<Tally> {
        self.stop.cancel();
        let mut total = Tally::default();
        while let Some(ended) = self.writers.join_next().await {
            total.add(flatten(ended)?);
        }
        Ok(total)
    }
}

fn flatten(ended: Result<Result<Tally>, tokio::task::JoinError>) -> Result<Tally> {
    ended.context("run a writer")?
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.writes += other.writes;
        for (counter, (sum, count)) in other.counters {
            let mine = self.counters.entry(counter).or_default();
            mine.0 += sum;
            mine.1 += count;
        }
    }
}

/// One connection that writes in one database of one site.
#[derive(Debug)]
struct Writer {
    site: &'static str,
    db: u32,
    client: Client,
    random: StdRng,
    /// Numbers the things that must never be written twice.
    sequence: u64,
    tally: Tally,
    progress: Arc<Progress>,
}

impl Writer {
    /// Writes until it is told to stop; what has been sent is always waited for.
    async fn run(mut self, stop: CancellationToken) -> Result<Tally> {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(self.tally),
                _ = ticks.tick() => {}
            }
            self.write_some().await?;
        }
    }

    async fn write_some(&mut self) -> Result<()> {
        let operations: Vec<Operation> = (0..PIPELINE)
            .map(|_| {
                self.sequence += 1;
                operations::draw(&mut self.random, self.site, self.sequence)
            })
            .collect();
        let commands: Vec<Command> = operations
            .iter()
            .flat_map(|operation| operation.commands.clone())
            .collect();
        let mut replies = self.client.pipeline(commands).await?.into_iter();
        for operation in operations {
            for sent in &operation.commands {
                let reply = replies.next().context("read a reply")?;
                client::checked(reply).with_context(|| words(sent))?;
            }
            self.count(operation);
        }
        Ok(())
    }

    /// Takes an acknowledged operation into the tally.
    fn count(&mut self, operation: Operation) {
        self.tally.writes += operation.writes;
        self.progress
            .writes
            .fetch_add(operation.writes, Ordering::Relaxed);
        for (key, field, amount) in operation.increments {
            if key == operations::SHARED && self.db == 0 {
                self.progress.shared.fetch_add(1, Ordering::Relaxed);
            }
            let counter = Counter {
                db: self.db,
                key,
                field,
            };
            let entry = self.tally.counters.entry(counter).or_default();
            entry.0 += amount;
            entry.1 += 1;
        }
    }
}

/// The name and the key of a command, for an error.
fn words(sent: &Command) -> String {
    let words = sent.iter().take(2).map(|w| String::from_utf8_lossy(w));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::client::command;

    #[test]
    fn tallies_add_up() {
        let counter = |key: &str| Counter {
            db: 0,
            key: key.to_owned(),
            field: None,
        };
        let tally = |key: &str, sum| Tally {
            writes: 2,
            counters: BTreeMap::from([(counter(key), (sum, 2))]),
        };
        let mut total = tally("a", 3);
        total.add(tally("a", -5));
        total.add(tally("b", 7));
        assert_eq!(total.writes, 6);
        assert_eq!(total.counters[&counter("a")], (-2, 4));
        assert_eq!(total.counters[&counter("b")], (7, 2));
        assert_eq!(words(&command(&["SET", "key", "value"])), "SET key");
    }
}

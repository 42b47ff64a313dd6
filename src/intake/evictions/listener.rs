//! Hears what the server says of evictions, and publishes fences: two connections to it, opened anew
//! whenever one of them breaks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{CHANNEL, fence_number, fence_text};
use crate::command::key_hash;
use crate::intake::Config;
use crate::model::InstanceId;
use crate::redis::{Connection, Error, Reply, Settings, connection_name, tells_evictions};
use crate::status::Board;

/// The messages of every database about keys that were evicted.
const EVICTED: &str = "__keyevent@*__:evicted";
/// The setting that has the server publish them.
const SETTING: &str = "notify-keyspace-events";

/// How many heaps of messages wait for the stream; more wait in the server, which ends the connection when
/// they are too many for it.
const WAITING: usize = 64;
/// The most messages in one heap.
const HEAP: usize = 1024;
/// The first wait before connecting again; doubles up to [`LONGEST_WAIT`]. Meanwhile nothing can be told.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait before connecting again.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often the server is asked whether it still publishes evictions.
const LOOK: Duration = Duration::from_secs(10);
/// How long a fence may take from being published to being heard; then the connection is dead.
const FENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::intake) enum Said {
    /// From here on everything.
    Listening,
    /// From here on nothing.
    Deaf,
    /// A key was evicted: its hash.
    Evicted(u128),
    /// A fence of ours.
    Fence(u64),
}

/// What the stream has of the [`Listener`].
#[derive(Debug)]
pub(in crate::intake) struct Line {
    said: mpsc::Receiver<Vec<Said>>,
    wanted: watch::Sender<Option<u64>>,
}

impl Line {
    /// Has a fence published, if that has not been done.
    pub(in crate::intake) fn want(&self, number: Option<u64>) {
        self.wanted.send_if_modified(|known| {
            let is_new = number.is_some() && *known != number;
            if is_new {
                *known = number;
            }
            is_new
        });
    }

    /// What was heard next. Cancel safe.
    pub(in crate::intake) async fn said(&mut self) -> Vec<Said> {
        match self.said.recv().await {
            Some(said) => said,
            // The sidecar is about to end.
            None => std::future::pending().await,
        }
    }
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// A connection.
    #[error(transparent)]
    Redis(#[from] Error),
    /// The server says nothing.
    #[error(
        "{SETTING} is {0:?}, so Redis does not say what it evicts, and its evictions travel as deletes; \
         add E and e to it"
    )]
    Silent(String),
    /// Sentinels name another server.
    #[error("the Sentinels name another server now; listening to that")]
    Moved,
    /// Nobody is there to hear.
    #[error("the stream is not read any more")]
    Closed,
}

/// Listens to the server that is written to: it evicts.
#[derive(Debug)]
pub struct Listener {
    redis: Settings,
    name: String,
    instance: InstanceId,
    board: Arc<Board>,
    heaps: mpsc::Sender<Vec<Said>>,
    fences: watch::Receiver<Option<u64>>,
}

impl Listener {
    /// One that does not listen yet, and what the stream has of it.
    pub(in crate::intake) fn new(config: &Config, board: &Arc<Board>) -> (Self, Line) {
        let (heaps, said) = mpsc::channel(WAITING);
        let (wanted, fences) = watch::channel(None);
        let listener = Self {
            redis: config.redis.clone(),
            name: connection_name(&config.site, "evictions"),
            instance: config.instance,
            board: Arc::clone(board),
            heaps,
            fences,
        };
        (listener, Line { said, wanted })
    }

    /// Listens until `stop`, through every loss of the connections.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut wait = FIRST_WAIT;
        loop {
            let trouble = tokio::select! {
                () = stop.cancelled() => return,
                Err(trouble) = self.listen(&mut wait) => trouble,
            };
            self.tell(Some(trouble.to_string()));
            tokio::select! {
                () = stop.cancelled() => return,
                // Nobody takes it any more when the sidecar is about to end.
                _ = self.say(vec![Said::Deaf]) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }

    /// Shows what is wrong, and logs it when it is another thing than before.
    fn tell(&self, trouble: Option<String>) {
        let mut redis = self.board.redis();
        let Some(status) = redis.evictions.as_mut() else {
            return;
        };
        if status.error == trouble {
            return;
        }
        match &trouble {
            Some(error) => warn!(%error, "evictions cannot be told from deletes"),
            None => info!("evictions are told from deletes"),
        }
        status.error = trouble;
    }

    async fn say(&self, said: Vec<Said>) -> Result<(), Trouble> {
        self.heaps.send(said).await.map_err(|_| Trouble::Closed)
    }

    /// One life of the two connections; it ends with trouble.
    async fn listen(&mut self, wait: &mut Duration) -> Result<Infallible, Trouble> {
        let mut voice = Connection::open(&self.redis, &self.name).await?;
        look(&mut voice).await?;
        let mut ears = Connection::open(&self.redis, &self.name).await?;
        for command in [
            [&b"PSUBSCRIBE"[..], EVICTED.as_bytes()],
            [b"SUBSCRIBE", CHANNEL.as_bytes()],
        ] {
            within(&mut ears, async |c| c.ask(&command).await).await?;
        }
        let at = voice.address().clone();
        if *ears.address() != at {
            return Err(Trouble::Moved);
        }
        let redis = self.redis.clone();
        let moved = redis.moved(&at);
        tokio::pin!(moved);
        // What was wanted before was wanted of other connections.
        self.fences.mark_unchanged();
        self.say(vec![Said::Listening]).await?;
        self.tell(None);
        *wait = FIRST_WAIT;
        let mut looks = interval(LOOK);
        looks.tick().await;
        let due = sleep(FENCE_TIMEOUT);
        tokio::pin!(due);
        let mut unheard = None;
        loop {
            let reply = tokio::select! {
                biased;
                changed = self.fences.changed() => {
                    changed.map_err(|_| Trouble::Closed)?;
                    let number = *self.fences.borrow_and_update();
                    if let Some(number) = number {
                        publish(&mut voice, self.instance, number).await?;
                        unheard = Some(number);
                        due.set(sleep(FENCE_TIMEOUT));
                    }
                    continue;
                }
                _ = looks.tick() => {
                    look(&mut voice).await?;
                    continue;
                }
                _ = &mut moved => return Err(Trouble::Moved),
                reply = ears.reply() => reply?,
                () = &mut due, if unheard.is_some() => return Err(ears.timed_out().into()),
            };
            let mut heap: Vec<Said> = self.heard(reply).into_iter().collect();
            while heap.len() < HEAP {
                let more = tokio::select! {
                    biased;
                    reply = ears.reply() => reply?,
                    () = std::future::ready(()) => break,
                };
                heap.extend(self.heard(more));
            }
            unheard = unheard.filter(|number| !heap.contains(&Said::Fence(*number)));
            if !heap.is_empty() {
                self.say(heap).await?;
            }
        }
    }

    /// What a message says; none when it is not meant for us.
    fn heard(&self, message: Reply) -> Option<Said> {
        let words = message.array();
        let word = |number: usize| words.get(number).and_then(Reply::bytes);
        match word(0)?.as_ref() {
            b"pmessage" => {
                let db = database(word(2)?)?;
                Some(Said::Evicted(key_hash(db, word(3)?)))
            }
            b"message" => fence_number(word(2)?, self.instance).map(Said::Fence),
            _ => None,
        }
    }
}

/// The database of a channel `__keyevent@<db>__:evicted`.
fn database(channel: &[u8]) -> Option<u32> {
    let channel = std::str::from_utf8(channel).ok()?;
    let (_, rest) = channel.split_once('@')?;
    rest.split_once("__")?.0.parse().ok()
}

async fn publish(voice: &mut Connection, instance: InstanceId, number: u64) -> Result<(), Error> {
    let text = fence_text(instance, number);
    let command = [&b"PUBLISH"[..], CHANNEL.as_bytes(), text.as_bytes()];
    within(voice, async |c| c.ask(&command).await)
        .await
        .map(drop)
}

/// Whether the server publishes what it evicts. Where it is not permitted to ask, it is taken to.
async fn look(voice: &mut Connection) -> Result<(), Trouble> {
    let command = [&b"CONFIG"[..], b"GET", SETTING.as_bytes()];
    let reply = within(voice, async |c| c.call(&command).await).await?;
    match reply.array().get(1).map(Reply::text) {
        Some(flags) if !tells_evictions(&flags) => Err(Trouble::Silent(flags)),
        _ => Ok(()),
    }
}

/// Waits for an answer, but not for ever.
async fn within(
    connection: &mut Connection,
    answer: impl AsyncFnOnce(&mut Connection) -> Result<Reply, Error>,
) -> Result<Reply, Error> {
    match timeout(ANSWER_TIMEOUT, answer(connection)).await {
        Ok(answered) => answered,
        Err(_) => Err(connection.timed_out()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_that_of_the_channel() {
        for (channel, db) in [
            (&b"__keyevent@0__:evicted"[..], Some(0)),
            (b"__keyevent@15__:evicted", Some(15)),
            (b"__keyevent@x__:evicted", None),
            (b"tandem:evictions", None),
        ] {
            assert_eq!(database(channel), db);
        }
    }
}

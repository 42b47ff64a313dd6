//! One transaction at a time, through refusals that pass and connections that break.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::reply::{Class, Outcome, classify};
use super::sealed::Sealed;
use super::{Applier, Error};
use crate::model::{Mark, mark_key};
use crate::redis;
use crate::status::Stop;

/// The waits between attempts while the local Redis refuses or is away.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The longest of them.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Applier {
    /// Writes the mark and what `more` adds, until that is done.
    pub(super) async fn commit(
        &mut self,
        more: impl Fn(&mut Sealed),
        mark: Mark,
        stop: &CancellationToken,
    ) -> Result<Vec<redis::Reply>, Error> {
        let mark = Mark {
            instance: self.config.instance,
            batch: mark.batch + 1,
            ..mark
        };
        let key = mark_key(&self.config.peer);
        let text = mark.to_string();
        loop {
            let sealed = |db| {
                let mut sealed = Sealed::begin(db, &key, &text);
                more(&mut sealed);
                sealed.end();
                sealed
            };
            match self.execute(stop, sealed).await? {
                Executed::Done { replies, head } => {
                    self.mark = Some(mark);
                    return Ok(replies.into_iter().skip(head).collect());
                }
                Executed::Refused { message, .. } => return Err(unexpected_refusal(&message)),
                Executed::Changed => return Err(unexpected_refusal("EXEC without effect")),
                // Bookkeeping may be written twice.
                Executed::Lost => {}
            }
        }
    }

    /// One transaction, through refusals that pass.
    pub(super) async fn execute(
        &mut self,
        stop: &CancellationToken,
        seal: impl Fn(u32) -> Sealed,
    ) -> Result<Executed, Error> {
        let sent = self.send(stop, &seal).await?;
        self.finish(sent, stop, seal).await
    }

    /// The same of one that was sent: sends it again where it was refused for a while.
    pub(super) async fn finish(
        &mut self,
        mut sent: Sent,
        stop: &CancellationToken,
        seal: impl Fn(u32) -> Sealed,
    ) -> Result<Executed, Error> {
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(executed) = self.answer(sent, stop).await? {
                return Ok(executed);
            }
            pause(&mut wait, stop).await?;
            sent = self.send(stop, &seal).await?;
        }
    }

    /// One transaction that watches keys. When the server refuses it for a while, nothing is
    /// watched any more: that counts as a change, after a wait.
    pub(super) async fn execute_once(
        &mut self,
        stop: &CancellationToken,
        seal: impl Fn(u32) -> Sealed,
    ) -> Result<Executed, Error> {
        let sent = self.send(stop, &seal).await?;
        match self.answer(sent, stop).await? {
            Some(executed) => Ok(executed),
            None => {
                let mut wait = LONGEST_WAIT;
                pause(&mut wait, stop).await?;
                Ok(Executed::Changed)
            }
        }
    }

    /// Sends a transaction. Nothing else may be sent before its [answer](Self::answer) is read.
    pub(super) async fn send(
        &mut self,
        stop: &CancellationToken,
        seal: &impl Fn(u32) -> Sealed,
    ) -> Result<Sent, Error> {
        let writing = self.writing.as_mut().ok_or(Error::NoStream)?;
        let sealed = seal(writing.db);
        let sending = writing.connection.send(&sealed.bytes);
        let result = or_stopped(sending, stop).await;
        let Some(result) = result else {
            return Err(self.stopped());
        };
        Ok(Sent {
            commands: sealed.count,
            head: sealed.head,
            db: sealed.db,
            result: result.map_err(Error::from),
        })
    }

    /// What became of a transaction that was sent; none when the server refuses it for a while.
    async fn answer(
        &mut self,
        sent: Sent,
        stop: &CancellationToken,
    ) -> Result<Option<Executed>, Error> {
        let writing = self.writing.as_mut().ok_or(Error::NoStream)?;
        let outcome = match sent.result {
            Ok(()) => or_stopped(writing.outcome(sent.commands), stop).await,
            Err(error) => Some(Err(error)),
        };
        let Some(outcome) = outcome else {
            return Err(self.stopped());
        };
        Ok(Some(match outcome {
            Ok(Outcome::Done(replies)) => {
                writing.db = sent.db;
                self.board.lock().waiting = None;
                let head = sent.head;
                Executed::Done { replies, head }
            }
            Ok(Outcome::Changed) => Executed::Changed,
            Ok(Outcome::Aborted { command, message }) => match classify(&message) {
                Class::Stop(why) => return Err(Error::Stop(why)),
                Class::Wait => {
                    self.board.lock().waiting = Some(message);
                    return Ok(None);
                }
                Class::Failed => Executed::Refused {
                    body_command: command.and_then(|number| number.checked_sub(sent.head)),
                    message,
                },
            },
            Err(error) => {
                warn!(peer = %self.config.peer, %error, "lost the connection while writing");
                self.reopen(stop).await?;
                Executed::Lost
            }
        }))
    }

    /// What becomes of what was sent, the mark will say.
    fn stopped(&mut self) -> Error {
        self.writing = None;
        Error::Stopped
    }

    /// Opens the connection again, however long it takes.
    pub(super) async fn reopen(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let epoch = self.epoch();
        let mut wait = FIRST_WAIT;
        loop {
            let opened = tokio::select! {
                opened = self.connect() => opened,
                () = stop.cancelled() => return Err(Error::Stopped),
            };
            match opened {
                // A new history: what was planned with the peer no longer holds.
                Ok(_) if self.epoch() != epoch => return Err(Error::Stopped),
                Ok(_) => {
                    self.board.lock().waiting = None;
                    return Ok(());
                }
                Err(error @ (Error::Stop(_) | Error::BadMark { .. })) => return Err(error),
                Err(error) => self.board.lock().waiting = Some(error.to_string()),
            }
            pause(&mut wait, stop).await?;
        }
    }
}

/// What comes of it, or nothing when all is to stop.
pub(super) async fn or_stopped<T>(
    work: impl Future<Output = T>,
    stop: &CancellationToken,
) -> Option<T> {
    tokio::select! {
        result = work => Some(result),
        () = stop.cancelled() => None,
    }
}

/// A transaction that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    /// How many commands are between MULTI and EXEC.
    commands: usize,
    /// How many of them come before the body.
    head: usize,
    /// The database that is selected when it was executed.
    db: u32,
    /// Whether the connection took it.
    result: Result<(), Error>,
}

/// What became of a transaction, once passing refusals have passed.
#[derive(Debug)]
pub(super) enum Executed {
    Done {
        replies: Vec<redis::Reply>,
        head: usize,
    },
    /// The server does not accept this command, counted from behind the mark.
    Refused {
        body_command: Option<usize>,
        message: String,
    },
    /// A watched key had changed.
    Changed,
    /// The connection broke; it was opened again, and the mark read.
    Lost,
}

pub(super) fn unexpected_refusal(message: &str) -> Error {
    Error::Stop(Stop {
        reason: "redis_refuses".to_owned(),
        detail: format!("the local Redis refused our bookkeeping: {message}"),
        remedy: "see the error, and the permissions that the README lists".to_owned(),
    })
}

pub(super) async fn pause(wait: &mut Duration, stop: &CancellationToken) -> Result<(), Error> {
    tokio::select! {
        () = sleep(*wait) => {}
        () = stop.cancelled() => return Err(Error::Stopped),
    }
    *wait = (*wait * 2).min(LONGEST_WAIT);
    Ok(())
}

//! Large values of the peer, which come in parts.
//!
//! The parts are put together under a key of ours, in transactions of bounded size. The whole is
//! renamed to its own key in a transaction that the guard lets in, as any state: no client sees half
//! a value. Should the session end before that, the mark says that something was begun, and the next
//! session removes it.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::commit::Executed;
use super::sealed::Sealed;
use super::target::Questions;
use super::value::{Form, LIMITS, abilities};
use super::{Applier, Error};
use crate::link::{State, Value};
use crate::model::{Mark, mark_key, part_key};
use crate::rdb::Place;
use crate::rdb::commands::{Losses, Piece, Rebuild};
use crate::redis::Reply;

/// A value that is being put together.
#[derive(Debug)]
pub(super) struct Parts {
    db: u32,
    key: Bytes,
    /// Whether anything of it has been written.
    is_written: bool,
    broken: Option<Broken>,
    /// What the server cannot hold of it.
    losses: Losses,
}

/// Why a value cannot be put together.
#[derive(Debug, PartialEq, Eq)]
enum Broken {
    /// What was written of it is gone, evicted, flushed or removed by a client; or is not known.
    Gone,
    /// The server cannot hold it.
    Unheld(String),
}

impl Parts {
    /// Whether a newer state must be asked for.
    pub(super) fn is_gone(&self) -> bool {
        self.broken == Some(Broken::Gone)
    }

    /// What was found where the value is being put together.
    pub(super) fn found(&mut self, is_there: bool) {
        if self.is_written && !is_there {
            self.broken = Some(Broken::Gone);
        }
    }

    /// How the whole takes its key's place.
    pub(super) fn form(&self) -> Form {
        match &self.broken {
            Some(Broken::Unheld(why)) => Form::Unheld(why.clone()),
            Some(Broken::Gone) => Form::Unheld("a part of it is gone".to_owned()),
            None if self.is_written => Form::Rename(self.losses.to_string()),
            // Nothing was left of it: all its fields had expired.
            None => Form::Delete,
        }
    }
}

impl Applier {
    /// Takes the states of a message: whole ones, or one part of a large value. True when they are
    /// to be judged now, false when more parts come.
    pub(super) async fn take_parts(
        &mut self,
        states: &[State],
        stop: &CancellationToken,
    ) -> Result<bool, Error> {
        let is_part = |state: &State| matches!(state.value, Value::Part(..));
        let ([state], true) = (states, states.iter().any(is_part)) else {
            return match states.iter().any(is_part) {
                true => Err(Error::Unexpected("parts of values together")),
                false => Ok(true),
            };
        };
        let Value::Part(place, payload) = &state.value else {
            return Ok(true);
        };
        if *place == Place::First {
            self.begin_parts(state, stop).await?;
        }
        let parts = self.parts.take();
        let parts = parts.filter(|p| p.db == state.db && p.key == state.key);
        let mut parts = parts.ok_or(Error::Unexpected("a part of a value"))?;
        self.add_part(&mut parts, *place, payload, stop).await?;
        self.parts = Some(parts);
        Ok(*place == Place::Last)
    }

    /// Makes room for a value, and says so in the mark.
    async fn begin_parts(&mut self, state: &State, stop: &CancellationToken) -> Result<(), Error> {
        let mark = Mark {
            part: Some(state.db),
            ..self.marked()?
        };
        let key = part_key(&self.config.peer);
        let clear = |sealed: &mut Sealed| put_removal(sealed, state.db, &key);
        self.commit(clear, mark, stop).await?;
        self.parts = Some(Parts {
            db: state.db,
            key: state.key.clone(),
            is_written: false,
            broken: None,
            losses: Losses::default(),
        });
        Ok(())
    }

    async fn add_part(
        &mut self,
        parts: &mut Parts,
        place: Place,
        payload: &Bytes,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let key = part_key(&self.config.peer);
        let info = &self.writing.as_ref().ok_or(Error::NoStream)?.info;
        let rebuild = Rebuild::try_new(payload, key.as_bytes(), abilities(info), LIMITS);
        let mut rebuild = match rebuild {
            Ok(rebuild) => rebuild.of_part(place),
            Err(error) => {
                parts.broken = Some(Broken::Unheld(error.to_string()));
                return Ok(());
            }
        };
        while parts.broken.is_none() {
            match rebuild.next() {
                Some(Ok(piece)) => self.add_piece(parts, &piece, stop).await?,
                Some(Err(error)) => parts.broken = Some(Broken::Unheld(error.to_string())),
                None => break,
            }
        }
        parts.losses.add(rebuild.losses());
        debug!(peer = %self.config.peer, db = parts.db, key = %parts.key.escape_ascii(), ?place, "a part");
        Ok(())
    }

    /// Adds commands to the value, exactly once.
    async fn add_piece(
        &mut self,
        parts: &mut Parts,
        piece: &Piece,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        loop {
            match self.watch_parts(parts, stop).await? {
                Some(is_there) => parts.found(is_there),
                None => continue,
            }
            if parts.broken.is_some() {
                return Ok(());
            }
            let marked = self.marked()?;
            let mark = Mark {
                instance: self.config.instance,
                batch: marked.batch + 1,
                ..marked
            };
            let (key, text) = (mark_key(&self.config.peer), mark.to_string());
            let seal = |db| {
                let mut sealed = Sealed::begin(db, &key, &text);
                sealed.select(parts.db);
                sealed.raw(&piece.bytes, piece.commands);
                sealed.end();
                sealed
            };
            match self.execute_once(stop, seal).await? {
                Executed::Done { replies, .. } => {
                    self.mark = Some(mark);
                    parts.is_written = true;
                    let error = replies.iter().find_map(|r| r.error());
                    parts.broken = error.map(|e| Broken::Unheld(e.clone()));
                    return Ok(());
                }
                // It was executed, and whether a command of it failed is not known.
                Executed::Lost if self.mark.as_ref().is_some_and(|m| m.batch >= mark.batch) => {
                    parts.broken = Some(Broken::Gone);
                    return Ok(());
                }
                Executed::Changed | Executed::Lost => {}
                Executed::Refused { message, .. } => {
                    parts.broken = Some(Broken::Unheld(message));
                    return Ok(());
                }
            }
        }
    }

    /// Watches the place of the value; whether something is there. None when the connection had to
    /// be opened anew.
    async fn watch_parts(
        &mut self,
        parts: &Parts,
        stop: &CancellationToken,
    ) -> Result<Option<bool>, Error> {
        let (key, db) = (part_key(&self.config.peer), parts.db.to_string());
        let mut questions = Questions::default();
        questions.put(&[b"SELECT", db.as_bytes()]);
        questions.put(&[b"WATCH", key.as_bytes()]);
        let there = questions.put(&[b"EXISTS", key.as_bytes()]);
        let Some(replies) = self.ask_all(&questions, stop).await? else {
            return Ok(None);
        };
        if let Some(writing) = &mut self.writing {
            writing.db = parts.db;
        }
        Ok(Some(
            replies.get(there).and_then(Reply::integer).unwrap_or(0) > 0,
        ))
    }
}

/// Removes what was put together of a value.
pub(super) fn put_removal(sealed: &mut Sealed, db: u32, key: &str) {
    sealed.select(db);
    sealed.command(&[b"UNLINK", key.as_bytes()]);
}

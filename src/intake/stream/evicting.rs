//! Telling evictions from deletes while the stream is followed, where that is wanted.

use std::sync::Arc;

use tokio::time::Instant;

use super::Stream;
use crate::intake::evictions::{Evictions, Line, Listener, Said};
use crate::intake::{Config, Shared};
use crate::model::Offset;
use crate::replica::Replica;
use crate::status::{Board, EvictionStatus};

/// What tells them apart.
#[derive(Debug)]
pub(super) struct Evicting {
    pub(super) evictions: Evictions,
    board: Arc<Board>,
    line: Line,
}

impl Evicting {
    /// None unless evictions are to stay here. The stream begins at the place; the listener must run.
    pub(super) fn wanted(
        config: &Config,
        at: (Offset, u32),
        shared: &Shared,
    ) -> Option<(Self, Listener)> {
        if !config.keeps_evictions {
            return None;
        }
        let (listener, line) = Listener::new(config, &shared.board);
        shared.board.redis().evictions = Some(EvictionStatus::default());
        let evicting = Self {
            evictions: Evictions::new(config.instance, at),
            board: Arc::clone(&shared.board),
            line,
        };
        Some((evicting, listener))
    }

    /// Until when what is held back may be.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.evictions.deadline()
    }

    /// Has the fence published that is wanted, and shows how it goes.
    fn tell(&self) {
        self.line.want(self.evictions.wanted());
        if let Some(status) = &mut self.board.redis().evictions {
            self.evictions.status(status);
        }
    }
}

/// What was heard of evictions; waits for ever where they are not listened to. Cancel safe.
pub(super) async fn said(evicting: &mut Option<Evicting>) -> Vec<Said> {
    match evicting {
        Some(evicting) => evicting.line.said().await,
        None => std::future::pending().await,
    }
}

impl Stream {
    /// What has to run beside, so that evictions can be told from deletes.
    pub(in crate::intake) const fn take_listener(&mut self) -> Option<Listener> {
        self.listener.take()
    }

    /// Takes what has come of the stream to where it waits until evictions are told from deletes.
    pub(super) fn read_evictions(&mut self, replica: &mut Replica) {
        if let Some(evicting) = &mut self.evicting {
            evicting.evictions.read(replica.input(), Instant::now());
            self.decoder
                .expect_evictions(evicting.evictions.take_found());
            evicting.tell();
        }
    }

    /// Something was heard.
    pub(super) fn on_said(&mut self, said: &[Said]) {
        if let Some(evicting) = &mut self.evicting {
            evicting.evictions.on_said(said, Instant::now());
        }
    }

    /// What is held back has waited too long.
    pub(super) fn give_up(&mut self) {
        if let Some(evicting) = &mut self.evicting {
            evicting.evictions.give_up(Instant::now());
        }
    }
}

//! Peers whose clocks are too far ahead: told in the status, and in the log once, not with each write.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::{info, warn};

use super::Shared;
use crate::model::SiteId;

/// How much more or less far ahead a clock must seem before the status says so.
const STEP: Duration = Duration::from_secs(1);

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    told: BTreeMap<SiteId, Duration>,
}

impl Ahead {
    /// A write of this site has come back, whose stamp was so far ahead; none if not too far.
    pub(super) fn on_stamp(&mut self, site: &SiteId, ahead: Option<Duration>, shared: &Shared) {
        let told = self.told.get(site).copied();
        let is_told = match (told, ahead) {
            (None, None) => true,
            (Some(told), Some(ahead)) => told.abs_diff(ahead) < STEP,
            _ => false,
        };
        if is_told {
            return;
        }
        match (ahead, told) {
            (Some(ahead), None) => {
                let seconds = ahead.as_secs();
                warn!(%site, seconds, "the clock of a peer is ahead of ours; set the clocks right");
            }
            (None, _) => info!(%site, "the clock of a peer is no longer too far ahead of ours"),
            _ => {}
        }
        match ahead {
            Some(ahead) => self.told.insert(site.clone(), ahead),
            None => self.told.remove(site),
        };
        if let Some(board) = shared.board.peer(site) {
            board.lock().clock_ahead_seconds = ahead.map(|ahead| ahead.as_secs_f64());
        }
    }
}

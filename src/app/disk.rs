//! The journal's upkeep: forced to the disk, watched while it fills, and shown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Fsync, WhenFull};
use crate::journal::Journal;
use crate::model::SiteId;
use crate::status::{Board, PeerState};

/// How often the journal is forced to the disk: what a machine that loses power may lose.
const SYNC_PERIOD: Duration = Duration::from_secs(1);
/// From which part of its size on it is nearly full. Peers that keep up leave far less in it.
const NEARLY_FULL: f64 = 0.8;
/// Below which part it is not any more.
const RELAXED: f64 = 0.7;
/// The span over which its growth is reckoned.
const GROWTH_SPAN: f64 = 60.0;

/// What of the configuration matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub fsync: Fsync,
    pub when_full: WhenFull,
}

/// Forces the journal to the disk, watches it, and shows how it is.
pub(super) async fn keep_synced(
    journal: Journal,
    board: Arc<Board>,
    policy: Policy,
    stop: CancellationToken,
) {
    let mut tick = interval(SYNC_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut filling = Filling::default();
    let mut behind = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if policy.fsync != Fsync::No {
            sync(&journal, &board).await;
        }
        show_lag_of_absent(&journal, &board, &mut behind);
        let waits_for = behind.keys().map(SiteId::to_string).collect();
        let news = filling.look(journal.bytes(), journal.usual_bytes(), Instant::now());
        let mut section = board.journal();
        let overflows = journal.overflowed();
        if overflows > section.overflows {
            error!(
                segments = overflows,
                "the journal has reached [journal] max_size and drops what a peer has not got yet: \
                 that peer will need a copy"
            );
        }
        section.overflows = overflows;
        section.first = journal.first().to_string();
        section.end = journal.end().to_string();
        section.bytes = journal.bytes();
        section.max_bytes = journal.max_bytes();
        section.seconds_left = filling.seconds_left();
        section.warning = filling.warning(policy.when_full, waits_for);
        match (news, &section.warning) {
            (News::NearlyFull, Some(warning)) => warn!("{warning}"),
            (News::Relaxed, _) => info!("the journal has room again"),
            _ => {}
        }
    }
}

/// Forces it; an error is shown until it is over, and logged once.
async fn sync(journal: &Journal, board: &Board) {
    let syncer = journal.syncer();
    let synced = tokio::task::spawn_blocking(move || syncer.sync()).await;
    let error = match synced {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let mut section = board.journal();
    match &error {
        Some(error) if section.sync_error.is_none() => error!(
            %error,
            "the journal cannot be forced to the disk: should this machine fail, what is not on the \
             disk is read from Redis again, if that still has it"
        ),
        None if section.sync_error.is_some() => info!("the journal is forced to the disk again"),
        _ => {}
    }
    section.sync_error = error;
}

/// How the journal fills.
#[derive(Debug, Default)]
struct Filling {
    bytes: f64,
    max: f64,
    /// Bytes a second, over about the last minute.
    growth: f64,
    looked: Option<Instant>,
    is_nearly_full: bool,
}

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Nothing,
    NearlyFull,
    Relaxed,
}

impl Filling {
    fn look(&mut self, bytes: u64, max: u64, now: Instant) -> News {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs few digits")]
        let (bytes, max) = (bytes as f64, max as f64);
        if let Some(looked) = self.looked.replace(now) {
            let seconds = now.duration_since(looked).as_secs_f64().max(0.001);
            let weight = (seconds / GROWTH_SPAN).min(1.0);
            self.growth += weight * ((bytes - self.bytes) / seconds - self.growth);
        }
        (self.bytes, self.max) = (bytes, max);
        let part = bytes / max.max(1.0);
        match self.is_nearly_full {
            false if part >= NEARLY_FULL => {
                self.is_nearly_full = true;
                News::NearlyFull
            }
            true if part < RELAXED => {
                self.is_nearly_full = false;
                News::Relaxed
            }
            _ => News::Nothing,
        }
    }

    /// None while it does not grow.
    fn seconds_left(&self) -> Option<f64> {
        (self.growth >= 1.0).then(|| (self.max - self.bytes).max(0.0) / self.growth)
    }

    fn warning(&self, when_full: WhenFull, mut waits_for: Vec<String>) -> Option<String> {
        if !self.is_nearly_full {
            return None;
        }
        waits_for.sort();
        let percent = 100.0 * self.bytes / self.max.max(1.0);
        let whom = match waits_for.is_empty() {
            true => "a peer".to_owned(),
            false => waits_for.join(", "),
        };
        let when = self.seconds_left().map_or(String::new(), |seconds| {
            format!(" In about {:.0} minutes", (seconds / 60.0).ceil())
        });
        let when = if when.is_empty() {
            " When it is full"
        } else {
            &when
        };
        let then = match when_full {
            WhenFull::FullSync => "its oldest part is dropped, and that peer needs a copy",
            WhenFull::StopReading => "reading stops, and Redis must keep what is written",
        };
        Some(format!(
            "the journal is {percent:.0} % full of what {whom} has not got.{when} {then}; bring the \
             peer back, or raise [journal] max_size and restart"
        ))
    }
}

/// The lag of peers without a session, which nobody else shows. `behind`: since when each is.
fn show_lag_of_absent(
    journal: &Journal,
    board: &Arc<Board>,
    behind: &mut HashMap<SiteId, Instant>,
) {
    for site in board.sites() {
        let Some(section) = board.peer(&site) else {
            continue;
        };
        let mut peer = section.lock();
        if peer.applied >= journal.last_record() {
            behind.remove(&site);
            continue;
        }
        let since = *behind.entry(site).or_insert_with(Instant::now);
        if matches!(peer.state, PeerState::Connecting | PeerState::Stopped) {
            peer.lag_bytes = journal.pending_bytes(peer.applied);
            peer.lag_seconds = since.elapsed().as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_told_once_before_it_comes() {
        let mut filling = Filling::default();
        let begin = Instant::now();
        let mut told = Vec::new();
        // A megabyte a second, into a hundred, and out again.
        for (second, mebibytes) in (0..=90).chain((0..90).rev()).enumerate() {
            let now = begin + Duration::from_secs(second as u64);
            match filling.look(mebibytes << 20, 100 << 20, now) {
                News::Nothing => {}
                news => told.push((mebibytes, news)),
            }
            if second == 90 {
                let left = filling.seconds_left().expect("it grows");
                assert!((8.0..20.0).contains(&left), "{left}");
            }
        }
        assert_eq!(told, [(80, News::NearlyFull), (69, News::Relaxed)]);
        assert_eq!(filling.warning(WhenFull::FullSync, Vec::new()), None);
        assert_eq!(filling.seconds_left(), None);
    }

    #[test]
    fn the_warning_says_who_and_what_and_when() {
        let mut filling = Filling::default();
        let begin = Instant::now();
        filling.look(0, 1000, begin);
        filling.look(840, 1000, begin + Duration::from_secs(60));
        let peers = || vec!["c".to_owned(), "b".to_owned()];
        let drops = filling
            .warning(WhenFull::FullSync, peers())
            .expect("nearly full");
        assert!(
            drops.contains("84 % full of what b, c has not got"),
            "{drops}"
        );
        assert!(
            drops.contains("In about 1 minutes its oldest part is dropped"),
            "{drops}"
        );
        let stops = filling
            .warning(WhenFull::StopReading, peers())
            .expect("nearly full");
        assert!(stops.contains("reading stops"), "{stops}");
    }
}

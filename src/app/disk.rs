//! The journal's upkeep.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::journal::Journal;
use crate::model::SiteId;
use crate::status::{Board, PeerState};

/// How often the journal is forced to the disk: what a machine that loses power may lose.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// Forces the journal to the disk, and shows how it is.
pub(super) async fn keep_synced(journal: Journal, board: Arc<Board>, stop: CancellationToken) {
    let mut tick = interval(SYNC_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut overflowed = 0;
    let mut behind = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let syncer = journal.syncer();
        match tokio::task::spawn_blocking(move || syncer.sync()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => error!(%error, "the journal could not be forced to the disk"),
            Err(error) => error!(%error, "the journal's syncing failed"),
        }
        if journal.overflowed() > overflowed {
            overflowed = journal.overflowed();
            error!(
                segments = overflowed,
                "the journal has reached [journal] max_size and drops what a peer has not got yet: \
                 that peer will need a copy"
            );
        }
        show_lag_of_absent(&journal, &board, &mut behind);
        let mut section = board.journal();
        section.first = journal.first().to_string();
        section.end = journal.end().to_string();
        section.bytes = journal.bytes();
        section.max_bytes = journal.max_bytes();
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

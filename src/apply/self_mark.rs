//! Keeping the self mark: proof, inside the data, of how much of its history a Redis holds.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::intake::Shared;
use crate::model::{Cursor, InstanceId, SELF_KEY, SelfMark, SiteId};
use crate::progress::Progress;
use crate::redis::{Connection, Error, Info, Settings, connection_name};

/// How often it is written while clients write: each costs the Redis one SET, and the shorter the
/// span, the less is in doubt when a Redis without an append-only file comes back.
const PERIOD: Duration = Duration::from_millis(100);

/// Writes the self mark whenever records were journaled since the last, until `stop`.
pub async fn keep_self_mark(
    site: SiteId,
    instance: InstanceId,
    redis: Settings,
    shared: Shared,
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut keeper = Keeper {
        instance,
        connection: None,
        attached: 0,
        written: Cursor::ZERO,
        removed: 0,
        number: 0,
    };
    let name = connection_name(&site, "self");
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = progress.borrow().clone();
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = keeper.keep(&redis, &name, &shared, &now) => result,
        };
        if let Err(error) = result {
            // The intake says loudly when Redis is away.
            debug!(%error, "the self mark was not written");
            keeper.connection = None;
        }
    }
}

struct Keeper {
    instance: InstanceId,
    connection: Option<Connection>,
    /// The attachment to the stream while which it was opened: the next may be to another server.
    attached: u64,
    /// What the last one said.
    written: Cursor,
    /// Up to which count of removed marks it has been written again.
    removed: u64,
    number: u64,
}

impl Keeper {
    async fn keep(
        &mut self,
        redis: &Settings,
        name: &str,
        shared: &Shared,
        progress: &Progress,
    ) -> Result<(), Error> {
        let Some(state) = &progress.state else {
            return Ok(());
        };
        let last = shared.journal.last_record();
        let connected = shared.board.redis().connected;
        // While the stream is not read, what Redis holds has yet to be judged by the last mark.
        let due = connected && last.epoch == state.epoch && last > self.written;
        if !due && (self.removed == progress.marks_removed || !connected) {
            return Ok(());
        }
        self.number = self.number.max(progress.self_mark) + 1;
        let mark = SelfMark {
            instance: self.instance,
            number: self.number,
            at: last,
        };
        if self.attached != progress.attached {
            (self.connection, self.attached) = (None, progress.attached);
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let mut connection = shared.lease.open(redis, name).await?;
                // A Redis that was restarted has a new id. Its data must be judged by the mark
                // that it came back with, so that one stays until the intake has done so.
                if Info::fetch(&mut connection).await?.replid != state.replid.as_str() {
                    return Ok(());
                }
                none.insert(connection)
            }
        };
        connection
            .ask(&[b"SET", SELF_KEY.as_bytes(), mark.to_string().as_bytes()])
            .await?;
        (self.written, self.removed) = (last, progress.marks_removed);
        Ok(())
    }
}

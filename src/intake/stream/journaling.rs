//! What was read goes into the journal, before anybody hears of it.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Stream;
use crate::intake::{Error, wall_ms};
use crate::journal::{self, FrameHeader, FrameKind};
use crate::model::{Cursor, FrameBuilder, Offset, Record, SiteId, TARGET_FRAME};
use crate::progress::Delivered;
use crate::replica::Replica;

/// How long to wait before trying again to write to a journal that refused.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// How long reading waits for room in a full journal while there are sessions with all peers, and none of them gets
/// on: many round trips, and longer than a message takes on a narrow link. They get on as fast as they apply, unless
/// they wait for what is to be read here: for the place of a copy, or for what has come back of theirs, without
/// which they have no room themselves.
const JAM: Duration = Duration::from_secs(10);

/// A full journal in which nothing moves.
#[derive(Debug, Default)]
pub(super) struct Jam {
    /// What all peers have, and since when it is no more.
    delivered: Option<(Delivered, Instant)>,
    lasts: bool,
}

impl Jam {
    /// Whether it has lasted for so long that the reserve is used to go on, until there is room. `delivered` is
    /// what all peers have.
    fn lasts(&mut self, delivered: Delivered, now: Instant) -> bool {
        let known = self.delivered.filter(|(known, _)| *known == delivered);
        let (_, since) = *self.delivered.insert(known.unwrap_or((delivered, now)));
        self.lasts |= now.duration_since(since) >= JAM;
        self.lasts
    }
}

impl Stream {
    /// Whether what is read now could be journaled; before Redis is asked for it, which may cost it a
    /// snapshot.
    ///
    /// # Errors
    /// The journal is full, and what is in it is still needed.
    pub(in crate::intake) fn room(&mut self) -> Result<(), Error> {
        self.trim();
        self.writer.use_reserve(self.shared.reserve.is_claimed());
        let room = self.writer.room();
        match &room {
            // What had no room may not come again: nothing else would say so.
            Ok(()) => self.shared.reserve.set_full(false),
            Err(_) => self.show(&room),
        }
        Ok(room?)
    }

    /// Appends to the journal, and shows when it refuses and when it takes writes again.
    pub(super) fn append(
        &mut self,
        header: &FrameHeader,
        body: &[u8],
    ) -> Result<(), journal::Error> {
        self.writer.use_reserve(self.shared.reserve.is_claimed());
        let mut appended = self.writer.append(header, body);
        match &appended {
            Err(journal::Error::Full { .. }) if self.shared.claims.are_all_linked() => {
                let delivered = self.shared.deliveries.by_all();
                if self.jam.lasts(delivered, Instant::now()) {
                    self.writer.use_reserve(true);
                    appended = self.writer.append(header, body);
                }
            }
            _ => self.jam = Jam::default(),
        }
        self.show(&appended);
        appended
    }

    fn show(&self, appended: &Result<(), journal::Error>) {
        let is_full = matches!(appended, Err(journal::Error::Full { .. }));
        self.shared.reserve.set_full(is_full);
        let mut journal = self.shared.board.journal();
        match appended {
            Ok(()) => {
                if journal.error.take().is_some() {
                    info!("the journal takes writes again");
                }
            }
            Err(error) => {
                let message = error.to_string();
                if journal.error.as_ref() != Some(&message) {
                    error!(%error, "the journal refuses writes; reading waits, nothing is lost");
                }
                journal.error = Some(message);
            }
        }
    }

    /// Forces everything to the disk.
    pub(in crate::intake) fn sync(&self) -> Result<(), journal::Error> {
        self.writer.sync_handle().sync().map(drop)
    }

    /// Forces everything to the disk, if nobody may hear of it before.
    async fn force(&self) -> Result<(), journal::Error> {
        if !self.forces {
            return Ok(());
        }
        let syncer = self.writer.sync_handle();
        let synced = tokio::task::spawn_blocking(move || syncer.sync());
        let synced = synced
            .await
            .unwrap_or(Err(journal::Error::Closed))
            .map(drop);
        self.show(&synced);
        synced
    }

    /// Appends the frame to the journal and tells everybody. Retries while the disk refuses:
    /// nothing is read meanwhile, so nothing is lost.
    pub(super) async fn commit(
        &mut self,
        replica: &mut Replica,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let (end, db) = self.decoder.boundary();
        let Some(epoch) = self.state.as_ref().map(|state| state.epoch) else {
            return Ok(());
        };
        self.judge()?;
        // Before what says that they are judged.
        self.commit_foreign(replica, stop).await?;
        if self.frame.is_empty() {
            self.judge.release();
            if self.progress.read.offset != end {
                self.frame.begin(end);
                self.progress.read.offset = end;
                self.read_db = db;
                self.publish();
            }
            return Ok(());
        }
        let mut frame = mem::replace(&mut self.frame, FrameBuilder::new(end));
        let records = frame.records() > 0;
        let header = FrameHeader {
            kind: if records {
                FrameKind::Records
            } else {
                FrameKind::Notes
            },
            epoch,
            start: frame.start(),
            end,
            db,
            last_record: frame.last_record().unwrap_or_default(),
            stamp_ms: wall_ms(),
        };
        while let Err(error) = self.append(&header, frame.body()) {
            self.wait_for_disk(error, replica, stop).await?;
        }
        while let Err(error) = self.force().await {
            self.wait_for_disk(error, replica, stop).await?;
        }
        frame.begin(end);
        self.frame = frame;
        self.judgements.clear();
        self.judge.release();
        if records {
            self.last_record = Cursor {
                epoch,
                offset: header.last_record,
            };
            self.shared.board.set_last_record(self.last_record);
        }
        self.progress.read = Cursor { epoch, offset: end };
        self.read_db = db;
        self.publish();
        Ok(())
    }

    /// Appends peers' records. What has no room stays for the next time: they are judged once.
    async fn commit_foreign(
        &mut self,
        replica: &mut Replica,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let header = self.notes_header();
        while !self.foreign.is_empty() {
            let (frame, count) = frame_of(&self.foreign);
            while let Err(error) = self.append(&header, frame.body()) {
                self.wait_for_disk(error, replica, stop).await?;
            }
            self.foreign.drain(..count);
        }
        Ok(())
    }

    /// Of a frame that holds nothing of our own stream.
    pub(super) fn notes_header(&self) -> FrameHeader {
        let at = self.progress.read;
        FrameHeader {
            kind: FrameKind::Notes,
            epoch: at.epoch,
            start: at.offset,
            end: at.offset,
            db: self.read_db,
            last_record: Offset(0),
            stamp_ms: wall_ms(),
        }
    }

    /// Waits a moment; Redis hears that we are still there.
    async fn wait_for_disk(
        &mut self,
        error: journal::Error,
        replica: &mut Replica,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        tokio::select! {
            () = stop.cancelled() => return Err(error.into()),
            () = sleep(DISK_RETRY) => replica.acknowledge(self.safe()).await?,
        }
        // What the peers have meanwhile got may be all the room that is missing.
        self.trim();
        Ok(())
    }

    /// Once a second: forget and trim what every peer has, keep the preamble fresh.
    pub(super) fn housekeeping(&mut self) {
        self.trim();
        self.shared.shelf.tidy();
        if let Some(saved) = self.saved() {
            self.writer.set_preamble(saved.to_string().into_bytes());
        }
    }

    /// Forgets, and removes from the journal, what every peer has.
    fn trim(&mut self) {
        let delivered = self.shared.deliveries.by_all();
        let seen = self.forget();
        let wish = self.judge.oldest_wish().unwrap_or(seen);
        let upto = seen.min(delivered.applied).min(wish);
        if seen != Cursor::ZERO
            && let Err(error) = self.shared.journal.trim(upto)
        {
            warn!(%error, "the journal cannot be trimmed");
        }
    }
}

/// A frame of the first of these records, and how many there are in it. Many may come at once, when the judge has
/// waited: the journal drops by the frame, and what is large has no room in one that is nearly full.
fn frame_of(foreign: &VecDeque<(SiteId, Cursor, Record)>) -> (FrameBuilder, usize) {
    let (mut frame, mut count) = (FrameBuilder::new(Offset(0)), 0);
    for (origin, place, record) in foreign {
        if frame.len() >= TARGET_FRAME {
            break;
        }
        frame.push_foreign(origin, *place, record);
        count += 1;
    }
    (frame, count)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Hlc;

    #[test]
    fn many_records_of_peers_are_many_frames() {
        let site = SiteId::try_new("b").unwrap();
        let record = Record {
            offset: Offset(1),
            hlc: Hlc(1),
            db: 0,
            seen: Arc::default(),
            causes: Arc::default(),
            count: 1,
            commands: vec![b'x'; TARGET_FRAME / 2].into(),
        };
        let mut records: VecDeque<_> = (0..5)
            .map(|n| {
                let place = Cursor {
                    offset: Offset(n),
                    ..Cursor::ZERO
                };
                (site.clone(), place, record.clone())
            })
            .collect();
        let mut counts = Vec::new();
        while !records.is_empty() {
            let (frame, count) = frame_of(&records);
            assert!(frame.len() < 2 * TARGET_FRAME, "{} bytes", frame.len());
            records.drain(..count);
            counts.push(count);
        }
        assert_eq!(counts, [2, 2, 1]);
    }

    #[test]
    fn a_full_journal_whose_peers_get_on_is_not_jammed() {
        let seen = |offset| Delivered {
            seen: Cursor {
                offset: Offset(offset),
                ..Cursor::ZERO
            },
            ..Delivered::default()
        };
        let (mut jam, begin) = (Jam::default(), Instant::now());
        let lasts = |jam: &mut Jam, offset, seconds| {
            jam.lasts(seen(offset), begin + Duration::from_secs(seconds))
        };
        assert!(!lasts(&mut jam, 1, 0) && !lasts(&mut jam, 1, 9));
        assert!(!lasts(&mut jam, 5, 10), "they have got on");
        assert!(!lasts(&mut jam, 5, 19) && lasts(&mut jam, 5, 20));
        assert!(lasts(&mut jam, 9, 21), "until there is room");
    }
}

//! Where an epoch begins, and how the journal says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Stream;
use crate::intake::history::Saved;
use crate::intake::{Error, wall_ms};
use crate::journal::{FrameHeader, FrameKind};
use crate::model::{Cursor, FrameBuilder, Key, Mark, Offset, ReplId, Seen, SiteId};
use crate::progress::EpochState;

impl Stream {
    /// The server process that is attached to.
    pub(in crate::intake) fn set_run_id(&mut self, run_id: &str) {
        self.run_id = Saved::run_id(run_id).into();
    }

    /// The stream goes on, perhaps under a new id.
    pub(in crate::intake) fn continues(&mut self, replid: Option<ReplId>) -> Result<(), Error> {
        if let (Some(replid), Some(mut saved)) = (replid, self.saved())
            && saved.state.replid != replid
        {
            saved.state.replid = replid;
            self.save(FrameKind::Continue, &saved)?;
            self.state = Some(Arc::new(saved.state));
        }
        self.publish();
        Ok(())
    }

    /// A new epoch begins with the data of a snapshot, which the server process `run_id` has sent.
    /// When the journal refuses, everything is as it was: the next attempt judges the data anew.
    pub(in crate::intake) fn begins(
        &mut self,
        (state, seen): (EpochState, Seen),
        marks: BTreeMap<SiteId, Mark>,
        run_id: &str,
    ) -> Result<(), Error> {
        let (epoch, offset) = (state.epoch, state.began);
        let saved = Saved {
            state,
            at: Cursor { epoch, offset },
            db: 0,
            run_id: Saved::run_id(run_id),
            last_record: self.last_record,
            self_mark: self.self_mark,
            judged: seen.clone(),
            // What the data does not say it does not hold, unless it was removed.
            marks,
            seen,
        };
        self.save(FrameKind::Epoch, &saved)?;
        self.judge.begin(&saved.seen);
        self.shared.reached.begin(epoch);
        self.progress.marks = Arc::new(saved.marks);
        self.decoder = self.decoder_at(offset, 0);
        if let Some(evicting) = &mut self.evicting {
            evicting.evictions.begin((offset, 0));
        }
        self.frame = FrameBuilder::new(offset);
        self.progress.read = saved.at;
        self.read_db = 0;
        self.state = Some(Arc::new(saved.state));
        self.seen = Arc::new(saved.seen);
        self.shared.seen_at.note(saved.at, &self.seen);
        self.run_id = saved.run_id.into();
        self.own_since.clear();
        self.publish();
        Ok(())
    }

    /// A new epoch begins where the server has left the history that was read; these keys have been
    /// written in the rest of it. The wishes for them stand before it: after a crash in between they are
    /// only found once more.
    pub(in crate::intake) fn branches(
        &mut self,
        (state, seen): (EpochState, Seen),
        marks: BTreeMap<SiteId, Mark>,
        lost: Vec<Key>,
        run_id: &str,
    ) -> Result<(), Error> {
        let at = self.progress.read;
        self.judge.on_lost(&lost, at);
        let mut notes = FrameBuilder::new(at.offset);
        for judgement in &self.judge.take().notes {
            notes.push_judgement(judgement);
        }
        if !notes.is_empty() {
            self.append(&self.notes_header(), notes.body())?;
        }
        self.begins((state, seen), marks, run_id)?;
        self.judge.release();
        Ok(())
    }

    /// Writes the state of the epoch into the journal.
    fn save(&mut self, kind: FrameKind, saved: &Saved) -> Result<(), Error> {
        let body = saved.to_string().into_bytes();
        let header = FrameHeader {
            kind,
            epoch: saved.at.epoch,
            start: saved.at.offset,
            end: saved.at.offset,
            db: saved.db,
            last_record: Offset(0),
            stamp_ms: wall_ms(),
        };
        self.append(&header, &body)?;
        self.writer.set_preamble(body);
        Ok(())
    }
}

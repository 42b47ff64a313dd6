//! A Redis that has lost something: its last writes, all of them, or what nobody has read of its history.

use std::collections::BTreeMap;
use std::sync::Arc;

use tandem::intake::history::{self, Saved, Server};
use tandem::model::{
    Cursor, Epoch, FrameBuilder, Key, Mark, Need, Offset, ReplId, Seen, SelfMark, SiteId,
};
use tandem::progress::EpochState;

use crate::redis::{Entry, Event, Redis};
use crate::site::{EPOCH, Frame, START, Site, place};

/// What a server has on its disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backup {
    data: BTreeMap<Key, Entry>,
    marks: BTreeMap<SiteId, Mark>,
    owed: BTreeMap<SiteId, BTreeMap<Key, Need>>,
    self_mark: Option<SelfMark>,
}

/// What becomes of a server.
#[derive(Clone, Debug)]
pub(crate) enum Loss {
    /// Nothing, but its history was not read for longer than it remembers.
    Unread,
    /// It is restarted with all that it has; with an append-only file or not.
    Restarted(bool),
    /// It is restarted with what it had on its disk.
    Older(Backup),
}

/// The id of a history.
pub(crate) fn replid(site: &SiteId, epoch: Epoch) -> ReplId {
    format!("{site}{:039x}", epoch.0).parse().unwrap()
}

impl Redis {
    /// What it would have on its disk now.
    pub(crate) fn backup(&self) -> Backup {
        Backup {
            data: self.data.clone(),
            marks: self.marks.clone(),
            owed: self.owed.clone(),
            self_mark: self.self_mark,
        }
    }
}

impl Site {
    /// The self mark is written, if there is something new for it to say.
    pub(crate) fn keep_self_mark(&mut self) {
        let (sidecar, last) = (&self.sidecar, self.journal.last_record());
        let written = self.redis.self_mark.map_or(Cursor::ZERO, |mark| mark.at);
        if last.epoch != sidecar.state.epoch || last <= written {
            return;
        }
        let known = self.redis.self_mark.map_or(0, |mark| mark.number);
        let number = known.max(sidecar.progress.self_mark) + 1;
        let instance = sidecar.life;
        let at = last;
        self.redis.self_mark = Some(SelfMark {
            instance,
            number,
            at,
        });
        self.redis.stream.push(Event::SelfMark(number));
    }

    /// Something has become of the server, and the sidecar judges what it finds. There is no session.
    pub(crate) fn begin_again(&mut self, loss: Loss) {
        self.say(|| format!("the server: {loss:?}"));
        let (same_process, keeps_all) = match &loss {
            Loss::Unread => (true, false),
            Loss::Restarted(keeps_all) => (false, *keeps_all),
            Loss::Older(_) => (false, false),
        };
        if let Loss::Older(backup) = loss {
            let Backup {
                data,
                marks,
                owed,
                self_mark,
            } = backup;
            (self.redis.data, self.redis.marks) = (data, marks);
            (self.redis.owed, self.redis.self_mark) = (owed, self_mark);
        }
        let before = format!("{}", self.run_id);
        if !same_process {
            self.run_id += 1;
            self.redis.forget_expired();
        }
        self.redis.stream.clear();
        let previous = EpochState::clone(&self.sidecar.state);
        let began = Offset((previous.began.0 / EPOCH + 1) * EPOCH + START.0);
        let epoch = place(began).epoch;
        let replid = match same_process {
            true => previous.replid,
            false => replid(&self.name, epoch),
        };
        let run_id = format!("{}", self.run_id);
        let server = Server {
            run_id: &run_id,
            replid,
            keeps_all,
            may_be_another: false,
            is_blank: self.redis.data.is_empty() && self.redis.marks.is_empty(),
        };
        let saved = self.saved(before);
        let found = history::judge(Some(&saved), self.redis.self_mark.as_ref(), &server);
        let is_empty = self.redis.data.is_empty();
        let state = history::begin(found, Some(&previous), epoch, replid, began, is_empty);
        let marks = self.redis.marks.iter();
        let seen: Seen = marks.map(|(site, mark)| (site.clone(), mark.at)).collect();
        let mut marks = BTreeMap::new();
        for peer in self.sidecar.peers.values().filter(|_| !is_empty) {
            let name = &peer.name;
            if saved.has_met(name) && seen.of(name) == Cursor::ZERO {
                marks.insert(name.clone(), Mark::nowhere(self.sidecar.life));
            }
        }
        marks.append(&mut self.redis.marks.clone());
        self.say(|| format!("a new history, {found:?}: {state:?}, {:?}", self.redis.data));
        self.begin_epoch((state, seen), marks);
    }

    fn saved(&self, run_id: String) -> Saved {
        let sidecar = &self.sidecar;
        Saved {
            state: EpochState::clone(&sidecar.state),
            at: sidecar.progress.read,
            db: 0,
            run_id,
            last_record: self.journal.last_record(),
            self_mark: sidecar.progress.self_mark,
            seen: Seen::clone(&sidecar.seen),
            judged: Seen::clone(sidecar.judge.judged()),
            marks: BTreeMap::clone(&sidecar.progress.marks),
        }
    }

    /// An epoch begins with the data that is here.
    pub(crate) fn begin_epoch(
        &mut self,
        (state, seen): (EpochState, Seen),
        marks: BTreeMap<SiteId, Mark>,
    ) {
        let began = state.began;
        let saved = Saved {
            at: place(began),
            last_record: self.journal.last_record(),
            self_mark: self.sidecar.progress.self_mark,
            judged: seen.clone(),
            marks,
            seen,
            state,
            db: 0,
            run_id: String::new(),
        };
        self.journal.append(Frame {
            start: began,
            end: began,
            last_record: None,
            body: FrameBuilder::new(began).finish().into(),
            saved: Some(Box::new(saved.clone())),
        });
        let sidecar = &mut self.sidecar;
        sidecar.judge.begin(&saved.seen);
        sidecar.reached.begin(saved.state.epoch);
        sidecar.progress.marks = Arc::new(saved.marks);
        sidecar.frame = FrameBuilder::new(began);
        sidecar.progress.read = saved.at;
        sidecar.read = 0;
        sidecar.state = Arc::new(saved.state);
        sidecar.progress.state = Some(Arc::clone(&sidecar.state));
        sidecar.seen = Arc::new(saved.seen);
        sidecar.seen_at.note(saved.at, &sidecar.seen);
        sidecar.publish();
        if !self.redis.data.is_empty() {
            let seen = Seen::clone(&self.sidecar.seen);
            self.shelf.keep(saved.at, &self.redis.data, seen);
        }
    }
}

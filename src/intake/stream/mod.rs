//! Following the stream: events to records, records to the journal, the journal to everybody.

mod epochs;
mod evicting;
mod journaling;

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::evicting::Evicting;
use self::journaling::Jam;
use super::acknowledge::Acknowledging;
use super::ahead::Ahead;
use super::conflicts::Conflicts;
use super::decoder::Decoder;
use super::event::{Event, Write};
use super::evictions::Listener;
use super::filter::Filter;
use super::history::Saved;
use super::overrun::written_since;
use super::refused::Refused;
use super::resume::Resume;
use super::unknown::Unknown;
use super::{Config, Error, Shared, wall_ms};
use crate::converge::Judge;
use crate::journal::Writer;
use crate::model::{
    Clock, Cursor, FrameBuilder, InstanceId, Judgement, Mark, Offset, Position, Record, Seen,
    SiteId, TARGET_FRAME, Tags,
};
use crate::progress::{EpochState, FenceSeen, Progress, seen_without_parts};
use crate::replica::Replica;

/// How often Redis hears how far we are. A real replica does the same; the server drops one that
/// is silent for `repl-timeout`.
const ACK_PERIOD: Duration = Duration::from_secs(1);
/// How often it hears so in the first moments after a snapshot.
const EARLY_ACK_PERIOD: Duration = Duration::from_millis(50);
/// How many of those.
const EARLY_ACKS: u32 = 20;

/// When it is looked at whether what has come back is settled, and noted. Under load that stands in the
/// frame of what comes next, and costs no write of its own. Twice as late each time, for where it is not it
/// may wait for a peer that is away.
const NOTE_DELAY: Duration = Duration::from_millis(10);

/// What [`Stream::take`] found.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// The server wants an acknowledgement at once.
    ack: bool,
    /// A frame is full; there may be more in the buffer.
    more: bool,
}

/// Everything that the intake owns besides the connection.
#[derive(Debug)]
pub(super) struct Stream {
    site: SiteId,
    instance: InstanceId,
    filter: Filter,
    shared: Shared,
    writer: Writer,
    decoder: Decoder,
    frame: FrameBuilder,
    clock: Clock,
    ahead: Ahead,
    judge: Judge,
    conflicts: Conflicts,
    /// Peers' records that have come back, where there are third sites, and that the journal does not have
    /// yet. In frames of their own, which do not travel.
    foreign: VecDeque<(SiteId, Cursor, Record)>,
    /// What the judge has found and the journal does not have yet.
    judgements: Vec<Judgement>,
    state: Option<Arc<EpochState>>,
    seen: Arc<Seen>,
    /// The life of the server process.
    run_id: Arc<str>,
    last_record: Cursor,
    self_mark: u64,
    /// The database that is selected where the journal ends.
    read_db: u32,
    /// Since when, in our stream, an origin's marks must be our own: the first fence of its
    /// applier, set after the predecessor's connection was killed.
    own_since: BTreeMap<String, Offset>,
    progress: Progress,
    attachments: u64,
    publish: watch::Sender<Progress>,
    refused: Refused,
    unknown: Unknown,
    acks: Acknowledging,
    /// Whether the journal is forced to the disk before anybody hears of a write.
    forces: bool,
    /// Whether waiting for room in the journal has any sense.
    jam: Jam,
    /// Tells evictions from deletes, if they are to stay here.
    evicting: Option<Evicting>,
    /// What has to run for that, until it is [taken](Self::take_listener).
    listener: Option<Listener>,
}

impl Stream {
    pub(super) fn new(
        config: &Config,
        shared: Shared,
        writer: Writer,
        resume: Resume,
        (judge, conflicts): (Judge, Conflicts),
    ) -> (Self, watch::Receiver<Progress>) {
        let Resume { saved, hlc, .. } = resume;
        let at = saved.as_ref().map_or(Cursor::ZERO, |s| s.at);
        let db = saved.as_ref().map_or(0, |s| s.db);
        let (publish, progress) = watch::channel(Progress::default());
        let (evicting, listener) = Evicting::wanted(config, (at.offset, db), &shared).unzip();
        let mut stream = Self {
            site: config.site.clone(),
            instance: config.instance,
            filter: config.filter.clone(),
            decoder: Decoder::new(at.offset, db, shared.catalog.clone(), config.filter.clone()),
            frame: FrameBuilder::new(at.offset),
            foreign: VecDeque::new(),
            clock: Clock::after(hlc),
            ahead: Ahead::default(),
            judge,
            conflicts,
            judgements: Vec::new(),
            state: saved.as_ref().map(|s| Arc::new(s.state.clone())),
            seen: Arc::new(saved.as_ref().map(|s| s.seen.clone()).unwrap_or_default()),
            run_id: saved.as_ref().map_or("-", |s| &s.run_id).into(),
            last_record: saved.as_ref().map_or(Cursor::ZERO, |s| s.last_record),
            self_mark: saved.as_ref().map_or(0, |s| s.self_mark),
            read_db: db,
            own_since: BTreeMap::new(),
            progress: Progress::default(),
            attachments: 0,
            publish,
            refused: Refused::default(),
            unknown: Unknown::new(config),
            acks: Acknowledging::new(config, &shared),
            forces: config.forces,
            jam: Jam::default(),
            evicting,
            listener,
            shared,
            writer,
        };
        stream.shared.board.set_last_record(stream.last_record);
        stream.progress.state.clone_from(&stream.state);
        if let Some(saved) = saved {
            stream.progress.marks = Arc::new(saved.marks);
        }
        stream.progress.read = at;
        if let Some(saved) = stream.saved() {
            stream.shared.reached.begin(saved.state.epoch);
            stream.writer.set_preamble(saved.to_string().into_bytes());
        }
        stream.publish();
        (stream, progress)
    }

    /// How much of the stream Redis may count on.
    pub(super) fn safe(&mut self) -> Offset {
        self.acks.offset(self.progress.read)
    }

    /// From where PSYNC may go on.
    pub(super) fn position(&self) -> Option<Position> {
        let (offset, db) = self.decoder.boundary();
        self.state.as_ref().map(|state| Position {
            replid: state.replid,
            offset,
            db,
        })
    }

    /// What the journal would say after a restart.
    pub(super) fn saved(&self) -> Option<Saved> {
        let state = self.state.as_ref()?;
        let (offset, db) = self.decoder.boundary();
        Some(Saved {
            state: EpochState::clone(state),
            at: Cursor {
                epoch: state.epoch,
                offset,
            },
            db,
            run_id: self.run_id.to_string(),
            last_record: self.last_record,
            self_mark: self.self_mark,
            seen: Seen::clone(&self.seen),
            judged: Seen::clone(self.judge.judged()),
            marks: BTreeMap::clone(&self.progress.marks),
        })
    }

    fn decoder_at(&self, offset: Offset, db: u32) -> Decoder {
        Decoder::new(offset, db, self.shared.catalog.clone(), self.filter.clone())
    }

    /// Follows the stream until it breaks, or until `stop`.
    pub(super) async fn follow(
        &mut self,
        replica: Replica,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        self.attachments += 1;
        self.progress.attached = self.attachments;
        self.publish();
        let ended = self.follow_attached(replica, stop).await;
        self.rewind();
        self.progress.attached = 0;
        self.publish();
        ended
    }

    async fn follow_attached(
        &mut self,
        mut replica: Replica,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut tick = interval(ACK_PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // After a snapshot the server begins the stream at an ACK, but ignores those that come
        // before it has reaped its child.
        let mut early = interval(EARLY_ACK_PERIOD);
        let mut early_left = EARLY_ACKS;
        let news = self.judge.news();
        let mut note_delay = NOTE_DELAY;
        loop {
            let taken = self.take(&mut replica)?;
            self.commit(&mut replica, stop).await?;
            self.unknown.ask(&self.shared.catalog).await;
            if taken.ack {
                self.acks.ask(self.progress.read);
                replica.acknowledge(self.safe()).await?;
            }
            if taken.more && !stop.is_cancelled() {
                continue;
            }
            let deadline = self.evicting.as_ref().and_then(Evicting::deadline);
            let (is_held, held_until) = (deadline.is_some(), deadline.unwrap_or_else(Instant::now));
            let has_to_note = self.judge.has_to_note();
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    // What was settled last is not to be asked for after a restart.
                    self.commit(&mut replica, stop).await?;
                    replica.acknowledge(self.safe()).await?;
                    return Ok(());
                }
                _ = tick.tick() => {
                    replica.acknowledge(self.safe()).await?;
                    self.housekeeping();
                }
                _ = early.tick(), if early_left > 0 => {
                    early_left -= 1;
                    replica.acknowledge(self.safe()).await?;
                }
                said = evicting::said(&mut self.evicting) => self.on_said(&said),
                more = replica.more() => {
                    more?;
                    note_delay = NOTE_DELAY;
                    // What comes back comes with the answers. The next batch is sent before this one is
                    // judged: then the server works meanwhile.
                    if self.judge.is_applying() {
                        yield_now().await;
                    }
                }
                () = news.notified() => {}
                () = self.acks.news() => replica.acknowledge(self.safe()).await?,
                () = sleep_until(held_until), if is_held => self.give_up(),
                () = sleep(note_delay), if has_to_note => note_delay = ACK_PERIOD.min(note_delay * 2),
            }
        }
    }

    /// Goes back to where the journal ends, which is what was published: what has been read since,
    /// and was not journaled because the disk refused or the stream broke, is read again.
    fn rewind(&mut self) {
        self.progress = self.publish.borrow().clone();
        self.seen = Arc::clone(&self.progress.seen);
        self.self_mark = self.progress.self_mark;
        let offset = self.progress.read.offset;
        self.decoder = self.decoder_at(offset, self.read_db);
        if let Some(evicting) = &mut self.evicting {
            evicting.evictions.rewind((offset, self.read_db));
        }
        self.frame = FrameBuilder::new(offset);
        // Records are judged once.
        for judgement in &self.judgements {
            self.frame.push_judgement(judgement);
        }
    }

    /// Decodes what has come, up to one frame.
    fn take(&mut self, replica: &mut Replica) -> Result<Taken, Error> {
        let now_ms = wall_ms();
        let mut taken = Taken::default();
        self.read_evictions(replica);
        loop {
            let input = match &mut self.evicting {
                Some(evicting) => evicting.evictions.ready(),
                None => replica.input(),
            };
            let event = self.decoder.next(input, now_ms);
            let offset = self.decoder.offset().0;
            let Some(event) = event.map_err(|source| Error::Stream { offset, source })? else {
                return Ok(taken);
            };
            taken.ack |= matches!(event, Event::AckWanted);
            self.on_event(event, now_ms);
            // The events of one transaction belong into one frame: its end is their end.
            if self.frame.len() >= TARGET_FRAME && !self.decoder.has_events() {
                taken.more = true;
                return Ok(taken);
            }
        }
    }

    fn on_event(&mut self, event: Event, now_ms: u64) {
        match event {
            Event::Write(write) => self.on_write(write, now_ms),
            Event::Echo {
                origin,
                mark,
                deleted,
                offset,
            } => {
                let ahead = self.clock.observe(mark.hlc, now_ms);
                self.ahead.on_stamp(&origin, ahead, &self.shared);
                Arc::make_mut(&mut self.seen).advance(&origin, mark.at);
                self.frame.push_echo(&origin, mark.at, mark.hlc, offset);
                let known = self.progress.marks.get(&origin);
                if known.is_none_or(|known| known.stands_elsewhere(&mark)) {
                    self.frame.push_mark(&origin, mark.to_string().as_bytes());
                    let marks = Arc::make_mut(&mut self.progress.marks);
                    marks.insert(origin.clone(), Mark::clone(&mark));
                }
                let at = self.place(offset);
                let here = (self.instance, now_ms);
                self.judge.on_echo(&origin, &mark, deleted, here, at);
                if let Some(causes) = self.judge.causes() {
                    self.shared.seen_at.note(at, causes);
                }
                self.on_mark(&origin, mark.instance, offset);
            }
            Event::SelfMark { mark, offset } => {
                self.self_mark = self.self_mark.max(mark.number);
                self.frame.push_self_mark(mark.number, offset);
            }
            Event::Fence {
                name,
                instance,
                number,
                offset,
            } => {
                if instance == self.instance {
                    self.own_since.entry(name.clone()).or_insert(offset);
                    let seen = Arc::clone(&self.seen);
                    let causes = Arc::clone(self.judge.causes().unwrap_or(&seen));
                    let at = self.place(offset);
                    let seen = FenceSeen {
                        causes,
                        instance,
                        number,
                        at,
                        seen,
                    };
                    Arc::make_mut(&mut self.progress.fences).insert(name, seen);
                }
            }
            Event::MarksRemoved { strays } => {
                self.progress.marks_removed += 1;
                self.progress.strays = strays;
            }
            Event::Evicted(key) => self.judge.on_evicted(&key),
            Event::Trespass(command) => self.refused.on_trespass(&command),
            Event::NotSelected(command) => {
                self.shared.board.redis().writes_not_selected =
                    self.refused.on_not_selected(&command);
            }
            Event::Unknown(command) => self.unknown.met(&command),
            Event::AckWanted => {}
        }
    }

    fn on_write(&mut self, mut write: Box<Write>, now_ms: u64) {
        let hlc = self.clock.stamp(now_ms);
        let causes = self.judge.causes();
        let part = causes.and_then(|_| seen_without_parts(&self.seen, &self.progress.marks));
        let tags = Tags {
            offset: write.offset,
            hlc,
            db: write.db,
            seen: part.as_ref().unwrap_or(&self.seen),
            causes: causes.unwrap_or(&self.seen),
            count: write.count,
        };
        self.frame.push(tags, &write.commands);
        let at = self.place(write.offset);
        if self.evicting.is_some() {
            let touches = &write.effects.touches;
            self.judge
                .on_own_commands(&write.commands, (write.db, at), touches);
        }
        self.judge.on_own(&mut write.effects, at, hlc);
        self.decoder.reuse(write);
    }

    /// A place of the present epoch.
    const fn place(&self, offset: Offset) -> Cursor {
        Cursor {
            epoch: self.progress.read.epoch,
            offset,
        }
    }

    /// Enters what was read into the table of recent writes, before anybody hears of it, tells the
    /// journal what was found out about conflicts, and forgets what every peer has seen: only then, for
    /// what was made of keys that a write of whole databases has overrun is looked up there.
    fn judge(&mut self) -> Result<(), Error> {
        self.judge.note();
        let at = self.place(self.decoder.boundary().0);
        self.judge.on_owed(at);
        self.judge.on_late(at);
        let mut found = self.judge.take();
        while !found.overruns.is_empty() {
            for overrun in mem::take(&mut found.overruns) {
                let frame = (at.epoch, &self.frame);
                let keys = written_since(&self.shared, &self.site, &overrun, frame)?;
                self.judge.on_overrun(&overrun, keys, at);
            }
            self.judge.go_on(at);
            found.append(self.judge.take());
        }
        self.forget();
        self.foreign.extend(found.foreign.drain(..));
        for judgement in &found.notes {
            self.frame.push_judgement(judgement);
        }
        self.judgements.append(&mut found.notes);
        self.conflicts.tell(&found, wall_ms());
        Ok(())
    }

    /// Forgets what every site has seen of another: up to where all of ours is forgotten.
    pub(super) fn forget(&mut self) -> Cursor {
        let deliveries = &self.shared.deliveries;
        let third = |site: &SiteId| deliveries.of_third(site);
        self.judge.forget(deliveries.by_all().seen, third)
    }

    /// A mark of another life, after our applier has fenced off its predecessor: somebody else
    /// serves this site too.
    fn on_mark(&mut self, origin: &SiteId, instance: InstanceId, offset: Offset) {
        let since = self.own_since.get(&format!("apply:{origin}"));
        if instance != self.instance
            && since.is_some_and(|s| *s < offset)
            && self.progress.foreign.is_none()
        {
            error!(%origin, %instance, "another sidecar writes marks into this Redis; run one per site");
            self.progress.foreign = Some((origin.clone(), instance));
        }
    }

    fn publish(&mut self) {
        self.progress.state.clone_from(&self.state);
        self.progress.seen = Arc::clone(&self.seen);
        self.progress.causes = Arc::clone(self.judge.causes().unwrap_or(&self.seen));
        self.progress.judged = Arc::clone(self.judge.judged());
        self.progress.self_mark = self.self_mark;
        self.progress.server = Arc::clone(&self.run_id);
        let mut redis = self.shared.board.redis();
        redis.offset = self.progress.read.offset.0;
        if let Some(state) = &self.state {
            redis.epoch = state.epoch.0;
            if redis.replid != state.replid.as_str() {
                redis.replid = state.replid.to_string();
            }
        }
        drop(redis);
        self.publish.send_replace(self.progress.clone());
    }
}

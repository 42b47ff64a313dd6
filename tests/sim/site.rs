//! A site: a Redis, what the sidecar has on its disk, and the sidecar, which may be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use tandem::apply::Debts;
use tandem::command::{Catalog, Effects, for_each_in};
use tandem::config::Existing;
use tandem::converge::{Claims, Docket, Foreign, Judge, Table};
use tandem::intake::history::{self, History, Saved};
use tandem::model::{
    BatchReader, Clock, Cursor, Entry, Epoch, FrameBuilder, Hlc, InstanceId, Judgement, Key, Mark,
    Offset, Record, Seen, SiteId,
};
use tandem::progress::{Deliveries, EpochState, Progress, Reached, SeenAt, Sources};

use crate::answer::Answering;
use crate::apply::Applying;
use crate::copier::{Copier, Shelf};
use crate::link::Outgoing;
use crate::loss::replid;
use crate::redis::Redis;
use crate::sums::Ledger;

/// How many writes are remembered: more than a schedule has.
const MOST: usize = 1 << 19;
/// Where every history begins.
pub(crate) const START: Offset = Offset(1);
/// More than the offsets of one epoch: the next begins with the next multiple of it, so that an offset says
/// which epoch it is of.
pub(crate) const EPOCH: u64 = 1 << 24;

/// A place in a history.
pub(crate) const fn place(offset: Offset) -> Cursor {
    // Those before it are none.
    let epoch = Epoch(10 + offset.0 / EPOCH);
    Cursor { epoch, offset }
}

/// A frame of the journal.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub start: Offset,
    pub end: Offset,
    pub last_record: Option<Offset>,
    pub body: Bytes,
    /// An epoch begins with it.
    pub saved: Option<Box<Saved>>,
}

/// What a killed sidecar finds again on its disk.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub frames: Vec<Frame>,
    /// So many of them were dropped, because the journal was full.
    pub dropped: usize,
    /// The records of this site in it.
    pub records: Vec<Record>,
}

impl Journal {
    /// Appends a frame.
    pub(crate) fn append(&mut self, frame: Frame) {
        let entries = BatchReader::new(frame.start, frame.body.clone());
        self.records.extend(entries.filter_map(|entry| match entry {
            Ok(Entry::Record(record)) => Some(record),
            _ => None,
        }));
        self.frames.push(frame);
    }

    /// From where it can send.
    pub(crate) fn first(&self) -> Cursor {
        let frame = self.frames.get(self.dropped);
        let start = frame.map(|frame| place(frame.start));
        start.filter(|_| self.dropped > 0).unwrap_or(place(START))
    }

    /// What it still has.
    pub(crate) fn kept(&self) -> &[Frame] {
        &self.frames[self.dropped..]
    }

    /// Where the last frame ends.
    pub(crate) fn end(&self) -> Cursor {
        let last = self.frames.last();
        last.map_or(Cursor::ZERO, |frame| place(frame.end))
    }

    /// Where the last record of this site ends.
    pub(crate) fn last_record(&self) -> Cursor {
        let last = self.records.last();
        last.map_or(Cursor::ZERO, |record| place(record.offset))
    }
}

/// What the sidecar has for one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub name: SiteId,
    pub docket: Docket,
    pub debts: Debts,
    pub applying: Applying,
    pub answering: Answering,
    /// What is sent; none without a session.
    pub outgoing: Option<Outgoing>,
    /// Who makes copies; none without a session.
    pub copier: Option<Copier>,
}

/// The process beside the Redis.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub life: InstanceId,
    pub table: Arc<Table>,
    pub foreign: Arc<Foreign>,
    pub claims: Arc<Claims>,
    pub deliveries: Arc<Deliveries>,
    pub sources: Sources,
    pub reached: Reached,
    pub seen_at: SeenAt,
    pub judge: Judge,
    pub clock: Clock,
    /// How the present epoch began.
    pub state: Arc<EpochState>,
    /// The peer from which this site gets all that it will have.
    pub joining: Option<usize>,
    /// Peers whose session is to end: what they sent, or what is to be sent, makes no sense.
    pub broken: BTreeSet<usize>,
    /// How many events of the stream have been read.
    pub read: usize,
    pub seen: Arc<Seen>,
    pub frame: FrameBuilder,
    /// What is published of that.
    pub progress: Progress,
    pub peers: BTreeMap<usize, Peer>,
}

/// A site.
#[derive(Debug)]
pub(crate) struct Site {
    pub name: SiteId,
    pub catalog: Catalog,
    pub redis: Redis,
    pub journal: Journal,
    pub sidecar: Sidecar,
    /// How far its clock is ahead, in milliseconds.
    pub skew: u64,
    /// What is done where two sites with data meet.
    pub existing: Existing,
    /// Whether what it evicts stays at the others.
    pub keeps_evictions: bool,
    /// What was ever evicted here.
    pub evicted: BTreeSet<Key>,
    pub ledger: Ledger,
    /// The life of the server process.
    pub run_id: u64,
    pub names: Vec<SiteId>,
    /// Snapshots.
    pub shelf: Shelf,
    /// The same of its Redis.
    pub redis_skew: u64,
    /// States that were sent.
    pub states: usize,
    pub traces: bool,
}

impl Sidecar {
    fn new(
        names: &[SiteId],
        number: usize,
        (life, state): (u64, Arc<EpochState>),
        catalog: &Catalog,
    ) -> Self {
        let name = &names[number];
        let others = names.iter().filter(|other| *other != name);
        let others: Vec<SiteId> = others.cloned().collect();
        let table = Arc::new(Table::new(MOST));
        let foreign = Arc::new(Foreign::new(&others, MOST));
        let claims = Claims::new(name, &others);
        let news = Arc::default();
        let dockets = others.iter().map(|of| (of.clone(), Docket::new(&news)));
        let dockets: BTreeMap<SiteId, Docket> = dockets.collect();
        let peers = names.iter().enumerate().filter(|(i, _)| *i != number);
        let peers = peers.map(|(i, of)| {
            let peer = Peer {
                name: of.clone(),
                docket: dockets[of].clone(),
                debts: Debts::new(of, &claims),
                applying: Applying::default(),
                answering: Answering::default(),
                outgoing: None,
                copier: None,
            };
            (i, peer)
        });
        let peers = peers.collect();
        let judge = Judge::new(
            name.clone(),
            (Arc::clone(&table), Arc::clone(&foreign)),
            catalog.clone(),
            (&dockets, Arc::clone(&claims)),
        );
        let reached = Reached::default();
        reached.begin(state.epoch);
        Self {
            life: InstanceId::new(life),
            table,
            foreign,
            claims,
            deliveries: Deliveries::new(name, &others),
            sources: Sources::default(),
            reached,
            seen_at: SeenAt::default(),
            judge,
            clock: Clock::default(),
            frame: FrameBuilder::new(state.began),
            progress: Progress {
                state: Some(Arc::clone(&state)),
                read: place(state.began),
                ..Progress::default()
            },
            state,
            joining: None,
            broken: BTreeSet::new(),
            read: 0,
            seen: Arc::default(),
            peers,
        }
    }
}

impl Site {
    /// One with this Redis that has met nobody.
    pub(crate) fn new(names: &[SiteId], number: usize, redis: Redis) -> Self {
        let catalog = Catalog::default();
        let is_empty = redis.data.is_empty();
        let replid = replid(&names[number], place(START).epoch);
        let (epoch, server) = (place(START).epoch, (replid, START));
        let state = history::begin(History::Fresh, None, epoch, server.0, server.1, is_empty);
        let sidecar = Sidecar::new(names, number, (1, Arc::new(state.clone())), &catalog);
        let mut site = Self {
            name: names[number].clone(),
            catalog,
            redis,
            journal: Journal::default(),
            sidecar,
            skew: 0,
            existing: Existing::Overwrite,
            keeps_evictions: false,
            evicted: BTreeSet::new(),
            ledger: Ledger::default(),
            run_id: 1,
            names: names.to_vec(),
            shelf: Shelf::default(),
            redis_skew: 0,
            states: 0,
            traces: false,
        };
        site.begin_epoch((state, Seen::default()), BTreeMap::new());
        site
    }

    /// Tells what happens, when somebody wants to know.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.traces {
            println!("{}: {}", self.name, what());
        }
    }

    /// Kills the sidecar, and starts another one, which learns from the journal what that one had known.
    pub(crate) fn restart(&mut self, number: usize) {
        self.say(|| "the sidecar is killed".to_owned());
        let life = self.sidecar.life.as_u64() + 1;
        let frames = &self.journal.frames;
        let saved = frames.iter().rev().find_map(|frame| frame.saved.as_ref());
        let saved = Saved::clone(saved.unwrap());
        let state = Arc::new(saved.state.clone());
        let names = std::mem::take(&mut self.names);
        self.sidecar = Sidecar::new(&names, number, (life, state), &self.catalog);
        self.names = names;
        self.shelf.forget();
        let mut found = Found::new(saved);
        let judge = &mut self.sidecar.judge;
        judge.note_everything(self.journal.first());
        if self.journal.dropped > 0 {
            judge.note_foreign(&found.saved.seen);
        }
        for frame in self.journal.kept() {
            if let Some(saved) = &frame.saved {
                judge.note_foreign(&saved.seen);
            }
            let is_here = place(frame.end).epoch >= found.saved.state.epoch;
            for entry in BatchReader::new(frame.start, frame.body.clone()) {
                found.add((entry.unwrap(), is_here), &self.catalog, judge);
            }
            found.saved.at = found.saved.at.max(place(frame.end));
            judge.note();
        }
        let Found {
            saved,
            hlc,
            wishes,
            stale,
            torn,
        } = found;
        let copied = saved.marks.iter();
        let copied = copied.filter(|(_, mark)| mark.base > Epoch::UNDONE);
        let copied = copied.map(|(site, mark)| (site.clone(), mark.at)).collect();
        judge.note_foreign(&copied);
        let open = (wishes, stale, &torn);
        judge.resume((&saved.seen, &saved.judged), open, saved.at);
        let sidecar = &mut self.sidecar;
        let end = saved.at.offset;
        sidecar.clock = Clock::after(hlc);
        sidecar.read = usize::try_from(end.0 - saved.state.began.0).unwrap();
        sidecar.frame = FrameBuilder::new(end);
        sidecar.seen = Arc::new(saved.seen.clone());
        sidecar.progress.read = saved.at;
        sidecar.progress.marks = Arc::new(saved.marks);
        sidecar.progress.self_mark = saved.self_mark;
        sidecar.publish();
    }
}

/// What the journal says of the time before.
struct Found {
    saved: Saved,
    hlc: Hlc,
    wishes: BTreeSet<(SiteId, Key)>,
    stale: BTreeSet<(SiteId, Key)>,
    torn: BTreeSet<SiteId>,
}

impl Found {
    fn new(saved: Saved) -> Self {
        Self {
            saved,
            hlc: Hlc::default(),
            wishes: BTreeSet::new(),
            stale: BTreeSet::new(),
            torn: BTreeSet::new(),
        }
    }

    /// An entry, and whether what was here of others then is here now.
    fn add(&mut self, (entry, is_here): (Entry, bool), catalog: &Catalog, judge: &mut Judge) {
        let saved = &mut self.saved;
        match entry {
            Entry::Record(record) => {
                self.hlc = self.hlc.max(record.hlc);
                let mut effects = effects_of((&record.commands, record.db), catalog);
                judge.on_own(&mut effects, place(record.offset), record.hlc);
            }
            Entry::Echo {
                origin, at, hlc, ..
            } => {
                self.hlc = self.hlc.max(hlc);
                if is_here {
                    saved.seen.advance(&origin, at);
                }
            }
            Entry::Foreign { origin, at, record } => {
                judge.on_foreign(&origin, at, &record, saved.at);
            }
            Entry::Judgement(judgement) => match judgement {
                Judgement::Judged(origin, at) if is_here => saved.judged.advance(&origin, at),
                Judgement::Judged(..) => {}
                Judgement::Wished(origin, key) => drop(self.wishes.insert((origin, key))),
                Judgement::Paid(origin, key) => drop(self.wishes.remove(&(origin, key))),
                Judgement::Stale(site, key) => drop(self.stale.insert((site, key))),
                Judgement::Told(site, key) => drop(self.stale.remove(&(site, key))),
                Judgement::Torn(origin) => drop(self.torn.insert(origin)),
                Judgement::Merging(origin) => drop(self.torn.remove(&origin)),
            },
            Entry::SelfMark { number, .. } => saved.self_mark = saved.self_mark.max(number),
            Entry::Mark { origin, text } if is_here => {
                saved.marks.insert(origin, Mark::parse(&text).unwrap());
            }
            Entry::Mark { .. } => {}
        }
    }
}

/// What commands do.
pub(crate) fn effects_of((commands, db): (&[u8], u32), catalog: &Catalog) -> Effects {
    let mut effects = Effects::default();
    for_each_in(commands, db, |command, db| {
        effects.add(catalog, command, db, |_, _| true);
    })
    .unwrap();
    effects
}

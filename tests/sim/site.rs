//! A site: a Redis, what the sidecar has on its disk, and the sidecar, which may be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use tandem::apply::Debts;
use tandem::command::{Catalog, Effects, for_each_in};
use tandem::converge::{Claims, Docket, Foreign, Judge, Table};
use tandem::model::{
    BatchReader, Clock, Cursor, Entry, Epoch, FrameBuilder, Hlc, InstanceId, Judgement, Key, Mark,
    Offset, Record, Seen, SiteId,
};
use tandem::progress::{Deliveries, Progress, Reached};

use crate::answer::Answering;
use crate::apply::Applying;
use crate::link::Outgoing;
use crate::redis::Redis;

/// How many writes are remembered: more than a schedule has.
const MOST: usize = 1 << 19;
/// Where every history begins: what is before it all have.
pub(crate) const START: Offset = Offset(1);

/// A place in a history; each has one epoch only.
pub(crate) const fn place(offset: Offset) -> Cursor {
    let epoch = Epoch(2);
    Cursor { epoch, offset }
}

/// A frame of the journal.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub start: Offset,
    pub end: Offset,
    pub last_record: Option<Offset>,
    pub body: Bytes,
}

/// What a killed sidecar finds again on its disk.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub frames: Vec<Frame>,
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
}

/// The process beside the Redis.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub life: InstanceId,
    pub table: Arc<Table>,
    pub foreign: Arc<Foreign>,
    pub claims: Arc<Claims>,
    pub deliveries: Arc<Deliveries>,
    pub reached: Reached,
    pub judge: Judge,
    pub clock: Clock,
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
    /// The same of its Redis.
    pub redis_skew: u64,
    /// States that were sent.
    pub states: usize,
    pub traces: bool,
}

impl Sidecar {
    fn new(names: &[SiteId], number: usize, life: u64, catalog: &Catalog) -> Self {
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
        Self {
            life: InstanceId::new(life),
            table,
            foreign,
            claims,
            deliveries: Deliveries::new(name, &others),
            reached: Reached::default(),
            judge,
            clock: Clock::default(),
            read: 0,
            seen: Arc::default(),
            frame: FrameBuilder::new(START),
            progress: Progress {
                read: place(START),
                ..Progress::default()
            },
            peers,
        }
    }
}

impl Site {
    /// One with an empty Redis that has met all others.
    pub(crate) fn new(names: &[SiteId], number: usize) -> Self {
        let catalog = Catalog::default();
        let mut redis = Redis::default();
        let sidecar = Sidecar::new(names, number, 1, &catalog);
        for peer in sidecar.peers.values() {
            // Its data holds all that the peer had when it was met: nothing.
            let mark = Mark::first(sidecar.life, place(START));
            redis.mark(&peer.name, &mark, Vec::new());
        }
        Self {
            name: names[number].clone(),
            catalog,
            redis,
            journal: Journal::default(),
            sidecar,
            skew: 0,
            redis_skew: 0,
            states: 0,
            traces: false,
        }
    }

    /// Tells what happens, when somebody wants to know.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.traces {
            println!("{}: {}", self.name, what());
        }
    }

    /// Kills the sidecar, and starts another one, which learns from the journal what that one had known.
    pub(crate) fn restart(&mut self, names: &[SiteId], number: usize) {
        self.say(|| "the sidecar is killed".to_owned());
        let life = self.sidecar.life.as_u64() + 1;
        self.sidecar = Sidecar::new(names, number, life, &self.catalog);
        let mut found = Found {
            at: place(START),
            ..Found::default()
        };
        let judge = &mut self.sidecar.judge;
        judge.note_everything(place(START));
        for frame in &self.journal.frames {
            for entry in BatchReader::new(frame.start, frame.body.clone()) {
                found.add(entry.unwrap(), &self.catalog, judge);
            }
            found.at = found.at.max(place(frame.end));
            judge.note();
        }
        let open = (found.wishes, found.stale, &found.torn);
        judge.resume((&found.seen, &found.judged), open, found.at);
        let sidecar = &mut self.sidecar;
        let end = found.at.offset;
        sidecar.clock = Clock::after(found.hlc);
        sidecar.read = usize::try_from(end.0 - START.0).unwrap();
        sidecar.frame = FrameBuilder::new(end);
        sidecar.seen = Arc::new(found.seen);
        sidecar.progress.read = found.at;
        sidecar.publish();
    }
}

/// What the journal says of the time before.
#[derive(Default)]
struct Found {
    at: Cursor,
    hlc: Hlc,
    seen: Seen,
    judged: Seen,
    wishes: BTreeSet<(SiteId, Key)>,
    stale: BTreeSet<(SiteId, Key)>,
    torn: BTreeSet<SiteId>,
}

impl Found {
    fn add(&mut self, entry: Entry, catalog: &Catalog, judge: &mut Judge) {
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
                self.seen.advance(&origin, at);
            }
            Entry::Foreign { origin, at, record } => {
                judge.on_foreign(&origin, at, &record, self.at);
            }
            Entry::Judgement(judgement) => match judgement {
                Judgement::Judged(origin, at) => self.judged.advance(&origin, at),
                Judgement::Wished(origin, key) => drop(self.wishes.insert((origin, key))),
                Judgement::Paid(origin, key) => drop(self.wishes.remove(&(origin, key))),
                Judgement::Stale(site, key) => drop(self.stale.insert((site, key))),
                Judgement::Told(site, key) => drop(self.stale.remove(&(site, key))),
                Judgement::Torn(origin) => drop(self.torn.insert(origin)),
                Judgement::Merging(origin) => drop(self.torn.remove(&origin)),
            },
            Entry::SelfMark { .. } | Entry::Mark { .. } => {}
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

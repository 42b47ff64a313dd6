//! Writing what a peer sends into the Redis, in marked transactions.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use tandem::apply::Debts;
use tandem::command::{Access, Catalog, Command, Touched, for_each_in};
use tandem::converge::{Filed, Foreign, Table};
use tandem::link::CopyBegin;
use tandem::model::{
    BatchReader, Cursor, Entry, Epoch, Hlc, Key, Mark, Need, Offset, Owes, Record, Seen, SiteId,
};

use crate::copied::Flying;
use crate::guard::Guard;
use crate::link::{Message, OwedStates, Records};
use crate::redis::{Done, shown};
use crate::site::{Peer, Site, place};

/// The applier of one peer.
#[derive(Debug, Default)]
pub(crate) struct Applying {
    mark: Option<Mark>,
    /// How the commands of records behind this went is not known.
    unsettled: Unsettled,
    pub work: VecDeque<Message>,
    /// Records of frames that were taken up.
    rest: VecDeque<Record>,
    /// What was executed, and which of its commands failed: nothing has been done about that yet.
    settling: Option<(Batch, BTreeSet<usize>)>,
    /// States, or a copy, whose causes are not here.
    waiting: Option<Waiting>,
    pub guard: Option<Guard>,
    pub flying: Flying,
    /// The epoch on which the peer's data rests.
    pub base: Epoch,
    /// The last epoch in which the Redis here had lost something.
    pub older: Epoch,
    /// Whether the peer lacks writes that are here and not in our journal.
    pub gap: bool,
    /// Where a copy is to come though all records are here: what is here before that.
    pub answered: Option<Cursor>,
    pub joins: bool,
    /// Whether values here stay, by configuration.
    pub keeps_own: bool,
    /// Whether the copy from the peer is answered by one.
    pub owes_back: bool,
    pub entire: bool,
    /// What the snapshot being copied had seen.
    pub copy_seen: Seen,
    torn_after: Option<Cursor>,
    /// The number of the last fence.
    pub fence: u64,
}

/// What waits for its causes.
#[derive(Debug)]
pub(crate) enum Waiting {
    States(OwedStates),
    /// The rest of the beginning of a copy.
    Copy(Box<CopyBegin>, Mark),
}

/// As of an applier that knows nothing yet: of nothing is it known how it went.
#[derive(Debug)]
struct Unsettled(Option<Cursor>);

impl Default for Unsettled {
    fn default() -> Self {
        Self(Some(Cursor::ZERO))
    }
}

/// Whole records, ready to be executed.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Each with its database, and what its record had seen.
    commands: Vec<(Bytes, u32, Arc<Seen>)>,
    owed: Vec<Key>,
    records: usize,
    last: Offset,
    hlc: Hlc,
    seen: Arc<Seen>,
}

/// What is known where records are applied.
pub(crate) struct Here<'a> {
    pub catalog: &'a Catalog,
    pub table: &'a Table,
    pub foreign: &'a Foreign,
    pub debts: &'a Debts,
    pub site: &'a SiteId,
    pub peer: &'a SiteId,
}

impl Here<'_> {
    /// A command of a record without the keys that it would delete and had not seen the writes of.
    fn without_spared(&self, command: &Command<'_>, (db, seen): (u32, Cursor)) -> Option<Bytes> {
        let raw = Bytes::copy_from_slice(command.raw());
        if !command.is(b"DEL") || self.table.newest() <= seen {
            return Some(raw);
        }
        let keys = command.args(1);
        let rest: Vec<&[u8]> = keys
            .filter(|key| !self.table.spares((db, key), seen))
            .collect();
        if rest.len() + 1 == command.len() {
            return Some(raw);
        }
        let words: Vec<String> = rest
            .iter()
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect();
        let line = format!("DEL {}", words.join(" "));
        (!words.is_empty()).then(|| crate::redis::command(&line).into())
    }

    /// Whether a failure follows from writes of ours, or of third sites, that a record had not seen.
    pub(crate) fn explains(&self, command: &Command<'_>, db: u32, seen: &Seen) -> bool {
        let mut touches = Vec::new();
        let catalog = self.catalog;
        catalog.touches(command, db, &mut touches, |_, _| true);
        let own = std::iter::once((self.site, self.table));
        let mut tables = own.chain(self.foreign.but(self.peer));
        tables.any(|(of, table)| {
            touches.iter().any(|touch| {
                let clash = table.clash(*touch, seen.of(of));
                !clash.is_none() && !clash.is_unknown()
            })
        })
    }

    /// Adds the keys that a command makes of keys that are owed.
    fn spread(&self, command: &Command<'_>, db: u32, owed: &mut Vec<Key>) {
        let Touched::Keys(keys) = self.catalog.touched(command, db) else {
            return;
        };
        let keys = keys.into_iter();
        let keys: Vec<(Key, Access)> = keys
            .map(|key| ((key.db, key.name.into()), key.access))
            .collect();
        let is_owed = |key: &Key| owed.contains(key) || self.debts.wants(key.0, &key.1);
        if keys.len() < 2 || !keys.iter().any(|(key, _)| is_owed(key)) {
            return;
        }
        let written = keys.into_iter().filter(|(_, a)| *a == Access::Write);
        let written = written.map(|(key, _)| key);
        let new: Vec<Key> = written.filter(|key| !owed.contains(key)).collect();
        owed.extend(new);
    }

    /// The keys that a command writes.
    pub(crate) fn written(&self, command: &Command<'_>, db: u32) -> Vec<Key> {
        let Touched::Keys(keys) = self.catalog.touched(command, db) else {
            return Vec::new();
        };
        let written = keys.into_iter().filter(|key| key.access == Access::Write);
        written.map(|key| (key.db, key.name.into())).collect()
    }

    fn push(&self, batch: &mut Batch, record: &Record) {
        let seen = record.seen.of(self.site);
        for_each_in(&record.commands, record.db, |command, db| {
            if let Some(raw) = self.without_spared(command, (db, seen)) {
                batch.commands.push((raw, db, Arc::clone(&record.seen)));
                self.spread(command, db, &mut batch.owed);
            }
        })
        .unwrap();
        batch.records += 1;
        batch.last = record.offset;
        batch.hlc = batch.hlc.max(record.hlc);
        batch.seen = Arc::clone(&record.seen);
    }

    /// The keys that are owed when these commands have failed.
    fn owed_after(&self, batch: &Batch, failed: &BTreeSet<usize>) -> Vec<Key> {
        let mut owed = Vec::new();
        if failed.is_empty() && self.debts.is_empty() {
            return owed;
        }
        for (number, (raw, db, _)) in batch.commands.iter().enumerate() {
            for_each_in(raw, *db, |command, db| {
                if failed.contains(&number) {
                    owed.extend(self.written(command, db));
                }
                self.spread(command, db, &mut owed);
            })
            .unwrap();
        }
        owed
    }
}

impl Applying {
    /// Up to where the peer's records are applied.
    pub(crate) fn mark_at(&self) -> Cursor {
        self.mark.as_ref().map_or(Cursor::ZERO, |mark| mark.at)
    }

    /// The mark, if there is one.
    pub(crate) const fn known_mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    pub(crate) const fn take_mark(&mut self) -> Option<Mark> {
        self.mark.take()
    }

    /// Whether the data here rests on all that the peer's data rests on.
    pub(crate) fn is_whole(&self) -> bool {
        let mark = self.mark.as_ref();
        let has_all = |mark: &Mark| mark.copy.is_none() && mark.base == self.base;
        mark.is_some_and(|mark| has_all(mark) && mark.home >= self.older)
    }

    /// Behind what it is not known how it went.
    pub(crate) const fn unsettled(&self) -> Option<Cursor> {
        self.unsettled.0
    }

    /// The mark.
    pub(crate) fn mark(&self) -> Mark {
        self.mark.clone().expect("a session has begun")
    }

    pub(crate) fn set_mark(&mut self, mark: Mark) {
        self.mark = Some(mark);
    }

    /// Whether something was executed of which it is not known yet what follows.
    pub(crate) const fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// A session is over: what was executed was executed.
    pub(crate) fn end(&mut self) {
        self.work.clear();
        self.rest.clear();
        (self.settling, self.waiting, self.guard) = (None, None, None);
        self.flying = Flying::default();
    }
}

impl Site {
    pub(crate) fn peer(&mut self, number: usize) -> &mut Peer {
        self.sidecar.peers.get_mut(&number).unwrap()
    }

    /// What is known for the applier of a peer.
    pub(crate) fn here(&self, number: usize) -> Here<'_> {
        Here {
            catalog: &self.catalog,
            table: &self.sidecar.table,
            foreign: &self.sidecar.foreign,
            debts: &self.sidecar.peers[&number].debts,
            site: &self.name,
            peer: &self.sidecar.peers[&number].name,
        }
    }

    pub(crate) fn set_unsettled(&mut self, number: usize, from: Option<Cursor>) {
        let peer = self.peer(number);
        peer.applying.unsettled = Unsettled(from);
        peer.docket.set_unsettled(from);
    }

    /// Writes the mark.
    pub(crate) fn commit_mark(&mut self, number: usize, mark: Mark) {
        let life = self.sidecar.life;
        let peer = self.sidecar.peers.get_mut(&number).unwrap();
        let mark = Mark {
            instance: life,
            batch: mark.batch + 1,
            ..mark
        };
        self.redis.mark(&peer.name, &mark, Vec::new());
        peer.applying.mark = Some(mark);
        self.note_part(number);
    }

    /// Whether everything of third sites that was seen is here.
    fn has_causes(&self, number: usize, seen: &Seen) -> bool {
        let sidecar = &self.sidecar;
        let third = sidecar.foreign.third(&sidecar.peers[&number].name);
        sidecar.reached.has(&third, seen, &sidecar.progress)
    }

    /// All records of a peer up to here have been applied: whether that is new.
    fn reach(&self, number: usize, at: Cursor) -> bool {
        let name = self.sidecar.peers[&number].name.clone();
        let before = self.sidecar.reached.of(&name);
        self.sidecar
            .reached
            .advance(self.sidecar.state.epoch, &name, at);
        before < at
    }

    /// A step of the applier of a peer; whether it did anything. With `splits` it stops before it deals
    /// with what failed.
    pub(crate) fn apply(&mut self, number: usize, splits: bool) -> bool {
        let peer = self.peer(number);
        if peer.outgoing.is_none() || self.sidecar.broken.contains(&number) {
            return false;
        }
        let peer = self.peer(number);
        if let Some((batch, failed)) = peer.applying.settling.take() {
            self.settle(number, &batch, &failed);
            return true;
        }
        if let Some(guard) = peer.applying.guard.take() {
            return self.guard(number, guard);
        }
        if let Some(waiting) = peer.applying.waiting.take() {
            return self.end_waiting(number, waiting);
        }
        if let Some(is_busy) = self.land(number, splits) {
            return is_busy;
        }
        let peer = self.peer(number);
        if !peer.applying.rest.is_empty() {
            return self.apply_rest(number, splits);
        }
        if self.tear(number) {
            return true;
        }
        let is_busy = self.ask(number);
        let Some(message) = self.peer(number).applying.work.pop_front() else {
            return is_busy;
        };
        self.on_message(number, message, splits);
        true
    }

    /// What the peer is to be asked for and was not.
    fn ask(&mut self, number: usize) -> bool {
        let causes = Arc::clone(&self.sidecar.progress.causes);
        let peer = self.sidecar.peers.get_mut(&number).unwrap();
        let third = self.sidecar.foreign.third(&peer.name);
        let debts = &peer.debts;
        peer.docket.take_wishes(|key, wish| {
            debts.add_wrong(key, wish);
        });
        if peer.applying.joins {
            return false;
        }
        let third = || third.iter().map(|of| (of.clone(), causes.of(of))).collect();
        let questions = std::iter::from_fn(|| debts.ask(tandem::link::MAX_KEYS, third));
        let questions: Vec<_> = questions.collect();
        let is_busy = !questions.is_empty();
        let name = peer.name.clone();
        for question in &questions {
            self.say(|| format!("asks {name} for {:?} ({:?})", question.keys, question.need));
        }
        let peer = self.peer(number);
        let outgoing = peer.outgoing.as_mut().unwrap();
        outgoing.questions.extend(questions);
        is_busy
    }

    fn on_message(&mut self, number: usize, message: Message, splits: bool) {
        let peer = self.sidecar.peers.get_mut(&number).unwrap();
        match message {
            Message::Records(records) => self.take_up(number, &records),
            Message::States(owed) => self.on_states(number, owed),
            Message::CopyBegin(begin) => self.on_copy_begin(number, begin),
            Message::CopyStates(part) => self.on_copy_states(number, part, splits),
            Message::CopyEnd(entries) => self.on_copy_end(number, entries),
            Message::Copied => {
                peer.applying.gap = false;
                let mark = Mark {
                    owes: Owes::Nothing,
                    ..peer.applying.mark()
                };
                self.sidecar.claims.end_copy(&peer.name);
                self.commit_mark(number, mark);
            }
            Message::Owe(question) => {
                let mark = peer.applying.mark();
                if mark.at < question.after {
                    let at = question.after;
                    crate::now(peer.docket.file(Filed::Nothing(at)));
                    self.commit_mark(number, Mark { at, ..mark });
                }
            }
            Message::Stale(number, keys) => peer.docket.stale(number, keys),
            Message::Heard(_) | Message::Waits(_) => unreachable!("it is no matter of the applier"),
            Message::Ack(ack) => {
                self.sidecar.deliveries.seen(&peer.name, &ack.seen);
                self.reach(number, ack.sent);
                // Every record up to there has come once more.
                let applying = &self.peer(number).applying;
                if applying.unsettled.0.is_some() && ack.sent >= applying.mark_at() {
                    self.set_unsettled(number, None);
                }
            }
        }
    }

    fn on_states(&mut self, number: usize, mut owed: OwedStates) {
        self.say(|| format!("has got states read at {}", owed.at.offset));
        let peer = self.peer(number);
        owed.states.retain(|state| {
            let is_unsaid = state.said.is_none();
            if is_unsaid && peer.debts.is_paid(&state.key, false) {
                let stale = peer.debts.remove(&state.key).unwrap_or_default();
                let stale = stale.into_iter().map(|site| (site, state.key.clone()));
                peer.docket.outdated(stale);
            }
            !is_unsaid && peer.debts.wants(state.key.0, &state.key.1)
        });
        if !owed.states.is_empty() {
            peer.applying.waiting = Some(Waiting::States(owed));
        }
    }

    /// What waits goes on if its causes are here.
    fn end_waiting(&mut self, number: usize, waiting: Waiting) -> bool {
        let (causes, at) = match &waiting {
            Waiting::States(owed) => (&owed.causes, owed.at),
            Waiting::Copy(begin, _) => (&begin.holds, begin.at),
        };
        let is_copy = matches!(waiting, Waiting::Copy(..));
        if !self.has_causes(number, causes) || is_copy && self.joins_third(number) {
            self.peer(number).applying.waiting = Some(waiting);
            return self.reach(number, at);
        }
        match waiting {
            Waiting::States(owed) => self.begin_guard_of_owed(number, owed),
            Waiting::Copy(_, mark) => self.commit_mark(number, mark),
        }
        true
    }

    /// Whether this site has begun to get all from another one, and has not got it.
    fn joins_third(&self, number: usize) -> bool {
        let peer = &self.sidecar.peers[&number];
        let mut marks = self.sidecar.progress.marks.iter();
        let is_begun = |mark: &Mark| mark.base == Epoch::NEVER && mark.copy.is_some();
        !peer.applying.joins && marks.any(|(site, mark)| *site != peer.name && is_begun(mark))
    }

    /// Whether the session ends, because the two sites are to be merged.
    fn tear(&mut self, number: usize) -> bool {
        let last = self.journal.last_record();
        let peer = self.sidecar.peers.get_mut(&number).unwrap();
        if !peer.docket.is_torn() {
            return false;
        }
        let after = *peer.applying.torn_after.get_or_insert(last);
        if self.sidecar.deliveries.of(&peer.name).seen < after {
            return false;
        }
        peer.applying.torn_after = None;
        let mark = peer.applying.mark();
        let base = match mark.base {
            Epoch::LOST => Epoch::LOST,
            _ => Epoch::UNDONE,
        };
        self.commit_mark(number, Mark { base, ..mark });
        self.peer(number).docket.set_torn(false);
        self.sidecar.broken.insert(number);
        true
    }

    pub(crate) fn wait_for_causes(&mut self, number: usize, waiting: Waiting) {
        self.peer(number).applying.waiting = Some(waiting);
    }

    /// Takes up a frame of records: what is about to be applied is filed.
    fn take_up(&mut self, number: usize, records: &Records) {
        let reader = BatchReader::new(records.start, records.body.clone());
        let read: Vec<Record> = reader
            .filter_map(|entry| match entry.unwrap() {
                Entry::Record(record) => Some(record),
                _ => None,
            })
            .collect();
        let epoch = place(records.start).epoch;
        let filed = Filed::Records {
            epoch,
            start: records.start,
            body: records.body.clone(),
        };
        let peer = self.peer(number);
        crate::now(peer.docket.file(filed));
        if let Some(from) = peer.applying.unsettled.0 {
            self.settle_again(number, (from, place(records.end)), &read);
        }
        let peer = self.peer(number);
        let at = peer.applying.mark_at();
        let new = read.into_iter().filter(|record| place(record.offset) > at);
        peer.applying.rest.extend(new);
    }

    /// Records that were applied before, of which it is not known how that went.
    fn settle_again(&mut self, number: usize, (from, end): (Cursor, Cursor), read: &[Record]) {
        let at = self.peer(number).applying.mark_at();
        let here = self.here(number);
        let mut batch = Batch::default();
        for record in read {
            if place(record.offset) > from && place(record.offset) <= at {
                here.push(&mut batch, record);
            }
        }
        let all = (0..batch.commands.len()).collect();
        let mut owed = here.owed_after(&batch, &all);
        owed.append(&mut batch.owed);
        self.owe(number, owed, Need::Unsure);
        if end >= self.peer(number).applying.mark_at() {
            self.set_unsettled(number, None);
        }
    }

    /// The peer owes the states of these keys.
    fn owe(&mut self, number: usize, keys: Vec<Key>, need: Need) {
        if keys.is_empty() {
            return;
        }
        let after = self.sidecar.progress.read;
        self.keep_owed(number, &keys, need);
        let mark = self.peer(number).applying.mark();
        self.commit_mark(number, mark);
        let peer = self.peer(number);
        peer.docket.owed(keys.iter().cloned());
        for key in keys {
            peer.debts.add(key, after, need);
        }
    }

    /// Notes what is owed in the Redis, where a crash does not forget it.
    pub(crate) fn keep_owed(&mut self, number: usize, keys: &[Key], need: Need) {
        let name = self.peer(number).name.clone();
        let kept = self.redis.owed.entry(name).or_default();
        for key in keys {
            let known = kept.entry(key.clone()).or_insert(need);
            *known = need.max(*known);
        }
    }

    /// Executes what of the records taken up has its causes here.
    fn apply_rest(&mut self, number: usize, splits: bool) -> bool {
        let mut batch = Batch::default();
        while let Some(record) = self.peer(number).applying.rest.pop_front() {
            if !self.has_causes(number, &record.causes) {
                let before = place(Offset(record.offset.0 - 1));
                self.peer(number).applying.rest.push_front(record);
                if batch.records == 0 {
                    return self.reach(number, before);
                }
                break;
            }
            self.here(number).push(&mut batch, &record);
        }
        let failed = self.execute(number, &batch);
        match splits {
            true => self.peer(number).applying.settling = Some((batch, failed)),
            false => self.settle(number, &batch, &failed),
        }
        true
    }

    fn execute(&mut self, number: usize, batch: &Batch) -> BTreeSet<usize> {
        let (life, site) = (self.sidecar.life, self.name.clone());
        let old = self.peer(number).applying.mark();
        let mark = Mark {
            instance: life,
            batch: old.batch + 1,
            at: place(batch.last),
            hlc: old.hlc.max(batch.hlc),
            low: batch.seen.of(&site),
            seen: Seen::clone(&batch.seen),
            owes: old.owes.after_records(),
            ..old
        };
        let unsettled = self.peer(number).applying.unsettled.0;
        self.set_unsettled(number, unsettled.or(Some(old.at)));
        let (mut failed, mut deleted) = (BTreeSet::new(), Vec::new());
        for (place, (raw, db, seen)) in batch.commands.iter().enumerate() {
            for_each_in(raw, *db, |command, db| {
                let done = self.redis.execute_applied(command, db, &mut deleted);
                if done == Done::Failed && !self.here(number).explains(command, db, seen) {
                    failed.insert(place);
                }
            })
            .unwrap();
        }
        self.keep_owed(number, &batch.owed, Need::Lacks);
        let name = self.peer(number).name.clone();
        self.redis.mark(&name, &mark, deleted);
        self.say(|| {
            let commands: Vec<String> = batch.commands.iter().map(|(c, ..)| shown(c)).collect();
            let data = &self.redis.data;
            let at = mark.at.offset;
            format!("applies of {name} up to {at}: {commands:?}, failed {failed:?} = {data:?}")
        });
        self.peer(number).applying.mark = Some(mark);
        failed
    }

    fn settle(&mut self, number: usize, batch: &Batch, failed: &BTreeSet<usize>) {
        let read = self.sidecar.progress.read;
        let peer = self.peer(number);
        peer.docket.owed(batch.owed.iter().cloned());
        for key in &batch.owed {
            peer.debts.add(key.clone(), read, Need::Lacks);
        }
        let owed = self.here(number).owed_after(batch, failed);
        self.owe(number, owed, Need::Lacks);
        self.set_unsettled(number, None);
    }
}

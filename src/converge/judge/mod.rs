//! Judging a peer's records when their echo is read.

mod origin;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use self::origin::{Origin, Wrong};
pub use self::verdicts::{Overrun, Verdicts};
use super::clash::Theirs;
use super::docket::{Docket, Wish};
use super::recent::{Recent, Write};
use super::table::Table;
use crate::command::scanner::Scanner;
use crate::command::{Act, Catalog, Command, Effects, Touch, Whole, for_each_in, key_hash};
use crate::model::{
    Conflict, ConflictKind, Cursor, Epoch, Hlc, InstanceId, Judgement, Key, Mark, Need, Record,
    Seen, SiteId, Winner, is_reserved,
};

/// What is found out about the commands of a record.
#[derive(Debug, Default)]
struct Findings {
    /// Keys whose value is wrong here.
    wrong: Vec<Key>,
    /// Keys that may have lost their time to live here.
    doubtful: Vec<Key>,
    /// Of one command: the keys that it met in the wrong order.
    hashes: HashSet<u128>,
    /// Of one command: the keys that were in conflict, in whichever order.
    met: HashMap<u128, (ConflictKind, Winner, Option<Hlc>)>,
    /// Of one command: whether keys may have lost their time to live.
    doubts: bool,
    /// Of one command: whether it touches keys whose value is not what it was there.
    touched: bool,
}

/// Owned by the intake, which tells it everything in the order of the stream.
#[derive(Debug)]
pub struct Judge {
    site: SiteId,
    table: Arc<Table>,
    catalog: Catalog,
    recent: Recent,
    /// Our own writes that are not in the table yet.
    written: Vec<Write>,
    origins: BTreeMap<SiteId, Origin>,
    judged: Arc<Seen>,
    /// Not handed over yet.
    wishes: Vec<(SiteId, Key, Wish)>,
    /// The same of peers with which this site is to be merged.
    torn: Vec<SiteId>,
    verdicts: Verdicts,
    /// Of the command that is being looked at.
    effects: Effects,
    scanner: Scanner,
}

impl Judge {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(
        site: SiteId,
        table: Arc<Table>,
        catalog: Catalog,
        dockets: &BTreeMap<SiteId, Docket>,
    ) -> Self {
        let origin = |(origin, docket): (&SiteId, &Docket)| {
            let known = Origin {
                docket: docket.clone(),
                echoed: Cursor::ZERO,
                judged: Cursor::ZERO,
                seen: Cursor::ZERO,
                reading: None,
                deleted: HashMap::new(),
                wrong: HashMap::new(),
                torn: None,
            };
            (origin.clone(), known)
        };
        Self {
            site,
            table,
            catalog,
            recent: Recent::default(),
            written: Vec::new(),
            origins: dockets.iter().map(origin).collect(),
            judged: Arc::default(),
            wishes: Vec::new(),
            torn: Vec::new(),
            verdicts: Verdicts::default(),
            effects: Effects::default(),
            scanner: Scanner::default(),
        }
    }

    /// After a restart: what had come back, what of that was judged, and which wishes were open.
    pub fn resume(
        &mut self,
        (seen, judged): (&Seen, &Seen),
        (wishes, torn): (impl IntoIterator<Item = (SiteId, Key)>, &BTreeSet<SiteId>),
        at: Cursor,
    ) {
        for (site, origin) in &mut self.origins {
            (origin.echoed, origin.judged) = (seen.of(site), judged.of(site));
            origin.torn = torn.contains(site).then_some(at);
            origin.docket.set_torn(origin.torn.is_some());
        }
        self.judged = Arc::new(judged.clone());
        for (origin, key) in wishes {
            if let Some(origin) = self.origins.get_mut(&origin) {
                let (after, need) = (at, Need::Wrong);
                origin.docket.wish(key.clone(), Wish { after, need });
                let (hash, since) = (key_hash(key.0, &key.1), None);
                origin.wrong.insert(hash, Wrong { key, at, since });
            }
        }
    }

    /// Up to where each origin's records are judged.
    #[must_use]
    pub const fn judged(&self) -> &Arc<Seen> {
        &self.judged
    }

    /// Whoever waits for this is woken when there is something to note.
    #[must_use]
    pub fn news(&self) -> Arc<Notify> {
        let mut origins = self.origins.values();
        origins
            .next()
            .map_or_else(Arc::default, |o| o.docket.news())
    }

    /// Up to where the journal may be trimmed: what comes then is needed after a restart.
    #[must_use]
    pub fn oldest_wish(&self) -> Option<Cursor> {
        let wrong = self.origins.values().flat_map(|o| o.wrong.values());
        let torn = self.origins.values().filter_map(|origin| origin.torn);
        wrong.map(|wrong| wrong.at).chain(torn).min()
    }

    /// We have written: a record, the next of our stream. Its effects are taken.
    pub fn on_own(&mut self, effects: &mut Effects, at: Cursor, hlc: Hlc) {
        let write = |touch| Write { touch, at, hlc };
        self.written.extend(effects.touches.drain(..).map(write));
        for whole in effects.wholes.drain(..) {
            self.recent.note_whole(&self.table, whole, at, hlc);
            self.carry(whole, at);
        }
        for made in effects.made.drain(..) {
            self.recent
                .note_made(&self.table, &made.from, &made.keys, at);
            let is_wrong = |origin: &Origin| made.from.iter().any(|h| origin.wrong.contains_key(h));
            let of = self.origins.iter().filter(|(_, o)| is_wrong(o));
            let of: Vec<SiteId> = of.map(|(site, _)| site.clone()).collect();
            for site in of {
                self.wish(&site, made.keys.to_vec(), (Cursor::ZERO, Some(hlc)), at);
            }
        }
    }

    /// Enters our own writes into the table: before anybody hears of them, and before the judgement
    /// of what comes behind them. Many at once, for it costs a lock.
    pub fn note(&mut self) {
        if !self.written.is_empty() {
            self.recent.note(&self.table, self.written.drain(..));
        }
    }

    /// Every peer has seen everything up to `upto`, and has said so behind its records. Those of
    /// them that are not judged yet had perhaps seen less: but not less than the last that is. Up to
    /// where everything is forgotten.
    pub fn forget(&mut self, upto: Cursor) -> Cursor {
        let waiting = self.origins.values().filter(|origin| origin.waits());
        let upto = waiting.map(|origin| origin.seen).fold(upto, Cursor::min);
        self.recent.forget(&self.table, upto);
        upto
    }

    /// Anything may have been written up to here.
    pub fn note_everything(&mut self, at: Cursor) {
        self.recent.note_everything(&self.table, at);
    }

    /// A new history begins, with data that holds this much of each origin's.
    pub fn begin(&mut self, seen: &Seen) {
        for (site, origin) in &mut self.origins {
            (origin.echoed, origin.judged) = (seen.of(site), seen.of(site));
        }
        self.judged = Arc::new(seen.clone());
    }

    /// A mark of an origin has come back, and what stands behind it.
    pub fn on_echo(
        &mut self,
        origin: &SiteId,
        mark: &Mark,
        deleted: Vec<Key>,
        life: InstanceId,
        at: Cursor,
    ) {
        let Some(known) = self.origins.get_mut(origin) else {
            return;
        };
        // Without records it is a state, and what is deleted is its own affair.
        if mark.at > known.echoed {
            let deleted = deleted.into_iter();
            known
                .deleted
                .extend(deleted.map(|key| (key_hash(key.0, &key.1), key)));
        }
        known.echoed = known.echoed.max(mark.at);
        if mark.base == Epoch::UNDONE && known.torn.take().is_some() {
            let note = Judgement::Merging(origin.clone());
            self.verdicts.notes.push(note);
        }
        self.recent.note(&self.table, self.written.drain(..));
        if mark.instance == life {
            for key in known.docket.take_paid(life, mark.batch) {
                let hash = key_hash(key.0, &key.1);
                let since = known.wrong.remove(&hash).and_then(|wrong| wrong.since);
                let mended = since.map(|since| (origin.clone(), since));
                self.verdicts.mended.extend(mended);
                known.deleted.remove(&hash);
                self.verdicts
                    .notes
                    .push(Judgement::Paid(origin.clone(), key));
            }
        }
        self.catch_up(origin, at);
    }

    /// We have written these keys, and the data of our Redis does not hold it any more: the peers have
    /// it, or get it from the journal.
    pub fn on_lost(&mut self, keys: &[Key], at: Cursor) {
        let sites: Vec<SiteId> = self.origins.keys().cloned().collect();
        for site in sites {
            let known = self.wishes.len();
            self.wish(&site, keys.to_vec(), (Cursor::ZERO, None), at);
            let new = self.wishes.iter_mut().skip(known);
            new.for_each(|(_, _, wish)| wish.need = Need::Lacks);
        }
    }

    /// Takes note of keys of which something is not here, because a command failed: what is made of
    /// them is not what the peer makes of them.
    pub fn on_owed(&mut self, at: Cursor) {
        let owed = |(site, origin): (&SiteId, &Origin)| {
            let mut owed = origin.docket.take_owed();
            owed.retain(|(db, name)| !origin.wrong.contains_key(&key_hash(*db, name)));
            (!owed.is_empty()).then(|| (site.clone(), owed))
        };
        let owed: Vec<_> = self.origins.iter().filter_map(owed).collect();
        for (site, keys) in owed {
            self.wish(&site, keys, (Cursor::ZERO, None), at);
        }
    }

    /// Judges what was filed after its echo had been read: after a restart.
    pub fn on_late(&mut self, at: Cursor) {
        let late = self
            .origins
            .iter()
            .filter(|(_, o)| o.judged < o.echoed && !o.docket.is_empty());
        for site in late.map(|(site, _)| site.clone()).collect::<Vec<_>>() {
            self.catch_up(&site, at);
        }
    }

    /// What was found since the last time.
    #[must_use]
    pub fn take(&mut self) -> Verdicts {
        self.note_judged();
        std::mem::take(&mut self.verdicts)
    }

    /// These keys of ours are wrong after a write of whole databases.
    pub fn on_overrun(&mut self, overrun: &Overrun, keys: Vec<Key>, at: Cursor) {
        for key in &keys {
            let (winner, theirs) = (Winner::Here, overrun.hlc);
            let conflict = Conflict {
                key: key.clone(),
                kind: ConflictKind::Database,
                winner,
                ours: None,
                theirs,
                command: Bytes::new(),
            };
            self.verdicts.find(&overrun.origin, conflict);
        }
        let since = Some(overrun.hlc);
        self.wish(&overrun.origin, keys, (overrun.seen, since), at);
    }

    /// Judges what has been filed and has come back.
    fn catch_up(&mut self, site: &SiteId, at: Cursor) {
        while let Some((record, place)) = self.origins.get_mut(site).and_then(Origin::next) {
            if !self.has_seen_all(&record) {
                self.judge(site, &record, at);
            }
            if let Some(origin) = self.origins.get_mut(site) {
                origin.judged = place;
                origin.seen = record.seen.of(&self.site);
                if !origin.deleted.is_empty() {
                    without_deletes_of(&record, &mut origin.deleted);
                }
            }
        }
        // What the peer did to them was done to nothing here, and to something there.
        if let Some(origin) = self.origins.get_mut(site).filter(|o| o.judged >= o.echoed) {
            let expired = origin.deleted.drain().map(|(_, key)| key).collect();
            self.wish(site, expired, (Cursor::ZERO, None), at);
        }
    }

    /// Notes how far each origin's records are judged, and settled: from there the peer sends them
    /// once more after a crash.
    fn note_judged(&mut self) {
        for (site, origin) in &self.origins {
            origin.docket.take_news();
            let judged = origin.docket.settled(origin.judged);
            if judged > self.judged.of(site) {
                Arc::make_mut(&mut self.judged).advance(site, judged);
                let note = Judgement::Judged(site.clone(), judged);
                self.verdicts.notes.push(note);
            }
        }
    }

    /// Whether nothing that is here can clash with a record, or make what it writes wrong.
    fn has_seen_all(&self, record: &Record) -> bool {
        let mut origins = self.origins.values();
        origins.all(|o| o.wrong.is_empty() && o.deleted.is_empty())
            && self.table.newest() <= record.seen.of(&self.site)
    }

    fn judge(&mut self, site: &SiteId, record: &Record, at: Cursor) {
        let seen = record.seen.of(&self.site);
        let mut findings = Findings::default();
        let mut effects = std::mem::take(&mut self.effects);
        let mut scanner = std::mem::take(&mut self.scanner);
        let scanned = scanner.for_each_in(&record.commands, record.db, |command, db| {
            effects.clear();
            effects.add(&self.catalog, command, db, |_, _| true);
            for whole in effects.wholes.drain(..) {
                self.carry(whole, at);
                self.overrun(site, whole, record, at);
            }
            self.look(site, record, &effects.touches, &mut findings);
            self.judge_command(site, command, (db, seen), &mut findings);
            if !findings.met.is_empty() {
                self.tell(site, command, (db, record.hlc), &mut findings);
            }
            // Keys that the next command of this record makes of these are wrong too.
            if !findings.wrong.is_empty() {
                let since = Some(record.hlc);
                let wrong = std::mem::take(&mut findings.wrong);
                self.wish(site, wrong, (seen, since), at);
            }
        });
        debug_assert!(scanned.is_ok(), "the applier has read it");
        (self.effects, self.scanner) = (effects, scanner);
        if !findings.doubtful.is_empty() {
            self.doubt(site, findings.doubtful, at);
        }
    }

    /// Compares what a command of a peer touches with what of ours its record had not seen.
    fn look(&self, site: &SiteId, record: &Record, touches: &[Touch], findings: &mut Findings) {
        let seen = record.seen.of(&self.site);
        let is_other = |hash| self.origins.get(site).is_some_and(|o| o.is_other(hash));
        (findings.doubts, findings.touched) = (false, false);
        findings.hashes.clear();
        for touch in touches {
            findings.touched |= is_other(&touch.key);
            let clash = self.table.clash(*touch, seen);
            findings.doubts |= clash.doubts();
            if clash.is_none() {
                continue;
            }
            if let Some(end) = clash.undone_before(touch.act) {
                self.table
                    .made_between(touch.key, (seen, end), &mut findings.wrong);
            }
            let theirs = Theirs {
                act: touch.act,
                hlc: record.hlc,
                origin: site,
                site: &self.site,
            };
            let met = (clash.kind(touch.act), clash.winner(theirs), clash.latest());
            findings.met.entry(touch.key).or_insert(met);
            if clash.is_wrong_here(theirs) {
                findings.hashes.insert(touch.key);
            }
        }
    }

    /// Adds the keys that are wrong after a command of a peer, and those that may have lost their time
    /// to live.
    fn judge_command(
        &self,
        site: &SiteId,
        command: &Command<'_>,
        (db, seen): (u32, Cursor),
        findings: &mut Findings,
    ) {
        let Findings {
            wrong,
            doubtful,
            hashes,
            doubts,
            touched,
            ..
        } = findings;
        let is_derived = (*touched || !hashes.is_empty()) && self.catalog.derives(command);
        if is_derived
            && *touched
            && let Some(origin) = self.origins.get(site)
        {
            self.catalog.for_each_key(command, db, |db, name, _| {
                let hash = key_hash(db, name);
                if origin.is_other(&hash) {
                    hashes.insert(hash);
                }
            });
        }
        if hashes.is_empty() {
            if *doubts {
                self.catalog.for_each_key(command, db, |db, name, _| {
                    doubtful.push((db, Bytes::copy_from_slice(name)));
                });
            }
            return;
        }
        self.catalog.for_each_key(command, db, |db, name, act| {
            let is_meant = is_derived || hashes.contains(&key_hash(db, name));
            if is_meant && act != Act::Read && !is_reserved(name) {
                wrong.push((db, Bytes::copy_from_slice(name)));
            }
        });
        // What we have made of a key that is only read by this command is as it was.
        for hash in hashes.drain() {
            self.table.made_of(hash, seen, wrong);
        }
    }

    /// Tells of the conflicts of a command.
    fn tell(
        &mut self,
        site: &SiteId,
        command: &Command<'_>,
        (db, theirs): (u32, Hlc),
        findings: &mut Findings,
    ) {
        let verdicts = &mut self.verdicts;
        self.catalog.for_each_key(command, db, |db, name, _| {
            let Some((kind, winner, ours)) = findings.met.remove(&key_hash(db, name)) else {
                return;
            };
            let conflict = Conflict {
                key: (db, Bytes::copy_from_slice(name)),
                kind,
                winner,
                ours,
                theirs,
                command: Bytes::copy_from_slice(command.arg(0)),
            };
            verdicts.find(site, conflict);
        });
        findings.met.clear();
    }

    /// A record writes whole databases, which may have been written here.
    fn overrun(&mut self, site: &SiteId, whole: Whole, record: &Record, at: Cursor) {
        let seen = record.seen.of(&self.site);
        if self.table.newest() <= seen {
            return;
        }
        let is_later = |ours| (ours, &self.site) > (record.hlc, site);
        if self.table.tears(whole, seen).is_some_and(is_later)
            && let Some(origin) = self.origins.get_mut(site)
        {
            origin.torn = Some(at);
            self.torn.push(site.clone());
            self.verdicts.notes.push(Judgement::Torn(site.clone()));
        }
        self.verdicts.overruns.push(Overrun {
            origin: site.clone(),
            whole,
            seen,
            hlc: record.hlc,
        });
    }

    /// Two databases change places: keys that are wrong here go with them.
    fn carry(&mut self, whole: Whole, at: Cursor) {
        let carried = |(site, origin): (&SiteId, &Origin)| {
            let wrong = origin.wrong.values().map(|wrong| &wrong.key);
            let there = |(db, name): &Key| Some((whole.partner(*db)?, name.clone()));
            let keys: Vec<Key> = wrong.filter_map(there).collect();
            (!keys.is_empty()).then(|| (site.clone(), keys))
        };
        let carried: Vec<_> = self.origins.iter().filter_map(carried).collect();
        for (site, keys) in carried {
            self.wish(&site, keys, (at, None), at);
        }
    }

    /// Asks for the states of keys, and of all that was made of them here since `seen`, wherever they
    /// are since then.
    fn wish(
        &mut self,
        site: &SiteId,
        mut keys: Vec<Key>,
        (seen, since): (Cursor, Option<Hlc>),
        at: Cursor,
    ) {
        let Some(origin) = self.origins.get_mut(site) else {
            return;
        };
        let mut wished = HashSet::new();
        while let Some(key) = keys.pop() {
            let hash = key_hash(key.0, &key.1);
            if !wished.insert(key.clone()) {
                continue;
            }
            let elsewhere = self.table.partners(key.0, seen).into_iter();
            keys.extend(elsewhere.map(|db| (db, key.1.clone())));
            let wrong = Wrong {
                key: key.clone(),
                at,
                since,
            };
            if origin.wrong.insert(hash, wrong).is_none() {
                self.table.made_of(hash, seen, &mut keys);
            }
            let note = Judgement::Wished(site.clone(), key.clone());
            self.verdicts.notes.push(note);
            let (after, need) = (at, Need::Wrong);
            self.wishes.push((site.clone(), key, Wish { after, need }));
        }
    }

    /// Asks for the states of keys that have a time to live at the peer. Not noted: what is lost with
    /// a killed sidecar is a time to live.
    fn doubt(&mut self, site: &SiteId, keys: Vec<Key>, at: Cursor) {
        let (after, need) = (at, Need::Doubts);
        let wish = |key| (site.clone(), key, Wish { after, need });
        self.wishes.extend(keys.into_iter().map(wish));
    }

    /// Hands the wishes over. Only now, when everything up to their places is in the journal, from
    /// where the peer gets it: a peer that was asked behind a place skips what comes from before it.
    pub fn release(&mut self) {
        for (site, key, wish) in self.wishes.drain(..) {
            if let Some(origin) = self.origins.get(&site) {
                origin.docket.wish(key, wish);
            }
        }
        for site in self.torn.drain(..) {
            if let Some(origin) = self.origins.get(&site) {
                origin.docket.set_torn(true);
            }
        }
    }
}

/// Leaves only the keys that a record does not delete itself.
fn without_deletes_of(record: &Record, deleted: &mut HashMap<u128, Key>) {
    let scanned = for_each_in(&record.commands, record.db, |command, db| {
        if command.is(b"DEL") || command.is(b"UNLINK") {
            for key in command.args(1) {
                deleted.remove(&key_hash(db, key));
            }
        }
    });
    debug_assert!(scanned.is_ok(), "the applier has read it");
}

#[cfg(test)]
mod tests;

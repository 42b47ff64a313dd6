//! Judging a peer's records when their echo is read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use super::clash::Theirs;
use super::docket::{Docket, Filed, Wish};
use super::recent::{Recent, Write};
use super::table::Table;
use crate::command::{Act, Catalog, Command, Effects, Touch, Whole, for_each_in, key_hash};
use crate::model::{
    BatchReader, Cursor, Entry, Epoch, Hlc, InstanceId, Judgement, Key, Mark, Need, Record, Seen,
    SiteId, is_reserved,
};

/// What becomes of the records that were judged.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// For the journal.
    pub notes: Vec<Judgement>,
    /// Writes of whole databases that met writes of ours.
    pub overruns: Vec<Overrun>,
}

/// A write of whole databases that had not seen writes of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Whose it is.
    pub origin: SiteId,
    /// What it was.
    pub whole: Whole,
    /// What it had seen of our history.
    pub seen: Cursor,
    /// When it was done.
    pub hlc: Hlc,
}

impl Overrun {
    /// Whether a write of ours, of this site, that it had not seen is now in the wrong order with it.
    #[must_use]
    pub fn is_wrong(&self, site: &SiteId, hlc: Hlc) -> bool {
        match self.whole {
            // It comes before every other write.
            Whole::Flush(_) | Whole::Unknown => true,
            Whole::Swap(..) => (hlc, site) > (self.hlc, &self.origin),
        }
    }
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
    verdicts: Verdicts,
    /// Of the command that is being looked at.
    effects: Effects,
}

/// What is known of a peer's records.
#[derive(Debug)]
struct Origin {
    docket: Docket,
    /// Its records have come back up to here.
    echoed: Cursor,
    /// And are judged up to here.
    judged: Cursor,
    /// What the last of these had seen of our history.
    seen: Cursor,
    /// The frame that is being judged.
    reading: Option<(Epoch, Peekable<BatchReader>)>,
    /// Keys that were deleted in what came back and is not judged.
    deleted: HashMap<u128, Key>,
    /// Keys whose value here is wrong, from the wish until our stream shows the right one; each with
    /// the place of the wish.
    wrong: HashMap<u128, (Key, Cursor)>,
}

impl Origin {
    /// Whether what is made here of this key is perhaps not what the peer has made of it.
    fn is_other(&self, hash: &u128) -> bool {
        self.wrong.contains_key(hash) || self.deleted.contains_key(hash)
    }

    /// Whether records are applied, or about to be, that are not judged.
    fn waits(&self) -> bool {
        self.reading.is_some() || !self.docket.is_empty()
    }

    /// The next record that has come back and is not judged.
    fn next(&mut self) -> Option<(Record, Cursor)> {
        loop {
            let Some((epoch, records)) = &mut self.reading else {
                match self.docket.take_first()? {
                    Filed::Nothing(upto) => self.judged = self.judged.max(upto),
                    Filed::Records { epoch, start, body } => {
                        let records = BatchReader::new(start, body).peekable();
                        self.reading = Some((epoch, records));
                    }
                }
                continue;
            };
            let epoch = *epoch;
            let place = |offset| Cursor { epoch, offset };
            let is_due = |entry: &Result<Entry, _>| match entry {
                Ok(Entry::Record(record)) => place(record.offset) <= self.echoed,
                _ => true,
            };
            match records.next_if(is_due) {
                Some(Ok(Entry::Record(record))) => {
                    let place = place(record.offset);
                    if place > self.judged {
                        return Some((record, place));
                    }
                }
                // What cannot be read the applier has refused.
                Some(_) => {}
                None if records.peek().is_some() => return None,
                None => self.reading = None,
            }
        }
    }
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
            verdicts: Verdicts::default(),
            effects: Effects::default(),
        }
    }

    /// After a restart: what had come back, what of that was judged, and which wishes were open.
    pub fn resume(
        &mut self,
        (seen, judged): (&Seen, &Seen),
        wishes: impl IntoIterator<Item = (SiteId, Key)>,
        at: Cursor,
    ) {
        for (site, origin) in &mut self.origins {
            (origin.echoed, origin.judged) = (seen.of(site), judged.of(site));
        }
        self.judged = Arc::new(judged.clone());
        for (origin, key) in wishes {
            if let Some(origin) = self.origins.get_mut(&origin) {
                let (after, need) = (at, Need::Wrong);
                origin.docket.wish(key.clone(), Wish { after, need });
                origin.wrong.insert(key_hash(key.0, &key.1), (key, at));
            }
        }
    }

    /// Up to where each origin's records are judged.
    #[must_use]
    pub const fn judged(&self) -> &Arc<Seen> {
        &self.judged
    }

    /// Up to where the journal may be trimmed: what comes then is needed after a restart.
    #[must_use]
    pub fn oldest_wish(&self) -> Option<Cursor> {
        let wrong = self.origins.values().flat_map(|o| o.wrong.values());
        wrong.map(|(_, at)| *at).min()
    }

    /// We have written: a record, the next of our stream. Its effects are taken.
    pub fn on_own(&mut self, effects: &mut Effects, at: Cursor, hlc: Hlc) {
        let write = |touch| Write { touch, at, hlc };
        self.written.extend(effects.touches.drain(..).map(write));
        for whole in effects.wholes.drain(..) {
            self.recent.note_whole(&self.table, whole, at, hlc);
        }
        for made in effects.made.drain(..) {
            self.recent
                .note_made(&self.table, &made.from, &made.keys, at);
            let is_wrong = |origin: &Origin| made.from.iter().any(|h| origin.wrong.contains_key(h));
            let of = self.origins.iter().filter(|(_, o)| is_wrong(o));
            let of: Vec<SiteId> = of.map(|(site, _)| site.clone()).collect();
            for site in of {
                self.wish(&site, made.keys.to_vec(), Cursor::ZERO, at);
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
        self.recent.note(&self.table, self.written.drain(..));
        if mark.instance == life {
            for key in known.docket.take_paid(life, mark.batch) {
                let hash = key_hash(key.0, &key.1);
                known.wrong.remove(&hash);
                known.deleted.remove(&hash);
                self.verdicts
                    .notes
                    .push(Judgement::Paid(origin.clone(), key));
            }
        }
        self.catch_up(origin, at);
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
            self.wish(&site, keys, Cursor::ZERO, at);
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
        self.wish(&overrun.origin, keys, overrun.seen, at);
    }

    /// Judges what has been filed and has come back.
    fn catch_up(&mut self, site: &SiteId, at: Cursor) {
        while let Some((record, place)) = self.origins.get_mut(site).and_then(Origin::next) {
            if !self.has_seen_all(site, &record) {
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
            self.wish(site, expired, Cursor::ZERO, at);
        }
    }

    /// Notes how far each origin's records are judged, and settled: from there the peer sends them
    /// once more after a crash.
    fn note_judged(&mut self) {
        for (site, origin) in &self.origins {
            let judged = origin.docket.settled(origin.judged);
            if judged > self.judged.of(site) {
                Arc::make_mut(&mut self.judged).advance(site, judged);
                let note = Judgement::Judged(site.clone(), judged);
                self.verdicts.notes.push(note);
            }
        }
    }

    /// Whether nothing that is here can clash with a record, or make what it writes wrong.
    fn has_seen_all(&self, site: &SiteId, record: &Record) -> bool {
        let is_same = |o: &Origin| o.wrong.is_empty() && o.deleted.is_empty();
        self.origins.get(site).is_none_or(is_same)
            && self.table.newest() <= record.seen.of(&self.site)
    }

    fn judge(&mut self, site: &SiteId, record: &Record, at: Cursor) {
        let seen = record.seen.of(&self.site);
        let (mut wrong, mut doubtful) = (Vec::new(), Vec::new());
        let mut effects = std::mem::take(&mut self.effects);
        let scanned = for_each_in(&record.commands, record.db, |command, db| {
            effects.clear();
            effects.add(&self.catalog, command, db, |_, _| true);
            let wholes = effects.wholes.drain(..);
            self.overrun(site, wholes, record);
            self.judge_command(
                site,
                command,
                db,
                record,
                &effects.touches,
                (&mut wrong, &mut doubtful),
            );
            // Keys that the next command of this record makes of these are wrong too.
            if !wrong.is_empty() {
                self.wish(site, std::mem::take(&mut wrong), seen, at);
            }
        });
        debug_assert!(scanned.is_ok(), "the applier has read it");
        self.effects = effects;
        if !doubtful.is_empty() {
            self.doubt(site, doubtful, at);
        }
    }

    /// Adds the keys that are wrong after a command of a peer, and those that may have lost their time
    /// to live.
    fn judge_command(
        &self,
        site: &SiteId,
        command: &Command<'_>,
        db: u32,
        record: &Record,
        touches: &[Touch],
        (wrong, doubtful): (&mut Vec<Key>, &mut Vec<Key>),
    ) {
        let seen = record.seen.of(&self.site);
        let mut doubts = false;
        let is_wrong = |touch: &&Touch| {
            let clash = self.table.clash(**touch, seen);
            doubts |= clash.doubts();
            if let Some(end) = clash.undone_before(touch.act) {
                self.table.made_between(touch.key, (seen, end), wrong);
            }
            !clash.is_none()
                && clash.is_wrong_here(Theirs {
                    act: touch.act,
                    hlc: record.hlc,
                    origin: site,
                    site: &self.site,
                })
        };
        let mut hashes: HashSet<u128> = touches.iter().filter(is_wrong).map(|t| t.key).collect();
        let is_derived = self.catalog.derives(command);
        if is_derived && let Some(origin) = self.origins.get(site) {
            let known = touches.iter().map(|t| t.key);
            hashes.extend(known.filter(|hash| origin.is_other(hash)));
        }
        if hashes.is_empty() && doubts {
            self.catalog.for_each_key(command, db, |db, name, _| {
                doubtful.push((db, Bytes::copy_from_slice(name)));
            });
        }
        if hashes.is_empty() {
            return;
        }
        self.catalog.for_each_key(command, db, |db, name, act| {
            let is_meant = is_derived || hashes.contains(&key_hash(db, name));
            if is_meant && act != Act::Read && !is_reserved(name) {
                let name = Bytes::copy_from_slice(name);
                let partners = self.table.partners(db, seen);
                wrong.extend(partners.into_iter().map(|db| (db, name.clone())));
                wrong.push((db, name));
            }
        });
        // What we have made of a key that is only read by this command is as it was.
        for hash in hashes {
            self.table.made_of(hash, seen, wrong);
        }
    }

    /// A record writes whole databases, which may have been written here.
    fn overrun(&mut self, site: &SiteId, wholes: impl Iterator<Item = Whole>, record: &Record) {
        let seen = record.seen.of(&self.site);
        if self.table.newest() <= seen {
            return;
        }
        self.verdicts.overruns.extend(wholes.map(|whole| Overrun {
            origin: site.clone(),
            whole,
            seen,
            hlc: record.hlc,
        }));
    }

    /// Asks for the states of keys, and of all that was made of them here since `seen`.
    fn wish(&mut self, site: &SiteId, mut keys: Vec<Key>, seen: Cursor, at: Cursor) {
        let Some(origin) = self.origins.get_mut(site) else {
            return;
        };
        let mut wished = HashSet::new();
        while let Some(key) = keys.pop() {
            let hash = key_hash(key.0, &key.1);
            if !wished.insert(key.clone()) {
                continue;
            }
            if origin.wrong.insert(hash, (key.clone(), at)).is_none() {
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

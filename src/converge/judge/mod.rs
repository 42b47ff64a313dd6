//! Judging a peer's records when their echo is read.

mod evicted;
mod asking;
mod origin;
mod record;
mod third;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use self::asking::When;
use self::origin::{Deleted, Frame, Origin, Wrong};
use self::third::Third;
pub use self::verdicts::{Overrun, Verdicts};
use super::claims::Claims;
use super::docket::{Docket, Wish};
use super::evicted::Evicted;
use super::foreign::Foreign;
use super::recent::Write;
use super::table::Table;
use crate::command::scanner::Scanner;
use crate::command::{Catalog, Effects, key_hash};
use crate::model::{
    Conflict, ConflictKind, Cursor, Epoch, Hlc, InstanceId, Judgement, Key, Mark, Need, Record,
    RecordRef, Seen, SiteId, Winner,
};

/// Owned by the intake, which tells it everything in the order of the stream.
#[derive(Debug)]
pub struct Judge {
    site: SiteId,
    table: Arc<Table>,
    foreign: Arc<Foreign>,
    claims: Arc<Claims>,
    catalog: Catalog,
    /// Our own writes that are not in the table yet.
    written: Vec<Write>,
    origins: BTreeMap<SiteId, Origin>,
    judged: Arc<Seen>,
    /// The last records of each origin that have come back.
    causes: Arc<Seen>,
    /// Not handed over yet.
    wishes: Vec<(SiteId, Key, Wish)>,
    /// The same of peers with which this site is to be merged.
    torn: Vec<SiteId>,
    /// Keys of which peers must hear that what they got is not right: not handed over yet.
    stale: Vec<(SiteId, Key)>,
    /// The places of those that have not been heard.
    unheard: HashMap<(SiteId, Key), Cursor>,
    verdicts: Verdicts,
    /// Whether peers are not asked for something because the arbiter is.
    rests: bool,
    evicted: Evicted,
    /// Of the command that is being looked at.
    effects: Effects,
    scanner: Scanner,
}

impl Judge {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(
        site: SiteId,
        (table, foreign): (Arc<Table>, Arc<Foreign>),
        catalog: Catalog,
        (dockets, claims): (&BTreeMap<SiteId, Docket>, Arc<Claims>),
    ) -> Self {
        let origin = |(origin, docket): (&SiteId, &Docket)| {
            let known = Origin {
                docket: docket.clone(),
                echoed: Cursor::ZERO,
                judged: Cursor::ZERO,
                seen: Arc::default(),
                reading: None,
                deleted: HashMap::new(),
                wrong: HashMap::new(),
                torn: None,
                marked: None,
                third: Third::default(),
            };
            (origin.clone(), known)
        };
        Self {
            site,
            table,
            foreign,
            claims,
            catalog,
            written: Vec::new(),
            origins: dockets.iter().map(origin).collect(),
            judged: Arc::default(),
            causes: Arc::default(),
            wishes: Vec::new(),
            torn: Vec::new(),
            stale: Vec::new(),
            unheard: HashMap::new(),
            verdicts: Verdicts::default(),
            rests: false,
            evicted: Evicted::default(),
            effects: Effects::default(),
            scanner: Scanner::default(),
        }
    }

    /// After a restart: a record of a peer had come back, and ends there in the peer's history.
    pub fn on_foreign(&mut self, site: &SiteId, place: Cursor, record: &Record, at: Cursor) {
        if let (Some(origin), Some(table)) = (self.origins.get_mut(site), self.foreign.of(site)) {
            let (catalog, effects) = (&self.catalog, &mut self.effects);
            origin
                .third
                .note(table, catalog, effects, (record, place), at);
        }
    }

    /// After a restart: what had come back, what of that was judged, and which wishes were open.
    pub fn resume(
        &mut self,
        (seen, judged): (&Seen, &Seen),
        (wishes, stale, torn): (
            impl IntoIterator<Item = (SiteId, Key)>,
            impl IntoIterator<Item = (SiteId, Key)>,
            &BTreeSet<SiteId>,
        ),
        at: Cursor,
    ) {
        for (site, origin) in &mut self.origins {
            (origin.echoed, origin.judged) = (seen.of(site), judged.of(site));
            origin.torn = torn.contains(site).then_some(at);
            origin.docket.set_torn(origin.torn.is_some());
            // The others are in the journal.
            if let Some(table) = self
                .foreign
                .of(site)
                .filter(|_| origin.judged < origin.echoed)
            {
                origin.third.wait(table, origin.echoed);
            }
        }
        self.judged = Arc::new(judged.clone());
        // Which of those that are not judged was the last is not known; but what we write has seen them.
        self.causes = Arc::new(seen.clone());
        for (site, key) in stale {
            self.claims.add_stale(&site, key.clone());
            self.unheard.insert((site, key), at);
        }
        for (site, key) in wishes {
            if let Some(origin) = self.origins.get_mut(&site) {
                let (after, need) = (at, Need::Wrong);
                origin.docket.wish(key.clone(), Wish { after, need });
                let (hash, since, asked) = (key_hash(key.0, &key.1), None, true);
                let wrong = Wrong {
                    key,
                    at,
                    since,
                    asked,
                    made_since: None,
                };
                origin.wrong.insert(hash, wrong);
            }
        }
    }

    /// Up to where each origin's records are judged.
    #[must_use]
    pub const fn judged(&self) -> &Arc<Seen> {
        &self.judged
    }

    /// The last records of each origin that have come back; none where there are no third sites.
    #[must_use]
    pub fn causes(&self) -> Option<&Arc<Seen>> {
        (!self.foreign.is_empty()).then_some(&self.causes)
    }

    /// Whoever waits for this is woken when there is something to note.
    #[must_use]
    pub fn news(&self) -> Arc<Notify> {
        let mut origins = self.origins.values();
        origins
            .next()
            .map_or_else(Arc::default, |o| o.docket.news())
    }

    /// Whether something is settled, or will be, that is not noted.
    #[must_use]
    pub fn has_to_note(&self) -> bool {
        self.origins.values().any(|origin| origin.docket.waits())
    }

    /// Whether records are being applied.
    #[must_use]
    pub fn is_applying(&self) -> bool {
        let mut origins = self.origins.values();
        origins.any(|origin| !origin.docket.is_settled())
    }

    /// Up to where the journal may be trimmed: what comes then is needed after a restart.
    #[must_use]
    pub fn oldest_wish(&self) -> Option<Cursor> {
        let wrong = self.origins.values().flat_map(|o| o.wrong.values());
        let torn = self.origins.values().filter_map(|origin| origin.torn);
        let places = wrong.map(|wrong| wrong.at).chain(torn);
        let places = places.chain(self.unheard.values().copied());
        let third = self.origins.values().filter_map(|o| o.third.oldest());
        places.chain(third).min()
    }

    /// We have written: a record, the next of our stream. Its effects are taken.
    pub fn on_own(&mut self, effects: &mut Effects, at: Cursor, hlc: Hlc) {
        let write = |touch| Write { touch, at, hlc };
        self.written.extend(effects.touches.drain(..).map(write));
        for whole in effects.wholes.drain(..) {
            self.table.note_whole(whole, at, hlc);
            self.carry(whole, at);
        }
        for made in effects.made.drain(..) {
            self.table.note_made(&made, at);
            let is_wrong = |origin: &Origin| made.from.iter().any(|h| origin.wrong.contains_key(h));
            let of = self.origins.iter().filter(|(_, o)| is_wrong(o));
            let of: Vec<SiteId> = of.map(|(site, _)| site.clone()).collect();
            for site in of {
                self.wish(
                    &site,
                    made.keys.to_vec(),
                    (&Seen::default(), Some(hlc)),
                    self.when(&site),
                    at,
                );
            }
        }
    }

    /// Enters our own writes into the table: before anybody hears of them, and before the judgement
    /// of what comes behind them. Many at once, for it costs a lock.
    pub fn note(&mut self) {
        if !self.written.is_empty() {
            self.table.note(self.written.drain(..));
        }
    }

    /// Every peer has seen our history up to `own`, and every other that of a third one up to what
    /// `third` says; each has said so behind its records. Those of them that are not judged yet had
    /// perhaps seen less: but not less than the last that is. Up to where all of ours is forgotten.
    ///
    /// Nothing is forgotten before it is found out what was made here of keys that a peer, or the applier,
    /// has said to be wrong. A peer says so before it says that it has seen what we made of them.
    pub fn forget(&mut self, own: Cursor, third: impl Fn(&SiteId) -> Cursor) -> Cursor {
        if self.origins.values().any(|o| o.docket.has_unheard()) {
            return Cursor::ZERO;
        }
        let own = self.seen_by_waiting(&self.site, own);
        self.table.forget(own);
        if !self.foreign.is_empty() {
            let bound = |site: &SiteId| self.seen_by_waiting(site, third(site));
            let bounds: Vec<Cursor> = self.origins.keys().map(bound).collect();
            for ((site, origin), upto) in self.origins.iter_mut().zip(bounds) {
                if let Some(table) = self.foreign.of(site) {
                    origin.third.forget(table, upto);
                }
            }
        }
        own
    }

    /// What of a site's history all records of others have seen that are not judged, up to `upto`.
    fn seen_by_waiting(&self, of: &SiteId, upto: Cursor) -> Cursor {
        let waiting = self.origins.iter();
        let waiting = waiting.filter(|(site, origin)| *site != of && origin.waits());
        let seen = waiting.map(|(_, origin)| origin.seen.of(of));
        seen.fold(upto, Cursor::min)
    }

    /// Anything may have been written up to here.
    pub fn note_everything(&mut self, at: Cursor) {
        self.table.note_everything(at);
    }

    /// Of what peers have written, this much is in no journal: what is read of it then begins later.
    pub fn note_foreign(&mut self, seen: &Seen) {
        for (site, origin) in &mut self.origins {
            if let Some(table) = self.foreign.of(site) {
                origin.third.skip(table, seen.of(site));
            }
        }
    }

    /// A new history begins, with data that holds this much of each origin's.
    pub fn begin(&mut self, seen: &Seen) {
        for (site, origin) in &mut self.origins {
            (origin.echoed, origin.judged) = (seen.of(site), seen.of(site));
            if let Some(table) = self.foreign.of(site) {
                origin.third.skip(table, origin.echoed);
            }
        }
        self.judged = Arc::new(seen.clone());
        self.causes = Arc::clone(&self.judged);
    }

    /// A mark of an origin has come back at `now_ms`, and what stands behind it.
    pub fn on_echo(
        &mut self,
        origin: &SiteId,
        mark: &Mark,
        deleted: Vec<Key>,
        (life, now_ms): (InstanceId, u64),
        at: Cursor,
    ) {
        let Some(known) = self.origins.get_mut(origin) else {
            return;
        };
        // Without records it is a state, and what is deleted is its own affair.
        if mark.at > known.echoed {
            let deleted = deleted.into_iter();
            known.deleted.extend(deleted.map(|key| {
                let hash = key_hash(key.0, &key.1);
                (hash, Deleted::new(key, now_ms))
            }));
        }
        known.echoed = known.echoed.max(mark.at);
        if matches!(mark.base, Epoch::LOST | Epoch::UNDONE) && known.torn.take().is_some() {
            let note = Judgement::Merging(origin.clone());
            self.verdicts.notes.push(note);
        }
        self.table.note(self.written.drain(..));
        if mark.instance == life {
            known.marked = Some((life, mark.batch, at));
            self.on_paid(origin, at);
        } else if let Some(table) = self.foreign.of(origin) {
            // What it was comes only when the session begins; but what we write now has seen it.
            known.third.wait(table, known.echoed);
            Arc::make_mut(&mut self.causes).advance(origin, known.echoed);
        }
        self.catch_up(origin, at);
    }

    /// What has been seen by now, where our stream has come up to `at`.
    pub(super) fn now(&self, at: Cursor) -> Seen {
        let mut seen = Seen::default();
        seen.advance(&self.site, at);
        for (site, origin) in &self.origins {
            seen.advance(site, origin.echoed);
        }
        seen
    }

    /// We have written these keys, and the data of our Redis does not hold it any more: the peers have
    /// it, or get it from the journal.
    pub fn on_lost(&mut self, keys: &[Key], at: Cursor) {
        let sites: Vec<SiteId> = self.origins.keys().cloned().collect();
        for site in sites {
            let known = self.wishes.len();
            self.wish(
                &site,
                keys.to_vec(),
                (&Seen::default(), None),
                When::Now,
                at,
            );
            let new = self.wishes.iter_mut().skip(known);
            new.for_each(|(_, _, wish)| wish.need = Need::Lacks);
        }
    }

    /// Judges what was filed after its echo had been read: after a restart. And drops what was judged
    /// before, and came once more.
    pub fn on_late(&mut self, at: Cursor) {
        let is_late = |o: &Origin| o.judged < o.echoed || o.reading.is_none();
        let late = self.origins.iter();
        let late = late.filter(|(_, o)| !o.docket.is_empty() && is_late(o));
        let late: Vec<SiteId> = late.map(|(site, _)| site.clone()).collect();
        for site in late {
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
        let (site, when) = (&overrun.origin, self.when(&overrun.origin));
        self.wish(site, keys, (&overrun.seen, since), when, at);
    }

    /// What all writes of whole databases that were handed over have made wrong is known: judges what follows
    /// them, up to the next.
    pub fn go_on(&mut self, at: Cursor) {
        let sites: Vec<SiteId> = self.origins.keys().cloned().collect();
        for site in sites {
            self.catch_up(&site, at);
        }
    }

    /// Judges what has been filed and has come back. Not behind a write of whole databases, until it is
    /// found out what that has made wrong: what follows may make something of it. (With third sites it may not
    /// wait: what comes back of others meanwhile would be taken for earlier. They find what follows in the
    /// tables of [`Foreign`].)
    fn catch_up(&mut self, site: &SiteId, at: Cursor) {
        // What has come back before it is found out, too: the stream is looked at for several of them at once.
        if self.waits_for_overrun() {
            return;
        }
        // Whether a record with these tags had seen all that was written here: most have the same tags as the
        // one before.
        let mut last: Option<(Arc<Seen>, bool)> = None;
        while let Some(frame) = self.origins.get_mut(site).and_then(Origin::take_next)
            && let Some(record) = frame.record()
        {
            let (_, has_seen) = match last.take() {
                Some(known) if Arc::ptr_eq(&known.0, record.seen) => last.insert(known),
                _ => last.insert((Arc::clone(record.seen), self.has_seen_all(site, record))),
            };
            if let Some(origin) = self.origins.get_mut(site) {
                origin.note_moments(record);
            }
            if !*has_seen || self.is_wrong() {
                self.judge(site, record, at);
            }
            self.on_their_commands(site, record.commands, (record.db, at));
            self.on_judged(site, frame, at);
            if self.waits_for_overrun() {
                return;
            }
            if *has_seen
                && self.is_calm()
                && let Some(origin) = self.origins.get_mut(site)
            {
                origin.pass_alike();
            }
        }
        if let (Some(origin), Some(table)) = (self.origins.get_mut(site), self.foreign.of(site)) {
            origin.third.known(table, origin.judged);
        }
        // What the peer did to them was done to nothing here, and to something there.
        if let Some(origin) = self.origins.get_mut(site).filter(|o| o.judged >= o.echoed) {
            let deleted = origin.deleted.drain().map(|(_, deleted)| deleted);
            let expired = deleted.filter(|d| !d.by_peer).map(|d| d.key).collect();
            self.wish(site, expired, (&Seen::default(), None), When::Now, at);
        }
    }

    /// Whether what a write of whole databases has made wrong is not found out yet.
    fn waits_for_overrun(&self) -> bool {
        self.foreign.is_empty() && !self.verdicts.overruns.is_empty()
    }

    /// The record at which a frame is, is judged.
    fn on_judged(&mut self, site: &SiteId, frame: Box<Frame>, at: Cursor) {
        let (Some(origin), Some(record)) = (self.origins.get_mut(site), frame.record()) else {
            return;
        };
        let place = frame.place();
        origin.judged = place;
        if let Some(table) = self.foreign.of(site)
            && let Some(record) = frame.to_record()
        {
            let (catalog, effects) = (&self.catalog, &mut self.effects);
            origin
                .third
                .note(table, catalog, effects, (&record, place), at);
            Arc::make_mut(&mut self.causes).advance(site, place);
            self.verdicts.foreign.push((site.clone(), place, record));
        }
        origin.note_deletes(record);
        if !Arc::ptr_eq(&origin.seen, record.seen) {
            origin.seen = Arc::clone(record.seen);
        }
        origin.reading = Some(frame);
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

    /// Whether some key is wrong here, so that what is made of it is wrong too.
    fn is_wrong(&self) -> bool {
        let mut origins = self.origins.values();
        origins.any(|origin| !origin.wrong.is_empty() || !origin.deleted.is_empty())
    }

    /// Whether a record that had seen all that is here has nothing more to be looked at.
    fn is_calm(&self) -> bool {
        self.foreign.is_empty() && self.evicted.is_empty() && !self.is_wrong()
    }

    /// Whether a record had seen all that was written here, or at any site but its own.
    fn has_seen_all(&self, site: &SiteId, record: RecordRef<'_>) -> bool {
        self.tables(site)
            .all(|(of, table)| table.newest() <= record.seen.of(of))
    }

    /// What each site but one has written, this one first.
    fn tables(&self, but: &SiteId) -> impl Iterator<Item = (&SiteId, &Table)> {
        let own = std::iter::once((&self.site, &*self.table));
        own.chain(self.foreign.but(but))
    }

    /// Hands the wishes over. Only now, when everything up to their places is in the journal, from
    /// where the peer gets it: a peer that was asked behind a place skips what comes from before it.
    pub fn release(&mut self) {
        for (site, key, wish) in self.wishes.drain(..) {
            if let Some(origin) = self.origins.get(&site) {
                origin.docket.wish(key, wish);
            }
        }
        for (site, key) in self.stale.drain(..) {
            self.claims.add_stale(&site, key);
        }
        for origin in self.origins.values() {
            origin.docket.confirm_heard();
        }
        for site in self.torn.drain(..) {
            if let Some(origin) = self.origins.get(&site) {
                origin.docket.set_torn(true);
            }
        }
    }
}

#[cfg(test)]
mod tests;

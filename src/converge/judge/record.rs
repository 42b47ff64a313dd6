//! One record of a peer against what is here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::{Judge, Overrun, Table};
use crate::command::{Act, Command, Touch, Whole, key_hash};
use crate::converge::clash::{Clash, Theirs};
use crate::model::{
    Conflict, ConflictKind, Cursor, Hlc, Judgement, Key, RecordRef, SiteId, Winner, is_reserved,
};

/// What is found out about the commands of a record.
#[derive(Debug, Default)]
struct Findings {
    /// Of one command: what is to be asked of whom.
    asks: BTreeMap<SiteId, Ask>,
    /// Keys that may have lost their time to live here.
    doubtful: Vec<Key>,
    /// Of one command: the keys that were in conflict, in whichever order.
    met: HashMap<u128, (ConflictKind, Winner, Option<Hlc>)>,
    /// Of one command: whether keys may have lost their time to live.
    doubts: bool,
}

/// What a command makes us ask one site.
#[derive(Debug, Default)]
struct Ask {
    /// Keys that it met in the wrong order.
    hashes: HashSet<u128>,
    /// Keys of which something else was made before it wrote them: that is wrong, and themselves are not.
    sources: HashSet<u128>,
    /// Whether it touches keys whose value is not what it is there.
    touched: bool,
    /// Keys whose value is wrong here.
    wrong: Vec<Key>,
}

impl Findings {
    fn ask(&mut self, site: &SiteId) -> &mut Ask {
        self.asks.entry(site.clone()).or_default()
    }

    /// A command has met a key in the wrong order, for which a site is to be asked.
    fn meet(&mut self, asked: &SiteId, key: u128, clash: &Clash) {
        let ask = self.ask(asked);
        match clash.only_reads() {
            true => ask.sources.insert(key),
            false => ask.hashes.insert(key),
        };
    }
}

impl Judge {
    /// Judges a record that has come back here at `at`.
    pub(super) fn judge(&mut self, site: &SiteId, record: RecordRef<'_>, at: Cursor) {
        let mut findings = Findings::default();
        let mut effects = std::mem::take(&mut self.effects);
        let mut scanner = std::mem::take(&mut self.scanner);
        let overruns = self.verdicts.overruns.len();
        let scanned = scanner.for_each_in(record.commands, record.db, |command, db| {
            if self.verdicts.overruns.len() > overruns && self.catalog.derives(command) {
                self.on_made_behind(site, command, (db, record), at);
            }
            effects.clear();
            effects.add(&self.catalog, command, db, |_, _| true);
            for whole in effects.wholes.drain(..) {
                self.carry(whole, at);
                self.overrun(site, whole, record, at);
            }
            self.look(site, record, &effects.touches, &mut findings);
            // Keys that the next command of this record makes of these are wrong too.
            for (asked, ask) in std::mem::take(&mut findings.asks) {
                let wrong = self.found_wrong(&asked, ask, command, (db, record));
                if !wrong.is_empty() {
                    let since = Some(record.hlc);
                    let when = self.when(&asked);
                    self.wish(&asked, wrong, (record.seen, since), when, at);
                }
            }
            if std::mem::take(&mut findings.doubts) {
                self.catalog.for_each_key(command, db, |db, name, _| {
                    let key = (db, Bytes::copy_from_slice(name));
                    findings.doubtful.push(key);
                });
            }
            if !findings.met.is_empty() {
                self.tell(site, command, (db, record.hlc), &mut findings);
            }
        });
        debug_assert!(scanned.is_ok(), "the applier has read it");
        (self.effects, self.scanner) = (effects, scanner);
        if !findings.doubtful.is_empty() {
            let asked = self.claims.arbiter().unwrap_or(site).clone();
            self.doubt(&asked, findings.doubtful, at);
        }
    }

    /// A command makes something of keys behind a write of whole databases in the same record. Which of those
    /// are wrong here is found out only when all of it is judged: so all that it makes is asked for.
    fn on_made_behind(
        &mut self,
        site: &SiteId,
        command: &Command<'_>,
        (db, record): (u32, RecordRef<'_>),
        at: Cursor,
    ) {
        let mut made = Vec::new();
        self.catalog.for_each_key(command, db, |db, name, act| {
            if act != Act::Read && !is_reserved(name) {
                made.push((db, Bytes::copy_from_slice(name)));
            }
        });
        let since = Some(record.hlc);
        self.wish(site, made, (record.seen, since), self.when(site), at);
    }

    /// Compares what a command of a peer touches with what is here that its record had not seen.
    ///
    /// Where there is an arbiter, and it is a peer, that one is asked about every conflict. The peer itself
    /// is asked where the order here was the wrong one: by two sites, by the arbiter, and by others while the
    /// arbiter is out of reach.
    fn look(
        &self,
        site: &SiteId,
        record: RecordRef<'_>,
        touches: &[Touch],
        findings: &mut Findings,
    ) {
        let arbiter = self.claims.arbiter();
        for touch in touches {
            for (other, origin) in &self.origins {
                // What was deleted in what has come back of a peer is a matter of that peer.
                let is_other = match other == site {
                    true => origin.is_other(&touch.key),
                    false => origin.wrong.contains_key(&touch.key),
                };
                if is_other {
                    findings.ask(other).touched = true;
                }
            }
            let mut clashes = Vec::new();
            for (of, table) in self.tables(site) {
                let clash = table.clash(*touch, record.seen.of(of));
                findings.doubts |= clash.doubts();
                if !clash.is_none() {
                    clashes.push((of, table, clash));
                }
            }
            // A delete that yields to what one site has done yields, whatever others have done.
            let yields = clashes.iter().any(|(_, _, clash)| clash.yields(touch.act));
            for (of, table, clash) in clashes {
                let seen = record.seen.of(of);
                if let Some(arbiter) = arbiter {
                    findings.meet(arbiter, touch.key, &clash);
                }
                let theirs = Theirs {
                    act: touch.act,
                    hlc: record.hlc,
                    origin: site,
                    site: of,
                };
                let undone = clash.undone_before(touch.act);
                if *of == self.site {
                    let met = (clash.kind(touch.act), clash.winner(theirs), clash.latest());
                    findings.met.entry(touch.key).or_insert(met);
                    if let Some(end) = undone {
                        let wrong = &mut findings.ask(site).wrong;
                        table.made_between(touch.key, (seen, end), wrong);
                    }
                } else if clash.yields(touch.act) {
                    // Whether it was spared there only they know; here it was not.
                    findings.ask(of).hashes.insert(touch.key);
                }
                if !yields && clash.is_wrong_here(theirs) {
                    findings.meet(site, touch.key, &clash);
                }
            }
        }
    }

    /// The keys for which a site is to be asked after a command of a peer.
    fn found_wrong(
        &self,
        asked: &SiteId,
        ask: Ask,
        command: &Command<'_>,
        (db, record): (u32, RecordRef<'_>),
    ) -> Vec<Key> {
        let Ask {
            mut hashes,
            sources,
            touched,
            mut wrong,
        } = ask;
        let is_derived = (touched || !hashes.is_empty()) && self.catalog.derives(command);
        if is_derived
            && touched
            && let Some(origin) = self.origins.get(asked)
        {
            self.catalog.for_each_key(command, db, |db, name, _| {
                let hash = key_hash(db, name);
                if origin.is_other(&hash) {
                    hashes.insert(hash);
                }
            });
        }
        for hash in sources {
            for (of, table) in self.tables(asked) {
                table.made_of(hash, record.seen.of(of), &mut wrong);
            }
        }
        if hashes.is_empty() {
            return wrong;
        }
        let mut written = HashSet::new();
        self.catalog.for_each_key(command, db, |db, name, act| {
            let hash = key_hash(db, name);
            let is_meant = is_derived || hashes.contains(&hash);
            if is_meant && act != Act::Read && !is_reserved(name) {
                written.insert(hash);
                wrong.push((db, Bytes::copy_from_slice(name)));
            }
        });
        // What was made here of a key that is only read by this command is as it was.
        for hash in hashes.intersection(&written).copied() {
            for (of, table) in self.tables(asked) {
                table.made_of(hash, record.seen.of(of), &mut wrong);
            }
        }
        wrong
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
    fn overrun(&mut self, site: &SiteId, whole: Whole, record: RecordRef<'_>, at: Cursor) {
        let has_seen = |(of, table): (&SiteId, &Table)| table.newest() <= record.seen.of(of);
        if self.tables(site).all(has_seen) {
            return;
        }
        let tears = |(of, table): (&SiteId, &Table)| {
            let ours = table.tears(whole, record.seen.of(of));
            let is_wrong =
                |ours| (ours, of) > (record.hlc, site) || self.claims.arbiter().is_some();
            ours.is_some_and(is_wrong)
        };
        let arbiter = self.claims.arbiter().cloned();
        let with = arbiter.as_ref().unwrap_or(site);
        let (mut torn, mut third) = (BTreeSet::new(), Vec::new());
        if self.tables(site).any(tears) {
            torn.insert(with.clone());
        }
        for (of, table) in self.foreign.but(site) {
            let Some(origin) = self.origins.get(of) else {
                continue;
            };
            match origin.third.since(table, record.seen.of(of)) {
                Some(records) => third.extend(records.map(|r| (of.clone(), r.clone()))),
                // Which keys it has removed or carried here nobody knows. What a copy had brought of them, the
                // arbiter gets of who has sent it.
                None => {
                    torn.insert(with.clone());
                    torn.extend(arbiter.is_none().then(|| of.clone()));
                }
            }
        }
        for with in torn {
            if let Some(origin) = self.origins.get_mut(&with) {
                origin.torn = Some(at);
                self.verdicts.notes.push(Judgement::Torn(with.clone()));
                self.torn.push(with);
            }
        }
        self.verdicts.overruns.push(Overrun {
            origin: site.clone(),
            whole,
            seen: Arc::clone(record.seen),
            hlc: record.hlc,
            third,
            any_order: arbiter.is_some(),
        });
    }
}

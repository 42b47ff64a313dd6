//! Keys whose value here is wrong: who is asked for them, and who must hear that they are right now.

use std::collections::{BTreeSet, HashSet};

use super::Judge;
use super::origin::{Origin, Wrong};
use crate::command::{Whole, key_hash};
use crate::converge::docket::Wish;
use crate::model::{Cursor, Hlc, Judgement, Key, Need, Seen, SiteId};

impl Judge {
    /// Takes note of keys of which something is not here, because a command failed: what is made of
    /// them is not what the peer makes of them. And of keys of which a peer says that what it sent was
    /// not right.
    pub fn on_owed(&mut self, at: Cursor) {
        self.ask_deputy(at);
        for (site, origin) in &self.origins {
            let told = origin.docket.take_told().into_iter();
            let told = told.map(|key| (site.clone(), key));
            for (site, key) in told {
                self.unheard.remove(&(site.clone(), key.clone()));
                self.verdicts.notes.push(Judgement::Told(site, key));
            }
        }
        let outdated = self.origins.values().flat_map(|o| o.docket.take_outdated());
        let outdated = outdated.collect();
        self.note_stale(outdated, at);
        let stale = self.origins.iter();
        let stale = stale.map(|(site, origin)| (site.clone(), origin.docket.take_stale()));
        let stale: Vec<_> = stale.filter(|(_, keys)| !keys.is_empty()).collect();
        for (site, keys) in stale {
            self.wish(&site, keys, (&Seen::default(), None), at);
        }
        let owed = |(site, origin): (&SiteId, &Origin)| {
            let mut owed = origin.docket.take_owed();
            owed.retain(|(db, name)| !origin.wrong.contains_key(&key_hash(*db, name)));
            (!owed.is_empty()).then(|| (site.clone(), owed))
        };
        let owed: Vec<_> = self.origins.iter().filter_map(owed).collect();
        for (site, keys) in owed {
            self.wish(&site, keys, (&Seen::default(), None), at);
        }
    }

    /// These sites must hear that what they have of these keys is not right.
    pub(super) fn note_stale(&mut self, stale: Vec<(SiteId, Key)>, at: Cursor) {
        for (site, key) in stale {
            let note = Judgement::Stale(site.clone(), key.clone());
            self.verdicts.notes.push(note);
            self.unheard.insert((site.clone(), key.clone()), at);
            self.stale.push((site, key));
        }
    }

    /// Whether a peer is asked for keys that its record has met in the wrong order: by two sites, and by
    /// the arbiter or who stands in for it.
    pub(super) fn asks_peers(&self) -> bool {
        self.claims.arbiter().is_none() || self.claims.deputy().as_ref() == Some(&self.site)
    }

    /// Who is asked for keys in conflict, in whatever order: the arbiter, and who stands in for it.
    pub(super) fn judges(&self) -> Vec<SiteId> {
        let deputy = self.claims.deputy().filter(|deputy| *deputy != self.site);
        self.claims
            .arbiter()
            .cloned()
            .into_iter()
            .chain(deputy)
            .collect()
    }

    /// Who is asked for keys that are wrong here after a record of a peer.
    pub(super) fn asked(&self, site: &SiteId) -> BTreeSet<SiteId> {
        let mut asked: BTreeSet<SiteId> = self.judges().into_iter().collect();
        if self.asks_peers() {
            asked.insert(site.clone());
        }
        asked
    }

    /// Asks who stands in for the arbiter, since when it does, for what the arbiter was asked for.
    pub(super) fn ask_deputy(&mut self, at: Cursor) {
        let deputy = self.claims.deputy().filter(|deputy| *deputy != self.site);
        if deputy == self.deputy {
            return;
        }
        self.deputy.clone_from(&deputy);
        let arbiter = self
            .claims
            .arbiter()
            .and_then(|site| self.origins.get(site));
        if let (Some(deputy), Some(arbiter)) = (deputy, arbiter) {
            let wrong = arbiter.wrong.values().map(|wrong| wrong.key.clone());
            let (wrong, now) = (wrong.collect(), self.now(at));
            self.wish(&deputy, wrong, (&now, None), at);
        }
    }

    /// Two databases change places: keys that are wrong here go with them.
    pub(super) fn carry(&mut self, whole: Whole, at: Cursor) {
        let carried = |(site, origin): (&SiteId, &Origin)| {
            let wrong = origin.wrong.values().map(|wrong| &wrong.key);
            let there = |(db, name): &Key| Some((whole.partner(*db)?, name.clone()));
            let keys: Vec<Key> = wrong.filter_map(there).collect();
            (!keys.is_empty()).then(|| (site.clone(), keys))
        };
        let carried: Vec<_> = self.origins.iter().filter_map(carried).collect();
        if carried.is_empty() {
            return;
        }
        let seen = self.now(at);
        for (site, keys) in carried {
            self.wish(&site, keys, (&seen, None), at);
        }
    }

    /// Asks for the states of keys, and of all that was made of them here since `seen`, wherever they
    /// are since then.
    pub(super) fn wish(
        &mut self,
        site: &SiteId,
        mut keys: Vec<Key>,
        (seen, since): (&Seen, Option<Hlc>),
        at: Cursor,
    ) {
        let Some(origin) = self.origins.get_mut(site) else {
            return;
        };
        let own = std::iter::once((&self.site, &*self.table));
        let tables: Vec<_> = own.chain(self.foreign.all()).collect();
        let mut wished = HashSet::new();
        while let Some(key) = keys.pop() {
            let hash = key_hash(key.0, &key.1);
            if !wished.insert(key.clone()) {
                continue;
            }
            for (of, table) in &tables {
                let elsewhere = table.partners(key.0, seen.of(of)).into_iter();
                keys.extend(elsewhere.map(|db| (db, key.1.clone())));
            }
            let wrong = Wrong {
                key: key.clone(),
                at,
                since,
            };
            if origin.wrong.insert(hash, wrong).is_none() {
                for (of, table) in &tables {
                    table.made_of(hash, seen.of(of), &mut keys);
                }
            }
            let note = Judgement::Wished(site.clone(), key.clone());
            self.verdicts.notes.push(note);
            let (after, need) = (at, Need::Wrong);
            self.wishes.push((site.clone(), key, Wish { after, need }));
        }
    }

    /// Asks for the states of keys that have a time to live at the peer. Not noted: what is lost with
    /// a killed sidecar is a time to live.
    pub(super) fn doubt(&mut self, site: &SiteId, keys: Vec<Key>, at: Cursor) {
        let (after, need) = (at, Need::Doubts);
        let wish = |key| (site.clone(), key, Wish { after, need });
        self.wishes.extend(keys.into_iter().map(wish));
    }
}

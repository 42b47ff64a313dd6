//! Keys whose value here is wrong: who is asked for them, and who must hear that they are right now.

use std::collections::HashSet;

use super::Judge;
use super::origin::{Origin, Wrong};
use crate::command::{Whole, key_hash};
use crate::converge::docket::{Settled, Why, Wish};
use crate::model::{Cursor, Hlc, Judgement, Key, Need, Seen, SiteId};

/// When a site is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// At once.
    Now,
    /// Only while the arbiter is out of reach; until then it is noted.
    ArbiterAway,
}

impl Judge {
    /// Takes note of keys of which something is not here, because a command failed: what is made of
    /// them is not what the peer makes of them. And of keys of which a peer says that what it sent was
    /// not right; and of states that had come back before the applier could say that it had taken them.
    pub fn on_owed(&mut self, at: Cursor) {
        self.ask_peers(at);
        let late = self.origins.iter().filter(|(_, o)| o.docket.is_paid());
        let late: Vec<SiteId> = late.map(|(site, _)| site.clone()).collect();
        for site in late {
            self.on_paid(&site, at);
        }
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
            self.wish(&site, keys, (&Seen::default(), None), When::Now, at);
        }
        let owed = |(site, origin): (&SiteId, &Origin)| {
            let mut owed = origin.docket.take_owed();
            owed.retain(|(db, name)| !origin.wrong.contains_key(&key_hash(*db, name)));
            (!owed.is_empty()).then(|| (site.clone(), owed))
        };
        let owed: Vec<_> = self.origins.iter().filter_map(owed).collect();
        for (site, keys) in owed {
            self.wish(&site, keys, (&Seen::default(), None), When::Now, at);
        }
    }

    /// The states that were taken in our transactions up to the last that has come back.
    pub(super) fn on_paid(&mut self, origin: &SiteId, at: Cursor) {
        let Some(known) = self.origins.get_mut(origin) else {
            return;
        };
        let Some((life, batch, place)) = known.marked else {
            return;
        };
        let taken = known.docket.take_paid(life, batch);
        if taken.is_empty() {
            return;
        }
        let (mut paid, mut again, mut outdated) = (Vec::new(), Vec::new(), Vec::new());
        let mut copied = Vec::new();
        for settled in taken {
            let Settled {
                key,
                seen,
                upto,
                why,
            } = settled;
            let hash = key_hash(key.0, &key.1);
            if let Why::Asked(stale) = &why {
                let stale = stale.iter().cloned();
                outdated.extend(stale.map(|site| (site, key.clone())));
            }
            // What was done to a key that did not exist WATCH has not noticed: by a third site, and here
            // to the whole database.
            let is_flushed = upto.is_some_and(|upto| self.table.is_written(hash, upto));
            if is_flushed || self.foreign.is_unseen(hash, origin, &seen) {
                again.push(key);
                continue;
            }
            match why {
                Why::Asked(_) => paid.push(key.clone()),
                Why::Copied | Why::Answered => {
                    copied.push((key, why));
                    continue;
                }
                // Third sites may take what was written here before for written on top of what they have.
                Why::Joined if self.table.remembers(hash) => {
                    copied.push((key, Why::Answered));
                    continue;
                }
                Why::Joined => continue,
            }
            // What was found out behind its place is another matter.
            if known
                .wrong
                .get(&hash)
                .is_some_and(|wrong| wrong.at >= place)
            {
                continue;
            }
            let since = known.wrong.remove(&hash).and_then(|wrong| wrong.since);
            let mended = since.map(|since| (origin.clone(), since));
            self.verdicts.mended.extend(mended);
            if place == at {
                known.deleted.remove(&hash);
            }
            let note = Judgement::Paid(origin.clone(), key);
            self.verdicts.notes.push(note);
        }
        self.note_stale(outdated, at);
        let now = self.now(at);
        if !again.is_empty() {
            self.wish(origin, again, (&now, None), When::Now, at);
        }
        self.on_copied(origin, copied, &now, at);
        match self.claims.arbiter().cloned() {
            Some(arbiter) if arbiter == *origin => self.forget_resting(&paid),
            // Who has no last word may have been wrong.
            Some(arbiter) if !paid.is_empty() => {
                self.wish(&arbiter, paid, (&now, None), When::Now, at);
            }
            _ => {}
        }
    }

    /// What a copy has put here third sites have not got: the arbiter is asked what is right, or says so. What it
    /// has itself third sites have, too, unless they were refilled from here: then they lack what only its answer
    /// to a copy has brought, and hear so.
    fn on_copied(&mut self, origin: &SiteId, copied: Vec<(Key, Why)>, now: &Seen, at: Cursor) {
        let arbiter = self.claims.arbiter().cloned();
        let is_its_own = arbiter.as_ref() == Some(origin);
        let keys = copied.into_iter();
        let keys = keys.filter(|(_, why)| !is_its_own || *why == Why::Answered);
        let keys: Vec<Key> = keys.map(|(key, _)| key).collect();
        match arbiter {
            _ if keys.is_empty() => {}
            Some(arbiter) if !is_its_own => {
                keys.iter()
                    .for_each(|key| self.claims.note_given(origin, key));
                self.wish(&arbiter, keys, (now, None), When::Now, at);
            }
            None if !self.claims.is_arbiter() => {}
            _ => self.tell_third(origin, &keys, at),
        }
    }

    /// Third sites must hear that what they have of these keys, which have come from one, is not right.
    fn tell_third(&mut self, origin: &SiteId, keys: &[Key], at: Cursor) {
        let others = self.origins.keys().filter(|site| *site != origin);
        let stale = others.flat_map(|site| keys.iter().map(|key| (site.clone(), key.clone())));
        let stale = stale.collect();
        self.note_stale(stale, at);
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

    /// When a site is asked for keys that a record has met in the wrong order.
    pub(super) fn when(&self, asked: &SiteId) -> When {
        match self.claims.arbiter().is_none_or(|arbiter| arbiter == asked) {
            true => When::Now,
            false => When::ArbiterAway,
        }
    }

    /// Asks for what was not asked for because the arbiter was there, when it is not.
    pub(super) fn ask_peers(&mut self, at: Cursor) {
        let arbiter = self.claims.arbiter();
        if !self.rests || arbiter.is_some_and(|arbiter| self.claims.is_linked(arbiter)) {
            return;
        }
        self.rests = false;
        let (after, need) = (at, Need::Wrong);
        for (site, origin) in &mut self.origins {
            for wrong in origin.wrong.values_mut().filter(|wrong| !wrong.asked) {
                wrong.asked = true;
                let wish = Wish { after, need };
                self.wishes.push((site.clone(), wrong.key.clone(), wish));
            }
        }
    }

    /// The arbiter has said what these keys are: nobody else need be asked.
    pub(super) fn forget_resting(&mut self, keys: &[Key]) {
        for (site, origin) in &mut self.origins {
            for key in keys {
                let hash = key_hash(key.0, &key.1);
                let is_resting = |wrong: &Wrong| !wrong.asked;
                if origin.wrong.get(&hash).is_some_and(is_resting) {
                    origin.wrong.remove(&hash);
                    let note = Judgement::Paid(site.clone(), key.clone());
                    self.verdicts.notes.push(note);
                }
            }
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
            self.wish(&site, keys, (&seen, None), self.when(&site), at);
        }
    }

    /// Asks for the states of keys, and of all that was made of them here since `seen`, wherever they
    /// are since then.
    pub(super) fn wish(
        &mut self,
        site: &SiteId,
        mut keys: Vec<Key>,
        (seen, since): (&Seen, Option<Hlc>),
        when: When,
        at: Cursor,
    ) {
        let arbiter = self.claims.arbiter();
        let is_linked = arbiter.is_some_and(|arbiter| self.claims.is_linked(arbiter));
        let may_rest = when == When::ArbiterAway && is_linked;
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
            let known = origin.wrong.remove(&hash);
            let asked = !may_rest || known.as_ref().is_some_and(|wrong| wrong.asked);
            // What is made of a key that is wrong is asked for as it is made; what was made before that, once.
            let made_since = known.and_then(|wrong| wrong.made_since);
            for (of, table) in &tables {
                let seen = seen.of(of);
                if made_since.as_ref().is_none_or(|known| seen < known.of(of)) {
                    table.made_of(hash, seen, &mut keys);
                }
            }
            let made_since = made_since.map_or_else(|| seen.clone(), |known| known.common(seen));
            let wrong = Wrong {
                key: key.clone(),
                at,
                since,
                asked,
                made_since: Some(made_since),
            };
            origin.wrong.insert(hash, wrong);
            let note = Judgement::Wished(site.clone(), key.clone());
            self.verdicts.notes.push(note);
            self.rests |= !asked;
            if asked {
                let (after, need) = (at, Need::Wrong);
                self.wishes.push((site.clone(), key, Wish { after, need }));
            }
        }
        // The arbiter has the last word about all that others are asked for.
        let arbiter = arbiter.filter(|arbiter| *arbiter != site && when == When::ArbiterAway);
        if let Some(arbiter) = arbiter.cloned() {
            let keys = wished.into_iter().collect();
            self.wish(&arbiter, keys, (seen, since), When::Now, at);
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

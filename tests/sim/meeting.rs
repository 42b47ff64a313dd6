//! How a session begins: what each says of itself, and what both make of that.

use tandem::config::Initial;
use tandem::converge::Filed;
use tandem::link::{Flow, Hello, Plan, back_keeps};
use tandem::model::{Cursor, Epoch, Mark, Offset, Owes, SiteId};

use crate::copier::Copier;
use crate::link::Outgoing;
use crate::site::{START, Site, place};

impl Site {
    /// Opens the connection to the Redis, before a session.
    pub(crate) fn open(&mut self, number: usize, now: u64) {
        // A fence comes back: all that was written before has been read.
        while self.read(usize::MAX, now, crate::intake::Kill::No) {}
        self.see(number, now);
        let read = self.sidecar.progress.read;
        let peer = self.sidecar.peers.get_mut(&number).unwrap();
        peer.debts.forget_asked();
        let seen = self.sidecar.progress.seen.of(&peer.name);
        let found = self.redis.marks.get(&peer.name).cloned();
        let remembered = peer.applying.take_mark().filter(|mark| mark.at <= seen);
        let journaled = || self.sidecar.progress.marks.get(&peer.name).cloned();
        let mark = found.or(remembered).or_else(journaled);
        if let Some(mark) = mark {
            let at = mark.at.max(seen);
            peer.applying.set_mark(Mark { at, ..mark });
        }
        let kept = self.redis.owed.get(&peer.name).cloned();
        let kept = kept.unwrap_or_default();
        peer.docket.owed(kept.keys().cloned());
        peer.debts.begin(kept, read);
        if peer
            .applying
            .known_mark()
            .is_some_and(|mark| mark.copy.is_some())
        {
            self.note_part(number);
        }
    }

    /// A mark that was written while nobody read is written again.
    fn see(&mut self, number: usize, now: u64) {
        let name = self.sidecar.peers[&number].name.clone();
        let found = self.redis.marks.get(&name).cloned();
        let seen = self.sidecar.progress.seen.of(&name);
        if let Some(found) = found.filter(|found| found.at > seen) {
            let instance = self.sidecar.life;
            self.redis
                .mark(&name, &Mark { instance, ..found }, Vec::new());
            while self.read(usize::MAX, now, crate::intake::Kill::No) {}
        }
    }

    /// What this site says of itself to a peer.
    pub(crate) fn hello(&self, to: usize) -> Hello {
        let sidecar = &self.sidecar;
        let (state, peer) = (&sidecar.state, &sidecar.peers[&to]);
        let (first, began) = (self.journal.first(), place(state.began));
        let is_whole = first == place(START);
        let scratch = (is_whole && state.empty && state.epoch == state.base).then_some(began);
        let seen = &sidecar.progress.seen;
        let since = first.max(began);
        let snapshot = self.shelf.offer((&peer.name, seen.of(&peer.name)), since);
        let waits_for = sidecar.progress.restorers(&sidecar.sources, &peer.name);
        Hello {
            site: self.name.to_string(),
            peer: peer.name.to_string(),
            sites: self.names.iter().map(ToString::to_string).collect(),
            instance: sidecar.life.as_u64(),
            version: String::new(),
            redis: "Redis 7.0.15".to_owned(),
            replid: state.replid.to_string(),
            epoch: state.epoch.0,
            base: state.base.0,
            older: state.older.0,
            first: first.to_string(),
            end: self.journal.end().max(sidecar.progress.read).to_string(),
            last_record: self.journal.last_record().to_string(),
            from_scratch: scratch.map(|at| at.to_string()),
            snapshot: snapshot.map(|at| at.to_string()),
            mark: peer.applying.known_mark().map(ToString::to_string),
            seen: seen.to_string(),
            judged: sidecar.progress.judged.of(&peer.name).to_string(),
            nonce: 0,
            packs: false,
            waits_for: waits_for.iter().map(ToString::to_string).collect(),
            initial: Initial::Auto,
            existing: self.existing,
            selection: String::new(),
        }
    }

    /// Whether the site that receives this has nothing yet of anybody, and gets everything from its sender.
    pub(crate) fn joins(&self, receiver: &Hello, flow: Flow) -> bool {
        let has_third = !self.sidecar.foreign.is_empty();
        has_third
            && flow.copy.is_some()
            && receiver.mark().is_none_or(|mark| mark.base == Epoch::NEVER)
    }

    /// Whether this site gets everything first from another one, for which this peer waits.
    pub(crate) fn joins_another(&self, theirs: &Hello) -> bool {
        let sidecar = &self.sidecar;
        let has_nothing_of = |site: &SiteId| {
            let mark = sidecar.progress.marks.get(site);
            mark.is_none_or(|mark| mark.base == Epoch::NEVER)
        };
        let names = sidecar.peers.values().map(|peer| &peer.name);
        let mut givers = names.filter(|site| theirs.waits_for.iter().any(|n| n == site.as_str()));
        givers.any(|site| has_nothing_of(site) && !sidecar.claims.is_linked(site))
    }

    /// Whether everything that happens at one of two sites happens at the other.
    fn is_entire(&self) -> bool {
        self.sidecar.peers.len() == 1 && !self.keeps_evictions
    }

    fn had_all(&self, plan: &Plan, ours: &Hello, theirs: &Hello) -> bool {
        let (Some(here), Some(there)) = (ours.mark(), theirs.mark()) else {
            return false;
        };
        let is_whole = there.base == ours.base() && there.at >= plan.send.start;
        is_whole && here.entire && there.entire && self.is_entire()
    }

    fn note_what_is_lost(&self, with: usize, theirs: &Hello) {
        let at = theirs.mark().map_or(Cursor::ZERO, |mark| mark.at);
        let sidecar = &self.sidecar;
        let name = &sidecar.peers[&with].name;
        let lost = sidecar.deliveries.rewind(name, at, &theirs.seen());
        for (site, known) in lost.iter() {
            if *site == self.name {
                sidecar.table.note_all_written(*known);
            } else {
                sidecar.foreign.note_all_written(site, *known);
            }
        }
    }

    /// A session begins: what is sent, and by whom copies are made.
    pub(crate) fn begin_session(
        &mut self,
        with: usize,
        plan: &Plan,
        (ours, theirs): (&Hello, &Hello),
    ) {
        let name = self.sidecar.peers[&with].name.clone();
        if plan.send.copy.is_none() {
            self.sidecar.claims.end_copy(&name);
        }
        if self.joins(ours, plan.receive) {
            self.sidecar.joining = Some(with);
        }
        self.sidecar.claims.set_linked(&name, true);
        self.note_what_is_lost(with, theirs);
        let is_left_out = |mark: &Mark| mark.base == ours.base() && mark.at < plan.send.start;
        if theirs.mark().is_some_and(|mark| is_left_out(&mark)) {
            self.sidecar.table.note_all_written(plan.send.start);
        }
        let start = plan.send.sent_after(ours, theirs);
        let mut copier = Copier {
            owes: ours.mark().map_or(Owes::Nothing, |mark| mark.owes),
            sends_from: plan.send.start,
            had_all: self.had_all(plan, ours, theirs),
            joined: self.joins(theirs, plan.send),
            receives_from: plan.receive.start,
            back_keeps: back_keeps(self.existing),
            lost: plan.receive.unsure_before(theirs),
            known: ours
                .mark()
                .map_or(Cursor::ZERO, |mark| mark.seen.of(&self.name)),
            ..Copier::default()
        };
        if let Some(copy) = plan.send.copy {
            copier.prepare(self, with, (copy, Some(plan.send.start)));
        }
        let mut outgoing = Outgoing::after(&self.journal, start);
        let home = theirs.mark().map_or(Epoch::NEVER, |mark| mark.home);
        let joins = self.joins(theirs, plan.send);
        let resumed = plan.send.copy.and_then(|copy| copy.resume);
        outgoing.skips = joins && theirs.older() > home;
        outgoing.resumed = resumed.filter(|_| joins).map(|copy| copy.snapshot);
        let peer = self.peer(with);
        (peer.outgoing, peer.copier) = (Some(outgoing), Some(copier));
        self.begin_applying(with, plan, (ours, theirs));
    }

    /// The applier begins.
    fn begin_applying(&mut self, number: usize, plan: &Plan, (ours, theirs): (&Hello, &Hello)) {
        let flow = plan.receive;
        let (home, life) = (self.sidecar.state.epoch, self.sidecar.life);
        let entire = self.is_entire();
        let (joins, base) = (self.joins(ours, flow), theirs.base());
        let keeps_own = !back_keeps(self.existing);
        let rests_on_older = |base: Epoch| base > Epoch::UNDONE && base != ours.base();
        let peer = self.peer(number);
        let applying = &mut peer.applying;
        (applying.joins, applying.answered) = (joins, plan.answered(theirs));
        let before = applying.known_mark().cloned();
        let mut mark = before
            .clone()
            .unwrap_or_else(|| Mark::first(life, flow.start));
        let leaps = flow.leaps(&mark, base);
        mark.at = flow.start;
        peer.docket.begin();
        if before.as_ref().is_none_or(|before| before.at < flow.start) {
            crate::now(peer.docket.file(Filed::Nothing(flow.start)));
        }
        (applying.base, applying.entire, applying.older) = (base, entire, ours.older());
        applying.gap =
            plan.send.copy.is_some() && theirs.mark().is_some_and(|mark| rests_on_older(mark.base));
        applying.keeps_own = keeps_own;
        applying.owes_back = flow.copy.is_some_and(|copy| copy.back);
        if flow.whole {
            (mark.base, mark.home) = (base, home);
        } else if leaps {
            mark.base = Epoch::LOST;
        }
        mark.entire = entire && (mark.entire || flow.whole);
        applying.set_mark(mark.clone());
        let sent_after = flow.sent_after(theirs, ours);
        let unsettled = applying.unsettled().map(|from| from.max(sent_after));
        self.set_unsettled(number, unsettled.filter(|from| *from < flow.start));
        self.note_part(number);
        if before.as_ref() != Some(&mark) {
            self.commit_mark(number, mark);
        }
    }

    /// Third sites must not take what is here for what it becomes with a copy.
    pub(crate) fn note_part(&self, number: usize) {
        let peer = &self.sidecar.peers[&number];
        let base = peer
            .applying
            .known_mark()
            .map_or(Epoch::NEVER, |mark| mark.base);
        let part = Cursor {
            epoch: Epoch(base.0 + 1),
            offset: Offset(0),
        };
        let lacks = !peer.applying.is_whole() && base != Epoch::UNDONE;
        let part = lacks.then_some(part).or(peer.applying.answered);
        self.sidecar.reached.set_part(&peer.name, part);
    }
}

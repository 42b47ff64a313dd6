//! All sites, the wires between them, and what is true of them at rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use tandem::link::{plan, restores};
use tandem::model::{Epoch, Key, SiteId};

use crate::intake::Kill;
use crate::link::Message;
use crate::loss::Loss;
use crate::redis::{Entry, Redis};
use crate::site::{Frame, Peer, Site, place};

/// How many rounds it may take until nothing happens any more: each gives everybody a turn at everything.
/// The most that was seen is a third of that.
const ROUNDS: usize = 600;

/// Sites and wires.
#[derive(Debug)]
pub(crate) struct World {
    pub rng: StdRng,
    pub names: Vec<SiteId>,
    pub sites: Vec<Site>,
    /// From one to another.
    wires: BTreeMap<(usize, usize), VecDeque<Message>>,
    /// Pairs of sites with a session, the first one first.
    up: BTreeSet<(usize, usize)>,
    /// Milliseconds.
    pub now: u64,
    /// Whether keys expire by time.
    pub expires: bool,
    /// How many copies sessions have begun with.
    pub copies: usize,
    /// Rounds until rest.
    pub rounds: usize,
    /// Why two sites do not want to meet.
    pub refused: Option<String>,
}

/// What became of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Equal,
    /// A flush met what nobody knows any more: the sites are to be merged, which is not simulated.
    Torn,
}

impl World {
    /// So many empty sites, linked and at rest.
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        let mut world = Self::apart(seed, vec![Redis::default(); count]);
        world.connect_all();
        world.settle().unwrap();
        world
    }

    /// Sites with these servers that have not met.
    pub(crate) fn apart(seed: u64, servers: Vec<Redis>) -> Self {
        let names = ["a", "b", "c", "d", "e"].iter().take(servers.len());
        let names: Vec<SiteId> = names.map(|name| SiteId::try_new(name).unwrap()).collect();
        let servers = servers.into_iter().enumerate();
        let sites = servers.map(|(number, redis)| Site::new(&names, number, redis));
        Self {
            rng: StdRng::seed_from_u64(seed),
            sites: sites.collect(),
            names,
            wires: BTreeMap::new(),
            up: BTreeSet::new(),
            now: 1_000_000,
            expires: false,
            copies: 0,
            rounds: 0,
            refused: None,
        }
    }

    fn others(&mut self, site: usize) -> Vec<usize> {
        let others = (0..self.sites.len()).filter(|other| *other != site);
        let mut others: Vec<usize> = others.collect();
        others.shuffle(&mut self.rng);
        others
    }

    /// One of the others.
    pub(crate) fn another(&mut self, site: usize) -> usize {
        self.others(site)[0]
    }

    /// Whether two sites have a session.
    pub(crate) fn is_up(&self, a: usize, b: usize) -> bool {
        self.up.contains(&(a.min(b), a.max(b)))
    }

    /// A session between two sites begins, if they agree.
    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        if self.is_up(a, b) {
            return;
        }
        let now = self.now;
        self.sites[a].open(b, now);
        self.sites[b].open(a, now);
        let hellos = [self.sites[a].hello(b), self.sites[b].hello(a)];
        let [ours, theirs] = &hellos;
        let plans = match (plan(ours, theirs), plan(theirs, ours)) {
            (Ok(ours), Ok(theirs)) => [ours, theirs],
            (Err(stop), _) | (_, Err(stop)) => {
                self.refused = Some(stop.reason);
                return;
            }
        };
        for (site, peer, hello, greeted) in [(a, b, ours, theirs), (b, a, theirs, ours)] {
            let sources = &self.sites[site].sidecar.sources;
            let restores = restores(hello, greeted);
            sources.note(&self.names[peer], Epoch(hello.epoch), restores);
        }
        for (site, plan, hello, greeted) in
            [(a, plans[0], ours, theirs), (b, plans[1], theirs, ours)]
        {
            let site = &self.sites[site];
            let must_wait = site.sidecar.joining.is_some() || site.joins_another(greeted);
            if site.joins(hello, plan.receive) && must_wait {
                return;
            }
        }
        self.copies += plans.iter().filter(|plan| plan.send.copy.is_some()).count();
        self.up.insert((a.min(b), a.max(b)));
        self.sites[a].begin_session(b, &plans[0], (ours, theirs));
        self.sites[b].begin_session(a, &plans[1], (theirs, ours));
        let (receive, send) = (plans[0].receive, plans[0].send);
        self.say(&format!(
            "{} and {} are linked: the first sends {send:?} and receives {receive:?}; their marks: {:?}, {:?}",
            self.names[a], self.names[b], ours.mark, theirs.mark
        ));
    }

    /// Sessions that make no sense end.
    fn end_broken(&mut self, number: usize) -> bool {
        let broken = std::mem::take(&mut self.sites[number].sidecar.broken);
        broken.iter().for_each(|other| self.cut(number, *other));
        !broken.is_empty()
    }

    /// Something becomes of a server.
    pub(crate) fn lose(&mut self, number: usize, loss: Loss) {
        self.isolate(number);
        // What it has kept cannot be told from what it has not.
        if matches!(loss, Loss::Older(_) | Loss::Restarted(false)) {
            self.sites[number].write_off();
        }
        self.sites[number].begin_again(loss);
    }

    fn say(&self, what: &str) {
        if self.sites[0].traces {
            println!("{what}");
        }
    }

    /// Links all sites.
    pub(crate) fn connect_all(&mut self) {
        for a in 0..self.sites.len() {
            for b in a + 1..self.sites.len() {
                self.connect(a, b);
            }
        }
    }

    /// A session ends: what is on the wire is lost.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        if self.up.remove(&(a.min(b), a.max(b))) {
            self.say(&format!(
                "{} and {} are cut off",
                self.names[a], self.names[b]
            ));
            self.wires.remove(&(a, b));
            self.wires.remove(&(b, a));
            self.sites[a].end_session(b);
            self.sites[b].end_session(a);
        }
    }

    /// A site is cut off from all others.
    pub(crate) fn isolate(&mut self, site: usize) {
        self.others(site)
            .into_iter()
            .for_each(|other| self.cut(site, other));
    }

    /// A journal is full: its oldest part is dropped, who needs that or not.
    pub(crate) fn drop_oldest(&mut self, number: usize) {
        let site = &mut self.sites[number];
        // A sidecar that is killed then has forgotten what it had found out there: that is not mended.
        let wish = site.sidecar.judge.oldest_wish();
        let is_free = |frame: &&Frame| wish.is_none_or(|wish| place(frame.end) < wish);
        let free = site.journal.frames.iter().take_while(is_free).count();
        let (dropped, last) = (site.journal.dropped, free.max(1) - 1);
        if dropped >= last {
            return;
        }
        let upto = self.rng.random_range(dropped + 1..=last);
        site.journal.dropped = upto;
        site.say(|| format!("drops its journal up to {}", site.journal.first().offset));
        let peers = site.sidecar.peers.iter();
        let lacks = |peer: &Peer| peer.outgoing.as_ref().is_some_and(|o| o.lacks(upto));
        let cut = peers.filter(|(_, peer)| lacks(peer));
        let cut: Vec<usize> = cut.map(|(number, _)| *number).collect();
        site.sidecar.broken.extend(cut);
        self.end_broken(number);
    }

    /// A sidecar is killed, perhaps while it appends to the journal, and another one is started.
    pub(crate) fn kill(&mut self, number: usize) {
        if self.rng.random() {
            let now = self.now;
            self.sites[number].read(3, now, Kill::BetweenFrames);
        }
        self.isolate(number);
        self.sites[number].restart(number);
    }

    /// The clocks of the servers go on, if keys expire.
    fn tell_time(&mut self) {
        if self.expires {
            for site in &mut self.sites {
                site.redis.now = i64::try_from(self.now + site.redis_skew).unwrap();
            }
        }
    }

    /// One step of a site, at random.
    pub(crate) fn step(&mut self, number: usize) {
        self.now += 1;
        let other = self.another(number);
        let rng = &mut self.rng;
        let (what, few) = (
            rng.random_range(0..100),
            [1, 1, 3, 9][rng.random_range(0..4)],
        );
        let (coin, now) = (rng.random(), self.now);
        let expires = rng.random_bool(0.05);
        self.tell_time();
        let site = &mut self.sites[number];
        if expires {
            site.redis.expire_all();
        }
        match what {
            0..30 => drop(site.read(few, now, Kill::No)),
            30..55 => {
                for _ in 0..few {
                    site.apply(other, coin);
                }
                self.end_broken(number);
            }
            55..70 => drop(self.receive(number, other, few)),
            70..85 => {
                let wire = self.wires.entry((number, other)).or_default();
                site.send(other, wire, (coin, few));
            }
            _ => {
                for _ in 0..few {
                    site.answer(other);
                    site.copy(other);
                }
                site.keep_self_mark();
                self.end_broken(number);
            }
        }
    }

    /// Messages come from another site.
    fn receive(&mut self, to: usize, from: usize, most: usize) -> bool {
        let Some(wire) = self.wires.get_mut(&(from, to)) else {
            return false;
        };
        let most = most.min(wire.len());
        for message in wire.drain(..most) {
            self.sites[to].receive(from, message);
        }
        most > 0
    }

    /// A site gets its records to another one, which applies them and reads what came of it.
    pub(crate) fn deliver(&mut self, from: usize, to: usize) {
        let wire = self.wires.entry((from, to)).or_default();
        self.sites[from].send(to, wire, (false, 64));
        self.receive(to, from, usize::MAX);
        while self.sites[to].apply(from, false) {}
        let now = self.now;
        self.sites[to].read(usize::MAX, now, Kill::No);
    }

    /// Gives everybody turns until nothing happens any more.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        let mut idle = 0;
        for round in 0..ROUNDS {
            self.now += 1;
            self.tell_time();
            idle = match self.sweep() {
                true => 0,
                false => idle + 1,
            };
            self.rounds = self.rounds.max(round);
            if idle > 2 {
                return Ok(());
            }
        }
        Err("never settles".to_owned())
    }

    fn sweep(&mut self) -> bool {
        // Who was cut off comes back, in any order.
        let all = 0..self.sites.len();
        let pairs = all.clone().flat_map(|a| all.clone().map(move |b| (a, b)));
        let mut pairs: Vec<(usize, usize)> = pairs.filter(|(a, b)| a < b).collect();
        pairs.shuffle(&mut self.rng);
        pairs.iter().for_each(|(a, b)| self.connect(*a, *b));
        let pairs = pairs.len();
        let mut is_busy = self.up.len() < pairs && self.refused.is_none();
        let mut order: Vec<usize> = (0..self.sites.len()).collect();
        order.shuffle(&mut self.rng);
        for number in order {
            is_busy |= self.sites[number].redis.expire_all();
            is_busy |= self.sites[number].read(usize::MAX, self.now, Kill::No);
            for other in self.others(number) {
                is_busy |= self.receive(number, other, 8);
                let site = &mut self.sites[number];
                for _ in 0..8 {
                    is_busy |= site.apply(other, false);
                }
                for _ in 0..4 {
                    is_busy |= site.answer(other);
                }
                is_busy |= site.copy(other);
                let wire = self.wires.entry((number, other)).or_default();
                is_busy |= site.send(other, wire, (false, 8));
                is_busy |= self.end_broken(number);
            }
        }
        is_busy
    }

    /// What holds at rest, with all sites linked.
    pub(crate) fn check(&self) -> Result<End, String> {
        let sites = self.sites.len();
        if self.up.len() < sites * (sites - 1) / 2 {
            return Err(format!("not all are linked: {:?}", self.refused));
        }
        let peers = || {
            let sites = self.sites.iter();
            sites.flat_map(|site| site.sidecar.peers.values().map(move |peer| (site, peer)))
        };
        if peers().any(|(_, peer)| peer.docket.is_torn()) {
            return Ok(End::Torn);
        }
        for (site, peer) in peers() {
            let (of, name) = (&peer.name, &site.name);
            let claims = &site.sidecar.claims;
            if !peer.debts.is_empty() {
                return Err(format!("{name} still wants of {of}: {:?}", peer.debts));
            }
            if !peer.docket.is_settled() || peer.docket.wishes() > 0 {
                return Err(format!("{name} has not asked {of} for all that it wishes"));
            }
            let stale = claims.stale(of, 0);
            if !stale.is_empty() {
                return Err(format!(
                    "{of} has not heard of {name} that is stale: {stale:?}"
                ));
            }
            if claims.take_due(of).is_some() {
                return Err(format!("{name} owes {of} an answer"));
            }
        }
        for site in &self.sites {
            let (name, sidecar) = (&site.name, &site.sidecar);
            let claims = format!("{:?}", sidecar.claims);
            if !claims.contains("deferred: {}") {
                return Err(format!("{name} has not answered: {claims}"));
            }
            if let Some(oldest) = sidecar.judge.oldest_wish() {
                return Err(format!("{name} still needs its journal from {oldest}"));
            }
        }
        self.compare()
    }

    /// Whether all have the same, but for what is past its moment by some clock.
    fn compare(&self) -> Result<End, String> {
        let clocks = self.sites.iter().map(|site| site.redis.now);
        let latest = clocks.max().filter(|_| self.expires);
        let is_left = |entry: &Entry| entry.expires.is_none_or(|at| Some(at) > latest);
        let left = |site: &Site| -> BTreeMap<Key, Entry> {
            let data = site.redis.data.iter();
            let data = data.filter(|(_, entry)| is_left(entry));
            data.map(|(key, entry)| (key.clone(), entry.clone()))
                .collect()
        };
        let all: Vec<BTreeMap<Key, Entry>> = self.sites.iter().map(left).collect();
        for (number, there) in all.iter().enumerate() {
            for (other, here) in all.iter().enumerate() {
                // What is evicted stays at the others.
                let site = &self.sites[number];
                let is_missed = |(key, entry): (&Key, &Entry)| {
                    let found = there.get(key);
                    found != Some(entry) && (found.is_some() || !site.evicted.contains(key))
                };
                if here.iter().any(is_missed) {
                    let (first, other) = (&self.sites[other].name, &site.name);
                    return Err(format!("{first} has {here:?}, and {other} has {there:?}"));
                }
            }
        }
        Ok(End::Equal)
    }
}

//! A schedule: what clients write, what fails, and when. All of it follows from the seed.

use rand::Rng;
use rand::seq::IndexedRandom;

use bytes::Bytes;

use tandem::config::Existing;

use crate::loss::{Backup, Loss};
use crate::mixes::{MIXES, Mix};
use crate::redis::Redis;
use crate::world::{End, World};

/// Commands that make something of one key in another.
const DERIVING: [&str; 7] = [
    "COPY",
    "MOVE",
    "RENAME",
    "RPOPLPUSH",
    "SUNIONSTORE",
    "SWAPDB",
    "MULTI",
];

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Faults {
    None,
    Cuts,
    CutsAndKills,
}

/// When copies are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    /// Never: the sites have met empty.
    Never,
    /// When the sites meet: some have data.
    Meeting,
    /// When a server has lost something.
    Losses,
    /// When journals are too small for what happens while a peer is away.
    Drops,
}

/// What follows from a seed.
pub(crate) struct Schedule {
    copies: Copies,
    /// How often servers may lose something.
    losses: usize,
    /// What each server has on its disk.
    backups: Vec<Backup>,

    pub mix: &'static Mix,
    pub faults: Faults,
    writes: usize,
    steps: usize,
    /// How readily each site takes its turn.
    zeal: Vec<f64>,
    number: u64,
}

impl Schedule {
    fn of(world: &mut World, steps: Option<usize>, only: &Only) -> Self {
        let rng = &mut world.rng;
        // What several keys have to do with each other is where most can go wrong.
        let sites = world.sites.len();
        let weight = |mix: &Mix| match mix.name {
            // Two of them that meet are not mended among three.
            _ if mix.has("SWAPDB") && sites > 2 => 0,
            _ if only.mix.as_ref().is_some_and(|only| mix.name != only) => 0,
            _ => 1 + 2 * mix.keys.saturating_sub(1),
        };
        let mix = MIXES.choose_weighted(rng, weight).unwrap();
        let faults = [Faults::None, Faults::Cuts, Faults::CutsAndKills];
        let faults = *faults.choose(rng).unwrap();
        let evicts = mix.has("EVICT");
        // What was evicted is remembered only as long as the sidecar runs.
        let faults = match evicts && faults == Faults::CutsAndKills {
            true => Faults::Cuts,
            false => faults,
        };
        let writes = *[2, 3, 4, 8, 20].choose(rng).unwrap();
        let pace = [4, 10, 25, 80].choose(rng).unwrap();
        let zeal = world.sites.iter();
        let zeal = zeal.map(|_| *[1.0, 1.0, 1.0, 0.3, 0.05].choose(rng).unwrap());
        let zeal = zeal.collect();
        for site in &mut world.sites {
            site.keeps_evictions = evicts && rng.random_bool(0.7);
            site.skew = *[0, 0, 40].choose(rng).unwrap();
            site.redis_skew = *[0, 0, 15, 60].choose(rng).unwrap();
        }
        world.expires = mix.has("@");
        Self {
            copies: Copies::Never,
            losses: match sites {
                2 => [1, 1, 2, 10][rng.random_range(0..4)],
                _ if is_set("LOSSES", "several") => [1, 1, 2, 3][rng.random_range(0..4)],
                _ => 1,
            },
            backups: vec![Backup::default(); sites],
            mix,
            faults,
            writes,
            steps: steps.unwrap_or(30 + pace * writes),
            zeal,
            number: 0,
        }
    }

    /// One command.
    fn line(&mut self, world: &mut World) -> String {
        let rng = &mut world.rng;
        let line = loop {
            let line = *self.mix.commands.choose(rng).unwrap();
            if line != "MULTI" {
                break line;
            }
        };
        self.filled(world, line)
    }

    fn filled(&mut self, world: &mut World, line: &str) -> String {
        let now = world.now;
        let rng = &mut world.rng;
        self.number += 1;
        let key = rng.random_range(0..self.mix.keys.max(1));
        let word = |word: &str| match word {
            "k" => format!("k{key}"),
            "&" => {
                let other = key + rng.random_range(1..self.mix.keys.max(2));
                format!("k{}", other % self.mix.keys)
            }
            "?" => format!("{}", rng.random_range(0..2)),
            "@" => {
                let most = [2, 40, 150, 800][rng.random_range(0..4)];
                format!(
                    "{}",
                    (now - 5).saturating_add_signed(rng.random_range(0..most))
                )
            }
            word => word.replace('#', &(1000 * self.number).to_string()),
        };
        let words: Vec<String> = line.split(' ').map(word).collect();
        words.join(" ")
    }

    /// Sites that have not met, and what some of them hold: of more than two only one may.
    fn strangers(&mut self, apart: World, seed: u64) -> World {
        let mut rng = apart.rng.clone();
        let both = apart.sites.len() == 2 && rng.random_bool(0.6);
        let holder = rng.random_range(0..apart.sites.len());
        let mut scratch = World::apart(seed, vec![Redis::default(); apart.sites.len()]);
        scratch.rng = rng;
        for (number, site) in scratch.sites.iter_mut().enumerate() {
            site.traces = apart.sites[number].traces;
        }
        for _ in 0..scratch.rng.random_range(1..8) {
            let number = match both {
                true => scratch.rng.random_range(0..2),
                false => holder,
            };
            self.write_at(&mut scratch, number);
        }
        let servers = scratch.sites.into_iter().map(|site| {
            let mut redis = Redis::default();
            redis.data = site.redis.data;
            redis
        });
        let mut world = World::apart(seed, servers.collect());
        world.rng = scratch.rng;
        world.expires = apart.expires;
        // Where values stay that differ, what is made of them differs.
        let may_keep = !DERIVING.iter().any(|name| self.mix.has(name));
        let existing = match may_keep && world.rng.random_bool(0.3) {
            true => Existing::Keep,
            false => Existing::Overwrite,
        };
        for (site, old) in world.sites.iter_mut().zip(&apart.sites) {
            (site.skew, site.redis_skew) = (old.skew, old.redis_skew);
            (site.existing, site.traces) = (existing, old.traces);
            if self.mix.only_adds() {
                site.open_ledger();
            }
            site.say(|| format!("begins with {:?}, {existing:?}", site.redis.data));
        }
        world.connect_all();
        world
    }

    /// A client writes at some site.
    fn write(&mut self, world: &mut World) {
        let number = world.rng.random_range(0..world.sites.len());
        self.write_at(world, number);
    }

    fn write_at(&mut self, world: &mut World, number: usize) {
        let line = *self.mix.commands.choose(&mut world.rng).unwrap();
        let lines = match line {
            "MULTI" => vec![self.line(world), self.line(world)],
            line => vec![self.filled(world, line)],
        };
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        write(world, number, &lines);
    }

    /// A server loses something, now and then.
    fn lose(&mut self, world: &mut World, number: usize) {
        if world.rng.random_bool(0.05) {
            self.backups[number] = world.sites[number].redis.backup();
        }
        if self.losses == 0 || !world.rng.random_bool(0.008) {
            return;
        }
        self.losses -= 1;
        let loss = match world.rng.random_range(0..6) {
            0 => Loss::Unread,
            1 => Loss::Restarted(world.rng.random()),
            2 => Loss::Older(Backup::default()),
            _ => Loss::Older(self.backups[number].clone()),
        };
        if self.faults == Faults::CutsAndKills && world.rng.random_bool(0.3) {
            world.kill(number);
        }
        world.lose(number, loss);
        self.backups[number] = world.sites[number].redis.backup();
    }

    fn fail(&mut self, world: &mut World, number: usize) {
        if self.copies == Copies::Losses {
            self.lose(world, number);
        }
        if self.copies == Copies::Drops && world.rng.random_bool(0.01) {
            world.drop_oldest(number);
        }
        if self.faults == Faults::None {
            return;
        }
        if world.rng.random_bool(0.02) {
            let other = world.another(number);
            match world.is_up(number, other) {
                true => world.cut(number, other),
                false => world.connect(number, other),
            }
        }
        // One that is out of reach for long.
        if world.rng.random_bool(0.004) {
            world.isolate(number);
        }
        if self.faults == Faults::CutsAndKills && world.rng.random_bool(0.01) {
            world.kill(number);
            if world.rng.random_bool(0.7) {
                for other in (0..world.sites.len()).filter(|other| *other != number) {
                    world.connect(number, other);
                }
            }
        }
    }
}

/// A client writes at a site, or its server runs out of memory.
pub(crate) fn write(world: &mut World, number: usize, lines: &[&str]) {
    let site = &mut world.sites[number];
    if let Some(name) = lines[0].strip_prefix("EVICT ") {
        let key = (0, Bytes::copy_from_slice(name.as_bytes()));
        if site.redis.evict(&key, site.keeps_evictions) {
            site.say(|| format!("evicts {name}"));
            if site.keeps_evictions {
                site.evicted.insert(key);
            }
        }
        return;
    }
    if site.redis.client(lines) {
        lines.iter().for_each(|line| site.ledger.note(line));
        let site = &world.sites[number];
        let at = site.sidecar.state.began.0 + site.redis.stream.len() as u64;
        site.say(|| format!("a client: {lines:?} = {:?} @{at}", site.redis.data));
    }
}

/// What is known of a schedule that was run.
pub(crate) struct Ran {
    pub mix: &'static str,
    pub faults: Faults,
    pub copies: Copies,
    pub states: usize,
    pub rounds: usize,
    pub result: Result<End, String>,
}

fn is_set(name: &str, to: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == to)
}

/// Which schedules are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Only {
    /// What clients do in them.
    pub mix: Option<String>,
    /// When they have copies made.
    pub copies: Option<Copies>,
}

impl Only {
    /// As `MIX` and `COPIES` say.
    pub(crate) fn wanted() -> Self {
        let copies = std::env::var("COPIES").ok();
        let copies = copies.map(|name| match &*name {
            "never" => Copies::Never,
            "meeting" => Copies::Meeting,
            "losses" => Copies::Losses,
            "drops" => Copies::Drops,
            _ => panic!("COPIES={name}?"),
        });
        let mix = std::env::var("MIX").ok();
        Self { mix, copies }
    }

    fn copies_of(&self, seed: u64) -> Copies {
        let kinds = [Copies::Never, Copies::Meeting, Copies::Losses];
        let of_seed = kinds[usize::try_from(seed % 3).unwrap()];
        self.copies.unwrap_or(of_seed)
    }
}

/// Runs the schedule of a seed.
pub(crate) fn run(
    (seed, only): (u64, &Only),
    sites: usize,
    steps: Option<usize>,
    traces: bool,
) -> Ran {
    let copies = only.copies_of(seed);
    let mut world = match copies {
        Copies::Meeting => World::apart(seed, vec![Redis::default(); sites]),
        Copies::Never | Copies::Losses | Copies::Drops => World::new(seed, sites),
    };
    for site in &mut world.sites {
        site.traces = traces;
    }
    let mut schedule = Schedule::of(&mut world, steps, only);
    // What a server evicts is not told apart where a copy has to bring it.
    schedule.copies = match schedule.mix.has("EVICT") {
        true => Copies::Never,
        false => copies,
    };
    let copies = schedule.copies;
    if copies == Copies::Meeting {
        world = schedule.strangers(world, seed);
    }
    let result = perform(&mut world, &mut schedule);
    Ran {
        mix: schedule.mix.name,
        faults: schedule.faults,
        copies,
        states: world.sites.iter().map(|site| site.states).sum(),
        rounds: world.rounds,
        result,
    }
}

fn perform(world: &mut World, schedule: &mut Schedule) -> Result<End, String> {
    let (steps, writes) = (schedule.steps, schedule.writes);
    // Of what several have lost one's can be lost.
    let is_exact = match schedule.copies {
        Copies::Losses => schedule.losses <= 1,
        Copies::Drops => false,
        Copies::Never | Copies::Meeting => true,
    };
    let is_spread: bool = world.rng.random();
    let mut moments: Vec<usize> = (0..writes)
        .map(|_| match is_spread {
            true => world.rng.random_range(0..steps),
            // In two bursts.
            false => {
                world.rng.random_range(0..=steps / 6) + steps / 2 * world.rng.random_range(0..2)
            }
        })
        .collect();
    moments.sort_unstable();
    let mut moments = moments.into_iter().peekable();
    for step in 0..steps {
        while moments.next_if(|moment| *moment <= step).is_some() {
            schedule.write(world);
        }
        let number = world.rng.random_range(0..world.sites.len());
        if world.rng.random_bool(schedule.zeal[number]) {
            world.step(number);
        }
        schedule.fail(world, number);
    }
    world.connect_all();
    for _ in 0..[0, 0, 300][world.rng.random_range(0..3)] {
        let number = world.rng.random_range(0..world.sites.len());
        world.step(number);
    }
    world.settle()?;
    let mut end = world.check()?;
    if world.expires && end == End::Equal {
        // All moments are over.
        world.now += 10_000;
        world.settle()?;
        end = world.check()?;
    }
    // Whole databases that meet are merged.
    let may_tear = schedule.mix.has("SWAPDB") || schedule.mix.has("FLUSHDB");
    if schedule.copies == Copies::Never && world.copies > 0 && !may_tear {
        return Err(format!("{} copies were made", world.copies));
    }
    let commutes = schedule.mix.name == "sums";
    if is_exact && schedule.mix.only_adds() {
        let is_quiet = schedule.copies == Copies::Never && schedule.faults == Faults::None;
        world.check_sums(is_quiet && commutes)?;
    }
    Ok(end)
}

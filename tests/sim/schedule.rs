//! A schedule: what clients write, what fails, and when. All of it follows from the seed.

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::world::{End, World};

/// What clients do in a schedule, and with how many keys.
pub(crate) struct Mix {
    pub name: &'static str,
    keys: usize,
    commands: &'static [&'static str],
}

/// `&` is another key than the first, `#` a number that no other command has, `?` one of two elements, `@` a
/// moment that comes soon, or has just been.
pub(crate) const MIXES: &[Mix] = &[
    Mix {
        name: "sums",
        keys: 0,
        commands: &["INCR n", "HINCRBY h ? 1", "SADD s ?"],
    },
    Mix {
        name: "strings",
        keys: 1,
        commands: &["SET k #", "DEL k", "INCR k", "APPEND k <#>"],
    },
    Mix {
        name: "renewals",
        keys: 1,
        commands: &[
            "SET k #",
            "SET k # PXAT #",
            "DEL k",
            "INCR k",
            "PEXPIREAT k #",
            "PEXPIREAT k #",
            "PERSIST k",
            "RPUSH k <#>",
        ],
    },
    Mix {
        name: "fields",
        keys: 1,
        commands: &[
            "HSET k ? #",
            "HDEL k ?",
            "HINCRBY k ? 1",
            "PEXPIREAT k #",
            "DEL k",
        ],
    },
    Mix {
        name: "members",
        keys: 1,
        commands: &["SADD k ?", "SREM k ?", "PEXPIREAT k #", "DEL k"],
    },
    Mix {
        name: "types",
        keys: 1,
        commands: &[
            "SET k #",
            "DEL k",
            "INCR k",
            "APPEND k <#>",
            "RPUSH k <#>",
            "LPOP k",
            "HSET k ? #",
            "HDEL k ?",
            "SADD k ?",
            "SREM k ?",
            "PEXPIREAT k #",
        ],
    },
    Mix {
        name: "several keys",
        keys: 3,
        commands: &[
            "SET k #",
            "DEL k",
            "DEL k &",
            "INCR k",
            "SADD k ?",
            "SREM k ?",
            "RENAME k &",
            "COPY k & REPLACE",
            "SUNIONSTORE k & &",
            "PEXPIREAT k #",
            "MULTI",
        ],
    },
    Mix {
        name: "chains",
        keys: 4,
        commands: &[
            "SET k #",
            "INCR k",
            "COPY k & REPLACE",
            "COPY k & REPLACE",
            "RENAME k &",
            "DEL k",
            "PEXPIREAT k #",
        ],
    },
    Mix {
        name: "flushes",
        keys: 3,
        commands: &[
            "SET k #",
            "DEL k",
            "INCR k",
            "SADD k ?",
            "RENAME k &",
            "COPY k & REPLACE",
            "PEXPIREAT k #",
            "MULTI",
            "FLUSHDB",
        ],
    },
    Mix {
        name: "flushes of one key",
        keys: 1,
        commands: &["SET k #", "DEL k", "INCR k", "FLUSHDB", "FLUSHDB"],
    },
    Mix {
        name: "copies",
        keys: 3,
        commands: &[
            "SET k #",
            "SET k #",
            "APPEND k <#>",
            "COPY k & REPLACE",
            "COPY k & REPLACE",
            "COPY k & REPLACE",
            "COPY k &",
            "DEL k",
        ],
    },
    Mix {
        name: "lives",
        keys: 1,
        commands: &[
            "SET k # PXAT @",
            "SET k # PXAT @",
            "SET k #",
            "SET k # KEEPTTL",
            "SETNX k #",
            "INCR k",
            "PEXPIREAT k @",
            "PEXPIREAT k @",
            "PERSIST k",
            "GETDEL k",
        ],
    },
    Mix {
        name: "lives prolonged",
        keys: 1,
        commands: &[
            "SET k # PXAT @",
            "DEL k",
            "INCR k",
            "PEXPIREAT k @",
            "PERSIST k",
        ],
    },
    Mix {
        name: "lives of elements",
        keys: 1,
        commands: &[
            "SADD k ?",
            "SADD k ?",
            "SREM k ?",
            "PEXPIREAT k @",
            "PERSIST k",
            "DEL k",
        ],
    },
    Mix {
        name: "lives of several keys",
        keys: 3,
        commands: &[
            "SET k # PXAT @",
            "SET k # PXAT @",
            "INCR k",
            "APPEND k <#>",
            "PEXPIREAT k @",
            "PERSIST k",
            "RENAME k &",
            "COPY k & REPLACE",
            "COPY k &",
            "MOVE k 1",
            "1 MOVE k 0",
            "1 PERSIST k",
            "MULTI",
            "DEL k &",
        ],
    },
    Mix {
        name: "lives in databases",
        keys: 2,
        commands: &[
            "SET k # PXAT @",
            "INCR k",
            "1 INCR k",
            "PEXPIREAT k @",
            "PERSIST k",
            "COPY k & REPLACE",
            "FLUSHDB",
            "MULTI",
        ],
    },
    Mix {
        name: "moves",
        keys: 2,
        commands: &[
            "SET k #",
            "1 SET k #",
            "INCR k",
            "1 INCR k",
            "MOVE k 1",
            "MOVE k 1",
            "1 MOVE k 0",
            "COPY k & DB 1",
            "1 COPY k & DB 0 REPLACE",
            "RENAMENX k &",
            "1 RENAME k &",
            "DEL k",
            "1 DEL k",
            "MULTI",
        ],
    },
    Mix {
        name: "conditions",
        keys: 3,
        commands: &[
            "SETNX k #",
            "SETNX k #",
            "SET k #",
            "INCR k",
            "COPY k &",
            "COPY k &",
            "RENAMENX k &",
            "GETDEL k",
            "DEL k",
            "MSET k # & #",
            "PEXPIREAT k #",
            "MULTI",
        ],
    },
    Mix {
        name: "queues",
        keys: 2,
        commands: &[
            "RPUSH k <#>",
            "LPUSH k <#>",
            "RPOPLPUSH k &",
            "RPOPLPUSH k &",
            "RPOPLPUSH k k",
            "LPOP k",
            "PEXPIREAT k #",
            "DEL k",
            "MULTI",
        ],
    },
    Mix {
        name: "members that move",
        keys: 2,
        commands: &[
            "SADD k ?",
            "SADD k ?",
            "SREM k ?",
            "SMOVE k & ?",
            "SMOVE k & ?",
            "PEXPIREAT k #",
            "DEL k",
            "SUNIONSTORE k & k",
        ],
    },
    Mix {
        name: "streams",
        keys: 3,
        commands: &[
            "XADD k #-1 f v",
            "XADD k #-1 f v",
            "SET k #",
            "INCR k",
            "SET k # PXAT @",
            "COPY k & REPLACE",
            "COPY k &",
            "COPY k &",
            "RENAME k &",
            "PEXPIREAT k @",
            "PEXPIREAT k @",
            "PERSIST k",
            "DEL k",
            "MULTI",
            "FLUSHDB",
        ],
    },
    Mix {
        name: "moves and swaps",
        keys: 2,
        commands: &[
            "SET k #",
            "1 SET k #",
            "INCR k",
            "1 INCR k",
            "MOVE k 1",
            "COPY k & DB 1 REPLACE",
            "MULTI",
            "MULTI",
            "SWAPDB 0 1",
        ],
    },
    Mix {
        name: "flushes beside transactions",
        keys: 2,
        commands: &[
            "SET k #",
            "1 SET k #",
            "INCR k",
            "1 INCR k",
            "MOVE k 1",
            "COPY k & DB 1",
            "MULTI",
            "MULTI",
            "FLUSHDB",
            "1 FLUSHDB",
        ],
    },
    Mix {
        name: "swaps",
        keys: 2,
        commands: &[
            "SET k #",
            "1 SET k #",
            "DEL k",
            "1 DEL k",
            "INCR k",
            "1 INCR k",
            "PEXPIREAT k #",
            "1 PEXPIREAT k #",
            "RENAME k &",
            "1 COPY k & REPLACE",
            "SWAPDB 0 1",
        ],
    },
];

impl Mix {
    /// Whether some command has this in it.
    fn has(&self, word: &str) -> bool {
        self.commands.iter().any(|line| line.contains(word))
    }
}

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Faults {
    None,
    Cuts,
    CutsAndKills,
}

/// What follows from a seed.
pub(crate) struct Schedule {
    pub mix: &'static Mix,
    pub faults: Faults,
    writes: usize,
    steps: usize,
    /// How readily each site takes its turn.
    zeal: Vec<f64>,
    number: u64,
}

impl Schedule {
    fn of(world: &mut World, steps: Option<usize>) -> Self {
        let rng = &mut world.rng;
        // What several keys have to do with each other is where most can go wrong.
        let sites = world.sites.len();
        let only = std::env::var("MIX").ok();
        let weight = |mix: &Mix| match mix.name {
            // Two of them that meet are not mended among three.
            _ if mix.has("SWAPDB") && sites > 2 => 0,
            _ if only.as_ref().is_some_and(|only| mix.name != only) => 0,
            _ => 1 + 2 * mix.keys.saturating_sub(1),
        };
        let mix = MIXES.choose_weighted(rng, weight).unwrap();
        let faults = [Faults::None, Faults::Cuts, Faults::CutsAndKills];
        let faults = *faults.choose(rng).unwrap();
        let writes = *[2, 3, 4, 8, 20].choose(rng).unwrap();
        let pace = [4, 10, 25, 80].choose(rng).unwrap();
        let zeal = world.sites.iter();
        let zeal = zeal.map(|_| *[1.0, 1.0, 1.0, 0.3, 0.05].choose(rng).unwrap());
        let zeal = zeal.collect();
        for site in &mut world.sites {
            site.skew = *[0, 0, 40].choose(rng).unwrap();
            site.redis_skew = *[0, 0, 15, 60].choose(rng).unwrap();
        }
        world.expires = mix.has("@");
        Self {
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

    /// A client writes at some site.
    fn write(&mut self, world: &mut World) {
        let number = world.rng.random_range(0..world.sites.len());
        let line = *self.mix.commands.choose(&mut world.rng).unwrap();
        let lines = match line {
            "MULTI" => vec![self.line(world), self.line(world)],
            line => vec![self.filled(world, line)],
        };
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        write(world, number, &lines);
    }

    fn fail(&self, world: &mut World, number: usize) {
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

/// A client writes at a site.
pub(crate) fn write(world: &mut World, number: usize, lines: &[&str]) {
    let site = &mut world.sites[number];
    if site.redis.client(lines) {
        let site = &world.sites[number];
        let at = crate::site::START.0 + site.redis.stream.len() as u64;
        site.say(|| format!("a client: {lines:?} = {:?} @{at}", site.redis.data));
    }
}

/// What is known of a schedule that was run.
pub(crate) struct Ran {
    pub mix: &'static str,
    pub faults: Faults,
    pub states: usize,
    pub rounds: usize,
    pub result: Result<End, String>,
}

/// Runs the schedule of a seed.
pub(crate) fn run(seed: u64, sites: usize, steps: Option<usize>, traces: bool) -> Ran {
    let mut world = World::new(seed, sites);
    for site in &mut world.sites {
        site.traces = traces;
    }
    let mut schedule = Schedule::of(&mut world, steps);
    let result = perform(&mut world, &mut schedule);
    Ran {
        mix: schedule.mix.name,
        faults: schedule.faults,
        states: world.sites.iter().map(|site| site.states).sum(),
        rounds: world.rounds,
        result,
    }
}

fn perform(world: &mut World, schedule: &mut Schedule) -> Result<End, String> {
    let (steps, writes) = (schedule.steps, schedule.writes);
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
    if schedule.mix.name == "sums" {
        world.check_sums(schedule.faults == Faults::None)?;
    }
    Ok(end)
}

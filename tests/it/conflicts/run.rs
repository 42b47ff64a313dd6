//! Writes of both sites while the links are held: neither can know of the other's.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;

use super::case::{Case, Order};
use crate::conformance::case::Product;
use crate::harness::client::words;
use crate::harness::{Client, Pair, Site, patience, wait_for};

/// Commands in one pipeline.
const CHUNK: usize = 500;
/// Between the earlier and the later writes, by the clock that stamps them.
const APART_MS: u128 = 5;

/// How the sites are kept from hearing of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The session lives, and nothing passes.
    Stall,
    /// There is no session.
    Cut,
}

/// A pair of writes in one order, on keys of its own.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) case: Case,
    pub(crate) order: Order,
    prefix: String,
    databases: [usize; 2],
    /// How long keys live that are to expire while the links are held.
    ttl_ms: u128,
}

impl Instance {
    /// A line without placeholders.
    pub(crate) fn fill(&self, line: &str) -> String {
        line.replace('@', &self.prefix)
            .replace("{db}", &self.databases[0].to_string())
            .replace("{db2}", &self.databases[1].to_string())
            .replace("{ttl}", &self.ttl_ms.to_string())
    }

    /// Whether a key belongs to it.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix.as_bytes())
    }

    /// In one line.
    pub(crate) fn describe(&self) -> String {
        self.case.describe(self.order)
    }
}

/// What each write of an instance was answered at last, when that was a string.
pub(crate) type Replies = Vec<[Vec<u8>; 2]>;

/// Many instances, carried out while the links are held once.
pub(crate) struct Batch {
    pub(crate) instances: Vec<Instance>,
}

impl Batch {
    /// All orders of these cases that the server knows, and whose line has the text. Keys begin
    /// with the name; databases with their own number.
    pub(crate) fn new(
        client: &mut Client,
        (name, first_database): (&str, usize),
        cases: Vec<Case>,
        chosen: &str,
    ) -> Self {
        let product = Product::of(client);
        let known = cases.into_iter().filter(|case| case.is_known_to(&product));
        let ordered = known.flat_map(|case| {
            let orders = Order::all(case.is_symmetric());
            orders.map(move |order| (case, order))
        });
        let mut database = first_database;
        let instances = ordered
            .filter(|(case, order)| case.describe(*order).contains(chosen))
            .enumerate()
            .map(|(number, (case, order))| {
                let mut instance = Instance {
                    case,
                    order,
                    prefix: format!("{name}{number}:"),
                    databases: [0, 0],
                    ttl_ms: 0,
                };
                if lines_of(&case).any(|line| line.contains("{db")) {
                    instance.databases = [database, database + 1];
                    database += 2;
                }
                instance
            });
        Self {
            instances: instances.collect(),
        }
    }

    /// How many pairs.
    pub(crate) fn len(&self) -> usize {
        self.instances.len()
    }

    /// The first database that it does not use.
    pub(crate) fn next_database(&self, first: usize) -> usize {
        let used = self.instances.iter().map(|i| i.databases[1] + 1);
        used.fold(first, usize::max)
    }

    /// Only these of them; keys live for so long that are to expire while the links are held.
    pub(crate) fn only(mut self, chosen: impl Fn(&Instance) -> bool, ttl: Duration) -> Self {
        self.instances.retain(|instance| chosen(instance));
        for instance in &mut self.instances {
            instance.ttl_ms = ttl.as_millis();
        }
        self
    }

    /// A batch of each alone.
    pub(crate) fn one_by_one(self) -> impl Iterator<Item = Self> {
        self.instances.into_iter().map(|instance| Self {
            instances: vec![instance],
        })
    }

    /// Carries it out, until both sites are at rest.
    pub(crate) fn run(&self, pair: &Pair, hold: Hold) -> Replies {
        self.run_with(pair, hold, || {})
    }

    /// The same, with something between the earlier and the later writes.
    pub(crate) fn run_with(&self, pair: &Pair, hold: Hold, between: impl Fn()) -> Replies {
        let setups = self.instances.iter().enumerate();
        let setups = setups.map(|(number, i)| (number, fill_all(i, i.case.setup)));
        write(&mut pair.a.client(), &setups.collect::<Vec<_>>());
        pair.settle();

        hold.begin(pair);
        let heard = pair.sites().map(Heard::of);
        let mut replies: Replies = vec![[Vec::new(), Vec::new()]; self.instances.len()];
        for moment in [0, 1] {
            for (at, site) in pair.sites().into_iter().enumerate() {
                let own = self.instances.iter().enumerate().filter_map(|(number, i)| {
                    let form = i.order.in_time()[moment];
                    (i.order.site_of(form) == at).then_some((number, form, i))
                });
                let (forms, lines): (Vec<usize>, Vec<_>) = own
                    .map(|(number, form, i)| (form, (number, fill_all(i, i.case.pair[form].lines))))
                    .unzip();
                let answers = write(&mut site.client(), &lines);
                for (((number, _), form), answer) in lines.iter().zip(forms).zip(answers) {
                    replies[*number][form] = answer;
                }
            }
            pair.sites().into_iter().for_each(Site::wait_read);
            tick();
            if moment == 0 {
                between();
            }
        }
        for (site, before) in pair.sites().into_iter().zip(heard) {
            let name = site.name;
            assert_eq!(
                Heard::of(site),
                before,
                "{name} heard of the other's writes"
            );
        }
        pair.mend_link();
        pair.settle();
        replies
    }
}

impl Hold {
    /// Nothing passes from now on, until the link is mended.
    pub(crate) fn begin(self, pair: &Pair) {
        match self {
            Self::Cut => pair.cut_link(),
            Self::Stall => {
                for wire in [&pair.wire_a, &pair.wire_b] {
                    wire.up().stall();
                    wire.down().stall();
                }
            }
        }
    }
}

/// How much a site has heard of the other.
#[derive(Debug, PartialEq)]
struct Heard {
    received: u64,
    applied: u64,
}

impl Heard {
    fn of(site: &Site) -> Self {
        let status = site.sidecar.status().expect("a status");
        let peer = status.peers.first().expect("a peer");
        Self {
            received: peer.received_offset,
            applied: peer.records_applied,
        }
    }
}

/// Waits until what is read from now on gets a later stamp.
fn tick() {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.expect("a clock").as_millis()
    };
    let before = now();
    wait_for("the clock to go on", patience(1), || {
        now() >= before + APART_MS
    });
}

/// The writes of the table that leave nothing in the stream.
pub(crate) fn without_effect(client: &mut Client, cases: Vec<Case>) -> Vec<String> {
    let product = Product::of(client);
    let dirty =
        |client: &mut Client| client.info_number("persistence", "rdb_changes_since_last_save");
    let mut known = BTreeSet::new();
    let mut idle = Vec::new();
    for case in cases {
        if !case.is_known_to(&product) {
            continue;
        }
        for form in case.pair {
            if !known.insert((case.setup, form.lines)) {
                continue;
            }
            client.run("FLUSHALL");
            let instance = Instance {
                case,
                order: Order::all(true).next().expect("an order"),
                prefix: String::new(),
                databases: [1, 2],
                ttl_ms: 1,
            };
            write(client, &[(0, fill_all(&instance, case.setup))]);
            let before = dirty(client);
            write(client, &[(0, fill_all(&instance, form.lines))]);
            if dirty(client) == before {
                idle.push(form.lines.join("; "));
            }
        }
    }
    idle
}

fn lines_of(case: &Case) -> impl Iterator<Item = &'static str> {
    let writes = case.pair.iter().flat_map(|form| form.lines);
    case.setup.iter().chain(writes).copied()
}

/// The lines of an instance; afterwards database 0 is selected.
fn fill_all(instance: &Instance, lines: &[&str]) -> Vec<String> {
    let mut filled: Vec<String> = lines.iter().map(|line| instance.fill(line)).collect();
    if lines.iter().any(|line| line.starts_with("SELECT")) {
        filled.push("SELECT 0".to_owned());
    }
    filled
}

/// Sends the lines of many instances, which all must be accepted; the last reply to each instance,
/// when it was a string.
fn write(client: &mut Client, jobs: &[(usize, Vec<String>)]) -> Vec<Vec<u8>> {
    let lines = jobs.iter().enumerate();
    let lines: Vec<(usize, &String)> = lines
        .flat_map(|(job, (_, lines))| lines.iter().map(move |line| (job, line)))
        .collect();
    let mut replies = vec![Vec::new(); jobs.len()];
    for chunk in lines.chunks(CHUNK) {
        let mut pipe = redis::pipe();
        for (_, line) in chunk {
            let words = words(line);
            let mut command = redis::Cmd::new();
            words.iter().for_each(|word| {
                command.arg(word.as_slice());
            });
            pipe.add_command(command);
        }
        let answers: Vec<Value> = pipe
            .ignore_errors()
            .query(client.connection())
            .expect("a server that answers");
        for ((job, line), answer) in chunk.iter().zip(answers) {
            match answer {
                Value::BulkString(bytes) => replies[*job] = bytes,
                Value::ServerError(error) => panic!("{line}: {error}"),
                _ => {}
            }
        }
    }
    replies
}

//! Runs the table at a pair of sites, in both directions at once.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use super::case::{Names, Product};
use super::cases;
use super::listener::Listener;
use super::outcome::{Failure, Item, Outcome, PairReport, Verdict};
use super::perform::{ask, perform};
use crate::harness::compare::{Difference, differences};
use crate::harness::{Client, Options, Pair, Server, Tap, patience};

/// Databases of each server: enough that each case that needs some has its own.
const SERVER_OPTIONS: &[&str] = &["databases 256"];
/// How many pairs are started to find the cases that stop a link.
const MAX_ATTEMPTS: usize = 250;
/// Commands of a stream that are shown of one case.
const SHOWN: usize = 12;

/// Runs everything that these two versions know; the empty name is the server under test.
pub(crate) fn run(names: [&str; 2]) -> PairReport {
    let mut run = Run::new(names);
    let items = run.applicable();
    run.attempt(&items);
    run.report()
}

struct Run {
    versions: [String; 2],
    products: [Product; 2],
    verdicts: BTreeMap<Key, Verdict>,
    troubles: BTreeSet<String>,
    mended: BTreeSet<(usize, String, String)>,
    attempts: usize,
}

/// The name of the case and the site.
type Key = (&'static str, usize);

const fn key(item: &Item) -> Key {
    (item.case.name, item.from)
}

impl Run {
    fn new(names: [&str; 2]) -> Self {
        let products = names.map(|name| {
            let server = if name.is_empty() {
                Server::start(&[])
            } else {
                Server::version(name, &[])
            };
            Product::of(&mut server.client())
        });
        Self {
            versions: names.map(str::to_owned),
            products,
            verdicts: BTreeMap::new(),
            troubles: BTreeSet::new(),
            mended: BTreeSet::new(),
            attempts: 0,
        }
    }

    /// The cases that can run; the others get their verdict.
    fn applicable(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        for item in chosen() {
            let (origin, target) = (&self.products[item.from], &self.products[1 - item.from]);
            let lacking = item.case.needs.filter(|n| !n.since.knows(target));
            if !item.case.since.knows(origin) {
                self.verdicts.insert(key(&item), Verdict::TooOld);
            } else if lacking.is_some() {
                self.verdicts.insert(key(&item), Verdict::CannotHold);
            } else {
                items.push(item);
            }
        }
        items
    }

    /// Runs the items at a new pair. When the link does not come to rest, those that may be the
    /// reason run apart from the others, until each that is has been found.
    fn attempt(&mut self, items: &[Item]) {
        if items.is_empty() {
            return;
        }
        if self.attempts == MAX_ATTEMPTS {
            for item in items {
                let failure = Failure::new("not tried: too many cases stop the link", "");
                self.verdicts
                    .insert(key(item), Verdict::Fail(vec![failure]));
            }
            return;
        }
        self.attempts += 1;
        let mut stage = Stage::start(&self.versions, items);
        let rest = stage.run(items);
        self.mended.extend(stage.mended());
        let stuck = match rest {
            Ok(()) => {
                self.troubles.extend(stage.troubles());
                for item in items {
                    let failures = stage.found.remove(&key(item)).unwrap_or_default();
                    let verdict = self.verdict(item, failures);
                    self.verdicts.insert(key(item), verdict);
                }
                return;
            }
            Err(stuck) => stuck,
        };
        if let [item] = items {
            let mut failures = stage.found.remove(&key(item)).unwrap_or_default();
            failures.push(stuck.failure);
            let verdict = self.verdict(item, failures);
            self.verdicts.insert(key(item), verdict);
            return;
        }
        drop(stage);
        let (suspects, others) = split(items, &stuck.suspects);
        self.attempt(&others);
        if stuck.suspects.is_empty() {
            self.attempt(&suspects);
            return;
        }
        for suspect in suspects {
            self.attempt(&[suspect]);
        }
    }

    fn verdict(&self, item: &Item, failures: Vec<Failure>) -> Verdict {
        let unsaid = item.case.unsaid.is_some_and(|unsaid| {
            let fixed = unsaid
                .until
                .is_some_and(|u| u.knows(&self.products[item.from]));
            !fixed
        });
        if failures.is_empty() {
            Verdict::Pass
        } else if unsaid {
            Verdict::Unsaid
        } else {
            Verdict::Fail(failures)
        }
    }

    fn report(mut self) -> PairReport {
        let mut names = self.versions.clone();
        for (name, product) in names.iter_mut().zip(&self.products) {
            if name.is_empty() {
                *name = product.describe();
            }
        }
        let outcomes = chosen().into_iter().filter_map(|item| {
            let verdict = self.verdicts.remove(&key(&item))?;
            Some(Outcome { item, verdict })
        });
        PairReport {
            names,
            outcomes: outcomes.collect(),
            troubles: self.troubles.into_iter().collect(),
            mended: self.mended,
            generated: Vec::new(),
        }
    }
}

/// Every case in both directions; `TANDEM_CASE=text` chooses those whose name or group has it.
fn chosen() -> Vec<Item> {
    let text = env::var("TANDEM_CASE").unwrap_or_default();
    let mut items = Vec::new();
    for (group, case) in cases::all() {
        if case.name.contains(&text) || group.contains(&text) {
            items.extend([0, 1].map(|from| Item { group, case, from }));
        }
    }
    items
}

/// The suspects and the others; when none is a suspect, two halves.
fn split(items: &[Item], suspects: &BTreeSet<Key>) -> (Vec<Item>, Vec<Item>) {
    let (left, right): (Vec<Item>, Vec<Item>) =
        items.iter().partition(|item| suspects.contains(&key(item)));
    if left.is_empty() {
        let (left, right) = items.split_at(items.len() / 2);
        return (left.to_vec(), right.to_vec());
    }
    (left, right)
}

/// Why a pair did not come to rest, and whose keys it waits for.
struct Stuck {
    failure: Failure,
    suspects: BTreeSet<Key>,
}

/// One pair on which items run.
struct Stage {
    pair: Pair,
    listeners: [Listener; 2],
    taps: Option<[Tap; 2]>,
    /// A server of the version of each site, elsewhere.
    elsewhere: Option<[Server; 2]>,
    found: BTreeMap<Key, Vec<Failure>>,
    /// Keys whose difference has been reported.
    known: BTreeSet<(usize, Vec<u8>)>,
    databases: BTreeMap<Key, [usize; 2]>,
}

impl Stage {
    fn start(versions: &[String; 2], items: &[Item]) -> Self {
        let options = Options {
            versions: versions.clone(),
            servers: SERVER_OPTIONS,
            ..Options::default()
        };
        let pair = Pair::start(&options);
        for site in pair.sites() {
            // They are judged here, case by case.
            site.sidecar.expect_errors("");
        }
        let has = |text: &str| {
            items
                .iter()
                .any(|i| i.case.lines.iter().any(|l| l.contains(text)))
        };
        let channels: Vec<String> = items
            .iter()
            .filter(|i| i.case.lines.iter().any(|l| l.starts_with("SPUBLISH")))
            .map(|i| format!("{}1", i.prefix()))
            .collect();
        let elsewhere = has("{port}").then(|| {
            [&pair.a, &pair.b].map(|site| {
                let version = &versions[usize::from(site.name == "b")];
                if version.is_empty() {
                    Server::start(&[])
                } else {
                    Server::version(version, &[])
                }
            })
        });
        let own = items.iter().filter(|item| item.case.has_databases());
        let databases = own
            .enumerate()
            .map(|(n, i)| (key(i), [2 * n + 1, 2 * n + 2]));
        Self {
            listeners: pair.sites().map(|site| Listener::on(site, &channels)),
            taps: env::var_os("TANDEM_TAP").map(|_| pair.sites().map(|s| Tap::on(s.server.port()))),
            elsewhere,
            found: BTreeMap::new(),
            known: BTreeSet::new(),
            databases: databases.collect(),
            pair,
        }
    }

    /// First those that do not disturb each other, then the others one by one.
    fn run(&mut self, items: &[Item]) -> Result<(), Stuck> {
        let (mut alone, together): (Vec<Item>, Vec<Item>) =
            items.iter().partition(|i| i.case.alone);
        // After FLUSHALL there is less to compare.
        alone.sort_by_key(|item| item.group != "server");
        self.perform(&together);
        self.rest(&together)?;
        self.judge(&together);
        for item in &alone {
            self.perform(&[*item]);
            self.rest(&[*item])?;
            self.judge(&[*item]);
        }
        let echoes = self.pair.echoes();
        if let [item, ..] = items {
            let echoes = echoes.into_iter().map(|e| Failure::new("echo", e));
            self.found
                .entry(("", item.from))
                .or_default()
                .extend(echoes);
        }
        for item in items {
            self.judge_messages(item);
        }
        self.show_streams(items);
        Ok(())
    }

    /// Carries out the cases of both sites at the same time.
    fn perform(&mut self, items: &[Item]) {
        let wrong: Vec<(Key, Vec<String>)> = thread::scope(|scope| {
            let this = &*self;
            let sites = [0, 1].map(|from| {
                scope.spawn(move || {
                    let site = this.pair.sites()[from];
                    let mut client = site.client();
                    let own = items.iter().filter(|item| item.from == from);
                    own.map(|item| {
                        let names = this.names(item);
                        (key(item), perform(site, &mut client, item.case, &names))
                    })
                    .collect::<Vec<_>>()
                })
            });
            let sites = sites.map(|site| site.join().expect("a site's client"));
            sites.into_iter().flatten().collect()
        });
        for (key, wrong) in wrong {
            let failures = wrong.into_iter();
            let failures = failures.map(|w| Failure::new("the server that writes disagrees", w));
            self.found.entry(key).or_default().extend(failures);
        }
    }

    fn names(&self, item: &Item) -> Names {
        let elsewhere = self.elsewhere.as_ref();
        Names {
            site: ["a", "b"][item.from],
            prefix: item.prefix(),
            databases: self.databases.get(&key(item)).copied().unwrap_or_default(),
            port: elsewhere.map_or(0, |servers| servers[item.from].port()),
        }
    }

    fn rest(&self, items: &[Item]) -> Result<(), Stuck> {
        let start = Instant::now();
        loop {
            let Err(reason) = self.pair.try_settle(Duration::from_millis(500)) else {
                return Ok(());
            };
            let failure = if let Some((site, stop)) = self.pair.stopped() {
                let detail = format!("{site}: {}", stop.detail);
                Failure::new(&format!("the link stops: {}", stop.reason), detail)
            } else if start.elapsed() > patience(20) {
                Failure::new("the sites do not come to rest", reason)
            } else {
                continue;
            };
            let suspects = self.suspects(items);
            return Err(Stuck { failure, suspects });
        }
    }

    /// The items whose keys a site is still owed.
    fn suspects(&self, items: &[Item]) -> BTreeSet<Key> {
        let mut owed: Vec<Vec<u8>> = Vec::new();
        for site in self.pair.sites() {
            let mut client = site.client();
            for key in client.ask::<Vec<String>>("KEYS tandem:*") {
                if client.ask::<String>(&format!("TYPE {key}")) == "set" {
                    owed.extend(client.ask::<Vec<Vec<u8>>>(&format!("SMEMBERS {key}")));
                }
            }
        }
        let is_owed = |item: &&Item| {
            let prefix = item.prefix().into_bytes();
            let has = |key: &Vec<u8>| key.windows(prefix.len()).any(|w| w == prefix);
            owed.iter().any(has)
        };
        items.iter().filter(is_owed).map(key).collect()
    }

    /// Compares the sites at rest. What differs belongs to one of the items.
    fn judge(&mut self, items: &[Item]) {
        let (mut a, mut b) = self.pair.clients();
        let (_, differences) = differences(&mut a, &mut b);
        for difference in differences {
            if !self.known.insert((difference.db, difference.key.clone())) {
                continue;
            }
            let item = self.owner(items, &difference);
            let failure = Failure::of_key(&difference, &item);
            self.found.entry(key(&item)).or_default().push(failure);
        }
        for item in items {
            let names = self.names(item);
            for (question, answer) in item.case.answers {
                for (site, client) in [("a", &mut a), ("b", &mut b)] {
                    let said = ask(client, &names.fill(question));
                    if said != *answer {
                        let what = format!("{question} should be {answer}");
                        let failure = Failure::new(&what, format!("{site} says {said}"));
                        self.found.entry(key(item)).or_default().push(failure);
                    }
                }
            }
            if item.group == "functions" {
                self.judge_functions(item, [&mut a, &mut b]);
            }
        }
    }

    fn owner(&self, items: &[Item], difference: &Difference) -> Item {
        let begins = |i: &&Item| difference.key.starts_with(i.prefix().as_bytes());
        let has = |i: &&Item| {
            self.databases
                .get(&key(i))
                .is_some_and(|d| d.contains(&difference.db))
        };
        let found = items.iter().find(begins).or_else(|| items.iter().find(has));
        *found.unwrap_or(&items[0])
    }

    fn judge_functions(&mut self, item: &Item, clients: [&mut Client; 2]) {
        let lists = clients.map(|client| match client.try_run("FUNCTION LIST WITHCODE") {
            Ok(Value::Array(libraries)) => {
                let mut libraries: Vec<String> =
                    libraries.iter().map(|l| format!("{l:?}")).collect();
                libraries.sort();
                libraries.join(" ")
            }
            other => format!("{other:?}"),
        });
        if lists[0] != lists[1] {
            let failure = Failure::new("other functions", lists.join(" / "));
            self.found.entry(key(item)).or_default().push(failure);
        }
    }

    /// Each message is heard once at each site, in the order of its site.
    fn judge_messages(&mut self, item: &Item) {
        let [a, b] = [0, 1].map(|site: usize| self.listeners[site].heard(&item.prefix()));
        let distinct: BTreeSet<_> = a.iter().collect();
        if a != b || distinct.len() < a.len() {
            let failure = Failure::new("messages differ", format!("{a:?} / {b:?}"));
            self.found.entry(key(item)).or_default().push(failure);
        }
    }

    /// With `TANDEM_TAP`, what both streams had of each case that fails, and the ends of the logs.
    fn show_streams(&self, items: &[Item]) {
        let Some(taps) = &self.taps else {
            return;
        };
        let streams = taps.each_ref().map(Tap::content);
        let fails = |item: &&Item| self.found.get(&key(item)).is_some_and(|f| !f.is_empty());
        for item in items.iter().filter(fails) {
            println!("{} of site {}:", item.case.name, ["a", "b"][item.from]);
            for (site, commands) in ["a", "b"].iter().zip(&streams) {
                let own = commands.iter().filter(|c| c.contains(&item.prefix()));
                let mut own: Vec<String> = own.map(|c| c.escape_debug().to_string()).collect();
                own.drain(..own.len().saturating_sub(SHOWN));
                for command in own {
                    println!("  {site}: {command:.300}");
                }
            }
        }
        if items.iter().any(|item| fails(&item)) {
            for site in self.pair.sites() {
                let log = site.sidecar.log();
                let lines = log
                    .lines()
                    .filter(|l| l.contains(" WARN ") || l.contains(" ERROR "));
                let lines: Vec<&str> = lines.collect();
                for line in &lines[lines.len().saturating_sub(SHOWN)..] {
                    println!("  log of {}: {line:.400}", site.name);
                }
            }
        }
    }

    /// What no case explains: echoes, and errors in the logs.
    fn troubles(&self) -> BTreeSet<String> {
        let unowned = self.found.iter().filter(|(key, _)| key.0.is_empty());
        let failures = unowned.flat_map(|(_, failures)| failures);
        let mut troubles: BTreeSet<String> = failures.map(|f| f.detail.clone()).collect();
        for site in self.pair.sites() {
            let log = site.sidecar.log();
            let errors = log.lines().filter(|line| line.contains(" ERROR "));
            troubles.extend(errors.map(|line| format!("{}: {line}", site.name)));
        }
        troubles
    }

    /// The commands that failed where they were applied, by the log.
    fn mended(&self) -> BTreeSet<(usize, String, String)> {
        let mut found = BTreeSet::new();
        for (number, site) in self.pair.sites().into_iter().enumerate() {
            let log = site.sidecar.log();
            for line in log
                .lines()
                .filter(|l| l.contains("a command of the peer failed here"))
            {
                let field = |name: &str| {
                    let value = line.split_once(name)?.1;
                    Some(value.trim_start_matches(['=', '"']))
                };
                let command = field(" command=").and_then(|v| v.split(['"', ' ']).next());
                let error = field(" error=").map(|v| v.split(" command=").next().unwrap_or(v));
                let (command, error) = (command.unwrap_or_default(), error.unwrap_or_default());
                // The arguments would be another text in each run.
                let error = error.split(", with args").next().unwrap_or(error);
                let error = error.replace(['`', '"'], "");
                found.insert((number, command.to_uppercase(), error));
            }
        }
        found
    }
}

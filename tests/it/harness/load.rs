//! Clients that write all the time, remember what they were told, and say afterwards what must be
//! there: everything acknowledged, nothing twice, and what is unknown at most once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::client::{Client, was_refused};
use super::wait::{let_pass, patience, wait_for};

/// Counters that all sites increment.
const COUNTERS: usize = 4;
/// How long a client waits before it tries again when its server is gone.
const RETRY: Duration = Duration::from_millis(20);

/// One running client per site.
pub(crate) struct Load {
    control: Arc<Control>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What the clients are told.
struct Control {
    stopping: AtomicBool,
    pausing: AtomicBool,
    /// How many have heard of the pause.
    paused: AtomicUsize,
    /// Where each one's server listens.
    ports: Vec<AtomicU16>,
}

/// What a client did.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    site: String,
    /// Per counter: increments acknowledged, and increments without an answer.
    sums: BTreeMap<String, (u64, u64)>,
    /// Elements pushed, in order, with whether that was acknowledged.
    pushed: Vec<(u64, bool)>,
}

impl Load {
    /// Starts a client at each of these sites, with this pause between writes.
    pub(crate) fn start(sites: &[(&str, u16)], pause: Duration, seed: u64) -> Self {
        let control = Arc::new(Control {
            stopping: AtomicBool::new(false),
            pausing: AtomicBool::new(false),
            paused: AtomicUsize::new(0),
            ports: sites
                .iter()
                .map(|(_, port)| AtomicU16::new(*port))
                .collect(),
        });
        let clients = sites
            .iter()
            .enumerate()
            .zip(seed..)
            .map(|((index, (site, _)), seed)| {
                let (site, control) = ((*site).to_owned(), Arc::clone(&control));
                thread::spawn(move || {
                    let mut writer = Writer::new(site, seed);
                    while !control.stopping.load(Ordering::SeqCst) {
                        control.pause();
                        writer.write(control.ports[index].load(Ordering::SeqCst));
                        let_pass(pause);
                    }
                    writer.tally
                })
            })
            .collect();
        Self { control, clients }
    }

    /// Waits until no client has anything under way, and lets none begin anything.
    pub(crate) fn pause(&self) {
        self.control.pausing.store(true, Ordering::SeqCst);
        wait_for("the clients to pause", patience(30), || {
            self.control.paused.load(Ordering::SeqCst) == self.clients.len()
        });
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.control.pausing.store(false, Ordering::SeqCst);
    }

    /// From its next connection on, the client of this site goes to the server on this port.
    pub(crate) fn redirect(&self, index: usize, port: u16) {
        self.control.ports[index].store(port, Ordering::SeqCst);
    }

    /// Stops the clients and takes what they remember.
    pub(crate) fn finish(self) -> Vec<Tally> {
        self.control.stopping.store(true, Ordering::SeqCst);
        self.resume();
        let clients = self.clients.into_iter();
        clients.map(|c| c.join().expect("a client")).collect()
    }
}

impl Control {
    fn pause(&self) {
        if !self.pausing.load(Ordering::SeqCst) {
            return;
        }
        self.paused.fetch_add(1, Ordering::SeqCst);
        while self.pausing.load(Ordering::SeqCst) {
            let_pass(RETRY);
        }
        self.paused.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Writer {
    tally: Tally,
    /// Of the server to which it connects.
    port: u16,
    client: Option<Client>,
    rng: StdRng,
    next: u64,
}

impl Writer {
    fn new(site: String, seed: u64) -> Self {
        Self {
            tally: Tally {
                site,
                ..Tally::default()
            },
            port: 0,
            client: None,
            rng: StdRng::seed_from_u64(seed),
            next: 0,
        }
    }

    fn write(&mut self, port: u16) {
        if self.port != port {
            (self.port, self.client) = (port, None);
        }
        let site = self.tally.site.clone();
        match self.rng.random_range(0..10) {
            0..5 => {
                let counter = format!("n:{}", self.rng.random_range(0..COUNTERS));
                let answer = self.send(&[&["INCR", &counter]]);
                self.tally.count(&counter, 1, answer);
            }
            5 => {
                let answer = self.send(&[&["INCRBY", "n:by", "7"]]);
                self.tally.count("n:by", 7, answer);
            }
            6 => {
                let answer = self.send(&[&["INCR", "whole:x"], &["INCR", "whole:y"]]);
                self.tally.count("whole:x", 1, answer);
                self.tally.count("whole:y", 1, answer);
            }
            _ => {
                self.next += 1;
                let number = self.next.to_string();
                let own = format!("list:{site}");
                let element = format!("{site}:{number}");
                let answer = self.send(&[&["RPUSH", &own, &number], &["SADD", "set", &element]]);
                if let Some(acknowledged) = answer {
                    self.tally.pushed.push((self.next, acknowledged));
                }
            }
        }
    }

    /// Sends one command, or several as one transaction. `Some(true)`: acknowledged;
    /// `Some(false)`: unknown; `None`: certainly not executed.
    fn send(&mut self, commands: &[&[&str]]) -> Option<bool> {
        let client = match self.client.take() {
            Some(client) => client,
            None => match Client::try_connect(self.port) {
                Ok(client) => client,
                Err(_) => {
                    let_pass(RETRY);
                    return None;
                }
            },
        };
        let client = self.client.insert(client);
        let mut pipe = redis::pipe();
        if commands.len() > 1 {
            pipe.atomic();
        }
        for command in commands {
            pipe.cmd(command[0]).arg(&command[1..]);
        }
        match pipe.query::<redis::Value>(client.connection()) {
            Ok(_) => Some(true),
            Err(error) if was_refused(&error) => None,
            Err(_) => {
                self.client = None;
                Some(false)
            }
        }
    }
}

impl Tally {
    fn count(&mut self, counter: &str, amount: u64, answer: Option<bool>) {
        let sums = self.sums.entry(counter.to_owned()).or_default();
        match answer {
            Some(true) => sums.0 += amount,
            Some(false) => sums.1 += amount,
            None => {}
        }
    }

    /// How many writes were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        let counted: u64 = self.sums.values().map(|(sure, _)| *sure).sum();
        let pushed = self.pushed.iter().filter(|(_, sure)| *sure).count();
        usize::try_from(counted).expect("a small number") + pushed
    }

    /// How many writes were never answered.
    pub(crate) fn unknown(&self) -> usize {
        let counted: u64 = self.sums.values().map(|(_, unsure)| *unsure).sum();
        let pushed = self.pushed.iter().filter(|(_, sure)| !*sure).count();
        usize::try_from(counted).expect("a small number") + pushed
    }
}

/// Fails unless a site holds what these clients were told.
pub(crate) fn check(tallies: &[Tally], client: &mut Client) {
    let missing = lost(tallies, client);
    assert!(missing.is_empty(), "{}", missing.join("; "));
}

/// What of that a site does not hold, in words. Fails if it holds anything twice, out of order, or in
/// part.
pub(crate) fn lost(tallies: &[Tally], client: &mut Client) -> Vec<String> {
    let mut missing = Vec::new();
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (counter, (sure, unsure)) in tallies.iter().flat_map(|t| &t.sums) {
        let sum = sums.entry(counter).or_default();
        sum.0 += sure;
        sum.1 += unsure;
    }
    for (counter, (sure, unsure)) in sums {
        let value: Option<u64> = client.ask(&format!("GET {counter}"));
        let value = value.unwrap_or(0);
        let by_site = || -> Vec<_> {
            let sites = tallies.iter();
            sites.map(|t| (&t.site, t.sums.get(counter))).collect()
        };
        let words = || {
            format!(
                "{counter} is {value}; {sure} were acknowledged and {unsure} not answered; by site \
                 {:?}",
                by_site()
            )
        };
        assert!(value <= sure + unsure, "{}", words());
        if value < sure {
            missing.push(words());
        }
    }
    let whole: (Option<u64>, Option<u64>) = client.ask("MGET whole:x whole:y");
    assert_eq!(whole.0, whole.1, "a transaction was taken in part");
    let members: Vec<String> = client.ask("SMEMBERS set");
    let mut expected = 0;
    for tally in tallies {
        let site = &tally.site;
        let list: Vec<u64> = client.ask(&format!("LRANGE list:{site} 0 -1"));
        missing.extend(lost_of_list(tally, &list));
        expected += list.len();
        for element in &list {
            assert!(
                members.contains(&format!("{site}:{element}")),
                "{site}:{element} is in the list but not in the set"
            );
        }
    }
    assert_eq!(members.len(), expected, "members of the set");
    missing
}

/// Every element at most once, all in order; the acknowledged ones that are not there.
fn lost_of_list(tally: &Tally, list: &[u64]) -> Vec<String> {
    let site = &tally.site;
    for pair in list.windows(2) {
        assert!(
            pair[0] < pair[1],
            "list:{site} has {} before {}",
            pair[0],
            pair[1]
        );
    }
    let known = |n: &&u64| tally.pushed.iter().any(|(pushed, _)| pushed == *n);
    let strange: Vec<&u64> = list.iter().filter(|n| !known(n)).collect();
    assert!(strange.is_empty(), "list:{site} has {strange:?}");
    let is_lost = |(number, acknowledged): &&(u64, bool)| {
        *acknowledged && list.binary_search(number).is_err()
    };
    let lost = tally.pushed.iter().filter(is_lost);
    lost.map(|(number, _)| format!("list:{site} has lost {number}, which was acknowledged"))
        .collect()
}

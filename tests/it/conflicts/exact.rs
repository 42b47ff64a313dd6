//! Clients of both sites that write to the same keys only what adds up, and remember what they were
//! told: nothing of it may be lost, and nothing may be there twice.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;

use crate::harness::{Client, Server, Site};

/// Apart from what others flush and swap.
const DATABASE: usize = 5;
/// Keys of each type.
const KEYS: usize = 4;

/// What a client wrote, all of it acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    site: &'static str,
    /// By key, or by key and field.
    amounts: BTreeMap<(String, Option<String>), i64>,
    /// By key; numbers in the order in which they were pushed.
    members: BTreeMap<String, Vec<u64>>,
    pushed: BTreeMap<String, Vec<u64>>,
    next: u64,
}

/// A client of one site.
pub(crate) struct Adder {
    client: Client,
    rng: StdRng,
    sums: Sums,
}

impl Adder {
    /// A client of this site, whose server must not be restarted. What it adds to sets and lists has numbers behind
    /// `from`.
    pub(crate) fn new(site: &'static str, server: &Server, (rng, from): (StdRng, u64)) -> Self {
        let mut client = server.client();
        client.run(&format!("SELECT {DATABASE}"));
        let sums = Sums {
            site,
            next: from,
            ..Sums::default()
        };
        Self { client, rng, sums }
    }

    /// Writes once.
    pub(crate) fn add(&mut self) {
        let number = self.rng.random_range(0..KEYS);
        let amount = self.rng.random_range(-5..10_i64);
        let (counter, hash) = (format!("n{number}"), format!("h{number}"));
        match self.rng.random_range(0..8) {
            0 | 1 => {
                self.client.run(&format!("INCR {counter}"));
                self.sums.count(&counter, None, 1);
            }
            2 => {
                self.client.run(&format!("INCRBY {counter} {amount}"));
                self.sums.count(&counter, None, amount);
            }
            3 => {
                let field = format!("f{}", self.rng.random_range(0..3));
                let line = format!("HINCRBY {hash} {field} {amount}");
                self.client.run(&line);
                self.sums.count(&hash, Some(&field), amount);
            }
            4 => {
                let lines = [
                    "MULTI",
                    &format!("DECR {counter}"),
                    "INCRBY whole 2",
                    "EXEC",
                ];
                lines.iter().for_each(|line| drop(self.client.run(line)));
                self.sums.count(&counter, None, -1);
                self.sums.count("whole", None, 2);
            }
            5 | 6 => {
                let (key, next) = (format!("s{number}"), self.sums.next());
                let site = self.sums.site;
                self.client.run(&format!("SADD {key} {site}:{next}"));
                self.sums.members.entry(key).or_default().push(next);
            }
            _ => {
                let (key, next) = (format!("l{number}"), self.sums.next());
                let site = self.sums.site;
                self.client.run(&format!("RPUSH {key} {site}:{next}"));
                self.sums.pushed.entry(key).or_default().push(next);
            }
        }
    }

    /// What it was told.
    pub(crate) fn finish(self) -> Sums {
        self.sums
    }
}

impl Sums {
    fn count(&mut self, key: &str, field: Option<&str>, amount: i64) {
        let place = (key.to_owned(), field.map(str::to_owned));
        *self.amounts.entry(place).or_default() += amount;
    }

    /// The last number that it has given to anything.
    pub(crate) const fn last_number(&self) -> u64 {
        self.next
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// What a site does not hold of what these clients were told, or holds twice.
pub(crate) fn wrong(sums: &[Sums], site: &Site) -> Vec<String> {
    let mut client = site.client();
    client.run(&format!("SELECT {DATABASE}"));
    let mut wrong = Vec::new();
    let mut amounts: BTreeMap<&(String, Option<String>), i64> = BTreeMap::new();
    for (place, amount) in sums.iter().flat_map(|s| &s.amounts) {
        *amounts.entry(place).or_default() += amount;
    }
    for ((key, field), expected) in amounts {
        let held: Option<i64> = match field {
            Some(field) => client.ask(&format!("HGET {key} {field}")),
            None => client.ask(&format!("GET {key}")),
        };
        if held.unwrap_or(0) != expected {
            let field = field.as_deref().unwrap_or_default();
            wrong.push(format!(
                "{key} {field}: {held:?}, but {expected} were added"
            ));
        }
    }
    for number in 0..KEYS {
        let key = format!("s{number}");
        let members: Vec<String> = client.ask(&format!("SMEMBERS {key}"));
        wrong.extend(missing(&key, members, sums, |s| &s.members));
        let key = format!("l{number}");
        let elements: Vec<String> = client.ask(&format!("LRANGE {key} 0 -1"));
        wrong.extend(out_of_order(&key, &elements, sums));
        wrong.extend(missing(&key, elements, sums, |s| &s.pushed));
    }
    let name = site.name;
    wrong.into_iter().map(|w| format!("{name}: {w}")).collect()
}

/// How what is held differs from what was added, as multisets.
fn missing(
    key: &str,
    held: Vec<String>,
    sums: &[Sums],
    kind: fn(&Sums) -> &BTreeMap<String, Vec<u64>>,
) -> Option<String> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for element in held {
        *counts.entry(element).or_default() += 1;
    }
    for sum in sums {
        for number in kind(sum).get(key).into_iter().flatten() {
            *counts.entry(format!("{}:{number}", sum.site)).or_default() -= 1;
        }
    }
    counts.retain(|_, count| *count != 0);
    let lost = counts.values().filter(|count| **count < 0).count();
    let first: Vec<_> = counts.iter().take(8).collect();
    let twice = counts.len() - lost;
    (!counts.is_empty())
        .then(|| format!("{key}: {lost} lost, {twice} more often than added: {first:?} …"))
}

/// What one site pushed stands in its order.
fn out_of_order(key: &str, elements: &[String], sums: &[Sums]) -> Option<String> {
    sums.iter().find_map(|sum| {
        let own = elements.iter().filter_map(|element| {
            let (site, number) = element.split_once(':')?;
            (site == sum.site).then(|| number.parse::<u64>().expect("a number"))
        });
        let own: Vec<u64> = own.collect();
        let back = own.windows(2).find(|pair| pair[0] > pair[1])?;
        let [earlier, later] = back else { return None };
        Some(format!("{key}: {}:{earlier} before {later}", sum.site))
    })
}

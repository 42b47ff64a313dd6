//! What clients have added, and what must be left of it.

use std::collections::BTreeMap;

use tandem::command::for_each_in;

use crate::redis::{Entry, Value};
use crate::site::Site;
use crate::world::World;

/// What adds one to a key.
const ADDS: [&str; 3] = ["INCR", "HINCRBY", "RPUSH"];

/// Per key.
type Sums = BTreeMap<Vec<u8>, i64>;

/// Of a site.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// What it had when it met the others: one site's stays.
    found: Sums,
    /// How often clients have added one.
    made: Sums,
    /// Of that, what its Redis has lost before anybody had read it: no more than this.
    lost: Sums,
}

impl Ledger {
    /// A client has executed a command.
    pub(crate) fn note(&mut self, line: &str) {
        let mut words = line.split(' ');
        if let (Some(name), Some(key)) = (words.next(), words.next())
            && ADDS.contains(&name)
        {
            *self.made.entry(key.as_bytes().to_vec()).or_default() += 1;
        }
    }
}

impl Site {
    /// It is about to meet the others.
    pub(crate) fn open_ledger(&mut self) {
        let data = self.redis.data.iter();
        let found = data.map(|((_, key), entry)| (key.to_vec(), sum(entry)));
        self.ledger.found = found.collect();
    }

    /// Its Redis loses what it has: what is in the journal comes back.
    pub(crate) fn write_off(&mut self) {
        self.ledger.lost = self.ledger.made.clone();
        for record in &self.journal.records {
            for_each_in(&record.commands, record.db, |command, _| {
                if ADDS.iter().any(|name| command.is(name.as_bytes()))
                    && let Some(lost) = self.ledger.lost.get_mut(command.arg(1))
                {
                    *lost -= 1;
                }
            })
            .unwrap();
        }
    }
}

impl World {
    /// Where clients have only added: whether nothing is lost or there twice; and, where it `is_quiet`, no state
    /// was sent.
    pub(crate) fn check_sums(&self, is_quiet: bool) -> Result<(), String> {
        let states: usize = self.sites.iter().map(|site| site.states).sum();
        if states > 0 && is_quiet {
            return Err(format!("{states} states were sent of what only grows"));
        }
        let total = |key: &[u8], of: fn(&Ledger) -> &Sums| -> i64 {
            let sites = self.sites.iter().map(|site| of(&site.ledger));
            sites.filter_map(|sums| sums.get(key)).sum()
        };
        let made: Sums = self
            .sites
            .iter()
            .flat_map(|site| site.ledger.made.clone())
            .collect();
        for key in made.into_keys() {
            let here = self.sites[0].redis.data.get(&(0, key.clone().into()));
            let (sum, made) = (here.map_or(0, sum), total(&key, |ledger| &ledger.made));
            let least = made - total(&key, |ledger| &ledger.lost);
            let found = self.sites.iter().map(|site| &site.ledger.found);
            let found: Vec<i64> = found
                .map(|found| found.get(&key).copied().unwrap_or(0))
                .collect();
            if !found
                .iter()
                .any(|found| (least..=made).contains(&(sum - found)))
            {
                return Err(format!(
                    "{sum} instead of {least} to {made} more than one of {found:?}: {key:?}"
                ));
            }
        }
        Ok(())
    }
}

fn sum(entry: &Entry) -> i64 {
    let number = |text: &Vec<u8>| String::from_utf8_lossy(text).parse::<i64>().unwrap();
    match &entry.value {
        Value::Text(text) => number(text),
        Value::Hash(hash) => hash.values().map(number).sum(),
        Value::List(list) => i64::try_from(list.len()).unwrap(),
        _ => 0,
    }
}

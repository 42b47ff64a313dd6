//! Going through all keys, and looking again at those that seem to differ.
//!
//! The first site is scanned, and each batch of its keys is read at all sites at the same time: so a
//! key looks different only while a write is on its way, however long the whole takes. Then the other
//! sites are scanned for keys that the first has not. Nothing is kept of keys that are equal, so the
//! memory does not grow with their number.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};
use xxhash_rust::xxh3::xxh3_64;

use super::entry::{Look, difference};
use super::progress::Progress;
use super::recheck::{Found, Suspect, Verdict, pauses};
use super::site::{BATCH, Error, Site};
use crate::config::{Databases, Keys, Sync};
use crate::model::is_reserved;

/// Suspects that are collected before they are looked at again: many share the pauses.
const SUSPECTS: usize = 10_000;

/// The most bytes of names of suspects: names may be long.
const SUSPECT_BYTES: usize = 16 << 20;

/// The most keys that are found to differ, and the most bytes of their names: beyond that something
/// is wrong as a whole, and another key more says nothing.
pub const MOST_FOUND: usize = 100_000;
const MOST_FOUND_BYTES: usize = 64 << 20;

/// Which keys are compared.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// What of the data is synced.
    pub databases: Databases,
    /// And which keys of it.
    pub keys: Keys,
    /// The part of the keys that is compared, from above 0 to 1.
    pub sample: f64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// How many keys each site has, of those selected.
    pub keys: Vec<u64>,
    /// How many different keys were compared.
    pub compared: u64,
    /// Those that differ.
    pub found: Vec<Found>,
    /// Whether it was given up because too many differ.
    pub is_cut: bool,
}

/// A comparison under way.
#[derive(Debug)]
pub struct Comparison {
    sites: Vec<Site>,
    selection: Selection,
    patience: Duration,
    pace: Pace,
    progress: Progress,
    suspects: Vec<Suspect>,
    suspect_bytes: usize,
    found_bytes: usize,
    findings: Findings,
}

impl Selection {
    /// What these settings select, or everything, and of that a part.
    #[must_use]
    pub fn new(sync: Option<&Sync>, sample: f64) -> Self {
        Self {
            databases: sync.map(|s| s.databases.clone()).unwrap_or_default(),
            keys: sync.map(|s| s.keys.clone()).unwrap_or_default(),
            sample,
        }
    }

    fn has_database(&self, db: u32) -> bool {
        match &self.databases {
            Databases::All => true,
            Databases::Only(only) => only.contains(&db),
        }
    }

    /// By the name alone, so that all sites choose the same keys.
    fn has(&self, key: &[u8]) -> bool {
        let Keys { include, exclude } = &self.keys;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a part of all keys need not be exact"
        )]
        let share = xxh3_64(key) as f64 / u64::MAX as f64;
        !is_reserved(key)
            && (include.is_empty() || include.iter().any(|p| p.matches(key)))
            && !exclude.iter().any(|p| p.matches(key))
            && (self.sample >= 1.0 || share < self.sample)
    }
}

impl Comparison {
    /// One of these sites. `rate`: the most keys a second, 0 for no limit.
    #[must_use]
    pub fn new(
        sites: Vec<Site>,
        selection: Selection,
        patience: Duration,
        rate: u64,
        progress: Progress,
    ) -> Self {
        let findings = Findings {
            keys: vec![0; sites.len()],
            ..Findings::default()
        };
        Self {
            sites,
            selection,
            patience,
            pace: Pace::new(rate),
            progress,
            suspects: Vec::new(),
            suspect_bytes: 0,
            found_bytes: 0,
            findings,
        }
    }

    /// Compares everything that is selected.
    ///
    /// # Errors
    /// A site cannot be read.
    pub async fn run(mut self) -> Result<(Findings, Vec<Site>), Error> {
        let mut databases: BTreeMap<u32, u64> = BTreeMap::new();
        for site in &mut self.sites {
            for (db, keys) in site.sizes().await? {
                if self.selection.has_database(db) {
                    *databases.entry(db).or_default() += keys;
                }
            }
        }
        self.progress.begin(databases.values().sum());
        'all: for db in databases.into_keys() {
            for driver in 0..self.sites.len() {
                if !self.scan(db, driver).await? {
                    break 'all;
                }
            }
        }
        if !self.findings.is_cut {
            self.settle().await?;
        }
        self.progress.end();
        Ok((self.findings, self.sites))
    }

    /// Scans a database of one site; false when too many keys differ.
    async fn scan(&mut self, db: u32, driver: usize) -> Result<bool, Error> {
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let Some(site) = self.sites.get_mut(driver) else {
                return Ok(true);
            };
            let (next, mut keys) = site.scan(db, &cursor).await?;
            let scanned = keys.len();
            keys.retain(|key| self.selection.has(key));
            if let Some(count) = self.findings.keys.get_mut(driver) {
                *count += keys.len() as u64;
            }
            for batch in keys.chunks(BATCH) {
                match driver {
                    0 => self.compare(db, batch).await?,
                    _ => self.look_for(db, batch).await?,
                }
            }
            self.progress.advance(scanned as u64);
            if let Some(due) = self.pace.next(Instant::now(), keys.len() as u64) {
                sleep_until(due).await;
            }
            let is_full = self.suspects.len() >= SUSPECTS || self.suspect_bytes >= SUSPECT_BYTES;
            if is_full && !self.settle().await? {
                return Ok(false);
            }
            if next == "0" {
                return Ok(true);
            }
            cursor = next;
        }
    }

    /// Reads keys of the first site everywhere.
    async fn compare(&mut self, db: u32, keys: &[Bytes]) -> Result<(), Error> {
        self.findings.compared += keys.len() as u64;
        let looks = looks(&mut self.sites, db, keys).await?;
        for (key, look) in keys.iter().zip(looks) {
            if difference(&look).is_some() {
                self.suspect(db, key);
            }
        }
        Ok(())
    }

    /// Looks whether the first site has keys of another: of those it has, all was said.
    async fn look_for(&mut self, db: u32, keys: &[Bytes]) -> Result<(), Error> {
        let Some(first) = self.sites.first_mut() else {
            return Ok(());
        };
        let there = first.has(db, keys).await?;
        for (key, is_there) in keys.iter().zip(there) {
            if !is_there {
                self.findings.compared += 1;
                self.suspect(db, key);
            }
        }
        Ok(())
    }

    fn suspect(&mut self, db: u32, key: &Bytes) {
        // Not a slice of the whole reply of SCAN, which it would keep in memory.
        let key = Bytes::copy_from_slice(key);
        self.suspect_bytes += key.len();
        self.suspects.push(Suspect::new(db, key));
    }

    /// Looks at the suspects until they are equal or patience is over; false when too many differ.
    async fn settle(&mut self) -> Result<bool, Error> {
        let mut suspects = std::mem::take(&mut self.suspects);
        self.suspect_bytes = 0;
        // SCAN may give a key twice, and two sites may have what the first has not.
        let known = self.findings.found.iter().map(|f| (f.db, f.key.clone()));
        let mut known: HashSet<(u32, Bytes)> = known.collect();
        suspects.retain(|suspect| known.insert((suspect.db, suspect.key.clone())));
        let found = settle(&mut self.sites, suspects, self.patience, &mut self.progress).await?;
        for found in found {
            self.found_bytes += found.key.len();
            self.findings.found.push(found);
        }
        let count = self.findings.found.len();
        self.findings.is_cut = count >= MOST_FOUND || self.found_bytes >= MOST_FOUND_BYTES;
        Ok(!self.findings.is_cut)
    }
}

/// Looks at suspects again and again; gives those that differ to the end.
///
/// # Errors
/// A site cannot be read.
pub async fn settle(
    sites: &mut [Site],
    mut suspects: Vec<Suspect>,
    patience: Duration,
    progress: &mut Progress,
) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    let mut pauses = pauses(patience).peekable();
    while !suspects.is_empty() {
        let is_last = pauses.peek().is_none();
        progress.settling(suspects.len());
        suspects.sort_by_key(|suspect| suspect.db);
        let mut open = Vec::new();
        for of_one in suspects.chunk_by_mut(|a, b| a.db == b.db) {
            for batch in of_one.chunks_mut(BATCH) {
                let Some(db) = batch.first().map(|s| s.db) else {
                    continue;
                };
                let keys: Vec<Bytes> = batch.iter().map(|s| s.key.clone()).collect();
                let looks = looks(sites, db, &keys).await?;
                for (suspect, look) in batch.iter_mut().zip(looks) {
                    match suspect.look(look, is_last) {
                        Verdict::Equal => {}
                        Verdict::Open => open.push(suspect.clone()),
                        Verdict::Different(different) => found.push(different),
                    }
                }
            }
        }
        suspects = open;
        if let Some(pause) = pauses.next()
            && !suspects.is_empty()
        {
            sleep(pause).await;
        }
    }
    Ok(found)
}

/// What the sites have of these keys, read at the same time.
async fn looks(sites: &mut [Site], db: u32, keys: &[Bytes]) -> Result<Vec<Look>, Error> {
    let reading = sites.iter_mut().map(|site| site.read(db, keys)).collect();
    let mut columns = Vec::new();
    for column in together(reading).await {
        columns.push(column?.into_iter());
    }
    let row = |_| columns.iter_mut().map(|c| c.next().flatten()).collect();
    Ok(keys.iter().map(row).collect())
}

/// Waits for all of these at once.
async fn together<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<Pin<Box<_>>> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        match done.iter().all(Option::is_some) {
            true => Poll::Ready(done.iter_mut().filter_map(Option::take).collect()),
            false => Poll::Pending,
        }
    })
    .await
}

/// Keeps to a number of keys a second.
#[derive(Debug)]
struct Pace {
    per_second: u64,
    /// When the next key is due.
    due: Instant,
}

impl Pace {
    fn new(per_second: u64) -> Self {
        let due = Instant::now();
        Self { per_second, due }
    }

    /// So many keys were read: when to go on. What was too slow is not made up for: the server had a
    /// reason.
    fn next(&mut self, now: Instant, keys: u64) -> Option<Instant> {
        let span = (keys * 1_000_000).checked_div(self.per_second)?;
        let late = now.saturating_duration_since(self.due);
        let from = if late > PACE_SLACK { now } else { self.due };
        self.due = from + Duration::from_micros(span);
        Some(self.due)
    }
}

/// How much time may be made up for: a batch that was a little late is no reason to be slower.
const PACE_SLACK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pattern;

    fn of(sample: f64) -> Selection {
        let (databases, keys) = (Databases::All, Keys::default());
        Selection {
            databases,
            keys,
            sample,
        }
    }

    #[test]
    fn a_sample_is_about_as_large_as_was_asked_for() {
        let names: Vec<String> = (0..10_000).map(|n| format!("key:{n}")).collect();
        let count = |sample| {
            names
                .iter()
                .filter(|n| of(sample).has(n.as_bytes()))
                .count()
        };
        assert_eq!(count(1.0), 10_000);
        assert!((800..1200).contains(&count(0.1)), "{}", count(0.1));
    }

    #[test]
    fn what_is_not_synced_is_not_compared() {
        let mut selection = of(1.0);
        let pattern = |text| Pattern::parse(text).unwrap();
        assert!(!selection.has(b"tandem:from:a") && selection.has(b"x"));
        selection.keys.include = vec![pattern("in:*")];
        selection.keys.exclude = vec![pattern("in:not:*")];
        let has = ["in:a", "in:not:a", "x"].map(|key| selection.has(key.as_bytes()));
        assert_eq!(has, [true, false, false]);
        selection.databases = Databases::Only([3].into());
        assert!(selection.has_database(3) && !selection.has_database(0));
    }

    #[test]
    fn the_pace_is_kept() {
        let begin = Instant::now();
        let (mut pace, mut now) = (Pace::new(1000), begin);
        for _ in 0..10 {
            now = pace.next(now, 500).unwrap();
        }
        assert_eq!((now - begin).as_secs(), 5);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.next(later, 1000), Some(later + Duration::from_secs(1)));
        assert_eq!(Pace::new(0).next(now, 500), None);
    }
}

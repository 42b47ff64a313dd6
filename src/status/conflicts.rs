//! Conflicts with one peer, and what became of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{ConflictKind, Winner};

/// Conflicts with one peer since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conflicts {
    /// Found here, by what met: two writes of one key that had not seen each other and do not commute.
    /// Both sites find the same ones, unless one of them was away.
    pub found: BTreeMap<String, ByWinner>,
    /// Keys whose value was wrong here, and was asked of the peer. The others are wrong there.
    pub asked: u64,
    /// States of the peer that took the place of the value here.
    pub taken: u64,
    /// States of the peer that said what was here already.
    pub equal: u64,
    /// States of the peer that had not seen what was written here meanwhile; newer ones were asked for.
    pub refused: u64,
    /// States sent to the peer.
    pub sent: u64,
    /// How long it took from the later of the two writes until the right value was here, in seconds.
    pub mended_seconds: Times,
    /// Conflicts that were left out of the conflict log: more than its `max_rate`, or it could not be
    /// written.
    pub unlogged: u64,
}

/// How many, by whose write prevailed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByWinner {
    /// This site's.
    pub here: u64,
    /// The peer's.
    pub peer: u64,
}

impl Conflicts {
    /// More were found.
    pub fn add(&mut self, kind: ConflictKind, winner: Winner, count: u64) {
        let found = self.found.entry(kind.word().to_owned()).or_default();
        match winner {
            Winner::Here => found.here += count,
            Winner::Peer => found.peer += count,
        }
    }

    /// How many were found.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.found
            .values()
            .map(|found| found.here + found.peer)
            .sum()
    }
}

/// In seconds: from a round trip within a data centre to an outage of an hour.
const BOUNDS: [f64; 13] = [
    0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 600.0, 3600.0,
];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Up to each bound, and then those that took longer.
    counts: [u64; BOUNDS.len() + 1],
    /// All together, in seconds.
    pub sum: f64,
}

impl Times {
    /// Something took this long.
    pub fn observe(&mut self, seconds: f64) {
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        if let Some(count) = self.counts.get_mut(bucket.unwrap_or(BOUNDS.len())) {
            *count += 1;
        }
        self.sum += seconds;
    }

    /// How often.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bound, and how often it took no longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let running = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        BOUNDS.into_iter().zip(running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_up_to_each_bound() {
        let mut times = Times::default();
        for seconds in [0.001, 0.02, 0.02, 5000.0] {
            times.observe(seconds);
        }
        let cumulative: Vec<_> = times.cumulative().collect();
        assert_eq!(cumulative[0], (0.001, 1));
        assert_eq!(cumulative[3], (0.03, 3));
        assert_eq!(cumulative[12], (3600.0, 3));
        assert_eq!(times.count(), 4);
    }

    #[test]
    fn conflicts_are_counted_by_kind_and_winner() {
        let mut conflicts = Conflicts::default();
        conflicts.add(ConflictKind::Write, Winner::Here, 2);
        conflicts.add(ConflictKind::Write, Winner::Peer, 1);
        assert_eq!(
            conflicts.found.get("write"),
            Some(&ByWinner { here: 2, peer: 1 })
        );
        assert_eq!(conflicts.total(), 3);
    }
}

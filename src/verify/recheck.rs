//! When a key that looked different counts as different. No I/O.
//!
//! A key that is being written looks different for as long as the write travels. So a suspect is
//! looked at again, after pauses that grow, until it is equal once or `patience` is over. Equal once
//! is enough: had a write been lost, the values would never meet again.

use std::time::Duration;

use bytes::Bytes;

use super::entry::{Difference, Look, difference, is_unchanged};

/// The first pause: most writes have arrived by then.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause: what is equal again should not be waited for much longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A key that looked different.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Its database.
    pub db: u32,
    /// Its name.
    pub key: Bytes,
    /// What the sites had when it was looked at last.
    before: Option<Look>,
}

/// A key that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its database.
    pub db: u32,
    /// Its name.
    pub key: Bytes,
    /// How.
    pub difference: Difference,
    /// Whether it was written until the end: then it may only look so.
    pub is_written: bool,
}

/// What a look at a suspect says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is equal.
    Equal,
    /// It is to be looked at again.
    Open,
    /// Patience is over.
    Different(Found),
}

impl Suspect {
    /// One that has not been looked at alone.
    #[must_use]
    pub const fn new(db: u32, key: Bytes) -> Self {
        Self {
            db,
            key,
            before: None,
        }
    }

    /// Takes what the sites have now; `is_last` when patience is over.
    pub fn look(&mut self, now: Look, is_last: bool) -> Verdict {
        let Some(difference) = difference(&now) else {
            return Verdict::Equal;
        };
        let before = self.before.as_ref();
        let is_written = before.is_some_and(|before| !is_unchanged(before, &now));
        self.before = Some(now);
        if !is_last {
            return Verdict::Open;
        }
        Verdict::Different(Found {
            db: self.db,
            key: self.key.clone(),
            difference,
            is_written,
        })
    }
}

/// The pauses between looks: each twice as long as the one before, together `patience`.
pub fn pauses(patience: Duration) -> impl Iterator<Item = Duration> {
    let (mut left, mut next) = (patience, FIRST_PAUSE);
    std::iter::from_fn(move || {
        let pause = next.min(left);
        left -= pause;
        next = (next * 2).min(LONGEST_PAUSE);
        (!pause.is_zero()).then_some(pause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::entry::Entry;

    fn look(digests: [u128; 2]) -> Look {
        let entry = |digest| Entry {
            kind: Bytes::from_static(b"string"),
            digest,
            life: None,
        };
        digests.map(entry).map(Some).to_vec()
    }

    fn suspect() -> Suspect {
        Suspect::new(0, Bytes::from_static(b"k"))
    }

    #[test]
    fn a_suspect_that_is_equal_once_is_cleared() {
        let mut suspect = suspect();
        assert_eq!(suspect.look(look([1, 2]), false), Verdict::Open);
        assert_eq!(suspect.look(look([2, 3]), false), Verdict::Open);
        assert_eq!(suspect.look(look([3, 3]), true), Verdict::Equal);
    }

    #[test]
    fn what_differs_to_the_end_says_whether_it_stood_still() {
        for (last, is_written) in [([1, 2], false), ([1, 3], true)] {
            let mut suspect = suspect();
            assert_eq!(suspect.look(look([1, 2]), false), Verdict::Open);
            let Verdict::Different(found) = suspect.look(look(last), true) else {
                panic!("not different");
            };
            assert_eq!(found.is_written, is_written);
        }
    }

    #[test]
    fn pauses_grow_and_make_up_the_patience() {
        for seconds in [0, 1, 10, 60] {
            let patience = Duration::from_secs(seconds);
            let all: Vec<Duration> = pauses(patience).collect();
            assert_eq!(all.iter().sum::<Duration>(), patience);
            let (_, body) = all.split_last().unwrap_or((&Duration::ZERO, &[]));
            assert!(body.is_sorted() && all.iter().all(|p| *p <= LONGEST_PAUSE));
        }
    }
}

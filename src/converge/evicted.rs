//! Keys that the local server has evicted and the peers still have: no I/O.

use std::collections::HashSet;

use super::recent::Hashed;

/// How many are remembered: at least half as many, in about 40 MB.
const REMEMBERED: usize = 1 << 20;

/// Keys that were evicted here, as long as nobody has written them since: the hashes of the last ones.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    young: HashSet<u128, Hashed>,
    old: HashSet<u128, Hashed>,
}

impl Evicted {
    /// A key was evicted. When there are too many, the older half is forgotten.
    pub(super) fn add(&mut self, key: u128) {
        if self.young.len() >= REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }

    /// Whether a key was evicted, as far as is remembered.
    pub(super) fn has(&self, key: &u128) -> bool {
        self.young.contains(key) || self.old.contains(key)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// A key is here again, or gone everywhere.
    pub(super) fn remove(&mut self, key: &u128) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let mut evicted = Evicted::default();
        let hash = |n: usize| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes());
        let last = REMEMBERED * 3 / 2;
        (0..=last).for_each(|n| evicted.add(hash(n)));
        assert!(evicted.has(&hash(last)) && !evicted.has(&hash(0)));
        assert!(evicted.has(&hash(last - REMEMBERED / 2)));
        assert!(evicted.young.len() + evicted.old.len() <= REMEMBERED);
        evicted.remove(&hash(last));
        assert!(!evicted.has(&hash(last)) && !evicted.is_empty());
    }
}

//! The hybrid logical clock that stamps records when they are read.

use std::fmt;
use std::time::Duration;

/// How far ahead of our wall clock a peer's stamp may be before it is clamped: beyond this the
/// peer's clock is wrong, and following it would make our own stamps wrong for as long.
pub const MAX_DRIFT: Duration = Duration::from_secs(60);

/// A stamp: 48 bits of milliseconds since 1970, then 16 bits of counter. Compares as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first stamp of a millisecond.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis << 16)
    }

    /// The milliseconds since 1970 of this stamp.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 >> 16
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Gives stamps that never go back and never repeat, whatever the wall clock does.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    last: Hlc,
}

impl Clock {
    /// A clock that goes on after `last`.
    #[must_use]
    pub const fn after(last: Hlc) -> Self {
        Self { last }
    }

    /// The next stamp; `now_ms` is the wall clock in milliseconds since 1970.
    pub fn stamp(&mut self, now_ms: u64) -> Hlc {
        self.last = Hlc(self.last.0.saturating_add(1)).max(Hlc::from_millis(now_ms));
        self.last
    }

    /// Takes note of a peer's stamp, so that what we stamp next is later than what we have seen.
    /// Of a peer too far ahead the stamp is clamped, and this says how far it was.
    pub fn observe(&mut self, peer: Hlc, now_ms: u64) -> Option<Duration> {
        let drift = u64::try_from(MAX_DRIFT.as_millis()).unwrap_or(u64::MAX);
        let limit = Hlc::from_millis(now_ms.saturating_add(drift));
        self.last = self.last.max(peer.min(limit));
        (peer > limit).then(|| Duration::from_millis(peer.millis().saturating_sub(now_ms)))
    }

    /// The last stamp given or observed.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_while_the_wall_clock_stands_or_steps_back() {
        let mut clock = Clock::default();
        let first = clock.stamp(1_000);
        let second = clock.stamp(1_000);
        let third = clock.stamp(10);
        assert!(first < second && second < third);
        assert_eq!(third.millis(), 1_000);
    }

    #[test]
    fn a_peer_ahead_pulls_the_clock_but_not_too_far() {
        let mut clock = Clock::default();
        assert_eq!(clock.observe(Hlc::from_millis(5_000), 1_000), None);
        assert!(clock.stamp(1_000) > Hlc::from_millis(5_000));
        let ahead = clock.observe(Hlc::from_millis(1_000_000), 1_000);
        assert_eq!(ahead, Some(Duration::from_secs(999)));
        assert!(clock.last().millis() <= 61_000);
    }
}

//! How much of one kind is logged: what happens a million times is not told a million times.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many lines of one kind are logged in each [`PERIOD`]: enough to see what it is about.
const LINES: u32 = 20;
/// With some 300 bytes in a line, a kind takes no more than 6 KB a minute.
const PERIOD: Duration = Duration::from_secs(60);

/// The lines of one kind.
#[derive(Debug, Default)]
pub struct Ration {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the period began.
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Ration {
    /// Whether one more line may be logged now: if so, how many were left out since the last.
    pub fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |began: Instant| now.saturating_duration_since(began) >= PERIOD;
        if state.began.is_none_or(is_over) {
            (state.began, state.lines) = (Some(now), 0);
        }
        if state.lines >= LINES {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_lines_and_the_next_says_what_was_left_out() {
        let (ration, now) = (Ration::default(), Instant::now());
        let lines = |at| (0..100).filter_map(|_| ration.take(at)).collect::<Vec<_>>();
        assert_eq!(lines(now), [0; LINES as usize]);
        let later = now + PERIOD;
        let next = lines(later);
        assert_eq!(next.len(), LINES as usize);
        assert_eq!(next.iter().sum::<u64>(), 80);
        assert_eq!(next.first(), Some(&80));
    }
}

//! How far a comparison is, on stderr: one line that changes where that is a terminal, else a line now
//! and then.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// How often a terminal is told.
const ON_TERMINAL: Duration = Duration::from_millis(500);

/// How often a log is told.
const IN_LOG: Duration = Duration::from_secs(10);

/// Tells how far it is.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    total: u64,
    done: u64,
    begun: Instant,
    told: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            is_terminal: io::stderr().is_terminal(),
            total: 0,
            done: 0,
            begun: now,
            told: now,
        }
    }
}

impl Progress {
    /// So many keys are to be gone through.
    pub fn begin(&mut self, total: u64) {
        self.total = total;
        self.begun = Instant::now();
    }

    /// So many more were.
    pub fn advance(&mut self, keys: u64) {
        self.done += keys;
        if self.is_due() {
            self.tell(&line(self.done, self.total, self.begun.elapsed()));
        }
    }

    /// So many keys seem to differ and are looked at again.
    pub fn settling(&mut self, keys: usize) {
        if self.is_due() {
            self.tell(&format!(
                "looking again at keys that seem to differ: {keys}"
            ));
        }
    }

    /// The line is not needed any more.
    pub fn end(&self) {
        if self.is_terminal {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }

    fn is_due(&self) -> bool {
        let pause = if self.is_terminal {
            ON_TERMINAL
        } else {
            IN_LOG
        };
        self.told.elapsed() >= pause
    }

    fn tell(&mut self, line: &str) {
        self.told = Instant::now();
        // Nobody is left to tell when stderr is gone.
        if self.is_terminal {
            write!(io::stderr(), "\r{line}\x1b[K").ok();
        } else {
            writeln!(io::stderr(), "{line}").ok();
        }
    }
}

fn line(done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done / elapsed.as_secs().max(1);
    let total = total.max(done);
    let percent = (100 * done).checked_div(total).unwrap_or(100);
    let left = (total - done).checked_div(rate).unwrap_or(0);
    let (minutes, seconds) = (left / 60, left % 60);
    format!("{percent} % of {total} keys, {rate} a second, {minutes}:{seconds:02} left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_long_it_will_take() {
        let ten = Duration::from_secs(10);
        let said = "25 % of 400000 keys, 10000 a second, 0:30 left";
        assert_eq!(line(100_000, 400_000, ten), said);
        assert_eq!(
            line(0, 0, Duration::ZERO),
            "100 % of 0 keys, 0 a second, 0:00 left"
        );
    }
}

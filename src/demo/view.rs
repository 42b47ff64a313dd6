//! What the demo shows: a picture that is redrawn on a terminal, a line each second elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::client::{self, Client};
use super::compare::{Comparison, Counters};
use super::load::{Load, Tally};
use super::operations::SHARED;
use super::servers::Site;
use crate::status::Status;

/// The width of the first column of the picture.
const LABEL: usize = 28;
/// The width of a site's column.
const COLUMN: usize = 22;
/// How many of the differences found are shown.
const SHOWN: usize = 10;

/// What is to be seen at one moment.
#[derive(Debug)]
pub(super) struct Frame {
    /// Since the load began.
    pub(super) elapsed: Duration,
    /// How long it lasts.
    pub(super) duration: Duration,
    /// What each site shows.
    pub(super) sites: [Sight; 2],
}

/// What one site shows.
#[derive(Debug)]
pub(super) struct Sight {
    name: &'static str,
    writes: u64,
    writes_per_second: f64,
    own_increments: u64,
    shared: i64,
    keys: i64,
    lag_seconds: f64,
    lag_bytes: u64,
    applied: u64,
    state: String,
}

/// Connections of the view's own, and what it saw last.
#[derive(Debug)]
pub(super) struct Eyes {
    sites: Vec<(&'static str, u16, Client)>,
    last: Instant,
    rates: Vec<(u64, f64)>,
}

impl Eyes {
    /// Connects to both sites.
    pub(super) async fn open(sites: &[Site; 2]) -> Result<Self> {
        let mut eyes = Self {
            sites: Vec::new(),
            last: Instant::now(),
            rates: vec![(0, 0.0); sites.len()],
        };
        for site in sites {
            let client = Client::open(site.redis).await?;
            eyes.sites.push((site.name, site.admin, client));
        }
        Ok(eyes)
    }

    /// Looks at both sites. A sidecar that does not answer is shown as that, and no error.
    pub(super) async fn look(&mut self, load: &Load) -> Result<[Sight; 2]> {
        // Rates are those of the last full second, so that they can be read.
        let since = self.last.elapsed();
        let renew = since >= Duration::from_secs(1);
        let mut sights = Vec::new();
        for (index, (name, admin, client)) in self.sites.iter_mut().enumerate() {
            let (writes, own_increments) = load.progress(index);
            let (before, rate) = &mut self.rates[index];
            if renew {
                let done = u32::try_from(writes - *before).unwrap_or(u32::MAX);
                *rate = f64::from(done) / since.as_secs_f64();
                *before = writes;
            }
            let status = client::status(*admin).await.ok();
            let peer = status.and_then(first_peer).unwrap_or_default();
            sights.push(Sight {
                name,
                writes,
                writes_per_second: *rate,
                own_increments,
                shared: client::number(&client.call(&["GET", SHARED]).await?),
                keys: client::number(&client.call(&["DBSIZE"]).await?),
                lag_seconds: peer.0,
                lag_bytes: peer.1,
                applied: peer.2,
                state: peer.3,
            });
        }
        if renew {
            self.last = Instant::now();
        }
        sights
            .try_into()
            .map_err(|_| anyhow::anyhow!("there are two sites"))
    }
}

/// Lag in seconds and bytes, records applied, and the state of the only peer.
type Peer = (f64, u64, u64, String);

fn first_peer(status: Status) -> Option<Peer> {
    let peer = status.peers.into_iter().next()?;
    let state = format!("{:?}", peer.state).to_lowercase();
    Some((
        peer.lag_seconds,
        peer.lag_bytes,
        peer.records_applied,
        state,
    ))
}

/// Where the demo is shown.
#[derive(Debug)]
pub(super) struct View {
    out: io::Stdout,
    terminal: bool,
    /// Lines of the picture on the screen, which the next one covers.
    drawn: usize,
    /// The second for which a line has been written, when it is no terminal.
    second: Option<u64>,
}

impl View {
    /// On standard output.
    pub(super) fn stdout() -> Self {
        let out = io::stdout();
        Self {
            terminal: out.is_terminal(),
            out,
            drawn: 0,
            second: None,
        }
    }

    /// Says something below everything else.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        self.drawn = 0;
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Shows a moment.
    pub(super) fn draw(&mut self, frame: &Frame) -> Result<()> {
        if !self.terminal {
            let second = frame.elapsed.as_secs();
            if self.second.replace(second) != Some(second) {
                writeln!(self.out, "{}", line(frame))?;
            }
            return Ok(());
        }
        let lines = picture(frame);
        if self.drawn > 0 {
            write!(self.out, "\x1b[{}A", self.drawn)?;
        }
        for line in &lines {
            writeln!(self.out, "{line}\x1b[K")?;
        }
        self.drawn = lines.len();
        Ok(self.out.flush()?)
    }

    /// Says what came of it.
    pub(super) fn verdict(
        &mut self,
        tally: &Tally,
        waited: Duration,
        comparison: &Comparison,
        counters: &Counters,
    ) -> Result<()> {
        self.drawn = 0;
        let out = &mut self.out;
        writeln!(
            out,
            "\n{} writes acknowledged. Nothing left to send {:.1} s after the last.",
            tally.writes,
            waited.as_secs_f64()
        )?;
        let kinds: Vec<String> = comparison
            .by_type
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let differences = &comparison.differences;
        writeln!(
            out,
            "Keys      {} compared: {}; {} differ.",
            comparison.keys,
            kinds.join(", "),
            differences.len()
        )?;
        writeln!(
            out,
            "Counters  {} checked against {} acknowledged increments; {} wrong.",
            counters.checked,
            counters.increments,
            counters.wrong.len()
        )?;
        for wrong in differences.iter().chain(&counters.wrong).take(SHOWN) {
            writeln!(out, "  {wrong}")?;
        }
        let good = comparison.is_equal() && counters.is_exact();
        let words = if good {
            "Both sites are equal, and every counter is exact."
        } else {
            "The sites are NOT as they should be."
        };
        Ok(writeln!(out, "{words}")?)
    }

    /// Says how to play with what is left running.
    pub(super) fn invite(&mut self, sites: &[Site; 2]) -> Result<()> {
        let [first, second] = sites;
        writeln!(self.out, "\nStill running; try, for example:")?;
        for (words, at) in [
            ("SET greeting hello", first),
            ("GET greeting", second),
            ("INCR visits", second),
            ("GET visits", first),
        ] {
            writeln!(self.out, "  redis-cli -p {} {words}", at.redis)?;
        }
        for site in sites {
            let (name, admin) = (site.name, site.admin);
            writeln!(
                self.out,
                "{name:10} http://127.0.0.1:{admin}/status  http://127.0.0.1:{admin}/metrics\n\
                 {:10} {}",
                "",
                site.config().display()
            )?;
        }
        Ok(writeln!(self.out, "Ctrl-C ends and removes everything.")?)
    }
}

/// A moment as one line.
fn line(frame: &Frame) -> String {
    let site = |s: &Sight| {
        format!(
            "{} {:.0} writes/s, {:.3} s ahead, counter {}",
            s.name, s.writes_per_second, s.lag_seconds, s.shared
        )
    };
    let [first, second] = &frame.sites;
    let seconds = frame.elapsed.as_secs();
    format!("{seconds:4} s  {}  |  {}", site(first), site(second))
}

/// A moment as a picture.
fn picture(frame: &Frame) -> Vec<String> {
    let [a, b] = &frame.sites;
    let row = |label: &str, cell: &dyn Fn(&Sight) -> String| {
        let (a, b) = (cell(a), cell(b));
        format!("  {label:LABEL$}{a:>COLUMN$}{b:>COLUMN$}")
    };
    let done = frame.elapsed.as_secs_f64() / frame.duration.as_secs_f64().max(1.0);
    let bar: String = (1..=40_u32)
        .map(|step| {
            if f64::from(step) / 40.0 <= done {
                '#'
            } else {
                '.'
            }
        })
        .collect();
    vec![
        String::new(),
        row("", &|s| s.name.to_owned()),
        row("link", &|s| s.state.clone()),
        row("writes per second", &|s| {
            format!("{:.0}", s.writes_per_second)
        }),
        row("writes", &|s| s.writes.to_string()),
        row("records of the other applied", &|s| s.applied.to_string()),
        row("the other lags by", &|s| {
            format!("{:.3} s {:>8} B", s.lag_seconds, s.lag_bytes)
        }),
        row("keys in database 0", &|s| s.keys.to_string()),
        row("shared counter, as read here", &|s| s.shared.to_string()),
        row("  increments made here", &|s| s.own_increments.to_string()),
        String::new(),
        format!(
            "  [{bar}] {} of {} s",
            frame.elapsed.as_secs(),
            frame.duration.as_secs()
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let sight = |name, writes| Sight {
            name,
            writes,
            writes_per_second: 4000.0,
            own_increments: 7,
            shared: 14,
            keys: 3,
            lag_seconds: 0.002,
            lag_bytes: 812,
            applied: 5,
            state: "synchronizing".to_owned(),
        };
        Frame {
            elapsed: Duration::from_secs(5),
            duration: Duration::from_secs(10),
            sites: [sight("hangzhou", 123), sight("singapore", 456)],
        }
    }

    #[test]
    fn a_picture_has_a_column_for_each_site() {
        let lines = picture(&frame());
        let writes = lines.iter().find(|l| l.starts_with("  writes  ")).unwrap();
        let words: Vec<&str> = writes.split_whitespace().collect();
        assert_eq!(words, ["writes", "123", "456"]);
        let bar = lines.last().unwrap();
        assert_eq!(bar.matches('#').count(), 20);
        assert!(lines.iter().all(|l| l.len() < 80), "fits a terminal");
    }

    #[test]
    fn a_line_names_both() {
        let line = line(&frame());
        assert!(line.contains("hangzhou") && line.contains("singapore"));
        assert!(line.contains("counter 14"));
    }
}

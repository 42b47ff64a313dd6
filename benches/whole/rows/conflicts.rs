//! What it costs when both sides write the same keys at the same time, and how soon they are equal.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use super::throughput::{Pace, at_once};
use crate::load::{Load, Unit};
use crate::pair::{Arm, Pair};
use crate::report::{Goal, Samples};

/// One write in so many goes to keys that the other side writes too.
const SHARED: usize = 100;
/// Half a round trip.
const FAR: Duration = Duration::from_millis(50);
/// Three round trips and 100 ms are allowed; this is the bound of the histogram below that.
const SOON: f64 = 0.3;
/// Writes a second at each side, of 50,000 at both.
const STEADY: usize = 25_000;
/// Writes a second at each side, while it is measured how long a conflict lives.
const RATE: usize = 5_000;

pub(super) fn conflicts(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    // Native replication has one direction, and no conflicts.
    if arm == Arm::Native {
        return Ok(());
    }
    let span = Duration::from_secs(bench.seconds);
    let steady = (Pace::Steady(STEADY, span), "50,000/s", Goal::AtLeast(0.8));
    let full = (Pace::Full(bench.size(1_000_000)), "full load", Goal::None);
    for (pace, how, goal) in [steady, full] {
        let mut rates = Vec::new();
        for shared in [usize::MAX, SHARED] {
            let pair = Pair::start(&bench.programs, arm)?;
            let there = (pair.near.port, pair.far.port);
            rates.push(at_once([there, (there.1, there.0)], &loads(shared), pace)?);
        }
        let [apart, together] = rates[..] else {
            anyhow::bail!("two rates");
        };
        let title = format!("Both ways at once, 1 % of the writes in conflict, {how}");
        out.put(&title, "records/s", Goal::None, together);
        let title = format!("The same over no conflicts, {how}");
        out.put(&title, "x", goal, together / apart);
    }
    let soon = "Conflicts mended within 3 round trips of 100 ms";
    out.put(soon, "x", Goal::AtLeast(0.99), mended_soon(bench, arm)?);
    Ok(())
}

/// Of the conflicts, the share that was mended soon.
fn mended_soon(bench: &Bench, arm: Arm) -> Result<f64> {
    let pair = Pair::proxied(&bench.programs, arm, FAR)?;
    let [near, far] = loads(SHARED);
    let span = Duration::from_secs(bench.seconds);
    let ports = (pair.near.port, pair.far.port);
    thread::scope(|scope| {
        let writer = scope.spawn(|| near.send_paced(ports.0, RATE, span, || None));
        far.send_paced(ports.1, RATE, span, || None)?;
        let joined = writer.join();
        joined.map_err(|_| anyhow::anyhow!("a writer failed"))?
    })?;
    let (mut soon, mut all) = (0, 0);
    for sidecar in &pair.sidecars {
        let (within, count) = sidecar.mended(SOON)?;
        soon += within;
        all += count;
    }
    anyhow::ensure!(all > 0, "no conflict was mended");
    let share = u32::try_from(soon).context("a count")?;
    Ok(f64::from(share) / f64::from(u32::try_from(all)?))
}

/// A load for each side; of so many writes, one goes to keys of both.
fn loads(shared: usize) -> [Load; 2] {
    let own = |name: &'static str| {
        Load::of(Unit::Set64, move |number| {
            if number % shared == shared - 1 {
                "both:"
            } else {
                name
            }
        })
    };
    [own("near:"), own("far:")]
}

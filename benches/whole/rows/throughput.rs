//! How much gets through: one way, both ways, after a cut, far away, and when it is too much.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::Bench;
use crate::load::{Load, Unit};
use crate::pair::{Arm, Pair};
use crate::report::{Goal, Samples};
use crate::wire::Wire;

/// Half a round trip.
const FAR: Duration = Duration::from_millis(50);
/// Connections that are more than two cores can serve.
const WRITERS: usize = 3;
/// Between two heartbeats, and two looks at them.
const BEAT: Duration = Duration::from_millis(10);

const MIX: &[Unit] = &[
    Unit::Hash,
    Unit::List,
    Unit::Zset,
    Unit::Stream,
    Unit::Set4k,
    Unit::Transaction,
];

pub(super) fn one_way(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let pair = Pair::start(&bench.programs, arm)?;
    let records = rate(&pair, &Load::new(Unit::Set64), bench.size(1_000_000))?;
    out.put(
        "One way, SET of 64 B",
        "records/s",
        Goal::RatioAtLeast(1.0),
        records,
    );
    Ok(())
}

pub(super) fn mixed(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    for unit in MIX {
        let pair = Pair::start(&bench.programs, arm)?;
        let count = bench.size(400_000) / unit.weight();
        let records = rate(&pair, &Load::new(*unit), count)?;
        let title = format!("One way, {}", unit.title());
        out.put(&title, "records/s", Goal::RatioAtLeast(1.0), records);
    }
    Ok(())
}

pub(super) fn far_away(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let pair = Pair::proxied(&bench.programs, arm, FAR)?;
    let records = rate(&pair, &Load::new(Unit::Set64), bench.size(1_000_000))?;
    let title = "One way, round trip of 100 ms";
    out.put(title, "records/s", Goal::RatioAtLeast(1.0), records);
    Ok(())
}

pub(super) fn catch_up(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let pair = Pair::proxied(&bench.programs, arm, Duration::ZERO)?;
    let count = bench.size(1_000_000);
    let proxy = pair.proxy()?;
    let fulls = pair.near.wire()?.info("stats", "sync_full")?;
    proxy.cut();
    Load::new(Unit::Set64).send(pair.near.port, count)?;
    pair.end()?;
    // The journal has it all, and the machine is at rest.
    thread::sleep(Duration::from_millis(500));
    let mended = Instant::now();
    proxy.mend();
    pair.arrived()?;
    let accepted = proxy.accepted().context("a connection after the cut")?;
    anyhow::ensure!(accepted > mended, "the link was never cut");
    let same = fulls == pair.near.wire()?.info("stats", "sync_full")?;
    anyhow::ensure!(same, "a full resync instead of a catch-up");
    let (whole, running) = (mended.elapsed(), accepted.elapsed());
    out.put(
        "Catch-up after a cut",
        "records/s",
        Goal::RatioAtLeast(1.0),
        per_second(count, running),
    );
    out.put(
        "Catch-up, from mending the link on",
        "s",
        Goal::None,
        whole.as_secs_f64(),
    );
    Ok(())
}

pub(super) fn both_ways(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let loads = [
        Load::of(Unit::Set64, |_| "near:"),
        Load::of(Unit::Set64, |_| "far:"),
    ];
    let count = bench.size(1_000_000);
    let total = "Both ways at once, both together";
    let pair = Pair::start(&bench.programs, arm)?;
    if arm == Arm::Native {
        let other = Pair::start(&bench.programs, arm)?;
        let sides = [(&pair.near, &pair.far), (&other.near, &other.far)];
        let sides = sides.map(|(from, to)| (from.port, to.port));
        out.put(
            total,
            "records/s",
            Goal::None,
            at_once(sides, &loads, Pace::Full(count))?,
        );
        return Ok(());
    }
    let there = (pair.near.port, pair.far.port);
    let back = (there.1, there.0);
    let mut sum = 0.0;
    for ((from, to), load) in [there, back].into_iter().zip(&loads) {
        let start = Instant::now();
        carry(from, to, load, Pace::Full(count))?;
        sum += per_second(count, start.elapsed());
    }
    let both = at_once([there, back], &loads, Pace::Full(count))?;
    out.put(total, "records/s", Goal::None, both);
    out.put(
        "Both ways at once, over the sum of each alone",
        "x",
        Goal::AtLeast(0.9),
        both / sum,
    );
    Ok(())
}

pub(super) fn saturated(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let pair = Pair::start(&bench.programs, arm)?;
    let load = Load::new(Unit::Set64);
    let (stop, quiet) = (AtomicBool::new(false), AtomicBool::new(false));
    let (worst, recovery) = thread::scope(|scope| -> Result<(f64, f64)> {
        for _ in 0..WRITERS {
            scope.spawn(|| load.send_until(pair.near.port, usize::MAX, &stop));
        }
        scope.spawn(|| beat(pair.near.port, &quiet));
        let watched = watch(&pair, Duration::from_secs(bench.seconds));
        stop.store(true, Ordering::Relaxed);
        quiet.store(true, Ordering::Relaxed);
        let recovery = Instant::now();
        pair.end()?;
        pair.arrived()?;
        Ok((watched?, recovery.elapsed().as_secs_f64()))
    })?;
    out.put("Saturated machine, longest lag", "ms", Goal::None, worst);
    out.put(
        "Saturated machine, time to recover",
        "s",
        Goal::None,
        recovery,
    );
    Ok(())
}

/// Writes the time of day again and again.
fn beat(port: u16, quiet: &AtomicBool) -> Result<()> {
    let mut wire = Wire::open(port)?;
    while !quiet.load(Ordering::Relaxed) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        wire.ask(&["SET", "bench:beat", &now.as_micros().to_string()])?;
        thread::sleep(BEAT);
    }
    Ok(())
}

/// The longest lag in this time, in milliseconds.
fn watch(pair: &Pair, span: Duration) -> Result<f64> {
    let mut far = pair.far.wire()?;
    let start = Instant::now();
    let mut worst = 0.0_f64;
    while start.elapsed() < span {
        thread::sleep(BEAT);
        // None yet at the very beginning.
        if let Ok(micros) = far.ask(&["GET", "bench:beat"])?.parse::<u64>() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let lag = now.saturating_sub(Duration::from_micros(micros));
            worst = worst.max(lag.as_secs_f64() * 1000.0);
        }
    }
    Ok(worst)
}

/// Records a second until the far side has all of them.
fn rate(pair: &Pair, load: &Load, count: usize) -> Result<f64> {
    let start = Instant::now();
    load.send(pair.near.port, count)?;
    pair.end()?;
    pair.arrived()?;
    Ok(per_second(count, start.elapsed()))
}

/// Both loads at the same time; the sum of records a second until both have arrived.
pub(super) fn at_once(sides: [(u16, u16); 2], loads: &[Load; 2], pace: Pace) -> Result<f64> {
    let start = Instant::now();
    let ([there, back], [one, other]) = (sides, loads);
    let count = thread::scope(|scope| {
        let first = scope.spawn(move || carry(there.0, there.1, one, pace));
        let second = carry(back.0, back.1, other, pace)?;
        let joined = first.join();
        let first = joined.map_err(|_| anyhow::anyhow!("a writer failed"))??;
        anyhow::Ok(first + second)
    })?;
    Ok(per_second(count, start.elapsed()))
}

/// How a load is written.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// So many, as fast as they are answered.
    Full(usize),
    /// So many a second, for such a time.
    Steady(usize, Duration),
}

/// Writes at one port and waits for the end at another; how many.
fn carry(from: u16, to: u16, load: &Load, pace: Pace) -> Result<usize> {
    let count = match pace {
        Pace::Full(count) => {
            load.send(from, count)?;
            count
        }
        Pace::Steady(rate, span) => load.send_paced(from, rate, span, || None)?,
    };
    // Named after its way and its moment: there may be an older one, or one of the other way.
    let end = format!("bench:end:{from}:{:?}", Instant::now());
    Wire::open(from)?.ask(&["SET", &end, "1"])?;
    let mut far = Wire::open(to)?;
    while far.ask(&["EXISTS", &end])? != "1" {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(count)
}

/// So many in such a time.
#[expect(clippy::cast_precision_loss, reason = "a rate needs few digits")]
pub(super) fn per_second(count: usize, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

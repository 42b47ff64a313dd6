//! What it costs: processor, memory, bytes on the link.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::load::{Load, Unit};
use crate::pair::{Arm, Pair};
use crate::report::{Goal, Samples};

/// Records a second of the paced loads, and how the table calls them.
const PACES: [(usize, &str); 4] = [
    (1_000, "1,000/s"),
    (10_000, "10,000/s"),
    (20_000, "20,000/s"),
    (100_000, "100,000/s"),
];

/// The least pace for which there is a goal.
const LEAST_PACE: usize = 20_000;

pub(super) fn cpu(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let load = Load::new(Unit::Set64);
    let pair = Pair::start(&bench.programs, arm)?;
    let paces = PACES.iter().map(|(pace, how)| (*how, Some(*pace)));
    for (how, pace) in paces.chain([("full load", None)]) {
        let before = (
            pair.carriers()?,
            pair.far.pid().cpu()?,
            pair.near.pid().cpu()?,
        );
        let count = match pace {
            Some(pace) => {
                let span = Duration::from_secs(bench.seconds);
                load.send_paced(pair.near.port, pace, span, || None)?
            }
            None => {
                let count = bench.size(1_000_000);
                load.send(pair.near.port, count)?;
                count
            }
        };
        let end = format!("bench:end:{how}");
        pair.near.wire()?.ask(&["SET", &end, "1"])?;
        let mut far = pair.far.wire()?;
        while far.ask(&["EXISTS", &end])? != "1" {
            thread::sleep(Duration::from_millis(1));
        }
        let each = |now: Duration, then: Duration| micros_each(now.saturating_sub(then), count);
        let target = each(pair.far.pid().cpu()?, before.1);
        let source = each(pair.near.pid().cpu()?, before.2);
        let carriers = match arm {
            Arm::Tandem => each(pair.carriers()?, before.0),
            Arm::Native => target,
        };
        let title = format!("CPU of both sidecars per record, {how}");
        // At few writes a second waking is all there is, here and there.
        let is_goal = pace.is_none_or(|pace| pace >= LEAST_PACE);
        let goal = |goal| if is_goal { goal } else { Goal::None };
        out.put(&title, "us", goal(Goal::RatioAtMost(0.4)), carriers);
        if arm == Arm::Tandem && is_goal {
            let title = format!("CPU of both sidecars per record, {how}, absolute");
            out.put(&title, "us", Goal::AtMost(1.5), carriers);
        }
        let title = format!("CPU of the target server per record, {how}");
        out.put(&title, "us", goal(Goal::RatioAtMost(1.0)), target);
        let title = format!("CPU of the source server per record, {how}");
        out.put(&title, "us", Goal::None, source);
    }
    Ok(())
}

pub(super) fn memory(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    if arm == Arm::Native {
        // A replica's memory is its data.
        return Ok(());
    }
    let load = Load::new(Unit::Set64);
    let pair = Pair::start(&bench.programs, arm)?;
    thread::sleep(Duration::from_secs(1));
    out.put(
        "Memory of a sidecar, idle",
        "MiB",
        Goal::AtMost(20.0),
        largest(&pair, "VmRSS")?,
    );
    load.send(pair.near.port, bench.size(1_000_000))?;
    pair.end()?;
    pair.arrived()?;
    let title = "Memory of a sidecar, full load";
    out.put(title, "MiB", Goal::AtMost(64.0), largest(&pair, "VmHWM")?);
    drop(pair);
    let pair = Pair::proxied(&bench.programs, arm, Duration::ZERO)?;
    pair.proxy()?.cut();
    load.send(pair.near.port, bench.size(1_000_000))?;
    pair.end()?;
    thread::sleep(Duration::from_secs(1));
    pair.proxy()?.mend();
    pair.arrived()?;
    let title = "Memory of a sidecar, with a backlog";
    out.put(title, "MiB", Goal::AtMost(96.0), largest(&pair, "VmHWM")?);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs few digits")]
pub(super) fn link(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    for (unit, is_packed) in [
        (Unit::Set64, false),
        (Unit::Json512, false),
        (Unit::Json512, true),
    ] {
        if is_packed && arm == Arm::Native {
            continue;
        }
        let pair = match is_packed {
            false => Pair::proxied(&bench.programs, arm, Duration::ZERO)?,
            true => Pair::compressed(&bench.programs)?,
        };
        let mut near = pair.near.wire()?;
        let before = (pair.proxy()?.bytes(), near.offset()?);
        let count = bench.size(500_000) / unit.weight();
        Load::new(unit).send(pair.near.port, count)?;
        pair.end()?;
        pair.arrived()?;
        let bytes = (pair.proxy()?.bytes() - before.0) as f64;
        let stream = (near.offset()? - before.1) as f64;
        let (how, goal) = match is_packed {
            false => ("", Goal::AtMost(1.1)),
            true => (", compressed", Goal::AtMost(0.4)),
        };
        let title = format!("Bytes on the link per {}{how}", unit.title());
        out.put(&title, "B", Goal::None, bytes / count as f64);
        let title = format!(
            "Bytes on the link over those of the stream, {}{how}",
            unit.title()
        );
        out.put(&title, "x", goal, bytes / stream);
    }
    Ok(())
}

/// The most that a sidecar has.
fn largest(pair: &Pair, field: &str) -> Result<f64> {
    let mut most = 0.0_f64;
    for pid in pair.pids() {
        most = most.max(pid.memory(field)?);
    }
    Ok(most)
}

#[expect(clippy::cast_precision_loss, reason = "a mean needs few digits")]
fn micros_each(span: Duration, count: usize) -> f64 {
    span.as_secs_f64() * 1e6 / count as f64
}

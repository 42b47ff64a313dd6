//! The first copy: everything that one side has, to the other, which is empty.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;
use crate::pair::{Arm, Pair};
use crate::process::wait;
use crate::report::{Goal, Samples};

/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is copied.
struct Data {
    title: &'static str,
    keys: usize,
    bytes: usize,
}

pub(super) fn small(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let data = Data {
        title: "small keys",
        keys: bench.size(10_000_000),
        bytes: 64,
    };
    copy(bench, arm, &data, out)
}

pub(super) fn large(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let data = Data {
        title: "values of 1 MB",
        keys: bench.size(1000),
        bytes: 1_000_000,
    };
    copy(bench, arm, &data, out)
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs few digits")]
fn copy(bench: &Bench, arm: Arm, data: &Data, out: &mut Samples) -> Result<()> {
    let mut pair = Pair::apart(&bench.programs)?;
    let (keys, bytes) = (data.keys.to_string(), data.bytes.to_string());
    let mut near = pair.near.wire()?;
    near.ask(&["DEBUG", "POPULATE", &keys, "key", &bytes])?;
    let start = Instant::now();
    pair.join(&bench.programs, arm)?;
    wait("the copy", PATIENCE, || Ok(pair.far.keys()? >= data.keys))?;
    let seconds = start.elapsed().as_secs_f64();
    let title = format!("First copy of {}", data.title);
    out.put(
        &title,
        "keys/s",
        Goal::RatioAtLeast(1.0),
        data.keys as f64 / seconds,
    );
    if arm == Arm::Tandem {
        let mut sum = 0.0;
        for pid in pair.pids() {
            sum += pid.memory("VmHWM")?;
        }
        let title = format!("Memory of both sidecars, first copy of {}", data.title);
        out.put(&title, "MiB", Goal::None, sum);
    }
    Ok(())
}

//! How long it takes: until a write is visible at the other side, and until clients are answered.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Bench;
use super::throughput::per_second;
use crate::load::{Load, Unit};
use crate::pair::{Arm, Pair};
use crate::report::{Goal, Samples};
use crate::wire::{Wire, encode};

const RATES: &[(usize, &str)] = &[
    (1000, "1,000/s"),
    (10_000, "10,000/s"),
    (50_000, "50,000/s"),
];
/// The stream of the probes.
const PROBE: &str = "bench:probe";
/// How long the reader waits before it looks whether it is over, and for what may still come.
const LOOK: Duration = Duration::from_millis(200);
/// Not counted: the first moments are those of cold caches and of connections.
const WARM_UP: Duration = Duration::from_millis(500);
/// Connections of the row of clients.
const CLIENTS: usize = 4;

pub(super) fn visible(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let load = Load::new(Unit::Set64);
    for (rate, name) in RATES {
        let pair = Pair::start(&bench.programs, arm)?;
        let span = Duration::from_secs(bench.seconds);
        let spans = probe(&pair, &load, *rate, span)?;
        let (half, most) = percentiles(spans)?;
        let (low, high) = (Goal::AddedAtMost(0.2), Goal::AddedAtMost(1.0));
        out.put(
            &format!("Visible at the other side, {name}, p50"),
            "ms",
            low,
            half,
        );
        out.put(
            &format!("Visible at the other side, {name}, p99"),
            "ms",
            high,
            most,
        );
    }
    Ok(())
}

/// Milliseconds from write to sight of each probe.
fn probe(pair: &Pair, load: &Load, rate: usize, span: Duration) -> Result<Vec<f64>> {
    let origin = Instant::now();
    let over = AtomicBool::new(false);
    let port = pair.far.port;
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_probes(port, origin, &over));
        // Written by the same connection as the load around it.
        let sent = load.send_paced(pair.near.port, rate, span + WARM_UP, || {
            let nanos = origin.elapsed().as_nanos().to_string();
            Some(encode(&["XADD", PROBE, "MAXLEN", "100", "*", "at", &nanos]))
        });
        thread::sleep(LOOK);
        over.store(true, Ordering::Relaxed);
        sent?;
        let read = reader.join();
        read.map_err(|_| anyhow::anyhow!("the reader failed"))?
    })
}

/// Waits for one probe after the other; the milliseconds that each took.
fn read_probes(port: u16, origin: Instant, over: &AtomicBool) -> Result<Vec<f64>> {
    let mut wire = Wire::open(port)?;
    let mut spans = Vec::new();
    let mut last = "0-0".to_owned();
    while !over.load(Ordering::Relaxed) {
        wire.send(&encode(&["XREAD", "BLOCK", "100", "STREAMS", PROBE, &last]))?;
        let mut answer = Vec::new();
        // No probe is an absent array; several end each with the time in a string of its own.
        while !(answer.starts_with(b"*-1\r\n") || is_whole(&answer)) {
            answer.extend_from_slice(wire.read_for(LOOK)?);
        }
        let seen = origin.elapsed();
        let text = String::from_utf8_lossy(&answer);
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if is_id(line) {
                last = line.to_owned();
            } else if line == "at" {
                let nanos = lines.nth(1).unwrap_or_default().parse()?;
                let written = Duration::from_nanos(nanos);
                if written > WARM_UP {
                    spans.push(seen.saturating_sub(written).as_secs_f64() * 1000.0);
                }
            }
        }
    }
    Ok(spans)
}

/// `*1 *2 $11 name *N` and N entries of eight lines and an id of two: the count says the lines.
fn is_whole(answer: &[u8]) -> bool {
    if !answer.ends_with(b"\r\n") {
        return false;
    }
    let text = String::from_utf8_lossy(answer);
    let entries = text.lines().nth(4).and_then(|line| line.strip_prefix('*'));
    let entries: usize = entries
        .and_then(|n| n.parse().ok())
        .unwrap_or(usize::MAX / 16);
    // Each: *2, two lines of the id, *2, two of the name, two of the value.
    text.lines().count() >= 5 + 8 * entries
}

/// `1526919030474-0`
fn is_id(line: &str) -> bool {
    let parts = line.split_once('-');
    parts.is_some_and(|(ms, n)| ms.len() > 9 && n.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) fn clients(bench: &Bench, arm: Arm, out: &mut Samples) -> Result<()> {
    let pair = Pair::start(&bench.programs, arm)?;
    let each = bench.size(200_000) / CLIENTS;
    let all = Mutex::new(Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (port, all) = (pair.near.port, &all);
                scope.spawn(move || -> Result<()> {
                    let spans = write_and_wait(port, number, each)?;
                    all.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(spans);
                    Ok(())
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| {
            let joined = writer.join();
            joined.map_err(|_| anyhow::anyhow!("a client failed"))?
        })
    })?;
    let rate = per_second(each * CLIENTS, start.elapsed());
    let (_, most) = percentiles(all.into_inner().unwrap_or_else(PoisonError::into_inner))?;
    out.put(
        "Local clients, writes",
        "1/s",
        Goal::RatioAtLeast(0.97),
        rate,
    );
    out.put(
        "Local clients, p99 of an answer",
        "ms",
        Goal::RatioAtMost(1.1),
        most,
    );
    Ok(())
}

fn write_and_wait(port: u16, number: usize, count: usize) -> Result<Vec<f64>> {
    let mut wire = Wire::open(port)?;
    let value = "v".repeat(64);
    let mut spans = Vec::with_capacity(count);
    for turn in 0..count {
        let key = format!("client:{number}:{:08}", turn % 10_000);
        let command = encode(&["SET", &key, &value]);
        let start = Instant::now();
        wire.send(&command)?;
        wire.lines(1)?;
        spans.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(spans)
}

/// The half and the ninety-ninth hundredth.
fn percentiles(mut spans: Vec<f64>) -> Result<(f64, f64)> {
    ensure!(!spans.is_empty(), "nothing was seen at the other side");
    spans.sort_by(f64::total_cmp);
    let at = |hundredth: usize| {
        let place = spans.len() * hundredth / 100;
        spans
            .get(place.min(spans.len() - 1))
            .copied()
            .unwrap_or(0.0)
    };
    Ok((at(50), at(99)))
}

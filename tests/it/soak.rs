//! Hours of what else happens in years: a load at both sites, and one fault after the other, at random.
//!
//! `TANDEM_SOAK_MINUTES=120` says how long; with `TANDEM_RELIABILITY` its figures are written into that
//! document. `SEED` repeats the order of the faults.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::harness::load::{self, Load};
use crate::harness::wait::{let_pass, seed};
use crate::harness::{FaultProxy, Options, Site, compare};
use crate::resume::durable;
use crate::sentinel::Sites;

/// How long it lasts, when nobody says: a few faults of the test suite.
const MINUTES: f64 = 0.25;
/// After so long everybody rests, and all that was promised is checked.
const ROUND: Duration = Duration::from_secs(60);
/// Between two writes of a client.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest time without a fault.
const CALM_MS: u64 = 900;
/// The longest time that a fault lasts, but for those of the link.
const FAULT_MS: u64 = 800;
/// The longest time that the link is bad: longer than it takes to notice one that is half-open.
const LINK_MS: u64 = 16_000;
/// Where the figures stand in the document.
const MARKS: [&str; 2] = ["<!-- soak -->\n", "<!-- end of soak -->"];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillSidecar,
    EndSidecar,
    StopSidecar,
    KillServer,
    SleepServer,
    FailOver,
    CutLink,
    FlapLink,
    HalfOpenLink,
    SlowLink,
    NarrowLink,
    FlipByte,
    CutRedis,
}

const FAULTS: [(Fault, &str); 13] = [
    (Fault::KillSidecar, "a sidecar killed (SIGKILL)"),
    (Fault::EndSidecar, "a sidecar ended and started (SIGTERM)"),
    (
        Fault::StopSidecar,
        "a sidecar stopped for a moment (SIGSTOP)",
    ),
    (
        Fault::KillServer,
        "a Redis killed, with an append-only file",
    ),
    (
        Fault::SleepServer,
        "a Redis that answers nobody for a second",
    ),
    (
        Fault::FailOver,
        "a primary killed; its replica takes over (Sentinel)",
    ),
    (Fault::CutLink, "the link cut"),
    (Fault::FlapLink, "the link cut and mended, again and again"),
    (Fault::HalfOpenLink, "the link half-open"),
    (Fault::SlowLink, "the link slow (up to 200 ms)"),
    (Fault::NarrowLink, "the link narrow (1 Mbit/s)"),
    (Fault::FlipByte, "a byte flipped on the link"),
    (
        Fault::CutRedis,
        "all connections between a sidecar and its Redis cut",
    ),
];

/// What came of it.
#[derive(Default)]
struct Figures {
    seed: u64,
    span: Duration,
    rounds: u32,
    faults: BTreeMap<Fault, u32>,
    /// From the end of a fault to synchronizing.
    recoveries: Vec<Duration>,
    acknowledged: usize,
    unknown: usize,
    /// Of the sidecar that is never ended: resident memory in KiB and open files, at the end of each
    /// round.
    memory: Vec<u64>,
    files: Vec<u64>,
    /// Lines in its log.
    lines: usize,
}

#[test]
fn whatever_fails_nothing_is_lost_and_nothing_comes_twice() {
    let minutes = env::var("TANDEM_SOAK_MINUTES").map_or(MINUTES, |text| {
        text.parse().expect("TANDEM_SOAK_MINUTES is a number")
    });
    let span = Duration::from_secs_f64(minutes * 60.0);
    let seed = seed("soak");
    let mut rng = StdRng::seed_from_u64(seed);
    let options = Options {
        redis_proxies: true,
        ..durable()
    };
    let mut sites = Sites::start_with(1, &options, |_, _| {});
    sites.pair.b.sidecar.expect_errors("");
    sites.pair.a.sidecar.expect_errors("");
    let mut figures = Figures {
        seed,
        ..Figures::default()
    };
    let begun = Instant::now();
    while begun.elapsed() < span {
        let left = span.saturating_sub(begun.elapsed());
        let tell = |fault: &str| println!("{:.1?}: {fault}", begun.elapsed());
        round(&mut sites, &mut rng, left.min(ROUND), &mut figures, tell);
        figures.rounds += 1;
    }
    figures.span = begun.elapsed();
    figures.lines = sites.pair.b.sidecar.log().lines().count();
    let report = figures.report();
    println!("{report}");
    figures.check();
    if let Ok(path) = env::var("TANDEM_RELIABILITY") {
        write_into(&path, &report);
    }
}

/// One load with its faults, and what was promised of it.
fn round(
    sites: &mut Sites,
    rng: &mut StdRng,
    span: Duration,
    figures: &mut Figures,
    tell: impl Fn(&str),
) {
    let ports = sites.pair.sites().map(|s| (s.name, s.server.port()));
    let load = Load::start(&ports, PAUSE, rng.random());
    let begun = Instant::now();
    while begun.elapsed() < span {
        let_pass(Duration::from_millis(rng.random_range(20..CALM_MS)));
        let (fault, name) = *FAULTS.choose(rng).expect("a fault");
        tell(name);
        inject(fault, sites, &load, rng);
        let healed = Instant::now();
        sites.pair.wait_synchronizing();
        figures.recoveries.push(healed.elapsed());
        *figures.faults.entry(fault).or_default() += 1;
    }
    let tallies = load.finish();
    sites.pair.wait_synchronizing();
    sites.pair.settle();
    compare(&sites.pair);
    for site in sites.pair.sites() {
        load::check(&tallies, &mut site.client());
    }
    sites.pair.no_echo();
    for tally in &tallies {
        figures.acknowledged += tally.acknowledged();
        figures.unknown += tally.unknown();
    }
    let steady = &sites.pair.b.sidecar;
    figures.memory.push(steady.memory_kib());
    figures.files.push(steady.open_files());
    // The next load counts from nothing.
    sites.pair.a.client().run("FLUSHALL");
    sites.pair.settle();
}

/// Lets it happen, and ends it.
fn inject(fault: Fault, sites: &mut Sites, load: &Load, rng: &mut StdRng) {
    let moment = Duration::from_millis(rng.random_range(0..FAULT_MS));
    let pair = &mut sites.pair;
    match fault {
        Fault::KillSidecar => {
            pair.a.sidecar.kill();
            let_pass(moment);
            pair.a.sidecar.start();
        }
        Fault::EndSidecar => {
            let (status, _) = pair.a.sidecar.terminate();
            assert!(status.success(), "{status}");
            let_pass(moment);
            pair.a.sidecar.start();
        }
        Fault::StopSidecar => {
            let site: &Site = pair.sites()[rng.random_range(0..2)];
            site.sidecar.signal("STOP");
            let_pass(moment);
            site.sidecar.signal("CONT");
        }
        Fault::KillServer => {
            let site = if rng.random_bool(0.5) {
                &mut pair.a
            } else {
                &mut pair.b
            };
            site.server.kill();
            let_pass(moment);
            site.server.restart();
            sites.groups[0].follow();
        }
        Fault::SleepServer => {
            let site: &Site = pair.sites()[rng.random_range(0..2)];
            site.client().run("DEBUG SLEEP 1");
        }
        Fault::FailOver => fail_over(sites, load),
        Fault::CutRedis => pair.b.redis_proxy.as_ref().expect("a proxy").cut_once(),
        Fault::FlipByte => pair.wire_a.up().flip_a_byte(),
        Fault::CutLink
        | Fault::FlapLink
        | Fault::HalfOpenLink
        | Fault::SlowLink
        | Fault::NarrowLink => disturb(fault, &pair.wire_a, rng),
    }
}

fn disturb(fault: Fault, wire: &FaultProxy, rng: &mut StdRng) {
    let mut span = Duration::from_millis(rng.random_range(0..FAULT_MS));
    match fault {
        Fault::FlapLink => {
            for _ in 0..10 {
                wire.cut();
                let_pass(span / 10);
                wire.mend();
                let_pass(span / 10);
            }
            return;
        }
        Fault::HalfOpenLink => {
            let lane = if rng.random_bool(0.5) {
                wire.up()
            } else {
                wire.down()
            };
            lane.swallow();
            span = Duration::from_millis(rng.random_range(0..LINK_MS));
        }
        Fault::SlowLink => {
            let delay = Duration::from_millis(rng.random_range(1..=200));
            wire.up().delay(delay);
            wire.down().delay(delay);
        }
        Fault::NarrowLink => {
            wire.up().throttle(125_000);
            wire.down().throttle(125_000);
        }
        _ => wire.cut(),
    }
    let_pass(span);
    wire.up().pass();
    wire.down().pass();
    wire.mend();
}

/// The replica gets all that the sidecar has read, or not the last of it; then it takes over.
fn fail_over(sites: &mut Sites, load: &Load) {
    sites.groups[0].wire.cut();
    let_pass(Duration::from_millis(50));
    load.pause();
    sites.wait_read(0);
    sites.kill_primary(0, load);
    load.resume();
    sites.come_back(0);
}

impl Figures {
    fn check(&self) {
        // Of a long run the first rounds still fill buffers; what grows without end, grows later too.
        if self.rounds >= 20 {
            let quarter = self.memory.len() / 4;
            let mean = |part: &[u64]| part.iter().sum::<u64>() / part.len() as u64;
            let before = mean(&self.memory[quarter..2 * quarter]);
            let after = mean(&self.memory[3 * quarter..]);
            let hours = self.span.as_secs_f64() / 3600.0 / 2.0;
            let slope = after.saturating_sub(before) as f64 / hours;
            assert!(
                slope <= 1024.0,
                "memory grows by {slope:.0} KiB an hour: {:?}",
                self.memory
            );
        }
        let (first, last) = (self.files.first(), self.files.last());
        let grown = last.unwrap_or(&0).saturating_sub(*first.unwrap_or(&0));
        assert!(grown <= 5, "open files: {:?}", self.files);
    }

    fn report(&self) -> String {
        let mut text = String::new();
        let mut recoveries = self.recoveries.clone();
        recoveries.sort();
        let at = |part: usize| {
            let last = recoveries.len().saturating_sub(1);
            recoveries
                .get(last * part / 100)
                .copied()
                .unwrap_or_default()
        };
        let faults: u32 = self.faults.values().sum();
        let minutes = self.span.as_secs_f64() / 60.0;
        let mut line = |row: std::fmt::Arguments<'_>| {
            writeln!(text, "{row}").expect("a string");
        };
        line(format_args!(
            "{minutes:.0} minutes, seed {}, {} rounds: {} writes acknowledged, {} without an answer; {faults} faults.",
            self.seed, self.rounds, self.acknowledged, self.unknown
        ));
        line(format_args!("Lost: 0. Doubled: 0. Different keys: 0.\n"));
        line(format_args!(
            "From the end of a fault to `synchronizing`: median {:.1?}, 99 % {:.1?}, longest {:.1?}.",
            at(50),
            at(99),
            at(100)
        ));
        line(format_args!(
            "The sidecar that was never ended: {} MiB after the first round, {} MiB after the last; {} and {} \
             open files; {:.0} lines of log a minute.\n",
            self.memory.first().unwrap_or(&0) / 1024,
            self.memory.last().unwrap_or(&0) / 1024,
            self.files.first().unwrap_or(&0),
            self.files.last().unwrap_or(&0),
            self.lines as f64 / minutes
        ));
        line(format_args!("| fault | times |\n|---|---|"));
        for (fault, name) in FAULTS {
            let times = self.faults.get(&fault).unwrap_or(&0);
            line(format_args!("| {name} | {times} |"));
        }
        text
    }
}

/// Replaces what stands between the marks.
fn write_into(path: &str, report: &str) {
    let text = fs::read_to_string(path).expect("the document");
    let (head, rest) = text.split_once(MARKS[0]).expect("the first mark");
    let (_, tail) = rest.split_once(MARKS[1]).expect("the last mark");
    let text = format!("{head}{}\n{report}\n{}{tail}", MARKS[0], MARKS[1]);
    fs::write(path, text).expect("write the document");
}

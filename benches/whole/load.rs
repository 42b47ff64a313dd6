//! The load: commands encoded beforehand, sent as fast as they are answered or at a steady rate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::wire::{Wire, append};

/// Keys that the load is spread over.
const KEYS: usize = 50_000;
/// Units in an encoded round; sent again and again.
const ENCODED: usize = 50_000;
/// Units in one write of the pipelined load.
const BATCH: usize = 250;
/// Batches that may be unanswered: one is being executed while the next one is on its way.
const IN_FLIGHT: usize = 4;
/// How often the paced load sends.
const TICK: Duration = Duration::from_millis(1);
/// One probe in so many ticks.
const PROBE_TICKS: u32 = 5;

/// What a unit of the load is: a command, or a transaction of three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Set64,
    Set4k,
    Json512,
    Hash,
    List,
    Zset,
    Stream,
    Transaction,
}

impl Unit {
    /// How the table calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Set64 => "SET of 64 B",
            Self::Set4k => "SET of 4 KiB",
            Self::Json512 => "SET of 512 B of JSON",
            Self::Hash => "HSET",
            Self::List => "RPUSH",
            Self::Zset => "ZADD",
            Self::Stream => "XADD",
            Self::Transaction => "MULTI, 3 SET, EXEC",
        }
    }

    /// Lines of the answer.
    fn lines(self) -> usize {
        match self {
            Self::Stream => 2,
            Self::Transaction => 8,
            _ => 1,
        }
    }

    /// The size of a unit against that of a small one: large ones are sent less often.
    pub(crate) fn weight(self) -> usize {
        match self {
            Self::Set4k => 16,
            Self::Transaction | Self::Json512 => 4,
            _ => 1,
        }
    }

    fn append(self, bytes: &mut Vec<u8>, site: &str, number: usize) {
        // Spread over the keys, so that neighbours in time are no neighbours in the table.
        let key = number * 7919 % KEYS;
        let named = |prefix: &str| format!("{prefix}:{site}{key:012}");
        let filler = format!("{number:064}");
        match self {
            Self::Set64 => append(bytes, &["SET", &named("key"), &filler]),
            Self::Set4k => append(bytes, &["SET", &named("large"), &filler.repeat(64)]),
            Self::Json512 => append(bytes, &["SET", &named("json"), &json(number)]),
            Self::Hash => {
                let field = format!("field:{}", number % 20);
                append(bytes, &["HSET", &named("hash"), &field, &filler]);
            }
            Self::List => append(bytes, &["RPUSH", &named("list"), &filler]),
            Self::Zset => {
                let member = format!("member:{}", number % 20);
                append(
                    bytes,
                    &["ZADD", &named("zset"), &number.to_string(), &member],
                );
            }
            Self::Stream => {
                let key = format!("stream:{site}{:03}", key % 500);
                append(
                    bytes,
                    &["XADD", &key, "MAXLEN", "~", "1000", "*", "field", &filler],
                );
            }
            Self::Transaction => {
                append(bytes, &["MULTI"]);
                for part in ["a", "b", "c"] {
                    append(bytes, &["SET", &named(part), &filler]);
                }
                append(bytes, &["EXEC"]);
            }
        }
    }
}

/// About 512 bytes that look like the record of a user.
fn json(number: usize) -> String {
    let mut text = format!(
        "{{\"id\":{number},\"name\":\"user {number}\",\"email\":\"user{number}@example.com\",\
         \"active\":true,\"score\":{},\"tags\":[\"one\",\"two\",\"three\"],\"address\":\
         {{\"street\":\"{} Long Street\",\"city\":\"Springfield\",\"zip\":\"{:05}\"}},\"history\":[",
        number % 977,
        number % 313,
        number % 99_991,
    );
    let mut entry = number;
    while text.len() < 490 {
        entry = (entry * 1_103_515_245 + 12_345) % 2_147_483_648;
        text.push_str(&format!("{{\"at\":{entry},\"was\":\"seen\"}},"));
    }
    text.pop();
    text + "]}"
}

/// A load that has been encoded.
pub(crate) struct Load {
    unit: Unit,
    bytes: Vec<u8>,
    /// Where each unit ends.
    ends: Vec<usize>,
}

impl Load {
    pub(crate) fn new(unit: Unit) -> Self {
        Self::of(unit, |_| "")
    }

    /// One whose units go to keys of different names, told by their numbers: where two loads use the
    /// same name, both write the same keys.
    pub(crate) fn of(unit: Unit, name: impl Fn(usize) -> &'static str) -> Self {
        let mut load = Self {
            unit,
            bytes: Vec::new(),
            ends: Vec::new(),
        };
        for number in 0..ENCODED / unit.weight() {
            unit.append(&mut load.bytes, name(number), number);
            load.ends.push(load.bytes.len());
        }
        load
    }

    /// The bytes of some units from this place on, and how many they are: fewer at the end.
    fn part(&self, from: usize, units: usize) -> (&[u8], usize) {
        let from = from % self.ends.len();
        let units = units.min(self.ends.len() - from);
        let end = |count: usize| count.checked_sub(1).and_then(|last| self.ends.get(last));
        let start = end(from).copied().unwrap_or(0);
        let stop = end(from + units).copied().unwrap_or(start);
        (self.bytes.get(start..stop).unwrap_or_default(), units)
    }

    /// Sends so many units as fast as they are answered.
    pub(crate) fn send(&self, port: u16, units: usize) -> Result<()> {
        self.send_until(port, units, &AtomicBool::new(false))
            .map(drop)
    }

    /// Sends until all are sent or it is told to stop; says how many.
    pub(crate) fn send_until(&self, port: u16, units: usize, stop: &AtomicBool) -> Result<usize> {
        let mut wire = Wire::open(port)?;
        let (mut sent, mut awaited, mut seen) = (0, 0, 0);
        let room = BATCH * IN_FLIGHT / self.unit.weight() * self.unit.lines();
        while sent < units && !stop.load(Ordering::Relaxed) {
            let batch = (BATCH / self.unit.weight()).min(units - sent);
            let (bytes, count) = self.part(sent, batch);
            wire.send(bytes)?;
            sent += count;
            awaited += count * self.unit.lines();
            if awaited - seen >= room {
                seen += wire.lines(awaited - seen - room / 2)?;
            }
        }
        wire.lines(awaited - seen)?;
        Ok(sent)
    }

    /// Sends at a steady rate for a while; says how many. `probe` is asked every few milliseconds
    /// for a command to go with the others, answered by two lines.
    pub(crate) fn send_paced(
        &self,
        port: u16,
        rate: usize,
        span: Duration,
        mut probe: impl FnMut() -> Option<Vec<u8>>,
    ) -> Result<usize> {
        let mut wire = Wire::open(port)?;
        let start = Instant::now();
        let (mut sent, mut ticks) = (0, 0);
        while start.elapsed() < span {
            let micros = usize::try_from(start.elapsed().as_micros())?;
            let due = (rate * micros / 1_000_000).max(sent);
            let mut lines = 0;
            while sent < due {
                let (bytes, count) = self.part(sent, due - sent);
                wire.send(bytes)?;
                sent += count;
                lines += count * self.unit.lines();
            }
            ticks += 1;
            if ticks % PROBE_TICKS == 0
                && let Some(command) = probe()
            {
                wire.send(&command)?;
                lines += 2;
            }
            wire.lines(lines)?;
            let next = TICK * ticks;
            thread::sleep(next.saturating_sub(start.elapsed()));
        }
        Ok(sent)
    }
}

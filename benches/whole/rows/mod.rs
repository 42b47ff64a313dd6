//! The rows of the table: what each measures, and how it is explained.

mod conflicts;
mod copy;
mod cost;
mod latency;
mod throughput;

use anyhow::Result;

use crate::pair::{Arm, Programs};
use crate::report::Samples;

/// What a row is given.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    /// All sizes are multiplied with it.
    pub(crate) scale: f64,
    /// Seconds of what runs for a time and not for a number.
    pub(crate) seconds: u64,
}

impl Bench {
    /// A number of writes at this scale, never too few to mean something.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes are positive and far below the limits"
    )]
    pub(crate) fn size(&self, full: u32) -> usize {
        ((f64::from(full) * self.scale) as usize).max(100)
    }
}

/// A row: one way of measuring, done once for each arm in each round.
pub(crate) struct Row {
    /// For `--only`.
    pub(crate) name: &'static str,
    pub(crate) how: &'static str,
    pub(crate) run: fn(&Bench, Arm, &mut Samples) -> Result<()>,
}

/// All rows, in the order of the table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "throughput",
        how: "One connection sends as fast as it is answered, with at most 1,000 small commands \
              unanswered; the clock stops when the last key of the load can be read at the other \
              side, which is asked every millisecond.",
        run: throughput::one_way,
    },
    Row {
        name: "mixed",
        how: "The same with other commands. A transaction counts as one record.",
        run: throughput::mixed,
    },
    Row {
        name: "catch-up",
        how: "The link runs through a proxy of ours, which is cut while the load is written; both \
              then resume, from the journal or from the backlog. The rate counts from the moment \
              when the first connection gets through again; the whole time from the mending on \
              contains each one's own pause before it dials again.",
        run: throughput::catch_up,
    },
    Row {
        name: "both-ways",
        how: "Tandem: first one side is loaded, then the other, then both at once. Native \
              replication knows one direction only; beside it stand two native pairs loaded at once.",
        run: throughput::both_ways,
    },
    Row {
        name: "conflicts",
        how: "Both sides write at once, each its own keys, but for one write in 100, which goes to \
              keys of both: 500 keys, so that most of these meet. First without, then with, until \
              all has arrived. Then 5,000 writes a second at each side, through a proxy that \
              delivers everything 50 ms later: of the conflicts in which a value was wrong, the \
              share that had the right one 300 ms after the later write.",
        run: conflicts::conflicts,
    },
    Row {
        name: "far-away",
        how: "As throughput, through a proxy that delivers everything 50 ms later in each \
              direction and does not limit the rate.",
        run: throughput::far_away,
    },
    Row {
        name: "saturated",
        how: "Three connections write as fast as they can for some seconds, more than the \
              machine's cores can carry. Every 10 ms a heartbeat with the time is written, and read \
              at the other side: its age is the lag. Then the load stops; recovered is when all \
              of it has arrived.",
        run: throughput::saturated,
    },
    Row {
        name: "cpu",
        how: "Time on a processor, of all threads, from /proc/PID/task/*/schedstat, over the \
              records of a load; marks and what is idle are in it. Native: the replica's whole \
              process, which receives and executes. The target row compares the server that \
              executes: with Tandem it also has to write its own replication stream, which its \
              sidecar reads.",
        run: cost::cpu,
    },
    Row {
        name: "memory",
        how: "VmRSS of the larger sidecar, idle; its VmHWM after a load at full rate; VmHWM of the \
              larger one after a load that was written while the link was cut.",
        run: cost::memory,
    },
    Row {
        name: "link",
        how: "Bytes that pass the proxy between the two sides, in both directions, over the growth \
              of master_repl_offset at the source during the same load. Compressed: with \
              [link] compression = zstd at both sites.",
        run: cost::link,
    },
    Row {
        name: "visible",
        how: "A steady load, written every millisecond; within it, 200 times a second, an XADD. A \
              client at the other side waits in XREAD BLOCK, which works on a replica too and wakes \
              as soon as the entry is there: nobody polls. From just before the write to the \
              return of the read; both clocks are the machine's.",
        run: latency::visible,
    },
    Row {
        name: "clients",
        how: "Four connections write, each waiting for every answer, while the other side follows. \
              All processes share one machine: here the far side's work weighs on the clients, too.",
        run: latency::clients,
    },
    Row {
        name: "copy-small",
        how: "DEBUG POPULATE with values of 64 B at one side, the other empty. From REPLICAOF, or \
              the start of both sidecars, until the other side has all keys and the link is up. \
              Servers have the default repl-diskless-sync and a repl-diskless-sync-delay of 0. \
              Memory is the VmHWM of both sidecars together.",
        run: copy::small,
    },
    Row {
        name: "copy-large",
        how: "The same with values of 1 MB.",
        run: copy::large,
    },
];

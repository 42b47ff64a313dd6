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
    /// What keeps it from its goal where it misses it, as the profile says.
    pub(crate) in_the_way: &'static str,
    pub(crate) run: fn(&Bench, Arm, &mut Samples) -> Result<()>,
}

/// All rows, in the order of the table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "throughput",
        how: "One connection sends as fast as it is answered, with at most 1,000 small commands \
              unanswered; the clock stops when the last key of the load can be read at the other \
              side, which is asked every millisecond.",
        in_the_way: "One machine runs the load, both servers and both sidecars, and its cores are all \
              busy: the rate is the cores over the time of all five for a record, and native \
              replication has three processes. What the two sidecars take is in the rows of \
              the processor, and is what is in the way: the target server has about as much \
              to do as a native replica, for plain SETs in a row are executed as one MSET.",
        run: throughput::one_way,
    },
    Row {
        name: "mixed",
        how: "The same with other commands. A transaction counts as one record.",
        in_the_way: "As throughput; and the target server queues each of these commands, answers it, and \
              writes it into its own stream. The dearer a command is for the servers themselves, \
              the less all that weighs.",
        run: throughput::mixed,
    },
    Row {
        name: "catch-up",
        how: "The link runs through a proxy of ours, which is cut while the load is written; both \
              then resume, from the journal or from the backlog. The rate counts from the moment \
              when the first connection gets through again; the whole time from the mending on \
              contains each one's own pause before it dials again.",
        in_the_way: "While it catches up a native replica executes from memory what its master \
              sends from memory. Here the server executes transactions, one at a time, and waits \
              between an answer and the next transaction, which must not be on its way before; \
              and the sidecars want the cores.",
        run: throughput::catch_up,
    },
    Row {
        name: "both-ways",
        how: "Tandem: first one side is loaded, then the other, then both at once. Native \
              replication knows one direction only; beside it stand two native pairs loaded at once.",
        in_the_way: "One direction alone fills the cores of a machine with two: of the sum of both \
              no more than a half is left, and what is above comes from larger batches. The \
              goal needs a core for each of the servers and sidecars.",
        run: throughput::both_ways,
    },
    Row {
        name: "conflicts",
        how: "Both sides write at once, each its own keys, but for one write in 100, which goes to \
              keys of both: 500 keys, so that most of these meet. First without, then with, until \
              all has arrived: at 50,000 writes a second, and as fast as they are answered. Then \
              5,000 writes a second at each side, through a proxy that delivers everything 50 ms \
              later: of the conflicts in which a value was wrong, the share that had the right one \
              300 ms after the later write.",
        in_the_way: "Each conflict costs a question, a state read under a mark, and a guarded \
              transaction with a round trip of its own.",
        run: conflicts::conflicts,
    },
    Row {
        name: "far-away",
        how: "As throughput, through a proxy that delivers everything 50 ms later in each \
              direction and does not limit the rate.",
        in_the_way: "As throughput. The window is large enough: what is on its way is bounded by \
              bytes, not by round trips.",
        run: throughput::far_away,
    },
    Row {
        name: "saturated",
        how: "Three connections write as fast as they can for some seconds, more than the \
              machine's cores can carry. Every 10 ms a heartbeat with the time is written, and read \
              at the other side: its age is the lag. Then the load stops; recovered is when all \
              of it has arrived.",
        in_the_way: "The load alone wants more than the cores. The servers do not wait for the \
              sidecars, so these get what the system gives them, and work it off afterwards.",
        run: throughput::saturated,
    },
    Row {
        name: "cpu",
        how: "Time on a processor, of all threads, from /proc/PID/task/*/schedstat, over the \
              records of a load; marks and what is idle are in it. Native: the replica's whole \
              process, which receives and executes. The target row compares the server that \
              executes: with Tandem it also has to write its own replication stream, which its \
              sidecar reads.",
        in_the_way: "Under full load a third of the sidecars' time is the system's: bytes are copied in and \
              out of sockets and into the journal, five times a record. The rest is in the \
              cost model below. At a paced load it is waking: for each burst of 20 the source \
              is woken once or twice (read, journal, send), the target three times (link, \
              answers, own stream), each with cold caches; half of that time is in the system, \
              and a native replica is woken once. To wait for more records would save most of \
              it, and cost the latency for which the goal is 0.2 ms. The target server also \
              writes the stream in which echoes are read, and queues and answers what is no \
              plain SET.",
        run: cost::cpu,
    },
    Row {
        name: "memory",
        how: "VmRSS of the larger sidecar, idle; its VmHWM after a load at full rate; VmHWM of the \
              larger one after a load that was written while the link was cut.",
        in_the_way: "",
        run: cost::memory,
    },
    Row {
        name: "link",
        how: "Bytes that pass the proxy between the two sides, in both directions, over the growth \
              of master_repl_offset at the source during the same load. Compressed: with \
              [link] compression = zstd at both sites.",
        in_the_way: "What a record has besides its command: the tags, and the frame around them; \
              and the acknowledgements.",
        run: cost::link,
    },
    Row {
        name: "visible",
        how: "A steady load, written every millisecond; within it, 200 times a second, an XADD. A \
              client at the other side waits in XREAD BLOCK, which works on a replica too and wakes \
              as soon as the entry is there: nobody polls. From just before the write to the \
              return of the read; both clocks are the machine's.",
        in_the_way: "Two hops more than natively, each of which is a process that must be woken and \
              given a core; where the load keeps both cores busy, each waits for its turn.",
        run: latency::visible,
    },
    Row {
        name: "clients",
        how: "Four connections write, each waiting for every answer, while the other side follows. \
              All processes share one machine: here the far side's work weighs on the clients, too.",
        in_the_way: "The far side runs on the same cores as the clients and their server.",
        run: latency::clients,
    },
    Row {
        name: "copy-small",
        how: "DEBUG POPULATE with values of 64 B at one side, the other empty. From REPLICAOF, or \
              the start of both sidecars, until the other side has all keys and the link is up. \
              Servers have the default repl-diskless-sync and a repl-diskless-sync-delay of 0. \
              Memory is the VmHWM of both sidecars together.",
        in_the_way: "A native replica loads the snapshot into memory; here every key is a RESTORE in a \
              transaction, which the server answers and writes into its own stream, where the \
              sidecar reads it.",
        run: copy::small,
    },
    Row {
        name: "copy-large",
        how: "The same with values of 1 MB.",
        in_the_way: "As the copy of small keys: each value passes two sockets more, and the receiver's own \
              stream.",
        run: copy::large,
    },
];

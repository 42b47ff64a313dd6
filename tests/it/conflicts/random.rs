//! All sites write what comes, to the same keys, over links that are slow and break, while sidecars
//! die, servers crash and journals are full.
//!
//! `TANDEM_SEED=n` repeats one load as far as threads allow, `TANDEM_SEEDS=100` runs more of them,
//! `TANDEM_SECONDS=60` each for longer.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::exact::{self, Adder, Sums};
use crate::conformance::generated::{Writer, forms, rest, unequal_keys};
use crate::harness::client::words;
use crate::harness::compare::differences_in_value;
use crate::harness::pair::echoes;
use crate::harness::wait::{let_pass, patience, wait_until};
use crate::harness::{FaultProxy, Mesh, Options, Server, Sidecar, Site};

/// How many loads there are, when nobody says.
const SEEDS: u64 = 2;
/// How many of each other kind.
const FEW: u64 = 1;
/// How long each lasts.
const SECONDS: u64 = 6;
/// Keys of each of the seven kinds that everybody writes, and of those that are met seldom.
const HOT: usize = 15;
const COLD: usize = 15_000;
/// The longest way from one site to the other, in milliseconds.
const DELAY_MS: u64 = 200;
/// The longest time between two faults.
const CALM_MS: u64 = 700;
/// How many writes there are for one of whole databases.
const WRITES_PER_WHOLE: usize = 3000;
/// Between two writes of a client: this machine has other things to do.
const PAUSE: Duration = Duration::from_millis(1);

/// What is loaded.
#[derive(Clone, Copy)]
struct Load {
    sites: usize,
    servers: &'static [&'static str],
    /// What happens now and then besides.
    event: Option<Event>,
    /// Whether all that was added must be there.
    is_exact: bool,
}

/// What happens a few times in a load.
#[derive(Clone, Copy)]
enum Event {
    /// All clients go away, a server is killed and started again, and clients come back.
    Restart,
    /// All sites are apart, and one writes so many bytes, more than its journal of this size holds, which does this
    /// then.
    Overflow {
        when_full: &'static str,
        journal: &'static str,
        bytes: usize,
    },
}

/// How often.
const EVENTS: u32 = 3;
/// The smallest journal there is.
const SMALL_JOURNAL: &str = "16MiB";
/// A quarter of it, the reserve where nothing is dropped, is more than what is left of the filling before, and what
/// all sites write until there is room again.
const ROOMY_JOURNAL: &str = "32MiB";
/// What is left of that when all have got all: the last segment, which is never removed.
const NEARLY_EMPTY: u64 = 4 << 20;
/// What a sidecar says when its journal drops what a peer has not got: that is copied.
const DROPS: &str = "drops what a peer has not got";
/// It is filled with values of this size.
const FAT: usize = 64 << 10;
/// How many keys get these.
const FAT_KEYS: usize = 8;

/// As the precheck advises: a disk that is busy keeps a killed sidecar, and what no sidecar reads because it
/// was away for longer than the backlog lasts is promised less.
const LONG: &[&str] = &["repl-backlog-size 64mb"];
/// What is written while a sidecar is away is often not in it any more: it is copied, while all go on.
const SHORT: &[&str] = &["repl-backlog-size 16kb"];
/// What comes back after a crash is what was there up to a second before.
const LOGGED: &[&str] = &[
    "repl-backlog-size 64mb",
    "appendonly yes",
    "appendfsync everysec",
];

/// So many sites, of which nothing is lost.
const fn lossless(sites: usize) -> Load {
    Load {
        sites,
        servers: LONG,
        event: None,
        is_exact: true,
    }
}

/// So many sites that copy parts of each other's histories: what both have added in such a part may be there
/// once.
const fn copying(sites: usize) -> Load {
    Load {
        sites,
        servers: SHORT,
        event: None,
        is_exact: false,
    }
}

/// So many sites whose servers crash. Of what the peers had not got in time some is lost.
const fn crashing(sites: usize, servers: &'static [&'static str]) -> Load {
    Load {
        sites,
        servers,
        event: Some(Event::Restart),
        is_exact: false,
    }
}

/// So many sites whose journals drop what does not fit: it is copied.
const fn dropping(sites: usize) -> Load {
    Load {
        sites,
        servers: LONG,
        event: Some(Event::Overflow {
            when_full: "full_sync",
            journal: SMALL_JOURNAL,
            bytes: 20 << 20,
        }),
        is_exact: false,
    }
}

/// So many sites that do not read what does not fit: their servers keep it. The reserve has room for it.
const fn waiting(sites: usize) -> Load {
    Load {
        sites,
        servers: LONG,
        event: Some(Event::Overflow {
            when_full: "stop_reading",
            journal: ROOMY_JOURNAL,
            bytes: 26 << 20,
        }),
        is_exact: true,
    }
}

/// Of the three databases that are written at random, and not of that with the counters.
const WHOLE: &[&str] = &[
    "FLUSHDB",
    "FLUSHDB",
    "FLUSHDB",
    "SWAPDB 0 1",
    "SWAPDB 1 2",
    "SWAPDB 0 2",
];

/// What of it three sites may do: two exchanges of databases that meet are not mended there.
const FLUSHES: &[&str] = &["FLUSHDB"];

/// Beside the commands of the generator: keys that expire at both sites.
const SHORT_LIVED: &[&str] = &["PEXPIRE {k} {soon}", "SET {s} {v} PX {soon}", "PERSIST {k}"];

#[test]
fn random_writes_of_both_sites_end_equal() {
    end_equal(lossless(2));
}

#[test]
fn random_writes_of_three_sites_end_equal() {
    end_equal(lossless(3));
}

#[test]
fn random_writes_of_both_sites_end_equal_where_much_is_copied() {
    end_equal(copying(2));
}

#[test]
fn random_writes_of_three_sites_end_equal_where_much_is_copied() {
    end_equal(copying(3));
}

#[test]
fn random_writes_of_both_sites_end_equal_where_servers_crash() {
    end_equal(crashing(2, LOGGED));
}

#[test]
fn random_writes_of_three_sites_end_equal_where_servers_crash() {
    end_equal(crashing(3, LOGGED));
}

#[test]
fn random_writes_of_both_sites_end_equal_where_servers_come_back_empty() {
    end_equal(crashing(2, LONG));
}

#[test]
fn random_writes_of_three_sites_end_equal_where_servers_come_back_empty() {
    end_equal(crashing(3, LONG));
}

#[test]
fn random_writes_of_both_sites_end_equal_where_journals_overflow() {
    end_equal(dropping(2));
}

#[test]
fn random_writes_of_three_sites_end_equal_where_journals_overflow() {
    end_equal(dropping(3));
}

#[test]
fn random_writes_of_both_sites_end_equal_where_journals_are_full() {
    end_equal(waiting(2));
}

#[test]
fn random_writes_of_three_sites_end_equal_where_journals_are_full() {
    end_equal(waiting(3));
}

/// Random loads of one kind.
fn end_equal(kind: Load) {
    let number = |name: &str| {
        let text = env::var(name).ok()?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        )
    };
    let seeds: Vec<u64> = match number("TANDEM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let count = if kind.event.is_none() && kind.is_exact {
                SEEDS
            } else {
                FEW
            };
            let count = number("TANDEM_SEEDS").unwrap_or(count);
            (0..count).map(|_| rand::random::<u32>().into()).collect()
        }
    };
    let span = Duration::from_secs(number("TANDEM_SECONDS").unwrap_or(SECONDS));
    let (sites, mut failures) = (kind.sites, Vec::new());
    for seed in &seeds {
        println!("TANDEM_SEED={seed}, {sites} sites");
        let wrong = load(kind, *seed, span);
        if !wrong.is_empty() {
            let count = wrong.len();
            println!("TANDEM_SEED={seed}: {count} wrong:\n{}", wrong.join("\n"));
            failures.push(format!("TANDEM_SEED={seed}: {count} wrong"));
        }
    }
    let summary = failures.join("\n");
    assert!(
        failures.is_empty(),
        "{} of {} loads of {sites} sites did not end well:\n{summary}",
        failures.len(),
        seeds.len()
    );
}

/// One load from the beginning to rest; what is wrong then.
fn load(kind: Load, seed: u64, span: Duration) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut mesh = start(kind);
    let (mut histories, mut sums): (_, Vec<Sums>) = (Vec::new(), Vec::new());
    let events = if kind.event.is_some() { EVENTS } else { 0 };
    for phase in 0..=events {
        let victim = (phase > 0).then(|| rng.random_range(0..kind.sites));
        if let (Some(Event::Restart), Some(victim)) = (kind.event, victim) {
            mesh.sites[victim].server.restart();
        }
        let filling = match (kind.event, victim) {
            (Some(Event::Overflow { bytes, .. }), Some(victim)) => Some((victim, bytes)),
            _ => None,
        };
        if filling.is_some() {
            if let Err(reason) = come_to_rest(&mesh, seed) {
                return vec![reason];
            }
            mesh.sites.iter().for_each(drained);
        }
        let from = sums.iter().map(Sums::last_number).max().unwrap_or(0);
        let span = span / (events + 1);
        let (history, added) = write_all(&mut mesh, &mut rng, (span, from), filling);
        histories.extend(history);
        sums.extend(added);
    }
    mesh.mend();
    let copies = mesh.sites.iter().map(copies).sum::<usize>();
    println!("{} commands, {copies} copies", histories.len());
    // Lines begin with the time.
    histories.sort();
    if let Err(reason) = come_to_rest(&mesh, seed) {
        return vec![reason];
    }
    let mut wrong = unequal_keys(&mesh.all(), &histories, differences_in_value);
    for site in mesh.sites.iter().filter(|_| kind.is_exact) {
        wrong.extend(exact::wrong(&sums, site));
        if site.sidecar.log().contains(DROPS) {
            wrong.push(format!("{}: {DROPS}", site.name));
        }
    }
    wrong.extend(echoes(&mesh.all()));
    if !wrong.is_empty() {
        keep_logs(&mesh, seed);
    }
    wrong
}

/// Waits until nothing is on its way any more; says why it does not come to that.
fn come_to_rest(mesh: &Mesh, seed: u64) -> Result<(), String> {
    let start = Instant::now();
    let rested = rest(&mesh.all());
    println!("at rest after {:.1} s", start.elapsed().as_secs_f64());
    if rested.is_err() {
        keep_logs(mesh, seed);
    }
    rested
}

/// Sites for such a load, which are in sync.
fn start(kind: Load) -> Mesh {
    let mut mesh = Mesh::prepare(
        kind.sites,
        &Options {
            servers: kind.servers,
            ..Options::default()
        },
    );
    for site in &mut mesh.sites {
        // Commands that meet a key of another type are told in the log.
        site.sidecar.expect_errors("");
        if let Some(Event::Overflow {
            when_full, journal, ..
        }) = kind.event
        {
            journal.clone_into(&mut site.sidecar.config.journal_size);
            site.sidecar.config.journal_extra = format!("when_full = \"{when_full}\"");
        }
    }
    mesh.start_all();
    mesh.wait_synchronizing();
    mesh
}

/// All sites write for a while, and much fails; what was sent, and what adds up. One of them may write much at
/// first.
fn write_all(
    mesh: &mut Mesh,
    rng: &mut StdRng,
    (span, from): (Duration, u64),
    filling: Option<(usize, usize)>,
) -> (Vec<String>, Vec<Sums>) {
    let wholes = if mesh.sites.len() > 2 { FLUSHES } else { WHOLE };
    let stopping = AtomicBool::new(false);
    let (mut histories, mut sums) = (Vec::new(), Vec::new());
    let (sites, wires) = mesh.parts();
    let (mut sidecars, mut servers) = (Vec::new(), Vec::new());
    for Site {
        name,
        sidecar,
        server,
        ..
    } in sites
    {
        sidecars.push(sidecar);
        servers.push((*name, &*server));
    }
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for &(name, server) in &servers {
            let [writing, adding] = [rng.random(), rng.random()].map(StdRng::seed_from_u64);
            let stopping = &stopping;
            clients.push((
                scope.spawn(move || write(Writer::new(name, server, writing), wholes, stopping)),
                scope.spawn(move || add(Adder::new(name, server, (adding, from)), stopping)),
            ));
        }
        if let Some((site, bytes)) = filling {
            wires.iter().for_each(|wire| wire.cut());
            fill(servers[site].1, sidecars[site], bytes);
            wires.iter().for_each(|wire| wire.mend());
        }
        let start = Instant::now();
        while start.elapsed() < span {
            disturb(rng, &mut sidecars, &wires);
        }
        stopping.store(true, Ordering::SeqCst);
        for (writer, adder) in clients {
            histories.extend(writer.join().expect("a writer"));
            sums.push(adder.join().expect("a client"));
        }
    });
    (histories, sums)
}

/// Writes so much, or until reading stops, and waits until the journal is full of it.
fn fill(server: &Server, sidecar: &Sidecar, bytes: usize) {
    let (mut client, value) = (server.client(), "x".repeat(FAT));
    let journal = || sidecar.status().map(|status| status.journal);
    // It may have been started a moment ago.
    let before = wait_until("a status", patience(30), journal).overflows;
    for n in 0..bytes / FAT {
        client.send(&["SET", &format!("fat:{}", n % FAT_KEYS), &value]);
        if n % FAT_KEYS == 0 && journal().is_ok_and(|journal| journal.error.is_some()) {
            break;
        }
    }
    wait_until("the journal to be full", patience(30), || {
        let journal = journal()?;
        let is_full = journal.error.is_some() || journal.overflows > before;
        is_full.then_some(()).ok_or_else(|| format!("{journal:?}"))
    });
}

/// How many copies a site has begun to send, the first among them.
fn copies(site: &Site) -> usize {
    let log = site.sidecar.log();
    log.matches("sending a copy peer=").count()
}

/// Waits until hardly anything is left in a journal, and nothing is on its way there: what all sites have written
/// meanwhile is in it, of three sites and more.
fn drained(site: &Site) {
    let mut client = site.client();
    wait_until("an empty journal", patience(60), || {
        let status = site.sidecar.status()?;
        let journal = status.journal;
        if status.settled && journal.bytes <= NEARLY_EMPTY {
            return Ok(());
        }
        if status.settled {
            // A segment goes when all have got a record behind it.
            client.run("INCR drained");
        }
        Err(format!("{}: {journal:?}", site.name))
    });
}

/// With `TANDEM_LOGS=directory`, what the sidecars said is kept there.
fn keep_logs(mesh: &Mesh, seed: u64) {
    let Some(dir) = env::var_os("TANDEM_LOGS").map(PathBuf::from) else {
        return;
    };
    for site in &mesh.sites {
        let path = dir.join(format!("{seed}-{}.log", site.name));
        fs::write(path, site.sidecar.log()).expect("write a log");
    }
}

/// Commands of all types, most of them to hot keys, until told to stop; what was sent.
fn write(mut writer: Writer<'_>, wholes: &[&str], stopping: &AtomicBool) -> Vec<String> {
    let mut forms = forms(&writer.product(), &writer.product());
    forms.extend(SHORT_LIVED);
    while !stopping.load(Ordering::SeqCst) {
        let is_hot = writer.rng.random_range(0..10) < 7;
        let (prefix, keys) = if is_hot { ("hot", HOT) } else { ("cold", COLD) };
        prefix.clone_into(&mut writer.prefix);
        writer.keys = keys;
        writer.write(&forms, 1);
        if writer.rng.random_range(0..WRITES_PER_WHOLE) == 0 {
            let line = wholes[writer.rng.random_range(0..wholes.len())];
            writer.send(words(line));
        }
        let_pass(PAUSE);
    }
    writer.history
}

/// What adds up, until told to stop.
fn add(mut adder: Adder, stopping: &AtomicBool) -> Sums {
    while !stopping.load(Ordering::SeqCst) {
        adder.add();
        let_pass(PAUSE);
    }
    adder.finish()
}

/// One fault, after a while without.
fn disturb(rng: &mut StdRng, sidecars: &mut [&mut Sidecar], wires: &[&FaultProxy]) {
    let_pass(Duration::from_millis(rng.random_range(20..CALM_MS)));
    let wire = wires[rng.random_range(0..wires.len())];
    match rng.random_range(0..10) {
        0..5 => {
            for wire in wires {
                for lane in [wire.up(), wire.down()] {
                    lane.delay(Duration::from_millis(rng.random_range(0..=DELAY_MS)));
                }
            }
        }
        5 => wire.cut_once(),
        6 => {
            wire.cut();
            let_pass(Duration::from_millis(rng.random_range(20..CALM_MS)));
            wire.mend();
        }
        7 | 8 => {
            let victim = rng.random_range(0..sidecars.len());
            sidecars[victim].kill();
            let_pass(Duration::from_millis(rng.random_range(0..CALM_MS)));
            sidecars[victim].start();
        }
        _ => {
            sidecars.iter_mut().for_each(|sidecar| sidecar.kill());
            let_pass(Duration::from_millis(rng.random_range(0..CALM_MS)));
            sidecars.iter_mut().for_each(|sidecar| sidecar.start());
        }
    }
}

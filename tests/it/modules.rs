//! A module in a server writes where no client can: into our own transactions, before the mark too.

use std::process::Command;

use tempfile::TempDir;

use crate::gap;
use crate::harness::compare::differences;
use crate::harness::{Client, Options, Pair, Tap, compare, patience, wait_for};

/// The module's source.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/writer.c");

/// The module, built for this machine.
struct Module(TempDir);

impl Module {
    fn build() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let output = Command::new("cc")
            .args([
                "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", SOURCE, "-o",
            ])
            .arg(dir.path().join("writer.so"))
            .output()
            .expect("cc runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        Self(dir)
    }

    fn load(&self, client: &mut Client, argument: &str) {
        let path = self.0.path().join("writer.so");
        client.run(&format!("MODULE LOAD {} {argument}", path.display()));
    }
}

/// Before 6.2 Redis writes MULTI within MULTI when a module writes as keys are written, and 5.0 no
/// EXEC: no replica can follow that.
fn has_broken_stream(client: &mut Client) -> bool {
    let is_old = client.version() < (6, 2);
    if is_old {
        println!("this server's stream is broken by such a module");
    }
    is_old
}

/// Everything so far is everywhere, and both taps have seen it.
fn at_rest(pair: &Pair, taps: [&Tap; 2]) {
    pair.a.client().run("SET last 1");
    pair.settle();
    for tap in taps {
        wait_for("the taps to see the last write", patience(20), || {
            tap.count("SET last") == 1
        });
    }
}

#[test]
fn what_a_module_writes_before_the_mark_is_this_sites_own() {
    let module = Module::build();
    let pair = Pair::start(&Options::default());
    let [tap_a, tap_b] = pair.sites().map(|site| Tap::on(site.server.port()));
    let (mut a, mut b) = pair.clients();
    if has_broken_stream(&mut a) {
        return;
    }
    module.load(&mut a, "marks");
    for n in 0..50 {
        b.run("INCR n");
        b.run(&format!("RPUSH list {n}"));
        a.run("INCR n");
    }
    at_rest(&pair, [&tap_a, &tap_b]);

    let stream = tap_a.commands();
    let is_before =
        |pair: &[String]| pair[0] == "INCR wrote:mark" && pair[1].starts_with("SET tandem:from:b ");
    let found = stream.windows(2).filter(|pair| is_before(pair)).count();
    assert!(found > 0, "the mark is never the second: {stream:#?}");
    // It is a write of a, and the peer's write behind the mark is not.
    let wrote: u64 = b.ask("GET wrote:mark");
    assert!(wrote >= found as u64, "{wrote} of {found}");
    compare(&pair);
    for tap in [&tap_a, &tap_b] {
        assert_eq!(tap.count("INCR n"), 100, "{:#?}", tap.commands());
        assert_eq!(tap.count("RPUSH list"), 50, "{:#?}", tap.commands());
    }
    assert_eq!(b.ask::<u64>("GET n"), 100);
    pair.no_echo();
}

#[test]
fn commands_of_a_module_travel_once_however_they_are_replicated() {
    let module = Module::build();
    let pair = Pair::start(&Options::default());
    let [tap_a, tap_b] = pair.sites().map(|site| Tap::on(site.server.port()));
    let (mut a, mut b) = pair.clients();
    for client in [&mut a, &mut b] {
        module.load(client, "");
    }
    for client in [&mut a, &mut b] {
        for _ in 0..10 {
            client.run("writer.call n:call");
            client.run("writer.replicate n:replicate");
            client.run("writer.verbatim n:verbatim");
            client.run("MULTI");
            client.run("writer.call n:call");
            client.run("INCR n:plain");
            client.run("writer.replicate n:replicate");
            client.run("writer.verbatim n:verbatim");
            client.run("EXEC");
        }
        // What nobody knows is in conflict with everything.
        pair.settle();
    }
    at_rest(&pair, [&tap_a, &tap_b]);
    compare(&pair);
    for (key, value) in [
        ("n:call", 80),
        ("n:replicate", 40),
        ("n:verbatim", 40),
        ("n:plain", 20),
    ] {
        assert_eq!(b.ask::<u64>(&format!("GET {key}")), value, "{key}");
    }
    for site in pair.sites() {
        let peer = &site.sidecar.status().unwrap().peers[0];
        assert_eq!(peer.failed_commands, 0, "{peer:#?}");
    }
    for tap in [&tap_a, &tap_b] {
        assert_eq!(tap.count("writer.verbatim"), 40, "{:#?}", tap.commands());
    }
    pair.no_echo();
}

#[test]
fn commands_of_a_module_that_the_peer_lacks_are_mended_by_the_value() {
    let module = Module::build();
    let pair = Pair::start(&Options::default());
    let [tap_a, tap_b] = pair.sites().map(|site| Tap::on(site.server.port()));
    let (mut a, mut b) = pair.clients();
    module.load(&mut a, "");
    for n in 0..10 {
        a.run(&format!("writer.verbatim n:{n}"));
        a.run(&format!("writer.call n:{n}"));
        b.run(&format!("INCR n:{n}"));
    }
    at_rest(&pair, [&tap_a, &tap_b]);
    compare(&pair);
    assert_eq!(b.ask::<u64>("GET n:9"), 4);
    let peer = pair.b.sidecar.peer("a").unwrap();
    assert_eq!(
        (peer.failed_commands, peer.states_owed),
        (10, 0),
        "{peer:#?}"
    );
    pair.no_echo();
}

#[test]
fn what_a_module_writes_because_of_a_peers_write_stays_where_it_is() {
    let module = Module::build();
    let pair = Pair::start(&Options::default());
    let [tap_a, tap_b] = pair.sites().map(|site| Tap::on(site.server.port()));
    let (mut a, mut b) = pair.clients();
    if has_broken_stream(&mut a) {
        return;
    }
    for client in [&mut a, &mut b] {
        module.load(client, "");
    }
    for n in 0..20 {
        a.run(&format!("RPUSH call:a {n}"));
        b.run(&format!("RPUSH replicate:b {n}"));
    }
    at_rest(&pair, [&tap_a, &tap_b]);
    // Each site has what the module wrote at the other because of a client's write, and what it
    // wrote here because that write was applied. The latter is inside our transaction, where it
    // cannot be told from what we wrote, and does not travel.
    let mut both = |key: &str| -> (u64, u64) {
        let get = format!("GET {key}");
        (a.ask(&get), b.ask(&get))
    };
    assert_eq!(both("wrote:call"), (20, 40));
    assert_eq!(both("wrote:replicate"), (40, 20));
    let (_, differences) = differences(&mut a, &mut b);
    assert_eq!(differences.len(), 2, "{differences:#?}");
    for tap in [&tap_a, &tap_b] {
        assert_eq!(tap.count("RPUSH call:a"), 20, "{:#?}", tap.commands());
        assert_eq!(tap.count("RPUSH replicate:b"), 20, "{:#?}", tap.commands());
    }
    pair.no_echo();
}

/// What a module has written at one site alone never was at the other: that it is missing there proves
/// nothing.
#[test]
fn beside_a_module_what_is_missing_is_not_deleted() {
    let module = Module::build();
    let mut pair = gap::away(&gap::short(gap::SHORT));
    module.load(&mut pair.b.client(), "");
    pair.b.sidecar.kill();
    pair.b.sidecar.start();
    gap::delete(&pair);
    gap::returned(&mut pair);
}

//! Two sites that both hold data meet, a copies to b, and b copies back what a lacks. One of the two
//! copies is interrupted, at 10, 50 and 90 %, whoever dies, while clients write at both sites: it goes
//! on or begins again, and both end equal, with every increment counted once.

use std::fs;
use std::time::Duration;

use crate::harness::fault::Lane;
use crate::harness::load::{self, Load};
use crate::harness::{Client, Options, Pair, Site, compare, patience, wait_until};

/// Keys that only the sender of the copy that is interrupted has: a hundred bytes each.
const KEYS: u64 = 4_000;
/// Keys that only the other one has.
const FEW: u64 = 50;
/// Counters that both have.
const COMMON: u64 = 200;
/// Their values before the sites meet.
const STARTS: [u64; 2] = [1000, 5];
/// Bytes that the link lets through at a time: a little less than the 256 keys of a part of the copy
/// take, so that no more is under way than has been seen to arrive, however slow the receiver is.
const PORTION: u64 = 30_000;
/// Looks without any progress before the next portion is let through all the same: seconds, for a receiver that
/// is slow has not had its turn yet.
const LOOKS: u32 = 400;
/// The same before the copy has begun.
const FEW_LOOKS: u32 = 12;

/// Which copy is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// From a to b.
    First,
    /// From b to a.
    Back,
}

/// What fails, when the receiver has got so much of the copy.
#[derive(Clone, Copy, Debug)]
enum Victim {
    SendingSidecar,
    ReceivingSidecar,
    SendingRedis,
    ReceivingRedis,
    Link,
}

/// Two sites of which a copy is under way.
struct Meeting {
    pair: Pair,
    which: Which,
    /// How often each of the common counters was incremented.
    increments: u64,
}

impl Which {
    fn lane(self, pair: &Pair) -> &Lane {
        match self {
            Self::First => pair.wire_a.up(),
            Self::Back => pair.wire_a.down(),
        }
    }

    /// How many keys of its own a site has.
    fn keys(self, site: &str) -> u64 {
        let sender = if self == Self::First { "a" } else { "b" };
        if site == sender { KEYS } else { FEW }
    }
}

impl Meeting {
    fn begin(existing: &'static str, which: Which) -> Self {
        let mut pair = Pair::prepare(&Options {
            existing,
            servers: &[
                "appendonly yes",
                "appendfsync always",
                // So that the size of a part is known.
                "rdbcompression no",
            ],
            ..Options::default()
        });
        for (site, start) in pair.sites().into_iter().zip(STARTS) {
            let mut client = site.client();
            let name = site.name;
            // Not DEBUG POPULATE: it leaves nothing in the append-only file.
            let keys = which.keys(name);
            let own = format!("for i=1,{keys} do redis.call('SET','{name}:'..i,ARGV[1]) end");
            let value = "x".repeat(100);
            client.send(&["EVAL", &own, "0", &value]);
            let common = format!("for i=1,{COMMON} do redis.call('SET','n'..i,{start}) end");
            client.send(&["EVAL", &common, "0"]);
        }
        which.lane(&pair).grant(PORTION);
        pair.start_sidecars();
        Self {
            pair,
            which,
            increments: 0,
        }
    }

    /// Lets the copy go on until the receiver has so much of it, and no further.
    fn receive(&self, percent: u64) {
        let lane = self.which.lane(&self.pair);
        let (receiver, sender) = match self.which {
            Which::First => (&self.pair.b, "a"),
            Which::Back => (&self.pair.a, "b"),
        };
        let (mut done, mut looks) = (0, 0);
        wait_until("the copy to be under way", patience(60), || {
            let peer = receiver.sidecar.peer(sender)?;
            let keys = peer.receiving.as_ref().map_or(0, |copy| copy.keys_done);
            assert!(keys >= done, "the copy ended early: {peer:#?}");
            if keys * 100 >= KEYS * percent {
                println!("{keys} keys received");
                return Ok(());
            }
            looks += 1;
            // Before the copy, only its sides talk.
            let patience = if peer.receiving.is_none() {
                FEW_LOOKS
            } else {
                LOOKS
            };
            if lane.is_used_up() && (keys > done || looks > patience) {
                lane.grant(PORTION);
                looks = 0;
            }
            done = keys;
            Err(format!("{:?} {:?}", peer.state, peer.receiving))
        });
    }

    /// Increments every common counter at these sites.
    fn increment(&mut self, sites: &[&str]) {
        for site in self.pair.sites() {
            if sites.contains(&site.name) {
                let commands: Vec<Vec<String>> = (1..=COMMON)
                    .map(|n| vec!["INCR".to_owned(), format!("n{n}")])
                    .collect();
                site.client().pipeline(&commands);
            }
        }
        self.increments += sites.len() as u64;
    }

    /// The victim dies, clients write where they can, and it comes back.
    fn interrupt(&mut self, victim: Victim, load: &Load) {
        // An increment that nobody has read when its server dies is, to the other site, part of
        // the value that the counter had before the two met. (And what a server has written to its file and
        // not yet answered when it dies nobody has read.)
        if matches!(victim, Victim::SendingRedis | Victim::ReceivingRedis) {
            load.pause();
        }
        self.pair.sites().into_iter().for_each(has_read);
        match victim {
            Victim::SendingSidecar | Victim::ReceivingSidecar => {
                self.site(victim).sidecar.kill();
                self.increment(&["a", "b"]);
                self.site(victim).sidecar.start();
            }
            Victim::SendingRedis | Victim::ReceivingRedis => {
                self.site(victim).server.kill();
                load.resume();
                let other = if self.site(victim).name == "a" {
                    "b"
                } else {
                    "a"
                };
                self.increment(&[other]);
                self.site(victim).server.restart();
            }
            Victim::Link => {
                self.pair.wire_a.cut();
                self.increment(&["a", "b"]);
            }
        }
        // Not one more byte of the copy passes before everybody knows what has happened.
        self.pair.sites().into_iter().for_each(has_read);
        self.pair.wire_a.mend();
    }

    /// Where it dies.
    fn site(&mut self, victim: Victim) -> &mut Site {
        let sends = matches!(victim, Victim::SendingSidecar | Victim::SendingRedis);
        if sends == (self.which == Which::First) {
            &mut self.pair.a
        } else {
            &mut self.pair.b
        }
    }

    fn load(&self) -> Load {
        let (a, b) = (&self.pair.a.server, &self.pair.b.server);
        let sites = [("a", a.port()), ("b", b.port())];
        Load::start(&sites, Duration::from_millis(5), 11)
    }

    /// Both come to rest, equal; the common counters began with `start`.
    fn ends_well(&mut self, load: Load, start: u64) {
        self.increment(&["a", "b"]);
        self.pair.wait_synchronizing();
        let tallies = load.finish();
        self.pair.settle();
        let keys = compare(&self.pair) as u64;
        let (mut a, mut b) = self.pair.clients();
        load::check(&tallies, &mut a);
        assert!(keys >= KEYS + FEW + COMMON, "{keys} keys");
        for n in 1..=COMMON {
            let value: u64 = b.ask(&format!("GET n{n}"));
            let sum = start + self.increments;
            assert_eq!(value, sum, "n{n}: {} increments", self.increments);
        }
        for site in ["a", "b"] {
            assert_eq!(own_keys(&mut b, site), self.which.keys(site));
        }
    }

    /// Where each copy that the sender has sent began.
    fn sent_from(&self) -> Vec<u64> {
        let log = match self.which {
            Which::First => self.pair.a.sidecar.log(),
            Which::Back => self.pair.b.sidecar.log(),
        };
        let copies = log.lines().filter(|l| l.contains("sending a copy"));
        let from = |line: &str| {
            let number = line.split_once("from=")?.1.split(' ').next()?;
            number.parse().ok()
        };
        copies.map(|line| from(line).expect(line)).collect()
    }
}

/// Waits until the sidecar has read what is written so far.
pub(crate) fn has_read(site: &Site) {
    let mut client = site.client();
    let offset = client.offset();
    wait_until("the stream to be read", patience(30), || {
        let redis = site.sidecar.status()?.redis;
        // A server begins a history when its first replica attaches.
        let replid = client.info("replication", "master_replid");
        let is_current = replid.as_deref() == Some(&redis.replid);
        if redis.connected && is_current && redis.offset >= offset {
            Ok(())
        } else {
            Err(format!("{redis:?}"))
        }
    });
}

/// How many of the keys `a:1`, `a:2`, … there are.
fn own_keys(client: &mut Client, site: &str) -> u64 {
    let script =
        "local n=0 for i=1,ARGV[1] do n=n+redis.call('EXISTS',ARGV[2]..':'..i) end return n";
    let count = client.send(&["EVAL", script, "0", &KEYS.to_string(), site]);
    redis::from_redis_value(count).expect("a number")
}

/// Interrupts a copy at each percentage, the one back only in the middle. Says where the copies of its sender began.
fn interrupted(existing: &'static str, which: Which, victim: Victim) -> Vec<Vec<u64>> {
    let once = |percent| {
        println!("{existing}, {which:?}, {victim:?} at {percent} %");
        let mut meeting = Meeting::begin(existing, which);
        meeting.receive(percent);
        let load = meeting.load();
        meeting.increment(&["a", "b"]);
        meeting.interrupt(victim, &load);
        // The values of the site that wins.
        meeting.ends_well(load, STARTS[usize::from(existing == "keep")]);
        meeting.sent_from()
    };
    let percents: &[u64] = match which {
        Which::First => &[10, 50, 90],
        Which::Back => &[50],
    };
    percents.iter().copied().map(once).collect()
}

/// The interrupted copy went on where it was.
fn went_on(copies: &[Vec<u64>]) {
    for copies in copies {
        let from_start = copies.iter().filter(|from| **from == 0).count();
        assert!(from_start == 1 && copies.len() > 1, "{copies:?}");
    }
}

/// The same, and as clients may have deleted what it had brought, before the receiver's sidecar was back, there
/// was another one in the end.
fn went_on_and_came_again(copies: &[Vec<u64>]) {
    for copies in copies {
        // A link that was slow may have broken besides.
        let [0, between @ .., 0] = &copies[..] else {
            panic!("{copies:?}");
        };
        assert!(between.iter().any(|from| *from > 0), "{copies:?}");
    }
}

/// The interrupted copy began again.
fn began_again(copies: &[Vec<u64>]) {
    for copies in copies {
        assert_eq!(copies, &[0, 0]);
    }
}

#[test]
fn with_overwrite_the_sending_sidecar_is_killed() {
    went_on(&interrupted(
        "overwrite",
        Which::First,
        Victim::SendingSidecar,
    ));
}

#[test]
fn with_overwrite_the_receiving_sidecar_is_killed() {
    went_on(&interrupted(
        "overwrite",
        Which::First,
        Victim::ReceivingSidecar,
    ));
}

#[test]
fn with_overwrite_the_sending_redis_is_killed() {
    began_again(&interrupted(
        "overwrite",
        Which::First,
        Victim::SendingRedis,
    ));
}

#[test]
fn with_overwrite_the_receiving_redis_is_killed() {
    went_on_and_came_again(&interrupted(
        "overwrite",
        Which::First,
        Victim::ReceivingRedis,
    ));
}

#[test]
fn with_overwrite_the_link_is_cut() {
    went_on(&interrupted("overwrite", Which::First, Victim::Link));
}

#[test]
fn with_keep_the_sending_sidecar_is_killed() {
    went_on(&interrupted("keep", Which::First, Victim::SendingSidecar));
}

#[test]
fn with_keep_the_receiving_sidecar_is_killed() {
    went_on(&interrupted("keep", Which::First, Victim::ReceivingSidecar));
}

#[test]
fn with_keep_the_receiving_redis_is_killed() {
    went_on_and_came_again(&interrupted("keep", Which::First, Victim::ReceivingRedis));
}

#[test]
fn with_keep_the_link_is_cut() {
    went_on(&interrupted("keep", Which::First, Victim::Link));
}

#[test]
fn the_copy_back_is_interrupted_by_a_killed_sidecar() {
    went_on(&interrupted(
        "overwrite",
        Which::Back,
        Victim::SendingSidecar,
    ));
    went_on(&interrupted(
        "overwrite",
        Which::Back,
        Victim::ReceivingSidecar,
    ));
}

#[test]
fn the_copy_back_is_interrupted_by_a_killed_redis() {
    began_again(&interrupted("overwrite", Which::Back, Victim::SendingRedis));
    interrupted("overwrite", Which::Back, Victim::ReceivingRedis);
}

#[test]
fn the_copy_back_with_keep_is_interrupted() {
    went_on(&interrupted("keep", Which::Back, Victim::Link));
    interrupted("keep", Which::Back, Victim::SendingRedis);
}

/// What a person does about a copy with keep that cannot go on.
enum Remedy {
    Overwrite,
    EmptyTheReceiver,
}

/// A copy with keep whose snapshot is gone: it is stopped by name, and the remedy helps.
fn impossible(percent: u64, victim: Victim, remedy: &Remedy) {
    println!("keep, {victim:?} at {percent} %");
    let mut meeting = Meeting::begin("keep", Which::First);
    for site in meeting.pair.sites() {
        // A person has to act.
        site.sidecar.expect_errors("keep");
    }
    meeting.receive(percent);
    let load = meeting.load();
    meeting.increment(&["a", "b"]);
    match victim {
        Victim::SendingSidecar => {
            meeting.pair.a.sidecar.kill();
            remove_snapshots(&meeting.pair.a);
            meeting.increment(&["a", "b"]);
            meeting.pair.a.sidecar.start();
            meeting.pair.sites().into_iter().for_each(has_read);
            meeting.pair.wire_a.mend();
        }
        victim => meeting.interrupt(victim, &load),
    }
    let stop = wait_until("the named stop", patience(30), || {
        let peer = meeting.pair.a.sidecar.peer("b")?;
        peer.stop.clone().ok_or_else(|| format!("{peer:#?}"))
    });
    assert_eq!(stop.reason, "copy_impossible");
    assert!(stop.detail.contains("keep"), "{stop:?}");
    assert!(stop.remedy.contains("overwrite"), "{stop:?}");
    meeting.pair.sites().into_iter().for_each(has_read);
    for site in [&mut meeting.pair.a, &mut meeting.pair.b] {
        site.sidecar.kill();
    }
    match remedy {
        Remedy::Overwrite => {
            for site in [&mut meeting.pair.a, &mut meeting.pair.b] {
                site.sidecar.config.existing = "overwrite".to_owned();
            }
            meeting.pair.start_sidecars();
            meeting.ends_well(load, STARTS[0]);
        }
        Remedy::EmptyTheReceiver => {
            load.finish();
            meeting.pair.b.client().run("FLUSHALL");
            fs::remove_dir_all(meeting.pair.b.sidecar.dir().join("journal")).expect("a journal");
            meeting.pair.start_sidecars();
            meeting.pair.wait_synchronizing();
            meeting.pair.settle();
            compare(&meeting.pair);
            assert_eq!(own_keys(&mut meeting.pair.b.client(), "a"), KEYS);
        }
    }
}

/// The directory of the journal has none any more.
fn remove_snapshots(site: &Site) {
    let mut removed = 0;
    for entry in fs::read_dir(site.sidecar.dir().join("journal")).expect("a journal") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "rdb") {
            fs::remove_file(path).expect("a snapshot");
            removed += 1;
        }
    }
    assert!(removed > 0, "no snapshot in the journal's directory");
}

#[test]
fn with_keep_the_snapshot_is_gone_and_overwrite_helps() {
    for percent in [10, 50, 90] {
        impossible(percent, Victim::SendingSidecar, &Remedy::Overwrite);
    }
}

#[test]
fn with_keep_the_sending_redis_is_killed_and_overwrite_helps() {
    for percent in [10, 50, 90] {
        impossible(percent, Victim::SendingRedis, &Remedy::Overwrite);
    }
}

#[test]
fn with_keep_the_snapshot_is_gone_and_an_empty_receiver_helps() {
    impossible(50, Victim::SendingSidecar, &Remedy::EmptyTheReceiver);
}

#[test]
fn with_keep_the_sending_redis_is_killed_and_an_empty_receiver_helps() {
    impossible(50, Victim::SendingRedis, &Remedy::EmptyTheReceiver);
}

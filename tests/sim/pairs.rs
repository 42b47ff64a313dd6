//! Two sites write at the same time, and neither has seen the other: which value all end with.

use crate::redis::{Redis, command};
use crate::schedule::write;
use crate::world::{End, World};

use tandem::command::for_each_in;

/// What is there before.
pub(crate) const FOUND: &[&[&str]] = &[
    &[],
    &["SET k 5 PXAT 77"],
    &["SET k v"],
    &["SADD k 0", "PEXPIREAT k 77"],
    &["SADD k 0", "SADD k 1"],
    &["HSET k 0 5", "PEXPIREAT k 77"],
    &["RPUSH k e", "PEXPIREAT k 77"],
];

/// What a writer does; `#` is another word at each.
pub(crate) const WRITES: &[&str] = &[
    "SET k #",
    "SET k # PXAT #",
    "DEL k",
    "INCR k",
    "APPEND k <#>",
    "RPUSH k <#>",
    "LPOP k",
    "HSET k 0 #",
    "HSET k # #",
    "HDEL k 0",
    "HINCRBY k 0 1",
    "SADD k 0",
    "SADD k #",
    "SREM k 0",
    "PEXPIREAT k #",
    "PERSIST k",
    "RENAME k x",
    "RENAME j k",
    "COPY k x REPLACE",
    "COPY j k REPLACE",
    "SUNIONSTORE x k j",
    "SUNIONSTORE k j",
    "FLUSHDB",
];

/// What two writers do, and in which order things happen.
pub(crate) struct Pair<'a> {
    pub found: &'a [&'a str],
    /// Of the one whose write is stamped first, and of the other.
    pub lines: [&'a str; 2],
    pub writers: [usize; 2],
    pub sites: usize,
    /// Whether third sites get the later write first.
    pub is_turned: bool,
    /// What somebody writes while it is being mended, after so many steps.
    pub meanwhile: Option<Meanwhile<'a>>,
    pub seed: u64,
}

/// A third write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meanwhile<'a> {
    pub line: &'a str,
    pub writer: usize,
    pub steps: u64,
}

/// What may be written while something is being mended. Most of it WATCH does not notice where the key is not there.
pub(crate) const MEANWHILE: &[&str] =
    &["FLUSHDB", "FLUSHDB", "DEL k", "PEXPIREAT k 3000", "INCR k"];

/// What is before there were two writers.
fn before(found: &[&str]) -> Vec<String> {
    let j = ["SADD j 7", "SADD j 8"].iter();
    j.chain(found).map(|line| (*line).to_owned()).collect()
}

fn redis(found: &[&str]) -> Redis {
    let mut redis = Redis::default();
    for line in before(found) {
        assert!(redis.client(&[&line]));
    }
    redis
}

/// Whether a write has any effect on what is there.
pub(crate) fn has_effect(found: &[&str], line: &str) -> bool {
    redis(found).client(&[line])
}

/// The two lines of two writers.
pub(crate) fn filled(lines: [&str; 2]) -> [String; 2] {
    [lines[0].replace('#', "1000"), lines[1].replace('#', "2000")]
}

/// Whether the first may have ended the key with its time to live, and the other adds to it.
fn doubts(first: &str, then: &str) -> bool {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (first, then) = (words(first), words(then));
    let adds = match first[0].as_str() {
        "HDEL" => ["HSET", "HINCRBY"].contains(&then[0].as_str()),
        "SREM" => then[0] == "SADD",
        _ => false,
    };
    adds && first[2] != then[2]
}

/// What is promised: a delete comes first, but yields to what renews the key or takes it elsewhere; else
/// the stamps decide. An addition comes before the removal of another element.
fn promised(found: &[&str], lines: [&str; 2]) -> Redis {
    let [first, then] = lines;
    let is = |line: &str, names: &[&str]| names.iter().any(|name| line.starts_with(name));
    let deletes = |line: &str| is(line, &["DEL", "FLUSHDB"]);
    let order = if deletes(then) && !deletes(first) {
        return promised(found, [then, first]);
    } else if is(first, &["DEL"]) && is(then, &["PEXPIREAT", "PERSIST", "RENAME k"]) {
        vec![then]
    } else if doubts(first, then) {
        vec![then, first]
    } else {
        vec![first, then]
    };
    let mut redis = redis(found);
    for line in order {
        for_each_in(&command(line), 0, |command, db| {
            redis.execute(command, db);
        })
        .unwrap();
    }
    redis
}

/// Runs it; whether all end with what is promised.
pub(crate) fn run(pair: &Pair<'_>, traces: bool) -> Result<(), String> {
    let mut world = World::new(pair.seed, pair.sites);
    for site in &mut world.sites {
        site.traces = traces;
    }
    let found = before(pair.found);
    for line in &found {
        write(&mut world, 0, &[line]);
    }
    world.settle()?;
    for (writer, line) in pair.writers.into_iter().zip(pair.lines) {
        world.now += 10;
        write(&mut world, writer, &[line]);
        let now = world.now;
        let _ = world.sites[writer].read(1, now, crate::intake::Kill::No);
    }
    let mut order = pair.writers;
    if pair.is_turned {
        order.reverse();
    }
    for third in (0..pair.sites).filter(|site| !pair.writers.contains(site)) {
        order
            .into_iter()
            .for_each(|writer| world.deliver(writer, third));
    }
    let turn = |world: &mut World| {
        let number = usize::try_from(world.now).unwrap() % pair.sites;
        world.step(number);
    };
    let steps = pair.meanwhile.map_or(40 * (pair.seed % 3), |m| m.steps);
    (0..steps).for_each(|_| turn(&mut world));
    if let Some(Meanwhile { line, writer, .. }) = pair.meanwhile {
        write(&mut world, writer, &[line]);
        (0..40).for_each(|_| turn(&mut world));
    }
    world.settle()?;
    let end = world.check()?;
    if pair.meanwhile.is_some() {
        return Ok(());
    }
    if end != End::Equal {
        return Err(format!("{end:?}"));
    }
    let expected = promised(pair.found, pair.lines).data;
    let data = &world.sites[0].redis.data;
    match *data == expected {
        true => Ok(()),
        false => Err(format!("{data:?} instead of {expected:?}")),
    }
}

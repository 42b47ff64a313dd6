//! Random commands with random arguments, each site on keys of its own.
//!
//! Sites that write the same key are another matter; here every command of one site, valid or not,
//! must leave both sites equal.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::Cmd;

use super::case::{
    FIELD_TTL, Line, Product, R50, R60, R62, R70, R80_V90, R80_V91, R84, R84_V81, R84_V91, Since,
    V90,
};
use crate::harness::client::was_refused;
use crate::harness::compare::{Difference, differences};
use crate::harness::pair::{stopped, try_settle};
use crate::harness::{Client, Options, Pair, Server, Site, patience, rng_from_seed};

/// `ZREMRANGEBYLEX` is not among them: what it removes of members with different scores is not
/// specified, and servers differ.
///
/// Commands by the version that knows them and the version that can hold what they leave.
///
/// `{s}` is a key that mostly is a string, `{l}` a list, `{t}` a set, `{z}` a sorted set, `{h}` a
/// hash, `{x}` a stream, `{p}` a HyperLogLog, `{k}` any; `{v}` a value, `{m}` one of a few members,
/// `{n}` a small number, `{f}` a fraction, `{id}` a stream id, `{db}` a database, `{sec}` and `{ms}`
/// a span, `{soon}` a short one, `{at}` and `{atms}` a moment, sometimes past.
const FORMS: &[(Since, Since, &[&str])] = &[
    (
        R50,
        R50,
        &[
            "SET {s} {v}",
            "SET {s} {n}",
            "SET {k} {v}",
            "SET {s} {v} EX {sec}",
            "SET {s} {v} PX {ms} XX",
            "SET {s} {v} NX",
            "SETEX {s} {sec} {v}",
            "PSETEX {s} {ms} {v}",
            "SETNX {s} {v}",
            "GETSET {s} {v}",
            "MSET {s} {v} {s} {n} {k} {v}",
            "MSETNX {s} {v} {s} {v}",
            "APPEND {s} {v}",
            "SETRANGE {s} {n} {v}",
            "INCR {s}",
            "DECR {s}",
            "INCRBY {s} {n}",
            "DECRBY {s} {n}",
            "SETBIT {s} {n} 1",
            "SETBIT {s} {n} 0",
            "BITFIELD {s} SET u8 {n} 200 INCRBY i5 {n} 9",
            "BITOP OR {s} {s} {s}",
            "BITOP NOT {s} {s}",
            "BITOP XOR {s} {s} {k}",
            "PFADD {p} {m} {v}",
            "PFADD {p} {m}",
            "PFMERGE {p} {p} {p}",
            "PFCOUNT {p}",
        ],
    ),
    (
        R50,
        R50,
        &[
            "LPUSH {l} {v} {m}",
            "RPUSH {l} {m} {n} {m}",
            "LPUSHX {l} {v}",
            "RPUSHX {l} {m}",
            "LINSERT {l} BEFORE {m} {v}",
            "LINSERT {l} AFTER {m} {n}",
            "LSET {l} {n} {v}",
            "LREM {l} {n} {m}",
            "LTRIM {l} {n} -{n}",
            "LPOP {l}",
            "RPOP {l}",
            "RPOPLPUSH {l} {l}",
            "SADD {t} {m} {m} {v}",
            "SADD {t} {n} {n}",
            "SREM {t} {m} {n}",
            "SMOVE {t} {t} {m}",
            "SPOP {t}",
            "SPOP {t} {n}",
            "SINTERSTORE {t} {t} {t}",
            "SUNIONSTORE {t} {t} {t}",
            "SDIFFSTORE {t} {t} {t}",
            "SORT {l} ALPHA STORE {l}",
            "SORT {t} ALPHA DESC STORE {k}",
            "SORT {z} BY nosort LIMIT 0 {n} STORE {l}",
        ],
    ),
    (
        R50,
        R50,
        &[
            "ZADD {z} {n} {m} {f} {m}",
            "ZADD {z} NX {n} {m}",
            "ZADD {z} XX CH {f} {m}",
            "ZADD {z} INCR {f} {m}",
            "ZINCRBY {z} {f} {m}",
            "ZREM {z} {m} {m}",
            "ZPOPMIN {z}",
            "ZPOPMAX {z} {n}",
            "ZREMRANGEBYRANK {z} {n} {n}",
            "ZREMRANGEBYSCORE {z} {n} {n}",
            "ZUNIONSTORE {z} 2 {z} {z} WEIGHTS {n} {f}",
            "ZUNIONSTORE {z} 2 {z} {t}",
            "ZINTERSTORE {z} 2 {z} {z} AGGREGATE MIN",
            "GEOADD {z} 13.36 38.11 {m}",
            "GEORADIUS {z} 13 38 200 km STORE {z}",
            "HSET {h} {m} {v}",
            "HMSET {h} {m} {n} {m} {v}",
            "HSETNX {h} {m} {v}",
            "HINCRBY {h} {m} {n}",
            "HINCRBYFLOAT {h} {m} {f}",
            "HDEL {h} {m} {m}",
        ],
    ),
    (
        R50,
        R50,
        &[
            "XADD {x} * {m} {v}",
            "XADD {x} {id} {m} {v} {m} {n}",
            "XADD {x} MAXLEN ~ {n} * {m} {v}",
            "XADD {x} MAXLEN {n} * {m} {v}",
            "XTRIM {x} MAXLEN {n}",
            "XDEL {x} {id}",
            "XSETID {x} {id}",
            "XGROUP CREATE {x} g 0",
            "XGROUP CREATE {x} h $ MKSTREAM",
            "XGROUP DESTROY {x} g",
            "XGROUP SETID {x} g {id}",
            "XGROUP DELCONSUMER {x} g c",
            "XREADGROUP GROUP g c COUNT {n} STREAMS {x} >",
            "XREADGROUP GROUP h d STREAMS {x} >",
            "XREADGROUP GROUP g d NOACK COUNT 1 STREAMS {x} >",
            "XACK {x} g {id}",
        ],
    ),
    (
        R50,
        R50,
        &[
            "DEL {k} {k}",
            "UNLINK {k}",
            "RENAME {k} {k}",
            "RENAMENX {k} {k}",
            "MOVE {k} {db}",
            "EXPIRE {k} {sec}",
            "PEXPIRE {k} {ms}",
            "EXPIREAT {k} {at}",
            "PEXPIREAT {k} {atms}",
            "PERSIST {k}",
            "SELECT {db}",
            "SELECT 0",
            "NOSUCH {k}",
            "SET {k}",
            "LPUSH {s} {v}",
        ],
    ),
    (
        R60,
        R50,
        &[
            // Redis 5.0 tells its replicas SET, which takes the time to live away: they differ too.
            "INCRBYFLOAT {s} {f}",
            "SET {s} {v} KEEPTTL",
            "SET {k} {n} XX KEEPTTL",
        ],
    ),
    (
        R62,
        R50,
        &[
            "SET {s} {v} GET",
            "SET {s} {v} EXAT {at}",
            "SET {s} {v} PXAT {atms}",
            "GETDEL {s}",
            "GETEX {s} EX {sec}",
            "GETEX {s} PXAT {atms}",
            "GETEX {s} PERSIST",
            "LPOP {l} {n}",
            "RPOP {l} {n}",
            "LMOVE {l} {l} LEFT RIGHT",
            "lmove {l} {l} right left",
            "ZADD {z} GT {n} {m}",
            "ZADD {z} LT CH {f} {m}",
            "ZDIFFSTORE {z} 2 {z} {z}",
            "ZRANGESTORE {z} {z} {n} {n} REV",
            "ZRANGESTORE {z} {z} -inf {n} BYSCORE LIMIT 0 {n}",
            "GEOSEARCHSTORE {z} {z} FROMLONLAT 13 38 BYRADIUS 100 km",
            "COPY {k} {k}",
            "COPY {k} {k} REPLACE",
            "COPY {k} {k} DB {db} REPLACE",
            "XADD {x} NOMKSTREAM * {m} {v}",
            "XADD {x} MINID {id} * {m} {v}",
            "XTRIM {x} MINID {id}",
            "XGROUP CREATECONSUMER {x} g e",
        ],
    ),
    (
        R70,
        R50,
        &[
            "EXPIRE {k} {sec} NX",
            "EXPIRE {k} {sec} GT",
            "PEXPIREAT {k} {atms} LT",
            "PEXPIRE {k} {ms} XX",
            "SET {s} {v} NX GET",
            "LMPOP 2 {l} {l} LEFT COUNT {n}",
            "ZMPOP 2 {z} {z} MAX COUNT {n}",
            "XADD {x} 7-* {m} {v}",
        ],
    ),
    // Of entries that are pending and deleted, servers from 7.0 forget and older ones keep, and
    // neither says so.
    (
        R70,
        R70,
        &["XCLAIM {x} g d 0 {id}", "XAUTOCLAIM {x} g e 0 0 COUNT {n}"],
    ),
    (
        FIELD_TTL,
        FIELD_TTL,
        &[
            "HEXPIRE {h} {sec} FIELDS 2 {m} {m}",
            "HPEXPIREAT {h} {atms} FIELDS 1 {m}",
            "HPERSIST {h} FIELDS 1 {m}",
            "HPEXPIRE {h} {ms} NX FIELDS 1 {m}",
        ],
    ),
    (
        R80_V90,
        FIELD_TTL,
        &[
            "HSETEX {h} EX {sec} FIELDS 1 {m} {v}",
            "HSETEX {h} KEEPTTL FIELDS 2 {m} {v} {m} {n}",
            "HSETEX {h} FNX FIELDS 1 {m} {v}",
            "HGETEX {h} PERSIST FIELDS 1 {m}",
        ],
    ),
    (R80_V91, R50, &["HGETDEL {h} FIELDS 2 {m} {m}"]),
    (
        R84_V81,
        R50,
        &["SET {s} {v} IFEQ {n}", "SET {s} {n} IFEQ {n} EX {sec}"],
    ),
    (
        R84_V91,
        R50,
        &["MSETEX 2 {s} {v} {s} {n} EX {sec}", "MSETEX 1 {s} {v} NX"],
    ),
    (R84, R50, &["DELEX {s} IFEQ {n}", "DELEX {k}"]),
    (V90, R50, &["DELIFEQ {s} {n}"]),
];

/// Commands of one site that the other can hold.
pub(crate) fn forms(origin: &Product, target: &Product) -> Vec<&'static str> {
    FORMS
        .iter()
        .filter(|(since, _, _)| since.knows(origin))
        .filter(|(_, needs, _)| needs.knows(target))
        .flat_map(|(_, _, forms)| forms.iter().copied())
        .collect()
}

/// Writes `count` commands at each site and compares; what is wrong, if anything is.
pub(crate) fn run(names: [&str; 2], count: usize) -> Vec<String> {
    let mut rng = rng_from_seed("generated commands");
    let rngs = [rng.random(), rng.random()].map(StdRng::seed_from_u64);
    let pair = Pair::start(&Options {
        versions: names.map(str::to_owned),
        ..Options::default()
    });
    for site in pair.sites() {
        site.sidecar.expect_errors("");
    }
    let products = pair.sites().map(|site| Product::of(&mut site.client()));
    let forms = [
        forms(&products[0], &products[1]),
        forms(&products[1], &products[0]),
    ];
    let history = thread::scope(|scope| {
        let mut writers = Vec::new();
        for ((site, forms), rng) in pair.sites().into_iter().zip(&forms).zip(rngs) {
            let mut writer = Writer::new(site.name, &site.server, rng);
            writers.push(scope.spawn(move || {
                writer.write(forms, count);
                writer.history
            }));
        }
        let histories = writers.into_iter().map(|w| w.join().expect("a writer"));
        histories.flatten().collect::<Vec<String>>()
    });
    if let Err(reason) = rest(&pair.sites()) {
        return vec![reason];
    }
    let mut wrong = unequal_keys(&pair.sites(), &history, differences);
    wrong.extend(pair.echoes());
    wrong
}

/// Every key that is not the same at both sites, with the last commands that named it.
pub(crate) fn unequal_keys(
    sites: &[&Site],
    history: &[String],
    differences: impl Fn(&mut Client, &mut Client) -> (usize, Vec<Difference>),
) -> Vec<String> {
    let next = |two: &[&Site]| {
        let found = differences(&mut two[0].client(), &mut two[1].client()).1;
        let between = format!("{} and {}", two[0].name, two[1].name);
        found.into_iter().map(move |found| (between.clone(), found))
    };
    let differences: Vec<(String, Difference)> = sites.windows(2).flat_map(next).collect();
    let wrong = differences.iter().map(|(between, difference)| {
        let key = difference.key.escape_ascii().to_string();
        let is_meant = |word: &str| word == key || ["FLUSHDB", "SWAPDB"].contains(&word);
        let names = |line: &&String| line.split(' ').any(is_meant);
        let of_key = history.iter().filter(names).rev();
        let mut last: Vec<&str> = of_key.take(30).map(String::as_str).collect();
        last.reverse();
        format!("{between}, {difference}\n    {}", last.join("\n    "))
    });
    wrong.collect()
}

/// Waits until these sites are at rest; why they are not, if they are not. Where journals are full, some wait
/// for ten seconds more than once.
pub(crate) fn rest(sites: &[&Site]) -> Result<(), String> {
    let mut reason = String::new();
    for _ in 0..patience(90).as_millis() / 500 {
        match try_settle(sites, Duration::from_millis(500)) {
            Ok(()) => return Ok(()),
            Err(error) => reason = error,
        }
        if let Some((site, stop)) = stopped(sites) {
            return Err(format!(
                "{site}: the link stops: {}: {}",
                stop.reason, stop.detail
            ));
        }
    }
    let said = |site: &&Site| {
        let peers = site.sidecar.status().map(|status| status.peers);
        format!("{}: {peers:#?}", site.name)
    };
    let said: Vec<String> = sites.iter().map(said).collect();
    Err(format!("{reason}\n{}", said.join("\n")))
}

/// Whether a server dies when a script calls this.
///
/// Redis 6.2 keeps the array for the arguments of `redis.call` from one call to the next, with its
/// size. `INCRBYFLOAT`, which goes to replicas as `SET … KEEPTTL`, shrinks the array to four; where
/// the allocator does that in place, as that of libc does, the server goes on to believe the old
/// size, and the next call with more arguments writes behind the end. `EVAL "return
/// redis.call(unpack(ARGV))" 0 SADD s 1 2 3 4 5 6`, then the same with `INCRBYFLOAT k 1.5`, then the
/// first again end 6.2.14. 6.0 and 7.0 do not.
fn dies_of(server: &Product, form: &str) -> bool {
    let is_62 = server.line == Line::Redis && server.version == (6, 2);
    is_62 && form.starts_with("INCRBYFLOAT")
}

/// A client that writes at random.
pub(crate) struct Writer<'a> {
    client: Client,
    server: &'a Server,
    product: Product,
    site: &'static str,
    pub(crate) rng: StdRng,
    /// What keys begin with.
    pub(crate) prefix: String,
    /// How many keys of each kind.
    pub(crate) keys: usize,
    /// The selected database, for the history.
    db: String,
    pub(crate) history: Vec<String>,
}

impl<'a> Writer<'a> {
    /// A client of a site, for a few keys of that site.
    pub(crate) fn new(site: &'static str, server: &'a Server, rng: StdRng) -> Self {
        let mut client = server.client();
        // A server that dies of a command may hang in its report instead.
        let timeout = Some(patience(10));
        let connection = client.connection();
        connection.set_read_timeout(timeout).expect("a timeout");
        Self {
            client,
            server,
            product: Product::of(&mut server.client()),
            site,
            rng,
            prefix: site.to_owned(),
            keys: 5,
            db: "0".to_owned(),
            history: Vec::new(),
        }
    }

    /// What its server is.
    pub(crate) fn product(&self) -> Product {
        self.product
    }

    /// Writes so many commands, some of them in transactions and scripts.
    pub(crate) fn write(&mut self, forms: &[&str], count: usize) {
        let mut written = 0;
        while written < count {
            let transaction = self.rng.random_range(0..12) == 0;
            let size = if transaction {
                self.rng.random_range(0..6)
            } else {
                1
            };
            if transaction {
                self.send(vec![b"MULTI".to_vec()]);
            }
            for _ in 0..size {
                let form = forms[self.rng.random_range(0..forms.len())];
                let mut args = self.fill(form);
                let scripted = self.rng.random_range(0..15) == 0 && !form.starts_with("SELECT");
                if scripted && !dies_of(&self.product, form) {
                    let script = b"return redis.call(unpack(ARGV))".to_vec();
                    args.splice(0..0, [b"EVAL".to_vec(), script, b"0".to_vec()]);
                }
                self.send(args);
            }
            if transaction {
                let end = if self.rng.random_range(0..5) == 0 {
                    "DISCARD"
                } else {
                    "EXEC"
                };
                self.send(vec![end.into()]);
            }
            written += size.max(1);
        }
    }

    /// Sends a command, which may be refused.
    pub(crate) fn send(&mut self, args: Vec<Vec<u8>>) {
        let mut command = Cmd::new();
        for arg in &args {
            command.arg(&arg[..]);
        }
        let reply = command.query::<redis::Value>(self.client.connection());
        if let Err(error) = &reply
            && !was_refused(error)
        {
            self.server.expect_alive();
            panic!("{}: a reply to {args:?}: {error}", self.site);
        }
        let text: Vec<String> = args.iter().map(|a| a.escape_ascii().to_string()).collect();
        let sign = if reply.is_ok() { "" } else { "! " };
        // Long values would hide the keys behind them.
        let brief: Vec<String> = text.iter().map(|t| format!("{t:.40}")).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = now.expect("a clock").as_millis() % 1_000_000;
        let (site, db) = (self.site, &self.db);
        let line = format!("{millis:06} {sign}{site} {db} {}", brief.join(" "));
        self.history.push(line);
        if args[0] == b"SELECT" && reply.is_ok() {
            self.db.clone_from(&text[1]);
        }
    }

    fn fill(&mut self, form: &str) -> Vec<Vec<u8>> {
        let word = |word: &str| match word.split_once('{') {
            None => word.as_bytes().to_vec(),
            Some((before, name)) => {
                let argument = self.argument(name.trim_end_matches('}'));
                [before.as_bytes(), &argument].concat()
            }
        };
        form.split(' ').map(word).collect()
    }

    fn argument(&mut self, name: &str) -> Vec<u8> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock");
        let past = self.rng.random_range(0..8) == 0;
        let span = Duration::from_secs(self.rng.random_range(200..100_000));
        let moment = if past { now - span } else { now + span };
        let text = match name {
            "v" => return self.value(),
            "m" => format!("m{}", self.rng.random_range(0..9)),
            "n" => self.rng.random_range(0..12).to_string(),
            "f" => (f64::from(self.rng.random_range(-900..900)) / 7.0).to_string(),
            "id" => format!(
                "{}-{}",
                self.rng.random_range(1..9),
                self.rng.random_range(0..3)
            ),
            "db" => self.rng.random_range(0..3).to_string(),
            "sec" => span.as_secs().to_string(),
            "ms" => span.as_millis().to_string(),
            "soon" => self.rng.random_range(1..600).to_string(),
            "at" => moment.as_secs().to_string(),
            "atms" => moment.as_millis().to_string(),
            kind => self.key(kind),
        };
        text.into_bytes()
    }

    /// A key of this kind, seldom of another.
    fn key(&mut self, kind: &str) -> String {
        const KINDS: [&str; 7] = ["s", "l", "t", "z", "h", "x", "p"];
        let other = kind == "k" || self.rng.random_range(0..25) == 0;
        let kind = if other {
            KINDS[self.rng.random_range(0..7)]
        } else {
            kind
        };
        format!(
            "{}:{kind}{}",
            self.prefix,
            self.rng.random_range(0..self.keys)
        )
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.rng.random_range(0..10) {
            0 => 0,
            1 => 300,
            2 => 5000,
            _ => self.rng.random_range(1..20),
        };
        (0..length).map(|_| self.rng.random()).collect()
    }
}

//! The hand-written histories of the model, against the real judge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use tandem::apply::Debts;
use tandem::command::{Catalog, for_each_in};
use tandem::converge::{Claims, Docket, Filed, Foreign, Judge, Settled, Table, Why};
use tandem::model::{
    Cursor, FrameBuilder, Hlc, InstanceId, Judgement, Key, Mark, Need, Offset, Record, Seen,
    SiteId, Tags,
};
use tandem::redis::put_command;

use crate::apply::Here;
use crate::now;
use crate::site::{effects_of, place};

const LIFE: InstanceId = InstanceId::new(1);
/// More than any history has.
const MOST: usize = 1000;

/// A key, as the histories name it, and the site that is asked for it.
type Wish = (String, String);

/// The judge of one site, and what it has said.
struct Judged {
    site: SiteId,
    judge: Judge,
    table: Arc<Table>,
    foreign: Arc<Foreign>,
    claims: Arc<Claims>,
    dockets: BTreeMap<SiteId, Docket>,
    catalog: Catalog,
    seen: Seen,
    /// What this site has written.
    written: Vec<Record>,
    /// How far the stream of this site goes.
    end: u64,
    batch: u64,
    asked: BTreeSet<Wish>,
    noted: BTreeSet<Wish>,
}

fn site(name: &Value) -> SiteId {
    SiteId::try_new(name.as_str().unwrap()).unwrap()
}

fn number(step: &Value, name: &str) -> u64 {
    step[name].as_u64().unwrap()
}

fn at(offset: u64) -> Cursor {
    place(Offset(offset))
}

fn key(name: &Value) -> Key {
    let name = name.as_str().unwrap();
    let (db, name) = name.split_once(':').unwrap_or(("0", name));
    (db.parse().unwrap(), Bytes::copy_from_slice(name.as_bytes()))
}

fn name(key: &Key) -> String {
    let name = key.1.escape_ascii();
    match key.0 {
        0 => name.to_string(),
        db => format!("{db}:{name}"),
    }
}

fn seen(step: &Value) -> Seen {
    let mut seen = Seen::default();
    for (of, offset) in step["seen"].as_object().unwrap() {
        seen.advance(&SiteId::try_new(of).unwrap(), at(offset.as_u64().unwrap()));
    }
    seen
}

/// The commands of a step, and how many they are.
fn commands(step: &Value) -> (Vec<u8>, u32) {
    let (mut out, mut count) = (Vec::new(), 0);
    for line in step["command"].as_str().unwrap().split("; ") {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        put_command(&mut out, &args);
        count += 1;
    }
    (out, count)
}

impl Judged {
    fn new(history: &Value) -> Self {
        let judging = site(&history["judge"]);
        let sites = history["sites"].as_array().unwrap().iter().map(site);
        let others: Vec<SiteId> = sites.filter(|of| *of != judging).collect();
        let news = Arc::default();
        let dockets = others.iter().map(|of| (of.clone(), Docket::new(&news)));
        let dockets: BTreeMap<SiteId, Docket> = dockets.collect();
        let claims = Claims::new(&judging, &others);
        for of in &others {
            let is_away = claims.arbiter() == Some(of) && history["linked"] == false;
            claims.set_linked(of, !is_away);
        }
        let catalog = Catalog::default();
        let table = Arc::new(Table::new(MOST));
        let foreign = Arc::new(Foreign::new(&others, MOST));
        let tables = (Arc::clone(&table), Arc::clone(&foreign));
        let judge = Judge::new(
            judging.clone(),
            tables,
            catalog.clone(),
            (&dockets, Arc::clone(&claims)),
        );
        Self {
            site: judging,
            judge,
            table,
            foreign,
            claims,
            dockets,
            catalog,
            seen: Seen::default(),
            written: Vec::new(),
            end: 0,
            batch: 0,
            asked: BTreeSet::new(),
            noted: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: &Value) {
        let (what, step) = step.as_object().unwrap().iter().next().unwrap();
        match what.as_str() {
            "own" => {
                self.end = number(step, "offset");
                let (commands, count) = commands(step);
                let mut effects = effects_of((&commands, 0), &self.catalog);
                let hlc = Hlc(number(step, "hlc"));
                self.written.push(Record {
                    offset: Offset(self.end),
                    hlc,
                    db: 0,
                    seen: Arc::default(),
                    causes: Arc::default(),
                    count,
                    commands: commands.into(),
                });
                self.judge.on_own(&mut effects, at(self.end), hlc);
                self.judge.note();
            }
            "applied" => self.applied(step),
            "told" => {
                let (by, seen) = (site(&step["by"]), seen(step));
                // Of several peers others may not have seen it.
                if self.dockets.len() == 1 && self.dockets.contains_key(&by) {
                    self.judge.forget(seen.of(&self.site), |_| Cursor::ZERO);
                }
            }
            "paid" => {
                let (of, key) = (site(&step["of"]), key(&step["key"]));
                self.batch += 1;
                let mut all = self.seen.clone();
                all.advance(&self.site, at(self.end));
                let wish = (name(&key), of.to_string());
                let settled = Settled {
                    key,
                    seen: Arc::new(all),
                    upto: None,
                    why: Why::Asked(Vec::new()),
                };
                self.dockets[&of].paid(LIFE, self.batch, vec![settled]);
                self.asked.remove(&wish);
                self.comes_back(&of);
            }
            "stale" => {
                let arbiter = self.claims.arbiter().cloned().unwrap();
                self.dockets[&arbiter].stale(1, vec![key(&step["key"])]);
            }
            other => panic!("no step: {other}"),
        }
        self.turn();
    }

    fn applied(&mut self, step: &Value) {
        let origin = site(&step["origin"]);
        let seen = Arc::new(seen(step));
        let (commands, count) = commands(step);
        let start = self.seen.of(&origin).offset;
        let end = Offset(number(step, "offset"));
        let tags = Tags {
            offset: end,
            hlc: Hlc(number(step, "hlc")),
            db: 0,
            seen: &seen,
            causes: &seen,
            count,
        };
        let mut frame = FrameBuilder::new(start);
        frame.push(tags, &commands);
        now(self.dockets[&origin].file(Filed::Records {
            epoch: at(0).epoch,
            start,
            body: frame.finish().into(),
        }));
        if step["failed"] == true {
            self.fails(&origin, &commands, &seen);
        }
        self.seen.advance(&origin, place(end));
        self.batch += 1;
        self.comes_back(&origin);
    }

    /// Commands of a site have failed: what is to be made of that.
    fn fails(&self, origin: &SiteId, commands: &[u8], seen: &Seen) {
        let here = Here {
            catalog: &self.catalog,
            table: &self.table,
            foreign: &self.foreign,
            debts: &Debts::new(origin, &self.claims),
            site: &self.site,
            peer: origin,
        };
        let mut owed = Vec::new();
        for_each_in(commands, 0, |command, db| {
            if !here.explains(command, db, seen) {
                owed.extend(here.written(command, db));
            }
        })
        .unwrap();
        self.dockets[origin].owed(owed);
    }

    /// What was applied of a site comes back.
    fn comes_back(&mut self, origin: &SiteId) {
        self.end += 1;
        let mark = Mark {
            batch: self.batch,
            at: self.seen.of(origin),
            ..Mark::first(LIFE, Cursor::ZERO)
        };
        self.judge
            .on_echo(origin, &mark, Vec::new(), (LIFE, 0), at(self.end));
    }

    /// What is found is noted, and handed over.
    fn turn(&mut self) {
        self.judge.on_owed(at(self.end));
        self.judge.on_late(at(self.end));
        let mut found = self.judge.take();
        while !found.overruns.is_empty() {
            for overrun in std::mem::take(&mut found.overruns) {
                let seen = overrun.seen.of(&self.site);
                let own = self.written.iter().filter(|r| place(r.offset) > seen);
                let own = own.map(|record| (&self.site, record));
                let third = overrun.third.iter().map(|(site, record)| (site, record));
                let mut keys = BTreeSet::new();
                for (site, record) in own.chain(third) {
                    if overrun.is_wrong(site, record.hlc) {
                        overrun.add_keys(&self.catalog, record, &mut keys);
                    }
                }
                let keys = keys.into_iter().collect();
                self.judge.on_overrun(&overrun, keys, at(self.end));
            }
            self.judge.go_on(at(self.end));
            found.append(self.judge.take());
        }
        for note in found.notes {
            match note {
                Judgement::Wished(of, key) => {
                    self.noted.insert((name(&key), of.to_string()));
                }
                Judgement::Paid(of, key) => {
                    self.noted.remove(&(name(&key), of.to_string()));
                }
                _ => {}
            }
        }
        self.judge.release();
        for (of, docket) in &self.dockets {
            docket.take_wishes(|key, wish| {
                let doubts = if wish.need == Need::Doubts { "?" } else { "" };
                self.asked.insert((name(&key) + doubts, of.to_string()));
            });
        }
    }
}

fn expected(history: &Value, name: &str) -> BTreeSet<Wish> {
    let wishes = history[name].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    wishes
        .map(|wish| (text(&wish[0]), text(&wish[1])))
        .collect()
}

/// What the judge says of a history, if that is not what is expected.
fn differs(history: &Value) -> Option<String> {
    let mut judged = Judged::new(history);
    for step in history["steps"].as_array().unwrap() {
        judged.step(step);
    }
    let dormant: BTreeSet<Wish> = judged.noted.difference(&judged.asked).cloned().collect();
    let found = (judged.asked, dormant);
    let mut dormant = expected(history, "dormant");
    // A doubt is a matter of who has the last word alone, here.
    dormant.retain(|(key, _)| !key.ends_with('?'));
    let right = (expected(history, "wishes"), dormant);
    let name = &history["name"];
    (found != right).then(|| format!("{name}: asks and notes {found:?}, not {right:?}"))
}

/// Whether the program asks in another order: where a command of a peer has failed, it asks that peer first, and
/// who has the last word when the answer has come. The model asks the latter at once.
fn is_asked_twice(history: &Value) -> bool {
    history["rule"] == "last word" && history["name"] == "a command fails"
}

#[test]
fn the_judge_agrees_with_the_histories_of_the_model() {
    let text = include_str!("../model/histories.json");
    let all: Vec<Value> = serde_json::from_str(text).unwrap();
    let judged = all.iter().filter(|history| !is_asked_twice(history));
    let wrong: Vec<String> = judged.filter_map(differs).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

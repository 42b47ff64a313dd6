//! What is wrong with two sites at rest, pair by pair.

use std::collections::{BTreeMap, BTreeSet};

use super::case::Promise;
use super::run::{Batch, Hold, Instance, Replies};
use crate::harness::compare::{describe, differences_from_model, differences_in_value};
use crate::harness::{Client, Pair, Server};

/// A server on its own, which is told what was promised.
pub(crate) struct Model {
    server: Server,
}

/// A key, with its database.
type Place = (usize, Vec<u8>);

impl Model {
    /// An empty one.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self {
            server: Server::start(options),
        }
    }

    /// Begins again.
    pub(crate) fn forget(&self) {
        self.server.client().run("FLUSHALL");
    }

    /// One paragraph for each pair that did not end as promised.
    pub(crate) fn judge(
        &self,
        pair: &Pair,
        batch: &Batch,
        replies: &Replies,
        hold: Hold,
    ) -> Vec<String> {
        let mut model = self.server.client();
        for (instance, replies) in batch.instances.iter().zip(replies) {
            tell(&mut model, instance, replies);
        }
        let (mut a, mut b) = pair.clients();
        let unequal = places(differences_in_value(&mut a, &mut b).1);
        let mut wrong = places(differences_from_model(&mut a, &mut model));
        wrong.extend(places(differences_from_model(&mut b, &mut model)));
        let mut by_instance: BTreeMap<usize, BTreeSet<Place>> = BTreeMap::new();
        for (number, instance) in batch.instances.iter().enumerate() {
            let is_exact = !matches!(instance.case.promise(instance.order), Promise::Equal(_));
            let promised = wrong.iter().filter(|_| is_exact);
            let own = unequal.iter().chain(promised);
            let own: BTreeSet<Place> = own.filter(|(_, key)| instance.owns(key)).cloned().collect();
            if !own.is_empty() {
                by_instance.insert(number, own);
            }
        }
        by_instance
            .into_iter()
            .map(|(number, places)| {
                let instance = &batch.instances[number];
                let mut lines = vec![format!("{} ({hold:?})", instance.describe())];
                for place in places {
                    let equal = !unequal.contains(&place);
                    lines.push(explain(
                        instance,
                        &place,
                        equal,
                        [&mut a, &mut b, &mut model],
                    ));
                }
                lines.join("\n")
            })
            .collect()
    }
}

fn places(differences: Vec<crate::harness::compare::Difference>) -> BTreeSet<Place> {
    let places = differences.into_iter().map(|d| (d.db, d.key));
    places.collect()
}

/// Tells the model what is promised.
fn tell(model: &mut Client, instance: &Instance, replies: &[Vec<u8>; 2]) {
    let case = &instance.case;
    let mut say = |lines: &[&str], reply: &[u8]| {
        for line in lines {
            let reply = String::from_utf8_lossy(reply);
            let line = instance.fill(line).replace("{reply}", &reply);
            // What fails here fails at the sites.
            drop(model.try_run(&line));
        }
        drop(model.try_run("SELECT 0"));
    };
    match case.promise(instance.order) {
        Promise::Equal(_) => {}
        Promise::These(lines, _) => say(lines, &[]),
        Promise::Effects(forms, _) => {
            say(case.setup, &[]);
            for form in forms {
                say(case.pair[form].effect(), &replies[form]);
            }
        }
    }
}

/// What both sites hold under a key, and what they should.
fn explain(
    instance: &Instance,
    (db, key): &Place,
    equal: bool,
    [a, b, model]: [&mut Client; 3],
) -> String {
    let name = key.rsplit(|byte| *byte == b':').next().unwrap_or(key);
    let name = String::from_utf8_lossy(name);
    let at_a = describe(a, *db, key);
    let held = if equal {
        format!("both {at_a}")
    } else {
        format!("a {at_a}; b {}", describe(b, *db, key))
    };
    let (expected, why) = match instance.case.promise(instance.order) {
        Promise::Equal(why) => ("the same".to_owned(), why),
        Promise::These(_, why) | Promise::Effects(_, why) => (describe(model, *db, key), why),
    };
    format!("    {name}: {held}; expected {expected}: {why}")
}

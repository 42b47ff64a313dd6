//! Entries whose ids the servers choose: two sites choose the same ones.

use std::collections::BTreeSet;
use std::thread;

use super::run::Hold;
use crate::harness::{Client, Options, Pair, Site, compare, patience, wait_until};

/// Entries that a site adds in one go.
const ENTRIES: u64 = 500;

type Entry = (String, Vec<String>);

#[test]
fn entries_with_the_same_automatic_id_are_all_kept() {
    let pair = Pair::start(&Options::default());
    Hold::Stall.begin(&pair);
    let mut rounds = 0;
    let common = wait_until("both to choose the same ids", patience(20), || {
        thread::scope(|scope| {
            for site in pair.sites() {
                scope.spawn(move || add(&mut site.client(), site.name, rounds));
            }
        });
        rounds += 1;
        let [here, there] = pair.sites().map(|site| ids(&entries(&mut site.client())));
        let common = here.intersection(&there).count();
        if common > 0 {
            Ok(common)
        } else {
            Err("not one".to_owned())
        }
    });
    println!("{common} ids in common");
    pair.sites().into_iter().for_each(Site::wait_read);
    pair.mend_link();
    pair.settle();
    let held = entries(&mut pair.a.client());
    let values: BTreeSet<&String> = held
        .iter()
        .filter_map(|(_, fields)| fields.get(1))
        .collect();
    let added = usize::try_from(2 * ENTRIES * rounds).expect("a small number");
    assert_eq!(
        (held.len(), values.len()),
        (added, added),
        "entries, values"
    );
    compare(&pair);
}

fn add(client: &mut Client, site: &str, round: u64) {
    let numbers = round * ENTRIES..(round + 1) * ENTRIES;
    let commands: Vec<Vec<String>> = numbers
        .map(|n| {
            ["XADD", "x", "*", "n", &format!("{site}:{n}")]
                .map(str::to_owned)
                .to_vec()
        })
        .collect();
    client.pipeline(&commands);
}

fn entries(client: &mut Client) -> Vec<Entry> {
    client.ask("XRANGE x - +")
}

fn ids(entries: &[Entry]) -> BTreeSet<String> {
    entries.iter().map(|(id, _)| id.clone()).collect()
}

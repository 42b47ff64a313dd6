//! Conformance: every write command, in its forms, between two servers of any versions.
//!
//! `TANDEM_CASE=text` runs only the cases whose name or group has the text; `TANDEM_PAIRS=6.2:valkey`
//! only some pairs of the versions in `TANDEM_SERVERS`; `TANDEM_TAP=1` shows what the streams had of
//! each case that fails, and the ends of the logs; `SEED=n` repeats the random commands, and
//! `TANDEM_CASE='random commands'` runs nothing else.

pub(crate) mod case;
mod cases;
mod coverage;
pub(crate) mod generated;
mod listener;
mod outcome;
mod perform;
mod report;
mod run;

use std::collections::BTreeSet;
use std::env;
use std::fs;

use self::outcome::PairReport;
use crate::harness::Server;
use crate::harness::server::versions;

#[test]
fn the_installed_server_syncs_every_command() {
    judge(&[run::run(["", ""])]);
}

#[test]
fn random_commands_of_each_site_leave_both_equal() {
    let wrong = generated::run(["", ""], 2000);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every pair of the versions in `TANDEM_SERVERS`, in both directions, when `TANDEM_MATRIX` names
/// the document to write. `TANDEM_PAIRS=6.2:valkey,8.6:8.6` chooses pairs by parts of their names,
/// and writes nothing.
#[test]
fn every_pair_of_versions_syncs_every_command() {
    let document = env::var("TANDEM_MATRIX").ok();
    let choice = env::var("TANDEM_PAIRS").ok();
    if document.is_none() && choice.is_none() {
        println!("TANDEM_MATRIX is not set");
        return;
    }
    let names = versions();
    let mut reports = Vec::new();
    for (number, first) in names.iter().enumerate() {
        for second in &names[number..] {
            let is_chosen = choice.as_ref().is_none_or(|pairs| {
                pairs.split(',').any(|pair| {
                    let (left, right) = pair.split_once(':').expect("two names");
                    first.contains(left) && second.contains(right)
                        || first.contains(right) && second.contains(left)
                })
            });
            if is_chosen {
                println!("{first} and {second}");
                let mut report = run::run([first, second]);
                let case = env::var("TANDEM_CASE").unwrap_or_default();
                if "random commands".contains(&case) {
                    report.generated = generated::run([first, second], 3000);
                }
                reports.push(report);
                show(reports.last().expect("a report"));
            }
        }
    }
    if let (Some(path), None) = (document, choice) {
        fs::write(path, report::document(&reports)).expect("write the document");
    }
    judge(&reports);
}

/// What a person wants to see while it runs.
fn show(report: &PairReport) {
    for from in [0, 1] {
        let [pass, fail, not] = report.counts(from);
        let direction = report.direction(from);
        println!("{direction}: {pass} pass, {fail} fail, {not} do not apply");
    }
    for (site, command, error) in &report.mended {
        let direction = report.direction(1 - site);
        println!("{direction}: mended by state: {command}: {error}");
    }
    for line in report.failures() {
        println!("FAIL {line}");
    }
}

fn judge(reports: &[PairReport]) {
    let failures: Vec<String> = reports.iter().flat_map(PairReport::failures).collect();
    let count = failures.len();
    assert!(count == 0, "{count} failures:\n{}", failures.join("\n"));
}

#[test]
fn every_write_command_is_in_the_table() {
    let mut servers = vec![Server::start(&[])];
    servers.extend(versions().iter().map(|name| Server::version(name, &[])));
    for server in servers {
        let mut client = server.client();
        let missing = coverage::missing(&mut client);
        let product = case::Product::of(&mut client).describe();
        assert!(missing.is_empty(), "{product}: no case has {missing:?}");
    }
}

#[test]
fn cases_have_names_of_their_own() {
    let mut prefixes = BTreeSet::new();
    for (group, case) in cases::all() {
        assert!(
            prefixes.insert(case.prefix("a")),
            "{group}: {} twice",
            case.name
        );
    }
}

//! Conformance: every write command, in its forms, between two servers of any versions.
//!
//! `TANDEM_CASE=text` runs only the cases whose name or group has the text; `TANDEM_TAP=1` shows what
//! the streams had of each case that fails.

mod case;
mod cases;
mod coverage;
mod listener;
mod outcome;
mod perform;
mod run;

use std::collections::BTreeSet;

use crate::harness::Server;
use crate::harness::server::versions;

#[test]
fn the_installed_server_syncs_every_command() {
    let report = run::run(["", ""]);
    println!("{:?} {:?}", report.counts(0), report.counts(1));
    for (site, command, error) in &report.mended {
        println!("mended at {site}: {command}: {error}");
    }
    let failures = report.failures();
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
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

//! What must hold before: `tandem check`, one line for each thing that is needed.
//!
//! It changes nothing. Whether a command would be let through is found out by queueing it behind a
//! MULTI that is never executed, and whether PSYNC would be by a PSYNC that the server cannot
//! begin; no key is written, no snapshot begun, no session with a peer opened. So it may be run at
//! any time, also while the sidecar runs.

mod facts;
mod local;
mod peer;
mod permissions;
mod redis;
mod report;

use std::io;

use self::local::InUse;
use self::report::Report;
use crate::config::Config;

/// Checks everything, and prints what was found. True when nothing failed; a warning is no failure.
pub async fn run(config: &Config) -> bool {
    let mut report = Report::new(io::stdout());
    let (journal, in_use) = local::journal(&config.journal);
    report.add(journal);
    listeners(config, in_use, &mut report);
    redis::check(config, &mut report).await;
    for each in &config.peers {
        report.add(peer::check(each, &config.link).await);
    }
    report.end()
}

/// The two addresses on which a sidecar waits.
fn listeners(config: &Config, in_use: InUse, report: &mut Report) {
    report.add(match config.link.listen {
        Some(address) => local::listener("link.listen", address, in_use),
        None => report::Line::skip("link.listen", "off: this site only dials"),
    });
    report.add(local::listener("admin.listen", config.admin.listen, in_use));
}

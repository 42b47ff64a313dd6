//! What became of each case.

use std::collections::BTreeSet;
use std::fmt;

use super::case::Case;
use crate::harness::compare::{Difference, Kind};

/// One case in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) group: &'static str,
    pub(crate) case: &'static Case,
    /// The site that writes: 0 is a, 1 is b.
    pub(crate) from: usize,
}

impl Item {
    /// What its keys begin with.
    pub(crate) fn prefix(&self) -> String {
        self.case.prefix(["a", "b"][self.from])
    }
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Pass,
    Fail(Vec<Failure>),
    /// The sites differ as a server and its replica do.
    Unsaid,
    /// The server that should write does not know the command.
    TooOld,
    /// The other server has no such values.
    CannotHold,
}

/// What was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Failure {
    /// The same in every run.
    pub(crate) what: String,
    /// With values and times, to find the cause.
    pub(crate) detail: String,
}

/// A case and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) item: Item,
    pub(crate) verdict: Verdict,
}

/// Everything that was found out about two servers.
pub(crate) struct PairReport {
    /// The names of the versions.
    pub(crate) names: [String; 2],
    pub(crate) outcomes: Vec<Outcome>,
    /// What cannot be said of one case: echoes, errors in the logs.
    pub(crate) troubles: Vec<String>,
    /// Commands that failed at the other site and were mended by the state of their keys: the site
    /// where they failed, the command, the server's words.
    pub(crate) mended: BTreeSet<(usize, String, String)>,
    /// What was wrong after random commands.
    pub(crate) generated: Vec<String>,
}

impl Failure {
    /// A failure without details.
    pub(crate) fn new(what: &str, detail: impl fmt::Display) -> Self {
        Self {
            what: what.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// A key that differs, seen from the site that wrote it.
    pub(crate) fn of_key(difference: &Difference, item: &Item) -> Self {
        let first = item.from == 0;
        let what = match difference.kind {
            Kind::NotAtFirst if first => "a key that should be gone is still there",
            Kind::NotAtSecond if !first => "a key that should be gone is still there",
            Kind::NotAtFirst | Kind::NotAtSecond => "a key is missing",
            Kind::Type => "another type",
            Kind::Value => "another value",
            Kind::NoTtlAtFirst if first => "a TTL that should be gone is still there",
            Kind::NoTtlAtSecond if !first => "a TTL that should be gone is still there",
            Kind::NoTtlAtFirst | Kind::NoTtlAtSecond => "a TTL is missing",
            Kind::Ttl => "another TTL",
        };
        Self::new(what, difference)
    }
}

impl PairReport {
    /// How many outcomes of one direction pass, fail and do not apply.
    pub(crate) fn counts(&self, from: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for outcome in self.outcomes.iter().filter(|o| o.item.from == from) {
            counts[match outcome.verdict {
                Verdict::Pass => 0,
                Verdict::Fail(_) => 1,
                Verdict::Unsaid | Verdict::TooOld | Verdict::CannotHold => 2,
            }] += 1;
        }
        counts
    }

    /// The names of the versions, in the direction of an outcome.
    pub(crate) fn direction(&self, from: usize) -> String {
        format!("{} → {}", self.names[from], self.names[1 - from])
    }

    /// Every failure as lines for a person.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for outcome in &self.outcomes {
            let Verdict::Fail(failures) = &outcome.verdict else {
                continue;
            };
            let Item { group, case, from } = outcome.item;
            for Failure { what, detail } in failures {
                let direction = self.direction(from);
                lines.push(format!(
                    "{direction}: {group}, {}: {what}\n      {detail}",
                    case.name
                ));
            }
        }
        let pair = format!("{} and {}", self.names[0], self.names[1]);
        let troubles = self.troubles.iter();
        lines.extend(troubles.map(|trouble| format!("{pair}: {trouble}")));
        let generated = self.generated.iter();
        lines.extend(generated.map(|wrong| format!("{pair}: generated commands: {wrong}")));
        lines
    }
}

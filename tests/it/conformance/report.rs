//! The document: what travels between which versions. The same results give the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::case::Case;
use super::cases::{self, GROUPS};
use super::coverage::OPERATIONS;
use super::outcome::{PairReport, Verdict};

/// The whole document.
pub(crate) fn document(reports: &[PairReport]) -> String {
    let results = Results::of(reports);
    let mut text = String::new();
    let cases = cases::all().count();
    let commands: BTreeSet<String> = cases::all().flat_map(|(_, c)| c.commands()).collect();
    put(
        &mut text,
        &format!(
            "# Compatibility\n\n\
             `make test-matrix` writes this file: do not edit it. Each of {cases} cases, with {} \
             commands, is written at one site; then the other site must hold the same keys with the \
             same types, values and TTLs, hear the same messages once, have the same functions, and \
             nothing may come back. Every pair of versions runs all cases in both directions.\n\n\
             ✓ means that all is equal; – that a server does not know the command, or that the other \
             one cannot hold the result.\n",
            commands.len()
        ),
    );
    versions(&mut text, reports);
    operations(&mut text, &results);
    for group in GROUPS {
        put(
            &mut text,
            &format!(
                "\n## {}\n\n| case | from | result |\n|---|---|---|",
                group.name
            ),
        );
        for case in group.cases {
            let since = case.since.describe();
            let result = results.cases[case.name].describe(case);
            put(
                &mut text,
                &format!("| {} | {since} | {result} |", escaped(case.name)),
            );
        }
    }
    deviations(&mut text, reports, &results);
    mended(&mut text, reports);
    text
}

/// How one case ended everywhere.
#[derive(Default)]
struct CaseResult {
    passed: usize,
    /// What was wrong, and in which directions.
    failed: BTreeMap<String, BTreeSet<String>>,
    /// Directions in which something failed.
    failing: BTreeSet<String>,
    /// The other site could not hold it.
    cannot_hold: usize,
    unsaid: usize,
}

struct Results {
    cases: BTreeMap<&'static str, CaseResult>,
}

impl Results {
    fn of(reports: &[PairReport]) -> Self {
        let mut found: BTreeMap<&'static str, CaseResult> = BTreeMap::new();
        for (_, case) in cases::all() {
            found.insert(case.name, CaseResult::default());
        }
        for report in reports {
            for outcome in &report.outcomes {
                let result = found.entry(outcome.item.case.name).or_default();
                match &outcome.verdict {
                    Verdict::Pass => result.passed += 1,
                    Verdict::TooOld => {}
                    Verdict::CannotHold => result.cannot_hold += 1,
                    Verdict::Unsaid => result.unsaid += 1,
                    Verdict::Fail(failures) => {
                        let direction = report.direction(outcome.item.from);
                        for failure in failures {
                            let directions = result.failed.entry(failure.what.clone()).or_default();
                            directions.insert(direction.clone());
                        }
                        result.failing.insert(direction);
                    }
                }
            }
        }
        Self { cases: found }
    }
}

impl CaseResult {
    fn describe(&self, case: &Case) -> String {
        let mut parts = Vec::new();
        if !self.failing.is_empty() {
            let directions = self.failing.len();
            parts.push(format!("differs in {directions} directions, see below"));
        } else if self.passed + self.unsaid > 0 {
            parts.push("✓".to_owned());
        } else {
            parts.push("–".to_owned());
        }
        if let (Some(unsaid), true) = (case.unsaid, self.unsaid > 0) {
            let before = unsaid
                .until
                .map(|since| format!(" before {}", since.describe()));
            let before = before.unwrap_or_default();
            parts.push(format!(
                "no server{before} tells its replicas {}",
                unsaid.what
            ));
        }
        if let (Some(needs), true) = (case.needs, self.cannot_hold > 0) {
            parts.push(format!("– where the other server has no {}", needs.what));
        }
        parts.join("; ")
    }
}

/// From the row to the column: how many cases are equal, of how many that apply.
fn versions(text: &mut String, reports: &[PairReport]) {
    let mut cells: BTreeMap<(&str, &str), String> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for report in reports {
        let [a, b] = &report.names;
        names.extend([a.as_str(), b.as_str()]);
        for (from, to, number) in [(a, b, 0), (b, a, 1)] {
            let [pass, fail, _] = report.counts(number);
            let random = if report.generated.is_empty() {
                ""
            } else {
                " *"
            };
            let cell = if fail == 0 {
                format!("✓ {pass}{random}")
            } else {
                format!("{pass} of {}{random}", pass + fail)
            };
            cells.insert((from, to), cell);
        }
    }
    put(
        text,
        "\n## Versions\n\nFrom the site of the row to that of the column: cases that are equal, of \
         those that apply. After them, random commands are written at both sites; a * marks pairs \
         that differ then.\n",
    );
    put(text, &format!("| from \\ to | {} |", join(&names, " | ")));
    put(text, &format!("|---|{}", "---|".repeat(names.len())));
    for from in &names {
        let row = names
            .iter()
            .map(|to| cells.get(&(*from, *to)).map_or("", String::as_str));
        let row: Vec<&str> = row.collect();
        put(text, &format!("| {from} | {} |", row.join(" | ")));
    }
}

/// The operations that a product of this kind names, and the cases that have them.
fn operations(text: &mut String, results: &Results) {
    put(
        text,
        "\n## Operations\n\n| operation | cases | result |\n|---|---|---|",
    );
    for operation in OPERATIONS.split_whitespace() {
        let with: Vec<&Case> = cases::all()
            .map(|(_, case)| case)
            .filter(|case| case.commands().any(|command| command == operation))
            .collect();
        let failing: BTreeSet<&str> = with
            .iter()
            .filter(|case| !results.cases[case.name].failing.is_empty())
            .map(|case| case.name)
            .collect();
        let result = if failing.is_empty() {
            "✓".to_owned()
        } else {
            format!("differs: {}", join(&failing, ", "))
        };
        put(
            text,
            &format!("| {operation} | {} | {} |", with.len(), escaped(&result)),
        );
    }
}

fn deviations(text: &mut String, reports: &[PairReport], results: &Results) {
    put(text, "\n## Deviations\n");
    let start = text.len();
    for (group, case) in cases::all() {
        for (what, directions) in &results.cases[case.name].failed {
            let directions = join(directions, ", ");
            put(
                text,
                &format!("- **{}** ({group}): {what}: {directions}", case.name),
            );
        }
    }
    for report in reports {
        let pair = report.names.join(" and ");
        if !report.generated.is_empty() {
            put(text, &format!("- **random commands**: {pair} differ"));
        }
        if !report.troubles.is_empty() {
            put(text, &format!("- **errors or echoes**: {pair}"));
        }
    }
    if text.len() == start {
        put(text, "None.");
    }
}

/// What the other server refused, so that the whole key was sent.
fn mended(text: &mut String, reports: &[PairReport]) {
    let mut found: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for report in reports {
        for (site, command, error) in &report.mended {
            let directions = found.entry((command, error)).or_default();
            directions.insert(report.direction(1 - site));
        }
    }
    put(
        text,
        "\n## Mended\n\nThese commands were refused by the other server. Then the value of the whole \
         key is sent, which takes a round trip.\n",
    );
    for ((command, error), directions) in found {
        put(
            text,
            &format!("- {command}: `{error}`: {}", join(&directions, ", ")),
        );
    }
}

fn join<T: AsRef<str>>(words: &BTreeSet<T>, between: &str) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    words.join(between)
}

/// For a cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn put(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all");
}

//! What was found, for a person and for a machine. No I/O.

use std::fmt::Write as _;

use serde::Serialize;

use super::compare::Findings;
use super::recheck::Found;
use crate::model::ShownKeys;

/// How the names of keys are shown: they may tell what nobody else should know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ShowKeys {
    /// As they are, escaped.
    #[default]
    Full,
    /// A hash of the name, the same as in the conflict log: enough to see whether it is the same key.
    Hash,
    /// Not at all.
    None,
}

impl From<ShowKeys> for ShownKeys {
    fn from(show: ShowKeys) -> Self {
        match show {
            ShowKeys::Full => Self::Full,
            ShowKeys::Hash => Self::Hash,
            ShowKeys::None => Self::None,
        }
    }
}

/// What was found, and what was done about it. Its JSON is what `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether nothing differs.
    pub equal: bool,
    /// The sites, in the order of the command line.
    pub sites: Vec<SiteKeys>,
    /// The part of the keys that was compared.
    pub sample: f64,
    /// How many keys were compared.
    pub keys_compared: u64,
    /// How many of them are equal.
    pub keys_equal: u64,
    /// How many differ; if `given_up`, at least so many.
    pub keys_different: u64,
    /// Whether the rest was not compared because so many differ.
    pub given_up: bool,
    /// How many of those that differed were mended; none when that was not asked for.
    pub keys_mended: Option<u64>,
    /// The first of those that differ.
    pub differences: Vec<Shown>,
}

/// A site and its keys.
#[derive(Clone, Debug, Serialize)]
pub struct SiteKeys {
    /// Its name.
    pub site: String,
    /// How many keys it has, of those that are synced.
    pub keys: u64,
}

/// A key that differs.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Its database.
    pub db: u32,
    /// Its name, as it may be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What differs, in one word.
    pub kind: &'static str,
    /// How it differs, in words.
    pub detail: String,
    /// Whether it was written all the time: then it may only look so.
    pub being_written: bool,
}

impl Report {
    /// Of what was found at sites of these names.
    #[must_use]
    pub fn new(names: &[String], sample: f64, show: ShowKeys, limit: usize, f: &Findings) -> Self {
        let site = |(name, keys): (&String, &u64)| SiteKeys {
            site: name.clone(),
            keys: *keys,
        };
        let different = f.found.len() as u64;
        Self {
            equal: f.found.is_empty(),
            sites: names.iter().zip(&f.keys).map(site).collect(),
            sample,
            keys_compared: f.compared,
            keys_equal: f.compared.saturating_sub(different),
            keys_different: different,
            given_up: f.is_cut,
            keys_mended: None,
            differences: differences(names, show, limit, &f.found),
        }
    }

    /// The keys that still differ after a repair.
    pub fn repaired(&mut self, names: &[String], show: ShowKeys, limit: usize, left: &[Found]) {
        let left_count = left.len() as u64;
        let mended = self.keys_different.saturating_sub(left_count);
        self.keys_mended = Some(mended);
        self.keys_different = left_count;
        self.keys_equal += mended;
        self.equal = left.is_empty() && !self.given_up;
        self.differences = differences(names, show, limit, left);
    }

    /// For a person.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let width = self.sites.iter().map(|s| s.site.len()).max();
        let width = width.unwrap_or(0).max("different".len());
        let mut line = |name: &str, count: u64, rest: &str| {
            writeln!(text, "{name:width$}  {count:>12}{rest}").ok();
        };
        for site in &self.sites {
            let seen = match self.given_up {
                true => " keys seen",
                false => " keys",
            };
            line(&site.site, site.keys, seen);
        }
        let part = match self.sample < 1.0 {
            true => format!(" of a sample of {}", self.sample),
            false => String::new(),
        };
        line("equal", self.keys_equal, &part);
        if let Some(mended) = self.keys_mended {
            line("mended", mended, "");
        }
        let more = match self.given_up {
            true => " or more: given up, the rest was not compared",
            false => "",
        };
        line("different", self.keys_different, more);
        for shown in &self.differences {
            let key = shown.key.as_deref().map(|key| format!(" \"{key}\""));
            let key = key.unwrap_or_default();
            let written = match shown.being_written {
                true => " (being written; verify again when it is not)",
                false => "",
            };
            writeln!(text, "  db {}{key}: {}{written}", shown.db, shown.detail).ok();
        }
        let hidden = self.keys_different - self.differences.len() as u64;
        if hidden > 0 {
            writeln!(text, "  and {hidden} more; --limit shows more of them").ok();
        }
        text
    }
}

fn differences(names: &[String], show: ShowKeys, limit: usize, found: &[Found]) -> Vec<Shown> {
    let shown = |found: &Found| Shown {
        db: found.db,
        key: ShownKeys::from(show).show(&found.key),
        kind: found.difference.word(),
        detail: found.difference.describe(names),
        being_written: found.is_written,
    };
    found.iter().take(limit).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::verify::entry::Difference;

    fn findings() -> Findings {
        let found = |key: &'static [u8], is_written| Found {
            db: 3,
            key: Bytes::from_static(key),
            difference: Difference::Missing(vec![1]),
            is_written,
        };
        Findings {
            keys: vec![10, 8],
            compared: 10,
            found: vec![found(b"k\n\xff", false), found(b"x", true)],
            is_cut: false,
        }
    }

    fn names() -> Vec<String> {
        ["a", "b"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_person_reads_what_differs() {
        let text = Report::new(&names(), 1.0, ShowKeys::Full, 10, &findings()).text();
        let expected = [
            "a                    10 keys",
            "b                     8 keys",
            "equal                 8",
            "different             2",
            "  db 3 \"k\\n\\xff\": only at a",
            "  db 3 \"x\": only at a (being written; verify again when it is not)",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn names_are_hidden_and_lines_limited_as_asked() {
        let with = |show, limit| Report::new(&names(), 1.0, show, limit, &findings());
        let text = with(ShowKeys::Hash, 1).text();
        assert!(
            !text.contains("xff") && text.contains("and 1 more"),
            "{text}"
        );
        let json = serde_json::to_string(&with(ShowKeys::None, 10)).unwrap();
        assert!(
            !json.contains("\"key\"") && json.contains("\"kind\":\"missing\""),
            "{json}"
        );
    }

    #[test]
    fn what_was_mended_is_equal() {
        let mut report = Report::new(&names(), 1.0, ShowKeys::Full, 10, &findings());
        report.repaired(&names(), ShowKeys::Full, 10, &findings().found[..1]);
        assert_eq!(
            (report.keys_mended, report.keys_equal, report.equal),
            (Some(1), 9, false)
        );
        report.repaired(&names(), ShowKeys::Full, 10, &[]);
        assert!(report.equal && report.differences.is_empty());
    }
}

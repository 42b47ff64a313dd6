//! A key as one site has it, and how what the sites have differs. No I/O.

use std::time::Duration;

use bytes::Bytes;

use super::digest::Digest;

/// How far apart two times to live may be. Servers before 7.0 stream spans, which begin when they
/// arrive; and the sites are not read in the same instant.
const TOLERANCE: Duration = Duration::from_millis(1500);

/// A key at one site, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What TYPE says.
    pub kind: Bytes,
    /// The value.
    pub digest: Digest,
    /// Until when it lives; none for ever.
    pub life: Option<Life>,
}

/// How long a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// How long from when it was read, in milliseconds.
    pub left_ms: i64,
    /// Until when by the clock of its server, in milliseconds since 1970.
    pub until_ms: i64,
}

/// What each site has of a key, in the order of the sites.
pub type Look = Vec<Option<Entry>>;

/// How what the sites have of a key differs: the first of these that is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Some sites have it and these have not, by number.
    Missing(Vec<usize>),
    /// It is of different types: per site.
    Type(Vec<Bytes>),
    /// Of one type, but not the same.
    Value(Bytes),
    /// The same, but for how long: what is left per site, in milliseconds.
    TimeToLive(Vec<Option<i64>>),
}

impl Life {
    /// Whether two are the same, but for what nobody can help. The clocks of two servers may differ,
    /// and what is left is not read at the same moment; where the one is far apart, the other is
    /// close.
    fn is_close(self, other: Self) -> bool {
        let tolerance = TOLERANCE.as_millis();
        let close = |a: i64, b: i64| u128::from(a.abs_diff(b)) <= tolerance;
        close(self.until_ms, other.until_ms) || close(self.left_ms, other.left_ms)
    }
}

/// How what the sites have differs; none when they are equal.
#[must_use]
pub fn difference(look: &[Option<Entry>]) -> Option<Difference> {
    let there: Vec<&Entry> = look.iter().flatten().collect();
    let (first, others) = there.split_first()?;
    if there.len() < look.len() {
        let missing = look.iter().enumerate().filter(|(_, entry)| entry.is_none());
        return Some(Difference::Missing(missing.map(|(site, _)| site).collect()));
    }
    if others.iter().any(|other| other.kind != first.kind) {
        let kinds = there.iter().map(|entry| entry.kind.clone());
        return Some(Difference::Type(kinds.collect()));
    }
    if others.iter().any(|other| other.digest != first.digest) {
        return Some(Difference::Value(first.kind.clone()));
    }
    let same_life = |other: &&Entry| match (first.life, other.life) {
        (None, None) => true,
        (Some(a), Some(b)) => a.is_close(b),
        _ => false,
    };
    if others.iter().all(same_life) {
        return None;
    }
    let left = there.iter().map(|entry| entry.life.map(|l| l.left_ms));
    Some(Difference::TimeToLive(left.collect()))
}

/// Whether a key was not written between two looks at it.
#[must_use]
pub fn is_unchanged(before: &[Option<Entry>], now: &[Option<Entry>]) -> bool {
    let same = |(a, b): (&Option<Entry>, &Option<Entry>)| match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let until = |entry: &Entry| entry.life.map(|l| l.until_ms);
            let close = match (until(a), until(b)) {
                (None, None) => true,
                (Some(a), Some(b)) => u128::from(a.abs_diff(b)) <= TOLERANCE.as_millis(),
                _ => false,
            };
            a.kind == b.kind && a.digest == b.digest && close
        }
        _ => false,
    };
    before.len() == now.len() && before.iter().zip(now).all(same)
}

impl Difference {
    /// In words; `names` are those of the sites.
    #[must_use]
    pub fn describe(&self, names: &[String]) -> String {
        let name = |site: usize| names.get(site).map_or("?", String::as_str);
        let each = |what: Vec<String>| {
            let pairs = what.iter().zip(names);
            let pairs: Vec<String> = pairs
                .map(|(what, name)| format!("{what} at {name}"))
                .collect();
            pairs.join(", ")
        };
        match self {
            Self::Missing(missing) => {
                let has = (0..names.len()).filter(|site| !missing.contains(site));
                let has: Vec<&str> = has.map(name).collect();
                format!("only at {}", has.join(" and "))
            }
            Self::Type(kinds) => each(kinds.iter().map(|k| k.escape_ascii().to_string()).collect()),
            Self::Value(kind) => format!("value ({})", kind.escape_ascii()),
            Self::TimeToLive(left) => {
                let words = left.iter().map(|left| match left {
                    Some(ms) => format!("{}.{:03} s", ms / 1000, ms % 1000),
                    None => "none".to_owned(),
                });
                format!("time to live: {}", each(words.collect()))
            }
        }
    }

    /// One word for machines.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Type(_) => "type",
            Self::Value(_) => "value",
            Self::TimeToLive(_) => "time_to_live",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &'static str, digest: Digest, life: Option<(i64, i64)>) -> Option<Entry> {
        Some(Entry {
            kind: Bytes::from_static(kind.as_bytes()),
            digest,
            life: life.map(|(left_ms, until_ms)| Life { left_ms, until_ms }),
        })
    }

    #[test]
    fn every_kind_of_difference_has_its_words() {
        let names = ["a", "b"].map(str::to_owned);
        let (list, set) = (entry("list", 1, None), entry("set", 1, None));
        let dying = entry("list", 1, Some((5_250, 99_000)));
        let cases = [
            ([list.clone(), None], "only at a"),
            ([None, list.clone()], "only at b"),
            ([list.clone(), set], "list at a, set at b"),
            ([list.clone(), entry("list", 2, None)], "value (list)"),
            (
                [list.clone(), dying],
                "time to live: none at a, 5.250 s at b",
            ),
        ];
        for (look, words) in cases {
            assert_eq!(difference(&look).unwrap().describe(&names), words);
        }
        assert_eq!(difference(&[list.clone(), list]), None);
        assert_eq!(difference(&[None, None]), None);
    }

    #[test]
    fn times_to_live_may_differ_by_what_nobody_can_help() {
        let differs = |a, b| difference(&[entry("set", 1, Some(a)), entry("set", 1, Some(b))]);
        assert!(differs((5_000, 100_000), (4_000, 100_900)).is_none());
        assert!(
            differs((5_000, 100_000), (5_000, 900_000)).is_none(),
            "clocks"
        );
        assert!(
            differs((9_000, 100_000), (5_000, 100_000)).is_none(),
            "moments"
        );
        assert!(differs((9_000, 104_000), (5_000, 100_000)).is_some());
    }

    #[test]
    fn a_third_site_is_compared_too() {
        let (one, two) = (entry("set", 1, None), entry("set", 2, None));
        let word = |look: &[Option<Entry>]| difference(look).map(|d| d.word());
        assert_eq!(word(&[one.clone(), one.clone(), two]), Some("value"));
        assert_eq!(word(&[one.clone(), one, None]), Some("missing"));
    }

    #[test]
    fn what_only_grows_older_is_unchanged() {
        let at = |left| vec![entry("set", 1, Some((left, 100_000))), None];
        assert!(is_unchanged(&at(9_000), &at(2_000)));
        assert!(!is_unchanged(&at(9_000), &[None, None]));
        let renewed = [entry("set", 1, Some((9_000, 110_000))), None];
        assert!(!is_unchanged(&at(9_000), &renewed));
    }
}

//! Marks: the reserved keys in which a sidecar keeps its bookkeeping, inside the data it speaks of.
//!
//! The mark is the first write of every transaction that we apply. Because it is in the same EXEC,
//! position and data are committed, persisted, replicated and lost together. Its value is text, so
//! that `redis-cli GET tandem:from:singapore` answers a person too:
//!
//! `1 i=<instance> n=<batch> at=<epoch>/<offset> hlc=<stamp> low=<epoch>/<offset> base=<epoch>
//! home=<epoch> owes=<0|1|2|3> [entire=1] [copy=<epoch>/<offset>/<next entry>/<o|k>[d|x]] [part=<database>]
//! seen=<site>:<epoch>/<offset>,…`

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use super::hlc::Hlc;
use super::position::{Cursor, Epoch, Offset};
use super::seen::Seen;
use super::site::{InstanceId, SiteId};

/// Keys with this prefix are ours. They never travel: not in streams, snapshots or states.
pub const RESERVED_PREFIX: &str = "tandem:";
/// `tandem:from:<origin>`: what has been applied here of that origin.
pub const MARK_PREFIX: &str = "tandem:from:";
/// `tandem:fence:<origin>`: shows in our own stream how far we have read it.
pub const FENCE_PREFIX: &str = "tandem:fence:";
/// `tandem:owed:<origin>`: keys whose state that origin still owes us, a set.
pub const OWED_PREFIX: &str = "tandem:owed:";
/// `tandem:part:<origin>`: a large value of that origin, as long as it is not all here.
const PART_PREFIX: &str = "tandem:part:";
/// Names of keys of which it is proved that they were deleted here while nobody read, within the
/// transaction that has found them missing: they travel as deletes of ours.
pub const GONE_KEY: &str = "tandem:gone";
/// What we have read of our own stream, and where a state was read.
pub const SELF_KEY: &str = "tandem:self";

/// The version of the text of a mark.
const MARK_VERSION: &str = "1";

/// The key of the mark of an origin.
#[must_use]
pub fn mark_key(origin: &SiteId) -> String {
    format!("{MARK_PREFIX}{origin}")
}

/// The key of the fence of an origin's applier.
#[must_use]
pub fn fence_key(origin: &SiteId) -> String {
    format!("{FENCE_PREFIX}{origin}")
}

/// The key of the set of states owed by an origin.
#[must_use]
pub fn owed_key(origin: &SiteId) -> String {
    format!("{OWED_PREFIX}{origin}")
}

/// The key under which a large value of an origin is put together.
#[must_use]
pub fn part_key(origin: &SiteId) -> String {
    format!("{PART_PREFIX}{origin}")
}

/// Whether a key is one of ours.
#[must_use]
pub fn is_reserved(key: &[u8]) -> bool {
    key.starts_with(RESERVED_PREFIX.as_bytes())
}

/// The value of a mark: what of one origin has been applied at this site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The life of the sidecar that wrote it.
    pub instance: InstanceId,
    /// Counts the transactions of that life.
    pub batch: u64,
    /// The last record of the origin that has been applied.
    pub at: Cursor,
    /// The highest stamp applied.
    pub hlc: Hlc,
    /// How far back our own journal must be read again after a restart.
    pub low: Cursor,
    /// The epoch of the origin in which the data here was last made whole: by a copy, or because
    /// the origin was empty when that epoch began; or [`Epoch::NEVER`], or [`Epoch::UNDONE`].
    pub base: Epoch,
    /// Our own epoch at that time, or when the copy under way was begun.
    pub home: Epoch,
    /// What of a copy this site owes the origin: the second half of a merge.
    pub owes: Owes,
    /// Whether all that the origin has done since then was done here: nothing was left out by
    /// configuration, there was no value that the server here cannot hold.
    pub entire: bool,
    /// A copy from the origin that is under way.
    pub copy: Option<CopyProgress>,
    /// The database in which a large value is being put together, under [`part_key`].
    pub part: Option<u32>,
    /// What the origin had seen, per site, when it made the last record applied, or the last copy.
    pub seen: Seen,
}

/// What a site owes the origin of a copy that it has received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owes {
    /// Nothing.
    #[default]
    Nothing,
    /// The keys that the origin lacks: what both have is equal.
    Missing,
    /// These, and what was written by either site that the copy did not hold: of keys that the origin did
    /// not have then, it may have a part only.
    Written,
    /// Everything: after keys had been copied, a history began here with writes that nobody has
    /// read, so what both have may differ.
    All,
}

impl Owes {
    /// Whether it owes a copy.
    #[must_use]
    pub const fn any(self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// What it owes once more records of the origin were applied: they may have met keys that the origin
    /// lacked when it wrote them, and has since then in part.
    #[must_use]
    pub const fn after_records(self) -> Self {
        match self {
            Self::Missing => Self::Written,
            other => other,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Missing => 1,
            Self::All => 2,
            Self::Written => 3,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Nothing, Self::Missing, Self::Written, Self::All];
        let number = number::<u8>(text)?;
        all.into_iter().find(|owes| owes.number() == number)
    }
}

/// How far a copy has come, kept in the mark with the data that it brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// Where in the origin's history its snapshot was taken; names the snapshot.
    pub snapshot: Cursor,
    /// How many entries of the snapshot have been applied or decided.
    pub next: u64,
    /// Whether keys that were here stay (`existing = "keep"`).
    pub keep: bool,
    /// What is known of keys that are not here.
    pub lacking: Lacking,
}

/// What a site that receives a copy knows of keys that it lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lacking {
    /// They are new to it.
    #[default]
    New,
    /// It has had all; they may have been deleted while nobody read. They come back, and are counted.
    Doubtful,
    /// It has had all, and its Redis has forgotten nothing since: those that the sender has not written
    /// since were deleted while nobody read.
    Deleted,
}

impl Lacking {
    const fn letter(self) -> &'static str {
        match self {
            Self::New => "",
            Self::Doubtful => "d",
            Self::Deleted => "x",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::New, Self::Doubtful, Self::Deleted];
        all.into_iter().find(|lacking| lacking.letter() == text)
    }
}

/// Why a value is not a mark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// Not UTF-8, or a word is missing, unknown or malformed.
    #[error("malformed bookkeeping value (at {0:?})")]
    Malformed(String),
    /// Written by another version of this program.
    #[error("bookkeeping value of version {0:?}; this program reads version {MARK_VERSION}")]
    Version(String),
}

/// `key=value` words of a versioned text.
struct Words<'a> {
    words: Vec<(&'a str, &'a str)>,
    /// Which one is likely to be asked for next: they are asked for in the order in which they are written.
    next: Cell<usize>,
}

impl<'a> Words<'a> {
    fn parse(value: &'a [u8]) -> Result<Self, MarkError> {
        let text = |word| {
            let text = std::str::from_utf8(word);
            text.map_err(|_| MarkError::Malformed("not text".to_owned()))
        };
        // By bytes: every batch has a mark, and what looks for any character takes twice as long.
        let mut words = value.split(|byte| *byte == b' ').map(text);
        let version = words.next().transpose()?.unwrap_or_default();
        if version != MARK_VERSION {
            return Err(MarkError::Version(version.chars().take(16).collect()));
        }
        let pair = |word: Result<&'a str, MarkError>| {
            let word = word?;
            let pair = word.split_once('=');
            pair.ok_or_else(|| MarkError::Malformed(word.to_owned()))
        };
        let words = words.map(pair).collect::<Result<_, _>>()?;
        let next = Cell::new(0);
        Ok(Self { words, next })
    }

    fn optional<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, MarkError> {
        let is_it = |(_, (known, _)): &(usize, &(&str, &str))| *known == name;
        let next = self.next.get();
        let likely = self.words.get(next).map(|word| (next, word)).filter(is_it);
        let found = likely.or_else(|| self.words.iter().enumerate().find(is_it));
        let Some((at, (_, text))) = found else {
            return Ok(None);
        };
        self.next.set(at + 1);
        parse(text)
            .map(Some)
            .ok_or_else(|| MarkError::Malformed(format!("{name}={text}")))
    }

    fn required<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, MarkError> {
        self.optional(name, parse)?
            .ok_or_else(|| MarkError::Malformed(format!("{name}=?")))
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn instance(text: &str) -> Option<InstanceId> {
    u64::from_str_radix(text, 16).ok().map(InstanceId::new)
}

impl Mark {
    /// That of a peer of which nothing is known but that the data holds something of it.
    #[must_use]
    pub fn nowhere(instance: InstanceId) -> Self {
        Self {
            base: Epoch::LOST,
            ..Self::first(instance, Cursor::ZERO)
        }
    }

    /// That of a peer of which the data holds everything up to `at`, and nothing else is known.
    #[must_use]
    pub fn first(instance: InstanceId, at: Cursor) -> Self {
        Self {
            instance,
            batch: 0,
            at,
            hlc: Hlc(0),
            low: Cursor::ZERO,
            base: Epoch::NEVER,
            home: Epoch::NEVER,
            owes: Owes::Nothing,
            entire: false,
            copy: None,
            part: None,
            seen: Seen::default(),
        }
    }

    /// Reads the value of a mark.
    ///
    /// # Errors
    /// The value is no mark, or of another version.
    pub fn parse(value: &[u8]) -> Result<Self, MarkError> {
        let words = Words::parse(value)?;
        Ok(Self {
            instance: words.required("i", instance)?,
            batch: words.required("n", number)?,
            at: words.required("at", number)?,
            hlc: Hlc(words.required("hlc", number)?),
            low: words.required("low", number)?,
            base: Epoch(words.required("base", number)?),
            home: Epoch(words.required("home", number)?),
            owes: words.required("owes", Owes::parse)?,
            entire: words
                .optional("entire", |text| (text == "1").then_some(()))?
                .is_some(),
            copy: words.optional("copy", number)?,
            part: words.optional("part", number)?,
            seen: words.required("seen", number)?,
        })
    }
}

impl Mark {
    /// Whether it says something else than another one, besides how far records were applied.
    #[must_use]
    pub fn stands_elsewhere(&self, other: &Self) -> bool {
        let standing = |mark: &Self| {
            let Self {
                base,
                home,
                owes,
                entire,
                copy,
                part,
                ..
            } = mark;
            (*base, *home, *owes, *entire, *copy, *part)
        };
        standing(self) != standing(other)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{MARK_VERSION} i={} n={} at={} hlc={} low={} base={} home={} owes={}",
            self.instance,
            self.batch,
            self.at,
            self.hlc,
            self.low,
            self.base,
            self.home,
            self.owes.number(),
        )?;
        if self.entire {
            f.write_str(" entire=1")?;
        }
        if let Some(copy) = &self.copy {
            write!(f, " copy={copy}")?;
        }
        if let Some(db) = self.part {
            write!(f, " part={db}")?;
        }
        write!(f, " seen={}", self.seen)
    }
}

impl fmt::Display for CopyProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = if self.keep { 'k' } else { 'o' };
        let lacking = self.lacking.letter();
        write!(f, "{}/{}/{policy}{lacking}", self.snapshot, self.next)
    }
}

impl FromStr for CopyProgress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split('/').collect();
        let [epoch, offset, next, policy] = words[..] else {
            return Err(());
        };
        let snapshot = Cursor {
            epoch: Epoch(number(epoch).ok_or(())?),
            offset: Offset(number(offset).ok_or(())?),
        };
        let (keep, lacking) = match (policy.strip_prefix('k'), policy.strip_prefix('o')) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            (None, None) => return Err(()),
        };
        Ok(Self {
            snapshot,
            next: number(next).ok_or(())?,
            keep,
            lacking: Lacking::parse(lacking).ok_or(())?,
        })
    }
}

/// The value of [`SELF_KEY`]: proof, inside the data, of how much of its history a Redis holds.
///
/// Written about ten times a second while clients write. When a Redis comes back with another
/// history, the one that it holds tells whether anything that the sidecar had read is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfMark {
    /// The life of the sidecar that wrote it.
    pub instance: InstanceId,
    /// Counts up, over restarts too.
    pub number: u64,
    /// What the journal held when it was written.
    pub at: Cursor,
}

impl SelfMark {
    /// Reads the value.
    ///
    /// # Errors
    /// The value is no self mark, or of another version.
    pub fn parse(value: &[u8]) -> Result<Self, MarkError> {
        let words = Words::parse(value)?;
        Ok(Self {
            instance: words.required("i", instance)?,
            number: words.required("n", number)?,
            at: words.required("at", number)?,
        })
    }
}

impl fmt::Display for SelfMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{MARK_VERSION} i={} n={} at={}",
            self.instance, self.number, self.at
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        let mut seen = Seen::default();
        let at = Cursor {
            epoch: Epoch(3),
            offset: Offset(77),
        };
        seen.advance(&SiteId::try_new("singapore").unwrap(), at);
        Mark {
            instance: InstanceId::new(0xabc),
            batch: 9,
            at,
            hlc: Hlc(1 << 40),
            low: Cursor::ZERO,
            base: Epoch(3),
            home: Epoch(4),
            owes: Owes::All,
            entire: true,
            copy: Some(CopyProgress {
                snapshot: at,
                next: 5,
                keep: true,
                lacking: Lacking::Deleted,
            }),
            part: Some(3),
            seen,
        }
    }

    #[test]
    fn marks_survive_the_text() {
        for (copy, part) in [(None, Some(3)), (mark().copy, None)] {
            let mark = Mark {
                copy,
                part,
                ..mark()
            };
            assert_eq!(Mark::parse(mark.to_string().as_bytes()).unwrap(), mark);
        }
        for lacking in [Lacking::New, Lacking::Doubtful, Lacking::Deleted] {
            let copy = mark().copy.map(|copy| CopyProgress { lacking, ..copy });
            let mark = Mark { copy, ..mark() };
            assert_eq!(Mark::parse(mark.to_string().as_bytes()).unwrap(), mark);
        }
        for owes in [Owes::Nothing, Owes::Missing, Owes::Written, Owes::All] {
            let entire = owes.any();
            let mark = Mark {
                owes,
                entire,
                ..mark()
            };
            assert_eq!(Mark::parse(mark.to_string().as_bytes()).unwrap(), mark);
        }
        let mark = Mark {
            seen: Seen::default(),
            ..mark()
        };
        assert_eq!(Mark::parse(mark.to_string().as_bytes()).unwrap(), mark);
        let own = SelfMark {
            instance: InstanceId::new(1),
            number: 2,
            at: Cursor::ZERO,
        };
        assert_eq!(SelfMark::parse(own.to_string().as_bytes()).unwrap(), own);
    }

    #[test]
    fn anything_else_is_refused() {
        let text = mark().to_string();
        assert!(matches!(Mark::parse(b"2 i=1"), Err(MarkError::Version(v)) if v == "2"));
        for bad in [
            "",
            "hello",
            "1",
            "1 i=zz",
            &text.replace(" n=9", ""),
            &text.replace("owes=2", "owes=x"),
            &text.replace("owes=2", "owes=4"),
        ] {
            assert!(Mark::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Mark::parse(b"1 \xff").is_err());
    }
}

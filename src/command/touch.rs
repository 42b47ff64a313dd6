//! What a command does to each key and element that it touches, as far as it matters for another
//! write that had not seen it.
//!
//! Both sites must come to the same answer about a record, or none of them mends, or both do: so
//! all of this follows from the command alone, and is the same for what stands in a stream and for
//! its canonical form.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::catalog::Catalog;
use super::keys::{Access, key_hash, number};
use super::scanner::Command;
use super::table::{Effect, Family, Keys, Layout, Row};

/// Of a command that names more elements than this, the order decides: it is worth no look-up of
/// each.
const MAX_ELEMENTS: usize = 256;
/// The longest text of a number of 64 bits.
const MAX_DIGITS: usize = 20;

/// What is done to a key, or to one of its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// Something else is made of it.
    Read,
    /// The order decides.
    Write,
    /// An integer is added to it.
    Sum,
    /// Something is added that is only there or not.
    Union,
    /// It is removed.
    Delete,
    /// When it expires is changed.
    Expiry,
    /// It is taken elsewhere.
    Move,
    /// An element gets a value.
    Set,
    /// An element is added, or was there.
    Add,
    /// An integer is added to an element.
    Raise,
    /// An element is removed, or was not there.
    Remove,
    /// An element is taken elsewhere.
    Take,
}

impl Act {
    /// Whether it concerns one element, and leaves all others as they are.
    #[must_use]
    pub const fn is_of_element(self) -> bool {
        matches!(
            self,
            Self::Set | Self::Add | Self::Raise | Self::Remove | Self::Take
        )
    }

    /// Whether an element may be gone after it.
    #[must_use]
    pub const fn removes(self) -> bool {
        matches!(self, Self::Remove | Self::Take)
    }

    /// Whether an element is there after it.
    #[must_use]
    pub const fn adds(self) -> bool {
        matches!(self, Self::Set | Self::Add | Self::Raise | Self::Take)
    }

    /// Whether two acts come to the same in either order: on one key, or on the same element of it.
    #[must_use]
    pub const fn commutes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Read, Self::Read)
            | (Self::Sum, Self::Sum)
            | (Self::Union, Self::Union)
            | (Self::Delete, Self::Delete)
            | (Self::Add, Self::Add)
            | (Self::Raise, Self::Raise)
            | (Self::Remove, Self::Remove) => true,
            // What keeps the time to live, and cannot end the key.
            (Self::Expiry, Self::Sum | Self::Union | Self::Set | Self::Add | Self::Raise)
            | (Self::Sum | Self::Union | Self::Set | Self::Add | Self::Raise, Self::Expiry) => true,
            _ => false,
        }
    }

    /// Whether what it is done to changes.
    #[must_use]
    pub const fn access(self) -> Access {
        match self {
            Self::Read => Access::Read,
            _ => Access::Write,
        }
    }
}

/// What one command does to one key, or to one element of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The database of the key.
    pub db: u32,
    /// The hash of the key, and of its database.
    pub key: u128,
    /// The hash of the key and the element; none: the whole key.
    pub element: Option<u128>,
    /// What is done.
    pub act: Act,
    /// Whose elements: those of different types are not apart from each other.
    pub kind: Kind,
}

/// Types that have elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// None of these.
    #[default]
    Other,
    /// Fields of hashes.
    Hash,
    /// Members of sets.
    Set,
    /// Members of sorted sets.
    SortedSet,
    /// Entries of streams.
    Entry,
    /// Groups of streams.
    Group,
}

impl Kind {
    /// Whether a key goes with its last element: streams stay.
    #[must_use]
    pub const fn ends_empty(self) -> bool {
        matches!(self, Self::Hash | Self::Set | Self::SortedSet)
    }

    /// Whether acts on different elements leave each other alone. What a group has of an entry that
    /// is deleted depends on which came first.
    #[must_use]
    pub fn is_apart(self, act: Act, other: Self, others: Act) -> bool {
        let of_stream = matches!(
            (self, other),
            (Self::Entry, Self::Group) | (Self::Group, Self::Entry)
        );
        self == other || of_stream && !act.removes() && !others.removes()
    }

    /// The type with which a command deals that names elements.
    fn of(command: &Command<'_>) -> Self {
        match command.arg(0).first().map(u8::to_ascii_uppercase) {
            Some(b'H') => Self::Hash,
            Some(b'S') => Self::Set,
            Some(b'Z' | b'G') => Self::SortedSet,
            Some(b'X') if command.is(b"XADD") || command.is(b"XDEL") => Self::Entry,
            Some(b'X') => Self::Group,
            _ => Self::Other,
        }
    }
}

/// The hash by which an element of a key is known.
#[must_use]
fn element_hash(key: u128, element: &[u8]) -> u128 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "all bits of the key's hash reach the result"
    )]
    let (low, high) = (key as u64, (key >> 64) as u64);
    xxh3_128_with_seed(element, low ^ high.rotate_left(32))
}

impl Catalog {
    /// Adds what the command does to keys for which `wants` says so; false when it touches more than
    /// keys that can be named.
    pub fn touches(
        &self,
        command: &Command<'_>,
        db: u32,
        out: &mut Vec<Touch>,
        mut wants: impl FnMut(u32, &[u8]) -> bool,
    ) -> bool {
        self.for_each_key(command, db, |db, name, act| {
            if !wants(db, name) {
                return;
            }
            let (key, begin) = (key_hash(db, name), out.len());
            let whole = |act| Touch {
                db,
                key,
                element: None,
                act,
                kind: Kind::Other,
            };
            if !act.is_of_element() {
                out.push(whole(act));
                return;
            }
            let kind = Kind::of(command);
            for_each_element(command, |element| {
                out.push(Touch {
                    element: Some(element_hash(key, element)),
                    kind,
                    ..whole(act)
                });
            });
            let count = out.len() - begin;
            if count == 0 || count > MAX_ELEMENTS {
                out.truncate(begin);
                out.push(whole(Act::Write));
            }
        })
    }

    /// Whether what the command writes follows from other keys than the one that it writes.
    #[must_use]
    pub fn derives(&self, command: &Command<'_>) -> bool {
        command.row().is_some_and(|row| {
            !matches!(
                row.keys,
                Keys::None
                    | Keys::First
                    | Keys::Second
                    | Keys::All
                    | Keys::Pairs
                    | Keys::CountedPairs
            )
        })
    }
}

impl Row {
    /// What the command of this row does to the key of this number among those that it touches, if
    /// it writes it.
    #[inline]
    pub(super) fn act(&self, command: &Command<'_>, key: usize) -> Act {
        match self.family {
            Family::Nothing | Family::Ordered => Act::Write,
            Family::Delete => Act::Delete,
            Family::Sum => Act::Sum,
            Family::Union => Act::Union,
            Family::Move if key == 0 => Act::Move,
            Family::Move => Act::Write,
            Family::Expiry => Act::Expiry,
            Family::Elements(layout, effect) => match effect {
                Effect::Add => Act::Add,
                Effect::Remove => Act::Remove,
                Effect::Take => Act::Take,
                Effect::Raise if is_integer(command, layout) => Act::Raise,
                // `ZADD k INCR s m` is ZINCRBY.
                Effect::Set if layout == Layout::Scored && raises(command) => Act::Raise,
                Effect::Raise | Effect::Set => Act::Set,
            },
        }
    }
}

/// Whether a command adds an integer to an element: sums of others depend on their order.
fn is_integer(command: &Command<'_>, layout: Layout) -> bool {
    // `HINCRBY k f n`, `ZINCRBY k n m`.
    match layout {
        Layout::Only(2) => true,
        _ => is_integer_text(command.arg(2)),
    }
}

fn is_integer_text(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    (1..=MAX_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}

/// Whether a ZADD has the option INCR, with an integer.
fn raises(command: &Command<'_>) -> bool {
    let first = first_score(command);
    let options = 2..first;
    options
        .into_iter()
        .any(|at| command.arg(at).eq_ignore_ascii_case(b"INCR"))
        && is_integer_text(command.arg(first))
}

/// The number of the first argument of `ZADD` or `GEOADD` behind the options.
fn first_score(command: &Command<'_>) -> usize {
    const OPTIONS: [&[u8]; 6] = [b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"];
    let is_option = |at: &usize| {
        let arg = command.arg(*at);
        OPTIONS.iter().any(|o| o.eq_ignore_ascii_case(arg))
    };
    (2..command.len())
        .find(|at| !is_option(at))
        .unwrap_or(command.len())
}

/// Calls `each` with every element that a command of [`Family::Elements`] names.
fn for_each_element(command: &Command<'_>, each: impl FnMut(&[u8])) {
    let Some(Family::Elements(layout, _)) = command.row().map(|row| row.family) else {
        return;
    };
    let (from, step, most) = match layout {
        Layout::Only(at) => (at, 1, 1),
        Layout::Each => (2, 1, usize::MAX),
        Layout::Pairs => (2, 2, usize::MAX),
        Layout::Scored => (first_score(command) + 1, 2, usize::MAX),
        // With options it trims the stream too.
        Layout::Entry if command.arg(2).first().is_some_and(u8::is_ascii_digit) => (2, 1, 1),
        Layout::Group if !command.arg(1).eq_ignore_ascii_case(b"CREATE") => (3, 1, 1),
        Layout::Entry | Layout::Group => return,
        Layout::Located => (first_score(command) + 2, 3, usize::MAX),
        Layout::Fields(step) => {
            let is_word = |at: &usize| command.arg(*at).eq_ignore_ascii_case(b"FIELDS");
            let Some(word) = (2..command.len()).find(is_word) else {
                return;
            };
            let count = number(command.arg(word + 1)).unwrap_or(0);
            (word + 2, step, count as usize)
        }
    };
    command.args(from).step_by(step).take(most).for_each(each);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{canonical, scanner};
    use crate::redis::put_command;

    fn touches(raw: &[u8]) -> Vec<Touch> {
        let mut out = Vec::new();
        scanner::for_each(raw, |command| {
            Catalog::default().touches(&command, 3, &mut out, |_, _| true);
        })
        .unwrap();
        out
    }

    fn raw(line: &str) -> Vec<u8> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut raw = Vec::new();
        put_command(&mut raw, &args);
        raw
    }

    fn of_key(name: &str, act: Act) -> Touch {
        Touch {
            db: 3,
            key: key_hash(3, name.as_bytes()),
            element: None,
            act,
            kind: Kind::Other,
        }
    }

    fn of_element(kind: Kind, name: &str, element: &str, act: Act) -> Touch {
        let key = key_hash(3, name.as_bytes());
        Touch {
            db: 3,
            key,
            element: Some(element_hash(key, element.as_bytes())),
            act,
            kind,
        }
    }

    #[test]
    fn elements_are_found_wherever_they_stand() {
        for (line, (act, elements)) in [
            ("HSET k f 1 g 2", (Act::Set, &["f", "g"][..])),
            ("HDEL k f g", (Act::Remove, &["f", "g"][..])),
            ("HINCRBY k f 5", (Act::Raise, &["f"][..])),
            (
                "HSETEX k EX 5 FIELDS 2 f 1 g 2",
                (Act::Set, &["f", "g"][..]),
            ),
            ("HPEXPIRE k 5 NX FIELDS 2 f g", (Act::Set, &["f", "g"][..])),
            ("HGETDEL k FIELDS 1 f", (Act::Remove, &["f"][..])),
            ("SADD k a b", (Act::Add, &["a", "b"][..])),
            ("ZADD k gt CH 1 a 2 b", (Act::Set, &["a", "b"][..])),
            ("ZADD k INCR 1 a", (Act::Raise, &["a"][..])),
            ("ZADD k INCR 1.5 a", (Act::Set, &["a"][..])),
            ("ZINCRBY k -7 a", (Act::Raise, &["a"][..])),
            ("ZINCRBY k 1e3 a", (Act::Set, &["a"][..])),
            ("GEOADD k NX 1 2 a 3 4 b", (Act::Set, &["a", "b"][..])),
        ] {
            let kind = match line.as_bytes().first() {
                Some(b'H') => Kind::Hash,
                Some(b'S') => Kind::Set,
                _ => Kind::SortedSet,
            };
            let element = |e: &&str| of_element(kind, "k", e, act);
            let expected: Vec<Touch> = elements.iter().map(element).collect();
            assert_eq!(touches(&raw(line)), expected, "{line}");
        }
        let moved = [
            of_element(Kind::Set, "a", "m", Act::Take),
            of_element(Kind::Set, "b", "m", Act::Take),
        ];
        assert_eq!(touches(&raw("SMOVE a b m")), moved);
    }

    #[test]
    fn keys_are_read_written_and_taken_away() {
        for (line, expected) in [
            ("SET a 1", vec![of_key("a", Act::Write)]),
            (
                "DEL a b",
                vec![of_key("a", Act::Delete), of_key("b", Act::Delete)],
            ),
            (
                "RENAME a b",
                vec![of_key("a", Act::Move), of_key("b", Act::Write)],
            ),
            (
                "COPY a b",
                vec![of_key("a", Act::Read), of_key("b", Act::Write)],
            ),
            ("INCRBY a 5", vec![of_key("a", Act::Sum)]),
            ("PEXPIREAT a 5", vec![of_key("a", Act::Expiry)]),
            // Malformed, but never nothing.
            ("HSETEX a EX 5 FIELDS", vec![of_key("a", Act::Write)]),
        ] {
            assert_eq!(touches(&raw(line)), expected, "{line}");
        }
        let many: Vec<String> = (0..300).map(|i| i.to_string()).collect();
        let line = format!("SADD a {}", many.join(" "));
        assert_eq!(touches(&raw(&line)), vec![of_key("a", Act::Write)]);
    }

    #[test]
    fn the_canonical_form_of_a_command_does_the_same_to_the_same() {
        let lines = "SET a 1 EX 5; SETEX a 5 v; GETSET a 1; SETNX a 1; MSETNX a 1 b 2; GETDEL a; \
            DELEX a; MSETEX 2 a 1 b 2 EX 9; RENAMENX a b; HGETDEL h FIELDS 2 f g; HMSET h f v; \
            HSETNX h f v; HSETEX h FNX EX 9 FIELDS 1 f v; HEXPIRE h 5 FIELDS 2 f g; \
            HPEXPIREAT h 5 GT FIELDS 1 f; ZADD z INCR 1 m; ZADD z INCR 1.5 m; ZADD z NX CH 1 m; \
            EXPIRE a 5; PEXPIREAT a 5; XADD x MAXLEN ~ 5 LIMIT 9 * f v; RESTORE a 0 x REPLACE";
        for line in lines.split("; ") {
            let (raw, mut made) = (raw(line), Vec::new());
            scanner::for_each(&raw, |command| {
                canonical(&command, 1, &mut made);
            })
            .unwrap();
            assert_eq!(touches(&raw), touches(&made), "{line}");
        }
    }

    #[test]
    fn commuting_goes_both_ways() {
        let all = [
            Act::Read,
            Act::Write,
            Act::Sum,
            Act::Union,
            Act::Delete,
            Act::Expiry,
            Act::Move,
            Act::Set,
            Act::Add,
            Act::Raise,
            Act::Remove,
            Act::Take,
        ];
        for a in all {
            for b in all {
                assert_eq!(a.commutes(b), b.commutes(a), "{a:?} {b:?}");
            }
            assert!(!a.commutes(Act::Write) && !a.commutes(Act::Take), "{a:?}");
        }
    }
}

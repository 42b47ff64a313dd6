//! Patterns of keys, as the server's own KEYS and SCAN read them.

use std::fmt;

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;

/// A pattern of keys: `*`, `?`, `[a-c]`, `[^a]`, and `\` before what is meant as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It matches nothing.
    #[error("is empty")]
    Empty,
    /// It is too long.
    #[error("is longer than {MAX_PATTERN} bytes")]
    TooLong,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is empty or too long.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        match text.len() {
            0 => Err(PatternError::Empty),
            1..=MAX_PATTERN => Ok(Self(text.to_owned())),
            _ => Err(PatternError::TooLong),
        }
    }

    /// Whether a key matches. Takes time in proportion to key × pattern at worst: of several `*`
    /// only the last is ever tried again.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        let (mut pattern, mut rest) = (self.0.as_bytes(), key);
        // Where to go on when what follows the last `*` does not match here.
        let mut retry: Option<(&[u8], &[u8])> = None;
        loop {
            if let Some(after) = pattern.strip_prefix(b"*") {
                retry = Some((after, rest));
                pattern = after;
                continue;
            }
            let step = match (pattern.is_empty(), rest.split_first()) {
                (true, None) => return true,
                (false, Some((byte, tail))) => one(pattern, *byte).map(|after| (after, tail)),
                (true, Some(_)) | (false, None) => None,
            };
            if let Some(next) = step {
                (pattern, rest) = next;
                continue;
            }
            let Some((after, from)) = retry else {
                return false;
            };
            let Some((_, tail)) = from.split_first() else {
                return false;
            };
            retry = Some((after, tail));
            (pattern, rest) = (after, tail);
        }
    }
}

/// Whether the front of the pattern, which is no `*`, matches a byte: what follows it then.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', after @ ..] => Some(after),
        [b'[', after @ ..] => class(after, byte),
        [b'\\', literal, after @ ..] | [literal, after @ ..] => (*literal == byte).then_some(after),
        [] => None,
    }
}

/// What follows a class such as `a-c]` or `^a]`, if it has the byte. A class that does not end has
/// all that follows.
fn class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [b'\\', literal, after @ ..] => {
                found |= *literal == byte;
                after
            }
            [from, b'-', to, after @ ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                found |= *literal == byte;
                after
            }
        };
    }
    (found != negated).then_some(rest)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_server_matches_them() {
        for (pattern, yes, no) in [
            ("user:*", &["user:", "user:1"][..], &["use", "xuser:1"][..]),
            ("*", &["", "a"], &[]),
            ("a?c", &["abc"], &["ac", "abbc"]),
            ("*:*:x", &["a:b:x", "a:b:c:x", "::x"], &["a:x", "a:b:y"]),
            ("h[ae]llo", &["hallo", "hello"], &["hillo"]),
            ("h[^e]llo", &["hallo"], &["hello"]),
            ("h[a-c]llo", &["hbllo"], &["hdllo"]),
            ("h[c-a]llo", &["hbllo"], &["hdllo"]),
            (r"a\*b", &["a*b"], &["axb"]),
            (r"[\]]", &["]"], &["x"]),
            ("a**b", &["ab", "axxb"], &["a"]),
            ("[a", &["a"], &["b"]),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            for key in yes {
                assert!(pattern.matches(key.as_bytes()), "{pattern} {key}");
            }
            for key in no {
                assert!(!pattern.matches(key.as_bytes()), "{pattern} {key}");
            }
        }
        let many = Pattern::parse(&"*a".repeat(100)).unwrap();
        assert!(!many.matches("a".repeat(90).as_bytes()));
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
    }
}

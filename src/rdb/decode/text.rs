//! A string of a value.

use std::borrow::Cow;

/// A string of a value: as it stands in the payload, unpacked, or a number that stands for its
/// digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// Its bytes.
    Bytes(Cow<'a, [u8]>),
    /// A number in place of its digits, which saves an allocation for each.
    Number(i64),
}

impl<'a> Text<'a> {
    /// Its bytes; the buffer holds the digits of a number.
    #[must_use]
    pub fn bytes<'s>(&'s self, digits: &'s mut itoa::Buffer) -> &'s [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => digits.format(*number).as_bytes(),
        }
    }

    /// Its bytes, on their own.
    #[must_use]
    pub fn into_bytes(self) -> Cow<'a, [u8]> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => {
                let mut digits = itoa::Buffer::new();
                Cow::Owned(digits.format(number).as_bytes().to_vec())
            }
        }
    }

    /// The number that it is, or whose digits it is.
    pub(super) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        }
    }

    /// The score that it stands for; none when it is no number.
    pub(super) fn score(&self) -> Option<f64> {
        match self {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a server writes a score as an integer only where that is exact"
            )]
            Self::Number(number) => Some(*number as f64),
            Self::Bytes(bytes) => parse_score(bytes),
        }
    }
}

impl<'a> From<&'a [u8]> for Text<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }
}

/// Reads a score that was written as text.
pub(super) fn parse_score(bytes: &[u8]) -> Option<f64> {
    let score: f64 = std::str::from_utf8(bytes).ok()?.trim().parse().ok()?;
    (!score.is_nan()).then_some(score)
}

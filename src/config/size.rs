//! Sizes with their units.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, written with a unit: `64MiB`, `10GiB`, `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a size; write a whole number with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")]
pub struct SizeError;

/// The largest first.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or(SizeError)?;
        let number: u64 = number.parse().map_err(|_| SizeError)?;
        let (_, bytes) = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))
            .ok_or(SizeError)?;
        number.checked_mul(*bytes).map(Self).ok_or(SizeError)
    }
}

impl fmt::Display for Size {
    /// Exactly, in the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, bytes): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*bytes);
        match UNITS.iter().find(whole) {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_carry_units() {
        for (text, bytes, shown) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("10GiB", 10 << 30, "10GiB"),
            ("1GB", 1_000_000_000, "1GB"),
            ("1024 kib", 1 << 20, "1MiB"),
            ("3tb", 3_000_000_000_000, "3TB"),
            ("17B", 17, "17B"),
            ("0B", 0, "0B"),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), shown);
        }
        for bad in [
            "",
            "10",
            "10G",
            "GiB",
            "-1B",
            "1.5GiB",
            "1 000B",
            "17000000TiB",
            "1Gîb",
        ] {
            assert_eq!(bad.parse::<Size>(), Err(SizeError), "{bad}");
        }
    }
}

//! Whose format a snapshot is in: what its first bytes say.

use std::fmt;

use super::error::{Error, shown};
use super::payload::VALKEY_FIRST;

/// Which family of servers wrote a snapshot; decides what its numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The first bytes are `REDIS` and four digits: all Redis, Redict, and Valkey before 9.0.
    Redis,
    /// The first bytes are `VALKEY` and three digits: Valkey since 9.0.
    Valkey,
}

impl Flavour {
    /// Whose an RDB version is: the numbers of Valkey's own begin far above those of Redis.
    #[must_use]
    pub const fn of(rdb_version: u16) -> Self {
        if rdb_version >= VALKEY_FIRST {
            Self::Valkey
        } else {
            Self::Redis
        }
    }
}

/// The format of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Whose format it is.
    pub flavour: Flavour,
    /// Its number: 2 to 14 of Redis, 80 of Valkey.
    pub number: u16,
}

impl Version {
    /// Reads the first bytes of a snapshot.
    pub(super) fn parse(magic: &[u8; 9]) -> Result<Self, Error> {
        let (flavour, digits) = if let Some(digits) = magic.strip_prefix(b"REDIS") {
            (Flavour::Redis, digits)
        } else if let Some(digits) = magic.strip_prefix(b"VALKEY") {
            (Flavour::Valkey, digits)
        } else {
            return Err(Error::Magic(shown(magic)));
        };
        let number = digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| std::str::from_utf8(digits).ok()?.parse().ok())
            .flatten()
            .ok_or_else(|| Error::Magic(shown(magic)))?;
        let version = Self { flavour, number };
        match version {
            Self {
                flavour: Flavour::Redis,
                number: 2..=14,
            }
            | Self {
                flavour: Flavour::Valkey,
                number: 80,
            } => Ok(version),
            _ => Err(Error::Version(version)),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flavour {
            Flavour::Redis => write!(f, "REDIS{:04}", self.number),
            Flavour::Valkey => write!(f, "VALKEY{:03}", self.number),
        }
    }
}

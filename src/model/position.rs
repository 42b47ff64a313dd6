//! Where one is in a history: bytes of a replication stream, and the history that they belong to.

use std::fmt;
use std::str::FromStr;

/// Bytes of a Redis's replication stream processed so far.
///
/// As a position it means "everything up to and including this byte". PSYNC asks for the *next*
/// byte; [`Position::psync_args`] is the only place where that one is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

/// One unbroken history of a site's offsets. A new one begins when history is lost, so that an
/// (epoch, offset) never names two things. Later epochs are greater. Zero is no epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// As the base of a mark: the data has never been made whole. Not an epoch of anybody, nor are the
    /// others: those begin at moments of our time, in milliseconds.
    pub const NEVER: Self = Self(0);
    /// As the base of a mark: the data was whole once, and what it holds now nobody knows.
    pub const LOST: Self = Self(1);
    /// As the base of a mark: the data was whole once, and holds all that came, but not in the right order.
    pub const UNDONE: Self = Self(2);
}

/// A place in the history of one site; the order is that of time at that site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The history.
    pub epoch: Epoch,
    /// The place in it.
    pub offset: Offset,
}

impl Cursor {
    /// Before everything.
    pub const ZERO: Self = Self {
        epoch: Epoch(0),
        offset: Offset(0),
    };
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.epoch.fmt(f)?;
        f.write_str("/")?;
        self.offset.fmt(f)
    }
}

/// Why a text is not a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// A replication id is 40 hexadecimal digits.
    #[error("a replication id must be 40 hexadecimal digits")]
    ReplId,
    /// A cursor is `<epoch>/<offset>`.
    #[error("a cursor must be <epoch>/<offset>")]
    Cursor,
}

impl FromStr for Cursor {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (epoch, offset) = text.split_once('/').ok_or(PositionError::Cursor)?;
        let number = |t: &str| t.parse().map_err(|_| PositionError::Cursor);
        Ok(Self {
            epoch: Epoch(number(epoch)?),
            offset: Offset(number(offset)?),
        })
    }
}

/// The id that a Redis gives to its replication history: 40 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplId([u8; 40]);

impl ReplId {
    /// The id as the text that PSYNC takes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?")
    }
}

impl FromStr for ReplId {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let bytes: [u8; 40] = text
            .as_bytes()
            .try_into()
            .map_err(|_| PositionError::ReplId)?;
        if bytes.iter().all(u8::is_ascii_hexdigit) {
            Ok(Self(bytes))
        } else {
            Err(PositionError::ReplId)
        }
    }
}

impl fmt::Display for ReplId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in a replication stream, as a replica must know it to go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The history.
    pub replid: ReplId,
    /// Everything up to this byte has been processed. Always the end of a command or of a
    /// transaction: from the middle of one, its mark would not be seen.
    pub offset: Offset,
    /// The database selected at that place: a partial resync does not send SELECT again.
    pub db: u32,
}

impl Position {
    /// The arguments of PSYNC that ask for what comes after this position.
    #[must_use]
    pub fn psync_args(&self) -> (String, String) {
        (
            self.replid.to_string(),
            self.offset.0.saturating_add(1).to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psync_asks_for_the_next_byte() {
        let replid = "0123456789abcdef0123456789ABCDEF01234567".parse().unwrap();
        let position = Position {
            replid,
            offset: Offset(41),
            db: 3,
        };
        let (id, next) = position.psync_args();
        assert_eq!(id, "0123456789abcdef0123456789ABCDEF01234567");
        assert_eq!(next, "42");
    }

    #[test]
    fn texts_are_checked() {
        assert!("abc".parse::<ReplId>().is_err());
        assert!(
            "g123456789abcdef0123456789abcdef01234567"
                .parse::<ReplId>()
                .is_err()
        );
        let cursor = Cursor {
            epoch: Epoch(7),
            offset: Offset(99),
        };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        for bad in [
            "",
            "7",
            "7/",
            "/9",
            "7/9/1",
            "7/-1",
            "7/18446744073709551616",
        ] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_later_epoch_is_later_whatever_the_offset() {
        let old = Cursor {
            epoch: Epoch(1),
            offset: Offset(1000),
        };
        let new = Cursor {
            epoch: Epoch(2),
            offset: Offset(1),
        };
        assert!(new > old);
    }
}

//! What a target can do, what a piece may take, and what a target could not be given.

use std::fmt;

/// What a server knows of what values need, beyond what all since 5.0 know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// The latest instant at which a field of a hash may expire (`HPEXPIREAT`), in milliseconds
    /// since 1970; none where fields do not expire.
    pub field_expiry_until_ms: Option<u64>,
    /// `XGROUP CREATECONSUMER`.
    pub create_consumer: bool,
    /// What a stream counts: `XSETID` with `ENTRIESADDED` and `MAXDELETEDID`, `XGROUP CREATE` with
    /// `ENTRIESREAD`.
    pub stream_counters: bool,
    /// For how long and of how many entries producers are remembered: `XCFGSET`.
    pub stream_producers: bool,
}

/// The latest expiry of a field that Redis takes: 46 bits, measured on 8.0 and 8.6.
const REDIS_FIELD_EXPIRY_MAX: u64 = (1 << 46) - 1;
/// The latest expiry of a field that Valkey takes, measured on 9.1.
const VALKEY_FIELD_EXPIRY_MAX: u64 = i64::MAX.cast_unsigned();

impl Abilities {
    /// What Redis of a version can do, and what is compatible with it but Valkey.
    #[must_use]
    pub fn of_redis(major: u32, minor: u32) -> Self {
        let since = |first| (major, minor) >= first;
        Self {
            field_expiry_until_ms: since((7, 4)).then_some(REDIS_FIELD_EXPIRY_MAX),
            create_consumer: since((6, 2)),
            stream_counters: since((7, 0)),
            stream_producers: since((8, 6)),
        }
    }

    /// What Valkey can do, by its own version and not by the Redis that it says it is.
    #[must_use]
    pub fn of_valkey(major: u32, minor: u32) -> Self {
        Self {
            field_expiry_until_ms: ((major, minor) >= (9, 0)).then_some(VALKEY_FIELD_EXPIRY_MAX),
            ..Self::of_redis(7, 2)
        }
    }
}

/// How large a piece may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A piece ends with the element with which it reaches so many bytes. It is larger by no more
    /// than that element, which no command can divide; a string is divided, and never exceeds it
    /// (but for a key that long: a part of a string is at least [`PART_MIN`]).
    pub bytes: usize,
    /// A piece has no more commands than so many, and no fewer than two of them are granted.
    pub commands: usize,
}

/// The shortest part that a string is divided into, so that a small limit costs no end of commands.
pub const PART_MIN: usize = 1024;

/// What a target could not be given; all zero and false when it got everything.
///
/// Not counted, because no server can be told: when consumers were last seen and active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Fields that should expire and stay until they are deleted.
    pub field_expiries: u64,
    /// Entries pending under the id 0-0, which no entry can have; they are pending no more.
    pub pending: u64,
    /// Entries pending that their consumers had given back; a consumer has them again.
    pub given_back: u64,
    /// Tokens of producers; an entry that is added with one of them again is added twice.
    pub tokens: u64,
    /// Whether modules kept metadata with the key.
    pub key_metadata: bool,
}

impl Losses {
    /// Whether the target got everything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another part of the value lost.
    pub const fn add(&mut self, more: &Self) {
        self.field_expiries = self.field_expiries.saturating_add(more.field_expiries);
        self.pending = self.pending.saturating_add(more.pending);
        self.given_back = self.given_back.saturating_add(more.given_back);
        self.tokens = self.tokens.saturating_add(more.tokens);
        self.key_metadata |= more.key_metadata;
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.field_expiries, "fields that will not expire"),
            (self.pending, "pending entries with the id 0-0"),
            (
                self.given_back,
                "pending entries given back, now of a consumer",
            ),
            (self.tokens, "tokens of producers"),
            (self.key_metadata.into(), "metadata of modules"),
        ];
        let mut before = "";
        for (count, what) in counts {
            if count > 0 {
                write!(f, "{before}{count} {what}")?;
                before = ", ";
            }
        }
        Ok(())
    }
}

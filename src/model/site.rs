//! Names of sites and of the sidecars that serve them.

use std::fmt;
use std::sync::Arc;

/// The longest name of a site, in bytes. It is part of every mark and of metric labels.
const MAX_SITE_NAME: usize = 64;

/// The name of a site: one Redis and its sidecar.
///
/// Lower-case letters, digits, `-`, `_` and `.`, so that a name can stand in a key, in a metric
/// label and in a file name without quoting. The order of names breaks ties, so it must be the
/// same everywhere: it is the order of the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(Arc<str>);

/// Why a text is not the name of a site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a site name: use 1 to {MAX_SITE_NAME} of a-z, 0-9, '-', '_' and '.', \
     beginning with a letter or a digit"
)]
pub struct SiteError {
    name: String,
}

impl SiteId {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// The name is empty, too long, or has a character that is not allowed.
    pub fn try_new(name: &str) -> Result<Self, SiteError> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let first = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if !first || name.len() > MAX_SITE_NAME || !name.bytes().all(allowed) {
            let name = name.chars().take(MAX_SITE_NAME).collect();
            return Err(SiteError { name });
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of one sidecar process. A mark with another instance than ours, written after we
/// started, means that a second sidecar serves this site.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u64);

impl InstanceId {
    /// A new instance, drawn at random.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The instance of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number of this instance.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "hangzhou", "eu-west-1.b", "9_x"] {
            assert_eq!(SiteId::try_new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a b", "a:b", "a/b", &"x".repeat(65)] {
            assert!(SiteId::try_new(bad).is_err(), "{bad:?}");
        }
    }
}

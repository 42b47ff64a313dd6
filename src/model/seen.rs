//! What a site had seen of the others.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::encoding::{RecordError, put_bytes, put_varint, take_site, take_varint};
use super::position::{Cursor, Epoch, Offset};
use super::site::SiteId;

/// The most sites that a `seen` may name; bounds what a peer can make us keep.
const MAX_SITES: usize = 64;

/// Per site, the highest place in its history that had been echoed at some moment. In the order of the
/// names. (A few, of which one is asked for with each record: the shortest way is from one to the next.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<(SiteId, Cursor)>);

impl Seen {
    /// What was seen of a site; before everything when nothing was.
    #[must_use]
    pub fn of(&self, site: &SiteId) -> Cursor {
        let found = self.0.iter().find(|(of, _)| of == site);
        found.map_or(Cursor::ZERO, |(_, at)| *at)
    }

    /// Raises what was seen of a site; never lowers it.
    pub fn advance(&mut self, site: &SiteId, to: Cursor) {
        match self.0.binary_search_by(|(of, _)| of.cmp(site)) {
            Ok(place) => {
                if let Some((_, at)) = self.0.get_mut(place) {
                    *at = (*at).max(to);
                }
            }
            Err(place) => self.0.insert(place, (site.clone(), to)),
        }
    }

    /// Whether everything that another has seen was seen.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(site, at)| self.of(site) >= *at)
    }

    /// What both have seen.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let both = self
            .iter()
            .map(|(site, at)| (site, other.of(site).min(*at)));
        let known = both.filter(|(_, at)| *at > Cursor::ZERO);
        Self(known.map(|(site, at)| (site.clone(), at)).collect())
    }

    /// The sites and places, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&SiteId, &Cursor)> {
        self.0.iter().map(|(site, at)| (site, at))
    }

    /// Appends the binary form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.0.len() as u64);
        for (site, at) in &self.0 {
            put_bytes(out, site.as_str().as_bytes());
            put_varint(out, at.epoch.0);
            put_varint(out, at.offset.0);
        }
    }

    /// Takes the binary form from the front of `input`.
    ///
    /// # Errors
    /// The input is cut short or names too many or malformed sites.
    pub fn decode(input: &mut Bytes) -> Result<Self, RecordError> {
        let count = take_varint(input)?;
        if count > MAX_SITES as u64 {
            return Err(RecordError::Malformed("too many sites"));
        }
        let mut seen = Self::default();
        for _ in 0..count {
            let site = take_site(input)?;
            let epoch = Epoch(take_varint(input)?);
            let offset = Offset(take_varint(input)?);
            seen.advance(&site, Cursor { epoch, offset });
        }
        Ok(seen)
    }
}

impl FromIterator<(SiteId, Cursor)> for Seen {
    fn from_iter<T: IntoIterator<Item = (SiteId, Cursor)>>(sites: T) -> Self {
        Self(sites.into_iter().collect())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (site, at)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{site}:{at}")?;
        }
        Ok(())
    }
}

impl FromStr for Seen {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut seen = Self::default();
        for word in text.split(',').filter(|w| !w.is_empty()) {
            let (site, at) = word.split_once(':').ok_or(())?;
            let site = SiteId::try_new(site).map_err(|_| ())?;
            seen.advance(&site, at.parse().map_err(|_| ())?);
        }
        Ok(seen)
    }
}

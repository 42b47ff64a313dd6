//! What each side says of itself before anything else.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::message::MessageError;
use crate::config::{Existing, Initial};
use crate::model::{Cursor, Epoch, Mark, Seen, SiteId};

/// A site and its sidecar, as the peer must know them to decide how to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The site that speaks.
    pub site: String,
    /// The site that it means to speak to.
    pub peer: String,
    /// All sites that it knows, itself among them, by name.
    pub sites: Vec<String>,
    /// The life of its sidecar.
    pub instance: u64,
    /// The version of its sidecar.
    pub version: String,
    /// What its Redis is.
    pub redis: String,
    /// The replication id of its Redis.
    pub replid: String,
    /// The epoch of its history.
    pub epoch: u64,
    /// See [`crate::progress::EpochState::base`].
    pub base: u64,
    /// See [`crate::progress::EpochState::older`].
    pub older: u64,
    /// From where its journal can send, as `<epoch>/<offset>`.
    pub first: String,
    /// Up to where its journal knows its history.
    pub end: String,
    /// Where the last record in it ends.
    pub last_record: String,
    /// From where all that its data ever held can be sent as records: its Redis was empty when its
    /// history began.
    pub from_scratch: Option<String>,
    /// The place of a snapshot from which it could make a copy for the peer.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// What it has of the peer: the text of its mark.
    pub mark: Option<String>,
    /// What of third sites has come back there.
    pub seen: String,
    /// Up to where it has judged the peer's records; those behind it are sent to it once more.
    pub judged: String,
    /// Drawn at random for this connection: what is said behind the two hellos is numbered from both, so
    /// nobody can say again what was said on another.
    pub nonce: u64,
    /// Whether all that it sends behind this is compressed.
    pub packs: bool,
    /// The sites that may give back what its Redis has lost: before one of them has, it makes no copy for the one
    /// that it speaks to. (A sidecar that does not know this says nothing of it.)
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// `[sync] initial`.
    pub initial: Initial,
    /// `[sync] existing`.
    pub existing: Existing,
    /// `[sync] databases` and `keys`, as text; must be equal.
    pub selection: String,
}

impl Hello {
    /// The payload.
    #[must_use]
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads and checks the payload.
    pub(super) fn decode(payload: &Bytes) -> Result<Self, MessageError> {
        let hello: Self =
            serde_json::from_slice(payload).map_err(|e| MessageError::Hello(e.to_string()))?;
        hello
            .check()
            .map_err(|what| MessageError::Hello(what.to_owned()))?;
        Ok(hello)
    }

    fn check(&self) -> Result<(), &'static str> {
        SiteId::try_new(&self.site).map_err(|_| "site")?;
        SiteId::try_new(&self.peer).map_err(|_| "peer")?;
        self.first.parse::<Cursor>().map_err(|_| "first")?;
        self.end.parse::<Cursor>().map_err(|_| "end")?;
        self.last_record
            .parse::<Cursor>()
            .map_err(|_| "last_record")?;
        self.judged.parse::<Cursor>().map_err(|_| "judged")?;
        self.seen.parse::<Seen>().map_err(|()| "seen")?;
        let place = |text: &Option<String>| text.as_deref().map(str::parse::<Cursor>).transpose();
        place(&self.from_scratch).map_err(|_| "from_scratch")?;
        place(&self.snapshot).map_err(|_| "snapshot")?;
        self.mark
            .as_deref()
            .map(|m| Mark::parse(m.as_bytes()))
            .transpose()
            .map_err(|_| "mark")?;
        Ok(())
    }

    /// What it has of the peer.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        Mark::parse(self.mark.as_deref()?.as_bytes()).ok()
    }

    /// Where its journal ends.
    #[must_use]
    pub fn end(&self) -> Cursor {
        self.end.parse().unwrap_or(Cursor::ZERO)
    }

    /// Where the last record in its journal ends.
    #[must_use]
    pub fn last_record(&self) -> Cursor {
        self.last_record.parse().unwrap_or(Cursor::ZERO)
    }

    /// [`Self::judged`] as a place.
    #[must_use]
    pub fn judged(&self) -> Cursor {
        self.judged.parse().unwrap_or(Cursor::ZERO)
    }

    /// Whether its present history is the one in which it has met the other site.
    #[must_use]
    pub fn has_just_met(&self) -> bool {
        self.mark()
            .is_some_and(|mark| mark.home == Epoch(self.epoch))
    }

    /// [`Self::first`] as a place; before everything if it is none.
    #[must_use]
    pub fn first(&self) -> Cursor {
        self.first.parse().unwrap_or(Cursor::ZERO)
    }

    /// [`Self::seen`] as places.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.parse().unwrap_or_default()
    }

    /// From where all of its data can be sent as records.
    #[must_use]
    pub fn from_scratch(&self) -> Option<Cursor> {
        self.from_scratch.as_deref()?.parse().ok()
    }

    /// The place of a snapshot from which it could make a copy.
    #[must_use]
    pub fn snapshot(&self) -> Option<Cursor> {
        let at = self.snapshot.as_deref()?.parse().ok()?;
        self.can_send_after(at).then_some(at)
    }

    /// Whether its journal can send what comes after a place.
    #[must_use]
    pub fn can_send_after(&self, at: Cursor) -> bool {
        self.first.parse::<Cursor>().is_ok_and(|first| first <= at) && at <= self.end()
    }

    /// [`Hello::base`] as an epoch.
    #[must_use]
    pub const fn base(&self) -> Epoch {
        Epoch(self.base)
    }

    /// [`Hello::older`] as an epoch.
    #[must_use]
    pub const fn older(&self) -> Epoch {
        Epoch(self.older)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::link) fn hello(site: &str) -> Hello {
        Hello {
            site: site.to_owned(),
            peer: "x".to_owned(),
            sites: vec!["x".to_owned(), "y".to_owned()],
            instance: 1,
            version: "0".to_owned(),
            redis: "Redis 7.0.15".to_owned(),
            replid: site.to_owned(),
            epoch: 100,
            base: 100,
            older: 0,
            first: "100/1".to_owned(),
            end: "100/500".to_owned(),
            last_record: "100/500".to_owned(),
            from_scratch: None,
            snapshot: None,
            mark: None,
            seen: String::new(),
            judged: "0/0".to_owned(),
            nonce: 7,
            packs: false,
            waits_for: Vec::new(),
            initial: Initial::Auto,
            existing: Existing::Refuse,
            selection: "all".to_owned(),
        }
    }

    #[test]
    fn who_does_not_say_that_it_waits_does_not() {
        let waits = Hello {
            waits_for: vec!["b".to_owned()],
            ..hello("a")
        };
        let said = waits.encode();
        assert_eq!(Hello::decode(&said.clone().into()).unwrap(), waits);
        let said = String::from_utf8(said).unwrap();
        let before = said.replace(r#""waits_for":["b"],"#, "");
        assert_eq!(Hello::decode(&before.into()).unwrap(), hello("a"));
    }

    #[test]
    fn nonsense_is_refused() {
        let good = hello("a");
        assert_eq!(Hello::decode(&good.encode().into()).unwrap(), good);
        for bad in [
            Hello {
                site: "A B".to_owned(),
                ..good.clone()
            },
            Hello {
                end: "x".to_owned(),
                ..good.clone()
            },
            Hello {
                mark: Some("x".to_owned()),
                ..good
            },
        ] {
            assert!(Hello::decode(&bad.encode().into()).is_err());
        }
        assert!(Hello::decode(&Bytes::from_static(b"{}")).is_err());
    }
}

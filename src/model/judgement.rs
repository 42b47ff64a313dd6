//! What was found out about conflicts, as the journal keeps it.

use bytes::Bytes;

use super::encoding::{narrow, put_bytes, put_varint, take_bytes, take_site, take_varint};
use super::{Cursor, Epoch, Key, Offset, RecordError, SiteId};

const KIND_JUDGED: u8 = 4;
const KIND_WISHED: u8 = 5;
const KIND_PAID: u8 = 6;
const KIND_TORN: u8 = 8;
const KIND_MERGING: u8 = 9;
const KIND_STALE: u8 = 10;
const KIND_TOLD: u8 = 11;
const KINDS: [u8; 7] = [
    KIND_JUDGED,
    KIND_WISHED,
    KIND_PAID,
    KIND_TORN,
    KIND_MERGING,
    KIND_STALE,
    KIND_TOLD,
];

/// What is found out about the conflicts with an origin, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Its records are judged up to here.
    Judged(SiteId, Cursor),
    /// The value of a key here is wrong: its state there is wished for.
    Wished(SiteId, Key),
    /// That state has come.
    Paid(SiteId, Key),
    /// Writes of whole databases met that do not commute: the two sites are to be merged.
    Torn(SiteId),
    /// The mark says that a copy from it is needed.
    Merging(SiteId),
    /// What it was sent of a key was wrong here, and it must hear that the right value has come.
    Stale(SiteId, Key),
    /// It has heard it.
    Told(SiteId, Key),
}

impl Judgement {
    /// Its kind among the entries of a frame, and its bytes.
    pub(super) fn encode(&self) -> (u8, Vec<u8>) {
        let mut entry = Vec::with_capacity(64);
        let (kind, origin) = match self {
            Self::Judged(origin, _) => (KIND_JUDGED, origin),
            Self::Wished(origin, _) => (KIND_WISHED, origin),
            Self::Paid(origin, _) => (KIND_PAID, origin),
            Self::Torn(origin) => (KIND_TORN, origin),
            Self::Merging(origin) => (KIND_MERGING, origin),
            Self::Stale(origin, _) => (KIND_STALE, origin),
            Self::Told(origin, _) => (KIND_TOLD, origin),
        };
        put_bytes(&mut entry, origin.as_str().as_bytes());
        match self {
            Self::Judged(_, at) => {
                put_varint(&mut entry, at.epoch.0);
                put_varint(&mut entry, at.offset.0);
            }
            Self::Wished(_, (db, key))
            | Self::Paid(_, (db, key))
            | Self::Stale(_, (db, key))
            | Self::Told(_, (db, key)) => {
                put_varint(&mut entry, u64::from(*db));
                put_bytes(&mut entry, key);
            }
            Self::Torn(_) | Self::Merging(_) => {}
        }
        (kind, entry)
    }

    /// Reads one; none of another kind.
    pub(super) fn take(kind: u8, body: &mut Bytes) -> Result<Option<Self>, RecordError> {
        if !KINDS.contains(&kind) {
            return Ok(None);
        }
        let origin = take_site(body)?;
        let key = |body: &mut Bytes| Ok((narrow(take_varint(body)?)?, take_bytes(body)?));
        Ok(Some(match kind {
            KIND_JUDGED => {
                let epoch = Epoch(take_varint(body)?);
                let offset = Offset(take_varint(body)?);
                Self::Judged(origin, Cursor { epoch, offset })
            }
            KIND_WISHED => Self::Wished(origin, key(body)?),
            KIND_PAID => Self::Paid(origin, key(body)?),
            KIND_TORN => Self::Torn(origin),
            KIND_STALE => Self::Stale(origin, key(body)?),
            KIND_TOLD => Self::Told(origin, key(body)?),
            _ => Self::Merging(origin),
        }))
    }
}

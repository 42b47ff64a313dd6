//! The words that every part uses: sites, positions, clocks, records, marks.
//!
//! Imports nothing of this crate, does no I/O.

mod conflict;
mod encoding;
mod hlc;
mod judgement;
mod mark;
mod need;
mod pattern;
mod position;
mod reader;
mod record;
mod seen;
mod site;

pub use self::conflict::{Conflict, ConflictKind, ShownKeys, Winner};
pub use self::encoding::RecordError;
pub use self::hlc::{Clock, Hlc, MAX_DRIFT};
pub use self::judgement::Judgement;
pub use self::mark::{
    CopyProgress, FENCE_PREFIX, GONE_KEY, Lacking, MARK_PREFIX, Mark, MarkError, OWED_PREFIX, Owes,
    RESERVED_PREFIX, SELF_KEY, SelfMark, fence_key, is_reserved, mark_key, owed_key, part_key,
};
pub use self::need::Need;
pub use self::pattern::{Pattern, PatternError};
pub use self::position::{Cursor, Epoch, Offset, Position, PositionError, ReplId};
pub use self::reader::BatchReader;
pub use self::record::{Entry, FrameBuilder, MAX_FRAME, Record, RecordRef, TARGET_FRAME, Tags};
pub use self::seen::Seen;
pub use self::site::{InstanceId, SiteError, SiteId};

/// A key: its database and its name.
pub type Key = (u32, bytes::Bytes);

pub(crate) use self::encoding::{
    put_bytes, put_varint, take_bytes, take_site, take_u8, take_varint,
};

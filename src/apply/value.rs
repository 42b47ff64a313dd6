//! In which form a state is written into the local Redis.
//!
//! A value that the server knows is RESTOREd as it came. One that is newer than the server is
//! rebuilt with commands. What neither can do is left out and counted: everything else still flows.

use super::sealed::Sealed;
use super::target::Writing;
use crate::link::{State, Value};
use crate::rdb::commands::{Abilities, Limits, Piece, Rebuild};
use crate::rdb::decode::has_disputed_entry;
use crate::rdb::{Fit, fit, is_of_module};
use crate::redis::Info;

/// How large the commands are with which a value is rebuilt.
pub(super) const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    commands: 1024,
};

/// How long before its moment a key is said to expire in so many milliseconds, not at that moment: longer than
/// it takes until the server has executed what is sent to it.
const SOON_MS: u64 = 1000;

/// How a state is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// It is not there.
    Delete,
    /// `FUNCTION LOAD`.
    Function,
    /// `RESTORE`, with this payload if not with its own.
    Restore(Option<bytes::Bytes>),
    /// Rebuilt with commands; with what the server cannot hold of it.
    Rebuild(Vec<Piece>, String),
    /// Renamed from where its parts were put together; with what the server cannot hold of it.
    Rename(String),
    /// The server has nothing to hold it.
    Unheld(String),
}

impl Form {
    /// The form of a state for this server.
    pub(super) fn of(state: &State, writing: &Writing, disputes: bool) -> Self {
        match &state.value {
            Value::Function(_) if writing.info.version.at_least(7, 0) => Self::Function,
            Value::Function(_) => Self::Unheld("functions are known since 7.0".to_owned()),
            Value::Dump(payload) if disputes && has_disputed_entry(payload).unwrap_or(true) => {
                rebuilt(&state.key, payload, &writing.info).unwrap_or_else(Self::Unheld)
            }
            Value::Dump(payload) => Self::of_payload(&state.key, payload, &writing.info),
            Value::Part(..) | Value::Absent | Value::Unsaid => Self::Delete,
        }
    }

    fn of_payload(key: &[u8], payload: &[u8], info: &Info) -> Self {
        // Redis 5.0 and 6.0 exit when they get a module's value that they do not know.
        if is_of_module(payload) && !info.version.at_least(6, 2) {
            return Self::Unheld("a value of a module".to_owned());
        }
        let own = info.rdb_version();
        match fit(payload, |version| Info::takes_rdb(own, version)) {
            Fit::AsItIs => Self::Restore(None),
            Fit::Stamped(stamped) => Self::Restore(Some(stamped)),
            Fit::Not => rebuilt(key, payload, info).unwrap_or_else(Self::Unheld),
        }
    }

    /// Whether nothing can be written.
    pub(super) const fn is_unheld(&self) -> bool {
        matches!(self, Self::Unheld(_))
    }

    /// Writes it into a transaction, at `now_ms` by the server's clock.
    ///
    /// `parts` is the key under which large values are put together.
    pub(super) fn put(&self, sealed: &mut Sealed, state: &State, parts: &str, now_ms: u64) {
        if let (Self::Function, Value::Function(source)) = (self, &state.value) {
            return sealed.command(&[b"FUNCTION", b"LOAD", b"REPLACE", source]);
        }
        sealed.select(state.db);
        match (self, &state.value) {
            (Self::Restore(stamped), Value::Dump(own)) => {
                let payload = stamped.as_ref().unwrap_or(own);
                put_restore(sealed, state, payload, true, now_ms);
            }
            (Self::Rebuild(pieces, _), _) => {
                sealed.command(&[b"DEL", &state.key]);
                for piece in pieces {
                    sealed.raw(&piece.bytes, piece.commands);
                }
                put_expiry(sealed, state, now_ms);
            }
            (Self::Rename(_), _) => {
                sealed.command(&[b"RENAME", parts.as_bytes(), &state.key]);
                put_expiry(sealed, state, now_ms);
            }
            (Self::Delete, _) => sealed.command(&[b"DEL", &state.key]),
            _ => {}
        }
    }
}

/// When a key is to expire.
enum Expiry {
    Never,
    At(u64),
    /// In so many milliseconds.
    In(u64),
}

impl Expiry {
    /// Of a state that may have expired on its way, or does before it is written: a server makes no key whose
    /// moment has passed, and says nothing of it. But the peer may have prolonged its life in time, and that
    /// comes behind it. So the key is made all the same, and this server has it expire, and says so in its
    /// stream: then what the peer has done to it is seen to have met that.
    const fn of(state: &State, now_ms: u64) -> Self {
        match state.expire_at_ms {
            0 => Self::Never,
            at if at > now_ms + SOON_MS => Self::At(at),
            at if at > now_ms => Self::In(at - now_ms),
            _ => Self::In(1),
        }
    }
}

/// Writes a state as this payload; without `replaces`, only where there is no such key.
pub(super) fn put_restore(
    sealed: &mut Sealed,
    state: &State,
    payload: &[u8],
    replaces: bool,
    now_ms: u64,
) {
    let (ttl, is_absolute) = match Expiry::of(state, now_ms) {
        Expiry::Never => (0, false),
        Expiry::At(at) => (at, true),
        Expiry::In(left) => (left, false),
    };
    let ttl = ttl.to_string();
    let mut args: Vec<&[u8]> = vec![b"RESTORE", &state.key, ttl.as_bytes(), payload];
    if replaces {
        args.push(b"REPLACE");
    }
    if is_absolute {
        args.push(b"ABSTTL");
    }
    sealed.command(&args);
}

fn put_expiry(sealed: &mut Sealed, state: &State, now_ms: u64) {
    let (command, time): (&[u8], u64) = match Expiry::of(state, now_ms) {
        Expiry::Never => return,
        Expiry::At(at) => (b"PEXPIREAT", at),
        Expiry::In(left) => (b"PEXPIRE", left),
    };
    sealed.command(&[command, &state.key, time.to_string().as_bytes()]);
}

/// What a server can do with which a value is rebuilt.
pub(super) fn abilities(info: &Info) -> Abilities {
    match info.valkey() {
        Some(own) => Abilities::of_valkey(own.major, own.minor),
        None => Abilities::of_redis(info.version.major, info.version.minor),
    }
}

/// The commands that rebuild a value, or why there are none.
fn rebuilt(key: &[u8], payload: &[u8], info: &Info) -> Result<Form, String> {
    let mut rebuild =
        Rebuild::try_new(payload, key, abilities(info), LIMITS).map_err(|e| e.to_string())?;
    let pieces = rebuild.by_ref().collect::<Result<Vec<_>, _>>();
    let pieces = pieces.map_err(|e| e.to_string())?;
    Ok(Form::Rebuild(pieces, rebuild.losses().to_string()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::link::Standing;

    #[test]
    fn what_has_expired_on_its_way_expires_here() {
        let state = |expire_at_ms| State {
            db: 0,
            key: Bytes::from_static(b"k"),
            expire_at_ms,
            value: Value::Absent,
            standing: Standing::Unknown,
        };
        let now = 10_000;
        for (moment, restored, rebuilt) in [
            (0, "RESTORE k 0 v", ""),
            (99_000, "RESTORE k 99000 v ABSTTL", "PEXPIREAT k 99000"),
            (10_500, "RESTORE k 500 v", "PEXPIRE k 500"),
            (10_000, "RESTORE k 1 v", "PEXPIRE k 1"),
            (1, "RESTORE k 1 v", "PEXPIRE k 1"),
        ] {
            let mut sealed = [Sealed::default(), Sealed::default()];
            put_restore(&mut sealed[0], &state(moment), b"v", false, now);
            put_expiry(&mut sealed[1], &state(moment), now);
            let words = |sealed: &Sealed| {
                let text = String::from_utf8_lossy(&sealed.bytes).into_owned();
                let words = text.split("\r\n").skip(2).step_by(2);
                words.collect::<Vec<_>>().join(" ")
            };
            assert_eq!(words(&sealed[0]), restored);
            assert_eq!(words(&sealed[1]), rebuilt);
        }
    }
}

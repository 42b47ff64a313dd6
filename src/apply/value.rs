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
    pub(super) fn of(state: &State, writing: &Writing, disputes: bool, now_ms: u64) -> Self {
        let expired = state.is_expired(now_ms);
        match &state.value {
            Value::Function(_) if writing.info.version.at_least(7, 0) => Self::Function,
            Value::Function(_) => Self::Unheld("functions are known since 7.0".to_owned()),
            Value::Dump(payload)
                if !expired && disputes && has_disputed_entry(payload).unwrap_or(true) =>
            {
                rebuilt(&state.key, payload, &writing.info).unwrap_or_else(Self::Unheld)
            }
            Value::Dump(payload) if !expired => {
                Self::of_payload(&state.key, payload, &writing.info)
            }
            Value::Dump(_) | Value::Part(..) | Value::Absent | Value::Unsaid => Self::Delete,
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

    /// Writes it into a transaction.
    ///
    /// `parts` is the key under which large values are put together.
    pub(super) fn put(&self, sealed: &mut Sealed, state: &State, parts: &str) {
        if let (Self::Function, Value::Function(source)) = (self, &state.value) {
            return sealed.command(&[b"FUNCTION", b"LOAD", b"REPLACE", source]);
        }
        sealed.select(state.db);
        match (self, &state.value) {
            (Self::Restore(stamped), Value::Dump(own)) => {
                put_restore(sealed, state, stamped.as_ref().unwrap_or(own), true);
            }
            (Self::Rebuild(pieces, _), _) => {
                sealed.command(&[b"DEL", &state.key]);
                for piece in pieces {
                    sealed.raw(&piece.bytes, piece.commands);
                }
                put_expiry(sealed, state);
            }
            (Self::Rename(_), _) => {
                sealed.command(&[b"RENAME", parts.as_bytes(), &state.key]);
                put_expiry(sealed, state);
            }
            (Self::Delete, _) => sealed.command(&[b"DEL", &state.key]),
            _ => {}
        }
    }
}

/// Writes a state as this payload; without `replaces`, only where there is no such key.
pub(super) fn put_restore(sealed: &mut Sealed, state: &State, payload: &[u8], replaces: bool) {
    let ttl = state.expire_at_ms.to_string();
    let mut args: Vec<&[u8]> = vec![b"RESTORE", &state.key, ttl.as_bytes(), payload];
    if replaces {
        args.push(b"REPLACE");
    }
    if state.expire_at_ms != 0 {
        args.push(b"ABSTTL");
    }
    sealed.command(&args);
}

fn put_expiry(sealed: &mut Sealed, state: &State) {
    if state.expire_at_ms != 0 {
        let at = state.expire_at_ms.to_string();
        sealed.command(&[b"PEXPIREAT", &state.key, at.as_bytes()]);
    }
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

//! What a primary says while a replica attaches: pure parsing, no I/O.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::model::{Offset, ReplId};

/// The answer to PSYNC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsyncReply {
    /// `+CONTINUE [<replid>]`: the stream goes on where we asked; the history may have a new id.
    Continue(Option<ReplId>),
    /// `+FULLRESYNC <replid> <offset>`: a snapshot at that offset follows, then the stream.
    FullResync(ReplId, Offset),
}

/// How a snapshot is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RdbForm {
    /// `$<length>`: that many bytes.
    Length(u64),
    /// `$EOF:<40 bytes>`: until those 40 bytes come again. The stream begins only after an ACK.
    Mark([u8; 40]),
}

/// Why a line is not what the protocol allows here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The server says no; the message is its own.
    #[error("{0}")]
    Refused(String),
    /// The line is none of the protocol.
    #[error("unexpected answer {0:?}")]
    Unexpected(String),
}

fn unexpected(line: &[u8]) -> HandshakeError {
    let text = String::from_utf8_lossy(line).chars().take(80).collect();
    HandshakeError::Unexpected(text)
}

fn text(line: &[u8]) -> Result<&str, HandshakeError> {
    std::str::from_utf8(line).map_err(|_| unexpected(line))
}

/// Reads the answer to PSYNC (a line without its end).
///
/// # Errors
/// The server refused, or the line is no answer to PSYNC.
pub(super) fn psync_reply(line: &[u8]) -> Result<PsyncReply, HandshakeError> {
    let words: Vec<&str> = text(line)?.split(' ').collect();
    match words.as_slice() {
        ["+CONTINUE"] => Ok(PsyncReply::Continue(None)),
        ["+CONTINUE", id] => id
            .parse()
            .map(|id| PsyncReply::Continue(Some(id)))
            .map_err(|_| unexpected(line)),
        ["+FULLRESYNC", id, offset] => {
            let id = id.parse().map_err(|_| unexpected(line))?;
            let offset = offset.parse().map_err(|_| unexpected(line))?;
            Ok(PsyncReply::FullResync(id, Offset(offset)))
        }
        [first, ..] if first.starts_with('-') => {
            let message = text(line)?.strip_prefix('-').unwrap_or_default();
            Err(HandshakeError::Refused(message.to_owned()))
        }
        _ => Err(unexpected(line)),
    }
}

/// Reads the line that begins a snapshot (without its end).
///
/// # Errors
/// The server refused, or the line begins no snapshot.
pub(super) fn rdb_form(line: &[u8]) -> Result<RdbForm, HandshakeError> {
    if let Some(message) = line.strip_prefix(b"-") {
        return Err(HandshakeError::Refused(
            String::from_utf8_lossy(message).into_owned(),
        ));
    }
    if let Some(mark) = line.strip_prefix(b"$EOF:") {
        return mark
            .try_into()
            .map(RdbForm::Mark)
            .map_err(|_| unexpected(line));
    }
    let length = text(line)?.strip_prefix('$').and_then(|n| n.parse().ok());
    length.map(RdbForm::Length).ok_or_else(|| unexpected(line))
}

/// Takes a snapshot's bytes as they come and says which of them belong to it.
#[derive(Debug)]
pub struct RdbBody {
    form: RdbForm,
    taken: u64,
    /// With an EOF mark, the last bytes, which may be the beginning of the mark.
    held: Vec<u8>,
}

/// What [`RdbBody::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many bytes of the input were used.
    pub used: usize,
    /// Bytes of the snapshot, in order.
    pub bytes: Vec<u8>,
    /// Whether the snapshot is complete.
    pub complete: bool,
}

impl RdbBody {
    /// A snapshot of this form, of which nothing has come yet.
    #[must_use]
    pub const fn new(form: RdbForm) -> Self {
        Self {
            form,
            taken: 0,
            held: Vec::new(),
        }
    }

    /// Uses the bytes that have come.
    ///
    /// After an EOF mark the server is silent until it gets an ACK, so the mark, when it is there,
    /// is at the end of the input.
    pub fn take(&mut self, input: &[u8]) -> Taken {
        match self.form {
            RdbForm::Length(length) => {
                let left = usize::try_from(length.saturating_sub(self.taken)).unwrap_or(usize::MAX);
                let bytes = input.get(..left).unwrap_or(input).to_vec();
                self.taken = self.taken.saturating_add(bytes.len() as u64);
                Taken {
                    used: bytes.len(),
                    bytes,
                    complete: self.taken == length,
                }
            }
            RdbForm::Mark(mark) => {
                let mut bytes = std::mem::take(&mut self.held);
                bytes.extend_from_slice(input);
                let split = bytes.len().saturating_sub(mark.len());
                self.held = bytes.split_off(split);
                self.taken = self.taken.saturating_add(bytes.len() as u64);
                Taken {
                    used: input.len(),
                    bytes,
                    complete: self.held == mark,
                }
            }
        }
    }

    /// The length of the whole, when the form says it.
    #[must_use]
    pub const fn length(&self) -> Option<u64> {
        match self.form {
            RdbForm::Length(length) => Some(length),
            RdbForm::Mark(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn answers_to_psync() {
        let id: ReplId = ID.parse().unwrap();
        let full = format!("+FULLRESYNC {ID} 88");
        assert_eq!(
            psync_reply(full.as_bytes()),
            Ok(PsyncReply::FullResync(id, Offset(88)))
        );
        assert_eq!(psync_reply(b"+CONTINUE"), Ok(PsyncReply::Continue(None)));
        let renamed = format!("+CONTINUE {ID}");
        assert_eq!(
            psync_reply(renamed.as_bytes()),
            Ok(PsyncReply::Continue(Some(id)))
        );
        let refused = psync_reply(b"-NOMASTERLINK Can't SYNC while not connected with my master");
        assert!(
            matches!(refused, Err(HandshakeError::Refused(m)) if m.starts_with("NOMASTERLINK"))
        );
        for bad in [
            &b""[..],
            b"HTTP/1.1 400",
            b"+FULLRESYNC x 1",
            b"+CONTINUE zz",
            b"\xff",
        ] {
            assert!(psync_reply(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_snapshot_ends_where_it_says_however_it_arrives() {
        let mark = [b'm'; 40];
        let body: Vec<u8> = (0..200_u8).collect();
        for (form, sent) in [
            (RdbForm::Length(200), [&body[..], b"*1\r\n"].concat()),
            (RdbForm::Mark(mark), [&body[..], &mark].concat()),
        ] {
            for step in [1, 7, 39, 40, 41, 300] {
                let (mut rdb, mut got, mut at, mut complete) =
                    (RdbBody::new(form), vec![], 0, false);
                while !complete {
                    let chunk = &sent[at..(at + step).min(sent.len())];
                    let taken = rdb.take(chunk);
                    at += taken.used;
                    got.extend(taken.bytes);
                    complete = taken.complete;
                }
                assert_eq!(got, body, "{form:?} step {step}");
                assert_eq!(
                    &sent[at..],
                    if matches!(form, RdbForm::Mark(_)) {
                        &b""[..]
                    } else {
                        b"*1\r\n"
                    }
                );
            }
        }
    }

    #[test]
    fn snapshot_headers() {
        assert_eq!(rdb_form(b"$123"), Ok(RdbForm::Length(123)));
        let eof = [&b"$EOF:"[..], &[b'a'; 40]].concat();
        assert_eq!(rdb_form(&eof), Ok(RdbForm::Mark([b'a'; 40])));
        for bad in [
            &b"$"[..],
            b"$EOF:abc",
            b"$-1",
            b"+OK",
            b"-ERR BGSAVE failed",
        ] {
            assert!(rdb_form(bad).is_err(), "{bad:?}");
        }
    }
}

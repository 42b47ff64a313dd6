//! Replies of a Redis: finding where one ends, and what it says.
//!
//! [`ReplyScanner`] first finds the end of a reply, resuming where it stopped and refusing deep
//! nesting; only a complete reply of known depth is decoded, once. Checked against
//! `redis-protocol` by the property tests below.

use bytes::{Buf, Bytes, BytesMut};

/// How deeply arrays may be nested. EXEC of commands that answer with arrays of arrays needs four.
const MAX_DEPTH: usize = 8;
/// The longest line that is not a bulk: an error message, a number.
const MAX_LINE: usize = 64 << 10;
/// The largest bulk: Redis's own limit of `proto-max-bulk-len` is 512 MiB by default.
const MAX_BULK: usize = 1 << 30;
/// The most elements of one array.
const MAX_ARRAY: usize = 16 << 20;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK` and its like.
    Status(Bytes),
    /// `-ERR …`, without the dash.
    Error(String),
    /// `:42`.
    Integer(i64),
    /// A string.
    Bulk(Bytes),
    /// A string of so many bytes, more than were asked for
    /// ([`Connection::reply_within`](super::Connection::reply_within)): it was passed over.
    Long(usize),
    /// No string, or no array (EXEC whose WATCH failed).
    Nil,
    /// Several.
    Array(Vec<Self>),
}

impl Reply {
    /// The bytes of a string or status.
    #[must_use]
    pub const fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Status(b) | Self::Bulk(b) => Some(b),
            Self::Error(_) | Self::Integer(_) | Self::Long(_) | Self::Nil | Self::Array(_) => None,
        }
    }

    /// The text of a string or status; malformed UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        self.bytes()
            .map_or_else(String::new, |b| String::from_utf8_lossy(b).into_owned())
    }

    /// The message of an error.
    #[must_use]
    pub const fn error(&self) -> Option<&String> {
        match self {
            Self::Error(message) => Some(message),
            _ => None,
        }
    }

    /// Whether it says that a command of a transaction is to be executed later.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        matches!(self, Self::Status(status) if status == "QUEUED")
    }

    /// The number, if it is one.
    #[must_use]
    pub const fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(n) => Some(*n),
            _ => None,
        }
    }

    /// The elements; none when it is no array.
    #[must_use]
    pub fn array(self) -> Vec<Self> {
        match self {
            Self::Array(items) => items,
            _ => Vec::new(),
        }
    }
}

/// Why bytes are not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed reply: {0}")]
pub struct MalformedReply(pub(super) &'static str);

/// Finds the end of a reply in a buffer that grows, without parsing anything twice.
#[derive(Debug, Default)]
pub struct ReplyScanner {
    at: usize,
    /// Elements still to come, per open array.
    open: Vec<usize>,
}

impl ReplyScanner {
    /// Takes one complete reply from the front of `buffer`, or says that more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no reply, or one beyond the limits; the connection cannot be used further.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Reply>, MalformedReply> {
        if self.at == 0
            && let Some(status) = frequent(buffer)
        {
            // One sign before it, and the end of the line behind.
            buffer.advance(status.len() + 3);
            return Ok(Some(Reply::Status(Bytes::from_static(status))));
        }
        if !self.find_end(buffer)? {
            return Ok(None);
        }
        let mut bytes = buffer.split_to(self.at).freeze();
        self.at = 0;
        decode(&mut bytes).map(Some)
    }

    /// Takes what a server says of a command that it has queued, as often as that comes next, but no
    /// oftener than this. How often it came.
    pub fn take_queued(&self, buffer: &mut BytesMut, most: usize) -> usize {
        if self.at > 0 {
            return 0;
        }
        let lines = buffer.chunks_exact(QUEUED.len()).take(most);
        let count = lines.take_while(|line| *line == QUEUED).count();
        buffer.advance(count * QUEUED.len());
        count
    }

    /// Moves to the end of the reply at the front; false when it is not all there.
    fn find_end(&mut self, buffer: &[u8]) -> Result<bool, MalformedReply> {
        loop {
            let rest = buffer.get(self.at..).unwrap_or_default();
            let Some(line) = line_end(rest) else {
                let long = rest.len() > MAX_LINE;
                return if long {
                    Err(MalformedReply("line too long"))
                } else {
                    Ok(false)
                };
            };
            let (kind, text) = rest
                .get(..line)
                .and_then(<[u8]>::split_first)
                .ok_or(MalformedReply("empty line"))?;
            let mut length = line + 2;
            match kind {
                b'+' | b'-' | b':' => {}
                b'$' => {
                    if let Some(bulk) = count(text, MAX_BULK)? {
                        length += bulk + 2;
                        if rest.len() < length {
                            return Ok(false);
                        }
                    }
                }
                b'*' => {
                    if let Some(elements @ 1..) = count(text, MAX_ARRAY)? {
                        if self.open.len() >= MAX_DEPTH {
                            return Err(MalformedReply("nested too deeply"));
                        }
                        self.at += length;
                        self.open.push(elements);
                        continue;
                    }
                }
                _ => return Err(MalformedReply("unknown type")),
            }
            self.at += length;
            if self.close() {
                return Ok(true);
            }
        }
    }

    /// One element is complete; true when the whole reply is.
    fn close(&mut self) -> bool {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// What is said of a command in a transaction that is to be executed later.
const QUEUED: &[u8] = b"+QUEUED\r\n";
/// What nearly all commands of a transaction are answered with: such replies cost no memory.
const FREQUENT: [&[u8]; 2] = [b"OK", b"QUEUED"];

/// The status at the front of a buffer, if it is all there and one of those.
fn frequent(buffer: &[u8]) -> Option<&'static [u8]> {
    let text = buffer.strip_prefix(b"+")?;
    let is_it = |status: &&[u8]| {
        let end = text.strip_prefix(*status);
        end.is_some_and(|end| end.starts_with(b"\r\n"))
    };
    FREQUENT.into_iter().find(is_it)
}

/// Where the line at the front ends, if it does and is not too long.
fn line_end(rest: &[u8]) -> Option<usize> {
    let mut ends = rest.iter().take(MAX_LINE + 1).enumerate().skip(1);
    let is_end = |at: usize| rest.get(at - 1..=at) == Some(b"\r\n");
    let (at, _) = ends.find(|(at, byte)| **byte == b'\n' && is_end(*at))?;
    Some(at - 1)
}

/// A length; none for -1.
fn count(text: &[u8], limit: usize) -> Result<Option<usize>, MalformedReply> {
    if text == b"-1" {
        return Ok(None);
    }
    match number(text) {
        Some(n) if n <= limit => Ok(Some(n)),
        _ => Err(MalformedReply("length")),
    }
}

fn number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Takes a complete reply from the front, of which the end was found before.
fn decode(bytes: &mut Bytes) -> Result<Reply, MalformedReply> {
    if let Some(status) = frequent(bytes) {
        bytes.advance(status.len() + 3);
        return Ok(Reply::Status(Bytes::from_static(status)));
    }
    let end = line_end(bytes).ok_or(MalformedReply("incomplete"))?;
    let mut text = bytes.split_to(end);
    bytes.advance(2);
    let kind = text
        .try_get_u8()
        .map_err(|_| MalformedReply("empty line"))?;
    match kind {
        b'+' => Ok(Reply::Status(text)),
        b'-' => Ok(Reply::Error(String::from_utf8_lossy(&text).into_owned())),
        b':' => number(&text).map_or(Err(MalformedReply("number")), |n| Ok(Reply::Integer(n))),
        b'$' => match count(&text, MAX_BULK)? {
            None => Ok(Reply::Nil),
            Some(length) if bytes.len() >= length + 2 => {
                let bulk = bytes.split_to(length);
                match bytes.split_to(2) == b"\r\n"[..] {
                    true => Ok(Reply::Bulk(bulk)),
                    false => Err(MalformedReply("string without end")),
                }
            }
            Some(_) => Err(MalformedReply("incomplete")),
        },
        b'*' => match count(&text, MAX_ARRAY)? {
            None => Ok(Reply::Nil),
            Some(length) => {
                // No element is shorter than a line of one sign.
                let mut items = Vec::with_capacity(length.min(bytes.len() / 3));
                for _ in 0..length {
                    items.push(decode(bytes)?);
                }
                Ok(Reply::Array(items))
            }
        },
        _ => Err(MalformedReply("unknown type")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis_protocol::resp2::decode::decode_bytes;
    use redis_protocol::resp2::types::BytesFrame;

    use super::*;

    const SAMPLE: &[u8] =
        b"*5\r\n+OK\r\n:-7\r\n$5\r\nhe\r\nl\r\n*2\r\n$-1\r\n*0\r\n-ERR no\r\n+QUEUED\r\n+OK\r\n+NEXT\r\n";

    #[test]
    fn a_reply_is_taken_whole_however_it_arrives() {
        for step in 1..SAMPLE.len() {
            let (mut scanner, mut buffer, mut taken) =
                <(ReplyScanner, BytesMut, Vec<Reply>)>::default();
            for chunk in SAMPLE.chunks(step) {
                buffer.extend_from_slice(chunk);
                while let Some(reply) = scanner.take(&mut buffer).unwrap() {
                    taken.push(reply);
                }
            }
            let status = |text| Reply::Status(Bytes::from_static(text));
            let statuses = [status(b"QUEUED"), status(b"OK"), status(b"NEXT")];
            assert_eq!(taken[1..], statuses, "step {step}");
            let items = taken.remove(0).array();
            assert_eq!(items[0], status(b"OK"));
            assert_eq!(items[1], Reply::Integer(-7));
            assert_eq!(items[2], Reply::Bulk(Bytes::from_static(b"he\r\nl")));
            assert_eq!(
                items[3],
                Reply::Array(vec![Reply::Nil, Reply::Array(vec![])])
            );
            assert_eq!(items[4], Reply::Error("ERR no".to_owned()));
        }
    }

    #[test]
    fn deep_nesting_and_absurd_lengths_are_refused() {
        let take = |bytes: &[u8]| ReplyScanner::default().take(&mut BytesMut::from(bytes));
        assert!(take(&b"*1\r\n".repeat(100_000)).is_err());
        assert!(take(b"$99999999999999\r\n").is_err());
        assert!(take(b"*-2\r\n").is_err());
        assert!(take(&[b'+'; MAX_LINE + 10]).is_err());
        assert!(take(b"?x\r\n").is_err());
    }

    #[test]
    fn what_is_queued_is_counted() {
        let mut buffer =
            BytesMut::from(&b"+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n-OOM no\r\n+QUEUED\r"[..]);
        let mut scanner = ReplyScanner::default();
        assert_eq!(scanner.take_queued(&mut buffer, 2), 2);
        assert_eq!(scanner.take_queued(&mut buffer, 9), 1);
        assert_eq!(scanner.take_queued(&mut buffer, 9), 0);
        let refused = scanner.take(&mut buffer).unwrap();
        assert_eq!(refused, Some(Reply::Error("OOM no".to_owned())));
        assert_eq!(scanner.take_queued(&mut buffer, 9), 0);
        assert_eq!(scanner.take(&mut buffer), Ok(None));
        buffer.extend_from_slice(b"\n");
        assert_eq!(scanner.take_queued(&mut buffer, 9), 1);
        assert!(buffer.is_empty());
    }

    /// What a reply is to the other decoder.
    fn oracle(frame: BytesFrame) -> Reply {
        match frame {
            BytesFrame::SimpleString(text) => Reply::Status(text),
            BytesFrame::Error(text) => Reply::Error(text.to_string()),
            BytesFrame::Integer(number) => Reply::Integer(number),
            BytesFrame::BulkString(bytes) => Reply::Bulk(bytes),
            BytesFrame::Array(items) => Reply::Array(items.into_iter().map(oracle).collect()),
            BytesFrame::Null => Reply::Nil,
        }
    }

    fn any_reply() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[ -~]{0,12}".prop_map(|text| format!("+{text}\r\n")),
            "[ -~]{0,12}".prop_map(|text| format!("-{text}\r\n")),
            any::<i64>().prop_map(|number| format!(":{number}\r\n")),
            "[ -~\r\n]{0,20}".prop_map(|text| format!("${}\r\n{text}\r\n", text.len())),
            Just("+OK\r\n".to_owned()),
            Just("$-1\r\n".to_owned()),
            Just("*-1\r\n".to_owned()),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            let items = proptest::collection::vec(inner, 0..6);
            items.prop_map(|items| format!("*{}\r\n{}", items.len(), items.concat()))
        })
    }

    proptest! {
        #[test]
        fn agrees_with_redis_protocol(text in any_reply()) {
            let bytes = Bytes::from(text);
            let (frame, length) = decode_bytes(&bytes).unwrap().unwrap();
            prop_assert_eq!(length, bytes.len());
            let taken = ReplyScanner::default().take(&mut BytesMut::from(&bytes[..]));
            prop_assert_eq!(taken.unwrap(), Some(oracle(frame)));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut scanner = ReplyScanner::default();
            while let Ok(Some(_)) = scanner.take(&mut buffer) {}
        }
    }
}

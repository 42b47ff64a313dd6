//! What the demo needs of Redis and HTTP: a pipeline of commands, and one GET.

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::{Bytes, BytesMut};
use redis_protocol::codec::Resp2;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::{Decoder, Encoder};

use crate::status::Status;

/// One command: its name and its arguments.
pub(super) type Command = Vec<Bytes>;

/// The largest answer of `/status` that is read; a real one has a few kilobytes.
const MAX_STATUS: u64 = 1024 * 1024;

/// Builds a command from words: `command(&["SET", "key", "value"])`.
pub(super) fn command(words: &[&str]) -> Command {
    words
        .iter()
        .map(|word| Bytes::copy_from_slice(word.as_bytes()))
        .collect()
}

/// A connection to a Redis of the demo, without a password.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    codec: Resp2,
    received: BytesMut,
    outgoing: BytesMut,
}

impl Client {
    /// Connects to a Redis on this machine.
    pub(super) async fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .with_context(|| format!("connect to the Redis on port {port}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(Self {
            stream,
            codec: Resp2::default(),
            received: BytesMut::new(),
            outgoing: BytesMut::new(),
        })
    }

    /// Sends a command and returns its reply. An error reply is an error.
    pub(super) async fn call(&mut self, words: &[&str]) -> Result<BytesFrame> {
        let replies = self.pipeline(vec![command(words)]).await?;
        let reply = replies.into_iter().next().context("read a reply")?;
        checked(reply).with_context(|| words.join(" "))
    }

    /// Sends commands at once and returns their replies, error replies among them.
    pub(super) async fn pipeline(&mut self, commands: Vec<Command>) -> Result<Vec<BytesFrame>> {
        let count = commands.len();
        for words in commands {
            let words = words.into_iter().map(BytesFrame::BulkString).collect();
            self.codec
                .encode(BytesFrame::Array(words), &mut self.outgoing)
                .context("encode a command")?;
        }
        self.stream
            .write_all_buf(&mut self.outgoing)
            .await
            .context("send to Redis")?;
        let mut replies = Vec::with_capacity(count);
        while replies.len() < count {
            match self.codec.decode(&mut self.received) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => {
                    let read = self.stream.read_buf(&mut self.received).await;
                    ensure!(read.context("read from Redis")? > 0, "Redis hung up");
                }
                Err(error) => bail!("Redis sent what is not RESP: {error}"),
            }
        }
        Ok(replies)
    }

    /// A field of one section of INFO.
    pub(super) async fn info(&mut self, section: &str, field: &str) -> Result<String> {
        let reply = self.call(&["INFO", section]).await?;
        text(&reply)
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map(str::to_owned)
            .with_context(|| format!("find {field} in INFO {section}"))
    }
}

/// The reply, or the error that it is; an error inside an EXEC counts.
pub(super) fn checked(reply: BytesFrame) -> Result<BytesFrame> {
    if let BytesFrame::Array(parts) = &reply {
        let failed = parts.iter().find_map(error_text);
        return failed.map_or(Ok(reply), |error| Err(anyhow!("Redis says: {error}")));
    }
    match error_text(&reply) {
        Some(error) => Err(anyhow!("Redis says: {error}")),
        None => Ok(reply),
    }
}

fn error_text(reply: &BytesFrame) -> Option<String> {
    match reply {
        BytesFrame::Error(error) => Some(error.to_string()),
        _ => None,
    }
}

/// A reply as bytes; empty for what has none.
pub(super) fn bytes(reply: &BytesFrame) -> Bytes {
    match reply {
        BytesFrame::SimpleString(bytes) | BytesFrame::BulkString(bytes) => bytes.clone(),
        BytesFrame::Integer(number) => Bytes::from(number.to_string()),
        BytesFrame::Error(_) | BytesFrame::Array(_) | BytesFrame::Null => Bytes::new(),
    }
}

/// A reply as text, for people and for INFO.
pub(super) fn text(reply: &BytesFrame) -> String {
    String::from_utf8_lossy(&bytes(reply)).into_owned()
}

/// A reply as a number; 0 for what is none, as a missing counter is.
pub(super) fn number(reply: &BytesFrame) -> i64 {
    text(reply).parse().unwrap_or(0)
}

/// The parts of an array reply; none for what is no array.
pub(super) fn parts(reply: BytesFrame) -> Vec<BytesFrame> {
    match reply {
        BytesFrame::Array(parts) => parts,
        _ => Vec::new(),
    }
}

/// Asks a sidecar on this machine for its status.
pub(super) async fn status(admin_port: u16) -> Result<Status> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin_port))
        .await
        .context("connect to the sidecar")?;
    let request = "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .await
        .context("ask for the status")?;
    let mut answer = Vec::new();
    stream
        .take(MAX_STATUS)
        .read_to_end(&mut answer)
        .await
        .context("read the status")?;
    parse_answer(&answer)
}

fn parse_answer(answer: &[u8]) -> Result<Status> {
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .context("read the status: no HTTP answer")?;
    let (head, body) = answer.split_at(end);
    let first = head.split(|b| *b == b'\r').next().unwrap_or_default();
    ensure!(
        first.starts_with(b"HTTP/1.1 200"),
        "the sidecar answered {:?}",
        String::from_utf8_lossy(first)
    );
    let body = body.get(4..).unwrap_or_default();
    serde_json::from_slice(body).context("understand the status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_inside_exec_is_an_error() {
        let exec = BytesFrame::Array(vec![
            BytesFrame::Integer(1),
            BytesFrame::Error("WRONGTYPE no".into()),
        ]);
        assert!(checked(exec).unwrap_err().to_string().contains("WRONGTYPE"));
        assert!(checked(BytesFrame::Array(vec![BytesFrame::Integer(1)])).is_ok());
        assert!(checked(BytesFrame::Error("ERR".into())).is_err());
    }

    #[test]
    fn only_a_good_answer_is_a_status() {
        let refused = parse_answer(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err();
        assert!(refused.to_string().contains("503"), "{refused}");
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\n\r\nnot json").is_err());
    }
}

//! One connection to a server: single commands, numbers of INFO, and a pipeline that counts lines.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long any single reply may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Read at once.
const CHUNK: usize = 64 * 1024;

/// A client of one server.
pub(crate) struct Wire {
    stream: TcpStream,
    chunk: Vec<u8>,
}

impl Wire {
    /// Connects to a port of this machine.
    pub(crate) fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            chunk: vec![0; CHUNK],
        })
    }

    /// Runs a command and returns what was answered: a line, or the text of a bulk string.
    pub(crate) fn ask(&mut self, command: &[&str]) -> Result<String> {
        self.stream.write_all(&encode(command))?;
        let mut answer = Vec::new();
        loop {
            if let Some(text) = complete(&answer) {
                ensure!(!answer.starts_with(b"-"), "{command:?}: {text}");
                return Ok(text);
            }
            let count = self.stream.read(&mut self.chunk)?;
            ensure!(count > 0, "{command:?}: the server hung up");
            answer.extend_from_slice(self.chunk.get(..count).unwrap_or_default());
        }
    }

    /// Sends bytes that are commands already.
    pub(crate) fn send(&mut self, commands: &[u8]) -> Result<()> {
        self.stream.write_all(commands).context("send commands")
    }

    /// Reads until so many lines have come, and a few more perhaps; says how many. Fails when one
    /// of them is an error.
    pub(crate) fn lines(&mut self, wanted: usize) -> Result<usize> {
        let mut seen = 0;
        while seen < wanted {
            let count = self.stream.read(&mut self.chunk)?;
            ensure!(count > 0, "the server hung up");
            let part = self.chunk.get(..count).unwrap_or_default();
            if part.first() == Some(&b'-') || part.windows(2).any(|pair| pair == b"\n-") {
                let text = String::from_utf8_lossy(part);
                bail!("the load was refused: {:.200}", text);
            }
            seen += part.iter().filter(|byte| **byte == b'\n').count();
        }
        Ok(seen)
    }

    /// What can be read at once; nothing when the time is over.
    pub(crate) fn read_for(&mut self, span: Duration) -> Result<&[u8]> {
        self.stream.set_read_timeout(Some(span))?;
        match self.stream.read(&mut self.chunk) {
            Ok(0) => bail!("the server hung up"),
            Ok(count) => Ok(self.chunk.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(&[])
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A field of INFO, as text.
    pub(crate) fn info(&mut self, section: &str, field: &str) -> Result<String> {
        let text = self.ask(&["INFO", section])?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value
            .with_context(|| format!("INFO {section} has {field}"))?
            .to_owned())
    }

    /// Bytes of the replication stream so far.
    pub(crate) fn offset(&mut self) -> Result<u64> {
        Ok(self.info("replication", "master_repl_offset")?.parse()?)
    }
}

/// A command in the protocol's form.
pub(crate) fn encode(command: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, command);
    bytes
}

/// Appends a command in the protocol's form.
pub(crate) fn append(bytes: &mut Vec<u8>, command: &[&str]) {
    bytes.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for word in command {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// The answer when it is all there: a line or a bulk string.
fn complete(answer: &[u8]) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let end = answer.windows(2).position(|pair| pair == b"\r\n")?;
    let (head, rest) = (answer.get(1..end)?, answer.get(end + 2..)?);
    if answer.first() != Some(&b'$') {
        return Some(text(head));
    }
    // An absent value has the length -1.
    let length: usize = match text(head).parse() {
        Ok(length) => length,
        Err(_) => return Some(String::new()),
    };
    (rest.len() >= length + 2).then(|| text(rest.get(..length).unwrap_or_default()))
}

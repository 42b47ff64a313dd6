//! A second, independent reader of a server's replication stream: what really entered it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::fault::is_timeout;
use super::interpose::parse;
use super::wait::{patience, wait_for};

/// Commands that a server makes by itself.
const NOISE: &[&str] = &["PING", "SELECT", "REPLCONF"];

/// Reads the stream of one server from the moment of its creation until it is dropped.
pub(crate) struct Tap {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    commands: Mutex<Vec<String>>,
    is_reading: AtomicBool,
    ended: AtomicBool,
}

impl Tap {
    /// Attaches to a server and waits until its stream flows.
    pub(crate) fn on(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
        let look = Some(Duration::from_millis(20));
        stream.set_read_timeout(look).expect("a timeout");
        let shared = Arc::new(Shared::default());
        let reader = Arc::clone(&shared);
        thread::spawn(move || read(stream, &reader));
        wait_for("the tap to read", patience(20), || {
            shared.is_reading.load(Ordering::SeqCst)
        });
        Self { shared }
    }

    /// Every command so far, as text, but those that servers make by themselves.
    pub(crate) fn commands(&self) -> Vec<String> {
        let commands = self.shared.commands.lock();
        commands.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The commands that are not bookkeeping of sidecars: no marks, no MULTI, no EXEC.
    pub(crate) fn content(&self) -> Vec<String> {
        let is_content = |c: &String| {
            !matches!(c.to_uppercase().as_str(), "MULTI" | "EXEC") && !c.contains(" tandem:")
        };
        let mut commands = self.commands();
        commands.retain(is_content);
        commands
    }

    /// How many content commands begin with these words, in any case.
    pub(crate) fn count(&self, start: &str) -> usize {
        let start = start.to_uppercase();
        let content = self.content();
        let matching = content
            .iter()
            .filter(|c| c.to_uppercase().starts_with(&start));
        matching.count()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
    }
}

fn read(mut stream: TcpStream, shared: &Shared) {
    // Without "capa eof" the snapshot comes with its length.
    let hello = b"REPLCONF listening-port 70000\r\n";
    stream.write_all(hello).expect("write");
    let mut wire = Wire::default();
    wire.line(&mut stream, shared);
    stream.write_all(b"PSYNC ? -1\r\n").expect("write");
    loop {
        let Some(line) = wire.line(&mut stream, shared) else {
            return;
        };
        let text = String::from_utf8_lossy(&line).into_owned();
        if let Some(length) = text.strip_prefix('$') {
            wire.skip(&mut stream, length.parse().expect("a length"), shared);
            break;
        }
        assert!(text.is_empty() || text.starts_with("+FULLRESYNC"), "{text}");
    }
    shared.is_reading.store(true, Ordering::SeqCst);
    let mut acknowledged = Instant::now();
    while wire.more(&mut stream, shared) {
        while let Some((args, length)) = parse(&wire.buffer) {
            wire.buffer.drain(..length);
            let command: Vec<String> = args
                .iter()
                .map(|a| String::from_utf8_lossy(&a[..a.len().min(200)]).into_owned())
                .collect();
            if !NOISE.contains(&command[0].to_uppercase().as_str()) {
                let commands = shared.commands.lock();
                let mut commands = commands.unwrap_or_else(PoisonError::into_inner);
                commands.push(command.join(" "));
            }
        }
        if acknowledged.elapsed() > Duration::from_secs(1) {
            acknowledged = Instant::now();
            // The server only wants to see life; the offset need not be the true one.
            drop(stream.write_all(b"REPLCONF ACK 0\r\n"));
        }
    }
}

#[derive(Default)]
struct Wire {
    buffer: Vec<u8>,
}

impl Wire {
    /// Reads once; false at the end of the connection or of the tap.
    fn more(&mut self, stream: &mut TcpStream, shared: &Shared) -> bool {
        let mut chunk = [0; 16 * 1024];
        match stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) => is_timeout(&error) && !shared.ended.load(Ordering::SeqCst),
        }
    }

    /// The next line without its end.
    fn line(&mut self, stream: &mut TcpStream, shared: &Shared) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.retain(|b| !matches!(b, b'\r' | b'\n'));
                return Some(line);
            }
            if !self.more(stream, shared) {
                return None;
            }
        }
    }

    fn skip(&mut self, stream: &mut TcpStream, length: usize, shared: &Shared) {
        while self.buffer.len() < length && self.more(stream, shared) {}
        self.buffer.drain(..length.min(self.buffer.len()));
    }
}

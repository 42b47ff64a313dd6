//! Being a replica of the local Redis: attach, take a snapshot, follow the stream.
//!
//! The order of messages is that of a real replica (measured on Redis 5.0 to 8.6 and Valkey 7.2 to
//! 9.1). Declared: `capa eof capa psync2`, and `version 255.255.255`, without which Valkey 9.1
//! cannot send hashes with field TTLs; never `rdb-channel-repl` or `dual-channel`.

mod handshake;
mod shelf;
mod snapshot;

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::timeout;

use crate::model::{Offset, Position};
use crate::redis::{self, Address, Connection, Reply, Settings, put_command};

pub use self::handshake::{HandshakeError, PsyncReply, RdbBody, RdbForm};
pub use self::shelf::{Need, Room, Shelf};
pub use self::snapshot::{Snapshot, SnapshotError, SnapshotReader, spool};

/// The port that we announce. Sentinel refuses ports above 65535 and so never lists the sidecar as
/// a replica that could be promoted (measured: Redis 5.0 to 8.4, Valkey 9.0).
const ANNOUNCED_PORT: &str = "70000";
/// Longest silence while the server prepares a snapshot: forking and saving a large data set
/// without a disk sends nothing at all meanwhile.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(600);
/// Longest silence while the stream flows. The server sends PING every 10 s
/// (`repl-ping-replica-period`) and gives up on us after 60 s (`repl-timeout`): so do we.
const STREAM_SILENCE: Duration = Duration::from_secs(60);
/// Longest line of the handshake.
const MAX_LINE: usize = 4096;

/// Why the stream cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] redis::Error),
    /// The server's answer.
    #[error("Redis at {address} does not let us replicate: {source}")]
    Handshake {
        /// Where.
        address: String,
        /// What it said.
        source: HandshakeError,
    },
    /// Nothing came.
    #[error("Redis at {address} sent nothing for {seconds} s; reconnecting")]
    Silence {
        /// Where.
        address: String,
        /// For how long.
        seconds: u64,
    },
}

/// A connection on which the server treats us as its replica.
#[derive(Debug)]
pub struct Replica {
    connection: Connection,
}

impl Replica {
    /// Attaches: goes on from `position` where the server still can, else a snapshot follows.
    ///
    /// # Errors
    /// The server cannot be reached or does not let us.
    pub async fn attach(
        settings: &Settings,
        name: &str,
        position: Option<&Position>,
    ) -> Result<(Self, PsyncReply), Error> {
        let mut connection = Connection::open(settings, name).await?;
        connection.ask(&[b"PING"]).await?;
        for option in [
            &[
                &b"REPLCONF"[..],
                b"listening-port",
                ANNOUNCED_PORT.as_bytes(),
            ][..],
            &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"],
            &[b"REPLCONF", b"version", b"255.255.255"],
        ] {
            // Every error here is one of a server that does not know the option; a missing
            // permission shows at PSYNC.
            let _: Reply = connection.call(option).await?;
        }
        let (id, next) = position.map_or_else(|| ("?".into(), "-1".into()), Position::psync_args);
        let mut psync = Vec::new();
        put_command(&mut psync, &[b"PSYNC", id.as_bytes(), next.as_bytes()]);
        connection.send(&psync).await?;
        let mut replica = Self { connection };
        let line = replica.line().await?;
        let reply = handshake::psync_reply(&line).map_err(|e| replica.handshake(e))?;
        Ok((replica, reply))
    }

    /// Reads the header of the snapshot that follows a full resync.
    ///
    /// # Errors
    /// The server could not make one, or the connection broke.
    pub async fn snapshot_form(&mut self) -> Result<RdbForm, Error> {
        let line = self.line().await?;
        handshake::rdb_form(&line).map_err(|e| self.handshake(e))
    }

    /// One line, without its end. The bare newlines that a primary sends to keep a waiting replica
    /// alive come before it and are no part of the stream.
    async fn line(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            let input = self.connection.input();
            while input.first() == Some(&b'\n') {
                input.advance(1);
            }
            if let Some(end) = input.windows(2).position(|w| w == b"\r\n") {
                let line = input.split_to(end).to_vec();
                input.advance(2);
                return Ok(line);
            }
            if input.len() > MAX_LINE {
                let start = input.get(..40).unwrap_or_default();
                let start = String::from_utf8_lossy(start).into_owned();
                return Err(self.handshake(HandshakeError::Unexpected(start)));
            }
            self.fill(SNAPSHOT_SILENCE).await?;
        }
    }

    /// Waits for more bytes of the stream. Cancel safe.
    ///
    /// # Errors
    /// The connection broke, or nothing came for a minute.
    pub async fn more(&mut self) -> Result<(), Error> {
        self.fill(STREAM_SILENCE).await
    }

    /// Waits for more bytes of the snapshot. Cancel safe.
    ///
    /// # Errors
    /// The connection broke, or nothing came for ten minutes.
    pub async fn more_snapshot(&mut self) -> Result<(), Error> {
        self.fill(SNAPSHOT_SILENCE).await
    }

    async fn fill(&mut self, silence: Duration) -> Result<(), Error> {
        match timeout(silence, self.connection.fill()).await {
            Ok(filled) => Ok(filled?),
            Err(_) => Err(Error::Silence {
                address: self.connection.address().to_string(),
                seconds: silence.as_secs(),
            }),
        }
    }

    /// The server.
    #[must_use]
    pub const fn address(&self) -> &Address {
        self.connection.address()
    }

    /// The bytes that have come and were not yet used.
    pub const fn input(&mut self) -> &mut BytesMut {
        self.connection.input()
    }

    /// Tells the server how much of the stream is safe with us. Never answered.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn acknowledge(&mut self, offset: Offset) -> Result<(), Error> {
        let mut out = Vec::new();
        put_command(
            &mut out,
            &[b"REPLCONF", b"ACK", offset.to_string().as_bytes()],
        );
        Ok(self.connection.send(&out).await?)
    }

    fn handshake(&self, source: HandshakeError) -> Error {
        Error::Handshake {
            address: self.connection.address().to_string(),
            source,
        }
    }
}

//! Messages over a socket.

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::hello::Hello;
use super::message::{GREETING, MAX_HELLO, MAX_PAYLOAD, Message, MessageError, VERSION};
use super::pack::{Packer, Unpacker};
use super::sequence::Sequence;
use super::state::Bundle;

/// How long a peer may take to greet: one round trip and a look into its Redis.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of a peer in a session. It sends a ping each second, so this is a link that
/// is half open.
const SILENCE: Duration = Duration::from_secs(12);
/// How much is read at once.
const READ_SIZE: usize = 256 << 10;
/// Less room than this is not worth a read.
const READ_LEAST: usize = 16 << 10;

/// Why there is no link, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system says no.
    #[error("cannot reach the peer at {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection with {peer} broke: {source}")]
    Broken {
        /// Who.
        peer: String,
        /// Why.
        source: io::Error,
    },
    /// Silence.
    #[error("nothing heard from {peer} for {seconds} s; reconnecting")]
    Silence {
        /// Who.
        peer: String,
        /// For how long.
        seconds: u64,
    },
    /// What is there is no Tandem.
    #[error("what answers at {peer} is not Tandem; check the address and port of the peer")]
    Stranger {
        /// Who.
        peer: String,
    },
    /// It speaks other versions.
    #[error(
        "{peer} speaks versions {lowest} to {highest} of the protocol, this sidecar speaks {VERSION}; \
         run the same release at both sites"
    )]
    Version {
        /// Who.
        peer: String,
        /// The lowest.
        lowest: u8,
        /// The highest.
        highest: u8,
    },
    /// It said something that makes no sense.
    #[error("{peer} sent {source}; reconnecting")]
    Message {
        /// Who.
        peer: String,
        /// What.
        source: MessageError,
    },
    /// It said something out of place.
    #[error("{peer} sent {what} out of place; reconnecting")]
    Unexpected {
        /// Who.
        peer: String,
        /// What.
        what: &'static str,
    },
    /// What it says was not said on this connection.
    #[error(
        "{peer} says what was said on another connection: somebody repeats it; nothing of it is taken"
    )]
    Repeated {
        /// Who.
        peer: String,
    },
    /// It wants no session.
    #[error("{peer} refuses: {why}")]
    Refused {
        /// Who.
        peer: String,
        /// Its words.
        why: String,
    },
}

/// Both directions of a connection.
#[derive(Debug)]
pub struct Wire {
    /// From the peer.
    pub reader: Reader,
    /// To the peer.
    pub writer: Writer,
}

/// How much was sent at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of messages.
    pub plain: u64,
    /// Bytes on the wire: fewer where they are compressed.
    pub wire: u64,
}

/// What the peer sends.
#[derive(Debug)]
pub struct Reader {
    half: OwnedReadHalf,
    buffer: BytesMut,
    /// Where the peer compresses what it sends.
    unpacker: Option<Unpacker>,
    peer: String,
    limit: usize,
    sequence: Sequence,
}

/// What the peer gets.
#[derive(Debug)]
pub struct Writer {
    half: OwnedWriteHalf,
    out: Vec<u8>,
    /// Where we do.
    packer: Option<Packer>,
    packed: Vec<u8>,
    peer: String,
    sequence: Sequence,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// The address cannot be reached.
    pub async fn dial(address: &str) -> Result<Self, Error> {
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let wrapped = stream.and_then(|s| Self::new(s, address.to_owned()));
        wrapped.map_err(|source| Error::Connect {
            address: address.to_owned(),
            source,
        })
    }

    /// Takes an accepted connection.
    ///
    /// # Errors
    /// The socket refuses its options.
    pub fn new(stream: TcpStream, peer: String) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(SILENCE);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        let (read, write) = stream.into_split();
        let buffer = BytesMut::new();
        Ok(Self {
            reader: Reader {
                half: read,
                buffer,
                unpacker: None,
                peer: peer.clone(),
                limit: MAX_HELLO,
                sequence: Sequence::default(),
            },
            writer: Writer {
                half: write,
                out: Vec::new(),
                packer: None,
                packed: Vec::new(),
                peer,
                sequence: Sequence::default(),
            },
        })
    }

    /// Sends the greeting and a hello.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn greet(&mut self, hello: Hello) -> Result<(), Error> {
        let packer = hello.packs.then(Packer::try_new).transpose();
        self.writer.out.extend_from_slice(&GREETING);
        self.writer.push(&Message::Hello(Box::new(hello)));
        self.writer.flush().await?;
        self.writer.packer = packer.map_err(|source| self.writer.broken(source))?;
        Ok(())
    }

    /// Reads the peer's greeting and hello.
    ///
    /// # Errors
    /// The connection broke; the peer is no Tandem, speaks another version, or refuses.
    pub async fn greeted(&mut self) -> Result<Hello, Error> {
        let peer = self.reader.peer.clone();
        let hello = timeout(HELLO_TIMEOUT, self.reader.hello())
            .await
            .unwrap_or_else(|_| {
                Err(Error::Silence {
                    peer,
                    seconds: HELLO_TIMEOUT.as_secs(),
                })
            })?;
        self.reader.limit = MAX_PAYLOAD;
        if hello.packs {
            let behind = self.reader.buffer.split();
            let unpacker = Unpacker::try_new(behind).map_err(|e| self.reader.unreadable(&e))?;
            self.reader.unpacker = Some(unpacker);
        }
        self.reader.peer.clone_from(&hello.site);
        self.writer.peer.clone_from(&hello.site);
        Ok(hello)
    }

    /// Both sides say, and hear, that the hellos with these nonces were said on this very connection.
    /// Nothing may be done before that because of what a hello says: somebody may have recorded it.
    ///
    /// # Errors
    /// The connection broke, or what comes was said on another one.
    pub async fn confirm(&mut self, nonces: (u64, u64)) -> Result<(), Error> {
        self.reader.sequence.begin(nonces);
        self.writer.sequence.begin(nonces);
        self.writer.push(&Message::Confirm);
        self.writer.flush().await?;
        match self.reader.next().await {
            Ok(Message::Confirm) => Ok(()),
            Ok(Message::Refuse(why)) => Err(Error::Refused {
                peer: self.reader.peer.clone(),
                why,
            }),
            Ok(_) => Err(self.reader.unexpected("a message before its confirmation")),
            Err(Error::Message {
                peer,
                source: MessageError::Checksum,
            }) => Err(Error::Repeated { peer }),
            Err(error) => Err(error),
        }
    }

    /// Says why there will be no session.
    pub async fn refuse(&mut self, why: String) {
        self.writer.out.extend_from_slice(&GREETING);
        self.refuse_greeted(why).await;
    }

    /// The same, after our greeting was sent.
    pub async fn refuse_greeted(&mut self, why: String) {
        self.writer.push(&Message::Refuse(why));
        if let Err(error) = self.writer.flush().await {
            tracing::debug!(%error, "could not say why a session is refused");
        }
    }
}

impl Reader {
    async fn hello(&mut self) -> Result<Hello, Error> {
        while self.buffer.len() < GREETING.len() {
            // What does not begin as we do will not go on as we do.
            if !GREETING.starts_with(
                self.buffer
                    .get(..self.buffer.len().min(8))
                    .unwrap_or_default(),
            ) {
                return Err(Error::Stranger {
                    peer: self.peer.clone(),
                });
            }
            self.fill().await?;
        }
        let greeting = self.buffer.split_to(GREETING.len());
        let (name, versions) = greeting.split_at(8);
        if Some(name) != GREETING.get(..8) {
            return Err(Error::Stranger {
                peer: self.peer.clone(),
            });
        }
        let (lowest, highest) = (versions[0], versions[1]);
        if !(lowest..=highest).contains(&VERSION) {
            return Err(Error::Version {
                peer: self.peer.clone(),
                lowest,
                highest,
            });
        }
        match self.next().await? {
            Message::Hello(hello) => Ok(*hello),
            Message::Refuse(why) => Err(Error::Refused {
                peer: self.peer.clone(),
                why,
            }),
            _ => Err(self.unexpected("a message before its hello")),
        }
    }

    /// The next message. Cancel safe: what was read stays in the buffer.
    ///
    /// # Errors
    /// The connection broke, was silent for too long, or carries nonsense.
    pub async fn next(&mut self) -> Result<Message, Error> {
        loop {
            let message = Message::take(&mut self.buffer, self.limit, &mut self.sequence);
            if let Some(message) = message.map_err(|source| Error::Message {
                peer: self.peer.clone(),
                source,
            })? {
                return Ok(message);
            }
            match timeout(SILENCE, self.fill()).await {
                Ok(filled) => filled?,
                Err(_) => {
                    let (peer, seconds) = (self.peer.clone(), SILENCE.as_secs());
                    return Err(Error::Silence { peer, seconds });
                }
            }
        }
    }

    /// Reads more, or unpacks more of what was read. Cancel safe.
    async fn fill(&mut self) -> Result<(), Error> {
        let buffer = match &mut self.unpacker {
            None => &mut self.buffer,
            Some(unpacker) => match unpacker.unpack(&mut self.buffer) {
                Ok(true) => return Ok(()),
                Ok(false) => unpacker.packed(),
                Err(error) => return Err(self.unreadable(&error)),
            },
        };
        // What was taken from the buffer is still in use: of the rest, use all.
        if buffer.capacity() - buffer.len() < READ_LEAST {
            buffer.reserve(READ_SIZE);
        }
        let read = self.half.read_buf(&mut buffer.limit(READ_SIZE)).await;
        let source = match read {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => return Ok(()),
            Err(source) => source,
        };
        Err(Error::Broken {
            peer: self.peer.clone(),
            source,
        })
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        Error::Message {
            peer: self.peer.clone(),
            source: MessageError::Packed(error.to_string()),
        }
    }

    /// The error for a message out of place.
    #[must_use]
    pub fn unexpected(&self, what: &'static str) -> Error {
        Error::Unexpected {
            peer: self.peer.clone(),
            what,
        }
    }
}

impl Writer {
    /// Appends a message to what will be sent.
    pub fn push(&mut self, message: &Message) {
        self.append(|out| message.encode(out));
    }

    /// Appends a part of a copy.
    pub fn push_bundle(&mut self, bundle: &Bundle) {
        self.append(|out| out.extend_from_slice(bundle.messages()));
    }

    fn append(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.out.len();
        append(&mut self.out);
        self.sequence
            .number(self.out.get_mut(begin..).unwrap_or_default());
    }

    /// Sends what was pushed, and says how much it was. Not cancel safe: half a message may have been
    /// sent.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn flush(&mut self) -> Result<Sent, Error> {
        let packed = match &mut self.packer {
            None => Ok(&self.out),
            Some(packer) => packer
                .pack(&self.out, &mut self.packed)
                .map(|()| &self.packed),
        };
        let wire = packed.map_err(|source| self.broken(source))?;
        let sent = Sent {
            plain: self.out.len() as u64,
            wire: wire.len() as u64,
        };
        let written = self.half.write_all(wire).await;
        for buffer in [&mut self.out, &mut self.packed] {
            buffer.clear();
            // A large frame must not keep its memory for the life of the session.
            buffer.shrink_to(4 * READ_SIZE);
        }
        written.map_err(|source| self.broken(source))?;
        Ok(sent)
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Broken {
            peer: self.peer.clone(),
            source,
        }
    }

    /// How many bytes wait to be sent.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.out.len()
    }
}

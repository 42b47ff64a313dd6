//! One connection to a Redis.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::reply::{MalformedReply, Reply, ReplyScanner};
use super::settings::{Address, Settings};

/// How long connecting may take: a server on the same host or in the same zone answers in
/// milliseconds, so after this it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to answer while the connection is set up.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How much is read at once.
pub const READ_SIZE: usize = 64 << 10;

/// Why a connection cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system says no.
    #[error(
        "cannot reach Redis at {address}: {source}; check that it runs there and that [redis] url is right"
    )]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No Sentinel names the server.
    #[error("cannot find {sentinels}: {reasons}; check [redis] url, and that the Sentinels run")]
    NotFound {
        /// Whom we asked for what.
        sentinels: String,
        /// What came of it, of each.
        reasons: String,
    },
    /// The server that Sentinels name is no primary.
    #[error(
        "Redis at {address}, which is named by the Sentinels, is a replica; trying again, for a \
         failover may be under way"
    )]
    NotPrimary {
        /// Where.
        address: String,
    },
    /// Another sidecar of this site may be writing there.
    #[error(
        "not writing into Redis at {address} without the lease that only one sidecar of a site has; \
         waiting for it"
    )]
    NoLease {
        /// Where.
        address: String,
    },
    /// The connection broke.
    #[error("the connection to Redis at {address} broke: {source}")]
    Broken {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The password file cannot be read.
    #[error("{0}")]
    Secret(String),
    /// The server refused us.
    #[error("Redis at {address} refused {command}: {message}{}", remedy(message))]
    Refused {
        /// Where.
        address: String,
        /// What we asked.
        command: String,
        /// What it said.
        message: String,
    },
    /// The bytes are no replies.
    #[error("Redis at {address} sent a {malformed}; is it a Redis?")]
    Malformed {
        /// Where.
        address: String,
        /// How.
        malformed: MalformedReply,
    },
}

/// What an operator can do about an error of the server.
fn remedy(message: &str) -> &'static str {
    let code = message.split(' ').next().unwrap_or_default();
    match code {
        "WRONGPASS" => "; correct the username or password in [redis]",
        "NOAUTH" => "; set a password in [redis]",
        "NOPERM" => "; give the user of [redis] the permissions that the README lists",
        "LOADING" => "; it is loading its data, retrying",
        "ERR" if message.contains("invalid password") => "; correct the password in [redis]",
        "ERR" if message.contains("no password is set") => "; remove the password from [redis]",
        _ => "",
    }
}

impl Error {
    /// The first word of what the server said, when it refused: `NOAUTH`, `LOADING`, …
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { message, .. } => message.split(' ').next().unwrap_or_default(),
            _ => "",
        }
    }
}

/// A byte stream, over TCP or a Unix socket.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is authenticated and named.
pub struct Connection {
    stream: Box<dyn Stream>,
    address: Address,
    input: BytesMut,
    scanner: ReplyScanner,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.address)
    }
}

impl Connection {
    /// Connects, authenticates and takes the name that CLIENT LIST shows. Where Sentinels name the
    /// server, it is a primary.
    ///
    /// # Errors
    /// The server cannot be found or reached, or refuses the credentials.
    pub async fn open(settings: &Settings, name: &str) -> Result<Self, Error> {
        let wants_primary = settings.wants_primary();
        let found = Settings {
            address: settings.resolve().await?,
            ..settings.clone()
        };
        let mut connection = Self::log_in(&found).await?;
        let setup = async {
            // Without permission for CLIENT a connection is only harder to find; nothing else is
            // lost.
            let name = [&b"CLIENT"[..], b"SETNAME", name.as_bytes()];
            connection.call(&name).await?;
            match wants_primary && !connection.is_primary().await? {
                true => Err(Error::NotPrimary {
                    address: connection.address.to_string(),
                }),
                false => Ok(()),
            }
        };
        match timeout(SETUP_TIMEOUT, setup).await {
            Ok(done) => done.map(|()| connection),
            Err(_) => Err(connection.broken(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Connects and authenticates, to the server at an address.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the credentials.
    pub(super) async fn log_in(settings: &Settings) -> Result<Self, Error> {
        let mut connection = Self::connect(settings).await?;
        match timeout(SETUP_TIMEOUT, connection.authenticate(settings)).await {
            Ok(done) => done.map(|()| connection),
            Err(_) => Err(connection.broken(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn is_primary(&mut self) -> Result<bool, Error> {
        let info = self.ask(&[b"INFO", b"replication"]).await?.text();
        Ok(info.lines().any(|line| line.trim_end() == "role:master"))
    }

    /// Connects and no more.
    ///
    /// # Errors
    /// The server cannot be reached.
    async fn connect(settings: &Settings) -> Result<Self, Error> {
        let address = settings.address.clone();
        let failed = |source| Error::Connect {
            address: address.to_string(),
            source,
        };
        let connecting = async {
            Ok::<Box<dyn Stream>, io::Error>(match &settings.address {
                Address::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Address::Sentinel(_) => return Err(io::ErrorKind::AddrNotAvailable.into()),
            })
        };
        let stream = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        Ok(Self {
            stream,
            address,
            input: BytesMut::new(),
            scanner: ReplyScanner::default(),
        })
    }

    async fn authenticate(&mut self, settings: &Settings) -> Result<(), Error> {
        let password = settings
            .password
            .read()
            .map_err(|e| Error::Secret(e.to_string()))?;
        let Some(password) = password else {
            return Ok(());
        };
        let secret = password.expose_secret().as_bytes();
        // Redis 5.0 knows AUTH with one argument only.
        let args: Vec<&[u8]> = match &settings.username {
            Some(user) => vec![b"AUTH", user.as_bytes(), secret],
            None => vec![b"AUTH", secret],
        };
        let reply = self.call(&args).await?;
        self.accepted("AUTH", reply).map(drop)
    }

    /// Sends one command and reads its reply; an error reply is a reply.
    ///
    /// Not cancel safe: a reply that is not awaited would be taken for the next one's.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn call(&mut self, args: &[&[u8]]) -> Result<Reply, Error> {
        let mut out = Vec::new();
        put_command(&mut out, args);
        self.send(&out).await?;
        self.reply().await
    }

    /// As [`call`](Self::call), but an error reply is an error.
    ///
    /// # Errors
    /// The connection broke, or the server refused the command.
    pub async fn ask(&mut self, args: &[&[u8]]) -> Result<Reply, Error> {
        let reply = self.call(args).await?;
        let name = args
            .first()
            .map_or("", |a| std::str::from_utf8(a).unwrap_or(""));
        self.accepted(name, reply)
    }

    /// Turns an error reply into an error.
    ///
    /// # Errors
    /// The reply is an error.
    pub fn accepted(&self, command: &str, reply: Reply) -> Result<Reply, Error> {
        match reply {
            Reply::Error(message) => Err(self.refused(command, message)),
            other => Ok(other),
        }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream
            .write_all(bytes)
            .await
            .map_err(|e| self.broken(e))
    }

    /// Reads one reply. Cancel safe: bytes read stay in the buffer.
    ///
    /// # Errors
    /// The connection broke or carries something else than replies.
    pub async fn reply(&mut self) -> Result<Reply, Error> {
        loop {
            match self.scanner.take(&mut self.input) {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(malformed) => return Err(self.malformed(malformed.0)),
            }
            self.fill().await?;
        }
    }

    /// Reads what the server says of so many commands in a transaction: those replies that do not say
    /// that the command is queued, each with its number. Not cancel safe.
    ///
    /// # Errors
    /// The connection broke or carries something else than replies.
    pub async fn queued(&mut self, count: usize) -> Result<Vec<(usize, Reply)>, Error> {
        let (mut read, mut others) = (0, Vec::new());
        while read < count {
            let queued = self.scanner.take_queued(&mut self.input, count - read);
            read += queued;
            if queued == 0 {
                let other = self.reply().await?;
                if !other.is_queued() {
                    others.push((read, other));
                }
                read += 1;
            }
        }
        Ok(others)
    }

    /// Reads one reply, a string only if it has no more than so many bytes: a longer one is passed
    /// over as it comes, however long it is ([`Reply::Long`]). Not cancel safe.
    ///
    /// # Errors
    /// The connection broke or carries something else than replies.
    pub async fn reply_within(&mut self, most: usize) -> Result<Reply, Error> {
        let end = self.end_of_first_line().await?;
        let line = self.input.get(..end).unwrap_or_default();
        let digits = line.strip_prefix(b"$").map(String::from_utf8_lossy);
        let length = digits.and_then(|d| d.parse::<usize>().ok());
        let Some(length) = length.filter(|l| *l > most) else {
            return self.reply().await;
        };
        self.input.advance(end + 2);
        let mut left = length;
        while left > 0 {
            left -= self.some(left).await?.len();
        }
        self.end_of_line().await?;
        Ok(Reply::Long(length))
    }

    /// Takes a line of a reply that is too large to be taken whole, and gives the number in it.
    /// Cancel safe.
    ///
    /// # Errors
    /// The connection broke, the server refused, or this is no line of that kind.
    pub async fn line(&mut self, kind: u8) -> Result<i64, Error> {
        let end = self.end_of_first_line().await?;
        let line = self.input.split_to(end);
        self.input.advance(2);
        let text = String::from_utf8_lossy(line.get(1..).unwrap_or_default()).into_owned();
        match line.first() {
            Some(first) if *first == kind => Ok(text.parse().unwrap_or(0)),
            Some(b'-') => Err(self.refused("a read", text)),
            _ => Err(self.malformed("reply of another kind")),
        }
    }

    /// Where the line ends that comes next. Cancel safe.
    async fn end_of_first_line(&mut self) -> Result<usize, Error> {
        loop {
            match self.input.windows(2).position(|w| w == b"\r\n") {
                Some(end) => return Ok(end),
                None if self.input.len() > READ_SIZE => return Err(self.malformed("line too long")),
                None => self.fill().await?,
            }
        }
    }

    /// Takes bytes of a reply, at least one and no more than so many. Cancel safe.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn some(&mut self, most: usize) -> Result<BytesMut, Error> {
        while self.input.is_empty() {
            self.fill().await?;
        }
        Ok(self.input.split_to(most.min(self.input.len())))
    }

    /// Takes what ends a string in a reply. Cancel safe.
    ///
    /// # Errors
    /// The connection broke, or the string does not end here.
    pub async fn end_of_line(&mut self) -> Result<(), Error> {
        while self.input.len() < 2 {
            self.fill().await?;
        }
        match &self.input.split_to(2)[..] {
            b"\r\n" => Ok(()),
            _ => Err(self.malformed("string without end")),
        }
    }

    /// Reads whatever has come into the buffer. Cancel safe.
    ///
    /// # Errors
    /// The connection broke or was closed.
    pub async fn fill(&mut self) -> Result<(), Error> {
        self.input.reserve(READ_SIZE);
        match self
            .stream
            .read_buf(&mut (&mut self.input).limit(READ_SIZE))
            .await
        {
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(e) => Err(self.broken(e)),
        }
    }

    /// What has been read and not yet taken: a replica takes its stream from here.
    pub const fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Where it leads.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The error of an answer that does not come.
    #[must_use]
    pub fn timed_out(&self) -> Error {
        self.broken(io::ErrorKind::TimedOut.into())
    }

    fn malformed(&self, how: &'static str) -> Error {
        Error::Malformed {
            address: self.address.to_string(),
            malformed: MalformedReply(how),
        }
    }

    fn refused(&self, command: &str, message: String) -> Error {
        Error::Refused {
            address: self.address.to_string(),
            command: command.to_owned(),
            message,
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Broken {
            address: self.address.to_string(),
            source,
        }
    }
}

/// Appends a command in the protocol's form.
pub fn put_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    put_head(out, args.len());
    for arg in args {
        put_arg(out, arg);
    }
}

/// Appends what stands before the arguments of a command.
pub fn put_head(out: &mut Vec<u8>, args: usize) {
    put_length(out, b'*', args);
}

/// Appends an argument.
pub fn put_arg(out: &mut Vec<u8>, arg: &[u8]) {
    out.reserve(arg.len() + 32);
    put_length(out, b'$', arg.len());
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

fn put_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    let digit = |number: usize| b'0' + u8::try_from(number % 10).unwrap_or(0);
    // Nearly all have one digit or two.
    match length {
        0..10 => out.extend_from_slice(&[kind, digit(length), b'\r', b'\n']),
        10..100 => out.extend_from_slice(&[kind, digit(length / 10), digit(length), b'\r', b'\n']),
        _ => {
            out.push(kind);
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn a_string_that_is_too_long_is_passed_over_and_not_kept() {
        let (near, mut far) = duplex(READ_SIZE);
        let mut connection = Connection {
            stream: Box::new(near),
            address: Address::Unix("test".into()),
            input: BytesMut::new(),
            scanner: ReplyScanner::default(),
        };
        let length = 10 << 20;
        let writing = async move {
            for _ in 0..3 {
                let head = format!("${length}\r\n");
                far.write_all(head.as_bytes()).await.unwrap();
                far.write_all(&vec![b'x'; length]).await.unwrap();
                far.write_all(b"\r\n$5\r\n1234\n\r\n$-1\r\n-ERR no\r\n")
                    .await
                    .unwrap();
            }
        };
        let reading = async {
            for most in [0, 5, length - 1] {
                assert_eq!(
                    connection.reply_within(most).await.unwrap(),
                    Reply::Long(length)
                );
                let short = Reply::Bulk(bytes::Bytes::from_static(b"1234\n"));
                assert_eq!(connection.reply_within(5).await.unwrap(), short);
                assert_eq!(connection.reply_within(0).await.unwrap(), Reply::Nil);
                let error = connection.reply_within(0).await.unwrap();
                assert_eq!(error, Reply::Error("ERR no".to_owned()));
                assert!(connection.input.capacity() < 4 * READ_SIZE);
            }
        };
        tokio::join!(writing, reading);
    }
}

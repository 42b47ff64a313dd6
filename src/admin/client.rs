//! Asks a running tandem: one request, blocking, bounded in time and size.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The text.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an address to ask.
    #[error("{0:?} is not an address to ask; write http://host:9480")]
    Url(String),
    /// Nobody answers there, or not to the end.
    #[error("no answer from {host}: {source}; is tandem running, and is this its [admin] listen?")]
    Io {
        /// Who was asked.
        host: String,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else answers there.
    #[error("what answers at {host} is not tandem; is this its [admin] listen?")]
    NotHttp {
        /// Who was asked.
        host: String,
    },
}

/// How long the whole exchange may take: shorter than the timeout of most health checks.
const DEADLINE: Duration = Duration::from_secs(5);

/// The largest answer taken, in bytes: a status has about 1 KiB for each peer.
const MAX_ANSWER: u64 = 1 << 20;

/// The address to ask for what listens here: where it listens on every interface, this machine.
#[must_use]
pub fn url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// Gets `path` from `base`, such as `http://127.0.0.1:9480`.
///
/// # Errors
/// The address is not one, nobody answers in five seconds, or what comes is not an answer.
pub fn get(base: &str, path: &str) -> Result<Answer, Error> {
    ask(base, |host| {
        format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")
    })
}

/// Posts JSON to `path` at `base`.
///
/// # Errors
/// As of [`get`].
pub fn post(base: &str, path: &str, json: &str) -> Result<Answer, Error> {
    let length = json.len();
    ask(base, |host| {
        format!(
            "POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{json}"
        )
    })
}

fn ask(base: &str, request: impl Fn(&str) -> String) -> Result<Answer, Error> {
    let host = base
        .strip_prefix("http://")
        .map(|h| h.trim_end_matches('/'));
    let host = host
        .filter(|host| !host.is_empty() && !host.contains(['/', '@', '\r', '\n', ' ']))
        .ok_or_else(|| Error::Url(base.to_owned()))?;
    let failed = |source| Error::Io {
        host: host.to_owned(),
        source,
    };
    let bytes = exchange(host, &request(host)).map_err(failed)?;
    match read_answer(&bytes) {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
        Err(NotHttp) => Err(Error::NotHttp {
            host: host.to_owned(),
        }),
    }
}

/// HTTP/1.0, so that the answer ends with the connection and never comes in chunks.
fn exchange(host: &str, request: &str) -> io::Result<Vec<u8>> {
    let end = Instant::now() + DEADLINE;
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        (!left.is_zero()).then_some(left).ok_or_else(late)
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut connected = None;
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left()?) {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => last = error,
        }
    }
    let mut stream = connected.ok_or(last)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(request.as_bytes())?;

    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        let read = match stream.read(&mut buffer) {
            // What a socket says when its timeout is over.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            read => read?,
        };
        if read == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if bytes.len() as u64 > MAX_ANSWER {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

struct NotHttp;

/// None when it was cut short.
fn read_answer(bytes: &[u8]) -> Result<Option<Answer>, NotHttp> {
    let text = std::str::from_utf8(bytes).map_err(|_| NotHttp)?;
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with("HTTP/1.") {
        return Err(NotHttp);
    }
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    let status = head.split_ascii_whitespace().nth(1);
    let status = status.and_then(|s| s.parse().ok()).ok_or(NotHttp)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    if length.is_some_and(|length| body.len() < length) {
        return Ok(None);
    }
    Ok(Some(Answer {
        status,
        body: body.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What `get` makes of these bytes.
    fn answer_to(bytes: &'static [u8]) -> Result<Answer, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url(listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            assert!(request.starts_with(b"GET /livez HTTP/1.0\r\nHost: 127.0.0.1:"));
            // The caller may have gone away already.
            stream.write_all(bytes).ok();
        });
        let answer = get(&url, "/livez");
        server.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_is_read() {
        let answer = answer_to(b"HTTP/1.0 503 No\r\ncontent-length: 3\r\nx: y\r\n\r\nno\n");
        let expected = Answer {
            status: 503,
            body: "no\n".to_owned(),
        };
        assert_eq!(answer.unwrap(), expected);
        assert_eq!(answer_to(b"HTTP/1.1 200\r\n\r\n").unwrap().status, 200);
    }

    #[test]
    fn what_is_not_an_answer_is_refused() {
        let cut: [&[u8]; 3] = [
            b"",
            b"HTTP/1.0 200 OK\r\ncontent",
            b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabc",
        ];
        for bytes in cut {
            assert!(
                matches!(answer_to(bytes), Err(Error::Io { .. })),
                "{bytes:?}"
            );
        }
        let other: [&[u8]; 3] = [
            b"-ERR unknown command\r\n",
            b"HTTP/1.0 x\r\n\r\n",
            b"\xff\xfe",
        ];
        for bytes in other {
            assert!(
                matches!(answer_to(bytes), Err(Error::NotHttp { .. })),
                "{bytes:?}"
            );
        }
        static LARGE: [u8; 2 << 20] = [b'x'; 2 << 20];
        assert!(matches!(answer_to(&LARGE), Err(Error::Io { .. })));
    }

    #[test]
    fn addresses_are_checked() {
        for bad in [
            "",
            "127.0.0.1:1",
            "https://h:1",
            "http://",
            "http://h:1/x",
            "http://u@h:1",
        ] {
            assert!(matches!(get(bad, "/"), Err(Error::Url(_))), "{bad}");
        }
        assert_eq!(url("0.0.0.0:1".parse().unwrap()), "http://127.0.0.1:1");
        assert_eq!(url("[::]:1".parse().unwrap()), "http://[::1]:1");
        assert_eq!(url("10.0.0.7:1".parse().unwrap()), "http://10.0.0.7:1");
    }

    #[test]
    fn nobody_there_is_a_clear_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url(listener.local_addr().unwrap());
        drop(listener);
        let error = get(&url, "/").unwrap_err().to_string();
        assert!(error.contains("is tandem running"), "{error}");
    }
}

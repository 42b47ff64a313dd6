//! Where the local Redis is, or who knows it, and how to log in, from a URL.
//!
//! No error of this file repeats any part of a URL: a password with an unquoted `/` or `:` would
//! be read as a host or a port, and end in a log.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::SecretString;

use super::sentinel::Sentinels;

/// How to reach one Redis.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub address: Address,
    /// The ACL user; without one, the default user logs in.
    pub username: Option<String>,
    /// Where the password comes from.
    pub password: Password,
    /// How to log in to the Sentinels of the address, if it is theirs.
    pub sentinel: Login,
}

/// How to log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// The ACL user; without one, the default user logs in.
    pub username: Option<String>,
    /// Where the password comes from.
    pub password: Password,
}

/// Where a Redis listens, or who knows where. Shown without any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address (without brackets), and a port.
    Tcp {
        /// The name or the IP address.
        host: String,
        /// The port, not 0.
        port: u16,
    },
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
    /// The primary that Sentinels name.
    Sentinel(Sentinels),
}

/// Where a password comes from. `Debug` does not show it.
#[derive(Clone, Debug)]
pub enum Password {
    /// No AUTH is sent.
    None,
    /// Given in the configuration.
    Inline(SecretString),
    /// The content of a file.
    File(PathBuf),
}

/// Why a text is not the URL of a Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error(
        "not a Redis URL; write redis://host:6379, unix:///path/to/redis.sock or \
         redis+sentinel://host:26379,host2:26379/name"
    )]
    Scheme,
    /// TLS.
    #[error("rediss:// (TLS) is not supported yet; use redis:// on this machine, or unix://")]
    Tls,
    /// Nothing where the host should be.
    #[error("no host; write redis://host:6379 (an IPv6 address in brackets)")]
    Host,
    /// A port that is no port.
    #[error("the port is not a number from 1 to 65535; write redis://host:6379")]
    Port,
    /// A database was named.
    #[error("a database in the URL; leave it out and name databases with [sync] databases")]
    Database,
    /// Something after `?` that is not known.
    #[error("an option that is not known; unix:// takes ?user=..&pass=.., redis:// takes none")]
    Query,
    /// A percent sign without two hexadecimal digits.
    #[error("a '%' without two hexadecimal digits after it; write a '%' itself as %25")]
    Percent,
    /// Percent-decoded text that is not UTF-8.
    #[error("a percent-encoded text that is not UTF-8; use password_file, or another password")]
    Utf8,
    /// Sentinels, and no name of a primary.
    #[error(
        "no name of a primary; write redis+sentinel://host:26379,host2:26379/mymaster, with the \
         name that the Sentinels' monitor line gives it"
    )]
    Primary,
    /// A Unix socket without an absolute path.
    #[error("the path of the socket is not absolute; write unix:///path/to/redis.sock")]
    SocketPath,
}

/// Why a password could not be read from its file.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It cannot be opened or read, or is not UTF-8.
    #[error("cannot read the password file {}; it must be readable by this user", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is empty. Sending no AUTH instead would hide that a secret was not mounted.
    #[error("the password file {} is empty; put the password into it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is too large to be a password.
    #[error("{} has more than {MAX_PASSWORD} bytes; is it the password file?", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

/// The port of a Redis whose URL names none.
const DEFAULT_PORT: u16 = 6379;
/// The port of a Sentinel whose URL names none.
const SENTINEL_PORT: u16 = 26379;

/// The longest password file, in bytes: tokens of identity services are a few KiB, and whatever is
/// larger was named by mistake.
const MAX_PASSWORD: u64 = 64 << 10;

impl FromStr for Settings {
    type Err = UrlError;

    /// Reads `redis://[[user]:password@]host[:port]`, `unix:///path[?user=..&pass=..]` or
    /// `redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/name`.
    fn from_str(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        match scheme {
            "redis" => tcp(rest),
            "redis+sentinel" => sentinel(rest),
            "unix" | "redis+unix" => unix(rest),
            "rediss" => Err(UrlError::Tls),
            _ => Err(UrlError::Scheme),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Sentinel(sentinels) => sentinels.fmt(f),
        }
    }
}

impl Address {
    /// The URL that leads here, without any secret.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Tcp { .. } => format!("redis://{self}"),
            Self::Unix(_) => format!("unix://{self}"),
            Self::Sentinel(sentinels) => {
                let hosts: Vec<String> = sentinels.addresses.iter().map(Self::to_string).collect();
                format!("redis+sentinel://{}/{}", hosts.join(","), sentinels.name)
            }
        }
    }
}

impl Login {
    /// Nobody logs in.
    pub const NONE: Self = Self {
        username: None,
        password: Password::None,
    };
}

impl Password {
    /// The password, if there is one. A file is read anew at every call, so that a rotated secret
    /// is used at the next connection. Newlines at its end are left out.
    ///
    /// # Errors
    /// The file cannot be read, or what it holds is not a password.
    pub fn read(&self) -> Result<Option<SecretString>, PasswordError> {
        let path = match self {
            Self::None => return Ok(None),
            Self::Inline(secret) => return Ok(Some(secret.clone())),
            Self::File(path) => path,
        };
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_PASSWORD + 1).read_to_string(&mut text))
            .map_err(|source| PasswordError::Read {
                path: path.clone(),
                source,
            })?;
        if text.len() as u64 > MAX_PASSWORD {
            return Err(PasswordError::TooLong { path: path.clone() });
        }
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
        if text.is_empty() {
            return Err(PasswordError::Empty { path: path.clone() });
        }
        Ok(Some(text.into()))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

fn tcp(rest: &str) -> Result<Settings, UrlError> {
    // At the last '@': a password may hold one, a host cannot.
    let (user_info, place) = match rest.rsplit_once('@') {
        Some((user_info, place)) => (Some(user_info), place),
        None => (None, rest),
    };
    if place.contains(['?', '#']) {
        return Err(UrlError::Query);
    }
    let (place, database) = place.split_once('/').unwrap_or((place, ""));
    if !database.is_empty() {
        return Err(UrlError::Database);
    }
    let address = host_and_port(place, DEFAULT_PORT)?;
    let (user, password) = user_info.map_or_else(|| Ok(Default::default()), login)?;
    Ok(with_login(address, user, password))
}

/// What stands behind `redis+sentinel://`.
fn sentinel(rest: &str) -> Result<Settings, UrlError> {
    let (user_info, place) = match rest.rsplit_once('@') {
        Some((user_info, place)) => (Some(user_info), place),
        None => (None, rest),
    };
    if place.contains(['?', '#']) {
        return Err(UrlError::Query);
    }
    let (hosts, name) = place.split_once('/').ok_or(UrlError::Primary)?;
    let name = percent_decoded(name)?;
    if name.is_empty() || name.contains('/') {
        return Err(UrlError::Primary);
    }
    let hosts = hosts.split(',');
    let addresses = hosts.map(|host| host_and_port(host, SENTINEL_PORT));
    let addresses = addresses.collect::<Result<_, _>>()?;
    let (user, password) = user_info.map_or_else(|| Ok(Default::default()), login)?;
    let sentinels = Sentinels::new(addresses, name);
    Ok(with_login(Address::Sentinel(sentinels), user, password))
}

fn login(user_info: &str) -> Result<(String, String), UrlError> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    Ok((percent_decoded(user)?, percent_decoded(password)?))
}

fn host_and_port(place: &str, default: u16) -> Result<Address, UrlError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']').ok_or(UrlError::Host)?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(port),
                None if port.is_empty() => None,
                None => return Err(UrlError::Port),
            };
            (host, port)
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err(UrlError::Host);
    }
    let port = match port {
        None => default,
        Some(port) => port.parse().map_err(|_| UrlError::Port)?,
    };
    if port == 0 {
        return Err(UrlError::Port);
    }
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn unix(rest: &str) -> Result<Settings, UrlError> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') || path == "/" {
        return Err(UrlError::SocketPath);
    }
    let (mut user, mut password) = Default::default();
    for option in query.split('&').filter(|o| !o.is_empty()) {
        let (name, value) = option.split_once('=').ok_or(UrlError::Query)?;
        match name {
            "user" | "username" => user = percent_decoded(value)?,
            "pass" | "password" => password = percent_decoded(value)?,
            "db" => return Err(UrlError::Database),
            _ => return Err(UrlError::Query),
        }
    }
    let address = Address::Unix(percent_decoded(path)?.into());
    Ok(with_login(address, user, password))
}

/// Empty means absent, for the user and for the password: `redis://:secret@host` logs the default
/// user in.
fn with_login(address: Address, user: String, password: String) -> Settings {
    Settings {
        address,
        username: (!user.is_empty()).then_some(user),
        password: if password.is_empty() {
            Password::None
        } else {
            Password::Inline(password.into())
        },
        sentinel: Login::NONE,
    }
}

/// A '+' stays a '+': forms read it as a space, but passwords in base64 are full of them.
fn percent_decoded(text: &str) -> Result<String, UrlError> {
    let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = digit(bytes.next()).ok_or(UrlError::Percent)?;
        let low = digit(bytes.next()).ok_or(UrlError::Percent)?;
        decoded.push(u8::try_from(high * 16 + low).map_err(|_| UrlError::Percent)?);
    }
    String::from_utf8(decoded).map_err(|_| UrlError::Utf8)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(url: &str) -> (String, Option<String>, Option<String>) {
        let settings: Settings = url.parse().unwrap();
        let password = settings.password.read().unwrap();
        (
            settings.address.to_string(),
            settings.username,
            password.map(|p| p.expose_secret().to_owned()),
        )
    }

    #[test]
    fn urls_are_read() {
        let cases = [
            ("redis://127.0.0.1:6379", "127.0.0.1:6379", "", ""),
            ("redis://redis-a", "redis-a:6379", "", ""),
            ("redis://redis-a:1/", "redis-a:1", "", ""),
            ("redis://:p@h", "h:6379", "", "p"),
            ("redis://u:p@h:7", "h:7", "u", "p"),
            ("redis://u@h", "h:6379", "u", ""),
            ("redis://u%40x:p%3a%2F%25@[::1]:7", "[::1]:7", "u@x", "p:/%"),
            (
                "redis://:a/b@c:d?e@[fe80::1]",
                "[fe80::1]:6379",
                "",
                "a/b@c:d?e",
            ),
            ("unix:///run/redis.sock", "/run/redis.sock", "", ""),
            ("unix:///a%20b?user=u&pass=p+%26", "/a b", "u", "p+&"),
            ("redis+unix:///s?password=p", "/s", "", "p"),
            (
                "redis+sentinel://u:p@s1,[::1]:7,s2:26380/my%20primary",
                "primary \"my primary\" of the Sentinels at s1:26379, [::1]:7, s2:26380",
                "u",
                "p",
            ),
        ];
        for (url, address, user, password) in cases {
            let some = |t: &str| (!t.is_empty()).then(|| t.to_owned());
            let expected = (address.to_owned(), some(user), some(password));
            assert_eq!(read(url), expected, "{url}");
        }
    }

    #[test]
    fn what_is_not_a_url_is_refused_without_showing_it() {
        let cases = [
            ("127.0.0.1:6379", UrlError::Scheme),
            ("http://hunter2@h", UrlError::Scheme),
            ("rediss://:hunter2@h", UrlError::Tls),
            ("redis://", UrlError::Host),
            ("redis://:hunter2@:6379", UrlError::Host),
            ("redis://:hunter2@[::1", UrlError::Host),
            ("redis://h:hunter2", UrlError::Port),
            ("redis://h:0", UrlError::Port),
            ("redis://h:65536", UrlError::Port),
            ("redis://[::1]hunter2", UrlError::Port),
            ("redis://h/0", UrlError::Database),
            ("unix:///s?db=0", UrlError::Database),
            ("redis://h?pass=hunter2", UrlError::Query),
            ("unix:///s?hunter2", UrlError::Query),
            ("unix:///s?secret=hunter2", UrlError::Query),
            ("redis://:hunter2%@h", UrlError::Percent),
            ("redis://:hunter2%zz@h", UrlError::Percent),
            ("redis://:hunter2%+1@h", UrlError::Percent),
            ("redis://:hunter2%ff@h", UrlError::Utf8),
            ("redis+sentinel://:hunter2@s1", UrlError::Primary),
            ("redis+sentinel://s1,s2/", UrlError::Primary),
            ("redis+sentinel://s1/a/hunter2", UrlError::Primary),
            ("redis+sentinel://s1,,hunter2/m", UrlError::Host),
            ("redis+sentinel://s1:hunter2/m", UrlError::Port),
            ("redis+sentinel://s1/m?hunter2", UrlError::Query),
            ("unix://run/redis.sock", UrlError::SocketPath),
            ("unix:///", UrlError::SocketPath),
        ];
        for (url, expected) in cases {
            let error = url.parse::<Settings>().unwrap_err();
            assert_eq!(error, expected, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn a_password_file_is_read_anew_each_time() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let password = Password::File(file.path().to_owned());
        assert!(matches!(password.read(), Err(PasswordError::Empty { .. })));
        file.write_all(b"first word \r\n\n").unwrap();
        let read = password.read().unwrap().unwrap();
        assert_eq!(read.expose_secret(), "first word ");
        file.as_file().set_len(0).unwrap();
        file.write_all(b"x").unwrap();
        assert_ne!(
            password.read().unwrap().unwrap().expose_secret(),
            "first word "
        );
        file.as_file().set_len(MAX_PASSWORD + 1).unwrap();
        assert!(matches!(
            password.read(),
            Err(PasswordError::TooLong { .. })
        ));
        let error = Password::File("/no/such".into()).read().unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }

    #[test]
    fn debug_does_not_show_the_password() {
        let settings: Settings = "redis://u:hunter2@h".parse().unwrap();
        let shown = format!("{settings:?} {}", settings.address);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

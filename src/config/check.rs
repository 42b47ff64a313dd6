//! From values to a configuration: every rule, and the remedy when it is broken.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::mistake::Mistake;
use super::source::{Section, Source, Value};
use super::{
    Acknowledge, Admin, BIG_VALUES, Compression, Config, Conflicts, DEFAULT_ADMIN,
    DEFAULT_BIG_VALUE, DEFAULT_CONFLICT_RATE, DEFAULT_JOURNAL, DEFAULT_LINK, DEFAULT_REMEMBERED,
    Databases, Evictions, Existing, Flush, Fsync, Initial, JournalConfig, Keys, Link,
    MAX_CONFLICT_RATE, MAX_PATTERNS, MIN_JOURNAL, MIN_RATE, Peer, Publish, REMEMBERED, ReadFrom,
    Size, Sync, WhenFull,
};
use crate::model::{Pattern, ShownKeys, SiteId};
use crate::redis::{Address, Login, Password, Role, Settings};

/// Checks everything. None only together with a mistake.
pub(super) fn config(source: &Source, mistakes: &mut Vec<Mistake>) -> Option<Config> {
    let top = source.section("")?;
    let site = required(top, "site", "write site = \"name\"", mistakes, site_name);
    let redis = redis(source.section("redis")?, mistakes);
    let read_from = read_from(source.section("redis")?, redis.as_ref(), mistakes);
    let link = link(source.section("link")?, mistakes);
    let peers = peers(source, site.as_ref(), &link, mistakes);
    let sync = sync(source.section("sync")?, mistakes);
    if read_from.replica().is_some() && sync.acknowledge == Acknowledge::Peers {
        let message = "peers, but [redis] read_from is a replica, and WAIT counts the replicas of \
                       the primary alone; set read_from to primary, or acknowledge to journal";
        mistake(source.section("sync")?, "acknowledge", message, mistakes);
    }
    let journal = journal(source.section("journal")?, mistakes);
    let conflicts = conflicts(source.section("conflicts")?, mistakes);
    let admin = admin(source.section("admin")?, &link, mistakes);
    Some(Config {
        site: site?,
        redis: redis?,
        read_from,
        link,
        peers,
        sync,
        journal: journal?,
        conflicts,
        admin,
    })
}

fn redis(section: &Section, mistakes: &mut Vec<Mistake>) -> Option<Settings> {
    let remedy = "write url = \"redis://127.0.0.1:6379\"";
    let url = required(section, "url", remedy, mistakes, |v| {
        v.text()?.parse::<Settings>().map_err(|e| e.to_string())
    });
    let username = optional(section, "username", mistakes, |v| {
        v.filled().map(str::to_owned)
    });
    let inline = optional(section, "password", mistakes, |v| {
        v.filled().map(|text| Password::Inline(text.into()))
    });
    let file = optional(section, "password_file", mistakes, |v| {
        v.filled().map(|text| Password::File(text.into()))
    });
    let mut settings = url?;

    let from_url = std::mem::replace(&mut settings.password, Password::None);
    let given = [("url", from_url)]
        .into_iter()
        .filter(|(_, p)| !p.is_none());
    let given = given
        .chain(inline.map(|p| ("password", p)))
        .chain(file.map(|p| ("password_file", p)));
    let remedy = "the password is given twice; keep one of password, password_file and url";
    if let Some(password) = chosen(section, given.collect(), remedy, mistakes) {
        settings.password = password;
    }
    let given = settings.username.take().map(|name| ("url", name));
    let given = given.into_iter().chain(username.map(|n| ("username", n)));
    let remedy = "the user is given twice; keep one of username and url";
    settings.username = chosen(section, given.collect(), remedy, mistakes);

    let set = |key| section.entry(key).is_some();
    let no_password = settings.password.is_none() && !set("password") && !set("password_file");
    if settings.username.is_some() && no_password {
        let key = if set("username") { "username" } else { "url" };
        let message = "a user without a password; add password_file, or write \
                       redis://:password@host for a password alone";
        mistake(section, key, message, mistakes);
    }
    settings.sentinel = sentinel_login(section, &settings.address, mistakes);
    Some(settings)
}

/// How to log in to the Sentinels, which have users of their own.
fn sentinel_login(section: &Section, address: &Address, mistakes: &mut Vec<Mistake>) -> Login {
    let username = optional(section, "sentinel_username", mistakes, |v| {
        v.filled().map(str::to_owned)
    });
    let inline = optional(section, "sentinel_password", mistakes, |v| {
        v.filled().map(|text| Password::Inline(text.into()))
    });
    let file = optional(section, "sentinel_password_file", mistakes, |v| {
        v.filled().map(|text| Password::File(text.into()))
    });
    let inline = inline.map(|p| ("sentinel_password", p));
    let file = file.map(|p| ("sentinel_password_file", p));
    let remedy = "the password is given twice; keep one of sentinel_password and \
                  sentinel_password_file";
    let given = inline.into_iter().chain(file).collect();
    let password = chosen(section, given, remedy, mistakes);
    let keys = [
        "sentinel_username",
        "sentinel_password",
        "sentinel_password_file",
    ];
    let set = keys.into_iter().find(|key| section.entry(key).is_some());
    if let Some(key) = set
        && !matches!(address, Address::Sentinel(_))
    {
        let message = "url names no Sentinels; remove this, or write \
                       redis+sentinel://host:26379/name there";
        mistake(section, key, message, mistakes);
    } else if username.is_some() && password.is_none() {
        let message = "a user without a password; add sentinel_password_file";
        mistake(section, "sentinel_username", message, mistakes);
    }
    Login {
        username,
        password: password.unwrap_or(Password::None),
    }
}

fn read_from(section: &Section, redis: Option<&Settings>, mistakes: &mut Vec<Mistake>) -> ReadFrom {
    let read = |value: &Value| {
        let text = value.text()?;
        let Some(redis) = redis else {
            return Ok(ReadFrom::Primary);
        };
        Ok(match (text, &redis.address) {
            ("primary", _) => ReadFrom::Primary,
            ("replica", Address::Sentinel(sentinels)) => {
                let sentinels = sentinels.clone().naming(Role::Replica);
                let address = Address::Sentinel(sentinels);
                let redis = redis.clone();
                ReadFrom::Replica(Settings { address, ..redis })
            }
            ("replica", _) => {
                return Err(
                    "url names no Sentinels that know one; write the replica's own URL, \
                            redis://host:6379"
                        .to_owned(),
                );
            }
            (url, _) => ReadFrom::Server(replica(url, redis)?),
        })
    };
    optional(section, "read_from", mistakes, read).unwrap_or(ReadFrom::Primary)
}

/// A replica by its URL; who logs in at the primary logs in there.
fn replica(url: &str, redis: &Settings) -> Result<Settings, String> {
    let settings: Settings = match url.contains("://") {
        true => url.parse().map_err(reason)?,
        false => return Err("must be primary, replica or the URL of a replica".to_owned()),
    };
    if matches!(settings.address, Address::Sentinel(_)) {
        return Err("write replica, and the Sentinels in url".to_owned());
    }
    Ok(match settings.password.is_none() {
        true => Settings {
            address: settings.address,
            ..redis.clone()
        },
        false => settings,
    })
}

/// Of several ways to give one thing, the one that counts: a variable's rather than the file's;
/// two of the same rank are a mistake.
fn chosen<T>(
    section: &Section,
    mut given: Vec<(&str, T)>,
    twice: &str,
    mistakes: &mut Vec<Mistake>,
) -> Option<T> {
    let by_variable = |key: &str| section.entry(key).is_some_and(|e| e.is_variable());
    if given.iter().any(|(key, _)| by_variable(key)) {
        given.retain(|(key, _)| by_variable(key));
    }
    let (key, value) = given.pop()?;
    if !given.is_empty() {
        mistake(section, key, twice, mistakes);
    }
    Some(value)
}

fn link(section: &Section, mistakes: &mut Vec<Mistake>) -> Link {
    let listen = optional(section, "listen", mistakes, |value| match value.text()? {
        "off" => Ok(None),
        text => socket_address(text, "0.0.0.0:7480, or \"off\"").map(Some),
    });
    let compression = optional(section, "compression", mistakes, |v| {
        word(v, Compression::WORDS)
    });
    Link {
        listen: listen.unwrap_or(Some(DEFAULT_LINK)),
        compression: compression.unwrap_or_default(),
    }
}

fn peers(
    source: &Source,
    own: Option<&SiteId>,
    link: &Link,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for section in &source.peers {
        let remedy = "write the peer's own name, site = \"name\"";
        let site = required(section, "site", remedy, mistakes, site_name);
        let address = optional(section, "address", mistakes, |v| host_and_port(v.text()?));
        if section.entry("address").is_none() && link.listen.is_none() {
            let message = "missing, and link.listen is off; set one of them, or nobody dials";
            mistake(section, "address", message, mistakes);
        }
        let Some(site) = site else { continue };
        if own == Some(&site) {
            let message = "the name of this site; write the name of the other one";
            mistake(section, "site", message, mistakes);
        }
        if peers.iter().any(|p| p.site == site) {
            let message = "another peer has this name; give each site its own";
            mistake(section, "site", message, mistakes);
        }
        peers.push(Peer { site, address });
    }
    // A broken [[peer]] is a mistake already.
    if source.peers.is_empty() && !mistakes.iter().any(|m| m.is_about("peer")) {
        let message = "missing; add [[peer]] with site and address, for each other site";
        mistakes.push(Mistake::new(super::Place::File, "peer", message));
    }
    peers
}

fn sync(section: &Section, mistakes: &mut Vec<Mistake>) -> Sync {
    let initial = optional(section, "initial", mistakes, |v| word(v, Initial::WORDS));
    let existing = optional(section, "existing", mistakes, |v| word(v, Existing::WORDS));
    let databases = optional(section, "databases", mistakes, databases);
    let include = optional(section, "keys", mistakes, patterns);
    let exclude = optional(section, "exclude_keys", mistakes, patterns);
    let flush = optional(section, "flush", mistakes, |v| word(v, Flush::WORDS));
    let publish = optional(section, "publish", mistakes, |v| word(v, Publish::WORDS));
    let evictions = optional(section, "evictions", mistakes, |v| {
        word(v, Evictions::WORDS)
    });
    let acknowledge = optional(section, "acknowledge", mistakes, |v| {
        word(v, Acknowledge::WORDS)
    });
    let max_rate = optional(section, "max_rate", mistakes, max_rate);
    let big_value = optional(section, "big_value", mistakes, big_value);
    Sync {
        initial: initial.unwrap_or_default(),
        existing: existing.unwrap_or_default(),
        databases: databases.unwrap_or_default(),
        keys: Keys {
            include: include.unwrap_or_default(),
            exclude: exclude.unwrap_or_default(),
        },
        flush: flush.unwrap_or_default(),
        publish: publish.unwrap_or_default(),
        evictions: evictions.unwrap_or_default(),
        acknowledge: acknowledge.unwrap_or_default(),
        max_rate: max_rate.flatten(),
        big_value: big_value.unwrap_or(DEFAULT_BIG_VALUE),
    }
}

/// Bytes: `"4MiB"`.
fn big_value(value: &Value) -> Result<u64, String> {
    let size: Size = value.text()?.parse().map_err(reason)?;
    if !BIG_VALUES.contains(&size.0) {
        let (least, most) = (Size(*BIG_VALUES.start()), Size(*BIG_VALUES.end()));
        return Err(format!("must be from {least} to {most}"));
    }
    Ok(size.0)
}

/// `"off"`, or bytes a second: `"50MB"`.
fn max_rate(value: &Value) -> Result<Option<u64>, String> {
    let text = value.text()?;
    if text == "off" {
        return Ok(None);
    }
    let size: Size = text.parse().map_err(reason)?;
    if size.0 < MIN_RATE {
        return Err(format!(
            "too small; write {} or more, or \"off\"",
            Size(MIN_RATE)
        ));
    }
    Ok(Some(size.0))
}

/// `"all"`, `["user:*", "session:*"]`, or in a variable `user:*,session:*`.
fn patterns(value: &Value) -> Result<Vec<Pattern>, String> {
    let wrong = || "not patterns; write [\"user:*\", \"session:*\"]".to_owned();
    let texts: Vec<&str> = match value {
        Value::Text(text) if text == "all" => return Ok(Vec::new()),
        Value::Text(text) => text.split(',').map(str::trim).collect(),
        Value::List(list) => list.iter().map(Value::text).collect::<Result<_, _>>()?,
        Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => return Err(wrong()),
    };
    if texts.len() > MAX_PATTERNS {
        return Err(format!(
            "more than {MAX_PATTERNS} patterns; use fewer, wider ones"
        ));
    }
    let parsed = texts.iter().map(|text| Pattern::parse(text));
    let patterns = parsed.collect::<Result<Vec<_>, _>>();
    patterns.map_err(|e| format!("a pattern {e}; write [\"user:*\"]"))
}

fn journal(section: &Section, mistakes: &mut Vec<Mistake>) -> Option<JournalConfig> {
    let remedy = "write dir = \"/var/lib/tandem\", on a disk that outlives a restart";
    let dir = required(section, "dir", remedy, mistakes, |v| {
        v.filled().map(PathBuf::from)
    });
    let max_size = optional(section, "max_size", mistakes, |value| {
        let size: Size = value.text()?.parse().map_err(reason)?;
        if size.0 < MIN_JOURNAL {
            return Err(format!("too small; write {} or more", Size(MIN_JOURNAL)));
        }
        Ok(size.0)
    });
    let fsync = optional(section, "fsync", mistakes, |v| word(v, Fsync::WORDS));
    let when_full = optional(section, "when_full", mistakes, |v| word(v, WhenFull::WORDS));
    Some(JournalConfig {
        dir: dir?,
        max_size: max_size.unwrap_or(DEFAULT_JOURNAL),
        fsync: fsync.unwrap_or_default(),
        when_full: when_full.unwrap_or_default(),
    })
}

fn conflicts(section: &Section, mistakes: &mut Vec<Mistake>) -> Conflicts {
    let log = optional(section, "log", mistakes, |value| match value.filled()? {
        "off" => Ok(None),
        path => Ok(Some(PathBuf::from(path))),
    });
    let keys = optional(section, "keys", mistakes, |value| word(value, &SHOWN_KEYS));
    let max_rate = optional(section, "max_rate", mistakes, |value| {
        let rate = number(value, "lines a second", 1..=MAX_CONFLICT_RATE)?;
        u32::try_from(rate).map_err(reason)
    });
    let remember = optional(section, "remember", mistakes, |value| {
        usize::try_from(number(value, "writes", REMEMBERED)?).map_err(reason)
    });
    Conflicts {
        remember: remember.unwrap_or(DEFAULT_REMEMBERED),
        log: log.flatten(),
        keys: keys.unwrap_or_default(),
        max_rate: max_rate.unwrap_or(DEFAULT_CONFLICT_RATE),
    }
}

/// The words for how keys are shown.
pub(super) const SHOWN_KEYS: [(&str, ShownKeys); 3] = [
    ("full", ShownKeys::Full),
    ("hash", ShownKeys::Hash),
    ("none", ShownKeys::None),
];

fn admin(section: &Section, link: &Link, mistakes: &mut Vec<Mistake>) -> Admin {
    let listen = optional(section, "listen", mistakes, |v| {
        socket_address(v.text()?, "127.0.0.1:9480")
    });
    let listen = listen.unwrap_or(DEFAULT_ADMIN);
    let clash = |other: SocketAddr| {
        let any = other.ip().is_unspecified() || listen.ip().is_unspecified();
        listen.port() != 0 && other.port() == listen.port() && (any || other.ip() == listen.ip())
    };
    if link.listen.is_some_and(clash) {
        let message = "the port of link.listen; give each its own, such as 7480 and 9480";
        mistake(section, "listen", message, mistakes);
    }
    let allow_repair = optional(section, "allow_repair", mistakes, yes_or_no);
    Admin {
        listen,
        allow_repair: allow_repair.unwrap_or(false),
    }
}

impl Value {
    fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Integer(_) => Err("a number, not a text; put it in quotes".to_owned()),
            Self::Boolean(_) => Err("boolean, not a text; write a text in quotes".to_owned()),
            Self::List(_) => Err("a list, not a text; write one text in quotes".to_owned()),
            Self::Other(word) => Err(format!("{word}, not a text; write a text in quotes")),
        }
    }

    fn filled(&self) -> Result<&str, String> {
        match self.text()? {
            "" => Err("empty; fill it in, or leave the line out".to_owned()),
            text => Ok(text),
        }
    }
}

/// The value of a key that may be absent. None after a mistake too: the mistake decides then.
fn optional<T>(
    section: &Section,
    key: &str,
    mistakes: &mut Vec<Mistake>,
    read: impl FnOnce(&Value) -> Result<T, String>,
) -> Option<T> {
    match read(&section.entry(key)?.value) {
        Ok(value) => Some(value),
        Err(message) => {
            mistake(section, key, &message, mistakes);
            None
        }
    }
}

fn required<T>(
    section: &Section,
    key: &str,
    remedy: &str,
    mistakes: &mut Vec<Mistake>,
    read: impl FnOnce(&Value) -> Result<T, String>,
) -> Option<T> {
    if section.entry(key).is_none() && !section.is_refused(mistakes) {
        mistake(section, key, &format!("missing; {remedy}"), mistakes);
    }
    optional(section, key, mistakes, read)
}

fn mistake(section: &Section, key: &str, message: &str, mistakes: &mut Vec<Mistake>) {
    let place = section.place(key).clone();
    mistakes.push(Mistake::new(place, section.path(key), message));
}

fn site_name(value: &Value) -> Result<SiteId, String> {
    SiteId::try_new(value.text()?).map_err(reason)
}

/// A variable can hold a text only.
/// A whole number; a variable holds it as text.
fn number(value: &Value, of_what: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = match value {
        Value::Integer(number) => Some(*number),
        Value::Text(text) => text.parse().ok(),
        _ => None,
    };
    let (least, most) = (range.start(), range.end());
    let wrong = || format!("not a number of {of_what} from {least} to {most}");
    number.filter(|n| range.contains(n)).ok_or_else(wrong)
}

fn yes_or_no(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Text(text) if text == "true" => Ok(true),
        Value::Text(text) if text == "false" => Ok(false),
        _ => Err("neither true nor false; write one of them, without quotes".to_owned()),
    }
}

fn socket_address(text: &str, example: &str) -> Result<SocketAddr, String> {
    let message = || format!("not an IP address and a port; write for example {example}");
    text.parse().map_err(|_| message())
}

fn host_and_port(text: &str) -> Result<String, String> {
    let known = |(host, port): (&str, &str)| {
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host_fits = match bracketed {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(name),
        };
        host_fits && port.parse::<u16>().is_ok_and(|p| p != 0)
    };
    if text.rsplit_once(':').is_some_and(known) {
        Ok(text.to_owned())
    } else {
        let message = "not a host and a port; write for example tandem-b:7480 or 192.0.2.1:7480";
        Err(message.to_owned())
    }
}

fn word<T: Copy>(value: &Value, words: &[(&str, T)]) -> Result<T, String> {
    let text = value.text()?;
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("not a choice; write one of {}", words.join(", "))
    })
}

/// `"all"`, `[0, 3]`, or in a variable `0,3`.
fn databases(value: &Value) -> Result<Databases, String> {
    let wrong = || "not databases; write \"all\" or a list of numbers, [0, 3]".to_owned();
    let only: Option<BTreeSet<u32>> = match value {
        Value::Text(text) if text == "all" => return Ok(Databases::All),
        Value::Text(text) => text.split(',').map(|n| n.trim().parse().ok()).collect(),
        Value::List(list) => list.iter().map(Value::database).collect(),
        Value::Integer(_) => value.database().map(|db| BTreeSet::from([db])),
        Value::Boolean(_) | Value::Other(_) => None,
    };
    match only {
        Some(only) if only.is_empty() => Err("an empty list; write \"all\" or [0]".to_owned()),
        Some(only) => Ok(Databases::Only(only)),
        None => Err(wrong()),
    }
}

impl Value {
    fn database(&self) -> Option<u32> {
        match self {
            Self::Integer(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }
}

fn reason(error: impl Display) -> String {
    error.to_string()
}

//! One row of the table: what a client writes, from which version on, and who can hold it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::Client;

/// A command in one of its forms.
///
/// A line is a command. `@` stands for the prefix of the case, so that no case touches another's
/// keys; `{site}` for the site that writes; `{db}` and `{db2}` for databases of its own; `{s+100}`, `{ms+100}`, `{s-100}`, `{ms-100}`
/// for a moment so many seconds from now; `{port}` for the port of a third server; `{reply}` for the
/// reply to the line before. A line may begin with
///
/// * `!`: the server must refuse it;
/// * `?`: the server may refuse it;
/// * `&`: a second client sends it and is kept waiting;
/// * `~`: nothing is sent for so many milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// The command and the form: unique.
    pub(crate) name: &'static str,
    /// The first versions that know it.
    pub(crate) since: Since,
    /// What the other site needs to hold the result, when that is more than a Redis 5.0 can.
    pub(crate) needs: Option<Needs>,
    pub(crate) lines: &'static [&'static str],
    /// Questions and the answers that both sites must give at the end.
    pub(crate) answers: &'static [(&'static str, &'static str)],
    /// It touches more than its own keys, so it runs when nothing else does.
    pub(crate) alone: bool,
    /// Why the sites may differ: what of it no server tells its replicas.
    pub(crate) unsaid: Option<Unsaid>,
}

/// A case with the usual expectations.
pub(crate) const fn case(name: &'static str, since: Since, lines: &'static [&'static str]) -> Case {
    Case {
        name,
        since,
        needs: None,
        lines,
        answers: &[],
        alone: false,
        unsaid: None,
    }
}

impl Case {
    /// With questions that both sites must answer so at the end.
    pub(crate) const fn answers(self, answers: &'static [(&'static str, &'static str)]) -> Self {
        Self { answers, ..self }
    }

    /// Only these servers can hold what it leaves behind.
    pub(crate) const fn needs(self, needs: Needs) -> Self {
        Self {
            needs: Some(needs),
            ..self
        }
    }

    /// It touches more than its own keys.
    pub(crate) const fn alone(self) -> Self {
        Self {
            alone: true,
            ..self
        }
    }

    /// A server does not tell its replicas this, or not before a version.
    pub(crate) const fn unsaid(self, what: &'static str, until: Option<Since>) -> Self {
        Self {
            unsaid: Some(Unsaid { what, until }),
            ..self
        }
    }

    /// What a key of this case begins with when `site` writes it.
    pub(crate) fn prefix(&self, site: &str) -> String {
        let letters = self.name.to_lowercase();
        let slug = letters.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        format!("{site}:{slug}:")
    }

    /// Whether it needs databases of its own.
    pub(crate) fn has_databases(&self) -> bool {
        self.lines.iter().any(|line| line.contains("{db"))
    }

    /// The commands in it, in upper case; of `FUNCTION LOAD` and its like the first two words.
    pub(crate) fn commands(&self) -> impl Iterator<Item = String> {
        const CONTAINERS: &[&str] = &["FUNCTION", "XGROUP", "SCRIPT", "CLUSTER"];
        self.lines.iter().flat_map(|line| {
            let line = line.trim_start_matches(['!', '?', '&', ' ']).to_uppercase();
            let mut words = line.split(' ').map(str::to_owned);
            let first = words.next().unwrap_or_default();
            let second = words.next().unwrap_or_default();
            let both = CONTAINERS
                .contains(&first.as_str())
                .then(|| format!("{first}|{second}"));
            [Some(first), both].into_iter().flatten()
        })
    }
}

/// What stands for the placeholders of a line.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) site: &'static str,
    pub(crate) prefix: String,
    pub(crate) databases: [usize; 2],
    /// The port of a third server.
    pub(crate) port: u16,
}

impl Names {
    /// A line without placeholders, for now.
    pub(crate) fn fill(&self, line: &str) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock");
        let span = Duration::from_secs(100);
        line.replace('@', &self.prefix)
            .replace("{site}", self.site)
            .replace("{db}", &self.databases[0].to_string())
            .replace("{db2}", &self.databases[1].to_string())
            .replace("{port}", &self.port.to_string())
            .replace("{s+100}", &(now + span).as_secs().to_string())
            .replace("{ms+100}", &(now + span).as_millis().to_string())
            .replace("{s-100}", &(now - span).as_secs().to_string())
            .replace("{ms-100}", &(now - span).as_millis().to_string())
    }
}

/// The first versions with a feature, per product. Redict is Redis 7.2 under another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Since {
    pub(crate) redis: Option<(u32, u32)>,
    pub(crate) valkey: Option<(u32, u32)>,
}

/// Everybody.
pub(crate) const R50: Since = redis(5, 0);
/// Redis 6.0, and so all forks.
pub(crate) const R60: Since = redis(6, 0);
/// Redis 6.2, and so all forks.
pub(crate) const R62: Since = redis(6, 2);
/// Redis 7.0, and so all forks.
pub(crate) const R70: Since = redis(7, 0);
/// Fields that expire.
pub(crate) const FIELD_TTL: Since = both((7, 4), (9, 0));
/// HSETEX and HGETEX.
pub(crate) const R80_V90: Since = both((8, 0), (9, 0));
/// HGETDEL.
pub(crate) const R80_V91: Since = both((8, 0), (9, 1));
/// Vector sets.
pub(crate) const R80: Since = only_redis(8, 0);
/// HINCRBYFLOAT that is streamed with the TTL of its field.
pub(crate) const R82_V90: Since = both((8, 2), (9, 0));
/// Redis 8.2 only.
pub(crate) const R82: Since = only_redis(8, 2);
/// Redis 8.4 only.
pub(crate) const R84: Since = only_redis(8, 4);
/// SET IFEQ.
pub(crate) const R84_V81: Since = both((8, 4), (8, 1));
/// MSETEX.
pub(crate) const R84_V91: Since = both((8, 4), (9, 1));
/// Redis 8.6 only.
pub(crate) const R86: Since = only_redis(8, 6);
/// Valkey 9.0 only.
pub(crate) const V90: Since = Since {
    redis: None,
    valkey: Some((9, 0)),
};

/// A version that all forks of Redis 7.2 descend from.
const fn redis(major: u32, minor: u32) -> Since {
    both((major, minor), (0, 0))
}

const fn both(redis: (u32, u32), valkey: (u32, u32)) -> Since {
    Since {
        redis: Some(redis),
        valkey: Some(valkey),
    }
}

const fn only_redis(major: u32, minor: u32) -> Since {
    Since {
        redis: Some((major, minor)),
        valkey: None,
    }
}

impl Since {
    /// Whether this server is new enough.
    pub(crate) fn knows(self, server: &Product) -> bool {
        let since = match server.line {
            Line::Redis | Line::Redict => self.redis,
            Line::Valkey => self.valkey,
        };
        since.is_some_and(|since| server.version >= since)
    }

    /// In words for the documentation.
    pub(crate) fn describe(self) -> String {
        let redis = self
            .redis
            .map(|(major, minor)| format!("Redis {major}.{minor}"));
        let valkey = self
            .valkey
            .filter(|v| *v > (0, 0))
            .map(|(major, minor)| format!("Valkey {major}.{minor}"));
        let names: Vec<String> = redis.into_iter().chain(valkey).collect();
        names.join(", ")
    }
}

/// What no server tells its replicas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsaid {
    pub(crate) what: &'static str,
    /// The first version that does.
    pub(crate) until: Option<Since>,
}

/// What a server must have to hold the result of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub(crate) since: Since,
    /// What the others lack.
    pub(crate) what: &'static str,
}

/// Hash fields with a TTL.
pub(crate) const FIELD_TTLS: Needs = Needs {
    since: FIELD_TTL,
    what: "hash fields with a TTL",
};
/// Vector sets.
pub(crate) const VECTOR_SETS: Needs = Needs {
    since: R80,
    what: "vector sets",
};
/// Libraries of functions.
pub(crate) const FUNCTIONS: Needs = Needs {
    since: R70,
    what: "functions",
};
/// Shard channels.
pub(crate) const SHARD_CHANNELS: Needs = Needs {
    since: R70,
    what: "shard channels",
};

/// Who made a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Redis,
    Redict,
    Valkey,
}

/// A server as far as a case cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) line: Line,
    pub(crate) version: (u32, u32),
}

impl Product {
    /// What this server says that it is.
    pub(crate) fn of(client: &mut Client) -> Self {
        let numbers = |text: Option<String>| text.map(|t| crate::harness::server::numbers(&t));
        if let Some(version) = numbers(client.info("server", "valkey_version")) {
            return Self {
                line: Line::Valkey,
                version,
            };
        }
        if client.info("server", "redict_version").is_some() {
            return Self {
                line: Line::Redict,
                version: (7, 2),
            };
        }
        Self {
            line: Line::Redis,
            version: client.version(),
        }
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let (major, minor) = self.version;
        match self.line {
            Line::Redict => "Redict".to_owned(),
            line => format!("{line:?} {major}.{minor}"),
        }
    }
}

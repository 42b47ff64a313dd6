//! What a server says of itself.

use super::connection::{Connection, Error};
use super::reply::Reply;

/// The oldest server that Tandem works with: RESTORE knows ABSTTL since 5.0.
pub const OLDEST: Version = Version {
    major: 5,
    minor: 0,
    patch: 0,
};

/// A server's version, as `redis_version` of INFO names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// Reads `7.0.15`; what is missing or no number counts as zero.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut numbers = text.split('.').map(|n| n.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self {
            major: next(),
            minor: next(),
            patch: next(),
        }
    }

    /// Whether it is at least `major.minor`.
    #[must_use]
    pub const fn at_least(&self, major: u32, minor: u32) -> bool {
        self.major > major || (self.major == major && self.minor >= minor)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Modules that come with the servers, and write nothing but what clients have them write: Redis 8 has the
/// first five, Valkey 9.1 the last.
const TAME_MODULES: [&str; 6] = ["bf", "ReJSON", "search", "timeseries", "vectorset", "lua"];

/// The parts of INFO that matter to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The compatibility version: for Valkey 7.2.4, whatever it is itself.
    pub version: Version,
    /// For people: `Redis 7.0.15`, `Valkey 9.1.2`.
    pub product: String,
    /// `master` or `slave`.
    pub role: String,
    /// The id of this life of the server process.
    pub run_id: String,
    /// The replication id.
    pub replid: String,
    /// The id of the history that it followed as a replica, until it became a primary; all zeros
    /// when there is none.
    pub replid2: String,
    /// Where in that history it left it: the first byte that is its own. None when there is none.
    pub forked_at: Option<u64>,
    /// The replication offset.
    pub offset: u64,
    /// Whether it is a member of a Redis Cluster.
    pub cluster: bool,
    /// Whether it writes an append-only file. Not to be believed while it is loading.
    pub aof: bool,
    /// Whether it is loading its data.
    pub loading: bool,
    /// `maxmemory_policy`.
    pub eviction: String,
    /// Keys over all databases.
    pub keys: u64,
    /// Whether it may write on its own what no client has written: it has a module of somebody's. Before
    /// 6.0 a server does not say.
    pub writes_alone: bool,
}

impl Info {
    /// Asks the server. One that is loading its data answers INFO, but not with what will hold when
    /// it has loaded: Redis switches its append-only file off as long, and says `aof_enabled:0`
    /// (7.0.15).
    ///
    /// # Errors
    /// The connection broke, INFO is not permitted, or the server is loading.
    pub async fn fetch(connection: &mut Connection) -> Result<Self, Error> {
        let reply = connection.ask(&[b"INFO"]).await?;
        let info = Self::parse(&reply.text());
        if info.loading {
            let words = "LOADING Redis is loading the dataset in memory";
            connection.accepted("INFO", Reply::Error(words.into()))?;
        }
        Ok(info)
    }

    /// Reads the text of INFO.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut info = Self::default();
        let mut name = "Redis";
        let mut own = String::new();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            match key {
                "redis_version" => {
                    info.version = Version::parse(value);
                    if own.is_empty() {
                        value.clone_into(&mut own);
                    }
                }
                "valkey_version" => {
                    name = "Valkey";
                    value.clone_into(&mut own);
                }
                "redict_version" => {
                    name = "Redict";
                    value.clone_into(&mut own);
                }
                "run_id" => value.clone_into(&mut info.run_id),
                "role" => value.clone_into(&mut info.role),
                "master_replid" => value.clone_into(&mut info.replid),
                "master_replid2" => value.clone_into(&mut info.replid2),
                // Minus one when there is none (6.2 to 9.1; 5.0 too).
                "second_repl_offset" => info.forked_at = value.parse().ok(),
                "master_repl_offset" => info.offset = value.parse().unwrap_or(0),
                "cluster_enabled" => info.cluster = value == "1",
                "aof_enabled" => info.aof = value == "1",
                "loading" => info.loading = value == "1",
                "maxmemory_policy" => value.clone_into(&mut info.eviction),
                "module" => {
                    let name = value
                        .strip_prefix("name=")
                        .and_then(|v| v.split(',').next());
                    info.writes_alone |= name.is_none_or(|name| !TAME_MODULES.contains(&name));
                }
                _ if key.starts_with("db") => info.keys += keys_of_database(value),
                _ => {}
            }
        }
        info.writes_alone |= !info.version.at_least(6, 0);
        info.product = format!("{name} {own}");
        info
    }

    /// The newest RDB version whose values the server can RESTORE.
    ///
    /// Redis 5.0 to 6.2: 9; 7.0: 10; 7.2 and Valkey 7.2 to 8.1: 11; 7.4 to 8.4: 12; 8.6: 13;
    /// Valkey 9: 80, but not 12 to 79 (measured on each).
    #[must_use]
    pub fn rdb_version(&self) -> u16 {
        if let Some(own) = self.valkey() {
            return if own.at_least(9, 0) { 80 } else { 11 };
        }
        match self.version {
            v if v.at_least(8, 6) => 13,
            v if v.at_least(7, 4) => 12,
            v if v.at_least(7, 2) => 11,
            v if v.at_least(7, 0) => 10,
            _ => 9,
        }
    }

    /// Whether a server that says `own` for its [`rdb_version`](Self::rdb_version) takes a value of
    /// this version: Valkey 9 (80) refuses what only Redis writes (12 to 79).
    #[must_use]
    pub const fn takes_rdb(own: u16, version: u16) -> bool {
        if own == 80 {
            version <= 11 || version == 80
        } else {
            version <= own
        }
    }

    /// Whether a product, as [`product`](Self::product) names it, writes entries of 16,383 bytes in a
    /// packed list in a way of its own: Valkey from 9.1 on (measured on 9.1.2; 9.0 was not at hand).
    #[must_use]
    pub fn writes_long_entries_its_own_way(product: &str) -> bool {
        let own = product.strip_prefix("Valkey ").map(Version::parse);
        own.is_some_and(|v| v.at_least(9, 0))
    }

    /// Its own version, when it is a Valkey; [`version`](Self::version) is what that is compatible
    /// with.
    #[must_use]
    pub fn valkey(&self) -> Option<Version> {
        self.product.strip_prefix("Valkey ").map(Version::parse)
    }
}

/// The number of `keys=12,expires=0,avg_ttl=0`.
fn keys_of_database(value: &str) -> u64 {
    let keys = value.split(',').find_map(|word| word.strip_prefix("keys="));
    keys.and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_each_kind_of_server_is_understood() {
        let text = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n\
                    # Replication\r\nrole:master\r\nmaster_replid:ab\r\nmaster_repl_offset:17\r\n\
                    # Keyspace\r\ndb0:keys=2,expires=0,avg_ttl=0\r\ndb3:keys=5,expires=1\r\n";
        let info = Info::parse(text);
        assert_eq!(info.product, "Valkey 9.1.2");
        assert!(info.version.at_least(7, 2) && !info.version.at_least(7, 4));
        assert_eq!((info.offset, info.keys, info.rdb_version()), (17, 7, 80));
        let old = Info::parse("redis_version:5.0.6\r\n");
        assert_eq!(
            (old.product.as_str(), old.rdb_version()),
            ("Redis 5.0.6", 9)
        );
        assert!(Version::parse("4.0.14") < OLDEST);
        let with = |module: &str| {
            Info::parse(&format!("redis_version:7.0.0\r\n{module}\r\n")).writes_alone
        };
        assert!(!with("") && !with("module:name=vectorset,ver=1,api=1"));
        assert!(with("module:name=mine,ver=1,api=1") && with("module:odd"));
        assert!(old.writes_alone, "it does not say");
    }
}

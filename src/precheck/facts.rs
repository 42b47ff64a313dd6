//! What the server says of itself, and what that means for syncing it: no I/O.

use super::report::Line;
use crate::config::{Evictions, Existing, Initial, Sync};
use crate::redis::{Info, OLDEST, tells_evictions};

/// Below this a short pause of the sidecar ends in a full resync: Redis's own default, 1 MiB, is a
/// second of a busy server.
const SMALL_BACKLOG: u64 = 1 << 20;
/// From how much of its memory in use on a server counts as nearly full, in percent.
const NEARLY_FULL: u64 = 90;
/// Redis's defaults for replicas: what may wait for one at once, and for a minute.
const USUAL_BUFFER: (u64, u64) = (256 << 20, 64 << 20);

/// The answer to INFO.
pub(super) struct Facts {
    info: Info,
    text: String,
}

impl Facts {
    pub(super) fn new(text: String) -> Self {
        Self {
            info: Info::parse(&text),
            text,
        }
    }

    /// The value of a line of INFO.
    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.trim().parse().ok()
    }

    /// What PSYNC would need to go on from here.
    pub(super) fn psync_args(&self) -> (String, String) {
        let next = self.info.offset.saturating_add(1);
        (self.info.replid.clone(), next.to_string())
    }

    /// Whether the server has commands that came with this version.
    pub(super) const fn at_least(&self, major: u32, minor: u32) -> bool {
        self.info.version.at_least(major, minor)
    }

    fn is_too_old(&self) -> bool {
        self.info.version < OLDEST
    }

    /// Whether further checks would only repeat that it is too old, or of the wrong kind.
    pub(super) fn is_unfit(&self) -> bool {
        self.is_too_old() || self.info.cluster
    }

    /// Whether it takes writes of clients.
    pub(super) fn is_primary(&self) -> bool {
        self.info.role == "master"
    }

    /// Keys over all databases.
    pub(super) const fn keys(&self) -> u64 {
        self.info.keys
    }

    pub(super) fn version(&self) -> Line {
        let product = &self.info.product;
        if self.is_too_old() {
            let found = format!("{product} is too old: it lacks commands that Tandem needs");
            return Line::fail("version", found, format!("upgrade it to {OLDEST} or later"));
        }
        Line::pass("version", product)
    }

    pub(super) fn cluster(&self) -> Line {
        if self.info.cluster {
            let found = "the server is a member of a Redis Cluster, which Tandem does not sync";
            return Line::fail("cluster", found, "use a server with cluster-enabled no");
        }
        Line::pass("cluster", "not a member of a Redis Cluster")
    }

    pub(super) fn role(&self) -> Line {
        match self.info.role.as_str() {
            "master" => Line::pass("role", "primary"),
            "slave" => {
                let primary = self.field("master_host").unwrap_or("?");
                let port = self.field("master_port").unwrap_or("?");
                let found = format!(
                    "the server is a replica of {primary}:{port}; the other site's writes need a primary"
                );
                Line::fail("role", found, "point [redis] url at the primary")
            }
            other => {
                let found = format!("the server calls itself {other:?}, not a primary");
                Line::fail("role", found, "point [redis] url at a primary with data")
            }
        }
    }

    /// Whether a server that is read instead of this primary has its stream; `address` is its own.
    pub(super) fn follows(&self, primary: &Self, address: &str) -> Line {
        const NAME: &str = "read_from";
        if self.info.replid != primary.info.replid {
            let found = format!("the server at {address} does not follow the primary");
            let remedy = "name a replica of it in [redis] read_from, or have it follow the primary";
            return Line::fail(NAME, found, remedy);
        }
        if self.is_primary() {
            let found = format!("no replica is in sync: the primary, at {address}, would be read");
            let remedy = "see why no replica follows; once one does, it is read";
            return Line::warn(NAME, found, remedy);
        }
        if self.field("master_link_status").map(str::trim) != Some("up") {
            let found = format!("the replica at {address} has lost its primary");
            let remedy = "see why it does not follow: nothing new is read from it meanwhile";
            return Line::warn(NAME, found, remedy);
        }
        Line::pass(NAME, format!("the replica at {address}"))
    }

    pub(super) fn eviction(&self, evictions: Evictions) -> Line {
        const NAME: &str = "eviction";
        match (self.info.eviction.as_str(), evictions) {
            ("noeviction", _) => Line::pass(NAME, "noeviction"),
            ("", _) => Line::skip(NAME, "INFO does not name maxmemory_policy"),
            (policy, Evictions::Forward) => {
                let found = format!(
                    "maxmemory-policy is {policy}: what this server evicts is deleted at the other site"
                );
                let remedy =
                    "set maxmemory-policy noeviction, or [sync] evictions = \"keep_local\"";
                Line::warn(NAME, found, remedy)
            }
            (policy, Evictions::KeepLocal) if policy.starts_with("allkeys") => {
                let found = format!(
                    "maxmemory-policy is {policy}: it evicts keys of Tandem's own too, which are \
                     written again, and a crash in that moment costs a copy"
                );
                Line::warn(
                    NAME,
                    found,
                    "set one that begins with volatile-, if you can",
                )
            }
            (policy, Evictions::KeepLocal) => {
                let found = format!("maxmemory-policy is {policy}; evictions stay here");
                Line::pass(NAME, found)
            }
        }
    }

    pub(super) fn memory(&self) -> Line {
        let (used, max) = (self.number("used_memory"), self.number("maxmemory"));
        let (Some(used), Some(max)) = (used, max) else {
            return Line::skip("memory", "INFO does not name it");
        };
        if max == 0 {
            let found = format!("{} used, no maxmemory", size(used));
            return Line::pass("memory", found);
        }
        let found = format!("{} used of maxmemory {}", size(used), size(max));
        if u128::from(used) * 100 >= u128::from(max) * u128::from(NEARLY_FULL) {
            let remedy = "raise maxmemory: while it is full, the other site's writes wait";
            return Line::warn("memory", found, remedy);
        }
        Line::pass("memory", found)
    }

    pub(super) fn backlog(&self) -> Line {
        let Some(bytes) = self.number("repl_backlog_size") else {
            return Line::skip("backlog", "INFO does not name repl_backlog_size");
        };
        if bytes <= SMALL_BACKLOG {
            let found = format!(
                "repl-backlog-size is {}: after a restart tandem may have to read everything again",
                size(bytes)
            );
            return Line::warn("backlog", found, "set repl-backlog-size 64mb or more");
        }
        Line::pass("backlog", format!("repl-backlog-size is {}", size(bytes)))
    }

    /// Whether what the server keeps while a full journal is not written fits into that journal's reserve, of so
    /// many bytes, from which it is read when the peer is back. `limits` as for [`output_buffer`].
    pub(super) fn reserve(&self, reserve: u64, limits: Option<&str>) -> Line {
        const NAME: &str = "reserve";
        let backlog = self.number("repl_backlog_size");
        let buffer = limits.and_then(replica_limits).map(|(hard, _)| hard);
        let (Some(backlog), Some(buffer)) = (backlog, buffer) else {
            return Line::skip(NAME, "how much the server keeps for a replica is not known");
        };
        let kept = match buffer {
            0 => u64::MAX,
            hard => hard.max(backlog),
        };
        let room = format!("the reserve of a full journal is {}", size(reserve));
        if kept <= reserve {
            let found = format!("{room}, and the server keeps {} at most", size(kept));
            return Line::pass(NAME, found);
        }
        let (keeps, remedy) = match buffer {
            0 => (
                "without limit".to_owned(),
                "set client-output-buffer-limit replica to 256mb 64mb 60".to_owned(),
            ),
            _ => (
                format!("{} at most", size(kept)),
                format!(
                    "set [journal] max_size to four times that, {}",
                    size(kept.saturating_mul(4))
                ),
            ),
        };
        let found = format!(
            "{room}, and the server keeps {keeps} of what is not read: what is more is dropped from the journal \
             when the peer is back, and copied"
        );
        Line::warn(NAME, found, remedy)
    }

    /// `save` is what CONFIG GET said of it, when that was permitted.
    pub(super) fn persistence(&self, save: Option<&str>) -> Line {
        if self.field("rdb_last_bgsave_status") == Some("err") {
            let found = "the server's last snapshot failed";
            let remedy = "see its log and its disk: without one tandem cannot attach to it";
            return Line::warn("persistence", found, remedy);
        }
        match (self.info.aof, save) {
            (true, _) => Line::pass("persistence", "append-only file"),
            (false, Some("")) => {
                let found = "neither append-only file nor snapshots: a crash of the server empties \
                             it, and everything comes back from the peer";
                Line::warn("persistence", found, "set appendonly yes")
            }
            (false, Some(save)) => Line::pass("persistence", format!("snapshots (save {save})")),
            (false, None) => Line::skip(
                "persistence",
                "no append-only file; whether snapshots are on needs +config|get",
            ),
        }
    }
}

/// What CONFIG GET said of `notify-keyspace-events`, where evictions are to stay here; none when that was
/// not permitted.
pub(super) fn notifications(flags: Option<&str>) -> Line {
    const NAME: &str = "notifications";
    match flags {
        None => Line::skip(NAME, "to see notify-keyspace-events needs +config|get"),
        Some(flags) if tells_evictions(flags) => {
            let found =
                format!("notify-keyspace-events is {flags}: the server says what it evicts");
            Line::pass(NAME, found)
        }
        Some(flags) => {
            let found = format!(
                "notify-keyspace-events is {flags:?}: the server does not say what it evicts, and \
                 [sync] evictions is keep_local"
            );
            let remedy = format!("set notify-keyspace-events {flags}Ee");
            Line::fail(NAME, found, remedy)
        }
    }
}

/// What CONFIG GET said of `client-output-buffer-limit`; none when that was not permitted.
pub(super) fn output_buffer(limits: Option<&str>) -> Line {
    const NAME: &str = "output buffer";
    let Some(limits) = limits else {
        return Line::skip(NAME, "to see client-output-buffer-limit needs +config|get");
    };
    let Some((hard, soft)) = replica_limits(limits) else {
        return Line::skip(NAME, "client-output-buffer-limit has no word on replicas");
    };
    let small = |limit: u64, usual: u64| limit != 0 && limit < usual;
    let text = |limit| match limit {
        0 => "no limit".to_owned(),
        limit => size(limit),
    };
    let found = format!(
        "client-output-buffer-limit replica: {} at once, {} for long",
        text(hard),
        text(soft)
    );
    if small(hard, USUAL_BUFFER.0) || small(soft, USUAL_BUFFER.1) {
        let remedy =
            "set it to 256mb 64mb 60 or more: the server drops a replica that lags behind it";
        return Line::warn(NAME, found, remedy);
    }
    Line::pass(NAME, found)
}

/// What may wait for a replica at once, and for long, in bytes; 0: without limit.
fn replica_limits(limits: &str) -> Option<(u64, u64)> {
    let mut words = limits.split(' ');
    // It is `slave` up to 4 and in most answers since, but `replica` is allowed too.
    words.find(|word| matches!(*word, "slave" | "replica"))?;
    let mut next = || words.next()?.parse::<u64>().ok();
    Some((next()?, next()?))
}

/// What the first session will do. `keys` are those of clients; `new` are the peers that this site
/// has not met.
pub(super) fn data(keys: u64, new: &[&str], sync: &Sync) -> Line {
    const NAME: &str = "data";
    let held = match keys {
        0 => "empty".to_owned(),
        1 => "1 key".to_owned(),
        keys => format!("{keys} keys"),
    };
    if new.is_empty() {
        let found = format!("{held}; every peer has been met: the sync goes on where it was");
        return Line::pass(NAME, found);
    }
    let new = new.join(", ");
    let found = match (keys, sync.initial, sync.existing) {
        (_, Initial::None, _) => {
            format!("{held}; new to {new}: nothing is copied (initial = none)")
        }
        (0, ..) => format!("{held}; new to {new}: what it holds is copied here"),
        (_, _, Existing::Refuse) => {
            let found = format!(
                "{held}; new to {new}: copied if that is empty; if it holds data too, nothing is"
            );
            let remedy = "if it does, choose [sync] existing = \"overwrite\" or \"keep\"";
            return Line::warn(NAME, found, remedy);
        }
        (_, _, Existing::Overwrite) => format!(
            "{held}; new to {new}: copied or merged; the sender's value of a key that both have \
             stays (existing = overwrite)"
        ),
        (_, _, Existing::Keep) => format!(
            "{held}; new to {new}: copied or merged; the receiver's value of a key that both have \
             stays (existing = keep)"
        ),
    };
    Line::pass(NAME, found)
}

/// Bytes for people: whole numbers of the largest unit of which there are at least ten, or exact.
pub(super) fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        let whole = bytes >> shift;
        if whole >= 10 || (whole > 0 && whole << shift == bytes) {
            return format!("{whole} {unit}");
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn facts(text: &str) -> Facts {
        Facts::new(text.to_owned())
    }

    fn fails(line: &Line, word: &str) {
        assert_eq!(line.level(), Level::Fail, "{line}");
        assert!(line.to_string().contains(word), "{line}");
    }

    #[test]
    fn a_server_that_cannot_be_synced_is_named() {
        fails(&facts("redis_version:4.0.9\r\n").version(), "4.0.9");
        fails(&facts("cluster_enabled:1\r\n").cluster(), "Cluster");
        fails(&facts("role:sentinel\r\n").role(), "sentinel");
        let replica = "role:slave\r\nmaster_host:10.0.0.7\r\nmaster_port:6380\r\n";
        fails(&facts(replica).role(), "10.0.0.7:6380");
        let good = facts("redis_version:7.0.15\r\nrole:master\r\ncluster_enabled:0\r\n");
        for line in [good.version(), good.cluster(), good.role()] {
            assert_eq!(line.level(), Level::Pass, "{line}");
        }
    }

    #[test]
    fn a_server_that_does_not_say_what_it_evicts_is_refused() {
        fails(
            &notifications(Some("Kx")),
            "set notify-keyspace-events KxEe",
        );
    }

    #[test]
    fn a_replica_that_is_read_must_follow_the_primary() {
        let primary = facts("role:master\r\nmaster_replid:aa\r\n");
        let line = |text: &str| facts(text).follows(&primary, "h:1");
        fails(
            &line("role:slave\r\nmaster_replid:bb\r\nmaster_link_status:up\r\n"),
            "does not follow",
        );
        let slave = "role:slave\r\nmaster_replid:aa\r\nmaster_link_status:";
        for (text, level, word) in [
            (
                "role:master\r\nmaster_replid:aa\r\n",
                Level::Warn,
                "no replica",
            ),
            (&format!("{slave}down\r\n"), Level::Warn, "has lost"),
            (&format!("{slave}up\r\n"), Level::Pass, "replica at h:1"),
        ] {
            let line = line(text);
            assert_eq!(line.level(), level, "{line}");
            assert!(line.to_string().contains(word), "{line}");
        }
    }

    #[test]
    fn settings_that_hurt_are_warned_of() {
        let bad = facts(
            "maxmemory_policy:allkeys-lru\r\nused_memory:95\r\nmaxmemory:100\r\n\
             repl_backlog_size:1048576\r\naof_enabled:0\r\n",
        );
        let lines = [
            bad.eviction(Evictions::Forward),
            bad.eviction(Evictions::KeepLocal),
            bad.memory(),
            bad.backlog(),
            bad.persistence(Some("")),
            output_buffer(Some("normal 0 0 0 slave 1048576 0 0 pubsub 1 1 1")),
            bad.reserve((1 << 20) - 1, Some("slave 1048576 0 0")),
            bad.reserve(1 << 20, Some("slave 1048577 0 0")),
            bad.reserve(1 << 40, Some("slave 0 0 0")),
        ];
        for line in lines {
            assert_eq!(line.level(), Level::Warn, "{line}");
        }
        let good = facts(
            "maxmemory_policy:noeviction\r\nused_memory:89\r\nmaxmemory:100\r\n\
             repl_backlog_size:67108864\r\naof_enabled:1\r\n",
        );
        let lines = [
            good.eviction(Evictions::Forward),
            good.memory(),
            good.backlog(),
            good.persistence(None),
            output_buffer(Some("normal 0 0 0 slave 268435456 67108864 60")),
            output_buffer(Some("replica 0 0 0")),
            good.reserve(256 << 20, Some("replica 268435456 67108864 60")),
            good.reserve(64 << 20, Some("replica 1 0 0")),
            facts("maxmemory_policy:volatile-lru\r\n").eviction(Evictions::KeepLocal),
            notifications(Some("Ee")),
        ];
        for line in lines {
            assert_eq!(line.level(), Level::Pass, "{line}");
        }
    }

    #[test]
    fn what_is_not_told_is_skipped() {
        let none = facts("");
        let lines = [
            none.eviction(Evictions::Forward),
            notifications(None),
            none.memory(),
            none.backlog(),
            none.persistence(None),
            output_buffer(None),
            output_buffer(Some("slave x")),
            none.reserve(1, Some("slave 1 1 1")),
            facts("repl_backlog_size:1\r\n").reserve(1, None),
        ];
        for line in lines {
            assert_eq!(line.level(), Level::Skip, "{line}");
        }
    }

    #[test]
    fn the_first_session_is_foretold() {
        let sync = |initial, existing| Sync {
            initial,
            existing,
            databases: crate::config::Databases::All,
            keys: crate::config::Keys::default(),
            flush: crate::config::Flush::Forward,
            publish: crate::config::Publish::Forward,
            evictions: Evictions::Forward,
            acknowledge: crate::config::Acknowledge::Journal,
            max_rate: None,
            big_value: crate::config::DEFAULT_BIG_VALUE,
        };
        let (auto, refuse) = (Initial::Auto, Existing::Refuse);
        let level = |keys, new: &[&str], sync| data(keys, new, &sync).level();
        assert_eq!(level(0, &["b"], sync(auto, refuse)), Level::Pass);
        assert_eq!(level(9, &[], sync(auto, refuse)), Level::Pass);
        assert_eq!(level(9, &["b"], sync(auto, refuse)), Level::Warn);
        assert_eq!(level(9, &["b"], sync(auto, Existing::Keep)), Level::Pass);
        assert_eq!(level(9, &["b"], sync(Initial::None, refuse)), Level::Pass);
    }

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1 << 20, "1 MiB"),
            ((1 << 20) + 1, "1024 KiB"),
            (10 << 30, "10 GiB"),
            ((10 << 30) + 5, "10 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}

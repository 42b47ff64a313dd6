//! The effective configuration as a file, secrets masked.

use std::fmt;

use super::check::SHOWN_KEYS;
use super::{Config, Databases, ReadFrom, Size};
use crate::redis::Password;

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "site = \"{}\"", self.site)?;
        writeln!(f, "\n[redis]")?;
        self.show_redis(f)?;
        let listen = self.link.listen.map(|l| l.to_string());
        let listen = listen.as_deref().unwrap_or("off");
        writeln!(f, "\n[link]\nlisten = \"{listen}\"")?;
        writeln!(f, "compression = \"{}\"", self.link.compression)?;
        for peer in &self.peers {
            writeln!(f, "\n[[peer]]\nsite = \"{}\"", peer.site)?;
            if let Some(address) = &peer.address {
                writeln!(f, "address = \"{address}\"")?;
            }
        }
        writeln!(f, "\n[sync]")?;
        writeln!(f, "initial = \"{}\"", self.sync.initial)?;
        writeln!(f, "existing = \"{}\"", self.sync.existing)?;
        match &self.sync.databases {
            Databases::All => writeln!(f, "databases = \"all\"")?,
            Databases::Only(only) => {
                let only: Vec<_> = only.iter().collect();
                writeln!(f, "databases = {only:?}")?;
            }
        }
        for (name, patterns) in [
            ("keys", &self.sync.keys.include),
            ("exclude_keys", &self.sync.keys.exclude),
        ] {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            if !patterns.is_empty() {
                writeln!(f, "{name} = {patterns:?}")?;
            }
        }
        writeln!(f, "flush = \"{}\"", self.sync.flush)?;
        writeln!(f, "publish = \"{}\"", self.sync.publish)?;
        writeln!(f, "evictions = \"{}\"", self.sync.evictions)?;
        writeln!(f, "acknowledge = \"{}\"", self.sync.acknowledge)?;
        if let Some(rate) = self.sync.max_rate {
            writeln!(f, "max_rate = \"{}\"", Size(rate))?;
        }
        writeln!(f, "big_value = \"{}\"", Size(self.sync.big_value))?;
        writeln!(f, "\n[journal]\ndir = {:?}", self.journal.dir)?;
        writeln!(f, "max_size = \"{}\"", Size(self.journal.max_size))?;
        writeln!(f, "fsync = \"{}\"", self.journal.fsync)?;
        writeln!(f, "when_full = \"{}\"", self.journal.when_full)?;
        writeln!(f, "\n[conflicts]\nremember = {}", self.conflicts.remember)?;
        if let Some(path) = &self.conflicts.log {
            writeln!(f, "log = {path:?}")?;
        }
        let is_shown = |(_, keys): &&(&str, _)| *keys == self.conflicts.keys;
        let word = SHOWN_KEYS.iter().find(is_shown);
        writeln!(f, "keys = \"{}\"", word.map_or("", |(word, _)| word))?;
        writeln!(f, "max_rate = {}", self.conflicts.max_rate)?;
        write!(f, "\n[admin]\nlisten = \"{}\"", self.admin.listen)?;
        write!(f, "\nallow_repair = {}", self.admin.allow_repair)
    }
}

impl Config {
    fn show_redis(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "url = \"{}\"", self.redis.address.url())?;
        if let Some(name) = &self.redis.username {
            writeln!(f, "username = {name:?}")?;
        }
        match &self.redis.password {
            Password::None => {}
            Password::Inline(_) => writeln!(f, "password = \"***\"")?,
            Password::File(path) => writeln!(f, "password_file = {path:?}")?,
        }
        if let Some(name) = &self.redis.sentinel.username {
            writeln!(f, "sentinel_username = {name:?}")?;
        }
        match &self.redis.sentinel.password {
            Password::None => {}
            Password::Inline(_) => writeln!(f, "sentinel_password = \"***\"")?,
            Password::File(path) => writeln!(f, "sentinel_password_file = {path:?}")?,
        }
        match &self.read_from {
            ReadFrom::Primary => writeln!(f, "read_from = \"primary\"")?,
            ReadFrom::Replica(_) => writeln!(f, "read_from = \"replica\"")?,
            ReadFrom::Server(server) => writeln!(f, "read_from = \"{}\"", server.address.url())?,
        }
        Ok(())
    }
}

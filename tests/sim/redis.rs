//! A small Redis in memory: strings, lists, sets, hashes and streams, each with a moment at which it expires
//! or none.
//!
//! What it does is written to its stream as a server would: what had no effect is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use bytes::Bytes;

use tandem::command::{Catalog, Command, canonical, for_each_in};
use tandem::model::{InstanceId, Key, Mark, Need, SelfMark, SiteId};

/// A value of one of the types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// Entries by number.
    Stream(BTreeMap<i64, Vec<u8>>),
}

/// What is kept under a key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub value: Value,
    pub expires: Option<i64>,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Changed,
    Nothing,
    /// An error of the value, or of its type.
    Failed,
}

/// What stands in the stream.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A client's write.
    Write {
        db: u32,
        commands: Bytes,
        count: u32,
    },
    /// A marked transaction, and which keys it deletes.
    Echo {
        origin: SiteId,
        mark: Box<Mark>,
        deleted: Vec<Key>,
    },
    /// A fence: its name, whose it is, its number.
    Fence(String, InstanceId, u64),
    /// A self mark: its number.
    SelfMark(u64),
    /// A key was evicted, and is to stay elsewhere.
    Evicted(Key),
}

/// The server: all that a killed sidecar finds again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Redis {
    pub data: BTreeMap<Key, Entry>,
    /// How often each key was changed: what WATCH sees.
    versions: HashMap<Key, u64>,
    pub stream: Vec<Event>,
    pub marks: BTreeMap<SiteId, Mark>,
    /// Per peer, the states that it owes.
    pub owed: BTreeMap<SiteId, BTreeMap<Key, Need>>,
    pub self_mark: Option<SelfMark>,
    /// Its clock, in milliseconds; 0 where time does not pass.
    pub now: i64,
    catalog: Catalog,
}

impl Value {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::List(list) => list.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::Hash(hash) => hash.is_empty(),
            Self::Stream(_) => false,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &Vec<u8>| bytes.escape_ascii().to_string();
        match &self.value {
            Value::Text(value) => write!(f, "{:?}", text(value))?,
            Value::List(list) => write!(f, "{:?}", list.iter().map(text).collect::<Vec<_>>())?,
            Value::Set(set) => write!(f, "{:?}", set.iter().map(text).collect::<BTreeSet<_>>())?,
            Value::Stream(entries) => write!(f, "stream {:?}", entries.keys())?,
            Value::Hash(hash) => {
                let fields = hash.iter().map(|(name, value)| (text(name), text(value)));
                write!(f, "{:?}", fields.collect::<BTreeMap<_, _>>())?;
            }
        }
        self.expires.map_or(Ok(()), |at| write!(f, " until {at}"))
    }
}

/// A command in the protocol's form; its words are parted by blanks.
pub(crate) fn command(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    out
}

/// The delete of a key.
pub(crate) fn put_delete(name: &[u8], out: &mut Vec<u8>) {
    out.extend(command(&format!("DEL {}", String::from_utf8_lossy(name))));
}

/// Commands for people.
pub(crate) fn shown(commands: &[u8]) -> String {
    let mut lines = Vec::new();
    for_each_in(commands, 0, |command, _| {
        let words = command.args(0).map(|word| word.escape_ascii().to_string());
        lines.push(words.collect::<Vec<_>>().join(" "));
    })
    .unwrap();
    lines.join("; ")
}

pub(crate) fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Redis {
    /// A client's command, or several in MULTI; a number before it is that of its database. Whether anything
    /// was done.
    pub(crate) fn client(&mut self, lines: &[&str]) -> bool {
        let (mut commands, mut count, mut last) = (Vec::new(), 0, None);
        for line in lines {
            let numbered = line.split_once(' ');
            let numbered = numbered.and_then(|(db, line)| Some((db.parse::<u32>().ok()?, line)));
            let (database, line) = numbered.unwrap_or((0, line));
            for_each_in(&command(line), database, |command, db| {
                let mut done = Vec::new();
                let expired = self.expire_under(command, db);
                expired
                    .iter()
                    .for_each(|(_, name)| put_delete(name, &mut done));
                let mut new = expired.len();
                if self.execute(command, db) == Done::Changed {
                    new += match self.is_past(command) {
                        true => {
                            put_delete(command.arg(1), &mut done);
                            1
                        }
                        false => canonical(command, 0, &mut done) as usize,
                    };
                }
                if new > 0 && last.is_some_and(|(_, last)| last != db) {
                    commands.extend(crate::redis::command(&format!("SELECT {db}")));
                    new += 1;
                }
                if new > 0 {
                    let first = last.map_or(db, |(first, _)| first);
                    last = Some((first, db));
                    commands.append(&mut done);
                    count += u32::try_from(new).unwrap();
                }
            })
            .unwrap();
        }
        let is_done = count > 0;
        if is_done {
            let db = last.map_or(0, |(first, _)| first);
            let commands = commands.into();
            self.stream.push(Event::Write {
                db,
                commands,
                count,
            });
        }
        is_done
    }

    /// The keys that a command touches and that are past their moment go before it.
    pub(crate) fn expire_under(&mut self, command: &Command<'_>, db: u32) -> Vec<Key> {
        let mut keys = Vec::new();
        if self.now == 0 {
            return keys;
        }
        self.catalog.for_each_key(command, db, |db, name, _| {
            keys.push((db, Bytes::copy_from_slice(name)));
        });
        keys.retain(|key| self.is_expired(key));
        keys.dedup();
        keys.iter().for_each(|key| self.put(key, None));
        keys
    }

    /// Whether a command says when a key expires, and that is over: it is deleted.
    pub(crate) fn is_past(&self, command: &Command<'_>) -> bool {
        command.is(b"PEXPIREAT") && number(command.arg(2)).is_some_and(|at| at <= self.now)
    }

    /// Whether a key is past its moment, and still there.
    pub(crate) fn is_expired(&self, key: &Key) -> bool {
        let here = self.data.get(key);
        here.is_some_and(|here| here.expires.is_some_and(|at| at <= self.now))
    }

    /// A key is looked at: if it is past its moment it goes, and the stream says so.
    pub(crate) fn expire(&mut self, key: &Key) {
        if self.is_expired(key) {
            self.put(key, None);
            let (db, mut commands) = (key.0, Vec::new());
            put_delete(&key.1, &mut commands);
            self.stream.push(Event::Write {
                db,
                commands: commands.into(),
                count: 1,
            });
        }
    }

    /// It runs out of memory: a key goes, and the stream says so. Whether it was there.
    pub(crate) fn evict(&mut self, key: &Key, stays_elsewhere: bool) -> bool {
        if !self.data.contains_key(key) {
            return false;
        }
        self.put(key, None);
        let (db, mut commands) = (key.0, Vec::new());
        put_delete(&key.1, &mut commands);
        self.stream.push(match stays_elsewhere {
            true => Event::Evicted(key.clone()),
            false => Event::Write {
                db,
                commands: commands.into(),
                count: 1,
            },
        });
        true
    }

    /// It is restarted: what is past its moment it does not load.
    pub(crate) fn forget_expired(&mut self) {
        let keys = self.data.keys().filter(|key| self.is_expired(key));
        let keys: Vec<Key> = keys.cloned().collect();
        keys.iter().for_each(|key| self.put(key, None));
    }

    /// All keys that are past their moment go. Whether there were any.
    pub(crate) fn expire_all(&mut self) -> bool {
        let keys = self.data.keys().filter(|key| self.is_expired(key));
        let keys: Vec<Key> = keys.cloned().collect();
        keys.iter().for_each(|key| self.expire(key));
        !keys.is_empty()
    }

    /// A command in a marked transaction; with the keys that it deletes.
    pub(crate) fn execute_applied(
        &mut self,
        command: &Command<'_>,
        db: u32,
        deleted: &mut Vec<Key>,
    ) -> Done {
        deleted.append(&mut self.expire_under(command, db));
        let deletes = command.is(b"DEL") || self.is_past(command);
        let names = command.args(1).map(Bytes::copy_from_slice);
        let keys = names.map(|name| (db, name)).filter(|_| deletes);
        let keys = keys.filter(|key| self.data.contains_key(key));
        deleted.extend(keys);
        self.execute(command, db)
    }

    /// A marked transaction of the applier, with what it did.
    pub(crate) fn mark(&mut self, origin: &SiteId, mark: &Mark, deleted: Vec<Key>) {
        self.marks.insert(origin.clone(), mark.clone());
        let (origin, mark) = (origin.clone(), Box::new(mark.clone()));
        self.stream.push(Event::Echo {
            origin,
            mark,
            deleted,
        });
    }

    /// How often a key was changed.
    pub(crate) fn version(&self, key: &Key) -> u64 {
        self.versions.get(key).copied().unwrap_or_default()
    }

    /// Puts a value, or none, in the place of another.
    pub(crate) fn put(&mut self, key: &Key, entry: Option<Entry>) {
        *self.versions.entry(key.clone()).or_default() += 1;
        match entry.filter(|entry| !entry.value.is_empty()) {
            Some(entry) => drop(self.data.insert(key.clone(), entry)),
            None => drop(self.data.remove(key)),
        }
    }

    /// Changes what is under a key, or nothing of the type of `empty`. None: it has another type.
    pub(crate) fn change(
        &mut self,
        key: &Key,
        empty: Value,
        change: impl FnOnce(&mut Value) -> Done,
    ) -> Done {
        let value = empty;
        let none = Entry {
            value,
            expires: None,
        };
        let same = |entry: &Entry| {
            std::mem::discriminant(&entry.value) == std::mem::discriminant(&none.value)
        };
        let mut entry = match self.data.get(key) {
            Some(entry) if same(entry) => entry.clone(),
            Some(_) => return Done::Failed,
            None => none,
        };
        let done = change(&mut entry.value);
        if done == Done::Changed {
            self.put(key, Some(entry));
        }
        done
    }
}

//! A small Redis in memory: strings, lists, sets and hashes, each with a moment at which it expires or none.
//! Time never comes to such a moment here.
//!
//! What it does is written to its stream as a server would: what had no effect is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use bytes::Bytes;

use tandem::command::{Command, canonical, for_each_in};
use tandem::model::{InstanceId, Key, Mark, Need, SiteId};

/// A value of one of the types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
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
}

/// The server: all that a killed sidecar finds again.
#[derive(Debug, Default)]
pub(crate) struct Redis {
    pub data: BTreeMap<Key, Entry>,
    /// How often each key was changed: what WATCH sees.
    versions: HashMap<Key, u64>,
    pub stream: Vec<Event>,
    pub marks: BTreeMap<SiteId, Mark>,
    /// Per peer, the states that it owes.
    pub owed: BTreeMap<SiteId, BTreeMap<Key, Need>>,
}

impl Value {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::List(list) => list.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::Hash(hash) => hash.is_empty(),
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

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Redis {
    /// A client's command, or several in MULTI; a number before it is that of its database. Whether anything
    /// was done.
    pub(crate) fn client(&mut self, lines: &[&str]) -> bool {
        let (mut commands, mut count, mut database) = (Vec::new(), 0, 0);
        for line in lines {
            let line = match line.split_once(' ') {
                Some((db, line)) if db.parse::<u32>().is_ok() => {
                    database = db.parse().unwrap();
                    line
                }
                _ => line,
            };
            for_each_in(&command(line), database, |command, db| {
                if self.execute(command, db) == Done::Changed {
                    count += canonical(command, 0, &mut commands);
                }
            })
            .unwrap();
        }
        let is_done = count > 0;
        if is_done {
            let (db, commands) = (database, commands.into());
            self.stream.push(Event::Write {
                db,
                commands,
                count,
            });
        }
        is_done
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
    fn change(&mut self, key: &Key, empty: Value, change: impl FnOnce(&mut Value) -> Done) -> Done {
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

    /// Executes a command.
    pub(crate) fn execute(&mut self, command: &Command<'_>, db: u32) -> Done {
        let name = command.arg(0).to_ascii_uppercase();
        let word = |n: usize| command.arg(n).to_vec();
        let key = (db, Bytes::copy_from_slice(command.arg(1)));
        let done = |is_changed| match is_changed {
            true => Done::Changed,
            false => Done::Nothing,
        };
        match &name[..] {
            b"SET" => {
                let value = Value::Text(word(2));
                let expires = number(command.arg(4)).filter(|_| command.len() > 4);
                self.put(&key, Some(Entry { value, expires }));
                Done::Changed
            }
            b"INCR" => self.change(&key, Value::Text(b"0".to_vec()), |value| match value {
                Value::Text(text) => add(text, 1),
                _ => Done::Failed,
            }),
            b"APPEND" => self.change(&key, Value::Text(Vec::new()), |value| match value {
                Value::Text(text) => {
                    text.extend_from_slice(command.arg(2));
                    Done::Changed
                }
                _ => Done::Failed,
            }),
            b"RPUSH" => self.change(&key, Value::List(Vec::new()), |value| match value {
                Value::List(list) => {
                    list.push(word(2));
                    Done::Changed
                }
                _ => Done::Failed,
            }),
            b"LPOP" => self.change(&key, Value::List(Vec::new()), |value| match value {
                Value::List(list) if !list.is_empty() => {
                    list.remove(0);
                    Done::Changed
                }
                _ => Done::Nothing,
            }),
            b"HSET" | b"HDEL" | b"HINCRBY" => {
                self.change(&key, Value::Hash(BTreeMap::new()), |value| {
                    let Value::Hash(hash) = value else {
                        return Done::Failed;
                    };
                    match &name[..] {
                        b"HSET" => {
                            hash.insert(word(2), word(3));
                            Done::Changed
                        }
                        b"HDEL" => done(hash.remove(command.arg(2)).is_some()),
                        _ => add(hash.entry(word(2)).or_insert_with(|| b"0".to_vec()), 1),
                    }
                })
            }
            b"SADD" | b"SREM" => self.change(&key, Value::Set(BTreeSet::new()), |value| {
                let Value::Set(set) = value else {
                    return Done::Failed;
                };
                done(match &name[..] {
                    b"SADD" => set.insert(word(2)),
                    _ => set.remove(command.arg(2)),
                })
            }),
            _ => self.execute_on_keys(command, db),
        }
    }

    /// Commands that do not look at what is in a value, or take several keys.
    fn execute_on_keys(&mut self, command: &Command<'_>, db: u32) -> Done {
        let name = command.arg(0).to_ascii_uppercase();
        let key = |n: usize| (db, Bytes::copy_from_slice(command.arg(n)));
        let here = self.data.get(&key(1)).cloned();
        match &name[..] {
            b"DEL" => {
                let keys = (1..command.len()).map(key);
                let keys: Vec<Key> = keys.filter(|key| self.data.contains_key(key)).collect();
                keys.iter().for_each(|key| self.put(key, None));
                match keys.is_empty() {
                    true => Done::Nothing,
                    false => Done::Changed,
                }
            }
            b"PEXPIREAT" | b"PERSIST" => {
                let at = number(command.arg(2)).filter(|_| command.len() > 2);
                let Some(here) = here.filter(|here| at.is_some() || here.expires.is_some()) else {
                    return Done::Nothing;
                };
                let expires = at;
                self.put(&key(1), Some(Entry { expires, ..here }));
                Done::Changed
            }
            b"RENAME" => {
                let Some(here) = here else {
                    return Done::Failed;
                };
                self.put(&key(1), None);
                self.put(&key(2), Some(here));
                Done::Changed
            }
            b"COPY" => {
                let Some(here) = here else {
                    return Done::Nothing;
                };
                self.put(&key(2), Some(here));
                Done::Changed
            }
            b"SUNIONSTORE" => {
                let mut union = BTreeSet::new();
                for source in (2..command.len()).map(key) {
                    match self.data.get(&source).map(|entry| &entry.value) {
                        Some(Value::Set(set)) => union.extend(set.iter().cloned()),
                        Some(_) => return Done::Failed,
                        None => {}
                    }
                }
                if union.is_empty() && here.is_none() {
                    return Done::Nothing;
                }
                let (value, expires) = (Value::Set(union), None);
                self.put(&key(1), Some(Entry { value, expires }));
                Done::Changed
            }
            b"FLUSHDB" => {
                let keys = self.data.keys().filter(|key| key.0 == db);
                let keys: Vec<Key> = keys.cloned().collect();
                keys.iter().for_each(|key| self.put(key, None));
                Done::Changed
            }
            b"SWAPDB" => {
                let db = |n| u32::try_from(number(command.arg(n)).unwrap()).unwrap();
                self.swap([db(1), db(2)]);
                Done::Changed
            }
            other => unreachable!("{}", other.escape_ascii()),
        }
    }

    /// Two databases change places.
    fn swap(&mut self, both: [u32; 2]) {
        let moved = self.data.extract_if(.., |(db, _), _| both.contains(db));
        let moved: Vec<(Key, Entry)> = moved.collect();
        for ((db, name), entry) in moved {
            // Whoever watches it in one of the two sees so.
            *self.versions.entry((db, name.clone())).or_default() += 1;
            let there = if db == both[0] { both[1] } else { both[0] };
            self.put(&(there, name), Some(entry));
        }
    }
}

/// Adds to an integer.
fn add(text: &mut Vec<u8>, more: i64) -> Done {
    let Some(sum) = number(text).map(|number| number + more) else {
        return Done::Failed;
    };
    *text = sum.to_string().into_bytes();
    Done::Changed
}

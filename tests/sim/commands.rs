//! What commands do to the data of the small Redis.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use tandem::command::Command;
use tandem::model::Key;

use crate::redis::{Done, Entry, Redis, Value, number};

const fn done(is_changed: bool) -> Done {
    match is_changed {
        true => Done::Changed,
        false => Done::Nothing,
    }
}

fn key_of(command: &Command<'_>, db: u32, n: usize) -> Key {
    (db, Bytes::copy_from_slice(command.arg(n)))
}

/// The database that is named by an argument.
fn database(command: &Command<'_>, n: usize) -> u32 {
    u32::try_from(number(command.arg(n)).unwrap()).unwrap()
}

impl Redis {
    /// Executes a command.
    pub(crate) fn execute(&mut self, command: &Command<'_>, db: u32) -> Done {
        let name = command.arg(0).to_ascii_uppercase();
        let key = key_of(command, db, 1);
        match &name[..] {
            b"SET" | b"SETNX" | b"MSET" => self.set(command, &key),
            b"INCR" | b"APPEND" => {
                let empty: &[u8] = if command.is(b"INCR") { b"0" } else { b"" };
                self.change(&key, Value::Text(empty.to_vec()), |value| match value {
                    Value::Text(text) if command.is(b"INCR") => add(text, 1),
                    Value::Text(text) => {
                        text.extend_from_slice(command.arg(2));
                        Done::Changed
                    }
                    _ => Done::Failed,
                })
            }
            b"RPUSH" | b"LPUSH" | b"LPOP" => self.list(command, &key),
            b"HSET" | b"HDEL" | b"HINCRBY" => self.hash(command, &key),
            b"SADD" | b"SREM" => self.change(&key, Value::Set(BTreeSet::new()), |value| {
                let Value::Set(set) = value else {
                    return Done::Failed;
                };
                done(match command.is(b"SADD") {
                    true => set.insert(command.arg(2).to_vec()),
                    false => set.remove(command.arg(2)),
                })
            }),
            b"XADD" => self.change(&key, Value::Stream(BTreeMap::new()), |value| match value {
                // A late one is put among the others at once.
                Value::Stream(entries) => {
                    let id = std::str::from_utf8(command.arg(2)).unwrap();
                    let id = id.split_once('-').unwrap().0.parse().unwrap();
                    entries.insert(id, command.arg(4).to_vec());
                    Done::Changed
                }
                _ => Done::Failed,
            }),
            _ => self.execute_on_keys(command, db),
        }
    }

    fn set(&mut self, command: &Command<'_>, key: &Key) -> Done {
        if command.is(b"SETNX") && self.data.contains_key(key) {
            return Done::Nothing;
        }
        if command.is(b"MSET") {
            for at in (1..command.len()).step_by(2) {
                let value = Value::Text(command.arg(at + 1).to_vec());
                let expires = None;
                let key = key_of(command, key.0, at);
                self.put(&key, Some(Entry { value, expires }));
            }
            return Done::Changed;
        }
        let value = Value::Text(command.arg(2).to_vec());
        let expires = match command.arg(3) {
            b"KEEPTTL" => self.data.get(key).and_then(|here| here.expires),
            b"PXAT" => number(command.arg(4)),
            _ => None,
        };
        self.put(key, Some(Entry { value, expires }));
        Done::Changed
    }

    fn list(&mut self, command: &Command<'_>, key: &Key) -> Done {
        self.change(key, Value::List(Vec::new()), |value| {
            let Value::List(list) = value else {
                return Done::Failed;
            };
            match command.arg(0) {
                b"RPUSH" => list.push(command.arg(2).to_vec()),
                b"LPUSH" => list.insert(0, command.arg(2).to_vec()),
                _ if list.is_empty() => return Done::Nothing,
                _ => drop(list.remove(0)),
            }
            Done::Changed
        })
    }

    fn hash(&mut self, command: &Command<'_>, key: &Key) -> Done {
        self.change(key, Value::Hash(BTreeMap::new()), |value| {
            let Value::Hash(hash) = value else {
                return Done::Failed;
            };
            let field = command.arg(2).to_vec();
            match command.arg(0) {
                b"HSET" => {
                    hash.insert(field, command.arg(3).to_vec());
                    Done::Changed
                }
                b"HDEL" => done(hash.remove(&field).is_some()),
                _ => add(hash.entry(field).or_insert_with(|| b"0".to_vec()), 1),
            }
        })
    }

    /// Commands that do not look at what is in a value, or take several keys.
    fn execute_on_keys(&mut self, command: &Command<'_>, db: u32) -> Done {
        let name = command.arg(0).to_ascii_uppercase();
        let key = |n: usize| key_of(command, db, n);
        let here = self.data.get(&key(1)).cloned();
        match &name[..] {
            b"DEL" | b"GETDEL" => {
                let keys = (1..command.len()).map(key);
                let keys: Vec<Key> = keys.filter(|key| self.data.contains_key(key)).collect();
                keys.iter().for_each(|key| self.put(key, None));
                done(!keys.is_empty())
            }
            b"PEXPIREAT" | b"PERSIST" => {
                let expires = number(command.arg(2)).filter(|_| command.len() > 2);
                let may = |here: &Entry| expires.is_some() || here.expires.is_some();
                let Some(here) = here.filter(may) else {
                    return Done::Nothing;
                };
                let left = (!self.is_past(command)).then_some(Entry { expires, ..here });
                self.put(&key(1), left);
                Done::Changed
            }
            b"RENAME" | b"RENAMENX" | b"MOVE" | b"COPY" => self.carry(command, db, here),
            // Of what follows each command is given its database.
            b"SELECT" => Done::Nothing,
            b"SMOVE" => self.move_member(command, (&key(1), &key(2))),
            b"RPOPLPUSH" => self.move_element((&key(1), &key(2))),
            b"SUNIONSTORE" => self.union(command, db),
            b"FLUSHDB" => {
                let keys = self.data.keys().filter(|key| key.0 == db);
                let keys: Vec<Key> = keys.cloned().collect();
                keys.iter().for_each(|key| self.put(key, None));
                Done::Changed
            }
            b"SWAPDB" => {
                self.swap([database(command, 1), database(command, 2)]);
                Done::Changed
            }
            other => unreachable!("{}", other.escape_ascii()),
        }
    }

    /// A whole value goes under another key, or into another database.
    fn carry(&mut self, command: &Command<'_>, db: u32, here: Option<Entry>) -> Done {
        let from = key_of(command, db, 1);
        let renames = command.is(b"RENAME") || command.is(b"RENAMENX");
        let to = match command.arg(3) {
            _ if command.is(b"MOVE") => (database(command, 2), from.1.clone()),
            b"DB" => (database(command, 4), key_of(command, db, 2).1),
            _ => key_of(command, db, 2),
        };
        let Some(here) = here else {
            return if renames { Done::Failed } else { Done::Nothing };
        };
        let replaces = command.is(b"RENAME") || command.args(3).any(|word| word == b"REPLACE");
        if !replaces && self.data.contains_key(&to) {
            return Done::Nothing;
        }
        if !command.is(b"COPY") {
            self.put(&from, None);
        }
        self.put(&to, Some(here));
        Done::Changed
    }

    fn move_member(&mut self, command: &Command<'_>, (from, to): (&Key, &Key)) -> Done {
        let member = command.arg(3);
        let is_set = |key| {
            let here = self.data.get(key);
            here.is_none_or(|here| matches!(here.value, Value::Set(_)))
        };
        if !self.data.contains_key(from) {
            return Done::Nothing;
        }
        if !is_set(from) || !is_set(to) {
            return Done::Failed;
        }
        let none = || Value::Set(BTreeSet::new());
        let taken = self.change(from, none(), |value| match value {
            Value::Set(set) => done(set.remove(member)),
            _ => Done::Failed,
        });
        if taken == Done::Changed {
            self.change(to, none(), |value| match value {
                Value::Set(set) => done(set.insert(member.to_vec())),
                _ => Done::Failed,
            });
        }
        taken
    }

    /// The last of one list becomes the first of another.
    fn move_element(&mut self, (from, to): (&Key, &Key)) -> Done {
        let list = |key: &Key| match self.data.get(key).map(|here| &here.value) {
            Some(Value::List(list)) => Some(list.clone()),
            None => Some(Vec::new()),
            Some(_) => None,
        };
        let (Some(mut source), Some(_)) = (list(from), list(to)) else {
            let is_there = self.data.contains_key(from);
            return if is_there {
                Done::Failed
            } else {
                Done::Nothing
            };
        };
        let Some(last) = source.pop() else {
            return Done::Nothing;
        };
        let none = || Value::List(Vec::new());
        self.change(from, none(), |value| {
            *value = Value::List(source);
            Done::Changed
        });
        self.change(to, none(), |value| match value {
            Value::List(list) => {
                list.insert(0, last);
                Done::Changed
            }
            _ => Done::Failed,
        })
    }

    fn union(&mut self, command: &Command<'_>, db: u32) -> Done {
        let mut union = BTreeSet::new();
        for at in 2..command.len() {
            let source = self.data.get(&key_of(command, db, at));
            match source.map(|entry| &entry.value) {
                Some(Value::Set(set)) => union.extend(set.iter().cloned()),
                Some(_) => return Done::Failed,
                None => {}
            }
        }
        let to = key_of(command, db, 1);
        if union.is_empty() && !self.data.contains_key(&to) {
            return Done::Nothing;
        }
        let (value, expires) = (Value::Set(union), None);
        self.put(&to, Some(Entry { value, expires }));
        Done::Changed
    }

    /// Two databases change places.
    fn swap(&mut self, both: [u32; 2]) {
        let moved = self.data.keys().filter(|(db, _)| both.contains(db));
        let moved: Vec<Key> = moved.cloned().collect();
        let taken = moved.into_iter().map(|key| {
            let entry = self.data.get(&key).cloned();
            // Whoever watches it in one of the two sees so.
            self.put(&key, None);
            (key, entry)
        });
        let taken: Vec<(Key, Option<Entry>)> = taken.collect();
        for ((db, name), entry) in taken {
            let there = if db == both[0] { both[1] } else { both[0] };
            self.put(&(there, name), entry);
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

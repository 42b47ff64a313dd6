//! The file and the environment as one set of values, each with its place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Place};

/// All values, from file and environment.
pub(super) struct Source {
    /// By name; the keys outside of any section have the name "".
    sections: BTreeMap<&'static str, Section>,
    pub(super) peers: Vec<Section>,
}

/// The values of one section.
pub(super) struct Section {
    name: &'static str,
    /// Where its missing keys should stand.
    place: Place,
    entries: BTreeMap<&'static str, Entry>,
}

/// One value, and where it stands.
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value, as far as any key takes it.
pub(super) enum Value {
    Text(String),
    Integer(u64),
    Boolean(bool),
    List(Vec<Self>),
    /// Nothing that any key takes; the word for it.
    Other(&'static str),
}

/// Every section and its keys.
const SECTIONS: [(&str, &[&str]); 7] = [
    ("", &["site"]),
    (
        "redis",
        &[
            "url",
            "username",
            "password",
            "password_file",
            "sentinel_username",
            "sentinel_password",
            "sentinel_password_file",
            "read_from",
        ],
    ),
    ("link", &["listen", "compression"]),
    (
        "sync",
        &[
            "initial",
            "existing",
            "databases",
            "keys",
            "exclude_keys",
            "flush",
            "publish",
            "evictions",
            "acknowledge",
            "max_rate",
            "big_value",
        ],
    ),
    ("journal", &["dir", "max_size", "fsync", "when_full"]),
    ("conflicts", &["remember", "log", "keys", "max_rate"]),
    ("admin", &["listen", "allow_repair"]),
];

const PEER: &str = "peer";
const PEER_KEYS: &[&str] = &["site", "address"];

/// What the names of our variables begin with; `__` also divides section and key.
const VARIABLE_PREFIX: &str = "TANDEM__";

impl Source {
    /// Reads the file, then the environment, which wins. None when the file is not TOML: what it
    /// might mean would only be guessed.
    pub(super) fn read(
        text: &str,
        env: &[(OsString, OsString)],
        mistakes: &mut Vec<Mistake>,
    ) -> Option<Self> {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            // Only the message: the error's own text repeats the line, which may hold a password.
            let place = error.span().map_or(Place::File, |s| line(text, &s));
            let message = format!("not TOML: {}; see https://toml.io", error.message());
            mistakes.push(Mistake::new(place, "", message));
        }
        if !errors.is_empty() {
            return None;
        }
        let section = |&(name, _): &(&'static str, _)| (name, Section::new(name, Place::File));
        let mut source = Self {
            sections: SECTIONS.iter().map(section).collect(),
            peers: Vec::new(),
        };
        source.read_file(text, table.get_ref(), mistakes);
        for (name, value) in env {
            source.read_variable(name, value, mistakes);
        }
        Some(source)
    }

    /// The section of this name; one that is not in the file has no entries.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.get(name)
    }

    fn read_file(&mut self, text: &str, table: &DeTable<'_>, mistakes: &mut Vec<Mistake>) {
        let (_, top_keys) = SECTIONS[0];
        for (key, value) in table {
            let (name, place) = (key.get_ref().as_ref(), line(text, &key.span()));
            let is_section = value.get_ref().is_table() || value.get_ref().is_array();
            if name == PEER {
                self.read_peers(text, value, mistakes);
            } else if let Some((name, keys)) = SECTIONS[1..].iter().find(|(n, _)| *n == name) {
                let Some(table) = value.get_ref().as_table() else {
                    let message = format!("not a section; write [{name}] on a line of its own");
                    mistakes.push(Mistake::new(place, *name, message));
                    continue;
                };
                let section = Section::read(text, name, keys, place, table, mistakes);
                self.sections.insert(*name, section);
            } else if is_section && !top_keys.contains(&name) {
                let message = format!("unknown section; there are {}", sections());
                mistakes.push(Mistake::new(place, shown(name), message));
            } else if let Some(top) = self.sections.get_mut("") {
                top.read_entry(text, top_keys, (key, value), mistakes);
            }
        }
    }

    fn read_peers(
        &mut self,
        text: &str,
        value: &Spanned<DeValue<'_>>,
        mistakes: &mut Vec<Mistake>,
    ) {
        let peers = value.get_ref().as_array().into_iter().flatten();
        let place = line(text, &value.span());
        let mut any = false;
        for peer in peers {
            any = true;
            let place = line(text, &peer.span());
            if let Some(table) = peer.get_ref().as_table() {
                let section = Section::read(text, PEER, PEER_KEYS, place, table, mistakes);
                self.peers.push(section);
            } else {
                mistakes.push(Mistake::new(place, PEER, PEER_REMEDY));
            }
        }
        if !any {
            mistakes.push(Mistake::new(place, PEER, PEER_REMEDY));
        }
    }

    fn read_variable(&mut self, name: &OsString, value: &OsString, mistakes: &mut Vec<Mistake>) {
        let variable = name.to_string_lossy();
        let Some(path) = variable.strip_prefix(VARIABLE_PREFIX) else {
            return;
        };
        if value.is_empty() {
            return;
        }
        let place = Place::Variable(variable.to_string());
        let path = path.to_lowercase();
        let (section, key) = path.split_once("__").unwrap_or(("", &path));
        let known = SECTIONS.iter().find(|(name, _)| *name == section);
        let key = known.and_then(|(_, keys)| keys.iter().copied().find(|k| *k == key));
        let (Some(key), Some(section)) = (key, self.sections.get_mut(section)) else {
            let message = if section == PEER {
                "peers cannot be set by a variable; set them in the file, under [[peer]]"
            } else {
                "unknown variable; its name is TANDEM__SECTION__KEY, with a key of the file"
            };
            mistakes.push(Mistake::new(place, "", message));
            return;
        };
        let Some(text) = value.to_str() else {
            mistakes.push(Mistake::new(
                place,
                section.path(key),
                "not UTF-8; change it",
            ));
            return;
        };
        let value = Value::Text(text.to_owned());
        section.entries.insert(key, Entry { place, value });
    }
}

impl Section {
    fn new(name: &'static str, place: Place) -> Self {
        Self {
            name,
            place,
            entries: BTreeMap::new(),
        }
    }

    fn read(
        text: &str,
        name: &'static str,
        keys: &[&'static str],
        place: Place,
        table: &DeTable<'_>,
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut section = Self::new(name, place);
        for entry in table {
            section.read_entry(text, keys, entry, mistakes);
        }
        section
    }

    fn read_entry(
        &mut self,
        text: &str,
        keys: &[&'static str],
        (key, value): (&Spanned<toml::de::DeString<'_>>, &Spanned<DeValue<'_>>),
        mistakes: &mut Vec<Mistake>,
    ) {
        let place = line(text, &key.span());
        if let Some(key) = keys.iter().find(|k| *k == key.get_ref()) {
            let value = Value::from(value.get_ref());
            self.entries.insert(key, Entry { place, value });
            return;
        }
        let message = match self.name {
            "" => format!(
                "unknown key; there is site, and the sections {}",
                sections()
            ),
            name => format!("unknown key; {name} takes {}", keys.join(", ")),
        };
        mistakes.push(Mistake::new(
            place,
            self.path(&shown(key.get_ref())),
            message,
        ));
    }

    /// The value of a key, if it is set.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Where the value of a key stands, or where the missing key should.
    pub(super) fn place(&self, key: &str) -> &Place {
        match self.entries.get(key) {
            Some(entry) => &entry.place,
            None => &self.place,
        }
    }

    /// Whether it was refused as a whole, so that its missing keys are no news.
    pub(super) fn is_refused(&self, mistakes: &[Mistake]) -> bool {
        !self.name.is_empty() && mistakes.iter().any(|m| m.is_about(self.name))
    }

    /// `section.key`.
    pub(super) fn path(&self, key: &str) -> String {
        match self.name {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        }
    }
}

impl Entry {
    /// Whether a variable set it.
    pub(super) const fn is_variable(&self) -> bool {
        matches!(self.place, Place::Variable(_))
    }
}

impl From<&DeValue<'_>> for Value {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_or(Self::Other("such a number"), Self::Integer),
            DeValue::Array(list) => Self::List(list.iter().map(|v| v.get_ref().into()).collect()),
            other => Self::Other(other.type_str()),
        }
    }
}

/// What to write for a peer.
const PEER_REMEDY: &str = "not a list of sections; write [[peer]], with two brackets, for each";

fn sections() -> String {
    let names: Vec<_> = SECTIONS[1..].iter().map(|(name, _)| *name).collect();
    format!("{}, {PEER}", names.join(", "))
}

/// A key of the file in one line, whatever it holds.
fn shown(key: &str) -> String {
    key.chars().take(64).flat_map(char::escape_debug).collect()
}

fn line(text: &str, span: &Range<usize>) -> Place {
    let before = text.bytes().take(span.start);
    Place::Line(1 + before.filter(|b| *b == b'\n').count())
}

//! Entries of streams that come late: a stream takes entries in ascending order only, and the
//! other site's came first.
//!
//! The tail of the stream, from the first late entry on, is written anew with the late ones among
//! it, in one transaction. What is before it, groups, and what is pending stay as they are, and so
//! do the numbers that the stream keeps of itself.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::commit::{Executed, unexpected_refusal};
use super::debts::Key;
use super::sealed::Sealed;
use super::target::Questions;
use super::{Applier, Error};
use crate::command::Command;
use crate::model::{Mark, mark_key};
use crate::redis::Reply;

/// The longest tail that is written anew: some ten milliseconds of the server's time.
const MAX_TAIL: usize = 10_000;
/// How often it is tried while clients write the stream.
const ATTEMPTS: u32 = 50;

/// The id of an entry: milliseconds, and a number among those of the same millisecond.
type Id = (u64, u64);

/// An entry that could not be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Late {
    id: Id,
    fields: Vec<Bytes>,
    /// How the stream was to be trimmed behind it.
    trim: Option<Vec<Bytes>>,
}

impl Late {
    /// What an `XADD` was to add.
    #[must_use]
    pub(super) fn of(command: &Command<'_>, db: u32) -> Option<(Key, Self)> {
        let copy = |at: usize| Bytes::copy_from_slice(command.arg(at));
        let is = |at: usize, words: &[&[u8]]| {
            let arg = command.arg(at);
            words.iter().any(|word| arg.eq_ignore_ascii_case(word))
        };
        let (mut at, mut trim) = (2, None);
        while at < command.len() {
            if is(at, &[b"MAXLEN", b"MINID"]) {
                let threshold = at + 1 + usize::from(is(at + 1, &[b"=", b"~"]));
                trim = Some(vec![copy(at), copy(threshold)]);
                at = threshold + 1;
            } else if is(at, &[b"NOMKSTREAM", b"KEEPREF", b"DELREF", b"ACKED"]) {
                at += 1;
            } else {
                break;
            }
        }
        let fields = command.args(at + 1).map(Bytes::copy_from_slice).collect();
        let id = parse(command.arg(at))?;
        Some(((db, copy(1)), Self { id, fields, trim }))
    }
}

fn parse(text: &[u8]) -> Option<Id> {
    let (ms, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

fn text((ms, number): Id) -> String {
    format!("{ms}-{number}")
}

/// The greatest id that is less.
const fn before((ms, number): Id) -> Id {
    match (ms, number) {
        (0, 0) => (0, 0),
        (ms, 0) => (ms - 1, u64::MAX),
        (ms, number) => (ms, number - 1),
    }
}

/// The tail of a stream, and what the stream says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tail {
    entries: BTreeMap<Id, Vec<Bytes>>,
    last: Id,
    /// How many were ever added, and the greatest that was deleted; servers before 7.0 do not tell.
    counts: Option<(i64, Id)>,
}

impl Tail {
    /// Reads the answers to `XRANGE` and `XINFO STREAM`; none when there is no such stream.
    fn read(range: Reply, info: Reply) -> Option<Self> {
        let mut tail = Self::default();
        if range.error().is_some() || info.error().is_some() {
            return None;
        }
        for entry in range.array() {
            let mut parts = entry.array().into_iter();
            let id = parse(parts.next()?.bytes()?)?;
            let fields = parts.next()?.array();
            let fields = fields.iter().filter_map(Reply::bytes).cloned();
            tail.entries.insert(id, fields.collect());
        }
        let (mut added, mut deleted) = (None, None);
        let mut words = info.array().into_iter();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            match &name.bytes()?[..] {
                b"last-generated-id" => tail.last = parse(value.bytes()?)?,
                b"entries-added" => added = value.integer(),
                b"max-deleted-entry-id" => deleted = value.bytes().and_then(|v| parse(v)),
                _ => {}
            }
        }
        tail.counts = added.zip(deleted);
        Some(tail)
    }

    /// Puts late entries among the others. One whose id is taken gets the next that is free.
    fn merge(&mut self, late: &[Late]) -> BTreeMap<Id, Vec<Bytes>> {
        let mut merged = self.entries.clone();
        for Late { id, fields, .. } in late {
            let mut id = *id;
            while merged.contains_key(&id) {
                id.1 = id.1.saturating_add(1);
            }
            merged.insert(id, fields.clone());
            self.last = self.last.max(id);
        }
        merged
    }

    /// The commands that put `merged` in the place of the tail, which begins at `first`.
    fn put(&self, sealed: &mut Sealed, key: &[u8], first: Id, merged: &BTreeMap<Id, Vec<Bytes>>) {
        let ids: Vec<String> = self.entries.keys().map(|id| text(*id)).collect();
        if !ids.is_empty() {
            let args = [&b"XDEL"[..], key].into_iter();
            let args: Vec<&[u8]> = args.chain(ids.iter().map(String::as_bytes)).collect();
            sealed.command(&args);
        }
        sealed.command(&[b"XSETID", key, text(before(first)).as_bytes()]);
        for (id, fields) in merged {
            let id = text(*id);
            let args = [&b"XADD"[..], key, id.as_bytes()].into_iter();
            let args: Vec<&[u8]> = args.chain(fields.iter().map(|f| &f[..])).collect();
            sealed.command(&args);
        }
        let last = text(self.last);
        let Some((added, deleted)) = self.counts else {
            sealed.command(&[b"XSETID", key, last.as_bytes()]);
            return;
        };
        let more = merged.len().saturating_sub(self.entries.len());
        let added = added.saturating_add(i64::try_from(more).unwrap_or(0));
        let (added, deleted) = (added.to_string(), text(deleted));
        let numbers = [&b"ENTRIESADDED"[..], added.as_bytes(), b"MAXDELETEDID"];
        let args = [&b"XSETID"[..], key, last.as_bytes()].into_iter();
        let args: Vec<&[u8]> = args.chain(numbers).chain([deleted.as_bytes()]).collect();
        sealed.command(&args);
    }
}

impl Applier {
    /// Adds late entries; gives back the keys where that cannot be done.
    pub(super) async fn add_late(
        &mut self,
        late: Vec<(Key, Late)>,
        stop: &CancellationToken,
    ) -> Result<Vec<Key>, Error> {
        let mut by_key: BTreeMap<Key, Vec<Late>> = BTreeMap::new();
        for (key, late) in late {
            by_key.entry(key).or_default().push(late);
        }
        let mut left = Vec::new();
        for (key, late) in by_key {
            if !self.add_late_to(&key, &late, stop).await? {
                let (peer, key) = (&self.config.peer, &key);
                if let Some(left_out) = self.told.take(Instant::now()) {
                    warn!(%peer, db = key.0, key = %key.1.escape_ascii(), left_out, "entries came too late to be put into the stream; asking for its state");
                }
                left.push(key.clone());
            }
        }
        Ok(left)
    }

    /// False when the stream's tail is too long, or clients do not leave it alone.
    async fn add_late_to(
        &mut self,
        (db, key): &Key,
        late: &[Late],
        stop: &CancellationToken,
    ) -> Result<bool, Error> {
        let Some(first) = late.iter().map(|late| late.id).min() else {
            return Ok(true);
        };
        for _ in 0..ATTEMPTS {
            let Some(tail) = self.tail(*db, key, first, stop).await? else {
                continue;
            };
            // Of another type meanwhile: that is judged.
            let Some(mut tail) = tail else {
                return self.unwatch(stop).await.map(|()| true);
            };
            if tail.entries.len() > MAX_TAIL {
                return self.unwatch(stop).await.map(|()| false);
            }
            let merged = tail.merge(late);
            let marked = self.marked()?;
            let mark = Mark {
                instance: self.config.instance,
                batch: marked.batch + 1,
                ..marked
            };
            let (name, text) = (mark_key(&self.config.peer), mark.to_string());
            let seal = |selected| {
                let mut sealed = Sealed::begin(selected, &name, &text);
                sealed.select(*db);
                tail.put(&mut sealed, key, first, &merged);
                for trim in late.iter().filter_map(|late| late.trim.as_ref()) {
                    let args = [&b"XTRIM"[..], key].into_iter();
                    let args: Vec<&[u8]> = args.chain(trim.iter().map(|t| &t[..])).collect();
                    sealed.command(&args);
                }
                sealed.end();
                sealed
            };
            match self.execute_once(stop, seal).await? {
                Executed::Done { .. } => {
                    self.mark = Some(mark);
                    return Ok(true);
                }
                Executed::Lost if self.mark.as_ref().is_some_and(|m| m.batch >= mark.batch) => {
                    return Ok(true);
                }
                Executed::Changed | Executed::Lost => {}
                Executed::Refused { message, .. } => return Err(unexpected_refusal(&message)),
            }
        }
        Ok(false)
    }

    /// Nothing is to be written: what was watched must not undo the next transaction.
    async fn unwatch(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let mut questions = Questions::default();
        questions.put(&[b"UNWATCH"]);
        // When the connection had to be opened anew, nothing is watched either.
        self.ask_all(&questions, stop).await.map(drop)
    }

    /// Watches a stream and reads its tail. None when the connection had to be opened anew; none
    /// within it when it is no stream.
    async fn tail(
        &mut self,
        db: u32,
        key: &Bytes,
        first: Id,
        stop: &CancellationToken,
    ) -> Result<Option<Option<Tail>>, Error> {
        let mut questions = Questions::default();
        questions.put(&[b"SELECT", db.to_string().as_bytes()]);
        questions.put(&[b"WATCH", key]);
        let most = (MAX_TAIL + 1).to_string();
        let (first, most) = (text(first), most.as_bytes());
        let range =
            questions.put_if_told(&[b"XRANGE", key, first.as_bytes(), b"+", b"COUNT", most]);
        let info = questions.put_if_told(&[b"XINFO", b"STREAM", key]);
        let Some(replies) = self.ask_all(&questions, stop).await? else {
            return Ok(None);
        };
        if let Some(writing) = &mut self.writing {
            writing.db = db;
        }
        let reply = |at: usize| replies.get(at).cloned().unwrap_or(Reply::Nil);
        let (range, info) = (reply(range), reply(info));
        Ok(Some(match info {
            Reply::Nil => None,
            info => Tail::read(range, info),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::scanner;
    use crate::redis::put_command;

    fn bytes(word: &str) -> Bytes {
        Bytes::copy_from_slice(word.as_bytes())
    }

    fn late(line: &str) -> Option<(Key, Late)> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut raw, mut found) = (Vec::new(), None);
        put_command(&mut raw, &args);
        scanner::for_each(&raw, |command| found = Late::of(&command, 2)).unwrap();
        found
    }

    #[test]
    fn an_entry_is_read_behind_whatever_options() {
        for (line, trim) in [
            ("XADD x 5-1 f v", None),
            (
                "XADD x NOMKSTREAM MAXLEN = 10 5-1 f v",
                Some(["MAXLEN", "10"]),
            ),
            ("XADD x MINID 3-0 5-1 f v", Some(["MINID", "3-0"])),
        ] {
            let (key, late) = late(line).unwrap();
            assert_eq!(key, (2, bytes("x")), "{line}");
            assert_eq!(late.id, (5, 1), "{line}");
            assert_eq!(late.fields, [bytes("f"), bytes("v")], "{line}");
            assert_eq!(late.trim, trim.map(|t| t.map(bytes).to_vec()), "{line}");
        }
        assert_eq!(late("XADD x * f v"), None);
        assert_eq!(late("XADD x MAXLEN"), None);
    }

    #[test]
    fn late_entries_come_among_the_others_and_none_is_lost() {
        let entry = |name: &str| vec![bytes("f"), bytes(name)];
        let mut tail = Tail {
            entries: [((5, 1), entry("a")), ((5, 2), entry("b"))].into(),
            last: (9, 0),
            counts: Some((7, (3, 3))),
        };
        let [one, other] = ["XADD x 5-1 f late", "XADD x 4-0 f v"].map(|l| late(l).unwrap().1);
        let merged = tail.merge(&[one, other]);
        let ids: Vec<Id> = merged.keys().copied().collect();
        assert_eq!(ids, [(4, 0), (5, 1), (5, 2), (5, 3)]);
        assert_eq!(merged[&(5, 3)], entry("late"));
        let mut sealed = Sealed::default();
        tail.put(&mut sealed, b"x", (4, 0), &merged);
        let text = String::from_utf8(sealed.bytes).unwrap();
        let words: Vec<&str> = text
            .split("\r\n")
            .filter(|w| !w.starts_with(['*', '$']))
            .collect();
        assert_eq!(
            words.join(" "),
            "XDEL x 5-1 5-2 XSETID x 3-18446744073709551615 XADD x 4-0 f v XADD x 5-1 f a \
             XADD x 5-2 f b XADD x 5-3 f late XSETID x 9-0 ENTRIESADDED 9 MAXDELETEDID 3-3 "
        );
    }
}

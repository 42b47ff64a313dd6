//! Rebuilds a stream.

use std::mem;

use super::writer::Writer;
use super::{Abilities, Losses};
use crate::rdb::Place;
use crate::rdb::decode::{Consumer, Entry, Error, Group, Id, Pending, Stream};

/// How many ids one command has at most, for the sake of the server.
const IDS_MAX: usize = 1024;
/// A group that is there for as long as it takes to create a stream without entries.
const CREATOR: &[u8] = b"tandem";
/// Who has what was given back, in a group without consumers.
const NOBODY: &[u8] = b"nobody";

/// A stream on its way into commands.
pub(super) struct StreamCommands<'a> {
    stream: Stream<'a>,
    phase: Phase<'a>,
    /// All ids pending, ascending, and how many of them were looked at.
    pending: Vec<Id>,
    looked: usize,
    /// The entry that comes next.
    held: Option<Entry>,
    entries: u64,
    last_added: Option<Id>,
    /// How many deleted entries were added before the first that is there.
    leading: u64,
    /// The deleted entries that were added after it.
    between: Vec<Id>,
    /// Whether the server has entries of earlier parts.
    continues: bool,
    /// Whether later parts have what is not entries.
    is_continued: bool,
}

/// What is being written.
enum Phase<'a> {
    Entries,
    Create,
    Number,
    Producers,
    Groups,
    Consumers(Claimed<'a>),
    Claims {
        group: Claimed<'a>,
        consumer: Vec<u8>,
        /// What to claim; as many as are left.
        claims: Vec<Pending>,
        last: bool,
    },
    Trim,
    Delete {
        deleted: usize,
    },
    NumberAgain,
    Done,
}

/// A group, and which of its pending entries a consumer has.
struct Claimed<'a> {
    group: Group<'a>,
    owned: Vec<bool>,
    /// A consumer, for what none has.
    any: Option<Vec<u8>>,
}

impl<'a> StreamCommands<'a> {
    pub(super) fn new(stream: Stream<'a>) -> Result<Self, Error> {
        Ok(Self {
            pending: stream.all_pending()?,
            stream,
            phase: Phase::Entries,
            looked: 0,
            held: None,
            entries: 0,
            last_added: None,
            leading: 0,
            between: Vec::new(),
            continues: false,
            is_continued: false,
        })
    }

    /// It is a part of a stream.
    pub(super) fn part(&mut self, place: Place) {
        self.continues = place != Place::First;
        self.is_continued = place != Place::Last;
    }

    /// Writes two commands at most; whether there may be more.
    pub(super) fn step(
        &mut self,
        writer: &mut Writer<'_>,
        target: Abilities,
        losses: &mut Losses,
    ) -> Result<bool, Error> {
        self.phase = match mem::replace(&mut self.phase, Phase::Done) {
            Phase::Entries => self.add_entry(writer)?,
            Phase::Create => {
                let key = writer.key();
                writer.command(&[b"XGROUP", b"CREATE", key, CREATOR, b"0-0", b"MKSTREAM"]);
                writer.command(&[b"XGROUP", b"DESTROY", key, CREATOR]);
                Phase::Number
            }
            Phase::Number => {
                self.number(writer, target, self.placeholders() == 0);
                Phase::Producers
            }
            Phase::Producers => {
                self.producers(writer, target, losses);
                Phase::Groups
            }
            Phase::Groups => match self.stream.next_group()? {
                Some(group) => {
                    create_group(writer, target, &group);
                    Phase::Consumers(Claimed {
                        owned: vec![false; group.pending.len()],
                        group,
                        any: None,
                    })
                }
                None => Phase::Trim,
            },
            Phase::Consumers(group) => match self.stream.next_consumer()? {
                Some(consumer) => self.consumer(writer, target, losses, group, &consumer)?,
                None => self.given_back(losses, group),
            },
            Phase::Claims {
                group,
                consumer,
                mut claims,
                last,
            } => {
                claim(writer, &group, &consumer, &mut claims);
                match (claims.is_empty(), last) {
                    (true, true) => Phase::Groups,
                    (true, false) => Phase::Consumers(group),
                    (false, _) => Phase::Claims {
                        group,
                        consumer,
                        claims,
                        last,
                    },
                }
            }
            Phase::Trim => {
                if self.leading > 0 {
                    let left = self.entries.saturating_add(self.between.len() as u64);
                    let left = left.to_string();
                    writer.command(&[b"XTRIM", writer.key(), b"MAXLEN", left.as_bytes()]);
                }
                Phase::Delete { deleted: 0 }
            }
            Phase::Delete { deleted } => self.delete(writer, deleted),
            Phase::NumberAgain => {
                if self.placeholders() > 0 && target.stream_counters {
                    self.number(writer, target, true);
                }
                Phase::Done
            }
            Phase::Done => return Ok(false),
        };
        Ok(true)
    }

    /// How many deleted entries are there for as long as it takes to claim them.
    fn placeholders(&self) -> u64 {
        self.leading.saturating_add(self.between.len() as u64)
    }

    /// Adds an entry: the next one, or a deleted one that is pending and comes before it.
    fn add_entry(&mut self, writer: &mut Writer<'_>) -> Result<Phase<'a>, Error> {
        if self.held.is_none() {
            self.held = self.stream.next_entry()?;
        }
        let before = |id: Id| match self.held {
            Some(entry) => id < entry.id,
            None => id <= self.stream.last_id && Some(id) > self.last_added,
        };
        if let Some(&id) = self.pending.get(self.looked)
            && before(id)
        {
            self.looked = self.looked.saturating_add(1);
            if id == Id::ZERO || (self.continues && self.last_added.is_none()) {
                // No server gives this id to an entry: it will be counted as lost. Or it is one of
                // an earlier part, most likely.
                return Ok(Phase::Entries);
            }
            self.last_added = Some(id);
            match self.entries {
                0 => self.leading = self.leading.saturating_add(1),
                _ => self.between.push(id),
            }
            writer.command(&[b"XADD", writer.key(), id.to_string().as_bytes(), b"", b""]);
            return Ok(Phase::Entries);
        }
        let Some(entry) = self.held.take() else {
            return Ok(match self.last_added {
                _ if self.is_continued => Phase::Done,
                None if !self.continues => Phase::Create,
                _ => Phase::Number,
            });
        };
        if self.pending.get(self.looked) == Some(&entry.id) {
            self.looked = self.looked.saturating_add(1);
        }
        self.entries = self.entries.saturating_add(1);
        self.last_added = Some(entry.id);
        writer.begin(entry.fields.saturating_mul(2).saturating_add(3));
        writer.arg(b"XADD");
        writer.arg(writer.key());
        writer.arg(entry.id.to_string().as_bytes());
        let (mut digits, mut more_digits) = (itoa::Buffer::new(), itoa::Buffer::new());
        while let Some((name, value)) = self.stream.next_field()? {
            writer.arg(name.bytes(&mut digits));
            writer.arg(value.bytes(&mut more_digits));
        }
        Ok(Phase::Entries)
    }

    /// Sets the last id, and what servers since 7.0 count.
    fn number(&self, writer: &mut Writer<'_>, target: Abilities, last_time: bool) {
        let last_id = self.last_added.max(Some(self.stream.last_id));
        let last_id = last_id.unwrap_or_default();
        let last_text = last_id.to_string();
        if !target.stream_counters {
            if self.last_added != Some(last_id) {
                writer.command(&[b"XSETID", writer.key(), last_text.as_bytes()]);
            }
            return;
        }
        let entries = match self.continues {
            true => self.stream.length,
            false => self.entries,
        };
        let there = match last_time {
            true => entries,
            false => entries.saturating_add(self.placeholders()),
        };
        let added = self.stream.entries_added.unwrap_or(there).max(there);
        let added = signed(added).to_string();
        let key = writer.key();
        let mut args: Vec<&[u8]> = vec![b"XSETID", key, last_text.as_bytes()];
        args.extend([&b"ENTRIESADDED"[..], added.as_bytes()]);
        // A server does not take one beyond the last id, though it may have come to have one.
        let deleted = self.stream.max_deleted_id;
        let deleted = deleted.filter(|id| last_time && *id != Id::ZERO && *id <= last_id);
        let deleted = deleted.map(|id| id.to_string());
        if let Some(deleted) = &deleted {
            args.extend([&b"MAXDELETEDID"[..], deleted.as_bytes()]);
        }
        writer.command(&args);
    }

    fn producers(&self, writer: &mut Writer<'_>, target: Abilities, losses: &mut Losses) {
        let Some(producers) = self.stream.producers else {
            return;
        };
        losses.tokens = losses.tokens.saturating_add(producers.tokens);
        if target.stream_producers {
            let duration = producers.duration_s.to_string();
            let tokens = producers.tokens_max.to_string();
            writer.command(&[
                b"XCFGSET",
                writer.key(),
                b"IDMP-DURATION",
                duration.as_bytes(),
                b"IDMP-MAXSIZE",
                tokens.as_bytes(),
            ]);
        }
    }

    /// Creates a consumer, and finds out what it must claim.
    fn consumer(
        &self,
        writer: &mut Writer<'_>,
        target: Abilities,
        losses: &mut Losses,
        mut group: Claimed<'a>,
        consumer: &Consumer<'a>,
    ) -> Result<Phase<'a>, Error> {
        let mut claims = Vec::new();
        for id in consumer.pending() {
            let at = group.group.pending.binary_search_by_key(&id, |p| p.id).ok();
            let pending = at.and_then(|at| Some((group.group.pending.get(at)?, at)));
            let Some((pending, at)) = pending else {
                return Err(self
                    .stream
                    .malformed("a consumer's entry that is not pending"));
            };
            if let Some(owned) = group.owned.get_mut(at)
                && !mem::replace(owned, true)
            {
                claims.push(*pending);
            }
        }
        self.drop_lost(&mut claims, losses);
        let name = consumer.name.clone().into_bytes().into_owned();
        let digits = &mut itoa::Buffer::new();
        let group_name = group.group.name.bytes(digits);
        let key = writer.key();
        if target.create_consumer {
            writer.command(&[b"XGROUP", b"CREATECONSUMER", key, group_name, &name]);
        } else if claims.is_empty() {
            // Asking for what it has, which is nothing, creates it.
            let args: [&[u8]; 9] = [
                b"XREADGROUP",
                b"GROUP",
                group_name,
                &name,
                b"COUNT",
                b"1",
                b"STREAMS",
                key,
                b"0",
            ];
            writer.command(&args);
        }
        if group.any.is_none() {
            group.any = Some(name.clone());
        }
        Ok(match claims.is_empty() {
            true => Phase::Consumers(group),
            false => Phase::Claims {
                group,
                consumer: name,
                claims: by_delivery(claims),
                last: false,
            },
        })
    }

    /// What is pending and of no consumer would be delivered to nobody: a consumer gets it, from
    /// whom others can claim it.
    fn given_back(&self, losses: &mut Losses, group: Claimed<'a>) -> Phase<'a> {
        let pending = group.group.pending.iter().zip(&group.owned);
        let mut claims: Vec<Pending> = pending
            .filter(|(_, owned)| !**owned)
            .map(|(pending, _)| *pending)
            .collect();
        self.drop_lost(&mut claims, losses);
        losses.given_back = losses.given_back.saturating_add(claims.len() as u64);
        if claims.is_empty() {
            return Phase::Groups;
        }
        Phase::Claims {
            consumer: group.any.clone().unwrap_or_else(|| NOBODY.to_vec()),
            claims: by_delivery(claims),
            group,
            last: true,
        }
    }

    /// Leaves out what cannot be added, and so not be claimed.
    fn drop_lost(&self, claims: &mut Vec<Pending>, losses: &mut Losses) {
        let before = claims.len();
        let last = match self.continues {
            true => Some(self.stream.last_id),
            false => self.last_added,
        };
        claims.retain(|pending| pending.id != Id::ZERO && Some(pending.id) <= last);
        let lost = before.saturating_sub(claims.len()) as u64;
        losses.pending = losses.pending.saturating_add(lost);
    }

    /// Deletes what was added to be claimed.
    fn delete(&self, writer: &mut Writer<'_>, deleted: usize) -> Phase<'a> {
        let rest = self.between.get(deleted..).unwrap_or_default();
        if rest.is_empty() {
            return Phase::NumberAgain;
        }
        let ids: Vec<String> = rest.iter().take(IDS_MAX).map(Id::to_string).collect();
        writer.begin((ids.len() as u64).saturating_add(2));
        writer.arg(b"XDEL");
        writer.arg(writer.key());
        for id in &ids {
            writer.arg(id.as_bytes());
        }
        Phase::Delete {
            deleted: deleted.saturating_add(ids.len()),
        }
    }
}

fn create_group(writer: &mut Writer<'_>, target: Abilities, group: &Group<'_>) {
    let digits = &mut itoa::Buffer::new();
    let last_id = group.last_id.to_string();
    let read = group.entries_read.map(|read| signed(read).to_string());
    let name = group.name.bytes(digits);
    let key = writer.key();
    let mut args: Vec<&[u8]> = vec![b"XGROUP", b"CREATE", key, name, last_id.as_bytes()];
    if let Some(read) = read.as_ref().filter(|_| target.stream_counters) {
        args.extend([&b"ENTRIESREAD"[..], read.as_bytes()]);
    }
    writer.command(&args);
}

/// The order in which most can be claimed at once: what was delivered at one time stands together.
fn by_delivery(mut claims: Vec<Pending>) -> Vec<Pending> {
    // Taken from the end.
    claims.sort_unstable_by_key(|p| (p.delivered_at_ms, p.deliveries, p.id));
    claims.reverse();
    claims
}

/// Claims those that were delivered at one time, and equally often.
fn claim(writer: &mut Writer<'_>, group: &Claimed<'_>, consumer: &[u8], claims: &mut Vec<Pending>) {
    let Some(&first) = claims.last() else {
        return;
    };
    let same = |p: &&Pending| {
        (p.delivered_at_ms, p.deliveries) == (first.delivered_at_ms, first.deliveries)
    };
    let count = claims.iter().rev().take(IDS_MAX).take_while(same).count();
    let batch = claims.split_off(claims.len().saturating_sub(count));
    let digits = &mut itoa::Buffer::new();
    writer.begin((count as u64).saturating_add(11));
    writer.arg(b"XCLAIM");
    writer.arg(writer.key());
    writer.arg(group.group.name.bytes(digits));
    writer.arg(consumer);
    writer.arg(b"0");
    for pending in batch.iter().rev() {
        writer.arg(pending.id.to_string().as_bytes());
    }
    writer.arg(b"TIME");
    writer.arg(signed(first.delivered_at_ms).to_string().as_bytes());
    writer.arg(b"RETRYCOUNT");
    writer.arg(signed(first.deliveries).to_string().as_bytes());
    writer.arg(b"FORCE");
    writer.arg(b"JUSTID");
}

/// Servers read numbers with a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

//! Rebuilds a stream: first its groups, then its entries.

use std::mem;

use super::writer::Writer;
use super::{Abilities, Losses};
use crate::rdb::Place;
use crate::rdb::decode::{Consumer, Error, Group, Id, Pending, Stream};

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
    has_groups: bool,
    /// All ids that are pending and that an entry can have, ascending.
    pending: Vec<Id>,
    entries: u64,
    last_added: Option<Id>,
    /// Whether the server has earlier parts.
    continues: bool,
    /// Whether there are later parts.
    is_continued: bool,
}

/// What is being written.
enum Phase<'a> {
    /// An entry under each pending id, so that it can be claimed.
    StandIns {
        added: usize,
    },
    Create,
    /// What the groups' own numbers must not exceed.
    FirstNumbers,
    Groups,
    Consumers(Claimed<'a>),
    Claims {
        group: Claimed<'a>,
        consumer: Vec<u8>,
        /// What to claim; as many as are left.
        claims: Vec<Pending>,
        last: bool,
    },
    /// The stand-ins go, and the ids begin anew.
    Clear,
    Entries,
    Numbers,
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
        let mut pending = stream.all_pending()?;
        pending.retain(|id| *id != Id::ZERO);
        let has_groups = stream.has_groups();
        Ok(Self {
            stream,
            phase: match has_groups {
                true => Phase::StandIns { added: 0 },
                false => Phase::Entries,
            },
            has_groups,
            pending,
            entries: 0,
            last_added: None,
            continues: false,
            is_continued: false,
        })
    }

    /// It is a part of a stream. The first has all groups, if there are any, the next ones have what
    /// is pending, and the others entries. The last one knows how many there are.
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
            Phase::StandIns { added } => self.stand_in(writer, added),
            Phase::Create => self.create(writer),
            Phase::FirstNumbers => {
                if target.stream_counters {
                    let last_id = self.stream.last_id.max(self.last_pending());
                    self.number(writer, last_id, self.pending.len() as u64, None);
                }
                Phase::Groups
            }
            Phase::Groups => match self.stream.next_group()? {
                Some(group) => {
                    // Of a divided stream, the first part has them all.
                    if !self.continues {
                        create_group(writer, target, &group);
                    }
                    Phase::Consumers(Claimed {
                        owned: vec![false; group.pending.len()],
                        group,
                        any: None,
                    })
                }
                None => Phase::Clear,
            },
            Phase::Consumers(group) => match self.stream.next_consumer()? {
                Some(consumer) => self.consumer(writer, target, losses, group, &consumer)?,
                None => given_back(losses, group),
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
            Phase::Clear => {
                self.clear(writer);
                Phase::Entries
            }
            Phase::Entries => self.add_entry(writer)?,
            Phase::Numbers => {
                self.last_numbers(writer, target);
                self.producers(writer, target, losses);
                Phase::Done
            }
            Phase::Done => return Ok(false),
        };
        Ok(true)
    }

    fn last_pending(&self) -> Id {
        self.pending.last().copied().unwrap_or_default()
    }

    /// Adds an entry under the next pending id, whether the stream still has one or not.
    fn stand_in(&self, writer: &mut Writer<'_>, added: usize) -> Phase<'a> {
        match self.pending.get(added) {
            Some(id) => {
                writer.command(&[b"XADD", writer.key(), id.to_string().as_bytes(), b"", b""]);
                Phase::StandIns {
                    added: added.saturating_add(1),
                }
            }
            None if self.continues => Phase::Groups,
            None if self.pending.is_empty() => Phase::Create,
            None => Phase::FirstNumbers,
        }
    }

    /// Creates the stream without an entry.
    fn create(&self, writer: &mut Writer<'_>) -> Phase<'a> {
        let key = writer.key();
        writer.command(&[b"XGROUP", b"CREATE", key, CREATOR, b"0-0", b"MKSTREAM"]);
        writer.command(&[b"XGROUP", b"DESTROY", key, CREATOR]);
        match self.has_groups {
            true => Phase::FirstNumbers,
            false => Phase::Numbers,
        }
    }

    fn clear(&self, writer: &mut Writer<'_>) {
        if !self.pending.is_empty() {
            // XDEL would leave the greatest deleted id, and XSETID goes no further back than that.
            writer.command(&[b"XTRIM", writer.key(), b"MAXLEN", b"0"]);
        }
        writer.command(&[b"XSETID", writer.key(), b"0-0"]);
    }

    fn add_entry(&mut self, writer: &mut Writer<'_>) -> Result<Phase<'a>, Error> {
        let Some(entry) = self.stream.next_entry()? else {
            let is_there = self.continues || self.has_groups || self.entries > 0;
            return Ok(match is_there {
                _ if self.is_continued => Phase::Done,
                true => Phase::Numbers,
                false => Phase::Create,
            });
        };
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
    fn last_numbers(&self, writer: &mut Writer<'_>, target: Abilities) {
        let last_id = self.last_added.unwrap_or_default().max(self.stream.last_id);
        if !target.stream_counters {
            if self.last_added != Some(last_id) {
                writer.command(&[b"XSETID", writer.key(), last_id.to_string().as_bytes()]);
            }
            return;
        }
        let there = match self.continues {
            true => self.stream.length,
            false => self.entries,
        };
        // A server does not take one beyond the last id, though it may have come to have one.
        let deleted = self.stream.max_deleted_id;
        let deleted = deleted.filter(|id| *id != Id::ZERO && *id <= last_id);
        self.number(writer, last_id, there, deleted);
    }

    fn number(&self, writer: &mut Writer<'_>, last_id: Id, there: u64, deleted: Option<Id>) {
        let last_id = last_id.to_string();
        let added = self.stream.entries_added.unwrap_or(there).max(there);
        let added = signed(added).to_string();
        let key = writer.key();
        let mut args: Vec<&[u8]> = vec![b"XSETID", key, last_id.as_bytes()];
        args.extend([&b"ENTRIESADDED"[..], added.as_bytes()]);
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
        drop_lost(&mut claims, losses);
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
}

/// What is pending and of no consumer would be delivered to nobody: a consumer gets it, from whom
/// others can claim it.
fn given_back<'a>(losses: &mut Losses, group: Claimed<'a>) -> Phase<'a> {
    let pending = group.group.pending.iter().zip(&group.owned);
    let mut claims: Vec<Pending> = pending
        .filter(|(_, owned)| !**owned)
        .map(|(pending, _)| *pending)
        .collect();
    drop_lost(&mut claims, losses);
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

/// Leaves out what no entry can stand in for, and so not be claimed.
fn drop_lost(claims: &mut Vec<Pending>, losses: &mut Losses) {
    let before = claims.len();
    claims.retain(|pending| pending.id != Id::ZERO);
    let lost = before.saturating_sub(claims.len()) as u64;
    losses.pending = losses.pending.saturating_add(lost);
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

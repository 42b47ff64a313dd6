//! The writing side of the table: our own writes, in spans that are forgotten together.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::table::{All, DidAll, Table};
use crate::command::{self, Act, Kind, Touch, Whole};
use crate::model::{Cursor, Hlc, Key};

/// The most keys of one [`Span`].
const MAX_SPAN: usize = 1 << 16;
/// As a part of all that is remembered: so much is forgotten at once when there are too many.
const LEAST_SPANS: usize = 16;
/// A span of fewer keys goes on: many small ones would cost whoever asks more than they save.
pub(super) const MIN_SPAN: usize = 1 << 10;
/// The most spans that are begun before the last one is full: whoever asks looks into each.
pub(super) const MAX_SPANS: usize = 64;
/// How many kinds of hashes are told apart before a span is looked into: many times as many as there are
/// writes on the way to a peer, in no more memory than a processor has at hand.
const KINDS: usize = 1 << 16;
/// The most flushes and swaps remembered: more databases are not in use where these are in conflict.
pub(super) const MAX_WHOLES: usize = 64;

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any 64 bits of the hash will do"
        )]
        let low = hash as u64;
        self.0 = low;
    }
}

/// How the maps of hashes are hashed.
pub(super) type Hashed = BuildHasherDefault<PassThrough>;

/// Our own writes, as far as they are remembered.
#[derive(Debug)]
pub(super) struct Writes {
    /// What holds for every key.
    pub all: All,
    /// The earliest first.
    pub spans: VecDeque<Span>,
    /// How many spans were begun.
    begun: u32,
    /// Of each kind of hash, how many spans were begun when one of it was written last. What is asked for
    /// and was not written costs one look at this, not one into each span. (A count that has begun
    /// anew makes a look into spans more.)
    newest: Box<[u32]>,
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            all: All::default(),
            spans: VecDeque::new(),
            begun: 0,
            newest: vec![0; KINDS].into(),
        }
    }
}

impl Writes {
    /// What was done to a key or an element in each span that ends behind `seen`, the last first.
    pub(super) fn of(&self, hash: u128, seen: Cursor) -> impl Iterator<Item = &Done> {
        let newest = self.newest.get(kind(hash)).copied().unwrap_or_default();
        let since = self.begun.wrapping_sub(newest) as usize;
        let spans = self.spans.range(..self.spans.len().saturating_sub(since));
        let spans = spans.rev().filter(move |span| span.last > seen);
        spans.filter_map(move |span| span.done.get(&hash))
    }

    /// Something was done to a key or an element: whether that is the first time in the present span.
    fn note(&mut self, hash: u128, did: Did) -> bool {
        let Some(span) = self.spans.back_mut() else {
            return false;
        };
        span.last = span.last.max(did.at);
        if let Some(newest) = self.newest.get_mut(kind(hash)) {
            *newest = self.begun;
        }
        match span.done.entry(hash) {
            Entry::Occupied(mut known) => {
                known.get_mut().note(did);
                false
            }
            Entry::Vacant(new) => {
                let more = Vec::new();
                new.insert(Done { first: did, more });
                true
            }
        }
    }
}

/// The kind of a hash, not by the bits by which the maps find it.
const fn kind(hash: u128) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "any bits of the hash will do"
    )]
    let high = (hash >> 64) as usize;
    high % KINDS
}

/// The writes of a span of our history. They are forgotten together: to remove each key by itself
/// would cost as much as to note it.
#[derive(Debug, Default)]
pub(super) struct Span {
    /// The last of them.
    pub last: Cursor,
    /// Hash of a key → what was done to it in the span; and hash of an element, likewise.
    pub done: HashMap<u128, Done, Hashed>,
    /// Hash of a key → what was made of it, or with it, by commands that write other keys.
    pub made: HashMap<u128, Vec<Made>, Hashed>,
}

/// One of our writes, as the table remembers it: a touch, and where and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    /// What is done, and to what.
    pub touch: Touch,
    /// Where the record ends.
    pub at: Cursor,
    /// When it was read.
    pub hlc: Hlc,
}

/// The last time that something was done to a key or an element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Did {
    pub act: Act,
    pub kind: Kind,
    pub at: Cursor,
    pub hlc: Hlc,
}

/// What was done to a key or an element: of each act, the last. Most have one kind only.
#[derive(Debug)]
pub(super) struct Done {
    first: Did,
    more: Vec<Did>,
}

impl Done {
    fn note(&mut self, did: Did) {
        let same = |known: &&mut Did| known.act == did.act;
        if self.first.act == did.act {
            self.first = did;
        } else if let Some(known) = self.more.iter_mut().find(same) {
            *known = did;
        } else {
            self.more.push(did);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Did> {
        std::iter::once(&self.first).chain(&self.more)
    }

    pub(super) fn last(&self) -> Cursor {
        self.all().map(|did| did.at).max().unwrap_or_default()
    }
}

/// Keys that a command has written from others.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub at: Cursor,
    /// Whether a later command of the same record has renewed or moved the key.
    pub is_renewed: bool,
    pub keys: Arc<[Key]>,
}

/// The writing side, owned by the intake.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// How many keys there are in all spans.
    count: usize,
    /// Whether the next write begins a span.
    is_closed: bool,
    /// Up to where everything is forgotten.
    forgotten: Cursor,
    /// A span that was forgotten, for its memory.
    spare: Span,
}

impl Recent {
    /// Keys and elements were written, the earliest first.
    pub(super) fn note(&mut self, table: &Table, written: impl IntoIterator<Item = Write>) {
        let mut writes = table.writes();
        for Write { touch, at, hlc } in written {
            self.make_room(table, &mut writes);
            let Touch { act, kind, .. } = touch;
            let did = Did { act, kind, at, hlc };
            for hash in std::iter::once(touch.key).chain(touch.element) {
                self.count += usize::from(writes.note(hash, did));
            }
        }
    }

    /// A command has written keys from others.
    pub(super) fn note_made(&mut self, table: &Table, made: &command::Made, at: Cursor) {
        let mut writes = table.writes();
        self.make_room(table, &mut writes);
        let Some(span) = writes.spans.back_mut() else {
            return;
        };
        span.last = span.last.max(at);
        for hash in &made.from {
            let made = Made {
                at,
                is_renewed: made.renewed.contains(hash),
                keys: Arc::clone(&made.keys),
            };
            span.made.entry(*hash).or_default().push(made);
            self.count += 1;
        }
    }

    /// Any key may have been written.
    pub(super) fn note_everything(&mut self, table: &Table, at: Cursor) {
        table.note_all_written(at);
        self.forget(table, at);
    }

    /// Keys were written that were not named.
    pub(super) fn note_whole(&mut self, table: &Table, what: Whole, at: Cursor, hlc: Hlc) {
        let act = match what {
            Whole::Unknown => return self.note_everything(table, at),
            Whole::Flush(_) => Act::Delete,
            Whole::Swap(..) => Act::Write,
        };
        let kind = Kind::Other;
        let did = Did { act, kind, at, hlc };
        let are_many = {
            let wholes = &mut table.writes().all.wholes;
            wholes.retain(|known| known.what != what);
            wholes.push(DidAll { what, did });
            wholes.len() > MAX_WHOLES
        };
        if are_many {
            self.note_everything(table, at);
        }
    }

    /// Every peer has seen everything up to `upto`.
    pub(super) fn forget(&mut self, table: &Table, upto: Cursor) {
        if upto <= self.forgotten {
            return;
        }
        self.forgotten = upto;
        let Writes { all, spans, .. } = &mut *table.writes();
        all.wholes.retain(|whole| whole.did.at > upto);
        while spans.front().is_some_and(|span| span.last <= upto) {
            self.remove_first(spans);
        }
        // What follows will be seen later: it is forgotten apart from what there is.
        let is_large = |span: &Span| span.done.len() >= MIN_SPAN;
        self.is_closed = spans.len() < MAX_SPANS && spans.back().is_some_and(is_large);
    }

    /// Makes sure that there is a span that is not full; forgets the oldest, so that a whole span
    /// more is not too many.
    fn make_room(&mut self, table: &Table, writes: &mut Writes) {
        let Writes {
            all, spans, begun, ..
        } = writes;
        let largest = MAX_SPAN.min(table.most / LEAST_SPANS);
        let is_full = |span: &Span| span.done.len() + span.made.len() >= largest;
        if !std::mem::take(&mut self.is_closed) && !spans.back().is_none_or(is_full) {
            return;
        }
        while self.count + largest > table.most
            && let Some(oldest) = spans.front()
        {
            all.written = all.written.max(oldest.last);
            self.remove_first(spans);
        }
        spans.push_back(std::mem::take(&mut self.spare));
        *begun = begun.wrapping_add(1);
    }

    fn remove_first(&mut self, spans: &mut VecDeque<Span>) {
        if let Some(Span { mut done, made, .. }) = spans.pop_front() {
            self.count -= done.len() + made.values().map(Vec::len).sum::<usize>();
            done.clear();
            // The memory of a large one is needed in unusual moments only.
            done.shrink_to(4 * MIN_SPAN);
            self.spare.done = done;
        }
    }
}

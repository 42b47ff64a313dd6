//! Which deletes in the stream are evictions, from the messages of another connection: no I/O.
//!
//! The server does one thing after the other, so the DELs that it streams for evictions and the messages
//! that it publishes about them stand in the same order, and between the same fences. What a fence
//! parts is in the one order on both sides, whenever it arrives. `tests/model/evictions.py` is the
//! same, against every schedule.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::HashSet;

use crate::model::Offset;

/// The most messages that wait for their deletes: 16 MiB. More wait only while the stream is not read;
/// then it is as if they had not been heard.
const MAX_HEARD: usize = 1 << 20;

/// A delete of one key that may be an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delete {
    /// Where it begins in the stream.
    pub begin: Offset,
    /// Where it ends.
    pub end: Offset,
    /// The hash of the key and its database.
    pub key: u128,
}

/// What came on one side since the last fence that came on both.
#[derive(Debug)]
struct Side<T> {
    /// Before the fence that is awaited.
    before: Vec<T>,
    /// Where that stands, once it has come.
    fence: Option<Offset>,
    /// Behind it.
    behind: Vec<T>,
}

impl<T> Default for Side<T> {
    fn default() -> Self {
        Self {
            before: Vec::new(),
            fence: None,
            behind: Vec::new(),
        }
    }
}

impl<T> Side<T> {
    fn push(&mut self, entry: T) {
        match self.fence {
            None => self.before.push(entry),
            Some(_) => self.behind.push(entry),
        }
    }

    const fn len(&self) -> usize {
        self.before.len().saturating_add(self.behind.len())
    }

    /// What came before the fence; what came behind it is before the next.
    fn turn(&mut self) -> Vec<T> {
        self.fence = None;
        std::mem::replace(&mut self.before, std::mem::take(&mut self.behind))
    }
}

/// How much of the messages is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nobody listens.
    #[default]
    Deaf,
    /// Somebody listens, and the first fence has not come on both sides.
    Aligning,
    /// Everything has been heard since a fence that has come on both sides.
    Aligned,
}

/// How many there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Deletes that were evictions.
    pub kept: u64,
    /// Deletes of which it could not be told, clients' among them: they travel.
    pub in_doubt: u64,
}

/// Matches deletes with messages about evictions.
#[derive(Debug, Default)]
pub(super) struct Matching {
    state: State,
    /// The number of the last fence that was asked for.
    asked: u64,
    /// The same, until it has come on both sides.
    awaited: Option<u64>,
    deletes: Side<Delete>,
    heard: Side<u128>,
    /// Where evictions end, which were found since the last time.
    found: Vec<Offset>,
    counts: Counts,
}

impl Matching {
    /// How many there were.
    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether evictions are told from deletes now.
    pub(super) fn is_aligned(&self) -> bool {
        self.state == State::Aligned
    }

    /// The fence that is to be published, if that has not been done.
    pub(super) const fn awaited(&self) -> Option<u64> {
        self.awaited
    }

    /// The first delete that waits for its verdict: what comes from there on must not be taken before.
    pub(super) fn first_held(&self) -> Option<Delete> {
        let mut held = self.deletes.before.iter().chain(&self.deletes.behind);
        held.next().copied()
    }

    /// Where evictions end, in order, which were found since the last time.
    pub(super) fn take_found(&mut self) -> Vec<Offset> {
        std::mem::take(&mut self.found)
    }

    /// From now on everything is heard.
    pub(super) fn on_listening(&mut self) {
        self.forget();
        self.state = State::Aligning;
        self.ask();
    }

    /// From now on nothing is heard.
    pub(super) fn on_deaf(&mut self) {
        self.forget();
    }

    /// What is held has waited too long, or there is too much of it.
    pub(super) fn give_up(&mut self) {
        match self.state {
            State::Deaf => self.forget(),
            State::Aligning | State::Aligned => self.on_listening(),
        }
    }

    /// A delete is in the stream.
    pub(super) fn on_delete(&mut self, delete: Delete) {
        let is_doubtful = match self.state {
            State::Deaf => true,
            State::Aligning => self.deletes.fence.is_none(),
            State::Aligned => false,
        };
        if is_doubtful {
            self.doubt(1);
            return;
        }
        self.deletes.push(delete);
        if self.awaited.is_none() {
            self.ask();
        }
    }

    /// An eviction was heard.
    pub(super) fn on_heard(&mut self, key: u128) {
        let is_known = match self.state {
            State::Deaf => false,
            State::Aligning => self.heard.fence.is_some(),
            State::Aligned => true,
        };
        if is_known {
            self.heard.push(key);
        }
        if self.heard.len() > MAX_HEARD {
            self.give_up();
        }
    }

    /// A fence is in the stream and ends there.
    pub(super) fn on_fence(&mut self, number: u64, end: Offset) {
        if self.awaited == Some(number) {
            self.deletes.fence = Some(end);
            self.settle();
        }
    }

    /// A fence was heard.
    pub(super) fn on_heard_fence(&mut self, number: u64) {
        if self.awaited == Some(number) {
            self.heard.fence = Some(Offset(0));
            self.settle();
        }
    }

    /// The stream is read again from there on, before whatever is held.
    pub(super) fn on_rewind(&mut self, offset: Offset) {
        let side = &mut self.deletes;
        side.before.retain(|delete| delete.end <= offset);
        side.behind.retain(|delete| delete.end <= offset);
        side.fence = side.fence.filter(|end| *end <= offset);
    }

    fn ask(&mut self) {
        self.asked = self.asked.saturating_add(1);
        self.awaited = Some(self.asked);
    }

    /// What is held is in doubt, and nothing is known any more.
    fn forget(&mut self) {
        self.doubt(self.deletes.len());
        (self.deletes, self.heard) = (Side::default(), Side::default());
        (self.state, self.awaited) = (State::Deaf, None);
    }

    /// The fence may have come on both sides.
    fn settle(&mut self) {
        if self.deletes.fence.is_none() || self.heard.fence.is_none() {
            return;
        }
        let (deletes, heard) = (self.deletes.turn(), self.heard.turn());
        self.decide(&deletes, &heard);
        (self.state, self.awaited) = (State::Aligned, None);
        if !self.deletes.before.is_empty() {
            self.ask();
        }
    }

    /// What came between two fences, on both sides. Each message belongs to a delete of its key, in the
    /// same order: to the first that it can belong to, or to the last, or to one between. Only where
    /// these are the same delete is it told.
    fn decide(&mut self, deletes: &[Delete], heard: &[u128]) {
        let (first, last) = (first_of_each(deletes, heard), last_of_each(deletes, heard));
        let (Some(first), Some(last)) = (first, last) else {
            // Something was heard of which nothing is here: then nothing is known of the rest either.
            self.doubt(deletes.len());
            return;
        };
        let mut doubtful: HashSet<u128> = HashSet::new();
        let mut told = Vec::new();
        for (place, (first, last)) in first.into_iter().zip(last).enumerate() {
            match first == last {
                true => told.push(first),
                false => doubtful.extend(heard.get(place)),
            }
        }
        let ends = told.iter().filter_map(|place| deletes.get(*place));
        self.found.extend(ends.map(|delete| delete.end));
        self.counts.kept = self.counts.kept.saturating_add(told.len() as u64);
        let told: HashSet<usize> = told.into_iter().collect();
        let in_doubt = deletes.iter().enumerate();
        let in_doubt =
            in_doubt.filter(|(place, d)| doubtful.contains(&d.key) && !told.contains(place));
        self.doubt(in_doubt.count());
    }

    const fn doubt(&mut self, deletes: usize) {
        self.counts.in_doubt = self.counts.in_doubt.saturating_add(deletes as u64);
    }
}

/// For each message, the first delete that it can belong to, so that all before it have theirs. None when
/// there is not one for each.
fn first_of_each(deletes: &[Delete], heard: &[u128]) -> Option<Vec<usize>> {
    let mut places = deletes.iter().enumerate();
    let first = |key: &u128| places.find(|(_, delete)| delete.key == *key);
    let first = heard.iter().map(first);
    first.map(|found| Some(found?.0)).collect()
}

/// The same from behind: the last one.
fn last_of_each(deletes: &[Delete], heard: &[u128]) -> Option<Vec<usize>> {
    let mut places = deletes.iter().enumerate().rev();
    let last = |key: &u128| places.find(|(_, delete)| delete.key == *key);
    let last = heard.iter().rev().map(last);
    let last: Option<Vec<usize>> = last.map(|found| Some(found?.0)).collect();
    last.map(|mut last| {
        last.reverse();
        last
    })
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers of tests are small"
)]
mod tests {
    use std::collections::VecDeque;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn delete(end: u64, key: u128) -> Delete {
        Delete {
            begin: Offset(end - 1),
            end: Offset(end),
            key,
        }
    }

    /// One that is aligned.
    fn aligned() -> Matching {
        let mut matching = Matching::default();
        matching.on_listening();
        let first = matching.awaited().unwrap();
        matching.on_fence(first, Offset(1));
        matching.on_heard_fence(first);
        assert!(matching.is_aligned() && matching.awaited().is_none());
        matching
    }

    #[test]
    fn an_eviction_is_a_delete_with_a_message_between_the_same_fences() {
        let mut matching = aligned();
        matching.on_heard(1);
        for (end, key) in [(10, 1), (11, 2)] {
            matching.on_delete(delete(end, key));
        }
        let fence = matching.awaited().unwrap();
        matching.on_heard_fence(fence);
        // Of what stands behind the fence the message may still come.
        matching.on_heard(3);
        assert_eq!(matching.first_held(), Some(delete(10, 1)));
        matching.on_fence(fence, Offset(12));
        assert_eq!(matching.take_found(), [Offset(10)]);
        assert_eq!((matching.first_held(), matching.awaited()), (None, None));
        matching.on_delete(delete(20, 3));
        let fence = matching.awaited().unwrap();
        matching.on_fence(fence, Offset(21));
        matching.on_heard_fence(fence);
        assert_eq!(matching.take_found(), [Offset(20)]);
        let (kept, in_doubt) = (2, 0);
        assert_eq!(matching.counts(), Counts { kept, in_doubt });
    }

    /// Where evictions are found, and how many deletes are in doubt, of deletes of these keys and messages
    /// about those between two fences.
    fn decided(keys: &[u128], heard: &[u128]) -> (Vec<u64>, u64) {
        let mut matching = aligned();
        for (end, key) in (10..).zip(keys) {
            matching.on_delete(delete(end, *key));
        }
        heard.iter().for_each(|key| matching.on_heard(*key));
        let fence = matching.awaited().unwrap();
        matching.on_heard_fence(fence);
        matching.on_fence(fence, Offset(99));
        let found = matching.take_found().into_iter().map(|end| end.0);
        (found.collect(), matching.counts().in_doubt)
    }

    #[test]
    fn where_a_key_is_deleted_by_both_the_others_tell_which_is_which() {
        assert_eq!(decided(&[1, 1], &[1]), (vec![], 2));
        assert_eq!(decided(&[1, 1], &[1, 1]), (vec![10, 11], 0));
        assert_eq!(decided(&[1, 2, 1], &[2, 1]), (vec![11, 12], 0));
        assert_eq!(decided(&[1, 2, 1], &[1, 2]), (vec![10, 11], 0));
        assert_eq!(decided(&[1, 2, 1], &[1]), (vec![], 2));
        assert_eq!(decided(&[1, 3, 1, 2], &[1, 2]), (vec![13], 2));
        assert_eq!(decided(&[1, 1, 2, 1], &[1, 2, 1]), (vec![12, 13], 2));
        // This cannot be; so nothing is told.
        assert_eq!(decided(&[1, 2], &[2, 1]), (vec![], 2));
        assert_eq!(decided(&[1, 2], &[1, 3]), (vec![], 2));
    }

    #[test]
    fn what_was_not_heard_travels() {
        let mut matching = Matching::default();
        matching.on_delete(delete(10, 1));
        matching.on_listening();
        // Before the first fence: its message may have come before anybody listened.
        matching.on_delete(delete(11, 1));
        assert_eq!(matching.first_held(), None);
        let fence = matching.awaited().unwrap();
        matching.on_heard(1);
        matching.on_fence(fence, Offset(12));
        matching.on_delete(delete(13, 1));
        assert_eq!(matching.first_held(), Some(delete(13, 1)));
        matching.on_deaf();
        assert_eq!(matching.first_held(), None);
        assert!(matching.take_found().is_empty());
        assert_eq!(matching.counts().in_doubt, 3);
        // An old fence means nothing to who listens again.
        matching.on_listening();
        matching.on_heard_fence(fence);
        assert!(!matching.is_aligned());
    }

    #[test]
    fn too_many_messages_are_as_if_none_had_been_heard() {
        let mut matching = aligned();
        matching.on_delete(delete(10, 1));
        for _ in 0..=MAX_HEARD {
            matching.on_heard(1);
        }
        assert!(!matching.is_aligned() && matching.awaited().is_some());
        assert_eq!(matching.counts().in_doubt, 1);
        assert_eq!(matching.heard.len(), 0);
    }

    /// What the server does, or what arrives.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Evict(u128),
        Delete(u128),
        Publish,
        Read,
        Hear,
        Reread,
        Break,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u128..4).prop_map(Step::Evict),
            2 => (0_u128..4).prop_map(Step::Delete),
            6 => Just(Step::Publish),
            12 => Just(Step::Read),
            12 => Just(Step::Hear),
            1 => Just(Step::Reread),
            1 => Just(Step::Break),
        ]
    }

    #[derive(Clone, Copy)]
    enum Said {
        Key(u128),
        Fence(u64),
    }

    proptest! {
        /// Whatever arrives when, and whatever breaks.
        #[test]
        fn a_delete_of_a_client_always_travels(steps in vec(step(), 0..400)) {
            let mut matching = Matching::default();
            let (mut stream, mut read) = (Vec::new(), 0);
            let (mut messages, mut published) = (VecDeque::new(), 0);
            let (mut clients, mut evictions, mut found) = (vec![], vec![], vec![]);
            let mut is_broken = false;
            matching.on_listening();
            for step in steps {
                let end = u64::try_from(stream.len()).unwrap() + 2;
                match step {
                    Step::Evict(key) => {
                        stream.push(Said::Key(key));
                        messages.push_back(Said::Key(key));
                        evictions.push(Offset(end));
                    }
                    Step::Delete(key) => {
                        stream.push(Said::Key(key));
                        clients.push((Offset(end), key));
                    }
                    Step::Publish => {
                        if let Some(number) = matching.awaited().filter(|n| *n > published) {
                            published = number;
                            stream.push(Said::Fence(number));
                            messages.push_back(Said::Fence(number));
                        }
                    }
                    Step::Read => {
                        let end = u64::try_from(read).unwrap() + 2;
                        match stream.get(read) {
                            Some(Said::Key(key)) => matching.on_delete(delete(end, *key)),
                            Some(Said::Fence(number)) => matching.on_fence(*number, Offset(end)),
                            None => continue,
                        }
                        read += 1;
                    }
                    Step::Hear => match messages.pop_front() {
                        Some(Said::Key(key)) => matching.on_heard(key),
                        Some(Said::Fence(number)) => matching.on_heard_fence(number),
                        None => {}
                    },
                    Step::Reread => {
                        if let Some(first) = matching.first_held() {
                            matching.on_rewind(first.begin);
                            read = usize::try_from(first.end.0).unwrap() - 2;
                        }
                    }
                    Step::Break => {
                        is_broken = true;
                        messages.clear();
                        matching.on_deaf();
                        matching.on_listening();
                    }
                }
                found.extend(matching.take_found());
            }
            for (end, _) in &clients {
                prop_assert!(!found.contains(end), "a client's delete, at {end:?}");
            }
            for end in &found {
                prop_assert!(evictions.contains(end));
            }
            // Without a client that deletes and without a break, nothing is in doubt but what came before
            // the first fence.
            if clients.is_empty() && !is_broken && matching.is_aligned() {
                let first = stream.iter().position(|said| matches!(said, Said::Fence(_)));
                prop_assert!(matching.counts().in_doubt <= u64::try_from(first.unwrap()).unwrap());
            }
        }
    }
}

//! What a peer has asked for and has not got yet.
//!
//! The link is read on while an answer waits for something that the link itself brings: a copy from the peer,
//! or its records. So questions are not queued one behind the other, but put together: each key is here once
//! for each need, however often it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::link::{MAX_KEYS, Question};
use crate::model::{Cursor, Key, Need, Seen};

/// The most keys that may have been asked for; with short names they take some 100 MiB. Whoever asks for more
/// is not heard before some are answered.
const MAX_ASKED: usize = 1 << 20;

/// Of one session. Shared by who reads the link and who answers.
#[derive(Debug, Default)]
pub struct Asked {
    inner: Mutex<Inner>,
    /// There is something new.
    news: Notify,
    /// There is room again.
    room: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    keys: BTreeMap<Need, BTreeSet<Key>>,
    count: usize,
    /// What must have been seen of the peer's history before any of them is answered.
    after: Cursor,
    /// The same of third sites' histories.
    seen: Seen,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer asks. Waits for room. Cancel safe: it has asked, or not.
    pub async fn add(&self, question: Question) {
        loop {
            let room = self.room.notified();
            {
                let count = self.lock().count;
                if count == 0 || count + question.keys.len() <= MAX_ASKED {
                    return self.put(question);
                }
            }
            room.await;
        }
    }

    /// It has asked before, and it was not time yet. Does not wait: it counted then.
    pub fn put(&self, question: Question) {
        {
            let inner = &mut *self.lock();
            inner.after = inner.after.max(question.after);
            for (site, at) in question.seen.iter() {
                inner.seen.advance(site, *at);
            }
            let keys = inner.keys.entry(question.need).or_default();
            let before = keys.len();
            keys.extend(question.keys);
            inner.count += keys.len() - before;
        }
        self.news.notify_one();
    }

    /// How much of third sites' histories the peer has seen, and what answers it must have seen.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.lock().seen.clone()
    }

    /// What is needed most, as much as is answered at once; none when nothing is needed as badly as `least`.
    #[must_use]
    pub fn take(&self, least: Need) -> Option<Question> {
        let inner = &mut *self.lock();
        let mut last = inner
            .keys
            .last_entry()
            .filter(|last| *last.key() >= least)?;
        let need = *last.key();
        let first = last.get_mut();
        let rest = first.iter().nth(MAX_KEYS).cloned();
        let rest = rest.map(|key| first.split_off(&key)).unwrap_or_default();
        let keys: Vec<Key> = std::mem::replace(first, rest).into_iter().collect();
        if first.is_empty() {
            last.remove();
        }
        inner.count -= keys.len();
        let question = Question {
            after: inner.after,
            seen: inner.seen.clone(),
            need,
            keys,
        };
        self.room.notify_one();
        Some(question)
    }

    /// Waits until there may be something new. Cancel safe. For one who waits.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{Epoch, Offset};

    fn question(need: Need, numbers: std::ops::Range<usize>, after: u64) -> Question {
        let key = |n: usize| (0, Bytes::from(format!("{n:08}")));
        Question {
            after: Cursor {
                epoch: Epoch(2),
                offset: Offset(after),
            },
            seen: Seen::default(),
            need,
            keys: numbers.map(key).collect(),
        }
    }

    #[tokio::test]
    async fn what_is_asked_for_again_is_answered_once_and_what_is_lacking_first() {
        let asked = Asked::default();
        for after in 0..1000 {
            asked
                .add(question(Need::Wrong, 0..MAX_KEYS + 1, after))
                .await;
        }
        asked.add(question(Need::Lacks, 7..8, 3)).await;
        assert_eq!(
            asked.take(Need::Lacks),
            Some(question(Need::Lacks, 7..8, 999))
        );
        assert_eq!(asked.take(Need::Lacks), None);
        let first = asked.take(Need::Doubts);
        assert_eq!(first, Some(question(Need::Wrong, 0..MAX_KEYS, 999)));
        let rest = asked.take(Need::Doubts).map(|question| question.keys.len());
        assert_eq!((rest, asked.take(Need::Doubts)), (Some(1), None));
    }

    #[tokio::test]
    async fn who_asks_for_too_much_waits() {
        let asked = Asked::default();
        asked.add(question(Need::Wrong, 0..MAX_ASKED, 1)).await;
        let more = asked.add(question(Need::Lacks, 0..1, 1));
        tokio::pin!(more);
        tokio::select! {
            biased;
            () = &mut more => panic!("there is no room"),
            () = std::future::ready(()) => {}
        }
        assert!(asked.take(Need::Doubts).is_some());
        more.await;
    }
}

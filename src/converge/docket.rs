//! What the applier of a peer and the intake tell each other about the peer's records.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::model::{Cursor, Epoch, InstanceId, Key, Need, Offset, Seen, SiteId};

/// The most bytes of records that wait to be judged: what is applied in less than a second. The
/// applier waits when there are more, which happens only when our own stream is not read.
const MAX_BYTES: usize = 32 << 20;

/// Of one peer: records that are being applied and wait for their echo to be judged, and keys whose
/// state is wished for. Shared by the applier and the intake.
#[derive(Clone, Debug, Default)]
pub struct Docket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// There is room again.
    room: Notify,
    /// Held by whoever applies records, until it is known how they went, and by whoever reads states.
    turn: Arc<Semaphore>,
    /// Everything is settled.
    settled: Notify,
    /// The same, for the intake, which has one for all peers.
    news: Arc<Notify>,
    /// An operator has asked for states.
    is_asked: Notify,
    /// What was stale is noted.
    is_heard: Notify,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            room: Notify::new(),
            turn: Arc::new(Semaphore::new(1)),
            settled: Notify::new(),
            news: Arc::default(),
            is_asked: Notify::new(),
            is_heard: Notify::new(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    filed: VecDeque<Filed>,
    bytes: usize,
    paid: VecDeque<Paid>,
    wishes: HashMap<Key, Wish>,
    /// Of these keys something is not here; the judge has not heard of it.
    owed: Vec<Key>,
    /// Keys whose states an operator has asked for.
    asked: Vec<Key>,
    /// Keys of which the peer says that what it had sent is not right, with its numbers.
    stale: Vec<(u64, Key)>,
    /// The last of these numbers.
    last_stale: u64,
    /// Counts the sessions: numbers are those of one.
    session: u64,
    /// In which session, and up to which number, all was taken, and will be noted.
    noting: (u64, u64),
    /// Up to which number all is noted.
    heard: u64,
    /// Keys of which the peer has taken note that they were stale there.
    told: Vec<Key>,
    /// Keys of which others must hear that what they have is not right.
    outdated: Vec<(SiteId, Key)>,
    /// How the commands of records behind this went is not known yet.
    unsettled: Option<Cursor>,
    /// Something was settled, and the judge has not noted it.
    is_news: bool,
    /// The two sites are to be merged.
    is_torn: bool,
}

impl State {
    fn has_room(&self, filed: &Filed) -> bool {
        self.bytes == 0 || self.bytes + filed.size() <= MAX_BYTES
    }
}

/// The most keys that an operator may have asked for and the applier not looked at: it looks at once,
/// unless there is no session.
const MAX_ASKED: usize = 20_000;

/// A wish for the state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// How much of our history the peer must have seen when it reads it.
    pub after: Cursor,
    /// Whether it is wrong here, or only if the key has a time to live there.
    pub need: Need,
}

/// Something of the peer's history, in its order.
#[derive(Clone, Debug)]
pub enum Filed {
    /// Records: a frame.
    Records {
        /// Its epoch.
        epoch: Epoch,
        /// The place after which it begins.
        start: Offset,
        /// The records.
        body: Bytes,
    },
    /// There is nothing more to judge up to here: a copy took the place of the records, or the next stands
    /// behind.
    Nothing(Cursor),
}

/// Keys whose states were taken in a transaction of ours.
#[derive(Debug)]
pub(super) struct Paid {
    pub instance: InstanceId,
    pub batch: u64,
    pub keys: Vec<Settled>,
}

/// A key whose state was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The key.
    pub key: Key,
    /// What the state had seen.
    pub seen: Arc<Seen>,
    /// Up to where our own history was known when the state took the place of what was here; none where
    /// nothing was replaced.
    pub upto: Option<Cursor>,
    /// Why it came.
    pub why: Why,
}

/// Why a state has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was asked for. These sites must hear that its value is another now.
    Asked(Vec<SiteId>),
    /// With a copy.
    Copied,
    /// With a copy that answers one from here.
    Answered,
    /// With the copy by which a site gets all that it has, and with which it stands where the sender stands.
    Joined,
}

impl Filed {
    fn size(&self) -> usize {
        match self {
            Self::Records { body, .. } => body.len(),
            Self::Nothing(_) => 0,
        }
    }
}

impl Docket {
    /// One that tells the intake with this when something is settled.
    #[must_use]
    pub fn new(news: &Arc<Notify>) -> Self {
        let news = Arc::clone(news);
        Self(Arc::new(Inner {
            news,
            ..Inner::default()
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room. Once there is, it stays for whoever files.
    #[must_use]
    pub fn has_room(&self, filed: &Filed) -> bool {
        self.lock().has_room(filed)
    }

    /// Files what is about to be applied. Waits for room. Cancel safe: it is filed, or not.
    pub async fn file(&self, filed: Filed) {
        loop {
            let room = self.0.room.notified();
            {
                let mut state = self.lock();
                if state.has_room(&filed) {
                    state.bytes += filed.size();
                    state.filed.push_back(filed);
                    return;
                }
            }
            room.await;
        }
    }

    /// Forgets what was filed and not judged: a session begins, which files it again.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.filed.clear();
        state.bytes = 0;
        // What was not noted the peer says again.
        state.stale.clear();
        (state.last_stale, state.heard) = (0, 0);
        state.session += 1;
    }

    /// The states of these keys were taken in the transaction of this number. Its echo may have been read
    /// before its answer.
    pub fn paid(&self, instance: InstanceId, batch: u64, keys: Vec<Settled>) {
        if !keys.is_empty() {
            self.lock().paid.push_back(Paid {
                instance,
                batch,
                keys,
            });
            self.0.news.notify_one();
        }
    }

    /// Something of these keys is not here, and the peer is asked for their states.
    pub fn owed(&self, keys: impl IntoIterator<Item = Key>) {
        self.lock().owed.extend(keys);
    }

    /// An operator knows that the values of these keys are wrong here: has the applier ask the peer for
    /// their states, as soon as there is a session. False when too many wait already. What waits is
    /// forgotten when this process ends.
    #[must_use]
    pub fn ask_for(&self, keys: Vec<Key>) -> bool {
        let mut state = self.lock();
        if state.asked.len() + keys.len() > MAX_ASKED {
            return false;
        }
        state.asked.extend(keys);
        drop(state);
        self.0.is_asked.notify_one();
        true
    }

    /// Waits until an operator has asked for states. Cancel safe.
    pub async fn asked(&self) {
        self.0.is_asked.notified().await;
    }

    /// Hands over the keys whose states an operator has asked for.
    #[must_use]
    pub fn take_asked(&self) -> Vec<Key> {
        std::mem::take(&mut self.lock().asked)
    }

    /// The peer says that what it had sent of these keys is not right; its number for that.
    pub fn stale(&self, number: u64, keys: Vec<Key>) {
        let mut state = self.lock();
        state.last_stale = number;
        state
            .stale
            .extend(keys.into_iter().map(|key| (number, key)));
        drop(state);
        self.0.news.notify_one();
    }

    /// Up to which number all that the peer has said to be stale is noted, in this session.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.lock().heard
    }

    /// Waits until that may be more. Cancel safe. For one who waits.
    pub async fn heard_news(&self) {
        self.0.is_heard.notified().await;
    }

    /// What was taken of it is in the journal.
    pub(super) fn confirm_heard(&self) {
        let state = &mut *self.lock();
        let (session, upto) = state.noting;
        if session == state.session && upto > state.heard {
            state.heard = upto;
            self.0.is_heard.notify_one();
        }
    }

    /// The peer has taken note of these keys.
    pub fn told(&self, keys: Vec<Key>) {
        if !keys.is_empty() {
            self.lock().told.extend(keys);
            self.0.news.notify_one();
        }
    }

    /// These sites must hear that what they have of these keys is not right.
    pub fn outdated(&self, keys: impl IntoIterator<Item = (SiteId, Key)>) {
        self.lock().outdated.extend(keys);
        self.0.news.notify_one();
    }

    /// Records behind `from` are being applied; none when it is known how all of them went. The intake
    /// looks for that by itself, a little after they have come back.
    pub fn set_unsettled(&self, from: Option<Cursor>) {
        let mut state = self.lock();
        let was = std::mem::replace(&mut state.unsettled, from);
        if from.is_none() && was.is_some() {
            state.is_news = true;
            self.0.settled.notify_waiters();
        }
    }

    /// Something was settled, and nothing comes back from which the intake would know.
    pub fn hurry(&self) {
        self.0.news.notify_one();
    }

    /// Whether something is settled, or will be, that the judge has not noted.
    pub(super) fn waits(&self) -> bool {
        let state = self.lock();
        state.unsettled.is_some() || state.is_news
    }

    /// Whether everything is settled, the judge has noted so, and the sites need not be merged: after a
    /// crash nothing of it is asked for again.
    #[must_use]
    pub fn is_noted(&self) -> bool {
        let state = self.lock();
        state.unsettled.is_none() && !state.is_news && !state.is_torn && state.paid.is_empty()
    }

    /// Whoever waits for this is woken when something is settled.
    pub(super) fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.0.news)
    }

    /// The judge notes what is settled.
    pub(super) fn take_news(&self) {
        self.lock().is_news = false;
    }

    /// While this lives, no state is read: it could hold what some commands of a record did, and lack
    /// what is still to be done because others failed, and say that it has seen the record. Cancel
    /// safe. (The semaphore is never closed: it is always a permit.)
    pub async fn applying(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.turn).acquire_owned().await.ok()
    }

    /// Whether it is known of all records how they went.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.lock().unsettled.is_none()
    }

    /// Waits until everything that was applied is settled; while this lives, nothing is applied.
    /// Cancel safe.
    pub async fn quiet(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let settled = self.0.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let turn = Arc::clone(&self.0.turn).acquire_owned().await.ok();
            if self.lock().unsettled.is_none() {
                return turn;
            }
            drop(turn);
            settled.await;
        }
    }

    /// Of the peer's history up to `at`, what is settled: it is known how the commands went, and what
    /// is to be done where they failed is noted.
    #[must_use]
    pub fn settled(&self, at: Cursor) -> Cursor {
        self.lock().unsettled.map_or(at, |from| from.min(at))
    }

    /// Whether the two sites must be merged: writes of whole databases met. Until the mark says so.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.lock().is_torn
    }

    /// Says so.
    pub fn set_torn(&self, is_torn: bool) {
        self.lock().is_torn = is_torn;
    }

    /// How many keys the peer is to be asked for.
    #[must_use]
    pub fn wishes(&self) -> usize {
        self.lock().wishes.len()
    }

    /// Hands over the keys whose state the peer is to be asked for. Whoever counts these first, and
    /// then where they go, misses none.
    pub fn take_wishes(&self, mut to: impl FnMut(Key, Wish)) {
        let mut state = self.lock();
        if !state.wishes.is_empty() {
            state.wishes.drain().for_each(|(key, wish)| to(key, wish));
        }
    }

    pub(super) fn wish(&self, key: Key, wish: Wish) {
        let mut state = self.lock();
        let known = state.wishes.entry(key).or_insert(wish);
        *known = Wish {
            after: known.after.max(wish.after),
            need: known.need.max(wish.need),
        };
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().filed.is_empty()
    }

    /// Whether the judge has not heard of keys that are owed or stale.
    pub(super) fn has_unheard(&self) -> bool {
        let state = self.lock();
        !state.owed.is_empty() || !state.stale.is_empty()
    }

    pub(super) fn take_owed(&self) -> Vec<Key> {
        std::mem::take(&mut self.lock().owed)
    }

    /// Takes what the peer says to be stale, but for keys of which a state was taken that has not come
    /// back: it is the one that was not right, and what is noted of it comes first.
    pub(super) fn take_stale(&self) -> Vec<Key> {
        let state = &mut *self.lock();
        let waits = |key: &Key| {
            let mut taken = state.paid.iter().flat_map(|paid| &paid.keys);
            taken.any(|paid| paid.key == *key)
        };
        let taken = state.stale.extract_if(.., |(_, key)| !waits(key));
        let taken = taken.map(|(_, key)| key).collect();
        let rest = state.stale.iter().map(|(number, _)| *number).min();
        let upto = rest.map_or(state.last_stale, |number| number.saturating_sub(1));
        state.noting = (state.session, upto);
        taken
    }

    pub(super) fn take_outdated(&self) -> Vec<(SiteId, Key)> {
        std::mem::take(&mut self.lock().outdated)
    }

    pub(super) fn take_told(&self) -> Vec<Key> {
        std::mem::take(&mut self.lock().told)
    }

    /// Takes what comes next.
    pub(super) fn take_first(&self) -> Option<Filed> {
        let mut state = self.lock();
        let filed = state.filed.pop_front()?;
        state.bytes = state.bytes.saturating_sub(filed.size());
        drop(state);
        self.0.room.notify_waiters();
        Some(filed)
    }

    /// Whether states were taken in transactions of which it is not known here that they have come back.
    pub(super) fn is_paid(&self) -> bool {
        !self.lock().paid.is_empty()
    }

    /// Keys that were paid in transactions up to this one.
    pub(super) fn take_paid(&self, instance: InstanceId, batch: u64) -> Vec<Settled> {
        let mut state = self.lock();
        let mut keys = Vec::new();
        while state
            .paid
            .front()
            .is_some_and(|p| p.instance != instance || p.batch <= batch)
        {
            keys.extend(state.paid.pop_front().into_iter().flat_map(|p| p.keys));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: usize) -> Filed {
        Filed::Records {
            epoch: Epoch(1),
            start: Offset(0),
            body: Bytes::from(vec![0; size]),
        }
    }

    #[tokio::test]
    async fn the_applier_waits_until_there_is_room() {
        let docket = Docket::default();
        docket.file(frame(MAX_BYTES)).await;
        let waiting = docket.file(frame(1));
        tokio::pin!(waiting);
        let is_waiting = tokio::select! {
            biased;
            () = &mut waiting => false,
            () = std::future::ready(()) => true,
        };
        assert!(is_waiting);
        assert!(docket.take_first().is_some());
        waiting.await;
        assert!(
            matches!(docket.take_first(), Some(Filed::Records { body, .. }) if body.len() == 1)
        );
    }

    #[tokio::test]
    async fn states_are_read_when_everything_is_settled() {
        let docket = Docket::default();
        let applying = docket.applying().await;
        docket.set_unsettled(Some(Cursor::ZERO));
        let quiet = docket.quiet();
        tokio::pin!(quiet);
        let mut is_quiet = async || {
            tokio::select! {
                biased;
                _ = &mut quiet => true,
                () = std::future::ready(()) => false,
            }
        };
        assert!(!is_quiet().await);
        // The session ended before it was known how the commands went.
        drop(applying);
        assert!(!is_quiet().await);
        docket.set_unsettled(None);
        assert!(is_quiet().await);
    }

    #[tokio::test]
    async fn what_an_operator_asks_for_wakes_the_applier() {
        let docket = Docket::default();
        let key = (0, Bytes::from_static(b"k"));
        assert!(docket.ask_for(vec![key.clone()]));
        docket.asked().await;
        assert_eq!(docket.take_asked(), std::slice::from_ref(&key));
        assert!(docket.take_asked().is_empty());
        assert!(!docket.ask_for(vec![key; MAX_ASKED + 1]));
    }

    #[test]
    fn what_is_paid_counts_when_its_transaction_has_come_back() {
        let (docket, life) = (Docket::default(), InstanceId::new(7));
        let key = |name: &'static str| (0, Bytes::from_static(name.as_bytes()));
        let settled = |name| Settled {
            key: key(name),
            seen: Arc::default(),
            upto: None,
            why: Why::Asked(Vec::new()),
        };
        docket.paid(life, 5, vec![settled("a")]);
        docket.paid(life, 9, vec![settled("b")]);
        assert_eq!(docket.take_paid(life, 4), []);
        assert_eq!(docket.take_paid(life, 8), [settled("a")]);
        docket.stale(4, vec![key("b")]);
        docket.stale(5, vec![key("c")]);
        assert_eq!(docket.take_stale(), [key("c")], "it was taken before");
        docket.confirm_heard();
        assert_eq!(docket.heard(), 3);
        assert_eq!(docket.take_paid(life, 9), [settled("b")]);
        assert_eq!(docket.take_stale(), [key("b")]);
        docket.begin();
        docket.confirm_heard();
        assert_eq!(docket.heard(), 0, "that was another session");
    }
}

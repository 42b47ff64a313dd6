//! The one queue of the data path: what a peer sent and this site has not yet applied. Bounded in
//! bytes; when it is full the link is not read, so the peer's sending waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::message::Message;

/// How much may wait to be applied: what a fast link brings during a few commits, little enough
/// that a slow Redis costs no memory. A larger message waits until it is alone.
const MAX_BYTES: usize = 16 << 20;
/// Permits are counted in units, since a semaphore counts to 2^29 at most.
const UNIT: usize = 1 << 10;
/// The most messages, whatever their size.
const MAX_MESSAGES: usize = 4096;

/// A message that waits, and the room that it takes.
#[derive(Debug)]
pub struct Waiting {
    /// The message.
    pub message: Message,
    _room: OwnedSemaphorePermit,
}

/// The entrance.
#[derive(Debug)]
pub struct Sender {
    room: Arc<Semaphore>,
    queue: mpsc::Sender<Waiting>,
}

/// The exit.
pub type Receiver = mpsc::Receiver<Waiting>;

/// A queue.
#[must_use]
pub fn queue() -> (Sender, Receiver) {
    let (queue, receiver) = mpsc::channel(MAX_MESSAGES);
    (
        Sender {
            room: Arc::new(Semaphore::new(MAX_BYTES / UNIT)),
            queue,
        },
        receiver,
    )
}

impl Sender {
    /// Waits for room and enters. False when nobody takes any more.
    pub async fn send(&self, message: Message) -> bool {
        let units = (size(&message) / UNIT + 1).min(MAX_BYTES / UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(units).await else {
            return false;
        };
        self.queue
            .send(Waiting {
                message,
                _room: room,
            })
            .await
            .is_ok()
    }
}

/// About how much memory a message holds.
fn size(message: &Message) -> usize {
    let states = |states: &[super::State]| {
        let size = |s: &super::State| 64 + s.key.len() + s.value.size();
        states.iter().map(size).sum()
    };
    match message {
        Message::Records(records) => records.body.len(),
        Message::CopyStates(copy) => states(&copy.states),
        Message::OwedStates(owed) => states(&owed.states),
        _ => 64,
    }
}

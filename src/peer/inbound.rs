//! What comes from the peer: to the applier, and what others must know of it.

use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, watch};

use super::Error;
use super::session::Session;
use crate::fullsync::Asked;
use crate::link::{self, Ack, Message, Question, Reader, Records};
use crate::model::Cursor;

/// What the reading side tells the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The last place of the peer's history received.
    pub received: Cursor,
    /// The peer's last acknowledgement.
    pub ack: Ack,
    /// How often the peer said that a copy is complete.
    pub copied: u64,
}

/// From the peer to the applier and the others.
pub(super) async fn read(
    session: &Session,
    mut reader: Reader,
    queue: link::Sender,
    to_peer: mpsc::Sender<Message>,
    asked: &Asked,
    hear: watch::Sender<Heard>,
) -> Result<(), Error> {
    loop {
        let message = reader.next().await?;
        match &message {
            Message::Records(records) => note_received(session, records, &hear),
            Message::CopyBegin(_)
            | Message::CopyStates(_)
            | Message::CopyEnd(_)
            | Message::OwedStates(_) => {}
            Message::Copied => hear.send_modify(|h| h.copied += 1),
            Message::Ack(ack) => {
                session.on_ack(ack);
                hear.send_modify(|h| h.ack = ack.clone());
            }
            Message::Ping(number) => {
                pass(&to_peer, Message::Pong(*number)).await?;
                continue;
            }
            Message::Pong(number) => {
                session.on_pong(*number);
                continue;
            }
            Message::Refuse(why) => {
                let peer = session.peer.to_string();
                return Err(link::Error::Refused {
                    peer,
                    why: why.clone(),
                }
                .into());
            }
            Message::Hello(_) | Message::Confirm => {
                return Err(reader.unexpected("a second hello").into());
            }
            Message::Owe(_) | Message::Stale(..) => {}
            Message::Heard(number) => {
                session.on_heard_stale(*number);
                continue;
            }
            Message::Waits(keys) => {
                session.shared.claims.peer_waits(&session.peer, keys);
                continue;
            }
        }
        // The question goes to the one who answers, its place to the applier, in order.
        let message = match message {
            Message::Owe(question) => {
                let place = place_of(&question);
                asked.add(question).await;
                Message::Owe(place)
            }
            other => other,
        };
        if !matches!(
            message,
            Message::Ack(_) | Message::Owe(_) | Message::Stale(..)
        ) {
            session.pending.fetch_add(1, Ordering::AcqRel);
            session.board.lock().quiet = false;
        }
        if !queue.send(message).await {
            return Err(Error::Stopping);
        }
    }
}

fn note_received(session: &Session, records: &Records, hear: &watch::Sender<Heard>) {
    let at = Cursor {
        epoch: records.epoch,
        offset: records.end,
    };
    session.board.lock().received_offset = at.offset.0;
    // Told with the next acknowledgement: nobody need be woken for it.
    hear.send_if_modified(|h| {
        h.received = at;
        false
    });
}

/// The question without its keys: where it stands among what the applier gets.
fn place_of(question: &Question) -> Question {
    Question {
        after: question.after,
        seen: question.seen.clone(),
        need: question.need,
        keys: Vec::new(),
    }
}

async fn pass(to: &mpsc::Sender<Message>, message: Message) -> Result<(), Error> {
    to.send(message).await.map_err(|_| Error::Stopping)
}

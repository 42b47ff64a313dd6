//! One session: what comes is queued for the applier, what goes is read from the journal, and
//! everybody hears how far the others are. The four run side by side and end together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::inbound::{Heard, read};
use super::outgoing::{Next, Outgoing};
use super::race::first;
use super::standing::{begin, had_all, known, note_what_is_lost};
use super::telling::{Acks, Stale, push_waits};
use super::{Agreed, Error, Incoming, Peer, filter, standing};
use crate::apply::{self, Applied, Debts, Outlet};
use crate::converge::Docket;
use crate::fullsync::{Answerer, Asked, Copier, Gate, Insert, Prepared};
use crate::intake::Shared;
use crate::link::{self, Ack, Copy, Flow, Hello, Message, Plan, Question, Sent, Writer};
use crate::model::{Cursor, Epoch, Owes, Seen, SiteId};
use crate::progress::{Progress, Telling};
use crate::status::{CopyStatus, PeerBoard, PeerState};

/// How often the peer hears from us, whatever else happens.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often the status is made up where no event does it.
const REFRESH: Duration = Duration::from_millis(100);
/// How long a copy that is owed waits for conflicts to be mended: many round trips.
const WAIT_FOR_CONFLICTS: Duration = Duration::from_secs(5);
/// Messages between the parts of a session.
const MESSAGES: usize = 64;

/// Shared by the parts of a session.
pub(super) struct Session {
    site: SiteId,
    pub(super) peer: SiteId,
    epoch: Epoch,
    pub(super) shared: Shared,
    pub(super) board: PeerBoard,
    debts: Debts,
    pub(super) gate: Gate,
    pub(super) pending: Arc<AtomicUsize>,
    /// When the last ping was sent.
    started: Instant,
}

/// Runs until something ends it.
pub(super) async fn run(
    peer: &mut Peer,
    agreed: Agreed,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let Agreed {
        wire,
        ours,
        theirs,
        plan,
        dialled,
    } = agreed;
    note_what_is_lost(peer, &plan, (&ours, &theirs));
    let session = Session::new(peer, &ours);
    let rate = peer.config.sync.max_rate;
    let start = plan.send.sent_after(&ours, &theirs);
    let mut outgoing = Outgoing::new(&peer.shared.journal, start, rate)?;
    let (queue, mut work) = link::queue();
    let (to_peer, messages) = mpsc::channel(MESSAGES);
    let asked = Asked::default();
    let (inserts, inserted) = mpsc::channel(MESSAGES);
    let (hear, heard) = watch::channel(Heard::default());
    let (applied_out, applied) = watch::channel(Applied::default());
    let outlet = Outlet {
        applied: applied_out,
        messages: to_peer.clone(),
        pending: Arc::clone(&session.pending),
    };
    let (copier, prepared) = copier(peer, &session, &plan, (&ours, &theirs));
    let over = stop.child_token();
    let begin = begin(peer, &plan, &ours, &theirs);

    let reading = read(&session, wire.reader, queue, to_peer, &asked, hear);
    let inputs = Inputs {
        messages,
        inserted,
        heard: heard.clone(),
        applied: applied.clone(),
        progress: peer.progress.clone(),
    };
    outgoing.begin_copies(&plan, standing::refill(peer, &theirs, plan.send));
    let writing = write(&session, wire.writer, outgoing, inputs);
    let back_keeps = link::back_keeps(peer.config.sync.existing);
    let answering = answer(&mut peer.answerer, &asked, &inserts, applied.clone());
    let copying = copy(
        copier,
        prepared,
        back_keeps,
        applied,
        heard,
        inserts.clone(),
    );
    let replacing = replaced(
        &mut peer.incoming,
        &mut peer.next,
        &theirs.site,
        (theirs.instance, dialled),
        &peer.config.site,
    );
    let (mut progress, server) = (peer.progress.clone(), peer.applier.server());
    let renewing = new_history(&mut progress, session.epoch, &server);
    let stopping = over.cancelled();
    let link = first([
        reading.boxed(),
        writing.boxed(),
        copying.boxed(),
        answering.boxed(),
        renewing.map(|()| Err(Error::NewHistory)).boxed(),
        replacing.map(Err).boxed(),
        stopping.map(|()| Err(Error::Stopping)).boxed(),
    ]);
    let applying = first([peer.applier.run(begin, &mut work, &outlet, &over).boxed()]);
    // The applier finishes its transaction, or gives up waiting for Redis.
    let (link, applying) = tokio::join!(then_cancel(&over, link), then_cancel(&over, applying));
    ended(link, applying, stop)
}

/// Answers what the peer asks for. A server that refuses is for a person to mend, whoever asked it.
async fn answer(
    answerer: &mut Answerer,
    asked: &Asked,
    inserts: &mpsc::Sender<Insert>,
    applied: watch::Receiver<Applied>,
) -> Result<(), Error> {
    match answerer.run(asked, inserts, applied).await {
        Err(crate::fullsync::Error::Redis(error)) => Err(error.into()),
        ended => Ok(ended?),
    }
}

/// Why the session ended, when its two halves ended so.
fn ended(
    link: Result<(), Error>,
    applying: Result<(), apply::Error>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    match applying {
        Ok(()) | Err(apply::Error::Stopped) => {}
        Err(error) => return Err(error.into()),
    }
    match link {
        Err(Error::Stopping) if stop.is_cancelled() => Err(Error::Stopping),
        Err(Error::Stopping) => Err(Error::NewHistory),
        other => other,
    }
}

/// One half of the session; when it ends, the other is told to.
async fn then_cancel<T>(over: &CancellationToken, half: impl Future<Output = T>) -> T {
    let ended = half.await;
    over.cancel();
    ended
}

/// What makes the copies of this session, and the first one as far as it must be prepared before the
/// peer hears what we have seen.
fn copier(
    peer: &Peer,
    session: &Session,
    plan: &Plan,
    (ours, theirs): (&Hello, &Hello),
) -> (Copier, Option<Prepared>) {
    let copier = Copier {
        site: peer.config.site.clone(),
        redis: peer.config.read_from.clone(),
        dir: peer.config.dir.clone(),
        filter: filter(&peer.config.sync),
        part_size: usize::try_from(peer.config.sync.big_value).unwrap_or(usize::MAX),
        shared: peer.shared.clone(),
        progress: peer.progress.clone(),
        gate: session.gate.clone(),
        receives_from: (session.peer.clone(), plan.receive.start),
        debts: peer.debts.clone(),
        owes: ours.mark().map_or(Owes::Nothing, |mark| mark.owes),
        sends_from: plan.send.start,
        had_all: had_all(peer, plan, ours, theirs),
        lost: plan.receive.unsure_before(theirs),
        known: known(&peer.config.site, ours),
        joined: standing::joins(peer, theirs, plan.send),
    };
    let Flow { copy, start, .. } = plan.send;
    let prepared = copy.map(|copy| copier.prepare(copy, Some(start)));
    (copier, prepared)
}

/// Ends when the local Redis has begun another epoch, or is another server: what was agreed no longer
/// holds, or what we write is not where we read.
async fn new_history(progress: &mut watch::Receiver<Progress>, epoch: Epoch, server: &str) {
    let other =
        |p: &Progress| p.state.as_ref().is_none_or(|s| s.epoch != epoch) || &*p.server != server;
    // When nobody reads any more, the stop comes from elsewhere.
    if progress.wait_for(other).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the writing side waits for.
struct Inputs {
    messages: mpsc::Receiver<Message>,
    inserted: mpsc::Receiver<Insert>,
    heard: watch::Receiver<Heard>,
    applied: watch::Receiver<Applied>,
    progress: watch::Receiver<Progress>,
}

/// From the journal, and the others, to the peer.
async fn write(
    session: &Session,
    mut writer: Writer,
    mut outgoing: Outgoing,
    mut inputs: Inputs,
) -> Result<(), Error> {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut acks, mut seen) = (Acks::default(), Telling::default());
    let (mut questions, mut stale) = (Vec::new(), Stale::default());
    loop {
        let (copying, mut thoroughly) = (outgoing.is_copying(), false);
        tokio::select! {
            next = outgoing.next(), if copying || !session.gate.is_closed() => match next? {
                Next::Frame(frame) => outgoing.push_frames(frame, &session.gate, &mut writer)?,
                Next::Part(part) => {
                    session.show_copy(&part);
                    outgoing.push_part(part, &mut writer);
                }
            },
            insert = inputs.inserted.recv(), if !copying => {
                let insert = insert.ok_or(Error::Stopping)?;
                if matches!(insert, Insert::Copy(_)) && outgoing.skips_before(insert.at()) {
                    outgoing.skip_up_to(insert.at())?;
                }
                while !outgoing.push_up_to(insert.at(), &mut writer)? {
                    session.tell_sent(writer.flush().await?);
                }
                if let Insert::Copy(copy) = &insert {
                    session.show_begin(copy.begin.keys);
                }
                outgoing.insert(insert, &mut writer);
            }
            message = inputs.messages.recv() => match message.ok_or(Error::Stopping)? {
                question @ Message::Owe(_) => questions.push(question),
                Message::Copied => {
                    // What was refused in the copy is known before it counts as complete.
                    writer.push(&Message::Ack(session.ack(&inputs, &outgoing, (&mut seen, &stale))));
                    writer.push(&Message::Copied);
                }
                other => writer.push(&other),
            },
            changed = inputs.applied.changed() => {
                changed.map_err(|_| Error::Stopping)?;
                acks.is_due = true;
            }
            () = sleep_until(acks.not_before), if acks.is_due => {}
            changed = inputs.heard.changed() => {
                changed.map_err(|_| Error::Stopping)?;
                let heard = inputs.heard.borrow().clone();
                session.on_heard(&heard, &mut outgoing);
            }
            _ = heartbeat.tick() => {
                writer.push(&Message::Ack(session.ack(&inputs, &outgoing, (&mut seen, &stale))));
                writer.push(&session.ping());
            }
            () = session.shared.claims.stale_news(&session.peer) => stale.is_due = true,
            heard = session.heard() => writer.push(&Message::Heard(heard)),
            () = session.shared.claims.waits_news(&session.peer) => push_waits(session, &mut writer),
            // What else an acknowledgement says: what has come back, what is owed.
            _ = refresh.tick() => (acks.is_due, thoroughly) = (true, true),
        }
        stale.push(session, &outgoing, &mut writer);
        if let Some(ack) = acks.take(|| session.ack(&inputs, &outgoing, (&mut seen, &stale))) {
            writer.push(&Message::Ack(ack));
        }
        push_questions(&mut questions, session, &mut outgoing, &mut writer).await?;
        if writer.pending() > 0 {
            session.tell_sent(writer.flush().await?);
        }
        session.refresh(&outgoing, &inputs, thoroughly);
    }
}

/// A question stands behind all records up to its place, so that the peer can have seen it.
async fn push_questions(
    questions: &mut Vec<Message>,
    session: &Session,
    outgoing: &mut Outgoing,
    writer: &mut Writer,
) -> Result<(), Error> {
    while !outgoing.is_copying()
        && !session.gate.is_closed()
        && let Some(Message::Owe(Question { after, .. })) = questions.last()
    {
        while !outgoing.push_up_to(*after, writer)? {
            session.tell_sent(writer.flush().await?);
        }
        questions
            .pop()
            .iter()
            .for_each(|question| writer.push(question));
    }
    Ok(())
}

/// Sends a copy when the plan says so, or when one is owed after one was received.
async fn copy(
    mut copier: Copier,
    mut next: Option<Prepared>,
    back_keeps: bool,
    mut applied: watch::Receiver<Applied>,
    mut heard: watch::Receiver<Heard>,
    inserts: mpsc::Sender<Insert>,
) -> Result<(), Error> {
    loop {
        let prepared = match next.take() {
            Some(prepared) => prepared,
            None => {
                let owes = owed(&mut copier, &mut applied).await?;
                let copy = Copy {
                    keep: back_keeps && owes == Owes::Missing,
                    back: false,
                    resume: None,
                };
                copier.owes = owes;
                copier.prepare(copy, None)
            }
        };
        let prepared = copier.await_lost(prepared).await?;
        let before = heard.borrow().copied;
        {
            // Until the copy is in the queue: states are sent in the order of their places.
            let _turn = copier.gate.turn().await;
            let copying = copier.begin(prepared).await?;
            inserts
                .send(Insert::Copy(copying))
                .await
                .map_err(|_| Error::Stopping)?;
        }
        heard
            .wait_for(|h| h.copied > before)
            .await
            .map_err(|_| Error::Stopping)?;
        applied
            .wait_for(|a| !a.owes.any())
            .await
            .map_err(|_| Error::Stopping)?;
    }
}

/// Waits until a copy is owed and can be made. What we still want of the peer must have come before we
/// send what we have. But what is only in the wrong order the peer may not answer before it has all of
/// ours, which this copy brings: for that we do not wait for ever. Nor for anything where there are third
/// sites: the peer may wait for a copy of one of those, which waits for us in the same way. It leaves what it
/// has of the keys that we still ask for.
async fn owed(copier: &mut Copier, applied: &mut watch::Receiver<Applied>) -> Result<Owes, Error> {
    let mut since = None;
    loop {
        let now = *applied.borrow_and_update();
        if now.owes.any() && !now.copying {
            let since = since.get_or_insert_with(Instant::now);
            let is_late = since.elapsed() > WAIT_FOR_CONFLICTS;
            let may_lack = !copier.shared.foreign.is_empty();
            if copier.debts.is_empty() || is_late && (may_lack || !copier.debts.lack_any()) {
                // More may have come back than is reported to be applied.
                let peer = &copier.receives_from.0;
                let is_behind = copier.progress.borrow().seen.of(peer) > now.at;
                copier.known = now.seen;
                return Ok(match is_behind {
                    true => now.owes.after_records(),
                    false => now.owes,
                });
            }
        }
        tokio::select! {
            changed = applied.changed() => changed.map_err(|_| Error::Stopping)?,
            () = sleep_until(Instant::now() + HEARTBEAT), if since.is_some() => {}
        }
    }
}

/// Ends when the peer has come by another connection that is to be preferred.
async fn replaced(
    incoming: &mut mpsc::Receiver<Incoming>,
    next: &mut Option<Incoming>,
    peer: &str,
    (instance, dialled): (u64, bool),
    site: &SiteId,
) -> Error {
    loop {
        let Some(mut new) = incoming.recv().await else {
            return Error::Stopping;
        };
        // A new life of the peer, or the peer has lost the connection that it had dialled, or its
        // connections are the ones that stay.
        if new.hello.instance != instance || !dialled || peer < site.as_str() {
            *next = Some(new);
            return Error::Replaced;
        }
        new.wire
            .refuse("there is a connection already; that one stays".to_owned())
            .await;
    }
}

impl Session {
    fn new(peer: &Peer, ours: &Hello) -> Self {
        Self {
            site: peer.config.site.clone(),
            peer: peer.config.peer.clone(),
            epoch: Epoch(ours.epoch),
            shared: peer.shared.clone(),
            board: peer.board.clone(),
            debts: peer.debts.clone(),
            gate: peer.answerer.gate(),
            pending: Arc::new(AtomicUsize::new(0)),
            started: Instant::now(),
        }
    }

    pub(super) fn on_ack(&self, ack: &Ack) {
        // What the peer has seen is told to the table by the applier, in order.
        self.shared.deliveries.applied(&self.peer, ack.applied);
        let mut board = self.board.lock();
        board.applied = ack.applied;
        board.applied_offset = ack.applied.offset.0;
        board.acknowledged_offset = ack.received.offset.0;
    }

    /// Waits until something is noted that the peer has said to be stale.
    async fn heard(&self) -> u64 {
        match self.shared.dockets.get(&self.peer) {
            Some(docket) => {
                docket.heard_news().await;
                docket.heard()
            }
            None => std::future::pending().await,
        }
    }

    /// The peer has noted what it was told up to this number.
    pub(super) fn on_heard_stale(&self, upto: u64) {
        let told = self.shared.claims.heard(&self.peer, upto);
        if let Some(docket) = self.shared.dockets.get(&self.peer) {
            docket.told(told);
        }
    }

    /// What the peer has applied, and whether it has got a copy.
    fn on_heard(&self, heard: &Heard, outgoing: &mut Outgoing) {
        outgoing.applied(heard.ack.applied);
        if heard.copied > outgoing.copied {
            outgoing.copied = heard.copied;
            outgoing.copy_ahead = false;
            self.board.lock().sending = None;
            if let Some(snapshot) = outgoing.snapshot.take() {
                snapshot.remove();
            }
        }
    }

    /// The answer tells how long the way there and back takes.
    fn ping(&self) -> Message {
        Message::Ping(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(0))
    }

    pub(super) fn on_pong(&self, sent: u64) {
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(0);
        let trip = Duration::from_micros(now.saturating_sub(sent));
        self.board.lock().round_trip_seconds = Some(trip.as_secs_f64());
    }

    fn ack(
        &self,
        inputs: &Inputs,
        outgoing: &Outgoing,
        (seen, stale): (&mut Telling, &Stale),
    ) -> Ack {
        let (now, read) = {
            let progress = inputs.progress.borrow();
            (self.gate.seen(&progress), progress.read)
        };
        // Asked after what we have seen: records that had seen less are in the journal.
        let last = self.shared.journal.last_record();
        // What is stale the peer hears first, while it still knows what it has made of it.
        let seen = match stale.waits(self) {
            true => seen.told().clone(),
            false => seen.tell(now, last, outgoing.sent),
        };
        Ack {
            received: inputs.heard.borrow().received,
            applied: inputs.applied.borrow().at,
            seen: self.settled(seen),
            sent: outgoing.complete(read, last),
            owed: self.owed(),
        }
    }

    /// Of what we have seen, that of which we know how it went: the rest the peer keeps.
    fn settled(&self, seen: Seen) -> Seen {
        let settled = |(site, at): (&SiteId, &Cursor)| {
            let at = match *site == self.peer {
                true => *at,
                false => self.shared.reached.held(site, *at),
            };
            let docket = self.shared.dockets.get(site);
            (site.clone(), docket.map_or(at, |docket| docket.settled(at)))
        };
        seen.iter().map(settled).collect()
    }

    /// How many states we wait for. What has come back is judged before it is published, and the
    /// wishes are counted first: one that becomes a debt meanwhile counts twice, not never.
    fn owed(&self) -> u64 {
        let wishes = self
            .shared
            .dockets
            .get(&self.peer)
            .map_or(0, Docket::wishes);
        (wishes + self.debts.len()) as u64
    }

    fn tell_sent(&self, sent: Sent) {
        let mut board = self.board.lock();
        board.message_bytes += sent.plain;
        board.link_bytes += sent.wire;
    }

    fn show_begin(&self, keys: u64) {
        self.board.lock().sending = Some(CopyStatus::begin("sending", 0, keys));
    }

    fn show_copy(&self, part: &crate::fullsync::Part) {
        let crate::fullsync::Part::States(states) = part else {
            return;
        };
        if let Some(sending) = &mut self.board.lock().sending
            && sending.advance(
                states.end,
                (states.bytes_done, states.bytes_total),
                std::time::Instant::now(),
            )
        {
            info!(peer = %self.peer, "sending a copy: {sending}");
        }
    }

    /// Makes up the status; thoroughly: also what takes longer to find out.
    fn refresh(&self, outgoing: &Outgoing, inputs: &Inputs, thoroughly: bool) {
        let (applied, heard) = (*inputs.applied.borrow(), inputs.heard.borrow().clone());
        let whole = applied.whole && !applied.owes.any() && !outgoing.copy_ahead;
        let idle = self.pending.load(Ordering::Acquire) == 0;
        let paid = self.owed() == 0 && heard.ack.owed == 0;
        // What was applied is judged when it has come back.
        let has_judged = inputs.progress.borrow().seen.of(&self.peer) >= applied.at;
        let docket = self.shared.dockets.get(&self.peer);
        let is_noted = docket.is_none_or(Docket::is_noted);
        let seen = heard.ack.seen.of(&self.site);
        let is_judged = seen >= self.shared.journal.last_record();
        let mut board = self.board.lock();
        // A copy is not over before the states that were refused in it have come anew.
        let had_all = board.state == PeerState::Synchronizing;
        board.state = if whole && (had_all || paid) {
            PeerState::Synchronizing
        } else {
            PeerState::FullSync
        };
        board.epoch = self.epoch.0;
        board.quiet = whole && idle && paid && has_judged && is_noted && is_judged;
        board.sent_offset = outgoing.sent.offset.0;
        board.records_sent = outgoing.records_sent;
        // What follows the last record in the journal is notes, which do not travel.
        let journal = &self.shared.journal;
        if heard.ack.applied >= journal.last_record() {
            board.lag_bytes = 0;
        } else if thoroughly {
            board.lag_bytes = journal.pending_bytes(heard.ack.applied);
        }
        board.lag_seconds = outgoing.lag_seconds();
    }
}

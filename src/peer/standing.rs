//! How two sites stand to each other when a session begins, beyond what the plan says.

use tracing::info;

use super::{Peer, filter};
use crate::apply::Begin;
use crate::config::{Evictions, Flush, Initial};
use crate::link::{Flow, Hello, Plan, back_keeps};
use crate::model::{Cursor, Epoch, Mark, SiteId};
use crate::redis::Info;

/// The peer's Redis may hold less of our history than it had: it came back older, or a replica took its
/// place. What it writes without having seen what it lost meets writes that we have forgotten.
pub(super) fn note_what_is_lost(peer: &Peer, plan: &Plan, (ours, theirs): (&Hello, &Hello)) {
    let at = theirs.mark().map_or(Cursor::ZERO, |mark| mark.at);
    let shared = &peer.shared;
    let lost = shared
        .deliveries
        .rewind(&peer.config.peer, at, &theirs.seen());
    for (site, known) in lost.iter() {
        if *site == peer.config.site {
            info!(peer = %peer.config.peer, %at, %known, "the peer's Redis has lost what it had of this site");
            shared.table.note_all_written(*known);
        } else {
            shared.foreign.note_all_written(site, *known);
        }
    }
    // What the journal has dropped the peer gets as a copy: which of its own writes have met which of ours, it
    // does not find out.
    let start = plan.send.start;
    let leaves_out = |mark: &Mark| mark.base == ours.base() && mark.at < start;
    if theirs.mark().is_some_and(|mark| leaves_out(&mark)) {
        shared.table.note_all_written(start);
    }
}

/// What of our history the peer had seen when it made what was last applied of it here.
pub(super) fn known(site: &SiteId, ours: &Hello) -> Cursor {
    ours.mark().map_or(Cursor::ZERO, |mark| mark.seen.of(site))
}

/// How the session begins for the applier.
pub(super) fn begin(peer: &Peer, plan: &Plan, ours: &Hello, theirs: &Hello) -> Begin {
    let flow = plan.receive;
    let rests_on_older = |base: Epoch| base > Epoch::UNDONE && base != ours.base();
    let new_valkey = |hello: &Hello| Info::writes_long_entries_its_own_way(&hello.redis);
    Begin {
        flow,
        sent_after: flow.sent_after(theirs, ours),
        disputes: new_valkey(ours) != new_valkey(theirs),
        base: theirs.base(),
        joins: joins(peer, ours, flow),
        keeps_own: !back_keeps(peer.config.sync.existing),
        entire: is_entire(peer, ours, theirs),
        gap: plan.send.copy.is_some()
            && theirs.mark().is_some_and(|mark| rests_on_older(mark.base)),
        answered: plan.answered(theirs),
    }
}

/// Whether the site that receives this has nothing of its sender, and where there are third sites, nothing of
/// them: it gets everything from this one.
pub(super) fn joins(peer: &Peer, receiver: &Hello, flow: Flow) -> bool {
    let has_third = !peer.shared.foreign.is_empty();
    let mark = receiver.mark();
    has_third && flow.copy.is_some() && mark.is_none_or(|mark| mark.base == Epoch::NEVER)
}

/// Whether this site gets everything from another one first: from one that gives back what this peer has lost,
/// and of which this site has nothing either. That one may wait for what was written here, and would be kept out
/// while this peer waits for it. With one that is not kept out there is a session already.
pub(super) fn joins_another(peer: &Peer, theirs: &Hello) -> bool {
    let progress = peer.progress.borrow();
    let has_nothing_of = |site: &SiteId| {
        let mark = progress.marks.get(site);
        mark.is_none_or(|mark| mark.base == Epoch::NEVER)
    };
    let third = peer.shared.foreign.third(&peer.config.peer);
    let gives_back = |site: &&SiteId| theirs.waits_for.iter().any(|name| name == site.as_str());
    let mut givers = third.iter().filter(gives_back);
    givers.any(|site| has_nothing_of(site) && !peer.shared.claims.is_linked(site))
}

/// Whether that site gets all from here because it has lost everything, and the copy with which that goes on.
pub(super) fn refill(peer: &Peer, receiver: &Hello, flow: Flow) -> (bool, Option<Cursor>) {
    let home = receiver.mark().map_or(Epoch::NEVER, |mark| mark.home);
    let joins = joins(peer, receiver, flow);
    let resumed = flow.copy.and_then(|copy| copy.resume).filter(|_| joins);
    (
        joins && receiver.older() > home,
        resumed.map(|copy| copy.snapshot),
    )
}

/// Whether everything that happens at one of the two sites happens at the other too: nothing is left out
/// by configuration, nothing is evicted here alone, no third site knows of keys that the other has not
/// heard of yet, and no module writes at one of them alone.
fn is_entire(peer: &Peer, ours: &Hello, theirs: &Hello) -> bool {
    let sync = &peer.config.sync;
    let copies = [ours, theirs]
        .iter()
        .all(|hello| hello.initial != Initial::None);
    filter(sync).is_everything()
        && sync.flush == Flush::Forward
        && sync.evictions == Evictions::Forward
        && copies
        && peer.shared.dockets.len() == 1
        && !peer.applier.server_writes_alone()
}

/// Whether the peer has had every key that we had where our records go on: one that it lacks and that we
/// have not written since was deleted there. Not so where there may be keys that never travelled, or that
/// we should not have any more.
pub(super) fn had_all(peer: &Peer, plan: &Plan, ours: &Hello, theirs: &Hello) -> bool {
    let (Some(here), Some(there)) = (ours.mark(), theirs.mark()) else {
        return false;
    };
    let is_whole = there.base == ours.base() && there.at >= plan.send.start;
    is_whole && here.entire && there.entire && is_entire(peer, ours, theirs)
}

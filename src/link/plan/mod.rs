//! How two sites go on, decided from their hellos alone: both sides compute the same.
//!
//! Per direction, records can simply be resumed, or the receiver needs a copy first. A copy is
//! needed when the receiver's data does not rest on the sender's current base (it never met it, or
//! the sender's Redis has writes that its journal never saw), when the receiver has lost writes,
//! or when the place where it stands is gone from the sender's journal. When a copy goes to a site
//! that has data of its own, the receiver owes one back: what only it has must reach the sender.

use crate::config::{Existing, Initial};
use crate::model::{CopyProgress, Cursor, Epoch, Mark, Offset, Owes, SiteId};
use crate::status::Stop;

use super::hello::Hello;

/// What one direction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Records after this place are sent.
    pub start: Cursor,
    /// A copy is sent first.
    pub copy: Option<Copy>,
    /// The receiver's data rests on the sender's base from the start of the session: there is
    /// nothing to copy, or the operator says so.
    pub whole: bool,
}

impl Flow {
    /// After which place records are really sent: what the receiver has applied, but not judged, or of
    /// which it does not know how it went, it needs once more. There may be none: what it has applied
    /// last was a copy.
    #[must_use]
    pub fn sent_after(&self, sender: &Hello, receiver: &Hello) -> Cursor {
        let judged = match receiver.judged() {
            // Killed before it could note that it had judged anything, soon after the two had met.
            Cursor::ZERO if receiver.has_just_met() => sender.first(),
            judged => judged,
        };
        let is_known = judged != Cursor::ZERO && sender.can_send_after(judged);
        match is_known && sender.last_record() > judged {
            true => judged.min(self.start),
            false => self.start,
        }
    }

    /// Whether records begin behind where the receiver stands, and what is in between comes with the copy only.
    /// The mark must say that something is missing before it says where records go on: the session may end
    /// before the copy begins.
    #[must_use]
    pub fn leaps(&self, mark: &Mark, base: Epoch) -> bool {
        self.copy.is_some() && mark.at < self.start && mark.base == base
    }

    /// Up to where records come that the sender made before its Redis lost something, or before a part of its
    /// history that nobody has read. What they wrote may be in its data no more.
    #[must_use]
    pub fn unsure_before(&self, sender: &Hello) -> Cursor {
        let since = Cursor {
            epoch: sender.base().max(Epoch(sender.older)),
            offset: Offset(0),
        };
        let unsure = sender.last_record().min(since);
        match unsure > self.start {
            true => unsure,
            false => Cursor::ZERO,
        }
    }
}

/// A copy from the sender to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Keys that the receiver has stay.
    pub keep: bool,
    /// When it is complete the receiver sends a copy back.
    pub back: bool,
    /// How far it had come in an earlier session.
    pub resume: Option<CopyProgress>,
}

/// What a session does, seen from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From here to the peer.
    pub send: Flow,
    /// From the peer to here.
    pub receive: Flow,
}

impl Plan {
    /// Where a copy is to come from the peer though this site has all of its records: of its history, what is here
    /// before that. It has lost something, and what its clients wrote before its sidecar was back no record brings.
    #[must_use]
    pub fn answered(&self, peer: &Hello) -> Option<Cursor> {
        let is_to_come =
            self.receive.copy.is_some() || self.send.copy.is_some_and(|copy| copy.back);
        let lost = Cursor {
            epoch: peer.older(),
            offset: Offset(0),
        };
        (is_to_come && peer.older() > Epoch::NEVER).then_some(lost)
    }
}

/// What one direction needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Resume {
        start: Cursor,
        whole: bool,
    },
    /// The receiver must be copied to; `owed` when it is the second half of a merge.
    Copy {
        owed: bool,
    },
}

/// Whether the peer gives back what this site has lost: it has all that this site had, as far as that is not on
/// its way, and so it gets no copy from here.
#[must_use]
pub fn restores(me: &Hello, peer: &Hello) -> bool {
    matches!(need(me, peer), Need::Resume { .. }) && matches!(need(peer, me), Need::Copy { .. })
}

/// Decides.
///
/// # Errors
/// The session must not be: a named stop with its remedy.
pub fn plan(me: &Hello, peer: &Hello) -> Result<Plan, Stop> {
    check(me, peer)?;
    let (send, receive) = (need(me, peer), need(peer, me));
    let flows = match (send, receive) {
        (Need::Resume { .. }, Need::Resume { .. }) => (None, None),
        (Need::Copy { owed }, Need::Resume { .. }) if first_meeting(me, peer) => {
            copy_to_empty(owed, me, peer)
        }
        (Need::Resume { .. }, Need::Copy { owed }) if first_meeting(me, peer) => {
            let (back, there) = copy_to_empty(owed, peer, me);
            (there, back)
        }
        (Need::Copy { owed }, Need::Resume { .. }) => (Some(owed_copy(owed, me, peer)), None),
        (Need::Resume { .. }, Need::Copy { owed }) => (None, Some(owed_copy(owed, peer, me))),
        (Need::Copy { owed: a }, Need::Copy { owed: b }) => merge(a, b, me, peer)?,
    };
    let none = |flow: Option<Copy>, need| flow.is_none() && matches!(need, Need::Copy { .. });
    Ok(Plan {
        send: flow(
            send,
            flows.0,
            me,
            peer,
            none(flows.0, send) && flows.1.is_none(),
        ),
        receive: flow(
            receive,
            flows.1,
            peer,
            me,
            none(flows.1, receive) && flows.0.is_none(),
        ),
    })
}

/// What must match before anything is sent.
fn check(me: &Hello, peer: &Hello) -> Result<(), Stop> {
    if me.site == peer.site {
        return Err(stop(
            "same_site",
            format!("the peer calls itself {:?} too", peer.site),
            "give each site a name of its own",
        ));
    }
    if peer.peer != me.site {
        return Err(stop(
            "wrong_site",
            format!(
                "the peer {:?} means to speak to {:?}, we are {:?}",
                peer.site, peer.peer, me.site
            ),
            "correct the site names or addresses under [[peer]]",
        ));
    }
    if me.replid == peer.replid {
        return Err(stop(
            "same_redis",
            format!(
                "{} and {} serve the same Redis, or one is a replica of the other",
                me.site, peer.site
            ),
            "give each site a Redis of its own: correct [redis] url at one of them",
        ));
    }
    if me.sites != peer.sites {
        return Err(stop(
            "configuration_differs",
            format!(
                "the sites are {} here and {} there",
                me.sites.join(", "),
                peer.sites.join(", ")
            ),
            "give every site all the others as [[peer]], and restart the sidecars that lack some",
        ));
    }
    if me.selection != peer.selection {
        return Err(stop(
            "configuration_differs",
            format!(
                "[sync] selects {} here and {} there",
                me.selection, peer.selection
            ),
            "make [sync] databases and keys equal at both sites",
        ));
    }
    Ok(())
}

fn stop(reason: &str, detail: String, remedy: &str) -> Stop {
    Stop {
        reason: reason.to_owned(),
        detail,
        remedy: remedy.to_owned(),
    }
}

fn need(sender: &Hello, receiver: &Hello) -> Need {
    let owed = sender.mark().is_some_and(|m| m.owes.any());
    match receiver.mark() {
        Some(mark)
            if rests_on(&mark, sender, receiver)
                && !owed
                && sender.can_send_after(mark.at)
                && can_be_judged(&mark, sender, receiver) =>
        {
            Need::Resume {
                start: mark.at,
                whole: false,
            }
        }
        Some(mark) if rests_on(&mark, sender, receiver) && owed => Need::Copy { owed: true },
        None if receiver.older == 0 && !owed => match sender.from_scratch() {
            Some(start) => Need::Resume { start, whole: true },
            None => Need::Copy { owed: false },
        },
        _ => Need::Copy { owed },
    }
}

/// Whether the receiver's data holds everything of the sender's base and has lost nothing since.
fn rests_on(mark: &Mark, sender: &Hello, receiver: &Hello) -> bool {
    mark.base == sender.base() && mark.home >= receiver.older() && mark.copy.is_none()
}

/// Whether the sender's journal still has what the receiver has applied, and was killed before it had judged it:
/// else nobody would know with what of its own that was concurrent.
fn can_be_judged(mark: &Mark, sender: &Hello, receiver: &Hello) -> bool {
    let judged = receiver.judged();
    let is_all = judged >= mark.at || sender.last_record() <= judged;
    is_all || judged == Cursor::ZERO || sender.can_send_after(judged)
}

/// Neither has anything of the other yet.
fn first_meeting(a: &Hello, b: &Hello) -> bool {
    let strange = |h: &Hello| h.mark().is_none_or(|m| m.base == Epoch::NEVER);
    strange(a) && strange(b)
}

/// Whether both have something of the same third site.
fn have_common(a: &Hello, b: &Hello) -> bool {
    let (here, there) = (a.seen(), b.seen());
    let is_third = |site: &SiteId| site.as_str() != a.site && site.as_str() != b.site;
    let mut third = here.iter().filter(|(site, _)| is_third(site));
    third.any(|(site, _)| there.of(site) > Cursor::ZERO)
}

/// At a first meeting, the one with data copies to the empty one, unless told not to.
fn copy_to_empty(owed: bool, sender: &Hello, receiver: &Hello) -> (Option<Copy>, Option<Copy>) {
    if sender.initial == Initial::None || receiver.initial == Initial::None {
        return (None, None);
    }
    let back = !owed && receiver.from_scratch().is_none();
    (Some(copy(false, back, receiver)), None)
}

fn copy(keep: bool, back: bool, receiver: &Hello) -> Copy {
    Copy {
        keep,
        back,
        resume: receiver.mark().and_then(|m| m.copy),
    }
}

/// Whether a copy that answers one leaves the receiver's keys as they are. What both have is equal
/// by then; only what the receiver lacks must reach it. Not so where the sender has kept values of
/// its own.
#[must_use]
pub fn back_keeps(existing: Existing) -> bool {
    existing != Existing::Keep
}

/// A copy in one direction, which may have been owed when its sender greeted: it is the second half of a
/// merge. It is the first of a new one where the sender's Redis has begun a history since the first half began
/// with writes that its sidecar never read (what both have is not equal, and what clients have deleted there
/// the receiver still has), and where the receiver's Redis has lost what it had (clients may have written there
/// before its sidecar read on), also when such a first half was interrupted. And where the sender's journal has
/// dropped what the receiver has not got: what was deleted there the receiver still has.
fn owed_copy(owed: bool, sender: &Hello, receiver: &Hello) -> Copy {
    let owing = sender.mark().filter(|_| owed);
    let has_lost = match receiver.mark() {
        Some(mark) => mark.home < receiver.older() || mark.copy.is_some_and(|copy| !copy.keep),
        None => receiver.older() > Epoch::NEVER,
    };
    let has_dropped = |mark: &Mark| {
        mark.base == Epoch::LOST || mark.at > Cursor::ZERO && mark.at < sender.first()
    };
    let has_lost = has_lost || receiver.mark().is_some_and(|mark| has_dropped(&mark));
    let is_read = |mark: &Mark| mark.owes < Owes::All && mark.home >= sender.base();
    match owing.filter(|mark| is_read(mark) && !has_lost) {
        Some(mark) => copy(owed_keeps(&mark, sender, receiver), false, receiver),
        None => copy(false, true, receiver),
    }
}

/// Whether a copy that was owed when its sender greeted leaves the receiver's keys as they are. What both have
/// is not equal where the first half met what was not read, or where something was written by the sender since
/// that may have met keys that the receiver lacks. What has begun goes on as it was.
fn owed_keeps(owing: &Mark, sender: &Hello, receiver: &Hello) -> bool {
    let begun = receiver.mark().and_then(|mark| mark.copy);
    let goes_on = begun.is_some_and(|begun| begun.snapshot.epoch == Epoch(sender.epoch));
    let mut known = owing.seen.iter();
    let known = known.find(|(site, _)| site.as_str() == sender.site);
    let is_new = sender.last_record() > known.map_or(Cursor::ZERO, |(_, at)| *at);
    back_keeps(sender.existing) && (goes_on || owing.owes <= Owes::Missing && !is_new)
}

/// Both need a copy: who sends first.
fn merge(
    owed_by_me: bool,
    owed_by_peer: bool,
    me: &Hello,
    peer: &Hello,
) -> Result<(Option<Copy>, Option<Copy>), Stop> {
    // One that has lost its data has lost its mark with it, and the other one knows that they have met, or a third
    // one that has refilled both.
    let has_lost = |hello: &Hello| hello.older() > Epoch::NEVER;
    let has_met = |hello: &Hello| hello.mark().is_some() || has_lost(hello);
    let are_refilled = has_lost(me) && has_lost(peer) && have_common(me, peer);
    let known = has_met(me) && has_met(peer) && (are_refilled || !first_meeting(me, peer));
    // Also while it has only a part of that again: for the rest third sites wait, and it gives nothing before.
    let is_begun = |mark: Mark| mark.base == Epoch::NEVER && mark.copy.is_some();
    let is_empty = |hello: &Hello| hello.mark().is_none_or(is_begun);
    let i_begin = if owed_by_me != owed_by_peer {
        // The second half of a merge waits for the new first half.
        owed_by_peer
    } else if !known {
        match sender_at_first_meeting(me, peer)? {
            Some(i_begin) => i_begin,
            None => return Ok((None, None)),
        }
    } else if is_empty(me) != is_empty(peer) {
        // Who has lost all that it had is refilled first.
        is_empty(peer)
    } else {
        me.site < peer.site
    };
    let keep = !known && me.existing == Existing::Keep;
    Ok(if i_begin {
        (Some(copy(keep, true, peer)), None)
    } else {
        (None, Some(copy(keep, true, me)))
    })
}

/// Both hold data and nothing says which to believe but the operator. None: nothing is copied.
fn sender_at_first_meeting(me: &Hello, peer: &Hello) -> Result<Option<bool>, Stop> {
    let i_begin = match (me.initial, peer.initial) {
        (Initial::None, _) | (_, Initial::None) => return Ok(None),
        (Initial::Send, Initial::Send) | (Initial::Receive, Initial::Receive) => {
            return Err(stop(
                "configuration_differs",
                format!("[sync] initial is {:?} at both sites", me.initial).to_lowercase(),
                "set [sync] initial to send at one site and to receive at the other, or to auto",
            ));
        }
        (Initial::Send, _) | (_, Initial::Receive) => true,
        (Initial::Receive, _) | (_, Initial::Send) => false,
        (Initial::Auto, Initial::Auto) => me.site < peer.site,
    };
    if me.sites.len() > 2 {
        return Err(stop(
            "both_have_data",
            format!(
                "{} and {} both hold data and have never been synced, and there are third sites",
                me.site, peer.site
            ),
            "merge two of the sites first, as two; every other joins empty: stop its sidecar, empty \
             its Redis, delete its journal directory and start it",
        ));
    }
    if me.existing == Existing::Refuse || peer.existing == Existing::Refuse {
        return Err(stop(
            "both_have_data",
            format!(
                "{} and {} both hold data and have never been synced",
                me.site, peer.site
            ),
            "set [sync] existing at both to overwrite (the sender's value of a key that both have \
             wins) or to keep (the receiver's stays); or stop one sidecar, empty its Redis, \
             delete its journal directory and start it",
        ));
    }
    if me.existing != peer.existing {
        return Err(stop(
            "configuration_differs",
            "[sync] existing is overwrite at one site and keep at the other".to_owned(),
            "make [sync] existing equal at both sites",
        ));
    }
    Ok(Some(i_begin))
}

/// One direction, seen from its sender.
fn flow(need: Need, copy: Option<Copy>, sender: &Hello, receiver: &Hello, nothing: bool) -> Flow {
    match need {
        Need::Resume { start, whole } => Flow { start, copy, whole },
        Need::Copy { .. } => {
            // What the receiver has of the sender's journal goes on; else records begin where the
            // copy is made, or now, and the copy, when it is owed, brings what was before.
            let known = receiver
                .mark()
                .map(|m| m.at)
                .filter(|at| sender.can_send_after(*at));
            let made = copy.and_then(|_| sender.snapshot());
            Flow {
                start: known.or(made).unwrap_or_else(|| sender.end()),
                copy,
                whole: nothing,
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Whether the order in which two sites' writes took effect here is the right one.

use super::log::Did;
use crate::command::Act;
use crate::model::{ConflictKind, Cursor, Hlc, SiteId, Winner};

/// What of ours a record had not seen, and does not commute with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clash {
    /// A delete.
    deletes: bool,
    /// All keys were removed: that comes before everything else, also before what a delete yields to.
    flushes: bool,
    /// A change of the time to live, or the key was taken elsewhere.
    renews: bool,
    /// The last change of the time to live, or move.
    renewed: Option<Cursor>,
    /// Its database changed places with another one: what was done to the key before and behind that was done
    /// to two keys.
    carried: Option<Cursor>,
    /// The key was taken elsewhere.
    moves: bool,
    /// Anything but a delete: the latest stamp.
    latest: Option<Hlc>,
    /// Something that changed the key, and is no delete.
    changes: bool,
    /// Something that is not only a change of its time to live, or of its name.
    writes: bool,
    /// An element was removed, and another one is added: was it the last, the key went with its time
    /// to live.
    pub(super) doubts: bool,
    /// What it was is forgotten, or any key may have been written.
    pub(super) is_unknown: bool,
}

/// What a record of a peer does to a key, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theirs<'a> {
    pub act: Act,
    pub hlc: Hlc,
    pub origin: &'a SiteId,
    /// This site.
    pub site: &'a SiteId,
}

impl Clash {
    pub(super) fn add(&mut self, did: Did) {
        match did.act {
            Act::Delete => {
                self.deletes = true;
                return;
            }
            Act::Expiry => {
                self.renews = true;
                self.renewed = self.renewed.max(Some(did.at));
            }
            Act::Move => {
                (self.renews, self.moves) = (true, true);
                self.renewed = self.renewed.max(Some(did.at));
            }
            Act::Read => {}
            _ => self.writes = true,
        }
        self.changes |= did.act != Act::Read;
        self.latest = self.latest.max(Some(did.hlc));
    }

    /// Something was done to the whole database.
    pub(super) fn add_whole(&mut self, did: Did) {
        match did.act {
            Act::Delete => self.flushes = true,
            _ => {
                self.add(did);
                self.carried = self.carried.max(Some(did.at));
            }
        }
    }

    /// Whether what a delete yields to was done to the key that it meant.
    fn renews(&self) -> bool {
        self.renews
            && self
                .carried
                .is_none_or(|carried| Some(carried) > self.renewed)
    }

    /// Whether there is nothing that does not commute.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        !self.deletes && !self.flushes && !self.is_unknown && self.latest.is_none()
    }

    /// Whether the key was only read: what was made of it may be wrong, and itself is not.
    #[must_use]
    pub(super) const fn only_reads(&self) -> bool {
        !self.changes && !self.deletes && !self.flushes && !self.is_unknown
    }

    /// Whether the key may have lost its time to live here, and kept it at the peer.
    #[must_use]
    pub const fn doubts(&self) -> bool {
        self.doubts
    }

    /// Whether what it was is forgotten, or any key may have been written.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.is_unknown
    }

    /// Whether there is a write that does not commute, and it is known what it was.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        !self.is_none() && !self.is_unknown
    }

    /// Whether a delete that had not seen this is not carried out.
    #[must_use]
    pub const fn spares(&self) -> bool {
        self.changes && !self.is_unknown
    }

    /// What met, for people.
    pub(super) const fn kind(&self, theirs: Act) -> ConflictKind {
        match theirs {
            _ if self.is_unknown => ConflictKind::Unknown,
            Act::Delete => ConflictKind::Delete,
            _ if self.flushes && self.latest.is_none() => ConflictKind::Database,
            _ if self.deletes && self.latest.is_none() => ConflictKind::Delete,
            Act::Move => ConflictKind::Move,
            _ if self.moves => ConflictKind::Move,
            Act::Read => ConflictKind::Derived,
            _ if !self.changes => ConflictKind::Derived,
            Act::Expiry => ConflictKind::Expiry,
            _ if self.renews && !self.writes => ConflictKind::Expiry,
            _ => ConflictKind::Write,
        }
    }

    /// Whose write prevails, for people. Where that is not known, the peer's value is taken.
    pub(super) fn winner(&self, theirs: Theirs<'_>) -> Winner {
        let is_later = |ours| (ours, theirs.site) > (theirs.hlc, theirs.origin);
        let is_ours = match theirs.act {
            _ if self.is_unknown => false,
            Act::Delete => true,
            _ => self.latest.is_some_and(is_later),
        };
        if is_ours { Winner::Here } else { Winner::Peer }
    }

    /// The latest stamp of ours, but for deletes.
    pub(super) const fn latest(&self) -> Option<Hlc> {
        self.latest
    }

    /// Where a delete yields to a renewal or a move of ours, and so the peer mends the key: up to where what was
    /// made of the key here was made of a value that the delete had removed, and is wrong.
    pub(super) const fn undone_before(&self, theirs: Act) -> Option<Cursor> {
        match theirs {
            Act::Delete if !self.is_unknown => self.renewed,
            _ => None,
        }
    }

    /// Whether a delete that had not seen this may have been left undone where this was written: a third
    /// site, which has executed both, cannot know.
    pub(super) fn yields(&self, theirs: Act) -> bool {
        matches!(theirs, Act::Delete) && self.renews() && !self.is_unknown
    }

    /// Whether the value here, where ours took effect first and theirs then, is wrong, and the
    /// peer's is right. Where nothing is known, both sites may say so.
    pub(super) fn is_wrong_here(&self, theirs: Theirs<'_>) -> bool {
        if self.is_unknown {
            return true;
        }
        match theirs.act {
            // It comes before ours; where it yields, the peer mends.
            Act::Delete => !self.renews() && self.latest.is_some(),
            Act::Expiry | Act::Move if self.deletes => true,
            _ => self
                .latest
                .is_some_and(|ours| (ours, theirs.site) > (theirs.hlc, theirs.origin)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Kind;

    /// Whether a site is wrong that did `ours`, and then executed what the peer did.
    fn is_wrong(site: (&str, Act, u64), peer: (&str, Act, u64)) -> bool {
        let name = |name| SiteId::try_new(name).unwrap();
        let ((site, act, hlc), (origin, theirs, stamp)) = (site, peer);
        if act.commutes(theirs) {
            return false;
        }
        let mut clash = Clash::default();
        let (hlc, at) = (Hlc(hlc), Cursor::ZERO);
        let kind = Kind::Other;
        clash.add(Did { act, kind, at, hlc });
        clash.is_wrong_here(Theirs {
            act: theirs,
            hlc: Hlc(stamp),
            origin: &name(origin),
            site: &name(site),
        })
    }

    #[test]
    fn of_two_sites_exactly_one_is_wrong_unless_what_they_did_commutes() {
        let acts = [
            Act::Read,
            Act::Write,
            Act::Sum,
            Act::Union,
            Act::Delete,
            Act::Expiry,
            Act::Move,
            Act::Set,
            Act::Add,
            Act::Raise,
            Act::Remove,
            Act::Take,
        ];
        for a in acts {
            for b in acts {
                for (stamp_a, stamp_b) in [(1, 2), (2, 1), (3, 3)] {
                    let (at_a, at_b) = (("a", a, stamp_a), ("b", b, stamp_b));
                    let wrong = u8::from(is_wrong(at_a, at_b)) + u8::from(is_wrong(at_b, at_a));
                    assert_eq!(wrong, u8::from(!a.commutes(b)), "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_renewed_behind_a_swap_is_another_key_than_the_delete_meant() {
        let kind = Kind::Other;
        let did = |act, offset| Did {
            act,
            kind,
            at: Cursor {
                offset: crate::model::Offset(offset),
                ..Cursor::ZERO
            },
            hlc: Hlc(offset),
        };
        let yields = |renewed, swapped| {
            let mut clash = Clash::default();
            clash.add(did(Act::Expiry, renewed));
            clash.add_whole(did(Act::Write, swapped));
            clash.yields(Act::Delete)
        };
        assert!(yields(1, 2));
        assert!(!yields(2, 1));
    }

    #[test]
    fn the_later_write_comes_last_and_a_delete_first() {
        let write = |site, stamp| (site, Act::Write, stamp);
        assert!(is_wrong(write("a", 2), write("b", 1)));
        assert!(is_wrong(write("b", 1), write("a", 1)));
        // B had written when the delete came.
        assert!(is_wrong(write("b", 1), ("a", Act::Delete, 2)));
        // The deleter has lost a key that was renewed.
        assert!(is_wrong(("a", Act::Delete, 2), ("b", Act::Expiry, 1)));
        assert!(!is_wrong(("b", Act::Expiry, 1), ("a", Act::Delete, 2)));
    }
}

//! What a full resync means: pure decisions, and the state of the epoch as the journal keeps it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::model::{Cursor, Epoch, Mark, Offset, ReplId, Seen, SelfMark, SiteId};
use crate::progress::EpochState;

/// The version of the text of [`Saved`].
const VERSION: &str = "1";

/// What the journal keeps of the epoch, in each segment's preamble and in frames of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// How the epoch began.
    pub state: EpochState,
    /// The place for which the rest holds; what follows it in the journal adds to it.
    pub at: Cursor,
    /// The database selected there.
    pub db: u32,
    /// The life of the server process; `-` when it is not known.
    pub run_id: String,
    /// Where the last record ends.
    pub last_record: Cursor,
    /// The number of the last self mark that had come back.
    pub self_mark: u64,
    /// What had been seen.
    pub seen: Seen,
    /// Of that, what had been judged.
    pub judged: Seen,
    /// The marks, as they last said something new besides positions: a client may remove them from
    /// Redis just before we end.
    pub marks: BTreeMap<SiteId, Mark>,
}

impl Saved {
    /// Whether no client has ever written anything, and no peer has been met.
    fn has_nothing(&self) -> bool {
        let has_lost = self.state.older != Epoch::NEVER;
        self.last_record == Cursor::ZERO && self.marks.is_empty() && !has_lost
    }

    /// Whether a peer may have been met. Where a server has come back with nothing, its marks are lost too, and
    /// nobody knows any more which there were.
    #[must_use]
    pub fn has_met(&self, peer: &SiteId) -> bool {
        let has_lost = self.state.older != Epoch::NEVER;
        has_lost || self.seen.of(peer) > Cursor::ZERO || self.marks.contains_key(peer)
    }

    /// How a run id is kept. Never empty: an empty word would be lost in the text.
    #[must_use]
    pub fn run_id(run_id: &str) -> String {
        let word = if run_id.is_empty() { "-" } else { run_id };
        word.to_owned()
    }
}

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EpochState {
            epoch,
            replid,
            began,
            base,
            older,
            doubt,
            empty,
        } = &self.state;
        write!(
            f,
            "{VERSION} {epoch} {replid} {began} {base} {older} {doubt} {} {} {} {} {} {} {} {} {}",
            u8::from(*empty),
            self.at,
            self.db,
            self.run_id,
            self.last_record,
            self.self_mark,
            self.seen,
            self.judged,
            Marks(&self.marks),
        )
    }
}

/// Marks in one word: bars stand for their spaces, semicolons are between them.
struct Marks<'a>(&'a BTreeMap<SiteId, Mark>);

impl fmt::Display for Marks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (origin, mark) in self.0 {
            write!(f, "{origin}|{};", mark.to_string().replace(' ', "|"))?;
        }
        Ok(())
    }
}

fn parse_mark(text: &str) -> Option<(SiteId, Mark)> {
    let (origin, mark) = text.split_once('|')?;
    let mark = Mark::parse(mark.replace('|', " ").as_bytes()).ok()?;
    Some((SiteId::try_new(origin).ok()?, mark))
}

impl FromStr for Saved {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let [
            version,
            epoch,
            replid,
            began,
            base,
            older,
            doubt,
            empty,
            at,
            db,
            run_id,
            last,
            self_mark,
            seen,
            judged,
            marks,
        ] = words[..]
        else {
            return Err(());
        };
        if version != VERSION {
            return Err(());
        }
        let number = |t: &str| t.parse::<u64>().map_err(|_| ());
        let state = EpochState {
            epoch: Epoch(number(epoch)?),
            replid: replid.parse::<ReplId>().map_err(|_| ())?,
            began: Offset(number(began)?),
            base: Epoch(number(base)?),
            older: Epoch(number(older)?),
            doubt: Epoch(number(doubt)?),
            empty: empty == "1",
        };
        Ok(Self {
            state,
            at: at.parse().map_err(|_| ())?,
            db: db.parse().map_err(|_| ())?,
            run_id: run_id.to_owned(),
            last_record: last.parse().map_err(|_| ())?,
            self_mark: number(self_mark)?,
            seen: seen.parse()?,
            judged: judged.parse()?,
            marks: marks
                .split(';')
                .filter(|m| !m.is_empty())
                .map(parse_mark)
                .collect::<Option<_>>()
                .ok_or(())?,
        })
    }
}

/// How the data with which an epoch begins relates to what is known of the time before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Nothing is known of any time before.
    Fresh,
    /// The data is the known history, further on: a part of it was never read.
    Missed,
    /// The data holds all that the journal holds, and perhaps writes that were never read.
    Kept,
    /// The data lacks writes that the journal holds.
    Older,
    /// The data is the known history up to some place, and went on from there without the rest.
    Branch,
    /// The data may lack writes that the journal holds, and hold others that were never read.
    Diverged,
}

/// What is known of a server whose data is judged.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// The life of the process, of the primary.
    pub run_id: &'a str,
    /// The id of its history. It is another one after a restart, when the server has been a replica
    /// meanwhile, and when nobody has read for longer than `repl-backlog-ttl`, an hour.
    pub replid: ReplId,
    /// Whether what survives a restart is all that it has sent: it has an append-only file.
    pub keeps_all: bool,
    /// Whether it may be another server than before, a replica that was promoted: what that one keeps
    /// is what had reached it.
    pub may_be_another: bool,
    /// Whether it has no data, nor any mark.
    pub is_blank: bool,
}

/// Judges the data of a Redis that has begun a new history.
///
/// Data is a prefix of its history: it holds a self mark only together with everything before it.
/// So if it lacks the last self mark that had come back to us, it is older than the journal, and
/// holds nothing that the journal does not; if it has it and nothing was journaled after it, it
/// lacks nothing. In between, an append-only file decides: it is written before the stream is
/// sent; without one, what survived is an old snapshot.
///
/// A server with nothing, whether it was started so or clients have deleted everything while nobody read, holds
/// nothing that was not read, and none of what it had got of peers. It is refilled: were it to send what it has,
/// each would be said to hold data that the other has never seen. One that has never had anything may still be
/// met for the first time.
#[must_use]
pub fn judge(saved: Option<&Saved>, found: Option<&SelfMark>, server: &Server<'_>) -> History {
    match (saved, found) {
        (None, None) => History::Fresh,
        // The journal was lost, the data was not.
        (None, Some(_)) => History::Kept,
        (Some(saved), None) if server.is_blank => match saved.has_nothing() {
            true => History::Fresh,
            false => History::Older,
        },
        // The same process: it was only away for longer than its backlog, and has forgotten nothing,
        // unless it has been a replica of another server.
        (Some(saved), _) if saved.run_id == server.run_id => match saved.state.replid {
            replid if replid == server.replid => History::Missed,
            _ => History::Kept,
        },
        (Some(saved), found) => {
            let number = found.map_or(0, |mark| mark.number);
            let covered = found.is_some_and(|mark| mark.at >= saved.last_record);
            // Of a history without any write of a client nothing is missing.
            let nothing_journaled = saved.last_record == Cursor::ZERO;
            let has_last_mark = number >= saved.self_mark;
            if has_last_mark && (covered || nothing_journaled) {
                History::Kept
            } else if server.may_be_another {
                History::Diverged
            } else if has_last_mark && server.keeps_all {
                History::Kept
            } else {
                History::Older
            }
        }
    }
}

/// The state of a new epoch.
#[must_use]
pub fn begin(
    history: History,
    previous: Option<&EpochState>,
    epoch: Epoch,
    replid: ReplId,
    began: Offset,
    empty: bool,
) -> EpochState {
    let was_empty = previous.is_some_and(|p| p.empty);
    let rests = EpochState {
        epoch,
        replid,
        began,
        base: previous.map_or(Epoch(0), |p| p.base),
        older: previous.map_or(Epoch(0), |p| p.older),
        doubt: epoch,
        empty: was_empty,
    };
    match history {
        History::Fresh => EpochState {
            base: epoch,
            empty,
            ..rests
        },
        History::Missed => EpochState {
            base: epoch,
            doubt: previous.map_or(epoch, |p| p.doubt),
            empty: false,
            ..rests
        },
        History::Kept => EpochState {
            base: epoch,
            empty: false,
            ..rests
        },
        History::Older => EpochState {
            older: epoch,
            ..rests
        },
        History::Branch => rests,
        History::Diverged => EpochState {
            base: epoch,
            older: epoch,
            empty: false,
            ..rests
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InstanceId;

    const REPLID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn at(offset: u64) -> Cursor {
        Cursor {
            epoch: Epoch(5),
            offset: Offset(offset),
        }
    }

    fn saved(self_mark: u64) -> Saved {
        let state = EpochState {
            epoch: Epoch(5),
            replid: REPLID.parse().unwrap(),
            began: Offset(1),
            base: Epoch(5),
            older: Epoch(0),
            doubt: Epoch(4),
            empty: true,
        };
        Saved {
            state,
            at: at(99),
            db: 2,
            run_id: "this".to_owned(),
            last_record: at(90),
            self_mark,
            seen: Seen::default(),
            judged: Seen::default(),
            marks: BTreeMap::new(),
        }
    }

    #[test]
    fn the_text_survives() {
        let mut saved = saved(7);
        assert_eq!(saved.to_string().parse::<Saved>().unwrap(), saved);
        let mark = "1 i=7 n=5 at=5/9 hlc=8 low=0/0 base=5 home=3 owes=1 seen=b:3/4,c:0/0";
        let mark = Mark::parse(mark.as_bytes()).unwrap();
        for origin in ["b", "c-d"] {
            let origin = SiteId::try_new(origin).unwrap();
            saved.marks.insert(origin, mark.clone());
        }
        assert_eq!(saved.to_string().parse::<Saved>().unwrap(), saved);
        assert!("1 2 3".parse::<Saved>().is_err());
    }

    #[test]
    fn data_is_judged_by_the_self_mark_that_it_holds() {
        let mark = |number, offset| SelfMark {
            instance: InstanceId::new(1),
            number,
            at: at(offset),
        };
        let saved = saved(7);
        for (saved, found, aof, expected) in [
            (None, None, false, History::Fresh),
            (None, Some(mark(3, 50)), false, History::Kept),
            (Some(&saved), None, true, History::Older),
            (Some(&saved), Some(mark(6, 80)), true, History::Older),
            (Some(&saved), Some(mark(7, 90)), false, History::Kept),
            (Some(&saved), Some(mark(7, 80)), false, History::Older),
            (Some(&saved), Some(mark(7, 80)), true, History::Kept),
            (Some(&saved), Some(mark(8, 90)), false, History::Kept),
        ] {
            let server = Server {
                run_id: "other",
                replid: REPLID.parse().unwrap(),
                keeps_all: aof,
                may_be_another: false,
                is_blank: false,
            };
            let judged = judge(saved, found.as_ref(), &server);
            assert_eq!(judged, expected, "{found:?} aof={aof}");
            let another = Server {
                may_be_another: true,
                ..server
            };
            let judged = judge(saved, found.as_ref(), &another);
            let is_sure = found.as_ref().is_none_or(|mark| mark.at >= at(90));
            match saved {
                Some(_) if found.is_none() || !is_sure => assert_eq!(judged, History::Diverged),
                _ => assert_eq!(judged, expected, "{found:?} aof={aof}"),
            }
        }
        let server = |run_id, replid: &str| Server {
            run_id,
            replid: replid.parse().unwrap(),
            keeps_all: false,
            may_be_another: false,
            is_blank: false,
        };
        let same = judge(Some(&saved), None, &server("this", REPLID));
        assert_eq!(same, History::Missed);
        let was_a_replica = judge(Some(&saved), None, &server("this", &"f".repeat(40)));
        assert_eq!(was_a_replica, History::Kept);
        let none = Saved {
            self_mark: 0,
            last_record: Cursor::ZERO,
            ..saved
        };
        let judged = judge(Some(&none), None, &server("other", REPLID));
        assert_eq!(judged, History::Kept);
    }

    #[test]
    fn a_server_with_nothing_has_lost_what_peers_had_sent() {
        let blank = |run_id| Server {
            run_id,
            replid: REPLID.parse().unwrap(),
            keeps_all: true,
            may_be_another: true,
            is_blank: true,
        };
        let judged = |saved: &Saved| judge(Some(saved), None, &blank("other"));
        let mut saved = saved(0);
        assert_eq!(judged(&saved), History::Older);
        saved.last_record = Cursor::ZERO;
        assert_eq!(judged(&saved), History::Fresh, "it has met nobody");
        let mark = Mark::first(InstanceId::new(1), at(3));
        let peer = SiteId::try_new("b").unwrap();
        saved.marks.insert(peer, mark);
        assert_eq!(judged(&saved), History::Older);
        saved.marks.clear();
        saved.state.older = Epoch(4);
        assert_eq!(
            judged(&saved),
            History::Older,
            "and once more, before it is refilled"
        );
        let peer = SiteId::try_new("c").unwrap();
        assert!(saved.has_met(&peer), "the mark may have been lost");
        saved.state.older = Epoch::NEVER;
        assert!(!saved.has_met(&peer));
        let flushed = |saved: &Saved| judge(Some(saved), None, &blank("this"));
        assert_eq!(flushed(&saved), History::Fresh);
        saved.last_record = at(90);
        assert_eq!(flushed(&saved), History::Older, "clients have deleted all");
    }
}

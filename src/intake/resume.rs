//! Where to go on: what the journal says, and what Redis makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tracing::{info, warn};

use super::facts::Facts;
use super::history::{self, History, Saved, Server};
use super::stream::Stream;
use super::{Config, Error, Shared, lost, wall_ms};
use crate::command::{Catalog, Effects, Whole, for_each_in};
use crate::converge::Judge;
use crate::journal::{Frame, FrameKind, Journal, Recovered};
use crate::model::{
    BatchReader, Cursor, Entry, Epoch, Hlc, Judgement, Key, Mark, Offset, Position, Record, ReplId,
    Seen, SelfMark, SiteId, is_reserved,
};
use crate::progress::EpochState;
use crate::rdb;
use crate::redis::{Address, Info, connection_name};
use crate::replica::{self, PsyncReply, Replica, Snapshot, SnapshotError};

/// How much of the journal is read again at most to rebuild the table of recent writes; what is
/// older counts as written everywhere, which costs states, never equality.
const REPLAY_LIMIT: u64 = 512 << 20;

/// The largest value that is looked at whole to see whether there is any.
const LARGE: usize = 1 << 20;

/// What the journal says of the time before.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// The state of the epoch, with all that follows it in the journal added.
    pub saved: Option<Saved>,
    /// The latest stamp.
    pub hlc: Hlc,
    /// Keys whose states are wished for and have not come.
    pub wishes: BTreeSet<(SiteId, Key)>,
    /// Peers with which this site is to be merged.
    pub torn: BTreeSet<SiteId>,
    /// Keys of which peers must hear that what they were sent is not right.
    pub stale: BTreeSet<(SiteId, Key)>,
}

impl Resume {
    /// Reads the end of the journal; the judge learns what it had known.
    ///
    /// # Errors
    /// The journal is damaged or of another version.
    pub(super) fn from_journal(
        journal: &Journal,
        recovered: &Recovered,
        catalog: &Catalog,
        judge: &mut Judge,
    ) -> Result<Self, Error> {
        let mut saved = recovered
            .preamble
            .as_deref()
            .filter(|p| !p.is_empty())
            .map(parse)
            .transpose()?;
        for frame in &recovered.frames {
            saved = Some(parse(&frame.body)?);
        }
        let Some(mut saved) = saved else {
            return Ok(Self::default());
        };
        let mut resume = Self::default();
        let from = replay_from(journal, saved.at);
        judge.note_everything(from);
        if from > journal.first() {
            judge.note_foreign(&saved.seen);
        }
        let mut reader = journal.reader(from)?;
        while let Some(frame) = reader.try_next()? {
            resume.replay(&frame, &mut saved, catalog, judge)?;
            judge.note();
        }
        // Which keys a copy had brought is in no journal.
        let copied = saved.marks.iter();
        let copied = copied.filter(|(_, mark)| mark.base > Epoch::UNDONE);
        let copied = copied.map(|(site, mark)| (site.clone(), mark.at)).collect();
        judge.note_foreign(&copied);
        let wishes = std::mem::take(&mut resume.wishes);
        let stale = std::mem::take(&mut resume.stale);
        let found = (wishes, stale, &resume.torn);
        judge.resume((&saved.seen, &saved.judged), found, saved.at);
        resume.saved = Some(saved);
        Ok(resume)
    }

    fn replay(
        &mut self,
        frame: &Frame,
        saved: &mut Saved,
        catalog: &Catalog,
        judge: &mut Judge,
    ) -> Result<(), Error> {
        let header = &frame.header;
        match header.kind {
            // Its data holds what of others no record in the journal brings.
            FrameKind::Epoch => judge.note_foreign(&parse(&frame.body)?.seen),
            FrameKind::Continue => {}
            FrameKind::Records | FrameKind::Notes => {
                for entry in BatchReader::new(header.start, frame.body.clone()) {
                    let entry = entry.map_err(|e| Error::Saved(e.to_string()))?;
                    self.entry(entry, header.epoch, saved, (catalog, judge));
                }
                if header.kind == FrameKind::Records {
                    saved.last_record = Cursor {
                        epoch: header.epoch,
                        offset: header.last_record,
                    };
                }
            }
        }
        if header.cursor() >= saved.at {
            saved.at = header.cursor();
            saved.db = header.db;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: Entry,
        epoch: Epoch,
        saved: &mut Saved,
        (catalog, judge): (&Catalog, &mut Judge),
    ) {
        // What was here of others in a former epoch the Redis may have lost: how the last one began says what is.
        let is_here = epoch >= saved.state.epoch;
        match entry {
            Entry::Record(record) => {
                self.hlc = self.hlc.max(record.hlc);
                let at = Cursor {
                    epoch,
                    offset: record.offset,
                };
                judge.on_own(&mut effects_of(&record, catalog), at, record.hlc);
            }
            Entry::Echo {
                origin, at, hlc, ..
            } => {
                self.hlc = self.hlc.max(hlc);
                if is_here {
                    saved.seen.advance(&origin, at);
                }
            }
            Entry::Foreign { origin, at, record } => {
                judge.on_foreign(&origin, at, &record, saved.at);
            }
            Entry::SelfMark { number, .. } => saved.self_mark = saved.self_mark.max(number),
            Entry::Judgement(Judgement::Judged(origin, at)) => {
                if is_here {
                    saved.judged.advance(&origin, at);
                }
            }
            Entry::Judgement(Judgement::Wished(origin, key)) => {
                self.wishes.insert((origin, key));
            }
            Entry::Judgement(Judgement::Stale(site, key)) => {
                self.stale.insert((site, key));
            }
            Entry::Judgement(Judgement::Told(site, key)) => {
                self.stale.remove(&(site, key));
            }
            Entry::Judgement(Judgement::Torn(origin)) => {
                self.torn.insert(origin);
            }
            Entry::Judgement(Judgement::Merging(origin)) => {
                self.torn.remove(&origin);
            }
            Entry::Mark { origin, text } => {
                // Of a version that is not known, nothing is to be learned.
                if is_here && let Ok(mark) = Mark::parse(&text) {
                    saved.marks.insert(origin, mark);
                }
            }
            Entry::Judgement(Judgement::Paid(origin, key)) => {
                self.wishes.remove(&(origin, key));
            }
        }
    }
}

/// What a record does.
fn effects_of(record: &Record, catalog: &Catalog) -> Effects {
    let mut effects = Effects::default();
    let scanned = for_each_in(&record.commands, record.db, |command, db| {
        effects.add(catalog, command, db, |_, _| true);
    });
    if scanned.is_err() {
        effects.wholes.push(Whole::Unknown);
    }
    effects
}

/// From where to read the journal again.
fn replay_from(journal: &Journal, saved_at: Cursor) -> Cursor {
    let first = journal.first();
    if journal.pending_bytes(first) <= REPLAY_LIMIT {
        return first;
    }
    // The state that was saved is the least that must be read again.
    saved_at.max(first)
}

fn parse(body: &[u8]) -> Result<Saved, Error> {
    let text = String::from_utf8_lossy(body);
    text.parse()
        .map_err(|()| Error::Saved(text.chars().take(60).collect()))
}

/// Attaches to Redis, where we left off if it can, else in a new epoch.
///
/// # Errors
/// Redis cannot be reached, does not let us, or cannot be used.
pub(super) async fn attach(
    config: &Config,
    shared: &Shared,
    stream: &mut Stream,
) -> Result<Replica, Error> {
    let mut facts = Facts::learn(config, shared).await?;
    let name = connection_name(&config.site, "replica");
    let (fork, position) = (fork(stream, shared, &facts.info)?, stream.position());
    let from = fork
        .as_ref()
        .map(|fork| &fork.position)
        .or(position.as_ref());
    let (mut replica, reply) = Replica::attach(config.reading(), &name, from).await?;
    let saved = stream.saved();
    match (reply, fork) {
        (PsyncReply::Continue(_), Some(fork)) => {
            shared.board.redis().resyncs_partial += 1;
            take_branch(fork, facts, stream)?;
        }
        (PsyncReply::Continue(replid), None) => {
            shared.board.redis().resyncs_partial += 1;
            stream.set_run_id(&facts.info.run_id);
            stream.continues(replid)?;
            let at = saved.map_or(Cursor::ZERO, |saved| saved.at);
            info!(%at, "going on in the replication stream");
        }
        (PsyncReply::FullResync(replid, offset), _) => {
            if position.is_some_and(|p| p.replid == replid && p.offset > offset) {
                let address = replica.address().to_string();
                return Err(Error::Behind { address });
            }
            shared.board.redis().resyncs_full += 1;
            let found = facts.self_mark.as_ref();
            let previous = saved.as_ref().map(|s| &s.state);
            let epoch = next_epoch(previous, found);
            let at = Cursor { epoch, offset };
            let history_begins = Position {
                replid,
                offset,
                db: 0,
            };
            let (beside, snapshot) = take(config, shared, replica, &history_begins, at).await?;
            replica = beside;
            let empty = is_empty(&snapshot, &config.dir).await?;
            let server = Server {
                is_blank: empty && facts.marks.is_empty(),
                ..server(config, &facts.info, replid)
            };
            let history = history::judge(saved.as_ref(), found, &server);
            facts.look_again(config).await?;
            let state = history::begin(history, previous, epoch, replid, offset, empty);
            // Only now is the process known: were it before, the next attempt would take a server
            // that came back older for one that was never away.
            let seen = facts.seen();
            let mut marks = match empty {
                true => BTreeMap::new(),
                false => lost_marks(config, saved.as_ref(), &seen),
            };
            marks.append(&mut facts.marks);
            stream.begins((state.clone(), seen.clone()), marks, &facts.info.run_id)?;
            say(history, &state);
            keep(shared, snapshot, seen, empty);
        }
    }
    // Diskless: the server sends nothing until it has got an ACK after the snapshot.
    replica.acknowledge(stream.safe()).await?;
    Ok(replica)
}

/// What is known of the server whose data is to be judged.
fn server<'a>(config: &Config, info: &'a Info, replid: ReplId) -> Server<'a> {
    Server {
        run_id: &info.run_id,
        replid,
        keeps_all: info.aof,
        may_be_another: matches!(config.redis.address, Address::Sentinel(_)),
        is_blank: false,
    }
}

/// A place where the history of the server leaves the one that we have read.
struct Fork {
    /// Where to go on reading.
    position: Position,
    /// What we have read of the other branch: these keys.
    lost: Vec<Key>,
}

/// Where the server has become a primary before it had got all that we have read: it says so itself.
/// None when it has not, or when what it lacks cannot be told key by key.
fn fork(stream: &Stream, shared: &Shared, info: &Info) -> Result<Option<Fork>, Error> {
    let (Some(known), Some(state)) = (stream.position(), stream.saved().map(|s| s.state)) else {
        return Ok(None);
    };
    let forked = info
        .forked_at
        .filter(|_| info.replid2 == known.replid.as_str());
    let Some(offset) = forked.map(|next| Offset(next.saturating_sub(1))) else {
        return Ok(None);
    };
    let at = Cursor {
        epoch: state.epoch,
        offset,
    };
    let is_known = offset >= state.began && shared.journal.contains(at);
    let Ok(replid) = info.replid.parse() else {
        return Ok(None);
    };
    if offset >= known.offset || !is_known {
        return Ok(None);
    }
    let Some(lost) = lost::written_after(shared, at)? else {
        return Ok(None);
    };
    // A new primary selects the database before its first write.
    let position = Position {
        replid,
        offset,
        db: 0,
    };
    Ok(Some(Fork { position, lost }))
}

/// Goes on where the server has left the history that we had read: with a new epoch, whose data holds
/// the old one up to that place. What else we had read the peers have, or get from the journal, and we
/// get it back from them.
fn take_branch(fork: Fork, facts: Facts, stream: &mut Stream) -> Result<(), Error> {
    let Fork { position, lost } = fork;
    let Some(previous) = stream.saved().map(|saved| saved.state) else {
        return Err(Error::Interrupted);
    };
    let Position { replid, offset, .. } = position;
    let epoch = next_epoch(Some(&previous), facts.self_mark.as_ref());
    let state = history::begin(
        History::Branch,
        Some(&previous),
        epoch,
        replid,
        offset,
        false,
    );
    warn!(
        %epoch,
        keys = lost.len(),
        "another server has become the primary, without the latest writes; they are fetched from the \
         peers, key by key"
    );
    let seen = facts.seen();
    stream.branches((state, seen), facts.marks, lost, &facts.info.run_id)
}

/// Of peers whose mark is gone from data that is there: a client has removed it with its database, while
/// nobody read. What the data holds of theirs is not known any more, only that it holds something: a
/// mark that stands nowhere says so, and a copy is needed. Without it all their records would be
/// applied once more. Nor must it be forgotten where this happens again before the mark is written.
fn lost_marks(config: &Config, saved: Option<&Saved>, seen: &Seen) -> BTreeMap<SiteId, Mark> {
    let has_met = |peer: &&SiteId| saved.is_some_and(|saved| saved.has_met(peer));
    let is_gone = |peer: &&SiteId| seen.of(peer) == Cursor::ZERO;
    let lost = config.peers.iter().filter(is_gone).filter(has_met);
    lost.map(|peer| (peer.clone(), Mark::nowhere(config.instance)))
        .collect()
}

/// Greater than every epoch before, also those that only peers remember: no two epochs begin in
/// one millisecond, and a clock that was set back is caught by what is known.
fn next_epoch(previous: Option<&EpochState>, found: Option<&SelfMark>) -> Epoch {
    let known = previous
        .map_or(0, |p| p.epoch.0)
        .max(found.map_or(0, |m| m.at.epoch.0));
    Epoch(wall_ms().max(known.saturating_add(1)))
}

fn say(history: History, state: &EpochState) {
    let epoch = state.epoch;
    match history {
        History::Fresh => info!(%epoch, empty = state.empty, "beginning the history of this site"),
        History::Missed => warn!(
            %epoch,
            "a part of the history was never read (Redis was out of reach for longer than its backlog): \
             peers get a copy of what differs"
        ),
        History::Kept => warn!(
            %epoch,
            "Redis has begun a new history with all of its data (it was restarted): peers get a copy of \
             what differs"
        ),
        History::Older => warn!(
            %epoch,
            "Redis lacks writes that were read here (it was restarted, or emptied while nobody read): they \
             are fetched from the peers"
        ),
        History::Branch | History::Diverged => warn!(
            %epoch,
            "another server has become the primary: it may lack writes that were read here, and have \
             others; the sites are merged"
        ),
    }
}

/// Takes the snapshot that follows a full resync, and gives the connection on which the stream
/// comes.
///
/// The server's backlog begins where the snapshot does, so a second connection can go on from there
/// at once, and nobody waits for the snapshot (measured: every version from 5.0 to Valkey 9.1, with
/// and without a disk). Where the backlog is already past that place, the stream follows the
/// snapshot on the one connection that there is.
async fn take(
    config: &Config,
    shared: &Shared,
    mut replica: Replica,
    begins: &Position,
    at: Cursor,
) -> Result<(Replica, Snapshot), Error> {
    info!(%at, "taking a snapshot of the local Redis");
    let name = connection_name(&config.site, "replica");
    let (beside, reply) = Replica::attach(config.reading(), &name, Some(begins)).await?;
    if let PsyncReply::Continue(_) = reply {
        let snapshot = shared.shelf.spool(replica, at, &config.dir).await?;
        return Ok((beside, snapshot));
    }
    drop(beside);
    let snapshot = replica::spool(&mut replica, at, &config.dir).await?;
    Ok((replica, snapshot))
}

/// Keeps the snapshot for a first copy; of nothing there is nothing to copy.
fn keep(shared: &Shared, snapshot: Snapshot, seen: Seen, empty: bool) {
    if empty {
        snapshot.remove();
    } else if let Err(error) = shared.shelf.put(snapshot, seen, true) {
        warn!(%error, "the snapshot cannot be kept; a copy takes its own");
    }
}

/// Whether a snapshot holds no key but ours.
async fn is_empty(snapshot: &Snapshot, dir: &Path) -> Result<bool, Error> {
    let open = || {
        snapshot.open().map_err(|source| SnapshotError::Disk {
            path: dir.display().to_string(),
            source,
        })
    };
    let (file, again) = (open()?, open()?);
    // The first key of another tells, so this is soon known; but it may have to be waited for.
    let looking = tokio::task::spawn_blocking(move || {
        let mut reader = rdb::Reader::try_new(file)?.dividing(LARGE, again);
        while let Some(entry) = reader.next_entry()? {
            match entry {
                rdb::Entry::Value(value) | rdb::Entry::Part(value, _)
                    if !is_reserved(&value.key) =>
                {
                    return Ok(false);
                }
                rdb::Entry::Function(_) => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    });
    looking.await.map_err(|_| Error::Interrupted)?
}

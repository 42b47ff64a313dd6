//! What a restart finds, and what it does about it: a table.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fs;
use std::path::Path;

use super::Error;
use super::frame::{Frame, FrameHeader, FrameKind};
use super::index::Index;
use super::segment::{BadHeader, Ending, Header, Segment};

/// What was found in the journal when it was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The preamble of the last segment: the state of the epoch when that segment was begun.
    pub preamble: Option<Vec<u8>>,
    /// The header of the last frame.
    pub end: Option<FrameHeader>,
    /// The frames in the last segment that change the state of the epoch, in order.
    pub frames: Vec<Frame>,
    /// How many bytes of a torn tail were removed.
    pub truncated_bytes: u64,
}

/// The files of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    /// No segment.
    None,
    /// Segments with consecutive numbers.
    Whole,
    /// One is missing between others.
    Gap,
}

/// The front of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Good,
    Short,
    Foreign,
    Version,
    Damaged,
}

/// What comes after the place where the good frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    /// No frame.
    Nothing,
    /// Frames, all written while the bytes at that place had not been synced.
    Unsynced,
    /// Frames, of which one was written when the bytes at that place had been synced.
    Synced,
}

/// All that the decision depends on.
#[derive(Clone, Copy, Debug)]
struct Shape {
    files: Files,
    front: Front,
    ending: Ending,
    later: Later,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Begin the first segment.
    Begin,
    /// Go on after the last frame.
    GoOn,
    /// Remove what comes after the last good frame, say so, and go on there.
    Truncate,
    /// Refuse to start, and say why.
    Refuse,
}

/// A row of the table; an empty list stands for "any".
struct Row {
    name: &'static str,
    files: &'static [Files],
    front: &'static [Front],
    ending: &'static [Ending],
    later: &'static [Later],
    decision: Decision,
}

impl Row {
    fn matches(&self, shape: Shape) -> bool {
        fn within<T: PartialEq>(list: &[T], value: &T) -> bool {
            list.is_empty() || list.contains(value)
        }
        within(self.files, &shape.files)
            && within(self.front, &shape.front)
            && within(self.ending, &shape.ending)
            && within(self.later, &shape.later)
    }
}

const BAD: &[Ending] = &[Ending::Zeros, Ending::BadHeader, Ending::BadBody];
const SHORT: &[Ending] = &[Ending::ShortHeader, Ending::ShortBody];

/// Every shape meets exactly one row; the test below tries them all.
///
/// A power failure loses what had not been synced, and not always from the end: blocks reach the
/// disk in any order. So good frames after a bad one prove damage only if one of them was written
/// when the bad one had been synced, which every frame says.
const TABLE: &[Row] = &[
    Row {
        name: "an empty directory",
        files: &[Files::None],
        front: &[],
        ending: &[],
        later: &[],
        decision: Decision::Begin,
    },
    Row {
        name: "a segment is missing",
        files: &[Files::Gap],
        front: &[],
        ending: &[],
        later: &[],
        decision: Decision::Refuse,
    },
    Row {
        name: "not a segment of a journal",
        files: &[Files::Whole],
        front: &[Front::Foreign],
        ending: &[],
        later: &[],
        decision: Decision::Refuse,
    },
    Row {
        name: "unknown version",
        files: &[Files::Whole],
        front: &[Front::Version],
        ending: &[],
        later: &[],
        decision: Decision::Refuse,
    },
    Row {
        // Segments get their name when their header is on the disk: no crash leaves this.
        name: "damaged header of a segment",
        files: &[Files::Whole],
        front: &[Front::Short, Front::Damaged],
        ending: &[],
        later: &[],
        decision: Decision::Refuse,
    },
    Row {
        name: "a clean end",
        files: &[Files::Whole],
        front: &[Front::Good],
        ending: &[Ending::End],
        later: &[],
        decision: Decision::GoOn,
    },
    Row {
        name: "a torn tail",
        files: &[Files::Whole],
        front: &[Front::Good],
        ending: SHORT,
        later: &[Later::Nothing, Later::Unsynced],
        decision: Decision::Truncate,
    },
    Row {
        name: "a torn tail that the file system filled up",
        files: &[Files::Whole],
        front: &[Front::Good],
        ending: BAD,
        later: &[Later::Nothing],
        decision: Decision::Truncate,
    },
    Row {
        name: "a hole in what had not been synced",
        files: &[Files::Whole],
        front: &[Front::Good],
        ending: BAD,
        later: &[Later::Unsynced],
        decision: Decision::Truncate,
    },
    Row {
        name: "damage in what had been synced",
        files: &[Files::Whole],
        front: &[Front::Good],
        ending: &[
            Ending::Zeros,
            Ending::BadHeader,
            Ending::BadBody,
            Ending::ShortHeader,
            Ending::ShortBody,
        ],
        later: &[Later::Synced],
        decision: Decision::Refuse,
    },
];

fn decide(shape: Shape) -> (&'static str, Decision) {
    let row = TABLE.iter().find(|r| r.matches(shape));
    row.map_or(("no row of the table", Decision::Refuse), |r| {
        (r.name, r.decision)
    })
}

/// The journal as it was found, or begun.
pub(super) struct Found {
    /// What is where.
    pub(super) index: Index,
    /// The last segment, open for writing, and synced.
    pub(super) last: Segment,
    /// For the caller.
    pub(super) recovered: Recovered,
}

/// Reads the directory: of all segments but the last only the headers.
pub(super) fn recover(dir: &Path, tail_limit: usize) -> Result<Found, Error> {
    let seqs = list(dir)?;
    let files = match (seqs.first(), seqs.last()) {
        (Some(first), Some(last)) if last.abs_diff(*first) >= seqs.len() as u64 => Files::Gap,
        (Some(_), Some(_)) => Files::Whole,
        _ => Files::None,
    };
    let mut index = Index::new(tail_limit);
    let sound = Shape {
        files,
        front: Front::Good,
        ending: Ending::End,
        later: Later::Nothing,
    };
    match (decide(sound).1, seqs.split_last()) {
        (Decision::Begin, _) => begin(dir, index),
        (Decision::GoOn, Some((last, earlier))) => {
            let mut previous = None;
            for seq in earlier {
                let segment = Segment::open(dir, *seq, false)?;
                previous = Some(add(&mut index, &segment, previous, sound)?.1);
            }
            let segment = Segment::open(dir, *last, true)?;
            let (header, _) = add(&mut index, &segment, previous, sound)?;
            read_last(index, segment, header, sound)
        }
        _ => Err(missing(dir, &seqs)),
    }
}

fn begin(dir: &Path, mut index: Index) -> Result<Found, Error> {
    let header = Header {
        seq: 1,
        previous_len: 0,
        previous: None,
        last_record: crate::model::Cursor::ZERO,
        epochs: Vec::new(),
        preamble: None,
    };
    let (last, len) = Segment::create(dir, &header)?;
    index.add_segment(&header, len, len);
    Ok(Found {
        index,
        last,
        recovered: Recovered::default(),
    })
}

/// The numbers of the segments, in order. Removes segments that were never finished.
fn list(dir: &Path) -> Result<Vec<u64>, Error> {
    let read = |e| Error::io("read", dir, e);
    let mut seqs = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(seq) = Segment::seq_of(&name) {
            seqs.push(seq);
        } else if Segment::seq_of(&name.replace(".tmp", ".seg")).is_some() {
            fs::remove_file(entry.path()).map_err(|e| Error::io("remove", &entry.path(), e))?;
        }
    }
    seqs.sort_unstable();
    Ok(seqs)
}

fn missing(dir: &Path, seqs: &[u64]) -> Error {
    let pairs = seqs.iter().zip(seqs.iter().skip(1));
    let mut expected = pairs.map(|(seq, next)| (seq.saturating_add(1), *next));
    let seq = expected.find(|(e, next)| e != next).map_or(0, |(e, _)| e);
    Error::Missing {
        path: Segment::path(dir, seq),
    }
}

/// Reads the header of a segment and adds it to the index; `previous` is the length of the one
/// before it. Returns its own too.
fn add(
    index: &mut Index,
    segment: &Segment,
    previous: Option<u64>,
    sound: Shape,
) -> Result<(Header, u64), Error> {
    let len = segment.len()?;
    let read = segment.header(len)?;
    let front = match &read {
        Ok(_) => Front::Good,
        Err(BadHeader::Short) => Front::Short,
        Err(BadHeader::Foreign) => Front::Foreign,
        Err(BadHeader::Version(_)) => Front::Version,
        Err(BadHeader::Damaged) => Front::Damaged,
    };
    let (what, _) = decide(Shape { front, ..sound });
    let path = segment.path.clone();
    let (header, first) = match read {
        Ok(read) => read,
        Err(BadHeader::Foreign) => return Err(Error::Foreign { path }),
        Err(BadHeader::Version(found)) => return Err(Error::Version { path, found }),
        Err(BadHeader::Short | BadHeader::Damaged) => return Err(segment.corrupt(0, what)),
    };
    if header.seq != segment.seq {
        return Err(segment.corrupt(0, "the file has the name of another segment"));
    }
    if previous.is_some_and(|p| p != header.previous_len) {
        return Err(segment.corrupt(0, "the segment before it has another length"));
    }
    index.add_segment(&header, first, len);
    Ok((header, len))
}

/// Reads all frames of the last segment, and removes a torn tail.
fn read_last(
    mut index: Index,
    last: Segment,
    header: Header,
    sound: Shape,
) -> Result<Found, Error> {
    let (_, end) = index.written();
    let len = end.pos;
    let mut recovered = Recovered {
        preamble: header.preamble,
        end: header.previous,
        ..Recovered::default()
    };
    let mut next = index.restart_last();
    let ending = loop {
        let batch = last.read_frames(next, len)?;
        for placed in batch.frames {
            let header = placed.frame.header;
            if !header.follows(recovered.end.as_ref()) {
                return Err(last.corrupt(placed.at.pos, "a frame out of order"));
            }
            index.add_frame(&header, placed.at, placed.next);
            recovered.end = Some(header);
            if matches!(header.kind, FrameKind::Epoch | FrameKind::Continue) {
                recovered.frames.push(placed.frame);
            }
        }
        next = batch.next;
        if let Some(ending) = batch.ending {
            break ending;
        }
    };
    let later = match ending {
        Ending::End => Later::Nothing,
        _ => match last.search(next, len)? {
            None => Later::Nothing,
            Some(synced) if synced > next => Later::Synced,
            Some(_) => Later::Unsynced,
        },
    };
    let shape = Shape {
        ending,
        later,
        ..sound
    };
    match decide(shape) {
        (_, Decision::GoOn) => {}
        (_, Decision::Truncate) => {
            let cut = last.file.set_len(next);
            cut.map_err(|e| Error::io("truncate", &last.path, e))?;
            recovered.truncated_bytes = len.saturating_sub(next);
        }
        (what, _) => return Err(last.corrupt(next, what)),
    }
    // What a killed process had only written becomes durable before anything is built upon it.
    let sync = last.file.sync_all();
    sync.map_err(|e| Error::io("sync", &last.path, e))?;
    let (cursor, place) = index.written();
    index.set_durable(cursor, place);
    Ok(Found {
        index,
        last,
        recovered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_meets_exactly_one_row() {
        let mut shapes = 0;
        for files in [Files::None, Files::Whole, Files::Gap] {
            for front in [
                Front::Good,
                Front::Short,
                Front::Foreign,
                Front::Version,
                Front::Damaged,
            ] {
                for ending in [
                    Ending::End,
                    Ending::ShortHeader,
                    Ending::Zeros,
                    Ending::BadHeader,
                    Ending::ShortBody,
                    Ending::BadBody,
                ] {
                    for later in [Later::Nothing, Later::Unsynced, Later::Synced] {
                        let shape = Shape {
                            files,
                            front,
                            ending,
                            later,
                        };
                        let rows: Vec<_> = TABLE.iter().filter(|r| r.matches(shape)).collect();
                        let names: Vec<_> = rows.iter().map(|r| r.name).collect();
                        assert_eq!(names.len(), 1, "{shape:?} meets {names:?}");
                        shapes += 1;
                    }
                }
            }
        }
        assert_eq!(shapes, 270);
    }
}

//! What a restart can find, and what it does about each: a table. No I/O.

use super::segment::Ending;

/// The files of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// No segment.
    None,
    /// Segments with consecutive numbers.
    Whole,
    /// One is missing between others.
    Gap,
}

/// The front of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    Good,
    Short,
    Foreign,
    Version,
    Damaged,
}

/// What comes after the place where the good frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Later {
    /// No frame.
    Nothing,
    /// Frames, all written while the bytes at that place had not been synced.
    Unsynced,
    /// Frames, of which one was written when the bytes at that place had been synced.
    Synced,
}

/// All that the decision depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) files: Files,
    pub(super) front: Front,
    pub(super) ending: Ending,
    pub(super) later: Later,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
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

/// What is done about a shape, and its name.
pub(super) fn decide(shape: Shape) -> (&'static str, Decision) {
    let row = TABLE.iter().find(|r| r.matches(shape));
    row.map_or(("no row of the table", Decision::Refuse), |r| {
        (r.name, r.decision)
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

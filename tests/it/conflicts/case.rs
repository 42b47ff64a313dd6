//! One pair of writes of the table, and what both sites must hold after it.

use crate::conformance::case::{Product, R50, Since};

/// What a client writes at one site. In a line, `@` stands for the prefix of the case and `{db}` and
/// `{db2}` for databases of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) lines: &'static [&'static str],
    /// What the stream has of it, where that is another command; `{reply}` is the reply to the last
    /// line. None: as written.
    streamed: Option<&'static [&'static str]>,
    pub(crate) kind: Kind,
    since: Since,
}

/// How a write ranks among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the clock.
    Write,
    /// Removes this key: before every write of it.
    Delete(&'static str),
    /// Changes when this key expires, or takes it elsewhere: a delete of the key is spared.
    Keep(&'static str),
    /// Adds an entry to a stream: among such, by the number of its id.
    Entry(u64),
    /// Of a group of a stream: which of two wins is not said.
    Group,
    /// Nothing is promised but that the sites are equal.
    Loose,
}

/// A write whose rank is its stamp.
pub(crate) const fn write(lines: &'static [&'static str]) -> Form {
    form(lines, Kind::Write)
}

/// A write of this kind.
pub(crate) const fn form(lines: &'static [&'static str], kind: Kind) -> Form {
    Form {
        lines,
        streamed: None,
        kind,
        since: R50,
    }
}

impl Form {
    /// What of it is in the stream: the effect, not the command.
    pub(crate) const fn streamed(self, lines: &'static [&'static str]) -> Self {
        Self {
            streamed: Some(lines),
            ..self
        }
    }

    /// The first versions that know it.
    pub(crate) const fn since(self, since: Since) -> Self {
        Self { since, ..self }
    }

    /// What another server is told of it.
    pub(crate) fn effect(&self) -> &'static [&'static str] {
        self.streamed.unwrap_or(self.lines)
    }

    fn describe(&self) -> String {
        self.lines.join("; ")
    }
}

/// What both sites must hold at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// What one server holds that was told both in the order of their ranks.
    InRankOrder,
    /// What one server holds that was told this: when the first of the pair is the earlier, and when
    /// it is the later. Why, in the words of the promise.
    These([&'static [&'static str]; 2], &'static str),
    /// The same, whatever it is.
    Equal(&'static str),
}

/// Two writes that do not know of each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) group: &'static str,
    /// What both sites know before.
    pub(crate) setup: &'static [&'static str],
    pub(crate) pair: [Form; 2],
    expected: Expected,
}

/// A row of the promise.
pub(crate) const fn row(
    setup: &'static [&'static str],
    pair: [Form; 2],
    expected: Expected,
) -> Case {
    Case {
        group: "promise",
        setup,
        pair,
        expected,
    }
}

/// Every pair of these forms, each with itself too.
pub(crate) fn every_pair(
    group: &'static str,
    setup: &'static [&'static str],
    forms: &[Form],
) -> Vec<Case> {
    let pairs = forms.iter().enumerate().flat_map(|(number, one)| {
        let others = forms[number..].iter();
        others.map(|two| [*one, *two])
    });
    // Of two entries with one id the later gets another one: the rows of the promise have that.
    let same_entry = |[one, two]: &[Form; 2]| {
        one.lines == two.lines && one.lines.iter().any(|line| line.starts_with("XADD"))
    };
    let pairs = pairs.filter(|pair| !same_entry(pair));
    pairs
        .map(|pair| Case {
            group,
            setup,
            pair,
            expected: Expected::InRankOrder,
        })
        .collect()
}

impl Case {
    /// Whether this server can carry it out.
    pub(crate) fn is_known_to(&self, server: &Product) -> bool {
        self.pair.iter().all(|form| form.since.knows(server))
    }

    /// Whether both writes are the same, so that it does not matter who writes which.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.pair[0].lines == self.pair[1].lines
    }

    /// In one line, with the site and the place of each write.
    pub(crate) fn describe(&self, order: Order) -> String {
        let [first, second] = order.in_time();
        let said = |form: usize| self.pair[form].describe();
        let [at, then_at] = [first, second].map(|form| ["a", "b"][order.site_of(form)]);
        format!(
            "{}: {at}: {} | then {then_at}: {}",
            self.group,
            said(first),
            said(second)
        )
    }

    /// What is promised of the pair in this order.
    pub(crate) fn promise(&self, order: Order) -> Promise {
        let loose = |kind| kind == Kind::Loose;
        match self.expected {
            Expected::These(lines, why) => {
                Promise::These(lines[usize::from(!order.one_first)], why)
            }
            Expected::Equal(why) => Promise::Equal(why),
            Expected::InRankOrder => match self.pair.map(|form| form.kind) {
                [Kind::Group, Kind::Group] => Promise::Equal("the later wins per group"),
                [one, two] if loose(one) || loose(two) => {
                    Promise::Equal("only that both are equal")
                }
                kinds => by_rank(kinds, order),
            },
        }
    }
}

/// What is promised of a pair in one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// The effects of these of the two, one after the other.
    Effects(Vec<usize>, &'static str),
    These(&'static [&'static str], &'static str),
    Equal(&'static str),
}

fn by_rank(kinds: [Kind; 2], order: Order) -> Promise {
    let deleted = |kind| match kind {
        Kind::Delete(key) => Some(key),
        _ => None,
    };
    for [this, other] in [[0, 1], [1, 0]] {
        let Some(key) = deleted(kinds[this]) else {
            continue;
        };
        if kinds[other] == Kind::Keep(key) {
            return Promise::Effects(vec![other], "the delete is spared");
        }
        return Promise::Effects(vec![this, other], "a write beats a delete");
    }
    if let [Kind::Entry(one), Kind::Entry(two)] = kinds {
        let by_id = if one <= two { vec![0, 1] } else { vec![1, 0] };
        return Promise::Effects(by_id, "both entries, by id");
    }
    Promise::Effects(order.in_time().to_vec(), "in rank order")
}

/// Who writes which of the two, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// The site that writes the first of the pair.
    one_at: usize,
    /// Whether that is the earlier write.
    one_first: bool,
}

impl Order {
    /// All, or for equal writes those that differ.
    pub(crate) fn all(is_symmetric: bool) -> impl Iterator<Item = Self> {
        let sites = if is_symmetric { 0..1 } else { 0..2 };
        sites.flat_map(|one_at| [true, false].map(|one_first| Self { one_at, one_first }))
    }

    /// Whether the first of the pair is the earlier write.
    pub(crate) fn is_first_earlier(self) -> bool {
        self.one_first
    }

    /// Which of the pair is written first, and which then.
    pub(crate) fn in_time(self) -> [usize; 2] {
        if self.one_first { [0, 1] } else { [1, 0] }
    }

    /// Where this one of the pair is written.
    pub(crate) fn site_of(self, form: usize) -> usize {
        (self.one_at + form) % 2
    }
}

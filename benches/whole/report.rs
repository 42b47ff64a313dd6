//! What was measured, against what was wanted: the table, on the terminal and in the document.

use crate::pair::Arm;

/// What is wanted of a measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Nothing: it is there to be known.
    None,
    /// Tandem over native.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// Of Tandem alone.
    AtLeast(f64),
    AtMost(f64),
    /// Tandem less native.
    AddedAtMost(f64),
}

/// One line of the table, with every round of both arms.
pub(crate) struct Measure {
    /// The row that takes it.
    row: &'static str,
    pub(crate) title: String,
    unit: &'static str,
    goal: Goal,
    tandem: Vec<f64>,
    native: Vec<f64>,
}

/// All measures, in the order in which they were first taken.
#[derive(Default)]
pub(crate) struct Samples {
    arm: Option<Arm>,
    row: &'static str,
    pub(crate) measures: Vec<Measure>,
}

impl Samples {
    /// What comes next is of this row and this arm.
    pub(crate) fn begin(&mut self, row: &'static str, arm: Arm) {
        (self.row, self.arm) = (row, Some(arm));
    }

    /// What a row has missed, and by how much; empty when it has met its goals.
    pub(crate) fn missed(&self, row: &str) -> Vec<String> {
        let of_row = self.measures.iter().filter(|measure| measure.row == row);
        of_row.filter_map(Measure::missed).collect()
    }

    /// One value of the arm that runs.
    pub(crate) fn put(&mut self, title: &str, unit: &'static str, goal: Goal, value: f64) {
        let place = self.measures.iter().position(|m| m.title == title);
        let place = place.unwrap_or_else(|| {
            self.measures.push(Measure {
                row: self.row,
                title: title.to_owned(),
                unit,
                goal,
                tandem: Vec::new(),
                native: Vec::new(),
            });
            self.measures.len() - 1
        });
        if let Some(measure) = self.measures.get_mut(place) {
            match self.arm {
                Some(Arm::Native) => measure.native.push(value),
                _ => measure.tandem.push(value),
            }
        }
    }
}

impl Measure {
    /// Tandem's median over the native one.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(median(&self.tandem)? / median(&self.native)?)
    }

    /// The ratio of each round.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let rounds = self.tandem.iter().zip(&self.native);
        rounds.map(|(tandem, native)| tandem / native).collect()
    }

    /// Whether a small ratio is a good one.
    pub(crate) fn less_is_better(&self) -> bool {
        matches!(self.unit, "us" | "ms" | "s" | "B" | "MiB")
    }

    /// The goal in words; empty when there is none.
    fn goal(&self) -> String {
        match self.goal {
            Goal::None => String::new(),
            Goal::RatioAtLeast(bound) => format!(">= {bound} x native"),
            Goal::RatioAtMost(bound) => format!("<= {bound} x native"),
            Goal::AtLeast(bound) => format!(">= {bound} {}", self.unit),
            Goal::AtMost(bound) => format!("<= {bound} {}", self.unit),
            Goal::AddedAtMost(bound) => format!("<= native + {bound} {}", self.unit),
        }
    }

    /// Whether it is met, when there is one and it can be told.
    fn is_met(&self) -> Option<bool> {
        let own = median(&self.tandem);
        match self.goal {
            Goal::None => None,
            Goal::RatioAtLeast(bound) => Some(self.ratio()? >= bound),
            Goal::RatioAtMost(bound) => Some(self.ratio()? <= bound),
            Goal::AtLeast(bound) => Some(own? >= bound),
            Goal::AtMost(bound) => Some(own? <= bound),
            Goal::AddedAtMost(bound) => Some(own? - median(&self.native)? <= bound),
        }
    }

    /// By how much it misses its goal; none when it does not.
    fn missed(&self) -> Option<String> {
        if self.is_met()? {
            return None;
        }
        let (own, native) = (median(&self.tandem)?, median(&self.native));
        let (is, bound) = match self.goal {
            Goal::None => return None,
            Goal::RatioAtLeast(bound) | Goal::RatioAtMost(bound) => (self.ratio()?, bound),
            Goal::AtLeast(bound) | Goal::AtMost(bound) => (own, bound),
            Goal::AddedAtMost(bound) => (own - native?, bound),
        };
        let Self { title, .. } = self;
        Some(format!(
            "{title}: {is:.2}, wanted {}: {:.1} times off",
            self.goal(),
            (is / bound).max(bound / is)
        ))
    }

    fn cells(&self) -> [String; 6] {
        let met = match self.is_met() {
            None => "",
            Some(true) => "met",
            Some(false) => "**missed**",
        };
        let ratio = self.ratio().map(|ratio| format!("{ratio:.2}"));
        [
            format!("{}, {}", self.title, self.unit),
            spread(&self.tandem),
            spread(&self.native),
            ratio.unwrap_or_default(),
            self.goal(),
            met.to_owned(),
        ]
    }
}

/// The table in the form of Markdown, in columns that a terminal shows well too.
pub(crate) fn table(samples: &Samples) -> String {
    let head = ["Measure", "Tandem", "Native", "Ratio", "Goal", ""].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(samples.measures.iter().map(Measure::cells));
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    });
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        text.push('|');
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(&format!(" {cell:width$} |"));
        }
        text.push('\n');
        if number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            text.push_str(&format!("|{}|\n", rule.join("|")));
        }
    }
    text
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*sorted.get(half - 1)?, upper))
}

/// `median (min–max)`.
fn spread(values: &[f64]) -> String {
    let Some(middle) = median(values) else {
        return String::new();
    };
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} ({}–{})", figure(middle), figure(least), figure(most))
}

/// Three digits that count; large numbers with separators.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place) % 3 == 0 {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}

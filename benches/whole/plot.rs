//! The picture: for each measure how Tandem stands to native replication, on a logarithmic scale.

use crate::report::{Measure, Samples};

/// Widths and heights, in pixels.
const LABELS: f64 = 400.0;
const SCALE: f64 = 420.0;
const MARGIN: f64 = 30.0;
const LINE: f64 = 22.0;
const TOP: f64 = 54.0;
/// The ends of the scale; what is beyond is drawn at the end.
const LEAST: f64 = 1.0 / 16.0;
const MOST: f64 = 16.0;
const TICKS: &[(f64, &str)] = &[
    (LEAST, "1/16"),
    (0.125, "1/8"),
    (0.25, "1/4"),
    (0.5, "1/2"),
    (1.0, "1"),
    (2.0, "2"),
    (4.0, "4"),
    (8.0, "8"),
    (MOST, "16"),
];

/// The picture of all measures that both have.
pub(crate) fn svg(samples: &Samples) -> String {
    let both = samples
        .measures
        .iter()
        .filter_map(|m| Some((m, m.ratio()?)));
    let rows: Vec<(&Measure, f64)> = both.collect();
    let width = LABELS + SCALE + MARGIN;
    let bottom = rows.iter().fold(TOP, |height, _| height + LINE);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"18\" font-size=\"14\">Tandem over native replication: median, and \
         range of the rounds (green: better)</text>\n",
        bottom + 14.0
    );
    for (ratio, label) in TICKS {
        let x = place(*ratio);
        let colour = if *label == "1" { "#333" } else { "#ddd" };
        text.push_str(&format!(
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\n\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>\n",
            TOP - 8.0
        ));
    }
    let mut y = TOP;
    for (measure, ratio) in rows {
        y += LINE;
        text.push_str(&row(measure, ratio, y - LINE / 2.0));
    }
    text + "</svg>\n"
}

/// One measure: its name, the range of its rounds and its median.
fn row(measure: &Measure, ratio: f64, y: f64) -> String {
    let better = if measure.less_is_better() {
        ratio <= 1.0
    } else {
        ratio >= 1.0
    };
    let colour = if better { "#2a8a4a" } else { "#c0504d" };
    let rounds = measure.ratios();
    let least = rounds.iter().copied().fold(ratio, f64::min);
    let most = rounds.iter().copied().fold(ratio, f64::max);
    let (from, to, x) = (place(least), place(most), place(ratio));
    format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
         <line x1=\"{from:.1}\" y1=\"{y:.1}\" x2=\"{to:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" \
         stroke-width=\"3\"/>\n<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\"/>\n",
        LABELS - 14.0,
        y + 4.0,
        escaped(&measure.title),
    )
}

/// Where a ratio stands on the scale.
fn place(ratio: f64) -> f64 {
    let inside = ratio.clamp(LEAST, MOST);
    LABELS + SCALE * (inside / LEAST).log2() / (MOST / LEAST).log2()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

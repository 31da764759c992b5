//! Every gap of a run as a dot on a logarithmic axis, one line for each event and variant or rival. Pure.
//! Colours follow the reader's light or dark mode; there is no script and no font in it.

use std::fmt::Write as _;

use super::record::{Record, Row};
use super::report::number;
use super::strike::Event;

const WIDTH: f64 = 860.0;
const NAMES: f64 = 270.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 60.0;
const ROW: f64 = 26.0;
/// The axis: 0.1 ms to 100 s.
const LEAST: f64 = 0.1;
const DECADES: f64 = 6.0;

const STYLE: &str = "<style>\
    svg{font:13px system-ui,sans-serif;color-scheme:light dark}\
    .page{fill:#fff}text{fill:#1f2328}.quiet{fill:#59636e}\
    .own{fill:#0969da;fill-opacity:.5}.rival{fill:#8c959f;fill-opacity:.6}\
    .middle{stroke:#1f2328;stroke-width:2}.axis{stroke:#d1d9e0}\
    @media(prefers-color-scheme:dark){\
    .page{fill:#0d1117}text{fill:#f0f6fc}.quiet{fill:#9198a1}\
    .own{fill:#4493f8}.rival{fill:#656c76}.middle{stroke:#f0f6fc}.axis{stroke:#3d444d}}</style>";

/// None if no row has a gap.
pub(crate) fn svg(record: &Record) -> Option<String> {
    let rows: Vec<&Row> = record
        .rows
        .iter()
        .filter(|row| row.event != Event::Bystander && !row.trials.is_empty())
        .collect();
    let count = u32::try_from(rows.len()).ok().filter(|&count| count > 0)?;
    let height = TOP + ROW * f64::from(count) + 16.0;
    let title = "How long a stream stands still: every trial, the median as a stroke";
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\
         <title>{title}</title>{STYLE}<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\
         <text x=\"10\" y=\"24\" font-weight=\"600\">{title}</text>\n"
    );
    for (exponent, label) in
        (-1..).zip(["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "never"])
    {
        let x = at(10_f64.powi(exponent));
        let _ = writeln!(
            text,
            "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text class=\"quiet\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            height - 12.0,
            TOP - 8.0
        );
    }
    for (index, row) in (0_u32..).zip(rows) {
        text += &line(row, TOP + ROW * (f64::from(index) + 0.5));
    }
    text += "</svg>\n";
    Some(text)
}

fn line(row: &Row, y: f64) -> String {
    let own = ["channels", "protect", "everything"].contains(&row.who.as_str());
    let class = if own { "own" } else { "rival" };
    let mut text = format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} <tspan class=\"quiet\">{}</tspan></text>",
        NAMES - 12.0,
        y + 4.5,
        row.who,
        row.event.words()
    );
    for trial in &row.trials {
        let x = at(trial.flow.gap_ms.unwrap_or(f64::INFINITY));
        let _ = write!(text, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
    }
    if let Some(middle) = row.gap(0.5) {
        let x = at(middle);
        let _ = write!(
            text,
            "<line class=\"middle\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            y - 9.0,
            y + 9.0,
            WIDTH - RIGHT + 16.0,
            y + 4.5,
            number(middle)
        );
    }
    text + "\n"
}

/// Where a gap in ms stands on the axis.
fn at(gap: f64) -> f64 {
    let decades = (gap.max(LEAST) / LEAST).log10().min(DECADES);
    NAMES + decades / DECADES * (WIDTH - NAMES - RIGHT)
}

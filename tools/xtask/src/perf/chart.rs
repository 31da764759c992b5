//! A bar chart as SVG: one bar for each candidate, its 95 % interval as a whisker, every round as a dot.
//! Pure. Colours follow the reader's light or dark mode; there is no script and no font in it.

use std::fmt::Write as _;

use super::metric::Metric;
use super::record::ScenarioRecord;
use super::report::number;
use super::statistics::Summary;

const WIDTH: f64 = 760.0;
const NAMES: f64 = 110.0;
const VALUES: f64 = 170.0;
const TOP: f64 = 44.0;
const ROW: f64 = 30.0;
const BAR: f64 = 16.0;

/// Light by default; the second block is for dark pages.
const STYLE: &str = "<style>\
    svg{font:13px system-ui,sans-serif;color-scheme:light dark}\
    .page{fill:#fff}text{fill:#1f2328}.quiet{fill:#59636e}\
    .bar{fill:#8c959f}.own{fill:#0969da}.whisker{stroke:#1f2328;stroke-width:1.5}\
    .round{fill:#1f2328;fill-opacity:.35}.axis{stroke:#d1d9e0}\
    @media(prefers-color-scheme:dark){\
    .page{fill:#0d1117}text{fill:#f0f6fc}.quiet{fill:#9198a1}\
    .bar{fill:#656c76}.own{fill:#4493f8}.whisker{stroke:#f0f6fc}\
    .round{fill:#f0f6fc}.axis{stroke:#3d444d}}</style>";

/// None if no candidate has the metric.
pub(crate) fn svg(scenario: &ScenarioRecord, metric: Metric) -> Option<String> {
    let names = scenario.candidates.iter().map(|candidate| candidate.name.as_str());
    let rows: Vec<(&str, Summary, Vec<f64>)> = names
        .filter_map(|name| {
            let rounds = metric.rounds(scenario, name).into_iter().map(|(_, value)| value);
            Some((name, metric.summary(scenario, name)?, rounds.collect()))
        })
        .collect();
    let values = rows.iter().flat_map(|(_, summary, rounds)| rounds.iter().chain([&summary.high]));
    let most = values.copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let scale = (WIDTH - NAMES - VALUES) / most;
    let count = u32::try_from(rows.len()).ok()?;
    let height = TOP + ROW * f64::from(count) + 12.0;
    let title = escape(&format!("{}: {}", scenario.name, metric.title()));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\
         <title>{title}</title>{STYLE}<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\
         <text x=\"10\" y=\"24\" font-weight=\"600\">{title}</text>\n\
         <line class=\"axis\" x1=\"{NAMES}\" x2=\"{NAMES}\" y1=\"{TOP}\" y2=\"{}\"/>\n",
        height - 12.0
    );
    for (index, (name, summary, rounds)) in (0_u32..).zip(&rows) {
        text += &row(name, summary, rounds, TOP + ROW * f64::from(index), scale);
    }
    text += "</svg>\n";
    Some(text)
}

fn row(name: &str, summary: &Summary, rounds: &[f64], top: f64, scale: f64) -> String {
    let (middle, class) = (top + ROW / 2.0, if is_ours(name) { "own" } else { "bar" });
    let at = |value: f64| NAMES + value * scale;
    let mut text = String::new();
    let _ = write!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <rect class=\"{class}\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>",
        NAMES - 8.0,
        middle + 4.5,
        escape(name),
        middle - BAR / 2.0,
        summary.median * scale
    );
    for round in rounds {
        let x = at(*round);
        let _ = write!(text, "<circle class=\"round\" cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"2\"/>");
    }
    let (low, high) = (at(summary.low), at(summary.high));
    for (x1, x2, y1, y2) in [
        (low, high, middle, middle),
        (low, low, middle - 4.0, middle + 4.0),
        (high, high, middle - 4.0, middle + 4.0),
    ] {
        let _ = write!(
            text,
            "<line class=\"whisker\" x1=\"{x1:.1}\" x2=\"{x2:.1}\" y1=\"{y1:.1}\" y2=\"{y2:.1}\"/>"
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\">{} <tspan class=\"quiet\">[{}, {}]</tspan></text>",
        WIDTH - VALUES + 12.0,
        middle + 4.5,
        number(summary.median),
        number(summary.low),
        number(summary.high)
    );
    text
}

/// The daemon's own back ends stand out, also those of a named revision.
fn is_ours(name: &str) -> bool {
    let kind = name.split('@').next().unwrap_or(name);
    ["uring", "mmsg", "overlay-uring", "overlay-mmsg"].contains(&kind)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

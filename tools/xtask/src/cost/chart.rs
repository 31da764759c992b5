//! Messages and hops by the number of peers, both logarithmic, a line for each event, as SVG. Pure.
//! Colours follow the reader's light or dark mode; there is no script and no font in it.

use std::fmt::Write as _;

use super::{Row, Size};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const PANEL: f64 = 330.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 290.0;

const STYLE: &str = "<style>\
    svg{font:13px system-ui,sans-serif;color-scheme:light dark}\
    .page{fill:#fff}text{fill:#1f2328}.quiet{fill:#59636e}.axis{stroke:#d1d9e0}\
    polyline{fill:none;stroke-width:2}\
    .l0{stroke:#0969da}.l1{stroke:#bc4c00}.l2{stroke:#1a7f37}\
    .d0{fill:#0969da}.d1{fill:#bc4c00}.d2{fill:#1a7f37}\
    @media(prefers-color-scheme:dark){\
    .page{fill:#0d1117}text{fill:#f0f6fc}.quiet{fill:#9198a1}.axis{stroke:#3d444d}\
    .l0{stroke:#4493f8}.l1{stroke:#f0883e}.l2{stroke:#3fb950}\
    .d0{fill:#4493f8}.d1{fill:#f0883e}.d2{fill:#3fb950}}</style>";

pub(super) fn svg(sizes: &[Size]) -> String {
    let title = "What a tree costs, by the number of peers";
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\
         <title>{title}</title>{STYLE}<rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n"
    );
    text += &panel(sizes, 0.0, "messages", |row| row.messages);
    text += &panel(sizes, WIDTH / 2.0, "hops until everybody has it", |row| row.hops);
    let events = sizes.first().map(|size| size.events.as_slice()).unwrap_or_default();
    for (at, row) in (0_u32..).zip(events) {
        let x = LEFT + 150.0 * f64::from(at);
        let y = HEIGHT - 12.0;
        let _ = writeln!(
            text,
            "<circle class=\"d{at}\" cx=\"{x}\" cy=\"{:.1}\" r=\"4\"/>\
             <text x=\"{:.1}\" y=\"{y}\">{}</text>",
            y - 4.5,
            x + 10.0,
            row.event
        );
    }
    text + "</svg>\n"
}

fn panel(sizes: &[Size], left: f64, title: &str, value: fn(&Row) -> f64) -> String {
    let left = left + LEFT;
    let width = PANEL;
    let x = Axis::over(sizes.iter().map(|size| size.peers as f64), left, left + width);
    let values = sizes.iter().flat_map(|size| size.events.iter().map(value));
    let y = Axis::over(values, BOTTOM, TOP);
    let mut text = format!("<text x=\"{left}\" y=\"32\" font-weight=\"600\">{title}</text>\n");
    for (label, at) in x.ticks() {
        let _ = writeln!(
            text,
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
             <text class=\"quiet\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            BOTTOM + 18.0
        );
    }
    for (label, at) in y.ticks() {
        let _ = writeln!(
            text,
            "<line class=\"axis\" x1=\"{left:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"quiet\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            left + width,
            left - 6.0,
            at + 4.5
        );
    }
    let events = sizes.first().map_or(0, |size| size.events.len());
    for event in 0..events {
        let points: Vec<(f64, f64)> = sizes
            .iter()
            .map(|size| (x.at(size.peers as f64), y.at(value(&size.events[event]))))
            .collect();
        let line: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(text, "<polyline class=\"l{event}\" points=\"{}\"/>", line.join(" "));
        for (x, y) in points {
            let _ =
                write!(text, "<circle class=\"d{event}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
        }
        text.push('\n');
    }
    text
}

/// Whole decades between two places of the page.
struct Axis {
    decades: (i32, i32),
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let logs = values.map(|value| value.max(1.0).log10());
        let (least, most) =
            logs.fold((f64::MAX, 0.0_f64), |(least, most), log| (least.min(log), most.max(log)));
        #[expect(clippy::cast_possible_truncation, reason = "a few decades")]
        let (first, last) = (least.floor() as i32, most.ceil() as i32);
        Self { decades: (first, last.max(first + 1)), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let (first, last) = (f64::from(self.decades.0), f64::from(self.decades.1));
        let share = (value.max(1.0).log10() - first) / (last - first);
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = (String, f64)> {
        (self.decades.0..=self.decades.1).map(|decade| {
            let value = 10_f64.powi(decade);
            let label = match decade {
                6.. => format!("{} M", value / 1e6),
                3.. => format!("{} k", value / 1e3),
                _ => value.to_string(),
            };
            (label, self.at(value))
        })
    }
}

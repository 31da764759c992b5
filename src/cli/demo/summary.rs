//! How the demo went: for people in plain words, for programs as JSON, and whether it is good enough.

use std::time::Duration;

use serde_json::{Value, json};

use super::latency::HopLatency;
use crate::cli::open::{millis as whole_millis, path_text};
use crate::cli::recv::Report;
use crate::cli::reorder::{ranges_count, ranges_text};
use crate::cli::screen::Style;
use crate::cli::send::{Sent, about};
use crate::cli::table::wrap;
use crate::cli::values::millis;
use crate::types::{Bandwidth, PeerName};

/// A stream may stand still this long when a relay dies.
pub(super) const GAP_MAX: Duration = Duration::from_secs(1);

/// Who was killed, and when after the start of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kill {
    pub(super) peer: PeerName,
    pub(super) at: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Summary {
    pub(super) bandwidth: Bandwidth,
    pub(super) sent: Sent,
    pub(super) report: Report,
    pub(super) path_before: Vec<PeerName>,
    pub(super) path_after: Vec<PeerName>,
    pub(super) kill: Option<Kill>,
    /// The longest pause between frames around the kill.
    pub(super) gap: Option<Duration>,
    /// Lost frames that the kill does not explain.
    pub(super) lost_outside: u64,
    pub(super) corrupt: u64,
    pub(super) hops: Vec<HopLatency>,
}

impl Summary {
    /// What is not as it has to be.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(why) = &self.report.closed {
            problems.push(format!("the channel was closed before the stream ended: {why}"));
        }
        if let Some(gap) = self.gap.filter(|&gap| gap > GAP_MAX) {
            let (gap, max) = (gap.as_millis(), GAP_MAX.as_millis());
            problems.push(format!("the gap was {gap} ms, more than {max} ms"));
        }
        if self.lost_outside > 0 {
            let when = if self.kill.is_some() { " outside the gap" } else { "" };
            problems.push(format!("{} frames were lost{when}", self.lost_outside));
        }
        if self.corrupt > 0 {
            problems.push(format!("{} payloads were not what was sent", self.corrupt));
        }
        problems
    }

    pub(super) fn text(&self, style: Style) -> Vec<String> {
        let lost = self.lost();
        let mut lines = vec![style.bold("Summary")];
        let mut row = |title: &str, text: String| lines.push(format!("  {title:<12}{text}"));
        row(
            "sent",
            format!(
                "{} frames, {:.1} MB in {:.1} s, {} of payload",
                self.sent.frames,
                self.sent.bytes as f64 / 1e6,
                self.sent.elapsed.as_secs_f64(),
                about(self.sent.rate())
            ),
        );
        row("arrived", format!("{} frames", self.report.arrived));
        if let (Some(kill), Some(gap)) = (&self.kill, self.gap) {
            row("killed", format!("{} after {:.1} s", kill.peer, kill.at.as_secs_f64()));
            row(
                "gap",
                format!("{} ms (at most {} are allowed)", gap.as_millis(), GAP_MAX.as_millis()),
            );
        }
        row("lost", self.lost_text(lost));
        row("path", path_text(&self.path_before, 14));
        if self.path_after != self.path_before {
            row("then", path_text(&self.path_after, 14));
        }
        for hop in &self.hops {
            let [p50, p99, p999] = hop.us.map(millis);
            let text = format!("p50 {p50}, p99 {p99}, p99.9 {p999} ms from entry to {}", hop.peer);
            row("latency", text);
        }
        lines.push(String::new());
        lines.extend(self.words(lost, style));
        lines
    }

    pub(super) fn json(&self) -> Value {
        let hops: Vec<Value> = self
            .hops
            .iter()
            .map(|hop| {
                let [p50, p99, p999] = hop.us;
                json!({
                    "peer": hop.peer, "frames": hop.frames,
                    "p50_us": p50, "p99_us": p99, "p999_us": p999,
                })
            })
            .collect();
        json!({
            "ok": self.problems().is_empty(),
            "problems": self.problems(),
            "bandwidth_bps": self.bandwidth,
            "sent_frames": self.sent.frames,
            "sent_bytes": self.sent.bytes,
            "elapsed_ms": whole_millis(self.sent.elapsed),
            "payload_bps": self.sent.rate(),
            "arrived_frames": self.report.arrived,
            "lost_frames": self.lost(),
            "lost_outside_gap_frames": self.lost_outside,
            "corrupt_payloads": self.corrupt,
            "killed": self.kill.as_ref().map(|kill| &kill.peer),
            "killed_at_ms": self.kill.as_ref().map(|kill| whole_millis(kill.at)),
            "gap_ms": self.gap.map(whole_millis),
            "path_before": self.path_before,
            "path_after": self.path_after,
            "latency": hops,
        })
    }

    fn lost(&self) -> u64 {
        ranges_count(&self.report.missing)
    }

    fn lost_text(&self, lost: u64) -> String {
        /// More ranges than this say nothing to a person.
        const RANGES_SHOWN: usize = 6;
        match (lost, &self.kill) {
            (0, _) => "nothing".to_owned(),
            (lost, Some(_)) if self.lost_outside == 0 => {
                format!("{lost} frames, all between the kill and the end of the gap")
            }
            (lost, kill) => {
                let shown = &self.report.missing[..self.report.missing.len().min(RANGES_SHOWN)];
                let more = if self.report.missing.len() > RANGES_SHOWN { ", ..." } else { "" };
                let outside = match kill {
                    Some(_) => format!(", {} of them outside the gap", self.lost_outside),
                    None => String::new(),
                };
                format!("{lost} frames{outside}: {}{more}", ranges_text(shown))
            }
        }
    }

    fn words(&self, lost: u64, style: Style) -> Vec<String> {
        let problems = self.problems();
        if !problems.is_empty() {
            let line = |problem: &String| format!("{} {problem}", style.red("Not good:"));
            return problems.iter().map(line).collect();
        }
        let Some((kill, gap)) = self.kill.as_ref().zip(self.gap) else {
            return vec![format!("{} Every frame arrived, in order.", style.green("Good."))];
        };
        let fate = if lost == 0 { "and nothing was lost." } else { "and nothing else was lost." };
        let text = format!(
            "{} died without a word. Its neighbours noticed, {} reserved another path, and after \
             {} ms the stream went on by itself over {} {fate}",
            kill.peer,
            self.path_before.first().map_or("its source", PeerName::as_str),
            gap.as_millis(),
            relays(&self.path_after)
        );
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        vec![format!("{} {}", style.green("Good."), wrap(&words, " ", 6))]
    }
}

/// Who is between the ends.
fn relays(path: &[PeerName]) -> String {
    match path {
        [_, between @ .., _] if !between.is_empty() => {
            let names: Vec<String> = between.iter().map(ToString::to_string).collect();
            names.join(", ")
        }
        _ => "the direct link".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let names = |text: &str| {
            text.split(' ').map(|name| PeerName::new(name).expect("a name")).collect::<Vec<_>>()
        };
        Summary {
            bandwidth: Bandwidth::from_bps(20_000_000),
            sent: Sent { frames: 1_000, bytes: 1_316_000, elapsed: Duration::from_secs(1) },
            report: Report {
                frames: 1_000,
                arrived: 900,
                missing: vec![500..=599],
                overflowed: 0,
                closed: None,
            },
            path_before: names("a b c d"),
            path_after: names("a e d"),
            kill: Some(Kill { peer: names("c")[0].clone(), at: Duration::from_millis(500) }),
            gap: Some(Duration::from_millis(100)),
            lost_outside: 0,
            corrupt: 0,
            hops: Vec::new(),
        }
    }

    fn text(summary: &Summary) -> String {
        summary.text(Style { colour: false, wide: false }).join("\n")
    }

    #[test]
    fn a17_losses_inside_the_gap_are_good_and_said() {
        let summary = summary();
        assert_eq!(summary.problems(), [""; 0]);
        let text = text(&summary);
        assert!(text.contains("100 frames, all between the kill and the end of the gap"), "{text}");
        assert!(text.contains("over e"), "{text}");
    }

    #[test]
    fn a_long_gap_or_a_loss_outside_it_is_not_good() {
        let long = Summary { gap: Some(Duration::from_millis(1_001)), ..summary() };
        assert!(text(&long).contains("the gap was 1001 ms"));
        let outside = Summary { lost_outside: 3, ..summary() };
        assert!(text(&outside).contains("3 frames were lost outside the gap"));
        let quiet = Summary { kill: None, gap: None, lost_outside: 100, ..summary() };
        assert!(text(&quiet).contains("100 frames were lost"));
        assert_eq!(quiet.json()["ok"], json!(false));
    }

    #[test]
    fn every_line_fits_eighty_columns() {
        for line in text(&summary()).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

//! The tables of a record: ratios of the modest channel's latency within each round. Pure.

use std::fmt::Write as _;

use super::{Case, Record, Trial, Wire};
use crate::perf::statistics::{Summary, ratios, summarize};

/// At most so many times the latency alone (part 4 of the plan).
const P50_GOAL: f64 = 1.1;
const P99_GOAL: f64 = 1.5;

pub(super) fn markdown(record: &Record) -> String {
    let mut text = String::from("# One channel beside another\n");
    let facts = &record.facts;
    let _ = write!(
        text,
        "\nCommit {}, {}, {} CPUs ({}), kernel {}. {} ms a case, links of {} Mbit/s.\n",
        facts.commit,
        facts.date,
        facts.cpus,
        facts.cpu,
        facts.kernel,
        record.milliseconds,
        record.capacity_mbps
    );
    for (wire, words) in [
        (Wire::Plain, "Wires as they are"),
        (Wire::Limited, "Wires that carry what their links promise and no more"),
    ] {
        let trials: Vec<&Trial> = record.trials.iter().filter(|trial| trial.wire == wire).collect();
        if !trials.is_empty() {
            let _ = write!(text, "\n## {words}\n\n{}", table(&trials));
        }
    }
    text
}

fn table(trials: &[&Trial]) -> String {
    let mut text = String::from(
        "| the modest channel | rounds | sent | lost | p50, us | to alone | p99, us | to alone | \
         the other: entered, policed, arrived |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | \
         ---: | --- |\n",
    );
    for case in Case::ALL {
        let of: Vec<&&Trial> = trials.iter().filter(|trial| trial.case == case).collect();
        let sum = |count: fn(&Trial) -> u64| of.iter().map(|trial| count(trial)).sum::<u64>();
        let (p50, p99) =
            (Column::of(trials, case, |t| t.p50_us), Column::of(trials, case, |t| t.p99_us));
        let other = |count: fn(&super::Other) -> u64| -> u64 {
            of.iter().filter_map(|trial| trial.other.as_ref()).map(count).sum()
        };
        let other = match case {
            Case::Alone => "-".to_owned(),
            Case::Fair | Case::Greedy | Case::Shaped => format!(
                "{}, {}, {}",
                other(|other| other.entered),
                other(|other| other.policed),
                other(|other| other.arrived)
            ),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {other} |",
            case.words(),
            of.len(),
            sum(|trial| trial.sent),
            sum(|trial| trial.lost),
            p50.cells(case, P50_GOAL),
            p99.cells(case, P99_GOAL)
        );
    }
    text
}

/// One quantile of one case, and its ratio to that alone.
struct Column {
    median: Option<f64>,
    ratio: Option<Summary>,
}

impl Column {
    fn of(trials: &[&Trial], case: Case, value: fn(&Trial) -> f64) -> Self {
        let of = |case| -> Vec<(u32, f64)> {
            let of = trials.iter().filter(|trial| trial.case == case);
            of.map(|trial| (trial.round, value(trial))).collect()
        };
        let (own, alone) = (of(case), of(Case::Alone));
        let values: Vec<f64> = own.iter().map(|&(_, value)| value).collect();
        let median = summarize(&values).map(|summary| summary.median);
        Self { median, ratio: summarize(&ratios(&own, &alone)) }
    }

    fn cells(&self, case: Case, goal: f64) -> String {
        let median = self.median.map_or_else(|| "-".to_owned(), |us| format!("{us:.0}"));
        let ratio = match (case, self.ratio) {
            (Case::Alone, _) | (_, None) => "-".to_owned(),
            (_, Some(Summary { median, low, high, .. })) => {
                let met = match () {
                    () if median <= goal => "met",
                    () if low <= goal => "within the interval",
                    () => "missed",
                };
                format!("{median:.2} [{low:.2}, {high:.2}], <= {goal}: {met}")
            }
        };
        format!("{median} | {ratio}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(round: u32, case: Case, p50_us: f64) -> Trial {
        let (sent, lost, reordered, p99_us) = (1_000, 0, 0, 2.0 * p50_us);
        let wire = Wire::Plain;
        Trial { wire, round, case, sent, lost, reordered, p50_us, p99_us, other: None }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round is twice as slow for both.
        let trials = [
            trial(0, Case::Alone, 100.0),
            trial(0, Case::Greedy, 105.0),
            trial(1, Case::Alone, 200.0),
            trial(1, Case::Greedy, 210.0),
        ];
        let column = Column::of(&trials.each_ref(), Case::Greedy, |trial| trial.p50_us);
        assert_eq!(column.cells(Case::Greedy, P50_GOAL), "158 | 1.05 [1.05, 1.05], <= 1.1: met");
        assert!(column.cells(Case::Greedy, 1.0).ends_with("missed"));
        let column = Column::of(&trials.each_ref(), Case::Shaped, |trial| trial.p50_us);
        assert_eq!(column.cells(Case::Shaped, P50_GOAL), "- | -");
    }
}

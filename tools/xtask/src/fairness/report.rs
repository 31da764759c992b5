//! The tables of a record: ratios of the modest channel's latency within each round. Pure.

use std::fmt::Write as _;

use spanway::types::Bandwidth;

use super::{Case, Other, Record, Trial, Wire};
use crate::perf::statistics::{Summary, ratios, summarize};

/// At most so many times the latency alone (part 4 of the plan).
const P50_GOAL: f64 = 1.1;
const P99_GOAL: f64 = 1.5;

pub(super) fn markdown(record: &Record) -> String {
    let mut text = String::from("# One channel beside another\n");
    let _ = write!(
        text,
        "\n{} {} ms a case, links of {} Mbit/s, the \
         other channel has {}.\n",
        record.facts.sentence(),
        record.milliseconds,
        record.capacity_mbps,
        Bandwidth::from_bps(record.share_bps)
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
        "| the modest channel | rounds | lost of | p50, us | to alone | to fair | p99, us | to alone | \
         to fair | the other: entered, policed, arrived |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for case in Case::ALL {
        let of: Vec<&&Trial> = trials.iter().filter(|trial| trial.case == case).collect();
        let sum = |count: fn(&Trial) -> u64| of.iter().map(|trial| count(trial)).sum::<u64>();
        let _ = writeln!(
            text,
            "| {} | {} | {} of {} | {} | {} | {} |",
            case.words(),
            of.len(),
            sum(|trial| trial.lost),
            sum(|trial| trial.sent),
            cells(trials, case, |trial| trial.p50_us, P50_GOAL),
            cells(trials, case, |trial| trial.p99_us, P99_GOAL),
            others(&of)
        );
    }
    text
}

/// What became of the frames of the other channel.
fn others(trials: &[&&Trial]) -> String {
    let others: Vec<&Other> = trials.iter().filter_map(|trial| trial.other.as_ref()).collect();
    let sum = |count: fn(&Other) -> u64| others.iter().map(|other| count(other)).sum::<u64>();
    if others.is_empty() {
        return "-".to_owned();
    }
    let (entered, policed) = (sum(|other| other.entered), sum(|other| other.policed));
    format!("{entered}, {policed}, {}", sum(|other| other.arrived))
}

/// One quantile of one case, and its ratios to that alone and beside one that keeps to its share.
fn cells(trials: &[&Trial], case: Case, value: fn(&Trial) -> f64, goal: f64) -> String {
    let of = |case| -> Vec<(u32, f64)> {
        let of = trials.iter().filter(|trial| trial.case == case);
        of.map(|trial| (trial.round, value(trial))).collect()
    };
    let own = of(case);
    let values: Vec<f64> = own.iter().map(|&(_, value)| value).collect();
    let ratio = |to| if to == case { None } else { summarize(&ratios(&own, &of(to))) };
    let median = summarize(&values).map_or_else(dash, |summary| format!("{:.0}", summary.median));
    let alone = ratio(Case::Alone).map_or_else(dash, |ratio| judged(ratio, goal));
    let fair = match case {
        Case::Alone => None,
        Case::Fair | Case::Greedy | Case::Shaped => ratio(Case::Fair),
    };
    format!("{median} | {alone} | {}", fair.map_or_else(dash, in_words))
}

fn judged(ratio: Summary, goal: f64) -> String {
    let met = match () {
        () if ratio.median <= goal => "met",
        () if ratio.low <= goal => "within the interval",
        () => "missed",
    };
    format!("{}, <= {goal}: {met}", in_words(ratio))
}

fn in_words(Summary { median, low, high, .. }: Summary) -> String {
    format!("{median:.2} [{low:.2}, {high:.2}]")
}

fn dash() -> String {
    "-".to_owned()
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
        let trials = trials.each_ref();
        let cells = |case, goal| cells(&trials, case, |trial| trial.p50_us, goal);
        assert_eq!(cells(Case::Greedy, P50_GOAL), "158 | 1.05 [1.05, 1.05], <= 1.1: met | -");
        assert!(cells(Case::Greedy, 1.0).contains("<= 1: missed"));
        assert_eq!(cells(Case::Alone, P50_GOAL), "150 | - | -");
        assert_eq!(cells(Case::Shaped, P50_GOAL), "- | - | -");
    }
}

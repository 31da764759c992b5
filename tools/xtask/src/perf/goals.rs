//! The goals of the engine as a table, and what a record says of each. Pure.
//!
//! A goal is a ratio between two candidates within the rounds of one run, or a plain number. It is
//! met if the median reaches it; "within the interval" if only the 95 % interval does.

use super::metric::Metric;
use super::record::Record;
use super::statistics::Summary;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) id: &'static str,
    scenario: &'static str,
    candidate: &'static str,
    metric: Metric,
    against: Against,
    bound: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Against {
    /// The ratio to this candidate of the same rounds.
    Candidate(&'static str),
    /// The number itself.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    /// The median misses it, the interval does not.
    WithinInterval,
    Missed,
    NotMeasured,
}

/// What a record says of a goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judgement {
    pub(crate) goal: &'static Goal,
    pub(crate) summary: Option<Summary>,
    pub(crate) verdict: Verdict,
}

use Against::{Candidate, Nothing};
use Bound::{AtLeast, AtMost};
use Metric::{BlastBits, BlastCpu, BlastRate, FixedCpu, HalfP50, HalfP99, HighestRate};

/// In the order of the table in README. Goals that another tool measures (criterion, the daemon's
/// tests) are not here: `perf/README.md` says where they are. P6 and P7 are of delivered frames: the
/// ring between two veth holds 256 frames, and the thread that empties it waits for the relay, so that
/// a rate without loss says more about the scheduler than about either.
#[rustfmt::skip]
pub(crate) const GOALS: &[Goal] = &[
    goal("P1", "nic", "uring", HighestRate, Candidate("nginx"), AtLeast(6.0)),
    goal("P2", "rivals", "uring", HighestRate, Candidate("quilkin"), AtLeast(10.0)),
    goal("P3", "nic", "uring", HighestRate, Candidate("plain"), AtLeast(4.0)),
    goal("P4", "nic", "uring", HighestRate, Candidate("yardstick"), AtLeast(0.95)),
    goal("P5", "nic", "mmsg", HighestRate, Candidate("yardstick"), AtLeast(1.0)),
    goal("P6", "napi", "uring", BlastRate, Candidate("kernel"), AtLeast(0.7)),
    goal("P7", "napi", "uring", BlastRate, Candidate("kernel"), AtLeast(0.9)),
    goal("P8", "overlay", "overlay-uring", HighestRate, Candidate("yardstick"), AtLeast(0.85)),
    goal("P9", "nic", "uring", FixedCpu, Candidate("nginx"), AtMost(0.2)),
    goal("P10", "nic", "uring", FixedCpu, Candidate("yardstick"), AtMost(1.15)),
    goal("P11", "lo", "uring", BlastRate, Nothing, AtLeast(2e6)),
    goal("P12", "lo", "uring", BlastCpu, Nothing, AtMost(400.0)),
    goal("P13", "one", "uring", FixedCpu, Candidate("plain"), AtMost(0.85)),
    goal("P14", "nic-1200", "uring", BlastBits, Nothing, AtLeast(5.0)),
    goal("P15", "nic-8900", "uring", BlastBits, Nothing, AtLeast(14.0)),
    goal("P16", "nic", "uring", HalfP50, Candidate("yardstick"), AtMost(1.1)),
    goal("P17", "nic", "uring", HalfP99, Candidate("yardstick"), AtMost(1.5)),
];

/// Every goal against what was measured, in the order of the table.
pub(crate) fn judge(record: &Record) -> Vec<Judgement> {
    GOALS.iter().map(|goal| goal.judge(record)).collect()
}

const fn goal(
    id: &'static str,
    scenario: &'static str,
    candidate: &'static str,
    metric: Metric,
    against: Against,
    bound: Bound,
) -> Goal {
    Goal { id, scenario, candidate, metric, against, bound }
}

impl Goal {
    pub(crate) fn sentence(&self) -> String {
        let (Self { scenario, candidate, .. }, metric) = (self, self.metric.title());
        let against = match self.against {
            Candidate(other) => format!(" / {other}"),
            Nothing => String::new(),
        };
        format!("`{scenario}`: {metric}: {candidate}{against}")
    }

    pub(crate) fn bound(&self) -> String {
        let unit = if matches!(self.against, Candidate(_)) { "x" } else { "" };
        match self.bound {
            AtLeast(bound) => format!(">= {bound}{unit}"),
            AtMost(bound) => format!("<= {bound}{unit}"),
        }
    }

    fn judge(&'static self, record: &Record) -> Judgement {
        let scenario = record.scenarios.iter().find(|scenario| scenario.name == self.scenario);
        let summary = scenario.and_then(|scenario| match self.against {
            Candidate(other) => self.metric.ratio(scenario, self.candidate, other),
            Nothing => self.metric.summary(scenario, self.candidate),
        });
        let verdict = summary.map_or(Verdict::NotMeasured, |summary| self.bound.verdict(&summary));
        Judgement { goal: self, summary, verdict }
    }
}

impl Bound {
    fn verdict(self, summary: &Summary) -> Verdict {
        let (met, within) = match self {
            AtLeast(bound) => (summary.median >= bound, summary.high >= bound),
            AtMost(bound) => (summary.median <= bound, summary.low <= bound),
        };
        match (met, within) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::WithinInterval,
            (false, false) => Verdict::Missed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(low: f64, median: f64, high: f64) -> Summary {
        Summary { rounds: 15, median, low, high, quartiles: [low, high] }
    }

    #[test]
    fn a_goal_is_met_by_the_median_and_reached_by_the_interval() {
        let six = AtLeast(6.0);
        assert_eq!(six.verdict(&summary(5.0, 6.0, 7.0)), Verdict::Met);
        assert_eq!(six.verdict(&summary(5.0, 5.9, 6.1)), Verdict::WithinInterval);
        assert_eq!(six.verdict(&summary(5.0, 5.5, 5.9)), Verdict::Missed);
        let fifth = AtMost(0.2);
        assert_eq!(fifth.verdict(&summary(0.1, 0.2, 0.3)), Verdict::Met);
        assert_eq!(fifth.verdict(&summary(0.19, 0.21, 0.3)), Verdict::WithinInterval);
        assert_eq!(fifth.verdict(&summary(0.21, 0.25, 0.3)), Verdict::Missed);
    }

    #[test]
    fn every_goal_has_an_id_of_its_own_and_a_scenario_that_exists() {
        for (index, goal) in GOALS.iter().enumerate() {
            assert_eq!(goal.id, format!("P{}", index + 1));
            let known = super::super::plan::SCENARIOS.iter();
            assert!(known.into_iter().any(|known| known.name == goal.scenario), "{}", goal.id);
        }
    }
}

//! The numbers that are compared, each taken out of a trial. Pure.

use super::record::{ScenarioRecord, Trial};
use super::statistics::{Summary, ratios, summarize};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Frames per second with at most 0.1 % loss.
    HighestRate,
    /// The same without any loss.
    ZeroLossRate,
    /// CPU time for each frame at the fixed rate.
    FixedCpu,
    /// Delivered when the generator goes as fast as it can.
    BlastRate,
    BlastBits,
    BlastCpu,
    /// One way, at half of the highest rate.
    HalfP50,
    HalfP99,
    HalfP999,
}

impl Metric {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::HighestRate => "highest rate, loss <= 0.1 % (frames/s)",
            Self::ZeroLossRate => "highest rate, no loss (frames/s)",
            Self::FixedCpu => "CPU per frame at the fixed rate (ns)",
            Self::BlastRate => "delivered under blast (frames/s)",
            Self::BlastBits => "delivered under blast (Gbit/s of payload)",
            Self::BlastCpu => "CPU per frame under blast (ns)",
            Self::HalfP50 => "latency at half of the highest rate, p50 (us)",
            Self::HalfP99 => "latency at half of the highest rate, p99 (us)",
            Self::HalfP999 => "latency at half of the highest rate, p99.9 (us)",
        }
    }

    /// For names of files.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::HighestRate => "highest-rate",
            Self::ZeroLossRate => "zero-loss-rate",
            Self::FixedCpu => "fixed-cpu",
            Self::BlastRate => "blast-rate",
            Self::BlastBits => "blast-bits",
            Self::BlastCpu => "blast-cpu",
            Self::HalfP50 => "half-p50",
            Self::HalfP99 => "half-p99",
            Self::HalfP999 => "half-p999",
        }
    }

    /// None where this candidate cannot have it or this trial did not get that far.
    fn of(self, size: u32, trial: &Trial) -> Option<f64> {
        let half = trial.half.as_ref();
        match self {
            Self::HighestRate => Some(trial.highest.rate),
            Self::ZeroLossRate => Some(trial.highest.zero_loss_rate),
            Self::FixedCpu => trial.fixed.cpu_ns,
            Self::BlastRate => Some(trial.blast.delivered_rate),
            Self::BlastBits => Some(trial.blast.delivered_rate * f64::from(size) * 8.0 / 1e9),
            Self::BlastCpu => trial.blast.cpu_ns,
            Self::HalfP50 => half.map(|load| load.p50_us),
            Self::HalfP99 => half.map(|load| load.p99_us),
            Self::HalfP999 => half.map(|load| load.p999_us),
        }
    }

    /// Of one candidate in every round.
    pub(crate) fn rounds(self, scenario: &ScenarioRecord, candidate: &str) -> Vec<(u32, f64)> {
        let own = scenario.trials.iter().filter(|trial| trial.candidate == candidate);
        own.filter_map(|trial| Some((trial.round, self.of(scenario.size, trial)?))).collect()
    }

    pub(crate) fn summary(self, scenario: &ScenarioRecord, candidate: &str) -> Option<Summary> {
        let values: Vec<f64> =
            self.rounds(scenario, candidate).into_iter().map(|(_, value)| value).collect();
        summarize(&values)
    }

    /// Of one candidate over another, round by round.
    pub(crate) fn ratio(
        self,
        scenario: &ScenarioRecord,
        candidate: &str,
        other: &str,
    ) -> Option<Summary> {
        let (one, other) = (self.rounds(scenario, candidate), self.rounds(scenario, other));
        summarize(&ratios(&one, &other))
    }
}

//! Medians, spreads and bootstrap intervals. Pure: the same numbers give the same interval, because
//! the resampling has a seed of its own.
//!
//! Rounds are the unit: everything within a round shares the weather of the machine, so ratios are
//! taken within a round and their median is resampled over the rounds. Nothing is assumed about the
//! distribution; with few rounds the intervals are wide and too narrow at the same time (fewer than
//! about eight say little), which is why the number of rounds stands beside them.

use serde::{Deserialize, Serialize};

/// Resamples of one interval: the ends move by well under 1 % when this is doubled.
const RESAMPLES: usize = 4_000;
const SEED: u64 = 0x5eed_0f5b_a0a7_e57a;
/// Of the 95 % interval.
const TAIL: f64 = 0.025;

/// The middle of some rounds, how sure it is, and how much the rounds differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) rounds: usize,
    pub(crate) median: f64,
    /// 95 % bootstrap interval of the median.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// First and third quartile of the rounds themselves.
    pub(crate) quartiles: [f64; 2],
}

/// None without values.
pub(crate) fn summarize(values: &[f64]) -> Option<Summary> {
    let sorted = sort(values);
    let median = quantile(&sorted, 0.5)?;
    let mut random = Random(SEED);
    let mut medians: Vec<f64> =
        (0..RESAMPLES).filter_map(|_| quantile(&random.resample(&sorted), 0.5)).collect();
    medians.sort_by(f64::total_cmp);
    Some(Summary {
        rounds: sorted.len(),
        median,
        low: quantile(&medians, TAIL)?,
        high: quantile(&medians, 1.0 - TAIL)?,
        quartiles: [quantile(&sorted, 0.25)?, quantile(&sorted, 0.75)?],
    })
}

/// One over the other in every round that has both. A round where the other is 0 says nothing.
pub(crate) fn ratios(one: &[(u32, f64)], other: &[(u32, f64)]) -> Vec<f64> {
    let of_round = |round| other.iter().find(|&&(of, _)| of == round).map(|&(_, value)| value);
    let pairs = one.iter().filter_map(|&(round, value)| Some((value, of_round(round)?)));
    pairs.filter(|&(_, other)| other > 0.0).map(|(one, other)| one / other).collect()
}

/// Linear between the two nearest values.
fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_precision_loss, reason = "a handful of rounds")]
    let position = at * last as f64;
    let below = position.floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= at <= 1, so it is an index"
    )]
    let index = below as usize;
    let next = sorted[(index + 1).min(last)];
    Some(sorted[index] + (next - sorted[index]) * (position - below))
}

fn sort(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// SplitMix64: good enough to draw rounds, and small enough to stand here.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// As many as there are, drawn with replacement, sorted. The bias of the remainder is below 2^-58.
    fn resample(&mut self, values: &[f64]) -> Vec<f64> {
        let count = values.len() as u64;
        let draw = |_: &f64| {
            let index = usize::try_from(self.next() % count).unwrap_or(0);
            values[index]
        };
        let mut drawn: Vec<f64> = values.iter().map(draw).collect();
        drawn.sort_by(f64::total_cmp);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        let median = |values: &[f64]| summarize(values).map(|summary| summary.median);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[f64::NAN]), None, "what is no number is no round");
    }

    #[test]
    fn quartiles_are_those_of_the_rounds() {
        let summary = summarize(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!(summary.quartiles, [2.0, 4.0]);
        assert_eq!(summary.rounds, 5);
    }

    #[test]
    fn equal_rounds_leave_no_doubt() {
        let summary = summarize(&[7.0; 15]).unwrap();
        assert_eq!((summary.low, summary.median, summary.high), (7.0, 7.0, 7.0));
    }

    /// For the median the bootstrap is known in closed form: the end of the interval is the order
    /// statistic k with P(Binomial(15, k/15) >= 8) around 2.5 %: the 4th and the 12th of 15.
    #[test]
    fn the_interval_of_fifteen_different_rounds_is_the_one_of_the_binomial() {
        let values: Vec<f64> = (1..=15).map(f64::from).collect();
        let summary = summarize(&values).unwrap();
        assert_eq!((summary.low, summary.median, summary.high), (4.0, 8.0, 12.0));
    }

    #[test]
    fn the_order_of_the_rounds_changes_nothing() {
        let one = summarize(&[5.0, 1.0, 9.0, 2.0, 2.0]);
        let other = summarize(&[2.0, 9.0, 2.0, 5.0, 1.0]);
        assert_eq!(one, other);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let one = [(1, 6.0), (2, 10.0), (3, 9.0)];
        let other = [(2, 2.0), (1, 3.0), (4, 1.0), (3, 0.0)];
        assert_eq!(ratios(&one, &other), [2.0, 5.0]);
    }

    /// A machine that is twice as slow in half of the rounds changes both, and not their ratio.
    #[test]
    fn weather_that_both_share_is_not_in_the_ratio() {
        let weather = [1.0, 2.0, 1.0, 2.0, 1.0];
        let rounds = |factor: f64| (1..).zip(weather.map(|w| w * factor)).collect::<Vec<_>>();
        let summary = summarize(&ratios(&rounds(6.0), &rounds(2.0))).unwrap();
        assert_eq!((summary.low, summary.median, summary.high), (3.0, 3.0, 3.0));
    }
}

//! One-way latency in an HDR histogram, also where the clocks of the two ends differ.
//!
//! On one clock the histogram holds latencies. If the first one is negative or above a second the clocks
//! differ and only the *variation* means anything: how much longer a datagram took than the fastest. Then
//! the histogram counts from a base just below the fastest, so that its three digits are digits of the
//! variation even where the clocks are hours apart.
//!
//! Pure. Equal latencies in a row (a train sent with one stamp and received at once) cost one record.

use std::io::{self, Write};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A minimum above this is a difference of clocks, not a latency.
pub const PLAUSIBLE_MAX_NS: i64 = 1_000_000_000;
/// More than an hour is counted as an hour.
const RECORDED_MAX_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;
/// How far below the fastest the base is put at first, and how that grows each time it was not enough:
/// every move rounds, so there may be only a few.
const SLACK_NS: u64 = 1_000_000;
const SLACK_GROWTH: u64 = 4;
/// Points of a percentile curve: enough for a plot, few enough for a line of JSON.
const CURVE: [f64; 26] = [
    0.0, 5.0, 10.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0,
    97.5, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99, 99.999, 100.0,
];
/// Half distances to 100 % that `.hgrm` has per doubling.
const HGRM_TICKS: u32 = 5;

#[derive(Clone, Debug)]
pub struct Latency {
    /// The fastest; `None` until the first datagram.
    minimum: Option<i64>,
    /// What the histogram counts from: 0 on one clock.
    base: i64,
    slack_ns: u64,
    above_base: Histogram<u64>,
    /// A stretch that is not in the histogram yet.
    pending: (i64, u64),
}

/// A histogram in numbers. All times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    pub count: u64,
    /// The clocks of the two ends differ: all times are above the fastest datagram, not latencies.
    pub clocks_differ: bool,
    /// Of the fastest datagram, as the clocks say; negative or huge if they differ.
    pub raw_min_ns: i64,
    pub min_ns: u64,
    pub mean_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub p9999_ns: u64,
    pub max_ns: u64,
    pub curve: Vec<CurvePoint>,
}

/// So many per cent of the datagrams took at most so long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    pub percentile: f64,
    pub ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    pub fn new() -> Self {
        Self { minimum: None, base: 0, slack_ns: SLACK_NS, above_base: empty(), pending: (0, 0) }
    }

    /// One datagram; the times are of two clocks in nanoseconds since 1970.
    pub fn record(&mut self, sent_ns: u64, received_ns: u64) {
        // Wraps around where it would not fit: a time 292 years off is no time anyway.
        let latency = received_ns.wrapping_sub(sent_ns).cast_signed();
        if latency == self.pending.0 {
            self.pending.1 += 1;
            return;
        }
        self.flush();
        self.pending = (latency, 1);
    }

    /// What was recorded so far.
    pub fn summary(&mut self) -> LatencySummary {
        self.flush();
        let Some(minimum) = self.minimum else { return LatencySummary::default() };
        let at = |percentile| self.shown(self.above_base.value_at_percentile(percentile));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a mean of values up to an hour, in nanoseconds"
        )]
        let mean = self.above_base.mean() as u64;
        LatencySummary {
            count: self.above_base.len(),
            clocks_differ: !plausible(minimum),
            raw_min_ns: minimum,
            min_ns: self.shown(0),
            mean_ns: self.shown(mean),
            p50_ns: at(50.0),
            p90_ns: at(90.0),
            p99_ns: at(99.0),
            p999_ns: at(99.9),
            p9999_ns: at(99.99),
            max_ns: at(100.0),
            curve: CURVE
                .iter()
                .map(|&percentile| CurvePoint { percentile, ns: at(percentile) })
                .collect(),
        }
    }

    /// The percentile distribution as HdrHistogram's own tools print and plot it, in microseconds.
    pub fn write_hgrm(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.flush();
        let micros = |above_base| self.shown(above_base) as f64 / 1e3;
        let histogram = &self.above_base;
        let head = ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
        writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", head[0], head[1], head[2], head[3])?;
        let mut total = 0;
        for step in histogram.iter_quantiles(HGRM_TICKS) {
            total += step.count_since_last_iteration();
            let value = micros(step.value_iterated_to());
            let quantile = step.quantile_iterated_to();
            write!(out, "{value:>12.3} {quantile:>14.12} {total:>10}")?;
            if quantile < 1.0 {
                write!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
            }
            writeln!(out)?;
        }
        let mean = self.summary().mean_ns as f64 / 1e3;
        let histogram = &self.above_base;
        let deviation = histogram.stdev() / 1e3;
        writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
        let max = self.shown(histogram.max()) as f64 / 1e3;
        writeln!(out, "#[Max     = {max:>12.3}, Total count    = {:>12}]", histogram.len())?;
        let (buckets, halves) = (histogram.buckets(), 1 << (u32::from(DIGITS) * 10 / 3 + 1));
        writeln!(out, "#[Buckets = {buckets:>12}, SubBuckets     = {halves:>12}]")
    }

    /// A value of the histogram as it is printed: a latency, or a variation if the clocks differ.
    fn shown(&self, above_base: u64) -> u64 {
        let minimum = self.minimum.unwrap_or(0);
        let latency = self.base.saturating_add_unsigned(above_base).max(minimum);
        if plausible(minimum) { latency.unsigned_abs() } else { latency.abs_diff(minimum) }
    }

    fn flush(&mut self) {
        let (latency, count) = std::mem::take(&mut self.pending);
        if count == 0 {
            return;
        }
        if self.minimum.is_none() && !plausible(latency) {
            self.base = latency.saturating_sub_unsigned(self.slack_ns);
        }
        if latency < self.base {
            self.lower_base(latency);
        }
        self.minimum = Some(self.minimum.map_or(latency, |minimum| minimum.min(latency)));
        self.above_base.saturating_record_n(latency.abs_diff(self.base), count);
    }

    /// There is a new fastest datagram, below the base.
    fn lower_base(&mut self, latency: i64) {
        self.slack_ns = self.slack_ns.saturating_mul(SLACK_GROWTH);
        let base = latency.saturating_sub_unsigned(self.slack_ns);
        let by_ns = self.base.abs_diff(base);
        let mut moved = empty();
        for step in self.above_base.iter_recorded() {
            let value = self.above_base.median_equivalent(step.value_iterated_to());
            moved.saturating_record_n(value.saturating_add(by_ns), step.count_at_value());
        }
        (self.above_base, self.base) = (moved, base);
    }
}

fn plausible(minimum: i64) -> bool {
    (0..=PLAUSIBLE_MAX_NS).contains(&minimum)
}

fn empty() -> Histogram<u64> {
    match Histogram::new_with_max(RECORDED_MAX_NS, DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds of the histogram are constants: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_000_000_000;

    fn near(value: u64, expected: u64) -> bool {
        value.abs_diff(expected) <= expected / 500
    }

    #[test]
    fn latencies_on_one_clock_are_latencies() {
        let mut latency = Latency::new();
        for n in 1..=1_000 {
            latency.record(START, START + n * 1_000);
        }
        let summary = latency.summary();
        assert_eq!((summary.count, summary.clocks_differ), (1_000, false));
        assert_eq!(summary.min_ns, 1_000);
        assert!(near(summary.p50_ns, 500_000), "{}", summary.p50_ns);
        assert!(near(summary.p99_ns, 990_000), "{}", summary.p99_ns);
        assert!(near(summary.max_ns, 1_000_000), "{}", summary.max_ns);
        assert!(near(summary.mean_ns, 500_500), "{}", summary.mean_ns);
    }

    #[test]
    fn the_order_of_the_datagrams_does_not_matter() {
        let (mut up, mut down) = (Latency::new(), Latency::new());
        for n in 1..=200 {
            up.record(START, START + n * 100_000);
            down.record(START, START + (201 - n) * 100_000);
        }
        let (up, down) = (up.summary(), down.summary());
        assert_eq!((up.min_ns, up.count), (down.min_ns, down.count));
        assert!(near(down.p50_ns, up.p50_ns) && near(down.p99_ns, up.p99_ns), "{up:?} {down:?}");
    }

    #[test]
    fn clocks_that_differ_leave_the_variation() {
        for offset in [-3_600_000_000_000_i64, 2_000_000_000] {
            let mut latency = Latency::new();
            let sent = START.wrapping_sub(offset.cast_unsigned());
            latency.record(sent, START + 5_000);
            latency.record(sent, START + 25_000);
            let summary = latency.summary();
            assert!(summary.clocks_differ);
            assert_eq!((summary.min_ns, summary.raw_min_ns), (0, offset + 5_000));
            assert!(summary.max_ns.abs_diff(20_000) < 1_000, "{}", summary.max_ns);
        }
    }

    #[test]
    fn a_clock_that_runs_away_moves_the_base_a_few_times_only() {
        let mut latency = Latency::new();
        for n in 0..10_000 {
            latency.record(START + n * 100_000, START - 5_000_000_000);
        }
        let summary = latency.summary();
        assert!(summary.clocks_differ);
        assert!(near(summary.max_ns, 999_900_000), "{}", summary.max_ns);
        assert!(summary.p50_ns.abs_diff(500_000_000) < 5_000_000, "{}", summary.p50_ns);
    }

    #[test]
    fn nothing_recorded_is_a_count_of_zero() {
        let summary = Latency::new().summary();
        assert_eq!(summary.count, 0);
        assert!(summary.curve.is_empty());
    }

    #[test]
    fn the_hgrm_file_has_the_columns_and_the_footer_of_the_format() {
        let mut latency = Latency::new();
        for n in 1..=100 {
            latency.record(START, START + n * 10_000);
        }
        let mut text = Vec::new();
        latency.write_hgrm(&mut text).expect("a vector takes all");
        let text = String::from_utf8(text).expect("ASCII");
        assert!(text.trim_start().starts_with("Value"), "{text}");
        let last = text.lines().rfind(|line| !line.starts_with('#')).expect("rows");
        assert!(last.contains("1.000000000000") && last.contains("100"), "{last}");
        assert!(
            text.contains("#[Mean") && text.contains("Total count    =          100"),
            "{text}"
        );
    }
}

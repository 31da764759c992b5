//! What happened to one stream: when each datagram was sent, when which one came. Pure.
//!
//! The gap is what a viewer sees: the longest silence at the receiver around an event, less the time
//! between two datagrams. A stream that never came back has no gap; it counts as longer than any.

/// Nanoseconds since the tool started; sender and receiver read the same clock.
pub(crate) type Nanos = u64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// By number.
    pub(crate) sent: Vec<Nanos>,
    /// In the order of arrival.
    pub(crate) arrived: Vec<Arrival>,
    /// Datagrams that the entry of the channel refused.
    pub(crate) refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) number: u64,
    pub(crate) at: Nanos,
}

impl Flow {
    /// The longest silence, in ms, that overlaps this time, less `spacing`.
    pub(crate) fn gap_ms(&self, from: Nanos, until: Nanos, spacing: Nanos) -> Option<f64> {
        self.arrived.iter().find(|arrival| arrival.at >= until)?;
        let pairs = self.arrived.windows(2).map(|pair| (pair[0].at, pair[1].at));
        let around = pairs.filter(|&(before, after)| after >= from && before <= until);
        let longest = around.map(|(before, after)| after - before).max()?;
        Some(ms(longest.saturating_sub(spacing)))
    }

    /// Datagrams that were sent and never came.
    pub(crate) fn lost(&self) -> u64 {
        let came = self.came();
        came.iter().map(|&count| u64::from(count == 0)).sum()
    }

    /// Datagrams that came more than once.
    pub(crate) fn repeated(&self) -> u64 {
        self.came().iter().map(|&count| u64::from(count.saturating_sub(1))).sum()
    }

    /// Datagrams that came after one with a higher number.
    pub(crate) fn reordered(&self) -> u64 {
        let mut highest = 0;
        let mut late = 0;
        for arrival in &self.arrived {
            late += u64::from(arrival.number < highest);
            highest = highest.max(arrival.number);
        }
        late
    }

    /// The median time from sending to arrival, in us, of what was sent within this time.
    pub(crate) fn latency_p50_us(&self, from: Nanos, until: Nanos) -> Option<f64> {
        self.latency_us(from, until, 0.5)
    }

    /// The same, that so many of all do not exceed.
    pub(crate) fn latency_us(&self, from: Nanos, until: Nanos, at: f64) -> Option<f64> {
        let times = self.arrived.iter().filter_map(|arrival| {
            let sent = *self.sent.get(usize::try_from(arrival.number).ok()?)?;
            (from..until).contains(&sent).then(|| ms(arrival.at.saturating_sub(sent)) * 1e3)
        });
        quantile(times.collect(), at)
    }

    fn came(&self) -> Vec<u32> {
        let mut came = vec![0; self.sent.len()];
        for arrival in &self.arrived {
            let at = usize::try_from(arrival.number).ok().and_then(|at| came.get_mut(at));
            if let Some(count) = at {
                *count += 1;
            }
        }
        came
    }
}

#[expect(clippy::cast_precision_loss, reason = "times of a few minutes")]
pub(crate) fn ms(time: Nanos) -> f64 {
    time as f64 / 1e6
}

/// The least value that so many of all do not exceed; none of an empty list.
pub(crate) fn quantile(mut values: Vec<f64>, at: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 <= at <= 1, and there are few"
    )]
    let rank = (at * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    /// Sent every millisecond, there half a millisecond later; those of `lost` never.
    fn flow(count: u64, lost: std::ops::Range<u64>) -> Flow {
        let arrived = (0..count).filter(|number| !lost.contains(number));
        let arrived = arrived.map(|number| Arrival { number, at: number * MS + MS / 2 });
        Flow {
            sent: (0..count).map(|number| number * MS).collect(),
            arrived: arrived.collect(),
            refused: 0,
        }
    }

    #[test]
    fn the_gap_is_the_longest_silence_less_the_spacing() {
        let flow = flow(1_000, 400..430);
        assert_eq!(flow.gap_ms(400 * MS, 600 * MS, MS), Some(30.0));
        assert_eq!(flow.lost(), 30);
        assert_eq!(flow.gap_ms(500 * MS, 600 * MS, MS), Some(0.0), "the silence was before");
    }

    #[test]
    fn a_stream_that_does_not_come_back_has_no_gap() {
        assert_eq!(flow(1_000, 400..1_000).gap_ms(400 * MS, 900 * MS, MS), None);
    }

    #[test]
    fn repeated_and_late_datagrams_are_counted_and_cost_no_loss() {
        let mut flow = flow(10, 0..0);
        flow.arrived.push(Arrival { number: 3, at: 11 * MS });
        assert_eq!((flow.lost(), flow.repeated(), flow.reordered()), (0, 1, 1));
    }

    #[test]
    fn latency_is_that_of_what_was_sent_in_the_time() {
        let flow = flow(100, 0..0);
        assert_eq!(flow.latency_p50_us(0, 50 * MS), Some(500.0));
        assert_eq!(flow.latency_p50_us(200 * MS, 250 * MS), None);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0, 4.0], 0.5), Some(2.0));
        assert_eq!(quantile(vec![3.0, 1.0, 2.0, 4.0], 0.99), Some(4.0));
        assert_eq!(quantile(vec![], 0.5), None);
    }
}

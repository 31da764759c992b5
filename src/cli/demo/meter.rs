//! What the demo measures: when frames were sent, when they came, and what a missing one means.
//!
//! Pure: all times are counted from the start of the stream. Sender and receiver are one process, so
//! they share a clock.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::cli::reorder::FIRST_SEQUENCE;

/// Pauses shorter than this are ordinary scheduling and not kept.
const PAUSE_KEPT_MIN: Duration = Duration::from_millis(5);
/// Most pauses kept: at the shortest one each, hours of them.
const PAUSES_MAX: usize = 100_000;
/// Sending times are kept this fine: finer says nothing about a gap.
const SENDING_STEP: Duration = Duration::from_micros(500);
/// Most sending times kept; beyond, the older half is forgotten, which never excuses a loss.
const SENDINGS_MAX: usize = 1_000_000;
/// A pause that begins later than this after a kill has another cause.
const AFTERMATH: Duration = Duration::from_secs(2);
/// A frame on its way longer than this does not excuse losses before the kill.
const FLIGHT_MAX: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Meter {
    sendings: Vec<(u64, Duration)>,
    sent_last: Duration,
    arrived: u64,
    arrived_last: Option<Duration>,
    /// The highest sequence number seen.
    highest: u64,
    pauses: Vec<(Duration, Duration)>,
    /// The longest time between sending and arrival.
    flight_max: Duration,
}

impl Meter {
    pub(super) fn on_sent(&mut self, at: Duration, sequence: u64) {
        self.sent_last = at;
        if self.sendings.last().is_none_or(|&(_, last)| at >= last + SENDING_STEP) {
            if self.sendings.len() == SENDINGS_MAX {
                self.sendings.drain(..SENDINGS_MAX / 2);
            }
            self.sendings.push((sequence, at));
        }
    }

    pub(super) fn on_arrival(&mut self, at: Duration, sequence: u64) {
        if let Some(last) = self.arrived_last
            && at >= last + PAUSE_KEPT_MIN
            && self.pauses.len() < PAUSES_MAX
        {
            self.pauses.push((last, at));
        }
        self.arrived += 1;
        self.arrived_last = Some(at);
        self.highest = self.highest.max(sequence);
        if let Some(sent) = self.sent_at(sequence) {
            self.flight_max = self.flight_max.max(at.saturating_sub(sent));
        }
    }

    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Frames that later ones have overtaken or that are lost.
    pub(super) fn lost_so_far(&self) -> u64 {
        match self.arrived_last {
            Some(_) => (self.highest + 1 - FIRST_SEQUENCE).saturating_sub(self.arrived),
            None => 0,
        }
    }

    /// Whether frames came after `since`.
    pub(super) fn has_arrived_after(&self, since: Duration) -> bool {
        self.arrived_last.is_some_and(|last| last > since)
    }

    /// The longest pause between arriving frames around a kill. Silence up to the last frame sent is
    /// a pause, too.
    pub(super) fn gap(&self, kill: Duration) -> Duration {
        let silence = self
            .arrived_last
            .filter(|&last| self.sent_last > last)
            .map(|last| (last, self.sent_last));
        let around = |&&(from, to): &&(Duration, Duration)| to > kill && from < kill + AFTERMATH;
        let pauses = self.pauses.iter().chain(&silence).filter(around);
        pauses.map(|&(from, to)| to - from).max().unwrap_or_default()
    }

    /// How many of the missing frames cannot be laid to a kill and the gap after it: those that were
    /// at their destination before, or were sent after.
    pub(super) fn lost_outside(
        &self,
        missing: &[RangeInclusive<u64>],
        kill: Duration,
        gap: Duration,
    ) -> u64 {
        let flight = self.flight_max.min(FLIGHT_MAX);
        let inside = |sequence: u64| {
            let sent = self.sent_at(sequence);
            sent.is_some_and(|sent| sent + flight >= kill && sent <= kill + gap)
        };
        let outside = missing.iter().cloned().flatten().filter(|&sequence| !inside(sequence));
        outside.map(|_| 1).sum()
    }

    /// When a frame was sent, to the step.
    fn sent_at(&self, sequence: u64) -> Option<Duration> {
        let after = self.sendings.partition_point(|&(first, _)| first <= sequence);
        after.checked_sub(1).map(|index| self.sendings[index].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A frame a millisecond for a second, a millisecond under way; those sent in `lost` never come.
    fn stream(lost: std::ops::Range<u64>) -> Meter {
        let mut meter = Meter::default();
        for sequence in 0..1_000 {
            meter.on_sent(ms(sequence), sequence + FIRST_SEQUENCE);
            if !lost.contains(&sequence) {
                meter.on_arrival(ms(sequence + 1), sequence + FIRST_SEQUENCE);
            }
        }
        meter
    }

    #[test]
    fn a17_the_gap_is_the_longest_pause_around_the_kill() {
        let meter = stream(500..650);
        assert_eq!(meter.gap(ms(500)), ms(151));
        assert!(meter.has_arrived_after(ms(500)));
        assert_eq!(meter.lost_so_far(), 150);
        assert_eq!(meter.lost_outside(&[500..=649], ms(500), ms(151)), 0);
    }

    #[test]
    fn frames_in_flight_at_the_kill_are_inside_and_all_others_outside() {
        let meter = stream(500..650);
        // Sent a millisecond before the kill: it was under way.
        assert_eq!(meter.lost_outside(&[499..=499], ms(500), ms(151)), 0);
        assert_eq!(meter.lost_outside(&[10..=12], ms(500), ms(151)), 3);
        assert_eq!(meter.lost_outside(&[700..=701, 652..=652], ms(500), ms(151)), 3);
    }

    #[test]
    fn a_stream_that_never_comes_back_is_a_gap_to_its_end() {
        let meter = stream(400..1_000);
        assert_eq!(meter.gap(ms(400)), ms(599));
        assert!(!meter.has_arrived_after(ms(401)));
    }

    #[test]
    fn a_pause_long_before_or_long_after_the_kill_is_not_its_gap() {
        let mut meter = stream(0..0);
        meter.on_arrival(ms(1_300), 1_000);
        meter.on_arrival(ms(9_000), 1_001);
        assert_eq!(meter.gap(ms(1_250)), ms(7_700));
        meter.on_arrival(ms(9_500), 1_002);
        assert_eq!(meter.gap(ms(9_400)), ms(500));
        assert_eq!(meter.gap(ms(9_600)), Duration::ZERO);
    }
}

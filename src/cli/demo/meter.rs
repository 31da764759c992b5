//! What the demo measures: when frames were sent, when they came, and what a missing one means.
//!
//! Pure: all times are counted from the start of the stream. Sender and receiver are one process, so
//! they share a clock.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::cli::reorder::FIRST_SEQUENCE;

/// Pauses shorter than this are not kept. A channel moves within two milliseconds once its path is
/// known to be broken, so this has to be finer still.
const PAUSE_KEPT_MIN: Duration = Duration::from_micros(500);
/// Most pauses kept; beyond, the older half is forgotten: they are long before the kill.
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
    pauses: Vec<Pause>,
    /// The longest time between sending and arrival.
    flight_max: Duration,
}

/// A time in which no frame arrived.
#[derive(Debug, Clone, Copy)]
struct Pause {
    from: Duration,
    to: Duration,
    /// How many frames the one after it skipped.
    skipped: u64,
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
        {
            if self.pauses.len() == PAUSES_MAX {
                self.pauses.drain(..PAUSES_MAX / 2);
            }
            let skipped = sequence.saturating_sub(self.highest + 1);
            self.pauses.push(Pause { from: last, to: at, skipped });
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

    /// How long the pause is that a kill made.
    pub(super) fn gap(&self, kill: Duration) -> Duration {
        self.pause_of(kill).map(|pause| pause.to - pause.from).unwrap_or_default()
    }

    /// The pause around a kill that skipped the most frames, the longest of those that skipped none: a
    /// scheduler makes pauses, too. Silence up to the last frame sent is a pause.
    fn pause_of(&self, kill: Duration) -> Option<Pause> {
        let last = self.arrived_last.filter(|&last| self.sent_last > last);
        let unseen = self.sendings.last().map_or(0, |&(sequence, _)| sequence);
        let skipped = unseen.saturating_sub(self.highest);
        let silence = last.map(|from| Pause { from, to: self.sent_last, skipped });
        let around = |pause: &&Pause| pause.to > kill && pause.from < kill + AFTERMATH;
        let pauses = self.pauses.iter().chain(&silence).filter(around);
        pauses.max_by_key(|pause| (pause.skipped, pause.to - pause.from)).copied()
    }

    /// How many of the missing frames cannot be laid to a kill and the gap after it: those that were
    /// at their destination before, or were sent after. A killed relay goes on for a while before the
    /// kernel has taken it down, so the gap may begin later than the kill.
    pub(super) fn lost_outside(&self, missing: &[RangeInclusive<u64>], kill: Duration) -> u64 {
        let until = self.pause_of(kill).map_or(kill, |pause| pause.to);
        let flight = self.flight_max.min(FLIGHT_MAX);
        let inside = |sequence: u64| {
            let sent = self.sent_at(sequence);
            sent.is_some_and(|sent| sent + flight >= kill && sent <= until)
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
        assert_eq!(meter.lost_outside(&[500..=649], ms(500)), 0);
    }

    #[test]
    fn a17_a_gap_of_a_few_milliseconds_that_begins_after_the_kill_is_seen() {
        let mut meter = Meter::default();
        for step in 0..1_000 {
            // Two frames a millisecond; the relay lives for 2 ms after the kill at 300 ms, and a busy
            // machine holds all frames up for 8 ms at 400 ms.
            let (sequence, at) = (step + FIRST_SEQUENCE, Duration::from_micros(500 * step));
            meter.on_sent(at, sequence);
            if !(604..611).contains(&step) {
                let held = at + if (800..816).contains(&step) { ms(408) - at } else { ms(0) };
                meter.on_arrival(held, sequence);
            }
        }
        let lost = 604 + FIRST_SEQUENCE..=610 + FIRST_SEQUENCE;
        assert_eq!(meter.gap(ms(300)), ms(4));
        assert_eq!(meter.lost_outside(&[lost], ms(300)), 0);
        assert_eq!(meter.lost_outside(&[700..=701], ms(300)), 2);
    }

    #[test]
    fn frames_in_flight_at_the_kill_are_inside_and_all_others_outside() {
        let meter = stream(500..650);
        // Sent a millisecond before the kill: it was under way.
        assert_eq!(meter.lost_outside(&[499..=499], ms(500)), 0);
        assert_eq!(meter.lost_outside(&[10..=12], ms(500)), 3);
        assert_eq!(meter.lost_outside(&[700..=701, 652..=652], ms(500)), 3);
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

//! Frames in any order in, payloads in order out, and an account of what never came.
//!
//! Pure: time is an argument, counted from when the reader chose. A missing frame is waited for as
//! long as `limits` say and then given up; the payloads behind it are handed out, and it stays on the
//! list of missing ones even if it comes after all, because its place in the output has passed.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::limits;

/// Payloads with their sequence numbers.
pub(super) type Ordered = Vec<(u64, Vec<u8>)>;

/// The sequence number of the first frame of a channel.
pub(super) const FIRST_SEQUENCE: u64 = 0;

#[derive(Debug)]
pub(super) struct Reorder {
    /// The sequence number to hand out next.
    next: u64,
    /// What came behind a missing frame, and when.
    held: BTreeMap<u64, (Duration, Vec<u8>)>,
    held_bytes: usize,
    end: Option<End>,
    missing: Vec<RangeInclusive<u64>>,
    arrived: u64,
}

#[derive(Clone, Copy, Debug)]
struct End {
    /// Sequence numbers below this were sent.
    next: u64,
    /// When we learned it.
    at: Duration,
}

impl Default for Reorder {
    fn default() -> Self {
        Self {
            next: FIRST_SEQUENCE,
            held: BTreeMap::new(),
            held_bytes: 0,
            end: None,
            missing: Vec::new(),
            arrived: 0,
        }
    }
}

impl Reorder {
    /// A frame has come.
    pub(super) fn on_frame(
        &mut self,
        now: Duration,
        sequence: u64,
        payload: Vec<u8>,
        out: &mut Ordered,
    ) {
        let announced = self.end.is_none_or(|end| sequence < end.next);
        if sequence < self.next || !announced || self.held.contains_key(&sequence) {
            return;
        }
        self.arrived += 1;
        self.held_bytes += payload.len();
        self.held.insert(sequence, (now, payload));
        self.release(out);
        while self.held_bytes > limits::RECV_HELD_BYTES_MAX {
            self.give_up_gap(out);
        }
    }

    /// The stream has ended: `frames` were sent.
    pub(super) fn on_end(&mut self, now: Duration, frames: u64) {
        let next = FIRST_SEQUENCE.saturating_add(frames);
        self.end.get_or_insert(End { next, at: now });
    }

    /// Gives up what has been waited for long enough.
    pub(super) fn on_time(&mut self, now: Duration, out: &mut Ordered) {
        let over = self.end.is_some_and(|end| now >= end.at + limits::RECV_TAIL_MAX);
        while self.gap_since().is_some_and(|since| over || now >= since + limits::RECV_GAP_MAX) {
            self.give_up_gap(out);
        }
        if let Some(end) = self.end.filter(|_| over) {
            self.skip_to(end.next);
        }
    }

    /// When [`Self::on_time`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let gap = self.gap_since().map(|since| since + limits::RECV_GAP_MAX);
        let end = self.end.map(|end| end.at + limits::RECV_TAIL_MAX);
        match (gap, end) {
            (Some(gap), Some(end)) => Some(gap.min(end)),
            (gap, end) => gap.or(end),
        }
    }

    /// Every frame of the stream was handed out or given up.
    pub(super) fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end.next)
    }

    /// Frames that came, each once.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// How many frames can be spoken about: as announced, or up to the highest seen.
    pub(super) fn frames(&self) -> u64 {
        let seen = self.held.last_key_value().map_or(self.next, |(&last, _)| last + 1);
        self.end.map_or(seen, |end| end.next) - FIRST_SEQUENCE
    }

    /// Frames that were given up, in order.
    pub(super) fn missing(&self) -> &[RangeInclusive<u64>] {
        &self.missing
    }

    fn gap_since(&self) -> Option<Duration> {
        self.held.first_key_value().map(|(_, &(at, _))| at)
    }

    fn give_up_gap(&mut self, out: &mut Ordered) {
        if let Some((&first, _)) = self.held.first_key_value() {
            self.skip_to(first);
            self.release(out);
        }
    }

    fn skip_to(&mut self, sequence: u64) {
        if sequence > self.next {
            self.missing.push(self.next..=sequence - 1);
            self.next = sequence;
        }
    }

    /// Hands out what is in order.
    fn release(&mut self, out: &mut Ordered) {
        while let Some((_, payload)) = self.held.remove(&self.next) {
            self.held_bytes -= payload.len();
            out.push((self.next, payload));
            self.next += 1;
        }
    }
}

/// `17-20, 44`.
pub(super) fn ranges_text(ranges: &[RangeInclusive<u64>]) -> String {
    let one = |range: &RangeInclusive<u64>| match (range.start(), range.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// How many frames the ranges hold.
pub(super) fn ranges_count(ranges: &[RangeInclusive<u64>]) -> u64 {
    ranges.iter().map(|range| range.end() - range.start() + 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn sequences(out: &mut Ordered) -> Vec<u64> {
        out.drain(..).map(|(sequence, _)| sequence).collect()
    }

    #[test]
    fn a19_frames_that_overtake_each_other_leave_in_order() {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        for sequence in [0, 2, 1, 1, 4, 3] {
            reorder.on_frame(ms(1), sequence, vec![0; 10], &mut out);
        }
        assert_eq!(sequences(&mut out), [0, 1, 2, 3, 4]);
        reorder.on_end(ms(2), 5);
        assert!(reorder.is_done());
        assert_eq!((reorder.arrived(), reorder.missing()), (5, [].as_slice()));
    }

    #[test]
    fn a_gap_is_held_for_its_time_and_then_named() {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        for sequence in [0, 1, 5, 6, 9] {
            reorder.on_frame(ms(10), sequence, vec![1], &mut out);
        }
        assert_eq!(sequences(&mut out), [0, 1]);
        reorder.on_time(ms(209), &mut out);
        assert!(sequences(&mut out).is_empty());
        reorder.on_time(ms(210), &mut out);
        assert_eq!(sequences(&mut out), [5, 6, 9]);
        assert_eq!(ranges_text(reorder.missing()), "2-4, 7-8");
        assert_eq!(ranges_count(reorder.missing()), 5);
        // Too late: its place has passed.
        reorder.on_frame(ms(211), 3, vec![1], &mut out);
        assert!(sequences(&mut out).is_empty());
    }

    #[test]
    fn the_end_waits_for_frames_under_way_and_counts_the_rest() {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        reorder.on_frame(ms(0), 0, vec![1], &mut out);
        reorder.on_end(ms(100), 4);
        assert!(!reorder.is_done());
        reorder.on_frame(ms(300), 1, vec![1], &mut out);
        assert_eq!(reorder.deadline(), Some(ms(1_100)));
        reorder.on_time(ms(1_099), &mut out);
        assert!(!reorder.is_done());
        reorder.on_time(ms(1_100), &mut out);
        assert!(reorder.is_done());
        assert_eq!(ranges_text(reorder.missing()), "2-3");
    }

    #[test]
    fn frames_beyond_the_announced_end_are_not_ours() {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        reorder.on_end(ms(0), 1);
        reorder.on_frame(ms(1), 7, vec![1], &mut out);
        reorder.on_frame(ms(1), 0, vec![1], &mut out);
        assert_eq!(sequences(&mut out), [0]);
        assert!(reorder.is_done());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        let payload = 1 << 20;
        for sequence in 1..=200 {
            reorder.on_frame(ms(0), sequence, vec![0; payload], &mut out);
            assert!(reorder.held_bytes <= limits::RECV_HELD_BYTES_MAX);
        }
        assert_eq!(ranges_text(reorder.missing()), "0");
        assert_eq!(sequences(&mut out).len(), 200);
    }
}

//! How long frames are in the worker: from the kernel's receive time to the hand-over of their batch to
//! send. What it may cost decides what is measured.
//!
//! The kernel's time costs 31 ns a packet where it is taken (measured on loopback, 1.15 us a packet in
//! all), so the socket is asked for it an eighth of the time: 4 ns a frame if each comes alone, far less
//! if the kernel merges them. The second clock reading of a batch costs about as much; it is made once
//! for [`INSIDE_FRAMES`] frames, or after [`INSIDE_INTERVAL`] where there are few.
//!
//! Pure: is told the time, and says what shall be done.

use crate::limits::{
    BATCH_MAX, INSIDE_FRAMES, INSIDE_INTERVAL, INSIDE_PERIOD_US, INSIDE_PERIOD_US_ON,
};
use crate::stats::histogram::RelayHistograms;
use crate::types::{LinkId, Time};

#[derive(Debug)]
pub(super) struct Inside {
    /// Whether the socket was asked for the kernel's times.
    on: bool,
    /// Since a batch was measured.
    frames: usize,
    measured: Time,
    /// Of this batch.
    arrivals: Vec<Arrival>,
}

#[derive(Debug)]
struct Arrival {
    from: LinkId,
    /// The kernel's wall clock.
    nanos: u64,
    frames: usize,
}

impl Default for Inside {
    fn default() -> Self {
        let arrivals = Vec::with_capacity(BATCH_MAX);
        Self { on: false, frames: 0, measured: Time::default(), arrivals }
    }
}

impl Inside {
    /// Whether the socket shall tell the kernel's times, if that is to be changed.
    pub(super) fn switch(&mut self, now: Time) -> Option<bool> {
        let on = now.0 % INSIDE_PERIOD_US < INSIDE_PERIOD_US_ON;
        (std::mem::replace(&mut self.on, on) != on).then_some(on)
    }

    /// A receive of so many frames; `nanos` is when, if the kernel told.
    #[inline]
    pub(super) fn came(&mut self, from: LinkId, nanos: Option<u64>, frames: usize) {
        let Some(nanos) = nanos else { return };
        self.frames += frames;
        if self.arrivals.len() < self.arrivals.capacity() {
            self.arrivals.push(Arrival { from, nanos, frames });
        }
    }

    /// The frames of the batch are ready to be sent: whether this batch is one to be measured.
    #[inline]
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        if self.arrivals.is_empty() {
            return false;
        }
        if self.frames < INSIDE_FRAMES && now.since(self.measured) < INSIDE_INTERVAL {
            self.arrivals.clear();
            return false;
        }
        (self.frames, self.measured) = (0, now);
        true
    }

    /// The wall clock as read for a batch that is to be measured.
    pub(super) fn hand_over(&mut self, nanos: u64, relay: &RelayHistograms) {
        for arrival in self.arrivals.drain(..) {
            // A wall clock that was set back in between says nothing.
            if let Some(inside) = nanos.checked_sub(arrival.nanos) {
                relay.record_inside(arrival.from, inside, arrival.frames as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LINK: LinkId = LinkId(2);

    #[test]
    fn a23_the_kernel_is_asked_for_its_times_an_eighth_of_the_time() {
        let mut inside = Inside::default();
        let (mut on, mut asked, mut changes) = (false, 0_u32, 0_u32);
        let millis = 20_000_u32;
        for ms in 0..millis {
            let now = Time::default() + Duration::from_millis(u64::from(ms));
            if let Some(change) = inside.switch(now) {
                assert_ne!(change, on);
                (on, changes) = (change, changes + 1);
            }
            asked += u32::from(on);
        }
        assert!((millis / 9..millis / 7).contains(&asked), "{asked} ms of {millis}");
        assert!(changes <= 2 * millis / 1_000, "{changes} changes in {millis} ms");
    }

    #[test]
    fn a23_a_clock_is_read_for_enough_frames_or_now_and_then() {
        let mut inside = Inside::default();
        let at = |us: u64| Time(1_000_000 + us);
        assert!(!inside.is_due(at(0)), "nothing came");
        inside.came(LINK, None, 64);
        assert!(!inside.is_due(at(0)), "the kernel told no time");
        inside.came(LINK, Some(5), 1);
        assert!(inside.is_due(at(0)), "the last one was long ago");
        inside.hand_over(9, &RelayHistograms::default());
        let due = |inside: &mut Inside, us, frames| {
            inside.came(LINK, Some(5), frames);
            let due = inside.is_due(at(us));
            inside.hand_over(9, &RelayHistograms::default());
            due
        };
        let few: Vec<bool> = (1..=16).map(|us| due(&mut inside, us, 1)).collect();
        assert_eq!(few.iter().filter(|&&due| due).count(), 1, "{few:?}");
        assert!(due(&mut inside, 20, 16));
        assert!(!due(&mut inside, 30, 1));
        assert!(due(&mut inside, 1_020, 1));
    }

    #[test]
    fn frames_of_a_batch_are_counted_with_their_receive_and_their_hop() {
        let (mut inside, relay) = (Inside::default(), RelayHistograms::default());
        relay.open_hop(LINK);
        inside.came(LINK, Some(1_000), 32);
        inside.came(LinkId(9), Some(1_500), 1);
        inside.came(LINK, Some(9_999), 4);
        assert!(inside.is_due(Time(5_000)));
        inside.hand_over(2_000, &relay);
        assert_eq!(relay.inside_ns.read().count(), 33, "the clock was set back for the last");
        assert_eq!(relay.read_hop(LINK).count(), 32);
        assert!(!inside.is_due(Time(9_000)), "nothing is left for the next batch");
    }

    #[test]
    fn more_receives_than_a_batch_has_allocate_nothing() {
        let mut inside = Inside::default();
        let room = inside.arrivals.capacity();
        (0..2 * room).for_each(|_| inside.came(LINK, Some(1), 1));
        assert_eq!(inside.arrivals.capacity(), room);
    }
}

//! How much of the control thread one neighbour may take for its messages.
//!
//! Two bounds, neither of which an honest neighbour meets: so many of its messages wait for the control loop
//! at once, so that those of others are never behind many of them; and their reading and handling takes
//! three quarters of the thread's time in the long run, each counted with what the kernel does for it. What
//! is above that stays in the connection: the neighbour's own sends wait, nothing is lost, heartbeats go
//! another way.
//!
//! Pure: times come with the calls.

use std::time::{Duration, Instant};

use crate::limits::{CONTROL_MESSAGE_COST_MIN, CONTROL_SHARE, CONTROL_SHARE_BURST};

/// The time one neighbour has used, and not been forgiven yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    used: Duration,
    at: Instant,
    /// Time it was made to wait, since the start of its connection.
    waited: Duration,
}

impl Share {
    pub(crate) fn new(now: Instant) -> Self {
        Self { used: Duration::ZERO, at: now, waited: Duration::ZERO }
    }

    /// A message of the neighbour was read, which took so long.
    pub(crate) fn charge_message(&mut self, now: Instant, spent: Duration) {
        self.charge(now, spent.max(CONTROL_MESSAGE_COST_MIN));
    }

    /// What came of a message took so long.
    pub(crate) fn charge(&mut self, now: Instant, spent: Duration) {
        self.forgive(now);
        self.used += spent;
    }

    /// How long nothing more is to be read of the neighbour; zero as a rule.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        self.forgive(now);
        let wait = self.used.saturating_sub(CONTROL_SHARE_BURST).div_f64(CONTROL_SHARE);
        self.waited += wait;
        wait
    }

    /// Since the connection began.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    fn forgive(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.used = self.used.saturating_sub(passed.mul_f64(CONTROL_SHARE));
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an origin for times that the test makes")]
    fn start() -> Instant {
        Instant::now()
    }

    /// Messages of `each` one behind the other, for ten seconds: the time used.
    fn flood(share: &mut Share, start: Instant, each: Duration) -> Duration {
        let (mut now, mut used) = (start, Duration::ZERO);
        while now < start + Duration::from_secs(10) {
            now += share.wait(now);
            now += each;
            used += each;
            share.charge(now, each);
        }
        used
    }

    #[test]
    fn a_flood_gets_its_share_whatever_its_messages_cost() {
        for micros in [10, 500, 40_000] {
            let start = start();
            let mut share = Share::new(start);
            let used = flood(&mut share, start, Duration::from_micros(micros));
            let most = Duration::from_secs(10).mul_f64(CONTROL_SHARE) + CONTROL_SHARE_BURST;
            assert!(
                used <= most.mul_f64(1.01) + 2 * Duration::from_micros(micros),
                "{micros}: {used:?}"
            );
            assert!(used >= most.mul_f64(0.95), "{micros}: {used:?}");
            assert!(share.waited() > Duration::from_secs(2));
        }
    }

    #[test]
    fn the_smallest_message_has_a_price() {
        let (mut now, mut share, mut read) = (start(), Share::new(start()), 0);
        let end = now + Duration::from_secs(10);
        while now < end {
            now += share.wait(now) + Duration::from_nanos(100);
            share.charge_message(now, Duration::from_nanos(100));
            read += 1;
        }
        let most = Duration::from_secs(10).mul_f64(CONTROL_SHARE) + CONTROL_SHARE_BURST;
        let most = most.as_nanos() / CONTROL_MESSAGE_COST_MIN.as_nanos();
        assert!((most * 95 / 100..=most * 101 / 100).contains(&read), "{read} of {most}");
    }

    #[test]
    fn who_keeps_below_it_never_waits_and_a_burst_is_free() {
        let mut now = start();
        let mut share = Share::new(now);
        share.charge(now, CONTROL_SHARE_BURST);
        assert_eq!(share.wait(now), Duration::ZERO);
        for _ in 0..10_000 {
            now += Duration::from_micros(134);
            share.charge(now, Duration::from_micros(100));
            assert_eq!(share.wait(now), Duration::ZERO);
        }
        share.charge(now, Duration::from_millis(10));
        assert!(share.wait(now) > Duration::ZERO);
    }
}

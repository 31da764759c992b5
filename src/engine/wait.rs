//! How long a worker waits for more before it looks at what has come: a pure machine, told what every
//! wake-up brought.
//!
//! A wake-up costs more than the work on a few datagrams. At a high rate in small portions it pays to
//! wait some microseconds for more of them (`cargo bench --bench wait`: at 50,000 single datagrams/s the
//! CPU falls to a third, the median latency rises by 55 us); at a low rate nothing is won, and where
//! datagrams come in large portions anyway nothing is to be gained. Hence
//!
//! ```text
//!            > 20,000 datagrams/s and < 16 a wake-up              < 7 a wake-up
//! Immediate ─────────────────────────────────────────► Short ──────────────────────► Long
//!     ▲                                              50 us, 16 ◄─────────────────  100 us, 16
//!     │                                                 │         >= 15 a wake-up     │
//!     └──────── < 10,000 datagrams/s, or >= 32 a wake-up ───────────────────────────┘
//! ```
//!
//! judged over a window of wake-ups. The gaps between the marks keep it from going back and forth. A
//! datagram that comes after a pause is never held: the wait counts from when the worker began to
//! wait, and that is over by then.
//!
//! No clock: the time of the batch comes in. Does not wait itself; that is [`crate::net`]'s.

use core::time::Duration;

use crate::stats::WaitMode;
use crate::types::Time;

/// Completions that end a gathering wait early.
pub const GATHER: u32 = 16;

/// Rate above which gathering begins, datagrams/s (measured: below, a wake-up each is affordable).
const RATE_HIGH: u64 = 20_000;
/// Rate below which it ends: half, so that it does not flap.
const RATE_LOW: u64 = 10_000;
/// Datagrams a wake-up below which gathering begins: a batch worth the wake-up.
const MEAN_SMALL: u64 = 16;
/// Datagrams a wake-up at which gathering ends: twice as many come by themselves.
const MEAN_LARGE: u64 = 32;
/// Datagrams a short wait must bring, or the long one is tried: 100,000 to 140,000/s, for what comes
/// while the last batch is sent counts too.
const MEAN_POOR: u64 = 7;
/// Datagrams of a long wait at which the short one is enough: a little more than twice as many, or it
/// would go back. Less than [`GATHER`], which ends a wait.
const MEAN_RICH: u64 = 15;
/// A window ends after this many wake-ups that brought something ...
const WINDOW_WAKEUPS: u64 = 64;
/// ... or after this time: 200 datagrams at the rate that matters.
const WINDOW: Duration = Duration::from_millis(10);

/// The machine: [`Waiter::woke`] after every wake-up, [`Waiter::gather`] before the next wait.
#[derive(Debug)]
pub struct Waiter {
    /// Latency is worth more than CPU: never gather.
    immediate_only: bool,
    mode: WaitMode,
    /// Of this window.
    since: Time,
    wakeups: u64,
    datagrams: u64,
}

impl Waiter {
    pub fn new(immediate_only: bool) -> Self {
        let mode = WaitMode::Immediate;
        Self { immediate_only, mode, since: Time::default(), wakeups: 0, datagrams: 0 }
    }

    #[inline]
    pub fn mode(&self) -> WaitMode {
        self.mode
    }

    /// How long the next wait gathers, and how many completions end it; `None` is to wait for the first.
    #[inline]
    pub fn gather(&self) -> Option<(Duration, u32)> {
        match self.mode {
            WaitMode::Immediate => None,
            WaitMode::Short => Some((Duration::from_micros(50), GATHER)),
            WaitMode::Long => Some((Duration::from_micros(100), GATHER)),
        }
    }

    /// A wait ended at `now` and brought this many datagrams, none for a time-out or a command.
    #[inline]
    pub fn woke(&mut self, now: Time, datagrams: u64) {
        if self.immediate_only {
            return;
        }
        if datagrams > 0 {
            self.wakeups += 1;
            self.datagrams += datagrams;
        }
        let passed = now.since(self.since);
        if self.wakeups >= WINDOW_WAKEUPS || passed >= WINDOW {
            self.mode = self.judge(passed);
            self.since = now;
            self.wakeups = 0;
            self.datagrams = 0;
        }
    }

    fn judge(&self, passed: Duration) -> WaitMode {
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = self.datagrams.saturating_mul(1_000_000) / micros;
        let mean = self.datagrams / self.wakeups.max(1);
        match self.mode {
            WaitMode::Immediate if rate > RATE_HIGH && mean < MEAN_SMALL => WaitMode::Short,
            WaitMode::Immediate => WaitMode::Immediate,
            WaitMode::Short | WaitMode::Long if rate < RATE_LOW || mean >= MEAN_LARGE => {
                WaitMode::Immediate
            }
            WaitMode::Short if mean < MEAN_POOR => WaitMode::Long,
            WaitMode::Long if mean >= MEAN_RICH => WaitMode::Short,
            same @ (WaitMode::Short | WaitMode::Long) => same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `ms` milliseconds of wake-ups that are `every_us` apart and bring `datagrams` each.
    struct Play {
        waiter: Waiter,
        now: u64,
        changes: u32,
    }

    impl Play {
        fn new(immediate_only: bool) -> Self {
            Self { waiter: Waiter::new(immediate_only), now: 5_000_000, changes: 0 }
        }

        fn run(&mut self, ms: u64, every_us: u64, datagrams: u64) -> WaitMode {
            let end = self.now + ms * 1_000;
            while self.now < end {
                self.now += every_us;
                let before = self.waiter.mode();
                self.waiter.woke(Time(self.now), datagrams);
                self.changes += u32::from(self.waiter.mode() != before);
            }
            self.waiter.mode()
        }

        /// Evenly spaced single datagrams at `rate`, and a worker that gathers as it is told.
        fn single_datagrams(&mut self, ms: u64, rate: u64) -> WaitMode {
            let gap_ns = 1_000_000_000 / rate;
            let (mut at_ns, mut next_ns) = (self.now * 1_000, self.now * 1_000 + gap_ns);
            let end_ns = at_ns + ms * 1_000_000;
            while at_ns < end_ns {
                let gather = self.waiter.gather().map_or(0, |(min, enough)| {
                    u64::from(min.subsec_nanos()).min(gap_ns * u64::from(enough))
                });
                at_ns = next_ns.max(at_ns + gather);
                let came = (at_ns - next_ns) / gap_ns + 1;
                next_ns += came * gap_ns;
                let before = self.waiter.mode();
                self.waiter.woke(Time(at_ns / 1_000), came);
                self.changes += u32::from(self.waiter.mode() != before);
            }
            self.now = at_ns / 1_000;
            self.waiter.mode()
        }
    }

    #[test]
    fn a_low_rate_is_never_held_back() {
        for rate in [1, 50, 1_000, 5_000, 15_000, 20_000] {
            let mut play = Play::new(false);
            assert_eq!(play.single_datagrams(2_000, rate), WaitMode::Immediate, "{rate}");
            assert_eq!(play.changes, 0, "{rate}");
        }
    }

    #[test]
    fn a_high_rate_in_small_portions_is_gathered_within_a_window() {
        for rate in [25_000, 50_000, 150_000] {
            let mut play = Play::new(false);
            assert_ne!(play.single_datagrams(20, rate), WaitMode::Immediate, "{rate}");
        }
    }

    #[test]
    fn the_wait_is_longer_where_the_short_one_brings_little() {
        let mut play = Play::new(false);
        assert_eq!(play.single_datagrams(100, 50_000), WaitMode::Long);
        assert_eq!(play.single_datagrams(100, 160_000), WaitMode::Short);
        assert_eq!(play.single_datagrams(100, 145_000), WaitMode::Short);
        assert_eq!(play.single_datagrams(100, 30_000), WaitMode::Long);
    }

    #[test]
    fn large_portions_are_taken_as_they_come() {
        let mut play = Play::new(false);
        // 50,000 a second in trains of 32.
        assert_eq!(play.run(200, 640, 32), WaitMode::Immediate);
        assert_eq!(play.changes, 0);
        assert_ne!(play.single_datagrams(100, 50_000), WaitMode::Immediate);
        assert_eq!(play.run(50, 640, 32), WaitMode::Immediate);
    }

    #[test]
    fn a_burst_of_one_picture_is_no_high_rate() {
        let mut play = Play::new(false);
        for _ in 0..60 {
            play.run(1, 100, 5);
            play.run(16, 16_000, 1);
            assert_eq!(play.waiter.mode(), WaitMode::Immediate);
        }
    }

    #[test]
    fn the_first_datagrams_after_a_pause_end_the_gathering() {
        let mut play = Play::new(false);
        assert_eq!(play.single_datagrams(100, 50_000), WaitMode::Long);
        play.now += 1_000_000;
        assert_eq!(play.run(1, 1_000, 1), WaitMode::Immediate);
    }

    #[test]
    fn it_does_not_flap_at_any_steady_rate() {
        for rate in (1..100).map(|step| step * 10_000) {
            let mut play = Play::new(false);
            play.single_datagrams(3_000, rate);
            assert!(play.changes <= 2, "{rate}/s: {} changes in 3 s", play.changes);
        }
        // Between the two marks both stay what they are.
        let mut play = Play::new(false);
        assert_eq!(play.single_datagrams(1_000, 15_000), WaitMode::Immediate);
        play.single_datagrams(1_000, 40_000);
        assert_eq!(play.single_datagrams(1_000, 15_000), WaitMode::Long);
        assert_eq!(play.single_datagrams(1_000, 9_000), WaitMode::Immediate);
    }

    #[test]
    fn commands_and_time_outs_are_no_small_portions() {
        let mut play = Play::new(false);
        for _ in 0..1_000 {
            play.run(1, 640, 32);
            play.waiter.woke(Time(play.now), 0);
            assert_eq!(play.waiter.mode(), WaitMode::Immediate);
        }
    }

    #[test]
    fn latency_first_means_that_nothing_is_ever_gathered() {
        let mut play = Play::new(true);
        for rate in [20_000, 100_000, 1_000_000] {
            assert_eq!(play.single_datagrams(1_000, rate), WaitMode::Immediate);
        }
        assert_eq!((play.changes, play.waiter.gather()), (0, None));
    }
}

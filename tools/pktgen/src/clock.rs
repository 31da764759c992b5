//! The clocks, and waiting: the only file of the generator that reads them.
//!
//! *Wall* time stamps payloads, because another host has no other clock in common; *steady* time paces and
//! measures durations, because nobody sets it.

#![expect(clippy::disallowed_methods, reason = "this is where the generator reads its clocks")]

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Closer than this to its time a waiter spins: sleeps come back some 60 us late.
const SPIN_NS: u64 = 80_000;

/// Nanoseconds since 1970.
pub fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    nanos(since)
}

/// Steady time from its making on.
#[derive(Clone, Copy, Debug)]
pub struct Steady(Instant);

impl Steady {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub fn ns(&self) -> u64 {
        nanos(self.0.elapsed())
    }

    /// Waits until the clock shows `at_ns`, or half a second at most, so that a caller can look whether
    /// it is still wanted. Sleeps first and spins at the end.
    pub fn wait_until(&self, at_ns: u64) {
        const LOOK_NS: u64 = 500_000_000;
        let left = at_ns.saturating_sub(self.ns());
        if left > LOOK_NS {
            thread::sleep(Duration::from_nanos(LOOK_NS));
            return;
        }
        if left > 2 * SPIN_NS {
            thread::sleep(Duration::from_nanos(left - SPIN_NS));
        }
        while self.ns() < at_ns {
            std::hint::spin_loop();
        }
    }
}

/// A duration in nanoseconds; 584 years are enough.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

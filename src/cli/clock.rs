//! The command line's clock: every reading and every sleep of it, in one place.

#![expect(
    clippy::disallowed_methods,
    reason = "the command line is an edge: it reads clocks and waits"
)]

use std::thread;
use std::time::{Duration, Instant, SystemTime};

pub(super) fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(super) fn sleep(time: Duration) {
    thread::sleep(time);
}

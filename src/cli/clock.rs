//! The command line's clock: every reading and every sleep of it, in one place.

#![expect(
    clippy::disallowed_methods,
    reason = "the command line is an edge: it reads clocks and waits"
)]

use std::thread;
use std::time::{Duration, Instant};

pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn sleep(time: Duration) {
    thread::sleep(time);
}

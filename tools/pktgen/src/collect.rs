//! The receiving half: super-buffers from one socket into a [`Checker`], until it is enough.
//!
//! Latency is taken from the kernel's receive time, so a sink that wakes up late adds nothing to it. One
//! read of the steady clock per receive. Does not send.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check::{Checker, FlowTotals, Totals};
use crate::clock::{Steady, nanos, wall_ns};
use crate::latency::LatencySummary;
use crate::live::Live;
use crate::port::{Port, PortError, Room};

/// Silence after which nothing more is expected of a sender that has ended.
pub const QUIET: Duration = Duration::from_millis(150);
/// Longest wait for queues to drain.
pub const DRAIN_MAX: Duration = Duration::from_secs(3);
/// A full socket buffer needs fewer receives; a stream that goes on must not keep a sink from ending.
const LAST_RECEIVES_MAX: u32 = 4_096;
/// How often an idle receiver looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// When to end, besides a signal. Nothing set: only by a signal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Enough {
    /// From the start.
    pub elapsed: Option<Duration>,
    /// So many datagrams, whatever they are.
    pub count: Option<u64>,
    /// So long nothing, after the first datagram.
    pub idle: Option<Duration>,
}

/// What was received.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Collected {
    pub totals: Totals,
    pub latency: LatencySummary,
    /// From the first datagram to the last.
    pub elapsed_s: f64,
    pub per_second: f64,
    pub payload_bits_per_s: f64,
    pub datagrams_per_receive: f64,
    /// Thrown away by the kernel because this sink did not keep up; absent if that cannot be known. A
    /// super-buffer of many datagrams counts as one.
    pub kernel_drops: Option<u64>,
    /// What the kernel granted.
    pub receive_buffer_bytes: usize,
    /// Empty where nobody asked for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowTotals>,
}

/// Receives until it is enough. The checker keeps the histogram for whoever wants its file.
pub fn collect(
    port: &Port,
    checker: &mut Checker,
    enough: Enough,
    live: &Live,
) -> Result<Collected, PortError> {
    let drops_before = port.kernel_drops();
    let (clock, mut room) = (Steady::start(), Room::new());
    let (mut times, mut last_receives) = (Times::default(), 0);
    loop {
        let received = port.receive(&mut room)?;
        if received > 0 {
            let now = clock.ns();
            times.first_ns.get_or_insert(now);
            times.last_ns = now;
            for arrived in room.arrived() {
                let received_ns = arrived.kernel_ns.unwrap_or_else(wall_ns);
                checker.receive(received_ns, arrived.bytes, arrived.stride);
            }
            let (datagrams, bytes) = checker.seen();
            live.publish(datagrams, bytes);
        } else if !live.stopped() {
            port.wait_readable(LOOK_EVERY);
        }
        if live.stopped() {
            // What had arrived by then still counts.
            last_receives += 1;
            if (received == 0 && last_receives > 1) || last_receives > LAST_RECEIVES_MAX {
                break;
            }
            continue;
        }
        if times.enough(clock.ns(), enough, checker, live) {
            break;
        }
    }
    let drops = port.kernel_drops().zip(drops_before);
    let kernel_drops = drops.map(|(after, before)| after.saturating_sub(before));
    Ok(summarise(checker, &times, kernel_drops, port.receive_buffer()))
}

/// Throws away what is in the socket and still comes, until it is quiet; false if it never is.
pub fn drain(port: &Port) -> Result<bool, PortError> {
    let (clock, mut room) = (Steady::start(), Room::new());
    while clock.ns() < nanos(DRAIN_MAX) {
        if !port.wait_readable(QUIET) {
            return Ok(true);
        }
        port.receive(&mut room)?;
    }
    Ok(false)
}

impl Collected {
    /// Datagrams in what the kernel threw away, if those super-buffers were like the others.
    pub fn datagrams_dropped(&self) -> Option<u64> {
        let each = self.datagrams_per_receive.max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate of a count, not negative"
        )]
        let datagrams = |drops: u64| (drops as f64 * each) as u64;
        self.kernel_drops.map(datagrams)
    }
}

#[derive(Debug, Default)]
struct Times {
    first_ns: Option<u64>,
    last_ns: u64,
    finishing_ns: Option<u64>,
}

impl Times {
    fn enough(&mut self, now: u64, enough: Enough, checker: &Checker, live: &Live) -> bool {
        if let Some(expected) = live.finishing() {
            let since = *self.finishing_ns.get_or_insert(now);
            let quiet = now.saturating_sub(self.last_ns.max(since)) >= nanos(QUIET);
            let late = now - since >= nanos(DRAIN_MAX);
            return checker.received() >= expected || quiet || late;
        }
        let is_over = |limit: Option<Duration>, passed: u64| {
            limit.is_some_and(|limit| passed >= nanos(limit))
        };
        is_over(enough.elapsed, now)
            || enough.count.is_some_and(|count| checker.seen().0 >= count)
            || (self.first_ns.is_some() && is_over(enough.idle, now - self.last_ns))
    }
}

fn summarise(
    checker: &mut Checker,
    times: &Times,
    kernel_drops: Option<u64>,
    receive_buffer_bytes: usize,
) -> Collected {
    let totals = checker.totals();
    let elapsed_ns = times.first_ns.map_or(0, |first| times.last_ns - first);
    let elapsed_s = elapsed_ns as f64 / 1e9;
    let per_second = |count: u64| if elapsed_ns == 0 { 0.0 } else { count as f64 / elapsed_s };
    Collected {
        latency: checker.latency(),
        elapsed_s,
        per_second: per_second(totals.datagrams),
        payload_bits_per_s: per_second(totals.bytes * 8),
        datagrams_per_receive: totals.datagrams as f64 / totals.receives.max(1) as f64,
        kernel_drops,
        receive_buffer_bytes,
        flows: checker.flows(),
        totals,
    }
}

//! Answers, and waiting for them: `echo` sends every datagram back to where it came from, `Answers`
//! collects those at the ports of a generator.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check::{Checker, Totals, Verify};
use crate::clock::{Steady, nanos, wall_ns};
use crate::collect::{DRAIN_MAX, QUIET};
use crate::latency::LatencySummary;
use crate::live::Live;
use crate::port::{Port, PortError, Room, readable};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const WRITABLE_WAIT: Duration = Duration::from_millis(100);

/// What an echo did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echoed {
    pub datagrams: u64,
    pub bytes: u64,
    /// Not answered: the kernel refused to send.
    pub refused: u64,
}

/// Round trips, seen from the generator. Latency is the time there and back, on one clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    pub totals: Totals,
    /// Of all that was sent.
    pub lost: u64,
    pub round_trip: LatencySummary,
}

/// Answers until `live` is stopped, `elapsed` is over or `count` datagrams were answered.
pub fn echo(
    port: &Port,
    elapsed: Option<Duration>,
    count: Option<u64>,
    live: &Live,
) -> Result<Echoed, PortError> {
    let (clock, mut room, mut echoed) = (Steady::start(), Room::new(), Echoed::default());
    let is_over = |echoed: &Echoed| {
        live.stopped()
            || elapsed.is_some_and(|elapsed| clock.ns() >= nanos(elapsed))
            || count.is_some_and(|count| echoed.datagrams + echoed.refused >= count)
    };
    while !is_over(&echoed) {
        if port.receive(&mut room)? == 0 {
            port.wait_readable(LOOK_EVERY);
            continue;
        }
        for arrived in room.arrived() {
            let datagrams = arrived.bytes.len().div_ceil(arrived.stride.max(1)).max(1) as u64;
            match answer(port, &arrived) {
                Ok(()) => {
                    echoed.datagrams += datagrams;
                    echoed.bytes += arrived.bytes.len() as u64;
                }
                Err(_) => echoed.refused += datagrams,
            }
        }
        live.publish(echoed.datagrams, echoed.bytes);
    }
    Ok(echoed)
}

/// A super-buffer goes back as the train it was, or singly where the way back takes no trains.
fn answer(port: &Port, arrived: &crate::port::Arrived<'_>) -> io::Result<()> {
    let stride = arrived.stride.max(1);
    if patiently(port, || port.send(arrived.from, arrived.bytes, stride)).is_ok() {
        return Ok(());
    }
    let mut datagrams = arrived.bytes.chunks(stride);
    datagrams.try_for_each(|datagram| patiently(port, || port.send(arrived.from, datagram, stride)))
}

fn patiently(port: &Port, send: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match send() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            port.wait_writable(WRITABLE_WAIT);
            send()
        }
        result => result,
    }
}

/// Collects answers at all ports of a generator until `live` is finishing and no more come.
pub fn answers(ports: &[Port], trial: u32, live: &Live) -> Result<Checker, PortError> {
    let mut checker = Checker::new(Verify::Sample).of_trial(trial);
    let (clock, mut room) = (Steady::start(), Room::new());
    let (mut last_ns, mut finishing_ns) = (0, None);
    loop {
        for at in readable(ports, LOOK_EVERY) {
            while ports[at].receive(&mut room)? > 0 {
                for arrived in room.arrived() {
                    let received_ns = arrived.kernel_ns.unwrap_or_else(wall_ns);
                    checker.receive(received_ns, arrived.bytes, arrived.stride);
                }
                last_ns = clock.ns();
            }
        }
        if let Some(expected) = live.finishing() {
            let now = clock.ns();
            let since = *finishing_ns.get_or_insert(now);
            let quiet = now.saturating_sub(last_ns.max(since)) >= nanos(QUIET);
            if checker.received() >= expected || quiet || now - since >= nanos(DRAIN_MAX) {
                return Ok(checker);
            }
        }
    }
}

impl Answered {
    pub fn new(mut checker: Checker, sent: u64) -> Self {
        let totals = checker.totals();
        Self { lost: totals.lost_of(sent), totals, round_trip: checker.latency() }
    }
}

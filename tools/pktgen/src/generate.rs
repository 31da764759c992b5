//! The sending half: bursts when the pacer says so, from one socket per flow in turn, each burst with one
//! clock read and as few sends as its sizes allow.
//!
//! Every datagram of a burst has the same stamp. Does not receive; see `echo` for answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Steady, nanos, wall_ns};
use crate::live::Live;
use crate::payload::{Header, Train};
use crate::port::{Port, PortError, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX};
use crate::schedule::{Pacer, Rate, Sizes, Stretches};

/// Source ports of one generator.
pub const FLOWS_MAX: u16 = 4_096;
/// Datagrams sent back to back.
pub const BURST_MAX: usize = 4_096;
/// A generator below this share of the asked rate was itself the limit.
pub const REACHED_SHARE: f64 = 0.98;
const WRITABLE_WAIT: Duration = Duration::from_millis(100);

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    pub to: SocketAddr,
    pub rate: Rate,
    pub sizes: Sizes,
    pub burst: usize,
    pub gso: bool,
    pub until: Until,
    /// Of the filler of the payloads.
    pub seed: u64,
    /// Tells this run from all others; see [`new_trial`].
    pub trial: u32,
    /// In front of every payload: a header that the relay under test takes off.
    pub prefix: Vec<u8>,
}

/// When to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Elapsed(Duration),
    Count(u64),
}

/// What was sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub datagrams: u64,
    /// Of payload.
    pub bytes: u64,
    pub elapsed_s: f64,
    pub per_second: f64,
    pub payload_bits_per_s: f64,
    /// Sent at least 98 % of what was asked for. Always true at `max`.
    pub reached: bool,
    /// Given up because this machine stalled.
    pub skipped: u64,
    /// Refused by the kernel, so never sent: no route, no buffer, a firewall.
    pub refused: u64,
    /// Why trains were given up and single datagrams sent instead.
    pub gso_refused: Option<String>,
}

/// A number that no other run has, for all practical purposes.
pub fn new_trial() -> u32 {
    let [a, b, c, d, ..] = wall_ns().wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Sends until the plan is done or `live` is stopped. One flow per port.
pub fn generate(ports: &[Port], plan: &Plan, live: &Live) -> Result<Sent, PortError> {
    let mut generator = Generator::new(ports, plan);
    let clock = Steady::start();
    let per_second = plan.rate.per_second(&plan.sizes);
    let mut pacer = Pacer::new(per_second, clock.ns());
    let (end_ns, mut left) = match plan.until {
        Until::Elapsed(duration) => (nanos(duration), u64::MAX),
        Until::Count(count) => (u64::MAX, count),
    };
    let mut now = clock.ns();
    while left > 0 && now < end_ns && !live.stopped() {
        let burst = left.min(plan.burst as u64);
        let due = pacer.due(now, burst);
        if due == 0 {
            clock.wait_until(pacer.next_ns(burst).min(end_ns));
        } else {
            generator.burst(due, wall_ns())?;
            pacer.sent(due);
            left -= due;
            live.publish(generator.sent.datagrams, generator.sent.bytes);
        }
        now = clock.ns();
    }
    let mut sent = generator.sent;
    sent.skipped = pacer.skipped();
    sent.measure(now, per_second, plan.burst);
    Ok(sent)
}

impl Sent {
    fn measure(&mut self, elapsed_ns: u64, asked: Option<f64>, burst: usize) {
        self.elapsed_s = elapsed_ns as f64 / 1e9;
        let elapsed = self.elapsed_s.max(1e-9);
        self.per_second = self.datagrams as f64 / elapsed;
        self.payload_bits_per_s = self.bytes as f64 * 8.0 / elapsed;
        // A run may end before its last burst was due as a whole.
        let nearly = (self.datagrams + burst as u64) as f64;
        self.reached = asked.is_none_or(|asked| nearly >= asked * elapsed * REACHED_SHARE);
    }
}

struct Generator<'a> {
    ports: &'a [Port],
    plan: &'a Plan,
    stretches: Stretches,
    /// One for each size.
    trains: Vec<Train>,
    sequences: Vec<u64>,
    flow: usize,
    gso: bool,
    sent: Sent,
}

impl<'a> Generator<'a> {
    fn new(ports: &'a [Port], plan: &'a Plan) -> Self {
        let mut sizes = plan.sizes.pattern().to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let stride = |size: usize| size + plan.prefix.len();
        let slots = |size: usize| (TRAIN_BYTES_MAX / stride(size)).clamp(1, TRAIN_SEGMENTS_MAX);
        let train = |size: usize| {
            let slots = slots(size).min(plan.burst.max(1));
            Train::behind(&plan.prefix, size, slots, plan.seed)
        };
        Self {
            ports,
            plan,
            stretches: Stretches::new(plan.sizes.clone()),
            trains: sizes.into_iter().map(train).collect(),
            sequences: vec![0; ports.len()],
            flow: 0,
            gso: plan.gso,
            sent: Sent::default(),
        }
    }

    /// Sends a burst of the next flow.
    fn burst(&mut self, datagrams: u64, sent_ns: u64) -> Result<(), PortError> {
        let mut left = usize::try_from(datagrams).unwrap_or(BURST_MAX);
        while left > 0 {
            let (size, mut equal) = self.stretches.next(left);
            left -= equal;
            let Some(at) = self.trains.iter().position(|train| train.size() == size) else { break };
            while equal > 0 {
                let count = equal.min(self.trains[at].slots());
                self.train(at, count, sent_ns)?;
                equal -= count;
            }
        }
        self.flow = (self.flow + 1) % self.ports.len();
        Ok(())
    }

    fn train(&mut self, at: usize, count: usize, sent_ns: u64) -> Result<(), PortError> {
        let (train, sequence) = (&mut self.trains[at], &mut self.sequences[self.flow]);
        let flow = u32::try_from(self.flow).unwrap_or(u32::MAX);
        for slot in 0..count {
            let trial = self.plan.trial;
            train.put(slot, &Header { trial, flow, sequence: *sequence, sent_ns });
            *sequence += 1;
        }
        let size = train.size();
        if self.gso && count > 1 {
            match self.send(at, 0..count) {
                Ok(()) => return Ok(()),
                Err(error) if is_of_trains(&error) => {
                    self.gso = false;
                    self.sent.gso_refused = Some(error.to_string());
                }
                Err(source) => return Err(PortError::Send { to: self.plan.to, source }),
            }
        }
        for slot in 0..count {
            self.send(at, slot..slot + 1).map_err(|source| self.explain(source, size))?;
        }
        Ok(())
    }

    /// Sends some slots of a train at once. What the kernel refuses for reasons of its own is counted and
    /// keeps its sequence number: to the receiver it is lost.
    fn send(&mut self, at: usize, slots: std::ops::Range<usize>) -> io::Result<()> {
        let train = &self.trains[at];
        let (size, count) = (train.stride(), slots.len() as u64);
        let bytes = &train.bytes(slots.end)[slots.start * size..];
        let port = &self.ports[self.flow];
        loop {
            match port.send(self.plan.to, bytes, size) {
                Ok(()) => {
                    self.sent.datagrams += count;
                    self.sent.bytes += count * train.size() as u64;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    port.wait_writable(WRITABLE_WAIT);
                }
                Err(error) if is_passing(&error) => {
                    self.sent.refused += count;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn explain(&self, source: io::Error, size: usize) -> PortError {
        let to = self.plan.to;
        match rustix::io::Errno::from_io_error(&source) {
            Some(rustix::io::Errno::MSGSIZE) => PortError::TooLarge { size, to },
            _ => PortError::Send { to, source },
        }
    }
}

/// Errors that say "not as a train": too long for the path, or a device that cannot segment.
fn is_of_trains(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::INVAL, Errno::IO, Errno::MSGSIZE].contains(&errno))
}

/// Errors that another datagram may not meet: queues of devices, firewalls, routes that come and go.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::NOBUFS, Errno::NOMEM, Errno::PERM, Errno::NETUNREACH, Errno::HOSTUNREACH];
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| passing.contains(&errno))
        || error.kind() == io::ErrorKind::ConnectionRefused
}

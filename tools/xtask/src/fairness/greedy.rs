//! A program that sends at a rate of its own choice, whatever its channel was opened for, and one at the
//! other end that takes what arrives.

#![expect(clippy::disallowed_methods, reason = "sends in real time")]

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::perf::failure::{Failure, Outcome};
use crate::recovery::stream::{Route, connect, listen, socket};

/// Seven packets of a transport stream.
const PAYLOAD_BYTES: usize = 1_316;
/// Header, tag, UDP and IP.
const OVERHEAD_BYTES: u64 = 92;

#[derive(Debug)]
pub(crate) struct Greedy {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<u64>,
}

impl Greedy {
    /// Datagrams one by one, so many bits of IP packets of frames in a second.
    pub(crate) fn start(route: &Route, rate_bps: u64) -> Outcome<Self> {
        let (at, to) = (route.at, route.to);
        let into = socket(&route.into_namespace, move || listen(at))?;
        let from = socket(&route.from_namespace, move || connect(to))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let receiver = thread::spawn(move || receive(&into, &told));
        let told = Arc::clone(&stop);
        let sender = thread::spawn(move || send(&from, rate_bps, &told));
        Ok(Self { stop, sender, receiver })
    }

    /// How many arrived.
    pub(crate) fn stop(self) -> Outcome<u64> {
        let panicked = |_| Failure::new("a thread of the greedy stream panicked");
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().map_err(panicked)?;
        self.receiver.join().map_err(panicked)
    }
}

fn send(socket: &UdpSocket, rate_bps: u64, stop: &AtomicBool) {
    let packet_bits = (PAYLOAD_BYTES as u64 + OVERHEAD_BYTES) * 8;
    let (start, datagram) = (Instant::now(), [0; PAYLOAD_BYTES]);
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let due = Duration::from_nanos(sent * packet_bits * 1_000_000_000 / rate_bps);
        thread::sleep(due.saturating_sub(start.elapsed()));
        // What the entry refuses counts as sent.
        let _ = socket.send(&datagram);
        sent += 1;
    }
}

/// Until nothing comes any more after the end.
fn receive(socket: &UdpSocket, stop: &AtomicBool) -> u64 {
    let (mut arrived, mut datagram) = (0, [0; 2_048]);
    loop {
        match socket.recv(&mut datagram) {
            Ok(_) => arrived += 1,
            Err(_) if stop.load(Ordering::Relaxed) => return arrived,
            Err(_) => {}
        }
    }
}

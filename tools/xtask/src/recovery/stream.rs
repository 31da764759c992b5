//! A stream of numbered datagrams, one each millisecond, from a thread in one network namespace to a
//! thread in another. Spanway and its rivals are measured with the same.
//!
//! Both threads ask for real-time turns on their CPU, so that what is measured is not how busy the
//! machine is; a machine that does not grant them is measured all the same.

#![expect(clippy::disallowed_methods, reason = "measures in real time")]

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, gettid, move_into_link_name_space};

use super::flow::{Arrival, Flow, Nanos};
use crate::perf::failure::{Failure, Outcome};
use crate::perf::process::Interrupt;

/// Between two datagrams.
pub(crate) const SPACING: Duration = Duration::from_millis(1);
const PAYLOAD_BYTES: usize = 200;
/// How long the receiver waits for what is still on its way.
const REST: Duration = Duration::from_millis(300);
/// How often something is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(5);
const READ_TIMEOUT: Duration = Duration::from_millis(20);

/// Where a stream comes from and goes to.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) from_namespace: String,
    /// The sender's destination.
    pub(crate) to: SocketAddr,
    pub(crate) into_namespace: String,
    /// Where the receiver listens.
    pub(crate) at: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct Stream {
    shared: Arc<Shared>,
    sender: JoinHandle<(Vec<Nanos>, u64)>,
    receiver: JoinHandle<Vec<Arrival>>,
}

#[derive(Debug, Default)]
struct Shared {
    sender_stops: AtomicBool,
    receiver_stops: AtomicBool,
    arrived: AtomicU64,
}

impl Stream {
    /// The receiver listens before the sender begins. `mark` tells streams apart.
    pub(crate) fn start(route: &Route, mark: u16) -> Outcome<Self> {
        let shared = Arc::new(Shared::default());
        let (at, to) = (route.at, route.to);
        let into = socket(&route.into_namespace, move || listen(at))?;
        let from = socket(&route.from_namespace, move || connect(to))?;
        let told = Arc::clone(&shared);
        let receiver = thread::spawn(move || {
            ask_for_turns();
            receive(&into, mark, &told)
        });
        let told = Arc::clone(&shared);
        let sender = thread::spawn(move || {
            ask_for_turns();
            send(&from, mark, &told)
        });
        Ok(Self { shared, sender, receiver })
    }

    /// Datagrams that have come so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.shared.arrived.load(Ordering::Relaxed)
    }

    /// Ends the sender, then, when nothing is on its way any longer, the receiver.
    pub(crate) fn stop(self) -> Outcome<Flow> {
        let panicked = |_| Failure::new("a thread of a stream panicked");
        self.shared.sender_stops.store(true, Ordering::Relaxed);
        let (sent, refused) = self.sender.join().map_err(panicked)?;
        thread::sleep(REST);
        self.shared.receiver_stops.store(true, Ordering::Relaxed);
        let arrived = self.receiver.join().map_err(panicked)?;
        Ok(Flow { sent, arrived, refused })
    }
}

/// Nanoseconds since the first call.
pub(crate) fn now() -> Nanos {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Looks again and again; an error after `limit`.
pub(crate) fn wait_while(
    interrupt: &Interrupt,
    limit: Duration,
    mut more: impl FnMut() -> Outcome<bool>,
) -> Outcome<()> {
    let start = Instant::now();
    while more()? {
        if start.elapsed() > limit {
            return Err(Failure::new(format!("still not after {} s", limit.as_secs())));
        }
        interrupt.pause(LOOK)?;
    }
    Ok(())
}

fn send(socket: &UdpSocket, mark: u16, shared: &Shared) -> (Vec<Nanos>, u64) {
    let (start, mut sent, mut refused) = (Instant::now(), Vec::new(), 0);
    let mut datagram = [0; PAYLOAD_BYTES];
    datagram[..2].copy_from_slice(&mark.to_be_bytes());
    while !shared.sender_stops.load(Ordering::Relaxed) {
        let due = SPACING * u32::try_from(sent.len()).unwrap_or(u32::MAX);
        thread::sleep(due.saturating_sub(start.elapsed()));
        datagram[2..10].copy_from_slice(&(sent.len() as u64).to_be_bytes());
        sent.push(now());
        // A path that is gone may show as an error of the socket; that is the event, not the end.
        refused += u64::from(socket.send(&datagram).is_err());
    }
    (sent, refused)
}

fn receive(socket: &UdpSocket, mark: u16, shared: &Shared) -> Vec<Arrival> {
    let (mut arrived, mut datagram) = (Vec::new(), [0; 2_048]);
    loop {
        match socket.recv(&mut datagram) {
            Ok(PAYLOAD_BYTES) if datagram[..2] == mark.to_be_bytes() => {
                let at = now();
                let number = datagram[2..10].try_into().map_or(0, u64::from_be_bytes);
                arrived.push(Arrival { number, at });
                shared.arrived.fetch_add(1, Ordering::Relaxed);
            }
            // Of an earlier stream over the same service.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if shared.receiver_stops.load(Ordering::Relaxed) {
                    return arrived;
                }
            }
            // An answer of ICMP to what was never sent from here.
            Err(_) => {}
        }
    }
}

pub(crate) fn listen(at: SocketAddr) -> Outcome<UdpSocket> {
    let wrong = || Failure::of(format!("the receiver at {at}"));
    let socket = UdpSocket::bind(at).map_err(wrong())?;
    socket.set_read_timeout(Some(READ_TIMEOUT)).map_err(wrong())?;
    Ok(socket)
}

pub(crate) fn connect(to: SocketAddr) -> Outcome<UdpSocket> {
    let wrong = || Failure::of(format!("the sender's socket towards {to}"));
    let own: IpAddr = match to.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => ip.into(),
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0)).map_err(wrong())?;
    socket.connect(to).map_err(wrong())?;
    Ok(socket)
}

/// A socket of a network namespace: it belongs where it was made, whoever uses it.
pub(crate) fn socket(
    namespace: &str,
    make: impl FnOnce() -> Outcome<UdpSocket> + Send + 'static,
) -> Outcome<UdpSocket> {
    let path = format!("/run/netns/{namespace}");
    let made = thread::spawn(move || {
        let file = File::open(&path).map_err(Failure::of(&path))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(io::Error::from)
            .map_err(Failure::of(&path))?;
        make()
    });
    made.join().map_err(|_| Failure::new("a thread of a stream panicked"))?
}

fn ask_for_turns() {
    let thread = gettid().as_raw_nonzero().to_string();
    // Refused where there are no real-time turns to have.
    let _ = Command::new("chrt").args(["--fifo", "--pid", "10", &thread]).output();
}

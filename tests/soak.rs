//! Soak: twelve daemons, 200 channels that carry all the time, one of them replaced each second. Nothing may
//! grow: memory, descriptors, latency; and every datagram is accounted for.
//!
//! Three minutes here; `SPANWAY_SOAK=7200 cargo test --release --test soak -- --nocapture` for two hours,
//! with the bounds of the test plan. On a run of minutes and a machine that does other things, too, those of
//! time are wider.

#![expect(clippy::disallowed_methods, reason = "this test lives in real time")]
#![allow(clippy::print_stderr, reason = "a test that takes minutes says how it goes")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::overlay::{Overlay, Plan};
use hdrhistogram::Histogram;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

const PEERS: usize = 12;
const CHANNELS: usize = 200;
/// Between two datagrams of a channel.
const TICK: Duration = Duration::from_millis(20);
const PAYLOAD_BYTES: usize = 200;
const SAMPLE: Duration = Duration::from_secs(2);
/// Between two lines about a run of hours.
const SAID: Duration = Duration::from_secs(300);
/// A datagram that has not come by then does not come.
const SETTLED: Duration = Duration::from_secs(2);

/// What may change.
struct Bounds {
    /// Before anything is compared: what is remembered of ended channels for a while fills up.
    warm_up: Duration,
    run: Duration,
    /// Of each daemon's resident memory, after the warm-up.
    growth_bytes_per_hour: f64,
    /// Last quarter over the second.
    p50: f64,
    p99: f64,
}

impl Bounds {
    fn chosen() -> Self {
        match std::env::var("SPANWAY_SOAK").ok().and_then(|seconds| seconds.parse().ok()) {
            Some(seconds) => Self {
                warm_up: Duration::from_secs(600.min(seconds)),
                run: Duration::from_secs(seconds),
                growth_bytes_per_hour: 1_048_576.0,
                p50: 1.1,
                p99: 1.5,
            },
            // A page more or less in two minutes is 0.1 MiB an hour, an allocator's chunk of 1 MiB 30.
            None => Self {
                warm_up: Duration::from_secs(30),
                run: Duration::from_secs(180),
                growth_bytes_per_hour: 64.0 * 1_048_576.0,
                p50: 1.5,
                p99: 3.0,
            },
        }
    }
}

/// One channel that carries.
#[derive(Clone, Debug)]
struct Flow {
    number: u64,
    listen: SocketAddr,
    sent: u64,
}

/// What came: how many of each flow, and how long they were on their way, by quarter of the run.
#[derive(Debug)]
struct Came {
    of: BTreeMap<u64, u64>,
    quarters: [Histogram<u64>; 4],
    twice: u64,
}

impl Default for Came {
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 3).expect("a histogram");
        Self { of: BTreeMap::new(), quarters: [(); 4].map(|()| histogram()), twice: 0 }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

fn micros(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_micros()).expect("a short test")
}

/// Sends one datagram into every flow each tick.
fn send(origin: Instant, flows: Arc<Mutex<Vec<Flow>>>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            due += TICK;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let count = lock(&flows).len();
            for at in 0..count {
                // Flows come and go between two datagrams, never during one.
                let mut flows = lock(&flows);
                let Some(flow) = flows.get_mut(at) else { continue };
                let mut datagram = [0; PAYLOAD_BYTES];
                datagram[..8].copy_from_slice(&flow.number.to_be_bytes());
                datagram[8..16].copy_from_slice(&flow.sent.to_be_bytes());
                datagram[16..24].copy_from_slice(&micros(origin).to_be_bytes());
                socket.send_to(&datagram, flow.listen).expect("loopback takes it");
                flow.sent += 1;
            }
        }
    })
}

fn receive(
    origin: Instant,
    (socket, warm_up, run): (UdpSocket, Duration, Duration),
    came: Arc<Mutex<Came>>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut next: BTreeMap<u64, u64> = BTreeMap::new();
        let mut bytes = [0; 2_048];
        while !stop.load(Ordering::Relaxed) {
            let Ok(length) = socket.recv(&mut bytes) else { continue };
            assert_eq!(length, PAYLOAD_BYTES, "a datagram of another length");
            let field =
                |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            let (flow, sequence, sent) = (field(0), field(8), field(16));
            let (now, elapsed) = (micros(origin), origin.elapsed());
            let mut came = lock(&came);
            *came.of.entry(flow).or_default() += 1;
            let expected = next.entry(flow).or_default();
            came.twice += u64::from(sequence < *expected);
            *expected = sequence + 1;
            if let Some(measured) = elapsed.checked_sub(warm_up) {
                let quarter = (1..4).filter(|quarter| measured >= run / 4 * *quarter).count();
                came.quarters[quarter].saturating_record(now.saturating_sub(sent));
            }
        }
    })
}

fn plan(sink: SocketAddr) -> Plan {
    let names: Vec<String> = (0..PEERS).map(|at| format!("p{at}")).collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut plan = Plan::new(&refs);
    for at in 0..PEERS {
        // A ring, and as many links across it.
        plan = plan.link(&names[at], &names[(at + 1) % PEERS], "200 Mbit/s");
        if at < PEERS / 2 {
            plan = plan.link(&names[at], &names[(at + 5) % PEERS], "100 Mbit/s");
        }
    }
    let service = format!("[service.sink]\ndeliver = \"{sink}\"");
    names.iter().fold(plan, |plan, name| plan.section(name, &service))
}

/// The flows, and what is told of those that have ended.
struct Churn<'a> {
    overlay: &'a Overlay,
    random: ChaCha8Rng,
    flows: Arc<Mutex<Vec<Flow>>>,
    names: Vec<(String, String)>,
    count: u64,
    sent: BTreeMap<u64, u64>,
}

impl Churn<'_> {
    fn open(&mut self) {
        let mut below = |most: usize| self.random.next_u32() as usize % most;
        let from = below(PEERS);
        let to = (from + 1 + below(PEERS - 1)) % PEERS;
        let (peer, name) = (format!("p{from}"), format!("flow-{}", self.count));
        let opened = self.overlay.peer(&peer).open(
            &format!("p{to}/sink"),
            "200 kbit/s",
            &["--name", &name, "--one-way"],
        );
        let listen = opened["listen"].as_str().and_then(|text| text.parse().ok()).expect("it");
        self.names.push((peer, name));
        lock(&self.flows).push(Flow { number: self.count, listen, sent: 0 });
        self.count += 1;
    }

    /// The oldest one ends: nothing more is sent, what is on its way arrives, it is closed.
    fn close(&mut self) {
        let flow = lock(&self.flows).remove(0);
        thread::sleep(Duration::from_millis(100));
        let (peer, name) = self.names.remove(0);
        self.overlay.peer(&peer).ask(&["close", &name]);
        self.sent.insert(flow.number, flow.sent);
    }
}

/// Resident bytes and descriptors of every daemon.
fn sample(overlay: &Overlay) -> Vec<(u64, usize)> {
    let of = |peer: &common::overlay::Peer| {
        let statm = fs::read_to_string(format!("/proc/{}/statm", peer.process().expect("it runs")))
            .expect("it runs");
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let descriptors = fs::read_dir(format!("/proc/{}/fd", peer.process().expect("it runs")))
            .expect("it runs");
        (pages.expect("a number") * 4_096, descriptors.count())
    };
    overlay.peers().iter().map(of).collect()
}

/// Median of the slopes of all pairs (Theil and Sen), a second: one spike moves it little.
fn slope(points: &[(f64, f64)]) -> f64 {
    let pairs = points
        .iter()
        .enumerate()
        .flat_map(|(at, a)| points[at + 1..].iter().map(move |b| (b.1 - a.1) / (b.0 - a.0)));
    let mut slopes: Vec<f64> = pairs.collect();
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or_default()
}

/// What one run came to.
struct Run {
    /// Bytes of each daemon over time in seconds.
    memory: Vec<Vec<(f64, f64)>>,
    /// Of all daemons together.
    descriptors: Vec<usize>,
    came: Came,
    /// By flow.
    sent: BTreeMap<u64, u64>,
}

impl Run {
    fn of(overlay: &Overlay, socket: UdpSocket, bounds: &Bounds) -> Self {
        let flows: Arc<Mutex<Vec<Flow>>> = Arc::default();
        let random = ChaCha8Rng::seed_from_u64(1);
        let (names, sent) = Default::default();
        let mut churn = Churn { overlay, random, flows: Arc::clone(&flows), names, count: 0, sent };
        (0..CHANNELS).for_each(|_| churn.open());
        let came = Arc::new(Mutex::new(Came::default()));
        let origin = Instant::now();
        let stop = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let receiver = receive(
            origin,
            (socket, bounds.warm_up, bounds.run),
            Arc::clone(&came),
            Arc::clone(&stop[1]),
        );
        let sender = send(origin, Arc::clone(&flows), Arc::clone(&stop[0]));
        let (memory, descriptors) = watch(origin, &mut churn, bounds);
        stop[0].store(true, Ordering::Relaxed);
        sender.join().expect("it sent");
        thread::sleep(SETTLED);
        stop[1].store(true, Ordering::Relaxed);
        receiver.join().expect("every datagram was whole");
        let mut sent = churn.sent;
        sent.extend(lock(&flows).iter().map(|flow| (flow.number, flow.sent)));
        let came = std::mem::take(&mut *lock(&came));
        Self { memory, descriptors, came, sent }
    }

    fn lost(&self) -> u64 {
        self.sent.values().sum::<u64>() - self.came.of.values().sum::<u64>()
    }

    /// Of the last quarter over the second.
    fn ratio(&self, quantile: f64) -> f64 {
        let at = |quarter: usize| self.came.quarters[quarter].value_at_quantile(quantile) as f64;
        at(3) / at(1).max(1.0)
    }

    /// Of the daemon that grows most, bytes an hour.
    fn growth(&self) -> f64 {
        let slopes = self.memory.iter().map(|points| 3_600.0 * slope(points));
        slopes.fold(f64::MIN, f64::max)
    }
}

/// Lets channels come and go until the time is over, and looks at the daemons.
fn watch(
    origin: Instant,
    churn: &mut Churn<'_>,
    bounds: &Bounds,
) -> (Vec<Vec<(f64, f64)>>, Vec<usize>) {
    let (mut memory, mut descriptors) = (vec![Vec::new(); PEERS], Vec::new());
    let (mut next_churn, mut next_sample) = (origin, origin + bounds.warm_up);
    let mut next_said = origin + SAID;
    while origin.elapsed() < bounds.warm_up + bounds.run {
        thread::sleep(Duration::from_millis(20));
        let now = Instant::now();
        if now >= next_churn {
            next_churn += Duration::from_secs(1);
            churn.close();
            churn.open();
        }
        if now >= next_sample {
            next_sample += SAMPLE.max(bounds.run / 1_000);
            let sampled = sample(churn.overlay);
            descriptors.push(sampled.iter().map(|(_, descriptors)| descriptors).sum());
            let at = origin.elapsed().as_secs_f64();
            for (points, (bytes, _)) in memory.iter_mut().zip(&sampled) {
                points.push((at, *bytes as f64));
            }
        }
        if now >= next_said {
            next_said += SAID;
            say(origin, &sample(churn.overlay));
        }
    }
    (memory, descriptors)
}

/// How a long run goes: whoever waits for it sees now what its end would only sum up.
fn say(origin: Instant, sampled: &[(u64, usize)]) {
    let mebibytes: Vec<String> =
        sampled.iter().map(|(bytes, _)| format!("{:.1}", *bytes as f64 / 1_048_576.0)).collect();
    let descriptors: usize = sampled.iter().map(|(_, descriptors)| descriptors).sum();
    let minutes = origin.elapsed().as_secs() / 60;
    eprintln!("{minutes} min: {} MiB, {descriptors} descriptors", mebibytes.join(" "));
}

#[test]
fn nothing_grows_while_200_channels_come_and_go() {
    let bounds = Bounds::chosen();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20);
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time above zero");
    let overlay = plan(socket.local_addr().expect("bound")).on_loopback();
    let run = Run::of(&overlay, socket, &bounds);
    let sent: u64 = run.sent.values().sum();
    let percentiles = [0.5, 0.99].map(|quantile| {
        let last = run.came.quarters[3].value_at_quantile(quantile);
        format!("{last} us, {:.2} of the second quarter", run.ratio(quantile))
    });
    eprintln!(
        "{} channels, {sent} datagrams, {} lost; memory {:.2} MiB/h at worst; descriptors {:?} to {:?}; \
         p50 {}; p99 {}",
        run.sent.len(),
        run.lost(),
        run.growth() / 1_048_576.0,
        run.descriptors.iter().min(),
        run.descriptors.iter().max(),
        percentiles[0],
        percentiles[1],
    );
    assert_eq!(run.came.twice, 0, "none came twice or too late");
    for (flow, sent) in &run.sent {
        let received = run.came.of.get(flow).copied().unwrap_or_default();
        assert!(received <= *sent, "flow {flow}: {received} of {sent}");
    }
    let (lost, dropped) = (run.lost(), dropped(&overlay));
    assert!(lost <= dropped, "{lost} lost, {dropped} of them have a name");
    assert!(lost <= sent / 1_000, "{lost} of {sent} lost");
    assert!(run.growth() < bounds.growth_bytes_per_hour, "memory grows");
    let (first, second) = run.descriptors.split_at(run.descriptors.len() / 2);
    let most = |part: &[usize]| part.iter().copied().max().expect("sampled");
    assert!(most(second) <= most(first) + 8, "{:?}", run.descriptors);
    assert!(run.ratio(0.5) <= bounds.p50 && run.ratio(0.99) <= bounds.p99, "latency grows");
    for peer in overlay.peers() {
        let ledger = peer.ask(&["channels", "--ledger"]);
        assert_eq!(ledger["adds_up"], true, "{}: {ledger}", peer.name);
    }
}

/// By all daemons, for whatever reason, since they started.
fn dropped(overlay: &Overlay) -> u64 {
    let of = |peer: &common::overlay::Peer| {
        let counted = peer.ask(&["statistics"]);
        let drops = counted["frames"]["dropped"].as_object().cloned().unwrap_or_default();
        drops.values().filter_map(serde_json::Value::as_u64).sum::<u64>()
    };
    overlay.peers().iter().map(of).sum()
}

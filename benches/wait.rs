//! What gathering waits save and cost: `spanway forward` with and without `--latency`, single datagrams
//! of 200 bytes on loopback at a low and at high rates; CPU per datagram, wake-ups, one-way latency.
//!
//! The proxy runs on CPU 0; one thread on CPU 1 sends, and receives in between, so that neither waits
//! for the other. Runs of both kinds take turns; medians of the rounds. Not a criterion benchmark: it
//! measures another process. `cargo bench --bench wait`, with `ROUNDS=N`, `SECONDS=N` and `RATE=N` (that
//! one only) if wanted.

#![expect(clippy::disallowed_methods, reason = "measures real time")]
#![expect(clippy::print_stdout, reason = "prints its results")]

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::Value;

const RATES: [u64; 5] = [5_000, 25_000, 50_000, 100_000, 150_000];
const BYTES: usize = 200;

struct Proxy {
    child: Child,
    listen: SocketAddr,
    lines: BufReader<ChildStdout>,
}

#[derive(Clone, Copy, Default)]
struct Row {
    cpu_ns: f64,
    wakeups: f64,
    p50_us: f64,
    p99_us: f64,
    lost: f64,
}

fn main() {
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (rounds, seconds, only) = (number("ROUNDS", 5), number("SECONDS", 2), number("RATE", 0));
    if let Err(error) = spanway::net::pin_to_cpu(1) {
        println!("two CPUs are needed: {error}");
        return;
    }
    println!("{rounds} rounds of {seconds} s, {BYTES} B single datagrams, loopback");
    println!(
        "back end  rate/s   mode       CPU ns/datagram  wake-ups/datagram  p50 us  p99 us  lost"
    );
    for backend in ["uring", "mmsg"] {
        for rate in RATES.into_iter().filter(|&rate| only == 0 || rate == only) {
            let mut rows = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (rows, latency) in rows.iter_mut().zip([false, true]) {
                    rows.push(run(backend, latency, rate, Duration::from_secs(seconds)));
                }
            }
            for (rows, mode) in rows.iter().zip(["gathering", "--latency"]) {
                let median = |of: fn(&Row) -> f64| {
                    let mut values: Vec<f64> = rows.iter().map(of).collect();
                    values.sort_by(f64::total_cmp);
                    values[values.len() / 2]
                };
                println!(
                    "{backend:<8}  {rate:>6}   {mode:<9}  {:>15.0}  {:>17.3}  {:>6.1}  {:>6.1}  {:>4.0}",
                    median(|row| row.cpu_ns),
                    median(|row| row.wakeups),
                    median(|row| row.p50_us),
                    median(|row| row.p99_us),
                    median(|row| row.lost),
                );
            }
        }
    }
}

fn run(backend: &str, latency: bool, rate: u64, time: Duration) -> Row {
    let sink = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut proxy = Proxy::start(backend, latency, sink.local_addr().expect("bound"));
    let source = UdpSocket::bind("127.0.0.1:0").expect("a port");
    source.connect(proxy.listen).expect("connected");
    sink.set_nonblocking(true).expect("set");
    source.set_nonblocking(true).expect("set");
    // The first datagram makes the client's socket, and the first window chooses how to wait.
    exchange(&source, &sink, rate, Duration::from_millis(200));
    let cpu = proxy.cpu();
    let (latencies, sent) = exchange(&source, &sink, rate, time);
    let cpu = proxy.cpu() - cpu;
    let summary = proxy.finish();
    let wakeups = summary["workers"][0]["wakeups"].as_f64().expect("a count");
    let datagrams = summary["workers"][0]["datagrams"].as_f64().expect("a count");
    Row {
        cpu_ns: cpu.as_nanos() as f64 / sent as f64,
        wakeups: wakeups / datagrams,
        p50_us: latencies.value_at_quantile(0.5) as f64 / 1e3,
        p99_us: latencies.value_at_quantile(0.99) as f64 / 1e3,
        lost: sent as f64 - latencies.len() as f64,
    }
}

/// Sends at `rate` for `time`, receives in between and 20 ms longer.
fn exchange(
    source: &UdpSocket,
    sink: &UdpSocket,
    rate: u64,
    time: Duration,
) -> (Histogram<u64>, u64) {
    let mut latencies = Histogram::new(3).expect("valid");
    let (mut bytes, mut sent) = ([0; BYTES], 0);
    let gap = Duration::from_nanos(1_000_000_000 / rate);
    let start = Instant::now();
    let mut due = Duration::ZERO;
    while start.elapsed() < time + Duration::from_millis(20) {
        if start.elapsed() >= due && due < time {
            let now = u64::try_from(start.elapsed().as_nanos()).expect("short");
            bytes[..8].copy_from_slice(&now.to_ne_bytes());
            sent += u64::from(source.send(&bytes).is_ok());
            due += gap;
        }
        let mut answer = [0; BYTES];
        if let Ok(BYTES) = sink.recv(&mut answer) {
            let then = u64::from_ne_bytes(answer[..8].try_into().expect("8 bytes"));
            let now = u64::try_from(start.elapsed().as_nanos()).expect("short");
            latencies.record(now.saturating_sub(then).max(1)).expect("resizes");
        }
    }
    (latencies, sent)
}

impl Proxy {
    fn start(backend: &str, latency: bool, to: SocketAddr) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spanway"));
        command.args(["forward", "--listen", "127.0.0.1:0", "--to", &to.to_string()]);
        command.args(["--cpus", "0", "--backend", backend, "--json", "--stats-every", "10m"]);
        command.args(latency.then_some("--latency")).stdout(Stdio::piped());
        let mut child = command.spawn().expect("spanway starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let first = read(&mut lines);
        let listen = first["listen"].as_str().expect("an address").parse().expect("an address");
        Self { child, listen, lines }
    }

    /// CPU time of all its threads, exact.
    fn cpu(&self) -> Duration {
        let folder = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(folder).expect("a process");
        let times = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }

    fn finish(&mut self) -> Value {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("kill starts");
        let summary = read(&mut self.lines);
        self.child.wait().expect("our own child");
        summary
    }
}

fn read(lines: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    lines.read_line(&mut line).expect("readable");
    serde_json::from_str(&line).expect("a line of JSON")
}

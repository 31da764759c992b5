//! The program as it is used: generator and sink with something between them that spoils datagrams in a
//! known way, and the search against something that carries a known rate. Only on loopback.

use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use spanway_pktgen::port::{Port, Room};

const LOOK_EVERY: Duration = Duration::from_millis(20);

#[test]
fn what_a_relay_spoils_is_counted_to_the_last_datagram() {
    const COUNT: usize = 2_000;
    let sink = Running::start("sink", &["--count", "2020", "--idle", "5s", "--verify", "all"]);
    let relay = Relay::start(sink.address, Spoiler::default());
    let sent = json(&generate(relay.address, &["--count", "2000", "--rate", "20k"]));
    assert_eq!((num(&sent, "datagrams"), num(&sent, "refused")), (COUNT as u64, 0));
    let received = sink.json();
    let totals = &received["totals"];
    // 20 of each kind; both kinds of damage lose the datagram, too.
    for (name, expected) in [
        ("datagrams", 2_020),
        ("received", 1_940),
        ("lost", 60),
        ("duplicated", 20),
        ("reordered", 20),
        ("corrupted", 40),
        ("foreign", 20),
        ("stale", 0),
        ("flows", 1),
    ] {
        assert_eq!(num(totals, name), expected, "{name}: {totals}");
    }
    assert_eq!(num(&received, "kernel_drops"), 0);
    assert_eq!(num(&received["latency"], "count"), 1_940);
    assert_eq!(received["latency"]["clocks_differ"], false);
}

#[test]
fn flows_sizes_and_both_families_arrive_whole() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let sink = Running::listening("sink", listen, &["--count", "3000", "--idle", "5s"]);
        let shape = ["--count", "3000", "--rate", "30k", "--flows", "7", "--size", "imix"];
        let sent = json(&generate(sink.address, &shape));
        let received = sink.json();
        assert_eq!(num(&sent, "datagrams"), 3_000);
        assert_eq!(num(&received["totals"], "received"), 3_000);
        assert_eq!(num(&received["totals"], "bytes"), 3_000 / 12 * (7 * 64 + 4 * 548 + 1_472));
        let flows = received["flows"].as_array().expect("flows");
        assert_eq!(flows.len(), 7);
        for flow in flows {
            let faults = ["lost", "duplicated", "reordered"].map(|name| num(flow, name));
            assert_eq!(faults, [0, 0, 0], "{flow}");
        }
    }
}

#[test]
fn without_trains_the_same_datagrams_arrive() {
    let sink = Running::start("sink", &["--count", "500", "--idle", "5s", "--verify", "all"]);
    let sent = json(&generate(sink.address, &["--count", "500", "--rate", "10k", "--gso", "off"]));
    assert_eq!(sent["gso"], false);
    let received = sink.json();
    assert_eq!(num(&received["totals"], "received"), 500);
    assert_eq!(num(&received["totals"], "corrupted"), 0);
}

#[test]
fn answers_come_back_with_their_round_trip() {
    let echo = Running::start("echo", &["--count", "1000"]);
    let arguments = ["--count", "1000", "--rate", "10k", "--flows", "3", "--expect-echo"];
    let sent = json(&generate(echo.address, &arguments));
    let answers = &sent["echo"];
    assert_eq!((num(&answers["totals"], "received"), num(answers, "lost")), (1_000, 0));
    assert!(num(&answers["round_trip"], "p50_ns") > 0);
    assert_eq!(num(&echo.json(), "datagrams"), 1_000);
}

#[test]
fn the_search_finds_the_rate_that_a_relay_carries() {
    const CAPACITY: f64 = 40_000.0;
    let listen = free_address();
    let relay = Relay::start(listen, Limiter::new(CAPACITY));
    let (to, listen) = (relay.address.to_string(), listen.to_string());
    let found = run(&[
        "ndr",
        "--to",
        &to,
        "--listen",
        &listen,
        "--loss",
        "0",
        "--step",
        "250ms",
        "--precision",
        "5",
        "--retries",
        "2",
        "--burst",
        "8",
        "--json",
    ]);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    let found = json(&found);
    let rate = found["found"][0]["rate"].as_f64().expect("a rate passed");
    assert!((0.75 * CAPACITY..1.15 * CAPACITY).contains(&rate), "{found}");
    assert_eq!(found["found"][0]["limit"], "device");
    assert!(found["steps"].as_array().is_some_and(|steps| steps.len() >= 3));
    let loads: Vec<u64> =
        found["loads"].as_array().expect("loads").iter().map(|load| num(load, "percent")).collect();
    assert_eq!(loads, [10, 50, 90]);
    reports(&found);
}

#[test]
fn a_path_that_carries_nothing_is_said_at_once() {
    let (to, listen) = (free_address().to_string(), free_address().to_string());
    let output = run(&["ndr", "--to", &to, "--listen", &listen]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("arrived at the sink"), "{}", text(&output.stderr));
}

#[test]
fn wrong_arguments_are_refused_with_what_would_be_right() {
    for (arguments, expected) in [
        (&["gen", "--rate", "1k"][..], "--to"),
        (&["gen", "--to", "127.0.0.1:9", "--size", "39"], "at least 40 bytes"),
        (&["gen", "--to", "127.0.0.1:9", "--rate", "fast"], "50k"),
        (&["gen", "--to", "127.0.0.1"], "HOST:PORT"),
        (&["gen", "--to", "127.0.0.1:9", "--flows", "0"], "--flows"),
        (&["gen", "--to", "127.0.0.1:9", "--count", "5", "--duration", "1s"], "--duration"),
        (&["ndr", "--to", "127.0.0.1:9"], "--listen"),
        (&["report"], "FILE"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn a_sink_that_hears_nothing_says_so_in_its_exit_code() {
    let output = run(&["sink", "--listen", "127.0.0.1:0", "--for", "50ms", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(num(&json(&output)["totals"], "datagrams"), 0);
}

#[test]
fn an_interrupted_sink_still_says_what_it_counted() {
    let sink = Running::start("sink", &[]);
    let sent = json(&generate(sink.address, &["--count", "100", "--rate", "10k"]));
    assert_eq!(num(&sent, "datagrams"), 100);
    let pid = sink.child.as_ref().expect("it runs").id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
    assert!(killed.success());
    assert_eq!(num(&sink.json()["totals"], "received"), 100);
}

#[test]
fn a_thousand_flows_are_a_thousand_flows() {
    let sink = Running::start("sink", &["--count", "2000", "--idle", "5s"]);
    let shape = ["--count", "2000", "--rate", "20k", "--flows", "1000", "--burst", "1"];
    json(&generate(sink.address, &shape));
    let totals = &sink.json()["totals"];
    assert_eq!((num(totals, "flows"), num(totals, "lost")), (1_000, 0));
}

#[test]
fn a_datagram_that_does_not_fit_is_an_error_and_not_two_fragments() {
    let port = Port::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).expect("a port");
    let output = generate(port.local(), &["--size", "65500", "--count", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("65500 bytes") && error.contains("smaller --size"), "{error}");
}

/// `report` of a search: the page has its plots, the JSON beside it its numbers.
fn reports(search: &Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, page) = (folder.path().join("limiter.json"), folder.path().join("page.html"));
    std::fs::write(&input, search.to_string()).expect("written");
    let (input, out) = (input.to_string_lossy(), page.to_string_lossy());
    let output = run(&["report", &input, "--out", &out]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = std::fs::read_to_string(&page).expect("a page");
    for expected in ["limiter p99", "limiter at 90 %", "Loss against rate", "</svg>"] {
        assert!(page.contains(expected), "{expected}");
    }
    let raw = std::fs::read(folder.path().join("page.report.json")).expect("JSON beside the page");
    let raw: Value = serde_json::from_slice(&raw).expect("JSON");
    assert_eq!(raw["documents"][0]["found"], search["found"]);
}

fn run(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_spanway-pktgen");
    Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it runs")
}

fn generate(to: SocketAddr, arguments: &[&str]) -> Output {
    let to = to.to_string();
    run(&[&["gen", "--json", "--to", &to], arguments].concat())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr))
    })
}

fn num(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An address that nobody has at the moment, apart from those that other tests are given.
fn free_address() -> SocketAddr {
    Port::bind(SocketAddr::from(([127, 0, 0, 9], 0))).expect("a port").local()
}

/// A `sink` or `echo` of the program, with the address it said it has.
struct Running {
    address: SocketAddr,
    child: Option<Child>,
}

impl Running {
    fn start(command: &str, arguments: &[&str]) -> Self {
        Self::listening(command, "127.0.0.1:0", arguments)
    }

    fn listening(command: &str, listen: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_spanway-pktgen"))
            .args([command, "--json", "--listen", listen])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            line.split_once("ing at ").map(|(_, address)| address.parse().expect("an address"))
        });
        // Nothing more is said there; the pipe stays open until then.
        thread::spawn(move || lines.for_each(drop));
        Self { address: address.expect("it listens"), child: Some(child) }
    }

    /// Waits for its end.
    fn json(mut self) -> Value {
        let child = self.child.take().expect("not yet waited for");
        json(&child.wait_with_output().expect("it ends"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A test failed before it was waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What happens to a datagram on its way: any number of datagrams instead of it.
trait Fate: Send + 'static {
    fn of(&mut self, arrived_ns: u64, datagram: &[u8]) -> Vec<Vec<u8>>;
}

/// In each hundred one of each: dropped, doubled, held back behind the next, damaged in its filler,
/// damaged in its header, followed by a stranger.
#[derive(Default)]
struct Spoiler {
    seen: usize,
    held: Option<Vec<u8>>,
}

impl Fate for Spoiler {
    fn of(&mut self, _: u64, datagram: &[u8]) -> Vec<Vec<u8>> {
        let whole = datagram.to_vec();
        let damaged = |at: usize| {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            vec![damaged]
        };
        let turn = self.seen % 100;
        self.seen += 1;
        match turn {
            10 => Vec::new(),
            20 => vec![whole.clone(), whole],
            30 => {
                self.held = Some(whole);
                Vec::new()
            }
            31 => [Some(whole), self.held.take()].into_iter().flatten().collect(),
            40 => damaged(150),
            50 => damaged(20),
            60 => vec![whole, b"who is there?".to_vec()],
            _ => vec![whole],
        }
    }
}

/// Carries so many per second by the kernel's receive times, so that a stall of this thread costs nothing.
struct Limiter {
    per_ns: f64,
    tokens: f64,
    latest_ns: u64,
}

impl Limiter {
    /// 10 ms at the capacity: what a generator that was stalled for a moment sends at once.
    const DEPTH_NS: f64 = 10e6;

    fn new(per_second: f64) -> Self {
        Self { per_ns: per_second / 1e9, tokens: 0.0, latest_ns: 0 }
    }
}

impl Fate for Limiter {
    fn of(&mut self, arrived_ns: u64, datagram: &[u8]) -> Vec<Vec<u8>> {
        let passed = arrived_ns.saturating_sub(self.latest_ns) as f64;
        self.latest_ns = self.latest_ns.max(arrived_ns);
        let depth = Self::DEPTH_NS * self.per_ns;
        self.tokens = (self.tokens + passed * self.per_ns).min(depth);
        if self.tokens < 1.0 {
            return Vec::new();
        }
        self.tokens -= 1.0;
        vec![datagram.to_vec()]
    }
}

/// Something between generator and sink, in a thread of the test.
struct Relay {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn start(to: SocketAddr, mut fate: impl Fate) -> Self {
        let port = Port::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let (address, stop) = (port.local(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let relay = move || {
            let mut room = Room::new();
            while !stopped.load(Ordering::Relaxed) {
                if port.receive(&mut room).expect("received") == 0 {
                    port.wait_readable(LOOK_EVERY);
                }
                for arrived in room.arrived() {
                    let arrived_ns = arrived.kernel_ns.expect("the kernel stamps");
                    for datagram in arrived.bytes.chunks(arrived.stride) {
                        for datagram in fate.of(arrived_ns, datagram) {
                            port.send(to, &datagram, datagram.len()).expect("sent");
                        }
                    }
                }
            }
        };
        Self { address, stop, thread: Some(thread::spawn(relay)) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking(), "the relay died");
        }
    }
}

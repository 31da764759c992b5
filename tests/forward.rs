//! `spanway forward` as a program: real processes on loopback, on both back ends. Clients and servers
//! are sockets of this test; every datagram says whose it is, and the counters must account for all.

#![allow(clippy::print_stdout, reason = "a test tells what it skips")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use socket2::{MsgHdr, SockAddr, SockRef};
use tempfile::TempDir;

mod common;

use common::program::{Program, pass, wait_for};

const SPANWAY: &str = env!("CARGO_BIN_EXE_spanway");
const BACKENDS: [&str; 2] = ["uring", "mmsg"];
/// For anything that two busy cores have to get done.
const LONG: Duration = Duration::from_secs(30);
/// For what must not come: long against the microseconds a forwarded datagram takes.
const SHORT: Duration = Duration::from_millis(200);

/// A running proxy that prints its counters every 50 ms.
struct Proxy {
    program: Program,
    listen: SocketAddr,
    lines: BufReader<ChildStdout>,
    _folder: TempDir,
}

impl Proxy {
    fn start(backend: &str, listen: &str, to: SocketAddr, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = forward(listen, &to.to_string(), more);
        command.args(["--backend", backend, "--json", "--stats-every", "50ms"]);
        let mut program = Program::start("forward", folder.path(), command.stdout(Stdio::piped()));
        let stdout = program.child().stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout);
        let mut first = String::new();
        lines.read_line(&mut first).expect("readable");
        let first: Value = serde_json::from_str(&first)
            .unwrap_or_else(|e| panic!("{e} in {first:?}\n{}", program.log()));
        assert_eq!(first["event"], "started");
        assert_eq!(first["backend"], backend);
        let listen = first["listen"].as_str().expect("an address").parse().expect("an address");
        Self { program, listen, lines, _folder: folder }
    }

    /// The next counters it prints.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("readable");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
    }

    /// Reads on until the counters are as wanted.
    fn wait_until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) {
        wait_for(what, LONG, || wanted(&self.next()).then_some(()));
    }

    /// Ends it as a person would and checks the books; the summary.
    fn finish(mut self) -> Value {
        self.program.terminate();
        let summary = loop {
            let line = self.next();
            if line["event"] == "summary" {
                break line;
            }
        };
        assert!(self.program.join(LONG).success(), "{}", self.program.log());
        for side in ["to_server", "to_clients"] {
            let side = &summary[side];
            let dropped: u64 = drops(side).values().sum();
            let (received, sent) = (count(&side["received"]), count(&side["sent"]));
            assert_eq!(received, sent + dropped, "{summary}");
        }
        summary
    }

    fn open_files(&mut self) -> usize {
        let folder = format!("/proc/{}/fd", self.program.child().id());
        std::fs::read_dir(folder).expect("a process").count()
    }
}

/// Answers every datagram with itself, from its own thread.
struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("bound");
        enlarge(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
        let (address, stop) = (socket.local_addr().expect("bound"), Arc::default());
        let stopped: Arc<AtomicBool> = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            while !stopped.load(Relaxed) {
                if let Ok((count, from)) = socket.recv_from(&mut bytes) {
                    socket.send_to(&bytes[..count], from).expect("sent");
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().expect("joined once").join();
    }
}

fn forward(listen: &str, to: &str, more: &[&str]) -> Command {
    let mut command = Command::new(SPANWAY);
    command.args(["forward", "--listen", listen, "--to", to]).args(more).stdin(Stdio::null());
    command
}

fn client(proxy: &Proxy) -> UdpSocket {
    client_from(if proxy.listen.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }, proxy.listen)
}

fn client_from(address: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("bound");
    enlarge(&socket);
    socket.connect(to).expect("connected");
    socket.set_read_timeout(Some(LONG)).expect("set");
    socket
}

fn enlarge(socket: &UdpSocket) {
    SockRef::from(socket).set_recv_buffer_size(4 << 20).expect("set");
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let count = socket.recv(&mut bytes).expect("an answer");
    bytes.truncate(count);
    bytes
}

fn silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SHORT)).expect("set");
    let nothing = socket.recv(&mut [0; 1]).is_err();
    socket.set_read_timeout(Some(LONG)).expect("set");
    nothing
}

/// A datagram nobody else sends.
fn payload(client: usize, sequence: usize, bytes: usize) -> Vec<u8> {
    let mut payload = format!("client {client} datagram {sequence} ").into_bytes();
    let filler =
        (payload.len()..bytes).map(|at| (at * 7 + client * 13 + sequence).to_le_bytes()[0]);
    payload.extend(filler);
    payload.truncate(bytes);
    payload
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn drops(side: &Value) -> BTreeMap<String, u64> {
    let dropped = side["dropped"].as_object().expect("an object");
    dropped.iter().map(|(reason, value)| (reason.clone(), count(value))).collect()
}

/// The limit of open files of this process, for tests with many sockets.
fn raise_open_files() {
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--nofile=4096:"]).output();
    if !raised.is_ok_and(|out| out.status.success()) {
        println!("the limit of open files stays as it is: no prlimit");
    }
}

fn answers_come_back(clients: usize, rounds: usize) {
    raise_open_files();
    for backend in BACKENDS {
        let echo = Echo::start("127.0.0.1:0");
        let proxy = Proxy::start(backend, "127.0.0.1:0", echo.address, &[]);
        let sockets: Vec<UdpSocket> = (0..clients).map(|_| client(&proxy)).collect();
        for round in 0..rounds {
            // Some at a time: no socket of this test overflows.
            for (part, sockets) in sockets.chunks(50).enumerate() {
                for (index, socket) in sockets.iter().enumerate() {
                    for sequence in 0..3 {
                        let sequence = round * 3 + sequence;
                        socket.send(&payload(part * 50 + index, sequence, 200)).expect("sent");
                    }
                }
                for (index, socket) in sockets.iter().enumerate() {
                    for sequence in 0..3 {
                        let expected = payload(part * 50 + index, round * 3 + sequence, 200);
                        assert_eq!(receive(socket), expected, "{backend}: client {index}");
                    }
                }
            }
        }
        let summary = proxy.finish();
        let datagrams = (clients * rounds * 3) as u64;
        assert_eq!(summary["clients_total"], clients, "{summary}");
        for side in ["to_server", "to_clients"] {
            assert_eq!(summary[side]["sent"], datagrams, "{backend}: {summary}");
            assert_eq!(summary[side]["sent_bytes"], datagrams * 200);
        }
    }
}

#[test]
fn a20_one_client_gets_its_answers_in_order() {
    answers_come_back(1, 100);
}

#[test]
fn a20_a_hundred_clients_get_their_own_answers_and_no_others() {
    answers_come_back(100, 5);
}

#[test]
fn a20_a_thousand_clients_get_their_own_answers_and_no_others() {
    answers_come_back(1_000, 2);
}

#[test]
fn a20_super_buffers_stay_whole_in_both_directions() {
    for backend in BACKENDS {
        let server = UdpSocket::bind("127.0.0.1:0").expect("bound");
        enlarge(&server);
        server.set_read_timeout(Some(LONG)).expect("set");
        let proxy = Proxy::start(backend, "127.0.0.1:0", server.local_addr().expect("bound"), &[]);
        let client = client(&proxy);
        // Trains of every length, with and without a shorter last one; 64 is the most that GSO takes
        // on every kernel.
        let mut sent = 0;
        for segments in [2, 3, 17, 64] {
            for last in [200, 1, 199] {
                let datagrams: Vec<Vec<u8>> = (0..segments)
                    .map(|i| payload(9, sent + i, if i + 1 == segments { last } else { 200 }))
                    .collect();
                send_train(&client, proxy.listen, &datagrams);
                let mut back = SocketAddr::from(([0, 0, 0, 0], 0));
                for expected in &datagrams {
                    let mut bytes = [0; 2_000];
                    let (count, from) = server.recv_from(&mut bytes).expect("forwarded");
                    assert_eq!(&bytes[..count], expected, "{backend} {segments} {last}");
                    back = from;
                }
                send_train(&server, back, &datagrams);
                for expected in &datagrams {
                    assert_eq!(&receive(&client), expected, "{backend} {segments} {last}");
                }
                sent += segments;
            }
        }
        let summary = proxy.finish();
        for side in ["to_server", "to_clients"] {
            assert_eq!(summary[side]["sent"], sent, "{backend}: {summary}");
        }
        // One receive and one send each way for each of the 12 trains: nothing was taken apart.
        assert_eq!(summary["receives"], 24, "{backend}: {summary}");
        assert_eq!(summary["sends"], 24, "{backend}: {summary}");
    }
}

/// Datagrams of equal size, the last perhaps shorter, in one call.
fn send_train(socket: &UdpSocket, to: SocketAddr, datagrams: &[Vec<u8>]) {
    const UDP_SEGMENT: i32 = 103;
    const SOL_UDP: i32 = 17;
    let mut control = Vec::new();
    control.extend_from_slice(&18_usize.to_ne_bytes());
    control.extend_from_slice(&SOL_UDP.to_ne_bytes());
    control.extend_from_slice(&UDP_SEGMENT.to_ne_bytes());
    control.extend_from_slice(&u16::try_from(datagrams[0].len()).expect("small").to_ne_bytes());
    control.resize(24, 0);
    let to = SockAddr::from(to);
    let parts: Vec<IoSlice<'_>> = datagrams.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut message = MsgHdr::new().with_buffers(&parts).with_control(&control);
    let connected = socket.peer_addr().is_ok();
    if !connected {
        message = message.with_addr(&to);
    }
    let sent = SockRef::from(socket).sendmsg(&message, 0).expect("sent");
    assert_eq!(sent, datagrams.iter().map(Vec::len).sum::<usize>());
}

#[test]
fn a20_datagrams_of_any_size_go_through_whole() {
    for backend in BACKENDS {
        let echo = Echo::start("127.0.0.1:0");
        let proxy = Proxy::start(backend, "127.0.0.1:0", echo.address, &[]);
        let client = client(&proxy);
        for (sequence, bytes) in
            [0, 1, 27, 28, 1_472, 1_473, 8_900, 32_768, 60_000, 65_507].into_iter().enumerate()
        {
            let datagram = payload(1, sequence, bytes);
            client.send(&datagram).expect("sent");
            assert_eq!(receive(&client), datagram, "{backend}: {bytes} bytes");
        }
        // Sizes mixed in one burst keep their order.
        let datagrams: Vec<Vec<u8>> =
            (0..60).map(|i| payload(2, i, [0, 100, 100, 8_900, 30][i % 5])).collect();
        datagrams.iter().for_each(|datagram| assert!(client.send(datagram).is_ok()));
        for expected in &datagrams {
            assert_eq!(&receive(&client), expected, "{backend}");
        }
        proxy.finish();
    }
}

#[test]
fn a20_ipv6_and_mixed_families_go_through() {
    for backend in BACKENDS {
        for (listen, client_address, server) in [
            ("[::1]:0", "[::1]:0", "[::1]:0"),
            ("[::1]:0", "[::1]:0", "127.0.0.1:0"),
            ("127.0.0.1:0", "127.0.0.1:0", "[::1]:0"),
            // A socket of both families.
            ("[::]:0", "127.0.0.1:0", "[::1]:0"),
            ("[::]:0", "[::1]:0", "127.0.0.1:0"),
        ] {
            let echo = Echo::start(server);
            let proxy = Proxy::start(backend, listen, echo.address, &[]);
            let ip = if client_address.starts_with('[') { "[::1]" } else { "127.0.0.1" };
            let to = format!("{ip}:{}", proxy.listen.port()).parse().expect("an address");
            let client = client_from(client_address, to);
            for sequence in 0..20 {
                client.send(&payload(1, sequence, 300)).expect("sent");
            }
            for sequence in 0..20 {
                let expected = payload(1, sequence, 300);
                assert_eq!(receive(&client), expected, "{backend} {listen} {server}");
            }
            proxy.finish();
        }
    }
}

#[test]
fn a20_a_silent_client_loses_its_socket_and_a_returning_one_works() {
    for backend in BACKENDS {
        let echo = Echo::start("127.0.0.1:0");
        let mut proxy = Proxy::start(backend, "127.0.0.1:0", echo.address, &["--idle", "500ms"]);
        let clients: Vec<UdpSocket> = (0..100).map(|_| client(&proxy)).collect();
        for round in 1..=2 {
            for (index, client) in clients.iter().enumerate() {
                client.send(&payload(index, round, 100)).expect("sent");
                assert_eq!(receive(client), payload(index, round, 100));
            }
            proxy.wait_until("all clients known", |line| {
                count(&line["clients_total"]) == 100 * round as u64
            });
            proxy.wait_until("the silent clients gone", |line| line["clients"] == 0);
            // A socket of each would be a hundred and more.
            let files = proxy.open_files();
            assert!(files < 100, "{backend}: {files} open files");
        }
        // One that is used stays, also if only the server speaks.
        let client = client(&proxy);
        for sequence in 0..12 {
            client.send(&payload(1, sequence, 100)).expect("sent");
            assert_eq!(receive(&client), payload(1, sequence, 100));
            pass(Duration::from_millis(100));
        }
        assert_eq!(proxy.finish()["clients_total"], 201, "{backend}");
    }
}

#[test]
fn a20_one_client_too_many_is_dropped_by_name_and_harms_no_other() {
    for backend in BACKENDS {
        let echo = Echo::start("127.0.0.1:0");
        let options = ["--clients-max", "2", "--idle", "1s"];
        let mut proxy = Proxy::start(backend, "127.0.0.1:0", echo.address, &options);
        let clients: Vec<UdpSocket> = (0..3).map(|_| client(&proxy)).collect();
        for (index, client) in clients.iter().enumerate() {
            client.send(&payload(index, 0, 50)).expect("sent");
            if index < 2 {
                assert_eq!(receive(client), payload(index, 0, 50));
            }
        }
        assert!(silent(&clients[2]), "{backend}");
        proxy.wait_until("room again", |line| line["clients"] == 0);
        clients[2].send(&payload(2, 1, 50)).expect("sent");
        assert_eq!(receive(&clients[2]), payload(2, 1, 50), "{backend}");
        let summary = proxy.finish();
        let expected = BTreeMap::from([("client_limit".to_owned(), 1)]);
        assert_eq!(drops(&summary["to_server"]), expected, "{backend}");
    }
}

#[test]
fn a20_a_server_that_is_down_costs_no_later_datagram() {
    for backend in BACKENDS {
        let reserved = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let server = reserved.local_addr().expect("bound");
        drop(reserved);
        let mut proxy = Proxy::start(backend, "127.0.0.1:0", server, &[]);
        let client = client(&proxy);
        for sequence in 0..100 {
            client.send(&payload(1, sequence, 100)).expect("sent");
        }
        proxy
            .wait_until("all forwarded into the void", |line| line["to_server"]["received"] == 100);
        let _echo = Echo::start(&server.to_string());
        for sequence in 100..200 {
            client.send(&payload(1, sequence, 100)).expect("sent");
        }
        for sequence in 100..200 {
            assert_eq!(receive(&client), payload(1, sequence, 100), "{backend}");
        }
        proxy.finish();
    }
}

#[test]
fn a20_an_answer_from_elsewhere_never_reaches_the_client() {
    for backend in BACKENDS {
        let server = UdpSocket::bind("127.0.0.1:0").expect("bound");
        server.set_read_timeout(Some(LONG)).expect("set");
        let proxy = Proxy::start(backend, "127.0.0.1:0", server.local_addr().expect("bound"), &[]);
        let client = client(&proxy);
        client.send(b"question").expect("sent");
        let (_, back) = server.recv_from(&mut [0; 100]).expect("forwarded");
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let port = back.port();
        for _ in 0..3 {
            stranger.send_to(b"lie", ("127.0.0.1", port)).expect("sent");
        }
        assert!(silent(&client), "{backend}");
        server.send_to(b"truth", back).expect("sent");
        assert_eq!(receive(&client), b"truth");
        let summary = proxy.finish();
        let expected = BTreeMap::from([("foreign_answer".to_owned(), 3)]);
        assert_eq!(drops(&summary["to_clients"]), expected, "{backend}");
        assert_eq!(summary["to_clients"]["sent"], 1);
    }
}

#[test]
fn a20_what_the_kernel_dropped_is_in_the_books() {
    for backend in BACKENDS {
        let sink = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let mut proxy =
            Proxy::start(backend, "127.0.0.1:0", sink.local_addr().expect("bound"), &[]);
        let client = client(&proxy);
        client.send(&payload(1, 0, 1_000)).expect("sent");
        proxy.wait_until("the first one", |line| line["to_server"]["received"] == 1);
        // Stopped, it takes nothing: far more than any socket buffer holds.
        proxy.program.signal("-STOP");
        let sent = 20_000;
        for sequence in 1..sent {
            client.send(&payload(1, sequence, 1_000)).expect("sent");
        }
        proxy.program.signal("-CONT");
        proxy.wait_until("something received", |line| count(&line["to_server"]["received"]) > 100);
        pass(SHORT);
        // The kernel tells its count with the next datagram.
        client.send(&payload(1, sent, 1_000)).expect("sent");
        proxy.wait_until("all accounted for", |line| {
            line["to_server"]["received"] == sent as u64 + 1
        });
        let summary = proxy.finish();
        assert!(drops(&summary["to_server"])["kernel_receive"] > 0, "{backend}: {summary}");
    }
}

#[test]
fn a20_several_workers_share_one_port_that_nobody_else_gets() {
    let cpus = std::thread::available_parallelism().expect("known").get();
    if cpus < 2 {
        println!("skipped: this machine has one CPU");
        return;
    }
    for backend in BACKENDS {
        let echo = Echo::start("127.0.0.1:0");
        let mut proxy = Proxy::start(backend, "127.0.0.1:0", echo.address, &["--cpus", "0,1"]);
        let sockets: Vec<UdpSocket> = (0..64).map(|_| client(&proxy)).collect();
        for (index, socket) in sockets.iter().enumerate() {
            for sequence in 0..10 {
                socket.send(&payload(index, sequence, 150)).expect("sent");
            }
            for sequence in 0..10 {
                assert_eq!(receive(socket), payload(index, sequence, 150), "{backend}");
            }
        }
        let busy = wait_for("both workers' counters", LONG, || {
            let line = proxy.next();
            let workers = line["workers"].as_array().expect("a list").clone();
            let received: Vec<u64> = workers.iter().map(|w| count(&w["datagrams"])).collect();
            (received.iter().sum::<u64>() == 2 * 640).then_some(received)
        });
        // Chosen by a hash: 64 clients on one of two workers only is a chance of 2^-63.
        assert!(busy.iter().all(|&received| received > 0), "{backend}: {busy:?}");
        let second = UdpSocket::bind(proxy.listen).expect_err("the port is taken");
        assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
        let text =
            refused(&proxy.listen.to_string(), &echo.address.to_string(), &["--cpus", "0,1"]);
        assert!(text.contains("in use") && text.contains(&proxy.listen.to_string()), "{text}");
        proxy.finish();
    }
}

#[test]
fn what_cannot_be_started_says_why_and_what_to_do() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let taken = taken.local_addr().expect("bound").to_string();
    for (listen, to, more, code, words) in [
        (taken.as_str(), "127.0.0.1:9", &[][..], 1, &["in use", taken.as_str()][..]),
        ("127.0.0.1:7", "127.0.0.1:7", &[], 2, &["--to 127.0.0.1:7", "come back"]),
        ("0.0.0.0:7777", "127.0.0.1:7777", &[], 2, &["come back"]),
        ("127.0.0.1:0", "127.0.0.1", &[], 2, &["--to 127.0.0.1", "NAME:PORT"]),
        ("127.0.0.1:0", "0.0.0.0:5", &[], 2, &["nothing can be sent there"]),
        ("127.0.0.1:0", "no-such-host.invalid:5", &[], 1, &["no-such-host.invalid", "resolved"]),
        ("192.0.2.1:5000", "127.0.0.1:5", &[], 1, &["192.0.2.1:5000", "not one of this host"]),
        ("127.0.0.1:0", "127.0.0.1:5", &["--cpus", "1023"], 1, &["CPU 1023", "--cpus"]),
        ("127.0.0.1:0", "127.0.0.1:5", &["--cpus", "0,0"], 2, &["twice"]),
        ("127.0.0.1:0", "127.0.0.1:5", &["--backend", "dpdk"], 2, &["dpdk", "mmsg"]),
        ("127.0.0.1:0", "127.0.0.1:5", &["--idle", "5"], 2, &["500ms"]),
        ("127.0.0.1:0", "127.0.0.1:5", &["--clients-max", "0"], 2, &["clients-max"]),
        ("127.0.0.1", "127.0.0.1:5", &[], 2, &["--listen"]),
    ] {
        let out = run(listen, to, more);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{listen} {to} {more:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{listen} {to} {more:?}: {word:?} not in {text}");
        }
    }
}

#[test]
fn the_summary_for_people_accounts_for_every_datagram() {
    let folder = tempfile::tempdir().expect("a folder");
    let echo = Echo::start("127.0.0.1:0");
    let listen = UdpSocket::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    let mut program = started(folder.path(), listen, echo.address);
    wait_for("it runs", LONG, || program.log().contains("forwarding").then_some(()));
    let client = client_from("127.0.0.1:0", listen);
    for sequence in 0..7 {
        client.send(&payload(1, sequence, 100)).expect("sent");
        assert_eq!(receive(&client), payload(1, sequence, 100));
    }
    program.signal("-INT");
    let status = program.join(LONG);
    assert!(status.success(), "{status}: {}", program.log());
    let mut text = String::new();
    let stdout = program.child().stdout.take().expect("piped");
    std::io::Read::read_to_string(&mut BufReader::new(stdout), &mut text).expect("readable");
    assert!(text.contains("to server   in 7 = out 7 + dropped 0"), "{text}");
    assert!(text.contains("to clients  in 7 = out 7 + dropped 0"), "{text}");
    // Not a terminal, and nobody asked for counters.
    assert!(!program.log().contains("to server"), "{}", program.log());
}

fn started(folder: &Path, listen: SocketAddr, to: SocketAddr) -> Program {
    let mut command = forward(&listen.to_string(), &to.to_string(), &[]);
    Program::start("forward", folder, command.stdout(Stdio::piped()))
}

fn run(listen: &str, to: &str, more: &[&str]) -> Output {
    forward(listen, to, more).output().expect("spanway starts")
}

fn refused(listen: &str, to: &str, more: &[&str]) -> String {
    let out = run(listen, to, more);
    assert_eq!(out.status.code(), Some(1));
    String::from_utf8_lossy(&out.stderr).into_owned()
}

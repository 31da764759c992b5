//! The two lanes of a peer on real threads: where they run, how they are marked on the wire, and that
//! neither starves.
//!
//! Needs Linux's `/proc`; what also needs root or a second CPU says once that it is skipped.

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

mod common;
#[allow(dead_code, reason = "the engine's tests use the rest of it")]
#[path = "engine/options.rs"]
mod options;

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::netns;
use common::overlay::{Peer, Plan};
use common::program::{output, pass};
use options::cut;
use serde_json::json;

#[test]
fn a20_frames_and_control_connections_are_marked_as_configured_over_both_families() {
    if !netns::available() {
        return;
    }
    for (ipv6, field) in [(false, "tos"), (true, "tclass")] {
        let marks = "[engine]\ndscp = \"EF\"\n[control]\ndscp = 48";
        let overlay = Plan::new(&["a", "b"])
            .link("a", "b", "10 Mbit/s")
            .section("a", marks)
            .section("b", marks)
            .in_namespaces(ipv6);
        for peer in ["a", "b"] {
            let listed = |what: &[&str]| {
                let mut ss = overlay.peer(peer).command("ss");
                output(ss.args(["-nH", "--tos"]).args(what))
            };
            let frames = listed(&["-ua", "sport", "=", ":7000"]);
            assert!(frames.contains(&format!("{field}:0xb8")), "{peer}: {frames}");
            let control = listed(&["-t", "state", "established"]);
            assert!(control.contains(&format!("{field}:0xc0")), "{peer}: {control}");
        }
    }
}

#[test]
fn a20_the_control_thread_is_off_the_worker_cpus_where_there_is_another() {
    let allowed = cpus_of("self", std::process::id());
    let (Some(&worker), true) = (allowed.first(), allowed.len() > 1) else {
        return skip("one CPU: the lanes have to share it");
    };
    let overlay = Plan::new(&["a", "b"])
        .link("a", "b", "10 Mbit/s")
        .section("a", &format!("[engine]\ncpus = [{worker}]"))
        .section("b", &format!("[engine]\ncpus = [{worker}]\n[control]\ncpus = [{worker}]"))
        .on_loopback();
    let others: Vec<usize> = allowed.iter().copied().filter(|&cpu| cpu != worker).collect();
    for (peer, control) in [("a", &others), ("b", &vec![worker])] {
        let status = overlay.peer(peer).ask(&["status"]);
        let pid = pid_of(overlay.peer(peer));
        assert_eq!(cpus_of(&pid.to_string(), pid), *control, "{peer}");
        assert_eq!(status["control"]["cpus"], json!(control), "{peer}");
        assert_eq!(status["control"]["shared"], json!(peer == "b"), "{peer}");
        let thread = worker_thread(pid);
        assert_eq!(cpus_of(&pid.to_string(), thread), [worker], "{peer}");
        // What else the control thread started is where it is.
        for entry in fs::read_dir(format!("/proc/{pid}/task")).expect("a process") {
            let task = entry.expect("a task").file_name().into_string().expect("a number");
            let task: u32 = task.parse().expect("a number");
            let name = fs::read_to_string(format!("/proc/{pid}/task/{task}/comm"));
            let name = name.expect("a thread");
            // The one that waits for the parent's death is older than the lanes, and never works.
            if task != thread && name.trim() != "stdin" {
                assert_eq!(cpus_of(&pid.to_string(), task), *control, "{peer}, {name}");
            }
        }
    }
}

#[test]
fn a20_both_lanes_request_their_slices_where_the_kernel_has_them() {
    let overlay = Plan::new(&["a"]).on_loopback();
    let status = overlay.peer("a").ask(&["status"]);
    let (worker, control) = (&status["workers"][0]["slice_us"], &status["control"]["slice_us"]);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(6), Some(12)) {
        assert_eq!((worker, control), (&json!(100), &json!(10_000)));
    }
    assert!(status["control"]["longest_piece_us"].as_u64().is_some_and(|us| us > 0), "{status}");
}

#[test]
fn a20_no_link_is_called_dead_while_the_relay_is_saturated_with_frames() {
    let cpu = *cpus_of("self", std::process::id()).first().expect("a CPU");
    let sections = format!("[engine]\ncpus = [{cpu}]\n[control]\ncpus = [{cpu}]");
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "40 Gbit/s")
        .link("b", "c", "40 Gbit/s")
        .section("b", &sections)
        .section("c", "[service.sink]\ndeliver = \"127.0.0.1:9\"")
        .on_loopback();
    // Plain: sealing would take the CPUs of those who send.
    let opened = overlay.peer("a").open("c/sink", "30 Gbit/s", &["--plain"]);
    let entry: SocketAddr = opened["listen"].as_str().and_then(|at| at.parse().ok()).expect("it");
    let status = overlay.peer("b").ask(&["status"]);
    let relay: SocketAddr = status["listen"].as_str().and_then(|at| at.parse().ok()).expect("it");
    let pid = pid_of(overlay.peer("b"));
    let thread = worker_thread(pid);

    // Frames through the channel, and strangers' datagrams for the rest of the relay's time.
    let floods = [entry, relay, relay, relay, relay].map(Flood::start);
    pass(Duration::from_millis(500));
    let (start, before) = (Instant::now(), wanted_time(pid, thread));
    pass(Duration::from_secs(6));
    let wanted = wanted_time(pid, thread) - before;
    let share = wanted.as_secs_f64() / start.elapsed().as_secs_f64();
    let sent: u64 = floods.into_iter().map(Flood::stop).sum();

    assert!(share > 0.9, "the worker wanted only {share:.2} of its CPU: no saturation");
    for peer in ["a", "b", "c"] {
        let log = overlay.peer(peer).log();
        assert!(!log.contains("heartbeat"), "{peer} after {sent} datagrams:\n{log}");
        assert_eq!(log.matches("link up").count(), if peer == "b" { 2 } else { 1 }, "{log}");
    }
    let dropped = &overlay.peer("b").ask(&["status"])["workers"][0]["dropped"];
    assert!(dropped["malformed"].as_u64() > Some(10_000), "{dropped}");
}

/// A thread that sends as fast as it can, as many at once as the kernel takes: or senders would need more of
/// the CPUs than the worker they flood.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Flood {
    fn start(to: SocketAddr) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            cut(&socket, 200);
            while !told.load(Ordering::Relaxed) {
                // A full buffer is what a flood is for.
                let _ = socket.send_to(&[7; 64 * 200], to);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, sent, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a flood does not panic");
        self.sent.load(Ordering::Relaxed)
    }
}

fn pid_of(peer: &Peer) -> u32 {
    let status = peer.ask(&["status"]);
    status["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a process id")
}

fn worker_thread(pid: u32) -> u32 {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let is_worker = |task: &u32| {
        let name = fs::read_to_string(folder.join(task.to_string()).join("comm"));
        name.is_ok_and(|name| name.trim() == "spanway-w0")
    };
    let tasks = fs::read_dir(&folder).expect("a process");
    let mut tasks = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    tasks.find(is_worker).expect("worker 0")
}

/// Time a thread ran, and time it was ready to.
fn wanted_time(pid: u32, thread: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).expect("stats");
    let nanos: u64 = text.split_whitespace().take(2).map(|n| n.parse::<u64>().expect("ns")).sum();
    Duration::from_nanos(nanos)
}

/// `Cpus_allowed_list` of a thread.
fn cpus_of(process: &str, thread: u32) -> Vec<usize> {
    let status = fs::read_to_string(format!("/proc/{process}/task/{thread}/status"));
    let status = status.expect("a thread");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let number = |text: &str| text.trim().parse::<usize>().expect("a CPU");
    let ranges = list.expect("the kernel says").trim().split(',');
    let range = |range: &str| match range.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(range)..=number(range),
    };
    ranges.flat_map(range).collect()
}

fn skip(why: &str) {
    let text = format!("\n##### LANE TEST SKIPPED: {why} #####\n\n");
    std::io::stderr().write_all(text.as_bytes()).expect("standard error is open");
}

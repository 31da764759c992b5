//! Real daemons on loopback: what a killed relay costs the channels that cross it, and that it costs
//! the others nothing; what the command line and the log of the survivors say.
//!
//! ```text
//!   a ═══ r ═══ t        ═ 1 Gbit/s
//!         ║ ╲            ─ 100 Mbit/s
//!         k   m
//!         ║ ╱            a to t over r: must not notice that k dies
//!         z              a to z over r and k: moves to m
//! ```

#![allow(clippy::print_stdout, reason = "a test tells what it measured")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan, path_of};
use common::program::{now, pass, poll, wait_for};
use common::stream::{Collector, Pacer};
use serde_json::Value;

const FRAMES_PER_SECOND: u32 = 1_000;
const MOVED: Duration = Duration::from_secs(10);

#[test]
fn a3_a17_channels_beside_a_killed_relay_lose_not_one_frame() {
    kill_beside_streams("[engine]\ncpus = []");
}

#[test]
fn a3_a17_it_is_the_same_without_io_uring() {
    kill_beside_streams("[engine]\ncpus = []\nbackend = \"mmsg\"");
}

#[test]
fn a17_a20_channels_on_two_workers_lose_not_one_frame_beside_a_killed_relay() {
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        println!("skipped: two workers need two CPUs");
        return;
    }
    kill_beside_streams("[engine]\ncpus = [0, 1]");
}

/// Two streams over `r`, one over `r` and `k`, all at 1,000 frames/s; `k` dies without a word.
fn kill_beside_streams(engine: &str) {
    let (to_t, to_z) = (Collector::start(), Collector::start());
    let mut overlay = drawing(engine, to_t.address, to_z.address);
    let a = overlay.peer("a");
    let beside = [("one", "t/video"), ("two", "t/video")];
    let mut streams = Vec::new();
    for ((name, service), mark) in beside.into_iter().chain([("over", "z/video")]).zip(1..) {
        let reply = a.open(service, "4 Mbit/s", &["--name", name]);
        streams.push(Pacer::start(address(&reply["listen"]), mark, FRAMES_PER_SECOND));
    }
    assert_eq!(path_of(&row(a, "over")), ["a", "r", "k", "z"]);
    assert_eq!(path_of(&row(a, "one")), ["a", "r", "t"]);
    pass(Duration::from_secs(1));
    // Before: killing waits until the process is gone, and the channel may be back by then.
    let killed = now();
    overlay.kill("k");
    let moved = moved_to(overlay.peer("a"), &["a", "r", "m", "z"]);
    let gap = killed.elapsed();
    pass(Duration::from_secs(1));

    let sent: Vec<u64> = streams.into_iter().map(Pacer::stop).collect();
    let a = overlay.peer("a");
    let t = overlay.peer("t");
    for (name, sent) in [("one", sent[0]), ("two", sent[1])] {
        let arrived = || {
            let (here, there) = (row(a, name), row(t, name));
            (here["tx_frames"] == sent && there["rx_frames"] == sent).then_some(())
        };
        let whole = poll(Duration::from_secs(5), arrived);
        assert!(whole.is_some(), "{name}: {sent} sent; {} {}", row(a, name), row(t, name));
        assert_eq!(row(a, name)["dropped"], serde_json::json!({}), "{name}");
    }
    let got = to_t.stop();
    for (mark, sent) in [(1, sent[0]), (2, sent[1])] {
        let numbers: Vec<u64> = got.iter().filter(|got| got.0 == mark).map(|got| got.1).collect();
        assert!(numbers.iter().copied().eq(0..sent), "stream {mark} is not 0 to {sent} in order");
    }
    assert_only_the_gap_is_missing(&to_z.stop(), sent[2], gap, &moved);
}

/// What crossed the dead relay is missing in one piece, and no longer than the channel was gone.
fn assert_only_the_gap_is_missing(got: &[(u8, u64)], sent: u64, gap: Duration, moved: &Value) {
    let numbers: Vec<u64> = got.iter().map(|got| got.1).collect();
    assert!(got.iter().all(|got| got.0 == 3), "frames of another channel arrived here");
    assert!(numbers.is_sorted(), "frames out of order");
    assert_eq!(numbers.last(), Some(&(sent - 1)), "the stream goes on to its end; {moved}");
    let holes: Vec<(u64, u64)> =
        numbers.windows(2).filter(|w| w[1] != w[0] + 1).map(|w| (w[0] + 1, w[1] - 1)).collect();
    let missing = sent - numbers.len() as u64;
    println!("the channel was gone for {gap:?}; {missing} of {sent} frames missing: {holes:?}");
    assert!(holes.len() <= 1, "more than one hole: {holes:?}");
    let rate = f64::from(FRAMES_PER_SECOND);
    // A frame may be on its way when the kill is measured, and the pacer catches up if it was late.
    assert!(missing as f64 <= gap.as_secs_f64() * rate + 50.0, "{missing} missing in {gap:?}");
    assert!(gap < Duration::from_secs(2), "the channel was gone for {gap:?}");
}

#[test]
fn a13_a_channel_takes_the_tree_path_which_is_the_widest() {
    let sink = Collector::start();
    let overlay = drawing("", sink.address, sink.address);
    let a = overlay.peer("a");
    let tree = a.ask(&["tree"]);
    let edges = tree["edges"].as_array().expect("edges");
    assert!(!edges.iter().any(|edge| edge["a"] == "m" && edge["b"] == "r"), "{tree}");
    assert_eq!(tree["next_hops"]["m"], "r", "{tree}");
    // `m` is two hops away over the slow link, four over the tree.
    let reply = overlay.peer("m").open("t/video", "4 Mbit/s", &[]);
    assert_eq!(path_of(&reply), ["m", "z", "k", "r", "t"]);
    // What the narrowest link of the path offers: 100 Mbit/s less the control share.
    assert_eq!(reply["width_bps"], 95_000_000);
    assert_eq!(overlay.peer("r").ask(&["verify"])["correct"], true);
}

#[test]
fn a19_answers_go_back_to_the_port_that_asked() {
    let echo = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let service = echo.local_addr().expect("it is bound");
    let answering = std::thread::spawn(move || {
        echo.set_read_timeout(Some(Duration::from_secs(30))).expect("a time above zero");
        let mut bytes = [0; 2_048];
        while let Ok((length, from)) = echo.recv_from(&mut bytes) {
            if &bytes[..length] == b"end" {
                return;
            }
            bytes[..length].reverse();
            echo.send_to(&bytes[..length], from).expect("loopback takes it");
        }
    });
    let overlay = drawing("", service, service);
    let listen = address(&overlay.peer("a").open("z/video", "4 Mbit/s", &[])["listen"]);
    for asker in 0..100_u32 {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time above zero");
        let question = format!("question {asker}");
        socket.send_to(question.as_bytes(), listen).expect("loopback takes it");
        let mut bytes = [0; 2_048];
        let (length, from) = socket.recv_from(&mut bytes).expect("an answer");
        let answer: Vec<u8> = bytes[..length].iter().rev().copied().collect();
        assert_eq!(answer, question.as_bytes());
        assert_eq!(from, listen, "the answer comes from where the question went");
    }
    UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(b"end", service)).expect("loopback");
    answering.join().expect("the service does not panic");
}

#[test]
fn a22_a_closed_channel_is_an_error_the_sender_sees() {
    let sink = Collector::start();
    let overlay = drawing("", sink.address, sink.address);
    let a = overlay.peer("a");
    let listen = address(&a.open("t/video", "4 Mbit/s", &["--name", "brief"])["listen"]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(listen).expect("an address");
    socket.send(&[7; 200]).expect("loopback takes it");
    wait_for("the frame", Duration::from_secs(5), || {
        (row(overlay.peer("t"), "brief")["rx_frames"] == 1).then_some(())
    });
    a.ask(&["close", "brief"]);
    wait_for("an ICMP error", Duration::from_secs(5), || socket.send(&[7; 200]).err());
    for peer in ["a", "r", "t"] {
        wait_for("every hop forgets it", Duration::from_secs(5), || {
            overlay.peer(peer).channel("brief").is_none().then_some(())
        });
    }
}

#[test]
fn a6_a_peer_that_comes_back_at_another_address_is_found_by_its_name() {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let mut overlay = Plan::new(&["here", "roamer"])
        .one_way_link("here", "roamer", "100 Mbit/s")
        .section("roamer", &service)
        .on_loopback();
    overlay.peer("here").open("roamer/video", "4 Mbit/s", &["--name", "before"]);
    overlay.kill("roamer");
    overlay.move_to_other_ports("roamer");
    overlay.run("roamer");
    overlay.settle();
    let listen = wait_for("a channel by name", MOVED, || {
        let (code, reply) = overlay.peer("here").answer(&[
            "open",
            "roamer/video",
            "--bandwidth",
            "4 Mbit/s",
            "--name",
            "after",
        ]);
        (code == Some(0)).then(|| address(&reply["listen"]))
    });
    let pacer = Pacer::start(listen, 9, 100);
    pass(Duration::from_millis(300));
    let sent = pacer.stop();
    wait_for("its frames", Duration::from_secs(5), || {
        (row(overlay.peer("roamer"), "after")["rx_frames"] == sent).then_some(())
    });
    assert_eq!(sink.stop().len() as u64, sent);
}

#[test]
fn a28_the_log_of_a_peer_tells_in_fields_what_happened_to_its_links_and_channels() {
    let sink = Collector::start();
    let mut overlay = drawing("", sink.address, sink.address);
    overlay.peer("a").open("z/video", "4 Mbit/s", &["--name", "over"]);
    overlay.kill("k");
    moved_to(overlay.peer("a"), &["a", "r", "m", "z"]);
    let has = |peer: &str, parts: &[&str]| {
        wait_for(&format!("{parts:?} in the log of {peer}"), Duration::from_secs(5), || {
            let log = overlay.peer(peer).log();
            let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"))
        })
    };
    let lost = has("r", &["\"link down\"", "\"peer\":\"k\"", "\"why\":"]);
    assert!(lost["timestamp"].is_string() && lost["level"].is_string(), "{lost}");
    has("r", &["\"tree committed\"", "\"peers\":5", "\"session\":"]);
    has("a", &["\"worker is running\"", "\"buffer_asked\":4194304", "\"buffer_granted\":"]);
    has("a", &["\"channel moving\"", "\"channel\":\"a:", "\"why\":"]);
    has("a", &["\"channel moved\"", "\"path\":\"[a, r, m, z]\""]);
}

#[test]
fn a2_a_peer_that_leaves_is_missed_by_nobody() {
    let sink = Collector::start();
    let mut overlay = drawing("", sink.address, sink.address);
    let out = overlay.peer("k").client(&["leave"]).stdin(Stdio::null()).output();
    assert!(out.expect("spanway starts").status.success());
    overlay.ended("k");
    overlay.settle();
    let reply = overlay.peer("a").open("z/video", "4 Mbit/s", &[]);
    assert_eq!(path_of(&reply), ["a", "r", "m", "z"]);
}

/// The overlay of the drawing, with `video` at `t` and at `z`.
fn drawing(engine: &str, to_t: SocketAddr, to_z: SocketAddr) -> Overlay {
    let service = |to| format!("[service.video]\ndeliver = \"{to}\"");
    let plan = Plan::new(&["a", "k", "m", "r", "t", "z"])
        .link("a", "r", "1 Gbit/s")
        .link("r", "t", "1 Gbit/s")
        .link("r", "k", "1 Gbit/s")
        .link("k", "z", "1 Gbit/s")
        .link("r", "m", "100 Mbit/s")
        .link("m", "z", "100 Mbit/s")
        .section("t", &service(to_t))
        .section("z", &service(to_z));
    let peers = ["a", "k", "m", "r", "t", "z"];
    peers.iter().fold(plan, |plan, peer| plan.section(peer, engine)).on_loopback()
}

fn row(peer: &Peer, channel: &str) -> Value {
    peer.channel(channel).unwrap_or(Value::Null)
}

/// Waits until `over` is open on `path`.
fn moved_to(peer: &Peer, path: &[&str]) -> Value {
    wait_for("the channel on its new path", MOVED, || {
        let row = peer.channel("over")?;
        (row["state"] == "open" && path_of(&row) == path).then_some(row)
    })
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value}"))
}

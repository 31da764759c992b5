//! Every answer that a request for a channel can get, provoked from real daemons on loopback (A11).
//!
//! ```text
//!   a ─── r ─── z        r is stopped where an answer shall not come;
//!                        heartbeats are so slow that nobody calls it dead for that
//! ```
//!
//! Waiting in line is in `admission.rs`.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan};
use common::program::wait_for;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
/// The far end of a channel that cannot come back is given up after a lease.
const GIVEN_UP: Duration = Duration::from_secs(30);

#[test]
fn a11_what_the_overlay_cannot_do_is_rejected_with_its_reason() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let camera = taken.local_addr().expect("it is bound");
    let overlay = line(Some(camera));
    let a = overlay.peer("a");
    a.open("z/video", "1 Mbit/s", &["--name", "first"]);
    let cases: &[(&[&str], &str, &str)] = &[
        (&["nobody/video"], "no_such_peer", "nobody"),
        (&["z/film"], "no_such_service", "film"),
        (&["z/inbox"], "service_busy", "inbox"),
        (&["z/video", "--bandwidth", "9 Mbit/s"], "no_room", "8.5 Mbit/s are free"),
        (&["z/video", "--bandwidth", "20 Mbit/s"], "never", "carries 9.5 Mbit/s"),
        (&["z/video", "--name", "first"], "duplicate", "first"),
        (&["z/camera"], "busy", &camera.to_string()),
    ];
    for (arguments, reason, words) in cases {
        let reply = rejected(a, arguments, 3);
        assert_eq!(reply["reason"], *reason, "{arguments:?}: {reply}");
        let detail = reply["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(words), "{arguments:?}: {detail}");
    }
    let first = a.channel("first").expect("it is open");
    let close = overlay.peer("r").client(&["close", first["id"].as_str().expect("an id")]).output();
    let close = close.expect("spanway starts");
    assert_eq!(close.status.code(), Some(3), "a relay may not close what crosses it");
    assert!(String::from_utf8_lossy(&close.stderr).contains("not_allowed"), "{close:?}");
    let channels = a.ask(&["channels"]);
    assert_eq!(channels.as_array().map(Vec::len), Some(1), "nothing is left behind: {channels}");
}

#[test]
fn a11_a_peer_that_was_there_a_moment_ago_is_unreachable_not_unknown() {
    let mut overlay = line(None);
    overlay.kill("z");
    overlay.settle();
    assert_eq!(rejected(overlay.peer("r"), &["z/video"], 3)["reason"], "unreachable");
    assert_eq!(rejected(overlay.peer("a"), &["z/video"], 3)["reason"], "unreachable");
    assert_eq!(rejected(overlay.peer("a"), &["nobody/video"], 3)["reason"], "no_such_peer");
}

#[test]
fn a11_a_hop_that_does_not_answer_is_named_in_time() {
    let overlay = line(None);
    overlay.freeze("r");
    let reply = rejected(overlay.peer("a"), &["z/video", "--wait=1s"], 4);
    assert_eq!(reply["reason"], "timeout", "{reply}");
    assert!(reply["detail"].as_str().is_some_and(|text| text.contains('r')), "{reply}");
    overlay.thaw("r");
}

#[test]
fn a11_who_withdraws_a_request_or_leaves_gets_that_as_the_answer() {
    let mut overlay = line(None);
    for (command, reason) in [(&["close", "slow"][..], "cancelled"), (&["leave"], "shutting_down")]
    {
        overlay.freeze("r");
        let a = overlay.peer("a");
        let asking = ask_in_background(a);
        wait_for("the request", SOON, || a.channel("slow"));
        let _ = a.answer(command);
        let out = asking.wait_with_output().expect("our own child");
        let reply: Value = serde_json::from_slice(&out.stdout).expect("an answer in JSON");
        assert_eq!(reply["reason"], reason, "{reply}");
        assert_eq!(out.status.code(), Some(3), "{reply}");
        overlay.thaw("r");
    }
    overlay.ended("a");
}

#[test]
fn a11_a17_a_channel_that_cannot_be_kept_ends_as_broken_at_both_ends() {
    let mut overlay = line(None);
    let listen =
        address(&overlay.peer("a").open("z/video", "1 Mbit/s", &["--name", "lost"])["listen"]);
    overlay.kill("r");
    for end in ["a", "z"] {
        wait_for("the end of the channel", GIVEN_UP, || {
            overlay.peer(end).channel("lost").is_none().then_some(())
        });
        let log = overlay.peer(end).log();
        let closed = log.lines().find(|line| line.contains("\"channel closed\""));
        assert!(closed.is_some_and(|line| line.contains("broken")), "{end}: {closed:?}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(listen).expect("an address");
    wait_for("an ICMP error", SOON, || socket.send(&[1]).err());
}

/// The overlay of the drawing; `z` offers `video`, `inbox`, and `camera` at a given address.
fn line(camera: Option<SocketAddr>) -> Overlay {
    let mut services = "[service.video]\ndeliver = \"127.0.0.1:9\"\n[service.inbox]\n".to_owned();
    if let Some(camera) = camera {
        services.push_str(&format!("[service.camera]\nlisten = \"{camera}\"\n"));
    }
    let plan = Plan::new(&["a", "r", "z"])
        .link("a", "r", "100 Mbit/s")
        .link("r", "z", "10 Mbit/s")
        .section("z", &services);
    let slow = "[control]\nheartbeat = \"1s\"\nheartbeats_missed = 60";
    ["a", "r", "z"].iter().fold(plan, |plan, peer| plan.section(peer, slow)).on_loopback()
}

/// Asks for a channel that is refused with this exit code. The rate is 1 Mbit/s unless given.
fn rejected(peer: &Peer, arguments: &[&str], code: i32) -> Value {
    let mut command = vec!["open"];
    command.extend(arguments);
    if !arguments.contains(&"--bandwidth") {
        command.extend(["--bandwidth", "1 Mbit/s"]);
    }
    let (exit, reply) = peer.answer(&command);
    assert_eq!(exit, Some(code), "{arguments:?}: {reply}");
    assert_eq!(reply["outcome"], "rejected", "{arguments:?}: {reply}");
    reply
}

fn ask_in_background(peer: &Peer) -> Child {
    let request = ["open", "z/video", "--bandwidth", "1 Mbit/s", "--name", "slow", "--wait=4s"];
    let mut command = peer.client(&request);
    command.arg("--json").stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("spanway starts")
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value}"))
}

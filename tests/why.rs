//! `spanway why`: what real daemons say of a channel whose frames are dropped, lost, or neither.
//! Ids: A23, A28.
//!
//! ```text
//!   a ─── b ─── c        10 Mbit/s each, a namespace for each peer
//! ```

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

mod common;

use std::time::Duration;

use common::netns::{self, socket};
use common::overlay::Plan;
use common::program::{output, wait_for};
use common::stream::{Collector, Pacer};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a23_a_channel_that_loses_nothing_is_said_to_by_every_peer_of_its_path() {
    let sink = Collector::start();
    let overlay = line(&format!("[service.video]\ndeliver = \"{}\"", sink.address)).on_loopback();
    let opened = overlay.peer("a").open("c/video", "4 Mbit/s", &["--name", "live"]);
    let listen = opened["listen"].as_str().and_then(|text| text.parse().ok()).expect("it");
    let pacer = Pacer::start(listen, 1, 500);
    std::thread::sleep(Duration::from_millis(500));
    // Frames are in flight all the time.
    let why = overlay.peer("a").ask(&["why", "live"]);
    assert_eq!(why["lost"], json!([]), "{why}");
    assert!(found(&why, "there: no frame was dropped"), "{why}");
    assert!(found(&why, "a > b > c, the spanning tree's path"), "{why}");
    assert!(found(&why, "most of the median"), "{why}");
    let hops = why["survey"]["hops"].as_array().expect("hops");
    let missing: Vec<&Value> = hops.iter().map(|hop| &hop["missing"]).collect();
    assert_eq!(missing, [&Value::Null; 3], "{why}");
    assert!(hops[1]["there"]["inside_ns"]["p50"].is_u64(), "{why}");
    assert_eq!(hops[1]["back"]["received"], 0, "{why}");
    assert!(hops[1]["there"]["link_free_bps"].as_u64() < Some(6_000_000), "{why}");

    // A relay and the other end know as much of the path, but not how it came about.
    let id = opened["channel"].as_str().expect("an id");
    for (peer, of) in [("b", id), ("c", "live")] {
        let why = overlay.peer(peer).ask(&["why", of]);
        assert!(found(&why, "there: no frame was dropped"), "{why}");
        assert!(found(&why, "can only be told at a"), "{why}");
        assert_eq!(why["survey"]["hops"][0]["peer"], "a", "{why}");
        assert!(why["survey"]["hops"][0]["there"]["entered"].as_u64() > Some(0), "{why}");
    }
    let text =
        output(overlay.peer("a").client(&["why", "live"]).stdin(std::process::Stdio::null()));
    assert!(text.contains("from the asker") && !text.contains("from the service"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let sent = pacer.stop();
    wait_for("every frame", SOON, || {
        (overlay.peer("c").channel("live")?["rx_frames"] == sent).then_some(())
    });
    assert_eq!(sink.stop().len() as u64, sent);
    let (code, _) = overlay.peer("a").answer(&["why", "nothing"]);
    assert_eq!(code, Some(1));
}

#[test]
fn a21_a28_what_is_policed_and_what_a_wire_loses_is_told_with_the_place_and_the_number() {
    if !netns::available_with(&["ip", "nft"]) {
        return;
    }
    let overlay = line("[service.video]\ndeliver = \"127.0.0.1:9\"").in_namespaces(false);
    let a = overlay.peer("a");
    let opened = a.open("c/video", "1 Mbit/s", &["--name", "live"]);
    let listen = opened["listen"].as_str().expect("an address").to_owned();
    // The wire from b to c loses a third of all frames, but no heartbeat.
    let loses = "table ip wire { chain in { type filter hook prerouting priority -300; \
                 meta length > 500 numgen random mod 3 0 drop; }; }";
    output(overlay.peer("c").command("nft").arg(loses));
    let local = "127.0.0.1:0".parse().expect("an address");
    let socket = socket(a.namespace().name(), local, None);
    for _ in 0..1_000 {
        socket.send_to(&[0; 1_000], &*listen).expect("sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    let why = a.ask(&["why", "live"]);
    assert!(found(&why, "a dropped") && found(&why, "as policed"), "{why}");
    let lost = &why["lost"][0];
    assert_eq!((&lost["from"], &lost["to"]), (&json!("b"), &json!("c")), "{why}");
    let (frames, of) = (lost["frames"].as_u64().expect("n"), lost["of"].as_u64().expect("n"));
    assert!(frames > of / 5 && frames < of / 2, "{why}");
    assert_eq!(why["lost"].as_array().map(Vec::len), Some(1), "{why}");
}

fn line(sections: &str) -> Plan {
    Plan::new(&["a", "b", "c"])
        .link("a", "b", "10 Mbit/s")
        .link("b", "c", "10 Mbit/s")
        .section("c", sections)
}

fn found(why: &Value, words: &str) -> bool {
    let findings = why["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.iter().any(|text| text.as_str().is_some_and(|text| text.contains(words)))
}

//! Channels that outlive their daemon (`open --keep`), and requests that are asked twice under one
//! idempotency key: real daemons that are killed, told to leave and started again.
//!
//! ```text
//!   a ─── b ─── c        10 Mbit/s each
//! ```

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan};
use common::program::wait_for;
use common::stream::{Collector, Pacer};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const SERVICES: &str =
    "[service.video]\ndeliver = \"127.0.0.1:9\"\n\n[service.other]\ndeliver = \"127.0.0.1:9\"";

#[test]
fn a27_a_kept_channel_is_there_again_after_kill_9_and_leave_until_it_is_closed() {
    let sink = Collector::start();
    let mut overlay = line(&format!("[service.video]\ndeliver = \"{}\"", sink.address));
    let opened = overlay.peer("a").open("c/video", "4 Mbit/s", &["--name", "live", "--keep"]);
    let listen: SocketAddr =
        opened["listen"].as_str().and_then(|text| text.parse().ok()).expect("it");
    overlay.peer("a").open("c/video", "1 Mbit/s", &["--name", "other"]);

    for kill in [true, false] {
        match kill {
            true => overlay.kill("a"),
            false => {
                overlay.terminate("a");
                overlay.ended("a");
            }
        }
        overlay.run("a");
        let row = wait_for("the kept channel", SOON, || open(overlay.peer("a"), "live"));
        assert_eq!((&row["keep"], &row["listen"]), (&json!(true), &json!(listen)), "{row}");
        // The other end may still have its row of the old one.
        let pacer = Pacer::start(listen, 1, 500);
        let before = overlay.peer("a").channel("live").expect("open")["tx_frames"].clone();
        wait_for("frames to pass", SOON, || {
            let row = overlay.peer("a").channel("live")?;
            (row["tx_frames"].as_u64() > before.as_u64().map(|count| count + 100)).then_some(())
        });
        pacer.stop();
    }
    assert!(overlay.peer("a").channel("other").is_none(), "nobody asked to keep it");

    overlay.peer("a").ask(&["close", "live"]);
    overlay.kill("a");
    overlay.run("a");
    overlay.settle();
    let status = overlay.peer("a").ask(&["status"]);
    assert_eq!((&status["channels"], &status["warnings"]), (&json!(0), &json!([])), "{status}");
    assert!(sink.stop().len() > 200);
}

#[test]
fn a27_a_kept_channel_whose_other_end_went_away_is_asked_for_until_that_is_back() {
    let mut overlay = line(SERVICES);
    overlay.peer("a").open("c/video", "4 Mbit/s", &["--name", "live", "--keep"]);
    overlay.terminate("c");
    overlay.ended("c");
    wait_for("a warning", SOON, || {
        let status = overlay.peer("a").ask(&["status"]);
        status["warnings"].to_string().contains("kept channel live to c/video").then_some(())
    });
    overlay.run("c");
    overlay.settle();
    wait_for("the kept channel", SOON, || open(overlay.peer("a"), "live"));
}

#[test]
fn a14_a27_a_kept_channel_that_finds_no_room_stands_in_line_and_can_be_closed_there() {
    let mut overlay = line(SERVICES);
    overlay.peer("a").open("c/video", "6 Mbit/s", &["--name", "live", "--keep"]);
    overlay.kill("a");
    // Its lease ends, and somebody else takes the room.
    wait_for("the room", SOON, || {
        let (_, reply) = overlay.peer("b").answer(&["open", "c/other", "--bandwidth", "8 Mbit/s"]);
        (reply["outcome"] == "open").then_some(())
    });
    overlay.run("a");
    wait_for("a place in line", SOON, || {
        let (_, queue) = overlay.peer("a").answer(&["queue"]);
        (queue[0]["name"] == "live").then_some(())
    });
    overlay.peer("a").ask(&["close", "live"]);
    let empty = overlay.peer("a").ask(&["queue"]);
    assert_eq!(empty, json!([]));
    let kept = fs::read_to_string(overlay.folder().join("a.state/kept.json")).expect("a file");
    assert_eq!(kept.matches("peer").count(), 0, "{kept}");
}

#[test]
fn a27_a_file_of_kept_channels_that_cannot_be_read_stops_the_start_and_stays_as_it_is() {
    let mut overlay = line(SERVICES);
    overlay.kill("a");
    let file = overlay.folder().join("a.state/kept.json");
    fs::write(&file, "{\"channels\":[{").expect("written");
    let run = overlay.peer("a").client(&["run"]).stdin(Stdio::null()).output().expect("started");
    let text = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && text.contains("a.state/kept.json"), "{text}");
    assert!(text.contains("line 1 column"), "{text}");
    assert_eq!(fs::read_to_string(&file).expect("still there"), "{\"channels\":[{");
}

#[test]
fn a27_what_was_answered_as_kept_is_kept_however_the_daemon_is_killed() {
    let mut overlay = line(SERVICES);
    let mut kept: Vec<String> = Vec::new();
    for round in 0..6_u32 {
        let mut answered = Vec::new();
        std::thread::scope(|scope| {
            let a = overlay.peer("a");
            let opener = scope.spawn(move || {
                let mut names = Vec::new();
                for number in 0.. {
                    let name = format!("k{round}-{number}");
                    let asked = ["open", "c/video", "--bandwidth", "10 kbit/s", "--keep"];
                    let (code, _) = a.answer(&[&asked[..], &["--name", &name]].concat());
                    match code {
                        Some(0) => names.push(name),
                        _ => return names,
                    }
                }
                names
            });
            std::thread::sleep(Duration::from_millis(u64::from(150 + 37 * round)));
            let pid = overlay.peer("a").process().expect("a running daemon").to_string();
            common::program::output(std::process::Command::new("kill").args(["-9", &pid]));
            answered = opener.join().expect("no panic");
        });
        kept.extend(answered);
        overlay.kill("a");
        overlay.run("a");
        wait_for("all that were answered", SOON, || {
            let (_, rows) = overlay.peer("a").answer(&["channels"]);
            let is_open = |name: &String| {
                let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
                rows.iter().any(|row| row["name"] == **name && row["state"] == "open")
            };
            kept.iter().all(is_open).then_some(())
        });
    }
    assert!(kept.len() >= 6, "only {} were opened", kept.len());
}

#[test]
fn a12_the_same_idempotency_key_twice_is_one_reservation_and_one_answer() {
    let overlay = line(SERVICES);
    let a = overlay.peer("a");
    let ask = |more: &[&str]| {
        let asked = ["open", "c/video", "--bandwidth", "4 Mbit/s", "--idempotency-key", "7f3a"];
        a.answer(&[&asked[..], more].concat())
    };
    let before = free(a);
    let (code, first) = ask(&[]);
    assert_eq!((code, &first["outcome"]), (Some(0), &json!("open")), "{first}");
    let taken = before - free(a);
    assert_eq!(ask(&[]), (Some(0), first.clone()));
    assert_eq!((a.ask(&["status"])["channels"].clone(), before - free(a)), (json!(1), taken));
    let (code, _) = ask(&["--name", "another"]);
    assert_eq!(code, Some(2), "another request under the same key");
    // Closed: the answer was given, and another channel wants another key.
    a.ask(&["close", first["channel"].as_str().expect("an id")]);
    assert_eq!(ask(&[]), (Some(0), first));
    assert_eq!(a.ask(&["status"])["channels"], 0);
}

#[test]
fn a14_a_keyed_request_stands_in_line_without_its_client_and_a_repeat_gets_its_answer() {
    let overlay = line(SERVICES);
    let a = overlay.peer("a");
    a.open("c/other", "8 Mbit/s", &["--name", "first"]);
    let asked =
        ["open", "c/video", "--bandwidth", "4 Mbit/s", "--wait=60s", "--idempotency-key", "w"];
    let mut waiting = a.client(&asked).stdin(Stdio::null()).spawn().expect("started");
    let place =
        || wait_for("a place", SOON, || a.ask(&["queue"])[0]["id"].as_str().map(str::to_owned));
    let id = place();
    waiting.kill().expect("it runs");
    waiting.wait().expect("it ended");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(place(), id, "it stands in line all the same");
    let (code, reply) = std::thread::scope(|scope| {
        let repeat = scope.spawn(|| a.answer(&asked));
        std::thread::sleep(Duration::from_millis(300));
        a.ask(&["close", "first"]);
        repeat.join().expect("no panic")
    });
    assert_eq!((code, &reply["outcome"], &reply["channel"]), (Some(0), &json!("open"), &json!(id)));
    assert_eq!(a.ask(&["status"])["channels"], 1);
}

fn line(sections: &str) -> Overlay {
    Plan::new(&["a", "b", "c"])
        .link("a", "b", "10 Mbit/s")
        .link("b", "c", "10 Mbit/s")
        .section("c", sections)
        .on_loopback()
}

/// The row of a channel that is open.
fn open(peer: &Peer, name: &str) -> Option<Value> {
    let (_, rows) = peer.answer(&["channels"]);
    let row = rows.as_array()?.iter().find(|row| row["name"] == name)?.clone();
    (row["state"] == "open").then_some(row)
}

fn free(peer: &Peer) -> u64 {
    peer.ask(&["links"])[0]["free_out_bps"].as_u64().expect("a rate")
}

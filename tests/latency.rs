//! Times of frames as real daemons count them and the command line shows them (A23), over three hops
//! on loopback.
//!
//! ```text
//!   a ─── r ─── s ─── z
//! ```
//!
//! Clocks that differ are proved in `src/stats/histogram.rs`: here all daemons have the same clock.

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::overlay::{Overlay, Plan};
use common::program::{Program, pass, wait_for};
use common::stream::{Collector, Pacer};
use serde_json::Value;
use spanway::api::client::{Client, Lines};
use spanway::api::dto::{Latency, Request, Watching};
use spanway::daemon::store;

const SOON: Duration = Duration::from_secs(10);
const PER_SECOND: u32 = 400;

#[test]
fn a23_over_three_hops_every_delivered_frame_is_counted_and_its_time_is_plausible() {
    let (overlay, collector) = line();
    let opened = overlay.peer("a").open("z/video", "5 Mbit/s", &["--name", "film"]);
    let id = opened["channel"].as_str().expect("an id").to_owned();
    let (number, _connection) = watch(&overlay, "z", &id);
    let listen = opened["listen"].as_str().expect("an address").parse().expect("an address");
    let pacer = Pacer::start(listen, 7, PER_SECOND);
    pass(Duration::from_secs(2));
    let sent = pacer.stop();
    let delivered = wait_for("all frames at z", SOON, || {
        let row = overlay.peer("z").channel("film")?;
        row["rx_frames"].as_u64().filter(|&count| count == sent)
    });
    for (peer, watch) in [("z", Some(number)), ("z", None), ("s", None), ("r", None)] {
        let latency = read(&overlay, peer, &id, watch);
        let seen = &latency.one_way_us;
        assert_eq!(seen.count, delivered, "{peer} {watch:?}: {latency:?}");
        assert!(!latency.clocks_differ, "one host has one clock: {latency:?}");
        let p50 = seen.p50.expect("frames came");
        assert!(p50 > 0 && p50 < 1_000_000, "{peer}: p50 of {p50} us");
        let order = [seen.min, seen.p50, seen.p90, seen.p99, seen.p999, seen.max];
        assert!(order.is_sorted() && order[0].is_some(), "{peer}: {order:?}");
        let listed: u64 = seen.buckets.iter().map(|&(_, count)| count).sum();
        assert_eq!(listed, seen.count, "{peer}");
    }
    let resolution = |watch| read(&overlay, "z", &id, watch).resolution;
    assert_eq!((resolution(Some(number)), resolution(None)), ("full".into(), "log2".into()));
    assert_eq!(collector.stop().len() as u64, sent);
}

#[test]
fn a23_a_watch_shows_three_digits_and_writes_a_file_for_the_plotter() {
    let (overlay, collector) = line();
    let opened = overlay.peer("a").open("z/video", "5 Mbit/s", &["--name", "film"]);
    let listen = opened["listen"].as_str().expect("an address").parse().expect("an address");
    let id = opened["channel"].as_str().expect("an id");
    let pacer = Pacer::start(listen, 7, PER_SECOND);
    let file = overlay.folder().join("film.hgrm");
    let name = file.to_str().expect("text");
    let z = overlay.peer("z");
    let watched = z.ask(&["latency", "film", "--watch", "2", "--hgrm", name]);
    assert_eq!(watched["resolution"], "full", "{watched}");
    let count = watched["one_way_us"]["count"].as_u64().expect("a count");
    // On a machine that is busy with other things the stream may stumble; it does not stop.
    assert!(count > u64::from(PER_SECOND) / 2, "{watched}");
    assert_eq!(hgrm_count(&file), count);
    let relay = overlay.folder().join("relay.hgrm");
    let r = overlay.peer("r");
    wait_for("times inside a relay", SOON, || {
        let times = r.ask(&["latency"]);
        let hops = times["hops"].as_array().expect("a list");
        let counts = [&times["lanes"][0], hops.iter().find(|hop| hop["from"] == "a")?];
        counts.iter().all(|part| part["inside_ns"]["count"].as_u64() > Some(10)).then_some(())
    });
    let times = r.ask(&["latency", "--hgrm", relay.to_str().expect("text")]);
    assert_eq!(hgrm_count(&relay), times["lanes"][0]["inside_ns"]["count"]);
    let at_relay = r.ask(&["latency", id]);
    let from: Vec<_> = at_relay["hops"].as_array().into_iter().flatten().collect();
    assert!(from.len() == 2 && from[0]["from"] == "a" && from[1]["from"] == "s", "{at_relay}");
    assert!(from[0]["inside_ns"]["p50"].as_u64() > Some(0), "{at_relay}");
    let unit = |file: &Path| fs::read_to_string(file).expect("it was written");
    assert!(unit(&file).contains("          ms]") && unit(&relay).contains("          us]"));
    let text = |peer: &common::overlay::Peer, arguments: &[&str]| {
        common::program::output(&mut peer.client(arguments))
    };
    // A relay is asked by the id: names are those of the ends.
    for text in [text(z, &["latency", "film"]), text(r, &["latency", id]), text(r, &["latency"])] {
        assert!(text.contains("P99.9") && text.contains('█'), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
    let sent = pacer.stop();
    wait_for("all frames at z", SOON, || {
        (z.channel("film")?["rx_frames"].as_u64() == Some(sent)).then_some(())
    });
    collector.stop();
}

#[test]
fn a23_a_watch_ends_with_its_client_with_its_time_and_not_with_its_channel() {
    let (overlay, _collector) = line();
    let opened = overlay.peer("a").open("z/video", "5 Mbit/s", &["--name", "film"]);
    let id = opened["channel"].as_str().expect("an id").to_owned();
    let z = overlay.peer("z");
    let watches = |count: u64| {
        wait_for(&format!("{count} watches"), SOON, || {
            (z.ask(&["status"])["watches"].as_u64() == Some(count)).then_some(())
        });
    };
    watches(0);
    let mut command = z.client(&["latency", "film", "--watch", "600"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut client = Program::start("latency", overlay.folder(), &mut command);
    watches(1);
    client.kill();
    watches(0);

    let (number, connection) = watch(&overlay, "z", &id);
    common::program::output(&mut overlay.peer("a").client(&["close", "film"]));
    wait_for("the end of the channel", SOON, || z.channel("film").is_none().then_some(()));
    assert_eq!(read(&overlay, "z", &id, Some(number)).one_way_us.count, 0);
    drop(connection);
    watches(0);
    let gone = Request::Latency { channel: id, watch: Some(number) };
    let error = client_of(&overlay, "z").request::<Latency>(&gone).expect_err("it is over");
    assert!(error.to_string().contains("no watch"), "{error}");
}

/// The overlay of the drawing; `z` delivers `video` to the collector.
fn line() -> (Overlay, Collector) {
    let collector = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"\n", collector.address);
    let overlay = Plan::new(&["a", "r", "s", "z"])
        .link("a", "r", "100 Mbit/s")
        .link("r", "s", "100 Mbit/s")
        .link("s", "z", "100 Mbit/s")
        .section("z", &service)
        .on_loopback();
    (overlay, collector)
}

fn client_of(overlay: &Overlay, peer: &str) -> Client {
    let folder = overlay.folder().join(format!("{peer}.state"));
    let socket = store::socket_path(&folder).expect("a short path");
    Client::connect(&socket).expect("it listens")
}

/// Begins a watch; it lasts as long as the connection.
fn watch(overlay: &Overlay, peer: &str, channel: &str) -> (u64, Lines<Watching>) {
    let request = Request::Watch { channel: channel.to_owned(), seconds: 60 };
    let mut lines = client_of(overlay, peer).lines::<Watching>(&request).expect("asked");
    lines.wait(Some(SOON)).expect("a socket");
    let Watching { watch } = lines.next().expect("an answer").expect("a watch");
    (watch, lines)
}

fn read(overlay: &Overlay, peer: &str, channel: &str, watch: Option<u64>) -> Latency {
    let request = Request::Latency { channel: channel.to_owned(), watch };
    client_of(overlay, peer).request(&request).expect("an answer")
}

/// The count in the last line of a percentile distribution, which all lines lead up to.
fn hgrm_count(file: &Path) -> u64 {
    let text = fs::read_to_string(file).expect("it was written");
    let rows = text.lines().skip(1).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows: Vec<Vec<f64>> = rows
        .map(|line| line.split_whitespace().map(|n| n.parse().expect(line)).collect())
        .collect();
    assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0]), "{text}");
    assert!(rows.windows(2).all(|pair| pair[0][2] <= pair[1][2]), "{text}");
    let total = text.split("Total count    =").nth(1).and_then(|rest| rest.split(']').next());
    let total: u64 = total.and_then(|total| total.trim().parse().ok()).expect("a total");
    let last: Value = rows.last().map_or(0.0, |last| last[2]).into();
    assert_eq!(last.as_f64(), Some(total as f64), "{text}");
    total
}

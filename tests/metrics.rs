//! What Prometheus reads of real daemons: a text that linters accept, names that stay, counters that never
//! fall; and the dashboard and alert rules that use them.

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]
#![allow(clippy::print_stderr, reason = "a test tells what it skips")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::http::Site;
use common::overlay::{Overlay, Peer, Plan};
use common::ports::free_ports;
use common::program::wait_for;
use common::stream::{Collector, Pacer};
use spanway::api::http::metrics::METRICS;
use spanway::stats::DropReason;

const SOON: Duration = Duration::from_secs(20);
const DASHBOARD: &str = include_str!("../tools/package/monitoring/grafana.json");
const ALERTS: &str = include_str!("../tools/package/monitoring/alerts.yml");

type Samples = BTreeMap<String, f64>;

/// A channel that carried frames for half a second: the answer to its request, and how many.
fn carry(a: &Peer) -> (serde_json::Value, u64) {
    let opened = a.open("b/video", "1 Mbit/s", &["--name", "film"]);
    let listen = opened["listen"].as_str().and_then(|text| text.parse().ok()).expect("it");
    let pacer = Pacer::start(listen, 1, 500);
    std::thread::sleep(Duration::from_millis(500));
    (opened, pacer.stop())
}

#[test]
fn a23_the_text_is_what_a_linter_accepts_and_has_every_metric_of_the_table() {
    let sink = Collector::start();
    let (overlay, site) = pair(&sink);
    let a = overlay.peer("a");
    let (opened, _) = carry(a);
    let text = scrape(&site);
    let samples = parse(&text);
    for (name, kind, _) in METRICS {
        let plain = |key: &String| key.split('{').next() == Some(name);
        let part = |key: &String| key.starts_with(&format!("{name}_count"));
        assert!(
            samples.keys().any(|key| plain(key) || part(key)),
            "no {name} ({kind:?}) in {text}"
        );
    }
    for reason in DropReason::ALL {
        let key = format!("spanway_dropped_frames_total{{reason=\"{}\"}}", reason.as_str());
        assert!(samples.contains_key(&key), "{key}");
    }
    assert_eq!(samples["spanway_links{state=\"up\"}"], 1.0);
    assert_eq!(samples["spanway_channels{role=\"source\"}"], 1.0);
    let reserved = "spanway_link_reserved_bytes_per_second{peer=\"b\",direction=\"out\"}";
    assert_eq!(samples[reserved], 125_000.0, "1 Mbit/s");
    assert!(!text.contains("film") && !text.contains(opened["channel"].as_str().expect("an id")));
    promtool(&["check", "metrics"], &text);
}

#[test]
fn a21_counters_of_frames_do_not_fall_when_a_channel_ends_and_add_up_with_its_ledger() {
    let sink = Collector::start();
    let (overlay, site) = pair(&sink);
    let a = overlay.peer("a");
    let (_, sent) = carry(a);
    let entered = || parse(&scrape(&site))["spanway_frames_total{what=\"entered\"}"];
    wait_for("all of them", SOON, || (entered() >= sent as f64).then_some(()));
    a.ask(&["close", "film"]);
    assert_eq!(entered(), sent as f64);
    assert_eq!(parse(&scrape(&site))["spanway_channels{role=\"source\"}"], 0.0);
    a.open("b/video", "1 Mbit/s", &["--name", "next"]);
    assert_eq!(entered(), sent as f64, "a new channel begins at nothing");
}

#[test]
fn dashboard_and_alerts_name_metrics_and_labels_that_exist() {
    let _: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let known: BTreeSet<&str> = METRICS.iter().map(|(name, ..)| *name).collect();
    let mut used = BTreeSet::new();
    for (file, text) in [("grafana.json", DASHBOARD), ("alerts.yml", ALERTS)] {
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if !(word.starts_with("spanway_") || word.starts_with("process_")) {
                continue;
            }
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(known.contains(name), "{file} has {word}, which is no metric");
            used.insert(name);
        }
    }
    assert!(used.len() >= 15, "{used:?}");
    promtool(&["check", "rules"], ALERTS);
}

/// a and b with a link of 20 Mbit/s, and the metrics of a.
fn pair(sink: &Collector) -> (Overlay, Site) {
    let port = free_ports(2);
    let api =
        format!("[api]\nlisten = \"127.0.0.1:{port}\"\ninternal = \"127.0.0.1:{}\"", port + 1);
    let overlay = Plan::new(&["a", "b"])
        .link("a", "b", "20 Mbit/s")
        .section("a", &format!("{api}\n\n[host]\negress = \"50 Mbit/s\"\ningress = \"50 Mbit/s\""))
        .section("b", &format!("[service.video]\ndeliver = \"{}\"", sink.address))
        .on_loopback();
    (overlay, Site { address: ([127, 0, 0, 1], port + 1).into(), token: String::new() })
}

fn scrape(site: &Site) -> String {
    let head =
        format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", site.address);
    let answer = site.raw(head.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.head);
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    String::from_utf8(answer.body).expect("text")
}

/// Strict: a sample has HELP and TYPE before it and comes once, a histogram grows up to its count.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut family = ("", "");
    let mut bucket = (String::new(), 0.0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(family.0, name, "HELP comes before TYPE");
            family = (name, kind);
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            family = (rest.split_once(' ').expect(line).0, "");
        } else {
            let (key, value) = line.rsplit_once(' ').expect(line);
            let value: f64 = value.parse().expect(line);
            let name = key.split('{').next().expect("a name");
            assert!(name.starts_with(family.0) && !family.1.is_empty(), "{line} without a family");
            assert!(value >= 0.0, "{line}");
            if family.1 == "histogram" {
                let series = key.split("le=").next().expect("a part").to_owned();
                assert!(bucket.0 != series || value >= bucket.1, "{line} falls");
                bucket = (series, value);
            }
            assert!(samples.insert(key.to_owned(), value).is_none(), "{key} twice");
        }
    }
    samples
}

/// Prometheus' own linter, where it is installed.
fn promtool(arguments: &[&str], text: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let file = tempfile::NamedTempFile::new().expect("a scratch file");
    if arguments.contains(&"rules") {
        std::fs::write(file.path(), text).expect("written");
        command.arg(file.path());
    }
    let Ok(mut child) = command.spawn() else {
        return eprintln!("SKIPPED: promtool is not installed");
    };
    let mut input = child.stdin.take().expect("piped");
    // Checking rules, it reads the file.
    let _ = input.write_all(text.as_bytes());
    drop(input);
    let out = child.wait_with_output().expect("it ends");
    let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(out.status.success(), "promtool {arguments:?}: {said:?}");
}

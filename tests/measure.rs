//! `spanway measure`: whole measurements, in the simulated world and over real links.
//!
//! The slow link is a wire between two network namespaces with `tc` at both ends; without root or `tc`
//! that test says once that it is skipped (`SPANWAY_REQUIRE_NETNS=1` makes it fail instead).

#![allow(clippy::print_stdout, reason = "a test tells what it measured")]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::netns;
use common::overlay::{Overlay, Peer, Plan, SPANWAY};
use common::program::{now, output, pass, poll, wait_for};
use common::stream::{Collector, Pacer};
use serde_json::Value;
use spanway::proto::measure::Limit;
use spanway::proto::{Answer, MeasureRequest, Measured, Rejection, Request};
use spanway::sim::{self, Fault, Sim};
use spanway::types::{Bandwidth, PeerName, Reject, Time};

const SECOND: u64 = 1_000_000;

// --- In the simulated world ---

fn mbit(mbit: u64) -> Bandwidth {
    Bandwidth::from_bps(mbit * 1_000_000)
}

/// `a` - `b` - `c`, 100 Mbit/s each as configured, at rest.
fn line() -> Sim {
    let peers = ["a", "b", "c"].map(|name| PeerName::new(name).expect("a name")).to_vec();
    let plan = sim::Plan {
        peers,
        links: vec![(0, 1, mbit(100)), (1, 2, mbit(100))],
        services: Vec::new(),
        delay: (Duration::from_millis(1), Duration::from_millis(5)),
        ..sim::Plan::default()
    };
    let mut world = Sim::new(7, &plan);
    (0..3).for_each(|peer| world.schedule(Time(0), Fault::Start(peer)));
    world.run_until(Time(5 * SECOND));
    world
}

fn measure(peer: &str) -> Request {
    let peer = PeerName::new(peer).expect("a name");
    Request::Measure(MeasureRequest { peer, max: None, duration: Duration::from_secs(5) })
}

fn measured(world: &mut Sim, peer: usize, neighbour: &str) -> Measured {
    let id = world.request(peer, measure(neighbour));
    world.run_until(world.now() + Duration::from_secs(6));
    match world.answer(id) {
        Some(Answer::Measured(measured)) => (**measured).clone(),
        other => panic!("{other:?}"),
    }
}

fn rejected(world: &Sim, id: spanway::types::RequestId) -> Rejection {
    match world.answer(id) {
        Some(Answer::Rejected(rejection)) => rejection.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_simulated_link_is_measured_both_ways_and_nothing_is_counted_afterwards() {
    for (carries, configured) in [(50, false), (100, true), (399, false)] {
        let mut world = line();
        if !configured {
            world.carries(0, mbit(carries));
        }
        let found = measured(&mut world, 0, "b");
        for way in [&found.out, &found.back] {
            let best = way.best.expect("it carries something");
            let near = mbit(carries * 93 / 100)..=mbit(carries * 103 / 100);
            assert!(near.contains(&best), "{way:?}");
            assert_eq!(way.limit, if carries < 390 { Limit::Link } else { Limit::Max });
            assert!(way.points.last().is_some_and(|point| point.long), "it was confirmed");
        }
        assert_eq!(found.configured, mbit(100));
        assert_eq!(found.rtt_p50, Some(Duration::from_millis(3)));
        assert!(found.took <= Duration::from_secs(5), "{:?}", found.took);
        assert!((0..3).all(|peer| !world.counts_probes(peer)), "somebody counts on");
    }
}

#[test]
fn a_link_is_measured_by_one_at_a_time_and_each_is_answered() {
    let mut world = line();
    let one = world.request(0, measure("b"));
    let again = world.request(0, measure("b"));
    let other = world.request(1, measure("c"));
    world.run_until(world.now() + Duration::from_secs(7));
    assert!(matches!(world.answer(one), Some(Answer::Measured(_))));
    assert_eq!(rejected(&world, again).reason, Reject::Busy);
    assert!(matches!(world.answer(other), Some(Answer::Measured(_))), "another link");
    // Both ends of one link in the same moment: each refuses the other, none waits for ever.
    let both = [world.request(0, measure("b")), world.request(1, measure("a"))];
    world.run_until(world.now() + Duration::from_secs(7));
    for id in both {
        assert!(rejected(&world, id).detail.contains("already"), "{:?}", world.answer(id));
    }
    assert!((0..3).all(|peer| !world.counts_probes(peer)));
    measured(&mut world, 0, "b");
}

#[test]
fn only_links_of_ones_own_that_are_up_can_be_measured() {
    let mut world = line();
    let far = world.request(0, measure("c"));
    let far = rejected(&world, far);
    assert_eq!(far.reason, Reject::NoSuchPeer);
    assert!(far.detail.contains("c is no neighbour"), "{}", far.detail);
    world.strike(Fault::Crash(1));
    world.run_until(world.now() + Duration::from_secs(3));
    let down = world.request(0, measure("b"));
    assert_eq!(rejected(&world, down).reason, Reject::Unreachable);
}

#[test]
fn a_neighbour_that_dies_meanwhile_ends_the_measurement_with_an_answer() {
    for fault in [Fault::Crash(1), Fault::Cut(0), Fault::Mute(0)] {
        for after in [1, 40, 90, 700, 2_600] {
            let mut world = line();
            let id = world.request(0, measure("b"));
            world.run_until(world.now() + Duration::from_millis(after));
            world.strike(fault);
            world.run_until(world.now() + Duration::from_secs(8));
            match world.answer(id) {
                Some(Answer::Measured(_)) => {}
                Some(Answer::Rejected(rejection)) => assert!(
                    matches!(rejection.reason, Reject::Broken | Reject::Timeout),
                    "{fault:?} after {after} ms: {rejection:?}"
                ),
                other => panic!("{fault:?} after {after} ms: {other:?}"),
            }
            assert!(!world.counts_probes(0), "{fault:?} after {after} ms");
        }
    }
}

// --- Over real links ---

#[test]
fn a_slow_wire_is_found_within_15_percent_and_the_promise_is_warned_of() {
    if !netns::available() || !has_tc() {
        return;
    }
    for ipv6 in [false, true] {
        let overlay = Plan::new(&["a", "b"]).link("a", "b", "100 Mbit/s").in_namespaces(ipv6);
        let shape = ["rate", "50mbit", "burst", "16kb", "latency", "30ms"];
        for peer in ["a", "b"] {
            let mut tc = overlay.peer(peer).command("tc");
            tc.args(["qdisc", "add", "dev", "wire0", "root", "tbf"]).args(shape);
            output(&mut tc);
        }
        let found = overlay.peer("a").ask(&["measure", "b"]);
        tell(&found);
        let suggested = found["suggested_bps"].as_u64().expect("a suggestion");
        assert!((42_500_000..=50_000_000).contains(&suggested), "{found}");
        assert_eq!(
            (&found["out"]["limit"], &found["back"]["limit"]),
            (&"link".into(), &"link".into())
        );
        let warnings = found["warnings"].to_string();
        assert!(warnings.contains("promises more than the link carries"), "{warnings}");
        let text = output(&mut overlay.peer("a").client(&["measure", "b", "--duration", "2s"]));
        assert!(text.contains("capacity = \""), "{text}");
        steady(&overlay, &["a", "b"]);
    }
}

#[test]
fn loopback_is_measured_in_time_and_channels_that_run_on_it_lose_nothing() {
    let collector = Collector::start();
    let sink = format!("[service.sink]\ndeliver = \"{}\"", collector.address);
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "40 Mbit/s")
        .link("b", "c", "40 Mbit/s")
        .section("c", &sink)
        .on_loopback();
    let opened = overlay.peer("a").open("c/sink", "10 Mbit/s", &["--name", "runs"]);
    let entry = opened["listen"].as_str().expect("an entry").parse().expect("an address");
    let pacer = Pacer::start(entry, 3, 1_000);
    pass(Duration::from_millis(300));
    let started = now();
    let found = overlay.peer("b").ask(&["measure", "a"]);
    let took = started.elapsed();
    tell(&found);
    assert!(took < Duration::from_secs(6), "{took:?}");
    let best = |way: &str| found[way]["best_bps"].as_u64().expect("a rate");
    assert!(best("out") > 40_000_000 && best("back") > 40_000_000, "{found}");
    assert_eq!(found["reserved_back_bps"], 10_000_000, "the channel comes from there");
    pass(Duration::from_millis(300));
    let sent = pacer.stop();
    // A pacer that a busy machine held up catches up, which is policed; nothing else may be missing.
    let policed = only(overlay.peer("a"))["dropped"]["policed"].as_u64().unwrap_or(0);
    let through = poll(Duration::from_secs(5), || {
        (only(overlay.peer("c"))["rx_frames"].as_u64()? == sent - policed).then_some(())
    });
    let rows = ["a", "b", "c"].map(|peer| only(overlay.peer(peer)));
    assert!(through.is_some(), "{sent} frames were sent: {rows:?}");
    let received = collector.stop();
    assert_eq!(received.len() as u64, sent - policed, "a running channel lost frames");
    steady(&overlay, &["a", "b", "c"]);
}

#[test]
fn what_cannot_be_measured_is_an_error_that_says_why() {
    let mut overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "10 Mbit/s")
        .link("b", "c", "10 Mbit/s")
        .on_loopback();
    let fails = |overlay: &Overlay, arguments: &[&str], code: i32, text: &str| {
        let out = overlay.peer("a").client(arguments).output().expect("spanway starts");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
    };
    fails(&overlay, &["measure", "c"], 3, "c is no neighbour");
    fails(&overlay, &["measure", "nobody"], 3, "nobody is no neighbour");
    fails(&overlay, &["measure", "b", "--duration", "60s"], 2, "1s to 5s");
    fails(&overlay, &["measure", "b", "--max", "5"], 2, "bit/s");
    fails(&overlay, &["measure", "b", "--max", "1 kbit/s"], 2, "at least 64 kbit/s");
    fails(&overlay, &["measure", "b", "--max", "1 Gbit/s"], 3, "at most 160 Mbit/s");
    let first = overlay.peer("a").client(&["measure", "b", "--json"]).stdout(Stdio::null()).spawn();
    let mut first = first.expect("spanway starts");
    pass(Duration::from_millis(300));
    fails(&overlay, &["measure", "b"], 3, "already");
    first.wait().expect("our own child");
    overlay.kill("b");
    wait_for("the link is down", Duration::from_secs(10), || {
        let links = overlay.peer("a").ask(&["links"]);
        (links[0]["state"] == "down").then_some(())
    });
    fails(&overlay, &["measure", "b"], 3, "is down");
}

/// No link died, and every frame and probe of every worker is in the books.
fn steady(overlay: &Overlay, peers: &[&str]) {
    for peer in peers {
        let log = overlay.peer(peer).log();
        assert!(!log.contains("heartbeat"), "{peer}:\n{log}");
        let ledger = overlay.peer(peer).ask(&["channels", "--ledger"]);
        assert_eq!(ledger["adds_up"], true, "{ledger}");
    }
}

/// The one channel that a peer has.
fn only(peer: &Peer) -> Value {
    peer.ask(&["channels"])[0].clone()
}

fn tell(found: &Value) {
    let ways = ["out", "back"].map(|way| {
        let trains = found[way]["trains"].as_array().map_or(0, Vec::len);
        format!("{} ({}, {trains} trains)", found[way]["best_bps"], found[way]["limit"])
    });
    println!("{}: {} in {} ms", found["peer"], ways.join(", "), found["took_ms"]);
}

fn has_tc() -> bool {
    let found = Command::new("tc").arg("-V").output().is_ok_and(|out| out.status.success());
    if !found {
        let required = std::env::var_os("SPANWAY_REQUIRE_NETNS").is_some();
        assert!(!required, "SPANWAY_REQUIRE_NETNS is set, but there is no `tc` ({SPANWAY})");
        let text = "\n##### MEASURE TEST SKIPPED: no `tc` #####\n\n";
        std::io::stderr().write_all(text.as_bytes()).expect("standard error is open");
    }
    found
}

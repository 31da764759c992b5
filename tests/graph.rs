//! The picture of the overlay (B3): in the simulated world through partitions, restarts and mixed versions,
//! and at real daemons.
//!
//! What random overlays with faults do to it is judged in `simulation.rs` with everything else (I9).

mod common;

use std::fs;
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan};
use common::program::wait_for;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};
use spanway::limits;
use spanway::proto::{Choice, OpenRequest, Request, ServiceConfig, ServiceKind};
use spanway::sim::scenario::{judge_rest, settle_pictures};
use spanway::sim::{self, Fault, Sim, check};
use spanway::types::{Bandwidth, PeerName, ServiceName, Time};

const SOON: Duration = Duration::from_secs(20);
const EVENTS_MAX: u64 = 2_000_000;

#[test]
fn a3_a_link_that_goes_is_out_of_every_picture_within_a_few_hops() {
    let mut sim = started(1, 16, 3);
    settled(&mut sim);
    let before = sim.now();
    sim.strike(Fault::Crash(5));
    let gone = |sim: &Sim| {
        let others = (0..16).filter(|at| *at != 5);
        others.into_iter().all(|at| !linked(sim, at, 5))
    };
    while !gone(&sim) {
        assert!(sim.step(), "p05 is still linked");
    }
    // Up to 125 ms until its neighbours notice, then at most the diameter in hops of 3 ms.
    let took = sim.now().since(before);
    assert!(took < Duration::from_millis(125 + 30), "{took:?}");
    settled(&mut sim);
}

/// Shorter and longer than facts live, and than they are remembered.
#[test]
fn b3_after_a_partition_of_any_length_the_pictures_are_one_again() {
    for (seed, seconds) in [(1, 5), (2, 59), (3, 61), (4, 90), (5, 121), (6, 300)] {
        // Two rings and one link between them.
        let mut links: Vec<_> = [0, 4].iter().flat_map(|at| ring(*at, 4)).collect();
        links.push((0, 4, mbit(50)));
        let mut sim = world(seed, 8, links);
        settled(&mut sim);
        sim.strike(Fault::Cut(8));
        sim.run_until(sim.now() + Duration::from_secs(seconds / 2));
        // Each side changes while the other cannot hear it.
        sim.strike(Fault::Capacity(2, mbit(20)));
        sim.strike(Fault::Cut(6));
        sim.run_until(sim.now() + Duration::from_secs(seconds - seconds / 2));
        let known = sim.node(0).expect("it runs").graph().knows(&name(6));
        assert_eq!(known, seconds <= 59, "{seconds} s: after a minute the other side is gone");
        sim.strike(Fault::Restore(8));
        settled(&mut sim);
        assert!(linked(&sim, 1, 5), "{seconds} s");
    }
}

/// Whoever comes back knows nothing of the versions it used. Others remember them, some do not (they
/// started again, too), and those who do need not be its neighbours.
#[test]
fn a3_peers_that_restart_again_and_again_stay_in_every_picture() {
    // Shorter and longer than facts live, and about as long as they are remembered.
    const DOWN_MS: [u64; 8] = [5, 700, 9_000, 57_000, 61_000, 70_000, 90_000, 119_000];
    let mut retold = 0;
    for seed in 0..40 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut draw = |bound: u64| rng.next_u64() % bound;
        let mut sim = started(seed, 10, 3);
        settled(&mut sim);
        for round in 0..16 {
            let peers = 1 + draw(2) * draw(4);
            let first = round * 7 + seed;
            for at in 0..peers {
                sim.strike(Fault::Crash(position(first + at)));
            }
            let down = DOWN_MS[position(round) % DOWN_MS.len()] + draw(1_000);
            sim.run_until(sim.now() + Duration::from_millis(down));
            for at in 0..peers {
                sim.strike(Fault::Start(position(first + at)));
            }
            settled(&mut sim);
            // What is refused for being old would die within a minute.
            for _ in 0..draw(2) * draw(5) {
                sim.run_until(sim.now() + Duration::from_secs(15));
                assert_eq!(check::wrong_pictures(&sim), Vec::<String>::new(), "seed {seed}");
            }
        }
        let counters = |at: usize| sim.node(at).expect("it runs").graph().counters();
        retold += (0..10).map(|at| counters(at).retold).sum::<u64>();
    }
    assert!(retold > 100, "they met their earlier lives: {retold}");
}

#[test]
fn peers_of_an_earlier_version_disturb_nobody() {
    let mut sim = world(4, 5, ring(0, 5));
    sim.speaks(2, 2);
    for peer in 0..5 {
        sim.strike(Fault::Crash(peer));
        sim.strike(Fault::Start(peer));
    }
    sim.run_to_rest(EVENTS_MAX).expect("it comes to rest");
    judge_rest(&sim).expect("the tree needs no facts");
    sim.run_until(sim.now() + Duration::from_secs(100));
    judge_rest(&sim).expect("nobody was cut off");
    // 1 and 3 see each other the other way round; the old peer and its links are in no picture.
    for at in [0, 1, 3, 4] {
        let view = sim.node(at).expect("it runs").graph_view(sim.now());
        assert_eq!((view.peers.len(), view.links.len()), (4, 3), "{view:?}");
    }
    assert_eq!(sim.node(2).expect("it runs").graph_view(sim.now()).peers.len(), 1);
}

#[test]
fn b3_what_channels_take_is_in_the_picture() {
    let mut sim = started(5, 8, 3);
    settled(&mut sim);
    let service: ServiceName = "tv".parse().expect("a name");
    for at in 1..8 {
        let request = OpenRequest {
            protect: false,
            plain: false,
            peer: name(at),
            service: service.clone(),
            name: None,
            rate: mbit(at as u64),
            rate_back: mbit(1),
            choice: Choice::default(),
            avoid: Vec::new(),
            deadline: limits::OPEN_DEADLINE,
            wait: false,
        };
        sim.request(0, Request::Open(request));
        sim.run_until(sim.now() + Duration::from_millis(100));
    }
    // Told twice a second at most.
    sim.run_until(sim.now() + Duration::from_millis(700));
    assert_eq!(check::wrong_pictures(&sim), Vec::<String>::new());
    let view = sim.node(7).expect("it runs").graph_view(sim.now());
    let taken = |free: Bandwidth, capacity: Bandwidth| free < capacity;
    assert!(view.links.iter().any(|link| taken(link.free_up, link.capacity)));
}

/// What a settled overlay says about its picture: the figures are in ARCHITECTURE.md.
#[test]
fn an_idle_overlay_says_little() {
    let mut sim = started(6, 16, 3);
    settled(&mut sim);
    sim.run_until(sim.now() + Duration::from_secs(30));
    let before = sim.gossiped();
    let links = sim.truth().1.len() as u64;
    sim.run_until(sim.now() + Duration::from_secs(60));
    let (messages, bytes) = {
        let after = sim.gossiped();
        (after.messages - before.messages, after.bytes - before.bytes)
    };
    let rate = bytes * 8 / 60 / (2 * links);
    println!(
        "16 peers, {links} links, 60 s: {messages} messages, {bytes} bytes, {rate} bit/s a way"
    );
    // 60 digests a link, and 16 peers that say four times that they live, over each link at most twice.
    assert!(messages <= links * (2 * 40 + 16 * 4 * 2), "{messages}");
    assert!(rate < limits::CONTROL_SHARE_BPS_MIN / 50, "{rate} bit/s");
}

#[test]
fn b3_daemons_agree_on_the_picture_and_a_killed_peer_loses_its_links() {
    let mut overlay = Plan::new(&["a", "b", "c", "d"])
        .link("a", "b", "100 Mbit/s")
        .link("b", "c", "50 Mbit/s")
        .link("c", "d", "100 Mbit/s")
        .link("d", "a", "50 Mbit/s")
        .link("a", "c", "10 Mbit/s")
        .section("b", "[host]\negress = \"40 Mbit/s\"")
        .on_loopback();
    let all = ["a", "b", "c", "d"];
    let graph = wait_for("one picture", SOON, || agreed(&overlay, &all, 5));
    let link = |graph: &Value, a: &str, b: &str| {
        let links = graph["links"].as_array().expect("links").clone();
        links.into_iter().find(|link| link["a"] == a && link["b"] == b).unwrap_or(Value::Null)
    };
    let between = link(&graph, "c", "d");
    let free = [&between["free_ab_bps"], &between["free_ba_bps"]];
    assert_eq!((&between["capacity_bps"], free), (&json!(95_000_000), [&json!(95_000_000); 2]));
    assert_eq!(between["tree"], true, "{graph}");
    assert_eq!(link(&graph, "a", "c")["tree"], false, "{graph}");
    // Both links of b: its host sends no more, less the control share (decision 2).
    assert_eq!(link(&graph, "a", "b")["capacity_bps"], json!(38_000_000), "{graph}");
    assert_eq!(link(&graph, "b", "c")["capacity_bps"], json!(38_000_000), "{graph}");
    let dot = text(overlay.peer("d"), &["graph", "--dot"]);
    assert!(dot.contains("\"a\" -- \"b\""), "{dot}");
    let table = text(overlay.peer("d"), &["graph"]);
    assert!(table.starts_with("4 peers, 5 links, digest "), "{table}");

    // A reload takes the budget away, and everybody learns it.
    let file = overlay.folder().join("b.toml");
    let config = fs::read_to_string(&file).expect("a configuration");
    fs::write(&file, config.replace("egress", "# egress")).expect("written");
    overlay.peer("b").ask(&["reload"]);
    wait_for("the capacity without the budget", SOON, || {
        let graph = agreed(&overlay, &all, 5)?;
        (link(&graph, "a", "b")["capacity_bps"] == 95_000_000).then_some(())
    });

    overlay.kill("c");
    let graph = wait_for("a picture without c", SOON, || agreed(&overlay, &["a", "b", "d"], 2));
    let names = graph["peers"].as_array().expect("peers").iter().map(|peer| &peer["name"]);
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "c", "d"], "it is remembered for a minute");
    overlay.run("c");
    wait_for("the picture with c again", SOON, || agreed(&overlay, &all, 5));
}

#[test]
fn a_path_that_is_not_there_is_refused_with_the_two_peers_that_have_no_link() {
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "100 Mbit/s")
        .link("b", "c", "50 Mbit/s")
        .section("c", "[service.video]\ndeliver = \"127.0.0.1:9\"")
        .on_loopback();
    wait_for("one picture", SOON, || agreed(&overlay, &["a", "b", "c"], 2));
    let a = overlay.peer("a");
    let open =
        |path: &str| a.answer(&["open", "c/video", "--bandwidth", "1 Mbit/s", "--path", path]);
    let (code, reply) = open("c");
    assert_eq!((code, &reply["reason"]), (Some(3), &json!("unreachable")), "{reply}");
    assert_eq!(reply["detail"], "a and c have no live link", "{reply}");
    assert_eq!(open("b").0, Some(2), "it does not end at c");
    assert_eq!(open("b,b,c").0, Some(2), "it comes to b twice");
    let (code, reply) = open("b,c");
    assert_eq!((code, &reply["path"]), (Some(0), &json!(["a", "b", "c"])), "{reply}");
}

/// The picture that all of these have, once it has this many links.
fn agreed(overlay: &Overlay, peers: &[&str], links: usize) -> Option<Value> {
    let graphs = peers.iter().map(|peer| overlay.peer(peer).answer(&["graph"]).1);
    let graphs: Vec<Value> = graphs.collect();
    let same = graphs.iter().all(|graph| graph["digest"] == graphs[0]["digest"]);
    let whole = graphs[0]["links"].as_array()?.len() == links;
    (same && whole).then(|| graphs[0].clone())
}

fn text(peer: &Peer, arguments: &[&str]) -> String {
    let out = peer.client(arguments).output().expect("spanway starts");
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).expect("text")
}

fn name(at: usize) -> PeerName {
    PeerName::new(&format!("p{at:02}")).expect("a name")
}

fn mbit(rate: u64) -> Bandwidth {
    Bandwidth::from_bps(rate * 1_000_000)
}

fn ring(from: usize, peers: usize) -> Vec<(usize, usize, Bandwidth)> {
    (0..peers).map(|at| (from + at, from + (at + 1) % peers, mbit(100))).collect()
}

fn world(seed: u64, peers: usize, links: Vec<(usize, usize, Bandwidth)>) -> Sim {
    let service = ServiceConfig {
        name: "tv".parse().expect("a name"),
        kind: ServiceKind::Deliver,
        plain: true,
    };
    let plan = sim::Plan {
        peers: (0..peers).map(name).collect(),
        links,
        services: vec![service],
        delay: (Duration::from_millis(1), Duration::from_millis(3)),
        ..sim::Plan::default()
    };
    let mut sim = Sim::new(seed, &plan);
    (0..peers).for_each(|peer| sim.strike(Fault::Start(peer)));
    sim
}

/// A ring with links across, so that each peer has about `degree`.
fn started(seed: u64, peers: usize, degree: usize) -> Sim {
    let mut links = ring(0, peers);
    for at in 0..peers * (degree - 2) / 2 {
        let (one, other) = (at * 2 % peers, (at * 2 + 5) % peers);
        links.push((one.min(other), one.max(other), mbit(50)));
    }
    world(seed, peers, links)
}

/// One of ten peers.
fn position(at: u64) -> usize {
    usize::try_from(at % 10).expect("a position")
}

/// To rest, with the tree and all pictures right.
fn settled(sim: &mut Sim) {
    sim.run_to_rest(EVENTS_MAX).expect("it comes to rest");
    judge_rest(sim).expect("a right tree");
    settle_pictures(sim).expect("equal and true pictures");
    assert!(sim.now() > Time(0));
}

/// The picture of peer `at` has a link of `of`.
fn linked(sim: &Sim, at: usize, of: usize) -> bool {
    let node = sim.node(at).expect("it runs");
    let name = name(of);
    node.graph().picture().links().any(|link| *link.lower == name || *link.higher == name)
}

//! Thousands of random overlays in the deterministic world: the forest is Kruskal's, whatever strikes
//! while it is computed.
//!
//! A failure names its seed; `cargo xtask sim --seed N --log` replays it event by event.

mod common;

use std::time::Duration;

use common::seeds;
use ed25519_dalek::SigningKey;
use spanway::limits;
use spanway::proto::start::Signed;
use spanway::proto::view::TreeView;
use spanway::proto::{Answer, Collected, Input, Request};
use spanway::sim::check::{self, judge};
use spanway::sim::scenario::{Outcome, Scenario, judge_rest};
use spanway::sim::{Fault, Plan, Sim};
use spanway::types::{Bandwidth, LinkId, PeerName, SessionId, Time};
use spanway::wire::control::Message;

const SEEDS: u64 = 8_000;
const EVENTS_MAX: u64 = 2_000_000;

/// I1, I2, I3 at rest for every seed (`scenario::judge_rest`), half of the seeds with faults; and I9: all
/// pictures are equal and true within ten rounds (`scenario::settle_pictures`).
#[test]
fn a7_a4_random_overlays_with_faults_end_in_kruskals_forest() {
    let (first, commit) = seeds::fresh(SEEDS);
    let outcomes = run_all(first, &commit);
    let faulty: Vec<_> = outcomes.iter().filter(|(scenario, _)| scenario.faulty).collect();
    assert!(faulty.len() as u64 >= SEEDS / 2);
    for (scenario, outcome) in &faulty {
        assert!(outcome.hit(), "seed {}: its faults hit nothing", scenario.seed);
    }
    let early = faulty.iter().filter(|(_, outcome)| outcome.struck_before_commit()).count();
    let share = early as f64 / faulty.len() as f64;
    assert!(share >= 0.9, "only {early} of {} were struck before COMMIT", faulty.len());
    assert!(outcomes.iter().any(|(_, outcome)| outcome.components > 1), "no forest was tried");
    assert!(outcomes.iter().any(|(_, outcome)| outcome.peers == 24), "no large overlay was tried");
    // I12. Who falls silent without heartbeats to tell it is not in this promise.
    let told = outcomes.iter().filter(|(scenario, _)| {
        !scenario.faults.iter().any(|(_, fault)| matches!(fault, Fault::Mute(_)))
    });
    let mut settled: Vec<_> = told.map(|(_, outcome)| outcome.settled).collect();
    settled.sort();
    let (half, all) = (settled[settled.len() / 2], settled[settled.len() - 1]);
    let pictures = outcomes.iter().map(|(_, outcome)| outcome.pictures).max();
    println!("pictures are true after at most {pictures:?}");
    println!("{early} of {} struck before COMMIT; settled: {half:?}, all {all:?}", faulty.len());
    assert!(all <= Duration::from_secs(3), "{all:?} from the last event to the last COMMIT");
}

/// Two threads, each every second pair of seeds; panics with all failures.
fn run_all(first: u64, commit: &str) -> Vec<(Scenario, Outcome)> {
    let run = |scenario: Scenario| (scenario.clone(), scenario.run());
    let share = |part: u64| {
        let seeds = (first..first + SEEDS).chain(seeds::failed_once("tree"));
        let seeds = seeds.filter(|seed| seed / 2 % 2 == part);
        seeds.map(Scenario::new).map(run).collect::<Vec<_>>()
    };
    let results = std::thread::scope(|scope| {
        let other = scope.spawn(|| share(1));
        let mut results = share(0);
        results.extend(other.join().expect("the other half ran"));
        results
    });
    let mut outcomes = Vec::new();
    let mut failures = Vec::new();
    for (scenario, result) in results {
        match result {
            Ok(outcome) => outcomes.push((scenario, outcome)),
            Err(wrong) => {
                let seed = scenario.seed;
                failures.push(format!("{wrong}\n  cargo xtask sim --seed {seed} --log"));
            }
        }
    }
    let count = failures.len();
    assert!(failures.is_empty(), "commit {commit}, {count} failures:\n{}", failures.join("\n"));
    outcomes
}

#[test]
fn the_same_seed_twice_is_the_same_run_event_for_event() {
    for seed in [1, 7, 12, 33] {
        let scenario = Scenario::new(seed);
        let mut logged = scenario.sim();
        logged.keep_log();
        let first = scenario.judge(&mut logged).expect("a correct run");
        assert_eq!(first, scenario.run().expect("a correct run"), "a log changes nothing");
        let mut again = scenario.sim();
        again.keep_log();
        scenario.judge(&mut again).expect("a correct run");
        assert_eq!(logged.log(), again.log(), "seed {seed}");
    }
    let hash = |seed| Scenario::new(seed).run().expect("a correct run").hash;
    assert_ne!(hash(1), hash(3));
}

#[test]
fn a1_a_peer_that_joins_during_a_computation_is_in_the_tree() {
    for seed in 0..50 {
        let mut sim = Sim::new(seed, &ring());
        for peer in 0..4 {
            sim.strike(Fault::Start(peer));
        }
        into_computation(&mut sim, 3);
        sim.strike(Fault::Start(4));
        rest(&mut sim);
        assert!(sim.node(0).unwrap().overlay().unwrap().knows(&name(4)), "seed {seed}");
    }
}

#[test]
fn a2_a_peer_that_leaves_says_so_and_nobody_waits_for_heartbeats_to_miss_it() {
    let mut sim = at_rest(9, &ring());
    sim.strike(Fault::Leave(0));
    sim.run_until(Time(sim.now().0 + 4_000));
    for neighbour in [1, 4] {
        let links = sim.node(neighbour).unwrap().links();
        let link = links.iter().find(|link| link.peer == name(0)).unwrap();
        assert_eq!(link.state.as_str(), "down");
    }
    rest(&mut sim);
}

#[test]
fn a3_a_peer_that_dies_during_a_computation_is_not_in_the_tree_and_stops_nobody() {
    for seed in 0..50 {
        let mut sim = started(seed, &ring());
        into_computation(&mut sim, 2);
        sim.strike(Fault::Crash(2));
        rest(&mut sim);
        let tree = sim.node(0).unwrap().overlay().unwrap();
        assert_eq!((tree.peers(), tree.knows(&name(2))), (4, false), "seed {seed}");
    }
}

#[test]
fn a3_a_cut_link_and_a_changed_capacity_change_the_tree() {
    let mut sim = at_rest(1, &plan(3, &[(0, 1, 30), (1, 2, 20), (0, 2, 10)]));
    let direct = |sim: &Sim| sim.node(0).unwrap().overlay().unwrap().is_branch(&name(2));
    assert!(!direct(&sim));
    sim.strike(Fault::Capacity(2, mbit(25)));
    rest(&mut sim);
    assert!(direct(&sim), "0-2 is better than 1-2 now");
    sim.strike(Fault::Cut(2));
    rest(&mut sim);
    assert!(!direct(&sim));
    sim.strike(Fault::Restore(2));
    rest(&mut sim);
    assert!(direct(&sim));
}

#[test]
fn a4_one_peer_a_ring_a_mesh_components_and_equal_capacities_all_work() {
    rest(&mut started(1, &plan(1, &[])));
    rest(&mut started(1, &ring()));
    let mesh: Vec<_> =
        (0..8).flat_map(|one| (one + 1..8).map(move |other| (one, other, 10))).collect();
    rest(&mut started(1, &plan(8, &mesh)));
    let mut apart = started(1, &plan(6, &[(0, 1, 10), (2, 3, 10)]));
    rest(&mut apart);
    assert_eq!(judge_rest(&apart), Ok(4));
}

/// A chain this long takes its session longer than any watchdog would wait at first.
#[test]
fn a4_a_session_that_needs_longer_than_its_watchdog_is_given_more_time() {
    let links: Vec<_> = (1..500).map(|at| (at - 1, at, 10 + at as u64 % 7)).collect();
    // Without facts, which would cost most of the time: 500 peers that all know each other.
    let mut sim = started(1, &Plan { version: 2, ..plan(500, &links) });
    sim.run_to_rest(10 * EVENTS_MAX).expect("it comes to rest");
    let nodes = || sim.peers().iter().filter_map(|peer| peer.node.as_ref());
    assert!(nodes().any(|node| node.counters().watchdog > 0), "the chain is too short");
    assert!(nodes().all(|node| node.overlay().is_some_and(|tree| tree.peers() == 500)));
}

#[test]
fn a7_a_link_whose_ends_differ_counts_with_the_smaller_capacity() {
    let mut sim = at_rest(1, &plan(3, &[(0, 1, 30), (1, 2, 20), (0, 2, 10)]));
    // Peer 0 would have its link to 2 in the tree, peer 2 would not.
    sim.strike(Fault::CapacityAtOneEnd(2, mbit(100)));
    rest(&mut sim);
    assert!(!sim.node(0).unwrap().overlay().unwrap().is_branch(&name(2)));
    // Peer 1 alone thinks little of its link to 2.
    sim.strike(Fault::CapacityAtOneEnd(1, mbit(5)));
    rest(&mut sim);
    assert!(sim.node(0).unwrap().overlay().unwrap().is_branch(&name(2)));
}

/// A neighbour may wait for START only 2 s, our sessions may be up to 5 s apart.
#[test]
fn a8_a_peer_that_just_started_many_sessions_still_answers_a_new_neighbour_in_time() {
    let mut sim = Sim::new(1, &plan(3, &[(0, 1, 10), (1, 2, 10)]));
    sim.strike(Fault::Start(0));
    sim.strike(Fault::Start(1));
    rest(&mut sim);
    for _ in 0..9 {
        sim.run_until(Time(sim.now().0 + 300_000));
        sim.request(1, Request::Recompute);
        rest(&mut sim);
    }
    let joins = sim.now();
    sim.strike(Fault::Start(2));
    rest(&mut sim);
    let settled = sim.commits().last().expect("it committed").0.since(joins);
    assert!(settled < limits::START_ANSWER_MAX, "the link was given up and dialled again");
}

#[test]
fn a8_concurrent_starts_end_in_one_session() {
    let mut sim = at_rest(2, &ring());
    let asked: Vec<_> = (0..5).map(|peer| sim.request(peer, Request::Recompute)).collect();
    rest(&mut sim);
    let session = sim.node(0).unwrap().session().unwrap();
    assert_eq!(session.initiator, name(4), "equal counters: the greater name wins");
    assert!(asked.iter().all(|id| matches!(sim.answer(*id), Some(Answer::Recomputing(_)))));
}

#[test]
fn a8_a_neighbour_that_does_not_answer_start_is_cut_off_within_two_seconds() {
    let mut sim = at_rest(3, &plan(3, &[(0, 1, 10), (1, 2, 10)]));
    sim.strike(Fault::Mute(1));
    let before = sim.now();
    sim.request(0, Request::Recompute);
    while sim.node(0).unwrap().overlay().unwrap().knows(&name(2)) {
        assert!(sim.step(), "the silent neighbour is still in the tree");
    }
    let waited = sim.now().since(before);
    assert!(waited < limits::START_ANSWER_MAX + Duration::from_millis(300), "{waited:?}");
    rest(&mut sim);
    assert!(sim.node(0).unwrap().overlay().unwrap().knows(&name(2)), "the link came back");
}

/// Two overlays whose counters are far apart meet: the Hello of the new link lets them agree.
#[test]
fn a8_overlays_with_counters_far_apart_agree_when_they_meet() {
    let links = [(0, 1, 10), (2, 3, 10), (1, 2, 10)];
    let mut sim = Sim::new(4, &Plan { version: 2, ..plan(4, &links) });
    sim.strike(Fault::Cut(2));
    sim.strike(Fault::Start(0));
    sim.strike(Fault::Start(1));
    rest(&mut sim);
    // The first grows old: every minute lets its counters run ahead a little more.
    let stranger = SigningKey::from_bytes(&[9; 32]);
    for minute in 1..6 {
        sim.run_until(Time(minute * 61_000_000));
        let counter = minute * (limits::COUNTER_AHEAD_MAX - 1_000);
        let session = SessionId { counter, initiator: PeerName::new("far").unwrap() };
        let start = Signed::sign(session, &stranger).start(mbit(10));
        sim.input(0, Input::Message { link: LinkId(0), message: Message::Start(start) });
        rest(&mut sim);
    }
    let far = sim.node(0).unwrap().session().unwrap().counter;
    assert!(far > 4 * limits::COUNTER_AHEAD_MAX);
    // The second is young: it would not believe such a counter from a START alone.
    sim.strike(Fault::Start(2));
    sim.strike(Fault::Start(3));
    rest(&mut sim);
    sim.strike(Fault::Restore(2));
    rest(&mut sim);
    assert!(sim.node(3).unwrap().session().unwrap().counter > far);
    assert!(sim.node(3).unwrap().counters().refused > 0, "the limit stood until a Hello came");
}

#[test]
fn a9_after_a_session_every_peer_knows_its_edges_its_parent_and_every_next_hop() {
    let sim = at_rest(8, &ring());
    let (peers, links) = sim.truth();
    let forest: Vec<_> = check::maximum_forest(&links).into_iter().collect();
    let trees = trees(&sim);
    for (tree, here) in trees.iter().zip(&peers) {
        assert_eq!((&tree.edges, tree.complete), (&forest, true));
        assert_eq!(tree.session, trees[0].session);
        assert_eq!(tree.next_hops.len(), peers.len() - 1);
        for (to, via) in &tree.next_hops {
            assert!(to != here && forest.iter().any(|edge| edge.other_end(here) == Some(via)));
        }
    }
    let parents = trees.iter().filter(|tree| tree.parent.is_some()).count();
    assert_eq!(parents, peers.len() - 1, "everybody but the leader has one");
}

#[test]
fn a10_what_every_peer_says_of_itself_is_judged_true_and_a_planted_edge_false() {
    let mut sim = at_rest(5, &ring());
    for peer in 0..5 {
        let mut collected = collect(&mut sim, peer);
        let judged = judge(&collected);
        assert!(judged.correct(), "{judged:?}");
        assert_eq!((judged.peers, judged.links), (5, 6));

        // 1-3 is the weakest edge of its circle, so it is no branch.
        for (one, other) in [(1, 3), (3, 1)] {
            let links = &mut collected.peers[one].1;
            let info = links.iter_mut().find(|info| info.peer == name(other)).unwrap();
            assert!(!std::mem::replace(&mut info.branch, true));
        }
        let judged = judge(&collected);
        assert!(!judged.correct());
        assert_eq!(judged.surplus.len(), 1, "{judged:?}");
    }
}

#[test]
fn a10_the_walk_reaches_every_peer_of_the_component_and_lists_the_silent() {
    let links: Vec<_> = (1..40).map(|at| (at / 3, at, 10)).collect();
    let mut sim = at_rest(6, &plan(40, &links));
    assert_eq!(collect(&mut sim, 7).peers.len(), 40);
    // A hung link: nobody notices until somebody waits for an answer.
    sim.strike(Fault::Mute(38));
    let collected = collect(&mut sim, 7);
    assert_eq!(collected.silent, [name(39)]);
    assert!(!judge(&collected).correct());
}

/// A18: through a whole recomputation, and through one that cannot end, the old tree answers.
#[test]
fn a18_the_old_tree_serves_until_the_new_one_is_committed() {
    let mut sim = at_rest(7, &ring());
    let before = trees(&sim);
    sim.request(0, Request::Recompute);
    let (mut during, mut committed) = (0, 0);
    while sim.step() {
        for (tree, old) in trees(&sim).iter().zip(&before) {
            assert_eq!((&tree.edges, &tree.next_hops), (&old.edges, &old.next_hops));
            during += usize::from(!tree.complete && tree.session == old.session);
            committed += usize::from(tree.complete && tree.session != old.session);
        }
    }
    assert!(during > 0 && committed > 0);

    sim.strike(Fault::Mute(1));
    let before = trees(&sim);
    sim.request(0, Request::Recompute);
    sim.run_until(Time(sim.now().0 + 1_500_000));
    for (tree, old) in trees(&sim).iter().zip(&before) {
        assert!(!tree.complete, "no COMMIT can come");
        assert_eq!((&tree.session, &tree.next_hops), (&old.session, &old.next_hops));
    }
}

#[test]
fn a_link_removed_from_the_configuration_leaves_the_tree() {
    let mut sim = at_rest(10, &ring());
    let mut config = sim.peers()[1].config().clone();
    config.links.retain(|link| link.peer != name(2));
    sim.input(1, Input::Configured(config));
    sim.run_until(Time(sim.now().0 + 1_000_000));
    for (at, other) in [(1, 2), (2, 1)] {
        let tree = sim.node(at).unwrap().overlay().unwrap();
        assert!(!tree.is_branch(&name(other)));
        assert!(tree.knows(&name(other)), "there is another way");
    }
}

fn mbit(rate: u64) -> Bandwidth {
    Bandwidth::from_bps(rate * 1_000_000)
}

fn name(at: usize) -> PeerName {
    PeerName::new(&format!("p{at}")).expect("a name")
}

/// Peers p0, p1, ... and links as (one, other, Mbit/s); one hop takes 1 to 3 ms.
fn plan(peers: usize, links: &[(usize, usize, u64)]) -> Plan {
    Plan {
        peers: (0..peers).map(name).collect(),
        links: links.iter().map(|(one, other, rate)| (*one, *other, mbit(*rate))).collect(),
        services: Vec::new(),
        delay: (Duration::from_millis(1), Duration::from_millis(3)),
        ..Plan::default()
    }
}

/// A ring with a chord: whatever single peer goes, the others stay connected.
fn ring() -> Plan {
    plan(5, &[(0, 1, 10), (1, 2, 20), (2, 3, 10), (3, 4, 20), (4, 0, 10), (1, 3, 5)])
}

fn started(seed: u64, plan: &Plan) -> Sim {
    let mut sim = Sim::new(seed, plan);
    for peer in 0..plan.peers.len() {
        sim.strike(Fault::Start(peer));
    }
    sim
}

fn at_rest(seed: u64, plan: &Plan) -> Sim {
    let mut sim = started(seed, plan);
    rest(&mut sim);
    sim
}

/// Runs to rest and judges what is there.
fn rest(sim: &mut Sim) {
    sim.run_to_rest(EVENTS_MAX).expect("it comes to rest");
    if let Err(wrong) = judge_rest(sim) {
        panic!("{wrong}");
    }
}

/// Steps until `watched` is in a session that it has not committed, with links in it.
fn into_computation(sim: &mut Sim, watched: usize) {
    let ready = |sim: &Sim| {
        let node = sim.node(watched).expect("it runs");
        node.computing() && node.links().iter().any(|link| link.state.as_str() == "up")
    };
    while !ready(sim) {
        assert!(sim.step(), "no computation began");
    }
}

fn trees(sim: &Sim) -> Vec<TreeView> {
    sim.peers().iter().filter_map(|peer| Some(peer.node.as_ref()?.tree())).collect()
}

fn collect(sim: &mut Sim, peer: usize) -> Collected {
    let id = sim.request(peer, Request::CollectLinks { course: false });
    sim.run_to_rest(EVENTS_MAX).expect("it comes to rest");
    match sim.answer(id) {
        Some(Answer::Links(collected)) => collected.clone(),
        other => panic!("no collected links: {other:?}"),
    }
}

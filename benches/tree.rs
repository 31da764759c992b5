//! What the tree costs: one GHS message at one peer, a whole session of 1,000 simulated peers; and the
//! widest path on the picture of as many.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use spanway::proto::Request;
use spanway::proto::ghs::Computation;
use spanway::proto::graph::Wanted;
use spanway::proto::graph::store::Store;
use spanway::sim::{Fault, Plan, Sim};
use spanway::types::{Bandwidth, EdgeKey, LinkId, PeerName, PublicKey, Time};
use spanway::wire::control::Ghs;
use spanway::wire::facts::{Fact, LinkFact, PeerFact};

criterion_group!(benches, one_message, one_session, widest_path);
criterion_main!(benches);

/// Test from another fragment, answered with Accept, at a peer with 32 links.
fn one_message(criterion: &mut Criterion) {
    let key = |at: u16| {
        EdgeKey::new(Bandwidth::from_bps(u64::from(at)), name(0), name(1 + usize::from(at)))
    };
    let mut peer = Computation::new(name(0), (0..32).map(|at| (LinkId(at), key(at))));
    let mut out = Vec::new();
    peer.wake(&mut out);
    let test = Ghs::Test { level: 0, fragment: key(99) };
    criterion.bench_function("ghs_message", |bencher| {
        bencher.iter_batched(
            || test.clone(),
            |test| {
                out.clear();
                peer.handle(LinkId(3), black_box(test), &mut out).expect("an honest message");
            },
            BatchSize::SmallInput,
        );
    });
}

/// Recomputation of a settled overlay: START, the algorithm, DONE, MEMBERS and COMMIT everywhere.
fn one_session(criterion: &mut Criterion) {
    let mut sim = Sim::new(1, &plan(1_000));
    for peer in 0..1_000 {
        // Only the tree: no facts about the overlay.
        sim.speaks(peer, 2);
        sim.strike(Fault::Start(peer));
    }
    rest(&mut sim);
    let mut group = criterion.benchmark_group("session");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("1000_peers", |bencher| {
        bencher.iter(|| {
            sim.request(0, Request::Recompute);
            rest(&mut sim);
        });
    });
    group.finish();
}

/// From one end of the overlay to another on a picture of 1,000 peers and 3,000 links; and with the graph
/// made of the facts before, as after a change.
fn widest_path(criterion: &mut Criterion) {
    let plan = plan(1_000);
    let wanted = Wanted {
        to: &plan.peers[999],
        rate: Bandwidth::from_bps(1_000_000),
        rate_back: Bandwidth::from_bps(64_000),
        max_payload: 1_400,
        own: &[],
        idle: false,
        without_links: &[],
        without_relays: &[],
    };
    let search = |store: &Store| store.picture().widest(&plan.peers[0], &[], &wanted);
    let mut store = picture(&plan);
    assert!(search(&store).is_some());
    let mut group = criterion.benchmark_group("widest");
    group.bench_function("1000_peers", |bencher| {
        bencher.iter(|| black_box(search(&store)));
    });
    let mut version = 1;
    group.bench_function("1000_peers_changed", |bencher| {
        bencher.iter(|| {
            version += 1;
            let (one, other, capacity) = plan.links[0];
            store.insert(Time(1), half(&plan, one, other, capacity, version), Duration::ZERO);
            black_box(search(&store))
        });
    });
    group.finish();
}

fn picture(plan: &Plan) -> Store {
    let mut store = Store::new(plan.peers[0].clone());
    for at in 0..plan.peers.len() {
        let fact = PeerFact {
            origin: plan.peers[at].clone(),
            key: key_of(at),
            version: 1,
            leaving: false,
            egress: None,
            ingress: None,
            signature: [0; 64],
        };
        store.insert(Time(0), Fact::Peer(fact), Duration::ZERO);
    }
    for &(one, other, capacity) in &plan.links {
        for (from, to) in [(one, other), (other, one)] {
            store.insert(Time(0), half(plan, from, to, capacity, 1), Duration::ZERO);
        }
    }
    store
}

fn half(plan: &Plan, from: usize, to: usize, capacity: Bandwidth, version: u64) -> Fact {
    Fact::Link(LinkFact {
        origin: plan.peers[from].clone(),
        neighbour: plan.peers[to].clone(),
        neighbour_key: key_of(to),
        version,
        up: true,
        capacity,
        free_out: capacity,
        max_payload: 1_408,
        signature: [0; 64],
    })
}

/// Nobody checks it here.
fn key_of(peer: usize) -> PublicKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&peer.to_be_bytes());
    PublicKey(key)
}

fn rest(sim: &mut Sim) {
    sim.run_to_rest(100_000_000).expect("it comes to rest");
}

/// A connected overlay with three links a peer, capacities from four values.
fn plan(peers: usize) -> Plan {
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut pairs = std::collections::BTreeSet::new();
    for at in 1..peers {
        pairs.insert((draw(at), at));
    }
    while pairs.len() < 3 * peers {
        let (one, other) = (draw(peers), draw(peers));
        if one < other {
            pairs.insert((one, other));
        }
    }
    let capacities = [10, 25, 50, 100].map(|mbit| Bandwidth::from_bps(mbit * 1_000_000));
    Plan {
        peers: (0..peers).map(name).collect(),
        links: pairs.into_iter().map(|(one, other)| (one, other, capacities[draw(4)])).collect(),
        services: Vec::new(),
        delay: (Duration::from_millis(1), Duration::from_millis(10)),
        ..Plan::default()
    }
}

fn name(at: usize) -> PeerName {
    PeerName::new(&format!("p{at:04}")).expect("a name")
}

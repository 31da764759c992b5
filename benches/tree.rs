//! What the tree costs: one GHS message at one peer, and a whole session of 1,000 simulated peers.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use spanway::proto::Request;
use spanway::proto::ghs::Computation;
use spanway::sim::{Fault, Plan, Sim};
use spanway::types::{Bandwidth, EdgeKey, LinkId, PeerName};
use spanway::wire::control::Ghs;

criterion_group!(benches, one_message, one_session);
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

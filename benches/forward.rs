//! What a frame costs between receive and send: the look-up of its label, one batch of 64 judgements,
//! and a whole super-buffer from parsing to the runs that leave and the books. No socket, no kernel.

mod rig;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rig::{label, neighbour, pass, sized_frame, table};
use spanway::engine::forward::forward;
use spanway::engine::pool::{Filled, Pool};
use spanway::engine::ring::Rings;
use spanway::engine::runs::Runs;
use spanway::net::EventFd;
use spanway::types::{Label, Time, WorkerId};
use spanway::wire::frame;

const BATCH: usize = 64;

fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("label_look_up");
    for labels in [10, 1_000, 100_000] {
        let table = table(labels);
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(labels), |bench| {
            bench.iter(|| {
                number = (number + 7_919) % labels;
                table.route(black_box(label(number))).is_some()
            });
        });
    }
    group.finish();
}

fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward_batch_of_64");
    group.throughput(Throughput::Elements(BATCH as u64));
    for labels in [10, 1_000, 100_000] {
        let mut table = table(labels);
        let mut now = Time(0);
        let pick = |index: u64| label(index * (labels / 10) % labels);
        let mut frames: Vec<Vec<u8>> =
            (0..BATCH as u64).map(|i| sized_frame(pick(i), 1_316)).collect();
        group.bench_function(BenchmarkId::from_parameter(labels), |bench| {
            bench.iter(|| {
                now.0 += 100;
                let mut relayed = 0;
                for (index, bytes) in (0..).zip(&mut frames) {
                    relayed += usize::from(forward(bytes, neighbour(), &mut table, now).is_ok());
                    // As it came, for the next turn.
                    frame::relabel(bytes, pick(index), 64);
                }
                assert_eq!(relayed, BATCH);
            });
        });
    }
    group.finish();
}

fn parse_to_regroup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse_to_regroup");
    let (pool, mut free) = Pool::new(512).expect("memory");
    let mut buffers = Vec::new();
    let mut runs = Runs::default();
    for labels in [1, 100, 100_000] {
        let mut table = table(labels);
        for (frames, payload) in [(32, 200), (64, 64), (64, 200), (32, 1_316)] {
            let bytes = sized_frame(Label(1), payload).len();
            let mut next = 0;
            // Many buffers and labels without order: not all of it is in the cache.
            while let Some(unfilled) = free.pop() {
                let mut filled = unfilled.filled(frames * bytes);
                for slot in pool.bytes_mut(&mut filled).chunks_mut(bytes) {
                    next = (next + 7_919) % labels;
                    slot.copy_from_slice(&sized_frame(label(next), payload));
                }
                buffers.push(filled);
            }
            group.throughput(Throughput::Elements(frames as u64));
            let name = format!("{labels} channels, {frames} x {payload} B");
            let (mut turn, mut now) = (0, Time(0));
            group.bench_function(name, |bench| {
                bench.iter(|| {
                    turn = (turn + 1) % 64;
                    now.0 += 100;
                    pass(&pool, &mut buffers[turn], bytes, &mut table, now, &mut runs);
                });
            });
            free.extend(buffers.drain(..).map(Filled::released));
        }
    }
    group.finish();
}

/// A buffer to another worker and home again, both on this thread: no cache line moves between CPUs.
fn ring(criterion: &mut Criterion) {
    let wakes = [(); 2].map(|()| std::sync::Arc::new(EventFd::new().expect("an eventfd")));
    let rings = Rings::<Filled, ()>::new(wakes);
    let (_pool, mut free) = Pool::new(512).expect("memory");
    let mut there = free.pop().map(|buffer| buffer.filled(1));
    criterion.bench_function("ring_there_and_home", |bench| {
        bench.iter(|| {
            let buffer = there.take().expect("home again");
            rings.pass(WorkerId(1), buffer).expect("an empty ring");
            let buffer = rings.next(WorkerId(1)).expect("just passed");
            rings.send_home(0, buffer);
            there = rings.next_home(WorkerId(0));
        });
    });
}

criterion_group!(benches, look_up, batch, parse_to_regroup, ring);
criterion_main!(benches);

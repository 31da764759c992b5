//! What policing costs a frame: buckets that are hot, and one of many that is not.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use spanway::engine::shaper::Policer;
use spanway::types::{Bandwidth, Time};

/// Header, payload of an MPEG-TS datagram, tag.
const FRAME_BYTES: usize = 1_380;
const BATCH: usize = 64;

fn policer() -> Policer {
    Policer::at_hop(Bandwidth::from_bps(20_000_000_000), 3)
}

/// One time for a batch, as the worker reads it; all frames pass.
fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("police_batch_of_64");
    group.throughput(Throughput::Elements(BATCH as u64));
    for channels in [1, 128, 131_072] {
        let mut policers = vec![policer(); channels];
        let (mut now, mut next) = (Time(0), 0);
        group.bench_function(BenchmarkId::from_parameter(channels), |bench| {
            bench.iter(|| {
                now.0 += 100;
                let mut passed = 0;
                for _ in 0..BATCH {
                    next = (next + 7_919) & (channels - 1);
                    passed += usize::from(policers[next].admit(now, black_box(FRAME_BYTES)));
                }
                assert_eq!(passed, BATCH);
            });
        });
    }
    group.finish();
}

/// A bucket that is empty: what a flood costs.
fn refused(criterion: &mut Criterion) {
    let mut policer = Policer::at_entry(Bandwidth::from_bps(64_000));
    while policer.admit(Time(0), FRAME_BYTES) {}
    let mut now = Time(0);
    criterion.bench_function("police_refused", |bench| {
        bench.iter(|| {
            // No bits a time: the rate earns less than it costs.
            now.0 += 1;
            policer.admit(now, black_box(65_000))
        });
    });
}

criterion_group!(benches, batch, refused);
criterion_main!(benches);

//! What counting a time costs: in the frame path it has to be a few nanoseconds.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use spanway::stats::ChannelStats;
use spanway::stats::histogram::{FullHistogram, RelayHistograms, Watches};
use spanway::types::LinkId;

/// Times that do not all fall into one cell, and that a branch predictor cannot learn.
fn next(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    200 + (*state >> 20)
}

fn histogram(criterion: &mut Criterion) {
    let mut state = 1;
    criterion.bench_function("histogram/value_alone", |bench| {
        bench.iter(|| black_box(next(&mut state)));
    });
    let (stats, mut watches) = (Arc::new(ChannelStats::default()), Watches::default());
    criterion.bench_function("histogram/one_way", |bench| {
        bench.iter(|| watches.record(black_box(&stats), next(&mut state), 0, 1));
    });
    watches.add(1, Arc::clone(&stats), Arc::new(FullHistogram::default()));
    criterion.bench_function("histogram/one_way_watched", |bench| {
        bench.iter(|| watches.record(black_box(&stats), next(&mut state), 0, 1));
    });
    let relay = RelayHistograms::default();
    relay.open_hop(LinkId(3));
    criterion.bench_function("histogram/inside", |bench| {
        bench.iter(|| relay.record_inside(black_box(LinkId(3)), next(&mut state).into(), 1));
    });
    criterion.bench_function("histogram/segments", |bench| {
        bench.iter(|| relay.receive_segments.record(u64::from(next(&mut state) & 63), 1));
    });
    criterion.bench_function("histogram/read_inside", |bench| {
        bench.iter(|| black_box(relay.inside_ns.read()).percentiles([50.0, 99.0]));
    });
}

criterion_group!(benches, histogram);
criterion_main!(benches);

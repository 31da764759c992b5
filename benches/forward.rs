//! What a frame costs between receive and send: the look-up of its label, and one batch of 64
//! judgements. No socket, no kernel.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use spanway::engine::Target;
use spanway::engine::forward::forward;
use spanway::engine::shaper::Policer;
use spanway::engine::table::Table;
use spanway::types::{Bandwidth, Label, LinkId, Time, WorkerId};
use spanway::wire::frame::{self, FrameType, Header};

const BATCH: usize = 64;

/// A label as a peer draws it: 56 bits without order.
fn label(number: u64) -> Label {
    Label::new(WorkerId(0), (number + 1).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 3)
}

fn neighbour() -> SocketAddr {
    SocketAddr::from(([198, 18, 0, 1], 4_000))
}

/// A relay between two links with this many labels.
fn table(labels: u64) -> Table {
    let mut table = Table::default();
    table.set_link(LinkId(0), neighbour(), 1, Label(1));
    table.set_link(LinkId(1), SocketAddr::from(([198, 18, 0, 2], 4_000)), 1, Label(2));
    let stats = Arc::default();
    for number in 0..labels {
        let to = Target::Hop { link: LinkId(1), label: label(number), port: 4_000 };
        let policer = Policer::at_hop(Bandwidth::MAX, 1);
        table.add_label(label(number), LinkId(0), to, policer, Arc::clone(&stats));
    }
    table
}

fn data_frame(label: Label) -> Vec<u8> {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: 64,
        payload_length: 1_316,
        label,
        sequence: 1,
        stamp: 2,
    };
    let mut bytes = vec![0; header.frame_bytes()];
    header.emit(&mut bytes);
    bytes
}

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
        let mut frames: Vec<Vec<u8>> = (0..BATCH as u64).map(|i| data_frame(pick(i))).collect();
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

criterion_group!(benches, look_up, batch);
criterion_main!(benches);

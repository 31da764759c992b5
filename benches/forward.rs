//! What a frame costs between receive and send: the look-up of its label, one batch of 64 judgements,
//! and a whole super-buffer from parsing to the runs that leave and the books. No socket, no kernel.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use spanway::engine::Target;
use spanway::engine::forward::{Judged, Verdict, forward};
use spanway::engine::pool::{Filled, Pool};
use spanway::engine::runs::{Note, Outgoing, Piece, Runs};
use spanway::engine::table::Table;
use spanway::net::WORKER_SOCKET;
use spanway::stats::bump;
use spanway::types::{Label, LinkId, WorkerId};
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
    for number in 0..labels {
        let to = Target::Hop { link: LinkId(1), label: label(number), port: 4_000 };
        table.add_label(label(number), LinkId(0), to, Arc::default());
    }
    table
}

fn data_frame(label: Label) -> Vec<u8> {
    sized_frame(label, 1_316)
}

fn sized_frame(label: Label, payload_length: u16) -> Vec<u8> {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: 64,
        payload_length,
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

/// One super-buffer of `frames` frames through the worker's own work: parse, look up, relabel, regroup,
/// and the books of both ends.
fn pass(pool: &Pool, buffer: &mut Filled, bytes: usize, table: &Table, runs: &mut Runs) {
    let mut start = 0;
    while start < buffer.len() {
        let segment = start..start + bytes;
        start = segment.end;
        let frame = &mut pool.bytes_mut(buffer)[segment.clone()];
        let Ok(Judged::Frame { account, header, verdict, .. }) = forward(frame, neighbour(), table)
        else {
            panic!("every frame has a label");
        };
        let Verdict::Relay(to) = verdict else { panic!("every label leads on") };
        // As it came, for the next turn.
        frame::relabel(frame, header.label, header.hop_limit);
        bump(&table.stats(account).received, 1);
        let (note, pieces) = (Note { account, delivered: None }, &[Piece::new(1, segment)]);
        let socket = WORKER_SOCKET;
        runs.push(&Outgoing { socket, to, pieces, note, alone: false }).expect("room for a batch");
    }
    for run in runs.runs() {
        for stretch in runs.stretches(run) {
            bump(&table.stats(stretch.note.account).sent, stretch.frames.into());
        }
        black_box(runs.pieces(run).count());
    }
    runs.clear();
}

fn parse_to_regroup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse_to_regroup");
    let (pool, mut free) = Pool::new(512).expect("memory");
    let mut buffers = Vec::new();
    let mut runs = Runs::default();
    for labels in [1, 100, 100_000] {
        let table = table(labels);
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
            let mut turn = 0;
            group.bench_function(name, |bench| {
                bench.iter(|| {
                    turn = (turn + 1) % 64;
                    pass(&pool, &mut buffers[turn], bytes, &table, &mut runs);
                });
            });
            free.extend(buffers.drain(..).map(Filled::released));
        }
    }
    group.finish();
}

criterion_group!(benches, look_up, batch, parse_to_regroup);
criterion_main!(benches);

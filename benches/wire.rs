//! What the bytes of a frame cost: parse, relabel, heartbeat MAC. No socket, no table.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use spanway::types::Label;
use spanway::wire::frame::{self, FrameType, Header};
use spanway::wire::heartbeat::{Heartbeat, HeartbeatKey};

fn data_frame(payload_length: u16) -> Vec<u8> {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: 64,
        payload_length,
        label: Label(0x0102_0304_0506_0708),
        sequence: 1,
        stamp: 2,
    };
    let mut bytes = vec![0; header.frame_bytes()];
    header.emit(&mut bytes);
    bytes
}

fn wire(criterion: &mut Criterion) {
    let mut bytes = data_frame(1_316);
    criterion.bench_function("frame_parse", |bench| {
        bench.iter(|| frame::parse(black_box(&bytes)));
    });
    criterion.bench_function("frame_relabel", |bench| {
        bench.iter(|| frame::relabel(black_box(&mut bytes), black_box(Label(42)), 63));
    });

    let key = HeartbeatKey([7; 32]);
    let beat = Heartbeat {
        label: Label(5),
        sequence: 3,
        heard: 2,
        heard_age_us: 25_000,
        overloaded: false,
    };
    criterion.bench_function("heartbeat_emit", |bench| {
        bench.iter(|| black_box(beat).emit(black_box(&key)));
    });
    let bytes = beat.emit(&key);
    let header = frame::parse(&bytes).expect("just emitted");
    criterion.bench_function("heartbeat_verify", |bench| {
        bench.iter(|| Heartbeat::verify(black_box(&header), black_box(&bytes), &key));
    });
}

criterion_group!(benches, wire);
criterion_main!(benches);

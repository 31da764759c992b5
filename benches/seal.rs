//! What sealing costs an end: one frame in, one frame out, a change of keys, and what asking costs a hop.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::{Signer, SigningKey};
use spanway::engine::seal::{Keys, Seal};
use spanway::limits::SEAL_KEY_LIFE;
use spanway::proto::graph;
use spanway::types::{Bandwidth, ChannelId, Label, PeerName, PublicKey, ServiceName, Time, TxId};
use spanway::wire::control::{Manner, Offer, Reserve};
use spanway::wire::frame::{END_TAG_BYTES, FrameType, HEADER_BYTES, Header};
use spanway::wire::proof::reserve_statement;

fn frame(payload: u16, sequence: u64) -> Vec<u8> {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: 64,
        payload_length: payload,
        label: Label(7),
        sequence,
        stamp: 9,
    };
    let mut bytes = vec![0x5a; header.frame_bytes()];
    header.emit(&mut bytes);
    bytes
}

fn enter(seal: &mut Seal, bytes: &mut [u8], now: Time) {
    let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
    let (payload, tag) = rest.split_at_mut(rest.len() - END_TAG_BYTES);
    seal.enter(header, payload, tag, now).expect("it has keys");
}

fn ends() -> (Seal, Seal) {
    let (there, back) = ([1; 32], [2; 32]);
    (Seal::with(&Keys::new(there, back)), Seal::with(&Keys::new(back, there)))
}

fn frames(criterion: &mut Criterion) {
    for (what, sealed) in [("plain", false), ("sealed", true)] {
        let mut group = criterion.benchmark_group(what);
        for payload in [200_u16, 1_200] {
            group.throughput(Throughput::Bytes(payload.into()));
            let (mut here, mut there) = if sealed { ends() } else { (Seal::Plain, Seal::Plain) };
            let mut bytes = frame(payload, 0);
            group.bench_function(BenchmarkId::new("enter", payload), |bench| {
                bench.iter(|| enter(black_box(&mut here), black_box(&mut bytes), Time(1)));
            });
            // A frame opens once: each is made from the one before, by sealing it under the next number.
            let (mut here, mut sequence) = (ends().0, 0);
            let mut next = || {
                sequence += 1;
                let mut bytes = frame(payload, sequence);
                enter(&mut here, &mut bytes, Time(1));
                (bytes, sequence)
            };
            group.bench_function(BenchmarkId::new("leave", payload), |bench| {
                bench.iter_batched(
                    &mut next,
                    |(mut bytes, sequence)| {
                        there.leave(black_box(&mut bytes), sequence, Time(1)).expect("it opens");
                    },
                    criterion::BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

/// A frame that begins a new epoch, against one that does not.
fn change_of_keys(criterion: &mut Criterion) {
    let (mut seal, mut bytes, mut now) = (ends().0, frame(200, 0), Time(1));
    criterion.bench_function("sealed/enter_with_new_key/200", |bench| {
        bench.iter(|| {
            now = now + SEAL_KEY_LIFE;
            enter(&mut seal, black_box(&mut bytes), now);
        });
    });
}

/// Once for each hop of a request, and once for who asks.
fn signed_requests(criterion: &mut Criterion) {
    let identity = SigningKey::from_bytes(&[7; 32]);
    let key = PublicKey(identity.verifying_key().to_bytes());
    let name = |text: &str| PeerName::new(text).expect("a name");
    let service = ServiceName::new("video").expect("a name");
    let reserve = Reserve {
        tx: TxId { channel: ChannelId { source: name("a"), boot: 1, count: 2 }, attempt: 1 },
        name: service.clone(),
        service,
        path: vec![name("a"), name("b"), name("c")],
        position: 1,
        rate: Bandwidth::from_bps(1),
        rate_back: Bandwidth::from_bps(1),
        ticket: 1,
        deadline_ms: 1,
        max_payload: 1,
        back_label: Label(1),
        back_port: 1,
        manner: Manner::Replace,
        opened: false,
        seal: Some(Offer { key, message: Bytes::from_static(&[0; 48]) }),
        proof: None,
    };
    let signature = identity.sign(&reserve_statement(&reserve)).to_bytes();
    criterion.bench_function("reserve/sign", |bench| {
        bench.iter(|| identity.sign(&reserve_statement(black_box(&reserve))));
    });
    criterion.bench_function("reserve/verify", |bench| {
        bench.iter(|| {
            let statement = reserve_statement(black_box(&reserve));
            assert!(graph::right(&key, &statement, &signature));
        });
    });
}

criterion_group!(benches, frames, change_of_keys, signed_requests);
criterion_main!(benches);

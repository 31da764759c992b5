//! One step of a link's ledger (hold, commit, release) while it keeps 1,000 other promises.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use spanway::limits;
use spanway::proto::reservation::{Crossing, Hold, Ledger, Rates};
use spanway::types::{Bandwidth, ChannelId, PeerName, Time, TxId};

const PROMISES: u64 = 1_000;

fn tx(count: u64) -> TxId {
    let source = PeerName::new("peer-0001").expect("a valid name");
    TxId { channel: ChannelId { source, boot: 0x1f3c, count }, attempt: 1 }
}

fn ledger_step(criterion: &mut Criterion) {
    let rates = Rates { out: Bandwidth::from_bps(1_000_000), back: Bandwidth::from_bps(64_000) };
    let crossing = Crossing::There;
    let hold = |ticket| Hold { rates, crossing, until: Time(0), ticket };
    let mut ledger = Ledger::new(Bandwidth::from_bps(2 * PROMISES * rates.out.bps()));
    for count in 0..PROMISES {
        // Every second number, so that the step's transaction lands between others.
        ledger.hold(&tx(2 * count), hold(count)).expect("it fits");
    }
    let new = tx(PROMISES + 1);
    let lease = Time(0) + limits::LEASE;
    criterion.bench_function("ledger/hold, commit and release among 1,000", |bencher| {
        bencher.iter(|| {
            let held = ledger.hold(black_box(&new), hold(1));
            assert!(held.is_ok() && ledger.commit(&new, lease) && ledger.release(&new));
        });
    });
}

criterion_group!(benches, ledger_step);
criterion_main!(benches);

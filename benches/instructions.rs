//! Workloads of the frame path for counting instructions: `instructions NAME ROUNDS` runs one of them
//! that often, without arguments their names are printed. `cargo xtask instructions` counts.
//!
//! Deterministic: the same rounds take the same instructions.

mod rig;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use rig::{label, pass, sized_frame, table, table_with};
use spanway::engine::pool::Pool;
use spanway::engine::runs::Runs;
use spanway::engine::shaper::Policer;
use spanway::stats::ChannelStats;
use spanway::stats::histogram::{RelayHistograms, Watches};
use spanway::types::{Bandwidth, Label, LinkId, Time};
use spanway::wire::frame::{self, Header};
use spanway::wire::heartbeat::{Heartbeat, HeartbeatKey};
use spanway::wire::tag::{HopKey, HopKeys};

/// Does its work so often.
type Workload = fn(u64);

const WORKLOADS: &[(&str, Workload)] = &[
    ("frame_parse", parse),
    ("frame_relabel", relabel),
    ("heartbeat_verify", heartbeat),
    ("label_look_up_1000", |rounds| look_up(1_000, rounds)),
    ("label_look_up_100000", |rounds| look_up(100_000, rounds)),
    ("police", police),
    ("histogram_one_way", one_way),
    ("histogram_inside", inside),
    ("super_buffer_of_32_one_channel", |rounds| super_buffer(1, rounds)),
    ("super_buffer_of_32_of_100_channels", |rounds| super_buffer(100, rounds)),
    ("hop_tag_write", hop_tag),
    // Each frame's header and tag are made, then checked and made again by the relay.
    ("super_buffer_of_32_tagged", tagged_super_buffer),
];

#[expect(clippy::print_stdout, reason = "its output")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(name), Some(rounds)) = (arguments.next(), arguments.next()) else {
        WORKLOADS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let workload = WORKLOADS.iter().find(|(known, _)| *known == name);
    let (Some((_, run)), Ok(rounds)) = (workload, rounds.parse()) else {
        return ExitCode::FAILURE;
    };
    run(rounds);
    ExitCode::SUCCESS
}

fn parse(rounds: u64) {
    let bytes = sized_frame(Label(7), 200);
    for _ in 0..rounds {
        let _ = black_box(frame::parse(black_box(&bytes)));
    }
}

fn relabel(rounds: u64) {
    let mut bytes = sized_frame(Label(7), 200);
    for _ in 0..rounds {
        frame::relabel(black_box(&mut bytes), black_box(Label(42)), 63);
    }
}

fn heartbeat(rounds: u64) {
    let key = HeartbeatKey([7; 32]);
    let (label, sequence, heard) = (Label(5), 3, 2);
    let beat = Heartbeat { label, sequence, heard, heard_age_us: 25_000, overloaded: false };
    let bytes = beat.emit(&key);
    let header = frame::parse(&bytes).expect("just emitted");
    for _ in 0..rounds {
        let _ = black_box(Heartbeat::verify(black_box(&header), black_box(&bytes), &key));
    }
}

fn look_up(labels: u64, rounds: u64) {
    let table = table(labels);
    for number in 0..rounds {
        black_box(table.route(black_box(label(number * 7_919 % labels))).is_some());
    }
}

fn police(rounds: u64) {
    let mut policer = Policer::at_hop(Bandwidth::from_bps(20_000_000_000), 3);
    for number in 0..rounds {
        black_box(policer.admit(Time(number), black_box(1_380)));
    }
}

fn one_way(rounds: u64) {
    let (stats, watches) = (Arc::new(ChannelStats::default()), Watches::default());
    for number in 0..rounds {
        let now = u32::try_from(number % 1_000).expect("small") + 200;
        watches.record(black_box(&stats), now, 0, 1);
    }
}

fn inside(rounds: u64) {
    let relay = RelayHistograms::default();
    relay.open_hop(LinkId(3));
    for number in 0..rounds {
        relay.record_inside(black_box(LinkId(3)), 200 + number % 1_000, 1);
    }
}

fn hop_tag(rounds: u64) {
    let mut bytes = sized_frame(Label(7), 200);
    let keys = HopKeys::derive(&[1; 32], &[2; 32]);
    for _ in 0..rounds {
        keys.send.write(black_box(&mut bytes));
    }
}

fn super_buffer(labels: u64, rounds: u64) {
    super_buffers(labels, rounds, None);
}

fn tagged_super_buffer(rounds: u64) {
    super_buffers(1, rounds, Some(HopKeys::derive(&[1; 32], &[2; 32])));
}

fn super_buffers(labels: u64, rounds: u64, tags: Option<HopKeys>) {
    let (pool, mut free) = Pool::new(1).expect("memory");
    let key = tags.as_ref().map(|tags| tags.receive.clone());
    let (mut table, mut runs) = (table_with(labels, tags), Runs::default());
    let bytes = sized_frame(Label(1), 200).len();
    let mut buffer = free.pop().expect("one").filled(32 * bytes);
    for (frame, slot) in (0..).zip(pool.bytes_mut(&mut buffer).chunks_mut(bytes)) {
        slot.copy_from_slice(&sized_frame(label(frame * 7_919 % labels), 200));
    }
    for round in 0..rounds {
        if let Some(key) = &key {
            let frames = pool.bytes_mut(&mut buffer).chunks_mut(bytes);
            (32 * round..).zip(frames).for_each(|(sequence, frame)| tag(frame, sequence, key));
        }
        pass(&pool, &mut buffer, bytes, &mut table, Time(round * 100), &mut runs);
    }
}

/// Makes it the frame of that sequence, as the neighbour sends it.
fn tag(frame: &mut [u8], sequence: u64, key: &HopKey) {
    let header = frame::parse(frame).expect("a frame");
    Header { sequence, ..header }.emit(frame);
    key.write(frame);
}

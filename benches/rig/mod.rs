//! A relay's table and frames for the benches of the frame path.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use spanway::engine::Target;
use spanway::engine::forward::{Judged, Verdict, forward};
use spanway::engine::pool::{Filled, Pool};
use spanway::engine::runs::{Note, Outgoing, Piece, Runs};
use spanway::engine::shaper::Policer;
use spanway::engine::table::Table;
use spanway::net::WORKER_SOCKET;
use spanway::stats::bump;
use spanway::types::{Bandwidth, Label, LinkId, Time, WorkerId};
use spanway::wire::frame::{self, FrameType, Header};
use spanway::wire::tag::HopKeys;

/// A label as a peer draws it: 56 bits without order.
pub(crate) fn label(number: u64) -> Label {
    Label::new(WorkerId(0), (number + 1).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 3)
}

pub(crate) fn neighbour() -> SocketAddr {
    SocketAddr::from(([198, 18, 0, 1], 4_000))
}

/// A relay between two links with this many labels.
pub(crate) fn table(labels: u64) -> Table {
    table_with(labels, None)
}

/// The same, both links with these hop tags.
pub(crate) fn table_with(labels: u64, tags: Option<HopKeys>) -> Table {
    let mut table = Table::default();
    let next = SocketAddr::from(([198, 18, 0, 2], 4_000));
    table.set_link(LinkId(0), neighbour(), 1, Label(1), tags.clone());
    table.set_link(LinkId(1), next, 1, Label(2), tags);
    for number in 0..labels {
        let to = Target::Hop { link: LinkId(1), label: label(number), port: 4_000 };
        let policer = Policer::at_hop(Bandwidth::MAX, 1);
        table.add_label(label(number), LinkId(0), to, policer, Arc::default());
    }
    table
}

pub(crate) fn sized_frame(label: Label, payload_length: u16) -> Vec<u8> {
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

/// One super-buffer of `frames` frames through the worker's own work: parse, look up, relabel, regroup,
/// and the books of both ends.
pub(crate) fn pass(
    pool: &Pool,
    buffer: &mut Filled,
    bytes: usize,
    table: &mut Table,
    now: Time,
    runs: &mut Runs,
) {
    let mut start = 0;
    while start < buffer.len() {
        let segment = start..start + bytes;
        start = segment.end;
        let frame = &mut pool.bytes_mut(buffer)[segment.clone()];
        let Ok(Judged::Frame { account, header, verdict, .. }) =
            forward(frame, neighbour(), table, now)
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

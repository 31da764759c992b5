//! Frames: the header, and all that may come to a worker's port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use spanway::engine::Target;
use spanway::engine::forward::{Judged, Verdict, forward};
use spanway::engine::shaper::Policer;
use spanway::engine::table::Table;
use spanway::types::{Bandwidth, ChannelId, Label, LinkId, PeerName, Time};
use spanway::wire::frame::{self, HEADER_BYTES};
use spanway::wire::tag::HopKeys;

use super::bytes::Choices;

pub(crate) fn frame(data: &[u8]) {
    let Ok(header) = frame::parse(data) else { return };
    assert_eq!(header.frame_bytes(), data.len());
    assert!(frame::payload(&header, data).len() <= data.len() - HEADER_BYTES);
    let mut again = data.to_vec();
    header.emit(&mut again);
    assert_eq!(frame::parse(&again), Ok(header));
    frame::relabel(&mut again, Label(7), 3);
    let relabelled = frame::Header { label: Label(7), hop_limit: 3, ..header };
    assert_eq!(frame::parse(&again), Ok(relabelled));
}

const IN: LinkId = LinkId(0);
const OUT: LinkId = LinkId(1);
const KEY: [u8; 32] = [7; 32];
const LABELS: [u64; 5] = [1, 3, 100, 200, 9];

fn table(tagged: bool) -> Table {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let channel = ChannelId { source: PeerName::new("a").expect("a name"), boot: 1, count: 1 };
    let tags = tagged.then(|| HopKeys::derive(&KEY, &KEY));
    let mut table = Table::default();
    table.set_link(IN, address("10.0.0.1:4000"), 2, Label(100), tags.clone());
    table.set_link(OUT, address("10.0.0.2:5000"), 1, Label(200), tags);
    let hop = Target::Hop { link: OUT, label: Label(2), port: 5_003 };
    let policer = Policer::at_hop(Bandwidth::from_bps(64_000_000), 1);
    table.add_label(Label(1), IN, hop, policer, Arc::default());
    table.add_label(Label(3), IN, Target::Local(channel), policer, Arc::default());
    table
}

/// Datagrams behind each other, some with a label that means something, from the neighbour or a stranger.
pub(crate) fn link(data: &[u8]) {
    let mut choices = Choices::new(data);
    let tagged = choices.below(2) == 1;
    let (mut table, mut now) = (table(tagged), Time(1_000_000));
    let keys = HopKeys::derive(&KEY, &KEY);
    while !choices.is_empty() {
        let (label, from) = (choices.below(2 * LABELS.len()), choices.below(4));
        now = now + Duration::from_micros(choices.u8().into());
        let mut datagram = choices.piece().to_vec();
        if let (Some(label), true) = (LABELS.get(label), datagram.len() >= HEADER_BYTES) {
            datagram[8..16].copy_from_slice(&label.to_be_bytes());
        }
        // Now and then with the right tag: what is behind it is reached, too.
        if tagged && datagram.len() >= HEADER_BYTES && choices.below(4) > 0 {
            keys.send.write(&mut datagram);
        }
        let sources = ["10.0.0.1:4000", "10.0.0.1:4001", "10.0.0.2:5000", "192.0.2.1:4000"];
        let source: SocketAddr = sources[from].parse().expect("an address");
        let before = datagram.clone();
        let judged = forward(&mut datagram, source, &mut table, now);
        let relayed = matches!(judged, Ok(Judged::Frame { verdict: Verdict::Relay(_), .. }));
        let neighbour = from < 2;
        if let Ok(Judged::Frame { from, header, .. }) = judged {
            assert!(neighbour && from == IN, "a label is worth nothing elsewhere");
            assert_eq!(frame::parse(&before), Ok(header));
        }
        let changed: Vec<usize> =
            (0..before.len()).filter(|&at| before[at] != datagram[at]).collect();
        // Label, hop limit and the hop's tag; nothing if it goes nowhere.
        let may = |at: &usize| *at == 2 || (8..16).contains(at) || (32..48).contains(at);
        assert!(changed.iter().all(may) && (relayed || changed.is_empty()), "{changed:?}");
        if relayed {
            assert!(before[2] > 1 && datagram[2] == before[2] - 1, "a hop less");
        }
    }
}

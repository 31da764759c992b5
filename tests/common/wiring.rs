//! What tests need that wire engines by hand: one end of a link, a frame, a counter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use spanway::engine::LinkSpec;
use spanway::types::address::Reach;
use spanway::types::{Label, LinkId};
use spanway::wire::frame::{FrameType, HEADER_BYTES, Header};
use spanway::wire::heartbeat::HeartbeatKey;

/// Between two heartbeats of such a link.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);
pub(crate) const MISSED_MAX: u32 = 100;

/// One end of link `number`: heartbeat labels and keys are 10n+1 up and 10n+2 down.
pub(crate) fn link(number: u16, up: bool, address: SocketAddr, workers: u8) -> Arc<LinkSpec> {
    let (there, back) = (number * 10 + 1, number * 10 + 2);
    let (send, receive) = if up { (there, back) } else { (back, there) };
    let key = |label: u16| HeartbeatKey([label.to_be_bytes()[1]; 32]);
    Arc::new(LinkSpec {
        link: LinkId(number),
        address,
        workers,
        send_label: Label(u64::from(send) << 16),
        send_key: key(send),
        receive_label: Label(u64::from(receive) << 16),
        receive_key: key(receive),
        interval: INTERVAL,
        missed_max: MISSED_MAX,
        tags: None,
        reach: Reach::new(([127, 0, 0, 1], 1).into(), 1..=1, []),
        pulse: Arc::default(),
    })
}

pub(crate) fn data_frame(label: u64, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit,
        payload_length: u16::try_from(payload.len()).expect("one datagram"),
        label: Label(label),
        sequence: 1,
        stamp: 0,
    };
    let mut bytes = vec![0; header.frame_bytes()];
    header.emit(&mut bytes);
    bytes[HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
    bytes
}

pub(crate) fn load(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

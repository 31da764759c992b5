//! Answers of a daemon that tests of several commands draw.

use std::collections::BTreeMap;

use crate::api::dto::{ChannelRow, ControlStatus, FactsStatus, LinkRow, StatusReply, WorkerStatus};
use crate::limits;
use crate::types::Bandwidth;

/// Of a peer `a` with one link that is up and no channel.
pub(super) fn status() -> StatusReply {
    let worker = WorkerStatus {
        port: 7_000,
        cpu: None,
        slice_us: None,
        receive_buffer_bytes: limits::SOCKET_BUFFER_BYTES,
        batches: 0,
        datagrams: 0,
        heartbeats_sent: 0,
        heartbeats_heard: 0,
        dropped: Default::default(),
    };
    let facts = FactsStatus {
        applied: 0,
        duplicates: 0,
        refused: Default::default(),
        told: 0,
        retold: 0,
        messages: 0,
        facts: 0,
        differed: 0,
        summaries: 0,
    };
    let control = ControlStatus {
        cpus: vec![0],
        shared: false,
        slice_us: None,
        longest_piece_us: 0,
        handshakes: Default::default(),
    };
    StatusReply {
        name: "a".parse().expect("a name"),
        version: "1".to_owned(),
        key: String::new(),
        listen: "127.0.0.1:7000".parse().expect("an address"),
        pid: 1,
        uptime_ms: 1_000,
        backend: "uring".to_owned(),
        backend_why: "it works".to_owned(),
        runtime: "tokio".to_owned(),
        control,
        workers: vec![worker],
        session: None,
        tree_complete: true,
        computation: None,
        peers: 2,
        links_up: 1,
        links: 1,
        links_by_trust: 0,
        invitations: 0,
        channels: 0,
        watches: 0,
        facts,
        egress: None,
        ingress: None,
        warnings: Vec::new(),
    }
}

/// To `b`, which dials and was heard just now.
pub(super) fn link(state: &str) -> LinkRow {
    LinkRow {
        peer: "b".parse().expect("a name"),
        state: state.to_owned(),
        capacity_bps: Bandwidth::ZERO,
        free_out_bps: Bandwidth::ZERO,
        free_in_bps: Bandwidth::ZERO,
        tree: true,
        rtt_us: Some(340),
        heard_ms: Some(12),
        address: "127.0.0.1:7016".parse().ok(),
        connection: Some("dialled".to_owned()),
        last_failure: None,
        hop_tag: false,
        paced_ms: 0,
        by_trust: false,
    }
}

/// An open one to `b/video`, from here.
pub(super) fn channel(name: &str) -> ChannelRow {
    ChannelRow {
        id: name.to_owned(),
        name: name.parse().expect("a name"),
        peer: "b".parse().expect("a name"),
        service: "video".parse().expect("a name"),
        role: "source".to_owned(),
        state: "open".to_owned(),
        path: Vec::new(),
        standby: None,
        second: None,
        bandwidth_bps: Bandwidth::from_bps(123_456_789_000),
        bandwidth_back_bps: Bandwidth::ZERO,
        payload_bps: Bandwidth::ZERO,
        max_payload_bytes: 1_400,
        listen: None,
        deliver: None,
        tx_frames: 0,
        rx_frames: 0,
        entered_bytes: 0,
        delivered_bytes: 0,
        lost_frames: 0,
        dropped: BTreeMap::new(),
        offered_bps: None,
        entry_bps: None,
        shape: false,
        keep: false,
        sealed: true,
        peer_key: None,
    }
}

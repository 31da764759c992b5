//! What a `Node` shows of itself: plain values for the command line, the pages and the checkers.
//!
//! Closed lists ([`LinkState`], [`PeerState`], [`ChannelState`]) have the text forms of the JSON
//! contract in README.

use std::time::Duration;

use crate::proto::Side;
use crate::types::{
    Bandwidth, ChannelId, EdgeKey, LinkId, PeerName, PublicKey, RequestId, ServiceName, SessionId,
};
use crate::wire::queue::Shortage;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkState {
    /// No connection.
    Down,
    /// Connected and authenticated, the neighbour has not greeted yet.
    Greeting,
    Up,
}

impl LinkState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Greeting => "greeting",
            Self::Up => "up",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    pub link: LinkId,
    pub peer: PeerName,
    pub state: LinkState,
    /// Usable capacity agreed with the other end; our own view while the link is down.
    pub capacity: Bandwidth,
    pub free_out: Bandwidth,
    pub free_in: Bandwidth,
    /// An edge of the committed tree.
    pub tree: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// This peer.
    Myself,
    /// In the committed tree.
    Reachable,
    /// A configured neighbour that is not in the committed tree.
    Unreachable,
}

impl PeerState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Myself => "self",
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    pub name: PeerName,
    pub state: PeerState,
    pub next_hop: Option<PeerName>,
    /// Hops on the tree.
    pub distance: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeView {
    /// The session whose tree is in use.
    pub session: Option<SessionId>,
    /// No newer session is running.
    pub complete: bool,
    pub edges: Vec<EdgeKey>,
    pub parent: Option<PeerName>,
    /// Destination and next hop, sorted by destination.
    pub next_hops: Vec<(PeerName, PeerName)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChannelState {
    /// Asked for, no answer yet.
    Opening,
    /// It stands in line for room.
    Queued,
    Open,
    /// Its path broke; a new one is looked for.
    Moving,
}

impl ChannelState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Queued => "queued",
            Self::Open => "open",
            Self::Moving => "moving",
        }
    }
}

/// A channel that ends at this peer or crosses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelView {
    pub id: ChannelId,
    pub name: ServiceName,
    /// The peer at the other end; for a relay the one that offers the service.
    pub peer: PeerName,
    pub service: ServiceName,
    /// `None` at a relay.
    pub side: Option<Side>,
    pub state: ChannelState,
    /// Empty while this peer keeps no bandwidth for the channel.
    pub path: Vec<PeerName>,
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
    pub max_payload: u16,
    /// At the end that asked: the path that is reserved besides (`--protect`).
    pub standby: Option<Vec<PeerName>>,
    /// At the end that asked: the path it would try first if this one broke; nothing is reserved on it.
    pub second: Option<Vec<PeerName>>,
    /// Every path that this peer keeps bandwidth on for the channel.
    pub reserved: Vec<Vec<PeerName>>,
    /// The other end's key, if its payloads are sealed; at a relay that of the service's end.
    pub sealed: Option<PublicKey>,
}

/// A request of this peer that stands in line for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingView {
    /// The request that is not answered yet.
    pub request: RequestId,
    pub id: ChannelId,
    pub name: ServiceName,
    pub peer: PeerName,
    pub service: ServiceName,
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
    /// On whose links it stands in line.
    pub path: Vec<PeerName>,
    pub waited: Duration,
    /// Until its deadline.
    pub left: Duration,
    /// 1: first on every link that is short.
    pub position: u32,
    /// Those links, from here to the destination, as it last heard of them.
    pub short: Vec<Shortage>,
}

/// The picture of the whole overlay as this peer has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphView {
    /// Equal at two peers if and only if their pictures are, but for chance.
    pub digest: u64,
    /// Grows here with every change of the picture; means nothing elsewhere.
    pub version: u64,
    /// Sorted by name.
    pub peers: Vec<GraphPeerView>,
    /// Those both ends say are up, sorted by `lower`, then by `higher`.
    pub links: Vec<GraphLinkView>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphPeerView {
    pub name: PeerName,
    /// Since it last said that it lives.
    pub age: Duration,
    pub leaving: bool,
    /// What all links of its host together may carry, if there is a limit.
    pub egress: Option<Bandwidth>,
    pub ingress: Option<Bandwidth>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphLinkView {
    pub lower: PeerName,
    pub higher: PeerName,
    /// The smaller of what its ends say.
    pub capacity: Bandwidth,
    /// From `lower` to `higher`, as `lower` says; and the other way.
    pub free_up: Bandwidth,
    pub free_down: Bandwidth,
    pub max_payload: u16,
    /// Since one of its ends last said something new of it.
    pub age: Duration,
    /// An edge of the committed tree.
    pub tree: bool,
}

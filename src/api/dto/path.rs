//! JSON shapes of what is known of a channel along its path.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RefusedPath;
use crate::types::{Bandwidth, PeerName, ServiceName};

/// A channel at every peer of its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SurveyReply {
    pub channel: String,
    pub name: ServiceName,
    pub peer: PeerName,
    pub service: ServiceName,
    /// `source`, `service` or `relay`: what this peer is.
    pub role: String,
    pub state: String,
    pub path: Vec<PeerName>,
    /// All links of the path are in the spanning tree.
    pub tree: bool,
    pub bandwidth_bps: Bandwidth,
    pub bandwidth_back_bps: Bandwidth,
    /// How it got there; only the peer that asked for the channel knows.
    pub story: Option<Story>,
    /// In the order of the path.
    pub hops: Vec<SurveyHop>,
}

/// How a channel got to its path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Story {
    /// Paths that were asked for before it was opened.
    pub refused: Vec<RefusedPath>,
    pub waited_ms: Option<u64>,
    /// How often it has taken another path since, and why the last time.
    pub moves: u32,
    pub moved_because: Option<String>,
}

/// What one peer of the path knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SurveyHop {
    pub peer: PeerName,
    /// Why the rest is empty.
    pub missing: Option<String>,
    /// From who asked for the channel, and from the service.
    pub there: SurveyWay,
    pub back: SurveyWay,
}

/// One direction of a channel at one peer. Frames are counted since the channel came there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SurveyWay {
    /// From a local program, and from a neighbour.
    pub entered: u64,
    pub received: u64,
    /// To a neighbour, and to a local program.
    pub sent: u64,
    pub delivered: u64,
    pub dropped: BTreeMap<String, u64>,
    /// Since their entry into the overlay; above the least if the clocks of the hosts differ.
    pub one_way_us: Option<Summary>,
    pub clocks_differ: bool,
    /// Inside this peer, of frames of all channels that come from the same neighbour.
    pub inside_ns: Option<Summary>,
    /// What channels may have of the link they leave by, and what is free of it.
    pub link_usable_bps: Option<Bandwidth>,
    pub link_free_bps: Option<Bandwidth>,
}

/// A histogram in short. The unit is in the name of the field that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

/// `why`: where the frames of a channel are slow, dropped or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyReply {
    /// In words, the most important first.
    pub findings: Vec<String>,
    /// Frames that one peer sent and the next did not receive; of links where that is known.
    pub lost: Vec<LostRow>,
    pub survey: SurveyReply,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostRow {
    pub from: PeerName,
    pub to: PeerName,
    pub frames: u64,
    pub of: u64,
}

//! JSON shapes of what was counted and how long it took: the ledger of frames, statistics, histograms.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::PeerName;

/// Where every frame of this peer is: in one counter, or in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerReply {
    pub peer: PeerName,
    /// Nothing is missing. A daemon says so if nothing is in flight; `channels --ledger` reads again
    /// before it says that something is.
    pub adds_up: bool,
    /// Channels that end here or cross this peer.
    pub channels: Vec<LedgerRow>,
    pub workers: Vec<LedgerWorker>,
}

/// entered + received = sent + delivered + all of dropped + in_flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerRow {
    pub id: String,
    /// From local programs, those the kernel dropped at their socket included.
    pub entered: u64,
    /// From a neighbour.
    pub received: u64,
    /// To a neighbour.
    pub sent: u64,
    /// To local programs.
    pub delivered: u64,
    pub dropped: BTreeMap<String, u64>,
    pub in_flight: i64,
}

/// What came to one worker's sockets, over all channels there were: arrived = frames + heartbeats +
/// probes + all of dropped + in_flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerWorker {
    pub port: u16,
    /// Those the kernel dropped at the worker's own socket included.
    pub arrived: u64,
    /// Of channels; what became of them is theirs to say.
    pub frames: u64,
    pub heartbeats: u64,
    pub probes: u64,
    /// Drops that belong to no channel.
    pub dropped: BTreeMap<String, u64>,
    pub in_flight: i64,
}

/// What the control lane of a peer has counted since its start. Counts never go back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatisticsReply {
    pub peer: PeerName,
    pub uptime_ms: u64,
    pub frames: FrameTotals,
    /// Channels that end here or cross this peer, by its role.
    pub channels: BTreeMap<String, u64>,
    /// Requests of this peer that stand in line.
    pub waiting: u64,
    /// Messages about channels that were refused because their owner did not sign them.
    pub unproven: u64,
    pub recoveries: Recoveries,
    pub answers: Answers,
    /// Requests of others that `[[allow]]` refused, by the limit.
    pub forbidden: BTreeMap<String, u64>,
    pub sessions: SessionCounts,
    /// Control messages of neighbours and to them, by kind.
    pub messages_received: BTreeMap<String, u64>,
    pub messages_sent: BTreeMap<String, u64>,
}

/// Of all channels there were since this peer started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FrameTotals {
    /// From local programs, and from neighbours.
    pub entered: u64,
    pub received: u64,
    /// To neighbours, and to local programs.
    pub sent: u64,
    pub delivered: u64,
    /// Payload.
    pub entered_bytes: u64,
    pub delivered_bytes: u64,
    /// Those that belong to no channel too.
    pub dropped: BTreeMap<String, u64>,
}

/// Of channels that end at this peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recoveries {
    /// They had no path for a while, or went over to one that stood by.
    pub moved: u64,
    /// Those of them that went over at once.
    pub protected: u64,
    /// They moved while their path still carried: no gap.
    pub seamless: u64,
    /// No other path was found in time: they were closed.
    pub broken: u64,
    /// Times without a path of those that `moved`.
    pub gap_us: Distribution,
}

/// To requests of this peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Answers {
    pub open: u64,
    /// Those that had to stand in line for room, whatever became of them.
    pub queued: u64,
    /// By reason.
    pub rejected: BTreeMap<String, u64>,
    /// How long those stood in line that are open now.
    pub waited_ms: Distribution,
}

/// Tree computations as this peer saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionCounts {
    /// Begun by this peer.
    pub started: u64,
    /// It took part.
    pub adopted: u64,
    /// It took the tree into use.
    pub committed: u64,
    /// Messages of older sessions that were dropped.
    pub stale: u64,
    /// Calls to a session that were refused, and that had to wait because their peer is too fast.
    pub refused: u64,
    pub coalesced: u64,
    /// Sessions that were not over in time, and trees that were complete and wrong: 0 if all is well.
    pub watchdog: u64,
    pub alarms: u64,
}

/// A histogram. The unit is in the name of the field that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Distribution {
    pub count: u64,
    /// `null`, as all the others, if nothing was counted.
    pub min: Option<u64>,
    pub p50: Option<u64>,
    pub p90: Option<u64>,
    pub p99: Option<u64>,
    pub p999: Option<u64>,
    pub max: Option<u64>,
    /// Largest value of each bucket in which something was counted, ascending, and its count.
    pub buckets: Vec<(u64, u64)>,
}

/// One-way times of the frames of a channel, from their entry into the overlay to this peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    pub channel: String,
    /// The peer that measured.
    pub peer: PeerName,
    /// `log2`: since the channel came here, a bucket for each power of two; `full`: since somebody
    /// began to watch, three digits.
    pub resolution: String,
    /// The clocks of both hosts do not agree (the least time is negative or above 1 s): the times are
    /// those above the least, which is shown as 0.
    pub clocks_differ: bool,
    pub one_way_us: Distribution,
    /// Time inside the relays that this peer can read: itself.
    pub hops: Vec<HopTimes>,
}

/// The one line of `watch`: it counts from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watching {
    /// To be named in `latency`.
    pub watch: u64,
}

/// How long things are inside this peer, and how many at a time. Cumulative since it started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayTimes {
    pub peer: PeerName,
    pub lanes: Vec<LaneTimes>,
    /// The data lane by the neighbour the frames came from.
    pub hops: Vec<HopTimes>,
    /// The data lane by worker.
    pub workers: Vec<WorkerTimes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LaneTimes {
    /// `data`: frames, from the kernel's receive time to the hand-over of their batch to send;
    /// `control`: messages, from their arrival until they were handled and what follows was sent.
    pub lane: String,
    /// Frames are sampled by batches: the count is that of the sample.
    pub inside_ns: Distribution,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HopTimes {
    /// Whose time it is.
    pub peer: PeerName,
    /// The neighbour that the frames came from.
    pub from: PeerName,
    pub inside_ns: Distribution,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerTimes {
    /// Its UDP port, as in `status`.
    pub port: u16,
    pub inside_ns: Distribution,
    /// Datagrams of one batch.
    pub batch: Distribution,
    /// Datagrams of one receive and of one send: more than one if the kernel merged or split them.
    pub receive_segments: Distribution,
    pub send_segments: Distribution,
}

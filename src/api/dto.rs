//! JSON shapes of the local interface, and nothing else: what a client asks, what the daemon answers.
//!
//! One connection carries one request line and its answer lines, each a JSON object: `{"ok": VALUE}`
//! or `{"error": {"kind": ..., "message": ...}}`. Most requests get one line; `receive` and `events`
//! get lines until one side closes. The field names are the contract of README: other programs rely
//! on them. Rates end in `_bps`, times in `_ms` or `_us`. What was counted has its shapes in `counted`,
//! what is known of a channel along its path in `path`,
//! what others may do in `trust`.

mod counted;
mod path;
mod trust;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::counted::{
    Answers, Distribution, FrameTotals, HopTimes, LaneTimes, Latency, LedgerReply, LedgerRow,
    LedgerWorker, Recoveries, RelayTimes, SessionCounts, StatisticsReply, Watching, WorkerTimes,
};
pub use self::path::{LostRow, Story, Summary, SurveyHop, SurveyReply, SurveyWay, WhyReply};
pub use self::trust::{AllowReply, AllowRow, AllowUser, InvitationRow, Invite, InviteReply};
use crate::types::{Bandwidth, PeerName, Reject, ServiceName};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    Peers,
    Links,
    Tree,
    /// What this peer did in the last tree computation, or `all` of them: a [`Course`] by peer.
    Computation {
        #[serde(default)]
        all: bool,
    },
    /// The picture of the whole overlay: [`GraphReply`].
    Graph,
    Verify,
    Channels,
    /// The ledger of frames: [`LedgerReply`].
    Ledger,
    /// What the control lane counted: [`StatisticsReply`].
    Statistics,
    Services {
        peer: PeerName,
    },
    Open(Open),
    /// The same; if it stands in line, a line with its [`QueueRow`] comes before that of the [`OpenReply`].
    OpenTold(Open),
    /// Requests of this peer that wait for room: [`QueueRow`]s.
    Queue,
    /// Now, later or never: [`FitReply`]. Reserves nothing.
    WouldFit(WouldFit),
    /// By id or by name.
    Close {
        channel: String,
    },
    /// The local stream ended after this many datagrams; answered when the far end knows.
    Finish {
        channel: String,
        frames: u64,
    },
    /// Deliver the next channel of `service` to `address`, framed; lines of [`Received`] follow.
    Receive {
        service: ServiceName,
        address: SocketAddr,
    },
    /// One-way times of a channel here; see [`Latency`]. With the number of a watch what was counted
    /// since that began, otherwise what was counted since the channel came.
    Latency {
        channel: String,
        watch: Option<u64>,
    },
    /// What every peer on the path of a channel knows of it: [`SurveyReply`].
    Survey {
        channel: String,
    },
    /// Counts the one-way times of a channel with three digits, for that many seconds or until the
    /// client closes the connection; one line of [`Watching`] follows.
    Watch {
        channel: String,
        seconds: u32,
    },
    /// Times and sizes of this peer's own work; see [`RelayTimes`].
    RelayTimes,
    /// Lines of [`EventLine`] from now on.
    Events,
    Reload,
    /// What the link to this neighbour carries; answered within `duration_ms` and a second.
    Measure {
        peer: PeerName,
        /// No higher rate is tried; missing: four times the configured capacity.
        max_bps: Option<Bandwidth>,
        duration_ms: u64,
    },
    /// A link more, now and after a restart: [`LinkReply`].
    AddLink(AddLink),
    /// A link less; the neighbour is told: [`LinkReply`].
    RemoveLink {
        peer: PeerName,
    },
    /// The rules of `[[allow]]` with what they let in: [`AllowReply`].
    Allow,
    /// A token for one newcomer: [`InviteReply`].
    Invite(Invite),
    /// Those that have not expired: [`InvitationRow`]s.
    Invitations,
    /// Nobody can use it any more: its [`InvitationRow`].
    Revoke {
        id: String,
    },
    Recompute,
    /// Leave, once the channels that cross the peer have moved or this time is over.
    Leave {
        timeout_ms: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Open {
    pub peer: PeerName,
    pub service: ServiceName,
    pub bandwidth_bps: Bandwidth,
    /// Missing: max(64 kbit/s, 2 %); 0: one way only.
    pub bandwidth_back_bps: Option<Bandwidth>,
    pub name: Option<ServiceName>,
    /// Missing: a free port on loopback.
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
    /// Missing: to the last local sender.
    #[schema(value_type = Option<String>)]
    pub deliver: Option<SocketAddr>,
    /// Who besides loopback may send to `listen`, as `ADDRESS/BITS`.
    pub from: Option<String>,
    #[serde(default)]
    pub path: PathChoice,
    /// Peers that no path of the channel may cross.
    #[serde(default)]
    pub avoid: Vec<PeerName>,
    pub deadline_ms: u64,
    /// Stand in line for room until the deadline. Who closes the connection gives up its place.
    #[serde(default)]
    pub wait: bool,
    /// Keep a second path reserved.
    #[serde(default)]
    pub protect: bool,
    /// What enters above the bandwidth waits for a moment before it is dropped.
    #[serde(default)]
    pub shape: bool,
    /// Ask for it again after a restart, and when it ended otherwise than by `close` here.
    #[serde(default)]
    pub keep: bool,
    /// Payloads travel as they are. Otherwise they are sealed between the two ends, and relays see nothing of
    /// them.
    #[serde(default)]
    pub plain: bool,
    /// The same request under the same key has the same answer, for ten minutes after it was given, and one
    /// reservation. It stands in line until its deadline even if its client goes away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Which paths may be tried (A13): `"tree"`, `"widest"`, `"tree-then-widest"`, or every peer behind the
/// asker in order, the destination last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PathChoice {
    Named(NamedPath),
    Given(Vec<PeerName>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NamedPath {
    Tree,
    Widest,
    TreeThenWidest,
}

impl Default for PathChoice {
    fn default() -> Self {
        Self::Named(NamedPath::TreeThenWidest)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WouldFit {
    pub peer: PeerName,
    pub bandwidth_bps: Bandwidth,
    /// Missing: max(64 kbit/s, 2 %); 0: one way only.
    pub bandwidth_back_bps: Option<Bandwidth>,
    #[serde(default)]
    pub path: PathChoice,
    #[serde(default)]
    pub avoid: Vec<PeerName>,
}

/// A link to a neighbour, as `[[link]]` of the configuration file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddLink {
    pub peer: PeerName,
    /// Missing: only the other end can dial.
    #[schema(value_type = Option<String>)]
    pub address: Option<SocketAddr>,
    /// 64 hexadecimal digits.
    pub key: String,
    pub capacity_bps: Bandwidth,
    /// Missing: 1500.
    pub mtu: Option<u16>,
}

/// The answer line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    Ok(T),
    Error(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// What is wrong and what to do.
    pub message: String,
    /// Why the overlay said no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reject>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request itself is wrong (exit code 2).
    Usage,
    /// It could not be done (exit code 1).
    Failed,
    /// Nothing here has that id or name (exit code 1).
    Unknown,
    /// The overlay said no (exit code 3).
    Rejected,
    /// No answer in time (exit code 4).
    Timeout,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusReply {
    pub name: PeerName,
    pub version: String,
    pub key: String,
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    pub pid: u32,
    pub uptime_ms: u64,
    /// `uring` or `mmsg`, and why.
    pub backend: String,
    pub backend_why: String,
    /// `tokio-uring` or `tokio`.
    pub runtime: String,
    pub control: ControlStatus,
    pub workers: Vec<WorkerStatus>,
    pub session: Option<String>,
    pub tree_complete: bool,
    /// The tree computation this peer takes part in, or that it took part in last.
    pub computation: Option<Computation>,
    pub peers: usize,
    pub links_up: usize,
    pub links: usize,
    /// Of those that no `[[link]]` names.
    pub links_by_trust: usize,
    /// That somebody may still join with.
    pub invitations: usize,
    pub channels: usize,
    /// Watches of channels that are running (`spanway latency --watch`).
    pub watches: usize,
    pub facts: FactsStatus,
    /// What the links of the host may carry together; null without `[host] egress` or `ingress`.
    pub egress: Option<BudgetStatus>,
    pub ingress: Option<BudgetStatus>,
    /// Things a person should look at: a link neither end can dial, a small socket buffer, ...
    pub warnings: Vec<String>,
}

/// One direction of all links of a host together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetStatus {
    /// What channels may have of it.
    pub usable_bps: Bandwidth,
    pub free_bps: Bandwidth,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControlStatus {
    /// Where the control thread may run.
    pub cpus: Vec<usize>,
    /// A worker has one of them.
    pub shared: bool,
    /// Turns on its CPU that the kernel granted; missing where it takes no such request.
    pub slice_us: Option<u64>,
    /// CPU time of the longest piece of work without a pause since the start.
    pub longest_piece_us: u64,
    /// Connections that others made to this peer, by what became of them: `accepted`, `failed`,
    /// `refused_at_once` and `refused_rate` (before any cryptography, without an answer).
    #[serde(default)]
    pub handshakes: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerStatus {
    pub port: u16,
    pub cpu: Option<usize>,
    /// As in [`ControlStatus`].
    pub slice_us: Option<u64>,
    pub receive_buffer_bytes: usize,
    pub batches: u64,
    pub datagrams: u64,
    pub heartbeats_sent: u64,
    pub heartbeats_heard: u64,
    /// Drops that belong to no channel.
    pub dropped: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerRow {
    pub name: PeerName,
    /// `self`, `reachable` or `unreachable`.
    pub state: String,
    pub next_hop: Option<PeerName>,
    pub distance: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkRow {
    pub peer: PeerName,
    /// `down`, `greeting` or `up`.
    pub state: String,
    pub capacity_bps: Bandwidth,
    pub free_out_bps: Bandwidth,
    pub free_in_bps: Bandwidth,
    pub tree: bool,
    /// Last round trip of a heartbeat, while the link is up.
    pub rtt_us: Option<u64>,
    /// Since a heartbeat of the neighbour was heard last; missing if none ever was.
    pub heard_ms: Option<u64>,
    /// Where frames go while the link is up, the configured address otherwise.
    #[schema(value_type = Option<String>)]
    pub address: Option<SocketAddr>,
    /// While connected: `dialled` by this peer, or `accepted`.
    pub connection: Option<String>,
    /// Why the last attempt to connect failed or the last connection ended, however long ago.
    pub last_failure: Option<String>,
    /// While up: every frame carries a proof of which neighbour sent it.
    #[serde(default)]
    pub hop_tag: bool,
    /// How long its messages had to wait on this connection, because they took more of the control thread
    /// than one neighbour may.
    #[serde(default)]
    pub paced_ms: u64,
    /// No `[[link]]` names it: its key is in `[trust]`, and it dialled.
    pub by_trust: bool,
}

/// What became of a link that was to be added or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkReply {
    pub peer: PeerName,
    /// `added`, `removed`, or `unchanged` if it was there already, word for word.
    pub change: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EdgeRow {
    pub a: PeerName,
    pub b: PeerName,
    pub capacity_bps: Bandwidth,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TreeReply {
    pub session: Option<String>,
    pub complete: bool,
    pub edges: Vec<EdgeRow>,
    pub parent: Option<PeerName>,
    pub next_hops: BTreeMap<PeerName, PeerName>,
}

/// A tree computation as one peer sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Computation {
    pub session: String,
    /// Its tree is not in use here yet.
    pub running: bool,
    /// Of this peer; a fragment is named by the ends of its core edge.
    pub level: u8,
    pub fragment: Option<[PeerName; 2]>,
    /// Since the session began here.
    pub since_ms: u64,
}

/// What one peer did in a tree computation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Course {
    /// Missing, without steps, of a peer of a version that cannot tell.
    pub session: Option<String>,
    /// Its tree is in use there.
    pub complete: bool,
    pub steps: Vec<CourseStep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CourseStep {
    /// Since the session began at that peer.
    pub at_us: u32,
    /// `woke`; `chose` the edge to the neighbour, the best that leads out of the fragment; `merged`: two
    /// fragments became one with its core here; `joined`: the own fragment is part of another one;
    /// `absorbed` the fragment behind the neighbour; `done`.
    pub what: String,
    /// Of the peer behind the step.
    pub level: u8,
    pub fragment: Option<[PeerName; 2]>,
    pub neighbour: Option<PeerName>,
}

/// The overlay as this peer knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GraphReply {
    /// Sixteen hexadecimal digits, equal at peers whose pictures are.
    pub digest: String,
    /// Grows here with every change of the picture; means nothing at other peers.
    pub version: u64,
    pub peers: Vec<GraphPeer>,
    /// Those both ends say are up.
    pub links: Vec<GraphLink>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GraphPeer {
    pub name: PeerName,
    /// Since it last said that it lives.
    pub age_ms: u64,
    /// It takes nothing new.
    pub leaving: bool,
    /// What all links of its host together may carry.
    pub egress_bps: Option<Bandwidth>,
    pub ingress_bps: Option<Bandwidth>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GraphLink {
    pub a: PeerName,
    pub b: PeerName,
    /// The smaller of what its ends say, each way.
    pub capacity_bps: Bandwidth,
    /// As the sending end says, within 5 % and half a second.
    pub free_ab_bps: Bandwidth,
    pub free_ba_bps: Bandwidth,
    pub max_payload_bytes: u16,
    /// An edge of the tree in use.
    pub tree: bool,
    /// Since one of its ends last said something new of it.
    pub age_ms: u64,
}

/// What happened to facts about the overlay since this peer started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FactsStatus {
    /// Of others: new here, known already, and refused, by reason.
    pub applied: u64,
    pub duplicates: u64,
    pub refused: BTreeMap<String, u64>,
    /// Own ones, and those of them that an earlier life of this peer made necessary.
    pub told: u64,
    pub retold: u64,
    /// Messages to neighbours, and facts in them.
    pub messages: u64,
    pub facts: u64,
    /// Digests of neighbours that differed, and questions because of them.
    pub differed: u64,
    pub summaries: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReply {
    /// The collected branches are the maximum spanning tree of the collected links.
    pub correct: bool,
    pub peers: usize,
    pub links: usize,
    /// Edges of the judge's tree that the peers lack.
    pub missing: Vec<EdgeRow>,
    /// Branches that the judge's tree has not.
    pub surplus: Vec<EdgeRow>,
    /// Links or branches only one of their ends believes in, peers that did not answer.
    pub contradictions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChannelRow {
    pub id: String,
    pub name: ServiceName,
    pub peer: PeerName,
    pub service: ServiceName,
    /// `source`, `service` or `relay`.
    pub role: String,
    /// `opening`, `queued`, `open` or `moving`.
    pub state: String,
    pub path: Vec<PeerName>,
    /// At the end that asked: the path that is reserved besides (`open --protect`), and the one that would
    /// be tried first if the one in use broke.
    pub standby: Option<Vec<PeerName>>,
    pub second: Option<Vec<PeerName>>,
    pub bandwidth_bps: Bandwidth,
    pub bandwidth_back_bps: Bandwidth,
    /// Payload rate that fits `bandwidth_bps` at 1316-byte datagrams.
    pub payload_bps: Bandwidth,
    pub max_payload_bytes: u16,
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
    #[schema(value_type = Option<String>)]
    pub deliver: Option<SocketAddr>,
    /// Frames sent to a neighbour: entered at this end, or passed on by this relay.
    pub tx_frames: u64,
    /// Frames that left the overlay at this end, or that came to this relay.
    pub rx_frames: u64,
    /// At an end: payload that local programs sent in, dropped or not, and that was delivered to them.
    pub entered_bytes: u64,
    pub delivered_bytes: u64,
    /// At an end: frames of the other end that should have come by now, to judge by their sequence
    /// numbers, and did not.
    pub lost_frames: u64,
    pub dropped: BTreeMap<String, u64>,
    /// At an end: what its program sent in the last two thirds of a second, and what was promised to it,
    /// in IP packets of frames; missing until there is something to say.
    pub offered_bps: Option<Bandwidth>,
    pub entry_bps: Option<Bandwidth>,
    /// What is offered above that waits for a moment (`open --shape`).
    pub shape: bool,
    /// It is asked for again until it is closed here (`open --keep`).
    pub keep: bool,
    /// Only its two ends can read its payloads; and the fingerprint of the other end's key, at a relay that
    /// of the service's end.
    pub sealed: bool,
    pub peer_key: Option<String>,
}

/// A request that stands in line for room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueRow {
    pub id: String,
    pub name: ServiceName,
    pub peer: PeerName,
    pub service: ServiceName,
    pub bandwidth_bps: Bandwidth,
    pub bandwidth_back_bps: Bandwidth,
    /// On whose links it stands in line.
    pub path: Vec<PeerName>,
    /// 1: first on every link that is short.
    pub position: u32,
    pub waited_ms: u64,
    /// Until its deadline.
    pub left_ms: u64,
    /// What it waits for, from here to the destination.
    pub short: Vec<ShortRow>,
}

/// What has not enough room at a peer: a link in one direction, or a budget of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShortRow {
    pub at: PeerName,
    /// The neighbour at the other end of the link.
    pub towards: Option<PeerName>,
    /// `egress` or `ingress`, where it is not a link.
    pub budget: Option<String>,
    /// What the request takes of it.
    pub asked_bps: Bandwidth,
    pub free_bps: Bandwidth,
    /// Requests before this one in line, and the last of them.
    pub ahead: u32,
    pub before: Option<String>,
    /// Some of the channels that have the rest.
    pub holders: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenReply {
    /// `open`, `queued` or `rejected`.
    pub outcome: String,
    pub reason: Option<Reject>,
    pub detail: String,
    pub channel: Option<String>,
    pub path: Vec<PeerName>,
    pub width_bps: Bandwidth,
    pub max_payload_bytes: u16,
    /// Only the two ends can read its payloads; and the fingerprint of the other end's key.
    #[serde(default)]
    pub sealed: bool,
    #[serde(default)]
    pub peer_key: Option<String>,
    /// Where local programs send to.
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
    /// Payload rate that fits the bandwidth at 1316 and 200 bytes a datagram.
    pub payload_1316_bps: Bandwidth,
    pub payload_200_bps: Bandwidth,
    /// Paths that were asked for before, in this order.
    pub refused: Vec<RefusedPath>,
    /// How long it stood in line for room; missing if it did not.
    pub waited_ms: Option<u64>,
    pub limit: Option<LimitReply>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedPath {
    pub path: Vec<PeerName>,
    /// Which hop refused, and how much was free.
    pub why: String,
}

/// What one path could carry if nothing were reserved: more is never possible in this overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitReply {
    pub width_bps: Bandwidth,
    /// The narrowest link of that path.
    pub link: [PeerName; 2],
    /// Whose tree says so.
    pub session: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FitAnswer {
    Now,
    Later,
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FitReply {
    pub answer: FitAnswer,
    /// In words, if it is not now.
    pub detail: String,
    /// The best path there is.
    pub path: Vec<PeerName>,
    /// Least that is free on it, there and back, and the link where that is least on the way there.
    pub free_bps: Bandwidth,
    pub free_back_bps: Bandwidth,
    pub bottleneck: Option<[PeerName; 2]>,
    pub limit: Option<LimitReply>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceRow {
    pub name: ServiceName,
    /// The service speaks first.
    pub source: bool,
    pub busy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeasureReply {
    pub peer: PeerName,
    pub took_ms: u64,
    /// For `[[link]] capacity`: nine tenths of the lower way, rounded down.
    pub suggested_bps: Option<Bandwidth>,
    pub configured_bps: Bandwidth,
    /// The highest rate that was allowed.
    pub max_bps: Bandwidth,
    /// Held by channels meanwhile, whose frames were not counted.
    pub reserved_out_bps: Bandwidth,
    pub reserved_back_bps: Bandwidth,
    /// Median round trip of heartbeats while probes were sent.
    pub rtt_p50_us: Option<u64>,
    pub out: MeasureWay,
    pub back: MeasureWay,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeasureWay {
    /// The highest rate that was carried.
    pub best_bps: Option<Bandwidth>,
    /// Why it is not higher: `link`, `max`, `sender` or `time`.
    pub limit: String,
    pub trains: Vec<MeasureTrain>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeasureTrain {
    /// As it was sent, in IP packets.
    pub rate_bps: Bandwidth,
    pub sent: u32,
    pub arrived: u32,
    /// As it came out of the link, if enough did to tell.
    pub arrived_bps: Option<Bandwidth>,
    /// The longer one that confirms a rate.
    pub long: bool,
}

/// Lines of `receive`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Received {
    /// Waiting for a channel.
    Waiting,
    Open {
        channel: String,
        peer: PeerName,
    },
    /// All frames up to here were sent.
    Finished {
        frames: u64,
    },
    /// The channel ended without FINISH.
    Closed {
        why: String,
    },
}

/// Every kind of event.
pub const EVENTS: [&str; 16] = [
    "link_up",
    "link_down",
    "session_started",
    "session_adopted",
    "tree_committed",
    "channel_open",
    "channel_queued",
    "channel_moving",
    "channel_trying",
    "channel_moved",
    "channel_protected",
    "channel_policed",
    "channel_closed",
    "stream_finished",
    "unproven",
    "ignored",
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventLine {
    pub at_ms: u64,
    /// One of [`EVENTS`].
    pub event: String,
    pub text: String,
    /// Of whom it tells, if of one channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Of `channel_policed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess: Option<Excess>,
}

/// What a program sends into a channel above its bandwidth. Rates are IP packets of frames, but for the
/// one that says payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Excess {
    /// Frames dropped as `policed` since the line before, in the last second.
    pub dropped: u64,
    /// Sent meanwhile.
    pub offered_bps: Bandwidth,
    pub bandwidth_bps: Bandwidth,
    /// What fits, in datagrams as large as those that came.
    pub payload_bps: Bandwidth,
    /// Enough for what came; missing if the channel has as much and what came too close together was
    /// dropped.
    pub ask_bps: Option<Bandwidth>,
    /// In words.
    pub text: String,
}

//! The control plane as one machine: inputs and the time go in, actions come out.
//!
//! Pure: no clock, no socket, no thread, no randomness but the seed given at the start, no iteration
//! over hash maps. The same [`node::Node`] runs in the daemon and, many at a time on one thread, in
//! the simulator ([`crate::sim`]).
//!
//! How to drive a `Node`:
//!
//! 1. `handle(now, input, &mut actions)` for each thing that happened.
//! 2. Carry out `actions` in their order. An [`Action::Send`] behind a route change must not leave
//!    before the engine has applied the change: the message tells the other end that frames may come.
//! 3. `poll_timeout()` says when to wake it, and for which [`Timer`]; then `handle_timeout(now, ..)`.
//!
//! `now` never goes backwards. A machine returns values for what peers and people do wrong; it panics
//! only on a mistake of its own (`invariants`).
//!
//! Files: [`link`] one link's greeting and death, [`session`], [`start`], [`ghs`] and [`wave`] the tree,
//! [`overlay`] what a committed tree tells, [`query`] questions to other peers, [`channel`] the life
//! of a channel, [`reservation`] and [`budget`] the ledgers, [`claims`] who waits, [`policy`] who may,
//! [`measure`] the capacity of a link, [`graph`] the picture of the whole overlay, `proof` whose a message
//! about a channel is. They meet only in [`node`].

pub mod budget;
pub mod channel;
pub mod claims;
pub mod ghs;
pub mod graph;
mod leaving;
pub mod link;
pub mod measure;
pub mod node;
pub mod overlay;
pub mod policy;
mod proof;
pub mod query;
pub mod reservation;
pub mod session;
pub mod start;
pub mod survey;
pub mod view;
pub mod wave;
mod ways;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::types::{
    Bandwidth, ChannelId, EdgeKey, Incarnation, Label, LinkId, PeerName, PublicKey, Reject,
    RequestId, ServiceName, SessionId, WorkerId,
};
use crate::wire::control::{LinkInfo, Message, Routed, ServiceInfo};
use crate::wire::course::Course;
use crate::wire::heartbeat::HeartbeatKey;
use crate::wire::hop::HopFacts;
use crate::wire::measure::{Arrived, Train};

/// What a `Node` is told about its own peer; a reload hands it a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: PeerName,
    pub links: Vec<LinkConfig>,
    pub services: Vec<ServiceConfig>,
    /// UDP port of worker 0; worker i listens on it plus i.
    pub data_port: u16,
    pub workers: u8,
    pub recovery: Recovery,
    pub budgets: Budgets,
    /// Who may open channels that end here or cross; none: everybody.
    pub allow: Vec<policy::Rule>,
}

/// What a failure does to the channels that were asked for here (`[recovery] mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// Those that crossed it move at once, the others do not notice.
    #[default]
    Channels,
    /// Each new session closes every path; they are asked for again on its tree. What older systems
    /// did, kept to measure the difference.
    Everything,
}

/// What all links of the host together may carry, if there is a limit (decision 2): kept by
/// [`budget::HostLedger`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    pub egress: Option<Bandwidth>,
    pub ingress: Option<Bandwidth>,
}

impl Budgets {
    /// No link carries more than its host, and a link carries the same both ways (decision 4).
    pub fn bound(self) -> Bandwidth {
        let none = Bandwidth::MAX;
        self.egress.unwrap_or(none).min(self.ingress.unwrap_or(none))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    pub link: LinkId,
    pub peer: PeerName,
    pub key: PublicKey,
    /// Configured capacity, before the control share is taken off.
    pub capacity: Bandwidth,
    pub mtu: u16,
    /// Frames of this link have hop tags; a neighbour that cannot make them is refused.
    pub hop_tag: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    pub name: ServiceName,
    pub kind: ServiceKind,
    /// It takes channels that are not sealed, too.
    pub plain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Frames are delivered to a local address; many channels at the same time.
    Deliver,
    /// A local source speaks first on a fixed port; one channel at a time.
    Source,
    /// Only `spanway recv` takes it; one channel at a time, and none while nobody receives.
    Receive,
}

/// Everything that can happen to a `Node`.
#[derive(Clone, Debug)]
pub enum Input {
    /// A connection of this link was authenticated; a newer one replaces an older.
    Connected {
        link: LinkId,
        ipv6: bool,
    },
    /// The link's connection ended, or its heartbeats did.
    Disconnected {
        link: LinkId,
        why: String,
    },
    Message {
        link: LinkId,
        message: Message,
    },
    Request {
        id: RequestId,
        request: Request,
    },
    /// Answer to [`Action::OpenEnd`]: the socket is there, with the answer to the offer if there was one; or
    /// why not.
    EndOpened {
        channel: ChannelId,
        result: Result<Option<Bytes>, Rejection>,
    },
    /// Answer to [`Action::OfferSeal`].
    SealOffered {
        channel: ChannelId,
        result: Result<Bytes, String>,
    },
    /// Answer to [`Action::SealEnd`]: the end has its keys, or the answer was not the far end's.
    EndSealed {
        channel: ChannelId,
        result: Result<(), String>,
    },
    /// A local `spanway recv` attached to (or left) a service.
    Receiving {
        service: ServiceName,
        on: bool,
    },
    /// The engine sent the train of [`Action::SendTrain`]; `rtt` is the link's last round trip.
    TrainSent {
        link: LinkId,
        sent: measure::Sent,
        rtt: Option<Duration>,
    },
    /// Answer to [`Action::ReadHop`]: nothing if the channel is not here any more.
    HopRead {
        question: Box<Routed>,
        facts: Option<Box<HopFacts>>,
    },
    /// Answer to [`Action::CountTrain`].
    TrainCounted {
        link: LinkId,
        number: u32,
        arrived: Arrived,
        rtt: Option<Duration>,
    },
    /// The configuration was reloaded: links added, removed or changed, services changed.
    Configured(NodeConfig),
}

/// What a local person or program asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Open(OpenRequest),
    WouldFit(FitRequest),
    /// Nobody waits for the answer of an `Open` any more. It is not answered itself.
    Withdraw {
        open: RequestId,
    },
    Close {
        channel: ChannelId,
    },
    /// The local stream of `channel` ended after this many frames.
    Finish {
        channel: ChannelId,
        frames: u64,
    },
    Services {
        peer: PeerName,
    },
    /// Links and branches of every reachable peer, from each peer itself (A10).
    CollectLinks {
        /// And what each did in the last computation.
        course: bool,
    },
    /// What every peer on the path of this channel knows of it.
    Survey {
        channel: ChannelId,
    },
    /// What the link to this neighbour carries.
    Measure(MeasureRequest),
    /// Start a tree computation now.
    Recompute,
    /// Ask channels that cross this peer to move and wait for that for as long; then close all channels
    /// that end here, say Bye on all links; answered when that is sent. A second one with less time
    /// shortens the wait.
    Leave {
        timeout: Duration,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    pub peer: PeerName,
    pub service: ServiceName,
    /// Unique among the open channels of this peer.
    pub name: Option<ServiceName>,
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
    pub choice: Choice,
    /// Peers that no path of the channel may cross, now or later.
    pub avoid: Vec<PeerName>,
    /// The final answer comes within this.
    pub deadline: Duration,
    /// Stand in line for room until then; otherwise want of room is the answer.
    pub wait: bool,
    /// Keep a second path reserved, for the moment the first one breaks.
    pub protect: bool,
    /// Its payloads travel as they are.
    pub plain: bool,
}

/// Which paths a channel may be opened on (A13). One that breaks may move to any other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// That of the spanning tree.
    Tree,
    /// The one with the most free capacity on the picture; of equal ones that with the fewest hops, then
    /// the first by the names on it.
    Widest,
    /// That of the tree where it has room, the widest otherwise.
    #[default]
    TreeThenWidest,
    /// This one: every peer behind the asker in order, the destination last. The node has checked that
    /// each hop is a live link of its picture.
    Given(Vec<PeerName>),
}

/// Would a channel be opened now, later or never?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitRequest {
    pub peer: PeerName,
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
    pub choice: Choice,
    pub avoid: Vec<PeerName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasureRequest {
    pub peer: PeerName,
    /// No higher rate is tried; missing: four times the configured capacity.
    pub max: Option<Bandwidth>,
    pub duration: Duration,
}

/// The answer to a [`Request`]; each request gets exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Open(Opened),
    Rejected(Rejection),
    Fit(Box<Fit>),
    Closed,
    /// The far end knows that the stream ended.
    Finished,
    Services(Vec<ServiceInfo>),
    Links(Collected),
    Recomputing(SessionId),
    /// In the order of the path.
    Hops(Vec<Hop>),
    Measured(Box<Measured>),
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub channel: ChannelId,
    pub path: Vec<PeerName>,
    /// Smallest free usable capacity on the path before this channel took its share.
    pub width: Bandwidth,
    pub max_payload: u16,
    /// The far end's key, if the channel is sealed.
    pub sealed: Option<PublicKey>,
    pub explanation: Box<Explanation>,
}

/// A peer on the path of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    pub peer: PeerName,
    /// Or why there are none.
    pub facts: Result<HopFacts, String>,
}

/// What a link carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    pub peer: PeerName,
    pub took: Duration,
    /// The highest rate that was allowed.
    pub max: Bandwidth,
    /// As configured at this end, and the smaller of both ends' usable ones.
    pub configured: Bandwidth,
    pub usable: Bandwidth,
    /// Held by channels meanwhile, whose frames were not counted.
    pub reserved_out: Bandwidth,
    pub reserved_back: Bandwidth,
    pub out: MeasuredWay,
    pub back: MeasuredWay,
    pub rtt_p50: Option<Duration>,
}

/// One direction of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredWay {
    /// The highest rate that was carried, and why it is not higher.
    pub best: Option<Bandwidth>,
    pub limit: measure::Limit,
    /// Every train, in the order of sending.
    pub points: Vec<measure::Point>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reject,
    /// In words: which hop, how much was free.
    pub detail: String,
    pub explanation: Box<Explanation>,
}

impl Rejection {
    pub fn new(reason: Reject, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), explanation: Box::default() }
    }
}

/// What lies behind the answer to an `open`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Paths that were asked for before, in this order; since the last wait, if it stood in line.
    pub refused: Vec<Refused>,
    /// How long it stood in line, if it is open.
    pub waited: Option<Duration>,
    pub limit: Option<Limit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub path: Vec<PeerName>,
    pub why: String,
}

/// What one path could carry if nothing were reserved (W of 2.8): less can be served now or later, more
/// never, as long as the overlay stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub width: Bandwidth,
    /// The narrowest link of that path, in the direction of the path.
    pub link: (PeerName, PeerName),
    /// The session whose tree says so: the epoch.
    pub session: SessionId,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, link: (near, far), session } = self;
        write!(f, "the widest carries {width}, at {near} - {far}, says the tree of {session}")
    }
}

/// The answer to a [`FitRequest`]. Neither now nor later is a [`Rejection`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Now, on `path`; otherwise later.
    pub fits: bool,
    /// The best there is.
    pub path: Vec<PeerName>,
    pub narrow: Option<Narrowest>,
    pub limit: Option<Limit>,
}

/// The narrowest links of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowest {
    pub capacity: Bandwidth,
    pub by_capacity: (PeerName, PeerName),
    /// Free in the direction of the path, and where that is least.
    pub free: Bandwidth,
    pub by_free: (PeerName, PeerName),
    /// Least that is free against it.
    pub free_back: Bandwidth,
}

/// What the peers of a component said of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Each peer that answered, and its live links.
    pub peers: Vec<(PeerName, Vec<LinkInfo>)>,
    /// Peers that somebody has a link to and that did not answer.
    pub silent: Vec<PeerName>,
    /// Of those that were asked and know what they did.
    pub courses: Vec<(PeerName, Course)>,
}

/// Where a frame goes from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the neighbour, under the label it chose, to the UDP port of its worker.
    Hop { link: LinkId, label: Label, port: u16 },
    /// To the local socket of the channel.
    Local,
}

/// Which end of a channel this peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It asked for the channel.
    Source,
    /// It offers the service.
    Service,
}

/// How the payloads of a channel travel, as far as it is known when its end is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealing {
    /// As they are.
    Plain,
    /// Sealed, with keys that come later ([`Action::SealEnd`]); nothing enters or leaves before.
    Awaited,
    /// Sealed: this offer of a peer with this key is to be answered.
    Answer { key: PublicKey, terms: Bytes, offer: Bytes },
}

/// What the daemon shall do. Carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Send {
        link: LinkId,
        message: Message,
    },
    /// Close the link's connection; no [`Input::Disconnected`] comes for it.
    CloseLink {
        link: LinkId,
        why: String,
    },
    /// The neighbour greeted: the engine may exchange heartbeats and frames with it.
    LinkUp {
        link: LinkId,
        data: DataLink,
    },
    /// The link is down; the engine forgets it.
    LinkDown {
        link: LinkId,
    },
    /// Open the local socket of a channel end; answered by [`Input::EndOpened`].
    OpenEnd {
        channel: ChannelId,
        side: Side,
        service: ServiceName,
        worker: WorkerId,
        sealing: Sealing,
    },
    /// Make the asker's half of a handshake with this peer; answered by [`Input::SealOffered`]. A later one
    /// replaces an earlier one.
    OfferSeal {
        channel: ChannelId,
        key: PublicKey,
        terms: Bytes,
    },
    /// The far end answered the last offer: the end here gets its keys; answered by [`Input::EndSealed`].
    SealEnd {
        channel: ChannelId,
        answer: Bytes,
    },
    CloseEnd {
        channel: ChannelId,
    },
    /// Frames that enter at this end go to `to`; `None` while the channel moves.
    SetEntry {
        channel: ChannelId,
        to: Option<Entry>,
    },
    /// Frames that arrive with `label` from `from` go to `to`. `label.worker()` owns it, until it is
    /// moved.
    AddLabel {
        channel: ChannelId,
        label: Label,
        from: LinkId,
        to: Target,
        /// Promised to this direction of the channel; frames above it are dropped.
        rate: Bandwidth,
        /// Links these frames have crossed when they are here, at least 1.
        hop: u8,
        /// They come from the service, not from who asked for the channel.
        back: bool,
    },
    RemoveLabel {
        label: Label,
    },
    /// Another peer on the path asks what is known of its channel here. Answered by [`Input::HopRead`].
    ReadHop {
        question: Box<Routed>,
    },
    /// A channel goes over to another worker: these labels, and its end if it has one here.
    MoveChannel {
        channel: ChannelId,
        labels: Vec<Label>,
        end: bool,
        from: WorkerId,
        to: WorkerId,
    },
    /// Count the probes that come over the link from now on, or no more; and send none any more.
    CountProbes {
        link: LinkId,
        on: bool,
    },
    /// Send these probes; answered by [`Input::TrainSent`]. `header_bytes` of IP and UDP come on top of
    /// each.
    SendTrain {
        link: LinkId,
        train: Train,
        header_bytes: u16,
    },
    /// How many probes of this train came? Answered by [`Input::TrainCounted`].
    CountTrain {
        link: LinkId,
        number: u32,
    },
    Answer {
        id: RequestId,
        answer: Answer,
    },
    Event(Event),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub to: Target,
    pub rate: Bandwidth,
    pub max_payload: u16,
}

/// What the engine needs to know of a neighbour. Its address is the connection's until a heartbeat
/// comes from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataLink {
    pub incarnation: Incarnation,
    /// UDP port of the neighbour's worker 0, and how many workers it has.
    pub port: u16,
    pub workers: u8,
    /// Label and key of the heartbeats we send.
    pub send_label: Label,
    pub send_key: HeartbeatKey,
    /// Label and key of the heartbeats we get.
    pub receive_label: Label,
    pub receive_key: HeartbeatKey,
    /// Either end wants hop tags: every frame of the link has one, both ways.
    pub hop_tag: bool,
}

/// What happened, for the log, `spanway events` and those who wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A neighbour has greeted: the link is in use, at this capacity.
    LinkUp { peer: PeerName, capacity: Bandwidth },
    /// The link is out of use, and why.
    LinkDown { peer: PeerName, why: String },
    /// A new computation of the tree was started here, and why.
    SessionStarted { session: SessionId, why: String },
    /// A session that a neighbour began, newer than the one here, is taken part in.
    SessionAdopted { session: SessionId },
    /// The tree of a session is complete and in use.
    TreeCommitted { session: SessionId, peers: usize, edges: Vec<EdgeKey> },
    /// Frames pass on this path.
    ChannelOpen { channel: ChannelId, path: Vec<PeerName> },
    /// There is no room for it now: it stands in line along this path.
    ChannelQueued { channel: ChannelId, path: Vec<PeerName> },
    /// The path broke or was given up; the channel looks for another.
    ChannelMoving { channel: ChannelId, why: String },
    /// A path is asked for, to be used or to stand by.
    ChannelTrying { channel: ChannelId, path: Vec<PeerName>, purpose: Purpose },
    /// Frames take another path from now on.
    ChannelMoved {
        channel: ChannelId,
        path: Vec<PeerName>,
        /// Since the old path broke, or since somebody asked for a move.
        took: Duration,
        /// The old path still carried: no frame was lost.
        seamless: bool,
        /// If it is smaller than before: larger datagrams are dropped from now on.
        smaller_payload: Option<u16>,
    },
    /// A second path is reserved and waits.
    ChannelProtected { channel: ChannelId, path: Vec<PeerName> },
    /// It has ended: closed by an end, or broken with a reason.
    ChannelClosed { channel: ChannelId, reason: Option<Reject>, why: String },
    /// At the far end: the stream ended after this many frames.
    StreamFinished { channel: ChannelId, frames: u64 },
    /// A message about a channel is not its owner's: it was refused, and nothing changed.
    Unproven { peer: PeerName, channel: ChannelId, what: &'static str, why: &'static str },
    /// A message was dropped for a reason worth a line (stale session, not the owner, ...).
    Ignored { peer: PeerName, what: &'static str, why: &'static str },
}

/// What a path is tried for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Frames shall take it.
    Use,
    /// It waits until the one in use breaks.
    Standby,
}

/// What a `Node` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A neighbour must greet after it connected.
    Greeting,
    /// A neighbour must answer START.
    StartAnswer,
    /// An event waits for the throttle before it starts a session.
    Throttle,
    /// A START waits because its initiator started another session a moment ago.
    Interval,
    /// A session should have been committed by now.
    Watchdog,
    /// A request must be answered.
    Request,
    /// A request says again that it waits, or one that did not is forgotten.
    Queue,
    /// A held or refreshed reservation runs out.
    Lease,
    /// The next REFRESH to the neighbours is due.
    Refresh,
    /// A channel that moves, or is to be protected, tries again or is given up.
    Move,
    /// FINISH is repeated.
    Finish,
    /// A routed question has no answer yet.
    Query,
    /// A measurement goes on, or its time is up.
    Measure,
    /// Frames may no longer be on their way on a path that was left.
    Drain,
    /// Second paths of channels are looked for again.
    Second,
    /// This peer waits for the channels that cross it to move.
    Leave,
    /// The picture of the overlay: this peer says that it lives, digests are compared, facts die.
    Gossip,
}

//! The data plane: one pinned worker thread per configured CPU, nothing shared between them.
//!
//! ```text
//!          command ring (bounded) + eventfd            event ring (bounded) + eventfd
//! control ──────────────────────────────► worker i ──────────────────────────────► control
//!                                          │
//!   UDP sockets ─► net (reap a batch of super-buffers)
//!                    └─► forward (per segment: parse, look up, relabel in place)
//!                          └─► runs (same next hop, equal length) ─► net (submit)
//!                                └─► stats (one writer, relaxed atomics)
//! ```
//!
//! Each worker owns its forwarding table and changes it itself, between two batches, when a
//! [`Command`] arrives. Nothing else can reach the table, so the frame path has no lock, no reference
//! count and no pointer to swap, and one channel costs one command however many there are.
//! [`Engine::applied`] tells when everything sent so far is applied; the daemon waits for it before it
//! sends the message that lets frames come.
//!
//! Never imports `proto`: the daemon translates its actions into commands.

pub mod forward;
mod handle;
pub mod liveness;
pub mod merge;
mod outbox;
mod plane;
pub mod pool;
pub mod probes;
pub mod proxy;
pub mod replay;
pub mod ring;
pub mod runs;
pub mod seal;
pub mod shaper;
pub mod table;
pub mod wait;
mod worker;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use handle::{Engine, EngineError, WorkerInfo};
pub use plane::{DataPlane, OwnEnds};

use self::probes::ProbeCounts;
use self::seal::Seal;
use crate::stats::ChannelStats;
use crate::stats::histogram::FullHistogram;
use crate::types::address::Reach;
use crate::types::{Bandwidth, ChannelId, Dscp, Label, LinkId, Time, WorkerId};
use crate::wire::heartbeat::HeartbeatKey;
use crate::wire::measure::Train;
use crate::wire::tag::HopKeys;

/// What the control thread tells a worker.
#[derive(Debug)]
pub enum Command {
    /// The neighbour may exchange heartbeats and frames with us. Sent to every worker; only worker 0
    /// sends and judges heartbeats. A second one for the same link replaces the first.
    SetLink(Arc<LinkSpec>),
    RemoveLink(LinkId),
    /// A channel ends at this worker: the socket its local program uses.
    AddEnd(EndSpec),
    /// The channel's end seals and opens with these keys from now on.
    SetSeal {
        channel: ChannelId,
        seal: Seal,
    },
    /// Where frames that leave the overlay go from now on.
    SetDeliver {
        channel: ChannelId,
        deliver: Deliver,
    },
    RemoveEnd(ChannelId),
    /// Where datagrams that enter at this end go; `None` while the channel moves (they are dropped as
    /// `moving`, counted).
    SetEntry {
        channel: ChannelId,
        to: Option<EntrySpec>,
    },
    /// Frames with this label, from this link only, go there.
    ///
    /// Several labels may lead to one end: the old path's and the new one's while a channel moves, and that
    /// of a path it keeps for later. Frames of a new one wait for those of the old one ([`merge`]), with
    /// the counters of the end. So a label whose path the sender has left is to be removed soon: frames
    /// behind a loss wait until then. A sender never goes back to a label it left.
    AddLabel {
        label: Label,
        from: LinkId,
        to: Target,
        /// What was promised to this direction of the channel, and how many links its frames have
        /// crossed when they are here: more than that is dropped as `policed`.
        rate: Bandwidth,
        hop: u8,
        stats: Arc<ChannelStats>,
    },
    /// What waited for frames of this label at an end has left when the command is applied. Frames that
    /// still come are dropped as `unknown_label`.
    RemoveLabel(Label),
    /// Count the probes that come over the link, or no more; then send none any more either. For worker
    /// 0, like all that measures.
    CountProbes {
        link: LinkId,
        counts: Option<Arc<ProbeCounts>>,
    },
    /// Send these probes; `header_bytes` of IP and UDP come on top of each.
    SendTrain {
        link: LinkId,
        train: Train,
        header_bytes: u16,
    },
    /// Frames of the channel with these counters are counted in `full`, too, until `Unwatch` with the
    /// same number. Each worker gets a histogram of its own: one writer each.
    Watch {
        watch: u64,
        stats: Arc<ChannelStats>,
        full: Arc<FullHistogram>,
    },
    Unwatch(u64),
    /// These labels, and the end of the channel if it has one here and all labels that lead to it, go over
    /// to another worker with all they have; frames that wait at the end leave before. No frame is lost or
    /// reordered; those that still arrive here are passed on. Later commands to that worker wait until it
    /// is done. A label is moved once, from the worker that drew it: frames that come back would overtake
    /// those on their way in the rings.
    MoveChannel {
        channel: ChannelId,
        labels: Vec<Label>,
        end: bool,
        to: WorkerId,
    },
    Stop,
}

/// A neighbour as the engine knows it.
#[derive(Debug, Clone)]
pub struct LinkSpec {
    pub link: LinkId,
    /// Where its worker 0 is believed to be; a valid heartbeat from elsewhere moves it.
    pub address: SocketAddr,
    /// Its workers listen on `address`'s port and the next ones; frames from elsewhere are foreign.
    pub workers: u8,
    pub send_label: Label,
    pub send_key: HeartbeatKey,
    pub receive_label: Label,
    pub receive_key: HeartbeatKey,
    /// Every frame of the link has a hop tag, both ways.
    pub tags: Option<HopKeys>,
    /// Where the link's frames may move.
    pub reach: Reach,
    pub interval: Duration,
    /// Heartbeats missed in a row that make the link silent.
    pub missed_max: u32,
    /// Where worker 0 says what it hears of the neighbour.
    pub pulse: Arc<Pulse>,
}

/// The socket of a channel end.
#[derive(Debug)]
pub struct EndSpec {
    pub channel: ChannelId,
    pub socket: UdpSocket,
    /// Datagrams from other addresses are dropped as `foreign`.
    pub from: AllowedFrom,
    pub deliver: Deliver,
    /// Whether who receives there asked its socket for super-buffers (UDP_GRO): only then several frames
    /// leave with one send. Nobody else could tell where one ends.
    pub gso: bool,
    /// What enters above the rate of the channel waits for up to [`SHAPE_DELAY_MAX`] before it is dropped.
    ///
    /// [`SHAPE_DELAY_MAX`]: crate::limits::SHAPE_DELAY_MAX
    pub shape: bool,
    pub seal: Seal,
    pub stats: Arc<ChannelStats>,
}

/// Who may send into a channel end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedFrom {
    Loopback,
    /// An address prefix and its length in bits (`--from`), besides loopback.
    Prefix(IpAddr, u8),
    /// Exactly this program (a service's `deliver` address).
    Only(SocketAddr),
}

/// Where frames that leave the overlay at this end go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deliver {
    To(SocketAddr),
    /// To whoever sent last; dropped as `no_receiver` before anybody did.
    LastSender,
    /// To `spanway recv`: the whole frame with its header, so that it sees sequence numbers.
    Framed(SocketAddr),
}

/// Where a frame goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a neighbour's worker port, under its label. `port` is what the neighbour told; the engine
    /// adds it to the address that heartbeats keep current.
    Hop { link: LinkId, label: Label, port: u16 },
    /// To the local end of the channel.
    Local(ChannelId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntrySpec {
    pub to: Target,
    /// More is dropped as `policed`.
    pub rate: Bandwidth,
    /// Larger datagrams are dropped as `too_big`.
    pub max_payload: u16,
}

/// What a worker tells the control thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// No valid heartbeat or frame for the allowed time, or the neighbour hears nothing from us.
    LinkSilent { link: LinkId, why: Silence },
    /// A valid heartbeat came from a new address (worker 0 of the neighbour).
    LinkMoved { link: LinkId, address: SocketAddr },
    /// A train of probes has left.
    TrainSent { link: LinkId, number: u32, frames: u32, took: Duration },
    /// A worker cannot go on; the daemon stops with this text.
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// We hear nothing.
    NotHeard,
    /// The neighbour says that it hears nothing from us.
    NotHearing,
}

/// How the engine is started.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Worker i binds this address with the port plus i.
    pub listen: SocketAddr,
    /// One worker per entry, pinned to that CPU; `None` leaves it to the scheduler.
    pub cpus: Vec<Option<usize>>,
    pub backend: BackendChoice,
    /// How frames and heartbeats are marked on the wire.
    pub dscp: Dscp,
    /// Origin of [`Time`] for the workers: the daemon's.
    pub origin: std::time::Instant,
    /// Never wait for more frames before passing on what has come.
    pub latency: bool,
}

/// What makes an engine a plain UDP proxy ([`Engine::start_proxy`]).
#[derive(Debug, Clone)]
pub struct ProxySpec {
    pub server: SocketAddr,
    /// A client that was silent for this long in both directions is forgotten.
    pub idle: Duration,
    /// At a time, of all workers together.
    pub clients_max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// io_uring where the start-up probe allows it, otherwise mmsg.
    #[default]
    Auto,
    Uring,
    Mmsg,
}

/// What the heartbeats of a neighbour tell, for `links` and `doctor`: one writer, any reader.
#[derive(Debug, Default)]
pub struct Pulse {
    /// In microseconds of the engine's clock, 0 before the first.
    heard_us: AtomicU64,
    /// Last round trip, 0 before there was one.
    rtt_us: AtomicU64,
}

impl Pulse {
    pub(crate) fn note(&self, heard: Time, rtt: Option<Duration>) {
        self.heard_us.store(heard.0.max(1), Relaxed);
        if let Some(rtt) = rtt {
            self.rtt_us.store(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1), Relaxed);
        }
    }

    /// When a heartbeat was heard last.
    pub fn heard(&self) -> Option<Time> {
        Some(self.heard_us.load(Relaxed)).filter(|heard| *heard > 0).map(Time)
    }

    pub fn rtt(&self) -> Option<Duration> {
        Some(self.rtt_us.load(Relaxed)).filter(|rtt| *rtt > 0).map(Duration::from_micros)
    }
}

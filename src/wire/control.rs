//! Control messages: what two neighbouring peers say to each other on their link's TCP connection.
//!
//! On the connection each message is one Noise transport message, length-prefixed by the daemon. A
//! message is a type (u16), its fields in the order of the structs below, then optional fields. An
//! unknown type is refused, unknown optional fields are skipped ([`super::codec::Reader::end`]), so
//! version N can talk to N-1.
//!
//! Panic contract: [`Message::parse`] never panics and allocates at most what the message's bytes
//! can hold.

use bytes::Bytes;

use super::ParseError;
use super::codec::{Reader, Writer};
use super::facts::Gossip;
use super::heartbeat::HeartbeatKey;
use super::measure::Measure;
use super::proof::seal_message;
pub use super::proof::{Offer, Proof};
use super::queue::Queue;
pub use super::routed::{LinkInfo, Routed, RoutedBody, ServiceInfo};
use crate::limits;
use crate::types::{
    Bandwidth, EdgeKey, Incarnation, Label, PeerName, PublicKey, Reject, ServiceName, SessionId,
    TxId,
};

/// Control versions this build speaks: (lowest, highest).
pub const VERSIONS: (u16, u16) = (1, 6);
/// First version with hop tags.
pub const TAGS_VERSION: u16 = 6;
/// First version with facts about the overlay, and with channels that move before they break.
pub const FACTS_VERSION: u16 = 3;

/// First message of both ends on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest control version the sender speaks.
    pub versions: (u16, u16),
    pub name: PeerName,
    /// Made by the sender for this connection.
    pub incarnation: Incarnation,
    /// The link's usable capacity as the sender sees it: its configured capacity and its host
    /// budgets, less the control share (decision 2). The smaller of both ends counts.
    pub capacity: Bandwidth,
    /// The sender's `[[link]] mtu`; the smaller of both ends counts.
    pub mtu: u16,
    /// UDP port of the sender's worker 0; worker i listens on it plus i.
    pub data_port: u16,
    pub workers: u8,
    /// Label the receiver of this Hello puts into its heartbeats.
    pub heartbeat_label: Label,
    /// Key of the heartbeats the sender of this Hello sends.
    pub heartbeat_key: HeartbeatKey,
    /// Highest session the sender has adopted; it may be far ahead of a peer that lost its state.
    pub session: Option<SessionId>,
    /// The sender wants hop tags on every frame of the link. Since version 6.
    pub hop_tag: bool,
}

/// Begins or joins a session on a link (2.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub session: SessionId,
    /// The link's usable capacity as the sender sees it, frozen for the session.
    pub capacity: Bandwidth,
    /// Identity of the initiator, and its signature over the session id.
    pub initiator_key: PublicKey,
    pub signature: [u8; 64],
}

/// Name of a GHS fragment: the key of its core edge. The session is in the message around it.
pub type FragmentName = EdgeKey;

/// The seven messages of the algorithm (2.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ghs {
    Connect { level: u8 },
    Initiate { level: u8, fragment: FragmentName, find: bool },
    Test { level: u8, fragment: FragmentName },
    Accept,
    Reject,
    Report { best: Option<EdgeKey> },
    ChangeRoot,
}

/// Asks the next hop to hold bandwidth for a channel (2.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    pub tx: TxId,
    pub service: ServiceName,
    /// Name the asker gave the channel.
    pub name: ServiceName,
    /// All peers of the path, asker first.
    pub path: Vec<PeerName>,
    /// Position of the receiver of this message in `path`.
    pub position: u8,
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
    /// Logical time of the request; with the asker's name the order of arrival.
    pub ticket: u64,
    /// What is left of the asker's deadline.
    pub deadline_ms: u32,
    /// Largest payload that fits every link so far.
    pub max_payload: u16,
    /// Where the receiver sends the channel's frames back to: label and UDP port of the sender's
    /// worker that owns the channel.
    pub back_label: Label,
    pub back_port: u16,
    /// Since version 3; a peer that does not know it replaces the channel's earlier path.
    pub manner: Manner,
    /// The channel is open already and moves, or wants a path to stand by: it waits behind nobody. Since
    /// version 4.
    pub opened: bool,
    /// None: payloads travel as they are. Since version 6.
    pub seal: Option<Offer>,
    /// Since version 6, and always there: without it nobody can tell whose it is.
    pub proof: Option<Proof>,
}

/// What becomes of the channel's earlier path when this one is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// It is gone or given up.
    #[default]
    Replace,
    /// It carries frames until the asker releases it: make before break.
    Beside,
    /// It stays in use; this one waits until it breaks.
    Standby,
}

/// The path is held up to the far end; travels back towards the asker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    pub tx: TxId,
    /// Where the receiver of this message sends the channel's frames forward to.
    pub label: Label,
    pub port: u16,
    /// Largest payload of the whole path.
    pub max_payload: u16,
    /// Smallest free usable capacity on the path before this channel took its share.
    pub width: Bandwidth,
    /// The far end's answer to the offer of RESERVE; none if both ends have keys from before. Since
    /// version 6.
    pub seal: Option<Bytes>,
}

/// A hop cannot hold it; travels back towards the asker and frees what was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    pub tx: TxId,
    /// The peer that refused.
    pub at: PeerName,
    pub reason: Reject,
    /// Free usable capacity where room was short; zero otherwise.
    pub free: Bandwidth,
    /// In words, for the asker.
    pub detail: String,
    /// Where room was short: the neighbour at the other end of that link. A version that does not know
    /// this field means the next peer of the path.
    pub towards: Option<PeerName>,
    /// That the far end closed the channel, if that is the reason. Since version 6.
    pub proof: Option<Proof>,
}

/// Why a reservation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseCause {
    /// An end closed the channel.
    Closed,
    /// The asker gave the attempt up or moved the channel: the far end keeps its socket.
    Moved,
    /// A link or peer on the path failed: the far end keeps its socket until the channel came back.
    Broken,
    /// Nobody refreshed it.
    Expired,
}

/// Ends a reservation; travels away from the peer that sends it first, in one or both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub tx: TxId,
    pub cause: ReleaseCause,
    /// The peer that began it.
    pub at: PeerName,
    /// Since version 3: the link that failed, `at`'s end first.
    pub failed: Option<(PeerName, PeerName)>,
    /// Since version 6: in words, where a rule of `at` wants it so.
    pub why: Option<String>,
    /// That `at` closed the channel, if that is the cause. Since version 6.
    pub proof: Option<Proof>,
}

/// Everything a peer can say on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    /// The sender leaves; the text says why.
    Bye(String),
    /// The link's usable capacity at the sender's end changed (reload).
    Capacity(Bandwidth),
    Start(Start),
    Ghs {
        session: SessionId,
        body: Ghs,
    },
    /// From the leader down the branches: the forest is complete.
    Done {
        session: SessionId,
    },
    /// Branch edges of the sender's subtree, in pieces, up to the leader.
    Members {
        session: SessionId,
        edges: Vec<EdgeKey>,
        last: bool,
    },
    /// The whole tree, in pieces, down the branches. `peers` = how many the leader counted.
    Commit {
        session: SessionId,
        peers: u32,
        edges: Vec<EdgeKey>,
        last: bool,
    },
    Reserve(Reserve),
    Accept(Accept),
    Nack(Nack),
    Release(Release),
    /// The sender still wants these (2.9 rule 5).
    Refresh(Vec<TxId>),
    /// The asker's stream ended with this many frames (sequences 0 to n-1); travels along the path.
    Finish {
        tx: TxId,
        frames: u64,
        /// Since version 6.
        proof: Option<Proof>,
    },
    /// The far end knows; travels back.
    FinishAck {
        tx: TxId,
    },
    /// Since version 3: the relay `at` is about to leave, the asker should move the channel; travels
    /// towards it.
    Move {
        tx: TxId,
        at: PeerName,
    },
    Routed(Routed),
    /// Since version 4.
    Queue(Queue),
    /// Since version 2.
    Measure(Measure),
    /// Since version 3.
    Gossip(Gossip),
}

/// Type numbers on the wire. Never reused.
mod kind {
    pub(super) const HELLO: u16 = 1;
    pub(super) const BYE: u16 = 2;
    pub(super) const CAPACITY: u16 = 3;
    pub(super) const START: u16 = 16;
    pub(super) const GHS_CONNECT: u16 = 17;
    pub(super) const GHS_INITIATE: u16 = 18;
    pub(super) const GHS_TEST: u16 = 19;
    pub(super) const GHS_ACCEPT: u16 = 20;
    pub(super) const GHS_REJECT: u16 = 21;
    pub(super) const GHS_REPORT: u16 = 22;
    pub(super) const GHS_CHANGE_ROOT: u16 = 23;
    pub(super) const DONE: u16 = 24;
    pub(super) const MEMBERS: u16 = 25;
    pub(super) const COMMIT: u16 = 26;
    pub(super) const RESERVE: u16 = 32;
    pub(super) const ACCEPT: u16 = 33;
    pub(super) const NACK: u16 = 34;
    pub(super) const RELEASE: u16 = 35;
    pub(super) const REFRESH: u16 = 36;
    pub(super) const FINISH: u16 = 37;
    pub(super) const FINISH_ACK: u16 = 38;
    pub(super) const MOVE: u16 = 39;
}

/// Tags of optional fields, per message.
mod field {
    pub(super) const HOP_TAG: u16 = 1;
    pub(super) const MANNER: u16 = 1;
    pub(super) const OPENED: u16 = 2;
    pub(super) const OFFER: u16 = 3;
    pub(super) const RESERVE_PROOF: u16 = 4;
    pub(super) const ANSWER: u16 = 1;
    pub(super) const FAILED: u16 = 1;
    pub(super) const RELEASE_PROOF: u16 = 2;
    pub(super) const TOWARDS: u16 = 1;
    pub(super) const RELEASE_WHY: u16 = 3;
    pub(super) const NACK_PROOF: u16 = 2;
    pub(super) const FINISH_PROOF: u16 = 1;
}

impl Message {
    /// Reads one message; the whole of `bytes` must be it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > limits::MESSAGE_BYTES_MAX {
            return Err(ParseError::new("message length", bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        let kind = reader.u16("message type")?;
        let message = parse_body(kind, &mut reader)?;
        reader.end()?;
        Ok(message)
    }

    pub fn emit(&self) -> Bytes {
        let mut w = Writer::new();
        match self {
            Self::Hello(hello) => emit_hello(&mut w, hello),
            Self::Bye(why) => {
                w.u16(kind::BYE);
                w.text(why);
            }
            Self::Capacity(capacity) => {
                w.u16(kind::CAPACITY);
                w.bandwidth(*capacity);
            }
            Self::Start(start) => {
                w.u16(kind::START);
                w.session(&start.session);
                w.bandwidth(start.capacity);
                w.raw(&start.initiator_key.0);
                w.raw(&start.signature);
            }
            Self::Ghs { session, body } => emit_ghs(&mut w, session, body),
            Self::Done { session } => {
                w.u16(kind::DONE);
                w.session(session);
            }
            Self::Members { session, edges, last } => {
                w.u16(kind::MEMBERS);
                w.session(session);
                w.list(edges, Writer::edge);
                w.bool(*last);
            }
            Self::Commit { session, peers, edges, last } => {
                w.u16(kind::COMMIT);
                w.session(session);
                w.u32(*peers);
                w.list(edges, Writer::edge);
                w.bool(*last);
            }
            Self::Reserve(reserve) => emit_reserve(&mut w, reserve),
            Self::Accept(accept) => emit_accept(&mut w, accept),
            Self::Nack(nack) => emit_nack(&mut w, nack),
            Self::Release(release) => emit_release(&mut w, release),
            Self::Refresh(txs) => {
                w.u16(kind::REFRESH);
                w.list(txs, Writer::tx);
            }
            Self::Finish { tx, frames, proof } => {
                w.u16(kind::FINISH);
                w.tx(tx);
                w.u64(*frames);
                emit_proof(&mut w, field::FINISH_PROOF, proof.as_ref());
            }
            Self::FinishAck { tx } => {
                w.u16(kind::FINISH_ACK);
                w.tx(tx);
            }
            Self::Move { tx, at } => {
                w.u16(kind::MOVE);
                w.tx(tx);
                w.peer(at);
            }
            Self::Routed(routed) => routed.emit(&mut w),
            Self::Queue(queue) => queue.emit(&mut w),
            Self::Measure(measure) => measure.emit(&mut w),
            Self::Gossip(gossip) => gossip.emit(&mut w),
        }
        w.finish()
    }
}

fn parse_body(kind: u16, r: &mut Reader<'_>) -> Result<Message, ParseError> {
    Ok(match kind {
        kind::HELLO => Message::Hello(parse_hello(r)?),
        kind::BYE => Message::Bye(r.text("bye")?),
        kind::CAPACITY => Message::Capacity(r.bandwidth("capacity")?),
        kind::START => Message::Start(Start {
            session: r.session("start session")?,
            capacity: r.bandwidth("start capacity")?,
            initiator_key: PublicKey(r.array("start key")?),
            signature: r.array("start signature")?,
        }),
        kind::GHS_CONNECT..=kind::GHS_CHANGE_ROOT => {
            Message::Ghs { session: r.session("session")?, body: parse_ghs(kind, r)? }
        }
        kind::DONE => Message::Done { session: r.session("session")? },
        kind::MEMBERS => Message::Members {
            session: r.session("session")?,
            edges: r.list(limits::EDGES_PER_PIECE, "members", |r| r.edge("member edge"))?,
            last: r.bool("members last")?,
        },
        kind::COMMIT => Message::Commit {
            session: r.session("session")?,
            peers: r.u32("commit peers")?,
            edges: r.list(limits::EDGES_PER_PIECE, "commit", |r| r.edge("commit edge"))?,
            last: r.bool("commit last")?,
        },
        kind::RESERVE => Message::Reserve(parse_reserve(r)?),
        kind::ACCEPT => Message::Accept(parse_accept(r)?),
        kind::NACK => Message::Nack(parse_nack(r)?),
        kind::RELEASE => Message::Release(parse_release(r)?),
        kind::REFRESH => {
            Message::Refresh(r.list(limits::REFRESH_TXS_MAX, "refresh", |r| r.tx("refresh tx"))?)
        }
        kind::FINISH => Message::Finish {
            tx: r.tx("finish tx")?,
            frames: r.u64("finish frames")?,
            proof: r.optional_field(field::FINISH_PROOF, "finish proof", Proof::parse)?,
        },
        kind::FINISH_ACK => Message::FinishAck { tx: r.tx("finish tx")? },
        kind::MOVE => Message::Move { tx: r.tx("move tx")?, at: r.peer("move peer")? },
        _ => return parse_elsewhere(kind, r),
    })
}

/// The messages that have a file of their own.
fn parse_elsewhere(kind: u16, r: &mut Reader<'_>) -> Result<Message, ParseError> {
    if let Some(routed) = Routed::parse(kind, r) {
        routed.map(Message::Routed)
    } else if let Some(queue) = Queue::parse(kind, r) {
        queue.map(Message::Queue)
    } else if let Some(measure) = Measure::parse(kind, r) {
        measure.map(Message::Measure)
    } else if let Some(gossip) = Gossip::parse(kind, r) {
        gossip.map(Message::Gossip)
    } else {
        Err(ParseError::new("message type", 0))
    }
}

fn label(r: &mut Reader<'_>, what: &'static str) -> Result<Label, ParseError> {
    match r.u64(what)? {
        0 => Err(r.error(what)),
        label => Ok(Label(label)),
    }
}

fn emit_hello(w: &mut Writer, hello: &Hello) {
    w.u16(kind::HELLO);
    w.u16(hello.versions.0);
    w.u16(hello.versions.1);
    w.peer(&hello.name);
    w.u64(hello.incarnation.0);
    w.bandwidth(hello.capacity);
    w.u16(hello.mtu);
    w.u16(hello.data_port);
    w.u8(hello.workers);
    w.u64(hello.heartbeat_label.0);
    w.raw(&hello.heartbeat_key.0);
    w.option(hello.session.as_ref(), Writer::session);
    if hello.hop_tag {
        w.optional_field(field::HOP_TAG, |_| {});
    }
}

fn parse_hello(r: &mut Reader<'_>) -> Result<Hello, ParseError> {
    Ok(Hello {
        versions: (r.u16("hello version")?, r.u16("hello version")?),
        name: r.peer("hello name")?,
        incarnation: Incarnation(r.u64("hello incarnation")?),
        capacity: r.bandwidth("hello capacity")?,
        mtu: r.u16("hello mtu")?,
        data_port: r.u16("hello data port")?,
        workers: r.u8("hello workers")?,
        heartbeat_label: label(r, "hello label")?,
        heartbeat_key: HeartbeatKey(r.array("hello heartbeat key")?),
        session: r.option("hello session", |r| r.session("hello session"))?,
        hop_tag: r.optional_field(field::HOP_TAG, "hello hop tag", |_| Ok(()))?.is_some(),
    })
}

fn emit_ghs(w: &mut Writer, session: &SessionId, body: &Ghs) {
    let head = |w: &mut Writer, kind| {
        w.u16(kind);
        w.session(session);
    };
    match body {
        Ghs::Connect { level } => {
            head(w, kind::GHS_CONNECT);
            w.u8(*level);
        }
        Ghs::Initiate { level, fragment, find } => {
            head(w, kind::GHS_INITIATE);
            w.u8(*level);
            w.edge(fragment);
            w.bool(*find);
        }
        Ghs::Test { level, fragment } => {
            head(w, kind::GHS_TEST);
            w.u8(*level);
            w.edge(fragment);
        }
        Ghs::Accept => head(w, kind::GHS_ACCEPT),
        Ghs::Reject => head(w, kind::GHS_REJECT),
        Ghs::Report { best } => {
            head(w, kind::GHS_REPORT);
            w.option(best.as_ref(), Writer::edge);
        }
        Ghs::ChangeRoot => head(w, kind::GHS_CHANGE_ROOT),
    }
}

fn parse_ghs(kind: u16, r: &mut Reader<'_>) -> Result<Ghs, ParseError> {
    let level = |r: &mut Reader<'_>| match r.u8("level")? {
        level if level <= limits::LEVEL_MAX => Ok(level),
        _ => Err(r.error("level")),
    };
    Ok(match kind {
        kind::GHS_CONNECT => Ghs::Connect { level: level(r)? },
        kind::GHS_INITIATE => {
            Ghs::Initiate { level: level(r)?, fragment: r.edge("fragment")?, find: r.bool("find")? }
        }
        kind::GHS_TEST => Ghs::Test { level: level(r)?, fragment: r.edge("fragment")? },
        kind::GHS_ACCEPT => Ghs::Accept,
        kind::GHS_REJECT => Ghs::Reject,
        kind::GHS_REPORT => Ghs::Report { best: r.option("report", |r| r.edge("report"))? },
        _ => Ghs::ChangeRoot,
    })
}

pub(super) fn emit_path(w: &mut Writer, path: &[PeerName], position: u8) {
    w.list(path, Writer::peer);
    w.u8(position);
}

/// A path of at least two different peers and the position of the receiver in it, never the first.
pub(super) fn parse_path(r: &mut Reader<'_>) -> Result<(Vec<PeerName>, u8), ParseError> {
    let path = r.list(limits::PATH_PEERS_MAX, "path", |r| r.peer("path"))?;
    let position = r.u8("path position")?;
    if position == 0 || usize::from(position) >= path.len() {
        return Err(r.error("path position"));
    }
    let mut sorted: Vec<_> = path.iter().collect();
    sorted.sort();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(r.error("path with a loop"));
    }
    Ok((path, position))
}

fn emit_reserve(w: &mut Writer, reserve: &Reserve) {
    w.u16(kind::RESERVE);
    w.tx(&reserve.tx);
    w.service(&reserve.service);
    w.service(&reserve.name);
    emit_path(w, &reserve.path, reserve.position);
    w.bandwidth(reserve.rate);
    w.bandwidth(reserve.rate_back);
    w.u64(reserve.ticket);
    w.u32(reserve.deadline_ms);
    w.u16(reserve.max_payload);
    w.u64(reserve.back_label.0);
    w.u16(reserve.back_port);
    if reserve.manner != Manner::Replace {
        w.optional_field(field::MANNER, |w| w.u8(manner_code(reserve.manner)));
    }
    if reserve.opened {
        w.optional_field(field::OPENED, |_| {});
    }
    if let Some(offer) = &reserve.seal {
        w.optional_field(field::OFFER, |w| offer.emit(w));
    }
    emit_proof(w, field::RESERVE_PROOF, reserve.proof.as_ref());
}

fn emit_proof(w: &mut Writer, tag: u16, proof: Option<&Proof>) {
    if let Some(proof) = proof {
        w.optional_field(tag, |w| proof.emit(w));
    }
}

fn parse_reserve(r: &mut Reader<'_>) -> Result<Reserve, ParseError> {
    let tx = r.tx("reserve tx")?;
    let service = r.service("reserve service")?;
    let name = r.service("reserve name")?;
    let (path, position) = parse_path(r)?;
    Ok(Reserve {
        tx,
        service,
        name,
        path,
        position,
        rate: r.bandwidth("reserve rate")?,
        rate_back: r.bandwidth("reserve rate back")?,
        ticket: r.u64("reserve ticket")?,
        deadline_ms: r.u32("reserve deadline")?,
        max_payload: r.u16("reserve payload")?,
        back_label: label(r, "reserve label")?,
        back_port: r.u16("reserve port")?,
        manner: r.optional_field(field::MANNER, "reserve manner", manner)?.unwrap_or_default(),
        opened: r.optional_field(field::OPENED, "reserve opened", |_| Ok(()))?.is_some(),
        seal: r.optional_field(field::OFFER, "reserve seal", Offer::parse)?,
        proof: r.optional_field(field::RESERVE_PROOF, "reserve proof", Proof::parse)?,
    })
}

fn parse_accept(r: &mut Reader<'_>) -> Result<Accept, ParseError> {
    Ok(Accept {
        tx: r.tx("accept tx")?,
        label: label(r, "accept label")?,
        port: r.u16("accept port")?,
        max_payload: r.u16("accept payload")?,
        width: r.bandwidth("accept width")?,
        seal: r.optional_field(field::ANSWER, "accept seal", seal_message)?,
    })
}

fn parse_nack(r: &mut Reader<'_>) -> Result<Nack, ParseError> {
    Ok(Nack {
        tx: r.tx("nack tx")?,
        at: r.peer("nack peer")?,
        reason: reject(r)?,
        free: r.bandwidth("nack free capacity")?,
        detail: r.text("nack detail")?,
        towards: r.optional_field(field::TOWARDS, "nack towards", |r| r.peer("nack towards"))?,
        proof: r.optional_field(field::NACK_PROOF, "nack proof", Proof::parse)?,
    })
}

fn parse_release(r: &mut Reader<'_>) -> Result<Release, ParseError> {
    Ok(Release {
        tx: r.tx("release tx")?,
        cause: cause(r)?,
        at: r.peer("release peer")?,
        failed: r.optional_field(field::FAILED, "release link", |r| {
            Ok((r.peer("release link")?, r.peer("release link")?))
        })?,
        proof: r.optional_field(field::RELEASE_PROOF, "release proof", Proof::parse)?,
        why: r
            .optional_field(field::RELEASE_WHY, "release reason", |r| r.text("release reason"))?,
    })
}

/// As on the wire; the first is what a message without the field means.
pub(super) fn manner_code(manner: Manner) -> u8 {
    match manner {
        Manner::Replace => 0,
        Manner::Beside => 1,
        Manner::Standby => 2,
    }
}

fn manner(r: &mut Reader<'_>) -> Result<Manner, ParseError> {
    match r.u8("reserve manner")? {
        1 => Ok(Manner::Beside),
        2 => Ok(Manner::Standby),
        _ => Err(r.error("reserve manner")),
    }
}

fn emit_release(w: &mut Writer, release: &Release) {
    w.u16(kind::RELEASE);
    w.tx(&release.tx);
    w.u8(cause_code(release.cause));
    w.peer(&release.at);
    if let Some((here, there)) = &release.failed {
        w.optional_field(field::FAILED, |w| {
            w.peer(here);
            w.peer(there);
        });
    }
    emit_proof(w, field::RELEASE_PROOF, release.proof.as_ref());
    if let Some(why) = &release.why {
        w.optional_field(field::RELEASE_WHY, |w| w.text(why));
    }
}

fn emit_accept(w: &mut Writer, accept: &Accept) {
    w.u16(kind::ACCEPT);
    w.tx(&accept.tx);
    w.u64(accept.label.0);
    w.u16(accept.port);
    w.u16(accept.max_payload);
    w.bandwidth(accept.width);
    if let Some(answer) = &accept.seal {
        w.optional_field(field::ANSWER, |w| w.raw(answer));
    }
}

fn emit_nack(w: &mut Writer, nack: &Nack) {
    w.u16(kind::NACK);
    w.tx(&nack.tx);
    w.peer(&nack.at);
    w.u8(reject_code(nack.reason));
    w.bandwidth(nack.free);
    w.text(&nack.detail);
    if let Some(towards) = &nack.towards {
        w.optional_field(field::TOWARDS, |w| w.peer(towards));
    }
    emit_proof(w, field::NACK_PROOF, nack.proof.as_ref());
}

/// Codes of the reasons on the wire: the position in [`Reject::ALL`], which only grows at its end.
fn reject_code(reason: Reject) -> u8 {
    reason as u8
}

fn reject(r: &mut Reader<'_>) -> Result<Reject, ParseError> {
    let code = usize::from(r.u8("reason")?);
    Reject::ALL.get(code).copied().ok_or_else(|| r.error("reason"))
}

fn cause_code(cause: ReleaseCause) -> u8 {
    match cause {
        ReleaseCause::Closed => 0,
        ReleaseCause::Moved => 1,
        ReleaseCause::Broken => 2,
        ReleaseCause::Expired => 3,
    }
}

fn cause(r: &mut Reader<'_>) -> Result<ReleaseCause, ParseError> {
    Ok(match r.u8("release cause")? {
        0 => ReleaseCause::Closed,
        1 => ReleaseCause::Moved,
        2 => ReleaseCause::Broken,
        3 => ReleaseCause::Expired,
        _ => return Err(r.error("release cause")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reject_codes_are_positions_in_the_closed_list() {
        for (code, reason) in Reject::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(reject_code(reason)), code);
        }
    }

    proptest! {
        /// F3: what parses is the one encoding of its value, up to skipped optional fields.
        #[test]
        fn any_bytes_parse_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::parse(&bytes) {
                let again = message.emit();
                prop_assert!(bytes.starts_with(&again));
                prop_assert_eq!(Message::parse(&again), Ok(message));
            }
        }
    }
}

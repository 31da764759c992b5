//! What a node, its engine and its configuration show, as the rows of the local interface.
//!
//! Values in, values out: nothing here asks or changes anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::api::dto::{
    self, ChannelRow, Distribution, EVENTS, EdgeRow, EventLine, FactsStatus, FitAnswer, FitReply,
    GraphLink, GraphPeer, GraphReply, LedgerRow, LedgerWorker, LimitReply, LinkRow, MeasureReply,
    MeasureTrain, MeasureWay, OpenReply, PeerRow, QueueRow, RefusedPath, ServiceRow, ShortRow,
    TreeReply, VerifyReply,
};
use crate::config::ApiSection;
use crate::daemon::actions::ChannelHere;
use crate::limits;
use crate::proto::graph::{Counters, Refusal};
use crate::proto::measure::{Limit, Point};
use crate::proto::view::{
    ChannelView, GraphLinkView, GraphPeerView, GraphView, LinkView, PeerView, TreeView, WaitingView,
};
use crate::proto::{
    Collected, Event, Fit, Limit as WidthLimit, Measured, MeasuredWay, Opened, Purpose, Refused,
    Rejection, Side,
};
use crate::sim::check;
use crate::stats::histogram::Reading;
use crate::stats::{Books, ChannelStats, DropReason, WorkerStats};
use crate::types::{Bandwidth, ChannelId, EdgeKey, PeerName, Reject, Time};
use crate::wire::control::ServiceInfo;
use crate::wire::course::{Course, Step};
use crate::wire::frame;
use crate::wire::queue::{Scarce, Shortage};

/// Datagrams that payload rates are told for: seven MPEG-TS packets, and a small one.
const PAYLOAD_LARGE: u64 = 1_316;
const PAYLOAD_SMALL: u64 = 200;

pub(crate) fn peer_row(view: PeerView) -> PeerRow {
    PeerRow {
        name: view.name,
        state: view.state.as_str().to_owned(),
        next_hop: view.next_hop,
        distance: view.distance,
    }
}

/// What the node knows of it.
pub(crate) fn link_row(view: LinkView) -> LinkRow {
    LinkRow {
        peer: view.peer,
        state: view.state.as_str().to_owned(),
        capacity_bps: view.capacity,
        free_out_bps: view.free_out,
        free_in_bps: view.free_in,
        tree: view.tree,
        rtt_us: None,
        heard_ms: None,
        address: None,
        connection: None,
        last_failure: None,
        hop_tag: false,
        paced_ms: 0,
        by_trust: false,
    }
}

pub(crate) fn tree_reply(view: TreeView) -> TreeReply {
    TreeReply {
        session: view.session.map(|session| session.to_string()),
        complete: view.complete,
        edges: view.edges.into_iter().map(edge_row).collect(),
        parent: view.parent,
        next_hops: view.next_hops.into_iter().collect(),
    }
}

/// How the computation of the last session goes.
pub(crate) fn computation((course, since): &(Course, Time), now: Time) -> dto::Computation {
    let last = course.steps.last();
    dto::Computation {
        session: course.session.to_string(),
        running: !course.complete,
        level: last.map_or(0, |step| step.level),
        fragment: last.and_then(|step| step.fragment.as_ref()).map(ends),
        since_ms: millis(now.since(*since)),
    }
}

/// What each peer did; nothing of those that answered and cannot tell.
pub(crate) fn courses(collected: Collected) -> BTreeMap<PeerName, dto::Course> {
    let mut courses: BTreeMap<_, _> =
        collected.peers.into_iter().map(|(peer, _)| (peer, course(None))).collect();
    let told = collected.courses.into_iter();
    courses.extend(told.map(|(peer, steps)| (peer, course(Some(steps)))));
    courses
}

pub(crate) fn course(course: Option<Course>) -> dto::Course {
    let Some(course) = course else { return dto::Course::default() };
    let step = |step: Step| dto::CourseStep {
        at_us: step.at_us,
        what: step.what.as_str().to_owned(),
        level: step.level,
        fragment: step.fragment.as_ref().map(ends),
        neighbour: step.neighbour,
    };
    dto::Course {
        session: Some(course.session.to_string()),
        complete: course.complete,
        steps: course.steps.into_iter().map(step).collect(),
    }
}

fn ends(edge: &EdgeKey) -> [PeerName; 2] {
    [edge.lower.clone(), edge.higher.clone()]
}

pub(crate) fn graph_reply(view: GraphView) -> GraphReply {
    let peer = |peer: GraphPeerView| GraphPeer {
        name: peer.name,
        age_ms: millis(peer.age),
        leaving: peer.leaving,
        egress_bps: peer.egress,
        ingress_bps: peer.ingress,
    };
    let link = |link: GraphLinkView| GraphLink {
        a: link.lower,
        b: link.higher,
        capacity_bps: link.capacity,
        free_ab_bps: link.free_up,
        free_ba_bps: link.free_down,
        max_payload_bytes: link.max_payload,
        tree: link.tree,
        age_ms: millis(link.age),
    };
    GraphReply {
        digest: format!("{:016x}", view.digest),
        version: view.version,
        peers: view.peers.into_iter().map(peer).collect(),
        links: view.links.into_iter().map(link).collect(),
    }
}

pub(crate) fn facts_status(counters: &Counters) -> FactsStatus {
    let refused = Refusal::ALL.map(|reason| (reason.as_str().to_owned(), counters.refused(reason)));
    FactsStatus {
        applied: counters.applied,
        duplicates: counters.duplicates,
        refused: refused.into_iter().filter(|(_, count)| *count > 0).collect(),
        told: counters.told,
        retold: counters.retold,
        messages: counters.messages,
        facts: counters.facts,
        differed: counters.differed,
        summaries: counters.summaries,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn verify_reply(found: check::Differences) -> VerifyReply {
    VerifyReply {
        correct: found.correct(),
        peers: found.peers,
        links: found.links,
        missing: found.missing.into_iter().map(edge_row).collect(),
        surplus: found.surplus.into_iter().map(edge_row).collect(),
        contradictions: found.contradictions,
    }
}

pub(crate) fn service_row(info: ServiceInfo) -> ServiceRow {
    ServiceRow { name: info.name, source: info.source, busy: info.busy }
}

/// What the daemon adds to a channel's view: its counters and, at an end, its local addresses.
pub(crate) struct Here<'a> {
    pub(crate) channel: Option<&'a ChannelHere>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) deliver: Option<SocketAddr>,
    pub(crate) offered: Option<Bandwidth>,
    pub(crate) promised: Option<Bandwidth>,
    pub(crate) shape: bool,
    pub(crate) keep: bool,
    /// Address of the first neighbour on the path: IPv4 and IPv6 frames differ in size.
    pub(crate) neighbour: Option<IpAddr>,
}

pub(crate) fn channel_row(view: ChannelView, here: &Here<'_>) -> ChannelRow {
    let books = here.channel.map(ChannelHere::books).unwrap_or_default();
    let end = |counter: fn(&ChannelStats) -> u64| here.channel.map_or(0, |of| counter(&of.stats));
    ChannelRow {
        id: view.id.to_string(),
        name: view.name,
        peer: view.peer,
        service: view.service,
        role: channel_role(view.side).to_owned(),
        state: view.state.as_str().to_owned(),
        path: view.path,
        standby: view.standby,
        second: view.second,
        bandwidth_bps: view.rate,
        bandwidth_back_bps: view.rate_back,
        payload_bps: payload_rate(view.rate, PAYLOAD_LARGE, here.neighbour),
        max_payload_bytes: view.max_payload,
        listen: here.listen,
        deliver: here.deliver,
        tx_frames: books.sent,
        rx_frames: if view.side.is_some() { books.delivered } else { books.received },
        entered_bytes: end(|stats| load(&stats.bytes_in)),
        delivered_bytes: end(|stats| load(&stats.bytes_out)),
        lost_frames: end(lost_frames),
        dropped: drops(books.dropped),
        offered_bps: here.offered,
        entry_bps: here.promised,
        shape: here.shape,
        keep: here.keep,
        sealed: view.sealed.is_some(),
        peer_key: view.sealed.map(|key| key.fingerprint()),
    }
}

/// By the sequences of those that the other end sent; what was no frame of it is not among them.
fn lost_frames(stats: &ChannelStats) -> u64 {
    let forged = [DropReason::BadSeal, DropReason::Replayed, DropReason::Early];
    let forged: u64 = forged.map(|reason| stats.dropped(reason)).iter().sum();
    let came = load(&stats.received).saturating_sub(forged);
    load(&stats.next_sequence).saturating_sub(came)
}

/// What a peer is to a channel.
pub(crate) fn channel_role(side: Option<Side>) -> &'static str {
    match side {
        Some(Side::Source) => "source",
        Some(Side::Service) => "service",
        None => "relay",
    }
}

pub(crate) fn open_reply(
    opened: Opened,
    rate: Bandwidth,
    listen: Option<SocketAddr>,
    neighbour: Option<IpAddr>,
) -> OpenReply {
    OpenReply {
        outcome: "open".to_owned(),
        reason: None,
        detail: String::new(),
        channel: Some(opened.channel.to_string()),
        path: opened.path,
        width_bps: opened.width,
        max_payload_bytes: opened.max_payload,
        sealed: opened.sealed.is_some(),
        peer_key: opened.sealed.map(|key| key.fingerprint()),
        listen,
        payload_1316_bps: payload_rate(rate, PAYLOAD_LARGE, neighbour),
        payload_200_bps: payload_rate(rate, PAYLOAD_SMALL, neighbour),
        refused: refused_paths(opened.explanation.refused),
        waited_ms: opened.explanation.waited.map(millis),
        limit: opened.explanation.limit.map(limit_reply),
    }
}

pub(crate) fn queue_row(view: WaitingView) -> QueueRow {
    QueueRow {
        id: view.id.to_string(),
        name: view.name,
        peer: view.peer,
        service: view.service,
        bandwidth_bps: view.rate,
        bandwidth_back_bps: view.rate_back,
        path: view.path,
        position: view.position,
        waited_ms: millis(view.waited),
        left_ms: millis(view.left),
        short: view.short.into_iter().map(short_row).collect(),
    }
}

fn short_row(short: Shortage) -> ShortRow {
    let Shortage { at, of, asked, free, ahead, before, holders } = short;
    let (towards, budget) = match of {
        Scarce::Link(peer) => (Some(peer), None),
        Scarce::Host(way) => (None, Some(way.to_string())),
    };
    ShortRow {
        at,
        towards,
        budget,
        asked_bps: asked,
        free_bps: free,
        ahead,
        before: before.map(|channel| channel.to_string()),
        holders: holders.iter().map(ChannelId::to_string).collect(),
    }
}

fn refused_paths(refused: Vec<Refused>) -> Vec<RefusedPath> {
    refused.into_iter().map(|Refused { path, why }| RefusedPath { path, why }).collect()
}

fn limit_reply(limit: WidthLimit) -> LimitReply {
    let WidthLimit { width, link: (near, far), session } = limit;
    LimitReply { width_bps: width, link: [near, far], session: session.to_string() }
}

/// Now or later.
pub(crate) fn fit_reply(fit: Fit) -> FitReply {
    let Fit { fits, path, narrow, limit } = fit;
    let (answer, detail) = match fits {
        true => (FitAnswer::Now, String::new()),
        false => (FitAnswer::Later, "other channels have the room now".to_owned()),
    };
    let free = narrow.as_ref().map_or(Bandwidth::ZERO, |narrow| narrow.free);
    let free_back = narrow.as_ref().map_or(Bandwidth::ZERO, |narrow| narrow.free_back);
    let bottleneck = narrow.map(|narrow| [narrow.by_free.0, narrow.by_free.1]);
    FitReply {
        answer,
        detail,
        path,
        free_bps: free,
        free_back_bps: free_back,
        bottleneck,
        limit: limit.map(limit_reply),
    }
}

/// Never, if that is what the rejection says.
pub(crate) fn never_reply(rejection: &Rejection) -> Option<FitReply> {
    (rejection.reason == Reject::Never).then(|| FitReply {
        answer: FitAnswer::Never,
        detail: rejection.detail.clone(),
        path: Vec::new(),
        free_bps: Bandwidth::ZERO,
        free_back_bps: Bandwidth::ZERO,
        bottleneck: None,
        limit: rejection.explanation.limit.clone().map(limit_reply),
    })
}

pub(crate) fn rejected_reply(rejection: Rejection) -> OpenReply {
    OpenReply {
        outcome: "rejected".to_owned(),
        reason: Some(rejection.reason),
        detail: rejection.detail,
        channel: None,
        path: Vec::new(),
        width_bps: Bandwidth::ZERO,
        max_payload_bytes: 0,
        sealed: false,
        peer_key: None,
        listen: None,
        payload_1316_bps: Bandwidth::ZERO,
        payload_200_bps: Bandwidth::ZERO,
        refused: refused_paths(rejection.explanation.refused),
        waited_ms: rejection.explanation.waited.map(millis),
        limit: rejection.explanation.limit.map(limit_reply),
    }
}

/// A histogram with the percentiles everybody prints.
pub(crate) fn distribution(reading: &Reading) -> Distribution {
    if reading.cells.is_empty() {
        return Distribution::default();
    }
    let [p50, p90, p99, p999] = reading.percentiles([50.0, 90.0, 99.0, 99.9]).map(Some);
    Distribution {
        count: reading.count(),
        min: Some(reading.least),
        p50,
        p90,
        p99,
        p999,
        max: Some(reading.most),
        buckets: reading.cells.clone(),
    }
}

pub(crate) fn measure_reply(measured: Measured) -> MeasureReply {
    let carried = [&measured.out, &measured.back].map(|way| way.best);
    let lower = carried.into_iter().min().flatten();
    let warnings = measure_warnings(&measured);
    MeasureReply {
        peer: measured.peer,
        took_ms: millis(measured.took),
        suggested_bps: lower.map(suggested).filter(|rate| *rate > Bandwidth::ZERO),
        configured_bps: measured.configured,
        max_bps: measured.max,
        reserved_out_bps: measured.reserved_out,
        reserved_back_bps: measured.reserved_back,
        rtt_p50_us: measured.rtt_p50.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        out: measure_way(measured.out),
        back: measure_way(measured.back),
        warnings,
    }
}

fn measure_way(way: MeasuredWay) -> MeasureWay {
    let train = |point: Point| MeasureTrain {
        rate_bps: point.rate,
        sent: point.sent,
        arrived: point.arrived,
        arrived_bps: point.arrived_rate,
        long: point.long,
    };
    MeasureWay {
        best_bps: way.best,
        limit: way.limit.as_str().to_owned(),
        trains: way.points.into_iter().map(train).collect(),
    }
}

fn measure_warnings(measured: &Measured) -> Vec<String> {
    let Measured { peer, configured, reserved_out, reserved_back, .. } = measured;
    let mut warnings = Vec::new();
    for (way, name) in [(&measured.out, "to"), (&measured.back, "from")] {
        match (way.best, way.limit) {
            (Some(best), Limit::Link) if best < *configured => warnings.push(format!(
                "the configuration promises more than the link carries: {configured}, but {best} \
                 {name} {peer}"
            )),
            (None, _) => warnings.push(format!("nothing that was tried was carried {name} {peer}")),
            (_, Limit::Max) => warnings.push(format!(
                "all that was tried was carried {name} {peer}: it may be more, see --max"
            )),
            (_, Limit::Time) => warnings.push(format!(
                "time was up before the rate {name} {peer} was found: take it as a guess"
            )),
            (Some(_), Limit::Link | Limit::Sender) => {}
        }
    }
    let reserved = (*reserved_out).max(*reserved_back);
    if reserved > Bandwidth::ZERO {
        warnings.push(format!(
            "channels hold up to {reserved} of this link: what they sent meanwhile is not in the \
             rates above, and they may have lost frames where the link is slower than configured"
        ));
    }
    warnings
}

/// Nine tenths, rounded down to two digits and a half: 42.5, 44.
fn suggested(carried: Bandwidth) -> Bandwidth {
    let rate = carried.bps() / 10 * 9;
    let step = std::iter::successors(Some(1_u64), |step| step.checked_mul(10));
    let step = step.take_while(|step| rate / step >= 10).last().unwrap_or(1);
    let half = (step / 2).max(1);
    Bandwidth::from_bps(rate / half * half)
}

/// The rate back where the asker named none: max(64 kbit/s, 2 %) (A11).
pub(crate) fn default_rate_back(rate: Bandwidth) -> Bandwidth {
    Bandwidth::from_bps((rate.bps() / 50).max(limits::BANDWIDTH_BACK_BPS_MIN))
}

/// An event as its name and one sentence.
pub(crate) fn event_line(at_ms: u64, event: &Event) -> EventLine {
    let (name, text) = match event {
        Event::LinkUp { peer, capacity } => ("link_up", format!("link to {peer}, {capacity}")),
        Event::LinkDown { peer, why } => ("link_down", format!("link to {peer}: {why}")),
        Event::SessionStarted { session, why } => {
            ("session_started", format!("session {session}: {why}"))
        }
        Event::SessionAdopted { session } => ("session_adopted", format!("session {session}")),
        Event::TreeCommitted { session, peers, edges } => {
            ("tree_committed", format!("session {session}: {peers} peers, {} edges", edges.len()))
        }
        Event::ChannelOpen { channel, path } => {
            ("channel_open", format!("channel {channel}: {}", in_a_row(path)))
        }
        Event::ChannelQueued { channel, path } => {
            ("channel_queued", format!("channel {channel} waits for room on {}", in_a_row(path)))
        }
        Event::ChannelMoving { channel, why } => {
            ("channel_moving", format!("channel {channel}: {why}"))
        }
        Event::ChannelTrying { channel, path, purpose } => {
            let purpose = match purpose {
                Purpose::Use => "to be used",
                Purpose::Standby => "to stand by",
            };
            ("channel_trying", format!("channel {channel}: {}, {purpose}", in_a_row(path)))
        }
        Event::ChannelMoved { channel, path, took, seamless, smaller_payload } => {
            let took = match (seamless, took.as_micros()) {
                (true, _) => "before the old path was left".to_owned(),
                (false, 0) => "at once".to_owned(),
                (false, us) => {
                    format!("after {}.{} ms without a path", us / 1_000, us % 1_000 / 100)
                }
            };
            let smaller = smaller_payload
                .map(|bytes| format!("; datagrams over {bytes} bytes no longer fit"))
                .unwrap_or_default();
            let path = in_a_row(path);
            ("channel_moved", format!("channel {channel}: now {path}, {took}{smaller}"))
        }
        Event::ChannelProtected { channel, path } => {
            ("channel_protected", format!("channel {channel}: {} stands by", in_a_row(path)))
        }
        Event::ChannelClosed { channel, reason, why } => {
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            ("channel_closed", format!("channel {channel}: {why}{reason}"))
        }
        Event::StreamFinished { channel, frames } => {
            ("stream_finished", format!("channel {channel}: {frames} frames"))
        }
        Event::Unproven { peer, channel, what, why } => {
            ("unproven", format!("{what} of channel {channel}, from {peer}: {why}"))
        }
        Event::Ignored { peer, what, why } => ("ignored", format!("{what} of {peer}: {why}")),
    };
    debug_assert!(EVENTS.contains(&name), "{name} is in no list");
    let channel = channel_of(event).map(ToString::to_string);
    EventLine { at_ms, event: name.to_owned(), text, channel, excess: None }
}

fn channel_of(event: &Event) -> Option<&ChannelId> {
    match event {
        Event::ChannelOpen { channel, .. }
        | Event::ChannelQueued { channel, .. }
        | Event::ChannelMoving { channel, .. }
        | Event::ChannelTrying { channel, .. }
        | Event::ChannelMoved { channel, .. }
        | Event::ChannelProtected { channel, .. }
        | Event::ChannelClosed { channel, .. }
        | Event::Unproven { channel, .. }
        | Event::StreamFinished { channel, .. } => Some(channel),
        Event::LinkUp { .. }
        | Event::LinkDown { .. }
        | Event::SessionStarted { .. }
        | Event::SessionAdopted { .. }
        | Event::TreeCommitted { .. }
        | Event::Ignored { .. } => None,
    }
}

fn in_a_row(path: &[PeerName]) -> String {
    let path: Vec<_> = path.iter().map(|peer| peer.as_str()).collect();
    path.join(" - ")
}

/// An event as a line of the log, its values as fields.
pub(crate) fn log_event(event: &Event) {
    match event {
        Event::LinkUp { peer, capacity } => tracing::info!(%peer, %capacity, "link up"),
        Event::LinkDown { peer, why } => tracing::info!(%peer, why, "link down"),
        Event::SessionStarted { session, why } => tracing::info!(%session, why, "session started"),
        Event::SessionAdopted { session } => tracing::info!(%session, "session adopted"),
        Event::TreeCommitted { session, peers, edges } => {
            tracing::info!(%session, peers, edges = edges.len(), "tree committed");
        }
        Event::ChannelOpen { channel, path } => tracing::info!(%channel, ?path, "channel open"),
        Event::ChannelQueued { channel, path } => {
            tracing::info!(%channel, ?path, "channel queued");
        }
        Event::ChannelMoving { channel, why } => tracing::info!(%channel, why, "channel moving"),
        Event::ChannelTrying { channel, path, purpose } => {
            tracing::info!(%channel, ?path, ?purpose, "channel tries a path");
        }
        Event::ChannelMoved { channel, path, took, seamless, smaller_payload } => {
            tracing::info!(%channel, ?path, ?took, seamless, smaller_payload, "channel moved");
        }
        Event::ChannelProtected { channel, path } => {
            tracing::info!(%channel, ?path, "channel protected");
        }
        Event::ChannelClosed { channel, reason, why } => {
            let reason = reason.map(Reject::as_str);
            tracing::info!(%channel, reason, why, "channel closed");
        }
        Event::StreamFinished { channel, frames } => {
            tracing::info!(%channel, frames, "stream finished");
        }
        // A neighbour can cause as many of these as it likes.
        Event::Unproven { peer, channel, what, why } => {
            tracing::debug!(%peer, %channel, what, why, "message refused, it is not its owner's");
        }
        Event::Ignored { peer, what, why } => tracing::debug!(%peer, what, why, "message ignored"),
    }
}

pub(crate) fn ledger_row(id: &ChannelId, books: Books) -> LedgerRow {
    LedgerRow {
        id: id.to_string(),
        entered: books.entered,
        received: books.received,
        sent: books.sent,
        delivered: books.delivered,
        in_flight: books.in_flight(),
        dropped: drops(books.dropped),
    }
}

/// Where they went is read before where they came from, as [`ChannelStats::books`] does.
pub(crate) fn ledger_worker(port: u16, stats: &WorkerStats) -> LedgerWorker {
    let dropped = stats.drops();
    let (frames, heartbeats) = (load(&stats.frames), load(&stats.heartbeats_heard));
    let probes = load(&stats.probes_heard);
    std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
    let by_kernel = stats.dropped(DropReason::KernelReceive);
    // What another worker took over is in its books.
    let arrived = load(&stats.datagrams) + load(&stats.ring_in) + by_kernel;
    let gone = frames
        + heartbeats
        + probes
        + load(&stats.passed)
        + dropped.iter().map(|(_, count)| count).sum::<u64>();
    let in_flight = arrived.wrapping_sub(gone).cast_signed();
    LedgerWorker { port, arrived, frames, heartbeats, probes, dropped: drops(dropped), in_flight }
}

/// Listeners of the web API that other hosts can reach: what is said there is not encrypted.
pub(super) fn open_api(api: &ApiSection) -> Vec<String> {
    let listeners = [("listen", Some(api.listen)), ("internal", api.internal)];
    let open = listeners.into_iter().filter_map(|(key, address)| Some((key, address?)));
    open.filter(|(_, address)| !address.ip().is_loopback())
        .map(|(key, address)| {
            format!(
                "[api] {key} is {address}: other hosts can reach it, and nothing there is encrypted; listen \
                 on loopback and put a proxy with TLS in front"
            )
        })
        .collect()
}

/// What to do about a receive buffer that the kernel cut, if it did.
pub(crate) fn clipped_buffer(port: u16, granted: usize) -> Option<String> {
    let asked = limits::SOCKET_BUFFER_BYTES;
    (granted < asked).then(|| {
        format!(
            "port {port}: the kernel granted a receive buffer of {} KiB, {} are wanted, and drops \
             frames of short bursts: `sysctl -w net.core.rmem_max={asked}`, then restart",
            granted >> 10,
            asked >> 10
        )
    })
}

/// Drops with their names.
pub(crate) fn drops(counts: Vec<(DropReason, u64)>) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(reason, count)| (reason.as_str().to_owned(), count)).collect()
}

fn payload_rate(rate: Bandwidth, payload_bytes: u64, neighbour: Option<IpAddr>) -> Bandwidth {
    let to = neighbour.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    let overhead_bytes = frame::OVERHEAD_BYTES + frame::ip_overhead_bytes(to);
    rate.payload_rate(payload_bytes, overhead_bytes as u64)
}

fn edge_row(edge: EdgeKey) -> EdgeRow {
    EdgeRow { a: edge.lower, b: edge.higher, capacity_bps: edge.capacity }
}

fn load(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_nine_tenths_in_two_digits() {
        let rate = |bps| suggested(Bandwidth::from_bps(bps)).to_string();
        assert_eq!(rate(49_300_000), "44 Mbit/s");
        assert_eq!(rate(1_000_000_000), "900 Mbit/s");
        assert_eq!(rate(47_550_000), "42.5 Mbit/s");
        assert_eq!(rate(7), "0 bit/s");
        assert_eq!(rate(99_999), "89.5 kbit/s");
    }

    fn measured(best: [Option<u64>; 2], limit: Limit) -> Measured {
        let [out, back] = best.map(|best| MeasuredWay {
            best: best.map(Bandwidth::from_bps),
            limit,
            points: Vec::new(),
        });
        Measured {
            peer: "b".parse().expect("a name"),
            took: Duration::from_millis(3_210),
            max: Bandwidth::from_bps(400_000_000),
            configured: Bandwidth::from_bps(100_000_000),
            usable: Bandwidth::from_bps(95_000_000),
            reserved_out: Bandwidth::ZERO,
            reserved_back: Bandwidth::from_bps(5_000_000),
            out,
            back,
            rtt_p50: None,
        }
    }

    #[test]
    fn a_configuration_that_promises_more_than_the_link_carries_is_warned_of() {
        let reply = measure_reply(measured([Some(120_000_000), Some(50_000_000)], Limit::Link));
        assert_eq!(reply.suggested_bps, Some(Bandwidth::from_bps(45_000_000)));
        let [promise, reserved] = &reply.warnings[..] else { panic!("{:?}", reply.warnings) };
        assert!(promise.contains("100 Mbit/s, but 50 Mbit/s from b"), "{promise}");
        assert!(reserved.contains("5 Mbit/s"), "{reserved}");
    }

    #[test]
    fn a_way_without_a_rate_leaves_nothing_to_suggest() {
        let reply = measure_reply(measured([Some(120_000_000), None], Limit::Link));
        assert_eq!(reply.suggested_bps, None);
        assert!(reply.warnings[0].contains("from b"), "{:?}", reply.warnings);
    }

    #[test]
    fn a11_the_rate_back_is_two_percent_and_at_least_64_kbit() {
        let back = |bps| default_rate_back(Bandwidth::from_bps(bps)).bps();
        assert_eq!(back(20_000_000), 400_000);
        assert_eq!(back(1_000), 64_000);
    }

    #[test]
    fn a_receive_buffer_that_was_cut_names_the_sysctl() {
        assert_eq!(clipped_buffer(7_000, limits::SOCKET_BUFFER_BYTES), None);
        let text = clipped_buffer(7_000, 212_992).expect("it is small");
        assert!(text.contains("208 KiB, 4096 are wanted"), "{text}");
        assert!(text.contains("net.core.rmem_max=4194304"), "{text}");
    }

    #[test]
    fn the_payload_rate_counts_header_tag_udp_and_ip() {
        let rate = Bandwidth::from_bps(1_000_000);
        let v4 = payload_rate(rate, 1_316, None).bps();
        assert_eq!(v4, 1_000_000 * 1_316 / (1_316 + 48 + 16 + 8 + 20));
        let v6 = payload_rate(rate, 200, "::1".parse().ok()).bps();
        assert_eq!(v6, 1_000_000 * 200 / (200 + 48 + 16 + 8 + 40));
    }
}

//! What Prometheus reads: the daemon's counters by the names and units of its conventions.
//!
//! Pure but for [`process`]: answers of the daemon in, text out. Base units (seconds, bytes); counters never
//! fall while the daemon runs, frames of channels that have ended are in them; no label names a channel.
//! `docs/reference/metrics.md` is made from this file's table, dashboard and alerts are held against it.

use std::collections::BTreeMap;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};

use crate::api::dto::{
    BudgetStatus, Distribution, LinkRow, RelayTimes, StatisticsReply, StatusReply,
};
use crate::limits;
use crate::stats::DropReason;

/// All that is read for one text.
#[derive(Debug)]
pub struct Snapshot {
    pub status: StatusReply,
    pub links: Vec<LinkRow>,
    pub statistics: StatisticsReply,
    pub times: RelayTimes,
    pub process: Process,
}

/// Of this process, as the kernel counts it; missing where /proc cannot be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    pub resident_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub cpu_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Every metric: name, kind, and what it says.
pub const METRICS: &[(&str, Kind, &str)] = &[
    ("spanway_build_info", Kind::Gauge, "Version of the daemon; always 1."),
    (
        "spanway_backend_info",
        Kind::Gauge,
        "Back end of the workers and runtime of the control lane; always 1.",
    ),
    ("spanway_uptime_seconds", Kind::Gauge, "Time since the daemon started."),
    ("spanway_warnings", Kind::Gauge, "Lines that `spanway status` warns with."),
    (
        "spanway_frames_total",
        Kind::Counter,
        "Frames of channels by what became of them: entered from local programs, received from neighbours, sent to neighbours, delivered to local programs.",
    ),
    (
        "spanway_payload_bytes_total",
        Kind::Counter,
        "Payload that entered or was delivered at ends here.",
    ),
    ("spanway_dropped_frames_total", Kind::Counter, "Frames dropped, by reason."),
    (
        "spanway_worker_datagrams_total",
        Kind::Counter,
        "Datagrams that a worker received, by its UDP port.",
    ),
    ("spanway_worker_batches_total", Kind::Counter, "Portions in which it received them."),
    (
        "spanway_lane_inside_seconds",
        Kind::Histogram,
        "Time inside this peer, by lane: frames sampled, messages all. The sum is an upper estimate.",
    ),
    (
        "spanway_hop_inside_seconds",
        Kind::Histogram,
        "The data lane by the neighbour that frames came from, of the first 64 neighbours by name. The sum is an upper estimate.",
    ),
    ("spanway_links", Kind::Gauge, "Configured links by state."),
    (
        "spanway_link_capacity_bytes_per_second",
        Kind::Gauge,
        "What channels may have of a link, each way.",
    ),
    ("spanway_link_reserved_bytes_per_second", Kind::Gauge, "What they have, by direction."),
    ("spanway_link_round_trip_seconds", Kind::Gauge, "Last round trip of a heartbeat."),
    (
        "spanway_host_usable_bytes_per_second",
        Kind::Gauge,
        "What channels may have of a budget of the host.",
    ),
    ("spanway_host_reserved_bytes_per_second", Kind::Gauge, "What they have of it."),
    ("spanway_peers", Kind::Gauge, "Peers that this one knows, itself included."),
    (
        "spanway_tree_complete",
        Kind::Gauge,
        "1 if the spanning tree in use is of the newest session.",
    ),
    ("spanway_sessions_total", Kind::Counter, "Tree computations, by what this peer did in them."),
    (
        "spanway_session_alarms_total",
        Kind::Counter,
        "Sessions that were not over in time, and trees that were wrong: 0 if all is well.",
    ),
    ("spanway_channels", Kind::Gauge, "Channels that end here or cross this peer, by its role."),
    (
        "spanway_admission_answers_total",
        Kind::Counter,
        "Answers to requests of this peer, by result and reason.",
    ),
    (
        "spanway_admission_queued_total",
        Kind::Counter,
        "Requests of this peer that had to stand in line.",
    ),
    (
        "spanway_unproven_messages_total",
        Kind::Counter,
        "Messages about channels that were refused because their owner did not sign them.",
    ),
    ("spanway_admission_queue_length", Kind::Gauge, "Requests of this peer that stand in line."),
    (
        "spanway_admission_wait_seconds",
        Kind::Histogram,
        "How long those stood in line that were opened. The sum is an upper estimate.",
    ),
    (
        "spanway_forbidden_requests_total",
        Kind::Counter,
        "Requests of other peers that [[allow]] refused, by the limit.",
    ),
    (
        "spanway_reroutes_total",
        Kind::Counter,
        "Channels that end here and took another path, or found none (broken), by kind.",
    ),
    (
        "spanway_reroute_gap_seconds",
        Kind::Histogram,
        "Time without a path of those that moved. The sum is an upper estimate.",
    ),
    (
        "spanway_handshakes_total",
        Kind::Counter,
        "Connections that others made to this peer, by result: accepted, failed, or refused because there were too many.",
    ),
    ("spanway_control_messages_total", Kind::Counter, "Control messages by direction and kind."),
    ("process_resident_memory_bytes", Kind::Gauge, "Memory of the process."),
    ("process_open_fds", Kind::Gauge, "Open files of the process."),
    ("process_cpu_seconds_total", Kind::Counter, "CPU time of the process."),
];

/// Bounds of latency buckets: 1 us to 4 s, each twice the one before.
const SECONDS: usize = 23;

/// Units in a second.
const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;
const MILLIS: u64 = 1_000;

type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text, in the exposition format 0.0.4.
pub fn text(of: &Snapshot) -> Result<String, prometheus::Error> {
    let mut families = Families::default();
    daemon(of, &mut families);
    frames(of, &mut families);
    times(&of.times, &mut families);
    links(&of.links, &mut families);
    overlay(of, &mut families);
    admission(&of.statistics, &mut families);
    process(of.process, &mut families);
    families.text()
}

fn daemon(of: &Snapshot, to: &mut Families) {
    let status = &of.status;
    to.set("spanway_build_info", &[("version", &status.version)], 1.0);
    let labels = [("backend", &*status.backend), ("runtime", &*status.runtime)];
    to.set("spanway_backend_info", &labels, 1.0);
    to.set("spanway_uptime_seconds", &[], status.uptime_ms as f64 / 1e3);
    to.set("spanway_warnings", &[], status.warnings.len() as f64);
    for (result, count) in &status.control.handshakes {
        to.set("spanway_handshakes_total", &[("result", result)], *count as f64);
    }
    for worker in &status.workers {
        let port = worker.port.to_string();
        to.set("spanway_worker_datagrams_total", &[("worker", &port)], worker.datagrams as f64);
        to.set("spanway_worker_batches_total", &[("worker", &port)], worker.batches as f64);
    }
    for (direction, budget) in [("egress", &status.egress), ("ingress", &status.ingress)] {
        if let Some(BudgetStatus { usable_bps, free_bps }) = budget {
            let reserved = usable_bps.bps().saturating_sub(free_bps.bps());
            let labels = [("direction", direction)];
            to.set("spanway_host_usable_bytes_per_second", &labels, bytes(usable_bps.bps()));
            to.set("spanway_host_reserved_bytes_per_second", &labels, bytes(reserved));
        }
    }
}

fn frames(of: &Snapshot, to: &mut Families) {
    let frames = &of.statistics.frames;
    for (what, count) in [
        ("entered", frames.entered),
        ("received", frames.received),
        ("sent", frames.sent),
        ("delivered", frames.delivered),
    ] {
        to.set("spanway_frames_total", &[("what", what)], count as f64);
    }
    for (what, count) in [("entered", frames.entered_bytes), ("delivered", frames.delivered_bytes)]
    {
        to.set("spanway_payload_bytes_total", &[("what", what)], count as f64);
    }
    // Those that never happened too: an alert can tell 0 from missing.
    for reason in DropReason::ALL {
        let count = frames.dropped.get(reason.as_str()).copied().unwrap_or_default();
        to.set("spanway_dropped_frames_total", &[("reason", reason.as_str())], count as f64);
    }
}

fn times(of: &RelayTimes, to: &mut Families) {
    for lane in &of.lanes {
        let labels = [("lane", &*lane.lane)];
        to.histogram("spanway_lane_inside_seconds", &labels, &lane.inside_ns, NANOS);
    }
    for hop in of.hops.iter().take(limits::METRICS_HOPS_MAX) {
        let labels = [("from", hop.from.as_str())];
        to.histogram("spanway_hop_inside_seconds", &labels, &hop.inside_ns, NANOS);
    }
}

fn links(of: &[LinkRow], to: &mut Families) {
    for state in ["down", "greeting", "up"] {
        let count = of.iter().filter(|link| link.state == state).count();
        to.set("spanway_links", &[("state", state)], count as f64);
    }
    for link in of {
        let peer = link.peer.as_str();
        let capacity = link.capacity_bps.bps();
        to.set("spanway_link_capacity_bytes_per_second", &[("peer", peer)], bytes(capacity));
        for (direction, free) in [("out", link.free_out_bps), ("in", link.free_in_bps)] {
            let reserved = bytes(capacity.saturating_sub(free.bps()));
            let labels = [("peer", peer), ("direction", direction)];
            to.set("spanway_link_reserved_bytes_per_second", &labels, reserved);
        }
        if let Some(rtt_us) = link.rtt_us {
            to.set("spanway_link_round_trip_seconds", &[("peer", peer)], rtt_us as f64 / 1e6);
        }
    }
}

fn overlay(of: &Snapshot, to: &mut Families) {
    let complete = of.status.session.is_some() && of.status.tree_complete;
    to.set("spanway_peers", &[], of.status.peers as f64);
    to.set("spanway_tree_complete", &[], f64::from(u8::from(complete)));
    let sessions = &of.statistics.sessions;
    for (what, count) in [
        ("started", sessions.started),
        ("adopted", sessions.adopted),
        ("committed", sessions.committed),
    ] {
        to.set("spanway_sessions_total", &[("what", what)], count as f64);
    }
    let alarms = sessions.watchdog + sessions.alarms;
    to.set("spanway_session_alarms_total", &[], alarms as f64);
    let statistics = &of.statistics;
    for (direction, kinds) in
        [("received", &statistics.messages_received), ("sent", &statistics.messages_sent)]
    {
        for (kind, count) in kinds {
            let labels = [("direction", direction), ("kind", kind)];
            to.set("spanway_control_messages_total", &labels, *count as f64);
        }
    }
}

fn admission(of: &StatisticsReply, to: &mut Families) {
    for (role, count) in &of.channels {
        to.set("spanway_channels", &[("role", role)], *count as f64);
    }
    let answers = &of.answers;
    let open = [("result", "open"), ("reason", "")];
    to.set("spanway_admission_answers_total", &open, answers.open as f64);
    for (reason, count) in &answers.rejected {
        let labels = [("result", "rejected"), ("reason", reason.as_str())];
        to.set("spanway_admission_answers_total", &labels, *count as f64);
    }
    to.set("spanway_admission_queued_total", &[], answers.queued as f64);
    to.set("spanway_unproven_messages_total", &[], of.unproven as f64);
    to.set("spanway_admission_queue_length", &[], of.waiting as f64);
    to.histogram("spanway_admission_wait_seconds", &[], &answers.waited_ms, MILLIS);
    for (limit, count) in &of.forbidden {
        to.set("spanway_forbidden_requests_total", &[("limit", limit)], *count as f64);
    }
    let recoveries = &of.recoveries;
    for (kind, count) in [
        ("moved", recoveries.moved - recoveries.protected.min(recoveries.moved)),
        ("protected", recoveries.protected),
        ("seamless", recoveries.seamless),
        ("broken", recoveries.broken),
    ] {
        to.set("spanway_reroutes_total", &[("kind", kind)], count as f64);
    }
    to.histogram("spanway_reroute_gap_seconds", &[], &recoveries.gap_us, MICROS);
}

fn process(of: Process, to: &mut Families) {
    let values = [
        ("process_resident_memory_bytes", of.resident_bytes.map(|bytes| bytes as f64)),
        ("process_open_fds", of.open_files.map(|files| files as f64)),
        ("process_cpu_seconds_total", of.cpu_seconds),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            to.set(name, &[], value);
        }
    }
}

fn bytes(bps: u64) -> f64 {
    bps as f64 / 8.0
}

/// The metrics of one text, by name.
#[derive(Default)]
struct Families(BTreeMap<&'static str, Vec<Metric>>);

impl Families {
    /// The value of a counter or gauge.
    fn set(&mut self, name: &'static str, labels: Labels<'_>, value: f64) {
        let mut metric = labelled(labels);
        if kind_of(name) == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.entry(name).or_default().push(metric);
    }

    /// A histogram whose values have this many in a second.
    fn histogram(&mut self, name: &'static str, labels: Labels<'_>, of: &Distribution, unit: u64) {
        let mut buckets = Vec::with_capacity(SECONDS);
        for power in 0..SECONDS {
            let bound_us = 1_u64 << power;
            let bound = u128::from(bound_us) * u128::from(unit);
            let fits = |most: u64| u128::from(most) * u128::from(MICROS) <= bound;
            let below = of.buckets.iter().filter(|(most, _)| fits(*most));
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound_us as f64 / 1e6);
            bucket.set_cumulative_count(below.map(|(_, count)| count).sum());
            buckets.push(bucket);
        }
        let sum: f64 = of.buckets.iter().map(|(most, count)| *most as f64 * *count as f64).sum();
        let mut histogram = Histogram::default();
        histogram.set_sample_count(of.buckets.iter().map(|(_, count)| count).sum());
        histogram.set_sample_sum(sum / unit as f64);
        histogram.set_bucket(buckets);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.0.entry(name).or_default().push(metric);
    }

    fn text(self) -> Result<String, prometheus::Error> {
        let mut values = self.0;
        let families = METRICS.iter().filter_map(|(name, kind, help)| {
            let metrics = values.remove(name)?;
            let mut family = MetricFamily::default();
            family.set_name((*name).to_owned());
            family.set_help((*help).to_owned());
            family.set_field_type(match kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            family.set_metric(metrics);
            Some(family)
        });
        let families: Vec<MetricFamily> = families.collect();
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn kind_of(name: &str) -> Kind {
    let known = METRICS.iter().find(|(known, ..)| *known == name);
    known.map(|(_, kind, _)| *kind).expect("metrics stand in the table")
}

fn labelled(labels: Labels<'_>) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut metric = Metric::default();
    metric.set_label(labels.iter().map(pair).collect());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_in_base_units_and_ends_with_all() {
        let seen = Distribution {
            count: 6,
            buckets: vec![(900, 1), (2_000, 2), (9_000_000_000, 3)],
            ..Distribution::default()
        };
        let mut families = Families::default();
        families.histogram("spanway_lane_inside_seconds", &[("lane", "data")], &seen, NANOS);
        let text = families.text().expect("text");
        let value = |line: &str| {
            let found = text.lines().find_map(|one| one.strip_prefix(line));
            found.unwrap_or_else(|| panic!("no {line} in {text}")).trim().to_owned()
        };
        let bucket = "spanway_lane_inside_seconds_bucket";
        assert_eq!(value(&format!("{bucket}{{lane=\"data\",le=\"0.000001\"}}")), "1");
        assert_eq!(value(&format!("{bucket}{{lane=\"data\",le=\"0.000002\"}}")), "3");
        assert_eq!(value(&format!("{bucket}{{lane=\"data\",le=\"+Inf\"}}")), "6");
        assert_eq!(value("spanway_lane_inside_seconds_count{lane=\"data\"}"), "6");
        assert!(value("spanway_lane_inside_seconds_sum{lane=\"data\"}").starts_with("27.0000"));
    }

    #[test]
    fn every_name_follows_the_conventions() {
        for (name, kind, help) in METRICS {
            let total = name.ends_with("_total");
            assert_eq!(total, *kind == Kind::Counter, "{name}");
            assert!(name.starts_with("spanway_") || name.starts_with("process_"), "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
            for unit in ["ms", "us", "ns", "bits", "bps"] {
                assert!(name.split('_').all(|part| part != unit), "{name} is not in base units");
            }
        }
    }
}

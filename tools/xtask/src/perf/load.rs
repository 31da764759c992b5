//! One load: the sink starts, the generator sends, everything on the way empties, the sink says what
//! came. Both are `spanway-pktgen` on the harness's CPU, in the namespaces at the two ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::failure::{Failure, Outcome};
use super::net::Network;
use super::overlay::{BANDWIDTH, FRAME_BYTES, Overlay, SERVICE};
use super::plan::Scenario;
use super::process::{Interrupt, Invocation, Place, Running, Ticks, kernel_threads_cpu_ns};
use super::record::Load;

/// Generator and sink go before everything else on their CPU.
const NICE: i32 = -10;
/// How long the queues on the way may take to empty. A full receive buffer of the slowest relay takes
/// half a second.
const DRAIN_MAX: Duration = Duration::from_secs(2);
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// So often in a row the queues have to be empty: a relay holds what it took out of one for a moment.
const EMPTY_POLLS: u32 = 4;
/// Above what a load can take; ends a program that hangs.
const HANGS: Duration = Duration::from_secs(20);

/// Threads of the daemon that move frames.
const WORKERS: &str = "spanway-w";
/// Of `spanway-pktgen`: done, and done with a bad answer (less sent than asked for, nothing arrived),
/// which the numbers say better.
const ENDS_WELL: &[i32] = &[0, 3];

/// What both ends of every load of a trial have in common.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) pktgen: &'a Path,
    pub(crate) network: &'a Network,
    pub(crate) scenario: &'a Scenario,
    pub(crate) relay_cpu: u32,
    pub(crate) load_cpu: u32,
    /// Where the generator sends to, and from: one flow for all loads, as a session at the relay.
    pub(crate) to: SocketAddr,
    pub(crate) from: SocketAddr,
    pub(crate) sink: SocketAddr,
    /// In front of every payload, in hexadecimal: what the relay takes off.
    pub(crate) prefix: Option<String>,
    /// The two ends are neighbours of the relay, and frames travel in channels.
    pub(crate) overlay: Option<Overlay>,
    pub(crate) folder: &'a Path,
    pub(crate) interrupt: &'a Interrupt,
}

/// Of `gen --json`, what is needed here.
#[derive(Debug, Deserialize)]
struct Generated {
    datagrams: u64,
    elapsed_s: f64,
    per_second: f64,
}

/// Of `sink --json`.
#[derive(Debug, Deserialize)]
struct Sunk {
    totals: Totals,
    latency: Latency,
    /// From the first datagram to the last.
    elapsed_s: f64,
    /// Absent where the kernel does not say.
    kernel_drops: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Totals {
    received: u64,
    duplicated: u64,
    reordered: u64,
    corrupted: u64,
}

/// Of `gen --config --json`.
#[derive(Debug, Deserialize)]
struct PeerGenerated {
    opening: Opening,
    run_ms: f64,
    /// With one frame that opened each channel.
    sent: u64,
}

#[derive(Debug, Deserialize)]
struct Opening {
    opened: u64,
}

/// Of `sink --config --json`.
#[derive(Debug, Deserialize)]
struct PeerSunk {
    outcome: PeerOutcome,
}

#[derive(Debug, Deserialize)]
struct PeerOutcome {
    taken: PeerTaken,
}

#[derive(Debug, Deserialize)]
struct PeerTaken {
    totals: Totals,
    latency: Latency,
}

#[derive(Debug, Deserialize)]
struct Latency {
    p50_ns: f64,
    p99_ns: f64,
    p999_ns: f64,
}

impl Ends<'_> {
    /// Sends at `rate` frames per second, or without a limit, through a relay; none is the kernel.
    pub(crate) fn run(
        &self,
        relay: Option<&Running>,
        rate: Option<f64>,
        duration: Duration,
    ) -> Outcome<Load> {
        if let Some(overlay) = &self.overlay {
            return self.run_peers(overlay, relay, rate, duration);
        }
        let sink = self.start_sink(duration)?;
        let before = self.counters(relay)?;
        let generator = self.start_generator(rate, duration)?;
        let generated: Generated =
            parse("generator", &generator.finish(HANGS, ENDS_WELL, self.interrupt)?)?;
        let busy = self.counters(relay)?;
        self.drain(relay, &sink)?;
        let after = self.counters(relay)?;
        sink.terminate()?;
        let sunk: Sunk = parse("sink", &sink.finish(HANGS, ENDS_WELL, self.interrupt)?)?;
        Ok(self.load(relay, &generated, &sunk, [&before, &busy, &after]))
    }

    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 frames and nanoseconds")]
    fn load(
        &self,
        relay: Option<&Running>,
        generated: &Generated,
        sunk: &Sunk,
        [before, busy, after]: [&Counters; 3],
    ) -> Load {
        // What is still in queues when the generator ends comes later, and takes its time.
        let span = sunk.elapsed_s.max(generated.elapsed_s);
        let charged = relay.is_some() || !self.network.receivers.is_empty();
        let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns) as f64;
        let Totals { received, duplicated, reordered, corrupted } = sunk.totals;
        Load {
            sent: generated.datagrams,
            delivered: received,
            sent_rate: generated.per_second,
            delivered_rate: received as f64 / span.max(1e-9),
            duplicates: duplicated,
            reordered,
            corrupt: corrupted,
            sink_drops: sunk.kernel_drops.unwrap_or(0),
            p50_us: sunk.latency.p50_ns / 1e3,
            p99_us: sunk.latency.p99_ns / 1e3,
            p999_us: sunk.latency.p999_ns / 1e3,
            cpu_ns: (charged && received > 0).then(|| cpu_ns / received as f64),
            relay_cpu_busy: busy.relay_cpu.busy_since(before.relay_cpu),
            load_cpu_busy: busy.load_cpu.busy_since(before.load_cpu),
        }
    }

    /// The same through channels, which both ends open and close for every load.
    fn run_peers(
        &self,
        overlay: &Overlay,
        relay: Option<&Running>,
        rate: Option<f64>,
        duration: Duration,
    ) -> Outcome<Load> {
        let sink =
            format!("sink --config {} --once --verify none --json", overlay.sink().display());
        let sink = self.start(self.network.sink(), "sink", &sink)?;
        let before = self.counters(relay)?;
        let generator = format!(
            "gen --config {} --to {SERVICE} --channels {} --bandwidth {BANDWIDTH} {}",
            overlay.generator().display(),
            self.scenario.channels,
            self.shape(rate, self.scenario.size, duration)
        );
        let generator = self.start(self.network.source(), "generator", &generator)?;
        let output = generator.finish(HANGS, ENDS_WELL, self.interrupt)?;
        let generated: PeerGenerated = parse("generator", &output)?;
        let sunk: PeerSunk = parse("sink", &sink.finish(HANGS, ENDS_WELL, self.interrupt)?)?;
        let after = self.counters(relay)?;
        let (sent, elapsed_s) = (generated.sent, generated.run_ms / 1e3);
        let datagrams = sent.saturating_sub(generated.opening.opened);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 frames")]
        let per_second = datagrams as f64 / elapsed_s.max(1e-9);
        let generated = Generated { datagrams, elapsed_s, per_second };
        let PeerTaken { totals, latency } = sunk.outcome.taken;
        let sunk = Sunk { totals, latency, elapsed_s: 0.0, kernel_drops: None };
        Ok(self.load(relay, &generated, &sunk, [&before, &after, &after]))
    }

    fn start_sink(&self, duration: Duration) -> Outcome<Running> {
        // It is ended before; this only bounds it.
        let limit = duration + DRAIN_MAX + HANGS;
        let arguments = format!(
            "sink --listen {} --for {}s --verify none --json",
            self.sink,
            limit.as_secs() + 1
        );
        let mut sink = self.start(self.network.sink(), "sink", &arguments)?;
        sink.wait_for_socket(self.sink, self.interrupt)?;
        Ok(sink)
    }

    fn start_generator(&self, rate: Option<f64>, duration: Duration) -> Outcome<Running> {
        let frame = if self.scenario.channels > 0 { FRAME_BYTES } else { 0 };
        let shape = self.shape(rate, self.scenario.size + frame, duration);
        let prefix = self.prefix.as_ref().map(|prefix| format!("--prefix {prefix}"));
        let prefix = prefix.unwrap_or_default();
        let arguments = format!("gen --to {} --from {} {prefix} {shape}", self.to, self.from);
        self.start(self.network.source(), "generator", &arguments)
    }

    fn shape(&self, rate: Option<f64>, size: u32, duration: Duration) -> String {
        let Scenario { burst, gso, .. } = self.scenario;
        let rate = rate.map_or_else(|| "max".to_owned(), |rate| format!("{rate:.0}"));
        let gso = if *gso { "on" } else { "off" };
        let duration = duration.as_millis();
        format!(
            "--rate {rate} --size {size} --burst {burst} --gso {gso} --duration {duration}ms --json"
        )
    }

    fn start(&self, namespace: &str, name: &str, arguments: &str) -> Outcome<Running> {
        let place = Place { namespace: namespace.to_owned(), cpu: self.load_cpu, nice: NICE };
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        let what = Invocation { program: PathBuf::from(self.pktgen), arguments };
        place.start(&what, &self.folder.join(name))
    }

    /// Until nothing waits in any socket of the relay or the sink.
    fn drain(&self, relay: Option<&Running>, sink: &Running) -> Outcome<()> {
        let mut empty = 0;
        for _ in 0..DRAIN_MAX.as_millis() / DRAIN_POLL.as_millis() {
            self.interrupt.pause(DRAIN_POLL)?;
            let waiting = sink.waiting_bytes() + relay.map_or(0, Running::waiting_bytes);
            empty = if waiting == 0 { empty + 1 } else { 0 };
            if empty == EMPTY_POLLS {
                return Ok(());
            }
        }
        Err(Failure::new(format!("the queues are not empty {DRAIN_MAX:?} after a load")))
    }

    fn counters(&self, relay: Option<&Running>) -> Outcome<Counters> {
        // Opening and closing channels is not what a frame costs.
        let threads = if self.overlay.is_some() { WORKERS } else { "" };
        let own = relay.map_or(Ok(0), |relay| relay.cpu_ns(threads))?;
        Ok(Counters {
            cpu_ns: own + kernel_threads_cpu_ns(&self.network.receivers),
            relay_cpu: Ticks::read(self.relay_cpu)?,
            load_cpu: Ticks::read(self.load_cpu)?,
        })
    }
}

#[derive(Debug)]
struct Counters {
    cpu_ns: u64,
    relay_cpu: Ticks,
    load_cpu: Ticks,
}

fn parse<'a, T: Deserialize<'a>>(who: &str, output: &'a str) -> Outcome<T> {
    serde_json::from_str(output).map_err(Failure::of(format!("the JSON of the {who}")))
}

//! The stream of the demo: a thread that sends and a thread that receives, by the code of `send` and
//! `recv`, and a meter between them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::DemoArgs;
use super::latency::Latencies;
use super::meter::Meter;
use super::pattern::{Check, Pattern};
use super::summary::{Kill, Summary};
use super::world::{Plan, World, check_interrupt};
use crate::api::dto::{self, ChannelRow, Request};
use crate::cli::clock;
use crate::cli::open::millis;
use crate::cli::recv::{Report, Sink, receive};
use crate::cli::reorder::FIRST_SEQUENCE;
use crate::cli::screen::{CliError, Daemon};
use crate::cli::send::{Entry, Sent, close, finish, open_for_stream, rate_of, transmit};
use crate::limits;
use crate::types::{Bandwidth, PeerName, ServiceName};

/// The service of `init` that `recv` takes.
const SERVICE: &str = "inbox";
/// Payload bytes of a datagram: seven packets of an MPEG transport stream.
const PAYLOAD_BYTES: u16 = 1_316;
/// How long the receiver may take to attach.
const ATTACH_MAX: Duration = Duration::from_secs(5);

pub(super) struct Streaming {
    pub(super) entry: Entry,
    /// The path when the channel was opened.
    pub(super) path: Vec<PeerName>,
    pub(super) half: Half,
    source: Daemon,
    shared: Arc<Shared>,
    sender: JoinHandle<Result<Sent, CliError>>,
    receiver: JoinHandle<Result<Report, CliError>>,
}

/// When the stream is half over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    After(Duration),
    /// So many bytes were sent.
    Bytes(u64),
}

impl Half {
    pub(super) fn is_reached(self, streaming: &Streaming) -> bool {
        match self {
            Self::After(time) => streaming.elapsed() >= time,
            Self::Bytes(bytes) => streaming.shared.sent_bytes.load(Relaxed) >= bytes,
        }
    }
}

/// What came, up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    frames: u64,
    bytes: u64,
}

/// Between the threads.
struct Shared {
    start: Instant,
    meter: Mutex<Meter>,
    waiting: AtomicBool,
    stop: AtomicBool,
    sent_bytes: AtomicU64,
    taken_bytes: AtomicU64,
    corrupt: AtomicU64,
}

impl Shared {
    fn meter(&self) -> MutexGuard<'_, Meter> {
        // A thread that panicked left plain numbers behind.
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streaming {
    /// Attaches a receiver, opens a channel to it, starts to send.
    pub(super) fn start(args: &DemoArgs, plan: Plan, world: &World) -> Result<Self, CliError> {
        let service = ServiceName::new(SERVICE).map_err(|e| CliError::failure(e.to_string()))?;
        let (source, far) = (&world.peers[0], &world.peers[plan.destination()]);
        // Files first: a missing one should not cost the time of a stream.
        let (input, half) = open_input(args)?;
        let sink_output = open_output(args.output.as_deref())?;
        let shared = Arc::new(Shared::new());
        let receiver = {
            let (daemon, service) = (far.daemon.clone(), service.clone());
            let mut sink = DemoSink {
                shared: Arc::clone(&shared),
                check: args.input.is_none().then(Check::default),
                output: sink_output,
            };
            spawn("receiver", move || receive(&daemon, &service, &mut sink))?
        };
        let receiver = wait_until_attached(&shared, receiver)?;
        let reply = open_for_stream(
            &source.daemon,
            dto::Open {
                peer: far.name.clone(),
                service,
                bandwidth_bps: args.bandwidth,
                bandwidth_back_bps: None,
                name: None,
                listen: None,
                deliver: None,
                from: None,
                path: dto::PathChoice::default(),
                avoid: Vec::new(),
                deadline_ms: millis(limits::OPEN_DEADLINE),
                wait: false,
                protect: false,
                shape: false,
                keep: false,
                plain: false,
                idempotency_key: None,
            },
        )?;
        let entry = Entry::of(&reply, args.bandwidth, PAYLOAD_BYTES)?;
        let sender = {
            let (daemon, entry) = (source.daemon.clone(), entry.clone());
            let shared = Arc::clone(&shared);
            spawn("sender", move || send(&daemon, &entry, input, &shared))?
        };
        let source = source.daemon.clone();
        Ok(Self { entry, path: reply.path, half, source, shared, sender, receiver })
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    pub(super) fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.shared.start)
    }

    pub(super) fn is_over(&self) -> bool {
        if self.receiver.is_finished() {
            // Nobody takes frames any more, so there is no point in sending them.
            self.shared.stop.store(true, Relaxed);
        }
        self.sender.is_finished() && self.receiver.is_finished()
    }

    pub(super) fn taken(&self) -> Taken {
        let frames = self.shared.meter().arrived();
        Taken { frames, bytes: self.shared.taken_bytes.load(Relaxed) }
    }

    pub(super) fn lost_so_far(&self) -> u64 {
        self.shared.meter().lost_so_far()
    }

    /// The gap after a kill, once frames come again.
    pub(super) fn gap(&self, kill: Duration, moved_at: Duration) -> Option<Duration> {
        let meter = self.shared.meter();
        meter.has_arrived_after(moved_at).then(|| meter.gap(kill))
    }

    /// The rate of the IP packets between two readings: what the reservation counts.
    pub(super) fn rate(&self, before: &Taken, now: &Taken, time: Duration) -> Bandwidth {
        let overhead = self.entry.overhead as u64 * (now.frames - before.frames);
        rate_of(now.bytes.saturating_sub(before.bytes) + overhead, time)
    }

    /// The path the channel has now, if it has one.
    pub(super) fn current_path(&self, world: &World) -> Option<Vec<PeerName>> {
        let rows: Vec<ChannelRow> = world.peers.first()?.daemon.ask(&Request::Channels).ok()?;
        let row = rows.into_iter().find(|row| row.id == self.entry.channel)?;
        (row.state == "open").then_some(row.path)
    }

    /// Takes both threads' accounts together.
    pub(super) fn finish(
        self,
        kill: Option<Kill>,
        path_after: Vec<PeerName>,
        latencies: Latencies,
    ) -> Result<Summary, CliError> {
        let sent = join(self.sender);
        let report = join(self.receiver);
        close(&self.source, &self.entry.channel);
        let sent = sent?;
        let report = report?;
        let meter = self.shared.meter();
        let (gap, outside) = match &kill {
            Some(kill) => {
                let outside = meter.lost_outside(&report.missing, kill.at);
                (Some(meter.gap(kill.at)), outside)
            }
            None => (None, report.frames.saturating_sub(report.arrived)),
        };
        Ok(Summary {
            bandwidth: self.entry.rate,
            sent,
            hops: latencies.totals(&path_after),
            path_before: self.path,
            path_after,
            kill,
            gap,
            lost_outside: outside,
            corrupt: self.shared.corrupt.load(Relaxed),
            report,
        })
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            start: clock::now(),
            meter: Mutex::default(),
            waiting: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sent_bytes: AtomicU64::new(0),
            taken_bytes: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
        }
    }
}

fn send(
    daemon: &Daemon,
    entry: &Entry,
    mut input: Box<dyn Read + Send>,
    shared: &Shared,
) -> Result<Sent, CliError> {
    let sent = transmit(entry, &mut input, &mut |sent| {
        let sequence = FIRST_SEQUENCE + sent.frames - 1;
        shared.meter().on_sent(shared.start.elapsed(), sequence);
        shared.sent_bytes.store(sent.bytes, Relaxed);
        !shared.stop.load(Relaxed)
    });
    // What this host loses is missing at the far end, and counted there.
    let outcome = sent.and_then(|sent| finish(daemon, entry, &sent).map(|_| sent));
    if outcome.is_err() {
        // The receiver waits for an end, then; this is one.
        close(daemon, &entry.channel);
    }
    outcome
}

/// Takes the stream at the far end: into the meter, through the check, into a file.
struct DemoSink {
    shared: Arc<Shared>,
    check: Option<Check>,
    output: Option<Box<dyn Write + Send>>,
}

impl Sink for DemoSink {
    fn on_waiting(&mut self) {
        self.shared.waiting.store(true, Relaxed);
    }

    fn on_arrival(&mut self, at: Instant, sequence: u64) {
        let at = at.saturating_duration_since(self.shared.start);
        self.shared.meter().on_arrival(at, sequence);
    }

    fn on_payload(&mut self, _sequence: u64, payload: &[u8]) -> io::Result<()> {
        self.shared.taken_bytes.fetch_add(payload.len() as u64, Relaxed);
        if let Some(check) = &mut self.check {
            check.on_payload(payload);
            self.shared.corrupt.store(check.corrupt(), Relaxed);
        }
        self.output.as_mut().map_or(Ok(()), |output| output.write_all(payload))
    }

    fn on_idle(&mut self) -> io::Result<()> {
        self.output.as_mut().map_or(Ok(()), |output| output.flush())
    }
}

fn open_input(args: &DemoArgs) -> Result<(Box<dyn Read + Send>, Half), CliError> {
    let by_time = Half::After(args.duration / 2);
    match args.input.as_deref() {
        None => Ok((Box::new(Pattern::new(args.duration)), by_time)),
        Some(path) if path == Path::new("-") => Ok((Box::new(io::stdin()), by_time)),
        Some(path) => {
            let wrong = |error: io::Error| {
                CliError::failure(format!("--input {}: {error}", path.display()))
            };
            let file = File::open(path).map_err(wrong)?;
            let about = file.metadata().map_err(wrong)?;
            let half = if about.is_file() { Half::Bytes(about.len() / 2) } else { by_time };
            Ok((Box::new(BufReader::new(file)), half))
        }
    }
}

fn open_output(path: Option<&Path>) -> Result<Option<Box<dyn Write + Send>>, CliError> {
    match path {
        None => Ok(None),
        Some(path) if path == Path::new("-") => Ok(Some(Box::new(BufWriter::new(io::stdout())))),
        Some(path) => match File::create(path) {
            Ok(file) => Ok(Some(Box::new(BufWriter::new(file)))),
            Err(error) => {
                let path = PathBuf::from(path);
                Err(CliError::failure(format!("--output {}: {error}", path.display())))
            }
        },
    }
}

/// The receiver has to be there before a channel to it can be opened.
fn wait_until_attached(
    shared: &Shared,
    receiver: JoinHandle<Result<Report, CliError>>,
) -> Result<JoinHandle<Result<Report, CliError>>, CliError> {
    let start = clock::now();
    while !shared.waiting.load(Relaxed) {
        check_interrupt()?;
        if receiver.is_finished() {
            let ended = CliError::failure("the receiver ended before it began");
            return Err(join(receiver).err().unwrap_or(ended));
        }
        if start.elapsed() > ATTACH_MAX {
            return Err(CliError::failure("the receiver's daemon does not answer"));
        }
        clock::sleep(Duration::from_millis(5));
    }
    Ok(receiver)
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<JoinHandle<Result<T, CliError>>, CliError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| CliError::failure(format!("no thread for the {name}: {error}")))
}

fn join<T>(thread: JoinHandle<Result<T, CliError>>) -> Result<T, CliError> {
    let broken = |_| Err(CliError::failure("a thread of the demo broke: this is a bug of Spanway"));
    thread.join().unwrap_or_else(broken)
}

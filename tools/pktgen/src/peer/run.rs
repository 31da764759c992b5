//! The two runs of a peer: `gen` opens channels and sends, `sink` takes whatever channels come.
//!
//! Both hand out what is going on once in a while and a report at the end, which can say what in it is not
//! as it should be.

#![expect(clippy::disallowed_methods, reason = "runs last a time")]

use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use spanway::api::client::ClientError;
use spanway::api::dto::{Request, ServiceRow};
use spanway::types::{Bandwidth, PeerName, ServiceName};

use super::opens::{self, Opening, Wanted};
use super::plane::Order;
use super::{Load, Outcome, POLL, Peer, PeerError, Role, wait};
use crate::check::Verify;
use crate::documents::VERSION;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// What is still under way at the end of a run arrives within this.
const DRAIN: Duration = Duration::from_millis(300);

#[derive(Clone, Debug)]
pub struct GenOptions {
    pub config: PathBuf,
    pub peer: PeerName,
    pub service: ServiceName,
    pub channels: u64,
    pub bandwidth: Bandwidth,
    pub bandwidth_back: Option<Bandwidth>,
    pub load: Load,
    /// Requests for channels under way at the same time.
    pub at_once: usize,
    /// The channels are sealed, and every frame of them.
    pub sealed: bool,
    /// How long a path to the peer may be missing before the run is given up.
    pub patience: Duration,
}

#[derive(Clone, Debug)]
pub struct SinkOptions {
    pub config: PathBuf,
    pub verify: Verify,
    /// Ends when all channels that came have gone.
    pub once: bool,
    pub duration: Option<Duration>,
}

/// What is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub elapsed: Duration,
    pub sent: u64,
    pub unsent: u64,
    pub received: u64,
    /// Channels that end here, and those of them without a path.
    pub channels: u64,
    pub without_path: u64,
}

/// What `gen --config` did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenReport {
    pub version: u32,
    pub trial: u32,
    pub peer: String,
    pub service: String,
    pub size: String,
    pub rate_asked: String,
    pub burst: usize,
    pub gso: bool,
    /// The kernel took no runs: frames were sent one by one.
    pub gso_refused: bool,
    pub opening: Opening,
    pub run_ms: u64,
    /// Frames handed to the kernel, opening frames included.
    pub sent: u64,
    /// Frames that were due and not sent: no path, a full socket.
    pub unsent: u64,
    /// Channels whose far end knows how many frames there were.
    pub finished: u64,
    /// How often the link went down before this peer left.
    pub links_lost: u64,
    pub outcome: Outcome,
}

/// What `sink --config` found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkReport {
    pub version: u32,
    pub run_ms: u64,
    /// How often the link went down before this peer left.
    pub links_lost: u64,
    pub outcome: Outcome,
}

impl GenReport {
    /// What is wrong, in words; empty if nothing is.
    pub fn complaints(&self) -> Vec<String> {
        let source = self.outcome.source.clone().unwrap_or_default();
        let (opened, lost) = (self.opening.opened, self.links_lost);
        let all = [
            (lost > 0, format!("the link to the neighbour was lost {lost} times")),
            (source.gone > 0, format!("{} of {opened} channels were closed", source.gone)),
            (self.unsent > 0, format!("{} frames were due and not sent", self.unsent)),
            (
                self.finished < opened,
                format!("{} far ends do not know the end of their stream", opened - self.finished),
            ),
        ];
        all.into_iter().filter_map(|(is, text)| is.then_some(text)).collect()
    }
}

impl SinkReport {
    /// What is wrong, in words; empty if nothing is.
    pub fn complaints(&self) -> Vec<String> {
        let taken = self.outcome.taken.clone().unwrap_or_default();
        let counts = [
            (taken.lost, "frames are missing"),
            (taken.totals.duplicated, "frames came twice"),
            (taken.totals.reordered, "frames came out of order"),
            (taken.totals.corrupted, "frames were damaged"),
            (taken.totals.foreign, "frames are not of a generator"),
            (taken.unfinished, "channels ended without saying how many frames they had"),
            (self.links_lost, "times the link to the neighbour was lost"),
        ];
        let wrong = counts.into_iter().filter(|(count, _)| *count > 0);
        wrong.map(|(count, what)| format!("{count} {what}")).collect()
    }
}

/// Opens the channels, sends for the time that was asked for, says how much it was, and leaves.
pub fn generate(
    options: &GenOptions,
    tell: &mut dyn FnMut(&Progress),
) -> Result<GenReport, PeerError> {
    let mut peer = Peer::start(&options.config, Role::Source(options.load.clone()))?;
    await_path(&mut peer, options)?;
    let wanted = Wanted {
        peer: options.peer.clone(),
        service: options.service.clone(),
        rate: options.bandwidth,
        rate_back: options.bandwidth_back,
        channels: options.channels,
        at_once: options.at_once,
        sealed: options.sealed,
    };
    let opening = opens::open_all(&peer, &wanted);
    if let Some(why) = &opening.failure {
        peer.check_alive()?;
        let (opened, all) = (opening.opened, options.channels);
        return Err(PeerError::Rejected(format!("{opened} of {all} channels opened, then {why}")));
    }
    let begin = Instant::now();
    peer.shared.order(Order::Begin);
    let mut ticker = Ticker::new();
    while peer.is_alive() && !peer.shared.board.over.load(Acquire) {
        wait(POLL);
        ticker.tick(&peer, tell);
    }
    let run_ms = millis(begin.elapsed());
    peer.shared.order(Order::End);
    wait(DRAIN);
    let frames = peer.shared.board.take_frames();
    let has_paths = progress(&peer, Duration::ZERO).without_path == 0;
    let finished = if peer.is_alive() && has_paths {
        opens::finish_all(&peer, &frames, options.at_once)
    } else {
        0
    };
    let Progress { sent, unsent, .. } = progress(&peer, Duration::ZERO);
    Ok(GenReport {
        version: VERSION,
        trial: options.load.trial,
        peer: options.peer.to_string(),
        service: options.service.to_string(),
        size: options.load.sizes.to_string(),
        rate_asked: options.load.rate.to_string(),
        burst: options.load.burst,
        gso: options.load.gso,
        gso_refused: peer.shared.board.gso_refused.load(Relaxed),
        opening,
        run_ms,
        sent,
        unsent,
        finished,
        links_lost: peer.shared.board.links_lost.load(Relaxed),
        outcome: peer.leave()?,
    })
}

/// Takes channels until the time is over, all have gone (`once`), or the peer is told to leave.
pub fn sink(
    options: &SinkOptions,
    tell: &mut dyn FnMut(&Progress),
) -> Result<SinkReport, PeerError> {
    let peer = Peer::start(&options.config, Role::Sink(options.verify))?;
    let mut ticker = Ticker::new();
    while peer.is_alive() {
        wait(POLL);
        ticker.tick(&peer, tell);
        let board = &peer.shared.board;
        let gone = board.ends_ever.load(Relaxed) > 0 && board.ends.load(Acquire) == 0;
        let late = options.duration.is_some_and(|time| ticker.begin.elapsed() >= time);
        if (options.once && gone) || late {
            break;
        }
    }
    let run_ms = millis(ticker.begin.elapsed());
    let links_lost = peer.shared.board.links_lost.load(Relaxed);
    Ok(SinkReport { version: VERSION, run_ms, links_lost, outcome: peer.leave()? })
}

/// Waits until the tree leads to the peer and it offers the service.
fn await_path(peer: &mut Peer, options: &GenOptions) -> Result<(), PeerError> {
    let begin = Instant::now();
    loop {
        peer.check_alive()?;
        let request = Request::Services { peer: options.peer.clone() };
        let client = peer.client(options.patience);
        match client.and_then(|client| client.request::<Vec<ServiceRow>>(&request)) {
            Ok(services) => {
                if services.iter().any(|row| row.name == options.service) {
                    return Ok(());
                }
                let names: Vec<&str> = services.iter().map(|row| row.name.as_str()).collect();
                let (peer, service, names) = (&options.peer, &options.service, names.join(", "));
                return Err(PeerError::Rejected(format!(
                    "{peer} offers no service {service}; it offers: {names}"
                )));
            }
            Err(ClientError::Refused(failure)) if begin.elapsed() >= options.patience => {
                let (peer, waited) = (options.peer.clone(), options.patience);
                return Err(PeerError::NoPath { peer, waited, why: failure.message });
            }
            Err(ClientError::Refused(_)) => wait(POLL * 4),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells progress at an interval.
struct Ticker {
    begin: Instant,
    next: Duration,
}

impl Ticker {
    fn new() -> Self {
        Self { begin: Instant::now(), next: TELL_EVERY }
    }

    fn tick(&mut self, peer: &Peer, tell: &mut dyn FnMut(&Progress)) {
        let elapsed = self.begin.elapsed();
        if elapsed >= self.next {
            self.next = elapsed + TELL_EVERY;
            tell(&progress(peer, elapsed));
        }
    }
}

fn progress(peer: &Peer, elapsed: Duration) -> Progress {
    let board = &peer.shared.board;
    let channels = board.ends.load(Acquire);
    Progress {
        elapsed,
        sent: board.sent.load(Relaxed),
        unsent: board.unsent.load(Relaxed),
        received: board.received.load(Relaxed),
        channels,
        without_path: channels.saturating_sub(board.ways.load(Acquire)),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

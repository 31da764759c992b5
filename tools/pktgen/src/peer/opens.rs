//! Many channels, asked for by a few clients at a time: what each request took, and what came of it.
//!
//! One client of the local socket waits for one answer, as every program's does; so the time an open takes
//! is what a program sees, and the number of clients says how many are under way.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spanway::api::dto::{Open, OpenReply, PathChoice, Request};
use spanway::limits;
use spanway::types::{Bandwidth, ChannelId, PeerName, ServiceName};

use super::Peer;
use super::plane::{Order, UNPOISONED};
use crate::clock::{Steady, wall_ns};
use crate::latency::{Latency, LatencySummary};

/// The longest wait for the word that the far end knows the end of a stream.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Which channels.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) peer: PeerName,
    pub(super) service: ServiceName,
    pub(super) rate: Bandwidth,
    pub(super) rate_back: Option<Bandwidth>,
    pub(super) channels: u64,
    /// Requests under way at the same time.
    pub(super) at_once: usize,
    /// Only the two ends can read what is sent.
    pub(super) sealed: bool,
}

/// How the opening of all went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    pub asked: u64,
    pub opened: u64,
    /// The first request that was not granted, in words.
    pub failure: Option<String>,
    pub failures: BTreeMap<String, u64>,
    /// From the first request to the last answer.
    pub set_up_ms: u64,
    /// Of single requests.
    pub open: LatencySummary,
}

#[derive(Default)]
struct Answers {
    times: Vec<(u64, u64)>,
    failure: Option<String>,
    failures: BTreeMap<String, u64>,
}

/// Opens them all and begins a flow on each. Stops asking at the first that is not granted.
pub(super) fn open_all(peer: &Peer, wanted: &Wanted) -> Opening {
    let begin = Steady::start();
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let answers: Mutex<Answers> = Mutex::default();
    in_threads(wanted.at_once, || {
        while next.fetch_add(1, Relaxed) < wanted.channels && !failed.load(Relaxed) {
            let asked = wall_ns();
            let result = open_one(peer, wanted);
            let answered = wall_ns();
            let mut answers = answers.lock().expect(UNPOISONED);
            answers.times.push((asked, answered));
            match result {
                Ok(channel) => peer.shared.order(Order::Flow { channel, opened_ns: answered }),
                Err((kind, text)) => {
                    failed.store(true, Relaxed);
                    answers.failure.get_or_insert(text);
                    *answers.failures.entry(kind).or_default() += 1;
                }
            }
        }
    });
    let Answers { times, failure, failures } = answers.into_inner().expect(UNPOISONED);
    let mut open = Latency::new();
    times.iter().for_each(|&(asked, answered)| open.record(asked, answered));
    let asked = times.len() as u64;
    Opening {
        asked,
        opened: asked - failures.values().sum::<u64>(),
        failure,
        failures,
        set_up_ms: begin.ns() / 1_000_000,
        open: open.summary(),
    }
}

/// The channel, or the reason as a word and in words.
fn open_one(peer: &Peer, wanted: &Wanted) -> Result<ChannelId, (String, String)> {
    let deadline = limits::OPEN_DEADLINE;
    let request = Request::Open(Open {
        wait: false,
        protect: false,
        shape: false,
        keep: false,
        plain: !wanted.sealed,
        idempotency_key: None,
        peer: wanted.peer.clone(),
        service: wanted.service.clone(),
        bandwidth_bps: wanted.rate,
        bandwidth_back_bps: wanted.rate_back,
        name: None,
        listen: None,
        deliver: None,
        from: None,
        path: PathChoice::default(),
        avoid: Vec::new(),
        deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
    });
    let failed = |error: &dyn std::fmt::Display| ("failed".to_owned(), error.to_string());
    let client = peer.client(deadline + limits::CLIENT_ANSWER_MAX);
    let reply = client.and_then(|client| client.request::<OpenReply>(&request));
    let reply = reply.map_err(|error| failed(&error))?;
    match (reply.channel, reply.reason) {
        (Some(channel), None) => channel.parse().map_err(|error| failed(&error)),
        (_, reason) => {
            let reason = reason.map_or(reply.outcome, |reason| reason.to_string());
            Err((reason.clone(), format!("{reason}: {}", reply.detail)))
        }
    }
}

/// Says how many frames each channel sent. How many of the far ends know.
pub(super) fn finish_all(peer: &Peer, frames: &[(ChannelId, u64)], at_once: usize) -> u64 {
    let (next, known) = (AtomicU64::new(0), AtomicU64::new(0));
    in_threads(at_once, || {
        loop {
            let at = usize::try_from(next.fetch_add(1, Relaxed)).unwrap_or(usize::MAX);
            let Some((channel, frames)) = frames.get(at) else { return };
            let request = Request::Finish { channel: channel.to_string(), frames: *frames };
            let client = peer.client(FINISH_MAX);
            let answer = client.and_then(|client| client.request::<()>(&request));
            known.fetch_add(u64::from(answer.is_ok()), Relaxed);
        }
    });
    known.into_inner()
}

fn in_threads(threads: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        let work = &work;
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
}

//! One trial: a stream over a channel, the strike on its path, what the receiver saw; then the overlay
//! is healed, so that the next trial begins like this one.

use std::time::Duration;

use super::flow::{Flow, Nanos};
use super::plan::name;
use super::record::{Bystander, FlowRecord, Trial};
use super::stream::{Route, SPACING, Stream, now, wait_while};
use super::strike::{Event, Strike};
use super::variant::Variant;
use super::weather::Weather;
use super::world::{Channel, World};
use crate::perf::failure::{Failure, Outcome};
use crate::perf::process::Interrupt;

/// 200 bytes and the headers, each millisecond, twice over.
const RATE: &str = "5Mbit/s";
/// Of the stream before the strike.
pub(crate) const WARM: Duration = Duration::from_millis(1_200);
/// What counts as before and after for the latency of bystanders.
const BESIDE: Duration = Duration::from_secs(1);
/// The stream is said to be back when this much of it came without a pause.
const STEADY: Duration = Duration::from_millis(200);
const STEADY_MIN: u64 = 190;
/// A stream that is not back by then never comes back.
const BACK_MAX: Duration = Duration::from_secs(30);
/// Recorded after the stream is back.
pub(crate) const AFTER: Duration = Duration::from_millis(1_000);
const BYSTANDERS: u16 = 2;
/// Channels that are tried until one has bystanders.
const PAIRS_MAX: usize = 20;
/// How long a channel may be without an open state between trials.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// An overlay and the channel that is measured in it, for several trials.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) variant: Variant,
    pub(crate) event: Event,
    pub(crate) seed: u64,
    pub(crate) quiet: Duration,
    pub(crate) interrupt: Interrupt,
    channel: Option<Channel>,
}

impl Bench {
    pub(crate) fn new(
        world: World,
        (variant, event): (Variant, Event),
        (seed, quiet): (u64, Duration),
        interrupt: Interrupt,
    ) -> Self {
        Self { world, variant, event, seed, quiet, interrupt, channel: None }
    }

    /// Strikes at another place of the path each `turn`.
    pub(crate) fn trial(&mut self, turn: usize) -> Outcome<Trial> {
        self.world.settle()?;
        let (channel, beside) = self.choose(turn)?;
        self.interrupt.pause(self.quiet)?;
        let result = self.measure(&channel, &beside, turn);
        for bystander in &beside {
            // A channel that ended with the strike is no longer there to be closed.
            let _ = self.world.close(bystander);
        }
        result
    }

    fn measure(&mut self, channel: &Channel, beside: &[Channel], turn: usize) -> Outcome<Trial> {
        let before = Weather::read(self.world.daemon_ids());
        let stream = Stream::start(&self.route(channel), 0)?;
        let others =
            beside.iter().zip(1..).map(|(one, mark)| Stream::start(&self.route(one), mark));
        let others = others.collect::<Outcome<Vec<_>>>()?;
        self.interrupt.pause(WARM)?;
        let from = now();
        if stream.arrived() < STEADY_MIN {
            return Err(Failure::new(format!("only {} datagrams came", stream.arrived())));
        }
        let mut strike = Strike::on(&mut self.world, self.event, &channel.path, turn)?;
        let proof = match strike {
            // What it drops is known later.
            Strike::BlackHole { .. } => None,
            Strike::Killed { .. } | Strike::Leaving { .. } => Some(strike.prove(&self.interrupt)?),
        };
        until_steady(&stream, &self.interrupt)?;
        let until = now();
        self.interrupt.pause(AFTER)?;
        let flow = stream.stop()?;
        let others = others.into_iter().map(Stream::stop).collect::<Outcome<Vec<_>>>()?;
        let weather = Weather::read(self.world.daemon_ids()).since(&before);
        let what = strike.what(&self.world);
        let proof = proof.map_or_else(|| strike.prove(&self.interrupt), Ok);
        // Whatever it says: the overlay is healed before it counts.
        strike.heal(&mut self.world)?;
        let after = self.world.look(channel)?.map(|(_, path)| path).unwrap_or_default();
        let beside = beside.iter().zip(&others);
        Ok(Trial {
            seed: self.seed,
            struck: format!("{what}: {}", proof?),
            path: in_words(&channel.path),
            path_after: in_words(&after),
            flow: record(&flow, from, until),
            bystanders: beside.map(|(one, flow)| bystander(one, flow, from, until)).collect(),
            steal_ms: weather[0],
            run_queue_ms: weather[1],
        })
    }

    /// What is measured, and where the event is about them the channels beside it.
    fn choose(&mut self, turn: usize) -> Outcome<(Channel, Vec<Channel>)> {
        for attempt in 0..PAIRS_MAX {
            let channel = self.channel(turn + attempt)?;
            if self.event != Event::Bystander {
                return Ok((channel, Vec::new()));
            }
            let beside = self.bystanders(&channel, turn)?;
            if !beside.is_empty() {
                return Ok((channel, beside));
            }
            self.world.close(&channel)?;
            self.channel = None;
        }
        Err(Failure::new("no channel shares a relay with another one and does not cross the rest"))
    }

    /// The channel of the last trial, if it still has relays, otherwise another one.
    fn channel(&mut self, turn: usize) -> Outcome<Channel> {
        if let Some(channel) = self.channel.take() {
            if let Some(path) = self.opened(&channel)?.filter(|path| path.len() > 2) {
                let channel = Channel { path, ..channel };
                self.channel = Some(channel.clone());
                return Ok(channel);
            }
            let _ = self.world.close(&channel);
        }
        let pairs = self.world.plan.pairs(self.seed + turn as u64);
        // Two relays at best: what is killed is then not the neighbour of both ends.
        for relays in [2, 1] {
            for &ends in &pairs {
                let Some(channel) = self.world.open(ends, 0, RATE, self.variant.options())? else {
                    continue;
                };
                if channel.path.len() >= relays + 2 {
                    self.channel = Some(channel.clone());
                    return Ok(channel);
                }
                self.world.close(&channel)?;
            }
        }
        Err(Failure::new("no channel of this overlay has a relay"))
    }

    /// The path of a channel once it is open again; none if it has ended.
    fn opened(&self, channel: &Channel) -> Outcome<Option<Vec<usize>>> {
        let mut found = None;
        wait_while(&self.interrupt, OPEN_MAX, || {
            found = self.world.look(channel)?;
            Ok(found.as_ref().is_some_and(|(state, _)| state != "open"))
        })?;
        Ok(found.map(|(_, path)| path))
    }

    /// Channels that share a relay with this one, but not the relay that is going to die.
    fn bystanders(&self, channel: &Channel, turn: usize) -> Outcome<Vec<Channel>> {
        let relays = &channel.path[1..channel.path.len() - 1];
        let victim = relays[turn % relays.len()];
        let (mut beside, mut services) = (Vec::new(), 1..=BYSTANDERS);
        let Some(mut service) = services.next() else { return Ok(beside) };
        for ends in self.world.plan.pairs(self.seed ^ turn as u64) {
            let Some(one) = self.world.open(ends, service, RATE, self.variant.options())? else {
                continue;
            };
            let inner = &one.path[1..one.path.len().max(2) - 1];
            let shares = inner.iter().any(|peer| channel.path.contains(peer));
            if shares && !one.path.contains(&victim) {
                beside.push(one);
                let Some(next) = services.next() else { break };
                service = next;
            } else {
                self.world.close(&one)?;
            }
        }
        Ok(beside)
    }

    fn route(&self, channel: &Channel) -> Route {
        let [from, into] = channel.ends.map(|end| self.world.namespace(end).to_owned());
        let at = World::receiver(channel.service);
        Route { from_namespace: from, to: channel.listen, into_namespace: into, at }
    }
}

/// Until the stream runs steadily, or for as long as anybody would wait.
pub(crate) fn until_steady(stream: &Stream, interrupt: &Interrupt) -> Outcome<()> {
    let start = now();
    loop {
        let count = stream.arrived();
        interrupt.pause(STEADY)?;
        let waited = Duration::from_nanos(now() - start);
        if stream.arrived() - count >= STEADY_MIN || waited > BACK_MAX {
            return Ok(());
        }
    }
}

/// What a receiver saw of an event between these times.
pub(crate) fn record(flow: &Flow, from: Nanos, until: Nanos) -> FlowRecord {
    FlowRecord {
        gap_ms: flow.gap_ms(from, until, nanos(SPACING)),
        sent: flow.sent.len() as u64,
        lost: flow.lost(),
        repeated: flow.repeated(),
        reordered: flow.reordered(),
    }
}

fn bystander(channel: &Channel, flow: &Flow, from: Nanos, until: Nanos) -> Bystander {
    let second = nanos(BESIDE);
    Bystander {
        path: in_words(&channel.path),
        flow: record(flow, from, until),
        before_p50_us: flow.latency_p50_us(from.saturating_sub(second), from),
        after_p50_us: flow.latency_p50_us(from, from + second),
    }
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

fn in_words(path: &[usize]) -> String {
    path.iter().map(|&peer| name(peer)).collect::<Vec<_>>().join(" - ")
}

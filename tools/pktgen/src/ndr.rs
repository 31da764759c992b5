//! `ndr`: the search for the highest loss-free rate with a real generator and a real sink, here or at
//! another host, then the latency at parts of that rate.
//!
//! Between steps the queues are drained, or a socket buffer somewhere would turn a short overload into
//! "loss-free". The generator runs in the caller's thread, a sink of this process in one of its own.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::affinity;
use crate::check::{Checker, Verify};
use crate::clock::nanos;
use crate::collect::{Collected, Enough, collect, drain};
use crate::control::{ControlError, Far};
use crate::generate::{Plan, Sent, Until, generate, new_trial};
use crate::live::Live;
use crate::port::{Port, PortError};
use crate::schedule::{Rate, Sizes};
use crate::search::{Bench, Found, Goal, Method, Step, search};

/// Parts of the found rate at which latency is measured, in per cent.
pub const LOADS: [u32; 3] = [10, 50, 90];
/// Before the first step: sessions of a proxy are set up, and a path that carries nothing is found.
const WARM_UP: Duration = Duration::from_millis(300);
const WARM_UP_RATE: f64 = 2_000.0;

/// What to search, with what.
#[derive(Clone, Debug)]
pub struct Setup {
    pub to: SocketAddr,
    pub from: Option<SocketAddr>,
    pub flows: u16,
    pub sizes: Sizes,
    pub burst: usize,
    pub gso: bool,
    pub step: Duration,
    pub goals: Vec<Goal>,
    pub method: Method,
    pub verify: Verify,
    pub seed: u64,
    pub cpu_gen: Option<usize>,
}

/// Where the datagrams end up.
#[derive(Debug)]
pub enum Sink {
    Here { port: Port, cpu: Option<usize> },
    There(Far),
}

/// `ndr --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ndr {
    pub version: u32,
    pub to: String,
    pub size: String,
    /// Mean bytes of payload, so that rates can be turned into bits.
    pub mean_bytes: f64,
    pub flows: u16,
    pub burst: usize,
    pub gso: bool,
    pub step_s: f64,
    pub found: Vec<Found>,
    /// At 10, 50 and 90 % of the first rate that was found.
    pub loads: Vec<Load>,
    /// In the order they ran.
    pub steps: Vec<Step>,
}

/// A step at a part of the found rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub percent: u32,
    #[serde(flatten)]
    pub step: Step,
}

/// Why a search could not be done.
#[derive(Debug, thiserror::Error)]
pub enum NdrError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(
        "none of {sent} datagrams to {to} arrived at the sink: does what stands between them send there?"
    )]
    Nothing { sent: u64, to: SocketAddr },
    #[error("datagrams keep coming to the sink between the steps: is another generator running?")]
    NeverQuiet,
    #[error("the thread of the sink could not be started or died")]
    Thread,
    #[error("interrupted")]
    Interrupted,
}

/// Searches. `stopped` ends it early, `tell` hears of every step.
pub fn run(
    setup: &Setup,
    sink: Sink,
    live: &Live,
    tell: &mut dyn FnMut(&Step),
) -> Result<Ndr, NdrError> {
    affinity::pin(setup.cpu_gen);
    let ports = Port::bind_flows(setup.to, setup.from, setup.flows)?;
    let mut rig = Rig { setup, ports, sink, live, tell };
    rig.warm_up()?;
    let (found, steps) = search(&mut rig, &setup.goals, setup.method)?;
    let mut loads = Vec::new();
    if let Some(rate) = found.iter().find_map(|found| found.rate) {
        for percent in LOADS {
            let step = rig.step(Some(rate * f64::from(percent) / 100.0))?;
            loads.push(Load { percent, step });
        }
    }
    Ok(Ndr {
        version: crate::documents::VERSION,
        to: setup.to.to_string(),
        size: setup.sizes.to_string(),
        mean_bytes: setup.sizes.mean(),
        flows: setup.flows,
        burst: setup.burst,
        gso: setup.gso,
        step_s: setup.step.as_secs_f64(),
        found,
        loads,
        steps,
    })
}

struct Rig<'a> {
    setup: &'a Setup,
    ports: Vec<Port>,
    sink: Sink,
    live: &'a Live,
    tell: &'a mut dyn FnMut(&Step),
}

impl Bench for Rig<'_> {
    type Error = NdrError;

    fn step(&mut self, offered: Option<f64>) -> Result<Step, NdrError> {
        let rate = offered.map_or(Rate::Max, Rate::PerSecond);
        let (sent, collected) = self.send(rate, self.setup.step)?;
        let step = judged(offered, &sent, &collected);
        (self.tell)(&step);
        Ok(step)
    }
}

impl Rig<'_> {
    fn warm_up(&mut self) -> Result<(), NdrError> {
        let rate = Rate::PerSecond(WARM_UP_RATE);
        let (sent, collected) = self.send(rate, WARM_UP)?;
        if collected.totals.received == 0 {
            return Err(NdrError::Nothing { sent: sent.datagrams, to: self.setup.to });
        }
        Ok(())
    }

    /// One run of the generator against empty queues, and what the sink says of it.
    fn send(&mut self, rate: Rate, during: Duration) -> Result<(Sent, Collected), NdrError> {
        let plan = Plan {
            prefix: Vec::new(),
            to: self.setup.to,
            rate,
            sizes: self.setup.sizes.clone(),
            burst: self.setup.burst,
            gso: self.setup.gso,
            until: Until::Elapsed(during),
            seed: self.setup.seed,
            trial: new_trial(),
        };
        let (ports, live, verify) = (&self.ports, self.live, self.setup.verify);
        let result = match &mut self.sink {
            Sink::Here { port, cpu } => here(ports, &plan, live, port, *cpu, verify)?,
            Sink::There(far) => {
                far.start(plan.trial, verify)?;
                let sent = generate(ports, &plan, live)?;
                let collected = far.finish(sent.datagrams)?;
                (sent, collected)
            }
        };
        if live.stopped() { Err(NdrError::Interrupted) } else { Ok(result) }
    }
}

fn here(
    ports: &[Port],
    plan: &Plan,
    live: &Live,
    port: &Port,
    cpu: Option<usize>,
    verify: Verify,
) -> Result<(Sent, Collected), NdrError> {
    if !drain(port)? {
        return Err(NdrError::NeverQuiet);
    }
    let (ears, checker) = (Live::default(), Checker::new(verify).of_trial(plan.trial));
    thread::scope(|scope| {
        let listen = || {
            affinity::pin(cpu);
            let mut checker = checker;
            collect(port, &mut checker, Enough::default(), &ears)
        };
        let sink = thread::Builder::new().name("sink".to_owned()).spawn_scoped(scope, listen);
        let sink = sink.map_err(|_| NdrError::Thread)?;
        let sent = generate(ports, plan, live);
        ears.finish(sent.as_ref().ok().map(|sent| sent.datagrams));
        let collected = sink.join().map_err(|_| NdrError::Thread)??;
        Ok((sent?, collected))
    })
}

fn judged(offered: Option<f64>, sent: &Sent, collected: &Collected) -> Step {
    let totals = &collected.totals;
    let lost = totals.lost_of(sent.datagrams);
    Step {
        offered,
        rate: sent.per_second,
        sent: sent.datagrams,
        received: totals.received,
        loss_percent: lost as f64 * 100.0 / sent.datagrams.max(1) as f64,
        duplicated: totals.duplicated,
        reordered: totals.reordered,
        corrupted: totals.corrupted,
        reached: sent.reached,
        sink_drops: collected.datagrams_dropped(),
        latency: collected.latency.clone(),
    }
}

/// A goal from the numbers of the command line.
pub fn goal(loss_percent: f64, p99_max: Duration) -> Goal {
    Goal { loss_percent, p99_max_ns: nanos(p99_max) }
}

//! `cargo xtask sealing`: what it costs the daemons of a path that a channel is sealed, in CPU time a frame.
//! Method: `perf/README.md`.
//!
//! ```text
//!                p00 ════════════ p01 ════════════ p02      a host each
//!  program ──►  entry: seals     relays           opens ──► program
//! ```
//!
//! Each round measures a plain and a sealed channel of every size one after the other in the same overlay and
//! begins with the other one each time; ratios are taken within a round.

#![expect(clippy::print_stdout, reason = "its output is for the developer at the terminal")]
#![expect(clippy::disallowed_methods, reason = "sends in real time")]

mod report;

use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spanway::api::dto::Request;

use crate::perf::build::Given;
use crate::perf::facts;
use crate::perf::failure::{Failure, Outcome};
use crate::perf::files;
use crate::perf::record::Facts;
use crate::recovery::plan::Plan;
use crate::recovery::stream::{connect, listen, socket};
use crate::recovery::variant::Variant;
use crate::recovery::world::{Channel, Tools, World};

const PEERS: usize = 3;
const CAPACITY_MBPS: u64 = 2_000;
const BANDWIDTH: &str = "1000Mbit/s";
const WARM_UP: Duration = Duration::from_millis(300);
/// Datagrams that are sent together, as a program with a pacer of its own does.
const BURST: u64 = 16;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often every case is measured
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Of each case
    #[arg(long, default_value_t = 2_000)]
    milliseconds: u64,
    /// Datagrams a second
    #[arg(long, default_value_t = 20_000)]
    rate: u32,
    /// Bytes of each
    #[arg(long, value_delimiter = ',', default_value = "200,1200")]
    size: Vec<u16>,
    /// Where sealing.json and sealing.md go
    #[arg(long, default_value = "target/sealing")]
    out: PathBuf,
    #[command(flatten)]
    given: Given,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) facts: Facts,
    pub(crate) milliseconds: u64,
    pub(crate) rate: u32,
    pub(crate) trials: Vec<Trial>,
}

/// One channel in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) round: u32,
    pub(crate) size: u16,
    pub(crate) sealed: bool,
    /// Delivered while it was measured, and dropped by any peer.
    pub(crate) frames: u64,
    pub(crate) dropped: u64,
    /// CPU time of the workers a frame: where it enters, at the relay, where it leaves.
    pub(crate) worker_ns: [f64; PEERS],
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    let result = measure(arguments);
    result.map_err(|failure| println!("cargo xtask sealing: {failure}")).is_ok()
}

fn measure(arguments: &Arguments) -> Outcome<()> {
    let tools = Tools::ready(&arguments.given)?;
    let (milliseconds, rate) = (arguments.milliseconds, arguments.rate);
    let mut record = Record { facts: facts::gather(), milliseconds, rate, trials: Vec::new() };
    let measured = arguments.all(&tools, &mut record);
    // What there is of an interrupted run is worth looking at, too.
    let text = report::markdown(&record);
    println!("{text}");
    files::write(&record, &text, &arguments.out, "sealing")?;
    measured
}

impl Arguments {
    fn all(&self, tools: &Tools, record: &mut Record) -> Outcome<()> {
        let plan = Plan::line(PEERS, CAPACITY_MBPS);
        let mut world = World::start(plan, Variant::Channels, &[], tools)?;
        world.settle()?;
        for round in 0..self.rounds {
            for &size in &self.size {
                for turn in 0..2 {
                    let sealed = (turn + round) % 2 == 0;
                    let trial = self.trial(&world, (round, size, sealed), tools)?;
                    let how = if sealed { "sealed" } else { "plain" };
                    let [enter, relay, leave] = trial.worker_ns;
                    println!(
                        "{round:>3}  {size:>5} B  {how:<6}  {:>7} frames, {} dropped  enter {enter:>6.0}  \
                         relay {relay:>6.0}  leave {leave:>6.0} ns a frame",
                        trial.frames, trial.dropped
                    );
                    record.trials.push(trial);
                }
            }
        }
        Ok(())
    }

    fn trial(
        &self,
        world: &World,
        (round, size, sealed): (u32, u16, bool),
        tools: &Tools,
    ) -> Outcome<Trial> {
        let more: &[&str] = if sealed { &[] } else { &["--plain"] };
        let opened = world.open([0, PEERS - 1], 0, BANDWIDTH, more)?;
        let channel = opened.ok_or_else(|| Failure::new("the overlay has no room"))?;
        let load = Load::start(world, &channel, size, self.rate)?;
        tools.interrupt.pause(WARM_UP)?;
        let before = Reading::of(world, &channel)?;
        tools.interrupt.pause(Duration::from_millis(self.milliseconds))?;
        let after = Reading::of(world, &channel)?;
        load.stop()?;
        let dropped = dropped(world, &channel)?;
        world.close(&channel)?;
        let frames = after.delivered - before.delivered;
        if frames == 0 {
            return Err(Failure::new("nothing was delivered"));
        }
        let mut worker_ns = [0.0; PEERS];
        for (peer, ns) in worker_ns.iter_mut().enumerate() {
            *ns = as_f64(after.cpu_ns[peer] - before.cpu_ns[peer]) / as_f64(frames);
        }
        Ok(Trial { round, size, sealed, frames, dropped, worker_ns })
    }
}

/// What the workers have used and the channel has delivered, at nearly the same moment.
struct Reading {
    cpu_ns: [u64; PEERS],
    delivered: u64,
}

impl Reading {
    fn of(world: &World, channel: &Channel) -> Outcome<Self> {
        let mut cpu_ns = [0; PEERS];
        for (peer, ns) in cpu_ns.iter_mut().enumerate() {
            *ns = world.worker_ns(peer)?;
        }
        let row = ledger(world, PEERS - 1, channel)?;
        Ok(Self { cpu_ns, delivered: row["delivered"].as_u64().unwrap_or_default() })
    }
}

fn ledger(world: &World, peer: usize, channel: &Channel) -> Outcome<Value> {
    let ledger = world.ask(peer, &Request::Ledger)?;
    let rows = ledger["channels"].as_array().into_iter().flatten();
    let row = rows.into_iter().find(|row| row["id"] == channel.id.as_str()).cloned();
    row.ok_or_else(|| Failure::new(format!("{} is not in the ledger", channel.id)))
}

fn dropped(world: &World, channel: &Channel) -> Outcome<u64> {
    let mut sum = 0;
    for peer in 0..PEERS {
        let row = ledger(world, peer, channel)?;
        let drops = row["dropped"].as_object().into_iter().flatten();
        sum += drops.filter_map(|(_, count)| count.as_u64()).sum::<u64>();
    }
    Ok(sum)
}

/// A program that sends at a steady pace, and one that takes what arrives.
struct Load {
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl Load {
    fn start(world: &World, channel: &Channel, size: u16, rate: u32) -> Outcome<Self> {
        let (to, at) = (channel.listen, World::receiver(channel.service));
        let into = socket(world.namespace(PEERS - 1), move || listen(at))?;
        let from = socket(world.namespace(0), move || connect(to))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (told, also_told) = (Arc::clone(&stop), Arc::clone(&stop));
        let sender = thread::spawn(move || send(&from, size, rate, &told));
        let receiver = thread::spawn(move || receive(&into, &also_told));
        Ok(Self { stop, threads: [sender, receiver] })
    }

    fn stop(self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| Failure::new("a thread of the load panicked");
        self.threads.into_iter().try_for_each(|thread| thread.join().map_err(panicked))
    }
}

fn send(socket: &UdpSocket, size: u16, rate: u32, stop: &AtomicBool) {
    let (start, datagram) = (Instant::now(), vec![0x5a; usize::from(size)]);
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let due = Duration::from_nanos(sent * 1_000_000_000 / u64::from(rate.max(1)));
        thread::sleep(due.saturating_sub(start.elapsed()));
        for _ in 0..BURST {
            // What the entry refuses shows in its counters.
            let _ = socket.send(&datagram);
        }
        sent += BURST;
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool) {
    let mut datagram = [0; 2_048];
    while socket.recv(&mut datagram).is_ok() || !stop.load(Ordering::Relaxed) {}
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 nanoseconds and frames")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

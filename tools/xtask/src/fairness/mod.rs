//! `cargo xtask fairness`: what a channel notices of another one on the same links that sends three times
//! its share. Method and goals: `perf/README.md`.
//!
//! ```text
//!                p00 ════════════ p01 ════════════ p02      a host each, wires as they are or limited
//!  modest ──►  entry, 3 Mbit/s                    service ──► latency and loss of every datagram
//!  other  ──►  entry, 20 Mbit/s                   service
//! ```
//!
//! Each round measures all cases one after the other in the same overlay and begins with another one;
//! ratios are taken within a round.

#![expect(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

mod greedy;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use spanway::api::dto::Request;
use spanway::types::Bandwidth;

use self::greedy::Greedy;
use crate::perf::build::Given;
use crate::perf::facts;
use crate::perf::failure::{Failure, Outcome};
use crate::perf::files;
use crate::perf::net::run as run_words;
use crate::perf::record::Facts;
use crate::recovery::flow::Flow;
use crate::recovery::plan::Plan;
use crate::recovery::stream::{Route, Stream, now};
use crate::recovery::variant::Variant;
use crate::recovery::world::{Channel, Tools, World, interface};

/// The wires can do more unless they are limited.
const CAPACITY_MBPS: u64 = 100;
/// A datagram of 200 bytes each millisecond is 2.4 Mbit/s.
const MODEST: &str = "3Mbit/s";
/// After both began, before it counts: the greedy one has used up its burst.
const WARM_UP: Duration = Duration::from_millis(700);
const PEERS: usize = 3;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often every case is measured
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Of each case
    #[arg(long, default_value_t = 4_000)]
    milliseconds: u64,
    /// As wires are, or limited to what the links promise; both if none is named
    #[arg(long, value_delimiter = ',')]
    wire: Vec<Wire>,
    /// What the other channel is opened for
    #[arg(long, default_value = "20Mbit/s")]
    share: Bandwidth,
    /// Where fairness.json and fairness.md go
    #[arg(long, default_value = "target/fairness")]
    out: PathBuf,
    #[command(flatten)]
    given: Given,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wire {
    Plain,
    Limited,
}

/// What the other channel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    /// There is none.
    Alone,
    /// It sends nine tenths of what it may.
    Fair,
    /// It sends three times as much as it may.
    Greedy,
    /// The same, with `--shape`.
    Shaped,
}

impl Case {
    pub(crate) const ALL: [Self; 4] = [Self::Alone, Self::Fair, Self::Greedy, Self::Shaped];

    /// In IP packets of frames; none without a channel.
    fn rate_bps(self, share: Bandwidth) -> Option<u64> {
        match self {
            Self::Alone => None,
            Self::Fair => Some(share.bps() / 10 * 9),
            Self::Greedy | Self::Shaped => Some(3 * share.bps()),
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Shaped => &["--shape"],
            Self::Alone | Self::Fair | Self::Greedy => &[],
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Fair => "beside one that keeps to its share",
            Self::Greedy => "beside one that sends three times its share",
            Self::Shaped => "the same, which is shaped",
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) facts: Facts,
    pub(crate) milliseconds: u64,
    pub(crate) capacity_mbps: u64,
    pub(crate) share_bps: u64,
    pub(crate) trials: Vec<Trial>,
}

/// One case in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) wire: Wire,
    pub(crate) round: u32,
    pub(crate) case: Case,
    /// Of the modest stream, warm-up included.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
    /// Without the warm-up.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) other: Option<Other>,
}

/// What became of the other one's frames at their entry, and how many arrived.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Other {
    pub(crate) entered: u64,
    pub(crate) policed: u64,
    pub(crate) arrived: u64,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    let result = measure(arguments);
    result.map_err(|failure| println!("cargo xtask fairness: {failure}")).is_ok()
}

fn measure(arguments: &Arguments) -> Outcome<()> {
    let tools = Tools::ready(&arguments.given)?;
    let mut record = Record {
        facts: facts::gather(),
        milliseconds: arguments.milliseconds,
        capacity_mbps: CAPACITY_MBPS,
        share_bps: arguments.share.bps(),
        trials: Vec::new(),
    };
    let wires = match &*arguments.wire {
        [] => &[Wire::Plain, Wire::Limited][..],
        named => named,
    };
    let measured = wires.iter().try_for_each(|&wire| arguments.all(wire, &tools, &mut record));
    // What there is of an interrupted run is worth looking at, too.
    let text = report::markdown(&record);
    println!("{text}");
    files::write(&record, &text, &arguments.out, "fairness")?;
    measured?;
    if record.trials.iter().any(|trial| trial.lost > 0) {
        return Err(Failure::new("the modest channel lost frames"));
    }
    Ok(())
}

impl Arguments {
    fn all(&self, wire: Wire, tools: &Tools, record: &mut Record) -> Outcome<()> {
        let plan = Plan::line(PEERS, CAPACITY_MBPS);
        let mut world = World::start(plan, Variant::Channels, &[], tools)?;
        world.settle()?;
        if wire == Wire::Limited {
            limit(&world)?;
        }
        for round in 0..self.rounds {
            for turn in 0..Case::ALL.len() {
                let case = Case::ALL[(turn + round as usize) % Case::ALL.len()];
                let trial = self.trial(&world, wire, round, case, tools)?;
                println!(
                    "{round:>3}  lost {}  p50 {:>6.0} us  p99 {:>6.0} us  {}",
                    trial.lost,
                    trial.p50_us,
                    trial.p99_us,
                    case.words()
                );
                record.trials.push(trial);
            }
        }
        Ok(())
    }

    fn trial(
        &self,
        world: &World,
        wire: Wire,
        round: u32,
        case: Case,
        tools: &Tools,
    ) -> Outcome<Trial> {
        let modest = open(world, 0, MODEST, &[])?;
        let other = case.rate_bps(self.share).map(|rate| {
            let channel = open(world, 1, &self.share.to_string(), case.options())?;
            let greedy = Greedy::start(&route(world, &channel), rate)?;
            Ok::<_, Failure>((channel, greedy))
        });
        let other = other.transpose()?;
        let stream = Stream::start(&route(world, &modest), 1)?;
        tools.interrupt.pause(WARM_UP)?;
        let from = now();
        tools.interrupt.pause(Duration::from_millis(self.milliseconds))?;
        let until = now();
        let flow = stream.stop()?;
        let other = other.map(|(channel, greedy)| {
            let arrived = greedy.stop()?;
            let other = counters(world, &channel, arrived)?;
            world.close(&channel)?;
            Ok::<_, Failure>(other)
        });
        let other = other.transpose()?;
        world.close(&modest)?;
        let latency = |flow: &Flow, at| {
            let us = flow.latency_us(from, until, at);
            us.ok_or_else(|| Failure::new("nothing of the modest stream arrived"))
        };
        Ok(Trial {
            wire,
            round,
            case,
            sent: flow.sent.len() as u64,
            lost: flow.lost(),
            reordered: flow.reordered(),
            p50_us: latency(&flow, 0.5)?,
            p99_us: latency(&flow, 0.99)?,
            other,
        })
    }
}

fn open(world: &World, service: u16, rate: &str, more: &[&str]) -> Outcome<Channel> {
    let opened = world.open([0, PEERS - 1], service, rate, more)?;
    opened.ok_or_else(|| Failure::new(format!("the overlay has no room for {rate}")))
}

fn route(world: &World, channel: &Channel) -> Route {
    Route {
        from_namespace: world.namespace(channel.ends[0]).to_owned(),
        to: channel.listen,
        into_namespace: world.namespace(channel.ends[1]).to_owned(),
        at: World::receiver(channel.service),
    }
}

fn counters(world: &World, channel: &Channel, arrived: u64) -> Outcome<Other> {
    let ledger = world.ask(channel.ends[0], &Request::Ledger)?;
    let rows = ledger["channels"].as_array().into_iter().flatten();
    let row = rows.into_iter().find(|row| row["id"] == channel.id.as_str());
    let row = row.ok_or_else(|| Failure::new(format!("{} is not in the ledger", channel.id)))?;
    Ok(Other {
        entered: row["entered"].as_u64().unwrap_or_default(),
        policed: row["dropped"]["policed"].as_u64().unwrap_or_default(),
        arrived,
    })
}

/// Every wire carries what its link promises and no more: IP packets, and 14 bytes of Ethernet around the
/// smallest.
fn limit(world: &World) -> Outcome<()> {
    let rate = format!("{}kbit", CAPACITY_MBPS * 1_000 * (292 + 14) / 292);
    for (link, wire) in world.plan.links.iter().enumerate() {
        for end in wire.ends {
            let (namespace, interface) = (world.namespace(end), interface(link));
            let words = ["tc", "-n", namespace, "qdisc", "add", "dev", &interface, "root"];
            let limit = ["tbf", "rate", &rate, "burst", "16kb", "latency", "20ms"];
            run_words(&[&words[..], &limit].concat())?;
        }
    }
    Ok(())
}

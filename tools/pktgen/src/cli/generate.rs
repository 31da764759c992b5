//! `gen`: arguments, the run, what it says.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use spanway::types::{PeerName, ServiceName};

use super::output::{bits, latency, say, show, stop_on_signals};
use super::peer::{self, GenPeerArgs};
use super::values::{Prefix, Switch, address, cpu, duration, prefix};
use super::{End, Failure};
use crate::affinity;
use crate::documents::{Document, GenDocument, VERSION};
use crate::echo::{Answered, answers};
use crate::generate::{BURST_MAX, FLOWS_MAX, Plan, Sent, Until, generate, new_trial};
use crate::live::{Live, Progress};
use crate::peer::{Load, OPENING};
use crate::port::{Port, PortError};
use crate::schedule::{Rate, Sizes, per_second};

const DURATION: Duration = Duration::from_secs(5);

/// What `gen` and `ndr` share: the shape of the traffic.
#[derive(Debug, Args)]
pub(super) struct Shape {
    /// Send to this address and port (`gen --config`: to this PEER/SERVICE)
    #[arg(long, value_name = "HOST:PORT", value_parser = destination)]
    pub(super) to: To,
    /// Send from this address; flows take the ports from this one upwards
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(super) from: Option<SocketAddr>,
    /// Bytes of UDP payload: one size, several in turn (64:200:1200), or imix (7 x 64, 4 x 548, 1 x 1472)
    #[arg(long, value_name = "BYTES", default_value = "200")]
    pub(super) size: Sizes,
    /// Source ports; bursts take them in turn
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(FLOWS_MAX)))]
    pub(super) flows: u16,
    /// Datagrams sent back to back; with --gso one send carries up to 64 of equal size
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..=BURST_MAX as i64))]
    pub(super) burst: u16,
    /// Hand bursts to the kernel as trains (UDP segmentation offload)
    #[arg(long, value_name = "on|off", default_value = "on")]
    pub(super) gso: Switch,
    /// Seed of the bytes behind the headers
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) seed: u64,
}

/// `--to`.
#[derive(Clone, Debug)]
pub(super) enum To {
    Address(SocketAddr),
    Service(PeerName, ServiceName),
}

#[derive(Debug, Args)]
pub(super) struct GenArgs {
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    peer: GenPeerArgs,
    /// Datagrams per second (50k), bits of payload per second (20Mbit/s), or max
    #[arg(long, value_name = "RATE", default_value = "1k")]
    rate: Rate,
    /// Send for so long [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "count")]
    duration: Option<Duration>,
    /// Send so many datagrams
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Wait for the answers of an `echo` and measure the time there and back
    #[arg(long)]
    expect_echo: bool,
    /// Bytes in front of every payload: a header that the relay takes off, as TURN's of a channel
    #[arg(long, value_name = "HEX", value_parser = prefix,
          conflicts_with_all = ["config", "expect_echo"])]
    prefix: Option<Prefix>,
    /// Run on this CPU
    #[arg(long, value_name = "CPU", value_parser = cpu)]
    cpu: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An address, or a service of a peer.
fn destination(text: &str) -> Result<To, String> {
    if text.contains('/') {
        return peer::service(text).map(|(peer, service)| To::Service(peer, service));
    }
    address(text).map(To::Address)
}

impl To {
    pub(super) fn address(&self) -> Result<SocketAddr, Failure> {
        match self {
            Self::Address(address) => Ok(*address),
            Self::Service(peer, service) => Err(Failure::Usage(format!(
                "--to {peer}/{service} is a service of an overlay: say with --config FILE which peer \
                 of it this is, or write HOST:PORT"
            ))),
        }
    }
}

impl Shape {
    /// What a peer sends over its channels.
    fn load(&self, rate: Rate, duration: Duration) -> Load {
        Load {
            trial: new_trial() & !OPENING,
            rate,
            sizes: self.size.clone(),
            burst: usize::from(self.burst),
            duration,
            gso: self.gso == Switch::On,
            seed: self.seed,
        }
    }

    /// The plan of a run; the caller fills what is its own.
    fn plan(&self, to: SocketAddr, rate: Rate, until: Until) -> Plan {
        Plan {
            to,
            rate,
            sizes: self.size.clone(),
            burst: usize::from(self.burst),
            gso: self.gso == Switch::On,
            until,
            seed: self.seed,
            trial: new_trial(),
            prefix: Vec::new(),
        }
    }
}

pub(super) fn run(arguments: &GenArgs) -> Result<End, Failure> {
    let shape = &arguments.shape;
    if let Some(config) = &arguments.peer.config {
        let To::Service(name, service) = &shape.to else {
            let text = "with --config, --to is PEER/SERVICE, as in --to peer-02/inbox";
            return Err(Failure::Usage(text.to_owned()));
        };
        let load = shape.load(arguments.rate, arguments.duration.unwrap_or(DURATION));
        let to = (name.clone(), service.clone());
        return peer::generate(&arguments.peer, config, to, load, arguments.json);
    }
    let to = shape.to.address()?;
    let until = match arguments.count {
        Some(count) => Until::Count(count),
        None => Until::Elapsed(arguments.duration.unwrap_or(DURATION)),
    };
    let prefix = arguments.prefix.clone().unwrap_or_default().0;
    let plan = Plan { prefix, ..shape.plan(to, arguments.rate, until) };
    let ports = Port::bind_flows(to, shape.from, shape.flows)?;
    let live = Arc::new(Live::new(stop_on_signals()?));
    let progress = Progress::start("sent", &live);
    let (sent, echo) = if arguments.expect_echo {
        with_answers(&ports, &plan, &live, arguments.cpu)?
    } else {
        affinity::pin(arguments.cpu);
        (generate(&ports, &plan, &live)?, None)
    };
    drop(progress);
    let silent = echo.as_ref().is_some_and(|echo| echo.totals.received == 0);
    let end = if silent || !sent.reached || sent.datagrams == 0 { End::Bad } else { End::Done };
    let document = GenDocument {
        version: VERSION,
        to: plan.to.to_string(),
        trial: plan.trial,
        rate_asked: plan.rate.to_string(),
        size: plan.sizes.to_string(),
        flows: shape.flows,
        burst: plan.burst,
        gso: plan.gso,
        seed: plan.seed,
        sent,
        echo,
    };
    if let Some(reason) = &document.sent.gso_refused {
        say(&format!("warning: single datagrams were sent, the kernel took no trains: {reason}"));
    }
    let text = document.clone();
    show(arguments.json, &Document::Gen(document), |out| words(out, &text))?;
    Ok(end)
}

/// Answers are collected by a second thread, so that waiting for them does not disturb the pacing.
fn with_answers(
    ports: &[Port],
    plan: &Plan,
    live: &Live,
    cpu: Option<usize>,
) -> Result<(Sent, Option<Answered>), Failure> {
    let ears = Live::default();
    thread::scope(|scope| {
        let collecting = scope.spawn(|| answers(ports, plan.trial, &ears));
        affinity::pin(cpu);
        let sent = generate(ports, plan, live);
        ears.finish(sent.as_ref().ok().map(|sent| sent.datagrams));
        let died = |_| Failure::Failed("the thread that collects the answers died".to_owned());
        let checker = collecting.join().map_err(died)??;
        let sent = sent.map_err(|error: PortError| Failure::from(error))?;
        let answered = Answered::new(checker, sent.datagrams);
        Ok((sent, Some(answered)))
    })
}

fn words(out: &mut dyn Write, document: &GenDocument) -> io::Result<()> {
    let sent = &document.sent;
    writeln!(
        out,
        "sent         {} datagrams to {} in {:.3} s: {}, {} of payload",
        sent.datagrams,
        document.to,
        sent.elapsed_s,
        per_second(sent.per_second),
        bits(sent.payload_bits_per_s)
    )?;
    if !sent.reached {
        writeln!(
            out,
            "             less than the {} that were asked for: this machine was the limit",
            document.rate_asked
        )?;
    }
    if sent.skipped > 0 {
        writeln!(out, "skipped      {}: this machine stalled for too long", sent.skipped)?;
    }
    if sent.refused > 0 {
        writeln!(
            out,
            "refused      {} by the kernel (no route, no buffer, a firewall)",
            sent.refused
        )?;
    }
    let Some(echo) = &document.echo else { return Ok(()) };
    let totals = &echo.totals;
    writeln!(
        out,
        "answered     {}, lost {}, duplicated {}, reordered {}, corrupted {}",
        totals.received, echo.lost, totals.duplicated, totals.reordered, totals.corrupted
    )?;
    latency(out, "round trip", &echo.round_trip)
}

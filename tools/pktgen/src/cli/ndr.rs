//! `ndr`: arguments, the search, what it says.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::generate::Shape;
use super::output::{bits, say, show, stop_on_signals, time};
use super::values::{Switch, VerifyArg, address, cpu, duration, loss};
use super::{End, Failure};
use crate::control::Far;
use crate::documents::Document;
use crate::live::Live;
use crate::ndr::{self, Ndr, Setup, Sink};
use crate::port::Port;
use crate::schedule::per_second;
use crate::search::{Found, Limit, Method, Step};

#[derive(Debug, Args)]
pub(super) struct NdrArgs {
    #[command(flatten)]
    shape: Shape,
    /// Receive here what the relay between sends on
    #[arg(long, value_name = "HOST:PORT", value_parser = address,
          required_unless_present = "control", conflicts_with = "control")]
    listen: Option<SocketAddr>,
    /// The sink runs elsewhere: the TCP address of its --control
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    control: Option<SocketAddr>,
    /// Loss in per cent that a rate may have; one search for each
    #[arg(long, value_name = "PERCENT,..", default_value = "0,0.1,0.5", value_delimiter = ',',
          value_parser = loss)]
    loss: Vec<f64>,
    /// A rate also fails if its 99th percentile of latency is above this
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = duration)]
    max_latency: Duration,
    /// How long each rate is tried
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    step: Duration,
    /// Per cent of the rate that may remain between passed and failed
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = precision)]
    precision: f64,
    /// How often a rate that failed is tried again
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(0..=10))]
    retries: u32,
    /// Of which payloads every byte is checked
    #[arg(long, value_enum, default_value = "sample")]
    verify: VerifyArg,
    /// Generate on this CPU
    #[arg(long, value_name = "CPU", value_parser = cpu)]
    cpu_gen: Option<usize>,
    /// Receive on this CPU
    #[arg(long, value_name = "CPU", value_parser = cpu, conflicts_with = "control")]
    cpu_sink: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn precision(text: &str) -> Result<f64, String> {
    match loss(text) {
        Ok(percent) if percent >= 0.1 => Ok(percent),
        _ => Err(format!("{text:?} is not a precision: write a per cent of at least 0.1")),
    }
}

pub(super) fn run(arguments: &NdrArgs) -> Result<End, Failure> {
    let sink = match (arguments.listen, arguments.control) {
        (Some(listen), _) => {
            let port = Port::bind(listen)?;
            if let Some(warning) = port.buffer_warning() {
                say(&format!("warning: {warning}"));
            }
            Sink::Here { port, cpu: arguments.cpu_sink }
        }
        (None, Some(control)) => Sink::There(Far::connect(control)?),
        (None, None) => return Err(Failure::Usage("--listen or --control is missing".to_owned())),
    };
    let mut losses = arguments.loss.clone();
    losses.sort_by(f64::total_cmp);
    losses.dedup();
    let shape = &arguments.shape;
    let setup = Setup {
        to: shape.to.address()?,
        from: shape.from,
        flows: shape.flows,
        sizes: shape.size.clone(),
        burst: usize::from(shape.burst),
        gso: shape.gso == Switch::On,
        step: arguments.step,
        goals: losses.iter().map(|&loss| ndr::goal(loss, arguments.max_latency)).collect(),
        method: Method { precision: arguments.precision / 100.0, retries: arguments.retries },
        verify: arguments.verify.into(),
        seed: shape.seed,
        cpu_gen: arguments.cpu_gen,
    };
    let live = Arc::new(Live::new(stop_on_signals()?));
    let result = ndr::run(&setup, sink, &live, &mut |step| say(&line(step)))?;
    let found = result.found.iter().any(|found| found.rate.is_some());
    let text = result.clone();
    show(arguments.json, &Document::Ndr(result), |out| words(out, &text))?;
    Ok(if found { End::Done } else { End::Bad })
}

/// One step as it happens.
fn line(step: &Step) -> String {
    let offered = step.offered.map_or_else(|| "max".to_owned(), per_second);
    let reached = if step.reached { "" } else { "  the generator reached less" };
    let drops = match step.sink_drops {
        Some(drops @ 1..) => format!("  {drops} lost in the sink"),
        _ => String::new(),
    };
    format!(
        "offered {offered:>12}  sent {:>12}  lost {:>8.4} %  p99 {:>9}{reached}{drops}",
        per_second(step.rate),
        step.loss_percent,
        time(step.latency.p99_ns)
    )
}

fn words(out: &mut dyn Write, result: &Ndr) -> io::Result<()> {
    writeln!(out, "{:>8} {:>14} {:>16}   the limit was", "loss", "highest rate", "of payload")?;
    for found in &result.found {
        answer(out, found, result.mean_bytes)?;
    }
    if result.loads.is_empty() {
        return Ok(());
    }
    let head = ["load", "rate", "lost", "min", "p50", "p99", "p99.9"];
    writeln!(
        out,
        "\n{:>8} {:>14} {:>10} {:>10} {:>10} {:>10} {:>10}",
        head[0], head[1], head[2], head[3], head[4], head[5], head[6]
    )?;
    for load in &result.loads {
        let (step, latency) = (&load.step, &load.step.latency);
        writeln!(
            out,
            "{:>6} % {:>14} {:>8.4} % {:>10} {:>10} {:>10} {:>10}",
            load.percent,
            per_second(step.rate),
            step.loss_percent,
            time(latency.min_ns),
            time(latency.p50_ns),
            time(latency.p99_ns),
            time(latency.p999_ns)
        )?;
    }
    if result.loads.iter().any(|load| load.step.latency.clocks_differ) {
        writeln!(out, "the clocks of the two ends differ: times are above the fastest datagram")?;
    }
    Ok(())
}

fn answer(out: &mut dyn Write, found: &Found, mean_bytes: f64) -> io::Result<()> {
    let limit = match found.limit {
        Limit::Device => "what was measured",
        Limit::Generator => "the generator: the real answer may be higher",
        Limit::Sink => "the sink: the real answer may be higher",
    };
    let loss = format!("{} %", found.goal.loss_percent);
    match found.rate {
        Some(rate) => {
            let payload = bits(rate * mean_bytes * 8.0);
            writeln!(out, "{loss:>8} {:>14} {payload:>16}   {limit}", per_second(rate))
        }
        None => writeln!(out, "{loss:>8} {:>14}", "no rate passed"),
    }
}

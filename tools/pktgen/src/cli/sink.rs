//! `sink` and `echo`: arguments, the runs, what they say.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;

use super::output::{bits, latency, say, show, stop_on_signals};
use super::peer::{self, SinkPeerArgs};
use super::values::{VerifyArg, address, cpu, duration};
use super::{End, Failure};
use crate::affinity;
use crate::check::{Checker, FlowTotals};
use crate::collect::{Collected, Enough, collect};
use crate::control;
use crate::documents::{Document, EchoDocument, SinkDocument, VERSION};
use crate::echo::echo;
use crate::live::{Live, Progress};
use crate::port::Port;
use crate::schedule::per_second;

/// Flows that are worth a line each.
const FLOWS_SHOWN: usize = 10;

#[derive(Debug, Args)]
pub(super) struct SinkArgs {
    /// Receive at this address and port
    #[arg(long, value_name = "HOST:PORT", value_parser = address,
          required_unless_present = "config")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    peer: SinkPeerArgs,
    /// End after so long
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    elapsed: Option<Duration>,
    /// End after so many datagrams
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when nothing came for so long after the first datagram
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// Of which payloads every byte is checked
    #[arg(long, value_enum, default_value = "sample")]
    verify: VerifyArg,
    /// Write the latencies as a percentile distribution (microseconds) for HdrHistogram's plotter
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Be the sink of an `ndr` on another host, which connects to this TCP address. Anyone who can reach
    /// it can make this sink count; it does nothing else
    #[arg(long, value_name = "HOST:PORT", value_parser = address,
          conflicts_with_all = ["elapsed", "count", "idle", "hgrm", "json"])]
    control: Option<SocketAddr>,
    /// Run on this CPU
    #[arg(long, value_name = "CPU", value_parser = cpu)]
    cpu: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EchoArgs {
    /// Receive at this address and port
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    listen: SocketAddr,
    /// End after so long
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    elapsed: Option<Duration>,
    /// End after so many datagrams
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Run on this CPU
    #[arg(long, value_name = "CPU", value_parser = cpu)]
    cpu: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &SinkArgs) -> Result<End, Failure> {
    let (listen, verify) = (arguments.listen, arguments.verify.into());
    let listen = match (listen, &arguments.peer.config) {
        (Some(listen), _) => listen,
        (None, Some(config)) => {
            let (elapsed, json) = (arguments.elapsed, arguments.json);
            return peer::sink(&arguments.peer, config, verify, elapsed, json);
        }
        (None, None) => return Err(Failure::Usage("--listen or --config is missing".to_owned())),
    };
    let port = Port::bind(listen)?;
    affinity::pin(arguments.cpu);
    if let Some(warning) = port.buffer_warning() {
        say(&format!("warning: {warning}"));
    }
    if let Some(control) = arguments.control {
        return serve(&port, control);
    }
    // Before the first datagram: a path that cannot be written must not cost a run.
    let hgrm = arguments.hgrm.as_deref().map(create).transpose()?;
    say(&format!("listening at {}", port.local()));
    let live = Arc::new(Live::new(stop_on_signals()?));
    let progress = Progress::start("received", &live);
    let enough =
        Enough { elapsed: arguments.elapsed, count: arguments.count, idle: arguments.idle };
    let mut checker = Checker::new(verify);
    let collected = collect(&port, &mut checker, enough, &live)?;
    drop(progress);
    if let Some(mut file) = hgrm {
        checker.histogram().write_hgrm(&mut file)?;
        file.flush()?;
    }
    let end = if collected.totals.received == 0 { End::Bad } else { End::Done };
    let listen = port.local().to_string();
    let document = SinkDocument { version: VERSION, listen, collected };
    let text = document.collected.clone();
    show(arguments.json, &Document::Sink(document), |out| words(out, &text))?;
    Ok(end)
}

pub(super) fn run_echo(arguments: &EchoArgs) -> Result<End, Failure> {
    let port = Port::bind(arguments.listen)?;
    affinity::pin(arguments.cpu);
    say(&format!("answering at {}", port.local()));
    let live = Arc::new(Live::new(stop_on_signals()?));
    let progress = Progress::start("answered", &live);
    let echoed = echo(&port, arguments.elapsed, arguments.count, &live)?;
    drop(progress);
    let end = if echoed.datagrams == 0 { End::Bad } else { End::Done };
    let document =
        EchoDocument { version: VERSION, listen: port.local().to_string(), echoed: echoed.clone() };
    show(arguments.json, &Document::Echo(document), |out| {
        writeln!(out, "answered     {} datagrams, {} bytes", echoed.datagrams, echoed.bytes)?;
        writeln!(out, "refused      {} by the kernel", echoed.refused)
    })?;
    Ok(end)
}

/// Ends by a signal, as there is nothing to sum up.
fn serve(port: &Port, control: SocketAddr) -> Result<End, Failure> {
    let listener = control::listen(control)?;
    say(&format!("listening at {}, controlled at {}", port.local(), listener.local_addr()?));
    control::serve(port, &listener, &AtomicBool::new(false), &say)?;
    Ok(End::Done)
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let shown = path.display();
    let created = File::create(path);
    let created = created.map_err(|error| format!("--hgrm {shown} cannot be written: {error}"));
    created.map(BufWriter::new).map_err(Failure::Failed)
}

fn words(out: &mut dyn Write, collected: &Collected) -> io::Result<()> {
    let totals = &collected.totals;
    writeln!(
        out,
        "received     {} datagrams of {} flows in {:.3} s: {}, {} of payload",
        totals.received,
        totals.flows,
        collected.elapsed_s,
        per_second(collected.per_second),
        bits(collected.payload_bits_per_s)
    )?;
    let expected = (totals.received + totals.lost).max(1);
    let lost = totals.lost as f64 * 100.0 / expected as f64;
    writeln!(out, "lost         {} ({lost:.4} %), up to the last of each flow", totals.lost)?;
    writeln!(
        out,
        "duplicated   {}   reordered {}   corrupted {}   foreign {}",
        totals.duplicated, totals.reordered, totals.corrupted, totals.foreign
    )?;
    for (name, count, why) in [
        ("stale", totals.stale, "so late that they may be late or duplicates; they count as lost"),
        ("untracked", totals.untracked, "of more flows than can be told apart"),
    ] {
        if count > 0 {
            writeln!(out, "{name:<12} {count} {why}")?;
        }
    }
    if let Some(drops @ 1..) = collected.kernel_drops {
        writeln!(
            out,
            "sink drops   {drops} receives: this sink did not keep up, its socket was full"
        )?;
    }
    let each = collected.datagrams_per_receive;
    writeln!(out, "receives     {} with {each:.1} datagrams each", totals.receives)?;
    latency(out, "latency", &collected.latency)?;
    flows(out, &collected.flows)
}

fn flows(out: &mut dyn Write, flows: &[FlowTotals]) -> io::Result<()> {
    if flows.len() < 2 {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:>10} {:>8} {:>12} {:>8} {:>10} {:>9}",
        "trial", "flow", "received", "lost", "duplicated", "reordered"
    )?;
    for flow in flows.iter().take(FLOWS_SHOWN) {
        writeln!(
            out,
            "{:>10} {:>8} {:>12} {:>8} {:>10} {:>9}",
            flow.trial, flow.flow, flow.received, flow.lost, flow.duplicated, flow.reordered
        )?;
    }
    if flows.len() > FLOWS_SHOWN {
        writeln!(out, "... {} flows more: --json has them all", flows.len() - FLOWS_SHOWN)?;
    }
    Ok(())
}

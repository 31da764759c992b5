//! The peer's part of the command line: its flags, and its reports in words.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use spanway::config::values;
use spanway::types::{Bandwidth, PeerName, ServiceName};

use super::{GenOptions, GenReport, Load, PeerError, Progress, SinkOptions, SinkReport};
use crate::check::Verify;
use crate::latency::LatencySummary;

/// Flags of `gen` that only a peer has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "As a peer of an overlay")]
pub struct GenPeerArgs {
    /// Be the peer of this configuration file and send over channels; --to is then PEER/SERVICE
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Channels to open; each carries one flow
    #[arg(long, value_name = "COUNT", default_value_t = 1, requires = "config",
          value_parser = clap::value_parser!(u64).range(1..=spanway::limits::CHANNELS_MAX as u64))]
    pub channels: u64,
    /// What each channel reserves, headers included, as in 1Mbit/s
    #[arg(long, value_name = "RATE", requires = "config")]
    pub bandwidth: Option<Bandwidth>,
    /// What each channel reserves for the way back
    #[arg(long, value_name = "RATE", requires = "config")]
    pub bandwidth_back: Option<Bandwidth>,
    /// Requests for channels under way at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 32, requires = "config",
          value_parser = clap::value_parser!(u16).range(1..=100))]
    pub at_once: u16,
    /// How long to wait for a path to PEER
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "config",
          value_parser = values::duration)]
    pub patience: Duration,
}

/// Flags of `sink` that only a peer has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "As a peer of an overlay")]
pub struct SinkPeerArgs {
    /// Be the peer of this configuration file and take the channels to all of its services
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// End when all channels that came are closed again
    #[arg(long, requires = "config")]
    pub once: bool,
}

/// `PEER/SERVICE`.
pub fn destination(text: &str) -> Result<(PeerName, ServiceName), String> {
    let wrong = || format!("\"{text}\" is not a destination: write PEER/SERVICE");
    let (peer, service) = text.split_once('/').ok_or_else(wrong)?;
    let name = |error: spanway::types::NameError| error.to_string();
    Ok((peer.parse().map_err(name)?, service.parse().map_err(name)?))
}

/// `gen --config`: sends, reports, and returns the exit code.
pub fn generate(
    args: &GenPeerArgs,
    config: PathBuf,
    (peer, service): (PeerName, ServiceName),
    load: Load,
    json: bool,
) -> u8 {
    let Some(bandwidth) = args.bandwidth else {
        eprintln!("error: --bandwidth is missing: say what each channel reserves, as in 1Mbit/s");
        return 2;
    };
    spanway::trace::start_at("warn");
    let options = GenOptions {
        config,
        peer,
        service,
        channels: args.channels,
        bandwidth,
        bandwidth_back: args.bandwidth_back,
        load,
        at_once: usize::from(args.at_once),
        patience: args.patience,
    };
    match super::generate(&options, &mut teller()) {
        Ok(report) => {
            if json {
                print_json(&report);
            } else {
                print_gen(&report);
            }
            complain(&report.complaints());
            report.exit_code()
        }
        Err(error) => fail(&error),
    }
}

/// `sink --config`: takes, reports, and returns the exit code.
pub fn sink(args: &SinkPeerArgs, config: PathBuf, options: SinkLimits, json: bool) -> u8 {
    spanway::trace::start_at("warn");
    let SinkLimits { verify, duration } = options;
    let options = SinkOptions { config, verify, once: args.once, duration };
    match super::sink(&options, &mut teller()) {
        Ok(report) => {
            if json {
                print_json(&report);
            } else {
                print_sink(&report);
            }
            complain(&report.complaints());
            report.exit_code()
        }
        Err(error) => fail(&error),
    }
}

/// What every sink is told.
#[derive(Clone, Copy, Debug)]
pub struct SinkLimits {
    pub verify: Verify,
    pub duration: Option<Duration>,
}

fn fail(error: &PeerError) -> u8 {
    eprintln!("error: {error}");
    error.exit_code()
}

fn complain(complaints: &[String]) {
    for complaint in complaints {
        eprintln!("warning: {complaint}");
    }
}

/// Progress on standard error: every second on a terminal, elsewhere only when a path goes or comes.
fn teller() -> impl FnMut(&Progress) {
    use std::io::IsTerminal as _;
    let terminal = std::io::stderr().is_terminal();
    let (mut without, mut before) = (0, Progress::default());
    move |now| {
        if now.without_path != without {
            without = now.without_path;
            eprintln!("{without} of {} channels have no path", now.channels);
        }
        if terminal {
            let (sent, received) = (now.sent - before.sent, now.received - before.received);
            eprintln!(
                "{:4} s  {} channels  sent {sent}/s  received {received}/s  not sent {}",
                now.elapsed.as_secs(),
                now.channels,
                now.unsent
            );
        }
        before = *now;
    }
}

fn print_json<T: serde::Serialize>(report: &T) {
    println!("{}", serde_json::to_string(report).expect("reports have text keys only"));
}

fn print_gen(report: &GenReport) {
    let opening = &report.opening;
    println!("{} channels open after {} ms", opening.opened, opening.set_up_ms);
    println!("  one open          {}", times(&opening.open));
    let source = report.outcome.source.clone().unwrap_or_default();
    println!("  to its first send {}", times(&source.to_first));
    println!("{} frames sent in {} ms, {} not sent", report.sent, report.run_ms, report.unsent);
    if source.skipped > 0 {
        println!("{} more were due while this machine stalled", source.skipped);
    }
    print_drops(&report.outcome.drops);
}

fn print_sink(report: &SinkReport) {
    let taken = report.outcome.taken.clone().unwrap_or_default();
    let totals = &taken.totals;
    let received = totals.received + taken.opening_frames;
    println!("{} channels, {received} of {} frames received", taken.channels, taken.sent);
    println!(
        "  lost {}  duplicated {}  out of order {}  damaged {}",
        taken.lost, totals.duplicated, totals.reordered, totals.corrupted
    );
    println!("  latency                  {}", times(&taken.latency));
    println!("  open to its first frame  {}", times(&taken.first_frame));
    print_drops(&report.outcome.drops);
}

fn print_drops(drops: &std::collections::BTreeMap<String, u64>) {
    for (reason, count) in drops {
        println!("  dropped {count} datagrams: {reason}");
    }
}

fn times(summary: &LatencySummary) -> String {
    if summary.count == 0 {
        return "-".to_owned();
    }
    let ms = |ns: u64| format!("{}.{:03}", ns / 1_000_000, ns / 1_000 % 1_000);
    let note = if summary.clocks_differ { "  (clocks differ: above the fastest)" } else { "" };
    format!(
        "p50 {}  p99 {}  max {} ms{note}",
        ms(summary.p50_ns),
        ms(summary.p99_ns),
        ms(summary.max_ns)
    )
}

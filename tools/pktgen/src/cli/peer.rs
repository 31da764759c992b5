//! `gen --config` and `sink --config`: the same as a peer of an overlay.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use spanway::types::{Bandwidth, NameError, PeerName, ServiceName};

use super::output::{latency, say, show};
use super::values::duration;
use super::{End, Failure};
use crate::check::Verify;
use crate::documents::Document;
use crate::peer::{
    self, GenOptions, GenReport, Load, PeerError, Progress, SinkOptions, SinkReport,
};
use crate::schedule::per_second;

/// Flags of `gen` that only a peer has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "As a peer of an overlay")]
pub(super) struct GenPeerArgs {
    /// Be the peer of this configuration file and send over channels; --to is then PEER/SERVICE
    #[arg(long, value_name = "FILE", requires = "bandwidth",
          conflicts_with_all = ["from", "flows", "count", "expect_echo", "cpu"])]
    pub(super) config: Option<PathBuf>,
    /// Channels to open; each carries one flow, and they take turns
    #[arg(long, value_name = "N", default_value_t = 1, requires = "config",
          value_parser = clap::value_parser!(u64).range(1..=spanway::limits::CHANNELS_MAX as u64))]
    channels: u64,
    /// What each channel reserves, headers included, as in 1Mbit/s
    #[arg(long, value_name = "RATE", requires = "config")]
    bandwidth: Option<Bandwidth>,
    /// What each channel reserves for the way back [default: 2 %, at least 64 kbit/s]
    #[arg(long, value_name = "RATE", requires = "config")]
    bandwidth_back: Option<Bandwidth>,
    /// Requests for channels that are under way at the same time
    #[arg(long, value_name = "N", default_value_t = 32, requires = "config",
          value_parser = clap::value_parser!(u16).range(1..=100))]
    at_once: u16,
    /// Seal the channels between the two ends: what the path costs is then measured with it
    #[arg(long, requires = "config")]
    sealed: bool,
    /// How long a path to PEER may be missing at the start
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "config",
          value_parser = duration)]
    patience: Duration,
}

/// Flags of `sink` that only a peer has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "As a peer of an overlay")]
pub(super) struct SinkPeerArgs {
    /// Be the peer of this configuration file and take the channels to all of its services
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["listen", "count", "idle", "hgrm", "control", "cpu"])]
    pub(super) config: Option<PathBuf>,
    /// End when all channels that came are closed again
    #[arg(long, requires = "config")]
    once: bool,
}

/// `PEER/SERVICE`.
pub(super) fn service(text: &str) -> Result<(PeerName, ServiceName), String> {
    let wrong = || format!("{text:?} is not a service: write PEER/SERVICE, as in peer-02/inbox");
    let (peer, service) = text.split_once('/').ok_or_else(wrong)?;
    let name = |error: NameError| error.to_string();
    Ok((peer.parse().map_err(name)?, service.parse().map_err(name)?))
}

pub(super) fn generate(
    arguments: &GenPeerArgs,
    config: &Path,
    (peer, service): (PeerName, ServiceName),
    load: Load,
    json: bool,
) -> Result<End, Failure> {
    let Some(bandwidth) = arguments.bandwidth else {
        return Err(Failure::Usage(
            "--bandwidth is missing: what each channel reserves".to_owned(),
        ));
    };
    spanway::trace::start_at("warn");
    let options = GenOptions {
        config: config.to_owned(),
        peer,
        service,
        channels: arguments.channels,
        bandwidth,
        bandwidth_back: arguments.bandwidth_back,
        load,
        at_once: usize::from(arguments.at_once),
        sealed: arguments.sealed,
        patience: arguments.patience,
    };
    let report = peer::generate(&options, &mut teller()).map_err(failure)?;
    let (text, complaints) = (report.clone(), report.complaints());
    show(json, &Document::GenPeer(Box::new(report)), |out| gen_words(out, &text))?;
    Ok(end(&complaints))
}

pub(super) fn sink(
    arguments: &SinkPeerArgs,
    config: &Path,
    verify: Verify,
    elapsed: Option<Duration>,
    json: bool,
) -> Result<End, Failure> {
    spanway::trace::start_at("warn");
    let config = config.to_owned();
    let options = SinkOptions { config, verify, once: arguments.once, duration: elapsed };
    let report = peer::sink(&options, &mut teller()).map_err(failure)?;
    let (text, complaints) = (report.clone(), report.complaints());
    show(json, &Document::SinkPeer(Box::new(report)), |out| sink_words(out, &text))?;
    Ok(end(&complaints))
}

fn failure(error: PeerError) -> Failure {
    if error.is_usage() {
        Failure::Usage(error.to_string())
    } else {
        Failure::Failed(error.to_string())
    }
}

fn end(complaints: &[String]) -> End {
    for complaint in complaints {
        say(&format!("warning: {complaint}"));
    }
    if complaints.is_empty() { End::Done } else { End::Bad }
}

/// Progress on standard error: every second on a terminal, elsewhere when paths go or come.
fn teller() -> impl FnMut(&Progress) {
    let terminal = io::stderr().is_terminal();
    let mut before = Progress::default();
    move |now| {
        if now.without_path != before.without_path {
            say(&format!("{} of {} channels have no path", now.without_path, now.channels));
        }
        if terminal {
            let seconds = (now.elapsed - before.elapsed).as_secs_f64().max(1e-3);
            let rate = |after: u64, before: u64| per_second((after - before) as f64 / seconds);
            say(&format!(
                "{:6.1} s  {} channels  sent {:>10}  received {:>10}  not sent {}",
                now.elapsed.as_secs_f64(),
                now.channels,
                rate(now.sent, before.sent),
                rate(now.received, before.received),
                now.unsent
            ));
        }
        before = *now;
    }
}

fn gen_words(out: &mut dyn Write, report: &GenReport) -> io::Result<()> {
    let opening = &report.opening;
    let to = format!("{}/{}", report.peer, report.service);
    writeln!(out, "opened       {} channels to {to} in {} ms", opening.opened, opening.set_up_ms)?;
    latency(out, "one open", &opening.open)?;
    let source = report.outcome.source.clone().unwrap_or_default();
    latency(out, "first send", &source.to_first)?;
    let rate = report.sent as f64 * 1e3 / report.run_ms.max(1) as f64;
    writeln!(
        out,
        "sent         {} frames in {:.3} s: {}",
        report.sent,
        report.run_ms as f64 / 1e3,
        per_second(rate)
    )?;
    for (name, count, why) in [
        ("not sent", report.unsent, "frames that were due: no path, or a full socket"),
        ("skipped", source.skipped, "frames: this machine stalled for too long"),
    ] {
        if count > 0 {
            writeln!(out, "{name:<12} {count} {why}")?;
        }
    }
    drops(out, report.outcome.drops.iter())
}

fn sink_words(out: &mut dyn Write, report: &SinkReport) -> io::Result<()> {
    let taken = report.outcome.taken.clone().unwrap_or_default();
    let totals = &taken.totals;
    let received = totals.received + taken.opening_frames;
    writeln!(out, "received     {received} frames of {} channels", taken.channels)?;
    writeln!(out, "lost         {} of the {} that were sent", taken.lost, taken.sent)?;
    writeln!(
        out,
        "duplicated   {}   reordered {}   corrupted {}   foreign {}",
        totals.duplicated, totals.reordered, totals.corrupted, totals.foreign
    )?;
    if let Some(count @ 1..) = report.outcome.kernel_drops {
        writeln!(out, "sink drops   {count} receives: this sink did not keep up")?;
    }
    latency(out, "latency", &taken.latency)?;
    latency(out, "first frame", &taken.first_frame)?;
    drops(out, report.outcome.drops.iter())
}

fn drops<'a>(
    out: &mut dyn Write,
    drops: impl Iterator<Item = (&'a String, &'a u64)>,
) -> io::Result<()> {
    for (reason, count) in drops {
        writeln!(out, "dropped      {count} datagrams of no channel: {reason}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_peer_and_a_name() {
        let (peer, name) = service("b/sink").expect("a service");
        assert_eq!((peer.as_str(), name.as_str()), ("b", "sink"));
        for text in ["b", "b/", "/sink", "b/a/c"] {
            assert!(service(text).is_err(), "{text}");
        }
    }
}

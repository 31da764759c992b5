//! What every command shares: the two streams, signals, numbers as people read them.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::Failure;
use crate::documents::Document;
use crate::latency::LatencySummary;

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A line on standard error. There is nobody left to tell if that fails.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes a result to standard output, as JSON if that was asked for.
pub(super) fn show(
    json: bool,
    document: &Document,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = if json {
        let json = serde_json::to_string_pretty(document)?;
        writeln!(out, "{json}")
    } else {
        text(&mut out)
    };
    match written.and_then(|()| out.flush()) {
        // Whoever read it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Failed(format!("standard output cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// A flag that Ctrl-C and SIGTERM set, so that a run ends with its summary. A second one ends the process.
pub(super) fn stop_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal only sets the flag.
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// `1.23 us`, `45.0 ms`.
pub(super) fn time(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// `9.60 Mbit/s`.
pub(super) fn bits(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e9 => format!("{:.2} Gbit/s", rate / 1e9),
        rate if rate >= 1e6 => format!("{:.2} Mbit/s", rate / 1e6),
        rate => format!("{:.1} kbit/s", rate / 1e3),
    }
}

/// The rows of a latency, or one that says why there are none.
pub(super) fn latency(out: &mut dyn Write, name: &str, summary: &LatencySummary) -> io::Result<()> {
    if summary.count == 0 {
        return writeln!(out, "{name:<12} nothing to measure");
    }
    let what = if summary.clocks_differ { "above the fastest" } else { "" };
    let values = [
        ("min", summary.min_ns),
        ("p50", summary.p50_ns),
        ("p90", summary.p90_ns),
        ("p99", summary.p99_ns),
        ("p99.9", summary.p999_ns),
        ("max", summary.max_ns),
    ];
    let values: Vec<String> =
        values.iter().map(|(name, ns)| format!("{name} {}", time(*ns))).collect();
    writeln!(out, "{name:<12} {}  {what}", values.join("  "))?;
    if summary.clocks_differ {
        let by = time(summary.raw_min_ns.unsigned_abs());
        writeln!(out, "{:<12} the clocks of the two ends differ by about {by}", "")?;
    }
    Ok(())
}

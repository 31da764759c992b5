//! `cargo xtask cost`: what trees cost in overlays of 10 to 10,000 peers, simulated.
//!
//! Messages and hops for the first tree, for a link that fails and for a peer that fails, as a table, a
//! chart and JSON. What is simulated, and what is left out in large overlays: `src/sim/cost.rs`.

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]
#![allow(clippy::disallowed_methods, reason = "a table says how long it took")]

mod chart;
mod report;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use spanway::sim::cost::{self, Cost, Costs};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Sizes of overlays.
    #[arg(long, num_args = 1.., default_values_t = [10, 100, 1_000, 10_000])]
    peers: Vec<usize>,
    /// Links of each peer: an even number.
    #[arg(long, default_value_t = 6)]
    degree: usize,
    /// Overlays of each size, by seed from 1 on.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// From this size on the peers share one copy of the tree.
    #[arg(long, default_value_t = 2_000)]
    shared: usize,
    /// Where cost.md, cost.json and cost.svg go.
    #[arg(long, default_value = "target/cost")]
    out: PathBuf,
}

/// Overlays of one size.
#[derive(Serialize)]
struct Size {
    peers: usize,
    degree: usize,
    seeds: u64,
    /// The peers shared one copy of the committed tree.
    shared: bool,
    /// Means over the seeds.
    links: f64,
    events: Vec<Row>,
    /// For all seeds together, on one core.
    seconds: f64,
    /// Of the process, since this size began.
    peak_mib: f64,
}

/// Means over the seeds.
#[derive(Serialize)]
struct Row {
    event: &'static str,
    sessions: f64,
    messages: f64,
    algorithm: f64,
    around: f64,
    hops: f64,
    hops_of_session: f64,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    if !arguments.degree.is_multiple_of(2) || arguments.peers.iter().any(|peers| *peers < 3) {
        println!("--degree must be even and --peers at least 3");
        return false;
    }
    let mut sizes = Vec::new();
    for &peers in &arguments.peers {
        let size = measure(arguments, peers);
        println!("{}", report::lines(&size));
        sizes.push(size);
    }
    let json = serde_json::to_string_pretty(&sizes).expect("plain numbers");
    let files = [
        ("cost.md", report::document(&sizes)),
        ("cost.json", json + "\n"),
        ("cost.svg", chart::svg(&sizes)),
    ];
    let written = fs::create_dir_all(&arguments.out).and_then(|()| {
        files.iter().try_for_each(|(name, text)| fs::write(arguments.out.join(name), text))
    });
    match &written {
        Ok(()) => println!("written to {}", arguments.out.display()),
        Err(error) => println!("{}: {error}", arguments.out.display()),
    }
    written.is_ok()
}

fn measure(arguments: &Arguments, peers: usize) -> Size {
    let Arguments { degree, seeds, shared, .. } = *arguments;
    forget_peak();
    let started = Instant::now();
    let costs: Vec<Costs> = (1..=seeds)
        .map(|seed| cost::measure(&cost::Plan { seed, peers, degree, shared }))
        .collect();
    let row = |event, of: fn(&Costs) -> Cost| {
        let mean = |value: fn(&Cost) -> usize| mean(costs.iter().map(|costs| value(&of(costs))));
        Row {
            event,
            sessions: mean(|cost| cost.sessions),
            messages: mean(|cost| cost.messages),
            algorithm: mean(|cost| cost.algorithm),
            around: mean(|cost| cost.around),
            hops: mean(|cost| cost.hops),
            hops_of_session: mean(|cost| cost.hops_of_session),
        }
    };
    Size {
        peers,
        degree,
        seeds,
        shared: peers >= shared,
        links: mean(costs.iter().map(|costs| costs.links)),
        events: vec![
            row("first tree", |costs| costs.first),
            row("link failure", |costs| costs.link_failure),
            row("peer failure", |costs| costs.peer_failure),
        ],
        seconds: started.elapsed().as_secs_f64(),
        peak_mib: peak_mib(),
    }
}

fn mean(values: impl ExactSizeIterator<Item = usize>) -> f64 {
    let count = values.len() as f64;
    values.sum::<usize>() as f64 / count
}

/// The kernel's high-water mark of this process begins anew. Where it cannot, the largest so far counts.
fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn peak_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1_024.0
}

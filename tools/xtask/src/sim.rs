//! `cargo xtask sim`: many seeds of the deterministic world, or one seed with its log.

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use spanway::sim::scenario::{Outcome, Scenario};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Run this many seeds.
    #[arg(long, default_value_t = 2_000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Run this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event of it.
    #[arg(long, requires = "seed")]
    log: bool,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    match arguments.seed {
        Some(seed) => replay(seed, arguments.log),
        None => run_many(arguments.from, arguments.seeds),
    }
}

fn replay(seed: u64, log: bool) -> bool {
    let scenario = Scenario::new(seed);
    let mut sim = scenario.sim();
    if log {
        sim.keep_log();
    }
    let result = scenario.judge(&mut sim);
    for line in sim.log() {
        println!("{line}");
    }
    for (one, other, capacity) in &scenario.plan.links {
        println!("link {} {} {capacity}", scenario.plan.peers[*one], scenario.plan.peers[*other]);
    }
    for strike in sim.strikes() {
        println!("{strike:?}");
    }
    match result {
        Ok(outcome) => {
            println!("seed {seed}: correct, {}", describe(&outcome));
            true
        }
        Err(wrong) => {
            println!("seed {seed}: WRONG: {wrong}");
            false
        }
    }
}

pub(crate) fn run_many(from: u64, seeds: u64) -> bool {
    let next = AtomicU64::new(from);
    let work = || {
        let mut failures = 0u64;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return failures;
            }
            if let Err(wrong) = Scenario::new(seed).run() {
                failures += 1;
                println!("seed {seed}: {wrong}\n  cargo xtask sim --seed {seed} --log");
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: u64 = std::thread::scope(|scope| {
        let others: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        others.into_iter().map(|thread| thread.join().expect("a run panicked")).sum()
    });
    println!("{seeds} seeds from {from}, {failures} wrong");
    failures == 0
}

fn describe(outcome: &Outcome) -> String {
    format!(
        "{} peers, {} links, {} components, settled in {:?}, struck before COMMIT: {}, hash {:016x}",
        outcome.peers,
        outcome.links,
        outcome.components,
        outcome.settled,
        outcome.struck_before_commit(),
        outcome.hash
    )
}

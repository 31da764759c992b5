//! `cargo xtask sim`: many seeds of the deterministic world, or one seed with its log.
//!
//! Two worlds: `tree`, overlays in which the tree is computed while faults strike, and `swarm`, with
//! channels, frames and more kinds of faults.

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, ValueEnum};
use spanway::sim::scenario::Scenario;
use spanway::sim::swarm::{Swarm, report};

#[derive(Args)]
pub(crate) struct Arguments {
    #[arg(long, value_enum, default_value_t = World::Tree)]
    world: World,
    /// Run this many seeds.
    #[arg(long, default_value_t = 2_000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Stop at the first of them that is wrong.
    #[arg(long, conflicts_with = "seed")]
    first: bool,
    /// Run this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event of it.
    #[arg(long, requires = "seed")]
    log: bool,
    /// Leave out of its script what its failure does not need, and print the last 200 events.
    #[arg(long, requires = "seed")]
    shrink: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum World {
    Tree,
    Swarm,
}

impl World {
    /// What a right run says of itself, or what is wrong.
    fn run(self, seed: u64) -> Result<String, String> {
        match self {
            Self::Tree => Scenario::new(seed).run().map(|outcome| format!("{outcome:?}")),
            Self::Swarm => Swarm::new(seed).run().map(|outcome| format!("{outcome:?}")),
        }
    }

    /// As [`World::run`], where a panic is a mistake like others.
    fn try_run(self, seed: u64) -> Result<String, String> {
        std::panic::catch_unwind(|| self.run(seed)).unwrap_or_else(|_| Err("a panic".to_owned()))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Swarm => "swarm",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    match arguments.seed {
        Some(seed) => replay(arguments, seed),
        None if arguments.first => run_to_first(arguments.world, arguments.from, arguments.seeds),
        None => run_many(arguments.world, arguments.from, arguments.seeds),
    }
}

fn replay(arguments: &Arguments, seed: u64) -> bool {
    let (log, result) = match arguments.world {
        World::Tree => {
            let scenario = Scenario::new(seed);
            let mut sim = scenario.sim();
            sim.keep_log();
            let result = scenario.judge(&mut sim).map(|outcome| format!("{outcome:?}"));
            for (one, other, capacity) in &scenario.plan.links {
                println!("link p{one:02} p{other:02} {capacity}");
            }
            sim.strikes().iter().for_each(|strike| println!("{strike:?}"));
            (sim.log().to_vec(), result)
        }
        World::Swarm => {
            let swarm = Swarm::new(seed);
            let mut sim = swarm.sim();
            sim.keep_log();
            let result = swarm.judge(&mut sim).map(|outcome| format!("{outcome:?}"));
            if let (Err(wrong), true) = (&result, arguments.shrink) {
                println!("{}", report(&swarm, wrong));
            }
            (sim.log().to_vec(), result)
        }
    };
    if arguments.log {
        log.iter().for_each(|line| println!("{line}"));
    }
    match result {
        Ok(outcome) => {
            println!("seed {seed}: correct, {outcome}");
            true
        }
        Err(wrong) => {
            println!("seed {seed}: WRONG: {wrong}");
            false
        }
    }
}

pub(crate) fn run_many(world: World, from: u64, seeds: u64) -> bool {
    let next = AtomicU64::new(from);
    let work = || {
        let mut failures = 0u64;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return failures;
            }
            let Err(wrong) = world.try_run(seed) else { continue };
            failures += 1;
            let name = world.name();
            println!(
                "seed {seed}: {wrong}\n  cargo xtask sim --world {name} --seed {seed} --shrink"
            );
        }
    };
    let failures: u64 = std::thread::scope(|scope| {
        let others: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        others.into_iter().map(|thread| thread.join().expect("a run panicked")).sum()
    });
    println!("{seeds} seeds from {from}, {failures} wrong");
    failures == 0
}

/// Begins the line that names the first wrong seed.
pub(crate) const FIRST_WRONG: &str = "first wrong seed: ";

/// Prints the least seed that is wrong; the seeds before it are right.
fn run_to_first(world: World, from: u64, seeds: u64) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicU64::new(from);
    let first = Mutex::new(None::<(u64, String)>);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let known = || first.lock().expect("no holder panics");
            if seed >= from + seeds || known().as_ref().is_some_and(|(least, _)| *least < seed) {
                return;
            }
            if let Err(wrong) = world.try_run(seed) {
                let mut first = known();
                if first.as_ref().is_none_or(|(least, _)| seed < *least) {
                    *first = Some((seed, wrong));
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads()).for_each(|_| drop(scope.spawn(work))));
    let first = first.into_inner().expect("no holder panicked");
    match &first {
        Some((seed, wrong)) => println!("{FIRST_WRONG}{seed}: {wrong}"),
        None => println!("{seeds} seeds from {from}, none wrong"),
    }
    first.is_none()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

//! `cargo xtask long`: what takes too long for CI, run by hand before a release: many more seeds of the
//! simulator, the larger model checks, the tests with real daemons again and again, chaos with many
//! seeds, generated questions to the web API, some trials of every way to recover, and one long demo as
//! a soak.

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

use std::process::Command;

use clap::Args;

use crate::sim::{self, World};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Random overlays of the simulator, of each world.
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// Rounds of the tests with real daemons; one failure in any of them fails all.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Seeds of the chaos test, each with three faults of every kind.
    #[arg(long, default_value_t = 20)]
    chaos: u64,
    /// Trials of each event of `cargo xtask recovery`.
    #[arg(long, default_value_t = 10)]
    trials: u32,
    /// Minutes that the demo streams, with a killed relay in the middle.
    #[arg(long, default_value_t = 10)]
    minutes: u32,
}

/// Of one seed of the chaos test: there are nine kinds of fault.
const CHAOS_STEPS: &str = "27";

/// To each route of the web API.
const QUESTIONS: &str = "500";

pub(crate) fn run(arguments: &Arguments) -> bool {
    println!("=== {} seeds of the simulator", arguments.seeds);
    if !sim::run_many(World::Tree, 0, arguments.seeds)
        || !sim::run_many(World::Swarm, 0, arguments.seeds)
    {
        return false;
    }
    println!("=== every order of messages in small overlays");
    let checks = ["--test", "model", "--", "--ignored", "--nocapture", "--test-threads", "1"];
    if !cargo(["test", "--release"].into_iter().chain(checks)) {
        return false;
    }
    for round in 1..=arguments.rounds {
        println!("=== real daemons, round {round} of {}", arguments.rounds);
        let tests = ["answers", "api", "crash", "daemon", "cli", "netns"];
        let tests = tests.iter().flat_map(|name| ["--test", name]);
        if !cargo(["test", "--release"].into_iter().chain(tests)) {
            return false;
        }
    }
    for seed in 1..=arguments.chaos {
        println!("=== chaos, seed {seed} of {}", arguments.chaos);
        let seed = seed.to_string();
        let variables =
            [("SPANWAY_CHAOS_SEED", seed.as_str()), ("SPANWAY_CHAOS_STEPS", CHAOS_STEPS)];
        let test = ["test", "--release", "--test", "chaos", "--", "--nocapture"];
        if !cargo_with(variables, test) {
            return false;
        }
    }
    println!("=== generated questions to the web API");
    if !cargo(["xtask", "schemathesis", "--examples", QUESTIONS]) {
        return false;
    }
    println!("=== {} trials of every way to recover", arguments.trials);
    let trials = arguments.trials.to_string();
    if !cargo(["xtask", "recovery", "--trials", &trials]) {
        return false;
    }
    let duration = format!("{}s", u64::from(arguments.minutes) * 60);
    println!("=== the demo for {duration}");
    cargo(["run", "--release", "--", "demo", "--duration", &duration])
}

fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> bool {
    cargo_with([], arguments)
}

fn cargo_with<'a, const N: usize>(
    variables: [(&str, &str); N],
    arguments: impl IntoIterator<Item = &'a str>,
) -> bool {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).envs(variables);
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            println!("{command:?} does not start: {error}");
            false
        }
    }
}

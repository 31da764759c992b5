//! `cargo xtask mutants`: does the simulator find the bugs that were planted on purpose?
//!
//! Builds everything once more with `--cfg mutants`, in a target folder of its own, then runs for each
//! bug seeds of the simulator until one is wrong. `--happy` also shows that nothing else finds our own
//! bugs: the unit tests (those of the simulator left out) and a demo with real daemons succeed with each.

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]
#![allow(clippy::disallowed_methods, reason = "a table says how long it took")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use spanway::mutant::{Mutant, VARIABLE};

use crate::sim::{FIRST_WRONG, World};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these bugs, by name.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Seeds for each, ten times as many for those that are rare.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Run the unit tests and a demo with each of our own bugs, too: they are to succeed.
    #[arg(long)]
    happy: bool,
}

const TARGET: &str = "target/mutants";

/// One line of the table.
struct Hunt {
    mutant: Mutant,
    world: World,
    seeds: u64,
    /// The first wrong seed and what was wrong.
    found: Option<(u64, String)>,
    took: Duration,
    /// What succeeded although the bug was there; none if it was not tried.
    unaware: Option<[bool; 2]>,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    let all = Mutant::all();
    let strange = |name: &&String| all.clone().all(|mutant| mutant.as_str() != *name);
    if let Some(name) = arguments.only.iter().find(strange) {
        let names: Vec<_> = all.clone().map(Mutant::as_str).collect();
        println!("there is no bug {name}; these are planted: {}", names.join(" "));
        return false;
    }
    let wanted = |mutant: &Mutant| {
        arguments.only.is_empty() || arguments.only.iter().any(|name| name == mutant.as_str())
    };
    if !build(arguments.happy) {
        return false;
    }
    let mut hunts = Vec::new();
    for mutant in all.filter(wanted) {
        let hunt = hunt(mutant, arguments);
        println!("{}", line(&hunt));
        hunts.push(hunt);
    }
    println!("\n{}", table(&hunts));
    hunts
        .iter()
        .all(|hunt| hunt.found.is_some() && hunt.unaware.is_none_or(|unaware| unaware == [true; 2]))
}

fn build(happy: bool) -> bool {
    let mut builds = vec![vec!["build", "--package", "xtask"]];
    if happy {
        builds.push(vec!["build", "--package", "spanway"]);
        builds.push(vec!["test", "--package", "spanway", "--lib", "--no-run"]);
    }
    builds.into_iter().all(|arguments| {
        let mut cargo = cargo(&arguments);
        let status = cargo.status();
        status.is_ok_and(|status| status.success())
    })
}

fn hunt(mutant: Mutant, arguments: &Arguments) -> Hunt {
    let world = if mutant.is_of_channels() { World::Swarm } else { World::Tree };
    let times = if mutant.is_rare() { 10 } else { 1 };
    let seeds = arguments.seeds * times;
    let started = Instant::now();
    let output = Command::new(format!("{TARGET}/debug/xtask"))
        .args(["sim", "--first", "--world", world.name(), "--seeds", &seeds.to_string()])
        .env(VARIABLE, mutant.as_str())
        .stderr(Stdio::inherit())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_else(|error| panic!("{TARGET}/debug/xtask does not start: {error}"));
    let found = text.lines().find_map(|line| line.strip_prefix(FIRST_WRONG)).map(|found| {
        let (seed, wrong) = found.split_once(": ").expect("a seed and what is wrong");
        (seed.parse().expect("a seed is a number"), wrong.to_owned())
    });
    let took = started.elapsed();
    let tried = arguments.happy && !mutant.is_of_the_table();
    let unaware = tried.then(|| [unit_tests(mutant), demo(mutant)]);
    Hunt { mutant, world, seeds, found, took, unaware }
}

/// Unit tests that are simulations: worlds of channels with faults by seed.
const SIMULATIONS: [&str; 4] = [
    "sim::",
    "a11_and_a16_crashes_and_cuts_leave_no_request_unanswered",
    "a12_no_link_is_ever_oversold_and_a16_closed_channels",
    "a2_channels_leave_a_relay_that_leaves_and_there_is_a_way",
];

fn unit_tests(mutant: Mutant) -> bool {
    let mut arguments = vec!["test", "--package", "spanway", "--lib", "--quiet", "--"];
    arguments.extend(SIMULATIONS.iter().flat_map(|name| ["--skip", name]));
    let mut command = cargo(&arguments);
    command.env(VARIABLE, mutant.as_str()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn demo(mutant: Mutant) -> bool {
    let mut command = Command::new(format!("{TARGET}/debug/spanway"));
    command.args(["demo", "--duration", "6s"]).env(VARIABLE, mutant.as_str());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).env("CARGO_TARGET_DIR", TARGET).env("RUSTFLAGS", "--cfg mutants");
    command
}

fn line(hunt: &Hunt) -> String {
    let name = hunt.mutant.as_str();
    let seconds = hunt.took.as_secs_f64();
    match &hunt.found {
        Some((seed, wrong)) => {
            let wrong: String = wrong.chars().take(120).collect();
            format!("{name}: found at seed {seed}, {seconds:.1} s: {wrong}")
        }
        None => format!("{name}: NOT FOUND in {} seeds, {seconds:.1} s", hunt.seeds),
    }
}

fn table(hunts: &[Hunt]) -> String {
    let mut text = String::from(
        "| bug | where | what it does | world | found at seed | seeds run | seconds | unit tests | demo |\n\
         | --- | --- | --- | --- | ---: | ---: | ---: | --- | --- |\n",
    );
    for hunt in hunts {
        let Hunt { mutant, world, seeds, found, took, unaware } = hunt;
        let (at, run) = match found {
            Some((seed, _)) => (seed.to_string(), seed + 1),
            None => ("none".to_owned(), *seeds),
        };
        let [units, demo] = match unaware {
            Some(unaware) => unaware.map(|unaware| if unaware { "pass" } else { "FAIL" }),
            None => ["", ""],
        };
        text += &format!(
            "| {} | {} | {} | {} | {at} | {run} | {:.1} | {units} | {demo} |\n",
            mutant.as_str(),
            mutant.place(),
            mutant.sentence(),
            world.name(),
            took.as_secs_f64(),
        );
    }
    text
}

//! Chaos with real processes: twelve daemons in a network namespace each, links limited by HTB, twenty
//! channels whose every byte is checked, and a seeded nemesis that kills, stops, cuts and moves peers.
//!
//! After every step the overlay has to be whole again, every channel carries again or was told why not,
//! and channels that crossed nothing of what was struck have lost nothing. At the end nothing is left.
//! `SPANWAY_CHAOS_SEED` and `SPANWAY_CHAOS_STEPS` choose the run; without them the commit does.
//!
//! Needs root, iproute2, tc and nft. Does not delay or reorder packets: the kernel of the tests cannot.

#![allow(clippy::print_stdout, reason = "a test tells what it did")]

mod common;
#[path = "chaos/flows.rs"]
mod flows;
#[path = "chaos/judge.rs"]
mod judge;
#[path = "chaos/nemesis.rs"]
mod nemesis;
#[path = "chaos/random.rs"]
mod random;
#[path = "chaos/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::netns;
use common::program::{now, pass, poll, wait_for};
use judge::{Script, Step};
use nemesis::{KINDS, Kind};
use random::Random;
use world::{LEASE, World};

/// Each kind once.
const STEPS: usize = KINDS.len();
/// Longest time from the healing of a fault to an overlay that agrees: the longest throttle of sessions
/// several times over, on a busy machine.
const AGREED: Duration = Duration::from_secs(60);

#[test]
fn a17_a16_channels_survive_a_nemesis_and_those_beside_it_lose_nothing() {
    if !netns::available_with(&["ip", "tc", "nft"]) {
        return;
    }
    let steps = number("SPANWAY_CHAOS_STEPS").map_or(STEPS, |steps| steps.try_into().expect("few"));
    chaos(number("SPANWAY_CHAOS_SEED").unwrap_or_else(seed_of_commit), steps);
}

fn chaos(seed: u64, steps: usize) {
    let mut script = Script::new(seed, steps);
    let mut random = Random::new(seed);
    let mut world = World::start(&mut random);
    let files = world.file_descriptors();
    world.open_all();
    let mut kinds = Vec::new();
    for number in 1..=steps {
        if kinds.is_empty() {
            kinds = KINDS.to_vec();
            random.shuffle(&mut kinds);
        }
        let kind = kinds.pop().expect("filled above");
        step(&mut world, &mut random, &mut script, (number, kind));
    }
    world.carry_everywhere(LEASE);
    judge::judge(&world, script.steps());
    end(world, &files);
    script.finish();
}

/// Strikes once, heals, and waits until everybody is well.
fn step(
    world: &mut World,
    random: &mut Random,
    script: &mut Script,
    (number, kind): (usize, Kind),
) {
    let before = world.paths();
    let started = now();
    let mut strike = nemesis::strike(world, random, kind, &before);
    script.line(format!("{number}: {}", strike.what));
    pass(strike.hold);
    strike.prove(world);
    nemesis::heal(world, &strike);
    let healed = now();
    world.agree(AGREED);
    let agreed = healed.elapsed();
    let told = world.fates(&strike);
    let mut step = Step::new(strike, before, told.clone(), (started, now()));
    step.touch(world);
    let (touched, alarms) = (step.touched(), step.alarms.clone());
    let mut reasons = BTreeMap::new();
    told.values().for_each(|why| *reasons.entry(why.as_str()).or_insert(0) += 1);
    script.line(format!(
        "   {}; agreed after {:.1} s; {touched} channels touched, told broken: {reasons:?}{}",
        step.strike.proof,
        agreed.as_secs_f64(),
        if alarms.is_empty() { String::new() } else { format!("; FALSE ALARMS {alarms:?}") },
    ));
    world.open_missing();
    script.add(step);
}

/// Closes everything; nothing of it may be left.
fn end(mut world: World, files: &[usize]) {
    world.close_all();
    wait_for("all capacity to be free again", LEASE + AGREED, || world.is_all_free());
    let open = poll(AGREED, || {
        let open = world.file_descriptors();
        open.iter().zip(files).all(|(open, before)| open <= before).then_some(())
    });
    assert!(
        open.is_some(),
        "{files:?} files open at the start, now {:?}",
        world.file_descriptors()
    );
    let (processes, namespaces) = (world.processes(), world.namespaces());
    world.leave_all();
    drop(world);
    for process in processes {
        assert!(!Path::new(&format!("/proc/{process}")).exists(), "process {process} is left");
    }
    for namespace in namespaces {
        let path = Path::new("/run/netns").join(&namespace);
        assert!(!path.exists(), "namespace {namespace} is left");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Every commit is tried with another seed, and the same commit always with the same.
fn seed_of_commit() -> u64 {
    let head = Command::new("git").args(["rev-parse", "HEAD"]).output();
    let head =
        head.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    head.get(..8).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(1)
}

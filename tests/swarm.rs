//! Whole overlays in the deterministic world: channels with frames while peers crash, hang, leave, links
//! are cut, deaf or stalled; then the world heals and has to come to order.
//!
//! A failure prints its seed, the commit, the smallest script that shows it, the last events and the
//! command that replays it.

#![allow(clippy::print_stdout, reason = "counts are for people")]
#![expect(clippy::disallowed_methods, reason = "a run that does not end is told by a clock")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::seeds;
use spanway::sim::swarm::{Outcome, Swarm, report};

const SEEDS: u64 = 2_000;

/// I1 to I7 and I9 for every seed, every fourth of them without a failure.
#[test]
fn a17_a12_a2_swarms_lose_nothing_that_no_fault_touched_and_come_to_order() {
    let (first, commit) = seeds::fresh(SEEDS);
    let seeds: Vec<u64> = (first..first + SEEDS).chain(seeds::failed_once("swarm")).collect();
    let outcomes = run_all(&seeds, &commit);
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (delivered, lost) = (sum(|o| o.delivered), sum(|o| o.lost));
    let hits: usize = outcomes.iter().map(|outcome| outcome.hits).sum();
    let channels: usize = outcomes.iter().map(|outcome| outcome.channels).sum();
    println!("{} seeds from {first}: {delivered} frames delivered, {lost} lost", seeds.len());
    println!("{hits} faults struck, {channels} channels were open in the end");
    assert!(delivered > 100 * SEEDS && lost > SEEDS, "nothing happened");
    assert!(hits as u64 > 5 * SEEDS && channels as u64 > SEEDS / 2, "nothing happened");
}

#[test]
fn the_same_swarm_twice_is_the_same_run_event_for_event() {
    for seed in [2, 5, 9] {
        let swarm = Swarm::new(seed);
        let run = || {
            let mut sim = swarm.sim();
            sim.keep_log();
            let outcome = swarm.judge(&mut sim).expect("a correct run");
            (outcome, sim.log().to_vec())
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

/// Ends the test, with the seed, if a run does not end.
struct Watched(Arc<AtomicBool>);

/// A run takes a tenth of a second.
const LONGEST: Duration = Duration::from_secs(120);

impl Watched {
    fn start(seed: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        std::thread::spawn(move || {
            for _ in 0..LONGEST.as_millis() / 100 {
                std::thread::sleep(Duration::from_millis(100));
                if told.load(Ordering::Relaxed) {
                    return;
                }
            }
            println!("seed {seed} does not end\n  cargo xtask sim --world swarm --seed {seed}");
            std::process::exit(101);
        });
        Self(over)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two threads; panics with the first failures, shrunk.
fn run_all(seeds: &[u64], commit: &str) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let _watched = Watched::start(*seed);
            results.push((*seed, Swarm::new(*seed).run()));
        }
        results
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut results = work();
        results.extend(other.join().expect("the other half ran"));
        results
    });
    let mut outcomes = Vec::new();
    let mut failures = Vec::new();
    for (seed, result) in results {
        match result {
            Ok(outcome) => outcomes.push(outcome),
            Err(wrong) => failures.push((seed, wrong)),
        }
    }
    if let Some((seed, wrong)) = failures.first() {
        println!("{}", report(&Swarm::new(*seed), wrong));
    }
    let list: Vec<_> = failures
        .iter()
        .map(|(seed, wrong)| {
            format!("{wrong}\n  cargo xtask sim --world swarm --seed {seed} --shrink")
        })
        .collect();
    assert!(list.is_empty(), "commit {commit}, {} failures:\n{}", list.len(), list.join("\n"));
    outcomes
}

//! `cargo xtask admission --rate`: how fast real daemons answer, in network namespaces, asked over their
//! local interface. Loads: one request at a time over three links, many at a time through one relay, many
//! channels open at once through one relay, and more requests beside those.
//!
//! A request is timed from the connection to the daemon until its answer has been read. Everything shares
//! one machine: the daemons of all peers and the clients that ask.

#![expect(clippy::disallowed_methods, reason = "measures against real time")]

mod report;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use spanway::api::dto::{Open, PathChoice, Request};
use spanway::limits;
use spanway::types::{Bandwidth, PeerName, ServiceName};

use super::MBIT;
use crate::perf::build::Given;
use crate::perf::facts;
use crate::perf::failure::{Failure, Outcome};
use crate::perf::files;
use crate::perf::process::Interrupt;
use crate::perf::record::Facts;
use crate::recovery::plan::{Plan, name};
use crate::recovery::variant::Variant;
use crate::recovery::weather::Weather;
use crate::recovery::world::{Tools, World};

/// Far more than all channels of a trial together.
const CAPACITY_MBPS: u64 = 100_000;
const RATE_BPS: u64 = MBIT;
/// Of the overlay before each load: facts have been told, and no session is waited for.
const QUIET: Duration = Duration::from_secs(2);
/// Channels nobody refreshes are gone after this.
const HELD: Duration = limits::LEASE.saturating_add(Duration::from_secs(2));
/// Answers of the first load, and admissions of the second.
const ALONE: u32 = 1_000;
const TOGETHER: u32 = 5_000;

#[derive(clap::Args)]
pub(crate) struct Lab {
    /// Measure how fast daemons answer, in network namespaces, in place of what they admit.
    #[arg(long)]
    pub(super) rate: bool,
    /// With --rate: requests under way at the same time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100))]
    in_flight: u32,
    /// With --rate: channels that are open at once.
    #[arg(long, default_value_t = 10_000)]
    channels: u32,
    /// With --rate: every load once in each.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    #[command(flatten)]
    given: Given,
}

#[derive(Serialize)]
struct Record {
    facts: Facts,
    rounds: Vec<Round>,
}

#[derive(Serialize)]
struct Round {
    /// One at a time over three links; each channel is closed before the next is asked for.
    alone: Load,
    /// Many at a time through one relay; each is closed at once.
    together: Load,
    /// ... and none is closed.
    many: Load,
    /// As `together`, while those are open.
    beside: Load,
    /// All of them after they had been left alone for longer than a lease.
    held: Held,
}

/// What came of many requests.
#[derive(Serialize)]
struct Load {
    asked: u32,
    in_flight: u32,
    /// From the first request to the last answer.
    seconds: f64,
    open_ms: Quantiles,
    /// Nothing of a load that keeps its channels.
    close_ms: Quantiles,
    /// CPU time of each peer's daemon for one request, in the order of the path.
    cpu_us: Vec<f64>,
    steal_ms: f64,
    run_queue_ms: f64,
}

#[derive(Default, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
struct Held {
    seconds: f64,
    /// As the peers list them, in the order of the path.
    channels: Vec<usize>,
    /// Part of one CPU that each daemon took.
    cpu: Vec<f64>,
    /// Until the last was closed.
    close_seconds: f64,
}

/// How a load is put on.
#[derive(Clone, Copy)]
struct How {
    asked: u32,
    in_flight: u32,
    keep: bool,
}

pub(super) fn run(lab: &Lab, folder: &Path) -> bool {
    let measured = measure(lab).and_then(|record| {
        let text = report::markdown(&record);
        files::write(&record, &text, folder, "rate")?;
        println!("{text}");
        Ok(report::goals_met(&record))
    });
    measured.unwrap_or_else(|failure| {
        println!("cargo xtask admission: {failure}");
        false
    })
}

fn measure(lab: &Lab) -> Outcome<Record> {
    let tools = Tools::ready(&lab.given)?;
    let rounds = (0..lab.rounds).map(|round| {
        println!("round {} of {}", round + 1, lab.rounds);
        one_round(lab, &tools)
    });
    Ok(Record { facts: facts::gather(), rounds: rounds.collect::<Outcome<_>>()? })
}

fn one_round(lab: &Lab, tools: &Tools) -> Outcome<Round> {
    let alone = {
        let world = line(4, tools)?;
        put_on(&world, How { asked: ALONE, in_flight: 1, keep: false })?.0
    };
    println!("  one at a time over 3 links: {}", report::words(&alone));
    let world = line(3, tools)?;
    let in_flight = lab.in_flight;
    let (together, _) = put_on(&world, How { asked: TOGETHER, in_flight, keep: false })?;
    println!("  {in_flight} at a time through a relay: {}", report::words(&together));
    let asked = lab.channels;
    let (many, channels) = put_on(&world, How { asked, in_flight, keep: true })?;
    println!("  {asked} channels: {}", report::words(&many));
    let (beside, _) = put_on(&world, How { asked: TOGETHER, in_flight, keep: false })?;
    println!("  {in_flight} at a time beside them: {}", report::words(&beside));
    let held = hold(&world, &channels, in_flight, &tools.interrupt)?;
    println!("  held for {:.1} s, closed in {:.1} s", held.seconds, held.close_seconds);
    Ok(Round { alone, together, many, beside, held })
}

/// An overlay of so many peers in a row that has come to rest.
fn line(peers: usize, tools: &Tools) -> Outcome<World> {
    let mut world = World::start(Plan::line(peers, CAPACITY_MBPS), Variant::Channels, &[], tools)?;
    world.settle()?;
    tools.interrupt.pause(QUIET)?;
    Ok(world)
}

/// Asks at the first peer for channels to the last; what was kept is named.
fn put_on(world: &World, how: How) -> Outcome<(Load, Vec<String>)> {
    let cpu = all_cpu_ns(world)?;
    let weather = Weather::read(world.daemon_ids());
    let times = Mutex::new((Vec::new(), Vec::new()));
    let start = Instant::now();
    let kept = side_by_side(how.asked, how.in_flight, |_| {
        let (channel, took) = open(world)?;
        if how.keep {
            lock(&times).0.push(took);
            return Ok(Some(channel));
        }
        let closing = Instant::now();
        close(world, channel)?;
        let mut times = lock(&times);
        times.0.push(took);
        times.1.push(closing.elapsed());
        Ok(None)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let [steal_ms, run_queue_ms] = Weather::read(world.daemon_ids()).since(&weather);
    let spent = all_cpu_ns(world)?;
    let cpu_us = spent.iter().zip(&cpu).map(|(after, before)| {
        Duration::from_nanos(after - before).as_secs_f64() * 1e6 / f64::from(how.asked)
    });
    let (opens, closes) = times.into_inner().unwrap_or_default();
    let How { asked, in_flight, .. } = how;
    let load = Load {
        asked,
        in_flight,
        seconds,
        open_ms: Quantiles::of(opens),
        close_ms: Quantiles::of(closes),
        cpu_us: cpu_us.collect(),
        steal_ms,
        run_queue_ms,
    };
    Ok((load, kept.into_iter().flatten().collect()))
}

/// Leaves the channels alone for longer than a lease, then closes all of them.
fn hold(world: &World, kept: &[String], at_once: u32, interrupt: &Interrupt) -> Outcome<Held> {
    let (start, before) = (Instant::now(), all_cpu_ns(world)?);
    interrupt.pause(HELD)?;
    let (after, seconds) = (all_cpu_ns(world)?, start.elapsed().as_secs_f64());
    let share = |(after, before): (&u64, &u64)| {
        Duration::from_nanos(after - before).as_secs_f64() / seconds
    };
    let cpu = after.iter().zip(&before).map(share).collect();
    let listed = |peer| {
        let rows = world.ask(peer, &Request::Channels)?;
        let open = rows.as_array().map(|rows| rows.iter().filter(|row| row["state"] == "open"));
        Ok(open.map_or(0, Iterator::count))
    };
    let channels = (0..world.plan.peers).map(listed).collect::<Outcome<_>>()?;
    let closing = Instant::now();
    let many = u32::try_from(kept.len()).unwrap_or(u32::MAX);
    side_by_side(many, at_once, |at| close(world, kept[at as usize].clone()))?;
    Ok(Held { seconds, channels, cpu, close_seconds: closing.elapsed().as_secs_f64() })
}

/// Does something so many times, some of them at the same time. The first failure ends it.
fn side_by_side<T: Send>(
    times: u32,
    at_once: u32,
    act: impl Fn(u32) -> Outcome<T> + Sync,
) -> Outcome<Vec<T>> {
    let next = AtomicU32::new(0);
    let one_after_the_other = || -> Outcome<Vec<T>> {
        let numbers = std::iter::from_fn(|| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (number < times).then_some(number)
        });
        // A failure leaves nothing for the others.
        let stop = |_: &Failure| next.store(times, Ordering::Relaxed);
        numbers.map(|number| act(number).inspect_err(stop)).collect()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(one_after_the_other)).collect();
        let mut all = Vec::new();
        for thread in threads {
            let done = thread.join().map_err(|_| Failure::new("a client panicked"))?;
            all.extend(done?);
        }
        Ok(all)
    })
}

fn open(world: &World) -> Outcome<(String, Duration)> {
    let last = name(world.plan.peers - 1);
    let request = Request::Open(Open {
        peer: PeerName::new(&last).map_err(Failure::of(&last))?,
        service: ServiceName::new("s0").map_err(Failure::of("s0"))?,
        bandwidth_bps: Bandwidth::from_bps(RATE_BPS),
        bandwidth_back_bps: None,
        name: None,
        listen: None,
        deliver: None,
        from: None,
        path: PathChoice::default(),
        avoid: Vec::new(),
        deadline_ms: 5_000,
        wait: false,
        protect: false,
        shape: false,
        keep: false,
        plain: false,
        idempotency_key: None,
    });
    let start = Instant::now();
    let reply: Value = world.ask(0, &request)?;
    let took = start.elapsed();
    match (&reply["outcome"], reply["channel"].as_str()) {
        (outcome, Some(channel)) if outcome == "open" => Ok((channel.to_owned(), took)),
        _ => Err(Failure::new(format!("not opened: {reply}"))),
    }
}

fn close(world: &World, channel: String) -> Outcome<()> {
    world.ask(0, &Request::Close { channel }).map(drop)
}

fn all_cpu_ns(world: &World) -> Outcome<Vec<u64>> {
    (0..world.plan.peers).map(|peer| world.cpu_ns(peer)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Quantiles {
    fn of(times: Vec<Duration>) -> Self {
        let ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        let at = |at| crate::recovery::flow::quantile(ms.clone(), at).unwrap_or_default();
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_and_a_failure_ends_it() {
        let done = side_by_side(100, 4, Ok).map(|mut done| {
            done.sort_unstable();
            done
        });
        assert_eq!(done, Ok((0..100).collect()));
        let tried = AtomicU32::new(0);
        let failed = side_by_side(1_000_000, 4, |number| {
            tried.fetch_add(1, Ordering::Relaxed);
            if number == 10 { Err(Failure::new("no")) } else { Ok(()) }
        });
        assert_eq!(failed, Err(Failure::new("no")));
        assert!(tried.load(Ordering::Relaxed) < 1_000_000);
    }

    #[test]
    fn quantiles_are_in_milliseconds() {
        let of = Quantiles::of((1..=200).map(Duration::from_millis).collect());
        assert_eq!((of.p50, of.p99, of.max), (100.0, 198.0, 200.0));
    }
}

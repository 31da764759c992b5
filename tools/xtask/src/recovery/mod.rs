//! `cargo xtask recovery`: how long a stream stands still when something on its path dies, in a random
//! overlay of real daemons in network namespaces, and beside rivals. Method and goals: `perf/README.md`.
//!
//! ```text
//! plan (which overlay) -> world (daemons) -> trial (stream, strike, heal) -> record -> report, chart
//!                                            stream -> flow (what the receiver saw)
//! ```

#![expect(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

mod alarm;
mod chart;
pub(crate) mod flow;
pub(crate) mod plan;
mod record;
pub(crate) mod report;
mod rival;
mod rivals;
pub(crate) mod stream;
mod strike;
mod trial;
pub(crate) mod variant;
pub(crate) mod weather;
pub(crate) mod world;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use plan::Plan;
use record::{Record, Row, Settings};
use rival::Rival;
use rivals::Ring;
use strike::Event;
use trial::Bench;
use variant::Variant;
use world::{Tools, World};

use crate::perf::build::Given;
use crate::perf::facts;
use crate::perf::failure::{Failure, Outcome};

/// Trials in one overlay; then comes the next one.
const TRIALS_PER_WORLD: u32 = 10;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Of each event
    #[arg(long, default_value_t = 50)]
    trials: u32,
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(4..=64))]
    peers: u16,
    /// What happens; everything if none is named
    #[arg(long, value_delimiter = ',')]
    event: Vec<Event>,
    /// How to recover; every way that the daemon knows if none is named
    #[arg(long, value_delimiter = ',')]
    mode: Vec<Variant>,
    /// Only with a second path installed, as --mode protect
    #[arg(long, conflicts_with = "mode")]
    protect: bool,
    /// Of the first overlay
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Of the overlay before each trial: the throttle of sessions has forgotten what was before
    #[arg(long, default_value_t = 10_500)]
    quiet_ms: u64,
    /// How long the overlay is loaded in search of a false alarm
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Measure the rivals that are installed, in place of Spanway
    #[arg(long)]
    rivals: bool,
    /// Where recovery.json, recovery.md and recovery.svg go
    #[arg(long, default_value = "target/recovery")]
    out: PathBuf,
    #[command(flatten)]
    given: Given,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    let result = measure(arguments);
    result.map_err(|failure| println!("cargo xtask recovery: {failure}")).is_ok()
}

fn measure(arguments: &Arguments) -> Outcome<()> {
    let tools = Tools::ready(&arguments.given)?;
    let mut record = Record {
        facts: facts::gather(),
        settings: Settings {
            peers: arguments.peers.into(),
            trials: arguments.trials,
            seed: arguments.seed,
            quiet_ms: arguments.quiet_ms,
        },
        rows: Vec::new(),
        alarms: Vec::new(),
        absent: Vec::new(),
    };
    let result = arguments.all(&tools, &mut record);
    // What there is of an interrupted run is worth looking at, too.
    write(&record, &arguments.out)?;
    result?;
    let failures: usize = record.rows.iter().map(|row| row.failures.len()).sum();
    if failures == 0 { Ok(()) } else { Err(Failure::new(format!("{failures} trials failed"))) }
}

impl Arguments {
    fn all(&self, tools: &Tools, record: &mut Record) -> Outcome<()> {
        if self.rivals {
            return self.rivals(tools, record);
        }
        let events = if self.event.is_empty() { &Event::ALL[..] } else { &self.event };
        let variants = match (&*self.mode, self.protect) {
            (_, true) => &[Variant::Protect],
            ([], false) => &Variant::ALL[..],
            (named, false) => named,
        };
        for &variant in variants {
            if !variant.is_known(&tools.spanway)? {
                let why = format!("{}: this daemon cannot do it", variant.name());
                println!("{why}");
                record.absent.push(why);
                continue;
            }
            for &event in events {
                self.one(event, variant, tools, record)?;
                write(record, &self.out)?;
            }
        }
        Ok(())
    }

    fn rivals(&self, tools: &Tools, record: &mut Record) -> Outcome<()> {
        for rival in Rival::ALL {
            if !rival.is_installed() {
                let why = format!("{}: not installed", rival.name());
                println!("{why}");
                record.absent.push(why);
                continue;
            }
            println!("=== {}, {}", rival.event().words(), rival.name());
            let mut row = Row::new(rival.event(), rival.name());
            let result = self.rival(rival, tools, &mut row);
            record.rows.push(row);
            write(record, &self.out)?;
            result?;
        }
        Ok(())
    }

    /// A rival that fails is not measured further.
    fn rival(&self, rival: Rival, tools: &Tools, row: &mut Row) -> Outcome<()> {
        let measured = Ring::start(rival, &tools.interrupt).and_then(|mut ring| {
            for turn in 0..self.trials {
                let trial = ring.trial()?;
                println!("{}", in_words(&trial, turn));
                row.trials.push(trial);
            }
            Ok(())
        });
        match measured {
            Err(Failure::Failed(why)) => {
                println!("{why}");
                row.failures.push(why);
                Ok(())
            }
            other => other,
        }
    }

    fn one(
        &self,
        event: Event,
        variant: Variant,
        tools: &Tools,
        record: &mut Record,
    ) -> Outcome<()> {
        println!("=== {}, {}", event.words(), variant.name());
        if event == Event::Alarm {
            let duration = Duration::from_secs(self.minutes * 60);
            let alarm = alarm::alarm(self.peers.into(), variant, duration, tools)?;
            println!(
                "{} links declared dead, {:.0} frames/s, CPUs {:.1} % busy",
                alarm.link_downs.len(),
                alarm.received_per_second,
                alarm.busy * 100.0
            );
            record.alarms.push(alarm);
            return Ok(());
        }
        record.rows.push(Row::new(event, variant.name()));
        let mut done = 0;
        while done < self.trials {
            let seed = self.seed + u64::from(done / TRIALS_PER_WORLD);
            let count = (self.trials - done).min(TRIALS_PER_WORLD);
            let Some(row) = record.rows.last_mut() else { return Ok(()) };
            self.in_one_world(event, variant, (seed, done..done + count), tools, row)?;
            done += count;
        }
        Ok(())
    }

    /// A failed trial ends the overlay, whose state nobody knows then; the rest goes on in a new one.
    fn in_one_world(
        &self,
        event: Event,
        variant: Variant,
        (seed, turns): (u64, std::ops::Range<u32>),
        tools: &Tools,
        row: &mut Row,
    ) -> Outcome<()> {
        let mut bench: Option<Bench> = None;
        for turn in turns {
            let mut now = match bench.take() {
                Some(bench) => bench,
                None => {
                    let plan = Plan::random(self.peers.into(), seed);
                    let world = World::start(plan, variant, &[], tools)?;
                    let quiet = Duration::from_millis(self.quiet_ms);
                    Bench::new(world, (variant, event), (seed, quiet), tools.interrupt.clone())
                }
            };
            match now.trial(turn as usize) {
                Ok(trial) => {
                    println!("{}", in_words(&trial, turn));
                    row.trials.push(trial);
                    bench = Some(now);
                }
                Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                Err(failure) => {
                    println!("trial {turn}: {failure}");
                    row.failures.push(format!("seed {seed}, trial {turn}: {failure}"));
                }
            }
        }
        Ok(())
    }
}

fn in_words(trial: &record::Trial, turn: u32) -> String {
    let flow = &trial.flow;
    let gap = flow.gap_ms.map_or_else(|| "never back".to_owned(), |gap| format!("{gap:.1} ms"));
    let mut text = format!(
        "{turn:>3}  gap {gap:>10}  lost {:>5}  again {}  out of order {}  {}  {} => {}",
        flow.lost, flow.repeated, flow.reordered, trial.struck, trial.path, trial.path_after
    );
    for one in &trial.bystanders {
        let p50 = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |us| format!("{us:.0}"));
        text += &format!(
            "\n     beside: lost {}, p50 {} us before, {} us after: {}",
            one.flow.lost,
            p50(one.before_p50_us),
            p50(one.after_p50_us),
            one.path
        );
    }
    text
}

fn write(record: &Record, folder: &PathBuf) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(Failure::of(folder.display()))?;
    let json = serde_json::to_string(record).map_err(Failure::of("the record"))?;
    let files =
        [("json", Some(json)), ("md", Some(report::markdown(record))), ("svg", chart::svg(record))];
    for (extension, text) in files {
        let Some(text) = text else { continue };
        let file = folder.join("recovery").with_extension(extension);
        fs::write(&file, text).map_err(Failure::of(file.display()))?;
    }
    Ok(())
}

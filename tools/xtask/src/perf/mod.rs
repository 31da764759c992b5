//! `cargo xtask perf`: what a frame costs and how many a second go through, for Spanway and for what
//! else can be installed, in one run on one machine. Method and limits: `perf/README.md`.
//!
//! ```text
//! plan (what) -> run (rounds) -> trial (one relay) -> load (one stream) -> record (every number)
//!                 net, process, candidates: the machine        |
//!                          statistics, metric, goals, report, chart: pure, from the record alone
//! ```

#![expect(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

pub(crate) mod build;
mod candidates;
mod chart;
pub(crate) mod facts;
pub(crate) mod failure;
pub(crate) mod files;
mod goals;
pub(crate) mod load;
mod metric;
pub(crate) mod net;
pub(crate) mod overlay;
pub(crate) mod plan;
pub(crate) mod process;
mod profile;
mod progress;
pub(crate) mod record;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod search;
pub(crate) mod statistics;
#[cfg(test)]
mod tests;
pub(crate) mod trial;
mod turn;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use build::{Given, Profile};
use candidates::{Candidate, Programs};
use failure::{Failure, Outcome};
use plan::{Kind, QUICK, SCENARIOS, SETTINGS, Scenario};
use process::Interrupt;
use record::{Record, Settings};
use run::{Bench, Entry};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Compare two revisions of the daemon in one run.
    Ab {
        /// Any name that git knows, for instance main~3.
        one: String,
        other: String,
        #[command(flatten)]
        run: RunArguments,
    },
    /// Say where the relay's CPU goes under blast (needs `perf`).
    Profile {
        #[arg(value_parser = scenario_names())]
        scenario: String,
        /// Of candidates; the daemon's io_uring back end if none is named.
        #[arg(long, value_delimiter = ',', value_parser = candidate_names())]
        only: Vec<String>,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        #[arg(long, default_value = "target/perf")]
        out: PathBuf,
        #[command(flatten)]
        given: Given,
    },
    /// Be the client of a TURN server for a moment, inside its network namespace.
    #[command(hide = true)]
    TurnBind { from: SocketAddr, server: SocketAddr, peer: SocketAddr },
    /// Make tables and charts again from stored records; several become one.
    Render {
        #[arg(required = true, value_name = "PERF.JSON")]
        records: Vec<PathBuf>,
        #[arg(long, default_value = "target/perf")]
        out: PathBuf,
    },
}

#[derive(Args)]
struct RunArguments {
    /// What to measure; `all` for everything.
    #[arg(long, value_delimiter = ',', default_value = "nic", value_parser = scenario_names())]
    scenario: Vec<String>,
    /// How often every candidate is measured.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: Option<u32>,
    /// Short loads and one round: shows that it works, the numbers are worth nothing.
    #[arg(long)]
    quick: bool,
    /// Of candidates; those of the scenario if none is named.
    #[arg(long, value_delimiter = ',', value_parser = candidate_names())]
    only: Vec<String>,
    /// Where perf.json, perf.md and the charts go.
    #[arg(long, default_value = "target/perf")]
    out: PathBuf,
    #[command(flatten)]
    given: Given,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    let result = match &arguments.command {
        None => measure(&arguments.run),
        Some(Command::Ab { one, other, run }) => compare(one, other, run),
        Some(Command::Profile { scenario, only, seconds, out, given }) => {
            let duration = Duration::from_secs(*seconds);
            profile(scenario, only, duration, out, given)
        }
        Some(Command::TurnBind { from, server, peer }) => turn::bind(*from, *server, *peer),
        Some(Command::Render { records, out }) => render(records, out),
    };
    result.map_err(|failure| println!("cargo xtask perf: {failure}")).is_ok()
}

fn measure(arguments: &RunArguments) -> Outcome<()> {
    let interrupt = Interrupt::install()?;
    net::available()?;
    let only = kinds(&arguments.only);
    let scenarios = scenarios(&arguments.scenario);
    let named = scenarios.iter().flat_map(|scenario| scenario.candidates);
    let needed: Vec<Kind> = if only.is_empty() { named.copied().collect() } else { only.clone() };
    let programs = build::programs(&needed, &arguments.given, Profile::Release)?;
    let entries: Vec<Entry> =
        scenarios.into_iter().map(|scenario| Entry::new(scenario, &only, &programs)).collect();
    finish(&arguments.bench(&programs, interrupt), &entries, &arguments.out)
}

fn compare(one: &str, other: &str, arguments: &RunArguments) -> Outcome<()> {
    let interrupt = Interrupt::install()?;
    net::available()?;
    let programs = build::programs(&[Kind::Yardstick], &arguments.given, Profile::Release)?;
    let (one_commit, one_program) = build::revision(one)?;
    let (other_commit, other_program) = build::revision(other)?;
    let kinds = match kinds(&arguments.only) {
        named if named.is_empty() => vec![Kind::Uring, Kind::Mmsg],
        named => named,
    };
    let mut entries = Vec::new();
    for scenario in scenarios(&arguments.scenario) {
        let mut entry = Entry::new(scenario, &[Kind::Yardstick], &programs);
        for &kind in kinds.iter().filter(|kind| matches!(kind, Kind::Uring | Kind::Mmsg)) {
            let first = Candidate::at_revision(kind, one, &one_commit, one_program.clone())?;
            entry.references.push(first.name.clone());
            entry.candidates.push(first);
            let second = Candidate::at_revision(kind, other, &other_commit, other_program.clone())?;
            entry.candidates.push(second);
        }
        entries.push(entry);
    }
    finish(&arguments.bench(&programs, interrupt), &entries, &arguments.out)
}

fn profile(
    scenario: &str,
    only: &[String],
    duration: Duration,
    out: &Path,
    given: &Given,
) -> Outcome<()> {
    let interrupt = Interrupt::install()?;
    let only = match kinds(only) {
        named if named.is_empty() => vec![Kind::Uring],
        named => named,
    };
    let programs = build::programs(&only, given, Profile::Release)?;
    for scenario in scenarios(&[scenario.to_owned()]) {
        let entry = Entry::new(scenario, &only, &programs);
        if let Some(absent) = entry.absent.first() {
            return Err(Failure::new(format!("{}: {}", absent.name, absent.why)));
        }
        let interrupt = interrupt.clone();
        let bench = Bench { settings: SETTINGS, pktgen: programs.pktgen.clone(), interrupt };
        profile::profile(&bench, &entry, duration, out)?;
    }
    Ok(())
}

fn render(records: &[PathBuf], out: &Path) -> Outcome<()> {
    let mut joined: Option<Record> = None;
    for file in records {
        let text = fs::read_to_string(file).map_err(Failure::of(file.display()))?;
        let record: Record = serde_json::from_str(&text).map_err(Failure::of(file.display()))?;
        joined = Some(match joined {
            None => record,
            Some(before) => before.join(record).map_err(Failure::of(file.display()))?,
        });
    }
    let record = joined.ok_or_else(|| Failure::new("name at least one perf.json"))?;
    show(&record, out)
}

fn finish(bench: &Bench, entries: &[Entry], out: &Path) -> Outcome<()> {
    for entry in entries {
        for absent in &entry.absent {
            println!("{}: without {}: {}", entry.scenario.name, absent.name, absent.why);
        }
    }
    let record = bench.run(entries)?;
    show(&record, out)?;
    bench.interrupt.check()?;
    let failures: usize = record.scenarios.iter().map(|scenario| scenario.failures.len()).sum();
    if failures == 0 { Ok(()) } else { Err(Failure::new(format!("{failures} trials failed"))) }
}

/// Writes the files, and says what the goals say.
fn show(record: &Record, out: &Path) -> Outcome<()> {
    run::write(record, out)?;
    for judgement in goals::judge(record) {
        let measured = judgement.summary.map(|summary| report::number(summary.median));
        if let Some(measured) = measured {
            let (goal, verdict) = (judgement.goal, judgement.verdict);
            let (id, sentence, bound) = (goal.id, goal.sentence(), goal.bound());
            println!("{id}: {sentence}: {measured}, goal {bound}: {verdict:?}");
        }
    }
    println!("{}", out.join("perf.md").display());
    Ok(())
}

impl RunArguments {
    fn bench(&self, programs: &Programs, interrupt: Interrupt) -> Bench {
        let settings = if self.quick { QUICK } else { SETTINGS };
        let settings = Settings { rounds: self.rounds.unwrap_or(settings.rounds), ..settings };
        Bench { settings, pktgen: programs.pktgen.clone(), interrupt }
    }
}

fn scenarios(names: &[String]) -> Vec<&'static Scenario> {
    let all = names.iter().any(|name| name == "all");
    let wanted = |scenario: &&Scenario| all || names.iter().any(|name| name == scenario.name);
    SCENARIOS.iter().filter(wanted).collect()
}

fn kinds(names: &[String]) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| names.iter().any(|name| name == kind.name())).collect()
}

fn scenario_names() -> PossibleValuesParser {
    SCENARIOS.iter().map(|scenario| scenario.name).chain(["all"]).collect::<Vec<_>>().into()
}

fn candidate_names() -> PossibleValuesParser {
    Kind::ALL.map(Kind::name).into()
}

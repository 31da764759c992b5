//! `cargo xtask flood`: what others notice of somebody who sends all he can: junk datagrams at a relay under
//! half of its load, connections without end, messages of a neighbour without end. Method and goals:
//! `perf/README.md`.

#![expect(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

mod junk;
// Shared with the tests, which say other lies.
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../../../tests/common/liar.rs"]
mod liar;
mod overlay;
mod report;

use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::perf::build::Given;
use crate::perf::facts;
use crate::perf::failure::{Failure, Outcome};
use crate::perf::files;
use crate::perf::record::Facts;
use crate::recovery::world::Tools;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often every case is measured
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Which floods; all if none is named
    #[arg(long, value_delimiter = ',')]
    only: Vec<Flood>,
    /// Connections a second
    #[arg(long, default_value_t = 10_000)]
    connects: u32,
    /// Where flood.json and flood.md go
    #[arg(long, default_value = "target/flood")]
    out: PathBuf,
    #[command(flatten)]
    given: Given,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Flood {
    Junk,
    /// Connections, and messages of a neighbour.
    Control,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) facts: Facts,
    pub(crate) junk: Option<junk::Junk>,
    pub(crate) control: Vec<overlay::Trial>,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    let met = measure(arguments);
    met.unwrap_or_else(|failure| {
        println!("cargo xtask flood: {failure}");
        false
    })
}

fn measure(arguments: &Arguments) -> Outcome<bool> {
    let tools = Tools::ready(&arguments.given)?;
    let wanted = |flood| arguments.only.is_empty() || arguments.only.contains(&flood);
    let mut record = Record { facts: facts::gather(), junk: None, control: Vec::new() };
    let measured = (|| {
        if wanted(Flood::Junk) {
            record.junk = Some(junk::measure(arguments.rounds, &tools)?);
        }
        if wanted(Flood::Control) {
            let to = &mut record.control;
            overlay::measure(arguments.rounds, arguments.connects, &tools, to)?;
        }
        Ok(())
    })();
    // What there is of an interrupted run is worth looking at, too.
    let text = report::markdown(&record);
    println!("{text}");
    files::write(&record, &text, &arguments.out, "flood")?;
    measured.map(|()| report::goals_met(&record))
}

/// What a process has in memory.
fn resident_kib(id: u32) -> Outcome<u64> {
    let file = format!("/proc/{id}/status");
    let text = fs::read_to_string(&file).map_err(Failure::of(&file))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| Failure::new(format!("{file} has no VmRSS")))
}

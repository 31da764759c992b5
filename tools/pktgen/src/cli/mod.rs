//! The command line: arguments in, one run behind, words or JSON and an exit code out.
//!
//! | file | commands |
//! | --- | --- |
//! | [`generate`] | `gen` |
//! | [`sink`] | `sink`, `echo` |
//! | [`ndr`] | `ndr` |
//! | [`report`] | `report` |
//! | [`peer`] | `gen --config`, `sink --config` |
//!
//! [`output`] holds what they share. Results go to standard output, progress and warnings to standard
//! error.

mod generate;
mod ndr;
mod output;
mod peer;
mod report;
mod sink;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  spanway-pktgen sink --listen 127.0.0.1:9000                        count what arrives
  spanway-pktgen gen --to 127.0.0.1:9000 --rate 50k --duration 5s    send there
  spanway-pktgen ndr --to 127.0.0.1:5000 --listen 127.0.0.1:9000     how much does a relay carry that
                                                                     listens at 5000 and sends to 9000?
  spanway-pktgen report ndr.json --out report.html                   plots of what --json printed

As a peer of an overlay, with `capacity` and keys as for `spanway run`, and no local programs:
  spanway-pktgen sink --config b.toml                                be peer b, take all channels
  spanway-pktgen gen --config a.toml --to b/inbox --channels 100 --bandwidth 1Mbit/s --rate 10k

Exit codes: 0 done; 1 it could not be done; 2 wrong arguments; 3 done, but the answer is bad: nothing
arrived, less was sent than asked for, no rate passed, or over channels anything is missing or wrong.";

#[derive(Debug, Parser)]
#[command(
    name = "spanway-pktgen",
    version,
    about = "Sends UDP datagrams that can be told apart, and says what became of them",
    after_help = EXAMPLES,
    disable_help_subcommand = true,
    infer_long_args = false
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send datagrams at a rate
    Gen(generate::GenArgs),
    /// Count what arrives: loss, duplicates, order, damage, latency
    Sink(sink::SinkArgs),
    /// Send every datagram back to where it came from
    Echo(sink::EchoArgs),
    /// Search the highest rate without loss, then measure latency below it (RFC 2544)
    Ndr(ndr::NdrArgs),
    /// Plots of what the other commands printed with --json, in one HTML file
    Report(report::ReportArgs),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done = 0,
    /// It ran, and the answer is bad.
    Bad = 3,
}

/// What ends a command early.
#[derive(Debug)]
enum Failure {
    /// It could not be done.
    Failed(String),
    /// Two arguments contradict each other.
    Usage(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the command this process was started with.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Gen(arguments) => generate::run(&arguments),
        Command::Sink(arguments) => sink::run(&arguments),
        Command::Echo(arguments) => sink::run_echo(&arguments),
        Command::Ndr(arguments) => ndr::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
    };
    let (code, text) = match result {
        Ok(end) => return ExitCode::from(end as u8),
        Err(Failure::Failed(text)) => (1, text),
        Err(Failure::Usage(text)) => (2, text),
    };
    output::say(&format!("error: {text}"));
    ExitCode::from(code)
}

//! The command line: arguments in, one run behind, words or JSON and an exit code out.

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "spanway-pktgen", version)]
struct Cli {}

/// Runs the command this process was started with.
pub fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    ExitCode::SUCCESS
}

//! The developers' tool: `cargo xtask SUB-COMMAND`. One module per sub-command, each with its arguments
//! and a `run` that returns whether all was well.

mod admission;
mod cost;
mod fairness;
mod flood;
mod fuzz;
mod instructions;
mod long;
mod mutants;
mod package;
mod perf;
mod recovery;
mod reference;
mod schemathesis;
mod sealing;
mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tools for developers of Spanway")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run random overlays in the deterministic world, or replay one.
    Sim(sim::Arguments),
    /// What takes too long for CI.
    Long(long::Arguments),
    /// Simulate what trees cost in large overlays.
    Cost(cost::Arguments),
    /// Simulate how many requests are admitted and how long they wait, or measure how fast.
    Admission(admission::Arguments),
    /// Measure what a channel costs another one on the same link that sends too much.
    Fairness(Box<fairness::Arguments>),
    /// Flood a relay with junk, connections and control messages, and see what others notice.
    Flood(flood::Arguments),
    /// Feed every parser and machine that strangers reach with anything, under AddressSanitizer.
    Fuzz(fuzz::Arguments),
    /// Plant known bugs and see whether the simulator finds them.
    Mutants(mutants::Arguments),
    /// Count the instructions of the frame path and compare them with the baseline.
    Instructions(instructions::Arguments),
    /// Make the Debian package, and try what is in it.
    Package(package::Arguments),
    /// Measure the relay beside its rivals; compare revisions; profile.
    Perf(Box<perf::Arguments>),
    /// Write docs/reference from the code.
    Reference(reference::Arguments),
    /// Ask the web API thousands of generated questions.
    Schemathesis(schemathesis::Arguments),
    /// Measure what sealed channels cost the daemons of their path.
    Sealing(sealing::Arguments),
    /// Measure how long streams stand still when a relay or a link dies.
    Recovery(Box<recovery::Arguments>),
}

fn main() -> ExitCode {
    let well = match Arguments::parse().command {
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Long(arguments) => long::run(&arguments),
        Command::Cost(arguments) => cost::run(&arguments),
        Command::Admission(arguments) => admission::run(&arguments),
        Command::Fairness(arguments) => fairness::run(&arguments),
        Command::Flood(arguments) => flood::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Mutants(arguments) => mutants::run(&arguments),
        Command::Instructions(arguments) => instructions::run(&arguments),
        Command::Package(arguments) => package::run(&arguments),
        Command::Perf(arguments) => perf::run(&arguments),
        Command::Reference(arguments) => reference::run(&arguments),
        Command::Schemathesis(arguments) => schemathesis::run(&arguments),
        Command::Sealing(arguments) => sealing::run(&arguments),
        Command::Recovery(arguments) => recovery::run(&arguments),
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Arguments;

    #[test]
    fn the_options_of_all_sub_commands_have_names_of_their_own() {
        Arguments::command().debug_assert();
    }
}

//! The command line: arguments in, one run behind, words or JSON and an exit code out.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use spanway::config::values;

use crate::check::Verify;
use crate::peer::Load;
use crate::peer::cli::{self as peer, GenPeerArgs, SinkLimits, SinkPeerArgs};
use crate::schedule::{Rate, Sizes};

#[derive(Debug, Parser)]
#[command(name = "spanway-pktgen", version)]
enum Cli {
    Gen {
        #[command(flatten)]
        peer: GenPeerArgs,
        #[arg(long)]
        to: String,
        #[arg(long, default_value = "1000")]
        rate: Rate,
        #[arg(long, default_value = "200")]
        size: Sizes,
        #[arg(long, default_value_t = 32)]
        burst: usize,
        #[arg(long, value_parser = values::duration)]
        duration: Duration,
        #[arg(long)]
        json: bool,
    },
    Sink {
        #[command(flatten)]
        peer: SinkPeerArgs,
        #[arg(long, value_parser = values::duration)]
        duration: Option<Duration>,
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command this process was started with.
pub fn main() -> ExitCode {
    let code = match Cli::parse() {
        Cli::Gen { peer, to, rate, size, burst, duration, json } => {
            let load =
                Load { trial: std::process::id(), rate, sizes: size, burst, duration, gso: true };
            let to = peer::destination(&to).expect("a destination");
            let config = peer.config.clone().expect("given");
            peer::generate(&peer, config, to, load, json)
        }
        Cli::Sink { peer, duration, json } => {
            let config = peer.config.clone().expect("given");
            peer::sink(&peer, config, SinkLimits { verify: Verify::Sample, duration }, json)
        }
    };
    ExitCode::from(code)
}

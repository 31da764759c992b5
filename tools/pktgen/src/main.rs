//! The `spanway-pktgen` command: everything is in the library beside it.

#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    spanway_pktgen::cli::main()
}

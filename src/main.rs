//! The `spanway` command: everything is in [`spanway::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    spanway::cli::main()
}

//! Sets up the structured log: text on a terminal, JSON lines otherwise, both to standard error.
//!
//! `RUST_LOG` chooses what is logged (default `info`). Values are fields of a line, never part of its
//! text, and nothing on the frame path logs. Standard output is left to the commands.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts the log of this process; later calls change nothing.
pub fn start() {
    start_at("info");
}

/// The same with another level where `RUST_LOG` says nothing.
pub fn start_at(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error only says that a log exists already, as in tests that start several daemons.
    let _ = if std::io::stderr().is_terminal() {
        log.with_target(false).try_init()
    } else {
        log.json().flatten_event(true).with_ansi(false).try_init()
    };
}

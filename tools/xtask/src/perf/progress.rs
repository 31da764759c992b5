//! What the operator sees while it runs: on a terminal one line that is written over, with the time
//! left; otherwise a line for each trial.

#![expect(clippy::disallowed_methods, reason = "tells how long it will take")]
#![expect(clippy::print_stderr, reason = "its output is for the developer at the terminal")]

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    done: u32,
    all: u32,
    terminal: bool,
}

impl Progress {
    /// Of so many trials.
    pub(crate) fn new(all: u32) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { started: Instant::now(), done: 0, all, terminal }
    }

    pub(crate) fn done(&self) -> u32 {
        self.done
    }

    /// Says what is going on; only on a terminal.
    pub(crate) fn note(&self, what: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{} {what}", self.head());
        }
    }

    /// A trial is over, well or not.
    pub(crate) fn trial(&mut self, what: &str) {
        self.done += 1;
        let head = self.head();
        if self.terminal {
            eprintln!("\r\x1b[K{head} {what}");
        } else {
            eprintln!("{head} {what}");
        }
    }

    fn head(&self) -> String {
        let left = left(self.started.elapsed(), self.done, self.all);
        let left = left.map_or_else(|| "  ?  ".to_owned(), |left| clock(left.as_secs()));
        format!("[{}/{}, {left} left]", self.done, self.all)
    }
}

/// As long for each of the rest as for those that are done.
fn left(passed: Duration, done: u32, all: u32) -> Option<Duration> {
    passed.checked_div(done).map(|each| each * all.saturating_sub(done))
}

fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_is_done_suggests() {
        let minute = Duration::from_secs(60);
        assert_eq!(left(minute, 10, 90), Some(Duration::from_secs(480)));
        assert_eq!(left(minute, 0, 90), None);
        assert_eq!(clock(605), "10:05");
    }
}

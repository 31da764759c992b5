//! What happens to one channel while a command runs: what of it is dropped, within a second and with the
//! rate to use instead; where it moves; its end.
//!
//! Lines on standard error, or with `--json` those of `events` on standard output. Listens to the events of
//! the daemon; who reads too slowly misses some.

use std::thread::{self, JoinHandle};

use super::screen::{CliError, Daemon, print, say};
use crate::api::client::{HangUp, Lines};
use crate::api::dto::{EventLine, Request};

/// From now on.
pub(super) fn events(daemon: &Daemon) -> Result<Lines<EventLine>, CliError> {
    daemon.lines(&Request::Events)
}

/// Until the channel ends: a failure if the daemon does.
pub(super) fn follow(lines: Lines<EventLine>, channel: &str, json: bool) -> Result<(), CliError> {
    for line in lines {
        let line = line?;
        // That it is open has been said.
        if line.channel.as_deref() == Some(channel) && line.event != "channel_open" {
            tell(&line, json)?;
            if line.event == "channel_closed" {
                return Ok(());
            }
        }
    }
    Err(CliError::failure("the daemon has stopped"))
}

/// Tells what is dropped while another thread sends.
pub(super) struct Watch {
    hang_up: HangUp,
    thread: JoinHandle<()>,
}

impl Watch {
    /// A stream does not fail because nobody can watch it: then there is none.
    pub(super) fn start(daemon: &Daemon, channel: &str, json: bool) -> Option<Self> {
        let lines = events(daemon).ok()?;
        let hang_up = lines.hang_up().ok()?;
        let channel = channel.to_owned();
        let watch = move || {
            let ours = |line: &EventLine| line.channel.as_deref() == Some(&*channel);
            let lines = lines.map_while(Result::ok).filter(ours);
            for line in lines.filter(|line| line.excess.is_some()) {
                if tell(&line, json).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(watch).ok()?;
        Some(Self { hang_up, thread })
    }

    /// Nothing is told any more when this returns.
    pub(super) fn stop(self) {
        self.hang_up.close();
        // A thread that panicked has said so.
        let _ = self.thread.join();
    }
}

fn tell(line: &EventLine, json: bool) -> Result<(), CliError> {
    if !json {
        let text = line.excess.as_ref().map_or(&line.text, |excess| &excess.text);
        say(text);
        return Ok(());
    }
    let json = serde_json::to_string(line).map_err(|error| CliError::failure(error.to_string()))?;
    print(|out, _| writeln!(out, "{json}").and_then(|()| out.flush()))
}

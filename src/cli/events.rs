//! `events`: what happens at a daemon, as it happens; of one channel or of some kinds if asked.
//!
//! Ends with the daemon, or with `--follow` waits until one is back: nobody saw what happened meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use super::screen::{CliError, Daemon, print, say};
use super::{EventsArgs, clock};
use crate::api::dto::{ChannelRow, EventLine, Request};

/// Between two attempts to find the daemon again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

pub(super) fn events(args: &EventsArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let mut wanted = Wanted::new(args);
    let mut shown = false;
    loop {
        let mut ended = None;
        match daemon.lines::<EventLine>(&Request::Events) {
            Err(error) if !(args.follow && shown) => return Err(error),
            Err(_) => {}
            Ok(lines) => {
                if shown {
                    say("the daemon is back");
                }
                shown = true;
                for line in lines {
                    let Ok(line) = line.map_err(|error| ended = Some(error)) else { break };
                    if wanted.has(&line, &daemon) && !tell(&line, args.target.json)? {
                        return Ok(());
                    }
                }
                if args.follow {
                    let why = ended
                        .as_ref()
                        .map_or_else(|| "the daemon has stopped".to_owned(), ToString::to_string);
                    say(&format!("{why}; waiting for it"));
                }
            }
        }
        if !args.follow {
            let stopped = || CliError::failure("the daemon has stopped");
            return Err(ended.map_or_else(stopped, CliError::from));
        }
        clock::sleep(RETRY_INTERVAL);
    }
}

/// Whether somebody still reads.
fn tell(line: &EventLine, json: bool) -> Result<bool, CliError> {
    let text = if json {
        serde_json::to_string(line).map_err(|error| CliError::failure(error.to_string()))?
    } else {
        format!("{}  {:<16} {}", time_of_day(line.at_ms), line.event, line.text)
    };
    let mut reads = true;
    print(|out, _| {
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        reads = written.is_ok();
        written
    })?;
    Ok(reads)
}

/// What of all that happens is shown.
struct Wanted {
    channel: Option<String>,
    kinds: Vec<String>,
    /// Names of the channels that were met, by id.
    names: BTreeMap<String, String>,
}

impl Wanted {
    fn new(args: &EventsArgs) -> Self {
        Self { channel: args.channel.clone(), kinds: args.kind.clone(), names: BTreeMap::new() }
    }

    fn has(&mut self, line: &EventLine, daemon: &Daemon) -> bool {
        if !self.kinds.is_empty() && !self.kinds.contains(&line.event) {
            return false;
        }
        let Some(wanted) = &self.channel else { return true };
        let Some(id) = &line.channel else { return false };
        if id == wanted {
            return true;
        }
        if !self.names.contains_key(id) {
            // A daemon that is gone by now knows no names; then the id has to do.
            let rows: Vec<ChannelRow> = daemon.ask(&Request::Channels).unwrap_or_default();
            self.names.extend(rows.into_iter().map(|row| (row.id, row.name.to_string())));
            self.names.entry(id.clone()).or_default();
        }
        self.names.get(id) == Some(wanted)
    }
}

/// Milliseconds since 1970 as a time of day, in UTC like the log.
fn time_of_day(at_ms: u64) -> String {
    let (seconds, millis) = (at_ms / 1_000 % 86_400, at_ms % 1_000);
    format!("{:02}:{:02}:{:02}.{millis:03}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::EVENTS;

    #[test]
    fn events_carry_the_time_of_day() {
        assert_eq!(time_of_day(1_795_261_205_180), "11:40:05.180Z");
    }

    #[test]
    fn only_events_of_the_channel_and_the_kinds_that_were_asked_for_are_shown() {
        let daemon = Daemon { config: "a.toml".into(), socket: "/nowhere/control.sock".into() };
        let line = |event: &str, channel: Option<&str>| EventLine {
            at_ms: 0,
            event: event.to_owned(),
            text: String::new(),
            channel: channel.map(str::to_owned),
            excess: None,
        };
        let lines = [
            line("link_up", None),
            line("channel_open", Some("a:1:1")),
            line("channel_closed", Some("a:1:1")),
            line("channel_open", Some("a:1:2")),
        ];
        let shown = |channel: Option<&str>, kinds: &[&str]| {
            let names = BTreeMap::from([("a:1:2".to_owned(), "film".to_owned())]);
            let kinds = kinds.iter().map(|&kind| kind.to_owned()).collect();
            let mut wanted = Wanted { channel: channel.map(str::to_owned), kinds, names };
            lines.iter().map(|line| wanted.has(line, &daemon)).collect::<Vec<_>>()
        };
        assert_eq!(shown(None, &[]), [true; 4]);
        assert_eq!(shown(Some("a:1:1"), &[]), [false, true, true, false]);
        assert_eq!(shown(Some("film"), &[]), [false, false, false, true]);
        assert_eq!(shown(None, &["link_up", "channel_closed"]), [true, false, true, false]);
        assert_eq!(shown(Some("a:1:1"), &["channel_open"]), [false, true, false, false]);
    }

    #[test]
    fn the_kinds_of_events_are_those_that_readme_lists() {
        let readme = include_str!("../../README.md");
        for event in EVENTS {
            assert!(readme.contains(&format!("`{event}`")), "README lacks {event}");
        }
    }
}

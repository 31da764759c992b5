//! `cargo xtask reference`: writes `docs/reference/` from the code: commands from the parser of the command
//! line, keys from the commented configuration, events, reasons and bounds from their lists.
//!
//! A test compares the pages with the code, so a page that is out of date fails CI; this command mends it.

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use spanway::config::CONFIG_TEMPLATE;
use spanway::stats::DropReason;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail if a page is not what the code says.
    #[arg(long)]
    check: bool,
}

const FOLDER: &str = "docs/reference";
const COLUMNS: usize = 100;

pub(crate) fn run(arguments: &Arguments) -> bool {
    let mut well = true;
    for (name, text) in pages() {
        let path = root().join(FOLDER).join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if arguments.check {
            println!("{FOLDER}/{name} is not what the code says: run `cargo xtask reference`");
            well = false;
        } else if let Err(error) = fs::write(&path, text) {
            println!("{}: {error}", path.display());
            well = false;
        } else {
            println!("{FOLDER}/{name} written");
        }
    }
    well
}

/// Name and text of every page.
fn pages() -> [(&'static str, String); 4] {
    [
        ("commands.md", commands()),
        ("configuration.md", configuration()),
        ("events.md", events()),
        ("limits.md", limits()),
    ]
}

fn head(title: &str, words: &str) -> String {
    format!("# {title}\n\nMade from the code by `cargo xtask reference`.\n\n{words}\n")
}

fn commands() -> String {
    let words = "What `spanway COMMAND --help` prints. Exit codes of all commands: 0 done, 1 failure, \
                 2 usage, 3 rejected\nby the overlay, 4 queued or no answer in time.";
    let mut text = head("Commands", words);
    let command = without_values(spanway::cli::command().term_width(COLUMNS));
    // Gives every sub-command the full name that it is called by.
    let mut command = command;
    command.build();
    describe(&mut command, &mut text);
    text
}

/// The environment of whoever writes the page is none of its business.
fn without_values(command: Command) -> Command {
    let command = command.mut_args(|argument| argument.hide_env_values(true));
    command.mut_subcommands(without_values)
}

fn describe(command: &mut Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n"));
    for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
        if sub.get_name() != "help" {
            describe(sub, text);
        }
    }
}

fn configuration() -> String {
    let words = "`spanway config print-default` prints this file: every key, with its default behind a `#`. \
                 Unknown keys are\nerrors. `spanway config check --config FILE` says what is wrong with a file; \
                 `spanway reload` or SIGHUP takes a new\none over whole, or not at all.";
    let mut text = head("Configuration", words);
    let _ = write!(text, "\n```toml\n{}\n```\n", CONFIG_TEMPLATE.trim_end());
    text
}

fn events() -> String {
    let words = "`spanway events` prints these as they happen; with `--json` each is one object, \
                 `{at_ms, event, text, channel}`.";
    let mut text = head("Events and drop reasons", words);
    text += "\n## Events\n\n| event | meaning |\n| --- | --- |\n";
    for (name, meaning) in event_rows(&source("src/proto/mod.rs")) {
        let _ = writeln!(text, "| `{name}` | {meaning} |");
    }
    // Said by the daemon, not by the machine whose events the others are.
    let policed = "channel_policed";
    assert!(source("src/daemon/excess.rs").contains(policed), "{policed} is gone");
    let meaning =
        "A program sends more than its channel has: what was dropped, and the rate to use.";
    let _ = writeln!(text, "| `{policed}` | {meaning} |");
    text +=
        "\n## Drop reasons\n\nEvery frame that is not passed on is counted under one of these.\n\n";
    text += "| reason | meaning |\n| --- | --- |\n";
    for reason in DropReason::ALL {
        let _ = writeln!(text, "| `{}` | {} |", reason.as_str(), reason.sentence());
    }
    text
}

/// The variants of `pub enum Event`, each with the words above it.
fn event_rows(source: &str) -> Vec<(String, String)> {
    let (mut rows, mut words) = (Vec::new(), Vec::new());
    let lines = source.lines().skip_while(|line| !line.starts_with("pub enum Event "));
    for line in lines.skip(1).take_while(|line| *line != "}") {
        // Deeper lines are fields.
        let Some(line) = line.strip_prefix("    ").filter(|line| !line.starts_with(' ')) else {
            continue;
        };
        if let Some(comment) = line.strip_prefix("/// ") {
            words.push(comment);
        } else if line.starts_with(|first: char| first.is_ascii_uppercase()) {
            let end = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(line.len());
            rows.push((snake_case(&line[..end]), words.join(" ")));
            words.clear();
        }
    }
    rows
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

fn limits() -> String {
    let words = "Every bound of the system, each with its reason, as `src/limits.rs` has it.";
    let mut text = head("Limits", words);
    let (mut words, mut value) = (Vec::new(), String::new());
    for line in source("src/limits.rs").lines() {
        if let Some(section) = line.strip_prefix("// --- ") {
            let section = section.trim_end_matches([' ', '-']);
            let _ =
                write!(text, "\n## {section}\n\n| bound | value | why |\n| --- | --- | --- |\n");
        } else if let Some(comment) = line.strip_prefix("/// ") {
            words.push(comment.replace('|', "\\|"));
        } else if line.starts_with("pub const ") || !value.is_empty() {
            value.push_str(line.trim());
            if let Some((name, is)) = constant(&value) {
                // One comment may stand for two bounds in a row.
                let why = if words.is_empty() { "as above".to_owned() } else { words.join(" ") };
                let _ = writeln!(text, "| `{name}` | {is} | {why} |");
            }
            if value.ends_with(';') {
                value.clear();
                words.clear();
            }
        }
    }
    text
}

/// Name and value of a complete `pub const NAME: TYPE = VALUE;`.
fn constant(line: &str) -> Option<(&str, String)> {
    let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
    let value = rest.split_once('=')?.1.strip_suffix(';')?.trim();
    let durations =
        [("from_micros", "us"), ("from_millis", "ms"), ("from_secs", "s"), ("from_mins", "min")];
    let duration = durations.iter().find_map(|(maker, unit)| {
        let amount = value.strip_prefix(&format!("Duration::{maker}("))?.strip_suffix(')')?;
        Some(format!("{} {unit}", amount.replace('_', ",")))
    });
    let plain = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let value = duration.unwrap_or_else(|| match plain {
        true => value.replace('_', ","),
        false => format!("`{value}`").replace('|', "\\|"),
    });
    Some((name, value))
}

fn source(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_the_code_says() {
        for (name, expected) in pages() {
            let path = root().join(FOLDER).join(name);
            let page = fs::read_to_string(&path).unwrap_or_default();
            let first = page.lines().zip(expected.lines()).find(|(is, should)| is != should);
            assert!(page == expected, "{name}: run `cargo xtask reference`; first: {first:?}");
        }
    }

    #[test]
    fn no_event_is_without_words_and_no_bound_is_left_out() {
        let rows = event_rows(&source("src/proto/mod.rs"));
        assert!(rows.len() >= 14, "{rows:?}");
        let silent: Vec<_> = rows.iter().filter(|(_, words)| words.is_empty()).collect();
        assert!(silent.is_empty(), "say above each what it means: {silent:?}");
        let page = limits();
        let bounds =
            source("src/limits.rs").lines().filter(|line| line.starts_with("pub const")).count();
        assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), bounds);
    }

    #[test]
    fn names_and_values_read_as_a_person_writes_them() {
        assert_eq!(snake_case("LinkUp"), "link_up");
        let line = "pub const HEARTBEAT: Duration = Duration::from_millis(1_200);";
        assert_eq!(constant(line), Some(("HEARTBEAT", "1,200 ms".to_owned())));
        assert_eq!(constant("pub const A: u64 = 4 << 20;"), Some(("A", "`4 << 20`".to_owned())));
        assert_eq!(constant("pub const A: u64 ="), None);
    }
}

//! Which seeds a run of the simulator takes: fresh ones with every commit, and all that ever failed.

use std::process::Command;

/// Seeds that failed once: `WORLD SEED # what it was`.
const FAILED_ONCE: &str = include_str!("../seeds.txt");

/// The first of `count` seeds that no other commit takes, and the commit they come from.
/// `SPANWAY_COMMIT` overrules what git says.
pub(crate) fn fresh(count: u64) -> (u64, String) {
    let said = std::env::var("SPANWAY_COMMIT").ok();
    let commit = said.or_else(head).unwrap_or_else(|| "none".to_owned());
    let digits: String = commit.chars().filter(char::is_ascii_hexdigit).take(9).collect();
    let number = u64::from_str_radix(&digits, 16).unwrap_or_default();
    (number * count, commit)
}

pub(crate) fn failed_once(world: &str) -> Vec<u64> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        (words.next()? == world).then(|| words.next()?.parse().ok())?
    };
    FAILED_ONCE.lines().filter_map(line).collect()
}

fn head() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

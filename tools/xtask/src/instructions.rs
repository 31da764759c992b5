//! `cargo xtask instructions`: how many instructions each piece of the frame path takes, against the
//! figures in `perf/instructions.json`.
//!
//! Instructions, counted by callgrind, are the same on a busy machine and on an idle one, so CI can
//! compare them where it could not compare times. Each workload of `benches/instructions.rs` runs with
//! N and with 2N rounds; the difference leaves start and set-up out. They say nothing of caches and of
//! the kernel: for those there is `cargo bench` and `cargo xtask perf`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Rounds of the shorter run: enough that one-off work does not show.
const ROUNDS: u64 = 2_000;
/// Another compiler build inlines a little differently; what matters is more than this.
const TOLERANCE_PERCENT: f64 = 5.0;
const BASELINE: &str = "perf/instructions.json";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Writes the counted figures as the new baseline.
    #[arg(long)]
    save: bool,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    match compare(arguments) {
        Ok(well) => well,
        Err(text) => {
            say(&text);
            false
        }
    }
}

fn compare(arguments: &Arguments) -> Result<bool, String> {
    let program = build()?;
    let baseline = read_baseline()?;
    let mut counted = BTreeMap::new();
    let mut well = true;
    say(&format!("{:<36} {:>10} {:>10}", "instructions a round", "now", "baseline"));
    for name in names(&program)? {
        let once = count(&program, &name, ROUNDS)?;
        let twice = count(&program, &name, 2 * ROUNDS)?;
        let now = twice.saturating_sub(once) / ROUNDS;
        let (verdict, good) = judge(now, baseline.get(&name).copied());
        well &= good;
        let before = baseline.get(&name).map_or_else(|| "-".to_owned(), u64::to_string);
        say(&format!("{name:<36} {now:>10} {before:>10}  {verdict}"));
        counted.insert(name, now);
    }
    if arguments.save {
        let text = serde_json::to_string_pretty(&counted).map_err(|error| error.to_string())?;
        fs::write(BASELINE, text + "\n").map_err(|error| format!("{BASELINE}: {error}"))?;
        say(&format!("written to {BASELINE}"));
        return Ok(true);
    }
    for name in baseline.keys().filter(|name| !counted.contains_key(*name)) {
        say(&format!("{name}: in {BASELINE}, but no workload has this name"));
        well = false;
    }
    if !well {
        say("if this is meant, `cargo xtask instructions --save` and say why in the commit");
    }
    Ok(well)
}

/// Fewer is good news, but the baseline must follow, or the next loss hides behind it.
fn judge(now: u64, before: Option<u64>) -> (String, bool) {
    let Some(before) = before else { return ("not in the baseline".to_owned(), false) };
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    let percent = (now as f64 / before.max(1) as f64 - 1.0) * 100.0;
    // A handful of instructions is noise in a workload that has few.
    let small = now.abs_diff(before) <= 8;
    let good = small || percent.abs() <= TOLERANCE_PERCENT;
    (format!("{percent:+.1} %{}", if good { "" } else { "  CHANGED" }), good)
}

fn read_baseline() -> Result<BTreeMap<String, u64>, String> {
    if !Path::new(BASELINE).exists() {
        return Ok(BTreeMap::new());
    }
    let text = fs::read_to_string(BASELINE).map_err(|error| format!("{BASELINE}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{BASELINE}: {error}"))
}

/// The program with the workloads, as `cargo bench` builds it.
fn build() -> Result<PathBuf, String> {
    let out = Command::new("cargo")
        .args(["bench", "--locked", "--no-run", "--bench", "instructions"])
        .args(["--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let program = messages
        .filter(|message: &serde_json::Value| message["target"]["name"] == "instructions")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.ok_or_else(|| "the bench `instructions` was not built".to_owned())
}

fn names(program: &Path) -> Result<Vec<String>, String> {
    let out = Command::new(program).output().map_err(|error| format!("{program:?}: {error}"))?;
    Ok(String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect())
}

fn count(program: &Path, name: &str, rounds: u64) -> Result<u64, String> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([name, &rounds.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            format!("valgrind: {error}; install it with `apt-get install valgrind`")
        })?;
    let text = String::from_utf8_lossy(&out.stderr);
    collected(&text).ok_or_else(|| format!("callgrind of {name} printed no count:\n{text}"))
}

fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected :"))?.1;
    line.trim().parse().ok()
}

#[expect(clippy::print_stdout, reason = "its output")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_callgrind_prints() {
        let text = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n";
        assert_eq!(collected(text), Some(123_456));
        assert_eq!(collected("==7== nothing"), None);
    }

    #[test]
    fn more_and_fewer_instructions_than_the_tolerance_are_told() {
        assert!(judge(1_040, Some(1_000)).1 && judge(960, Some(1_000)).1);
        assert!(!judge(1_060, Some(1_000)).1 && !judge(940, Some(1_000)).1);
        assert!(judge(18, Some(10)).1, "a few instructions are not a change");
        assert!(!judge(10, None).1);
    }
}

//! `cargo xtask fuzz`: every target of `tools/fuzz` for a while, from the corpus in the repository, with
//! AddressSanitizer. Wants the nightly toolchain and cargo-fuzz.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use clap::Args;

const FOLDER: &str = "tools/fuzz";
/// One allocation of an input, and all of a process with AddressSanitizer's own (about 150 MB): more ends it.
const MEGABYTES: [(&str, u32); 2] = [("malloc_limit_mb", 64), ("rss_limit_mb", 600)];

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these targets.
    targets: Vec<String>,
    /// How long each.
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// So many at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Put what was found into the corpus, without what adds nothing.
    #[arg(long)]
    keep: bool,
}

/// What one target's run came to.
struct Report {
    target: String,
    well: bool,
    /// libFuzzer's last line of progress: edges covered, inputs, runs a second.
    last: String,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    let names = names();
    if let Some(wrong) = arguments.targets.iter().find(|target| !names.contains(target)) {
        eprintln!("{wrong} is no target; there are {}", names.join(", "));
        return false;
    }
    if !build() {
        eprintln!(
            "`cargo +nightly fuzz build` failed; it wants `rustup toolchain install nightly` and `cargo install cargo-fuzz`"
        );
        return false;
    }
    let chosen = if arguments.targets.is_empty() { names } else { arguments.targets.clone() };
    let (todo, done) = (Mutex::new(VecDeque::from(chosen)), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some(target) = take(&todo) {
                    let report = fuzz(&target, arguments);
                    println!("{:<8} {} {}", report.target, verdict(&report), report.last);
                    done.lock().expect("no thread panics").push(report);
                }
            });
        }
    });
    done.into_inner().expect("no thread panics").iter().all(|report| report.well)
}

fn take(todo: &Mutex<VecDeque<String>>) -> Option<String> {
    todo.lock().expect("no thread panics").pop_front()
}

fn verdict(report: &Report) -> &'static str {
    if report.well { "ok    " } else { "FAILED" }
}

/// The folders of the corpus: a test holds that they are the targets.
fn names() -> Vec<String> {
    let folders = fs::read_dir(Path::new(FOLDER).join("corpus")).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        folders.map(|folder| folder.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn cargo_fuzz(subcommand: &str) -> Command {
    let mut command = Command::new("cargo");
    // The toolchain that runs this must not choose for the one that is asked for.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(name);
    }
    command.args(["+nightly", "fuzz", subcommand, "--fuzz-dir", FOLDER, "all"]);
    command
}

fn build() -> bool {
    cargo_fuzz("build").status().is_ok_and(|status| status.success())
}

fn fuzz(target: &str, arguments: &Arguments) -> Report {
    let corpus = Path::new(FOLDER).join("corpus").join(target);
    let found = scratch(target, "found");
    let artifacts = scratch(target, "artifacts");
    let mut command = cargo_fuzz("run");
    command.env("SPANWAY_FUZZ", target).args([&found, &corpus]).arg("--");
    for (name, megabytes) in MEGABYTES {
        command.arg(format!("-{name}={megabytes}"));
    }
    command.arg(format!("-max_total_time={}", arguments.seconds));
    command.args(["-timeout=10", "-print_final_stats=1", "-max_len=8192"]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let (well, text) = match command.output() {
        Ok(out) => (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned()),
        Err(error) => (false, error.to_string()),
    };
    if !well {
        eprintln!(
            "{text}\nreplay: SPANWAY_FUZZ={target} cargo +nightly fuzz run --fuzz-dir {FOLDER} all FILE"
        );
    } else if arguments.keep {
        keep(target, &found, &corpus);
    }
    let last = text.lines().rfind(|line| line.contains(" cov: ")).unwrap_or_default();
    Report { target: target.to_owned(), well, last: last.trim().to_owned() }
}

fn scratch(target: &str, what: &str) -> PathBuf {
    let folder = Path::new("target/fuzz").join(target).join(what);
    // If it cannot be made libFuzzer says so.
    let _ = fs::create_dir_all(&folder);
    folder
}

/// The least set of inputs that covers what all do.
fn keep(target: &str, found: &Path, corpus: &Path) {
    let least = scratch(target, "least");
    let merged = cargo_fuzz("run")
        .env("SPANWAY_FUZZ", target)
        .args([&least, &corpus.to_owned(), &found.to_owned()])
        .args(["--", "-merge=1", "-max_len=8192"])
        .output();
    if merged.is_ok_and(|out| out.status.success())
        && fs::remove_dir_all(corpus).is_ok()
        && fs::rename(&least, corpus).is_ok()
    {
        return;
    }
    eprintln!(
        "the corpus of {target} could not be made smaller: {} has what was found",
        found.display()
    );
}

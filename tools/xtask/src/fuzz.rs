//! `cargo xtask fuzz`: every target of `tools/fuzz` for a while, from the corpus in the repository, with
//! AddressSanitizer. Wants the nightly toolchain.
//!
//! What cargo-fuzz does, but for one code unit a crate, which takes three times as long to build; `cargo fuzz
//! run --fuzz-dir tools/fuzz all` works as well.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for the developer at the terminal")]

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
    /// Run one target with this input only.
    #[arg(long)]
    replay: Option<PathBuf>,
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
        eprintln!("it did not build; it wants `rustup toolchain install nightly`");
        return false;
    }
    let chosen = if arguments.targets.is_empty() { names } else { arguments.targets.clone() };
    if let Some(input) = &arguments.replay {
        return chosen.iter().all(|target| {
            program(target).arg(input).status().is_ok_and(|status| status.success())
        });
    }
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

/// Coverage for libFuzzer, comparisons too, and AddressSanitizer: rustc's and LLVM's names for what
/// cargo-fuzz asks for.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Cdebug-assertions";
/// With a target, flags are not those of build scripts and macros.
const TRIPLE: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

fn build() -> bool {
    let mut command = Command::new("cargo");
    // The toolchain that runs this must not choose for the one that is asked for.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(name);
    }
    command.args(["+nightly", "build", "--release", "--locked", "--target", TRIPLE]);
    command.args(["--manifest-path", &format!("{FOLDER}/Cargo.toml")]).env("RUSTFLAGS", FLAGS);
    command.status().is_ok_and(|status| status.success())
}

/// The program of all targets, as one of them.
fn program(target: &str) -> Command {
    let mut command = Command::new(format!("{FOLDER}/target/{TRIPLE}/release/all"));
    command.env("SPANWAY_FUZZ", target);
    command
}

fn fuzz(target: &str, arguments: &Arguments) -> Report {
    let corpus = Path::new(FOLDER).join("corpus").join(target);
    let found = scratch(target, "found");
    let artifacts = scratch(target, "artifacts");
    let mut command = program(target);
    command.args([&found, &corpus]);
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
        eprintln!("{text}\nreplay: cargo xtask fuzz {target} --replay FILE");
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
    let merged = program(target)
        .args(["-merge=1", "-max_len=8192"])
        .args([&least, &corpus.to_owned(), &found.to_owned()])
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

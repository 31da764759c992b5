//! `cargo xtask schemathesis`: asks the web API of a daemon thousands of generated questions, good ones and
//! bad ones, by its own description, and fails on an answer that the description does not know or that is an
//! error of the server.
//!
//! Two daemons on loopback in a network namespace of their own: whatever address is generated, nothing
//! leaves it. Schemathesis (PyPI) goes into a virtual environment below `target/`. `/api/leave` is left out,
//! which ends the daemon; so are the streams, which do not end.

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

const VERSION: &str = "4.32.5";
/// Of the first peer; nobody else is in the namespace.
const PORT: &str = "17000";
const LEFT_OUT: [&str; 3] = ["/api/leave", "/api/live", "/api/events"];
/// A daemon that does not know its neighbour by then never will.
const LOOKS_MAX: u32 = 200;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Questions to each route, in each way of making them up.
    #[arg(long, default_value_t = 100)]
    examples: u32,
    /// The same seed asks the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// In the namespace already.
    #[arg(long, hide = true)]
    inside: bool,
}

/// Why it did not come to a verdict.
type Failure = String;

pub(crate) fn run(arguments: &Arguments) -> bool {
    let done = if arguments.inside { inside(arguments) } else { outside(arguments) };
    done.unwrap_or_else(|failure| {
        println!("schemathesis: {failure}");
        false
    })
}

/// Everything that needs the network, then itself in a namespace without one.
fn outside(arguments: &Arguments) -> Result<bool, Failure> {
    let tool = tool();
    if !tool.exists() {
        let home = home();
        let home = home.as_os_str();
        must(Command::new("python3").args([OsStr::new("-m"), OsStr::new("venv"), home]))?;
        let wanted = format!("schemathesis=={VERSION}");
        must(Command::new(tool.with_file_name("pip")).args(["install", "--quiet", &wanted]))?;
    }
    must(Command::new(env!("CARGO")).args(["build", "--bin", "spanway"]))?;
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("unshare");
    command.args([
        "--map-root-user",
        "--net",
        "sh",
        "-c",
        "ip link set lo up && exec \"$@\"",
        "sh",
    ]);
    command.arg(me).args(["schemathesis", "--inside"]);
    command.args(["--examples", &arguments.examples.to_string()]);
    command.args(["--seed", &arguments.seed.to_string()]);
    command.status().map(|status| status.success()).map_err(|error| wrong(&command, error))
}

fn inside(arguments: &Arguments) -> Result<bool, Failure> {
    let folder = home().join("overlay");
    // That of the last run, if there was one.
    let _ = fs::remove_dir_all(&folder);
    let mut init = Command::new(spanway());
    init.args(["init", "--peers", "2", "--listen-base", PORT, "--dir"]).arg(&folder);
    must(init.stdout(Stdio::null()))?;
    let config = |number: u32| folder.join(format!("peer-{number:02}.toml"));
    let _daemons = [start(&config(1))?, start(&config(2))?];
    let ready = (0..LOOKS_MAX).any(|_| {
        thread_sleep(LOOK_INTERVAL);
        ask(&config(1), "verify").is_ok_and(|verify| verify["peers"] == 2)
    });
    if !ready {
        return Err("the two daemons do not find each other".to_owned());
    }
    let page = ask(&config(1), "page")?;
    let text = |key: &str| page[key].as_str().unwrap_or_default().to_owned();
    let site = text("api").trim_end_matches("api/").trim_end_matches('/').to_owned();
    let mut command = Command::new(tool());
    command.arg("run").arg(format!("{site}/api/openapi.json"));
    command.args(["--header", &format!("Authorization: Bearer {}", text("token"))]);
    command.args(["--checks", "not_a_server_error,status_code_conformance"]);
    command.args(["--checks", "content_type_conformance,response_schema_conformance"]);
    command.args(["--max-examples", &arguments.examples.to_string()]);
    command.args(["--seed", &arguments.seed.to_string(), "--continue-on-failure", "--no-color"]);
    command.args(["--request-timeout", "30", "--suppress-health-check", "all"]);
    for path in LEFT_OUT {
        command.args(["--exclude-path", path]);
    }
    let status = command.status().map_err(|error| wrong(&command, error))?;
    let alive = ask(&config(1), "status").is_ok();
    if !alive {
        println!("the daemon did not survive it");
    }
    Ok(status.success() && alive)
}

/// Ended when it is dropped: its standard input closes.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn start(config: &Path) -> Result<Daemon, Failure> {
    let log = config.with_extension("log");
    let log = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let mut command = Command::new(spanway());
    command.args(["run", "--while-stdin", "--config"]).arg(config);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    command.spawn().map(Daemon).map_err(|error| wrong(&command, error))
}

fn ask(config: &Path, what: &str) -> Result<Value, Failure> {
    let mut command = Command::new(spanway());
    command.args([what, "--json", "--config"]).arg(config).stdin(Stdio::null());
    let out = command.output().map_err(|error| wrong(&command, error))?;
    serde_json::from_slice(&out.stdout).map_err(|error| wrong(&command, error))
}

fn must(command: &mut Command) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(wrong(command, status)),
        Err(error) => Err(wrong(command, error)),
    }
}

fn wrong(command: &Command, why: impl Display) -> Failure {
    format!("{command:?}: {why}")
}

#[expect(clippy::disallowed_methods, reason = "a tool that waits for daemons")]
fn thread_sleep(time: Duration) {
    thread::sleep(time);
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

/// The virtual environment, and the overlay in it.
fn home() -> PathBuf {
    target().join("schemathesis")
}

fn tool() -> PathBuf {
    home().join("bin/st")
}

/// Unoptimised code checks every sum.
fn spanway() -> PathBuf {
    target().join("debug/spanway")
}

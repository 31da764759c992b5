//! Programs in their places: which namespace, which CPU, which priority; gone when dropped. And what
//! the kernel accounts to them, in nanoseconds.
//!
//! `ip netns exec`, `taskset` and `nice` replace themselves by what they start, so that the process id
//! of the child is that of the program.

#![expect(
    clippy::disallowed_methods,
    reason = "waits for processes, and measures them against real time"
)]

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::failure::{Failure, Outcome};

/// How often something that has no event is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Where and how a program runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) cpu: u32,
    pub(crate) nice: i32,
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// Set by Ctrl-C and its like; looked at by everything that waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// A second signal of the kind ends the process at once.
    pub(crate) fn install() -> Outcome<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, interrupt.0.clone())
                .and_then(|_| signal_hook::flag::register(signal, interrupt.0.clone()))
                .map_err(Failure::of("a signal handler"))?;
        }
        Ok(interrupt)
    }

    pub(crate) fn check(&self) -> Outcome<()> {
        if self.0.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
    }

    /// Waits, but not for an interrupted run.
    pub(crate) fn pause(&self, duration: Duration) -> Outcome<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.check()?;
            std::thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
        }
        self.check()
    }
}

/// A running program; killed and waited for when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    name: String,
    /// What it says, for the message when it fails.
    log: PathBuf,
}

impl Place {
    /// Starts a program here. Its standard output goes to `output`, its standard error to a log beside.
    pub(crate) fn start(&self, what: &Invocation, log: &Path) -> Outcome<Running> {
        let name = what.program.file_name().map_or_else(OsString::new, ToOwned::to_owned);
        let name = name.to_string_lossy().into_owned();
        let fail = || format!("{name} does not start");
        let file = |extension| fs::File::create(log.with_extension(extension));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]);
        command.args(["nice", "-n", &self.nice.to_string()]);
        command.args(["taskset", "-c", &self.cpu.to_string()]);
        command.arg(&what.program).args(&what.arguments).stdin(Stdio::null());
        command.stdout(file("out").map_err(Failure::of(fail()))?);
        command.stderr(file("err").map_err(Failure::of(fail()))?);
        let child = command.spawn().map_err(Failure::of(fail()))?;
        Ok(Running { child, name, log: log.to_owned() })
    }
}

impl Running {
    /// A child that somebody else started, whose standard error goes to `log` with the extension `err`.
    pub(crate) fn of(child: Child, name: &str, log: &Path) -> Self {
        Self { child, name: name.to_owned(), log: log.to_owned() }
    }

    /// SIGKILL; returns when it is gone, with the proof.
    pub(crate) fn kill(&mut self) -> Outcome<ExitStatus> {
        self.child.kill().map_err(Failure::of(&self.name))?;
        self.child.wait().map_err(Failure::of(&self.name))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time so far of its threads with names that begin like this: of all with an empty one.
    pub(crate) fn cpu_ns(&self, threads: &str) -> Outcome<u64> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(&tasks).map_err(Failure::of(&self.name))?;
        // A thread that ends in between is one whose time is over.
        let tasks = tasks.filter_map(Result::ok).map(|task| task.path());
        let named = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(threads))
        };
        Ok(tasks.filter(named).filter_map(|task| schedstat(&task)).sum())
    }

    /// Until it has a UDP socket at this address, or at this port of all addresses.
    pub(crate) fn wait_for_socket(&mut self, at: SocketAddr, interrupt: &Interrupt) -> Outcome<()> {
        let end = Instant::now() + Duration::from_secs(10);
        let tables = ["udp", "udp6"].map(|table| format!("/proc/{}/net/{table}", self.child.id()));
        loop {
            let has = |table: &String| {
                fs::read_to_string(table).is_ok_and(|text| lists_port(&text, at.port()))
            };
            if tables.iter().any(has) {
                return Ok(());
            }
            if self.ended()? || Instant::now() > end {
                return Err(self.failure(&format!("no socket at {at}")));
            }
            interrupt.pause(POLL)?;
        }
    }

    /// Asks it to end, as an operator would.
    pub(crate) fn terminate(&self) -> Outcome<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let id = id.ok_or_else(|| Failure::new(format!("{}: no process id", self.name)))?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)
            .map_err(Failure::of(&self.name))
    }

    /// Bytes that wait in the UDP sockets of its namespace.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        let tables = ["udp", "udp6"].map(|table| format!("/proc/{}/net/{table}", self.child.id()));
        let texts = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
        texts.map(|text| queued_bytes(&text)).sum()
    }

    /// Until it ends by itself with one of these codes; what it wrote to its standard output.
    pub(crate) fn finish(
        mut self,
        limit: Duration,
        codes: &[i32],
        interrupt: &Interrupt,
    ) -> Outcome<String> {
        let end = Instant::now() + limit;
        while !self.ended()? {
            if Instant::now() > end {
                return Err(self.failure(&format!("still runs after {limit:?}")));
            }
            interrupt.pause(POLL)?;
        }
        let status = self.child.wait().map_err(Failure::of(&self.name))?;
        if !status.code().is_some_and(|code| codes.contains(&code)) {
            return Err(self.failure(&status.to_string()));
        }
        let output = self.log.with_extension("out");
        fs::read_to_string(&output).map_err(Failure::of(output.display()))
    }

    pub(crate) fn ended(&mut self) -> Outcome<bool> {
        let ended = self.child.try_wait().map_err(Failure::of(&self.name))?;
        Ok(ended.is_some())
    }

    /// How it ended, if it has.
    pub(crate) fn status(&mut self) -> Outcome<Option<ExitStatus>> {
        self.child.try_wait().map_err(Failure::of(&self.name))
    }

    /// With the last lines that it wrote to its standard error.
    pub(crate) fn failure(&self, what: &str) -> Failure {
        let said = fs::read_to_string(self.log.with_extension("err")).unwrap_or_default();
        let mut lines: Vec<&str> = said.lines().rev().take(3).collect();
        lines.reverse();
        let said = if lines.is_empty() { "it said nothing".to_owned() } else { lines.join(" | ") };
        Failure::new(format!("{}: {what}: {said}", self.name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // No relay under test has anything to save, and some take seconds to say goodbye.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of the kernel's threads with names that begin like this.
pub(crate) fn kernel_threads_cpu_ns(ids: &[u32]) -> u64 {
    ids.iter().filter_map(|id| schedstat(Path::new(&format!("/proc/{id}")))).sum()
}

/// Process ids by the beginning of their name.
pub(crate) fn processes_named(prefix: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let named = |id: &u32| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with(prefix))
    };
    ids.filter(named).collect()
}

/// Busy and all ticks of a CPU so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    pub(crate) fn read(cpu: u32) -> Outcome<Self> {
        let stat = fs::read_to_string("/proc/stat").map_err(Failure::of("/proc/stat"))?;
        Self::parse(&stat, cpu).ok_or_else(|| Failure::new(format!("/proc/stat has no cpu{cpu}")))
    }

    fn parse(stat: &str, cpu: u32) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")))?;
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).filter_map(|tick| tick.parse().ok()).collect();
        let all: u64 = ticks.iter().sum();
        Some(Self { busy: all - ticks.get(3)? - ticks.get(4)?, all })
    }

    /// Part of the time since then that was not idle.
    #[expect(clippy::cast_precision_loss, reason = "ticks of one trial")]
    pub(crate) fn busy_since(self, then: Self) -> f64 {
        let all = self.all.saturating_sub(then.all).max(1);
        self.busy.saturating_sub(then.busy) as f64 / all as f64
    }
}

/// The first number: nanoseconds on a CPU.
fn schedstat(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Whether a table like `/proc/net/udp` has a socket at this local port.
fn lists_port(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    let local = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    table.lines().skip(1).filter_map(local).any(|local| local.ends_with(&suffix))
}

/// The sum of the receive queues in a table like `/proc/net/udp`.
fn queued_bytes(table: &str) -> u64 {
    let queues = |line: &str| line.split_whitespace().nth(4).map(str::to_owned);
    let queues = table.lines().skip(1).filter_map(queues);
    let received = |queues: String| u64::from_str_radix(queues.split_once(':')?.1, 16).ok();
    queues.filter_map(received).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_local_port_only() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                     123: 020112C6:1388 00000000:1770 07 00000005:00000300 00:00000000\n";
        assert_eq!(queued_bytes(table), 0x300, "what waits to be received");
        assert!(lists_port(table, 5000));
        assert!(!lists_port(table, 6000), "that is the remote one");
    }

    #[test]
    fn busy_is_what_was_neither_idle_nor_waiting_for_a_disk() {
        let then = Ticks::parse("cpu  9 9\ncpu0 10 0 10 100 5 0 0 0 0 0\n", 0).unwrap();
        let stat = "cpu0 40 0 20 140 15 5 5 0 7 0\ncpu1 1 1 1 1 1 1 1 1\n";
        let now = Ticks::parse(stat, 0).unwrap();
        assert!((now.busy_since(then) - 0.5).abs() < 1e-9);
        assert!(Ticks::parse(stat, 2).is_none());
    }

    #[test]
    fn an_interrupted_run_does_not_wait() {
        let interrupt = Interrupt::default();
        interrupt.0.store(true, Ordering::Relaxed);
        assert_eq!(interrupt.pause(Duration::from_secs(60)), Err(Failure::Interrupted));
    }
}

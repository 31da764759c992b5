//! Programs that tests start, and waiting for what they do: everything has a deadline, and what was
//! started is ended, also when a test panics.

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often something is looked at that cannot be waited for.
const POLL: Duration = Duration::from_millis(20);

/// A child process with its standard error in a file; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `command`; `folder` gets its log, `NAME.log`, which begins anew.
    pub(crate) fn start(name: &str, folder: &Path, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log);
        let file = file.unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let child = command.stderr(file).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        Self { name: name.to_owned(), child, log }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// SIGKILL: no word to anybody.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// SIGTERM: please end.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal, written as `kill` wants it.
    pub(crate) fn signal(&self, signal: &str) {
        output(Command::new("kill").args([signal, &self.child.id().to_string()]));
    }

    /// Waits until it ends by itself.
    pub(crate) fn join(&mut self, deadline: Duration) -> ExitStatus {
        let ended = poll(deadline, || self.child.try_wait().expect("our own child"));
        ended.unwrap_or_else(|| {
            panic!("{} still runs after {deadline:?}; its log:\n{}", self.name, self.log())
        })
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already; either way nothing of it is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            println!("--- log of {}\n{}", self.name, last.join("\n"));
        }
    }
}

/// Runs `command` to its end and returns its standard output; panics if it fails.
pub(crate) fn output(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("programs print UTF-8")
}

/// Asks again and again until there is an answer.
pub(crate) fn poll<T>(deadline: Duration, mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return Some(answer);
        }
        if start.elapsed() > deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// [`poll`] that panics with what was waited for.
pub(crate) fn wait_for<T>(what: &str, deadline: Duration, answer: impl FnMut() -> Option<T>) -> T {
    poll(deadline, answer).unwrap_or_else(|| panic!("{what}: not within {deadline:?}"))
}

/// Lets time pass, where the passing of time itself is what the test is about.
pub(crate) fn pass(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) fn now() -> Instant {
    Instant::now()
}

//! What other threads may see of a run while it goes on, and how they end it.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Steady;
use crate::schedule::per_second;

const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// No number of datagrams: wait for silence.
const UNKNOWN: u64 = u64::MAX;

/// Written by the thread that sends or receives, read by all.
#[derive(Debug)]
pub struct Live {
    datagrams: AtomicU64,
    bytes: AtomicU64,
    stop: Arc<AtomicBool>,
    finish: AtomicBool,
    expected: AtomicU64,
}

impl Default for Live {
    fn default() -> Self {
        Self::new(Arc::new(AtomicBool::new(false)))
    }
}

impl Live {
    /// `stop` may be set by a signal.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            datagrams: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stop,
            finish: AtomicBool::new(false),
            expected: AtomicU64::new(UNKNOWN),
        }
    }

    /// Ends the run at once.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends a receiver when `sent` datagrams are there, or when no more come.
    pub fn finish(&self, sent: Option<u64>) {
        self.expected.store(sent.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.finish.store(true, Ordering::Release);
    }

    /// How many datagrams there should be, once the sender has ended.
    pub fn finishing(&self) -> Option<u64> {
        let finishing = self.finish.load(Ordering::Acquire);
        finishing.then(|| self.expected.load(Ordering::Relaxed))
    }

    pub fn publish(&self, datagrams: u64, bytes: u64) {
        self.datagrams.store(datagrams, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A thread that prints a line on standard error every half second, if that is a terminal.
#[derive(Debug)]
pub struct Progress {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub fn start(verb: &'static str, live: &Arc<Live>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (ended, live) = (Arc::clone(&done), Arc::clone(live));
        let show = move || {
            let clock = Steady::start();
            let (mut before_ns, mut before) = (0, 0);
            loop {
                thread::park_timeout(PROGRESS_EVERY);
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let (now_ns, now) = (clock.ns(), live.datagrams());
                let rate = (now - before) as f64 * 1e9 / (now_ns - before_ns).max(1) as f64;
                (before_ns, before) = (now_ns, now);
                let seconds = now_ns as f64 / 1e9;
                let rate = per_second(rate);
                let line = format!("{seconds:6.1} s  {rate:>12}  {now} datagrams {verb}");
                // Nobody is left to tell if the terminal is gone.
                let _ = writeln!(io::stderr().lock(), "{line}");
            }
        };
        let wanted = io::stderr().is_terminal();
        let named = || thread::Builder::new().name("progress".to_owned()).spawn(show).ok();
        Self { done, thread: wanted.then(named).flatten() }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It does not panic, and if it did the run is still whole.
            let _ = thread.join();
        }
    }
}

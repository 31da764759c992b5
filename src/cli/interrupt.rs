//! Ctrl-C and the polite signals, for commands that have something to put away.
//!
//! A thread of its own waits, because the rest of the command blocks in reads and sleeps.

use std::sync::{Arc, Barrier};
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs `action` on another thread at the first SIGINT, SIGTERM or SIGHUP. A second one ends the
/// process as if nobody had asked to wait. Signals are watched when this returns.
pub(super) fn on_interrupt(action: impl FnOnce() + Send + 'static) {
    let watching = Arc::new(Barrier::new(2));
    let told = Arc::clone(&watching);
    let wait = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut signals =
            runtime.as_ref().map(|runtime| runtime.block_on(async { Signals::new() }));
        told.wait();
        let (Ok(runtime), Ok(signals)) = (&runtime, &mut signals) else {
            // Without it the signals keep what they do by themselves.
            return;
        };
        runtime.block_on(signals.next());
        thread::spawn(action);
        runtime.block_on(signals.next());
        std::process::exit(INTERRUPTED);
    };
    // If there is no thread to be had, the signals keep what they do by themselves, too.
    if thread::Builder::new().name("signals".to_owned()).spawn(wait).is_ok() {
        watching.wait();
    }
}

/// What a shell reports for a program that Ctrl-C ended.
pub(super) const INTERRUPTED: i32 = 130;

/// The signals; one that cannot be watched is left out.
struct Signals([Option<Signal>; 3]);

impl Signals {
    /// Inside a runtime.
    fn new() -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Self(kinds.map(|kind| signal(kind).ok()))
    }

    async fn next(&mut self) {
        let one = async |signal: &mut Option<Signal>| match signal {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        };
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            () = one(interrupt) => {}
            () = one(terminate) => {}
            () = one(hangup) => {}
        }
    }
}

//! Ctrl-C and the polite signals, for commands that have something to put away.
//!
//! A thread of its own waits, because the rest of the command blocks in reads and sleeps.

use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Runs `action` on another thread at the first SIGINT, SIGTERM or SIGHUP. A second one ends the
/// process as if nobody had asked to wait.
pub(super) fn on_interrupt(action: impl FnOnce() + Send + 'static) {
    let wait = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            // Without it the signals keep what they do by themselves.
            return;
        };
        runtime.block_on(next_signal());
        thread::spawn(action);
        runtime.block_on(next_signal());
        std::process::exit(INTERRUPTED);
    };
    // If there is no thread to be had, the signals keep what they do by themselves, too.
    let _ = thread::Builder::new().name("signals".to_owned()).spawn(wait);
}

/// What a shell reports for a program that Ctrl-C ended.
pub(super) const INTERRUPTED: i32 = 130;

async fn next_signal() {
    let one = |kind| async move {
        match signal(kind) {
            Ok(mut stream) => {
                stream.recv().await;
            }
            // This signal cannot be watched; the others still can.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = one(SignalKind::interrupt()) => {}
        () = one(SignalKind::terminate()) => {}
        () = one(SignalKind::hangup()) => {}
    }
}

//! Where a request stands while `open --wait` waits: one line on a terminal that is rewritten each
//! second, otherwise a line whenever its place or what blocks it changes. All on standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::screen::{Daemon, say};
use super::table::{WIDTH, cut};
use crate::api::dto::{Open, QueueRow, Request, ShortRow};

/// Between two looks at the queue.
const INTERVAL: Duration = Duration::from_secs(1);

/// Tells until it is stopped, from a thread of its own.
pub(super) struct Progress {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Progress {
    /// A request does not fail because nobody can watch it: then there is none.
    pub(super) fn start(daemon: &Daemon, open: &Open) -> Option<Self> {
        let over = Arc::<AtomicBool>::default();
        let (daemon, open, ends) = (daemon.clone(), open.clone(), Arc::clone(&over));
        let watch = move || watch(&daemon, &open, &ends);
        let thread = thread::Builder::new().name("progress".to_owned()).spawn(watch).ok()?;
        Some(Self { over, thread })
    }

    /// Nothing is told any more when this returns, and the line is gone.
    pub(super) fn stop(self) {
        self.over.store(true, Relaxed);
        self.thread.thread().unpark();
        // A thread that panicked has said so.
        let _ = self.thread.join();
    }
}

fn watch(daemon: &Daemon, open: &Open, over: &AtomicBool) {
    let rewrites = io::stderr().is_terminal();
    let (mut told, mut written) = (String::new(), false);
    loop {
        thread::park_timeout(INTERVAL);
        if over.load(Relaxed) {
            break;
        }
        let rows: Vec<QueueRow> = daemon.ask(&Request::Queue).unwrap_or_default();
        let Some(row) = own(&rows, open) else { continue };
        let (place, times) = (place(row), times(row));
        if rewrites {
            rewrite(&cut(&format!("{times}: {place}"), WIDTH - 1));
            written = true;
        } else if place != told {
            say(&format!("{times}: {place}"));
            told = place;
        }
    }
    if written {
        rewrite("");
    }
}

/// The line of the cursor becomes this one.
fn rewrite(line: &str) {
    let mut err = io::stderr().lock();
    // Nobody is left to tell if that fails.
    let _ = write!(err, "\r\x1b[K{line}").and_then(|()| err.flush());
}

/// The one that was asked for: among equal ones the last, for the others were there before.
fn own<'r>(rows: &'r [QueueRow], open: &Open) -> Option<&'r QueueRow> {
    let same = |row: &&QueueRow| {
        row.peer == open.peer
            && row.service == open.service
            && row.bandwidth_bps == open.bandwidth_bps
            && open.name.as_ref().is_none_or(|name| *name == row.name)
    };
    rows.iter().filter(same).min_by_key(|row| row.waited_ms)
}

fn times(row: &QueueRow) -> String {
    format!("waited {} s, {} s left", row.waited_ms / 1_000, row.left_ms / 1_000)
}

fn place(row: &QueueRow) -> String {
    let Some(short) = row.short.first() else { return format!("position {}", row.position) };
    let ShortRow { at, towards, budget, asked_bps, free_bps, ahead, .. } = short;
    let of = match towards {
        Some(far) => format!("{at} - {far}"),
        None => format!("{} of {at}", budget.as_deref().unwrap_or("the host")),
    };
    let ahead = if *ahead > 0 { format!(", {ahead} ahead") } else { String::new() };
    let more = row.short.len() - 1;
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("position {}, {of} has {free_bps} free of {asked_bps}{ahead}{more}", row.position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bandwidth;

    fn row(name: &str, waited_ms: u64) -> QueueRow {
        let peer: crate::types::PeerName = "c".parse().expect("a name");
        let short = ShortRow {
            at: "b".parse().expect("a name"),
            towards: Some(peer.clone()),
            budget: None,
            asked_bps: Bandwidth::from_bps(20_000_000),
            free_bps: Bandwidth::from_bps(5_000_000),
            ahead: 1,
            before: None,
            holders: Vec::new(),
        };
        QueueRow {
            id: format!("a:1:{waited_ms}"),
            name: name.parse().expect("a name"),
            peer,
            service: "video".parse().expect("a name"),
            bandwidth_bps: Bandwidth::from_bps(20_000_000),
            bandwidth_back_bps: Bandwidth::ZERO,
            path: Vec::new(),
            position: 2,
            waited_ms,
            left_ms: 27_400,
            short: vec![short],
        }
    }

    #[test]
    fn a_request_that_waits_says_where_it_stands_and_what_blocks_it() {
        let row = row("film", 3_900);
        assert_eq!(times(&row), "waited 3 s, 27 s left");
        let expected = "position 2, b - c has 5 Mbit/s free of 20 Mbit/s, 1 ahead";
        assert_eq!(place(&row), expected);
        let several = QueueRow { short: vec![row.short[0].clone(), row.short[0].clone()], ..row };
        assert!(place(&several).ends_with(", and 1 more"));
    }

    #[test]
    fn of_equal_requests_the_last_is_the_own_one() {
        let rows = [row("one", 9_000), row("two", 1_000)];
        let open = |name: Option<&str>| -> Open {
            let mut json = serde_json::json!({
                "peer": "c", "service": "video", "bandwidth_bps": 20_000_000, "deadline_ms": 1_000,
            });
            json["name"] = serde_json::json!(name);
            serde_json::from_value(json).expect("a request")
        };
        let found = |name| own(&rows, &open(name)).map(|row| row.name.to_string());
        assert_eq!(found(None).as_deref(), Some("two"));
        assert_eq!(found(Some("one")).as_deref(), Some("one"));
        assert_eq!(found(Some("three")), None);
    }
}

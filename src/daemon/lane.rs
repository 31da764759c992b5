//! The control lane as the scheduler sees it: which CPUs its thread may use, how long its turns are,
//! and the longest piece of work it ever did without a pause.
//!
//! Workers go first. Where a CPU without a worker is left, the control thread stays on such CPUs;
//! where not, it asks for long turns, workers ask for short ones, and a worker that wakes up goes
//! before it. Assumes that one thread runs the whole lane, and that it is the calling one.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::limits;
use crate::net::sched::{self, Slice};

thread_local! {
    /// Longest piece so far, in CPU time.
    static LONGEST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Where the control thread runs, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) cpus: Vec<usize>,
    /// No CPU is free of workers: the lanes share.
    pub(crate) shared: bool,
    pub(crate) slice: Slice,
}

impl Lane {
    /// Puts the calling thread in its place; `workers` are the CPUs with a pinned worker. What it starts
    /// afterwards is in the same place.
    pub(crate) fn enter(configured: &[usize], workers: &[usize]) -> io::Result<Self> {
        let allowed = sched::allowed_cpus()?;
        let cpus = match configured {
            [] => place(&allowed, workers),
            cpus => cpus.to_vec(),
        };
        if cpus != allowed {
            sched::stay_on(&cpus)?;
        }
        let slice = sched::request_slice(limits::CONTROL_SLICE, 0)?;
        let shared = cpus.iter().any(|cpu| workers.contains(cpu));
        Ok(Self { cpus, shared, slice })
    }
}

/// The allowed CPUs without a worker, or all if there is none.
fn place(allowed: &[usize], workers: &[usize]) -> Vec<usize> {
    let free: Vec<usize> = allowed.iter().copied().filter(|cpu| !workers.contains(cpu)).collect();
    if free.is_empty() { allowed.to_vec() } else { free }
}

/// A task of the control lane, its pieces timed.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(timed(task))
}

/// `future` with each of its pieces timed: what runs from one wait to the next.
pub(crate) fn timed<F: Future>(future: F) -> impl Future<Output = F::Output> {
    Timed(Box::pin(future))
}

/// The longest piece of the calling thread so far.
pub(crate) fn longest_piece() -> Duration {
    LONGEST.get()
}

struct Timed<F>(Pin<Box<F>>);

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = sched::thread_time();
        let polled = self.0.as_mut().poll(context);
        let piece = sched::thread_time().saturating_sub(before);
        LONGEST.set(LONGEST.get().max(piece));
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a20_control_stays_off_worker_cpus_where_others_are_left() {
        assert_eq!(place(&[0, 1, 2, 3], &[1, 2]), [0, 3]);
        assert_eq!(place(&[0, 1], &[0, 5]), [1]);
        assert_eq!(place(&[0, 1], &[1, 0]), [0, 1]);
        assert_eq!(place(&[0, 1], &[]), [0, 1]);
    }

    #[test]
    fn the_longest_piece_is_work_between_two_waits_not_the_sum() {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime.expect("a runtime"), async {
                let work = |amount: Duration| {
                    let start = sched::thread_time();
                    while sched::thread_time() - start < amount {}
                };
                let task = async move {
                    for _ in 0..5 {
                        work(Duration::from_millis(4));
                        tokio::task::yield_now().await;
                    }
                };
                spawn(task).await.expect("no panic");
            });
            longest_piece()
        };
        let longest = std::thread::spawn(run).join().expect("no panic");
        assert!(longest >= Duration::from_millis(4), "{longest:?}");
        assert!(longest < Duration::from_millis(12), "{longest:?}");
    }
}

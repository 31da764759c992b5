//! The rings between the workers of one engine: buffers move, bytes stay.
//!
//! ```text
//! worker A ── Passed ──► inbox of B        frames that arrived at A but belong to B
//!          ◄── Filled ── home ring of A    the buffer, when nobody has segments of it to do any more
//! ```
//!
//! A buffer is with one worker at a time. If several workers have segments in it, it visits one after
//! the other with the set of those still to do ([`Todo`]); the last sends it home. What one worker
//! passes to another arrives in the order in which it was passed.
//!
//! An inbox is bounded; when it is full the caller drops the segments by name (`ring_full`). A home ring
//! has room for every buffer its worker owns, so a buffer always finds home. A worker that waits for the
//! kernel is woken; one that runs is not disturbed.
//!
//! crossbeam's bounded queue is inside. Knows nothing of frames and labels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;

use super::pool::Filled;
use crate::limits::{ARRIVING_MAX, BUFFERS_PER_WORKER, INBOX_MAX};
use crate::net::EventFd;
use crate::types::WorkerId;

/// Which segments of a super-buffer are still to be judged. The kernel makes at most 128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Todo(u128);

impl Todo {
    /// Segments a super-buffer may have; what lies behind them cannot be passed on.
    pub(super) const SEGMENTS_MAX: usize = 128;

    /// False if the segment is none a set can name.
    pub(super) fn add(&mut self, segment: usize) -> bool {
        if segment < Self::SEGMENTS_MAX {
            self.0 |= 1 << segment;
        }
        segment < Self::SEGMENTS_MAX
    }

    pub(super) fn has(self, segment: usize) -> bool {
        segment < Self::SEGMENTS_MAX && self.0 >> segment & 1 == 1
    }

    pub(super) fn len(self) -> u64 {
        u64::from(self.0.count_ones())
    }
}

/// All rings of an engine; every worker has a reference. `F` is what frames are passed in, `C` a
/// channel that goes over.
#[derive(Debug)]
pub struct Rings<F, C> {
    doors: Vec<Door<F, C>>,
}

#[derive(Debug)]
struct Door<F, C> {
    inbox: ArrayQueue<F>,
    arrivals: ArrayQueue<Box<C>>,
    home: ArrayQueue<Filled>,
    /// The worker waits for the kernel, or is about to.
    waiting: AtomicBool,
    wake: Arc<EventFd>,
}

impl<F, C> Rings<F, C> {
    /// One door per worker; `wakes` end their waits.
    pub fn new(wakes: impl IntoIterator<Item = Arc<EventFd>>) -> Self {
        let door = |wake| Door {
            inbox: ArrayQueue::new(INBOX_MAX),
            arrivals: ArrayQueue::new(ARRIVING_MAX),
            home: ArrayQueue::new(usize::from(BUFFERS_PER_WORKER)),
            waiting: AtomicBool::new(false),
            wake,
        };
        Self { doors: wakes.into_iter().map(door).collect() }
    }

    pub fn workers(&self) -> usize {
        self.doors.len()
    }

    /// Passes something to another worker; back if its inbox is full.
    pub fn pass(&self, to: WorkerId, passed: F) -> Result<(), F> {
        let door = self.door(to);
        door.inbox.push(passed)?;
        door.knock();
        Ok(())
    }

    /// Sends a buffer to the worker that owns it.
    pub fn send_home(&self, home: usize, buffer: Filled) {
        let door = &self.doors[home];
        // Its worker has as many buffers as there is room, and each exists once.
        door.home.push(buffer).expect("room for every buffer of the worker");
        door.knock();
    }

    /// Whether a channel may be sent there now. Channels come from one worker at a time, so it stays so
    /// until one is sent.
    pub fn has_room_for_channel(&self, to: WorkerId) -> bool {
        !self.door(to).arrivals.is_full()
    }

    /// Hands a channel over: seen by the other worker before whatever is passed to it later.
    pub fn send_channel(&self, to: WorkerId, channel: Box<C>) {
        let door = self.door(to);
        assert!(door.arrivals.push(channel).is_ok(), "room was made sure of");
        door.knock();
    }

    pub fn next(&self, worker: WorkerId) -> Option<F> {
        self.door(worker).inbox.pop()
    }

    pub fn next_channel(&self, worker: WorkerId) -> Option<Box<C>> {
        self.door(worker).arrivals.pop()
    }

    pub fn next_home(&self, worker: WorkerId) -> Option<Filled> {
        self.door(worker).home.pop()
    }

    /// Before a wait: false if something came meanwhile, and the worker must not wait.
    pub fn may_wait(&self, worker: WorkerId) -> bool {
        let door = self.door(worker);
        door.waiting.store(true, Ordering::Relaxed);
        // Either we see what was pushed, or who pushed it sees that we wait.
        fence(Ordering::SeqCst);
        door.inbox.is_empty() && door.arrivals.is_empty() && door.home.is_empty()
    }

    /// After the wait.
    pub fn woke(&self, worker: WorkerId) {
        self.door(worker).waiting.store(false, Ordering::Relaxed);
    }

    fn door(&self, worker: WorkerId) -> &Door<F, C> {
        &self.doors[usize::from(worker.0)]
    }
}

impl<F, C> Door<F, C> {
    fn knock(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::Relaxed) {
            self.wake.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::engine::pool::Pool;

    const ONE: WorkerId = WorkerId(0);

    fn rings<T>(workers: usize) -> Rings<T, ()> {
        Rings::new((0..workers).map(|_| Arc::new(EventFd::new().unwrap())))
    }

    #[test]
    fn what_is_passed_arrives_once_and_in_order() {
        const COUNT: u32 = 20_000;
        let other = WorkerId(1);
        let rings = Arc::new(rings::<u32>(2));
        let there = Arc::clone(&rings);
        let passer = thread::spawn(move || {
            for number in 0..COUNT {
                while there.pass(other, number).is_err() {
                    thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            match rings.next(other) {
                Some(number) => {
                    assert_eq!(number, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
        passer.join().unwrap();
        assert_eq!((rings.next(other), rings.next(ONE)), (None, None));
    }

    #[test]
    fn a_full_inbox_gives_back_what_it_cannot_take() {
        let rings = rings::<usize>(1);
        for number in 0..INBOX_MAX {
            rings.pass(ONE, number).unwrap();
        }
        assert_eq!(rings.pass(ONE, 7), Err(7));
        assert_eq!(rings.next(ONE), Some(0));
        rings.pass(ONE, 7).unwrap();
    }

    #[test]
    fn every_buffer_finds_home() {
        let rings = rings::<()>(1);
        let (_pool, buffers) = Pool::new(BUFFERS_PER_WORKER).unwrap();
        for buffer in buffers {
            rings.send_home(0, buffer.filled(1));
        }
        let home = std::iter::from_fn(|| rings.next_home(ONE)).count();
        assert_eq!(home, usize::from(BUFFERS_PER_WORKER));
    }

    #[test]
    fn who_waits_is_woken_and_who_runs_is_not() {
        use std::io::Read as _;
        use std::os::fd::AsFd as _;
        let wake = Arc::new(EventFd::new().unwrap());
        let rings = Rings::<u8, u8>::new([Arc::clone(&wake)]);
        let notified = || {
            let copy = wake.as_fd().try_clone_to_owned().unwrap();
            std::fs::File::from(copy).read(&mut [0; 8]).is_ok()
        };
        rings.pass(ONE, 1).unwrap();
        assert!(!notified(), "it runs");
        assert!(!rings.may_wait(ONE), "something is there");
        rings.woke(ONE);
        let _ = rings.next(ONE);
        assert!(rings.may_wait(ONE));
        rings.send_channel(ONE, Box::new(2));
        assert!(notified() && !rings.may_wait(ONE));
        rings.woke(ONE);
        rings.pass(ONE, 3).unwrap();
        assert!(!notified(), "once is enough");
    }

    #[test]
    fn a_set_of_segments_knows_its_members() {
        let mut todo = Todo::default();
        assert_eq!(todo.len(), 0);
        assert!(todo.add(0) && todo.add(127) && !todo.add(128));
        assert!(todo.has(0) && todo.has(127) && !todo.has(1) && !todo.has(128));
        assert_eq!(todo.len(), 2);
    }
}

//! The control side of this program's data plane: takes the daemon's commands, tells it what happened.
//!
//! One worker thread ([`super::worker`]) does the work; orders reach it in the order they were given, those
//! of the daemon and those of the program alike. Knows nothing of frames.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use spanway::engine::seal::Seal;
use spanway::engine::{Command, DataPlane, EngineConfig, EngineError, Event, OwnEnds, WorkerInfo};
use spanway::net::{self, EventFd};
use spanway::stats::{ChannelStats, WorkerStats};
use spanway::types::{ChannelId, WorkerId};

use super::worker::{self, Worker};
use super::{Outcome, Role};

/// What the worker thread is told.
#[derive(Debug)]
pub(super) enum Order {
    Command(Command),
    AddEnd {
        channel: ChannelId,
        seal: Seal,
        stats: Arc<ChannelStats>,
    },
    Finished {
        channel: ChannelId,
        frames: u64,
    },
    /// Of the program: this channel carries a flow from now on. `open` returned at this time.
    Flow {
        channel: ChannelId,
        opened_ns: u64,
    },
    /// Of the program: the run begins.
    Begin,
    /// Of the program: no frame is sent any more.
    End,
}

/// What the threads of this program share.
#[derive(Debug)]
pub(super) struct Shared {
    orders: Mutex<VecDeque<Order>>,
    /// Orders of the daemon that were applied.
    applied: AtomicU64,
    events: Mutex<Vec<Event>>,
    pub(super) wake: EventFd,
    control: EventFd,
    ended: AtomicBool,
    pub(super) board: Board,
}

/// What the program sees while the thread runs.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// The daemon has its locks and ports.
    pub(super) started: AtomicBool,
    /// Frames handed to the kernel, frames given up before that, frames taken.
    pub(super) sent: AtomicU64,
    pub(super) unsent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Channels that end here now, and that ever did.
    pub(super) ends: AtomicU64,
    pub(super) ends_ever: AtomicU64,
    /// Channels that have a path now.
    pub(super) ways: AtomicU64,
    /// How often a link went down.
    pub(super) links_lost: AtomicU64,
    pub(super) gso_refused: AtomicBool,
    pub(super) over: AtomicBool,
    /// Numbers that frames of each channel have taken; told when the run is over.
    frames: Mutex<Vec<(ChannelId, u64)>>,
    outcome: Mutex<Option<Outcome>>,
}

impl Board {
    /// The run is over: these channels had so many frames.
    pub(super) fn run_over(&self, frames: Vec<(ChannelId, u64)>) {
        *self.frames.lock().expect(UNPOISONED) = frames;
        self.over.store(true, Ordering::Release);
    }

    pub(super) fn take_frames(&self) -> Vec<(ChannelId, u64)> {
        std::mem::take(&mut *self.frames.lock().expect(UNPOISONED))
    }

    pub(super) fn set_outcome(&self, outcome: Outcome) {
        *self.outcome.lock().expect(UNPOISONED) = Some(outcome);
    }

    pub(super) fn take_outcome(&self) -> Option<Outcome> {
        self.outcome.lock().expect(UNPOISONED).take()
    }
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            orders: Mutex::default(),
            applied: AtomicU64::new(0),
            events: Mutex::default(),
            wake: EventFd::new()?,
            control: EventFd::new()?,
            ended: AtomicBool::new(false),
            board: Board::default(),
        })
    }

    pub(super) fn order(&self, order: Order) {
        self.orders.lock().expect(UNPOISONED).push_back(order);
        self.wake.notify();
    }

    /// Everything that waits, appended to `out`.
    pub(super) fn take_orders(&self, out: &mut VecDeque<Order>) {
        out.append(&mut self.orders.lock().expect(UNPOISONED));
    }

    pub(super) fn applied(&self, orders: u64) {
        self.applied.fetch_add(orders, Ordering::Release);
        self.control.notify();
    }

    pub(super) fn tell(&self, event: Event) {
        self.events.lock().expect(UNPOISONED).push(event);
        self.control.notify();
    }
}

pub(super) const UNPOISONED: &str = "nobody panics while holding it";

#[derive(Debug)]
pub(super) struct Plane {
    shared: Arc<Shared>,
    infos: [WorkerInfo; 1],
    thread: Option<JoinHandle<()>>,
    ordered: u64,
    end_told: bool,
}

impl Plane {
    /// Binds the port and starts the thread.
    pub(super) fn start(
        config: &EngineConfig,
        role: Role,
        shared: Arc<Shared>,
    ) -> Result<Self, EngineError> {
        let address = config.listen;
        let bind = |source| EngineError::Bind { address, source };
        let failed = |error: io::Error| EngineError::Start { worker: 0, text: error.to_string() };
        let (socket, receive_buffer) = net::bind_worker(address).map_err(bind)?;
        let stats = Arc::new(WorkerStats::default());
        let cpu = config.cpus.first().copied().flatten();
        let info = WorkerInfo {
            address,
            port: address.port(),
            cpu,
            receive_buffer,
            slice: None,
            stats: Arc::clone(&stats),
            proxy: None,
        };
        let (theirs, origin) = (Arc::clone(&shared), config.origin);
        let worker = Worker::new(socket, role, origin, theirs, stats).map_err(failed)?;
        let ended = Ended(Arc::clone(&shared));
        let thread = thread::Builder::new().name("spanway-pktgen".to_owned()).spawn(move || {
            let ended = ended;
            if let Err(text) = worker::run(worker, cpu) {
                ended.0.tell(Event::Failed(text));
            }
        });
        let thread = Some(thread.map_err(failed)?);
        shared.board.started.store(true, Ordering::Release);
        Ok(Self { shared, infos: [info], thread, ordered: 0, end_told: false })
    }

    fn order(&mut self, order: Order) {
        self.ordered += 1;
        self.shared.order(order);
    }
}

impl DataPlane for Plane {
    fn send(&mut self, _worker: WorkerId, command: Command) {
        self.order(Order::Command(command));
    }

    fn broadcast(&mut self, make: &dyn Fn() -> Command) {
        self.order(Order::Command(make()));
    }

    fn applied(&mut self) -> bool {
        self.shared.applied.load(Ordering::Acquire) == self.ordered
    }

    fn poll_events(&mut self, out: &mut Vec<Event>) {
        self.shared.control.drain();
        let ended = self.shared.ended.load(Ordering::Acquire);
        out.append(&mut self.shared.events.lock().expect(UNPOISONED));
        if ended && !std::mem::replace(&mut self.end_told, true) {
            out.push(Event::Failed("the thread that moves frames ended".to_owned()));
        }
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.shared.control.as_fd()
    }

    fn workers(&self) -> &[WorkerInfo] {
        &self.infos
    }

    fn backend(&self) -> (&'static str, &str) {
        ("pktgen", "the program is the peer")
    }

    fn stop(&mut self) {
        self.end_told = true;
        self.order(Order::Command(Command::Stop));
        if let Some(thread) = self.thread.take() {
            // A panic was printed by its own thread.
            let _ = thread.join();
        }
    }

    fn own_ends(&mut self) -> Option<&mut dyn OwnEnds> {
        Some(self)
    }
}

impl OwnEnds for Plane {
    fn add_end(
        &mut self,
        _worker: WorkerId,
        channel: &ChannelId,
        seal: Seal,
        stats: &Arc<ChannelStats>,
    ) {
        self.order(Order::AddEnd { channel: channel.clone(), seal, stats: Arc::clone(stats) });
    }

    fn finished(&mut self, channel: &ChannelId, frames: u64) {
        self.order(Order::Finished { channel: channel.clone(), frames });
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

/// Says that the thread is gone, also when it panicked.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.control.notify();
    }
}

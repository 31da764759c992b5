//! The control thread's handle of the engine: start, commands in, events out, stop.
//!
//! Assumes one control thread. Commands to one worker are applied in the order they were sent; what
//! does not fit into its ring waits here, in order. Knows nothing of frames.

#![expect(
    clippy::disallowed_methods,
    reason = "waits for the kernel and for threads, with a bound"
)]

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::pool::{Pool, Unfilled};
use super::worker::{Room, Shared, Worker, WorkerRings};
use super::{Command, EngineConfig, Event, ProxySpec};
use crate::limits::{
    BIND_RETRY, BUFFERS_PER_WORKER, LENT_MAX, PROXY_FILES, WORKER_SLICE, WORKERS_MAX,
};
use crate::net::sched::{self, Slice};
use crate::net::{self, Backend, EventFd, Net};
use crate::stats::{ProxyStats, WorkerStats};
use crate::types::WorkerId;

/// Why the engine cannot start: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot listen on UDP {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error(
        "{workers} workers from UDP port {port} upwards: 1 to {WORKERS_MAX} workers are allowed and the last port is 65535"
    )]
    Workers { workers: usize, port: u16 },
    #[error("engine backend: {0}")]
    Backend(String),
    #[error(
        "{clients} clients need {needed} open files and this process may have {granted}: lower `--clients-max` or raise `ulimit -n`"
    )]
    Files { clients: u32, needed: u64, granted: u64 },
    #[error("worker {worker} cannot start: {text}")]
    Start { worker: usize, text: String },
}

/// A worker as the outside sees it.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// Where it receives frames.
    pub address: SocketAddr,
    pub port: u16,
    pub cpu: Option<usize>,
    /// Bytes of receive buffer the kernel granted its socket.
    pub receive_buffer: usize,
    /// The turns on its CPU that the kernel granted its thread; `None` leaves them to the kernel.
    pub slice: Option<Duration>,
    pub stats: Arc<WorkerStats>,
    /// Of a proxy's.
    pub proxy: Option<Arc<ProxyStats>>,
}

/// The running workers. Dropping it stops them.
#[derive(Debug)]
pub struct Engine {
    running: Vec<Running>,
    infos: Vec<WorkerInfo>,
    control: Arc<EventFd>,
    backend: Backend,
    why: String,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Commands its ring had no room for, in order.
    waiting: VecDeque<Queued>,
    sent: u64,
    end_told: bool,
}

/// What waits to be told to a worker.
#[derive(Debug)]
enum Queued {
    Command(Command),
    /// Not before this worker has applied so many.
    After {
        worker: usize,
        applied: u64,
    },
}

impl Engine {
    /// Binds all sockets, chooses the back end and starts the workers. With port 0 the kernel chooses
    /// the first worker's port.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let probed = net::probe(config.backend).map_err(EngineError::Backend)?;
        let workers = config.cpus.len();
        if usize::from(config.listen.port()) + workers.saturating_sub(1) > usize::from(u16::MAX) {
            return Err(EngineError::Workers { workers, port: config.listen.port() });
        }
        let sockets = bind(workers, config.listen, || bind_all(config.listen, workers))?;
        Self::start_workers(config, probed, sockets, None)
    }

    /// The same for a plain UDP proxy: all workers have one port, and no commands.
    pub fn start_proxy(config: EngineConfig, spec: ProxySpec) -> Result<Self, EngineError> {
        let probed = net::probe(config.backend).map_err(EngineError::Backend)?;
        let needed = u64::from(spec.clients_max) + PROXY_FILES;
        let granted = net::raise_open_files(needed);
        if granted < needed {
            return Err(EngineError::Files { clients: spec.clients_max, needed, granted });
        }
        let (listen, workers) = (config.listen, config.cpus.len());
        let failed = |source| EngineError::Bind { address: listen, source };
        let sockets = bind(workers, listen, || net::bind_proxy(listen, workers).map_err(failed))?;
        let room = Room::new(spec.clients_max);
        Self::start_workers(config, probed, sockets, Some((spec, room)))
    }

    fn start_workers(
        config: EngineConfig,
        (backend, why): (Backend, String),
        sockets: Vec<(UdpSocket, usize)>,
        proxy: Option<(ProxySpec, Room)>,
    ) -> Result<Self, EngineError> {
        let internal = |error: io::Error| EngineError::Start { worker: 0, text: error.to_string() };
        let control = Arc::new(EventFd::new().map_err(internal)?);
        let mut engine = Self { running: Vec::new(), infos: Vec::new(), control, backend, why };
        let pools = Pool::shared(sockets.len(), BUFFERS_PER_WORKER).map_err(internal)?;
        let mut shared = Vec::with_capacity(sockets.len());
        for _ in &sockets {
            shared.push(Arc::new(Shared::new(Arc::clone(&engine.control)).map_err(internal)?));
        }
        let rings = WorkerRings::new(shared.iter().map(|shared| Arc::clone(&shared.wake)));
        let rings = Arc::new(rings);
        let places = sockets.into_iter().zip(config.cpus).zip(pools);
        for (number, (((socket, receive_buffer), cpu), buffers)) in (0..).map(WorkerId).zip(places)
        {
            let worker = usize::from(number.0);
            let failed = |error: io::Error| EngineError::Start { worker, text: error.to_string() };
            net::mark::mark(socket.as_fd(), config.dscp).map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            let proxy = proxy.clone().map(|(spec, room)| (spec, room, Arc::default()));
            let start = Start {
                number,
                socket,
                cpu,
                backend,
                buffers,
                origin: config.origin,
                latency: config.latency,
                proxy,
                shared: Arc::clone(&shared[worker]),
                rings: Arc::clone(&rings),
                stats: Arc::default(),
            };
            let stats = Arc::clone(&start.stats);
            let proxy = start.proxy.as_ref().map(|(_, _, stats)| Arc::clone(stats));
            let (running, slice) = start.spawn()?;
            engine.running.push(running);
            let (port, slice) = (address.port(), slice.granted());
            engine.infos.push(WorkerInfo {
                address,
                port,
                cpu,
                receive_buffer,
                slice,
                stats,
                proxy,
            });
        }
        Ok(engine)
    }

    /// A worker that does not exist is the caller's mistake.
    pub fn send(&mut self, worker: WorkerId, command: Command) {
        let from = usize::from(worker.0);
        let moves_to = if let Command::MoveChannel { to, .. } = &command {
            Some(usize::from(to.0))
        } else {
            None
        };
        let running = &mut self.running[from];
        running.sent += 1;
        let applied = running.sent;
        running.waiting.push_back(Queued::Command(command));
        if let Some(to) = moves_to {
            self.running[to].waiting.push_back(Queued::After { worker: from, applied });
        }
        self.push_waiting();
    }

    /// The same command to every worker.
    pub fn broadcast(&mut self, make: impl Fn() -> Command) {
        for worker in &mut self.running {
            worker.sent += 1;
            worker.waiting.push_back(Queued::Command(make()));
        }
        self.push_waiting();
    }

    /// Pushes on what waits, and whether everything sent so far has been applied.
    pub fn applied(&mut self) -> bool {
        self.push_waiting();
        self.running.iter().all(|worker| worker.applied() == worker.sent)
    }

    /// Everything the workers told since the last call, appended to `out`.
    pub fn poll_events(&mut self, out: &mut Vec<Event>) {
        // Drained first: what is told from here on makes it readable again.
        self.control.drain();
        self.push_waiting();
        for (index, worker) in self.running.iter_mut().enumerate() {
            let before = out.len();
            out.extend(std::iter::from_fn(|| worker.shared.events.pop()));
            if !worker.end_told && worker.shared.ended.load(Ordering::Acquire) {
                worker.end_told = true;
                out.extend(std::iter::from_fn(|| worker.shared.events.pop()));
                if !out[before..].iter().any(|event| matches!(event, Event::Failed(_))) {
                    out.push(Event::Failed(format!("worker {index} ended unexpectedly")));
                }
            }
        }
    }

    fn push_waiting(&mut self) {
        let applied: Vec<u64> = self.running.iter().map(Running::applied).collect();
        self.running.iter_mut().for_each(|worker| worker.push_waiting(&applied));
    }

    /// Readable when a worker has an event or has applied commands; [`Engine::poll_events`] makes it
    /// unreadable again.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    pub fn workers(&self) -> &[WorkerInfo] {
        &self.infos
    }

    /// The back end in use, and why it is that one.
    pub fn backend(&self) -> (&'static str, &str) {
        (self.backend.as_str(), &self.why)
    }

    /// Stops all workers and waits for them; their ports are free afterwards.
    pub fn stop(&mut self) {
        for worker in &mut self.running {
            worker.end_told = true;
            worker.waiting.clear();
            worker.waiting.push_back(Queued::Command(Command::Stop));
        }
        for worker in &mut self.running {
            let Some(thread) = worker.thread.take() else { continue };
            while !worker.waiting.is_empty() && !thread.is_finished() {
                worker.push_waiting(&[]);
                thread::sleep(Duration::from_micros(100));
            }
            // A panic of the worker was printed by its own thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    fn applied(&self) -> u64 {
        self.shared.applied.load(Ordering::Acquire)
    }

    /// `applied`: how many commands each worker has applied.
    fn push_waiting(&mut self, applied: &[u64]) {
        let mut pushed = false;
        while let Some(queued) = self.waiting.pop_front() {
            let refused = match queued {
                Queued::Command(command) => self.shared.commands.push(command).err(),
                Queued::After { worker, applied: at } if applied[worker] < at => {
                    self.waiting.push_front(Queued::After { worker, applied: at });
                    break;
                }
                Queued::After { .. } => None,
            };
            if let Some(command) = refused {
                self.waiting.push_front(Queued::Command(command));
                break;
            }
            pushed = true;
        }
        if pushed {
            self.shared.wake.notify();
        }
    }
}

/// What a worker's thread takes with it.
struct Start {
    number: WorkerId,
    socket: UdpSocket,
    cpu: Option<usize>,
    backend: Backend,
    buffers: (Pool, Vec<Unfilled>),
    origin: Instant,
    latency: bool,
    proxy: Option<(ProxySpec, Room, Arc<ProxyStats>)>,
    shared: Arc<Shared>,
    rings: Arc<WorkerRings>,
    stats: Arc<WorkerStats>,
}

impl Start {
    /// Starts the thread and waits until it runs, with the turns it got, or says why not.
    fn spawn(self) -> Result<(Running, Slice), EngineError> {
        let worker = usize::from(self.number.0);
        let failed = |text: String| EngineError::Start { worker, text };
        let shared = Arc::clone(&self.shared);
        let started = Arc::new(OnceLock::new());
        let (told, starter) = (Arc::clone(&started), thread::current());
        let thread = thread::Builder::new()
            .name(format!("spanway-w{worker}"))
            .spawn(move || {
                let _ended = Ended(Arc::clone(&self.shared));
                let shared = Arc::clone(&self.shared);
                let prepared = self.prepare().and_then(|ready| {
                    net::confine::give_up_privileges()
                        .map_err(|error| format!("cannot give up privileges: {error}"))?;
                    Ok(ready)
                });
                let answer = prepared.as_ref().map(|(_, slice)| *slice).map_err(Clone::clone);
                told.set(answer).expect("only set here");
                starter.unpark();
                let Ok((worker, _)) = prepared else { return };
                if let Err(text) = worker.run() {
                    // The ring may be full; then `ended` tells.
                    let _ = shared.events.push(Event::Failed(text));
                }
            })
            .map_err(|error| failed(error.to_string()))?;
        while started.get().is_none() && !thread.is_finished() {
            thread::park_timeout(Duration::from_millis(10));
        }
        let slice = match started.get() {
            Some(Ok(slice)) => *slice,
            Some(Err(text)) => return Err(failed(text.clone())),
            None => return Err(failed("its thread ended at once".to_owned())),
        };
        let thread = Some(thread);
        let running =
            Running { shared, thread, waiting: VecDeque::new(), sent: 0, end_told: false };
        Ok((running, slice))
    }

    /// On the worker's own thread: io_uring wants to be used by the thread that made it.
    fn prepare(self) -> Result<(Worker, Slice), String> {
        if let Some(cpu) = self.cpu {
            net::pin_to_cpu(cpu).map_err(|error| {
                format!("cannot be pinned to CPU {cpu}: {error}; `[engine] cpus` and `--cpus` take those that `lscpu` lists")
            })?;
        }
        // Short turns: a frame that comes goes before control work that runs on the same CPU.
        let slice = sched::request_slice(WORKER_SLICE, 0)
            .map_err(|error| format!("cannot be scheduled: {error}"))?;
        let (pool, mut free) = self.buffers;
        let headers = free.pop().expect("a pool is not empty");
        // Those that are used first, and again and again.
        pool.prefault(&free[free.len().saturating_sub(LENT_MAX.into())..]);
        let mut net = Net::open(self.backend, &self.shared.wake, pool, free)
            .map_err(|error| format!("no {} sockets: {error}", self.backend.as_str()))?;
        let socket = net.add_socket(self.socket.into()).map_err(|error| error.to_string())?;
        assert_eq!(socket, net::WORKER_SOCKET, "the first socket");
        let place = (self.number, self.rings);
        let mut worker = Worker::new(place, net, headers, self.shared, self.stats, self.origin);
        if self.latency {
            worker = worker.latency_first();
        }
        if let Some((spec, room, stats)) = self.proxy {
            worker = worker.proxying(&spec, room, stats);
        }
        Ok((worker, slice))
    }
}

/// Tells the control thread when the worker's thread ends, also by a panic.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.control.notify();
    }
}

/// The sockets of all workers, each with the receive buffer granted. An address in use is tried again
/// for a while.
fn bind(
    workers: usize,
    listen: SocketAddr,
    bind_all: impl Fn() -> Result<Vec<(UdpSocket, usize)>, EngineError>,
) -> Result<Vec<(UdpSocket, usize)>, EngineError> {
    if workers == 0 || workers > WORKERS_MAX {
        return Err(EngineError::Workers { workers, port: listen.port() });
    }
    let give_up = Instant::now() + BIND_RETRY;
    loop {
        match bind_all() {
            // A free port whose neighbour is taken is no failure: the kernel chooses another.
            Err(EngineError::Bind { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn bind_all(listen: SocketAddr, workers: usize) -> Result<Vec<(UdpSocket, usize)>, EngineError> {
    let mut sockets: Vec<(UdpSocket, usize)> = Vec::with_capacity(workers);
    let mut address = listen;
    for _ in 0..workers {
        let failed = |source| EngineError::Bind { address, source };
        let bound = net::bind_worker(address).map_err(failed)?;
        let port = bound.0.local_addr().map_err(failed)?.port();
        address.set_port(port.wrapping_add(1));
        sockets.push(bound);
    }
    Ok(sockets)
}

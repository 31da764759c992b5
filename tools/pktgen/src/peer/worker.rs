//! The worker thread of this peer: one UDP port, one loop over orders, sends, receives and heartbeats.
//!
//! ```text
//! orders ─► clocks ─► source: frames that are due ─► socket (runs, UDP_SEGMENT)
//!                     socket (super-buffers, UDP_GRO) ─► table: whose ─► arrivals
//!                     liveness: heartbeats out, silent links told
//! ```
//!
//! One reading of the clocks per turn. Waits only when nothing is due and nothing came. Frames that
//! cannot be sent within [`FULL_MAX`] are dropped as `socket_full`, as at any entry into the overlay.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};

use spanway::engine::liveness::Liveness;
use spanway::engine::table::canonical;
use spanway::engine::{Command, Event};
use spanway::net;
use spanway::stats::{DropReason, WorkerStats, bump};
use spanway::types::{LinkId, Time};
use spanway::wire::frame::{self, Header};
use spanway::wire::heartbeat::HEARTBEAT_BYTES;

use super::arrivals::Arrivals;
use super::plane::{Order, Shared};
use super::source::{Run, Source, stamp};
use super::table::{Judged, Table};
use super::{Outcome, Role, SourceOutcome};
use crate::clock::{nanos, wall_ns};
use crate::port::{BATCH, Port, PortError, Room};

/// How long a full socket is waited for before its frames are dropped.
const FULL_MAX: Duration = Duration::from_millis(5);
/// Full receives in a row after which links are judged although more waits in the socket.
const JUDGE_AFTER: u32 = 64;
/// Nothing waits longer, so that a lost wake-up costs little.
const WAIT_MAX: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    port: Port,
    ipv6: bool,
    origin: Instant,
    shared: Arc<Shared>,
    stats: Arc<WorkerStats>,
    table: Table,
    liveness: Liveness,
    source: Option<Source>,
    arrivals: Option<Arrivals>,
    orders: VecDeque<Order>,
    /// Lent to whoever goes through it.
    room: Option<Room>,
    /// The neighbour's path does not take runs: frames go one by one.
    gso_off: bool,
    full_receives: u32,
    judge_due: bool,
    now: Time,
    tick_ns: u64,
    wall_ns: u64,
}

/// Until [`Command::Stop`]; an error is a text for people.
pub(super) fn run(mut worker: Worker, cpu: Option<usize>) -> Result<(), String> {
    if let Some(cpu) = cpu {
        net::pin_to_cpu(cpu).map_err(|error| format!("cannot be pinned to CPU {cpu}: {error}"))?;
    }
    while worker.turn()? {}
    let outcome = worker.outcome();
    worker.shared.board.set_outcome(outcome);
    Ok(())
}

impl Worker {
    pub(super) fn new(
        socket: UdpSocket,
        role: Role,
        origin: Instant,
        shared: Arc<Shared>,
        stats: Arc<WorkerStats>,
    ) -> io::Result<Self> {
        let port = Port::over(socket)?;
        let ipv6 = port.local().is_ipv6();
        let (source, arrivals) = match role {
            Role::Source(load) => (Some(Source::new(load)), None),
            Role::Sink(verify) => (None, Some(Arrivals::new(verify))),
        };
        Ok(Self {
            port,
            ipv6,
            origin,
            shared,
            stats,
            table: Table::default(),
            liveness: Liveness::default(),
            source,
            arrivals,
            orders: VecDeque::new(),
            room: Some(Room::new()),
            gso_off: false,
            full_receives: 0,
            judge_due: false,
            now: Time::default(),
            tick_ns: 0,
            wall_ns: 0,
        })
    }

    /// `false`: told to stop.
    fn turn(&mut self) -> Result<bool, String> {
        self.read_clocks();
        if !self.apply_orders() {
            return Ok(false);
        }
        self.liveness.woke(self.now);
        let sent = self.send_due();
        let received = self.receive().map_err(|error| error.to_string())?;
        self.heartbeats();
        if !sent && received < BATCH {
            self.wait();
        }
        Ok(true)
    }

    fn read_clocks(&mut self) {
        let elapsed = self.origin.elapsed();
        self.now = Time::default() + elapsed;
        self.tick_ns = nanos(elapsed);
        self.wall_ns = wall_ns();
    }

    // --- Orders ---

    fn apply_orders(&mut self) -> bool {
        let mut orders = std::mem::take(&mut self.orders);
        self.shared.wake.drain();
        self.shared.take_orders(&mut orders);
        let (mut applied, mut go) = (0, true);
        for order in orders.drain(..) {
            match order {
                Order::Command(Command::Stop) => go = false,
                Order::Command(command) => self.apply(command),
                Order::AddEnd { channel, seal, stats } => {
                    let end = self.table.add_end(channel.clone(), seal, stats);
                    self.shared.board.ends_ever.fetch_add(1, Relaxed);
                    if let Some(arrivals) = &mut self.arrivals {
                        arrivals.open(end, &channel);
                    }
                }
                Order::Finished { channel, frames } => {
                    let end = self.table.end_of(&channel);
                    if let (Some(arrivals), Some(end)) = (&mut self.arrivals, end) {
                        arrivals.finished(end, frames);
                    }
                }
                Order::Flow { channel, opened_ns } => {
                    let end = self.table.end_of(&channel);
                    if let (Some(source), Some(end)) = (&mut self.source, end) {
                        // The time before this frame is what is measured: not that of the turn.
                        source.add_flow(end, opened_ns, wall_ns(), &mut self.table);
                    }
                    continue;
                }
                Order::Begin => {
                    self.source.iter_mut().for_each(|source| source.begin(self.tick_ns));
                    continue;
                }
                Order::End => {
                    self.end_run();
                    continue;
                }
            }
            applied += 1;
        }
        self.orders = orders;
        if applied > 0 {
            self.shared.board.ends.store(self.table.ends() as u64, Release);
            self.shared.board.ways.store(self.table.ways() as u64, Release);
            self.shared.applied(applied);
        }
        go
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::SetLink(spec) => {
                self.table.set_link(&spec);
                self.liveness.set(&spec, self.now);
            }
            Command::RemoveLink(link) => {
                let lost = u64::from(self.table.remove_link(link));
                self.shared.board.links_lost.fetch_add(lost, Relaxed);
                self.liveness.remove(link);
            }
            Command::RemoveEnd(channel) => {
                let end = self.table.remove_end(&channel);
                if let (Some(arrivals), Some(end)) = (&mut self.arrivals, end) {
                    arrivals.closed(end);
                }
            }
            Command::SetSeal { channel, seal } => self.table.set_seal(&channel, seal),
            Command::SetEntry { channel, to } => self.table.set_entry(&channel, to),
            Command::AddLabel { label, from, to, .. } => self.table.add_label(label, from, to),
            Command::RemoveLabel(label) => self.table.remove_label(label),
            // Ends are this program's own, and Stop was seen before. There is one worker to be in, and
            // what arrives is in the histograms of the program.
            Command::MoveChannel { .. } | Command::Watch { .. } | Command::Unwatch(_) => {}
            // A generator's link is not measured: whoever asks is told that no answer came.
            Command::CountProbes { .. } | Command::SendTrain { .. } => {}
            Command::AddEnd(_) | Command::SetDeliver { .. } | Command::Stop => {}
        }
    }

    // --- Sending ---

    /// Whether something was sent.
    fn send_due(&mut self) -> bool {
        let Some(source) = &mut self.source else { return false };
        let over = source.fill(self.tick_ns, self.wall_ns, &mut self.table);
        let runs = source.take_runs();
        let sent = !runs.is_empty();
        for run in &runs {
            self.send(run);
        }
        if let Some(source) = &mut self.source {
            source.reuse(runs);
            self.shared.board.unsent.store(source.unsent, Relaxed);
        }
        if over {
            self.end_run();
        }
        sent
    }

    fn end_run(&mut self) {
        if let Some(source) = &mut self.source {
            source.end();
        }
        self.shared.board.run_over(self.table.sequences());
    }

    fn send(&mut self, run: &Run) {
        let to = self.reachable(run.to);
        let mut sent = 0;
        if !self.gso_off && run.ends.len() > 1 {
            match self.try_send(to, &run.bytes, run.frame_bytes) {
                Ok(()) => sent = run.ends.len(),
                Err(error) if refuses_runs(&error) => {
                    self.gso_off = true;
                    self.shared.board.gso_refused.store(true, Relaxed);
                }
                Err(error) => return self.unsent(run, 0, &error),
            }
        }
        if sent == 0 {
            for frame in run.bytes.chunks(run.frame_bytes) {
                if let Err(error) = self.try_send(to, frame, run.frame_bytes) {
                    return self.unsent(run, sent, &error);
                }
                sent += 1;
            }
        }
        self.count_sent(run, sent);
    }

    fn count_sent(&self, run: &Run, sent: usize) {
        self.shared.board.sent.fetch_add(sent as u64, Relaxed);
        for end in run.ends[..sent].iter().filter_map(|&end| self.table.end(end)) {
            bump(&end.stats.sent, 1);
        }
    }

    /// The frames of a run from `sent` on could not be sent.
    fn unsent(&mut self, run: &Run, sent: usize, error: &io::Error) {
        self.count_sent(run, sent);
        let full = error.kind() == io::ErrorKind::WouldBlock;
        let reason = if full { DropReason::SocketFull } else { DropReason::SendError };
        let rest = &run.ends[sent..];
        for end in rest.iter().filter_map(|&end| self.table.end(end)) {
            end.stats.drop_frames(reason, 1);
        }
        if let Some(source) = &mut self.source {
            source.unsent += rest.len() as u64;
        }
    }

    fn try_send(&self, to: SocketAddr, bytes: &[u8], frame_bytes: usize) -> io::Result<()> {
        match self.port.send(to, bytes, frame_bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.port.wait_writable(FULL_MAX);
                self.port.send(to, bytes, frame_bytes)
            }
            result => result,
        }
    }

    /// In the family of the socket.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(v4) if self.ipv6 => {
                SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => to,
        }
    }

    // --- Receiving ---

    /// How many super-buffers came.
    fn receive(&mut self) -> Result<usize, PortError> {
        let mut room = self.room.take().unwrap_or_else(Room::new);
        let count = self.port.receive(&mut room);
        for (arrived, bytes) in room.arrived_mut() {
            let source = canonical(arrived.from);
            let came_ns = arrived.kernel_ns.unwrap_or(self.wall_ns);
            for datagram in bytes.chunks_mut(arrived.stride.max(1)) {
                self.on_datagram(datagram, source, came_ns);
            }
        }
        self.room = Some(room);
        let count = count?;
        bump(&self.stats.batches, 1);
        self.full_receives = if count == BATCH { self.full_receives + 1 } else { 0 };
        Ok(count)
    }

    fn on_datagram(&mut self, datagram: &mut [u8], source: SocketAddr, came_ns: u64) {
        bump(&self.stats.datagrams, 1);
        match self.table.judge(datagram, source) {
            Err(reason) => self.stats.drop_frames(reason, 1),
            Ok(Judged::Heartbeat(link, header)) => {
                self.on_heartbeat(link, &header, datagram, source);
            }
            Ok(Judged::Frame(id, link, header)) => {
                self.liveness.on_frame(link, self.now);
                let now = self.now;
                let Some(end) = self.table.end_mut(id) else { return };
                bump(&end.stats.received, 1);
                if let Err(reason) = end.seal.leave(datagram, header.sequence, now) {
                    return end.stats.drop_frames(reason, 1);
                }
                bump(&end.stats.delivered, 1);
                bump(&end.stats.bytes_out, u64::from(header.payload_length));
                end.stats.one_way.record(stamp(came_ns), header.stamp, 1);
                self.shared.board.received.fetch_add(1, Relaxed);
                if let Some(arrivals) = &mut self.arrivals {
                    arrivals.take(id, came_ns, frame::payload(&header, datagram));
                }
            }
        }
    }

    // --- Heartbeats ---

    fn on_heartbeat(&mut self, link: LinkId, header: &Header, bytes: &[u8], source: SocketAddr) {
        match self.liveness.on_heartbeat(link, header, bytes, source, self.now) {
            None => self.stats.drop_frames(DropReason::BadHeartbeat, 1),
            Some(moved) => {
                bump(&self.stats.heartbeats_heard, 1);
                if moved {
                    self.table.move_link(link, source);
                    self.liveness.moved(link, source);
                    self.shared.tell(Event::LinkMoved { link, address: source });
                }
            }
        }
    }

    fn heartbeats(&mut self) {
        if self.liveness.next().is_some_and(|next| next <= self.now) {
            let mut beats: Vec<(SocketAddr, [u8; HEARTBEAT_BYTES])> = Vec::new();
            self.liveness.tick(self.now, |to, beat| beats.push((to, *beat)));
            for (to, beat) in beats {
                // One that cannot be sent is one missed; the neighbour judges.
                if self.port.send(self.reachable(to), &beat, HEARTBEAT_BYTES).is_ok() {
                    bump(&self.stats.heartbeats_sent, 1);
                }
            }
            self.judge_due = true;
        }
        // Heartbeats may still wait in the socket behind a full batch: those first.
        if self.judge_due && (self.full_receives == 0 || self.full_receives >= JUDGE_AFTER) {
            self.judge_due = false;
            self.full_receives = 0;
            let shared = &self.shared;
            self.liveness.judge(self.now, |link, why| {
                shared.tell(Event::LinkSilent { link, why });
                true
            });
        }
    }

    // --- Waiting ---

    fn wait(&self) {
        let frames = self.source.as_ref().and_then(Source::next_ns);
        let frames = frames.map(|at| Duration::from_nanos(at.saturating_sub(self.tick_ns)));
        let beat = self.liveness.next().map(|at| at.since(self.now));
        let timeout = frames.into_iter().chain(beat).fold(WAIT_MAX, Duration::min);
        if !timeout.is_zero() {
            self.port.wait_readable_or(self.shared.wake.as_fd(), timeout);
        }
    }

    fn outcome(&mut self) -> Outcome {
        let reasons = DropReason::ALL.iter().map(|&reason| (reason, self.stats.dropped(reason)));
        let drops = reasons.filter(|(_, count)| *count > 0);
        Outcome {
            source: self.source.as_mut().map(|source| SourceOutcome {
                to_first: source.to_first.summary(),
                skipped: source.skipped,
                gone: source.gone,
            }),
            taken: self.arrivals.as_mut().map(Arrivals::results),
            drops: drops.map(|(reason, count)| (reason.as_str().to_owned(), count)).collect(),
            kernel_drops: self.port.kernel_drops(),
        }
    }
}

/// What kernels and devices say that do not segment.
fn refuses_runs(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error();
    [Errno::INVAL, Errno::IO, Errno::MSGSIZE].iter().any(|e| errno == Some(e.raw_os_error()))
}

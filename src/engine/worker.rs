//! One worker: a thread that owns its sockets, its table and its buffers, and does in turns
//!
//! ```text
//! 1 commands    what the control thread wants changed, a few at a time
//! 2 reap        what has come to any socket, waiting if nothing has
//! 3 clocks      one reading for the whole batch
//! 4 forward     a verdict for each segment of each super-buffer, headers edited where they lie; of a
//!               proxy one for each super-buffer, nothing edited
//! 5 submit      all runs of the batch; count what became of each frame; release the buffers
//! 6 heartbeats  (worker 0) send those due, report silent links; probes, while a link is measured
//! ```
//!
//! Nothing of a frame's route allocates, locks, logs or reads a clock. Every datagram that came is
//! counted once as entered or received and once as sent, delivered or dropped.
//!
//! The loop, its commands and its heartbeats are here, step 4 is in `worker/batch.rs` (of a proxy in
//! `worker/proxied.rs`, of two paths of one channel in `worker/merging.rs`, of what waits at the entry of a
//! shaped channel in `worker/shaping.rs`), step 5 in `outbox.rs`. How step 2 waits is decided in `wait.rs`.
//! Does not judge ([`super::forward`] and [`super::merge`] do) and does not know which system calls are
//! used ([`crate::net`]).

mod batch;
mod blocks;
mod inside;
mod merging;
mod passing;
mod probing;
mod proxied;
mod shaping;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::queue::ArrayQueue;

use self::passing::{Leaving, MovedChannel, Moving, Passed};
use super::liveness::Liveness;
use super::outbox::Outbox;
use super::pool::Unfilled;
use super::ring::Rings;
use super::shaper::Policer;
use super::table::{EndSlot, Table};
use super::wait::Waiter;
use super::{Command, Deliver, EndSpec, Event, ProxySpec};
use crate::limits::{
    BATCH_MAX, COMMANDS_MAX, COMMANDS_PER_TURN, EVENTS_MAX, JUDGE_AFTER_BATCHES, PASSED_PER_TURN,
};
use crate::net::{self, Batch, EventFd, Net, WORKER_SOCKET, Wait};
use crate::stats::histogram::Watches;
use crate::stats::{DropReason, ProxyStats, WorkerStats, bump};
use crate::types::{ChannelId, Time, WorkerId};

/// The rings between workers.
pub(super) type WorkerRings = Rings<Passed, MovedChannel>;

use proxied::Proxied;
pub(super) use proxied::Room;

/// What a worker and the control thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) commands: ArrayQueue<Command>,
    pub(super) events: ArrayQueue<Event>,
    /// Ends the worker's wait.
    pub(super) wake: Arc<EventFd>,
    /// Tells the control thread that there are events, or commands applied.
    pub(super) control: Arc<EventFd>,
    pub(super) applied: AtomicU64,
    /// The thread is gone, whatever the reason.
    pub(super) ended: AtomicBool,
}

impl Shared {
    pub(super) fn new(control: Arc<EventFd>) -> io::Result<Self> {
        Ok(Self {
            commands: ArrayQueue::new(COMMANDS_MAX),
            events: ArrayQueue::new(EVENTS_MAX),
            wake: Arc::new(EventFd::new()?),
            control,
            applied: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// Whether the ring had room.
    fn tell(&self, event: Event) -> bool {
        let taken = self.events.push(event).is_ok();
        self.control.notify();
        taken
    }
}

pub(super) struct Worker {
    number: WorkerId,
    rings: Arc<WorkerRings>,
    /// A channel that is about to go to another worker; commands behind it wait.
    moving: Option<Moving>,
    /// Buffers of this batch with frames for other workers.
    leaving: Vec<Leaving>,
    net: Net,
    table: Table,
    /// Worker 0's.
    liveness: Option<Liveness>,
    probing: probing::Probing,
    shared: Arc<Shared>,
    stats: Arc<WorkerStats>,
    watches: Watches,
    inside: inside::Inside,
    /// Whose socket it is, by number; the worker's own is nobody's.
    owners: Vec<Option<EndSlot>>,
    batch: Batch,
    outbox: Outbox,
    waiting: merging::Waiting,
    line: shaping::Line,
    tally: batch::Tally,
    waiter: Waiter,
    /// Of a plain UDP proxy, which has no links and no channels.
    proxied: Option<Proxied>,
    origin: Instant,
    /// The clocks as read for this batch.
    now: Time,
    stamp: u32,
    full_batches: u32,
    judge_due: bool,
}

enum Turn {
    Go,
    /// More commands wait.
    GoAtOnce,
    Stop,
}

impl Worker {
    /// `net` has the worker's own socket as its first; `headers` is a buffer of its pool that it does
    /// not have.
    pub(super) fn new(
        (number, rings): (WorkerId, Arc<WorkerRings>),
        net: Net,
        headers: Unfilled,
        shared: Arc<Shared>,
        stats: Arc<WorkerStats>,
        origin: Instant,
    ) -> Self {
        Self {
            number,
            rings,
            moving: None,
            leaving: Vec::with_capacity(BATCH_MAX + PASSED_PER_TURN),
            net,
            table: Table::default(),
            liveness: (number == WorkerId(0)).then(Liveness::default),
            probing: probing::Probing::default(),
            shared,
            stats,
            watches: Watches::default(),
            inside: inside::Inside::default(),
            owners: vec![None],
            batch: Batch::default(),
            outbox: Outbox::new(headers),
            waiting: merging::Waiting::default(),
            line: shaping::Line::default(),
            tally: batch::Tally::default(),
            waiter: Waiter::new(false),
            proxied: None,
            origin,
            now: Time::default(),
            stamp: 0,
            full_batches: 0,
            judge_due: false,
        }
    }

    /// It never waits for more than has come.
    pub(super) fn latency_first(mut self) -> Self {
        self.waiter = Waiter::new(true);
        self
    }

    /// It is one of a plain UDP proxy.
    pub(super) fn proxying(mut self, spec: &ProxySpec, room: Room, stats: Arc<ProxyStats>) -> Self {
        self.proxied = Some(Proxied::new(spec, room, stats, &mut self.table));
        self.liveness = None;
        self
    }

    /// Until [`Command::Stop`]; an error is a text for people.
    pub(super) fn run(mut self) -> Result<(), String> {
        self.read_clocks();
        while self.turn()? {}
        Ok(())
    }

    /// Steps 1 to 6 once; whether it goes on.
    fn turn(&mut self) -> Result<bool, String> {
        let applied = self.apply_commands();
        let timeout = match applied.map_err(|error| format!("cannot send: {error}"))? {
            Turn::Stop => return Ok(false),
            Turn::GoAtOnce => Some(Duration::ZERO),
            Turn::Go => self.next_deadline().map(|at| at.since(self.now)),
        };
        let timeout = if self.may_wait() { timeout } else { Some(Duration::ZERO) };
        // A gathering wait must not be the reason for a late heartbeat.
        let in_time = |gather: &(Duration, u32)| timeout.is_none_or(|most| most > gather.0);
        let wait = Wait { timeout, min: self.waiter.gather().filter(in_time) };
        self.net.reap(wait, &mut self.batch).map_err(|error| format!("cannot receive: {error}"))?;
        self.rings.woke(self.number);
        self.read_clocks();
        if let Some(liveness) = &mut self.liveness {
            liveness.woke(self.now);
        }
        self.check_sockets()?;
        let let_go = if self.line.is_due(self.now) { self.let_due_go() } else { Ok(()) };
        let forwarded = let_go.and_then(|()| self.forward_batch());
        let forwarded = forwarded.and_then(|()| self.take_passed());
        self.measure();
        let sent = forwarded.and_then(|()| self.submit());
        sent.map_err(|error| format!("cannot send: {error}"))?;
        self.finish_batch();
        self.let_clients_go();
        self.heartbeats();
        self.send_probes();
        Ok(true)
    }

    /// When something is due that nothing received reminds of.
    fn next_deadline(&self) -> Option<Time> {
        let beat = self.liveness.as_ref().and_then(Liveness::next);
        let expiry = self.proxied.as_ref().and_then(Proxied::next_expiry);
        let timers = beat.into_iter().chain(expiry).chain(self.probing.next());
        timers.chain(self.line.next()).min()
    }

    // --- 1: commands ---

    fn apply_commands(&mut self) -> io::Result<Turn> {
        let mut applied = 0;
        let mut turn = Turn::Go;
        loop {
            if let Some(moving) = self.moving.take() {
                self.moving = self.move_channel(moving)?;
                if self.moving.is_some() {
                    turn = Turn::GoAtOnce;
                    break;
                }
                applied += 1;
            }
            let Some(command) = self.shared.commands.pop() else { break };
            self.take_arrivals();
            if let Command::MoveChannel { channel, labels, end, to } = command {
                self.moving = Some(Moving { channel, labels, end, to });
                continue;
            }
            applied += 1;
            if matches!(command, Command::Stop) {
                turn = Turn::Stop;
                break;
            }
            self.apply(command)?;
            if applied >= COMMANDS_PER_TURN {
                turn = Turn::GoAtOnce;
                break;
            }
        }
        if applied > 0 {
            // Frames that a command lets go do not wait for others.
            self.submit()?;
            self.shared.applied.fetch_add(applied, Ordering::Release);
            self.shared.control.notify();
        }
        Ok(turn)
    }

    fn apply(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::SetLink(spec) => {
                let (link, label) = (spec.link, spec.receive_label);
                let tags = spec.tags.clone();
                self.table.set_link(link, spec.address, spec.workers, label, tags);
                self.stats.relay.open_hop(link);
                self.outbox.forget(WORKER_SOCKET);
                if let Some(liveness) = &mut self.liveness {
                    liveness.set(&spec, self.now);
                }
            }
            Command::RemoveLink(link) => {
                self.table.remove_link(link);
                self.probing.count(link, None);
                self.outbox.forget(WORKER_SOCKET);
                if let Some(liveness) = &mut self.liveness {
                    liveness.remove(link);
                }
            }
            Command::AddEnd(end) => self.add_end(end)?,
            Command::SetSeal { channel, seal } => self.table.set_seal(&channel, seal),
            Command::SetDeliver { channel, deliver } => self.set_deliver(&channel, deliver),
            Command::RemoveEnd(channel) => self.remove_end(&channel)?,
            Command::SetEntry { channel, to } => self.table.set_entry(&channel, to),
            Command::AddLabel { label, from, to, rate, hop, stats } => {
                let policer = Policer::at_hop(rate, hop);
                self.add_label(label, |table| table.add_label(label, from, to, policer, stats))?;
            }
            Command::RemoveLabel(label) => self.remove_label(label)?,
            Command::CountProbes { link, counts } => self.probing.count(link, counts),
            Command::SendTrain { link, train, header_bytes } => {
                self.probing.send(link, train, header_bytes, self.now);
            }
            Command::Watch { watch, stats, full } => self.watches.add(watch, stats, full),
            Command::Unwatch(watch) => self.watches.remove(watch),
            Command::MoveChannel { .. } | Command::Stop => {}
        }
        Ok(())
    }

    fn add_end(&mut self, end: EndSpec) -> io::Result<()> {
        self.remove_end(&end.channel)?;
        // A smaller buffer than asked for still works.
        let _ = net::enlarge_receive_buffer(end.socket.as_fd());
        match self.net.add_socket(end.socket.into()) {
            Ok(socket) => {
                let slot = self.table.reserve_end(&end.channel);
                self.table.open_end(slot, socket, end.from, end.deliver, end.gso, end.stats);
                self.table.set_seal(&end.channel, end.seal);
                if end.shape {
                    self.table.shape(slot);
                    self.line.make_room();
                }
                self.own_socket(socket, slot);
            }
            Err(error) => {
                let text = format!("cannot receive at the socket of {}: {error}", end.channel);
                self.shared.tell(Event::Failed(text));
            }
        }
        Ok(())
    }

    fn remove_end(&mut self, channel: &ChannelId) -> io::Result<()> {
        self.let_all_go(channel)?;
        self.drop_waiting(channel);
        if let Some(socket) = self.table.close_end(channel) {
            self.owners[socket.0 as usize] = None;
            self.outbox.forget(socket);
            self.net.remove_socket(socket);
        }
        Ok(())
    }

    fn set_deliver(&mut self, channel: &ChannelId, deliver: Deliver) {
        if let Some(socket) = self.table.set_deliver(channel, deliver) {
            self.outbox.forget(socket);
        }
    }

    // --- 3: clocks ---

    fn read_clocks(&mut self) {
        let micros = self.origin.elapsed().as_micros();
        self.now = Time(u64::try_from(micros).unwrap_or(u64::MAX));
        let wrapped = (wall_nanos() / 1_000) & u64::from(u32::MAX);
        self.stamp = u32::try_from(wrapped).expect("masked");
    }

    /// How long the frames of this batch were here, if it is one to be measured.
    fn measure(&mut self) {
        if self.inside.is_due(self.now) {
            self.inside.hand_over(wall_nanos(), &self.stats.relay);
        }
        if let Some(on) = self.inside.switch(self.now) {
            // A kernel that cannot tell its times leaves the histogram empty.
            self.net.tell_times(WORKER_SOCKET, on);
        }
    }

    // --- 4: forward, but for the frames ---

    /// What the kernel dropped before we saw it, and sockets that cannot be read.
    fn check_sockets(&mut self) -> Result<(), String> {
        bump(&self.stats.cq_overflows, u64::from(std::mem::take(&mut self.batch.cq_overflows)));
        for (socket, frames) in self.batch.overflows.drain(..) {
            let frames = u64::from(frames);
            if let Some(proxied) = &self.proxied {
                let stats = self.table.stats(proxied.account(socket));
                bump(&stats.entered, frames);
                stats.drop_frames(DropReason::KernelReceive, frames);
                continue;
            }
            match self.owners[socket.0 as usize].and_then(|slot| self.table.end_mut(slot)) {
                Some(end) => {
                    end.sequence += frames;
                    let account = end.account;
                    let stats = self.table.stats(account);
                    bump(&stats.entered, frames);
                    stats.drop_frames(DropReason::KernelReceive, frames);
                }
                None => {
                    self.stats.drop_frames(DropReason::KernelReceive, frames);
                    if let Some(liveness) = &mut self.liveness {
                        liveness.overflowed(self.now);
                    }
                }
            }
        }
        for (socket, errno) in self.batch.given_up.drain(..) {
            // A local end that cannot be read just brings nothing; the others must go on.
            if socket == WORKER_SOCKET {
                let error = io::Error::from_raw_os_error(errno);
                return Err(format!("cannot receive frames: {error}"));
            }
        }
        Ok(())
    }

    // --- 5: submit ---

    fn submit(&mut self) -> io::Result<()> {
        self.outbox.submit(&mut self.net, &self.table, &self.stats)
    }

    // --- 6: heartbeats ---

    fn heartbeats(&mut self) {
        let Some(liveness) = &mut self.liveness else { return };
        if liveness.next().is_some_and(|next| next <= self.now) {
            let (net, stats) = (&self.net, &self.stats);
            liveness.tick(self.now, |to, beat| {
                // One that cannot be sent is one missed; the neighbour judges.
                if net.send_now(WORKER_SOCKET, to, beat).is_ok() {
                    bump(&stats.heartbeats_sent, 1);
                }
            });
            self.judge_due = true;
        }
        // Heartbeats may still wait in the socket behind a full batch: those first.
        let drained = self.full_batches == 0 || self.full_batches >= JUDGE_AFTER_BATCHES;
        if self.judge_due && drained {
            self.judge_due = false;
            self.full_batches = 0;
            let shared = &self.shared;
            liveness.judge(self.now, |link, why| shared.tell(Event::LinkSilent { link, why }));
        }
    }
}

/// The wall clock, as the kernel stamps what it receives.
#[expect(
    clippy::disallowed_methods,
    reason = "read once for a batch, and once more for one that is measured"
)]
fn wall_nanos() -> u64 {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

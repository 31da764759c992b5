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
//! `worker/proxied.rs`), step 5 in `outbox.rs`. How step 2 waits is decided in `wait.rs`. Does not judge
//! (that is [`super::forward`]) and does not know which system calls are used ([`crate::net`]).

mod batch;
mod inside;
mod probing;
mod proxied;

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
use super::table::{EndSlot, Table};
use super::{Command, Deliver, EndSpec, Event};
use crate::limits::{
    BATCH_MAX, COMMANDS_MAX, COMMANDS_PER_TURN, EVENTS_MAX, JUDGE_AFTER_BATCHES, PASSED_PER_TURN,
};
use crate::net::{self, Batch, EventFd, Net, WORKER_SOCKET, Wait};
use crate::stats::{DropReason, WorkerStats, bump};
use crate::types::{ChannelId, Time, WorkerId};

/// The rings between workers.
pub(super) type WorkerRings = Rings<Passed, MovedChannel>;

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
    pub(super) fn new(control: Arc<EventFd>) -> std::io::Result<Self> {
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
            liveness: first.then(Liveness::default),
            probing: probing::Probing::default(),
            shared,
            stats,
            watches: Watches::default(),
            inside: inside::Inside::default(),
            owners: vec![None],
            batch: Batch::default(),
            outbox: Outbox::new(headers),
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
        let timeout = match self.apply_commands() {
            Turn::Stop => return Ok(false),
            Turn::GoAtOnce => Some(Duration::ZERO),
            Turn::Go => {
                self.liveness.as_ref().and_then(Liveness::next).map(|at| at.since(self.now))
            }
            self.check_sockets()?;
            let forwarded = self.forward_batch();
            self.measure();
            let sent = forwarded.and_then(|()| self.submit());
            sent.map_err(|error| format!("cannot send: {error}"))?;
            self.outbox.finish(&mut self.net);
            self.let_clients_go();
            self.heartbeats();
            self.send_probes();
        }
        self.check_sockets()?;
        let sent = self.forward_batch().and_then(|()| self.submit());
        sent.map_err(|error| format!("cannot send: {error}"))?;
        self.outbox.finish(&mut self.net);
        self.heartbeats();
        Ok(true)
    }

    /// When something is due that nothing received reminds of.
    fn next_deadline(&self) -> Option<Time> {
        let beat = self.liveness.as_ref().and_then(Liveness::next);
        let expiry = self.proxied.as_ref().and_then(Proxied::next_expiry);
        beat.into_iter().chain(expiry).chain(self.probing.next()).min()
    }

    // --- 1: commands ---

    fn apply_commands(&mut self) -> Turn {
        let mut applied = 0;
        let mut turn = Turn::Go;
        loop {
            if let Some(moving) = self.moving.take() {
                self.moving = self.move_channel(moving);
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
            self.apply(command);
            if applied >= COMMANDS_PER_TURN {
                turn = Turn::GoAtOnce;
                break;
            }
        }
        if applied > 0 {
            self.shared.applied.fetch_add(applied, Ordering::Release);
            self.shared.control.notify();
        }
        turn
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::SetLink(spec) => {
                let (link, label) = (spec.link, spec.receive_label);
                self.table.set_link(link, spec.address, spec.workers, label);
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
            Command::AddEnd(end) => self.add_end(end),
            Command::SetDeliver { channel, deliver } => self.set_deliver(&channel, deliver),
            Command::RemoveEnd(channel) => self.remove_end(&channel),
            Command::SetEntry { channel, to } => self.table.set_entry(&channel, to),
            Command::AddLabel { label, from, to, rate, hop, stats } => {
                let policer = Policer::at_hop(rate, hop);
                self.table.add_label(label, from, to, policer, stats);
            }
            Command::RemoveLabel(label) => self.table.remove_label(label),
            Command::CountProbes { link, counts } => self.probing.count(link, counts),
            Command::SendTrain { link, train, header_bytes } => {
                self.probing.send(link, train, header_bytes, self.now);
            }
            Command::Watch { watch, stats, full } => self.watches.add(watch, stats, full),
            Command::Unwatch(watch) => self.watches.remove(watch),
            Command::Stop => {}
        }
    }

    fn add_end(&mut self, end: EndSpec) {
        self.remove_end(&end.channel);
        // A smaller buffer than asked for still works.
        let _ = net::enlarge_receive_buffer(end.socket.as_fd());
        match self.net.add_socket(end.socket.into()) {
            Ok(socket) => {
                let slot = self.table.reserve_end(&end.channel);
                self.table.open_end(slot, socket, end.from, end.deliver, end.gso, end.stats);
                self.own_socket(socket, slot);
            }
            Err(error) => {
                let text = format!("cannot receive at the socket of {}: {error}", end.channel);
                self.shared.tell(Event::Failed(text));
            }
        }
    }

    fn remove_end(&mut self, channel: &ChannelId) {
        if let Some(socket) = self.table.close_end(channel) {
            self.owners[socket.0 as usize] = None;
            self.outbox.forget(socket);
            self.net.remove_socket(socket);
        }
    }

    fn set_deliver(&mut self, channel: &ChannelId, deliver: Deliver) {
        if let Some(socket) = self.table.set_deliver(channel, deliver) {
            self.outbox.forget(socket);
        }
    }

    // --- 3: clocks ---

    #[expect(clippy::disallowed_methods, reason = "the one place where a worker reads the clocks")]
    fn read_clocks(&mut self) {
        let micros = self.origin.elapsed().as_micros();
        self.now = Time(u64::try_from(micros).unwrap_or(u64::MAX));
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wrapped = wall.as_micros() & u128::from(u32::MAX);
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
                let error = std::io::Error::from_raw_os_error(errno);
                return Err(format!("cannot receive frames: {error}"));
            }
        }
        Ok(())
    }

    fn forward_batch(&mut self) {
        let mut received = std::mem::take(&mut self.batch.received);
        bump(&self.stats.batches, 1);
        bump(&self.stats.datagrams, received.len() as u64);
        self.full_batches = if received.len() >= BATCH_MAX { self.full_batches + 1 } else { 0 };
        for datagram in received.drain(..) {
            if datagram.socket == WORKER_SOCKET {
                self.on_frame(datagram);
            } else {
                self.on_datagram(datagram);
            }
        }
        self.batch.received = received;
    }

    fn on_frame(&mut self, mut datagram: Received) {
        if datagram.truncated {
            return self.drop_unowned(datagram.buffer, DropReason::Truncated);
        }
        let bytes = self.net.pool().bytes_mut(&mut datagram.buffer);
        match forward::forward(bytes, datagram.source, &mut self.table, self.now) {
            Err(reason) => self.drop_unowned(datagram.buffer, reason),
            Ok(Judged::Heartbeat { link, header }) => self.on_heartbeat(link, &header, datagram),
            Ok(Judged::Frame { account, from, header, verdict }) => {
                if let Some(liveness) = &mut self.liveness {
                    liveness.on_frame(from, self.now);
                }
                bump(&self.stats.frames, 1);
                let stats = self.table.stats(account);
                bump(&stats.received, 1);
                self.watches.record(stats, self.stamp, header.stamp, 1);
                self.carry_out(datagram.buffer, verdict, account, &header);
            }
        }
    }

    fn carry_out(&mut self, buffer: Filled, verdict: Verdict, account: Account, header: &Header) {
        match verdict {
            Verdict::Relay(to) => {
                self.send(WORKER_SOCKET, to, buffer, Note { account, delivered: None });
            }
            Verdict::Deliver(slot) => self.deliver(buffer, slot, account, header),
            Verdict::Drop(reason) => self.drop_owned(buffer, account, reason),
        }
    }

    fn deliver(&mut self, buffer: Filled, slot: EndSlot, account: Account, header: &Header) {
        let payload_bytes = usize::from(header.payload_length);
        let Some(end) = self.table.end(slot) else {
            return self.drop_owned(buffer, account, DropReason::UnknownLabel);
        };
        let stats = self.table.stats(account);
        let seen = stats.next_sequence.load(Ordering::Relaxed);
        stats.next_sequence.store(seen.max(header.sequence.saturating_add(1)), Ordering::Relaxed);
        match forward::leave(end, payload_bytes) {
            Ok((to, part)) => {
                let note = Note { account, delivered: Some(payload_bytes as u64) };
                self.send(end.socket, to, buffer.narrowed(part), note);
            }
            Err(reason) => self.drop_owned(buffer, account, reason),
        }
    }

    fn on_datagram(&mut self, datagram: Received) {
        let owner = self.owners[datagram.socket.0 as usize];
        let Some((slot, end)) = owner.and_then(|slot| Some((slot, self.table.end_mut(slot)?)))
        else {
            return self.net.release(datagram.buffer);
        };
        let (account, payload_bytes) = (end.account, datagram.buffer.len());
        let admitted = if datagram.truncated {
            Err(DropReason::Truncated)
        } else {
            forward::admit(payload_bytes, datagram.source, end, self.now)
        };
        let next_sequence = end.sequence;
        bump(&self.stats.frames, 1);
        let stats = self.table.stats(account);
        bump(&stats.entered, 1);
        bump(&stats.bytes_in, payload_bytes as u64);
        stats.entry_sequence.store(next_sequence, Ordering::Relaxed);
        match admitted {
            Ok(way) => self.enter(datagram.buffer, way, account, slot),
            Err(reason) => self.drop_owned(datagram.buffer, account, reason),
        }
    }

    /// Sends an admitted datagram on its way; it took the sequence before the end's next one.
    fn enter(&mut self, payload: Filled, way: Way, account: Account, slot: EndSlot) {
        let sequence = self.table.end(slot).map_or(0, |end| end.sequence) - 1;
        let mut buffer = payload.widened();
        let frame = self.net.pool().bytes_mut(&mut buffer);
        let verdict = forward::enter(frame, way, sequence, self.stamp, &self.table);
        match crate::wire::frame::parse(frame) {
            Ok(header) => self.carry_out(buffer, verdict, account, &header),
            Err(_) => self.drop_owned(buffer, account, DropReason::TooBig),
        }
    }

    fn send(&mut self, socket: SocketId, to: SocketAddr, buffer: Filled, note: Note) {
        self.sends.push(Outgoing { socket, to, buffer, errno: 0 });
        self.notes.push(note);
    }

    fn drop_owned(&mut self, buffer: Filled, account: Account, reason: DropReason) {
        self.table.stats(account).drop_frames(reason, 1);
        self.net.release(buffer);
    }

    fn drop_unowned(&mut self, buffer: Filled, reason: DropReason) {
        self.stats.drop_frames(reason, 1);
        self.net.release(buffer);
    }

    // --- 5: submit ---

    fn submit(&mut self) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;
    use crate::engine::pool::Pool;
    use crate::engine::{AllowedFrom, BackendChoice, EntrySpec, LinkSpec, Target};
    use crate::net::traced::{self, Place};
    use crate::types::{Bandwidth, Label, LinkId, PeerName};
    use crate::wire::frame::{END_TAG_BYTES, FrameType, HEADER_BYTES, Header, OVERHEAD_BYTES};
    use crate::wire::heartbeat::HeartbeatKey;

    const PAYLOAD: usize = 300;

    /// A worker on the thread of the test, with one neighbour, a label to relay and a channel end.
    struct Rig {
        worker: Worker,
        neighbour: UdpSocket,
        program: UdpSocket,
        worker_address: SocketAddr,
        end_address: SocketAddr,
    }

    fn channel() -> ChannelId {
        ChannelId { source: PeerName::new("peer-1").unwrap(), boot: 1, count: 1 }
    }

    fn rig(backend: net::Backend) -> Rig {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (own, neighbour, program, socket) = (bind(), bind(), bind(), bind());
        let worker_address = own.local_addr().unwrap();
        let end_address = socket.local_addr().unwrap();
        let shared = Arc::new(Shared::new(Arc::new(EventFd::new().unwrap())).unwrap());
        let (pool, mut free) = Pool::new(64).unwrap();
        let headers = free.pop().unwrap();
        let mut net = Net::open(backend, &shared.wake, pool, free).unwrap();
        net.add_socket(own.into()).unwrap();
        let there = neighbour.local_addr().unwrap();
        let key = HeartbeatKey([1; 32]);
        let spec = LinkSpec {
            link: LinkId(1),
            address: there,
            workers: 1,
            send_label: Label(1),
            send_key: key.clone(),
            receive_label: Label(2),
            receive_key: key,
            interval: Duration::from_secs(1),
            missed_max: 100,
        };
        let stats = Arc::default();
        let hop = Target::Hop { link: LinkId(1), label: Label(9), port: there.port() };
        let entry = EntrySpec { to: hop.clone(), rate: Bandwidth::ZERO, max_payload: 1_000 };
        let label = |label, to| Command::AddLabel {
            label: Label(label),
            from: LinkId(1),
            to,
            stats: Arc::clone(&stats),
        };
        let end = EndSpec {
            channel: channel(),
            socket,
            from: AllowedFrom::Loopback,
            deliver: Deliver::To(program.local_addr().unwrap()),
            gso: true,
            stats: Arc::clone(&stats),
        };
        let commands = [
            Command::SetLink(Arc::new(spec)),
            label(5, hop),
            label(6, Target::Local(channel())),
            Command::AddEnd(end),
            Command::SetEntry { channel: channel(), to: Some(entry) },
        ];
        for command in commands {
            shared.commands.push(command).unwrap();
        }
        let mut worker = Worker::new(false, net, headers, shared, Arc::default(), test_clock());
        worker.shared.wake.notify();
        worker.turn().unwrap();
        Rig { worker, neighbour, program, worker_address, end_address }
    }

    #[expect(clippy::disallowed_methods, reason = "the origin of a worker's time")]
    fn test_clock() -> Instant {
        Instant::now()
    }

    fn frame(label: u64) -> Vec<u8> {
        let header = Header {
            frame_type: FrameType::Data,
            flags: 0,
            hop_limit: 9,
            payload_length: PAYLOAD.try_into().unwrap(),
            label: Label(label),
            sequence: 1,
            stamp: 0,
        };
        let mut bytes = vec![7; header.frame_bytes()];
        header.emit(&mut bytes);
        bytes
    }

    impl Rig {
        /// Where the kernel wrote and from where it was told to send, for `bytes` sent once.
        fn pass(&mut self, from: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> (Place, Vec<Place>) {
            traced::clear();
            from.send_to(bytes, to).unwrap();
            while traced::sent().is_empty() {
                self.worker.turn().unwrap();
            }
            let received = traced::received();
            assert_eq!(received.len(), 1, "one receive brought it");
            (received[0], traced::sent())
        }
    }

    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn a_payload_is_sent_from_where_it_was_received(choice: BackendChoice) {
        let backend = match net::probe(choice) {
            Ok((backend, _)) => backend,
            Err(why) => return println!("SKIPPED: {why}"),
        };
        let mut rig = rig(backend);
        let (neighbour, program) =
            (rig.neighbour.try_clone().unwrap(), rig.program.try_clone().unwrap());
        let (at_worker, at_end) = (rig.worker_address, rig.end_address);
        // Relayed: the very bytes.
        let (received, sent) = rig.pass(&neighbour, at_worker, &frame(5));
        assert_eq!(sent, [received]);
        // Delivered: the same without header and tag.
        let (received, sent) = rig.pass(&neighbour, at_worker, &frame(6));
        assert_eq!(received.bytes, PAYLOAD + OVERHEAD_BYTES);
        assert_eq!(sent, [Place { address: received.address + HEADER_BYTES, bytes: PAYLOAD }]);
        // Entered: the same with a header in front and a tag behind.
        let (received, sent) = rig.pass(&program, at_end, &[3; PAYLOAD]);
        let (address, bytes) = (received.address - HEADER_BYTES, PAYLOAD + OVERHEAD_BYTES);
        assert_eq!(sent, [Place { address, bytes }]);
        // A super-buffer is relayed untouched: one piece.
        traced::cut(&neighbour, PAYLOAD + OVERHEAD_BYTES);
        let frames: Vec<u8> = (0..10).flat_map(|_| frame(5)).collect();
        let (received, sent) = rig.pass(&neighbour, at_worker, &frames);
        assert_eq!((sent, received.bytes), (vec![received], frames.len()));
        // A super-buffer that enters: headers and tags from elsewhere, every payload where it was.
        traced::cut(&program, PAYLOAD);
        let (received, sent) = rig.pass(&program, at_end, &[4; 10 * PAYLOAD]);
        let payloads: Vec<Place> = sent.iter().skip(1).step_by(2).copied().collect();
        let expected =
            (0..10).map(|n| Place { address: received.address + n * PAYLOAD, bytes: PAYLOAD });
        assert_eq!(payloads, expected.collect::<Vec<_>>());
        let others: usize = sent.iter().step_by(2).map(|place| place.bytes).sum();
        assert_eq!((sent.len(), others), (21, 10 * (HEADER_BYTES + END_TAG_BYTES)));
    }

    #[test]
    fn a20_a_payload_is_sent_from_where_it_was_received_uring() {
        a_payload_is_sent_from_where_it_was_received(BackendChoice::Uring);
    }

    #[test]
    fn a20_a_payload_is_sent_from_where_it_was_received_mmsg() {
        a_payload_is_sent_from_where_it_was_received(BackendChoice::Mmsg);
    }
}

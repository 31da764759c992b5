#![allow(unsafe_code, reason = "io_uring: memory that is shared with the kernel")]
//! The io_uring back end: one ring a worker, a multishot receive for each socket over one ring of
//! provided buffers, runs that are sent when the call that submits them returns.
//!
//! ```text
//! pool buffer ──lend──► buffer ring ──► kernel fills ──► completion (buffer id) ──► Received
//!      ▲                                                                              │
//!      └───────────────────────── release, after forward and send ◄───────────────────┘
//! ```
//!
//! Sends carry MSG_DONTWAIT and complete only if they fail, so that no send waits and none needs a
//! completion. A receive that ends (no buffer left, or an error) is armed again at the next
//! `reap`; what waits in its socket stays there.
//!
//! Sockets are registered with the ring, which spares each send the look-up of a descriptor; those
//! beyond the table, or all on a kernel without it, are named by their descriptors.
//!
//! Assumes that one thread makes, uses and drops it. The set-up and the system call are `enter.rs`'s.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Fixed, RecvMsgOut};
use io_uring::{cqueue, opcode, squeue};
use socket2::SockRef;

use super::enter::{COMPLETIONS, Patience, REQUESTS, Ring};
use super::message::{
    CONTROL_BYTES, NAME_BYTES, SendHeaders, empty_header, parse_address, parse_control, to_u32,
};
use super::op::{GENERATION_MASK, Op};
use super::{Batch, EventFd, Received, Wait, errno, is_ipv6, tell_times};
use crate::engine::pool::{DATAGRAM_ROOM, Filled, HEADROOM, Pool, Unfilled};
use crate::engine::runs::Runs;
use crate::engine::table::SocketId;
use crate::limits::{
    BATCH_MAX, BUFFERS_PER_WORKER, CHANNELS_MAX, LENT_MAX, RECEIVE_ERRORS_MAX, RUNS_MAX,
};

/// The only buffer ring.
const BUFFER_GROUP: u16 = 0;
/// `io_uring_recvmsg_out`, which the kernel writes in front of name and control data.
const RECEIVE_HEADER_BYTES: usize = 16;
/// Where in a pool buffer the kernel starts, so that the datagram lies behind the headroom.
const LEND_OFFSET: usize = HEADROOM - RECEIVE_HEADER_BYTES - NAME_BYTES - CONTROL_BYTES;
/// What the kernel may write from there.
const LEND_BYTES: usize = HEADROOM - LEND_OFFSET + DATAGRAM_ROOM;
/// Sockets in the ring's table, if the limit of open files allows: every channel may end here.
#[expect(clippy::cast_possible_truncation, reason = "a bound of the system, far below 2^32")]
const FILES_MAX: u32 = CHANNELS_MAX as u32 + 1;
/// Rounds of waiting for the kernel to let go of something; each is at most [`PATIENCE`].
const ROUNDS: u32 = 50;
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Uring {
    ring: Ring,
    buffers: BufferRing,
    wake: EventFd,
    wake_armed: bool,
    pool: Pool,
    sockets: Vec<Slot>,
    free_sockets: Vec<SocketId>,
    /// Completions of receives, not looked at yet.
    pending: VecDeque<Completion>,
    /// Sockets whose receive has ended, with their generation.
    rearm: VecDeque<(SocketId, u32)>,
    /// Says how large names and control data may be; read by the kernel when a receive is armed.
    template: Box<libc::mmsghdr>,
    send: SendHeaders,
    send_generation: u32,
    /// Failed sends: generation, index, errno.
    failed: Vec<(u32, u32, i32)>,
    /// Receives and polls the kernel holds.
    armed: u32,
    /// Buffers that are neither lent nor filled; the one that came back last is lent first.
    spare: Vec<Unfilled>,
    /// Buffers the kernel holds.
    lent: u16,
    /// Whether socket options go through the ring.
    sets_options: bool,
    /// Sockets the table of the ring has room for.
    files: u32,
    /// Completions the kernel has lost so far.
    lost: u32,
    cq_overflows: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    fd: OwnedFd,
    ipv6: bool,
    /// In the ring's table, under the socket's number.
    registered: bool,
    armed: bool,
    /// Not to be armed again: it goes to another worker.
    paused: bool,
    /// The kernel's count of drops, as last reported.
    overflow: u32,
    /// Failed receives in a row.
    errors: u32,
}

#[derive(Debug)]
struct Completion {
    socket: SocketId,
    generation: u32,
    result: i32,
    buffer: Option<Unfilled>,
    /// The receive has ended with this one.
    last: bool,
}

/// Tries the back end with a pair of local sockets. Says how it works here, or why it does not.
pub(super) fn probe() -> Result<String, String> {
    // On a thread that ends with it: the teardown of a ring runs later on the thread that used it and
    // interrupts what that thread then waits for (a `recv` with a time-out failed with EINTR).
    let thread = std::thread::Builder::new().name("spanway-probe".to_owned()).spawn(try_out);
    let answer = thread.map(std::thread::JoinHandle::join);
    match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err("the probe of io_uring ended unexpectedly".to_owned()),
        Err(error) => Err(format!("io_uring cannot be tried: {error}")),
    }
}

fn try_out() -> Result<String, String> {
    let other = |error: io::Error| format!("io_uring cannot be tried: {error}");
    let wake = EventFd::new().map_err(other)?;
    let (pool, free) = Pool::new(BUFFERS_PER_WORKER).map_err(other)?;
    let mut uring = Uring::new(&wake, pool, free).map_err(|error| explain(&error))?;
    let (here, there) = UnixDatagram::pair().map_err(other)?;
    uring.add_socket(here.into(), 0).map_err(|error| explain(&error))?;
    let mut batch = Batch::default();
    for count in 1..=2 {
        there.send(b"probe").map_err(other)?;
        for _ in 0..ROUNDS {
            if batch.received.len() == count || !batch.given_up.is_empty() {
                break;
            }
            let wait = Wait { timeout: Some(PATIENCE), min: None };
            uring.reap(wait, &mut batch).map_err(|error| explain(&error))?;
        }
    }
    let received = batch.received.len();
    uring.release(batch.received.drain(..).map(|received| received.buffer));
    if received == 2 && uring.rearm.is_empty() {
        let (flags, files) =
            (uring.ring.describe(), if uring.files > 0 { " and files" } else { "" });
        return Ok(format!("io_uring with {flags}{files}, multishot receive, provided buffers"));
    }
    Err("io_uring has no multishot receive here: Linux 6.0 or later has it".to_owned())
}

fn explain(error: &io::Error) -> String {
    let switch = "/proc/sys/kernel/io_uring_disabled";
    let disabled = std::fs::read_to_string(switch).unwrap_or_default();
    match (error.raw_os_error(), disabled.trim()) {
        (Some(libc::EPERM), value @ ("1" | "2")) => {
            format!("io_uring is disabled by kernel.io_uring_disabled={value}")
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "io_uring is not permitted to this process (a seccomp filter of a container?)"
                .to_owned()
        }
        (Some(libc::ENOSYS), _) => "this kernel has no io_uring".to_owned(),
        _ => format!("io_uring cannot be set up: {error}"),
    }
}

impl Uring {
    pub fn new(wake: &EventFd, pool: Pool, free: Vec<Unfilled>) -> io::Result<Self> {
        let ring = Ring::set_up()?;
        if !ring.params().is_feature_skip_cqe_on_success() || !ring.params().is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let buffers = BufferRing::new(&ring, pool.buffers())?;
        let files = register_files(&ring);
        let mut template = Box::new(empty_header());
        template.msg_hdr.msg_namelen = to_u32(NAME_BYTES);
        template.msg_hdr.msg_controllen = CONTROL_BYTES;
        let mut uring = Self {
            ring,
            buffers,
            wake: wake.try_clone()?,
            wake_armed: false,
            pool,
            sockets: Vec::new(),
            free_sockets: Vec::new(),
            pending: VecDeque::with_capacity(COMPLETIONS as usize),
            rearm: VecDeque::with_capacity(COMPLETIONS as usize),
            template,
            send: SendHeaders::new(),
            send_generation: 0,
            failed: Vec::with_capacity(RUNS_MAX),
            armed: 0,
            spare: Vec::with_capacity(free.len()),
            lent: 0,
            sets_options: true,
            files,
            lost: 0,
            cq_overflows: 0,
        };
        uring.lend(free.into_iter());
        Ok(uring)
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn socket(&self, socket: SocketId) -> (BorrowedFd<'_>, bool) {
        let slot = &self.sockets[socket.0 as usize];
        let open = slot.open.as_ref().expect("sends name open sockets");
        (open.fd.as_fd(), open.ipv6)
    }

    pub(super) fn add_socket(&mut self, fd: OwnedFd, overflow: u32) -> io::Result<SocketId> {
        // On a non-blocking socket a receive ends with EAGAIN at once and is never armed.
        SockRef::from(&fd).set_nonblocking(false)?;
        let ipv6 = is_ipv6(fd.as_fd());
        let id = self.free_sockets.pop().unwrap_or_else(|| {
            self.sockets.push(Slot { generation: 0, open: None });
            SocketId(to_u32(self.sockets.len() - 1))
        });
        let update = |fd| self.ring.submitter().register_files_update(id.0, &[fd]).is_ok();
        let registered = id.0 < self.files && update(fd.as_raw_fd());
        let slot = &mut self.sockets[id.0 as usize];
        let (armed, paused, errors) = (false, false, 0);
        slot.open = Some(Open { fd, ipv6, registered, armed, paused, overflow, errors });
        self.rearm.push_back((id, slot.generation));
        Ok(id)
    }

    pub(super) fn pause(&mut self, socket: SocketId) {
        if let Some(open) = &mut self.sockets[socket.0 as usize].open {
            open.paused = true;
        }
        self.end_receive(socket);
    }

    pub(super) fn is_drained(&self, socket: SocketId) -> bool {
        !self.pending.iter().any(|completion| completion.socket == socket)
    }

    pub(super) fn overflow(&self, socket: SocketId) -> u32 {
        self.sockets[socket.0 as usize].open.as_ref().map_or(0, |open| open.overflow)
    }

    /// The receive must have ended before the descriptor is closed: it would keep the port.
    pub(super) fn remove_socket(&mut self, socket: SocketId) {
        self.end_receive(socket);
        let slot = &mut self.sockets[socket.0 as usize];
        if slot.open.as_ref().is_some_and(|open| open.armed) {
            // The kernel does not let go. What still comes has no owner and is dropped.
            return;
        }
        if let Some(open) = slot.open.take() {
            if open.registered {
                // An empty place; the table would keep the socket, and the socket its port.
                let _ = self.ring.submitter().register_files_update(socket.0, &[-1]);
            }
            slot.generation = (slot.generation + 1) & GENERATION_MASK;
            self.free_sockets.push(socket);
        }
    }

    fn end_receive(&mut self, socket: SocketId) {
        let index = socket.0 as usize;
        let generation = self.sockets[index].generation;
        let receive = Op::Receive { socket, generation };
        for _ in 0..ROUNDS {
            if !self.sockets[index].open.as_ref().is_some_and(|open| open.armed) {
                break;
            }
            let cancel = opcode::AsyncCancel::new(receive.encode()).build();
            let asked = self.push(cancel.user_data(Op::Cancel.encode()));
            let patience = Patience::one(Some(PATIENCE));
            if asked.and_then(|()| self.ring.enter(patience)).is_err() {
                break;
            }
            self.collect();
        }
    }

    pub(super) fn reap(&mut self, wait: Wait, batch: &mut Batch) -> io::Result<()> {
        self.arm()?;
        if self.pending.is_empty() {
            self.collect();
        }
        // Sockets that wait to be armed must not wait for others to bring something.
        let min =
            wait.min.filter(|_| self.rearm.is_empty() && wait.timeout != Some(Duration::ZERO));
        let missing = min.map_or(0, |(_, count)| count.saturating_sub(to_u32(self.pending.len())));
        if let (Some((gather, _)), 1..) = (min, missing) {
            // What came while the last batch was sent waits for its like, and no longer than that.
            let timeout = if self.pending.is_empty() { wait.timeout } else { Some(gather) };
            self.ring.enter(Patience { want: missing, timeout, gather: Some(gather) })?;
            self.collect();
        } else if self.pending.is_empty() {
            let timeout = if self.rearm.is_empty() { wait.timeout } else { Some(Duration::ZERO) };
            self.ring.enter(Patience::one(timeout))?;
            self.collect();
        } else if !self.ring.submission().is_empty() {
            self.ring.enter(Patience::NONE)?;
        }
        while !batch.is_full() {
            let Some(completion) = self.pending.pop_front() else { break };
            self.take(completion, batch);
        }
        batch.cq_overflows += std::mem::take(&mut self.cq_overflows);
        Ok(())
    }

    pub(super) fn submit(&mut self, runs: &mut Runs, buffers: &[Filled]) -> io::Result<()> {
        if self.ring.submission().len() + runs.len() > REQUESTS as usize {
            self.submit_all()?;
        }
        self.send_generation = (self.send_generation + 1) & GENERATION_MASK;
        let generation = self.send_generation;
        let sockets = &self.sockets;
        let open = |socket: SocketId| sockets[socket.0 as usize].open.as_ref();
        let ipv6 = |socket| open(socket).is_some_and(|open| open.ipv6);
        let headers = self.send.fill(runs, buffers, &self.pool, ipv6);
        let mut queue = self.ring.submission();
        for (index, header) in headers.iter().enumerate() {
            let socket = runs.runs()[index].socket;
            let Some(open) = open(socket) else {
                runs.set_errno(index, libc::EBADF);
                continue;
            };
            let (header, flags) = (&raw const header.msg_hdr, libc::MSG_DONTWAIT.cast_unsigned());
            let request = if open.registered {
                opcode::SendMsg::new(Fixed(socket.0), header).flags(flags).build()
            } else {
                opcode::SendMsg::new(Fd(open.fd.as_raw_fd()), header).flags(flags).build()
            };
            let operation = Op::Send { index: to_u32(index), generation };
            let request = request.flags(squeue::Flags::SKIP_SUCCESS).user_data(operation.encode());
            // SAFETY: the header points to an address, control data, vectors and the bytes of `Filled`
            // buffers. All stay as they are until `submit_all` below has returned, and by then the
            // send is done: MSG_DONTWAIT makes the kernel run it inside the call or fail it.
            let pushed = unsafe { queue.push(&request) };
            if pushed.is_err() {
                runs.set_errno(index, libc::EAGAIN);
            }
        }
        drop(queue);
        self.submit_all()?;
        self.collect();
        for (of, index, errno) in self.failed.drain(..) {
            if of == generation {
                runs.set_errno(index as usize, errno);
            }
        }
        for index in 0..runs.len() {
            if runs.runs()[index].errno == libc::ECONNREFUSED && !runs.overtaken(index) {
                // The refusal was of an earlier datagram and this run was not sent: once more.
                runs.set_errno(index, self.send_again(runs.runs()[index].socket, index));
            }
        }
        Ok(())
    }

    /// Run `run` of the last submission by itself; the errno, or 0.
    fn send_again(&self, socket: SocketId, run: usize) -> i32 {
        let header = std::ptr::from_ref(self.send.header(run));
        let fd = self.socket(socket).0.as_raw_fd();
        // SAFETY: the header was filled for this batch and points to an address, control data and
        // vectors of bytes of `Filled` buffers, all alive and unchanged until the call returns.
        match unsafe { libc::sendmsg(fd, header, libc::MSG_DONTWAIT) } {
            0.. => 0,
            _ => errno(),
        }
    }

    pub(super) fn release(&mut self, buffers: impl Iterator<Item = Filled>) {
        self.lend(buffers.map(Filled::released));
    }

    fn lend(&mut self, buffers: impl Iterator<Item = Unfilled>) {
        self.spare.extend(buffers);
        self.top_up();
    }

    /// The kernel gets the buffers that were used last, which are still in the caches.
    fn top_up(&mut self) {
        while self.lent < LENT_MAX
            && let Some(buffer) = self.spare.pop()
        {
            let (number, address) = self.pool.lend(buffer, to_u32(LEND_OFFSET));
            self.buffers.push(number, address);
            self.lent += 1;
        }
        self.buffers.publish();
    }

    /// Arms what is not armed, as many as fit between two batches.
    fn arm(&mut self) -> io::Result<()> {
        if !self.wake_armed {
            let fd = Fd(self.wake.as_fd().as_raw_fd());
            let readable = u32::from(libc::POLLIN.cast_unsigned());
            let poll = opcode::PollAdd::new(fd, readable).multi(true).build();
            self.push(poll.user_data(Op::Wake.encode()))?;
            self.wake_armed = true;
            self.armed += 1;
        }
        for _ in 0..self.rearm.len().min(BATCH_MAX) {
            let Some((socket, generation)) = self.rearm.pop_front() else { break };
            let slot = &mut self.sockets[socket.0 as usize];
            let Some(open) = slot.open.as_mut().filter(|_| slot.generation == generation) else {
                continue;
            };
            if open.paused {
                continue;
            }
            open.armed = true;
            let template = &raw const self.template.msg_hdr;
            let receive = if open.registered {
                opcode::RecvMsgMulti::new(Fixed(socket.0), template, BUFFER_GROUP).build()
            } else {
                let fd = Fd(open.fd.as_raw_fd());
                opcode::RecvMsgMulti::new(fd, template, BUFFER_GROUP).build()
            };
            self.armed += 1;
            self.push(receive.user_data(Op::Receive { socket, generation }.encode()))?;
        }
        Ok(())
    }

    pub(super) fn tell_times(&mut self, socket: SocketId, on: bool) {
        static VALUES: [libc::c_int; 2] = [0, 1];
        let Some(open) = &self.sockets[socket.0 as usize].open else { return };
        let request = open.registered && self.sets_options;
        if !request {
            return tell_times(open.fd.as_fd(), on);
        }
        let (level, name) =
            (libc::SOL_SOCKET.cast_unsigned(), libc::SO_TIMESTAMPNS.cast_unsigned());
        let value = (&raw const VALUES[usize::from(on)]).cast();
        let bytes = to_u32(size_of::<libc::c_int>());
        let request = opcode::SetSockOpt::new(Fixed(socket.0), level, name, value, bytes).build();
        let request = request.flags(squeue::Flags::SKIP_SUCCESS);
        // A ring too full for it is asked again at the next switch.
        let _ = self.push(request.user_data(Op::Times { socket, on }.encode()));
    }

    fn push(&mut self, request: squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.submit_all()?;
        }
        let mut queue = self.ring.submission();
        // SAFETY: the requests pushed here are polls and cancellations, which have no memory, options,
        // whose value is a static, and receives. Those read `template`, which lives as long as the
        // ring, and write into lent buffers of the pool, which `drop` keeps until every receive has
        // ended.
        let pushed = unsafe { queue.push(&request) };
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Until the kernel has taken every request and told about every failure.
    fn submit_all(&mut self) -> io::Result<()> {
        for _ in 0..ROUNDS {
            self.ring.enter(Patience::NONE)?;
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.cq_overflow() {
                return Ok(());
            }
            drop(queue);
            self.collect();
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Takes every completion the kernel has written.
    fn collect(&mut self) {
        // Held back for want of room; the next entry brings them.
        self.cq_overflows += u32::from(self.ring.submission().cq_overflow());
        let completions = self.ring.completion();
        let lost = completions.overflow();
        self.cq_overflows += lost.wrapping_sub(self.lost);
        self.lost = lost;
        for entry in completions {
            let more = cqueue::more(entry.flags());
            match Op::decode(entry.user_data()) {
                Some(Op::Receive { socket, generation }) => {
                    let buffer = cqueue::buffer_select(entry.flags()).map(|id| {
                        self.lent -= 1;
                        // SAFETY: a completion names a buffer once, when the kernel has taken it out
                        // of the ring, into which only `top_up` put it, and has finished writing.
                        unsafe { self.pool.reclaim(id) }
                    });
                    if !more {
                        self.armed -= 1;
                        if let Some(open) = &mut self.sockets[socket.0 as usize].open {
                            open.armed = false;
                        }
                    }
                    let (result, last) = (entry.result(), !more);
                    self.pending.push_back(Completion { socket, generation, result, buffer, last });
                }
                Some(Op::Send { index, generation }) => {
                    self.failed.push((generation, index, -entry.result()));
                }
                Some(Op::Wake) => {
                    self.wake.drain();
                    if !more {
                        self.wake_armed = false;
                        self.armed -= 1;
                    }
                }
                Some(Op::Times { socket, on }) => {
                    // The ring of this kernel sets no options (before 6.7).
                    self.sets_options = false;
                    if let Some(open) = &self.sockets[socket.0 as usize].open {
                        tell_times(open.fd.as_fd(), on);
                    }
                }
                Some(Op::Cancel) | None => {}
            }
        }
        self.top_up();
    }

    fn take(&mut self, completion: Completion, batch: &mut Batch) {
        let Completion { socket, generation, result, buffer, last } = completion;
        let slot = &mut self.sockets[socket.0 as usize];
        let Some(open) = slot.open.as_mut().filter(|_| slot.generation == generation) else {
            // Its socket was closed meanwhile.
            return self.lend(buffer.into_iter());
        };
        if let Some(buffer) = buffer {
            let (received, overflow) = parse(socket, buffer, &self.pool, &self.template.msg_hdr);
            open.errors = 0;
            if let Some(now) = overflow.filter(|&now| now != open.overflow) {
                batch.overflows.push((socket, now.wrapping_sub(open.overflow)));
                open.overflow = now;
            }
            batch.received.push(received);
        } else if !matches!(-result, libc::ENOBUFS | libc::ECANCELED) {
            open.errors += 1;
            if open.errors >= RECEIVE_ERRORS_MAX {
                batch.given_up.push((socket, -result));
                return;
            }
        }
        if last {
            self.rearm.push_back((socket, generation));
        }
    }
}

/// The datagram in a buffer that the kernel filled for a multishot receive.
fn parse(
    socket: SocketId,
    buffer: Unfilled,
    pool: &Pool,
    template: &libc::msghdr,
) -> (Received, Option<u32>) {
    let whole = buffer.all_from(to_u32(LEND_OFFSET));
    let message = RecvMsgOut::parse(pool.bytes(&whole), template)
        .expect("a buffer has room for header, name and control data");
    let bytes = message.payload_data().len().min(DATAGRAM_ROOM);
    #[cfg(test)]
    super::traced::note_received(message.payload_data().as_ptr(), bytes);
    let source = parse_address(message.name_data());
    let told = parse_control(message.control_data());
    let truncated = message.is_payload_truncated();
    let control_truncated = message.is_control_data_truncated();
    let buffer = whole.released().filled(bytes);
    let received = Received::new(socket, source, buffer, &told);
    (Received { truncated, control_truncated, ..received }, told.overflow)
}

/// Makes the ring's table of sockets; how many it takes, 0 where there is none.
fn register_files(ring: &Ring) -> u32 {
    // The kernel allows no more than the process may open.
    let mut files = FILES_MAX;
    while files >= 64 {
        match ring.submitter().register_files_sparse(files) {
            Ok(()) => return files,
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => files /= 2,
            Err(_) => return 0,
        }
    }
    0
}

impl Drop for Uring {
    /// Every receive ends before sockets and buffers go: a ring is torn down later than its
    /// descriptor is closed, and until then it would keep ports and could write into our memory.
    fn drop(&mut self) {
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
        for _ in 0..ROUNDS {
            if self.armed == 0 {
                break;
            }
            let asked = self.push(cancel.clone().user_data(Op::Cancel.encode()));
            let patience = Patience::one(Some(PATIENCE));
            if asked.and_then(|()| self.ring.enter(patience)).is_err() {
                break;
            }
            self.collect();
        }
        if self.files > 0 {
            let _ = self.ring.submitter().unregister_files();
        }
        if self.armed == 0 {
            let _ = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
        } else {
            self.pool.leak();
        }
    }
}

/// The ring through which the kernel gets its buffers.
#[derive(Debug)]
struct BufferRing {
    entries: NonNull<BufRingEntry>,
    /// A power of two.
    count: u16,
    tail: u16,
}

impl BufferRing {
    fn new(ring: &Ring, count: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel takes no other number");
        // SAFETY: a fresh anonymous mapping at an address the kernel chooses touches nothing of ours.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::bytes(count),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries =
            NonNull::new(mapped.cast::<BufRingEntry>()).ok_or_else(io::Error::last_os_error)?;
        let buffers = Self { entries, count, tail: 0 };
        let address = mapped as u64;
        // SAFETY: the mapping is page-aligned, zeroed and has `count` entries. It lives until `drop`,
        // which runs after the ring was told to forget it or was closed.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0) }?;
        Ok(buffers)
    }

    fn bytes(count: u16) -> usize {
        usize::from(count) * size_of::<BufRingEntry>()
    }

    /// Puts a lent buffer behind the others; the kernel sees it after [`BufferRing::publish`]. Never
    /// full: it has as many entries as there are buffers.
    fn push(&mut self, id: u16, address: *mut u8) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` is below the number of entries of the mapping.
        let slot = unsafe { self.entries.add(index) };
        // SAFETY: aligned and inside the mapping; the kernel does not read entries at or behind the
        // tail, and this reference is the only one of ours. The tail field, which lies in entry 0, is
        // only read by the kernel.
        let entry = unsafe { &mut *slot.as_ptr() };
        entry.set_addr(address as u64);
        entry.set_len(to_u32(LEND_BYTES));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: `entries` is the address of the first entry of a registered ring.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the field is 2-aligned, inside the mapping, and accessed only atomically: here, and
        // by the kernel, which reads it with acquire.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the entries are written before the kernel sees the tail behind them.
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`. The kernel has unregistered it or holds the pages
        // on its own, and no reference of ours is left.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), Self::bytes(self.count)) };
    }
}

#![allow(unsafe_code, reason = "epoll, recvmmsg and sendmmsg")]
//! The plain back end: epoll says which sockets have something, recvmmsg and sendmmsg move up to 64
//! super-buffers in one call. Works on every kernel and under every sandbox that lets UDP through.
//!
//! Level-triggered: a socket with more than fits into a batch is simply reported again, behind the
//! others.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use super::message::{
    CONTROL_BYTES, NAME_BYTES, Name, SendHeaders, empty_header, parse_address, parse_control,
    to_u32,
};
use super::{Batch, EventFd, Received, Wait, errno, is_ipv6};
use crate::engine::pool::{DATAGRAM_ROOM, Filled, Pool, Unfilled};
use crate::engine::runs::Runs;
use crate::engine::table::SocketId;
use crate::limits::{BATCH_MAX, RECEIVE_ERRORS_MAX, RECEIVE_MAX};

#[derive(Debug)]
pub struct Mmsg {
    epoll: OwnedFd,
    wake: EventFd,
    pool: Pool,
    free: Vec<Unfilled>,
    sockets: Vec<Option<Watched>>,
    free_sockets: Vec<SocketId>,
    /// Sockets epoll reported and `reap` has not read yet, last first.
    ready: Vec<SocketId>,
    events: Vec<libc::epoll_event>,
    /// Receives of the last batch.
    brought: usize,
    receive: ReceiveHeaders,
    send: SendHeaders,
}

#[derive(Debug)]
struct Watched {
    fd: OwnedFd,
    ipv6: bool,
    /// The kernel's count of drops, as last reported.
    overflow: u32,
    /// Failed receives in a row.
    errors: u32,
}

/// What epoll reports for the wake counter.
const WAKE: u64 = u64::MAX;
/// Sockets one epoll call reports.
const EVENTS: i32 = 256;

impl Mmsg {
    pub fn new(wake: &EventFd, pool: Pool, free: Vec<Unfilled>) -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `epoll` was just made, is valid and owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let wake = wake.try_clone()?;
        set_timer_slack();
        let mmsg = Self {
            epoll,
            wake,
            pool,
            free,
            sockets: Vec::new(),
            free_sockets: Vec::new(),
            ready: Vec::with_capacity(EVENTS as usize),
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS as usize],
            brought: 0,
            receive: ReceiveHeaders::new(),
            send: SendHeaders::new(),
        };
        mmsg.watch(mmsg.wake.as_fd(), WAKE)?;
        Ok(mmsg)
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn socket(&self, socket: SocketId) -> (BorrowedFd<'_>, bool) {
        let watched = self.sockets[socket.0 as usize].as_ref().expect("sends name open sockets");
        (watched.fd.as_fd(), watched.ipv6)
    }

    pub(super) fn add_socket(&mut self, fd: OwnedFd, overflow: u32) -> io::Result<SocketId> {
        let id = match self.free_sockets.pop() {
            Some(id) => id,
            None => {
                self.sockets.push(None);
                SocketId(to_u32(self.sockets.len() - 1))
            }
        };
        if let Err(error) = self.watch(fd.as_fd(), id.0.into()) {
            self.free_sockets.push(id);
            return Err(error);
        }
        let ipv6 = is_ipv6(fd.as_fd());
        self.sockets[id.0 as usize] = Some(Watched { fd, ipv6, overflow, errors: 0 });
        Ok(id)
    }

    pub(super) fn pause(&mut self, socket: SocketId) {
        let Some(Some(watched)) = self.sockets.get(socket.0 as usize) else { return };
        self.unwatch(watched.fd.as_fd());
        self.ready.retain(|&ready| ready != socket);
    }

    pub(super) fn overflow(&self, socket: SocketId) -> u32 {
        self.sockets[socket.0 as usize].as_ref().map_or(0, |watched| watched.overflow)
    }

    pub(super) fn remove_socket(&mut self, socket: SocketId) {
        // Another program may hold a copy of the descriptor: closing alone would not end the watch.
        let Some(watched) = self.sockets[socket.0 as usize].take() else { return };
        self.unwatch(watched.fd.as_fd());
        self.free_sockets.push(socket);
    }

    pub(super) fn reap(&mut self, wait: Wait, batch: &mut Batch) -> io::Result<()> {
        if self.ready.is_empty() {
            // Before the wait: the worker then wakes once for all that came, and what comes after a
            // pause is not held. Not if the last batch was as large as wanted: more may be there.
            let min = wait.min.filter(|&(_, count)| self.brought < count as usize);
            let gather = min.map_or(Duration::ZERO, |(gather, _)| gather);
            if gather > Duration::ZERO {
                pause(gather);
            }
            self.wait(wait.timeout.map(|timeout| timeout.saturating_sub(gather)))?;
        }
        while !batch.is_full() && !self.free.is_empty() {
            let Some(id) = self.ready.pop() else { break };
            self.receive(id, batch);
        }
        self.brought = batch.received.len();
        Ok(())
    }

    /// Every run is sent on its own, in order; one that the kernel refuses does not stop the rest.
    pub(super) fn submit(&mut self, runs: &mut Runs, buffers: &[Filled]) {
        let sockets = &self.sockets;
        let watched = |socket: SocketId| sockets[socket.0 as usize].as_ref();
        let ipv6 = |socket| watched(socket).is_some_and(|watched| watched.ipv6);
        let headers = self.send.fill(runs, buffers, &self.pool, ipv6);
        let (mut done, mut refused) = (0, None);
        while let Some(first) = runs.runs().get(done) {
            let same = runs.runs()[done..].iter().take_while(|run| run.socket == first.socket);
            let count = same.count();
            let Some(watched) = watched(first.socket) else {
                runs.set_errno(done, libc::EBADF);
                done += 1;
                continue;
            };
            match send(watched.fd.as_fd(), &mut headers[done..done + count]) {
                Ok(sent) => done += sent,
                Err(libc::EINTR) => {}
                // The refusal was of an earlier datagram and this run was not sent: once more.
                Err(libc::ECONNREFUSED) if refused != Some(done) => refused = Some(done),
                Err(errno) => {
                    runs.set_errno(done, errno);
                    done += 1;
                }
            }
        }
    }

    pub(super) fn release(&mut self, buffers: impl Iterator<Item = Filled>) {
        let pool = &self.pool;
        self.free.extend(buffers.map(|buffer| {
            assert!(pool.is_home(&buffer), "a buffer is released at home");
            buffer.released()
        }));
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: a wait that ends early would only be started again.
        let ms = timeout.map_or(-1, |timeout| {
            libc::c_int::try_from(timeout.as_micros().div_ceil(1_000)).unwrap_or(libc::c_int::MAX)
        });
        let events = self.events.as_mut_ptr();
        // SAFETY: `events` has room for EVENTS entries, is exclusively ours and outlives the call.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events, EVENTS, ms) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        };
        for event in self.events[..count].iter().rev() {
            match event.u64 {
                WAKE => self.wake.drain(),
                id => self.ready.push(SocketId(u32::try_from(id).unwrap_or(u32::MAX))),
            }
        }
        Ok(())
    }

    fn receive(&mut self, id: SocketId, batch: &mut Batch) {
        let room = RECEIVE_MAX.min(BATCH_MAX - batch.received.len()).min(self.free.len());
        let Some(Some(watched)) = self.sockets.get_mut(id.0 as usize) else { return };
        let buffers = self.free.iter().rev().take(room);
        match self.receive.receive(watched.fd.as_fd(), buffers, &self.pool) {
            Ok(count) => {
                watched.errors = 0;
                for index in 0..count {
                    let buffer = self.free.pop().expect("as many as were offered");
                    let (received, overflow) = self.receive.take(index, id, buffer);
                    batch.received.push(received);
                    let Some(overflow) = overflow.filter(|&now| now != watched.overflow) else {
                        continue;
                    };
                    batch.overflows.push((id, overflow.wrapping_sub(watched.overflow)));
                    watched.overflow = overflow;
                }
            }
            Err(libc::EAGAIN | libc::EINTR) => {}
            Err(errno) => {
                watched.errors += 1;
                if watched.errors >= RECEIVE_ERRORS_MAX {
                    batch.given_up.push((id, errno));
                    let watched = self.sockets[id.0 as usize].as_ref().expect("looked at above");
                    self.unwatch(watched.fd.as_fd());
                }
            }
        }
    }

    fn watch(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let events = libc::EPOLLIN.cast_unsigned();
        let mut event = libc::epoll_event { events, u64: key };
        let (epoll, fd) = (self.epoll.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: `event` lives through the call, which copies it.
        match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn unwatch(&self, fd: BorrowedFd<'_>) {
        let (epoll, fd) = (self.epoll.as_raw_fd(), fd.as_raw_fd());
        let none = std::ptr::null_mut();
        // SAFETY: EPOLL_CTL_DEL ignores the event pointer. It fails only if it is not watched.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, none) };
    }
}

/// The header arrays of one receive call, made once and pointed at buffers right before each call.
struct ReceiveHeaders {
    names: Vec<Name>,
    controls: Vec<[u8; CONTROL_BYTES]>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl ReceiveHeaders {
    fn new() -> Self {
        let iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: DATAGRAM_ROOM };
        Self {
            names: vec![[0; NAME_BYTES]; RECEIVE_MAX],
            controls: vec![[0; CONTROL_BYTES]; RECEIVE_MAX],
            iovecs: vec![iovec; RECEIVE_MAX],
            headers: vec![empty_header(); RECEIVE_MAX],
        }
    }

    /// Receives into `buffers`, at most [`RECEIVE_MAX`], first to first; how many came.
    fn receive<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        buffers: impl Iterator<Item = &'a Unfilled>,
        pool: &Pool,
    ) -> Result<usize, i32> {
        let mut count: libc::c_uint = 0;
        let names = self.names.iter_mut().zip(&mut self.controls);
        let parts = names.zip(&mut self.iovecs).zip(&mut self.headers);
        for (buffer, (((name, control), iovec), header)) in buffers.zip(parts) {
            iovec.iov_base = pool.datagram_address(buffer).cast();
            let message = &mut header.msg_hdr;
            message.msg_name = name.as_mut_ptr().cast();
            message.msg_namelen = to_u32(NAME_BYTES);
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = CONTROL_BYTES;
            message.msg_iov = std::ptr::from_mut(iovec);
            message.msg_iovlen = 1;
            count += 1;
        }
        let headers = self.headers.as_mut_ptr();
        let no_timeout = std::ptr::null_mut();
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: the first `count` headers point to a name, control data and an iovec of their own in
        // arrays that outlive the call, and each iovec to DATAGRAM_ROOM bytes of a buffer whose one
        // handle is `Unfilled` and lies in `free`: nobody reads or writes it.
        let received = unsafe { libc::recvmmsg(fd.as_raw_fd(), headers, count, flags, no_timeout) };
        usize::try_from(received).map_err(|_| errno())
    }

    /// Message `index` of the last call, which was received into `buffer`.
    fn take(&self, index: usize, socket: SocketId, buffer: Unfilled) -> (Received, Option<u32>) {
        let header = &self.headers[index];
        let message = &header.msg_hdr;
        let name = &self.names[index][..NAME_BYTES.min(message.msg_namelen as usize)];
        let control = &self.controls[index][..CONTROL_BYTES.min(message.msg_controllen)];
        let told = parse_control(control);
        let buffer = buffer.filled(DATAGRAM_ROOM.min(header.msg_len as usize));
        #[cfg(test)]
        super::traced::note_received(self.iovecs[index].iov_base.cast(), buffer.len());
        let received = Received {
            truncated: message.msg_flags & libc::MSG_TRUNC != 0,
            control_truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
            ..Received::new(socket, parse_address(name), buffer, &told)
        };
        (received, told.overflow)
    }
}

impl std::fmt::Debug for ReceiveHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReceiveHeaders")
    }
}

/// How many of the first were sent; an error is the first one's.
fn send(fd: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> Result<usize, i32> {
    let count = to_u32(headers.len());
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: every header was filled for this batch and points to an address, control data and vectors
    // of bytes of `Filled` buffers, all alive and unchanged until the call returns.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
    usize::try_from(sent).map_err(|_| errno())
}

/// Lets the calling thread's sleeps end within a microsecond of their time; 50 are the default.
fn set_timer_slack() {
    let nanoseconds: libc::c_ulong = 1_000;
    // SAFETY: no pointers are passed. It cannot fail for a positive time.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds) };
}

#[expect(
    clippy::disallowed_methods,
    reason = "the wait that gathers a batch is a wait of the worker"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

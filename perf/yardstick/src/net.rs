//! The system calls of the yardstick: sockets, `recvmmsg` into fixed buffers, `sendmmsg` out of them.
//!
//! Sends never wait: what does not fit into the socket is lost, as in the engine. An error of one
//! send is an error of that run only, and is not reported: nobody listens.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::ptr;

use crate::runs::{Run, Runs};

/// Messages of one `recvmmsg`.
const BATCH: libc::c_uint = 64;
const SLOTS: usize = BATCH as usize;
/// A train of datagrams is at most 65,507 bytes.
pub(crate) const BUFFER_BYTES: usize = 65_536;
/// What every candidate has: enough for 10 ms at a million frames per second, no hiding of overload.
const SOCKET_BYTES: libc::c_int = 8 << 20;
/// Room for one control message with an `int`: CMSG_SPACE(4) is 24.
const CONTROL_BYTES: usize = 32;
/// A message of 65,507 bytes with datagrams of one byte becomes 1,024 runs; nobody sends that here,
/// and the rest of such a message is sent by the next call.
const RUNS_PER_CALL: usize = 256;

/// Aligned as a `cmsghdr` has to be.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

pub(crate) fn receiver(listen: SocketAddr, gro: bool) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen)?;
    force_buffer(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
    if gro {
        set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1)?;
    }
    Ok(socket)
}

/// Connected: saves the look-up of the route for every send.
pub(crate) fn sender(listen: SocketAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) if listen.ip().is_loopback() => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    force_buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?;
    Ok(socket)
}

/// Sends one datagram; again if an ICMP message of an earlier one was in the way.
pub(crate) fn send_one(socket: &UdpSocket, payload: &[u8]) {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if socket.send(payload).is_err_and(refused) {
        let _ = socket.send(payload);
    }
}

/// Until something can be received.
pub(crate) fn wait(socket: &UdpSocket) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid pollfd, and 1 is passed as their number.
    let ready = unsafe { libc::poll(&raw mut poll, 1, -1) };
    if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where messages arrive. Its headers point into its own boxed slices, which are made once and live,
/// unmoved, as long as the inbox.
pub(crate) struct Inbox {
    socket: UdpSocket,
    buffers: Box<[u8]>,
    controls: Box<[Control]>,
    headers: Box<[libc::mmsghdr]>,
    _iovecs: Box<[libc::iovec]>,
    used: usize,
}

impl Inbox {
    pub(crate) fn new(socket: UdpSocket) -> Self {
        let mut buffers = vec![0; SLOTS * BUFFER_BYTES].into_boxed_slice();
        let mut controls = vec![Control([0; CONTROL_BYTES]); SLOTS].into_boxed_slice();
        let bases = buffers.chunks_exact_mut(BUFFER_BYTES).map(<[u8]>::as_mut_ptr);
        let iovec = |base: *mut u8| libc::iovec { iov_base: base.cast(), iov_len: BUFFER_BYTES };
        let mut iovecs: Box<[libc::iovec]> = bases.map(iovec).collect();
        let slots = iovecs.iter_mut().zip(controls.iter_mut());
        let headers = slots.map(|(iovec, control)| {
            let mut header = empty_header();
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = ptr::from_mut(control).cast();
            header
        });
        let headers = headers.collect();
        Self { socket, buffers, controls, headers, _iovecs: iovecs, used: SLOTS }
    }

    /// Waits for the first message, takes those that are there, and says how many.
    pub(crate) fn receive(&mut self) -> io::Result<usize> {
        for header in &mut self.headers[..self.used] {
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        let (fd, headers) = (self.socket.as_raw_fd(), self.headers.as_mut_ptr());
        let flags = libc::MSG_WAITFORONE;
        loop {
            // SAFETY: `headers` is BATCH headers; each points to one iovec, BUFFER_BYTES of buffer and
            // CONTROL_BYTES of control data inside boxed slices of `self`, which is borrowed mutably:
            // nobody else reads or writes them during the call. A null timeout means none.
            let got = unsafe { libc::recvmmsg(fd, headers, BATCH, flags as _, ptr::null_mut()) };
            if let Ok(got) = usize::try_from(got) {
                self.used = got;
                return Ok(got);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Bytes of a received message and of each datagram in it; 0 if it is one datagram.
    pub(crate) fn shape(&self, index: usize) -> (usize, usize) {
        let header = &self.headers[index];
        let segment = match header.msg_hdr.msg_controllen {
            0 => 0,
            _ => self.controls[index].segment(),
        };
        (header.msg_len as usize, segment)
    }

    fn message(&self, index: usize) -> &[u8] {
        &self.buffers[index * BUFFER_BYTES..][..BUFFER_BYTES]
    }
}

impl Control {
    /// The value of the first control message, if that is UDP_GRO: no other is asked for.
    fn segment(&self) -> usize {
        let int = |at: usize| self.0[at..at + 4].try_into().map_or(0, i32::from_ne_bytes);
        const LEVEL: usize = size_of::<usize>();
        let is_gro = int(LEVEL) == libc::SOL_UDP && int(LEVEL + 4) == libc::UDP_GRO;
        if is_gro { usize::try_from(int(LEVEL + 8)).unwrap_or(0) } else { 0 }
    }

    /// One control message UDP_SEGMENT, whose value is 16 bits wide.
    fn set_segment(&mut self, segment: u16) {
        const LEVEL: usize = size_of::<usize>();
        self.0[..LEVEL].copy_from_slice(&(LEVEL + 8 + 2).to_ne_bytes());
        self.0[LEVEL..LEVEL + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        self.0[LEVEL + 4..LEVEL + 8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        self.0[LEVEL + 8..LEVEL + 10].copy_from_slice(&segment.to_ne_bytes());
    }
}

/// From where runs leave; its arrays are filled anew for every call.
pub(crate) struct Outbox {
    socket: UdpSocket,
    headers: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    controls: Box<[Control]>,
}

impl Outbox {
    pub(crate) fn new(socket: UdpSocket) -> Self {
        let controls = vec![Control([0; CONTROL_BYTES]); RUNS_PER_CALL].into_boxed_slice();
        let headers = Vec::with_capacity(RUNS_PER_CALL);
        Self { socket, headers, iovecs: Vec::new(), controls }
    }

    /// Sends all runs of a batch out of the buffers where they arrived.
    pub(crate) fn send(&mut self, runs: &Runs, inbox: &Inbox) -> io::Result<()> {
        for some in runs.runs.chunks(RUNS_PER_CALL) {
            self.fill(some, runs, inbox);
            let mut sent = 0;
            while sent < some.len() {
                let result = self.call(sent);
                match result {
                    Ok(more) => sent += more.max(1),
                    Err(error) => {
                        self.after_error(&some[sent], runs, inbox, &error)?;
                        sent += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, some: &[Run], runs: &Runs, inbox: &Inbox) {
        self.headers.clear();
        self.iovecs.clear();
        for piece in some.iter().flat_map(|run| &runs.pieces[run.pieces.clone()]) {
            let bytes = &inbox.message(piece.message)[piece.bytes.clone()];
            let base = bytes.as_ptr().cast_mut().cast();
            self.iovecs.push(libc::iovec { iov_base: base, iov_len: bytes.len() });
        }
        let first = some.first().map_or(0, |run| run.pieces.start);
        for (run, control) in some.iter().zip(self.controls.iter_mut()) {
            let mut header = empty_header();
            let pieces = &mut self.iovecs[run.pieces.start - first..run.pieces.end - first];
            header.msg_hdr.msg_iov = pieces.as_mut_ptr();
            header.msg_hdr.msg_iovlen = pieces.len() as _;
            if let (2.., Ok(segment)) = (run.segments, u16::try_from(run.segment)) {
                control.set_segment(segment);
                header.msg_hdr.msg_control = ptr::from_mut(control).cast();
                // CMSG_SPACE of the value.
                header.msg_hdr.msg_controllen = (size_of::<usize>() + 16) as _;
            }
            self.headers.push(header);
        }
    }

    fn call(&mut self, from: usize) -> io::Result<usize> {
        let left = &mut self.headers[from..];
        let count = u32::try_from(left.len()).map_err(io::Error::other)?;
        let (fd, flags) = (self.socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: `left` is `count` headers, filled by `fill` since the buffers last changed; their
        // iovecs and control data belong to `self`, the bytes to the inbox that `send` borrows; the
        // kernel only reads them, and writes `msg_len` of the headers.
        let sent = unsafe { libc::sendmmsg(fd, left.as_mut_ptr(), count, flags as _) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// The first run of a call failed: once more, datagram by datagram, where that can help.
    fn after_error(
        &self,
        run: &Run,
        runs: &Runs,
        inbox: &Inbox,
        error: &io::Error,
    ) -> io::Result<()> {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => Ok(()),
            Some(libc::ECONNREFUSED | libc::EINVAL | libc::EIO | libc::EMSGSIZE) => {
                for piece in &runs.pieces[run.pieces.clone()] {
                    let bytes = &inbox.message(piece.message)[piece.bytes.clone()];
                    for datagram in bytes.chunks(run.segment.max(1)) {
                        send_one(&self.socket, datagram);
                    }
                }
                Ok(())
            }
            Some(_) | None => Err(io::Error::from(error.kind())),
        }
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is integers and pointers, for which zero is a value: none, of length 0.
    unsafe { zeroed() }
}

/// Beyond the limit of the system where that is allowed, as large as it may be where not.
fn force_buffer(socket: &UdpSocket, force: i32, plain: i32) -> io::Result<()> {
    // The kernel doubles what it is asked for.
    let half = SOCKET_BYTES / 2;
    set_option(socket, libc::SOL_SOCKET, force, half)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, plain, half))
}

fn set_option(socket: &UdpSocket, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    const LENGTH: libc::socklen_t = 4;
    let fd = socket.as_raw_fd();
    // SAFETY: the value is one c_int that lives through the call; LENGTH is its size on every Linux.
    let result = unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(&value).cast(), LENGTH) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#![allow(
    unsafe_code,
    reason = "the socket options, eventfd and affinity calls that socket2 leaves out"
)]
//! The kernel's frame sockets behind one interface, with two back ends.
//!
//! ```text
//! worker ── reap(batch) ──► datagrams in buffers of the pool      io_uring: multishot recvmsg, buffer ring
//!        ── submit(sends) ─► every send done when it returns       mmsg: epoll, recvmmsg, sendmmsg
//!        ── release(buffer) ► free for the next datagram
//! ```
//!
//! Both give the same: datagrams of one socket in order, their sources, drops the kernel counted, no
//! blocking send, nothing kept waiting. Nothing done for a datagram depends on how many sockets there
//! are. One worker thread makes and uses a [`Net`]; only an [`EventFd`] reaches it from outside.
//!
//! Also here: the set-up of sockets and threads that needs the kernel, and the probe that chooses the
//! back end. Knows nothing of frames or channels.

pub mod mark;
mod message;
pub mod mmsg;
mod op;
pub mod sched;
pub mod uring;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::engine::BackendChoice;
use crate::engine::pool::{Filled, Pool};
use crate::engine::table::SocketId;
use crate::limits::{BATCH_MAX, SOCKET_BUFFER_BYTES};

/// The socket added first: the worker's port.
pub const WORKER_SOCKET: SocketId = SocketId(0);

/// A datagram that came.
#[derive(Debug)]
pub struct Received {
    pub socket: SocketId,
    /// IPv4-mapped addresses as IPv4.
    pub source: SocketAddr,
    pub buffer: Filled,
    /// It was larger than the buffer: only a part is there.
    pub truncated: bool,
}

/// What one [`Net::reap`] brought.
#[derive(Debug)]
pub struct Batch {
    pub received: Vec<Received>,
    /// Datagrams the kernel dropped at a socket since it was last reported.
    pub overflows: Vec<(SocketId, u32)>,
    /// Sockets that failed too often and are not read any more.
    pub given_up: Vec<(SocketId, i32)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            received: Vec::with_capacity(BATCH_MAX),
            overflows: Vec::with_capacity(BATCH_MAX),
            given_up: Vec::with_capacity(1),
        }
    }
}

impl Batch {
    pub fn is_full(&self) -> bool {
        self.received.len() >= BATCH_MAX
    }
}

/// A datagram to be sent: the bytes of `buffer`.
#[derive(Debug)]
pub struct Outgoing {
    pub socket: SocketId,
    pub to: SocketAddr,
    pub buffer: Filled,
    /// 0, or the errno the kernel refused it with; set by [`Net::submit`].
    pub errno: i32,
}

/// A back end that works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Uring,
    Mmsg,
}

impl Backend {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Mmsg => "mmsg",
        }
    }
}

/// Chooses the back end and says why; an error if the one asked for cannot work here.
pub fn probe(choice: BackendChoice) -> Result<(Backend, String), String> {
    match choice {
        BackendChoice::Mmsg => Ok((Backend::Mmsg, "chosen in the configuration".to_owned())),
        BackendChoice::Uring => match uring::probe() {
            Ok(why) => Ok((Backend::Uring, why)),
            Err(why) => Err(format!("{why}; set `[engine] backend` to \"auto\" or \"mmsg\"")),
        },
        BackendChoice::Auto => match uring::probe() {
            Ok(why) => Ok((Backend::Uring, why)),
            Err(why) => Ok((Backend::Mmsg, why)),
        },
    }
}

/// The sockets of one worker.
#[derive(Debug)]
pub enum Net {
    Uring(Box<uring::Uring>),
    Mmsg(Box<mmsg::Mmsg>),
}

impl Net {
    /// `wake` ends a wait from outside; the worker's own thread must call this.
    pub fn open(backend: Backend, wake: &EventFd) -> io::Result<Self> {
        match backend {
            Backend::Uring => Ok(Self::Uring(Box::new(uring::Uring::new(wake)?))),
            Backend::Mmsg => Ok(Self::Mmsg(Box::new(mmsg::Mmsg::new(wake)?))),
        }
    }

    pub fn pool(&self) -> &Pool {
        match self {
            Self::Uring(uring) => uring.pool(),
            Self::Mmsg(mmsg) => mmsg.pool(),
        }
    }

    /// Receives at `socket` from now on.
    pub fn add_socket(&mut self, socket: OwnedFd) -> io::Result<SocketId> {
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        match self {
            Self::Uring(uring) => uring.add_socket(socket),
            Self::Mmsg(mmsg) => mmsg.add_socket(socket),
        }
    }

    /// Closes the socket: its port is free when this returns.
    pub fn remove_socket(&mut self, socket: SocketId) {
        match self {
            Self::Uring(uring) => uring.remove_socket(socket),
            Self::Mmsg(mmsg) => mmsg.remove_socket(socket),
        }
    }

    /// Adds what has come to `batch`; waits for something, a wake or the time-out if nothing has.
    pub fn reap(&mut self, timeout: Option<Duration>, batch: &mut Batch) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.reap(timeout, batch),
            Self::Mmsg(mmsg) => mmsg.reap(timeout, batch),
        }
    }

    /// Sends all; when it returns each was sent or refused ([`Outgoing::errno`]) and its buffer may be
    /// released. At most [`BATCH_MAX`] at once.
    pub fn submit(&mut self, sends: &mut [Outgoing]) -> io::Result<()> {
        assert!(sends.len() <= BATCH_MAX);
        match self {
            Self::Uring(uring) => uring.submit(sends)?,
            Self::Mmsg(mmsg) => mmsg.submit(sends),
        }
        for send in sends.iter_mut().filter(|send| send.errno == libc::ECONNREFUSED) {
            // The refusal was of an earlier datagram and this one was not sent: once more.
            let bytes = self.pool().bytes(&send.buffer);
            send.errno = match self.send_now(send.socket, send.to, bytes) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
        }
        Ok(())
    }

    /// Sends one datagram outside any batch; never waits.
    pub fn send_now(&self, socket: SocketId, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let (fd, ipv6) = match self {
            Self::Uring(uring) => uring.socket(socket),
            Self::Mmsg(mmsg) => mmsg.socket(socket),
        };
        let to = match to {
            SocketAddr::V4(v4) if ipv6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            SocketAddr::V4(_) | SocketAddr::V6(_) => to,
        };
        SockRef::from(&fd).send_to_with_flags(bytes, &to.into(), libc::MSG_DONTWAIT)?;
        Ok(())
    }

    /// The buffer is free again.
    pub fn release(&mut self, buffer: Filled) {
        match self {
            Self::Uring(uring) => uring.release(buffer),
            Self::Mmsg(mmsg) => mmsg.release(buffer),
        }
    }
}

/// A counter another thread can make readable to end a wait.
#[derive(Debug)]
pub struct EventFd(File);

impl EventFd {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made, is valid and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(File::from(fd)))
    }

    /// A second handle of the same counter.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Makes it readable.
    pub fn notify(&self) {
        // The one possible failure is a counter at its maximum: readable already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Makes it unreadable; what was notified before is seen by whoever looks after this.
    pub fn drain(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Binds a worker's port and says how large a receive buffer the kernel granted. The address is never
/// shared: with SO_REUSEADDR or SO_REUSEPORT a second process could bind it too and take all frames.
pub fn bind_worker(address: SocketAddr) -> io::Result<(UdpSocket, usize)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // The unspecified address takes IPv4 neighbours too.
        socket.set_only_v6(!address.ip().is_unspecified())?;
        let fd = socket.as_fd();
        let discover = libc::IPV6_PMTUDISC_DO;
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discover)?;
    }
    // DF: a frame that does not fit is an error here, not fragments on the way. An IPv6 socket that
    // takes no IPv4 may refuse the option.
    let fd = socket.as_fd();
    let df = set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
    if address.is_ipv4() {
        df?;
    }
    let granted = enlarge_receive_buffer(socket.as_fd())?;
    socket.bind(&address.into())?;
    Ok((socket.into(), granted))
}

/// Asks for [`SOCKET_BUFFER_BYTES`] and returns what was granted.
pub fn enlarge_receive_buffer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let asked = libc::c_int::try_from(SOCKET_BUFFER_BYTES).unwrap_or(libc::c_int::MAX);
    // The first needs CAP_NET_ADMIN; the second is cut to net.core.rmem_max without a word.
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, asked)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, asked))?;
    // The kernel doubles the size for its own use and reports the double.
    Ok(SockRef::from(&socket).recv_buffer_size()? / 2)
}

/// Pins the calling thread to one CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    sched::stay_on(&[cpu])
}

fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let bytes = message::to_u32(size_of::<libc::c_int>());
    let value = (&raw const value).cast();
    // SAFETY: `value` points to a c_int that lives through the call and `bytes` is its size; every
    // option this file passes takes a c_int.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether addresses given to this socket must be IPv6.
fn is_ipv6(fd: BorrowedFd<'_>) -> bool {
    SockRef::from(&fd).domain().is_ok_and(|domain| domain == Domain::IPV6)
}

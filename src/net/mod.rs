#![allow(
    unsafe_code,
    reason = "the socket options, eventfd and affinity calls that socket2 leaves out"
)]
//! The kernel's frame sockets behind one interface, with two back ends.
//!
//! ```text
//! worker ── reap(batch) ──► super-buffers in buffers of the pool  io_uring: multishot recvmsg, buffer ring
//!        ── submit(runs) ──► every send done when it returns       mmsg: epoll, recvmmsg, sendmmsg
//!        ── release(buffer) ► free for what comes next
//! ```
//!
//! A receive brings one datagram or, if the kernel kept several of one flow together (UDP_GRO), a
//! *super-buffer* of datagrams of equal size, the last perhaps shorter. A run leaves in the same way
//! (UDP_SEGMENT). Both back ends give the same: receives of one socket in order, their sources, drops
//! the kernel counted, no blocking send, nothing kept waiting. Nothing done for a receive depends on
//! how many sockets there are. One worker thread makes and uses a [`Net`]; only an [`EventFd`] reaches
//! it from outside.
//!
//! Also here: the set-up of sockets and threads that needs the kernel, and the probe that chooses the
//! back end. Knows nothing of frames or channels.

pub mod clock;
pub mod confine;
mod enter;
pub mod mark;
mod message;
pub mod mmsg;
mod op;
pub mod sched;
#[cfg(test)]
pub(crate) mod traced;
pub mod uring;

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use socket2::{Domain, MsgHdr, Protocol, SockRef, Socket, Type};

use crate::engine::BackendChoice;
use crate::engine::pool::{Filled, Pool, Unfilled};
use crate::engine::runs::Runs;
use crate::engine::table::SocketId;
use crate::limits::{BATCH_MAX, SOCKET_BUFFER_BYTES};

/// The socket added first: the worker's port.
pub const WORKER_SOCKET: SocketId = SocketId(0);

/// What one receive brought: a datagram, or several.
#[derive(Debug)]
pub struct Received {
    pub socket: SocketId,
    /// IPv4-mapped addresses as IPv4.
    pub source: SocketAddr,
    pub buffer: Filled,
    /// Bytes of each datagram; the last may have fewer. Those of the only one, if it is one.
    pub segment: u16,
    /// There was more than the buffer could take: only a part is there.
    pub truncated: bool,
    /// The control data did not fit: where the datagrams begin is not known.
    pub control_truncated: bool,
    /// The kernel's wall clock when it came, in nanoseconds, while [`Net::tell_times`] is on.
    pub received_ns: Option<u64>,
}

impl Received {
    fn new(socket: SocketId, source: SocketAddr, buffer: Filled, told: &message::Control) -> Self {
        let bytes = u16::try_from(buffer.len()).unwrap_or(u16::MAX);
        let segment = told.segment.map_or(bytes, |segment| segment.min(bytes));
        let (truncated, control_truncated) = (false, false);
        let received_ns = told.received_ns;
        Self { socket, source, buffer, segment, truncated, control_truncated, received_ns }
    }

    /// The same frames at another worker, which did not receive them itself.
    pub fn passed(source: SocketAddr, buffer: Filled, segment: u16) -> Self {
        let told = message::Control { segment: Some(segment), ..message::Control::default() };
        Self::new(WORKER_SOCKET, source, buffer, &told)
    }

    /// Datagrams in it: one at least, for an empty datagram is one.
    #[inline]
    pub fn datagrams(&self) -> usize {
        self.buffer.len().div_ceil(usize::from(self.segment.max(1))).max(1)
    }
}

/// A socket on its way from one worker to another.
#[derive(Debug)]
pub struct Detached {
    socket: OwnedFd,
    /// Drops of the kernel that have been reported.
    overflow: u32,
}

/// How long [`Net::reap`] waits when nothing is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// `None`: until something comes or it is woken.
    pub timeout: Option<Duration>,
    /// Up to this long for this many receives; then the first one ends the wait. Saves wake-ups at the
    /// price of so much latency. The plain back end cannot count and waits the whole time; kernels
    /// before 6.12 do not gather for io_uring.
    pub min: Option<(Duration, u32)>,
}

/// What one [`Net::reap`] brought.
#[derive(Debug)]
pub struct Batch {
    pub received: Vec<Received>,
    /// Receives the kernel dropped at a socket since it was last reported; a super-buffer counts as one.
    pub overflows: Vec<(SocketId, u32)>,
    /// Sockets that failed too often and are not read any more.
    pub given_up: Vec<(SocketId, i32)>,
    /// Times the kernel had no room for a completion: it held them back, or lost one.
    pub cq_overflows: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            received: Vec::with_capacity(BATCH_MAX),
            overflows: Vec::with_capacity(BATCH_MAX),
            given_up: Vec::with_capacity(1),
            cq_overflows: 0,
        }
    }
}

impl Batch {
    pub fn is_full(&self) -> bool {
        self.received.len() >= BATCH_MAX
    }
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
    /// `wake` ends a wait from outside; `free` are buffers of `pool`, into which it receives. The
    /// worker's own thread must call this.
    pub fn open(
        backend: Backend,
        wake: &EventFd,
        pool: Pool,
        free: Vec<Unfilled>,
    ) -> io::Result<Self> {
        match backend {
            Backend::Uring => Ok(Self::Uring(Box::new(uring::Uring::new(wake, pool, free)?))),
            Backend::Mmsg => Ok(Self::Mmsg(Box::new(mmsg::Mmsg::new(wake, pool, free)?))),
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
        self.take_over(Detached { socket, overflow: 0 })
    }

    /// As [`Net::add_socket`], for a socket that was another worker's.
    pub fn take_over(&mut self, detached: Detached) -> io::Result<SocketId> {
        let Detached { socket, overflow } = detached;
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        // Without it (kernels before 5.0) every receive is a single datagram.
        let _ = set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
        match self {
            Self::Uring(uring) => uring.add_socket(socket, overflow),
            Self::Mmsg(mmsg) => mmsg.add_socket(socket, overflow),
        }
    }

    /// Whether receives at `socket` tell when the kernel received them, from the next submission on. A
    /// kernel that has no times tells none.
    pub fn tell_times(&mut self, socket: SocketId, on: bool) {
        match self {
            Self::Uring(uring) => uring.tell_times(socket, on),
            Self::Mmsg(mmsg) => tell_times(mmsg.socket(socket).0, on),
        }
    }

    /// Receives nothing more at the socket; what came before is still reaped.
    pub fn pause(&mut self, socket: SocketId) {
        match self {
            Self::Uring(uring) => uring.pause(socket),
            Self::Mmsg(mmsg) => mmsg.pause(socket),
        }
    }

    /// Whether all that came to a paused socket has been reaped.
    pub fn is_drained(&self, socket: SocketId) -> bool {
        match self {
            Self::Uring(uring) => uring.is_drained(socket),
            // It holds nothing between two batches.
            Self::Mmsg(_) => true,
        }
    }

    /// Lets go of a socket that is paused and drained: it stays open, for another worker.
    pub fn detach(&mut self, socket: SocketId) -> io::Result<Detached> {
        let overflow = match self {
            Self::Uring(uring) => uring.overflow(socket),
            Self::Mmsg(mmsg) => mmsg.overflow(socket),
        };
        let copy = self.socket(socket).0.try_clone_to_owned()?;
        self.remove_socket(socket);
        Ok(Detached { socket: copy, overflow })
    }

    /// Closes the socket: its port is free when this returns.
    pub fn remove_socket(&mut self, socket: SocketId) {
        match self {
            Self::Uring(uring) => uring.remove_socket(socket),
            Self::Mmsg(mmsg) => mmsg.remove_socket(socket),
        }
    }

    /// Adds what has come to `batch`; waits as told if nothing has.
    pub fn reap(&mut self, wait: Wait, batch: &mut Batch) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.reap(wait, batch),
            Self::Mmsg(mmsg) => mmsg.reap(wait, batch),
        }
    }

    /// Sends all runs, whose pieces lie in `buffers`. When it returns each was sent or refused as a
    /// whole ([`crate::engine::runs::Run::errno`]), and the kernel has finished with the buffers.
    pub fn submit(&mut self, runs: &mut Runs, buffers: &[Filled]) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.submit(runs, buffers),
            Self::Mmsg(mmsg) => {
                mmsg.submit(runs, buffers);
                Ok(())
            }
        }
    }

    /// Sends one datagram outside any batch; never waits.
    pub fn send_now(&self, socket: SocketId, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.send_gathered(socket, to, &[IoSlice::new(bytes)])
    }

    /// As [`Net::send_now`], for a datagram whose bytes lie in several places.
    pub fn send_gathered(
        &self,
        socket: SocketId,
        to: SocketAddr,
        bytes: &[IoSlice<'_>],
    ) -> io::Result<()> {
        let (fd, ipv6) = self.socket(socket);
        let to = match to {
            SocketAddr::V4(v4) if ipv6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            SocketAddr::V4(_) | SocketAddr::V6(_) => to,
        };
        SockRef::from(&fd).send_to_vectored_with_flags(bytes, &to.into(), libc::MSG_DONTWAIT)?;
        Ok(())
    }

    /// Sends datagrams of `segment` bytes each that lie behind each other, the last perhaps shorter, in
    /// one call; never waits. The kernel may refuse the segmentation: then they have to go alone.
    pub fn send_segments(
        &self,
        socket: SocketId,
        to: SocketAddr,
        bytes: &[u8],
        segment: u16,
    ) -> io::Result<()> {
        let (fd, ipv6) = self.socket(socket);
        let to = match to {
            SocketAddr::V4(v4) if ipv6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            SocketAddr::V4(_) | SocketAddr::V6(_) => to,
        };
        let control = message::segment_control(segment);
        let (to, buffers) = (to.into(), [IoSlice::new(bytes)]);
        let message = MsgHdr::new().with_addr(&to).with_buffers(&buffers).with_control(&control);
        SockRef::from(&fd).sendmsg(&message, libc::MSG_DONTWAIT)?;
        Ok(())
    }

    /// The buffer, one of its own pool, is free again.
    pub fn release(&mut self, buffer: Filled) {
        match self {
            Self::Uring(uring) => uring.release(std::iter::once(buffer)),
            Self::Mmsg(mmsg) => mmsg.release(std::iter::once(buffer)),
        }
    }

    /// These buffers, all of its own pool, are free again.
    pub fn release_all(&mut self, buffers: impl Iterator<Item = Filled>) {
        match self {
            Self::Uring(uring) => uring.release(buffers),
            Self::Mmsg(mmsg) => mmsg.release(buffers),
        }
    }

    fn socket(&self, socket: SocketId) -> (BorrowedFd<'_>, bool) {
        match self {
            Self::Uring(uring) => uring.socket(socket),
            Self::Mmsg(mmsg) => mmsg.socket(socket),
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

/// Binds the one port of a proxy for each of its workers. A single socket is not shared; several share
/// the port by SO_REUSEPORT, which the first asks for only when it has the port: another program with
/// the option set is noticed. One that comes later and has the same user can still join.
pub fn bind_proxy(address: SocketAddr, workers: usize) -> io::Result<Vec<(UdpSocket, usize)>> {
    let mut bound = Vec::with_capacity(workers);
    let mut address = address;
    for worker in 0..workers {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        let granted = enlarge_receive_buffer(socket.as_fd())?;
        if worker > 0 {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        if worker == 0 && workers > 1 {
            socket.set_reuse_port(true)?;
        }
        let socket = UdpSocket::from(socket);
        address = socket.local_addr()?;
        bound.push((socket, granted));
    }
    Ok(bound)
}

/// A socket with a port of its own, of the family of `server`. It is not connected: an answer from
/// elsewhere is seen and counted, and what ICMP says about one datagram does not cost the next.
pub fn open_towards(server: SocketAddr) -> io::Result<UdpSocket> {
    match server {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// Lets this process open `needed` files if the system allows it; how many it may open.
pub fn raise_open_files(needed: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call and is the structure it fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    if limit.rlim_cur < needed {
        let asked = libc::rlimit { rlim_cur: needed.min(limit.rlim_max), ..limit };
        // SAFETY: `asked` lives through the call and is the structure it reads.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const asked) } == 0 {
            return asked.rlim_cur;
        }
    }
    limit.rlim_cur
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

fn tell_times(fd: BorrowedFd<'_>, on: bool) {
    // Nothing depends on it: what is not told is not measured.
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, on.into());
}

/// Whether addresses given to this socket must be IPv6.
fn is_ipv6(fd: BorrowedFd<'_>) -> bool {
    SockRef::from(&fd).domain().is_ok_and(|domain| domain == Domain::IPV6)
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

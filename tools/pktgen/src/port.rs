//! A UDP socket that sends trains and receives super-buffers, and explains what the kernel refuses.
//!
//! It is not connected, so an ICMP error of one datagram is not reported in place of the next send, and
//! "do not fragment" is set: a datagram that does not fit the path is an error, never two fragments.
//! Does not retry, pace or count.

use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The largest super-buffer that the kernel takes and gives, and more than any single datagram.
const BUFFER_BYTES: usize = 65_536;
/// Bytes of one train: 65,535 without the headers of IPv6 and UDP.
pub const TRAIN_BYTES_MAX: usize = 65_487;
/// Segments of one train: what kernels before 6.9 take.
pub const TRAIN_SEGMENTS_MAX: usize = 64;
/// Super-buffers of one receive. More would only push each other out of the cache.
pub const BATCH: usize = 8;
/// Asked of the kernel: what arrives within some milliseconds at full rate.
pub const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// What can be wrong with a socket. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("{address} cannot be opened: {source}. {}", hint_of_bind(.source))]
    Bind { address: SocketAddr, source: io::Error },
    #[error("{from} cannot send to {to}: one is IPv4 and the other IPv6")]
    Families { from: SocketAddr, to: SocketAddr },
    #[error(
        "datagrams of {size} bytes to {to} do not fit the path (do-not-fragment is set): use a smaller \
         --size, or a larger MTU"
    )]
    TooLarge { size: usize, to: SocketAddr },
    #[error("sending to {to} failed: {source}")]
    Send { to: SocketAddr, source: io::Error },
    #[error("receiving at {address} failed: {source}")]
    Receive { address: SocketAddr, source: io::Error },
}

fn hint_of_bind(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::AddrInUse {
        "Another program has it: stop that one or choose another port"
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        "This host does not have that address: see `ip address`"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "Ports below 1024 need root: choose a higher one"
    } else {
        "Many flows need a higher `ulimit -n`"
    }
}

/// One socket.
#[derive(Debug)]
pub struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl Port {
    /// Opens a socket; port 0 lets the kernel choose.
    pub fn bind(address: SocketAddr) -> Result<Self, PortError> {
        let open = || {
            let socket =
                Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            ask_for_buffers(&socket);
            socket.bind(&address.into())?;
            Self::over(socket.into())
        };
        open().map_err(|source| PortError::Bind { address, source })
    }

    /// A socket that is bound already.
    pub fn over(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        Ok(Self { socket, state, local })
    }

    /// Opens `flows` sockets that can send to `to`: from the port of `from` upwards, or from any.
    pub fn bind_flows(
        to: SocketAddr,
        from: Option<SocketAddr>,
        flows: u16,
    ) -> Result<Vec<Self>, PortError> {
        let from = from.unwrap_or_else(|| any_of_family(to));
        if from.is_ipv4() != to.is_ipv4() {
            return Err(PortError::Families { from, to });
        }
        // Every flow is an open file, and programs get the low limit unless they ask for the high one.
        // Where that fails, opening the socket that is one too many says so.
        spanway::net::raise_open_files(u64::MAX);
        let port = |flow: u16| if from.port() == 0 { 0 } else { from.port().saturating_add(flow) };
        (0..flows).map(|flow| Self::bind(SocketAddr::new(from.ip(), port(flow)))).collect()
    }

    /// The address with the port the kernel chose.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Bytes the kernel granted for what was received and not yet read, as it counts them.
    pub fn receive_buffer(&self) -> usize {
        SockRef::from(&self.socket).recv_buffer_size().unwrap_or(0)
    }

    /// A sentence about a receive buffer that is smaller than was asked for.
    pub fn buffer_warning(&self) -> Option<String> {
        // The kernel doubles what it grants.
        let granted = self.receive_buffer() / 2;
        (granted < SOCKET_BUFFER_BYTES).then(|| {
            format!(
                "the kernel granted {} KiB of receive buffer instead of {}: at high rates raise it with \
                 `sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES}`",
                granted / 1_024,
                SOCKET_BUFFER_BYTES / 1_024
            )
        })
    }

    /// Sends `bytes` as datagrams of `segment` bytes, in one train if there are several.
    pub fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: bytes,
            segment_size: (segment < bytes.len()).then_some(segment),
            src_ip: None,
        };
        self.state.try_send((&self.socket).into(), &transmit)
    }

    /// Fills `room` with what is there; none if nothing is.
    pub fn receive(&self, room: &mut Room) -> Result<usize, PortError> {
        room.filled = 0;
        let mut buffers = room.bytes.chunks_exact_mut(BUFFER_BYTES).map(IoSliceMut::new);
        let mut buffers: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| buffers.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        match self.state.recv((&self.socket).into(), &mut buffers, &mut room.meta) {
            Ok(filled) => {
                room.filled = filled;
                Ok(filled)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(source) => Err(PortError::Receive { address: self.local, source }),
        }
    }

    /// Waits until something can be received; false if nothing came in time.
    pub fn wait_readable(&self, timeout: Duration) -> bool {
        wait(&mut [PollFd::new(self, PollFlags::IN)], timeout)
    }

    /// Waits until something can be received or `other` is readable.
    pub fn wait_readable_or(&self, other: BorrowedFd<'_>, timeout: Duration) {
        let other = PollFd::from_borrowed_fd(other, PollFlags::IN);
        wait(&mut [PollFd::new(self, PollFlags::IN), other], timeout);
    }

    /// Waits until something can be sent.
    pub fn wait_writable(&self, timeout: Duration) -> bool {
        wait(&mut [PollFd::new(self, PollFlags::OUT)], timeout)
    }

    /// What the kernel threw away so far because this socket's buffer was full. A super-buffer of many
    /// datagrams counts as one.
    pub fn kernel_drops(&self) -> Option<u64> {
        let link =
            fs::read_link(format!("/proc/thread-self/fd/{}", self.socket.as_raw_fd())).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        let table = if self.local.is_ipv4() { "udp" } else { "udp6" };
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
        drops_of(&table, &inode)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Which of several ports can be received from within `timeout`.
pub fn readable(ports: &[Port], timeout: Duration) -> Vec<usize> {
    let mut polled: Vec<_> = ports.iter().map(|port| PollFd::new(port, PollFlags::IN)).collect();
    if !wait(&mut polled, timeout) {
        return Vec::new();
    }
    let ready = polled.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
    ready.map(|(at, _)| at).collect()
}

/// Room for one batch of super-buffers.
#[derive(Debug)]
pub struct Room {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH],
    filled: usize,
}

/// One super-buffer of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    pub from: SocketAddr,
    pub bytes: &'a [u8],
    /// Bytes of each datagram in it; the last may be shorter.
    pub stride: usize,
    /// When the kernel got it, in nanoseconds since 1970.
    pub kernel_ns: Option<u64>,
}

#[expect(clippy::new_without_default, reason = "one costs a megabyte: made on purpose only")]
impl Room {
    pub fn new() -> Self {
        let meta = [RecvMeta::default(); BATCH];
        Self { bytes: vec![0; BATCH * BUFFER_BYTES], meta, filled: 0 }
    }

    /// What the last receive brought.
    pub fn arrived(&self) -> impl Iterator<Item = Arrived<'_>> {
        let buffers = self.bytes.chunks_exact(BUFFER_BYTES);
        self.meta[..self.filled].iter().zip(buffers).map(|(meta, bytes)| Arrived {
            from: meta.addr,
            bytes: &bytes[..meta.len],
            stride: meta.stride,
            kernel_ns: meta.timestamp.map(crate::clock::nanos),
        })
    }

    /// The same for one who opens seals: the bytes apart, to be changed where they lie.
    pub fn arrived_mut(&mut self) -> impl Iterator<Item = (Arrived<'static>, &mut [u8])> {
        let buffers = self.bytes.chunks_exact_mut(BUFFER_BYTES);
        self.meta[..self.filled].iter().zip(buffers).map(|(meta, bytes)| {
            let kernel_ns = meta.timestamp.map(crate::clock::nanos);
            let (from, stride) = (meta.addr, meta.stride);
            (Arrived { from, bytes: &[], stride, kernel_ns }, &mut bytes[..meta.len])
        })
    }
}

/// The address of no interface in particular, in the family of `other`.
pub fn any_of_family(other: SocketAddr) -> SocketAddr {
    match other {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// Less than was asked for is no error: see [`Port::buffer_warning`].
fn ask_for_buffers(socket: &Socket) {
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
}

fn wait(polled: &mut [PollFd<'_>], timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).ok();
    // A signal ends the wait early; the caller looks why.
    poll(polled, timeout.as_ref()).unwrap_or(0) > 0
}

/// The last column of the row of an inode in /proc/net/udp.
fn drops_of(table: &str, inode: &str) -> Option<u64> {
    let mut rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|columns| columns.get(9) == Some(&inode))?;
    row.last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_the_last_column_of_the_sockets_row() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  \
                     timeout inode ref pointer drops\n 12: 0100007F:1388 00000000:0000 07 \
                     00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 37\n";
        assert_eq!(drops_of(table, "4711"), Some(37));
        assert_eq!(drops_of(table, "471"), None);
    }

    #[test]
    fn a_socket_that_overflows_knows_how_many_it_lost() {
        let sink = Port::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        SockRef::from(&sink.socket).set_recv_buffer_size(4_096).expect("a size");
        let source = Port::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        assert_eq!(sink.kernel_drops(), Some(0));
        for _ in 0..200 {
            source.send(sink.local(), &[0; 100], 100).expect("sent");
        }
        let mut room = Room::new();
        let mut received = 0;
        while sink.receive(&mut room).expect("received") > 0 {
            received += room.arrived().count() as u64;
        }
        assert!(received < 200);
        assert_eq!(sink.kernel_drops(), Some(200 - received));
    }

    #[test]
    fn trains_arrive_as_super_buffers_on_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let sink = Port::bind(address.parse().expect("an address")).expect("a port");
            let source = Port::bind_flows(sink.local(), None, 1).expect("ports");
            source[0].send(sink.local(), &[7; 950], 100).expect("sent");
            assert!(sink.wait_readable(Duration::from_secs(5)));
            let mut room = Room::new();
            assert_eq!(sink.receive(&mut room).expect("received"), 1);
            let arrived = room.arrived().next().expect("one");
            assert_eq!((arrived.bytes.len(), arrived.stride), (950, 100), "{address}");
            assert_eq!(arrived.from.port(), source[0].local().port());
            assert!(arrived.kernel_ns.is_some());
        }
    }

    #[test]
    fn an_address_in_use_or_of_another_family_says_what_to_do() {
        let taken = Port::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let error = Port::bind(taken.local()).expect_err("it is taken").to_string();
        assert!(error.contains("Another program has it"), "{error}");
        let to = "[::1]:9".parse().expect("an address");
        let error = Port::bind_flows(to, Some(taken.local()), 1).expect_err("two families");
        assert!(matches!(error, PortError::Families { .. }));
    }
}

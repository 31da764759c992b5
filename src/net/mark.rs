//! How packets are marked for the routers on their way: TOS byte and traffic class of a socket.
//!
//! What routers make of a mark is theirs; many clear it. Knows nothing of lanes.

use std::io;
use std::os::fd::BorrowedFd;

use socket2::SockRef;

use super::is_ipv6;
use crate::types::Dscp;

/// Marks every packet that leaves through `socket` from now on.
pub fn mark(socket: BorrowedFd<'_>, dscp: Dscp) -> io::Result<()> {
    // The two low bits of the byte are the kernel's (ECN).
    let byte = u32::from(dscp.number()) << 2;
    let ipv6 = is_ipv6(socket);
    let socket = SockRef::from(&socket);
    if ipv6 {
        socket.set_tclass_v6(byte)?;
        // For IPv4 neighbours of a socket that takes both; one that takes no IPv4 may refuse.
        let _ = socket.set_tos_v4(byte);
        return Ok(());
    }
    socket.set_tos_v4(byte)
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use socket2::{MaybeUninitSlice, MsgHdrMut};

    use super::*;
    use crate::net::bind_worker;

    #[test]
    fn a20_what_a_workers_port_sends_is_marked_over_both_families() {
        // The last one: an IPv4 neighbour of a peer that listens on all addresses.
        for (listen, neighbour) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")]
        {
            let (socket, _) = bind_worker(listen.parse().expect("an address")).expect("bound");
            let receiver = UdpSocket::bind(neighbour).expect("bound");
            let to = match receiver.local_addr().expect("bound") {
                SocketAddr::V4(v4) if listen.starts_with("[::]") => {
                    SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
                }
                to @ (SocketAddr::V4(_) | SocketAddr::V6(_)) => to,
            };
            receive_marks(&receiver);
            for name in ["CS0", "EF", "CS6"] {
                let dscp: Dscp = name.parse().expect("a name");
                mark(socket.as_fd(), dscp).expect("every kernel takes it");
                socket.send_to(b"x", to).expect("sent");
                let byte = received_mark(&receiver);
                assert_eq!(byte, dscp.number() << 2, "{name}, {listen} to {neighbour}");
            }
        }
    }

    fn receive_marks(socket: &UdpSocket) {
        let second = Some(Duration::from_secs(5));
        socket.set_read_timeout(second).expect("a time above zero");
        let ipv6 = socket.local_addr().expect("bound").is_ipv6();
        let socket = SockRef::from(socket);
        match ipv6 {
            true => socket.set_recv_tclass_v6(true).expect("every kernel has it"),
            false => socket.set_recv_tos_v4(true).expect("every kernel has it"),
        }
    }

    /// The one control message holds a byte for IPv4 and an int for IPv6, behind its header of 16 bytes.
    fn received_mark(socket: &UdpSocket) -> u8 {
        let mut bytes = [MaybeUninit::uninit(); 16];
        let mut control = [MaybeUninit::new(0); 64];
        let mut buffers = [MaybeUninitSlice::new(&mut bytes)];
        let mut message = MsgHdrMut::new().with_buffers(&mut buffers).with_control(&mut control);
        SockRef::from(socket).recvmsg(&mut message, 0).expect("a datagram");
        assert!(message.control_len() > 16, "no mark came with it");
        // SAFETY: initialised above; the kernel only writes over it.
        let data: [u8; 4] = std::array::from_fn(|at| unsafe { control[16 + at].assume_init() });
        u8::try_from(i32::from_ne_bytes(data)).unwrap_or(data[0])
    }
}

#![allow(unsafe_code, reason = "zeroed C structures of the socket calls")]
//! The pieces of a `recvmsg`/`sendmsg`: addresses and control data as bytes, and the header arrays of a
//! batch of sends.
//!
//! Addresses and control messages are read and written byte by byte, so that they can lie anywhere in
//! a buffer; the layouts are Linux's. Does not call the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::Outgoing;
use crate::engine::pool::Pool;
use crate::engine::table::canonical;
use crate::limits::BATCH_MAX;

/// Bytes of the largest address: `sockaddr_in6`.
pub(super) const NAME_BYTES: usize = 28;
/// Bytes of control data of one receive: timestamp, SO_RXQ_OVFL and UDP_GRO in this order. With less
/// the last vanishes at the first kernel drop (tried with 24).
pub(super) const CONTROL_BYTES: usize = 80;

/// Room for a socket address as the kernel wants it.
pub(super) type Name = [u8; NAME_BYTES];

/// The address in the kernel's form; IPv4 in mapped form for an IPv6 socket.
pub(super) fn emit_address(to: SocketAddr, ipv6_socket: bool, name: &mut Name) -> u32 {
    let to = match to {
        SocketAddr::V4(v4) if ipv6_socket => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => to,
    };
    match to {
        SocketAddr::V4(v4) => {
            name[0..2].copy_from_slice(&family(libc::AF_INET));
            name[2..4].copy_from_slice(&v4.port().to_be_bytes());
            name[4..8].copy_from_slice(&v4.ip().octets());
            name[8..16].fill(0);
            16
        }
        SocketAddr::V6(v6) => {
            name[0..2].copy_from_slice(&family(libc::AF_INET6));
            name[2..4].copy_from_slice(&v6.port().to_be_bytes());
            name[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            28
        }
    }
}

/// The address the kernel wrote, mapped IPv4 as IPv4; `0.0.0.0:0` if it is neither IPv4 nor IPv6.
pub(super) fn parse_address(name: &[u8]) -> SocketAddr {
    let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let Some(&[a, b]) = name.first_chunk::<2>() else { return unknown };
    let port = |name: &[u8]| u16::from_be_bytes([name[2], name[3]]);
    match [a, b] {
        f if f == family(libc::AF_INET) && name.len() >= 8 => {
            let ip = Ipv4Addr::new(name[4], name[5], name[6], name[7]);
            SocketAddr::new(IpAddr::V4(ip), port(name))
        }
        f if f == family(libc::AF_INET6) && name.len() >= NAME_BYTES => {
            let ip: [u8; 16] = name[8..24].try_into().expect("16 bytes");
            let scope: [u8; 4] = name[24..28].try_into().expect("4 bytes");
            let scope = u32::from_ne_bytes(scope);
            canonical(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port(name), 0, scope)))
        }
        _ => unknown,
    }
}

/// The socket's count of datagrams lost to a full receive buffer, if the control data tells it.
pub(super) fn parse_overflow(mut control: &[u8]) -> Option<u32> {
    const HEADER: usize = size_of::<usize>() + 8;
    while control.len() >= HEADER {
        let (length, rest) = control.split_at(size_of::<usize>());
        let length = usize::from_ne_bytes(length.try_into().expect("a word"));
        let level = i32::from_ne_bytes(rest[0..4].try_into().expect("4 bytes"));
        let kind = i32::from_ne_bytes(rest[4..8].try_into().expect("4 bytes"));
        if length < HEADER || length > control.len() {
            return None;
        }
        let data = &control[HEADER..length];
        if level == libc::SOL_SOCKET && kind == libc::SO_RXQ_OVFL {
            return Some(u32::from_ne_bytes(*data.first_chunk::<4>()?));
        }
        let aligned = length.next_multiple_of(size_of::<usize>());
        control = control.get(aligned..)?;
    }
    None
}

fn family(family: i32) -> [u8; 2] {
    libc::sa_family_t::try_from(family).expect("families are small").to_ne_bytes()
}

/// The header arrays of a batch of sends, made once. They point into themselves and into the pool, so
/// they are filled right before the call that uses them.
pub(super) struct SendHeaders {
    names: Vec<Name>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl SendHeaders {
    pub(super) fn new() -> Self {
        let iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            names: vec![[0; NAME_BYTES]; BATCH_MAX],
            iovecs: vec![iovec; BATCH_MAX],
            headers: vec![empty_header(); BATCH_MAX],
        }
    }

    /// Describes the sends; header i is that of send i.
    pub(super) fn fill(
        &mut self,
        sends: &[Outgoing],
        pool: &Pool,
        ipv6: impl Fn(&Outgoing) -> bool,
    ) -> &mut [libc::mmsghdr] {
        let parts = self.names.iter_mut().zip(&mut self.iovecs).zip(&mut self.headers);
        for (send, ((name, iovec), header)) in sends.iter().zip(parts) {
            let bytes = pool.bytes(&send.buffer);
            iovec.iov_base = bytes.as_ptr().cast_mut().cast();
            iovec.iov_len = bytes.len();
            let message = &mut header.msg_hdr;
            message.msg_namelen = emit_address(send.to, ipv6(send), name);
            message.msg_name = name.as_mut_ptr().cast();
            message.msg_iov = std::ptr::from_mut(iovec);
            message.msg_iovlen = 1;
        }
        &mut self.headers[..sends.len()]
    }
}

impl std::fmt::Debug for SendHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SendHeaders")
    }
}

/// Counts here are of buffers and sockets: far below 2^32.
pub(super) fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) fn empty_header() -> libc::mmsghdr {
    // SAFETY: `mmsghdr` is integers and raw pointers; all zero is a valid, empty one.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_went() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = [0xff; NAME_BYTES];
            let bytes = emit_address(address, address.is_ipv6(), &mut name) as usize;
            assert_eq!(parse_address(&name[..bytes]), address);
        }
    }

    #[test]
    fn ipv4_through_an_ipv6_socket_is_ipv4_again() {
        let address: SocketAddr = "192.0.2.7:80".parse().unwrap();
        let mut name = [0; NAME_BYTES];
        assert_eq!(emit_address(address, true, &mut name), 28);
        assert_eq!(parse_address(&name), address);
    }

    #[test]
    fn names_and_control_data_of_any_bytes_are_read_without_a_panic() {
        for bytes in [&[][..], &[1], &[10, 0, 3], &[2, 0], &[0xff; 28]] {
            assert_eq!(parse_address(bytes).port(), 0);
            assert_eq!(parse_overflow(bytes), None);
        }
        assert_eq!(parse_overflow(&[0; CONTROL_BYTES]), None);
    }

    #[test]
    fn the_overflow_count_is_found_behind_other_control_data() {
        let mut control = Vec::new();
        for (kind, data) in
            [(libc::SO_TIMESTAMPNS, vec![1; 16]), (libc::SO_RXQ_OVFL, vec![7, 0, 0, 0])]
        {
            control.extend_from_slice(&(16 + data.len()).to_ne_bytes());
            control.extend_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
            control.extend_from_slice(&kind.to_ne_bytes());
            control.extend_from_slice(&data);
            control.resize(control.len().next_multiple_of(8), 0);
        }
        assert_eq!(parse_overflow(&control), Some(u32::from_ne_bytes([7, 0, 0, 0])));
    }
}

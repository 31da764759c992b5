#![allow(unsafe_code, reason = "zeroed C structures of the socket calls")]
//! The parts of a `recvmsg`/`sendmsg`: addresses and control data as bytes, and the header arrays of a
//! batch of runs.
//!
//! Addresses and control messages are read and written byte by byte, so that they can lie anywhere in
//! a buffer; the layouts are Linux's. Does not call the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::engine::pool::{Filled, Pool};
use crate::engine::runs::{Run, Runs};
use crate::engine::table::{SocketId, canonical};
use crate::limits::{PIECES_MAX, RUNS_MAX};

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

/// What the control data of a receive says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// The socket's count of receives lost to a full buffer; absent while it is zero.
    pub(super) overflow: Option<u32>,
    /// Bytes of each datagram of a super-buffer; absent for a single one.
    pub(super) segment: Option<u16>,
    /// The kernel's wall clock when it received this, in nanoseconds; absent unless it was asked for.
    pub(super) received_ns: Option<u64>,
}

/// Bytes of a control message's header; its data follow.
const CONTROL_HEADER_BYTES: usize = size_of::<usize>() + 8;

pub(super) fn parse_control(mut control: &[u8]) -> Control {
    let mut told = Control::default();
    while control.len() >= CONTROL_HEADER_BYTES {
        let (length, rest) = control.split_at(size_of::<usize>());
        let length = usize::from_ne_bytes(length.try_into().expect("a word"));
        let level = i32::from_ne_bytes(rest[0..4].try_into().expect("4 bytes"));
        let kind = i32::from_ne_bytes(rest[4..8].try_into().expect("4 bytes"));
        if length < CONTROL_HEADER_BYTES || length > control.len() {
            break;
        }
        let whole = &control[CONTROL_HEADER_BYTES..length];
        match (level, kind, whole.first_chunk::<4>()) {
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, Some(&count)) => {
                told.overflow = Some(u32::from_ne_bytes(count));
            }
            // A segment is told as an int, although it is asked for as a u16.
            (libc::SOL_UDP, libc::UDP_GRO, Some(&bytes)) => {
                told.segment = u16::try_from(i32::from_ne_bytes(bytes)).ok().filter(|&n| n > 0);
            }
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, _) => {
                told.received_ns = parse_timestamp(whole);
            }
            _ => {}
        }
        let aligned = length.next_multiple_of(size_of::<usize>());
        let Some(rest) = control.get(aligned..) else { break };
        control = rest;
    }
    told
}

/// Seconds and nanoseconds, as a `timespec` of 64-bit words.
fn parse_timestamp(data: &[u8]) -> Option<u64> {
    let (seconds, rest) = data.split_first_chunk::<8>()?;
    let nanos = rest.first_chunk::<8>()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanos = u64::try_from(i64::from_ne_bytes(*nanos)).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// As [`emit_segment`], in bytes of its own.
pub(super) fn segment_control(segment: u16) -> [u8; SEGMENT_CONTROL_BYTES] {
    let mut control = SegmentControl { bytes: [0; SEGMENT_CONTROL_BYTES] };
    emit_segment(segment, &mut control);
    control.bytes
}

/// Control data that asks the kernel to cut what is sent into datagrams of `segment` bytes.
fn emit_segment(segment: u16, control: &mut SegmentControl) {
    let length = CONTROL_HEADER_BYTES + size_of::<u16>();
    let (words, rest) = control.bytes.split_at_mut(size_of::<usize>());
    words.copy_from_slice(&length.to_ne_bytes());
    rest[0..4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    rest[4..8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    rest[8..10].copy_from_slice(&segment.to_ne_bytes());
}

/// Room for one control message with a u16, aligned as the kernel reads it.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct SegmentControl {
    bytes: [u8; SEGMENT_CONTROL_BYTES],
}

const SEGMENT_CONTROL_BYTES: usize =
    CONTROL_HEADER_BYTES + size_of::<u16>().next_multiple_of(size_of::<usize>());

fn family(family: i32) -> [u8; 2] {
    libc::sa_family_t::try_from(family).expect("families are small").to_ne_bytes()
}

/// The header arrays of a batch of runs, made once. They point into themselves and into the pool, so
/// they are filled right before the call that uses them.
pub(super) struct SendHeaders {
    names: Vec<Name>,
    controls: Vec<SegmentControl>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl SendHeaders {
    pub(super) fn new() -> Self {
        let iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let control = SegmentControl { bytes: [0; SEGMENT_CONTROL_BYTES] };
        Self {
            names: vec![[0; NAME_BYTES]; RUNS_MAX],
            controls: vec![control; RUNS_MAX],
            iovecs: vec![iovec; PIECES_MAX],
            headers: vec![empty_header(); RUNS_MAX],
        }
    }

    /// Describes the runs, whose pieces lie in `buffers`; header i is that of run i.
    pub(super) fn fill(
        &mut self,
        runs: &Runs,
        buffers: &[Filled],
        pool: &Pool,
        ipv6: impl Fn(SocketId) -> bool,
    ) -> &mut [libc::mmsghdr] {
        let mut iovecs = self.iovecs.as_mut_slice();
        let parts = self.names.iter_mut().zip(&mut self.controls).zip(&mut self.headers);
        for (run, ((name, control), header)) in runs.runs().iter().zip(parts) {
            let mut count = 0;
            for (piece, iovec) in runs.pieces(run).zip(iovecs.iter_mut()) {
                let bytes = &pool.bytes(&buffers[usize::from(piece.buffer)])[piece.range()];
                iovec.iov_base = bytes.as_ptr().cast_mut().cast();
                iovec.iov_len = bytes.len();
                #[cfg(test)]
                super::traced::note_sent(iovec);
                count += 1;
            }
            let (own, rest) = iovecs.split_at_mut(count);
            iovecs = rest;
            let message = &mut header.msg_hdr;
            message.msg_namelen = emit_address(run.to, ipv6(run.socket), name);
            message.msg_name = name.as_mut_ptr().cast();
            message.msg_iov = own.as_mut_ptr();
            message.msg_iovlen = count;
            set_segment(message, run, control);
        }
        &mut self.headers[..runs.len()]
    }

    /// The header of run `run` as last filled.
    pub(super) fn header(&self, run: usize) -> &libc::msghdr {
        &self.headers[run].msg_hdr
    }
}

/// Only where there is something to cut: with the option even a single datagram that does not fit into
/// the MTU is refused.
fn set_segment(message: &mut libc::msghdr, run: &Run, control: &mut SegmentControl) {
    if run.segments < 2 {
        message.msg_control = std::ptr::null_mut();
        message.msg_controllen = 0;
        return;
    }
    emit_segment(run.segment, control);
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = SEGMENT_CONTROL_BYTES;
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
            assert_eq!(parse_control(bytes), Control::default());
        }
        assert_eq!(parse_control(&[0; CONTROL_BYTES]), Control::default());
    }

    fn control(messages: &[(i32, i32, &[u8])]) -> Vec<u8> {
        let mut control = Vec::new();
        for (level, kind, data) in messages {
            control.extend_from_slice(&(16 + data.len()).to_ne_bytes());
            control.extend_from_slice(&level.to_ne_bytes());
            control.extend_from_slice(&kind.to_ne_bytes());
            control.extend_from_slice(data);
            control.resize(control.len().next_multiple_of(8), 0);
        }
        control
    }

    #[test]
    fn all_control_data_together_fit_and_are_found() {
        let time = [2_000_000_000_i64.to_ne_bytes(), 5_i64.to_ne_bytes()].concat();
        let control = control(&[
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &time),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7u32.to_ne_bytes()),
            (libc::SOL_UDP, libc::UDP_GRO, &200i32.to_ne_bytes()),
        ]);
        assert_eq!(control.len(), CONTROL_BYTES);
        let received_ns = Some(2_000_000_000_000_000_005);
        let told = Control { overflow: Some(7), segment: Some(200), received_ns };
        assert_eq!(parse_control(&control), told);
    }

    #[test]
    fn a_segment_that_is_none_is_not_told() {
        for bytes in [0i32, -1, 65_536] {
            let control = control(&[(libc::SOL_UDP, libc::UDP_GRO, &bytes.to_ne_bytes())]);
            assert_eq!(parse_control(&control).segment, None);
        }
    }

    #[test]
    fn a_time_that_is_none_is_not_told() {
        let at = |seconds: i64, nanos: i64| [seconds.to_ne_bytes(), nanos.to_ne_bytes()].concat();
        for data in [&at(-1, 0), &at(i64::MAX, 0), &at(0, -1), &[1; 12][..]] {
            let control = control(&[(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, data)]);
            assert_eq!(parse_control(&control), Control::default(), "{data:?}");
        }
    }

    #[test]
    fn the_segment_asked_for_is_a_control_message_the_kernel_can_walk() {
        let mut asked = SegmentControl { bytes: [0; SEGMENT_CONTROL_BYTES] };
        emit_segment(1_316, &mut asked);
        let data = 1_316u16.to_ne_bytes();
        assert_eq!(asked.bytes.to_vec(), control(&[(libc::SOL_UDP, libc::UDP_SEGMENT, &data)]));
        // SAFETY: no pointers are passed.
        assert_eq!(SEGMENT_CONTROL_BYTES, unsafe { libc::CMSG_SPACE(2) } as usize);
    }
}

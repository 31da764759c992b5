//! For tests of this crate: the addresses at which the kernel left what it received, and from which it
//! was told to send, on this thread. Not part of any program.

use std::cell::RefCell;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;

/// Bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: usize,
    pub(crate) bytes: usize,
}

thread_local! {
    static RECEIVED: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
    static SENT: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn clear() {
    RECEIVED.with_borrow_mut(Vec::clear);
    SENT.with_borrow_mut(Vec::clear);
}

/// In order, one for each receive.
pub(crate) fn received() -> Vec<Place> {
    RECEIVED.with_borrow(Clone::clone)
}

/// In order, one for each vector of each send.
pub(crate) fn sent() -> Vec<Place> {
    SENT.with_borrow(Clone::clone)
}

pub(super) fn note_received(address: *const u8, bytes: usize) {
    RECEIVED.with_borrow_mut(|places| places.push(Place { address: address as usize, bytes }));
}

pub(super) fn note_sent(vector: &libc::iovec) {
    let place = Place { address: vector.iov_base as usize, bytes: vector.iov_len };
    SENT.with_borrow_mut(|places| places.push(place));
}

/// What is sent from now on is cut into datagrams of `bytes`.
pub(crate) fn cut(socket: &UdpSocket, bytes: usize) {
    let bytes = bytes.try_into().expect("a datagram is small");
    super::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, bytes)
        .expect("Linux 4.18 has it");
}

//! Options of sockets that the standard library leaves out.

use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

pub(crate) fn set_option(socket: &UdpSocket, level: i32, name: i32, value: i32) {
    let bytes = libc::socklen_t::try_from(size_of::<i32>()).expect("four");
    // SAFETY: the pointer is to an int that lives through the call, and `bytes` is its size.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), bytes)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// What is sent from now on is cut into datagrams of `bytes`; 0: not cut.
pub(crate) fn cut(socket: &UdpSocket, bytes: usize) {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, bytes.try_into().expect("a datagram"));
}

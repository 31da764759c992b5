//! A TURN client as small as coturn needs it to relay for the generator: an allocation, and a channel to
//! the sink in it (RFC 8656, sections 7 and 12). Afterwards the generator takes over the port: frames of a
//! channel are the payload behind four bytes, `prefix`, and leave the relay without them.
//!
//! It speaks to a server without authentication, once, over UDP; nothing is refreshed, because a trial is
//! shorter than what an allocation (ten minutes) and a channel (ten minutes) live.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::failure::{Failure, Outcome};

const COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
/// Of the class in a message type: a success.
const SUCCESS: u16 = 0x0100;
const CHANNEL_NUMBER: u16 = 0x000c;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const UDP: u8 = 17;
/// The first of those that clients may use.
const CHANNEL: u16 = 0x4001;
const TRIES: u32 = 5;
const PATIENCE: Duration = Duration::from_millis(500);

/// In front of every payload of `size` bytes, in hexadecimal.
pub(crate) fn prefix(size: u32) -> String {
    format!("{CHANNEL:04x}{size:04x}")
}

/// Makes the allocation and its channel for a client at `from`.
pub(crate) fn bind(from: SocketAddr, server: SocketAddr, peer: SocketAddr) -> Outcome<()> {
    let socket = UdpSocket::bind(from).map_err(Failure::of(from))?;
    socket.connect(server).map_err(Failure::of(server))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(Failure::of(server))?;
    let mut allocate = attribute(REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]);
    if peer.is_ipv6() {
        allocate.extend(attribute(REQUESTED_ADDRESS_FAMILY, &[family(peer.ip()), 0, 0, 0]));
    }
    ask(&socket, ALLOCATE, &allocate).map_err(Failure::of("TURN allocation"))?;
    let [high, low] = CHANNEL.to_be_bytes();
    let mut channel = attribute(CHANNEL_NUMBER, &[high, low, 0, 0]);
    channel.extend(attribute(XOR_PEER_ADDRESS, &xor_address(peer, CHANNEL_BIND)));
    ask(&socket, CHANNEL_BIND, &channel).map_err(Failure::of("TURN channel"))
}

/// Asks until it is answered.
fn ask(socket: &UdpSocket, kind: u16, attributes: &[u8]) -> io::Result<()> {
    let request = message(kind, attributes);
    let mut answer = [0; 1_500];
    for _ in 0..TRIES {
        socket.send(&request)?;
        let Ok(length) = socket.recv(&mut answer) else { continue };
        let answer = &answer[..length];
        if answer.len() < 20 || answer[4..20] != request[4..20] {
            continue;
        }
        let answered = u16::from_be_bytes([answer[0], answer[1]]);
        if answered == kind | SUCCESS {
            return Ok(());
        }
        return Err(io::Error::other(format!("refused with a message of type {answered:#06x}")));
    }
    Err(io::Error::other("no answer"))
}

/// Length, cookie and a transaction that is the type of the request: one of each is under way at most.
fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap_or(u16::MAX);
    let head = [&kind.to_be_bytes()[..], &length.to_be_bytes(), &COOKIE, &transaction(kind)];
    [&head.concat(), attributes].concat()
}

fn transaction(kind: u16) -> [u8; 12] {
    let mut transaction = *b"spanway-perf";
    transaction[10..].copy_from_slice(&kind.to_be_bytes());
    transaction
}

/// All values here are multiples of four bytes: there is no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

/// Port and address, mixed with the cookie and the transaction of the request that carries them.
fn xor_address(address: SocketAddr, request: u16) -> Vec<u8> {
    let key = [&COOKIE[..], &transaction(request)].concat();
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let port = address.port().to_be_bytes();
    let mixed = |bytes: &[u8]| bytes.iter().zip(&key).map(|(a, b)| a ^ b).collect::<Vec<u8>>();
    [&[0, family(address.ip())], &mixed(&port)[..], &mixed(&bytes)].concat()
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of the sample response in RFC 5769, section 2.2: the cookie is all that IPv4 needs.
    #[test]
    fn an_address_is_mixed_as_the_rfc_does() {
        let address = xor_address("192.0.2.1:32853".parse().unwrap(), CHANNEL_BIND);
        assert_eq!(address, [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let again = xor_address("[2001:2::2]:6000".parse().unwrap(), CHANNEL_BIND);
        assert_eq!(again.len(), 20);
    }

    #[test]
    fn a_request_says_its_length_and_its_cookie() {
        let request = message(ALLOCATE, &attribute(REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]));
        assert_eq!(request[..8], [0, 3, 0, 8, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(request[20..], [0, 0x19, 0, 4, 17, 0, 0, 0]);
        assert_eq!(prefix(200), "400100c8");
    }

    #[test]
    fn a_server_that_refuses_is_told_from_one_that_is_silent() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut request = [0; 1_500];
            let (length, client) = server.recv_from(&mut request).unwrap();
            request[..2].copy_from_slice(&0x0113_u16.to_be_bytes());
            server.send_to(&request[..length], client).unwrap();
        });
        let refused = bind("127.0.0.1:0".parse().unwrap(), at, at).unwrap_err().to_string();
        assert!(refused.contains("0x0113"), "{refused}");
        answering.join().unwrap();
    }
}

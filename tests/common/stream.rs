//! A stream of numbered datagrams at a steady pace from one thread, and another thread that takes
//! down what of it arrives: who lost what, and when, can be told afterwards.

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 200;

/// Sends until it is told to stop.
#[derive(Debug)]
pub(crate) struct Pacer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Pacer {
    /// Datagrams marked `mark` and numbered from 0, `per_second` of them.
    pub(crate) fn start(to: SocketAddr, mark: u8, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            let (start, interval) = (Instant::now(), Duration::from_secs(1) / per_second);
            let mut number = 0_u64;
            while !told.load(Ordering::Relaxed) {
                let due = interval * u32::try_from(number).expect("a short test");
                thread::sleep(due.saturating_sub(start.elapsed()));
                socket.send_to(&datagram(mark, number), to).expect("loopback takes it");
                number += 1;
            }
            number
        });
        Self { stop, thread }
    }

    /// How many were sent.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the pacer does not panic")
    }
}

/// A local program that takes what a service delivers.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u8, u64)>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        // A thread of a busy machine may be late; root gets what it asks for, others what they may.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time above zero");
        let address = socket.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut got, mut bytes) = (Vec::new(), [0; 2_048]);
            loop {
                match socket.recv(&mut bytes) {
                    Ok(length) => got.push(content(&bytes[..length])),
                    Err(_) if told.load(Ordering::Relaxed) => return got,
                    Err(_) => {}
                }
            }
        });
        Self { address, stop, thread }
    }

    /// Mark and number of everything that came, in order of arrival, once nothing comes any more.
    pub(crate) fn stop(self) -> Vec<(u8, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every datagram was whole")
    }
}

fn datagram(mark: u8, number: u64) -> [u8; PAYLOAD_BYTES] {
    let mut bytes = [mark; PAYLOAD_BYTES];
    bytes[1..9].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn content(bytes: &[u8]) -> (u8, u64) {
    assert_eq!(bytes.len(), PAYLOAD_BYTES, "a datagram of another length");
    let number = bytes[1..9].try_into().expect("eight bytes");
    assert!(bytes[9..].iter().all(|&byte| byte == bytes[0]), "a changed datagram");
    (bytes[0], u64::from_be_bytes(number))
}

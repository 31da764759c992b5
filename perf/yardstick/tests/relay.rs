//! The yardstick in all its modes on the loopback: what goes in comes out, byte for byte and in order.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command};
use std::time::Duration;

const MODES: &[&[&str]] =
    &[&[], &["--no-gro"], &["--no-merge"], &["--no-gro", "--no-merge"], &["--plain"], &["--one"]];

struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_mode_relays_all_datagrams_unchanged_and_in_order() {
    for mode in MODES {
        let sink = UdpSocket::bind("127.0.0.1:0").expect("sockets and programs work here");
        sink.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("sockets and programs work here");
        let listen = free_address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spanway-yardstick"));
        command.args(["--listen", &listen.to_string()]);
        command
            .args(["--to", &sink.local_addr().expect("sockets and programs work here").to_string()])
            .args(*mode);
        let _relay = Relay(command.spawn().expect("sockets and programs work here"));
        let source = UdpSocket::bind("127.0.0.1:0").expect("sockets and programs work here");
        wait_for_relay(&source, listen, &sink);
        let sent: Vec<Vec<u8>> = (0_u8..200).map(payload).collect();
        for some in sent.chunks(50) {
            for payload in some {
                source.send_to(payload, listen).expect("sockets and programs work here");
            }
            for payload in some {
                let mut buffer = vec![0; 65_536];
                let got = sink.recv(&mut buffer).expect("sockets and programs work here");
                assert_eq!(&buffer[..got], payload, "mode {mode:?}");
            }
        }
    }
}

/// Equal lengths in a row, shorter ones, a large one, and an empty one now and then.
fn payload(index: u8) -> Vec<u8> {
    let length = match index % 25 {
        0 => 8_900,
        1..=9 => 200,
        10 => 0,
        11 => 199,
        _ => 64,
    };
    vec![index; length]
}

fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0")
        .expect("sockets and programs work here")
        .local_addr()
        .expect("a bound socket has an address")
}

/// Probes until one comes back, then takes away those that follow it.
fn wait_for_relay(source: &UdpSocket, listen: SocketAddr, sink: &UdpSocket) {
    let mut buffer = [0; 64];
    sink.set_read_timeout(Some(Duration::from_millis(20))).expect("sockets and programs work here");
    let answered = (0..250).any(|_| {
        // Refused until it listens.
        let _ = source.send_to(b"probe", listen);
        sink.recv(&mut buffer).is_ok()
    });
    assert!(answered, "the relay relays nothing");
    while sink.recv(&mut buffer).is_ok() {}
    sink.set_read_timeout(Some(Duration::from_secs(5))).expect("sockets and programs work here");
}

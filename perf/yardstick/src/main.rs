//! The yardstick: the least that a program can do to relay UDP at full speed, and so the bar for the
//! engine. One thread receives up to 64 messages with one `recvmmsg` (UDP_GRO on, so each may hold a
//! train of datagrams), merges what did not coalesce, and sends runs of equal datagrams with one
//! `sendmmsg` (UDP_SEGMENT) to one fixed destination.
//!
//! It assumes one way only and a destination that does not change. It looks at no byte of a payload,
//! has no return path, no table, no policing, no statistics and no pinning of its own (the harness
//! runs it below `taskset`): all that is what the engine is allowed to cost.

mod net;
mod runs;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

use net::{Inbox, Outbox};
use runs::{Policy, Runs};

#[derive(Parser)]
#[command(name = "spanway-yardstick", about = "A bare UDP relay loop to compare relays with")]
struct Arguments {
    /// Receive here.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Send everything there.
    #[arg(long, value_name = "ADDR")]
    to: SocketAddr,
    /// Receive datagrams one by one: without UDP_GRO.
    #[arg(long)]
    no_gro: bool,
    /// Send each received message by itself: no merging of what did not coalesce.
    #[arg(long)]
    no_merge: bool,
    /// The plain loop: recvmmsg and sendmmsg of 64 datagrams, without UDP_GRO and UDP_SEGMENT.
    #[arg(long, conflicts_with_all = ["no_gro", "no_merge", "one"])]
    plain: bool,
    /// The simplest loop: poll, then one recv and one send for each datagram.
    #[arg(long, conflicts_with_all = ["no_gro", "no_merge"])]
    one: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match relay(&arguments) {
        Ok(never) => match never {},
        Err(error) => {
            let text = format!("{} -> {}: {error}\n", arguments.listen, arguments.to);
            let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

enum Never {}

fn relay(arguments: &Arguments) -> io::Result<Never> {
    let gro = !(arguments.plain || arguments.one || arguments.no_gro);
    let receiver = net::receiver(arguments.listen, gro)?;
    let sender = net::sender(arguments.listen, arguments.to)?;
    if arguments.one {
        return one_by_one(&receiver, &sender);
    }
    let policy = if arguments.plain || (arguments.no_merge && arguments.no_gro) {
        Policy::Single
    } else if arguments.no_merge {
        Policy::AsReceived
    } else {
        Policy::Merge
    };
    let (mut inbox, mut outbox) = (Inbox::new(receiver), Outbox::new(sender));
    let mut runs = Runs::new(policy);
    loop {
        let messages = inbox.receive()?;
        runs.clear();
        for index in 0..messages {
            let (len, segment) = inbox.shape(index);
            runs.push(index, len, segment);
        }
        outbox.send(&runs, &inbox)?;
    }
}

fn one_by_one(receiver: &std::net::UdpSocket, sender: &std::net::UdpSocket) -> io::Result<Never> {
    let mut buffer = vec![0; net::BUFFER_BYTES];
    receiver.set_nonblocking(true)?;
    loop {
        net::wait(receiver)?;
        loop {
            match receiver.recv(&mut buffer) {
                Ok(len) => net::send_one(sender, &buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

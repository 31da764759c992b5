//! What a host that runs Spanway as a service relies on: what the daemon tells its service manager, and
//! the files of `tools/package/`.
//!
//! The manager is a socket of the test. `cargo xtask package --check` unpacks the Debian package and runs
//! what is in it.

mod common;

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use common::overlay::{Overlay, Plan};
use common::program::{now, pass, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// Stands where systemd would: hears what one daemon says.
struct Manager {
    socket: UnixDatagram,
    heard: String,
}

impl Manager {
    /// Listens at a name without a file, as systemd in a container does.
    fn start(name: &str) -> (Self, String) {
        let name = format!("spanway-test-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&address).expect("nobody else has this name");
        socket.set_nonblocking(true).expect("an option");
        (Self { socket, heard: String::new() }, format!("@{name}"))
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            self.heard.push_str(std::str::from_utf8(&bytes[..length]).expect("text"));
        }
    }

    /// Waits for a line that begins so, and forgets it and all before it.
    fn hears(&mut self, begin: &str) -> String {
        wait_for(&format!("{begin:?} for the service manager"), SOON, || {
            self.listen();
            let lines: Vec<&str> = self.heard.split_inclusive('\n').collect();
            let at = lines.iter().position(|line| line.starts_with(begin))?;
            let (found, rest) = (lines[at].trim_end().to_owned(), lines[at + 1..].concat());
            self.heard = rest;
            Some(found)
        })
    }
}

/// One daemon of the overlay, started again as a service of this manager.
fn served(overlay: &mut Overlay, peer: &str, variables: &[(&str, &str)]) {
    overlay.kill(peer);
    let mut command = Command::new(common::overlay::SPANWAY);
    command.envs(variables.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))));
    overlay.run_command(peer, command);
}

#[test]
fn a_service_says_when_it_is_ready_reloads_and_stops_and_what_its_state_is() {
    let mut overlay = Plan::new(&["a", "b"]).link("a", "b", "10 Mbit/s").on_loopback();
    let (mut manager, name) = Manager::start("states");
    served(&mut overlay, "a", &[("NOTIFY_SOCKET", &name)]);
    manager.hears("READY=1");
    // Whoever waits for READY can ask at once.
    overlay.peer("a").ask(&["status"]);
    manager.hears("STATUS=1 of 1 links up, 2 peers, 0 channels");

    overlay.signal("a", "-HUP");
    manager.hears("RELOADING=1");
    let at = manager.hears("MONOTONIC_USEC=");
    assert!(at.split_once('=').expect("it is there").1.parse::<u64>().is_ok_and(|us| us > 0));
    manager.hears("READY=1");

    overlay.terminate("a");
    manager.hears("STOPPING=1");
    manager.hears("EXTEND_TIMEOUT_USEC=14000000");
    overlay.ended("a");
    manager.listen();
    assert!(!manager.heard.contains("WATCHDOG"), "nobody asked for signs of life");
}

#[test]
fn a_daemon_that_hangs_gives_its_service_manager_no_sign_of_life() {
    let mut overlay = Plan::new(&["a"]).on_loopback();
    let (mut manager, name) = Manager::start("watchdog");
    let bound = Duration::from_millis(400);
    let micros = bound.as_micros().to_string();
    served(&mut overlay, "a", &[("NOTIFY_SOCKET", &name), ("WATCHDOG_USEC", &micros)]);
    manager.hears("READY=1");
    let start = now();
    (0..10).for_each(|_| drop(manager.hears("WATCHDOG=1")));
    // Twice within the bound, and not all the time.
    let took = start.elapsed();
    assert!(took >= bound * 3, "ten signs of life within {took:?}");

    overlay.freeze("a");
    pass(bound);
    manager.listen();
    manager.heard.clear();
    pass(bound * 3);
    manager.listen();
    assert_eq!(manager.heard, "", "from a daemon that hangs");
    overlay.thaw("a");
    manager.hears("WATCHDOG=1");

    // The watchdog of somebody else whose environment was inherited.
    let (mut manager, name) = Manager::start("other");
    let others = [("NOTIFY_SOCKET", &*name), ("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "1")];
    served(&mut overlay, "a", &others);
    manager.hears("STATUS=");
    pass(bound * 2);
    manager.listen();
    assert!(!manager.heard.contains("WATCHDOG"), "{}", manager.heard);
}

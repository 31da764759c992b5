//! Network namespaces as values: made by `ip`, named by process and count, gone when dropped, also
//! when a test panics. Needs root.

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::program::output;

/// Set by CI: a skipped test fails.
const REQUIRED: &str = "SPANWAY_REQUIRE_NETNS";

static COUNT: AtomicU32 = AtomicU32::new(0);
static SKIPPED: Once = Once::new();

/// Whether namespaces can be made here. Says so loudly, once, if not; panics if they are required.
pub(crate) fn available() -> bool {
    available_with(&["ip", "ss", "ffmpeg", "srt-live-transmit"])
}

/// The same with these programs in place of the usual ones.
pub(crate) fn available_with(programs: &[&str]) -> bool {
    let probe = Command::new("unshare").args(["--net", "true"]).output();
    let missing = if probe.is_ok_and(|out| out.status.success()) {
        let lacks = |program: &&str| {
            let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
            !found.is_ok_and(|out| out.status.success())
        };
        programs.iter().find(|program| lacks(program)).map(|program| format!("no `{program}`"))
    } else {
        Some("this user may not make network namespaces (run as root)".to_owned())
    };
    let Some(missing) = missing else { return true };
    assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, but: {missing}");
    SKIPPED.call_once(|| {
        // Past the test runner, which would keep what a passing test prints.
        let text = format!("\n##### NETWORK NAMESPACE TESTS SKIPPED: {missing} #####\n\n");
        std::io::stderr().write_all(text.as_bytes()).expect("standard error is open");
    });
    false
}

/// A host of a test: its own interfaces, addresses and ports.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    interfaces: AtomicU32,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("spanway-{}-{count}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self { name, interfaces: AtomicU32::new(0) };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `program` inside the namespace; its process id is the child's.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    fn next_interface(&self) -> String {
        format!("wire{}", self.interfaces.fetch_add(1, Ordering::Relaxed))
    }

    /// Every datagram is a packet of its own on the wires that are there: one who watches sees no
    /// super-buffers, which a peer that was late sends.
    pub(crate) fn no_super_buffers(&self) {
        for number in 0..self.interfaces.load(Ordering::Relaxed) {
            ip(&["-n", &self.name, "link", "set", &format!("wire{number}"), "gso_max_segs", "1"]);
        }
    }

    fn set_up(&self, interface: &str, address: &str) {
        let mut add = vec!["-n", &self.name, "address", "add", address, "dev", interface];
        if address.contains(':') {
            // Without duplicate detection the address can be used at once.
            add.push("nodad");
        }
        ip(&add);
        ip(&["-n", &self.name, "link", "set", interface, "up"]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its interfaces go with it, and with them their other ends.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// A wire between two hosts, with an address (`ADDRESS/BITS`) at either end. Its two interfaces.
pub(crate) fn wire(ends: [(&Namespace, &str); 2]) -> [String; 2] {
    let [(one, one_address), (other, other_address)] = ends;
    let (near, far) = (one.next_interface(), other.next_interface());
    ip(&[
        "link",
        "add",
        &near,
        "netns",
        &one.name,
        "type",
        "veth",
        "peer",
        "name",
        &far,
        "netns",
        &other.name,
    ]);
    one.set_up(&near, one_address);
    other.set_up(&far, other_address);
    [near, far]
}

/// A socket in a namespace; it connects to `to`, if there is one.
pub(crate) fn socket(namespace: &str, at: SocketAddr, to: Option<SocketAddr>) -> UdpSocket {
    let place = namespace.to_owned();
    inside(namespace, move || {
        let socket = UdpSocket::bind(at).unwrap_or_else(|e| panic!("{at} in {place}: {e}"));
        if let Some(to) = to {
            socket.connect(to).expect("an address of this host");
        }
        socket.set_nonblocking(true).expect("a socket");
        socket
    })
}

/// What is made there stays there: a thread enters the namespace for it.
pub(crate) fn inside<T: Send + 'static>(
    namespace: &str,
    make: impl FnOnce() -> T + Send + 'static,
) -> T {
    let path = format!("/run/netns/{namespace}");
    let made = thread::spawn(move || {
        let file = File::open(&path).expect("the namespace has a name");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may");
        make()
    });
    made.join().expect("something in a namespace")
}

fn ip(arguments: &[&str]) {
    output(Command::new("ip").args(arguments));
}

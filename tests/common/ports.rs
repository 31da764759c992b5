//! Ports on the loopback for peers that tests start.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;

use spanway::limits::PORTS_PER_PEER;

/// A base below the ephemeral ports where every peer finds its TCP and first UDP port free. Other
/// test programs start from elsewhere: the process id decides.
pub(crate) fn free_ports(peers: usize) -> u16 {
    let span = PORTS_PER_PEER * u16::try_from(peers).expect("few peers");
    let offset = u16::try_from(std::process::id() % 97).expect("small");
    let candidates = (0..90_u16).map(|n| 10_000 + (offset + n * 7) % 97 * 224);
    let free = |&base: &u16| {
        (0..span).step_by(usize::from(PORTS_PER_PEER)).all(|peer| {
            let address = ("127.0.0.1", base + peer);
            TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
        })
    };
    candidates.clone().find(|base| claim(*base) && free(base)).expect("free ports on loopback")
}

/// Whether no other overlay of this test program has taken this base.
fn claim(base: u16) -> bool {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    TAKEN.lock().expect("nobody panics while holding it").insert(base)
}

//! A full overlay around the relay: a generator and a sink that are its two neighbours, and channels
//! between them. Files only; what is started with them is the business of `load` and `candidates`.
//!
//! ```text
//!   a (generator) ----- r (`spanway run`) ----- b (sink, service `sink`)
//! ```
//! The capacity of the links and the promise of every channel are far above any rate, so that policing
//! counts every frame and drops none.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use spanway::daemon::identity::Identity;
use spanway::wire::frame::OVERHEAD_BYTES;

use super::failure::{Failure, Outcome};
use super::net::Network;

/// What every frame carries besides its payload: its header, and the seal of its ends.
pub(crate) const FRAME_BYTES: u32 = 64;
const _: () = assert!(FRAME_BYTES as usize == OVERHEAD_BYTES, "as the frame says");
const CAPACITY: &str = "1000 Gbit/s";
/// Of one channel, each way: the way back only carries what control needs.
pub(crate) const BANDWIDTH: &str = "5Gbit/s";
pub(crate) const SERVICE: &str = "b/sink";

/// Configuration files of three peers, with keys and state beside them.
#[derive(Clone, Debug)]
pub(crate) struct Overlay {
    folder: PathBuf,
}

impl Overlay {
    pub(crate) fn generator(&self) -> PathBuf {
        self.folder.join("a.toml")
    }

    pub(crate) fn relay(&self) -> PathBuf {
        self.folder.join("r.toml")
    }

    pub(crate) fn sink(&self) -> PathBuf {
        self.folder.join("b.toml")
    }

    /// Where the files of a trial will be.
    pub(crate) fn below(folder: &Path, port: u16) -> Self {
        Self { folder: folder.join(format!("overlay-{port}")) }
    }

    /// Writes the files; every peer listens at this port, and the relay has these keys of `[engine]`.
    pub(crate) fn write(&self, network: &Network, port: u16, engine: &str) -> Outcome<()> {
        fs::create_dir_all(&self.folder).map_err(Failure::of(self.folder.display()))?;
        let (a, r, b) = (self.key("a")?, self.key("r")?, self.key("b")?);
        let any: IpAddr = match network.relay_ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let at = |ip| SocketAddr::new(ip, port);
        let near = head("a", at(network.source_ip)) + &link("r", &r, Some(at(network.relay_ip)));
        let far = head("b", at(network.sink_ip))
            + &link("r", &r, Some(at(network.relay_out_ip)))
            + "\n[service.sink]\n";
        let middle = head("r", at(any))
            + &link("a", &a, None)
            + &link("b", &b, None)
            + &format!("\n[engine]\n{engine}");
        for (file, text) in [(self.generator(), near), (self.relay(), middle), (self.sink(), far)] {
            fs::write(&file, text).map_err(Failure::of(file.display()))?;
        }
        Ok(())
    }

    fn key(&self, name: &str) -> Outcome<String> {
        let file = self.folder.join(format!("{name}.key"));
        let identity = Identity::create(&file).map_err(Failure::of(file.display()))?;
        Ok(identity.public_key().to_string())
    }
}

fn head(name: &str, listen: SocketAddr) -> String {
    format!("name = \"{name}\"\nlisten = \"{listen}\"\n")
}

fn link(peer: &str, key: &str, address: Option<SocketAddr>) -> String {
    let address = address.map(|address| format!("address = \"{address}\"\n")).unwrap_or_default();
    format!("\n[[link]]\npeer = \"{peer}\"\nkey = \"{key}\"\ncapacity = \"{CAPACITY}\"\n{address}")
}

//! The configuration file of a peer: text in, a valid [`Config`] or an error with file, line, key and
//! what to do out; and the generator behind `spanway init`.
//!
//! Parse, don't validate: a `Config` in hand is one a daemon can start with. Reading files is the only
//! I/O here; no clock, no sockets.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::types::{Bandwidth, PeerName, PublicKey, ServiceName};

/// A valid configuration. Relative paths in the file are relative to the file's folder; here they are
/// joined already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    pub name: PeerName,
    /// Control TCP listens here; worker UDP ports count upwards from this port.
    pub listen: SocketAddr,
    pub state_dir: PathBuf,
    pub key_file: PathBuf,
    pub links: Vec<Link>,
    pub services: Vec<Service>,
    pub engine: EngineSection,
    pub host: HostSection,
    pub control: ControlSection,
    /// Fingerprints or keys of peers that may join without a `[[link]]`; accepted, not used yet.
    pub trust: Vec<PublicKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub peer: PeerName,
    /// Missing: only the other end can dial.
    pub address: Option<SocketAddr>,
    pub capacity: Bandwidth,
    pub key: PublicKey,
    pub mtu: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: ServiceName,
    pub kind: ServiceAddress,
    /// Who besides loopback may send into the channel's local socket.
    pub from: Option<(IpAddr, u8)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceAddress {
    /// `deliver = "IP:PORT"`
    Deliver(SocketAddr),
    /// `listen = "IP:PORT"`: a local source speaks first.
    Listen(SocketAddr),
    /// Neither: only `spanway recv` takes it.
    Receive,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EngineSection {
    /// One pinned worker each; empty = one worker, not pinned.
    pub cpus: Vec<usize>,
    pub backend: crate::engine::BackendChoice,
}

/// Budgets of the host over all its links; accepted now, enforced by admission later.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostSection {
    pub egress: Option<Bandwidth>,
    pub ingress: Option<Bandwidth>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSection {
    pub heartbeat: Duration,
    pub heartbeats_missed: u32,
}

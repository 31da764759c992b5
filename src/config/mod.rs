//! The configuration file of a peer: text in, a valid [`Config`] or an error with file, line, key and
//! what to do out; and the generator behind `spanway init`.
//!
//! Parse, don't validate: a `Config` in hand is one a daemon can start with. Reading files is the only
//! I/O here (and writing them in [`init`]); no clock, no sockets.
//!
//! Files: `document` tables and values with their places, `file` the keys and their rules, `api` those of
//! `[api]`, `allow` those of `[[allow]]`, [`trust`] those of `[trust]`, [`values`] addresses and
//! durations, `error` the one line a person gets, [`edit`] links put into a file and taken out, [`init`]
//! `spanway init`, [`schema`] the keys for other programs, [`settings`] what holds and why.

mod allow;
mod api;
mod document;
pub mod edit;
mod error;
mod file;
pub mod init;
pub mod schema;
pub mod settings;
pub mod trust;
pub mod values;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::error::{ConfigError, Position};
pub use self::trust::{TrustSection, Trusted};
use crate::limits;
use crate::proto::policy::Rule;
use crate::proto::{Budgets, LinkConfig, NodeConfig, Recovery, ServiceConfig, ServiceKind};
use crate::types::address::Reach;
use crate::types::{Bandwidth, Dscp, LinkId, PeerName, PublicKey, ServiceName};

/// A configuration with every key and its default, commented; what `spanway config print-default`
/// shows.
pub const CONFIG_TEMPLATE: &str = include_str!("template.toml");

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
    /// `[recovery] mode`
    pub recovery: Recovery,
    /// `[security] seccomp`: most system calls are forbidden to the running daemon.
    pub seccomp: bool,
    /// Missing: no web API.
    pub api: Option<ApiSection>,
    /// Peers that may dial without a `[[link]]` here.
    pub trust: TrustSection,
    /// Who may open channels that end here or cross; none: everybody.
    pub allow: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub peer: PeerName,
    /// Missing: only the other end can dial.
    pub address: Option<SocketAddr>,
    pub capacity: Bandwidth,
    pub key: PublicKey,
    pub mtu: u16,
    /// Missing: as `[engine] hop_tag` says.
    pub hop_tag: Option<bool>,
    /// It stands in no file: a trusted peer dialled.
    pub by_trust: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: ServiceName,
    pub kind: ServiceAddress,
    /// Who besides loopback may send into the channel's local socket.
    pub from: Option<(IpAddr, u8)>,
    /// What its program sends above the rate back of a channel waits for a moment before it is dropped.
    pub shape: bool,
    /// It takes channels whose payloads are not sealed.
    pub plain: bool,
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
    /// How frames and heartbeats are marked.
    pub dscp: Dscp,
    /// Never wait for more frames before passing on what has come.
    pub latency: bool,
    /// Links that say nothing of their own have hop tags.
    pub hop_tag: bool,
}

/// What the host carries over all its links together; no single link gets more than the smaller.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostSection {
    pub egress: Option<Bandwidth>,
    pub ingress: Option<Bandwidth>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSection {
    pub heartbeat: Duration,
    pub heartbeats_missed: u32,
    /// Where the control thread runs; empty = every allowed CPU without a worker, if there is one.
    pub cpus: Vec<usize>,
    /// How the connections of links are marked.
    pub dscp: Dscp,
}

/// Where programs and pages of this host find the web API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSection {
    /// REST and pages.
    pub listen: SocketAddr,
    /// What every request has to show; made at the first start.
    pub token_file: PathBuf,
    /// Path in front of all others; begins and ends with a slash.
    pub base_path: String,
    /// Names besides those of loopback that a request may call this host by, in small letters.
    pub hosts: Vec<String>,
    /// Metrics and health, without a token.
    pub internal: Option<SocketAddr>,
}

impl Default for ControlSection {
    fn default() -> Self {
        Self {
            heartbeat: limits::HEARTBEAT_INTERVAL,
            heartbeats_missed: limits::HEARTBEATS_MISSED_MAX,
            cpus: Vec::new(),
            dscp: Dscp::default(),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &Self::read(path)?)
    }

    /// The text of a file, whatever it says.
    pub fn read(path: &Path) -> Result<String, ConfigError> {
        let unreadable = |error: std::io::Error| {
            ConfigError::of_file(path, "", format!("cannot be read: {error}"))
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(limits::CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > limits::CONFIG_BYTES_MAX {
            let text = format!("is larger than {} bytes", limits::CONFIG_BYTES_MAX);
            return Err(ConfigError::of_file(path, "", text));
        }
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let valid = String::from_utf8_lossy(&error.as_bytes()[..valid]);
            ConfigError {
                position: Some(error::position(&valid, valid.len())),
                ..ConfigError::of_file(path, "", "is not UTF-8: save the file as UTF-8 text")
            }
        })
    }

    /// Checks the text of `file`; relative paths in it are joined to that file's folder.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        file::parse(file, text)
    }

    /// The CPU of each worker, in the form the engine takes; `None` is not pinned.
    pub fn engine_workers(&self) -> Vec<Option<usize>> {
        match self.engine.cpus.as_slice() {
            [] => vec![None],
            cpus => cpus.iter().copied().map(Some).collect(),
        }
    }

    /// What a node that starts is told: each link's id is its position.
    pub fn node_config(&self) -> NodeConfig {
        let ids = LinkIds::default().after(self).expect("a valid file has fewer links than ids");
        self.node_config_after(&ids)
    }

    /// The same with ids that hold over a reload; `ids` must know every link of this configuration
    /// ([`LinkIds::after`]).
    pub fn node_config_after(&self, ids: &LinkIds) -> NodeConfig {
        let link = |link: &Link| LinkConfig {
            link: ids.of(link).expect("LinkIds::after was told this configuration"),
            peer: link.peer.clone(),
            key: link.key,
            capacity: link.capacity,
            mtu: link.mtu,
            hop_tag: link.hop_tag.unwrap_or(self.engine.hop_tag),
        };
        let service = |service: &Service| ServiceConfig {
            name: service.name.clone(),
            kind: match service.kind {
                ServiceAddress::Deliver(_) => ServiceKind::Deliver,
                ServiceAddress::Listen(_) => ServiceKind::Source,
                ServiceAddress::Receive => ServiceKind::Receive,
            },
            plain: service.plain,
        };
        let workers = self.engine_workers().len();
        NodeConfig {
            name: self.name.clone(),
            links: self.links.iter().map(link).collect(),
            services: self.services.iter().map(service).collect(),
            data_port: self.listen.port(),
            workers: u8::try_from(workers).expect("at most WORKERS_MAX workers pass the parser"),
            recovery: self.recovery,
            allow: self.allow.clone(),
            budgets: Budgets { egress: self.host.egress, ingress: self.host.ingress },
        }
    }

    /// What others may make this peer send to.
    pub fn reach(&self) -> Reach {
        let first = self.listen.port();
        let workers = u16::try_from(self.engine_workers().len()).expect("at most WORKERS_MAX");
        let links = self.links.iter().filter_map(|link| link.address);
        Reach::new(self.listen, first..=first.saturating_add(workers - 1), links)
    }

    /// Whether a running peer may take `new`: all of it or nothing. What sockets, files and threads
    /// were made from at the start cannot change.
    pub fn reload(&self, new: &Self) -> Result<(), ConfigError> {
        let fixed = [
            ("name", self.name != new.name),
            ("listen", self.listen != new.listen),
            ("key_file", self.key_file != new.key_file),
            ("state_dir", self.state_dir != new.state_dir),
            ("engine.cpus", self.engine.cpus != new.engine.cpus),
            ("engine.backend", self.engine.backend != new.engine.backend),
            ("engine.dscp", self.engine.dscp != new.engine.dscp),
            ("control.cpus", self.control.cpus != new.control.cpus),
            ("control.dscp", self.control.dscp != new.control.dscp),
            ("engine.latency", self.engine.latency != new.engine.latency),
            ("security.seccomp", self.seccomp != new.seccomp),
            ("api", self.api != new.api),
        ];
        match fixed.iter().find(|(_, changed)| *changed) {
            None => Ok(()),
            Some((key, _)) => {
                let text = "cannot change while the peer runs: put the old value back, or stop \
                            the peer and start it again; nothing of the file was taken over";
                Err(ConfigError::of_file(&new.file, key, text))
            }
        }
    }
}

/// The id of every link a running peer ever had: by the neighbour's name, of those made by trust by its key,
/// because whoever dials chooses its name. It only grows, so that a link that is taken out and put back in
/// keeps its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkIds {
    ids: BTreeMap<PeerName, LinkId>,
    by_trust: BTreeMap<PublicKey, LinkId>,
}

impl LinkIds {
    /// These ids and those of the links of `config` that are new.
    pub fn after(&self, config: &Config) -> Result<Self, ConfigError> {
        let mut all = self.clone();
        for link in &config.links {
            if all.of(link).is_some() {
                continue;
            }
            let id = u16::try_from(all.ids.len() + all.by_trust.len()).map_err(|_| {
                let text =
                    "too many different neighbours since the peer was started: start it again";
                ConfigError::of_file(&config.file, "link", text)
            })?;
            match link.by_trust {
                true => all.by_trust.insert(link.key, LinkId(id)),
                false => all.ids.insert(link.peer.clone(), LinkId(id)),
            };
        }
        Ok(all)
    }

    pub fn of(&self, link: &Link) -> Option<LinkId> {
        match link.by_trust {
            true => self.by_trust.get(&link.key).copied(),
            false => self.ids.get(&link.peer).copied(),
        }
    }

    /// Of a link that stands in a file.
    pub fn id(&self, peer: &PeerName) -> Option<LinkId> {
        self.ids.get(peer).copied()
    }
}

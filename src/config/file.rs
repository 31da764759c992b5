//! From the tables of a file to a [`Config`]: every key, every default, every rule between keys.
//!
//! Pure. One function a section; the first mistake found is the answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::document::{Item, Section, Source};
use super::error::ConfigError;
use super::{Config, ControlSection, EngineSection, HostSection, Link, Service, ServiceAddress};
use super::{allow, api, trust};
use crate::engine::BackendChoice;
use crate::limits;
use crate::proto::Recovery;
use crate::types::{Bandwidth, Dscp, PeerName, PublicKey, ServiceName, address};

/// A whole file.
pub(super) fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let source = Source { file, text };
    let document = source.read()?;
    let root = Section::root(source, document.get_ref());
    root.only(&[
        "name",
        "listen",
        "state_dir",
        "key_file",
        "link",
        "service",
        "engine",
        "host",
        "control",
        "recovery",
        "security",
        "trust",
        "allow",
        "api",
    ])?;
    let name: PeerName = root
        .required("name", "name = \"peer-01\", unique in the overlay")?
        .parse("a name, as in \"peer-01\"")?;
    let listen_item = root.required("listen", "listen = \"192.0.2.1:7000\"")?;
    let listen = listen_item.address("an address, as in \"192.0.2.1:7000\"")?;
    let engine = engine(&root)?;
    let own = OwnPorts::new(&listen_item, listen, engine.cpus.len().max(1))?;
    let key_file = path(&root, "key_file", &name)?;
    let links = links(&root, &name, &own)?;
    Ok(Config {
        api: api::section(&root, &own, &name, &key_file)?,
        state_dir: path(&root, "state_dir", &name)?,
        key_file,
        trust: trust::section(&root, &name, &links)?,
        allow: allow::rules(&root)?,
        links,
        services: services(&root, &own)?,
        engine,
        host: host(&root)?,
        control: control(&root)?,
        recovery: recovery(&root)?,
        seccomp: seccomp(&root)?,
        file: file.to_owned(),
        name,
        listen,
    })
}

/// `state_dir` and `key_file`: relative to the file's folder, by default NAME.state and NAME.key in it.
fn path(root: &Section<'_>, key: &str, name: &PeerName) -> Result<PathBuf, ConfigError> {
    let file = root.file();
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let Some(item) = root.item(key) else {
        let ending = if key == "state_dir" { "state" } else { "key" };
        return Ok(folder.join(format!("{name}.{ending}")));
    };
    let text = item.text("a path")?;
    if text.is_empty() || text.contains('\0') {
        return Err(item.error(format!("{} is no path: write one in quotes", item.written())));
    }
    Ok(folder.join(text))
}

/// The ports a peer keeps for itself: control and worker 0 on the first, one more a worker.
pub(super) struct OwnPorts {
    listen: SocketAddr,
    last: u16,
}

impl OwnPorts {
    fn new(item: &Item<'_>, listen: SocketAddr, workers: usize) -> Result<Self, ConfigError> {
        if listen.ip().is_multicast() || is_broadcast(listen.ip()) {
            return Err(item.error(format!(
                "{} is no address of a host: write one of this host's, or \"0.0.0.0:PORT\" or \
                 \"[::]:PORT\" for all of them",
                item.written()
            )));
        }
        let last = u16::try_from(usize::from(listen.port()) + workers - 1);
        match last {
            Ok(last) => Ok(Self { listen, last }),
            Err(_) => Err(item.error(format!(
                "{} leaves no port for each of {workers} workers: write a port of at most {}",
                item.written(),
                usize::from(u16::MAX) + 1 - workers
            ))),
        }
    }

    /// Would a socket on `address` want one of them?
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        let (own, other) = (self.listen.ip(), address.ip());
        let same_host = own == other || own.is_unspecified() || other.is_unspecified();
        same_host && (self.listen.port()..=self.last).contains(&address.port())
    }

    /// Would a datagram or a connection to `address` come to one of them? Listening on all addresses,
    /// they are on loopback for certain; any other may be another host's.
    fn reached_by(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        (ip == self.listen.ip() || ip.is_loopback()) && self.has(address)
    }

    pub(super) fn range(&self) -> String {
        match self.listen.port() {
            first if first == self.last => format!("port {first}"),
            first => format!("ports {first} to {}", self.last),
        }
    }
}

fn links(root: &Section<'_>, own: &PeerName, ports: &OwnPorts) -> Result<Vec<Link>, ConfigError> {
    let sections = root.sections("link")?;
    if let Some(surplus) = sections.get(limits::LINKS_MAX) {
        let max = limits::LINKS_MAX;
        return Err(surplus.error(format!("is one too many: a peer has at most {max} links")));
    }
    let mut links = Vec::with_capacity(sections.len());
    let mut seen = Seen::default();
    for section in &sections {
        links.push(link(section, own, ports, &mut seen)?);
    }
    Ok(links)
}

/// In which line a peer, an address and a key were used already.
#[derive(Default)]
pub(super) struct Seen {
    peers: BTreeMap<PeerName, usize>,
    addresses: BTreeMap<SocketAddr, usize>,
    keys: BTreeMap<PublicKey, usize>,
}

impl Seen {
    pub(super) fn once<K: Ord>(
        lines: &mut BTreeMap<K, usize>,
        value: K,
        item: &Item<'_>,
        what: &str,
    ) -> Result<(), ConfigError> {
        match lines.insert(value, item.line()) {
            None => Ok(()),
            Some(line) => {
                Err(item.error(format!("{} is in line {line} already: {what}", item.written())))
            }
        }
    }
}

fn link(
    section: &Section<'_>,
    own: &PeerName,
    ports: &OwnPorts,
    seen: &mut Seen,
) -> Result<Link, ConfigError> {
    section.only(&["peer", "address", "capacity", "key", "mtu", "hop_tag"])?;
    let peer_item = section.required("peer", "peer = \"NAME\" of the neighbour")?;
    let peer: PeerName = peer_item.parse("a name, as in \"peer-02\"")?;
    if peer == *own {
        let text = format!("\"{peer}\" is this peer itself: name the neighbour");
        return Err(peer_item.error(text));
    }
    Seen::once(&mut seen.peers, peer.clone(), &peer_item, "one link to a peer is enough")?;
    let address_item = section.item("address");
    let address = address_item.as_ref().map(|item| link_address(item, ports)).transpose()?;
    if let (Some(item), Some(address)) = (&address_item, address) {
        Seen::once(&mut seen.addresses, address, item, "each neighbour has its own")?;
    }
    let capacity_item = section.required("capacity", "capacity = \"25 Mbit/s\"")?;
    let capacity = capacity(&capacity_item)?;
    let key_item = section.required("key", "key = \"64 hexadecimal digits\"")?;
    let key = key_item.parse("the neighbour's public key")?;
    Seen::once(&mut seen.keys, key, &key_item, "each neighbour has its own")?;
    let mtu = section
        .item("mtu")
        .map(|item| item.number(u64::from(limits::MTU_MIN), u64::from(u16::MAX)));
    let mtu = mtu.transpose()?.unwrap_or(limits::MTU_DEFAULT);
    let hop_tag = section.item("hop_tag").map(|item| item.flag()).transpose()?;
    Ok(Link { peer, address, capacity, key, mtu, hop_tag, by_trust: false })
}

/// What a link carries: more than its control traffic.
pub(super) fn capacity(item: &Item<'_>) -> Result<Bandwidth, ConfigError> {
    let capacity = item.rate()?;
    if capacity.usable() == Bandwidth::ZERO {
        return Err(item.error(format!(
            "{} leaves nothing for channels, because control traffic keeps {}: write more",
            item.written(),
            Bandwidth::from_bps(limits::CONTROL_SHARE_BPS_MIN)
        )));
    }
    Ok(capacity)
}

fn link_address(item: &Item<'_>, ports: &OwnPorts) -> Result<SocketAddr, ConfigError> {
    let address = item.address("an address, as in \"192.0.2.2:7000\"")?;
    if address::written(address).is_err() {
        let text = format!("{} is no address of a host: write the neighbour's", item.written());
        return Err(item.error(text));
    }
    if ports.reached_by(address) {
        let text = format!("{} is this peer's own: write the neighbour's", item.written());
        return Err(item.error(text));
    }
    Ok(address)
}

fn services(root: &Section<'_>, ports: &OwnPorts) -> Result<Vec<Service>, ConfigError> {
    let sections = root.named_sections("service")?;
    if let Some((name, _)) = sections.get(limits::SERVICES_MAX) {
        let max = limits::SERVICES_MAX;
        return Err(name.error(format!("is one too many: a peer has at most {max} services")));
    }
    let mut services = Vec::with_capacity(sections.len());
    let mut listeners: Vec<(SocketAddr, usize)> = Vec::new();
    for (name, section) in &sections {
        let service = service(name, section, ports)?;
        if let (ServiceAddress::Listen(address), Some(item)) =
            (&service.kind, section.item("listen"))
        {
            let clash = listeners.iter().find(|(other, _)| same_socket(*other, *address));
            if let Some((_, line)) = clash {
                let text =
                    format!("{} is in line {line} already: choose a free port", item.written());
                return Err(item.error(text));
            }
            listeners.push((*address, item.line()));
        }
        services.push(service);
    }
    Ok(services)
}

fn service(
    name: &Item<'_>,
    section: &Section<'_>,
    ports: &OwnPorts,
) -> Result<Service, ConfigError> {
    let service_name =
        ServiceName::new(name.last_key()).map_err(|error| name.error(error.to_string()))?;
    section.only(&["deliver", "listen", "from", "shape", "plain"])?;
    let from_item = section.item("from");
    let from = from_item.as_ref().map(Item::prefix).transpose()?;
    let example = "an address, as in \"127.0.0.1:5004\"";
    let kind = match (section.item("deliver"), section.item("listen")) {
        (Some(_), Some(listen)) => {
            return Err(listen.error(
                "has no place beside deliver: a service delivers to a program or listens for one, \
                 keep the line that is meant",
            ));
        }
        (Some(item), None) => ServiceAddress::Deliver(deliver(&item, example, ports)?),
        (None, Some(item)) => {
            ServiceAddress::Listen(service_listen(&item, example, ports, from.is_some())?)
        }
        (None, None) => ServiceAddress::Receive,
    };
    if let (ServiceAddress::Deliver(_) | ServiceAddress::Receive, Some(item)) = (&kind, from_item) {
        let text = "says who may send to listen, which this service has not: remove it";
        return Err(item.error(text));
    }
    let shape_item = section.item("shape");
    let shape = shape_item.as_ref().map(Item::flag).transpose()?.unwrap_or(false);
    let plain = section.item("plain").as_ref().map(Item::flag).transpose()?.unwrap_or(true);
    match (&kind, shape_item) {
        (ServiceAddress::Receive, Some(item)) => {
            Err(item.error("is for what a program sends, and nothing sends here: remove it"))
        }
        _ => Ok(Service { name: service_name, kind, from, shape, plain }),
    }
}

fn deliver(item: &Item<'_>, example: &str, ports: &OwnPorts) -> Result<SocketAddr, ConfigError> {
    let address = item.address(example)?;
    if address.ip().is_unspecified() || is_broadcast(address.ip()) {
        let text = format!("{} is no address to send to: write a program's", item.written());
        return Err(item.error(text));
    }
    if ports.reached_by(address) {
        return Err(item.error(own_port(item, ports)));
    }
    Ok(address)
}

fn service_listen(
    item: &Item<'_>,
    example: &str,
    ports: &OwnPorts,
    has_from: bool,
) -> Result<SocketAddr, ConfigError> {
    let address = item.address(example)?;
    if address.ip().is_multicast() || is_broadcast(address.ip()) {
        let text = format!("{} is no address of a host: write one of this host's", item.written());
        return Err(item.error(text));
    }
    if ports.has(address) {
        return Err(item.error(own_port(item, ports)));
    }
    if !address.ip().is_loopback() && !has_from {
        return Err(item.error(format!(
            "{} can be reached from other hosts: add from = \"ADDRESS/BITS\" to say which may send, \
             or write a loopback address",
            item.written()
        )));
    }
    Ok(address)
}

fn own_port(item: &Item<'_>, ports: &OwnPorts) -> String {
    let (written, range) = (item.written(), ports.range());
    format!("{written} is this peer's own ({range} of listen): choose another port")
}

fn engine(root: &Section<'_>) -> Result<EngineSection, ConfigError> {
    let Some(section) = root.section("engine")? else { return Ok(EngineSection::default()) };
    section.only(&["cpus", "backend", "dscp", "latency", "hop_tag"])?;
    let workers_max = limits::WORKERS_MAX.min(usize::from(limits::PORTS_PER_PEER));
    let workers = |item: Item<'_>| cpus(&item, workers_max, "a peer has at most", "workers");
    let cpus = section.item("cpus").map(workers).transpose()?.unwrap_or_default();
    let backend = match section.item("backend") {
        None => BackendChoice::Auto,
        Some(item) => match item.text("\"auto\", \"uring\" or \"mmsg\"")? {
            "auto" => BackendChoice::Auto,
            "uring" => BackendChoice::Uring,
            "mmsg" => BackendChoice::Mmsg,
            _ => {
                let written = item.written();
                let text = format!("{written} is unknown: write \"auto\", \"uring\" or \"mmsg\"");
                return Err(item.error(text));
            }
        },
    };
    let flag = |key| section.item(key).map(|item| item.flag()).transpose();
    let (latency, hop_tag) =
        (flag("latency")?.unwrap_or_default(), flag("hop_tag")?.unwrap_or_default());
    Ok(EngineSection { cpus, backend, dscp: dscp(&section)?, latency, hop_tag })
}

fn cpus(item: &Item<'_>, max: usize, most: &str, what: &str) -> Result<Vec<usize>, ConfigError> {
    let list = item.list()?;
    if let Some(surplus) = list.get(max) {
        let text = format!("has {} entries: {most} {max} {what}", list.len());
        return Err(surplus.error(text));
    }
    let mut cpus = Vec::with_capacity(list.len());
    for entry in &list {
        let cpu: usize = entry.number(0, limits::CPU_NUMBER_MAX)?;
        if cpus.contains(&cpu) {
            let text = format!("names CPU {cpu} twice: once is enough");
            return Err(entry.error(text));
        }
        cpus.push(cpu);
    }
    Ok(cpus)
}

/// `dscp` of a section: a name in quotes or a number.
fn dscp(section: &Section<'_>) -> Result<Dscp, ConfigError> {
    let Some(item) = section.item("dscp") else { return Ok(Dscp::default()) };
    match item.integer() {
        Some(number) => Dscp::new(number).map_err(|error| item.error(error.to_string())),
        None => item.parse("a name as in \"EF\", or a number from 0 to 63 without quotes"),
    }
}

fn host(root: &Section<'_>) -> Result<HostSection, ConfigError> {
    let Some(section) = root.section("host")? else { return Ok(HostSection::default()) };
    section.only(&["egress", "ingress"])?;
    let rate = |key| section.item(key).map(|item| item.rate()).transpose();
    Ok(HostSection { egress: rate("egress")?, ingress: rate("ingress")? })
}

fn control(root: &Section<'_>) -> Result<ControlSection, ConfigError> {
    let Some(section) = root.section("control")? else { return Ok(ControlSection::default()) };
    section.only(&["heartbeat", "heartbeats_missed", "cpus", "dscp"])?;
    let defaults = ControlSection::default();
    let (least, most) = limits::HEARTBEAT_RANGE;
    let heartbeat = section.item("heartbeat").map(|item| item.duration(least, most));
    let (least, most) = limits::HEARTBEATS_MISSED_RANGE;
    let missed = section
        .item("heartbeats_missed")
        .map(|item| item.number(u64::from(least), u64::from(most)));
    let cpus_max = usize::try_from(limits::CPU_NUMBER_MAX).unwrap_or(usize::MAX);
    let cpus = section.item("cpus").map(|item| cpus(&item, cpus_max, "a host has at most", "CPUs"));
    Ok(ControlSection {
        cpus: cpus.transpose()?.unwrap_or_default(),
        dscp: dscp(&section)?,
        heartbeat: heartbeat.transpose()?.unwrap_or(defaults.heartbeat),
        heartbeats_missed: missed.transpose()?.unwrap_or(defaults.heartbeats_missed),
    })
}

fn recovery(root: &Section<'_>) -> Result<Recovery, ConfigError> {
    let Some(section) = root.section("recovery")? else { return Ok(Recovery::default()) };
    section.only(&["mode"])?;
    let Some(item) = section.item("mode") else { return Ok(Recovery::default()) };
    match item.text("\"channels\" or \"everything\"")? {
        "channels" => Ok(Recovery::Channels),
        "everything" => Ok(Recovery::Everything),
        _ => {
            let text = "is not a mode: write \"channels\" (what crossed a failure moves) or \
                        \"everything\" (each new tree closes every path)";
            Err(item.error(format!("{} {text}", item.written())))
        }
    }
}

fn seccomp(root: &Section<'_>) -> Result<bool, ConfigError> {
    let Some(section) = root.section("security")? else { return Ok(false) };
    section.only(&["seccomp"])?;
    Ok(section.item("seccomp").map(|item| item.flag()).transpose()?.unwrap_or_default())
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}

pub(super) fn same_socket(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    same_host && one.port() == other.port()
}

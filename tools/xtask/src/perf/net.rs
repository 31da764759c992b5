//! The network of a scenario: namespaces, wires and their features; everything gone when dropped.
//!
//! ```text
//!   source                 relay                   sink
//!   198.18.1.1 ---- 198.18.1.2   198.18.2.1 ---- 198.18.2.2      (IPv6: 2001:2:0:1::, 2001:2:0:2::)
//! ```
//! On the loopback all three are one namespace. Names carry the process id: two runs at a time, or one
//! beside the tests, do not meet; what a killed run left behind is removed by the next.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use super::failure::{Failure, Outcome};
use super::plan::{Ip, Scenario, Wire};
use super::process::processes_named;

/// All namespaces of the harness begin like this, then comes the process id.
const PREFIX: &str = "spanway-perf-";
/// Features that decide whether datagrams travel and arrive one by one.
const FEATURES: [&str; 7] = [
    "generic-receive-offload",
    "generic-segmentation-offload",
    "rx-udp-gro-forwarding",
    "tcp-segmentation-offload",
    "tx-checksumming",
    "tx-gso-list",
    "tx-udp-segmentation",
];
const RECEIVE_BUFFER: &str = "/proc/sys/net/core/rmem_default";
const RECEIVE_BUFFER_BYTES: &str = "8388608";

/// Three places and the addresses between them.
#[derive(Debug)]
pub(crate) struct Network {
    /// Of the relay, where the generator sends to.
    pub(crate) relay_ip: IpAddr,
    /// Of the relay, towards the sink.
    pub(crate) relay_out_ip: IpAddr,
    pub(crate) sink_ip: IpAddr,
    /// Of the generator.
    pub(crate) source_ip: IpAddr,
    /// Threads of the kernel that receive for the relay, by process id.
    pub(crate) receivers: Vec<u32>,
    /// Of the interfaces that frames cross, which all have the same.
    pub(crate) offloads: BTreeMap<String, String>,
    source: Namespace,
    /// None on the loopback, where there is one namespace.
    relay: Option<Namespace>,
    sink: Option<Namespace>,
}

impl Network {
    /// Threaded NAPI of the relay's input runs on `relay_cpu`, where the scenario wants it.
    pub(crate) fn new(scenario: &Scenario, relay_cpu: u32) -> Outcome<Self> {
        let (ip, loopback) = (scenario.ip, scenario.wire == Wire::Loopback);
        let at = |net, host| if loopback { local(ip) } else { address(ip, net, host) };
        let mut network = Self {
            source_ip: at(1, 1),
            relay_ip: at(1, 2),
            relay_out_ip: at(2, 1),
            sink_ip: at(2, 2),
            receivers: Vec::new(),
            offloads: BTreeMap::new(),
            source: Namespace::new("source")?,
            relay: None,
            sink: None,
        };
        if loopback {
            network.offloads = features(network.source(), "lo")?;
            return Ok(network);
        }
        network.relay = Some(Namespace::new("relay")?);
        network.sink = Some(Namespace::new("sink")?);
        network.connect(scenario)?;
        if scenario.wire == Wire::NicReceiveCharged {
            network.charge_receive_work(relay_cpu)?;
        }
        Ok(network)
    }

    pub(crate) fn source(&self) -> &str {
        &self.source.0
    }

    pub(crate) fn relay(&self) -> &str {
        &self.relay.as_ref().unwrap_or(&self.source).0
    }

    pub(crate) fn sink(&self) -> &str {
        &self.sink.as_ref().unwrap_or(&self.source).0
    }

    fn connect(&mut self, scenario: &Scenario) -> Outcome<()> {
        let (source, relay, sink) = (self.source(), self.relay(), self.sink());
        let wires = [
            [(source, interface('a'), self.source_ip), (relay, interface('b'), self.relay_ip)],
            [(relay, interface('c'), self.relay_out_ip), (sink, interface('d'), self.sink_ip)],
        ];
        for [near, far] in &wires {
            run(&[
                "ip", "link", "add", &near.1, "netns", near.0, "type", "veth", "peer", "name",
                &far.1, "netns", far.0,
            ])?;
            for (namespace, interface, ip) in [near, far] {
                set_up(namespace, interface, *ip, scenario)?;
            }
        }
        let (family, all) = match scenario.ip {
            Ip::V4 => ("-4", "net.ipv4.ip_forward=1"),
            Ip::V6 => ("-6", "net.ipv6.conf.all.forwarding=1"),
        };
        // For the candidate that is no process.
        run(&["ip", "netns", "exec", relay, "sysctl", "-q", "-w", all])?;
        for (namespace, via) in [(source, self.relay_ip), (sink, self.relay_out_ip)] {
            let via = via.to_string();
            run(&["ip", family, "-n", namespace, "route", "add", "default", "via", &via])?;
        }
        self.offloads = features(relay, &interface('b'))?;
        Ok(())
    }

    /// Otherwise a veth delivers on the CPU of the sender, and what it costs to receive is not seen.
    fn charge_receive_work(&mut self, relay_cpu: u32) -> Outcome<()> {
        let input = interface('b');
        let threaded = format!("echo 1 > /sys/class/net/{input}/threaded");
        run(&["ip", "netns", "exec", self.relay(), "sh", "-c", &threaded])?;
        self.receivers = processes_named(&format!("napi/{input}"));
        if self.receivers.is_empty() {
            return Err(Failure::new("threaded NAPI of the relay's input has no thread to pin"));
        }
        for id in &self.receivers {
            run(&["taskset", "-p", "-c", &relay_cpu.to_string(), &id.to_string()])?;
        }
        Ok(())
    }
}

/// A namespace, deleted when dropped, and with it its ends of wires.
#[derive(Debug)]
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn new(role: &str) -> Outcome<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        run(&["ip", "netns", "add", &name])?;
        let namespace = Self(name);
        // Otherwise neighbours are not asked for an address before a second has passed.
        let at_once = ["net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"];
        let [default, all] = at_once;
        run(&["ip", "netns", "exec", &namespace.0, "sysctl", "-q", "-w", default, all])?;
        run(&["ip", "-n", &namespace.0, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(&["ip", "netns", "delete", &self.0]);
    }
}

/// The receive buffer of sockets that ask for none: large enough that no rival loses for that reason
/// alone. Of the whole machine, so given back when dropped.
#[derive(Debug)]
pub(crate) struct ReceiveBuffers(String);

impl ReceiveBuffers {
    pub(crate) fn enlarge() -> Outcome<Self> {
        let before = fs::read_to_string(RECEIVE_BUFFER).map_err(Failure::of(RECEIVE_BUFFER))?;
        fs::write(RECEIVE_BUFFER, RECEIVE_BUFFER_BYTES).map_err(Failure::of(RECEIVE_BUFFER))?;
        Ok(Self(before))
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        let _ = fs::write(RECEIVE_BUFFER, self.0.trim());
    }
}

/// Deletes namespaces of runs whose process is gone.
pub(crate) fn remove_leftovers() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = run(&["ip", "netns", "delete", &name]);
        }
    }
}

/// What the harness cannot do without here; a sentence if something is missing.
pub(crate) fn available() -> Outcome<()> {
    for program in ["ip", "ethtool", "taskset", "nice", "sysctl"] {
        if find_program(program).is_none() {
            return Err(Failure::new(format!(
                "no `{program}`: see perf/README.md for what to install"
            )));
        }
    }
    run(&["unshare", "--net", "true"])
        .map_err(|_| Failure::new("this user may not make network namespaces: run as root"))
}

/// Where a program is, if it is installed. The superuser's folders count even where PATH lacks them.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs a command that has to succeed.
pub(crate) fn run(words: &[&str]) -> Outcome<()> {
    output(words).map(drop)
}

/// The standard output of a command that has to succeed.
pub(crate) fn output(words: &[&str]) -> Outcome<String> {
    let line = words.join(" ");
    let Some((program, arguments)) = words.split_first() else { return Ok(String::new()) };
    let result = Command::new(program).args(arguments).output().map_err(Failure::of(&line))?;
    if result.status.success() {
        return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&result.stderr);
    Err(Failure::new(format!("`{line}` failed: {}", said.trim())))
}

fn set_up(namespace: &str, interface: &str, ip: IpAddr, scenario: &Scenario) -> Outcome<()> {
    let with_bits = format!("{ip}/{}", if ip.is_ipv4() { 24 } else { 64 });
    let mut add = vec!["ip", "-n", namespace, "address", "add", &with_bits, "dev", interface];
    if ip.is_ipv6() {
        // Without duplicate detection the address can be used at once.
        add.push("nodad");
    }
    run(&add)?;
    let mtu = scenario.mtu.to_string();
    run(&["ip", "-n", namespace, "link", "set", interface, "mtu", &mtu])?;
    if matches!(scenario.wire, Wire::Nic | Wire::NicReceiveCharged) {
        // GRO on veth touches local UDP only if its other end cannot segment TCP.
        run(&[
            "ip",
            "netns",
            "exec",
            namespace,
            "ethtool",
            "-K",
            interface,
            "gro",
            "on",
            "tso",
            "off",
            "tx-udp-segmentation",
            "off",
        ])?;
    }
    run(&["ip", "-n", namespace, "link", "set", interface, "up"])
}

fn features(namespace: &str, interface: &str) -> Outcome<BTreeMap<String, String>> {
    let text = output(&["ip", "netns", "exec", namespace, "ethtool", "-k", interface])?;
    let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
    let wanted = pairs.filter(|(feature, _)| FEATURES.contains(feature));
    Ok(wanted.map(|(feature, state)| (feature.to_owned(), state.to_owned())).collect())
}

/// At most 15 characters, unique on the machine.
fn interface(end: char) -> String {
    format!("sw{:x}{end}", std::process::id())
}

/// Of the ranges for benchmarks: 198.18.0.0/15 (RFC 2544), 2001:2::/48 (RFC 5180).
fn address(ip: Ip, net: u8, host: u8) -> IpAddr {
    match ip {
        Ip::V4 => Ipv4Addr::new(198, 18, net, host).into(),
        Ip::V6 => Ipv6Addr::new(0x2001, 2, 0, net.into(), 0, 0, 0, host.into()).into(),
    }
}

fn local(ip: Ip) -> IpAddr {
    match ip {
        Ip::V4 => Ipv4Addr::LOCALHOST.into(),
        Ip::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

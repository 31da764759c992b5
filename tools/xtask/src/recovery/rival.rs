//! The rivals: how each is set up on the four hosts of the ring, as its manual says.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::plan::address;
use super::rivals::write;
use super::strike::Event;
use super::world::interface;
use crate::perf::failure::{Failure, Outcome};
use crate::perf::net::{Namespace, find_program, output, run};

pub(crate) const NODES: usize = 4;
const NAMES: [&str; NODES] = ["a", "b", "c", "d"];
const FRR: &str = "/usr/lib/frr";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    Babeld,
    /// Hellos each 100 ms in place of 4 s.
    BabeldTuned,
    /// OSPF with BFD, 50 ms x 3.
    Frr,
    Tinc,
    Yggdrasil,
    Nebula,
}

impl Rival {
    pub(crate) const ALL: [Self; 6] =
        [Self::Frr, Self::BabeldTuned, Self::Babeld, Self::Tinc, Self::Yggdrasil, Self::Nebula];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Babeld => "babeld",
            Self::BabeldTuned => "babeld-100ms",
            Self::Frr => "frr-ospf-bfd",
            Self::Tinc => "tinc",
            Self::Yggdrasil => "yggdrasil",
            Self::Nebula => "nebula",
        }
    }

    /// What it carries streams over is its own, not the kernel's routes.
    pub(crate) fn is_overlay(self) -> bool {
        matches!(self, Self::Tinc | Self::Yggdrasil | Self::Nebula)
    }

    pub(crate) fn event(self) -> Event {
        if self.is_overlay() { Event::Kill } else { Event::Blackhole }
    }

    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Babeld | Self::BabeldTuned => find_program("babeld").is_some(),
            Self::Frr => Path::new(FRR).join("ospfd").exists(),
            Self::Tinc => find_program("tincd").is_some(),
            Self::Yggdrasil => find_program("yggdrasil").is_some(),
            Self::Nebula => find_program("nebula-cert").is_some(),
        }
    }

    /// How long it needs after a strike until it knows both ways round again.
    pub(crate) fn settles(self) -> Duration {
        Duration::from_secs(match self {
            Self::BabeldTuned => 5,
            Self::Frr | Self::Tinc | Self::Yggdrasil => 10,
            Self::Babeld | Self::Nebula => 20,
        })
    }

    /// Where the host opposite is reached.
    pub(crate) fn address(self, folder: &Path) -> Outcome<IpAddr> {
        match self {
            Self::Yggdrasil => {
                let file = folder.join("c/yggdrasil.conf");
                let file = file.display().to_string();
                let said = output(&["yggdrasil", "-useconffile", &file, "-address"])?;
                said.trim().parse().map_err(Failure::of("yggdrasil -address"))
            }
            Self::Babeld | Self::BabeldTuned | Self::Frr | Self::Tinc | Self::Nebula => {
                Ok(inner(2).into())
            }
        }
    }

    /// What runs on a host, in this order.
    pub(crate) fn commands(self, folder: &Path, node: usize) -> Vec<Vec<String>> {
        let own = |file: &str| folder.join(NAMES[node]).join(file).display().to_string();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        match self {
            Self::Babeld | Self::BabeldTuned => {
                let [one, other] = interfaces(node);
                let tuned = "default hello-interval 0.1 update-interval 0.4";
                let option: &[&str] = if self == Self::BabeldTuned { &["-C", tuned] } else { &[] };
                let files = [own("pid"), own("state"), own("sock")];
                let start = ["babeld", "-I", &files[0], "-S", &files[1], "-G", &files[2]];
                vec![words(&[&start, option, &[&one, &other]].concat())]
            }
            Self::Frr => ["zebra", "bfdd", "ospfd"]
                .iter()
                .map(|&daemon| {
                    let program = format!("{FRR}/{daemon}");
                    let conf = own(&format!("{daemon}.conf"));
                    let pid = own(&format!("{daemon}.pid"));
                    let (zserv, vty, control) = (own("zserv"), own(""), own("bfdd.sock"));
                    let mut all = words(&[&program, "-f", &conf, "-i", &pid, "-z", &zserv]);
                    all.extend(words(&["--vty_socket", &vty]));
                    if daemon == "bfdd" {
                        all.extend(words(&["--bfdctl", &control]));
                    }
                    all
                })
                .collect(),
            Self::Tinc => {
                vec![words(&["tincd", "-D", "-c", &own(""), &format!("--pidfile={}", own("pid"))])]
            }
            Self::Yggdrasil => {
                vec![words(&["yggdrasil", "-useconffile", &own("yggdrasil.conf")])]
            }
            Self::Nebula => vec![words(&["nebula", "-config", &own("nebula.yml")])],
        }
    }

    /// Writes all files of all hosts.
    pub(crate) fn configure(self, folder: &Path, hosts: &[Namespace]) -> Outcome<()> {
        for name in NAMES {
            let own = folder.join(name);
            fs::create_dir_all(&own).map_err(Failure::of(own.display()))?;
        }
        if !self.is_overlay() {
            for (node, host) in hosts.iter().enumerate() {
                let own = format!("{}/32", inner(node));
                run(&["ip", "-n", host.name(), "address", "add", &own, "dev", "lo"])?;
            }
        }
        match self {
            Self::Babeld | Self::BabeldTuned => Ok(()),
            Self::Frr => (0..NODES).try_for_each(|node| frr(folder, node)),
            Self::Tinc => tinc(folder),
            Self::Yggdrasil => (0..NODES).try_for_each(|node| yggdrasil(folder, node)),
            Self::Nebula => nebula(folder),
        }
    }
}

/// The address of a host that is the same over every link.
fn inner(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 19, 200, [1, 2, 3, 4][node])
}

/// Links of a host: the one it begins, and the one that ends there.
fn links(node: usize) -> [(usize, usize); 2] {
    [(node, 0), ((node + NODES - 1) % NODES, 1)]
}

fn interfaces(node: usize) -> [String; 2] {
    links(node).map(|(link, _)| interface(link))
}

/// Where the neighbours of a host are reached.
fn neighbours(node: usize) -> [Ipv4Addr; 2] {
    links(node).map(|(link, end)| address(link, 1 - end))
}

fn frr(folder: &Path, node: usize) -> Outcome<()> {
    let own = folder.join(NAMES[node]);
    let mut ospf = String::new();
    for interface in interfaces(node) {
        ospf += &format!(
            "interface {interface}\n ip ospf network point-to-point\n ip ospf hello-interval 1\n \
             ip ospf dead-interval 40\n ip ospf area 0\n ip ospf bfd\n ip ospf bfd profile fast\n!\n"
        );
    }
    ospf += &format!(
        "interface lo\n ip ospf area 0\n!\nrouter ospf\n ospf router-id {}\n!\n",
        inner(node)
    );
    let bfd = "bfd\n profile fast\n  detect-multiplier 3\n  receive-interval 50\n  \
               transmit-interval 50\n !\n!\n";
    write(&own.join("zebra.conf"), "hostname ring\n")?;
    write(&own.join("bfdd.conf"), bfd)?;
    write(&own.join("ospfd.conf"), &ospf)?;
    // Its programs give up root.
    run(&["chown", "--recursive", "frr:frr", &own.display().to_string()])
}

fn tinc(folder: &Path) -> Outcome<()> {
    for (node, name) in NAMES.into_iter().enumerate() {
        let own = folder.join(name);
        let dials = [NAMES[(node + 1) % NODES], NAMES[(node + NODES - 1) % NODES]];
        write(
            &own.join("tinc.conf"),
            &format!(
                "Name = {name}\nInterface = ring0\nAddressFamily = ipv4\nConnectTo = {}\n\
                 ConnectTo = {}\n",
                dials[0], dials[1]
            ),
        )?;
        let [one, other] = links(node).map(|(link, end)| address(link, end));
        // Hosts that are no neighbours have no way to each other but over the relays.
        let host = format!(
            "Address = {one}\nAddress = {other}\nSubnet = {}/32\nIndirectData = yes\n",
            inner(node)
        );
        write(&own.join("hosts").join(name), &host)?;
        let up = own.join("tinc-up");
        write(
            &up,
            &format!(
                "#!/bin/sh\nip address add {}/24 dev $INTERFACE\nip link set $INTERFACE up\n",
                inner(node)
            ),
        )?;
        fs::set_permissions(&up, fs::Permissions::from_mode(0o755))
            .map_err(Failure::of(up.display()))?;
        run(&["tincd", "-c", &own.display().to_string(), "-K2048"])?;
    }
    for (from, to) in pairs() {
        let file = |of: &str| folder.join(of).join("hosts").join(from);
        fs::copy(file(from), file(to)).map_err(Failure::of("hosts of tinc"))?;
    }
    Ok(())
}

fn yggdrasil(folder: &Path, node: usize) -> Outcome<()> {
    let text = output(&["yggdrasil", "-genconf", "-json"])?;
    let mut conf: serde_json::Value =
        serde_json::from_str(&text).map_err(Failure::of("yggdrasil -genconf"))?;
    conf["Peers"] = neighbours(node).map(|host| format!("tcp://{host}:9001")).to_vec().into();
    conf["Listen"] = json!(["tcp://0.0.0.0:9001"]);
    conf["AdminListen"] = json!("none");
    conf["MulticastInterfaces"] = json!([]);
    conf["IfName"] = json!("ring0");
    conf["IfMTU"] = json!(1_400);
    write(&folder.join(NAMES[node]).join("yggdrasil.conf"), &conf.to_string())
}

/// The two relays are lighthouses, too.
fn nebula(folder: &Path) -> Outcome<()> {
    let at = |file: &str| folder.join(file).display().to_string();
    let authority = ["-out-crt", &at("ca.crt"), "-out-key", &at("ca.key")];
    run(&[&["nebula-cert", "ca", "-name", "ring"][..], &authority].concat())?;
    for (node, name) in NAMES.into_iter().enumerate() {
        let own = |file: &str| at(&format!("{name}/{file}"));
        let ip = format!("{}/24", inner(node));
        let signed =
            ["-ca-crt", &at("ca.crt"), "-ca-key", &at("ca.key"), "-name", name, "-ip", &ip];
        let files = ["-out-crt", &own("host.crt"), "-out-key", &own("host.key")];
        run(&[&["nebula-cert", "sign"][..], &signed, &files].concat())?;
        let relay = node % 2 == 1;
        let hosts = |at: usize| {
            let places = links(at).map(|(link, end)| format!("\"{}:4242\"", address(link, end)));
            format!("  \"{}\": [{}]\n", inner(at), places.join(", "))
        };
        let map = if relay { String::new() } else { hosts(1) + &hosts(3) };
        let relays = format!("[\"{}\", \"{}\"]", inner(1), inner(3));
        let others = if relay { "[]" } else { relays.as_str() };
        let text = format!(
            "pki:\n  ca: {}\n  cert: {}\n  key: {}\nstatic_host_map:\n{map}\
             lighthouse:\n  am_lighthouse: {relay}\n  interval: 5\n  hosts: {others}\n\
             relay:\n  am_relay: {relay}\n  use_relays: {}\n  relays: {others}\n\
             listen:\n  host: 0.0.0.0\n  port: 4242\ntun:\n  dev: ring0\n  mtu: 1300\n\
             logging:\n  level: warning\n  format: text\n\
             firewall:\n  outbound:\n    - port: any\n      proto: any\n      host: any\n  \
             inbound:\n    - port: any\n      proto: any\n      host: any\n",
            at("ca.crt"),
            own("host.crt"),
            own("host.key"),
            !relay,
        );
        let text = text.replace("static_host_map:\nlighthouse", "static_host_map: {}\nlighthouse");
        write(&folder.join(name).join("nebula.yml"), &text)?;
    }
    Ok(())
}

fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = NAMES.into_iter().flat_map(|from| NAMES.map(|to| (from, to)));
    all.filter(|(from, to)| from != to)
}

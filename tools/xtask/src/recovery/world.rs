//! The overlay under test: a daemon in a network namespace for each peer, a wire for each link; asked
//! over the local interface of the daemons, changed by the command line. Everything ends when dropped.

#![expect(clippy::disallowed_methods, reason = "waits for real daemons")]

use std::borrow::Borrow;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use spanway::api::client::Client;
use spanway::api::dto::Request;
use spanway::daemon::identity::Identity;

use super::plan::{Plan, address, name};
use super::variant::Variant;
use crate::perf::build::{Given, daemon_and_pktgen};
use crate::perf::failure::{Failure, Outcome};
use crate::perf::net::{Namespace, available, output, remove_leftovers, run};
use crate::perf::process::{Interrupt, Running};

/// Every peer has the same: they do not share a host.
const PORT: u16 = 7_000;
/// Services of each peer, so that streams to the same peer have a receiver each.
pub(crate) const SERVICES: u16 = 4;
const FIRST_SERVICE_PORT: u16 = 5_100;
/// Long enough for a tree of many peers on a busy machine, its throttle at its longest.
pub(crate) const SETTLED_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// What a trial needs of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) spanway: PathBuf,
    pub(crate) pktgen: PathBuf,
    pub(crate) interrupt: Interrupt,
}

impl Tools {
    /// Built, unless they are given, and nothing of a run before in the way.
    pub(crate) fn ready(given: &Given) -> Outcome<Self> {
        let interrupt = Interrupt::install()?;
        available()?;
        remove_leftovers();
        let [spanway, pktgen] = daemon_and_pktgen(given)?;
        Ok(Self { spanway, pktgen, interrupt })
    }
}

#[derive(Debug)]
pub(crate) struct World {
    // Daemons end before their namespaces and their files go.
    pub(crate) hosts: Vec<Host>,
    pub(crate) plan: Plan,
    tools: Tools,
    folder: Folder,
}

#[derive(Debug)]
pub(crate) struct Host {
    daemon: Option<Running>,
    pub(crate) config: PathBuf,
    socket: PathBuf,
    namespace: Namespace,
}

/// A channel as its source lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) id: String,
    pub(crate) listen: SocketAddr,
    pub(crate) ends: [usize; 2],
    pub(crate) service: u16,
    pub(crate) path: Vec<usize>,
}

impl World {
    /// Makes the hosts and starts the daemons of all peers but those of `without`, whose files are
    /// there for another program.
    pub(crate) fn start(
        plan: Plan,
        variant: Variant,
        without: &[usize],
        tools: &Tools,
    ) -> Outcome<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = format!("spanway-recovery-{}-{count}", std::process::id());
        let folder = Folder::new(std::env::temp_dir().join(own))?;
        let hosts = (0..plan.peers).map(|peer| {
            let file = folder.0.join(name(peer));
            Ok(Host {
                daemon: None,
                config: file.with_extension("toml"),
                socket: file.with_extension("state").join("control.sock"),
                namespace: Namespace::new(&format!("{count}-{}", name(peer)))?,
            })
        });
        let hosts = hosts.collect::<Outcome<_>>()?;
        let mut world = Self { hosts, plan, tools: tools.clone(), folder };
        let namespaces = world.hosts.iter().map(|host| &host.namespace);
        wire(&world.plan, &namespaces.collect::<Vec<_>>())?;
        world.configure(variant)?;
        for peer in (0..world.plan.peers).filter(|peer| !without.contains(peer)) {
            world.start_daemon(peer)?;
        }
        Ok(world)
    }

    pub(crate) fn start_daemon(&mut self, peer: usize) -> Outcome<()> {
        let log = self.folder.0.join(name(peer));
        let errors = fs::File::options().create(true).append(true).open(log.with_extension("err"));
        let host = &mut self.hosts[peer];
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host.namespace.name()]);
        // A tool that is killed takes its daemons with it.
        command.arg(&self.tools.spanway).args(["run", "--while-stdin", "--config"]);
        command.arg(&host.config).stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(errors.map_err(Failure::of(log.display()))?);
        let child = command.spawn().map_err(Failure::of("ip netns exec"))?;
        host.daemon = Some(Running::of(child, &name(peer), &log));
        Ok(())
    }

    pub(crate) fn namespace(&self, peer: usize) -> &str {
        self.hosts[peer].namespace.name()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.hosts.len()).filter(|&peer| self.hosts[peer].daemon.is_some())
    }

    pub(crate) fn daemon_ids(&self) -> impl Iterator<Item = u32> {
        self.hosts.iter().filter_map(|host| host.daemon.as_ref().map(Running::id))
    }

    /// Takes the daemon of a peer out of the care of the world.
    pub(crate) fn take_daemon(&mut self, peer: usize) -> Outcome<Running> {
        let daemon = self.hosts[peer].daemon.take();
        daemon.ok_or_else(|| Failure::new(format!("{} does not run", name(peer))))
    }

    /// CPU time so far of all threads of a peer's daemon.
    pub(crate) fn cpu_ns(&self, peer: usize) -> Outcome<u64> {
        self.hosts[peer].daemon.as_ref().map_or(Ok(0), |daemon| daemon.cpu_ns(""))
    }

    /// The same of the workers alone.
    pub(crate) fn worker_ns(&self, peer: usize) -> Outcome<u64> {
        self.hosts[peer].daemon.as_ref().map_or(Ok(0), |daemon| daemon.cpu_ns("spanway-w"))
    }

    pub(crate) fn ask(&self, peer: usize, request: &Request) -> Outcome<Value> {
        let client = Client::connect(&self.hosts[peer].socket).map_err(Failure::of(name(peer)))?;
        client.request(request).map_err(Failure::of(name(peer)))
    }

    /// Lines of what happens at a peer, from now on.
    pub(crate) fn events(&self, peer: usize) -> Outcome<spanway::api::client::Lines<Value>> {
        let client = Client::connect(&self.hosts[peer].socket).map_err(Failure::of(name(peer)))?;
        client.lines(&Request::Events).map_err(Failure::of(name(peer)))
    }

    /// Until all links between running peers are up and all use the same tree, which is the right one.
    pub(crate) fn settle(&mut self) -> Outcome<Duration> {
        let start = Instant::now();
        loop {
            match self.unsettled() {
                Ok(None) => return Ok(start.elapsed()),
                Err(failure) if start.elapsed() > SETTLED_MAX => return Err(failure),
                Ok(Some(why)) if start.elapsed() > SETTLED_MAX => {
                    let limit = SETTLED_MAX.as_secs();
                    return Err(Failure::new(format!("no tree within {limit} s: {why}")));
                }
                Ok(Some(_)) | Err(_) => self.tools.interrupt.pause(POLL)?,
            }
        }
    }

    fn unsettled(&mut self) -> Outcome<Option<String>> {
        for host in &mut self.hosts {
            if let Some(daemon) = &mut host.daemon
                && daemon.ended()?
            {
                return Err(daemon.failure("ended by itself"));
            }
        }
        let running: Vec<usize> = self.running().collect();
        let runs = |row: &Value| running.iter().any(|&peer| row["peer"] == name(peer));
        let mut session = None;
        for &peer in &running {
            let links = self.ask(peer, &Request::Links)?;
            let mut links = rows(&links).iter().filter(|row| runs(row));
            if let Some(link) = links.find(|row| row["state"] != "up") {
                return Ok(Some(format!("the link {} to {} is not up", name(peer), link["peer"])));
            }
            let tree = self.ask(peer, &Request::Tree)?;
            let same = *session.get_or_insert_with(|| tree["session"].clone()) == tree["session"];
            if tree["complete"] != true || !same {
                return Ok(Some(format!("{} is in another session", name(peer))));
            }
        }
        let Some(&first) = running.first() else { return Ok(None) };
        let verdict = self.ask(first, &Request::Verify)?;
        let right = verdict["correct"] == true && verdict["peers"] == running.len();
        Ok((!right).then(|| format!("verify says {verdict}")))
    }

    /// Asks for a channel; none if the overlay refuses it.
    pub(crate) fn open(
        &self,
        ends: [usize; 2],
        service: u16,
        rate: &str,
        more: &[&str],
    ) -> Outcome<Option<Channel>> {
        let destination = format!("{}/s{service}", name(ends[1]));
        let (program, config) = (text(&self.tools.spanway), text(&self.hosts[ends[0]].config));
        let mut words = vec![&*program, "open", &*destination, "--bandwidth", rate];
        words.extend(["--json", "--config", &*config]);
        words.extend(more);
        let mut command = Command::new(words[0]);
        let out = command.args(&words[1..]).output().map_err(Failure::of(words.join(" ")))?;
        let reply: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        if reply["outcome"] == "rejected" {
            return Ok(None);
        }
        let (id, listen) = (reply["channel"].as_str(), reply["listen"].as_str());
        let listen = listen.and_then(|listen| listen.parse().ok());
        let (Some(id), Some(listen)) = (id, listen) else {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(Failure::new(format!("`{}`: {reply} {}", words.join(" "), said.trim())));
        };
        Ok(Some(Channel { id: id.to_owned(), listen, ends, service, path: path_of(&reply) }))
    }

    pub(crate) fn close(&self, channel: &Channel) -> Outcome<()> {
        let request = Request::Close { channel: channel.id.clone() };
        self.ask(channel.ends[0], &request).map(drop)
    }

    /// State and path of a channel as its source lists it; none if it lists it no longer.
    pub(crate) fn look(&self, channel: &Channel) -> Outcome<Option<(String, Vec<usize>)>> {
        let listed = self.ask(channel.ends[0], &Request::Channels)?;
        let row = rows(&listed).iter().find(|row| row["id"] == channel.id.as_str());
        let state = |row: &Value| row["state"].as_str().unwrap_or_default().to_owned();
        Ok(row.map(|row| (state(row), path_of(row))))
    }

    /// Where the receiver of this service listens.
    pub(crate) fn receiver(service: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, FIRST_SERVICE_PORT + service).into()
    }

    fn configure(&self, variant: Variant) -> Outcome<()> {
        let key = |host: &Host| {
            let file = host.config.with_extension("key");
            let identity = Identity::create(&file).map_err(Failure::of(file.display()))?;
            Ok(identity.public_key().to_string())
        };
        let keys = self.hosts.iter().map(key).collect::<Outcome<Vec<String>>>()?;
        for (peer, host) in self.hosts.iter().enumerate() {
            let mut file = format!("name = \"{}\"\nlisten = \"0.0.0.0:{PORT}\"\n", name(peer));
            for (link, wire) in self.plan.links.iter().enumerate() {
                let Some(end) = wire.ends.iter().position(|&end| end == peer) else { continue };
                let other = wire.ends[1 - end];
                let _ = write!(
                    file,
                    "\n[[link]]\npeer = \"{}\"\nkey = \"{}\"\ncapacity = \"{} Mbit/s\"\n\
                     address = \"{}:{PORT}\"\n",
                    name(other),
                    keys[other],
                    wire.capacity_mbps,
                    address(link, 1 - end),
                );
            }
            for service in 0..SERVICES {
                let deliver = Self::receiver(service);
                let _ = write!(file, "\n[service.s{service}]\ndeliver = \"{deliver}\"\n");
            }
            file += variant.section();
            fs::write(&host.config, file).map_err(Failure::of(host.config.display()))?;
        }
        Ok(())
    }
}

/// The interface of either end of a link.
pub(crate) fn interface(link: usize) -> String {
    format!("wire{link}")
}

/// Lays all wires of a plan between the namespaces of its peers.
pub(crate) fn wire<N: Borrow<Namespace>>(plan: &Plan, hosts: &[N]) -> Outcome<()> {
    for (link, ends) in plan.links.iter().map(|link| link.ends).enumerate() {
        let [one, other] = ends.map(|end| hosts[end].borrow().name());
        let interface = interface(link);
        run(&[
            "ip", "link", "add", &interface, "netns", one, "type", "veth", "peer", "name",
            &interface, "netns", other,
        ])?;
        for (end, namespace) in [one, other].into_iter().enumerate() {
            let own = format!("{}/24", address(link, end));
            run(&["ip", "-n", namespace, "address", "add", &own, "dev", &interface])?;
            run(&["ip", "-n", namespace, "link", "set", &interface, "up"])?;
        }
    }
    Ok(())
}

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Outcome<Self> {
        fs::create_dir(&path).map_err(Failure::of(path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the program says about itself: whether it knows an option.
pub(crate) fn knows(spanway: &Path, command: &str, option: &str) -> bool {
    output(&[&text(spanway), command, "--help"]).is_ok_and(|help| help.contains(option))
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn path_of(row: &Value) -> Vec<usize> {
    let names = rows(&row["path"]).iter().filter_map(Value::as_str);
    names.filter_map(|name| name.strip_prefix('p')?.parse().ok()).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

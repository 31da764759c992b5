//! The same stream, the same strikes, other programs: a ring of four hosts, 1,000 datagrams a second from
//! one to the host opposite, over whichever of the two relays the rival has chosen.
//!
//! ```text
//!        b (1)
//!   a (0)     c (2)      links 0: a-b, 1: b-c, 2: c-d, 3: d-a
//!        d (3)
//! ```
//! Overlays (tinc, yggdrasil, nebula) lose a relay by kill -9; routing daemons, whose kernel goes on
//! without them, meet a silent black hole. Only what is installed takes part.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::plan::{Link, Plan};
use super::record::Trial;
use super::rival::{NODES, Rival};
use super::stream::{Route, Stream, now};
use super::strike::{Event, black_hole, dropped, pass_input};
use super::trial::{AFTER, WARM, record, until_steady};
use super::weather::Weather;
use super::world::{Folder, interface, wire};
use crate::perf::failure::{Failure, Outcome};
use crate::perf::net::{Namespace, run};
use crate::perf::process::{Interrupt, Running};

const PORT: u16 = 5_100;
/// A rival that does not carry by then is not set up rightly.
const FIRST_MAX: Duration = Duration::from_secs(90);
/// How long the interfaces of the sender are watched to see which relay it uses.
const LOOK: Duration = Duration::from_millis(300);

/// Four hosts with a rival on each.
#[derive(Debug)]
pub(crate) struct Ring {
    rival: Rival,
    /// By host; ends before its namespaces and files go.
    programs: Vec<Vec<Running>>,
    pub(crate) hosts: Vec<Namespace>,
    folder: Folder,
    interrupt: Interrupt,
}

impl Ring {
    pub(crate) fn start(rival: Rival, interrupt: &Interrupt) -> Outcome<Self> {
        let own = format!("spanway-rival-{}-{}", std::process::id(), rival.name());
        let folder = Folder::new(std::env::temp_dir().join(own))?;
        let hosts = ["a", "b", "c", "d"].map(|host| Namespace::new(&format!("rival-{host}")));
        let hosts = hosts.into_iter().collect::<Outcome<Vec<_>>>()?;
        let links = (0..NODES).map(|at| Link { ends: [at, (at + 1) % NODES], capacity_mbps: 0 });
        let plan = Plan { peers: NODES, links: links.collect() };
        wire(&plan, &hosts)?;
        for host in &hosts {
            let settings = [
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
                if rival.is_overlay() { "net.ipv4.ip_forward=0" } else { "net.ipv4.ip_forward=1" },
            ];
            let words = ["ip", "netns", "exec", host.name(), "sysctl", "-q", "-w"];
            run(&[&words[..], &settings].concat())?;
        }
        let (programs, interrupt) = ((0..NODES).map(|_| Vec::new()).collect(), interrupt.clone());
        let mut ring = Self { rival, programs, hosts, folder, interrupt };
        rival.configure(&ring.folder.0, &ring.hosts)?;
        for node in 0..NODES {
            ring.run(node)?;
        }
        Ok(ring)
    }

    fn run(&mut self, node: usize) -> Outcome<()> {
        for (at, words) in self.rival.commands(&self.folder.0, node).iter().enumerate() {
            let log = self.folder.0.join(format!("{node}-{at}"));
            let errors = fs::File::create(log.with_extension("err"));
            let errors = errors.map_err(Failure::of(log.display()))?;
            let output = errors.try_clone().map_err(Failure::of(log.display()))?;
            let mut command = Command::new("ip");
            command.args(["netns", "exec", self.hosts[node].name()]).args(words);
            command.stdin(Stdio::null()).stdout(output).stderr(errors);
            let child = command.spawn().map_err(Failure::of("ip netns exec"))?;
            self.programs[node].push(Running::of(child, &words[0], &log));
            // Each begins by looking for the one before.
            self.interrupt.pause(Duration::from_millis(300))?;
        }
        Ok(())
    }

    /// Until the first datagrams arrive.
    pub(crate) fn wait_until_it_carries(&mut self) -> Outcome<()> {
        let start = now();
        while Duration::from_nanos(now() - start) < FIRST_MAX {
            for program in self.programs.iter_mut().flatten() {
                if program.ended()? {
                    return Err(program.failure("ended by itself"));
                }
            }
            // Programs add their interfaces while they start; then there is an address to send to.
            let Ok(stream) = Stream::start(&self.route()?, 0) else {
                self.interrupt.pause(Duration::from_secs(1))?;
                continue;
            };
            until_steady(&stream, &self.interrupt)?;
            let arrived = stream.arrived();
            stream.stop()?;
            if arrived > 0 {
                return Ok(());
            }
        }
        Err(Failure::new(format!("{} carries nothing", self.rival.name())))
    }

    pub(crate) fn trial(&mut self) -> Outcome<Trial> {
        self.wait_until_it_carries()?;
        // Both ways round have to be known again.
        self.interrupt.pause(self.rival.settles())?;
        let before = Weather::read(self.processes());
        let stream = Stream::start(&self.route()?, 0)?;
        self.interrupt.pause(WARM)?;
        if stream.arrived() == 0 {
            return Err(Failure::new(format!("{} carries nothing any more", self.rival.name())));
        }
        let (relay, link) = self.used()?;
        let from = now();
        let ends = [self.hosts[0].name().to_owned(), self.hosts[relay].name().to_owned()];
        match self.rival.event() {
            Event::Blackhole => black_hole(&ends, &interface(link))?,
            Event::Kill | Event::Leave | Event::Bystander | Event::Alarm => {
                for mut program in self.programs[relay].drain(..) {
                    program.kill()?;
                }
            }
        }
        until_steady(&stream, &self.interrupt)?;
        let until = now();
        self.interrupt.pause(AFTER)?;
        let flow = stream.stop()?;
        let [steal_ms, run_queue_ms] = Weather::read(self.processes()).since(&before);
        let host = ["a", "b", "c", "d"][relay];
        let struck = match self.rival.event() {
            Event::Blackhole => {
                let counts = [dropped(&ends[0])?, dropped(&ends[1])?];
                ends.iter().try_for_each(|end| pass_input(end))?;
                if counts.contains(&0) {
                    return Err(Failure::new(format!("the black hole dropped {counts:?} packets")));
                }
                format!("black hole between a and {host}: dropped {counts:?} packets")
            }
            Event::Kill | Event::Leave | Event::Bystander | Event::Alarm => {
                self.run(relay)?;
                format!("killed {host}: gone by signal 9")
            }
        };
        Ok(Trial {
            seed: 0,
            struck,
            path: format!("a - {host} - c"),
            path_after: String::new(),
            flow: record(&flow, from, until),
            bystanders: Vec::new(),
            steal_ms,
            run_queue_ms,
        })
    }

    /// The relay that the stream goes over, and the link to it: the one that carries more.
    fn used(&self) -> Outcome<(usize, usize)> {
        let count = || -> Outcome<[u64; 2]> { Ok([self.sent(0)?, self.sent(3)?]) };
        let before = count()?;
        self.interrupt.pause(LOOK)?;
        let after = count()?;
        let more = after[0] - before[0] > after[1] - before[1];
        Ok(if more { (1, 0) } else { (3, 3) })
    }

    /// Packets that the sender's host has sent on a link.
    fn sent(&self, link: usize) -> Outcome<u64> {
        let file = format!("/sys/class/net/{}/statistics/tx_packets", interface(link));
        let words = ["ip", "netns", "exec", self.hosts[0].name(), "cat", &file];
        let count = crate::perf::net::output(&words)?;
        count.trim().parse().map_err(Failure::of(file))
    }

    fn route(&self) -> Outcome<Route> {
        let to = self.rival.address(&self.folder.0)?;
        let any: IpAddr = match to {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Ok(Route {
            from_namespace: self.hosts[0].name().to_owned(),
            to: SocketAddr::new(to, PORT),
            into_namespace: self.hosts[2].name().to_owned(),
            at: SocketAddr::new(any, PORT),
        })
    }

    fn processes(&self) -> impl Iterator<Item = u32> {
        self.programs.iter().flatten().map(Running::id)
    }
}

/// Writes a file below the folder of a rival; the folders above it are made.
pub(crate) fn write(file: &Path, text: &str) -> Outcome<()> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).map_err(Failure::of(folder.display()))?;
    fs::write(file, text).map_err(Failure::of(file.display()))
}

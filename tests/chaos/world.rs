//! The overlay that the nemesis works on, and what can be asked of it: hosts, links, channels, what the
//! daemons said happened. Asks the daemons over their local interface: dozens of processes for each
//! look would be a load of their own.

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;
use spanway::api::client::Client;
use spanway::api::dto::{ChannelRow, EventLine, LinkRow, Request, TreeReply, VerifyReply};

use super::common::netns::socket;
use super::common::overlay::{Overlay, Plan};
use super::common::program::{output, wait_for};
use super::flows::Flows;
use super::nemesis::Strike;
use super::random::Random;

pub(crate) const PEERS: usize = 12;
const LINKS: usize = 22;
const CHANNELS: usize = 20;
const RATE: &str = "2 Mbit/s";
/// What HTB lets through, and what the links promise.
const CAPACITIES: [u32; 3] = [60, 80, 100];
/// As `limits::LEASE`: how long a channel may look for another path.
pub(crate) const LEASE: Duration = spanway::limits::LEASE;
/// How long a channel may take to be asked for.
const OPENED: Duration = Duration::from_secs(20);
/// How long a daemon may take to see that a client has gone.
const SEEN: Duration = Duration::from_millis(300);
/// Twelve peers share a machine that may have other work: a link is dead after half a second and not
/// after an eighth, so that a peer that waits for its turn is none.
const PATIENCE: &str = "[control]\nheartbeats_missed = 20";
const FIRST_PORT: u16 = 6_000;

/// A path, by name; empty while there is none.
pub(crate) type Path_ = Vec<String>;

#[derive(Debug)]
pub(crate) struct World {
    // Streams end before the daemons, whose hosts their sockets are in.
    pub(crate) flows: Flows,
    pub(crate) overlay: Overlay,
    pub(crate) channels: Vec<Channel>,
    told: Arc<Mutex<Vec<Told>>>,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// While it is open, or looks for a path.
    pub(crate) id: Option<String>,
}

/// What a daemon said happened.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) at: Instant,
    pub(crate) peer: String,
    pub(crate) event: String,
    pub(crate) text: String,
}

impl World {
    /// A ring of all peers in random order, and chords: no single peer cuts it in two.
    pub(crate) fn start(random: &mut Random) -> Self {
        let names: Vec<String> = (0..PEERS).map(|peer| format!("p{peer:02}")).collect();
        let mut ends: Vec<[usize; 2]> = (0..CHANNELS)
            .map(|_| {
                let from = random.below(PEERS);
                [from, (from + 1 + random.below(PEERS - 1)) % PEERS]
            })
            .collect();
        ends.sort_unstable();
        let mut plan = Plan::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut capacities = Vec::new();
        for [one, other] in links(random) {
            let capacity = *random.of(&CAPACITIES);
            plan = plan.link(&names[one], &names[other], &format!("{capacity} Mbit/s"));
            capacities.push(capacity);
        }
        for (channel, &[_, into]) in ends.iter().enumerate() {
            let service = format!("[service.c{channel:02}]\ndeliver = \"{}\"", receiver(channel));
            plan = plan.section(&names[into], &service);
        }
        let plan = names.iter().fold(plan, |plan, name| plan.section(name, PATIENCE));
        let overlay = plan.in_namespaces(false);
        for (link, capacity) in overlay.links.iter().zip(capacities) {
            for (peer, interface) in &link.ends {
                limit(&overlay, peer, interface, capacity);
            }
        }
        let into = |ends: &[usize; 2]| overlay.peer(&names[ends[1]]).namespace().name().to_owned();
        let receivers = ends.iter().enumerate();
        let receivers = receivers.map(|(at, ends)| socket(&into(ends), receiver(at), None));
        let flows = Flows::start(receivers.collect());
        let channel = |ends: &[usize; 2]| Channel {
            source: names[ends[0]].clone(),
            destination: names[ends[1]].clone(),
            id: None,
        };
        let channels = ends.iter().map(channel).collect();
        let world = Self { flows, overlay, channels, told: Arc::default() };
        names.iter().for_each(|name| world.listen(name));
        world
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.overlay.peers().iter().map(|peer| peer.name.clone()).collect()
    }

    pub(crate) fn run(&mut self, peer: &str) {
        self.overlay.run(peer);
        wait_for("a daemon that answers", OPENED, || {
            self.ask::<Value>(peer, &Request::Status).map(drop)
        });
        self.listen(peer);
    }

    pub(crate) fn process(&self, peer: &str) -> u32 {
        self.overlay.peer(peer).process().expect("a running daemon")
    }

    pub(crate) fn ask<T: DeserializeOwned>(&self, peer: &str, request: &Request) -> Option<T> {
        Client::connect(&self.overlay.peer(peer).socket()).ok()?.request(request).ok()
    }

    /// Peers whose tree has no parent.
    pub(crate) fn leader(&self) -> String {
        wait_for("a leader", OPENED, || {
            self.names().into_iter().find(|peer| {
                let tree = self.ask::<TreeReply>(peer, &Request::Tree);
                tree.is_some_and(|tree| tree.parent.is_none())
            })
        })
    }

    /// By channel, as its source lists it.
    pub(crate) fn paths(&self) -> Vec<Path_> {
        let row = |channel: &Channel| self.row(channel).map(|row| row.path);
        let names = |path: Vec<_>| path.iter().map(ToString::to_string).collect();
        self.channels.iter().map(|channel| row(channel).map(names).unwrap_or_default()).collect()
    }

    fn row(&self, channel: &Channel) -> Option<ChannelRow> {
        let id = channel.id.as_deref()?;
        let rows: Vec<ChannelRow> = self.ask(&channel.source, &Request::Channels)?;
        rows.into_iter().find(|row| row.id == id)
    }

    /// Until all links are up, all peers use the same tree, and it is the right one.
    pub(crate) fn agree(&self, deadline: Duration) {
        let mut why = String::new();
        let start = Instant::now();
        while !self.agreed(&mut why) {
            assert!(start.elapsed() < deadline, "not one tree within {deadline:?}: {why}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn agreed(&self, why: &mut String) -> bool {
        let mut sessions = BTreeSet::new();
        for peer in self.names() {
            let links: Option<Vec<LinkRow>> = self.ask(&peer, &Request::Links);
            let down =
                links.as_deref().and_then(|links| links.iter().find(|row| row.state != "up"));
            let tree: Option<TreeReply> = self.ask(&peer, &Request::Tree);
            let (Some(_), None, Some(tree)) = (&links, down, tree) else {
                *why = format!("{peer}: a link is not up: {down:?}");
                return false;
            };
            sessions.insert(tree.session.filter(|_| tree.complete));
        }
        *why = format!("sessions {sessions:?}");
        let verdict: Option<VerifyReply> = self.ask("p00", &Request::Verify);
        sessions.len() == 1
            && !sessions.contains(&None)
            && verdict.is_some_and(|verdict| verdict.correct && verdict.peers == PEERS)
    }

    /// Waits until each channel carries again or was told why not; the reasons of the latter.
    pub(crate) fn fates(&mut self, strike: &Strike) -> BTreeMap<usize, String> {
        let start = Instant::now();
        let mut told = BTreeMap::new();
        for at in 0..self.channels.len() {
            let Some(id) = self.channels[at].id.clone() else { continue };
            let name = format!("c{at:02}");
            let forgotten = strike.restarted.contains(&self.channels[at].source);
            let fate =
                wait_for(&format!("the fate of {name} ({id})"), LEASE + LEASE, || {
                    match self.row(&self.channels[at]) {
                        Some(row) if row.state == "open" => {
                            self.flows.has_carried(at, start).then_some(None)
                        }
                        Some(_) => None,
                        None if forgotten => Some(Some("its source was restarted".to_owned())),
                        None => self.why_closed(&id).map(Some),
                    }
                });
            if let Some(why) = fate {
                self.flows.pause(at);
                self.channels[at].id = None;
                told.insert(at, why);
            }
        }
        told
    }

    fn why_closed(&self, id: &str) -> Option<String> {
        let told = self.told.lock().expect("no thread panicked with it");
        let about = format!("channel {id}: ");
        let mut closed = told.iter().filter(|told| told.event == "channel_closed");
        closed.find_map(|told| told.text.strip_prefix(&about).map(str::to_owned))
    }

    /// What the daemons said since then.
    pub(crate) fn told(&self, since: Instant) -> Vec<Told> {
        let told = self.told.lock().expect("no thread panicked with it");
        told.iter().filter(|told| told.at >= since).cloned().collect()
    }

    pub(crate) fn open_all(&mut self) {
        self.agree(OPENED);
        self.open_missing();
    }

    /// Asks for every channel that is not there.
    pub(crate) fn open_missing(&mut self) {
        for at in 0..self.channels.len() {
            if self.channels[at].id.is_some() {
                continue;
            }
            let (source, destination) =
                (self.channels[at].source.clone(), self.channels[at].destination.clone());
            let (service, name) = (format!("{destination}/c{at:02}"), format!("c{at:02}"));
            let peer = self.overlay.peer(&source);
            let reply = wait_for(&format!("an open channel {name}"), OPENED, || {
                let (code, reply) =
                    peer.answer(&["open", &service, "--bandwidth", RATE, "--name", &name]);
                (code == Some(0)).then_some(reply)
            });
            let entry = reply["listen"].as_str().and_then(|listen| listen.parse().ok());
            let any = (Ipv4Addr::LOCALHOST, 0).into();
            self.flows
                .begin(at, socket(peer.namespace().name(), any, Some(entry.expect("an entry"))));
            self.channels[at].id = reply["channel"].as_str().map(str::to_owned);
        }
        self.carry_everywhere(OPENED);
    }

    /// Until something that is sent from now on has arrived in every channel.
    pub(crate) fn carry_everywhere(&self, deadline: Duration) {
        let start = Instant::now();
        for at in 0..self.channels.len() {
            wait_for(&format!("a datagram of c{at:02}"), deadline, || {
                self.flows.has_carried(at, start).then_some(())
            });
        }
    }

    pub(crate) fn close_all(&mut self) {
        for at in 0..self.channels.len() {
            self.flows.pause(at);
            let channel = &mut self.channels[at];
            let Some(id) = channel.id.take() else { continue };
            let source = channel.source.clone();
            let closed: Option<Value> = self.ask(&source, &Request::Close { channel: id });
            assert!(closed.is_some(), "c{at:02} cannot be closed");
        }
    }

    /// Nobody holds anything of any link, and nobody knows a channel.
    pub(crate) fn is_all_free(&self) -> Option<()> {
        for peer in self.names() {
            let links: Vec<LinkRow> = self.ask(&peer, &Request::Links)?;
            let free = |row: &LinkRow| [row.free_in_bps, row.free_out_bps] == [row.capacity_bps; 2];
            let channels: Vec<ChannelRow> = self.ask(&peer, &Request::Channels)?;
            (links.iter().all(free) && channels.is_empty()).then_some(())?;
        }
        Some(())
    }

    /// How many each daemon has open, those who listen to its events included.
    pub(crate) fn file_descriptors(&self) -> Vec<usize> {
        // It has taken earlier connections once it has answered a later one.
        for peer in self.names() {
            assert!(self.ask::<Value>(&peer, &Request::Status).is_some(), "{peer} does not answer");
        }
        std::thread::sleep(SEEN);
        let count =
            |process: u32| fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
        self.processes().into_iter().map(count).collect()
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        self.names().iter().map(|peer| self.process(peer)).collect()
    }

    pub(crate) fn namespaces(&self) -> Vec<String> {
        self.overlay.peers().iter().map(|peer| peer.namespace().name().to_owned()).collect()
    }

    /// SIGTERM for everybody, one after the other; each ends well.
    pub(crate) fn leave_all(&mut self) {
        for peer in self.names() {
            self.overlay.terminate(&peer);
            self.overlay.ended(&peer);
        }
    }

    /// Takes down what happens at a peer until its daemon ends.
    fn listen(&self, peer: &str) {
        let socket: PathBuf = self.overlay.peer(peer).socket();
        let lines = Client::connect(&socket).and_then(|client| client.lines(&Request::Events));
        let lines = lines.unwrap_or_else(|e| panic!("{peer} tells no events: {e}"));
        let (told, peer) = (Arc::clone(&self.told), peer.to_owned());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::<EventLine, _>::ok) {
                let (at, peer) = (Instant::now(), peer.clone());
                let line = Told { at, peer, event: line.event, text: line.text };
                told.lock().expect("no thread panicked with it").push(line);
            }
        });
    }
}

/// A ring through all peers in random order, then chords, as pairs of numbers.
fn links(random: &mut Random) -> Vec<[usize; 2]> {
    let mut order: Vec<usize> = (0..PEERS).collect();
    random.shuffle(&mut order);
    let ring = (0..PEERS).map(|at| [order[at], order[(at + 1) % PEERS]]);
    let mut chords: Vec<[usize; 2]> =
        (0..PEERS).flat_map(|one| (0..one).map(move |other| [one, other])).collect();
    random.shuffle(&mut chords);
    let mut links: Vec<[usize; 2]> = Vec::new();
    for mut link in ring.chain(chords) {
        link.sort_unstable();
        if !links.contains(&link) && links.len() < LINKS {
            links.push(link);
        }
    }
    links
}

fn limit(overlay: &Overlay, peer: &str, interface: &str, mbps: u32) {
    let run = |words: &[&str]| {
        let mut command: Command = overlay.peer(peer).command("tc");
        output(command.args(words));
    };
    let rate = format!("{mbps}mbit");
    run(&["qdisc", "add", "dev", interface, "root", "handle", "1:", "htb", "default", "1"]);
    let class = ["class", "add", "dev", interface, "parent", "1:", "classid", "1:1", "htb", "rate"];
    run(&[&class[..], &[&rate, "burst", "32k", "quantum", "1514"]].concat());
}

fn receiver(channel: usize) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, FIRST_PORT + u16::try_from(channel).expect("few channels")).into()
}

/// The state of a process as the kernel writes it: `S`, `R`, `T` for stopped, ...
pub(crate) fn state(process: u32) -> Option<char> {
    let stat =
        fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

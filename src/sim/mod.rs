//! A deterministic world for the control plane, and its judges.
//!
//! [`Sim`] runs many [`Node`]s on one thread: a virtual clock, one heap of happenings, wires that
//! deliver in order after seeded delays. It carries out the nodes' actions, goes through the real
//! message codec, and keeps what the engine would know, so that an oracle can push frames through it.
//! The same seed gives the same run, event for event; [`Sim::hash`] says so. [`scenario`] makes random
//! overlays with faults out of a seed, [`check`] judges trees with code of its own.
//!
//! What it does not do: heartbeats, frames, Noise. A dead wire is noticed after a drawn delay, as the
//! heartbeats of a daemon would.

pub mod check;
mod probes;
mod queue;
pub mod scenario;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use self::queue::{Happening, Scheduled};
use crate::limits;
use crate::proto::node::Node;
use crate::proto::{
    Action, Answer, DataLink, Entry, Event, Input, LinkConfig, NodeConfig, Recovery, Request,
    ServiceConfig, Target,
};
use crate::types::{
    Bandwidth, ChannelId, EdgeKey, Label, LinkId, PeerName, PublicKey, RequestId, SessionId, Time,
};
use crate::wire::control::Message;

/// An overlay to be built: peers by position, and the links between them.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub peers: Vec<PeerName>,
    /// Two positions and the configured capacity.
    pub links: Vec<(usize, usize, Bandwidth)>,
    /// Services of every peer.
    pub services: Vec<ServiceConfig>,
    /// One hop takes between these.
    pub delay: (Duration, Duration),
}

/// Something that happens to the world from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The wire carries nothing any more; both ends notice after a while.
    Cut(usize),
    Restore(usize),
    /// The connection stays, its messages vanish: a hung neighbour.
    Mute(usize),
    /// The peer is gone, with all its state.
    Crash(usize),
    /// The peer joins, or starts again knowing nothing.
    Start(usize),
    /// The peer leaves with Bye.
    Leave(usize),
    /// Both ends of the wire are configured anew, a moment apart.
    Capacity(usize, Bandwidth),
    /// Only the first end is; the smaller of both counts.
    CapacityAtOneEnd(usize, Bandwidth),
}

/// Messages of one session, by purpose (I3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub ghs: usize,
    /// START, DONE, MEMBERS and COMMIT.
    pub around: usize,
}

/// A peer of the world, alive or not.
#[derive(Debug)]
pub struct Peer {
    pub name: PeerName,
    pub node: Option<Node>,
    /// What the engine would know.
    pub data_links: BTreeMap<LinkId, DataLink>,
    pub ends: BTreeSet<ChannelId>,
    pub entries: BTreeMap<ChannelId, Option<Entry>>,
    pub labels: BTreeMap<Label, (ChannelId, LinkId, Target)>,
    counts: probes::Counts,
    config: NodeConfig,
    /// Wire and side of each link.
    wires: Vec<(usize, usize)>,
    identity: SigningKey,
    /// Counts starts: a happening for an earlier life is void.
    life: u32,
    wake: Option<Time>,
}

#[derive(Debug)]
struct Wire {
    ends: [(usize, LinkId); 2],
    capacities: [Bandwidth; 2],
    /// What it carries, if not what it is configured for.
    carries: Option<Bandwidth>,
    cut: bool,
    /// Newest connection, and which of its ends have not been told of it yet.
    newest: u64,
    attaching: [bool; 2],
    /// The connection each end believes in.
    at: [Option<u64>; 2],
    /// Connections up to this one carry nothing any more.
    lost: u64,
    /// Nothing arrives at an end before this: FIFO.
    arrival: [Time; 2],
}

/// The world came to no rest within its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no rest after {events} events, at {:?}", Duration::from_micros(at.0))]
pub struct Restless {
    pub events: u64,
    pub at: Time,
}

/// The world.
#[derive(Debug)]
pub struct Sim {
    now: Time,
    rng: ChaCha20Rng,
    heap: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    peers: Vec<Peer>,
    wires: Vec<Wire>,
    delay: (Duration, Duration),
    requests: u64,
    answers: BTreeMap<RequestId, Answer>,
    traffic: BTreeMap<(SessionId, usize), Traffic>,
    strikes: Vec<Strike>,
    commits: Vec<(Time, usize, SessionId)>,
    hash: u64,
    lines: Option<Vec<String>>,
}

/// What a scheduled fault met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    pub at: Time,
    pub fault: Fault,
    /// It changed something.
    pub hit: bool,
    /// A peer that notices it was in a session without COMMIT.
    pub before_commit: bool,
}

impl Sim {
    /// The world of a plan; no peer runs yet.
    pub fn new(seed: u64, plan: &Plan) -> Self {
        let mut sim = Self {
            now: Time(0),
            rng: ChaCha20Rng::seed_from_u64(seed),
            heap: BinaryHeap::new(),
            sequence: 0,
            peers: Vec::new(),
            wires: Vec::new(),
            delay: plan.delay,
            requests: 0,
            answers: BTreeMap::new(),
            traffic: BTreeMap::new(),
            strikes: Vec::new(),
            commits: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            lines: None,
        };
        for name in &plan.peers {
            let mut secret = [0; 32];
            sim.rng.fill_bytes(&mut secret);
            sim.peers.push(Peer::new(name.clone(), &secret, &plan.services));
        }
        for &(one, other, capacity) in &plan.links {
            sim.add_wire(one, other, capacity);
        }
        sim
    }

    /// Keeps a line for every event from now on.
    pub fn keep_log(&mut self) {
        self.lines = Some(Vec::new());
    }

    pub fn log(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    /// A digest of everything that happened so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn now(&self) -> Time {
        self.now
    }

    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    pub fn node(&self, peer: usize) -> Option<&Node> {
        self.peers[peer].node.as_ref()
    }

    /// The answer to a request, once there is one.
    pub fn answer(&self, id: RequestId) -> Option<&Answer> {
        self.answers.get(&id)
    }

    /// What these peers sent in a session.
    pub fn traffic(&self, session: &SessionId, peers: &[PeerName]) -> Traffic {
        let mut sum = Traffic::default();
        for (at, peer) in self.peers.iter().enumerate() {
            if peers.contains(&peer.name)
                && let Some(sent) = self.traffic.get(&(session.clone(), at))
            {
                sum.ghs += sent.ghs;
                sum.around += sent.around;
            }
        }
        sum
    }

    /// What the scheduled faults met, in order.
    pub fn strikes(&self) -> &[Strike] {
        &self.strikes
    }

    /// Every commit: when, where, of which session.
    pub fn commits(&self) -> &[(Time, usize, SessionId)] {
        &self.commits
    }

    /// The peers that are alive, and the links between them as they really are: what an all-knowing
    /// judge would compute the forest from.
    pub fn truth(&self) -> (Vec<PeerName>, Vec<EdgeKey>) {
        let alive = |peer: &&Peer| peer.node.is_some();
        let peers = self.peers.iter().filter(alive).map(|peer| peer.name.clone()).collect();
        let key = |wire: &Wire| {
            let [one, other] = wire.ends.map(|(peer, _)| &self.peers[peer]);
            let whole = !wire.cut && one.node.is_some() && other.node.is_some();
            let capacity = wire.capacities[0].min(wire.capacities[1]).usable();
            whole.then(|| EdgeKey::new(capacity, one.name.clone(), other.name.clone()))
        };
        (peers, self.wires.iter().filter_map(key).collect())
    }

    /// Does it now; the faults of a scenario are scheduled instead.
    pub fn strike(&mut self, fault: Fault) {
        let before_commit = self.computing_around(fault);
        let hit = self.apply(fault);
        let before_commit = before_commit && hit;
        self.note(&format!("strike {fault:?} hit {hit} before commit {before_commit}"));
        self.strikes.push(Strike { at: self.now, fault, hit, before_commit });
    }

    pub fn schedule(&mut self, at: Time, fault: Fault) {
        self.push(at, Happening::Strike(fault));
    }

    /// Asks a live peer; see [`Sim::answer`].
    pub fn request(&mut self, peer: usize, request: Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.input(peer, Input::Request { id, request });
        id
    }

    /// Hands a live peer anything.
    pub fn input(&mut self, peer: usize, input: Input) {
        self.note(&format!("{} <- {input:?}", self.peers[peer].name));
        self.feed(peer, input);
    }

    fn feed(&mut self, peer: usize, input: Input) {
        let now = self.now;
        let mut out = Vec::new();
        if let Some(node) = &mut self.peers[peer].node {
            node.handle(now, input, &mut out);
        }
        self.carry_out(peer, out);
    }

    /// Lets the next thing happen; false if nothing is left.
    pub fn step(&mut self) -> bool {
        let Some(Reverse(next)) = self.heap.pop() else { return false };
        self.now = next.at;
        match next.happening {
            Happening::Dial { wire } => self.dial(wire),
            Happening::Attach { wire, side, connection, life } => {
                self.attach(wire, side, connection, life);
            }
            Happening::Detach { wire, side, connection } => self.detach(wire, side, connection),
            Happening::Deliver { wire, side, connection, bytes } => {
                self.deliver(wire, side, connection, &bytes);
            }
            Happening::Wake { peer, life } => self.wake(peer, life),
            Happening::Told { peer, life, input } => {
                if self.peers[peer].life == life {
                    self.input(peer, input);
                }
            }
            Happening::Configure { peer, wire, capacity } => self.configure(peer, wire, capacity),
            Happening::Strike(fault) => self.strike(fault),
        }
        true
    }

    pub fn run_until(&mut self, at: Time) {
        while self.heap.peek().is_some_and(|Reverse(next)| next.at <= at) {
            self.step();
        }
        self.now = self.now.max(at);
    }

    /// Until nothing is left to happen. Channels that are open keep the world busy for ever; use
    /// [`Sim::run_until`] with them.
    pub fn run_to_rest(&mut self, events_max: u64) -> Result<(), Restless> {
        for _ in 0..events_max {
            if !self.step() {
                return Ok(());
            }
        }
        Err(Restless { events: events_max, at: self.now })
    }

    fn add_wire(&mut self, one: usize, other: usize, capacity: Bandwidth) {
        let wire = self.wires.len();
        let ends = [(one, other, 0), (other, one, 1)].map(|(here, there, side)| {
            let key = PublicKey(self.peers[there].identity.verifying_key().to_bytes());
            let peer = self.peers[there].name.clone();
            let links = &mut self.peers[here].config.links;
            let link = LinkId(u16::try_from(links.len()).expect("LINKS_MAX fits"));
            links.push(LinkConfig { link, peer, key, capacity, mtu: limits::MTU_DEFAULT });
            self.peers[here].wires.push((wire, side));
            (here, link)
        });
        self.wires.push(Wire {
            ends,
            capacities: [capacity; 2],
            carries: None,
            cut: false,
            newest: 0,
            attaching: [false; 2],
            at: [None; 2],
            lost: 0,
            arrival: [Time(0); 2],
        });
    }

    fn apply(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Cut(wire) => self.cut(wire),
            Fault::Restore(wire) => {
                let was_cut = std::mem::take(&mut self.wires[wire].cut);
                self.redial(wire);
                was_cut
            }
            Fault::Mute(wire) => {
                let wire = &mut self.wires[wire];
                let whole = wire.newest > wire.lost && wire.at == [Some(wire.newest); 2];
                if whole {
                    wire.lost = wire.newest;
                }
                whole
            }
            Fault::Crash(peer) => {
                let alive = self.peers[peer].node.is_some();
                let keeps = self.draw(2) == 0;
                if alive {
                    self.stop(peer, keeps);
                }
                alive
            }
            Fault::Start(peer) => self.start(peer),
            Fault::Leave(peer) => {
                let alive = self.peers[peer].node.is_some();
                if alive {
                    self.request(peer, Request::Leave { timeout: Duration::ZERO });
                    self.stop(peer, true);
                }
                alive
            }
            Fault::Capacity(wire, capacity) => {
                for (peer, _) in self.wires[wire].ends {
                    let at = self.now + self.between((Duration::ZERO, Duration::from_millis(30)));
                    self.push(at, Happening::Configure { peer, wire, capacity });
                }
                self.wires[wire].capacities[0] != capacity
            }
            Fault::CapacityAtOneEnd(wire, capacity) => {
                let (peer, _) = self.wires[wire].ends[0];
                self.push(self.now, Happening::Configure { peer, wire, capacity });
                self.wires[wire].capacities[0] != capacity
            }
        }
    }

    /// A peer that will notice the fault is in a session without COMMIT.
    fn computing_around(&self, fault: Fault) -> bool {
        let computing = |peer: usize| self.node(peer).is_some_and(Node::computing);
        let of_wire = |wire: usize| self.wires[wire].ends.iter().any(|(peer, _)| computing(*peer));
        match fault {
            Fault::Cut(wire)
            | Fault::Restore(wire)
            | Fault::Mute(wire)
            | Fault::Capacity(wire, _)
            | Fault::CapacityAtOneEnd(wire, _) => of_wire(wire),
            Fault::Crash(peer) | Fault::Start(peer) | Fault::Leave(peer) => {
                self.wires_of(peer).into_iter().any(of_wire)
            }
        }
    }

    fn wires_of(&self, peer: usize) -> Vec<usize> {
        self.peers[peer].wires.iter().map(|(wire, _)| *wire).collect()
    }

    fn start(&mut self, at: usize) -> bool {
        if self.peers[at].node.is_some() {
            return false;
        }
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let peer = &mut self.peers[at];
        // It lost its counter, so it may use the ids of its earlier life again.
        self.traffic.retain(|(session, _), _| session.initiator != peer.name);
        peer.life += 1;
        let node = Node::new(peer.config.clone(), peer.identity.clone(), seed, self.now);
        peer.node = Some(node);
        self.schedule_wake(at);
        for wire in self.wires_of(at) {
            let at = self.now + self.between((Duration::ZERO, Duration::from_millis(20)));
            self.push(at, Happening::Dial { wire });
        }
        true
    }

    /// The peer's process ends. What it sent before still arrives if `keeps`.
    fn stop(&mut self, at: usize, keeps: bool) {
        let peer = &mut self.peers[at];
        peer.node = None;
        peer.wake = None;
        peer.data_links.clear();
        peer.ends.clear();
        peer.entries.clear();
        peer.labels.clear();
        for wire in self.wires_of(at) {
            let side = usize::from(self.wires[wire].ends[0].0 != at);
            self.wires[wire].at[side] = None;
            if !keeps {
                self.wires[wire].lost = self.wires[wire].newest;
            }
            self.detach_later(wire, 1 - side, self.wires[wire].newest);
        }
    }

    fn cut(&mut self, wire: usize) -> bool {
        if self.wires[wire].cut {
            return false;
        }
        self.wires[wire].cut = true;
        let newest = self.wires[wire].newest;
        self.wires[wire].lost = newest;
        self.detach_later(wire, 0, newest);
        self.detach_later(wire, 1, newest);
        true
    }

    /// Heartbeats take a while to miss somebody.
    fn detach_later(&mut self, wire: usize, side: usize, connection: u64) {
        let noticed = self.now + self.between((Duration::ZERO, Duration::from_millis(125)));
        let at = noticed.max(self.wires[wire].arrival[side]);
        self.push(at, Happening::Detach { wire, side, connection });
    }

    fn redial(&mut self, wire: usize) {
        let first = limits::REDIAL.0;
        let at = self.now + self.between((first, first * 2));
        self.push(at, Happening::Dial { wire });
    }

    fn dial(&mut self, at: usize) {
        let ends = self.wires[at].ends;
        let lives = ends.map(|(peer, _)| self.peers[peer].life);
        let wire = &self.wires[at];
        let alive = ends.iter().all(|(peer, _)| self.peers[*peer].node.is_some());
        let whole = wire.newest > wire.lost
            && (wire.attaching != [false; 2] || wire.at == [Some(wire.newest); 2]);
        if wire.cut || !alive || whole {
            return;
        }
        self.wires[at].newest += 1;
        self.wires[at].attaching = [true; 2];
        let connection = self.wires[at].newest;
        for (side, life) in lives.into_iter().enumerate() {
            let arrival = self.now + self.hop();
            let arrival = arrival.max(self.wires[at].arrival[side]);
            self.wires[at].arrival[side] = arrival;
            self.push(arrival, Happening::Attach { wire: at, side, connection, life });
        }
    }

    fn attach(&mut self, at: usize, side: usize, connection: u64, life: u32) {
        let wire = &mut self.wires[at];
        let (peer, link) = wire.ends[side];
        if wire.newest == connection {
            wire.attaching[side] = false;
        }
        let void = connection <= wire.lost || wire.at[side] >= Some(connection);
        if void || self.peers[peer].life != life || self.peers[peer].node.is_none() {
            return;
        }
        wire.at[side] = Some(connection);
        self.input(peer, Input::Connected { link, ipv6: at.is_multiple_of(2) });
    }

    fn detach(&mut self, at: usize, side: usize, connection: u64) {
        let wire = &mut self.wires[at];
        if wire.at[side] == Some(connection) {
            wire.at[side] = None;
            let (peer, link) = wire.ends[side];
            self.redial(at);
            self.input(peer, Input::Disconnected { link, why: "the connection ended".into() });
        }
    }

    fn deliver(&mut self, at: usize, side: usize, connection: u64, bytes: &[u8]) {
        let wire = &self.wires[at];
        if wire.at[side] == Some(connection) && connection > wire.lost {
            let (peer, link) = wire.ends[side];
            let message = Message::parse(bytes).expect("what a peer emits can be parsed");
            let name = self.peers[peer].name.clone();
            self.digest(name.as_str(), bytes);
            if self.lines.is_some() {
                self.line(&format!("{name} <- {link:?} {message:?}"));
            }
            self.feed(peer, Input::Message { link, message });
        }
    }

    fn wake(&mut self, at: usize, life: u32) {
        let now = self.now;
        let peer = &mut self.peers[at];
        if peer.life != life || peer.wake != Some(now) {
            return;
        }
        peer.wake = None;
        let mut out = Vec::new();
        if let Some(node) = &mut peer.node
            && let Some((due, timer)) = node.poll_timeout()
        {
            if due <= now {
                node.handle_timeout(now, &mut out);
                self.note(&format!("{} timer {timer:?}", self.peers[at].name));
            }
            self.carry_out(at, out);
        }
    }

    fn configure(&mut self, at: usize, wire: usize, capacity: Bandwidth) {
        let side = usize::from(self.wires[wire].ends[0].0 != at);
        self.wires[wire].capacities[side] = capacity;
        let link = self.wires[wire].ends[side].1;
        let peer = &mut self.peers[at];
        let config = peer.config.links.iter_mut().find(|config| config.link == link);
        config.expect("the wire ends here").capacity = capacity;
        let config = peer.config.clone();
        if peer.node.is_some() {
            self.input(at, Input::Configured(config));
        }
    }

    fn carry_out(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            self.note_action(at, &action);
            match action {
                Action::Send { link, message } => self.send(at, link, &message),
                Action::CloseLink { link, .. } => self.close(at, link),
                Action::LinkUp { link, data } => {
                    self.peers[at].data_links.insert(link, data);
                }
                Action::LinkDown { link } => {
                    self.peers[at].data_links.remove(&link).expect("a link goes down once");
                    self.peers[at].counts.set(link, false);
                }
                Action::OpenEnd { channel, .. } => {
                    self.peers[at].ends.insert(channel.clone());
                    let life = self.peers[at].life;
                    let opened = self.now + self.between((Duration::ZERO, self.delay.0));
                    let input = Input::EndOpened { channel, result: Ok(()) };
                    self.push(opened, Happening::Told { peer: at, life, input });
                }
                Action::CloseEnd { channel } => {
                    self.peers[at].ends.remove(&channel);
                    self.peers[at].entries.remove(&channel);
                }
                Action::SetEntry { channel, to } => {
                    self.peers[at].entries.insert(channel, to);
                }
                Action::AddLabel { channel, label, from, to, .. } => {
                    self.peers[at].labels.insert(label, (channel, from, to));
                }
                Action::RemoveLabel { label } => {
                    self.peers[at].labels.remove(&label);
                }
                // Who carries it is the engine's.
                Action::MoveChannel { .. } => {}
                Action::CountProbes { link, on } => self.peers[at].counts.set(link, on),
                Action::SendTrain { link, train, header_bytes } => {
                    self.send_train(at, link, train, header_bytes);
                }
                Action::CountTrain { link, number } => self.count_train(at, link, number),
                Action::Answer { id, answer } => {
                    let earlier = self.answers.insert(id, answer);
                    assert!(earlier.is_none(), "each request gets one answer");
                }
                Action::Event(Event::TreeCommitted { session, .. }) => {
                    self.commits.push((self.now, at, session));
                }
                Action::Event(_) => {}
            }
        }
        if let Some(node) = &self.peers[at].node {
            node.invariants();
            self.schedule_wake(at);
        }
    }

    fn wire_of(&self, peer: usize, link: LinkId) -> (usize, usize) {
        self.peers[peer].wires[usize::from(link.0)]
    }

    fn send(&mut self, at: usize, link: LinkId, message: &Message) {
        self.count(at, message);
        let (wire, side) = self.wire_of(at, link);
        let bytes = message.emit();
        assert!(bytes.len() <= limits::MESSAGE_BYTES_MAX, "{message:?}");
        let Some(connection) = self.wires[wire].at[side] else { return };
        let to = 1 - side;
        let arrival = (self.now + self.hop()).max(self.wires[wire].arrival[to]);
        self.wires[wire].arrival[to] = arrival;
        self.push(arrival, Happening::Deliver { wire, side: to, connection, bytes });
    }

    fn close(&mut self, at: usize, link: LinkId) {
        let (wire, side) = self.wire_of(at, link);
        if let Some(connection) = self.wires[wire].at[side].take() {
            let arrival = (self.now + self.hop()).max(self.wires[wire].arrival[1 - side]);
            self.push(arrival, Happening::Detach { wire, side: 1 - side, connection });
            self.redial(wire);
        }
    }

    fn count(&mut self, at: usize, message: &Message) {
        let ghs = matches!(message, Message::Ghs { .. });
        let session = if let Message::Start(start) = message {
            &start.session
        } else if let Message::Ghs { session, .. }
        | Message::Done { session }
        | Message::Members { session, .. }
        | Message::Commit { session, .. } = message
        {
            session
        } else {
            return;
        };
        let traffic = self.traffic.entry((session.clone(), at)).or_default();
        if ghs {
            traffic.ghs += 1;
        } else {
            traffic.around += 1;
        }
    }

    fn schedule_wake(&mut self, at: usize) {
        let now = self.now;
        let peer = &mut self.peers[at];
        let Some((due, _)) = peer.node.as_ref().and_then(Node::poll_timeout) else { return };
        let due = due.max(now);
        if peer.wake.is_none_or(|wake| due < wake) {
            peer.wake = Some(due);
            let life = peer.life;
            self.push(due, Happening::Wake { peer: at, life });
        }
    }

    fn push(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.heap.push(Reverse(Scheduled { at, sequence, happening }));
    }

    fn hop(&mut self) -> Duration {
        self.between(self.delay)
    }

    fn between(&mut self, (least, most): (Duration, Duration)) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_micros()).expect("short");
        least + Duration::from_micros(self.draw(span + 1))
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below
    }

    fn note_action(&mut self, at: usize, action: &Action) {
        if self.lines.is_some() && !matches!(action, Action::Send { .. }) {
            let line = format!("{} -> {action:?}", self.peers[at].name);
            self.line(&line);
        }
    }

    /// Adds an event to the digest (FNV-1a).
    fn digest(&mut self, text: &str, bytes: &[u8]) {
        let when = self.now.0.to_be_bytes();
        for byte in when.iter().chain(text.as_bytes()).chain(bytes) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Adds an event to the digest and, if one is kept, to the log.
    fn note(&mut self, text: &str) {
        self.digest(text, &[]);
        self.line(text);
    }

    fn line(&mut self, text: &str) {
        if let Some(lines) = &mut self.lines {
            let (whole, rest) = (self.now.0 / 1_000, self.now.0 % 1_000);
            lines.push(format!("{whole:>7}.{rest:03} ms {text}"));
        }
    }
}

impl Peer {
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    fn new(name: PeerName, secret: &[u8; 32], services: &[ServiceConfig]) -> Self {
        let config = NodeConfig {
            name: name.clone(),
            links: Vec::new(),
            services: services.to_vec(),
            data_port: 7_000,
            workers: 1,
            recovery: Recovery::default(),
        };
        Self {
            name,
            node: None,
            data_links: BTreeMap::new(),
            ends: BTreeSet::new(),
            entries: BTreeMap::new(),
            labels: BTreeMap::new(),
            counts: probes::Counts::default(),
            config,
            wires: Vec::new(),
            identity: SigningKey::from_bytes(secret),
            life: 0,
            wake: None,
        }
    }
}

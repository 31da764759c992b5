//! A deterministic world for the control plane, and its judges.
//!
//! [`Sim`] runs many [`Node`]s on one thread: a virtual clock, one heap of happenings, wires that
//! deliver in order after seeded delays. It carries out the nodes' actions, goes through the real
//! message codec, and keeps what the engine would know, so that an oracle can push frames through it.
//! The same seed gives the same run, event for event; [`Sim::hash`] says so. [`scenario`] makes random
//! overlays with faults out of a seed, [`check`] judges trees with code of its own.
//!
//! [`swarm`] adds channels with frames, hung peers, one-way losses, stalls and small queues.
//!
//! What it does not do: heartbeats, Noise. A dead wire is noticed after a drawn delay, as the heartbeats
//! of a daemon would.

mod answers;
pub mod check;
pub mod cost;
mod faults;
mod frames;
mod memo;
mod plan;
mod probes;
mod queue;
pub mod rules;
pub mod scenario;
mod seals;
pub mod swarm;
mod wires;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use self::answers::Answers;
pub use self::faults::Fault;
pub use self::frames::FrameBooks;
use self::frames::Frames;
pub use self::plan::Plan;
use self::queue::{Happening, Scheduled};
use crate::limits;
use crate::proto::node::Node;
use crate::proto::policy::Rule;
use crate::proto::{
    Action, Answer, Budgets, DataLink, Entry, Event, Input, LinkConfig, NodeConfig, Recovery,
    Request, ServiceConfig, Target,
};
use crate::types::{
    Bandwidth, ChannelId, EdgeKey, Label, LinkId, PeerName, PublicKey, RequestId, SessionId, Time,
};
use crate::wire::control::Message;

/// Messages of one session, by purpose (I3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub ghs: usize,
    /// START, DONE, MEMBERS and COMMIT.
    pub around: usize,
}

/// What was said about the picture of the overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gossiped {
    pub messages: u64,
    /// As they are encoded, without what the connection adds.
    pub bytes: u64,
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
    /// It does nothing before this.
    stopped: Option<Time>,
    /// It says that it speaks no later control version.
    speaks: Option<u16>,
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
    /// Connections up to this one carry nothing towards an end.
    deaf: [Option<u64>; 2],
    /// It cannot be dialled before this.
    barred: Time,
    /// Messages under way towards an end.
    under_way: [usize; 2],
    /// Something happened to it, or goes on until then.
    changed: Time,
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
    /// Of what is in the heap, all but wake-ups and gossip.
    pending: usize,
    /// The last peer that was not at rest.
    restless: usize,
    peers: Vec<Peer>,
    wires: Vec<Wire>,
    delay: (Duration, Duration),
    tails: bool,
    queue: Option<usize>,
    frames: Frames,
    seals: seals::Seals,
    /// Frames enter channels of a scenario until then.
    frames_until: Time,
    /// Those of the plan.
    rules: Vec<Vec<Rule>>,
    /// Nothing is to fail.
    calm: bool,
    /// Channels that a scenario asked for, by the request.
    opened: BTreeMap<RequestId, (usize, bool)>,
    /// Channels that were opened protected.
    protected: BTreeSet<ChannelId>,
    /// Who asked, and in which life.
    asked: BTreeMap<RequestId, (usize, u32)>,
    requests: u64,
    answers: BTreeMap<RequestId, Answer>,
    /// What the judge of answers notes.
    judged: Answers,
    traffic: BTreeMap<(SessionId, usize), Traffic>,
    gossiped: Gossiped,
    strikes: Vec<Strike>,
    commits: Vec<(Time, usize, SessionId)>,
    accusations: Vec<String>,
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
            pending: 0,
            restless: 0,
            peers: Vec::new(),
            wires: Vec::new(),
            delay: plan.delay,
            tails: plan.tails,
            queue: plan.queue,
            frames: Frames::default(),
            seals: seals::Seals::default(),
            frames_until: Time(u64::MAX),
            rules: Vec::new(),
            calm: false,
            opened: BTreeMap::new(),
            protected: BTreeSet::new(),
            asked: BTreeMap::new(),
            requests: 0,
            answers: BTreeMap::new(),
            judged: Answers::default(),
            traffic: BTreeMap::new(),
            gossiped: Gossiped::default(),
            strikes: Vec::new(),
            commits: Vec::new(),
            accusations: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            lines: None,
        };
        for name in &plan.peers {
            let mut secret = [0; 32];
            sim.rng.fill_bytes(&mut secret);
            let version = plan.version;
            sim.peers.push(Peer::new(name.clone(), &secret, &plan.services, version));
        }
        for &(peer, budgets) in &plan.budgets {
            sim.peers[peer].config.budgets = budgets;
        }
        sim.rules.clone_from(&plan.rules);
        for &(peer, rules) in &plan.ruled {
            sim.peers[peer].config.allow.clone_from(&sim.rules[rules]);
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

    /// What all peers together have said about their pictures.
    pub fn gossiped(&self) -> Gossiped {
        self.gossiped
    }

    /// What the scheduled faults met, in order.
    pub fn strikes(&self) -> &[Strike] {
        &self.strikes
    }

    /// Every commit: when, where, of which session.
    pub fn commits(&self) -> &[(Time, usize, SessionId)] {
        &self.commits
    }

    /// Protocol errors that peers saw in each other: here all are honest, so there should be none.
    pub fn accusations(&self) -> &[String] {
        &self.accusations
    }

    /// The peers that are alive, and the links between them as they really are: what an all-knowing
    /// judge would compute the forest from.
    pub fn truth(&self) -> (Vec<PeerName>, Vec<EdgeKey>) {
        let alive = |peer: &&Peer| peer.node.is_some();
        let peers = self.peers.iter().filter(alive).map(|peer| peer.name.clone()).collect();
        let whole = |wire: &&Wire| {
            !wire.cut && wire.ends.iter().all(|(peer, _)| self.peers[*peer].node.is_some())
        };
        (peers, self.wires.iter().filter(whole).map(|wire| self.edge(wire)).collect())
    }

    /// Does it now; the faults of a scenario are scheduled instead.
    pub fn strike(&mut self, fault: Fault) {
        let before_commit = self.computing_around(fault);
        self.touch(fault);
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
        self.asked.insert(id, (peer, self.peers[peer].life));
        if let Request::Open(open) = &request {
            self.note_wish(peer, id, open);
        }
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

    /// Lets the next thing happen; false once the world is at rest: nothing is left but gossip, which
    /// goes on for ever.
    pub fn step(&mut self) -> bool {
        !self.rests() && self.happen()
    }

    /// Links that carry nothing although both their ends believe in them.
    pub fn hung(&self) -> impl Iterator<Item = [&PeerName; 2]> {
        let hung = |wire: &&Wire| wire.newest <= wire.lost && wire.at == [Some(wire.newest); 2];
        let wires = self.wires.iter().filter(hung);
        wires.map(|wire| wire.ends.map(|(peer, _)| &self.peers[peer].name))
    }

    /// From its next connection on the peer says that it speaks no later control version.
    pub fn speaks(&mut self, peer: usize, highest: u16) {
        self.peers[peer].speaks = Some(highest);
    }

    fn rests(&mut self) -> bool {
        let restless = |peer: &Peer| peer.node.as_ref().is_some_and(|node| !node.at_rest());
        if self.pending > 0 || self.peers.get(self.restless).is_some_and(restless) {
            return false;
        }
        let found = self.peers.iter().position(restless);
        self.restless = found.unwrap_or(0);
        found.is_none()
    }

    /// Lets the next thing happen, gossip included; false if there is nothing.
    pub fn happen(&mut self) -> bool {
        let Some(Reverse(next)) = self.heap.pop() else { return false };
        self.now = next.at;
        self.pending -= usize::from(next.happening.is_work());
        if let Some(until) = self.waits_for(&next.happening) {
            self.push(until, next.happening);
            return true;
        }
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
            Happening::Gone { peer, life } => {
                if self.peers[peer].life == life && self.peers[peer].node.is_some() {
                    self.stop(peer, true);
                }
            }
            Happening::Resume { peer, life } => self.resume(peer, life),
            Happening::Enter { peer, channel } => self.enter(peer, channel),
            Happening::Frame { arriving, frame } => self.frame_arrives(arriving, *frame),
        }
        true
    }

    /// What happens to a stopped peer happens when it goes on.
    fn waits_for(&self, happening: &Happening) -> Option<Time> {
        let peer = match happening {
            Happening::Attach { wire, side, .. }
            | Happening::Detach { wire, side, .. }
            | Happening::Deliver { wire, side, .. } => self.wires[*wire].ends[*side].0,
            Happening::Wake { peer, .. }
            | Happening::Told { peer, .. }
            | Happening::Enter { peer, .. }
            | Happening::Configure { peer, .. } => *peer,
            Happening::Dial { .. }
            | Happening::Strike(_)
            | Happening::Gone { .. }
            | Happening::Resume { .. }
            | Happening::Frame { .. } => return None,
        };
        self.peers[peer].stopped
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse(next)| next.at)
    }

    /// Requests of peers that still live and have no answer.
    pub fn unanswered(&self) -> usize {
        let waits = |(id, (peer, life)): (&RequestId, &(usize, u32))| {
            let lives = self.peers[*peer].life == *life && self.peers[*peer].node.is_some();
            lives && !self.answers.contains_key(id)
        };
        self.asked.iter().filter(|asked| waits(*asked)).count()
    }

    pub fn run_until(&mut self, at: Time) {
        while self.heap.peek().is_some_and(|Reverse(next)| next.at <= at) {
            self.happen();
        }
        self.now = self.now.max(at);
    }

    /// Until nothing is left to happen but gossip. Channels that are open keep the world busy for ever;
    /// use [`Sim::run_until`] with them.
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
            let (mtu, hop_tag) = (limits::MTU_DEFAULT, false);
            links.push(LinkConfig { link, peer, key, capacity, mtu, hop_tag });
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
            deaf: [None; 2],
            barred: Time(0),
            under_way: [0; 2],
            changed: Time(0),
        });
    }

    fn wires_of(&self, peer: usize) -> Vec<usize> {
        self.peers[peer].wires.iter().map(|(wire, _)| *wire).collect()
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
        self.capacity_set(wire);
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
        self.judge_departure(at, &actions);
        for mut action in actions {
            self.note_action(at, &action);
            self.note_for_answers(at, &action);
            self.speak_older(at, &mut action);
            match action {
                Action::Send { link, message } => {
                    self.touch_if_narrow(at, &message);
                    self.send(at, link, &message);
                }
                Action::CloseLink { link, why } => {
                    self.note_accusation(at, &why);
                    self.close(at, link);
                }
                Action::LinkUp { link, data } => {
                    self.peers[at].data_links.insert(link, data);
                }
                Action::LinkDown { link } => {
                    self.peers[at].data_links.remove(&link).expect("a link goes down once");
                    self.peers[at].counts.set(link, false);
                }
                Action::OpenEnd { channel, sealing, .. } => self.open_end(at, channel, &sealing),
                Action::OfferSeal { channel, key, terms } => {
                    self.offer_seal(at, channel, key, terms);
                }
                Action::SealEnd { channel, answer } => self.seal_end(at, channel, &answer),
                Action::CloseEnd { channel } => {
                    self.peers[at].ends.remove(&channel);
                    self.peers[at].entries.remove(&channel);
                    self.end_closed(at, &channel);
                }
                Action::SetEntry { channel, to } => {
                    self.peers[at].entries.insert(channel, to);
                }
                Action::AddLabel { channel, label, from, to, .. } => {
                    self.peers[at].labels.insert(label, (channel, from, to));
                    self.label_added(at, label);
                }
                Action::RemoveLabel { label } => {
                    if let Some((channel, ..)) = self.peers[at].labels.remove(&label) {
                        self.label_removed(at, &channel, label);
                    }
                }
                // Who carries it is the engine's.
                Action::MoveChannel { .. } => {}
                Action::CountProbes { link, on } => self.peers[at].counts.set(link, on),
                Action::SendTrain { link, train, header_bytes } => {
                    self.send_train(at, link, train, header_bytes);
                }
                Action::CountTrain { link, number } => self.count_train(at, link, number),
                Action::ReadHop { question } => self.read_hop(at, question),
                Action::Answer { id, answer } => {
                    self.judge_answer(at, id, &answer);
                    self.answered(at, id, &answer);
                    let earlier = self.answers.insert(id, answer);
                    assert!(earlier.is_none(), "each request gets one answer");
                }
                Action::Event(event) => self.told_of(at, event),
            }
        }
        if let Some(node) = &self.peers[at].node {
            node.invariants();
            self.schedule_wake(at);
        }
        self.note_lines(at);
    }

    /// A peer of an older version says so when it greets.
    fn speak_older(&self, at: usize, action: &mut Action) {
        if let (Action::Send { message: Message::Hello(hello), .. }, Some(highest)) =
            (action, self.peers[at].speaks)
        {
            hello.versions.1 = highest;
        }
    }

    fn note_accusation(&mut self, accuser: usize, why: &str) {
        if why.starts_with("protocol error") {
            let accuser = &self.peers[accuser].name;
            self.accusations.push(format!("{accuser} at {:?}: {why}", self.now));
        }
    }

    fn told_of(&mut self, at: usize, event: Event) {
        if let Event::TreeCommitted { session, .. } = event {
            self.commits.push((self.now, at, session));
        } else if let Event::ChannelTrying { channel, path, .. } = event {
            self.touch_if_hurt(&channel, &path);
        }
    }

    /// A channel that a scenario asked for is open: frames enter at both its ends. One that left is gone.
    fn answered(&mut self, at: usize, id: RequestId, answer: &Answer) {
        match answer {
            Answer::Open(opened) => {
                if let Some((to, protect)) = self.opened.remove(&id) {
                    if protect {
                        self.protected.insert(opened.channel.clone());
                    }
                    let until = self.frames_until;
                    for (peer, ms) in [(at, 5), (to, 11)] {
                        self.stream(peer, &opened.channel, Duration::from_millis(ms), until);
                    }
                }
            }
            Answer::Left => {
                self.touch(Fault::Leave(at));
                let life = self.peers[at].life;
                self.push(self.now, Happening::Gone { peer: at, life });
            }
            Answer::Rejected(_)
            | Answer::Closed
            | Answer::Finished
            | Answer::Services(_)
            | Answer::Links(_)
            | Answer::Hops(_)
            | Answer::Recomputing(_)
            | Answer::Measured(_)
            | Answer::Fit(_) => {}
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
        self.pending += usize::from(happening.is_work());
        self.heap.push(Reverse(Scheduled { at, sequence, happening }));
    }

    fn hop(&mut self) -> Duration {
        let hop = self.between(self.delay);
        if self.tails && self.draw(100) == 0 { hop * 50 } else { hop }
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

    fn new(name: PeerName, secret: &[u8; 32], services: &[ServiceConfig], version: u16) -> Self {
        let config = NodeConfig {
            name: name.clone(),
            links: Vec::new(),
            services: services.to_vec(),
            data_port: 7_000,
            workers: 1,
            recovery: Recovery::default(),
            budgets: Budgets::default(),
            allow: Vec::new(),
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
            stopped: None,
            speaks: Some(version),
        }
    }
}

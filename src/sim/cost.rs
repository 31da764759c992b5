//! What trees cost in large overlays: messages, and hops until everybody has the tree, for the first one,
//! for one link that fails and for one peer that fails.
//!
//! Only [`Sessions`] run, the product's own with all that is in them; every hop takes the same time, so
//! a time is a number of hops. There is no codec, no greeting, no detection: both ends learn at once
//! that a link is gone.
//!
//! In an overlay of thousands each peer's copy of the whole tree does not fit one machine. From
//! [`Plan::shared`] peers on, most peers ([`SAMPLE`]) do not get their COMMIT: it is counted and passed
//! on, piece by piece and hop by hop, on the tree that the leader checked and that all of them share.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::check;
use crate::limits;
use crate::proto::session::{LinkFacts, Sessions};
use crate::proto::{Action, Event, Timer};
use crate::types::{Bandwidth, EdgeKey, Incarnation, LinkId, PeerName, PublicKey, SessionId, Time};
use crate::wire::control::Message;

/// One hop.
pub const HOP: Duration = Duration::from_millis(1);
/// Of the peers of a large overlay, one in so many gets its whole tree.
pub const SAMPLE: usize = 100;
/// Long enough for every throttle to be forgotten.
const PAUSE: Duration = limits::THROTTLE_WINDOW.saturating_mul(2);
/// Few different capacities, so that ties are the rule.
const CAPACITIES_MBIT: [u64; 4] = [10, 100, 1_000, 10_000];

/// An overlay of equal degree.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub peers: usize,
    /// Even; a small overlay may have less.
    pub degree: usize,
    /// From this size on the committed tree is shared.
    pub shared: usize,
}

/// What one tree cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Sessions that were started, one after the other or at the same time.
    pub sessions: usize,
    /// All messages, also of sessions that were overtaken.
    pub messages: usize,
    /// Those of the session that was committed: the algorithm's, and START, DONE, MEMBERS, COMMIT.
    pub algorithm: usize,
    pub around: usize,
    /// From the first START to the last COMMIT, and from that of the session that was committed.
    pub hops: usize,
    pub hops_of_session: usize,
}

/// Trees of one overlay, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    pub links: usize,
    /// All peers start at the same moment.
    pub first: Cost,
    /// A link of the tree is gone.
    pub link_failure: Cost,
    /// A peer is gone.
    pub peer_failure: Cost,
}

/// Runs the three; panics if a tree is not the maximum one.
pub fn measure(plan: &Plan) -> Costs {
    let mut world = World::new(plan);
    let links = world.links.len();
    let first = world.run();
    let branches: Vec<EdgeKey> = world.forest().into_iter().collect();
    let branch = branches[world.draw(branches.len())].clone();
    world.fail_links(|key| *key == branch);
    let link_failure = world.run();
    let dead = world.draw(plan.peers);
    world.peers[dead].alive = false;
    let name = world.peers[dead].name.clone();
    world.fail_links(|key| key.other_end(&name).is_some());
    let peer_failure = world.run();
    Costs { links, first, link_failure, peer_failure }
}

struct World {
    now: Time,
    rng: ChaCha20Rng,
    peers: Vec<Peer>,
    links: BTreeSet<EdgeKey>,
    shared: bool,
    /// All hops are equal, so they arrive as they were sent.
    under_way: VecDeque<(Time, usize, LinkId, Parcel)>,
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    /// What the leader committed last, and each peer's neighbours in it.
    tree: Arc<[EdgeKey]>,
    branches: Vec<Vec<usize>>,
    starts: BTreeMap<SessionId, Time>,
    sent: BTreeMap<SessionId, Sent>,
    last_commit: Time,
}

struct Peer {
    name: PeerName,
    sessions: Sessions,
    /// By number: the neighbour, and its number of this link.
    links: Vec<(usize, LinkId)>,
    keys: Vec<EdgeKey>,
    up: Vec<bool>,
    alive: bool,
    /// It gets its whole tree.
    full: bool,
    wakes: Option<Time>,
    committed: Option<SessionId>,
}

#[expect(clippy::large_enum_variant, reason = "a message is the common one")]
enum Parcel {
    Message(Message),
    /// The whole COMMIT of a peer that shares the tree.
    Shared(SessionId),
}

#[derive(Clone, Copy, Default)]
struct Sent {
    algorithm: usize,
    around: usize,
}

impl World {
    fn new(plan: &Plan) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(plan.seed);
        let now = Time(0);
        let shared = plan.peers >= plan.shared;
        let identities: Vec<SigningKey> = (0..plan.peers)
            .map(|_| {
                let mut secret = [0; 32];
                rng.fill_bytes(&mut secret);
                SigningKey::from_bytes(&secret)
            })
            .collect();
        let name = |at: usize| PeerName::new(&format!("p{at:05}")).expect("a name");
        let mut peers: Vec<Peer> = (0..plan.peers)
            .map(|at| Peer {
                name: name(at),
                sessions: Sessions::new(
                    name(at),
                    identities[at].clone(),
                    ChaCha20Rng::seed_from_u64(rng.next_u64()),
                    now,
                ),
                links: Vec::new(),
                keys: Vec::new(),
                up: Vec::new(),
                alive: true,
                full: !shared || at.is_multiple_of(SAMPLE),
                wakes: None,
                committed: None,
            })
            .collect();
        for (one, other) in overlay(&mut rng, plan) {
            let mbit = CAPACITIES_MBIT[below(&mut rng, CAPACITIES_MBIT.len())];
            let capacity = Bandwidth::from_bps(mbit * 1_000_000);
            let key = EdgeKey::new(capacity, name(one), name(other));
            let ids =
                [one, other].map(|at| LinkId(u16::try_from(peers[at].links.len()).expect("few")));
            for (here, there, id) in [(one, other, ids[1]), (other, one, ids[0])] {
                peers[here].links.push((there, id));
                peers[here].keys.push(key.clone());
                peers[here].up.push(true);
            }
        }
        let links = peers.iter().flat_map(|peer| peer.keys.iter().cloned()).collect();
        for peer in &mut peers {
            peer.connect(now, &identities);
        }
        let mut world = Self {
            now,
            rng,
            links,
            shared,
            under_way: VecDeque::new(),
            timers: BinaryHeap::new(),
            tree: Arc::new([]),
            branches: vec![Vec::new(); peers.len()],
            peers,
            starts: BTreeMap::new(),
            sent: BTreeMap::new(),
            last_commit: now,
        };
        (0..plan.peers).for_each(|at| world.set_timer(at));
        world
    }

    fn draw(&mut self, bound: usize) -> usize {
        below(&mut self.rng, bound)
    }

    /// Both ends of these links learn that they are down.
    fn fail_links(&mut self, down: impl Fn(&EdgeKey) -> bool) {
        self.now = self.now + PAUSE;
        let now = self.now;
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            for (link, key) in (0..).map(LinkId).zip(&peer.keys) {
                let up = &mut peer.up[usize::from(link.0)];
                if down(key) && std::mem::take(up) {
                    peer.sessions.link_down(now, link);
                }
            }
            self.set_timer(at);
        }
        self.links.retain(|key| !down(key));
    }

    /// Until everybody has its tree again.
    fn run(&mut self) -> Cost {
        self.starts.clear();
        self.sent.clear();
        loop {
            let timer = self.timers.peek().map(|Reverse((at, _))| *at);
            let arrival = self.under_way.front().map(|(at, ..)| *at);
            match (timer, arrival) {
                (None, None) => break,
                (Some(timer), arrival) if arrival.is_none_or(|arrival| timer < arrival) => {
                    let Reverse((at, peer)) = self.timers.pop().expect("just seen");
                    self.now = self.now.max(at);
                    self.wake(at, peer);
                }
                _ => {
                    let (at, peer, link, parcel) = self.under_way.pop_front().expect("just seen");
                    self.now = at;
                    self.arrive(peer, link, parcel);
                }
            }
        }
        self.judge();
        self.cost()
    }

    /// Sessions that wait are started; nobody is silent here, so the other timers never matter.
    fn wake(&mut self, at: Time, peer: usize) {
        if self.peers[peer].wakes != Some(at) || !self.peers[peer].alive {
            return;
        }
        self.peers[peer].wakes = None;
        let now = self.now;
        let mut out = Vec::new();
        let sessions = &mut self.peers[peer].sessions;
        sessions.admit_waiting(now, &mut out).expect("all are honest");
        let due = |(at, timer): (Time, Timer)| timer == Timer::Throttle && at <= now;
        if sessions.timers().any(due) {
            sessions.start_due(now, &mut out);
        }
        self.carry_out(peer, out);
    }

    fn arrive(&mut self, peer: usize, link: LinkId, parcel: Parcel) {
        let now = self.now;
        if !self.peers[peer].alive || !self.peers[peer].up[usize::from(link.0)] {
            return;
        }
        let message = match parcel {
            Parcel::Message(message) => message,
            Parcel::Shared(session) => return self.pass_on(peer, link, &session),
        };
        let mut out = Vec::new();
        let sessions = &mut self.peers[peer].sessions;
        let done = if let Message::Start(start) = message {
            sessions.handle_start(now, link, start, &mut out)
        } else {
            sessions.handle(now, link, message, &mut out)
        };
        done.expect("all are honest");
        self.carry_out(peer, out);
    }

    fn carry_out(&mut self, peer: usize, out: Vec<Action>) {
        for action in out {
            #[expect(clippy::wildcard_enum_match_arm, reason = "sessions do little else")]
            match action {
                Action::Send { link, message } => self.send(peer, link, message),
                Action::Event(Event::SessionStarted { session, .. }) => {
                    self.starts.insert(session, self.now);
                }
                Action::Event(Event::TreeCommitted { edges, .. }) => self.committed(peer, &edges),
                _ => {}
            }
        }
        self.set_timer(peer);
    }

    fn send(&mut self, peer: usize, link: LinkId, message: Message) {
        let (to, at) = self.peers[peer].links[usize::from(link.0)];
        let arrival = self.now + HOP;
        #[expect(clippy::wildcard_enum_match_arm, reason = "sessions say nothing else")]
        let parcel = match &message {
            Message::Start(start) => {
                self.count(&start.session, |sent| sent.around += 1);
                Parcel::Message(message)
            }
            Message::Ghs { session, .. } => {
                self.count(session, |sent| sent.algorithm += 1);
                Parcel::Message(message)
            }
            Message::Commit { session, last, .. } => {
                self.count(session, |sent| sent.around += 1);
                if !self.peers[to].full && !last {
                    return;
                }
                let session = session.clone();
                let full = self.peers[to].full;
                if full { Parcel::Message(message) } else { Parcel::Shared(session) }
            }
            Message::Done { session } | Message::Members { session, .. } => {
                self.count(session, |sent| sent.around += 1);
                Parcel::Message(message)
            }
            other => unreachable!("sessions do not say {other:?}"),
        };
        self.under_way.push_back((arrival, to, at, parcel));
    }

    /// COMMIT at a peer that shares the tree: its pieces go to the other branches.
    fn pass_on(&mut self, peer: usize, from: LinkId, session: &SessionId) {
        if self.peers[peer].sessions.highest() != Some(session) {
            return;
        }
        self.note_commit(peer, session);
        let (before, _) = self.peers[peer].links[usize::from(from.0)];
        let edges = Arc::clone(&self.tree);
        let pieces = edges.len().div_ceil(limits::EDGES_PER_PIECE).max(1);
        for to in self.branches[peer].clone() {
            if to == before {
                continue;
            }
            let link = self.peers[peer].links.iter().position(|(there, _)| *there == to);
            let link = LinkId(u16::try_from(link.expect("a branch is a link")).expect("few"));
            if !self.peers[to].full {
                self.count(session, |sent| sent.around += pieces);
                let (_, at) = self.peers[peer].links[usize::from(link.0)];
                let parcel = Parcel::Shared(session.clone());
                self.under_way.push_back((self.now + HOP, to, at, parcel));
                continue;
            }
            let peers = u32::try_from(edges.len() + 1).expect("PEERS_MAX fits");
            for (at, piece) in edges.chunks(limits::EDGES_PER_PIECE).enumerate() {
                let (session, edges) = (session.clone(), piece.to_vec());
                let last = at + 1 == pieces;
                self.send(peer, link, Message::Commit { session, peers, edges, last });
            }
        }
    }

    /// A peer built the tree itself: the leader, or one that got its whole COMMIT.
    fn committed(&mut self, peer: usize, edges: &[EdgeKey]) {
        let session = self.peers[peer].sessions.highest().cloned().expect("it committed one");
        self.note_commit(peer, &session);
        if !self.shared || *self.tree == *edges {
            return;
        }
        self.tree = edges.into();
        self.branches.iter_mut().for_each(Vec::clear);
        let at: BTreeMap<&PeerName, usize> =
            (0..).zip(&self.peers).map(|(at, peer)| (&peer.name, at)).collect();
        for edge in edges {
            let (one, other) = (at[&edge.lower], at[&edge.higher]);
            self.branches[one].push(other);
            self.branches[other].push(one);
        }
    }

    fn note_commit(&mut self, peer: usize, session: &SessionId) {
        self.last_commit = self.now;
        self.peers[peer].committed = Some(session.clone());
    }

    fn count(&mut self, session: &SessionId, add: impl FnOnce(&mut Sent)) {
        match self.sent.get_mut(session) {
            Some(sent) => add(sent),
            None => add(self.sent.entry(session.clone()).or_default()),
        }
    }

    fn set_timer(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let ours = |(_, timer): &(Time, Timer)| matches!(timer, Timer::Throttle | Timer::Interval);
        let next = peer.sessions.timers().filter(ours).map(|(at, _)| at).min();
        if let Some(next) = next.filter(|next| peer.wakes.is_none_or(|wakes| *next < wakes)) {
            peer.wakes = Some(next);
            self.timers.push(Reverse((next, at)));
        }
    }

    fn forest(&self) -> BTreeSet<EdgeKey> {
        let links: Vec<EdgeKey> = self.links.iter().cloned().collect();
        check::maximum_forest(&links)
    }

    /// Everybody has committed one session's tree, and it is Kruskal's.
    fn judge(&self) {
        let forest = self.forest();
        let live = || self.peers.iter().filter(|peer| peer.alive);
        assert_eq!(forest.len() + 1, live().count(), "the overlay fell apart: take another seed");
        let session = live().next().and_then(|peer| peer.sessions.highest());
        for peer in live() {
            assert_eq!(peer.sessions.highest(), session, "{}", peer.name);
            assert_eq!(peer.committed.as_ref(), session, "{}", peer.name);
            if peer.full {
                let tree = peer.sessions.committed().expect("it committed one");
                assert!(tree.edges().iter().eq(&forest), "{} has another tree", peer.name);
            }
        }
        assert!(!self.shared || self.tree.iter().eq(&forest), "the shared tree is another one");
    }

    fn cost(&self) -> Cost {
        let live = self.peers.iter().find(|peer| peer.alive).expect("somebody is alive");
        let session = live.sessions.highest().expect("judged before");
        let Sent { algorithm, around } = self.sent[session];
        let since = |start: &Time| {
            let hops = self.last_commit.since(*start).as_micros() / HOP.as_micros();
            usize::try_from(hops).expect("a number of hops")
        };
        Cost {
            sessions: self.starts.len(),
            messages: self.sent.values().map(|sent| sent.algorithm + sent.around).sum(),
            algorithm,
            around,
            hops: self.starts.values().min().map_or(0, since),
            hops_of_session: since(&self.starts[session]),
        }
    }
}

impl Peer {
    fn connect(&mut self, now: Time, identities: &[SigningKey]) {
        let mut keys = BTreeMap::new();
        for (link, ((there, _), key)) in (0..).map(LinkId).zip(self.links.iter().zip(&self.keys)) {
            let neighbour = key.other_end(&self.name).expect("its own link").clone();
            keys.insert(
                neighbour.clone(),
                PublicKey(identities[*there].verifying_key().to_bytes()),
            );
            let facts = LinkFacts {
                incarnation: Incarnation(u64::from(link.0)),
                capacity: key.capacity,
                hop: HOP,
                session: None,
            };
            self.sessions.link_up(now, link, neighbour, facts);
        }
        self.sessions.configure(keys);
    }
}

/// Circles through all peers in random orders: connected, and of equal degree where no link of two
/// circles is the same.
fn overlay(rng: &mut ChaCha20Rng, plan: &Plan) -> BTreeSet<(usize, usize)> {
    let mut links = BTreeSet::new();
    for _ in 0..plan.degree / 2 {
        let mut order: Vec<usize> = (0..plan.peers).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, below(rng, at + 1));
        }
        for (at, one) in order.iter().enumerate() {
            let other = order[(at + 1) % order.len()];
            links.insert((*one.min(&other), *one.max(&other)));
        }
    }
    links.retain(|(one, other)| one != other);
    links
}

fn below(rng: &mut ChaCha20Rng, bound: usize) -> usize {
    usize::try_from(rng.next_u64() % bound as u64).expect("below an index")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(peers: usize, shared: usize) -> Plan {
        Plan { seed: 7, peers, degree: 6, shared }
    }

    /// 2.4, with START, DONE, MEMBERS and COMMIT around it.
    #[test]
    fn a_session_costs_what_the_specification_allows() {
        for peers in [3, 10, 64] {
            let costs = measure(&plan(peers, usize::MAX));
            let log = peers.next_power_of_two().ilog2() as usize;
            for cost in [costs.first, costs.link_failure, costs.peer_failure] {
                assert!(cost.sessions > 0 && cost.hops >= cost.hops_of_session, "{cost:?}");
                assert!(cost.algorithm <= 2 * costs.links + 5 * peers * log, "{cost:?}");
                assert!(cost.around <= 4 * costs.links + 3 * peers, "{cost:?}");
                assert!(cost.messages >= cost.algorithm + cost.around);
            }
        }
    }

    #[test]
    fn a_shared_tree_costs_what_a_copy_at_every_peer_costs() {
        for peers in [150, 250] {
            assert_eq!(measure(&plan(peers, usize::MAX)), measure(&plan(peers, 0)));
        }
    }
}

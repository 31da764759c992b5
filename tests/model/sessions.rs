//! M2: the session layer ([`Sessions`], the product's own, with its gate, throttle, algorithm and
//! echo wave) while links go down and come up and a peer loses its memory.
//!
//! ```text
//!   peer ── queue of each direction of a link ──► peer      Hello, messages, End of a connection
//! ```
//!
//! Steps: the next event of the script; a broken link is dialled again; the first item of a direction
//! arrives; a peer starts the session that its throttle holds back; some time passes at a peer; it
//! judges the STARTs again that had to wait. Any of them at any time: peers have clocks of their own, a
//! throttle may be over at once, and messages may take for ever. That is more than real timers allow,
//! so what holds here holds there.
//!
//! Left out: the two timers that exist for neighbours that hang (START not answered within 2 s, the
//! watchdog). Here nobody hangs, so peers must agree without their help, which is a stronger claim.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use spanway::proto::session::{LinkFacts, Sessions};
use spanway::proto::{Action, Timer};
use spanway::sim::check;
use spanway::types::{EdgeKey, Incarnation, LinkId, PeerName, SessionId, Time};
use spanway::wire::control::Message;
use stateright::{Model, Property};

use crate::graphs::{Case, name};
use crate::wires::{Item, Sent, Wire};

/// What happens from outside, in the order of the script, each at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The link carries nothing any more; what was under way is lost.
    Cut(usize),
    Restore(usize),
    /// The peer is gone. What it sent before still arrives, or not.
    Crash(usize, Sent),
    /// It starts again, knowing nothing, least of all its counter.
    Restart(usize),
}

/// One overlay, one script.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    overlay: Case,
    script: Vec<Event>,
    /// The script begins when the first tree is committed everywhere; otherwise when the peers start.
    committed: bool,
    /// How much time passes at once at a peer, at most what sessions of one initiator must be apart.
    pass: Duration,
    /// Skip orders of steps that do not concern each other.
    reduced: bool,
    /// Planted: what was under way on a cut link arrives on the next connection.
    leftovers: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    peers: Vec<Option<Arc<Peer>>>,
    links: Vec<Wire>,
    /// Events of the script that struck.
    struck: usize,
    /// What no honest peer may do.
    wrong: Option<String>,
}

#[derive(Clone)]
struct Peer {
    sessions: Sessions,
    clock: Time,
    /// How much time passes here at once.
    pass: Duration,
    outline: u64,
    /// It remembers something that it will have forgotten after `pass`.
    ages: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Strike(Event),
    Dial { link: usize },
    Arrive { link: usize, side: usize },
    Start { peer: usize },
    Pass { peer: usize },
    Admit { peer: usize },
}

impl Model for Life {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut world = World::new(&self.overlay, self.pass);
        while self.committed && !world.complete(&self.overlay) {
            let mut steps = Vec::new();
            self.steps(&world, &mut steps);
            let step = steps.into_iter().find(|step| !matches!(step, Step::Strike(_)));
            self.take(&mut world, step.expect("a first tree comes without events"));
        }
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.wrong.is_none() {
            self.steps(world, steps);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("honest peers keep the rules", |_, world: &World| {
                world.wrong.is_none()
            }),
            Property::always(
                "at rest all agree on Kruskal's forest",
                |life: &Self, world: &World| !life.at_rest(world) || world.complete(&life.overlay),
            ),
            Property::sometimes("the world comes to rest", |life: &Self, world: &World| {
                life.at_rest(world)
            }),
        ]
    }
}

impl Life {
    pub(crate) fn new(overlay: Case, script: &[Event], pass: Duration) -> Self {
        let script = script.to_vec();
        Self { overlay, script, committed: true, pass, reduced: true, leftovers: false }
    }

    pub(crate) fn starting(self) -> Self {
        Self { committed: false, ..self }
    }

    pub(crate) fn in_all_orders(self) -> Self {
        Self { reduced: false, ..self }
    }

    pub(crate) fn with_leftovers(self) -> Self {
        Self { leftovers: true, ..self }
    }

    /// Steps of different peers that do not touch each other's queues lead to the same state in either
    /// order, so one order is enough (a persistent set): where a peer has its next item on every
    /// link and no dialling or event can concern it, its own steps go first.
    fn steps(&self, world: &World, steps: &mut Vec<Step>) {
        self.all_steps(world, steps);
        let first = (0..world.peers.len()).find(|peer| self.is_undisturbed(world, *peer));
        if let Some(first) = first.filter(|_| self.reduced) {
            let its = |step: &Step| match *step {
                Step::Strike(_) | Step::Dial { .. } => false,
                Step::Arrive { link, side } => self.end(link, side) == first,
                Step::Start { peer } | Step::Pass { peer } | Step::Admit { peer } => peer == first,
            };
            if steps.iter().any(its) {
                steps.retain(its);
            }
        }
    }

    fn end(&self, link: usize, side: usize) -> usize {
        let (one, other, _) = self.overlay.links[link];
        [one, other][side]
    }

    fn is_undisturbed(&self, world: &World, peer: usize) -> bool {
        let concerns = |event: &Event| match *event {
            Event::Cut(link) | Event::Restore(link) => {
                (0..2).any(|side| self.end(link, side) == peer)
            }
            Event::Crash(other, _) | Event::Restart(other) => {
                other == peer
                    || self
                        .overlay
                        .links
                        .iter()
                        .any(|(a, b, _)| (*a, *b) == (peer, other) || (*a, *b) == (other, peer))
            }
        };
        let undisturbed = |(link, wire): (usize, &Wire)| {
            let Some(side) = (0..2).find(|side| self.end(link, *side) == peer) else { return true };
            let broken = wire.newest == wire.lost;
            let silent = broken && (wire.cut || !self.ends_live(world, link));
            let whole = !broken && !wire.queues[side].is_empty();
            silent || whole
        };
        world.peers[peer].is_some()
            && !self.script[world.struck..].iter().any(concerns)
            && world.links.iter().enumerate().all(undisturbed)
    }

    fn all_steps(&self, world: &World, steps: &mut Vec<Step>) {
        for (link, wire) in world.links.iter().enumerate() {
            if wire.needs_dialling() && self.ends_live(world, link) {
                steps.push(Step::Dial { link });
            }
            let waiting = (0..2).filter(|side| !wire.queues[*side].is_empty());
            steps.extend(waiting.map(|side| Step::Arrive { link, side }));
        }
        for (at, peer) in world.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            if peer.has(Timer::Throttle, Time(u64::MAX)) {
                steps.push(Step::Start { peer: at });
            }
            if peer.ages {
                steps.push(Step::Pass { peer: at });
            }
            if peer.has(Timer::Interval, peer.clock) {
                steps.push(Step::Admit { peer: at });
            }
        }
        steps.extend(self.script.get(world.struck).map(|event| Step::Strike(*event)));
    }

    fn at_rest(&self, world: &World) -> bool {
        let mut steps = Vec::new();
        self.all_steps(world, &mut steps);
        let waits = |peer: &Arc<Peer>| peer.has(Timer::Interval, Time(u64::MAX));
        steps.iter().all(|step| matches!(step, Step::Pass { .. }))
            && !world.peers.iter().flatten().any(waits)
    }

    /// Nothing can happen any more.
    pub(crate) fn is_over(&self, world: &World) -> bool {
        let mut steps = Vec::new();
        self.all_steps(world, &mut steps);
        steps.is_empty()
    }

    fn ends_live(&self, world: &World, link: usize) -> bool {
        let (one, other, _) = self.overlay.links[link];
        world.peers[one].is_some() && world.peers[other].is_some()
    }

    fn take(&self, world: &mut World, step: Step) {
        match step {
            Step::Strike(event) => {
                world.struck += 1;
                self.strike(world, event);
            }
            Step::Dial { link } => {
                let (one, other, _) = self.overlay.links[link];
                let said = [other, one].map(|peer| world.highest(peer));
                world.links[link].dial(said);
            }
            Step::Arrive { link, side } => self.arrive(world, link, side),
            Step::Start { peer } => self.act(world, peer, |sessions, now, out| {
                sessions.start_due(now, out);
                Ok(())
            }),
            Step::Pass { peer } => world.pass(peer),
            Step::Admit { peer } => self.act(world, peer, |sessions, now, out| {
                sessions.admit_waiting(now, out).map_err(|misconduct| misconduct.to_string())
            }),
        }
    }

    fn strike(&self, world: &mut World, event: Event) {
        match event {
            Event::Cut(link) => world.links[link].cut(self.leftovers),
            Event::Restore(link) => world.links[link].cut = false,
            Event::Crash(peer, sent) => {
                world.peers[peer] = None;
                for (link, (one, other, _)) in self.overlay.links.iter().enumerate() {
                    if *one == peer || *other == peer {
                        world.links[link].crash(usize::from(*one != peer), sent);
                    }
                }
            }
            Event::Restart(peer) => world.peers[peer] = Some(Arc::new(Peer::new(peer, self.pass))),
        }
    }

    /// The first item towards one end of a link.
    fn arrive(&self, world: &mut World, link: usize, side: usize) {
        let (one, other, key) = &self.overlay.links[link];
        let (at, from) = if side == 0 { (*one, *other) } else { (*other, *one) };
        let wire = &mut world.links[link];
        let item = wire.queues[side].pop_front().expect("it is under way");
        let id = LinkId(u16::try_from(link).expect("a small overlay"));
        match item {
            Item::Hello(connection, session) => {
                wire.at[side] = Some(connection);
                let facts = LinkFacts {
                    incarnation: Incarnation(connection),
                    capacity: key.capacity,
                    hop: Duration::from_millis(1),
                    session,
                };
                self.act(world, at, |sessions, now, _| {
                    sessions.link_up(now, id, name(from), facts);
                    Ok(())
                });
            }
            Item::End(connection) => {
                if wire.at[side] == Some(connection) {
                    wire.at[side] = None;
                    self.act(world, at, |sessions, now, _| {
                        sessions.link_down(now, id);
                        Ok(())
                    });
                }
            }
            Item::Message(parcel) => {
                let message = parcel.0.0.clone();
                self.act(world, at, |sessions, now, out| {
                    let result = if let Message::Start(start) = message {
                        sessions.handle_start(now, id, start, out)
                    } else {
                        sessions.handle(now, id, message, out)
                    };
                    result.map_err(|misconduct| misconduct.to_string())
                });
            }
        }
    }

    /// Lets a peer do something and puts what it sends on the wires.
    fn act(
        &self,
        world: &mut World,
        at: usize,
        does: impl FnOnce(&mut Sessions, Time, &mut Vec<Action>) -> Result<(), String>,
    ) {
        let Some(peer) = &mut world.peers[at] else { return };
        let peer = Arc::make_mut(peer);
        let mut out = Vec::new();
        let done = catch_unwind(AssertUnwindSafe(|| {
            let done = does(&mut peer.sessions, peer.clock, &mut out);
            peer.sessions.invariants();
            peer.sessions.take_fresh();
            done
        }));
        peer.draw_outline();
        if peer.sessions.counters().alarms > 0 {
            world.wrong = Some("a complete tree was wrong".into());
        }
        if let Err(wrong) = done.unwrap_or_else(|_| Err("a peer panics".into())) {
            world.wrong = Some(wrong);
        }
        for action in out {
            if let Action::Send { link, message } = action {
                let link = usize::from(link.0);
                let side = usize::from(self.overlay.links[link].0 != at);
                world.links[link].send(side, message);
            }
        }
    }
}

impl World {
    fn new(overlay: &Case, pass: Duration) -> Self {
        let peers = (0..overlay.peers).map(|peer| Some(Arc::new(Peer::new(peer, pass)))).collect();
        Self { peers, links: vec![Wire::new(); overlay.links.len()], struck: 0, wrong: None }
    }

    fn highest(&self, peer: usize) -> Option<SessionId> {
        self.peers[peer].as_ref()?.sessions.highest().cloned()
    }

    fn pass(&mut self, peer: usize) {
        if let Some(peer) = &mut self.peers[peer] {
            let peer = Arc::make_mut(peer);
            peer.clock = peer.clock + peer.pass;
            peer.draw_outline();
        }
    }

    /// All peers of a component have committed the tree of one session, and it is Kruskal's.
    fn complete(&self, overlay: &Case) -> bool {
        let live: BTreeMap<PeerName, &Sessions> = (0..)
            .zip(&self.peers)
            .filter_map(|(at, peer)| Some((name(at), &peer.as_ref()?.sessions)))
            .collect();
        let whole = |(_, wire): &(&(usize, usize, EdgeKey), &Wire)| !wire.cut;
        let links = overlay.links.iter().zip(&self.links).filter(whole);
        let both = |key: &EdgeKey| live.contains_key(&key.lower) && live.contains_key(&key.higher);
        let links: Vec<EdgeKey> = links.map(|((_, _, key), _)| key.clone()).filter(both).collect();
        let forest = check::maximum_forest(&links);
        let names: Vec<PeerName> = live.keys().cloned().collect();
        check::components(&names, &links).into_iter().all(|members| {
            let inside = |edge: &&EdgeKey| members.contains(&edge.lower);
            let tree: BTreeSet<EdgeKey> = forest.iter().filter(inside).cloned().collect();
            let session = live[&members[0]].highest();
            members.iter().all(|member| {
                let sessions = live[member];
                let committed = sessions.committed();
                sessions.complete()
                    && sessions.nothing_held()
                    && sessions.highest() == session
                    && committed.map(|overlay| overlay.session()) == session
                    && committed.is_some_and(|overlay| overlay.edges().iter().eq(&tree))
            })
        })
    }
}

impl Peer {
    fn new(at: usize, pass: Duration) -> Self {
        let identity = SigningKey::from_bytes(&[u8::try_from(at).expect("a small overlay"); 32]);
        let rng = ChaCha20Rng::seed_from_u64(0);
        // Late enough that 200 ms before is a time, too.
        let clock = Time(1_000_000);
        let sessions = Sessions::new(name(at), identity, rng, clock);
        let mut peer = Self { sessions, clock, pass, outline: 0, ages: false };
        peer.draw_outline();
        peer
    }

    fn draw_outline(&mut self) {
        self.outline = self.outline_at(self.clock);
        self.ages = self.outline != self.outline_at(self.clock + self.pass);
    }

    fn outline_at(&self, now: Time) -> u64 {
        let mut digest = DefaultHasher::new();
        self.sessions.outline(now, &mut digest);
        digest.finish()
    }

    fn has(&self, timer: Timer, by: Time) -> bool {
        self.sessions.timers().any(|(at, which)| which == timer && at <= by)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let committed = self.sessions.committed().map(|tree| (tree.session(), tree.edges()));
        let timers: Vec<_> = self.sessions.timers().map(|(_, timer)| timer).collect();
        f.debug_struct("Peer")
            .field("highest", &self.sessions.highest())
            .field("committed", &committed)
            .field("timers", &timers)
            .finish()
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.outline == other.outline
    }
}

impl Eq for Peer {}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, into: &mut H) {
        self.outline.hash(into);
    }
}

//! M3: the reservation of bandwidth ([`Channels`], the product's own, with its ledgers, claims and
//! timers) along a chain of peers, while requests compete for what fits only one of them.
//!
//! ```text
//!   p0 ── wire ── p1 ── wire ── p2      each link is wide enough for one request at a time
//! ```
//!
//! Steps: a request is asked; the next event of the script strikes; a broken link is dialled again; the
//! first item of a direction arrives; a local socket is open; a peer hears of a tree after its link
//! came up; the next timer of a peer fires. Any of them at any time: peers have clocks of their own, and
//! a message may take for ever. How often timers may fire in between is bounded; where nothing else can
//! happen any more, the world goes on by itself, all timers in their order, until what must be true in
//! the end is true, or [`BOUND`] is over.
//!
//! Loss is a link that goes down and comes up again: what was under way is lost and both ends read that
//! at their own times. On a connection that stays, TCP loses nothing and brings nothing twice; wires that
//! do ([`Wires`]) stand for it anyway: what peers then no longer agree on must be gone once leases have
//! run out, and not before, which is how the checker shows that it would see a peer that forgets something.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use spanway::limits;
use spanway::proto::channel::{Channels, Terms};
use spanway::proto::view::{ChannelState, ChannelView};
use spanway::proto::{Action, Answer, Choice, OpenRequest, Side};
use spanway::types::{Bandwidth, ChannelId, LinkId, PeerName, Reject, RequestId, Time};
use spanway::wire::control::Message;
use spanway::wire::proof;
use spanway::wire::queue::{Queue, QueueBody};
use stateright::{Model, Property};

use crate::graphs::name;
use crate::hops::{
    Chain, Peer, USABLE, link_between, position, service, steps_of, told_of_line, towards,
};
use crate::wires::{Item, Sent, Wire};

/// What each wish takes forward, in bit/s.
const RATE: u64 = 6;
/// Every request is answered by then.
const PATIENCE: Duration = Duration::from_secs(6);
/// Who waits says so at least every three seconds and tries again 150 ms later: after this nobody waits
/// for room that is there.
const HEARD: Duration = Duration::from_millis(3_500);
/// Moves are given up, leases have run out, waiting requests have their answer.
const BOUND: Duration = Duration::from_secs(45);
/// More timers than fire within that time; a world that reaches it goes round in circles.
const FIRED_MAX: usize = 2_000;
/// Ids of requests that close a channel begin here.
const CLOSING: u64 = 100;

/// Somebody wants a channel from one peer to another, of [`RATE`] forward and this much back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) back: u64,
    /// It stands in line for room.
    pub(crate) waits: bool,
}

/// What happens from outside, in the order of the script, each at any time that it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The link carries nothing any more; what was under way is lost.
    Cut(usize),
    Restore(usize),
    Crash(usize, Sent),
    /// It starts again, knowing nothing.
    Restart(usize),
    /// The channel of this wish is open, and its asker closes it.
    Close(usize),
    /// The wish has no answer yet, and its asker wants none any more.
    Withdraw(usize),
    /// Every timer of the peer that is due within a lease fires at once: it was stopped for so long.
    Sleep(usize),
}

/// How the control connections behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wires {
    /// As TCP does.
    Tcp,
    /// One message is lost though its connection stays.
    Losing,
    /// One message comes twice.
    Doubling,
}

/// A bug that the checker has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// What was lost on a connection that stays is to be forgotten before any lease runs out.
    NoLeases,
    /// The second peer believes that its links are wider than they are.
    WiderLinks,
    /// Requests say that they are open channels which only move: those wait behind nobody.
    Jumping,
}

/// One chain, some wishes, one script.
#[derive(Clone, Debug)]
pub(crate) struct Contest {
    peers: usize,
    wishes: Vec<Wish>,
    /// So many of the wishes are open channels from the start.
    open: usize,
    script: Vec<Event>,
    /// How often timers of each peer may fire before everything else has happened.
    ticks: usize,
    wires: Wires,
    planted: Option<Planted>,
    /// Skip orders of steps that do not concern each other.
    reduced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    peers: Vec<Option<Arc<Peer>>>,
    lives: Vec<u64>,
    links: Vec<Wire>,
    asked: Vec<Option<Asked>>,
    tickets: BTreeMap<ChannelId, u64>,
    /// Events of the script that struck.
    struck: usize,
    /// A message was lost or doubled.
    spoilt: bool,
    ticks: Vec<usize>,
    /// What no honest peer may do.
    wrong: Option<String>,
}

/// A wish, at its peer's first life or a later one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    life: u64,
    /// The channel, or why there is none.
    answer: Option<Result<ChannelId, Reject>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Ask {
        wish: usize,
    },
    Strike(Event),
    Dial {
        link: usize,
    },
    Arrive {
        link: usize,
        side: usize,
    },
    /// It arrives, and will once more.
    Double {
        link: usize,
        side: usize,
    },
    Lose {
        link: usize,
        side: usize,
    },
    Opened {
        peer: usize,
    },
    Tree {
        peer: usize,
    },
    Tick {
        peer: usize,
    },
}

impl Model for Contest {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut world = World::new(self);
        for wish in 0..=self.open {
            self.calm_down(&mut world);
            if wish < self.open {
                self.take(&mut world, Step::Ask { wish });
            }
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
            Property::always(
                "I4, one answer, and nobody passes an older request in line",
                |_, world: &World| world.wrong.is_none(),
            ),
            Property::always(
                "once all messages have come, what is held has an owner",
                |contest: &Self, world: &World| {
                    let strict =
                        contest.wires == Wires::Tcp || contest.planted == Some(Planted::NoLeases);
                    !strict || !contest.at_rest(world) || world.orphan().is_none()
                },
            ),
            Property::always(
                "in the end all are answered and nothing is left over",
                |contest: &Self, world: &World| {
                    !contest.at_rest(world) || contest.settle(world).is_none()
                },
            ),
            Property::sometimes("the world comes to rest", |contest: &Self, world: &World| {
                contest.at_rest(world)
            }),
        ]
    }
}

impl Contest {
    pub(crate) fn new(peers: usize, wishes: &[Wish]) -> Self {
        Self {
            peers,
            wishes: wishes.to_vec(),
            open: 0,
            script: Vec::new(),
            ticks: 0,
            wires: Wires::Tcp,
            planted: None,
            reduced: true,
        }
    }

    /// The first wishes are open channels when the contest begins.
    pub(crate) fn with_open(self, open: usize) -> Self {
        Self { open, ..self }
    }

    pub(crate) fn with_script(self, script: &[Event]) -> Self {
        Self { script: script.to_vec(), ..self }
    }

    pub(crate) fn with_ticks(self, ticks: usize) -> Self {
        Self { ticks, ..self }
    }

    pub(crate) fn over(self, wires: Wires) -> Self {
        // Which message is spoilt is one choice of all peers together.
        Self { wires, reduced: false, ..self }
    }

    pub(crate) fn with(self, planted: Planted) -> Self {
        Self { planted: Some(planted), ..self }
    }

    pub(crate) fn in_all_orders(self) -> Self {
        Self { reduced: false, ..self }
    }

    /// As in M2: where a peer has its next item on every link and no dialling or event can concern it, its
    /// own steps go first.
    fn steps(&self, world: &World, steps: &mut Vec<Step>) {
        self.all_steps(world, steps);
        let first = (0..self.peers).find(|peer| self.is_undisturbed(world, *peer));
        if let Some(first) = first.filter(|_| self.reduced) {
            let its = |step: &Step| match *step {
                Step::Strike(_) | Step::Dial { .. } => false,
                Step::Ask { wish } => self.wishes[wish].from == first,
                Step::Arrive { link, side }
                | Step::Double { link, side }
                | Step::Lose { link, side } => link + side == first,
                Step::Opened { peer } | Step::Tree { peer } | Step::Tick { peer } => peer == first,
            };
            if steps.iter().any(its) {
                steps.retain(its);
            }
        }
    }

    fn is_undisturbed(&self, world: &World, peer: usize) -> bool {
        let near = |other: usize| other.abs_diff(peer) <= 1;
        let concerns = |event: &Event| match *event {
            Event::Cut(link) | Event::Restore(link) => [link, link + 1].contains(&peer),
            Event::Crash(other, _) | Event::Restart(other) => near(other),
            Event::Close(wish) | Event::Withdraw(wish) => self.wishes[wish].from == peer,
            Event::Sleep(other) => other == peer,
        };
        let undisturbed = |(link, wire): (usize, &Wire)| {
            let Some(side) = peer.checked_sub(link).filter(|side| *side < 2) else { return true };
            let broken = wire.newest == wire.lost;
            let silent = broken && (wire.cut || !world.ends_live(link));
            let whole = !broken && !wire.queues[side].is_empty();
            silent || whole
        };
        world.peers[peer].is_some()
            && !self.script[world.struck..].iter().any(concerns)
            && world.links.iter().enumerate().all(undisturbed)
    }

    fn all_steps(&self, world: &World, steps: &mut Vec<Step>) {
        for (wish, Wish { from, .. }) in self.wishes.iter().enumerate() {
            if world.asked[wish].is_none() && world.peers[*from].is_some() && wish >= self.open {
                steps.push(Step::Ask { wish });
            }
        }
        let next = self.script.get(world.struck);
        steps.extend(next.filter(|event| self.can(world, **event)).map(|e| Step::Strike(*e)));
        for (link, wire) in world.links.iter().enumerate() {
            if wire.needs_dialling() && world.ends_live(link) {
                steps.push(Step::Dial { link });
            }
            for side in 0..2 {
                let Some(first) = wire.queues[side].front() else { continue };
                steps.push(Step::Arrive { link, side });
                if !world.spoilt && matches!(first, Item::Message(_)) {
                    match self.wires {
                        Wires::Tcp => {}
                        Wires::Losing => steps.push(Step::Lose { link, side }),
                        Wires::Doubling => steps.push(Step::Double { link, side }),
                    }
                }
            }
        }
        for (at, peer) in world.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            if !peer.opening.is_empty() {
                steps.push(Step::Opened { peer: at });
            }
            if peer.news {
                steps.push(Step::Tree { peer: at });
            }
            if world.ticks[at] < self.ticks && peer.machine.poll_timeout().is_some() {
                steps.push(Step::Tick { peer: at });
            }
        }
    }

    fn can(&self, world: &World, event: Event) -> bool {
        let asked = |wish: usize| {
            let asked = world.asked[wish].as_ref();
            asked.filter(|asked| world.lives(self.wishes[wish].from, asked.life))
        };
        match event {
            Event::Close(wish) => asked(wish).is_some_and(
                |asked| matches!(&asked.answer, Some(Ok(channel)) if world.shows(channel)),
            ),
            Event::Withdraw(wish) => asked(wish).is_some_and(|asked| asked.answer.is_none()),
            Event::Sleep(peer) => world.peers[peer].is_some(),
            Event::Cut(_) | Event::Restore(_) | Event::Crash(..) | Event::Restart(_) => true,
        }
    }

    /// Nothing is left to happen but timers.
    fn at_rest(&self, world: &World) -> bool {
        let mut steps = Vec::new();
        self.all_steps(world, &mut steps);
        steps.iter().all(|step| matches!(step, Step::Tick { .. }))
    }

    /// Nothing can happen any more.
    pub(crate) fn is_over(&self, world: &World) -> bool {
        let mut steps = Vec::new();
        self.all_steps(world, &mut steps);
        steps.is_empty()
    }

    /// Everything that is under way arrives, no timer fires.
    fn calm_down(&self, world: &mut World) {
        loop {
            let mut steps = Vec::new();
            self.all_steps(world, &mut steps);
            let own = |step: &Step| {
                matches!(
                    step,
                    Step::Dial { .. }
                        | Step::Arrive { .. }
                        | Step::Opened { .. }
                        | Step::Tree { .. }
                )
            };
            let Some(step) = steps.into_iter().find(own) else { return };
            self.take(world, step);
        }
    }

    /// Lets time pass everywhere until all is in order; says what is not if it never comes to that.
    fn settle(&self, world: &World) -> Option<String> {
        let mut world = world.clone();
        let mut passed = Duration::ZERO;
        let mut heard = Duration::ZERO;
        for _ in 0..FIRED_MAX {
            self.calm_down(&mut world);
            let open = self.unfinished(&world);
            if world.wrong.is_some() || open.is_none() {
                return world.wrong;
            }
            let overlooked = self.overlooked(&world);
            if overlooked.is_none() {
                heard = passed;
            }
            if passed > BOUND || passed - heard > HEARD {
                return overlooked.or(open);
            }
            passed += self.fire_next(&mut world)?;
        }
        Some(format!("{FIRED_MAX} timers fired within {passed:?}"))
    }

    /// Time goes on everywhere to the next timer of anybody.
    fn fire_next(&self, world: &mut World) -> Option<Duration> {
        let left = |peer: &Arc<Peer>| Some(peer.machine.poll_timeout()?.0.since(peer.clock));
        let step = world.peers.iter().flatten().filter_map(left).min()?;
        for at in 0..self.peers {
            let Some(peer) = &mut world.peers[at] else { continue };
            let due = left(peer) == Some(step);
            let peer = Arc::make_mut(peer);
            peer.clock = peer.clock + step;
            if due {
                self.act(world, at, |machine, now, paths, out| {
                    machine.handle_timeout(now, paths, out);
                });
            }
        }
        Some(step)
    }

    /// What is not as it must be in the end.
    fn unfinished(&self, world: &World) -> Option<String> {
        for (wish, asked) in world.asked.iter().enumerate() {
            let Some(asked) = asked else { continue };
            if asked.answer.is_none() && world.lives(self.wishes[wish].from, asked.life) {
                return Some(format!("wish {wish} has no answer"));
            }
        }
        let claimed = |peer: &&Arc<Peer>| peer.machine.claims() > 0;
        if world.peers.iter().flatten().any(|peer| claimed(&peer)) {
            return Some("somebody stands in line who has an answer".into());
        }
        let unsettled = |view: &&ChannelView| view.state != ChannelState::Open;
        let views: Vec<_> = world.views().map(|(_, view)| view).collect();
        let unsettled = views.iter().find(unsettled).map(|view| format!("not open: {view:?}"));
        unsettled.or_else(|| world.orphan())
    }

    /// A request that waits though all its path has room for it, and none is before it.
    fn overlooked(&self, world: &World) -> Option<String> {
        let waits = |view: &ChannelView| view.state == ChannelState::Queued;
        let waiting = world.views().map(|(_, view)| view).filter(waits);
        let first = waiting.min_by_key(|view| (world.tickets.get(&view.id), view.id.clone()))?;
        let from = position(&first.id.source);
        let to = position(&first.peer);
        let room = steps_of(from, to).all(|(at, next)| {
            let fits = |at: usize, link: LinkId, rate: Bandwidth| {
                let peer = world.peers[at].as_ref();
                let up = peer.and_then(|peer| peer.machine.free(link));
                up.is_some_and(|(free, _)| rate <= free)
            };
            let link = link_between(at, next);
            fits(at, link, first.rate) && fits(next, link, first.rate_back)
        });
        room.then(|| format!("{} waits though there is room", first.id))
    }

    fn take(&self, world: &mut World, step: Step) {
        match step {
            Step::Ask { wish } => self.ask(world, wish),
            Step::Strike(event) => {
                world.struck += 1;
                self.strike(world, event);
            }
            Step::Dial { link } => world.links[link].dial([None, None]),
            Step::Arrive { link, side } => {
                let item = world.links[link].queues[side].pop_front().expect("it is under way");
                self.arrive(world, link, side, item);
            }
            Step::Double { link, side } => {
                world.spoilt = true;
                let item = world.links[link].queues[side].front().expect("it is under way").clone();
                self.arrive(world, link, side, item);
            }
            Step::Lose { link, side } => {
                world.spoilt = true;
                world.links[link].queues[side].pop_front();
            }
            Step::Opened { peer } => {
                let channel = world.peer(peer).opening.pop_front().expect("it is being opened");
                self.act(world, peer, |machine, now, paths, out| {
                    machine.end_opened(now, &channel, Ok(None), paths, out);
                });
            }
            Step::Tree { peer } => {
                world.peer(peer).news = false;
                self.act(world, peer, |machine, now, paths, out| {
                    machine.tree_committed(now, paths, out);
                });
            }
            Step::Tick { peer } => {
                world.ticks[peer] += 1;
                let wakes = world.peer(peer).machine.poll_timeout().expect("it has a timer").0;
                self.wake(world, peer, wakes);
            }
        }
    }

    fn ask(&self, world: &mut World, wish: usize) {
        let Wish { from, to, back, waits } = self.wishes[wish];
        let request = OpenRequest {
            peer: name(to),
            service: service(),
            name: None,
            rate: Bandwidth::from_bps(RATE),
            rate_back: Bandwidth::from_bps(back),
            choice: Choice::default(),
            avoid: Vec::new(),
            deadline: PATIENCE,
            wait: waits,
            protect: false,
            plain: true,
        };
        world.asked[wish] = Some(Asked { life: world.lives[from], answer: None });
        self.act(world, from, |machine, now, paths, out| {
            machine.open(now, RequestId(wish as u64), request, paths, out);
        });
    }

    fn strike(&self, world: &mut World, event: Event) {
        match event {
            Event::Cut(link) => world.links[link].cut(false),
            Event::Restore(link) => world.links[link].cut = false,
            Event::Crash(peer, sent) => {
                world.peers[peer] = None;
                for link in 0..self.peers - 1 {
                    if let Some(side) = peer.checked_sub(link).filter(|side| *side < 2) {
                        world.links[link].crash(side, sent);
                    }
                }
            }
            Event::Restart(peer) => {
                world.lives[peer] += 1;
                world.peers[peer] = Some(Arc::new(Peer::new(peer, world.lives[peer])));
            }
            Event::Close(wish) => {
                let Some(Asked { answer: Some(Ok(channel)), .. }) = &world.asked[wish] else {
                    unreachable!("it is open")
                };
                let (id, channel) = (RequestId(CLOSING + wish as u64), channel.clone());
                self.act(world, self.wishes[wish].from, |machine, now, _, out| {
                    machine.close(now, id, &channel, out);
                });
            }
            Event::Withdraw(wish) => {
                self.act(world, self.wishes[wish].from, |machine, _, _, out| {
                    machine.withdraw(RequestId(wish as u64), out);
                });
            }
            Event::Sleep(peer) => {
                let wakes = world.peer(peer).clock + limits::LEASE;
                self.wake(world, peer, wakes);
            }
        }
    }

    /// The timers of a peer that are due by then fire.
    fn wake(&self, world: &mut World, at: usize, then: Time) {
        let peer = world.peer(at);
        peer.clock = peer.clock.max(then);
        let now = peer.clock;
        peer.lines.retain(|_, until| *until > now);
        self.act(world, at, |machine, now, paths, out| machine.handle_timeout(now, paths, out));
    }

    /// An item comes to one end of a link.
    fn arrive(&self, world: &mut World, link: usize, side: usize, item: Item) {
        let (at, from) = (link + side, link + 1 - side);
        let wire = &mut world.links[link];
        let id = LinkId(u16::try_from(link).expect("a short chain"));
        match item {
            Item::Hello(connection, _) => {
                wire.at[side] = Some(connection);
                let terms = Terms {
                    peer: name(from),
                    usable: Bandwidth::from_bps(self.usable(at)),
                    max_payload: 1_400,
                    version: proof::VERSION,
                };
                world.peer(at).news = true;
                self.act(world, at, |machine, now, _, out| machine.link_up(now, id, terms, out));
            }
            Item::End(connection) => {
                if wire.at[side] == Some(connection) {
                    wire.at[side] = None;
                    world.peer(at).forget_lines_over(at, id);
                    self.act(world, at, |machine, now, _, out| machine.link_down(now, id, out));
                }
            }
            Item::Message(parcel) => {
                let message = parcel.0.0.clone();
                world.peer(at).note_arrival(&message);
                let told = told_of_line(&message).cloned();
                self.act(world, at, |machine, now, _, out| machine.message(now, id, message, out));
                if let Some(channel) = told {
                    world.peer(at).note_own_place(at, &channel);
                }
            }
        }
    }

    /// What the peer is told that its links carry.
    fn usable(&self, at: usize) -> u64 {
        let wider = self.planted == Some(Planted::WiderLinks) && at == 1;
        if wider { 2 * USABLE } else { USABLE }
    }

    /// Lets a peer do something, judges it, and puts what it sends on the wires.
    fn act(
        &self,
        world: &mut World,
        at: usize,
        does: impl FnOnce(&mut Channels, Time, &Chain, &mut Vec<Action>),
    ) {
        let Some(peer) = &mut world.peers[at] else { return };
        let peer = Arc::make_mut(peer);
        let chain = Chain { me: at, peers: self.peers };
        let mut out = Vec::new();
        let done = catch_unwind(AssertUnwindSafe(|| {
            does(&mut peer.machine, peer.clock, &chain, &mut out);
            peer.machine.tell_room(peer.clock, &mut out);
            peer.machine.invariants();
        }));
        let mut wrong = done.err().map(|_| "a peer panics".to_owned());
        wrong = wrong.or_else(|| peer.oversold(at, self.usable(at)));
        for action in out {
            match action {
                Action::Send { link, mut message } => {
                    world.note_ticket(&message);
                    wrong = wrong.or_else(|| world.passed(at, link, &message));
                    world.peer(at).note_promise(at, &message);
                    if let (Message::Reserve(reserve), Some(Planted::Jumping)) =
                        (&mut message, self.planted)
                    {
                        reserve.opened = true;
                    }
                    let link = usize::from(link.0);
                    world.links[link].send(at - link, message);
                }
                Action::OpenEnd { channel, .. } => world.peer(at).opening.push_back(channel),
                Action::Answer { id, answer } if id.0 < CLOSING => {
                    wrong = wrong.or_else(|| world.answered(id, answer));
                }
                _ => {}
            }
        }
        world.peer(at).forget_answered(at);
        world.peer(at).draw();
        world.wrong = world.wrong.take().or(wrong);
    }
}

impl World {
    fn new(contest: &Contest) -> Self {
        let peers = contest.peers;
        Self {
            peers: (0..peers).map(|peer| Some(Arc::new(Peer::new(peer, 1)))).collect(),
            lives: vec![1; peers],
            links: vec![Wire::new(); peers - 1],
            asked: vec![None; contest.wishes.len()],
            tickets: BTreeMap::new(),
            struck: 0,
            spoilt: false,
            ticks: vec![0; peers],
            wrong: None,
        }
    }

    fn peer(&mut self, at: usize) -> &mut Peer {
        Arc::make_mut(self.peers[at].as_mut().expect("it lives"))
    }

    fn ends_live(&self, link: usize) -> bool {
        self.peers[link].is_some() && self.peers[link + 1].is_some()
    }

    fn lives(&self, peer: usize, life: u64) -> bool {
        self.peers[peer].is_some() && self.lives[peer] == life
    }

    /// What each peer shows of channels.
    fn views(&self) -> impl Iterator<Item = (usize, ChannelView)> {
        let peers = self.peers.iter().enumerate().filter_map(|(at, p)| Some((at, p.as_ref()?)));
        peers.flat_map(|(at, peer)| peer.machine.views().into_iter().map(move |view| (at, view)))
    }

    /// The end that asked for the channel still has it.
    fn shows(&self, channel: &ChannelId) -> bool {
        self.views().any(|(_, view)| view.id == *channel && view.side == Some(Side::Source))
    }

    /// The channel ends at this peer.
    fn serves(&self, at: usize, channel: &ChannelId) -> bool {
        let service = |(here, view): (usize, ChannelView)| {
            here == at && view.id == *channel && view.side == Some(Side::Service)
        };
        self.views().any(service)
    }

    /// A path that a peer keeps bandwidth for and the end that asked for it does not know, or one in
    /// use that a peer on it does not know.
    fn orphan(&self) -> Option<String> {
        let views: Vec<_> = self.views().collect();
        let keeps = |at: usize, id: &ChannelId, path: &Vec<PeerName>| {
            let of = |(here, view): &&(usize, ChannelView)| *here == at && view.id == *id;
            views.iter().filter(of).any(|(_, view)| view.reserved.contains(path))
        };
        for (at, view) in &views {
            for path in &view.reserved {
                if !keeps(position(&view.id.source), &view.id, path) {
                    return Some(format!("p{at} holds {view:?}, which nobody wants"));
                }
            }
            let open = view.side == Some(Side::Source) && view.state == ChannelState::Open;
            let mut on = view.path.iter().map(position).filter(|_| open);
            if let Some(lacking) = on.find(|on| !keeps(*on, &view.id, &view.path)) {
                return Some(format!("p{lacking} does not hold {view:?}"));
            }
        }
        None
    }

    fn note_ticket(&mut self, message: &Message) {
        let (channel, ticket) = match message {
            Message::Reserve(reserve) => (&reserve.tx.channel, reserve.ticket),
            Message::Queue(Queue { tx, body: QueueBody::Claim(claim) }) => {
                (&tx.channel, claim.ticket)
            }
            _ => return,
        };
        self.tickets.insert(channel.clone(), ticket);
    }

    /// A peer has held what a path takes of its links although an older request stands in line there.
    fn passed(&self, at: usize, link: LinkId, message: &Message) -> Option<String> {
        let (tx, links) = match message {
            Message::Reserve(reserve) => {
                let source = position(&reserve.path[0]);
                let back = (source != at).then(|| link_between(at, towards(at, source)));
                (&reserve.tx, [Some(link), back])
            }
            Message::Accept(accept) if self.serves(at, &accept.tx.channel) => {
                (&accept.tx, [Some(link), None])
            }
            _ => return None,
        };
        let opened = |asked: &Asked| asked.answer.as_ref() == Some(&Ok(tx.channel.clone()));
        if self.asked.iter().flatten().any(opened) {
            // It only moves, and waits behind nobody.
            return None;
        }
        let place = (self.tickets[&tx.channel], &tx.channel);
        let peer = self.peers[at].as_ref().expect("it acts");
        let older = peer.lines.keys().filter(|(on, _)| links.contains(&Some(*on)));
        let mut older = older.filter(|(_, other)| *other != tx.channel);
        let older = older.find(|(_, other)| (self.tickets[other], other) < place)?;
        Some(format!("p{at} lets {} pass {} on {:?}", tx.channel, older.1, older.0))
    }

    fn answered(&mut self, id: RequestId, answer: Answer) -> Option<String> {
        let wish = usize::try_from(id.0).expect("few wishes");
        let asked = self.asked[wish].as_mut().expect("only what was asked is answered");
        let answer = match answer {
            Answer::Open(opened) => Ok(opened.channel),
            Answer::Rejected(rejection) => Err(rejection.reason),
            other => return Some(format!("{other:?} is no answer to a wish")),
        };
        let earlier = asked.answer.replace(answer);
        earlier.map(|earlier| format!("wish {wish} has two answers, first {earlier:?}"))
    }
}

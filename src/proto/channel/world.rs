//! A small world for tests: several `Channels` on one thread, joined by FIFO links with delays, under a
//! scripted tree, with everything drawn from one seed. Its judges look at what the peers show and at
//! the tables a data plane would have; they share no code with the ledger.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Channels, Paths, Terms};
use crate::limits;
use crate::proto::Budgets;
use crate::proto::graph::Wanted;
use crate::proto::view::{ChannelState, ChannelView};
use crate::proto::{
    Action, Answer, Choice, Entry, Event, OpenRequest, ServiceConfig, ServiceKind, Side, Target,
};
use crate::types::{Bandwidth, ChannelId, Label, LinkId, PeerName, RequestId, ServiceName, Time};
use crate::wire::control::Message;
use crate::wire::proof;

pub(super) fn peer(index: usize) -> PeerName {
    PeerName::new(&format!("peer-{index:02}")).expect("a name")
}

pub(super) fn service(text: &str) -> ServiceName {
    ServiceName::new(text).expect("a name")
}

pub(super) fn bps(rate: u64) -> Bandwidth {
    Bandwidth::from_bps(rate)
}

const MS: u64 = 1_000;

/// SplitMix64: small, seeded, and not the machine's own generator.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(super) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below an index")
    }
}

/// The tree and the picture as one peer has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    paths: BTreeMap<PeerName, Vec<PeerName>>,
    me: Option<PeerName>,
    links: Vec<[PeerName; 2]>,
}

impl Paths for Tree {
    fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
        self.paths.get(to).cloned()
    }

    /// The shortest, whatever is free on it: what does not fit is refused on the way.
    fn widest(&self, wanted: &Wanted<'_>) -> Option<Vec<PeerName>> {
        let barred = |hop: &[PeerName; 2]| {
            let same = |(a, b): &(PeerName, PeerName)| hop.contains(a) && hop.contains(b);
            wanted.without_links.iter().any(same)
        };
        let me = self.me.clone()?;
        let mut paths = BTreeMap::from([(me.clone(), vec![me.clone()])]);
        let mut next = VecDeque::from([me.clone()]);
        while let Some(at) = next.pop_front() {
            if at != me && wanted.without_relays.contains(&at) {
                continue;
            }
            for hop in self.links.iter().filter(|hop| hop.contains(&at) && !barred(hop)) {
                let to = &hop[usize::from(hop[0] == at)];
                if !paths.contains_key(to) {
                    let path = paths[&at].iter().chain([to]).cloned().collect();
                    paths.insert(to.clone(), path);
                    next.push_back(to.clone());
                }
            }
        }
        paths.remove(wanted.to)
    }

    fn knows(&self, peer: &PeerName) -> bool {
        peer.as_str().starts_with("peer-")
    }
}

/// What a host's data plane knows of a label.
#[derive(Debug)]
struct Known {
    channel: ChannelId,
    from: LinkId,
    to: Target,
    rate: Bandwidth,
    hop: u8,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) machine: Channels,
    pub(super) alive: bool,
    /// Stopped without its links noticing.
    pub(super) frozen: bool,
    /// It takes nothing new.
    leaving: bool,
    boot: u64,
    tree: Tree,
    /// The tables of a data plane.
    labels: BTreeMap<Label, Known>,
    entries: BTreeMap<ChannelId, Entry>,
    ends: BTreeMap<ChannelId, Side>,
    /// Actions that named each channel.
    pub(super) touched: BTreeMap<ChannelId, usize>,
    pub(super) events: Vec<Event>,
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) ends: [usize; 2],
    pub(super) usable: Bandwidth,
    /// The same number at both ends while it is up.
    incarnation: u64,
    /// Which ends believe that it is up.
    believes: [bool; 2],
    pub(super) cut: bool,
    last: [Time; 2],
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a message is the common one")]
enum Happening {
    Deliver { wire: usize, to: usize, incarnation: u64, message: Message },
    NoticeDown { wire: usize, end: usize, incarnation: u64 },
    Up { wire: usize },
    Commit { host: usize, tree: Tree },
    Picture { host: usize },
    EndOpened { host: usize, boot: u64, channel: ChannelId },
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Time,
    pub(super) dice: Dice,
    pub(super) hosts: Vec<Host>,
    pub(super) wires: Vec<Wire>,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    /// Whether the judges look after every step; in a large world that takes long.
    pub(super) judged: bool,
    /// How long requests wait for room, if they do.
    pub(super) patience: Option<Duration>,
    /// Which host asked, in which life, and what it was told.
    pub(super) asked: BTreeMap<RequestId, (usize, u64, Vec<Answer>)>,
}

impl World {
    /// Hosts in a ring or line with some chords, links of these usable capacities.
    pub(super) fn new(seed: u64, hosts: usize, edges: &[(usize, usize, u64)]) -> Self {
        let mut world = Self {
            now: Time(1_000_000),
            dice: Dice::new(seed),
            hosts: (0..hosts).map(|index| host(index, 1, seed)).collect(),
            wires: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            judged: true,
            patience: None,
            asked: BTreeMap::new(),
        };
        for &(a, b, usable) in edges {
            world.wires.push(Wire {
                ends: [a, b],
                usable: bps(usable),
                incarnation: 0,
                believes: [false; 2],
                cut: false,
                last: [Time(0); 2],
            });
            world.up(world.wires.len() - 1);
        }
        for index in 0..hosts {
            world.hosts[index].tree = world.tree(index);
        }
        world
    }

    pub(super) fn random(seed: u64) -> Self {
        let mut dice = Dice::new(!seed);
        let hosts = 3 + dice.index(6);
        let mut edges = Vec::new();
        for a in 1..hosts {
            edges.push((dice.index(a), a, 10 + 10 * dice.below(10)));
        }
        for a in 0..hosts {
            for b in a + 1..hosts {
                let known = edges.iter().any(|edge| (edge.0, edge.1) == (a, b));
                if !known && dice.below(3) == 0 {
                    edges.push((a, b, 10 + 10 * dice.below(10)));
                }
            }
        }
        Self::new(seed, hosts, &edges)
    }

    pub(super) fn open(
        &mut self,
        from: usize,
        to: usize,
        name: &str,
        rates: [u64; 2],
    ) -> RequestId {
        self.open_protected(from, to, name, rates, false)
    }

    pub(super) fn open_protected(
        &mut self,
        from: usize,
        to: usize,
        name: &str,
        rates: [u64; 2],
        protect: bool,
    ) -> RequestId {
        let request = OpenRequest {
            peer: peer(to),
            service: service(name),
            name: None,
            rate: bps(rates[0]),
            rate_back: bps(rates[1]),
            choice: Choice::default(),
            avoid: Vec::new(),
            deadline: self.patience.unwrap_or(Duration::from_secs(5)),
            wait: self.patience.is_some(),
            protect,
            plain: true,
        };
        let id = self.ask(from);
        self.with(from, |machine, now, tree, out| machine.open(now, id, request, tree, out));
        id
    }

    /// What all links of a host together may carry for channels, out.
    pub(super) fn egress(&mut self, host: usize, usable: u64) {
        let egress = Some(bps(usable + limits::CONTROL_SHARE_BPS_MIN));
        let budgets = Budgets { egress, ingress: None };
        self.with(host, |machine, now, _, out| machine.set_budgets(now, budgets, out));
    }

    pub(super) fn close(&mut self, at: usize, channel: &ChannelId) -> RequestId {
        let id = self.ask(at);
        self.with(at, |machine, now, _, out| machine.close(now, id, channel, out));
        id
    }

    pub(super) fn finish(&mut self, at: usize, channel: &ChannelId, frames: u64) -> RequestId {
        let id = self.ask(at);
        self.with(at, |machine, now, _, out| machine.finish(now, id, channel, frames, out));
        id
    }

    fn ask(&mut self, host: usize) -> RequestId {
        let id = RequestId(self.asked.len() as u64 + 1);
        self.asked.insert(id, (host, self.hosts[host].boot, Vec::new()));
        id
    }

    /// The one answer to a request so far.
    pub(super) fn answer(&self, id: RequestId) -> Option<&Answer> {
        let answers = &self.asked[&id].2;
        assert!(answers.len() <= 1, "a11: two answers to {id:?}: {answers:?}");
        answers.first()
    }

    /// Cuts a link; each end notices a little later, and a new tree comes after that.
    pub(super) fn cut(&mut self, wire: usize) {
        self.wires[wire].cut = true;
        let incarnation = self.wires[wire].incarnation;
        for end in 0..2 {
            let delay = self.dice.below(125 * MS);
            self.later(delay, Happening::NoticeDown { wire, end, incarnation });
        }
        self.recompute();
    }

    /// Mends a link, once both ends have noticed that it was down.
    pub(super) fn mend(&mut self, wire: usize) {
        if self.wires[wire].cut && self.wires[wire].ends.iter().all(|end| self.hosts[*end].alive) {
            self.wires[wire].cut = false;
            self.later(130 * MS, Happening::Up { wire });
        }
    }

    pub(super) fn crash(&mut self, index: usize) {
        self.hosts[index].alive = false;
        for wire in 0..self.wires.len() {
            if self.wires[wire].ends.contains(&index) && !self.wires[wire].cut {
                self.cut(wire);
            }
        }
    }

    /// It is about to leave; `heal` makes it start again.
    pub(super) fn drain(&mut self, index: usize) {
        self.hosts[index].leaving = true;
        self.with(index, |machine, _, _, out| machine.drain(out));
    }

    /// A new life, with nothing remembered.
    pub(super) fn restart(&mut self, index: usize) {
        let boot = self.hosts[index].boot + 1;
        self.hosts[index] = host(index, boot, self.now.0);
        for wire in 0..self.wires.len() {
            if let Some(end) = self.wires[wire].ends.iter().position(|end| *end == index) {
                self.wires[wire].believes[end] = false;
                self.mend(wire);
            }
        }
    }

    pub(super) fn heal(&mut self) {
        for index in 0..self.hosts.len() {
            if self.hosts[index].alive && self.hosts[index].leaving {
                self.crash(index);
                self.run(Duration::from_millis(500));
            }
            if !self.hosts[index].alive {
                self.restart(index);
            }
        }
        for wire in 0..self.wires.len() {
            self.mend(wire);
        }
    }

    /// Runs for this long; every judge looks after every step.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let due = |host: &Host| host.machine.poll_timeout().map(|(at, _)| at);
            let live = |host: &&Host| host.alive && !host.frozen;
            let timer = self.hosts.iter().filter(live).filter_map(due).min();
            let Some(at) = queued.into_iter().chain(timer).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            if queued == Some(at) {
                let (_, happening) = self.queue.pop_first().expect("just seen");
                self.happen(happening);
            }
            for index in 0..self.hosts.len() {
                let host = &self.hosts[index];
                if live(&host) && due(host).is_some_and(|at| at <= self.now) {
                    self.with(index, |machine, now, tree, out| {
                        machine.handle_timeout(now, tree, out);
                    });
                }
            }
            if self.judged {
                self.judge();
            }
        }
    }

    pub(super) fn views(&self) -> impl Iterator<Item = (usize, ChannelView)> {
        let live = self.hosts.iter().enumerate().filter(|(_, host)| host.alive && !host.frozen);
        live.flat_map(|(index, host)| host.machine.views().into_iter().map(move |v| (index, v)))
    }

    /// Both ends show the channel open on the same path.
    pub(super) fn is_open(&self, channel: &ChannelId) -> bool {
        let ends: Vec<_> = self
            .views()
            .map(|(_, view)| view)
            .filter(|v| v.id == *channel && v.side.is_some() && v.state == ChannelState::Open)
            .collect();
        ends.len() == 2 && ends[0].path == ends[1].path
    }

    pub(super) fn wire_between(&self, a: &PeerName, b: &PeerName) -> usize {
        let ends = |wire: &Wire| wire.ends.map(peer);
        let joins = |wire: &Wire| ends(wire).contains(a) && ends(wire).contains(b);
        self.wires.iter().position(joins).expect("a link of the world")
    }

    /// Follows the tables from the entry of an end: the end a frame comes out at, if it does.
    pub(super) fn follow(&self, at: usize, channel: &ChannelId) -> Option<(usize, ChannelId)> {
        let Entry { to: mut target, rate: promised, .. } =
            self.hosts[at].entries.get(channel)?.clone();
        let mut at = at;
        let mut came = None;
        for hops in 1..=64 {
            match target {
                Target::Local => return came.map(|channel| (at, channel)),
                Target::Hop { link, label, port } => {
                    let wire = &self.wires[usize::from(link.0)];
                    at = wire.ends[usize::from(wire.ends[0] == at)];
                    let host = &self.hosts[at];
                    let Known { channel, from, to, rate, hop } = host.labels.get(&label)?;
                    assert_eq!(*from, link, "a22: labels are valid on one link");
                    assert_eq!((*rate, *hop), (promised, hops), "a20: what each hop lets through");
                    assert_eq!(port, data_port(at) + u16::from(label.worker().0));
                    (came, target) = (Some(channel.clone()), to.clone());
                }
            }
        }
        panic!("a22: frames of {channel} go round in a circle");
    }

    fn judge(&self) {
        // Paths of one channel that cross a link the same way count once.
        let mut shares: BTreeMap<(usize, usize, ChannelId, bool), u128> = BTreeMap::new();
        for (index, view) in self.views() {
            for path in &view.reserved {
                let position = path.iter().position(|name| *name == peer(index));
                let position = position.expect("a peer keeps bandwidth for its own paths");
                let mut take = |other: Option<&PeerName>, there: bool, rate: Bandwidth| {
                    if let Some(other) = other {
                        let wire = self.wire_between(other, &peer(index));
                        let share = shares.entry((wire, index, view.id.clone(), there));
                        let share = share.or_default();
                        *share = (*share).max(u128::from(rate.bps()));
                    }
                };
                take(path.get(position + 1), true, view.rate);
                take(position.checked_sub(1).map(|before| &path[before]), false, view.rate_back);
            }
        }
        let mut promised: BTreeMap<(usize, usize), u128> = BTreeMap::new();
        for ((wire, from, _, _), share) in shares {
            *promised.entry((wire, from)).or_default() += share;
        }
        for ((wire, from), sum) in promised {
            let usable = u128::from(self.wires[wire].usable.bps());
            assert!(sum <= usable, "a12: wire {wire} from {from}: {sum} of {usable}");
        }
        for (index, host) in self.hosts.iter().enumerate().filter(|(_, host)| host.alive) {
            host.machine.invariants();
            for channel in host.entries.keys() {
                let Some((at, out)) = self.follow(index, channel) else { continue };
                assert_eq!(out, *channel, "a22: a frame came out of another channel");
                assert_ne!(host.ends.get(channel), self.hosts[at].ends.get(channel), "a22");
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { wire, to, incarnation, message } => {
                let Wire { ends, incarnation: now, believes, cut, .. } = &self.wires[wire];
                if !*cut && *now == incarnation && believes[to] {
                    let host = ends[to];
                    self.with(host, |machine, now, _, out| {
                        machine.message(now, link(wire), message, out);
                    });
                }
            }
            Happening::NoticeDown { wire, end, incarnation } => {
                let Wire { ends, incarnation: now, believes, .. } = &mut self.wires[wire];
                if *now == incarnation && believes[end] {
                    believes[end] = false;
                    let host = ends[end];
                    self.with(host, |machine, now, _, out| machine.link_down(now, link(wire), out));
                }
            }
            Happening::Up { wire } => {
                self.up(wire);
                self.recompute();
            }
            Happening::Commit { host, tree } => {
                self.hosts[host].tree = tree;
                self.with(host, |machine, now, tree, out| machine.tree_committed(now, tree, out));
            }
            Happening::Picture { host } => {
                self.hosts[host].tree.links = self.whole_links();
                self.with(host, |machine, now, _, _| machine.picture_changed(now));
            }
            Happening::EndOpened { host, boot, channel } => {
                if self.hosts[host].boot == boot {
                    self.with(host, |machine, now, tree, out| {
                        machine.end_opened(now, &channel, Ok(None), tree, out);
                    });
                }
            }
        }
    }

    fn up(&mut self, wire: usize) {
        let Wire { ends, usable, believes, cut, .. } = &self.wires[wire];
        let (ends, usable) = (*ends, *usable);
        if *cut || *believes != [false; 2] || ends.iter().any(|end| !self.hosts[*end].alive) {
            return;
        }
        self.wires[wire].incarnation += 1;
        self.wires[wire].believes = [true; 2];
        for (end, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            self.with(end, |machine, now, _, out| {
                let (peer, max_payload) = (peer(other), 1_400);
                let terms = Terms { peer, usable, max_payload, version: proof::VERSION };
                machine.link_up(now, link(wire), terms, out);
            });
        }
    }

    /// Every peer learns the tree of the links as they are, each at its own time.
    fn recompute(&mut self) {
        for host in 0..self.hosts.len() {
            let tree = self.tree(host);
            let delay = 30 * MS + self.dice.below(200 * MS);
            self.later(delay, Happening::Commit { host, tree });
            let delay = self.dice.below(30 * MS);
            self.later(delay, Happening::Picture { host });
        }
    }

    fn whole_links(&self) -> Vec<[PeerName; 2]> {
        let whole = self.wires.iter().filter(|wire| !wire.cut);
        whole.map(|wire| wire.ends.map(peer)).collect()
    }

    /// Shortest paths stand in for the tree: the channels must not care.
    fn tree(&self, from: usize) -> Tree {
        let mut paths = BTreeMap::from([(from, vec![peer(from)])]);
        let mut next = VecDeque::from([from]);
        while let Some(at) = next.pop_front() {
            for wire in self.wires.iter().filter(|wire| !wire.cut && wire.ends.contains(&at)) {
                let to = wire.ends[usize::from(wire.ends[0] == at)];
                if !paths.contains_key(&to) {
                    let mut path = paths[&at].clone();
                    path.push(peer(to));
                    paths.insert(to, path);
                    next.push_back(to);
                }
            }
        }
        let paths = paths.into_iter().map(|(to, path)| (peer(to), path)).collect();
        Tree { paths, me: Some(peer(from)), links: self.whole_links() }
    }

    fn with(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Channels, Time, &Tree, &mut Vec<Action>),
    ) {
        let host = &mut self.hosts[index];
        if !host.alive || host.frozen {
            return;
        }
        let mut out = Vec::new();
        act(&mut host.machine, self.now, &host.tree, &mut out);
        host.machine.tell_room(self.now, &mut out);
        for action in out {
            self.carry_out(index, action);
        }
    }

    fn carry_out(&mut self, index: usize, action: Action) {
        let host = &mut self.hosts[index];
        let mut touch = |channel: &ChannelId| {
            *host.touched.entry(channel.clone()).or_default() += 1;
        };
        match action {
            Action::Send { link, message } => self.send(index, usize::from(link.0), message),
            Action::OpenEnd { channel, side, .. } => {
                touch(&channel);
                assert_eq!(host.ends.insert(channel.clone(), side), None, "one socket an end");
                let delay = self.dice.below(5 * MS);
                let boot = self.hosts[index].boot;
                self.later(delay, Happening::EndOpened { host: index, boot, channel });
            }
            Action::CloseEnd { channel } => {
                touch(&channel);
                assert!(host.ends.remove(&channel).is_some(), "only open sockets are closed");
                host.entries.remove(&channel);
            }
            Action::SetEntry { channel, to } => {
                touch(&channel);
                assert!(host.ends.contains_key(&channel), "an entry belongs to a socket");
                match to {
                    Some(entry) => host.entries.insert(channel, entry),
                    None => host.entries.remove(&channel),
                };
            }
            Action::AddLabel { channel, label, from, to, rate, hop, back: _ } => {
                touch(&channel);
                let known = Known { channel, from, to, rate, hop };
                assert!(host.labels.insert(label, known).is_none(), "a22");
            }
            Action::RemoveLabel { label } => {
                let Known { channel, .. } =
                    host.labels.remove(&label).expect("only known labels go");
                touch(&channel);
            }
            Action::MoveChannel { channel, labels, end, from, to } => {
                assert_ne!(from, to, "a move goes somewhere");
                assert!(
                    labels.iter().all(|label| host.labels[label].channel == channel),
                    "its own"
                );
                assert_eq!(end, host.ends.contains_key(&channel));
            }
            Action::Answer { id, answer } => {
                let asked = self.asked.get_mut(&id).expect("only what was asked is answered");
                asked.2.push(answer);
                assert_eq!(asked.2.len(), 1, "a11: one answer a request: {asked:?}");
            }
            Action::Event(event) => host.events.push(event),
            Action::CloseLink { .. }
            | Action::LinkUp { .. }
            | Action::LinkDown { .. }
            | Action::CountProbes { .. }
            | Action::SendTrain { .. }
            | Action::ReadHop { .. }
            | Action::OfferSeal { .. }
            | Action::SealEnd { .. }
            | Action::CountTrain { .. } => {
                panic!("plain channels do not touch links: {action:?}");
            }
        }
    }

    fn send(&mut self, from: usize, wire: usize, message: Message) {
        let Wire { ends, incarnation, believes, last, .. } = &mut self.wires[wire];
        let end = usize::from(ends[1] == from);
        assert!(believes[end], "sent on a link that is down: {message:?}");
        let message = Message::parse(&message.emit()).expect("what is sent can be read");
        let delay = Duration::from_micros(200 + self.dice.below(20 * MS));
        last[end] = last[end].max(self.now + delay);
        let (at, incarnation) = (last[end], *incarnation);
        self.sequence += 1;
        let happening = Happening::Deliver { wire, to: 1 - end, incarnation, message };
        self.queue.insert((at, self.sequence), happening);
    }

    fn later(&mut self, delay_us: u64, happening: Happening) {
        self.sequence += 1;
        let at = self.now + Duration::from_micros(delay_us);
        self.queue.insert((at, self.sequence), happening);
    }

    /// What ought to be true when everything has come to rest.
    pub(super) fn judge_rest(&self) {
        let mut ends: BTreeMap<ChannelId, BTreeSet<usize>> = BTreeMap::new();
        for (index, view) in self.views() {
            assert_eq!(view.state, ChannelState::Open, "{index}: {view:?}");
            assert!(self.is_open(&view.id), "a16: {index} keeps {view:?}");
            let path = view.path.iter().position(|name| *name == peer(index));
            assert!(path.is_some(), "a16: {index} keeps another path of {view:?}");
            if view.side.is_some() {
                ends.entry(view.id.clone()).or_default().insert(index);
                let (at, channel) = self.follow(index, &view.id).expect("a22: frames get through");
                assert_eq!((channel, at != index), (view.id, true));
            }
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let mine: BTreeSet<_> =
                ends.iter().filter(|(_, at)| at.contains(&index)).map(|(id, _)| id).collect();
            assert!(host.ends.keys().eq(mine), "sockets of channels that are gone");
        }
        for host in self.hosts.iter().filter(|host| host.alive) {
            assert_eq!(host.machine.claims(), 0, "a14: somebody stands in line who has left");
        }
        for (id, (host, boot, answers)) in &self.asked {
            let same_life = self.hosts[*host].boot == *boot;
            assert!(answers.len() == 1 || !same_life, "a11: {id:?} has no answer");
        }
    }
}

fn link(wire: usize) -> LinkId {
    LinkId(u16::try_from(wire).expect("few links"))
}

fn data_port(index: usize) -> u16 {
    10_000 + 16 * u16::try_from(index).expect("few hosts")
}

fn host(index: usize, boot: u64, seed: u64) -> Host {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..16].copy_from_slice(&boot.to_be_bytes());
    bytes[16..24].copy_from_slice(&(index as u64).to_be_bytes());
    let services = [
        ("deliver", ServiceKind::Deliver),
        ("source", ServiceKind::Source),
        ("receive", ServiceKind::Receive),
    ];
    let services =
        services.map(|(name, kind)| ServiceConfig { name: service(name), kind, plain: true });
    Host {
        machine: Channels::new(peer(index), boot, bytes, 2, data_port(index), services.to_vec()),
        alive: true,
        frozen: false,
        leaving: false,
        boot,
        tree: Tree::default(),
        labels: BTreeMap::new(),
        entries: BTreeMap::new(),
        ends: BTreeMap::new(),
        touched: BTreeMap::new(),
        events: Vec::new(),
    }
}

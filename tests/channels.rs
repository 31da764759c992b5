//! Channels over whole overlays: real nodes in the simulator, with opens, closes, crashes and cuts from
//! a seed. Judged by `sim::check` at every step and by what requests were told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use spanway::limits;
use spanway::proto::view::{ChannelState, ChannelView};
use spanway::proto::{
    Answer, Choice, OpenRequest, Opened, Rejection, Request, ServiceConfig, ServiceKind, Side,
};
use spanway::sim::{Fault, Plan, Sim, check};
use spanway::types::{Bandwidth, ChannelId, PeerName, Reject, RequestId, ServiceName};

const MBIT: u64 = 1_000_000;

/// A world, what was asked in it, and the dice that drive it.
struct Story {
    seed: u64,
    sim: Sim,
    dice: ChaCha20Rng,
    links: Vec<(usize, usize)>,
    down: BTreeSet<usize>,
    /// Which peer was asked, in which of its lives.
    asked: Vec<(RequestId, usize, u32)>,
    lives: Vec<u32>,
}

impl Story {
    fn new(seed: u64, peers: usize, links: &[(usize, usize, u64)]) -> Self {
        let name = |at: usize| PeerName::new(&format!("p{at:02}")).expect("a name");
        let kinds = [("deliver", ServiceKind::Deliver), ("source", ServiceKind::Source)];
        let plan = Plan {
            peers: (0..peers).map(name).collect(),
            links: links
                .iter()
                .map(|&(a, b, mbit)| (a, b, Bandwidth::from_bps(mbit * MBIT)))
                .collect(),
            services: kinds
                .map(|(name, kind)| ServiceConfig { name: service(name), kind, plain: true })
                .to_vec(),
            delay: (Duration::from_micros(200), Duration::from_millis(10)),
            ..Plan::default()
        };
        let mut story = Self {
            seed,
            sim: Sim::new(seed, &plan),
            dice: ChaCha20Rng::seed_from_u64(seed),
            links: links.iter().map(|&(a, b, _)| (a, b)).collect(),
            down: BTreeSet::new(),
            asked: Vec::new(),
            lives: vec![0; peers],
        };
        (0..peers).for_each(|peer| story.sim.strike(Fault::Start(peer)));
        story.run(Duration::from_secs(1));
        story
    }

    /// A connected overlay of up to 12 peers.
    fn random(seed: u64) -> Self {
        let mut dice = ChaCha20Rng::seed_from_u64(!seed);
        let mut below = |bound: usize| below(&mut dice, bound);
        let peers = 3 + below(10);
        let density = 1 + below(4);
        let mut links = Vec::new();
        for a in 0..peers {
            let parent = if a > 0 { below(a) } else { 0 };
            for b in 0..a {
                if b == parent || below(10) < density {
                    links.push((a, b, [10, 25, 50, 100][below(4)]));
                }
            }
        }
        Self::new(seed, peers, &links)
    }

    fn below(&mut self, bound: usize) -> usize {
        below(&mut self.dice, bound)
    }

    /// Runs for this long, in small steps, the judges behind each.
    fn run(&mut self, duration: Duration) {
        let end = self.sim.now() + duration;
        while self.sim.now() < end {
            let left = end.since(self.sim.now());
            self.sim.run_until(self.sim.now() + left.min(Duration::from_millis(2)));
            self.judge();
        }
    }

    /// Runs for this long with the judges looking now and then.
    fn rest(&mut self, duration: Duration) {
        for _ in 0..50 {
            self.sim.run_until(self.sim.now() + duration / 50);
            self.judge();
        }
    }

    fn judge(&self) {
        let peers = self.sim.peers();
        assert_eq!(check::oversold(peers), Vec::<String>::new(), "I4, seed {}", self.seed);
        assert_eq!(check::misrouted(peers), Vec::<String>::new(), "a22, seed {}", self.seed);
    }

    fn ask(&mut self, peer: usize, request: Request) -> RequestId {
        let id = self.sim.request(peer, request);
        self.asked.push((id, peer, self.lives[peer]));
        id
    }

    fn open(&mut self, from: usize, to: usize, name: &str, kbit: u64) -> RequestId {
        let request = OpenRequest {
            peer: self.sim.peers()[to].name.clone(),
            service: service(name),
            name: None,
            rate: Bandwidth::from_bps(kbit * 1_000),
            rate_back: Bandwidth::from_bps(kbit * 50 + 64_000),
            choice: Choice::default(),
            avoid: Vec::new(),
            deadline: limits::OPEN_DEADLINE,
            wait: false,
            protect: false,
            plain: true,
        };
        self.ask(from, Request::Open(request))
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(peer) | Fault::Leave(peer) => self.lives[peer] += 1,
            Fault::Cut(wire) | Fault::Mute(wire) => drop(self.down.insert(wire)),
            Fault::Restore(wire) => drop(self.down.remove(&wire)),
            Fault::Start(_)
            | Fault::Capacity(..)
            | Fault::CapacityAtOneEnd(..)
            | Fault::Deaf(..)
            | Fault::OneWay(..)
            | Fault::Stall(..)
            | Fault::Stop(..)
            | Fault::Drain(..)
            | Fault::Open { .. }
            | Fault::Close(_)
            | Fault::Rules(..) => {}
        }
        self.sim.strike(fault);
    }

    fn heal(&mut self) {
        for wire in 0..self.links.len() {
            self.strike(Fault::Restore(wire));
        }
        for peer in 0..self.lives.len() {
            self.strike(Fault::Start(peer));
        }
    }

    fn alive(&self, peer: usize) -> bool {
        self.sim.node(peer).is_some()
    }

    fn views(&self) -> Vec<(usize, ChannelView)> {
        let nodes = (0..self.lives.len()).filter_map(|peer| Some((peer, self.sim.node(peer)?)));
        nodes.flat_map(|(peer, node)| node.channels().into_iter().map(move |v| (peer, v))).collect()
    }

    fn ends(&self) -> Vec<(usize, ChannelView)> {
        self.views().into_iter().filter(|(_, view)| view.side.is_some()).collect()
    }

    /// Both ends have it open on one path, and frames get through both ways.
    fn works(&self, channel: &ChannelId) -> bool {
        let ends: Vec<_> =
            self.ends().into_iter().filter(|(_, view)| view.id == *channel).collect();
        let [(a, one), (b, other)] = &ends[..] else { return false };
        let reaches = |from: usize, to: usize| {
            check::follow(self.sim.peers(), from, channel) == Ok(Some((to, channel.clone())))
        };
        let open = |view: &ChannelView| view.state == ChannelState::Open;
        open(one) && open(other) && one.path == other.path && reaches(*a, *b) && reaches(*b, *a)
    }

    /// One random deed. With `faults`, some of them hurt.
    fn act(&mut self, faults: bool) {
        let peer = self.below(self.lives.len());
        let other = self.below(self.lives.len());
        match self.below(if faults { 16 } else { 12 }) {
            0..=7 if self.alive(peer) => {
                let name = ["deliver", "deliver", "source", "nothing"][self.below(4)];
                let kbit = [500, 2_000, 5_000, 20_000][self.below(4)];
                self.open(peer, other, name, kbit);
            }
            8..=11 => {
                let ends = self.ends();
                if !ends.is_empty() {
                    let (at, view) = ends[self.below(ends.len())].clone();
                    let channel = view.id;
                    match self.below(3) {
                        0 => self.ask(at, Request::Finish { channel, frames: 9 }),
                        _ => self.ask(at, Request::Close { channel }),
                    };
                }
            }
            12 | 13 => {
                let wire = self.below(self.links.len());
                if self.down.contains(&wire) {
                    self.strike(Fault::Restore(wire));
                } else {
                    let fault = [Fault::Cut, Fault::Cut, Fault::Mute][self.below(3)];
                    self.strike(fault(wire));
                }
            }
            14 | 15 => {
                let fault = match (self.alive(peer), self.below(3)) {
                    (false, _) => Fault::Start(peer),
                    (true, 0) => Fault::Leave(peer),
                    (true, _) => Fault::Crash(peer),
                };
                self.strike(fault);
            }
            _ => {}
        }
        let pause = [2, 20, 200, 1_500][self.below(4)];
        let pause = 1 + self.below(pause) as u64;
        self.run(Duration::from_millis(pause));
    }

    /// A11: everybody who is still there was told, and A16: what is not open is nowhere.
    fn judge_rest(&self) {
        let seed = self.seed;
        for (id, peer, life) in &self.asked {
            let same_life = self.lives[*peer] == *life;
            assert!(!same_life || self.sim.answer(*id).is_some(), "a11: {id:?}, seed {seed}");
        }
        let mut open = BTreeSet::new();
        for (at, view) in self.views() {
            assert!(self.works(&view.id), "a16: seed {seed}, {at} keeps {view:?}");
            let me = &self.sim.peers()[at].name;
            assert!(view.path.contains(me), "a16: seed {seed}, {at} keeps a path of {view:?}");
            open.insert(view.id);
        }
        for peer in self.sim.peers() {
            let ends = peer.ends.iter().chain(peer.entries.keys());
            let labels = peer.labels.values().map(|(channel, ..)| channel);
            let lost: Vec<_> = ends.chain(labels).filter(|id| !open.contains(id)).collect();
            assert!(lost.is_empty(), "a16: seed {seed}, {} keeps {lost:?}", peer.name);
        }
    }

    fn opened(&self, id: RequestId) -> Option<&Opened> {
        let answer = self.sim.answer(id);
        if let Some(Answer::Open(opened)) = answer { Some(opened) } else { None }
    }

    fn rejected(&self, id: RequestId) -> Option<&Rejection> {
        let answer = self.sim.answer(id);
        if let Some(Answer::Rejected(rejection)) = answer { Some(rejection) } else { None }
    }
}

fn below(dice: &mut ChaCha20Rng, bound: usize) -> usize {
    usize::try_from(dice.next_u64() % bound as u64).expect("below an index")
}

fn service(text: &str) -> ServiceName {
    ServiceName::new(text).expect("a name")
}

/// Everything has run out after this: a lease, the search for another path, an attempt.
const SETTLED: Duration =
    limits::LEASE.saturating_add(limits::MOVE_DEADLINE).saturating_add(limits::HOLD);

#[test]
fn a11_a12_a16_a22_calm_overlays_answer_everything_and_sell_nothing_twice() {
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..150 {
        let mut story = Story::random(seed);
        (0..30).for_each(|_| story.act(false));
        story.rest(limits::OPEN_DEADLINE);
        story.judge_rest();
        for (id, ..) in &story.asked {
            let outcome = match story.sim.answer(*id).expect("judged above") {
                Answer::Open(_) => "open",
                Answer::Rejected(rejection) => rejection.reason.as_str(),
                Answer::Closed => "closed",
                Answer::Finished => "finished",
                Answer::Fit(_)
                | Answer::Services(_)
                | Answer::Links(_)
                | Answer::Recomputing(_)
                | Answer::Hops(_)
                | Answer::Measured(_)
                | Answer::Left => panic!("not asked for"),
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
        while let Some((at, view)) = story.ends().pop() {
            story.ask(at, Request::Close { channel: view.id });
            story.run(Duration::from_millis(150));
        }
        story.judge_rest();
        assert_eq!(story.views(), []);
    }
    for outcome in
        ["open", "closed", "finished", "no_room", "no_such_service", "service_busy", "duplicate"]
    {
        assert!(outcomes.get(outcome) > Some(&10), "{outcome} is rare: {outcomes:?}");
    }
    assert!(!outcomes.contains_key("timeout") && !outcomes.contains_key("broken"), "{outcomes:?}");
}

#[test]
fn a11_a12_a16_a22_crashes_and_cuts_leave_nothing_behind() {
    let (mut alive, mut moving) = (0, 0);
    for seed in 1_000..1_250 {
        let mut story = Story::random(seed);
        for _ in 0..30 {
            story.act(true);
            let views = story.ends();
            moving += views.iter().filter(|(_, v)| v.state == ChannelState::Moving).count();
        }
        story.heal();
        story.rest(SETTLED);
        story.judge_rest();
        alive += story.ends().len() / 2;
    }
    assert!(alive > 100 && moving > 100, "too little happened: {alive} alive, {moving} moving");
}

#[test]
fn a17_open_channels_come_back_if_any_path_is_left_and_others_stay_where_they_are() {
    let (mut came_back, mut stayed, mut lost) = (0, 0, 0);
    for seed in 2_000..2_080 {
        let links: Vec<_> = (0..8)
            .map(|a| (a, (a + 1) % 8, 100 + 100 * (seed % 7)))
            .chain([(0, 4, 500), (1, 5, 300), (2, 7, 300)])
            .collect();
        let mut story = Story::new(seed, 8, &links);
        let asked: Vec<_> = (0..12)
            .map(|_| {
                let from = story.below(8);
                let to = (from + 1 + story.below(7)) % 8;
                story.open(from, to, "deliver", 1_000)
            })
            .collect();
        story.run(Duration::from_secs(1));
        let opened: Vec<Opened> =
            asked.iter().map(|id| story.opened(*id).expect("there is room").clone()).collect();
        let fault = match story.below(2) {
            0 => Fault::Crash(story.below(8)),
            _ => Fault::Cut(story.below(story.links.len())),
        };
        let before = story.views();
        story.strike(fault);
        story.run(Duration::from_secs(3));
        let name = |peer: usize| &story.sim.peers()[peer].name;
        for opened in &opened {
            let path = &opened.path;
            let (ends_dead, crossed) = if let Fault::Crash(dead) = fault {
                let dead = name(dead);
                (path.first() == Some(dead) || path.last() == Some(dead), path.contains(dead))
            } else {
                let Fault::Cut(wire) = fault else { unreachable!("not drawn") };
                let (a, b) = story.links[wire];
                let hop = |hop: &[PeerName]| hop.contains(name(a)) && hop.contains(name(b));
                (false, path.windows(2).any(hop))
            };
            if ends_dead {
                lost += 1;
                continue;
            }
            assert!(story.works(&opened.channel), "a17: seed {seed} {fault:?} {opened:?}");
            let of = |views: &[(usize, ChannelView)]| {
                let mut views = views.to_vec();
                views.retain(|(_, view)| view.id == opened.channel);
                // Where it would go next changes with the overlay; nothing is reserved there.
                views.iter_mut().for_each(|(_, view)| view.second = None);
                views
            };
            if crossed {
                came_back += 1;
            } else {
                stayed += 1;
                assert_eq!(of(&before), of(&story.views()), "a17: seed {seed} {opened:?}");
            }
        }
        story.heal();
        story.rest(SETTLED);
        story.judge_rest();
    }
    assert!(came_back > 50 && stayed > 200 && lost > 20, "{came_back} {stayed} {lost}");
}

#[test]
fn a11_each_reason_is_told_with_hop_and_free_capacity() {
    // p00 - p01 - p02, and p03 alone.
    let mut story = Story::new(7, 4, &[(0, 1, 100), (1, 2, 10), (2, 3, 10)]);
    story.strike(Fault::Cut(2));
    story.run(Duration::from_secs(1));
    let reason = |story: &mut Story, id, reason: Reject, words: &[&str]| {
        story.run(Duration::from_millis(500));
        let rejection = story.rejected(id).expect("an answer");
        assert_eq!(rejection.reason, reason);
        for word in words {
            assert!(rejection.detail.contains(word), "{word:?} in {:?}", rejection.detail);
        }
    };
    let id = story.open(0, 2, "deliver", 6_000);
    story.run(Duration::from_millis(500));
    let opened = story.opened(id).expect("there is room").clone();
    assert_eq!(opened.width, Bandwidth::from_bps(9_500_000));
    assert_eq!(opened.path.len(), 3);

    let id = story.open(0, 2, "deliver", 6_000);
    reason(&mut story, id, Reject::NoRoom, &["at p01", "to p02", "3.5 Mbit/s are free"]);
    let id = story.open(0, 1, "deliver", 96_000);
    reason(&mut story, id, Reject::Never, &["at p00 - p01", "95 Mbit/s"]);
    let id = story.open(0, 2, "nothing", 1_000);
    reason(&mut story, id, Reject::NoSuchService, &["at p02", "nothing"]);
    let id = story.open(0, 0, "deliver", 1_000);
    reason(&mut story, id, Reject::Duplicate, &["p00"]);
    let id = story.open(2, 3, "deliver", 1_000);
    reason(&mut story, id, Reject::Unreachable, &["p03"]);
    // It was seen a moment ago, and is in another component now.
    let id = story.open(0, 3, "deliver", 1_000);
    reason(&mut story, id, Reject::Unreachable, &["p03"]);
    let first = story.open(0, 2, "source", 1_000);
    let second = story.open(1, 2, "source", 1_000);
    story.run(Duration::from_millis(500));
    let ids = if story.opened(first).is_some() { (first, second) } else { (second, first) };
    assert!(story.opened(ids.0).is_some());
    reason(&mut story, ids.1, Reject::ServiceBusy, &["at p02", "one channel"]);
    let id = story.ask(1, Request::Close { channel: opened.channel });
    reason(&mut story, id, Reject::NotAllowed, &["crosses"]);
    // A hung link keeps its connection: the answer names the peer that hears nothing.
    story.strike(Fault::Mute(1));
    let id = story.open(0, 2, "deliver", 100);
    story.rest(limits::OPEN_DEADLINE);
    reason(&mut story, id, Reject::Timeout, &["at p01", "p02"]);
}

#[test]
fn a15_channels_of_one_pair_run_in_both_directions_side_by_side() {
    let mut story = Story::new(9, 3, &[(0, 1, 100), (1, 2, 100)]);
    let ids = [(0, 2), (2, 0), (0, 2), (2, 0)].map(|(a, b)| story.open(a, b, "deliver", 20_000));
    story.run(Duration::from_secs(1));
    let opened = ids.map(|id| story.opened(id).expect("there is room").channel.clone());
    for channel in &opened {
        assert!(story.works(channel));
    }
    let sources = story.ends().into_iter().filter(|(_, view)| view.side == Some(Side::Source));
    assert_eq!(sources.count(), 4);
}

#[test]
fn a3_a_link_that_shrinks_takes_less_that_is_new_and_keeps_what_is_open() {
    let mut story = Story::new(11, 3, &[(0, 1, 100), (1, 2, 100)]);
    let first = story.open(0, 2, "deliver", 20_000);
    story.run(Duration::from_millis(300));
    let shrink = |story: &mut Story, mbit: u64| {
        story.strike(Fault::Capacity(1, Bandwidth::from_bps(mbit * MBIT)));
        story.run(Duration::from_secs(1));
    };
    shrink(&mut story, 50);
    let wide = story.open(0, 2, "deliver", 40_000);
    story.run(Duration::from_millis(300));
    assert_eq!(story.rejected(wide).map(|no| no.reason), Some(Reject::NoRoom));
    shrink(&mut story, 200);
    let wide = story.open(1, 2, "deliver", 150_000);
    story.run(Duration::from_millis(300));
    assert!(story.opened(wide).is_some());
    assert!(story.works(&story.opened(first).expect("it was open").channel));
}

#[test]
fn a2_when_an_end_leaves_the_other_is_told_at_once() {
    for (leaver, other) in [(0, 2), (2, 0)] {
        let mut story = Story::new(12, 3, &[(0, 1, 100), (1, 2, 100)]);
        let id = story.open(0, 2, "deliver", 20_000);
        story.run(Duration::from_millis(300));
        assert!(story.opened(id).is_some());
        story.strike(Fault::Leave(leaver));
        story.run(Duration::from_millis(300));
        let left = story.sim.node(other).expect("it lives").channels();
        assert_eq!(left, [], "closed, not looking for another path");
    }
}

#[test]
fn a17_a_channel_takes_its_new_path_as_soon_as_the_tree_has_one() {
    let mut story = Story::new(13, 4, &[(0, 1, 100), (1, 2, 100), (2, 3, 50), (3, 0, 50)]);
    let id = story.open(0, 2, "deliver", 20_000);
    story.run(Duration::from_millis(300));
    let path = story.opened(id).expect("there is room").path.clone();
    assert!(path.contains(&story.sim.peers()[1].name));
    let commits = |story: &Story| story.sim.commits().iter().filter(|(_, at, _)| *at == 0).count();
    let before = commits(&story);
    story.strike(Fault::Crash(1));
    while commits(&story) == before {
        assert!(story.sim.step(), "a new tree comes");
    }
    let view = story.sim.node(0).expect("it lives").channels().remove(0);
    assert!(view.path.contains(&story.sim.peers()[3].name), "asked for in the same step: {view:?}");
    story.run(Duration::from_millis(200));
    assert!(story.works(&view.id));
}

//! Graphs that talk to each other over queues, and liars that talk to one of them.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;
use rand_core::SeedableRng;

use super::*;
use crate::wire::facts::OriginDigest;

const T: Time = Time(1_000_000);
const RATE: Bandwidth = Bandwidth::from_bps(100_000_000);

fn name(at: usize) -> PeerName {
    PeerName::new(&format!("p{at}")).unwrap()
}

fn identity(at: usize) -> SigningKey {
    SigningKey::from_bytes(&[u8::try_from(at).unwrap() + 1; 32])
}

fn key(at: usize) -> PublicKey {
    PublicKey(identity(at).verifying_key().to_bytes())
}

fn graph(at: usize) -> Graph {
    graph_of_life(at, 0)
}

fn graph_of_life(at: usize, life: u64) -> Graph {
    let rng = ChaCha20Rng::seed_from_u64(at as u64 + 1_000 * life);
    Graph::new(name(at), identity(at), rng, Time(0), Budgets::default())
}

fn link(at: usize) -> LinkId {
    LinkId(u16::try_from(at).unwrap())
}

fn end(to: usize) -> End {
    End {
        peer: name(to),
        key: key(to),
        version: 3,
        usable: RATE,
        free_out: RATE,
        max_payload: 1_400,
    }
}

/// What the graphs said: from, to, message.
type Said = VecDeque<(usize, usize, Gossip)>;

/// A few graphs, and what is under way between them. The link to a peer has its number.
struct World {
    now: Time,
    graphs: Vec<Graph>,
    said: Said,
}

impl World {
    fn new(peers: usize) -> Self {
        Self { now: T, graphs: (0..peers).map(graph).collect(), said: Said::new() }
    }

    fn join(&mut self, one: usize, other: usize) {
        self.graphs[one].link_up(self.now, link(other), end(other));
        self.graphs[other].link_up(self.now, link(one), end(one));
        self.flush(one);
        self.flush(other);
    }

    fn part(&mut self, one: usize, other: usize) {
        self.graphs[one].link_down(self.now, link(other));
        self.graphs[other].link_down(self.now, link(one));
        self.said.retain(|(from, to, _)| ![(one, other), (other, one)].contains(&(*from, *to)));
        self.flush(one);
        self.flush(other);
    }

    fn flush(&mut self, at: usize) {
        let mut out = Vec::new();
        self.graphs[at].flush(self.now, &mut out);
        self.graphs[at].invariants();
        self.carry(at, out);
    }

    fn carry(&mut self, at: usize, out: Vec<Action>) {
        for action in out {
            let Action::Send { link, message: Message::Gossip(gossip) } = action else {
                panic!("{action:?}")
            };
            self.said.push_back((at, usize::from(link.0), gossip));
        }
    }

    /// Until nobody says anything more, those either who wait after a link went down.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some((from, to, gossip)) = self.said.pop_front() else {
                let waiting = self.graphs.iter().filter_map(|graph| graph.quiet_until).min();
                let Some(until) = waiting else { return };
                self.now = self.now.max(until);
                (0..self.graphs.len()).for_each(|at| self.flush(at));
                continue;
            };
            let mut out = Vec::new();
            self.graphs[to].message(self.now, link(from), gossip, &mut out).expect("honest");
            self.carry(to, out);
            self.flush(to);
        }
        panic!("they never stop");
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = (0..self.graphs.len())
                .filter_map(|at| self.graphs[at].poll_timeout().map(|(due, _)| (due, at)))
                .min();
            let Some((due, at)) = due.filter(|(due, _)| *due <= until) else { break };
            self.now = self.now.max(due);
            self.graphs[at].handle_timeout(self.now);
            self.flush(at);
            self.settle();
        }
        self.now = self.now.max(until);
    }

    fn links(&self, at: usize) -> Vec<(String, String)> {
        let links = self.graphs[at].picture().links();
        links.map(|link| (link.lower.to_string(), link.higher.to_string())).collect()
    }

    fn agree(&self) -> bool {
        self.graphs.iter().all(|graph| graph.digest() == self.graphs[0].digest())
    }
}

fn pair(one: usize, other: usize) -> (String, String) {
    (name(one).to_string(), name(other).to_string())
}

fn sign(mut fact: Fact, by: usize) -> Told {
    let signature = identity(by).sign(&fact.signed_bytes()).to_bytes();
    match &mut fact {
        Fact::Peer(fact) => fact.signature = signature,
        Fact::Link(fact) => fact.signature = signature,
    }
    Told { age_ms: 0, fact }
}

fn peer_fact(at: usize, version: u64) -> PeerFact {
    PeerFact {
        origin: name(at),
        key: key(at),
        version,
        leaving: false,
        egress: None,
        ingress: None,
        signature: [0; 64],
    }
}

fn link_fact(from: usize, to: usize, version: u64) -> LinkFact {
    LinkFact {
        origin: name(from),
        neighbour: name(to),
        neighbour_key: key(to),
        version,
        up: true,
        capacity: RATE,
        free_out: RATE,
        max_payload: 1_400,
        signature: [0; 64],
    }
}

/// p0 with a link to p1, and what it says to facts that p1 brings.
fn with_neighbour() -> Graph {
    let mut graph = graph(0);
    graph.configure([(name(1), key(1))].into());
    graph.link_up(T, link(1), end(1));
    graph.flush(T, &mut Vec::new());
    graph
}

fn hear(graph: &mut Graph, now: Time, told: Vec<Told>) -> Result<Vec<Action>, &'static str> {
    let mut out = Vec::new();
    let result = graph.message(now, link(1), Gossip::Facts(told), &mut out);
    graph.flush(now, &mut out);
    graph.invariants();
    result.map(|()| out)
}

#[test]
fn b3_everybody_learns_every_peer_and_link_and_a_link_that_goes_is_gone_everywhere() {
    let mut world = World::new(5);
    for (one, other) in [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)] {
        world.join(one, other);
        world.settle();
    }
    assert!(world.agree());
    assert_eq!(world.links(2).len(), 5);
    world.part(2, 3);
    world.settle();
    assert!(world.agree());
    for at in 0..5 {
        assert_eq!(world.links(at), [pair(0, 1), pair(0, 4), pair(1, 2), pair(3, 4)]);
    }
}

#[test]
fn a_fact_is_applied_once_and_passed_on_once_to_all_other_links() {
    let mut graph = with_neighbour();
    graph.link_up(T, link(2), end(2));
    graph.link_up(T, link(3), end(3));
    graph.flush(T, &mut Vec::new());
    let facts = vec![sign(Fact::Peer(peer_fact(5, 1)), 5), sign(Fact::Link(link_fact(5, 6, 2)), 5)];
    let out = hear(&mut graph, T, facts.clone()).unwrap();
    let sent: Vec<(LinkId, usize)> = out
        .iter()
        .map(|action| {
            let Action::Send { link, message: Message::Gossip(Gossip::Facts(facts)) } = action
            else {
                panic!("{action:?}")
            };
            (*link, facts.len())
        })
        .collect();
    assert_eq!(sent, [(link(2), 2), (link(3), 2)], "one message each");
    assert_eq!(hear(&mut graph, T, facts).unwrap(), [], "nothing the second time");
    assert_eq!((graph.counters().applied, graph.counters().duplicates), (2, 2));
}

/// Row 24 of the misuse table: what must not enter does not, and everything else stays as it was.
#[test]
fn a_forged_fact_never_enters() {
    type Case = (&'static str, Refusal, fn() -> Told);
    let cases: [Case; 9] = [
        ("a link fact nobody signed", Refusal::Forged, || Told {
            age_ms: 0,
            fact: Fact::Link(link_fact(1, 2, 90)),
        }),
        ("a link of p1 that p2 made up", Refusal::Forged, || {
            sign(Fact::Link(link_fact(1, 2, 90)), 2)
        }),
        ("a peer fact that nobody signed", Refusal::Forged, || Told {
            age_ms: 0,
            fact: Fact::Peer(peer_fact(7, 1)),
        }),
        ("another key for a configured neighbour", Refusal::AnotherKey, || {
            sign(Fact::Peer(PeerFact { key: key(9), ..peer_fact(1, 90) }), 9)
        }),
        ("another key for a peer that lives", Refusal::AnotherKey, || {
            sign(Fact::Peer(PeerFact { key: key(9), ..peer_fact(2, 90) }), 9)
        }),
        ("a link of an unknown member", Refusal::UnknownOrigin, || {
            sign(Fact::Link(link_fact(8, 2, 90)), 8)
        }),
        ("an old version", Refusal::Old, || {
            sign(Fact::Link(LinkFact { max_payload: 9, ..link_fact(1, 2, 3) }), 1)
        }),
        ("an old version of a peer", Refusal::Old, || {
            sign(Fact::Peer(PeerFact { leaving: true, ..peer_fact(2, 1) }), 2)
        }),
        ("a peer nobody has heard of for a minute", Refusal::Expired, || Told {
            age_ms: 60_000,
            ..sign(Fact::Peer(peer_fact(7, 1)), 7)
        }),
    ];
    for (what, reason, forge) in cases {
        let mut graph = with_neighbour();
        let honest = [
            sign(Fact::Peer(peer_fact(1, 2)), 1),
            sign(Fact::Link(link_fact(1, 0, 3)), 1),
            sign(Fact::Link(link_fact(1, 2, 4)), 1),
            sign(Fact::Peer(peer_fact(2, 5)), 2),
            sign(Fact::Link(link_fact(2, 1, 6)), 2),
        ];
        hear(&mut graph, T, honest.to_vec()).unwrap();
        let before = graph.view(T, |_, _| false);
        assert_eq!((before.peers.len(), before.links.len()), (3, 2), "{what}");
        let forged = forge();
        let own_key = matches!(forged.fact, Fact::Peer(_)) && reason == Refusal::Forged;
        let result = hear(&mut graph, T, vec![forged]);
        // A peer fact brings its key, so the neighbour must have seen that it is wrong.
        assert_eq!(result.is_err(), own_key, "{what}");
        // Who says something old hears the newer one.
        let newer = usize::from(reason == Refusal::Old);
        assert_eq!(result.unwrap_or_default().len(), newer, "{what}: nothing is passed on");
        assert_eq!(graph.view(T, |_, _| false), before, "{what}");
        assert_eq!(graph.counters().refused(reason), 1, "{what}");
    }
}

#[test]
fn a_link_that_only_one_end_says_or_says_of_another_key_is_no_link() {
    let mut graph = with_neighbour();
    let peers = [
        sign(Fact::Peer(peer_fact(1, 1)), 1),
        sign(Fact::Peer(peer_fact(2, 1)), 2),
        sign(Fact::Peer(peer_fact(3, 1)), 3),
    ];
    hear(&mut graph, T, peers.to_vec()).unwrap();
    let one_half = sign(Fact::Link(link_fact(1, 2, 2)), 1);
    hear(&mut graph, T, vec![one_half]).unwrap();
    assert_eq!(graph.picture().links().count(), 0, "p2 has not said so");
    let of_another = LinkFact { neighbour_key: key(9), ..link_fact(2, 1, 2) };
    hear(&mut graph, T, vec![sign(Fact::Link(of_another), 2)]).unwrap();
    assert_eq!(graph.picture().links().count(), 0, "p2 has a link to another p1");
    hear(&mut graph, T, vec![sign(Fact::Link(link_fact(2, 1, 3)), 2)]).unwrap();
    assert_eq!(graph.picture().links().count(), 1);
    assert!(graph.picture().linked(&name(1), &name(2)));
    assert_eq!(graph.broken_hop(&[name(1)]), Some((name(0), name(1))), "p1 has not said so");
}

#[test]
fn an_origin_is_bounded_in_links_and_in_what_it_says_a_second() {
    let mut graph = with_neighbour();
    hear(&mut graph, T, vec![sign(Fact::Peer(peer_fact(1, 1)), 1)]).unwrap();
    let many = |from: usize, count: usize, version: u64| -> Vec<Told> {
        let fact = |at: usize| LinkFact {
            neighbour: PeerName::new(&format!("n{}", from + at)).unwrap(),
            ..link_fact(1, 2, version)
        };
        (0..count).map(|at| sign(Fact::Link(fact(at)), 1)).collect()
    };
    graph.check_with(|_, _, _| true);
    for piece in 0..40 {
        hear(&mut graph, T, many(piece * 60, 60, 2)).unwrap();
    }
    assert_eq!(graph.origin(&name(1)).unwrap().links.len(), limits::LINK_FACTS_MAX);
    assert_eq!(graph.counters().refused(Refusal::TooManyLinks), 2_400 - 2_048);
    for piece in 0..40 {
        hear(&mut graph, T, many(piece * 60, 60, 3)).unwrap();
    }
    let bucket = u64::from(limits::FACTS_BURST);
    assert_eq!(graph.counters().applied, bucket + 1, "the first made the bucket");
    hear(&mut graph, T, many(0, 60, 4)).unwrap();
    assert_eq!(graph.counters().refused(Refusal::TooFast), 60);
    let later = T + Duration::from_secs(1);
    hear(&mut graph, later, many(0, 60, 5)).unwrap();
    assert_eq!(graph.counters().applied, bucket + 1 + u64::from(limits::FACTS_PER_SECOND));
}

#[test]
fn a_neighbour_of_an_earlier_version_hears_no_facts_and_may_tell_none() {
    let mut graph = graph(0);
    graph.link_up(T, link(1), End { version: 2, ..end(1) });
    let mut out = Vec::new();
    graph.flush(T, &mut out);
    assert_eq!(out, []);
    assert!(graph.message(T, link(1), Gossip::Facts(vec![]), &mut out).is_err());
}

/// Decision 9 without a clock or a disk: the new life finds what the old one said, and goes above it.
#[test]
fn a_peer_that_starts_again_goes_above_what_it_said_in_its_earlier_life() {
    let mut world = World::new(3);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.join(one, other);
        world.settle();
    }
    world.pass(Duration::from_secs(100));
    let earlier = world.graphs[1].origin(&name(0)).unwrap().peer.fact.version;
    assert!(earlier > 3, "it said often enough that it lives");
    world.part(0, 1);
    world.part(0, 2);
    world.settle();
    world.graphs[0] = graph(0);
    world.join(0, 1);
    world.settle();
    assert!(world.agree());
    let origin = world.graphs[2].origin(&name(0)).unwrap();
    assert!(origin.peer.fact.version > earlier);
    assert!(!origin.links[&name(2)].fact.up, "its earlier life had that link");
    assert_eq!(world.links(2), [pair(0, 1), pair(1, 2)]);
    assert!(world.graphs[0].counters().retold > 0);
}

/// Both lives say the same of its only link, under the same version, so no digest shows that the new life
/// does not know how often the old one said that it lives.
#[test]
fn a_leaf_that_starts_again_stays_in_the_picture() {
    for away in [1, 50, 70, 110] {
        let mut world = World::new(3);
        for (one, other) in [(0, 1), (1, 2)] {
            world.join(one, other);
            world.settle();
        }
        world.pass(Duration::from_secs(200));
        world.part(1, 2);
        world.settle();
        world.pass(Duration::from_secs(away));
        world.graphs[2] = graph(2);
        world.join(1, 2);
        world.settle();
        for _ in 0..20 {
            world.pass(Duration::from_secs(10));
            assert!(world.agree(), "away for {away} s");
            assert_eq!(world.links(0), [pair(0, 1), pair(1, 2)], "away for {away} s");
        }
    }
}

/// Only p0 remembers p3's earlier life, and p3 is not its neighbour: neither does p0 ask for what is dead,
/// nor does p3's digest show that p0 holds something newer.
#[test]
fn a3_who_remembers_an_earlier_life_tells_its_origin_however_far_it_is() {
    for away in [1, 40, 61, 100, 119] {
        let mut world = World::new(4);
        for (one, other) in [(0, 1), (1, 2), (2, 3)] {
            world.join(one, other);
            world.settle();
        }
        world.pass(Duration::from_secs(100));
        for (one, other) in [(0, 1), (1, 2), (2, 3)] {
            world.part(one, other);
        }
        let earlier = world.graphs[0].origin(&name(3)).unwrap().peer.fact.version;
        world.pass(Duration::from_secs(away));
        for at in 1..4 {
            world.graphs[at] = graph(at);
        }
        world.join(2, 3);
        world.settle();
        world.join(1, 2);
        world.settle();
        assert!(world.graphs[2].origin(&name(3)).unwrap().peer.fact.version < earlier);
        world.join(0, 1);
        world.settle();
        // Digests differ where what was dead is alive again; two rounds of them are enough.
        world.pass(limits::DIGEST_INTERVAL.1 * 2);
        for _ in 0..20 {
            assert!(world.agree(), "away for {away} s");
            assert_eq!(world.links(0), [pair(0, 1), pair(1, 2), pair(2, 3)], "away for {away} s");
            world.pass(Duration::from_secs(10));
        }
        let retold = world.graphs[3].origin(&name(3)).unwrap().peer.fact.version;
        assert!(retold > earlier, "{retold} after {earlier}, away for {away} s");
    }
}

/// A copy that says to be dead changes no picture: its origin alone can say more.
#[test]
fn a_fact_of_an_earlier_life_enters_nowhere_and_is_passed_on_once_for_each_word_of_its_origin() {
    let mut graph = with_neighbour();
    graph.link_up(T, link(2), end(2));
    graph.flush(T, &mut Vec::new());
    let dead = |version: u64| {
        let age_ms = u32::try_from(limits::FACT_LIFE.as_millis()).unwrap();
        Told { age_ms, ..sign(Fact::Peer(peer_fact(5, version)), 5) }
    };
    let alive = |version: u64| sign(Fact::Peer(peer_fact(5, version)), 5);
    let said = |out: Vec<Action>| -> Vec<(LinkId, u64)> {
        let version = |action: &Action| {
            let Action::Send { link, message: Message::Gossip(Gossip::Facts(facts)) } = action
            else {
                panic!("{action:?}")
            };
            (*link, facts[0].fact.version())
        };
        out.iter().map(version).collect()
    };
    let mut hears = |told: Told| said(hear(&mut graph, T, vec![told]).unwrap());
    assert_eq!(hears(dead(9)), [], "nobody has heard of it, so it cannot hear this");
    assert_eq!(hears(alive(1)), [(link(2), 1)]);
    assert_eq!(hears(dead(9)), [(link(2), 9)]);
    assert_eq!(hears(dead(9)), [], "once");
    assert_eq!(hears(dead(8)), [], "less is no news");
    assert_eq!(hears(alive(2)), [(link(2), 2)], "it still stands");
    assert_eq!(hears(dead(9)), [(link(2), 9)], "it was lost on the way");
    assert_eq!(hears(alive(10)), [(link(2), 10)]);
    assert_eq!(hears(dead(9)), [(link(1), 10)], "who says something old hears the newer");
    let forged = Told { fact: Fact::Peer(peer_fact(5, 11)), ..dead(1) };
    assert_eq!(hear(&mut graph, T, vec![forged]), Err(FORGED));
    assert_eq!(graph.origin(&name(5)).unwrap().peer.fact.version, 10);
}

/// Its first life ends before it says twice that it lives. If both lives said the same under the same
/// version, the second one would die with the first.
#[test]
fn a3_a_short_life_does_not_cut_the_next_one_short() {
    let mut world = World::new(3);
    world.join(0, 1);
    world.join(1, 2);
    world.settle();
    for life in 1..20 {
        world.part(1, 2);
        world.pass(Duration::from_secs(40 + 2 * life));
        world.graphs[2] = graph_of_life(2, life);
        world.join(1, 2);
        world.settle();
        for _ in 0..100 {
            world.pass(Duration::from_millis(150));
            assert!(world.graphs[0].knows(&name(2)), "life {life}");
        }
    }
}

#[test]
fn a_peer_that_is_silent_for_a_minute_is_gone_and_its_old_facts_cannot_return() {
    let mut graph = with_neighbour();
    let facts = vec![sign(Fact::Peer(peer_fact(2, 5)), 2), sign(Fact::Link(link_fact(2, 1, 6)), 2)];
    hear(&mut graph, T, facts.clone()).unwrap();
    assert!(graph.knows(&name(2)));
    let gone = T + limits::FACT_LIFE;
    graph.handle_timeout(gone);
    graph.flush(gone, &mut Vec::new());
    graph.invariants();
    assert!(!graph.knows(&name(2)));
    hear(&mut graph, gone, facts).unwrap();
    assert!(!graph.knows(&name(2)), "its tombstone stands");
    // It lives after all: what it said of its links still stands.
    hear(&mut graph, gone, vec![sign(Fact::Peer(peer_fact(2, 7)), 2)]).unwrap();
    assert!(graph.origin(&name(2)).unwrap().links[&name(1)].fact.up);
    let forgotten = gone + limits::FACT_MEMORY;
    graph.handle_timeout(forgotten);
    graph.flush(forgotten, &mut Vec::new());
    // A name that nobody uses any more is free for another key.
    let other = PeerFact { key: key(9), ..peer_fact(2, 1) };
    hear(&mut graph, forgotten, vec![sign(Fact::Peer(other), 9)]).unwrap();
    assert_eq!(*graph.origin(&name(2)).unwrap().key(), key(9));
}

#[test]
fn a_live_overlay_keeps_its_picture_and_says_little() {
    let mut world = World::new(4);
    for (one, other) in [(0, 1), (1, 2), (2, 3), (0, 3)] {
        world.join(one, other);
        world.settle();
    }
    let sent = |world: &World| world.graphs.iter().map(|g| g.counters().messages).sum::<u64>();
    let (before, picture) = (sent(&world), world.graphs[0].version());
    world.pass(Duration::from_secs(300));
    assert!(world.agree());
    assert_eq!((world.links(0).len(), world.graphs[0].version()), (4, picture), "nothing changed");
    // Each of 8 ends says its digest every 2 s; each peer says every 17 s that it lives, which goes
    // over each link once or twice.
    let messages = sent(&world) - before;
    assert!((900..2_000).contains(&messages), "{messages} messages in five minutes");
}

#[test]
fn what_a_bound_swallowed_is_repaired_by_comparing_digests() {
    let mut world = World::new(3);
    world.join(0, 1);
    world.join(1, 2);
    world.settle();
    // A fact that was lost on its way to p2, which another one of the same origin overtook.
    world.graphs[0].link_changed(world.now, link(1), Bandwidth::from_bps(50_000_000), RATE);
    world.flush(0);
    world.said.clear();
    world.pass(Duration::from_secs(25));
    assert!(world.agree());
    let picture = world.graphs[2].picture();
    let capacity = picture.links().next().unwrap().capacity;
    assert_eq!(capacity.bps(), 50_000_000);
    assert!(world.graphs[1].counters().differed > 0);
}

#[test]
fn free_capacity_is_told_twice_a_second_and_only_if_it_changed_much() {
    let mut graph = with_neighbour();
    let told = |graph: &Graph| graph.counters().told;
    let start = told(&graph);
    let free = |percent: u64| Bandwidth::from_bps(RATE.bps() / 100 * percent);
    let (later, half) = (T + Duration::from_secs(1), Duration::from_millis(250));
    graph.link_changed(later, link(1), RATE, free(96));
    assert_eq!(told(&graph), start, "4 percent");
    graph.link_changed(later, link(1), RATE, free(90));
    assert_eq!(told(&graph), start + 1);
    graph.link_changed(later + half, link(1), RATE, free(20));
    assert_eq!(told(&graph), start + 1, "too soon");
    let due = later + limits::FREE_INTERVAL;
    assert_eq!(graph.poll_timeout(), Some((due, Timer::Gossip)));
    graph.handle_timeout(due);
    assert_eq!(told(&graph), start + 2);
    let mine = graph.origin(&name(0)).unwrap();
    assert_eq!(mine.links[&name(1)].fact.free_out, free(20));
    graph.link_changed(due, link(1), free(80), free(10));
    assert_eq!(told(&graph), start + 3, "the capacity does not wait");
    graph.link_down(due, link(1));
    assert_eq!(told(&graph), start + 4, "nor does the end of the link");
}

#[test]
fn a2_a_peer_that_leaves_and_the_budgets_of_a_host_are_told() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.settle();
    world.graphs[0].set_leaving(world.now);
    let budgets = Budgets { egress: Some(RATE), ingress: None };
    world.graphs[0].set_budgets(world.now, budgets);
    world.flush(0);
    world.settle();
    let view = world.graphs[1].view(world.now, |_, _| true);
    let seen = view.peers.iter().find(|peer| peer.name == name(0)).unwrap();
    assert_eq!((seen.leaving, seen.egress, seen.ingress), (true, Some(RATE), None));
    assert!(view.links[0].tree);
}

/// A newcomer asks piece by piece, so a large picture fills no queue.
#[test]
fn a_large_picture_is_compared_in_pieces() {
    let mut world = World::new(2);
    for graph in &mut world.graphs {
        graph.check_with(|_, _, _| true);
    }
    let peers = 2 * limits::ORIGINS_PER_SUMMARY + 30;
    for at in 0..peers {
        let origin = PeerName::new(&format!("far-{at:04}")).unwrap();
        let fact = Fact::Peer(PeerFact { origin: origin.clone(), ..peer_fact(9, 1) });
        world.graphs[0].store.insert(T, fact, Duration::ZERO);
        for to in 1..6 {
            let neighbour = PeerName::new(&format!("far-{:04}", (at + to) % peers)).unwrap();
            let fact = LinkFact { origin: origin.clone(), neighbour, ..link_fact(9, 1, 2) };
            world.graphs[0].store.insert(T, Fact::Link(fact), Duration::ZERO);
        }
    }
    world.join(0, 1);
    let mut longest = 0;
    while let Some((from, to, gossip)) = world.said.pop_front() {
        let mut out = Vec::new();
        world.graphs[to].message(world.now, link(from), gossip, &mut out).expect("honest");
        longest = longest.max(out.len());
        world.carry(to, out);
        world.flush(to);
    }
    assert!(world.agree());
    let held: usize = world.graphs[1].store.live().map(|(_, origin)| 1 + origin.links.len()).sum();
    assert_eq!(held, 6 * peers + 4);
    let pieces = world.graphs[1].counters().summaries;
    assert!(pieces >= 3, "{pieces} pieces");
    assert!(longest <= limits::FACTS_PER_ANSWER / limits::FACTS_PER_MESSAGE + 2, "{longest}");
}

#[test]
fn a_neighbour_that_asks_without_end_is_not_answered_without_end() {
    let mut graph = with_neighbour();
    let question = || Gossip::Summary {
        after: None,
        origins: vec![OriginDigest { origin: name(0), digest: 0, newest: 0 }],
        last: true,
    };
    let mut answered = 0;
    for _ in 0..1_000 {
        let mut out = Vec::new();
        graph.message(T, link(1), question(), &mut out).unwrap();
        answered += usize::from(!out.is_empty());
    }
    assert_eq!(answered, limits::ANSWERS_BURST as usize);
}

#[test]
fn a_path_of_its_own_needs_a_live_link_at_every_hop() {
    let mut world = World::new(4);
    for (one, other) in [(0, 1), (1, 2), (2, 3)] {
        world.join(one, other);
        world.settle();
    }
    let path = |peers: &[usize]| peers.iter().map(|at| name(*at)).collect::<Vec<_>>();
    let graph = &world.graphs[0];
    assert_eq!(graph.broken_hop(&path(&[1, 2, 3])), None);
    assert_eq!(graph.broken_hop(&path(&[1, 3])), Some((name(1), name(3))));
    assert_eq!(graph.broken_hop(&path(&[2])), Some((name(0), name(2))));
}

/// What one origin may say of itself and two links, in any version.
fn said() -> impl Strategy<Value = Told> {
    (1..5_u64, 0..3_usize, any::<bool>(), 0..3_u16, 0..50_u32).prop_map(
        |(version, what, flag, payload, age_s)| {
            let fact = match what {
                0 => Fact::Peer(PeerFact { leaving: flag, ..peer_fact(1, version) }),
                to => Fact::Link(LinkFact {
                    up: flag,
                    max_payload: payload,
                    ..link_fact(1, to + 1, version)
                }),
            };
            Told { age_ms: age_s * 1_000, fact }
        },
    )
}

fn merged(first: &[Told], then: &[Told]) -> Store {
    added(added(Store::new(name(0)), first), then)
}

fn added(mut store: Store, facts: &[Told]) -> Store {
    for told in facts {
        if let Verdict::New(_) = store.judge(T, told) {
            let age = Duration::from_millis(told.age_ms.into());
            store.insert(T, told.fact.clone(), age);
            store.invariants();
        }
    }
    store
}

/// Every fact held, without when it was heard.
fn content(store: &Store) -> Vec<(Fact, u64)> {
    let facts = store.live().flat_map(|(_, origin)| origin.facts(T, 0));
    facts.map(|told| (told.fact, store.digest())).collect()
}

/// What everybody can see: no signatures, no versions of peer facts, nothing withdrawn.
fn seen(store: &Store) -> Vec<(PeerName, Vec<Bytes>)> {
    let visible = |told: Told| match told.fact {
        Fact::Peer(fact) => Some(PeerFact { version: 0, ..fact }.signed_bytes()),
        Fact::Link(fact) => fact.up.then(|| fact.signed_bytes()),
    };
    let bytes = |origin: &Origin| origin.facts(T, 0).filter_map(visible).collect();
    store.live().map(|(name, origin)| (name.clone(), bytes(origin))).collect()
}

/// What `store` answers to somebody who has `other`.
fn answers(store: &Store, other: &Store) -> Vec<Told> {
    let origins = other.live().map(|(name, origin)| Store::summary(name, origin));
    let (facts, up_to) = compare::answer(T, store, None, &origins.collect::<Vec<_>>(), true);
    assert_eq!(up_to, None);
    facts
}

/// A few things that two peers say, of both or of one of them.
fn said_by_two() -> impl Strategy<Value = Vec<Told>> {
    let one = (said(), any::<bool>()).prop_map(|(told, other)| {
        let origin = name(if other { 3 } else { 1 });
        let fact = match told.fact {
            Fact::Peer(fact) => Fact::Peer(PeerFact { origin, ..fact }),
            Fact::Link(fact) => Fact::Link(LinkFact { origin, ..fact }),
        };
        Told { fact, ..told }
    });
    proptest::collection::vec(one, 0..8)
}

proptest! {
    /// Two pictures are equal if and only if their digests are, as a whole and of each origin; and when
    /// each has heard what the other one answers, they are.
    #[test]
    fn i9_pictures_that_differ_never_compare_equal_and_answers_make_them_equal(
        common in said_by_two(),
        one in said_by_two(),
        other in said_by_two(),
    ) {
        let (one, other) = (merged(&common, &one), merged(&common, &other));
        prop_assert_eq!(seen(&one) == seen(&other), one.digest() == other.digest());
        for (name, mine) in one.live() {
            let Some(theirs) = other.origin(name) else { continue };
            let of = |store: &Store| seen(store).into_iter().find(|(origin, _)| origin == name);
            let same = Store::summary(name, mine).digest == Store::summary(name, theirs).digest;
            prop_assert_eq!(of(&one) == of(&other), same, "{}", name);
        }
        let (to_one, to_other) = (answers(&other, &one), answers(&one, &other));
        let (one, other) = (added(one, &to_one), added(other, &to_other));
        prop_assert_eq!(seen(&one), seen(&other));
        prop_assert_eq!(one.digest(), other.digest());
    }

    /// F5. A peer fact comes first, as it does on every link.
    #[test]
    fn merging_facts_is_commutative_associative_and_idempotent(
        facts in proptest::collection::vec(said(), 0..12),
        turn in 0..12_usize,
    ) {
        let first = [Told { age_ms: 0, fact: Fact::Peer(peer_fact(1, 1)) }];
        let once = content(&merged(&first, &facts));
        let mut other = facts.clone();
        other.rotate_left(turn.min(facts.len()));
        prop_assert_eq!(&once, &content(&merged(&first, &other)), "another order");
        other.reverse();
        prop_assert_eq!(&once, &content(&merged(&first, &other)), "backwards");
        let twice: Vec<Told> = facts.iter().chain(&other).cloned().collect();
        prop_assert_eq!(&once, &content(&merged(&first, &twice)), "twice");
    }

    /// F4: whatever an authenticated liar says, nothing breaks and nothing of others enters.
    #[test]
    fn a_liar_breaks_nothing(
        facts in proptest::collection::vec((said(), any::<bool>()), 0..12),
        digest in any::<u64>(),
        names in proptest::collection::btree_set(0..6_usize, 0..4),
        last in any::<bool>(),
    ) {
        let mut graph = with_neighbour();
        let mut out = Vec::new();
        for (told, signed) in facts {
            let told = if signed { sign(told.fact, 1) } else { told };
            let _ = graph.message(T, link(1), Gossip::Facts(vec![told]), &mut out);
        }
        let origins = names.iter().map(|at| OriginDigest {
            origin: name(*at),
            digest,
            newest: digest,
        });
        let summary = Gossip::Summary { after: None, origins: origins.collect(), last };
        let up_to = names.first().map(|at| name(*at));
        for gossip in [Gossip::Hash { digest }, summary, Gossip::Compared { up_to }] {
            prop_assert_eq!(graph.message(T, link(1), gossip, &mut out), Ok(()));
        }
        graph.flush(T, &mut out);
        graph.invariants();
        prop_assert!(graph.view(T, |_, _| false).peers.len() <= 2);
    }
}

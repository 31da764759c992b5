//! Judges that share no code with what they judge: Kruskal with its own union-find, the comparison of
//! what peers say of themselves with what Kruskal makes of it (A10), sums of what channels take of links
//! (A12), and frames pushed through the tables that the peers installed (A22).
//!
//! Pure; used by the simulator's tests and by `spanway verify`. It trusts nobody: a link or branch
//! counts for what both its ends say of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Peer, Sim};
use crate::limits;
use crate::proto::node::Node;
use crate::proto::view::{GraphLinkView, LinkState};
use crate::proto::{Collected, Side, Target};
use crate::types::{Bandwidth, ChannelId, EdgeKey, LinkId, PeerName, Time, Way};
use crate::wire::control::LinkInfo;

/// The maximum spanning forest of the overlay with these edges (Kruskal).
pub fn maximum_forest(edges: &[EdgeKey]) -> BTreeSet<EdgeKey> {
    let mut groups = Groups::default();
    let mut best_first: Vec<&EdgeKey> = edges.iter().collect();
    best_first.sort_unstable_by(|a, b| b.cmp(a));
    let joins = |edge: &&EdgeKey| groups.join(&edge.lower, &edge.higher);
    best_first.into_iter().filter(joins).cloned().collect()
}

/// The peers of each component, every list sorted.
pub fn components(peers: &[PeerName], edges: &[EdgeKey]) -> Vec<Vec<PeerName>> {
    let mut groups = Groups::default();
    for edge in edges {
        groups.join(&edge.lower, &edge.higher);
    }
    let mut found: BTreeMap<usize, Vec<PeerName>> = BTreeMap::new();
    for peer in peers.iter().collect::<BTreeSet<_>>() {
        found.entry(groups.of(peer)).or_default().push(peer.clone());
    }
    found.into_values().collect()
}

/// What the widest path between two peers carries; none without a path.
pub fn width(edges: &[EdgeKey], one: &PeerName, other: &PeerName) -> Option<Bandwidth> {
    let mut groups = Groups::default();
    let mut best_first: Vec<&EdgeKey> = edges.iter().collect();
    best_first.sort_unstable_by(|a, b| b.cmp(a));
    let joins = |edge: &&EdgeKey| {
        groups.join(&edge.lower, &edge.higher);
        groups.of(one) == groups.of(other)
    };
    best_first.into_iter().find(joins).map(|edge| edge.capacity)
}

/// How the collected answers differ from a correct overlay and tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Peers that answered, and links that at least one end has.
    pub peers: usize,
    pub links: usize,
    /// Edges of the judge's tree that the peers lack.
    pub missing: Vec<EdgeKey>,
    /// Branches that the judge's tree has not.
    pub surplus: Vec<EdgeKey>,
    /// Links or branches only one of their ends believes in, peers that did not answer.
    pub contradictions: Vec<String>,
}

impl Differences {
    pub fn correct(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty() && self.contradictions.is_empty()
    }
}

/// Compares the branches that the peers say they have with the maximum forest of the links that they
/// say they have.
pub fn judge(collected: &Collected) -> Differences {
    let mut found = Differences { peers: collected.peers.len(), ..Differences::default() };
    let silent: BTreeSet<&PeerName> = collected.silent.iter().collect();
    for peer in &silent {
        found.contradictions.push(format!("{peer} did not answer"));
    }
    let claims = claims(collected, &mut found.contradictions);
    found.links = claims.len();

    let mut edges = Vec::new();
    let mut by_one = BTreeSet::new();
    let mut by_both = BTreeSet::new();
    for ((lower, higher), [low, high]) in claims {
        let said: Vec<&LinkInfo> = [low, high].into_iter().flatten().collect();
        let alone = match (low, high) {
            (Some(_), None) => Some((lower, higher)),
            (None, Some(_)) => Some((higher, lower)),
            _ => None,
        };
        if let Some((claims, other)) = alone.filter(|(_, other)| !silent.contains(other)) {
            let text = format!("{claims} has a link to {other}, {other} has none to {claims}");
            found.contradictions.push(text);
        }
        let capacity = said.iter().map(|info| info.capacity).min().expect("somebody said it");
        if said.iter().any(|info| info.capacity != capacity) {
            let text = format!("{lower} and {higher} give their link different capacities");
            found.contradictions.push(text);
        }
        let key = EdgeKey::new(capacity, lower.clone(), higher.clone());
        let branches = said.iter().filter(|info| info.branch).count();
        if branches > 0 {
            by_one.insert(key.clone());
        }
        if branches == said.len() {
            by_both.insert(key.clone());
        } else if branches > 0 {
            let text = format!("only one end of the link of {lower} and {higher} has it as branch");
            found.contradictions.push(text);
        }
        edges.push(key);
    }
    let forest = maximum_forest(&edges);
    found.missing = forest.difference(&by_both).cloned().collect();
    found.surplus = by_one.difference(&forest).cloned().collect();
    found
}

type Ends<'a> = (&'a PeerName, &'a PeerName);

/// What the lower and the higher end say of each link.
fn claims<'a>(
    collected: &'a Collected,
    contradictions: &mut Vec<String>,
) -> BTreeMap<Ends<'a>, [Option<&'a LinkInfo>; 2]> {
    let mut claims: BTreeMap<Ends<'a>, [Option<&LinkInfo>; 2]> = BTreeMap::new();
    for (peer, links) in &collected.peers {
        for info in links {
            if info.peer == *peer {
                contradictions.push(format!("{peer} has a link to itself"));
                continue;
            }
            let (ends, side) =
                if *peer < info.peer { ((peer, &info.peer), 0) } else { ((&info.peer, peer), 1) };
            let claim = &mut claims.entry(ends).or_default()[side];
            if claim.replace(info).is_some() {
                contradictions.push(format!("{peer} has two links to {}", info.peer));
            }
        }
    }
    claims
}

/// I4 (A12): what the channels of a peer take of each of its links, in the direction it sends, and of what
/// its host may carry in all must fit the usable capacity and be what the peer says is not free. Counted
/// from the paths and rates of its channels. Returns what is wrong.
pub fn oversold(peers: &[Peer]) -> Vec<String> {
    let nodes = peers.iter().filter_map(|peer| Some((&peer.name, peer.node.as_ref()?)));
    nodes.flat_map(|(name, node)| oversold_at(name, node)).collect()
}

fn oversold_at(name: &PeerName, node: &Node) -> Vec<String> {
    // Paths of one channel that cross a link the same way count once.
    let mut shares: BTreeMap<(PeerName, ChannelId, bool), u128> = BTreeMap::new();
    let mut hosts: BTreeMap<(Way, ChannelId, bool), u128> = BTreeMap::new();
    for channel in node.channels() {
        for path in &channel.reserved {
            let Some(here) = path.iter().position(|peer| peer == name) else { continue };
            let before = here.checked_sub(1).and_then(|before| path.get(before));
            let sends =
                [(path.get(here + 1), true, channel.rate), (before, false, channel.rate_back)];
            for (neighbour, there, rate) in sends {
                let Some(neighbour) = neighbour else { continue };
                let share = shares.entry((neighbour.clone(), channel.id.clone(), there));
                let share = share.or_default();
                *share = (*share).max(u128::from(rate.bps()));
            }
            let (prev, next) = (before.is_some(), path.get(here + 1).is_some());
            let [rate, back] = [channel.rate, channel.rate_back].map(|rate| u128::from(rate.bps()));
            for (way, [to, from]) in [(Way::Egress, [next, prev]), (Way::Ingress, [prev, next])] {
                for (there, crosses, rate) in [(true, to, rate), (false, from, back)] {
                    let share = hosts.entry((way, channel.id.clone(), there)).or_default();
                    *share = (*share).max(if crosses { rate } else { 0 });
                }
            }
        }
    }
    let mut taken: BTreeMap<PeerName, u128> = BTreeMap::new();
    for ((neighbour, _, _), share) in shares {
        *taken.entry(neighbour).or_default() += share;
    }
    let bps = |rate: Bandwidth| u128::from(rate.bps());
    let mut wrong = Vec::new();
    for way in Way::BOTH {
        let sum: u128 = hosts.iter().filter(|((of, ..), _)| *of == way).map(|(_, rate)| rate).sum();
        let Some((usable, free)) = node.budget(way) else { continue };
        if bps(usable) != sum + bps(free) {
            wrong.push(format!("{way} of {name}: {sum} of {usable}, {free} free"));
        }
    }
    for link in node.links() {
        let sum = taken.remove(&link.peer).unwrap_or_default();
        let (capacity, free) = (bps(link.capacity), bps(link.free_out));
        let down = link.state != LinkState::Up;
        if (down && sum > 0) || sum > capacity || free != capacity - sum {
            let text = format!("{name} to {}: {sum} of {capacity}, {free} free", link.peer);
            wrong.push(format!("{text}, {:?}", link.state));
        }
    }
    wrong.extend(taken.into_keys().map(|peer| format!("{name} to {peer}: no such link")));
    wrong
}

/// I9: the pictures of the members of each component are equal, and they are the truth: every live
/// peer, every live link with its capacity, and what its ends' ledgers have free, up to the change that
/// need not be told. Returns what is wrong. A component with a hung link is nobody's truth.
pub fn wrong_pictures(sim: &Sim) -> Vec<String> {
    let (peers, links) = sim.truth();
    let hung: BTreeSet<&PeerName> = sim.hung().flatten().collect();
    let nodes = sim.peers().iter().filter_map(|peer| Some((&peer.name, peer.node.as_ref()?)));
    let nodes: BTreeMap<&PeerName, &Node> = nodes.collect();
    let components = components(&peers, &links);
    let whole = components.iter().filter(|members| !members.iter().any(|m| hung.contains(m)));
    whole.flat_map(|members| wrong_in_component(sim.now(), members, &links, &nodes)).collect()
}

fn wrong_in_component(
    now: Time,
    members: &[PeerName],
    links: &[EdgeKey],
    nodes: &BTreeMap<&PeerName, &Node>,
) -> Vec<String> {
    let first = &members[0];
    let view = nodes[first].graph_view(now);
    let mut wrong = Vec::new();
    for name in members {
        if nodes[name].graph().digest() != view.digest {
            wrong.push(format!("the pictures of {first} and {name} differ"));
        }
        if !view.peers.iter().any(|peer| peer.name == *name) {
            wrong.push(format!("{first} does not know {name}"));
        }
    }
    let inside = links.iter().filter(|edge| members.contains(&edge.lower));
    let truth: BTreeSet<EdgeKey> = inside.cloned().collect();
    let edge =
        |link: &GraphLinkView| EdgeKey::new(link.capacity, link.lower.clone(), link.higher.clone());
    let seen: BTreeSet<EdgeKey> = view.links.iter().map(edge).collect();
    wrong.extend(truth.difference(&seen).map(|edge| format!("{first} lacks {edge:?}")));
    // What was heard of another component before it broke off lives on for its time.
    let ours = |edge: &&EdgeKey| members.contains(&edge.lower) || members.contains(&edge.higher);
    let surplus = seen.difference(&truth).filter(ours);
    wrong.extend(surplus.map(|edge| format!("{first} has {edge:?} too much")));
    // Nobody can hear what the ends of a link in another component have free by now.
    for link in view.links.iter().filter(|link| members.contains(&link.lower)) {
        let ends = [(&link.lower, &link.higher, link.free_up)];
        let ends = ends.into_iter().chain([(&link.higher, &link.lower, link.free_down)]);
        for (from, to, told) in ends {
            let own = nodes.get(from).map(|node| node.links()).unwrap_or_default();
            let Some(own) = own.iter().find(|own| own.peer == *to) else { continue };
            let told_late = told.bps().abs_diff(own.free_out.bps());
            if told_late > untold(own.capacity) {
                wrong.push(format!("{from} to {to}: {told} told, {} free", own.free_out));
            }
        }
    }
    wrong
}

/// A17: channels that asked for protection and have no standby path beside their own, though links
/// that theirs does not use lead to the other end and have room for it, by all that pictures need not
/// tell.
pub fn unprotected(sim: &Sim) -> Vec<String> {
    let (peers, links) = sim.truth();
    let hung: BTreeSet<&PeerName> = sim.hung().flatten().collect();
    let mut bare = Vec::new();
    let nodes = sim.peers().iter().filter_map(|peer| peer.node.as_ref());
    let views = nodes.flat_map(Node::channels).filter(|view| view.side == Some(Side::Source));
    for view in views.filter(|view| sim.protected.contains(&view.id)) {
        let own = hops(&view.path);
        let roomy = |edge: &&EdgeKey| {
            let rate = view.rate.bps().max(view.rate_back.bps()) + untold(edge.capacity);
            let used = own.contains(&(&edge.lower, &edge.higher));
            !used && !hung.contains(&edge.lower) && room(sim, edge) >= rate
        };
        let usable: Vec<_> = links.iter().filter(roomy).cloned().collect();
        let ends = [view.path.first(), view.path.last()];
        let parts = components(&peers, &usable);
        let joined = parts.iter().any(|part| ends.iter().flatten().all(|end| part.contains(end)));
        let stands_by = view.standby.as_ref().is_some_and(|path| hops(path).is_disjoint(&own));
        if joined && !stands_by {
            bare.push(format!("{view:?}"));
        }
    }
    bare
}

/// The links of a path, the lower name first.
fn hops(path: &[PeerName]) -> BTreeSet<(&PeerName, &PeerName)> {
    path.windows(2).map(|hop| ((&hop[0]).min(&hop[1]), (&hop[0]).max(&hop[1]))).collect()
}

/// The least that the ledgers at both ends of a link have free, in either direction, in bit/s. Nothing if a
/// host has a budget: what is free of that is counted from pictures of its links, which show the two
/// paths of a protected channel as two.
pub(super) fn room(sim: &Sim, edge: &EdgeKey) -> u64 {
    let ends = [(&edge.lower, &edge.higher), (&edge.higher, &edge.lower)];
    let nodes = sim.peers().iter().filter_map(|peer| Some((&peer.name, peer.node.as_ref()?)));
    let free = |(name, node): (&PeerName, &Node)| {
        let bounded = Way::BOTH.iter().any(|way| node.budget(*way).is_some());
        let links = node.links().into_iter().filter(|link| ends.contains(&(name, &link.peer)));
        let free = links.map(|link| link.free_out.min(link.free_in).bps()).min();
        free.map(|free| if bounded { 0 } else { free })
    };
    nodes.filter_map(free).min().unwrap_or_default()
}

/// How far what is free may be from what was told, in bit/s.
pub(super) fn untold(capacity: Bandwidth) -> u64 {
    capacity.bps() / 100 * limits::FREE_CHANGE_PERCENT + 100
}

/// Where a frame that enters at the end of a channel at `from` comes out: a peer's position and the
/// channel it is delivered for. `None`: it is dropped on the way.
///
/// Follows what the peers told their engines: entries, labels, ports.
pub fn follow(
    peers: &[Peer],
    from: usize,
    channel: &ChannelId,
) -> Result<Option<(usize, ChannelId)>, String> {
    let Some(Some(entry)) = peers[from].entries.get(channel) else { return Ok(None) };
    let (mut at, mut to, mut of) = (from, &entry.to, None);
    for _ in 0..=peers.len() {
        let (link, label, port) = match to {
            Target::Local => return Ok(of.map(|channel: &ChannelId| (at, channel.clone()))),
            Target::Hop { link, label, port } => (*link, *label, *port),
        };
        let Some((next, back)) = other_end(peers, at, link) else {
            return Err(format!("{} sends to a link it has not", peers[at].name));
        };
        let Some((known, came, onward)) = peers[next].labels.get(&label) else { return Ok(None) };
        if *came != back {
            return Err(format!("{} has {label:?} for another link", peers[next].name));
        }
        if port != peers[next].config.data_port + u16::from(label.worker().0) {
            return Err(format!("{} sends {label:?} to another worker", peers[at].name));
        }
        (at, to, of) = (next, onward, Some(known));
    }
    Err(format!("frames of {channel} go round in a circle"))
}

/// Route oracle (A22): a frame that entered anywhere comes out at the other end of its own channel, or
/// not at all. Returns what is wrong.
pub fn misrouted(peers: &[Peer]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, peer) in peers.iter().enumerate() {
        for channel in peer.entries.keys() {
            match follow(peers, from, channel) {
                Ok(None) => {}
                Ok(Some((at, out))) => {
                    let end = at != from && peers[at].ends.contains(channel);
                    if out != *channel || !end {
                        let text = format!("a frame of {channel} from {}", peer.name);
                        wrong.push(format!("{text} comes out at {} for {out}", peers[at].name));
                    }
                }
                Err(text) => wrong.push(text),
            }
        }
    }
    wrong
}

/// The peer at the other end of a link, and what it calls the link.
fn other_end(peers: &[Peer], at: usize, link: LinkId) -> Option<(usize, LinkId)> {
    let of = |peer: &'_ Peer, other: &PeerName| {
        peer.config.links.iter().find(|l| l.peer == *other).map(|l| l.link)
    };
    let name = &peers[at].config.links.iter().find(|l| l.link == link)?.peer;
    let next = peers.iter().position(|peer| peer.name == *name)?;
    Some((next, of(&peers[next], &peers[at].name)?))
}

/// Union-find over names.
#[derive(Debug, Default)]
struct Groups {
    numbers: BTreeMap<PeerName, usize>,
    parents: Vec<usize>,
}

impl Groups {
    fn of(&mut self, peer: &PeerName) -> usize {
        let mut at = *self.numbers.entry(peer.clone()).or_insert_with(|| {
            self.parents.push(self.parents.len());
            self.parents.len() - 1
        });
        while self.parents[at] != at {
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }

    /// False if the two were in one group already.
    fn join(&mut self, one: &PeerName, other: &PeerName) -> bool {
        let (one, other) = (self.of(one), self.of(other));
        self.parents[one] = other;
        one != other
    }
}

#[cfg(test)]
mod tests {
    use petgraph::data::FromElements;
    use petgraph::graph::UnGraph;
    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng, SeedableRng};

    use super::*;

    fn name(at: usize) -> PeerName {
        PeerName::new(&format!("p{at:02}")).unwrap()
    }

    fn key(bps: u64, a: usize, b: usize) -> EdgeKey {
        EdgeKey::new(Bandwidth::from_bps(bps), name(a), name(b))
    }

    /// I1: two implementations that nobody here wrote together agree, ties included.
    #[test]
    fn a7_the_judge_agrees_with_petgraph() {
        for seed in 0..500 {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let count = 1 + rng.next_u32() as usize % 24;
            let mut edges = Vec::new();
            for a in 0..count {
                for b in a + 1..count {
                    if rng.next_u32() % 10 < 4 {
                        edges.push(key(u64::from(rng.next_u32() % 4), a, b));
                    }
                }
            }
            let mut ranked = edges.clone();
            ranked.sort();
            let mut graph = UnGraph::<PeerName, i64>::new_undirected();
            let nodes: Vec<_> = (0..count).map(|at| graph.add_node(name(at))).collect();
            let node = |peer: &PeerName| nodes[peer.as_str()[1..].parse::<usize>().unwrap()];
            for (rank, edge) in ranked.iter().enumerate() {
                let weight = -i64::try_from(rank).unwrap();
                graph.add_edge(node(&edge.lower), node(&edge.higher), weight);
            }
            let forest =
                UnGraph::<PeerName, i64>::from_elements(petgraph::algo::min_spanning_tree(&graph));
            let theirs: BTreeSet<EdgeKey> = forest
                .edge_weights()
                .map(|weight| ranked[usize::try_from(-weight).unwrap()].clone())
                .collect();
            assert_eq!(maximum_forest(&edges), theirs, "seed {seed}");
        }
    }

    /// A triangle whose weakest edge is 0-2, as three honest peers tell it.
    fn triangle() -> Collected {
        let info = |peer, bps, branch| LinkInfo {
            peer: name(peer),
            capacity: Bandwidth::from_bps(bps),
            branch,
        };
        Collected {
            peers: vec![
                (name(0), vec![info(1, 30, true), info(2, 10, false)]),
                (name(1), vec![info(0, 30, true), info(2, 20, true)]),
                (name(2), vec![info(0, 10, false), info(1, 20, true)]),
            ],
            silent: vec![],
            courses: vec![],
        }
    }

    #[test]
    fn a10_a_correct_tree_is_judged_true() {
        let judged = judge(&triangle());
        assert_eq!((judged.peers, judged.links, judged.correct()), (3, 3, true));
    }

    #[test]
    fn a10_one_planted_wrong_edge_is_judged_false_and_named() {
        let mut wrong = triangle();
        wrong.peers[0].1[1].branch = true;
        wrong.peers[2].1[0].branch = true;
        wrong.peers[1].1[1].branch = false;
        wrong.peers[2].1[1].branch = false;
        let judged = judge(&wrong);
        assert!(!judged.correct());
        assert_eq!(judged.missing, vec![key(20, 1, 2)]);
        assert_eq!(judged.surplus, vec![key(10, 0, 2)]);
    }

    #[test]
    fn a10_what_only_one_end_says_and_who_is_silent_is_a_contradiction() {
        type Spoil = fn(&mut Collected);
        let spoilt: [(&str, Spoil); 6] = [
            ("only one end", |c| c.peers[0].1[0].branch = false),
            ("different capacities", |c| c.peers[0].1[0].capacity = Bandwidth::from_bps(31)),
            ("p02 has none to p00", |c| drop(c.peers[2].1.remove(0))),
            ("p02 did not answer", |c| {
                c.peers.pop();
                c.silent.push(name(2));
            }),
            ("a link to itself", |c| c.peers[0].1[0].peer = name(0)),
            ("two links to p01", |c| c.peers[0].1[1].peer = name(1)),
        ];
        for (text, spoil) in spoilt {
            let mut collected = triangle();
            spoil(&mut collected);
            let judged = judge(&collected);
            assert!(!judged.correct(), "{text}");
            assert!(judged.contradictions.iter().any(|line| line.contains(text)), "{judged:?}");
        }
    }

    #[test]
    fn a4_components_are_found_whatever_the_shape() {
        let peers: Vec<_> = (0..5).map(name).collect();
        let found = components(&peers, &[key(1, 0, 3), key(1, 3, 4)]);
        assert_eq!(found.len(), 3);
        assert!(found.contains(&vec![name(0), name(3), name(4)]));
    }

    #[test]
    fn a22_a_label_that_leads_into_another_channel_is_seen() {
        use crate::proto::{Choice, OpenRequest, Request, ServiceConfig, ServiceKind};
        use crate::sim::{Fault, Plan, Sim};
        use crate::types::ServiceName;

        let service = ServiceName::new("tv").unwrap();
        let capacity = Bandwidth::from_bps(100_000_000);
        let plan = Plan {
            peers: (0..3).map(name).collect(),
            links: vec![(0, 1, capacity), (1, 2, capacity)],
            services: vec![ServiceConfig {
                name: service.clone(),
                kind: ServiceKind::Deliver,
                plain: true,
            }],
            delay: (limits::MOVE_RETRY.0 / 100, limits::MOVE_RETRY.0 / 50),
            ..Plan::default()
        };
        let mut sim = Sim::new(1, &plan);
        (0..3).for_each(|peer| sim.strike(Fault::Start(peer)));
        sim.run_until(Time(1_000_000));
        for _ in 0..2 {
            let request = OpenRequest {
                peer: name(2),
                service: service.clone(),
                name: None,
                rate: Bandwidth::from_bps(1_000_000),
                rate_back: Bandwidth::from_bps(64_000),
                choice: Choice::default(),
                avoid: Vec::new(),
                deadline: limits::OPEN_DEADLINE,
                wait: false,
                protect: false,
                plain: true,
            };
            sim.request(0, Request::Open(request));
        }
        sim.run_until(Time(2_000_000));
        assert_eq!(sim.peers[2].ends.len(), 2);
        assert_eq!((misrouted(&sim.peers), oversold(&sim.peers)), (vec![], vec![]));

        let relay = &mut sim.peers[1].labels;
        let onward = relay.values().filter(|(_, from, _)| *from == LinkId(0)).map(|l| l.2.clone());
        let [one, other] = <[Target; 2]>::try_from(onward.collect::<Vec<_>>()).unwrap();
        for (_, _, to) in relay.values_mut() {
            if *to == one {
                *to = other.clone();
            } else if *to == other {
                *to = one.clone();
            }
        }
        let wrong = misrouted(&sim.peers);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].contains("comes out at p02 for"), "{wrong:?}");
    }
}

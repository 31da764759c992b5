//! Judges of the tree that share no code with the algorithm: Kruskal with its own union-find, and the
//! comparison of what peers say of themselves with what Kruskal makes of it (A10).
//!
//! Pure; used by the simulator's tests and by `spanway verify`. It trusts nobody: a link or branch
//! counts for what both its ends say of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::proto::Collected;
use crate::types::{EdgeKey, PeerName};
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
    use crate::types::Bandwidth;

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
        let spoilt: [(&str, fn(&mut Collected)); 6] = [
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
}

//! Every small overlay: all graphs of n peers with all orders of their edges, and the forest that
//! Kruskal finds in each.
//!
//! The algorithm only ever compares keys, so what distinguishes two overlays is the graph and the order
//! of its edges, not the capacities behind it. Up to three peers every capacity pattern with ties is
//! listed under every naming. For four, one overlay stands for all that differ by the naming only;
//! a test shows that every pattern of capacities, ties included, has its representative.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use spanway::sim::check;
use spanway::types::{Bandwidth, EdgeKey, PeerName};

/// One overlay.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) peers: usize,
    /// Both ends and the key of each link.
    pub(crate) links: Vec<(usize, usize, EdgeKey)>,
    /// What the computation must find.
    pub(crate) forest: BTreeSet<EdgeKey>,
}

impl Case {
    /// Links as (one end, other end, capacity).
    pub(crate) fn new(peers: usize, links: &[(usize, usize, u64)]) -> Self {
        let key = |&(a, b, bps)| (a, b, EdgeKey::new(Bandwidth::from_bps(bps), name(a), name(b)));
        let links: Vec<(usize, usize, EdgeKey)> = links.iter().map(key).collect();
        let keys: Vec<EdgeKey> = links.iter().map(|(_, _, key)| key.clone()).collect();
        Self { peers, forest: check::maximum_forest(&keys), links }
    }

    pub(crate) fn components(&self) -> usize {
        self.peers - self.forest.len()
    }

    /// Most messages of the algorithm (2.4).
    pub(crate) fn messages_max(&self) -> usize {
        let log = self.peers.next_power_of_two().ilog2() as usize;
        2 * self.links.len() + 5 * self.peers * log
    }
}

pub(crate) fn name(at: usize) -> PeerName {
    PeerName::new(&format!("p{at}")).expect("a name")
}

/// Every connected graph of so many named peers with every pattern of capacities, ties included.
pub(crate) fn connected_with_ties(peers: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for graph in graphs(peers) {
        for ranks in weak_orders(graph.len()) {
            let link = |(&(a, b), rank): (&(usize, usize), u64)| (a, b, rank);
            let links: Vec<_> = graph.iter().zip(ranks).map(link).collect();
            let case = Case::new(peers, &links);
            if case.components() == 1 {
                cases.push(case);
            }
        }
    }
    cases
}

/// Every graph of so many peers and links with every order of its edges, connected or not, one for all
/// that differ by the naming of the peers only.
pub(crate) fn up_to_naming(peers: usize, links: RangeInclusive<usize>) -> Vec<Case> {
    let mut shapes = BTreeSet::new();
    for graph in graphs(peers).into_iter().filter(|graph| links.contains(&graph.len())) {
        for order in permutations(graph.len()) {
            let ordered: Vec<_> = order.into_iter().map(|at| graph[at]).collect();
            shapes.insert(shape(peers, &ordered));
        }
    }
    let case = |shape: Vec<(usize, usize)>| {
        let links: Vec<_> = (1..).zip(shape).map(|(rank, (a, b))| (a, b, rank)).collect();
        Case::new(peers, &links)
    };
    shapes.into_iter().map(case).collect()
}

/// The least of all namings of a graph whose edges are listed in their order.
fn shape(peers: usize, ordered: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let renamed = |naming: Vec<usize>| -> Vec<(usize, usize)> {
        let edge = |&(a, b): &(usize, usize)| (naming[a].min(naming[b]), naming[a].max(naming[b]));
        ordered.iter().map(edge).collect()
    };
    permutations(peers).into_iter().map(renamed).min().expect("there is a naming")
}

/// Every set of links between so many peers.
fn graphs(peers: usize) -> Vec<Vec<(usize, usize)>> {
    let pairs: Vec<(usize, usize)> =
        (0..peers).flat_map(|a| (a + 1..peers).map(move |b| (a, b))).collect();
    let chosen = |set: u32| {
        let inside = |(at, _): &(usize, &(usize, usize))| set & (1 << at) != 0;
        pairs.iter().enumerate().filter(inside).map(|(_, pair)| *pair).collect()
    };
    (0..1 << pairs.len()).map(chosen).collect()
}

/// All ways to rank so many things, ties allowed; the ranks of each begin at 1 and leave none out.
fn weak_orders(count: usize) -> Vec<Vec<u64>> {
    let mut orders = vec![Vec::new()];
    for _ in 0..count {
        let longer = |order: Vec<u64>| {
            (1..=count as u64).map(move |rank| order.iter().copied().chain([rank]).collect())
        };
        orders = orders.into_iter().flat_map(longer).collect();
    }
    let dense = |order: &Vec<u64>| {
        let used: BTreeSet<u64> = order.iter().copied().collect();
        used.iter().copied().eq(1..=used.len() as u64)
    };
    orders.into_iter().filter(dense).collect()
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(count - 1);
    let inserted = |order: Vec<usize>| {
        (0..count).map(move |at| {
            let mut longer = order.clone();
            longer.insert(at, count - 1);
            longer
        })
    };
    shorter.into_iter().flat_map(inserted).collect()
}

#[test]
fn every_pattern_of_capacities_of_four_peers_has_its_representative() {
    let shapes: BTreeSet<Vec<(usize, usize)>> = up_to_naming(4, 0..=6)
        .iter()
        .map(|case| case.links.iter().map(|(a, b, _)| (*a, *b)).collect())
        .collect();
    let mut shape_of_order = BTreeMap::new();
    let mut patterns = 0;
    for graph in graphs(4) {
        for ranks in weak_orders(graph.len()) {
            let links: Vec<_> =
                graph.iter().zip(ranks).map(|(&(a, b), rank)| (a, b, rank)).collect();
            let mut links = Case::new(4, &links).links;
            links.sort_by(|(_, _, one), (_, _, other)| one.cmp(other));
            let order: Vec<_> = links.iter().map(|(a, b, _)| (*a, *b)).collect();
            let shape = shape_of_order.entry(order.clone()).or_insert_with(|| shape(4, &order));
            assert!(shapes.contains(shape), "{links:?}");
            patterns += 1;
        }
    }
    println!("{patterns} patterns of capacities, {} overlays", shapes.len());
}

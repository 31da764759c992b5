//! Which peers and which links: random, but the same for the same seed. Pure.
//!
//! A ring through all peers in random order and as many chords: between any two peers there are two
//! paths that share neither link nor relay, so that a channel always has somewhere to go.

use std::net::Ipv4Addr;

use crate::perf::statistics::Random;

/// Capacities of links in Mbit/s. Only a few values: ties are part of life.
const CAPACITIES: [u64; 4] = [50, 100, 150, 200];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) peers: usize,
    pub(crate) links: Vec<Link>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) ends: [usize; 2],
    pub(crate) capacity_mbps: u64,
}

impl Plan {
    pub(crate) fn random(peers: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut order: Vec<usize> = (0..peers).collect();
        shuffle(&mut order, &mut random);
        let ring = (0..peers).map(|at| [order[at], order[(at + 1) % peers]]);
        let mut links: Vec<Link> = Vec::new();
        let mut chords: Vec<[usize; 2]> =
            (0..peers).flat_map(|one| (0..one).map(move |other| [one, other])).collect();
        shuffle(&mut chords, &mut random);
        for ends in ring.chain(chords) {
            let known = links.iter().any(|link| link.joins(ends[0], ends[1]));
            if !known && links.len() < 2 * peers {
                let capacity_mbps = CAPACITIES[below(&mut random, CAPACITIES.len())];
                links.push(Link { ends, capacity_mbps });
            }
        }
        Self { peers, links }
    }

    /// Peers in a row, each linked to the next.
    pub(crate) fn line(peers: usize, capacity_mbps: u64) -> Self {
        let links = (1..peers).map(|at| Link { ends: [at - 1, at], capacity_mbps });
        Self { peers, links: links.collect() }
    }

    /// The number of the link between two peers.
    pub(crate) fn link(&self, one: usize, other: usize) -> Option<usize> {
        self.links.iter().position(|link| link.joins(one, other))
    }

    /// Of every peer with every other one, in random order.
    pub(crate) fn pairs(&self, seed: u64) -> Vec<[usize; 2]> {
        let mut pairs: Vec<[usize; 2]> = (0..self.peers)
            .flat_map(|one| (0..self.peers).map(move |other| [one, other]))
            .filter(|[one, other]| one != other)
            .collect();
        shuffle(&mut pairs, &mut Random(seed));
        pairs
    }
}

impl Link {
    pub(crate) fn joins(&self, one: usize, other: usize) -> bool {
        self.ends == [one, other] || self.ends == [other, one]
    }
}

/// The name of a peer.
pub(crate) fn name(peer: usize) -> String {
    format!("p{peer:02}")
}

/// The address of one end of a link: 198.18.0.0/15 is for benchmarks (RFC 2544).
pub(crate) fn address(link: usize, end: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(link).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(198, 18 + high % 2, low, if end == 0 { 1 } else { 2 })
}

pub(crate) fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for at in (1..items.len()).rev() {
        items.swap(at, below(random, at + 1));
    }
}

/// A number below `count`, which is not 0. The bias of the remainder is below 2^-50.
pub(crate) fn below(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.next() % count as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reachable(plan: &Plan, from: usize, without: Option<usize>) -> usize {
        let (mut seen, mut next) = (vec![from], vec![from]);
        while let Some(at) = next.pop() {
            for other in 0..plan.peers {
                let new = !seen.contains(&other) && Some(other) != without;
                if new && plan.link(at, other).is_some() {
                    seen.push(other);
                    next.push(other);
                }
            }
        }
        seen.len()
    }

    #[test]
    fn no_single_peer_cuts_the_overlay_in_two() {
        for seed in 0..50 {
            let plan = Plan::random(12, seed);
            assert_eq!(plan.links.len(), 24, "seed {seed}");
            for dead in 0..12 {
                let from = usize::from(dead == 0);
                assert_eq!(reachable(&plan, from, Some(dead)), 11, "seed {seed} without {dead}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_overlay_and_another_one_another() {
        assert_eq!(Plan::random(12, 7), Plan::random(12, 7));
        assert_ne!(Plan::random(12, 7), Plan::random(12, 8));
    }

    #[test]
    fn every_end_has_an_address_of_its_own() {
        let all: std::collections::BTreeSet<_> =
            (0..512).flat_map(|link| [address(link, 0), address(link, 1)]).collect();
        assert_eq!(all.len(), 1_024);
    }
}

//! The picture as a graph, and the widest path on it.
//!
//! A link counts if both its ends live, both say that it is up, and each names the key that the other one
//! has. Of all paths that have room for the rates, the best has the largest width (the smallest free
//! capacity in the direction of the path), then the fewest hops, then the smallest sequence of names:
//! peers with equal pictures choose the same path.
//!
//! A value: built once from the facts, never changed. Names are numbers here, in the order of names.

use std::collections::{BinaryHeap, VecDeque};

use super::Wanted;
use super::store::Store;
use crate::limits;
use crate::proto::Narrowest;
use crate::types::{Bandwidth, PeerName};
use crate::wire::facts::LinkFact;

/// Peers and links of the overlay.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Ascending.
    names: Vec<PeerName>,
    /// Peers that leave carry nothing new.
    relays: Vec<bool>,
    /// What each peer's links may carry together, out and in.
    hosts: Vec<[u64; 2]>,
    /// Edges of peer i are `edges[first[i]..first[i + 1]]`, ascending by their other end.
    first: Vec<u32>,
    edges: Vec<Edge>,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug)]
struct Edge {
    to: u32,
    /// The other direction.
    back: u32,
    capacity: u64,
    /// As the sending end says.
    free: u64,
    max_payload: u16,
}

/// A link of the picture, its smaller name first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureLink<'a> {
    pub lower: &'a PeerName,
    pub higher: &'a PeerName,
    pub capacity: Bandwidth,
    pub free_up: Bandwidth,
    pub free_down: Bandwidth,
    pub max_payload: u16,
}

impl Picture {
    pub(super) fn new(store: &Store) -> Self {
        let mut picture = Self::default();
        let mut halves = Vec::new();
        for (at, (name, origin)) in (0_u32..).zip(store.live()) {
            picture.names.push(name.clone());
            picture.relays.push(!origin.peer.fact.leaving);
            let budgets = [origin.peer.fact.egress, origin.peer.fact.ingress];
            let usable = |budget: Option<Bandwidth>| budget.map_or(u64::MAX, |b| b.usable().bps());
            picture.hosts.push(budgets.map(usable));
            for (neighbour, held) in origin.links.iter().filter(|(_, held)| held.fact.up) {
                let other = store.origin(neighbour);
                if other.is_some_and(|other| *other.key() == held.fact.neighbour_key) {
                    halves.push((at, neighbour, &held.fact));
                }
            }
        }
        picture.join(&halves);
        picture
    }

    pub fn knows(&self, peer: &PeerName) -> bool {
        self.number(peer).is_some()
    }

    /// There is a live link between the two.
    pub fn linked(&self, one: &PeerName, other: &PeerName) -> bool {
        let numbers = (self.number(one), self.number(other));
        let (Some(one), Some(other)) = numbers else { return false };
        self.edge(one, other).is_some()
    }

    /// Every link once, sorted.
    pub fn links(&self) -> impl Iterator<Item = PictureLink<'_>> {
        let from_lower = (0..self.names.len()).flat_map(|at| {
            let edges = self.edges_of(at).iter();
            edges.filter(move |edge| edge.to as usize > at).map(move |edge| (at, edge))
        });
        from_lower.map(|(at, edge)| PictureLink {
            lower: &self.names[at],
            higher: &self.names[edge.to as usize],
            capacity: Bandwidth::from_bps(edge.capacity),
            free_up: Bandwidth::from_bps(edge.free),
            free_down: Bandwidth::from_bps(self.edges[edge.back as usize].free),
            max_payload: edge.max_payload,
        })
    }

    /// The best path from `me` that fits. `near` is what is free towards the neighbours of `me` by its
    /// own ledgers, which know better than what it told.
    pub fn widest(
        &self,
        me: &PeerName,
        near: &[(PeerName, Bandwidth)],
        wanted: &Wanted<'_>,
    ) -> Option<Vec<PeerName>> {
        let (from, to) = (self.number(me)?, self.number(wanted.to)?);
        if from == to {
            return None;
        }
        let search = Search::new(self, from, to, near, wanted);
        let fits = |least| search.best(least);
        let path = fits(wanted.max_payload).or_else(|| fits(0))?;
        Some(path.into_iter().map(|at| self.names[at].clone()).collect())
    }

    /// The narrowest links of a path, the earliest of equal ones; none if one of its links is not there.
    /// `near`: as in [`Picture::widest`], for the first link.
    pub fn narrowest(
        &self,
        near: &[(PeerName, Bandwidth)],
        path: &[PeerName],
    ) -> Option<Narrowest> {
        let me = path.first().and_then(|me| self.number(me))?;
        let free = self.free(me, near);
        let mut all = path.windows(2).map(|hop| {
            let [one, other] = hop else { unreachable!("windows of two") };
            let edge = self.edge(self.number(one)?, self.number(other)?)?;
            let Edge { back, capacity, .. } = self.edges[edge];
            let link = (one.clone(), other.clone());
            Some(Narrowest {
                capacity: Bandwidth::from_bps(capacity),
                by_capacity: link.clone(),
                free: Bandwidth::from_bps(free.of(self, edge)),
                by_free: link,
                free_back: Bandwidth::from_bps(free.of(self, back as usize)),
            })
        });
        let first = all.next()??;
        all.try_fold(first, |narrow, hop| {
            let Narrowest { capacity, by_capacity, free, by_free, free_back } = hop?;
            let narrow = if capacity < narrow.capacity {
                Narrowest { capacity, by_capacity, ..narrow }
            } else {
                narrow
            };
            let narrow =
                if free < narrow.free { Narrowest { free, by_free, ..narrow } } else { narrow };
            Some(Narrowest { free_back: free_back.min(narrow.free_back), ..narrow })
        })
    }

    /// Makes edges of those halves whose other half is there, too.
    fn join(&mut self, halves: &[(u32, &PeerName, &LinkFact)]) {
        let numbered = halves.iter().filter_map(|(from, to, fact)| {
            let to = u32::try_from(self.number(to)?).expect("peers are bounded");
            Some((*from, to, *fact))
        });
        // Ascending: origins and their neighbours come in the order of names.
        let numbered: Vec<(u32, u32, &LinkFact)> = numbered.collect();
        let half = |from: u32, to: u32| {
            numbered.binary_search_by_key(&(from, to), |(from, to, _)| (*from, *to)).ok()
        };
        let whole = numbered.iter().map(|(from, to, _)| half(*to, *from));
        let whole: Vec<Option<usize>> = whole.collect();
        // Number of each half among those that are edges.
        let mut count = 0;
        let places: Vec<u32> = whole
            .iter()
            .map(|back| {
                let place = count;
                count += u32::from(back.is_some());
                place
            })
            .collect();
        self.first = vec![0; self.names.len() + 1];
        for ((from, to, fact), back) in numbered.iter().zip(&whole) {
            let Some(back) = *back else { continue };
            let other = numbered[back].2;
            let capacity = fact.capacity.min(other.capacity).bps();
            self.first[*from as usize + 1] += 1;
            self.edges.push(Edge {
                to: *to,
                back: places[back],
                capacity,
                free: fact.free_out.bps().min(capacity),
                max_payload: fact.max_payload.min(other.max_payload),
            });
        }
        for at in 1..self.first.len() {
            self.first[at] += self.first[at - 1];
        }
    }

    /// What is free, with what `me` knows of its own links.
    fn free(&self, me: usize, near: &[(PeerName, Bandwidth)]) -> Free {
        let mut free: Vec<u64> = self.edges.iter().map(|edge| edge.free).collect();
        for (neighbour, known) in near {
            let edge = self.number(neighbour).and_then(|to| self.edge(me, to));
            if let Some(edge) = edge {
                free[edge] = known.bps();
            }
        }
        Free::new(self, free)
    }

    fn number(&self, peer: &PeerName) -> Option<usize> {
        self.names.binary_search(peer).ok()
    }

    fn range(&self, at: usize) -> std::ops::Range<usize> {
        self.first[at] as usize..self.first[at + 1] as usize
    }

    fn edges_of(&self, at: usize) -> &[Edge] {
        &self.edges[self.range(at)]
    }

    /// The edge from one to the other.
    fn edge(&self, from: usize, to: usize) -> Option<usize> {
        let range = self.range(from);
        let edges = &self.edges[range.clone()];
        let at = edges.binary_search_by_key(&to, |edge| edge.to as usize).ok()?;
        Some(range.start + at)
    }
}

/// What is free of edges and of hosts.
struct Free {
    edges: Vec<u64>,
    /// Out and in, of each peer: what its links carry is promised. Empty if no host has a budget.
    hosts: Vec<[u64; 2]>,
}

impl Free {
    fn new(picture: &Picture, edges: Vec<u64>) -> Self {
        let bounded = picture.hosts.iter().any(|host| *host != [u64::MAX; 2]);
        let mut hosts = if bounded { picture.hosts.clone() } else { Vec::new() };
        for (edge, free) in picture.edges.iter().zip(&edges).filter(|_| bounded) {
            let from = picture.edges[edge.back as usize].to;
            let taken = edge.capacity.saturating_sub(*free);
            for (host, way) in [(from, 0), (edge.to, 1)] {
                let left = &mut hosts[host as usize][way];
                *left = left.saturating_sub(taken);
            }
        }
        Self { edges, hosts }
    }

    /// What one more channel may take of an edge.
    fn of(&self, picture: &Picture, edge: usize) -> u64 {
        let Edge { to, back, capacity, .. } = picture.edges[edge];
        let from = picture.edges[back as usize].to;
        let [out, into] = [from, to].map(|at| self.hosts.get(at as usize));
        let free = self.edges[edge].min(capacity);
        free.min(out.map_or(u64::MAX, |host| host[0])).min(into.map_or(u64::MAX, |host| host[1]))
    }

    /// The host of a relay carries both directions, each in and out.
    fn relays(&self, at: usize, both: u64) -> bool {
        self.hosts.get(at).is_none_or(|host| host.iter().all(|free| *free >= both))
    }
}

/// One question for a path.
struct Search<'a> {
    picture: &'a Picture,
    from: usize,
    to: usize,
    /// What each edge would bring to the width; `None` if it has no room or must not be used.
    widths: Vec<Option<u64>>,
    may_relay: Vec<bool>,
}

impl<'a> Search<'a> {
    fn new(
        picture: &'a Picture,
        from: usize,
        to: usize,
        near: &[(PeerName, Bandwidth)],
        wanted: &Wanted<'_>,
    ) -> Self {
        let between = |one: &PeerName, other: &PeerName| {
            picture.edge(picture.number(one)?, picture.number(other)?)
        };
        let mut free = if wanted.idle {
            picture.edges.iter().map(|edge| edge.capacity).collect()
        } else {
            picture.free(from, near).edges
        };
        let (rate, rate_back) = (wanted.rate.bps(), wanted.rate_back.bps());
        for hop in wanted.own.windows(2) {
            if let Some(edge) = between(&hop[0], &hop[1]) {
                free[edge] = free[edge].saturating_add(rate);
                let back = picture.edges[edge].back as usize;
                free[back] = free[back].saturating_add(rate_back);
            }
        }
        let free = Free::new(picture, free);
        let mut barred = vec![false; picture.edges.len()];
        for (one, other) in wanted.without_links {
            if let Some(edge) = between(one, other) {
                barred[edge] = true;
                barred[picture.edges[edge].back as usize] = true;
            }
        }
        let width = |(at, edge): (usize, &Edge)| {
            let width = free.of(picture, at);
            let fits = width >= rate && free.of(picture, edge.back as usize) >= rate_back;
            (fits && !barred[at]).then_some(width)
        };
        let widths = picture.edges.iter().enumerate().map(width).collect();
        let both = rate.saturating_add(rate_back);
        let mut may_relay = picture.relays.clone();
        (0..).zip(&mut may_relay).for_each(|(at, may)| *may &= free.relays(at, both));
        for peer in wanted.without_relays {
            if let Some(at) = picture.number(peer) {
                may_relay[at] = false;
            }
        }
        // A peer that leaves may still look for a way out of itself.
        may_relay[from] = true;
        Self { picture, from, to, widths, may_relay }
    }

    /// The best path over links that carry `least` bytes of payload.
    fn best(&self, least: u16) -> Option<Vec<usize>> {
        let width = self.width(least)?;
        let hops = self.hops(width, least)?;
        if hops[self.from] < HOPS_END {
            return Some(self.walk(width, least, &hops));
        }
        // The widest path is too long: narrower links may allow a shorter one.
        let mut widths: Vec<u64> = self.widths.iter().flatten().copied().collect();
        widths.retain(|narrower| *narrower < width);
        widths.sort_unstable_by(|a, b| b.cmp(a));
        widths.dedup();
        let short =
            |width: u64| self.hops(width, least).is_some_and(|hops| hops[self.from] < HOPS_END);
        let at = widths.partition_point(|width| !short(*width));
        let width = *widths.get(at)?;
        let hops = self.hops(width, least)?;
        Some(self.walk(width, least, &hops))
    }

    /// The largest width of any path, however long: Dijkstra with the smallest instead of the sum.
    fn width(&self, least: u16) -> Option<u64> {
        let mut best: Vec<Option<u64>> = vec![None; self.picture.names.len()];
        let mut heap = BinaryHeap::from([(u64::MAX, self.from)]);
        best[self.from] = Some(u64::MAX);
        while let Some((width, at)) = heap.pop() {
            if at == self.to {
                return Some(width);
            }
            if best[at] > Some(width) || !self.may_relay[at] {
                continue;
            }
            for edge in self.picture.range(at) {
                let to = self.picture.edges[edge].to as usize;
                let Some(through) = self.through(edge, least).map(|edge| edge.min(width)) else {
                    continue;
                };
                if best[to] < Some(through) {
                    best[to] = Some(through);
                    heap.push((through, to));
                }
            }
        }
        None
    }

    /// Hops to the end over edges of at least this width, as far as they matter; `None` if the start is
    /// not reached.
    fn hops(&self, width: u64, least: u16) -> Option<Vec<u32>> {
        let mut hops = vec![u32::MAX; self.picture.names.len()];
        hops[self.to] = 0;
        let mut queue = VecDeque::from([self.to]);
        while let Some(at) = queue.pop_front() {
            if at != self.to && !self.may_relay[at] {
                continue;
            }
            for edge in self.picture.edges_of(at) {
                let before = edge.to as usize;
                let towards = self.through(edge.back as usize, least);
                if hops[before] == u32::MAX && towards.is_some_and(|through| through >= width) {
                    hops[before] = hops[at] + 1;
                    if before == self.from {
                        return Some(hops);
                    }
                    queue.push_back(before);
                }
            }
        }
        None
    }

    /// From the start, always to the first name that is one hop nearer.
    fn walk(&self, width: u64, least: u16, hops: &[u32]) -> Vec<usize> {
        let mut path = vec![self.from];
        let mut at = self.from;
        while at != self.to {
            let next = self.picture.range(at).find(|&edge| {
                let to = self.picture.edges[edge].to as usize;
                let wide = self.through(edge, least).is_some_and(|through| through >= width);
                wide && hops[to] == hops[at] - 1 && (to == self.to || self.may_relay[to])
            });
            at = self.picture.edges[next.expect("the hops were counted over it")].to as usize;
            path.push(at);
        }
        path
    }

    fn through(&self, edge: usize, least: u16) -> Option<u64> {
        self.widths[edge].filter(|_| self.picture.edges[edge].max_payload >= least)
    }
}

/// A path of this many hops has too many peers.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const HOPS_END: u32 = limits::PATH_PEERS_MAX as u32;

#[cfg(test)]
mod tests;

//! What admission could do if one knew everything at once: the same accounting, none of the messages. Pure;
//! shares no code with the product.

use std::collections::BTreeMap;

/// How a path is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    Tree,
    Widest,
    TreeThenWidest,
}

impl Strategy {
    pub(super) const ALL: [Self; 3] = [Self::Tree, Self::Widest, Self::TreeThenWidest];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Widest => "widest",
            Self::TreeThenWidest => "tree-then-widest",
        }
    }
}

/// A request, in bit/s.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) rate: u64,
    pub(super) rate_back: u64,
}

/// What is free in each direction of each link.
pub(super) struct Model {
    peers: usize,
    free: BTreeMap<(usize, usize), u64>,
    tree: Vec<(usize, usize)>,
}

impl Model {
    /// `links`: two positions, and what channels can have.
    pub(super) fn new(peers: usize, links: &[(usize, usize, u64)]) -> Self {
        let both = |&(a, b, free): &(usize, usize, u64)| [((a, b), free), ((b, a), free)];
        Self { peers, free: links.iter().flat_map(both).collect(), tree: widest_tree(peers, links) }
    }

    /// Takes the bandwidth of a path, if there is one with room.
    pub(super) fn admit(&mut self, strategy: Strategy, ask: Ask) -> bool {
        let in_tree = |a: usize, b: usize| self.tree.contains(&(a.min(b), a.max(b)));
        let tree = || self.shortest(ask, &|a, b| in_tree(a, b) && self.fits(a, b, ask));
        let path = match strategy {
            Strategy::Tree => tree(),
            Strategy::Widest => self.widest(ask),
            Strategy::TreeThenWidest => tree().or_else(|| self.widest(ask)),
        };
        let Some(path) = path else { return false };
        for hop in path.windows(2) {
            *self.free.get_mut(&(hop[0], hop[1])).expect("a link") -= ask.rate;
            *self.free.get_mut(&(hop[1], hop[0])).expect("a link") -= ask.rate_back;
        }
        true
    }

    fn free(&self, from: usize, to: usize) -> u64 {
        self.free.get(&(from, to)).copied().unwrap_or(0)
    }

    fn fits(&self, from: usize, to: usize, ask: Ask) -> bool {
        self.free(from, to) >= ask.rate && self.free(to, from) >= ask.rate_back
    }

    /// The path with the largest smallest free capacity, of equal ones one with the fewest hops.
    fn widest(&self, ask: Ask) -> Option<Vec<usize>> {
        let mut widths: Vec<u64> = self.free.values().copied().collect();
        widths.sort_unstable();
        widths.dedup();
        let wide = |width: u64| {
            self.shortest(ask, &|a, b| self.free(a, b) >= width && self.fits(a, b, ask))
        };
        widths.into_iter().rev().take_while(|width| *width >= ask.rate).find_map(wide)
    }

    fn shortest(&self, ask: Ask, joins: &dyn Fn(usize, usize) -> bool) -> Option<Vec<usize>> {
        let mut before: Vec<Option<usize>> = vec![None; self.peers];
        before[ask.from] = Some(ask.from);
        let mut reached = vec![ask.from];
        let mut at = 0;
        while let Some(&peer) = reached.get(at) {
            at += 1;
            for (next, before) in before.iter_mut().enumerate() {
                if before.is_none() && joins(peer, next) {
                    *before = Some(peer);
                    reached.push(next);
                }
            }
        }
        let mut path = vec![ask.to];
        while path[path.len() - 1] != ask.from {
            path.push(before[path[path.len() - 1]]?);
        }
        path.reverse();
        Some(path)
    }
}

/// Prim's maximum spanning tree; of equal links the one with the larger positions, as names decide.
fn widest_tree(peers: usize, links: &[(usize, usize, u64)]) -> Vec<(usize, usize)> {
    let mut inside = vec![false; peers];
    inside[0] = true;
    let mut tree = Vec::new();
    loop {
        let leads_out = |link: &&(usize, usize, u64)| inside[link.0] != inside[link.1];
        let key = |link: &&(usize, usize, u64)| (link.2, link.0.min(link.1), link.0.max(link.1));
        let Some(&(a, b, _)) = links.iter().filter(leads_out).max_by_key(key) else { return tree };
        (inside[a], inside[b]) = (true, true);
        tree.push((a.min(b), a.max(b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of 2.8: ab = bc = 10, ac = 9; 8 are reserved on a-b-c, then 5 fit ac only.
    #[test]
    fn a13_the_example_of_the_specification() {
        let ask = |rate| Ask { from: 0, to: 2, rate, rate_back: 0 };
        let model = || Model::new(3, &[(0, 1, 10), (1, 2, 10), (0, 2, 9)]);
        for (strategy, second) in
            [(Strategy::Tree, false), (Strategy::Widest, true), (Strategy::TreeThenWidest, true)]
        {
            let mut model = model();
            assert!(model.admit(strategy, ask(8)));
            assert_eq!(model.admit(strategy, ask(5)), second, "{}", strategy.as_str());
            assert!(!model.admit(strategy, ask(10)));
        }
        assert_eq!(model().tree, [(0, 1), (1, 2)]);
    }
}

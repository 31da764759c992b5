//! A committed tree as a value: what every peer knows after a session (A9).
//!
//! Built once from the edges that COMMIT brought, checked there, never changed afterwards. Does not
//! know whether its links are still up.

use std::collections::VecDeque;

use crate::types::{EdgeKey, PeerName, SessionId};

/// Why edges are not a tree with this peer in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATree {
    #[error("this peer is not in the tree")]
    WithoutMe,
    #[error("an edge joins a peer to itself or comes twice")]
    BadEdge,
    #[error("the edges do not join all their peers, or close a circle")]
    NotConnected,
}

/// A peer of the tree, as seen from this one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Route {
    peer: PeerName,
    /// The peer before it on the path from here; itself here.
    before: u32,
    /// The first peer on the path from here; itself here.
    next_hop: u32,
    distance: u32,
}

/// The tree that is in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Overlay {
    session: SessionId,
    me: usize,
    parent: Option<PeerName>,
    edges: Vec<EdgeKey>,
    /// Sorted by name: the flat next-hop table.
    routes: Vec<Route>,
}

impl Overlay {
    /// The tree of `edges`, which must join all their peers and `me` without a circle.
    pub fn new(
        session: SessionId,
        me: &PeerName,
        parent: Option<PeerName>,
        mut edges: Vec<EdgeKey>,
    ) -> Result<Self, NotATree> {
        edges.sort_unstable();
        let mut names: Vec<&PeerName> = edges.iter().flat_map(|e| [&e.lower, &e.higher]).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            names.push(me);
        }
        let position = |peer: &PeerName| names.binary_search(&peer).ok();
        let me = position(me).ok_or(NotATree::WithoutMe)?;
        if edges.len() + 1 != names.len() {
            return Err(NotATree::NotConnected);
        }
        let mut neighbours: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        for edge in &edges {
            let ends = (position(&edge.lower), position(&edge.higher));
            let (Some(lower), Some(higher)) = ends else { return Err(NotATree::BadEdge) };
            if lower == higher || neighbours[lower].contains(&higher) {
                return Err(NotATree::BadEdge);
            }
            neighbours[lower].push(higher);
            neighbours[higher].push(lower);
        }
        let routes = routes(me, &names, &neighbours).ok_or(NotATree::NotConnected)?;
        Ok(Self { session, me, parent, edges, routes })
    }

    /// The session that computed it.
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// All edges of this component's tree, sorted.
    pub fn edges(&self) -> &[EdgeKey] {
        &self.edges
    }

    /// The neighbour towards the leader; `None` at the leader.
    pub fn parent(&self) -> Option<&PeerName> {
        self.parent.as_ref()
    }

    /// Peers of the tree, this one included.
    pub fn peers(&self) -> usize {
        self.routes.len()
    }

    pub fn knows(&self, peer: &PeerName) -> bool {
        self.position(peer).is_some()
    }

    /// The neighbour on the way to `peer`; `None` for this peer itself and for unknown ones.
    pub fn next_hop(&self, peer: &PeerName) -> Option<&PeerName> {
        let at = self.position(peer).filter(|at| *at != self.me)?;
        Some(&self.routes[self.routes[at].next_hop as usize].peer)
    }

    /// Hops to `peer`.
    pub fn distance(&self, peer: &PeerName) -> Option<u32> {
        self.position(peer).map(|at| self.routes[at].distance)
    }

    /// All peers on the tree path to `peer`, this one first.
    pub fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
        let mut at = self.position(to)?;
        let mut path = vec![self.routes[at].peer.clone()];
        while at != self.me {
            at = self.routes[at].before as usize;
            path.push(self.routes[at].peer.clone());
        }
        path.reverse();
        Some(path)
    }

    /// The link to this neighbour is a branch.
    pub fn is_branch(&self, neighbour: &PeerName) -> bool {
        self.distance(neighbour) == Some(1)
    }

    /// Every other peer and the neighbour on the way to it, sorted by peer.
    pub fn next_hops(&self) -> impl Iterator<Item = (&PeerName, &PeerName)> {
        self.routes
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != self.me)
            .map(|(_, route)| (&route.peer, &self.routes[route.next_hop as usize].peer))
    }

    /// Every peer of the tree, this one included, with its distance, sorted.
    pub fn distances(&self) -> impl Iterator<Item = (&PeerName, u32)> {
        self.routes.iter().map(|route| (&route.peer, route.distance))
    }

    fn position(&self, peer: &PeerName) -> Option<usize> {
        self.routes.binary_search_by(|route| route.peer.cmp(peer)).ok()
    }
}

/// Breadth first from `me`; `None` if not all peers are reached.
fn routes(me: usize, names: &[&PeerName], neighbours: &[Vec<usize>]) -> Option<Vec<Route>> {
    let mut found: Vec<Option<(usize, usize, u32)>> = vec![None; names.len()];
    found[me] = Some((me, me, 0));
    let mut queue = VecDeque::from([(me, me, 0)]);
    while let Some((at, next_hop, distance)) = queue.pop_front() {
        for &beyond in &neighbours[at] {
            if found[beyond].is_none() {
                let next_hop = if at == me { beyond } else { next_hop };
                found[beyond] = Some((at, next_hop, distance + 1));
                queue.push_back((beyond, next_hop, distance + 1));
            }
        }
    }
    let route = |(name, found): (&&PeerName, Option<(usize, usize, u32)>)| {
        let (before, next_hop, distance) = found?;
        let (before, next_hop) = (u32::try_from(before).ok()?, u32::try_from(next_hop).ok()?);
        Some(Route { peer: (*name).clone(), before, next_hop, distance })
    };
    names.iter().zip(found).map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bandwidth;

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn key(a: &str, b: &str) -> EdgeKey {
        EdgeKey::new(Bandwidth::from_bps(1), name(a), name(b))
    }

    fn overlay(me: &str, edges: &[(&str, &str)]) -> Result<Overlay, NotATree> {
        let session = SessionId { counter: 1, initiator: name("a") };
        Overlay::new(session, &name(me), None, edges.iter().map(|(a, b)| key(a, b)).collect())
    }

    #[test]
    fn a9_every_peer_knows_the_next_hop_and_the_path_to_every_other() {
        let tree = overlay("b", &[("a", "b"), ("b", "c"), ("c", "d")]).unwrap();
        assert_eq!(tree.path(&name("d")), Some(vec![name("b"), name("c"), name("d")]));
        assert_eq!(tree.path(&name("b")), Some(vec![name("b")]));
        assert_eq!(tree.next_hop(&name("d")), Some(&name("c")));
        assert_eq!(tree.next_hop(&name("b")), None);
        assert_eq!(tree.distance(&name("d")), Some(2));
        assert_eq!((tree.path(&name("x")), tree.knows(&name("x"))), (None, false));
        assert!(tree.is_branch(&name("a")) && !tree.is_branch(&name("d")));
        let next_hops: Vec<_> =
            tree.next_hops().map(|(to, via)| (to.as_str(), via.as_str())).collect();
        assert_eq!(next_hops, [("a", "a"), ("c", "c"), ("d", "c")]);
    }

    #[test]
    fn a4_a_peer_alone_is_a_tree() {
        let tree = overlay("a", &[]).unwrap();
        assert_eq!((tree.peers(), tree.path(&name("a"))), (1, Some(vec![name("a")])));
    }

    #[test]
    fn what_is_no_tree_with_me_in_it_is_refused() {
        assert_eq!(overlay("x", &[("a", "b")]), Err(NotATree::WithoutMe));
        assert_eq!(
            overlay("a", &[("a", "b"), ("b", "c"), ("c", "a")]),
            Err(NotATree::NotConnected)
        );
        assert_eq!(overlay("a", &[("a", "b"), ("c", "d")]), Err(NotATree::NotConnected));
        let twice = overlay("a", &[("a", "b"), ("a", "b"), ("c", "d")]);
        assert_eq!(twice, Err(NotATree::BadEdge));
        let circle = overlay("a", &[("a", "b"), ("c", "d"), ("d", "e"), ("e", "c")]);
        assert_eq!(circle, Err(NotATree::NotConnected));
        assert!(overlay("a", &[("a", "a")]).is_err());
    }
}

//! What the channels may know of the way to other peers: the tree that is in use, and the picture of the
//! overlay. A view of machines that [`super::node`] owns; it decides nothing.

use std::collections::BTreeMap;

use super::Narrowest;
use super::channel::Paths;
use super::graph::{Graph, Wanted};
use super::link::Link;
use super::session::Sessions;
use crate::types::{LinkId, PeerName, PublicKey, SessionId};

pub(super) struct Ways<'a> {
    pub(super) sessions: &'a Sessions,
    pub(super) links: &'a BTreeMap<LinkId, Link>,
    pub(super) graph: &'a Graph,
}

impl Paths for Ways<'_> {
    fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
        self.sessions.committed()?.path(to)
    }

    fn widest(&self, wanted: &Wanted<'_>) -> Option<Vec<PeerName>> {
        self.graph.widest(wanted)
    }

    fn narrowest(&self, path: &[PeerName]) -> Option<Narrowest> {
        self.graph.narrowest(path)
    }

    fn session(&self) -> Option<SessionId> {
        self.sessions.committed().map(|tree| tree.session().clone())
    }

    fn leaves(&self, peer: &PeerName) -> bool {
        self.graph.origin(peer).is_some_and(|origin| origin.peer.fact.leaving)
    }

    fn knows(&self, peer: &PeerName) -> bool {
        let in_tree = self.sessions.committed().is_some_and(|tree| tree.knows(peer));
        in_tree
            || self.graph.knows(peer)
            || self.links.values().any(|link| link.config().peer == *peer)
    }

    fn key(&self, peer: &PeerName) -> Option<PublicKey> {
        self.graph.key_of(peer)
    }
}

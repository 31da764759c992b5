//! What a peer shows to people: values, made when somebody asks.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use crate::proto::link::Link;
use crate::proto::overlay::Overlay;
use crate::proto::policy::Policy;
use crate::proto::view::{
    ChannelView, GraphView, LinkView, PeerState, PeerView, TreeView, WaitingView,
};
use crate::types::{Bandwidth, ChannelId, PeerName, Time, Way};
use crate::wire::course::Course;

impl Node {
    pub fn links(&self) -> Vec<LinkView> {
        let view = |link: &Link| {
            let capacity = link.capacity();
            let peer = &link.config().peer;
            let free = self.channels.free(link.config().link);
            let (free_out, free_in) = free.unwrap_or((capacity, capacity));
            LinkView {
                link: link.config().link,
                peer: peer.clone(),
                state: link.state(),
                capacity,
                free_out,
                free_in,
                tree: self.overlay().is_some_and(|tree| tree.is_branch(peer)),
            }
        };
        self.links.values().map(view).collect()
    }

    /// Every peer of the tree and every configured neighbour, sorted by name.
    pub fn peers(&self) -> Vec<PeerView> {
        let mut peers = BTreeMap::new();
        for link in self.links.values() {
            let name = link.config().peer.clone();
            let view = PeerView {
                name: name.clone(),
                state: PeerState::Unreachable,
                next_hop: None,
                distance: None,
            };
            peers.insert(name, view);
        }
        if let Some(tree) = self.overlay() {
            for (name, distance) in tree.distances() {
                let view = PeerView {
                    name: name.clone(),
                    state: PeerState::Reachable,
                    next_hop: tree.next_hop(name).cloned(),
                    distance: Some(distance),
                };
                peers.insert(name.clone(), view);
            }
        }
        let name = self.config.name.clone();
        let myself = PeerView {
            name: name.clone(),
            state: PeerState::Myself,
            next_hop: None,
            distance: Some(0),
        };
        peers.insert(name, myself);
        peers.into_values().collect()
    }

    pub fn tree(&self) -> TreeView {
        let tree = self.overlay();
        let hop = |(to, via): (&PeerName, &PeerName)| (to.clone(), via.clone());
        TreeView {
            session: tree.map(|tree| tree.session().clone()),
            complete: self.sessions.complete(),
            edges: tree.map(|tree| tree.edges().to_vec()).unwrap_or_default(),
            parent: tree.and_then(|tree| tree.parent().cloned()),
            next_hops: tree.map(|tree| tree.next_hops().map(hop).collect()).unwrap_or_default(),
        }
    }

    /// What this peer did in the session it is in, and since when it is.
    pub fn course(&self) -> Option<(Course, Time)> {
        self.sessions.course()
    }

    /// The picture of the whole overlay.
    pub fn graph_view(&self, now: Time) -> GraphView {
        let edges = self.overlay().map(Overlay::edges).unwrap_or_default();
        let branches: BTreeSet<_> = edges.iter().map(|edge| (&edge.lower, &edge.higher)).collect();
        self.graph.view(now, |lower, higher| branches.contains(&(lower, higher)))
    }

    pub fn channels(&self) -> Vec<ChannelView> {
        self.channels.views()
    }

    /// How many [`Node::channels`] has.
    pub fn channel_count(&self) -> usize {
        self.channels.channels()
    }

    /// Who may open channels here, and what they have.
    pub fn policy(&self) -> &Policy {
        self.channels.policy()
    }

    /// How many channels this peer asked for, serves and relays.
    pub fn channel_roles(&self) -> [usize; 3] {
        self.channels.roles()
    }

    /// The path on which this peer keeps bandwidth for a channel.
    pub fn path_of(&self, channel: &ChannelId) -> Option<Vec<PeerName>> {
        self.channels.path_of(channel)
    }

    /// Channels with this name that end here.
    pub fn ends_named(&self, name: &str) -> Vec<ChannelId> {
        self.channels.ends_named(name)
    }

    /// What the host may carry one way in all, and what is free of that; none without a budget.
    pub fn budget(&self, way: Way) -> Option<(Bandwidth, Bandwidth)> {
        self.channels.budget(way)
    }

    /// Requests of this peer that wait for room, in their order.
    pub fn waiting(&self, now: Time) -> Vec<WaitingView> {
        self.channels.waiting(now)
    }

    /// Requests that stand in line here, whoever asked.
    pub fn claims(&self) -> usize {
        self.channels.claims()
    }
}

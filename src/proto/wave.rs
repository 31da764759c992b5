//! The echo wave at the end of a session: DONE down, MEMBERS up, COMMIT down (2.7).
//!
//! One peer's share of it. It begins when the computation is over here, ends with a checked tree, and
//! until then nobody uses anything of it (A18). Bounds: what a neighbour can make us keep is one tree
//! of [`limits::PEERS_MAX`] peers.

use std::collections::{BTreeMap, BTreeSet};

use super::overlay::Overlay;
use crate::limits;
use crate::types::{EdgeKey, LinkId, PeerName, SessionId};
use crate::wire::control::Message;

/// One peer between DONE and COMMIT.
#[derive(Clone, Debug, Hash)]
pub struct Wave {
    session: SessionId,
    /// Towards the leader, and the edge there; `None` at the leader.
    parent: Option<(LinkId, EdgeKey)>,
    /// The other branches.
    children: BTreeMap<LinkId, Child>,
    /// Edges of the subtree below here, once the children named them.
    members: Vec<EdgeKey>,
    /// COMMIT pieces that came.
    commit: Vec<EdgeKey>,
    reported: bool,
}

#[derive(Clone, Debug, Hash)]
struct Child {
    edge: EdgeKey,
    /// It named its edge to us, as it must: branches are two-sided.
    confirmed: bool,
    complete: bool,
}

/// What the wave did with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Waiting,
    /// The tree is complete and correct here. COMMIT is in `out` for the children.
    Committed(Box<Overlay>),
    /// The edges are not one tree over everybody: a mistake or a liar. Keep the old tree.
    Wrong(&'static str),
}

type Out = Vec<(LinkId, Message)>;

impl Wave {
    /// DONE is here (or HALT, at the leader): passes it on; a leaf answers at once.
    pub fn begin(
        session: SessionId,
        me: &PeerName,
        parent: Option<LinkId>,
        branches: impl IntoIterator<Item = (LinkId, EdgeKey)>,
        out: &mut Out,
    ) -> (Self, Progress) {
        let mut wave = Self {
            session,
            parent: None,
            children: BTreeMap::new(),
            members: Vec::new(),
            commit: Vec::new(),
            reported: false,
        };
        for (link, edge) in branches {
            if Some(link) == parent {
                wave.parent = Some((link, edge));
            } else {
                out.push((link, Message::Done { session: wave.session.clone() }));
                wave.children.insert(link, Child { edge, confirmed: false, complete: false });
            }
        }
        let progress = wave.echo(me, out);
        (wave, progress)
    }

    /// A piece of MEMBERS from below. `Err` = no honest peer sends this.
    pub fn on_members(
        &mut self,
        me: &PeerName,
        link: LinkId,
        edges: &[EdgeKey],
        last: bool,
        out: &mut Out,
    ) -> Result<Progress, &'static str> {
        let child = self.children.get_mut(&link).ok_or("MEMBERS from no child of ours")?;
        if child.complete {
            return Err("MEMBERS after its last piece");
        }
        if self.members.len() + edges.len() >= limits::PEERS_MAX {
            return Err("MEMBERS names more peers than an overlay may have");
        }
        child.confirmed |= edges.contains(&child.edge);
        if last && !child.confirmed {
            return Err("MEMBERS without the branch that it came on");
        }
        child.complete = last;
        self.members.extend_from_slice(edges);
        Ok(self.echo(me, out))
    }

    /// A piece of COMMIT from the leader's side.
    pub fn on_commit(
        &mut self,
        me: &PeerName,
        link: LinkId,
        peers: u32,
        edges: &[EdgeKey],
        last: bool,
        out: &mut Out,
    ) -> Result<Progress, &'static str> {
        if !self.reported || self.parent.as_ref().is_none_or(|(parent, _)| *parent != link) {
            return Err("COMMIT that does not come from the leader's side, or too early");
        }
        if self.commit.len() + edges.len() >= limits::PEERS_MAX {
            return Err("COMMIT names more peers than an overlay may have");
        }
        self.commit.extend_from_slice(edges);
        if !last {
            return Ok(Progress::Waiting);
        }
        // A second COMMIT is no longer expected, whatever this one is worth.
        self.reported = false;
        let edges = std::mem::take(&mut self.commit);
        if usize::try_from(peers) != Ok(edges.len() + 1) {
            return Ok(Progress::Wrong("COMMIT counts other peers than it names"));
        }
        Ok(self.commit(me, edges, out))
    }

    /// Who the peer still waits for, for the log of a stuck session.
    pub fn describe(&self) -> String {
        let missing = self.children.values().filter(|child| !child.complete);
        let missing: Vec<_> = missing.map(|child| &child.edge).collect();
        format!("wave: reported {} MEMBERS missing from {missing:?}", self.reported)
    }

    /// When all children named their edges: report upwards, or commit at the leader.
    fn echo(&mut self, me: &PeerName, out: &mut Out) -> Progress {
        if !self.children.values().all(|child| child.complete) {
            return Progress::Waiting;
        }
        let mut edges = std::mem::take(&mut self.members);
        let Some((link, edge)) = &self.parent else {
            return self.commit(me, edges, out);
        };
        edges.push(edge.clone());
        self.reported = true;
        for (edges, last) in pieces(&edges) {
            let session = self.session.clone();
            out.push((*link, Message::Members { session, edges, last }));
        }
        Progress::Waiting
    }

    /// Checks the whole tree, then passes it on.
    fn commit(&self, me: &PeerName, edges: Vec<EdgeKey>, out: &mut Out) -> Progress {
        let mine: BTreeSet<&EdgeKey> = edges.iter().filter(|e| e.other_end(me).is_some()).collect();
        let branches = self.children.values().map(|child| &child.edge);
        let branches: BTreeSet<&EdgeKey> =
            branches.chain(self.parent.iter().map(|(_, edge)| edge)).collect();
        if mine != branches {
            return Progress::Wrong("the tree has other branches here than this peer");
        }
        let parent = self.parent.as_ref().and_then(|(_, edge)| edge.other_end(me).cloned());
        let Ok(overlay) = Overlay::new(self.session.clone(), me, parent, edges) else {
            return Progress::Wrong("the edges are not one tree");
        };
        let peers = u32::try_from(overlay.peers()).expect("PEERS_MAX fits");
        for &link in self.children.keys() {
            for (edges, last) in pieces(overlay.edges()) {
                let session = self.session.clone();
                out.push((link, Message::Commit { session, peers, edges, last }));
            }
        }
        Progress::Committed(Box::new(overlay))
    }
}

/// The edges in messages that fit, the last one marked; at least one even without edges.
fn pieces(edges: &[EdgeKey]) -> impl Iterator<Item = (Vec<EdgeKey>, bool)> + '_ {
    let count = edges.len().div_ceil(limits::EDGES_PER_PIECE).max(1);
    (0..count).map(move |at| {
        let from = at * limits::EDGES_PER_PIECE;
        let to = (from + limits::EDGES_PER_PIECE).min(edges.len());
        (edges[from..to].to_vec(), at + 1 == count)
    })
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

    fn session() -> SessionId {
        SessionId { counter: 1, initiator: name("a") }
    }

    /// Leader a - b - c; this peer is b.
    fn middle(out: &mut Out) -> Wave {
        let branches = [(LinkId(0), key("a", "b")), (LinkId(1), key("b", "c"))];
        Wave::begin(session(), &name("b"), Some(LinkId(0)), branches, out).0
    }

    #[test]
    fn a9_a_long_tree_is_carried_in_pieces_that_fit_a_message() {
        let edges: Vec<_> = (0..250).map(|at| key("hub", &format!("p{at:03}"))).collect();
        let sizes: Vec<_> = pieces(&edges).map(|(edges, last)| (edges.len(), last)).collect();
        assert_eq!(sizes, [(100, false), (100, false), (50, true)]);
        assert_eq!(pieces(&[]).count(), 1);
        for (edges, last) in pieces(&edges) {
            let message = Message::Commit { session: session(), peers: 251, edges, last };
            assert!(message.emit().len() <= limits::MESSAGE_BYTES_MAX);
        }
    }

    #[test]
    fn members_go_up_only_when_all_children_answered_and_name_every_edge_once() {
        let mut out = Vec::new();
        let mut wave = middle(&mut out);
        assert_eq!(out, [(LinkId(1), Message::Done { session: session() })]);
        out.clear();
        let progress = wave.on_members(&name("b"), LinkId(1), &[key("b", "c")], true, &mut out);
        assert_eq!(progress, Ok(Progress::Waiting));
        let edges = vec![key("b", "c"), key("a", "b")];
        assert_eq!(out, [(LinkId(0), Message::Members { session: session(), edges, last: true })]);
    }

    #[test]
    fn a_commit_with_other_branches_or_a_wrong_count_leaves_the_old_tree() {
        let tree = [key("a", "b"), key("b", "c")];
        let cases: [(&[EdgeKey], u32); 3] = [
            (&tree[..1], 2),
            (&tree, 4),
            (&[key("a", "b"), key("b", "c"), key("x", "y"), key("y", "z"), key("x", "z")], 6),
        ];
        for (edges, peers) in cases {
            let mut out = Vec::new();
            let mut wave = middle(&mut out);
            wave.on_members(&name("b"), LinkId(1), &[key("b", "c")], true, &mut out).unwrap();
            out.clear();
            let progress = wave.on_commit(&name("b"), LinkId(0), peers, edges, true, &mut out);
            assert!(matches!(progress, Ok(Progress::Wrong(_))), "{progress:?}");
            assert!(out.is_empty(), "a wrong tree is not passed on");
        }
    }

    #[test]
    fn what_no_honest_peer_says_in_the_wave_is_an_error() {
        let mut out = Vec::new();
        let mut wave = middle(&mut out);
        let me = name("b");
        let tree = [key("a", "b"), key("b", "c")];
        assert!(wave.on_commit(&me, LinkId(0), 3, &tree, true, &mut out).is_err(), "too early");
        assert!(wave.on_members(&me, LinkId(0), &tree, true, &mut out).is_err(), "from above");
        assert!(wave.on_members(&me, LinkId(1), &tree[..1], true, &mut out).is_err(), "one-sided");
        wave.on_members(&me, LinkId(1), &tree[1..], true, &mut out).unwrap();
        assert!(wave.on_members(&me, LinkId(1), &tree[1..], true, &mut out).is_err(), "twice");
        assert!(wave.on_commit(&me, LinkId(1), 3, &tree, true, &mut out).is_err(), "from below");
        let many = vec![key("x", "y"); limits::PEERS_MAX];
        assert!(wave.on_commit(&me, LinkId(0), 3, &many, true, &mut out).is_err(), "too many");
    }
}

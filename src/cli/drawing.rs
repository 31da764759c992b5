//! The spanning tree as text, rooted at the peer that was asked.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::dto::TreeReply;
use crate::cli::screen::Style;
use crate::cli::table::{WIDTH, cut};
use crate::types::{Bandwidth, PeerName};

/// Deeper peers stand at this depth and say how deep they are: the lines still fit.
const DEPTH_DRAWN: usize = 12;

/// One line a peer: its place, its name, the capacity of its edge towards the root.
pub(super) fn tree(reply: &TreeReply, root: &PeerName, style: Style) -> Vec<String> {
    let mut next: BTreeMap<&PeerName, BTreeMap<&PeerName, Bandwidth>> = BTreeMap::new();
    for edge in &reply.edges {
        next.entry(&edge.a).or_default().insert(&edge.b, edge.capacity_bps);
        next.entry(&edge.b).or_default().insert(&edge.a, edge.capacity_bps);
    }
    let mut lines = vec![format!("{} {}", style.bold(root.as_str()), style.dim("(this peer)"))];
    let mut seen = BTreeSet::from([root]);
    // Explicit stack: a chain of 10,000 peers must not end in a stack overflow.
    let mut waiting: Vec<Branch<'_>> = Vec::new();
    push_children(root, "", 1, &next, &mut seen, &mut waiting);
    while let Some(branch) = waiting.pop() {
        lines.push(line(&branch, reply, style));
        let bar = if branch.last { "   " } else { "│  " };
        let prefix = if branch.depth < DEPTH_DRAWN {
            format!("{}{bar}", branch.prefix)
        } else {
            branch.prefix.clone()
        };
        push_children(branch.peer, &prefix, branch.depth + 1, &next, &mut seen, &mut waiting);
    }
    lines
}

struct Branch<'a> {
    peer: &'a PeerName,
    capacity: Bandwidth,
    prefix: String,
    depth: usize,
    last: bool,
}

fn push_children<'a>(
    of: &PeerName,
    prefix: &str,
    depth: usize,
    next: &BTreeMap<&'a PeerName, BTreeMap<&'a PeerName, Bandwidth>>,
    seen: &mut BTreeSet<&'a PeerName>,
    waiting: &mut Vec<Branch<'a>>,
) {
    let Some(neighbours) = next.get(of) else { return };
    let children: Vec<_> = neighbours.iter().filter(|&(&peer, _)| seen.insert(peer)).collect();
    let count = children.len();
    for (index, &(&peer, &capacity)) in children.iter().enumerate().rev() {
        let last = index + 1 == count;
        waiting.push(Branch { peer, capacity, prefix: prefix.to_owned(), depth, last });
    }
}

fn line(branch: &Branch<'_>, reply: &TreeReply, style: Style) -> String {
    let corner = if branch.last { "└─ " } else { "├─ " };
    let mut notes = branch.capacity.to_string();
    if reply.parent.as_ref() == Some(branch.peer) {
        notes.push_str(", parent");
    }
    if branch.depth > DEPTH_DRAWN {
        notes.push_str(&format!(", {} hops from here", branch.depth));
    }
    let used = branch.prefix.chars().count() + corner.chars().count() + notes.chars().count() + 2;
    let name = cut(branch.peer.as_str(), WIDTH.saturating_sub(used).max(8));
    format!("{}{corner}{}  {}", branch.prefix, style.bold(&name), style.dim(&notes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::EdgeRow;

    fn reply(edges: &[(&str, &str)]) -> TreeReply {
        let name = |text: &str| PeerName::new(text).expect("a name");
        let capacity_bps = Bandwidth::from_bps(95_000_000);
        TreeReply {
            session: Some("3@a".to_owned()),
            complete: true,
            edges: edges
                .iter()
                .map(|&(a, b)| EdgeRow { a: name(a), b: name(b), capacity_bps })
                .collect(),
            parent: Some(name("b")),
            next_hops: BTreeMap::new(),
        }
    }

    fn draw(edges: &[(&str, &str)], root: &str) -> Vec<String> {
        let root = PeerName::new(root).expect("a name");
        tree(&reply(edges), &root, Style { colour: false, wide: false })
    }

    #[test]
    fn a9_the_tree_is_drawn_from_the_peer_that_was_asked() {
        let lines = draw(&[("a", "b"), ("b", "c"), ("a", "d"), ("b", "e")], "a");
        assert_eq!(
            lines,
            [
                "a (this peer)",
                "├─ b  95 Mbit/s, parent",
                "│  ├─ c  95 Mbit/s",
                "│  └─ e  95 Mbit/s",
                "└─ d  95 Mbit/s",
            ]
        );
    }

    #[test]
    fn a_long_chain_fits_eighty_columns() {
        let names: Vec<String> = (0..2_000).map(|n| format!("peer-{n:04}")).collect();
        let edges: Vec<(&str, &str)> =
            names.windows(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        let lines = draw(&edges, "peer-0000");
        assert_eq!(lines.len(), 2_000);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert!(lines[1_999].contains("1999 hops"), "{}", lines[1_999]);
    }
}

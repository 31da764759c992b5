//! The ring of the demo as a picture: the way of the stream along the top, the rest below.
//!
//! ```text
//! peer-01 ══▶ peer-02 ══▶ peer-03 ══▶ peer-04
//!    │                                   ╎
//!    └──────────── peer-05 ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╯
//! ```
//!
//! A ring too wide for 80 columns is drawn as a list.

use std::collections::BTreeSet;

use crate::api::dto::EdgeRow;
use crate::cli::screen::Style;
use crate::cli::table::WIDTH;
use crate::types::PeerName;

/// What is known of the ring at one moment.
#[derive(Debug)]
pub(super) struct Ring<'a> {
    /// In order; the stream goes from the first to number `destination`, by the relays between if it
    /// can.
    pub(super) peers: &'a [PeerName],
    pub(super) destination: usize,
    pub(super) tree: &'a [EdgeRow],
    /// Empty before there is a channel.
    pub(super) path: &'a [PeerName],
    pub(super) dead: Option<&'a PeerName>,
}

/// What an edge is, which decides how it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// The stream takes it.
    Path,
    Tree,
    Outside,
    /// One end is dead.
    Dead,
}

impl Ring<'_> {
    pub(super) fn lines(&self, style: Style) -> Vec<String> {
        let top: Vec<&PeerName> = self.peers[..=self.destination].iter().collect();
        let width = top.iter().map(|name| name.as_str().len()).sum::<usize>() + 5 * (top.len() - 1);
        let mut lines = if width + INDENT <= WIDTH {
            self.drawing(&top, width, style)
        } else {
            self.list(style)
        };
        lines.push(String::new());
        let channel = if self.path.is_empty() { "" } else { "═ the channel   " };
        lines.push(style.dim(&format!("   {channel}─ tree   ╌ a link outside the tree")));
        lines
    }

    fn drawing(&self, top: &[&PeerName], width: usize, style: Style) -> Vec<String> {
        let (first, last) = (top[0], top[top.len() - 1]);
        let left_at = first.as_str().len() / 2;
        let right_at = width - last.as_str().len().div_ceil(2);
        let below = &self.peers[self.destination + 1..];
        let (left, right) = match below {
            [] => (self.edge(last, first), self.edge(last, first)),
            [.., final_peer] => (self.edge(final_peer, first), self.edge(last, &below[0])),
        };
        let mut row = String::new();
        for (index, name) in top.iter().enumerate() {
            if index > 0 {
                row.push_str(&self.connector(top[index - 1], name, style));
            }
            row.push_str(&self.name(name, style));
        }
        let indent = " ".repeat(INDENT);
        let up = if right == Edge::Path { "▲" } else { right.vertical() };
        let verticals = format!(
            "{indent}{}{}{}{}",
            " ".repeat(left_at),
            left.paint(left.vertical(), style),
            " ".repeat(right_at - left_at - 1),
            right.paint(up, style)
        );
        let bottom = self.bottom(below, right_at - left_at - 1, (left, right), style);
        vec![
            format!("{indent}{row}"),
            verticals,
            format!("{indent}{}{bottom}", " ".repeat(left_at)),
        ]
    }

    /// The lower row between its corners; `room` columns lie between them.
    fn bottom(
        &self,
        below: &[PeerName],
        room: usize,
        (left, right): (Edge, Edge),
        style: Style,
    ) -> String {
        let corners =
            (left.paint(left.corner_left(), style), right.paint(right.corner_right(), style));
        let Some(peer) = below.first() else {
            let fill = left.paint(&left.horizontal().repeat(room), style);
            return format!("{}{fill}{}", corners.0, corners.1);
        };
        let name = peer.as_str().len() + 2;
        let before = room.saturating_sub(name) / 2;
        let after = room.saturating_sub(name + before);
        let mut fill = left.horizontal().repeat(before);
        if left == Edge::Path && before > 0 {
            fill = format!("{}▶", left.horizontal().repeat(before - 1));
        }
        format!(
            "{}{} {} {}{}",
            corners.0,
            left.paint(&fill, style),
            self.name(peer, style),
            right.paint(&right.horizontal().repeat(after), style),
            corners.1
        )
    }

    fn list(&self, style: Style) -> Vec<String> {
        let indent = " ".repeat(INDENT);
        let mut lines = Vec::new();
        for (index, name) in self.peers.iter().enumerate() {
            let next = &self.peers[(index + 1) % self.peers.len()];
            let edge = self.edge(name, next);
            let back = if index + 1 == self.peers.len() { " back to the first" } else { "" };
            let dead = if self.dead == Some(name) { " ✗" } else { "" };
            lines.push(format!("{indent}{}{}", self.name(name, style), style.red(dead)));
            lines.push(format!("{indent}  {}{back}", edge.paint(edge.vertical(), style)));
        }
        lines
    }

    fn name(&self, name: &PeerName, style: Style) -> String {
        match self.dead {
            Some(dead) if dead == name => style.red(name.as_str()),
            _ => style.bold(name.as_str()),
        }
    }

    /// Five columns between two names; a dead peer's cross stands in the one behind it.
    fn connector(&self, from: &PeerName, to: &PeerName, style: Style) -> String {
        let edge = self.edge(from, to);
        match edge {
            Edge::Path => edge.paint(" ══▶ ", style),
            Edge::Tree => edge.paint(" ─── ", style),
            Edge::Outside => edge.paint(" ╌╌╌ ", style),
            Edge::Dead if self.dead == Some(from) => style.red(" ✗   "),
            Edge::Dead => "     ".to_owned(),
        }
    }

    fn edge(&self, one: &PeerName, other: &PeerName) -> Edge {
        let ends = BTreeSet::from([one, other]);
        if self.path.windows(2).any(|hop| BTreeSet::from([&hop[0], &hop[1]]) == ends) {
            return Edge::Path;
        }
        if self.dead.is_some_and(|dead| ends.contains(dead)) {
            return Edge::Dead;
        }
        if self.tree.iter().any(|edge| BTreeSet::from([&edge.a, &edge.b]) == ends) {
            return Edge::Tree;
        }
        Edge::Outside
    }
}

const INDENT: usize = 3;

impl Edge {
    fn vertical(self) -> &'static str {
        match self {
            Self::Path => "║",
            Self::Tree => "│",
            Self::Outside => "╎",
            Self::Dead => " ",
        }
    }

    fn horizontal(self) -> &'static str {
        match self {
            Self::Path => "═",
            Self::Tree => "─",
            Self::Outside => "╌",
            Self::Dead => " ",
        }
    }

    fn corner_left(self) -> &'static str {
        match self {
            Self::Path => "╚",
            Self::Tree => "└",
            Self::Outside => "╰",
            Self::Dead => " ",
        }
    }

    fn corner_right(self) -> &'static str {
        match self {
            Self::Path => "╝",
            Self::Tree => "┘",
            Self::Outside => "╯",
            Self::Dead => " ",
        }
    }

    fn paint(self, text: &str, style: Style) -> String {
        match self {
            Self::Path => style.green(text),
            Self::Tree => text.to_owned(),
            Self::Outside | Self::Dead => style.dim(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bandwidth;

    fn names(count: usize) -> Vec<PeerName> {
        (1..=count).map(|n| PeerName::new(&format!("peer-{n:02}")).expect("a name")).collect()
    }

    /// The ring without its edge between number `without` and the next.
    fn tree(peers: &[PeerName], without: usize) -> Vec<EdgeRow> {
        let edge = |n: usize| EdgeRow {
            a: peers[n].clone(),
            b: peers[(n + 1) % peers.len()].clone(),
            capacity_bps: Bandwidth::from_bps(1_000_000),
        };
        (0..peers.len()).filter(|&n| n != without).map(edge).collect()
    }

    fn draw(ring: &Ring<'_>) -> Vec<String> {
        let lines = ring.lines(Style { colour: false, wide: false });
        lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn the_stream_takes_the_upper_way() {
        let peers = names(5);
        let tree = tree(&peers, 3);
        let ring =
            Ring { peers: &peers, destination: 3, tree: &tree, path: &peers[..4], dead: None };
        assert_eq!(
            draw(&ring)[..3],
            [
                "   peer-01 ══▶ peer-02 ══▶ peer-03 ══▶ peer-04",
                "      │                                   ╎",
                "      └───────────── peer-05 ╌╌╌╌╌╌╌╌╌╌╌╌╌╯",
            ]
        );
    }

    #[test]
    fn after_a_death_it_takes_the_lower_way() {
        let peers = names(5);
        let tree = tree(&peers, 2);
        let path = [peers[0].clone(), peers[4].clone(), peers[3].clone()];
        let ring =
            Ring { peers: &peers, destination: 3, tree: &tree, path: &path, dead: Some(&peers[2]) };
        assert_eq!(
            draw(&ring)[..3],
            [
                "   peer-01 ─── peer-02     peer-03 ✗   peer-04",
                "      ║                                   ▲",
                "      ╚════════════▶ peer-05 ═════════════╝",
            ]
        );
    }

    #[test]
    fn every_ring_fits_eighty_columns() {
        for count in 4..=32 {
            let peers = names(count);
            let destination = if count == 4 { 3 } else { count - 2 };
            let tree = tree(&peers, count - 1);
            let ring = Ring { peers: &peers, destination, tree: &tree, path: &[], dead: None };
            for line in draw(&ring) {
                assert!(line.chars().count() <= WIDTH, "{count} peers: {line}");
            }
        }
    }
}

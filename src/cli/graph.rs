//! `graph`: the picture of the overlay as a table, as JSON, or for Graphviz.

use std::io::{self, Write};
use std::time::Duration;

use super::GraphArgs;
use super::screen::{CliError, Daemon, Style, print, show};
use super::table::{Table, wrap};
use crate::api::dto::{GraphLink, GraphReply, Request};

pub(super) fn graph(args: &GraphArgs) -> Result<(), CliError> {
    let reply: GraphReply = Daemon::of(&args.target)?.ask(&Request::Graph)?;
    if args.dot {
        return print(|out, _| dot(&reply, out));
    }
    show(&args.target, &reply, text)
}

fn text(reply: &GraphReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    writeln!(
        out,
        "{} peers, {} links, digest {}, version {}",
        reply.peers.len(),
        reply.links.len(),
        style.bold(&reply.digest),
        reply.version
    )?;
    let leaving = reply.peers.iter().filter(|peer| peer.leaving);
    let leaving: Vec<String> = leaving.map(|peer| peer.name.to_string()).collect();
    if !leaving.is_empty() {
        writeln!(out, "leaving: {}", wrap(&leaving, ", ", 9))?;
    }
    let joined = |peer: &str| {
        let ends = reply.links.iter().flat_map(|link| [&link.a, &link.b]);
        ends.into_iter().any(|end| end.as_str() == peer)
    };
    let alone = reply.peers.iter().filter(|peer| !joined(peer.name.as_str()));
    let alone: Vec<String> =
        alone.map(|peer| format!("{} ({})", peer.name, age(peer.age_ms))).collect();
    if !alone.is_empty() {
        writeln!(out, "without a link: {}", wrap(&alone, ", ", 16))?;
    }
    if reply.links.is_empty() {
        return Ok(());
    }
    let mut table = Table::new()
        .elastic("A")
        .elastic("B")
        .number("CAPACITY")
        .number("FREE A TO B")
        .number("FREE B TO A")
        .column("TREE")
        .number("AGE");
    for link in &reply.links {
        table.row(vec![
            link.a.to_string(),
            link.b.to_string(),
            link.capacity_bps.to_string(),
            link.free_ab_bps.to_string(),
            link.free_ba_bps.to_string(),
            if link.tree { "yes".to_owned() } else { "no".to_owned() },
            age(link.age_ms),
        ]);
    }
    table.write(out, style)
}

/// An undirected graph; edges of the tree are thick. Names need no escapes between quotes.
fn dot(reply: &GraphReply, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "graph spanway {{")?;
    writeln!(out, "  node [shape=box, style=rounded];")?;
    for peer in &reply.peers {
        let style = if peer.leaving { " [style=\"rounded,dashed\"]" } else { "" };
        writeln!(out, "  \"{}\"{style};", peer.name)?;
    }
    for link in &reply.links {
        let GraphLink { a, b, capacity_bps, free_ab_bps, free_ba_bps, tree, .. } = link;
        let width = if *tree { ", penwidth=3" } else { "" };
        writeln!(
            out,
            "  \"{a}\" -- \"{b}\" [label=\"{capacity_bps}\", taillabel=\"{free_ab_bps}\", \
             headlabel=\"{free_ba_bps}\"{width}];"
        )?;
    }
    writeln!(out, "}}")
}

/// In the largest unit that leaves a whole number above zero: `12 s`, `3 min`, `5 h`.
fn age(age_ms: u64) -> String {
    match Duration::from_millis(age_ms).as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::GraphPeer;
    use crate::types::{Bandwidth, PeerName};

    fn name(text: &str) -> PeerName {
        PeerName::new(text).expect("a name")
    }

    fn reply() -> GraphReply {
        let peer = |text: &str, leaving| GraphPeer {
            name: name(text),
            age_ms: 12_345,
            leaving,
            egress_bps: None,
            ingress_bps: None,
        };
        let link = |a: &str, b: &str, tree| GraphLink {
            a: name(a),
            b: name(b),
            capacity_bps: Bandwidth::from_bps(95_000_000),
            free_ab_bps: Bandwidth::from_bps(75_123_000),
            free_ba_bps: Bandwidth::from_bps(95_000_000),
            max_payload_bytes: 1_408,
            tree,
            age_ms: 61_000,
        };
        let long = "a-peer-with-quite-a-long-name-in-berlin";
        GraphReply {
            digest: "0123456789abcdef".to_owned(),
            version: 7,
            peers: vec![peer(long, false), peer("b", true), peer("c", false), peer("gone", false)],
            links: vec![link(long, "b", true), link("b", "c", false)],
        }
    }

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes).expect("memory");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn the_picture_fits_eighty_columns_and_says_who_leaves_and_who_has_no_link() {
        let text = written(|out| text(&reply(), out, Style { colour: false, wide: false }));
        assert!(text.starts_with("4 peers, 2 links, digest 0123456789abcdef, version 7\n"));
        assert!(text.contains("leaving: b\n"), "{text}");
        assert!(text.contains("without a link: gone (12 s)\n"), "{text}");
        assert!(text.contains("75.123 Mbit/s"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn graphviz_gets_every_peer_and_link_and_thick_edges_of_the_tree() {
        let text = written(|out| dot(&reply(), out));
        assert!(text.starts_with("graph spanway {\n") && text.ends_with("}\n"), "{text}");
        assert!(text.contains("\"b\" -- \"c\" [label=\"95 Mbit/s\""), "{text}");
        assert_eq!(text.matches("penwidth=3").count(), 1, "{text}");
        assert_eq!(text.matches(" -- ").count(), 2, "{text}");
    }

    #[test]
    fn ages_are_short() {
        assert_eq!([0, 59_999, 60_000, 7_200_000].map(age), ["0 s", "59 s", "1 min", "2 h"]);
    }
}

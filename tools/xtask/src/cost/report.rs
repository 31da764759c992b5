//! The table of `cargo xtask cost` as Markdown. Pure.

use std::fmt::Write as _;

use super::Size;

/// One size for the terminal.
pub(super) fn lines(size: &Size) -> String {
    let mut text = format!(
        "{} peers, {:.0} links, {} seeds: {:.1} s, {:.0} MiB",
        size.peers, size.links, size.seeds, size.seconds, size.peak_mib
    );
    for row in &size.events {
        let _ = write!(
            text,
            "\n  {}: {:.0} messages, {:.0} hops, {:.1} sessions",
            row.event, row.messages, row.hops, row.sessions
        );
    }
    text
}

pub(super) fn document(sizes: &[Size]) -> String {
    let mut text = String::from(HEAD);
    for size in sizes {
        for (at, row) in size.events.iter().enumerate() {
            let first = at == 0;
            let cell = |text: String| if first { text } else { String::new() };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.1} | {:.0} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {} |",
                cell(size.peers.to_string()),
                cell(format!("{:.0}", size.links)),
                row.event,
                row.sessions,
                row.messages,
                row.messages / size.peers as f64,
                row.algorithm,
                row.around,
                row.hops,
                row.hops_of_session,
                cell(format!("{:.1} s", size.seconds / size.seeds as f64)),
                cell(format!("{:.0} MiB", size.peak_mib)),
            );
        }
    }
    let shared = sizes.iter().any(|size| size.shared);
    text += if shared { SHARED } else { "" };
    text
}

const HEAD: &str = "# What a tree costs, simulated

![messages and hops by the number of peers](cost.svg)

The product's own session machines (`proto::session`, with gate, algorithm and echo wave) on random overlays
of equal degree with four different capacities. Every hop takes 1 ms, so a time is a number of hops;
messages are counted when they are sent; means over the seeds. *First tree*: all peers start at the same
moment. *Link failure*: a link of the tree is gone, both ends learn it at once. *Peer failure*: the same for
all links of one peer. Each is a full session from level 0, which is what is built. Channels do not wait for
it: the old tree stays in use, and channels move on the picture.

*Sessions*: how many were started; the highest one is committed, the others are overtaken. *Messages* are
those of all of them; *algorithm* and *around* (START, DONE, MEMBERS, COMMIT, in pieces of 100 edges) those of
the one that was committed. *Hops* are from the first START to the last COMMIT, *of it* from the START of
the one that was committed. *Time* and *memory* are the simulator's, on one core, for one overlay.

| peers | links | event | sessions | messages | per peer | algorithm | around | hops | of it | time | memory |
| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
";

const SHARED: &str = "
From 2,000 peers on the committed tree is there once and shared by all: one peer in a hundred (and the
leader) gets its COMMIT, checks it and builds its table as the product does; at the others the pieces are
counted and passed on, but not read. A test shows that this changes no figure.
";

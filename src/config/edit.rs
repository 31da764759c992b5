//! Puts one `[[link]]` into the text of a configuration file, or takes one out, and changes no other byte
//! of it: comments, order and line ends are a person's.
//!
//! Pure. What comes out has been through the parser, so it is as valid as a file that was written by hand.
//! Knows both forms of the list: tables `[[link]]`, and `link = [{ ... }]` in one value. Reads and writes no
//! file; [`super::Config::read`] and the daemon do.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Source;
use super::error::ConfigError;
use super::{Config, Link, Trusted};
use crate::limits;
use crate::types::{Bandwidth, PeerName};

/// The text of `file` with `link` behind the links it has, and the configuration it then is.
pub fn add_link(file: &Path, text: &str, link: &Link) -> Result<(String, Config), ConfigError> {
    // Mistakes of whoever wrote the file are told with their place, those of the link without one.
    Config::parse(file, text)?;
    let document = Source { file, text }.read()?;
    let new = match links(document.get_ref()) {
        Links::Tables(tables) => {
            let at = tables.last().map_or(text.len(), |table| rows(text, table).end);
            insert_table(text, at, link)
        }
        Links::Inline { list, items } => {
            insert_inline(text, list, &items, &format!("{{ {} }}", pairs(link).join(", ")))
        }
    };
    let config = Config::parse(file, &new).map_err(|error| whole(&error))?;
    Ok((new, config))
}

/// The text of `file` without the link to `peer`, and the configuration it then is.
pub fn remove_link(
    file: &Path,
    text: &str,
    peer: &PeerName,
) -> Result<(String, Config), ConfigError> {
    let before = Config::parse(file, text)?;
    let Some(at) = before.links.iter().position(|link| link.peer == *peer) else {
        return Err(ConfigError::of_file(file, "link", no_link(peer, &before.links)));
    };
    let document = Source { file, text }.read()?;
    let cut = match links(document.get_ref()) {
        Links::Tables(tables) => table_cut(text, &tables[at]),
        Links::Inline { list, items } => inline_cut(text, &list, &items, at),
    };
    let mut new = text.to_owned();
    new.replace_range(cut, "");
    let config = Config::parse(file, &new).map_err(|error| whole(&error))?;
    Ok((new, config))
}

/// The text of `file` with one trusted peer more, and the configuration it then is.
pub fn add_trusted(
    file: &Path,
    text: &str,
    trusted: &Trusted,
) -> Result<(String, Config), ConfigError> {
    Config::parse(file, text)?;
    let document = Source { file, text }.read()?;
    let mut pairs = vec![format!("key = \"{}\"", trusted.key)];
    pairs.extend(trusted.name.as_ref().map(|name| format!("name = \"{name}\"")));
    pairs.extend(trusted.capacity.map(|capacity| format!("capacity = \"{}\"", rate(capacity))));
    let entry = format!("{{ {} }}", pairs.join(", "));
    let new = match document.get_ref().get("trust") {
        None => trust_at_end(text, &entry),
        Some(section) => insert_trusted(text, section, &entry),
    };
    let config = Config::parse(file, &new).map_err(|error| whole(&error))?;
    if config.trust.of(&trusted.key) != Some(trusted) {
        let text =
            "is in no form that can be written to: write a table [trust] with its keys below";
        return Err(ConfigError::of_file(file, "trust", text));
    }
    Ok((new, config))
}

/// A section of its own.
fn trust_at_end(text: &str, entry: &str) -> String {
    let end = line_end(text);
    let mut new = text.to_owned();
    if !new.is_empty() && !new.ends_with('\n') {
        new.push_str(end);
    }
    if !new.is_empty() {
        new.push_str(end);
    }
    let _ = write!(new, "[trust]{end}peers = [{end}  {entry},{end}]{end}");
    new
}

fn insert_trusted(text: &str, section: &Spanned<DeValue<'_>>, entry: &str) -> String {
    let peers = section.get_ref().as_table().and_then(|table| table.get("peers"));
    if let Some(peers) = peers {
        let items = peers.get_ref().as_array().map(|list| &list[..]).unwrap_or_default();
        let items: Vec<_> = items.iter().map(Spanned::span).collect();
        return insert_inline(text, peers.span(), &items, entry);
    }
    let (end, at) = (line_end(text), section.span().start);
    let rest = &text[at..];
    if let Some(inner) = rest.strip_prefix('{') {
        let empty = section.get_ref().as_table().is_some_and(DeTable::is_empty);
        let comma = if empty { " " } else { ", " };
        return format!("{} peers = [{entry}]{comma}{}", &text[..=at], inner.trim_start());
    }
    // Below the header, so that it stands before tables that follow.
    let line = rest.find('\n').map_or(text.len(), |line| at + line + 1);
    let lead = if text[..line].ends_with('\n') { "" } else { end };
    format!("{}{lead}peers = [{end}  {entry},{end}]{end}{}", &text[..line], &text[line..])
}

/// Where the links of a file are, in its order.
enum Links {
    /// Each from its header to its last value; none if there are none in any form.
    Tables(Vec<Range<usize>>),
    Inline {
        list: Range<usize>,
        items: Vec<Range<usize>>,
    },
}

fn links(root: &DeTable<'_>) -> Links {
    let Some(list) = root.get("link") else { return Links::Tables(Vec::new()) };
    let items = list.get_ref().as_array().map(|list| &list[..]).unwrap_or_default();
    // A table in braces has them in its span; one of `[[link]]` has its header there.
    let end = |item: &Spanned<DeValue<'_>>| {
        let values = item.get_ref().as_table().into_iter().flat_map(DeTable::values);
        values.map(|value| value.span().end).chain([item.span().end]).max().unwrap_or_default()
    };
    let items: Vec<_> = items.iter().map(|item| item.span().start..end(item)).collect();
    let list = list.span();
    let inline = items.iter().all(|item| list.start < item.start && item.end < list.end);
    if inline { Links::Inline { list, items } } else { Links::Tables(items) }
}

/// The keys of a link, each as `key = value`.
fn pairs(link: &Link) -> Vec<String> {
    let mut pairs = vec![format!("peer = \"{}\"", link.peer)];
    pairs.extend(link.address.map(|address| format!("address = \"{address}\"")));
    pairs.push(format!("capacity = \"{}\"", rate(link.capacity)));
    pairs.push(format!("key = \"{}\"", link.key));
    if link.mtu != limits::MTU_DEFAULT {
        pairs.push(format!("mtu = {}", link.mtu));
    }
    pairs
}

/// As a person writes it, where that is the same rate.
fn rate(rate: Bandwidth) -> String {
    let text = rate.to_string();
    if text.parse() == Ok(rate) { text } else { format!("{} bit/s", rate.bps()) }
}

fn insert_table(text: &str, at: usize, link: &Link) -> String {
    let end = line_end(text);
    let mut block = String::new();
    let before = &text[..at];
    if !before.is_empty() && !before.ends_with('\n') {
        block.push_str(end);
    }
    if !before.is_empty() && !before.ends_with("\n\n") && !before.ends_with("\r\n\r\n") {
        block.push_str(end);
    }
    let _ = write!(block, "[[link]]{end}");
    for pair in pairs(link) {
        let _ = write!(block, "{pair}{end}");
    }
    format!("{before}{block}{}", &text[at..])
}

fn insert_inline(text: &str, list: Range<usize>, items: &[Range<usize>], table: &str) -> String {
    let (at, item) = match items {
        [] => (list.start + 1, table.to_owned()),
        [first, ..] => {
            // On a line of its own if the first one is.
            let lead = &text[list.start + 1..first.start];
            let indent = lead.rsplit_once('\n').map(|(_, indent)| indent);
            let lead = indent.map_or_else(|| " ".to_owned(), |i| format!("{}{i}", line_end(text)));
            (items[items.len() - 1].end, format!(",{lead}{table}"))
        }
    };
    format!("{}{item}{}", &text[..at], &text[at..])
}

/// Whole lines of a `[[link]]`: from its header to its last value, and the comments that stand on them or
/// close below them.
fn rows(text: &str, table: &Range<usize>) -> Range<usize> {
    let start = text[..table.start].rfind('\n').map_or(0, |at| at + 1);
    let next = |from: usize| text[from..].find('\n').map_or(text.len(), |at| from + at + 1);
    let end = next(table.end);
    let mut below = end;
    while text[below..next(below)].trim_start().starts_with('#') {
        below = next(below);
    }
    // A comment that a header follows is about that.
    let free = text[below..next(below)].trim().is_empty();
    start..if free { below } else { end }
}

/// The same with the comments close above it, and the empty lines between it and what was before.
fn table_cut(text: &str, table: &Range<usize>) -> Range<usize> {
    let Range { mut start, end } = rows(text, table);
    let above = |start: usize| {
        let before = text[..start].strip_suffix('\n')?;
        Some(before.rfind('\n').map_or(0, |at| at + 1))
    };
    while let Some(line) = above(start).filter(|&at| text[at..start].starts_with('#')) {
        start = line;
    }
    let is_empty = |rest: &str| rest.lines().next().is_none_or(|line| line.trim().is_empty());
    while is_empty(&text[end..])
        && let Some(line) = above(start).filter(|&at| text[at..start].trim().is_empty())
    {
        start = line;
    }
    start..end
}

/// An item of a list with the comma that only it needs.
fn inline_cut(text: &str, list: &Range<usize>, items: &[Range<usize>], at: usize) -> Range<usize> {
    match (items.get(at + 1), at.checked_sub(1)) {
        (Some(next), _) => items[at].start..next.start,
        (None, Some(before)) => items[before].end..items[at].end,
        (None, None) => {
            let rest = &text[items[at].end..list.end];
            items[at].start..items[at].end + trailing_comma(rest)
        }
    }
}

/// How far behind an item its comma ends; 0 without one.
fn trailing_comma(rest: &str) -> usize {
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or_default();
        if let Some(comma) = code.find(',') {
            return at + comma + 1;
        }
        at += line.len();
    }
    0
}

fn line_end(text: &str) -> &'static str {
    let first = text.find('\n').is_some_and(|at| text[..at].ends_with('\r'));
    if first { "\r\n" } else { "\n" }
}

fn whole(error: &ConfigError) -> ConfigError {
    ConfigError { position: None, ..error.clone() }
}

fn no_link(peer: &PeerName, links: &[Link]) -> String {
    let names: Vec<&str> = links.iter().map(|link| link.peer.as_str()).collect();
    match names.as_slice() {
        [] => format!("there is no link to {peer}: this peer has none"),
        names => format!("there is no link to {peer}: this peer has links to {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# Mine.\nname = \"a\"\nlisten = \"127.0.0.1:7000\" # here\n";

    fn file() -> &'static Path {
        Path::new("a.toml")
    }

    fn link(peer: &str) -> Link {
        let byte = peer.as_bytes()[0];
        Link {
            peer: PeerName::new(peer).expect("a name"),
            address: Some(format!("127.0.0.1:{}", 8_000 + u16::from(byte)).parse().expect("one")),
            capacity: Bandwidth::from_bps(25_000_000),
            key: crate::types::PublicKey([byte; 32]),
            mtu: limits::MTU_DEFAULT,
            hop_tag: None,
            by_trust: false,
        }
    }

    fn table(peer: &str) -> String {
        format!("[[link]]\n{}\n", pairs(&link(peer)).join("\n"))
    }

    fn added(text: &str, peer: &str) -> String {
        let (new, config) = add_link(file(), text, &link(peer)).expect(text);
        assert_eq!(config.links.last(), Some(&link(peer)), "{new}");
        new
    }

    fn removed(text: &str, peer: &str) -> String {
        let name = PeerName::new(peer).expect("a name");
        let (new, config) = remove_link(file(), text, &name).expect(text);
        assert!(config.links.iter().all(|link| link.peer != name), "{new}");
        new
    }

    #[test]
    fn a25_a_link_stands_behind_the_others_and_nothing_else_is_touched() {
        let service = "# Films.\n[service.video]\ndeliver = \"127.0.0.1:5004\"\n";
        let text = format!("{HEAD}\n# Berlin\n{}# fast\n\n{service}", table("b"));
        let new = added(&text, "c");
        let expected =
            format!("{HEAD}\n# Berlin\n{}# fast\n\n{}\n{service}", table("b"), table("c"));
        assert_eq!(new, expected);
        assert_eq!(removed(&new, "c"), text);
        let without = format!("{HEAD}\n{}\n{service}", table("c"));
        assert_eq!(removed(&new, "b"), without, "its comments go with it");
    }

    #[test]
    fn a25_a_file_without_links_gets_its_first_at_the_end() {
        for text in [HEAD.to_owned(), format!("{HEAD}[service.video]"), format!("{HEAD}\n\n")] {
            let new = added(&text, "b");
            assert!(
                new.starts_with(&text) && new.ends_with(&format!("\n\n{}", table("b"))),
                "{new}"
            );
            assert_eq!(removed(&new, "b").trim_end(), text.trim_end());
        }
    }

    #[test]
    fn a_comment_above_an_empty_line_is_about_more_than_one_link() {
        let text = format!("{HEAD}\n# --- Links ---\n\n{}\n{}", table("b"), table("c"));
        let new = removed(&text, "b");
        assert_eq!(new, format!("{HEAD}\n# --- Links ---\n\n{}", table("c")));
        assert_eq!(removed(&new, "c"), format!("{HEAD}\n# --- Links ---\n"));
    }

    #[test]
    fn line_ends_of_another_system_stay() {
        let text = format!("{HEAD}\n{}\n[service.video]\n", table("b")).replace('\n', "\r\n");
        let new = added(&text, "c");
        assert_eq!(new.matches('\n').count(), new.matches("\r\n").count());
        assert_eq!(removed(&new, "c"), text);
        let bare = removed(&text, "b");
        assert_eq!(bare, format!("{HEAD}\n[service.video]\n").replace('\n', "\r\n"));
    }

    #[test]
    fn a_list_of_inline_tables_stays_one() {
        let item = |peer: &str| format!("{{ {} }}", pairs(&link(peer)).join(", "));
        let (b, c) = (item("b"), item("c"));
        for (list, expected) in [
            ("[]".to_owned(), format!("[{c}]")),
            ("[ # none, yet\n]".to_owned(), format!("[{c} # none, yet\n]")),
            (format!("[{b}]"), format!("[{b}, {c}]")),
            (format!("[{b},]"), format!("[{b}, {c},]")),
            (format!("[\n  {b}, # ,Berlin\n]"), format!("[\n  {b},\n  {c}, # ,Berlin\n]")),
        ] {
            let new = added(&format!("{HEAD}link = {list}\n[host]\n"), "c");
            assert_eq!(new, format!("{HEAD}link = {expected}\n[host]\n"));
            assert_eq!(removed(&new, "c").contains("\"b\""), list.contains("\"b\""));
            if list.contains("\"b\"") {
                assert!(!removed(&removed(&new, "b"), "c").contains("peer"), "{new}");
            }
        }
    }

    #[test]
    fn a_trusted_peer_is_added_to_every_form_of_the_section_and_nothing_else_is_touched() {
        let trusted = |name: &str| Trusted {
            key: crate::types::PublicKey([name.as_bytes()[0]; 32]),
            name: PeerName::new(name).ok(),
            capacity: Some(Bandwidth::from_bps(5_000_000)),
        };
        let key = |byte: u8| crate::types::PublicKey([byte; 32]).to_string();
        let entry = |name: &str| {
            let key = trusted(name).key;
            format!("{{ key = \"{key}\", name = \"{name}\", capacity = \"5 Mbit/s\" }}")
        };
        let (b, c) = (entry("b"), entry("c"));
        let one = key(1);
        for (text, expected) in [
            ("".to_owned(), format!("\n[trust]\npeers = [\n  {c},\n]\n")),
            (
                "[trust] # mine\ncapacity = \"9 Mbit/s\"\n[host]\n".to_owned(),
                format!("[trust] # mine\npeers = [\n  {c},\n]\ncapacity = \"9 Mbit/s\"\n[host]\n"),
            ),
            ("[trust]".to_owned(), format!("[trust]\npeers = [\n  {c},\n]\n")),
            ("[trust]\npeers = []\n".to_owned(), format!("[trust]\npeers = [{c}]\n")),
            (
                format!("[trust]\npeers = [\"{one}\"] # a\n"),
                format!("[trust]\npeers = [\"{one}\", {c}] # a\n"),
            ),
            (
                format!("[trust]\npeers = [\n  # Berlin\n  {b}, # fast\n]\n"),
                format!("[trust]\npeers = [\n  # Berlin\n  {b},\n  {c}, # fast\n]\n"),
            ),
            ("trust = {}\n".to_owned(), format!("trust = {{ peers = [{c}] }}\n")),
            (
                "trust = { capacity = \"9 Mbit/s\" }\n".to_owned(),
                format!("trust = {{ peers = [{c}], capacity = \"9 Mbit/s\" }}\n"),
            ),
        ] {
            let before = format!("{HEAD}{text}");
            let (new, config) = add_trusted(file(), &before, &trusted("c")).expect(&before);
            assert_eq!(new, format!("{HEAD}{expected}"));
            assert_eq!(config.trust.peers.last(), Some(&trusted("c")));
        }
        let windows = format!("{HEAD}[trust]\npeers = [\n  {b},\n]\n").replace('\n', "\r\n");
        let (new, _) = add_trusted(file(), &windows, &trusted("c")).expect("added");
        assert_eq!(new.matches('\n').count(), new.matches("\r\n").count());
        let dotted =
            add_trusted(file(), &format!("{HEAD}trust.capacity = \"9 Mbit/s\"\n"), &trusted("c"));
        assert!(dotted.is_err() || dotted.is_ok_and(|(_, c)| c.trust.peers.len() == 1));
        let twice = add_trusted(file(), &format!("{HEAD}[trust]\npeers = [{c}]\n"), &trusted("c"));
        assert!(twice.expect_err("once").to_string().contains("once is enough"));
    }

    #[test]
    fn what_the_file_may_not_say_cannot_be_added_and_the_place_is_not_made_up() {
        let text = format!("{HEAD}\n{}", table("b"));
        let with = |change: fn(&mut Link)| {
            let mut link = link("c");
            change(&mut link);
            add_link(file(), &text, &link).expect_err("refused").to_string()
        };
        for (said, expected) in [
            (with(|link| link.peer = PeerName::new("a").expect("a name")), "this peer itself"),
            (with(|link| link.peer = PeerName::new("b").expect("a name")), "line 6 already"),
            (with(|link| link.key.0 = [b'b'; 32]), "line 9 already"),
            (with(|link| link.address = "127.0.0.1:8098".parse().ok()), "line 7 already"),
            (with(|link| link.address = "127.0.0.1:7000".parse().ok()), "this peer's own"),
            (with(|link| link.capacity = Bandwidth::from_bps(9)), "leaves nothing"),
            (with(|link| link.capacity = Bandwidth::ZERO), "is zero"),
            (with(|link| link.mtu = 9), "1280 to 65535"),
        ] {
            assert!(said.starts_with("a.toml: link.") && said.contains(expected), "{said}");
        }
        let name = PeerName::new("z").expect("a name");
        let unknown = remove_link(file(), &text, &name).expect_err("unknown").to_string();
        assert!(unknown.contains("no link to z") && unknown.contains("links to b"), "{unknown}");
        let broken = add_link(file(), &format!("{text}colour = 1\n"), &link("c"));
        assert!(
            broken.expect_err("by hand").position.is_some(),
            "a mistake in the file has a place"
        );
    }

    #[test]
    fn a_rate_is_written_as_it_is() {
        assert_eq!(rate(Bandwidth::from_bps(25_000_000)), "25 Mbit/s");
        assert_eq!(rate(Bandwidth::from_bps(1_234_567_891)), "1234567891 bit/s");
    }
}

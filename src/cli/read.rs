//! Commands that only look: one request, one table. `events` has a file of its own.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::open::path_text;
use super::screen::{CliError, Daemon, Fail, Style, show};
use super::send::about;
use super::table::{Table, wrap};
use super::values::millis;
use super::{ServicesArgs, Target, answer_time};
use crate::api::dto::{
    BudgetStatus, ChannelRow, EdgeRow, LinkRow, PeerRow, Request, ServiceRow, StatusReply,
    TreeReply, VerifyReply,
};
use crate::cli::drawing;
use crate::limits;
use crate::stats::DropReason;

pub(super) fn peers(target: &Target) -> Result<(), CliError> {
    let rows: Vec<PeerRow> = Daemon::of(target)?.ask(&Request::Peers)?;
    show(target, &rows, |rows, out, style| peers_text(rows, out, style))
}

fn peers_text(rows: &[PeerRow], out: &mut dyn Write, style: Style) -> io::Result<()> {
    let mut table =
        Table::new().elastic("PEER").column("STATE").elastic("NEXT HOP").number("DISTANCE");
    for row in rows {
        let distance = row.distance.map_or_else(dash, |hops| hops.to_string());
        let next_hop = row.next_hop.as_ref().map_or_else(dash, ToString::to_string);
        table.row(vec![row.name.to_string(), row.state.clone(), next_hop, distance]);
    }
    table.write(out, style)
}

pub(super) fn links(target: &Target) -> Result<(), CliError> {
    let rows: Vec<LinkRow> = Daemon::of(target)?.ask(&Request::Links)?;
    show(target, &rows, |rows, out, style| links_text(rows, out, style))
}

fn links_text(rows: &[LinkRow], out: &mut dyn Write, style: Style) -> io::Result<()> {
    let mut table = Table::new()
        .elastic("PEER")
        .column("STATE")
        .number("CAPACITY")
        .number("FREE OUT")
        .number("FREE IN")
        .column("TREE");
    for row in rows {
        table.row(vec![
            row.peer.to_string(),
            row.state.clone(),
            row.capacity_bps.to_string(),
            row.free_out_bps.to_string(),
            row.free_in_bps.to_string(),
            if row.tree { "yes".to_owned() } else { "no".to_owned() },
        ]);
        if row.by_trust {
            table.note("by trust".to_owned());
        }
        if let (Some(why), "down") = (&row.last_failure, row.state.as_str()) {
            table.note(format!("last: {why}"));
        }
    }
    table.write(out, style)
}

pub(super) fn tree(target: &Target) -> Result<(), CliError> {
    let daemon = Daemon::of(target)?;
    let reply: TreeReply = daemon.ask(&Request::Tree)?;
    if target.json {
        return show(target, &reply, |_, _, _| Ok(()));
    }
    let status: StatusReply = daemon.ask(&Request::Status)?;
    show(target, &reply, |reply, out, style| {
        for line in drawing::tree(reply, &status.name, style) {
            writeln!(out, "{line}")?;
        }
        let state = if reply.complete { "complete" } else { "a newer one is being computed" };
        match &reply.session {
            Some(session) => writeln!(
                out,
                "{} peers, {} edges, session {session}, {state}",
                reply.edges.len() + 1,
                reply.edges.len()
            ),
            None => writeln!(out, "no tree yet: the first computation is running"),
        }
    })
}

pub(super) fn channels(target: &Target) -> Result<(), CliError> {
    let rows: Vec<ChannelRow> = Daemon::of(target)?.ask(&Request::Channels)?;
    show(target, &rows, |rows, out, style| channels_text(rows, out, style))
}

fn channels_text(rows: &[ChannelRow], out: &mut dyn Write, style: Style) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no channels");
    }
    let mut table = Table::new()
        .elastic("CHANNEL")
        .column("ROLE")
        .column("STATE")
        .elastic("PEER/SERVICE")
        .number("RATE");
    for row in rows {
        table.row(vec![
            row.id.clone(),
            row.role.clone(),
            row.state.clone(),
            format!("{}/{}", row.peer, row.service),
            row.bandwidth_bps.to_string(),
        ]);
        channel_notes(row, &mut table);
    }
    table.write(out, style)
}

pub(super) fn status(target: &Target) -> Result<(), CliError> {
    let reply: StatusReply = Daemon::of(target)?.ask(&Request::Status)?;
    show(target, &reply, status_text)
}

pub(super) fn services(args: ServicesArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let request = Request::Services { peer: args.peer.clone() };
    let rows: Vec<ServiceRow> = daemon.ask_for(answer_time(limits::QUERY_DEADLINE), &request)?;
    show(&args.target, &rows, |rows, out, style| {
        if rows.is_empty() {
            return writeln!(out, "{} offers no services", args.peer);
        }
        let mut table = Table::new().elastic("SERVICE").column("SPEAKS FIRST").column("STATE");
        for row in rows {
            let first = if row.source { "the service" } else { "the opener" };
            let state = if row.busy { "busy" } else { "free" };
            table.row(vec![row.name.to_string(), first.to_owned(), state.to_owned()]);
        }
        table.write(out, style)
    })
}

pub(super) fn verify(target: &Target) -> Result<(), CliError> {
    let daemon = Daemon::of(target)?;
    let reply: VerifyReply =
        daemon.ask_for(answer_time(limits::QUERY_DEADLINE), &Request::Verify)?;
    show(target, &reply, verify_text)?;
    if reply.correct { Ok(()) } else { Err(CliError::said(Fail::Failure)) }
}

fn dash() -> String {
    "-".to_owned()
}

fn channel_notes(row: &ChannelRow, table: &mut Table) {
    table.note(format!("path {}", path_text(&row.path, 7)));
    let address = |address: Option<SocketAddr>| address.map_or_else(dash, |a| a.to_string());
    if row.name.as_str() != row.id {
        table.note(format!("name {}", row.name));
    }
    if row.listen.is_some() || row.deliver.is_some() {
        let (listen, deliver) = (address(row.listen), address(row.deliver));
        table.note(format!("listen {listen}, deliver {deliver}"));
    }
    match (&row.peer_key, row.role.as_str()) {
        (Some(_), "relay") => table.note("sealed, its payloads cannot be read here".to_owned()),
        (Some(key), _) => table.note(format!("sealed, the other end has key {key}")),
        (None, _) => table.note("not sealed, every relay can read its payloads".to_owned()),
    }
    let rates = [
        format!("payload {}", row.payload_bps),
        format!("back {}", row.bandwidth_back_bps),
        format!("sent {}", row.tx_frames),
        format!("received {}", row.rx_frames),
    ];
    table.note(wrap(&rates, ", ", 4));
    if !row.dropped.is_empty() {
        let drops: Vec<String> =
            row.dropped.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        table.note(format!("dropped {}", wrap(&drops, ", ", 10)));
    }
    if let (Some(offered), Some(entry)) = (row.offered_bps, row.entry_bps)
        && offered > entry
    {
        table.note(format!("now {} comes to its entry of {entry}", about(offered)));
    }
    if row.dropped.contains_key(DropReason::Policed.as_str()) {
        let instead = if row.shape { "" } else { ", or --shape" };
        table.note(format!(
            "more was sent than it was opened for: ask for a larger --bandwidth{instead}"
        ));
    }
}

fn status_text(reply: &StatusReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let uptime = Duration::from_millis(reply.uptime_ms).as_secs();
    let tree = match (&reply.session, reply.tree_complete) {
        (Some(session), true) => format!("session {session}, complete"),
        (Some(session), false) => format!("session {session}, a newer one is running"),
        (None, _) => "none yet".to_owned(),
    };
    writeln!(
        out,
        "{}, spanway {}, process {}",
        style.bold(reply.name.as_str()),
        reply.version,
        reply.pid
    )?;
    writeln!(out, "up        {uptime} s")?;
    writeln!(out, "key       {}", reply.key)?;
    writeln!(out, "listens   {}", reply.listen)?;
    let by_trust = match reply.links_by_trust {
        0 => String::new(),
        count => format!(", {count} by trust"),
    };
    writeln!(out, "links     {} of {} up{by_trust}", reply.links_up, reply.links)?;
    if reply.invitations > 0 {
        writeln!(
            out,
            "invited   {} newcomers; `spanway invitations` lists them",
            reply.invitations
        )?;
    }
    writeln!(out, "peers     {}", reply.peers)?;
    writeln!(out, "tree      {tree}")?;
    writeln!(out, "channels  {}", reply.channels)?;
    for (what, budget) in [("egress", &reply.egress), ("ingress", &reply.ingress)] {
        let Some(BudgetStatus { usable_bps, free_bps }) = budget else { continue };
        writeln!(out, "{what:<9} {free_bps} free of {usable_bps}, over all links together")?;
    }
    let why: Vec<String> = reply.backend_why.split(' ').map(str::to_owned).collect();
    writeln!(out, "frames    {}", reply.backend)?;
    writeln!(out, "          {}", wrap(&why, " ", 10))?;
    control_text(reply, out)?;
    let mut table = Table::new()
        .number("PORT")
        .number("CPU")
        .number("BUFFER")
        .number("DATAGRAMS")
        .number("BATCHES")
        .number("DROPPED");
    for worker in &reply.workers {
        table.row(vec![
            worker.port.to_string(),
            worker.cpu.map_or_else(dash, |cpu| cpu.to_string()),
            format!("{} KiB", worker.receive_buffer_bytes / 1024),
            worker.datagrams.to_string(),
            worker.batches.to_string(),
            worker.dropped.values().sum::<u64>().to_string(),
        ]);
    }
    table.write(out, style)?;
    for warning in &reply.warnings {
        let words: Vec<String> = warning.split(' ').map(str::to_owned).collect();
        writeln!(out, "{} {}", style.red("warning:"), wrap(&words, " ", 9))?;
    }
    Ok(())
}

fn control_text(reply: &StatusReply, out: &mut dyn Write) -> io::Result<()> {
    let cpus = cpu_ranges(&reply.control.cpus);
    let beside = if reply.control.shared { ", beside a worker" } else { "" };
    writeln!(out, "control   {} on CPU {}{beside}", reply.runtime, wrap(&cpus, ", ", 10))?;
    let longest = millis(reply.control.longest_piece_us);
    writeln!(out, "          longest piece of work {longest} ms")?;
    let handshakes = reply.control.handshakes.iter();
    let refused = handshakes.filter(|(result, _)| result.starts_with("refused"));
    let refused: u64 = refused.map(|(_, count)| count).sum();
    if refused > 0 {
        writeln!(out, "          {refused} connections of strangers not answered: too many")?;
    }
    Ok(())
}

/// Ascending numbers with their runs drawn together: `0-3`, `6`.
fn cpu_ranges(cpus: &[usize]) -> Vec<String> {
    let runs = cpus.chunk_by(|one, next| one + 1 == *next);
    runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run.iter().map(ToString::to_string).collect(),
    })
    .collect()
}

fn verify_text(reply: &VerifyReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let VerifyReply { peers, links, .. } = reply;
    if reply.correct {
        return writeln!(
            out,
            "{}: the tree of {peers} peers is the maximum spanning tree of their {links} links",
            style.green("true")
        );
    }
    writeln!(out, "{}: {peers} peers, {links} links", style.red("false"))?;
    let edge = |edge: &EdgeRow| format!("{} - {} ({})", edge.a, edge.b, edge.capacity_bps);
    for missing in &reply.missing {
        writeln!(out, "  missing: {}", edge(missing))?;
    }
    for surplus in &reply.surplus {
        writeln!(out, "  surplus: {}", edge(surplus))?;
    }
    for contradiction in &reply.contradictions {
        writeln!(out, "  {contradiction}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::fixtures;
    use crate::cli::screen::fitted;
    use crate::types::Bandwidth;

    const LARGE: u64 = 123_456_789_012_345_678;

    /// Narrow and whole.
    fn both(text: impl Fn(&mut dyn Write, Style) -> io::Result<()>) -> (String, String) {
        let of = |wide| {
            let text = fitted(Style { colour: false, wide }, &text);
            String::from_utf8(text.expect("written")).expect("text")
        };
        (of(false), of(true))
    }

    fn fits(what: &str, text: impl Fn(&mut dyn Write, Style) -> io::Result<()>) {
        let (narrow, wide) = both(text);
        let long = narrow.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None, "{what}:\n{narrow}");
        assert!(narrow.contains('…'), "{what} is shortened:\n{narrow}");
        assert!(wide.contains(&"n".repeat(63)) && !wide.contains('…'), "{what}:\n{wide}");
    }

    #[test]
    fn every_table_fits_eighty_columns_and_has_everything_if_it_may_be_wide() {
        let long: crate::types::PeerName = "n".repeat(63).parse().expect("a name");
        let peer = PeerRow {
            name: long.clone(),
            state: "unreachable".to_owned(),
            next_hop: Some(long.clone()),
            distance: Some(63),
        };
        fits("peers", |out, style| peers_text(std::slice::from_ref(&peer), out, style));
        let link = LinkRow {
            peer: long.clone(),
            capacity_bps: Bandwidth::from_bps(LARGE),
            free_out_bps: Bandwidth::from_bps(LARGE),
            free_in_bps: Bandwidth::from_bps(LARGE),
            last_failure: Some(format!("198.18.0.1:7000: {}", "it was refused ".repeat(9))),
            ..fixtures::link("down")
        };
        fits("links", |out, style| links_text(std::slice::from_ref(&link), out, style));
        let mut channel = fixtures::channel("film");
        channel.id = format!("{long}:0123456789abcdef:4294967295");
        (channel.peer, channel.path) = (long.clone(), vec![long.clone(); 9]);
        (channel.tx_frames, channel.rx_frames) = (LARGE, LARGE);
        channel.dropped = BTreeMap::from([("foreign_sender".to_owned(), LARGE)]);
        fits("channels", |out, style| channels_text(std::slice::from_ref(&channel), out, style));
        let mut status = fixtures::status();
        status.name = long;
        status.key = "0".repeat(64);
        status.workers[0].datagrams = LARGE;
        status.workers[0].batches = LARGE;
        status.warnings = vec!["look ".repeat(40)];
        status.backend_why = "because ".repeat(20);
        fits("status", |out, style| status_text(&status, out, style));
    }

    #[test]
    fn cpus_are_shown_as_ranges() {
        assert_eq!(cpu_ranges(&[0, 1, 2, 3, 6, 8, 9]), ["0-3", "6", "8-9"]);
        assert!(cpu_ranges(&[]).is_empty());
    }
}

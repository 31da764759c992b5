//! `queue`: the requests of a peer that wait for room, and what each waits for.

use std::io::{self, Write};
use std::time::Duration;

use super::Target;
use super::open::path_text;
use super::screen::{CliError, Daemon, Style, show};
use crate::api::dto::{QueueRow, Request, ShortRow};

pub(super) fn queue(target: &Target) -> Result<(), CliError> {
    let rows: Vec<QueueRow> = Daemon::of(target)?.ask(&Request::Queue)?;
    // Sentences, no table: none is cut.
    show(&Target { wide: true, ..target.clone() }, &rows, |rows, out, style| {
        if rows.is_empty() {
            return writeln!(out, "nothing waits");
        }
        rows.iter().try_for_each(|row| request(row, out, style))
    })
}

fn request(row: &QueueRow, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let QueueRow { id, name, peer, service, bandwidth_bps, position, waited_ms, left_ms, .. } = row;
    let seconds = |ms: &u64| Duration::from_millis(*ms).as_secs();
    writeln!(
        out,
        "{} {name}: {bandwidth_bps} to {peer}/{service}, position {position}",
        style.bold(id)
    )?;
    let (waited, left) = (seconds(waited_ms), seconds(left_ms));
    writeln!(out, "  waits    for {waited} s, {left} s left")?;
    writeln!(out, "  path     {}", path_text(&row.path, 11))?;
    row.short.iter().try_for_each(|short| blocked(short, out))
}

fn blocked(short: &ShortRow, out: &mut dyn Write) -> io::Result<()> {
    let ShortRow { at, towards, budget, asked_bps, free_bps, ahead, before, holders } = short;
    let of = match (towards, budget) {
        (Some(far), _) => format!("{at} - {far}"),
        (None, budget) => format!("{} of {at}", budget.as_deref().unwrap_or("the host")),
    };
    writeln!(out, "  short    {of}: {free_bps} free, {asked_bps} asked")?;
    if let Some(before) = before {
        writeln!(out, "           {ahead} in line before it, the last of them {before}")?;
    }
    if !holders.is_empty() {
        writeln!(out, "           held by {}", holders.join(", "))?;
    }
    Ok(())
}

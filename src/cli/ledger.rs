//! `spanway channels --ledger`: every frame of this peer in one counter, and whether that adds up.
//!
//! A frame between two counters while they are read is no mistake: the daemon is asked again. Only what
//! stays missing while nothing comes is one, and ends with exit code 1.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use super::screen::{CliError, Daemon, Fail, Style, show};
use super::table::{Table, wrap};
use super::{Target, clock};
use crate::api::dto::{LedgerReply, Request};

/// Readings before a frame is called missing, and the time between two: far longer than a batch.
const READINGS: usize = 5;
const READING_INTERVAL: Duration = Duration::from_millis(50);

pub(super) fn ledger(target: &Target) -> Result<(), CliError> {
    let daemon = Daemon::of(target)?;
    let mut reply: LedgerReply = daemon.ask(&Request::Ledger)?;
    let mut missing = BTreeMap::new();
    for _ in 1..READINGS {
        if reply.adds_up {
            break;
        }
        clock::sleep(READING_INTERVAL);
        let later: LedgerReply = daemon.ask(&Request::Ledger)?;
        missing = stays_missing(&reply, &later);
        reply = later;
    }
    reply.adds_up |= missing.is_empty();
    show(target, &reply, |reply, out, style| text(reply, &missing, out, style))?;
    if reply.adds_up { Ok(()) } else { Err(CliError::said(Fail::Failure)) }
}

/// Frames in no counter in both readings, by where, if nothing came between the two.
fn stays_missing(earlier: &LedgerReply, later: &LedgerReply) -> BTreeMap<String, i64> {
    let places = |reply: &LedgerReply| -> BTreeMap<String, (u64, i64)> {
        let channels = reply.channels.iter();
        let channels =
            channels.map(|row| (row.id.clone(), row.entered + row.received, row.in_flight));
        let workers = reply.workers.iter();
        let workers = workers.map(|w| {
            (format!("port {}", w.port), w.arrived - w.heartbeats - w.probes, w.in_flight)
        });
        channels.chain(workers).map(|(place, came, missing)| (place, (came, missing))).collect()
    };
    let before = places(earlier);
    let same = places(later).into_iter().filter(|(place, now)| before.get(place) == Some(now));
    same.map(|(place, (_, missing))| (place, missing))
        .filter(|(_, missing)| *missing != 0)
        .collect()
}

fn text(
    reply: &LedgerReply,
    missing: &BTreeMap<String, i64>,
    out: &mut dyn Write,
    style: Style,
) -> io::Result<()> {
    let mut table = Table::new()
        .elastic("CHANNEL")
        .number("ENTERED")
        .number("RECEIVED")
        .number("SENT")
        .number("DELIVERED")
        .number("DROPPED")
        .number("IN FLIGHT");
    for row in &reply.channels {
        let counts = [row.entered, row.received, row.sent, row.delivered, sum(&row.dropped)];
        let counts = counts.iter().map(ToString::to_string);
        let cells = std::iter::once(row.id.clone()).chain(counts);
        table.row(cells.chain([row.in_flight.to_string()]).collect());
        note_drops(&row.dropped, &mut table);
    }
    if reply.channels.is_empty() {
        writeln!(out, "no channels")?;
    } else {
        table.write(out, style)?;
    }
    let mut table = Table::new()
        .column("PORT")
        .number("ARRIVED")
        .number("OF CHANNELS")
        .number("HEARTBEATS")
        .number("PROBES")
        .number("DROPPED")
        .number("IN FLIGHT");
    for worker in &reply.workers {
        table.row(vec![
            worker.port.to_string(),
            worker.arrived.to_string(),
            worker.frames.to_string(),
            worker.heartbeats.to_string(),
            worker.probes.to_string(),
            sum(&worker.dropped).to_string(),
            worker.in_flight.to_string(),
        ]);
        note_drops(&worker.dropped, &mut table);
    }
    table.write(out, style)?;
    for (place, frames) in missing {
        writeln!(out, "{} {place}: {}", style.red("does not add up:"), said(*frames))?;
    }
    if missing.is_empty() {
        writeln!(out, "{}: every frame is in one counter", style.green("adds up"))?;
    }
    Ok(())
}

fn said(missing: i64) -> String {
    match missing {
        frames if frames > 0 => format!("{frames} frames came and are in no counter"),
        frames => format!("{} frames more than came were counted", frames.unsigned_abs()),
    }
}

fn sum(dropped: &BTreeMap<String, u64>) -> u64 {
    dropped.values().sum()
}

/// One line a reason.
fn note_drops(dropped: &BTreeMap<String, u64>, table: &mut Table) {
    let drops: Vec<String> =
        dropped.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if !drops.is_empty() {
        table.note(format!("dropped {}", wrap(&drops, ", ", 10)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::{LedgerRow, LedgerWorker};

    fn reply(entered: u64, in_flight: i64) -> LedgerReply {
        let dropped = BTreeMap::from([("policed".to_owned(), 2)]);
        let row = LedgerRow {
            id: "a:1:1".to_owned(),
            entered,
            received: 0,
            sent: 0,
            delivered: 0,
            dropped: dropped.clone(),
            in_flight,
        };
        let worker = LedgerWorker {
            port: 7_000,
            arrived: entered,
            frames: entered,
            heartbeats: 0,
            probes: 0,
            dropped,
            in_flight: 0,
        };
        let peer = "a".parse().expect("a name");
        LedgerReply { peer, adds_up: false, channels: vec![row], workers: vec![worker] }
    }

    fn shown(reply: &LedgerReply, missing: &BTreeMap<String, i64>) -> String {
        let mut out = Vec::new();
        text(reply, missing, &mut out, Style { colour: false, wide: false }).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn only_what_stays_missing_while_nothing_comes_is_missing() {
        assert_eq!(stays_missing(&reply(9, 3), &reply(10, 3)), BTreeMap::new());
        assert_eq!(stays_missing(&reply(9, 3), &reply(9, 0)), BTreeMap::new());
        let missing = stays_missing(&reply(9, 3), &reply(9, 3));
        assert_eq!(missing, BTreeMap::from([("a:1:1".to_owned(), 3)]));
        let text = shown(&reply(9, 3), &missing);
        assert!(text.contains("does not add up: a:1:1: 3 frames came"), "{text}");
        assert!(!text.contains("adds up:"), "{text}");
        assert!(said(-2).starts_with("2 frames more"), "{}", said(-2));
    }

    #[test]
    fn the_ledger_fits_a_terminal_and_names_what_was_dropped() {
        let mut reply = reply(18_000_000_000, 0);
        reply.channels[0].id = "a-peer-with-a-rather-long-name:1795261205:12".to_owned();
        let text = shown(&reply, &BTreeMap::new());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("dropped policed 2") && text.contains("adds up"), "{text}");
    }
}

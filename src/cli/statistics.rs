//! `spanway statistics`: what the control lane of a peer has counted since its start.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::Target;
use super::screen::{CliError, Daemon, Style, show};
use super::table::{Table, wrap};
use super::values::millis;
use crate::api::dto::{Distribution, Request, StatisticsReply};

pub(super) fn statistics(target: &Target) -> Result<(), CliError> {
    let reply: StatisticsReply = Daemon::of(target)?.ask(&Request::Statistics)?;
    show(target, &reply, text)
}

fn text(reply: &StatisticsReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let StatisticsReply { peer, uptime_ms, frames, recoveries, answers, sessions, .. } = reply;
    writeln!(out, "{}", style.bold(peer.as_str()))?;
    writeln!(out, "up          {} s", uptime_ms / 1_000)?;
    let (entered, received) = (frames.entered, frames.received);
    writeln!(out, "frames      {entered} entered, {received} received")?;
    writeln!(out, "            {} sent, {} delivered", frames.sent, frames.delivered)?;
    if !frames.dropped.is_empty() {
        writeln!(out, "  dropped   {}", wrap(&counts(&frames.dropped), ", ", 12))?;
    }
    writeln!(
        out,
        "recoveries  {} after a break, {} without one, {} failed",
        recoveries.moved, recoveries.seamless, recoveries.broken
    )?;
    if recoveries.protected > 0 {
        writeln!(out, "  at once   {} by a path that stood by", recoveries.protected)?;
    }
    if let Some(line) = percentiles(&recoveries.gap_us, &|us| format!("{} ms", millis(us))) {
        writeln!(out, "  gap       {line}")?;
    }
    let rejected: u64 = answers.rejected.values().sum();
    let (open, queued) = (answers.open, answers.queued);
    writeln!(out, "answers     {open} open, {rejected} rejected; {queued} stood in line for room")?;
    if !answers.rejected.is_empty() {
        writeln!(out, "  because   {}", wrap(&counts(&answers.rejected), ", ", 12))?;
    }
    let forbidden: u64 = reply.forbidden.values().sum();
    if forbidden > 0 {
        writeln!(
            out,
            "forbidden   {forbidden} requests of others; `spanway allow` says by which rule"
        )?;
    }
    if let Some(line) = percentiles(&answers.waited_ms, &|ms| format!("{ms} ms")) {
        writeln!(out, "  in line   {line}")?;
    }
    writeln!(
        out,
        "sessions    {} started here, {} adopted, {} committed",
        sessions.started, sessions.adopted, sessions.committed
    )?;
    let amiss = [
        ("START refused", sessions.refused),
        ("START delayed", sessions.coalesced),
        ("not in time", sessions.watchdog),
        ("wrong trees", sessions.alarms),
    ];
    let amiss: Vec<String> = amiss
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    if !amiss.is_empty() {
        writeln!(out, "  of note   {}", wrap(&amiss, ", ", 12))?;
    }
    let mut table = Table::new().column("CONTROL MESSAGE").number("RECEIVED").number("SENT");
    let names = reply.messages_received.keys().chain(reply.messages_sent.keys());
    for name in names.collect::<BTreeSet<_>>() {
        let count = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
        table.row(vec![
            name.clone(),
            count(&reply.messages_received).to_string(),
            count(&reply.messages_sent).to_string(),
        ]);
    }
    table.write(out, style)
}

fn counts(counts: &BTreeMap<String, u64>) -> Vec<String> {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect()
}

/// Nothing if nothing was counted.
fn percentiles(seen: &Distribution, shown: &dyn Fn(u64) -> String) -> Option<String> {
    let part = |name: &str, value: Option<u64>| Some(format!("{name} {}", shown(value?)));
    let parts = [part("p50", seen.p50)?, part("p99", seen.p99)?, part("max", seen.max)?];
    Some(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::{Answers, FrameTotals, Recoveries, SessionCounts};
    use crate::types::PeerName;

    #[test]
    fn statistics_fit_eighty_columns_whatever_was_counted() {
        let seen = Distribution {
            count: 9,
            min: Some(0),
            p50: Some(u64::from(u32::MAX)),
            p90: Some(u64::from(u32::MAX)),
            p99: Some(u64::from(u32::MAX)),
            p999: Some(u64::from(u32::MAX)),
            max: Some(u64::from(u32::MAX)),
            buckets: Vec::new(),
        };
        let mut reply = StatisticsReply {
            peer: PeerName::new(&"p".repeat(63)).expect("a name"),
            uptime_ms: u64::from(u32::MAX),
            frames: FrameTotals::default(),
            channels: BTreeMap::new(),
            waiting: 0,
            unproven: 0,
            recoveries: Recoveries::default(),
            answers: Answers::default(),
            forbidden: BTreeMap::from([("rate".to_owned(), 3)]),
            sessions: SessionCounts::default(),
            messages_received: BTreeMap::new(),
            messages_sent: BTreeMap::new(),
        };
        let full = |reply: &StatisticsReply| {
            let mut out = Vec::new();
            text(reply, &mut out, Style { colour: false, wide: false }).expect("a vector takes it");
            String::from_utf8(out).expect("text")
        };
        assert!(!full(&reply).contains("gap"), "nothing was counted");
        let many = 9_999_999;
        (reply.frames.entered, reply.frames.received) = (u64::MAX, u64::MAX);
        (reply.frames.sent, reply.frames.delivered) = (u64::MAX, u64::MAX);
        for reason in crate::stats::DropReason::ALL {
            reply.frames.dropped.insert(reason.as_str().to_owned(), many);
        }
        reply.recoveries.gap_us = seen.clone();
        reply.answers.waited_ms = seen;
        (reply.recoveries.moved, reply.recoveries.protected) = (99_999, 99_999);
        for reason in crate::types::Reject::ALL {
            reply.answers.rejected.insert(reason.as_str().to_owned(), many);
        }
        (reply.sessions.started, reply.sessions.adopted) = (many, many);
        (reply.sessions.refused, reply.sessions.watchdog) = (many, many);
        reply.messages_sent.insert("finish_ack".to_owned(), u64::MAX);
        let text = full(&reply);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for part in ["gap       p50 4294967.29 ms", "no_room 9999999", "finish_ack"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}

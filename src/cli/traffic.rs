//! What `spanway forward` has moved: a reading of its counters, and the same as JSON and as text.
//!
//! A reading sums over the workers. They count on while it is taken, so received may be ahead of sent
//! and drops by a batch; once they have stopped every datagram is accounted for.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

use super::screen::Style;
use crate::stats::{ChannelStats, DropReason, ProxyStats, WorkerStats};

/// All counters at one time, since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Reading {
    uptime_ms: u64,
    /// Now, and ever.
    clients: u64,
    clients_total: u64,
    to_server: Side,
    to_clients: Side,
    /// Calls to the kernel's sockets that carried them: each moves one datagram or many.
    receives: u64,
    sends: u64,
    workers: Vec<WorkerReading>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct WorkerReading {
    datagrams: u64,
    /// Waits that ended with datagrams.
    wakeups: u64,
    /// How it waits at this moment.
    wait: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Side {
    received: u64,
    received_bytes: u64,
    sent: u64,
    sent_bytes: u64,
    dropped: BTreeMap<&'static str, u64>,
}

/// What happened between two readings, each second.
#[derive(Clone, Debug, Serialize)]
struct Rates {
    to_server: SideRates,
    to_clients: SideRates,
}

#[derive(Clone, Debug, Serialize)]
struct SideRates {
    received_per_s: u64,
    sent_per_s: u64,
    /// UDP payload.
    sent_bps: u64,
    dropped_per_s: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    reading: &'a Reading,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
}

impl Reading {
    pub(super) fn of<'a>(
        uptime: Duration,
        workers: impl Iterator<Item = (&'a WorkerStats, &'a ProxyStats)>,
    ) -> Self {
        let uptime_ms = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        let mut all = Self { uptime_ms, ..Self::default() };
        for (worker, proxy) in workers {
            all.to_server.add(&proxy.to_server);
            all.to_clients.add(&proxy.to_clients);
            // Those that went first: never more than came.
            let expired = proxy.expired.load(Relaxed);
            let admitted = proxy.admitted.load(Relaxed);
            all.clients += admitted.saturating_sub(expired);
            all.clients_total += admitted;
            all.receives += worker.receives.load(Relaxed);
            all.sends += worker.sends.load(Relaxed);
            all.workers.push(WorkerReading {
                datagrams: worker.datagrams.load(Relaxed),
                wakeups: worker.wakeups.load(Relaxed),
                wait: worker.wait_mode().as_str(),
            });
        }
        all
    }

    /// One line of JSON: what happened since `before`.
    pub(super) fn json_since(&self, before: &Self) -> serde_json::Result<String> {
        let rates = Some(self.rates(before));
        serde_json::to_string(&Line { event: "stats", reading: self, rates })
    }

    /// One line of JSON: all there was.
    pub(super) fn json_summary(&self) -> serde_json::Result<String> {
        serde_json::to_string(&Line { event: "summary", reading: self, rates: None })
    }

    /// One line for people.
    pub(super) fn line_since(&self, before: &Self, style: Style) -> String {
        let rates = self.rates(before);
        let side = |name: &str, rates: &SideRates| {
            let (datagrams, bits) = (thousands(rates.sent_per_s), megabits(rates.sent_bps));
            let dropped = match rates.dropped_per_s {
                0 => String::new(),
                count => style.red(&format!(" -{}/s", thousands(count))),
            };
            format!("{} {datagrams}/s {bits}{dropped}", style.dim(name))
        };
        let mut line = format!(
            "{:>6} s  {} {}  {}  {}",
            self.uptime_ms / 1_000,
            style.dim("clients"),
            self.clients,
            side("to server", &rates.to_server),
            side("to clients", &rates.to_clients),
        );
        let mut drops = self.to_server.dropped.clone();
        for (reason, count) in &self.to_clients.dropped {
            *drops.entry(reason).or_default() += count;
        }
        for (reason, count) in drops {
            line.push_str(&format!("  {reason} {}", thousands(count)));
        }
        line
    }

    /// The end of the run for people.
    pub(super) fn write_summary(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let (seconds, tenths) = (self.uptime_ms / 1_000, self.uptime_ms / 100 % 10);
        let total = thousands(self.clients_total);
        writeln!(out, "{}: {total} clients in {seconds}.{tenths} s", style.bold("forwarded"))?;
        for (name, side) in [("to server", &self.to_server), ("to clients", &self.to_clients)] {
            let dropped: u64 = side.dropped.values().sum();
            let (received, sent) = (thousands(side.received), thousands(side.sent));
            writeln!(out, "  {name:<10}  in {received} = out {sent} + dropped {dropped}")?;
            for (reason, count) in &side.dropped {
                writeln!(out, "    {reason} {}", thousands(*count))?;
            }
        }
        Ok(())
    }

    fn rates(&self, before: &Self) -> Rates {
        let ms = self.uptime_ms.saturating_sub(before.uptime_ms).max(1);
        Rates {
            to_server: self.to_server.rates(&before.to_server, ms),
            to_clients: self.to_clients.rates(&before.to_clients, ms),
        }
    }
}

impl Side {
    fn add(&mut self, stats: &ChannelStats) {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        // What leaves before what came: a datagram is never seen out and not in.
        self.sent_bytes += load(&stats.bytes_out);
        self.sent += load(&stats.delivered);
        for &reason in DropReason::ALL {
            let count = stats.dropped(reason);
            if count > 0 {
                *self.dropped.entry(reason.as_str()).or_default() += count;
            }
        }
        self.received_bytes += load(&stats.bytes_in);
        self.received += load(&stats.entered);
    }

    fn rates(&self, before: &Self, ms: u64) -> SideRates {
        let per_s = |now: u64, before: u64| {
            let many = u128::from(now.saturating_sub(before)) * 1_000 / u128::from(ms);
            u64::try_from(many).unwrap_or(u64::MAX)
        };
        let dropped = |side: &Self| side.dropped.values().sum();
        SideRates {
            received_per_s: per_s(self.received, before.received),
            sent_per_s: per_s(self.sent, before.sent),
            sent_bps: per_s(self.sent_bytes, before.sent_bytes).saturating_mul(8),
            dropped_per_s: per_s(dropped(self), dropped(before)),
        }
    }
}

/// `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 Mbit/s`.
fn megabits(bps: u64) -> String {
    format!("{}.{} Mbit/s", thousands(bps / 1_000_000), bps / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::bump;

    fn reading(uptime_ms: u64, to_server: u64) -> Reading {
        let (worker, proxy) = (WorkerStats::default(), ProxyStats::default());
        bump(&proxy.admitted, 3);
        bump(&proxy.expired, 1);
        bump(&proxy.to_server.entered, to_server + 5);
        bump(&proxy.to_server.bytes_in, (to_server + 5) * 100);
        bump(&proxy.to_server.delivered, to_server);
        bump(&proxy.to_server.bytes_out, to_server * 100);
        proxy.to_server.drop_frames(DropReason::ClientLimit, 5);
        proxy.to_clients.drop_frames(DropReason::ForeignAnswer, 2);
        bump(&proxy.to_clients.entered, 2);
        Reading::of(Duration::from_millis(uptime_ms), [(&worker, &proxy)].into_iter())
    }

    #[test]
    fn rates_are_what_happened_in_between() {
        let (before, now) = (reading(1_000, 10_000), reading(3_000, 2_010_000));
        let json: serde_json::Value =
            serde_json::from_str(&now.json_since(&before).unwrap()).unwrap();
        assert_eq!(json["event"], "stats");
        assert_eq!(json["clients"], 2);
        assert_eq!(json["clients_total"], 3);
        assert_eq!(json["to_server"]["sent"], 2_010_000);
        assert_eq!(json["to_server"]["dropped"]["client_limit"], 5);
        assert_eq!(json["rates"]["to_server"]["sent_per_s"], 1_000_000);
        assert_eq!(json["rates"]["to_server"]["sent_bps"], 800_000_000);
        assert_eq!(json["rates"]["to_clients"]["sent_per_s"], 0);
        let line = now.line_since(&before, Style { colour: false, wide: false });
        assert_eq!(
            line,
            "     3 s  clients 2  to server 1,000,000/s 800.0 Mbit/s  to clients 0/s 0.0 Mbit/s  \
             client_limit 5  foreign_answer 2"
        );
    }

    #[test]
    fn the_summary_accounts_for_every_datagram() {
        let mut out = Vec::new();
        reading(12_345, 1_000)
            .write_summary(&mut out, Style { colour: false, wide: false })
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "forwarded: 3 clients in 12.3 s\n  \
             to server   in 1,005 = out 1,000 + dropped 5\n    client_limit 5\n  \
             to clients  in 2 = out 0 + dropped 2\n    foreign_answer 2\n"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")]
        {
            assert_eq!(thousands(number), text);
        }
    }
}

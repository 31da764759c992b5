//! What `top` shows: two readings and what keys chose become lines with rates. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::dto::{ChannelRow, LaneTimes, LinkRow, RelayTimes, StatusReply};
use crate::types::Bandwidth;

/// Everything a daemon said at one time.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Since the start of the command.
    pub(super) at: Duration,
    pub(super) status: StatusReply,
    pub(super) channels: Vec<ChannelRow>,
    pub(super) links: Vec<LinkRow>,
    pub(super) times: RelayTimes,
    /// p50 and p99 of the one-way times in microseconds, by channel.
    pub(super) latencies: BTreeMap<String, (Option<u64>, Option<u64>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Sort,
    Reverse,
    Up,
    Down,
}

/// By what channels are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Name,
    Out,
    In,
    Drops,
    P99,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Name, Self::Out, Self::In, Self::Drops, Self::P99];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Out => "out",
            Self::In => "in",
            Self::Drops => "drops",
            Self::P99 => "p99",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// A channel; rates are frames a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChannelLine {
    pub(super) name: String,
    pub(super) to: String,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) bandwidth: Bandwidth,
    pub(super) out: u64,
    pub(super) inward: u64,
    pub(super) drops: u64,
    pub(super) p50_us: Option<u64>,
    pub(super) p99_us: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DropLine {
    pub(super) reason: String,
    pub(super) rate: u64,
    pub(super) total: u64,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) colour: bool,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    /// Channels above the first one that is shown.
    pub(super) scroll: usize,
    /// Why nothing new comes.
    pub(super) gone: Option<String>,
    before: Option<Reading>,
    now: Option<Reading>,
}

impl Model {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            colour,
            sort: Sort::Name,
            reversed: false,
            scroll: 0,
            gone: None,
            before: None,
            now: None,
        }
    }

    /// What the daemon said; without it the last reading stays, so that one sees what was.
    pub(super) fn update(&mut self, said: Result<Reading, String>) {
        match said {
            Err(why) => self.gone = Some(why),
            Ok(reading) => {
                // A daemon that was started again counts from zero.
                let same = |old: &Reading| old.status.pid == reading.status.pid;
                self.before = self.now.take().filter(same);
                self.now = Some(reading);
                self.gone = None;
            }
        }
    }

    pub(super) fn key(&mut self, key: Key) {
        match key {
            Key::Quit => {}
            Key::Sort => self.sort = self.sort.next(),
            Key::Reverse => self.reversed = !self.reversed,
            Key::Up => self.scroll = self.scroll.saturating_sub(1),
            Key::Down => self.scroll += 1,
        }
    }

    pub(super) fn status(&self) -> Option<&StatusReply> {
        self.now.as_ref().map(|now| &now.status)
    }

    pub(super) fn links(&self) -> &[LinkRow] {
        self.now.as_ref().map_or(&[], |now| &now.links)
    }

    pub(super) fn lanes(&self) -> &[LaneTimes] {
        self.now.as_ref().map_or(&[], |now| &now.times.lanes)
    }

    pub(super) fn channels(&self) -> Vec<ChannelLine> {
        let rows = self.now.iter().flat_map(|now| &now.channels);
        let mut lines: Vec<ChannelLine> = rows.map(|row| self.channel(row)).collect();
        lines.sort_by(|one, other| one.name.cmp(&other.name));
        match self.sort {
            Sort::Name => {}
            Sort::Out => lines.sort_by_key(|line| Reverse(line.out)),
            Sort::In => lines.sort_by_key(|line| Reverse(line.inward)),
            Sort::Drops => lines.sort_by_key(|line| Reverse(line.drops)),
            Sort::P99 => lines.sort_by_key(|line| Reverse(line.p99_us)),
        }
        if self.reversed {
            lines.reverse();
        }
        lines
    }

    fn channel(&self, row: &ChannelRow) -> ChannelLine {
        let old = self.before.as_ref();
        let old = old.and_then(|old| old.channels.iter().find(|old| old.id == row.id));
        let rate = |count: fn(&ChannelRow) -> u64| {
            old.map_or(0, |old| self.per_second(count(old), count(row)))
        };
        let latencies = self.now.as_ref().and_then(|now| now.latencies.get(&row.id));
        let (p50_us, p99_us) = latencies.copied().unwrap_or_default();
        ChannelLine {
            name: row.name.to_string(),
            to: format!("{}/{}", row.peer, row.service),
            role: row.role.clone(),
            state: row.state.clone(),
            bandwidth: row.bandwidth_bps,
            out: rate(|row| row.tx_frames),
            inward: rate(|row| row.rx_frames),
            drops: rate(|row| row.dropped.values().sum()),
            p50_us,
            p99_us,
        }
    }

    /// Of all channels and workers together, those that happen now first.
    pub(super) fn drops(&self) -> Vec<DropLine> {
        let sums = |reading: Option<&Reading>| {
            let mut sums: BTreeMap<String, u64> = BTreeMap::new();
            if let Some(reading) = reading {
                let channels = reading.channels.iter().map(|row| &row.dropped);
                let workers = reading.status.workers.iter().map(|worker| &worker.dropped);
                for (reason, count) in channels.chain(workers).flatten() {
                    *sums.entry(reason.clone()).or_default() += count;
                }
            }
            sums
        };
        let (before, now) = (sums(self.before.as_ref()), sums(self.now.as_ref()));
        let line = |(reason, total): (String, u64)| {
            let old = before.get(&reason).copied().unwrap_or_default();
            let known = self.before.is_some();
            let rate = if known { self.per_second(old, total) } else { 0 };
            DropLine { reason, rate, total }
        };
        let mut lines: Vec<DropLine> = now.into_iter().map(line).collect();
        lines.sort_by_key(|line| Reverse((line.rate, line.total)));
        lines
    }

    fn per_second(&self, before: u64, now: u64) -> u64 {
        let (Some(old), Some(new)) = (&self.before, &self.now) else { return 0 };
        let micros = new.at.saturating_sub(old.at).as_micros().max(1);
        let rate = u128::from(now.saturating_sub(before)) * 1_000_000 / micros;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

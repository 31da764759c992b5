//! What arrived: judged per flow by the checker, per channel by who it was for.
//!
//! Pure. A channel that is finished says how many frames it sent, so that what is missing at its end shows
//! too; without FINISH only gaps do. Bounded: channels above [`CHANNELS_MAX`] count, but are not listed.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use spanway::limits::CHANNELS_MAX;
use spanway::types::ChannelId;

use super::source::OPENING;
use super::table::EndId;
use crate::check::{Checker, FlowTotals, Totals, Verify};
use crate::latency::{Latency, LatencySummary};
use crate::payload::Header;

/// Digits of a channel's own histogram: 1 %, so that 10,000 of them are small.
const CHANNEL_DIGITS: u8 = 2;
/// A channel's own histogram counts longer times as this.
const MICROS_MAX: u64 = 60_000_000;
/// Where in a payload the bit stands that marks opening frames.
const TRIAL_AT: usize = 8;

/// A channel in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelTaken {
    pub channel: String,
    /// Which trial and flow used it, once a frame said so.
    pub trial: u32,
    pub flow: u32,
    /// The opening frame came.
    pub opening: bool,
    /// All frames, as they came.
    pub frames: u64,
    /// As the asker said with FINISH.
    pub sent: Option<u64>,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub closed: bool,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// Everything that arrived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Frames of the runs.
    pub totals: Totals,
    pub latency: LatencySummary,
    /// From the return of `open` to the arrival of the opening frame.
    pub first_frame: LatencySummary,
    pub opening_frames: u64,
    pub channels: u64,
    /// Channels that ended without FINISH, or have not ended.
    pub unfinished: u64,
    /// Frames of the finished channels, as their askers said.
    pub sent: u64,
    /// Missing, with what is missing behind the last that came.
    pub lost: u64,
    pub per_channel: Vec<ChannelTaken>,
}

#[derive(Debug)]
struct Channel {
    taken: ChannelTaken,
    latency: Histogram<u32>,
}

#[derive(Debug)]
pub(super) struct Arrivals {
    checker: Checker,
    first_frame: Latency,
    opening_frames: u64,
    opening_again: u64,
    opening_broken: u64,
    channels: Vec<Channel>,
    /// Which of them is at an end, by [`EndId::index`].
    open: Vec<Option<(EndId, usize)>>,
    unlisted: u64,
}

impl Arrivals {
    pub(super) fn new(verify: Verify) -> Self {
        Self {
            checker: Checker::new(verify),
            first_frame: Latency::new(),
            opening_frames: 0,
            opening_again: 0,
            opening_broken: 0,
            channels: Vec::new(),
            open: Vec::new(),
            unlisted: 0,
        }
    }

    pub(super) fn open(&mut self, end: EndId, channel: &ChannelId) {
        if self.channels.len() == CHANNELS_MAX {
            self.unlisted += 1;
            return;
        }
        let latency = Histogram::new(CHANNEL_DIGITS).expect("two digits are possible");
        let taken = ChannelTaken { channel: channel.to_string(), ..ChannelTaken::default() };
        self.channels.push(Channel { taken, latency });
        if self.open.len() <= end.index() {
            self.open.resize(end.index() + 1, None);
        }
        self.open[end.index()] = Some((end, self.channels.len() - 1));
    }

    pub(super) fn finished(&mut self, end: EndId, frames: u64) {
        if let Some(channel) = self.of(end) {
            channel.taken.sent = Some(frames);
        }
    }

    pub(super) fn closed(&mut self, end: EndId) {
        if let Some(channel) = self.of(end) {
            channel.taken.closed = true;
        }
        if let Some(open) = self.open.get_mut(end.index()) {
            open.take_if(|(whose, _)| *whose == end);
        }
    }

    /// A frame's payload, which came at this wall-clock time.
    pub(super) fn take(&mut self, end: EndId, now_ns: u64, payload: &[u8]) {
        let opening = payload.get(TRIAL_AT).is_some_and(|byte| byte & 0x80 != 0);
        let header = Header::parse(payload, false).ok();
        let mut again = false;
        if let Some(channel) = self.of(end) {
            channel.taken.frames += 1;
            if let Some(header) = header {
                channel.taken.trial = header.trial & !OPENING;
                channel.taken.flow = header.flow;
                again = opening && std::mem::replace(&mut channel.taken.opening, true);
                if !opening {
                    let micros = now_ns.saturating_sub(header.sent_ns) / 1_000;
                    let recorded = channel.latency.record(micros.min(MICROS_MAX));
                    recorded.expect("it grows, and its largest value is small");
                }
            }
        }
        match header {
            _ if !opening => self.checker.datagram(now_ns, payload),
            Some(_) if again => self.opening_again += 1,
            Some(header) => {
                self.opening_frames += 1;
                self.first_frame.record(header.sent_ns, now_ns);
            }
            None => self.opening_broken += 1,
        }
    }

    pub(super) fn results(&mut self) -> Taken {
        let flows: BTreeMap<(u32, u32), FlowTotals> =
            self.checker.flows().into_iter().map(|flow| ((flow.trial, flow.flow), flow)).collect();
        let mut totals = self.checker.totals();
        totals.duplicated += self.opening_again;
        totals.corrupted += self.opening_broken;
        let mut taken = Taken {
            latency: self.checker.latency(),
            first_frame: self.first_frame.summary(),
            opening_frames: self.opening_frames,
            channels: self.channels.len() as u64 + self.unlisted,
            unfinished: self.unlisted,
            ..Taken::default()
        };
        for channel in &self.channels {
            let row = row(channel, &flows);
            taken.unfinished += u64::from(row.sent.is_none());
            taken.sent += row.sent.unwrap_or(0);
            taken.lost += row.lost;
            taken.per_channel.push(row);
        }
        taken.totals = totals;
        taken
    }

    fn of(&mut self, end: EndId) -> Option<&mut Channel> {
        let (whose, at) = (*self.open.get(end.index())?)?;
        self.channels.get_mut(at).filter(|_| whose == end)
    }
}

fn row(channel: &Channel, flows: &BTreeMap<(u32, u32), FlowTotals>) -> ChannelTaken {
    let mut row = channel.taken.clone();
    let mut received = u64::from(row.opening);
    row.lost = u64::from(!row.opening && row.frames > 0);
    if let Some(flow) = flows.get(&(row.trial, row.flow)) {
        received += flow.received;
        row.lost += flow.lost;
        row.duplicated = flow.duplicated;
        row.reordered = flow.reordered;
    }
    if let Some(sent) = row.sent {
        row.lost = sent.saturating_sub(received);
    }
    row.p50_us = channel.latency.value_at_quantile(0.5);
    row.p99_us = channel.latency.value_at_quantile(0.99);
    row.max_us = channel.latency.max();
    row
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spanway::engine::seal::Seal;

    use super::super::table::{Table, samples};
    use super::*;
    use crate::payload::Train;

    fn payload(trial: u32, flow: u32, sequence: u64, sent_ns: u64) -> Vec<u8> {
        let mut train = Train::new(64, 1, 1);
        train.put(0, &Header { trial, flow, sequence, sent_ns });
        train.bytes(1).to_vec()
    }

    fn channel(arrivals: &mut Arrivals, table: &mut Table, count: u64) -> EndId {
        let channel = samples::channel(count);
        let end = table.add_end(channel.clone(), Seal::Plain, Arc::default());
        arrivals.open(end, &channel);
        end
    }

    #[test]
    fn what_is_missing_behind_the_last_frame_shows_once_the_channel_is_finished() {
        let (mut arrivals, mut table) = (Arrivals::new(Verify::All), Table::default());
        let end = channel(&mut arrivals, &mut table, 1);
        arrivals.take(end, 5_000, &payload(3 | OPENING, 0, 0, 1_000));
        for sequence in [0, 1, 3] {
            arrivals.take(end, 9_000_000, &payload(3, 0, sequence, 1_000_000));
        }
        let taken = arrivals.results();
        assert_eq!((taken.lost, taken.unfinished, taken.opening_frames), (1, 1, 1));
        arrivals.finished(end, 7);
        arrivals.closed(end);
        let taken = arrivals.results();
        assert_eq!((taken.sent, taken.lost, taken.unfinished), (7, 3, 0));
        assert_eq!((taken.first_frame.count, taken.first_frame.raw_min_ns), (1, 4_000));
        assert_eq!((taken.latency.count, taken.totals.received), (3, 3));
        let row = &taken.per_channel[0];
        assert_eq!((row.frames, row.flow, row.closed), (4, 0, true));
        assert!((8_000..8_080).contains(&row.max_us), "{}", row.max_us);
    }

    #[test]
    fn a_second_opening_frame_is_a_duplicate_and_a_damaged_one_is_corrupted() {
        let (mut arrivals, mut table) = (Arrivals::new(Verify::All), Table::default());
        let end = channel(&mut arrivals, &mut table, 1);
        let opening = payload(3 | OPENING, 0, 0, 1_000);
        let mut damaged = opening.clone();
        damaged[20] ^= 1;
        arrivals.take(end, 5_000, &damaged);
        arrivals.take(end, 5_000, &opening);
        arrivals.take(end, 5_000, &opening);
        let totals = arrivals.results().totals;
        assert_eq!((totals.duplicated, totals.corrupted), (1, 1));
    }

    #[test]
    fn channels_are_told_apart() {
        let (mut arrivals, mut table) = (Arrivals::new(Verify::All), Table::default());
        let ends: Vec<EndId> = (0..3).map(|n| channel(&mut arrivals, &mut table, n)).collect();
        for (flow, end) in (0..).zip(&ends) {
            arrivals.take(*end, 0, &payload(1 | OPENING, flow, 0, 0));
            arrivals.take(*end, 0, &payload(1, flow, 0, 0));
            arrivals.finished(*end, 2 + u64::from(flow == 2));
        }
        let taken = arrivals.results();
        let lost: Vec<u64> = taken.per_channel.iter().map(|row| row.lost).collect();
        assert_eq!((taken.channels, taken.sent, lost), (3, 7, vec![0, 0, 1]));
    }
}

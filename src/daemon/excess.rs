//! What programs send into channels of this peer above what was promised to them: noticed within a second,
//! told to those who watch at most once a second for each channel, with the rate to use.
//!
//! Reads the counters of the workers and compares them with those of a second ago; the frame path does
//! nothing for it. Knows the entries of this peer only: what a hop further on drops is in the ledger
//! there, and nothing that kept to its rate at the entry is dropped behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::api::dto::{EventLine, Excess};
use crate::daemon::control::{Control, unix_millis};
use crate::engine::shaper::PACKET_OVERHEAD_BYTES;
use crate::limits::{ENTRY_LOOK, ENTRY_TELL};
use crate::stats::{ChannelStats, DropReason};
use crate::types::{Bandwidth, Time};
use crate::wire::frame::OVERHEAD_BYTES;

/// Counters of one entry, as they were.
#[derive(Debug)]
pub(crate) struct Meter {
    /// At the two looks before.
    older: Option<Reading>,
    last: Reading,
    offered: Option<Bandwidth>,
    /// Since the last line, or the last look without a drop.
    fastest: Option<Came>,
    /// Something was dropped, of what did not look like too much.
    doubtful: bool,
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    at: Time,
    frames: u64,
    payload_bytes: u64,
    policed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    at: Time,
    policed: u64,
}

impl Reading {
    fn of(stats: &ChannelStats, at: Time) -> Self {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            at,
            frames: load(&stats.entered),
            payload_bytes: load(&stats.bytes_in),
            policed: stats.dropped(DropReason::Policed),
        }
    }
}

impl Meter {
    /// Of an entry that opens.
    pub(crate) fn new(now: Time) -> Self {
        let last = Reading { at: now, ..Reading::default() };
        Self { older: None, last, offered: None, fastest: None, doubtful: false, told: None }
    }

    /// What the program sent in the last second, as the policer counts it.
    pub(crate) fn offered(&self) -> Option<Bandwidth> {
        self.offered
    }

    /// One more look; what there is to tell of an entry with this rate.
    fn look(
        &mut self,
        stats: &ChannelStats,
        rate: Bandwidth,
        shape: bool,
        now: Time,
    ) -> Option<Excess> {
        if now.since(self.last.at) < ENTRY_LOOK / 2 {
            // It has just opened: too short for a rate.
            return None;
        }
        let (reading, last) = (Reading::of(stats, now), self.last);
        let older = self.older.unwrap_or(last);
        (self.older, self.last) = (Some(last), reading);
        self.offered = Some(Came::between(&older, &reading).rate());
        let told = self.told.unwrap_or_default();
        let dropped = reading.policed.saturating_sub(told.policed);
        let lately = Came::between(&last, &reading);
        // A stream that began or ended meanwhile is no slow one: the fastest time since the last line counts.
        let came = self.fastest.filter(|came| came.rate() > lately.rate()).unwrap_or(lately);
        self.fastest = Some(if dropped == 0 { lately } else { came });
        if dropped == 0 || (self.told.is_some() && now.since(told.at) < ENTRY_TELL) {
            return None;
        }
        if came.rate() <= rate && !std::mem::replace(&mut self.doubtful, true) {
            // Bursts, or the beginning of more: the next look tells.
            return None;
        }
        (self.doubtful, self.fastest) = (false, Some(lately));
        self.told = Some(Told { at: now, policed: reading.policed });
        Some(came.excess(dropped, rate, shape))
    }
}

/// What came to an entry in some time.
#[derive(Clone, Copy, Debug)]
struct Came {
    frames: u64,
    payload_bytes: u64,
    time: Duration,
}

impl Came {
    fn between(one: &Reading, next: &Reading) -> Self {
        Self {
            frames: next.frames.saturating_sub(one.frames),
            payload_bytes: next.payload_bytes.saturating_sub(one.payload_bytes),
            time: next.at.since(one.at),
        }
    }

    /// Of IP packets.
    fn rate(self) -> Bandwidth {
        let overhead = (OVERHEAD_BYTES + PACKET_OVERHEAD_BYTES) as u64;
        let bits = (u128::from(self.payload_bytes) + u128::from(self.frames * overhead)) * 8;
        let bps = bits * 1_000_000 / self.time.as_micros().max(1);
        Bandwidth::from_bps(u64::try_from(bps).unwrap_or(u64::MAX))
    }

    fn excess(self, dropped: u64, bandwidth: Bandwidth, shape: bool) -> Excess {
        let overhead = (OVERHEAD_BYTES + PACKET_OVERHEAD_BYTES) as u64;
        let size = self.payload_bytes.checked_div(self.frames).unwrap_or_default();
        let offered = self.rate();
        let payload = bandwidth.payload_rate(size, overhead);
        let ask = (offered > bandwidth).then(|| two_digits_up(offered));
        let frames = if dropped == 1 { "frame" } else { "frames" };
        let (mean, fits) = (two_digits_and_one(offered), two_digits_and_one(payload));
        let text = match ask {
            Some(ask) => format!(
                "{dropped} {frames} dropped in the last second: the program sends {mean}, the channel \
                 has {bandwidth}; send at most {fits} of payload or ask for {ask}"
            ),
            None => format!(
                "{dropped} {frames} dropped in the last second: the program sends {mean} on average, \
                 but in bursts above the {bandwidth} of the channel; send evenly{} or ask for more",
                if shape { "" } else { ", open it with --shape" }
            ),
        };
        Excess {
            dropped,
            offered_bps: offered,
            bandwidth_bps: bandwidth,
            payload_bps: payload,
            ask_bps: ask,
            text,
        }
    }
}

impl Control {
    /// An end has been opened: from now on entries are looked at.
    pub(super) fn look_at_entries_soon(&mut self) {
        let now = self.now();
        self.entry_look.get_or_insert(now + ENTRY_LOOK);
    }

    pub(super) fn look_at_entries(&mut self, now: Time) {
        if self.entry_look.is_none_or(|at| now < at) {
            return;
        }
        let mut lines = Vec::new();
        self.entry_look = None;
        for (channel, end, stats) in self.channels.ends() {
            self.entry_look = Some(now + ENTRY_LOOK);
            let Some(rate) = end.rate else { continue };
            let Some(excess) = end.meter.look(stats, rate, end.shape, now) else { continue };
            tracing::debug!(%channel, excess.text, "policed");
            if !self.watchers.is_empty() {
                lines.push(EventLine {
                    at_ms: unix_millis(),
                    event: "channel_policed".to_owned(),
                    text: format!("channel {channel}: {}", excess.text),
                    channel: Some(channel.to_string()),
                    excess: Some(excess),
                });
            }
        }
        lines.iter().for_each(|line| self.tell_watchers(line));
    }
}

/// The next rate of two digits.
fn two_digits_up(rate: Bandwidth) -> Bandwidth {
    let step = step_of(rate, 10);
    Bandwidth::from_bps(rate.bps().div_ceil(step).saturating_mul(step))
}

/// Three digits, the rest cut off.
fn two_digits_and_one(rate: Bandwidth) -> Bandwidth {
    let step = step_of(rate, 100);
    Bandwidth::from_bps(rate.bps() / step * step)
}

/// The power of ten of which `rate` has at least `least`.
fn step_of(rate: Bandwidth, least: u64) -> u64 {
    let steps = std::iter::successors(Some(1_u64), |step| step.checked_mul(10));
    steps.take_while(|step| rate.bps() / step >= least).last().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::bump;

    const SECOND: u64 = 1_000_000;
    const RATE: Bandwidth = Bandwidth::from_bps(20_000_000);

    /// A program that sends `frames` of 1,316 bytes of which `policed` are dropped.
    fn sends(stats: &ChannelStats, frames: u64, policed: u64) {
        bump(&stats.entered, frames);
        bump(&stats.bytes_in, frames * 1_316);
        stats.drop_frames(DropReason::Policed, policed);
    }

    /// What is told at which look, of a program that sends so much before each; 1,108 packets of 1,408 bytes
    /// in 0.334 s are 31.2 Mbit/s.
    fn told(before_each_look: &[(u64, u64)]) -> Vec<(usize, Excess)> {
        let (stats, mut now) = (ChannelStats::default(), Time(7 * SECOND));
        let mut meter = Meter::new(now);
        assert_eq!((meter.look(&stats, RATE, false, now), meter.offered()), (None, None));
        let look = |(look, &(frames, policed))| {
            sends(&stats, frames, policed);
            now = now + ENTRY_LOOK;
            Some((look, meter.look(&stats, RATE, false, now)?))
        };
        before_each_look.iter().enumerate().filter_map(look).collect()
    }

    #[test]
    fn a21_drops_are_told_within_a_second_and_once_a_second_with_the_rate_to_use() {
        let quiet = [(0, 0); 4];
        let told = told(&[&quiet[..], &[(926, 400); 8], &quiet].concat());
        let dropped: Vec<_> = told.iter().map(|(look, excess)| (*look, excess.dropped)).collect();
        // Of each frame once.
        assert_eq!(dropped, [(4, 400), (7, 1_200), (10, 1_200), (13, 400)]);
        for (_, excess) in &told {
            assert_eq!(excess.offered_bps, Bandwidth::from_bps(31_228_934));
            assert_eq!(excess.ask_bps, Some(Bandwidth::from_bps(32_000_000)));
            assert_eq!(excess.payload_bps, RATE.payload_rate(1_316, 92));
        }
        assert_eq!(
            told[1].1.text,
            "1200 frames dropped in the last second: the program sends 31.2 Mbit/s, the channel has \
             20 Mbit/s; send at most 18.6 Mbit/s of payload or ask for 32 Mbit/s"
        );
    }

    #[test]
    fn a21_a_stream_that_begins_is_told_from_a_burst_at_the_next_look() {
        let told_of = |looks: &[(u64, u64)]| {
            let told = told(looks);
            let [(look, excess)] = &told[..] else { panic!("{told:?}") };
            (*look, excess.dropped, excess.ask_bps.is_some(), excess.text.clone())
        };
        // The first 0.1 s of 31.2 Mbit/s, then all of it.
        let (look, dropped, ask, _) = told_of(&[(277, 30), (926, 400)]);
        assert_eq!((look, dropped, ask), (1, 430, true));
        let (look, dropped, ask, text) = told_of(&[(277, 1), (10, 0), (0, 0)]);
        assert_eq!((look, dropped, ask), (1, 1, false));
        assert!(text.starts_with("1 frame dropped"), "{text}");
        assert!(text.contains("send evenly, open it with --shape or ask for more"), "{text}");
        let shaped = Came { frames: 1, payload_bytes: 1, time: ENTRY_LOOK }.excess(1, RATE, true);
        assert!(shaped.text.contains("send evenly or ask for more"), "{}", shaped.text);
    }

    #[test]
    fn a_rate_to_ask_for_has_two_digits_and_is_enough() {
        let up = |bps| two_digits_up(Bandwidth::from_bps(bps)).bps();
        assert_eq!(
            (up(31_229_173), up(99_000_001), up(7), up(64_000)),
            (32_000_000, 100_000_000, 7, 64_000)
        );
    }
}

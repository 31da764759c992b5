//! The token bucket that holds each direction of a channel to the bandwidth it was promised.
//!
//! ```text
//! entry   rate            depth max(64 KiB, 50 ms of rate); 64 KiB if the channel is shaped
//! hop n   rate x 1.02     depth of the entry + n x 64 KiB       n links behind the entry
//! ```
//!
//! What a hop lets wait, it later lets through at once: frames that kept to the rate at the entry come
//! in bursts, at most as much larger with each hop as what waited there. So each hop allows 64 KiB
//! more than the one before, and a little more rate because clocks of hosts differ: what the entry let
//! in is never dropped behind it.
//!
//! Exact: tokens are counted in bits times microseconds, so a rate of any bits a second earns a whole
//! number of them in each microsecond and nothing is ever rounded away. Pure: the time is an argument, one
//! reading a batch. A bucket belongs to one worker. What does not fit is dropped by the caller, as
//! `policed`, but for the entry of a shaped channel (`--shape`): there it waits until the bucket can pay
//! for it, if that is soon ([`Shaping`]). The frames themselves are kept by the worker.

use crate::limits::{
    POLICE_BURST, POLICE_BURST_BYTES_MIN, POLICE_SLACK_BYTES, POLICE_SLACK_RATE, SHAPE_DELAY_MAX,
    SHAPE_FRAMES_MAX,
};
use crate::types::{Bandwidth, Time};

/// Bytes of the IP packet of a frame, as every bucket counts it: IPv4 and UDP headers are added on
/// every link, also where IPv6 carries the frame. A frame must count the same at all hops, or what
/// kept to the promise at the entry would be dropped at a hop that counts more.
pub const PACKET_OVERHEAD_BYTES: usize = 20 + 8;

/// One direction of one channel, at one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policer {
    rate_bps: u64,
    /// In token units, as `tokens`.
    depth: u64,
    tokens: u64,
    last: Time,
}

/// Tokens of one byte: 8 bits, each worth a million microseconds at 1 bit/s.
const TOKENS_PER_BYTE: u64 = 8 * 1_000_000;

impl Policer {
    /// Where datagrams enter the overlay.
    pub fn at_entry(rate: Bandwidth) -> Self {
        Self::new(rate.bps(), entry_depth(rate))
    }

    /// The same of a shaped channel: a burst waits and need not come at once, which spares the wires.
    pub fn at_shaped_entry(rate: Bandwidth) -> Self {
        Self::new(rate.bps(), POLICE_BURST_BYTES_MIN * TOKENS_PER_BYTE)
    }

    /// Where frames arrive that have crossed `hop` links.
    pub fn at_hop(rate: Bandwidth, hop: u8) -> Self {
        let rate_bps = rate.bps().saturating_add(rate.bps().div_ceil(POLICE_SLACK_RATE));
        let slack = u64::from(hop) * POLICE_SLACK_BYTES * TOKENS_PER_BYTE;
        Self::new(rate_bps, entry_depth(rate).saturating_add(slack))
    }

    /// A bucket of this depth in token units. It is full, unless nothing was promised at all.
    fn new(rate_bps: u64, depth: u64) -> Self {
        let depth = if rate_bps == 0 { 0 } else { depth };
        Self { rate_bps, depth, tokens: depth, last: Time::default() }
    }

    /// Takes the place of `old`: the same promise again does not fill the bucket again.
    #[must_use]
    pub fn in_place_of(self, old: Option<Self>) -> Self {
        old.filter(|old| (old.rate_bps, old.depth) == (self.rate_bps, self.depth)).unwrap_or(self)
    }

    /// Whether a frame of `frame_bytes` (header, payload, tag) may pass at `now`; if so it is paid for.
    /// A time before the last one counts as the last one.
    #[inline]
    pub fn admit(&mut self, now: Time, frame_bytes: usize) -> bool {
        self.earn(now);
        match self.tokens.checked_sub(cost(frame_bytes)) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    #[inline]
    fn earn(&mut self, now: Time) {
        if now > self.last {
            let earned = (now.0 - self.last.0).saturating_mul(self.rate_bps);
            self.tokens = self.tokens.saturating_add(earned).min(self.depth);
            self.last = now;
        }
    }

    /// When it has so many tokens, if nobody takes any before.
    fn has(&self, tokens: u64) -> Option<Time> {
        let missing = tokens.saturating_sub(self.tokens);
        let micros = missing.checked_add(self.rate_bps.checked_sub(1)?)? / self.rate_bps;
        Some(Time(self.last.0.checked_add(micros)?))
    }
}

/// What waits at the entry of a shaped channel, as its bucket sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shaping {
    waiting: u32,
    /// What those that wait will pay.
    owed: u64,
    /// When the last of them leaves.
    until: Time,
}

/// What becomes of a frame that comes to the entry of a shaped channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It goes, and is paid for.
    Now,
    /// It may go then, behind those that wait.
    At(Time),
    /// It would wait for too long, or behind too many.
    Never,
}

impl Shaping {
    /// Of a frame that came at `now`. The caller says [`Shaping::wait`] if it has kept one that may.
    #[inline]
    pub fn turn(&self, policer: &mut Policer, now: Time, frame_bytes: usize) -> Turn {
        if self.waiting == 0 && policer.admit(now, frame_bytes) {
            return Turn::Now;
        }
        policer.earn(now);
        let at = policer.has(self.owed.saturating_add(cost(frame_bytes)));
        // One that left late has paid what there was: none may overtake another for that.
        match at.map(|at| at.max(self.until)) {
            Some(at) if at.since(now) <= SHAPE_DELAY_MAX && self.waiting < SHAPE_FRAMES_MAX => {
                Turn::At(at)
            }
            Some(_) | None => Turn::Never,
        }
    }

    /// One more waits, until then.
    pub fn wait(&mut self, until: Time, frame_bytes: usize) {
        self.waiting += 1;
        self.owed += cost(frame_bytes);
        self.until = until;
    }

    /// The first one that waited does not any more. If it `leaves` it pays; after a worker was held up
    /// for so long that the bucket overflowed, perhaps with less than it costs.
    pub fn left(&mut self, policer: &mut Policer, now: Time, frame_bytes: usize, leaves: bool) {
        self.waiting -= 1;
        self.owed -= cost(frame_bytes);
        if leaves {
            policer.earn(now);
            policer.tokens = policer.tokens.saturating_sub(cost(frame_bytes));
        }
    }

    pub fn waiting(&self) -> u32 {
        self.waiting
    }
}

#[inline]
fn cost(frame_bytes: usize) -> u64 {
    (frame_bytes + PACKET_OVERHEAD_BYTES) as u64 * TOKENS_PER_BYTE
}

/// In token units: `rate` bits a second for [`POLICE_BURST`], and never less than the largest frame.
fn entry_depth(rate: Bandwidth) -> u64 {
    let burst_us = u64::try_from(POLICE_BURST.as_micros()).expect("milliseconds");
    let least = POLICE_BURST_BYTES_MIN * TOKENS_PER_BYTE;
    rate.bps().saturating_mul(burst_us).max(least)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;
    const KBIT_64: u64 = 64_000;
    const GBIT_100: u64 = 100_000_000_000;

    fn bps(rate: u64) -> Bandwidth {
        Bandwidth::from_bps(rate)
    }

    /// Bytes a bucket lets through at one moment, in frames of 72 bytes or packets of 100.
    fn burst(policer: &mut Policer, now: Time) -> u64 {
        std::iter::repeat_with(|| policer.admit(now, 72)).take_while(|&passed| passed).count()
            as u64
            * 100
    }

    #[test]
    fn a15_nothing_passes_where_nothing_was_promised() {
        for mut policer in [Policer::at_entry(bps(0)), Policer::at_hop(bps(0), 3)] {
            assert!(!policer.admit(Time(0), 40) && !policer.admit(Time(SECOND), 40));
        }
    }

    /// What the words say, counted anew for each frame: every window up to this frame carries at most
    /// the depth and what the rate gives in its length. In bytes times 8 million.
    struct Windows {
        rate_bps: u128,
        depth: u128,
        passed: Vec<(u64, u128)>,
    }

    impl Windows {
        fn of(policer: &Policer) -> Self {
            let (rate_bps, depth) = (u128::from(policer.rate_bps), u128::from(policer.depth));
            Self { rate_bps, depth, passed: Vec::new() }
        }

        fn admit(&mut self, now: u64, frame_bytes: usize) -> bool {
            let mut sum = (frame_bytes as u128 + 28) * 8_000_000;
            let mut conforms = sum <= self.depth;
            for &(then, cost) in self.passed.iter().rev() {
                sum += cost;
                conforms &= sum <= self.depth + self.rate_bps * u128::from(now - then);
            }
            if conforms {
                self.passed.push((now, (frame_bytes as u128 + 28) * 8_000_000));
            }
            conforms
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a20_exactly_what_keeps_to_rate_and_depth_in_every_window_passes(
            rate in prop_oneof![KBIT_64..1_000_000, 1_000_000u64..=GBIT_100],
            hop in 0u8..64,
            start in 0u64..1_000_000_000_000_000,
            steps in prop::collection::vec((0u64..100, 64usize..65_480), 1..300),
        ) {
            let mut policer = Policer::at_hop(bps(rate), hop);
            if hop == 0 {
                policer = Policer::at_entry(bps(rate));
            }
            let mut windows = Windows::of(&policer);
            // Steps about as long as a frame of middle size takes, so that the bucket runs empty.
            let step_us = (32_000 * 8 * SECOND / rate).max(1);
            let mut now = start;
            for (step, frame_bytes) in steps {
                now += step * step_us / 60;
                let passed = policer.admit(Time(now), frame_bytes);
                prop_assert_eq!(passed, windows.admit(now, frame_bytes));
            }
        }

        #[test]
        fn a_clock_that_jumps_or_stands_still_gives_no_more_than_the_depth(
            rate in KBIT_64..=Bandwidth::MAX.bps(),
            times in prop::collection::vec(any::<u64>(), 1..50),
        ) {
            let mut policer = Policer::at_hop(bps(rate), 3);
            let depth_bytes = policer.depth / TOKENS_PER_BYTE;
            let mut last = 0;
            for time in times {
                let earned = u128::from(policer.rate_bps) * u128::from(time.saturating_sub(last));
                let had = u128::from(policer.tokens);
                let frame = usize::try_from(depth_bytes.min(65_000)).expect("a frame");
                let passed = policer.admit(Time(time), frame);
                let has = u128::from(policer.tokens) + u128::from(passed) * (frame as u128 + 28) * 8_000_000;
                prop_assert_eq!(has, (had + earned).min(u128::from(policer.depth)));
                last = last.max(time);
            }
        }
    }

    /// The entry of a shaped channel, and the worker that keeps what waits there.
    struct Entry {
        policer: Policer,
        shaping: Shaping,
        /// Number, frame bytes, when it came, when it may go.
        line: std::collections::VecDeque<(usize, usize, u64, u64)>,
        /// Number, when it came, when it went.
        gone: Vec<(usize, u64, u64)>,
        dropped: Vec<usize>,
        windows: Windows,
    }

    impl Entry {
        /// `next` has to let through what leaves.
        fn new(rate: u64, next: Policer) -> Self {
            let policer = Policer::at_shaped_entry(bps(rate));
            let windows = Windows::of(&next);
            let (line, gone, dropped) = Default::default();
            Self { policer, shaping: Shaping::default(), line, gone, dropped, windows }
        }

        /// All that is due leaves, at once.
        fn wake(&mut self, now: u64) {
            while let Some((number, frame_bytes, came, _)) =
                self.line.pop_front_if(|&mut (.., until)| until <= now)
            {
                self.shaping.left(&mut self.policer, Time(now), frame_bytes, true);
                self.leave(number, frame_bytes, came, now);
            }
        }

        fn come(&mut self, number: usize, now: u64, frame_bytes: usize) {
            match self.shaping.turn(&mut self.policer, Time(now), frame_bytes) {
                Turn::Now => self.leave(number, frame_bytes, now, now),
                Turn::At(until) => {
                    assert!(until.0 >= now && until.0 - now <= 50_000, "{until:?} at {now}");
                    self.shaping.wait(until, frame_bytes);
                    self.line.push_back((number, frame_bytes, now, until.0));
                }
                Turn::Never => self.dropped.push(number),
            }
        }

        fn leave(&mut self, number: usize, frame_bytes: usize, came: u64, now: u64) {
            assert!(self.windows.admit(now, frame_bytes), "{number} is above the rate at {now}");
            self.gone.push((number, came, now));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a21_what_waits_keeps_to_the_rate_and_its_order_and_leaves_within_50_ms(
            rate in prop_oneof![KBIT_64..1_000_000, 1_000_000u64..=GBIT_100],
            late in prop_oneof![Just(0), 1u64..10_000],
            frames in prop::collection::vec((0u64..100, 64usize..9_000), 1..400),
        ) {
            // A worker that is late lets more go at once, which the next hop has room for.
            let next = if late == 0 { Policer::at_shaped_entry } else { |r| Policer::at_hop(r, 1) };
            let mut entry = Entry::new(rate, next(bps(rate)));
            // Frames of middle size take half as long as they are apart.
            let step_us = (9_000 * 8 * SECOND / rate).max(1);
            let (mut now, count) = (7, frames.len());
            for (number, (step, frame_bytes)) in frames.into_iter().enumerate() {
                now += step * step_us / 200;
                // A worker wakes when the first is due, or up to 10 ms later.
                while let Some(&(.., until)) = entry.line.front().filter(|&&(.., u)| u + late <= now) {
                    entry.wake(until + late);
                }
                entry.come(number, now, frame_bytes);
            }
            while let Some(&(.., until)) = entry.line.front() {
                entry.wake(until + late);
            }
            prop_assert!(entry.gone.is_sorted_by_key(|&(number, ..)| number));
            prop_assert_eq!(entry.gone.len() + entry.dropped.len(), count);
            for &(number, came, went) in &entry.gone {
                prop_assert!(went - came <= 50_000 + late, "{} waits for {} us", number, went - came);
            }
            prop_assert_eq!((entry.shaping.waiting, entry.shaping.owed), (0, 0));
        }
    }

    #[test]
    fn a21_a_burst_of_50_ms_passes_whole_and_smoothly_if_it_is_shaped() {
        // At 20 Mbit/s 125 packets of 1,000 bytes, and the 65 that pass at once.
        let mut entry = Entry::new(20_000_000, Policer::at_shaped_entry(bps(20_000_000)));
        (0..190).for_each(|number| entry.come(number, 1_000, 972));
        assert_eq!((entry.gone.len(), entry.shaping.waiting(), entry.dropped.len()), (65, 125, 0));
        entry.come(190, 1_000, 972);
        assert_eq!(entry.dropped, [190], "it would wait for 50.2 ms");
        for millisecond in 1..=50 {
            entry.wake(1_000 + 1_000 * millisecond);
            // 536 bytes of the bucket were left at the beginning.
            let expected = 65 + usize::try_from((millisecond * 2_500 + 536) / 1_000).unwrap();
            assert_eq!(entry.gone.len(), expected.min(190), "after {millisecond} ms");
        }
        assert_eq!(entry.shaping.waiting(), 0);
    }

    #[test]
    fn a_bucket_that_overflowed_while_frames_waited_lets_none_overtake() {
        // 8 Mbit/s: a byte a microsecond, and 65,536 bytes at once.
        let mut entry = Entry::new(8_000_000, Policer::at_hop(bps(8_000_000), 1));
        while entry.shaping.waiting() == 0 {
            entry.come(0, 1_000, 972);
        }
        // A worker that does not wake: the bucket is full again, and three more have to wait.
        let mut wait = |now, packet_bytes: usize| {
            let Entry { policer, shaping, .. } = &mut entry;
            let Turn::At(until) = shaping.turn(policer, Time(now), packet_bytes - 28) else {
                panic!("{packet_bytes} may wait")
            };
            shaping.wait(until, packet_bytes - 28);
            until
        };
        assert_eq!(wait(900_000, 60_000), Time(900_000));
        assert_eq!(wait(900_000, 30_000), Time(925_464));
        let last = wait(990_000, 20_000);
        assert_eq!(last, Time(1_035_464));
        // The third pays what there is.
        for packet_bytes in [1_000, 60_000, 30_000] {
            entry.shaping.left(&mut entry.policer, Time(990_000), packet_bytes - 28, true);
        }
        assert_eq!(entry.policer.tokens, 0);
        let turn = entry.shaping.turn(&mut entry.policer, Time(990_000), 72);
        assert_eq!(turn, Turn::At(last), "20,100 us would be enough for it");
    }

    #[test]
    fn a_channel_without_a_rate_keeps_nobody_waiting() {
        let mut policer = Policer::at_shaped_entry(Bandwidth::ZERO);
        assert_eq!(Shaping::default().turn(&mut policer, Time(1), 65_507), Turn::Never);
    }

    #[test]
    fn a20_the_rate_is_exact_over_days() {
        // Somebody who takes all there is at every tick; no rate and tick give whole bytes.
        for (rate, tick_us, packet) in
            [(KBIT_64, 7_123_457, 1_000), (333_337, 1_300_003, 1_000), (10_000_019, 26_003, 31_000)]
        {
            let mut policer = Policer::at_entry(bps(rate));
            let (mut now, mut passed) = (0, 0u64);
            while now < 3 * 86_400 * SECOND {
                now += tick_us;
                while policer.admit(Time(now), packet - PACKET_OVERHEAD_BYTES) {
                    passed += packet as u64;
                }
            }
            // It was full at the first tick.
            let allowed = policer.depth + rate * (now - tick_us);
            let left = allowed - passed * TOKENS_PER_BYTE;
            assert!(left < packet as u64 * TOKENS_PER_BYTE, "{rate}: {left}");
        }
    }

    #[test]
    fn the_depth_is_that_of_the_specification() {
        let now = Time(5);
        let entry = |rate| burst(&mut Policer::at_entry(bps(rate)), now);
        assert_eq!(entry(KBIT_64), 65_500);
        // 50 ms of 1 Gbit/s are 6.25 MB.
        assert_eq!(entry(1_000_000_000), 6_250_000);
        let hop = |hop| burst(&mut Policer::at_hop(bps(KBIT_64), hop), now);
        assert_eq!((hop(1), hop(3)), (131_000, 262_100));
    }

    #[test]
    fn a_hop_lets_two_percent_more_through() {
        let mut policer = Policer::at_hop(bps(1_000_000), 1);
        burst(&mut policer, Time(0));
        // 1.02 Mbit/s are 127,500 bytes a second, but for what fits no packet.
        let mut passed = 0;
        for millisecond in 1..=10_000 {
            passed += burst(&mut policer, Time(millisecond * 1_000));
        }
        assert!((1_274_900..=1_275_100).contains(&passed), "{passed}");
    }

    #[test]
    fn the_largest_frame_passes_at_the_smallest_rate() {
        assert!(Policer::at_entry(bps(1)).admit(Time(0), 65_507));
    }

    #[test]
    fn the_same_promise_again_does_not_fill_the_bucket_again() {
        let mut old = Policer::at_hop(bps(KBIT_64), 2);
        burst(&mut old, Time(9));
        let again = Policer::at_hop(bps(KBIT_64), 2).in_place_of(Some(old));
        assert_eq!(again, old);
        for other in [Policer::at_hop(bps(KBIT_64), 1), Policer::at_hop(bps(KBIT_64 + 1), 2)] {
            assert_eq!(other.in_place_of(Some(old)), other);
        }
        assert_eq!(old.in_place_of(None), old);
    }
}

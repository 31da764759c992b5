//! The search for the highest rate that a link carries in one direction: which train to send next, and
//! what the last one proves.
//!
//! A train was carried if almost all of it arrived, and as fast as it was sent: a deep buffer in front
//! of a slow link loses nothing of a short train, but lets it out at the link's own pace. What only a
//! busy host may have spoilt, a pace that is a little too slow, is tried again. Rates are doubled until
//! one is not carried, then the gap is halved; at the end a longer train has to be carried, which a full
//! bucket on the way cannot feign. Pure; knows no link and no time of its own.

use std::time::Duration;

use crate::limits;
use crate::types::Bandwidth;

/// One train, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// As it was sent, which may be slower than was asked.
    pub rate: Bandwidth,
    pub sent: u32,
    pub arrived: u32,
    /// How fast it came out of the link; `None` where too little arrived to tell.
    pub arrived_rate: Option<Bandwidth>,
    /// The longer one that confirms a rate.
    pub long: bool,
}

/// Why the search went no higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The link did not carry more.
    Link,
    /// More was not allowed.
    Max,
    /// The sending end could not send faster.
    Sender,
    /// Time was up first.
    Time,
}

impl Limit {
    pub const ALL: [Self; 4] = [Self::Link, Self::Max, Self::Sender, Self::Time];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Max => "max",
            Self::Sender => "sender",
            Self::Time => "time",
        }
    }
}

/// What is to be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub rate: Bandwidth,
    pub span: Duration,
    pub long: bool,
}

#[derive(Clone, Debug)]
pub struct Search {
    max: u64,
    /// Highest rate that was carried, and lowest that was not.
    best: Option<u64>,
    worst: Option<u64>,
    next: u64,
    long: bool,
    /// How often this rate was tried again, and the fastest that came out of the link for it.
    again: u32,
    came: Option<u64>,
    over: bool,
    sender_at_its_end: bool,
    points: Vec<Point>,
}

impl Point {
    /// Almost all arrived, and as fast as it was sent.
    pub fn carried(&self) -> bool {
        self.lost_little() && self.kept_pace(limits::TRAIN_PACE_PERCENT)
    }

    /// How often it is worth another try: if nothing but its pace speaks against it, a host that was
    /// busy for a moment may have done that.
    fn doubts(&self) -> u32 {
        match () {
            () if self.carried() || !self.lost_little() => 0,
            () if self.kept_pace(limits::TRAIN_DOUBT_PERCENT) => limits::TRAIN_AGAIN_MAX,
            () => 1,
        }
    }

    fn lost_little(&self) -> bool {
        let lost = self.sent.saturating_sub(self.arrived);
        u64::from(lost) * 1_000 <= u64::from(self.sent) * limits::TRAIN_LOSS_PER_MILLE
    }

    fn kept_pace(&self, percent: u64) -> bool {
        let least = self.rate.bps() / 100 * percent;
        self.arrived_rate.is_none_or(|rate| rate.bps() >= least)
    }
}

impl Search {
    /// From `first` upwards, never above `max`.
    pub fn new(first: Bandwidth, max: Bandwidth) -> Self {
        let max = max.bps().max(1);
        Self {
            max,
            best: None,
            worst: None,
            next: first.bps().clamp(1, max),
            long: false,
            again: 0,
            came: None,
            over: false,
            sender_at_its_end: false,
            points: Vec::new(),
        }
    }

    /// `None` when there is nothing left to find out.
    pub fn wanted(&self) -> Option<Wanted> {
        let span = if self.long { limits::TRAIN_LONG } else { limits::TRAIN_SPAN };
        let wanted = Wanted { rate: Bandwidth::from_bps(self.next), span, long: self.long };
        (!self.over).then_some(wanted)
    }

    /// The train that was wanted went like this.
    pub fn record(&mut self, point: Point) {
        self.points.push(point);
        self.over |= self.points.len() >= limits::TRAINS_MAX;
        let rate = point.rate.bps();
        let slow = rate < self.next / 10 * 9;
        self.came = self.came.max(point.arrived_rate.map(Bandwidth::bps));
        let tries = if slow { limits::TRAIN_AGAIN_MAX } else { point.doubts() };
        if self.again < tries {
            self.again += 1;
            return;
        }
        self.again = 0;
        let came = self.came.take();
        // Slower than was asked, again and again: this end cannot do more.
        self.sender_at_its_end |= slow;
        if !point.carried() {
            self.not_carried(rate, came);
        } else if self.long {
            self.best = Some(rate);
            self.over = true;
        } else {
            self.best = self.best.max(Some(rate));
            self.go_up(rate);
        }
    }

    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The highest rate that was carried, and why it is not higher.
    pub fn result(&self) -> (Option<Bandwidth>, Limit) {
        let limit = match self.best {
            Some(best) if self.over && best >= self.max / 100 * 97 => Limit::Max,
            _ if self.over && self.sender_at_its_end && self.worst.is_none() => Limit::Sender,
            _ if self.worst.is_some() => Limit::Link,
            _ => Limit::Time,
        };
        (self.best.map(Bandwidth::from_bps), limit)
    }

    fn go_up(&mut self, rate: u64) {
        let top = rate >= self.max / 100 * 99 || self.sender_at_its_end;
        match self.worst {
            None if top => self.confirm(rate),
            None => self.next = rate.saturating_mul(2).min(self.max),
            Some(worst) if close(rate, worst) => self.confirm(rate),
            Some(worst) => self.next = middle(rate, worst),
        }
    }

    /// `came` is the fastest that came out of the link: what it carries, or a little less.
    fn not_carried(&mut self, rate: u64, came: Option<u64>) {
        let came = came.map(|came| came.min(rate));
        let most = came.map_or(rate, |came| (came + came / 16).min(rate));
        let worst = self.worst.map_or(most, |worst| worst.min(most));
        self.worst = Some(worst);
        let guess = came.map(|came| came / 100 * 98);
        if self.long {
            // What was carried for a short while is not carried; what came for a longer one nearly is.
            self.best = came.map(|came| came / 10 * 9);
            self.next = guess.map_or(rate / 8, |guess| guess.min(rate / 100 * 97));
        } else {
            let best = self.best.unwrap_or(0);
            match guess.filter(|&guess| guess > best) {
                Some(guess) => self.next = guess,
                None if best > 0 && close(best, worst) => return self.confirm(best),
                None if best > 0 => self.next = middle(best, worst),
                None => self.next = rate / 8,
            }
        }
        self.over |= self.next < limits::TRAIN_RATE_BPS_MIN;
    }

    fn confirm(&mut self, rate: u64) {
        self.long = true;
        self.next = rate;
    }
}

/// Near enough that a train between them would tell nothing.
fn close(low: u64, high: u64) -> bool {
    high.saturating_sub(low) <= high / 16
}

fn middle(low: u64, high: u64) -> u64 {
    low + high.saturating_sub(low) / 2
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    const M: u64 = 1_000_000;

    /// A link that carries `capacity`, keeps a bucket of so many bits, and loses nothing but what its
    /// buffer does not hold.
    #[derive(Clone, Copy, Debug)]
    struct Wire {
        capacity: u64,
        bucket: u64,
        buffer: u64,
        sender_max: u64,
    }

    impl Wire {
        fn carry(self, wanted: Wanted) -> Point {
            const FRAMES: u32 = 2_000;
            let rate = wanted.rate.bps().min(self.sender_max);
            let span_us = u64::try_from(wanted.span.as_micros()).unwrap();
            let bits = rate * span_us / M;
            let through = self.capacity * span_us / M + self.bucket;
            let kept = bits.min(through + self.buffer);
            let arrived = u32::try_from(u64::from(FRAMES) * kept / bits.max(1)).unwrap();
            // Behind the first quarter the bucket is used up, if it ever is.
            let free = rate <= self.capacity || bits / 4 * 3 <= self.bucket;
            let out = if free { rate } else { self.capacity };
            Point {
                rate: Bandwidth::from_bps(rate),
                sent: FRAMES,
                arrived,
                arrived_rate: Some(Bandwidth::from_bps(out)),
                long: wanted.long,
            }
        }
    }

    fn search(wire: Wire, first: u64, max: u64) -> (Search, usize) {
        let mut search = Search::new(Bandwidth::from_bps(first), Bandwidth::from_bps(max));
        for trains in 0.. {
            assert!(trains < 60, "it does not end: {:?}", search.points());
            match search.wanted() {
                Some(wanted) => search.record(wire.carry(wanted)),
                None => return (search, trains),
            }
        }
        unreachable!()
    }

    fn wire(capacity: u64) -> Wire {
        Wire { capacity, bucket: 0, buffer: 0, sender_max: u64::MAX }
    }

    #[test]
    fn a_slow_link_is_found_whether_it_drops_or_delays() {
        for buffer in [0, 50_000, 20 * M] {
            for bucket in [0, 260_000] {
                let slow = Wire { buffer, bucket, ..wire(50 * M) };
                let (search, trains) = search(slow, 10 * M, 400 * M);
                let (best, limit) = search.result();
                let best = best.unwrap().bps();
                assert_eq!(limit, Limit::Link);
                assert!((45 * M..=54 * M).contains(&best), "{best} with {slow:?}");
                assert!(trains <= 16, "{trains} trains");
            }
        }
    }

    #[test]
    fn a_link_that_carries_all_that_is_allowed_says_so() {
        let (search, trains) = search(wire(10_000 * M), 10 * M, 160 * M);
        assert_eq!(search.result(), (Some(Bandwidth::from_bps(160 * M)), Limit::Max));
        assert_eq!(trains, 6, "four doublings, and the long one");
        assert!(search.points().last().unwrap().long);
    }

    #[test]
    fn a_train_that_a_busy_host_slowed_down_is_sent_again() {
        let mut search = Search::new(Bandwidth::from_bps(10 * M), Bandwidth::from_bps(40 * M));
        let mut trains = 0;
        while let Some(wanted) = search.wanted() {
            let mut point = wire(1_000 * M).carry(wanted);
            // Every third is late at the receiver, every fifth at the sender.
            trains += 1;
            let late = Bandwidth::from_bps(point.rate.bps() / 10 * 9);
            match trains {
                3 | 6 | 9 => point.arrived_rate = Some(late),
                2 | 5 => (point.rate, point.arrived_rate) = (late.usable(), Some(late)),
                _ => {}
            }
            search.record(point);
        }
        assert_eq!(search.result(), (Some(Bandwidth::from_bps(40 * M)), Limit::Max));
    }

    #[test]
    fn a_sender_at_its_end_is_told_from_a_slow_link() {
        let weak = Wire { sender_max: 300 * M, ..wire(10_000 * M) };
        let (search, _) = search(weak, 100 * M, 4_000 * M);
        assert_eq!(search.result(), (Some(Bandwidth::from_bps(300 * M)), Limit::Sender));
    }

    #[test]
    fn a_link_that_carries_nothing_ends_the_search_without_a_rate() {
        let mut search = Search::new(Bandwidth::from_bps(M), Bandwidth::from_bps(16 * M));
        while let Some(wanted) = search.wanted() {
            search.record(Point {
                rate: wanted.rate,
                sent: 100,
                arrived: 0,
                arrived_rate: None,
                long: wanted.long,
            });
        }
        assert_eq!(search.result(), (None, Limit::Link));
        assert!(search.points().len() < 8);
    }

    #[test]
    fn time_that_is_up_is_told() {
        let search = Search::new(Bandwidth::from_bps(M), Bandwidth::from_bps(16 * M));
        assert_eq!(search.result(), (None, Limit::Time));
    }

    proptest! {
        #[test]
        fn whatever_the_link_is_the_search_ends_near_it(
            capacity in 1_000_000_u64..2_000_000_000,
            buffer in 0_u64..100_000_000,
            first in 500_000_u64..500_000_000,
        ) {
            let (search, _) = search(Wire { buffer, ..wire(capacity) }, first, 4_000 * M);
            let best = search.result().0.map_or(0, Bandwidth::bps);
            prop_assert!(best <= capacity / 100 * 106, "{best} of {capacity}");
            prop_assert!(best >= capacity / 100 * 85, "{best} of {capacity}");
        }

        #[test]
        fn whatever_comes_back_the_search_ends(
            answers in vec((0_u32..=100, option::of(0_u64..1_000_000_000)), 300)
        ) {
            let mut search = Search::new(Bandwidth::from_bps(M), Bandwidth::from_bps(1_000 * M));
            let mut answers = answers.into_iter();
            while let Some(wanted) = search.wanted() {
                prop_assert!(wanted.rate.bps() <= 1_000 * M && wanted.rate.bps() > 0);
                let Some((arrived, rate)) = answers.next() else {
                    prop_assert!(false, "it does not end");
                    break;
                };
                let arrived_rate = rate.map(Bandwidth::from_bps);
                let Wanted { rate, long, .. } = wanted;
                search.record(Point { rate, sent: 100, arrived, arrived_rate, long });
            }
        }
    }
}

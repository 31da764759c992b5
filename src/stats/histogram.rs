//! Histograms of the data plane: one writer each (a worker), relaxed atomics, merged by the reader.
//!
//! | type | what | bytes |
//! | --- | --- | --- |
//! | [`OneWay`] | one-way times of a channel, always: 64 log2 buckets | 524 |
//! | [`FullHistogram`] | the same with three digits, while somebody watches | 352 Ki |
//! | [`LogLinear`] | times inside the relay, sizes of batches and runs | 4 Ki to 15 Ki |
//!
//! Percentiles are hdrhistogram's ([`Reading::histogram`]), the counting is our own: the crate's
//! `Recorder` for one thread to write and another to read allocates and sends when the reader wants
//! a new phase, takes a lock when it is dropped, and makes the reader wait for a writer that has
//! nothing to write. Here the writer does a plain load and store, the layout is the crate's
//! (log-linear), and the reader copies what is there. A copy made while the writer writes may lack
//! its last few values, never more.
//!
//! Recording never allocates, locks or reads a clock.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use hdrhistogram::Histogram;

use super::{ChannelStats, bump};
use crate::limits::{LINKS_MAX, ONE_WAY_AGREED_US, WATCHES_MAX};
use crate::types::LinkId;

/// Times inside the relay above this are counted as this: 68 s.
const INSIDE_NS_MAX: u64 = (1 << 36) - 1;
/// Steps of an octave as a power of two: a reading is at most 1.6 % high.
const FINE: u32 = 6;
/// For each link of each worker: at most 6.3 % high, 4 KiB.
const COARSE: u32 = 4;
/// Three significant digits, as an hdrhistogram of precision 3.
const FULL: u32 = 10;
/// A new least value this far below the base moves the base: below it the buckets are fine enough.
const BASE_SLACK_US: i32 = 64;

// --- Log-linear cells ---

/// Counts of values in cells of 2^BITS steps an octave; below 2^(BITS+1) a cell for each value.
#[derive(Debug)]
pub struct LogLinear<const BITS: u32> {
    counts: Box<[AtomicU64]>,
}

impl<const BITS: u32> LogLinear<BITS> {
    /// Larger values are counted as `max`.
    pub fn new(max: u64) -> Self {
        Self { counts: (0..=Self::index(max)).map(|_| AtomicU64::new(0)).collect() }
    }

    #[inline]
    pub fn record(&self, value: u64, times: u64) {
        bump(&self.counts[Self::index(value).min(self.counts.len() - 1)], times);
    }

    pub fn read(&self) -> Reading {
        let cells = self.counts.iter().enumerate();
        let cells = cells.map(|(index, count)| (index, count.load(Relaxed)));
        let cells: Vec<_> = cells.filter(|&(_, count)| count > 0).collect();
        let (Some(&(first, _)), Some(&(last, _))) = (cells.first(), cells.last()) else {
            return Reading::default();
        };
        Reading {
            least: Self::lowest(first),
            most: Self::highest(last),
            cells: cells.into_iter().map(|(index, n)| (Self::highest(index), n)).collect(),
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "64 octaves of 2^BITS cells at most")]
    fn index(value: u64) -> usize {
        let octave = 63 - (value | 1).leading_zeros();
        let shift = octave.saturating_sub(BITS);
        ((u64::from(shift) << BITS) + (value >> shift)) as usize
    }

    fn shift(index: usize) -> u32 {
        u32::try_from(index >> BITS).unwrap_or(u32::MAX).saturating_sub(1)
    }

    fn lowest(index: usize) -> u64 {
        let shift = Self::shift(index);
        (index as u64 - (u64::from(shift) << BITS)) << shift
    }

    fn highest(index: usize) -> u64 {
        Self::lowest(index) + ((1 << Self::shift(index)) - 1)
    }
}

// --- What a reader gets ---

/// A copy of a histogram: values are zero or more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub least: u64,
    pub most: u64,
    /// Highest value of each cell that has a count, ascending, and the count.
    pub cells: Vec<(u64, u64)>,
}

impl Reading {
    pub fn count(&self) -> u64 {
        self.cells.iter().map(|&(_, count)| count).sum()
    }

    /// Adds what another writer counted.
    pub fn merge(&mut self, other: &Self) {
        if other.cells.is_empty() {
            return;
        }
        let empty = self.cells.is_empty();
        self.least = if empty { other.least } else { self.least.min(other.least) };
        self.most = self.most.max(other.most);
        let mut cells = std::mem::take(&mut self.cells);
        cells.extend_from_slice(&other.cells);
        cells.sort_unstable();
        for (value, count) in cells {
            match self.cells.last_mut() {
                Some(last) if last.0 == value => last.1 += count,
                _ => self.cells.push((value, count)),
            }
        }
    }

    /// For percentiles as everybody prints them. No value is above [`Reading::most`].
    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_max(self.most.max(2), 3)
            .expect("3 digits and a largest value of 2 or more are accepted");
        for &(value, count) in &self.cells {
            histogram.saturating_record_n(value.clamp(self.least, self.most), count);
        }
        histogram
    }

    /// The values that so many percent of all values do not exceed.
    pub fn percentiles<const N: usize>(&self, percents: [f64; N]) -> [u64; N] {
        let histogram = self.histogram();
        percents.map(|percent| histogram.value_at_percentile(percent).min(self.most))
    }
}

/// A copy of one-way times: the clocks of the two hosts may differ, so they may be negative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneWayReading {
    least: i64,
    most: i64,
    cells: Vec<(i64, u64)>,
}

impl OneWayReading {
    /// The least time is negative or too long to be true: only the variation means something.
    pub fn clocks_differ(&self) -> bool {
        !self.cells.is_empty() && !(0..=i64::from(ONE_WAY_AGREED_US)).contains(&self.least)
    }

    /// Microseconds on the way, or above the least if the clocks differ.
    pub fn reading(&self) -> Reading {
        let zero = if self.clocks_differ() { self.least } else { 0 };
        let above = |value: i64| u64::try_from(value - zero).unwrap_or(0);
        let mut reading =
            Reading { least: above(self.least), most: above(self.most), cells: Vec::new() };
        for &(value, count) in &self.cells {
            let value = above(value);
            match reading.cells.last_mut() {
                Some(last) if last.0 == value => last.1 += count,
                _ => reading.cells.push((value, count)),
            }
        }
        reading
    }

    /// Adds what another writer counted.
    pub fn merge(&mut self, other: &Self) {
        if other.cells.is_empty() {
            return;
        }
        let empty = self.cells.is_empty();
        self.least = if empty { other.least } else { self.least.min(other.least) };
        self.most = if empty { other.most } else { self.most.max(other.most) };
        self.cells.extend_from_slice(&other.cells);
        self.cells.sort_unstable();
    }
}

// --- One-way times ---

/// Where the values of a histogram lie: counted is the distance to `base`, in microseconds modulo
/// 2^32 as the stamps are.
#[derive(Debug)]
struct Extent {
    base: AtomicI32,
    /// Relative to `base`; `least` is above `most` until there is a value.
    least: AtomicI32,
    most: AtomicI32,
}

impl Extent {
    const fn new() -> Self {
        Self {
            base: AtomicI32::new(0),
            least: AtomicI32::new(i32::MAX),
            most: AtomicI32::new(i32::MIN),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.least.load(Relaxed) > self.most.load(Relaxed)
    }

    #[inline]
    fn include(&self, relative: i32) {
        if relative < self.least.load(Relaxed) {
            self.least.store(relative, Relaxed);
        }
        if relative > self.most.load(Relaxed) {
            self.most.store(relative, Relaxed);
        }
    }

    fn reading(&self, cells: impl Iterator<Item = (i64, u64)>) -> OneWayReading {
        let base = i64::from(self.base.load(Relaxed));
        let at = |relative: &AtomicI32| base + i64::from(relative.load(Relaxed));
        let cells = cells.filter(|&(_, count)| count > 0);
        let cells = cells.map(|(value, count)| (base + value, count)).collect();
        OneWayReading { least: at(&self.least), most: at(&self.most), cells }
    }
}

/// Microseconds from a frame's stamp to `now`, both of them wall clocks modulo 2^32.
#[inline]
fn passed_us(now: u32, stamp: u32) -> i32 {
    now.wrapping_sub(stamp).cast_signed()
}

/// One-way times of a channel at one peer: a bucket for zero, one for each power of two above it
/// and one for each below.
///
/// What is counted is the distance to a base: zero if the first frame's time is one that clocks that
/// agree would give, that time otherwise. So the small differences between frames are seen however
/// far the clocks are apart.
#[derive(Debug)]
pub struct OneWay {
    extent: Extent,
    counts: [AtomicU64; Self::BUCKETS],
}

impl Default for OneWay {
    fn default() -> Self {
        Self { extent: Extent::new(), counts: [const { AtomicU64::new(0) }; Self::BUCKETS] }
    }
}

impl OneWay {
    pub const BUCKETS: usize = 64;
    const ZERO: u32 = 32;

    /// `frames` frames with this stamp have come.
    #[inline]
    pub fn record(&self, now: u32, stamp: u32, frames: u64) {
        let time = passed_us(now, stamp);
        let mut relative = time.wrapping_sub(self.extent.base.load(Relaxed));
        if relative < -BASE_SLACK_US || self.extent.is_empty() {
            relative = self.rebase(time);
        }
        self.extent.include(relative);
        bump(&self.counts[Self::bucket(relative)], frames);
    }

    pub fn read(&self) -> OneWayReading {
        let counts = self.counts.iter().zip(0..);
        self.extent.reading(counts.map(|(n, bucket)| (Self::highest(bucket), n.load(Relaxed))))
    }

    /// Makes `time` the least and moves what was counted to where it lies seen from there.
    #[cold]
    fn rebase(&self, time: i32) -> i32 {
        let agreed = (0..=ONE_WAY_AGREED_US).contains(&time);
        let base = if agreed { 0 } else { time };
        let extent = &self.extent;
        if !extent.is_empty() {
            let shift = extent.base.load(Relaxed).wrapping_sub(base);
            let mut moved = [0; Self::BUCKETS];
            for (count, bucket) in self.counts.iter().zip(0..) {
                let to = Self::bucket(Self::middle(bucket).saturating_add(shift));
                moved[to] += count.load(Relaxed);
            }
            for (count, moved) in self.counts.iter().zip(moved) {
                count.store(moved, Relaxed);
            }
            extent.most.store(extent.most.load(Relaxed).saturating_add(shift), Relaxed);
            extent.least.store(i32::MAX, Relaxed);
        }
        extent.base.store(base, Relaxed);
        time.wrapping_sub(base)
    }

    #[inline]
    fn bucket(relative: i32) -> usize {
        let octave = 31_u32.saturating_sub(relative.unsigned_abs().leading_zeros());
        let bucket = match relative {
            0 => Self::ZERO,
            1.. => Self::ZERO + 1 + octave,
            ..0 => Self::ZERO - 1 - octave,
        };
        bucket as usize
    }

    /// Largest value of a bucket.
    fn highest(bucket: u32) -> i64 {
        match bucket.checked_sub(Self::ZERO) {
            Some(octaves) => (1 << octaves) - 1,
            None => -(1 << (Self::ZERO - 1 - bucket)),
        }
    }

    fn middle(bucket: u32) -> i32 {
        let middle = match bucket.checked_sub(Self::ZERO) {
            Some(0) => 0,
            Some(octaves) => 3_i64 << octaves >> 2,
            None => -(3_i64 << (Self::ZERO - 1 - bucket) >> 1),
        };
        i32::try_from(middle).unwrap_or(i32::MIN)
    }
}

/// One-way times with three digits on either side of the base. Made by the control thread, written by
/// one worker for as long as somebody watches.
#[derive(Debug)]
pub struct FullHistogram {
    extent: Extent,
    /// Times of the base or later.
    later: LogLinear<FULL>,
    /// Times before the base, as distances.
    earlier: LogLinear<FULL>,
}

impl Default for FullHistogram {
    fn default() -> Self {
        let max = u64::from(i32::MIN.unsigned_abs());
        Self { extent: Extent::new(), later: LogLinear::new(max), earlier: LogLinear::new(max) }
    }
}

impl FullHistogram {
    /// As [`OneWay::record`], which has counted these frames already.
    #[inline]
    pub fn record(&self, seen: &OneWay, now: u32, stamp: u32, frames: u64) {
        if self.extent.is_empty() {
            self.extent.base.store(seen.extent.base.load(Relaxed), Relaxed);
        }
        let relative = passed_us(now, stamp).wrapping_sub(self.extent.base.load(Relaxed));
        self.extent.include(relative);
        let cells = if relative < 0 { &self.earlier } else { &self.later };
        cells.record(u64::from(relative.unsigned_abs()), frames);
    }

    pub fn read(&self) -> OneWayReading {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (earlier, later) = (self.earlier.read().cells, self.later.read().cells);
        let earlier = earlier.into_iter().rev().map(|(value, n)| (-signed(value), n));
        let later = later.into_iter().map(|(value, n)| (signed(value), n));
        self.extent.reading(earlier.chain(later))
    }
}

/// Who watches which channel at one worker. Has room for [`WATCHES_MAX`] from the start.
#[derive(Debug)]
pub struct Watches {
    list: Vec<(u64, Arc<ChannelStats>, Arc<FullHistogram>)>,
}

impl Default for Watches {
    fn default() -> Self {
        // A relay counts the two directions of a channel apart.
        Self { list: Vec::with_capacity(2 * WATCHES_MAX) }
    }
}

impl Watches {
    /// From now on frames of the channel with these counters are counted in `full`, too.
    pub fn add(&mut self, watch: u64, stats: Arc<ChannelStats>, full: Arc<FullHistogram>) {
        self.list.push((watch, stats, full));
    }

    pub fn remove(&mut self, watch: u64) {
        self.list.retain(|(number, _, _)| *number != watch);
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// `frames` frames of a channel with this stamp have come.
    #[inline]
    pub fn record(&self, stats: &ChannelStats, now: u32, stamp: u32, frames: u64) {
        stats.one_way.record(now, stamp, frames);
        if !self.list.is_empty() {
            self.record_watched(stats, now, stamp, frames);
        }
    }

    fn record_watched(&self, stats: &ChannelStats, now: u32, stamp: u32, frames: u64) {
        for (_, watched, full) in &self.list {
            if std::ptr::eq(&**watched, stats) {
                full.record(&stats.one_way, now, stamp, frames);
            }
        }
    }
}

// --- Inside the relay ---

/// Times and sizes of one worker.
#[derive(Debug)]
pub struct RelayHistograms {
    /// From the kernel's receive time of a frame to the hand-over of its batch to send; sampled.
    pub inside_ns: LogLinear<FINE>,
    /// Datagrams of one batch.
    pub batch: LogLinear<FINE>,
    /// Datagrams of one receive: more than one if the kernel merged them.
    pub receive_segments: LogLinear<FINE>,
    /// Datagrams of one send: more than one if the kernel is to split them.
    pub send_segments: LogLinear<FINE>,
    /// As `inside_ns`, by the link that the frames came from.
    hops: Box<[OnceLock<LogLinear<COARSE>>]>,
}

impl Default for RelayHistograms {
    fn default() -> Self {
        let sizes = || LogLinear::new(1 << 14);
        Self {
            inside_ns: LogLinear::new(INSIDE_NS_MAX),
            batch: sizes(),
            receive_segments: sizes(),
            send_segments: sizes(),
            hops: (0..LINKS_MAX).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl RelayHistograms {
    /// Makes room for a link; what it has counted already stays.
    pub fn open_hop(&self, link: LinkId) {
        if let Some(hop) = self.hops.get(usize::from(link.0)) {
            hop.get_or_init(|| LogLinear::new(INSIDE_NS_MAX));
        }
    }

    /// `frames` frames that came over `link` were in this worker for that long.
    #[inline]
    pub fn record_inside(&self, link: LinkId, nanos: u64, frames: u64) {
        self.inside_ns.record(nanos, frames);
        if let Some(hop) = self.hops.get(usize::from(link.0)).and_then(OnceLock::get) {
            hop.record(nanos, frames);
        }
    }

    /// What frames that came over `link` took.
    pub fn read_hop(&self, link: LinkId) -> Reading {
        let hop = self.hops.get(usize::from(link.0)).and_then(OnceLock::get);
        hop.map(LogLinear::read).unwrap_or_default()
    }
}

/// For a lane that is no worker's: one thread writes and reads.
pub fn inside_histogram() -> LogLinear<FINE> {
    LogLinear::new(INSIDE_NS_MAX)
}

/// What [`inside_histogram`] makes.
pub type InsideHistogram = LogLinear<FINE>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The value of rank ceil(p % of n) in a sorted list: the definition, not the crate.
    fn oracle(values: &[u64], percent: f64) -> u64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let count = u32::try_from(sorted.len()).unwrap();
        let rank = (percent / 100.0 * f64::from(count)).ceil().max(1.0);
        let index = (0..count).take_while(|&index| f64::from(index + 1) < rank).count();
        sorted[index.min(sorted.len() - 1)]
    }

    fn assert_close(found: u64, exact: u64, parts: u64, what: &str) {
        let slack = exact / parts + 1;
        assert!(found + slack >= exact && found <= exact + slack, "{what}: {found}, not {exact}");
    }

    #[test]
    fn every_value_lies_in_its_cell_and_cells_touch() {
        type Cells = LogLinear<FINE>;
        for octave in 0..36 {
            for value in [1_u64 << octave, (1 << octave) + 1, (2 << octave) - 1, 5 << octave >> 2] {
                let index = Cells::index(value);
                assert!((Cells::lowest(index)..=Cells::highest(index)).contains(&value), "{value}");
                assert!(Cells::highest(index) <= value + value / 64, "{value}");
            }
        }
        for index in 0..1_000 {
            assert_eq!(Cells::highest(index) + 1, Cells::lowest(index + 1), "{index}");
        }
        let small = Cells::new(100);
        small.record(u64::MAX, 2);
        assert_eq!(small.read().count(), 2, "above the largest value");
    }

    #[test]
    fn every_time_lies_in_its_bucket_of_64() {
        let cases = [
            (i32::MIN, 0),
            (-5, 29),
            (-4, 29),
            (-3, 30),
            (-1, 31),
            (0, 32),
            (1, 33),
            (2, 34),
            (3, 34),
            (4, 35),
            (i32::MAX, 63),
        ];
        for (time, bucket) in cases {
            assert_eq!(OneWay::bucket(time), bucket, "{time}");
        }
        for bucket in 0..64 {
            let index = usize::try_from(bucket).unwrap();
            let highest = i32::try_from(OneWay::highest(bucket)).unwrap();
            assert_eq!(OneWay::bucket(highest), index);
            assert_eq!(OneWay::bucket(OneWay::middle(bucket)), index);
            if highest < i32::MAX {
                assert_eq!(OneWay::bucket(highest + 1), index + 1);
            }
        }
    }

    #[test]
    fn a23_percentiles_are_those_of_the_sorted_values() {
        let inside = inside_histogram();
        let values: Vec<u64> = (0..10_000_u64).map(|n| 300 + n * n % 7_919 * (n % 13)).collect();
        values.iter().for_each(|&value| inside.record(value, 1));
        let reading = inside.read();
        let percents = [50.0, 90.0, 99.0, 99.9, 100.0];
        for (found, percent) in reading.percentiles(percents).into_iter().zip(percents) {
            assert_close(found, oracle(&values, percent), 60, &percent.to_string());
        }
        assert_close(reading.least, 300, 60, "least");
    }

    #[test]
    fn a23_one_way_times_of_agreeing_clocks_are_shown_as_they_are() {
        let one_way = OneWay::default();
        for (now, stamp, frames) in [(1_500, 1_000, 7), (3, u32::MAX - 96, 2), (1_000, 1_000, 1)] {
            one_way.record(now, stamp, frames);
        }
        let read = one_way.read();
        assert!(!read.clocks_differ());
        let reading = read.reading();
        assert_eq!((reading.count(), reading.least, reading.most), (10, 0, 500));
        assert_eq!(reading.cells, [(0, 1), (127, 2), (511, 7)]);
    }

    #[test]
    fn a23_of_clocks_that_differ_only_the_variation_is_shown() {
        for offset in [-3_i32, -5_000_000, 1_200_000, 2_000_000_000, i32::MIN, i32::MAX] {
            let (one_way, full) = (OneWay::default(), FullHistogram::default());
            for (index, time) in [300_i32, 100, 180, 20_000, 100].into_iter().enumerate() {
                let now = time.wrapping_add(offset.wrapping_sub(100)).cast_unsigned();
                one_way.record(now, 0, 1);
                full.record(&one_way, now, 0, 1);
                let seen = one_way.read();
                assert_eq!(seen.reading().count(), index as u64 + 1);
            }
            for read in [one_way.read(), full.read()] {
                assert!(read.clocks_differ(), "{offset}");
                let reading = read.reading();
                assert_eq!((reading.count(), reading.least, reading.most), (5, 0, 19_900));
                assert!(reading.percentiles([40.0])[0] <= 1, "{offset}: {read:?}");
            }
            let [p60, p80] = full.read().reading().percentiles([60.0, 80.0]);
            assert_eq!((p60, p80), (80, 200), "{offset}");
        }
    }

    #[test]
    fn a_first_frame_that_was_late_does_not_blur_the_others() {
        let one_way = OneWay::default();
        one_way.record(1_500_000, 0, 1);
        (0..99).for_each(|_| one_way.record(300, 0, 1));
        let read = one_way.read();
        assert!(!read.clocks_differ());
        assert_eq!(read.reading().percentiles([50.0, 99.0]), [511, 511]);
        assert_eq!((read.reading().count(), read.reading().most), (100, 1_500_000));
    }

    #[test]
    fn who_watches_one_channel_sees_that_channel_only() {
        let (watched, other) = (Arc::new(ChannelStats::default()), ChannelStats::default());
        let full = Arc::new(FullHistogram::default());
        let mut watches = Watches::default();
        watches.record(&watched, 10, 0, 1);
        watches.add(5, Arc::clone(&watched), Arc::clone(&full));
        watches.record(&watched, 1_234, 0, 3);
        watches.record(&other, 77, 0, 9);
        watches.remove(5);
        watches.record(&watched, 10, 0, 1);
        assert_eq!(full.read().reading().cells, [(1_234, 3)]);
        assert_eq!(watched.one_way.read().reading().count(), 5);
        assert!(watches.is_empty());
        assert_eq!(Arc::strong_count(&watched), 1);
    }

    #[test]
    fn a_hop_is_counted_beside_its_worker_and_only_if_it_is_open() {
        let relay = RelayHistograms::default();
        relay.open_hop(LinkId(3));
        relay.record_inside(LinkId(3), 5_000, 4);
        relay.record_inside(LinkId(4), 6_000, 1);
        relay.record_inside(LinkId(u16::MAX), 7_000, 1);
        assert_eq!(relay.inside_ns.read().count(), 6);
        assert_eq!(relay.read_hop(LinkId(3)).count(), 4);
        assert_eq!(relay.read_hop(LinkId(4)), Reading::default());
        relay.open_hop(LinkId(3));
        assert_eq!(relay.read_hop(LinkId(3)).count(), 4, "a link that comes back keeps its counts");
    }

    proptest! {
        #[test]
        fn a23_what_writers_counted_apart_is_all_there_once_merged(
            parts in proptest::collection::vec(
                proptest::collection::vec((0_u64..1 << 37, 1_u64..9), 0..60), 1..5)
        ) {
            let (whole, mut merged) = (inside_histogram(), Reading::default());
            for part in &parts {
                let one = inside_histogram();
                for &(value, times) in part {
                    one.record(value, times);
                    whole.record(value, times);
                }
                merged.merge(&one.read());
            }
            prop_assert_eq!(&merged, &whole.read());
            let times: u64 = parts.iter().flatten().map(|&(_, times)| times).sum();
            prop_assert_eq!(merged.count(), times);
            prop_assert_eq!(merged.histogram().len(), times);
        }

        #[test]
        fn one_way_times_merged_are_those_recorded(
            times in proptest::collection::vec(-2_000_000_i32..2_000_000, 1..200),
            split in 0_usize..200,
        ) {
            let parts = times.split_at(split.min(times.len()));
            let (seen, mut merged) = (OneWay::default(), OneWayReading::default());
            for part in [parts.0, parts.1] {
                let full = FullHistogram::default();
                for &time in part {
                    seen.record(time.cast_unsigned(), 0, 1);
                    full.record(&seen, time.cast_unsigned(), 0, 1);
                }
                merged.merge(&full.read());
            }
            let least = i64::from(*times.iter().min().unwrap());
            let differ = !(0..=1_000_000).contains(&least);
            prop_assert_eq!(merged.clocks_differ(), differ);
            prop_assert_eq!(seen.read().clocks_differ(), differ);
            prop_assert_eq!(seen.read().reading().count(), times.len() as u64);
            let zero = if differ { least } else { 0 };
            let exact: Vec<u64> = times.iter().map(|&t| (i64::from(t) - zero).cast_unsigned()).collect();
            let reading = merged.reading();
            prop_assert_eq!(reading.count(), times.len() as u64);
            prop_assert_eq!(reading.least, *exact.iter().min().unwrap());
            prop_assert_eq!(reading.most, *exact.iter().max().unwrap());
            for percent in [50.0, 90.0, 99.0] {
                // Digits are of the distance to the base, which is at most 4 s here.
                let [found] = reading.percentiles([percent]);
                let exact = oracle(&exact, percent);
                prop_assert!(found.abs_diff(exact) <= 4_000_000 / 500, "{} {}", found, exact);
            }
        }
    }
}

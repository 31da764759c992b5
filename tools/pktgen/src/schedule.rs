//! How much to send, of what size, when: rates, sizes, and the pacer that turns time into datagrams.
//!
//! Pure: the time is handed in, once per burst. A burst leaves when all of it is due; who comes late
//! catches up, but not more than [`DEBT_MAX_NS`], so that a stall of the machine does not become a flood.

use std::fmt;
use std::str::FromStr;

use spanway::types::Bandwidth;

use crate::payload::{PAYLOAD_MAX, PAYLOAD_MIN};

/// What a generator that was stalled still sends late: above it, datagrams are skipped and counted.
pub const DEBT_MAX_NS: u64 = 20_000_000;
/// Sizes in one pattern.
const PATTERN_MAX: usize = 64;
/// Above any machine, far below what a `f64` counts exactly.
const PER_SECOND_MAX: f64 = 1e9;
const NANOS: f64 = 1e9;

/// `--rate`: datagrams per second, bits of UDP payload per second, or as fast as it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    PerSecond(f64),
    Bits(Bandwidth),
    Max,
}

/// Why a text is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rate: write datagrams per second (2000, 50k, 1.5M), bits of payload per second \
     (20Mbit/s), or max"
)]
pub struct RateError(String);

impl Rate {
    /// Datagrams per second at these sizes; `None` without a limit.
    pub fn per_second(self, sizes: &Sizes) -> Option<f64> {
        match self {
            Self::PerSecond(rate) => Some(rate),
            // Rates stay below 10^13 bit/s, which a `f64` holds exactly.
            Self::Bits(rate) => Some(rate.bps() as f64 / 8.0 / sizes.mean()),
            Self::Max => None,
        }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let wrong = || RateError(text.chars().take(40).collect());
        if text == "max" {
            return Ok(Self::Max);
        }
        if text.ends_with("/s") {
            return text.parse().map(Self::Bits).map_err(|_| wrong());
        }
        let (number, scale) = match text.as_bytes().last() {
            Some(b'k') => (&text[..text.len() - 1], 1e3),
            Some(b'M') => (&text[..text.len() - 1], 1e6),
            _ => (text, 1.0),
        };
        let digits = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let rate = number.parse::<f64>().map_err(|_| wrong())? * scale;
        if !(digits && rate > 0.0 && rate <= PER_SECOND_MAX) {
            return Err(wrong());
        }
        Ok(Self::PerSecond(rate))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(rate) => write!(f, "{}", per_second(*rate)),
            Self::Bits(rate) => write!(f, "{rate}"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// A rate as people read it: `950/s`, `50.0 k/s`, `1.25 M/s`.
pub fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.2} M/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k/s", rate / 1e3),
        rate => format!("{rate:.0}/s"),
    }
}

/// `--size`: bytes of UDP payload, one size or several in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<usize>);

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizesError {
    #[error(
        "{0:?} is not a size: write bytes of payload (200), several in turn (64:200:1200) or imix"
    )]
    NotASize(String),
    #[error(
        "{0} bytes are too few: a payload carries at least {PAYLOAD_MIN} bytes (flow, sequence, \
         time stamp, sums)"
    )]
    TooSmall(usize),
    #[error("{0} bytes are too many: a UDP payload has at most {PAYLOAD_MAX}")]
    TooLarge(usize),
    #[error("{0} sizes are too many: a pattern has at most {PATTERN_MAX}")]
    TooMany(usize),
}

impl Sizes {
    /// One size for all.
    pub fn one(size: usize) -> Result<Self, SizesError> {
        Self::checked(vec![size])
    }

    /// The usual mix of the Internet as UDP payloads: 7 small, 4 middle, 1 full.
    pub fn imix() -> Self {
        let mut sizes = vec![64; 7];
        sizes.extend([548; 4]);
        sizes.push(1_472);
        Self(sizes)
    }

    /// The pattern; datagram *n* has the size at *n* modulo its length.
    pub fn pattern(&self) -> &[usize] {
        &self.0
    }

    /// Mean bytes of payload.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<usize>() as f64 / self.0.len() as f64
    }

    fn checked(sizes: Vec<usize>) -> Result<Self, SizesError> {
        if sizes.len() > PATTERN_MAX {
            return Err(SizesError::TooMany(sizes.len()));
        }
        for &size in &sizes {
            match size {
                size if size < PAYLOAD_MIN => return Err(SizesError::TooSmall(size)),
                size if size > PAYLOAD_MAX => return Err(SizesError::TooLarge(size)),
                _ => {}
            }
        }
        Ok(Self(sizes))
    }
}

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        if text == "imix" {
            return Ok(Self::imix());
        }
        let wrong = || SizesError::NotASize(text.chars().take(40).collect());
        let sizes: Result<Vec<usize>, _> = text.split(':').map(str::parse).collect();
        Self::checked(sizes.map_err(|_| wrong())?)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::imix() {
            return f.write_str("imix");
        }
        let sizes: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&sizes.join(":"))
    }
}

/// The next stretch of equal sizes out of a pattern, which is what one send can carry.
#[derive(Clone, Debug)]
pub struct Stretches {
    sizes: Sizes,
    at: usize,
}

impl Stretches {
    pub fn new(sizes: Sizes) -> Self {
        Self { sizes, at: 0 }
    }

    /// Takes the next size, and how many of at most `limit` datagrams have it.
    pub fn next(&mut self, limit: usize) -> (usize, usize) {
        let pattern = self.sizes.pattern();
        if pattern.len() == 1 {
            return (pattern[0], limit);
        }
        let size = pattern[self.at];
        let equal = (0..limit).take_while(|n| pattern[(self.at + n) % pattern.len()] == size);
        let count = equal.count();
        self.at = (self.at + count) % pattern.len();
        (size, count)
    }
}

/// Says how many datagrams are due, given the time.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// `None`: as many as possible.
    per_ns: Option<f64>,
    start_ns: u64,
    sent: u64,
    skipped: u64,
    debt_max: u64,
}

impl Pacer {
    /// `per_second` as [`Rate::per_second`] gives it; `start_ns` on the clock of every later call.
    pub fn new(per_second: Option<f64>, start_ns: u64) -> Self {
        let per_ns = per_second.map(|rate| rate / NANOS);
        let debt_max = per_ns.map_or(0, |per_ns| count(per_ns * DEBT_MAX_NS as f64));
        Self { per_ns, start_ns, sent: 0, skipped: 0, debt_max }
    }

    /// How many of at most `burst` datagrams are to be sent now: all or, before their time, none.
    pub fn due(&mut self, now_ns: u64, burst: u64) -> u64 {
        let Some(per_ns) = self.per_ns else { return burst };
        // The first is due at once.
        let planned = 1 + count(now_ns.saturating_sub(self.start_ns) as f64 * per_ns);
        let mut debt = planned.saturating_sub(self.sent + self.skipped);
        let debt_max = self.debt_max.max(2 * burst);
        if debt > debt_max {
            self.skipped += debt - debt_max;
            debt = debt_max;
        }
        if debt >= burst { burst } else { 0 }
    }

    /// Reports what was sent of what was due.
    pub fn sent(&mut self, datagrams: u64) {
        self.sent += datagrams;
    }

    /// When the next `burst` datagrams will be due.
    pub fn next_ns(&self, burst: u64) -> u64 {
        let Some(per_ns) = self.per_ns else { return self.start_ns };
        let before = (self.sent + self.skipped + burst).saturating_sub(1);
        self.start_ns + count((before as f64 / per_ns).ceil())
    }

    /// Datagrams given up because the machine stalled for longer than [`DEBT_MAX_NS`].
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// A non-negative `f64` as a count, rounded down.
fn count(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates at both ends, which is what is wanted"
    )]
    let count = value as u64;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str) -> Sizes {
        text.parse().expect(text)
    }

    #[test]
    fn rates_are_datagrams_bits_or_max() {
        for (text, expected) in [("2000", 2e3), ("50k", 5e4), ("1.5M", 1.5e6), ("0.5", 0.5)] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.per_second(&sizes("200")), Some(expected), "{text}");
        }
        let rate: Rate = "16Mbit/s".parse().expect("a rate");
        assert_eq!(rate.per_second(&sizes("200")), Some(10_000.0));
        assert_eq!(rate.per_second(&sizes("100:300")), Some(10_000.0));
        let rate: Rate = "max".parse().expect("a rate");
        assert_eq!(rate.per_second(&sizes("200")), None);
    }

    #[test]
    fn what_is_no_rate_gets_the_three_forms_as_an_answer() {
        for text in ["", "k", "-5", "0", "1e9", "inf", "NaN", "5x", "20Mbit", "2000M", "1/s"] {
            let error = text.parse::<Rate>().expect_err(text).to_string();
            assert!(error.contains("50k") && error.contains("max"), "{error}");
        }
    }

    #[test]
    fn sizes_are_one_a_pattern_or_imix() {
        assert_eq!(sizes("200").pattern(), [200]);
        assert_eq!(sizes("64:200:1200").pattern(), [64, 200, 1200]);
        assert_eq!(sizes("imix").pattern().len(), 12);
        assert_eq!(sizes("imix").to_string(), "imix");
        assert_eq!(sizes("64:200").to_string(), "64:200");
        assert_eq!("39".parse::<Sizes>(), Err(SizesError::TooSmall(39)));
        assert!(SizesError::TooSmall(39).to_string().contains("at least 40 bytes"));
        assert_eq!("65508".parse::<Sizes>(), Err(SizesError::TooLarge(65_508)));
        assert!(matches!("64,200".parse::<Sizes>(), Err(SizesError::NotASize(_))));
        assert!(matches!("".parse::<Sizes>(), Err(SizesError::NotASize(_))));
        let long = vec!["64"; 65].join(":");
        assert_eq!(long.parse::<Sizes>(), Err(SizesError::TooMany(65)));
    }

    #[test]
    fn stretches_follow_the_pattern_and_never_mix_sizes() {
        let mut stretches = Stretches::new(Sizes::imix());
        let taken: Vec<_> = (0..5).map(|_| stretches.next(5)).collect();
        assert_eq!(taken, [(64, 5), (64, 2), (548, 4), (1_472, 1), (64, 5)]);
        assert_eq!(Stretches::new(sizes("200")).next(32), (200, 32));
    }

    #[test]
    fn a_second_holds_exactly_the_rate_in_whole_bursts() {
        let mut pacer = Pacer::new(Some(50_000.0), 1_000);
        let (mut now, mut total) = (1_000, 0);
        while now < 1_000 + 1_000_000_000 {
            let due = pacer.due(now, 32);
            assert!(due == 0 || due == 32);
            pacer.sent(due);
            total += due;
            now = pacer.next_ns(32).max(now + 1);
        }
        assert!((49_968..=50_032).contains(&total), "{total}");
        assert_eq!(pacer.skipped(), 0);
    }

    #[test]
    fn the_time_a_pacer_names_is_the_time_it_sends_at() {
        for rate in [3.0, 999.0, 50_000.0, 1_234_567.0] {
            let mut pacer = Pacer::new(Some(rate), 5);
            for _ in 0..1_000 {
                let next = pacer.next_ns(8);
                assert_eq!(pacer.due(next + 1, 8), 8, "{rate}");
                pacer.sent(8);
            }
        }
    }

    #[test]
    fn a_short_stall_is_made_up_and_a_long_one_is_not() {
        let mut pacer = Pacer::new(Some(1e6), 0);
        let all = |pacer: &mut Pacer, now| {
            let mut total = 0;
            while pacer.due(now, 10) > 0 {
                pacer.sent(10);
                total += 10;
            }
            total
        };
        assert_eq!(all(&mut pacer, 10_000_000), 10_000);
        assert_eq!(pacer.skipped(), 0);
        assert_eq!(all(&mut pacer, 1_010_000_000), 20_000);
        assert_eq!(pacer.skipped(), 980_001);
    }

    #[test]
    fn without_a_limit_every_burst_is_due() {
        let mut pacer = Pacer::new(None, 100);
        pacer.sent(1 << 40);
        assert_eq!(pacer.due(100, 64), 64);
    }
}

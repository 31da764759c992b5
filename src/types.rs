//! The words of the glossary as types: names, ids, rates, answers.
//!
//! A leaf: everything may use it, it uses nothing of Spanway but [`crate::limits`]. Values are
//! checked where they are made (parse, don't validate), so a `PeerName` or a `Bandwidth` in hand is
//! a valid one.

pub mod address;

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;

/// Microseconds on a clock that only grows, from an origin the owner chose (start of the daemon,
/// start of the simulation). The pure halves never read a clock; they are handed one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The time that passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a name: 1 to {max} characters of a-z A-Z 0-9 - _ . are allowed, the first a letter or digit", max = limits::NAME_BYTES_MAX)]
pub struct NameError {
    text: String,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the characters and the length.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let bytes = text.as_bytes();
                let fits = !bytes.is_empty() && bytes.len() <= limits::NAME_BYTES_MAX;
                let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
                let rest = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
                if fits && first && rest {
                    Ok(Self(Arc::from(text)))
                } else {
                    // Cut, so that a hostile text cannot fill a log line.
                    let text = text.chars().take(limits::NAME_BYTES_MAX + 1).collect();
                    Err(NameError { text })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// The unique name of a peer. Names order by their bytes; the order breaks ties in the tree (A7).
    PeerName
}

name_type! {
    /// The name of a service a peer offers, or a name a person gave a channel.
    ServiceName
}

/// A rate or a capacity in bit/s. Always an integer: two ends must compute the same key (2.1).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bandwidth(u64);

/// Why a text is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BandwidthError {
    #[error("{0:?} has no unit: write a number and a unit, as in \"25 Mbit/s\" or \"500 kbit/s\"")]
    NoUnit(String),
    #[error(
        "{0:?} has an unknown unit: use bit/s, kbit/s, Mbit/s, Gbit/s, B/s, kB/s, MB/s or GB/s"
    )]
    UnknownUnit(String),
    #[error("{0:?} is not a rate: write a positive number and a unit, as in \"25 Mbit/s\"")]
    NotANumber(String),
    #[error("{0:?} is zero: a rate must be at least 1 bit/s")]
    Zero(String),
    #[error("{0:?} is too large: a rate is at most {max}", max = Bandwidth::MAX)]
    TooLarge(String),
}

impl Bandwidth {
    pub const ZERO: Self = Self(0);
    /// 10 Tbit/s: above any host, and far enough from 2^64 that sums of 1,024 links cannot overflow.
    pub const MAX: Self = Self(10_000_000_000_000);

    pub const fn from_bps(bps: u64) -> Self {
        Self(bps)
    }

    pub const fn bps(self) -> u64 {
        self.0
    }

    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// What is left for channels on a link of this capacity: the control lane keeps 5 %, at least
    /// 64 kbit/s (decision 2 of the control-plane specification).
    #[must_use]
    pub const fn usable(self) -> Self {
        let share = self.0 / 20;
        let share = if share < limits::CONTROL_SHARE_BPS_MIN {
            limits::CONTROL_SHARE_BPS_MIN
        } else {
            share
        };
        Self(self.0.saturating_sub(share))
    }

    /// The rate of application payload inside a reservation of this rate, when every datagram has
    /// `payload_bytes` and `overhead_bytes` are added to each on its way (header, tag, UDP, IP).
    #[must_use]
    pub fn payload_rate(self, payload_bytes: u64, overhead_bytes: u64) -> Self {
        let rate = u128::from(self.0) * u128::from(payload_bytes)
            / u128::from((payload_bytes + overhead_bytes).max(1));
        Self(u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

impl FromStr for Bandwidth {
    type Err = BandwidthError;

    /// A decimal number, optional blanks, a unit. `b` is a bit, `B` a byte; prefixes are decimal.
    fn from_str(text: &str) -> Result<Self, BandwidthError> {
        let shown = || text.chars().take(40).collect::<String>();
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
            .unwrap_or(trimmed.len());
        let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
        if number.is_empty() {
            return Err(BandwidthError::NotANumber(shown()));
        }
        if unit.is_empty() {
            return Err(BandwidthError::NoUnit(shown()));
        }
        let scale: u128 = match unit {
            "bit/s" => 1,
            "kbit/s" => 1_000,
            "Mbit/s" => 1_000_000,
            "Gbit/s" => 1_000_000_000,
            "B/s" => 8,
            "kB/s" => 8_000,
            "MB/s" => 8_000_000,
            "GB/s" => 8_000_000_000,
            _ => return Err(BandwidthError::UnknownUnit(shown())),
        };
        let bps = decimal(number, scale).ok_or_else(|| BandwidthError::NotANumber(shown()))?;
        if bps > u128::from(Self::MAX.0) {
            return Err(BandwidthError::TooLarge(shown()));
        }
        match u64::try_from(bps) {
            Ok(0) | Err(_) => Err(BandwidthError::Zero(shown())),
            Ok(bps) => Ok(Self(bps)),
        }
    }
}

/// `number * scale` in integers; `None` unless `number` is digits with at most one point and at most
/// nine digits on either side of what fits. No floats: they round.
fn decimal(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.len() <= 20 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let value = |s: &str| if s.is_empty() { Some(0) } else { s.parse::<u128>().ok() };
    let unit = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(value(whole)?.checked_mul(scale)? + value(fraction)?.checked_mul(scale)? / unit)
}

impl fmt::Display for Bandwidth {
    /// The largest unit that needs at most three decimals: `25 Mbit/s`, `1.5 Gbit/s`, `64 kbit/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            n if n >= 1_000_000_000 => (1_000_000_000, "Gbit/s"),
            n if n >= 1_000_000 => (1_000_000, "Mbit/s"),
            n if n >= 1_000 => (1_000, "kbit/s"),
            _ => (1, "bit/s"),
        };
        let thousandths = (u128::from(self.0) * 1_000 / unit) % 1_000;
        let mut text = format!("{}", u128::from(self.0) / unit);
        if thousandths > 0 {
            text.push_str(format!(".{thousandths:03}").trim_end_matches('0'));
        }
        f.pad(&format!("{text} {name}"))
    }
}

impl fmt::Debug for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}bps", self.0)
    }
}

/// How packets are marked for the routers on their way: the six bits of RFC 2474.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dscp(u8);

/// Why a text or a number is no [`Dscp`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no DSCP: write a number from 0 to 63, or one of \"CS0\" to \"CS7\", \"AF11\" to \"AF43\", \"EF\", \"VA\", \"LE\""
)]
pub struct DscpError(String);

impl Dscp {
    pub fn new(number: u64) -> Result<Self, DscpError> {
        match u8::try_from(number) {
            Ok(number) if number < 64 => Ok(Self(number)),
            Ok(_) | Err(_) => Err(DscpError(number.to_string())),
        }
    }

    pub fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for Dscp {
    type Err = DscpError;

    /// The names of RFC 4594, RFC 5865 and RFC 8622, in any case; or the number.
    fn from_str(text: &str) -> Result<Self, DscpError> {
        let wrong = || DscpError(format!("{text:?}"));
        let upper = text.to_ascii_uppercase();
        let digit = |byte: u8, most: u8| {
            let value = byte.wrapping_sub(b'0');
            if value <= most { Ok(value) } else { Err(wrong()) }
        };
        match upper.as_bytes() {
            b"EF" => Ok(Self(46)),
            b"VA" => Ok(Self(44)),
            b"LE" => Ok(Self(1)),
            [b'C', b'S', class] => Ok(Self(digit(*class, 7)? * 8)),
            [b'A', b'F', class @ b'1'..=b'4', drop @ b'1'..=b'3'] => {
                Ok(Self(digit(*class, 4)? * 8 + digit(*drop, 3)? * 2))
            }
            _ => text.parse().ok().and_then(|number| Self::new(number).ok()).ok_or_else(wrong),
        }
    }
}

/// One link of this peer: the position of its `[[link]]` when it was first configured. It means
/// nothing to any other peer and is never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u16);

/// One worker of this peer (a pinned thread of the engine), counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

/// One question of a local client to its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One life of the TCP connection of a link: random, made by the end that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A channel, unique in the overlay: the peer that asked for it, a number drawn when that peer
/// started, and a count. Text form `peer:boot:count`, boot in hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId {
    pub source: PeerName,
    pub boot: u64,
    pub count: u64,
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{:x}:{}", self.source, self.boot, self.count))
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a channel id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a channel id: `spanway channels` lists them, as in \"peer-01:1f3c:7\"")]
pub struct ChannelIdError(String);

impl FromStr for ChannelId {
    type Err = ChannelIdError;

    fn from_str(text: &str) -> Result<Self, ChannelIdError> {
        let parts: Vec<&str> = text.split(':').collect();
        let parsed = match parts.as_slice() {
            [source, boot, count] => PeerName::new(source).ok().and_then(|source| {
                let boot = u64::from_str_radix(boot, 16).ok()?;
                Some(Self { source, boot, count: count.parse().ok()? })
            }),
            _ => None,
        };
        parsed.ok_or_else(|| ChannelIdError(text.chars().take(80).collect()))
    }
}

/// The unit of the ledger: one attempt to hold one path for one channel (2.9). A channel that moves
/// keeps its id and takes the next attempt, so that late messages of the old path cannot touch the
/// new one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId {
    pub channel: ChannelId,
    pub attempt: u32,
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.channel, self.attempt)
    }
}

/// One direction of all links of a host together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// What the host sends.
    Egress,
    /// What it receives.
    Ingress,
}

impl Way {
    pub const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// One run of the tree computation. Ids only grow: larger counter first, then the larger initiator
/// (the order of the fields is the order of sessions, 2.7).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub counter: u64,
    pub initiator: PeerName,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.counter, self.initiator)
    }
}

/// What an edge weighs in the tree. The order of the fields *is* rule A7: more usable capacity
/// first, then the greater smaller name, then the greater larger name; the larger key is better.
/// Names are unique, so keys are distinct, which the algorithm needs (2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeKey {
    pub capacity: Bandwidth,
    pub lower: PeerName,
    pub higher: PeerName,
}

impl EdgeKey {
    /// The key of the link between two peers, whichever is named first.
    pub fn new(capacity: Bandwidth, one: PeerName, other: PeerName) -> Self {
        let (lower, higher) = if one < other { (one, other) } else { (other, one) };
        Self { capacity, lower, higher }
    }

    /// The end that is not `peer`; `None` if `peer` is no end of it.
    pub fn other_end(&self, peer: &PeerName) -> Option<&PeerName> {
        match peer {
            p if *p == self.lower => Some(&self.higher),
            p if *p == self.higher => Some(&self.lower),
            _ => None,
        }
    }
}

/// The label of a frame: chosen by the peer that will receive it, unguessable, valid on one link.
/// The top byte is the worker that owns the channel there ([`Label::worker`]); 0 is never a label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(pub u64);

impl Label {
    /// A label of `worker` from 56 random bits.
    pub fn new(worker: WorkerId, random: u64) -> Self {
        let random = (random & 0x00ff_ffff_ffff_ffff).max(1);
        Self(u64::from(worker.0) << 56 | random)
    }

    pub fn worker(self) -> WorkerId {
        WorkerId(self.0.to_be_bytes()[0])
    }
}

impl fmt::Debug for Label {
    /// Labels are capabilities: whoever knows one can inject. Logs see a stub.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "label {:04x}..", self.0 >> 48)
    }
}

/// The long-lived Ed25519 key that is a peer's identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The first eight bytes in groups, for people to compare: `1f3c-99ab-...`.
    pub fn fingerprint(&self) -> String {
        let hex = |pair: &[u8]| pair.iter().map(|b| format!("{b:02x}")).collect::<String>();
        self.0[..8].chunks(2).map(hex).collect::<Vec<_>>().join("-")
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.fingerprint())
    }
}

/// Why a text is not a public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a public key: 64 hexadecimal digits are needed (`spanway key --config FILE` prints a peer's)"
)]
pub struct PublicKeyError(String);

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let wrong = || PublicKeyError(text.chars().take(80).collect());
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut key = [0; 32];
        for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(key))
    }
}

/// Why a request was rejected: the closed list of decision 13. The text form is the wire form of the
/// JSON contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reject {
    /// No peer of that name is in this component of the overlay, and none is configured.
    NoSuchPeer,
    /// The peer has no service of that name.
    NoSuchService,
    /// The service takes one channel at a time and has one.
    ServiceBusy,
    /// The peer is known, but no path leads there now.
    Unreachable,
    /// No path could carry it even if the overlay were idle.
    Never,
    /// A hop has not enough free capacity now.
    NoRoom,
    /// An open channel of the same asker has that name.
    Duplicate,
    /// No answer came in time; the detail names the hop.
    Timeout,
    /// A peer on the path is leaving.
    ShuttingDown,
    /// A policy forbids it.
    NotAllowed,
    /// A bound of a peer is reached.
    Busy,
    /// The asker withdrew it.
    Cancelled,
    /// It was open and could not be kept.
    Broken,
}

impl Reject {
    pub const ALL: [Self; 13] = [
        Self::NoSuchPeer,
        Self::NoSuchService,
        Self::ServiceBusy,
        Self::Unreachable,
        Self::Never,
        Self::NoRoom,
        Self::Duplicate,
        Self::Timeout,
        Self::ShuttingDown,
        Self::NotAllowed,
        Self::Busy,
        Self::Cancelled,
        Self::Broken,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchPeer => "no_such_peer",
            Self::NoSuchService => "no_such_service",
            Self::ServiceBusy => "service_busy",
            Self::Unreachable => "unreachable",
            Self::Never => "never",
            Self::NoRoom => "no_room",
            Self::Duplicate => "duplicate",
            Self::Timeout => "timeout",
            Self::ShuttingDown => "shutting_down",
            Self::NotAllowed => "not_allowed",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Broken => "broken",
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_a_unit_and_are_shown_back_as_written() {
        for (text, bps) in [
            ("25 Mbit/s", 25_000_000),
            ("25Mbit/s", 25_000_000),
            ("1.5 Gbit/s", 1_500_000_000),
            ("64 kbit/s", 64_000),
            ("3 MB/s", 24_000_000),
            ("0.5 kbit/s", 500),
        ] {
            let rate: Bandwidth = text.parse().expect(text);
            assert_eq!(rate.bps(), bps, "{text}");
            assert_eq!(rate.to_string().parse::<Bandwidth>(), Ok(rate), "{text}");
        }
        assert_eq!(Bandwidth::from_bps(1_500_000).to_string(), "1.5 Mbit/s");
    }

    #[test]
    fn a20_dscps_have_names_and_numbers_from_0_to_63() {
        let number = |text: &str| text.parse().map(Dscp::number);
        for (text, expected) in [("CS0", 0), ("cs6", 48), ("AF11", 10), ("AF43", 38), ("EF", 46)] {
            assert_eq!(number(text), Ok(expected), "{text}");
        }
        assert_eq!([number("VA"), number("LE"), number("63")], [Ok(44), Ok(1), Ok(63)]);
        for text in ["", "CS8", "AF44", "AF51", "AF01", "CS/", "EF ", "64", "-1", "0x2e"] {
            let error = number(text).expect_err(text).to_string();
            assert!(error.contains("0 to 63") && error.contains(&format!("{text:?}")), "{error}");
        }
        assert!(Dscp::new(64).is_err());
    }

    #[test]
    fn a_rate_that_is_none_is_refused_with_the_accepted_form() {
        let error = |text: &str| text.parse::<Bandwidth>().expect_err(text);
        assert!(matches!(error("10"), BandwidthError::NoUnit(_)));
        assert!(matches!(error("-5 Mbit/s"), BandwidthError::NotANumber(_)));
        assert!(matches!(error("NaN"), BandwidthError::NotANumber(_)));
        assert!(matches!(error("1e99"), BandwidthError::UnknownUnit(_)));
        assert!(matches!(error("0 kbit/s"), BandwidthError::Zero(_)));
        assert!(matches!(error("0.0001 bit/s"), BandwidthError::Zero(_)));
        assert!(matches!(error("99999 Gbit/s"), BandwidthError::TooLarge(_)));
        assert!(matches!(error("1.2.3 Mbit/s"), BandwidthError::NotANumber(_)));
        assert!(error("10").to_string().contains("25 Mbit/s"));
    }

    #[test]
    fn the_control_lane_keeps_its_share() {
        assert_eq!(Bandwidth::from_bps(100_000_000).usable().bps(), 95_000_000);
        assert_eq!(Bandwidth::from_bps(1_000_000).usable().bps(), 936_000);
        assert_eq!(Bandwidth::from_bps(10_000).usable(), Bandwidth::ZERO);
    }

    #[test]
    fn a7_keys_order_by_capacity_then_smaller_name_then_larger_name() {
        let name = |text: &str| PeerName::new(text).expect(text);
        let key = |bps, a: &str, b: &str| EdgeKey::new(Bandwidth::from_bps(bps), name(a), name(b));
        assert!(key(2, "a", "b") > key(1, "y", "z"));
        assert!(key(1, "b", "c") > key(1, "a", "z"));
        assert!(key(1, "a", "c") > key(1, "b", "a"));
        assert_eq!(key(1, "b", "a"), key(1, "a", "b"));
    }

    #[test]
    fn sessions_order_by_counter_then_initiator() {
        let session =
            |counter, name| SessionId { counter, initiator: PeerName::new(name).expect("name") };
        assert!(session(2, "a") > session(1, "z"));
        assert!(session(2, "b") > session(2, "a"));
    }

    #[test]
    fn ids_survive_their_text_form() {
        let id =
            ChannelId { source: PeerName::new("peer-01").expect("name"), boot: 0x1f3c, count: 7 };
        assert_eq!(id.to_string(), "peer-01:1f3c:7");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("peer-01:7".parse::<ChannelId>().is_err());
        let key = PublicKey([0xab; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!("ab".parse::<PublicKey>().is_err());
    }

    #[test]
    fn a_name_with_a_slash_a_blank_or_no_letter_is_refused() {
        for text in ["", "a/b", "a b", "-a", ".", "ä", &"a".repeat(64)] {
            assert!(PeerName::new(text).is_err(), "{text:?}");
        }
        assert!(PeerName::new("berlin-2.example_x").is_ok());
    }

    #[test]
    fn labels_carry_their_worker_and_hide_in_logs() {
        let label = Label::new(WorkerId(3), u64::MAX);
        assert_eq!(label.worker(), WorkerId(3));
        assert_eq!(format!("{:?}", Label(0x0102_0304_0506_0708)), "label 0102..");
        assert_ne!(Label::new(WorkerId(0), 0), Label(0));
    }
}

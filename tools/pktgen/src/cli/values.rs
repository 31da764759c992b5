//! Values of arguments that are more than a word: times, addresses, switches, CPUs.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::ValueEnum;

use crate::affinity;
use crate::check::Verify;

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// `--verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum VerifyArg {
    /// Every payload from its first byte to its last
    All,
    /// Every header, and the whole of one payload in 16
    Sample,
    /// Every header
    None,
}

impl From<VerifyArg> for Verify {
    fn from(verify: VerifyArg) -> Self {
        match verify {
            VerifyArg::All => Self::All,
            VerifyArg::Sample => Self::Sample,
            VerifyArg::None => Self::None,
        }
    }
}

/// `--prefix`: bytes as pairs of hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prefix(pub(super) Vec<u8>);

/// Above any header that a relay takes off.
const PREFIX_MAX: usize = 64;

pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    let wrong = || format!("{text:?} is no prefix: write 1 to {PREFIX_MAX} bytes in hexadecimal");
    let digits = text.chars().map(|digit| digit.to_digit(16).and_then(|n| u8::try_from(n).ok()));
    let digits: Vec<u8> = digits.collect::<Option<_>>().ok_or_else(wrong)?;
    let (pairs, []) = digits.as_chunks::<2>() else { return Err(wrong()) };
    if !(1..=PREFIX_MAX).contains(&pairs.len()) {
        return Err(wrong());
    }
    Ok(Prefix(pairs.iter().map(|[high, low]| high << 4 | low).collect()))
}

/// A number, possibly with a point, and `us`, `ms`, `s` or `m`; longer than nothing, at most a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const DAY: f64 = 86_400.0;
    let wrong = || {
        format!("{text:?} is not a time: write a number and a unit, as in 50us, 500ms, 5s or 2m")
    };
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
    let number: f64 = text[..split].parse().map_err(|_| wrong())?;
    let seconds = match &text[split..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        _ => return Err(wrong()),
    };
    if !(seconds > 0.0 && seconds <= DAY) {
        return Err(format!("{text:?} is out of range: more than nothing and at most a day"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// `HOST:PORT`; a name is looked up, the first address counts.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map_err(|error| {
        format!("{text:?} is not an address: {error}. Write HOST:PORT, as in 192.0.2.7:9000 or [::1]:9000")
    })?;
    let mut found = found;
    found.next().ok_or_else(|| format!("{text:?} has no address"))
}

/// A CPU this process may run on.
pub(super) fn cpu(text: &str) -> Result<usize, String> {
    let cpu = text.parse().map_err(|_| format!("{text:?} is not the number of a CPU"))?;
    affinity::check(cpu)?;
    Ok(cpu)
}

/// Per cent of loss that a goal allows.
pub(super) fn loss(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%');
    match number.parse() {
        Ok(loss) if (0.0..100.0).contains(&loss) => Ok(loss),
        _ => Err(format!("{text:?} is not a loss in per cent: write 0, 0.1 or 0.5")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_a_length() {
        assert_eq!(duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "5", "s", "-1s", "0s", "1h", "9999m", "1e3s"] {
            let error = duration(text).expect_err(text);
            assert!(error.contains("500ms") || error.contains("a day"), "{error}");
        }
    }

    #[test]
    fn a_prefix_is_pairs_of_hexadecimal_digits() {
        assert_eq!(prefix("400100C8"), Ok(Prefix(vec![0x40, 1, 0, 0xc8])));
        for text in ["", "4", "4g", "0x40", "40 01", &"00".repeat(65)] {
            assert!(prefix(text).expect_err(text).contains("hexadecimal"));
        }
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        assert_eq!(address("127.0.0.1:80"), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert!(address("[::1]:80").expect("an address").is_ipv6());
        assert!(address("127.0.0.1").expect_err("no port").contains("HOST:PORT"));
    }

    #[test]
    fn losses_are_per_cent_below_hundred() {
        assert_eq!(loss("0.1"), Ok(0.1));
        assert_eq!(loss("0.5%"), Ok(0.5));
        for text in ["", "-1", "100", "NaN", "x"] {
            assert!(loss(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused_with_those_that_are() {
        assert!(cpu("100000").expect_err("no such CPU").contains("it may use"));
        assert!(cpu("x").is_err());
    }
}

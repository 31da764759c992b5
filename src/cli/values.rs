//! Values of arguments that are more than a word: destinations, times, rates back, percentages.

use std::str::FromStr;
use std::time::Duration;

use crate::api::dto::{NamedPath, PathChoice};
use crate::limits;
use crate::types::{Bandwidth, PeerName, ServiceName};

/// `PEER/SERVICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) peer: PeerName,
    pub(super) service: ServiceName,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (peer, service) = text.split_once('/').ok_or_else(|| {
            format!("{text:?} names no service: write PEER/SERVICE, as in peer-03/video")
        })?;
        Ok(Self {
            peer: peer.parse().map_err(|error| format!("the peer: {error}"))?,
            service: service.parse().map_err(|error| format!("the service: {error}"))?,
        })
    }
}

/// `--bandwidth-back`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackRate {
    Same,
    Rate(Bandwidth),
}

impl BackRate {
    pub(super) fn rate(self, forward: Bandwidth) -> Bandwidth {
        match self {
            Self::Same => forward,
            Self::Rate(rate) => rate,
        }
    }
}

impl FromStr for BackRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "same" => Ok(Self::Same),
            rate => match rate.parse() {
                Ok(rate) => Ok(Self::Rate(rate)),
                Err(error) => Err(format!("{error}, or the word `same`")),
            },
        }
    }
}

/// `tree`, `widest`, `tree-then-widest`, or names with commas between.
pub(super) fn path_choice(text: &str) -> Result<PathChoice, String> {
    let named = match text {
        "tree" => NamedPath::Tree,
        "widest" => NamedPath::Widest,
        "tree-then-widest" => NamedPath::TreeThenWidest,
        peers => {
            let names = peers.split(',').map(|name| name.trim().parse::<PeerName>());
            return names
                .collect::<Result<_, _>>()
                .map(PathChoice::Given)
                .map_err(|error| format!("{error}; or write tree or widest"));
        }
    };
    Ok(PathChoice::Named(named))
}

/// A whole number and `ms`, `s`, `m` or `h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a time: write a number and a unit, as in 500ms, 30s, 2m or 1h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u32 = text[..split].parse().map_err(|_| wrong())?;
    let number = u64::from(number);
    match &text[split..] {
        _ if number == 0 => Err(format!("{text:?} is no time at all: it must be longer")),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3_600)),
        _ => Err(wrong()),
    }
}

/// 0 to 100, with or without the sign.
pub(super) fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse() {
        Ok(percent @ 0..=100) => Ok(percent),
        _ => Err(format!("{text:?} is not a percentage: 0 to 100 is allowed")),
    }
}

/// `--cpus`: numbers and ranges, as in `0,2-3`.
pub(super) fn cpus(text: &str) -> Result<Cpus, String> {
    let wrong = || format!("{text:?} is not a list of CPUs: write numbers and ranges, as in 0,2-3");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) =
            first.parse().and_then(|first| Ok((first, last.parse()?))).map_err(|_| wrong())?;
        if first > last || last > limits::CPU_NUMBER_MAX {
            return Err(wrong());
        }
        for cpu in first..=last {
            let cpu = usize::try_from(cpu).map_err(|_| wrong())?;
            if cpus.contains(&cpu) {
                return Err(format!("{text:?} names CPU {cpu} twice: one worker a CPU"));
            }
            cpus.push(cpu);
        }
    }
    if cpus.len() > limits::WORKERS_MAX {
        let workers_max = limits::WORKERS_MAX;
        return Err(format!("{text:?} are {} CPUs: at most {workers_max} are used", cpus.len()));
    }
    Ok(Cpus(cpus))
}

/// The CPUs of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpus(pub(super) Vec<usize>);

/// Microseconds as milliseconds with two decimals.
pub(super) fn millis(micros: u64) -> String {
    format!("{}.{:02}", micros / 1_000, micros % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_peer_and_a_service() {
        let destination: Destination = "peer-03/video".parse().expect("a destination");
        assert_eq!(destination.peer.as_str(), "peer-03");
        assert_eq!(destination.service.as_str(), "video");
        for text in ["peer-03", "/video", "peer-03/", "a/b/c", "a b/c"] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "5", "0s", "-1s", "1d", "s", "99999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_cpus_are_numbers_and_ranges() {
        assert_eq!(cpus("0"), Ok(Cpus(vec![0])));
        assert_eq!(cpus("3,0-1"), Ok(Cpus(vec![3, 0, 1])));
        for text in ["", "x", "1,", "2-1", "-1", "1-", "1024", "0-64", "1,0-2", "0 1"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_end_at_a_hundred() {
        assert_eq!(percent("80"), Ok(80));
        assert_eq!(percent("100%"), Ok(100));
        assert!(percent("101").is_err());
        assert!(percent("-1").is_err());
    }

    #[test]
    fn microseconds_are_shown_as_milliseconds() {
        assert_eq!(millis(7), "0.00");
        assert_eq!(millis(1_234), "1.23");
        assert_eq!(millis(250_000), "250.00");
    }
}

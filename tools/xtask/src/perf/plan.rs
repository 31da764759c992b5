//! What can be measured: the scenarios, the candidates that make sense in each, and how long a trial
//! takes. Pure.

use super::record::Settings;

/// What is started as the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Uring,
    Mmsg,
    Yardstick,
    /// recvmmsg and sendmmsg of 64, no UDP_GRO, no UDP_SEGMENT.
    Plain,
    /// recv and send, one by one.
    One,
    /// IP forwarding: no process at all.
    Kernel,
    Nginx,
    Coturn,
    Socat,
    Srt,
    Quilkin,
    /// `spanway run` between two neighbours, which are the generator and the sink.
    OverlayUring,
    OverlayMmsg,
    /// As the first, with hop tags on both links.
    OverlayTagged,
}

impl Kind {
    pub(crate) const ALL: [Self; 14] = [
        Self::Uring,
        Self::Mmsg,
        Self::Yardstick,
        Self::Plain,
        Self::One,
        Self::Kernel,
        Self::Nginx,
        Self::Coturn,
        Self::Socat,
        Self::Srt,
        Self::Quilkin,
        Self::OverlayUring,
        Self::OverlayMmsg,
        Self::OverlayTagged,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Mmsg => "mmsg",
            Self::Yardstick => "yardstick",
            Self::Plain => "plain",
            Self::One => "one-by-one",
            Self::Kernel => "kernel",
            Self::Nginx => "nginx",
            Self::Coturn => "coturn",
            Self::Socat => "socat",
            Self::Srt => "srt",
            Self::Quilkin => "quilkin",
            Self::OverlayUring => "overlay-uring",
            Self::OverlayMmsg => "overlay-mmsg",
            Self::OverlayTagged => "overlay-tagged",
        }
    }

    /// The back end of the daemon, if it is the relay.
    pub(crate) const fn backend(self) -> Option<&'static str> {
        match self {
            Self::Uring | Self::OverlayUring | Self::OverlayTagged => Some("uring"),
            Self::Mmsg | Self::OverlayMmsg => Some("mmsg"),
            Self::Yardstick
            | Self::Plain
            | Self::One
            | Self::Kernel
            | Self::Nginx
            | Self::Coturn
            | Self::Socat
            | Self::Srt
            | Self::Quilkin => None,
        }
    }

    pub(crate) const fn is_overlay(self) -> bool {
        matches!(self, Self::OverlayUring | Self::OverlayMmsg | Self::OverlayTagged)
    }
}

/// Where frames travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// veth without segmentation of UDP and TCP, with GRO: every frame crosses it by itself, as on a NIC
    /// without UDP segmentation, and may coalesce where it arrives.
    Nic,
    /// The same, and a kernel thread on the relay's CPU receives for it.
    NicReceiveCharged,
    /// veth as the kernel makes it.
    Veth,
    Loopback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) wire: Wire,
    pub(crate) ip: Ip,
    /// Bytes of UDP payload as generated.
    pub(crate) size: u32,
    pub(crate) mtu: u32,
    /// Frames that the generator sends at once.
    pub(crate) burst: u32,
    /// Whether it hands a burst to the kernel as one super-buffer.
    pub(crate) gso: bool,
    /// Channels that an overlay carries; without any there is none, and candidates of overlays are left
    /// out. All others then carry datagrams as large as the overlay's frames.
    pub(crate) channels: u32,
    pub(crate) candidates: &'static [Kind],
}

const ALL_KINDS: &[Kind] = &[
    Kind::Uring,
    Kind::Mmsg,
    Kind::Yardstick,
    Kind::Plain,
    Kind::One,
    Kind::Kernel,
    Kind::Nginx,
    Kind::Coturn,
    Kind::Socat,
    Kind::Srt,
    Kind::Quilkin,
];
/// Those that fit into ten minutes of fifteen rounds.
const MAIN: &[Kind] =
    &[Kind::Uring, Kind::Mmsg, Kind::Yardstick, Kind::Plain, Kind::Kernel, Kind::Nginx];
const OURS: &[Kind] = &[Kind::Uring, Kind::Mmsg, Kind::Yardstick, Kind::Plain];
const CEILING: &[Kind] = &[Kind::Uring, Kind::Mmsg, Kind::Yardstick, Kind::Plain, Kind::Kernel];

const NIC: Scenario = Scenario {
    name: "nic",
    title: "E-nic, 200 B: bursts of 32, every frame by itself on the wire",
    wire: Wire::Nic,
    ip: Ip::V4,
    size: 200,
    mtu: 1500,
    burst: 32,
    gso: true,
    channels: 0,
    candidates: MAIN,
};

/// Of `cargo xtask flood`: one channel, so that one worker carries all of it.
pub(crate) const FLOOD: Scenario = Scenario {
    name: "flood",
    title: "E-nic, 200 B in frames of 264 B: one channel through an overlay relay",
    channels: 1,
    candidates: &[Kind::OverlayUring],
    ..NIC
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    NIC,
    Scenario {
        name: "rivals",
        title: "E-nic, 200 B: everything that is installed",
        candidates: ALL_KINDS,
        ..NIC
    },
    Scenario { name: "nic-64", title: "E-nic, 64 B", size: 64, candidates: OURS, ..NIC },
    Scenario { name: "nic-1200", title: "E-nic, 1200 B", size: 1200, candidates: OURS, ..NIC },
    Scenario {
        name: "nic-8900",
        title: "E-nic, 8900 B, bursts of 7",
        size: 8900,
        mtu: 9200,
        burst: 7,
        candidates: OURS,
        ..NIC
    },
    Scenario { name: "nic6", title: "E-nic, 200 B, IPv6", ip: Ip::V6, candidates: OURS, ..NIC },
    Scenario {
        name: "napi",
        title: "E-nic, 200 B, receive work charged to the relay's CPU (threaded NAPI)",
        wire: Wire::NicReceiveCharged,
        candidates: CEILING,
        ..NIC
    },
    Scenario {
        name: "lo",
        title: "E-lo, 200 B: loopback, super-buffers end to end",
        wire: Wire::Loopback,
        candidates: OURS,
        ..NIC
    },
    Scenario {
        name: "overlay",
        title: "E-nic, 200 B in frames of 264 B: a full overlay relay, 100 channels",
        channels: 100,
        candidates: &[Kind::OverlayUring, Kind::OverlayTagged, Kind::OverlayMmsg, Kind::Yardstick],
        ..NIC
    },
    Scenario {
        name: "one",
        title: "E-one, 200 B: single datagrams, nothing can coalesce",
        wire: Wire::Veth,
        burst: 1,
        gso: false,
        candidates: OURS,
        ..NIC
    },
    Scenario {
        name: "one-nic",
        title: "Single datagrams, 200 B, over veth without segmentation",
        burst: 1,
        gso: false,
        candidates: OURS,
        ..NIC
    },
];

pub(crate) const SETTINGS: Settings = Settings {
    rounds: 15,
    fixed_rate: 50_000.0,
    fixed_ms: 800,
    blast_ms: 400,
    probe_ms: 400,
    probes_max: 6,
    latency_ms: 500,
};

/// To see that everything works; the numbers are worth nothing.
pub(crate) const QUICK: Settings = Settings {
    rounds: 1,
    fixed_rate: 50_000.0,
    fixed_ms: 300,
    blast_ms: 200,
    probe_ms: 150,
    probes_max: 4,
    latency_ms: 200,
};

/// The candidates of one round: each round begins one further, so that none is always first.
pub(crate) fn rotated<T>(candidates: &[T], round: u32) -> impl Iterator<Item = &T> {
    let first = (round as usize).checked_rem(candidates.len()).unwrap_or(0);
    candidates[first..].iter().chain(&candidates[..first])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_has_every_place_in_turn() {
        let order = |round| rotated(&["a", "b", "c"], round).copied().collect::<String>();
        assert_eq!([order(0), order(1), order(2), order(3)], ["abc", "bca", "cab", "abc"]);
        assert_eq!(rotated::<u8>(&[], 4).count(), 0);
    }

    #[test]
    fn a_burst_fits_into_one_send_and_a_frame_into_the_wire() {
        for scenario in SCENARIOS {
            assert!(scenario.burst * scenario.size <= 65_487, "{}", scenario.name);
            assert!(scenario.size + 48 <= scenario.mtu, "{}", scenario.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        names.extend(Kind::ALL.map(Kind::name));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SCENARIOS.len() + Kind::ALL.len());
    }
}

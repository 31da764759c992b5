//! Where this peer may be made to send: what an address means, and who may name which.
//!
//! Three kinds of people name addresses. The operator may write any address of a host ([`written`]). A
//! neighbour, an invitation, a file of learned addresses may name what [`Reach::check`] lets pass: the
//! public Internet, and private or loopback addresses only where the operator's own configuration has
//! such. A link that is up may follow its neighbour to another address ([`Reach::follow`]).
//!
//! An IPv6 address may have an IPv4 one inside (mapped, compatible, translated, 6to4, NAT64, Teredo); it
//! is judged as the worse of both, so no clothes make `127.0.0.1` a public address.
//!
//! Pure. Names are not resolved anywhere.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// What an address is good for, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Any host of the Internet may have it.
    Public,
    /// Of a site, a provider's customers or a test bench: RFC 1918, 6598, 2544, 4193.
    Private,
    /// This host.
    Loopback,
    /// This wire: 169.254/16 (where clouds answer with their secrets), fe80::/10.
    LinkLocal,
    /// No host's: 0/8, `::`.
    Unspecified,
    Multicast,
    Broadcast,
    /// Protocols' own, discarded, or not given to anybody.
    Reserved,
}

/// Why a peer does not send to an address that somebody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is not used: {why}")]
pub struct Refusal {
    pub address: SocketAddr,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Never, or not where this peer is.
    Kind(Kind),
    NoPort,
    /// It would talk to itself.
    Own,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPort => "port 0 is no port",
            Self::Own => "it is this peer's own",
            Self::Kind(Kind::Public) => "it is not expected here",
            Self::Kind(Kind::Private) => {
                "it is private and nothing in this peer's configuration is; write it in a [[link]]"
            }
            Self::Kind(Kind::Loopback) => "it is loopback and this peer does not listen there",
            Self::Kind(Kind::LinkLocal) => "it is link-local",
            Self::Kind(Kind::Unspecified) => "it is no host's address",
            Self::Kind(Kind::Multicast) => "it is a multicast group's",
            Self::Kind(Kind::Broadcast) => "it is the broadcast address",
            Self::Kind(Kind::Reserved) => "it is reserved",
        })
    }
}

/// One form for one address: IPv4 in IPv6 clothes becomes IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        // As it is: a link-local address keeps its scope.
        IpAddr::V6(_) => address,
    }
}

/// An address that the operator wrote, if any host may have it: loopback and private ones are his
/// to choose.
pub fn written(address: SocketAddr) -> Result<SocketAddr, Refusal> {
    let address = canonical(address);
    match Kind::of(address.ip()) {
        _ if address.port() == 0 => Err(Refusal { address, why: Why::NoPort }),
        kind @ (Kind::Unspecified | Kind::Multicast | Kind::Broadcast) => {
            Err(Refusal { address, why: Why::Kind(kind) })
        }
        Kind::Public | Kind::Private | Kind::Loopback | Kind::LinkLocal | Kind::Reserved => {
            Ok(address)
        }
    }
}

impl Kind {
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6).max(inside(v6).map_or(Self::Public, Self::of_v4)),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            [0, ..] => Self::Unspecified,
            [127, ..] => Self::Loopback,
            [169, 254, ..] => Self::LinkLocal,
            [255, 255, 255, 255] => Self::Broadcast,
            [224..=239, ..] => Self::Multicast,
            // Later use, and 192.0.0.0/24: protocols, and one more place of clouds' secrets.
            [240..=255, ..] | [192, 0, 0, _] => Self::Reserved,
            [10, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            | [100, 64..=127, ..]
            | [198, 18..=19, ..] => Self::Private,
            _ => Self::Public,
        }
    }

    /// Of the address itself, whatever is inside.
    fn of_v6(ip: Ipv6Addr) -> Self {
        match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] => Self::Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            // IPv4-compatible, out of use; and 100::/64, which throws away.
            [0, 0, 0, 0, 0, 0, ..] | [0x100, 0, 0, 0, ..] => Self::Reserved,
            [0xff00..=0xffff, ..] => Self::Multicast,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            // Unique local, site-local, and a network's own NAT64.
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => Self::Private,
            _ => Self::Public,
        }
    }
}

/// The IPv4 address that is reached through an IPv6 one.
fn inside(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        // `::` and `::1` have none; the rest of ::/96 is IPv4-compatible.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Compatible, and mapped and translated, as ::ffff:0:a.b.c.d.
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        // NAT64, the well-known prefix and a network's own, of which only /96 is read.
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        // 6to4.
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        // Teredo has the client's, inverted.
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        _ => None,
    }
}

/// What others may make this peer send to, by what its operator wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    listen: IpAddr,
    own_ports: RangeInclusive<u16>,
    loopback: bool,
    private: bool,
}

impl Reach {
    /// `listen` with the ports from its own upwards, and the addresses of the operator's links.
    pub fn new(
        listen: SocketAddr,
        own_ports: RangeInclusive<u16>,
        links: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let is = |kind| move |address: &SocketAddr| Kind::of(address.ip()) == kind;
        let loopback = is(Kind::Loopback)(&listen);
        let private =
            is(Kind::Private)(&listen) || links.into_iter().any(|l| is(Kind::Private)(&l));
        Self { listen: listen.ip().to_canonical(), own_ports, loopback, private }
    }

    /// An address that somebody else named, in its one form, if this peer may send there.
    pub fn check(&self, address: SocketAddr) -> Result<SocketAddr, Refusal> {
        self.judge(address, self.loopback, self.private)
    }

    /// A link whose frames go to `from` may have them sent to `to`: where it was private or loopback
    /// before, it may stay so.
    pub fn follow(&self, from: SocketAddr, to: SocketAddr) -> Result<SocketAddr, Refusal> {
        let before = Kind::of(from.ip());
        let loopback = self.loopback || before == Kind::Loopback;
        let private = self.private || matches!(before, Kind::Private | Kind::Loopback);
        self.judge(to, loopback, private)
    }

    fn judge(
        &self,
        address: SocketAddr,
        loopback: bool,
        private: bool,
    ) -> Result<SocketAddr, Refusal> {
        let address = canonical(address);
        let kind = Kind::of(address.ip());
        let why = match kind {
            _ if address.port() == 0 => Why::NoPort,
            _ if self.is_own(address, kind) => Why::Own,
            Kind::Public => return Ok(address),
            Kind::Private if private => return Ok(address),
            Kind::Loopback if loopback => return Ok(address),
            Kind::Private
            | Kind::Loopback
            | Kind::LinkLocal
            | Kind::Unspecified
            | Kind::Multicast
            | Kind::Broadcast
            | Kind::Reserved => Why::Kind(kind),
        };
        Err(Refusal { address, why })
    }

    /// One of this peer's own sockets. Listening on all addresses, they are on loopback for certain; any
    /// other address may be another host's.
    fn is_own(&self, address: SocketAddr, kind: Kind) -> bool {
        let here =
            address.ip() == self.listen || (self.listen.is_unspecified() && kind == Kind::Loopback);
        here && self.own_ports.contains(&address.port())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    fn public() -> Reach {
        Reach::new(at("[::]:7000"), 7_000..=7_003, [at("203.0.113.9:7000")])
    }

    #[test]
    fn no_clothes_make_this_host_a_public_one() {
        for clothes in [
            "127.0.0.1",
            "127.255.0.3",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "2002:7f00:1::",
            "2002:7f00:1:1234::9",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1:7::127.0.0.1",
            "2001:0:203:405::80ff:fffe",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::ffff:0.0.0.0",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "fe80::1",
            "224.0.0.1",
            "239.255.255.250",
            "ff02::1",
            "255.255.255.255",
            "::ffff:255.255.255.255",
            "240.0.0.1",
            "192.0.0.192",
            "::2",
            "100::1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "fd00:ec2::254",
            "fec0::1",
            "64:ff9b::10.0.0.1",
            "2002:c0a8:101::1",
        ] {
            let refused = public().check(SocketAddr::new(ip(clothes), 9_000));
            let refusal = refused.expect_err(clothes);
            assert!(refusal.to_string().contains("is not used: it is"), "{refusal}");
        }
    }

    #[test]
    fn public_addresses_pass_in_their_one_form() {
        for (named, used) in [
            ("203.0.113.7:7000", "203.0.113.7:7000"),
            ("[::ffff:203.0.113.7]:7000", "203.0.113.7:7000"),
            ("[2001:db8::7]:7000", "[2001:db8::7]:7000"),
            ("[64:ff9b::203.0.113.7]:7000", "[64:ff9b::203.0.113.7]:7000"),
            ("172.32.0.1:1", "172.32.0.1:1"),
            ("100.128.0.1:65535", "100.128.0.1:65535"),
        ] {
            assert_eq!(public().check(at(named)), Ok(at(used)), "{named}");
        }
        let refusal = public().check(at("203.0.113.7:0")).expect_err("port 0");
        assert_eq!(refusal.to_string(), "203.0.113.7:0 is not used: port 0 is no port");
    }

    #[test]
    fn what_the_operator_uses_others_may_name() {
        let private = Reach::new(at("0.0.0.0:7000"), 7_000..=7_000, [at("10.1.0.1:7000")]);
        assert!(private.check(at("192.168.0.9:7000")).is_ok());
        assert!(private.check(at("127.0.0.1:9000")).is_err(), "0.0.0.0 is no loopback address");
        let listens = Reach::new(at("198.18.0.1:7000"), 7_000..=7_000, []);
        assert!(listens.check(at("198.18.3.1:7000")).is_ok());
        let loopback = Reach::new(at("127.0.0.1:7000"), 7_000..=7_003, []);
        assert!(loopback.check(at("127.0.0.1:7016")).is_ok());
        assert!(loopback.check(at("127.0.0.2:7000")).is_ok(), "another one's");
        assert!(loopback.check(at("10.0.0.1:7016")).is_err());
        for reach in [private, listens, loopback] {
            for never in ["169.254.169.254:80", "224.0.0.1:7", "0.0.0.0:7", "[fe80::1]:7"] {
                assert!(reach.check(at(never)).is_err(), "{never}");
            }
        }
    }

    #[test]
    fn nobody_is_sent_to_his_own_ports() {
        let own = |listen: &str, address: &str| {
            let reach = Reach::new(at(listen), 7_000..=7_003, [at("10.0.0.1:1")]);
            matches!(reach.check(at(address)), Err(Refusal { why: Why::Own, .. }))
        };
        assert!(own("127.0.0.1:7000", "127.0.0.1:7003"));
        assert!(own("127.0.0.1:7000", "[::ffff:127.0.0.1]:7000"));
        assert!(!own("127.0.0.1:7000", "127.0.0.1:7004"));
        assert!(own("[::]:7000", "127.0.0.9:7001"));
        assert!(own("10.0.0.5:7000", "10.0.0.5:7000"));
        assert!(!own("0.0.0.0:7000", "10.0.0.5:7000"), "it may be another host's");
    }

    #[test]
    fn a_link_may_stay_where_it_was_but_not_move_in() {
        let (lan, home) = (at("192.168.1.5:7000"), at("127.0.0.1:7016"));
        let (outside, metadata) = (at("203.0.113.7:7000"), at("169.254.169.254:80"));
        let reach = public();
        assert!(reach.follow(lan, at("192.168.1.6:7000")).is_ok());
        assert!(reach.follow(outside, at("192.168.1.6:7000")).is_err());
        assert!(reach.follow(home, at("127.0.0.1:7032")).is_ok());
        assert!(reach.follow(lan, at("127.0.0.1:7032")).is_err());
        assert!(reach.follow(lan, outside).is_ok());
        for from in [lan, home, outside] {
            assert!(reach.follow(from, metadata).is_err(), "{from}");
            assert!(reach.follow(from, at("127.0.0.1:7000")).is_err(), "{from}");
        }
    }

    #[test]
    fn the_operator_may_write_any_host() {
        for host in ["127.0.0.1:7", "10.0.0.1:7", "[::1]:7", "[fe80::1]:7", "169.254.1.1:7"] {
            assert_eq!(written(at(host)), Ok(at(host)));
        }
        for nobody in ["0.0.0.0:7", "[::]:7", "224.0.0.9:7", "[ff02::1]:7", "255.255.255.255:7"] {
            assert!(written(at(nobody)).is_err(), "{nobody}");
        }
        assert!(written(at("[::ffff:224.0.0.9]:7")).is_err());
        assert!(written(at("10.0.0.1:0")).is_err());
    }

    /// The same once more, as a list of prefixes compared bit by bit; the first that fits counts.
    const OBVIOUS: &[(&str, usize, Kind)] = &[
        ("::", 128, Kind::Unspecified),
        ("::1", 128, Kind::Loopback),
        ("ff00::", 8, Kind::Multicast),
        ("fe80::", 10, Kind::LinkLocal),
        ("fec0::", 10, Kind::Private),
        ("fc00::", 7, Kind::Private),
        ("64:ff9b:1::", 48, Kind::Private),
        ("100::", 64, Kind::Reserved),
        ("::", 96, Kind::Reserved),
    ];
    const OBVIOUS_V4: &[(&str, usize, Kind)] = &[
        ("0.0.0.0", 8, Kind::Unspecified),
        ("127.0.0.0", 8, Kind::Loopback),
        ("169.254.0.0", 16, Kind::LinkLocal),
        ("255.255.255.255", 32, Kind::Broadcast),
        ("224.0.0.0", 4, Kind::Multicast),
        ("240.0.0.0", 4, Kind::Reserved),
        ("192.0.0.0", 24, Kind::Reserved),
        ("10.0.0.0", 8, Kind::Private),
        ("172.16.0.0", 12, Kind::Private),
        ("192.168.0.0", 16, Kind::Private),
        ("100.64.0.0", 10, Kind::Private),
        ("198.18.0.0", 15, Kind::Private),
    ];
    /// Prefix, where the IPv4 address begins behind it, whether it is inverted.
    const CLOTHES: &[(&str, usize, usize, bool)] = &[
        ("::ffff:0:0", 96, 96, false),
        ("::ffff:0:0:0", 96, 96, false),
        ("::", 96, 96, false),
        ("64:ff9b::", 96, 96, false),
        ("64:ff9b:1::", 48, 96, false),
        ("2002::", 16, 16, false),
        ("2001::", 32, 96, true),
    ];

    fn bits(ip: IpAddr) -> Vec<bool> {
        let octets = match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
    }

    fn obvious(ip_bits: &[bool]) -> Kind {
        let table = if ip_bits.len() == 32 { OBVIOUS_V4 } else { OBVIOUS };
        let fits = |(prefix, length, kind): &(&str, usize, Kind)| {
            (bits(ip(prefix))[..*length] == ip_bits[..*length]).then_some(*kind)
        };
        let own = table.iter().find_map(fits).unwrap_or(Kind::Public);
        if ip_bits.len() == 32 || matches!(own, Kind::Unspecified | Kind::Loopback) {
            return own;
        }
        let dressed =
            CLOTHES.iter().find(|(p, length, ..)| bits(ip(p))[..*length] == ip_bits[..*length]);
        let Some(&(prefix, _, from, inverted)) = dressed else { return own };
        let v4: Vec<bool> = ip_bits[from..from + 32].iter().map(|bit| bit ^ inverted).collect();
        // Mapped addresses are nothing but the IPv4 one.
        let own = if prefix == "::ffff:0:0" { Kind::Public } else { own };
        own.max(obvious(&v4))
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        let mut known: Vec<u32> =
            OBVIOUS_V4.iter().filter_map(|(p, ..)| p.parse().ok()).map(Ipv4Addr::to_bits).collect();
        known.push(0x0808_0808);
        let v4 = (proptest::sample::select(known), any::<u32>(), 0..=32_u32)
            .prop_map(|(base, noise, keep)| base ^ noise.checked_shr(keep).unwrap_or(0));
        let mut known: Vec<u128> = OBVIOUS
            .iter()
            .map(|(p, ..)| *p)
            .chain(CLOTHES.iter().map(|(p, ..)| *p))
            .map(|p| p.parse::<Ipv6Addr>().expect(p).to_bits())
            .collect();
        known.push(0x2001_0db8 << 96);
        let v6 = (proptest::sample::select(known), any::<u128>(), 0..=128_u32)
            .prop_map(|(base, noise, keep)| base ^ noise.checked_shr(keep).unwrap_or(0));
        let dressed = (proptest::sample::select(CLOTHES.to_vec()), v4.clone(), any::<u128>())
            .prop_map(|((prefix, length, from, inverted), v4, noise)| {
                let base = prefix.parse::<Ipv6Addr>().expect(prefix).to_bits();
                let room = 128 - from - 32;
                let v4 = u128::from(if inverted { !v4 } else { v4 }) << room;
                // Noise only where neither the prefix nor the IPv4 address is.
                let taken = (u128::MAX << (128 - length)) | (u128::from(u32::MAX) << room);
                base | v4 | (noise & !taken)
            });
        prop_oneof![
            v4.prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            v6.prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
            dressed.prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn f14_the_table_is_the_slow_obvious_one(ip in any_ip()) {
            prop_assert_eq!(Kind::of(ip), obvious(&bits(ip)), "{}", ip);
        }

        #[test]
        fn f14_what_passes_is_public_or_the_operators(ip in any_ip(), port in any::<u16>()) {
            let address = SocketAddr::new(ip, port);
            let passed = public().check(address);
            prop_assert_eq!(passed.is_ok(), port != 0 && obvious(&bits(ip)) == Kind::Public);
            if let Ok(passed) = passed {
                prop_assert_eq!(canonical(passed), passed);
                prop_assert_eq!(public().check(passed), Ok(passed));
            }
        }
    }
}
